//! The NAT forgets an idle mapping too soon.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::host::{ProbeAim, ProbeOutcome};
use crate::trace::event::Vantage;
use crate::trace::measurement::Measurement;

/// Shorter than this is shorter than the keep-alives of common programs (WireGuard, NetBird: 25 s).
const KEEP_ALIVE_S: u32 = 25;

pub(super) const RULE: Rule = Rule {
    code: "WR205",
    name: "mapping-expires-early",
    title: "the NAT forgets an idle mapping too soon",
    meaning: "The NAT or firewall in front of a side drops a mapping after a few seconds without packets, sooner than the program sends keep-alives. The path works and breaks whenever it is idle. On a NAT that preserves ports a repeated STUN request shows the same port, so only a packet from outside can see it.",
    detection: "Packets from outside no longer came in after a silence that was measured; or the path broke for want of consent while it was idle.",
    proof: "The peer, or a server, sends after 5, 10, 20, 40 s of silence: what arrives and what does not bounds the lifetime.",
    doubt: "A packet from outside that arrives after a longer silence.",
    fixes: &[
        Fix::safe(
            "Send keep-alives more often than the NAT forgets: 15 to 25 s suit almost every NAT, for NetBird set NB_ICE_KEEP_ALIVE_INTERVAL_SEC, for WireGuard PersistentKeepalive = 15.",
        ),
        Fix::owner("Raise the router's UDP timeout (RFC 4787 asks for two minutes at least)."),
    ],
    threads: &["zerotier/ZeroTierOne#153", "firezone/firezone#9524", "firezone/firezone#6290"],
    depends_on: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let measured = side.measured.facts.iter().find_map(|(seq, fact)| match fact {
        Measurement::MappingLifetime { at_least_s, at_most_s: Some(at_most_s), .. } if *at_most_s <= KEEP_ALIVE_S => {
            Some((*seq, *at_least_s, *at_most_s))
        }
        _ => None,
    });
    let probed = || {
        let silent =
            |probe: &&crate::diagnosis::evidence::Taken<crate::host::Probe>| probe.fact.result == ProbeOutcome::Silent;
        let probes = side.host.probes_with(|aim| matches!(aim, ProbeAim::Silence { .. }));
        let seconds = |aim: &ProbeAim| if let ProbeAim::Silence { seconds } = aim { *seconds } else { 0 };
        let shortest = probes.filter(silent).min_by_key(|probe| seconds(&probe.fact.aim))?;
        let answered = side.host.probes_with(|aim| matches!(aim, ProbeAim::Silence { .. }));
        let at_least = answered
            .filter(|probe| matches!(probe.fact.result, ProbeOutcome::Answered { .. }))
            .map(|probe| seconds(&probe.fact.aim))
            .max()?;
        let at_most = seconds(&shortest.fact.aim);
        (at_most <= KEEP_ALIVE_S).then_some((shortest.seq, at_least, at_most))
    };
    let (seq, at_least, at_most) = measured.or_else(probed)?;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Warning,
        summary: format!(
            "The NAT of {} forgets a mapping that was idle for between {at_least} and {at_most} s",
            vantage.name()
        ),
        evidence: vec![seq],
        ..Fault::default()
    })
}
