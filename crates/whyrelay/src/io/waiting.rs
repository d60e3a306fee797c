//! What waits in sockets and connections when a timer fires late.
//!
//! A process that stood still (a busy machine, SIGSTOP, a laptop's sleep) finds its timers over and its answers unread.
//! Whoever looked at the clock first would call an answer missing that was there in time. So a driver that finds a timer
//! over does this, in this order: it notes the time; lets the readers of its connections have their turn
//! ([`readers_have_run`]); hands in everything that waits, each with the moment when it arrived
//! ([`whyrelay_core::time::Now::ahead_of_timers`]); and then lets the timer pass, up to the noted time or, where a flood
//! left something in a socket, up to the arrival of what was handed in last of it
//! ([`whyrelay_core::time::Now::timers`]).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use whyrelay_core::time::Timestamp;

use super::clock::Clock;
use super::stream::Streams;
use super::udp::{Left, UdpDoor, UdpInput};

/// Inputs of connections that are taken at once: a flood must not keep the timers from their turn.
pub const MOST: usize = 1024;

/// Datagrams and errors that are taken out of one socket at once, whatever is in the channel and in others.
const MOST_OF_ONE: usize = 128;

/// What waits in a socket longer than this is not waited for: a flood holds the timers no further back.
const MOST_BEHIND: Duration = Duration::from_millis(500);

/// A timer that fires so much too late is one of a process that stood still.
const STOOD_STILL: Duration = Duration::from_millis(20);

/// After it, readers of connections, and threads that look names up, get so much time to hand over what they have, …
const AT_LEAST: Duration = Duration::from_millis(2);

/// … and so much while a connection has bytes of before that nobody has read.
const AT_MOST: Duration = Duration::from_millis(50);

/// Turns that readers get where the process did not stand still: their bytes and the timer came at one moment.
const TURNS: usize = 4;

/// What was found.
pub struct Waiting {
    /// In the order of their arrival, for each socket.
    pub inputs: VecDeque<UdpInput>,
    /// Everything that had arrived by then is among them.
    pub heard: Timestamp,
}

/// Takes what the readers have read, then what is still in the sockets.
pub fn waiting<'a>(
    inputs: &mut mpsc::Receiver<UdpInput>,
    doors: impl IntoIterator<Item = &'a UdpDoor>,
    clock: Clock,
) -> Waiting {
    let noted = clock.now();
    let longest_ago = Timestamp::from_micros(noted.as_micros().saturating_sub(MOST_BEHIND.as_micros() as u64));
    let most = inputs.max_capacity();
    let mut found: VecDeque<UdpInput> = std::iter::from_fn(|| inputs.try_recv().ok()).take(most).collect();
    let (mut buffer, mut heard) = (Vec::new(), noted);
    for door in doors {
        if let Left::Later(last) = door.take_waiting(MOST_OF_ONE, &mut buffer, &mut found) {
            let last = last.map_or(longest_ago, |time| clock.from_kernel(time).max(longest_ago));
            heard = heard.min(last);
        }
    }
    Waiting { inputs: found, heard }
}

/// Returns once the tasks and threads that read for a driver have had their turn. Who talks on and on, or fills the
/// channel, holds nobody: only what had arrived before is waited for, and that only as long as there is room for it.
pub async fn readers_have_run(deadline: Instant, streams: &mut Streams) {
    let started = Instant::now();
    let mut unread = streams.unread();
    if started < deadline + STOOD_STILL {
        for _ in 0..TURNS {
            if !unread.any() || streams.are_full() {
                return;
            }
            tokio::task::yield_now().await;
        }
        return;
    }
    loop {
        tokio::time::sleep(AT_LEAST).await;
        if !unread.any() || streams.are_full() || started.elapsed() >= AT_MOST {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::io::stream::StreamInput;
    use crate::io::tls::ClientTls;
    use crate::io::udp::UdpOptions;

    /// Takes what waits until so much has been taken. Nothing is awaited, so no reader has its turn: the process stands
    /// still. What the kernel has accepted for a socket on this host may still take a moment.
    fn take(inputs: &mut mpsc::Receiver<UdpInput>, door: &UdpDoor, count: usize) -> (Vec<UdpInput>, usize) {
        let (mut taken, mut largest) = (Vec::new(), 0);
        let until = Instant::now() + Duration::from_secs(20);
        while taken.len() < count && Instant::now() < until {
            let new = waiting(inputs, [door], Clock::start()).inputs;
            largest = largest.max(new.len());
            taken.extend(new);
        }
        (taken, largest)
    }

    #[tokio::test]
    async fn what_waits_is_taken_before_a_reader_has_run_and_a_flood_has_an_end() {
        let (sender, mut inputs) = mpsc::channel(8);
        let door = UdpDoor::open("127.0.0.1:0".parse().unwrap(), UdpOptions::default(), sender).unwrap();
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(waiting(&mut inputs, [&door], Clock::start()).inputs.is_empty());
        let count = 2 * MOST_OF_ONE + 1;
        for number in 0..count {
            other.send_to(&number.to_be_bytes(), door.local()).unwrap();
        }
        let (taken, largest) = take(&mut inputs, &door, count);
        assert!(largest <= MOST_OF_ONE, "{largest} at once");
        assert_eq!(taken.len(), count);
        for (number, input) in taken.iter().enumerate() {
            let UdpInput::Datagram { remote, bytes, .. } = input else { panic!("a datagram, not {input:?}") };
            assert_eq!((*remote, &bytes[..]), (other.local_addr().unwrap(), &number.to_be_bytes()[..]));
        }
    }

    #[tokio::test]
    async fn an_error_that_a_send_call_was_told_of_is_taken_and_errors_count_too() {
        let (sender, mut inputs) = mpsc::channel(8);
        let door = UdpDoor::open("127.0.0.1:0".parse().unwrap(), UdpOptions::default(), sender).unwrap();
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let open = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let count = MOST_OF_ONE + 3;
        for _ in 0..count {
            door.send(closed, b"is anyone there?").unwrap();
        }
        // Told of the error of the last of them, and of nothing else.
        door.send(open.local_addr().unwrap(), b"hello").unwrap();
        let (taken, largest) = take(&mut inputs, &door, count);
        assert!(largest <= MOST_OF_ONE, "{largest} at once");
        assert_eq!(taken.len(), count);
        assert!(taken.iter().all(|input| matches!(input, UdpInput::Icmp(error) if error.remote == closed)));
    }

    #[tokio::test]
    async fn a_flooded_socket_takes_no_room_of_another_and_is_heard_up_to_what_was_taken() {
        let (sender, mut inputs) = mpsc::channel(8);
        let open = || UdpDoor::open("127.0.0.1:0".parse().unwrap(), UdpOptions::default(), sender.clone()).unwrap();
        let (flooded, honest) = (open(), open());
        let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let clock = Clock::start();
        // The kernel puts times on packets a moment after the first socket has asked for it; until then they are told
        // the time at which they are read.
        std::thread::sleep(Duration::from_millis(200));
        for _ in 0..2 * MOST_OF_ONE {
            stranger.send_to(b"noise", flooded.local()).unwrap();
        }
        // The readers fill the channel, and wait with empty hands.
        while inputs.len() < inputs.max_capacity() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.send_to(b"answer", honest.local()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let answered = clock.now();
        let Waiting { inputs: found, heard } = waiting(&mut inputs, [&flooded, &honest], clock);
        let from = |wanted: &std::net::UdpSocket| {
            let wanted = wanted.local_addr().unwrap();
            found.iter().filter(|input| matches!(input, UdpInput::Datagram { remote, .. } if *remote == wanted)).count()
        };
        assert_eq!(from(&server), 1, "the answer stands behind the flood of another socket");
        assert_eq!(from(&stranger), 8 + MOST_OF_ONE);
        assert!(heard < answered, "half of the flood was not handed in: it is not heard");
        let rest = waiting(&mut inputs, [&flooded, &honest], clock);
        assert_eq!(rest.inputs.len(), MOST_OF_ONE - 8);
        assert!(rest.heard >= answered, "now it is");
    }

    /// One connection, whose other end writes as fast as it is read until the flag is set.
    async fn talker(inputs: mpsc::Sender<StreamInput>) -> (Streams, Arc<AtomicBool>, std::thread::JoinHandle<()>) {
        let mut streams = Streams::new(inputs, ClientTls::default());
        let address = streams.listen("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let quiet = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&quiet);
        let talking = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            // Binding indications of 20 bytes, framed as RFC 4571 has it.
            let mut message = vec![0, 20, 0, 0x11, 0, 0, 0x21, 0x12, 0xA4, 0x42];
            message.extend([7; 12]);
            let many = message.repeat(500);
            let mut sent = 0;
            while !until.load(Ordering::Relaxed) {
                // A message is never broken off: the next write goes on where this one ended.
                sent += stream.write(&many[sent % many.len()..]).unwrap_or(0);
            }
        });
        (streams, quiet, talking)
    }

    #[tokio::test]
    async fn who_talks_on_a_connection_delays_no_timer() {
        let (sender, mut inputs) = mpsc::channel(1024);
        let (mut streams, quiet, talking) = talker(sender).await;
        let started = Instant::now();
        while inputs.len() < 100 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(started.elapsed() < Duration::from_secs(20), "it does not talk");
        }
        let mut taken = Duration::ZERO;
        for _ in 0..20 {
            while inputs.try_recv().is_ok() {}
            let due = Instant::now();
            readers_have_run(due, &mut streams).await;
            taken += due.elapsed();
        }
        // It was 50 ms for each.
        assert!(taken < Duration::from_millis(500), "{taken:?} for 20 timers that were not late");
        // Late ones, with a channel that is full: nothing more could be read.
        while !streams.are_full() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        taken = Duration::ZERO;
        for _ in 0..10 {
            let began = Instant::now();
            let Some(due) = began.checked_sub(Duration::from_secs(1)) else { continue };
            readers_have_run(due, &mut streams).await;
            taken += began.elapsed();
        }
        assert!(taken < Duration::from_millis(300), "{taken:?} for 10 timers that were late");
        quiet.store(true, Ordering::Relaxed);
        drop(streams);
        talking.join().unwrap();
    }

    #[tokio::test]
    async fn bytes_that_came_with_the_timer_are_read_before_it_passes() {
        let (sender, mut inputs) = mpsc::channel(1024);
        let mut streams = Streams::new(sender, ClientTls::default());
        let address = streams.listen("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        while !matches!(inputs.recv().await, Some(StreamInput::Accepted { .. })) {}
        let mut message = vec![0, 20, 0, 0x11, 0, 0, 0x21, 0x12, 0xA4, 0x42];
        message.extend([7; 12]);
        stream.write_all(&message).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while !streams.unread().any() {
            assert!(Instant::now() < until, "it does not arrive");
        }
        readers_have_run(Instant::now(), &mut streams).await;
        assert!(matches!(inputs.try_recv(), Ok(StreamInput::Message { .. })));
    }
}
