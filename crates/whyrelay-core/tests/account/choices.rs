//! What an account names where there are several to choose from.

use whyrelay_core::ice::candidate::{CandidateTransport, CandidateType};
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{EventKind, Pair, PairState, Vantage};

use crate::builder::{Check, Fate, Session, address};
use crate::report::{A_MAPPED, B_MAPPED, a_checks, b_checks, behind_nats};

/// Severity and summary of the findings with a code.
pub(crate) fn said(session: &Session, code: &str) -> Vec<(String, String)> {
    let report = Report::from_events(&session.events);
    let found = report.findings.iter().filter(|finding| finding.code == code);
    found.map(|finding| (finding.severity.name().to_owned(), finding.summary.clone())).collect()
}

#[test]
fn the_pair_that_should_have_worked_is_named_before_a_link_local_one() {
    let (near_a, near_b) = ("[fe80::a]:40000", "[fe80::b]:50000");
    let mut session = behind_nats();
    session.candidate(Vantage::A, CandidateType::Host, near_a, near_a, None);
    session.candidate(Vantage::B, CandidateType::Host, near_b, near_b, None);
    // Of higher priority than the others.
    for (vantage, local, remote) in [(Vantage::A, near_a, near_b), (Vantage::B, near_b, near_a)] {
        let pair = Pair { transport: CandidateTransport::Udp, local: address(local), remote: address(remote) };
        let (priority, foundation, state) = (u64::MAX, "1:1".to_owned(), PairState::Waiting);
        session.push(vantage, EventKind::PairFormed { pair, priority, foundation, state });
    }
    session.check(Check { local: near_a, remote: near_b, ..a_checks(Fate::LostOnTheWay) });
    session.check(Check { local: near_b, remote: near_a, ..b_checks(Fate::LostOnTheWay) });
    session.check(a_checks(Fate::LostOnTheWay));
    session.check(b_checks(Fate::LostOnTheWay));
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    let [(_, summary)] = &said(&session, "WR501")[..] else { panic!("{:?}", said(&session, "WR501")) };
    assert!(summary.contains(&format!("on 2 pairs, as to {B_MAPPED},")), "{summary}");
    assert!(summary.contains(&format!("sent on 2 pairs, as to {A_MAPPED},")), "{summary}");
}
