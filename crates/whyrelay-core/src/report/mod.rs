//! The account: computed once from the evidence, then rendered. Renderers compute nothing.
//!
//! [`Report::from_events`] is deterministic: the same events give the same report, in whatever order the two sides'
//! events come, and whether they come from a live session or from recordings.

mod account;
mod asides;
mod candidates;
mod check;
mod checks;
mod clock;
mod describe;
mod events;
mod facts;
mod flows;
mod html;
mod json;
mod markup;
mod network;
mod outages;
mod probes;
mod proof;
mod reason;
pub mod svg;
mod text;
mod timeline;
pub mod words;

use std::collections::BTreeMap;

use serde::Serialize;

pub use account::{Account, LogLine};
pub use asides::{Aside, Point, asides};
pub use candidates::CandidateRow;
pub use check::{
    CHECK_SCHEMA, CheckReport, NatsInFront, Numbered, Row, Section, State, render_check_json, render_check_rows,
    render_check_text,
};
pub use checks::{CheckRow, MAX_CHECKS};
pub use clock::{ClockOffset, Witness};
pub use describe::describe;
pub use events::EventRow;
pub use flows::{Flow, Route};
pub use html::render_html;
pub use json::render_json;
pub use network::{HostAddress, Nat, Network, NetworkServer, NetworkSide, Reach};
pub use outages::OutageRow;
pub use probes::{ComparisonRow, Fared, ProbeRow};
pub use proof::{Compared, Proof};
pub use text::{TextOptions, render_text};
pub use timeline::{Moment, Phase, PhaseKind, Timeline};

use crate::diagnosis::evidence::{Evidence, HostEvidence, RoundTrips, SideEvidence};
pub use crate::diagnosis::expected::{Expected, Verdict};
use crate::diagnosis::expected::{expected, verdict, would_allow_direct};
use crate::diagnosis::finding::{Finding, NotMeasured};
use crate::diagnosis::rules;
use crate::diagnosis::session::{Chain, End, JoinedPair, Path, Session};
use crate::host::{Installed, Software, SoftwareName, Subject};
use crate::trace::event::{Direction, EndReason, Event, InterfaceUse, Pair, PairState, Role, Transport, Vantage};
use crate::trace::measurement::THROUGHPUT;

/// The schema of the JSON account. Fields are added freely; a change of one needs a new number.
pub const SCHEMA: &str = "whyrelay.report/1";

/// Most pairs that a report lists; the checklist of an agent has at most 100.
const MAX_PAIRS: usize = 500;

/// The account of a session.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The path.
    pub path: Path,
    /// Whether the path is direct over TCP alone, and none works over UDP: what uses UDP alone has no direct path here.
    pub over_tcp: bool,
    /// The path as a heading; `UNDECIDED` where the events do not tell how it came out.
    pub heading: &'static str,
    /// Whether the events tell how it came out; when they do not, a path that was not seen is called failed.
    pub decided: bool,
    /// The path that these two networks allow, where that is evident.
    pub expected: Expected,
    /// What the account comes to.
    pub verdict: Verdict,
    /// What the verdict adds to the path, in a few words; empty where the path says it all.
    pub note: &'static str,
    /// What would make a direct path possible where these networks allow none.
    pub would_allow_direct: Vec<String>,
    /// Why, in one sentence.
    pub reason: String,
    /// The pair that data goes over.
    pub selected_pair: Option<SelectedPair>,
    /// Root causes first.
    pub findings: Vec<Finding>,
    /// Whether addresses and names, those in remedies' commands too, are pseudonyms (`--redact`).
    pub pseudonyms: bool,
    /// What could not be looked at.
    pub not_measured: Vec<NotMeasured>,
    /// Side A, the offerer; `null` when it was not recorded.
    pub a: Option<SideSummary>,
    /// Side B, the answerer.
    pub b: Option<SideSummary>,
    /// Candidates of both sides.
    pub candidates: Vec<CandidateRow>,
    /// Pairs of both sides, mirror images joined, the selected one first, then those that were checked.
    pub pairs: Vec<PairRow>,
    /// How many more pairs there were.
    pub pairs_left_out: usize,
    /// How far the sides' clocks are apart; `null` unless both sides were recorded.
    pub clock: Option<ClockOffset>,
    /// What standing in for a program (`--as`) came to, beside a plain program's sockets; one for each side that did.
    pub comparisons: Vec<ComparisonRow>,
    /// The probes of both sides.
    pub probes: Vec<ProbeRow>,
    /// Times without a path after there had been one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outages: Vec<OutageRow>,
    /// What is tried for this one session (`--try`), in words.
    pub tried: Vec<String>,
    /// An earlier session beside this one (`--prove`); `null` where none was given.
    pub proof: Option<Proof>,
    /// The two networks and what went between them.
    pub network: Network,
    /// What each side was doing when.
    pub timeline: Timeline,
    /// The events that the account cites, in words.
    pub events: Vec<EventRow>,
}

/// The pair that data goes over, from A's point of view in every format.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelectedPair {
    /// A's end.
    pub local: End,
    /// B's end.
    pub remote: End,
    /// What it goes over; to the other end, where it is relayed.
    pub transport: Transport,
    /// Shortest round trip of a check on it, either side's, in milliseconds.
    pub rtt_ms: Option<f64>,
}

/// One side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SideSummary {
    /// The program and its version.
    pub program: Option<String>,
    /// Its id in signaling.
    pub id: Option<String>,
    /// Its last ICE role.
    pub role: Option<Role>,
    /// Why its recording ended; `null` when it was cut off.
    pub ended: Option<EndReason>,
    /// Events in its recording.
    pub events: u64,
    /// From its first event to the open channel, in milliseconds.
    pub channel_opened_ms: Option<f64>,
    /// Round trips of messages over the channel.
    pub channel_round_trips: Option<RoundTrips>,
    /// What it sent over the channel, in megabits a second, as its peer received it.
    pub throughput_out_mbps: Option<f64>,
    /// What it received.
    pub throughput_in_mbps: Option<f64>,
    /// Programs on its host that touch the network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<ProgramRow>,
}

/// A program on a side's host that touches the network: a VPN, a container engine, a firewall's front end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramRow {
    /// Number of the event that tells of it.
    pub seq: u64,
    /// Which.
    pub program: SoftwareName,
    /// All of it in words.
    pub words: String,
    /// How it was recognized.
    pub signs: Vec<String>,
    /// Whether it is surely there; a single name or number may be anybody's.
    pub certain: bool,
    /// Its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_id: Option<u32>,
    /// The settings of its environment that decide how it connects; `null` where it could not be read.
    pub settings: Option<BTreeMap<String, String>>,
    /// What it has put into the host's network.
    pub installed: Vec<Installed>,
}

/// A pair with the chains of its checks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairRow {
    /// All of it in words.
    pub words: words::PairWords,
    /// A's end.
    pub a: Option<End>,
    /// B's end.
    pub b: Option<End>,
    /// A's own pair.
    pub a_pair: Option<PairOfSide>,
    /// B's own pair.
    pub b_pair: Option<PairOfSide>,
    /// A's checks.
    pub a_to_b: Chain,
    /// B's checks.
    pub b_to_a: Chain,
    /// Whether it goes through a relay.
    pub relayed: bool,
    /// Whether it was nominated.
    pub nominated: bool,
    /// Whether data goes over it.
    pub selected: bool,
    /// Whether any check was sent on it.
    pub checked: bool,
    /// What came of its checks.
    pub outcome: PairOutcome,
    /// Its checks, A's first.
    pub checks: Vec<CheckRow>,
    /// How many more checks there were.
    pub checks_left_out: usize,
}

/// What came of the checks of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairOutcome {
    /// In one direction at least a check was sent and its answer seen.
    Works,
    /// It broke in one direction at least, and works in none.
    Broken,
    /// Neither was seen: nothing was sent, or what came of it was not measured.
    Unknown,
}

impl PairOutcome {
    fn of(pair: &JoinedPair) -> Self {
        if pair.works() {
            Self::Works
        } else if [&pair.a_to_b, &pair.b_to_a].iter().any(|chain| chain.broken.is_some()) {
            Self::Broken
        } else {
            Self::Unknown
        }
    }
}

/// A pair as one side has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairOfSide {
    /// Its base and the peer's address.
    #[serde(flatten)]
    pub pair: Pair,
    /// Its state, as the agent says.
    pub state: Option<PairState>,
    /// Why the agent removed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruned: Option<crate::trace::event::PruneReason>,
    /// Why its TCP connection was not made, or broke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_connection: Option<String>,
}

impl Report {
    /// The account of these events: one side's or both sides', in any order between the sides.
    pub fn from_events(events: &[Event]) -> Self {
        let mut ordered: Vec<&Event> = events.iter().collect();
        ordered.sort_by_key(|event| (event.vantage, event.seq));
        let evidence = Evidence::of(ordered.iter().copied());
        Self::build(&evidence, &ordered)
    }

    /// Says that so many of all events could not be read: the account lacks what they showed.
    pub fn lacks(&mut self, unread: u64, total: u64) {
        if let Some((missing, sentence)) = unread_events(unread, total) {
            self.not_measured.insert(0, missing);
            self.reason.push_str(&sentence);
        }
    }

    fn build(evidence: &Evidence, events: &[&Event]) -> Self {
        let session = Session::of(evidence);
        let diagnosis = rules::diagnose(&session);
        let expected = expected(&session, &diagnosis.findings);
        let over_tcp = session.is_over_tcp();
        let verdict = verdict(&session, expected, diagnosis.has_harmless || over_tcp);
        let mut not_measured = missing_sides(evidence);
        not_measured.extend(diagnosis.not_measured);
        not_measured.extend(unmeasured_throughput(evidence));

        let clock = clock::estimate(evidence, events);
        let scale = timeline::Scale::new(evidence, clock.as_ref());
        let checks = checks::Checks::of(evidence);
        let mut joined: Vec<&JoinedPair> = session.pairs.iter().collect();
        joined.sort_by_key(|pair| (!pair.selected, !is_nominated(pair), !pair.was_checked(), !pair.is_unconnected()));
        let pairs_left_out = joined.len().saturating_sub(MAX_PAIRS);
        joined.truncate(MAX_PAIRS);
        let pairs: Vec<PairRow> = joined.into_iter().map(|pair| pair_row(&session, pair, &checks, &scale)).collect();

        let summary = |vantage| evidence.is_recorded(vantage).then(|| side_summary(evidence.side(vantage)));
        let candidates = candidates::rows(evidence);
        Self {
            schema: SCHEMA,
            path: session.path,
            over_tcp,
            heading: if session.is_decided() { words::path(session.path) } else { words::UNDECIDED },
            decided: session.is_decided(),
            expected,
            verdict,
            note: words::note(session.path, over_tcp, verdict, expected),
            would_allow_direct: would_allow_direct(&session, expected, &diagnosis.findings),
            reason: reason::reason(&session, &diagnosis.findings),
            selected_pair: session.selected.and_then(|index| selected_pair(&session, &session.pairs[index])),
            pseudonyms: has_pseudonyms(evidence),
            not_measured,
            a: summary(Vantage::A),
            b: summary(Vantage::B),
            comparisons: probes::comparisons(&session),
            probes: probes::probes(&session),
            outages: outages::rows(&session, &scale),
            tried: probes::tried(&session),
            proof: None,
            network: network::network(&session),
            timeline: timeline::timeline(events, &scale),
            events: events::rows(events, &diagnosis.findings, &pairs, &candidates, &scale),
            findings: diagnosis.findings,
            candidates,
            pairs,
            pairs_left_out,
            clock,
        }
    }
}

fn has_pseudonyms(evidence: &Evidence) -> bool {
    [Vantage::A, Vantage::B].into_iter().any(|vantage| evidence.side(vantage).options.redacted)
}

/// What is missing where events could not be read, and what the verdict's sentence says of it.
fn unread_events(unread: u64, total: u64) -> Option<(NotMeasured, String)> {
    let what = format!("what {unread} of {total} events of the recording show");
    let why = "they could not be read: damaged, or of a kind that this version does not know".to_owned();
    let sentence = match unread * 10 > total {
        true => format!(" {unread} of {total} events of the recording could not be read: this account is incomplete."),
        // A newer version's few kinds.
        false => String::new(),
    };
    (unread > 0).then_some((NotMeasured::new(what, why), sentence))
}

fn selected_pair(session: &Session<'_>, pair: &JoinedPair) -> Option<SelectedPair> {
    let (local, remote) = (session.end(pair, Vantage::A)?, session.end(pair, Vantage::B)?);
    let rtt_us = [&pair.a_to_b, &pair.b_to_a].into_iter().filter_map(|chain| chain.round_trip_us).min();
    let over_tcp = [&pair.a, &pair.b].into_iter().flatten().any(|side| side.pair.transport.is_tcp());
    let transport = if over_tcp { Transport::Tcp } else { Transport::Udp };
    Some(SelectedPair { local, remote, transport, rtt_ms: rtt_us.map(milliseconds) })
}

fn is_nominated(pair: &JoinedPair) -> bool {
    [&pair.a, &pair.b].into_iter().flatten().any(|side| side.nominated)
}

fn pair_row(session: &Session<'_>, pair: &JoinedPair, checks: &checks::Checks<'_>, scale: &timeline::Scale) -> PairRow {
    let (rows, checks_left_out) = checks.rows(pair, scale);
    let of_side = |vantage| {
        let side = pair.side(vantage)?;
        let (pruned, no_connection) = (side.pruned.clone(), side.no_connection.clone());
        Some(PairOfSide { pair: side.pair, state: side.state, pruned, no_connection })
    };
    let mut row = PairRow {
        words: words::PairWords::default(),
        a: session.end(pair, Vantage::A),
        b: session.end(pair, Vantage::B),
        a_pair: of_side(Vantage::A),
        b_pair: of_side(Vantage::B),
        a_to_b: pair.a_to_b.clone(),
        b_to_a: pair.b_to_a.clone(),
        relayed: pair.relayed,
        nominated: is_nominated(pair),
        selected: pair.selected,
        checked: pair.was_checked(),
        outcome: PairOutcome::of(pair),
        checks: rows,
        checks_left_out,
    };
    row.words = words::pair(&row);
    row
}

fn side_summary(side: &SideEvidence) -> SideSummary {
    let throughput = |direction| {
        let (bytes, took_us) = side.throughput.get(&direction).copied()?;
        // Bytes fit into 53 bits for the next centuries.
        (took_us > 0).then(|| round(bytes as f64 * 8.0 / took_us as f64))
    };
    let opened = side.channel_opened.map(|(_, at)| at - side.first_at);
    SideSummary {
        program: side.program.clone(),
        id: side.id.clone(),
        role: side.role,
        ended: side.ended.map(|(_, reason)| reason),
        events: side.events,
        channel_opened_ms: opened.map(|opened| round(opened.as_secs_f64() * 1000.0)),
        channel_round_trips: side.round_trips,
        throughput_out_mbps: throughput(Direction::Out),
        throughput_in_mbps: throughput(Direction::In),
        programs: side.host.software.iter().map(|software| program_row(software.seq, &software.fact)).collect(),
    }
}

fn program_row(seq: u64, software: &Software) -> ProgramRow {
    let Software { software: program, signs, process_id, environment: settings, installed } = software.clone();
    let (words, certain) = (facts::software(software), software.is_certain());
    ProgramRow { seq, program, words, signs, certain, process_id, settings, installed }
}

/// Throughput that a side was asked to measure and did not. Each direction is told once, by the side that knows why.
fn unmeasured_throughput(evidence: &Evidence) -> Vec<NotMeasured> {
    let sides = [Vantage::A, Vantage::B].map(|vantage| (vantage, evidence.side(vantage)));
    let all =
        sides.iter().flat_map(|(vantage, side)| side.measured.missing.iter().map(move |missing| (*vantage, missing)));
    let told = all.filter_map(|(vantage, (_, what, why))| {
        let (from, to) = match what.strip_prefix(THROUGHPUT)? {
            " to the other side" => (vantage, vantage.other()),
            " from the other side" => (vantage.other(), vantage),
            _ => return None,
        };
        let known = |vantage, direction| evidence.side(vantage).throughput.contains_key(&direction);
        let is_known = known(from, Direction::Out) || known(to, Direction::In);
        let what = format!("{THROUGHPUT} from {} to {}", from.name(), to.name());
        (!is_known).then(|| NotMeasured::new(what, why.clone()))
    });
    let mut known: Vec<NotMeasured> = Vec::new();
    for missing in told {
        if known.iter().all(|other| other.what != missing.what) {
            known.push(missing);
        }
    }
    known
}

fn missing_sides(evidence: &Evidence) -> Vec<NotMeasured> {
    let mut missing = Vec::new();
    for (vantage, name) in [(Vantage::A, "A"), (Vantage::B, "B")] {
        let (side, other) = (evidence.side(vantage), evidence.side(vantage.other()));
        if side.events == 0 {
            let why = match (&other.peer_recording, &other.peer_program) {
                (Some((_, Some(why))), _) => why.clone(),
                (_, None) => "the peer is not whyrelay, or its recording was not given".to_owned(),
                _ => "its recording was not given".to_owned(),
            };
            let what = format!("what {name} saw: which checks reached it, from where, and which it answered");
            missing.push(NotMeasured::new(what, why));
        } else if side.ended.is_none() && !evidence.is_complete(vantage) {
            let why = "its recording was cut off".to_owned();
            missing.push(NotMeasured::new(format!("how the session went on for {name}"), why));
        }
        if side.dropped > 0 {
            let why = format!("{} events are missing from its recording", side.dropped);
            missing.push(NotMeasured::new(format!("all of what {name} saw"), why));
        }
        if side.overflow > 0 {
            let why = format!("{} events were beyond the bounds of the diagnosis", side.overflow);
            missing.push(NotMeasured::new(format!("all of what {name} saw"), why));
        }
        missing.extend(absent_interfaces(side, name));
        missing.extend(unprivileged(&side.host, name));
    }
    missing
}

/// Interfaces that were to be left out and are not there: perhaps another name was meant.
fn absent_interfaces(side: &SideEvidence, name: &str) -> Option<NotMeasured> {
    let names = |absent: bool| {
        let interfaces = side.interfaces.iter().filter(|(.., used)| (*used == InterfaceUse::Absent) == absent);
        interfaces.map(|(_, name, ..)| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (absent, there) = (names(true), names(false));
    (!absent.is_empty()).then(|| {
        NotMeasured::new(
            format!("the session without {absent} on {name} (--exclude-interface)"),
            format!("{name} has no interface of that name; it has {there}"),
        )
    })
}

/// What a side could not look at for want of a privilege, one entry for each privilege.
fn unprivileged(host: &HostEvidence, name: &str) -> Vec<NotMeasured> {
    let mut by_privilege: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for subject in [
        Subject::Nftables,
        Subject::LegacyIptables,
        Subject::IpsecPolicies,
        Subject::Conntrack,
        Subject::OwnPackets,
        Subject::Sockets,
    ] {
        if let Some((_, Some(privilege))) = host.why_not_measured(subject) {
            let all = by_privilege.entry(privilege).or_default();
            all.push(subject.name());
        }
    }
    let entry = |(privilege, what): (&str, Vec<&str>)| {
        NotMeasured::new(format!("on {name}: {}", what.join(", ")), format!("it takes {privilege}"))
    };
    by_privilege.into_iter().map(entry).collect()
}

/// Microseconds as milliseconds with three decimals.
fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// Three decimals are enough for any measurement here, and make the account readable.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
