//! The account as HTML: a snapshot, hostile text, and a session of the largest size.

use whyrelay_core::ice::candidate::{CandidateAddress, CandidateType};
use whyrelay_core::report::{Report, TextOptions, Witness, render_html, render_text, svg};
use whyrelay_core::trace::event::{Direction, EventKind, RefuseReason, SessionOptions, SignalingState, Vantage};
use whyrelay_core::trace::recording::Recording;

use crate::builder::{Check, Fate, Session, address};
use crate::hostile;
use crate::readable::readable;
use crate::report::{A, STUN, a_checks, b_checks, behind_nats, direct, failed, finish_relayed, relayed};

#[test]
fn a_relayed_session_as_html() {
    let mut session = relayed();
    finish_relayed(&mut session);
    insta::assert_snapshot!(readable(&render_html(&Report::from_events(&session.events))));
}

#[test]
fn a_failed_session_seen_by_one_side_as_html() {
    let session = failed(Fate::LostOnTheWay, Fate::AnswerLost);
    insta::assert_snapshot!(readable(&render_html(&Report::from_events(&session.of(Vantage::A)))));
}

#[test]
fn the_pictures_of_a_direct_session() {
    let report = Report::from_events(&direct().events);
    insta::assert_snapshot!("picture_wide", svg::network_svg(&report));
    insta::assert_snapshot!("picture_tall", svg::network_tall_svg(&report));
    insta::assert_snapshot!("picture_timeline", svg::timeline_svg(&report, 960));
}

#[test]
fn the_clock_offset_is_found_within_its_uncertainty() {
    let clock = Report::from_events(&direct().events).clock.expect("both sides were recorded");
    let (offset, uncertainty) = (clock.offset_us.expect("an offset"), clock.uncertainty_us.expect("an uncertainty"));
    let true_offset: i64 = 1_600_000_000_000_000 - 1_700_000_000_000_000;
    assert!(offset.abs_diff(true_offset) <= uncertainty, "{offset} ± {uncertainty}");
    assert!(uncertainty <= 5_000, "{uncertainty}");
    // One side alone has nothing to compare with, and does not say "no offset".
    assert_eq!(Report::from_events(&direct().of(Vantage::A)).clock, None);
}

#[test]
fn pings_over_the_channel_compare_the_clocks_more_closely_than_signaling() {
    let mut session = Session::new();
    let before = Report::from_events(&session.events).clock.expect("both sides were recorded");
    for (asks, id) in [(Vantage::A, 0), (Vantage::B, 0), (Vantage::A, 1)] {
        for (vantage, direction, answer) in [
            (asks, Direction::Out, false),
            (asks.other(), Direction::In, false),
            (asks.other(), Direction::Out, true),
            (asks, Direction::In, true),
        ] {
            session.push(vantage, EventKind::ChannelPing { direction, answer, id });
        }
    }
    let clock = Report::from_events(&session.events).clock.expect("both sides were recorded");
    assert_eq!(clock.measured_by, [Witness::Channel]);
    assert_eq!((clock.a_to_b, clock.b_to_a), (before.a_to_b + 3, before.b_to_a + 3));
    // Each takes 1.5 ms in this session, both ways.
    assert_eq!(clock.offset_us, Some(1_600_000_000_000_000 - 1_700_000_000_000_000));
    assert_eq!(clock.uncertainty_us, Some(1500));
}

/// Markup in every place that a remote peer, a server or a recording from elsewhere can fill with text.
fn hostile_session(evil: &str) -> Session {
    let mut session = Session::with_options(SessionOptions { interfaces: vec![evil.into()], ..Default::default() });
    let text = || evil.to_owned();
    for vantage in [Vantage::A, Vantage::B] {
        session.stun(vantage, A, STUN, Some("203.0.113.1:40000"));
        let mut candidate = session.local_candidate(vantage, CandidateType::Host, A, A, Some(evil));
        candidate.foundation = text();
        candidate.extensions = vec![(text(), text())];
        candidate.address = CandidateAddress::Name { name: text(), port: 9 };
        let kinds = [
            EventKind::RemoteCandidate { candidate: candidate.clone(), resolved: Some(address("10.0.0.9:9")) },
            EventKind::LocalCandidate { candidate, base: address(A), interface: Some(text()), server: Some(text()) },
            EventKind::PeerIdentified { program: text(), sends_recording: true },
            EventKind::SignalMessage {
                direction: whyrelay_core::trace::event::Direction::In,
                message: text(),
                length: 1,
            },
            EventKind::SignalRefused { message: text(), detail: text(), ours: false },
            EventKind::Signaling { server: text(), state: SignalingState::Lost { detail: text() } },
            EventKind::ServerKnown { url: format!("turn:{evil}"), announced: true },
            EventKind::RemoteCandidateRefused { line: text(), reason: RefuseReason::Malformed { detail: text() } },
            EventKind::NameResolved { name: text(), addresses: vec![], took_us: 1, error: Some(text()) },
            EventKind::ChannelOpened { label: text() },
            EventKind::ChannelClosed { detail: text() },
            EventKind::PeerRecording { missing: Some(text()) },
        ];
        for kind in kinds {
            session.push(vantage, kind);
        }
        // A recording that the peer sends names its program and its id itself.
        let at = session.events.iter().position(|event| event.vantage == vantage).expect("it has begun");
        if let EventKind::RecordingStarted { program, id, .. } = &mut session.events[at].kind {
            (*program, *id) = (text(), text());
        }
        let description = session.events.iter_mut().filter(|event| event.vantage == vantage);
        for event in description {
            if let EventKind::Description { description, setup, fingerprint, ice_options, .. } = &mut event.kind {
                (*description, *setup, *fingerprint, *ice_options) = (text(), text(), text(), vec![text()]);
            }
        }
    }
    session.check(Check { transmissions: 7, ..a_checks(Fate::Error(400)) });
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

#[test]
fn markup_of_a_peer_stays_text_in_every_format() {
    for evil in [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "'/><svg/onload=alert(1)>",
        "</style></title></text><iframe>",
        "javascript:alert(1)",
        "&lt;b&gt;\u{202e}\u{1b}[2J",
    ] {
        let session = hostile_session(evil);
        let (lines, fields) = hostile::recording(evil);
        assert!(fields > 160, "{evil}: in {fields} fields");
        let everything = Recording::read(lines.as_bytes()).expect("a recording").events;
        for events in [session.events.clone(), session.of(Vantage::A), session.of(Vantage::B), everything.clone()] {
            let mut report = Report::from_events(&events);
            report.prove(&everything, &events);
            let html = render_html(&report);
            let pictures =
                [svg::network_svg(&report), svg::network_tall_svg(&report), svg::timeline_svg(&report, 360)].concat();
            for text in [&html, &pictures] {
                for tag in
                    ["<script", "<img", "<iframe", "<svg/", "onerror=\"", "href=\"javascript", "\u{202e}", "\u{1b}"]
                {
                    assert!(!text.contains(tag), "{evil}: {tag}");
                }
                // Only tags of our own stand in it: each opens with a name that the renderers use.
                for part in text.split('<').skip(1) {
                    let name: String =
                        part.chars().take_while(|c| c.is_ascii_alphanumeric() || "/!".contains(*c)).collect();
                    assert!(KNOWN.contains(&name.trim_start_matches('/')), "{evil}: <{name}");
                }
            }
            assert!(html.contains("alert(1)") || !evil.contains("alert"), "the text itself is shown");
            let plain = render_text(&report, &TextOptions::default());
            assert!(!plain.contains('\u{1b}') && !plain.contains('\u{202e}'), "{evil}");
        }
    }
}

const KNOWN: &[&str] = &[
    "!doctype",
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "main",
    "header",
    "div",
    "span",
    "h1",
    "h2",
    "h3",
    "small",
    "b",
    "p",
    "a",
    "ul",
    "li",
    "pre",
    "code",
    "article",
    "figure",
    "figcaption",
    "svg",
    "text",
    "rect",
    "path",
    "polygon",
    "circle",
    "line",
    "details",
    "summary",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "dl",
    "dt",
    "dd",
    "footer",
];

/// 200 candidates a side, 100 pairs, 10,000 checks.
pub(crate) fn large() -> Session {
    let mut session = behind_nats();
    for number in 0..198_u16 {
        let a = format!("10.20.{}.{}:40000", number / 100, number % 100 + 1);
        let b = format!("10.30.{}.{}:50000", number / 100, number % 100 + 1);
        session.candidate(Vantage::A, CandidateType::Host, &a, &a, None);
        session.candidate(Vantage::B, CandidateType::Host, &b, &b, None);
    }
    for pair in 0..100 {
        let remote = format!("198.51.100.2:{}", 10_000 + pair);
        for _ in 0..99 {
            session.check(Check { remote: &remote, ..a_checks(Fate::Answered) });
        }
        session.check(b_checks(Fate::LostOnTheWay));
    }
    session
}

#[test]
fn the_largest_session_makes_a_bounded_page() {
    let session = large();
    let report = Report::from_events(&session.events);
    assert_eq!(report.candidates.len(), 400);
    let html = render_html(&report);
    assert!(html.len() < 2_500_000, "{} bytes", html.len());
    assert!(html.contains("more checks") && html.contains("more pairs") && html.contains("more candidates"));
    assert!(html.matches("<tr").count() < 4_000, "{} rows", html.matches("<tr").count());
}
