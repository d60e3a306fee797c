//! Times without a path after there had been one, and recordings that end before the session did.

use serde::Serialize;

use super::describe::duration;
use super::{Report, timeline};
use crate::diagnosis::evidence::Outage;
use crate::diagnosis::session::Session;
use crate::trace::event::{Event, EventKind, IceStateReason, Vantage};

/// Most of them that are listed.
const MAX_OUTAGES: usize = 50;

/// A time without a path after there had been one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutageRow {
    /// Who saw it.
    pub side: Vantage,
    /// Number of the event that shows it.
    pub seq: u64,
    /// Its beginning, in microseconds since the first event.
    pub start_us: u64,
    /// Its end; `null` when there was no path any more.
    pub end_us: Option<u64>,
    /// How often ICE restarted meanwhile.
    pub restarts: u32,
    /// All of it in words.
    pub words: String,
}

pub(super) fn rows(session: &Session<'_>, scale: &timeline::Scale) -> Vec<OutageRow> {
    let rows = session.recorded().flat_map(|vantage| {
        session.evidence.side(vantage).outages.iter().map(move |outage| row(vantage, outage, scale))
    });
    rows.take(MAX_OUTAGES).collect()
}

fn row(side: Vantage, outage: &Outage, scale: &timeline::Scale) -> OutageRow {
    let start_us = scale.us(side, outage.at);
    let end_us = outage.ended.map(|at| scale.us(side, at));
    let what = match outage.reason {
        IceStateReason::ConsentSilent => "the path fell silent",
        IceStateReason::ConsentExpired => "consent on the path expired",
        IceStateReason::Restarted => "ICE was restarted",
        _ => "the path was lost",
    };
    let restarts = match outage.restarts {
        0 => String::new(),
        1 if outage.reason == IceStateReason::Restarted => String::new(),
        1 => ", ICE restarted once".to_owned(),
        restarts => format!(", ICE restarted {restarts} times"),
    };
    let end = match end_us {
        Some(end_us) => format!("; a path again after {}", duration(end_us.saturating_sub(start_us))),
        None if outage.reason == IceStateReason::ConsentSilent && outage.restarts == 0 => {
            "; no answer after that".to_owned()
        }
        None => "; no path again".to_owned(),
    };
    let words = format!("{}  {what} at {}{restarts}{end}", side.name(), duration(start_us));
    OutageRow { side, seq: outage.seq, start_us, end_us, restarts: outage.restarts, words }
}

impl Report {
    /// Says of each side whose recording has no end that it ends early: what came after is not known. For accounts of
    /// recordings; while a session lasts, none has an end.
    pub fn ends_early(&mut self, events: &[Event]) {
        for (vantage, side) in [(Vantage::A, &self.a), (Vantage::B, &self.b)] {
            if side.as_ref().is_none_or(|side| side.ended.is_some()) {
                continue;
            }
            let times = || events.iter().filter(|event| event.vantage == vantage).map(|event| event.at.as_micros());
            let length = times().max().unwrap_or(0).saturating_sub(times().min().unwrap_or(0));
            let name = vantage.name();
            // Its writer said so in another way.
            let is_whole = events.iter().any(|event| {
                event.vantage == vantage.other() && matches!(event.kind, EventKind::PeerRecording { missing: None })
            });
            if !is_whole {
                self.reason.push_str(&format!(
                    " {name}'s recording ends early, {} after its beginning: what came then is not known.",
                    duration(length)
                ));
            }
        }
    }
}
