//! the session was told to use a relay.

use super::{Examination, Fault, Fix, Rule, tls_in_words};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::ice::candidate::CandidateType;
use crate::trace::event::{ServerFailure, Vantage};

pub(super) const RULE: Rule = Rule {
    code: "WR801",
    name: "relay-only-configured",
    title: "the session was told to use a relay",
    meaning: "A side was started with --relay-only (other programs: iceTransportPolicy relay, NB_FORCE_RELAY), so it offers and uses relayed candidates only. A direct path was never tried; and without a TURN server there is nothing to offer, so such a session can never connect.",
    detection: "The options at the start of the recording; and whether the side knows any TURN server.",
    proof: "The options at the start of the recording.",
    doubt: "A session without the option.",
    fixes: &[
        Fix::safe("Leave out --relay-only to try a direct path."),
        Fix::safe("To keep it, give that side a TURN server that works (--turn), and drop --no-turn."),
    ],
    threads: &["netbirdio/netbird#5589"],
    depends_on: &[],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let asked: Vec<_> =
        session.recorded().filter(|&vantage| session.evidence.side(vantage).options.relay_only).collect();
    let whose = |sides: &[Vantage]| match sides {
        [one] => (Blame::side(*one), one.name().to_owned()),
        _ => (Blame::Both, "both sides".to_owned()),
    };
    if asked.is_empty() {
        return Examination::Clear;
    }
    let without: Vec<_> =
        asked.iter().copied().filter(|&vantage| !session.evidence.side(vantage).knows_relay()).collect();
    let (blame, severity, summary) = match (session.path, without.as_slice()) {
        (Path::Failed, []) => {
            let (blame, who) = whose(&asked);
            let why: String = asked.iter().filter_map(|&vantage| why_none(session, vantage)).collect();
            // Where a relay is there and does not work, that is the fault to look for.
            (blame, Severity::Info, format!("--relay-only was asked for on {who}, so no direct path was tried{why}"))
        }
        (Path::Failed, none) => {
            let (blame, who) = whose(none);
            let given = none.iter().any(|&vantage| session.evidence.side(vantage).options.no_turn);
            let why = if given { "with --no-turn" } else { "without any TURN server" };
            let text = format!("--relay-only was asked for on {who}, {why}: that can never connect");
            (blame, Severity::Error, text)
        }
        _ => {
            let (blame, who) = whose(&asked);
            (blame, Severity::Warning, format!("--relay-only was asked for on {who}, so no direct path was tried"))
        }
    };
    let evidence = asked.iter().map(|vantage| vantage.first_seq()).collect();
    Examination::Found(vec![Fault { blame, severity, summary, evidence, ..Fault::default() }])
}

/// Why a side has no relayed candidate although it knows TURN servers, for the end of a sentence: what became of each.
/// `None`: it has one.
fn why_none(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    let side = session.evidence.side(vantage);
    if side.local_candidates.iter().any(|local| local.candidate.kind == CandidateType::Relayed) {
        return None;
    }
    let mut told: Vec<(&str, String)> = Vec::new();
    for failed in side.server_failures.iter().filter(|failed| failed.server.starts_with("turn")) {
        let why = match &failed.failure {
            ServerFailure::Timeout { transmissions, .. } => format!("answers none of {transmissions} requests"),
            ServerFailure::ErrorResponse { expected: true, .. } => continue,
            ServerFailure::ErrorResponse { code, reason, .. } => format!("refuses ({code} {reason})"),
            ServerFailure::ConnectionFailed { detail } => format!("cannot be connected to ({})", tls_in_words(detail)),
            ServerFailure::BadResponse { detail } => format!("answers what makes no sense ({detail})"),
            ServerFailure::NoCredentials => "asks for a user name and password, and none are known".to_owned(),
            ServerFailure::Unresolved { detail } => format!("has a name that is not resolved ({detail})"),
            ServerFailure::SendFailed { errno } => format!("cannot be sent to (errno {errno})"),
            ServerFailure::NoLocalAddress => "has an address of a family that no socket has".to_owned(),
        };
        // What came last of a server is what it came to.
        match told.iter_mut().find(|(url, _)| *url == failed.server) {
            Some((_, known)) => *known = why,
            None => told.push((&failed.server, why)),
        }
    }
    let here = vantage.name();
    let shown: Vec<String> = told.iter().take(MAX_SERVERS).map(|(url, why)| format!("{url} {why}")).collect();
    let more = told.len().saturating_sub(MAX_SERVERS);
    let rest = if more == 0 { String::new() } else { format!(", and {more} more") };
    Some(match shown.as_slice() {
        [] => format!("; {here} got no relayed address, and no TURN server had said why when the session ended"),
        _ => format!("; {here} has no relayed candidate: {}{rest}", shown.join(", ")),
    })
}

/// Most servers that are told of in one sentence.
const MAX_SERVERS: usize = 3;
