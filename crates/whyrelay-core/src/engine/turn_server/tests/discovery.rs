//! Behavior discovery (RFC 5780), alone and between two servers.

use super::super::*;
use super::fixture::*;
use crate::wire::attribute::AttributeType;
use crate::wire::probe;
use crate::wire::stun::{MessageBuilder, TransactionId};

const ID: TransactionId = TransactionId([6; 12]);
const CLIENT: &str = "198.18.0.1:40000";

fn socket(listener: u16, address: &str) -> DiscoverySocket {
    DiscoverySocket { listener: ListenerId(listener), address: address.parse().unwrap() }
}

fn here() -> Fixture {
    serving_unproven(true)
}

fn serving_unproven(serves_unproven: bool) -> Fixture {
    Fixture::with(|config| {
        let primary = [socket(1, "192.0.2.1:3479"), socket(2, "192.0.2.1:3480")];
        let alternate = Alternate::Here([socket(3, "192.0.2.2:3479"), socket(4, "192.0.2.2:3480")]);
        config.discovery = vec![Discovery { primary, alternate, serves_unproven }];
    })
}

/// One of two servers that are each other's alternate.
fn one_of_two(own: &str, other: &str, secret: &str) -> Fixture {
    let mut fixture = Fixture::with(|config| {
        let primary = [socket(1, &format!("{own}:3479")), socket(2, &format!("{own}:3480"))];
        let secret = SharedSecret::new(secret).unwrap();
        config.discovery = vec![Discovery {
            primary,
            alternate: Alternate::Server { ip: other.parse().unwrap(), secret },
            serves_unproven: true,
        }];
    });
    fixture.now = START;
    fixture
}

fn at(listener: u16, source: &str) -> Client {
    Client { transport: ClientTransport::Udp(ListenerId(listener)), source: source.parse().unwrap() }
}

fn binding() -> MessageBuilder {
    MessageBuilder::new(Class::Request, Method::BINDING, ID)
}

fn changing(flags: u32) -> MessageBuilder {
    binding().u32(AttributeType::CHANGE_REQUEST, flags)
}

/// The one answer: which listener it leaves from, to whom, and what it is.
fn one(seen: Vec<Seen>) -> Option<(Client, Response)> {
    assert!(seen.len() <= 1, "{seen:?}");
    seen.into_iter().next().map(|seen| match seen {
        Seen::ToClient(client, bytes) => (client, Response(bytes)),
        other => panic!("{other:?}"),
    })
}

fn listener(client: &Client) -> u16 {
    match client.transport {
        ClientTransport::Udp(ListenerId(listener)) => listener,
        ClientTransport::Stream(_) => panic!("a stream"),
    }
}

/// As large as it must be for the answer.
fn asking_for_proof() -> MessageBuilder {
    binding().text(AttributeType::NONCE, "").text(AttributeType::SOFTWARE, "larger")
}

/// A nonce that proves `CLIENT`.
fn proof(fixture: &mut Fixture) -> String {
    let asking = asking_for_proof().build();
    let (_, answer) = one(fixture.raw(at(1, CLIENT), &asking)).unwrap();
    assert_eq!(answer.code(), 438);
    answer.message().text(AttributeType::NONCE).unwrap().to_owned()
}

#[test]
fn every_socket_answers_from_the_place_that_was_asked_for() {
    let mut fixture = here();
    let addresses = ["192.0.2.1:3479", "192.0.2.1:3480", "192.0.2.2:3479", "192.0.2.2:3480"];
    for asked in 0..4_u16 {
        fixture.now += std::time::Duration::from_secs(2);
        // Bit 1 is the address, bit 0 the port, as the sockets are numbered.
        for (flags, change) in [(0, 0), (0x02, 1), (0x04, 2), (0x06, 3)] {
            let (client, answer) = one(fixture.raw(at(1 + asked, CLIENT), &changing(flags).build())).unwrap();
            let from = asked ^ change;
            assert_eq!(listener(&client), 1 + from, "asked {asked}, flags {flags}");
            assert_eq!(client.source, CLIENT.parse().unwrap());
            let message = answer.message();
            assert_eq!((answer.code(), message.transaction), (0, ID));
            let origin = message.address(AttributeType::RESPONSE_ORIGIN);
            assert_eq!(origin, addresses[usize::from(from)].parse().ok());
            assert_eq!(message.address(AttributeType::OTHER_ADDRESS), addresses[usize::from(from ^ 3)].parse().ok());
            assert_eq!(message.xor_address(AttributeType::XOR_MAPPED_ADDRESS), CLIENT.parse().ok());
            assert_eq!(message.address(AttributeType::MAPPED_ADDRESS), CLIENT.parse().ok());
        }
    }
}

#[test]
fn security_6_the_stun_port_itself_knows_nothing_of_it() {
    let mut fixture = here();
    let (_, plain) = one(fixture.raw(udp(CLIENT), &binding().build())).unwrap();
    assert_eq!(plain.0.len(), 32);
    let (_, refused) = one(fixture.raw(udp(CLIENT), &changing(0x06).build())).unwrap();
    assert_eq!(refused.code(), 420);
    let (_, refused) = one(here().raw(at(1, CLIENT), &binding().u32(AttributeType::RESPONSE_PORT, 7).build())).unwrap();
    assert_eq!(refused.code(), 420, "RESPONSE-PORT");
}

#[test]
fn security_6_nothing_leaves_from_another_address_without_proof() {
    let mut fixture = serving_unproven(false);
    for asked in 1..=4 {
        for flags in [0x02, 0x04, 0x06] {
            let request = changing(flags).build();
            let (client, answer) = one(fixture.raw(at(asked, CLIENT), &request)).unwrap();
            assert_eq!((listener(&client), answer.code()), (asked, 438), "{flags}");
            assert!(answer.0.len() <= 56, "{} bytes", answer.0.len());
        }
        let (client, answer) = one(fixture.raw(at(asked, CLIENT), &binding().build())).unwrap();
        assert_eq!((listener(&client), answer.code()), (asked, 0), "a plain request is answered");
    }
    let nonce = proof(&mut fixture);
    let (client, answer) =
        one(fixture.raw(at(1, CLIENT), &changing(0x06).text(AttributeType::NONCE, &nonce).build())).unwrap();
    assert_eq!((listener(&client), answer.code()), (4, 0), "to who has proven itself, from the other address");
    // Another's proof is none.
    let (client, answer) =
        one(fixture.raw(at(1, "198.18.0.9:1"), &changing(0x06).text(AttributeType::NONCE, &nonce).build())).unwrap();
    assert_eq!((listener(&client), answer.code()), (1, 438));
}

#[test]
fn security_6_without_proof_an_answer_is_at_most_1_6_times_its_request() {
    use AttributeType as T;
    for (source, own, other) in [(CLIENT, "192.0.2.1", "192.0.2.2"), ("[2a00::7]:40000", "[2a00::1]", "[2a00::2]")] {
        let at_port = |listener, ip: &str, port| socket(listener, &format!("{ip}:{port}"));
        let mut fixture = Fixture::with(|config| {
            let primary = [at_port(1, own, 3479), at_port(2, own, 3480)];
            let alternate = Alternate::Here([at_port(3, other, 3479), at_port(4, other, 3480)]);
            config.discovery = vec![Discovery { primary, alternate, serves_unproven: false }];
        });
        // The mapped address alone is 44 bytes over IPv6, at every STUN server.
        let least = if own.starts_with('[') { 44 } else { 32 };
        let mut had = Vec::new();
        for length in (0..200).step_by(4) {
            for fingerprint in [false, true] {
                fixture.now += std::time::Duration::from_secs(2);
                let request = match length {
                    0 => binding(),
                    length => binding().attribute(T::SOFTWARE, &vec![b'x'; length]),
                };
                let request = if fingerprint { request.fingerprint() } else { request }.build();
                let (_, answer) = one(fixture.raw(at(1, source), &request)).unwrap();
                let allowed = (request.len() * 8 / 5).max(least + if fingerprint { 8 } else { 0 });
                assert!(answer.0.len() <= allowed, "{} bytes for {}", answer.0.len(), request.len());
                let message = answer.message();
                let with = [T::OTHER_ADDRESS, T::RESPONSE_ORIGIN, T::MAPPED_ADDRESS].map(|kind| message.has(kind));
                assert!(message.has(T::XOR_MAPPED_ADDRESS) && with.is_sorted_by(|a, b| a >= b), "{with:?}");
                had.push(with);
            }
        }
        assert_eq!((had[0], had[had.len() - 1]), ([false; 3], [true; 3]));
        let padded = binding().attribute(T::PADDING, &[0; 400]).build();
        let (_, answer) = one(fixture.raw(at(1, source), &padded)).unwrap();
        assert_eq!(answer.message().attribute(T::PADDING).unwrap().value.len(), 400);
        assert!(answer.0.len() * 5 <= padded.len() * 8);
    }
}

#[test]
fn security_6_a_spoofed_source_gets_five_changed_answers_a_second_and_thirty_in_all() {
    let mut fixture = here();
    let changed = (0..1000).filter(|_| one(fixture.raw(at(1, CLIENT), &changing(0x06).build())).is_some()).count();
    assert_eq!(changed, 5);
    // Whatever the port, and the requests that got nothing count as well.
    let plain = (0..1000).filter(|_| one(fixture.raw(at(1, "198.18.0.1:40001"), &binding().build())).is_some()).count();
    assert_eq!(plain, 0, "the changed ones have used up the budget");
    assert!(one(fixture.raw(at(1, "198.18.0.2:1"), &binding().build())).is_some(), "another source is served");
    assert_eq!(fixture.server.counters().discoveries, 6);
    assert!(matches!(fixture.server.poll_output(), Output::Timeout(None)), "nothing is remembered");
}

#[test]
fn security_6_a_flood_of_forged_sources_gets_fifty_changed_answers_a_second_and_the_proven_are_served() {
    let mut fixture = here();
    let nonce = proof(&mut fixture);
    let from = |source: u32| format!("{}:7", std::net::Ipv4Addr::from(0x1700_0000 + source));
    let mut answers = [0, 0];
    for source in 0..20_000 {
        for (count, request) in answers.iter_mut().zip([changing(0x06), binding()]) {
            *count += usize::from(one(fixture.raw(at(1, &from(source)), &request.build())).is_some());
        }
        fixture.now += std::time::Duration::from_micros(100);
    }
    assert_eq!(answers, [100, 400], "changed and others in two seconds");
    let proven = changing(0x06).text(AttributeType::NONCE, &nonce).build();
    assert!(one(fixture.raw(at(1, CLIENT), &proven)).is_some(), "who has proven itself");
    let (_, asked) = one(fixture.raw(at(1, "198.18.0.3:9"), &asking_for_proof().build())).unwrap();
    assert_eq!(asked.code(), 438, "and who wants to");
}

#[test]
fn security_6_a_flood_of_forged_sources_gets_two_hundred_errors_a_second_and_the_proven_are_served() {
    let unknown = binding().u32(AttributeType::RESPONSE_PORT, 7);
    let wrong = binding().text(AttributeType::NONCE, "AAAAAAAAAAAA");
    for (serves_unproven, request) in
        [(true, asking_for_proof()), (true, wrong), (true, unknown), (false, changing(0x06))]
    {
        let mut fixture = serving_unproven(serves_unproven);
        let nonce = proof(&mut fixture);
        fixture.now += std::time::Duration::from_secs(2);
        let mut answers = 0;
        for source in 0..20_000_u32 {
            let from = format!("{}:7", std::net::Ipv4Addr::from(0x1700_0000 + source));
            answers += usize::from(one(fixture.raw(at(1, &from), &request.clone().build())).is_some());
            fixture.now += std::time::Duration::from_micros(100);
        }
        assert_eq!(answers, 400, "errors in two seconds");
        let proven = changing(0x06).text(AttributeType::NONCE, &nonce).build();
        assert!(one(fixture.raw(at(1, CLIENT), &proven)).is_some(), "who has proven itself");
        assert!(one(fixture.raw(at(1, CLIENT), &binding().build())).is_some(), "and who wants no proof");
    }
}

#[test]
fn security_6_a_nonce_is_at_most_1_6_times_what_was_asked_with() {
    for nonce in ["", "A", "AAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAA"] {
        for (changes, fingerprint) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut fixture = serving_unproven(false);
            let request = if changes { changing(0x06) } else { binding() }.text(AttributeType::NONCE, nonce);
            let request = if fingerprint { request.fingerprint() } else { request }.build();
            let answer = one(fixture.raw(at(1, CLIENT), &request));
            let length = if fingerprint { 52 } else { 44 };
            assert_eq!(answer.is_some(), length * 5 <= request.len() * 8, "{} bytes", request.len());
            if let Some((_, answer)) = answer {
                assert_eq!((answer.code(), answer.0.len()), (438, length));
            } else {
                assert_eq!(fixture.server.counters().discoveries_withheld, 1);
            }
        }
    }
}

/// A clock of its own is enough for one server alone.
#[test]
fn security_2_nonces_of_one_server_do_not_follow_the_wall_clock() {
    let mut fixture = here();
    let nonce = proof(&mut fixture);
    fixture.server.set_wall_clock(fixture.now, fixture.now + std::time::Duration::from_secs(86_400));
    let proven = changing(0x06).text(AttributeType::NONCE, &nonce).build();
    let (client, answer) = one(fixture.raw(at(1, CLIENT), &proven)).unwrap();
    assert_eq!((listener(&client), answer.code()), (4, 0));
}

#[test]
fn security_6_a_proven_source_has_a_budget_of_its_own_and_a_stolen_nonce_is_worth_nothing() {
    let mut fixture = here();
    let nonce = proof(&mut fixture);
    let proven = changing(0x06).text(AttributeType::NONCE, &nonce).build();
    let answered = (0..1000).filter(|_| one(fixture.raw(at(1, CLIENT), &proven)).is_some()).count();
    assert_eq!(answered, 60);
    for thief in ["198.18.0.1:40001", "198.18.0.9:40000"] {
        let (client, answer) = one(fixture.raw(at(1, thief), &proven)).unwrap();
        assert_eq!((listener(&client), answer.code()), (1, 438), "{thief}");
    }
    fixture.now += std::time::Duration::from_secs(200);
    let (_, answer) = one(fixture.raw(at(1, CLIENT), &proven)).unwrap();
    assert_eq!(answer.code(), 438, "an old nonce");
}

#[test]
fn security_6_padding_is_returned_in_its_own_size_and_bounded() {
    let mut fixture = here();
    for (asked, returned) in [(0, 0), (4, 4), (500, 500), (1280, 1280), (9000, 1280)] {
        let request = binding().attribute(AttributeType::PADDING, &vec![0; asked]).build();
        let (_, answer) = one(fixture.raw(at(1, CLIENT), &request)).unwrap();
        assert_eq!(answer.message().attribute(AttributeType::PADDING).unwrap().value.len(), returned);
        assert!(answer.0.len() <= request.len() + 48);
    }
}

#[test]
fn two_servers_with_one_address_each_are_each_others_alternate() {
    let (mut first, mut second) =
        (one_of_two("192.0.2.1", "192.0.2.2", "north"), one_of_two("192.0.2.2", "192.0.2.1", "north"));
    let (_, plain) = one(first.raw(at(1, CLIENT), &binding().build())).unwrap();
    assert_eq!(plain.message().address(AttributeType::OTHER_ADDRESS), "192.0.2.2:3480".parse().ok());
    let (client, port) = one(first.raw(at(1, CLIENT), &changing(0x02).build())).unwrap();
    assert_eq!((listener(&client), port.code()), (2, 0), "its own other port needs nobody");
    let (client, refused) = one(first.raw(at(1, CLIENT), &changing(0x06).build())).unwrap();
    assert_eq!((client.source.to_string().as_str(), refused.code()), (CLIENT, 438), "without proof");

    let nonce = proof(&mut first);
    for (flags, from) in [(0x04, 1), (0x06, 2)] {
        let request = changing(flags).text(AttributeType::NONCE, &nonce).build();
        let (partner, forward) = one(first.raw(at(1, CLIENT), &request)).unwrap();
        let to = format!("192.0.2.2:{}", 3478 + from);
        assert_eq!((listener(&partner), partner.source.to_string()), (1, to));
        assert!(forward.0.len() <= 200, "{}", forward.0.len());
        let arrives = at(from, "192.0.2.1:3479");
        let (client, answer) = one(second.raw(arrives, &forward.0)).unwrap();
        assert_eq!((listener(&client), client.source.to_string().as_str()), (from, CLIENT));
        let message = answer.message();
        assert_eq!((message.class, message.transaction), (Class::Success, ID));
        assert_eq!(message.xor_address(AttributeType::XOR_MAPPED_ADDRESS), CLIENT.parse().ok());
        let origin = format!("192.0.2.2:{}", 3478 + from);
        assert_eq!(message.address(AttributeType::RESPONSE_ORIGIN), origin.parse().ok());
        assert!(one(second.raw(arrives, &forward.0)).is_none(), "the same again");
    }
}

#[test]
fn security_6_a_server_answers_for_another_only_what_is_surely_its_own_fresh_and_proven() {
    let nonce = proof(&mut one_of_two("192.0.2.1", "192.0.2.2", "north"));
    let forward_of = |secret: &str, nonce: &str| {
        let mut first = one_of_two("192.0.2.1", "192.0.2.2", secret);
        let own = proof(&mut first);
        let nonce = if nonce.is_empty() { own } else { nonce.to_owned() };
        let request = changing(0x06).text(AttributeType::NONCE, &nonce).build();
        one(first.raw(at(1, CLIENT), &request)).map(|(_, forward)| forward.0)
    };
    let good = forward_of("north", &nonce).unwrap();
    let from = "192.0.2.1:3479";
    let answers = |bytes: &[u8], from: &str, later: u64| {
        let mut second = one_of_two("192.0.2.2", "192.0.2.1", "north");
        second.now += std::time::Duration::from_secs(later);
        one(second.raw(at(2, from), bytes)).is_some()
    };
    assert!(answers(&good, from, 0) && answers(&good, from, 59));
    assert!(!answers(&good, from, 61), "old");
    assert!(!answers(&good, "192.0.2.9:3479", 0), "from elsewhere");
    assert!(!answers(&good, "192.0.2.1:5000", 0), "from another port");
    assert!(!answers(&forward_of("south", "").unwrap(), from, 0), "another secret");
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert!(!answers(&changed, from, 0), "byte {at} changed");
    }
    // A server that lies about the proof: signed rightly, with a nonce for another address.
    let key = crate::wire::integrity::Key::short_term(
        &SharedSecret::new("north").unwrap().derived_password("whyrelay discovery"),
    );
    let lie = MessageBuilder::new(Class::Indication, Method::FORWARD, ID)
        .xor_address(AttributeType::XOR_PEER_ADDRESS, "198.18.0.7:7".parse().unwrap())
        .attribute(AttributeType::PROBE_PORT, &probe::port_value(3480))
        .text(AttributeType::NONCE, &nonce)
        .u64(AttributeType::PROBE_TIME, START.as_micros())
        .integrity_sha256(&key)
        .build();
    assert!(!answers(&lie, from, 0), "no proof for that address");
}

#[test]
fn two_servers_with_a_new_secret_and_clocks_that_were_set_are_each_others_alternate() {
    let (mut first, mut second) =
        (one_of_two("192.0.2.1", "192.0.2.2", "old"), one_of_two("192.0.2.2", "192.0.2.1", "north"));
    let answers = |first: &mut Fixture, second: &mut Fixture| {
        let nonce = proof(first);
        let request = changing(0x06).text(AttributeType::NONCE, &nonce).build();
        let (_, forward) = one(first.raw(at(1, CLIENT), &request)).unwrap();
        one(second.raw(at(2, "192.0.2.1:3479"), &forward.0)).is_some()
    };
    assert!(!answers(&mut first, &mut second), "another secret");
    first.server.set_discovery_secret(&SharedSecret::new("north").unwrap());
    assert!(answers(&mut first, &mut second));
    // The first began a day before the second, by its own clock, which was wrong.
    let day = std::time::Duration::from_secs(86_400);
    second.now = START + day;
    assert!(!answers(&mut first, &mut second), "a day apart");
    first.server.set_wall_clock(first.now, START + day);
    assert!(answers(&mut first, &mut second), "what it was set to since");
}
