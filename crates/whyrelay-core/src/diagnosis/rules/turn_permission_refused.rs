//! the TURN server refuses a peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::{Examination, Fault, Fix, Need, Rule, peer_vanished};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR403",
    name: "turn-permission-refused",
    title: "the TURN server refuses a peer",
    meaning: "The TURN server gave an allocation and refuses permission for an address of the peer, so nothing can be relayed to it. Servers refuse loopback and private addresses by default; a public address that is refused is a policy of that server.",
    detection: "An error response to CreatePermission or ChannelBind.",
    proof: "The error code in the cited answer.",
    doubt: "Another peer address that the server permits.",
    fixes: &[Fix::safe(
        "If the peer is meant to be reached at that address: allow it on the server (coturn: allowed-peer-ip).",
    )],
    threads: &["coturn/coturn#783", "coturn/coturn#735"],
    depends_on: &[],
    needs: &[Need::Sockets],
    examine,
};

/// What is refused for one reason.
#[derive(Default)]
struct Refused {
    harms: bool,
    servers: BTreeSet<SocketAddr>,
    /// Addresses of the peer that each side may not reach, with the error's code.
    peers: BTreeMap<Vantage, BTreeMap<IpAddr, u16>>,
    evidence: Vec<u64>,
}

fn examine(session: &Session<'_>) -> Examination {
    // One finding for each server that does harm; what does none is one in all, whatever the sides, the addresses of the
    // server and the allocations on it.
    let mut groups: BTreeMap<Option<SocketAddr>, Refused> = BTreeMap::new();
    // Nothing could be relayed to a peer that is gone; but what was refused before and without a path may be why there
    // never was one.
    let vanished = peer_vanished::is_found(session);
    let had_path = session.recorded().any(|vantage| session.evidence.side(vantage).selected_pair().is_some());
    for vantage in session.recorded() {
        let left = session.evidence.side(vantage).peer_left.map(|(seq, _)| seq);
        for ((_, _, server), path) in &session.evidence.side(vantage).servers {
            let Some(allocation) = &path.allocation else { continue };
            // For its own address a session asks to try its own relay: nobody else needs that. A host that looks at
            // itself has no other address to ask for.
            let mapped = path.mapped.keys().filter(|_| !session.evidence.is_alone());
            let own: BTreeSet<IpAddr> = mapped.map(SocketAddr::ip).collect();
            let refused = allocation
                .refused
                .iter()
                .filter(|(peer, _)| !allocation.permissions.contains_key(*peer) && !own.contains(*peer));
            let refused: Vec<_> = refused.map(|(peer, (code, seq))| (*peer, *code, *seq)).collect();
            let public = refused.iter().any(|(peer, ..)| AddressClass::of(*peer) == AddressClass::Public);
            if refused.is_empty() {
                continue;
            }
            // Refusing what only its neighbors could reach is what a server on the Internet should do.
            let neighbor = AddressClass::of(server.ip()) != AddressClass::Public;
            let fails = neighbor && session.path == Path::Failed && allocation.permissions.is_empty();
            let was_gone = |seq: u64| left.is_some_and(|left| seq > left);
            let is_gone = vanished && (had_path || refused.iter().all(|(.., seq)| was_gone(*seq)));
            let harms = (public || fails) && !is_gone;
            let group = groups.entry((harms && session.path != Path::Direct).then_some(*server)).or_default();
            group.harms |= harms;
            group.servers.insert(*server);
            for (peer, code, seq) in refused {
                group.peers.entry(vantage).or_default().entry(peer).or_insert(code);
                group.evidence.push(seq);
            }
        }
    }
    let faults = groups.into_values().map(|refused| Fault {
        blame: Blame::Relay,
        severity: if refused.harms { Severity::Warning } else { Severity::Info },
        summary: refused.summary(),
        evidence: refused.evidence,
        ..Fault::default()
    });
    Examination::of(faults.collect())
}

impl Refused {
    fn summary(&self) -> String {
        let servers: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
        let of_side = |(vantage, peers): (&Vantage, &BTreeMap<IpAddr, u16>)| {
            let (peer, code) = peers.first_key_value()?;
            let more = if peers.len() > 1 { format!(" and {} more", peers.len() - 1) } else { String::new() };
            Some(format!("{} to relay to {peer}{more} ({code})", vantage.name()))
        };
        let sides: Vec<_> = self.peers.iter().filter_map(of_side).collect();
        let verb = if servers.len() > 1 { "refuse" } else { "refuses" };
        format!("{} {verb} {}", servers.join(" and "), sides.join(", and "))
    }
}
