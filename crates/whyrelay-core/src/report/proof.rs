//! An earlier session beside this one (`--prove`): what is gone, what is new, what the host has that it had not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use super::Report;
use crate::diagnosis::evidence::{Evidence, HostEvidence};
use crate::diagnosis::finding::{Blame, Finding, Severity};
use crate::diagnosis::rules::{Examination, RULES, Rule, find, quoted, quoted_firewall};
use crate::diagnosis::session::{Path, Session};
use crate::host::{Prefix, Route};
use crate::trace::event::{Event, Vantage};

/// Most changes of a host that are listed.
const MAX_CHANGES: usize = 50;

/// What is said of a finding that only one session could have.
pub(super) const NOT_MEASURED: &str = "not measured in both";

/// What became of an earlier session's findings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Proof {
    /// Whether the fault is proven to be gone: the path is direct now and was not, or no finding of it is left.
    pub fixed: bool,
    /// In one sentence.
    pub summary: String,
    /// The path of the earlier session.
    pub path_before: Path,
    /// The path now.
    pub path_now: Path,
    /// Findings of the earlier session that are gone.
    pub gone: Vec<Compared>,
    /// Findings that both have.
    pub left: Vec<Compared>,
    /// Findings that only this session has.
    pub new: Vec<Compared>,
    /// Findings that one of the sessions has and the other could not have: what they are about was not looked at there.
    pub not_measured: Vec<Compared>,
    /// What changed on the hosts, in words: rules, routes, settings.
    pub changes: Vec<String>,
}

/// A finding, as far as two sessions can have the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Compared {
    /// Its code.
    pub code: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Whose fault it is.
    pub blame: Blame,
    /// How bad it is.
    pub severity: Severity,
    /// Its sentence.
    pub summary: String,
}

impl Report {
    /// Compares with the events of an earlier session.
    pub fn prove(&mut self, before: &[Event], now: &[Event]) {
        let earlier = Self::from_events(before);
        let evidence = [before, now].map(Evidence::of);
        let sights = [Sight::of(&evidence[0], &earlier), Sight::of(&evidence[1], self)];
        self.proof = Some(proof(&earlier, self, &sights, changes(&evidence[0], &evidence[1])));
    }
}

/// What a session can say of a finding that another has.
struct Sight<'a> {
    evidence: &'a Evidence,
    is_direct: bool,
    /// What each rule finds on its hosts, whatever came out, and whether it could see it on A and on B.
    examinations: Vec<(&'static str, Examination, [bool; 2])>,
}

/// What became of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    There,
    Absent,
    NotMeasured,
}

impl<'a> Sight<'a> {
    fn of(evidence: &'a Evidence, report: &Report) -> Self {
        let session = Session::of(evidence).as_if_relayed();
        let examined = RULES.iter().map(|rule| {
            let sees = [Vantage::A, Vantage::B].map(|vantage| rule.sees(&session, vantage));
            (rule.code, (rule.examine)(&session), sees)
        });
        let examinations = examined.collect();
        Self { evidence, is_direct: is_direct(report), examinations }
    }

    /// Whether a finding of the other session, which is not among this one's, is absent here, or nobody could tell.
    fn fate(&self, finding: &Finding, other: &Self) -> Fate {
        let sides: &[Vantage] = match finding.blame {
            Blame::A => &[Vantage::A],
            Blame::B => &[Vantage::B],
            _ => &[Vantage::A, Vantage::B],
        };
        let blamed = finding.blame;
        match self.examination(finding) {
            // That it did harm is refuted by a direct path; what did none may do none again, and be there.
            _ if self.is_direct && finding.severity != Severity::Info && !harms_a_direct_path(finding) => Fate::Absent,
            Some((Examination::Found(faults), _))
                if faults.iter().any(|fault| fault.blame == blamed && is_same_way(finding, fault.seen_by)) =>
            {
                Fate::There
            }
            Some((Examination::Inconclusive { .. }, _)) | None => Fate::NotMeasured,
            _ if !sides.iter().all(|side| self.sees_as_much(*side, finding, other)) => Fate::NotMeasured,
            Some(_) => Fate::Absent,
        }
    }

    fn examination(&self, finding: &Finding) -> Option<(&Examination, &[bool; 2])> {
        let examined = self.examinations.iter().find(|(code, ..)| *code == finding.code);
        examined.map(|(_, said, sees)| (said, sees))
    }

    /// Whether a side of this session told what the finding is about, as the other session's did.
    fn sees_as_much(&self, side: Vantage, finding: &Finding, other: &Self) -> bool {
        let (own, its) = (self.evidence.side(side), other.evidence.side(side));
        let about_host = finding.code.starts_with("WR1");
        let sees =
            |sight: &Self| sight.examination(finding).is_some_and(|(_, sees)| sees[usize::from(side == Vantage::B)]);
        (self.evidence.is_recorded(side) || !other.evidence.is_recorded(side))
            && (!about_host || own.host.is_told() || !its.host.is_told())
            && (sees(self) || !sees(other))
    }
}

/// Whether a direct path says nothing of it: it harms such a path as well.
fn harms_a_direct_path(finding: &Finding) -> bool {
    find(finding.code).is_some_and(Rule::harms_a_direct_path)
}

/// Whether a fault that a side sees is about the same way as a finding: packets that get lost from A to B are not those
/// from B to A, and one may be mended without the other.
fn is_same_way(finding: &Finding, seen_by: Option<Vantage>) -> bool {
    !harms_a_direct_path(finding) || finding.seen_by == seen_by
}

/// Direct as every program would have it.
fn is_direct(report: &Report) -> bool {
    report.path == Path::Direct && !report.over_tcp
}

fn proof(before: &Report, now: &Report, [old, current]: &[Sight<'_>; 2], changes: Vec<String>) -> Proof {
    let key = |finding: &Finding| (finding.code, finding.blame);
    let has = |report: &Report, finding: &Finding| {
        report.findings.iter().any(|other| key(other) == key(finding) && is_same_way(finding, other.seen_by))
    };
    let fate_now = |finding: &Finding| if has(now, finding) { Fate::There } else { current.fate(finding, old) };
    let fate_before = |finding: &Finding| if has(before, finding) { Fate::There } else { old.fate(finding, current) };
    let list = |findings: &[Finding], wanted: &dyn Fn(&Finding) -> bool| -> Vec<Compared> {
        let of = |finding: &Finding| Compared {
            code: finding.code,
            name: finding.name,
            blame: finding.blame,
            severity: finding.severity,
            summary: finding.summary.clone(),
        };
        findings.iter().filter(|finding| wanted(finding)).map(of).collect()
    };
    let gone = list(&before.findings, &|finding| fate_now(finding) == Fate::Absent);
    let mut left = list(&now.findings, &|finding| fate_before(finding) == Fate::There);
    // There, and without harm now: no finding of this session.
    left.extend(list(&before.findings, &|finding| !has(now, finding) && fate_now(finding) == Fate::There));
    let new = list(&now.findings, &|finding| fate_before(finding) == Fate::Absent);
    let mut not_measured = list(&before.findings, &|finding| fate_now(finding) == Fate::NotMeasured);
    not_measured.extend(list(&now.findings, &|finding| fate_before(finding) == Fate::NotMeasured));
    let was_wrong = !is_direct(before) || before.findings.iter().any(|f| f.severity != Severity::Info);
    let better = is_direct(now) && !is_direct(before);
    // What was wrong on a path that was direct already must have been looked for again.
    let unseen = not_measured.iter().any(|finding| finding.severity != Severity::Info);
    let healthy = is_direct(now) && !unseen && now.findings.iter().all(|finding| finding.severity == Severity::Info);
    let fixed = was_wrong && now.decided && (better || healthy);
    let summary =
        sentence(before, now, fixed, was_wrong, [("gone", &gone), ("left", &left), (NOT_MEASURED, &not_measured)]);
    let (path_before, path_now) = (before.path, now.path);
    Proof { fixed, summary, path_before, path_now, gone, left, new, not_measured, changes }
}

fn sentence(before: &Report, now: &Report, fixed: bool, was_wrong: bool, lists: [(&str, &Vec<Compared>); 3]) -> String {
    let path = |report: &Report| match report.path {
        Path::Direct if report.over_tcp => "direct over TCP alone",
        Path::Direct => "direct",
        Path::Relayed => "relayed",
        Path::Failed => "failed",
    };
    let codes = |list: &[Compared]| {
        let codes: Vec<&str> = list.iter().filter(|f| f.severity != Severity::Info).map(|f| f.code).collect();
        codes.join(", ")
    };
    let mut text = match (fixed, was_wrong) {
        (true, _) if path(before) == path(now) => "Fixed: the path is direct, as before".to_owned(),
        (true, _) => format!("Fixed: the path was {} and is direct now", path(before)),
        (false, false) => format!("The earlier session had nothing to fix; the path is {}", path(now)),
        (false, true) => format!("Not fixed: the path was {} and is {} now", path(before), path(now)),
    };
    for (words, list) in lists {
        let codes = codes(list);
        if !codes.is_empty() {
            let _ = write!(text, "; {words}: {codes}");
        }
    }
    text
}

/// What the hosts had before and not now, and the other way round.
fn changes(before: &Evidence, now: &Evidence) -> Vec<String> {
    let mut changes = Vec::new();
    for vantage in [Vantage::A, Vantage::B] {
        let (old, new) = (&before.side(vantage).host, &now.side(vantage).host);
        if !old.is_told() || !new.is_told() {
            continue;
        }
        let (mut had, mut has) = (traits(old), traits(new));
        // A recording has the routes to what its session asked about, so that one may be missing in it and be there.
        let (had_routes, has_routes) = (routes(old), routes(new));
        had.extend(had_routes.iter().filter(|(_, to)| asks_about(new, to)).map(|(route, _)| route.clone()));
        has.extend(has_routes.iter().filter(|(_, to)| asks_about(old, to)).map(|(route, _)| route.clone()));
        let kept = |what: &&String| !(had_routes.contains_key(*what) && has_routes.contains_key(*what));
        changes.extend(had.difference(&has).filter(kept).map(|what| format!("{}: gone: {what}", vantage.name())));
        changes.extend(has.difference(&had).filter(kept).map(|what| format!("{}: new: {what}", vantage.name())));
    }
    changes.truncate(MAX_CHANGES);
    changes
}

/// What a host is configured to, in words that can be compared.
fn traits(host: &HostEvidence) -> BTreeSet<String> {
    let mut traits = BTreeSet::new();
    traits.extend(host.policy_rules.iter().map(|rule| quoted(&rule.fact)));
    traits.extend(host.firewall_rules.iter().map(|rule| quoted_firewall(&rule.fact)));
    traits.extend(host.links.iter().filter(|link| link.fact.up).map(|link| format!("interface {}", link.fact.device)));
    for ((name, interface), (_, value)) in &host.sysctls {
        let of = interface.as_ref().map(|interface| format!(" of {interface}")).unwrap_or_default();
        traits.insert(format!("{name}{of} = {value}"));
    }
    for software in &host.software {
        let name = format!("{:?}", software.fact.software).to_lowercase();
        traits.insert(name.clone());
        for (setting, value) in software.fact.environment.iter().flatten() {
            traits.insert(format!("{name} with {setting}={value}"));
        }
    }
    if let Some((_, application)) = &host.application {
        let mark = application.mark.map(|mark| format!(", mark {mark:#x}")).unwrap_or_default();
        let port = application.port.map(|port| format!(", port {port}")).unwrap_or_default();
        traits.insert(format!("tested as {}{mark}{port}", application.asked));
    }
    traits
}

/// The routes of a host in the same words, with where they lead to.
fn routes(host: &HostEvidence) -> BTreeMap<String, Prefix> {
    let words = |route: &Route| {
        let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        let device = route.device.as_ref().map(|device| format!(" dev {device}")).unwrap_or_default();
        format!("route {}{via}{device} table {}", route.destination, route.table)
    };
    host.routes.iter().map(|route| (words(&route.fact), route.fact.destination)).collect()
}

/// Whether the session on a host sent to an address that is covered by this: then its recording has the routes that lead
/// there.
fn asks_about(host: &HostEvidence, to: &Prefix) -> bool {
    let answers = host.route_answers.iter().chain(&host.probe_answers);
    answers.into_iter().any(|answer| to.contains(answer.fact.question.destination))
}
