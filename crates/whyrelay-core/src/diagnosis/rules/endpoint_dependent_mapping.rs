//! the NAT gives each destination another address.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::network::{Told, told};
use crate::diagnosis::session::Session;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::trace::address::AddressClass;

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

fn examine(session: &Session<'_>) -> Examination {
    let (mut faults, mut compared) = (Vec::new(), false);
    for vantage in session.recorded() {
        let rivals = session.rivals(vantage);
        // What each socket was told by servers outside of its own network, in the order of the events.
        let mut by_socket: BTreeMap<(SocketAddr, bool), Vec<Told>> = BTreeMap::new();
        for told in told(session.evidence.side(vantage)) {
            if told.mapped != told.local && AddressClass::of(told.mapped.ip()) == AddressClass::Public {
                by_socket.entry((told.local, told.mapped.is_ipv6())).or_default().push(told);
            }
        }
        for ((local, _), answers) in by_socket {
            let Some(first) = answers.first() else { continue };
            let others = || answers.iter().filter(|other| other.server != first.server);
            let differing = || {
                others().filter(|other| {
                    other.mapped.ip() == first.mapped.ip() && other.mapped.port() != first.mapped.port()
                })
            };
            // Which of two sockets the NAT gives the port to says nothing of the NAT.
            let other = differing().find(|other| !rivals.contend(first, other));
            compared |= other.is_some() || others().next().is_some() && differing().next().is_none();
            let Some(other) = other else { continue };
            faults.push(Fault {
                blame: Blame::side(vantage),
                severity: Severity::Warning,
                summary: format!(
                    "The NAT of {} maps {local} to {} towards {} and to {} towards {}",
                    vantage.name(),
                    first.mapped,
                    first.server,
                    other.mapped,
                    other.server
                ),
                evidence: vec![first.seq, other.seq],
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
