//! Which socket asks which server: names, addresses, pacing.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::super::local_candidates::{Found, is_usable};
use super::super::server_url::{ServerHost, ServerProtocol};
use super::{Gatherer, LocalSocket, MAX_SOCKETS, Output, PACING, Schedule, Server, State};
use crate::ice::candidate::{CandidateTransport, CandidateType};
use crate::time::Timestamp;
use crate::trace::event::{EventKind, ServerFailure, Transport};
use crate::wire::stun::Method;

/// Servers of one session; more are ignored.
const MAX_SERVERS: usize = 16;

/// A server and what is known of it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) server: Server,
    /// Its URL, for events.
    pub(super) label: String,
    state: Names,
    /// Transactions and connections started or queued for it.
    pub(super) attempts: usize,
    /// Local addresses that connect to it.
    connected_from: BTreeSet<IpAddr>,
    /// Whether it was said that no socket reaches it.
    unreached: bool,
}

/// Whether its addresses are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// [`Output::Resolve`] was said; left by the answer, or at the deadline for [`Names::Failed`].
    Asked { until: Timestamp },
    /// The addresses are in [`Server::addresses`].
    Known,
    /// There will be none.
    Failed,
}

/// One thing to start, in its turn.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// Ask for a reflexive address.
    Binding { socket: usize, target: Target },
    /// Ask for an allocation over UDP.
    Allocate { socket: usize, target: Target },
    /// Connect, then ask.
    Connect { local: IpAddr, interface: Option<String>, target: Target },
}

/// A server's address, and how we came to it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) server: usize,
    pub(super) remote: SocketAddr,
    /// The servers that sent us there.
    pub(super) redirected_from: Vec<SocketAddr>,
}

impl Known {
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            Names::Asked { until } => Some(until),
            Names::Known | Names::Failed => None,
        }
    }

    /// The method that it is asked with, for events.
    pub(super) const fn method(&self) -> Method {
        match self.server.url.protocol() {
            ServerProtocol::Stun => Method::BINDING,
            ServerProtocol::Turn => Method::ALLOCATE,
        }
    }
}

impl Gatherer {
    pub(super) fn add_socket(&mut self, socket: LocalSocket) {
        let known = self.sockets.iter().any(|s| s.transport == socket.transport && s.local == socket.local);
        if known || self.sockets.len() >= MAX_SOCKETS || self.is_closing() {
            return;
        }
        self.candidate(
            &Found {
                kind: CandidateType::Host,
                transport: socket.transport,
                address: socket.local,
                base: socket.local,
                related: None,
                interface: socket.interface.clone(),
                server: None,
            },
            None,
        );
        self.sockets.push(socket);
        for server in 0..self.servers.len() {
            self.plan(self.sockets.len() - 1, server);
        }
    }

    pub(super) fn add_server(&mut self, now: Timestamp, mut server: Server) {
        let known = self.servers.iter().any(|known| known.server.url == server.url);
        if known || self.servers.len() >= MAX_SERVERS || self.is_closing() {
            return;
        }
        let label = server.url.to_string();
        let mut state = Names::Known;
        match server.url.host() {
            ServerHost::Ip(ip) => server.addresses = vec![*ip],
            ServerHost::Name(name) if server.addresses.is_empty() && self.is_wanted(&server) => {
                let asked = |known: &Known| matches!(known.state, Names::Asked { .. }) && known.name() == Some(name);
                if !self.servers.iter().any(asked) {
                    self.outputs.push_back(Output::Resolve { name: name.clone() });
                }
                // As long as a silent server gets.
                state = Names::Asked { until: now + self.schedule(Transport::Tcp).total() };
            }
            ServerHost::Name(_) => {}
        }
        self.servers.push(Known {
            server,
            label,
            state,
            attempts: 0,
            connected_from: BTreeSet::new(),
            unreached: false,
        });
        self.plan_server(self.servers.len() - 1);
    }

    pub(super) fn resolved(&mut self, name: &str, addresses: &[IpAddr]) {
        if addresses.is_empty() {
            return self.unresolved(name, "the name has no address");
        }
        for index in 0..self.servers.len() {
            let known = &mut self.servers[index];
            if matches!(known.state, Names::Asked { .. }) && known.name() == Some(name) {
                known.state = Names::Known;
                known.server.addresses = addresses.to_vec();
                self.plan_server(index);
            }
        }
    }

    pub(super) fn unresolved(&mut self, name: &str, detail: &str) {
        for index in 0..self.servers.len() {
            let known = &self.servers[index];
            if matches!(known.state, Names::Asked { .. }) && known.name() == Some(name) {
                self.name_failed(index, detail);
            }
        }
    }

    pub(super) fn expire_names(&mut self, heard: Timestamp) {
        for index in 0..self.servers.len() {
            if self.servers[index].deadline().is_some_and(|until| until <= heard) {
                let patience = self.schedule(Transport::Tcp).total();
                self.name_failed(index, &format!("no answer from the resolver within {} s", patience.as_secs()));
            }
        }
    }

    fn name_failed(&mut self, index: usize, detail: &str) {
        self.servers[index].state = Names::Failed;
        let failure = ServerFailure::Unresolved { detail: detail.to_owned() };
        self.server_failed(index, None, failure);
    }

    pub(super) fn server_failed(&mut self, index: usize, local: Option<SocketAddr>, failure: ServerFailure) {
        let known = &self.servers[index];
        let (server, method) = (known.label.clone(), known.method().to_string());
        self.outputs.push_back(Output::Event(EventKind::ServerFailed { server, local, method, failure }));
    }

    /// Whether every server was resolved or given up; says so where no socket reaches one.
    pub(super) fn are_servers_settled(&mut self) -> bool {
        if self.servers.iter().any(|known| matches!(known.state, Names::Asked { .. })) {
            return false;
        }
        for index in 0..self.servers.len() {
            let known = &self.servers[index];
            let unreached = known.state == Names::Known && known.attempts == 0 && self.is_wanted(&known.server);
            if unreached && !std::mem::replace(&mut self.servers[index].unreached, true) {
                self.server_failed(index, None, ServerFailure::NoLocalAddress);
            }
        }
        true
    }

    /// Where its servers are asked over UDP, as far as their names are known; those for STUN also where only relays are
    /// wanted.
    pub fn servers_over_udp(&self) -> impl Iterator<Item = SocketAddr> {
        let over_udp = self.servers.iter().filter(|known| {
            let url = &known.server.url;
            url.transport() == Transport::Udp
                && (url.protocol() == ServerProtocol::Stun || self.is_wanted(&known.server))
        });
        over_udp.flat_map(|known| {
            // A name that is not wanted for itself may be known all the same.
            let alike = |other: &&Known| other.name().is_some() && other.name() == known.name();
            let named = self.servers.iter().filter(alike).map(|other| &other.server.addresses);
            let addresses = std::iter::once(&known.server.addresses).chain(named).find(|all| !all.is_empty());
            let port = known.server.url.port();
            addresses.into_iter().flatten().map(move |ip| SocketAddr::new(*ip, port))
        })
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing(_) | State::Closed)
    }

    /// Whether the configuration lets a server be asked.
    fn is_wanted(&self, server: &Server) -> bool {
        match server.url.protocol() {
            ServerProtocol::Stun => !self.config.relay_only,
            ServerProtocol::Turn => !self.config.no_turn,
        }
    }

    fn plan_server(&mut self, server: usize) {
        for socket in 0..self.sockets.len() {
            self.plan(socket, server);
        }
    }

    /// Queues what a socket asks a server.
    fn plan(&mut self, socket: usize, server: usize) {
        let known = &self.servers[server];
        if known.state != Names::Known || !self.is_wanted(&known.server) {
            return;
        }
        let LocalSocket { local, interface, transport } = self.sockets[socket].clone();
        let url = &known.server.url;
        let port = url.port();
        let mut addresses = known.server.addresses.iter().map(|&ip| SocketAddr::new(ip, port));
        let Some(remote) = addresses.find(|&remote| is_reachable(local, remote)) else { return };
        let target = Target { server, remote, redirected_from: Vec::new() };
        let over_udp = url.transport() == Transport::Udp;
        let limit = match (url.protocol(), over_udp) {
            (ServerProtocol::Stun, true) => MAX_SOCKETS,
            // Gives no candidate, only the knowledge that the server answers.
            (ServerProtocol::Stun, false) => 1,
            (ServerProtocol::Turn, _) => self.config.allocations_per_server,
        };
        if known.attempts >= limit {
            return;
        }
        let task = match (url.protocol(), over_udp) {
            (_, false) if known.connected_from.contains(&local.ip()) => return,
            (_, false) => Task::Connect { local: local.ip(), interface, target },
            (_, true) if transport != CandidateTransport::Udp => return,
            (ServerProtocol::Stun, true) => Task::Binding { socket, target },
            (ServerProtocol::Turn, true) => Task::Allocate { socket, target },
        };
        let known = &mut self.servers[server];
        known.attempts += 1;
        if !over_udp {
            known.connected_from.insert(local.ip());
        }
        self.queue.push_back(task);
    }

    /// Starts the next task, one every Ta.
    pub(super) fn start_next(&mut self, now: Timestamp) {
        if now < self.next_start {
            return;
        }
        let Some(task) = self.queue.pop_front() else { return };
        self.next_start = now + PACING;
        match task {
            Task::Binding { socket, target } => self.start_binding(now, socket, &target),
            Task::Allocate { socket, target } => self.start_allocation(now, socket, target),
            Task::Connect { local, interface, target } => self.start_stream(now, local, interface, target, None),
        }
    }

    /// Follows ALTERNATE-SERVER (RFC 8489 §10), or says why not.
    pub(super) fn redirect(
        &mut self,
        from: Target,
        local: SocketAddr,
        alternate: SocketAddr,
        task: impl FnOnce(Target) -> Task,
    ) {
        /// Servers that one attempt is sent on to.
        const MAX_REDIRECTIONS: usize = 3;
        let mut redirected_from = from.redirected_from;
        redirected_from.push(from.remote);
        let refusal = if redirected_from.contains(&alternate) {
            Some("back to a server that already redirected us")
        } else if redirected_from.len() > MAX_REDIRECTIONS {
            Some("once more, after three redirections")
        } else if !is_usable(alternate) || !is_reachable(local, alternate) {
            Some("which cannot be reached from this socket")
        } else {
            None
        };
        match refusal {
            Some(why) => {
                let detail = format!("the server redirects to {alternate}, {why}");
                self.server_failed(from.server, Some(local), ServerFailure::BadResponse { detail });
            }
            None if !self.is_closing() => {
                self.queue.push_front(task(Target { server: from.server, remote: alternate, redirected_from }));
            }
            None => {}
        }
    }

    /// An address of a server was silent: asks the next one of its name that this socket reaches, if there is one.
    pub(super) fn ask_next_address(
        &mut self,
        server: usize,
        local: IpAddr,
        silent: SocketAddr,
        task: impl FnOnce(Target) -> Task,
    ) {
        /// Addresses of one name that a socket asks, one after the other.
        const MAX_ASKED: usize = 3;
        if self.is_closing() {
            return;
        }
        let known = &self.servers[server];
        let port = known.server.url.port();
        let reachable = known.server.addresses.iter().map(|&ip| SocketAddr::new(ip, port));
        let reachable = reachable.filter(|&remote| is_reachable(SocketAddr::new(local, 0), remote)).take(MAX_ASKED);
        // An alternate server's address is not among them: there is nothing behind it.
        if let Some(remote) = reachable.skip_while(|&remote| remote != silent).nth(1) {
            self.queue.push_back(task(Target { server, remote, redirected_from: Vec::new() }));
        }
    }

    pub(super) fn stream_schedule(&self) -> Schedule {
        self.schedule(Transport::Tcp)
    }
}

impl Known {
    fn name(&self) -> Option<&str> {
        match self.server.url.host() {
            ServerHost::Name(name) => Some(name),
            ServerHost::Ip(_) => None,
        }
    }
}

/// Whether a socket can reach an address at all: same family, and loopback and link-local stay among themselves.
fn is_reachable(local: SocketAddr, remote: SocketAddr) -> bool {
    let link_local = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let (local, remote) = (local.ip(), remote.ip());
    local.is_ipv4() == remote.is_ipv4()
        && !local.is_unspecified()
        && local.is_loopback() == remote.is_loopback()
        && link_local(local) == link_local(remote)
}
