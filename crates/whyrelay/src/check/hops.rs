//! The first routers on the way to a server, by packets that live for a few hops only: a private address behind this
//! host's own router is a second NAT, most likely.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use whyrelay_core::random::Random;
use whyrelay_core::trace::measurement::Measurement;

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

/// Looks at all hops at once; each has a socket of its own, with its own TTL.
pub(crate) async fn look(
    journal: Journal,
    mut random: Random,
    (origin, remote): (Origin, SocketAddr),
    options: UdpOptions,
    until: Instant,
) {
    let hops = (1..=HOPS).map(|ttl| hop(&journal, random.fork(), &origin, remote, ttl, options, until));
    for (ttl, seen) in (1..=HOPS).zip(futures_util::future::join_all(hops.collect::<Vec<_>>()).await) {
        match seen {
            Seen::Router(router) => journal.measured(Measurement::Hop { remote, ttl, router: Some(router) }),
            Seen::Nobody => journal.measured(Measurement::Hop { remote, ttl, router: None }),
            // What is behind the server is of no interest.
            Seen::Server => return,
            Seen::NotAsked => return journal.missing("routers on the way out", "no packet with a TTL could be sent"),
        }
    }
}

/// What became of the packets of one hop.
enum Seen {
    Router(IpAddr),
    Server,
    Nobody,
    NotAsked,
}

async fn hop(
    journal: &Journal,
    mut random: Random,
    origin: &Origin,
    remote: SocketAddr,
    ttl: u8,
    options: UdpOptions,
    until: Instant,
) -> Seen {
    let (from, options) =
        ((origin.address, origin.interface.as_deref()), UdpOptions { ttl: Some(ttl.into()), ..options });
    let Some(mut question) = Question::open(journal, &mut random, from, remote, options) else {
        return Seen::NotAsked;
    };
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
            None => {}
        }
    }
    Seen::Nobody
}
