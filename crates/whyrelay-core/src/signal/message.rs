//! One message on the wire.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::MAX_MESSAGE;

/// A signaling message: `{"type", "content", "to", "from"}`.
///
/// Its `Debug` form shows no content, because descriptions hold ICE passwords and candidates hold addresses.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// What the message is.
    #[serde(rename = "type", default, deserialize_with = "or_empty")]
    pub kind: MessageType,
    /// The SDP, the candidate line, or what the type says.
    #[serde(default, deserialize_with = "or_empty")]
    pub content: String,
    /// The recipient's id; empty for the server.
    #[serde(default, deserialize_with = "or_empty")]
    pub to: String,
    /// The sender's id; empty for the server.
    #[serde(default, deserialize_with = "or_empty")]
    pub from: String,
    /// The message's number between a whyrelay peer and a whyrelay server; the origin knows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

impl Message {
    /// A message of `kind` from `from` to `to`, without a number.
    pub fn new(kind: MessageType, from: impl Into<String>, to: impl Into<String>, content: impl Into<String>) -> Self {
        Self { kind, content: content.into(), to: to.into(), from: from.into(), seq: None }
    }

    /// Reads one JSON object. Unknown types and fields are fine and missing strings are empty, as the origin has it.
    ///
    /// # Errors
    /// When `bytes` is no such object, or longer than [`MAX_MESSAGE`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(MessageError::TooLong { len: bytes.len() });
        }
        // serde would also take the fields from an array.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(MessageError::Json(serde::de::Error::custom("expected an object")));
        }
        serde_json::from_slice(bytes).map_err(MessageError::Json)
    }

    /// The message as one line of JSON without its newline.
    pub fn to_json(&self) -> String {
        // Strings and a number always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("kind", &self.kind)
            .field("to", &self.to)
            .field("from", &self.from)
            .field("seq", &self.seq)
            .field("content_bytes", &self.content.len())
            .finish()
    }
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not a JSON object with strings as `type`, `content`, `to` and `from`.
    #[error("not a signaling message")]
    Json(#[source] serde_json::Error),
    /// Longer than [`MAX_MESSAGE`].
    #[error("a message of {len} bytes is longer than {MAX_MESSAGE}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
}

/// What a message is. Unknown types stay representable and are passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MessageType {
    /// `offer`: the content is the offerer's SDP.
    Offer,
    /// `answer`: the content is the answerer's SDP.
    Answer,
    /// `candidate`: the content is one `candidate:…` line without mid and m-line index. There is one m-line.
    Candidate,
    /// `heartbeat`: keeps a response open; means nothing.
    Heartbeat,
    /// `end-of-candidates` (RFC 8838 §8.2): no further `candidate` follows in this generation. Ours.
    EndOfCandidates,
    /// `hello`: who the peer is, a [`super::PeerInfo`]. Ours.
    Hello,
    /// `restart`: the sender asks for an ICE restart (RFC 8445 §9); the content is the reason. Ours.
    Restart,
    /// `recording`: a piece of the sender's recording, a [`super::RecordingChunk`]. Ours.
    Recording,
    /// `trace`: events of the sender while its session lasts, a [`super::TracePiece`]. Ours.
    Trace,
    /// `probe`: about probes from peer to peer, a [`super::PeerProbing`]. Ours.
    Probe,
    /// `interrupted`: the sender's user or system ended its session; its recording and `bye` follow. Ours.
    Interrupted,
    /// `bye`: the sender leaves on purpose; the content is the reason. From the server: it shuts down. Ours.
    Bye,
    /// `join`: a peer to the server, first, a [`super::Join`]. Ours.
    Join,
    /// `joined`: the server's answer to a `join`, a [`super::Joined`]. Ours, only from a server.
    Joined,
    /// `servers`: the STUN and TURN servers to use, a [`super::ServersAnnouncement`]; secret. Ours, only from a server.
    Servers,
    /// `peer-joined`: the peer `from`, for whom this one waits, receives now. Ours, only from a server.
    PeerJoined,
    /// `peer-left`: the peer `from`, for whom this one waits, receives no more. Ours, only from a server.
    PeerLeft,
    /// `ack`: everything up to `seq` has been taken. Ours, never passed on.
    Ack,
    /// `refused`: the message `seq` was not taken, a [`super::Refusal`]. Ours, only from a server.
    Refused,
    /// `error`: the connection ends, a [`super::Refusal`]. Ours, only from a server.
    Error,
    /// Any other type.
    Unknown(String),
    /// No type at all.
    #[default]
    Missing,
}

impl MessageType {
    const NAMES: [(Self, &'static str); 20] = [
        (Self::Offer, "offer"),
        (Self::Answer, "answer"),
        (Self::Candidate, "candidate"),
        (Self::Heartbeat, "heartbeat"),
        (Self::EndOfCandidates, "end-of-candidates"),
        (Self::Hello, "hello"),
        (Self::Restart, "restart"),
        (Self::Recording, "recording"),
        (Self::Trace, "trace"),
        (Self::Probe, "probe"),
        (Self::Interrupted, "interrupted"),
        (Self::Bye, "bye"),
        (Self::Join, "join"),
        (Self::Joined, "joined"),
        (Self::Servers, "servers"),
        (Self::PeerJoined, "peer-joined"),
        (Self::PeerLeft, "peer-left"),
        (Self::Ack, "ack"),
        (Self::Refused, "refused"),
        (Self::Error, "error"),
    ];

    /// The type called `name` on the wire.
    pub fn from_name(name: &str) -> Self {
        match Self::NAMES.iter().find(|(_, known)| *known == name) {
            Some((kind, _)) => kind.clone(),
            None if name.is_empty() => Self::Missing,
            None => Self::Unknown(name.to_owned()),
        }
    }

    /// The name on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::Unknown(name) => name,
            Self::Missing => "",
            known => Self::NAMES.iter().find(|(kind, _)| kind == known).map_or("", |(_, name)| name),
        }
    }

    /// Whether only a server says this, so that a server must not pass it on from a peer.
    pub fn is_servers_own(&self) -> bool {
        matches!(
            self,
            Self::Joined
                | Self::Servers
                | Self::PeerJoined
                | Self::PeerLeft
                | Self::Refused
                | Self::Error
                | Self::Ack
                | Self::Join
        )
    }
}

impl From<String> for MessageType {
    fn from(name: String) -> Self {
        Self::from_name(&name)
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for MessageType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A string, or nothing for `null`, as the origin's decoder has it.
fn or_empty<'de, D: Deserializer<'de>, T: From<String> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(T::from).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_wire_form_is_the_origins() {
        let message = Message::new(MessageType::Offer, "offer-peer-1", "answer-peer-1", "v=0\r\n");
        assert_eq!(
            message.to_json(),
            r#"{"type":"offer","content":"v=0\r\n","to":"answer-peer-1","from":"offer-peer-1"}"#
        );
    }

    #[test]
    fn unknown_types_and_fields_and_missing_strings_are_read() {
        let read = Message::from_json(br#" {"type":"later","extra":{"a":[1]},"to":null} "#).unwrap();
        assert_eq!(read, Message::new(MessageType::Unknown("later".into()), "", "", ""));
        assert_eq!(Message::from_json(b"{}").unwrap().kind, MessageType::Missing);
    }

    #[test]
    fn what_is_not_such_json_is_refused() {
        for bad in [&b""[..], b"[]", b"nonsense", br#"{"type":1}"#, br#"{"to":"a""#, b"{\"to\":\"\xff\"}", b"{} {}"] {
            assert!(matches!(Message::from_json(bad), Err(MessageError::Json(_))), "{bad:?}");
        }
        let long = format!(r#"{{"content":"{}"}}"#, "a".repeat(MAX_MESSAGE));
        assert!(matches!(Message::from_json(long.as_bytes()), Err(MessageError::TooLong { .. })));
    }

    #[test]
    fn a_message_shows_no_content_when_debugged() {
        let message = Message::new(MessageType::Answer, "a", "b", "a=ice-pwd:hunter2");
        assert!(!format!("{message:?}").contains("hunter2"));
    }

    #[test]
    fn every_type_has_its_own_name() {
        for (kind, name) in MessageType::NAMES {
            assert_eq!(MessageType::from_name(name), kind);
            assert_eq!(kind.name(), name);
        }
    }

    proptest! {
        #[test]
        fn a_message_survives_the_round_trip(kind in "[a-z-]{0,20}", content in any::<String>(), to in any::<String>(), from in any::<String>(), seq in any::<Option<u64>>()) {
            let message = Message { kind: MessageType::from_name(&kind), content, to, from, seq };
            prop_assert_eq!(Message::from_json(message.to_json().as_bytes()).unwrap(), message.clone());
            prop_assert!(!message.to_json().contains('\n'));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = Message::from_json(&bytes) {
                prop_assert_eq!(Message::from_json(message.to_json().as_bytes()).unwrap(), message);
            }
        }
    }
}
