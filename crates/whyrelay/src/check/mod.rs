//! `whyrelay check`: one host alone. What its network does to UDP, which servers work, what would stop a peer.
//!
//! Parts run side by side, each with sockets of its own. Each notes in the journal what it sees before it acts on
//! it; one loop takes the entries into the recording, and the account is made from the recording alone.

mod certificate;
mod compare;
mod config;
mod hops;
mod journal;
mod local;
mod nat;
mod port_map;
mod probes;
mod reach;
mod servers;
mod sockets;
mod stop;
mod table;
mod turn;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use whyrelay_core::engine::gather::Server;
use whyrelay_core::engine::nat_discovery::DiscoveryConfig;
use whyrelay_core::engine::server_url::{ServerHost, ServerProtocol};
use whyrelay_core::host::{HostFact, Moment, leads_to_guests};
use whyrelay_core::random::Random;
use whyrelay_core::trace::event::{EVENT_VERSION, EndReason, Event, EventKind, SessionOptions, Transport, Vantage};
use whyrelay_core::trace::measurement::{Ipv6State, Measurement};

pub use config::CheckConfig;
pub(crate) use journal::{Entry, Journal, Passed};
use local::DefaultRoute;
pub(crate) use local::origin_toward;
pub(crate) use nat::{Origin, discover};
pub(crate) use port_map::{HeldMapping, hold as hold_mapping};
use servers::{Known, Servers};
use stop::Stop;
use table::Table;

use crate::io::clock::Clock;
use crate::io::interfaces::{self, Interface};
use crate::io::tls::ClientTls;
use crate::io::udp::UdpOptions;
use crate::session::Sink;

/// Everything that was not asked for on top ends by then; giving allocations back comes after it, in some round trips.
const LIMIT: Duration = Duration::from_millis(2600);

/// How often the table is drawn while nothing happens.
const TABLE_INTERVAL: Duration = Duration::from_millis(250);

/// What was changed elsewhere is taken back within this time when the check is stopped.
const CLEAN_UP_LIMIT: Duration = Duration::from_millis(2500);

/// Asking a named server what it offers delays everything else by this at most: two round trips of 300 ms each.
const DESCRIBE_LIMIT: Duration = Duration::from_millis(600);

/// Where HTTP/3 and disguised VPNs go: networks that block other UDP often let it through.
const HTTPS_PORT: u16 = 443;

/// Local addresses that are looked from, of each family.
const MAX_ORIGINS: usize = 4;

/// The IPv4 router of the default route over an interface.
pub(crate) fn default_gateway(interface: &str) -> Option<std::net::Ipv4Addr> {
    local::default_routes().into_iter().find_map(|route| match route.gateway {
        Some(std::net::IpAddr::V4(gateway)) if route.interface == interface => Some(gateway),
        _ => None,
    })
}

/// Looks, and answers what was seen.
///
/// # Errors
/// When whyrelay cannot look: no random bytes, no file.
pub async fn run(config: CheckConfig, mut interrupt: watch::Receiver<u32>, color: bool) -> anyhow::Result<Vec<Event>> {
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
    let look = look(&config, journal.clone(), random, stop);
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
            Some(entry) = entries.recv() => sink.note(entry),
            Some((moment, fact)) = next_fact(&mut facts) => {
                sink.record(clock.now(), EventKind::HostFact { moment, fact: Box::new(fact) });
            }
            looked = &mut look => {
                looked?;
                break;
            }
            () = tokio::time::sleep(TABLE_INTERVAL) => {}
        }
        table.draw(sink.events(), journal.status());
    }
    drain(&mut sink, &mut entries);
    if sink.finish_tap() {
        let until = tokio::time::Instant::now() + FACTS_LIMIT;
        while let Ok(Some((moment, fact))) = tokio::time::timeout_at(until, next_fact(&mut facts)).await {
            sink.record(clock.now(), EventKind::HostFact { moment, fact: Box::new(fact) });
        }
    }
    table.clear();
    if journal.lost() > 0 {
        sink.record(clock.now(), EventKind::EventsDropped { count: journal.lost() });
    }
    sink.end(clock.now(), EventKind::RecordingEnded { reason });
    if let Some(error) = sink.take_file_error() {
        crate::tell!("warning: the recording could not be written: {error}");
    }
    Ok(sink.events().to_vec())
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

fn drain(sink: &mut Sink, entries: &mut mpsc::Receiver<Entry>) {
    while let Ok(entry) = entries.try_recv() {
        sink.note(entry);
    }
}

type Part<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// All parts, side by side.
async fn look(config: &CheckConfig, journal: Journal, mut random: Random, stop: Stop) -> anyhow::Result<()> {
    let until = Instant::now() + LIMIT;
    let tls = ClientTls::new(config.tls_roots.clone());
    let found = interfaces::list(&config.interfaces).context("listing the interfaces")?;
    for interface in &found {
        let addresses = interface.addresses.iter().map(SocketAddr::ip).collect();
        let (name, index, used) = (interface.name.clone(), interface.index, interface.used);
        journal.fact(EventKind::Interface { name, index, addresses, used });
    }
    let routes = local::look(&journal, &found, config.mark);
    let ipv6 = local::ipv6_state(&found);

    let asking = stop.clone().unless(servers::known(config, &journal, &tls, until)).await;
    let Some(Servers { list: known, mut discovery, announced_by_whyrelay }) = asking else { return Ok(()) };
    if known.is_empty() {
        let why = "no server was named or announced: give --signal, --stun or --turn";
        journal.missing("the NAT's behavior, servers and what gets through", why);
    }
    let options = UdpOptions { mark: config.mark, ..UdpOptions::default() };
    let mut parts: Vec<Part<'_>> = Vec::new();
    // These take back themselves what they changed.
    let mut careful: Vec<Part<'_>> = Vec::new();
    servers::look_at_credentials(config, &journal, &known);
    let asked = probe_servers(&known, &found, config.mark);
    // A server that was named instead of announced says itself where it offers behavior discovery; an announced one is
    // not waited for.
    let mut described: Vec<bool> = asked.iter().map(|_| announced_by_whyrelay).collect();
    if !announced_by_whyrelay {
        let limit = (Instant::now() + DESCRIBE_LIMIT).min(until);
        let describe =
            |asked: &(Origin, SocketAddr)| probes::describe(&journal, random.fork(), asked.clone(), options, limit);
        let describing = join_all(asked.iter().map(describe).collect::<Vec<_>>());
        let Some(answers) = stop.clone().unless(describing).await else { return Ok(()) };
        discovery.extend(answers.iter().flatten().filter_map(|described| described.discovery));
        described = answers.iter().map(Option::is_some).collect();
    }
    let is_ours = described.contains(&true);
    let ours = asked.iter().zip(&described).filter(|((_, server), described)| server.is_ipv4() && **described);
    let outside = ours.map(|(asked, _)| asked.clone()).next();
    careful.extend(port_map_part(config, &journal, &mut random, &routes, outside, &found, options, until, &stop));
    if let Some(application) = &config.application {
        let what = if asked.is_empty() {
            "no server was asked over UDP: give --signal or --stun"
        } else {
            "rules can look at the address: `whyrelay offer --as` asks a peer"
        };
        journal.missing(format!("how packets to a peer fare as {}", application.name()), what);
        let (journal, random) = (journal.clone(), random.fork());
        parts.push(Box::pin(compare::look(journal, random, application.clone(), asked.clone(), until)));
    }
    for asked in &asked {
        parts.push(Box::pin(hops::look(journal.clone(), random.fork(), asked.clone(), options, until)));
    }
    for (asked, described) in asked.into_iter().zip(&described) {
        if *described {
            let (journal, random) = (journal.clone(), random.fork());
            parts.push(Box::pin(probes::look(journal, random, asked, options, until, !announced_by_whyrelay)));
        } else {
            let why = format!("{} is no whyrelay server, or silent: give --signal", asked.1);
            journal.missing("largest packets, WireGuard's shape, the server's clock", why);
        }
    }
    parts.extend(nat_parts(config, &journal, &mut random, (&known, &discovery), &found, options, until));
    parts.extend(reach_parts(&journal, &mut random, &known, &found, (&tls, options), until));
    careful.extend(turn_parts(config, &journal, &mut random, (&known, is_ours), &found, (&tls, options), until, &stop));
    let parts = async {
        // What is dropped leaves nothing behind.
        if stop.unless(join_all(parts)).await.is_none() {
            journal.missing("the rest", "the check was stopped");
        }
    };
    futures_util::future::join(parts, join_all(careful)).await;
    tell_ipv6(&journal, ipv6, &known);
    tell_unasked(config, &journal);
    Ok(())
}

/// The first server of each family over UDP, with our end: whom to ask for whyrelay's own probes.
fn probe_servers(known: &[Known], found: &[Interface], mark: Option<u32>) -> Vec<(Origin, SocketAddr)> {
    let first = |ipv4: bool| {
        let mut remotes = known.iter().filter(|server| server.is_udp()).flat_map(Known::remotes);
        let remote = remotes.find(|remote| remote.is_ipv4() == ipv4)?;
        Some((local::origin_toward(remote, found, mark)?, remote))
    };
    [first(true), first(false)].into_iter().flatten().collect()
}

/// The local addresses to look from toward a server: the system's own choice, then the other usable ones.
fn origins(journal: &Journal, config: &CheckConfig, found: &[Interface], remote: SocketAddr) -> Vec<Origin> {
    let mut origins: Vec<Origin> = Vec::new();
    let preferred = local::origin_toward(remote, found, config.mark);
    let chosen = interfaces::usable(found, &config.interfaces);
    let restricted = !config.interfaces.include.is_empty() || !config.interfaces.addresses.is_empty();
    if let Some(preferred) = preferred {
        let wanted = chosen.iter().any(|(address, _)| address.ip() == preferred.address.ip());
        if wanted || !restricted && remote.ip().is_loopback() {
            origins.push(preferred);
        }
    }
    for (address, interface) in chosen {
        let known = origins.iter().any(|origin| origin.address.ip() == address.ip());
        if known || address.is_ipv4() != remote.is_ipv4() || address.ip().is_loopback() && !restricted {
            continue;
        }
        let link_local = matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local());
        let name = interface.clone().unwrap_or_default();
        let what = format!("the NAT's behavior for {} ({name})", address.ip());
        if leads_to_guests(&name) && !restricted {
            journal
                .missing(what, "the interface serves this host's own guests: name it with --interface to look from it");
        } else if !link_local && origins.len() < MAX_ORIGINS {
            origins.push(Origin { address, interface });
        } else if !link_local {
            journal.missing(what, format!("only {MAX_ORIGINS} addresses are looked from: name it with --interface"));
        }
    }
    origins
}

fn nat_parts<'a>(
    config: &CheckConfig,
    journal: &Journal,
    random: &mut Random,
    (known, discovery): (&[Known], &[SocketAddr]),
    found: &[Interface],
    options: UdpOptions,
    until: Instant,
) -> Vec<Part<'a>> {
    let mut parts: Vec<Part<'a>> = Vec::new();
    for ipv4 in [true, false] {
        let mut servers: Vec<SocketAddr> = Vec::new();
        for server in known.iter().filter(|server| server.url.transport() == Transport::Udp) {
            let remotes = server.remotes().filter(|remote| remote.is_ipv4() == ipv4);
            servers.extend(remotes.filter(|remote| !servers.contains(remote)).collect::<Vec<_>>());
        }
        let Some(&first) = servers.first() else { continue };
        let origins = origins(journal, config, found, first);
        if origins.is_empty() {
            let family = if ipv4 { "IPv4" } else { "IPv6" };
            journal.missing(format!("the NAT's behavior for {family}"), "this host has no address to look from");
        }
        for origin in origins {
            let proving: Vec<SocketAddr> =
                discovery.iter().copied().filter(|remote| remote.is_ipv4() == ipv4).take(1).collect();
            let servers = [proving.clone(), servers.clone()].concat();
            let config = DiscoveryConfig { servers, proving, hairpin: config.hairpin, ports: true };
            parts.push(Box::pin(nat::discover(journal.clone(), random.fork(), origin, config, options, until)));
        }
    }
    parts
}

fn reach_parts<'a>(
    journal: &Journal,
    random: &mut Random,
    known: &[Known],
    found: &[Interface],
    (tls, options): (&ClientTls, UdpOptions),
    until: Instant,
) -> Vec<Part<'a>> {
    let mut parts: Vec<Part<'a>> = Vec::new();
    let mut asked: Vec<(Transport, SocketAddr)> = Vec::new();
    // The third class of ports beside STUN's own and a random high one.
    let on_its_port = |remote: &SocketAddr| remote.port() == HTTPS_PORT;
    let listens: Vec<SocketAddr> = known.iter().filter(|server| server.is_udp()).flat_map(Known::remotes).collect();
    for ipv4 in [true, false] {
        let mut hosts = known.iter().flat_map(Known::remotes).filter(|remote| remote.is_ipv4() == ipv4);
        let Some(host) = hosts.next().filter(|_| !listens.iter().any(on_its_port)) else { continue };
        let remote = SocketAddr::new(host.ip(), HTTPS_PORT);
        let Some(origin) = local::origin_toward(remote, found, options.mark) else { continue };
        let target = reach::Target { label: String::new(), remote, origin, expected: false };
        let (journal, random) = (journal.clone(), random.fork());
        parts.push(Box::pin(reach::over_another_port(journal, random, target, options, until)));
    }
    for server in known {
        for remote in server.remotes() {
            let Some(origin) = local::origin_toward(remote, found, options.mark) else {
                journal.missing(format!("{}: reaching {remote}", server.url), "there is no route to it");
                continue;
            };
            let own = server.url.transport();
            // Beside the URL's own transport: whether UDP alone is what does not get through.
            let others = if own == Transport::Tls { vec![own] } else { vec![Transport::Udp, Transport::Tcp] };
            for transport in others {
                if asked.contains(&(transport, remote)) {
                    continue;
                }
                asked.push((transport, remote));
                let label = server.url.to_string();
                let expected = transport == own && server.url.protocol() == ServerProtocol::Stun;
                let target = reach::Target { label, remote, origin: origin.clone(), expected };
                let (journal, random) = (journal.clone(), random.fork());
                parts.push(match transport {
                    Transport::Udp => Box::pin(reach::over_udp(journal, random, target, options, until)),
                    Transport::Tcp => Box::pin(reach::over_stream(journal, random, target, None, options.mark, until)),
                    Transport::Tls => {
                        let tls = Some((tls.clone(), server.url.host().to_string()));
                        Box::pin(reach::over_stream(journal, random, target, tls, options.mark, until))
                    }
                });
            }
        }
    }
    parts
}

/// Port mapping by the router of the preferred default route.
#[expect(clippy::too_many_arguments, reason = "each is something else that is known by then")]
fn port_map_part<'a>(
    config: &CheckConfig,
    journal: &Journal,
    random: &mut Random,
    routes: &[DefaultRoute],
    outside: Option<(Origin, SocketAddr)>,
    found: &[Interface],
    options: UdpOptions,
    until: Instant,
    stop: &Stop,
) -> Option<Part<'a>> {
    const WHAT: &str = "port mapping protocols of the router";
    let gateway = routes.iter().find_map(|route| match route.gateway {
        Some(IpAddr::V4(gateway)) => Some(gateway),
        _ => None,
    });
    let Some(gateway) = gateway else {
        journal.missing(WHAT, "there is no default route over IPv4 with a router");
        return None;
    };
    let Some(origin) = local::origin_toward(SocketAddr::from((gateway, 5351)), found, config.mark) else {
        journal.missing(WHAT, "there is no route to the router");
        return None;
    };
    let target = port_map::Target { origin, gateway, map: config.map, outside };
    Some(Box::pin(port_map::look(journal.clone(), random.fork(), target, options, until, stop.clone())))
}

#[expect(clippy::too_many_arguments, reason = "each is something else that is known by then")]
fn turn_parts<'a>(
    config: &CheckConfig,
    journal: &Journal,
    random: &mut Random,
    (known, is_ours): (&[Known], bool),
    found: &[Interface],
    (tls, options): (&ClientTls, UdpOptions),
    until: Instant,
    stop: &Stop,
) -> Vec<Part<'a>> {
    let mut parts: Vec<Part<'a>> = Vec::new();
    let (mut first, mut any) = (true, false);
    for server in known.iter().filter(|server| server.url.protocol() == ServerProtocol::Turn) {
        any = true;
        let Some(remote) = server.remotes().next() else { continue };
        let Some(origin) = local::origin_toward(remote, found, options.mark) else { continue };
        let over_udp = server.url.transport() == Transport::Udp;
        let target = turn::Target {
            server: Server {
                url: server.url.clone(),
                addresses: server.addresses.clone(),
                username: server.credentials.as_ref().map(|credentials| credentials.username.clone()),
                password: server.credentials.as_ref().map(config::Credentials::password),
            },
            origin,
            // A whyrelay server is asked for that by our own probes.
            experiments: over_udp && first && !is_ours,
            lifetime: config.lifetime.filter(|_| over_udp && first),
        };
        first &= !over_udp;
        let (journal, random, tls) = (journal.clone(), random.fork(), tls.clone());
        parts.push(Box::pin(turn::try_server(journal, random, target, (tls, options), until, stop.clone())));
    }
    if !any && !known.is_empty() && !is_ours {
        let why = "it takes a TURN server to send from: give --turn or --signal";
        journal.missing("early arrival, egress to a third party, echo through a relay", why);
    }
    if config.lifetime.is_some() && first {
        journal.missing("the lifetime of an idle mapping", "it takes a TURN server over UDP to send after the silence");
    }
    parts
}

/// IPv6, in four distinct answers.
fn tell_ipv6(journal: &Journal, state: Result<IpAddr, (Ipv6State, Option<IpAddr>)>, known: &[Known]) {
    let (state, address) = match state {
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

/// What waits for consent.
fn tell_unasked(config: &CheckConfig, journal: &Journal) {
    for (asked, what, flag) in [
        (config.hairpin, "hairpinning", "--hairpin"),
        (config.lifetime.is_some(), "the lifetime of an idle mapping", "--lifetime TIME"),
        (config.map, "mapping a port on the router", "--map"),
    ] {
        if !asked {
            journal.missing(what, format!("it takes your consent: {flag}"));
        }
    }
}

/// A server's host when it is a name.
fn name_of(host: &ServerHost) -> Option<&str> {
    match host {
        ServerHost::Name(name) => Some(name),
        ServerHost::Ip(_) => None,
    }
}
