//! As much of HTTP/1.1 (RFC 9112) as three routes need, without I/O.
//!
//! The waiting receivers are why this is here: a general server keeps at least 8 KB of buffers for each connection,
//! this one keeps none while a connection waits.

use whyrelay_core::signal::MAX_MESSAGE;

/// Bytes of a request's head, at most: a browser's with cookies is below 4 KB.
const MAX_HEAD: usize = 8 * 1024;
/// Header fields of a request, at most.
const MAX_HEADERS: usize = 64;
/// Bytes of chunk framing around one body, at most: a sender of one-byte chunks is a fault or an attack.
const MAX_CHUNK_FRAMING: usize = MAX_MESSAGE;

/// The routes that are served here; every other request is somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Send,
    Receive,
    WebSocket,
    Health,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Other,
}

/// How the body's end is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    Known(u64),
    Chunked,
}

/// The head of a request, as far as the routes need it.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) route: Route,
    pub(super) method: Method,
    pub(super) query: String,
    pub(super) body: BodyLength,
    /// HTTP/1.1: then a response without known length may be chunked.
    pub(super) is_http11: bool,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) host: Option<String>,
    pub(super) origin: Option<String>,
    /// The token of `Authorization: Bearer`.
    pub(super) bearer: Option<String>,
    /// The key of a WebSocket handshake (RFC 6455 §4.2.1) that is complete.
    pub(super) websocket_key: Option<String>,
    /// `Whyrelay-Join`: the join in the handshake itself, which saves a round trip.
    pub(super) join: Option<String>,
}

/// A request that cannot be answered with anything but this, after which the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadRequest {
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
}

const fn bad(reason: &'static str) -> BadRequest {
    BadRequest { status: "400 Bad Request", reason }
}

/// The body is beyond what one message may have.
pub(super) const TOO_LARGE: BadRequest =
    BadRequest { status: "413 Content Too Large", reason: "message larger than 64 KB" };
const HEAD_TOO_LARGE: BadRequest =
    BadRequest { status: "431 Request Header Fields Too Large", reason: "request head larger than 8 KB" };

/// Reads a request's head from the beginning of `input`: the head and its length, or `None` when it is not whole.
pub(super) fn parse_head(input: &[u8]) -> Result<Option<(Head, usize)>, BadRequest> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let len = match request.parse(&input[..input.len().min(MAX_HEAD)]) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if input.len() >= MAX_HEAD => return Err(HEAD_TOO_LARGE),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HEAD_TOO_LARGE),
        Err(_) => return Err(bad("not an HTTP request")),
    };
    let is_http11 = request.version == Some(1);
    let (path, query) = split_target(request.path.unwrap_or_default());
    let mut head = Head {
        route: match path {
            "/send" => Route::Send,
            "/receive" => Route::Receive,
            "/ws" => Route::WebSocket,
            "/health" => Route::Health,
            _ => Route::Other,
        },
        method: match request.method {
            Some("GET") => Method::Get,
            Some("POST") => Method::Post,
            _ => Method::Other,
        },
        query: query.to_owned(),
        body: BodyLength::Known(0),
        is_http11,
        keep_alive: is_http11,
        expects_continue: false,
        host: None,
        origin: None,
        bearer: None,
        websocket_key: None,
        join: None,
    };
    read_fields(&mut head, request.headers)?;
    Ok(Some((head, len)))
}

fn read_fields(head: &mut Head, fields: &[httparse::Header<'_>]) -> Result<(), BadRequest> {
    let mut length = None;
    let mut chunked = false;
    let (mut upgrade, mut connection_upgrade, mut version, mut key) = (false, false, false, None);
    for field in fields {
        let value = field.value.trim_ascii();
        let text = || std::str::from_utf8(value).map(str::to_owned).map_err(|_| bad("a header field is not UTF-8"));
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            // Two lengths that differ, or a length beside a transfer coding, are how requests are smuggled
            // (RFC 9112 §6.3 and §11.2).
            if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
                return Err(bad("bad Content-Length"));
            }
            let number = value.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
            if length.is_some_and(|known| known != number) {
                return Err(bad("two different Content-Lengths"));
            }
            length = Some(number);
        } else if is("transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(BadRequest { status: "501 Not Implemented", reason: "transfer coding is not chunked" });
            }
            chunked = true;
        } else if is("connection") {
            for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                head.keep_alive = match option {
                    _ if option.eq_ignore_ascii_case(b"close") => false,
                    _ if option.eq_ignore_ascii_case(b"keep-alive") => true,
                    _ => head.keep_alive,
                };
                connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
            }
        } else if is("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(BadRequest { status: "417 Expectation Failed", reason: "unknown expectation" });
            }
            head.expects_continue = head.is_http11;
        } else if is("host") {
            if head.host.is_some() {
                return Err(bad("two Host fields"));
            }
            head.host = Some(text()?);
        } else if is("origin") {
            head.origin = Some(text()?);
        } else if is("authorization") {
            head.bearer = value
                .split_at_checked(7)
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
                .and_then(|(_, token)| std::str::from_utf8(token.trim_ascii()).ok())
                .map(str::to_owned);
        } else if is("upgrade") {
            upgrade = value.eq_ignore_ascii_case(b"websocket");
        } else if is("sec-websocket-version") {
            version = value == b"13";
        } else if is("sec-websocket-key") {
            key = Some(text()?);
        } else if is("whyrelay-join") {
            head.join = Some(text()?);
        }
    }
    if chunked && length.is_some() {
        return Err(bad("both Content-Length and Transfer-Encoding"));
    }
    if head.is_http11 && head.host.is_none() {
        return Err(bad("no Host field"));
    }
    if chunked && !head.is_http11 {
        return Err(bad("a transfer coding in HTTP/1.0"));
    }
    head.body = if chunked { BodyLength::Chunked } else { BodyLength::Known(length.unwrap_or(0)) };
    head.websocket_key = key.filter(|_| upgrade && connection_upgrade && version);
    Ok(())
}

/// Path and query of a request target, which a proxy's client may send in absolute form (RFC 9112 §3.2.2).
fn split_target(target: &str) -> (&str, &str) {
    let origin_form = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |slash| &rest[slash..]),
        _ => target,
    };
    origin_form.split_once('?').unwrap_or((origin_form, ""))
}

/// The value of `name` in a query.
pub(super) fn query_value(query: &str, name: &str) -> Option<String> {
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Decodes a chunked body (RFC 9112 §7.1) as it arrives.
#[derive(Debug, Default)]
pub(super) struct ChunkedBody {
    body: Vec<u8>,
    state: ChunkState,
    framing: usize,
}

/// What is expected next.
#[derive(Clone, Copy, Debug, Default)]
enum ChunkState {
    /// The first digit of a chunk's size.
    #[default]
    SizeStart,
    /// More digits, an extension or the end of the line.
    Size(u64),
    /// The rest of an extension, which is ignored.
    Extension(u64),
    /// The line feed that ends the size.
    SizeEnd(u64),
    /// So many bytes of the chunk.
    Data(u64),
    /// The carriage return after a chunk.
    DataEnd,
    /// The line feed after a chunk.
    DataEndLine,
    /// The beginning of a trailer field, or of the last line.
    Trailer,
    /// The rest of a trailer field, which is ignored.
    TrailerField,
    /// The line feed that ends everything.
    LastLine,
    /// Complete.
    Done,
}

impl ChunkedBody {
    /// Takes bytes and answers how many of them belong to the body; fewer than given only once it is complete.
    pub(super) fn push(&mut self, input: &[u8]) -> Result<usize, BadRequest> {
        let mut at = 0;
        while at < input.len() {
            if let ChunkState::Data(left) = self.state {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                self.body.extend_from_slice(&input[at..at + take]);
                at += take;
                self.state = match left - take as u64 {
                    0 => ChunkState::DataEnd,
                    rest => ChunkState::Data(rest),
                };
                continue;
            }
            let byte = input[at];
            self.state = match (self.state, byte) {
                (ChunkState::Done, _) => return Ok(at),
                (ChunkState::SizeStart, _) if byte.is_ascii_hexdigit() => ChunkState::Size(hex(byte)),
                (ChunkState::Size(size), _) if byte.is_ascii_hexdigit() => {
                    let size = size * 16 + hex(byte);
                    if self.body.len() as u64 + size > MAX_MESSAGE as u64 {
                        return Err(TOO_LARGE);
                    }
                    ChunkState::Size(size)
                }
                (ChunkState::Size(size) | ChunkState::Extension(size), b'\r') => ChunkState::SizeEnd(size),
                (ChunkState::Size(size), b';' | b' ' | b'\t') => ChunkState::Extension(size),
                (ChunkState::Extension(size), _) if byte != b'\n' => ChunkState::Extension(size),
                (ChunkState::SizeEnd(0), b'\n') => ChunkState::Trailer,
                (ChunkState::SizeEnd(size), b'\n') if self.body.len() as u64 + size <= MAX_MESSAGE as u64 => {
                    ChunkState::Data(size)
                }
                (ChunkState::SizeEnd(_), b'\n') => return Err(TOO_LARGE),
                (ChunkState::DataEnd, b'\r') => ChunkState::DataEndLine,
                (ChunkState::DataEndLine, b'\n') => ChunkState::SizeStart,
                (ChunkState::Trailer, b'\r') => ChunkState::LastLine,
                (ChunkState::TrailerField, b'\n') => ChunkState::Trailer,
                (ChunkState::Trailer | ChunkState::TrailerField, _) => ChunkState::TrailerField,
                (ChunkState::LastLine, b'\n') => ChunkState::Done,
                _ => return Err(bad("bad chunked body")),
            };
            at += 1;
            self.framing += 1;
            if self.framing > MAX_CHUNK_FRAMING {
                return Err(TOO_LARGE);
            }
        }
        Ok(at)
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state, ChunkState::Done)
    }

    pub(super) fn into_body(self) -> Vec<u8> {
        self.body
    }
}

fn hex(digit: u8) -> u64 {
    char::from(digit).to_digit(16).map_or(0, u64::from)
}

/// Appends a whole response with a text body.
pub(super) fn write_response(out: &mut Vec<u8>, status: &str, extra_fields: &str, body: &str, keep_alive: bool) {
    let connection = if keep_alive { "" } else { "Connection: close\r\n" };
    let kind = if body.starts_with('{') { "application/json" } else { "text/plain; charset=utf-8" };
    let type_field = if body.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
    out.extend_from_slice(
        format!(
            "HTTP/1.1 {status}\r\n{extra_fields}{type_field}{connection}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Result<Head, BadRequest> {
        Ok(parse_head(text.as_bytes())?.expect("a whole head").0)
    }

    #[test]
    fn a_send_is_read() {
        let read = head("POST /send?room=a HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\nExpect: 100-Continue\r\n\r\n")
            .unwrap();
        assert_eq!((read.route, read.method, read.body), (Route::Send, Method::Post, BodyLength::Known(12)));
        assert!(read.keep_alive && read.expects_continue);
        assert_eq!(query_value(&read.query, "room").as_deref(), Some("a"));
    }

    #[test]
    fn an_id_is_decoded_from_the_query() {
        assert_eq!(query_value("room=&id=a%2Fb+c", "id").as_deref(), Some("a/b c"));
        assert_eq!(query_value("identity=x", "id"), None);
    }

    #[test]
    fn a_head_in_pieces_waits_for_the_rest() {
        let whole = b"GET /receive?id=a HTTP/1.1\r\nHost: x\r\n\r\n";
        for end in 0..whole.len() {
            assert!(parse_head(&whole[..end]).unwrap().is_none(), "{end}");
        }
        assert_eq!(parse_head(whole).unwrap().unwrap().1, whole.len());
    }

    #[test]
    fn what_smuggles_requests_is_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Content-Length: +1",
            "Content-Length: 1, 1",
            "Content-Length: 99999999999999999999",
            "Content-Length : 1",
            "Host: y",
            "X: a\r\n folded",
        ] {
            let text = format!("POST /send HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
            assert!(parse_head(text.as_bytes()).is_err(), "{fields}");
        }
        assert!(head("POST /send HTTP/1.1\r\n\r\n").is_err());
        assert!(head("POST /send HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn an_endless_head_is_refused() {
        let endless = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}", "b".repeat(MAX_HEAD));
        assert_eq!(parse_head(endless.as_bytes()).unwrap_err().status, "431 Request Header Fields Too Large");
    }

    #[test]
    fn a_websocket_handshake_needs_all_its_fields() {
        let whole = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: k\r\n\r\n";
        assert_eq!(head(whole).unwrap().websocket_key.as_deref(), Some("k"));
        for missing in
            ["Upgrade: websocket\r\n", ", Upgrade", "Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Key: k\r\n"]
        {
            assert_eq!(head(&whole.replace(missing, "")).unwrap().websocket_key, None, "{missing}");
        }
    }

    #[test]
    fn a_chunked_body_that_lies_is_refused() {
        for lie in ["zz\r\n", "5\nabc", "1\r\nab", "10001\r\n", "ffffffffffffffff\r\n", "\r\n", "-1\r\n", "1 \n"] {
            assert!(ChunkedBody::default().push(lie.as_bytes()).is_err(), "{lie}");
        }
        let tiny = "1;extension=long\r\na\r\n".repeat(5000);
        assert_eq!(ChunkedBody::default().push(tiny.as_bytes()), Err(TOO_LARGE));
    }

    proptest! {
        #[test]
        fn a_chunked_body_is_put_together_however_it_is_split(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..10), step in 1usize..40) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:X};x=y\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\nTrailer: t\r\n\r\n");
            let end = wire.len();
            wire.extend_from_slice(b"GET /");
            let mut body = ChunkedBody::default();
            let mut used = 0;
            for piece in wire.chunks(step) {
                used += body.push(piece).unwrap();
                if body.is_complete() { break; }
            }
            prop_assert!(body.is_complete());
            prop_assert_eq!(used, end);
            prop_assert_eq!(body.into_body(), chunks.concat());
        }

        #[test]
        fn any_bytes_are_a_head_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_head(&bytes);
            let _ = ChunkedBody::default().push(&bytes);
        }
    }
}
