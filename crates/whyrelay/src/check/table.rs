//! The live table: what is known so far, drawn again on stderr while it is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use whyrelay_core::report::{CheckReport, render_check_rows};
use whyrelay_core::trace::event::Event;

/// Between two drawings.
const INTERVAL: Duration = Duration::from_millis(100);

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
}

impl Table {
    pub(crate) fn new(color: bool) -> Self {
        Self { terminal: io::stderr().is_terminal(), color, lines: 0, drawn: None, events: 0 }
    }

    /// Draws, if it is time to.
    pub(crate) fn draw(&mut self, events: &[Event]) {
        let soon = self.drawn.is_some_and(|drawn| drawn.elapsed() < INTERVAL);
        if !self.terminal || soon || events.len() == self.events {
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
    }

    /// Removes what was drawn.
    pub(crate) fn clear(&mut self) {
        if self.lines > 0 {
            let _ = write!(io::stderr(), "\x1b[{}A\x1b[J", self.lines);
            self.lines = 0;
        }
    }
}
