//! An earlier session beside a later one.

use whyrelay_core::diagnosis::session::Path;
use whyrelay_core::host::{PolicyRule, ProbeAim, RoutePurpose};
use whyrelay_core::report::{Proof, Report, TextOptions, render_json, render_text};
use whyrelay_core::trace::event::{Event, EventKind, Vantage};
use whyrelay_core::trace::measurement::{Measurement, PortMapperProtocol};

use crate::builder::{Fate, Session};
use crate::cases::facts::{UPLINK, Way, policy_rule};
use crate::cases::lost;
use crate::report::{B_MAPPED, STUN, direct, failed};

/// A session whose packets a rule takes away.
pub(crate) fn diverted() -> Session {
    lost(|session| {
        session.application(Some(0x1BD00), true);
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.rule(PolicyRule { mark: Some(0x1BD00), ..policy_rule(100) });
        session.route(RoutePurpose::Server, STUN, 0x1BD00, Ok(UPLINK));
        let wrong = Way { device: "wg0", gateway: None, table: 200, rule: Some(100) };
        session.route(RoutePurpose::Peer, B_MAPPED, 0x1BD00, Ok(wrong));
        session.probe_route(RoutePurpose::Peer, B_MAPPED, 0, Ok(UPLINK));
        session.tally(true, 0);
        session.tally(false, 2);
    })
}

/// The same with probes, and with something tried for this session.
pub(crate) fn diverted_and_probed() -> Session {
    let mut session = diverted();
    session.tried("port");
    let device = ProbeAim::Device { device: "eth0".into() };
    session.probe(device, "192.168.1.2:40002", B_MAPPED, Some("203.0.113.1:40002"));
    session.probe(ProbeAim::WithoutMark, "192.168.1.2:40003", B_MAPPED, Some("203.0.113.1:40003"));
    session.probe(ProbeAim::TimeToLive { ttl: 2 }, "192.168.1.2:40000", B_MAPPED, None);
    session
}

/// The same, with a port mapping tried, and what the router said to that.
fn mapping_tried(found: bool) -> Report {
    let mut session = diverted();
    session.tried("a port mapping by the router, removed at the end");
    let protocol = PortMapperProtocol::NatPmp;
    let said = Measurement::PortMapper { protocol, gateway: None, found, external: None, detail: None };
    session.push(Vantage::A, EventKind::Measured(said));
    Report::from_events(&session.events)
}

/// The same after the rule is gone.
pub(crate) fn mended() -> Session {
    let mut session = direct();
    session.application(Some(0x1BD00), true);
    session.link(Vantage::A, "eth0", None, "192.168.1.2");
    session.route(RoutePurpose::Peer, B_MAPPED, 0x1BD00, Ok(UPLINK));
    session
}

fn prove(before: &[Event], now: &[Event]) -> (Report, Proof) {
    let mut report = Report::from_events(now);
    report.prove(before, now);
    let proof = report.proof.clone().expect("a proof");
    (report, proof)
}

#[test]
fn a_fix_is_proven_by_what_is_gone_and_what_changed() {
    let (report, proof) = prove(&diverted().events, &mended().events);
    assert!(proof.fixed, "{proof:?}");
    assert_eq!((proof.path_before, proof.path_now), (Path::Relayed, Path::Direct));
    assert!(proof.gone.iter().any(|finding| finding.code == "WR106"), "{proof:?}");
    assert!(proof.left.is_empty(), "{proof:?}");
    let gone: Vec<_> = proof.changes.iter().filter(|change| change.contains("ip rule 100")).collect();
    assert!(gone.len() == 1 && gone[0].starts_with("A: gone: "), "{:?}", proof.changes);
    let text = render_text(&report, &TextOptions::default());
    assert!(text.contains("Fixed: the path was relayed and is direct now; gone: WR106"), "{text}");
    assert!(render_json(&report).contains("\"fixed\": true"));
}

#[test]
fn a_mapping_that_no_router_made_says_nothing_of_the_path() {
    let (without, with) = (mapping_tried(false), mapping_tried(true));
    assert_eq!(
        (without.tried.as_slice(), with.tried.as_slice()),
        (
            &["A: a port mapping by the router, removed at the end; not made: no router answered that makes one"
                .into()][..],
            &["A: a port mapping by the router, removed at the end".into()][..],
        )
    );
    let text = |report| render_text(report, &TextOptions::default());
    assert!(!text(&without).contains("With it the path"), "{}", text(&without));
    assert!(text(&with).contains("With it the path is still relayed."), "{}", text(&with));
}

#[test]
fn what_is_as_before_is_not_fixed() {
    let (_, proof) = prove(&diverted().events, &diverted().events);
    assert!(!proof.fixed && proof.changes.is_empty() && proof.gone.is_empty() && proof.new.is_empty(), "{proof:?}");
    assert!(proof.left.iter().any(|finding| finding.code == "WR106"), "{proof:?}");
    assert!(proof.summary.starts_with("Not fixed: the path was relayed and is relayed now"), "{proof:?}");
}

#[test]
fn what_was_well_and_what_broke_since_are_told_apart() {
    let (_, proof) = prove(&direct().events, &direct().events);
    assert!(!proof.fixed && proof.summary.starts_with("The earlier session had nothing to fix"), "{proof:?}");
    let worse = failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
    let (_, proof) = prove(&direct().events, &worse.events);
    assert!(!proof.fixed && !proof.new.is_empty() && proof.path_now == Path::Failed, "{proof:?}");
    let (_, proof) = prove(&[], &direct().events);
    assert!(proof.changes.is_empty(), "nothing is known of the hosts before: {proof:?}");
}

/// That the NAT forgets idle mappings harms a direct path as well: a session that did not measure it proves nothing.
#[test]
fn what_harms_a_direct_path_is_gone_only_where_it_was_looked_for_again() {
    let lasting = |seconds: Option<Option<u32>>| {
        let mut session = direct();
        if let Some(at_most_s) = seconds {
            let local = crate::builder::address(crate::report::A).ip();
            session.push(
                Vantage::A,
                EventKind::Measured(Measurement::MappingLifetime { local, at_least_s: 10, at_most_s }),
            );
        }
        session
    };
    let before = lasting(Some(Some(15)));
    for (now, fixed, lists) in [
        (None, false, [false, false, true]),
        (Some(None), true, [true, false, false]),
        (Some(Some(15)), false, [false, true, false]),
    ] {
        let (_, proof) = prove(&before.events, &lasting(now).events);
        let has = |list: &[whyrelay_core::report::Compared]| list.iter().any(|finding| finding.code == "WR205");
        let found = [&proof.gone, &proof.left, &proof.not_measured].map(|list| has(list));
        assert_eq!((proof.fixed, found), (fixed, lists), "{now:?}: {proof:?}");
    }
}

/// A container that does no harm, told in one session and not looked for in the other, or harmless again.
#[test]
fn what_was_not_looked_for_is_not_gone() {
    let contained = |mut session: Session| {
        session.capabilities(&[], Some("docker"));
        session.link(Vantage::A, "eth0", Some("veth"), "192.168.1.2");
        session
    };
    let code = |list: &[whyrelay_core::report::Compared]| list.iter().map(|finding| finding.code).collect::<Vec<_>>();
    let before = contained(lost(|_| {}));
    let has = |report: &Report| report.findings.iter().any(|finding| finding.code == "WR121");
    assert!(has(&Report::from_events(&before.events)));
    // Without facts of the host it may be there or not; direct, it is there as before; without the container it is gone.
    let plain = |mut session: Session| {
        session.capabilities(&[], None);
        session.link(Vantage::A, "eth0", Some("veth"), "192.168.1.2");
        session
    };
    for (now, gone, left, not_measured) in [
        (lost(|_| {}), false, false, true),
        (contained(direct()), false, true, false),
        (plain(direct()), true, false, false),
        (plain(lost(|_| {})), true, false, false),
    ] {
        let (report, proof) = prove(&before.events, &now.events);
        let found = [&proof.gone, &proof.left, &proof.not_measured].map(|list| code(list).contains(&"WR121"));
        assert_eq!(found, [gone, left, not_measured], "{proof:?}");
        let text = render_text(&report, &TextOptions::default());
        assert_eq!(text.contains("not measured in both: WR121"), not_measured, "{text}");
    }
    // Nor is what only the later session could see new.
    let (_, proof) = prove(&lost(|_| {}).events, &before.events);
    assert!(!code(&proof.new).contains(&"WR121") && code(&proof.not_measured).contains(&"WR121"), "{proof:?}");
    // The other side's recording is missing now.
    let (_, proof) =
        prove(&failed(Fate::Ignored, Fate::Ignored).events, &failed(Fate::Ignored, Fate::Ignored).of(Vantage::A));
    assert!(!code(&proof.gone).contains(&"WR502"), "{proof:?}");
}

#[test]
fn a_comparison_names_both_and_says_what_differs() {
    let report = Report::from_events(&diverted().events);
    let row = report.comparisons.first().expect("a comparison");
    assert_eq!(row.differs, Some(true));
    assert_eq!(
        row.summary,
        "On A as netbird: 0 of 2 pairs with the peer answered; as a plain program: 2 of 2 pairs with the peer answered"
    );
    let untried = lost(|session| session.application(Some(0x1BD00), true));
    let row = Report::from_events(&untried.events).comparisons.remove(0);
    assert_eq!((row.differs, row.plain), (None, None), "not measured is not no");
    assert!(Report::from_events(&direct().events).comparisons.is_empty());
}

#[test]
fn a_route_that_the_later_session_had_no_reason_to_record_is_not_gone() {
    let with = |link_local: bool, route_to_peer: bool| {
        lost(|session| {
            session.link(Vantage::A, "eth0", None, "192.168.1.2");
            session.route(RoutePurpose::Peer, B_MAPPED, 0, Ok(UPLINK));
            if link_local {
                session.route(RoutePurpose::Peer, "[fe80::b]:50000", 0, Ok(Way { gateway: None, ..UPLINK }));
                session.route_to("fe80::", 64);
            }
            if route_to_peer {
                session.route_to("198.51.100.0", 24);
            }
        })
    };
    let (all, none) = (with(true, true), with(false, false));
    let (_, proof) = prove(&all.events, &none.events);
    assert_eq!(proof.changes, ["A: gone: route 198.51.100.0/24 dev eth0 table 254"]);
    let (_, proof) = prove(&none.events, &all.events);
    assert_eq!(proof.changes, ["A: new: route 198.51.100.0/24 dev eth0 table 254"]);
    let (_, proof) = prove(&all.events, &all.events);
    assert!(proof.changes.is_empty(), "{:?}", proof.changes);
}
