//! Which packets a router lets out.

use std::net::SocketAddr;

use crate::scenario::value::Span32;

/// Which packets a router lets out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    /// All of them.
    #[default]
    Everything,
    /// No UDP. TCP passes.
    NoUdp,
    /// UDP to these ports only, like a firewall that allows what STUN needs and nothing else. TCP passes.
    UdpTo(Vec<u16>),
    /// UDP is dropped, and TCP passes to these ports only.
    TcpTo(Vec<u16>),
    /// UDP and TCP to these ports only, as a scenario says; what it does not say passes.
    Ports {
        /// UDP.
        udp: Option<Vec<Span32>>,
        /// TCP.
        tcp: Option<Vec<Span32>>,
    },
}

impl Egress {
    pub(super) fn lets_udp(&self, to: SocketAddr) -> bool {
        match self {
            Self::Everything => true,
            Self::NoUdp | Self::TcpTo(_) => false,
            Self::UdpTo(ports) => ports.contains(&to.port()),
            Self::Ports { udp, .. } => lets(udp.as_ref(), to),
        }
    }

    pub(super) fn lets_tcp(&self, to: SocketAddr) -> bool {
        match self {
            Self::TcpTo(ports) => ports.contains(&to.port()),
            Self::Ports { tcp, .. } => lets(tcp.as_ref(), to),
            _ => true,
        }
    }
}

fn lets(ports: Option<&Vec<Span32>>, to: SocketAddr) -> bool {
    ports.is_none_or(|ports| ports.iter().any(|span| span.contains(to.port().into())))
}
