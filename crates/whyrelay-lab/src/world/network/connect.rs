//! The ways of TCP connections.

use std::net::SocketAddr;
use std::time::Duration;

use whyrelay_core::time::Timestamp;

use super::{About, Gate, HostId, Network};
use crate::world::kernel::{ECONNREFUSED, EHOSTUNREACH};
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
    /// Only hosts on the Internet accept connections.
    ///
    /// # Errors
    /// It cannot be made: `connect`'s errno and when it says so, where a router refuses it.
    pub(in crate::world) fn connect(
        &mut self,
        now: Timestamp,
        host: HostId,
        interface: usize,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<TcpWay, Option<(i32, Duration)>> {
        let own = &self.hosts[host.0].interfaces[interface];
        let (mut segment, mut source) = (own.segment.ok_or(None)?, source);
        let (mut delay, mut passing) = (own.link.delay, Passing::everything(destination.ip()).behind(&own.link));
        while segment != Self::INTERNET {
            // Else the router sends the answers nowhere.
            if !self.is_reached(segment, source.ip()) {
                return Err(None);
            }
            let router = self.routers.iter_mut().find(|router| router.inside == segment).ok_or(None)?;
            if !router.egress.lets_tcp(destination) {
                let about = router.extras.rejects.filter(|_| router.extras.icmp);
                return Err(about.map(|about| (errno(about, destination.is_ipv4()), delay * 2)));
            }
            let Gate::Table(table) = &mut router.tcp else { return Err(None) };
            source = table.outbound(now, source, destination).ok_or(None)?;
            delay += router.link.delay;
            passing = passing.behind_router(&router.link, router.extras.icmp);
            segment = router.outside;
        }
        let (far, interface) = self.at(segment, destination.ip()).ok_or(None)?;
        let link = self.hosts[far.0].interfaces[interface].link;
        let (delay, passing) = (delay + link.delay, passing.behind(&link));
        if passing.is_nothing() { Err(None) } else { Ok(TcpWay { far, source, delay, passing }) }
    }
}

/// What `connect` says where a router refuses a connection: Linux's icmp_err_convert and icmpv6_err_convert.
const fn errno(about: About, ipv4: bool) -> i32 {
    const EACCES: i32 = 13;
    match (about, ipv4) {
        (About::PortUnreachable, _) => ECONNREFUSED,
        (About::Prohibited, false) => EACCES,
        _ => EHOSTUNREACH,
    }
}
