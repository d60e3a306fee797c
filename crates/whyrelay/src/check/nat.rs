//! Drives NAT discovery with real sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use whyrelay_core::engine::nat_discovery::{DiscoveryConfig, Input, NatDiscovery, Output, SocketId};
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

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

/// Looks at the NAT in front of one local address, until everything is settled or `until`.
pub(crate) async fn discover(
    journal: Journal,
    random: Random,
    origin: Origin,
    config: DiscoveryConfig,
    options: UdpOptions,
    until: Instant,
) {
    let mut sockets = Sockets::new(journal.clone());
    let mut locals: BTreeMap<SocketId, SocketAddr> = BTreeMap::new();
    let mut machine = NatDiscovery::new(journal.now(), config, random);
    loop {
        let Some(deadline) = drain(&mut machine, &mut sockets, &mut locals, &journal, &origin, options) else { return };
        let wake = journal.clock().instant(deadline).min(until);
        let arrived = tokio::select! {
            arrived = sockets.recv(|_, _, _| None) => Some(arrived),
            () = tokio::time::sleep_until(wake.into()) => None,
        };
        let socket_of = |local: SocketAddr| locals.iter().find(|(_, own)| **own == local).map(|(socket, _)| *socket);
        let now = journal.now();
        match &arrived {
            Some(Arrived::Datagram { local, remote, bytes }) => {
                if let Some(socket) = socket_of(*local) {
                    machine.handle_input(now, Input::Datagram { socket, remote: *remote, bytes });
                }
            }
            Some(Arrived::Refused { local, remote, errno, .. }) => {
                if let Some(socket) = socket_of(*local) {
                    machine.handle_input(now, Input::SendFailed { socket, remote: *remote, errno: *errno });
                }
            }
            None if Instant::now() >= until => {
                let what = format!("the rest of the NAT's behavior for {}", origin.address.ip());
                return journal.missing(what, "the time of the check was over");
            }
            None => machine.handle_input(now, Input::Timeout),
        }
    }
}

/// Carries out what the machine wants; its deadline, or `None` when it is done.
fn drain(
    machine: &mut NatDiscovery,
    sockets: &mut Sockets,
    locals: &mut BTreeMap<SocketId, SocketAddr>,
    journal: &Journal,
    origin: &Origin,
    options: UdpOptions,
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
                machine.handle_input(journal.now(), input);
            }
            Output::Transmit { socket, remote, bytes } => {
                let Some(local) = locals.get(&socket) else { continue };
                if let Err(errno) = sockets.send(*local, remote, &bytes) {
                    machine.handle_input(journal.now(), Input::SendFailed { socket, remote, errno });
                }
            }
            Output::Event(kind) => journal.fact(kind),
            Output::Concluded => {}
            Output::Done => return None,
            Output::Timeout(deadline) => return Some(deadline),
        }
    }
}
