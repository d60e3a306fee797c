//! A TURN server from the first 401 to an echo through the relay, and what a relay is good for besides: it is a third
//! party that sends from a fresh high port, only where it was permitted to.

mod client;
mod experiments;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use whyrelay_core::diagnosis::evidence::LEAST_SILENCE;
use whyrelay_core::engine::gather::Server;
use whyrelay_core::random::Random;
use whyrelay_core::trace::address::AddressClass;
use whyrelay_core::trace::event::{EventKind, ServerFailure, Transport};
use whyrelay_core::wire::stun::Method;

use super::asked::STOPPED;
use super::journal::Journal;
use super::nat::Origin;
use super::stop::Stop;
use crate::io::tls::ClientTls;
use crate::io::udp::UdpOptions;
use client::{CLOSE_LIMIT, Client, Happening};

/// What every allocation is given back within, behind the time of the check: the last of four requests for it leaves
/// after 500 ms.
const GIVE_BACK_LIMIT: Duration = Duration::from_millis(550);

/// A TURN server to try.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// With its credentials, and the one address that is tried.
    pub(crate) server: Server,
    /// Its URL; and the family, where it has an address of each.
    pub(crate) label: String,
    /// Our end.
    pub(crate) origin: Origin,
    /// Look at what no tester looks at, too: on one server is enough.
    pub(crate) experiments: bool,
}

impl Target {
    /// The server's address.
    fn address(&self) -> Option<IpAddr> {
        self.server.addresses.first().copied()
    }

    /// Whether the server relays where nobody outside of its network gets to, although it is outside itself.
    fn is_out_of_reach(&self, relayed: SocketAddr) -> bool {
        let public = |ip: IpAddr| AddressClass::of(ip) == AddressClass::Public;
        // Of a server that has addresses inside and outside, the one that was asked counts.
        !public(relayed.ip()) && self.address().is_some_and(public)
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
        return journal.stopped_here();
    }
    let experiments = target.experiments && target.server.url.transport() == Transport::Udp;
    let mut client = match Client::start(journal.clone(), random, &target, experiments, (tls, options)) {
        Ok(client) => client,
        Err(error) => {
            return journal.missing(format!("{}: allocation and relaying", target.label), error.to_string());
        }
    };
    let used = stop.unless(use_server(&mut client, &journal, &target, experiments, until)).await;
    if used.is_none() {
        journal.stopped_here();
    }
    client.close(until + GIVE_BACK_LIMIT).await;
}

/// What takes consent and a long time.
pub(crate) const LIFETIME: &str = "the lifetime of an idle mapping";

/// An allocation that is not there by then will not come.
const ALLOCATE_LIMIT: Duration = Duration::from_secs(3);

/// Finds out for at most `limit` how long an idle mapping lives in front of the target's end; its server sends after each
/// silence. The allocation is given back in any case.
pub(crate) async fn find_lifetime(
    journal: Journal,
    random: Random,
    target: Target,
    with: (ClientTls, UdpOptions),
    limit: Duration,
    stop: Stop,
) {
    let what = format!("{LIFETIME} of {}", target.origin.address.ip());
    if stop.is_asked() {
        return journal.missing(what, STOPPED);
    }
    let mut client = match Client::start(journal.clone(), random, &target, false, with) {
        Ok(client) => client,
        Err(error) => return journal.missing(what, error.to_string()),
    };
    let searching = async {
        let until = Instant::now() + ALLOCATE_LIMIT;
        let Some(&(relayed, mapped)) = allocate(&mut client, 1, until).await.first() else {
            return journal.missing(&what, without_allocation(&target, client.refusal.clone()));
        };
        if target.is_out_of_reach(relayed) {
            return journal.missing(&what, "the relay's address cannot be reached");
        }
        let permitted = match permitted_peer(mapped, relayed) {
            Ok(peer) => permit(&mut client, relayed, peer, until).await,
            Err(why) => Err(why),
        };
        match permitted {
            Ok(()) => experiments::lifetime(&mut client, &journal, relayed, limit, &what).await,
            Err(why) => journal.missing(&what, why),
        }
    };
    if stop.unless(searching).await.is_none() {
        journal.missing(&what, "the check was stopped before it was found");
    }
    journal.say(target.origin.address.ip(), None);
    client.close(Instant::now() + CLOSE_LIMIT).await;
}

async fn use_server(client: &mut Client, journal: &Journal, target: &Target, experiments: bool, until: Instant) {
    let (label, started) = (&target.label, Instant::now());
    let allocated = allocate(client, if experiments { 2 } else { 1 }, until).await;
    let (is_over, waited) = (Instant::now() >= until, started.elapsed());
    // A connection that had no time is not one that fails.
    let gave_up = if is_over && waited < LEAST_SILENCE {
        client.drop_connecting();
        false
    } else {
        client.give_up_connecting(waited)
    };
    match allocated.first() {
        Some(&(relayed, mapped)) => {
            if target.is_out_of_reach(relayed) {
                let why =
                    format!("the server relays at {relayed}, which cannot be reached from outside of its network");
                journal.missing(format!("{label}: echo through the relay"), why);
                let why = "the relay's address cannot be reached";
                if experiments {
                    journal.missing("early arrival and egress to a third party", why);
                }
                return;
            }
            use_relay(client, journal, target, (relayed, mapped), until).await;
            match allocated.get(1) {
                Some(&(second, _)) => experiments::early_arrival(client, journal, relayed, second, until).await,
                None if experiments => journal.missing("early arrival", "the server gave only one allocation"),
                None => {}
            }
        }
        None => {
            // All but the last of its requests are out by then.
            let silent = client.asked.filter(|_| is_over && waited >= LEAST_SILENCE && !client.has_answered);
            if let Some((local, transmissions)) = silent {
                let took_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
                let failure = ServerFailure::Timeout { transmissions, took_us };
                let (server, method) = (target.server.url.to_string(), Method::ALLOCATE.to_string());
                journal.fact(EventKind::ServerFailed { server, local: Some(local), method, failure });
            }
            // What was silent long enough to be called so is told as such, and not once more as a want of time.
            if is_over && silent.is_none() && !gave_up {
                let what = format!("{label}: allocation, permission and echo through the relay");
                journal.missing(what, journal.no_time());
            } else {
                journal.missing(format!("{label}: permission and echo through the relay"), "there is no allocation");
            }
            if experiments {
                let silent = silent.map(|_| "it does not answer".to_owned());
                let why = without_allocation(target, silent.or_else(|| client.refusal.clone()));
                journal.missing("early arrival and egress to a third party", why);
            }
        }
    }
}

/// Whose allocation there is none of to send from, and why.
fn without_allocation(target: &Target, why: Option<String>) -> String {
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    format!("{} gives no allocation to send from{why}", target.label)
}

/// Relayed addresses with the mapped address that came with each, up to `wanted` of our own family: over IPv6 one of each
/// comes with an allocation, and what is sent there comes from ours. Where there is none of it, what there is.
async fn allocate(client: &mut Client, wanted: usize, until: Instant) -> Vec<(SocketAddr, Option<SocketAddr>)> {
    let (mut allocated, mut others) = (Vec::new(), Vec::new());
    while allocated.len() < wanted {
        match client.next(until).await {
            Some(Happening::Allocated { relayed, mapped }) => {
                let is_ours = relayed.is_ipv4() == client.origin.address.is_ipv4();
                if is_ours { &mut allocated } else { &mut others }.push((relayed, mapped));
            }
            Some(Happening::Settled) | None => break,
            Some(_) => {}
        }
    }
    if allocated.is_empty() { others } else { allocated }
}

/// Permission and echo; our packet to the relayed address is one to a third party's random high port.
async fn use_relay(
    client: &mut Client,
    journal: &Journal,
    target: &Target,
    (relayed, mapped): (SocketAddr, Option<SocketAddr>),
    until: Instant,
) {
    let echo = format!("{}: echo through the relay", target.label);
    let permitted = match permitted_peer(mapped, relayed) {
        Ok(peer) => permit(client, relayed, peer, until).await,
        Err(why) => Err(why),
    };
    match permitted {
        Ok(()) => experiments::echo(client, journal, target, relayed, until).await,
        Err(why) => journal.missing(echo, why),
    }
}

/// The address of ours that a permission can be asked for; or why there is none.
fn permitted_peer(mapped: Option<SocketAddr>, relayed: SocketAddr) -> Result<IpAddr, String> {
    let Some(peer) = mapped.map(|mapped| mapped.ip()).filter(|ip| ip.is_ipv4() == relayed.is_ipv4()) else {
        return Err("the server told no mapped address of the relayed address's family".to_owned());
    };
    // Servers worth their name refuse to relay into private networks: asking would only look like a fault.
    if AddressClass::of(peer) != AddressClass::Public {
        return Err(format!("the server sees us at {peer}, a private address, where none relays to"));
    }
    Ok(peer)
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
            None => return Err(client.journal.no_time()),
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
    client.close(Instant::now() + CLOSE_LIMIT).await;
    sent.unwrap_or_else(|| Err("the check was stopped".to_owned()))
}

async fn send_to_ourselves(
    client: &mut Client,
    (external, port): (Option<IpAddr>, u16),
    bytes: &[u8],
    arriving: impl Future<Output = bool>,
) -> Result<(bool, IpAddr), String> {
    let until = Instant::now() + ALLOCATE_LIMIT;
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
            None => Instant::now() + ALLOCATE_LIMIT,
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
    use super::super::journal::Entry;
    use super::*;
    use crate::io::clock::Clock;
    use crate::server::turn::{StunTurnConfig, StunTurnServer};
    use tokio::net::UdpSocket;
    use whyrelay_core::engine::gather::Password;
    use whyrelay_core::engine::turn_server::Credentials;
    use whyrelay_core::wire::stun::Message;

    /// In front of a server: its first answer comes through, and no other; the first two of the client's last words are lost.
    async fn nearly_silent(server: SocketAddr) -> SocketAddr {
        let (front, back) =
            (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        back.connect(server).await.unwrap();
        let address = front.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut client, mut answers, mut last_words) = (None, 0, 0);
            let (mut asked, mut answered) = ([0; 1500], [0; 1500]);
            loop {
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut asked) => {
                        client = Some(from);
                        let bytes = &asked[..length];
                        let is_last = Message::decode(bytes).is_ok_and(|message| message.method == Method::REFRESH);
                        last_words += u32::from(is_last);
                        if !is_last || last_words > 2 {
                            back.send(bytes).await.unwrap();
                        }
                    }
                    Ok(length) = back.recv(&mut answered) => {
                        answers += 1;
                        if let Some(client) = client.filter(|_| answers == 1) {
                            front.send_to(&answered[..length], client).await.unwrap();
                        }
                    }
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn an_allocation_whose_answer_does_not_come_in_time_is_given_back() {
        let config = StunTurnConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            credentials: Credentials::none().with_user("alice", "wonderland"),
            ..StunTurnConfig::default()
        };
        let server = StunTurnServer::bind(config).unwrap();
        let serving = server.clone();
        tokio::spawn(async move { serving.run(std::future::pending()).await });
        let remote = nearly_silent(server.addresses()[0]).await;
        let (journal, _entries) = Journal::new(Clock::start());
        let (_stopping, stop) = Stop::new();
        let with = (ClientTls::default(), UdpOptions::default());
        let until = Instant::now() + Duration::from_millis(500);
        try_server(journal, Random::from_number(1), target(remote), with, until, stop).await;
        let left = async {
            while server.metrics().allocations > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), left).await;
        let metrics = server.metrics();
        assert_eq!((metrics.counters.allocations, metrics.allocations), (1, 0), "made, and left behind");
    }

    fn target(address: SocketAddr) -> Target {
        let (username, password) = (Some("alice".into()), Some(Password::new("wonderland".to_owned())));
        let url = format!("turn:{address}").parse().unwrap();
        let server = Server { url, addresses: vec![address.ip()], username, password };
        let origin = Origin { address: "127.0.0.1:0".parse().unwrap(), interface: None };
        Target { server, label: "turn:closed".to_owned(), origin, experiments: false }
    }

    #[tokio::test]
    async fn who_asks_for_the_lifetime_is_told_why_there_is_none_without_an_allocation() {
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (journal, mut entries) = Journal::new(Clock::start());
        let (_stopping, stop) = Stop::new();
        let with = (ClientTls::default(), UdpOptions::default());
        find_lifetime(journal, Random::from_number(1), target(closed), with, Duration::from_secs(15), stop).await;
        let told = std::iter::from_fn(|| entries.try_recv().ok()).find_map(|entry| match entry {
            Entry::Fact(_, EventKind::NotMeasured { what, why }) => Some(format!("{what}: {why}")),
            _ => None,
        });
        let expected = "the lifetime of an idle mapping of 127.0.0.1: turn:closed gives no allocation to send from: nothing gets to it";
        assert!(told.as_deref().is_some_and(|told| told.starts_with(expected)), "{told:?}");
    }
}
