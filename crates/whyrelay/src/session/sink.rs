//! Where events go as they happen: into memory for the account, into the recording's file, into the capture.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use anyhow::Context as _;
use whyrelay_core::host::{HostFact, Probe, ProbeAim};
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::datagram::{Classify, Passage};
use whyrelay_core::trace::event::{Datagram, Direction, Event, EventKind, Transport, Vantage};
use whyrelay_core::trace::pcapng::PcapngWriter;
use whyrelay_core::trace::recording::{Recorder, encode};
use whyrelay_core::trace::redact::{Redactor, redact};

use crate::check::{Entry, Passed};
use crate::host::{Flow, Tap};
use crate::tui::worker::Feed;

/// Most events of one session: hours of one. What comes after is counted.
const MAX_EVENTS: usize = 500_000;

/// Most bytes of their data, as recorded: with the rest of the events well below what a reader takes.
const MAX_DATA: usize = 64 * 1024 * 1024;

/// Pairs of addresses whose data is counted: only a few can be in use, and strangers must not add to them.
const MAX_COUNTED: usize = 64;

/// Whether addresses and names are replaced.
#[derive(Debug)]
enum Redaction {
    /// They are kept.
    Off,
    /// They will be, and until both sides have the secret that makes the same pseudonyms, events are withheld.
    Withheld(Vec<Event>),
    /// They are.
    On(Redactor),
}

/// A file of ours that cannot be written any more.
#[derive(Debug)]
pub(crate) struct Unwritten {
    what: &'static str,
    path: PathBuf,
    error: std::io::Error,
}

impl fmt::Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, path, error) = (self.what, self.path.display(), &self.error);
        write!(f, "the {what} {path} cannot be written any more and ends early: {error}")
    }
}

/// Takes everything that one session sees.
#[derive(Debug)]
pub(crate) struct Sink {
    recorder: Recorder,
    events: Vec<Event>,
    file: Option<File>,
    path: Option<PathBuf>,
    capture: Option<(File, PcapngWriter)>,
    capture_path: Option<PathBuf>,
    unwritten: Vec<Unwritten>,
    redaction: Redaction,
    interfaces: BTreeMap<SocketAddr, String>,
    traffic: BTreeMap<(SocketAddr, SocketAddr, Transport, Direction), (u64, u64)>,
    dropped: u64,
    data: usize,
    ended: bool,
    tap: Option<Tap>,
    watch: Option<Sender<Feed>>,
}

impl Sink {
    /// A sink of one side; the files of `record` and `pcap` are created or emptied.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn open(
        vantage: Vantage,
        record: Option<&Path>,
        pcap: Option<&Path>,
        redact: bool,
    ) -> anyhow::Result<Self> {
        let create = |path: &Path, what: &str| {
            File::create(path).with_context(|| format!("creating the {what} {}", path.display()))
        };
        let file = record.map(|path| create(path, "recording")).transpose()?;
        let capture = match pcap {
            Some(path) => {
                let (mut file, mut writer) = (create(path, "capture")?, PcapngWriter::new());
                file.write_all(&writer.header()).with_context(|| format!("writing the capture {}", path.display()))?;
                Some((file, writer))
            }
            None => None,
        };
        Ok(Self {
            path: record.map(Path::to_owned),
            capture,
            capture_path: pcap.map(Path::to_owned),
            redaction: if redact { Redaction::Withheld(Vec::new()) } else { Redaction::Off },
            recorder: Recorder::new(vantage),
            events: Vec::new(),
            file,
            unwritten: Vec::new(),
            interfaces: BTreeMap::new(),
            traffic: BTreeMap::new(),
            dropped: 0,
            data: 0,
            ended: false,
            tap: None,
            watch: None,
        })
    }

    /// Records a fact.
    pub(crate) fn record(&mut self, at: Timestamp, kind: EventKind) {
        if self.ended {
            return;
        }
        let last_words = matches!(kind, EventKind::EventsDropped { .. } | EventKind::RecordingEnded { .. });
        let withheld = if let Redaction::Withheld(events) = &self.redaction { events.len() } else { 0 };
        if let EventKind::Datagram(datagram) | EventKind::ProbeDatagram(datagram) = &kind {
            self.data += datagram.data.len();
        }
        if (self.events.len() + withheld >= MAX_EVENTS || self.data > MAX_DATA) && !last_words {
            self.dropped += 1;
            return;
        }
        if let EventKind::SocketOpened { local, interface: Some(interface), .. } = &kind {
            self.interfaces.insert(*local, interface.clone());
        }
        if let Some(tap) = &mut self.tap {
            tap.see(&kind);
        }
        let event = self.recorder.record(at, kind);
        self.take(event);
    }

    /// From now on a screen gets every event that is kept; with pseudonyms, where there are any.
    pub(super) fn watch(&mut self, watch: Sender<Feed>) {
        self.watch = Some(watch);
    }

    /// From now on the collector of host facts hears of what is recorded.
    pub(crate) fn tap(&mut self, tap: Tap) {
        self.tap = Some(tap);
    }

    /// Has the kernel asked how it routes packets of a socket that is not one of the session's own.
    pub(super) fn ask_about(&mut self, flow: Flow) {
        if let Some(tap) = &mut self.tap {
            tap.ask_about(flow);
        }
    }

    /// The probes with an aim that were recorded.
    pub(super) fn probes(&self, aim: impl Fn(&ProbeAim) -> bool) -> Vec<Probe> {
        let withheld = if let Redaction::Withheld(events) = &self.redaction { &events[..] } else { &[] };
        let probes = self.events.iter().chain(withheld).filter_map(|event| match &event.kind {
            EventKind::HostFact { fact, .. } => match &**fact {
                HostFact::Probe(probe) if aim(&probe.aim) => Some(probe.clone()),
                _ => None,
            },
            _ => None,
        });
        probes.collect()
    }

    /// Tells the collector of host facts that the checks are over; `false`: it was told before, or there is none.
    pub(crate) fn finish_tap(&mut self) -> bool {
        self.tap.take().is_some_and(|mut tap| {
            tap.finish();
            true
        })
    }

    /// From now on pseudonyms are made with this secret, which both sides have.
    pub(crate) fn redact_with(&mut self, secret: &[u8]) {
        if let Redaction::Withheld(events) = &mut self.redaction {
            let events = std::mem::take(events);
            let mut redactor = Redactor::new(secret);
            // Names must be known before the free text that repeats them.
            for event in &events {
                redactor.event(event);
            }
            self.redaction = Redaction::On(redactor);
            for event in events {
                self.take(event);
            }
        }
    }

    /// Replaces what was recorded so far by its redacted form, in memory and in both files, because the other side wants
    /// that. Answers whether anything had to be done.
    pub(super) fn redact_all(&mut self, secret: &[u8]) -> bool {
        if !matches!(self.redaction, Redaction::Off) {
            return false;
        }
        self.events = redact(&self.events, secret);
        for event in &mut self.events {
            if let EventKind::RecordingStarted { options, .. } = &mut event.kind {
                options.redacted = true;
            }
        }
        self.write_anew();
        true
    }

    /// Replaces names in what was written before they were known to be names: free text may come ahead of the field
    /// that tells.
    fn redact_later_names(&mut self) {
        let Redaction::On(redactor) = &self.redaction else { return };
        let mut found = false;
        for event in &mut self.events {
            if let Some(redacted) = redactor.again(event) {
                *event = redacted;
                found = true;
            }
        }
        if found {
            self.write_anew();
        }
    }

    /// Tells the screen, if there is one. One that has been left is no reason to stop.
    fn show(&self, feed: impl FnOnce() -> Feed) {
        if let Some(watch) = &self.watch {
            let _ = watch.send(feed());
        }
    }

    /// Writes both files again from memory. Whoever is killed meanwhile keeps the old ones.
    fn write_anew(&mut self) {
        self.show(|| Feed::Anew(self.events.clone()));
        if let Some(path) = self.file.as_ref().and(self.path.as_ref()) {
            match replace(path, self.events.iter().map(|event| encode(event).into_bytes())) {
                Ok(file) => self.file = Some(file),
                Err(error) => self.recording_failed(error),
            }
        }
        if let Some(path) = self.capture.as_ref().and(self.capture_path.as_ref()) {
            let mut writer = PcapngWriter::new();
            let header = writer.header();
            match replace(path, std::iter::once(header).chain(self.events.iter().map(|event| writer.push(event)))) {
                Ok(file) => self.capture = Some((file, writer)),
                Err(error) => self.capture_failed(error),
            }
        }
    }

    /// Redacts an event if that is asked for, writes it, keeps it.
    fn take(&mut self, event: Event) {
        let event = match &mut self.redaction {
            Redaction::Off => event,
            Redaction::Withheld(events) => return events.push(event),
            Redaction::On(redactor) => redactor.event(&event),
        };
        self.keep(event);
    }

    fn keep(&mut self, event: Event) {
        self.write(&event);
        self.show(|| Feed::Event(Box::new(event.clone())));
        self.events.push(event);
    }

    /// Records what passes the door: whole, or as part of the next count.
    pub(crate) fn pass(
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
            let key = (local, remote, transport, direction);
            if self.traffic.len() >= MAX_COUNTED && !self.traffic.contains_key(&key) {
                self.dropped += 1;
                return;
            }
            let count = self.traffic.entry(key).or_default();
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

    /// Records a probe, or what it was answered with.
    pub(super) fn pass_probe(
        &mut self,
        at: Timestamp,
        direction: Direction,
        (local, remote): (SocketAddr, SocketAddr),
        bytes: &[u8],
    ) {
        let interface = self.interfaces.get(&local).map(String::as_str);
        let transport = Transport::Udp;
        let passage = Passage { direction, transport, local, remote, interface, bytes, integrity: None };
        self.record(at, EventKind::ProbeDatagram(Datagram::sanitised(passage)));
    }

    /// Records what was only counted since the last call.
    pub(super) fn record_traffic(&mut self, at: Timestamp) {
        for ((local, remote, transport, direction), (datagrams, bytes)) in std::mem::take(&mut self.traffic) {
            self.record(at, EventKind::Traffic { direction, transport, local, remote, datagrams, bytes });
        }
    }

    /// Takes what a part that runs beside has noted.
    pub(crate) fn note(&mut self, entry: Entry) {
        match entry {
            Entry::Fact(at, kind) => self.record(at, kind),
            Entry::Connecting(remote) => {
                if let Some(tap) = &mut self.tap {
                    tap.connecting(remote);
                }
            }
            Entry::Connection { local, remote } => {
                if let Some(tap) = &mut self.tap {
                    tap.connection(local, remote);
                }
            }
            Entry::Passage(passed) => {
                let Passed { at, direction, transport, local, remote, bytes, integrity } = passed;
                self.pass(at, direction, transport, (local, remote), &bytes, || integrity);
            }
        }
    }

    /// Ends the recording: nothing is recorded after this but the other side's events.
    pub(crate) fn end(&mut self, at: Timestamp, kind: EventKind) {
        self.record_traffic(at);
        if self.dropped > 0 {
            let count = std::mem::take(&mut self.dropped);
            self.record(at, EventKind::EventsDropped { count });
        }
        self.record(at, kind);
        self.ended = true;
        self.redact_later_names();
        self.flush();
    }

    /// Appends the other side's events, so that one file holds the whole account.
    pub(super) fn append(&mut self, events: Vec<Event>) {
        let is_redacted =
            |event: &Event| matches!(&event.kind, EventKind::RecordingStarted { options, .. } if options.redacted);
        // Pseudonyms of pseudonyms would agree with nothing.
        let redacted = events.iter().any(is_redacted);
        for event in events {
            if redacted {
                self.keep(event);
            } else {
                self.take(event);
            }
        }
        self.flush();
    }

    /// Adds a fact about the end itself to a recording that has ended.
    pub(super) fn record_after_end(&mut self, at: Timestamp, kind: EventKind) {
        let event = self.recorder.record(at, kind);
        self.take(event);
        self.flush();
    }

    /// Ends what is being written. Each event goes to the system at once, so that a crash of this process loses nothing.
    pub(super) fn flush(&mut self) {
        if let Err(error) = self.file.as_mut().map_or(Ok(()), Write::flush) {
            self.recording_failed(error);
        }
        if let Err(error) = self.capture.as_mut().map_or(Ok(()), |(file, _)| file.flush()) {
            self.capture_failed(error);
        }
    }

    /// The next file that cannot be written any more; each is told once.
    pub(crate) fn take_unwritten(&mut self) -> Option<Unwritten> {
        self.unwritten.pop()
    }

    /// Everything so far.
    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }

    fn write(&mut self, event: &Event) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(encode(event).as_bytes())
        {
            self.recording_failed(error);
        }
        if let Some((file, writer)) = &mut self.capture
            && let Err(error) = file.write_all(&writer.push(event))
        {
            self.capture_failed(error);
        }
    }

    /// A full disk must not end the session: the account still comes, from memory.
    fn recording_failed(&mut self, error: std::io::Error) {
        self.file = None;
        let path = self.path.clone().unwrap_or_default();
        self.unwritten.push(Unwritten { what: "recording", path, error });
    }

    fn capture_failed(&mut self, error: std::io::Error) {
        self.capture = None;
        let path = self.capture_path.clone().unwrap_or_default();
        self.unwritten.push(Unwritten { what: "capture", path, error });
    }
}

/// Puts a new file in the place of one of ours, at one stroke, and answers it for appending.
fn replace(path: &Path, pieces: impl Iterator<Item = Vec<u8>>) -> std::io::Result<File> {
    // The file itself, where the path is a link to it.
    let path = path.canonicalize()?;
    let metadata = path.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is no file: what was written to it cannot be taken back"));
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let written = File::create(&beside).and_then(|mut file| {
        file.set_permissions(metadata.permissions())?;
        for piece in pieces {
            file.write_all(&piece)?;
        }
        file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        Ok(file)
    });
    if written.is_err() {
        // Best effort: what failed may be the disk itself.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use whyrelay_core::trace::event::InterfaceUse;

    use super::*;

    #[test]
    fn a_file_that_is_replaced_is_whole_whenever_it_is_looked_at() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("recording.jsonl");
        let mut sink = Sink::open(Vantage::A, Some(&path), None, false).expect("a sink");
        for number in 0..2000 {
            let addresses = vec![std::net::Ipv4Addr::from(0xC000_0200 + number % 256).into()];
            let kind = EventKind::Interface {
                name: format!("eth{number}"),
                index: number,
                addresses,
                used: InterfaceUse::Used,
            };
            sink.record(Timestamp::from_micros(u64::from(number)), kind);
        }
        sink.flush();
        let original = std::fs::read_to_string(&path).expect("the recording");
        // What a kill at that moment would leave is what is there at that moment.
        let (done, looked) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let seen = std::fs::read_to_string(&path).expect("it is always there");
                    let redacted = !seen.contains("192.0.2.");
                    assert!(seen == original || redacted && seen.lines().count() == 2000, "{} bytes", seen.len());
                    looked.store(true, Ordering::Relaxed);
                }
            });
            while !looked.load(Ordering::Relaxed) && !watcher.is_finished() {
                std::thread::yield_now();
            }
            assert!(sink.redact_all(b"secret"));
            done.store(true, Ordering::Relaxed);
            watcher.join().expect("no half file was seen");
        });
        let after = std::fs::read_to_string(&path).expect("the recording");
        assert!(!after.contains("192.0.2.") && after.lines().count() == 2000);
    }
}
