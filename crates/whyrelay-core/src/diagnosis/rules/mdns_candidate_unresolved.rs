//! The peer hides its address behind a .local name.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::ice::candidate::{CandidateAddress, CandidateType};
use crate::trace::event::RefuseReason;

pub(super) const RULE: Rule = Rule {
    code: "WR512",
    name: "mdns-candidate-unresolved",
    title: "the peer hides its address behind a .local name",
    meaning: "The peer is a browser that gives its host address as a random name ending in .local (mDNS), which only machines on its own network can resolve. Without a server-reflexive candidate there is nothing else to send checks to.",
    detection: "A remote candidate with a name ending in .local was not resolved, and the peer has no other direct candidate.",
    proof: "The candidate line, and avahi-resolve of the name on a machine of the peer's network.",
    doubt: "A server-reflexive or public host candidate of the peer.",
    fixes: &[
        Fix::safe("Give the page a STUN server, so that it has a server-reflexive candidate."),
        Fix::safe("On the page, ask for camera or microphone permission first: browsers then show real addresses."),
    ],
    threads: &[
        "meetecho/janus-gateway#1692",
        "Kurento/bugtracker#405",
        "whitphx/streamlit-webrtc#277",
        "paullouisageneau/libdatachannel#1285",
    ],
    depends_on: &["WR801"],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let refused = side.refused_candidates.iter().find_map(|(seq, line, reason)| {
            let is_name = line.split_whitespace().any(|word| word.ends_with(".local"));
            (is_name && matches!(reason, RefuseReason::Unresolved { .. })).then_some(*seq)
        });
        let waiting = || {
            side.remote_candidates.iter().find_map(|remote| match &remote.candidate.address {
                CandidateAddress::Name { name, .. } if name.ends_with(".local") && remote.address.is_none() => {
                    Some(remote.seq)
                }
                _ => None,
            })
        };
        let Some(seq) = refused.or_else(waiting) else { continue };
        let others = side
            .remote_candidates
            .iter()
            .any(|remote| remote.address.is_some() && remote.candidate.kind != CandidateType::Relayed);
        let harmful = session.path != Path::Direct && !others;
        // Another address did it, or may: the name is no fault, and nothing is to be mended on the page.
        let nothing = || {
            let what = match session.path {
                Path::Direct => "Nothing: the path is direct all the same, and browsers hide such addresses on purpose",
                _ => {
                    "Nothing about the name: the peer has another address that is not hidden, and whatever keeps that from working is the cause"
                }
            };
            vec![Remedy::safe(what)]
        };
        faults.push(Fault {
            blame: Blame::side(vantage.other()),
            severity: if harmful { session.harm() } else { Severity::Info },
            summary: format!(
                "{} gives its address as a .local name, which {} cannot resolve{}",
                vantage.other().name(),
                vantage.name(),
                if others { "" } else { ", and has no other direct candidate" }
            ),
            evidence: vec![seq],
            advice: if harmful { Vec::new() } else { nothing() },
            advice_is_all: !harmful,
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
