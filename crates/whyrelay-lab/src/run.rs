//! Running a scenario and judging what came out: the same for both worlds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_core::diagnosis::{rules, session};
use whyrelay_core::report::{Expected, Report};
use whyrelay_core::trace::event::Event;

use crate::discover;
use crate::scenario::Topology;
use crate::scenario::file::{ANYTHING, Best, Blame, Discovered, Finding, Path, WorldKind};
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
    /// What a stranger finds out about the NATs of which the scenario expects something, by host: in virtual time asked
    /// of the same tables, in namespaces measured.
    pub discovered: BTreeMap<String, Discovered>,
    /// What contradicts the path: data that did not arrive, or that took the relay on a direct path.
    pub contradictions: Vec<String>,
}

/// Why the virtual world cannot run a scenario; `None` when it can. What it does not honor it must not run.
pub fn cannot_virtually(topology: &Topology) -> Option<String> {
    if !topology.worlds.contains(&WorldKind::Virtual) {
        return Some("the scenario is for the namespace world only".to_owned());
    }
    if let Some(what) = limits::exceeded(topology)
        .or_else(|| limits::without_kernel(topology))
        .or_else(|| port_mapping::without_ports(topology))
    {
        return Some(what);
    }
    let known = |name: &String| name.ends_with(".rp_filter") || name.ends_with(".src_valid_mark");
    let sysctl = topology.hosts.iter().flat_map(|host| host.sysctls.keys()).find(|name| !known(name));
    sysctl.map(|name| format!("the kernel parameter {name}: virtual time knows rp_filter and src_valid_mark"))
}

impl Observed {
    /// What keeps the path from being proven: direct means that data passed with the relay cut, relayed that the relay
    /// counted it. Nothing: it is proven.
    pub fn unproven(&self) -> Vec<String> {
        let uncut = (self.path == Some(Path::Direct) && !self.relay_cut)
            .then(|| "the path is direct, and yet the relay was not cut, as not both sides had it in time".to_owned());
        self.contradictions.iter().cloned().chain(uncut).collect()
    }
}

/// Runs a scenario in virtual time.
pub fn run_virtual(topology: &Topology) -> Observed {
    let discovered = discovered(topology);
    Observed { discovered, ..observe(world::run_topology(topology, &AtomicBool::new(false))) }
}

/// The same, given up as soon as a flag is set, in the middle of the scenario, too: nothing comes out then.
pub fn run_virtual_unless(topology: &Topology, interrupted: &AtomicBool) -> Option<Observed> {
    let outcome = world::run_topology(topology, interrupted);
    if interrupted.load(Ordering::Relaxed) {
        return None;
    }
    Some(Observed { discovered: discovered(topology), ..observe(outcome) })
}

fn discovered(topology: &Topology) -> BTreeMap<String, Discovered> {
    let hosts = topology.expect.nat.keys();
    hosts.map(|host| (host.clone(), discover::discover(topology, host))).collect()
}

/// What came out of a world, but for what its NATs are.
pub(crate) fn observe(outcome: Outcome) -> Observed {
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
        discovered: BTreeMap::new(),
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
        Some(world::Path::Direct) if outcome.relayed_data > 0 => {
            found.push("direct, and yet the relay carried data".to_owned());
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
    /// The one side that sees it, where it is nobody's fault and the other side may see it as well: `A` or `B`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_by: Option<String>,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seen = self.seen_by.as_ref().map_or_else(String::new, |side| format!(", as {side} sees it"));
        write!(f, "{} {} ({}{seen})", self.code, self.name, self.blame)
    }
}

/// A finding that is expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Its code.
    pub code: String,
    /// Its name.
    pub name: String,
    /// Names of those that are as good.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub or: Vec<String>,
    /// Whose fault it must be; `None`: anybody's.
    pub blame: Option<&'static str>,
    /// Whether it must come before all others.
    pub first: bool,
}

impl Wanted {
    fn of(finding: &Finding) -> Self {
        let rule = rules::find(&finding.name);
        Self {
            code: rule.map_or_else(String::new, |rule| rule.code.to_owned()),
            name: rule.map_or_else(|| finding.name.clone(), |rule| rule.name.to_owned()),
            or: finding.or.clone(),
            blame: finding.blame.map(blame_name),
            first: finding.first,
        }
    }

    /// Whether a finding is of this name, whoever it blames.
    fn is_named(&self, found: &Named) -> bool {
        found.is(&self.name) || self.or.iter().any(|name| found.is(name))
    }

    fn is(&self, found: &Named) -> bool {
        self.is_named(found) && self.blame.is_none_or(|blame| found.blame == blame)
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.name)?;
        self.or.iter().try_for_each(|name| write!(f, " or {name}"))?;
        write!(f, " ({})", self.blame.unwrap_or("whoever it blames"))
    }
}

impl Named {
    fn is(&self, code_or_name: &str) -> bool {
        self.code.eq_ignore_ascii_case(code_or_name) || self.name == code_or_name
    }
}

/// How one thing that was expected, or came, compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// It was expected and came.
    AsExpected,
    /// It came, and might.
    Allowed,
    /// It came, and not where it may: something else had to come first.
    Misplaced,
    /// It came, and was not expected.
    NotExpected,
    /// It was expected and did not come.
    Missing,
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
    /// The best path that the account must say the networks allow, where the scenario says so.
    pub expected_best: Option<Best>,
    /// The one that it says.
    pub best: Best,
    /// Findings that must be there.
    pub expected_findings: Vec<Wanted>,
    /// Names of findings that may be there besides.
    pub allowed_findings: Vec<String>,
    /// Findings of severity error or warning, the root cause first.
    pub findings: Vec<Named>,
    /// By host: the NAT behavior that must be discovered.
    pub expected_nat: BTreeMap<String, Discovered>,
    /// The behavior that is discovered from these hosts.
    pub nat: BTreeMap<String, Discovered>,
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

    /// What was expected against what came, but for the path: the best path, findings, NAT behavior.
    pub fn comparison(&self) -> Vec<(Compared, String)> {
        let mut lines = Vec::new();
        let mut compare = |what: &str, expected: String, got: String| match expected == got {
            true => lines.push((Compared::AsExpected, format!("{what}: {got}"))),
            false => lines.extend([
                (Compared::Missing, format!("{what}: {expected}")),
                (Compared::NotExpected, format!("{what}: {got}")),
            ]),
        };
        if let Some(expected) = self.expected_best {
            compare("best path", best_name(expected).to_owned(), best_name(self.best).to_owned());
        }
        for (host, expected) in &self.expected_nat {
            let found = self.nat.get(host).copied().unwrap_or_default();
            compare(&format!("{host}'s NAT"), discover::words(expected, expected), discover::words(expected, &found));
        }
        let findings = compare_findings(&self.expected_findings, &self.allowed_findings, &self.findings);
        lines.extend(findings.into_iter().map(|(how, shown, _)| (how, shown)));
        lines
    }
}

/// The findings that came and those that did not, each with what is wrong about it.
fn compare_findings(expected: &[Wanted], allowed: &[String], found: &[Named]) -> Vec<(Compared, String, Vec<String>)> {
    let came = found.iter().enumerate().map(|(position, named)| {
        let mut wanted = expected.iter().filter(|wanted| wanted.is(named)).peekable();
        let (how, problems) = if wanted.peek().is_some() {
            let late = wanted
                .find(|wanted| wanted.first && position > 0 && !found[..position].iter().any(|other| wanted.is(other)));
            let late = late.map(|wanted| format!("{} is not the first: {} is", wanted.name, found[0]));
            (if late.is_some() { Compared::Misplaced } else { Compared::AsExpected }, late.into_iter().collect())
        } else {
            // A fault has effects, which may be findings of their own: the scenario says which. None of them may come first.
            let before = (position == 0 && !expected.is_empty())
                .then(|| format!("{named} comes before every finding that is expected"));
            match (is_allowed(allowed, named), before) {
                (true, None) => (Compared::Allowed, Vec::new()),
                (true, Some(before)) => (Compared::Misplaced, vec![before]),
                (false, before) => (
                    Compared::NotExpected,
                    [Some(format!("{named} is not expected")), before].into_iter().flatten().collect(),
                ),
            }
        };
        (how, named.to_string(), problems)
    });
    let missing = expected.iter().filter(|wanted| !found.iter().any(|named| wanted.is(named))).map(|wanted| {
        let problem = match found.iter().any(|named| wanted.is_named(named)) {
            true => format!("{} blames another than expected", wanted.name),
            false => format!("{} is missing", wanted.name),
        };
        (Compared::Missing, wanted.to_string(), vec![problem])
    });
    came.chain(missing).collect()
}

fn is_allowed(allowed: &[String], found: &Named) -> bool {
    allowed.iter().any(|name| name == ANYTHING || found.is(name))
}

/// Judges what came out of a scenario.
pub fn judge(topology: &Topology, observed: &Observed) -> Verdict {
    let expect = &topology.expect;
    let mut problems = match expect.path {
        Path::Direct => observed.unproven(),
        Path::Relayed | Path::Failed => observed.contradictions.clone(),
    };
    problems.extend(discover::contradictions(&expect.nat, &observed.discovered));
    if observed.path != Some(expect.path) {
        problems.push(format!("the path is {}, expected {}", path_name(observed.path), path_name(Some(expect.path))));
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
    let best = match report.expected {
        Expected::Direct => Best::Direct,
        Expected::Relayed => Best::Relayed,
        Expected::None => Best::Failed,
        Expected::Unknown => Best::Unknown,
    };
    if let Some(wanted) = expect.expected.filter(|wanted| *wanted != best) {
        let (best, wanted) = (best_name(best), best_name(wanted));
        problems.push(format!("the best path by the account is {best}, expected {wanted}"));
    }
    let findings: Vec<Named> = report
        .findings
        .iter()
        .filter(|finding| finding.severity != Severity::Info)
        .map(|finding| Named {
            code: finding.code.to_owned(),
            name: finding.name.to_owned(),
            blame: finding.blame.name().to_owned(),
            seen_by: told_twice(report, finding).then(|| finding.seen_by.map(|side| side.name().to_owned())).flatten(),
        })
        .collect();
    let expected_findings: Vec<Wanted> = expect.finding.iter().map(Wanted::of).collect();
    let compared = compare_findings(&expected_findings, &expect.also, &findings);
    problems.extend(compared.into_iter().flat_map(|(_, _, problems)| problems));
    Verdict {
        scenario: topology.name.clone(),
        title: topology.title.clone(),
        world: observed.world,
        expected_path: expect.path,
        path: observed.path,
        expected_best: expect.expected,
        best,
        expected_findings,
        allowed_findings: expect.also.clone(),
        findings,
        nat: observed.discovered.clone(),
        expected_nat: expect.nat.clone(),
        usable_after_ms: observed.usable_after.map(|after| after.as_micros() as f64 / 1000.0),
        problems,
    }
}

/// Whether another finding has the same name and blame: then it takes the side that sees it to tell them apart.
fn told_twice(report: &Report, finding: &whyrelay_core::diagnosis::finding::Finding) -> bool {
    report.findings.iter().filter(|other| (other.code, other.blame) == (finding.code, finding.blame)).count() > 1
}

const fn best_name(best: Best) -> &'static str {
    match best {
        Best::Direct => path_name(Some(Path::Direct)),
        Best::Relayed => path_name(Some(Path::Relayed)),
        Best::Failed => path_name(Some(Path::Failed)),
        Best::Unknown => "unknown",
    }
}

const fn blame_name(blame: Blame) -> &'static str {
    match blame {
        Blame::A => "A",
        Blame::B => "B",
        Blame::Both => "both sides",
        Blame::Relay => "the relay",
        Blame::Signaling => "signaling",
        Blame::Path => "the path",
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn nothing_comes_out_of_a_scenario_that_is_interrupted() {
        let topology = Scenario::find("two-homes").unwrap_or_else(|error| panic!("{error}")).topology;
        for interrupted in [false, true] {
            let observed = run_virtual_unless(&topology, &AtomicBool::new(interrupted));
            assert_eq!(observed.is_none(), interrupted);
        }
    }

    /// What fails a scenario stands in its comparison, and what stands there as right fails nothing.
    #[test]
    fn a_finding_out_of_its_place_is_shown_where_it_fails_the_scenario() {
        let text = "title = \"t\"\n[host.a]\nbehind = \"home-router\"\nsession = { relay-only = true }\n\
                    [host.b]\nbehind = \"home-router\"\n[expect]\npath = \"relayed\"\nalso = [\"udp-blocked\"]\n\
                    [[expect.finding]]\nname = \"relay-only-configured\"\nfirst = true\n";
        let topology = Scenario::parse("test", text).map(|scenario| scenario.topology);
        let topology = topology.unwrap_or_else(|error| panic!("{error}"));
        let right = run_virtual(&topology);
        let is_fine = |verdict: &Verdict| {
            let fine = |(how, _): &(Compared, String)| matches!(how, Compared::AsExpected | Compared::Allowed);
            verdict.comparison().iter().all(fine)
        };
        let verdict = judge(&topology, &right);
        assert!(verdict.passed() && is_fine(&verdict), "{:?} {:?}", verdict.problems, verdict.comparison());

        let mut other = right.report.findings[0].clone();
        (other.code, other.name) = ("WR205", "udp-blocked");
        let mut behind = right.clone();
        behind.report.findings.insert(0, other.clone());
        let verdict = judge(&topology, &behind);
        let signs: Vec<Compared> = verdict.comparison().into_iter().map(|(how, _)| how).collect();
        assert_eq!(signs, [Compared::Misplaced; 2]);
        assert_eq!(verdict.problems.len(), 2, "{:?}", verdict.problems);

        let mut ahead = right;
        ahead.report.findings.push(other);
        let verdict = judge(&topology, &ahead);
        let signs: Vec<Compared> = verdict.comparison().into_iter().map(|(how, _)| how).collect();
        assert_eq!(signs, [Compared::AsExpected, Compared::Allowed]);
        assert!(verdict.passed(), "{:?}", verdict.problems);
    }
}
