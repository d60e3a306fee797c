//! `whyrelay check`: one host alone. What its network does to UDP, which servers work, what would stop a peer.
//!
//! Parts run side by side, each with sockets of its own. Each notes in the journal what it sees before it acts on
//! it; one loop takes the entries into the recording, and the account is made from the recording alone.

mod asked;
mod certificate;
mod compare;
mod config;
mod hops;
mod journal;
mod local;
mod nat;
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
use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use whyrelay_core::engine::server_url::ServerHost;
use whyrelay_core::host::{HostFact, Moment};
use whyrelay_core::random::Random;
use whyrelay_core::trace::event::{EVENT_VERSION, EndReason, Event, EventKind, SessionOptions, Vantage};
use whyrelay_core::trace::measurement::{Ipv6State, Measurement};
use whyrelay_core::wire::stun::Class;

use asked::{Row, STOPPED};
pub use config::CheckConfig;
pub(crate) use journal::{Entry, Journal, Passed};
pub(crate) use local::origin_toward;
pub(crate) use nat::{Origin, discover};
use parts::{Look, Part, part};
pub(crate) use port_map::{HeldMapping, hold as hold_mapping};
use servers::{Known, Servers};
use stop::Stop;
use table::Table;

use crate::host::Told;
use crate::io::clock::Clock;
use crate::io::interfaces::{self, Interface};
use crate::io::tls::ClientTls;
use crate::io::udp::UdpOptions;
use crate::session::Sink;

/// Everything that was not asked for on top ends by then. Giving allocations back and the host's last facts come after
/// it, and a busy machine is late with all of it: 3 s are promised. What is silent over UDP is known to be by then: asking
/// a named server what it offers takes 0.6 s at most, and each request behind that 1.5 s.
const LIMIT: Duration = Duration::from_millis(2200);

/// What the servers are is known within this on a network that is not slow.
const QUICK: Duration = Duration::from_millis(700);

/// [`LIMIT`] from then on, where it is: by satellite a relay's echo takes five round trips of 600 ms.
const SLOW_LIMIT: Duration = Duration::from_millis(3500);

/// How often the table is drawn while nothing happens.
const TABLE_INTERVAL: Duration = Duration::from_millis(250);

/// What was changed elsewhere is taken back within this time when the check is stopped: a port mapping takes longest.
const CLEAN_UP_LIMIT: Duration = port_map::UNMAP_LIMIT.saturating_add(Duration::from_millis(100));

/// Asking a named server what it offers delays everything else by this at most: two round trips of 300 ms each.
const DESCRIBE_LIMIT: Duration = Duration::from_millis(600);

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
    let clock = Clock::start();
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
    let (tap, facts) = crate::host::start();
    sink.tap(tap);
    let mut facts = Some(facts);
    let (journal, mut entries) = Journal::new(clock);
    let mut table = Table::new(color);
    let (stopping, stop) = Stop::new();
    let look = look(&config, &found, journal.clone(), random, stop);
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
        let until = tokio::time::Instant::now() + FACTS_LIMIT;
        let mut told = Told::default();
        let late = loop {
            match tokio::time::timeout_at(until, next_fact(&mut facts)).await {
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

/// The last facts of the host come within this.
const FACTS_LIMIT: Duration = Duration::from_secs(2);

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

/// All parts, side by side.
async fn look(config: &CheckConfig, found: &[Interface], journal: Journal, mut random: Random, stop: Stop) {
    let began = Instant::now();
    let tls = ClientTls::new(config.tls_roots.clone());
    for interface in found {
        let addresses = interface.addresses.iter().map(SocketAddr::ip).collect();
        let (name, index, used) = (interface.name.clone(), interface.index, interface.used);
        journal.fact(EventKind::Interface { name, index, addresses, used });
    }
    let routes = local::look(&journal, found, config.mark);
    let ipv6 = local::ipv6_state(found);

    let asking = stop.clone().unless(servers::known(config, &journal, &tls)).await;
    // Where it takes long to learn of the servers, they take long to answer.
    let until = if began.elapsed() < QUICK { began + LIMIT } else { Instant::now() + SLOW_LIMIT };
    let Servers { list: known, mut discovery, announced_by_whyrelay } = asking.unwrap_or_default();
    if stop.is_asked() && known.is_empty() {
        journal.missing("the NAT's behavior, servers and what gets through", STOPPED);
        for (_, what, _) in CONSENTS.into_iter().filter(|(is_asked, ..)| is_asked(config)) {
            journal.missing(what, STOPPED);
        }
        tell_ipv6(&journal, ipv6, &[]);
        tell_unasked(config, &journal);
        return;
    }
    if known.is_empty() {
        let why = if !config.urls.is_empty() {
            "no name of a server was resolved"
        } else if config.signal.is_some() {
            "the signaling server was not reached, or announces no server: give --stun or --turn, too"
        } else {
            "no server was named: give --signal, --stun or --turn"
        };
        journal.missing("the NAT's behavior, servers and what gets through", why);
    }
    servers::look_at_credentials(config, &journal, &known);
    if let Some(mark) = config.mark.filter(|mark| !local::can_mark(*mark)) {
        const WHY: &str = "it takes root (CAP_NET_ADMIN): run it with sudo, or without --mark";
        journal.missing(format!("everything that sockets with the mark {mark:#x} see"), WHY);
        for (_, what, _) in CONSENTS.into_iter().filter(|(is_asked, ..)| is_asked(config)) {
            journal.missing(what, WHY);
        }
        tell_ipv6(&journal, ipv6, &[]);
        tell_unasked(config, &journal);
        return;
    }
    let options = UdpOptions { mark: config.mark, ..UdpOptions::default() };
    let ways = Look {
        config,
        journal: &journal,
        found,
        known: &known,
        is_all_announced: announced_by_whyrelay,
        tls: &tls,
        options,
        until,
        stop: &stop,
    };
    let mut parts: Vec<Part> = Vec::new();
    if config.signal.is_some() && !config.urls.is_empty() {
        let (config, tls) = (config.clone(), tls.clone());
        parts.push(part(&journal, Vec::new(), |journal| servers::look_at_signaling(config, journal, tls, until)));
    }
    // These take back themselves what they changed.
    let mut careful: Vec<Part> = Vec::new();
    let asked = ways.probe_servers();
    // A server that was named instead of announced says itself where it offers behavior discovery; an announced one is
    // not waited for.
    let mut described: Vec<bool> = asked.iter().map(|_| announced_by_whyrelay).collect();
    if !announced_by_whyrelay {
        let limit = (Instant::now() + DESCRIBE_LIMIT).min(until);
        let describe =
            |asked: &(Origin, SocketAddr)| probes::describe(&journal, random.fork(), asked.clone(), options, limit);
        let describing = join_all(asked.iter().map(describe).collect::<Vec<_>>());
        if let Some(answers) = stop.clone().unless(describing).await {
            discovery.extend(answers.iter().flatten().filter_map(|described| described.discovery));
            described = answers.iter().map(Option::is_some).collect();
        } else {
            // Whose they are is not known; what they would be asked is told to be unmeasured.
            described.fill(true);
        }
    }
    let is_ours = described.contains(&true);
    let ours = asked.iter().zip(&described).filter(|((_, server), described)| server.is_ipv4() && **described);
    let outside = ours.map(|(asked, _)| asked.clone()).next();
    careful.extend(ways.port_map(&mut random, &routes, outside));
    parts.extend(ways.pinhole(&routes));
    if let Some(application) = &config.application {
        let what = if asked.is_empty() {
            "no server was asked over UDP: give --signal or --stun"
        } else {
            "rules can look at the address: `whyrelay offer --as` asks a peer"
        };
        journal.missing(format!("how packets to a peer fare as {}", application.name()), what);
        let (random, asked) = (random.fork(), asked.clone());
        parts.push(part(&journal, Row::of_program(application.name()), |journal| {
            compare::look(journal, random, application.clone(), asked, until)
        }));
    }
    for (origin, server) in &asked {
        let (random, asked) = (random.fork(), (origin.clone(), *server));
        parts.push(part(&journal, Row::of_hops(*server), |journal| {
            hops::look(journal, random, asked, Class::Request, options, until)
        }));
    }
    for (asked, described) in asked.into_iter().zip(&described) {
        if *described {
            let random = random.fork();
            parts.push(part(&journal, Row::of_probes(asked.1), |journal| {
                probes::look(journal, random, asked, options, until, !announced_by_whyrelay)
            }));
        } else {
            let why = format!("{} is no whyrelay server, or silent: give --signal", asked.1);
            journal.missing("largest packets, WireGuard's shape, the server's clock", why);
        }
    }
    parts.extend(ways.nat(&mut random, &discovery));
    parts.extend(ways.reach(&mut random));
    careful.extend(ways.turn(&mut random, is_ours));
    // What is dropped leaves nothing behind.
    let parts = async { stop.clone().unless(join_all(parts)).await };
    futures_util::future::join(parts, join_all(careful)).await;
    journal.stopped();
    tell_ipv6(&journal, ipv6, &known);
    tell_unasked(config, &journal);
}

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

/// What waits for consent: whether it was given, what it is, and its flag.
const CONSENTS: [(IsAsked, &str, &str); 3] = [
    (|config| config.hairpin, "hairpinning", "--hairpin"),
    (|config| config.lifetime.is_some(), "the lifetime of an idle mapping", "--lifetime TIME"),
    (|config| config.map, "mapping a port on the router", "--map"),
];

/// What has no consent.
fn tell_unasked(config: &CheckConfig, journal: &Journal) {
    for (_, what, flag) in CONSENTS.into_iter().filter(|(is_asked, ..)| !is_asked(config)) {
        journal.missing(what, format!("it takes your consent: {flag}"));
    }
}

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
