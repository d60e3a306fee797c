//! str0m meeting itself over loopback UDP: two threads, each with its socket, descriptions handed over directly.
//!
//! `bench-peer-str0m open` ends when the channel is open; `bench-peer-str0m throughput` then sends reliable messages
//! of 16 KiB for three seconds and prints what arrived.

use std::error::Error;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use str0m::channel::ChannelId;
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const MESSAGE: usize = 16 * 1024;
/// What is handed to str0m before it has been sent: with more it gets slower.
const AHEAD: usize = 128 * 1024;
const SENDING: Duration = Duration::from_secs(3);

/// Either side is done.
static DONE: AtomicBool = AtomicBool::new(false);

struct Side {
    rtc: Rtc,
    socket: UdpSocket,
    channel: Option<ChannelId>,
    received: usize,
}

impl Side {
    fn new() -> Outcome<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let mut rtc = Rtc::new(Instant::now());
        rtc.add_local_candidate(Candidate::host(socket.local_addr()?, "udp")?);
        Ok(Self { rtc, socket, channel: None, received: 0 })
    }

    /// Does what is due, then waits for a datagram until the next timer.
    fn step(&mut self) -> Outcome<()> {
        let until = loop {
            match self.rtc.poll_output()? {
                Output::Transmit(datagram) => {
                    self.socket.send_to(&datagram.contents, datagram.destination)?;
                }
                Output::Event(Event::ChannelOpen(id, _)) => self.channel = Some(id),
                Output::Event(Event::ChannelData(data)) => self.received += data.data.len(),
                Output::Event(_) => {}
                Output::Timeout(at) => break at,
            }
        };
        let wait = until.saturating_duration_since(Instant::now()).clamp(Duration::from_micros(1), SENDING / 10);
        self.socket.set_read_timeout(Some(wait))?;
        let mut buffer = [0; 2000];
        match self.socket.recv_from(&mut buffer) {
            Ok((len, source)) => {
                let destination = self.socket.local_addr()?;
                let received = Receive::new(Protocol::Udp, source, destination, &buffer[..len])?;
                self.rtc.handle_input(Input::Receive(Instant::now(), received))?;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.rtc.handle_input(Input::Timeout(Instant::now()))?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn send(&mut self, message: &[u8]) -> Outcome<()> {
        let Some(mut channel) = self.channel.and_then(|id| self.rtc.channel(id)) else { return Ok(()) };
        while channel.buffered_amount() < AHEAD && channel.write(true, message)? {}
        Ok(())
    }
}

fn main() -> Outcome<()> {
    let begun = Instant::now();
    let throughput = std::env::args().nth(1).is_some_and(|mode| mode == "throughput");
    str0m::crypto::from_feature_flags().install_process_default();
    let (mut left, mut right) = (Side::new()?, Side::new()?);
    let mut change = left.rtc.sdp_api();
    change.add_channel("bench".into());
    let (offer, pending) = change.apply().ok_or("no offer")?;
    let answer = right.rtc.sdp_api().accept_offer(offer)?;
    left.rtc.sdp_api().accept_answer(pending, answer)?;

    let receiver = std::thread::spawn(move || -> Outcome<(usize, Duration)> {
        let mut first = None;
        while !DONE.load(Ordering::Relaxed) {
            right.step()?;
            if right.received > 0 {
                first.get_or_insert_with(Instant::now);
            }
        }
        Ok((right.received, first.map_or(SENDING, |first| first.elapsed())))
    });
    while left.channel.is_none() {
        left.step()?;
    }
    println!("the channel is open after {:.1} ms", begun.elapsed().as_secs_f64() * 1000.0);
    if throughput {
        let message = vec![0; MESSAGE];
        let start = Instant::now();
        while start.elapsed() < SENDING {
            left.send(&message)?;
            left.step()?;
        }
    }
    DONE.store(true, Ordering::Relaxed);
    let (received, took) = receiver.join().map_err(|_| "the receiver panicked")??;
    if throughput {
        println!("{:.1} Mbit/s", received as f64 * 8.0 / took.as_secs_f64() / 1e6);
    }
    Ok(())
}
