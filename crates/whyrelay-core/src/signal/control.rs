//! What whyrelay peers and servers say to each other in the content of our own message types, as JSON.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The content of `join`: who wants to receive, where.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Join {
    /// The room; empty for the default room.
    pub room: String,
    /// The id to receive as.
    pub id: String,
    /// What claims the id: who comes back with it is the same peer. Empty: no claim, as the origin's clients. Secret.
    pub token: String,
    /// The program, for example `whyrelay`.
    pub implementation: String,
    /// The program's version.
    pub version: String,
    /// Whether the peer acknowledges: then messages carry numbers, and what was not acknowledged is sent again.
    pub ack: bool,
    /// The number of the last message that the peer has taken from this server, 0 for none.
    pub received: u64,
    /// Ids whose coming and going the peer wants to hear of.
    pub watch: Vec<String>,
}

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").field("id", &self.id).field("ack", &self.ack).finish_non_exhaustive()
    }
}

/// The content of `joined`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Joined {
    /// The server's program.
    pub implementation: String,
    /// The server's version.
    pub version: String,
    /// Whether the server still knew the peer: then numbers go on in both directions; else they begin anew.
    pub resumed: bool,
    /// The number of the last message that the server has taken from this peer.
    pub received: u64,
    /// The address from which the server sees the peer's signaling connection.
    pub address: Option<IpAddr>,
}

/// The content of `hello`: what a peer is. Peers that send none are not whyrelay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerInfo {
    /// The program, for example `whyrelay`.
    pub implementation: String,
    /// Its version.
    pub version: String,
    /// What it can do beyond the origin, for example `recording`.
    pub features: Vec<String>,
}

/// The content of `probe`: what one peer tells the other about probes between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerProbing {
    /// Probes will come from these addresses: send openers there, so that your NAT lets them in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<SocketAddr>,
    /// The openers that were asked for are out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub opened: bool,
    /// Knock at these addresses after a silence.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub knock: Vec<SocketAddr>,
    /// How long that silence is, in milliseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u32>,
    /// Whether the sender's probes are under way: do not close your sockets meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under_way: Option<bool>,
}

/// The content of `servers`: the STUN and TURN servers to use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServersAnnouncement {
    /// The servers, shaped as a browser's `RTCIceServer`.
    pub servers: Vec<IceServer>,
    /// Seconds for which the credentials hold; `None` when there are none.
    pub lifetime_s: Option<u64>,
    /// `stun:` URIs under which behavior discovery (RFC 5780) is offered; not for gathering candidates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub discovery: Vec<String>,
}

/// One STUN or TURN server with its credential.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IceServer {
    /// `stun:`, `turn:` and `turns:` URIs (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// The TURN user, with a credential limited in time: `expiry:user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The TURN password. Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .field("has_credential", &self.credential.is_some())
            .finish_non_exhaustive()
    }
}

/// The content of `refused` and `error`: why the server does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The reason, for programs.
    pub code: RefusalCode,
    /// The reason, for people.
    #[serde(default)]
    pub reason: String,
    /// After how many milliseconds trying again makes sense; `None`: not by waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal that waiting does not change.
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), retry_after_ms: None }
    }

    /// The same, worth trying again `after` that time.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

/// Why a server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// Nobody receives, or has lately received, as the recipient.
    RecipientNotFound,
    /// The recipient's mailbox is full: it reads too slowly, or not at all.
    MailboxFull,
    /// The server has reached one of its bounds.
    ServerFull,
    /// The message is longer than [`super::MAX_MESSAGE`].
    TooLarge,
    /// The message or the join is not understood.
    BadMessage,
    /// The id is claimed by another peer's token.
    IdTaken,
    /// Another receiver took the id over.
    Replaced,
    /// The sender may not say this: not its id, not its type, not its room.
    Forbidden,
    /// The server shuts down.
    ShuttingDown,
    /// The receiver took nothing for too long.
    TooSlow,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_debugged() {
        let join = Join { token: "hunter2".into(), room: "hunter2".into(), ..Join::default() };
        let server = IceServer { credential: Some("hunter2".into()), ..IceServer::default() };
        assert!(!format!("{join:?} {server:?}").contains("hunter2"));
    }

    #[test]
    fn contents_are_read_leniently() {
        let join: Join = serde_json::from_str(r#"{"id":"a","later":1}"#).unwrap();
        assert_eq!(join, Join { id: "a".into(), ..Join::default() });
        let refusal: Refusal = serde_json::from_str(r#"{"code":"from-the-future"}"#).unwrap();
        assert_eq!(refusal.code, RefusalCode::Unknown);
    }

    #[test]
    fn the_announcement_is_shaped_like_a_browsers() {
        let announcement = ServersAnnouncement {
            servers: vec![
                IceServer { urls: vec!["stun:192.0.2.1:3478".into()], ..IceServer::default() },
                IceServer {
                    urls: vec!["turn:192.0.2.1:3478".into()],
                    username: Some("u".into()),
                    credential: Some("c".into()),
                },
            ],
            lifetime_s: Some(600),
            discovery: Vec::new(),
        };
        let json = serde_json::to_string(&announcement).unwrap();
        assert_eq!(
            json,
            r#"{"servers":[{"urls":["stun:192.0.2.1:3478"]},{"urls":["turn:192.0.2.1:3478"],"username":"u","credential":"c"}],"lifetime_s":600}"#
        );
        assert_eq!(serde_json::from_str::<ServersAnnouncement>(&json).unwrap(), announcement);
    }
}
