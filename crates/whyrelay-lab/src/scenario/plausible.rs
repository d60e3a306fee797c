//! What of a laid-out network cannot be: a kernel would refuse it, or two would have the same address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::error::Wrong;
use super::layout::ON_THE_INTERNET;
use super::topology::{Host, INTERNET, Link, Route, Rule, Topology, Translation};
use super::value::Cidr;

/// Most copies of one packet that arrive from one peer at the other: four links that double everything.
const MOST_COPIES: f64 = 16.0;

pub(super) fn check(topology: &Topology) -> Result<(), Wrong> {
    if let Some(host) = topology.hosts.iter().find(|host| topology.routers.iter().any(|it| it.name == host.name)) {
        let hint = "give each a name of its own; a router that is made for a preset is called HOST-PRESET";
        return Err(Wrong::new(format!("host.{}", host.name), "a router has this name, too", hint));
    }
    topology.hosts.iter().try_for_each(|host| once_each(host).and_then(|()| rules(host)))?;
    addresses(topology)?;
    // A session there would have no socket, and end before it begins.
    let peers = &topology.hosts[..topology.sessions.len()];
    if let Some(host) = peers.iter().find(|host| host.addresses().next().is_none()) {
        let hint = "leave it out, or say ipv6 = true";
        return Err(Wrong::new(format!("host.{}.ipv4", host.name), "this host has no address", hint));
    }
    forwards(topology)?;
    duplicates(topology)?;
    topology.hosts.iter().try_for_each(routes)
}

/// An interface has each of its addresses once.
fn once_each(host: &Host) -> Result<(), Wrong> {
    for (index, interface) in host.interfaces.iter().enumerate().skip(1) {
        let mut seen = BTreeSet::new();
        if let Some(twice) = interface.addresses.iter().find(|own| !seen.insert(own.address)) {
            let key = format!("host.{}.interface[{}].address", host.name, index - 1);
            return Err(Wrong::new(key, format!("{} is there twice", twice.address), "write it once"));
        }
    }
    Ok(())
}

/// A kernel takes these policy rules: it adds none that it has.
fn rules(host: &Host) -> Result<(), Wrong> {
    // Any source, of one family, is said in two ways.
    let plain = |rule: &Rule| {
        let any = |network: Option<Cidr>| network.filter(|network| network.prefix > 0);
        Rule { from: any(rule.from), to: any(rule.to), ..rule.clone() }
    };
    let is_of = |rule: &Rule, ipv4: bool| {
        [rule.from, rule.to].into_iter().flatten().all(|network| network.address.is_ipv4() == ipv4)
    };
    let usual = Host { rules: Vec::new(), ..host.clone() }.all_rules();
    for (index, rule) in host.rules.iter().enumerate() {
        let mut earlier = usual.iter().chain(&host.rules[..index]);
        let same = |other: &Rule| {
            plain(other) == plain(rule) && [true, false].iter().any(|ipv4| is_of(other, *ipv4) && is_of(rule, *ipv4))
        };
        if earlier.any(same) {
            let key = format!("host.{}.rule[{index}]", host.name);
            let hint = "give it another priority, or leave it out";
            return Err(Wrong::new(key, "there is such a rule already", hint));
        }
    }
    Ok(())
}

/// Everybody has addresses of the network that it is in, and nobody has another's.
fn addresses(topology: &Topology) -> Result<(), Wrong> {
    let mut owners: BTreeMap<(usize, IpAddr), String> = BTreeMap::new();
    let mut give = |segment: usize, address: IpAddr, owner: String| -> Result<(), Wrong> {
        let hint = match segment {
            INTERNET => format!("{ON_THE_INTERNET}: put hosts behind one router, or give routers fewer `addresses`"),
            _ => "take a larger `inside`, fewer hosts, or fewer `addresses` of routers".to_owned(),
        };
        let place = &topology.segments[segment];
        let known = place.ipv4.iter().chain(&place.ipv6);
        if !known.clone().any(|network| network.contains(address) && !is_edge(*network, address)) {
            let networks: Vec<_> = place.ipv4.iter().map(ToString::to_string).collect();
            let problem = format!("no address is left for it in {}", networks.join(", "));
            return Err(Wrong::new(owner, problem, hint));
        }
        match owners.insert((segment, address), owner.clone()) {
            Some(other) => {
                let problem = format!("{other} has its address {address}, too");
                let another = "give it another `address`; what says none gets one that nobody said before it";
                Err(Wrong::new(owner, problem, if segment == INTERNET { &hint } else { another }))
            }
            None => Ok(()),
        }
    };
    for cidr in &topology.server.addresses {
        give(INTERNET, cidr.address, "server".to_owned())?;
    }
    for router in &topology.routers {
        let own = || format!("router.{}", router.name);
        router.inside_addresses.iter().try_for_each(|cidr| give(router.inside, cidr.address, own()))?;
        router.outside_addresses.iter().try_for_each(|cidr| give(router.outside, cidr.address, own()))?;
        if let Translation::OneToOne { pairs, .. } = &router.translation {
            pairs.iter().try_for_each(|(_, outside)| give(router.outside, *outside, own()))?;
        }
    }
    for host in &topology.hosts {
        for interface in &host.interfaces {
            let Some(segment) = interface.segment else { continue };
            for cidr in &interface.addresses {
                give(segment, cidr.address, format!("host.{}", host.name))?;
            }
        }
    }
    Ok(())
}

/// The first and the last address of an IPv4 network are nobody's.
pub(super) fn is_edge(network: Cidr, address: IpAddr) -> bool {
    let (IpAddr::V4(first), IpAddr::V4(address)) = (network.network().address, address) else { return false };
    let hosts = u32::MAX.checked_shr(u32::from(network.prefix)).unwrap_or(0);
    let number = u32::from(address) - u32::from(first);
    number == 0 || number == hosts
}

/// Of one packet a few copies arrive: whoever gets them answers each, and of each answer as many come back.
fn duplicates(topology: &Topology) -> Result<(), Wrong> {
    let times = |link: &Link| 1.0 + f64::from(link.duplication) / 10_000.0;
    let of_way = |segment: Option<usize>| {
        let routers = segment.map(|segment| topology.way_out(segment)).unwrap_or_default();
        routers.into_iter().map(|router| times(&router.link)).product::<f64>()
    };
    let of_host = |host: &Host| {
        let ways = host.interfaces.iter().map(|own| times(&own.link) * of_way(own.segment));
        ways.fold(1.0, f64::max)
    };
    let peers = &topology.hosts[..topology.sessions.len()];
    // The longest way is by a relay: to the server and from it again.
    let copies = peers.iter().map(of_host).product::<f64>() * times(&topology.server.link).powi(2);
    if copies > MOST_COPIES {
        let worst = peers.iter().max_by(|one, other| of_host(one).total_cmp(&of_host(other)));
        let key = format!("host.{}", worst.map_or("a", |host| host.name.as_str()));
        let problem = format!(
            "links on the ways of the peers double packets: of one up to {copies:.0} arrive, and more than \
                     {MOST_COPIES:.0} nobody answers"
        );
        return Err(Wrong::new(key, problem, "let fewer links `duplicate`, or less of what they carry"));
    }
    Ok(())
}

/// A forward leads to a host that its router reaches, and each outside port to one.
fn forwards(topology: &Topology) -> Result<(), Wrong> {
    for router in &topology.routers {
        for (index, (outside, inside)) in router.forwards.iter().enumerate() {
            let key = format!("router.{}.forward[{index}]", router.name);
            if router.forwards[..index].iter().any(|(earlier, _)| earlier == outside) {
                let problem = format!("port {} leads elsewhere already", outside.port());
                return Err(Wrong::new(format!("{key}.port"), problem, "a port leads to one host"));
            }
            if !reaches(topology, router.inside, inside.ip()) {
                let hint = "name a host behind this router, with nothing that translates in between";
                let problem = format!("{} is not inside", inside.ip());
                return Err(Wrong::new(format!("{key}.to"), problem, hint));
            }
        }
    }
    Ok(())
}

/// Whether an address is on a segment or behind routers that translate nothing.
pub(super) fn reaches(topology: &Topology, segment: usize, address: IpAddr) -> bool {
    let interfaces = topology.hosts.iter().flat_map(|host| &host.interfaces);
    let mut here = interfaces.filter(|interface| interface.segment == Some(segment));
    here.any(|interface| interface.addresses.iter().any(|cidr| cidr.address == address))
        || topology.routers.iter().any(|inner| {
            let plain = matches!(inner.translation, Translation::Nothing { .. });
            inner.outside == segment && plain && reaches(topology, inner.inside, address)
        })
}

/// A kernel takes these routes.
fn routes(host: &Host) -> Result<(), Wrong> {
    let brought = host.all_routes().len() - host.routes.len();
    let all = host.all_routes();
    for (index, route) in host.routes.iter().enumerate() {
        let key = format!("host.{}.route[{index}]", host.name);
        let ipv4 = route.to.address.is_ipv4();
        if route.via.is_some_and(|via| via.is_ipv4() != ipv4) {
            let hint = "a route and its gateway are of one family";
            return Err(Wrong::new(format!("{key}.via"), format!("it is no gateway to {}", route.to), hint));
        }
        if let Some(via) = route.via.filter(|via| !is_on_link(host, index, route, *via)) {
            let dev = route.dev.as_deref().unwrap_or_default();
            let hint = "the gateway is in a network of the device, or a route before this one leads to it";
            return Err(Wrong::new(format!("{key}.via"), format!("{via} is not reached by {dev}"), hint));
        }
        if let Some(src) = route.src.filter(|src| src.is_ipv4() != ipv4 || !host.addresses().any(|own| own == *src)) {
            let hint = format!("write an address of this host, of the family of {}", route.to);
            return Err(Wrong::new(format!("{key}.src"), format!("{src} does not do"), hint));
        }
        // Linux adds no second route of the same network, table and metric; those of IPv6 interfaces have metrics that
        // are not said here.
        let same = |other: &Route| (other.to, other.table, other.metric) == (route.to, route.table, route.metric);
        let earlier = if ipv4 { &all[..brought + index] } else { &all[brought..brought + index] };
        if earlier.iter().any(same) {
            let problem = format!("there is such a route to {} already", route.to);
            return Err(Wrong::new(key, problem, "give it another metric or table, or leave it out"));
        }
    }
    Ok(())
}

fn is_on_link(host: &Host, index: usize, route: &Route, via: IpAddr) -> bool {
    let device = host.interfaces.iter().find(|interface| Some(&interface.name) == route.dev.as_ref());
    device.is_some_and(|device| device.addresses.iter().any(|cidr| cidr.contains(via)))
        || matches!(via, IpAddr::V6(via) if via.is_unicast_link_local())
        || host.routes[..index]
            .iter()
            .any(|earlier| earlier.via.is_none() && earlier.dev == route.dev && earlier.to.contains(via))
}
