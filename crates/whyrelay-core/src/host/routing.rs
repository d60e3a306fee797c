//! What the kernel's routing answers for the session's own packets (RTM_GETROUTE).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::network::{Prefix, RouteKind};

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoutePurpose {
    /// A candidate of the peer.
    Peer,
    /// A STUN or TURN server.
    Server,
}

/// A question to the kernel's routing: a packet of the session as the kernel would see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteQuestion {
    /// What it is about.
    pub purpose: RoutePurpose,
    /// Where to.
    pub destination: IpAddr,
    /// The destination port.
    pub destination_port: u16,
    /// The source address; `None`: left to the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The source port; `None`: not in the question, as for a raw socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// The IP protocol: 17 UDP, 6 TCP.
    pub protocol: u8,
    /// The firewall mark.
    #[serde(default)]
    pub mark: u32,
    /// The user id.
    pub user: u32,
    /// The interface that the socket is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_device: Option<String>,
    /// Whether it is about a probe's socket; else about one of the session's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
}

/// A route that the kernel chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredRoute {
    /// What it does.
    pub route_kind: RouteKind,
    /// The interface that the packet leaves by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The next hop; `None`: on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_source: Option<IpAddr>,
    /// The table that it is from: 254 main, 255 local.
    pub table: u32,
    /// The prefix of the route that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<Prefix>,
    /// The MTU that is known for this path (an exception of the route cache, or of the route), in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// The kernel has no route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFailure {
    /// errno: ENETUNREACH no route, EINVAL blackhole, EACCES prohibit, EHOSTUNREACH unreachable.
    pub errno: i32,
    /// Its name and meaning.
    pub detail: String,
}

/// A question and the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteAnswer {
    /// The question.
    pub question: RouteQuestion,
    /// The route, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<AnsweredRoute>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RouteFailure>,
    /// The priority of the policy rule that decided, worked out from the rules' selectors; `None`: not worked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
}

impl RouteAnswer {
    /// The interface that the packet leaves by.
    pub fn device(&self) -> Option<&str> {
        self.route.as_ref()?.device.as_deref()
    }
}
