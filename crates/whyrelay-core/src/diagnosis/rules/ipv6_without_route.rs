//! A side has an IPv6 address and no IPv6 route.

use super::errno::ENETUNREACH;
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::routes::{By, deciding, diversions, is_refused};
use crate::diagnosis::session::{Path, Session};
use crate::host::Family;
use crate::ice::candidate::CandidateType;
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;
use crate::trace::measurement::{Ipv6State, Measurement};
use std::net::SocketAddr;

pub(super) const RULE: Rule = Rule {
    code: "WR117",
    name: "ipv6-without-route",
    title: "a side has an IPv6 address and no IPv6 route",
    meaning: "This side has an IPv6 address that looks global, and no route for what it sends. Checks to the peer's IPv6 addresses cannot leave; where IPv6 would be the only direct path, there is none.",
    detection: "Sends to IPv6 addresses were refused with ENETUNREACH, or the kernel says that there is no route, while the side has a global IPv6 candidate; or whyrelay check found that its IPv6 leads nowhere. Where a rule refuses the packets for their mark, those of a probe without it tell. A route whose packets vanish is WR501.",
    proof: "ip -6 route get PEER-ADDRESS.",
    doubt: "An answer over IPv6.",
    fixes: &[
        Fix::safe(
            "Give the host its IPv6 default route (router advertisements on, or a static one), or take the address away so that programs do not try.",
        ),
        Fix::owner("Ask whoever runs the network to announce a default route with the prefix."),
    ],
    threads: &["tailscale/tailscale#17803", "firezone/firezone#9691", "libp2p/go-libp2p#2068"],
    depends_on: &["WR106"],
    needs: &[Need::Sockets],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let is_global = |address: &SocketAddr| address.is_ipv6() && AddressClass::of(address.ip()) == AddressClass::Public;
    let of_candidate = side.local_candidates.iter().find_map(|local| {
        (local.candidate.kind == CandidateType::Host && is_global(&local.base)).then_some((local.base.ip(), local.seq))
    });
    // A session that is to use a relay alone has no candidate for it.
    let of_socket = || {
        let opened = side.sockets.iter().filter(|((_, own), _)| side.options.relay_only && is_global(own));
        opened.map(|((_, own), (seq, _))| (own.ip(), *seq)).min_by_key(|(_, seq)| *seq)
    };
    let (global, told) = of_candidate.or_else(of_socket)?;
    // What a rule refuses for its mark says nothing of routes: the same packets without the mark do.
    let by_mark = diversions(session, vantage).into_iter().find(|diversion| {
        let answer = &diversion.answer.fact;
        matches!(diversion.by, By::MarkRule(_)) && answer.question.destination.is_ipv6() && is_refused(answer)
    });
    let failures = side.send_failures.iter().filter(|_| by_mark.is_none());
    let refused = failures.filter(|((_, remote, errno), _)| remote.is_ipv6() && *errno == ENETUNREACH);
    let refused = refused
        .min_by_key(|(_, failure)| failure.seq)
        .map(|((_, remote, _), failure)| (Some(remote.ip()), failure.seq));
    let unrouted = || {
        let unmarked = side.host.probe_answers.iter().filter(|answer| answer.fact.question.mark == 0);
        let of_session = side.host.route_answers.iter().filter(|_| by_mark.is_none());
        of_session.chain(unmarked.filter(|_| by_mark.is_some())).find_map(|answer| {
            let question = &answer.fact.question;
            let none = answer.fact.failure.as_ref().is_some_and(|failure| failure.errno == ENETUNREACH);
            let by_rule = by_mark.is_some() && deciding(&side.host, &answer.fact).is_some();
            (none && !by_rule && question.destination.is_ipv6()).then_some((Some(question.destination), answer.seq))
        })
    };
    let measured = || {
        side.measured.facts.iter().find_map(|(seq, fact)| match fact {
            Measurement::Ipv6 { state: Ipv6State::NoPath, .. } => Some((None, *seq)),
            _ => None,
        })
    };
    let (to, seq) = refused.or_else(unrouted).or_else(measured)?;
    // Without an IPv6 address of the peer nothing is lost by it.
    let peer_has = side.remote_candidates.iter().any(|remote| {
        remote.candidate.kind != CandidateType::Relayed
            && remote
                .address
                .is_some_and(|address| address.is_ipv6() && AddressClass::of(address.ip()) == AddressClass::Public)
    });
    // An IPv4 address without a route (a tunnel's, say) is no other family to fall back to.
    let mut v4 = side.send_failures.keys().filter(|(_, remote, _)| remote.is_ipv4()).peekable();
    let v4_unrouted = v4.peek().is_some() && v4.all(|(.., errno)| *errno == ENETUNREACH) && !side.reaches(false);
    let all_v6 = side.local_candidates.iter().all(|local| local.base.is_ipv6())
        && side.sockets.keys().all(|(_, own)| own.is_ipv6());
    let only_family = v4_unrouted || all_v6;
    let harmful = (peer_has || only_family) && session.path != Path::Direct;
    let toward = to.map(|to| format!(" (to {to})")).unwrap_or_default();
    let behind =
        if by_mark.is_some() { ": that comes to light once the rule that refuses its mark is mended" } else { "" };
    Some(Fault {
        family: Some(Family::V6),
        blame: Blame::side(vantage),
        severity: if harmful { session.harm() } else { Severity::Info },
        hidden: by_mark.is_some(),
        summary: format!("{} has the IPv6 address {} and no IPv6 route{toward}{behind}", vantage.name(), global),
        evidence: [told, seq].into_iter().chain(by_mark.map(|diversion| diversion.answer.seq)).collect(),
        advice: vec![
            Remedy::safe("Look at the routes")
                .run("ip -6 route show default")
                .run("sysctl net.ipv6.conf.all.accept_ra net.ipv6.conf.all.forwarding"),
        ],
        ..Fault::default()
    })
}
