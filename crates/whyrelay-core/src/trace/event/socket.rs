//! Interfaces, sockets and what passes them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::wire::integrity::Integrity;

/// The transport of a socket as the operating system knows it, with TLS told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// TLS over TCP: [`Datagram::data`] is what stood inside.
    Tls,
}

impl Transport {
    /// The usual spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }
}

/// Inbound or outbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Sent by this side.
    Out,
    /// Received by this side.
    In,
}

/// Something passed the door.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Datagram {
    /// In or out.
    pub direction: Direction,
    /// The socket's transport.
    pub transport: Transport,
    /// Our socket's address; of inbound UDP the destination address of the datagram itself.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The interface it came in by, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its length in bytes, before anything was cut or blanked.
    pub length: u32,
    /// Its bytes, base64 in JSON: STUN whole with integrity values blanked, anything else cut to its head.
    #[serde(with = "base64_bytes")]
    pub data: Vec<u8>,
    /// Whether the message integrity was right, where there was a key to check it with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<Integrity>,
}

/// Why an interface's addresses were or were not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceUse {
    /// Candidates are gathered from it.
    Used,
    /// It is not up.
    Down,
    /// It is the loopback interface and the session does not ask for it.
    Loopback,
    /// `--interface` names others.
    NotIncluded,
    /// `--exclude-interface` names it.
    Excluded,
    /// It has no usable address.
    NoAddress,
    /// `--exclude-interface` names it, and this host has none of that name.
    Absent,
}

/// Bytes as base64 in JSON.
mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD_NO_PAD.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}
