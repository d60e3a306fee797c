//! Packets carry a checksum for another source address.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{SideEvidence, Taken};
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::network::told;
use crate::diagnosis::session::{Break, Path, Session};
use crate::host::{OwnPacket, Subject};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR116",
    name: "checksum-for-another-source",
    title: "packets carry a checksum for another source address",
    meaning: "The application builds its UDP headers itself (a raw socket, as NetBird beside kernel WireGuard) and computed the checksum for another source address than the packet then leaves with. Every receiver drops it silently; a Linux NAT on the way counts it as invalid.",
    detection: "A copy of the session's packets at an interface (AF_PACKET, which needs CAP_NET_RAW), where they leave or where they arrive, has several between the two sides whose UDP checksum does not fit their addresses and contents, while checks get lost. The receiver's counter of checksum errors is the whole host's: alone it blames nobody.",
    proof: "tcpdump -vv on the receiver says \"bad udp cksum\".",
    doubt: "A packet whose checksum is right where it leaves and wrong where it arrives: then something on the way changed it.",
    fixes: &[Fix::safe(
        "Update NetBird to 0.70.5 or later; until then do without the exit node or network route that changes the source.",
    )],
    threads: &["netbirdio/netbird#4503", "netbirdio/netbird#6070"],
    depends_on: &["WR801"],
    needs: &[Need::OtherSide, Need::Host(Subject::OwnPackets)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    Examination::of([Vantage::A, Vantage::B].into_iter().filter_map(|vantage| fault(session, vantage)).collect())
}

/// Events of checks of a side that were to arrive and did not.
fn lost(session: &Session<'_>, sender: Vantage) -> Vec<u64> {
    let lost = session
        .pairs
        .iter()
        .filter(|pair| session.could_arrive(pair, sender) && pair.from(sender).broken == Some(Break::OnTheWay));
    lost.flat_map(|pair| pair.from(sender).evidence.iter().copied()).collect()
}

/// Copies of packets between the two sides, several with a wrong checksum, that left one or arrived at it.
fn wrong<'a>(side: &'a SideEvidence, peer: &SideEvidence, arrived: bool) -> Option<&'a Taken<OwnPacket>> {
    // One wrong packet may have been damaged on its way, or be anybody's.
    const SEVERAL: u64 = 2;
    let several = |fact: &OwnPacket| fact.arrived == arrived && fact.wrong_checksums >= SEVERAL;
    let mut wrong = side.host.own_packets.iter().filter(|packet| several(&packet.fact)).peekable();
    wrong.peek()?;
    let seen = seen_of(side, peer);
    // What comes from a server, or goes to one, has another sender or receiver, as has what strangers send.
    wrong.find(|packet| {
        let other = other_end(&packet.fact);
        let of_peer = side.known.is_told(other.ip()) || peer.known.is_own(other.ip()) || seen.contains(&other.ip());
        of_peer && !side.known.is_server(other)
    })
}

/// The address at the other end of a packet.
const fn other_end(packet: &OwnPacket) -> SocketAddr {
    if packet.arrived { packet.source } else { packet.destination }
}

/// The addresses of the peer beside those that it knows or told: where this side, and servers, saw it.
fn seen_of(side: &SideEvidence, peer: &SideEvidence) -> BTreeSet<IpAddr> {
    let here = side.received.values().map(|check| check.pair.remote.ip());
    here.chain(told(peer).iter().map(|told| told.mapped.ip())).collect()
}

fn fault(session: &Session<'_>, sender: Vantage) -> Option<Fault> {
    let (side, receiver) = (session.evidence.side(sender), session.evidence.side(sender.other()));
    let evidence = lost(session, sender);
    if evidence.is_empty() {
        return None;
    }
    let (here, there) = (sender.name(), sender.other().name());
    let left = wrong(side, receiver, false);
    let (packet, how, doubt) = match left {
        Some(packet) => (packet, format!("leave {} by {}", packet.fact.source, packet.fact.device), None),
        None => {
            let arrived = wrong(receiver, side, true)?;
            let doubt = "The same packets with a right checksum where they leave: then a router or gateway on the way changed them.";
            let how = format!("of {here} arrive at {} of {there}", arrived.fact.device);
            (arrived, how, Some(doubt.to_owned()))
        }
    };
    let OwnPacket { wrong_checksums, destination, device, .. } = &packet.fact;
    let (peer, port) = (other_end(&packet.fact).ip(), packet.fact.source.port());
    Some(Fault {
        blame: Blame::side(sender),
        severity: session.harm(),
        summary: match left {
            Some(_) => format!(
                "{wrong_checksums} packets of {here} to {destination} {how} with a wrong UDP checksum: whoever gets them drops them"
            ),
            None => format!("{wrong_checksums} packets {how} with a wrong UDP checksum, and its system drops them"),
        },
        evidence: [packet.seq].into_iter().chain(evidence).collect(),
        advice: vec![
            Remedy::safe("See the checksums")
                .run(format!("tcpdump -vvni {device} host {peer} and udp src port {port}")),
        ],
        doubt,
        ..Fault::default()
    })
}
