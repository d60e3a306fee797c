//! What a rule must know to say that its fault is not there. Where it does not know, "not found" is not "not there".

use std::fmt::Write as _;

use super::Rule;
use super::wording::NO_FACTS;
use crate::diagnosis::session::{Path, Session};
use crate::host::Subject;
use crate::trace::event::Vantage;

/// What is missing where only one server told a socket its address.
pub(super) const SECOND_SERVER: &str = "what two servers at different addresses tell one socket";

/// What is missing where only a check of the network tells, and not a session.
pub(super) const BY_CHECK: &str = "what whyrelay check measures of the network";

/// Something without which a rule cannot say of a side that its fault is not there. The recording of that side, whole,
/// is needed by each.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// The packets and errors at the side's sockets: a browser tells no more than counts.
    Sockets,
    /// What the other side saw arrive.
    OtherSide,
    /// What the side's host tells of a subject.
    Host(Subject),
    /// Something else: what is missing, in words without a side's name; `None`: nothing.
    Other(fn(&Session<'_>, Vantage) -> Option<String>),
}

/// What is missing about a side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    what: String,
    of: Vantage,
}

impl Missing {
    /// What is missing of one or both sides, in words: what is of one kind is told together, the first kind alone.
    pub(super) fn told(all: &[Self]) -> Option<String> {
        let first = all.first()?;
        let mut text = format!("{} of {}", first.what, first.of.name());
        if let Some(other) = all.iter().find(|other| other.what == first.what && other.of != first.of) {
            let _ = write!(text, " and {}", other.of.name());
        }
        Some(text)
    }
}

/// What is missing for saying that a fault of a side with these needs is not there.
pub(super) fn missing(needs: &[Need], session: &Session<'_>, vantage: Vantage) -> Option<Missing> {
    let own = recording(session, vantage);
    own.or_else(|| needs.iter().find_map(|need| need.missing(session, vantage)))
}

impl Need {
    fn missing(self, session: &Session<'_>, vantage: Vantage) -> Option<Missing> {
        let told = |what: Option<String>| what.map(|what| Missing { what, of: vantage });
        match self {
            Self::Sockets => {
                let counted = session.evidence.side(vantage).is_counted();
                told(counted.then(|| "what passed the sockets of the browser, which tells no more than counts,".into()))
            }
            Self::OtherSide if session.evidence.is_alone() => None,
            Self::OtherSide => recording(session, vantage.other()),
            Self::Host(subject) => told(host_lacks(session, vantage, subject)),
            Self::Other(missing) => told(missing(session, vantage)),
        }
    }
}

/// The recording of a side, where it is not there or not whole.
fn recording(session: &Session<'_>, of: Vantage) -> Option<Missing> {
    let evidence = session.evidence;
    let what = match evidence.side(of) {
        _ if !evidence.is_recorded(of) => "the recording",
        side if side.dropped > 0 => "some events of the recording",
        _ if !evidence.is_complete(of) && !evidence.is_alone() => "the rest of the recording",
        _ => return None,
    };
    Some(Missing { what: what.to_owned(), of })
}

/// What a side's host did not tell of a subject, and why, in words without the side's name.
pub(super) fn host_lacks(session: &Session<'_>, of: Vantage, subject: Subject) -> Option<String> {
    let host = &session.evidence.side(of).host;
    if !host.is_told() {
        return Some(NO_FACTS.to_owned());
    }
    match host.why_not_measured(subject) {
        Some((_, Some(privilege))) => Some(format!("{} (needs {privilege})", subject.name())),
        Some((why, None)) => Some(format!("{} ({why})", subject.name())),
        None => (!host.is_looked_at(subject)).then(|| format!("{} (nothing is recorded of them)", subject.name())),
    }
}

/// What is missing of all sides that a session has.
pub(super) fn missing_of_all(rule: &Rule, session: &Session<'_>) -> Vec<Missing> {
    // What could keep a path from being direct is refuted by one that is; what harms such a path is not.
    if session.path == Path::Direct && !rule.harms_a_direct_path() {
        return Vec::new();
    }
    let sides: &[Vantage] = if session.evidence.is_alone() { &[Vantage::A] } else { &[Vantage::A, Vantage::B] };
    sides.iter().filter_map(|&vantage| missing(rule.needs, session, vantage)).collect()
}
