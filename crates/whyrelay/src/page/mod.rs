//! The web page that `whyrelay serve` offers: the browser as a peer.
//!
//! Plain modules, embedded in the binary. The page speaks the signaling of [`crate::server::signaling`], records what
//! its browser tells in the events of [`whyrelay_core::trace`], and has the account made here, from both recordings, by
//! the same code as everywhere else.

mod limit;
mod memory;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use whyrelay_core::report::{Report, render_html, svg};
use whyrelay_core::trace::event::EventKind;
use whyrelay_core::trace::packing::{MAX_PACKED, MAX_UNPACKED, unpack_at_most};
use whyrelay_core::trace::recording::{Recording, encode};
use whyrelay_core::trace::redact::redact;

use limit::Limiter;
use memory::{Memory, Upload};

/// Accounts that are made at a time: each holds a recording in memory and a core.
const AT_ONCE: usize = 2;

/// The same of sessions that go on. They never keep the accounts at the end waiting.
const LIVE_AT_ONCE: usize = 1;

/// Most bytes of such a recording, before compression: what the page sends, with room.
const MAX_LIVE: usize = 5 * 1024 * 1024;

/// A recording must have been sent within this time.
const UPLOAD_WITHIN: Duration = Duration::from_secs(20);

/// Longest text that a QR code is made of: a link to a room has about a hundred bytes.
const MAX_LINK: usize = 1024;

/// Widths of the time line, in units of its picture.
const WIDE: u32 = 960;
const NARROW: u32 = 360;

/// Two ICE passwords of 22 characters (RFC 8839 §5.4), in bytes.
const LEAST_SECRET: usize = 44;

/// The files of the page: name, type, content.
const FILES: &[(&str, &str, &str)] = &[
    ("main.js", "text/javascript", include_str!("assets/main.js")),
    ("session.js", "text/javascript", include_str!("assets/session.js")),
    ("signaling.js", "text/javascript", include_str!("assets/signaling.js")),
    ("trace.js", "text/javascript", include_str!("assets/trace.js")),
    ("exchange.js", "text/javascript", include_str!("assets/exchange.js")),
    ("following.js", "text/javascript", include_str!("assets/following.js")),
    ("pairs.js", "text/javascript", include_str!("assets/pairs.js")),
    ("measure.js", "text/javascript", include_str!("assets/measure.js")),
    ("view.js", "text/javascript", include_str!("assets/view.js")),
    ("style.css", "text/css", include_str!("assets/style.css")),
    // The pictures' style, where they are made.
    ("picture.css", "text/css", whyrelay_core::report::svg::PICTURE_STYLE),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// What the routes share.
#[derive(Clone)]
struct Shared {
    ordinary: Lane,
    /// For accounts of sessions that go on: they come often, and must not use up the one at the end.
    live: Lane,
}

/// How often one address may ask, and how much is done at a time.
#[derive(Clone)]
struct Lane {
    limiter: Arc<Limiter>,
    working: Arc<Semaphore>,
    memory: Arc<Memory>,
}

impl Lane {
    fn new(at_once: usize) -> Self {
        Self { limiter: Arc::default(), working: Arc::new(Semaphore::new(at_once)), memory: Arc::default() }
    }
}

/// The routes of the page. Requests carry the client's address as `ConnectInfo<SocketAddr>`.
pub fn routes() -> Router {
    let shared = Shared { ordinary: Lane::new(AT_ONCE), live: Lane::new(LIVE_AT_ONCE) };
    Router::new()
        .route("/", get(index))
        .route("/page/{file}", get(file))
        .route("/account", post(account))
        .route("/redact", post(redact_own))
        .route("/qr", post(qr))
        .with_state(shared)
}

async fn index(headers: HeaderMap) -> Response {
    let page = include_str!("assets/index.html").replace("@VERSION@", env!("CARGO_PKG_VERSION"));
    with_headers((StatusCode::OK, page).into_response(), "text/html; charset=utf-8", &headers)
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, content)) => with_headers((StatusCode::OK, *content).into_response(), kind, &headers),
        None => refuse(StatusCode::NOT_FOUND, "there is no such file"),
    }
}

/// The account of a recording: for the page, with pictures; with `?format=html`, as a file; with `?live`, of one that
/// goes on and comes compressed.
async fn account(
    State(shared): State<Shared>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request<Body>,
) -> Response {
    let wants_html = query.iter().any(|(name, value)| name == "format" && value == "html");
    let kind = if wants_html { "text/html; charset=utf-8" } else { "application/json" };
    let failed = "the account could not be made of this recording";
    if query.iter().any(|(name, _)| name == "live") {
        let admission = Admission { lane: &shared.live, remote, most: MAX_PACKED };
        return made(admission, request, (kind, failed), render_live).await;
    }
    let admission = Admission { lane: &shared.ordinary, remote, most: MAX_UNPACKED };
    made(admission, request, (kind, failed), move |bytes| render(bytes, wants_html)).await
}

/// Under what conditions a request's body is taken.
struct Admission<'a> {
    lane: &'a Lane,
    remote: SocketAddr,
    /// Bytes of the body, at most.
    most: usize,
}

/// What is made of a body, as `kind`, or what is said when `make` panics. The permit is held until the work is over,
/// also when the client has gone meanwhile.
async fn made(
    admission: Admission<'_>,
    request: Request<Body>,
    (kind, failed): (&str, &str),
    make: impl FnOnce(&[u8]) -> Result<String, String> + Send + 'static,
) -> Response {
    let (head, body) = request.into_parts();
    let (permit, upload) = match admitted(admission, &head.headers, body).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal,
    };
    let work = move || {
        let made = make(upload.bytes());
        drop((permit, upload));
        made
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(text)) => with_headers((StatusCode::OK, text).into_response(), kind, &head.headers),
        Ok(Err(reason)) => refuse(StatusCode::BAD_REQUEST, &reason),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, failed),
    }
}

fn render_live(packed: &[u8]) -> Result<String, String> {
    let recording = unpack_at_most(packed, MAX_LIVE).map_err(|error| error.to_string())?;
    with_pictures(&Report::from_events(&recording.events))
}

fn render(recording: &[u8], wants_html: bool) -> Result<String, String> {
    let recording = Recording::read(recording).map_err(|error| error.to_string())?;
    let report = Report::from_events(&recording.events);
    if wants_html { Ok(render_html(&report)) } else { with_pictures(&report) }
}

/// What the page shows: the account, and the pictures of the report file, each for a wide and for a narrow screen.
#[derive(Serialize)]
struct Shown<'a> {
    account: &'a Report,
    networks: [String; 2],
    timeline: [String; 2],
}

fn with_pictures(report: &Report) -> Result<String, String> {
    let shown = Shown {
        account: report,
        networks: [svg::network_svg(report), svg::network_tall_svg(report)],
        timeline: [svg::timeline_svg(report, WIDE), svg::timeline_svg(report, NARROW)],
    };
    serde_json::to_string(&shown).map_err(|error| error.to_string())
}

/// A recording with pseudonyms instead of addresses and names, where the other side asks for that: the page's own
/// recording, behind a line with the secret that both sides have. That the server could hear it in signaling anyway.
async fn redact_own(
    State(shared): State<Shared>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    request: Request<Body>,
) -> Response {
    let kind = ("application/jsonl", "the recording could not be redacted");
    let admission = Admission { lane: &shared.ordinary, remote, most: MAX_UNPACKED };
    made(admission, request, kind, with_pseudonyms).await
}

fn with_pseudonyms(body: &[u8]) -> Result<String, String> {
    let end = body.iter().position(|byte| *byte == b'\n').ok_or("a line with the secret comes first")?;
    let (secret, recording) = (&body[..end], &body[end + 1..]);
    if secret.len() < LEAST_SECRET {
        return Err("the secret is too short".into());
    }
    let recording = Recording::read(recording).map_err(|error| error.to_string())?;
    let mut events = redact(&recording.events, secret);
    for event in &mut events {
        if let EventKind::RecordingStarted { options, .. } = &mut event.kind {
            options.redacted = true;
        }
    }
    Ok(events.iter().map(encode).collect())
}

/// The QR code of a link, as SVG.
async fn qr(
    State(shared): State<Shared>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    request: Request<Body>,
) -> Response {
    let (head, body) = request.into_parts();
    let admission = Admission { lane: &shared.ordinary, remote, most: MAX_LINK };
    let (_permit, upload) = match admitted(admission, &head.headers, body).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal,
    };
    match qrcode::QrCode::new(upload.bytes()) {
        Ok(code) => {
            let image = code.render::<qrcode::render::svg::Color<'_>>().min_dimensions(256, 256).build();
            with_headers((StatusCode::OK, image).into_response(), "image/svg+xml", &head.headers)
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &format!("this link has no QR code: {error}")),
    }
}

/// Takes a request's body if its sender may send one now.
async fn admitted(
    admission: Admission<'_>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(OwnedSemaphorePermit, Upload), Response> {
    let Admission { lane, remote, most } = admission;
    if !is_own_origin(headers) {
        return Err(refuse(StatusCode::FORBIDDEN, "this is for the pages of this server"));
    }
    if !lane.limiter.admits(remote.ip(), Instant::now()) {
        return Err(refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests from this address; wait a minute"));
    }
    // Whole before its turn: a slow sender holds up nobody.
    let upload = match tokio::time::timeout(UPLOAD_WITHIN, received(&lane.memory, remote.ip(), body, most)).await {
        Ok(received) => received?,
        Err(_) => return Err(refuse(StatusCode::REQUEST_TIMEOUT, "the request took too long")),
    };
    let Ok(permit) = Arc::clone(&lane.working).acquire_owned().await else {
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, "the server shuts down"));
    };
    Ok((permit, upload))
}

/// Receives a body of at most so many bytes. It counts for what has come of it, not for what it says that it will be.
async fn received(memory: &Arc<Memory>, client: IpAddr, body: Body, most: usize) -> Result<Upload, Response> {
    let busy = || refuse(StatusCode::SERVICE_UNAVAILABLE, "too much is being sent here; try again in a minute");
    let mut upload = memory.begin(client).ok_or_else(busy)?;
    let mut stream: BodyDataStream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|_| refuse(StatusCode::BAD_REQUEST, "the request ended too early"))?;
        if upload.bytes().len() + piece.len() > most {
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "this is larger than is accepted"));
        }
        if !upload.push(&piece) {
            return Err(busy());
        }
    }
    Ok(upload)
}

/// Whether a request comes from a page of this server, or from no page at all.
fn is_own_origin(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = text(header::ORIGIN) else { return !headers.contains_key(header::ORIGIN) };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_some() && authority == text(header::HOST)
}

fn refuse(status: StatusCode, reason: &str) -> Response {
    with_headers((status, format!("{reason}\n")).into_response(), "text/plain; charset=utf-8", &HeaderMap::new())
}

/// Nothing of the page comes from elsewhere, nothing in it is inline, nobody frames it.
fn with_headers(mut response: Response, kind: &str, request: &HeaderMap) -> Response {
    let fields = response.headers_mut();
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            fields.insert(name, value);
        }
    };
    // Older browsers do not take 'self' for the WebSocket of the same host.
    let host = request.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    let sockets = if !host.is_empty() && host.chars().all(is_plain) {
        format!(" ws://{host} wss://{host}")
    } else {
        String::new()
    };
    set(header::CONTENT_TYPE, kind);
    set(
        header::CONTENT_SECURITY_POLICY,
        &format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'{sockets}; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    );
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CACHE_CONTROL, "no-cache");
    response
}

#[cfg(test)]
mod tests {
    use whyrelay_core::time::Timestamp;
    use whyrelay_core::trace::event::Vantage;
    use whyrelay_core::trace::recording::Recorder;

    use super::*;

    #[test]
    fn only_pages_of_this_server_may_post() {
        let headers = |origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("example.org:8080"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            headers
        };
        assert!(is_own_origin(&headers(None)));
        assert!(is_own_origin(&headers(Some("http://example.org:8080"))));
        for other in ["http://example.org", "null", "https://evil.example", ""] {
            assert!(!is_own_origin(&headers(Some(other))), "{other}");
        }
    }

    #[test]
    fn a_hostile_host_does_not_enter_the_policy() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("x; script-src *"));
        let response = with_headers(StatusCode::OK.into_response(), "text/html", &headers);
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(!policy.contains('*'), "{policy}");
    }

    #[test]
    fn a_recording_is_redacted_with_the_secret_of_both_sides() {
        let started = r#"{"seq":0,"at":1,"vantage":"a","kind":"recording-started","version":1,"program":"p","id":"alice","options":{}}"#;
        let address = r#"{"seq":2,"at":2,"vantage":"a","kind":"name-resolved","name":"x.local","addresses":["203.0.113.9"],"took_us":1,"error":null}"#;
        let secret = "s".repeat(LEAST_SECRET);
        let text = with_pseudonyms(format!("{secret}\n{started}\n{address}\n").as_bytes()).unwrap();
        assert!(!text.contains("203.0.113.9") && !text.contains("alice") && !text.contains(&secret), "{text}");
        assert!(text.contains(r#""redacted":true"#), "{text}");
        assert!(with_pseudonyms(format!("short\n{started}\n").as_bytes()).is_err());
        assert!(with_pseudonyms(b"no line feed").is_err());
    }

    #[test]
    fn a_recording_that_goes_on_has_an_account() {
        let line = |seq: u64, rest: &str| format!("{{\"seq\":{seq},\"at\":1,\"vantage\":\"a\",{rest}}}\n");
        let started = line(0, r#""kind":"recording-started","version":1,"program":"p","id":"alice","options":{}"#);
        let recording = Recording::read(started.as_bytes()).unwrap();
        let account = render_live(&whyrelay_core::trace::packing::pack(&recording.events)).unwrap();
        let shown: serde_json::Value = serde_json::from_str(&account).unwrap();
        assert_eq!((&shown["account"]["decided"], &shown["account"]["a"]["id"]), (&false.into(), &"alice".into()));
        assert!(shown["networks"][1].as_str().is_some_and(|picture| picture.starts_with("<svg")), "{shown}");
        assert!(render_live(started.as_bytes()).is_err());
        // 6 MB that come as a few kB.
        let mut recorder = Recorder::new(Vantage::A);
        let detail = "x".repeat(1000);
        let closed =
            |_| recorder.record(Timestamp::from_micros(1), EventKind::ChannelClosed { detail: detail.clone() });
        let packed = whyrelay_core::trace::packing::pack(&(0..6000).map(closed).collect::<Vec<_>>());
        assert!(packed.len() < 100_000 && render_live(&packed).unwrap_err().contains("larger than is accepted"));
    }

    fn request(path: &str, body: Body) -> Request<Body> {
        request_of(1, path, body)
    }

    fn request_of(client: u8, path: &str, body: Body) -> Request<Body> {
        let mut request = Request::post(path).body(body).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, client], 1))));
        request
    }

    /// A body that begins and does not go on until the sender is used or dropped.
    fn slow(beginning: Vec<u8>) -> (tokio::sync::mpsc::Sender<Result<Vec<u8>, std::io::Error>>, Body) {
        let (sender, pieces) = tokio::sync::mpsc::channel(1);
        sender.try_send(Ok(beginning)).unwrap();
        let stream = futures_util::stream::unfold(pieces, async |mut pieces| Some((pieces.recv().await?, pieces)));
        (sender, Body::from_stream(stream))
    }

    #[tokio::test]
    async fn slow_senders_hold_up_nobody_and_share_a_bounded_memory() {
        use tower::ServiceExt as _;
        let routes = routes();
        let started = r#"{"seq":0,"at":1,"vantage":"a","kind":"recording-started","version":1,"program":"p","id":"alice","options":{}}"#;
        let mut sending = Vec::new();
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..4 * AT_ONCE {
            let (sender, body) = slow(started.as_bytes().to_vec());
            sending.push(sender);
            waiting.spawn(routes.clone().oneshot(request("/account", body)));
        }
        tokio::task::yield_now().await;
        let own = routes.clone().oneshot(request("/account", Body::from(started)));
        let answer = tokio::time::timeout(UPLOAD_WITHIN / 2, own).await.expect("slow senders hold it up").unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        // What has come of theirs is made an account of once it is whole.
        sending.clear();
        while let Some(answer) = waiting.join_next().await {
            assert_eq!(answer.unwrap().unwrap().status(), StatusCode::OK);
        }

        // One client has no more than its share …
        for _ in 0..4 {
            let (sender, body) = slow(vec![b' '; MAX_UNPACKED]);
            sending.push(sender);
            waiting.spawn(routes.clone().oneshot(request("/account", body)));
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let answer = routes.clone().oneshot(request_of(2, "/account", Body::from(started))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "another client");
        // … and all together no more than there is.
        for client in 2..=4 {
            let (sender, body) = slow(vec![b' '; MAX_UNPACKED]);
            sending.push(sender);
            waiting.spawn(routes.clone().oneshot(request_of(client, "/account", body)));
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let answer = routes.clone().oneshot(request_of(5, "/account", Body::from(started))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        sending.clear();
        while waiting.join_next().await.is_some() {}
        let answer = routes.oneshot(request("/account", Body::from(started))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "the memory is free again");
    }

    #[test]
    fn what_is_no_recording_is_refused_with_a_reason() {
        assert!(render(b"<script>\n", false).unwrap_err().contains("not a recording"));
    }
}
