//! A VPN carries all of this side's traffic, this session's included.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::routes::{is_refused, mark_matters};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::Vantage;

use super::wording::{ask, way};
use crate::host::Subject;

pub(super) const RULE: Rule = Rule {
    code: "WR108",
    name: "vpn-carries-everything",
    title: "a VPN carries all of this side's traffic, this session's included",
    meaning: "The default route of this side leads into a tunnel (a full-tunnel VPN, an exit node, 0.0.0.0/1 and 128.0.0.0/1), so its checks and STUN requests leave at the VPN's exit: the address that servers see is the exit's, whose NAT is usually the hardest kind, packets are smaller, and a kill switch may stop the rest.",
    detection: "The kernel routes packets to the servers and to the peer into a tunnel.",
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
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let host = &side.host;
    let tunnel = |device: &str| host.link(device).is_some_and(|link| link.fact.is_tunnel());
    let plain = host
        .routes_to_servers()
        .filter(|answer| answer.fact.question.out_device.is_none() && !is_refused(&answer.fact))
        // What a rule by the mark leads there has a finding of its own.
        .filter(|answer| !mark_matters(host, answer));
    let (mut through, mut past) = (None, false);
    for answer in plain {
        match answer.fact.device() {
            Some(device) if tunnel(device) => through = through.or(Some(answer)),
            Some(_) => past = true,
            None => {}
        }
    }
    let answer = through.filter(|_| !past)?;
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
        advice: vec![
            Remedy::safe("See what the kernel does with these packets").run(ask(&answer.fact.question)),
            Remedy::safe(format!(
                "Try without the tunnel: whyrelay with --exclude-interface {device}, and bound to the uplink (--interface)"
            )),
        ],
        ..Fault::default()
    })
}
