//! Two channels back to back in memory, over a path that delays, loses, doubles, reorders and invents datagrams.

use std::collections::BTreeMap;

use whyrelay_core::random::Random;
use whyrelay_core::sdp::{Fingerprint, SessionDescription};

use super::*;

/// One side with what it has told.
pub(super) struct Side {
    pub(super) channel: Channel,
    pub(super) events: Vec<EventKind>,
    pub(super) opened: Vec<(u16, String)>,
    pub(super) messages: Vec<(bool, Vec<u8>)>,
    pub(super) closed: bool,
    pub(super) sent: usize,
    pub(super) largest: usize,
    deadline: Instant,
}

impl Side {
    fn new(channel: Channel, now: Instant) -> Self {
        let (events, opened, messages) = (vec![], vec![], vec![]);
        Self { channel, events, opened, messages, closed: false, sent: 0, largest: 0, deadline: now }
    }

    fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        loop {
            match self.channel.poll_output() {
                Output::Transmit(datagram) => {
                    self.sent += 1;
                    self.largest = self.largest.max(datagram.len());
                    datagrams.push(datagram);
                }
                Output::Event(event) => self.events.push(event),
                Output::Opened { channel, label } => self.opened.push((channel, label)),
                Output::Message { binary, data, .. } => self.messages.push((binary, data)),
                Output::ChannelClosed { channel } => self.opened.retain(|(open, _)| *open != channel),
                Output::Closed => self.closed = true,
                Output::Timeout(deadline) => {
                    self.deadline = deadline;
                    return datagrams;
                }
            }
        }
    }

    pub(super) fn dtls_states(&self) -> Vec<&DtlsState> {
        self.events
            .iter()
            .filter_map(|event| if let EventKind::Dtls { state } = event { Some(state) } else { None })
            .collect()
    }
}

/// What the path does to datagrams, in percent.
#[derive(Clone, Copy, Default)]
pub(super) struct Path {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) loss: u64,
    pub(super) double: u64,
    pub(super) garbage: u64,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) sides: [Side; 2],
    pub(super) path: Path,
    random: Random,
    in_flight: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    serial: u64,
}

pub(super) fn configs(answerer_is_client: bool) -> [ChannelConfig; 2] {
    let (a, b) = (Certificate::generate().unwrap(), Certificate::generate().unwrap());
    let fingerprints = [vec![b.fingerprint().clone()], vec![a.fingerprint().clone()]];
    let [of_b, of_a] = fingerprints;
    [ChannelConfig::new(!answerer_is_client, true, a, of_b), ChannelConfig::new(answerer_is_client, false, b, of_a)]
}

impl World {
    pub(super) fn new(seed: u64, path: Path, configs: [ChannelConfig; 2]) -> Self {
        let now = Instant::now();
        let sides = configs.map(|config| Side::new(Channel::new(now, config).unwrap(), now));
        let random = Random::from_number(seed);
        let mut world = Self { now, sides, path, random, in_flight: BTreeMap::new(), serial: 0 };
        world.collect();
        world
    }

    pub(super) fn collect(&mut self) {
        for from in 0..2 {
            for datagram in self.sides[from].drain() {
                if self.random.below(100) < self.path.garbage {
                    let junk: Vec<u8> = (0..self.random.below(4)).flat_map(|_| self.random.bytes::<32>()).collect();
                    self.launch(1 - from, junk);
                    // Once keys protect the records, damaged ones too. (The first flights have no protection: who can
                    // forge a ClientHello on the path can stop any handshake.)
                    if self.both_open() {
                        let mut damaged = datagram.clone();
                        let at = self.random.below(damaged.len() as u64) as usize;
                        damaged[at] ^= 1 << self.random.below(8);
                        self.launch(1 - from, damaged);
                    }
                }
                if self.random.below(100) < self.path.double {
                    self.launch(1 - from, datagram.clone());
                }
                if self.random.below(100) >= self.path.loss {
                    self.launch(1 - from, datagram);
                }
            }
        }
    }

    fn launch(&mut self, to: usize, datagram: Vec<u8>) {
        let jitter = Duration::from_micros(self.random.below(self.path.jitter.as_micros() as u64 + 1));
        self.serial += 1;
        self.in_flight.insert((self.now + self.path.delay + jitter, self.serial), (to, datagram));
    }

    /// One step: the next datagram or deadline. False when nothing would happen before `until`.
    pub(super) fn step(&mut self, until: Instant) -> bool {
        let arrival = self.in_flight.keys().next().map(|(at, _)| *at);
        let deadline = self.sides[0].deadline.min(self.sides[1].deadline);
        let next = arrival.map_or(deadline, |at| at.min(deadline));
        if next > until {
            self.now = until;
            return false;
        }
        self.now = self.now.max(next);
        if arrival == Some(next) {
            let (_, (to, datagram)) = self.in_flight.pop_first().unwrap();
            self.sides[to].channel.handle_datagram(self.now, &datagram);
        } else {
            for side in &mut self.sides {
                if side.deadline <= self.now {
                    side.channel.handle_timeout(self.now);
                }
            }
        }
        self.collect();
        true
    }

    pub(super) fn run(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + limit;
        while !done(self) {
            if !self.step(until) {
                return done(self);
            }
        }
        true
    }

    pub(super) fn both_open(&self) -> bool {
        self.sides.iter().all(|side| !side.opened.is_empty())
    }
}

#[test]
fn a_channel_opens_and_carries_messages_in_each_version_and_role() {
    let versions = [
        (DtlsVersions::Any, DtlsVersions::Any, "DTLS 1.3"),
        (DtlsVersions::Any, DtlsVersions::Only12, "DTLS 1.2"),
        (DtlsVersions::Only12, DtlsVersions::Any, "DTLS 1.2"),
        (DtlsVersions::Only12, DtlsVersions::Only12, "DTLS 1.2"),
        (DtlsVersions::Only13, DtlsVersions::Any, "DTLS 1.3"),
    ];
    for (a, b, version) in versions {
        for answerer_is_client in [true, false] {
            let mut configs = configs(answerer_is_client);
            (configs[0].versions, configs[1].versions) = (a, b);
            let path = Path { delay: Duration::from_millis(10), ..Path::default() };
            let mut world = World::new(1, path, configs);
            assert!(world.run(Duration::from_secs(1), World::both_open), "{a:?} {b:?} {answerer_is_client}");
            let stream = u16::from(answerer_is_client);
            for side in &mut world.sides {
                assert_eq!(side.opened, [(stream, "testChannel".to_owned())]);
                let connected = DtlsState::Connected { version: version.into() };
                assert_eq!(side.dtls_states()[1..], [&DtlsState::FingerprintVerified, &connected]);
            }
            let long = vec![7; 65536];
            for side in &mut world.sides {
                side.channel.send_message(world.now, stream, false, b"greeting").unwrap();
                side.channel.send_message(world.now, stream, true, &long).unwrap();
                side.channel.send_message(world.now, stream, true, b"").unwrap();
                side.channel.send_message(world.now, stream, false, b"").unwrap();
                let too_long = side.channel.send_message(world.now, stream, true, &[0; 65537]);
                assert_eq!(too_long, Err(SendError::TooLong { length: 65537, limit: 65536 }));
            }
            world.collect();
            assert!(world.run(Duration::from_secs(5), |w| w.sides.iter().all(|side| side.messages.len() == 4)));
            let expected = [(false, b"greeting".to_vec()), (true, long), (true, vec![]), (false, vec![])];
            for side in &world.sides {
                assert!(side.messages == expected);
                assert!(side.largest <= MAX_DATAGRAM, "{}", side.largest);
            }
        }
    }
}

#[test]
fn a_channel_opens_and_delivers_everything_in_order_over_a_bad_path() {
    for seed in 0..60 {
        let mut configs = configs(seed % 2 == 0);
        if seed % 3 == 0 {
            configs[1].versions = DtlsVersions::Only12;
        }
        for config in &mut configs {
            config.round_trip = Some(Duration::from_millis(40));
        }
        let path = Path {
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(15),
            loss: seed % 21,
            double: 10,
            garbage: 20,
        };
        let mut world = World::new(seed, path, configs);
        let opened = world.run(Duration::from_secs(60), World::both_open);
        assert!(opened, "seed {seed}: {:?} {:?}", world.sides[0].events, world.sides[1].events);
        let messages: Vec<Vec<u8>> = (0..40u8).map(|index| vec![index; 1 + usize::from(index) * 97]).collect();
        for message in &messages {
            for side in &mut world.sides {
                let channel = side.channel.open_channel().unwrap();
                let sent = side.channel.send_message(world.now, channel, true, message);
                assert_eq!(sent, Ok(()), "seed {seed}: {:?}", side.events);
            }
        }
        world.collect();
        let all = |w: &World| w.sides.iter().all(|side| side.messages.len() == messages.len());
        assert!(world.run(Duration::from_secs(120), all), "seed {seed}");
        for side in &world.sides {
            assert!(side.messages.iter().map(|(_, data)| data).eq(&messages), "seed {seed}");
        }
    }
}

#[test]
fn a_peer_with_another_certificate_is_refused_by_either_role_and_version() {
    for (client_lies, versions) in [
        (false, DtlsVersions::Any),
        (true, DtlsVersions::Any),
        (false, DtlsVersions::Only12),
        (true, DtlsVersions::Only12),
    ] {
        let mut configs = configs(true);
        // The answerer is client; the liar's certificate is not the one in its description.
        let (liar, victim) = if client_lies { (1, 0) } else { (0, 1) };
        configs[liar].certificate = Certificate::generate().unwrap();
        let found = configs[liar].certificate.fingerprint().to_string();
        for config in &mut configs {
            config.versions = versions;
        }
        let mut world = World::new(3, Path::default(), configs);
        assert!(world.run(Duration::from_secs(5), |w| w.sides[victim].closed));
        let states = world.sides[victim].dtls_states();
        assert_eq!(states[1], &DtlsState::FingerprintMismatch { found });
        assert!(matches!(states[2], DtlsState::Failed { .. }));
        assert_eq!(states.len(), 3);
        assert!(world.sides.iter().all(|side| side.opened.is_empty()));
    }
}

#[test]
fn any_one_of_several_fingerprints_of_any_known_hash_function_will_do() {
    use whyrelay_core::sdp::HashFunction;
    for hash in [HashFunction::Sha1, HashFunction::Sha384, HashFunction::Sha512] {
        let mut configs = configs(true);
        let der = &configs[1].certificate.inner.certificate;
        let right = Fingerprint { digest: hash.digest(der).unwrap(), hash };
        let wrong = Certificate::generate().unwrap().fingerprint().clone();
        configs[0].fingerprints = vec![wrong, right];
        let mut world = World::new(4, Path::default(), configs);
        assert!(world.run(Duration::from_secs(5), World::both_open));
    }
}

#[test]
fn without_a_peer_the_handshake_fails_in_time_and_repeats_within_its_schedule() {
    for versions in [DtlsVersions::Any, DtlsVersions::Only12] {
        let mut configs = configs(true);
        configs[1].versions = versions;
        configs[1].round_trip = Some(Duration::from_millis(1));
        let mut world = World::new(5, Path { loss: 100, ..Path::default() }, configs);
        assert!(world.run(Duration::from_secs(60), |w| w.sides[1].closed));
        let states = world.sides[1].dtls_states();
        assert_eq!(states[1], &DtlsState::Failed { detail: "the peer does not answer the DTLS handshake".into() });
        assert_eq!(world.sides[1].sent, 8);
        assert!(!world.sides[0].closed, "a server that has heard nothing keeps waiting");
    }
}

#[test]
fn closing_reaches_the_peer_in_one_way_after_all_messages() {
    for versions in [DtlsVersions::Any, DtlsVersions::Only12] {
        let mut configs = configs(true);
        configs[0].versions = versions;
        let path = Path { delay: Duration::from_millis(50), ..Path::default() };
        let mut world = World::new(6, path, configs);
        assert!(world.run(Duration::from_secs(5), World::both_open));
        let now = world.now;
        world.sides[0].channel.send_message(now, 1, false, &[b'x'; 60_000]).unwrap();
        world.sides[0].channel.close(now);
        world.collect();
        assert!(world.run(Duration::from_secs(2), |w| w.sides[0].closed));
        assert_eq!(world.sides[1].messages.len(), 1);
        let left = world.now;
        assert!(world.run(Duration::from_secs(2), |w| w.sides[1].closed));
        assert!(world.now - left <= Duration::from_millis(51), "{:?}", world.now - left);
        assert!(world.sides[1].channel.is_closed());
        assert!(matches!(world.sides[1].events.last(), Some(EventKind::ChannelClosed { .. })));
        let refused = world.sides[0].channel.send_message(world.now, 1, true, b"late");
        assert_eq!(refused, Err(SendError::NotOpen));
    }
}

#[test]
fn a_data_channel_closed_by_one_side_closes_at_the_other_and_the_connection_stays() {
    let mut world = World::new(7, Path::default(), configs(true));
    assert!(world.run(Duration::from_secs(5), World::both_open));
    let now = world.now;
    world.sides[1].channel.close_channel(now, 1);
    world.collect();
    assert!(world.run(Duration::from_secs(2), |w| w.sides[0].opened.is_empty()));
    assert!(!world.sides[0].closed && !world.sides[1].closed);
}

#[test]
fn with_both_init_chunks_the_channel_opens_with_the_handshake() {
    let delay = Duration::from_millis(100);
    let mut took = Vec::new();
    for with_init in [false, true] {
        let mut configs = configs(true);
        if with_init {
            let (a, b) = (sctp_init().unwrap(), sctp_init().unwrap());
            configs[0].sctp_init = Some((a.clone(), b.clone()));
            configs[1].sctp_init = Some((b, a));
        }
        let mut world = World::new(8, Path { delay, ..Path::default() }, configs);
        let start = world.now;
        assert!(world.run(Duration::from_secs(5), World::both_open));
        took.push((world.now - start).as_millis());
        let now = world.now;
        world.sides[1].channel.send_message(now, 1, false, b"there").unwrap();
        world.collect();
        assert!(world.run(Duration::from_secs(5), |w| w.sides[0].messages.len() == 1));
    }
    eprintln!("open on both sides after {took:?} ms at 100 ms each way");
    // Three flights of DTLS 1.3, and DATA_CHANNEL_OPEN one way behind them.
    assert_eq!(took[1], 400);
    assert!(took[0] > took[1]);
}

#[test]
fn without_init_chunks_both_sides_open_when_the_first_init_is_lost() {
    // Every single datagram after the handshake's first is lost once, in turn.
    for answerer_is_client in [true, false] {
        for lost in 1..14 {
            let mut configs = configs(answerer_is_client);
            for config in &mut configs {
                config.round_trip = Some(Duration::from_millis(10));
            }
            let mut world = World::new(lost, Path { delay: Duration::from_millis(5), ..Path::default() }, configs);
            for _ in 0..lost {
                world.step(world.now + Duration::from_secs(1));
            }
            world.in_flight.pop_first();
            assert!(world.run(Duration::from_secs(8), World::both_open), "{answerer_is_client} {lost}");
        }
    }
}

#[test]
fn crossing_inits_open_one_association() {
    for answerer_is_client in [true, false] {
        let mut configs = configs(answerer_is_client);
        // The DTLS server's patience ends before the client's INIT is here.
        for config in &mut configs {
            config.round_trip = Some(Duration::ZERO);
        }
        let mut world = World::new(11, Path { delay: Duration::from_millis(400), ..Path::default() }, configs);
        assert!(world.run(Duration::from_secs(20), World::both_open), "{answerer_is_client}");
        let now = world.now;
        for side in &mut world.sides {
            let channel = side.channel.open_channel().unwrap();
            side.channel.send_message(now, channel, true, &[1; 9000]).unwrap();
        }
        world.collect();
        assert!(world.run(Duration::from_secs(20), |w| w.sides.iter().all(|side| side.messages.len() == 1)));
    }
}

#[test]
fn the_config_follows_from_the_descriptions() {
    use whyrelay_core::sdp::{LocalParameters, Setup};
    let mut random = Random::from_number(12);
    let (a, b) = (Certificate::generate().unwrap(), Certificate::generate().unwrap());
    let mut offer = SessionDescription::offer(LocalParameters::generate(&mut random, a.fingerprint().clone()));
    offer.sctp_init = Some(sctp_init().unwrap().to_vec());
    let mut answer =
        SessionDescription::answer(&offer, LocalParameters::generate(&mut random, b.fingerprint().clone()));
    let of_a = ChannelConfig::from_descriptions(&offer, &answer, true, a.clone()).unwrap();
    assert!(!of_a.dtls_client && of_a.sctp_init.is_none());
    answer.sctp_init = Some(sctp_init().unwrap().to_vec());
    let of_a = ChannelConfig::from_descriptions(&offer, &answer, true, a.clone()).unwrap();
    let of_b = ChannelConfig::from_descriptions(&answer, &offer, false, b).unwrap();
    assert!(of_b.dtls_client && of_b.fingerprints == offer.fingerprints);
    let mut world = World::new(12, Path::default(), [of_a, of_b]);
    assert!(world.run(Duration::from_secs(1), World::both_open));
    (offer.setup, answer.setup) = (Setup::Active, Setup::Active);
    assert!(ChannelConfig::from_descriptions(&offer, &answer, true, a).is_err());
}

#[test]
fn bytes_from_nowhere_never_panic_at_any_stage() {
    let mut random = Random::from_number(9);
    for (stage, versions) in (0..40).flat_map(|stage| [(stage, DtlsVersions::Any), (stage, DtlsVersions::Only12)]) {
        let mut configs = configs(true);
        configs[1].versions = versions;
        let mut world = World::new(stage, Path { delay: Duration::from_millis(1), ..Path::default() }, configs);
        for _ in 0..stage {
            world.step(world.now + Duration::from_secs(1));
        }
        for count in 0..300u64 {
            let mut junk: Vec<u8> = (0..count % 5).flat_map(|_| random.bytes::<32>()).collect();
            // Record headers of every version and epoch with a length that fits, fits not, or is zero.
            if count % 2 == 0 && junk.len() > 13 {
                junk[0] = [20, 21, 22, 23, 26, 0x2f, 0x3c][(count / 2 % 7) as usize];
                junk[1..3].copy_from_slice(&[0xfe, 0xfd]);
                junk[3..5].copy_from_slice(&[0, (count % 3) as u8]);
                let length = (junk.len() - 13 + (count % 2) as usize) as u16;
                junk[11..13].copy_from_slice(&length.to_be_bytes());
            }
            // A plain alert may end a handshake, which has no protection against it; the channel then just ends.
            for side in &mut world.sides {
                side.channel.handle_datagram(world.now, &junk);
            }
            world.collect();
        }
    }
}

#[test]
fn noise_before_the_handshake_does_not_stop_it() {
    for versions in [DtlsVersions::Any, DtlsVersions::Only12, DtlsVersions::Only13] {
        let mut configs = configs(true);
        configs[1].versions = versions;
        let mut world = World::new(10, Path { delay: Duration::from_millis(1), ..Path::default() }, configs);
        // Encrypted-looking records of later epochs, more than any queue holds.
        for count in 0..500u16 {
            let mut record = vec![23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0];
            record.extend_from_slice(&count.to_be_bytes());
            record.extend_from_slice(&[0, 40]);
            record.extend_from_slice(&[7; 40]);
            for side in &mut world.sides {
                side.channel.handle_datagram(world.now, &record);
            }
        }
        world.collect();
        assert!(world.run(Duration::from_secs(5), World::both_open), "{versions:?}");
    }
}

#[test]
fn a_certificate_is_made_in_less_than_a_millisecond() {
    Certificate::generate().unwrap();
    let start = Instant::now();
    for _ in 0..20 {
        Certificate::generate().unwrap();
    }
    let each = start.elapsed() / 20;
    eprintln!("a certificate takes {each:?}");
    // Ten times what it takes: the machine may be busy.
    assert!(each < Duration::from_millis(5), "{each:?}");
}
