//! WebSocket with a whyrelay server.

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message as Frame, http};
use whyrelay_core::signal::{HEARTBEAT_INTERVAL, Joined, MAX_MESSAGE, Message, MessageType, Refusal, RefusalCode};

use super::link::{LinkEvent, join_of};
use super::stream::{Duplex, Endpoint};
use super::{ServerClock, ServerInfo, SignalingError, SignalingOptions, Transport};

/// An open WebSocket whose peer has joined.
pub(super) struct WebSocket {
    stream: WebSocketStream<Box<dyn Duplex>>,
    id: String,
    pub(super) server: ServerInfo,
    pub(super) joined: Joined,
}

impl WebSocket {
    /// Connects and joins. `None` when the server has no WebSocket.
    ///
    /// The join travels in the handshake, so that the server's first messages come with its answer: two round trips
    /// in all.
    pub(super) async fn open(
        endpoint: &Endpoint,
        options: &SignalingOptions,
        received: u64,
    ) -> Result<Option<Self>, SignalingError> {
        let not_signaling =
            |reason: String| SignalingError::NotSignaling { authority: endpoint.authority.clone(), reason };
        let url = endpoint.websocket_url("/ws");
        let uri: http::Uri = url.parse().map_err(|_| SignalingError::Url { url, reason: "it is no URI".to_owned() })?;
        let join = serde_json::to_string(&join_of(options, received)).unwrap_or_default();
        let request = ClientRequestBuilder::new(uri).with_header("Whyrelay-Join", STANDARD.encode(join));
        let config = WebSocketConfig::default()
            .read_buffer_size(8 * 1024)
            .write_buffer_size(8 * 1024)
            .max_message_size(Some(2 * MAX_MESSAGE))
            .max_frame_size(Some(2 * MAX_MESSAGE));
        let connected = endpoint.connect(options).await?;
        let handshake = tokio_tungstenite::client_async_with_config(request, connected.stream, Some(config));
        let no_answer = || SignalingError::Lost { reason: "no answer".into() };
        let asked = Instant::now();
        let answer = timeout(options.connect_timeout, handshake).await.map_err(|_| no_answer())?;
        let round_trip = asked.elapsed();
        let (stream, clock) = match answer {
            Ok((stream, response)) => {
                let date = response.headers().get("date").and_then(|date| date.to_str().ok());
                (stream, ServerClock::of(date, round_trip))
            }
            Err(Error::Http(response)) => match response.status().as_u16() {
                502..=504 => return Err(SignalingError::Lost { reason: format!("status {}", response.status()) }),
                // The origin's server says 404, others this and that.
                _ => return Ok(None),
            },
            Err(Error::Io(source)) => {
                return Err(SignalingError::Lost { reason: source.to_string() });
            }
            // The path broke, or the server ended, before the answer was whole.
            Err(Error::Protocol(ProtocolError::HandshakeIncomplete) | Error::ConnectionClosed) => {
                return Err(SignalingError::Lost { reason: "it was closed before the answer".into() });
            }
            Err(error) => return Err(not_signaling(error.to_string())),
        };
        let server = ServerInfo {
            address: connected.remote,
            local: connected.local,
            transport: Transport::WebSocket,
            whyrelay: None,
            round_trip: Some(round_trip),
            seen_as: None,
            clock,
        };
        let mut link = Self { stream, id: options.id.clone(), server, joined: Joined::default() };
        let first = timeout(options.connect_timeout, link.next_message()).await.map_err(|_| no_answer())??;
        if first.kind != MessageType::Joined {
            return Err(not_signaling(format!("its first message is {:?}", first.kind.name())));
        }
        link.joined = serde_json::from_str(&first.content).map_err(|error| not_signaling(error.to_string()))?;
        link.server.whyrelay = Some(link.joined.version.clone());
        link.server.seen_as = link.joined.address;
        Ok(Some(link))
    }

    pub(super) async fn feed(&mut self, message: &Message) -> Result<(), SignalingError> {
        self.stream.feed(Frame::text(message.to_json())).await.map_err(lost)
    }

    pub(super) async fn flush(&mut self) -> Result<(), SignalingError> {
        self.stream.flush().await.map_err(lost)
    }

    pub(super) async fn acknowledge(&mut self, number: u64, wants_ack: bool) -> Result<(), SignalingError> {
        let mut ack = Message::new(MessageType::Ack, "", "", if wants_ack { "now" } else { "" });
        ack.seq = Some(number);
        self.feed(&ack).await?;
        self.flush().await
    }

    pub(super) async fn next(&mut self) -> Result<LinkEvent, SignalingError> {
        loop {
            let message = self.next_message().await?;
            return Ok(match (message.kind.clone(), message.seq) {
                (MessageType::Ack, Some(number)) => LinkEvent::Acknowledged(number),
                (MessageType::Refused, Some(number)) => LinkEvent::Refused(number, refusal_of(&message)),
                (MessageType::Heartbeat | MessageType::Ack, _) => continue,
                _ => LinkEvent::Message(message),
            });
        }
    }

    pub(super) async fn close(&mut self) -> Result<(), Error> {
        self.stream.close(None).await?;
        // The server closes next; until then the goodbye may still be on its way.
        while self.stream.next().await.transpose()?.is_some() {}
        Ok(())
    }

    async fn next_message(&mut self) -> Result<Message, SignalingError> {
        loop {
            // The server pings; two missed ones and a little more mean that it is gone.
            let frame = timeout(HEARTBEAT_INTERVAL * 5 / 2, self.stream.next())
                .await
                .map_err(|_| SignalingError::Lost { reason: "the server fell silent".into() })?;
            match frame {
                Some(Ok(Frame::Text(text))) => {
                    // What a server of a later version says may not be understood; it is not ours to judge.
                    let Ok(message) = serde_json::from_str::<Message>(&text) else { continue };
                    match message.kind {
                        MessageType::Error => {
                            return Err(SignalingError::from_refusal(refusal_of(&message), &self.id));
                        }
                        MessageType::Bye if message.from.is_empty() => {
                            return Err(SignalingError::Lost { reason: "the server shuts down".into() });
                        }
                        _ => return Ok(message),
                    }
                }
                Some(Ok(Frame::Close(close))) => {
                    let reason = close.map_or_else(|| "closed".to_owned(), |close| format!("closed: {close}"));
                    return Err(SignalingError::Lost { reason });
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(SignalingError::Lost { reason: "closed".into() }),
            }
        }
    }
}

pub(super) fn refusal_of(message: &Message) -> Refusal {
    serde_json::from_str(&message.content)
        .unwrap_or_else(|_| Refusal::new(RefusalCode::Unknown, message.content.clone()))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn lost(error: Error) -> SignalingError {
    SignalingError::Lost { reason: error.to_string() }
}
