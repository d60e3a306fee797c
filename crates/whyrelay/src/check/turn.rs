//! A TURN server from the first 401 to an echo through the relay, and what a relay is good for besides: it is a third
//! party that sends from a fresh high port, only where it was permitted to.

mod client;
mod experiments;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use whyrelay_core::engine::gather::Server;
use whyrelay_core::engine::server_url::ServerUrl;
use whyrelay_core::random::Random;
use whyrelay_core::trace::address::AddressClass;
use whyrelay_core::trace::event::Transport;

use super::asked::STOPPED;
use super::journal::Journal;
use super::nat::Origin;
use super::stop::Stop;
use crate::io::tls::ClientTls;
use crate::io::udp::UdpOptions;
use client::{Client, Happening};

/// A TURN server to try.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// With its addresses and credentials.
    pub(crate) server: Server,
    /// Our end.
    pub(crate) origin: Origin,
    /// Look at what no tester looks at, too: on one server is enough.
    pub(crate) experiments: bool,
    /// Find out how long a mapping lives, for at most this long.
    pub(crate) lifetime: Option<Duration>,
}

impl Target {
    /// The server's address in use: it has one of each family at most, and our end has one family.
    fn address(&self) -> Option<IpAddr> {
        self.server.addresses.iter().find(|ip| ip.is_ipv4() == self.origin.address.is_ipv4()).copied()
    }
}

/// Tries one server until `until` or until the check is stopped; allocations are given back in any case.
pub(crate) async fn try_server(
    journal: Journal,
    random: Random,
    target: Target,
    (tls, options): (ClientTls, UdpOptions),
    until: Instant,
    stop: Stop,
) {
    // An allocation that is asked for only to be given back.
    if stop.is_asked() {
        if target.lifetime.is_some() {
            journal.missing(experiments::LIFETIME, STOPPED);
        }
        return journal.stopped_here();
    }
    let url = target.server.url.clone();
    let experiments = target.experiments && url.transport() == Transport::Udp;
    let mut client = match Client::start(journal.clone(), random, &target, experiments, (tls, options)) {
        Ok(client) => client,
        Err(error) => {
            if target.lifetime.is_some() {
                journal.missing(experiments::LIFETIME, "there is no allocation to send from after the silence");
            }
            return journal.missing(format!("{url}: allocation and relaying"), error.to_string());
        }
    };
    let used = stop.unless(use_server(&mut client, &journal, &target, experiments, until)).await;
    if used.is_none() {
        journal.stopped_here();
        if target.lifetime.is_some() {
            journal.missing(experiments::LIFETIME, "the check was stopped before it was found");
            journal.say(None);
        }
    }
    client.close().await;
}

async fn use_server(client: &mut Client, journal: &Journal, target: &Target, experiments: bool, until: Instant) {
    let url = &target.server.url;
    let started = Instant::now();
    let allocated = allocate(client, if experiments { 2 } else { 1 }, until).await;
    client.give_up_connecting(started.elapsed());
    match allocated.first() {
        Some(&(relayed, mapped)) => {
            let public = |ip: IpAddr| AddressClass::of(ip) == AddressClass::Public;
            // Of a server that has addresses inside and outside, the one that was asked counts.
            if !public(relayed.ip()) && target.address().is_some_and(public) {
                let why =
                    format!("the server relays at {relayed}, which cannot be reached from outside of its network");
                journal.missing(format!("{url}: echo through the relay"), why);
                let why = "the relay's address cannot be reached";
                if experiments {
                    journal.missing("early arrival and egress to a third party", why);
                }
                if target.lifetime.is_some() {
                    journal.missing(experiments::LIFETIME, why);
                }
                return;
            }
            use_relay(client, journal, url, (relayed, mapped), until).await;
            match allocated.get(1) {
                Some(&(second, _)) => experiments::early_arrival(client, journal, relayed, second, until).await,
                None if experiments => journal.missing("early arrival", "the server gave only one allocation"),
                None => {}
            }
            if let Some(limit) = target.lifetime {
                experiments::lifetime(client, journal, relayed, limit).await;
            }
        }
        None => {
            let what = format!("{url}: permission and echo through the relay");
            journal.missing(what, "there is no allocation");
            if experiments {
                journal.missing("early arrival and egress to a third party", "there is no allocation to send from");
            }
            if target.lifetime.is_some() {
                journal.missing(experiments::LIFETIME, "there is no allocation to send from after the silence");
            }
        }
    }
}

/// Relayed addresses with the mapped address that came with each, up to `wanted`.
async fn allocate(client: &mut Client, wanted: usize, until: Instant) -> Vec<(SocketAddr, Option<SocketAddr>)> {
    let mut allocated = Vec::new();
    while allocated.len() < wanted {
        match client.next(until).await {
            Some(Happening::Allocated { relayed, mapped }) => allocated.push((relayed, mapped)),
            Some(Happening::Settled) | None => break,
            Some(_) => {}
        }
    }
    allocated
}

/// Permission and echo; our packet to the relayed address is one to a third party's random high port.
async fn use_relay(
    client: &mut Client,
    journal: &Journal,
    url: &ServerUrl,
    (relayed, mapped): (SocketAddr, Option<SocketAddr>),
    until: Instant,
) {
    let echo = format!("{url}: echo through the relay");
    let Some(peer) = mapped.map(|mapped| mapped.ip()).filter(|ip| ip.is_ipv4() == relayed.is_ipv4()) else {
        return journal.missing(echo, "the server told no mapped address of the relayed address's family");
    };
    // Servers worth their name refuse to relay into private networks: asking would only look like a fault.
    if AddressClass::of(peer) != AddressClass::Public {
        return journal.missing(echo, format!("the server sees us at {peer}, a private address, where none relays to"));
    }
    if let Err(why) = permit(client, relayed, peer, until).await {
        return journal.missing(echo, why);
    }
    experiments::echo(client, journal, url, relayed, until).await;
}

/// Asks for a permission; why there is none.
async fn permit(client: &mut Client, relayed: SocketAddr, peer: IpAddr, until: Instant) -> Result<(), String> {
    let asked = Instant::now();
    client.permit(relayed, peer);
    loop {
        match client.next(until).await {
            Some(Happening::Permitted { peer: permitted }) if permitted == peer => {
                client.round_trip = asked.elapsed();
                return Ok(());
            }
            Some(Happening::Denied { peer: denied, code }) if denied == peer => {
                let code = code.map_or_else(|| "no answer".to_owned(), |code| format!("error {code}"));
                return Err(format!("the server gives no permission for our own address {peer} ({code})"));
            }
            Some(_) => {}
            None => return Err("the time of the check was over".to_owned()),
        }
    }
}

/// What sends from outside.
pub(crate) struct Outside {
    pub(crate) target: Target,
    pub(crate) tls: ClientTls,
    pub(crate) options: UdpOptions,
}

/// Sends of one packet from a relay, and the time between two.
const OUTSIDE_SENDS: u32 = 5;
const OUTSIDE_INTERVAL: Duration = Duration::from_millis(200);

/// An allocation that is not there by then will not come.
const OUTSIDE_LIMIT: Duration = Duration::from_secs(3);

/// Has a TURN server send to a port of our public address that we did not send to it from, until `arriving` tells
/// whether it came: that, and the address that the server sees us at. The allocation is given back in any case. `to`: the
/// public address where it is known otherwise, and the port.
pub(crate) async fn send_from_outside(
    journal: &Journal,
    random: Random,
    from: Outside,
    to: (Option<IpAddr>, u16),
    bytes: &[u8],
    arriving: impl Future<Output = bool>,
    stop: &Stop,
) -> Result<(bool, IpAddr), String> {
    let with = (from.tls, from.options);
    let started = Client::start(journal.clone(), random, &from.target, false, with);
    let mut client = started.map_err(|error| error.to_string())?;
    let sent = stop.clone().unless(send_to_ourselves(&mut client, to, bytes, arriving)).await;
    client.close().await;
    sent.unwrap_or_else(|| Err("the check was stopped".to_owned()))
}

async fn send_to_ourselves(
    client: &mut Client,
    (external, port): (Option<IpAddr>, u16),
    bytes: &[u8],
    arriving: impl Future<Output = bool>,
) -> Result<(bool, IpAddr), String> {
    let until = Instant::now() + OUTSIDE_LIMIT;
    let allocated = allocate(client, 1, until).await;
    let &(relayed, mapped) = allocated.first().ok_or("the server gave no relayed address")?;
    let mapped = mapped.map(|mapped| mapped.ip());
    let ip = external.or(mapped).ok_or("neither the router nor the server told the public address")?;
    permit(client, relayed, ip, until).await?;
    tokio::pin!(arriving);
    let mut wakes = (0..OUTSIDE_SENDS).map(|_| Instant::now() + OUTSIDE_INTERVAL);
    loop {
        // After the last send `arriving` alone tells the end.
        let wake = match wakes.next() {
            Some(wake) => {
                client.send_from_relay(relayed, SocketAddr::new(ip, port), bytes);
                wake
            }
            None => Instant::now() + OUTSIDE_LIMIT,
        };
        loop {
            tokio::select! {
                reached = &mut arriving => return Ok((reached, mapped.unwrap_or(ip))),
                happening = client.next(wake) => if happening.is_none() { break },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use whyrelay_core::engine::gather::Password;
    use whyrelay_core::trace::event::EventKind;

    use super::super::journal::Entry;
    use super::*;
    use crate::io::clock::Clock;

    fn target(url: &str, addresses: &[&str], lifetime: Option<Duration>) -> Target {
        let (username, password) = (Some("alice".into()), Some(Password::new("wonderland".to_owned())));
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let server = Server { url: url.parse().unwrap(), addresses, username, password };
        let origin = Origin { address: "127.0.0.1:0".parse().unwrap(), interface: None };
        Target { server, origin, experiments: false, lifetime }
    }

    #[tokio::test]
    async fn who_asks_for_the_lifetime_is_told_why_there_is_none_without_an_allocation() {
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for lifetime in [None, Some(Duration::from_secs(15))] {
            let (journal, mut entries) = Journal::new(Clock::start());
            let (_stopping, stop) = Stop::new();
            let target = target(&format!("turn:{closed}"), &["127.0.0.1"], lifetime);
            let with = (ClientTls::default(), UdpOptions::default());
            let until = Instant::now() + Duration::from_secs(3);
            try_server(journal, Random::from_number(1), target, with, until, stop).await;
            let mut missing = Vec::new();
            while let Ok(entry) = entries.try_recv() {
                if let Entry::Fact(_, EventKind::NotMeasured { what, .. }) = entry {
                    missing.push(what);
                }
            }
            assert_eq!(
                missing.iter().filter(|what| *what == experiments::LIFETIME).count(),
                usize::from(lifetime.is_some()),
                "{missing:?}"
            );
        }
    }

    #[test]
    fn the_address_in_use_is_that_of_our_ends_family() {
        let inside = target("turn:turn.example.org", &["10.0.0.5", "2001:db8::5"], None);
        assert_eq!(inside.address(), Some("10.0.0.5".parse().unwrap()));
        let other = target("turn:turn.example.org", &["2001:db8::5"], None);
        assert_eq!(other.address(), None);
    }
}
