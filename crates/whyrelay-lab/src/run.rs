//! Running a scenario and judging what came out: the same for both worlds.

use std::time::Duration;

use serde::Serialize;
use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_core::diagnosis::session;
use whyrelay_core::report::{Expected, Report};
use whyrelay_core::trace::event::Event;

use crate::discover;
use crate::scenario::Topology;
use crate::scenario::file::{Best, Blame, Path, WorldKind};
use crate::world::{self, Outcome};
use crate::{limits, port_mapping};

/// What came out of a scenario in one world.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Which world.
    pub world: WorldKind,
    /// How the peers are connected; `None` when the two sides disagree.
    pub path: Option<Path>,
    /// The account of both recordings.
    pub report: Report,
    /// Both sides' events.
    pub events: Vec<Event>,
    /// The recordings of a and b as they would stand in files.
    pub recordings: [String; 2],
    /// From the start until both sides could send data; in virtual time where time is virtual.
    pub usable_after: Option<Duration>,
    /// Datagrams of the peers' data that the relay carried.
    pub relayed_data: Option<u64>,
    /// Whether the relay was cut while data was tried, as both sides were connected directly.
    pub relay_cut: bool,
    /// What contradicts the path: data that did not arrive, or that took the relay on a direct path.
    pub contradictions: Vec<String>,
}

/// Why the virtual world cannot run a scenario; `None` when it can. What it does not honor it must not run.
pub fn cannot_virtually(topology: &Topology) -> Option<String> {
    if !topology.worlds.contains(&WorldKind::Virtual) {
        return Some("the scenario is for the namespace world only".to_owned());
    }
    if topology.server.faults.certificate.is_some() {
        return Some("TURN over TLS with a certificate: there is no TLS in virtual time".to_owned());
    }
    if let Some(what) = limits::exceeded(topology).or_else(|| port_mapping::without_ports(topology)) {
        return Some(what);
    }
    if topology.sessions.iter().any(|session| !session.silence.is_zero()) {
        return Some("silence: simulated sessions probe sizes only".to_owned());
    }
    let known = |name: &String| name.ends_with(".rp_filter") || name.ends_with(".src_valid_mark");
    let sysctl = topology.hosts.iter().flat_map(|host| host.sysctls.keys()).find(|name| !known(name));
    sysctl.map(|name| format!("the kernel parameter {name}"))
}

/// Runs a scenario in virtual time.
pub fn run_virtual(topology: &Topology) -> Observed {
    let outcome = world::run_topology(topology);
    let contradictions = contradictions(&outcome);
    let Outcome { a, b, relayed_data, relay_cut, .. } = outcome;
    let path = (a.path == b.path).then_some(match a.path {
        world::Path::Direct => Path::Direct,
        world::Path::Relayed => Path::Relayed,
        world::Path::Failed => Path::Failed,
    });
    let usable_after = a.usable_after.zip(b.usable_after).map(|(a, b)| a.max(b));
    let mut events = a.events;
    events.extend(b.events);
    let report = Report::from_events(&events);
    Observed {
        world: WorldKind::Virtual,
        path,
        report,
        events,
        recordings: [a.recording, b.recording],
        usable_after,
        relayed_data: Some(relayed_data),
        relay_cut,
        contradictions,
    }
}

/// Direct means direct: data arrived with the relay cut. Relayed means relayed: the relay counted it.
fn contradictions(outcome: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    match outcome.path() {
        Some(world::Path::Relayed) if outcome.relayed_data == 0 => {
            found.push("relayed, and yet the relay carried nothing".to_owned());
        }
        _ => {}
    }
    let received = (outcome.a.data_received, outcome.b.data_received);
    match outcome.path() {
        Some(world::Path::Failed) if received != (0, 0) => found.push("failed, and yet data arrived".to_owned()),
        Some(world::Path::Direct | world::Path::Relayed) if received.0 == 0 || received.1 == 0 => {
            found.push("connected, and yet no data arrived".to_owned());
        }
        _ => {}
    }
    found
}

/// A finding, as a verdict shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Its code.
    pub code: String,
    /// Its name.
    pub name: String,
    /// Whose fault it is.
    pub blame: String,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.code, self.name, self.blame)
    }
}

/// What was expected against what came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The scenario.
    pub scenario: String,
    /// Its title.
    pub title: String,
    /// The world that it ran in.
    pub world: WorldKind,
    /// The expected path.
    pub expected_path: Path,
    /// The path that came out.
    pub path: Option<Path>,
    /// Findings of severity error or warning, the root cause first.
    pub findings: Vec<Named>,
    /// From the start until both sides could send data, in milliseconds.
    pub usable_after_ms: Option<f64>,
    /// What is otherwise than expected; nothing: it passed.
    pub problems: Vec<String>,
}

impl Verdict {
    /// Whether everything is as expected.
    pub fn passed(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Judges what came out of a scenario.
pub fn judge(topology: &Topology, observed: &Observed) -> Verdict {
    let expect = &topology.expect;
    let mut problems = observed.contradictions.clone();
    problems.extend(discover::contradictions(topology));
    if observed.path != Some(expect.path) {
        problems.push(format!("the path is {}, expected {}", path_name(observed.path), path_name(Some(expect.path))));
    }
    if (observed.path, expect.path) == (Some(Path::Direct), Path::Direct) && !observed.relay_cut {
        problems.push("the path is direct, and yet the relay was not cut, as not both sides had it in time".to_owned());
    }
    let report = &observed.report;
    let account = match report.path {
        session::Path::Direct => Path::Direct,
        session::Path::Relayed => Path::Relayed,
        session::Path::Failed => Path::Failed,
    };
    if observed.path.is_some_and(|path| path != account) {
        problems.push(format!(
            "the account says {}, the agents {}",
            path_name(Some(account)),
            path_name(observed.path)
        ));
    }
    problems.extend(expect.expected.and_then(|wanted| prediction(wanted, report.expected)));
    let findings: Vec<Named> = report
        .findings
        .iter()
        .filter(|finding| finding.severity != Severity::Info)
        .map(|finding| Named {
            code: finding.code.to_owned(),
            name: finding.name.to_owned(),
            blame: finding.blame.name().to_owned(),
        })
        .collect();
    let is = |found: &Named, name: &str| found.code.eq_ignore_ascii_case(name) || found.name == name;
    for wanted in &expect.finding {
        match findings.iter().position(|found| is(found, &wanted.name) && blamed(found, wanted.blame)) {
            None if findings.iter().any(|found| is(found, &wanted.name)) => {
                problems.push(format!("{} blames another than expected", wanted.name));
            }
            None => problems.push(format!("{} is missing", wanted.name)),
            Some(position) if wanted.first && position > 0 => {
                problems.push(format!("{} is not the first: {} is", wanted.name, findings[0]));
            }
            Some(_) => {}
        }
    }
    // A fault has effects, which may be findings of their own: the scenario says which. None of them may come first.
    let wanted = |found: &Named| expect.finding.iter().any(|wanted| is(found, &wanted.name));
    for found in findings.iter().filter(|found| !wanted(found)) {
        if !expect.also.iter().any(|name| is(found, name)) {
            problems.push(format!("{found} is not expected"));
        }
    }
    if let Some(first) = findings.first().filter(|first| !expect.finding.is_empty() && !wanted(first)) {
        problems.push(format!("{first} comes before every finding that is expected"));
    }
    Verdict {
        scenario: topology.name.clone(),
        title: topology.title.clone(),
        world: observed.world,
        expected_path: expect.path,
        path: observed.path,
        findings,
        usable_after_ms: observed.usable_after.map(|after| after.as_micros() as f64 / 1000.0),
        problems,
    }
}

/// What is wrong with the account's word on the best path that the networks allow.
fn prediction(wanted: Best, said: Expected) -> Option<String> {
    let said = match said {
        Expected::Direct => Best::Direct,
        Expected::Relayed => Best::Relayed,
        Expected::None => Best::Failed,
        Expected::Unknown => Best::Unknown,
    };
    let word = |best| match best {
        Best::Direct => path_name(Some(Path::Direct)),
        Best::Relayed => path_name(Some(Path::Relayed)),
        Best::Failed => path_name(Some(Path::Failed)),
        Best::Unknown => "unknown",
    };
    (said != wanted).then(|| format!("the best path by the account is {}, expected {}", word(said), word(wanted)))
}

fn blamed(found: &Named, blame: Option<Blame>) -> bool {
    blame.is_none_or(|blame| {
        found.blame
            == match blame {
                Blame::A => "A",
                Blame::B => "B",
                Blame::Both => "both sides",
                Blame::Relay => "the relay",
                Blame::Signaling => "signaling",
                Blame::Path => "the path",
            }
    })
}

/// A path in words, for tables and problems.
pub const fn path_name(path: Option<Path>) -> &'static str {
    match path {
        Some(Path::Direct) => "direct",
        Some(Path::Relayed) => "relayed",
        Some(Path::Failed) => "failed",
        None => "disputed",
    }
}
