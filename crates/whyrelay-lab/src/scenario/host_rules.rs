//! Routes, policy rules and the packet filter of a host, with names replaced by addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::error::Wrong;
use super::file;
use super::plausible::is_edge;
use super::resolve::{least_mtu, public_address};
use super::topology::{FirewallRule, MAIN, Route, Rule, Session, Topology, WrongChecksum};
use super::value::Cidr;
use crate::words::did_you_mean;

/// Names that stand for addresses in a host's routes and rules.
struct Names {
    known: BTreeMap<&'static str, IpAddr>,
}

impl Names {
    fn of(topology: &Topology, index: usize) -> Self {
        let peer = &topology.hosts[usize::from(index == 0)];
        let own = &topology.hosts[index];
        let mut known = BTreeMap::new();
        let mut know = |name, address: Option<IpAddr>| _ = address.map(|address| known.insert(name, address));
        know("peer", public_address(topology, peer, true));
        know("peer6", public_address(topology, peer, false));
        know("peer-host", peer.interfaces[0].addresses.iter().map(|cidr| cidr.address).find(IpAddr::is_ipv4));
        know("server", Some(topology.server_address()));
        know("server6", topology.server.addresses.iter().map(|cidr| cidr.address).find(IpAddr::is_ipv6));
        know("gateway", own.interfaces[0].gateways.iter().map(|(gateway, _)| *gateway).find(IpAddr::is_ipv4));
        Self { known }
    }

    fn network(&self, key: &str, text: &str) -> Result<Cidr, Wrong> {
        match text {
            "default" => return Ok(Cidr::default_of(true)),
            "default6" => return Ok(Cidr::default_of(false)),
            _ => {}
        }
        let (name, prefix) = text.split_once('/').map_or((text, None), |(name, prefix)| (name, Some(prefix)));
        let written = match self.known.get(name) {
            Some(address) => format!("{address}{}", prefix.map(|prefix| format!("/{prefix}")).unwrap_or_default()),
            None => text.to_owned(),
        };
        written.parse().map(Cidr::network).map_err(|problem| {
            let names: Vec<_> = self.known.keys().copied().collect();
            let meant = did_you_mean(name, names.iter().copied().chain(["default", "default6"]));
            let hint = format!("{meant}write a network, default, default6, or one of {}", names.join(", "));
            Wrong::new(key, problem, hint)
        })
    }

    fn address(&self, key: &str, text: &str) -> Result<IpAddr, Wrong> {
        match self.known.get(text) {
            Some(address) => Ok(*address),
            None => text.parse().map_err(|_| {
                let names: Vec<_> = self.known.keys().copied().collect();
                let meant = did_you_mean(text, names.iter().copied());
                let hint = format!("{meant}write an address or one of {}", names.join(", "));
                Wrong::new(key, format!("{text:?} is no address"), hint)
            }),
        }
    }
}

/// Whoever is in a network has an address of it.
fn belongs(
    key: &str,
    interface: &file::Interface,
    own: Cidr,
    segment: Option<usize>,
    topology: &Topology,
) -> Result<(), Wrong> {
    let Some(place) = segment.map(|segment| &topology.segments[segment]) else { return Ok(()) };
    let mut networks = place.ipv4.iter().chain(&place.ipv6);
    if networks.any(|network| network.contains(own.address) && !is_edge(*network, own.address)) {
        return Ok(());
    }
    let networks: Vec<_> = place.ipv4.iter().chain(&place.ipv6).map(ToString::to_string).collect();
    let (name, networks) = (&interface.name, networks.join(" and "));
    let hint = format!(
        "leave `address` out, and {name} gets one there; or give the router whose inside it is that network (`inside`); \
         a tunnel without `behind` may have any"
    );
    Err(Wrong::new(key, format!("{name} is in {networks}, and {} is no host's address there", own.address), hint))
}

/// Routes, policy rules and the packet filter of a host, with names replaced by addresses.
pub(super) fn host_rules(name: &str, spec: &file::Host, index: usize, topology: &mut Topology) -> Result<(), Wrong> {
    let key = format!("host.{name}");
    let names = Names::of(topology, index);
    let known: Vec<String> = topology.hosts[index].interfaces.iter().map(|i| i.name.clone()).collect();
    let device = |key: String, dev: &Option<String>| match dev {
        Some(dev) if dev != "lo" && !known.contains(dev) => {
            let meant = did_you_mean(dev, known.iter().map(String::as_str));
            let hint = format!("{meant}this host has {}", known.join(", "));
            Err(Wrong::new(key, format!("there is no interface {dev:?}"), hint))
        }
        dev => Ok(dev.clone()),
    };
    let network = |key: String, text: &Option<String>| text.as_ref().map(|text| names.network(&key, text)).transpose();

    for (number, interface) in spec.interface.iter().enumerate().filter(|(_, i)| !i.address.is_empty()) {
        let key = format!("{key}.interface[{number}].address");
        let mut addresses = Vec::new();
        for text in &interface.address {
            let network = names.network(&key, text)?;
            // `peer/24`: the network of the peer, in which this host takes the first address that is not the peer's.
            let own: Cidr = match text.parse() {
                Ok(own) => own,
                Err(_) => first_address(network, names.known.get("peer").copied()),
            };
            belongs(&key, interface, own, topology.hosts[index].interfaces[number + 1].segment, topology)?;
            addresses.push(own);
        }
        topology.hosts[index].interfaces[number + 1].addresses = addresses;
    }

    let mut routes = Vec::new();
    for (number, route) in spec.route.iter().enumerate() {
        let key = format!("{key}.route[{number}]");
        let dev = device(format!("{key}.dev"), &route.dev)?;
        if route.kind == file::RouteKind::Unicast && dev.is_none() {
            return Err(Wrong::new(format!("{key}.dev"), "the route leads nowhere", "say the device, or a kind"));
        }
        if dev.as_deref() == Some("lo") {
            let hint = format!("this host has {}; kind = \"blackhole\" leads nowhere", known.join(", "));
            return Err(Wrong::new(format!("{key}.dev"), "no route leads out of lo", hint));
        }
        let to = names.network(&format!("{key}.to"), &route.to)?;
        let via = match (route.via.as_deref(), &dev) {
            (Some("gateway"), Some(dev)) => {
                let own = topology.hosts[index].interfaces.iter().find(|interface| interface.name == *dev);
                let place = own.and_then(|own| own.segment).map(|segment| &topology.segments[segment]);
                let of_family = |gateway: &&IpAddr| gateway.is_ipv4() == to.address.is_ipv4();
                let gateway = place.and_then(|place| place.gateways.iter().find(of_family));
                Some(*gateway.ok_or_else(|| {
                    let problem = match place {
                        Some(_) => format!("nobody is a gateway of {dev} to {to}"),
                        None => format!("{dev} leads nowhere, so that nobody is its gateway"),
                    };
                    Wrong::new(format!("{key}.via"), problem, "write an address, or leave it out")
                })?)
            }
            (Some(text), _) => Some(names.address(&format!("{key}.via"), text)?),
            (None, _) => None,
        };
        least_mtu(&key, route.mtu)?;
        routes.push(Route {
            to,
            kind: route.kind,
            dev,
            via,
            src: route.src.as_ref().map(|src| names.address(&format!("{key}.src"), src)).transpose()?,
            table: route.table.unwrap_or(MAIN),
            metric: route.metric,
            mtu: route.mtu,
        });
    }
    let mut rules = Vec::new();
    for (number, rule) in spec.rule.iter().enumerate() {
        let key = format!("{key}.rule[{number}]");
        let to = network(format!("{key}.to"), &rule.to)?;
        let from = match rule.from.as_deref().and_then(|from| from.strip_prefix("address-of ")) {
            Some(dev) => {
                device(format!("{key}.from"), &Some(dev.to_owned()))?;
                let host = &topology.hosts[index];
                let own = host.interfaces.iter().find(|interface| interface.name == dev);
                // Where the destination does not say the family, the first.
                let of_family = |own: &&Cidr| to.is_none_or(|to| to.address.is_ipv4() == own.address.is_ipv4());
                let address = own.and_then(|own| own.addresses.iter().find(of_family));
                Some(Cidr::host(address.map(|cidr| cidr.address).ok_or_else(|| {
                    let what = to.map_or(String::new(), |to| format!(" of the family of {to}"));
                    let hint = "name an interface with an address";
                    Wrong::new(format!("{key}.from"), format!("{dev} has no address{what}"), hint)
                })?))
            }
            None => network(format!("{key}.from"), &rule.from)?,
        };
        one_family(&key, from, to)?;
        if rule.action == file::RuleAction::Lookup && rule.table.is_none() {
            return Err(Wrong::new(format!("{key}.table"), "the rule looks nowhere", "say the table, or an action"));
        }
        rules.push(Rule {
            priority: rule.priority,
            not: rule.not,
            from,
            to,
            fwmark: rule.fwmark,
            oif: device(format!("{key}.oif"), &rule.oif)?,
            iif: device(format!("{key}.iif"), &rule.iif)?,
            ipproto: rule.ipproto,
            sport: rule.sport.clone(),
            dport: rule.dport.clone(),
            uidrange: rule.uidrange.clone(),
            action: rule.action,
            table: rule.table.unwrap_or(0),
            suppress_prefixlength: rule.suppress_prefixlength,
        });
    }
    let mut firewall = Vec::new();
    for (number, rule) in spec.firewall.iter().enumerate() {
        let key = format!("{key}.firewall[{number}]");
        if (rule.verdict == file::Verdict::SetMark) != rule.mark.is_some() {
            return Err(Wrong::new(
                format!("{key}.mark"),
                "a mark and no rule for it",
                "say verdict = \"set-mark\" and mark",
            ));
        }
        let (from, to) = (network(format!("{key}.from"), &rule.from)?, network(format!("{key}.to"), &rule.to)?);
        one_family(&key, from, to)?;
        firewall.push(FirewallRule {
            hook: rule.hook,
            verdict: rule.verdict,
            mark: rule.mark,
            fwmark: rule.fwmark,
            ipproto: rule.ipproto,
            from,
            to,
            sport: rule.sport.clone(),
            dport: rule.dport.clone(),
            dev: device(format!("{key}.dev"), &rule.dev)?,
            unsolicited: rule.unsolicited,
        });
    }
    let silent = spec.silent_neighbor.iter().map(|text| names.address(&format!("{key}.silent-neighbor"), text));
    let silent = silent.collect::<Result<Vec<_>, _>>()?;
    let near = |address: &&IpAddr| {
        let mut interfaces = topology.hosts[index].interfaces.iter();
        interfaces.any(|own| own.addresses.iter().any(|cidr| cidr.contains(**address)))
            || routes.iter().any(|route| route.via.is_none() && route.to.contains(**address))
    };
    if let Some(far) = silent.iter().find(|address| !near(address)) {
        let hint = "write an address of a network that one of its interfaces is in, or \"gateway\"";
        return Err(Wrong::new(format!("{key}.silent-neighbor"), format!("{far} is no neighbor of this host"), hint));
    }
    let to = spec.wrong_checksum.iter().map(|text| names.network(&format!("{key}.wrong-checksum"), text));
    let to = to.collect::<Result<Vec<_>, _>>()?;
    let wrong_checksum = match topology.sessions.get(index).filter(|_| !to.is_empty()) {
        Some(Session { port: 0, .. }) => {
            let hint = "say another session.port: the packets are known by it";
            return Err(Wrong::new(format!("{key}.wrong-checksum"), "any port may be this session's", hint));
        }
        Some(Session { port, .. }) => Some(WrongChecksum { port: *port, to }),
        None => None,
    };
    let host = &mut topology.hosts[index];
    host.wrong_checksum = wrong_checksum;
    (host.routes, host.rules, host.firewall, host.silent_neighbors) = (routes, rules, firewall, silent);
    Ok(())
}

/// No packet goes from one family to the other.
fn one_family(key: &str, from: Option<Cidr>, to: Option<Cidr>) -> Result<(), Wrong> {
    match (from, to) {
        (Some(from), Some(to)) if from.address.is_ipv4() != to.address.is_ipv4() => {
            let problem = format!("nothing goes from {from} to {to}");
            Err(Wrong::new(format!("{key}.to"), problem, "write two networks of one family"))
        }
        _ => Ok(()),
    }
}

/// The first address of a network that is not someone's.
fn first_address(network: Cidr, taken: Option<IpAddr>) -> Cidr {
    let plus = |number: u32| match network.address {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + number).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(number)).into()),
    };
    let address = if taken == Some(plus(1)) { plus(2) } else { plus(1) };
    Cidr { address, prefix: network.prefix }
}
