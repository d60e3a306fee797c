//! The threads that carry datagrams: one for each core, each with its share of every listening socket (SO_REUSEPORT)
//! and of the relays. They wait for readiness themselves: a runtime's task, its wakers and a second thread looking for
//! work cost more than what is relayed.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tracing::error;
use whyrelay_core::engine::turn_server::{Client, ClientTransport, Input, ListenerId, RelayId};

use super::engine::Engine;
use super::mmsg::Arena;

/// Threads at most: the engine behind them is one.
const MOST: usize = 16;

/// How many sockets are served before the kernel is asked again.
const EVENTS: usize = 64;

/// How long a thread with much to do lets datagrams gather before it looks again. A wakeup costs as much as relaying
/// several; half a millisecond is less than what any path to a relay varies by.
const GATHERING: Duration = Duration::from_micros(500);

/// Much to do: datagrams come closer together than this, on average.
const BUSY_GAP: Duration = Duration::from_micros(150);

/// What stands in an event: the number of a relay, or one of these.
const LISTENER: u64 = 1 << 63;
const STOP: u64 = u64::MAX;

/// How many threads this machine is to have.
pub(super) fn suitable_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST)
}

/// What the threads wait on.
pub(super) struct Pollers {
    polls: Vec<Epoll>,
    next: AtomicUsize,
}

impl Pollers {
    pub(super) fn new(count: usize) -> io::Result<Self> {
        let polls = (0..count).map(|_| Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)).collect::<Result<_, _>>()?;
        Ok(Self { polls, next: AtomicUsize::new(0) })
    }

    /// Has a share of a listener read by its thread.
    pub(super) fn add_listener(&self, listener: ListenerId, shard: usize, socket: impl AsFd) -> io::Result<()> {
        self.add(usize::from(listener.0) + shard, LISTENER | (shard as u64) << 32 | u64::from(listener.0), socket)
    }

    /// The reverse.
    pub(super) fn remove_listener(&self, listener: ListenerId, shard: usize, socket: impl AsFd) {
        // It can only fail for a socket that was never added.
        let _ = self.polls[(usize::from(listener.0) + shard) % self.polls.len()].delete(socket);
    }

    /// Has a relay read by the thread whose turn it is.
    pub(super) fn add_relay(&self, relay: RelayId, socket: impl AsFd) -> io::Result<()> {
        self.add(self.next.fetch_add(1, Ordering::Relaxed), relay.0, socket)
    }

    fn add(&self, turn: usize, data: u64, socket: impl AsFd) -> io::Result<()> {
        Ok(self.polls[turn % self.polls.len()].add(socket, EpollEvent::new(EpollFlags::EPOLLIN, data))?)
    }
}

/// The running threads; they end with it.
pub(super) struct Workers {
    stop: Vec<UnixStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn start(engine: &Arc<Engine>) -> io::Result<Self> {
        let mut workers = Self { stop: Vec::new(), threads: Vec::new() };
        for (at, poll) in engine.pollers().polls.iter().enumerate() {
            let (ours, theirs) = UnixStream::pair()?;
            poll.add(&theirs, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
            workers.stop.push(ours);
            let engine = Arc::clone(engine);
            let thread = std::thread::Builder::new().name(format!("turn-{at}")).spawn(move || {
                let mut arena = Arena::new();
                // A fault in one datagram's handling must not take a share of all clients with it.
                while catch_unwind(AssertUnwindSafe(|| serve(&engine, at, &mut arena))).is_err() {
                    error!("the handling of a datagram failed; the next ones are served");
                }
                drop(theirs);
            })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Their ends hang up.
        self.stop.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Until told to stop.
fn serve(engine: &Arc<Engine>, at: usize, arena: &mut Arena) {
    let Some(poll) = engine.pollers().polls.get(at) else { return };
    let mut events = [EpollEvent::empty(); EVENTS];
    let mut pace = Pace::new(Instant::now());
    loop {
        let ready = match poll.wait(&mut events, EpollTimeout::NONE) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => continue,
            Err(error) => return error!("waiting for datagrams: {error}"),
        };
        let (mut served, mut more) = (0, ready == EVENTS);
        for event in &events[..ready] {
            let read = match event.data() {
                STOP => return,
                data if data & LISTENER != 0 => {
                    let listener = ListenerId(data as u16);
                    engine.shard(listener, (data & !LISTENER) as usize >> 32).map(|socket| arena.fill(socket.as_fd()))
                }
                relay => engine.relay(RelayId(relay)).map(|relay| arena.fill(relay.as_fd())),
            };
            match read {
                Some(Ok(())) => {}
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Some(Err(_)) => {
                    // Whatever it is, it may last; it must not cost a processor.
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                // Closed since.
                None => continue,
            }
            served += arena.messages();
            more |= arena.is_full();
            let data = event.data();
            if data & LISTENER != 0 {
                let transport = ClientTransport::Udp(ListenerId(data as u16));
                let input = |(source, bytes)| Input::FromClient { client: Client { transport, source }, bytes };
                engine.feed(at, arena.datagrams().map(input));
            } else {
                let relay = RelayId(data);
                engine.feed(at, arena.datagrams().map(|(peer, bytes)| Input::FromPeer { relay, peer, bytes }));
            }
        }
        if pace.is_busy(Instant::now(), served) && !more {
            std::thread::sleep(GATHERING);
        }
    }
}

/// How fast datagrams come.
struct Pace {
    last: Instant,
    /// Between two datagrams, the last eight or so counting most.
    gap: Duration,
}

impl Pace {
    /// After such a pause the past does not matter.
    const LONGEST_GAP: Duration = Duration::from_millis(10);

    const fn new(now: Instant) -> Self {
        Self { last: now, gap: Self::LONGEST_GAP }
    }

    /// Whether it is worth while to wait for more, after so many have come at once.
    fn is_busy(&mut self, now: Instant, served: usize) -> bool {
        let gap = now.duration_since(self.last).min(Self::LONGEST_GAP) / u32::try_from(served.max(1)).unwrap_or(1);
        self.gap = (self.gap * 7 + gap) / 8;
        self.last = now;
        self.gap < BUSY_GAP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_thread_with_much_to_do_lets_datagrams_gather() {
        let start = Instant::now();
        let run = |gap: u64, served| {
            let mut pace = Pace::new(start);
            (1..200).fold(false, |_, step| pace.is_busy(start + Duration::from_micros(step * gap), served))
        };
        assert!(!run(20_000, 1), "a call's 50 a second");
        assert!(!run(200, 1), "5,000 a second");
        assert!(run(300, 3), "10,000 a second, three at a time");
        assert!(run(50, 1), "20,000 a second");
        let mut pace = Pace::new(start);
        let busy = (1..100).all(|step| pace.is_busy(start + Duration::from_micros(step * 50), 1) || step < 50);
        assert!(busy && !pace.is_busy(start + Duration::from_secs(1), 1), "after a pause the next one goes at once");
    }
}
