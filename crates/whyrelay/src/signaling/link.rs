//! One connection to the server, of whichever kind it speaks.

use std::time::Duration;

use whyrelay_core::signal::{Join, Message, Refusal};

use super::long_poll::LongPoll;
use super::stream::Endpoint;
use super::websocket::WebSocket;
use super::{ServerInfo, SignalingError, SignalingOptions, Transport};

/// An open connection.
pub(super) enum Link {
    WebSocket(Box<WebSocket>),
    LongPoll(Box<LongPoll>),
}

/// What a connection says.
pub(super) enum LinkEvent {
    /// A message; its `from` is empty only if the server itself, a whyrelay server, says it.
    Message(Message),
    /// The server has taken everything up to this number.
    Acknowledged(u64),
    /// The server did not take this number.
    Refused(u64, Refusal),
}

impl Link {
    /// Connects and joins; `received`: the number of the last message that was taken.
    pub(super) async fn open(options: &SignalingOptions, received: u64) -> Result<Self, SignalingError> {
        let endpoint = Endpoint::parse(&options.url)?;
        if options.transport != Transport::LongPoll {
            match WebSocket::open(&endpoint, options, received).await? {
                Some(websocket) => return Ok(Self::WebSocket(Box::new(websocket))),
                None if options.transport == Transport::WebSocket => {
                    return Err(SignalingError::NotSignaling {
                        authority: endpoint.authority,
                        reason: "it has no WebSocket at /ws".into(),
                    });
                }
                None => {}
            }
        }
        Ok(Self::LongPoll(Box::new(LongPoll::open(endpoint, options).await?)))
    }

    pub(super) fn server(&self) -> &ServerInfo {
        match self {
            Self::WebSocket(link) => &link.server,
            Self::LongPoll(link) => &link.server,
        }
    }

    /// The numbering at the start: whether it goes on, and the last number that the server has taken.
    pub(super) fn numbering(&self) -> (bool, u64) {
        match self {
            Self::WebSocket(link) => (link.joined.resumed, link.joined.received),
            Self::LongPoll(_) => (false, 0),
        }
    }

    /// How many messages may be on their way at once.
    pub(super) fn can_send(&self) -> bool {
        match self {
            Self::WebSocket(_) => true,
            Self::LongPoll(link) => link.is_free(),
        }
    }

    /// Puts a message on its way.
    pub(super) async fn send(&mut self, message: Message) -> Result<(), SignalingError> {
        match self {
            Self::WebSocket(link) => link.feed(&message).await,
            Self::LongPoll(link) => {
                link.post(message);
                Ok(())
            }
        }
    }

    /// Nothing more follows for now.
    pub(super) async fn flush(&mut self) -> Result<(), SignalingError> {
        match self {
            Self::WebSocket(link) => link.flush().await,
            Self::LongPoll(_) => Ok(()),
        }
    }

    /// Waits for what the server says. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<LinkEvent, SignalingError> {
        match self {
            Self::WebSocket(link) => link.next().await,
            Self::LongPoll(link) => link.next().await,
        }
    }

    /// Acknowledges what was taken; `wants_ack`: asks the server to do the same.
    pub(super) async fn acknowledge(&mut self, number: u64, wants_ack: bool) -> Result<(), SignalingError> {
        match self {
            Self::WebSocket(link) => link.acknowledge(number, wants_ack).await,
            Self::LongPoll(_) => Ok(()),
        }
    }

    /// Gives the id back.
    pub(super) async fn close(&mut self) {
        if let Self::WebSocket(link) = self {
            // The connection ends anyway; a server that takes no goodbye is not waited for.
            let _ = tokio::time::timeout(Duration::from_millis(200), link.close()).await;
        }
    }
}

/// The join that asks for what `options` say.
pub(super) fn join_of(options: &SignalingOptions, received: u64) -> Join {
    Join {
        room: options.room.clone(),
        id: options.id.clone(),
        token: options.token.clone().unwrap_or_default(),
        implementation: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ack: true,
        received,
        watch: if options.peer.is_empty() { Vec::new() } else { vec![options.peer.clone()] },
    }
}
