//! Packets carry a checksum for another source address.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{SideEvidence, Taken};
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::session::{Break, Path, Session};
use crate::host::{OwnPacket, Subject};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR116",
    name: "checksum-for-another-source",
    title: "packets carry a checksum for another source address",
    meaning: "The application builds its UDP headers itself (a raw socket, as NetBird beside kernel WireGuard) and computed the checksum for another source address than the packet then leaves with. Every receiver drops it silently; a Linux NAT on the way counts it as invalid.",
    detection: "A copy of the session's packets at an interface (AF_PACKET, which needs CAP_NET_RAW), where they leave or where they arrive, has some whose UDP checksum does not fit their addresses and contents, while checks get lost. The receiver's counter of checksum errors is the whole host's: alone it blames nobody.",
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

/// Copies of packets between the two sides that left one, or arrived at it.
fn copies(side: &SideEvidence, arrived: bool) -> impl Iterator<Item = &Taken<OwnPacket>> {
    // What comes from a server, or goes to one, has another sender or receiver.
    let of_peer = |packet: &OwnPacket| {
        let other = if packet.arrived { packet.source } else { packet.destination };
        !side.known.is_server(other)
    };
    side.host.own_packets.iter().filter(move |packet| packet.fact.arrived == arrived && of_peer(&packet.fact))
}

fn fault(session: &Session<'_>, sender: Vantage) -> Option<Fault> {
    let (side, receiver) = (session.evidence.side(sender), session.evidence.side(sender.other()));
    let evidence = lost(session, sender);
    if evidence.is_empty() {
        return None;
    }
    let wrong = |packet: &&Taken<OwnPacket>| packet.fact.wrong_checksums > 0;
    let (here, there) = (sender.name(), sender.other().name());
    let left = copies(side, false).find(wrong);
    let (packet, how, doubt) = match left {
        Some(packet) => (packet, format!("leave {} by {}", packet.fact.source, packet.fact.device), None),
        None => {
            let arrived = copies(receiver, true).find(wrong)?;
            let doubt = "The same packets with a right checksum where they leave: then a router or gateway on the way changed them.";
            let how = format!("of {here} arrive at {} of {there}", arrived.fact.device);
            (arrived, how, Some(doubt.to_owned()))
        }
    };
    let OwnPacket { wrong_checksums, destination, device, .. } = &packet.fact;
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
                .run(format!("tcpdump -vvni {device} udp port {}", packet.fact.source.port())),
        ],
        doubt,
        ..Fault::default()
    })
}
