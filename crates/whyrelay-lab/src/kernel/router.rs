//! A user-space router: a thread between two TUN devices that translates with the core's own `nat::table`.
//!
//! The kernel of the router's namespace routes what comes from the inside to `natin` and what comes from the outside
//! for a translated address to `natout`; here it is translated and written to the other device, from which the kernel
//! routes it on. The kernel answers ARP, counts hops and sends ICMP errors. IPv6 is never translated and does not
//! come here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use whyrelay_core::nat::table::Table;
use whyrelay_core::time::Timestamp;

use super::packet::{Carried, Fragment, FragmentKey, Parsed, fragment, parse, readdress};
use super::tun::{Device, OFFLOAD_HEADER, needs_checksum};
use crate::alg;
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

/// How long the rest of a fragmented packet is waited for (Linux: ipfrag_time).
const FRAGMENTS_KEPT: Duration = Duration::from_secs(30);
/// How many fragmented packets may be under way.
const MOST_FRAGMENTED: usize = 256;

/// Where a packet comes from, or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// What is not let in is a packet to the router itself (`unsolicited = "tracked"`): the kernel answers it, as it does
    /// on a router of nftables.
    pub(crate) accepts_input: bool,
    /// Packets whose first fragment has passed.
    pub(crate) fragments: Fragments,
}

/// The one of a router's thread and of the thread that maps ports on it.
pub(crate) type SharedTranslator = Arc<Mutex<Translator>>;

/// Nothing in a translator is half done when a thread ends that has it.
pub(crate) fn lock(translator: &SharedTranslator) -> MutexGuard<'_, Translator> {
    translator.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Translator {
    /// Translates a packet in place; answers where it goes on, nothing when it is dropped.
    fn translate(&mut self, now: Timestamp, from: Side, packet: &mut [u8], partial: bool) -> Option<Side> {
        let Some(part) = fragment(packet) else { return self.translate_whole(now, from, packet, partial, true) };
        if !part.is_first {
            let Passed { to, source, destination, .. } = self.fragments.next(now, from, part)?;
            readdress(packet, source, destination);
            return Some(to);
        }
        // Its payload is not all of it: nothing is rewritten there.
        let to = self.translate_whole(now, from, packet, partial, false)?;
        let after = parse(packet, 0)?;
        let (source, destination) = (after.source.ip(), after.destination.ip());
        self.fragments.first(from, part, Passed { ends: now + FRAGMENTS_KEPT, to, source, destination });
        Some(to)
    }

    fn translate_whole(
        &mut self,
        now: Timestamp,
        from: Side,
        packet: &mut [u8],
        partial: bool,
        rewrites: bool,
    ) -> Option<Side> {
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
                let Some(internal) = table.inbound(now, source, parsed.destination) else {
                    // Written where it came from, it is one to an address of the router's own.
                    return self.accepts_input.then_some(Side::Outside);
                };
                parsed.set_destination(packet, internal, partial);
                Side::Inside
            }
        };
        if let (Some(alg), Carried::Udp) = (self.alg.filter(|_| rewrites), parsed.carried) {
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

/// Packets that come in fragments: only the first has ports, and the others follow it. The kernel in front puts packets
/// together and takes them apart again (its connection tracking does), so that the first comes first.
#[derive(Debug, Default)]
pub(crate) struct Fragments {
    passed: BTreeMap<(Side, FragmentKey), Passed>,
}

/// Where the first fragment of a packet went on, and with which addresses.
#[derive(Clone, Copy, Debug)]
struct Passed {
    ends: Timestamp,
    to: Side,
    source: IpAddr,
    destination: IpAddr,
}

impl Fragments {
    /// Remembers the way of a first fragment. Where too many are under way, what follows it is lost.
    fn first(&mut self, from: Side, part: Fragment, passed: Passed) {
        if self.passed.len() >= MOST_FRAGMENTED {
            // `ends` was reckoned from now.
            self.passed.retain(|_, kept| kept.ends + FRAGMENTS_KEPT > passed.ends);
        }
        if self.passed.len() < MOST_FRAGMENTED {
            self.passed.insert((from, part.key), passed);
        }
    }

    /// The way of the first fragment of the packet that this one is of.
    fn next(&mut self, now: Timestamp, from: Side, part: Fragment) -> Option<Passed> {
        let key = (from, part.key);
        let passed = self.passed.get(&key).copied().filter(|passed| passed.ends > now);
        if part.is_last {
            self.passed.remove(&key);
        }
        passed
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
    pub(crate) fn start(translator: SharedTranslator, inside: Device, outside: Device) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("lab router".to_owned()).spawn(move || {
            let clock = Clock::new();
            let mut buffer = vec![0; LARGEST];
            while !stopped.load(Ordering::Relaxed) {
                wait(&inside, &outside);
                let mut translator = lock(&translator);
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

#[cfg(test)]
mod tests {
    use whyrelay_core::nat::behavior::{Behavior, FilteringBehavior, MappingBehavior, Unsolicited};
    use whyrelay_core::random::Random;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);
    const HOST: [u8; 4] = [192, 168, 1, 2];
    const ROUTER: [u8; 4] = [203, 0, 113, 1];
    const PEER: [u8; 4] = [198, 51, 100, 7];

    fn translator(accepts_input: bool) -> Translator {
        let unsolicited = if accepts_input { Unsolicited::Tracked } else { Unsolicited::Dropped };
        let behavior = Behavior {
            unsolicited,
            ports: whyrelay_core::nat::behavior::PortAllocation::Sequential,
            ..Behavior::new(MappingBehavior::EndpointIndependent, FilteringBehavior::AddressAndPortDependent)
        };
        let table = || Table::new(behavior.clone(), vec![ROUTER.into()], Random::from_number(1));
        let fragments = Fragments::default();
        Translator { udp: table(), tcp: table(), echo: table(), alg: None, accepts_input, fragments }
    }

    /// A packet of UDP in fragments of 1480 bytes: port 5000 to port 7.
    fn fragments(source: [u8; 4], destination: [u8; 4], identification: u16, length: usize) -> Vec<Vec<u8>> {
        let mut datagram = [&5000_u16.to_be_bytes()[..], &7_u16.to_be_bytes(), &[0; 4]].concat();
        datagram.resize(length, 0xAB);
        let parts = datagram.chunks(1480).enumerate();
        let whole = datagram.len();
        parts
            .map(|(number, part)| {
                let more = if number * 1480 + part.len() < whole { 0x2000 } else { 0 };
                let mut packet = vec![0x45, 0, 0, 0];
                packet.extend(identification.to_be_bytes());
                packet.extend((more | (number * 1480 / 8) as u16).to_be_bytes());
                packet.extend([63, 17, 0, 0]);
                packet.extend(source);
                packet.extend(destination);
                packet.extend(part);
                packet
            })
            .collect()
    }

    fn addresses(packet: &[u8]) -> [&[u8]; 2] {
        [&packet[12..16], &packet[16..20]]
    }

    #[test]
    fn the_fragments_of_a_packet_take_the_way_of_the_first_and_its_addresses() {
        let mut router = translator(false);
        for mut packet in fragments(HOST, PEER, 9, 4000) {
            assert_eq!(router.translate(NOW, Side::Inside, &mut packet, false), Some(Side::Outside));
            assert_eq!(addresses(&packet), [&ROUTER[..], &PEER]);
            assert_eq!(packet[8], 64, "the hop that the kernel took is given back");
            let header: u32 =
                packet[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
            assert_eq!((header & 0xFFFF) + (header >> 16), 0xFFFF, "its checksum is right");
        }
        assert!(router.fragments.passed.is_empty(), "the last one ends it");
        // Back: from the peer to the port that was given out.
        for (number, mut packet) in fragments(PEER, ROUTER, 9, 4000).into_iter().enumerate() {
            if number == 0 {
                packet[20..24].copy_from_slice(&[0, 7, 4, 0]);
            }
            assert_eq!(router.translate(NOW, Side::Outside, &mut packet, false), Some(Side::Inside));
            assert_eq!(addresses(&packet), [&PEER[..], &HOST]);
        }
    }

    #[test]
    fn a_fragment_whose_first_did_not_pass_is_dropped_and_few_are_waited_for() {
        let mut router = translator(false);
        let mut pass = |now, packet: &[u8]| router.translate(now, Side::Inside, &mut packet.to_vec(), false);
        let packet = fragments(HOST, PEER, 1, 4000);
        assert_eq!(pass(NOW, &packet[1]), None, "no first one");
        assert_eq!(pass(NOW, &packet[0]), Some(Side::Outside));
        assert_eq!(pass(NOW, &fragments(HOST, PEER, 2, 4000)[1]), None, "another packet");
        assert_eq!(pass(NOW + FRAGMENTS_KEPT, &packet[1]), None, "too late");
        let never = NOW + FRAGMENTS_KEPT;
        for identification in 0..2000 {
            pass(never, &fragments(HOST, PEER, identification, 4000)[0]);
        }
        assert!(router.fragments.passed.len() <= MOST_FRAGMENTED);
        // Those that were given up make room.
        let later = never + FRAGMENTS_KEPT * 2;
        let mut pass = |packet: &[u8]| router.translate(later, Side::Inside, &mut packet.to_vec(), false);
        let packet = fragments(HOST, PEER, 3000, 4000);
        assert_eq!((pass(&packet[0]), pass(&packet[1])), (Some(Side::Outside), Some(Side::Outside)));
        for length in 0..60 {
            let mut short = packet[1][..length.min(packet[1].len())].to_vec();
            router.translate(later, Side::Outside, &mut short, false);
        }
    }

    #[test]
    fn what_is_not_let_in_is_the_kernels_where_the_router_accepts_input_and_gone_elsewhere() {
        for (accepts_input, goes) in [(false, None), (true, Some(Side::Outside))] {
            let mut packet = fragments(PEER, ROUTER, 1, 100).remove(0);
            let before = packet.clone();
            assert_eq!(translator(accepts_input).translate(NOW, Side::Outside, &mut packet, false), goes);
            assert_eq!(packet, before);
        }
    }
}
