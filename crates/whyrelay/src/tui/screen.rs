//! The state of the screen: a machine that keys and snapshots go into.

use std::sync::Arc;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use whyrelay_core::diagnosis::finding::Finding;
use whyrelay_core::report::{CheckRow, LogLine, PairRow, Report};

use super::keys::{self, Command};
use super::list::List;
use super::rows::{CheckOrder, FindingOrder, PairOrder, Rows};

/// Most characters of a filter.
const MAX_FILTER: usize = 60;

/// One moment of the account, as the worker made it.
#[derive(Debug)]
pub struct Snapshot {
    /// The account of the events so far.
    pub report: Report,
    /// Those events in words, in the order of time.
    pub log: Vec<LogLine>,
    /// How many events are known, those after this moment included.
    pub total: usize,
    /// Whether the other side's description has come.
    pub met: bool,
}

/// What goes into the machine.
#[derive(Clone, Debug)]
pub enum Input {
    /// A key.
    Key(KeyEvent),
    /// A newer account, or one of another moment.
    Snapshot(Arc<Snapshot>),
    /// The session has ended; nothing more comes.
    Over,
}

/// What has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing but drawing.
    None,
    /// Leave.
    Quit,
    /// End the session, as Ctrl-C does without a screen.
    Interrupt,
    /// Give the terminal back for a while.
    Suspend,
    /// Show the account of the first so many events; `None`: of all, and of those to come.
    Seek(Option<usize>),
    /// Draw everything anew.
    Redraw,
}

/// The panes, in the order of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pane {
    /// The verdict and how it is reached.
    Path,
    /// What is wrong.
    Findings,
    /// The pairs.
    Pairs,
    /// The checks of the selected pair.
    Checks,
    /// What happened.
    Events,
}

impl Pane {
    /// Every pane.
    pub const ALL: [Self; 5] = [Self::Path, Self::Findings, Self::Pairs, Self::Checks, Self::Events];

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The screen.
#[derive(Debug)]
pub struct Screen {
    /// Whether a session is watched, not a recording.
    pub(super) live: bool,
    /// The session has ended.
    pub(super) over: bool,
    /// What to run on the other side as long as nobody is there.
    pub(super) invitation: String,
    /// The user wants to leave as soon as the session has ended.
    pub(super) leaving: bool,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// The moment that is shown, as a number of events; `None`: the latest.
    pub(super) position: Option<usize>,
    pub(super) focus: Pane,
    pub(super) zoom: bool,
    pub(super) help: bool,
    /// Its page, where one does not hold all of it: how many further than the first; it goes round.
    pub(super) help_page: i32,
    /// The filter is being typed.
    pub(super) typing: bool,
    pub(super) filters: [String; 5],
    pub(super) lists: [List; 5],
    pub(super) finding_order: FindingOrder,
    pub(super) pair_order: PairOrder,
    pub(super) check_order: CheckOrder,
    pub(super) newest_first: bool,
    pub(super) rows: Rows,
    /// Which piece of the selected finding's evidence was shown last.
    evidence_shown: Option<usize>,
}

impl Screen {
    /// A screen that has nothing to show yet; `live`: a session, not a recording.
    pub fn new(live: bool) -> Self {
        Self {
            live,
            over: !live,
            invitation: String::new(),
            leaving: false,
            snapshot: None,
            position: None,
            focus: Pane::Pairs,
            zoom: false,
            help: false,
            help_page: 0,
            typing: false,
            filters: Default::default(),
            lists: [List::default(); 5],
            finding_order: FindingOrder::default(),
            pair_order: PairOrder::default(),
            check_order: CheckOrder::default(),
            newest_first: false,
            rows: Rows::default(),
            evidence_shown: None,
        }
    }

    /// A screen of a session; `command`: what to run on the other side.
    pub fn of_session(command: String) -> Self {
        Self { invitation: command, ..Self::new(true) }
    }

    /// Whether the session waits for the other side, as far as is known.
    pub(super) fn is_waiting(&self) -> bool {
        let met = self.snapshot.as_ref().is_some_and(|snapshot| snapshot.met);
        self.live && !self.over && self.position.is_none() && !met
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input) -> Action {
        match input {
            Input::Snapshot(snapshot) => {
                let kept = self.selection();
                self.snapshot = Some(snapshot);
                self.arrange(kept);
                Action::None
            }
            Input::Over => {
                self.over = true;
                if self.leaving { Action::Quit } else { Action::None }
            }
            Input::Key(key) if self.typing => self.type_filter(key),
            Input::Key(key) => keys::command(key).map_or(Action::None, |command| self.command(command)),
        }
    }

    fn command(&mut self, command: Command) -> Action {
        match command {
            Command::Quit | Command::Interrupt => return self.leave(command),
            Command::Suspend => return Action::Suspend,
            Command::Redraw => return Action::Redraw,
            Command::Help => (self.help, self.help_page) = (!self.help, 0),
            Command::Back if self.help => self.help = false,
            Command::Down | Command::PageDown if self.help => self.help_page = self.help_page.wrapping_add(1),
            Command::Up | Command::PageUp if self.help => self.help_page = self.help_page.wrapping_sub(1),
            Command::First if self.help => self.help_page = 0,
            Command::Last if self.help => self.help_page = -1,
            Command::Back if !self.filters[self.focus.index()].is_empty() => {
                self.filters[self.focus.index()].clear();
                self.rearrange();
            }
            Command::Back => self.zoom = false,
            Command::NextPane => self.focus = Pane::ALL[(self.focus.index() + 1) % Pane::ALL.len()],
            Command::PreviousPane => {
                self.focus = Pane::ALL[(self.focus.index() + Pane::ALL.len() - 1) % Pane::ALL.len()];
            }
            Command::Pane(index) => self.focus = Pane::ALL[index],
            Command::Zoom => self.zoom = !self.zoom,
            Command::Up => self.move_by(|list, _| list.up(1)),
            Command::Down => self.move_by(|list, length| list.down(1, length)),
            Command::PageUp => self.move_by(|list, _| list.up(10)),
            Command::PageDown => self.move_by(|list, length| list.down(10, length)),
            Command::First => self.move_by(|list, _| list.selected = 0),
            Command::Last => self.move_by(List::last),
            Command::Open => self.open(),
            Command::Evidence => self.next_evidence(),
            Command::Sort => self.sort(),
            Command::Filter => self.typing = self.focus != Pane::Path,
            Command::Freeze if self.position.is_some() => return self.seek(None),
            Command::Freeze => return self.seek(Some(self.shown_events())),
            Command::StepBack(by) => return self.seek(Some(self.shown_events().saturating_sub(by).max(1))),
            Command::StepForward(by) => return self.seek(Some((self.shown_events() + by).min(self.total()))),
        }
        Action::None
    }

    fn leave(&mut self, command: Command) -> Action {
        if self.over {
            return Action::Quit;
        }
        // A second `q` waits for the end as the first does; a second Ctrl-C is the second Ctrl-C.
        let asked = std::mem::replace(&mut self.leaving, true);
        if asked && command == Command::Quit { Action::None } else { Action::Interrupt }
    }

    /// Shows another moment: the lists follow when its snapshot comes.
    fn seek(&mut self, to: Option<usize>) -> Action {
        self.position = to.filter(|_| self.total() > 0);
        Action::Seek(self.position)
    }

    fn move_by(&mut self, step: impl FnOnce(&mut List, usize)) {
        let length = self.length(self.focus);
        step(&mut self.lists[self.focus.index()], length);
        match self.focus {
            // Another pair, another finding: what hangs on it starts anew.
            Pane::Pairs => self.arrange_checks(None),
            Pane::Findings => self.evidence_shown = None,
            _ => {}
        }
    }

    /// Enter.
    fn open(&mut self) {
        match self.focus {
            Pane::Pairs => self.focus = Pane::Checks,
            Pane::Findings => self.next_evidence(),
            Pane::Checks => {
                let check = self.check().map(|check| check.seq);
                self.show_event(check);
            }
            Pane::Path | Pane::Events => self.zoom = !self.zoom,
        }
    }

    /// Goes to the next event that the selected finding cites.
    fn next_evidence(&mut self) {
        let Some(finding) = self.finding().filter(|finding| !finding.evidence.is_empty()) else { return };
        let next = self.evidence_shown.map_or(0, |shown| shown + 1) % finding.evidence.len();
        let seq = finding.evidence[next];
        self.evidence_shown = Some(next);
        self.show_event(Some(seq));
    }

    /// Selects an event, also one that the filter hides.
    fn show_event(&mut self, seq: Option<u64>) {
        let Some(seq) = seq else { return };
        if self.row_of(seq).is_none() {
            self.filters[Pane::Events.index()].clear();
            self.rearrange();
        }
        if let Some(row) = self.row_of(seq) {
            self.lists[Pane::Events.index()].selected = row;
            self.focus = Pane::Events;
        }
    }

    fn sort(&mut self) {
        match self.focus {
            Pane::Pairs => self.pair_order = self.pair_order.next(),
            Pane::Findings => self.finding_order = self.finding_order.next(),
            Pane::Checks => self.check_order = self.check_order.next(),
            Pane::Events => self.newest_first = !self.newest_first,
            Pane::Path => return,
        }
        self.rearrange();
    }

    fn type_filter(&mut self, key: KeyEvent) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::None;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let filter = &mut self.filters[self.focus.index()];
        match key.code {
            KeyCode::Char('c') if control => {
                self.typing = false;
                return self.command(Command::Interrupt);
            }
            KeyCode::Char(c) if !control && filter.chars().count() < MAX_FILTER => filter.push(c),
            KeyCode::Backspace => drop(filter.pop()),
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                filter.clear();
                self.typing = false;
            }
            _ => return Action::None,
        }
        self.rearrange();
        Action::None
    }

    fn rearrange(&mut self) {
        let kept = self.selection();
        self.arrange(kept);
    }

    pub(super) const fn list(&self, pane: Pane) -> List {
        self.lists[pane.index()]
    }

    pub(super) fn report(&self) -> Option<&Report> {
        self.snapshot.as_deref().map(|snapshot| &snapshot.report)
    }

    pub(super) fn log(&self) -> &[LogLine] {
        self.snapshot.as_deref().map_or(&[], |snapshot| &snapshot.log)
    }

    /// Events before the moment that is shown.
    pub(super) fn shown_events(&self) -> usize {
        self.position.unwrap_or_else(|| self.log().len())
    }

    pub(super) fn total(&self) -> usize {
        self.snapshot.as_deref().map_or(0, |snapshot| snapshot.total)
    }

    /// The selected pair.
    pub(super) fn pair(&self) -> Option<&PairRow> {
        let index = *self.rows.pairs.get(self.list(Pane::Pairs).selected)?;
        self.report()?.pairs.get(index)
    }

    /// The selected check.
    pub(super) fn check(&self) -> Option<&CheckRow> {
        let index = *self.rows.checks.get(self.list(Pane::Checks).selected)?;
        self.pair()?.checks.get(index)
    }

    /// The selected finding.
    pub(super) fn finding(&self) -> Option<&Finding> {
        let index = *self.rows.findings.get(self.list(Pane::Findings).selected)?;
        self.report()?.findings.get(index)
    }

    fn row_of(&self, seq: u64) -> Option<usize> {
        let log = self.log();
        self.rows.events.iter().position(|&index| log.get(index).is_some_and(|line| line.seq == seq))
    }
}
