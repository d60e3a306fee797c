//! What waits in sockets and connections when a timer fires late.
//!
//! A process that stood still (a busy machine, SIGSTOP, a laptop's sleep) finds its timers over and its answers unread.
//! Whoever looked at the clock first would call an answer missing that was there in time. So a driver that finds a timer
//! over does this, in this order: it notes the time; lets the readers of its connections have their turn
//! ([`readers_have_run`]); hands in everything that waits, each with the moment when it arrived
//! ([`whyrelay_core::time::Now::ahead_of_timers`]); and then lets the timer pass, up to the noted time
//! ([`whyrelay_core::time::Now::timers`]).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::stream::Streams;
use super::udp::{UdpDoor, UdpInput};

/// Inputs of a kind that are taken at once: a flood must not keep the timers from their turn.
pub const MOST: usize = 1024;

/// Datagrams and errors that are taken out of one socket, a part of [`MOST`].
const MOST_OF_ONE: usize = 128;

/// A timer that fires so much too late is one of a process that stood still.
const STOOD_STILL: Duration = Duration::from_millis(20);

/// Readers of connections, and threads that look names up, get so much time to hand over what they have, …
const AT_LEAST: Duration = Duration::from_millis(2);

/// … and so much while a connection has bytes that nobody has read. A flood must not keep the timers from their turn.
const AT_MOST: Duration = Duration::from_millis(50);

/// Takes what the readers have read, then what is still in the sockets.
pub fn waiting<'a>(
    inputs: &mut mpsc::Receiver<UdpInput>,
    doors: impl IntoIterator<Item = &'a UdpDoor>,
) -> VecDeque<UdpInput> {
    let mut waiting: VecDeque<UdpInput> = std::iter::from_fn(|| inputs.try_recv().ok()).take(MOST).collect();
    let mut buffer = Vec::new();
    for door in doors {
        let room = MOST.saturating_sub(waiting.len()).min(MOST_OF_ONE);
        door.take_waiting(room, &mut buffer, &mut waiting);
    }
    waiting
}

/// Returns once the tasks and threads that read for a driver have had their turn: at once, if it is not late and no
/// connection has bytes that nobody has read.
pub async fn readers_have_run(deadline: Instant, streams: &mut Streams) {
    let started = Instant::now();
    if started < deadline + STOOD_STILL && !streams.are_unread() {
        return;
    }
    loop {
        tokio::time::sleep(AT_LEAST).await;
        if !streams.are_unread() || started.elapsed() >= AT_MOST {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::udp::UdpOptions;

    /// Takes what waits until so much has been taken. Nothing is awaited, so no reader has its turn: the process stands
    /// still. What the kernel has accepted for a socket on this host may still take a moment.
    fn take(inputs: &mut mpsc::Receiver<UdpInput>, door: &UdpDoor, count: usize) -> (Vec<UdpInput>, usize) {
        let (mut taken, mut largest) = (Vec::new(), 0);
        let until = Instant::now() + Duration::from_secs(20);
        while taken.len() < count && Instant::now() < until {
            let new = waiting(inputs, [door]);
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
        assert!(waiting(&mut inputs, [&door]).is_empty());
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
}
