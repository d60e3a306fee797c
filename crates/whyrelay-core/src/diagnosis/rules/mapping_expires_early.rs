//! The NAT forgets an idle mapping too soon.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::{Blame, Remedy, Severity};
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
            "Send keep-alives more often than the NAT forgets: for NetBird by NB_ICE_KEEP_ALIVE_INTERVAL_SEC, for WireGuard by PersistentKeepalive.",
        ),
        Fix::owner("Raise the router's UDP timeout (RFC 4787 asks for two minutes at least)."),
    ],
    threads: &["firezone/firezone#9570", "zerotier/ZeroTierOne#153"],
    depends_on: &[],
    needs: &[Need::Other(untimed)],
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
    let (seq, at_least, at_most) = measured.or_else(|| probed(side))?;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Warning,
        summary: format!(
            "The NAT of {} forgets a mapping that was idle for between {at_least} and {at_most} s",
            vantage.name()
        ),
        evidence: vec![seq],
        advice: vec![Remedy::safe(format!(
            "Send keep-alives every {} s: this NAT remembers for {at_least} s, and {at_most} s are too long",
            within(at_least)
        ))],
        ..Fault::default()
    })
}

/// What is not measured, as a check calls it.
const LIFETIME: &str = "the lifetime of an idle mapping";

/// How long the NAT keeps an idle mapping: measured where it is asked for, as it takes that long.
fn untimed(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    let side = session.evidence.side(vantage);
    let measured = side.measured.facts.iter().any(|(_, fact)| matches!(fact, Measurement::MappingLifetime { .. }));
    let probed = side.host.probes.iter().any(|probe| matches!(probe.fact.aim, ProbeAim::Silence { .. }));
    (!measured && !probed).then(|| {
        let asked =
            side.measured.alone.as_ref().is_some_and(|(_, consents)| consents.iter().any(|of| of == "lifetime"));
        let mut missing = side.measured.missing.iter().filter(|(_, what, _)| asked && what.starts_with(LIFETIME));
        // It was asked for: then why there is none, and not how to ask.
        let why = missing.next().map_or("--lifetime measures it", |(.., why)| why.as_str());
        format!("{LIFETIME} ({why}) in the NAT")
    })
}

/// A time in seconds that is safely below one that the NAT remembers.
fn within(at_least_s: u32) -> u32 {
    (at_least_s * 4 / 5).max(1)
}

/// The shortest silence after which the peer's knock did not arrive, with the longest after which one did: between the two
/// the mapping went. A knock that arrived after a longer silence says that the other one was lost otherwise.
fn probed(side: &SideEvidence) -> Option<(u64, u32, u32)> {
    let after = |arrived: bool| {
        side.host.probes.iter().filter_map(move |probe| match (&probe.fact.aim, &probe.fact.result) {
            (ProbeAim::Silence { seconds }, ProbeOutcome::Answered { .. }) if arrived => Some((*seconds, probe.seq)),
            (ProbeAim::Silence { seconds }, ProbeOutcome::Silent) if !arrived => Some((*seconds, probe.seq)),
            _ => None,
        })
    };
    let (at_least, _) = after(true).max()?;
    let (at_most, seq) = after(false).min()?;
    (at_least < at_most && at_most <= KEEP_ALIVE_S).then_some((seq, at_least, at_most))
}
