//! What the parts of a check see, on its way to the one sink: each part notes before it acts, and none waits.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use whyrelay_core::diagnosis::evidence::NO_TIME;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{Direction, EventKind, Transport};
use whyrelay_core::trace::measurement::Measurement;
use whyrelay_core::wire::integrity::Integrity;

use super::asked::{Asked, Row, STOPPED};
use super::late::Late;
use super::sockets::bare;
use crate::io::clock::Clock;
use crate::io::udp::{UdpDoor, UdpInput};

/// Entries between the parts and the sink. A flood of datagrams fills it; what does not fit is counted.
const QUEUE: usize = 8192;

/// A check that takes this long waits for each answer for seconds: who gave it the time has a slow network.
const PATIENT: Duration = Duration::from_secs(8);

/// Something to record.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A fact.
    Fact(Timestamp, EventKind),
    /// Something passed a socket.
    Passage(Passed),
    /// Connections are about to be made to there, not by one of the parts' sockets.
    Connecting(SocketAddr),
    /// A connection that is not made by one of the parts' sockets: what this host's firewall does to it is of interest.
    Connection { local: SocketAddr, remote: SocketAddr },
}

/// What passed a socket.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) at: Timestamp,
    pub(crate) direction: Direction,
    pub(crate) transport: Transport,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) integrity: Option<Integrity>,
}

/// Where a part notes what it sees. Clones are handles to the same.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    clock: Clock,
    entries: mpsc::Sender<Entry>,
    lost: Arc<AtomicU64>,
    ipv6_answered: Arc<AtomicBool>,
    status: Arc<Mutex<BTreeMap<IpAddr, String>>>,
    /// The time of the whole check; none for what is looked at beside a session.
    time: Option<Duration>,
    /// What the part that has this handle is to tell, and that of all parts.
    own: Asked,
    all: Arc<Mutex<Vec<Asked>>>,
    late: Late,
}

impl Journal {
    /// A journal and where its entries come out.
    pub(crate) fn new(clock: Clock) -> (Self, mpsc::Receiver<Entry>) {
        let (entries, written) = mpsc::channel(QUEUE);
        let (lost, ipv6_answered, status) = (Arc::default(), Arc::default(), Arc::default());
        let (time, own, all, late) = (None, Asked::default(), Arc::default(), Late::default());
        (Self { clock, entries, lost, ipv6_answered, status, time, own, all, late }, written)
    }

    /// The same for a check that takes this long.
    pub(crate) fn within(self, time: Duration) -> Self {
        Self { time: Some(time), ..self }
    }

    /// Whether the check has time for a network whose round trips take seconds.
    pub(crate) fn is_patient(&self) -> bool {
        self.time.is_some_and(|time| time >= PATIENT)
    }

    /// Why something was not measured for which there was no time.
    pub(crate) fn no_time(&self) -> String {
        match self.time {
            Some(time) => {
                let (time, more) = (time.as_secs_f64(), (time.as_secs() * 2).max(10));
                format!("{NO_TIME} in {time} s: --time {more}s gives it more")
            }
            None => NO_TIME.to_owned(),
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A handle for a part that is to tell these; [`Self::stopped`] says so of what it does not come to.
    pub(crate) fn asking(&self, rows: Vec<Row>) -> Self {
        let own = Asked::new(rows);
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(own.clone());
        Self { own, ..self.clone() }
    }

    /// The part with this handle is over.
    pub(crate) fn is_over(&self) {
        self.own.is_over();
    }

    /// Says of everything that was asked and has no answer that the check was stopped.
    pub(crate) fn stopped(&self) {
        let all: Vec<Asked> = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for what in all.iter().flat_map(Asked::left) {
            self.missing(what, STOPPED);
        }
    }

    /// The same of the part with this handle alone, which is over then.
    pub(crate) fn stopped_here(&self) {
        for what in self.own.left() {
            self.missing(what, STOPPED);
        }
        self.own.is_over();
    }

    /// Notes a fact.
    pub(crate) fn fact(&self, kind: EventKind) {
        self.own.told(&kind);
        self.note(Entry::Fact(self.now(), kind));
    }

    /// Notes a measurement.
    pub(crate) fn measured(&self, measurement: Measurement) {
        match &measurement {
            Measurement::Reach { remote, rtt_us: Some(_), .. } | Measurement::MappedAddress { remote, .. }
                if remote.is_ipv6() =>
            {
                self.ipv6_answered.store(true, Ordering::Relaxed);
            }
            Measurement::Reach {
                transport: Transport::Udp,
                local: Some(local),
                remote,
                rtt_us: None,
                detail: None,
                unannounced: false,
            } => self.late.expect(bare(*local), bare(*remote)),
            _ => {}
        }
        self.fact(EventKind::Measured(measurement));
    }

    /// Notes what could not be measured, and why.
    pub(crate) fn missing(&self, what: impl Into<String>, why: impl Into<String>) {
        self.fact(EventKind::NotMeasured { what: what.into(), why: why.into() });
    }

    /// Notes that connections are about to be made beside the parts' sockets.
    pub(crate) fn connecting(&self, remote: SocketAddr) {
        self.note(Entry::Connecting(remote));
    }

    /// Notes that a connection beside the parts' sockets did not come about.
    pub(crate) fn not_connected(&self, local: SocketAddr, remote: SocketAddr) {
        self.note(Entry::Connection { local, remote });
    }

    /// Notes what passes a socket.
    pub(crate) fn passed(&self, passed: Passed) {
        self.note(Entry::Passage(passed));
    }

    /// Keeps sockets open that nobody waits at any more, until the end of a check. What is looked at beside a session
    /// closes them at once.
    pub(crate) fn keep_open(&self, doors: Vec<UdpDoor>, mut inputs: mpsc::Receiver<UdpInput>) {
        if self.time.is_none() || doors.is_empty() {
            return;
        }
        let (clock, entries, lost, late) =
            (self.clock, self.entries.clone(), Arc::clone(&self.lost), self.late.downgrade());
        self.late.keep(async move {
            let _open = doors;
            while let Some(input) = inputs.recv().await {
                let UdpInput::Datagram { local, remote, kernel_time, bytes } = input else { continue };
                let at = kernel_time.map_or_else(|| clock.now(), |time| clock.from_kernel(time));
                let (local, transport, direction, integrity) = (bare(local), Transport::Udp, Direction::In, None);
                late.came(local, bare(remote));
                let passed = Passed { at, direction, transport, local, remote, bytes, integrity };
                if entries.try_send(Entry::Passage(passed)).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }

    /// Waits for answers to what was asked of servers and given up, until then.
    pub(crate) async fn wait_for_late(&self, until: Instant) {
        self.late.wait(until).await;
    }

    /// Closes what was kept open.
    pub(crate) fn close(&self) {
        self.late.close();
    }

    /// Whether a server answered over IPv6.
    pub(crate) fn ipv6_answered(&self) -> bool {
        self.ipv6_answered.load(Ordering::Relaxed)
    }

    /// Says to who watches what takes so long at an address of ours, or that nothing does. It is no fact.
    pub(crate) fn say(&self, of: IpAddr, status: Option<String>) {
        let mut all = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        match status {
            Some(status) => all.insert(of, status),
            None => all.remove(&of),
        };
    }

    /// What was last said of each address.
    pub(crate) fn status(&self) -> Vec<String> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Entries that found no room.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn note(&self, entry: Entry) {
        if self.entries.try_send(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
