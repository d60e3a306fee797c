//! The servers asked from sockets like the application's (`--as`) and from a plain program's, side by side.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use whyrelay_core::host::{HostFact, Moment, ProfileTally};
use whyrelay_core::random::Random;
use whyrelay_core::trace::event::EventKind;

use super::journal::Journal;
use super::nat::Origin;
use super::question::{Heard, Question};
use crate::application::Suspect;
use crate::io::udp::UdpOptions;

/// Sends of one request, and the time between two.
const SENDS: u32 = 5;
const INTERVAL: Duration = Duration::from_millis(100);

/// Behind the last send: by satellite an answer takes 600 ms.
const LAST_WAIT: Duration = Duration::from_millis(400);

/// Servers that are asked.
const MAX_SERVERS: usize = 4;

/// Asks each server both ways, and tells how the sockets were made and how they fared.
pub(crate) async fn look(
    journal: Journal,
    mut random: Random,
    suspect: Suspect,
    servers: Vec<(Origin, SocketAddr)>,
    until: Instant,
) {
    let (options, missing) = suspect.permitted();
    let port = suspect.port.unwrap_or(0);
    let (mut own, mut plain) = (tally(true), tally(false));
    let (mut as_application, mut as_plain) = (Vec::new(), Vec::new());
    for (origin, server) in servers.into_iter().take(MAX_SERVERS) {
        let wanted = SocketAddr::new(origin.address.ip(), port);
        let any = SocketAddr::new(wanted.ip(), 0);
        let (mut one, mut other) = (random.fork(), random.fork());
        let (plainly, plain_journal) = (origin.clone(), journal.clone());
        let journal = journal.clone();
        as_application.push(async move {
            // The program that has the port is not disturbed: its mark and user stand on another.
            let free = std::net::UdpSocket::bind(wanted).is_ok();
            let from = if free { wanted } else { any };
            (free, ask(&journal, &mut one, &origin, from, server, options, until, true).await)
        });
        as_plain.push(async move {
            let options = UdpOptions::default();
            ask(&plain_journal, &mut other, &plainly, any, server, options, until, false).await
        });
    }
    let as_application = async {
        if port == 0 {
            return join_all(as_application).await;
        }
        // One port is for one socket at a time.
        let mut asked = Vec::new();
        for ask in as_application {
            asked.push(ask.await);
        }
        asked
    };
    // What is silent must not take the time of the others.
    let (as_application, as_plain) = tokio::join!(as_application, join_all(as_plain));
    let port_used = as_application.iter().all(|(free, _)| *free);
    as_application.into_iter().for_each(|(_, asked)| count(&mut own, asked));
    as_plain.into_iter().for_each(|asked| count(&mut plain, asked));
    fact(&journal, HostFact::Application(suspect.fact(port_used, &missing)));
    fact(&journal, HostFact::ProfileTally(own));
    fact(&journal, HostFact::ProfileTally(plain));
}

fn tally(as_application: bool) -> ProfileTally {
    ProfileTally { as_application, ..ProfileTally::default() }
}

/// `None`: nothing was sent, or not waited for.
fn count(tally: &mut ProfileTally, answered: Option<bool>) {
    let Some(answered) = answered else { return };
    tally.server_requests += 1;
    tally.server_answers += u32::from(answered);
}

fn fact(journal: &Journal, fact: HostFact) {
    journal.fact(EventKind::HostFact { moment: Moment::During, fact: Box::new(fact) });
}

/// One Binding request until it is answered; `None`: the socket could not be opened, or there was no time for the answer.
#[expect(clippy::too_many_arguments, reason = "one request and everything that it is made of")]
async fn ask(
    journal: &Journal,
    random: &mut Random,
    origin: &Origin,
    wanted: SocketAddr,
    server: SocketAddr,
    options: UdpOptions,
    until: Instant,
    as_application: bool,
) -> Option<bool> {
    // Told ahead of the opening, so that routes are asked about as this socket's; by the port that the system gave where
    // any would do: two sockets are never at one address.
    let announce = |local| {
        let profile = options.profile(local, as_application);
        fact(journal, HostFact::SocketProfile(profile));
    };
    let from = (wanted, origin.interface.as_deref());
    let mut question = Question::open_announced(journal, random, from, server, options, announce)?;
    let mut end = Instant::now();
    for sent in 1..=SENDS {
        // The system's refusal is an event of its own.
        let _ = question.send();
        end = Instant::now() + if sent == SENDS { LAST_WAIT } else { INTERVAL };
        let wake = end.min(until);
        while let Some(heard) = question.heard(wake).await {
            if let Heard::Answer { .. } = heard {
                return Some(true);
            }
        }
        if Instant::now() >= until {
            break;
        }
    }
    // What was not waited for to its end is not known.
    (end <= until).then_some(false)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use whyrelay_core::engine::stun_server;
    use whyrelay_core::wire::stun::Message;

    use super::super::journal::Entry;
    use super::*;
    use crate::io::clock::Clock;

    #[tokio::test]
    async fn each_socket_has_a_profile_of_its_own_also_without_a_port() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let remote = server.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            for _ in 0..2 {
                let (length, client) = server.recv_from(&mut buffer).unwrap();
                let answer = stun_server::answer(&Message::decode(&buffer[..length]).unwrap(), client).unwrap();
                server.send_to(&answer, client).unwrap();
            }
        });
        let suspect = Suspect::resolve(&format!("uid={}", nix::unistd::geteuid())).unwrap();
        let (journal, mut entries) = Journal::new(Clock::start());
        let origin = Origin { address: "127.0.0.1:0".parse().unwrap(), interface: None };
        let until = Instant::now() + Duration::from_secs(20);
        look(journal, Random::from_number(1), suspect, vec![(origin, remote)], until).await;
        answering.join().unwrap();
        let (mut told, mut opened) = (Vec::new(), Vec::new());
        while let Ok(entry) = entries.try_recv() {
            match entry {
                Entry::Fact(_, EventKind::HostFact { fact, .. }) => {
                    if let HostFact::SocketProfile(profile) = *fact {
                        told.push((profile.local, profile.as_application));
                    }
                }
                // Told ahead of it.
                Entry::Fact(_, EventKind::SocketOpened { local, .. }) => {
                    assert_eq!(told.last().map(|(told, _)| *told), Some(local));
                    opened.push(local);
                }
                _ => {}
            }
        }
        let [(own, true), (plain, false)] = told[..] else { panic!("{told:?}") };
        assert!(own != plain && own.port() != 0 && plain.port() != 0, "{told:?}");
        assert_eq!(opened, [own, plain]);
    }

    /// In the time of one silence all of them are counted, asked by either socket.
    #[tokio::test]
    async fn servers_that_are_silent_are_waited_for_side_by_side() {
        let silent = [(); MAX_SERVERS].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let suspect = Suspect::resolve(&format!("uid={}", nix::unistd::geteuid())).unwrap();
        let (journal, mut entries) = Journal::new(Clock::start());
        let origin = Origin { address: "127.0.0.1:0".parse().unwrap(), interface: None };
        let servers = silent.iter().map(|server| (origin.clone(), server.local_addr().unwrap())).collect();
        let silence = INTERVAL * (SENDS - 1) + LAST_WAIT;
        look(journal, Random::from_number(1), suspect, servers, Instant::now() + silence * 3).await;
        let tallies = std::iter::from_fn(|| entries.try_recv().ok()).filter_map(|entry| match entry {
            Entry::Fact(_, EventKind::HostFact { fact, .. }) => match *fact {
                HostFact::ProfileTally(tally) => Some((tally.server_requests, tally.server_answers)),
                _ => None,
            },
            _ => None,
        });
        assert_eq!(tallies.collect::<Vec<_>>(), [(4, 0), (4, 0)]);
    }
}
