//! the TURN server cannot be reached.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{Alike, Examination, Fault, Fix, Rule, input_firewall_drops, stun_server_silent, udp_blocked};
use crate::diagnosis::evidence::{LocalCandidate, SideEvidence};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::routes::{is_kept_from_servers, mark_keeps_from_servers};
use crate::diagnosis::session::Session;
use crate::engine::server_url::{ServerHost, ServerUrl};
use crate::host::Family;
use crate::ice::candidate::CandidateType;
use crate::trace::event::{ServerFailure, Vantage};

pub(super) const RULE: Rule = Rule {
    code: "WR402",
    name: "turn-server-unreachable",
    title: "the TURN server cannot be reached",
    meaning: "Allocate requests to a TURN server were never answered, or the connection to it could not be made, so this side has no relayed candidate of it.",
    detection: "Every transmission of Allocate stayed unanswered, or connecting over TCP or TLS failed, and no other socket of this side got a relayed address from the same server.",
    proof: "A connection to the same port from another network.",
    doubt: "An answer to Allocate from the same server over another transport.",
    fixes: &[
        Fix::firewall("Check that the server runs and that the port of its URL is open."),
        Fix::safe("For turns: use the name in the certificate, not the address, and give the server its full chain."),
    ],
    threads: &["coturn/coturn#113", "coturn/coturn#1539", "matrix-org/synapse#11686", "processone/eturnal#70"],
    depends_on: &["WR305", "WR302", "WR303", "WR409", "WR103", "WR112", "WR117", "WR129", "WR130"],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        // A server that is silent over UDP, too, has a rule of its own, which tells of this unless it is explained.
        let silent = if session.evidence.is_alone() {
            BTreeSet::new()
        } else {
            stun_server_silent::silent_for(session, vantage)
        };
        let side = session.evidence.side(vantage);
        for failed in unusable(session, vantage) {
            let is_silent = silent.iter().any(|server| failed.is_at(side, *server));
            // What keeps UDP from coming may keep this from coming, too; only not what was answered.
            if is_silent && !failed.answered {
                continue;
            }
            let alike = Alike {
                side: vantage,
                verb: "cannot use",
                what: failed.words(),
                times: None,
                after: String::new(),
                also: Vec::new(),
            };
            faults.push(Fault {
                blame: Blame::Relay,
                severity: Severity::Warning,
                summary: Alike::summary(&[&alike]),
                evidence: vec![failed.seq],
                seen_by: Some(vantage),
                family: failed.ip().map(Family::of),
                alike: Some(alike),
                told_in: is_silent.then_some(stun_server_silent::RULE.code),
                ..Fault::default()
            });
        }
    }
    Examination::of(faults)
}

/// A URL of a TURN server that a side cannot use.
pub(super) struct Unusable<'a> {
    pub(super) seq: u64,
    url: &'a str,
    why: String,
    /// Whether its host answered: something that keeps packets from arriving is no cause of it.
    answered: bool,
}

impl Unusable<'_> {
    /// The URL, and why.
    pub(super) fn words(&self) -> String {
        format!("{} ({})", self.url, self.why)
    }

    /// The address in it; `None`: it has a name.
    fn ip(&self) -> Option<IpAddr> {
        match self.url.parse::<ServerUrl>().ok()?.host() {
            ServerHost::Ip(ip) => Some(*ip),
            ServerHost::Name(_) => None,
        }
    }

    /// Whether it is of the server at an address, as far as this side knows.
    fn is_at(&self, side: &SideEvidence, server: IpAddr) -> bool {
        match self.url.parse::<ServerUrl>().as_ref().map(ServerUrl::host) {
            Ok(ServerHost::Ip(ip)) => *ip == server,
            Ok(ServerHost::Name(name)) => side
                .names
                .iter()
                .any(|(_, known, addresses, _)| known.eq_ignore_ascii_case(name) && addresses.contains(&server)),
            Err(_) => false,
        }
    }
}

/// The URLs of the server at an address that a side cannot use.
pub(super) fn at_server<'a>(session: &'a Session<'_>, vantage: Vantage, server: IpAddr) -> Vec<Unusable<'a>> {
    let side = session.evidence.side(vantage);
    let mut unusable = unusable(session, vantage);
    unusable.retain(|failed| failed.is_at(side, server));
    unusable
}

/// The URLs that a side cannot use, each once.
pub(super) fn unusable<'a>(session: &'a Session<'_>, vantage: Vantage) -> Vec<Unusable<'a>> {
    let side = session.evidence.side(vantage);
    // Nothing is known of a server to which this side's packets do not go.
    if mark_keeps_from_servers(session, vantage) || is_kept_from_servers(side) {
        return Vec::new();
    }
    // A host that looks at itself, and drops the answers: nothing is known of the server then.
    let drops_answers =
        session.evidence.is_alone() && matches!(input_firewall_drops::of_one_host(side), Examination::Found(_));
    // The one server says nothing over UDP, to either side or as far as is known, or its port is blocked: that has a
    // rule of its own.
    let blocked = !stun_server_silent::blocked_ports(side).is_empty();
    let silent = udp_blocked::is_silent_for_both(session) || blocked || udp_blocked::is_untold(session, vantage);
    let mut unusable: Vec<Unusable<'_>> = Vec::new();
    // A network in which answers come when nobody waits for them any more: nothing is known of who has not answered.
    let slow = session.evidence.is_alone() && side.is_slow();
    for failed in &side.server_failures {
        let answered = match &failed.failure {
            ServerFailure::ConnectionFailed { detail } => detail.to_lowercase().contains("refused"),
            ServerFailure::BadResponse { .. } => true,
            _ => false,
        };
        let why = match &failed.failure {
            ServerFailure::Timeout { transmissions, .. }
                if failed.method == "Allocate" && !drops_answers && !silent && !slow =>
            {
                match failed.local.and_then(|local| sent_on(side, local)) {
                    Some(alternate) => {
                        format!("it sends on to {alternate}, which answers none of {transmissions} requests")
                    }
                    None => format!("no answer to {transmissions} requests"),
                }
            }
            ServerFailure::ConnectionFailed { detail } if !(slow && detail.starts_with("no ")) => detail.clone(),
            ServerFailure::BadResponse { detail } => format!("its answer makes no sense: {detail}"),
            _ => continue,
        };
        // Answered at another of this side's sockets: the server is there, and this socket leads elsewhere.
        let is_relayed = |local: &&LocalCandidate| {
            local.candidate.kind == CandidateType::Relayed && local.server.as_ref() == Some(&failed.server)
        };
        let relayed: Vec<&LocalCandidate> = side.local_candidates.iter().filter(is_relayed).collect();
        // A check tries an address of each family by itself: that one relays says nothing of the other.
        let of_family = failed.local.filter(|_| session.evidence.is_alone()).map(|local| local.is_ipv4());
        let allocated = relayed.iter().any(|local| of_family.is_none_or(|ipv4| gave(side, ipv4, local.base)));
        let why = match of_family {
            Some(ipv4) if !relayed.is_empty() => format!("over {}: {why}", if ipv4 { "IPv4" } else { "IPv6" }),
            _ => why,
        };
        if !allocated && unusable.iter().all(|known| known.url != failed.server) {
            unusable.push(Unusable { seq: failed.seq, url: &failed.server, why, answered });
        }
    }
    unusable
}

/// The last server that others named to a socket in their place (300).
fn sent_on(side: &SideEvidence, local: SocketAddr) -> Option<SocketAddr> {
    let of_socket = side.servers.iter().filter(|((_, own, _), _)| *own == local);
    of_socket.filter_map(|(_, path)| path.alternate).max_by_key(|(_, seq)| *seq).map(|(alternate, _)| alternate)
}

/// Whether a server at an address of a family gave a relayed address.
fn gave(side: &SideEvidence, ipv4: bool, relayed: SocketAddr) -> bool {
    side.servers.iter().any(|((.., server), path)| {
        let has = path.allocation.as_ref().is_some_and(|allocation| allocation.relayed.contains(&relayed));
        server.is_ipv4() == ipv4 && has
    })
}
