//! What a plain program's socket was told by servers, where the session's own was told nothing, or asked a relay alone:
//! the network in front is seen by it.

use whyrelay_core::diagnosis::expected::Expected;
use whyrelay_core::host::{HostFact, PolicyRule, Probe, ProbeAim, ProbeOutcome, RoutePurpose, RuleAction};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{EndReason, SessionOptions, Vantage};

use crate::builder::{Check, Fate, Session, address};
use crate::cases::STUN_2;
use crate::cases::facts::{UPLINK, Way, policy_rule};
use crate::choices::said;
use crate::report::{A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks};

const MARK: u32 = 0x1BD00;
const PLAIN: &str = "192.168.1.2:41000";
const EINVAL: i32 = 22;

fn mapped(port: u16) -> ProbeOutcome {
    told(&format!("203.0.113.1:{port}"))
}

fn told(mapped: &str) -> ProbeOutcome {
    ProbeOutcome::Answered { mapped: Some(address(mapped)), round_trip_us: 20_000 }
}

fn ask(session: &mut Session, server: &str, result: ProbeOutcome) {
    probe(session, ProbeAim::PlainServer, server, result);
}

fn probe(session: &mut Session, aim: ProbeAim, remote: &str, result: ProbeOutcome) {
    let (local, remote) = (address(PLAIN), address(remote));
    session.fact(Vantage::A, HostFact::Probe(Probe { aim, local, remote, transmissions: 6, result }));
}

/// A rule of A's host refuses the session's mark, so that nothing leaves; plain sockets go `way`. `plainly`: what they
/// find.
fn refused(way: Way<'_>, plainly: impl FnOnce(&mut Session)) -> Session {
    let mut session = Session::new();
    session.candidate(Vantage::A, CandidateType::Host, A, A, None);
    session.candidate(Vantage::B, CandidateType::Host, B, B, None);
    session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
    session.link(Vantage::A, "eth0", None, "192.168.1.2");
    session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
    let (mark, mask, rule_action) = (Some(0x10000), Some(0x10000), RuleAction::Blackhole);
    session.rule(PolicyRule { mark, mask, rule_action, table: None, ..policy_rule(1000) });
    for server in [STUN, STUN_2] {
        session.stun(Vantage::A, A, server, None);
        session.stun(Vantage::B, B, server, Some(B_MAPPED));
        session.route(RoutePurpose::Server, server, MARK, Err(EINVAL));
        session.plain_route(PLAIN, server, way);
    }
    session.route(RoutePurpose::Peer, B_MAPPED, MARK, Err(EINVAL));
    session.route(RoutePurpose::Peer, B_MAPPED, 0, Ok(UPLINK));
    session.check(Check { transmissions: 7, ..a_checks(Fate::SendRefused(EINVAL)) });
    plainly(&mut session);
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

/// The codes of all findings of severity error or warning, in their order, but for the relay that none of them has.
fn codes(session: &Session) -> Vec<&'static str> {
    let report = Report::from_events(&session.events);
    let severe = report.findings.iter().filter(|finding| finding.severity.name() != "info");
    severe.map(|finding| finding.code).filter(|code| *code != "WR802").collect()
}

fn only(session: &Session, code: &str) -> String {
    match said(session, code).as_slice() {
        [(_, summary)] => summary.clone(),
        other => panic!("{code}: {other:?}; {:?}", codes(session)),
    }
}

#[test]
fn a_nat_that_maps_by_destination_is_seen_behind_a_mark_that_is_refused() {
    let session = refused(UPLINK, |session| {
        ask(session, STUN, mapped(1024));
        ask(session, STUN_2, mapped(1025));
    });
    assert_eq!(codes(&session), ["WR106", "WR201"], "the host's own fault comes first");
    let summary = only(&session, "WR201");
    assert!(summary.contains("to 203.0.113.1:1024 towards") && summary.contains("as no server answers"), "{summary}");
}

#[test]
fn a_nat_that_maps_alike_is_no_finding_and_would_allow_a_direct_path() {
    let alike = |session: &mut Session| {
        ask(session, STUN, mapped(1024));
        ask(session, STUN_2, mapped(1024));
    };
    let session = refused(UPLINK, alike);
    assert_eq!(codes(&session), ["WR106"]);
    assert_eq!(Report::from_events(&session.events).expected, Expected::Direct);
    assert_eq!(Report::from_events(&refused(UPLINK, |_| {}).events).expected, Expected::Unknown);
}

#[test]
fn addresses_that_vary_are_told_and_ports_with_them_are_not() {
    let session = refused(UPLINK, |session| {
        ask(session, STUN, mapped(1024));
        ask(session, STUN_2, told("203.0.113.2:1025"));
    });
    assert_eq!(codes(&session), ["WR106", "WR206"]);
    assert!(only(&session, "WR206").contains("as no server answers"));
}

#[test]
fn what_goes_into_a_tunnel_tells_of_no_network_in_front() {
    let tunnel = Way { device: "wg0", gateway: None, table: 51_820, rule: Some(32_765) };
    let asks: [fn(&mut Session); 3] = [
        |session| {
            ask(session, STUN, mapped(1024));
            ask(session, STUN_2, mapped(1025));
        },
        |session| ask(session, STUN, ProbeOutcome::Silent),
        |session| ask(session, STUN, ProbeOutcome::Rewritten { told: Some(address(PLAIN)), answers: 2 }),
    ];
    for asks in asks {
        assert!(codes(&refused(UPLINK, asks)).len() > 1);
        assert_eq!(codes(&refused(tunnel, asks)), ["WR106"]);
    }
}

#[test]
fn udp_that_no_plain_socket_gets_an_answer_over_is_blocked_and_not_where_one_does() {
    let both = |one: ProbeOutcome, other: ProbeOutcome| {
        refused(UPLINK, |session| {
            ask(session, STUN, one);
            ask(session, STUN_2, other);
        })
    };
    let silent = both(ProbeOutcome::Silent, ProbeOutcome::Silent);
    assert_eq!(codes(&silent), ["WR106", "WR302"]);
    assert!(only(&silent, "WR302").contains("asked by a plain program's socket"));
    assert_eq!(codes(&both(ProbeOutcome::Silent, mapped(1024))), ["WR106"]);
    // The host does not let it out: nothing is known of the network.
    let refused = ProbeOutcome::Refused { errno: 1 };
    assert_eq!(codes(&both(refused, ProbeOutcome::Silent)), ["WR106"]);
    // A port that is closed there says that UDP comes as far.
    let closed = |offender: &str| {
        let offender = offender.parse().ok();
        both(ProbeOutcome::Silent, ProbeOutcome::Icmp { offender, icmp_type: 3, icmp_code: 3, mtu: None })
    };
    assert_eq!(codes(&closed("192.0.2.11")), ["WR106"]);
    assert_eq!(codes(&closed("192.168.1.1")), ["WR106", "WR302"]);
}

#[test]
fn a_server_that_answers_a_plain_socket_is_neither_silent_nor_is_udp_blocked() {
    let asked = |result: ProbeOutcome| {
        let mut session = Session::new();
        session.candidate(Vantage::A, CandidateType::Host, A, A, None);
        session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
        session.stun(Vantage::A, A, STUN, None);
        session.stun(Vantage::B, B, STUN, Some(B_MAPPED));
        session.wait(std::time::Duration::from_secs(3));
        ask(&mut session, STUN, result);
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        codes(&session)
    };
    assert!(asked(ProbeOutcome::Silent).contains(&"WR302"));
    let answered = asked(mapped(1024));
    assert!(!answered.contains(&"WR302") && !answered.contains(&"WR301"), "{answered:?}");
}

#[test]
fn what_arrives_at_the_peer_and_comes_to_nothing_here_is_dropped_on_its_way_back() {
    let deaf = |arrives: bool| {
        refused(UPLINK, |session| {
            ask(session, STUN, ProbeOutcome::Silent);
            probe(session, ProbeAim::WithoutMark, B_MAPPED, ProbeOutcome::Silent);
            if arrives {
                let (aim, length) = ("without-mark".to_owned(), 100);
                let (local, remote) = (address(B), address("203.0.113.1:41000"));
                session.fact(Vantage::B, HostFact::ProbeSeen { aim, local, remote, length });
            }
        })
    };
    assert_eq!(codes(&deaf(true)), ["WR106", "WR208"]);
    assert_eq!(codes(&deaf(false)), ["WR106", "WR302"]);
}

#[test]
fn answers_that_are_changed_are_told_of_and_one_whole_answer_refutes_it() {
    let rewritten = || ProbeOutcome::Rewritten { told: Some(address(PLAIN)), answers: 2 };
    let session = refused(UPLINK, |session| ask(session, STUN, rewritten()));
    assert_eq!(codes(&session), ["WR106", "WR305"]);
    let summary = only(&session, "WR305");
    assert!(summary.contains("2 answers") && summary.contains(PLAIN) && summary.contains("as no server"), "{summary}");
    let session = refused(UPLINK, |session| {
        ask(session, STUN, rewritten());
        ask(session, STUN_2, mapped(1024));
    });
    assert_eq!(codes(&session), ["WR106"]);
    let once = ProbeOutcome::Rewritten { told: None, answers: 1 };
    assert_eq!(codes(&refused(UPLINK, |session| ask(session, STUN, once))), ["WR106"]);
}

#[test]
fn a_router_that_refuses_a_plain_program_is_named() {
    let refuses = |aim: ProbeAim, offender: &str| {
        refused(UPLINK, |session| {
            ask(session, STUN, mapped(1024));
            let offender = offender.parse().ok();
            probe(session, aim, B_MAPPED, ProbeOutcome::Icmp { offender, icmp_type: 3, icmp_code: 13, mtu: None });
        })
    };
    assert_eq!(codes(&refuses(ProbeAim::WithoutMark, "192.168.1.1")), ["WR106", "WR513"]);
    assert_eq!(codes(&refuses(ProbeAim::WithoutMark, "192.168.1.2")), ["WR106"], "its own filter is no router");
    assert_eq!(codes(&refuses(ProbeAim::OtherPort, "192.168.1.1")), ["WR106"], "that one had the mark");
}

#[test]
fn an_early_packet_that_takes_the_port_of_a_plain_socket_is_the_routers_doing_beside_the_mark() {
    let session = refused(UPLINK, |session| {
        ask(session, STUN, mapped(1024));
        probe(session, ProbeAim::EarlyArrival, STUN, mapped(41_000));
        probe(session, ProbeAim::EarlyArrival, B_MAPPED, mapped(1025));
    });
    assert_eq!(codes(&session), ["WR106", "WR202"]);
    // Without plain questions the sockets of these probes had the mark, and what the host does to it explains all.
    let session = refused(UPLINK, |session| {
        probe(session, ProbeAim::EarlyArrival, STUN, mapped(41_000));
        probe(session, ProbeAim::EarlyArrival, B_MAPPED, mapped(1025));
    });
    assert_eq!(codes(&session), ["WR106"]);
}

#[test]
fn a_session_that_asks_a_relay_alone_learns_what_its_nat_is_like() {
    let relay_only = |second: u16| {
        let options = SessionOptions { relay_only: true, ..SessionOptions::default() };
        let mut session = Session::with_options(options);
        session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, B_MAPPED);
        session.stun(Vantage::B, B, STUN, Some(B_MAPPED));
        session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
        session.relayed_check(Vantage::A, A, STUN, RELAYED, (B, B_MAPPED), true);
        ask(&mut session, STUN, mapped(1024));
        ask(&mut session, STUN_2, mapped(second));
        session.select(Vantage::A, RELAYED, B_MAPPED);
        session.select(Vantage::B, B, RELAYED);
        session.end(Vantage::A, EndReason::Finished);
        session.end(Vantage::B, EndReason::Finished);
        session
    };
    assert_eq!(codes(&relay_only(1025)), ["WR801", "WR201"]);
    assert!(only(&relay_only(1025), "WR201").contains("as the session asks a relay alone"));
    assert_eq!(codes(&relay_only(1024)), ["WR801"]);
}

#[test]
fn other_sockets_that_come_from_elsewhere_tell_of_a_pool_of_addresses() {
    let pool = |other: &str| {
        refused(UPLINK, |session| {
            ask(session, STUN, mapped(1024));
            ask(session, STUN_2, mapped(1025));
            probe(session, ProbeAim::EarlyArrival, STUN, told(other));
        })
    };
    assert_eq!(codes(&pool("203.0.113.2:1026")), ["WR106", "WR206"]);
    assert_eq!(codes(&pool("203.0.113.1:1026")), ["WR106", "WR201"]);
}

#[test]
fn what_the_host_itself_takes_is_not_laid_on_the_network_in_front() {
    let session = refused(UPLINK, |session| {
        ask(session, STUN, ProbeOutcome::Silent);
        session.counters(Vantage::A, &[("TcpExt.IPReversePathFilter", 12)]);
    });
    assert!(!codes(&session).contains(&"WR302"), "{:?}", codes(&session));
}
