//! The host that a peer is on, and the servers that it is told.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use whyrelay_core::engine::gather::{Password, Server};
use whyrelay_core::host::{Moment, RoutePurpose};
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::EventKind;

use super::super::facts;
use super::super::server::{PASSWORD, USERNAME, secret};
use super::{INTERFACE, Peer};
use crate::scenario::{STUN_PORT, file};

impl Peer {
    pub(super) fn servers(&self) -> Vec<Server> {
        let login = match self.setup.credentials {
            file::Credentials::Right => Some((USERNAME.to_owned(), PASSWORD.to_owned())),
            file::Credentials::Wrong => Some((USERNAME.to_owned(), "wrong".to_owned())),
            // Expired an hour before the world begins.
            file::Credentials::Expired => secret().map(|secret| {
                let past = Timestamp::from_micros(crate::world::START.as_micros() - 3_600_000_000);
                let limited = secret.credentials(USERNAME, past);
                (limited.username, limited.password)
            }),
            file::Credentials::Missing => None,
        };
        if let Some(address) = self.setup.tls {
            let (username, password) = login.map(|(user, password)| (user, Password::new(password))).unzip();
            // STUN they are told of by signaling, as the server announces it.
            let stun = format!("stun:{}", SocketAddr::new(address.ip(), STUN_PORT));
            let known = [(stun, None, None), (format!("turns:{address}?transport=tcp"), username, password)];
            let server = |(url, username, password): (String, _, _)| {
                Some(Server { url: url.parse().ok()?, addresses: vec![address.ip()], username, password })
            };
            return known.into_iter().filter_map(server).collect();
        }
        let mut servers = Vec::new();
        let mut add = |ip: IpAddr, scheme: &str, query: &str| {
            let host = SocketAddr::new(ip, STUN_PORT);
            let Ok(url) = format!("{scheme}:{host}{query}").parse() else { return };
            let login = login.clone().filter(|_| scheme == "turn");
            let (username, password) = login.map(|(user, password)| (user, Password::new(password))).unzip();
            servers.push(Server { url, addresses: vec![ip], username, password });
        };
        let mut seen = Vec::new();
        for ip in self.server.iter().copied() {
            if !self.addresses.iter().any(|own| own.is_ipv4() == ip.is_ipv4()) {
                continue;
            }
            add(ip, "stun", "");
            // TURN by the first address of each family; further ones are for finding out how a NAT maps.
            if seen.contains(&ip.is_ipv4()) {
                continue;
            }
            seen.push(ip.is_ipv4());
            if self.setup.turn_udp {
                add(ip, "turn", "");
            }
            if self.setup.turn_tcp {
                add(ip, "turn", "?transport=tcp");
            }
        }
        servers
    }

    /// Names, indexes and addresses of the interfaces.
    pub(super) fn interfaces(&self) -> Vec<(String, u32, Vec<IpAddr>)> {
        let Some(kernel) = &self.kernel else { return vec![(INTERFACE.to_owned(), 2, self.addresses.clone())] };
        let interfaces = kernel.host.interfaces.iter().zip(2..);
        let addresses =
            |own: &crate::scenario::topology::Interface| own.addresses.iter().map(|cidr| cidr.address).collect();
        interfaces.map(|(own, index)| (own.name.clone(), index, addresses(own))).collect()
    }

    /// The interface that has an address.
    pub(in crate::world) fn interface_of(&self, address: IpAddr) -> String {
        let own = self.kernel.as_ref().and_then(|kernel| kernel.addresses.iter().find(|own| own.address == address));
        own.map_or_else(|| INTERFACE.to_owned(), |own| own.device.clone())
    }

    /// Addresses of the peer that it was told.
    pub(in crate::world) fn addresses_of_peer(&self) -> BTreeSet<IpAddr> {
        let others = self.others.iter().map(SocketAddr::ip);
        others.filter(|address| !self.server.contains(address)).collect()
    }

    pub(super) fn record_facts(&mut self, now: Timestamp, moment: Moment, facts: Vec<whyrelay_core::host::HostFact>) {
        for fact in facts {
            self.record(now, EventKind::HostFact { moment, fact: Box::new(fact) });
        }
    }

    pub(super) fn ask_for_servers(&mut self, now: Timestamp) {
        let told = if self.setup.tls.is_some() { 1 } else { self.server.len() };
        for ip in self.server.clone().into_iter().take(told) {
            self.ask_route(now, RoutePurpose::Server, SocketAddr::new(ip, STUN_PORT));
        }
    }

    /// As for what is sent to an address that was not asked about yet.
    pub(in crate::world) fn ask_route_once(&mut self, now: Timestamp, purpose: RoutePurpose, to: SocketAddr) {
        if !self.others.contains(&to) {
            self.ask_route(now, purpose, to);
        }
    }

    pub(super) fn ask_route(&mut self, now: Timestamp, purpose: RoutePurpose, to: SocketAddr) {
        let Some(kernel) = &self.kernel else { return };
        self.others.insert(to);
        let facts = facts::routes(kernel, purpose, &self.sockets, to);
        self.record_facts(now, Moment::During, facts);
    }
}
