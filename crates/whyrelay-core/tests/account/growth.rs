//! Crafted recordings with long lists of everything: the work of an account grows with its size, not with the square.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use whyrelay_core::ice::candidate::{CandidateTransport, CandidateType};
use whyrelay_core::report::{Report, TextOptions, render_html, render_json, render_text};
use whyrelay_core::trace::event::{
    Datagram, Direction, Event, EventKind, Pair, PairState, PruneReason, Transport, Vantage,
};

use crate::builder::{Check, Fate, Session, address};
use crate::cases::failing;
use crate::report::{A, A_MAPPED, B, B_MAPPED, STUN, a_checks};

/// One event of each kind and value.
const SAMPLES: &str = include_str!("events.jsonl");

/// The lengths of the long lists: one that is hardly bounded, and more than anything is kept of.
const LONG: [usize; 2] = [16_000, 200_000];

/// The short ones are so many times shorter.
const TIMES: usize = 8;

/// Where the work is a square, it grows by the square of `TIMES`. Three times `TIMES` has room for logarithms, for lists that
/// no longer fit into the caches, and for noise.
const MOST: f64 = 3.0 * TIMES as f64;

const BOTH: [Vantage; 2] = [Vantage::A, Vantage::B];

/// The `index`th address of a network.
fn within(network: [u8; 2], index: usize) -> IpAddr {
    let [.., two, three, four] = u32::try_from(index).expect("small").to_be_bytes();
    IpAddr::from([network[0], network[1].wrapping_add(two), three, four])
}

/// The value with other addresses.
fn vary(value: &mut Value, index: usize) {
    let another = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => within([v4.octets()[0], v4.octets()[1]], index),
        IpAddr::V6(v6) => {
            let number = u128::try_from(index).expect("small");
            IpAddr::from((u128::from(v6) & !0xFFFF_FFFF | number).to_be_bytes())
        }
    };
    match value {
        Value::String(text) => {
            if let Ok(socket) = text.parse::<SocketAddr>() {
                *text = SocketAddr::new(another(socket.ip()), socket.port()).to_string();
            } else if let Ok(ip) = text.parse::<IpAddr>() {
                *text = another(ip).to_string();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|one| vary(one, index)),
        Value::Object(fields) => fields.values_mut().for_each(|one| vary(one, index)),
        _ => {}
    }
}

/// What this thread has worked.
fn worked() -> Duration {
    // Where the system does not tell, the clock does.
    #[expect(clippy::disallowed_types, reason = "a test may look at the clock")]
    let clock = || {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    };
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    nanos.map_or_else(clock, Duration::from_nanos)
}

/// The work of the account of these events, in every format.
fn work(events: &[Event]) -> Duration {
    let start = worked();
    let report = Report::from_events(events);
    let text = render_text(&report, &TextOptions::default());
    let length = text.len() + render_json(&report).len() + render_html(&report).len();
    assert!(length > 1000);
    worked().saturating_sub(start)
}

/// Checks that the work grows with lists of these lengths that a session gets, and not much faster.
fn grows_with(what: &str, lengths: &[usize], fill: impl Fn(&mut Session, usize)) {
    for &long in lengths {
        let of = |number| {
            let session = failing(Fate::LostOnTheWay, Fate::LostOnTheWay, |session| fill(session, number));
            work(&session.events)
        };
        // Less than this is measured in ticks of the system's clock.
        let (less, more) = (of(long / TIMES).max(Duration::from_millis(20)), of(long));
        let by = more.as_secs_f64() / less.as_secs_f64();
        assert!(by < MOST, "{what}: {less:?} for {} of them, {more:?} for {long}", long / TIMES);
    }
}

/// Datagrams like one, with other transactions: nothing is signed anew.
struct Template {
    datagram: Datagram,
}

impl Template {
    fn of(make: impl Fn(&mut Session), pick: impl Fn(&Datagram) -> bool) -> Self {
        let mut session = Session::new();
        make(&mut session);
        let datagrams = session.events.into_iter().filter_map(|event| match event.kind {
            EventKind::Datagram(datagram) => Some(datagram),
            _ => None,
        });
        Self { datagram: datagrams.into_iter().find(pick).expect("there is one") }
    }

    fn with(&self, number: usize, local: SocketAddr, remote: SocketAddr) -> EventKind {
        let mut datagram = Datagram { local, remote, ..self.datagram.clone() };
        // The end of the transaction id (RFC 8489 §5); the mapped address is XORed with its beginning for IPv4.
        datagram.data[12..20].copy_from_slice(&(number as u64).to_be_bytes());
        // Without what no longer fits: FINGERPRINT is the last attribute, of eight bytes, where there is one.
        if datagram.data.len() > 28 && datagram.data[datagram.data.len() - 8..][..2] == [0x80, 0x28] {
            let length = datagram.data.len() - 8;
            datagram.data.truncate(length);
            let body = u16::try_from(length - 20).expect("small");
            datagram.data[2..4].copy_from_slice(&body.to_be_bytes());
        }
        EventKind::Datagram(datagram)
    }
}

fn check_of_a(fate: Fate, direction: Direction) -> Template {
    Template::of(|session| session.check(a_checks(fate)), |datagram| datagram.direction == direction)
}

fn socket(network: [u8; 2], index: usize, port: u16) -> SocketAddr {
    SocketAddr::new(within(network, index), port)
}

#[test]
fn long_lists_of_candidates_and_pairs_cost_no_square() {
    grows_with("candidates", &LONG, |session, number| {
        for index in 0..number / 2 {
            let (public, private) = (socket([198, 51], index, 50_000), socket([10, 0], index, 50_000));
            let (public, private) = (public.to_string(), private.to_string());
            session.candidate(Vantage::B, CandidateType::ServerReflexive, &public, B, Some("stun:192.0.2.10:3478"));
            session.candidate(Vantage::A, CandidateType::Host, &private, &private, None);
        }
    });
    grows_with("pairs", &LONG, |session, number| {
        for index in 0..number / 2 {
            for (vantage, local, network) in [(Vantage::A, A, [198, 51]), (Vantage::B, B, [203, 0])] {
                let remote = socket(network, index, 50_000);
                let pair = Pair { transport: CandidateTransport::Udp, local: address(local), remote };
                let (priority, foundation, state) = (index as u64, "1:1".to_owned(), PairState::Failed);
                session.push(vantage, EventKind::PairFormed { pair, priority, foundation, state });
            }
        }
    });
}

#[test]
fn long_lists_of_checks_cost_no_square() {
    let (out, arrived) = (check_of_a(Fate::Ignored, Direction::Out), check_of_a(Fate::Ignored, Direction::In));
    grows_with("checks on pairs of their own, with candidates", &LONG, |session, number| {
        for index in 0..number / 2 {
            let remote = socket([198, 51], index, 50_000);
            session.candidate(Vantage::B, CandidateType::ServerReflexive, &remote.to_string(), B, None);
            session.push(Vantage::A, out.with(index, address(A), remote));
            session.push(Vantage::B, arrived.with(index, address(B), socket([203, 0], index, 40_000)));
        }
    });
    let private = |index| socket([10, 0], index, 50_000);
    grows_with("checks to private addresses", &LONG[..1], |session, number| {
        for index in 0..number / 2 {
            session.candidate(Vantage::B, CandidateType::Host, &private(index).to_string(), B, None);
            session.push(Vantage::A, out.with(index, private(index / 2), private(index)));
        }
    });
    grows_with("checks on one pair", &LONG[..1], |session, number| {
        for index in 0..number / 2 {
            session.push(Vantage::A, out.with(index, address(A), address(B_MAPPED)));
            session.push(Vantage::B, arrived.with(index, address(B), address(A_MAPPED)));
        }
    });
}

#[test]
fn long_lists_of_servers_and_streams_cost_no_square() {
    let asks = |direction| {
        let make = |session: &mut Session| session.stun(Vantage::A, A, STUN, Some(A_MAPPED));
        Template::of(make, move |datagram| datagram.direction == direction)
    };
    let (request, answer) = (asks(Direction::Out), asks(Direction::In));
    grows_with("servers", &LONG, |session, number| {
        for index in 0..number / 2 {
            let server = socket([192, 0], index, 3478);
            session.push(Vantage::A, request.with(index, address(A), server));
            session.push(Vantage::A, answer.with(index, address(A), server));
        }
    });
    grows_with("mapped addresses", &LONG[..1], |session, number| {
        for index in 0..number / 2 {
            session.push(Vantage::A, request.with(index, address(A), address(STUN)));
            let EventKind::Datagram(mut told) = answer.with(index, address(A), address(STUN)) else { continue };
            // Another port in XOR-MAPPED-ADDRESS, the only attribute (RFC 8489 §14.2).
            told.data[26..28].copy_from_slice(&u16::try_from(index % 0x1_0000).expect("it is").to_be_bytes());
            session.push(Vantage::A, EventKind::Datagram(told));
        }
    });
    let out = check_of_a(Fate::Ignored, Direction::Out);
    grows_with("streams", &LONG, |session, number| {
        for index in 0..number / 2 {
            let pair = |port| {
                let (local, remote) = (socket([192, 168], index, port), socket([198, 51], index, 50_000));
                Pair { transport: CandidateTransport::TcpActive, local, remote }
            };
            let (asked, wire) = (pair(9), pair(40_001));
            session
                .push(Vantage::A, EventKind::PairPruned { pair: asked, reason: PruneReason::Connected { pair: wire } });
            let EventKind::Datagram(mut sent) = out.with(index, wire.local, wire.remote) else { continue };
            sent.transport = Transport::Tcp;
            session.push(Vantage::A, EventKind::Datagram(sent));
        }
    });
}

#[test]
fn long_lists_of_facts_cost_no_square() {
    let samples: Vec<Value> = SAMPLES.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (facts, others): (Vec<Value>, Vec<Value>) =
        samples.into_iter().partition(|sample| sample["kind"] == "host-fact");
    assert!(facts.len() > 20 && others.len() > 50);
    let arrived = check_of_a(Fate::Ignored, Direction::In);
    // Every kind of fact about both sides, among checks of the peer's and candidates that they may be about.
    for (what, kinds, lengths) in
        [("facts", facts, &LONG[..]), ("everything else that is recorded", others, &LONG[..1])]
    {
        grows_with(what, lengths, |session, number| {
            for index in 0..number / 4 / kinds.len() {
                for sample in &kinds {
                    let mut varied = sample.clone();
                    vary(&mut varied, index);
                    let kind = serde_json::from_value::<Event>(varied).ok().map(|event| event.kind);
                    for vantage in BOTH {
                        kind.iter().for_each(|kind| session.push(vantage, kind.clone()));
                    }
                }
            }
            for index in 0..number / 4 {
                let from = socket([203, 0], index, 40_000);
                session.push(Vantage::B, arrived.with(index, address(B), from));
                let remote = from.to_string();
                session.candidate(Vantage::A, CandidateType::ServerReflexive, &remote, A, None);
            }
        });
    }
}

#[test]
fn a_long_list_of_route_answers_costs_no_square() {
    grows_with("route answers", &LONG[..1], |session, number| {
        let out = check_of_a(Fate::Ignored, Direction::Out);
        session.link(Vantage::A, "eth1", None, "192.168.1.2");
        session.link(Vantage::A, "eth0", None, "192.168.2.2");
        for index in 0..number / 3 {
            let remote = socket([198, 51], index, 50_000);
            session.candidate(Vantage::B, CandidateType::ServerReflexive, &remote.to_string(), B, None);
            let way = Ok(crate::cases::facts::UPLINK);
            let mark = u32::try_from(index).expect("small");
            session.route(whyrelay_core::host::RoutePurpose::Peer, &remote.to_string(), mark, way);
            session.push(Vantage::A, out.with(index, address(A), remote));
        }
        session.check(Check { transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
    });
}
