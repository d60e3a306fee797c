//! The verdict in one sentence, and what was to be expected.

use crate::diagnosis::finding::{Finding, Severity};
use crate::diagnosis::session::{Path, Session, SideOutcome};
use crate::ice::candidate::CandidateType;
use crate::trace::event::{EndReason, Side, Vantage};

pub(super) fn reason(session: &Session<'_>, findings: &[Finding]) -> String {
    let cause = findings.iter().find(|finding| finding.severity != Severity::Info && !finding.hidden);
    let ends = session.selected.and_then(|index| {
        let pair = &session.pairs[index];
        Some((session.end(pair, Vantage::A)?, session.end(pair, Vantage::B)?))
    });
    let between = ends.map(|(a, b)| format!(" ({a} to {b})")).unwrap_or_default();
    match session.path {
        Path::Direct if session.is_over_tcp() => {
            let why = cause.map_or_else(
                || "what was measured does not say why it does not work over UDP".to_owned(),
                |finding| sentence(&finding.summary),
            );
            format!("A and B talk to each other directly over TCP{between}, and not over UDP: {why}.")
        }
        Path::Direct => format!("A and B talk to each other directly{between}."),
        Path::Relayed => {
            let whose = match ends {
                Some((a, b)) if a.kind == CandidateType::Relayed && b.kind == CandidateType::Relayed => "both relays",
                Some((a, _)) if a.kind == CandidateType::Relayed => "A's relay",
                Some(_) => "B's relay",
                None => "a relay",
            };
            let why = cause.map_or_else(
                || "no direct pair worked, and what was measured does not say why".to_owned(),
                |finding| sentence(&finding.summary),
            );
            match session.direct_until() {
                Some((vantage, after)) => format!(
                    "A and B talked directly, until the path broke {} after the beginning of {}'s recording, and talk through {whose}{between} since then: {why}.",
                    super::describe::duration(micros(after)),
                    vantage.name()
                ),
                None => format!("A and B talk through {whose}{between}: {why}."),
            }
        }
        Path::Failed => failed(session, cause),
    }
}

fn failed(session: &Session<'_>, cause: Option<&Finding>) -> String {
    let broke = broke(session);
    let undecided = !session.is_decided();
    if let (Some(here), None) = (interrupted_alone(session), cause) {
        return format!("{} was interrupted before {} came.", here.name(), here.other().name());
    }
    let what = match (broke, undecided) {
        (Some(broke), _) => broke,
        (None, true) if session.cut_short().is_some() => "The session ended before A and B were connected".to_owned(),
        (None, true) => "The recording stops before A and B were connected".to_owned(),
        (None, false) => "A and B could not be connected".to_owned(),
    };
    match cause {
        Some(finding) => format!("{what}: {}.", sentence(&finding.summary)),
        None if undecided => format!("{what}."),
        None => format!("{what}, and what was measured does not say why."),
    }
}

/// What there was until the connection broke, and when that was; `None`: there was none.
fn broke(session: &Session<'_>) -> Option<String> {
    let broke = |outcome: &SideOutcome| matches!(outcome, SideOutcome::Failed { was_connected: true, .. });
    if !session.outcomes.iter().any(broke) {
        return None;
    }
    let outage = session.recorded().find_map(|vantage| {
        let side = session.evidence.side(vantage);
        Some((vantage, side.outage()?.at.since(side.first_at)))
    });
    let (Some((vantage, after)), Some(selected)) = (outage, session.selected) else {
        return Some("A and B were connected, then the connection broke".to_owned());
    };
    let how = if session.pairs[selected].relayed { "through a relay" } else { "directly" };
    let (after, name) = (super::describe::duration(micros(after)), vantage.name());
    Some(format!("A and B talked {how}, until the path broke {after} after the beginning of {name}'s recording"))
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The side that was told to end while the other had not come.
fn interrupted_alone(session: &Session<'_>) -> Option<Vantage> {
    session.recorded().find(|&vantage| {
        let side = session.evidence.side(vantage);
        let met = side.descriptions.iter().any(|description| description.side == Side::Remote);
        matches!(side.ended, Some((_, EndReason::Interrupted))) && !met
    })
}

/// A summary as part of a sentence: without its full stop, and its first word small unless it is a name.
fn sentence(summary: &str) -> String {
    let summary = summary.trim_end_matches('.');
    let first = summary.split_whitespace().next().unwrap_or_default();
    let is_word = first.len() > 1 && first.chars().skip(1).all(|c| c.is_ascii_lowercase());
    match summary.chars().next().filter(|c| is_word && c.is_ascii_uppercase()) {
        Some(letter) => format!("{}{}", letter.to_ascii_lowercase(), &summary[letter.len_utf8()..]),
        None => summary.to_owned(),
    }
}
