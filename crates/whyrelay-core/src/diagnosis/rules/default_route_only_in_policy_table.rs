//! The default route is not in the main table.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::host::Subject;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR125",
    name: "default-route-only-in-policy-table",
    title: "the default route is not in the main table",
    meaning: "The default route of this host is in a table that a policy rule selects, and the main table has none (UniFi gateways, some multi-uplink routers). The kernel finds its way; a program that reads only the main table (NetBird before its fix) takes the host for offline.",
    detection: "The main table has no default route, and packets to the servers are routed by another table.",
    proof: "ip route show table main default is empty, and ip route get ADDRESS answers.",
    doubt: "A default route in the main table.",
    fixes: &[Fix::safe("Update the VPN client, or add a default route to the main table with a high metric.")],
    threads: &["netbirdio/netbird#5636", "netbirdio/netbird#5653", "tailscale/tailscale#4038"],
    depends_on: &["WR801"],
    needs: &[Need::Host(Subject::Routes), Need::Host(Subject::RouteAnswers)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let host = &session.evidence.side(vantage).host;
    let is_default = |route: &&crate::diagnosis::evidence::Taken<crate::host::Route>| {
        route.fact.destination.length == 0 && route.fact.destination.address.is_ipv4()
    };
    // Where not all are told, that one is not among them says nothing.
    let whole = !host.routes.is_empty() && host.why_not_measured(Subject::Routes).is_none();
    if !whole || host.routes.iter().filter(is_default).any(|route| route.fact.table == 254) {
        return None;
    }
    let elsewhere = host.routes.iter().filter(is_default).find(|route| !matches!(route.fact.table, 253..=255))?;
    let answer = host
        .routes_to_servers()
        .find(|answer| answer.fact.route.as_ref().is_some_and(|route| route.table == elsewhere.fact.table))?;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Info,
        summary: format!(
            "The default route of {} is in table {} only: programs that read the main table see none",
            vantage.name(),
            elsewhere.fact.table
        ),
        evidence: vec![elsewhere.seq, answer.seq],
        ..Fault::default()
    })
}
