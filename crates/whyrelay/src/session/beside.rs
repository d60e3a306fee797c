//! What is looked at beside a session: the NAT, where the signaling server offers behavior discovery. It has sockets of
//! its own and waits for nothing of the session's, nor the session for it; what it has not found at the end is missing.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use whyrelay_core::engine::nat_discovery::DiscoveryConfig;
use whyrelay_core::engine::server_url::{ServerHost, ServerUrl};
use whyrelay_core::host::{HostFact, Moment};
use whyrelay_core::random::Random;
use whyrelay_core::trace::event::EventKind;

use super::SessionConfig;
use crate::check::{Entry, Journal, Origin, discover, look_at_hops, origin_toward};
use crate::io::clock::Clock;
use crate::io::interfaces;
use crate::io::udp::UdpOptions;
use crate::signaling::segments;

/// A server that is slow takes longer than one that filters: nothing of ours waits that long.
const LIMIT: Duration = Duration::from_secs(10);

/// Names of servers may take this long.
const NAMES_LIMIT: Duration = Duration::from_secs(2);

/// Announced servers that are asked.
const MAX_SERVERS: usize = 2;

/// See the module. Dropping it ends what is under way.
#[derive(Debug)]
pub(super) struct Beside {
    journal: Journal,
    running: JoinSet<()>,
    asking: JoinSet<()>,
    tracing: JoinSet<()>,
}

impl Beside {
    /// Nothing yet, and where entries come out.
    pub(super) fn new(clock: Clock) -> (Self, mpsc::Receiver<Entry>) {
        let (journal, entries) = Journal::new(clock);
        (Self { journal, running: JoinSet::new(), asking: JoinSet::new(), tracing: JoinSet::new() }, entries)
    }

    /// Asks whether large packets reach the signaling server, where it is on another machine.
    pub(super) fn ask_for_segments(&mut self, server: SocketAddr) {
        let journal = self.journal.clone();
        self.asking.spawn(async move {
            if let Some(probe) = segments::probe(server).await {
                journal.fact(EventKind::HostFact { moment: Moment::During, fact: Box::new(HostFact::Probe(probe)) });
            }
        });
    }

    /// Looks for the first routers on the way to a server, once; `false`: that is under way, or done.
    pub(super) fn trace(&mut self, config: &SessionConfig, mut random: Random, server: ServerUrl) -> bool {
        if !self.tracing.is_empty() {
            return false;
        }
        let (journal, filter, mark) = (self.journal.clone(), config.interfaces.clone(), config.mark);
        self.tracing.spawn(async move {
            let Ok(found) = interfaces::list(&filter) else { return };
            // NATs are IPv4's.
            let Some(remote) = resolve(vec![server]).await.into_iter().find(SocketAddr::is_ipv4) else { return };
            let Some(origin) = origin_toward(remote, &found, mark) else { return };
            let options = UdpOptions { mark, ..UdpOptions::default() };
            look_at_hops(journal, random.fork(), (origin, remote), options, Instant::now() + LIMIT).await;
        });
        true
    }

    /// Starts to look at the NAT by these servers, once.
    pub(super) fn discover(&mut self, config: &SessionConfig, mut random: Random, servers: Vec<ServerUrl>) {
        if servers.is_empty() || !self.running.is_empty() {
            return;
        }
        let (journal, filter, mark) = (self.journal.clone(), config.interfaces.clone(), config.mark);
        self.running.spawn(async move {
            let Ok(found) = interfaces::list(&filter) else { return };
            let usable = interfaces::usable(&found, &filter);
            let remotes = resolve(servers).await;
            let mut looking = JoinSet::new();
            for ipv4 in [true, false] {
                let Some(&remote) = remotes.iter().find(|remote| remote.is_ipv4() == ipv4) else { continue };
                // Where the session may not use what the system would, it is no way of the session's.
                let preferred = origin_toward(remote, &found, mark)
                    .filter(|origin| usable.iter().any(|(address, _)| address.ip() == origin.address.ip()));
                let first = || usable.iter().find(|(address, _)| address.is_ipv4() == ipv4);
                let origin = preferred.or_else(|| {
                    first().map(|(address, interface)| Origin { address: *address, interface: interface.clone() })
                });
                let Some(origin) = origin else { continue };
                let servers = vec![remote];
                let proving = servers.clone();
                let config =
                    DiscoveryConfig { servers, proving, hairpin: false, ports: false, naming: false, patient: false };
                let options = UdpOptions { mark, ..UdpOptions::default() };
                let until = Instant::now() + LIMIT;
                looking.spawn(discover(journal.clone(), random.fork(), origin, (config, None), options, until));
            }
            while looking.join_next().await.is_some() {}
        });
    }
}

async fn resolve(servers: Vec<ServerUrl>) -> Vec<SocketAddr> {
    let mut remotes = Vec::new();
    for url in servers.iter().take(MAX_SERVERS) {
        let ips: Vec<IpAddr> = match url.host() {
            ServerHost::Ip(ip) => vec![*ip],
            ServerHost::Name(name) => {
                let lookup = tokio::net::lookup_host((name.as_str(), url.port()));
                match tokio::time::timeout(NAMES_LIMIT, lookup).await {
                    Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
                    // The session's own look-up of the same name tells of it.
                    _ => continue,
                }
            }
        };
        remotes.extend(ips.into_iter().map(|ip| SocketAddr::new(ip, url.port())));
    }
    remotes
}
