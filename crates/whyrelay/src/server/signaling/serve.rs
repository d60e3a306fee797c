//! Serves one connection: requests one after the other, until it becomes a receiver, somebody else's, or ends.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use url::Url;
use whyrelay_core::signal::{Join, MAX_MESSAGE, Message, MessageError, Refusal, RefusalCode};

use super::connection::{Connection, Phase, Reader};
use super::http::{self, BadRequest, BodyLength, ChunkedBody, Head, Method, Route};
use super::hub::{Hub, Sender};
use super::receive;
use super::receiver::Framing;
use super::routes::Routes;

/// Bytes read at once: a request with the largest message in one go.
const READ_SIZE: usize = MAX_MESSAGE + 8 * 1024;
/// Bytes of a refused request that are read and thrown away, so that the client can read the refusal before a reset
/// destroys it.
const MAX_LINGER: usize = 1024 * 1024;
/// How long they are read.
const LINGER: Duration = Duration::from_secs(2);

thread_local! {
    /// One buffer for all connections of the thread: none has its own while it waits.
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// Reads once and hands the bytes to `take`; `Ok(None)` at the end.
pub(super) async fn read_with<T>(reader: &mut Reader, mut take: impl FnMut(&[u8]) -> T) -> io::Result<Option<T>> {
    poll_fn(|cx| {
        READ_BUFFER.with_borrow_mut(|buffer| {
            reader.poll_read(cx, buffer).map_ok(|len| (len > 0).then(|| take(&buffer[..len])))
        })
    })
    .await
}

/// What comes after the bytes that have been read.
enum Next {
    /// More bytes.
    Read,
    /// The end, once the responses are written; the client may still be sending.
    Close { lingering: bool },
    /// Messages for the peer that joins, framed like this.
    Receive { framing: Framing, join: Join, wants_welcome: bool },
    /// A WebSocket whose first message is the join.
    WebSocket,
    /// A route that is not ours.
    HandOver,
}

/// A body that is not whole yet.
enum Body {
    Known { head: Head, left: usize },
    Chunked { head: Head, body: ChunkedBody },
}

/// The requests of one connection.
struct Requests<'a> {
    hub: &'a Hub,
    /// Bytes of a head, or of a body of known length, that is not whole yet.
    carry: Vec<u8>,
    body: Option<Body>,
    responses: Vec<u8>,
}

/// Serves `connection` to its end.
pub(super) async fn serve(hub: Rc<Hub>, connection: Rc<Connection>, mut reader: Reader, routes: Rc<Routes>) {
    let mut requests = Requests { hub: &hub, carry: Vec::new(), body: None, responses: Vec::new() };
    // A new connection has as long for its first request as a request has.
    connection.set_deadline(Phase::Idle, Some(hub.now() + hub.config.request_timeout));
    let next = loop {
        let next = match read_with(&mut reader, |bytes| requests.take(bytes)).await {
            Ok(Some(next)) => next,
            Ok(None) | Err(_) => return,
        };
        if !requests.responses.is_empty() {
            connection.set_deadline(Phase::Other, Some(hub.now() + hub.config.write_timeout));
            if connection.write_all(&requests.responses).await.is_err() {
                return;
            }
            requests.responses.clear();
            requests.responses.shrink_to(256);
        }
        match next {
            Next::Read if requests.is_between() && hub.is_shutting_down.get() => return,
            Next::Read if requests.is_between() => {
                connection.set_deadline(Phase::Idle, Some(hub.now() + hub.config.idle_timeout));
            }
            // The time for a request runs from its first byte, however slowly the others come.
            Next::Read if connection.phase() == Phase::Request => {}
            Next::Read => connection.set_deadline(Phase::Request, Some(hub.now() + hub.config.request_timeout)),
            last => break last,
        }
    };
    let carry = std::mem::take(&mut requests.carry);
    drop(requests);
    match next {
        Next::Read | Next::Close { lingering: false } => {}
        Next::Close { lingering: true } => linger(&hub, &connection, &mut reader).await,
        Next::Receive { framing, join, wants_welcome } => {
            receive::receive(&hub, connection, reader, framing, join, wants_welcome, carry).await;
        }
        Next::WebSocket => receive::websocket(&hub, connection, reader, carry).await,
        Next::HandOver => {
            connection.set_deadline(Phase::Other, None);
            if let Ok(connection) = Rc::try_unwrap(connection) {
                routes.hand_over(connection, reader, carry);
            }
        }
    }
}

async fn linger(hub: &Hub, connection: &Connection, reader: &mut Reader) {
    connection.set_deadline(Phase::Other, Some(hub.now() + LINGER));
    connection.end_writing();
    let mut left = MAX_LINGER;
    while let Ok(Some(len)) = read_with(reader, <[u8]>::len).await {
        match left.checked_sub(len) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

impl Requests<'_> {
    /// Whether the next byte begins a request.
    fn is_between(&self) -> bool {
        self.carry.is_empty() && self.body.is_none()
    }

    /// Takes what was read, appends the responses, and says what comes next.
    fn take(&mut self, bytes: &[u8]) -> Next {
        let mut carry = std::mem::take(&mut self.carry);
        let is_carried = !carry.is_empty();
        if is_carried {
            carry.extend_from_slice(bytes);
        }
        let input = if is_carried { &carry } else { bytes };
        let mut at = 0;
        let next = loop {
            match self.step(&input[at..]) {
                Ok((used, next)) => {
                    at += used;
                    match next {
                        Some(Next::Read) => {}
                        Some(next) => break next,
                        None => break Next::Read,
                    }
                }
                Err(BadRequest { status, reason }) => {
                    http::write_response(&mut self.responses, status, "", &format!("{reason}\n"), false);
                    break Next::Close { lingering: true };
                }
            }
        };
        if at == input.len() {
            return next;
        }
        if is_carried {
            carry.drain(..at);
        } else {
            carry = bytes[at..].to_vec();
        }
        self.carry = carry;
        next
    }

    /// Takes one request, or one step of it: bytes used, and what comes next, or `None` when more bytes are needed.
    fn step(&mut self, input: &[u8]) -> Result<(usize, Option<Next>), BadRequest> {
        match self.body.take() {
            Some(Body::Known { head, left }) => {
                if input.len() < left {
                    self.body = Some(Body::Known { head, left });
                    return Ok((0, None));
                }
                return Ok((left, Some(self.answer(&head, &input[..left]))));
            }
            Some(Body::Chunked { head, mut body }) => {
                let used = body.push(input)?;
                if !body.is_complete() {
                    self.body = Some(Body::Chunked { head, body });
                    return Ok((used, None));
                }
                return Ok((used, Some(self.answer(&head, &body.into_body()))));
            }
            None if input.is_empty() => return Ok((0, None)),
            None => {}
        }
        let Some((head, head_len)) = http::parse_head(input)? else { return Ok((0, None)) };
        if head.route == Route::Other {
            return Ok((0, Some(Next::HandOver)));
        }
        match head.body {
            BodyLength::Known(len) if len > MAX_MESSAGE as u64 => return Err(http::TOO_LARGE),
            BodyLength::Known(len) => {
                let len = len as usize;
                if let Some(body) = input.get(head_len..head_len + len) {
                    return Ok((head_len + len, Some(self.answer(&head, body))));
                }
                self.encourage(&head, &input[head_len..]);
                self.body = Some(Body::Known { head, left: len });
            }
            BodyLength::Chunked => {
                self.encourage(&head, &input[head_len..]);
                self.body = Some(Body::Chunked { head, body: ChunkedBody::default() });
            }
        }
        Ok((head_len, Some(Next::Read)))
    }

    /// Tells a client that asks first that its body is welcome (RFC 9110 §10.1.1).
    fn encourage(&mut self, head: &Head, rest: &[u8]) {
        if head.expects_continue && rest.is_empty() {
            self.responses.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    fn answer(&mut self, head: &Head, body: &[u8]) -> Next {
        let answered = if head.route != Route::Health && !self.is_allowed_origin(head) {
            Err(("403 Forbidden", Refusal::new(RefusalCode::Forbidden, "this origin may not use this server")))
        } else {
            match (head.route, head.method) {
                (Route::Send, Method::Post) => self.send(head, body).map(|()| Next::Read),
                (Route::Receive, Method::Get) => self.receive(head),
                (Route::WebSocket, Method::Get) => self.websocket(head),
                (Route::Health, Method::Get) => {
                    self.health(head);
                    Ok(Next::Read)
                }
                _ => {
                    let allow = if head.route == Route::Send { "Allow: POST\r\n" } else { "Allow: GET\r\n" };
                    http::write_response(
                        &mut self.responses,
                        "405 Method Not Allowed",
                        allow,
                        "method not allowed\n",
                        head.keep_alive,
                    );
                    Ok(Next::Read)
                }
            }
        };
        match answered {
            Ok(Next::Read) if head.keep_alive => Next::Read,
            Ok(Next::Read) => Next::Close { lingering: false },
            Ok(next) => next,
            Err((status, refusal)) => {
                let retry = refusal
                    .retry_after_ms
                    .map_or(String::new(), |millis| format!("Retry-After: {}\r\n", millis.div_ceil(1000)));
                let reason = format!("{}\n", refusal.reason);
                http::write_response(&mut self.responses, status, &retry, &reason, head.keep_alive);
                if head.keep_alive { Next::Read } else { Next::Close { lingering: false } }
            }
        }
    }

    fn send(&mut self, head: &Head, body: &[u8]) -> Result<(), Answer> {
        let message = Message::from_json(body).map_err(|error| match &error {
            MessageError::TooLong { .. } => {
                ("413 Content Too Large", Refusal::new(RefusalCode::TooLarge, error.to_string()))
            }
            MessageError::Json(source) => {
                ("400 Bad Request", Refusal::new(RefusalCode::BadMessage, format!("{error}: {source}")))
            }
        })?;
        let room = room_of(head)?;
        if room.is_empty() && !self.hub.config.has_default_room {
            return Err(status_of(Refusal::new(
                RefusalCode::Forbidden,
                "this server has no default room: name one with ?room=",
            )));
        }
        self.hub.post(&room, message, &Sender::Request(head.bearer.as_deref())).map_err(status_of)?;
        if head.keep_alive {
            self.responses.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        } else {
            http::write_response(&mut self.responses, "200 OK", "", "", false);
        }
        Ok(())
    }

    fn receive(&mut self, head: &Head) -> Result<Next, Answer> {
        let id = http::query_value(&head.query, "id").unwrap_or_default();
        let mut join = Join { id, room: room_of(head)?, ..Join::default() };
        let wants_welcome = head.join.is_some();
        if let Some(encoded) = &head.join {
            join = decode_join(encoded)?;
            join.ack = false;
        } else if let Some(token) = &head.bearer {
            join.token.clone_from(token);
        }
        let framing = if head.is_http11 { Framing::Chunked } else { Framing::Lines };
        Ok(Next::Receive { framing, join, wants_welcome })
    }

    fn websocket(&mut self, head: &Head) -> Result<Next, Answer> {
        let Some(key) = &head.websocket_key else {
            return Err((
                "426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
                Refusal::new(RefusalCode::BadMessage, "this is for WebSocket"),
            ));
        };
        let accept = derive_accept_key(key.as_bytes());
        // A client that compares clocks reads it.
        let date = httpdate::fmt_http_date(std::time::SystemTime::now());
        let upgrade = format!(
            "HTTP/1.1 101 Switching Protocols\r\nDate: {date}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        let join = match &head.join {
            Some(encoded) => Some(decode_join(encoded)?),
            None => http::query_value(&head.query, "id").map(|id| Join { id, ..Join::default() }),
        };
        self.responses.extend_from_slice(upgrade.as_bytes());
        let Some(mut join) = join else { return Ok(Next::WebSocket) };
        if join.room.is_empty() {
            join.room = room_of(head)?;
        }
        let framing = Framing::WebSocket { numbered: join.ack };
        Ok(Next::Receive { framing, wants_welcome: true, join })
    }

    fn health(&mut self, head: &Head) {
        let (peers, rooms) = self.hub.counts();
        let (status, word) =
            if self.hub.is_shutting_down.get() { ("503 Service Unavailable", "draining") } else { ("200 OK", "ok") };
        let body = format!("{{\"status\":\"{word}\",\"peers\":{peers},\"rooms\":{rooms}}}\n");
        http::write_response(&mut self.responses, status, "", &body, head.keep_alive);
    }

    /// A browser's page may use this server if it comes from it, or from an origin that the operator allows. What
    /// sends no origin is no browser.
    fn is_allowed_origin(&self, head: &Head) -> bool {
        let Some(origin) = &head.origin else { return true };
        let is_own = head.host.as_ref().is_some_and(|host| {
            Url::parse(origin).is_ok_and(|url| &url[url::Position::BeforeHost..url::Position::AfterPort] == host)
        });
        is_own || self.hub.config.allowed_origins.iter().any(|allowed| allowed == "*" || allowed == origin)
    }
}

/// A status line's end and the reason.
type Answer = (&'static str, Refusal);

fn room_of(head: &Head) -> Result<String, Answer> {
    if head.query.is_empty() {
        return Ok(String::new());
    }
    Ok(http::query_value(&head.query, "room").unwrap_or_default())
}

fn decode_join(encoded: &str) -> Result<Join, Answer> {
    STANDARD
        .decode(encoded)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or(("400 Bad Request", Refusal::new(RefusalCode::BadMessage, "Whyrelay-Join is not understood")))
}

/// The status that says the same as a refusal.
pub(super) fn status_of(refusal: Refusal) -> Answer {
    let status = match refusal.code {
        RefusalCode::RecipientNotFound => "404 Not Found",
        RefusalCode::MailboxFull => "429 Too Many Requests",
        RefusalCode::ServerFull | RefusalCode::ShuttingDown => "503 Service Unavailable",
        RefusalCode::TooLarge => "413 Content Too Large",
        RefusalCode::IdTaken | RefusalCode::Replaced => "409 Conflict",
        RefusalCode::Forbidden => "403 Forbidden",
        _ => "400 Bad Request",
    };
    (status, refusal)
}
