//! Which servers a check may ask: those that the user named, else those that signaling announces; and their addresses.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use whyrelay_core::engine::server_url::{ServerHost, ServerProtocol, ServerUrl};
use whyrelay_core::signal::unguessable_name;
use whyrelay_core::trace::event::{EventKind, ServerFailure, SignalingState};
use whyrelay_core::trace::measurement::Measurement;

use super::asked::STOPPED;
use super::config::Credentials;
use super::journal::Journal;
use super::{CheckConfig, name_of};
use crate::io::interfaces;
use crate::io::tls::ClientTls;
use crate::signaling::{
    Client, Incoming, ServerClock, SignalingError, SignalingOptions, Transport, addresses_in, name_in, unless_refused,
};

/// The times between two connections to signaling that are tried at once: 10 % loss each way leaves 3 in 10,000 without any
/// that comes about, and each loss costs no more than the time until the next.
const ATTEMPT_INTERVALS: [Duration; 5] = [
    Duration::from_millis(80),
    Duration::from_millis(80),
    Duration::from_millis(120),
    Duration::from_millis(160),
    Duration::from_millis(200),
];

/// Addresses of signaling of which the host is asked.
const MAX_ADDRESSES: usize = 5;

/// Names that are not resolved after this part of the check's time are not asked: what is behind them needs the rest.
const NAMES_PART: u32 = 3;

/// What is known is looked at when so long nothing was added to it: names are looked up side by side, and mostly found at
/// about the same time.
const SETTLE: Duration = Duration::from_millis(100);

/// Servers that are looked at; of those beyond, as many are named, and the rest counted.
const MAX_SERVERS: usize = 16;

/// A server with its addresses.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) url: ServerUrl,
    /// Which of all servers it is, in the order in which they were named: names are not resolved in that order.
    pub(crate) place: usize,
    /// One of each family at most.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) credentials: Option<Credentials>,
}

impl Known {
    /// The first, until it is counted.
    fn unresolved(url: ServerUrl, credentials: Option<Credentials>) -> Self {
        Self { url, place: 0, addresses: Vec::new(), credentials }
    }

    /// Whether its URL is one over UDP.
    pub(crate) fn is_udp(&self) -> bool {
        self.url.transport() == whyrelay_core::trace::event::Transport::Udp
    }

    /// Where it is asked.
    pub(crate) fn remotes(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.iter().map(|ip| SocketAddr::new(*ip, self.url.port()))
    }
}

/// Servers that have become known together.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    /// STUN and TURN servers, resolved.
    pub(crate) list: Vec<Known>,
    /// Where a whyrelay server offers behavior discovery, by its announcement.
    pub(crate) discovery: Vec<SocketAddr>,
}

/// A name, what came of looking it up, and how long that took.
type LookedUp = (String, Result<Vec<IpAddr>, String>, Duration);

/// The servers to ask, which become known one after the other: those with an address at once, the others when their names
/// are resolved. None waits for a resolver that is asked for another.
pub(crate) struct Naming {
    journal: Journal,
    /// All of them were announced by a whyrelay server, so they are its own.
    pub(crate) announced_by_whyrelay: bool,
    /// Where that one offers behavior discovery, as far as it was not handed out.
    discovery: Vec<ServerUrl>,
    looking_up: FuturesUnordered<Pin<Box<dyn Future<Output = LookedUp> + Send>>>,
    /// Servers whose names are looked up.
    waiting: Vec<Known>,
    /// Servers that are to be handed out, and when the last was added.
    ready: Vec<Known>,
    last: Instant,
}

/// The servers to ask. Signaling is waited for, until `limit`, where no server is named; names, until `until` at most.
pub(crate) async fn naming(
    config: &CheckConfig,
    journal: &Journal,
    tls: &ClientTls,
    (limit, until): (Instant, Instant),
) -> Naming {
    let (mut discovery, mut announced_by_whyrelay) = (Vec::new(), false);
    let mut known: Vec<(Known, bool)> =
        config.urls.iter().map(|url| (Known::unresolved(url.clone(), config.credentials.clone()), false)).collect();
    if let Some(signal) = config.signal.as_ref().filter(|_| known.is_empty()) {
        let (announced, offered, is_whyrelay) = announced(signal, config, journal, tls, limit).await;
        discovery = offered;
        discovery.truncate(MAX_SERVERS);
        announced_by_whyrelay = is_whyrelay && !announced.is_empty();
        known.extend(announced.into_iter().map(|known| (known, true)));
    }
    for (server, announced) in known.iter().take(MAX_SERVERS) {
        journal.fact(EventKind::ServerKnown { url: server.url.to_string(), announced: *announced });
    }
    tell_left_out(journal, known.iter().skip(MAX_SERVERS).map(|(server, _)| server));
    known.truncate(MAX_SERVERS);
    let servers: Vec<Known> = known.into_iter().map(|(server, _)| server).collect();
    look_at_credentials(config, journal, &servers);
    let mut naming = Naming::new(journal.clone(), servers, names_limit(config.time, Instant::now(), until));
    (naming.discovery, naming.announced_by_whyrelay) = (discovery, announced_by_whyrelay);
    naming
}

/// How long names are waited for. Signaling that was slow has left them less.
fn names_limit(time: Duration, now: Instant, until: Instant) -> Duration {
    (time / NAMES_PART).min(until.saturating_duration_since(now))
}

/// Says of servers that there are too many.
fn tell_left_out<'a>(journal: &Journal, servers: impl Iterator<Item = &'a Known> + Clone) {
    let why = format!("a check looks at {MAX_SERVERS} servers: make another for the rest");
    for server in servers.clone().take(MAX_SERVERS) {
        journal.missing(server.url.to_string(), why.as_str());
    }
    let more = servers.skip(MAX_SERVERS).count();
    if more > 0 {
        journal.missing(format!("{more} more servers"), why);
    }
}

impl Naming {
    /// Looks up all names at once, each for at most `limit`.
    fn new(journal: Journal, servers: Vec<Known>, limit: Duration) -> Self {
        let (mut ready, mut waiting, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (place, mut server) in servers.into_iter().enumerate() {
            server.place = place;
            match server.url.host() {
                ServerHost::Ip(ip) => {
                    server.addresses = vec![*ip];
                    ready.push(server);
                }
                ServerHost::Name(name) => {
                    names.push(name.clone());
                    waiting.push(server);
                }
            }
        }
        names.sort_unstable();
        names.dedup();
        let looking_up = FuturesUnordered::new();
        for name in names {
            let looking: Pin<Box<dyn Future<Output = LookedUp> + Send>> = Box::pin(look_up(name, limit));
            looking_up.push(looking);
        }
        let (discovery, last) = (Vec::new(), Instant::now());
        Self { journal, announced_by_whyrelay: false, discovery, looking_up, waiting, ready, last }
    }

    /// The next servers that are known; `None`: there are no more. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Servers> {
        while !self.looking_up.is_empty() {
            let settled = self.last + SETTLE;
            tokio::select! {
                biased;
                Some(looked_up) = self.looking_up.next() => self.looked_up(looked_up),
                () = tokio::time::sleep_until(settled.into()), if !self.ready.is_empty() => break,
            }
        }
        if self.ready.is_empty() {
            return None;
        }
        let mut list = std::mem::take(&mut self.ready);
        list.sort_by_key(|server| server.place);
        let mut discovery = Vec::new();
        // Most often at the host of a server that is resolved now.
        self.discovery.retain(|url| {
            let of_host = |known: &&Known| known.url.host() == url.host();
            let addresses = match url.host() {
                ServerHost::Ip(ip) => vec![*ip],
                ServerHost::Name(_) => {
                    list.iter().find(of_host).map(|known| known.addresses.clone()).unwrap_or_default()
                }
            };
            discovery.extend(addresses.iter().map(|ip| SocketAddr::new(*ip, url.port())));
            addresses.is_empty()
        });
        Some(Servers { list, discovery })
    }

    /// Says of servers whose names are still looked up that the check was stopped.
    pub(crate) fn stopped(&self) {
        for server in &self.waiting {
            self.journal.missing(format!("{}: its address, and whether it is reached", server.url), STOPPED);
        }
    }

    fn looked_up(&mut self, (name, result, took): LookedUp) {
        let error = match &result {
            Ok(found) if found.is_empty() => Some("the name has no address".to_owned()),
            Ok(_) => None,
            Err(error) => Some(error.clone()),
        };
        let (took_us, addresses) = (micros(took), result.unwrap_or_default());
        let is_asked = |server: &mut Known| name_of(server.url.host()) == Some(name.as_str());
        let servers: Vec<Known> = self.waiting.extract_if(.., is_asked).collect();
        let (known, failed) = (addresses.clone(), error.clone());
        self.journal.fact(EventKind::NameResolved { name, addresses: known, took_us, error: failed });
        for mut server in servers {
            if let Some(detail) = &error {
                let failure = ServerFailure::Unresolved { detail: detail.clone() };
                let (url, method) = (server.url.to_string(), "Binding".to_owned());
                self.journal.fact(EventKind::ServerFailed { server: url, local: None, method, failure });
                continue;
            }
            let first = |ipv4: bool| addresses.iter().find(|ip| ip.is_ipv4() == ipv4).copied();
            server.addresses = [first(true), first(false)].into_iter().flatten().collect();
            let others: Vec<String> =
                addresses.iter().filter(|ip| !server.addresses.contains(ip)).map(ToString::to_string).collect();
            if !others.is_empty() {
                let what = format!("{} at {}", server.url, others.join(", "));
                self.journal.missing(what, "of a name's addresses one of each family is asked");
            }
            self.ready.push(server);
            self.last = Instant::now();
        }
    }
}

/// Looks a name up. What is not known after `limit` will not be asked.
async fn look_up(name: String, limit: Duration) -> LookedUp {
    let started = Instant::now();
    let result = match tokio::time::timeout(limit, tokio::net::lookup_host((name.as_str(), 0))).await {
        Ok(Ok(found)) => {
            let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            addresses.dedup();
            Ok(addresses)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the resolver did not answer within {} s", (limit.as_secs_f64() * 10.0).round() / 10.0)),
    };
    (name, result, started.elapsed())
}

/// Looks whether signaling works, where nothing waits for what it announces.
pub(crate) async fn look_at_signaling(config: CheckConfig, journal: Journal, tls: ClientTls, until: Instant) {
    if let Some(signal) = &config.signal {
        announced(signal, &config, &journal, &tls, until).await;
    }
}

/// Why no connection to signaling came about.
#[derive(Debug, PartialEq, Eq)]
enum Failed {
    /// The resolver does not know its name.
    Unresolved(String),
    /// Nobody answered in the time that a connection has, whatever the check's is.
    Silent,
    /// Anything else.
    Otherwise(String),
}

impl From<SignalingError> for Failed {
    fn from(error: SignalingError) -> Self {
        match error {
            SignalingError::Name { source, .. } => Self::Unresolved(source.to_string()),
            SignalingError::Unreachable { source, .. } if source.kind() == std::io::ErrorKind::TimedOut => Self::Silent,
            error => Self::Otherwise(chain(&error)),
        }
    }
}

/// What the signaling server announces.
async fn announced(
    signal: &str,
    config: &CheckConfig,
    journal: &Journal,
    tls: &ClientTls,
    until: Instant,
) -> (Vec<Known>, Vec<ServerUrl>, bool) {
    // Shown without what a URL may hide.
    let server = signal.split(['?', '#']).next().unwrap_or_default().to_owned();
    let started = Instant::now();
    let fail = |detail: String, unresolved: Option<&str>| {
        if let Some(name) = unresolved {
            let (name, error) = (name.to_owned(), Some(detail.clone()));
            let took_us = micros(started.elapsed());
            journal.fact(EventKind::NameResolved { name, addresses: Vec::new(), took_us, error });
        }
        let server = server.clone();
        journal.fact(EventKind::Signaling { server, state: SignalingState::Failed { detail } });
        (Vec::new(), Vec::new(), false)
    };
    let made: Arc<OnceLock<Duration>> = Arc::default();
    let connecting = first_to_come(|| async {
        let mut name = [0; 16];
        getrandom::fill(&mut name).map_err(|_| Failed::Otherwise("the system gives no random bytes".to_owned()))?;
        let mut options = SignalingOptions::new(signal, "check", "nobody");
        options.made = Arc::clone(&made);
        // A room of our own: nobody is disturbed.
        options.room = unguessable_name(name);
        if !config.tls_roots.is_empty() {
            options.roots = Some(tls.roots().await.map_err(|error| Failed::Otherwise(error.to_string()))?);
        }
        unless_refused(async || Client::connect(options.clone()).await).await.map_err(Failed::from)
    });
    // Beside it: so that a resolver that does not answer is told from a server that does not.
    let name = name_in(signal).ok().flatten();
    if name.is_none() {
        tell_connecting(journal, signal, std::iter::empty());
    }
    let looking_up = name.clone().map(|name| {
        let (journal, signal) = (journal.clone(), signal.to_owned());
        tokio::spawn(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name, 0)).await?.collect();
            tell_connecting(&journal, &signal, found.iter().map(SocketAddr::ip));
            std::io::Result::Ok(found)
        })
    });
    let mut client = match tokio::time::timeout_at(until.into(), connecting).await {
        Ok(Ok(client)) => client,
        Ok(Err(Failed::Unresolved(detail))) => return fail(detail, name.as_deref()),
        Ok(Err(Failed::Otherwise(detail))) => {
            // Perhaps this host's own firewall refuses them.
            let found = match looking_up {
                Some(looking_up) => looking_up.await.ok().and_then(Result::ok).unwrap_or_default(),
                None => Vec::new(),
            };
            tell_connections(journal, signal, &found.iter().map(SocketAddr::ip).collect::<Vec<_>>());
            return fail(detail, None);
        }
        Ok(Err(Failed::Silent)) | Err(_) => {
            let (took, waited) = (started.elapsed(), started.elapsed().as_secs_f64());
            if let Some(why) = made.get().and_then(|round_trip| too_slow(signal, *round_trip, took)) {
                journal.missing(format!("signaling by {server}"), format!("{}: {why}", journal.no_time()));
                return (Vec::new(), Vec::new(), false);
            }
            let is_found = looking_up.as_ref().is_none_or(tokio::task::JoinHandle::is_finished);
            if let Some(looking_up) = looking_up.filter(|_| is_found) {
                let found = looking_up.await.ok().and_then(Result::ok).into_iter().flatten();
                tell_connections(journal, signal, &found.map(|found| found.ip()).collect::<Vec<_>>());
            } else if is_found {
                tell_connections(journal, signal, &[]);
            }
            return match name.filter(|_| !is_found) {
                Some(name) => fail(format!("the resolver did not answer within {waited:.1} s"), Some(&name)),
                None if made.get().is_some() => {
                    fail(format!("the server took the connection and did not answer within {waited:.1} s"), None)
                }
                None => fail(format!("the server did not answer within {waited:.1} s"), None),
            };
        }
    };
    let by = match client.server().transport {
        Transport::LongPoll => "long-poll",
        _ => "websocket",
    };
    let state = SignalingState::Connected { by: by.into(), seen_as: client.server().seen_as };
    journal.fact(EventKind::Signaling { server: server.clone(), state });
    tell_other_way(config, journal, client.server().local.ip());
    if let Some(looking_up) = looking_up {
        // Found already, as the name was for the connection; the resolver may be slow for this look-up alone.
        let found = tokio::time::timeout(SETTLE, looking_up).await.ok().and_then(Result::ok).and_then(Result::ok);
        tell_other_family(journal, &server, client.server().address.ip(), found.into_iter().flatten());
    }
    match client.server().clock {
        Some(ServerClock { offset_ms, precision_ms }) => {
            journal.measured(Measurement::Clock { server: server.clone(), offset_ms, precision_ms });
        }
        None => journal.missing(format!("the clock of {server}"), "its answer had no Date"),
    }
    let is_whyrelay = client.server().whyrelay.is_some();
    let (mut known, mut discovery) = (Vec::new(), Vec::new());
    let announcement = async {
        loop {
            match client.recv().await {
                Some(Incoming::Servers(announcement)) => return Some(announcement),
                Some(_) => {}
                None => return None,
            }
        }
    };
    match tokio::time::timeout_at(until.into(), announcement).await {
        Ok(Some(announcement)) => {
            discovery.extend(announcement.discovery.iter().filter_map(|url| url.parse().ok()));
            for server in announcement.servers {
                let credentials = server.username.zip(server.credential);
                for url in &server.urls {
                    match url.parse::<ServerUrl>() {
                        Ok(url) => {
                            let credentials = credentials.clone().map(|(user, word)| Credentials::new(user, word));
                            known.push(Known::unresolved(url, credentials));
                        }
                        Err(error) => {
                            let (message, detail) = ("servers".to_owned(), error.to_string());
                            journal.fact(EventKind::SignalRefused { message, detail, ours: false });
                        }
                    }
                }
            }
        }
        Err(_) if is_whyrelay => journal.missing("servers of the signaling server", journal.no_time()),
        _ => journal.missing("servers of the signaling server", "it announces none, or is no whyrelay server"),
    }
    client.close(Duration::from_millis(50)).await;
    (known, discovery, is_whyrelay)
}

/// Why signaling whose round trips take so long has told nothing in the time that was waited: it takes some of them, and no
/// server is to blame for that. `None`: it would have had the time.
fn too_slow(signal: &str, round_trip: Duration, waited: Duration) -> Option<String> {
    // TCP, WebSocket, and what is announced; TLS is one more.
    let trips = if signal.starts_with("https:") || signal.starts_with("wss:") { 4 } else { 3 };
    let seconds = round_trip.as_secs_f64();
    // Twice: a packet that is lost is sent again later than that.
    (round_trip * trips * 2 >= waited).then(|| {
        format!("the network is slow, a packet to it takes {seconds:.1} s there and back, and it takes {trips} of that")
    })
}

/// Has the host look for the packets by which connections to signaling begin. `found`: the addresses of its name.
fn tell_connecting(journal: &Journal, signal: &str, found: impl Iterator<Item = IpAddr>) {
    addresses_in(signal, &found.collect::<Vec<_>>())
        .into_iter()
        .take(MAX_ADDRESSES)
        .for_each(|remote| journal.connecting(remote));
}

/// Has the host tell what its firewall does to connections to signaling, which leave as the system sends them. `found`:
/// the addresses of its name.
fn tell_connections(journal: &Journal, signal: &str, found: &[IpAddr]) {
    for remote in addresses_in(signal, found).into_iter().take(MAX_ADDRESSES) {
        if let Some(origin) = super::local::origin_toward(remote, &[], None) {
            journal.not_connected(origin.address, remote);
        }
    }
}

/// Says of signaling that it leaves by what was not chosen: it goes as the system sends it.
fn tell_other_way(config: &CheckConfig, journal: &Journal, local: IpAddr) {
    if config.interfaces.is_empty() || local.is_loopback() {
        return;
    }
    let Ok(found) = interfaces::list(&config.interfaces) else { return };
    if !interfaces::usable(&found, &config.interfaces).iter().any(|(address, _)| address.ip() == local) {
        let what = "signaling from the interfaces and addresses that were chosen";
        journal.missing(what, format!("it leaves from {local}, as the system chooses"));
    }
}

/// Says of signaling that only one address family of its name was asked.
fn tell_other_family(journal: &Journal, server: &str, asked: IpAddr, found: impl Iterator<Item = SocketAddr>) {
    let mut others: Vec<String> =
        found.map(|found| found.ip()).filter(|ip| ip.is_ipv4() != asked.is_ipv4()).map(|ip| ip.to_string()).collect();
    others.dedup();
    if !others.is_empty() {
        let family = if asked.is_ipv4() { "IPv6" } else { "IPv4" };
        let what = format!("{server} over {family}, at {}", others.join(", "));
        journal.missing(what, format!("of its name's two families the one that answers first is used: {asked}"));
    }
}

/// Tries again beside what has not come to an end, and answers what does first. The system sends a lost SYN again after a
/// second, which is all the time that there is.
async fn first_to_come<T, F: Future<Output = T>>(attempt: impl Fn() -> F) -> T {
    let mut attempts = FuturesUnordered::new();
    attempts.push(attempt());
    let mut intervals = ATTEMPT_INTERVALS.into_iter();
    let mut next = intervals.next().map(|interval| Instant::now() + interval);
    loop {
        tokio::select! {
            Some(done) = attempts.next() => return done,
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now).into()), if next.is_some() => {
                attempts.push(attempt());
                next = intervals.next().map(|interval| Instant::now() + interval);
            }
        }
    }
}

/// Time-limited credentials can be judged without a server.
fn look_at_credentials(config: &CheckConfig, journal: &Journal, known: &[Known]) {
    for server in known {
        let Some(credentials) = &server.credentials else { continue };
        let is_turn = server.url.protocol() == ServerProtocol::Turn;
        if let (Some(expires_s), true) = (credentials.expires_s(), is_turn) {
            let signed = config.secret.as_ref().map(|secret| credentials.are_signed_with(secret));
            let server = server.url.to_string();
            let made_here = credentials.made_here;
            journal.measured(Measurement::TimedCredentials { server, expires_s, signed, made_here });
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// An error with its sources on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::journal::Entry;
    use super::*;
    use crate::io::clock::Clock;

    fn known(url: &str) -> Known {
        Known::unresolved(url.parse().unwrap(), None)
    }

    #[test]
    fn a_connection_that_nobody_answered_in_its_time_is_silence() {
        let unreachable =
            |source| Failed::from(SignalingError::Unreachable { authority: "signal.example:443".to_owned(), source });
        assert_eq!(unreachable(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer")), Failed::Silent);
        let refused = unreachable(std::io::ErrorKind::ConnectionRefused.into());
        assert!(
            matches!(refused, Failed::Otherwise(ref detail) if detail.contains("signal.example:443")),
            "{refused:?}"
        );
    }

    fn missing(entries: &mut tokio::sync::mpsc::Receiver<Entry>) -> Vec<String> {
        let facts = std::iter::from_fn(|| entries.try_recv().ok());
        let missing = facts.filter_map(|entry| match entry {
            Entry::Fact(_, EventKind::NotMeasured { what, why }) => Some(format!("{what}: {why}")),
            _ => None,
        });
        missing.collect()
    }

    /// The look-up of the second never ends.
    #[tokio::test]
    async fn a_server_that_is_known_does_not_wait_for_a_name_that_is_not() {
        let (journal, mut entries) = Journal::new(Clock::start());
        let servers = vec![known("stun:192.0.2.1:3478"), known("turn:silent.example")];
        let mut naming = Naming::new(journal, servers, Duration::from_secs(60));
        naming.looking_up = FuturesUnordered::new();
        naming.looking_up.push(Box::pin(std::future::pending()));
        let first = naming.next().await.expect("it has an address");
        assert_eq!(first.list.len(), 1);
        assert_eq!(first.list[0].addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert!(tokio::time::timeout(SETTLE * 3, naming.next()).await.is_err(), "the other may still be found");
        naming.looked_up(("silent.example".into(), Ok(vec!["192.0.2.2".parse().unwrap()]), Duration::ZERO));
        let second = naming.next().await.expect("it was found");
        assert_eq!(second.list[0].url.to_string(), "turn:silent.example:3478");
        naming.looking_up.clear();
        assert!(naming.next().await.is_none());
        assert!(missing(&mut entries).is_empty());
    }

    #[tokio::test]
    async fn servers_that_become_known_together_are_in_the_order_in_which_they_were_named() {
        let (journal, _entries) = Journal::new(Clock::start());
        let servers = ["stun:one.example", "stun:192.0.2.1", "stun:two.example"].map(known).to_vec();
        let mut naming = Naming::new(journal, servers, Duration::from_secs(60));
        naming.looking_up.clear();
        for (name, ip) in [("two.example", "192.0.2.3"), ("one.example", "192.0.2.2")] {
            naming.looked_up((name.into(), Ok(vec![ip.parse().unwrap()]), Duration::ZERO));
        }
        let servers = naming.next().await.expect("all are found").list;
        let hosts: Vec<String> = servers.iter().map(|server| server.url.host().to_string()).collect();
        assert_eq!(hosts, ["one.example", "192.0.2.1", "two.example"]);
        assert!(servers.is_sorted_by_key(|server| server.place));
    }

    #[test]
    fn names_are_waited_for_no_longer_than_anything_is_asked() {
        let (began, time) = (Instant::now(), Duration::from_secs(3));
        let after = |ms| names_limit(time, began + Duration::from_millis(ms), began + Duration::from_millis(2200));
        assert_eq!(after(0), Duration::from_secs(1));
        assert_eq!(after(1900), Duration::from_millis(300), "the announcement was slow");
        assert_eq!(after(2500), Duration::ZERO);
    }

    #[tokio::test]
    async fn addresses_that_are_not_asked_and_servers_that_are_too_many_are_said_to_be_so() {
        let (journal, mut entries) = Journal::new(Clock::start());
        let mut naming = Naming::new(journal.clone(), vec![known("stun:many.example")], Duration::from_secs(60));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let addresses = vec![ip("192.0.2.1"), ip("192.0.2.2"), ip("2001:db8::1"), ip("2001:db8::2")];
        naming.looking_up.clear();
        naming.looked_up(("many.example".into(), Ok(addresses), Duration::ZERO));
        let servers = naming.next().await.expect("it was found");
        assert_eq!(servers.list[0].addresses, [ip("192.0.2.1"), ip("2001:db8::1")]);
        let why = "of a name's addresses one of each family is asked";
        assert_eq!(missing(&mut entries), [format!("stun:many.example:3478 at 192.0.2.2, 2001:db8::2: {why}")]);
        let left: Vec<Known> = (1..=20).map(|n| known(&format!("stun:192.0.2.{n}"))).collect();
        tell_left_out(&journal, left.iter());
        let told = missing(&mut entries);
        assert_eq!(told.len(), MAX_SERVERS + 1);
        assert_eq!(told[0], "stun:192.0.2.1:3478: a check looks at 16 servers: make another for the rest");
        assert!(told[MAX_SERVERS].starts_with("4 more servers: "), "{told:?}");
        tell_left_out(&journal, [].iter());
        assert!(missing(&mut entries).is_empty());
    }

    #[test]
    fn a_family_of_signaling_that_is_not_asked_is_said_to_be_so() {
        let (journal, mut entries) = Journal::new(Clock::start());
        let told = |found: &[&str]| {
            let found = found.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0));
            tell_other_family(&journal, "http://signal.example", "192.0.2.1".parse().unwrap(), found);
        };
        told(&["192.0.2.1", "192.0.2.2"]);
        assert!(missing(&mut entries).is_empty());
        told(&["2001:db8::1", "2001:db8::1", "192.0.2.1"]);
        let expected = "http://signal.example over IPv6, at 2001:db8::1: of its name's two families the one that answers first is used: 192.0.2.1";
        assert_eq!(missing(&mut entries), [expected]);
    }

    #[test]
    fn signaling_that_had_no_time_for_its_round_trips_is_told_from_one_that_does_not_answer() {
        let ms = Duration::from_millis;
        let is_slow = |url: &str, round_trip, waited| too_slow(url, ms(round_trip), ms(waited)).is_some();
        // By satellite, with a loss; and TLS takes one round trip more.
        assert!(is_slow("http://signal.example", 600, 2500) && !is_slow("http://signal.example", 350, 2500));
        assert!(is_slow("https://signal.example", 350, 2500));
        // Who was given the time had it.
        assert!(!is_slow("http://signal.example", 600, 9500) && !is_slow("http://signal.example", 0, 2500));
    }

    #[tokio::test]
    async fn an_attempt_that_hangs_is_tried_again_beside_it_and_one_that_ends_is_not() {
        let begun = Cell::new(0);
        // The third comes through.
        let answer = first_to_come(|| {
            begun.set(begun.get() + 1);
            let number = begun.get();
            async move {
                if number != 3 {
                    std::future::pending::<()>().await;
                }
                number
            }
        });
        assert_eq!(answer.await, 3);
        assert_eq!(begun.replace(0), 3);
        let refused = first_to_come(|| {
            begun.set(begun.get() + 1);
            async { Err::<(), _>("refused") }
        });
        assert_eq!((refused.await, begun.get()), (Err("refused"), 1));
        let silent = first_to_come(|| {
            begun.set(begun.get() + 1);
            std::future::pending::<()>()
        });
        begun.set(0);
        let longer = ATTEMPT_INTERVALS.iter().sum::<Duration>() * 2;
        assert!(tokio::time::timeout(longer, silent).await.is_err());
        assert_eq!(begun.get(), 1 + ATTEMPT_INTERVALS.len());
    }
}
