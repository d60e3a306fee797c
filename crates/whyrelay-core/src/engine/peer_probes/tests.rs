//! Two peers' probes in virtual time: what is sent reaches a function that stands for the network.

use super::*;

const LOCAL: &str = "192.168.1.2:5000";
const MAPPED: &str = "203.0.113.1:5000";
const SERVER: &str = "192.0.2.1:3478";
const PEER: &str = "198.51.100.7:4000";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn credentials() -> (Credentials, Credentials) {
    (Credentials::new("aaaa", "a".repeat(22)), Credentials::new("bbbb", "b".repeat(22)))
}

/// What the network does with a datagram of the prober.
enum Fate {
    /// It is answered, from where it went to.
    Answer(Vec<u8>),
    Lost,
    Icmp(ProbeOutcome),
    Refuse(i32),
}

struct Run {
    probes: Vec<Probe>,
    announced: Vec<Vec<SocketAddr>>,
    sent: Vec<(SocketAddr, Option<u8>, usize)>,
    took: Duration,
    /// Knocks after a longer silence do not arrive.
    remembers: Duration,
}

/// Runs attempts to their end over a network of 20 ms.
fn run(attempts: Vec<Attempt>, mut network: impl FnMut(SocketAddr, &[u8], Option<u8>) -> Fate) -> Run {
    let (ours, theirs) = credentials();
    let mut prober = PeerProbes::new(ours, theirs, None, Random::from_seed([1; 32]));
    let start = Timestamp::from_micros(1_000_000);
    let (mut now, mut inbox) = (start, VecDeque::new());
    let mut run = Run {
        probes: Vec::new(),
        announced: Vec::new(),
        sent: Vec::new(),
        took: Duration::ZERO,
        remembers: Duration::from_secs(20),
    };
    for attempt in attempts {
        prober.handle_input(now, Input::Attempt(attempt));
    }
    loop {
        let deadline = loop {
            match prober.poll_output() {
                Output::Transmit { local, remote, bytes, ttl, whole } => {
                    run.sent.push((remote, ttl, bytes.len()));
                    assert_eq!(whole, bytes.len() > 1000, "what is padded is sent whole, and nothing else");
                    match network(remote, &bytes, ttl) {
                        Fate::Answer(answer) => {
                            inbox.push_back((now + Duration::from_millis(20), local, remote, answer))
                        }
                        Fate::Lost => {}
                        Fate::Icmp(outcome) => {
                            prober.handle_input(now, Input::Icmp { local, remote, outcome, quoted: &bytes });
                        }
                        Fate::Refuse(errno) => prober.handle_input(now, Input::Refused { local, remote, errno }),
                    }
                }
                Output::Announce(addresses) => run.announced.push(addresses),
                Output::Silence { at, after } => {
                    assert_eq!(at, [address(MAPPED), address(LOCAL)]);
                    if after <= run.remembers {
                        let (ours, theirs) = credentials();
                        let knock = knock(TransactionId([9; 12]), &theirs, &ours);
                        inbox.push_back((now + after, address(LOCAL), address(PEER), knock));
                    }
                }
                Output::Probe(probe) => run.probes.push(probe),
                Output::Timeout(deadline) => break deadline,
            }
        };
        let arrival = inbox.front().map(|(at, ..)| *at);
        let Some(next) = [deadline, arrival].into_iter().flatten().min() else { break };
        now = now.max(next);
        match inbox.pop_front_if(|(at, ..)| *at <= now) {
            Some((_, local, remote, bytes)) => {
                prober.handle_input(now, Input::Datagram { local, remote, bytes: &bytes });
            }
            None => prober.handle_input(now, Input::Timeout),
        }
    }
    assert!(prober.is_done());
    run.took = now - start;
    run
}

/// The server and the peer, both reachable.
fn reachable(remote: SocketAddr, bytes: &[u8]) -> Fate {
    let message = Message::decode(bytes).unwrap();
    if remote == address(SERVER) {
        let answer = MessageBuilder::new(Class::Success, Method::BINDING, message.transaction)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(MAPPED));
        return Fate::Answer(answer.build());
    }
    match receive(bytes, address(MAPPED), &credentials().1).unwrap().answer {
        Some(answer) => Fate::Answer(answer),
        None => Fate::Lost,
    }
}

fn attempt(aim: ProbeAim) -> Attempt {
    Attempt {
        aim,
        local: address(LOCAL),
        server: Some(address(SERVER)),
        targets: vec![address(PEER)],
        asked: Vec::new(),
    }
}

#[test]
fn a_probe_that_is_answered_tells_where_it_was_seen_and_ends_at_once() {
    let run = run(vec![attempt(ProbeAim::Plain)], |remote, bytes, _| reachable(remote, bytes));
    let told: Vec<_> = run.probes.iter().map(|probe| (probe.remote, &probe.result)).collect();
    let answered = ProbeOutcome::Answered { mapped: Some(address(MAPPED)), round_trip_us: 20_000 };
    assert_eq!(told, [(address(SERVER), &answered), (address(PEER), &answered)]);
    assert_eq!(run.announced, [vec![address(MAPPED), address(LOCAL)]]);
    assert_eq!(run.took, Duration::from_millis(40));
}

#[test]
fn what_is_lost_is_silent_within_the_time_that_users_wait() {
    let run = run(vec![attempt(ProbeAim::OtherPort)], |_, _, _| Fate::Lost);
    assert_eq!(run.probes.len(), 1, "a server that is silent is no probe of the peer");
    assert_eq!((run.probes[0].transmissions, &run.probes[0].result), (6, &ProbeOutcome::Silent));
    assert!(run.took < Duration::from_secs(2), "{:?}", run.took);
}

#[test]
fn an_early_arrival_waits_for_the_openers_and_an_opener_goes_out_ahead_of_the_announcement() {
    let early = run(vec![attempt(ProbeAim::EarlyArrival)], |remote, bytes, _| reachable(remote, bytes));
    assert!(early.took >= OPENED_WITHIN, "{:?}", early.took);
    let died = ProbeOutcome::Icmp { offender: Some([10, 0, 0, 3].into()), icmp_type: 11, icmp_code: 0, mtu: None };
    let opener = run(vec![attempt(ProbeAim::AfterOpener { ttl: 3 })], |remote, bytes, ttl| match ttl {
        Some(_) => Fate::Icmp(died.clone()),
        None => reachable(remote, bytes),
    });
    let of_peer = opener.probes.iter().find(|probe| probe.remote == address(PEER)).unwrap();
    assert!(
        matches!(of_peer.result, ProbeOutcome::Answered { .. }),
        "the opener's end is not the probe's: {of_peer:?}"
    );
    let to_peer: Vec<_> = opener.sent.iter().filter(|(remote, ..)| *remote == address(PEER)).collect();
    assert_eq!(to_peer.iter().map(|(_, ttl, _)| *ttl).collect::<Vec<_>>(), [Some(3), None]);
}

#[test]
fn only_what_ran_out_of_ttl_is_the_opener() {
    // By family, type and code: whether it is taken for the opener's end, so that the probe itself stays silent.
    let (v4, v6) = ([LOCAL, SERVER, PEER], ["[2001:db8:1::2]:5000", "[2001:db8:2::1]:3478", "[2001:db8:3::7]:4000"]);
    for ([local, server, peer], icmp_type, icmp_code, is_openers) in
        [(v4, 11, 0, true), (v4, 3, 0, false), (v6, 3, 0, true), (v6, 3, 1, false), (v6, 11, 0, false)]
    {
        let outcome = ProbeOutcome::Icmp { offender: None, icmp_type, icmp_code, mtu: None };
        let (local, server, targets) = (address(local), Some(address(server)), vec![address(peer)]);
        let attempt = Attempt { aim: ProbeAim::AfterOpener { ttl: 3 }, local, server, targets, asked: Vec::new() };
        let run = run(vec![attempt], |remote, _, ttl| {
            let is_probe = remote == address(peer) && ttl.is_none();
            if is_probe { Fate::Icmp(outcome.clone()) } else { Fate::Lost }
        });
        let expected = if is_openers { ProbeOutcome::Silent } else { outcome };
        assert_eq!(run.probes.last().map(|probe| &probe.result), Some(&expected), "{local} {icmp_type}/{icmp_code}");
    }
}

#[test]
fn each_ttl_has_its_own_hop_even_on_the_same_addresses() {
    let attempts = (1..=4).map(|ttl| Attempt { server: None, ..attempt(ProbeAim::TimeToLive { ttl }) });
    let run = run(attempts.collect(), |_, _, ttl| match ttl {
        // Hops 1 and 2 speak; what goes further dies.
        Some(ttl @ 1..=2) => Fate::Icmp(ProbeOutcome::Icmp {
            offender: Some([10, 0, 0, ttl].into()),
            icmp_type: 11,
            icmp_code: 0,
            mtu: None,
        }),
        _ => Fate::Lost,
    });
    for probe in &run.probes {
        match (&probe.aim, &probe.result) {
            (ProbeAim::TimeToLive { ttl: ttl @ 1..=2 }, ProbeOutcome::Icmp { offender, .. }) => {
                assert_eq!(*offender, Some([10, 0, 0, *ttl].into()));
            }
            (ProbeAim::TimeToLive { ttl: 3 }, ProbeOutcome::Silent) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(run.probes.len(), 3, "behind the first hop that is silent nothing is told");
    assert!(run.announced.is_empty());
}

#[test]
fn the_length_of_a_padded_probe_is_that_of_its_packet() {
    let padded = Attempt { server: None, ..attempt(ProbeAim::Padded { length: 1500 }) };
    let run = run(vec![padded], |_, _, _| Fate::Refuse(90));
    assert_eq!(run.sent[0].2, 1472);
    assert_eq!(run.probes[0].result, ProbeOutcome::Refused { errno: 90 });
}

#[test]
fn an_answer_from_elsewhere_or_of_a_stranger_is_none() {
    let (_, theirs) = credentials();
    let run = run(vec![Attempt { server: None, ..attempt(ProbeAim::Plain) }], |_, bytes, _| {
        let id = Message::decode(bytes).unwrap().transaction;
        let forged = MessageBuilder::new(Class::Success, Method::PROBE, id)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(MAPPED))
            .integrity(&Credentials::new(theirs.ufrag(), "x".repeat(22)).key());
        Fate::Answer(forged.build())
    });
    assert_eq!(run.probes[0].result, ProbeOutcome::Silent);
}

#[test]
fn candidates_that_come_late_are_asked_too_and_attempts_are_bounded() {
    let (ours, theirs) = credentials();
    let mut prober = PeerProbes::new(ours, theirs, None, Random::from_seed([1; 32]));
    let now = Timestamp::from_micros(0);
    for _ in 0..100 {
        prober.handle_input(now, Input::Attempt(Attempt { targets: vec![], ..attempt(ProbeAim::Plain) }));
    }
    for port in 1..100 {
        prober.handle_input(now, Input::Target(SocketAddr::new(address(PEER).ip(), port)));
    }
    assert_eq!(prober.attempts.len(), MAX_ATTEMPTS);
    assert!(prober.attempts.iter().all(|running| running.requests.len() == MAX_TARGETS));
    prober.handle_input(now, Input::Stop);
    assert!(prober.is_done());
}

#[test]
fn a_knock_after_silence_tells_what_the_nat_remembers_and_nothing_is_sent_meanwhile() {
    for (seconds, remembered) in [(20, true), (21, false)] {
        let run = run(vec![attempt(ProbeAim::Silence { seconds })], |remote, bytes, _| reachable(remote, bytes));
        assert_eq!(run.sent.len(), 2, "to the server and to the peer, once each");
        let [probe] = &run.probes[..] else { panic!("{:?}", run.probes) };
        assert_eq!(matches!(probe.result, ProbeOutcome::Answered { .. }), remembered, "{probe:?}");
        assert!(remembered || probe.result == ProbeOutcome::Silent, "{probe:?}");
        assert!(run.took >= Duration::from_secs(seconds.into()), "{:?}", run.took);
    }
}

#[test]
fn silence_on_a_path_that_was_never_open_is_not_measured() {
    let run = run(vec![attempt(ProbeAim::Silence { seconds: 5 })], |_, _, _| Fate::Lost);
    assert!(matches!(run.probes[0].result, ProbeOutcome::NotMade { .. }), "{:?}", run.probes);
    assert!(run.took < Duration::from_secs(3), "{:?}", run.took);
}

#[test]
fn an_error_for_somebody_elses_datagram_on_the_same_path_is_left_to_him() {
    let (ours, theirs) = credentials();
    let mut prober = PeerProbes::new(ours, theirs, None, Random::from_seed([1; 32]));
    let now = Timestamp::from_micros(0);
    let padded = Attempt { server: None, ..attempt(ProbeAim::Padded { length: 1500 }) };
    prober.handle_input(now, Input::Attempt(padded));
    let Output::Transmit { local, remote, bytes, .. } = prober.poll_output() else { panic!("no probe") };
    while !matches!(prober.poll_output(), Output::Timeout(_)) {}
    let too_big = ProbeOutcome::Icmp { offender: None, icmp_type: 3, icmp_code: 4, mtu: Some(1280) };

    let other = [0x17; 64];
    assert!(!prober.is_about(local, remote, &other));
    prober.handle_input(now, Input::Icmp { local, remote, outcome: too_big.clone(), quoted: &other });
    assert!(matches!(prober.poll_output(), Output::Timeout(_)), "the probe is still under way");
    // A router that quotes eight bytes behind the IP header quotes no transaction (RFC 792).
    assert!(prober.is_about(local, remote, &[]));
    assert!(!prober.is_about(remote, local, &[]));

    assert!(prober.is_about(local, remote, &bytes));
    prober.handle_input(now, Input::Icmp { local, remote, outcome: too_big.clone(), quoted: &bytes });
    let Output::Probe(probe) = prober.poll_output() else { panic!("the probe is not told") };
    assert_eq!(probe.result, too_big);
}

const SERVER_2: &str = "192.0.2.2:3478";

/// A plain socket that asks two servers.
fn asking() -> Attempt {
    let (local, asked) = (address(LOCAL), vec![address(SERVER), address(SERVER_2)]);
    Attempt { aim: ProbeAim::PlainServer, local, server: None, targets: Vec::new(), asked }
}

/// A server's answer, changed on the way or not.
fn told(bytes: &[u8], mapped: &str, is_changed: bool) -> Fate {
    let message = Message::decode(bytes).unwrap();
    assert_eq!((message.method, message.class), (Method::BINDING, Class::Request));
    let answer = MessageBuilder::new(Class::Success, Method::BINDING, message.transaction);
    let mut answer = answer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(mapped)).fingerprint().build();
    if is_changed {
        let last = answer.len() - 1;
        answer[last] ^= 1;
    }
    Fate::Answer(answer)
}

#[test]
fn each_server_that_is_asked_for_its_own_sake_tells_where_it_sees_the_socket() {
    let run = run(vec![asking()], |remote, bytes, _| {
        told(bytes, if remote == address(SERVER) { MAPPED } else { "203.0.113.1:5001" }, false)
    });
    let results: Vec<_> = run.probes.iter().map(|probe| (probe.remote, probe.result.clone())).collect();
    let answered = |mapped| ProbeOutcome::Answered { mapped: Some(address(mapped)), round_trip_us: 20_000 };
    assert_eq!(results, [(address(SERVER), answered(MAPPED)), (address(SERVER_2), answered("203.0.113.1:5001"))]);
    assert!(run.announced.is_empty(), "the peer learns nothing");
    assert_eq!(run.sent.len(), 2);
}

#[test]
fn a_server_that_is_silent_or_whose_answers_are_changed_is_told_of() {
    let mut changed = 0;
    let run = run(vec![asking()], |remote, bytes, _| {
        if remote == address(SERVER_2) {
            return Fate::Lost;
        }
        changed += 1;
        told(bytes, LOCAL, true)
    });
    let results: Vec<_> = run.probes.iter().map(|probe| probe.result.clone()).collect();
    let rewritten = ProbeOutcome::Rewritten { told: Some(address(LOCAL)), answers: 2 };
    assert_eq!(results, [rewritten, ProbeOutcome::Silent]);
    assert_eq!((changed, run.sent.len()), (2, 8), "one may be chance, and two are enough");
    assert!(run.took < Duration::from_secs(2), "{:?}", run.took);
}

#[test]
fn a_whole_answer_outweighs_one_that_was_changed_and_candidates_are_not_asked_by_such_a_socket() {
    let mut first = true;
    let run = run(vec![Attempt { asked: vec![address(SERVER)], ..asking() }], |_, bytes, _| {
        told(bytes, MAPPED, std::mem::take(&mut first))
    });
    assert!(matches!(run.probes[0].result, ProbeOutcome::Answered { .. }), "{:?}", run.probes);

    let (ours, theirs) = credentials();
    let mut prober = PeerProbes::new(ours, theirs, None, Random::from_seed([1; 32]));
    let now = Timestamp::from_micros(0);
    prober.handle_input(now, Input::Attempt(asking()));
    prober.handle_input(now, Input::Target(address(PEER)));
    assert_eq!(prober.attempts[0].requests.len(), 2);
}
