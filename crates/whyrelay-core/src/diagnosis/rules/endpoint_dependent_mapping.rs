//! the NAT gives each destination another address.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::trace::address::AddressClass;
use crate::trace::event::Transport;

pub(super) const RULE: Rule = Rule {
    code: "WR201",
    name: "endpoint-dependent-mapping",
    title: "the NAT gives each destination another address",
    meaning: "The NAT in front of a side maps one socket to different addresses for different destinations (RFC 4787: address-dependent or address-and-port-dependent mapping; many call it symmetric). The address that a STUN server reports is then not the one that the peer sees, so the peer's checks go to a port that nobody listens on.",
    detection: "Two servers report different mapped addresses for the same socket.",
    proof: "Two STUN servers at different addresses, asked from one socket, tell different mapped ports; and the peer sees a third one.",
    doubt: "Equal answers from the same socket once the router is changed, or from another port of the same host: then only this port is affected.",
    fixes: &[
        Fix::owner(
            "Turn on static-port outbound NAT on that router (pfSense, OPNsense) or endpoint-independent mapping.",
        ),
        Fix::owner("Forward a port to that host, or let it use PCP, NAT-PMP or UPnP."),
        Fix::owner("Give one of the two sides a public address, or IPv6."),
    ],
    threads: &[
        "tailscale/tailscale#864",
        "tailscale/tailscale#5127",
        "tailscale/tailscale#14953",
        "firezone/firezone#3024",
        "netbirdio/docs#933",
    ],
    depends_on: &["WR801", "WR206", "WR207", "WR108", "WR209"],
    examine,
};

/// A mapped address, the server that told it, and the number of the event.
type Told = (SocketAddr, SocketAddr, u64);

fn examine(session: &Session<'_>) -> Examination {
    let (mut faults, mut compared) = (Vec::new(), false);
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        // What each socket was told by servers outside of its own network: mapped address, server, event.
        let mut told: BTreeMap<(SocketAddr, bool), Vec<Told>> = BTreeMap::new();
        for ((transport, local, server), path) in &side.servers {
            for (mapped, seq) in path.mapped.iter().filter(|_| *transport == Transport::Udp) {
                if mapped != local && AddressClass::of(mapped.ip()) == AddressClass::Public {
                    told.entry((*local, mapped.is_ipv6())).or_default().push((*mapped, *server, *seq));
                }
            }
        }
        for ((local, _), mut answers) in told {
            answers.sort_unstable_by_key(|(_, _, seq)| *seq);
            let Some(&(first, first_server, first_seq)) = answers.first() else { continue };
            let other = answers
                .iter()
                .find(|(mapped, server, _)| *server != first_server && mapped.ip() == first.ip() && *mapped != first);
            // Which of two sockets the NAT gives the port to says nothing of the NAT.
            if other.is_some_and(|(mapped, ..)| session.rivals(vantage).contend(local, first, *mapped)) {
                continue;
            }
            compared |= answers.iter().any(|(_, server, _)| *server != first_server);
            let Some(&(mapped, server, seq)) = other else { continue };
            faults.push(Fault {
                blame: Blame::side(vantage),
                severity: Severity::Warning,
                summary: format!(
                    "The NAT of {} maps {local} to {first} towards {first_server} and to {mapped} towards {server}",
                    vantage.name()
                ),
                evidence: vec![first_seq, seq],
                ..Fault::default()
            });
            break;
        }
    }
    if faults.is_empty() && !compared {
        let missing = "one socket has to ask two servers at different addresses".to_owned();
        return Examination::Inconclusive { missing };
    }
    Examination::of(faults)
}
