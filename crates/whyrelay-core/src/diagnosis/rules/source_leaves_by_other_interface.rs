//! Packets leave by another interface than their source address is on.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{HostEvidence, Taken};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::routes::{deciding, is_own_rule, leaves_elsewhere};
use crate::diagnosis::session::{Break, Path, Session};
use crate::trace::event::Vantage;

use super::wording::{ask, exempt_mark, ip, quoted};
use crate::host::{Address, Subject};

pub(super) const RULE: Rule = Rule {
    code: "WR115",
    name: "source-leaves-by-other-interface",
    title: "packets leave by another interface than their source address is on",
    meaning: "This host has several addresses and routes by destination only: packets from the second interface's address leave by the first. The provider there drops the foreign source, or the wrong router translates it, and the answers never come back.",
    detection: "The kernel was asked for the route of packets with each local source: the device is not the one that has the address, and the checks from it are lost. Where another address, whose packets leave by its own device, is lost as well, that is information at most, unless the peer's packets do come to this one.",
    proof: "ip route get PEER from SOURCE shows the device; the peer's answers go to an address that is no candidate.",
    doubt: "Checks from that source that are answered.",
    fixes: &[Fix::safe(
        "Give each uplink its own table and a rule by source address (netplan: routing-policy from; NetworkManager: ipv4.routing-rules), or leave the other interface out (--exclude-interface).",
    )],
    threads: &["tailscale/tailscale#4404", "slackhq/nebula#709", "openwrt/packages#13907"],
    depends_on: &["WR105", "WR106", "WR107", "WR108", "WR114", "WR118"],
    needs: &[Need::Host(Subject::RouteAnswers), Need::Host(Subject::Addresses), Need::Host(Subject::Links)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let host = &side.host;
    let lost: BTreeSet<(IpAddr, IpAddr)> = session
        .pairs
        .iter()
        .filter(|pair| {
            matches!(pair.from(vantage).broken, Some(Break::OnTheWay | Break::OnTheWayBack | Break::Somewhere))
                && session.could_arrive(pair, vantage)
        })
        .filter_map(|pair| pair.side(vantage))
        .map(|own| (own.pair.local.ip(), own.pair.remote.ip()))
        .collect();
    let wrong = host.route_answers.iter().find_map(|answer| {
        let (home, device) = (leaves_elsewhere(host, &answer.fact)?, answer.fact.device()?);
        lost.contains(&(home.fact.address, answer.fact.question.destination)).then_some((answer, home, device))
    });
    let (answer, home, device) = wrong?;
    let source = home.fact.address;
    let family = ip(crate::host::Family::of(source));
    let gateway = host.routes.iter().find_map(|route| {
        route.fact.gateway.filter(|_| route.fact.device.as_deref() == Some(home.fact.device.as_str()))
    });
    // Every host with two networks has such a source. Where another one, which leaves as it should, is lost as well, this
    // one explains nothing, unless the peer does reach it.
    let explains = is_reached(session, vantage, home) || !is_another_lost(host, home, &lost);
    if !explains && gateway.is_none() {
        return None;
    }
    // A rule of another program may be what sends them there; the kernel's own three only look up its tables.
    let rule = deciding(host, &answer.fact).filter(|rule| !is_own_rule(&rule.fact));
    let by_rule = rule.map_or_else(String::new, |rule| format!(": \"{}\" decides so", quoted(&rule.fact)));
    let mark = answer.fact.question.mark;
    let by_mark = rule.filter(|rule| mark != 0 && rule.fact.mark.is_some() && !rule.fact.invert);
    let exempt =
        by_mark.map(|rule| exempt_mark("Let packets with this mark go as all others do", &rule.fact, mark, false));
    Some(Fault {
        blame: Blame::side(vantage),
        severity: if explains { session.harm() } else { Severity::Info },
        summary: format!(
            "{} sends packets from {source}, an address of {}, by {device}{by_rule}",
            vantage.name(),
            home.fact.device
        ),
        evidence: [answer.seq, home.seq].into_iter().chain(rule.map(|rule| rule.seq)).collect(),
        advice: [Remedy::safe("See what the kernel does with these packets").run(ask(&answer.fact.question))]
            .into_iter()
            .chain(exempt)
            .chain([match gateway {
                Some(via) => Remedy::safe(format!("Route this address by its own interface, until the next boot (undo: {family} rule del from {source} lookup 1001; {family} route flush table 1001)"))
                    .run(format!("{family} route add default via {via} dev {} table 1001", home.fact.device))
                    .run(format!("{family} rule add from {source} lookup 1001")),
                // Where to by it nobody knows.
                None => Remedy::safe(format!("Leave {} out: whyrelay with --exclude-interface {0}", home.fact.device)),
            }])
            .collect(),
        ..Fault::default()
    })
}

/// Whether the peer's packets come to this address, by its own interface.
fn is_reached(session: &Session<'_>, vantage: Vantage, home: &Taken<Address>) -> bool {
    let source = home.fact.address;
    let came = session.pairs.iter().any(|pair| {
        let is_its = pair.side(vantage).is_some_and(|own| own.pair.local.ip() == source);
        is_its && pair.from(vantage.other()).broken == Some(Break::OnTheWayBack)
    });
    let side = session.evidence.side(vantage);
    let is_of_peer = |ip: IpAddr| {
        side.remote_candidates.iter().any(|remote| remote.address.is_some_and(|address| address.ip() == ip))
    };
    came || side.host.own_packets.iter().any(|packet| {
        let packet = &packet.fact;
        packet.arrived
            && (packet.destination.ip(), &packet.device) == (source, &home.fact.device)
            && is_of_peer(packet.source.ip())
    })
}

/// Whether checks from another source of that family, which leaves by its own interface, are lost as well.
fn is_another_lost(host: &HostEvidence, stray: &Taken<Address>, lost: &BTreeSet<(IpAddr, IpAddr)>) -> bool {
    let stray = stray.fact.address;
    host.route_answers.iter().any(|answer| {
        let Some(source) = answer.fact.question.source.filter(|source| *source != stray) else { return false };
        source.is_ipv4() == stray.is_ipv4()
            && lost.contains(&(source, answer.fact.question.destination))
            && host.addresses.iter().any(|address| {
                address.fact.address == source && answer.fact.device() == Some(address.fact.device.as_str())
            })
    })
}
