//! How fast a channel is without a network: two channels in one thread, each datagram handed over at once.
//!
//! `cargo run --release -p whyrelay --example channel_throughput [MiB] [KiB ahead]` prints the time until the channel
//! is open and the throughput of reliable messages of 16 KiB in Mbit/s for DTLS 1.3 and 1.2. One thread does the work
//! of both sides.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use whyrelay::channel::{Certificate, Channel, ChannelConfig, DtlsVersions, Output, sctp_init};

const MESSAGE: usize = 16 * 1024;

struct Pair {
    sides: [Channel; 2],
    wire: VecDeque<(usize, Vec<u8>)>,
    open: [bool; 2],
    received: usize,
    datagrams: u64,
}

impl Pair {
    fn new(versions: DtlsVersions, with_init: bool) -> anyhow::Result<Self> {
        let (a, b) = (Certificate::generate()?, Certificate::generate()?);
        let (of_a, of_b) = (vec![a.fingerprint().clone()], vec![b.fingerprint().clone()]);
        let mut configs = [ChannelConfig::new(false, true, a, of_b), ChannelConfig::new(true, false, b, of_a)];
        let (init_a, init_b) = (sctp_init()?, sctp_init()?);
        for config in &mut configs {
            config.versions = versions;
            config.round_trip = Some(Duration::from_micros(100));
        }
        if with_init {
            configs[0].sctp_init = Some((init_a.clone(), init_b.clone()));
            configs[1].sctp_init = Some((init_b, init_a));
        }
        let now = Instant::now();
        let [a, b] = configs;
        let sides = [Channel::new(now, a)?, Channel::new(now, b)?];
        Ok(Self { sides, wire: VecDeque::new(), open: [false; 2], received: 0, datagrams: 0 })
    }

    fn drain(&mut self, index: usize) -> Instant {
        loop {
            match self.sides[index].poll_output() {
                Output::Transmit(datagram) => self.wire.push_back((1 - index, datagram)),
                Output::Opened { .. } => self.open[index] = true,
                Output::Message { data, .. } => self.received += data.len(),
                Output::Timeout(at) => return at,
                Output::Event(_) | Output::ChannelClosed { .. } | Output::Closed => {}
            }
        }
    }

    /// Delivers what is on the wire; when that is nothing, waits for the next timer.
    fn step(&mut self) {
        let next = self.drain(0).min(self.drain(1));
        if let Some((to, datagram)) = self.wire.pop_front() {
            self.datagrams += 1;
            self.sides[to].handle_datagram(Instant::now(), &datagram);
        } else {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            for side in &mut self.sides {
                side.handle_timeout(Instant::now());
            }
        }
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let total = arguments.next().transpose()?.unwrap_or(256) << 20;
    let ahead = arguments.next().transpose()?.unwrap_or(128) << 10;
    for (name, versions) in [("DTLS 1.3", DtlsVersions::Any), ("DTLS 1.2", DtlsVersions::Only12)] {
        for with_init in [true, false] {
            let mut times: Vec<Duration> = (0..21)
                .map(|_| {
                    let start = Instant::now();
                    let mut pair = Pair::new(versions, with_init)?;
                    while pair.open != [true; 2] {
                        pair.step();
                    }
                    Ok(start.elapsed())
                })
                .collect::<anyhow::Result<_>>()?;
            times.sort_unstable();
            let how = if with_init { "a=sctp-init" } else { "INIT on the path" };
            println!("{name}, {how}: certificates to both open, median of 21: {:?}", times[10]);
        }
        let mut pair = Pair::new(versions, true)?;
        while pair.open != [true; 2] {
            pair.step();
        }
        let message = vec![0; MESSAGE];
        let (start, mut sent) = (Instant::now(), 0);
        while pair.received < total {
            while sent < total && pair.sides[0].buffered_amount(1) < ahead {
                pair.sides[0].send_message(Instant::now(), 1, true, &message)?;
                sent += MESSAGE;
            }
            pair.step();
        }
        let seconds = start.elapsed().as_secs_f64();
        let megabits = pair.received as f64 * 8.0 / seconds / 1e6;
        println!(
            "{name}: {} MiB, {} KiB ahead: {megabits:.0} Mbit/s, {} datagrams",
            total >> 20,
            ahead >> 10,
            pair.datagrams
        );
    }
    Ok(())
}
