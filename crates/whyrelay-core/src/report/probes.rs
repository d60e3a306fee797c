//! What sessions that stand in for a program came to beside a plain program's sockets, and what the probes said.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::diagnosis::evidence::{HostEvidence, SideEvidence};
use crate::diagnosis::session::Session;
use crate::diagnosis::views::{MAPPING, OPENER};
use crate::host::{ProbeAim, ProbeOutcome, Subject};
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;
use crate::trace::measurement::Measurement;

/// Most probes that a report lists.
const MAX_PROBES: usize = 200;

/// A side that stands in for a program (`--as`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComparisonRow {
    /// Which side.
    pub side: Vantage,
    /// What was asked for.
    pub application: String,
    /// Where its settings come from: `known`, `running`, `given`.
    pub origin: String,
    /// Its firewall mark.
    pub mark: Option<u32>,
    /// Its port.
    pub port: Option<u16>,
    /// Whether its port was free; if not, its mark and user stood on another port.
    pub port_used: bool,
    /// What of it the session could not be like, and why.
    pub not_imitated: Vec<String>,
    /// How its sockets fared.
    pub as_application: Option<Fared>,
    /// How a plain program's fared; `null`: they were not tried.
    pub plain: Option<Fared>,
    /// Whether the two fared differently; `null`: not measured.
    pub differs: Option<bool>,
    /// In one sentence.
    pub summary: String,
}

/// How the sockets of one kind fared with the peer's addresses, each of them with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fared {
    /// Pairs that were checked: an own address with one of the peer's.
    pub checked: u32,
    /// Of these, those that answered.
    pub answered: u32,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeRow {
    /// Number of its event.
    pub seq: u64,
    /// Whose.
    pub side: Vantage,
    /// What it changed, in words.
    pub probe: String,
    /// Its socket.
    pub from: SocketAddr,
    /// Where to.
    pub to: SocketAddr,
    /// Whether it was answered; `null`: it could not be made.
    pub answered: Option<bool>,
    /// What came of it, in words.
    pub result: String,
}

/// The sides that stand in for a program.
pub(super) fn comparisons(session: &Session<'_>) -> Vec<ComparisonRow> {
    session.recorded().filter_map(|vantage| comparison(session.evidence.side(vantage), vantage)).collect()
}

fn comparison(side: &SideEvidence, vantage: Vantage) -> Option<ComparisonRow> {
    let host = &side.host;
    let (_, application) = host.application.as_ref()?;
    let fared = |as_application: bool| {
        let (_, tally) = host.tallies.get(&as_application)?;
        Some(Fared { checked: tally.pairs_checked, answered: tally.pairs_answered })
    };
    let (own, plain) = (fared(true), fared(false));
    let differs = own
        .zip(plain)
        .map(|(own, plain)| own.checked > 0 && plain.checked > 0 && (own.answered == 0) != (plain.answered == 0));
    Some(ComparisonRow {
        side: vantage,
        application: application.asked.clone(),
        origin: application.origin.clone(),
        mark: application.mark,
        port: application.port,
        port_used: application.port_used,
        not_imitated: application.not_imitated.clone(),
        as_application: own,
        plain,
        differs,
        summary: summary(host, &application.asked, vantage, own, plain),
    })
}

fn summary(host: &HostEvidence, name: &str, vantage: Vantage, own: Option<Fared>, plain: Option<Fared>) -> String {
    let of = |fared: Option<Fared>| match fared {
        Some(Fared { checked: 0, .. }) => "nothing was checked".to_owned(),
        Some(Fared { checked, answered }) => format!("{answered} of {checked} pairs with the peer answered"),
        None => {
            let why = host.why_not_measured(Subject::Application).map_or("the session was cut off", |(why, _)| why);
            format!("not measured: {why}")
        }
    };
    format!("On {} as {name}: {}; as a plain program: {}", vantage.name(), of(own), of(plain))
}

/// What each side tries for this one session.
pub(super) fn tried(session: &Session<'_>) -> Vec<String> {
    let tried = session.recorded().flat_map(|vantage| {
        let side = session.evidence.side(vantage);
        let not_made = no_mapping(side);
        let opened = side.options.tried.iter().any(|what| what.starts_with(OPENER));
        let reached = opened.then(|| opener_reached(side)).flatten();
        side.options.tried.iter().map(move |what| {
            let made = if not_made && what.starts_with(MAPPING) { NOT_MADE } else { "" };
            let too_far = reached.filter(|_| what.starts_with(OPENER));
            let early = too_far.map_or(String::new(), |router| {
                format!(
                    "; it got as far as {router}, which refused it (port unreachable): where that is the router of {}, it was itself an early packet there",
                    vantage.other().name()
                )
            });
            format!("{}: {what}{made}{early}", vantage.name())
        })
    });
    tried.collect()
}

/// An address of the peer from which an opener was refused, ahead of every check that was sent there: its TTL was enough.
fn opener_reached(side: &SideEvidence) -> Option<IpAddr> {
    let refused = side.icmp_errors.iter().filter(|((_, remote, icmp_type, code), error)| {
        (*icmp_type, *code) == (3, 3) && error.offender.is_none_or(|offender| offender == remote.ip())
    });
    let of_peer = refused.filter(|((_, remote, ..), _)| {
        AddressClass::of(remote.ip()) == AddressClass::Public && side.known.remote_at(*remote).is_some()
    });
    let mut ahead = of_peer.filter(|((_, remote, ..), error)| {
        !side.sent.values().any(|check| check.pair.remote == *remote && check.seq < error.seq)
    });
    ahead.next().map(|((_, remote, ..), _)| remote.ip())
}

/// What is added to something that could not be tried.
pub(super) const NOT_MADE: &str = "; not made: no router answered that makes one";

/// Whether routers were asked for a port mapping and none makes any.
fn no_mapping(side: &SideEvidence) -> bool {
    let mut answers = side.measured.facts.iter().filter_map(|(_, measurement)| match measurement {
        Measurement::PortMapper { found, .. } => Some(*found),
        _ => None,
    });
    let first = answers.next();
    first.is_some_and(|found| !found) && answers.all(|found| !found)
}

/// The probes of both sides.
pub(super) fn probes(session: &Session<'_>) -> Vec<ProbeRow> {
    let rows = session.recorded().flat_map(|vantage| {
        session.evidence.side(vantage).host.probes.iter().map(move |probe| {
            let (answered, result) = result(&probe.fact.result);
            ProbeRow {
                seq: probe.seq,
                side: vantage,
                probe: aim(&probe.fact.aim),
                from: probe.fact.local,
                to: probe.fact.remote,
                answered,
                result,
            }
        })
    });
    rows.take(MAX_PROBES).collect()
}

/// What a probe changes, in words.
pub(super) fn aim(aim: &ProbeAim) -> String {
    match aim {
        ProbeAim::Plain => "as a plain program".into(),
        ProbeAim::PlainServer => "as a plain program, of a server".into(),
        ProbeAim::Device { device } => format!("bound to {device}"),
        ProbeAim::OtherPort => "from another port".into(),
        ProbeAim::WithoutMark => "without the mark".into(),
        ProbeAim::TimeToLive { ttl } => format!("as far as hop {ttl} (TTL {ttl})"),
        ProbeAim::Padded { length } => format!("in packets of {length} bytes"),
        ProbeAim::Segment { length } => format!("over TCP to the signaling server in a packet of {length} bytes"),
        ProbeAim::EarlyArrival => "after the peer's own packets".into(),
        ProbeAim::Silence { seconds } => format!("after {seconds} s of silence"),
        ProbeAim::AfterOpener { ttl } => format!("after an opener of TTL {ttl}"),
    }
}

pub(super) fn result(outcome: &ProbeOutcome) -> (Option<bool>, String) {
    match outcome {
        ProbeOutcome::Answered { mapped, round_trip_us } => {
            let seen = mapped.map_or(String::new(), |mapped| format!(", seen from {mapped}"));
            (Some(true), format!("answered in {:.1} ms{seen}", *round_trip_us as f64 / 1000.0))
        }
        ProbeOutcome::Rewritten { told, answers } => {
            let told = told.map_or(String::new(), |told| format!(", telling {told}"));
            let plural = if *answers == 1 { "" } else { "s" };
            (Some(false), format!("{answers} answer{plural}, changed on the way{told}"))
        }
        ProbeOutcome::Silent => (Some(false), "no answer".into()),
        ProbeOutcome::Refused { errno } => (Some(false), format!("the system refused it (errno {errno})")),
        ProbeOutcome::Icmp { offender, icmp_type, icmp_code, .. } => {
            let who = offender.map_or(String::new(), |offender| format!(" from {offender}"));
            (Some(false), format!("ICMP {icmp_type}/{icmp_code}{who}"))
        }
        ProbeOutcome::NotMade { detail } => (None, format!("not made: {detail}")),
    }
}
