//! Snapshots of the account.

use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::{Report, TextOptions, render_json, render_text};
use whyrelay_core::trace::event::{EndReason, Event, Vantage};
use whyrelay_core::trace::recording::{Recording, encode};

use crate::builder::{Check, Fate, Session};

pub(crate) const A: &str = "192.168.1.2:40000";
pub(crate) const A_MAPPED: &str = "203.0.113.1:40000";
pub(crate) const B: &str = "10.0.0.2:50000";
pub(crate) const B_MAPPED: &str = "198.51.100.2:50000";
pub(crate) const STUN: &str = "192.0.2.10:3478";
pub(crate) const RELAYED: &str = "192.0.2.10:60000";
const STUN_URL: &str = "stun:192.0.2.10:3478";

/// Two sides behind NATs, with host and server-reflexive candidates.
pub(crate) fn behind_nats() -> Session {
    let mut session = Session::new();
    for (vantage, local, mapped) in [(Vantage::A, A, A_MAPPED), (Vantage::B, B, B_MAPPED)] {
        session.stun(vantage, local, STUN, Some(mapped));
        session.candidate(vantage, CandidateType::Host, local, local, None);
        session.candidate(vantage, CandidateType::ServerReflexive, mapped, local, Some(STUN_URL));
    }
    session
}

pub(crate) const fn a_checks(fate: Fate) -> Check<'static> {
    Check {
        by: Vantage::A,
        local: A,
        remote: B_MAPPED,
        seen_at: B,
        seen_from: A_MAPPED,
        transmissions: 1,
        nominate: false,
        fate,
    }
}

pub(crate) const fn b_checks(fate: Fate) -> Check<'static> {
    Check {
        by: Vantage::B,
        local: B,
        remote: A_MAPPED,
        seen_at: A,
        seen_from: B_MAPPED,
        transmissions: 1,
        nominate: false,
        fate,
    }
}

/// A direct session.
pub(crate) fn direct() -> Session {
    let mut session = behind_nats();
    session.check(Check { remote: B, transmissions: 3, fate: Fate::LostOnTheWay, ..a_checks(Fate::Answered) });
    session.check(b_checks(Fate::Answered));
    session.check(Check { nominate: true, ..a_checks(Fate::Answered) });
    session.select(Vantage::A, A, B_MAPPED);
    session.select(Vantage::B, B, A_MAPPED);
    session.end(Vantage::A, EndReason::Finished);
    session.end(Vantage::B, EndReason::Finished);
    session
}

/// A relayed session: the checks between the NATs never arrive.
pub(crate) fn relayed() -> Session {
    let mut session = behind_nats();
    session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, B_MAPPED);
    session.candidate(Vantage::A, CandidateType::Relayed, RELAYED, RELAYED, Some("turn:192.0.2.10:3478"));
    session.check(Check { transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
    session.check(Check { transmissions: 7, ..b_checks(Fate::LostOnTheWay) });
    session.check(Check { by: Vantage::B, ..Check { local: B, remote: A, ..b_checks(Fate::LostOnTheWay) } });
    session
}

pub(crate) fn finish_relayed(session: &mut Session) {
    session.relayed_check(Vantage::A, A, STUN, RELAYED, (B, B_MAPPED), true);
    session.select(Vantage::A, RELAYED, B_MAPPED);
    session.select(Vantage::B, B, RELAYED);
    session.end(Vantage::A, EndReason::Finished);
    session.end(Vantage::B, EndReason::Finished);
}

/// A session in which A's checks and B's checks meet a fate each.
pub(crate) fn failed(a: Fate, b: Fate) -> Session {
    let mut session = behind_nats();
    session.check(Check { transmissions: 7, ..a_checks(a) });
    session.check(Check { transmissions: 7, ..b_checks(b) });
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

pub(crate) fn text(events: &[Event]) -> String {
    render_text(&Report::from_events(events), &TextOptions::default())
}

#[test]
fn a_direct_session() {
    insta::assert_snapshot!(text(&direct().events));
}

#[test]
fn a_relayed_session() {
    let mut session = relayed();
    finish_relayed(&mut session);
    insta::assert_snapshot!(text(&session.events));
    insta::assert_snapshot!("a_relayed_session_json", render_json(&Report::from_events(&session.events)));
}

#[test]
fn one_sided_sessions_say_what_is_missing() {
    let session = failed(Fate::LostOnTheWay, Fate::Ignored);
    insta::assert_snapshot!("one_sided_a", text(&session.of(Vantage::A)));
    insta::assert_snapshot!("one_sided_b", text(&session.of(Vantage::B)));
}

#[test]
fn a_chain_broken_at_each_step() {
    for (name, a, b) in [
        ("broken_on_the_way", Fate::LostOnTheWay, Fate::LostOnTheWay),
        ("broken_at_answering", Fate::Ignored, Fate::LostOnTheWay),
        ("broken_on_the_way_back", Fate::AnswerLost, Fate::LostOnTheWay),
        ("broken_by_errors", Fate::Error(400), Fate::LostOnTheWay),
        ("broken_at_sending", Fate::SendRefused(1), Fate::LostOnTheWay),
    ] {
        insta::assert_snapshot!(name, text(&failed(a, b).events));
    }
}

#[test]
fn a_recording_cut_off_in_the_middle_of_a_line() {
    let whole: String = direct().events.iter().map(encode).collect();
    let recording = Recording::read(&whole.as_bytes()[..whole.len() * 2 / 5]).unwrap();
    assert!(recording.cut_off);
    insta::assert_snapshot!(text(&recording.events));
}

#[test]
fn live_events_and_recordings_in_any_order_give_the_same_bytes() {
    let mut session = relayed();
    finish_relayed(&mut session);
    let live = Report::from_events(&session.events);
    let file = |vantage| session.of(vantage).iter().map(encode).collect::<String>();
    let (a, b) = (file(Vantage::A), file(Vantage::B));
    let read = |text: &str| Recording::read(text.as_bytes()).unwrap();
    // A's own file holds B's events behind its own.
    let both = a.clone() + &b;
    for recordings in
        [vec![read(&a), read(&b)], vec![read(&b), read(&a)], vec![read(&both), read(&b)], vec![read(&both)]]
    {
        let replayed = Report::from_events(&Recording::merge(recordings).unwrap().events);
        assert_eq!(render_json(&replayed), render_json(&live));
        let options = TextOptions { color: true, all_pairs: true, ..TextOptions::default() };
        assert_eq!(render_text(&replayed, &options), render_text(&live, &options));
    }
}

#[test]
fn a_terminal_that_is_narrower_than_the_candidate_table_gets_them_one_below_the_other() {
    let report = Report::from_events(&relayed().events);
    let narrow = render_text(&report, &TextOptions { columns: Some(40), ..TextOptions::default() });
    let words = "Candidates\n  A host 192.168.1.2:40000\n    on eth0\n  A srflx 203.0.113.1:40000\n    base 192.168.1.2:40000 on eth0\n    from stun:192.0.2.10:3478\n";
    assert!(narrow.contains(words), "{narrow}");
    let wide = render_text(&report, &TextOptions { columns: Some(120), ..TextOptions::default() });
    assert_eq!(wide, render_text(&report, &TextOptions::default()));
}
