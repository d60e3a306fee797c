//! What the collecting thread needs to know of a session, taken from its events.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::Instant;

use whyrelay_core::host::{HostFact, RoutePurpose, SocketProfile};
use whyrelay_core::trace::event::{Direction, EventKind, Transport};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Class, Message};

use super::{Flow, Input, OwnSocket};
use crate::io::disguise::DeviceName;

/// Most flows that the kernel is asked about.
const MAX_FLOWS: usize = 512;

/// Most sockets.
const MAX_SOCKETS: usize = 256;

/// Watches the events of a session and tells the collecting thread what is new.
#[derive(Debug)]
pub(crate) struct Tap {
    inputs: Sender<Input>,
    sockets: BTreeMap<(u8, SocketAddr), OwnSocket>,
    peers: BTreeSet<SocketAddr>,
    servers: BTreeSet<SocketAddr>,
    flows: BTreeSet<Flow>,
    /// How the next sockets are made, told ahead of their opening.
    profiles: BTreeMap<SocketAddr, SocketProfile>,
}

impl Tap {
    pub(super) fn new(inputs: Sender<Input>) -> Self {
        Self {
            inputs,
            sockets: BTreeMap::new(),
            peers: BTreeSet::new(),
            servers: BTreeSet::new(),
            flows: BTreeSet::new(),
            profiles: BTreeMap::new(),
        }
    }

    /// Looks at an event before it is recorded.
    pub(crate) fn see(&mut self, kind: &EventKind) {
        match kind {
            EventKind::HostFact { fact, .. } => {
                if let HostFact::SocketProfile(profile) = &**fact
                    && self.profiles.len() < MAX_SOCKETS
                {
                    self.profiles.insert(profile.local, profile.clone());
                }
            }
            EventKind::SocketOpened { transport, local, mark, .. } if self.sockets.len() < MAX_SOCKETS => {
                let profile = self.profiles.get(local).filter(|_| *transport == Transport::Udp);
                let socket = OwnSocket {
                    local: *local,
                    protocol: protocol(*transport),
                    mark: mark.unwrap_or(0),
                    user: profile.map(|profile| profile.user),
                    device: profile.and_then(|profile| DeviceName::new(profile.bound_device.as_deref()?)),
                    raw: profile.is_some_and(|profile| profile.raw),
                };
                self.sockets.insert((socket.protocol, *local), socket);
                self.tell(Input::Socket(socket));
            }
            EventKind::RemoteCandidate { candidate, resolved } => {
                if let Some(remote) = candidate.address.ip().or(*resolved)
                    && self.peers.len() < MAX_FLOWS
                    && self.peers.insert(remote)
                {
                    self.tell(Input::Candidate(remote));
                    // One question for each address: without a socket the port does not enter it.
                    let remote = SocketAddr::new(remote.ip(), 0);
                    self.flow(Flow { socket: None, remote, purpose: RoutePurpose::Peer, probe: false });
                }
            }
            EventKind::Datagram(datagram) if datagram.direction == Direction::Out => {
                let key = (protocol(datagram.transport), datagram.local);
                if self.servers.len() < MAX_FLOWS && is_server_request(&datagram.data) {
                    self.servers.insert(datagram.remote);
                }
                let is_server = self.servers.contains(&datagram.remote);
                let purpose = if is_server { RoutePurpose::Server } else { RoutePurpose::Peer };
                let socket = self.sockets.get(&key).copied();
                self.flow(Flow { socket, remote: datagram.remote, purpose, probe: false });
            }
            _ => {}
        }
    }

    /// A packet that the session does not send by its own sockets.
    pub(crate) fn ask_about(&mut self, flow: Flow) {
        self.flow(flow);
    }

    /// Connections are about to be made to there beside the session's sockets.
    pub(crate) fn connecting(&mut self, remote: SocketAddr) {
        self.tell(Input::Connecting(remote));
    }

    /// A connection beside the session's sockets that did not come about, of which the rules that touch it are told.
    pub(crate) fn connection(&mut self, local: SocketAddr, remote: SocketAddr) {
        self.tell(Input::Connection { local, remote, given_up: Instant::now() });
    }

    /// The checks are over.
    pub(crate) fn finish(&mut self) {
        self.tell(Input::Finish);
    }

    fn flow(&mut self, flow: Flow) {
        if self.flows.len() < MAX_FLOWS && self.flows.insert(flow) {
            self.tell(Input::Flow(flow));
        }
    }

    /// Fails only when the thread could not start.
    fn tell(&self, input: Input) {
        let _ = self.inputs.send(input);
    }
}

/// A request without two user fragments in its USERNAME is no connectivity check (RFC 8445 §7.1.1).
pub(crate) fn is_server_request(data: &[u8]) -> bool {
    let message = Message::decode(data).ok().filter(|message| message.class == Class::Request);
    message.is_some_and(|message| !message.text(AttributeType::USERNAME).is_some_and(|name| name.contains(':')))
}

fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Udp => 17,
        Transport::Tcp | Transport::Tls => 6,
    }
}
