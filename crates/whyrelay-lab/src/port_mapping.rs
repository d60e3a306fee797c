//! What a router maps ports by, for both worlds: the core's [`MappingRouter`], and which forwards begin and end.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use whyrelay_core::engine::port_mapping::router::{MappingRouter, RouterConfig};
use whyrelay_core::nat::table::Table;
use whyrelay_core::time::Timestamp;
use whyrelay_core::wire::portmap;

use crate::scenario::file::PortMapping;
use crate::scenario::topology::{Router, Topology, Translation};

/// The port of the HTTP server of UPnP, as miniupnpd has it.
pub(crate) const HTTP_PORT: u16 = 5000;

/// Where searches go (UPnP Device Architecture 1.1 §1.3.2).
pub(crate) const SSDP_PORT: u16 = 1900;

/// A forward that begins, or ends: the outside endpoint, and the inside one that it leads to from now on.
pub(crate) type Change = (SocketAddr, Option<SocketAddr>);

/// The router of a scenario that would map ports, though it has none to map: no world runs that.
pub(crate) fn without_ports(topology: &Topology) -> Option<String> {
    let translates = |router: &Router| matches!(router.translation, Translation::Nat(_));
    let unfit = topology.routers.iter().find(|router| !router.port_mapping.is_empty() && !translates(router));
    unfit.map(|router| format!("port mapping by {}, which translates no ports", router.name))
}

/// What a router of a scenario maps ports by; `None` when by nothing.
pub(crate) fn config(router: &Router) -> Option<RouterConfig> {
    let ipv4 = |address: IpAddr| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let speaks = |protocol| router.port_mapping.contains(&protocol);
    (!router.port_mapping.is_empty()).then_some(())?;
    Some(RouterConfig {
        internal: router.inside_addresses.iter().find_map(|cidr| ipv4(cidr.address))?,
        external: router.external().find_map(ipv4)?,
        nat_pmp: speaks(PortMapping::NatPmp),
        pcp: speaks(PortMapping::Pcp),
        upnp: speaks(PortMapping::Upnp).then_some(HTTP_PORT),
    })
}

/// The mappings of one router.
#[derive(Debug)]
pub(crate) struct Mappings {
    router: MappingRouter,
    config: RouterConfig,
    /// What has been told, by outside endpoint.
    told: BTreeMap<SocketAddr, SocketAddr>,
}

impl Mappings {
    pub(crate) const fn new(now: Timestamp, config: RouterConfig) -> Self {
        Self { router: MappingRouter::new(now, config), config, told: BTreeMap::new() }
    }

    /// Its own address inside.
    pub(crate) const fn internal(&self) -> Ipv4Addr {
        self.config.internal
    }

    /// Whether it has a socket at a UDP port.
    pub(crate) const fn listens(&self, port: u16) -> bool {
        match port {
            portmap::PORT => self.config.nat_pmp || self.config.pcp,
            SSDP_PORT => self.config.upnp.is_some(),
            _ => false,
        }
    }

    /// Whether it has an HTTP server.
    pub(crate) const fn serves_http(&self) -> bool {
        self.config.upnp.is_some()
    }

    /// Which of its ports outside the NAT has given out, to which inside endpoints.
    pub(crate) fn hold(&mut self, table: &Table) {
        let held = table.holders(self.config.external.into());
        self.router.hold(held.filter_map(|(port, internal)| match internal {
            SocketAddr::V4(internal) => Some((port, internal)),
            SocketAddr::V6(_) => None,
        }));
    }

    /// A datagram from inside to one of its own ports: the answer, from the same port.
    pub(crate) fn datagram(&mut self, now: Timestamp, source: SocketAddr, port: u16, bytes: &[u8]) -> Option<Vec<u8>> {
        self.router.datagram(now, source, port, bytes)
    }

    /// A request to its HTTP server: the response. `None`: more bytes are needed.
    pub(crate) fn http(&mut self, now: Timestamp, source: IpAddr, request: &[u8]) -> Option<Vec<u8>> {
        self.router.http(now, source, request)
    }

    /// The forwards that have begun and ended since the last call, also by themselves.
    pub(crate) fn changes(&mut self, now: Timestamp) -> Vec<Change> {
        let external = self.config.external;
        let stand: BTreeMap<SocketAddr, SocketAddr> = self
            .router
            .forwards(now)
            .map(|forward| ((external, forward.external_port).into(), SocketAddr::V4(forward.internal)))
            .collect();
        let ended = self.told.keys().filter(|outside| !stand.contains_key(outside)).map(|outside| (*outside, None));
        let begun = stand.iter().filter(|(outside, inside)| self.told.get(outside) != Some(inside));
        let begun = begun.map(|(outside, inside)| (*outside, Some(*inside)));
        let changes = ended.chain(begun).collect();
        self.told = stand;
        changes
    }
}
