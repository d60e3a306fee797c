//! The first routers on the way to a server, by packets that live for a few hops only: a private address behind this
//! host's own router is a second NAT, most likely.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use whyrelay_core::random::Random;
use whyrelay_core::trace::measurement::Measurement;
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method};

use super::journal::Journal;
use super::nat::Origin;
use super::question::{Heard, Question};
use crate::io::udp::UdpOptions;

/// Hops that are looked at: NATs stand near.
const HOPS: u8 = 4;

/// Packets for each hop, and the time between two: routers limit their ICMP errors.
const SENDS: u32 = 2;
const INTERVAL: Duration = Duration::from_millis(250);

/// After the last.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// Looks at all hops at once; each has a socket of its own, with its own TTL. What is sent to a server asks for an answer;
/// a third party's port need not know any (`Class::Indication`), and is no server that is silent then.
pub(crate) async fn look(
    journal: Journal,
    mut random: Random,
    (origin, remote): (Origin, SocketAddr),
    class: Class,
    options: UdpOptions,
    until: Instant,
) {
    let to = (origin, remote, class);
    let hops = (1..=HOPS).map(|ttl| hop(&journal, random.fork(), &to, ttl, options, until));
    let mut has_time = true;
    for (ttl, seen) in (1..=HOPS).zip(futures_util::future::join_all(hops.collect::<Vec<_>>()).await) {
        match seen {
            Seen::Router(router) => journal.measured(Measurement::Hop { remote, ttl, router: Some(router) }),
            Seen::Nobody => journal.measured(Measurement::Hop { remote, ttl, router: None }),
            // What is behind the server is of no interest.
            Seen::Server => return,
            Seen::NoTime => has_time = false,
            Seen::NotAsked => return journal.missing("routers on the way out", "no packet with a TTL could be sent"),
        }
    }
    if !has_time {
        journal.missing(format!("routers on the way to {remote}"), journal.no_time());
    }
}

/// The same for who waits: each router is told as soon as it has answered, and of a silent one nothing.
pub(crate) async fn look_quickly(
    journal: Journal,
    mut random: Random,
    to: (Origin, SocketAddr),
    options: UdpOptions,
    until: Instant,
) {
    let remote = to.1;
    let to = (to.0, remote, Class::Request);
    let with: Vec<_> = (1..=HOPS).map(|ttl| (ttl, random.fork())).collect();
    let look = |(ttl, random): (u8, Random)| {
        let (journal, to) = (&journal, &to);
        async move {
            if let Seen::Router(router) = hop(journal, random, to, ttl, options, until).await {
                journal.measured(Measurement::Hop { remote, ttl, router: Some(router) });
            }
        }
    };
    futures_util::future::join_all(with.into_iter().map(look)).await;
}

/// What became of the packets of one hop.
enum Seen {
    Router(IpAddr),
    Server,
    Nobody,
    NoTime,
    NotAsked,
}

async fn hop(
    journal: &Journal,
    mut random: Random,
    (origin, remote, class): &(Origin, SocketAddr, Class),
    ttl: u8,
    options: UdpOptions,
    until: Instant,
) -> Seen {
    let (from, options) =
        ((origin.address, origin.interface.as_deref()), UdpOptions { ttl: Some(ttl.into()), ..options });
    let Some(mut question) = Question::open(journal, &mut random, from, *remote, options) else {
        return Seen::NotAsked;
    };
    question.bytes = MessageBuilder::new(*class, Method::BINDING, question.id).fingerprint().build();
    for sent in 1..=SENDS {
        if question.send().is_err() {
            return Seen::NotAsked;
        }
        let wake = (Instant::now() + if sent == SENDS { LAST_WAIT } else { INTERVAL }).min(until);
        match question.heard(wake).await {
            Some(Heard::Refused { offender: Some(offender), expired: true, .. }) => return Seen::Router(offender),
            // The server itself refuses: it was reached.
            Some(Heard::Refused { offender: Some(offender), .. }) if offender == remote.ip() => return Seen::Server,
            Some(Heard::Answer { .. }) => return Seen::Server,
            // A firewall that lets nothing through is no further router: what it says is an event.
            Some(Heard::Refused { .. }) => return Seen::Nobody,
            None if Instant::now() >= until => return Seen::NoTime,
            None => {}
        }
    }
    Seen::Nobody
}
