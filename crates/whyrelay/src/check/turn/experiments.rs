//! What a relay is good for besides relaying: an echo, a third party, an early packet, a packet after a long silence.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use whyrelay_core::engine::nat_discovery::lifetime::LifetimeSearch;
use whyrelay_core::random::Random;
use whyrelay_core::trace::address::AddressClass;
use whyrelay_core::trace::measurement::Measurement;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

use super::super::hops;
use super::super::journal::Journal;
use super::client::{Client, Happening};
use super::{Target, permit};

/// Sends of one probe, and the time between two: 10 % loss each way leaves 2 in 100,000 unanswered.
const SENDS: u32 = 6;
const INTERVAL: Duration = Duration::from_millis(80);

/// Least wait for an answer behind the last send; by satellite the answer takes longer.
const LEAST_WAIT: Duration = Duration::from_millis(300);

/// The wait behind a send.
fn wait_behind(sent: u32, client: &Client) -> Duration {
    if sent == SENDS { LEAST_WAIT.max(client.round_trip * 2) } else { INTERVAL }
}

/// An early packet must be there before ours leaves; it is sent twice.
const EARLY_WAIT: Duration = Duration::from_millis(150);

/// An indication that names itself by its transaction id: no one answers it.
fn probe(random: &mut Random) -> (TransactionId, Vec<u8>) {
    let id = random.transaction_id();
    (id, MessageBuilder::new(Class::Indication, Method::BINDING, id).fingerprint().build())
}

fn is(bytes: &[u8], id: TransactionId) -> bool {
    Message::decode(bytes).is_ok_and(|message| message.is_sound() && message.transaction == id)
}

/// Sends to `to` until the relay has it: from where it was seen, and how many were sent.
async fn seen_from(
    client: &mut Client,
    local: SocketAddr,
    to: SocketAddr,
    until: Instant,
) -> (Option<SocketAddr>, u32) {
    let (id, bytes) = probe(&mut client.random);
    for sent in 1..=SENDS {
        // The system's refusal is an event of its own.
        let _ = client.sockets.send(local, to, &bytes);
        let wait = wait_behind(sent, client);
        let wake = (Instant::now() + wait).min(until);
        while let Some(happening) = client.next(wake).await {
            if let Happening::Relayed { relayed, peer, data } = happening
                && relayed == to
                && is(&data, id)
            {
                return (Some(peer), sent);
            }
        }
        if Instant::now() >= until {
            return (None, sent);
        }
    }
    (None, SENDS)
}

/// From a socket of ours to the relay, and back by it.
pub(super) async fn echo(client: &mut Client, journal: &Journal, target: &Target, relayed: SocketAddr, until: Instant) {
    let (server, label) = (target.server.url.to_string(), &target.label);
    let Ok(local) = client.open() else {
        return journal.missing(format!("{label}: echo through the relay"), "no socket could be opened");
    };
    let (observed, sent) = seen_from(client, local, relayed, until).await;
    if observed.is_none() && Instant::now() >= until {
        let what = format!("{label}: egress to a third party, and echo through the relay");
        return journal.missing(what, journal.no_time());
    }
    journal.measured(Measurement::ThirdParty { local, remote: relayed, observed, sent });
    let Some(peer) = observed else {
        // Whose firewall it is shows by what comes from there, and by how far packets to it get beside those to the server.
        let (random, asked) = (client.random.fork(), (client.origin.clone(), relayed));
        let (options, is_reached) = (client.options, client.remote.is_some());
        let way = async {
            if is_reached {
                hops::look(journal.clone(), random, asked, Class::Indication, options, until).await;
            }
        };
        let (came_from_relay, ()) = futures_util::future::join(comes_from(client, local, relayed, until), way).await;
        return journal.measured(Measurement::RelayEcho { server, relayed, rtt_us: None, sent, came_from_relay });
    };
    // No relay sends to its own addresses, and nothing is wrong with it for that.
    if peer.ip() == relayed.ip() {
        let why = "the relay sees this host at its own address, to which it sends nothing";
        return journal.missing(format!("{label}: echo through the relay"), why);
    }
    let (id, bytes) = probe(&mut client.random);
    for sent in 1..=SENDS {
        let started = Instant::now();
        client.send_from_relay(relayed, peer, &bytes);
        let end = started + wait_behind(sent, client);
        let wake = end.min(until);
        while let Some(happening) = client.next(wake).await {
            if let Happening::Datagram { local: at, bytes } = happening
                && at == local
                && is(&bytes, id)
            {
                let rtt_us = Some(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
                let came_from_relay = None;
                return journal.measured(Measurement::RelayEcho { server, relayed, rtt_us, sent, came_from_relay });
            }
        }
        // What was not waited for to its end was not lost.
        if Instant::now() >= until && (sent < SENDS || end > until) {
            return journal.missing(format!("{label}: echo through the relay"), journal.no_time());
        }
    }
    let (rtt_us, sent, came_from_relay) = (None, SENDS, None);
    journal.measured(Measurement::RelayEcho { server, relayed, rtt_us, sent, came_from_relay });
}

/// Whether what the relay sends arrives at a socket whose own packets do not get into the relay, and at none that sent it
/// nothing. What our network had not let out, our NAT and firewall would not let back in: then it is the relay's port that
/// is closed. `None`: where the sockets are seen from outside is not known, or everybody is let in to them.
async fn comes_from(client: &mut Client, local: SocketAddr, relayed: SocketAddr, until: Instant) -> Option<bool> {
    if !arrives(client, local, relayed, true, until).await? {
        return Some(false);
    }
    let other = client.open().ok()?;
    (!arrives(client, other, relayed, false, until).await?).then_some(true)
}

/// Whether what the relay sends arrives at a socket; `sending`: which sends to it meanwhile. `None`: where it is seen from
/// outside is not known, or what it sends gets in.
async fn arrives(
    client: &mut Client,
    local: SocketAddr,
    relayed: SocketAddr,
    sending: bool,
    until: Instant,
) -> Option<bool> {
    let to = mapped(client, local, until).await?;
    let (id, bytes) = probe(&mut client.random);
    let (out_id, out) = probe(&mut client.random);
    for sent in 1..=SENDS {
        if sending {
            let _ = client.sockets.send(local, relayed, &out);
        }
        client.send_from_relay(relayed, to, &bytes);
        let wait = wait_behind(sent, client);
        let wake = (Instant::now() + wait).min(until);
        while let Some(happening) = client.next(wake).await {
            match happening {
                Happening::Datagram { local: at, bytes } if at == local && is(&bytes, id) => return Some(true),
                Happening::Relayed { data, .. } if is(&data, out_id) => return None,
                _ => {}
            }
        }
        if Instant::now() >= until {
            return None;
        }
    }
    Some(false)
}

/// The mapped address of a socket, by the TURN server's own Binding.
async fn mapped(client: &mut Client, local: SocketAddr, until: Instant) -> Option<SocketAddr> {
    let remote = client.remote?;
    let id = client.random.transaction_id();
    let bytes = MessageBuilder::new(Class::Request, Method::BINDING, id).fingerprint().build();
    for _ in 0..SENDS {
        let _ = client.sockets.send(local, remote, &bytes);
        let wake = (Instant::now() + INTERVAL).min(until);
        while let Some(happening) = client.next(wake).await {
            let Happening::Datagram { local: at, bytes } = happening else { continue };
            let Ok(message) = Message::decode(&bytes) else { continue };
            if at == local && message.transaction == id && message.is_sound() {
                let plain = || message.address(AttributeType::MAPPED_ADDRESS);
                return message.xor_address(AttributeType::XOR_MAPPED_ADDRESS).or_else(plain);
            }
        }
    }
    None
}

/// A relay that we have not sent to sends to our mapped address; then we send to it. A NAT that took the early packet
/// for one to itself now gives our flow another port, and a peer that spoke first would never be reached.
pub(super) async fn early_arrival(
    client: &mut Client,
    journal: &Journal,
    control_relay: SocketAddr,
    relay: SocketAddr,
    until: Instant,
) {
    const WHAT: &str = "early arrival";
    let Ok(local) = client.open() else { return journal.missing(WHAT, "no socket could be opened") };
    let Some(mapped) = mapped(client, local, until).await else {
        return journal.missing(WHAT, "the server told no mapped address of the socket");
    };
    if AddressClass::of(mapped.ip()) != AddressClass::Public {
        return journal
            .missing(WHAT, format!("the server sees us at {mapped}, a private address, where none relays to"));
    }
    if let Err(why) = permit(client, relay, mapped.ip(), until).await {
        return journal.missing(WHAT, why);
    }
    // First, because a NAT that lost the port goes on with the new one for every destination to come.
    let (control, _) = seen_from(client, local, control_relay, until).await;
    let (id, bytes) = probe(&mut client.random);
    let mut arrived = false;
    for _ in 0..2 {
        client.send_from_relay(relay, mapped, &bytes);
        let wake = (Instant::now() + EARLY_WAIT / 2).min(until);
        while let Some(happening) = client.next(wake).await {
            if let Happening::Datagram { local: at, bytes } = &happening {
                arrived |= *at == local && is(bytes, id);
            }
        }
    }
    let (observed, _) = seen_from(client, local, relay, until).await;
    match (observed, control) {
        (Some(observed), Some(control)) => {
            let remote = relay;
            journal.measured(Measurement::EarlyArrival { local, remote, mapped, observed, control, arrived });
        }
        _ if Instant::now() >= until => journal.missing(WHAT, journal.no_time()),
        _ => journal.missing(WHAT, "our packets to the relay's port did not arrive there"),
    }
}

/// What the next silence is for, for who waits.
fn known_so_far(search: &LifetimeSearch, local: IpAddr, silence: u32) -> String {
    let known = match search.known_s() {
        (0, None) => return format!("silent for {silence} s, to see whether an idle mapping of {local} lives so long"),
        (0, Some(dies)) => format!("less than {dies} s"),
        (lives, None) => format!("{lives} s or more"),
        (lives, Some(dies)) => format!("{lives} s and not {dies} s"),
    };
    format!("an idle mapping of {local} lives {known}: silent for {silence} s, to see whether it lives so long")
}

/// What was found within a time, or why nothing was.
fn found(search: &LifetimeSearch, local: IpAddr, limit: Duration) -> Result<Measurement, String> {
    match search.known_s() {
        (0, None) => Err(format!("{} s are too few to wait for it", limit.as_secs_f64())),
        (at_least_s, at_most_s) => Ok(Measurement::MappingLifetime { local, at_least_s, at_most_s }),
    }
}

/// Bisects the life of an idle mapping: a socket opens it toward the relay and is silent; then the relay sends. `what`:
/// how it is called where it is not measured.
pub(super) async fn lifetime(client: &mut Client, journal: &Journal, relay: SocketAddr, limit: Duration, what: &str) {
    let mut search = LifetimeSearch::new(limit);
    let of = client.origin.address.ip();
    while let Some(silence) = search.next_s() {
        journal.say(of, Some(known_so_far(&search, of, silence)));
        let started = Instant::now();
        let Ok(local) = client.open() else { return journal.missing(what, "no socket could be opened") };
        let (Some(peer), _) = seen_from(client, local, relay, started + Duration::from_secs(1)).await else {
            return journal.missing(what, "our packet to the relay did not arrive there");
        };
        let silent_until = Instant::now() + Duration::from_secs(silence.into());
        while client.next(silent_until).await.is_some() {}
        let (id, bytes) = probe(&mut client.random);
        let mut arrived = false;
        for _ in 0..SENDS {
            client.send_from_relay(relay, peer, &bytes);
            let wake = Instant::now() + INTERVAL * 2;
            while let Some(happening) = client.next(wake).await {
                if let Happening::Datagram { local: at, bytes } = &happening {
                    arrived |= *at == local && is(bytes, id);
                }
            }
            if arrived {
                break;
            }
        }
        search.tried(silence, started.elapsed(), arrived);
    }
    match found(&search, of, limit) {
        Ok(measurement) => journal.measured(measurement),
        Err(why) => journal.missing(what, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_too_short_for_any_silence_finds_nothing() {
        let local: IpAddr = "192.0.2.1".parse().unwrap();
        for (limit, why) in [(500, "0.5 s are too few to wait for it"), (1000, "1 s are too few to wait for it")] {
            let limit = Duration::from_millis(limit);
            assert_eq!(found(&LifetimeSearch::new(limit), local, limit), Err(why.to_owned()));
        }
        let mut search = LifetimeSearch::new(Duration::from_secs(3));
        search.tried(1, Duration::from_secs(1), false);
        let measured = Measurement::MappingLifetime { local, at_least_s: 0, at_most_s: Some(1) };
        assert_eq!(found(&search, local, Duration::from_secs(3)), Ok(measured));
    }

    #[test]
    fn who_waits_is_told_what_is_known_and_what_for() {
        let told = |tried: &[(u32, bool)], silence| {
            let mut search = LifetimeSearch::new(Duration::from_secs(600));
            tried.iter().for_each(|(silence, lives)| search.tried(*silence, Duration::ZERO, *lives));
            known_so_far(&search, "192.0.2.1".parse().unwrap(), silence)
        };
        assert_eq!(told(&[], 15), "silent for 15 s, to see whether an idle mapping of 192.0.2.1 lives so long");
        for (tried, known) in [
            (&[(15, false)][..], "less than 15 s"),
            (&[(15, true)], "15 s or more"),
            (&[(15, true), (30, false)], "15 s and not 30 s"),
        ] {
            let told = told(tried, 22);
            assert!(
                told.starts_with(&format!("an idle mapping of 192.0.2.1 lives {known}: silent for 22 s")),
                "{told}"
            );
        }
    }
}
