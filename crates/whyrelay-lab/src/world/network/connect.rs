//! The ways of TCP connections.

use std::net::SocketAddr;
use std::time::Duration;

use whyrelay_core::time::Timestamp;

use super::{Gate, HostId, Network};
use crate::world::tcp::Passing;

/// The way of a connection.
#[derive(Clone, Copy, Debug)]
pub(in crate::world) struct TcpWay {
    /// Where it ends.
    pub(in crate::world) far: HostId,
    /// The source that the far end sees.
    pub(in crate::world) source: SocketAddr,
    /// One way.
    pub(in crate::world) delay: Duration,
    /// Each way.
    pub(in crate::world) passing: Passing,
}

impl Network {
    /// How a TCP connection leaves by an interface: the source address that the far end sees, and the delay one way.
    /// `None`: it cannot be made. Only hosts on the Internet accept connections.
    pub(in crate::world) fn connect(
        &mut self,
        now: Timestamp,
        host: HostId,
        interface: usize,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Option<TcpWay> {
        let own = &self.hosts[host.0].interfaces[interface];
        let (mut segment, mut source) = (own.segment?, source);
        let (mut delay, mut passing) = (own.link.delay, Passing::EVERYTHING.behind(&own.link));
        while segment != Self::INTERNET {
            // Else the router sends the answers nowhere.
            if !self.is_reached(segment, source.ip()) {
                return None;
            }
            let router = self.routers.iter_mut().find(|router| router.inside == segment)?;
            if !router.egress.lets_tcp(destination) {
                return None;
            }
            if let Gate::Table(table) = &mut router.tcp {
                source = table.outbound(now, source, destination)?;
            } else {
                return None;
            }
            delay += router.link.delay;
            passing = passing.behind(&router.link);
            segment = router.outside;
        }
        let (far, interface) = self.at(segment, destination.ip())?;
        let link = self.hosts[far.0].interfaces[interface].link;
        let (delay, passing) = (delay + link.delay, passing.behind(&link));
        (!passing.is_nothing()).then_some(TcpWay { far, source, delay, passing })
    }
}
