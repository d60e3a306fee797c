//! How fast virtual time and the diagnosis are; `cargo xtask bench lab-virtual` runs it. Each line: a name and seconds, of
//! the clock (`NAME-wall`) or of the processor. All of it is done by one thread, so that what else the machine does is in
//! the former only.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::diagnosis::rules::diagnose;
use whyrelay_core::diagnosis::session::Session;
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{Datagram, Event, EventKind, Transport};
use whyrelay_lab::accuracy::{SEED, tally};
use whyrelay_lab::fuzz::Kind;
use whyrelay_lab::matrix::{cells, run_cell};
use whyrelay_lab::run::run_virtual;
use whyrelay_lab::scenario::Scenario;

/// Random worlds, on one core.
const WORLDS: u64 = 10_000;

/// Events of the large recordings, both sides together.
const LARGE: usize = 100_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let begun = Begun::now()?;
    for (a, b, first) in cells() {
        run_cell(a, b, first, 1)?;
    }
    begun.tell("matrix")?;

    // The scenario whose verdict takes longest to work out decides.
    let (mut slowest, mut count) = (0.0_f64, 0);
    for (name, text) in Scenario::embedded() {
        let scenario = Scenario::parse(name, text)?;
        if whyrelay_lab::run::cannot_virtually(&scenario.topology).is_none() {
            let events = run_virtual(&scenario.topology).events;
            slowest = slowest.max(verdict(&events));
            count += 1;
        }
    }
    eprintln!("{count} scenarios");
    println!("verdict {slowest:.6}");
    let many = run_virtual(&Scenario::find("many-bridges")?.topology).events;
    let large = grown(&many, LARGE);
    println!("verdict-large {:.6}", verdict(&large));
    let begun = Instant::now();
    let report = Report::from_events(&large);
    println!("account-large {:.6}", begun.elapsed().as_secs_f64());
    eprintln!("{} events, {} pairs", large.len(), report.pairs.len());

    let begun = Begun::now()?;
    tally(Kind::Faults(1), SEED, WORLDS, 1)?;
    begun.tell("worlds")?;
    Ok(())
}

/// When something began, by both clocks.
struct Begun {
    at: Instant,
    processor: Duration,
}

impl Begun {
    fn now() -> nix::Result<Self> {
        Ok(Self { processor: processor_time()?, at: Instant::now() })
    }

    fn tell(&self, name: &str) -> nix::Result<()> {
        println!("{name} {:.3}", (processor_time()? - self.processor).as_secs_f64());
        println!("{name}-wall {:.3}", self.at.elapsed().as_secs_f64());
        Ok(())
    }
}

/// What this process has used so far, in the kernel as well.
fn processor_time() -> nix::Result<Duration> {
    let used = getrusage(UsageWho::RUSAGE_SELF)?;
    let duration = |time: TimeVal| {
        Duration::new(time.tv_sec().unsigned_abs(), 0) + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    Ok(duration(used.user_time()) + duration(used.system_time()))
}

/// Seconds from the last event to the verdict: a live session has folded its events by then.
fn verdict(events: &[Event]) -> f64 {
    let evidence = Evidence::of(events);
    let begun = Instant::now();
    std::hint::black_box(diagnose(&Session::of(&evidence)));
    begun.elapsed().as_secs_f64()
}

/// A recording made as large as that of a long session: its checks again and again, with transactions of their own.
fn grown(events: &[Event], size: usize) -> Vec<Event> {
    let mut grown = events.to_vec();
    let mut last: [u64; 2] = [0, 0];
    for event in events {
        let side = event.vantage as usize;
        last[side] = last[side].max(event.seq);
    }
    let udp: Vec<&Event> = events
        .iter()
        .filter(|event| matches!(&event.kind, EventKind::Datagram(datagram) if datagram.transport == Transport::Udp && datagram.data.len() > 28))
        .collect();
    let mut round = 0_u32;
    while grown.len() < size && !udp.is_empty() {
        round += 1;
        for event in &udp {
            let EventKind::Datagram(datagram) = &event.kind else { continue };
            let side = event.vantage as usize;
            last[side] += 2;
            let mut copy = (*event).clone();
            copy.seq = last[side];
            copy.kind = EventKind::Datagram(again(datagram, round));
            grown.push(copy);
        }
    }
    grown
}

/// The same message as another transaction. FINGERPRINT, which comes last, would no longer match and goes.
fn again(datagram: &Datagram, round: u32) -> Datagram {
    let mut copy = datagram.clone();
    let length = copy.data.len() - 8;
    if copy.data[length..length + 4] == [0x80, 0x28, 0, 4] {
        copy.data.truncate(length);
        copy.data[2..4].copy_from_slice(&((length - 20) as u16).to_be_bytes());
    }
    copy.data[16..20].copy_from_slice(&round.to_be_bytes());
    copy
}
