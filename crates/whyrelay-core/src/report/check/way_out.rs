//! Rows about IPv6 and the way out: gateway, further NATs, port mapping, resolvers.

use std::net::IpAddr;

use super::{Row, Section, State};
use crate::diagnosis::evidence::SideEvidence;
use crate::trace::address::AddressClass;
use crate::trace::measurement::{Ipv6State, Measurement};

pub(super) fn of(side: &SideEvidence) -> Vec<Row> {
    let mut rows: Vec<Row> = side.measured.facts.iter().filter_map(|(seq, fact)| row(*seq, fact)).collect();
    rows.extend(nats_in_front(side));
    rows
}

fn row(seq: u64, fact: &Measurement) -> Option<Row> {
    let (section, subject, name, value, state) = match fact {
        Measurement::Gateway { interface, gateway } => {
            let value = gateway.map_or_else(|| "default route without a next hop".to_owned(), |ip| ip.to_string());
            (Section::WayOut, interface.clone(), "gateway", value, State::Plain)
        }
        Measurement::Hop { remote, ttl, router } => {
            let value = router.map_or_else(|| "said nothing".to_owned(), |ip| ip.to_string());
            let name = match ttl {
                1 => "first router",
                2 => "second router",
                _ => "further router",
            };
            (Section::WayOut, remote.to_string(), name, value, State::Plain)
        }
        Measurement::PortMapper { protocol, gateway, found, external, detail } => {
            let external = external.map_or_else(String::new, |ip| format!(", external address {ip}"));
            let detail = detail.as_ref().map_or_else(String::new, |detail| format!(", {detail}"));
            let value = if *found { "offered" } else { "not offered" };
            let state = if *found { State::Good } else { State::Plain };
            let subject = gateway.map_or_else(|| "the local network".to_owned(), |ip| ip.to_string());
            (Section::WayOut, subject, protocol.name(), format!("{value}{external}{detail}"), state)
        }
        Measurement::PortMapped { protocol, local, external, reached, removed } => {
            let (reached, state) = match reached {
                Some(true) => ("reached from outside", State::Good),
                Some(false) => ("NOT reached from outside", State::Bad),
                None => ("not tried from outside", State::Plain),
            };
            let removed = if *removed { "removed again" } else { "NOT removed: it ends by itself" };
            let value = format!("by {}: {external} to {local}, {reached}, {removed}", protocol.name());
            (Section::WayOut, external.to_string(), "port mapped", value, state)
        }
        Measurement::Ipv6 { state, address } => {
            let address = address.map_or_else(String::new, |ip| format!(" ({ip})"));
            let (value, state) = match state {
                Ipv6State::Works => ("works", State::Good),
                Ipv6State::NoPath => ("there is an address, but no path", State::Warning),
                Ipv6State::NoAddress => ("the system has it, but no address that reaches out", State::Plain),
                Ipv6State::Off => ("off in the system", State::Plain),
                Ipv6State::NotTried => ("there is an address; no server was there to try it with", State::Plain),
            };
            (Section::Ipv6, "this host".to_owned(), "IPv6", format!("{value}{address}"), state)
        }
        Measurement::Resolver { server, interface } => {
            let through = interface.as_ref().map_or_else(String::new, |name| format!(" through {name}"));
            (Section::WayOut, "this host".to_owned(), "resolver", format!("{server}{through}"), State::Plain)
        }
        _ => return None,
    };
    Some(Row { section, subject, name, value, state, evidence: vec![seq] })
}

/// How many NATs are in front: the router's own word about its external address against what servers see, and what
/// stands behind the router.
fn nats_in_front(side: &SideEvidence) -> Option<Row> {
    let facts = &side.measured.facts;
    let (seq, mapped) = facts.iter().find_map(|(seq, fact)| match fact {
        Measurement::Mapping { local, mapped, .. } if local.is_ipv4() => Some((*seq, (local.ip(), mapped.ip()))),
        _ => None,
    })?;
    let (local, mapped) = mapped;
    let make = |value: String, state, evidence| {
        let (section, subject, name) = (Section::WayOut, local.to_string(), "NATs in front");
        Some(Row { section, subject, name, value, state, evidence })
    };
    if local == mapped {
        return make("none".to_owned(), State::Good, vec![seq]);
    }
    let external = facts.iter().find_map(|(seq, fact)| match fact {
        Measurement::PortMapper { external: Some(IpAddr::V4(ip)), .. } => Some((*seq, IpAddr::V4(*ip))),
        _ => None,
    });
    if let Some((told, external)) = external {
        let evidence = vec![seq, told];
        return match AddressClass::of(external) {
            _ if external == mapped => {
                make("one: the router has the public address itself".to_owned(), State::Good, evidence)
            }
            AddressClass::CarrierGrade => {
                let value = format!("two: the router's own external address is {external}, a carrier's (CGNAT)");
                make(value, State::Warning, evidence)
            }
            _ => {
                let value = format!("two: the router's own external address is {external}, servers see {mapped}");
                make(value, State::Warning, evidence)
            }
        };
    }
    let second = facts.iter().find_map(|(seq, fact)| match fact {
        Measurement::Hop { ttl: 2, router: Some(ip), .. } => Some((*seq, *ip)),
        _ => None,
    });
    match second {
        Some((hop, router)) if AddressClass::of(router) == AddressClass::CarrierGrade => {
            let value = format!("probably two: behind the router stands {router}, in a carrier's range (CGNAT)");
            make(value, State::Warning, vec![seq, hop])
        }
        Some((hop, router)) if AddressClass::of(router) == AddressClass::Private => {
            let value = format!("probably two: behind the router stands {router}, a private address");
            make(value, State::Warning, vec![seq, hop])
        }
        _ => make("one at least; the router tells no external address".to_owned(), State::Plain, vec![seq]),
    }
}
