//! What is for a router itself: requests to its port mapping services.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use whyrelay_core::time::Timestamp;

use super::{About, Gate, HostId, Network, Packet, Place, Router, RouterId};
use crate::port_mapping::HTTP_PORT;

impl Network {
    /// Whether a packet from inside is for the router itself.
    pub(super) fn is_own(&self, RouterId(router): RouterId, address: IpAddr) -> bool {
        address.is_multicast() || self.routers[router].extras.inside_addresses.contains(&address)
    }

    /// A packet from inside to the router itself: only a port mapping service answers there.
    pub(super) fn answer(&mut self, now: Timestamp, id: RouterId, packet: Packet) -> Vec<(Timestamp, Place, Packet)> {
        let Router { inside, extras, ipv4, .. } = &mut self.routers[id.0];
        let (inside, to) = (*inside, packet.destination);
        if packet.wrong_checksum {
            return Vec::new();
        }
        let Some(mappings) = extras.mappings.as_mut().filter(|mappings| mappings.listens(to.port())) else {
            if !to.ip().is_multicast() {
                self.complain(id, true, About::PortUnreachable, packet);
            }
            return Vec::new();
        };
        let own = SocketAddr::new(mappings.internal().into(), to.port());
        if let Gate::Table(table) = ipv4 {
            mappings.hold(table);
        }
        let answer = mappings.datagram(now, packet.source, to.port(), &packet.bytes);
        let answer = answer.map(|bytes| (now, Place::On(inside, false), Packet::new(own, packet.source, bytes)));
        answer.into_iter().collect()
    }

    /// The router that has an address on the link of an interface, and how long a packet takes there.
    pub(in crate::world) fn router_on_link(
        &self,
        host: HostId,
        interface: usize,
        address: IpAddr,
    ) -> Option<(RouterId, Duration)> {
        let own = &self.hosts[host.0].interfaces[interface];
        self.router_with(own.segment?, address).map(|router| (RouterId(router), own.link.delay))
    }

    /// A request to a router's HTTP server and its response; `None`: nobody listens there.
    pub(in crate::world) fn http(
        &mut self,
        now: Timestamp,
        RouterId(router): RouterId,
        source: IpAddr,
        to: SocketAddr,
        request: &[u8],
    ) -> Option<Vec<u8>> {
        let Router { extras, ipv4, .. } = &mut self.routers[router];
        let mappings = extras.mappings.as_mut()?;
        if let Gate::Table(table) = ipv4 {
            mappings.hold(table);
        }
        let listens = mappings.serves_http() && to == SocketAddr::new(mappings.internal().into(), HTTP_PORT);
        // A whole request comes at once, so that none needs more bytes.
        listens.then(|| mappings.http(now, source, request).unwrap_or_default())
    }
}
