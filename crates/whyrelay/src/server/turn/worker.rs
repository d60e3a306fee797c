//! The threads that carry datagrams: one for each core, each with its share of every listening socket (SO_REUSEPORT)
//! and of the relays. They wait for readiness themselves: a runtime's task, its wakers and a second thread looking for
//! work cost more than what is relayed.
//!
//! As long as the first thread has time it looks after the shares of the others, too, which rest ([`Crew`]): each thread
//! that wakes for a few datagrams costs as much as relaying them.

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

use super::crew::Crew;
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

/// When the first thread works more than so many percent of its time, it needs help.
const MUCH: u128 = 60;

/// When another works less than so many for as many looks at its load, it rests. Two that do have together what the first
/// can do alone.
const LITTLE: u128 = 15;
const LOOKS: u32 = 10;

/// When there is nothing to look at for so long, it rests at once; in milliseconds.
const IDLE: u8 = 100;

/// What stands in an event: the number of a relay, or one of these.
const LISTENER: u64 = 1 << 63;
const SHARE: u64 = 1 << 62;
const STOP: u64 = u64::MAX;

/// How many threads this machine is to have.
pub(super) fn suitable_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST)
}

/// What the threads wait on.
pub(super) struct Pollers {
    polls: Vec<Epoll>,
    next: AtomicUsize,
    crew: Arc<Crew>,
}

impl Pollers {
    /// For so many threads, of which the first is awake.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        let polls = (0..count).map(|_| Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)).collect::<Result<_, _>>()?;
        let pollers = Self { polls, next: AtomicUsize::new(0), crew: Arc::new(Crew::new(count)) };
        (1..count).try_for_each(|at| pollers.take_over(at))?;
        Ok(pollers)
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

    /// Has the first thread look after the share of another.
    fn take_over(&self, at: usize) -> io::Result<()> {
        self.add(0, SHARE | at as u64, &self.polls[at].0)
    }

    /// Wakes another thread, which looks after its share itself.
    fn wake_another(&self) {
        self.crew.wake_another(|at| self.polls[0].delete(&self.polls[at].0).is_ok());
    }

    /// Whether a thread may rest, because the first has taken over its share.
    fn rest(&self, at: usize) -> bool {
        self.crew.rest(at, || self.take_over(at).is_ok())
    }
}

/// The running threads; they end with it.
pub(super) struct Workers {
    crew: Arc<Crew>,
    stop: Vec<UnixStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn start(engine: &Arc<Engine>) -> io::Result<Self> {
        let pollers = engine.pollers();
        let mut workers = Self { crew: Arc::clone(&pollers.crew), stop: Vec::new(), threads: Vec::new() };
        for (at, poll) in pollers.polls.iter().enumerate() {
            let (ours, theirs) = UnixStream::pair()?;
            poll.add(&theirs, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
            workers.stop.push(ours);
            let engine = Arc::clone(engine);
            let thread = std::thread::Builder::new().name(format!("turn-{at}")).spawn(move || {
                ask_for_short_slices();
                let mut arena = Arena::new();
                let mut work = || while engine.pollers().crew.is_needed(at) && serve(&engine, at, &mut arena) {};
                // A fault in one datagram's handling must not take a share of all clients with it.
                while catch_unwind(AssertUnwindSafe(&mut work)).is_err() {
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
        // Their ends hang up; those that rest are told.
        self.stop.clear();
        self.crew.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Until told to stop, which is answered with false, or until the thread may rest.
fn serve(engine: &Arc<Engine>, at: usize, arena: &mut Arena) -> bool {
    let pollers = engine.pollers();
    let Some(poll) = pollers.polls.get(at) else { return false };
    let patience = if at == 0 { EpollTimeout::NONE } else { EpollTimeout::from(IDLE) };
    let (mut events, mut of_others) = ([EpollEvent::empty(); EVENTS], [EpollEvent::empty(); EVENTS]);
    let started = Instant::now();
    let (mut pace, mut load, mut looks) = (Pace::new(started), Load::new(started), 0);
    loop {
        let ready = match poll.wait(&mut events, patience) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => continue,
            Err(error) => {
                error!("waiting for datagrams: {error}");
                return false;
            }
        };
        if ready == 0 && pollers.rest(at) {
            return true;
        }
        let woken = Instant::now();
        let mut round = Round { engine, at, served: 0, more: ready == EVENTS };
        for event in &events[..ready] {
            match event.data() {
                STOP => return false,
                share if share & (LISTENER | SHARE) == SHARE => {
                    let others = pollers.polls.get((share & !SHARE) as usize);
                    // Taken from us by now, or nothing there anymore.
                    let Some(Ok(ready)) = others.map(|poll| poll.wait(&mut of_others, EpollTimeout::ZERO)) else {
                        continue;
                    };
                    round.more |= ready == EVENTS;
                    let theirs = of_others[..ready].iter().map(EpollEvent::data);
                    theirs.filter(|data| *data != STOP).for_each(|data| round.read(arena, data));
                }
                data => round.read(arena, data),
            }
        }
        let now = Instant::now();
        match load.percent(now, now.duration_since(woken)) {
            Some(percent) if at == 0 && percent > MUCH => pollers.wake_another(),
            Some(percent) => looks = if percent < LITTLE { looks + 1 } else { 0 },
            None => {}
        }
        if looks >= LOOKS {
            looks = 0;
            if pollers.rest(at) {
                return true;
            }
        }
        if pace.is_busy(now, round.served) && !round.more {
            std::thread::sleep(GATHERING);
        }
    }
}

/// How long this thread wants to have a processor before another may have it: the least that Linux gives.
const SLICE: Duration = Duration::from_micros(100);

/// Asks for short slices, which come sooner (EEVDF, Linux 6.12): where every processor is busy, a datagram would wait
/// until a slice of some milliseconds is over. The thread's share stays as it is. An older kernel, or one that
/// refuses, leaves everything as it was.
#[expect(unsafe_code, reason = "sched_setattr(2) has no wrapper")]
fn ask_for_short_slices() {
    // SAFETY: integers; all zeros is a value of each.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let length = size_of_val(&attributes) as libc::c_uint;
    // SAFETY: of this thread (0), into a live place of the length that is said.
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, length, 0) } == 0;
    // Whoever gave it another policy knows why.
    if known && attributes.sched_policy == libc::SCHED_OTHER as u32 {
        attributes.sched_runtime = SLICE.as_nanos() as u64;
        // SAFETY: of this thread, from a live place whose length the kernel has just written into it.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    }
}

/// What is read after one wait.
struct Round<'a> {
    engine: &'a Arc<Engine>,
    /// The thread's number.
    at: usize,
    served: usize,
    /// Whether more may be there than was read.
    more: bool,
}

impl Round<'_> {
    /// Reads a socket that has something, by what stands in its event, and has it carried out.
    fn read(&mut self, arena: &mut Arena, data: u64) {
        let engine = self.engine;
        let read = if data & LISTENER != 0 {
            let socket = engine.shard(ListenerId(data as u16), (data & !LISTENER) as usize >> 32);
            socket.map(|socket| arena.fill(socket.as_fd()))
        } else {
            engine.relay(RelayId(data)).map(|relay| arena.fill(relay.as_fd()))
        };
        match read {
            Some(Ok(())) => {}
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return,
            // Whatever it is, it may last; it must not cost a processor.
            Some(Err(_)) => return std::thread::sleep(Duration::from_millis(1)),
            // Closed since.
            None => return,
        }
        self.served += arena.messages();
        self.more |= arena.is_full();
        if data & LISTENER != 0 {
            engine.received_datagrams.fetch_add(arena.count() as u64, Ordering::Relaxed);
            let transport = ClientTransport::Udp(ListenerId(data as u16));
            let input = |(source, bytes)| Input::FromClient { client: Client { transport, source }, bytes };
            engine.feed(self.at, arena.datagrams().map(input));
        } else {
            let relay = RelayId(data);
            engine.feed(self.at, arena.datagrams().map(|(peer, bytes)| Input::FromPeer { relay, peer, bytes }));
        }
    }
}

/// How much of its time a thread works.
struct Load {
    since: Instant,
    working: Duration,
}

impl Load {
    /// Over how long it is looked at: less than what the kernel's buffers hold at any rate.
    const WINDOW: Duration = Duration::from_millis(10);

    const fn new(now: Instant) -> Self {
        Self { since: now, working: Duration::ZERO }
    }

    /// Notes work that ends now; how much of the time was work, once the time is over.
    fn percent(&mut self, now: Instant, worked: Duration) -> Option<u128> {
        self.working += worked;
        let passed = now.duration_since(self.since);
        if passed < Self::WINDOW {
            return None;
        }
        let percent = self.working.as_micros() * 100 / passed.as_micros().max(1);
        *self = Self::new(now);
        Some(percent)
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
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_first_thread_looks_after_the_shares_of_those_that_rest() {
        let pollers = Pollers::new(3).unwrap();
        let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for (socket, number) in sockets.iter().zip(0..) {
            pollers.add_relay(RelayId(number), socket).unwrap();
            sockets[0].send_to(b"x", socket.local_addr().unwrap()).unwrap();
        }
        let ready = |at: usize| {
            let mut events = [EpollEvent::empty(); EVENTS];
            let count = pollers.polls[at].wait(&mut events, EpollTimeout::ZERO).unwrap();
            let mut found: Vec<u64> = events[..count].iter().map(EpollEvent::data).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(ready(0), [0, SHARE | 1, SHARE | 2]);
        assert_eq!(ready(1), [1], "and finds there what is to be read");
        pollers.wake_another();
        assert_eq!(ready(0), [0, SHARE | 2], "the second reads its own");
        pollers.wake_another();
        pollers.wake_another();
        assert_eq!(ready(0), [0], "all are awake");
        assert!(!pollers.rest(1), "the last that woke rests first");
        assert!(pollers.rest(2) && pollers.rest(1) && !pollers.rest(0));
        assert_eq!(ready(0), [0, SHARE | 1, SHARE | 2]);
    }

    #[test]
    fn how_much_of_its_time_a_thread_works_is_told_for_each_window() {
        let start = Instant::now();
        let mut load = Load::new(start);
        let mut note = |ms, worked| load.percent(start + Duration::from_millis(ms), Duration::from_millis(worked));
        assert_eq!((note(2, 2), note(9, 4), note(10, 1), note(15, 5)), (None, None, Some(70), None));
        assert_eq!(note(1010, 5), Some(1), "after a pause");
    }

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
