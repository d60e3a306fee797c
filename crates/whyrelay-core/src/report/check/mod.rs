//! The account of one host that looked at its own network: `whyrelay check`.

mod as_program;
mod nats;
mod ports;
mod refusal;
mod rows;
mod servers;
mod text;
mod this_host;
mod way_out;

use std::net::IpAddr;

use serde::Serialize;

pub use nats::NatsInFront;
pub use text::{render_check_rows, render_check_text};

use super::json::pretty;
use crate::diagnosis::evidence::Evidence;
use crate::diagnosis::finding::{Finding, NotMeasured, Severity};
use crate::diagnosis::rules;
use crate::diagnosis::session::Session;
use crate::trace::event::{EndReason, Event, Vantage};
use crate::trace::measurement::{Measurement, ONLY_NAT, WITHOUT_ANSWER};

/// The schema of the JSON account of a check. Fields are added freely; a change of one needs a new number.
pub const CHECK_SCHEMA: &str = "whyrelay.check/1";

/// The account of a check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckReport {
    /// [`CHECK_SCHEMA`].
    pub schema: &'static str,
    /// Whether nothing was found that would hurt.
    pub healthy: bool,
    /// Whether it is known what the network does to UDP: else nothing found means little.
    pub known: bool,
    /// Whether the check came to its end: nothing found means little where it was stopped.
    pub complete: bool,
    /// What it comes to, in one sentence.
    pub summary: String,
    /// How many NATs are in front of this host, for IPv4.
    pub nats_in_front: NatsInFront,
    /// One answer each, by section.
    pub rows: Vec<Row>,
    /// Root causes first.
    pub findings: Vec<Finding>,
    /// Whether addresses and names, those in remedies' commands too, are pseudonyms (`--redact`).
    pub pseudonyms: bool,
    /// What was not looked at, and what it would take.
    pub not_measured: Vec<NotMeasured>,
    /// Every measurement with the number of its event, for programs.
    pub measurements: Vec<Numbered>,
}

/// A measurement and the number of its event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Numbered {
    /// The event.
    pub seq: u64,
    /// The measurement.
    #[serde(flatten)]
    pub fact: Measurement,
}

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// The NAT or firewall in front of this host.
    Nat,
    /// Which UDP gets through.
    Udp,
    /// STUN and TURN servers.
    Servers,
    /// What the servers answer another program (`--as`), and a plain one.
    AsProgram,
    /// IPv6.
    Ipv6,
    /// Gateway, further NATs, port mapping, resolvers.
    WayOut,
}

/// How an answer is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It works, or helps.
    Good,
    /// A fact.
    Plain,
    /// It makes direct connections harder.
    Warning,
    /// It does not work.
    Bad,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What it is about.
    pub section: Section,
    /// The address, server or interface.
    pub subject: String,
    /// What was asked.
    pub name: &'static str,
    /// The answer.
    pub value: String,
    /// How it is to be taken.
    pub state: State,
    /// Numbers of the events that show it.
    pub evidence: Vec<u64>,
}

impl CheckReport {
    /// Whether these events are those of a check.
    pub fn is_check(events: &[Event]) -> bool {
        events.iter().any(|event| matches!(event.kind, crate::trace::event::EventKind::CheckStarted { .. }))
    }

    /// Whether anything was measured of the network: else that nothing was found says nothing.
    pub fn looked(&self) -> bool {
        self.rows.iter().any(|row| matches!(row.section, Section::Nat | Section::Udp))
    }

    /// The account of these events.
    pub fn from_events(events: &[Event]) -> Self {
        Self::from_evidence(&Evidence::of(events))
    }

    /// Says that so many of all events could not be read: the account lacks what they showed.
    pub fn lacks(&mut self, unread: u64, total: u64) {
        if let Some((missing, sentence)) = super::unread_events(unread, total) {
            self.not_measured.insert(0, missing);
            self.summary.push_str(&sentence);
        }
    }

    /// The account of evidence that was folded already.
    pub fn from_evidence(evidence: &Evidence) -> Self {
        let side = evidence.side(Vantage::A);
        let mut rows = rows::of(side);
        rows.extend(ports::of(side));
        rows.extend(servers::of(side));
        rows.extend(as_program::of(side));
        rows.extend(way_out::of(side));
        // In an order of its own, not in that of arrival: subjects as they first came, and each one's rows together.
        let subjects: Vec<(Section, String)> = rows.iter().map(|row| (row.section, row.subject.clone())).collect();
        let first = |row: &Row| {
            subjects.iter().position(|(section, subject)| *section == row.section && *subject == row.subject)
        };
        rows.sort_by_key(|row| (row.section, first(row), rank(row.name)));
        let diagnosis = rules::diagnose(&Session::of(evidence));
        let mut not_measured: Vec<NotMeasured> =
            side.measured.missing.iter().map(|(_, what, why)| NotMeasured::new(what.clone(), why.clone())).collect();
        not_measured.extend(super::unprivileged(&side.host, "this host"));
        not_measured.extend(diagnosis.not_measured);
        let late: Vec<IpAddr> = side.late().map(|late| late.local.ip()).collect();
        for missing in &mut not_measured {
            // Of one address of ours, which another's slow servers say nothing of.
            let of = missing.what.rsplit_once(" of ").and_then(|(_, ip)| ip.parse().ok());
            let is_late = !late.is_empty() && of.is_none_or(|ip: IpAddr| late.contains(&ip));
            if is_late && missing.why == WITHOUT_ANSWER {
                missing.why = "the servers answered when the check waited no longer (--time gives it more)".to_owned();
            }
            missing.why = this_host::in_place_of_a(&missing.why);
        }
        not_measured.dedup();
        let measurements =
            side.measured.facts.iter().map(|(seq, fact)| Numbered { seq: *seq, fact: fact.clone() }).collect();
        let healthy = diagnosis.findings.iter().all(|finding| finding.severity == Severity::Info);
        let mut findings = diagnosis.findings;
        findings.iter_mut().for_each(this_host::rewrite);
        let complete = matches!(side.ended, Some((_, EndReason::Finished)));
        let mut summary = rows::summary(side, findings.first());
        if side.measured.alone.is_some() && !complete {
            let how =
                if side.ended.is_some() { "The check was stopped" } else { "The recording of the check ends early" };
            summary = format!("{how}, so that not everything was looked at. {summary}");
        }
        if side.measured.missing.iter().any(|(.., why)| why == ONLY_NAT) {
            let end = if summary.ends_with('.') { "" } else { "." };
            summary = format!("{summary}{end} Only the NAT was looked at (--only nat).");
        }
        let known = side.measured.nats().iter().any(|nat| nat.mapping.is_some());
        let nats_in_front = nats::of(side);
        Self {
            schema: CHECK_SCHEMA,
            healthy,
            known,
            complete,
            summary,
            nats_in_front,
            rows,
            findings,
            pseudonyms: super::has_pseudonyms(evidence),
            not_measured,
            measurements,
        }
    }
}

/// The order of the rows of one subject; those that are not named keep theirs.
fn rank(name: &str) -> usize {
    const ORDER: [&str; 10] = [
        "interface",
        "mapped address",
        "mapping",
        "filtering",
        "early arrival",
        "ports",
        "rewriting",
        "mapping lifetime",
        "hairpinning",
        "UDP",
    ];
    ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len())
}

/// The account of a check for scripts: docs/check.schema.json.
pub fn render_check_json(report: &CheckReport) -> String {
    pretty(report)
}
