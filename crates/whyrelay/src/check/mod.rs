//! `whyrelay check`: one host alone. What its network does to UDP, which servers work, what would stop a peer.
//!
//! Parts run side by side, each with sockets of its own. Each notes in the journal what it sees before it acts on
//! it; one loop takes the entries into the recording, and the account is made from the recording alone.

mod asked;
mod certificate;
mod compare;
mod config;
mod course;
mod hops;
mod journal;
mod late;
mod local;
mod nat;
mod origins;
mod parts;
mod pinhole;
mod port_map;
mod probes;
mod question;
mod reach;
mod servers;
mod sockets;
mod stop;
mod table;
mod turn;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use whyrelay_core::engine::server_url::ServerHost;
use whyrelay_core::host::{HostFact, Moment};
use whyrelay_core::random::Random;
use whyrelay_core::trace::event::{EVENT_VERSION, EndReason, Event, EventKind, SessionOptions, Vantage};
use whyrelay_core::trace::measurement::{Ipv6State, Measurement, ONLY_NAT};

use asked::STOPPED;
pub use config::CheckConfig;
use course::Course;
pub(crate) use hops::look_quickly as look_at_hops;
pub(crate) use journal::{Entry, Journal, Passed};
pub(crate) use local::origin_toward;
pub(crate) use nat::{Origin, discover};
use parts::{Look, SoFar};
pub(crate) use port_map::{HeldMapping, hold as hold_mapping};
use servers::Known;
use stop::Stop;
use table::Table;

use crate::cli::args::Only;
use crate::host::Told;
use crate::io::clock::Clock;
use crate::io::interfaces::{self, Interface};
use crate::io::tls::ClientTls;
use crate::io::udp::UdpOptions;
use crate::session::Sink;

/// What needs no consent ends so long before the time of the check is over: then come giving allocations back and the
/// host's last facts, and a busy machine is late with all of it. What is silent over UDP is known 1.5 s after it was asked.
const RESERVE: Duration = Duration::from_millis(800);

/// The same of signaling, where it names the servers, without which there is nothing to measure: by satellite it takes
/// three round trips of 600 ms, and a lost SYN is sent again after a second. Who comes to nothing by then has nothing to
/// give back.
const SIGNALING_RESERVE: Duration = Duration::from_millis(500);

/// The host's last facts are waited for until so long before the time is over, and for this long where there is time for
/// it, or where the user let the check take longer.
const FACTS_RESERVE: Duration = Duration::from_millis(100);
const LEAST_FACTS_WAIT: Duration = Duration::from_millis(500);

/// An answer that comes later than this behind all else is of no use: a satellite and a full queue together take less.
const LATE_WAIT: Duration = Duration::from_secs(3);

/// How often the table is drawn while nothing happens.
const TABLE_INTERVAL: Duration = Duration::from_millis(250);

/// What was changed elsewhere is taken back within this time when the check is stopped: a port mapping takes longest.
const CLEAN_UP_LIMIT: Duration = port_map::UNMAP_LIMIT.saturating_add(Duration::from_millis(100));

/// The IPv4 router of the default route over an interface.
pub(crate) fn default_gateway(interface: &str) -> Option<std::net::Ipv4Addr> {
    local::default_routes().into_iter().find_map(|route| match route.gateway {
        Some(std::net::IpAddr::V4(gateway)) if route.interface == interface => Some(gateway),
        _ => None,
    })
}

/// What came of a check.
#[derive(Debug)]
pub struct Outcome {
    /// What was seen.
    pub events: Vec<Event>,
    /// Files that were asked for and could not be written to the end, each a sentence.
    pub unwritten: Vec<String>,
}

/// Looks, and answers what was seen.
///
/// # Errors
/// When whyrelay cannot look: no interface to look from, no random bytes, no file.
pub async fn run(config: CheckConfig, mut interrupt: watch::Receiver<u32>, color: bool) -> anyhow::Result<Outcome> {
    let found = interfaces::list(&config.interfaces).context("listing the interfaces")?;
    interfaces::must_leave_one(&found, &config.interfaces)?;
    let (clock, began) = (Clock::start(), Instant::now());
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("getting random bytes from the system: {error}"))?;
    let mut random = Random::from_seed(seed);
    let mut sink = Sink::open(Vantage::A, config.record.as_deref(), config.pcap.as_deref(), config.redact)?;
    let secret: [u8; 32] = random.bytes();
    sink.redact_with(&secret);
    let options = SessionOptions {
        interfaces: config.interfaces.include.clone(),
        excluded_interfaces: config.interfaces.exclude.clone(),
        mark: config.mark,
        redacted: config.redact,
        ..SessionOptions::default()
    };
    let program = concat!("whyrelay ", env!("CARGO_PKG_VERSION")).to_owned();
    let id = "check".to_owned();
    sink.record(clock.now(), EventKind::RecordingStarted { version: EVENT_VERSION, program, id, options });
    sink.record(clock.now(), EventKind::CheckStarted { consents: config.consents() });

    // Routes, rules and firewall, and what they say of the packets to servers.
    let mut facts = config.is_whole().then(|| {
        let (tap, facts) = crate::host::start(crate::host::Beside::Check);
        sink.tap(tap);
        facts
    });
    let (journal, mut entries) = Journal::new(clock);
    let journal = journal.within(config.time);
    let mut table = Table::new(color);
    let (stopping, stop) = Stop::new();
    let look = look(&config, &found, journal.clone(), random, (began, stop));
    tokio::pin!(look);
    let mut reason = EndReason::Finished;
    let mut patience = None;
    loop {
        tokio::select! {
            biased;
            Ok(()) = interrupt.changed(), if patience.is_none() => {
                reason = EndReason::Interrupted;
                stopping.send_replace(true);
                patience = Some(tokio::time::Instant::now() + CLEAN_UP_LIMIT);
            }
            () = async { tokio::time::sleep_until(patience.unwrap_or_else(tokio::time::Instant::now)).await },
                if patience.is_some() => break,
            Some(entry) = entries.recv() => {
                log(&entry, config.redact);
                sink.note(entry);
            }
            Some((moment, fact)) = next_fact(&mut facts) => {
                sink.record(clock.now(), EventKind::HostFact { moment, fact: Box::new(fact) });
            }
            () = &mut look => break,
            () = tokio::time::sleep(TABLE_INTERVAL) => {}
        }
        table.draw(sink.events(), journal.status());
    }
    drain(&mut sink, &mut entries, config.redact);
    if sink.finish_tap() {
        let is_longer = config.map || config.lifetime.is_some();
        let until = facts_until(Instant::now(), began + config.time, is_longer);
        let mut told = Told::default();
        let late = loop {
            match tokio::time::timeout_at(until.into(), next_fact(&mut facts)).await {
                Ok(Some((moment, fact))) => {
                    told.note(moment, &fact);
                    sink.record(clock.now(), EventKind::HostFact { moment, fact: Box::new(fact) });
                }
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if late {
            for fact in told.missing("it took longer than the check waits for it") {
                let (moment, fact) = (Moment::After, Box::new(fact));
                sink.record(clock.now(), EventKind::HostFact { moment, fact });
            }
        }
    }
    // Until now what comes late to the sockets is noted, as the host's facts count it, too.
    drain(&mut sink, &mut entries, config.redact);
    journal.close();
    table.clear();
    if journal.lost() > 0 {
        sink.record(clock.now(), EventKind::EventsDropped { count: journal.lost() });
    }
    sink.end(clock.now(), EventKind::RecordingEnded { reason });
    let mut unwritten = Vec::new();
    while let Some(file) = sink.take_unwritten() {
        unwritten.push(file.to_string());
    }
    Ok(Outcome { events: sink.events().to_vec(), unwritten })
}

/// How long the host's last facts are waited for in a check that should end at `end`.
fn facts_until(now: Instant, end: Instant, is_longer: bool) -> Instant {
    let until = end.checked_sub(FACTS_RESERVE).unwrap_or(end).max(now + LEAST_FACTS_WAIT);
    if is_longer { until } else { until.min(end) }
}

/// The next fact of the host; never, where none are collected.
async fn next_fact(facts: &mut Option<mpsc::Receiver<(Moment, HostFact)>>) -> Option<(Moment, HostFact)> {
    match facts {
        Some(facts) => facts.recv().await,
        None => std::future::pending().await,
    }
}

/// What was seen, for `-vv`; its kind alone where addresses are hidden.
fn log(entry: &Entry, is_redacted: bool) {
    match entry {
        Entry::Fact(_, kind) if !is_redacted => tracing::debug!(?kind),
        Entry::Passage(passed) if !is_redacted => {
            let Passed { direction, transport, local, remote, bytes, .. } = passed;
            tracing::debug!(?direction, ?transport, %local, %remote, bytes = bytes.len());
        }
        Entry::Connecting(_) | Entry::Connection { .. } => tracing::debug!("a connection"),
        Entry::Fact(..) => tracing::debug!("a fact"),
        Entry::Passage(passed) => tracing::debug!(direction = ?passed.direction, bytes = passed.bytes.len()),
    }
}

fn drain(sink: &mut Sink, entries: &mut mpsc::Receiver<Entry>, is_redacted: bool) {
    while let Ok(entry) = entries.try_recv() {
        log(&entry, is_redacted);
        sink.note(entry);
    }
}

/// All parts, side by side, of each server as it becomes known.
async fn look(
    config: &CheckConfig,
    found: &[Interface],
    journal: Journal,
    mut random: Random,
    (began, stop): (Instant, Stop),
) {
    let until = began + config.time.saturating_sub(RESERVE);
    let tls = ClientTls::new(config.tls_roots.clone());
    for interface in found {
        let addresses = interface.addresses.iter().map(SocketAddr::ip).collect();
        let (name, index, used) = (interface.name.clone(), interface.index, interface.used);
        journal.fact(EventKind::Interface { name, index, addresses, used });
    }
    let routes = local::look(&journal, found, config.mark);
    let ipv6 = local::ipv6_state(found);
    let limit = began + config.time.saturating_sub(SIGNALING_RESERVE);
    let Some(naming) = stop.clone().unless(servers::naming(config, &journal, &tls, (limit, until))).await else {
        return give_up(config, &journal, ipv6, STOPPED);
    };
    if let Some(mark) = config.mark.filter(|mark| !local::can_mark(*mark)) {
        const WHY: &str = "it takes root (CAP_NET_ADMIN): run it with sudo, or without --mark";
        journal.missing(format!("everything that sockets with the mark {mark:#x} see"), WHY);
        return give_up_consents(config, &journal, ipv6, WHY);
    }
    let ways = Look {
        config,
        journal: &journal,
        found,
        is_all_announced: naming.announced_by_whyrelay,
        tls: &tls,
        options: UdpOptions { mark: config.mark, ..UdpOptions::default() },
        until,
        stop: &stop,
        so_far: SoFar::default(),
    };
    let mut course = Course::new(ways, random.fork());
    course.begin(&routes);
    course.run(naming, &routes).await;
    // What is silent so far may be slow.
    let _ = stop.clone().unless(journal.wait_for_late(late_until(Instant::now(), until))).await;
    journal.stopped();
    tell_ipv6(&journal, ipv6, &course.ways.so_far.known);
    tell_unasked(config, &journal);
}

/// How long answers that are late are waited for, in a check whose parts end at `until`: what is dead never comes.
fn late_until(now: Instant, until: Instant) -> Instant {
    until.min(now + LATE_WAIT)
}

/// Nothing is looked at, as the check is stopped before a server is known.
fn give_up(config: &CheckConfig, journal: &Journal, ipv6: Result<IpAddr, (Ipv6State, Option<IpAddr>)>, why: &str) {
    journal.missing(SERVERS, why);
    give_up_consents(config, journal, ipv6, why);
}

/// What is known without a socket; and what was asked for on top is not looked at.
fn give_up_consents(
    config: &CheckConfig,
    journal: &Journal,
    ipv6: Result<IpAddr, (Ipv6State, Option<IpAddr>)>,
    why: &str,
) {
    for (_, what, _) in CONSENTS.into_iter().filter(|(is_asked, ..)| is_asked(config)) {
        journal.missing(what, why);
    }
    tell_ipv6(journal, ipv6, &[]);
    tell_unasked(config, journal);
}

/// What takes servers.
const SERVERS: &str = "the NAT's behavior, servers and what gets through";

/// IPv6, in four distinct answers.
fn tell_ipv6(journal: &Journal, state: Result<IpAddr, (Ipv6State, Option<IpAddr>)>, known: &[Known]) {
    let (state, address) = match state {
        // A server on the link needs no default route.
        Err((Ipv6State::NoPath, address)) if journal.ipv6_answered() => (Ipv6State::OnLink, address),
        Err((state, address)) => (state, address),
        Ok(address) => {
            let tried = known.iter().flat_map(Known::remotes).any(|remote| remote.is_ipv6());
            let state = if !tried {
                Ipv6State::NotTried
            } else if journal.ipv6_answered() {
                Ipv6State::Works
            } else {
                Ipv6State::NoPath
            };
            (state, Some(address))
        }
    };
    journal.measured(Measurement::Ipv6 { state, address });
}

type IsAsked = fn(&CheckConfig) -> bool;

const HAIRPINNING: &str = "hairpinning";

/// What waits for consent: whether it was given, what it is, and its flag.
const CONSENTS: [(IsAsked, &str, &str); 3] = [
    (|config| config.hairpin, HAIRPINNING, "--hairpin"),
    (|config| config.lifetime.is_some(), turn::LIFETIME, "--lifetime TIME"),
    (|config| config.map, "mapping a port on the router", "--map"),
];

/// What has no consent, and what was left out.
fn tell_unasked(config: &CheckConfig, journal: &Journal) {
    if config.only == Some(Only::Nat) {
        journal.missing(BESIDE_NAT, ONLY_NAT);
    }
    for (_, what, flag) in CONSENTS.into_iter().filter(|(is_asked, ..)| !is_asked(config)) {
        if config.is_whole() || what == HAIRPINNING {
            journal.missing(what, format!("it takes your consent: {flag}"));
        }
    }
}

/// What a check of the NAT alone leaves out.
const BESIDE_NAT: &str = "signaling, what else gets through (ports, transports, packet sizes), relays, the router's port mapping, and this host's routes and firewall";

/// A server's host when it is a name.
fn name_of(host: &ServerHost) -> Option<&str> {
    match host {
        ServerHost::Name(name) => Some(name),
        ServerHost::Ip(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use whyrelay_core::trace::event::Transport;

    use super::*;

    #[test]
    fn the_hosts_last_facts_are_waited_for_within_the_time_of_the_check() {
        let end = Instant::now() + Duration::from_secs(60);
        let before = |ms| end - Duration::from_millis(ms);
        assert_eq!(facts_until(before(2000), end, false), before(100));
        assert_eq!(facts_until(before(300), end, false), end);
        assert_eq!(facts_until(before(300), end, true), end + Duration::from_millis(200));
        // What took consent and minutes is behind it.
        assert_eq!(facts_until(end + Duration::from_secs(9), end, true), end + Duration::from_millis(9500));
    }

    #[test]
    fn one_dead_server_does_not_take_all_the_time_of_the_check() {
        let now = Instant::now();
        assert_eq!(late_until(now, now + Duration::from_secs(60)), now + LATE_WAIT);
        let soon = now + Duration::from_millis(200);
        assert_eq!(late_until(now, soon), soon);
    }

    #[test]
    fn answers_over_ipv6_without_a_default_route_are_no_missing_path() {
        let told = |answered: bool| {
            let (journal, mut entries) = Journal::new(Clock::start());
            let remote = "[2001:db8::1]:3478".parse().unwrap();
            let (transport, local, rtt_us) = (Transport::Udp, None, answered.then_some(500));
            journal.measured(Measurement::Reach { transport, local, remote, rtt_us, detail: None, unannounced: false });
            tell_ipv6(&journal, Err((Ipv6State::NoPath, Some("2001:db8::2".parse().unwrap()))), &[]);
            std::iter::from_fn(|| entries.try_recv().ok()).find_map(|entry| match entry {
                Entry::Fact(_, EventKind::Measured(Measurement::Ipv6 { state, .. })) => Some(state),
                _ => None,
            })
        };
        assert_eq!(told(true), Some(Ipv6State::OnLink));
        assert_eq!(told(false), Some(Ipv6State::NoPath));
    }
}
