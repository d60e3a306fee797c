//! The program may not do what it needs to.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::host::{Application, Subject};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR123",
    name: "capability-missing",
    title: "the program may not do what it needs to",
    meaning: "The packets are to carry a mark, as the application's do, and this process (often in a container) lacks CAP_NET_ADMIN for it. An application with the same capabilities is no better off: its marks are missing, so that a full-tunnel rule catches its own packets.",
    detection: "A mark is asked for (--mark, or that of the application), or the system refused a socket for want of a permission, and CAP_NET_ADMIN is not among the process's effective capabilities. Where the path is direct, only that the application's mark was left out for want of it.",
    proof: "grep CapEff /proc/PID/status, and capsh --decode.",
    doubt: "The capability in the list.",
    fixes: &[Fix::cuts(
        "On a host: run it as root, or give it the capabilities, in its systemd unit (AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW) or on its binary (setcap cap_net_admin,cap_net_raw+ep). In a container: docker or podman run --cap-add NET_ADMIN --cap-add NET_RAW, and sysctls with --sysctl.",
    )],
    threads: &["netbirdio/netbird#933", "netbirdio/netbird#1332", "netbirdio/netbird#2753"],
    depends_on: &["WR801"],
    needs: &[Need::Host(Subject::Capabilities), Need::Host(Subject::Application)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let (seq, _, effective) = side.host.capabilities.as_ref()?;
    let lacks = |name: &str| !effective.iter().any(|capability| capability == name);
    let application = side.host.application.as_ref().map(|(_, application)| application);
    // A direct path shows nothing of an application whose mark it went without.
    if session.path == Path::Direct && !application.is_some_and(Application::lacks_mark) {
        return None;
    }
    let wants_mark = side.options.mark.is_some() || application.is_some_and(|application| application.mark.is_some());
    let refused = side.socket_failures.iter().find(|(.., detail)| {
        let detail = detail.to_ascii_lowercase();
        detail.contains("mark") || detail.contains("not permitted")
    });
    if !lacks("CAP_NET_ADMIN") || !wants_mark && refused.is_none() {
        return None;
    }
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Warning,
        summary: format!("{} is to mark its packets and lacks CAP_NET_ADMIN", vantage.name()),
        evidence: [*seq].into_iter().chain(refused.map(|(seq, ..)| *seq)).collect(),
        ..Fault::default()
    })
}
