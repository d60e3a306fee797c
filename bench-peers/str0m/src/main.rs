//! str0m meeting itself over loopback UDP: two threads, each with its socket, descriptions handed over directly.
//!
//! `bench-peer-str0m throughput` sends reliable messages of 16 KiB for three seconds and prints what arrived.
//! `bench-peer-str0m offerer|answerer SERVER ADDRESS` is one peer of two, which meet over a signaling server as ours do
//! and end soon after the channel is open.

mod signaling;

use std::error::Error;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use str0m::change::{SdpAnswer, SdpOffer};
use str0m::channel::ChannelId;
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const MESSAGE: usize = 16 * 1024;
/// What is handed to str0m before it has been sent: with more it gets slower.
const AHEAD: usize = 128 * 1024;
const SENDING: Duration = Duration::from_secs(3);
const LINGER: Duration = Duration::from_millis(300);
/// The peers of every bench are called so.
const OFFERER: &str = "offer-peer-1";
const ANSWERER: &str = "answer-peer-1";

/// Either side is done.
static DONE: AtomicBool = AtomicBool::new(false);

struct Side {
    rtc: Rtc,
    socket: UdpSocket,
    channel: Option<ChannelId>,
    received: usize,
}

impl Side {
    fn new(address: &str) -> Outcome<Self> {
        let socket = UdpSocket::bind((address, 0))?;
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

    /// Runs until the channel is open, says so, and stays for the other side to get there.
    fn open(&mut self) -> Outcome<()> {
        while self.channel.is_none() {
            self.step()?;
        }
        println!("the channel is open");
        let end = Instant::now() + LINGER;
        while Instant::now() < end {
            self.step()?;
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
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    str0m::crypto::from_feature_flags().install_process_default();
    match arguments[..] {
        ["throughput"] => throughput(),
        ["offerer", server, address] => offer(server, address),
        ["answerer", server, address] => answer(server, address),
        _ => Err("throughput, or offerer or answerer with SERVER ADDRESS".into()),
    }
}

fn offer(server: &str, address: &str) -> Outcome<()> {
    let mut side = Side::new(address)?;
    let mut answers = signaling::receive(server, OFFERER, "answer")?;
    let mut change = side.rtc.sdp_api();
    change.add_channel("bench".into());
    let (offer, pending) = change.apply().ok_or("no offer")?;
    signaling::send(server, "offer", OFFERER, ANSWERER, &offer.to_sdp_string())?;
    let answer = SdpAnswer::from_sdp_string(&answers.next()?)?;
    side.rtc.sdp_api().accept_answer(pending, answer)?;
    side.open()
}

fn answer(server: &str, address: &str) -> Outcome<()> {
    let mut offers = signaling::receive(server, ANSWERER, "offer")?;
    let offer = SdpOffer::from_sdp_string(&offers.next()?)?;
    let mut side = Side::new(address)?;
    let answer = side.rtc.sdp_api().accept_offer(offer)?;
    signaling::send(server, "answer", ANSWERER, OFFERER, &answer.to_sdp_string())?;
    side.open()
}

fn throughput() -> Outcome<()> {
    let (mut left, mut right) = (Side::new("127.0.0.1")?, Side::new("127.0.0.1")?);
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
    let message = vec![0; MESSAGE];
    let start = Instant::now();
    while start.elapsed() < SENDING {
        left.send(&message)?;
        left.step()?;
    }
    DONE.store(true, Ordering::Relaxed);
    let (received, took) = receiver.join().map_err(|_| "the receiver panicked")??;
    println!("{:.1} Mbit/s", received as f64 * 8.0 / took.as_secs_f64() / 1e6);
    Ok(())
}
