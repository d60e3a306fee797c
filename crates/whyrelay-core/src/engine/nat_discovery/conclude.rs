//! From what came and what did not to what the NAT does.

use std::net::SocketAddr;
use std::time::Duration;

use super::{
    Ended, FIRST_PORT_SOCKET, FilterTest, HAIRPIN, HAIRPIN_INTERVAL, HAIRPIN_TRIALS, LEAST_SILENCE, MAPPING,
    NatDiscovery, Output, PORT_SOCKETS, SocketId, TwoAddresses, What,
};
use crate::engine::transaction::Schedule;
use crate::nat::behavior::{FilteringBehavior, Hairpinning, MappingBehavior};
use crate::time::Timestamp;
use crate::trace::measurement::{Measurement, PortPair};
use crate::wire::attribute::AttributeType;
use crate::wire::stun::{Class, Message, MessageBuilder, Method};

/// A server that has not answered after this long is not waited for where others tell how the NAT maps: six of eight
/// requests are out by then. Its answer is told when it comes.
const ENOUGH: Duration = Duration::from_millis(600);

/// Marks the indications that we send to ourselves.
const HAIRPIN_MARK: &str = "whyrelay hairpin";

impl NatDiscovery {
    /// Says what has become known.
    pub(super) fn conclude(&mut self) {
        if !self.mapping_done {
            self.conclude_mapping();
        }
        if !self.filtering_done {
            self.conclude_filtering();
        }
        if !self.ports_done {
            self.conclude_ports();
        }
        if !self.hairpin.settled {
            self.advance_hairpin();
        }
        if self.mapping_done && self.filtering_done && !self.concluded {
            self.concluded = true;
            self.outputs.push_back(Output::Concluded);
        }
        let mapping_open = self.transactions.requests().any(|request| request.what == What::Mapping);
        let all_named = !self.config.naming && !mapping_open;
        if self.concluded && self.ports_done && self.hairpin.settled && all_named && !self.done {
            self.done = true;
            self.outputs.push_back(Output::Done);
        }
    }

    /// What a destination told, once it is settled.
    fn told(&self, destination: SocketAddr) -> Option<Ended> {
        self.mapped.iter().find(|(remote, _)| *remote == destination).map(|(_, ended)| *ended)
    }

    fn seen_by(&self, destination: SocketAddr) -> Option<SocketAddr> {
        match self.told(destination) {
            Some(Ended::Answered { mapped, .. }) => Some(mapped),
            _ => None,
        }
    }

    fn is_asking(&self, what: What) -> bool {
        self.transactions.requests().any(|request| request.what == what)
    }

    /// Whether a server may still tell a mapped address.
    fn is_waiting(&self) -> bool {
        self.config.naming || self.is_asking(What::Mapping)
    }

    /// What destinations that answered told.
    fn answers(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.mapped.iter().filter_map(|(remote, _)| Some((*remote, self.seen_by(*remote)?))).collect()
    }

    /// From when on the mapping is told without the servers that are silent. `None`: nothing waits for that.
    pub(super) fn enough_at(&self) -> Option<Timestamp> {
        // The addresses of one server are compared when all of them have spoken, or been silent long enough.
        let is_comparing = self.server.is_some_and(|server| {
            [server.primary, server.other_ip(), server.other]
                .iter()
                .any(|destination| self.told(*destination).is_none())
        });
        if self.mapping_done || !self.is_waiting() || is_comparing || behavior_of(&self.answers()).is_none() {
            return None;
        }
        let slowest = self.round_trips.values().max().copied().unwrap_or_default();
        Some(self.last_asked + (slowest * 3).max(ENOUGH))
    }

    /// RFC 5780 §4.3, from whatever destinations there are.
    fn conclude_mapping(&mut self) {
        let settled = match &self.server {
            Some(server) => {
                let destinations = [server.primary, server.other_ip(), server.other];
                destinations.iter().all(|destination| self.seen_by(*destination).is_some())
            }
            None => false,
        };
        let is_enough = self.enough_at().is_some_and(|at| at <= self.now.heard);
        if !settled && !is_enough && self.is_waiting() {
            return;
        }
        self.mapping_done = true;
        let answers = self.answers();
        let (Some(local), Some(&(_, first))) = (self.local(MAPPING), answers.first()) else {
            return self.missing("mapping", self.without_answers());
        };
        let Some((behavior, exact)) = behavior_of(&answers) else {
            let why = self.without_second("it takes servers at two addresses, or one that has two (RFC 5780)");
            return self.missing("mapping", &why);
        };
        let destinations = answers.into_iter().map(|(remote, _)| remote).collect();
        self.tell(Measurement::Mapping { local, behavior, exact, mapped: first, destinations });
    }

    /// Why no server's second address is known; `otherwise`, where none is known to have one.
    fn without_second(&self, otherwise: &str) -> String {
        let silent = self.config.proving.first().filter(|server| self.seen_by(**server).is_none());
        let from = |server| {
            format!("the server would answer from a second address, and {server}, its port for that, is silent")
        };
        silent.map_or_else(|| otherwise.to_owned(), from)
    }

    /// RFC 5780 §4.4.
    fn conclude_filtering(&mut self) {
        let Some(server) = self.server else {
            if !self.is_waiting() {
                self.filtering_done = true;
                let why = if self.first.is_some() {
                    self.without_second("no server has a second address to answer from (RFC 5780)")
                } else {
                    self.without_answers().to_owned()
                };
                self.missing("filtering", &why);
            }
            return;
        };
        let [from_address, from_port] = self.filters.map(|test| test.ended);
        let source = |ended: Option<Ended>| match ended {
            Some(Ended::Answered { from, .. }) => Some(from),
            _ => None,
        };
        let other_ip = |from: &SocketAddr| from.ip() != server.primary.ip();
        let other_port = |from: &SocketAddr| !other_ip(from) && from.port() != server.primary.port();
        if source(from_address).as_ref().is_some_and(other_ip) {
            return self.filtered(server, FilteringBehavior::EndpointIndependent);
        }
        let port_answered = source(from_port).as_ref().is_some_and(other_port);
        // Answered, but from where it was sent to or with an error: the server does not do what it announces.
        let refused = |ended: Option<Ended>| matches!(ended, Some(Ended::Answered { .. } | Ended::Refused(_)));
        if refused(from_address) || refused(from_port) && !port_answered {
            self.filtering_done = true;
            return self.missing("filtering", "the server announces a second address and does not answer from it");
        }
        let silent = |test: usize| self.silence_of(test).is_some_and(|end| end <= self.now.heard);
        if self.is_asking(What::Proof) {
            return;
        }
        if !self.filters[0].started || !self.filters[1].started {
            self.filtering_done = true;
            return self.missing("filtering", "its sockets could not be opened");
        }
        let behavior = match (silent(0), port_answered, silent(1)) {
            (true, true, _) => FilteringBehavior::AddressDependent,
            (true, false, true) => FilteringBehavior::AddressAndPortDependent,
            _ => return,
        };
        // Silence of an address that answers nobody tells nothing.
        let mut controls = vec![server.other];
        if behavior == FilteringBehavior::AddressAndPortDependent {
            controls.push(server.other_port());
        }
        if controls.iter().all(|control| self.seen_by(*control).is_some()) {
            self.filtered(server, behavior);
        } else if controls.iter().all(|control| self.told(*control).is_some()) {
            self.filtering_done = true;
            self.missing("filtering", "the server's second address does not answer either where any NAT lets it");
        }
    }

    fn filtered(&mut self, server: TwoAddresses, behavior: FilteringBehavior) {
        self.filtering_done = true;
        self.transactions.cancel(|request| request.what == What::Filter);
        let silent = self.filters.iter().filter(|test| test.ended.is_none());
        let transmissions = silent.map(|test| test.transmissions).max().unwrap_or(0);
        if let Some(local) = self.local(MAPPING) {
            let (local, server) = (local.ip(), server.primary);
            self.tell(Measurement::Filtering { local, behavior, server, transmissions });
        }
    }

    /// When the silence of a filtering test will have lasted long enough to count. `None`: it was answered.
    fn silence_of(&self, test: usize) -> Option<Timestamp> {
        let FilterTest { counted, transmissions, ended, .. } = self.filters[test];
        match ended {
            Some(Ended::Silent) => return Some(self.now.heard),
            Some(_) => return None,
            None => {}
        }
        let all_sent = transmissions as usize >= Schedule::SILENCE.transmissions();
        counted.filter(|_| all_sent).map(|counted| counted + (self.round_trip() * 3).max(LEAST_SILENCE))
    }

    /// The next silence that will count.
    pub(super) fn silence_ends(&self) -> Option<Timestamp> {
        if self.filtering_done || self.server.is_none() {
            return None;
        }
        // Once past, what is waited for is the control's answer, which has its own timer.
        (0..2).filter_map(|test| self.silence_of(test)).filter(|end| *end > self.now.heard).min()
    }

    /// The larger of the round trips to the server's two addresses.
    fn round_trip(&self) -> Duration {
        let Some(server) = self.server else { return Duration::ZERO };
        let best = |one: SocketAddr, two: SocketAddr| {
            let known = [one, two].into_iter().filter_map(|remote| self.round_trips.get(&remote));
            known.min().copied().unwrap_or_default()
        };
        best(server.primary, server.other_port()).max(best(server.other, server.other_ip()))
    }

    fn conclude_ports(&mut self) {
        if self.first.is_none() {
            if !self.is_waiting() {
                self.ports_done = true;
            }
            return;
        }
        if self.is_asking(What::Port) {
            return;
        }
        self.ports_done = true;
        let sockets = std::iter::once(MAPPING).chain((0..PORT_SOCKETS).map(|n| SocketId(FIRST_PORT_SOCKET + n)));
        let (mut ports, mut addresses) = (Vec::new(), Vec::new());
        for socket in sockets {
            let mapped = match (socket, self.ports.get(&socket)) {
                (MAPPING, _) => self.first.and_then(|first| self.seen_by(first)),
                (_, Some(Ended::Answered { mapped, .. })) => Some(*mapped),
                _ => None,
            };
            let (Some(local), Some(mapped)) = (self.local(socket), mapped) else { continue };
            ports.push(PortPair { internal: local.port(), external: mapped.port() });
            if !addresses.contains(&mapped.ip()) {
                addresses.push(mapped.ip());
            }
        }
        if let Some(local) = self.local(MAPPING) {
            self.tell(Measurement::PortAllocation { local: local.ip(), ports, addresses });
        }
    }

    /// Sends both ways between two of our sockets by way of their mapped addresses, once the rest is known.
    fn advance_hairpin(&mut self) {
        if self.first.is_none() {
            if !self.is_waiting() {
                self.hairpin.settled = true;
                self.missing("hairpinning", self.without_answers());
            }
            return;
        }
        let ours = self.first.and_then(|first| self.seen_by(first));
        let (Some(theirs), Some(ours), Some(next)) = (self.hairpin.mapped, ours, self.hairpin.next) else { return };
        // After the other tests: it opens the door of the socket that they use.
        if next > self.now.heard || !self.concluded {
            return;
        }
        if self.hairpin.sent < HAIRPIN_TRIALS {
            self.hairpin.sent += 1;
            self.hairpin.next = Some(self.now.time + HAIRPIN_INTERVAL);
            for (socket, remote) in [(HAIRPIN, ours), (MAPPING, theirs)] {
                let id = self.random.transaction_id();
                let builder = MessageBuilder::new(Class::Indication, Method::BINDING, id);
                let bytes = builder.text(AttributeType::SOFTWARE, HAIRPIN_MARK).fingerprint().build();
                self.outputs.push_back(Output::Transmit { socket, remote, bytes });
            }
            if self.hairpin.sent == HAIRPIN_TRIALS {
                self.hairpin.next = Some(self.now.time + LEAST_SILENCE);
            }
            return;
        }
        self.hairpin.settled = true;
        self.hairpin.next = None;
        let super::Hairpin { sent, arrived, internal, .. } = self.hairpin;
        let behavior = match (arrived, internal) {
            (0, _) => Hairpinning::Unsupported,
            (_, true) => Hairpinning::InternalSource,
            (_, false) => Hairpinning::ExternalSource,
        };
        if let Some(local) = self.local(MAPPING) {
            self.tell(Measurement::Hairpin { local, mapped: ours, behavior, sent, arrived });
        }
    }

    /// An indication arrived on one of our sockets: our own, if it is the hairpinning test's.
    pub(super) fn hairpinned(&mut self, socket: SocketId, remote: SocketAddr, message: &Message<'_>) {
        let is_ours = message.text(AttributeType::SOFTWARE) == Some(HAIRPIN_MARK);
        if socket == MAPPING && is_ours && self.hairpin.arrived < self.hairpin.sent {
            self.hairpin.arrived += 1;
            self.hairpin.internal |= self.local(HAIRPIN) == Some(remote) && self.hairpin.mapped != Some(remote);
        }
    }
}

/// How the mapping depends on the destination, and whether that is exact. `None`: too few destinations.
fn behavior_of(answers: &[(SocketAddr, SocketAddr)]) -> Option<(MappingBehavior, bool)> {
    let pairs = || {
        let each = answers.iter().enumerate();
        each.flat_map(|(at, one)| answers[at + 1..].iter().map(move |other| (one, other)))
    };
    let same_ip = || pairs().filter(|(one, other)| one.0.ip() == other.0.ip());
    let differ = |((_, one), (_, other)): (&(SocketAddr, SocketAddr), &(SocketAddr, SocketAddr))| one != other;
    let other_ip_differs = pairs().filter(|(one, other)| one.0.ip() != other.0.ip()).any(differ);
    let compared_ips = pairs().any(|(one, other)| one.0.ip() != other.0.ip());
    if same_ip().any(differ) {
        return Some((MappingBehavior::AddressAndPortDependent, true));
    }
    if !compared_ips {
        return None;
    }
    let exact = same_ip().next().is_some();
    Some(match other_ip_differs {
        true => (MappingBehavior::AddressDependent, exact),
        false => (MappingBehavior::EndpointIndependent, true),
    })
}
