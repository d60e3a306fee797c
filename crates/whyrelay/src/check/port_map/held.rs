//! A mapping for the length of a session: made, renewed, and taken back.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use whyrelay_core::engine::port_mapping::{Input, LEASE};
use whyrelay_core::random::Random;
use whyrelay_core::trace::measurement::{Measurement, PortMapperProtocol};

use super::super::journal::Journal;
use super::super::nat::Origin;
use super::{Driver, Said};
use crate::io::udp::UdpOptions;

/// How long making a mapping for a session may take.
const HOLD_LIMIT: Duration = Duration::from_secs(5);

/// What a session is told that ends before there is a mapping.
const INTERRUPTED: &str = "interrupted before it was made";

/// A mapping that stands until it is released: it is renewed meanwhile.
pub(crate) struct HeldMapping {
    /// Where it is reached from outside.
    pub(crate) external: SocketAddr,
    keeping: tokio::task::JoinHandle<bool>,
    release: oneshot::Sender<()>,
}

/// What is kept.
struct Kept {
    driver: Driver,
    protocol: PortMapperProtocol,
    local: SocketAddr,
    external: SocketAddr,
}

/// Maps the port of a socket of ours by the router. `interrupted`: from then on none is wanted.
///
/// # Errors
/// Why there is none; then none is left either, as far as the router answers.
pub(crate) async fn hold(
    journal: Journal,
    random: Random,
    socket: (SocketAddr, String),
    gateway: Ipv4Addr,
    options: UdpOptions,
    interrupted: impl Future<Output = ()>,
) -> Result<HeldMapping, String> {
    hold_renewing(journal, random, socket, gateway, options, LEASE / 2, interrupted).await
}

/// The same, with the time from one renewal to the next.
async fn hold_renewing(
    journal: Journal,
    mut random: Random,
    (local, interface): (SocketAddr, String),
    gateway: Ipv4Addr,
    options: UdpOptions,
    interval: Duration,
    interrupted: impl Future<Output = ()>,
) -> Result<HeldMapping, String> {
    let origin = Origin { address: SocketAddr::new(local.ip(), 0), interface: Some(interface) };
    let mut driver = Driver::open(journal, random.fork(), &origin, gateway, options)?;
    let until = Instant::now() + HOLD_LIMIT;
    tokio::pin!(interrupted);
    let discovered = tokio::select! {
        biased;
        // Nothing was asked of the router that would change it.
        () = &mut interrupted => return Err(INTERRUPTED.into()),
        discovered = driver.run(until) => discovered,
    };
    if !matches!(discovered, Some(Said::Discovered)) {
        return Err("the router did not answer in time".into());
    }
    driver.feed(Input::Map { internal_port: local.port() });
    let said = tokio::select! {
        biased;
        () = &mut interrupted => {
            driver.unmap().await;
            return Err(INTERRUPTED.into());
        }
        said = driver.run(until) => said,
    };
    let failed = match said {
        Some(Said::Mapped { protocol, external: Some(external), external_port }) => {
            let external = SocketAddr::new(external, external_port);
            let (release, released) = oneshot::channel();
            let kept = Kept { driver, protocol, local, external };
            let keeping = tokio::spawn(kept.until(released, interval));
            return Ok(HeldMapping { external, keeping, release });
        }
        Some(Said::MapFailed { detail }) => detail,
        Some(Said::Mapped { .. }) => "the router told no external address".to_owned(),
        _ => "it took too long".to_owned(),
    };
    // The router may have it, also what it did not answer.
    driver.unmap().await;
    Err(failed)
}

impl HeldMapping {
    /// Removes it; whether the router said so.
    pub(crate) async fn release(self) -> bool {
        let _ = self.release.send(());
        self.keeping.await.unwrap_or(false)
    }
}

impl Kept {
    /// Renews it so often until it is released; whether the router said that it is gone.
    async fn until(mut self, mut released: oneshot::Receiver<()>, interval: Duration) -> bool {
        loop {
            // Also when nobody is left who could release it.
            tokio::select! {
                _ = &mut released => break,
                () = tokio::time::sleep(interval) => {}
            }
            self.driver.feed(Input::Renew);
            tokio::select! {
                _ = &mut released => break,
                said = self.driver.run(Instant::now() + HOLD_LIMIT) => if let Some(Said::MapFailed { detail }) = said {
                    let what = "the port mapping's renewal, which is tried again";
                    self.driver.journal.missing(what, detail);
                },
            }
        }
        let removed = self.driver.unmap().await;
        let (protocol, local, external) = (self.protocol, self.local, self.external);
        self.driver.journal.measured(Measurement::PortMapped { protocol, local, external, reached: None, removed });
        removed
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use whyrelay_core::engine::port_mapping::router::{MappingRouter, RouterConfig};

    use whyrelay_core::trace::event::EventKind;

    use super::*;
    use crate::io::clock::Clock;

    /// The router is at an address of loopback that nothing else uses.
    #[tokio::test]
    async fn a_held_mapping_is_renewed_until_it_is_released_and_then_it_is_gone() {
        const GATEWAY: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);
        let external = Ipv4Addr::new(198, 51, 100, 7);
        let config = RouterConfig { internal: GATEWAY, external, nat_pmp: true, pcp: false, upnp: None };
        let socket = tokio::net::UdpSocket::bind((GATEWAY, 5351)).await.unwrap();
        let clock = Clock::start();
        let (asked, mut requests) = tokio::sync::mpsc::unbounded_channel();
        let serving = tokio::spawn(async move {
            let mut router = MappingRouter::new(clock.now(), config);
            let mut buffer = [0; 1500];
            loop {
                let (length, source) = socket.recv_from(&mut buffer).await.unwrap();
                let answer = router.datagram(clock.now(), source, 5351, &buffer[..length]);
                // RFC 6886 3.3: operation 1 maps UDP.
                if buffer[..2] == [0, 1] {
                    asked.send(router.forwards(clock.now()).count()).unwrap();
                }
                if let Some(answer) = answer {
                    socket.send_to(&answer, source).await.unwrap();
                }
            }
        });
        let (journal, mut entries) = Journal::new(clock);
        let local = ("127.0.0.1:40404".parse().unwrap(), "lo".to_owned());
        let options = UdpOptions::default();
        let interval = Duration::from_millis(50);
        let (random, never) = (Random::from_number(1), std::future::pending());
        let held = hold_renewing(journal, random, local, GATEWAY, options, interval, never).await.unwrap();
        assert_eq!(held.external.ip(), IpAddr::V4(external));
        for _ in 0..4 {
            let asked = tokio::time::timeout(Duration::from_secs(10), requests.recv()).await;
            assert_eq!(asked.expect("it is not renewed"), Some(1));
        }
        assert!(held.release().await, "the router did not say that it is gone");
        let left = std::iter::from_fn(|| requests.try_recv().ok()).last();
        assert_eq!(left, Some(0));
        let removed = |entry| {
            let crate::check::Entry::Fact(_, EventKind::Measured(fact)) = entry else { return false };
            matches!(fact, Measurement::PortMapped { removed: true, .. })
        };
        assert!(std::iter::from_fn(|| entries.try_recv().ok()).any(removed));
        serving.abort();
    }

    /// The router has the request, and its answer never comes.
    #[tokio::test]
    async fn an_interrupt_ends_the_making_of_a_mapping_at_once_and_takes_back_what_the_router_may_have_made() {
        const GATEWAY: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 2);
        let external = Ipv4Addr::new(198, 51, 100, 7);
        let config = RouterConfig { internal: GATEWAY, external, nat_pmp: true, pcp: false, upnp: None };
        let socket = tokio::net::UdpSocket::bind((GATEWAY, 5351)).await.unwrap();
        let clock = Clock::start();
        let (asked, is_asked) = oneshot::channel();
        let serving = async {
            let mut router = MappingRouter::new(clock.now(), config);
            let (mut buffer, mut asked, mut forwards) = ([0; 1500], Some(asked), Vec::new());
            loop {
                let (length, source) = socket.recv_from(&mut buffer).await.unwrap();
                let answer = router.datagram(clock.now(), source, 5351, &buffer[..length]).unwrap();
                if buffer[..2] != [0, 1] {
                    socket.send_to(&answer, source).await.unwrap();
                    continue;
                }
                forwards.push(router.forwards(clock.now()).count());
                if let Some(asked) = asked.take() {
                    asked.send(()).unwrap();
                } else if forwards.last() == Some(&0) {
                    socket.send_to(&answer, source).await.unwrap();
                    return forwards;
                }
            }
        };
        let (journal, _entries) = Journal::new(clock);
        let local = ("127.0.0.1:40405".parse().unwrap(), "lo".to_owned());
        let interrupted = async { is_asked.await.unwrap() };
        let held = hold(journal, Random::from_number(1), local, GATEWAY, UdpOptions::default(), interrupted);
        let both = async { tokio::join!(held, serving) };
        let (held, forwards) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
        assert_eq!(held.err().as_deref(), Some(INTERRUPTED));
        // It was made, and the next thing that the router heard of it was its end: no repetition was waited for.
        assert_eq!(forwards, [1, 0]);
    }

    #[tokio::test]
    async fn an_interrupt_while_the_router_is_looked_for_ends_it_and_nothing_is_mapped() {
        const GATEWAY: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 3);
        let socket = tokio::net::UdpSocket::bind((GATEWAY, 5351)).await.unwrap();
        let (journal, _entries) = Journal::new(Clock::start());
        let local = ("127.0.0.1:40406".parse().unwrap(), "lo".to_owned());
        let interrupted = async { assert!(socket.recv_from(&mut [0; 1500]).await.unwrap().0 > 0) };
        let held = hold(journal, Random::from_number(1), local, GATEWAY, UdpOptions::default(), interrupted).await;
        assert_eq!(held.err().as_deref(), Some(INTERRUPTED));
        let (mut buffer, mut asked) = ([0; 1500], Vec::new());
        while let Ok((length, _)) = socket.try_recv_from(&mut buffer) {
            asked.push(buffer[..length].to_vec());
        }
        // NAT-PMP's operation 1, PCP's opcode 1.
        assert!(asked.iter().all(|request| request.get(1) != Some(&1)), "{asked:?}");
    }
}
