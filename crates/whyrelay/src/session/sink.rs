//! Where events go as they happen: into memory for the account, into the recording's file, into the capture.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::datagram::{Classify, Passage};
use whyrelay_core::trace::event::{Datagram, Direction, Event, EventKind, Transport, Vantage};
use whyrelay_core::trace::recording::{Recorder, encode};

/// Most events of one session: hours of one, and a few hundred megabytes at worst. What comes after is counted.
const MAX_EVENTS: usize = 500_000;

/// Takes everything that one session sees.
#[derive(Debug)]
pub(super) struct Sink {
    recorder: Recorder,
    events: Vec<Event>,
    file: Option<BufWriter<File>>,
    file_error: Option<std::io::Error>,
    interfaces: BTreeMap<SocketAddr, String>,
    traffic: BTreeMap<(SocketAddr, SocketAddr, Transport, Direction), (u64, u64)>,
    dropped: u64,
    ended: bool,
}

impl Sink {
    /// A sink of one side; `record` is created or emptied.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn open(vantage: Vantage, record: Option<&Path>) -> anyhow::Result<Self> {
        let file = match record {
            Some(path) => {
                let file = File::create(path).with_context(|| format!("creating the recording {}", path.display()))?;
                Some(BufWriter::new(file))
            }
            None => None,
        };
        Ok(Self {
            recorder: Recorder::new(vantage),
            events: Vec::new(),
            file,
            file_error: None,
            interfaces: BTreeMap::new(),
            traffic: BTreeMap::new(),
            dropped: 0,
            ended: false,
        })
    }

    /// Records a fact.
    pub(super) fn record(&mut self, at: Timestamp, kind: EventKind) {
        if self.ended {
            return;
        }
        let last_words = matches!(kind, EventKind::EventsDropped { .. } | EventKind::RecordingEnded { .. });
        if self.events.len() >= MAX_EVENTS && !last_words {
            self.dropped += 1;
            return;
        }
        if let EventKind::SocketOpened { local, interface: Some(interface), .. } = &kind {
            self.interfaces.insert(*local, interface.clone());
        }
        let event = self.recorder.record(at, kind);
        self.write(&event);
        self.events.push(event);
    }

    /// Records what passes the door: whole, or as part of the next count.
    pub(super) fn pass(
        &mut self,
        at: Timestamp,
        direction: Direction,
        transport: Transport,
        (local, remote): (SocketAddr, SocketAddr),
        bytes: &[u8],
        verify: impl FnOnce() -> Option<whyrelay_core::wire::integrity::Integrity>,
    ) {
        if self.ended {
            return;
        }
        if Classify::of(bytes) == Classify::Count {
            let count = self.traffic.entry((local, remote, transport, direction)).or_default();
            count.0 += 1;
            count.1 += bytes.len() as u64;
            return;
        }
        let interface = self.interfaces.get(&local).map(String::as_str);
        let integrity = verify();
        let passage = Passage { direction, transport, local, remote, interface, bytes, integrity };
        let datagram = Datagram::sanitised(passage);
        self.record(at, EventKind::Datagram(datagram));
    }

    /// Records what was only counted since the last call.
    pub(super) fn record_traffic(&mut self, at: Timestamp) {
        for ((local, remote, transport, direction), (datagrams, bytes)) in std::mem::take(&mut self.traffic) {
            self.record(at, EventKind::Traffic { direction, transport, local, remote, datagrams, bytes });
        }
    }

    /// Ends the recording: nothing is recorded after this but the other side's events.
    pub(super) fn end(&mut self, at: Timestamp, kind: EventKind) {
        self.record_traffic(at);
        if self.dropped > 0 {
            let count = std::mem::take(&mut self.dropped);
            self.record(at, EventKind::EventsDropped { count });
        }
        self.record(at, kind);
        self.ended = true;
        self.flush();
    }

    /// Appends the other side's events, so that one file holds the whole account.
    pub(super) fn append(&mut self, events: Vec<Event>) {
        for event in events {
            self.write(&event);
            self.events.push(event);
        }
        self.flush();
    }

    /// Adds a fact about the end itself to a recording that has ended.
    pub(super) fn record_after_end(&mut self, at: Timestamp, kind: EventKind) {
        let event = self.recorder.record(at, kind);
        self.write(&event);
        self.events.push(event);
        self.flush();
    }

    /// Hands what was written to the system, so that a crash of this process loses nothing.
    pub(super) fn flush(&mut self) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.flush()
        {
            self.fail(error);
        }
    }

    /// What went wrong with the file, once.
    pub(super) fn take_file_error(&mut self) -> Option<std::io::Error> {
        self.file_error.take()
    }

    /// Everything so far.
    pub(super) fn events(&self) -> &[Event] {
        &self.events
    }

    fn write(&mut self, event: &Event) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(encode(event).as_bytes())
        {
            self.fail(error);
        }
    }

    /// A full disk must not end the session: the account still comes, from memory.
    fn fail(&mut self, error: std::io::Error) {
        self.file = None;
        self.file_error = Some(error);
    }
}
