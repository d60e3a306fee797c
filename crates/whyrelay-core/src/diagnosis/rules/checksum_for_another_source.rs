//! Packets carry a checksum for another source address.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::Blame;
use crate::diagnosis::session::{Break, Path, Session};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR116",
    name: "checksum-for-another-source",
    title: "packets carry a checksum for another source address",
    meaning: "The application builds its UDP headers itself (a raw socket, as NetBird beside kernel WireGuard) and computed the checksum for another source address than the packet then leaves with. Every receiver drops it silently; a Linux NAT on the way counts it as invalid.",
    detection: "The receiver's counter of UDP checksum errors moved while the sender's checks were lost; or the kernel chooses another source with the mark than without.",
    proof: "tcpdump -vv on the receiver says \"bad udp cksum\".",
    doubt: "The counter standing still while checks arrive.",
    fixes: &[Fix::safe(
        "Update NetBird to 0.70.5 or later; until then do without the exit node or network route that changes the source.",
    )],
    threads: &["netbirdio/netbird#4503", "netbirdio/netbird#6070"],
    depends_on: &["WR801"],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    Examination::of([Vantage::A, Vantage::B].into_iter().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, sender: Vantage) -> Option<Fault> {
    let receiver = &session.evidence.side(sender.other()).host;
    let counted = ["Udp.InCsumErrors", "Udp6.InCsumErrors"]
        .into_iter()
        .filter_map(|name| receiver.counter(name))
        .find(|(_, by)| *by > 0);
    let (seq, wrong) = counted?;
    let lost = session
        .pairs
        .iter()
        .filter(|pair| session.could_arrive(pair, sender) && pair.from(sender).broken == Some(Break::OnTheWay));
    let evidence: Vec<u64> = lost.flat_map(|pair| pair.from(sender).evidence.iter().copied()).collect();
    (!evidence.is_empty()).then(|| Fault {
        blame: Blame::side(sender),
        severity: session.harm(),
        summary: format!(
            "{wrong} packets of {} reached {} with a wrong UDP checksum and were dropped",
            sender.name(),
            sender.other().name()
        ),
        evidence: [seq].into_iter().chain(evidence).collect(),
        ..Fault::default()
    })
}
