//! What a check of one host says of a slow network, of servers that send elsewhere or drain, of a dead address beside one
//! that lives, and of a host that lets nothing in.

use std::time::Duration;

use whyrelay_core::host::{FirewallRule, HostFact, OwnConnection};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::CheckReport;
use whyrelay_core::trace::event::{Direction, EndReason, EventKind, ServerFailure, SignalingState, Transport, Vantage};
use whyrelay_core::trace::measurement::{Measurement, ONLY_NAT, WITHOUT_ANSWER};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method};

use crate::builder::{Session, address};
use crate::report::{A, A_MAPPED, RELAYED, STUN};

const TURN_URL: &str = "turn:192.0.2.10:3478";

/// A check that has begun.
fn started(consents: &[&str]) -> Session {
    let mut session = Session::new();
    let consents = consents.iter().map(|consent| (*consent).to_owned()).collect();
    session.push(Vantage::A, EventKind::CheckStarted { consents });
    session
}

/// What a check says; it has no peer.
fn report(session: &Session) -> CheckReport {
    let mut events = session.of(Vantage::A);
    events.retain(|event| !matches!(event.kind, EventKind::Description { .. } | EventKind::IceStarted { .. }));
    CheckReport::from_events(&events)
}

/// Codes of findings that are more than information, with whose fault they are.
fn harmful(report: &CheckReport) -> Vec<String> {
    let harmful = report.findings.iter().filter(|finding| finding.severity.name() != "info");
    harmful.map(|finding| format!("{} {}", finding.code, finding.blame.name())).collect()
}

/// The rows of a name: value and whether it stands out.
fn row(report: &CheckReport, name: &str) -> Vec<(String, String)> {
    let rows = report.rows.iter().filter(|row| row.name == name);
    rows.map(|row| (row.value.clone(), format!("{:?}", row.state).to_lowercase())).collect()
}

fn missing(session: &mut Session, what: &str, why: &str) {
    session.push(Vantage::A, EventKind::NotMeasured { what: what.into(), why: why.into() });
}

/// A request of one socket to a server: eight times, and its answer after so long, if any.
fn slow_binding(session: &mut Session, local: &str, server: &str, after: Option<Duration>) {
    let id = session.id();
    let request = MessageBuilder::new(Class::Request, Method::BINDING, id).build();
    for _ in 0..8 {
        session.datagram(Vantage::A, Direction::Out, local, server, &request, None);
    }
    let (transport, detail, unannounced) = (Transport::Udp, None, false);
    let (local_of, remote, rtt_us) = (Some(address(local)), address(server), None);
    let reach = Measurement::Reach { transport, local: local_of, remote, rtt_us, detail, unannounced };
    session.push(Vantage::A, EventKind::Measured(reach));
    missing(session, "mapping", WITHOUT_ANSWER);
    if let Some(after) = after {
        session.wait(after);
        let answer = MessageBuilder::new(Class::Success, Method::BINDING, id)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(A_MAPPED))
            .build();
        for _ in 0..8 {
            session.datagram(Vantage::A, Direction::In, local, server, &answer, None);
        }
    }
}

#[test]
fn answers_that_come_later_than_a_check_waits_are_no_firewall_and_no_dead_server() {
    let look = |after: Option<Duration>| {
        let mut session = started(&[]);
        session.push(Vantage::A, EventKind::ServerKnown { url: TURN_URL.into(), announced: false });
        slow_binding(&mut session, A, STUN, after);
        // The TURN client on another socket, likewise.
        let other = "192.168.1.2:40001";
        let id = session.id();
        let request = MessageBuilder::new(Class::Request, Method::ALLOCATE, id).build();
        for _ in 0..8 {
            session.datagram(Vantage::A, Direction::Out, other, STUN, &request, None);
        }
        let failure = ServerFailure::Timeout { transmissions: 8, took_us: 1_500_000 };
        let (server, method, local) = (TURN_URL.to_owned(), "Allocate".to_owned(), Some(address(other)));
        session.push(Vantage::A, EventKind::ServerFailed { server, local, method, failure });
        if let Some(after) = after {
            session.wait(after);
            let answer = MessageBuilder::new(Class::Error, Method::ALLOCATE, id).error(401, "no").build();
            session.datagram(Vantage::A, Direction::In, other, STUN, &answer, None);
        }
        // They reached the interface in any case.
        session.arrived_packet("eth0", STUN, A);
        report(&session)
    };
    let slow = look(Some(Duration::from_secs(2)));
    assert_eq!(harmful(&slow), ["WR510 the path"], "{:#?}", slow.findings);
    assert!(slow.summary.contains("answered this host over UDP 2.0 s after it was asked"), "{}", slow.summary);
    let (udp, state) = &row(&slow, "UDP")[0];
    assert!(udp.starts_with("answered after 2.0 s") && state == "warning", "{udp} {state}");
    let (allocation, state) = &row(&slow, "allocation")[0];
    assert!(allocation.starts_with("answered after 2.0 s") && state == "warning", "{allocation} {state}");
    assert!(row(&slow, "UDP, servers' ports")[0].0.contains("passes (1 of 1)"));
    let why: Vec<&str> =
        slow.not_measured.iter().filter(|missing| missing.what == "mapping").map(|missing| &*missing.why).collect();
    assert_eq!(why, ["the servers answered when the check waited no longer (--time gives it more)"]);
    // Without an answer to any socket what reached the interface was dropped here.
    let dropped = look(None);
    assert!(harmful(&dropped).contains(&"WR111 A".to_owned()), "{:#?}", dropped.findings);
    assert_eq!(row(&dropped, "UDP")[0], ("no answer".to_owned(), "bad".to_owned()));
}

/// A refusal of an allocation, after the challenge.
fn refuses(session: &mut Session, local: &str, server: &str, code: u16, reason: &str, alternate: Option<&str>) {
    let id = session.id();
    let request = MessageBuilder::new(Class::Request, Method::ALLOCATE, id)
        .text(AttributeType::USERNAME, "alice")
        .text(AttributeType::REALM, "x")
        .build();
    session.datagram(Vantage::A, Direction::Out, local, server, &request, None);
    let mut answer = MessageBuilder::new(Class::Error, Method::ALLOCATE, id).error(code, reason);
    if let Some(alternate) = alternate {
        answer = answer.address(AttributeType::ALTERNATE_SERVER, address(alternate));
    }
    session.datagram(Vantage::A, Direction::In, local, server, &answer.build(), None);
    let failure = ServerFailure::ErrorResponse { code, reason: reason.into(), expected: alternate.is_some() };
    let (method, local) = ("Allocate".to_owned(), Some(address(local)));
    session.push(Vantage::A, EventKind::ServerFailed { server: TURN_URL.into(), local, method, failure });
}

#[test]
fn a_server_that_sends_elsewhere_is_told_with_where_and_what_that_one_said() {
    const OTHER: &str = "198.51.100.3:3478";
    let look = |then: &dyn Fn(&mut Session)| {
        let mut session = started(&[]);
        session.push(Vantage::A, EventKind::ServerKnown { url: TURN_URL.into(), announced: false });
        // Over TCP it says nothing of the kind.
        let over_tcp = format!("{TURN_URL}?transport=tcp");
        session.push(Vantage::A, EventKind::ServerKnown { url: over_tcp, announced: false });
        refuses(&mut session, A, STUN, 300, "Try Alternate", Some(OTHER));
        then(&mut session);
        report(&session)
    };
    let told = |report: &CheckReport| row(report, "sent on to");
    let says = |what: &str, state: &str| {
        vec![(format!("{OTHER}, by its answer 300 (Try Alternate): {what}"), state.to_owned())]
    };
    let gave = look(&|session| session.allocate(Vantage::A, A, OTHER, RELAYED, A_MAPPED, "198.51.100.9:1"));
    assert_eq!(told(&gave), says("it gave an allocation", "good"));
    assert_eq!(harmful(&gave), Vec::<String>::new());
    assert_eq!(told(&look(&|_| {})), says("it was not asked", "warning"));
    let refused = look(&|session| refuses(session, A, OTHER, 486, "Quota", None));
    assert_eq!(told(&refused), says("it refuses an allocation with 486", "bad"));
    assert!(harmful(&refused).contains(&"WR405 the relay".to_owned()));
    let silent = look(&|session| {
        let id = session.id();
        let request = MessageBuilder::new(Class::Request, Method::ALLOCATE, id).build();
        for _ in 0..8 {
            session.datagram(Vantage::A, Direction::Out, A, OTHER, &request, None);
        }
        let failure = ServerFailure::Timeout { transmissions: 8, took_us: 1_500_000 };
        let (server, method, local) = (TURN_URL.to_owned(), "Allocate".to_owned(), Some(address(A)));
        session.push(Vantage::A, EventKind::ServerFailed { server, local, method, failure });
    });
    assert_eq!(told(&silent), says("it did not answer", "bad"));
    let unusable =
        silent.findings.iter().find(|finding| finding.code == "WR402").map(|finding| finding.summary.as_str());
    let unusable = unusable.unwrap_or_default();
    assert!(unusable.contains(&format!("it sends on to {OTHER}, which answers none of 8 requests")), "{unusable}");
    // One that sends nobody on has no such row.
    let mut session = started(&[]);
    session.push(Vantage::A, EventKind::ServerKnown { url: TURN_URL.into(), announced: false });
    refuses(&mut session, A, STUN, 486, "Quota", None);
    assert!(told(&report(&session)).is_empty());
}

#[test]
fn a_server_that_drains_needs_no_larger_quota() {
    let advice = |code: u16, reason: &str| {
        let mut session = started(&[]);
        refuses(&mut session, A, STUN, code, reason, None);
        let report = report(&session);
        let found = report.findings.iter().find(|finding| finding.code == "WR405").expect("it refuses");
        (found.summary.clone(), found.advice.join(" "))
    };
    let (summary, draining) = advice(508, "Draining");
    assert!(summary.ends_with("with 508, as it drains: it is to end soon, and lets nobody new in"), "{summary}");
    assert!(
        !draining.contains("quota") && !draining.contains("port range") && draining.contains("--turn"),
        "{draining}"
    );
    let (_, full) = advice(508, "Insufficient Capacity");
    assert!(full.contains("port range") && full.contains("drains") && full.contains("--turn"), "{full}");
    let (_, quota) = advice(486, "Allocation Quota Reached");
    assert!(quota.contains("quota") && !quota.contains("508") && !quota.contains("drains"), "{quota}");
}

/// Two servers at different addresses that see one socket are the measurement; it is not called missing because another
/// socket asked one of them only.
#[test]
fn what_two_servers_told_one_socket_is_measured() {
    let told = |second: Option<&str>| {
        let mut session = started(&[]);
        session.stun(Vantage::A, A, STUN, Some(A_MAPPED));
        if let Some(second) = second {
            session.stun(Vantage::A, "192.168.1.2:40001", STUN, Some("203.0.113.1:40001"));
            session.stun(Vantage::A, "192.168.1.2:40001", second, Some("203.0.113.1:40001"));
        }
        let report = report(&session);
        report.not_measured.iter().any(|missing| missing.codes.contains(&"WR206"))
    };
    assert!(told(None), "one server");
    assert!(told(Some("192.0.2.10:3479")), "two ports of one server");
    assert!(!told(Some("192.0.2.11:3478")), "two servers");
}

#[test]
fn a_lifetime_that_was_asked_for_is_missing_for_a_reason_and_not_for_want_of_a_flag() {
    let why = |consents: &[&str]| {
        let mut session = started(consents);
        session.stun(Vantage::A, A, STUN, Some(A_MAPPED));
        missing(&mut session, "the lifetime of an idle mapping", "it takes a TURN server over UDP");
        let report = report(&session);
        let of_rule = report.not_measured.into_iter().find(|missing| missing.codes.contains(&"WR205"));
        of_rule.map(|missing| missing.why).unwrap_or_default()
    };
    let unasked = why(&[]);
    assert!(unasked.contains("--lifetime measures it"), "{unasked}");
    let asked = why(&["lifetime"]);
    assert!(!asked.contains("--lifetime") && asked.contains("it takes a TURN server over UDP"), "{asked}");
}

/// Of a name with an address of each family, over TCP: one relays and the other is dead.
#[test]
fn a_dead_address_of_a_turn_name_is_a_finding_beside_one_that_relays() {
    const URL: &str = "turn:turn.example:3478?transport=tcp";
    let look = |dead: &[&str], relays: bool| {
        let mut session = started(&[]);
        session.push(Vantage::A, EventKind::ServerKnown { url: URL.into(), announced: false });
        if relays {
            session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, "198.51.100.9:1");
            session.local_candidate(Vantage::A, CandidateType::Relayed, RELAYED, RELAYED, Some(URL));
        }
        for local in dead {
            let failure = ServerFailure::ConnectionFailed { detail: "no answer within 2.1 s".into() };
            let (server, method, local) = (URL.to_owned(), "Allocate".to_owned(), Some(address(local)));
            session.push(Vantage::A, EventKind::ServerFailed { server, local, method, failure });
        }
        let report = report(&session);
        let found = report.findings.into_iter().filter(|finding| finding.code == "WR402");
        found.map(|finding| finding.summary).collect::<Vec<_>>()
    };
    let six = "[2001:db8::2]:0";
    let one = look(&[six], true);
    assert_eq!(one, [format!("This host cannot use {URL} (over IPv6: no answer within 2.1 s)")]);
    assert!(look(&["192.168.1.2:0"], true).is_empty(), "another attempt over the same family relays");
    let both = look(&[six, "192.168.1.2:0"], false);
    assert_eq!(both, [format!("This host cannot use {URL} (no answer within 2.1 s)")]);
}

/// Packets that reached no program, and a rule that drops some, are no proof that they were signaling's: the host is told
/// to look at its firewall, and signaling stays the one that does not answer.
#[test]
fn a_firewall_that_may_shut_signaling_out_is_a_doubt_and_no_finding() {
    let look = |detail: &str, rule: &dyn Fn(&mut Session), lost: i64| {
        let mut session = started(&[]);
        rule(&mut session);
        session.counters(Vantage::A, &[("Ip.InReceives", 20 + lost), ("Ip.InDelivers", 20)]);
        let state = SignalingState::Failed { detail: detail.into() };
        session.push(Vantage::A, EventKind::Signaling { server: "http://192.0.2.10:8080".into(), state });
        session.end(Vantage::A, EndReason::Finished);
        let report = report(&session);
        assert_eq!(harmful(&report), ["WR701 signaling"], "{:#?}", report.findings);
        let found = report.findings.into_iter().find(|finding| finding.code == "WR701").expect("signaling");
        (found.doubt.clone(), found.advice.join(" "))
    };
    const SILENT: &str = "the server did not answer within 2.5 s";
    const LET_IN: &str = "nft insert rule inet filter input ct state established,related accept";
    let (doubt, advice) = look(SILENT, &|session| session.firewall("input", "counter drop", Some("drop"), 9), 9);
    assert!(doubt.starts_with("9 packets reached the kernel of this host and no program"), "{doubt}");
    assert!(advice.contains(LET_IN), "{advice}");
    // Three broadcasts, a policy like ufw's and a server that is dead.
    let (doubt, advice) = look(SILENT, &|session| session.policy("input", "drop"), 3);
    assert!(
        doubt.starts_with("3 packets reached the kernel") && advice.contains("nft insert rule inet own in"),
        "{doubt} {advice}"
    );
    // A server that refuses is heard; a resolver is another; packets that were not lost, or that no rule drops, are nothing.
    let policy = |session: &mut Session| session.policy("input", "drop");
    for (doubt, advice) in [
        look("Connection refused (os error 111)", &policy, 9),
        look("the resolver did not answer within 2.0 s", &policy, 9),
        look(SILENT, &policy, 0),
        look(SILENT, &|_| {}, 9),
    ] {
        assert!(!doubt.contains("packets reached") && !advice.contains("nft insert"), "{doubt} {advice}");
    }
}

/// A network is slow where no server answered in time. Else the late one is slow itself, and a dead one dead.
#[test]
fn one_slow_server_hides_no_dead_ones() {
    const DEAD: &str = "192.0.2.77:3478";
    const DEAD_URL: &str = "turn:192.0.2.77:3478";
    let look = |one_in_time: bool| {
        let mut session = started(&[]);
        session.push(Vantage::A, EventKind::ServerKnown { url: DEAD_URL.into(), announced: false });
        if one_in_time {
            session.stun(Vantage::A, "192.168.1.2:40005", "192.0.2.5:3478", Some("203.0.113.1:40005"));
        }
        slow_binding(&mut session, "192.168.1.2:40004", DEAD, None);
        let failure = ServerFailure::Timeout { transmissions: 8, took_us: 1_500_000 };
        let (server, method, local) = (DEAD_URL.to_owned(), "Allocate".to_owned(), Some(address("192.168.1.2:40004")));
        session.push(Vantage::A, EventKind::ServerFailed { server, local, method, failure });
        slow_binding(&mut session, A, STUN, Some(Duration::from_secs(2)));
        let report = report(&session);
        let late = report.findings.iter().find(|finding| finding.code == "WR510").expect("it is late");
        (harmful(&report), late.summary.clone())
    };
    let (slow, summary) = look(false);
    assert_eq!(slow, ["WR510 the path"], "nothing is known of a server that may be as slow");
    assert!(summary.starts_with("The network is slow"), "{summary}");
    let (one, summary) = look(true);
    assert!(summary.contains("it is slow or the way to it, not this network"), "{summary}");
    for code in ["WR301", "WR402", "WR510"] {
        assert!(one.contains(&format!("{code} the relay")), "{code} of {one:?}");
    }
}

/// Packets by which connections begin, seen at an interface: what left to signaling, and what came back after so long.
fn connections(session: &mut Session, came_back: Option<(u64, u64)>) {
    let (here, signaling) = (address("192.168.1.2:51000"), address("192.0.2.10:8080"));
    let device = || "eth0".to_owned();
    let (source, destination) = (here, signaling);
    let left = OwnConnection {
        device: device(),
        arrived: false,
        source,
        destination,
        packets: 6,
        after_us: None,
        late: false,
    };
    session.fact(Vantage::A, HostFact::OwnConnection(left));
    if let Some((packets, after_us)) = came_back {
        let (source, destination, after_us) = (signaling, here, Some(after_us));
        let arrived =
            OwnConnection { device: device(), arrived: true, source, destination, packets, after_us, late: false };
        session.fact(Vantage::A, HostFact::OwnConnection(arrived));
    }
}

/// Signaling did not answer, and the check ends.
fn fail_signaling(session: &mut Session) {
    let detail = "the server did not answer within 2.5 s".to_owned();
    let (server, state) = ("http://192.0.2.10:8080".to_owned(), SignalingState::Failed { detail });
    session.push(Vantage::A, EventKind::Signaling { server, state });
    session.end(Vantage::A, EndReason::Finished);
}

/// Where connections to signaling are looked at, whose fault their silence is is no doubt.
#[test]
fn what_signaling_answers_and_no_program_gets_is_dropped_here_late_or_never_sent() {
    let look = |came_back: Option<(u64, u64)>, rule: &dyn Fn(&mut Session)| {
        let mut session = started(&[]);
        rule(&mut session);
        session.counters(Vantage::A, &[("Ip.InReceives", 29), ("Ip.InDelivers", 20)]);
        connections(&mut session, came_back);
        fail_signaling(&mut session);
        report(&session)
    };
    let policy = |session: &mut Session| session.policy("input", "drop");
    let dropped = look(Some((11, 20_000)), &policy);
    assert_eq!(harmful(&dropped), ["WR111 A"], "{:#?}", dropped.findings);
    let found = &dropped.findings[0];
    assert!(
        found.summary.starts_with("11 packets by which http://192.0.2.10:8080 answers this host's connections"),
        "{}",
        found.summary
    );
    assert!(found.advice.join(" ").contains("nft insert rule inet own in"), "{:?}", found.advice);
    // A rule that nobody may read drops them as well.
    assert_eq!(harmful(&look(Some((2, 20_000)), &|_| {})), ["WR111 A"]);
    // Another rule that took packets meanwhile did not take these: it is about another protocol, port or address.
    for other in ["meta l4proto udp counter drop", "tcp dport 22 counter drop", "ip saddr 203.0.113.0/24 counter drop"]
    {
        let report = look(Some((11, 20_000)), &|session| {
            session.firewall("input", other, Some("drop"), 40);
            session.policy("input", "drop");
        });
        assert_eq!(harmful(&report), ["WR111 A"], "{other}");
        let advice = report.findings[0].advice.join(" ");
        assert!(!report.findings[0].summary.contains(other) && advice.contains("inet own in"), "{other}: {advice}");
    }
    // One packet that is seen at a bridge and at its port is one.
    let twice = look(Some((1, 20_000)), &|session| {
        connections(session, Some((1, 20_000)));
        let Some(EventKind::HostFact { fact, .. }) = session.events.last_mut().map(|event| &mut event.kind) else {
            panic!("a fact");
        };
        let HostFact::OwnConnection(packet) = fact.as_mut() else { panic!("{fact:?}") };
        packet.device = "br0".to_owned();
    });
    assert_eq!(harmful(&twice), ["WR701 signaling"]);
    // One may have come when the connection was given up.
    assert_eq!(harmful(&look(Some((1, 20_000)), &|_| {})), ["WR701 signaling"]);
    let slow = look(Some((6, 2_100_000)), &policy);
    assert_eq!(harmful(&slow), ["WR701 the path"], "{:#?}", slow.findings);
    assert!(slow.findings[0].summary.contains("network of this host is slow"), "{}", slow.findings[0].summary);
    // The network is slow as well where a connection was begun late and given up soon.
    let mut late = started(&[]);
    policy(&mut late);
    connections(&mut late, Some((4, 600_000)));
    if let Some(EventKind::HostFact { fact, .. }) = late.events.last_mut().map(|event| &mut event.kind)
        && let HostFact::OwnConnection(packet) = fact.as_mut()
    {
        packet.late = true;
    }
    fail_signaling(&mut late);
    assert_eq!(harmful(&report(&late)), ["WR701 the path"]);
    let dead = look(None, &policy);
    assert_eq!(harmful(&dead), ["WR701 signaling"]);
    assert!(!dead.findings[0].doubt.contains("packets reached"), "{}", dead.findings[0].doubt);
}

#[test]
fn slow_servers_of_one_address_say_nothing_of_another() {
    let mut session = started(&[]);
    slow_binding(&mut session, A, STUN, Some(Duration::from_secs(2)));
    missing(&mut session, "mapping of 192.168.1.2", WITHOUT_ANSWER);
    missing(&mut session, "mapping of 10.9.9.9", WITHOUT_ANSWER);
    let report = report(&session);
    let why = |what: &str| report.not_measured.iter().find(|missing| missing.what == what).map(|missing| &*missing.why);
    assert!(why("mapping of 192.168.1.2").is_some_and(|why| why.starts_with("the servers answered when")));
    assert_eq!(why("mapping of 10.9.9.9"), Some(WITHOUT_ANSWER));
}

#[test]
fn a_check_of_the_nat_alone_says_that_it_was_no_more() {
    let mut session = started(&[]);
    session.stun(Vantage::A, A, STUN, Some(A_MAPPED));
    session.end(Vantage::A, EndReason::Finished);
    assert!(!report(&session).summary.contains("--only nat"));
    missing(&mut session, "relays", ONLY_NAT);
    assert!(report(&session).summary.ends_with(" Only the NAT was looked at (--only nat)."));
}

/// A rule of the own firewall on output is to blame for what it does to connections to the server, as far as its words say
/// that it takes them and what the program was told is what it does; else the server is, whatever such a rule counted.
#[test]
fn a_rule_on_output_is_blamed_for_signaling_where_it_surely_stops_it_like_this() {
    let refused = "cannot reach the signaling server at 192.0.2.10:8080: Connection refused (os error 111)";
    let prohibited = "cannot reach the signaling server at 192.0.2.10:8080: No route to host (os error 113)";
    let silent = "the server did not answer within 2.5 s";
    let unanswered = "cannot reach the signaling server at 192.0.2.10:8080: no answer";
    let no_tls = "no TLS with the signaling server at 192.0.2.10:8080: no answer";
    let not_signaling = "what answers at 192.0.2.10:8080 is no signaling server: status 404";
    let taken = "ip daddr 192.0.2.10 tcp dport 8080 counter";
    for (rule, verdict, detail, blame, doubt) in [
        (format!("{taken} reject with tcp reset"), "reject", refused, "A", false),
        (format!("{taken} reject with icmpx admin-prohibited"), "reject", prohibited, "A", false),
        (format!("{taken} drop"), "drop", silent, "A", false),
        (format!("{taken} drop"), "drop", unanswered, "A", false),
        (format!("oifname \"eth0\" {taken} drop"), "drop", silent, "A", false),
        // What the one is told of the other does not say.
        (format!("{taken} drop"), "drop", refused, "signaling", false),
        (format!("{taken} reject"), "reject", silent, "signaling", false),
        // The server was connected to.
        (format!("{taken} drop"), "drop", no_tls, "signaling", false),
        (format!("{taken} reject"), "reject", not_signaling, "signaling", false),
        // Whose packets these were the words do not tell.
        ("ct state invalid counter drop".into(), "drop", silent, "signaling", true),
        ("meta skuid 33 counter reject".into(), "reject", refused, "signaling", true),
        ("ct state invalid counter drop".into(), "drop", refused, "signaling", false),
        ("ip daddr 192.0.2.99 counter reject".into(), "reject", refused, "signaling", false),
        ("oifname \"wlan0\" counter reject".into(), "reject", refused, "signaling", false),
    ] {
        let mut session = started(&[]);
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.firewall("output", &rule, Some(verdict), 1);
        let (server, state) =
            ("http://192.0.2.10:8080".to_owned(), SignalingState::Failed { detail: detail.to_owned() });
        session.push(Vantage::A, EventKind::Signaling { server, state });
        session.end(Vantage::A, EndReason::Finished);
        let report = report(&session);
        assert_eq!(harmful(&report), [format!("WR701 {blame}")], "{rule}, {detail}: {:#?}", report.findings);
        let found = report.findings.into_iter().find(|finding| finding.code == "WR701").expect("signaling");
        let doubted = found.doubt.contains("whether connections to the server are among them is not known");
        assert_eq!(doubted, doubt, "{rule}, {detail}: {}", found.doubt);
    }
    // One ahead of it lets them out.
    let mut session = started(&[]);
    session.link(Vantage::A, "eth0", None, "192.168.1.2");
    session.firewall("output", "tcp dport 8080 accept", Some("accept"), 3);
    session.firewall("output", "counter drop", Some("drop"), 1);
    fail_signaling(&mut session);
    assert_eq!(harmful(&report(&session)), ["WR701 signaling"]);
    // Packets that a jump leads away, or to the rule, perhaps do not come to it; nor those that an untold rule lets out.
    let led = |jump: Option<(&str, &str)>, chain: &str, position: u32| {
        let mut session = started(&[]);
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        let mut rule = |words: &str, verdict, change: &dyn Fn(&mut FirewallRule)| {
            session.firewall("output", words, Some(verdict), 1);
            if let Some(EventKind::HostFact { fact, .. }) = session.events.last_mut().map(|event| &mut event.kind)
                && let HostFact::FirewallRule(rule) = fact.as_mut()
            {
                change(rule);
            }
        };
        if let Some((words, target)) = jump {
            rule(words, "jump", &|rule| rule.target = Some(target.to_owned()));
        }
        rule("counter drop", "drop", &|rule| (rule.chain, rule.position) = (chain.to_owned(), Some(position)));
        fail_signaling(&mut session);
        harmful(&report(&session))
    };
    assert_eq!(led(None, "output", 0), ["WR701 A"]);
    assert_eq!(led(Some(("udp dport 53 jump extra", "extra")), "output", 1), ["WR701 A"], "no TCP goes there");
    assert_eq!(led(Some(("jump extra", "extra")), "output", 1), ["WR701 signaling"]);
    assert_eq!(led(Some(("tcp dport 22 jump extra", "extra")), "extra", 0), ["WR701 signaling"]);
    assert_eq!(led(None, "output", 3), ["WR701 signaling"]);
}
