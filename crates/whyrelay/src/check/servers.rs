//! Which servers a check may ask: those that the user named, else those that signaling announces; and their addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use whyrelay_core::engine::server_url::{ServerHost, ServerProtocol, ServerUrl};
use whyrelay_core::signal::unguessable_name;
use whyrelay_core::trace::event::{EventKind, ServerFailure, SignalingState};
use whyrelay_core::trace::measurement::Measurement;

use super::config::Credentials;
use super::journal::Journal;
use super::{CheckConfig, name_of};
use crate::io::tls::ClientTls;
use crate::signaling::{Client, Incoming, ServerClock, SignalingError, SignalingOptions, Transport, name_in};

/// Signaling and its announcement may take this long where they name the servers, without which there is nothing to
/// measure: by satellite it takes two round trips of 600 ms, and a lost SYN is sent again after a second. A check that
/// comes to nothing by then still ends within 3 s.
const SIGNALING_LIMIT: Duration = Duration::from_millis(2500);

/// Connections to signaling that are tried at once, and the time between two: 10 % loss each way leaves 3 in 10,000
/// without any that comes about.
const MAX_ATTEMPTS: usize = 5;
const ATTEMPTS_INTERVAL: Duration = Duration::from_millis(150);

/// Names may take this long; what is not resolved by then is not asked.
const NAMES_LIMIT: Duration = Duration::from_millis(1000);

/// Servers that are looked at, and addresses of each of them.
const MAX_SERVERS: usize = 16;

/// A server with its addresses.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) url: ServerUrl,
    /// One of each family at most.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) credentials: Option<Credentials>,
}

impl Known {
    /// Whether its URL is one over UDP.
    pub(crate) fn is_udp(&self) -> bool {
        self.url.transport() == whyrelay_core::trace::event::Transport::Udp
    }

    /// Where it is asked.
    pub(crate) fn remotes(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.iter().map(|ip| SocketAddr::new(*ip, self.url.port()))
    }
}

/// What there is to ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Servers {
    /// STUN and TURN servers, resolved.
    pub(crate) list: Vec<Known>,
    /// Where a whyrelay server offers behavior discovery, by its announcement.
    pub(crate) discovery: Vec<SocketAddr>,
    /// All of them were announced by a whyrelay server, so they are its own.
    pub(crate) announced_by_whyrelay: bool,
}

/// The servers to ask, resolved. Signaling is waited for where no server is named.
pub(crate) async fn known(config: &CheckConfig, journal: &Journal, tls: &ClientTls) -> Servers {
    let (mut discovery, mut announced_by_whyrelay) = (Vec::new(), false);
    let mut known: Vec<(Known, bool)> = config
        .urls
        .iter()
        .map(|url| (Known { url: url.clone(), addresses: Vec::new(), credentials: config.credentials.clone() }, false))
        .collect();
    if let Some(signal) = config.signal.as_ref().filter(|_| known.is_empty()) {
        let limit = Instant::now() + SIGNALING_LIMIT;
        let (announced, offered, is_whyrelay) = announced(signal, config, journal, tls, limit).await;
        discovery = offered;
        announced_by_whyrelay = is_whyrelay && !announced.is_empty();
        known.extend(announced.into_iter().map(|known| (known, true)));
    }
    known.truncate(MAX_SERVERS);
    for (server, announced) in &known {
        journal.fact(EventKind::ServerKnown { url: server.url.to_string(), announced: *announced });
    }
    let list = resolve(known.into_iter().map(|(server, _)| server).collect(), journal).await;
    // Most often at the host of a server that is resolved already.
    let mut resolved = Vec::new();
    for url in discovery.iter().take(MAX_SERVERS) {
        let of_host = |known: &&Known| known.url.host() == url.host();
        let addresses = match url.host() {
            ServerHost::Ip(ip) => vec![*ip],
            ServerHost::Name(_) => list.iter().find(of_host).map(|known| known.addresses.clone()).unwrap_or_default(),
        };
        resolved.extend(addresses.into_iter().map(|ip| SocketAddr::new(ip, url.port())));
    }
    Servers { list, discovery: resolved, announced_by_whyrelay }
}

/// Looks whether signaling works, where nothing waits for what it announces.
pub(crate) async fn look_at_signaling(config: CheckConfig, journal: Journal, tls: ClientTls, until: Instant) {
    if let Some(signal) = &config.signal {
        announced(signal, &config, &journal, &tls, until).await;
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
    let connecting = first_to_come(|| async {
        let mut name = [0; 16];
        getrandom::fill(&mut name).map_err(|_| ("the system gives no random bytes".to_owned(), false))?;
        let mut options = SignalingOptions::new(signal, "check", "nobody");
        // A room of our own: nobody is disturbed.
        options.room = unguessable_name(name);
        if !config.tls_roots.is_empty() {
            options.roots = Some(tls.roots().await.map_err(|error| (error.to_string(), false))?);
        }
        Client::connect(options).await.map_err(|error: SignalingError| match error {
            SignalingError::Name { source, .. } => (source.to_string(), true),
            error => (chain(&error), false),
        })
    });
    // Beside it: so that a resolver that does not answer is told from a server that does not.
    let name = name_in(signal).ok().flatten();
    let looking_up = name.clone().map(|name| tokio::spawn(tokio::net::lookup_host((name, 0))));
    let mut client = match tokio::time::timeout_at(until.into(), connecting).await {
        Ok(Ok(client)) => client,
        Ok(Err((detail, is_unresolved))) => return fail(detail, name.as_deref().filter(|_| is_unresolved)),
        Err(_) => {
            let waited = started.elapsed().as_secs_f64();
            let is_found = looking_up.is_none_or(|looking_up| looking_up.is_finished());
            return match name.filter(|_| !is_found) {
                Some(name) => fail(format!("the resolver did not answer within {waited:.1} s"), Some(&name)),
                None => fail(format!("the server did not answer within {waited:.1} s"), None),
            };
        }
    };
    let by = match client.server().transport {
        Transport::LongPoll => "long-poll",
        _ => "websocket",
    };
    journal.fact(EventKind::Signaling { server: server.clone(), state: SignalingState::Connected { by: by.into() } });
    match client.server().clock {
        Some(ServerClock { offset_ms, precision_ms }) => {
            journal.measured(Measurement::Clock { server: server.clone(), offset_ms, precision_ms });
        }
        None => journal.missing(format!("the clock of {server}"), "its answer had no Date"),
    }
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
                            known.push(Known { url, addresses: Vec::new(), credentials });
                        }
                        Err(error) => {
                            let (message, detail) = ("servers".to_owned(), error.to_string());
                            journal.fact(EventKind::SignalRefused { message, detail });
                        }
                    }
                }
            }
        }
        _ => journal.missing("servers of the signaling server", "it announces none, or is no whyrelay server"),
    }
    let is_whyrelay = client.server().whyrelay.is_some();
    client.close(Duration::from_millis(50)).await;
    (known, discovery, is_whyrelay)
}

/// Tries again beside what has not come to an end, and answers what does first. The system sends a lost SYN again after a
/// second, which is all the time that there is.
async fn first_to_come<T, F: Future<Output = T>>(attempt: impl Fn() -> F) -> T {
    let mut attempts = FuturesUnordered::new();
    attempts.push(attempt());
    loop {
        tokio::select! {
            Some(done) = attempts.next() => return done,
            () = tokio::time::sleep(ATTEMPTS_INTERVAL), if attempts.len() < MAX_ATTEMPTS => attempts.push(attempt()),
        }
    }
}

/// Looks all names up at once.
async fn resolve(servers: Vec<Known>, journal: &Journal) -> Vec<Known> {
    let mut names: Vec<String> =
        servers.iter().filter_map(|server| name_of(server.url.host()).map(str::to_owned)).collect();
    names.sort_unstable();
    names.dedup();
    let looked_up = join_all(names.into_iter().map(|name| async move {
        let started = Instant::now();
        let lookup = tokio::net::lookup_host((name.as_str(), 0));
        let result = match tokio::time::timeout(NAMES_LIMIT, lookup).await {
            Ok(Ok(found)) => Ok(found.map(|address| address.ip()).collect::<Vec<_>>()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the resolver did not answer within {} s", NAMES_LIMIT.as_secs())),
        };
        (name, result, started.elapsed())
    }))
    .await;
    for (name, result, took) in &looked_up {
        let took_us = micros(*took);
        let addresses = result.clone().unwrap_or_default();
        let error = match result {
            Ok(found) if found.is_empty() => Some("the name has no address".to_owned()),
            Ok(_) => None,
            Err(error) => Some(error.clone()),
        };
        journal.fact(EventKind::NameResolved { name: name.clone(), addresses, took_us, error });
    }
    let mut resolved = Vec::new();
    for mut server in servers {
        let addresses = match server.url.host() {
            ServerHost::Ip(ip) => vec![*ip],
            ServerHost::Name(name) => {
                let found = looked_up.iter().find(|(known, ..)| known == name);
                match found {
                    Some((_, Ok(addresses), _)) => addresses.clone(),
                    Some((_, Err(detail), _)) => {
                        let failure = ServerFailure::Unresolved { detail: detail.clone() };
                        let (url, method) = (server.url.to_string(), "Binding".to_owned());
                        journal.fact(EventKind::ServerFailed { server: url, local: None, method, failure });
                        continue;
                    }
                    None => continue,
                }
            }
        };
        let first = |ipv4: bool| addresses.iter().find(|ip| ip.is_ipv4() == ipv4).copied();
        server.addresses = [first(true), first(false)].into_iter().flatten().collect();
        resolved.push(server);
    }
    resolved
}

/// Time-limited credentials can be judged without a server.
pub(crate) fn look_at_credentials(config: &CheckConfig, journal: &Journal, known: &[Known]) {
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

    use super::*;

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
        assert!(tokio::time::timeout(ATTEMPTS_INTERVAL * 10, silent).await.is_err());
        assert_eq!(begun.get(), MAX_ATTEMPTS);
    }
}
