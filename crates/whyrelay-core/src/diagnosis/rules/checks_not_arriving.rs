//! checks get lost on the way.

use std::net::SocketAddr;

use super::hops::{Reached, at_router, is_gateway, reached};
use super::{Examination, Fault, Fix, Need, Rule, server_name_unresolved, stun_server_silent};
use crate::diagnosis::evidence::LocalCandidate;
use crate::diagnosis::finding::{Blame, MAX_CITED, Severity};
use crate::diagnosis::network::told;
use crate::diagnosis::session::{Break, JoinedPair, Path, Session, likeliest_first};
use crate::diagnosis::views::differs;
use crate::host::Family;
use crate::ice::candidate::CandidateType;
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR501",
    name: "checks-not-arriving",
    title: "checks get lost on the way",
    meaning: "A side sends checks to an address of the other and they never arrive. The NAT or firewall in front of the receiver drops what it did not ask for, a firewall in front of the sender lets UDP out to servers only, or the address is not the receiver's any more.",
    detection: "Checks that one side recorded as sent are absent from the other side's recording, joined by transaction id. Only pairs that could work are counted. Packets of low TTL say how far each side's come, and whose that router is: it has the address at which servers see a side, a host's routes lead by it, or it has a private address that no other router stands in front of. Where the first router tells of such packets for a server and of none for the peer, what is for the peer ends on that side.",
    proof: "Captures on both sides of each router on the way: the first on which the check is missing is behind the one that drops it.",
    doubt: "A finding that names the host, the firewall or the NAT: host facts and NAT discovery on both sides (run as root, with a server that offers RFC 5780).",
    fixes: &[
        Fix::firewall("If only one direction is lost: allow inbound UDP to that port on the receiver and its router."),
        Fix::firewall("If both are lost: allow outbound UDP to any port on both sides, not only to the servers."),
        Fix::safe("Compare with a capture on the receiver's router to see on which side of it they vanish."),
    ],
    threads: &["netbirdio/netbird#1655", "netbirdio/netbird#390", "netbirdio/netbird#4715"],
    depends_on: &[
        "WR801", "WR305", "WR101", "WR805", "WR208", "WR302", "WR304", "WR202", "WR204", "WR206", "WR207", "WR201",
        "WR504", "WR513", "WR510", "WR706", "WR701", "WR702", "WR703", "WR507", "WR103", "WR104", "WR105", "WR106",
        "WR107", "WR108", "WR109", "WR110", "WR111", "WR112", "WR113", "WR114", "WR115", "WR116", "WR118", "WR119",
        "WR120", "WR129", "WR130", "WR131",
    ],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    // A port that is another towards others explains the loss, also where it is not known why it is another.
    let moved = |vantage| differs(session, vantage).map(|(told, view)| (vantage, told, view));
    let blind = session.recorded().any(|vantage| is_blind(session, vantage));
    if let Some((vantage, told, view)) = session.recorded().find_map(moved) {
        // It says nothing of the other family.
        let family = if told.mapped.is_ipv4() { Family::V6 } else { Family::V4 };
        if let Some(fault) = lost(session, Some(family), blind) {
            return Examination::Found(vec![Fault { family: Some(family), ..fault }]);
        }
        let (here, there) = (vantage.name(), vantage.other().name());
        let observer = if view.by_relay { format!("the relay of {there}") } else { there.to_owned() };
        return Examination::Inconclusive {
            missing: format!(
                "why the NAT of {here} maps {} to {} towards {} and to {} towards {observer}: by destination, or because a packet of {there} came first (what a second server at another address tells)",
                told.local, told.mapped, told.server, view.seen
            ),
        };
    }
    Examination::of(Fault::of_families(|family| lost(session, family, blind)).into_iter().collect())
}

/// What is lost of one family, or of both.
fn lost(session: &Session<'_>, family: Option<Family>, blind: bool) -> Option<Fault> {
    let works = session.pairs.iter().any(|pair| !pair.relayed && pair.works());
    let mut lost = Vec::new();
    let mut evidence = Vec::new();
    for from in [Vantage::A, Vantage::B] {
        // What goes on one network needs no server.
        let counts = |pair: &&JoinedPair| {
            // The two are on no common link, or other addresses of it do.
            if works && pair.is_link_local() {
                return false;
            }
            let near =
                pair.side(from).is_some_and(|own| AddressClass::of(own.pair.remote.ip()) != AddressClass::Public);
            session.could_arrive(pair, from) && pair.is_of(family) && (near || !blind)
        };
        let could = session.pairs.iter().filter(counts);
        let chains = likeliest_first(could.filter(|pair| pair.from(from).broken == Some(Break::OnTheWay)));
        let Some(first) = chains.iter().find_map(|pair| pair.side(from)) else { continue };
        let sent: u32 = chains.iter().filter_map(|pair| pair.from(from).sent).map(|sent| sent.transmissions).sum();
        lost.push((from, first.pair.remote, sent, chains.len()));
        evidence.extend(chains.iter().flat_map(|pair| pair.from(from).evidence.iter().copied()));
    }
    // How often on all of them: the account has each pair's own number.
    let whereto = |remote: &SocketAddr, sent: u32, pairs: usize| {
        let times = if sent == 1 { "once".to_owned() } else { format!("{sent} times") };
        if pairs == 1 { format!("to {remote} {times}") } else { format!("on {pairs} pairs, as to {remote}, {times}") }
    };
    let one = |(from, remote, sent, pairs): &(Vantage, SocketAddr, u32, usize)| {
        let whereto = whereto(remote, *sent, *pairs);
        format!("{} sent checks {whereto} and none reached {}", from.name(), from.other().name())
    };
    let summary = match lost.as_slice() {
        [] => return None,
        [only] => one(only),
        [first, (from, back, count, pairs), ..] => {
            format!("{}; nor did any that {} sent {}", one(first), from.name(), whereto(back, *count, *pairs))
        }
    };
    let mut summary = summary;
    let (mut blame, mut advice, mut hops) = (Blame::Path, Vec::new(), Vec::new());
    for (from, remote, ..) in &lost {
        let Some(reached) = reached(session, *from, family) else { continue };
        summary.push_str(&how_far(session, *from, &reached));
        match reached {
            Reached::Hop { seq, .. } => hops.push(seq),
            Reached::Nowhere { router, seqs } => {
                hops.extend(seqs);
                // What that router, or the host, does to packets for the peer: the other side's are lost for want of them.
                blame = if blame == Blame::Path { Blame::side(*from) } else { Blame::Both };
                advice.push(at_router(*from, router, remote.ip()));
            }
        }
    }
    evidence.truncate(MAX_CITED - hops.len());
    evidence.append(&mut hops);
    let severity = if session.path == Path::Failed { Severity::Error } else { Severity::Warning };
    let advice_is_all = !advice.is_empty();
    Some(Fault { blame, severity, summary, evidence, advice, advice_is_all, ..Fault::default() })
}

/// How far packets of a side come, for the end of a sentence: which router told last, and on whose side it is.
fn how_far(session: &Session<'_>, from: Vantage, reached: &Reached) -> String {
    let (here, there) = (from.name(), from.other().name());
    match reached {
        Reached::Hop { ttl, router, of, .. } => {
            let is_own = *ttl == 1 || is_gateway(session.evidence.side(from), *router);
            let whose = match of {
                Some(side) if *side != from => format!("the router in front of {there}"),
                Some(_) if is_own => "its own router".to_owned(),
                Some(_) => format!("on the side of {here}"),
                None => "between the two".to_owned(),
            };
            format!("; of {here}'s packets the last hop that answers is number {ttl}, {router}, {whose}")
        }
        Reached::Nowhere { router, .. } => format!(
            "; of {here}'s packets no hop answers, although its own router {router} does where they are for a server: that router, or the host of {here}, drops what is for {there}"
        ),
    }
}

/// A side whose servers are silent, or not resolved, has no address that the peer could open its NAT to: what it sends
/// is then dropped there, and the peer has nowhere to send to. The servers have rules of their own.
fn is_blind(session: &Session<'_>, vantage: Vantage) -> bool {
    let side = session.evidence.side(vantage);
    let public = |local: &LocalCandidate| {
        let address = local.candidate.address.ip().map(|address| AddressClass::of(address.ip()));
        local.candidate.kind != CandidateType::Relayed && address == Some(AddressClass::Public)
    };
    let has_public = side.local_candidates.iter().any(public);
    let silent = || {
        let of_side = |examination| match examination {
            Examination::Found(faults) => faults.into_iter().any(|fault: Fault| {
                fault.severity != Severity::Info
                    && fault.seen_by.map_or(fault.blame == Blame::side(vantage), |by| by == vantage)
            }),
            _ => false,
        };
        of_side(stun_server_silent::examine(session)) || of_side(server_name_unresolved::examine(session))
    };
    // What a relayed address of its own told it, it has told nobody.
    let knows = told(side).iter().any(|told| !side.is_relayed(told.server));
    !has_public && !knows && silent()
}
