//! the name of a server is not resolved.

use super::{Examination, Fault, Fix, Rule, signaling_failed};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::ServerFailure;

pub(super) const RULE: Rule = Rule {
    code: "WR303",
    name: "server-name-unresolved",
    title: "the name of a server is not resolved",
    meaning: "A STUN, TURN or signaling server is given by name and the resolver of this side does not know it, so the server was never asked. VPNs and split DNS often give a service another resolver than the browser.",
    detection: "The look-up failed, or ended without an address.",
    proof: "The look-up with the resolver that this program uses, against one by another resolver.",
    doubt: "An address for the same name from the same resolver.",
    fixes: &[
        Fix::safe("Resolve the name on that machine, with the resolver that the service uses."),
        Fix::safe("Name the server by its address to prove that only the name is at fault."),
    ],
    threads: &[
        "netbirdio/netbird#3404",
        "netbirdio/netbird#5635",
        "netbirdio/netbird#1788",
        "netbirdio/netbird#719",
        "netbirdio/netbird#1151",
    ],
    depends_on: &["WR102"],
    needs: &[],
    examine,
};

pub(super) fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let lookups =
            side.names.iter().filter(|(_, _, addresses, _)| addresses.is_empty()).map(|(seq, name, _, error)| {
                (*seq, name.clone(), error.clone().unwrap_or_else(|| "no address".to_owned()))
            });
        let requests = side.server_failures.iter().filter_map(|failed| match &failed.failure {
            ServerFailure::Unresolved { detail } => Some((failed.seq, failed.server.clone(), detail.clone())),
            _ => None,
        });
        let is_signaling =
            |name: &str| side.signaling.last().is_some_and(|(_, server, _)| signaling_failed::is_host_of(server, name));
        // The look-up and the request that needed it tell of the same failure.
        let found: Vec<_> = lookups.collect();
        let found = if found.is_empty() { requests.collect() } else { found };
        let mut names: Vec<String> = Vec::new();
        for (seq, name, detail) in found {
            if names.contains(&name) {
                continue;
            }
            let resolver = side.host.resolver.as_ref().filter(|(_, servers, _)| !servers.is_empty());
            let asked = resolver.map_or_else(String::new, |(_, servers, _)| {
                let servers: Vec<String> = servers.iter().take(3).map(ToString::to_string).collect();
                format!(" (its resolver: {})", servers.join(", "))
            });
            faults.push(Fault {
                blame: Blame::side(vantage),
                // Without signaling there is nothing.
                severity: if is_signaling(&name) { Severity::Error } else { Severity::Warning },
                summary: format!("{} cannot resolve {name}: {detail}{asked}", vantage.name()),
                evidence: std::iter::once(seq).chain(resolver.map(|(seq, ..)| *seq)).collect(),
                ..Fault::default()
            });
            names.push(name);
        }
    }
    Examination::of(faults)
}
