//! Packets leave by another interface than their source address is on.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::routes::{deciding, is_own_rule, leaves_elsewhere};
use crate::diagnosis::session::{Break, Path, Session};
use crate::trace::event::Vantage;

use super::wording::{ask, exempt_mark, ip, quoted};
use crate::host::Subject;

pub(super) const RULE: Rule = Rule {
    code: "WR115",
    name: "source-leaves-by-other-interface",
    title: "packets leave by another interface than their source address is on",
    meaning: "This host has several addresses and routes by destination only: packets from the second interface's address leave by the first. The provider there drops the foreign source, or the wrong router translates it, and the answers never come back.",
    detection: "The kernel was asked for the route of packets with each local source: the device is not the one that has the address, and the checks from it are lost.",
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
    let via = gateway.map_or_else(|| "GATEWAY".to_owned(), |gateway| gateway.to_string());
    // A rule of another program may be what sends them there; the kernel's own three only look up its tables.
    let rule = deciding(host, &answer.fact).filter(|rule| !is_own_rule(&rule.fact));
    let by_rule = rule.map_or_else(String::new, |rule| format!(": \"{}\" decides so", quoted(&rule.fact)));
    let mark = answer.fact.question.mark;
    let by_mark = rule.filter(|rule| mark != 0 && rule.fact.mark.is_some() && !rule.fact.invert);
    let exempt =
        by_mark.map(|rule| exempt_mark("Let packets with this mark go as all others do", &rule.fact, mark, false));
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "{} sends packets from {source}, an address of {}, by {device}{by_rule}",
            vantage.name(),
            home.fact.device
        ),
        evidence: [answer.seq, home.seq].into_iter().chain(rule.map(|rule| rule.seq)).collect(),
        advice: [Remedy::safe("See what the kernel does with these packets").run(ask(&answer.fact.question))]
            .into_iter()
            .chain(exempt)
            .chain([Remedy::safe(format!("Route this address by its own interface, until the next boot (undo: {family} rule del from {source} lookup 1001; {family} route flush table 1001)"))
                .run(format!("{family} route add default via {via} dev {} table 1001", home.fact.device))
                .run(format!("{family} rule add from {source} lookup 1001"))])
            .collect(),
        ..Fault::default()
    })
}
