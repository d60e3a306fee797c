//! The live table: what is known so far, drawn again on stderr while it is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use ratatui::crossterm::terminal::size;
use whyrelay_core::report::{CheckReport, render_check_rows};
use whyrelay_core::trace::event::Event;

/// Between two drawings.
const INTERVAL: Duration = Duration::from_millis(100);

/// What takes longer says so.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lines that are drawn on a terminal that does not say how large it is.
const MAX_LINES: usize = 40;

/// Lines that stay free besides those of the status: for the cursor behind the last. What scrolls away cannot be drawn
/// again.
const FREE: usize = 1;

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
    said: Vec<String>,
}

impl Table {
    pub(crate) fn new(color: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { terminal, color, lines: 0, drawn: None, events: 0, started: Instant::now(), said: Vec::new() }
    }

    /// Draws, if it is time to. `status`: what takes so long, each in words; what is no terminal gets it as a line, once.
    pub(crate) fn draw(&mut self, events: &[Event], mut status: Vec<String>) {
        let soon = self.drawn.is_some_and(|drawn| drawn.elapsed() < INTERVAL);
        let is_news = status.iter().any(|line| !self.said.contains(line));
        if !self.terminal {
            for line in status.iter().filter(|line| !self.said.contains(line)) {
                let _ = writeln!(io::stderr(), "{line}");
            }
            self.said = status;
            return;
        }
        let waits = self.started.elapsed() > PATIENCE;
        if soon || events.len() == self.events && !is_news && !waits {
            return;
        }
        self.clear();
        self.drawn = Some(Instant::now());
        self.events = events.len();
        if waits && status.is_empty() {
            status.push("still looking".to_owned());
        }
        let text = render_check_rows(&CheckReport::from_events(events), self.color);
        // A terminal that tells no size says 0.
        let size = size().ok().filter(|(columns, rows)| *columns > 0 && *rows > 0);
        let (columns, most) = size.map_or((usize::MAX, MAX_LINES), |(columns, rows)| {
            (columns.into(), usize::from(rows).saturating_sub(FREE + status.len()).min(MAX_LINES))
        });
        let mut stderr = io::stderr().lock();
        for line in text.lines().take(most) {
            // A closed stderr is no reason to stop.
            let _ = writeln!(stderr, "{}", cut(line, columns));
            self.lines += 1;
        }
        for line in &status {
            let line = format!("… {line}, {} s so far", self.started.elapsed().as_secs());
            let _ = writeln!(stderr, "{}", cut(&line, columns));
            self.lines += 1;
        }
        self.said = status;
    }

    /// Removes what was drawn.
    pub(crate) fn clear(&mut self) {
        if self.lines > 0 {
            let _ = write!(io::stderr(), "\x1b[{}A\x1b[J", self.lines);
            self.lines = 0;
        }
    }
}

/// As much of a line as stands in one of the terminal: a longer one would take two. Colors take no room, and end with it.
fn cut(line: &str, columns: usize) -> String {
    let (mut shown, mut text, mut is_escape) = (0, String::new(), false);
    for character in line.chars() {
        is_escape |= character == '\x1b';
        if !is_escape {
            if shown == columns {
                continue;
            }
            shown += 1;
        }
        text.push(character);
        // Ours are colors only, which end with this letter.
        is_escape &= character != 'm';
    }
    text
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_line_is_cut_at_the_terminals_edge_and_its_color_is_ended() {
        assert_eq!(cut("abc", usize::MAX), "abc");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "abc");
        assert_eq!(cut("a\x1b[32mbcd\x1b[0m", 2), "a\x1b[32mb\x1b[0m");
        assert_eq!(cut("", 0), "");
    }
}
