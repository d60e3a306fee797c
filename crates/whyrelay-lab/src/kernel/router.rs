//! A user-space router: a thread between two TUN devices that translates with the core's own `nat::table`.
//!
//! The kernel of the router's namespace routes what comes from the inside to `natin` and what comes from the outside
//! for a translated address to `natout`; here it is translated and written to the other device, from which the kernel
//! routes it on. The kernel answers ARP, counts hops and sends ICMP errors. IPv6 is never translated and does not
//! come here.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use whyrelay_core::nat::table::Table;
use whyrelay_core::time::Timestamp;

use super::packet::{Carried, Parsed, parse};
use super::tun::{Device, OFFLOAD_HEADER, needs_checksum};
use crate::alg;
use crate::port_mapping::Change;
use crate::scenario::file::Alg;

/// The device that leads to the inside.
pub(crate) const INSIDE: &str = "natin";
/// The device that leads to the outside.
pub(crate) const OUTSIDE: &str = "natout";

/// Packets taken from one device before the other has its turn.
const BATCH: usize = 64;
/// The largest packet with offloading.
const LARGEST: usize = OFFLOAD_HEADER + 65_536;
/// How long a thread may take to notice that it is to end.
const NOTICE: u16 = 100;

/// Where a packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Inside,
    Outside,
}

/// The tables of one router: connections and echoes have tables of their own.
#[derive(Debug)]
pub(crate) struct Translator {
    pub(crate) udp: Table,
    pub(crate) tcp: Table,
    pub(crate) echo: Table,
    /// What it rewrites in UDP payloads.
    pub(crate) alg: Option<Alg>,
    /// Forwards that begin and end, as hosts ask for them.
    pub(crate) changes: Option<Receiver<Change>>,
}

impl Translator {
    /// Begins and ends forwards.
    fn follow(&mut self) {
        while let Some(Ok((external, internal))) = self.changes.as_ref().map(Receiver::try_recv) {
            self.udp.forward(external, internal);
        }
    }

    /// Translates a packet in place; answers where it goes on, nothing when it is dropped.
    fn translate(&mut self, now: Timestamp, from: Side, packet: &mut [u8], partial: bool) -> Option<Side> {
        let parsed = parse(packet, 0)?;
        if let Carried::Error(quoted) = parsed.carried {
            return self.translate_error(from, packet, parsed, parse(packet, quoted)?);
        }
        let table = self.table(parsed.carried)?;
        let (source, destination) = (parsed.source, remote(parsed.destination, parsed.carried));
        let to = match from {
            Side::Inside if table.is_external(destination.ip()) => {
                let (source, destination) = table.hairpin(now, source, parsed.destination)?;
                parsed.set_source(packet, source, partial);
                parsed.set_destination(packet, destination, partial);
                Side::Inside
            }
            Side::Inside => {
                let external = table.outbound(now, source, destination)?;
                parsed.set_source(packet, external, partial);
                Side::Outside
            }
            Side::Outside => {
                let source = remote(source, parsed.carried);
                let internal = table.inbound(now, source, parsed.destination)?;
                parsed.set_destination(packet, internal, partial);
                Side::Inside
            }
        };
        if let (Some(alg), Carried::Udp) = (self.alg, parsed.carried) {
            let after = parse(packet, 0)?;
            let (old, new) = match to {
                Side::Outside => (parsed.source, after.source),
                Side::Inside => (parsed.destination, after.destination),
            };
            parsed.rewrite_udp(packet, partial, |payload| alg::rewrite(payload, alg, old.ip(), new.ip()));
        }
        parsed.give_back_hop(packet);
        Some(to)
    }

    /// An error about a packet that went the other way: what it quotes is turned back, too (RFC 5508 §4.2).
    fn translate_error(&self, from: Side, packet: &mut [u8], error: Parsed, quoted: Parsed) -> Option<Side> {
        let table = match quoted.carried {
            Carried::Udp => &self.udp,
            Carried::Tcp => &self.tcp,
            Carried::Echo => &self.echo,
            Carried::Error(_) => return None,
        };
        let to = match from {
            // The quoted packet went out: from the external address to the far end.
            Side::Outside => {
                let internal = table.internal_of(quoted.source, remote(quoted.destination, quoted.carried))?;
                quoted.set_source(packet, internal, false);
                error.set_destination(packet, SocketAddr::new(internal.ip(), 0), false);
                Side::Inside
            }
            // The quoted packet came in: from the far end to the internal address.
            Side::Inside => {
                let far = remote(quoted.source, quoted.carried);
                let external = table.external_of(quoted.destination, far)?;
                quoted.set_destination(packet, external, false);
                error.set_source(packet, SocketAddr::new(external.ip(), 0), false);
                Side::Outside
            }
        };
        error.seal_icmp(packet);
        error.give_back_hop(packet);
        Some(to)
    }

    const fn table(&mut self, carried: Carried) -> Option<&mut Table> {
        match carried {
            Carried::Udp => Some(&mut self.udp),
            Carried::Tcp => Some(&mut self.tcp),
            Carried::Echo => Some(&mut self.echo),
            Carried::Error(_) => None,
        }
    }
}

/// The far end as a table knows it: an echo's identifier belongs to the near end alone.
const fn remote(address: SocketAddr, carried: Carried) -> SocketAddr {
    match (carried, address.ip()) {
        (Carried::Echo, IpAddr::V4(ip)) => SocketAddr::new(IpAddr::V4(ip), 0),
        _ => address,
    }
}

/// A router's thread; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Router {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Router {
    /// Starts it between its two devices.
    pub(crate) fn start(mut translator: Translator, inside: Device, outside: Device) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("lab router".to_owned()).spawn(move || {
            let clock = Clock::new();
            let mut buffer = vec![0; LARGEST];
            while !stopped.load(Ordering::Relaxed) {
                wait(&inside, &outside);
                translator.follow();
                for from in [Side::Inside, Side::Outside] {
                    let device = if from == Side::Inside { &inside } else { &outside };
                    for _ in 0..BATCH {
                        let Some(length) = device.read(&mut buffer) else { break };
                        let Some((header, packet)) = buffer[..length].split_at_mut_checked(OFFLOAD_HEADER) else {
                            continue;
                        };
                        let partial = needs_checksum(header);
                        match translator.translate(clock.now(), from, packet, partial) {
                            Some(Side::Inside) => inside.write(&buffer[..length]),
                            Some(Side::Outside) => outside.write(&buffer[..length]),
                            None => {}
                        }
                    }
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wait(one: &Device, other: &Device) {
    let mut both = [PollFd::new(one.as_fd(), PollFlags::POLLIN), PollFd::new(other.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut both, PollTimeout::from(NOTICE));
}

/// Time as the core wants it: anchored once, then monotonic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    anchor: Timestamp,
    began: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { anchor: Timestamp::from_micros(since.as_micros() as u64), began: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.anchor + self.began.elapsed()
    }
}
