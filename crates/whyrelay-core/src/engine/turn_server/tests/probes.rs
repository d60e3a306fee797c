//! whyrelay's own probes (docs/probes.md).

use super::super::*;
use super::fixture::*;
use crate::wire::attribute::AttributeType;
use crate::wire::probe::{self, Disguise, Operation, ProbeToken, Tally};
use crate::wire::stun::{MessageBuilder, TransactionId};

const CLIENT: &str = "198.18.0.1:40000";
const ID: TransactionId = TransactionId([9; 12]);

/// A client that has proven itself.
struct Prober {
    client: Client,
    nonce: String,
    random: Random,
}

/// A session, as its client knows it.
struct Opened {
    relay: RelayId,
    token: ProbeToken,
    seen: Vec<Seen>,
}

impl Prober {
    fn proven(fixture: &mut Fixture, source: &str) -> Self {
        let client = udp(source);
        let answers = fixture.raw(client, &Operation::Describe.request(ID).build());
        let [Seen::ToClient(to, bytes)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(*to, client);
        let answer = Response(bytes.clone());
        assert_eq!(answer.code(), 438);
        let nonce = answer.message().text(AttributeType::NONCE).unwrap().to_owned();
        Self { client, nonce, random: Random::from_number(3) }
    }

    fn ask(&mut self, fixture: &mut Fixture, request: MessageBuilder) -> Vec<Seen> {
        fixture.raw(self.client, &request.text(AttributeType::NONCE, &self.nonce).build())
    }

    fn code(&mut self, fixture: &mut Fixture, request: MessageBuilder) -> Option<u16> {
        response(&self.ask(fixture, request)).map(|response| response.code())
    }

    fn open_request(&mut self, knock: bool) -> MessageBuilder {
        Operation::Open { knock }.request(self.random.transaction_id())
    }

    fn open(&mut self, fixture: &mut Fixture, knock: bool) -> Opened {
        let request = self.open_request(knock);
        let seen = self.ask(fixture, request);
        let answer = response(&seen).expect("an answer");
        assert_eq!(answer.code(), 0);
        let token = probe::token_of(&answer.message()).unwrap();
        let port = probe::port_of(&answer.message()).unwrap();
        let relay = *fixture.relays.iter().find(|(_, address)| address.port() == port).expect("an open port").0;
        Opened { relay, token, seen }
    }
}

/// The one message to a client.
fn response(seen: &[Seen]) -> Option<Response> {
    let mut found = seen.iter().filter_map(|seen| match seen {
        Seen::ToClient(_, bytes) => Some(Response(bytes.clone())),
        _ => None,
    });
    let first = found.next();
    assert!(found.next().is_none(), "{seen:?}");
    first
}

/// The one datagram from a fresh port.
fn from_port(seen: &[Seen]) -> Option<(SocketAddr, Vec<u8>)> {
    let [one] = seen else { return None };
    let Seen::ToPeer { peer, bytes, dont_fragment: true } = one else { panic!("{seen:?}") };
    Some((*peer, bytes.clone()))
}

fn observe(token: ProbeToken) -> MessageBuilder {
    Operation::Observe.request(ID).attribute(AttributeType::PROBE_TOKEN, &token.0)
}

#[test]
fn nothing_is_opened_and_nothing_sent_before_the_source_has_proven_itself() {
    let mut fixture = Fixture::new();
    let request = Operation::Open { knock: true }.request(ID).build();
    for forged in ["", "AAAAAAAAAAAA"] {
        let bytes = Operation::Open { knock: true }.request(ID).text(AttributeType::NONCE, forged).build();
        assert_eq!(response(&fixture.raw(udp(CLIENT), &bytes)).unwrap().code(), 438);
    }
    let answered = (0..1000).filter(|_| response(&fixture.raw(udp(CLIENT), &request)).is_some()).count();
    assert_eq!(answered, 8, "ten a second, of which two are used");
    assert_eq!((fixture.relays.len(), fixture.server.probe_sessions()), (0, 0));
    let answer = response(&fixture.raw(udp("198.18.0.2:1"), &request)).unwrap();
    assert!(answer.0.len() <= 44, "{} for {}", answer.0.len(), request.len());
}

#[test]
fn describe_says_what_is_offered() {
    let mut fixture = Fixture::new();
    let mut prober = Prober::proven(&mut fixture, CLIENT);
    let answer = response(&prober.ask(&mut fixture, Operation::Describe.request(ID))).unwrap();
    let message = answer.message();
    assert_eq!(message.xor_address(AttributeType::XOR_MAPPED_ADDRESS), CLIENT.parse().ok());
    assert_eq!(message.u32(AttributeType::PROBE_SIZE), Some(1472));
    assert_eq!(message.u64(AttributeType::PROBE_TIME), Some(START.as_micros()));
    assert_eq!(probe::port_of(&message), None, "no behavior discovery");
}

#[test]
fn a_knock_leaves_from_the_fresh_port_before_the_answer_tells_of_it() {
    let mut fixture = Fixture::new();
    let mut prober = Prober::proven(&mut fixture, CLIENT);
    let opened = prober.open(&mut fixture, true);
    let [Seen::ToPeer { peer, bytes, dont_fragment: true }, Seen::ToClient(..)] = &opened.seen[..] else {
        panic!("{:?}", opened.seen)
    };
    assert_eq!(*peer, CLIENT.parse().unwrap());
    let knock = Message::decode(bytes).unwrap();
    assert_eq!((knock.class, knock.method), (Class::Indication, Method::PROBE));
    assert_eq!(probe::token_of(&knock), Some(opened.token));

    // The mapping was stolen: the client's packet to the fresh port comes from another port.
    let request = observe(opened.token).build();
    let seen = fixture.peer_sends(opened.relay, "198.18.0.1:45595", &request);
    let (to, answer) = from_port(&seen).unwrap();
    assert_eq!(to, "198.18.0.1:45595".parse().unwrap());
    let answer = Message::decode(&answer).unwrap();
    assert_eq!(answer.xor_address(AttributeType::XOR_MAPPED_ADDRESS), Some(to));
    assert_eq!(answer.address(AttributeType::MAPPED_ADDRESS), Some(to));
    assert_eq!(answer.u32(AttributeType::PROBE_SIZE), Some(request.len() as u32));

    let result = Operation::Result.request(ID).attribute(AttributeType::PROBE_TOKEN, &opened.token.0);
    let answer = response(&prober.ask(&mut fixture, result)).unwrap();
    let tally = answer.message().attribute(AttributeType::PROBE_TALLY).map(|tally| tally.value.to_vec());
    assert_eq!(Tally::read(&tally.unwrap()), Some(Tally { observe: 1, ..Tally::default() }));
    assert_eq!(answer.message().xor_address(AttributeType::XOR_PEER_ADDRESS), Some(to));
}

#[test]
fn the_same_request_again_is_the_same_session_without_another_knock() {
    let mut fixture = Fixture::new();
    let mut prober = Prober::proven(&mut fixture, CLIENT);
    let request = prober.open_request(true);
    let first = prober.ask(&mut fixture, request.clone());
    let again = prober.ask(&mut fixture, request);
    assert_eq!((first.len(), again.len()), (2, 1));
    assert_eq!(response(&first).unwrap().0, response(&again).unwrap().0);
}

#[test]
fn padding_is_measured_outward_and_asked_for_inward() {
    let mut fixture = Fixture::new();
    let mut prober = Prober::proven(&mut fixture, CLIENT);
    let opened = prober.open(&mut fixture, false);
    for size in [1000, 1440] {
        let request = observe(opened.token).attribute(AttributeType::PADDING, &vec![0; size]).build();
        let (_, answer) = from_port(&fixture.peer_sends(opened.relay, CLIENT, &request)).unwrap();
        let answer = Message::decode(&answer).unwrap();
        assert_eq!(answer.u32(AttributeType::PROBE_SIZE), Some(request.len() as u32));
    }
    for (asked, sent) in [(0, 52), (57, 56), (1200, 1200), (1472, 1472), (65_507, 1472)] {
        let request = observe(opened.token).u32(AttributeType::PROBE_SIZE, asked).build();
        let (_, answer) = from_port(&fixture.peer_sends(opened.relay, CLIENT, &request)).unwrap();
        assert_eq!(answer.len(), sent, "{asked} asked for");
        assert!(Message::decode(&answer).unwrap().is_sound());
    }
}

#[test]
fn disguised_datagrams_are_answered_in_kind() {
    let mut fixture = Fixture::new();
    let mut prober = Prober::proven(&mut fixture, CLIENT);
    let opened = prober.open(&mut fixture, false);
    for kind in [Disguise::WireGuard, Disguise::Random] {
        let request = probe::disguise(kind, opened.token, [5; 8], [0x55; probe::DISGUISED_REQUEST]);
        let (to, answer) = from_port(&fixture.peer_sends(opened.relay, CLIENT, &request)).unwrap();
        assert_eq!(to, CLIENT.parse().unwrap());
        assert!(probe::is_answer_to(&answer, &request));
        assert_eq!(answer[..4] == [2, 0, 0, 0], kind == Disguise::WireGuard);
    }
}

#[test]
fn security_7_without_the_token_or_from_another_address_nothing_is_answered() {
    let mut fixture = Fixture::new();
    let mut prober = Prober::proven(&mut fixture, CLIENT);
    let opened = prober.open(&mut fixture, false);
    let wrong = ProbeToken([0; 8]);
    let disguised = probe::disguise(Disguise::Random, wrong, [5; 8], [0; probe::DISGUISED_REQUEST]);
    let binding = MessageBuilder::new(Class::Request, Method::BINDING, ID).build();
    let success = MessageBuilder::new(Class::Success, Method::PROBE, ID)
        .attribute(AttributeType::PROBE_TOKEN, &opened.token.0)
        .build();
    for bytes in [&observe(wrong).build()[..], &disguised, &binding, &success, &[], &[0; 1500]] {
        assert_eq!(fixture.peer_sends(opened.relay, CLIENT, bytes), [], "{bytes:?}");
    }
    let good = observe(opened.token).build();
    for stranger in ["198.18.0.2:40000", "198.18.0.1:0"] {
        assert_eq!(fixture.peer_sends(opened.relay, stranger, &good), [], "{stranger}");
    }
    let result = Operation::Result.request(ID).attribute(AttributeType::PROBE_TOKEN, &opened.token.0);
    let answer = response(&prober.ask(&mut fixture, result.clone())).unwrap();
    let seen: Vec<SocketAddr> = answer.message().xor_addresses(AttributeType::XOR_PEER_ADDRESS).collect();
    assert_eq!(seen[0], "198.18.0.2:40000".parse().unwrap(), "who had the token is told to its owner");
    let mut stranger = Prober::proven(&mut fixture, "198.18.0.2:40000");
    assert_eq!(stranger.code(&mut fixture, result), Some(437), "but not to others");
}

#[test]
fn security_3_sessions_are_bounded_in_number_answers_bytes_and_time() {
    let mut fixture = Fixture::new();
    let mut prober = Prober::proven(&mut fixture, CLIENT);
    let mut codes = Vec::new();
    for _ in 0..12 {
        let request = prober.open_request(true);
        codes.push(prober.code(&mut fixture, request));
        fixture.now += std::time::Duration::from_secs(1);
    }
    assert_eq!(codes[..8], [Some(0); 8]);
    assert_eq!(codes[8..], [Some(486); 4]);
    fixture.wait(30);
    assert_eq!((fixture.relays.len(), fixture.server.probe_sessions()), (0, 0));

    let mut prober = Prober::proven(&mut fixture, CLIENT);
    let opened = prober.open(&mut fixture, false);
    let small = observe(opened.token).build();
    let answered = (0..1000).filter(|_| from_port(&fixture.peer_sends(opened.relay, CLIENT, &small)).is_some());
    assert_eq!(answered.count(), 96);
    let opened = prober.open(&mut fixture, false);
    let large = observe(opened.token).u32(AttributeType::PROBE_SIZE, 1472).build();
    let sent: usize = (0..1000)
        .filter_map(|_| from_port(&fixture.peer_sends(opened.relay, CLIENT, &large)))
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert!(sent <= 96 * 1024, "{sent}");

    // Sources without end: the total is bounded.
    let mut opened = 0;
    for source in 0..600_u32 {
        let address = format!("198.19.{}.{}:7000", source / 200, source % 200 + 1);
        let mut prober = Prober::proven(&mut fixture, &address);
        let request = prober.open_request(false);
        opened += usize::from(prober.code(&mut fixture, request) == Some(0));
    }
    assert_eq!((opened, fixture.server.probe_sessions()), (510, 512));
}

#[test]
fn a_flood_of_opens_is_four_a_second() {
    let mut fixture = Fixture::new();
    let mut prober = Prober::proven(&mut fixture, CLIENT);
    let mut opened = 0;
    for _ in 0..100 {
        let request = prober.open_request(true);
        opened += u32::from(prober.code(&mut fixture, request) == Some(0));
    }
    assert_eq!((opened, fixture.relays.len()), (4, 4));
}

#[test]
fn security_1_a_knock_goes_to_the_clients_own_address_and_to_no_service() {
    let mut fixture = Fixture::with(|config| config.policy.own_endpoints = vec!["198.18.0.1:3478".parse().unwrap()]);
    let mut prober = Prober::proven(&mut fixture, CLIENT);
    for (port, code) in [(53, 403), (1023, 403), (3478, 403), (51_820, 0)] {
        let request = prober.open_request(true).attribute(AttributeType::PROBE_PORT, &probe::port_value(port));
        let seen = prober.ask(&mut fixture, request);
        assert_eq!(response(&seen).unwrap().code(), code, "{port}");
        let knocks = seen.iter().filter_map(|seen| match seen {
            Seen::ToPeer { peer, .. } => Some(*peer),
            _ => None,
        });
        let expected: Vec<SocketAddr> =
            if code == 0 { vec![SocketAddr::from(([198, 18, 0, 1], port))] } else { vec![] };
        assert_eq!(knocks.collect::<Vec<_>>(), expected);
    }
    let mut local = Prober::proven(&mut fixture, "127.0.0.1:40000");
    let request = local.open_request(true).attribute(AttributeType::PROBE_PORT, &probe::port_value(8080));
    assert_eq!(local.code(&mut fixture, request), Some(403), "a service of the server's host");
}

#[test]
fn a_port_that_cannot_be_had_is_508_and_leaves_nothing() {
    let mut fixture = Fixture::new();
    fixture.broken = vec![Family::Ipv4];
    let mut prober = Prober::proven(&mut fixture, CLIENT);
    let request = prober.open_request(true);
    assert_eq!(prober.code(&mut fixture, request), Some(508));
    assert_eq!(fixture.server.probe_sessions(), 0);
}
