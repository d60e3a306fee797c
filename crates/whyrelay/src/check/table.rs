//! The live table: what is known so far, drawn again on stderr while it is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use whyrelay_core::report::{CheckReport, render_check_rows};
use whyrelay_core::trace::event::Event;

/// Between two drawings.
const INTERVAL: Duration = Duration::from_millis(100);

/// What takes longer says so.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lines that are drawn: what scrolls away cannot be drawn again.
const MAX_LINES: usize = 40;

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    terminal: bool,
    color: bool,
    lines: usize,
    drawn: Option<Instant>,
    events: usize,
    started: Instant,
    /// What is going on, as it was last said.
    said: String,
}

impl Table {
    pub(crate) fn new(color: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { terminal, color, lines: 0, drawn: None, events: 0, started: Instant::now(), said: String::new() }
    }

    /// Draws, if it is time to. `status`: what takes so long, in words; what is no terminal gets it as a line, once.
    pub(crate) fn draw(&mut self, events: &[Event], status: Option<String>) {
        let soon = self.drawn.is_some_and(|drawn| drawn.elapsed() < INTERVAL);
        let is_news = status.as_ref().is_some_and(|status| *status != self.said);
        if !self.terminal {
            if let (Some(status), true) = (status, is_news) {
                let _ = writeln!(io::stderr(), "{status}");
                self.said = status;
            }
            return;
        }
        let waits = self.started.elapsed() > PATIENCE;
        if soon || events.len() == self.events && !is_news && !waits {
            return;
        }
        self.clear();
        self.drawn = Some(Instant::now());
        self.events = events.len();
        let text = render_check_rows(&CheckReport::from_events(events), self.color);
        let mut stderr = io::stderr().lock();
        for line in text.lines().take(MAX_LINES) {
            // A closed stderr is no reason to stop.
            let _ = writeln!(stderr, "{line}");
            self.lines += 1;
        }
        if waits || status.is_some() {
            let status = status.unwrap_or_else(|| "still looking".to_owned());
            let _ = writeln!(stderr, "… {status}, {} s so far", self.started.elapsed().as_secs());
            self.lines += 1;
            self.said = status;
        }
    }

    /// Removes what was drawn.
    pub(crate) fn clear(&mut self) {
        if self.lines > 0 {
            let _ = write!(io::stderr(), "\x1b[{}A\x1b[J", self.lines);
            self.lines = 0;
        }
    }
}
