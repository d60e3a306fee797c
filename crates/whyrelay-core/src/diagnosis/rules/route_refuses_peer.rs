//! The kernel refuses to route packets to the peer.

use super::errno::{EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH};
use super::{Examination, Fault, Fix, Need, Rule, network_went_away, one_family};
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::routes::{
    By, Diversion, deciding, diversions, is_own_rule, is_refused, reachable_candidates, refusing,
};
use crate::diagnosis::session::{Path, Session};
use crate::host::{Family, Subject};
use crate::trace::event::Vantage;
use std::net::IpAddr;

use super::diverted::behind;
use super::wording::{ask, ip, quoted, without_route, without_rule};

pub(super) const RULE: Rule = Rule {
    code: "WR104",
    name: "route-refuses-peer",
    title: "the kernel refuses to route packets to the peer",
    meaning: "A route or policy rule of this host says that the peer must not be reached, or there is no route: blackhole (EINVAL, \"invalid argument\"), prohibit (EACCES), unreachable (EHOSTUNREACH), none or throw (ENETUNREACH). The packets do not leave the host.",
    detection: "Sends to the peer failed with one of these error numbers, or the kernel answered so when it was asked for the route. What another rule or route hides is looked for, too: in the rules and routes that the host told, without that one, where they explain what the kernel answers.",
    proof: "ip route get PEER-ADDRESS with the session's mark fails with the same error.",
    doubt: "The same send with success.",
    fixes: &[Fix::firewall(
        "Find the route or rule (ip route show table all type blackhole, likewise unreachable and prohibit; ip rule show) and take the peer out of it where it is configured; unless it is a kill switch, which is meant to keep packets from leaving beside a VPN.",
    )],
    threads: &["netbirdio/netbird#2116", "tailscale/tailscale#21146"],
    depends_on: &["WR117"],
    needs: &[Need::Sockets, Need::Host(Subject::RouteAnswers)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let candidates: Vec<_> = reachable_candidates(side, peer).collect();
    let is_direct = session.path == Path::Direct;
    let diverted = diversions(session, vantage);
    // What a rule by the session's mark refuses has a finding of its own.
    let is_by_mark =
        |diversion: &Diversion<'_>| matches!(diversion.by, By::MarkRule(_)) && is_refused(&diversion.answer.fact);
    let by_mark = |to: IpAddr| {
        let there = diverted.iter().find(|diversion| diversion.answer.fact.question.destination == to);
        there.map_or_else(|| diverted.iter().any(is_by_mark), is_by_mark)
    };
    let lost = network_went_away::lost(side);
    let refused = side.send_failures.iter().filter(|((local, remote, errno), failure)| {
        // What the host said of routes when an interface of it was gone is what became of that, and told there.
        let was_away = lost.get(&local.ip()).is_some_and(|since| failure.seq > *since);
        if matches!(*errno, ENETUNREACH | EHOSTUNREACH) && was_away {
            return false;
        }
        // An ICMP error waits at the socket until the next send, wherever that goes, which then fails with it; a closed
        // port does so with a number of its own.
        let told = side.icmp_errors.keys().any(|(own, _, icmp_type, code)| {
            own == local && matches!(icmp_type, 1 | 3) && !matches!((icmp_type, code), (3, 3) | (1, 4))
        });
        let of_route = matches!(*errno, EACCES | EINVAL) || matches!(*errno, ENETUNREACH | EHOSTUNREACH) && !told;
        // On another pair than the direct one only what refuses by its own words is worth one.
        let of_route = of_route && (!is_direct || matches!(*errno, EACCES | EINVAL));
        // Without any IPv6 route there is a rule of its own.
        of_route
            && candidates.contains(&remote.ip())
            && !by_mark(remote.ip())
            && !(remote.is_ipv6() && *errno == ENETUNREACH)
    });
    let refused: Vec<_> = refused.collect();
    let first = refused.iter().min_by_key(|(_, failure)| failure.seq);
    // A host without IPv4 has no route for it, and nothing to send there.
    let speaks_ipv4 = side.sockets.is_empty() || side.sockets.keys().any(|(_, own)| own.is_ipv4());
    let hidden = || session.hidden_diversions(vantage).iter();
    let asked = diverted
        .iter()
        .chain(if first.is_some() { [].iter() } else { hidden() })
        .filter(|_| speaks_ipv4 && !is_direct)
        .find(|diversion| matches!(diversion.by, By::Refusal) && diversion.answer.fact.question.destination.is_ipv4());
    // A rule that leads to a table which refuses has a finding of its own.
    let by_rule =
        |diversion: &Diversion<'_>| matches!(diversion.by, By::PolicyRule(_)) && is_refused(&diversion.answer.fact);
    if diverted.iter().any(by_rule) {
        return None;
    }
    let (to, detail, seq) = match (first, asked) {
        (Some(((_, remote, _), failure)), _) => (remote.ip(), failure.detail.clone(), failure.seq),
        (None, Some(diversion)) => {
            let answer = &diversion.answer.fact;
            (answer.question.destination, super::wording::way(answer), diversion.answer.seq)
        }
        (None, None) => return None,
    };
    let family = ip(Family::of(to));
    let question = asked
        .as_ref()
        .map_or_else(|| format!("{family} route get {to}"), |diversion| ask(&diversion.answer.fact.question));
    let mut advice = vec![Remedy::safe("Ask the kernel").run(question)];
    let rule = asked.as_ref().and_then(|diversion| deciding(&side.host, &diversion.answer.fact));
    let rule = rule.filter(|rule| !is_own_rule(&rule.fact));
    let by = rule.map(|rule| format!(" by \"{}\"", quoted(&rule.fact))).unwrap_or_default();
    let behind = asked.map(behind).unwrap_or_default();
    let route = asked.as_ref().and_then(|diversion| refusing(&side.host, &diversion.answer.fact));
    advice.extend(route.map(|route| without_route(&route.fact)));
    advice.extend(rule.map(|rule| without_rule("Take the rule out", &rule.fact)));
    let evidence = [seq]
        .into_iter()
        .chain(asked.map(|diversion| diversion.answer.seq))
        .chain(asked.into_iter().flat_map(|diversion| diversion.behind.iter().map(|(_, seq)| *seq)))
        .chain(rule.map(|rule| rule.seq))
        .chain(route.map(|route| route.seq));
    let asked_for = diverted
        .iter()
        .chain(asked)
        .filter(|diversion| matches!(diversion.by, By::Refusal))
        .map(|diversion| diversion.answer.fact.question.destination);
    let family = one_family(refused.iter().map(|((_, remote, _), _)| remote.ip()).chain(asked_for));
    let hidden = first.is_none() && asked.is_some_and(|diversion| !diversion.behind.is_empty());
    Some(Fault {
        hidden,
        family,
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!("The kernel of {} refuses packets to the peer ({to}){by}: {detail}{behind}", vantage.name()),
        evidence: evidence.collect(),
        advice,
        ..Fault::default()
    })
}
