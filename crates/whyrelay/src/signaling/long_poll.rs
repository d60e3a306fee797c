//! Long poll: the origin's server, or a whyrelay server behind something that lets no WebSocket through.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use whyrelay_core::signal::{Join, MAX_MESSAGE, Message, Refusal, RefusalCode};

use super::link::{LinkEvent, join_of};
use super::stream::{Connected, Endpoint};
use super::{ServerInfo, SignalingError, SignalingOptions, Transport};

/// The origin's server answers a send only when the recipient has read it.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// A response that ends sooner than this gave no time to wait.
const SHORT: Duration = Duration::from_millis(100);
/// Between two polls of which the first ended at once.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes of an error's text, at most.
const MAX_REASON: usize = 1024;

type Requests = SendRequest<Full<Bytes>>;
type Posting = Pin<Box<dyn Future<Output = (Option<Requests>, Result<LinkEvent, SignalingError>)> + Send>>;

/// A poll that is always open, and one request after the other to send.
pub(super) struct LongPoll {
    shared: Arc<Shared>,
    pub(super) server: ServerInfo,
    heard: mpsc::Receiver<Result<LinkEvent, SignalingError>>,
    polling: JoinHandle<()>,
    requests: Option<Requests>,
    posting: Option<Posting>,
}

struct Shared {
    endpoint: Endpoint,
    options: SignalingOptions,
    /// `&room=…` or nothing.
    room: String,
}

impl LongPoll {
    /// Connects and begins to poll. The origin's server answers a poll only with its first message, so the answer is
    /// not waited for.
    pub(super) async fn open(endpoint: Endpoint, options: &SignalingOptions) -> Result<Self, SignalingError> {
        let connected = endpoint.connect(options).await?;
        let server = ServerInfo {
            address: connected.remote,
            local: connected.local,
            transport: Transport::LongPoll,
            whyrelay: None,
            seen_as: None,
            round_trip: None,
            // Its first answer comes only with its first message.
            clock: None,
        };
        let room = match options.room.as_str() {
            "" => String::new(),
            room => format!("&room={}", encode(room)),
        };
        let shared = Arc::new(Shared { endpoint, options: options.clone(), room });
        // Bounded: when nobody takes the messages, the server's back-pressure begins.
        let (tell, heard) = mpsc::channel(64);
        let mut first = shared.requests(connected).await?;
        let response = first.send_request(shared.poll_request()?);
        let polling = tokio::spawn(poll(Arc::clone(&shared), first, response, tell));
        Ok(Self { shared, server, heard, polling, requests: None, posting: None })
    }

    pub(super) fn is_free(&self) -> bool {
        self.posting.is_none()
    }

    /// Sends `message`; its fate comes from [`LongPoll::next`].
    pub(super) fn post(&mut self, message: Message) {
        let (shared, requests) = (Arc::clone(&self.shared), self.requests.take());
        self.posting = Some(Box::pin(async move { shared.post(requests, message).await }));
    }

    pub(super) async fn next(&mut self) -> Result<LinkEvent, SignalingError> {
        let posting = async {
            match &mut self.posting {
                Some(posting) => posting.await,
                None => pending().await,
            }
        };
        tokio::select! {
            heard = self.heard.recv() => {
                heard.unwrap_or_else(|| Err(SignalingError::Lost { reason: "polling ended".into() }))
            }
            (requests, outcome) = posting => {
                self.posting = None;
                self.requests = requests;
                outcome
            }
        }
    }
}

impl Drop for LongPoll {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

/// Polls for ever; ends with an error.
async fn poll(
    shared: Arc<Shared>,
    mut requests: Requests,
    response: impl Future<Output = hyper::Result<Response<Incoming>>>,
    tell: mpsc::Sender<Result<LinkEvent, SignalingError>>,
) {
    let mut ended = shared.read_poll(response.await, &tell).await;
    loop {
        let begun = Instant::now();
        match ended {
            Ok(()) => {}
            Err(error) => {
                // Nobody may listen any more.
                let _ = tell.send(Err(error)).await;
                return;
            }
        }
        ended = async {
            if requests.ready().await.is_err() {
                requests = shared.requests(shared.endpoint.connect(&shared.options).await?).await?;
            }
            let response = requests.send_request(shared.poll_request()?).await;
            shared.read_poll(response, &tell).await
        }
        .await;
        if begun.elapsed() < SHORT {
            sleep(PAUSE).await;
        }
    }
}

impl Shared {
    async fn requests(&self, connected: Connected) -> Result<Requests, SignalingError> {
        let (requests, connection) = http1::Builder::new()
            .max_buf_size(MAX_MESSAGE)
            .handshake(TokioIo::new(connected.stream))
            .await
            .map_err(lost)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a long-poll connection ended");
            }
        });
        Ok(requests)
    }

    fn poll_request(&self) -> Result<Request<Full<Bytes>>, SignalingError> {
        let join = Join { ack: false, ..join_of(&self.options, 0) };
        let join = STANDARD.encode(serde_json::to_string(&join).unwrap_or_default());
        let target = self.endpoint.target(&format!("/receive?id={}{}", encode(&self.options.id), self.room));
        Request::get(target)
            .header("host", &self.endpoint.authority)
            .header("whyrelay-join", join)
            .body(Full::default())
            .map_err(|error| self.not_signaling(error.to_string()))
    }

    /// Reads one response to its end.
    async fn read_poll(
        &self,
        response: hyper::Result<Response<Incoming>>,
        tell: &mpsc::Sender<Result<LinkEvent, SignalingError>>,
    ) -> Result<(), SignalingError> {
        let response = response.map_err(lost)?;
        match response.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => {}
            StatusCode::CONFLICT => {
                let free_in = retry_after(&response);
                return Err(SignalingError::IdTaken { id: self.options.id.clone(), free_in });
            }
            status if status.is_server_error() => {
                return Err(SignalingError::Lost { reason: format!("status {status}") });
            }
            StatusCode::FORBIDDEN => {
                let reason = reason_of(response).await;
                return Err(SignalingError::Refused(Refusal::new(RefusalCode::Forbidden, reason)));
            }
            status => return Err(self.not_signaling(format!("status {status} for /receive"))),
        }
        let is_whyrelay =
            response.headers().get("server").is_some_and(|server| server.as_bytes().starts_with(b"whyrelay/"));
        let mut body = response.into_body();
        let mut line = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(lost)?;
            for part in frame.data_ref().map_or(&b""[..], |data| data).split_inclusive(|byte| *byte == b'\n') {
                if line.len() + part.len() > 2 * MAX_MESSAGE {
                    return Err(self.not_signaling("an endless line".into()));
                }
                line.extend_from_slice(part);
                if !part.ends_with(b"\n") {
                    continue;
                }
                let message = serde_json::from_slice::<Message>(&line);
                line.clear();
                let Ok(mut message) = message else { continue };
                // With another server anybody can claim to be the server.
                if message.kind.is_servers_own() && !is_whyrelay {
                    continue;
                }
                message.seq = None;
                if tell.send(Ok(LinkEvent::Message(message))).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn post(
        &self,
        requests: Option<Requests>,
        mut message: Message,
    ) -> (Option<Requests>, Result<LinkEvent, SignalingError>) {
        let number = message.seq.take().unwrap_or(0);
        match timeout(SEND_TIMEOUT, self.try_post(requests, &message, number)).await {
            Ok(Ok((requests, event))) => (Some(requests), Ok(event)),
            Ok(Err(error)) => (None, Err(error)),
            Err(_) => (None, Err(SignalingError::Lost { reason: "no answer to a send".into() })),
        }
    }

    async fn try_post(
        &self,
        requests: Option<Requests>,
        message: &Message,
        number: u64,
    ) -> Result<(Requests, LinkEvent), SignalingError> {
        // A connection that was kept open may have been closed in the meantime.
        let mut open = None;
        if let Some(mut requests) = requests
            && requests.ready().await.is_ok()
        {
            open = Some(requests);
        }
        let mut requests = match open {
            Some(requests) => requests,
            None => self.requests(self.endpoint.connect(&self.options).await?).await?,
        };
        let target = self.endpoint.target(&format!("/send{}", self.room.replacen('&', "?", 1)));
        let request = Request::post(target)
            .header("host", &self.endpoint.authority)
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {}", self.options.token.as_deref().unwrap_or_default()))
            .body(Full::new(message.to_json().into()))
            .map_err(|error| self.not_signaling(error.to_string()))?;
        let response = requests.send_request(request).await.map_err(lost)?;
        let status = response.status();
        let retry = retry_after(&response);
        let reason = reason_of(response).await;
        let refused = |code| {
            let refusal = Refusal::new(code, reason.clone());
            LinkEvent::Refused(number, retry.map_or(refusal.clone(), |after| refusal.retry_after(after)))
        };
        let event = match status {
            status if status.is_success() => LinkEvent::Acknowledged(number),
            StatusCode::NOT_FOUND => refused(RefusalCode::RecipientNotFound),
            StatusCode::TOO_MANY_REQUESTS => refused(RefusalCode::MailboxFull),
            StatusCode::PAYLOAD_TOO_LARGE => refused(RefusalCode::TooLarge),
            StatusCode::FORBIDDEN => refused(RefusalCode::Forbidden),
            status if status.is_server_error() => refused(RefusalCode::ServerFull),
            _ => refused(RefusalCode::BadMessage),
        };
        Ok((requests, event))
    }

    fn not_signaling(&self, reason: String) -> SignalingError {
        SignalingError::NotSignaling { authority: self.endpoint.authority.clone(), reason }
    }
}

fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.parse::<u64>().ok()?;
    Some(Duration::from_secs(seconds.min(60)))
}

async fn reason_of(response: Response<Incoming>) -> String {
    match Limited::new(response.into_body(), MAX_REASON).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    }
}

fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn lost(error: hyper::Error) -> SignalingError {
    SignalingError::Lost { reason: error.to_string() }
}
