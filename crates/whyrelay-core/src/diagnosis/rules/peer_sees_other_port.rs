//! the peer sees another address than was advertised.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use std::net::SocketAddr;

use crate::ice::candidate::CandidateTransport;
use crate::trace::event::{Pair, Vantage};

pub(super) const RULE: Rule = Rule {
    code: "WR504",
    name: "peer-sees-other-port",
    title: "the peer sees another address than was advertised",
    meaning: "Checks of a side arrive at the peer from an address that the side never advertised: its NAT gave the peer another mapping than the STUN server. The peer's own checks go to the advertised address and are dropped there, unless its NAT lets answers to the new address through.",
    detection: "A check that the peer received comes from an address that is none of the sender's candidates, joined by transaction id; or the peer's answer says so; while a server had told the sender an address.",
    proof: "The source address in the receiver's recording, next to the address that the STUN server told.",
    doubt: "A STUN answer of that same address: then the candidate was only not signaled.",
    fixes: &[
        Fix::owner("Turn on static-port outbound NAT or endpoint-independent mapping on the router of that side."),
        Fix::owner(
            "Forward a port to that host by PCP, NAT-PMP or UPnP (whyrelay --try mapping), so that the peer is told of it; a forward by hand helps only where the router also sends from the forwarded port.",
        ),
    ],
    threads: &["tailscale/tailscale#864", "netbirdio/docs#933"],
    depends_on: &[
        "WR206", "WR207", "WR202", "WR201", "WR801", "WR105", "WR106", "WR107", "WR108", "WR109", "WR115", "WR118",
        "WR119", "WR208", "WR302", "WR304",
    ],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let Some((seen, seq, _)) = unadvertised(session, vantage) else { continue };
        let side = session.evidence.side(vantage);
        // A side that no server told anything had no other address to advertise: what keeps the servers silent is the fault.
        // What its own relayed address told, it advertised to nobody.
        let was_told = crate::diagnosis::network::told(side)
            .iter()
            .any(|told| told.mapped.is_ipv4() == seen.is_ipv4() && !side.is_relayed(told.server));
        if !was_told {
            continue;
        }
        let told = side.local_candidates.iter().filter_map(|local| local.candidate.address.ip());
        let advertised = told.filter(|address| address.ip() == seen.ip()).map(|address| address.to_string()).next();
        let (here, there) = (vantage.name(), vantage.other().name());
        let summary = match advertised {
            Some(advertised) => format!("{here} advertised {advertised}, and {there} saw its checks come from {seen}"),
            None => format!("{there} saw the checks of {here} come from {seen}, which {here} never advertised"),
        };
        let (blame, severity) = (Blame::side(vantage), Severity::Warning);
        faults.push(Fault { blame, severity, summary, evidence: vec![seq], ..Fault::default() });
    }
    Examination::of(faults)
}

/// An address from which the peer saw checks of a side and that is none of its candidates, with the event and the
/// socket that sent them.
pub(super) fn unadvertised(session: &Session<'_>, vantage: Vantage) -> Option<(SocketAddr, u64, SocketAddr)> {
    let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    // A TCP connection has a port of its own by nature; only UDP's is the advertised one.
    let udp = side.sent.iter().filter(|(_, check)| check.pair.transport == CandidateTransport::Udp);
    // A socket whose packets leave by another interface than its address is on says nothing of the NAT.
    let astray = |pair: &Pair| {
        let home = side.host.addresses.iter().find(|address| address.fact.address == pair.local.ip());
        let mut answers = side.host.routes_to(pair.remote.ip()).filter(|answer| {
            answer.fact.question.source == Some(pair.local.ip()) && answer.fact.question.out_device.is_none()
        });
        home.is_some_and(|home| {
            answers.any(|answer| answer.fact.device().is_some_and(|device| device != home.fact.device))
        })
    };
    let direct = udp.filter(|(_, check)| {
        // A relay of the peer's may see another port than the peer itself: that says what the NAT is like.
        let to_relay = other.is_relayed(check.pair.remote) || side.known.is_told_as_relayed(check.pair.remote);
        !astray(&check.pair) && !side.is_relayed(check.pair.local) && !to_relay
    });
    let seen = direct.filter_map(|(id, check)| {
        let by_peer = other.received.get(id).map(|received| (received.pair.remote, received.seq, check.pair.local));
        by_peer.or_else(|| Some((check.mapped()?, check.answer.as_ref()?.seq, check.pair.local)))
    });
    let is_known = |address: SocketAddr| {
        side.local_candidates.iter().any(|local| local.candidate.address.ip() == Some(address) || local.base == address)
    };
    // A proxy on the peer's own host passes them on from an address of that host: no NAT of this side did that.
    let by_proxy = |address: SocketAddr| other.known.is_own(address.ip()) && !side.known.is_own(address.ip());
    seen.filter(|(address, ..)| !is_known(*address) && !by_proxy(*address)).min_by_key(|(_, seq, _)| *seq)
}
