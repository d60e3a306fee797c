//! Names: servers' by the system's resolver, peers' `.local` names by multicast DNS. Each look-up runs beside the
//! session and reports when it is done; nothing waits for it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mdns_sd::{HostnameResolutionEvent, ServiceDaemon};
use tokio::sync::mpsc;

/// How long a look-up may take. In a closed network resolvers answer after 10 s or never.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

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

/// Runs look-ups and sends what comes of them.
pub struct Resolver {
    results: mpsc::Sender<Resolved>,
    multicast: Option<ServiceDaemon>,
}

impl Resolver {
    /// A resolver that reports to `results`.
    pub fn new(results: mpsc::Sender<Resolved>) -> Self {
        Self { results, multicast: None }
    }

    /// Looks a server's name up.
    pub fn resolve(&self, name: String) {
        let results = self.results.clone();
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
