//! Recordings: events as JSON lines, written as they happen and readable after a crash in the middle of a line.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::event::{EVENT_VERSION, Event, EventKind, Side, Vantage};
use crate::time::Timestamp;

/// Longest line that is read, in bytes. The largest event is a STUN message of 65,507 bytes, 87,344 as base64.
pub const MAX_LINE: usize = 256 * 1024;

/// Most bytes of one recording that are read: hours of a session, and still in memory at once.
pub const MAX_RECORDING: usize = 256 * 1024 * 1024;

/// Numbers what one side sees.
#[derive(Clone, Debug)]
pub struct Recorder {
    vantage: Vantage,
    next_seq: u64,
}

impl Recorder {
    /// Starts at the first number of this side.
    pub const fn new(vantage: Vantage) -> Self {
        Self { vantage, next_seq: vantage.first_seq() }
    }

    /// Makes an event of a fact. Each side counts in steps of two, so that numbers are unique across both.
    pub const fn record(&mut self, at: Timestamp, kind: EventKind) -> Event {
        let seq = self.next_seq;
        self.next_seq += 2;
        Event { seq, at, vantage: self.vantage, kind }
    }

    /// Which side this is.
    pub const fn vantage(&self) -> Vantage {
        self.vantage
    }
}

/// One event as a line of a recording, with the line feed.
///
/// The sink writes it whole and flushes it, so that a crash costs at most the last line.
pub fn encode(event: &Event) -> String {
    // Events hold strings, numbers, lists and maps with string keys, all of which serialize.
    let mut line = serde_json::to_string(event).unwrap_or_default();
    line.push('\n');
    line
}

/// What was read from one recording or merged from several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// Side A's events in order, then side B's.
    pub events: Vec<Event>,
    /// Events of kinds or with values that this version does not know: a newer minor version wrote them.
    pub unknown: u64,
    /// Lines that are no event at all.
    pub unreadable: u64,
    /// The recording stops in the middle of a line: its writer crashed or the disk was full.
    pub cut_off: bool,
}

/// Why recordings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// Nothing in it is an event.
    #[error("this is not a recording: none of its {lines} lines is an event")]
    NotARecording {
        /// How many lines it has.
        lines: u64,
    },
    /// A newer version of the event list.
    #[error("{program} wrote this recording with event version {found}; this whyrelay reads up to {EVENT_VERSION}")]
    NewerVersion {
        /// The version.
        found: u64,
        /// Who wrote it.
        program: String,
    },
    /// Larger than is read.
    #[error("the recording has {0} bytes, at most {MAX_RECORDING} are read")]
    TooLarge(usize),
    /// Two recordings have different events of the same number.
    #[error("they are not of one session: both have an event {seq} of side {side}, and not the same one", side = if seq % 2 == 0 { "A" } else { "B" })]
    Conflict {
        /// The number.
        seq: u64,
    },
    /// The two sides did not talk to each other.
    #[error("they are not of one session: neither side's description is known to the other")]
    Strangers,
}

impl Recording {
    /// Reads a recording, which may hold the events of both sides.
    ///
    /// A last line that is cut off is left out, and so are lines of unknown kinds; both are counted.
    ///
    /// # Errors
    /// When it is too large, of a newer [`EVENT_VERSION`], or holds no event although it is not empty.
    pub fn read(bytes: &[u8]) -> Result<Self, RecordingError> {
        if bytes.len() > MAX_RECORDING {
            return Err(RecordingError::TooLarge(bytes.len()));
        }
        let mut recording = Self::default();
        let mut lines = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (line, ended, after) = match rest.iter().position(|&byte| byte == b'\n') {
                Some(end) => (&rest[..end], true, &rest[end + 1..]),
                None => (rest, false, &rest[rest.len()..]),
            };
            rest = after;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            lines += 1;
            match read_line(line)? {
                Line::Event(event) => recording.events.push(*event),
                Line::Unknown => recording.unknown += 1,
                Line::Unreadable if !ended => recording.cut_off = true,
                Line::Unreadable => recording.unreadable += 1,
                // Recordings were joined behind a line that a crash had cut.
                Line::Resumed(event) => {
                    recording.cut_off = true;
                    recording.events.push(*event);
                }
            }
        }
        if recording.events.is_empty() && recording.unknown == 0 && lines > 0 {
            return Err(RecordingError::NotARecording { lines });
        }
        recording.events = put_in_order(recording.events)?;
        Ok(recording)
    }

    /// Lines that should be events and could not be read, and all of them.
    pub const fn unread(&self) -> (u64, u64) {
        let unread = self.unknown + self.unreadable;
        (unread, unread + self.events.len() as u64)
    }

    /// Puts the recordings of one session together; events that several of them have are kept once.
    ///
    /// # Errors
    /// When they are of different sessions.
    pub fn merge(recordings: impl IntoIterator<Item = Self>) -> Result<Self, RecordingError> {
        let mut whole = Self::default();
        for mut recording in recordings {
            whole.events.append(&mut recording.events);
            whole.unknown += recording.unknown;
            whole.unreadable += recording.unreadable;
            whole.cut_off |= recording.cut_off;
        }
        whole.events = put_in_order(whole.events)?;
        if strangers(&whole.events) {
            return Err(RecordingError::Strangers);
        }
        Ok(whole)
    }
}

enum Line {
    Event(Box<Event>),
    /// An event behind the rest of a line that was cut off.
    Resumed(Box<Event>),
    Unknown,
    Unreadable,
}

fn read_line(line: &[u8]) -> Result<Line, RecordingError> {
    if line.len() > MAX_LINE {
        return Ok(Line::Unreadable);
    }
    let refuse_if_newer = |event: &Event| match &event.kind {
        EventKind::RecordingStarted { version, program, .. } => refuse_newer(u64::from(*version), program),
        _ => Ok(()),
    };
    if let Ok(event) = serde_json::from_slice::<Event>(line) {
        refuse_if_newer(&event)?;
        return Ok(Line::Event(Box::new(event)));
    }
    /// What every version's events have.
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "seq")]
        _seq: u64,
        #[serde(rename = "vantage")]
        _vantage: Vantage,
        kind: String,
        #[serde(default)]
        version: u64,
        #[serde(default)]
        program: String,
    }
    if let Ok(header) = serde_json::from_slice::<Header>(line) {
        if header.kind == "recording-started" {
            refuse_newer(header.version, &header.program)?;
        }
        return Ok(Line::Unknown);
    }
    const START: &[u8] = b"{\"seq\":";
    let second = line.windows(START.len()).skip(1).position(|window| window == START);
    let resumed = second.and_then(|at| serde_json::from_slice::<Event>(&line[at + 1..]).ok());
    resumed.as_ref().map_or(Ok(()), refuse_if_newer)?;
    Ok(resumed.map_or(Line::Unreadable, |event| Line::Resumed(Box::new(event))))
}

fn refuse_newer(found: u64, program: &str) -> Result<(), RecordingError> {
    if found <= u64::from(EVENT_VERSION) {
        return Ok(());
    }
    let program = if program.is_empty() { "an unnamed program" } else { program };
    Err(RecordingError::NewerVersion { found, program: program.chars().take(64).collect() })
}

/// Side A's events in order, then side B's, each once.
fn put_in_order(mut events: Vec<Event>) -> Result<Vec<Event>, RecordingError> {
    events.sort_by_key(|event| (event.vantage, event.seq));
    let mut ordered: Vec<Event> = Vec::with_capacity(events.len());
    for event in events {
        match ordered.last_mut() {
            Some(last) if (last.vantage, last.seq) == (event.vantage, event.seq) => {
                // Where a copy that was sent has a gap, the other one knows better.
                if matches!(last.kind, EventKind::EventsDropped { .. }) {
                    *last = event;
                } else if *last != event && !matches!(event.kind, EventKind::EventsDropped { .. }) {
                    return Err(RecordingError::Conflict { seq: event.seq });
                }
            }
            _ => ordered.push(event),
        }
    }
    Ok(ordered)
}

/// Whether both sides have descriptions and neither knows any of the other's.
fn strangers(events: &[Event]) -> bool {
    let mut ufrags: BTreeMap<(Vantage, bool), Vec<&str>> = BTreeMap::new();
    for event in events {
        if let EventKind::Description { side, ufrag, .. } = &event.kind {
            ufrags.entry((event.vantage, *side == Side::Local)).or_default().push(ufrag);
        }
    }
    let of = |vantage, local| ufrags.get(&(vantage, local)).map_or(&[][..], Vec::as_slice);
    let known = |from: Vantage| {
        let (said, heard) = (of(from, true), of(from.other(), false));
        if said.is_empty() || heard.is_empty() { None } else { Some(said.iter().any(|u| heard.contains(u))) }
    };
    let verdicts = [known(Vantage::A), known(Vantage::B)];
    verdicts.contains(&Some(false)) && !verdicts.contains(&Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::event::SessionOptions;

    fn started(recorder: &mut Recorder, version: u32) -> Event {
        let kind = EventKind::RecordingStarted {
            version,
            program: "whyrelay 9.0.0".into(),
            id: "alice".into(),
            options: SessionOptions::default(),
        };
        recorder.record(Timestamp::from_micros(1), kind)
    }

    fn description(recorder: &mut Recorder, side: Side, ufrag: &str) -> Event {
        let kind = EventKind::Description {
            side,
            description: "offer".into(),
            ufrag: ufrag.into(),
            setup: "actpass".into(),
            fingerprint: "sha-256 00".into(),
            ice_options: vec![],
            generation: 0,
        };
        recorder.record(Timestamp::from_micros(2), kind)
    }

    fn session() -> Vec<Event> {
        let (mut a, mut b) = (Recorder::new(Vantage::A), Recorder::new(Vantage::B));
        let mut events = vec![started(&mut a, EVENT_VERSION)];
        events.push(a.record(Timestamp::from_micros(5), EventKind::EndOfCandidates { side: Side::Local }));
        events.push(started(&mut b, EVENT_VERSION));
        events.push(b.record(Timestamp::from_micros(3), EventKind::EndOfCandidates { side: Side::Remote }));
        events
    }

    fn text(events: &[Event]) -> String {
        events.iter().map(encode).collect()
    }

    #[test]
    fn the_sides_count_apart_so_that_numbers_are_unique() {
        let seqs: Vec<_> = session().iter().map(|event| event.seq).collect();
        assert_eq!(seqs, [0, 2, 1, 3]);
    }

    #[test]
    fn a_crash_at_any_byte_costs_at_most_the_last_line() {
        let events = session();
        let text = text(&events);
        for end in 1..text.len() {
            let whole = text[..end].bytes().filter(|&byte| byte == b'\n').count();
            match Recording::read(&text.as_bytes()[..end]) {
                Ok(recording) => {
                    let complete = text.as_bytes()[end] == b'\n' || text.as_bytes()[end - 1] == b'\n';
                    let expected = whole + usize::from(text.as_bytes()[end] == b'\n');
                    assert_eq!((recording.events.len(), recording.cut_off), (expected, !complete), "at {end}");
                }
                Err(error) => assert_eq!((whole, error), (0, RecordingError::NotARecording { lines: 1 })),
            }
        }
    }

    #[test]
    fn recordings_joined_behind_a_crash_are_read_on() {
        let events = session();
        let cut = encode(&events[0]) + &encode(&events[1])[..20];
        let joined = cut + &text(&events[2..]);
        let recording = Recording::read(joined.as_bytes()).unwrap();
        assert_eq!(recording.events, [events[0].clone(), events[2].clone(), events[3].clone()]);
        assert!(recording.cut_off);
    }

    #[test]
    fn unknown_kinds_are_counted_and_unreadable_lines_too() {
        let more = "{\"seq\":8,\"at\":1,\"vantage\":\"a\",\"kind\":\"moon-phase\",\"phase\":3}\nnonsense\n\n";
        let recording = Recording::read((text(&session()) + more).as_bytes()).unwrap();
        assert_eq!((recording.events.len(), recording.unknown, recording.unreadable), (4, 1, 1));
        let long = format!("{}{}\n", text(&session()), "x".repeat(MAX_LINE + 1));
        assert_eq!(Recording::read(long.as_bytes()).unwrap().unreadable, 1);
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let newer = encode(&started(&mut Recorder::new(Vantage::A), EVENT_VERSION + 1));
        let message = Recording::read(newer.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            message,
            format!(
                "whyrelay 9.0.0 wrote this recording with event version {}; this whyrelay reads up to {EVENT_VERSION}",
                EVENT_VERSION + 1
            )
        );
        let reshaped = r#"{"seq":0,"at":1,"vantage":"a","kind":"recording-started","version":7,"program":"x"}"#;
        assert!(matches!(Recording::read(reshaped.as_bytes()), Err(RecordingError::NewerVersion { found: 7, .. })));
    }

    #[test]
    fn garbage_is_no_recording_and_nothing_is_an_empty_one() {
        assert_eq!(Recording::read(b"\x00\xff\nhello"), Err(RecordingError::NotARecording { lines: 2 }));
        assert_eq!(Recording::read(b""), Ok(Recording::default()));
    }

    #[test]
    fn recordings_merge_in_any_order_without_repeats() {
        let events = session();
        let read = |events: &[Event]| Recording::read(text(events).as_bytes()).unwrap();
        let one = Recording::merge([read(&events), read(&events[2..])]).unwrap();
        let two = Recording::merge([read(&events[2..]), read(&events[..2]), read(&events)]).unwrap();
        assert_eq!(one.events, events);
        assert_eq!(two.events, events);
    }

    #[test]
    fn recordings_of_different_sessions_are_told_apart() {
        let mut other = session();
        other[1].at = Timestamp::from_micros(77);
        let read = |events: Vec<Event>| Recording { events, ..Recording::default() };
        assert_eq!(Recording::merge([read(session()), read(other)]), Err(RecordingError::Conflict { seq: 2 }));

        let (mut a, mut b) = (Recorder::new(Vantage::A), Recorder::new(Vantage::B));
        let mut both = vec![description(&mut a, Side::Local, "aaaa"), description(&mut b, Side::Remote, "zzzz")];
        assert_eq!(Recording::merge([read(both.clone())]), Err(RecordingError::Strangers));
        both.push(description(&mut b, Side::Remote, "aaaa"));
        assert!(Recording::merge([read(both)]).is_ok());
    }
}
