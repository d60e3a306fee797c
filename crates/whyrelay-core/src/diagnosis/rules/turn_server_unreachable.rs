//! the TURN server cannot be reached.

use super::{Examination, Fault, Fix, Rule, input_firewall_drops, stun_server_silent, udp_blocked};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::routes::{is_kept_from_servers, mark_keeps_from_servers};
use crate::diagnosis::session::Session;
use crate::engine::server_url::{ServerHost, ServerUrl};
use crate::host::Family;
use crate::ice::candidate::CandidateType;
use crate::trace::event::ServerFailure;

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
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    let both = udp_blocked::is_silent_for_both(session);
    // Nothing is known of a server either to which this side's packets do not go.
    for vantage in session.recorded().filter(|&vantage| !mark_keeps_from_servers(session, vantage)) {
        let side = session.evidence.side(vantage);
        // A host that looks at itself, and drops the answers: nothing is known of the server then.
        let drops_answers =
            session.evidence.is_alone() && matches!(input_firewall_drops::of_one_host(side), Examination::Found(_));
        // The one server says nothing over UDP, to either side or as far as is known, or its port is blocked: that has a
        // rule of its own.
        let blocked = !stun_server_silent::blocked_ports(side).is_empty();
        let silent = both || blocked || udp_blocked::is_untold(session, vantage);
        let mut servers: Vec<&str> = Vec::new();
        if is_kept_from_servers(side) {
            continue;
        }
        for failed in &side.server_failures {
            let why = match &failed.failure {
                ServerFailure::Timeout { transmissions, .. }
                    if failed.method == "Allocate" && !drops_answers && !silent =>
                {
                    format!("no answer to {transmissions} requests")
                }
                ServerFailure::ConnectionFailed { detail } => detail.clone(),
                ServerFailure::BadResponse { detail } => format!("its answer makes no sense: {detail}"),
                _ => continue,
            };
            // Answered at another of this side's sockets: the server is there, and this socket leads elsewhere.
            let allocated = side.local_candidates.iter().any(|local| {
                local.candidate.kind == CandidateType::Relayed && local.server.as_ref() == Some(&failed.server)
            });
            if allocated || servers.contains(&failed.server.as_str()) {
                continue;
            }
            servers.push(&failed.server);
            faults.push(Fault {
                blame: Blame::Relay,
                severity: Severity::Warning,
                summary: format!("{} cannot use {}: {why}", vantage.name(), failed.server),
                evidence: vec![failed.seq],
                seen_by: Some(vantage),
                family: failed.server.parse().ok().and_then(|url: ServerUrl| match url.host() {
                    ServerHost::Ip(ip) => Some(Family::of(*ip)),
                    ServerHost::Name(_) => None,
                }),
                ..Fault::default()
            });
        }
    }
    Examination::of(faults)
}
