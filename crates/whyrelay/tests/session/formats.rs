//! Text, JSON, HTML and screen of the same recordings, side by side for review.

use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use whyrelay::tui::draw::{Look, draw};
use whyrelay::tui::screen::{Input, Screen, Snapshot};
use whyrelay_core::report::{
    Account, CheckReport, Report, TextOptions, asides, render_check_json, render_check_text, render_html, render_json,
    render_text,
};
use whyrelay_core::trace::event::Event;
use whyrelay_core::trace::recording::Recording;

#[path = "../../../whyrelay-core/tests/account/readable.rs"]
mod readable;

use readable::readable;

const SESSIONS: [&str; 7] = ["direct", "relayed", "failed", "one-sided", "two-browsers", "as-program", "mended"];

/// The account of a recording; that of a mended host beside the session before (`--prove`).
fn report(name: &str, events: &[Event]) -> Report {
    let mut report = Report::from_events(events);
    if name == "mended" {
        report.prove(&self::events("as-program"), events);
    }
    report
}

fn events(name: &str) -> Vec<Event> {
    let file = format!("{}/../whyrelay-core/tests/recordings/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let recording = Recording::read(&bytes).expect("a recording");
    assert_eq!((recording.unknown, recording.unreadable), (0, 0), "{file}");
    Recording::merge(vec![recording]).expect("one recording").events
}

/// What the screen shows of a recording.
fn screen(events: &[Event], (width, height): (u16, u16)) -> String {
    let mut account = Account::new();
    events.iter().for_each(|event| account.apply(event.clone()));
    let snapshot = Snapshot { report: account.report(), log: account.log(), total: account.len(), met: true };
    let mut screen = Screen::new(false);
    screen.handle(Input::Snapshot(Arc::new(snapshot)));
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, &screen, Look { color: false })).expect("a frame");
    terminal.backend().to_string()
}

#[test]
fn every_recording_in_every_format() {
    for name in SESSIONS {
        let events = events(name);
        let report = report(name, &events);
        insta::assert_snapshot!(format!("{name}-text"), render_text(&report, &TextOptions::default()));
        let narrow = render_text(&report, &TextOptions { columns: Some(60), ..TextOptions::default() });
        // A command is one line, to be copied.
        let fits = |line: &str| line.chars().count() <= 80 || line.trim_start().starts_with("$ ");
        assert!(narrow.lines().all(fits), "{name}: {narrow}");
        insta::assert_snapshot!(format!("{name}-json"), render_json(&report));
        insta::assert_snapshot!(format!("{name}-html"), readable(&render_html(&report)));
        insta::assert_snapshot!(format!("{name}-screen"), screen(&events, (110, 44)));
    }
    // The account of one host alone has no HTML and no screen.
    let report = CheckReport::from_events(&events("check"));
    insta::assert_snapshot!("check-text", render_check_text(&report, &TextOptions::default()));
    insta::assert_snapshot!("check-json", render_check_json(&report));
}

#[test]
fn the_screen_fits_the_narrowest_terminals() {
    let events = events("relayed");
    for size in [(80, 24), (40, 12)] {
        insta::assert_snapshot!(format!("relayed-screen-{}x{}", size.0, size.1), screen(&events, size));
    }
}

#[test]
fn every_format_says_the_same() {
    for name in SESSIONS {
        let events = events(name);
        let report = report(name, &events);
        let (text, html) = (render_text(&report, &TextOptions::default()), render_html(&report));
        // Tall enough for everything that is compared.
        let screen = screen(&events, (200, 200));
        let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let escaped = |text: &str| text.replace('\'', "&#39;").replace('"', "&quot;").replace('>', "&gt;");
        assert!(plain(&text).contains(&plain(&report.reason)), "{name}: {text}");
        assert!(html.contains(&escaped(&report.reason)), "{name}");
        for finding in &report.findings {
            for (format, contents) in [("text", &text), ("HTML", &html), ("screen", &screen)] {
                assert!(contents.contains(finding.code), "{name}: {} is not in the {format}", finding.code);
            }
        }
        for aside in asides(&report) {
            for words in [Some(&aside.heading), aside.lead.as_ref()].into_iter().flatten() {
                assert!(plain(&text).contains(words), "{name}: {words} is not in {text}");
                assert!(html.contains(&escaped(words)), "{name}: {words}");
            }
        }
        if let Some(clock) = &report.clock {
            assert!(plain(&text).contains(&clock.summary), "{name}: {text}");
            assert!(html.contains(&escaped(&clock.summary)), "{name}");
        }
    }
}
