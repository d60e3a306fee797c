//! The NAT × NAT table: every place against every other, each of the two speaking first.

use std::time::Duration;

use serde::Serialize;

use crate::predict::{First, Place, predict};
use crate::run::{Observed, run_virtual};
use crate::scenario::file::{Expect, File, Host, OneOrMany, Path};
use crate::scenario::value::Span;
use crate::scenario::{Scenario, ScenarioError};

/// How much later the candidates of the side that speaks first arrive at the other.
pub const HEAD_START: Duration = Duration::from_millis(400);

/// A row and column of the table.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Kind {
    /// A short name.
    pub label: &'static str,
    /// The presets, the nearest first; none: a public address.
    pub behind: &'static [&'static str],
}

/// The rows and columns, from open to closed.
pub const KINDS: &[Kind] = &[
    Kind { label: "public", behind: &[] },
    Kind { label: "cloud 1:1", behind: &["cloud"] },
    Kind { label: "full cone", behind: &["home-router-open"] },
    Kind { label: "addr-restricted", behind: &["home-router-address-restricted"] },
    Kind { label: "home", behind: &["home-router"] },
    Kind { label: "home + carrier", behind: &["home-router", "mobile-carrier"] },
    Kind { label: "public + firewall", behind: &["stateful-firewall"] },
    Kind { label: "security group", behind: &["cloud-security-group"] },
    Kind { label: "Linux, input open", behind: &["linux-input-accept"] },
    Kind { label: "addr-dependent", behind: &["address-dependent"] },
    Kind { label: "symmetric", behind: &["pfsense"] },
    Kind { label: "sequential", behind: &["symmetric-sequential"] },
    Kind { label: "home + sym. carrier", behind: &["home-router", "mobile-carrier-symmetric"] },
    Kind { label: "Kubernetes pod", behind: &["kubernetes-node"] },
    Kind { label: "no UDP", behind: &["corporate-no-udp"] },
    Kind { label: "UDP to STUN only", behind: &["corporate-stun-only"] },
];

/// One world of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// The row: where a is.
    pub a: &'static str,
    /// The column: where b is.
    pub b: &'static str,
    /// Who spoke first.
    pub first: First,
    /// What theory says.
    pub expected: Path,
    /// What came out; nothing when the sides disagree.
    pub path: Option<Path>,
    /// From the start until both could send data, in milliseconds.
    pub usable_after_ms: Option<f64>,
    /// What keeps the path from being proven: direct means that data passed with the relay cut, relayed that the relay
    /// counted it.
    pub unproven: Vec<String>,
}

impl Cell {
    /// What came out of a world of the table, whichever world it was run in.
    pub fn of((a, b, first): Case, expected: Path, observed: &Observed) -> Self {
        Self {
            a: a.label,
            b: b.label,
            first,
            expected,
            path: observed.path,
            usable_after_ms: observed.usable_after.map(|usable| usable.as_micros() as f64 / 1000.0),
            unproven: observed.unproven(),
        }
    }

    /// Whether it came out as theory says, and the path is proven.
    pub fn agrees(&self) -> bool {
        self.path == Some(self.expected) && self.unproven.is_empty()
    }
}

/// Where a and b are, and who speaks first.
pub type Case = (&'static Kind, &'static Kind, First);

/// The scenario of a cell.
pub fn scenario(a: &Kind, b: &Kind, first: First, seed: u64) -> Result<Scenario, ScenarioError> {
    let host = |kind: &Kind| Host {
        behind: OneOrMany::Many(kind.behind.iter().map(|&name| name.to_owned()).collect()),
        ipv4: true,
        ..Host::default()
    };
    let mut file = File {
        title: format!("{} against {}", a.label, b.label),
        seed,
        host: [("a".to_owned(), host(a)), ("b".to_owned(), host(b))].into(),
        expect: Expect::default(),
        worlds: vec![crate::scenario::file::WorldKind::Virtual],
        ..File::default()
    };
    file.server.ipv6 = false;
    match first {
        First::A => file.signaling.a.candidates_delay = Span(HEAD_START),
        First::B => file.signaling.b.candidates_delay = Span(HEAD_START),
    }
    Scenario::of("matrix", file)
}

/// Runs one cell in virtual time.
pub fn run_cell(a: &'static Kind, b: &'static Kind, first: First, seed: u64) -> Result<Cell, ScenarioError> {
    let Scenario { topology, .. } = scenario(a, b, first, seed)?;
    let expected = predict(Place::of(&topology, 0), Place::of(&topology, 1), first);
    Ok(Cell::of((a, b, first), expected, &run_virtual(&topology)))
}

/// The order of the cells: rows, columns, then who speaks first.
pub fn cells() -> impl Iterator<Item = Case> {
    KINDS.iter().flat_map(|a| KINDS.iter().flat_map(move |b| [(a, b, First::A), (a, b, First::B)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_whose_path_is_not_proven_does_not_agree_with_theory() {
        let home = &KINDS[4];
        let Scenario { topology, .. } = scenario(home, home, First::A, 1).unwrap_or_else(|error| panic!("{error}"));
        let proven = run_virtual(&topology);
        let cell = |observed: &Observed| Cell::of((home, home, First::A), Path::Direct, observed);
        assert!(cell(&proven).agrees(), "{:?}", cell(&proven));
        let uncut = Observed { relay_cut: false, ..proven.clone() };
        let without_data = Observed { contradictions: vec!["no data".to_owned()], ..proven.clone() };
        let relayed = Observed { path: Some(Path::Relayed), ..proven };
        for wrong in [uncut, without_data, relayed] {
            assert!(!cell(&wrong).agrees(), "{:?}", cell(&wrong));
        }
    }
}
