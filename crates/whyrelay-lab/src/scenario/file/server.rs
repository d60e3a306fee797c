//! The server and signaling, with their faults.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::link::Link;
use super::{is_default, is_yes};
use crate::scenario::value::Span;

/// The server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Server {
    /// Whether it answers STUN and TURN at all.
    #[serde(skip_serializing_if = "is_yes")]
    pub answers: bool,
    /// Whether it is a TURN server.
    #[serde(skip_serializing_if = "is_yes")]
    pub turn: bool,
    /// Whether it serves UDP.
    #[serde(skip_serializing_if = "is_yes")]
    pub udp: bool,
    /// Whether it serves TURN over TCP.
    #[serde(skip_serializing_if = "is_yes")]
    pub tcp: bool,
    /// IPv6 too.
    #[serde(skip_serializing_if = "is_yes")]
    pub ipv6: bool,
    /// Whether it has a second IPv4 address, so that how a NAT maps can be told from its answers alone.
    #[serde(skip_serializing_if = "is_yes")]
    pub second_address: bool,
    /// Whether its UDP port is filtered in front of it: `udp = false` is refused by its host, this is silent.
    #[serde(skip_serializing_if = "is_default")]
    pub udp_filtered: bool,
    /// A wrong relayed address that it announces, as a server behind a NAT does that does not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_address: Option<std::net::IpAddr>,
    /// What the peers' credentials are like.
    #[serde(skip_serializing_if = "is_default")]
    pub credentials: Credentials,
    /// Its relayed ports are closed to everybody by a firewall.
    #[serde(skip_serializing_if = "is_default")]
    pub relay_ports_closed: bool,
    /// Its TLS certificate: the peers use TURN over TLS when this is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// The port of TURN over TLS: 5349 unless said; none that something else has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_port: Option<u16>,
    /// What it sends leaves so much later.
    #[serde(skip_serializing_if = "is_default")]
    pub answers_after: Span,
    /// Its link.
    #[serde(skip_serializing_if = "is_default")]
    pub link: Link,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            answers: true,
            turn: true,
            udp: true,
            tcp: true,
            ipv6: true,
            second_address: true,
            udp_filtered: false,
            relay_address: None,
            credentials: Credentials::Right,
            relay_ports_closed: false,
            certificate: None,
            tls_port: None,
            answers_after: Span::default(),
            link: Link::default(),
        }
    }
}

/// What TURN credentials are like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Credentials {
    /// As the server wants them.
    #[default]
    Right,
    /// A wrong password.
    Wrong,
    /// Of the kind that carries its end, which is past.
    Expired,
    /// None.
    Missing,
}

/// What a TLS certificate is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Certificate {
    /// By an authority that the peers trust.
    Good,
    /// By nobody they know.
    SelfSigned,
    /// Past.
    Expired,
    /// For another name.
    WrongName,
}

/// What signaling does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Signaling {
    /// How messages of a fare.
    #[serde(skip_serializing_if = "is_default")]
    pub a: SignalingFaults,
    /// How messages of b fare.
    #[serde(skip_serializing_if = "is_default")]
    pub b: SignalingFaults,
}

/// How one side's messages fare.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SignalingFaults {
    /// How long messages take: 20ms unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// How much longer candidates take.
    #[serde(skip_serializing_if = "is_default")]
    pub candidates_delay: Span,
    /// Candidates are lost, end-of-candidates too.
    #[serde(skip_serializing_if = "is_default")]
    pub lose_candidates: bool,
    /// Everything is lost.
    #[serde(skip_serializing_if = "is_default")]
    pub lose_all: bool,
}
