//! Direct means direct: the relay is cut as soon as both sides have told of a direct path, and only then do they measure.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{Direction, Event, EventKind, Vantage};

use super::error::LabError;
use super::lab::Lab;
use super::router::Clock;
use super::services;
use super::side::Side;
use crate::scenario::Topology;

/// How long both may take to a direct path once one of them has any: a relayed one may come first, and late candidates
/// take some seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The relay's end, for which both sessions wait with all data but a greeting.
#[derive(Debug)]
pub(super) struct Cut<'a> {
    topology: &'a Topology,
    file: PathBuf,
    /// Since when one of them has told of a path.
    path_since: Option<Instant>,
    released: bool,
    at: Option<Timestamp>,
}

impl<'a> Cut<'a> {
    pub(super) fn new(lab: &Lab, topology: &'a Topology) -> Self {
        Self { topology, file: lab.directory().join("relay-is-cut"), path_since: None, released: false, at: None }
    }

    /// What the sessions wait for (`--measure-after`).
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// When the relay had been cut; nothing where not both told of a direct path.
    pub(super) const fn at(&self) -> Option<Timestamp> {
        self.at
    }

    /// Cuts the relay when it is time, and lets the sessions go on.
    pub(super) fn look(&mut self, lab: &Lab, sides: &[Side; 2]) -> Result<(), LabError> {
        if self.released {
            return Ok(());
        }
        let direct = [sides[0].is_direct(), sides[1].is_direct()];
        if direct.iter().any(Option::is_some) {
            self.path_since.get_or_insert_with(Instant::now);
        }
        if direct == [Some(true); 2] {
            services::cut_off(lab, self.topology)?;
            self.at = Some(Clock::new().now());
        } else if self.path_since.is_none_or(|since| since.elapsed() < PATIENCE) {
            return Ok(());
        }
        self.released = true;
        fs::write(&self.file, "").map_err(LabError::system(format!("writing {}", self.file.display())))
    }
}

/// Messages came back over a side's channel: sent after the relay was cut, where it was.
pub fn data_passed(events: &[Event], vantage: Vantage, cut: Option<Timestamp>) -> bool {
    let own = || events.iter().filter(|event| event.vantage == vantage);
    let ping = |event: &&Event| matches!(event.kind, EventKind::ChannelPing { direction: Direction::Out, .. });
    let answered = own().any(|event| matches!(event.kind, EventKind::RoundTrips { count, .. } if count > 0));
    answered && cut.is_none_or(|cut| own().find(ping).is_some_and(|first| first.at >= cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_from_before_the_cut_proves_nothing() {
        let at = Timestamp::from_micros;
        let event = |seq, at, kind| Event { seq, at, vantage: Vantage::A, kind };
        let ping = EventKind::ChannelPing { direction: Direction::Out, answer: false, id: 0 };
        let answered = EventKind::RoundTrips { count: 20, lost: 0, median_us: 900, p99_us: 1_200 };
        let events = [event(0, at(5_000), ping), event(2, at(9_000), answered)];
        for (cut, passed) in [(None, true), (Some(at(4_000)), true), (Some(at(6_000)), false)] {
            assert_eq!(data_passed(&events, Vantage::A, cut), passed, "{cut:?}");
        }
        assert!(!data_passed(&events, Vantage::B, None), "the other side's data");
        assert!(!data_passed(&events[..1], Vantage::A, None), "no answer");
    }
}
