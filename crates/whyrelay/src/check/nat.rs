//! Drives NAT discovery with real sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::sync::mpsc;
use whyrelay_core::engine::nat_discovery::{DiscoveryConfig, Input, NatDiscovery, Output, SocketId};
use whyrelay_core::random::Random;
use whyrelay_core::time::{Now, Timestamp};

use super::journal::Journal;
use super::sockets::{Arrived, Sockets};
use crate::io::udp::UdpOptions;

/// A local address to look from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The address, port 0, with its scope.
    pub(crate) address: SocketAddr,
    /// The interface that has it.
    pub(crate) interface: Option<String>,
}

/// A server that becomes known while the NAT is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    pub(crate) remote: SocketAddr,
    /// Whether it is one of [`DiscoveryConfig::proving`].
    pub(crate) proving: bool,
}

/// Servers that become known while the NAT is looked at; the end of the channel is that of naming.
pub(crate) struct Naming {
    pub(crate) servers: mpsc::UnboundedReceiver<Named>,
    /// Whether no further one is waited for when mapping and filtering are known.
    pub(crate) is_brief: bool,
}

/// Looks at the NAT in front of one local address, until everything is settled or `until`.
pub(crate) async fn discover(
    journal: Journal,
    random: Random,
    origin: Origin,
    (config, mut naming): (DiscoveryConfig, Option<Naming>),
    options: UdpOptions,
    until: Instant,
) {
    let mut sockets = Sockets::new(journal.clone());
    let mut locals: BTreeMap<SocketId, SocketAddr> = BTreeMap::new();
    let config = DiscoveryConfig { naming: naming.is_some(), ..config };
    let is_brief = naming.as_ref().is_some_and(|naming| naming.is_brief);
    let mut machine = NatDiscovery::new(journal.now(), config, random);
    loop {
        let with = (&journal, &origin, options, is_brief);
        let Some(deadline) = drain(&mut machine, &mut sockets, &mut locals, with) else { return };
        let wake = journal.clock().instant(deadline).min(until);
        let arrived = tokio::select! {
            named = next_named(&mut naming) => {
                let now = Now::ahead_of_timers(journal.now(), journal.now());
                match named {
                    Some(Named { remote, proving }) => machine.handle_input(now, Input::Server { remote, proving }),
                    None => {
                        naming = None;
                        machine.handle_input(now, Input::Complete);
                    }
                }
                continue;
            }
            arrived = sockets.recv(wake) => arrived,
        };
        let socket_of = |local: SocketAddr| locals.iter().find(|(_, own)| **own == local).map(|(socket, _)| *socket);
        match &arrived {
            // What came in time is handled as such, however late we come to it.
            Some(Arrived::Datagram { at, local, remote, bytes }) => {
                if let Some(socket) = socket_of(*local) {
                    let now = Now::ahead_of_timers(journal.now(), *at);
                    machine.handle_input(now, Input::Datagram { socket, remote: *remote, bytes });
                }
            }
            Some(Arrived::Refused { local, remote, errno, .. }) => {
                if let Some(socket) = socket_of(*local) {
                    let now = Now::ahead_of_timers(journal.now(), journal.now());
                    machine.handle_input(now, Input::SendFailed { socket, remote: *remote, errno: *errno });
                }
            }
            None if Instant::now() >= until => {
                let what = format!("the rest of the NAT's behavior for {}", origin.address.ip());
                return journal.missing(what, journal.no_time());
            }
            None => machine.handle_input(Now::timers(journal.now(), sockets.heard()), Input::Timeout),
        }
    }
}

/// The next server that becomes known, and `None` at the end of naming, once.
async fn next_named(naming: &mut Option<Naming>) -> Option<Named> {
    match naming {
        Some(naming) => naming.servers.recv().await,
        None => std::future::pending().await,
    }
}

/// Carries out what the machine wants; its deadline, or `None` when it is done.
fn drain(
    machine: &mut NatDiscovery,
    sockets: &mut Sockets,
    locals: &mut BTreeMap<SocketId, SocketAddr>,
    (journal, origin, options, is_brief): (&Journal, &Origin, UdpOptions, bool),
) -> Option<Timestamp> {
    loop {
        match machine.poll_output() {
            Output::Open(socket) => {
                let opened = sockets.open(origin.address, origin.interface.as_deref(), options);
                let input = match opened {
                    Ok(local) => {
                        locals.insert(socket, local);
                        Input::Opened { socket, local }
                    }
                    Err(_) => Input::OpenFailed { socket },
                };
                machine.handle_input(Now::ahead_of_timers(journal.now(), journal.now()), input);
            }
            Output::Transmit { socket, remote, bytes } => {
                let Some(local) = locals.get(&socket) else { continue };
                if let Err(errno) = sockets.send(*local, remote, &bytes) {
                    let now = Now::ahead_of_timers(journal.now(), journal.now());
                    machine.handle_input(now, Input::SendFailed { socket, remote, errno });
                }
            }
            Output::Event(kind) => journal.fact(kind),
            Output::Concluded if is_brief => {
                machine.handle_input(Now::ahead_of_timers(journal.now(), journal.now()), Input::Complete);
            }
            Output::Concluded => {}
            Output::Done => return None,
            Output::Timeout(deadline) => return Some(deadline),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use whyrelay_core::engine::stun_server;
    use whyrelay_core::trace::event::EventKind;
    use whyrelay_core::trace::measurement::Measurement;
    use whyrelay_core::wire::stun::Message;

    use super::super::journal::Entry;
    use super::*;
    use crate::io::clock::Clock;

    #[tokio::test]
    async fn an_answer_that_came_in_time_counts_when_the_process_stood_still_until_the_time_was_over() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (journal, mut entries) = Journal::new(Clock::start());
        let origin = Origin { address: "127.0.0.1:0".parse().unwrap(), interface: None };
        let servers = vec![server.local_addr().unwrap()];
        let config = DiscoveryConfig {
            servers,
            proving: Vec::new(),
            hairpin: false,
            ports: false,
            naming: false,
            patient: false,
        };
        let until = Instant::now() + Duration::from_secs(3);
        let looking = discover(journal, Random::from_number(1), origin, (config, None), UdpOptions::default(), until);
        // The runtime has one thread, which sleeps here from the request until the time is over.
        let standing_still = async {
            let mut buffer = [0; 1500];
            let (length, client) = server.recv_from(&mut buffer).unwrap();
            let answer = stun_server::answer(&Message::decode(&buffer[..length]).unwrap(), client).unwrap();
            server.send_to(&answer, client).unwrap();
            std::thread::sleep(until.saturating_duration_since(Instant::now()) + Duration::from_millis(10));
        };
        futures_util::future::join(looking, standing_still).await;
        let told = std::iter::from_fn(|| entries.try_recv().ok())
            .any(|entry| matches!(entry, Entry::Fact(_, EventKind::Measured(Measurement::MappedAddress { .. }))));
        assert!(told, "the answer was not read before the time was called over");
    }
}
