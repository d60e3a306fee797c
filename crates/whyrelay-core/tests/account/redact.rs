//! Nothing of the originals survives redaction, and what a diagnosis needs does.

use std::collections::BTreeSet;
use std::net::IpAddr;

use whyrelay_core::host::{HostFact, Moment};
use whyrelay_core::report::{Report, render_json};
use whyrelay_core::trace::address::{AddressClass, same_subnet};
use whyrelay_core::trace::event::{
    Direction, Event, EventKind, RefuseReason, ServerFailure, SignalingState, Transport, Vantage,
};
use whyrelay_core::trace::measurement::{Measurement, PortMapperProtocol};
use whyrelay_core::trace::recording::encode;
use whyrelay_core::trace::redact::{Redactor, redact};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method};

use crate::builder::{Session, address};
use crate::report::{A, STUN, finish_relayed, relayed};

const SECRET: &[u8] = b"a secret of this session";

/// Everything that must not survive, besides addresses.
const NAMES: [&str; 10] = [
    "alice",
    "bob",
    "aaaa",
    "bbbb",
    "relay.example.net",
    "printer-of-carol",
    "AB:CD",
    "enx001122334455",
    "carol.example",
    "ca:70:10:00:00:01",
];

fn session() -> Session {
    let mut session = relayed();
    let failure = ServerFailure::ConnectionFailed {
        detail: "cannot connect to relay.example.net (198.51.100.77:3478): refused; alice.".into(),
    };
    let server = "turns:relay.example.net:5349?transport=tcp".to_owned();
    let local = Some(address("[2001:db8:1:2::42]:40000"));
    session.push(Vantage::A, EventKind::ServerFailed { server, local, method: "Allocate".into(), failure });
    let interface = Some("enx001122334455".to_owned());
    let (transport, local) = (Transport::Udp, address("[fe80::1234:5678:9abc:def0]:40000"));
    session.push(Vantage::A, EventKind::SocketOpened { transport, local, interface, mark: None, receive_buffer: None });
    let line = "candidate:77 1 udp 1 printer-of-carol.local 5000 typ host raddr 10.9.8.7 rport 1 ufrag aaaa".to_owned();
    let reason = RefuseReason::Malformed { detail: "the type of the candidate is \"[2001:db8:1:2::43]:1\"".into() };
    session.push(Vantage::B, EventKind::RemoteCandidateRefused { line, reason });
    let server = "http://user:secret@carol.example:8080/rooms/alice?room=alice".to_owned();
    let state = SignalingState::Lost { detail: "bob at 172.16.3.4:1 is gone, 100.64.1.2 too".into() };
    session.push(Vantage::B, EventKind::Signaling { server, state });
    let (what, why) = ("mapping of 172.16.3.4", "198.51.100.77:3478 is silent, relay.example.net too");
    session.push(Vantage::B, EventKind::NotMeasured { what: what.to_owned(), why: why.to_owned() });
    let fact = Measurement::PortMapper {
        protocol: PortMapperProtocol::Upnp,
        gateway: Some(address("172.16.3.1:1").ip()),
        found: false,
        external: Some(address("198.51.100.79:1").ip()),
        detail: Some("it names another place than itself (http://carol.example:5000/x): not followed".to_owned()),
    };
    session.push(Vantage::B, EventKind::Measured(fact));
    for fact in host_facts() {
        session.push(Vantage::A, EventKind::HostFact { moment: Moment::Before, fact: Box::new(fact) });
    }
    let id = session.id();
    let bytes = MessageBuilder::new(Class::Error, Method::ALLOCATE, id)
        .error(300, "try 198.51.100.78")
        .text(AttributeType::REALM, "carol.example")
        .text(AttributeType::USERNAME, "1700000000:alice")
        .text(AttributeType::SOFTWARE, "turnd on carol.example")
        .address(AttributeType::ALTERNATE_SERVER, address("198.51.100.79:3478"))
        .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address("[2001:db8:1:2::44]:9"))
        .attribute(AttributeType(0xC0DE), b"alice was here")
        .fingerprint()
        .build();
    session.datagram(Vantage::A, Direction::In, A, STUN, &bytes, None);
    let hello = [&[22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25][..], &[11; 12], b"carol.example"].concat();
    session.datagram(Vantage::A, Direction::In, A, STUN, &hello, None);
    finish_relayed(&mut session);
    session
}

/// Host facts that name interfaces, hardware and neighbors.
fn host_facts() -> Vec<HostFact> {
    let facts = [
        r#"{"what":"link","device":"enx001122334455","index":9,"up":true,"running":true,"mtu":1500,"mac":"ca:70:10:00:00:01"}"#,
        r#"{"what":"firewall-rule","framework":"nftables","table_family":"inet","table":"fw","chain":"out","rule":"oifname enx001122334455 ip daddr 172.16.3.9/24 drop","verdict":"drop"}"#,
        r#"{"what":"software","software":"netbird","signs":["interface enx001122334455"],"environment":{"NB_HOME_RELAY_SERVERS":"rels://carol.example"}}"#,
        r#"{"what":"route","table":254,"destination":{"address":"198.51.100.79","length":32},"route_kind":"unicast","device":"enx001122334455"}"#,
    ];
    facts.iter().map(|fact| serde_json::from_str(fact).expect("a host fact")).collect()
}

/// Every address in a text, however it is written there.
fn addresses(text: &str) -> BTreeSet<IpAddr> {
    let is_part = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':');
    let words = text.split(|c| !is_part(c)).flat_map(|word| {
        let host = word.rsplit_once(':').map_or(word, |(host, _)| host);
        [word.trim_end_matches(['.', ':']), host]
    });
    words.filter_map(|word| word.parse().ok()).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn no_original_survives_in_text_or_bytes() {
    let events = session().events;
    let original: String = events.iter().map(encode).collect();
    let redacted_events = redact(&events, SECRET);
    let redacted: String = redacted_events.iter().map(encode).collect();
    let originals = addresses(&original);
    assert!(originals.len() >= 12, "{originals:?}");
    for text in
        ["198.51.100.77", "2001:db8:1:2::43", "10.9.8.7", "172.16.3.4", "100.64.1.2", "fe80::1234:5678:9abc:def0"]
    {
        assert!(originals.contains(&text.parse().expect("an address")), "{text}");
    }
    for ip in &originals {
        assert!(!addresses(&redacted).contains(ip), "{ip} survives in {redacted}");
        assert!(!redacted.contains(&ip.to_string()), "{ip} survives");
    }
    for name in NAMES {
        assert!(original.contains(name) || name == "carol.example", "{name} is not in the session");
        assert!(!redacted.contains(name), "{name} survives in {redacted}");
    }
    assert!(!redacted.contains("secret") && !redacted.contains("rooms"));

    let mut looked_at = 0;
    for (event, before) in redacted_events.iter().zip(&events) {
        let (EventKind::Datagram(after), EventKind::Datagram(before)) = (&event.kind, &before.kind) else { continue };
        looked_at += 1;
        for ip in &originals {
            let octets = match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let transaction = Message::decode(&after.data).map(|message| message.transaction.0).unwrap_or_default();
            let mask: Vec<u8> = [&[0x21, 0x12, 0xA4, 0x42][..], &transaction].concat();
            let xored: Vec<u8> = octets.iter().zip(&mask).map(|(octet, mask)| octet ^ mask).collect();
            assert!(!contains(&after.data, &octets) && !contains(&after.data, &xored), "{ip} survives in {after:?}");
        }
        for name in NAMES {
            assert!(!contains(&after.data, name.as_bytes()), "{name} survives in {after:?}");
        }
        let (old, new) = (Message::decode(&before.data), Message::decode(&after.data));
        if let (Ok(old), Ok(new)) = (old, new) {
            assert_eq!(
                (old.defects, old.transaction, old.attributes.len()),
                (new.defects, new.transaction, new.attributes.len())
            );
        }
    }
    assert!(looked_at > 20);
}

/// The account without the words of single events: free text that repeats a name of the other side is only recognized
/// where both sides' events are.
fn without_words(mut report: Report) -> String {
    report.timeline.moments.iter_mut().for_each(|moment| moment.text.clear());
    report.events.iter_mut().for_each(|event| event.text.clear());
    render_json(&report)
}

#[test]
fn both_sides_redacted_apart_fit_together_and_the_diagnosis_stays() {
    let session = session();
    let whole = Report::from_events(&session.events);
    let mut apart: Vec<Event> = redact(&session.of(Vantage::A), SECRET);
    apart.extend(redact(&session.of(Vantage::B), SECRET));
    let report = Report::from_events(&apart);
    let together = Report::from_events(&redact(&session.events, SECRET));
    assert_eq!(without_words(report.clone()), without_words(together));
    let codes = |report: &Report| {
        report.findings.iter().map(|finding| (finding.code, finding.evidence.clone())).collect::<Vec<_>>()
    };
    assert_eq!((report.path, codes(&report)), (whole.path, codes(&whole)));
    let chains = |report: &Report| {
        report
            .pairs
            .iter()
            .map(|pair| (pair.a_to_b.broken, pair.b_to_a.broken, pair.selected, pair.relayed))
            .collect::<Vec<_>>()
    };
    assert_eq!(chains(&report), chains(&whole));
    assert_eq!(report.candidates.len(), whole.candidates.len());
}

#[test]
fn a_name_in_free_text_ahead_of_its_own_field_is_found() {
    let mut session = Session::new();
    let failed = |server: &str, detail: &str| EventKind::ServerFailed {
        server: server.to_owned(),
        local: None,
        method: "Allocate".to_owned(),
        failure: ServerFailure::Unresolved { detail: detail.to_owned() },
    };
    // In an earlier event, and ahead in the same one.
    session.push(Vantage::A, failed("stun:192.0.2.1", "asked fileserver too"));
    session.push(Vantage::A, failed("turn:fileserver", "no such name: fileserver"));
    let originals = &session.events[session.events.len() - 2..];
    let mut redactor = Redactor::new(SECRET);
    let events: Vec<Event> = originals.iter().map(|event| redactor.event(event)).collect();
    assert!(encode(&events[0]).contains("fileserver"), "nobody can know yet that it is a name");
    assert!(!encode(&events[1]).contains("fileserver"));
    let again: Vec<Option<Event>> = events.iter().map(|event| redactor.again(event)).collect();
    let first = again[0].as_ref().map(encode).unwrap_or_default();
    assert!(!first.is_empty() && !first.contains("fileserver"), "{first}");
    assert_eq!(again[1], None, "nothing is left to replace");
    assert_eq!(redact(originals, SECRET)[0], again[0].clone().unwrap());
}

#[test]
fn class_family_subnet_and_port_stay() {
    let mut redactor = Redactor::new(SECRET);
    let addresses = [
        "10.1.2.3:1",
        "10.1.2.4:1",
        "10.1.3.3:1",
        "172.20.0.9:1",
        "192.168.1.2:1",
        "192.168.1.77:1",
        "192.168.2.2:1",
        "100.64.7.8:1",
        "169.254.3.4:1",
        "203.0.113.1:1",
        "203.0.113.2:1",
        "203.0.114.1:1",
        "127.0.0.1:1",
        "127.4.5.6:1",
        "[::1]:1",
        "[fe80::1]:1",
        "[fe80::2]:1",
        "[fd00:1:2:3::4]:1",
        "[fd00:1:2:3::5]:1",
        "[2001:db8::1]:1",
        "[2001:db8::2]:1",
        "[2001:db8:0:1::2]:1",
        "[::ffff:10.1.2.3]:1",
    ]
    .map(address);
    let pseudonyms = addresses.map(|address| redactor.socket(address));
    for (i, original) in addresses.iter().enumerate() {
        assert_eq!(AddressClass::of(pseudonyms[i].ip()), AddressClass::of(original.ip()), "{original}");
        assert_eq!((pseudonyms[i].is_ipv4(), pseudonyms[i].port()), (original.is_ipv4(), original.port()));
        for (j, other) in addresses.iter().enumerate() {
            assert_eq!(pseudonyms[i] == pseudonyms[j], original == other, "{original} {other}");
            let same = same_subnet(original.ip(), other.ip());
            assert_eq!(same_subnet(pseudonyms[i].ip(), pseudonyms[j].ip()), same, "{original} {other}");
        }
    }
    let other = addresses.map(|address| Redactor::new(b"another secret").socket(address));
    assert_ne!(pseudonyms, other);
}

/// What a program installed is in the words of commands: a mark in it is no name, and stays the mark that rules have.
#[test]
fn a_mark_that_a_program_installed_is_no_name() {
    let line = include_str!("events.jsonl").lines().find(|line| line.contains("\"installed\":[")).expect("a program");
    let event: Event = serde_json::from_str(line).expect("an event");
    let texts: Vec<String> = redact(&[event], SECRET).iter().map(encode).collect();
    assert!(texts[0].contains("ip rule 110: not from all fwmark 0x1bd00 lookup 7120"), "{texts:?}");
}

/// What rules compare stays: which addresses are on one network, whatever the length of its prefix; and nothing of a
/// prefix that somebody has does, however it is written.
#[test]
fn networks_keep_what_they_cover_and_nothing_of_their_prefixes() {
    let texts = [
        "ip6 daddr 2001:db8:7:8::/64 drop",
        "route 2001:db8:7::/48, 2001:db8::/32 and 2001:db8:7:8::: no",
        "ip6 saddr 2001:db8:7:8::1-2001:db8:7:8::ff",
        "ip saddr 203.0.113.4-203.0.113.9 accept",
        "at fe80::ca70:10ff:fe00:1%eth0",
        "ip6 daddr fd00:77:8::/48",
        "via [2001:db8:7::]:3478",
        "to:2001:db8:7::/64",
        "[fe80::ca70:10ff:fe00:1%eth0]:53",
        "by udp:[fe80::ca70:10ff:fe00:1%eth0]:53 and [fe80::ca70:10ff:fe00:1%eth0]",
        "at fe80:0:77:8::1",
    ];
    for text in texts {
        let (what, why) = (text.to_owned(), String::new());
        let mut session = Session::new();
        session.push(Vantage::A, EventKind::NotMeasured { what, why });
        let redacted: String = redact(&session.events, SECRET).iter().map(encode).collect();
        for original in ["2001:db8", "203.0.113", "fe80::ca70", "fd00:77", "ca70:10ff", "77:8"] {
            assert!(!redacted.contains(original), "{original} of {text} survives in {redacted}");
        }
        assert!(!text.contains('/') || redacted.contains("/48") || redacted.contains("/64"), "{redacted}");
    }
    let mut redactor = Redactor::new(SECRET);
    let mut bits = |ip: &str| match redactor.socket(address(&format!("[{ip}]:1"))).ip() {
        IpAddr::V6(ip) => u128::from(ip),
        IpAddr::V4(ip) => panic!("{ip}"),
    };
    // The length of the prefix that two share, from the 20 bits on that all public ones get.
    for (one, other, shared) in [
        ("2001:db8:7:8::1", "2001:db8:7:8::2", 126),
        ("2001:db8:7:8::", "2001:db8:7:8:8000::", 64),
        ("2001:db8:7::", "2001:db8:7:8::1", 60),
        ("2001:db8::", "2001:db8:7:8::1", 45),
        ("2001:db8::", "2001:dbf::", 29),
        ("fd00:1:2:3::1", "fd00:1:2:4::1", 61),
        ("fe80::1", "fe80::8000:0:0:1", 64),
    ] {
        assert_eq!((bits(one) ^ bits(other)).leading_zeros(), shared, "{one} {other}");
    }
    // Others have those 20 bits alone, but for chance.
    assert!((bits("2001:db8::1") ^ bits("2a00:db8::1")).leading_zeros() < 40);
}
