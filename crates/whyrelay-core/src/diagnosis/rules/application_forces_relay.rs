//! The application is told to use its relay only.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR803",
    name: "application-forces-relay",
    title: "the application is told to use its relay only",
    meaning: "The VPN on this host is configured to connect through its relay (NB_FORCE_RELAY or NB_ICE_FORCE_RELAY_CONN for NetBird; iceTransportPolicy \"relay\" elsewhere), so it never tries a direct path, whatever the network allows.",
    detection: "The environment of the running program.",
    proof: "tr '\\0' '\\n' < /proc/PID/environ.",
    doubt: "The variable unset and the program restarted.",
    fixes: &[Fix::cuts(
        "Take NB_FORCE_RELAY or NB_ICE_FORCE_RELAY_CONN out of the service's environment and restart it.",
    )],
    threads: &[],
    depends_on: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let host = &session.evidence.side(vantage).host;
    let (seq, name, value) = host.software.iter().find_map(|software| {
        let environment = software.fact.environment.as_ref()?;
        let (name, value) = environment.iter().find(|(name, value)| {
            matches!(name.as_str(), "NB_FORCE_RELAY" | "NB_ICE_FORCE_RELAY_CONN") && is_true(value)
        })?;
        Some((software.seq, name, value))
    })?;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Warning,
        summary: format!("The VPN on {} is told to use its relay only: {name}={value}", vantage.name()),
        evidence: vec![seq],
        advice: vec![
            Remedy::cuts(format!("With NetBird under systemd, unset {name} (undo: remove that file and do the same)"))
                .run("mkdir -p /etc/systemd/system/netbird.service.d")
                .run(format!(
                    "printf '[Service]\\nUnsetEnvironment={name}\\n' > /etc/systemd/system/netbird.service.d/direct.conf"
                ))
                .run("systemctl daemon-reload")
                .run("systemctl restart netbird"),
        ],
        ..Fault::default()
    })
}

/// As NetBird reads it: nothing but this word, in whatever case.
const fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true")
}
