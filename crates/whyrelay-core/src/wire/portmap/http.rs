//! As much of HTTP/1.1 (RFC 9112) as a router's UPnP needs, of messages that have arrived whole or in part.

/// Most bytes that are read of one message; a description has some ten thousand.
pub const MAX_BYTES: usize = 128 * 1024;

/// How far a message has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// All of it is here.
    Complete(T),
    /// More bytes are needed.
    More,
    /// More bytes would not help.
    Bad(&'static str),
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// GET or POST.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// SOAPACTION, without its quotes.
    pub action: Option<String>,
    /// Its body.
    pub body: Vec<u8>,
}

/// A request without a body.
pub fn get(host: std::net::SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: whyrelay UPnP/1.1\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

/// A call of an action (UPnP Device Architecture 1.1 §3.2.1).
pub fn post(host: std::net::SocketAddr, path: &str, action: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: whyrelay UPnP/1.1\r\nConnection: close\r\n\
         Content-Type: text/xml; charset=\"utf-8\"\r\nSOAPAction: \"{action}\"\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Reads a response; `ended`: the other end has closed.
pub fn response(bytes: &[u8], ended: bool) -> Progress<Response> {
    let (text, rest) = match split(bytes, ended) {
        Progress::Complete(parts) => parts,
        Progress::More => return Progress::More,
        Progress::Bad(why) => return Progress::Bad(why),
    };
    let mut words = text.lines().next().unwrap_or_default().split_whitespace();
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    let Some(status) = words.next().filter(|_| is_http).and_then(|status| status.parse().ok()) else {
        return Progress::Bad("it is no HTTP response");
    };
    let chunked = header(&text, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let body = match (chunked, length(&text)) {
        (true, _) => match unchunked(rest) {
            Some(body) => body,
            None if ended => return Progress::Bad("it ends in the middle"),
            None => return Progress::More,
        },
        (false, Some(length)) if rest.len() >= length => rest[..length].to_vec(),
        // Some routers announce more than they send: what is there may do.
        (false, _) if ended => rest.to_vec(),
        (false, _) => return Progress::More,
    };
    Progress::Complete(Response { status, body })
}

/// Reads a request.
pub fn request(bytes: &[u8]) -> Progress<Request> {
    let (text, rest) = match split(bytes, false) {
        Progress::Complete(parts) => parts,
        Progress::More => return Progress::More,
        Progress::Bad(why) => return Progress::Bad(why),
    };
    let mut words = text.lines().next().unwrap_or_default().split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Progress::Bad("it is no request") };
    let length = length(&text).unwrap_or(0);
    if rest.len() < length {
        return Progress::More;
    }
    let action = header(&text, "soapaction").map(|action| action.trim_matches('"').to_owned());
    Progress::Complete(Request { method: method.into(), path: path.into(), action, body: rest[..length].to_vec() })
}

/// The head of a message as text, if it begins with one. A datagram may lack the empty line.
pub(super) fn head(bytes: &[u8]) -> Option<String> {
    let end = end_of_head(bytes).map_or(bytes.len(), |(end, _)| end);
    std::str::from_utf8(&bytes[..end]).ok().map(str::to_owned)
}

/// The value of a header line.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn split(bytes: &[u8], ended: bool) -> Progress<(String, &[u8])> {
    if bytes.len() > MAX_BYTES {
        return Progress::Bad("it is too long");
    }
    let Some((end, body)) = end_of_head(bytes) else {
        return if ended { Progress::Bad("it ends in the middle") } else { Progress::More };
    };
    Progress::Complete((String::from_utf8_lossy(&bytes[..end]).into_owned(), &bytes[body..]))
}

/// Where the head ends and the body begins; lone line feeds are taken, too (RFC 9112 §2.2).
fn end_of_head(bytes: &[u8]) -> Option<(usize, usize)> {
    let strict = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| (at, at + 4));
    let lone = bytes.windows(2).position(|window| window == b"\n\n").map(|at| (at, at + 2));
    [strict, lone].into_iter().flatten().min()
}

/// Content-Length; what no message of ours may have is cut to what is too much.
fn length(head: &str) -> Option<usize> {
    header(head, "content-length")?.parse().ok().map(|length: usize| length.min(MAX_BYTES))
}

/// The body of chunks (RFC 9112 §7.1), once the last one is here.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let line = std::str::from_utf8(&rest[..end]).ok()?;
        let length = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..length)?);
        rest = rest.get(length.checked_add(2)?..)?;
    }
}
