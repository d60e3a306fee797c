//! Which rows the panes list, and in which order: worked out when something changes, so that drawing only reads.

use std::cmp::Reverse;

use whyrelay_core::diagnosis::finding::Finding;
use whyrelay_core::report::{CheckRow, PairOutcome, PairRow, words};

use super::draw::{check_words, path_lines};
use super::screen::{Pane, Screen};

/// In which order pairs stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PairOrder {
    /// As in the account: selected, nominated, checked, by priority.
    #[default]
    Account,
    /// Most checks first.
    Checks,
    /// Shortest round trip first.
    RoundTrip,
    /// Broken ones first.
    Broken,
}

impl PairOrder {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Account => Self::Checks,
            Self::Checks => Self::RoundTrip,
            Self::RoundTrip => Self::Broken,
            Self::Broken => Self::Account,
        }
    }

    /// For the pane's title; empty for the account's own order.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Account => "",
            Self::Checks => "most checks first",
            Self::RoundTrip => "shortest round trip first",
            Self::Broken => "broken first",
        }
    }
}

/// In which order the checks of a pair stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CheckOrder {
    /// As in the account: A's first, each side's by time.
    #[default]
    Account,
    /// Unanswered ones and errors first.
    Unanswered,
    /// Longest round trip first; those without one last.
    RoundTrip,
}

impl CheckOrder {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Account => Self::Unanswered,
            Self::Unanswered => Self::RoundTrip,
            Self::RoundTrip => Self::Account,
        }
    }

    /// For the pane's title; empty for the account's own order.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Account => "",
            Self::Unanswered => "unanswered first",
            Self::RoundTrip => "longest round trip first",
        }
    }
}

/// In which order findings stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FindingOrder {
    /// As in the account: the cause first.
    #[default]
    Account,
    /// By their codes.
    Code,
    /// By whose fault they are.
    Blame,
}

impl FindingOrder {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Account => Self::Code,
            Self::Code => Self::Blame,
            Self::Blame => Self::Account,
        }
    }

    /// For the pane's title; empty for the account's own order.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Account => "",
            Self::Code => "by code",
            Self::Blame => "by place",
        }
    }
}

/// Indices into the snapshot's lists.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub(super) pairs: Vec<usize>,
    pub(super) findings: Vec<usize>,
    /// Of the selected pair.
    pub(super) checks: Vec<usize>,
    pub(super) events: Vec<usize>,
}

/// What is selected, by what it is instead of where it stands.
pub(super) struct Selection {
    pair: Option<String>,
    finding: Option<&'static str>,
    check: Option<u64>,
    event: Option<u64>,
    /// The newest event is selected: the next newest is to be.
    at_the_end: bool,
}

impl Screen {
    pub(super) fn selection(&self) -> Selection {
        let events = self.list(Pane::Events).selected;
        let event = self.rows.events.get(events).and_then(|&index| self.log().get(index));
        let end = if self.newest_first { events == 0 } else { events + 1 >= self.rows.events.len() };
        Selection {
            pair: self.pair().filter(|_| self.list(Pane::Pairs).selected > 0).map(ends),
            finding: self.finding().filter(|_| self.list(Pane::Findings).selected > 0).map(|finding| finding.code),
            check: self.check().filter(|_| self.list(Pane::Checks).selected > 0).map(|check| check.seq),
            event: event.map(|line| line.seq),
            at_the_end: end && self.position.is_none(),
        }
    }

    /// Works out the rows anew; what was selected stays selected where it is still there.
    pub(super) fn arrange(&mut self, kept: Selection) {
        let Some(snapshot) = self.snapshot.clone() else { return };
        let report = &snapshot.report;
        let wanted = |pane: Pane| Wanted::new(&self.filters[pane.index()]);

        let filter = wanted(Pane::Pairs);
        let mut pairs: Vec<usize> =
            (0..report.pairs.len()).filter(|&at| filter.fits(|| pair_words(&report.pairs[at]))).collect();
        sort_pairs(&mut pairs, &report.pairs, self.pair_order);
        let filter = wanted(Pane::Findings);
        let mut findings: Vec<usize> =
            (0..report.findings.len()).filter(|&at| filter.fits(|| finding_words(&report.findings[at]))).collect();
        match self.finding_order {
            FindingOrder::Account => {}
            FindingOrder::Code => findings.sort_by_key(|&at| report.findings[at].code),
            FindingOrder::Blame => findings.sort_by_key(|&at| report.findings[at].blame.name()),
        }
        let filter = wanted(Pane::Events);
        let mut events: Vec<usize> =
            (0..snapshot.log.len()).filter(|&at| filter.is_in(&snapshot.log[at].text)).collect();
        if self.newest_first {
            events.reverse();
        }
        self.rows = Rows { pairs, findings, checks: Vec::new(), events };

        let rows = &self.rows;
        let pair = kept.pair.and_then(|kept| rows.pairs.iter().position(|&at| ends(&report.pairs[at]) == kept));
        let finding =
            kept.finding.and_then(|code| rows.findings.iter().position(|&at| report.findings[at].code == code));
        let end = if self.newest_first { 0 } else { rows.events.len().saturating_sub(1) };
        let event = kept.event.filter(|_| !kept.at_the_end);
        let event = event.and_then(|seq| rows.events.iter().position(|&at| snapshot.log[at].seq == seq)).unwrap_or(end);
        self.lists[Pane::Pairs.index()].selected = pair.unwrap_or_default();
        self.lists[Pane::Findings.index()].selected = finding.unwrap_or_default();
        self.arrange_checks(kept.check);
        self.lists[Pane::Events.index()].selected = event;
        for pane in Pane::ALL {
            let length = self.length(pane);
            self.lists[pane.index()].keep_within(length);
        }
    }

    /// Works out the rows of the selected pair's checks; `kept`: the check that stays selected.
    pub(super) fn arrange_checks(&mut self, kept: Option<u64>) {
        let wanted = Wanted::new(&self.filters[Pane::Checks.index()]);
        let checks = self.pair().map_or(&[][..], |pair| &pair.checks);
        let mut rows: Vec<usize> = (0..checks.len()).filter(|&at| wanted.fits(|| check_words(&checks[at]))).collect();
        match self.check_order {
            CheckOrder::Account => {}
            CheckOrder::Unanswered => rows.sort_by_key(|&at| is_answered(&checks[at])),
            CheckOrder::RoundTrip => rows.sort_by_key(|&at| Reverse(checks[at].round_trip_us)),
        }
        let selected = kept.and_then(|seq| rows.iter().position(|&at| checks[at].seq == seq));
        self.rows.checks = rows;
        self.lists[Pane::Checks.index()].selected = selected.unwrap_or_default();
    }

    /// How many rows a pane lists.
    pub(super) fn length(&self, pane: Pane) -> usize {
        match pane {
            Pane::Path => self.report().map_or(0, |report| path_lines(self, report).len()),
            Pane::Findings => self.rows.findings.len(),
            Pane::Pairs => self.rows.pairs.len(),
            Pane::Checks => self.rows.checks.len(),
            Pane::Events => self.rows.events.len(),
        }
    }
}

/// Words to look for, in any case of ASCII letters.
struct Wanted(String);

impl Wanted {
    fn new(filter: &str) -> Self {
        Self(filter.to_ascii_lowercase())
    }

    fn fits(&self, words: impl FnOnce() -> String) -> bool {
        self.0.is_empty() || self.is_in(&words())
    }

    fn is_in(&self, text: &str) -> bool {
        let (text, wanted) = (text.as_bytes(), self.0.as_bytes());
        wanted.is_empty() || text.windows(wanted.len()).any(|window| window.eq_ignore_ascii_case(wanted))
    }
}

fn sort_pairs(rows: &mut [usize], pairs: &[PairRow], order: PairOrder) {
    match order {
        PairOrder::Account => {}
        PairOrder::Checks => rows.sort_by_key(|&at| Reverse(pairs[at].checks.len() + pairs[at].checks_left_out)),
        PairOrder::RoundTrip => rows.sort_by_key(|&at| {
            let trip = pairs[at].a_to_b.round_trip_us.or(pairs[at].b_to_a.round_trip_us);
            (trip.is_none(), trip)
        }),
        PairOrder::Broken => rows.sort_by_key(|&at| match pairs[at].outcome {
            PairOutcome::Broken => 0,
            PairOutcome::Unknown => 1,
            PairOutcome::Works => 2,
        }),
    }
}

const fn is_answered(check: &CheckRow) -> bool {
    check.error.is_none() && check.answer_seen_us.is_some()
}

fn ends(pair: &PairRow) -> String {
    format!("{} {}", words::end(pair.a.as_ref()), words::end(pair.b.as_ref()))
}

fn pair_words(pair: &PairRow) -> String {
    format!("A {} B {} {}", words::end(pair.a.as_ref()), words::end(pair.b.as_ref()), words::marks(pair).join(" "))
}

fn finding_words(finding: &Finding) -> String {
    format!(
        "{} {} {} {} {}",
        finding.severity.name(),
        finding.code,
        finding.name,
        finding.blame.name(),
        finding.summary
    )
}
