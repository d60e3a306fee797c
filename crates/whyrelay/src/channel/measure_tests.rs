//! Two measurements over two channels, in virtual time.

use proptest::prelude::*;
use whyrelay_core::trace::event::Direction;

use super::measure::{Measurement, Outcome, Output as MeasureOutput, Plan, Progress};
use super::tests::{Path, World, configs};
use super::*;

struct Pair {
    world: World,
    measurements: [Measurement; 2],
    taken: [usize; 2],
    events: [Vec<EventKind>; 2],
    progress: [Vec<Progress>; 2],
    most_buffered: usize,
}

impl Pair {
    fn new(path: Path, throughput: [Option<Duration>; 2], known: bool) -> Self {
        let mut configs = configs(true);
        for config in &mut configs {
            config.round_trip = Some(path.delay * 2);
        }
        let mut world = World::new(1, path, configs);
        assert!(world.run(Duration::from_secs(30), World::both_open));
        let plan =
            |offerer: bool| Plan { offerer, peer_is_whyrelay: known, throughput: throughput[usize::from(!offerer)] };
        let mut measurements = [Measurement::new(plan(true)), Measurement::new(plan(false))];
        for measurement in &mut measurements {
            measurement.start(world.now);
        }
        let (events, progress) = ([vec![], vec![]], [vec![], vec![]]);
        Self { world, measurements, taken: [0; 2], events, progress, most_buffered: 0 }
    }

    /// Carries messages and outputs, and gives the next deadline of the measurements.
    fn pump(&mut self) -> Instant {
        let now = self.world.now;
        let mut next = now + IDLE;
        for index in 0..2 {
            let side = &mut self.world.sides[index];
            for (binary, data) in side.messages.drain(..) {
                self.taken[index] += 1;
                self.measurements[index].handle_message(now, binary, &data);
            }
            loop {
                let buffered = side.channel.buffered_amount(1);
                self.most_buffered = self.most_buffered.max(buffered);
                match self.measurements[index].poll_output(now, buffered) {
                    MeasureOutput::Send(bytes) => side.channel.send_message(now, 1, true, &bytes).unwrap(),
                    MeasureOutput::Event(event) => self.events[index].push(event),
                    MeasureOutput::Progress(progress) => self.progress[index].push(progress),
                    MeasureOutput::Timeout(at) => {
                        next = next.min(at);
                        break;
                    }
                }
            }
        }
        self.world.collect();
        next
    }

    fn run(&mut self, limit: Duration) -> [Option<Outcome>; 2] {
        let until = self.world.now + limit;
        while self.world.now < until && self.measurements.iter().any(|one| one.outcome().is_none()) {
            let next = self.pump().min(until);
            self.world.step(next);
        }
        [0, 1].map(|index| self.measurements[index].outcome())
    }

    fn throughput(&self, side: usize, wanted: Direction) -> (u64, u64) {
        let found = self.events[side].iter().find_map(|event| match event {
            EventKind::Throughput { direction, bytes, took_us } if *direction == wanted => Some((*bytes, *took_us)),
            _ => None,
        });
        found.unwrap()
    }
}

#[test]
fn round_trips_are_those_of_the_path() {
    let path = Path { delay: Duration::from_millis(30), ..Path::default() };
    let mut pair = Pair::new(path, [None, None], true);
    let start = pair.world.now;
    assert_eq!(pair.run(Duration::from_secs(10)), [Some(Outcome::Measured); 2]);
    for events in &pair.events {
        let expected = EventKind::RoundTrips { count: 20, lost: 0, median_us: 60_000, p99_us: 60_000 };
        let pings = [(Direction::Out, false), (Direction::In, false), (Direction::Out, true), (Direction::In, true)];
        for (way, is_answer) in pings {
            let of_these = |event: &&EventKind| matches!(event, EventKind::ChannelPing { direction, answer, .. } if (*direction, *answer) == (way, is_answer));
            assert_eq!(events.iter().filter(of_these).count(), 8, "{way:?} {is_answer}");
        }
        assert_eq!(events.last(), Some(&expected));
        assert_eq!(events.len(), 4 * 8 + 1);
    }
    // Twenty in a pipeline, not one after the other.
    assert!(pair.world.now - start < Duration::from_millis(700), "{:?}", pair.world.now - start);
    assert!(matches!(pair.progress[0][19], Progress::RoundTrips { answered: 20, of: 20, .. }));
}

#[test]
fn throughput_is_measured_each_way_when_either_side_asks() {
    let second = Some(Duration::from_millis(200));
    for throughput in [[second, None], [None, second]] {
        let path = Path { delay: Duration::from_millis(5), ..Path::default() };
        let mut pair = Pair::new(path, throughput, true);
        assert_eq!(pair.run(Duration::from_secs(30)), [Some(Outcome::Measured); 2]);
        // What one side calls out is what the other calls in, to the byte.
        assert_eq!(pair.throughput(0, Direction::Out), pair.throughput(1, Direction::In));
        assert_eq!(pair.throughput(1, Direction::Out), pair.throughput(0, Direction::In));
        for side in [0, 1] {
            let (bytes, took_us) = pair.throughput(side, Direction::In);
            assert!(bytes > 200_000, "{bytes}");
            assert!((180_000..500_000).contains(&took_us), "{took_us}");
        }
        assert!(pair.most_buffered <= 1024 * 1024 + 16 * 1024, "{}", pair.most_buffered);
        assert!(
            pair.progress[0].iter().any(|one| matches!(one, Progress::Throughput { direction: Direction::Out, .. }))
        );
        assert!(
            pair.progress[0].iter().any(|one| matches!(one, Progress::Throughput { direction: Direction::In, .. }))
        );
    }
}

#[test]
fn loss_slows_the_measurements_and_does_not_stop_them() {
    let path =
        Path { delay: Duration::from_millis(10), jitter: Duration::from_millis(5), loss: 5, double: 5, garbage: 0 };
    let mut pair = Pair::new(path, [Some(Duration::from_millis(300)), None], true);
    assert_eq!(pair.run(Duration::from_secs(120)), [Some(Outcome::Measured); 2]);
    assert_eq!(pair.throughput(0, Direction::Out), pair.throughput(1, Direction::In));
}

#[test]
fn a_peer_that_is_not_whyrelay_is_sent_nothing_and_told_apart() {
    let now = Instant::now();
    let plan = Plan { offerer: true, peer_is_whyrelay: false, throughput: Some(Duration::from_secs(5)) };
    let mut measurement = Measurement::new(plan);
    measurement.start(now);
    assert!(!measurement.handle_message(now, false, b"greeting from answer-peer-1"));
    assert!(!measurement.handle_message(now, false, b"WRM1\0\0\0\0\0"), "text is never ours");
    let MeasureOutput::Timeout(until) = measurement.poll_output(now, 0) else { panic!("something is sent") };
    let MeasureOutput::Timeout(_) = measurement.poll_output(until, 0) else { panic!("something is sent") };
    assert_eq!(measurement.outcome(), Some(Outcome::NotWhyrelay));
}

#[test]
fn a_peer_that_repeats_its_pings_fills_no_recording() {
    let now = Instant::now();
    let mut measurement = Measurement::new(Plan { offerer: true, peer_is_whyrelay: true, throughput: None });
    let mut events = 0;
    for number in 0..1000_u32 {
        let mut ping = b"WRM1\x01".to_vec();
        ping.extend_from_slice(&(number % 10).to_be_bytes());
        measurement.handle_message(now, true, &ping);
        loop {
            match measurement.poll_output(now, 0) {
                MeasureOutput::Timeout(_) => break,
                MeasureOutput::Event(_) => events += 1,
                _ => {}
            }
        }
    }
    assert_eq!(events, 16);
}

#[test]
fn a_peer_that_falls_silent_is_given_up() {
    let path = Path { delay: Duration::from_millis(1), ..Path::default() };
    let mut pair = Pair::new(path, [Some(Duration::from_secs(2)), None], true);
    for _ in 0..60 {
        let next = pair.pump();
        pair.world.step(next);
    }
    pair.world.path.loss = 100;
    let outcomes = pair.run(Duration::from_secs(60));
    assert_eq!(outcomes, [Some(Outcome::Silent); 2]);
}

proptest! {
    #[test]
    fn any_messages_in_any_order_are_taken_without_harm(
        messages in proptest::collection::vec((0u8..9, proptest::collection::vec(any::<u8>(), 0..20), 0u64..4000), 0..60),
    ) {
        let mut now = Instant::now();
        let mut measurement = Measurement::new(Plan { offerer: true, peer_is_whyrelay: true, throughput: None });
        for (kind, body, wait) in messages {
            let mut message = b"WRM1".to_vec();
            message.push(kind);
            message.extend_from_slice(&body);
            prop_assert!(measurement.handle_message(now, true, &message));
            now += Duration::from_millis(wait);
            let mut count = 0;
            while !matches!(measurement.poll_output(now, 1 << 20), MeasureOutput::Timeout(_)) {
                count += 1;
                prop_assert!(count < 100);
            }
        }
    }
}
