//! Rows about IPv6 and the way out: gateway, further NATs, port mapping, resolvers.

use std::net::Ipv4Addr;

use super::{Row, Section, State, nats};
use crate::diagnosis::evidence::SideEvidence;
use crate::nat::behavior::FilteringBehavior;
use crate::trace::measurement::{Ipv6State, Measurement};

/// Where systemd-resolved answers the programs of its host.
const SYSTEMD: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];

pub(super) fn of(side: &SideEvidence) -> Vec<Row> {
    let mut rows: Vec<Row> = side.measured.facts.iter().filter_map(|(seq, fact)| row(*seq, fact)).collect();
    rows.extend(nats::row(side));
    rows.extend(unsolicited(side));
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
                3 => "third router",
                _ => "further router",
            };
            (Section::WayOut, format!("to {remote}"), name, value, State::Plain)
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
                Ipv6State::OnLink => ("answered by servers that there is a route to; no default route", State::Warning),
                Ipv6State::NoPath => ("there is an address, but no path", State::Warning),
                Ipv6State::NoAddress => ("the system has it, but no address that reaches out", State::Plain),
                Ipv6State::Off => ("off in the system", State::Plain),
                Ipv6State::NotTried => ("there is an address; no server was asked over it", State::Plain),
            };
            (Section::Ipv6, "this host".to_owned(), "IPv6", format!("{value}{address}"), state)
        }
        Measurement::Resolver { server, interface } => {
            let through = match interface {
                _ if SYSTEMD.iter().any(|own| server == own) => ", systemd-resolved on this host".to_owned(),
                _ if server.is_loopback() => ", a forwarder on this host".to_owned(),
                Some(name) => format!(" through {name}"),
                None => String::new(),
            };
            (Section::WayOut, "this host".to_owned(), "resolver", format!("{server}{through}"), State::Plain)
        }
        _ => return None,
    };
    Some(Row { section, subject, name, value, state, evidence: vec![seq] })
}

/// Whether an IPv6 firewall lets in what nobody asked for: by a packet from a port that we had not sent to.
fn unsolicited(side: &SideEvidence) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (seq, fact) in &side.measured.facts {
        let (local, comes_in) = match fact {
            Measurement::EarlyArrival { local, arrived, .. } if local.is_ipv6() => (local.ip(), *arrived),
            Measurement::Filtering { local, behavior, .. } if local.is_ipv6() => {
                (*local, *behavior == FilteringBehavior::EndpointIndependent)
            }
            _ => continue,
        };
        let subject = local.to_string();
        if rows.iter().any(|row| row.subject == subject) {
            continue;
        }
        let (value, state) = match comes_in {
            true => ("comes in: no firewall keeps strangers out", State::Good),
            false => ("filtered: peers come in only where this host has sent to first", State::Plain),
        };
        let (section, name, value) = (Section::Ipv6, "unsolicited inbound", value.to_owned());
        rows.push(Row { section, subject, name, value, state, evidence: vec![*seq] });
    }
    rows
}
