//! What a stranger would find out about a host's NAT (RFC 5780), asked of the same tables as in virtual time.
//!
//! The namespaces are asked themselves (`kernel::discovery`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use whyrelay_core::nat::behavior::{Behavior, FilteringBehavior, MappingBehavior};
use whyrelay_core::nat::table::Table;
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

use crate::scenario::Topology;
use crate::scenario::file::Discovered;
use crate::scenario::topology::{Router, Translation};
use crate::scenario::value::Span32;

/// The server's port, and its other one (RFC 5780 §7.3).
const PORTS: [u16; 2] = [3478, 3479];

/// An address of the Internet that nobody has.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));

/// What is discovered from a host's `eth0` over IPv4. Without UDP nothing but that is.
pub fn discover(topology: &Topology, host: &str) -> Discovered {
    let nothing = Discovered { udp: Some(false), ..Discovered::default() };
    let found = topology.hosts.iter().position(|known| known.name == host);
    let Some(index) = found else { return nothing };
    let Some(eth0) = topology.hosts[index].interfaces.first() else { return nothing };
    let address = eth0.addresses.iter().map(|cidr| cidr.address).find(IpAddr::is_ipv4);
    let addresses = topology.server.addresses.iter().map(|cidr| cidr.address);
    let servers: Vec<IpAddr> = addresses.filter(IpAddr::is_ipv4).collect();
    let (Some(segment), Some(address), Some(first)) = (eth0.segment, address, servers.first()) else {
        return nothing;
    };
    // A stranger has a second address, also where the scenario's server has none.
    let second = servers.get(1).unwrap_or(&STRANGER);
    let port = topology.sessions.get(index).map_or(40_000, |session| session.port);
    let server = |address: &IpAddr, port: usize| SocketAddr::new(*address, PORTS[port]);
    let primary = server(first, 0);
    let fresh = || Way::of(topology, segment, address);

    // Each test has tables of its own, as if all else had been forgotten.
    let mut way = fresh();
    let local = SocketAddr::new(address, port);
    let Some(mapped) = way.out(local, primary).filter(|mapped| way.back(primary, *mapped) == Some(local)) else {
        return nothing;
    };
    // RFC 5780 §4.3; where the second port is not let out to, the second address tells what there is to tell.
    let by_address = way.out(local, server(second, 0));
    let by_port = way.out(local, server(second, 1)).or(by_address);
    let mapping =
        by_address.zip(by_port).map(|(by_address, by_port)| match (by_address == mapped, by_port == by_address) {
            (true, true) => MappingBehavior::EndpointIndependent,
            (false, true) => MappingBehavior::AddressDependent,
            (_, false) => MappingBehavior::AddressAndPortDependent,
        });
    let lets_in = |from: SocketAddr| {
        let mut way = fresh();
        way.out(local, primary).is_some_and(|mapped| way.back(from, mapped) == Some(local))
    };
    let filtering = match (lets_in(server(second, 1)), lets_in(server(first, 1))) {
        (true, _) => FilteringBehavior::EndpointIndependent,
        (false, true) => FilteringBehavior::AddressDependent,
        (false, false) => FilteringBehavior::AddressAndPortDependent,
    };
    Discovered {
        udp: Some(true),
        mapping,
        filtering: Some(filtering),
        hairpinning: Some(fresh().reaches_itself(local, primary)),
        port_preservation: Some(mapped.port() == port),
    }
}

/// What a scenario expects to be discovered and is not so, by host, in words.
pub fn contradictions(
    expected: &BTreeMap<String, Discovered>,
    discovered: &BTreeMap<String, Discovered>,
) -> Vec<String> {
    fn differs<T: PartialEq + Copy>(
        [host, field]: [&str; 2],
        (expected, found): (Option<T>, Option<T>),
        words: impl Fn(T) -> String,
    ) -> Option<String> {
        let expected = expected?;
        let found = match found {
            Some(found) if found == expected => return None,
            Some(found) => words(found),
            None => "not to be found out".to_owned(),
        };
        Some(format!("expect.nat.{host}.{field}: it is {found}, expected {}", words(expected)))
    }
    let mut wrong = Vec::new();
    for (host, expected) in expected {
        let found = discovered.get(host).copied().unwrap_or_default();
        let Discovered { udp, mapping, filtering, hairpinning, port_preservation } = *expected;
        wrong.extend(differs([host, "udp"], (udp, found.udp), |yes| yes.to_string()));
        wrong.extend(differs([host, "mapping"], (mapping, found.mapping), |kind| kind.to_string()));
        wrong.extend(differs([host, "filtering"], (filtering, found.filtering), |kind| kind.to_string()));
        wrong.extend(differs([host, "hairpinning"], (hairpinning, found.hairpinning), |yes| yes.to_string()));
        let ports = (port_preservation, found.port_preservation);
        wrong.extend(differs([host, "port-preservation"], ports, |yes| yes.to_string()));
    }
    wrong
}

/// What is found, in words: of all that can be, what is expected to be.
pub(crate) fn words(expected: &Discovered, found: &Discovered) -> String {
    fn word<T>(expected: Option<T>, field: &str, found: Option<impl ToString>) -> Option<String> {
        let found = || found.map_or_else(|| "unknown".to_owned(), |found| found.to_string());
        expected.map(|_| format!("{field} {}", found()))
    }
    let words = [
        word(expected.udp, "udp", found.udp),
        word(expected.mapping, "mapping", found.mapping),
        word(expected.filtering, "filtering", found.filtering),
        word(expected.hairpinning, "hairpinning", found.hairpinning),
        word(expected.port_preservation, "port-preservation", found.port_preservation),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The routers between a host and the Internet with their tables, the nearest first.
struct Way<'a> {
    hops: Vec<(&'a Router, Table)>,
}

impl<'a> Way<'a> {
    fn of(topology: &'a Topology, segment: usize, host: IpAddr) -> Self {
        let mut random = Random::from_number(topology.seed);
        // From where it is sent on this segment.
        let mut sources = vec![host];
        let mut hops = Vec::new();
        for router in topology.way_out(segment) {
            let filter = |filtering| Behavior::new(MappingBehavior::EndpointIndependent, filtering);
            let table = match &router.translation {
                Translation::Nat(behavior) => {
                    sources = router.external().collect();
                    Table::new(behavior.clone(), router.external().collect(), random.fork())
                }
                Translation::OneToOne { filtering, pairs, .. } => {
                    let table = Table::new(filter(*filtering), Vec::new(), random.fork());
                    sources = pairs.iter().filter(|pair| sources.contains(&pair.0)).map(|pair| pair.1).collect();
                    pairs.iter().fold(table, |table, (inside, outside)| table.with_one_to_one(*inside, *outside))
                }
                Translation::Nothing { filtering, .. } => {
                    let table = Table::new(filter(*filtering), Vec::new(), random.fork());
                    sources.iter().fold(table, |table, own| table.with_one_to_one(*own, *own))
                }
            };
            let table = router.forwards.iter().fold(table, |table, (out, inside)| table.with_forward(*out, *inside));
            hops.push((router, table));
        }
        Self { hops }
    }

    /// The source that a destination on the Internet sees; nothing: the packet is stopped.
    fn out(&mut self, source: SocketAddr, destination: SocketAddr) -> Option<SocketAddr> {
        self.hops.iter_mut().try_fold(source, |source, (router, table)| leave(router, table, source, destination))
    }

    /// Where a packet from the Internet ends.
    fn back(&mut self, source: SocketAddr, destination: SocketAddr) -> Option<SocketAddr> {
        let hops = self.hops.len();
        self.back_from(hops, source, destination)
    }

    /// The same for one that is inside of the router with a number.
    fn back_from(&mut self, outer: usize, source: SocketAddr, destination: SocketAddr) -> Option<SocketAddr> {
        self.hops[..outer].iter_mut().rev().try_fold(destination, |destination, (router, table)| {
            lets(router.stateless_inbound.as_ref(), destination).then_some(())?;
            table.inbound(NOW, source, destination)
        })
    }

    /// Whether a packet from the host to its own mapped address comes back to it.
    fn reaches_itself(&mut self, local: SocketAddr, server: SocketAddr) -> bool {
        let Some(mapped) = self.out(local, server) else { return false };
        // Its own address: what it sends there never leaves it.
        if mapped == local {
            return true;
        }
        // Its own filter lets in from there what it has sent to.
        let mut source = local;
        for number in 0..self.hops.len() {
            let (router, table) = &mut self.hops[number];
            if table.is_external(mapped.ip()) {
                let Some((seen, inside)) = table.hairpin(NOW, source, mapped) else { return false };
                // What comes from outside with its own address a host drops.
                return seen.ip() != local.ip() && self.back_from(number, seen, inside) == Some(local);
            }
            match leave(router, table, source, mapped) {
                Some(outside) => source = outside,
                None => return false,
            }
        }
        false
    }
}

/// All of a discovery happens before anything ends.
const NOW: Timestamp = Timestamp::from_micros(1_000_000);

fn leave(router: &Router, table: &mut Table, source: SocketAddr, destination: SocketAddr) -> Option<SocketAddr> {
    if !lets(router.egress.udp.as_ref(), destination) {
        return None;
    }
    table.outbound(NOW, source, destination)
}

/// Without a list of ports everything passes.
fn lets(ports: Option<&Vec<Span32>>, destination: SocketAddr) -> bool {
    ports.is_none_or(|ports| ports.iter().any(|range| range.contains(destination.port().into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn topology(pieces: &str) -> Topology {
        let text = format!("title = \"t\"\n{pieces}[host.b]\n[expect]\npath = \"direct\"\n");
        Scenario::parse("test", &text).unwrap_or_else(|error| panic!("{error}\n{text}")).topology
    }

    #[test]
    fn a_nat_is_discovered_as_it_is() {
        for mapping in MappingBehavior::ALL {
            for filtering in FilteringBehavior::ALL {
                // A router that keeps ports looks endpoint-independent whatever its mappings are.
                let router = format!(
                    "[router.r]\nmapping = \"{mapping}\"\nfiltering = \"{filtering}\"\nports = \"random\"\noverloading = false\n"
                );
                let found = discover(&topology(&format!("{router}[host.a]\nbehind = \"r\"\n")), "a");
                assert_eq!((found.udp, found.mapping, found.filtering), (Some(true), Some(mapping), Some(filtering)));
            }
        }
    }

    #[test]
    fn a_hairpin_with_the_senders_own_address_is_dropped_by_the_host_that_sent_it() {
        for (source, reaches) in [("external-source", true), ("internal-source", false), ("unsupported", false)] {
            let router = format!("[router.r]\nhairpinning = \"{source}\"\n[host.a]\nbehind = \"r\"\n");
            assert_eq!(discover(&topology(&router), "a").hairpinning, Some(reaches), "{source}");
        }
    }

    /// The nearest first: UDP, mapping, filtering, hairpinning, the port is kept.
    #[test]
    fn a_chain_of_routers_is_discovered_as_one() {
        use FilteringBehavior as F;
        use MappingBehavior as M;
        let (ei, apd) = (M::EndpointIndependent, M::AddressAndPortDependent);
        for (behind, expected) in [
            ("[]", (ei, F::EndpointIndependent, true, true)),
            ("[\"home-router\"]", (ei, F::AddressAndPortDependent, false, true)),
            ("[\"home-router-hairpin\"]", (ei, F::AddressAndPortDependent, true, true)),
            ("[\"home-router-open\"]", (ei, F::EndpointIndependent, false, true)),
            ("[\"cloud\"]", (ei, F::EndpointIndependent, false, true)),
            ("[\"stateful-firewall\"]", (ei, F::AddressAndPortDependent, true, true)),
            ("[\"pfsense\"]", (apd, F::AddressAndPortDependent, false, false)),
            ("[\"home-router\", \"mobile-carrier\"]", (ei, F::AddressAndPortDependent, true, false)),
            ("[\"home-router\", \"mobile-carrier-symmetric\"]", (apd, F::AddressAndPortDependent, false, false)),
            ("[\"docker-bridge\", \"cloud\"]", (ei, F::AddressAndPortDependent, false, true)),
        ] {
            let found = discover(&topology(&format!("[host.a]\nbehind = {behind}\n")), "a");
            let Discovered { udp, mapping, filtering, hairpinning, port_preservation } = found;
            let (m, f, hairpins, keeps) = expected;
            assert_eq!(udp, Some(true), "{behind}");
            assert_eq!((mapping, filtering), (Some(m), Some(f)), "{behind}");
            assert_eq!((hairpinning, port_preservation), (Some(hairpins), Some(keeps)), "{behind}");
        }
        for closed in ["corporate-no-udp", "stateless-firewall"] {
            let found = discover(&topology(&format!("[host.a]\nbehind = {closed:?}\n")), "a");
            assert_eq!(found, Discovered { udp: Some(false), ..Discovered::default() }, "{closed}");
        }
    }
}
