//! A candidate of the peer is an address of this host.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::Blame;
use crate::diagnosis::session::Session;
use crate::ice::candidate::CandidateType;
use crate::trace::event::Vantage;

use super::checks_rejected_on_the_way::is_own;

pub(super) const RULE: Rule = Rule {
    code: "WR127",
    name: "candidate-is-own-address",
    title: "a candidate of the peer is an address of this host",
    meaning: "The peer offers an address that this host has itself: both have a bridge with the same network (172.17.0.1 of Docker). Checks to it stay on this host. That candidate is dead; it costs time and does no other harm.",
    detection: "A remote host candidate equals an address of an interface of this host.",
    proof: "ip route get ADDRESS says \"local\".",
    doubt: "An answer of the peer from there.",
    fixes: &[
        Fix::safe("Leave the bridge out on the peer: whyrelay --exclude-interface docker0."),
        Fix::cuts("For NetBird there: netbird down && netbird up --extra-iface-blacklist docker0."),
    ],
    threads: &["open-mpi/ompi#14371"],
    depends_on: &[],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let (remote, address) = side.remote_candidates.iter().find_map(|remote| {
        let address = remote
            .address
            .filter(|address| remote.candidate.kind == CandidateType::Host && !address.ip().is_loopback())?;
        is_own(side, address.ip()).then_some((remote, address))
    })?;
    // Two peers on one host have the same addresses by nature.
    let same_host = session.evidence.side(vantage.other()).interfaces.iter().any(|(_, _, theirs, _)| {
        side.interfaces
            .iter()
            .filter(|(_, _, ours, _)| ours == theirs && ours.iter().any(|address| !address.is_loopback()))
            .count()
            > 0
            && side.interfaces.len() == session.evidence.side(vantage.other()).interfaces.len()
    });
    (!same_host).then(|| Fault {
        blame: Blame::side(vantage.other()),
        summary: format!("{} offers {address}, which {} has itself", vantage.other().name(), vantage.name()),
        evidence: vec![remote.seq],
        ..Fault::default()
    })
}
