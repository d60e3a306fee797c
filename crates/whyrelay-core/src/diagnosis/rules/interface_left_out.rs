//! The interface that would reach the peer is left out.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::Blame;
use crate::diagnosis::session::{Path, Session};
use crate::trace::address::AddressClass;
use crate::trace::event::InterfaceUse;

pub(super) const RULE: Rule = Rule {
    code: "WR805",
    name: "interface-left-out",
    title: "the interface that would reach the peer is left out",
    meaning: "The options of a side leave out an interface that is on the peer's own network, so the shortest path between the two was never tried. Programs have such lists built in: NetBird leaves out what begins with docker, veth, br-, wg, tun and more.",
    detection: "An interface that is left out by --interface or --exclude-interface has an address on the network of one of the peer's candidates.",
    proof: "The same session with the interface.",
    doubt: "A session with the interface that is no better.",
    fixes: &[Fix::safe(
        "Do not exclude that interface (whyrelay: --interface, --exclude-interface; NetBird: --extra-iface-blacklist).",
    )],
    threads: &["zerotier/ZeroTierOne#1005"],
    depends_on: &["WR801"],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded().filter(|_| session.path != Path::Direct) {
        let side = session.evidence.side(vantage);
        let left_out = side
            .interfaces
            .iter()
            .filter(|(.., used)| matches!(used, InterfaceUse::Excluded | InterfaceUse::NotIncluded))
            // What goes through a tunnel is not the direct path, least of all the tunnel's own packets.
            .filter(|(_, name, ..)| !side.host.link(name).is_some_and(|link| link.fact.is_tunnel()));
        let reaching = left_out.filter_map(|(seq, name, addresses, _)| {
            let peers = side.remote_candidates.iter().filter_map(|remote| remote.address);
            let near = peers
                .filter(|peer| AddressClass::of(peer.ip()) == AddressClass::Private)
                .find(|peer| addresses.iter().any(|own| side.known.is_near(*own, peer.ip())))?;
            Some((*seq, name, near))
        });
        let Some((seq, name, near)) = reaching.min_by_key(|(seq, ..)| *seq) else { continue };
        faults.push(Fault {
            blame: Blame::side(vantage),
            severity: session.harm(),
            summary: format!(
                "{} leaves out {name}, which is on the network of {near}, an address of {}",
                vantage.name(),
                vantage.other().name()
            ),
            evidence: vec![seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
