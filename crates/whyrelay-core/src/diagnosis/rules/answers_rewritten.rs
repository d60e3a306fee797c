//! A router rewrites addresses inside STUN.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::Damaged;
use crate::diagnosis::finding::Blame;
use crate::diagnosis::network::{asked_plainly, told_plainly, why_plainly};
use crate::diagnosis::session::Session;
use crate::host::ProbeOutcome;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR305",
    name: "answers-rewritten",
    title: "a router rewrites addresses inside STUN",
    meaning: "An application-layer gateway (\"SIP ALG\", NAT helper, \"VoIP support\") on the way replaces what it takes for addresses in the payload of UDP packets. STUN's answers then tell a wrong address, and their fingerprint and integrity no longer match, so they are discarded: the side learns no public address and gets no allocation over UDP.",
    detection: "Answers of a server arrive over UDP and their FINGERPRINT or MESSAGE-INTEGRITY does not match; that they tell the socket's own private address shows what was put in. Where no server answers the session's own sockets: so they arrive at a plain program's.",
    proof: "The same request over TCP or TLS, which gateways leave alone: its answer is whole.",
    doubt: "An answer of the same server over UDP that is whole.",
    fixes: &[
        Fix::owner("Turn off the SIP ALG (VoIP helper, \"NAT helper\") of the router."),
        Fix::safe("Until then offer TURN over TLS, which it cannot read."),
    ],
    threads: &["coturn/coturn#94"],
    depends_on: &[],
    needs: &[Need::Sockets],
    examine,
};

/// One damaged datagram may be chance; a gateway damages all.
const MIN: u32 = 2;

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let from_servers =
            side.damaged.iter().filter(|((_, remote), _)| side.servers.keys().any(|(_, _, server)| server == remote));
        let whole = |local, remote| {
            side.servers
                .iter()
                .any(|((_, own, server), path)| (*own, *server) == (local, remote) && !path.mapped.is_empty())
        };
        let broken: Vec<(_, &Damaged)> = from_servers.filter(|((local, remote), _)| !whole(*local, *remote)).collect();
        let count: u32 = broken.iter().map(|(_, damaged)| damaged.count).sum();
        let Some(((local, remote), first)) = broken.first().filter(|_| count >= MIN) else {
            faults.extend(plainly(session, vantage));
            continue;
        };
        let own = broken.iter().any(|((local, _), damaged)| damaged.told.is_some_and(|told| told.ip() == local.ip()));
        let told = first.told.map(|told| format!(", telling {local} that it is {told}")).unwrap_or_default();
        faults.push(Fault {
            blame: if own { Blame::side(vantage) } else { Blame::Path },
            severity: session.harm(),
            summary: format!(
                "{count} answers to {} were changed on their way, first one of {remote}{told}",
                vantage.name()
            ),
            evidence: broken.iter().map(|(_, damaged)| damaged.seq).collect(),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}

/// The same of the answers to plain sockets.
fn plainly(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    if !told_plainly(side).is_empty() {
        return None;
    }
    let rewritten: Vec<_> = asked_plainly(side)
        .filter_map(|probe| match probe.fact.result {
            ProbeOutcome::Rewritten { told, answers } if answers >= MIN => Some((probe, told, answers)),
            _ => None,
        })
        .collect();
    let (first, told, _) = rewritten.first()?;
    let own = rewritten.iter().any(|(probe, told, _)| told.is_some_and(|told| told.ip() == probe.fact.local.ip()));
    let count: u32 = rewritten.iter().map(|(.., answers)| answers).sum();
    let told = told.map(|told| format!(", telling {} that it is {told}", first.fact.local)).unwrap_or_default();
    Some(Fault {
        blame: if own { Blame::side(vantage) } else { Blame::Path },
        severity: session.harm(),
        summary: format!(
            "{count} answers to {} were changed on their way, first one of {}{told}{}",
            vantage.name(),
            first.fact.remote,
            why_plainly(side)
        ),
        evidence: rewritten.iter().map(|(probe, ..)| probe.seq).collect(),
        hidden: true,
        ..Fault::default()
    })
}
