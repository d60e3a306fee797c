//! From a file to a topology: presets filled in, places laid out, every address given, names replaced by addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::check;
use super::error::Wrong;
use super::file::{self, File, InterfaceKind, Ipv6};
use super::host_rules::host_rules;
use super::layout::{Layout, MOST_ROUTERS, too_many_routers};
use super::plausible;
use super::presets::{self, PRESETS};
use super::topology::{Egress, Host, INTERNET, Interface, Link, Server, Session, Signaling, Topology, Translation};
use super::value::Cidr;
use crate::words::did_you_mean;

/// The most that a link may be bad, in percent.
const MOST_BAD: f64 = 99.0;

/// How many packets a burst lasts at most: the chance that it ends is counted in millionths.
const LONGEST_BURST: f64 = 1e6;

/// The metric of a default route that says none: what a DHCP client uses.
const USUAL_METRIC: u32 = 100;

pub(super) fn resolve(name: &str, file: &File) -> Result<Topology, Wrong> {
    check::check(file)?;
    let mut layout = Layout::new();
    let server = server(file, &mut layout)?;
    let order = order_of_routers(file)?;
    for router in &order {
        let key = format!("router.{router}");
        let spec = merged(&key, router, &file.router[router])?;
        check::router(&key, &file.router[router], &spec)?;
        let outside = match spec.outside.as_deref() {
            None | Some("internet") => INTERNET,
            Some(outer) => layout.inside_of(outer).unwrap_or(INTERNET),
        };
        let carries = file.router.values().any(|other| other.outside.as_ref() == Some(router))
            || file
                .host
                .values()
                .any(|host| host.behind.names().len() > 1 && host.behind.names().last() == Some(router));
        layout.add_router(router, &spec, outside, side_of(file, router), carries)?;
        let routes6 = matches!(file.router[router].ipv6, Some(Ipv6::NoRoute | Ipv6::Stateful | Ipv6::Open));
        if routes6 && layout.segments[outside].ipv6.is_empty() {
            let hint = "say \"none\", or give the router outside of it IPv6";
            return Err(Wrong::new(format!("{key}.ipv6"), "the network outside has no IPv6", hint));
        }
    }
    let mut names: Vec<&String> = file.host.keys().collect();
    names.sort_by_key(|name| match name.as_str() {
        "a" => (0, String::new()),
        "b" => (1, String::new()),
        other => (2, other.to_owned()),
    });
    let mut hosts = Vec::new();
    for (number, name) in names.iter().enumerate() {
        hosts.push(host(name, &file.host[*name], number, &mut layout)?);
    }
    let mut topology = Topology {
        name: name.to_owned(),
        title: file.title.clone(),
        about: file.about.clone(),
        worlds: file.worlds.clone(),
        seed: file.seed,
        segments: layout.segments,
        routers: layout.routers,
        hosts,
        sessions: [session(file, "a", 40_000), session(file, "b", 40_001)],
        server,
        signaling: [signaling(&file.signaling.a), signaling(&file.signaling.b)],
        expect: file.expect.clone(),
    };
    forwards(file, &mut topology)?;
    for (index, name) in names.iter().enumerate() {
        host_rules(name, &file.host[*name], index, &mut topology)?;
    }
    plausible::check(&topology)?;
    let used = file.routers_in_use();
    if let Some(name) = file.router.keys().find(|name| !used.contains(name)) {
        let hint = format!("say behind = {name:?} at a host, or outside = {name:?} at a router; or leave it out");
        return Err(Wrong::new(format!("router.{name}"), "nobody is behind this router", hint));
    }
    Ok(topology)
}

/// Named routers, outer ones first.
fn order_of_routers(file: &File) -> Result<Vec<String>, Wrong> {
    // Ahead of everything that takes as long as there are many.
    if let Some(name) = file.router.keys().nth(MOST_ROUTERS) {
        return Err(too_many_routers(&format!("router.{name}")));
    }
    let mut order: Vec<String> = Vec::new();
    let mut left: BTreeSet<&String> = file.router.keys().collect();
    while !left.is_empty() {
        let ready = left.iter().find(|name| match file.router[**name].outside.as_deref() {
            None | Some("internet") => true,
            Some(outer) => order.iter().any(|done| done == outer),
        });
        let Some(ready) = ready.copied() else {
            let stuck = left.first().map_or("", |name| name.as_str());
            let outer = file.router[stuck].outside.as_deref().unwrap_or_default();
            let problem = match file.router.contains_key(outer) {
                true => "routers stand behind each other in a circle".to_owned(),
                false => format!("there is no router {outer:?}"),
            };
            let known = file.router.keys().map(String::as_str).filter(|name| *name != stuck);
            let meant = did_you_mean(outer, known.chain(["internet"]));
            let hint = format!("{meant}name a router of this file, or \"internet\"");
            return Err(Wrong::new(format!("router.{stuck}.outside"), problem, hint));
        };
        order.push(ready.clone());
        left.remove(ready);
    }
    Ok(order)
}

/// Which side's block of addresses a named router uses: that of the first host behind it.
fn side_of(file: &File, router: &str) -> usize {
    let behind = |host: &file::Host| {
        let all = std::iter::once(&host.behind).chain(host.interface.iter().map(|interface| &interface.behind));
        all.filter_map(|behind| behind.names().last()).any(|name| {
            let mut at = Some(name);
            for _ in 0..=file.router.len() {
                match at {
                    Some(name) if name == router => return true,
                    Some(name) => at = file.router.get(name).and_then(|router| router.outside.as_ref()),
                    None => return false,
                }
            }
            false
        })
    };
    ["a", "b"].iter().position(|name| file.host.get(*name).is_some_and(&behind)).unwrap_or(2)
}

/// A router with its preset filled in.
fn merged(key: &str, name: &str, router: &file::Router) -> Result<file::Router, Wrong> {
    if router.preset.is_none() && presets::find(name).is_some() {
        let hint = format!("say preset = {name:?}, or preset = \"plain\" for what the name does not say");
        let problem = "a preset has this name, and the router does not say whether it is one";
        return Err(Wrong::new(format!("{key}.preset"), problem, hint));
    }
    let preset = router.preset.as_deref().unwrap_or("plain");
    let Some(base) = presets::find(preset) else {
        let meant = did_you_mean(preset, PRESETS.iter().map(|preset| preset.name));
        let hint = format!("{meant}{}", known_presets());
        return Err(Wrong::new(format!("{key}.preset"), format!("there is no preset {preset:?}"), hint));
    };
    Ok(router.clone().over(base.router()))
}

fn known_presets() -> String {
    let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
    format!("the presets are {}", names.join(", "))
}

/// The segment where a list of names ends, with the routers made that it needs.
fn place(key: &str, host: &str, number: usize, names: &[String], layout: &mut Layout) -> Result<usize, Wrong> {
    let mut segment = INTERNET;
    for (index, name) in names.iter().enumerate().rev() {
        let outermost = index + 1 == names.len();
        if let Some(inside) = layout.inside_of(name) {
            if !outermost {
                let outer = &names[index + 1];
                let nearer = match &names[..=index] {
                    [one] => format!("{one:?}"),
                    several => format!("{several:?}"),
                };
                let hint = format!(
                    "a router of this file says itself where it stands: write outside = {outer:?} in [router.{name}], \
                     and behind = {nearer} here"
                );
                return Err(Wrong::new(key, format!("the router {name:?} already stands somewhere"), hint));
            }
            segment = inside;
            continue;
        }
        let Some(preset) = presets::find(name) else {
            let problem = format!("there is neither a router nor a preset {name:?}");
            let known = layout.routers.iter().map(|router| router.name.as_str());
            let meant = did_you_mean(name, known.chain(PRESETS.iter().map(|preset| preset.name)));
            return Err(Wrong::new(key, problem, format!("{meant}name a router of this file; {}", known_presets())));
        };
        let mut own = format!("{host}-{name}");
        while layout.inside_of(&own).is_some() {
            own.push('+');
        }
        segment = layout.add_router(&own, &preset.router(), segment, number.min(2), index > 0)?;
    }
    Ok(segment)
}

fn host(name: &str, spec: &file::Host, number: usize, layout: &mut Layout) -> Result<Host, Wrong> {
    let key = format!("host.{name}");
    let segment = place(&format!("{key}.behind"), name, number, spec.behind.names(), layout)?;
    has_ipv6(&key, spec.ipv6, segment, layout)?;
    let mut interfaces = vec![Interface {
        name: "eth0".to_owned(),
        kind: InterfaceKind::Ethernet,
        segment: Some(segment),
        addresses: layout.addresses(segment, number.min(2), spec.ipv4, spec.ipv6),
        gateways: layout.gateways(segment, spec.ipv4, spec.ipv6, USUAL_METRIC),
        link: link(&format!("{key}.link"), &spec.link, Duration::from_micros(500))?,
    }];
    for (index, interface) in spec.interface.iter().enumerate() {
        let key = format!("{key}.interface[{index}]");
        let segment = match interface.is_plugged_in() {
            true => Some(place(&format!("{key}.behind"), name, number, interface.behind.names(), layout)?),
            false => None,
        };
        let mut made = Interface {
            name: interface.name.clone(),
            kind: interface.kind,
            segment,
            addresses: Vec::new(),
            gateways: Vec::new(),
            link: link(&format!("{key}.link"), &interface.link, Duration::from_micros(500))?,
        };
        if let Some(segment) = segment {
            has_ipv6(&key, interface.ipv6, segment, layout)?;
            made.addresses = layout.addresses(segment, number.min(2), true, interface.ipv6);
            if let Some(metric) = interface.default_metric {
                made.gateways = layout.gateways(segment, true, interface.ipv6, metric);
            }
        } else if interface.address.is_empty() {
            // A tunnel's usual address; a second one has the next network.
            made.addresses = vec![Cidr { address: [10, 66, index as u8, 2].into(), prefix: 24 }];
        }
        interfaces.push(made);
    }
    let sysctls = spec.sysctl.iter().map(|(name, value)| (sysctl(name), *value)).collect();
    Ok(Host {
        name: name.to_owned(),
        interfaces,
        routes: Vec::new(),
        rules: Vec::new(),
        sysctls,
        firewall: Vec::new(),
        silent_neighbors: Vec::new(),
        conntrack_full: spec.conntrack_full,
        wrong_checksum: None,
    })
}

/// Nobody gets an address of a family that its network does not have.
fn has_ipv6(key: &str, wanted: bool, segment: usize, layout: &Layout) -> Result<(), Wrong> {
    if wanted && layout.segments[segment].ipv6.is_empty() {
        let hint = "leave it out, or stand behind routers that have it: ipv6 = \"stateful\"";
        return Err(Wrong::new(format!("{key}.ipv6"), "the network that it is in has no IPv6", hint));
    }
    Ok(())
}

/// `rp_filter` is short for all interfaces; a name with dots is one already.
fn sysctl(name: &str) -> String {
    match name {
        "rp_filter" | "src_valid_mark" => format!("net.ipv4.conf.all.{name}"),
        full => full.to_owned(),
    }
}

pub(super) fn link(key: &str, link: &file::Link, usual: Duration) -> Result<Link, Wrong> {
    let percent = |name: &str, value: f64| {
        if (0.0..=100.0).contains(&value) {
            return Ok((value * 100.0).round() as u32);
        }
        Err(Wrong::new(format!("{key}.{name}"), format!("{value} is no percentage"), "write a number from 0 to 100"))
    };
    if let Some(burst) = &link.burst {
        percent("burst.bad", burst.bad)?;
        percent("burst.loss", burst.loss.unwrap_or(100.0))?;
        bursts(&format!("{key}.burst"), burst)?;
    }
    least_mtu(key, link.mtu)?;
    Ok(Link {
        delay: link.delay.map_or(usual, |span| span.0),
        jitter: link.jitter.0,
        loss: percent("loss", link.loss)?,
        burst: link.burst,
        reordering: percent("reorder", link.reorder)?,
        duplication: percent("duplicate", link.duplicate)?,
        rate: link.rate.map(|rate| rate.0),
        mtu: link.mtu,
    })
}

/// Chances, of a million, by which a link becomes bad and good, that give what these bursts say.
fn bursts(key: &str, burst: &file::Burst) -> Result<(), Wrong> {
    let wrong = |what: &str, problem: String, hint: String| Err(Wrong::new(format!("{key}.{what}"), problem, hint));
    let (bad, length) = (burst.bad, burst.length);
    if bad > MOST_BAD {
        let hint = format!("write {MOST_BAD} or less, or say `loss` instead of bursts");
        return wrong("bad", format!("{bad} % leave too little between bursts"), hint);
    }
    if !(1.0..=LONGEST_BURST).contains(&length) {
        let hint = format!("write a number from 1 to {LONGEST_BURST}");
        return wrong("length", format!("no burst lasts {length} packets"), hint);
    }
    // A good link becomes bad with every packet at most.
    let shortest = bad / (100.0 - bad);
    if length < shortest - 1e-9 {
        let (shortest, most) = ((shortest - 1e-9).ceil(), (length / (1.0 + length) * 100.0).floor());
        let problem = format!("bursts of {length} packets, each behind a good one, are not {bad} % of the time");
        return wrong("length", problem, format!("write {shortest} or more, or bad = {most}"));
    }
    if bad > 0.0 && shortest / length < 1e-6 {
        let hint = "let them be shorter, or more of the time";
        return wrong("bad", format!("{bad} % in bursts of {length} packets: no session sees one"), hint.to_owned());
    }
    Ok(())
}

pub(super) fn least_mtu(key: &str, mtu: Option<u16>) -> Result<(), Wrong> {
    match mtu {
        Some(..576) => Err(Wrong::new(format!("{key}.mtu"), "IP needs more", "576 is the least (RFC 791)")),
        _ => Ok(()),
    }
}

fn server(file: &File, layout: &mut Layout) -> Result<Server, Wrong> {
    if file.server.tls_port.is_some() && file.server.certificate.is_none() {
        let hint = "say what its certificate is like: certificate = \"good\"";
        return Err(Wrong::new("server.tls-port", "the server serves no TLS", hint));
    }
    Ok(Server {
        addresses: layout.server_addresses(file.server.second_address, file.server.ipv6),
        faults: file.server.clone(),
        link: link("server.link", &file.server.link, Duration::from_millis(5))?,
    })
}

fn session(file: &File, name: &str, port: u16) -> Session {
    let spec = &file.host[name].session;
    Session {
        port: spec.port.unwrap_or(port),
        mark: spec.mark.map(|mark| mark.value),
        uid: spec.uid.unwrap_or(0),
        relay_only: spec.relay_only,
        no_turn: spec.no_turn,
        patient: spec.patient,
        map_port: spec.map_port,
        silence: spec.silence.0,
        starts: spec.starts.0,
    }
}

fn signaling(faults: &file::SignalingFaults) -> Signaling {
    Signaling {
        delay: faults.delay.map_or(Duration::from_millis(20), |span| span.0),
        candidates_delay: faults.candidates_delay.0,
        lose_candidates: faults.lose_candidates,
        lose_all: faults.lose_all,
    }
}

fn forwards(file: &File, topology: &mut Topology) -> Result<(), Wrong> {
    for (name, spec) in &file.router {
        for (index, forward) in spec.forward.iter().enumerate() {
            let key = format!("router.{name}.forward[{index}]");
            let Some(router) = topology.routers.iter().position(|router| router.name == *name) else { continue };
            let outside = topology.routers[router].external().next();
            // Of a host with several interfaces the one that is behind this router; else the first, which is refused.
            let own: Vec<IpAddr> = topology.host(&forward.to).into_iter().flat_map(Host::addresses).collect();
            let inside = topology.routers[router].inside;
            let within = own.iter().find(|own| own.is_ipv4() && plausible::reaches(topology, inside, **own));
            let host = within.or_else(|| own.iter().find(|own| own.is_ipv4())).copied();
            let (Some(outside), Some(host)) = (outside, host) else {
                let hint = "name a host with an IPv4 address behind this router";
                return Err(Wrong::new(format!("{key}.to"), format!("{:?} cannot be reached", forward.to), hint));
            };
            let inside = SocketAddr::new(host, forward.to_port.unwrap_or(forward.port));
            topology.routers[router].forwards.push((SocketAddr::new(outside, forward.port), inside));
        }
    }
    Ok(())
}

/// The address at which the Internet sees a host's `eth0`.
pub(super) fn public_address(topology: &Topology, host: &Host, ipv4: bool) -> Option<IpAddr> {
    let eth0 = host.interfaces.first()?;
    let mut address = eth0.addresses.iter().map(|cidr| cidr.address).find(|address| address.is_ipv4() == ipv4)?;
    if ipv4 {
        for router in topology.way_out(eth0.segment?) {
            match &router.translation {
                Translation::Nat(_) => address = router.external().next()?,
                Translation::OneToOne { pairs, .. } => {
                    address = pairs.iter().find(|(inside, _)| *inside == address)?.1;
                }
                Translation::Nothing { .. } => {}
            }
        }
    }
    Some(address)
}

/// What a router lets out.
pub(super) fn egress(router: &file::Router) -> Egress {
    let udp = if router.block_udp == Some(true) { Some(Vec::new()) } else { router.allow_udp.clone() };
    Egress { udp, tcp: router.allow_tcp.clone() }
}
