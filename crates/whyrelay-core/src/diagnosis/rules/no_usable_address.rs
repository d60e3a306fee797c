//! a side has no address to use.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::{InterfaceUse, Side};

pub(super) const RULE: Rule = Rule {
    code: "WR102",
    name: "no-usable-address",
    title: "a side has no address to use",
    meaning: "No interface of this host is up with a usable address, or the options exclude all of them, so there is not even a host candidate.",
    detection: "Gathering ended on a side without any local candidate, or every interface was left out.",
    proof: "The cited interfaces with their state.",
    doubt: "An interface that is up with an address.",
    fixes: &[Fix::safe("Bring an interface up."), Fix::safe("Check --interface and --exclude-interface.")],
    threads: &[],
    depends_on: &["WR801"],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let Some(&end) = side.end_of_candidates.get(&Side::Local) else { continue };
        if !side.local_candidates.is_empty() {
            continue;
        }
        // With --relay-only the host's own addresses are left out: what keeps the relay away is the fault then.
        if side.options.relay_only && side.interfaces.iter().any(|(.., used)| *used == InterfaceUse::Used) {
            continue;
        }
        let excluded = side
            .interfaces
            .iter()
            .filter(|(_, _, _, used)| matches!(used, InterfaceUse::NotIncluded | InterfaceUse::Excluded));
        let excluded: Vec<_> = excluded.map(|(_, name, ..)| name.as_str()).collect();
        let why = match (side.socket_failures.first(), excluded.as_slice()) {
            (Some((_, _, local, detail)), _) => format!("the socket at {local} could not be opened: {detail}"),
            (None, []) => "no interface is up with a usable address".to_owned(),
            (None, names) => format!("the options exclude {}", names.join(", ")),
        };
        let sockets = side.socket_failures.iter().map(|(seq, ..)| *seq);
        faults.push(Fault {
            blame: Blame::side(vantage),
            severity: Severity::Error,
            summary: format!("{} has no candidate at all: {why}", vantage.name()),
            evidence: side.interfaces.iter().map(|(seq, ..)| *seq).chain(sockets).chain([end]).collect(),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
