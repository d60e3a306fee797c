//! the TURN server refuses a peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Path;
use crate::diagnosis::session::Session;
use crate::trace::address::AddressClass;

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
    threads: &[],
    depends_on: &[],
    examine,
};

/// What a server refuses one side.
#[derive(Default)]
struct Refused {
    /// Addresses of the peer, with the error's code.
    peers: BTreeMap<IpAddr, u16>,
    evidence: Vec<u64>,
}

fn examine(session: &Session<'_>) -> Examination {
    let mut faults: Vec<Fault> = Vec::new();
    for vantage in session.recorded() {
        // One finding for each server and severity: a side may have several allocations on it.
        let mut groups: BTreeMap<(SocketAddr, Severity), Refused> = BTreeMap::new();
        for ((_, _, server), path) in &session.evidence.side(vantage).servers {
            let Some(allocation) = &path.allocation else { continue };
            // For its own address it asked to try its own relay: nobody else needs that.
            let own: BTreeSet<IpAddr> = path.mapped.keys().map(SocketAddr::ip).collect();
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
            let harms = public || neighbor && session.path == Path::Failed && allocation.permissions.is_empty();
            let severity = if harms { Severity::Warning } else { Severity::Info };
            let group = groups.entry((*server, severity)).or_default();
            for (peer, code, seq) in refused {
                group.peers.entry(peer).or_insert(code);
                group.evidence.push(seq);
            }
        }
        for ((server, severity), Refused { peers, evidence }) in groups {
            let Some((peer, code)) = peers.first_key_value() else { continue };
            let more = if peers.len() > 1 { format!(" and {} more", peers.len() - 1) } else { String::new() };
            faults.push(Fault {
                blame: Blame::Relay,
                severity,
                summary: format!("{server} refuses {} to relay to {peer}{more} ({code})", vantage.name()),
                evidence,
                ..Fault::default()
            });
        }
    }
    Examination::of(faults)
}
