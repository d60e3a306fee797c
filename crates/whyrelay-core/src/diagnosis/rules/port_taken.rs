//! The port that was asked for is taken.

use super::wording::{quoted, quoted_firewall};
use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::evidence::HostEvidence;
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::Session;
use crate::host::Subject;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR124",
    name: "port-taken",
    title: "the port that was asked for is taken",
    meaning: "Another program on this host has the port that the session was to use, so another port was used, or none. A router's forward or a firewall's exception for that port then does not help.",
    detection: "The socket could not be opened (EADDRINUSE), or the application's port was found taken.",
    proof: "ss -ulpn names the program that has it.",
    doubt: "The port free.",
    fixes: &[Fix::safe("Stop the other program, or give one of the two another port.")],
    threads: &["psviderski/uncloud#228"],
    depends_on: &[],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let failed = side.socket_failures.iter().find(|(_, _, local, _, detail)| {
        let detail = detail.to_ascii_lowercase();
        local.port() != 0 && (detail.contains("in use") || detail.contains("eaddrinuse"))
    });
    let application =
        side.host.application.as_ref().filter(|(_, application)| !application.port_used && application.port.is_some());
    let (port, seq, severity) = match (failed, application) {
        (Some((seq, _, local, ..)), _) => (local.port(), *seq, Severity::Warning),
        // The application itself has it: that was to be expected, and its mark and user were used on another port.
        (None, Some((seq, application))) => (application.port?, *seq, Severity::Info),
        (None, None) => return None,
    };
    let owner = side.host.sockets.iter().find(|socket| socket.fact.local.port() == port);
    let by = owner
        .and_then(|socket| socket.fact.process.as_ref())
        .map(|process| format!(" by {process}"))
        .unwrap_or_default();
    // Where the application itself has it, what stood on another port may have missed what looks at ports.
    let beside = match failed {
        Some(_) => String::new(),
        None => format!(", so its mark and user were used on another port; {}", port_matters(&side.host, port)),
    };
    Some(Fault {
        blame: Blame::side(vantage),
        severity,
        summary: format!("Port {port} of {} is taken{by}{beside}", vantage.name()),
        evidence: [seq].into_iter().chain(owner.map(|socket| socket.seq)).collect(),
        advice: vec![Remedy::safe("See who has it").run(format!("ss -ulpn 'sport = :{port}'"))],
        ..Fault::default()
    })
}

/// Whether something on this host looks at a port, so that another port may be treated otherwise.
fn port_matters(host: &HostEvidence, port: u16) -> String {
    let takes = |range: Option<(u16, u16)>| range.is_some_and(|(first, last)| (first..=last).contains(&port));
    let rule = host.policy_rules.iter().find(|rule| takes(rule.fact.source_ports));
    let text = port.to_string();
    let names = |rule: &str| rule.split(|c: char| !c.is_ascii_digit()).any(|word| word == text);
    let firewall = host.firewall_rules.iter().find(|rule| rule.fact.rule.contains("port") && names(&rule.fact.rule));
    match (rule, firewall) {
        (Some(rule), _) => format!("\"{}\" looks at the port and may treat it otherwise", quoted(&rule.fact)),
        (None, Some(rule)) => format!("{} looks at the port and may treat it otherwise", quoted_firewall(&rule.fact)),
        (None, None) if host.why_not_measured(Subject::Nftables).is_some() => {
            "no policy rule of this host looks at that port; its firewall is not measured".to_owned()
        }
        (None, None) => {
            "no rule that is recorded of this host looks at that port, so another one does as well".to_owned()
        }
    }
}
