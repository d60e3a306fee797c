//! The application is told to use its relay only.

use super::lasting::init;
use super::service::{Variable, with_variable};
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::host::{Init, SoftwareName, Subject};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR803",
    name: "application-forces-relay",
    title: "the application is told to use its relay only",
    meaning: "The VPN on this host is configured to connect through its relay (NB_FORCE_RELAY or NB_ICE_FORCE_RELAY_CONN for NetBird, TS_DEBUG_ALWAYS_USE_DERP for Tailscale; iceTransportPolicy \"relay\" elsewhere), so it never tries a direct path, whatever the network allows.",
    detection: "The environment of the running program.",
    proof: "tr '\\0' '\\n' < /proc/PID/environ.",
    doubt: "The variable unset and the program restarted.",
    fixes: &[Fix::cuts(
        "Take NB_FORCE_RELAY, NB_ICE_FORCE_RELAY_CONN or TS_DEBUG_ALWAYS_USE_DERP out of the service's environment and restart it.",
    )],
    threads: &["netbirdio/netbird#5589", "netbirdio/netbird#4063", "netbirdio/android-client#130"],
    depends_on: &[],
    needs: &[Need::Host(Subject::Software), Need::Other(unread)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let host = &session.evidence.side(vantage).host;
    let (seq, (forcing, value)) = host.software.iter().find_map(|software| {
        let environment = software.fact.environment.as_ref()?;
        let said = environment.iter().find_map(|(name, value)| {
            let forcing = FORCING.iter().find(|forcing| forcing.variable == name && (forcing.is_true)(value))?;
            Some((forcing, value))
        })?;
        Some((software.seq, said))
    })?;
    let Forcing { variable: name, program, service, .. } = forcing;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Warning,
        summary: format!("The VPN on {} is told to use its relay only: {name}={value}", vantage.name()),
        evidence: vec![seq],
        advice: vec![with_variable(
            &match init(host) {
                None | Some(Init::Systemd) => {
                    format!("With {program} under systemd, unset {name} (undo: remove that file and do the same)")
                }
                Some(_) => format!("Unset {name} for {program}"),
            },
            host,
            service,
            "direct",
            Variable::Unset(name),
        )],
        ..Fault::default()
    })
}

/// A program that such a variable is for runs here, or left its marks, and how it was started cannot be read.
fn unread(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    unread_environment(session, vantage, &[SoftwareName::Netbird, SoftwareName::Tailscale])
}

/// The environment of one of these programs, where the program is seen and its environment is not.
pub(super) fn unread_environment(session: &Session<'_>, vantage: Vantage, programs: &[SoftwareName]) -> Option<String> {
    let mut software = session.evidence.side(vantage).host.software.iter();
    let unread = software.find(|one| one.fact.environment.is_none() && programs.contains(&one.fact.software));
    unread.map(|_| "the environment of the VPN program (its own user and root may read it)".to_owned())
}

/// A variable that has a program use its relay only.
struct Forcing {
    variable: &'static str,
    program: &'static str,
    service: &'static str,
    is_true: fn(&str) -> bool,
}

const FORCING: [Forcing; 3] = [
    Forcing { variable: "NB_FORCE_RELAY", program: "NetBird", service: "netbird", is_true: is_word },
    Forcing { variable: "NB_ICE_FORCE_RELAY_CONN", program: "NetBird", service: "netbird", is_true: is_word },
    Forcing { variable: "TS_DEBUG_ALWAYS_USE_DERP", program: "Tailscale", service: "tailscaled", is_true: is_go_bool },
];

/// As NetBird reads it: nothing but this word, in whatever case.
const fn is_word(value: &str) -> bool {
    value.eq_ignore_ascii_case("true")
}

/// As Tailscale reads it, with Go's strconv.ParseBool.
fn is_go_bool(value: &str) -> bool {
    ["1", "t", "T", "TRUE", "true", "True"].contains(&value)
}
