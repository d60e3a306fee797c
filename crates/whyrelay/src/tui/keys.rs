//! Every key of the screen, in one table: what is read is what the help shows.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Leave; during a session, end it first.
    Quit,
    /// What Ctrl-C does without a screen.
    Interrupt,
    /// Give the terminal back to the shell for a while.
    Suspend,
    /// Show or hide the help.
    Help,
    /// The next pane.
    NextPane,
    /// The pane before.
    PreviousPane,
    /// A pane by its number, from 0.
    Pane(usize),
    /// One row up.
    Up,
    /// One row down.
    Down,
    /// Ten rows up.
    PageUp,
    /// Ten rows down.
    PageDown,
    /// The first row.
    First,
    /// The last row.
    Last,
    /// Into what is selected: a pair's checks, a check's event, a finding's evidence.
    Open,
    /// The next event that the selected finding cites.
    Evidence,
    /// Another order of rows.
    Sort,
    /// Only rows with certain words.
    Filter,
    /// Clear the filter, close the help, leave the zoom.
    Back,
    /// The pane alone on the screen, or all of them.
    Zoom,
    /// Stand still, or go on with what comes.
    Freeze,
    /// Events back in time.
    StepBack(usize),
    /// Events forward in time.
    StepForward(usize),
    /// Draw everything anew.
    Redraw,
}

/// Keys, the command that they give, and the words of the help.
#[derive(Debug)]
pub struct Binding {
    keys: &'static [(KeyCode, KeyModifiers)],
    command: Command,
    /// The keys as the help shows them.
    pub shown: &'static str,
    /// What they do.
    pub what: &'static str,
}

const NONE: KeyModifiers = KeyModifiers::NONE;
const CTRL: KeyModifiers = KeyModifiers::CONTROL;
const fn char(c: char) -> (KeyCode, KeyModifiers) {
    (KeyCode::Char(c), NONE)
}

/// The table.
pub const BINDINGS: &[Binding] = &[
    Binding { keys: &[char('?'), (KeyCode::F(1), NONE)], command: Command::Help, shown: "?", what: "this help" },
    Binding { keys: &[char('q')], command: Command::Quit, shown: "q", what: "leave; ends a session that runs" },
    Binding {
        keys: &[(KeyCode::Char('c'), CTRL)],
        command: Command::Interrupt,
        shown: "Ctrl-C",
        what: "end the session; twice: at once",
    },
    Binding {
        keys: &[(KeyCode::Char('z'), CTRL)],
        command: Command::Suspend,
        shown: "Ctrl-Z",
        what: "back to the shell; fg returns",
    },
    Binding { keys: &[(KeyCode::Tab, NONE)], command: Command::NextPane, shown: "Tab", what: "next pane" },
    Binding {
        keys: &[(KeyCode::BackTab, NONE)],
        command: Command::PreviousPane,
        shown: "Shift-Tab",
        what: "pane before",
    },
    Binding { keys: &[char('1')], command: Command::Pane(0), shown: "1", what: "path" },
    Binding { keys: &[char('2')], command: Command::Pane(1), shown: "2", what: "findings" },
    Binding { keys: &[char('3')], command: Command::Pane(2), shown: "3", what: "pairs" },
    Binding { keys: &[char('4')], command: Command::Pane(3), shown: "4", what: "the selected pair's checks" },
    Binding { keys: &[char('5')], command: Command::Pane(4), shown: "5", what: "events" },
    Binding { keys: &[(KeyCode::Up, NONE), char('k')], command: Command::Up, shown: "Up k", what: "row up" },
    Binding { keys: &[(KeyCode::Down, NONE), char('j')], command: Command::Down, shown: "Down j", what: "row down" },
    Binding { keys: &[(KeyCode::PageUp, NONE)], command: Command::PageUp, shown: "PgUp", what: "ten rows up" },
    Binding { keys: &[(KeyCode::PageDown, NONE)], command: Command::PageDown, shown: "PgDn", what: "ten rows down" },
    Binding { keys: &[(KeyCode::Home, NONE), char('g')], command: Command::First, shown: "Home g", what: "first row" },
    Binding { keys: &[(KeyCode::End, NONE), char('G')], command: Command::Last, shown: "End G", what: "last row" },
    Binding {
        keys: &[(KeyCode::Enter, NONE)],
        command: Command::Open,
        shown: "Enter",
        what: "pair: its checks; check: its event; finding: its evidence",
    },
    Binding {
        keys: &[char('e')],
        command: Command::Evidence,
        shown: "e",
        what: "next event of the selected finding's evidence",
    },
    Binding { keys: &[char('s')], command: Command::Sort, shown: "s", what: "another order of the pane's rows" },
    Binding { keys: &[char('/')], command: Command::Filter, shown: "/", what: "filter the pane's rows" },
    Binding {
        keys: &[(KeyCode::Esc, NONE)],
        command: Command::Back,
        shown: "Esc",
        what: "clear the filter, leave help and zoom",
    },
    Binding { keys: &[char('z')], command: Command::Zoom, shown: "z", what: "this pane alone, and back" },
    Binding { keys: &[char(' ')], command: Command::Freeze, shown: "Space", what: "freeze, and go on" },
    Binding {
        keys: &[(KeyCode::Left, NONE), char('[')],
        command: Command::StepBack(1),
        shown: "Left [",
        what: "one event back in time",
    },
    Binding {
        keys: &[(KeyCode::Right, NONE), char(']')],
        command: Command::StepForward(1),
        shown: "Right ]",
        what: "one event forward",
    },
    Binding { keys: &[char('{')], command: Command::StepBack(25), shown: "{", what: "25 events back" },
    Binding { keys: &[char('}')], command: Command::StepForward(25), shown: "}", what: "25 events forward" },
    Binding { keys: &[(KeyCode::Char('l'), CTRL)], command: Command::Redraw, shown: "Ctrl-L", what: "draw anew" },
];

/// The command of a key.
pub fn command(key: KeyEvent) -> Option<Command> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    // Whether a capital comes with SHIFT, terminals disagree.
    let modifiers = key.modifiers.difference(KeyModifiers::SHIFT);
    let found = BINDINGS.iter().find(|binding| binding.keys.contains(&(key.code, modifiers)))?;
    Some(found.command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_gives_its_command_and_no_other() {
        for binding in BINDINGS {
            for (code, modifiers) in binding.keys {
                assert_eq!(command(KeyEvent::new(*code, *modifiers)), Some(binding.command), "{}", binding.shown);
            }
        }
        assert_eq!(command(KeyEvent::new(KeyCode::Char('G'), KeyModifiers::SHIFT)), Some(Command::Last));
        assert_eq!(command(KeyEvent::new(KeyCode::Char('x'), NONE)), None);
    }
}
