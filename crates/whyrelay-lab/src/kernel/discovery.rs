//! What a stranger finds out about a host's NAT (RFC 5780), measured: the core's own machine asks a server of the lab from
//! the host's place.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use whyrelay_core::engine::nat_discovery::{DiscoveryConfig, Input, NatDiscovery, Output, SocketId};
use whyrelay_core::nat::behavior::Hairpinning;
use whyrelay_core::random::Random;
use whyrelay_core::time::{Now, Timestamp};
use whyrelay_core::trace::event::EventKind;
use whyrelay_core::trace::measurement::Measurement;

use super::error::LabError;
use super::lab::Lab;
use super::router::Clock;
use super::run::Conditions;
use super::services::with_discovery;
use crate::scenario::Topology;
use crate::scenario::file::Discovered;

/// How long it may take: what is not settled then is not to be found out.
const LIMIT: Duration = Duration::from_secs(10);

/// Between two looks at whether all is to end.
const LOOK: Duration = Duration::from_millis(50);

/// The largest datagram that is read.
const LARGEST: usize = 2048;

/// What is found out about the NAT of each host of which the scenario expects something, ahead of the session's server.
pub(super) fn discover(
    lab: &Lab,
    topology: &Topology,
    conditions: &Conditions<'_>,
) -> Result<BTreeMap<String, Discovered>, LabError> {
    let names = topology.expect.nat.keys();
    let mut addresses = topology.server.addresses.iter().map(|cidr| cidr.address).filter(IpAddr::is_ipv4);
    let (Some(first), Some(second)) = (addresses.next(), addresses.next()) else { return Ok(BTreeMap::new()) };
    if topology.expect.nat.is_empty() {
        return Ok(BTreeMap::new());
    }
    with_discovery(lab, conditions, [first, second], |server| {
        names
            .map(|name| {
                Ok((name.clone(), lab.enter(name, || of_host(topology, name, server, conditions.interrupted))?))
            })
            .collect()
    })
}

/// The same from inside of the host's namespace.
fn of_host(
    topology: &Topology,
    name: &str,
    server: SocketAddr,
    interrupted: &AtomicBool,
) -> Result<Discovered, LabError> {
    let nothing = Discovered { udp: Some(false), ..Discovered::default() };
    let addresses = topology.host(name).and_then(|host| host.interfaces.first()).map(|eth0| &eth0.addresses);
    let own = addresses.into_iter().flatten().map(|cidr| cidr.address).find(IpAddr::is_ipv4);
    let Some(own) = own else { return Ok(nothing) };
    let config = DiscoveryConfig {
        servers: vec![server],
        proving: vec![server],
        naming: false,
        hairpin: true,
        ports: false,
        patient: false,
    };
    let clock = Clock::new();
    let random = Random::from_number(topology.seed);
    let mut asking = Asking {
        clock,
        own,
        machine: NatDiscovery::new(clock.now(), config, random),
        sockets: BTreeMap::new(),
        found: nothing,
    };
    let until = clock.now() + LIMIT;
    while let Some(deadline) = asking.drain()? {
        LabError::if_set(interrupted)?;
        let now = clock.now();
        if now >= until {
            break;
        }
        asking.wait(deadline.min(until).min(now + LOOK), deadline);
    }
    Ok(asking.found)
}

/// One discovery under way.
struct Asking {
    clock: Clock,
    /// The address that it asks from.
    own: IpAddr,
    machine: NatDiscovery,
    sockets: BTreeMap<SocketId, UdpSocket>,
    found: Discovered,
}

impl Asking {
    /// Carries out what the machine wants; its deadline, or `None` when it is done.
    fn drain(&mut self) -> Result<Option<Timestamp>, LabError> {
        loop {
            match self.machine.poll_output() {
                Output::Open(socket) => {
                    let opened = UdpSocket::bind((self.own, 0)).and_then(|opened| {
                        opened.set_nonblocking(true)?;
                        Ok((opened.local_addr()?, opened))
                    });
                    let (local, opened) = opened.map_err(LabError::system("opening a socket"))?;
                    self.sockets.insert(socket, opened);
                    self.feed(Input::Opened { socket, local });
                }
                Output::Transmit { socket, remote, bytes } => {
                    let sent = self.sockets.get(&socket).map(|own| own.send_to(&bytes, remote));
                    if let Some(errno) = sent.and_then(|sent| sent.err()?.raw_os_error()) {
                        self.feed(Input::SendFailed { socket, remote, errno });
                    }
                }
                Output::Event(EventKind::Measured(measured)) => self.note(measured),
                Output::Event(_) | Output::Concluded => {}
                Output::Done => return Ok(None),
                Output::Timeout(deadline) => return Ok(Some(deadline)),
            }
        }
    }

    fn feed(&mut self, input: Input<'_>) {
        let now = self.clock.now();
        self.machine.handle_input(Now::ahead_of_timers(now, now), input);
    }

    /// Waits for a datagram or a moment, and tells the machine, also that its deadline has come.
    fn wait(&mut self, until: Timestamp, deadline: Timestamp) {
        let left = TimeSpec::from_duration(until.since(self.clock.now()));
        let mut all: Vec<PollFd<'_>> =
            self.sockets.values().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        let _ = ppoll(&mut all, Some(left), None);
        let heard = self.clock.now();
        let mut buffer = [0; LARGEST];
        let mut arrived = Vec::new();
        for (socket, own) in &self.sockets {
            loop {
                match own.recv_from(&mut buffer) {
                    Ok((length, remote)) => arrived.push((*socket, remote, buffer[..length].to_vec())),
                    // An ICMP error for something that was sent before; the next read may have a datagram.
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    Err(_) => break,
                }
            }
        }
        for (socket, remote, bytes) in &arrived {
            self.feed(Input::Datagram { socket: *socket, remote: *remote, bytes });
        }
        if self.clock.now() >= deadline {
            self.machine.handle_input(Now::timers(self.clock.now(), heard), Input::Timeout);
        }
    }

    fn note(&mut self, measured: Measurement) {
        let found = &mut self.found;
        match measured {
            Measurement::MappedAddress { local, mapped, .. } => {
                found.udp = Some(true);
                found.port_preservation.get_or_insert(local.port() == mapped.port());
            }
            Measurement::Mapping { behavior, .. } => found.mapping = Some(behavior),
            Measurement::Filtering { behavior, .. } => found.filtering = Some(behavior),
            Measurement::Hairpin { behavior, .. } => found.hairpinning = Some(behavior != Hairpinning::Unsupported),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    /// A server that says nothing: it would be waited for for seconds.
    #[test]
    fn what_is_to_end_is_not_finished_first() {
        let text = "title = \"t\"\n[host.a]\n[host.b]\n[expect]\npath = \"direct\"\n";
        let Scenario { mut topology, .. } = Scenario::parse("test", text).unwrap();
        let own = IpAddr::from([127, 0, 0, 1]);
        topology.hosts[0].interfaces[0].addresses[0].address = own;
        let silent = UdpSocket::bind((own, 0)).unwrap();
        let interrupted = AtomicBool::new(true);
        let found = of_host(&topology, "a", silent.local_addr().unwrap(), &interrupted);
        assert!(matches!(found, Err(LabError::Interrupted)), "{found:?}");
    }
}
