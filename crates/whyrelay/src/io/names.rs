//! Names: servers' by the system's resolver, peers' `.local` names by multicast DNS. Each look-up runs beside the
//! session and reports when it is done; nothing waits for it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mdns_sd::{HostnameResolutionEvent, ServiceDaemon};
use tokio::sync::mpsc;

/// How long a look-up may take. In a closed network resolvers answer after 10 s or never.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the name of the signaling server may take: longer than the system's resolver waits for a first server (5 s)
/// before it asks a second one.
const SIGNALING_TIMEOUT: Duration = Duration::from_secs(7);

/// How long a `.local` name is asked for: the peer answers within a round trip if it hears us at all, and RFC 6762
/// §5.2 repeats the question after 1 s.
const MDNS_TIMEOUT: Duration = Duration::from_millis(2500);

/// A look-up that ended.
#[derive(Debug)]
pub struct Resolved {
    /// The name.
    pub name: String,
    /// What it resolved to, or what the resolver said.
    pub result: Result<Vec<IpAddr>, String>,
    /// How long it took.
    pub took: Duration,
}

/// The name servers of the system's resolver (`/etc/resolv.conf`), sixteen at most; `None`: it cannot be read.
pub fn name_servers() -> Option<Vec<IpAddr>> {
    let text = std::fs::read_to_string("/etc/resolv.conf").ok()?;
    let server = |line: &str| line.trim().strip_prefix("nameserver")?.split('%').next()?.trim().parse().ok();
    Some(text.lines().filter_map(server).take(16).collect())
}

/// Looks up the name of a signaling server, which nothing goes on without.
///
/// # Errors
/// What the system's resolver said, or that it said nothing in time, with the name servers that it asks.
pub async fn look_up_signaling(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let lookup = tokio::net::lookup_host((name, port));
    let found = within(SIGNALING_TIMEOUT, lookup, name_servers().as_deref()).await?;
    Ok(found.collect())
}

async fn within<T>(
    limit: Duration,
    lookup: impl Future<Output = io::Result<T>>,
    servers: Option<&[IpAddr]>,
) -> io::Result<T> {
    let servers = servers.unwrap_or_default().iter().take(3).map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    let resolver =
        if servers.is_empty() { "the system's resolver".into() } else { format!("the resolver ({servers})") };
    match tokio::time::timeout(limit, lookup).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(io::Error::new(error.kind(), format!("{resolver} says: {error}"))),
        Err(_) => {
            let text = format!("no answer from {resolver} within {} s", limit.as_secs_f32());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
    }
}

/// Runs look-ups and sends what comes of them.
pub struct Resolver {
    results: mpsc::Sender<Resolved>,
    /// Servers' names that are being looked up, and since when.
    pending: Vec<(String, Instant)>,
    multicast: Option<ServiceDaemon>,
}

impl Resolver {
    /// A resolver that reports to `results`.
    pub fn new(results: mpsc::Sender<Resolved>) -> Self {
        Self { results, pending: Vec::new(), multicast: None }
    }

    /// Looks a server's name up.
    pub fn resolve(&mut self, name: String) {
        let results = self.results.clone();
        self.pending.push((name.clone(), Instant::now()));
        tokio::spawn(async move {
            let started = Instant::now();
            let lookup = tokio::net::lookup_host((name.as_str(), 0));
            let result = match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
                Ok(Ok(found)) => {
                    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
                    addresses.dedup();
                    if addresses.is_empty() { Err("the name has no address".into()) } else { Ok(addresses) }
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("the resolver did not answer within {} s", RESOLVE_TIMEOUT.as_secs())),
            };
            let _ = results.send(Resolved { name, result, took: started.elapsed() }).await;
        });
    }

    /// A look-up has ended.
    pub fn ended(&mut self, name: &str) {
        self.pending.retain(|(pending, _)| pending != name);
    }

    /// The servers' names that are still being looked up, and for how long; from now on nobody waits for them.
    pub fn give_up(&mut self) -> Vec<(String, Duration)> {
        self.pending.drain(..).map(|(name, since)| (name, since.elapsed())).collect()
    }

    /// Asks the local network for a `.local` name (RFC 6762).
    pub fn resolve_multicast(&mut self, name: String) {
        let started = Instant::now();
        let asked = self.ask_multicast(&name);
        let results = self.results.clone();
        tokio::spawn(async move {
            let result = match asked {
                Ok(events) => match tokio::time::timeout(MDNS_TIMEOUT, first_addresses(events)).await {
                    Ok(Some(addresses)) => Ok(addresses),
                    Ok(None) | Err(_) => Err("nobody on the local network answered for it (multicast DNS)".into()),
                },
                Err(error) => Err(format!("multicast DNS does not work here: {error}")),
            };
            let _ = results.send(Resolved { name, result, took: started.elapsed() }).await;
        });
    }

    fn ask_multicast(&mut self, name: &str) -> mdns_sd::Result<mdns_sd::Receiver<HostnameResolutionEvent>> {
        if self.multicast.is_none() {
            self.multicast = Some(ServiceDaemon::new()?);
        }
        let Some(daemon) = &self.multicast else { return Err(mdns_sd::Error::Again) };
        let timeout = u64::try_from(MDNS_TIMEOUT.as_millis()).ok();
        daemon.resolve_hostname(&format!("{}.", name.trim_end_matches('.')), timeout)
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        if let Some(daemon) = &self.multicast {
            // It may be gone already; there is nobody to tell.
            let _ = daemon.shutdown();
        }
    }
}

async fn first_addresses(events: mdns_sd::Receiver<HostnameResolutionEvent>) -> Option<Vec<IpAddr>> {
    while let Ok(event) = events.recv_async().await {
        match event {
            HostnameResolutionEvent::AddressesFound(_, addresses) => {
                let mut addresses: Vec<IpAddr> = addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr).collect();
                addresses.sort();
                return Some(addresses);
            }
            HostnameResolutionEvent::SearchTimeout(_) | HostnameResolutionEvent::SearchStopped(_) => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_resolver_that_says_no_or_nothing_is_named() {
        let servers: [IpAddr; 2] = ["192.0.2.53", "2001:db8::53"].map(|ip| ip.parse().unwrap());
        let limit = Duration::from_millis(10);
        let silent = within(limit, std::future::pending::<io::Result<()>>(), Some(&servers)).await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        assert_eq!(silent.to_string(), "no answer from the resolver (192.0.2.53, 2001:db8::53) within 0.01 s");
        let refused = within(limit, async { Err::<(), _>(io::Error::other("no such name")) }, None).await.unwrap_err();
        assert_eq!(refused.to_string(), "the system's resolver says: no such name");
    }

    #[tokio::test]
    async fn what_is_still_looked_up_at_the_end_is_known() {
        let (results, _received) = mpsc::channel(1);
        let mut resolver = Resolver::new(results);
        resolver.resolve("one.invalid".into());
        resolver.resolve("two.invalid".into());
        resolver.ended("one.invalid");
        let pending = resolver.give_up();
        assert_eq!(pending.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["two.invalid"]);
        assert!(resolver.give_up().is_empty());
    }
}
