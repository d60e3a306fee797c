//! The time line: what each side was doing when, on one clock where the two can be compared.

use serde::Serialize;

use super::clock::ClockOffset;
use super::describe::describe;
use crate::diagnosis::evidence::Evidence;
use crate::time::Timestamp;
use crate::trace::event::{DtlsState, Event, EventKind, IceState, ServerFailure, Side, SignalingState, Vantage};

/// Most moments that a side shows: the first of them, and the last.
const MAX_MOMENTS: usize = 80;

/// Most phases that a side shows.
const MAX_PHASES: usize = 24;

/// The time line of both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// Whether times of both sides are on one clock, A's; else each side's count from its own first event.
    pub one_clock: bool,
    /// What each side was doing.
    pub phases: Vec<Phase>,
    /// What happened, in the order of time where there is one clock, else A's first.
    pub moments: Vec<Moment>,
    /// How many more moments there were.
    pub moments_left_out: usize,
    /// Where a picture should begin, in microseconds: a long wait for the other side is not worth the room.
    pub shown_from_us: u64,
    /// Where a picture should end: a while after it is decided whether there is a path.
    pub shown_to_us: u64,
    /// The last event, in microseconds.
    pub end_us: u64,
}

/// Something that went on for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// Whose.
    pub side: Vantage,
    /// What.
    pub what: PhaseKind,
    /// Its beginning, in microseconds since the first event.
    pub start_us: u64,
    /// Its end; `null` when it went on when the recording ended.
    pub end_us: Option<u64>,
    /// How it ended; `null` where that is neither good nor bad.
    pub went_well: Option<bool>,
}

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseKind {
    /// For the other side's description.
    Waiting,
    /// Of candidates.
    Gathering,
    /// Connectivity checks, until a pair is usable or none is left.
    Checking,
    /// The DTLS handshake.
    Dtls,
    /// The data channel is open.
    Channel,
}

impl PhaseKind {
    /// Every kind, in order.
    pub const ALL: [Self; 5] = [Self::Waiting, Self::Gathering, Self::Checking, Self::Dtls, Self::Channel];

    /// As it is written for a reader.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting for the other side",
            Self::Gathering => "gathering candidates",
            Self::Checking => "checking pairs",
            Self::Dtls => "DTLS handshake",
            Self::Channel => "data channel open",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Number of the event.
    pub seq: u64,
    /// Who saw it.
    pub side: Vantage,
    /// When, in microseconds since the first event.
    pub at_us: u64,
    /// What, in one line.
    pub text: String,
}

/// From the sides' clocks to microseconds since the first event.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    clock: Option<ClockOffset>,
    /// Where each side counts from, on its own clock or on A's.
    zero: [u64; 2],
    pub(super) one_clock: bool,
}

impl Scale {
    pub(super) fn new(evidence: &Evidence, clock: Option<&ClockOffset>) -> Self {
        let first = |vantage| evidence.is_recorded(vantage).then(|| evidence.side(vantage).first_at);
        let (a, b) = (first(Vantage::A), first(Vantage::B));
        let clock = clock.filter(|clock| clock.offset_us.is_some()).cloned();
        let b_on_a = clock.as_ref().zip(b).and_then(|(clock, at)| clock.on_clock_of_a(Vantage::B, at));
        let micros = |at: Option<Timestamp>| at.map_or(0, Timestamp::as_micros);
        match (&clock, a, b_on_a) {
            (Some(_), Some(a), Some(b)) => {
                let zero = a.min(b).as_micros();
                Self { clock, zero: [zero, zero], one_clock: true }
            }
            _ => Self { clock: None, zero: [micros(a), micros(b)], one_clock: a.is_none() || b.is_none() },
        }
    }

    /// Microseconds since the first event.
    pub(super) fn us(&self, vantage: Vantage, at: Timestamp) -> u64 {
        let at = self.clock.as_ref().and_then(|clock| clock.on_clock_of_a(vantage, at)).unwrap_or(at);
        at.as_micros().saturating_sub(self.zero[if vantage == Vantage::A { 0 } else { 1 }])
    }
}

pub(super) fn timeline(events: &[&Event], scale: &Scale) -> Timeline {
    let mut timeline = Timeline { one_clock: scale.one_clock, ..Timeline::default() };
    for vantage in [Vantage::A, Vantage::B] {
        let of_side: Vec<&Event> = events.iter().copied().filter(|event| event.vantage == vantage).collect();
        let phases = phases(&of_side, vantage, scale);
        timeline.phases.extend(phases.into_iter().take(MAX_PHASES));
        let notable: Vec<&Event> = of_side.iter().copied().filter(|event| is_notable(&event.kind)).collect();
        let left_out = notable.len().saturating_sub(MAX_MOMENTS);
        timeline.moments_left_out += left_out;
        let first = MAX_MOMENTS / 2;
        let kept = notable.iter().enumerate().filter(|(index, _)| *index < first || *index >= first + left_out);
        timeline.moments.extend(kept.map(|(_, event)| Moment {
            seq: event.seq,
            side: vantage,
            at_us: scale.us(vantage, event.at),
            text: describe(event),
        }));
        let end = of_side.last().map_or(0, |event| scale.us(vantage, event.at));
        timeline.end_us = timeline.end_us.max(end);
    }
    if timeline.one_clock {
        timeline.moments.sort_by_key(|moment| (moment.at_us, moment.seq));
    }
    show(&mut timeline);
    timeline
}

/// What is worth showing: from when both sides are there until it is decided.
fn show(timeline: &mut Timeline) {
    let ends = |wanted: fn(PhaseKind) -> bool| {
        let phases = timeline.phases.iter().filter(move |phase| wanted(phase.what));
        phases.filter_map(|phase| phase.end_us).max()
    };
    let met = ends(|what| what == PhaseKind::Waiting).unwrap_or(0);
    let opened = timeline.phases.iter().filter(|phase| phase.what == PhaseKind::Channel).map(|phase| phase.start_us);
    let decided = ends(|what| !matches!(what, PhaseKind::Waiting | PhaseKind::Channel)).max(opened.max());
    let decided = decided.unwrap_or(timeline.end_us).clamp(met, timeline.end_us.max(met));
    let busy = (decided - met).max(1000);
    timeline.shown_from_us = if met > busy.saturating_mul(2) { met.saturating_sub(busy / 4) } else { 0 };
    timeline.shown_to_us =
        decided.saturating_add((decided - timeline.shown_from_us) / 6).clamp(1, timeline.end_us.max(1));
}

fn phases(events: &[&Event], side: Vantage, scale: &Scale) -> Vec<Phase> {
    let mut phases: Vec<Phase> = Vec::new();
    let mut open: Vec<(PhaseKind, u64)> = Vec::new();
    let mut met = false;
    for event in events {
        let now = scale.us(side, event.at);
        let starts = match &event.kind {
            EventKind::RecordingStarted { .. } => Some(PhaseKind::Waiting),
            EventKind::SocketOpened { .. } | EventKind::LocalCandidate { .. } if !gathered(&phases, &open) => {
                Some(PhaseKind::Gathering)
            }
            EventKind::IceStateChanged { to: IceState::Checking | IceState::Disconnected, .. } => {
                Some(PhaseKind::Checking)
            }
            EventKind::Dtls { state: DtlsState::Started { .. } } => Some(PhaseKind::Dtls),
            EventKind::ChannelOpened { .. } => Some(PhaseKind::Channel),
            _ => None,
        };
        if let Some(what) = starts
            && !open.iter().any(|(other, _)| *other == what)
        {
            open.push((what, now));
        }
        let ends = match &event.kind {
            EventKind::Description { side: Side::Remote, .. } if !std::mem::replace(&mut met, true) => {
                vec![(PhaseKind::Waiting, None)]
            }
            EventKind::EndOfCandidates { side: Side::Local } => vec![(PhaseKind::Gathering, None)],
            EventKind::IceStateChanged { to: IceState::Connected | IceState::Completed, .. } => {
                vec![(PhaseKind::Checking, Some(true))]
            }
            EventKind::IceStateChanged { to: IceState::Failed, .. } => vec![(PhaseKind::Checking, Some(false))],
            EventKind::Dtls { state: DtlsState::Connected { .. } } => vec![(PhaseKind::Dtls, Some(true))],
            EventKind::Dtls { state: DtlsState::Failed { .. } | DtlsState::FingerprintMismatch { .. } } => {
                vec![(PhaseKind::Dtls, Some(false))]
            }
            EventKind::ChannelClosed { .. } => vec![(PhaseKind::Channel, None)],
            EventKind::RecordingEnded { .. } => vec![(PhaseKind::Channel, None), (PhaseKind::Waiting, Some(false))],
            _ => vec![],
        };
        for (what, went_well) in ends {
            if let Some(position) = open.iter().position(|(other, _)| *other == what) {
                let (what, start_us) = open.remove(position);
                phases.push(Phase { side, what, start_us, end_us: Some(now), went_well });
            }
        }
    }
    phases.extend(open.into_iter().map(|(what, start_us)| Phase {
        side,
        what,
        start_us,
        end_us: None,
        went_well: None,
    }));
    phases.sort_by_key(|phase| (phase.what, phase.start_us));
    phases
}

fn gathered(phases: &[Phase], open: &[(PhaseKind, u64)]) -> bool {
    phases.iter().any(|phase| phase.what == PhaseKind::Gathering)
        || open.iter().any(|(what, _)| *what == PhaseKind::Gathering)
}

/// Whether an event belongs into a short account of what happened.
const fn is_notable(kind: &EventKind) -> bool {
    match kind {
        EventKind::ServerFailed { failure, .. } => {
            !matches!(failure, ServerFailure::ErrorResponse { expected: true, .. })
        }
        EventKind::Signaling { state, .. } => !matches!(state, SignalingState::PeerPresent),
        EventKind::Dtls { state } => !matches!(state, DtlsState::FingerprintVerified),
        EventKind::RecordingStarted { .. }
        | EventKind::RecordingEnded { .. }
        | EventKind::EventsDropped { .. }
        | EventKind::Description { .. }
        | EventKind::SignalRefused { .. }
        | EventKind::SocketFailed { .. }
        | EventKind::Allocated { .. }
        | EventKind::EndOfCandidates { side: Side::Local }
        | EventKind::PairNominated { .. }
        | EventKind::PairSelected { .. }
        | EventKind::RoleConflict { .. }
        | EventKind::IceStateChanged { .. }
        | EventKind::IceRestarted { .. }
        | EventKind::ChannelOpened { .. }
        | EventKind::ChannelClosed { .. }
        | EventKind::RoundTrips { .. }
        | EventKind::Throughput { .. } => true,
        _ => false,
    }
}
