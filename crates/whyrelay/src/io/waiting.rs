//! What waits in sockets when a timer fires late.
//!
//! A process that stood still (a busy machine, SIGSTOP, a laptop's sleep) finds its timers over and its answers unread.
//! Whoever looked at the clock first would call an answer missing that was there in time. So before a driver tells a
//! machine that its time has come, it handles what waits here, at a time just before the deadline ([`before`]).

use std::collections::VecDeque;

use tokio::sync::mpsc;
use whyrelay_core::time::Timestamp;

use super::udp::{UdpDoor, UdpInput};

/// Inputs that are taken at once: a flood must not keep the timers from their turn.
const MOST: usize = 1024;

/// Datagrams that are taken out of one socket, a part of [`MOST`].
const MOST_OF_ONE: usize = 128;

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

/// The last moment before a deadline.
pub fn before(deadline: Timestamp) -> Timestamp {
    Timestamp::from_micros(deadline.as_micros().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::udp::UdpOptions;

    #[tokio::test]
    async fn what_waits_is_taken_before_a_reader_has_run_and_a_flood_has_an_end() {
        let (sender, mut inputs) = mpsc::channel(8);
        let door = UdpDoor::open("127.0.0.1:0".parse().unwrap(), UdpOptions::default(), sender).unwrap();
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(waiting(&mut inputs, [&door]).is_empty());
        // Nothing is awaited here, so no reader has its turn: the process stands still.
        for number in 0..=MOST_OF_ONE {
            other.send_to(&number.to_be_bytes(), door.local()).unwrap();
        }
        let taken = waiting(&mut inputs, [&door]);
        assert_eq!(taken.len(), MOST_OF_ONE);
        for (number, input) in taken.iter().enumerate() {
            let UdpInput::Datagram { remote, bytes, .. } = input else { panic!("a datagram, not {input:?}") };
            assert_eq!((*remote, &bytes[..]), (other.local_addr().unwrap(), &number.to_be_bytes()[..]));
        }
        assert_eq!(waiting(&mut inputs, [&door]).len(), 1);
    }
}
