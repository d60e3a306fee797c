//! A VPN carries all of this side's traffic, this session's included.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::routes::{into_tunnel, mark_matters};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::Vantage;

use super::wording::{ask, way};
use crate::host::{RouteQuestion, Subject};

pub(super) const RULE: Rule = Rule {
    code: "WR108",
    name: "vpn-carries-everything",
    title: "a VPN carries all of this side's traffic, this session's included",
    meaning: "The default route of this side leads into a tunnel (a full-tunnel VPN, an exit node, 0.0.0.0/1 and 128.0.0.0/1), so its checks and STUN requests leave at the VPN's exit: the address that servers see is the exit's, whose NAT is usually the hardest kind, packets are smaller, and a kill switch may stop the rest.",
    detection: "The kernel routes packets to the servers and to the peer into a tunnel. Where something else keeps them from leaving, or leads them away by their mark: it would, by the rules and routes that the host told.",
    proof: "A STUN request bound to the physical device shows another public address than one without.",
    doubt: "A check bound to the physical device that fails, too.",
    fixes: &[Fix::safe(
        "Exclude this program, or the peer's address, from the VPN (split tunneling); or pause the VPN.",
    )],
    threads: &["netbirdio/netbird#2143", "netbirdio/netbird#2522", "coder/coder#13327", "libp2p/specs#488"],
    depends_on: &[],
    needs: &[Need::Host(Subject::RouteAnswers), Need::Host(Subject::Links)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    let of_side = |vantage| fault(session, vantage).or_else(|| would_carry(session, vantage));
    Examination::of(session.recorded().filter_map(of_side).collect())
}

/// Everything would go into the tunnel that something else keeps from leaving, or leads another way by its mark.
fn would_carry(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let host = &session.evidence.side(vantage).host;
    let ways = &session.mended_ways(vantage).to_servers;
    let through = into_tunnel(host, ways.iter().map(|way| &way.way))?;
    let way = ways.iter().find(|way| way.way == *through)?;
    let device = through.device().unwrap_or_default();
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "Everything that {} sends goes into the tunnel {device} ({}): that comes to light once {} is mended",
            vantage.name(),
            super::wording::way(through),
            way.mended()
        ),
        evidence: [way.seen.seq].into_iter().chain(way.behind.iter().map(|(_, seq)| *seq)).collect(),
        advice: advice(&way.seen.fact.question, device),
        hidden: true,
        ..Fault::default()
    })
}

fn advice(question: &RouteQuestion, device: &str) -> Vec<Remedy> {
    vec![
        Remedy::safe("See what the kernel does with these packets").run(ask(question)),
        Remedy::safe(format!(
            "Try without the tunnel: whyrelay with --exclude-interface {device}, and bound to the uplink (--interface)"
        )),
    ]
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let host = &side.host;
    let tunnel = |device: &str| host.link(device).is_some_and(|link| link.fact.is_tunnel());
    let plain: Vec<_> = host
        .routes_to_servers()
        .filter(|answer| answer.fact.question.out_device.is_none())
        // What a rule by the mark leads there has a finding of its own.
        .filter(|answer| !mark_matters(host, answer))
        .collect();
    let through = into_tunnel(host, plain.iter().map(|answer| &answer.fact))?;
    let answer = plain.into_iter().find(|answer| answer.fact == *through)?;
    // Bound to a physical device it is answered: the counterfactual.
    let bound = host.probes.iter().find(|probe| {
        matches!(&probe.fact.aim, crate::host::ProbeAim::Device { device } if !tunnel(device))
            && matches!(probe.fact.result, crate::host::ProbeOutcome::Answered { .. })
    });
    let proved = bound.map_or("", |_| "; bound to the physical device a check is answered");
    let device = answer.fact.device().unwrap_or_default();
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "Everything that {} sends goes into the tunnel {device} ({}){proved}",
            vantage.name(),
            way(&answer.fact)
        ),
        evidence: [answer.seq].into_iter().chain(bound.map(|probe| probe.seq)).collect(),
        advice: advice(&answer.fact.question, device),
        ..Fault::default()
    })
}
