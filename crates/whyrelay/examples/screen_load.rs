//! `cargo xtask bench screen`: a session of the largest size, live on the terminal screen.
//!
//! One thread feeds the events of one side as a session would, another folds them, and this one draws a frame at each
//! turn of the screen's own loop, with a key pressed before each. Prints one line of figures: frames a second in the
//! slowest second, the slowest frame, and how old the account was that a frame showed.
//!
//! `cargo xtask bench report`: with the name of a file, only writes the report of both sides' recordings there.

use std::fs::File;
use std::io::BufWriter;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use whyrelay::tui::draw::{Look, draw};
use whyrelay::tui::screen::{Input, Screen};
use whyrelay::tui::worker::{self, Feed, Slot};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::{Report, render_html};
use whyrelay_core::trace::event::{Event, Vantage};

use builder::{Check, Fate, Session};

#[path = "../../whyrelay-core/tests/account/builder.rs"]
#[expect(dead_code, reason = "the tests of the account use the rest")]
mod builder;

/// Names that the builder takes from its tests.
mod report {
    pub(crate) const A: &str = "192.168.1.2:40000";
    pub(crate) const A_MAPPED: &str = "203.0.113.1:40000";
    pub(crate) const B_MAPPED: &str = "198.51.100.2:50000";
}

/// Candidates of a side, pairs, and checks in all.
const CANDIDATES: u16 = 200;
const PAIRS: u16 = 100;
const CHECKS: u16 = 10_000;

/// Over how long they come.
const LASTS: Duration = Duration::from_secs(6);

/// What the screen's loop waits for a key.
const TURN: Duration = Duration::from_millis(15);

fn main() -> anyhow::Result<()> {
    if let Some(file) = std::env::args_os().nth(1) {
        return Ok(std::fs::write(file, render_html(&Report::from_events(&events())))?);
    }
    let mut events = events();
    events.retain(|event| event.vantage == Vantage::A);
    let count = events.len();
    let (feed, fed) = mpsc::channel();
    let slot = Slot::default();
    let into = slot.clone();
    std::thread::spawn(move || worker::run(&fed, &into));
    let feeder = feed.clone();
    let start = Instant::now();
    std::thread::spawn(move || {
        for (number, event) in events.into_iter().enumerate() {
            // A few hundred thousand events at most: exact enough.
            let due = start + LASTS.mul_f64(number as f64 / count as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if feeder.send(Feed::Event(Box::new(event))).is_err() {
                return;
            }
        }
    });

    let out = BufWriter::with_capacity(64 * 1024, File::create("/dev/null")?);
    let viewport = Viewport::Fixed(Rect::new(0, 0, 160, 50));
    let mut terminal = Terminal::with_options(CrosstermBackend::new(out), TerminalOptions { viewport })?;
    let (look, mut screen) = (Look { color: true }, Screen::new(true));
    let mut frames: Vec<(Instant, Duration)> = Vec::new();
    let (mut ages, mut fresh_at) = (Vec::new(), None);
    let keys = [KeyCode::Down, KeyCode::Tab, KeyCode::PageDown, KeyCode::Up];
    while start.elapsed() < LASTS + Duration::from_millis(500) {
        std::thread::sleep(TURN);
        let began = Instant::now();
        if let Some(snapshot) = slot.take() {
            // How old: the events that are shown against those that had come.
            let shown = LASTS.mul_f64(snapshot.log.len() as f64 / count as f64);
            ages.push(start.elapsed().min(LASTS).saturating_sub(shown));
            fresh_at = Some(Instant::now());
            screen.handle(Input::Snapshot(snapshot));
        }
        screen.handle(Input::Key(KeyEvent::new(keys[frames.len() % keys.len()], KeyModifiers::NONE)));
        terminal.draw(|frame| draw(frame, &screen, look))?;
        frames.push((began, began.elapsed()));
    }
    drop(feed);
    anyhow::ensure!(fresh_at.is_some(), "no account was made");
    let mut per_second = vec![0_u32; LASTS.as_secs() as usize];
    for (at, _) in &frames {
        if let Some(second) = per_second.get_mut(at.duration_since(start).as_secs() as usize) {
            *second += 1;
        }
    }
    let slowest = frames.iter().map(|(_, took)| *took).max().unwrap_or_default();
    let least = per_second.iter().min().copied().unwrap_or_default();
    let age = ages.iter().max().copied().unwrap_or_default();
    println!(
        "events={count} frames_per_second={least} slowest_frame_ms={:.2} oldest_account_ms={:.1} accounts={}",
        slowest.as_secs_f64() * 1000.0,
        age.as_secs_f64() * 1000.0,
        ages.len()
    );
    Ok(())
}

/// What side A records of a session of the largest size.
fn events() -> Vec<Event> {
    let mut session = Session::new();
    let b = "10.0.0.2:50000";
    for number in 0..CANDIDATES {
        let own = format!("10.20.{}.{}:40000", number / 100, number % 100 + 1);
        let other = format!("10.30.{}.{}:50000", number / 100, number % 100 + 1);
        session.candidate(Vantage::A, CandidateType::Host, &own, &own, None);
        session.candidate(Vantage::B, CandidateType::Host, &other, &other, None);
    }
    for check in 0..CHECKS {
        let remote = format!("198.51.100.2:{}", 10_000 + check % PAIRS);
        session.check(Check {
            by: Vantage::A,
            local: report::A,
            remote: &remote,
            seen_at: b,
            seen_from: report::A_MAPPED,
            transmissions: 1,
            nominate: false,
            fate: if check % 3 == 0 { Fate::LostOnTheWay } else { Fate::Answered },
        });
    }
    session.events
}
