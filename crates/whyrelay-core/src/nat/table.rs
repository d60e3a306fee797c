//! A simulated NAT for UDP: the table that turns inside addresses into outside ones and back. Time is an argument.
//!
//! Two kinds of state, as in RFC 4787: a *binding* gives an internal endpoint its external one, for all destinations
//! or for some of them; a *flow* remembers that an internal endpoint sent to a destination, which is what filtering
//! asks for. Both end when they are idle for [`Behavior::lifetime`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::random::Random;
use crate::time::Timestamp;

use super::behavior::{Behavior, FilteringBehavior, Hairpinning, MappingBehavior, Pooling, PortAllocation};
use super::behavior::{Refresh, Unsolicited};

/// How long an unsolicited inbound packet occupies its place in the table: Linux's timeout of an unanswered UDP flow.
pub const TRACKED_LIFETIME: Duration = Duration::from_secs(30);

/// External ports that are given out, as Linux and most routers have it: the well-known ones are preserved, not chosen.
const PORTS: RangeInclusive<u16> = 1024..=65535;

/// Random tries before the search for a free port goes through the range in order.
const RANDOM_TRIES: u32 = 128;

/// How many flows a table holds unless told otherwise: Linux's conntrack on a small router.
pub const DEFAULT_CAPACITY: usize = 65_536;

/// Later than every end.
const NEVER: Timestamp = Timestamp::from_micros(u64::MAX);

/// What of the destination a binding depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    All,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

/// Gives an internal endpoint its external one. Enters with the first outbound packet of its scope, leaves when idle.
#[derive(Clone, Copy, Debug)]
struct Binding {
    external: SocketAddr,
    refreshed: Timestamp,
}

/// An internal endpoint has sent to a destination. Enters with the first such packet, leaves when idle.
#[derive(Clone, Copy, Debug)]
struct Flow {
    external: SocketAddr,
    refreshed: Timestamp,
}

/// One simulated NAT.
#[derive(Clone, Debug)]
pub struct Table {
    behavior: Behavior,
    external: Vec<IpAddr>,
    capacity: usize,
    one_to_one: BTreeMap<IpAddr, IpAddr>,
    forwards: BTreeMap<SocketAddr, SocketAddr>,
    random: Random,

    bindings: BTreeMap<(SocketAddr, Scope), Binding>,
    /// By internal endpoint and destination.
    flows: BTreeMap<(SocketAddr, SocketAddr), Flow>,
    /// Who has the flow between an external endpoint and a destination.
    owners: BTreeMap<(SocketAddr, SocketAddr), SocketAddr>,
    /// Unsolicited packets, by external endpoint and sender, with the moment they are forgotten.
    tracked: BTreeMap<(SocketAddr, SocketAddr), Timestamp>,
    /// How many bindings and flows use an external endpoint.
    used: BTreeMap<SocketAddr, u32>,
    /// The external address of an internal host under paired pooling.
    pairs: BTreeMap<IpAddr, IpAddr>,
    /// The block of an internal host under contiguous allocation.
    blocks: BTreeMap<IpAddr, u16>,
    next_port: u16,
    next_address: usize,
    /// Nothing ends before this moment.
    next_end: Timestamp,
}

impl Table {
    /// An empty table with its external addresses, IPv4 and IPv6 mixed as they come.
    pub fn new(behavior: Behavior, external: Vec<IpAddr>, random: Random) -> Self {
        Self {
            behavior,
            external,
            capacity: DEFAULT_CAPACITY,
            one_to_one: BTreeMap::new(),
            forwards: BTreeMap::new(),
            random,
            bindings: BTreeMap::new(),
            flows: BTreeMap::new(),
            owners: BTreeMap::new(),
            tracked: BTreeMap::new(),
            used: BTreeMap::new(),
            pairs: BTreeMap::new(),
            blocks: BTreeMap::new(),
            next_port: *PORTS.start(),
            next_address: 0,
            next_end: NEVER,
        }
    }

    /// Bounds the number of flows; a packet that needs one more is dropped.
    #[must_use]
    pub const fn with_capacity(mut self, flows: usize) -> Self {
        self.capacity = flows;
        self
    }

    /// Translates an internal host to an external address of its own, ports unchanged. Filtering applies.
    #[must_use]
    pub fn with_one_to_one(mut self, internal: IpAddr, external: IpAddr) -> Self {
        self.one_to_one.insert(internal, external);
        self
    }

    /// Forwards to an internal endpoint, which also sends from there, what comes to an external one, but for the flows
    /// that others have there: as Linux, which translates a flow as it began.
    #[must_use]
    pub fn with_forward(mut self, external: SocketAddr, internal: SocketAddr) -> Self {
        self.forwards.insert(external, internal);
        self
    }

    /// Begins or ends what [`Self::with_forward`] does, as a mapping that a host asked the router for does.
    pub fn forward(&mut self, external: SocketAddr, internal: Option<SocketAddr>) {
        match internal {
            Some(internal) => self.forwards.insert(external, internal),
            None => self.forwards.remove(&external),
        };
    }

    /// A packet from the inside: the external address that it goes out with. `None`: it is dropped, because it is
    /// for the NAT itself ([`Self::hairpin`] is what may happen to it), no address of its family is there, or
    /// the table or its ports are full.
    pub fn outbound(&mut self, now: Timestamp, source: SocketAddr, destination: SocketAddr) -> Option<SocketAddr> {
        if source.is_ipv4() != destination.is_ipv4() || self.is_external(destination.ip()) {
            return None;
        }
        self.sweep(now);
        self.open(now, source, destination)
    }

    /// A packet from the outside: the internal address that it goes to. `None`: it is not let in.
    pub fn inbound(&mut self, now: Timestamp, source: SocketAddr, destination: SocketAddr) -> Option<SocketAddr> {
        self.sweep(now);
        let internal = match self.owners.get(&(destination, source)) {
            Some(internal) => Some(*internal),
            None => match self.forwards.get(&destination).copied() {
                Some(internal) => return self.enter(now, internal, source, destination),
                None => self.admit(source, destination),
            },
        };
        match internal {
            Some(internal) if self.behavior.refresh == Refresh::Both => {
                self.refresh(now, internal, source, destination)
            }
            None if self.behavior.unsolicited == Unsolicited::Tracked => self.track(now, source, destination),
            _ => {}
        }
        internal
    }

    /// A packet from the inside to an external address of this NAT: source and destination that it arrives with
    /// on the inside (RFC 4787 §6). `None`: it is dropped.
    pub fn hairpin(
        &mut self,
        now: Timestamp,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Option<(SocketAddr, SocketAddr)> {
        if self.behavior.hairpinning == Hairpinning::Unsupported || !self.is_external(destination.ip()) {
            return None;
        }
        self.sweep(now);
        // The sender's own mapping toward the destination, then the same filter as for packets from outside.
        let mapped = self.open(now, source, destination)?;
        let internal = self.inbound(now, mapped, destination)?;
        match self.behavior.hairpinning {
            Hairpinning::InternalSource => Some((source, internal)),
            _ => Some((mapped, internal)),
        }
    }

    /// Whether an address is one of this NAT's external ones.
    pub fn is_external(&self, address: IpAddr) -> bool {
        self.external.contains(&address)
            || self.one_to_one.values().any(|external| *external == address)
            || self.forwards.keys().any(|external| external.ip() == address)
    }

    /// The internal endpoint whose flow to a destination has this external one. It refreshes nothing: what an ICMP
    /// error quotes is looked up with it (RFC 5508 §4.2).
    pub fn internal_of(&self, external: SocketAddr, destination: SocketAddr) -> Option<SocketAddr> {
        self.owners.get(&(external, destination)).copied()
    }

    /// The external endpoint of an internal one's flow to a destination. It refreshes nothing.
    pub fn external_of(&self, internal: SocketAddr, destination: SocketAddr) -> Option<SocketAddr> {
        self.flows.get(&(internal, destination)).map(|flow| flow.external)
    }

    /// The ports of an external address that bindings and flows have, each with the internal endpoint it is for; under
    /// overloading one port may be there for several.
    pub fn holders(&self, external: IpAddr) -> impl Iterator<Item = (u16, SocketAddr)> + '_ {
        let bindings = self.bindings.iter().map(|((internal, _), binding)| (binding.external, *internal));
        let flows = self.flows.iter().map(|((internal, _), flow)| (flow.external, *internal));
        let here = bindings.chain(flows).filter(move |(held, _)| held.ip() == external);
        here.map(|(held, internal)| (held.port(), internal))
    }

    /// How many flows it holds, live or not yet swept.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether it holds no flow.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Forgets everything, as a router does that restarts.
    pub fn clear(&mut self) {
        self.bindings.clear();
        self.flows.clear();
        self.owners.clear();
        self.tracked.clear();
        self.used.clear();
    }

    /// Finds or makes the flow of an outbound packet, and refreshes it and its binding.
    fn open(&mut self, now: Timestamp, internal: SocketAddr, destination: SocketAddr) -> Option<SocketAddr> {
        let scope = self.scope(destination);
        if let Some(flow) = self.flows.get_mut(&(internal, destination)) {
            flow.refreshed = now;
            let external = flow.external;
            if let Some(binding) = self.bindings.get_mut(&(internal, scope)) {
                binding.refreshed = now;
            }
            return Some(external);
        }
        if self.flows.len() >= self.capacity {
            return None;
        }
        // Where another host has the flow of a forwarded endpoint already, its own has a binding as others have.
        let fixed = self.fixed(internal);
        let fixed = fixed.filter(|fixed| !self.forwards.contains_key(fixed) || !self.is_taken(*fixed, destination));
        let external = match fixed {
            Some(external) => external,
            None => {
                let binding = match self.bindings.get_mut(&(internal, scope)) {
                    Some(binding) => {
                        binding.refreshed = now;
                        binding.external
                    }
                    None => {
                        let external = self.allocate(internal, scope, destination)?;
                        self.bindings.insert((internal, scope), Binding { external, refreshed: now });
                        *self.used.entry(external).or_default() += 1;
                        external
                    }
                };
                // An unsolicited packet or another host's flow holds this place: the flow gets a port of its own.
                match self.is_taken(binding, destination) {
                    true => self.allocate_beside(internal, scope, binding, destination)?,
                    false => binding,
                }
            }
        };
        self.begin(now, internal, destination, external);
        Some(external)
    }

    /// A packet from outside to a forwarded endpoint begins a flow there: what answers it leaves from that endpoint, and
    /// nobody else has the same flow.
    fn enter(
        &mut self,
        now: Timestamp,
        internal: SocketAddr,
        source: SocketAddr,
        external: SocketAddr,
    ) -> Option<SocketAddr> {
        // What the internal endpoint sends there leaves from elsewhere already.
        let goes_elsewhere = self.flows.contains_key(&(internal, source));
        if !goes_elsewhere {
            if self.flows.len() >= self.capacity {
                return None;
            }
            self.begin(now, internal, source, external);
        }
        Some(internal)
    }

    fn begin(&mut self, now: Timestamp, internal: SocketAddr, destination: SocketAddr, external: SocketAddr) {
        self.flows.insert((internal, destination), Flow { external, refreshed: now });
        self.owners.insert((external, destination), internal);
        self.ends(now + self.behavior.lifetime);
        *self.used.entry(external).or_default() += 1;
    }

    /// The internal endpoint that the filter lets a packet from outside in to, which is of no flow.
    fn admit(&self, source: SocketAddr, destination: SocketAddr) -> Option<SocketAddr> {
        let candidates = self.internals(destination);
        let mut candidates = candidates.into_iter();
        match self.behavior.filtering {
            FilteringBehavior::EndpointIndependent => candidates.next(),
            FilteringBehavior::AddressDependent => {
                candidates.find(|internal| self.has_sent_to(*internal, destination, source.ip()))
            }
            FilteringBehavior::AddressAndPortDependent => None,
        }
    }

    /// The internal endpoints that have an external one: one, or under overloading several.
    fn internals(&self, external: SocketAddr) -> Vec<SocketAddr> {
        let host = self.one_to_one.iter().find(|(_, outside)| **outside == external.ip());
        if let Some((internal, _)) = host {
            return vec![SocketAddr::new(*internal, external.port())];
        }
        let bindings = self.bindings.iter().filter(|(_, binding)| binding.external == external);
        let mut internals: Vec<_> = bindings.map(|((internal, _), _)| *internal).collect();
        internals.dedup();
        internals
    }

    fn has_sent_to(&self, internal: SocketAddr, external: SocketAddr, address: IpAddr) -> bool {
        let from = (internal, SocketAddr::new(address, 0));
        let to = (internal, SocketAddr::new(address, u16::MAX));
        self.flows.range(from..=to).any(|(_, flow)| flow.external == external)
    }

    fn refresh(&mut self, now: Timestamp, internal: SocketAddr, source: SocketAddr, external: SocketAddr) {
        if let Some(flow) = self.flows.get_mut(&(internal, source)) {
            flow.refreshed = now;
        }
        let bindings = self.bindings.range_mut((internal, Scope::All)..);
        let own = bindings.take_while(|((owner, _), _)| *owner == internal);
        own.filter(|(_, binding)| binding.external == external).for_each(|(_, binding)| binding.refreshed = now);
    }

    fn track(&mut self, now: Timestamp, source: SocketAddr, destination: SocketAddr) {
        let known = self.tracked.contains_key(&(destination, source));
        if self.is_external(destination.ip()) && (known || self.tracked.len() < self.capacity) {
            self.tracked.insert((destination, source), now + TRACKED_LIFETIME);
            self.ends(now + TRACKED_LIFETIME);
        }
    }

    const fn scope(&self, destination: SocketAddr) -> Scope {
        match self.behavior.mapping {
            MappingBehavior::EndpointIndependent => Scope::All,
            MappingBehavior::AddressDependent => Scope::Address(destination.ip()),
            MappingBehavior::AddressAndPortDependent => Scope::Endpoint(destination),
        }
    }

    /// The external endpoint of a host that has one by configuration.
    fn fixed(&self, internal: SocketAddr) -> Option<SocketAddr> {
        let forward = self
            .forwards
            .iter()
            .find(|(external, target)| **target == internal && external.is_ipv4() == internal.is_ipv4());
        if let Some((external, _)) = forward {
            return Some(*external);
        }
        self.one_to_one.get(&internal.ip()).map(|external| SocketAddr::new(*external, internal.port()))
    }

    /// Whether the place of a flow between an external endpoint and a destination is taken.
    fn is_taken(&self, external: SocketAddr, destination: SocketAddr) -> bool {
        self.owners.contains_key(&(external, destination)) || self.tracked.contains_key(&(external, destination))
    }

    /// Whether an external endpoint can be given to a new binding.
    fn is_free(&self, external: SocketAddr, destination: SocketAddr) -> bool {
        let unused = self.behavior.overloading || !self.used.contains_key(&external);
        unused && !self.forwards.contains_key(&external) && !self.is_taken(external, destination)
    }

    fn allocate(&mut self, internal: SocketAddr, scope: Scope, destination: SocketAddr) -> Option<SocketAddr> {
        let address = self.pool(internal.ip())?;
        match self.behavior.ports {
            PortAllocation::Preserving => {
                let same = SocketAddr::new(address, internal.port());
                // Under overloading only the place of this one flow can be taken, which its caller sees; a forwarded
                // port is nobody's as long as nothing comes to it (Linux translates by rules what begins only).
                let free = self.behavior.overloading || self.is_free(same, destination);
                if free { Some(same) } else { self.random_port(address, destination) }
            }
            PortAllocation::Random => self.random_port(address, destination),
            PortAllocation::Sequential => {
                let found = self.search(address, destination, self.next_port, PORTS)?;
                self.next_port = following(found.port(), &PORTS);
                Some(found)
            }
            PortAllocation::Hash => {
                let start = *PORTS.start() + (hash(internal, scope) % PORTS.len() as u64) as u16;
                self.search(address, destination, start, PORTS)
            }
            PortAllocation::Contiguous { block } => {
                let block = block.max(1);
                let count = (PORTS.len() as u64 / u64::from(block)).max(1) as u16;
                let next = (self.blocks.len() % usize::from(count)) as u16;
                let index = *self.blocks.entry(internal.ip()).or_insert(next);
                let first = PORTS.start().saturating_add(index.saturating_mul(block));
                let last = first.saturating_add(block - 1);
                self.search(address, destination, first, first..=last)
            }
        }
    }

    /// A port for one flow whose binding's own is taken: Linux takes a random one. Under overloading it is the binding from
    /// then on, as new flows follow the latest of their source (Linux's find_appropriate_src).
    fn allocate_beside(
        &mut self,
        internal: SocketAddr,
        scope: Scope,
        taken: SocketAddr,
        destination: SocketAddr,
    ) -> Option<SocketAddr> {
        let beside = self.random_port(taken.ip(), destination)?;
        if self.behavior.overloading
            && let Some(binding) = self.bindings.get_mut(&(internal, scope))
        {
            binding.external = beside;
            release(&mut self.used, taken);
            *self.used.entry(beside).or_default() += 1;
        }
        Some(beside)
    }

    fn random_port(&mut self, address: IpAddr, destination: SocketAddr) -> Option<SocketAddr> {
        let mut port = *PORTS.start();
        for _ in 0..RANDOM_TRIES {
            port = PORTS.start() + self.random.below(PORTS.len() as u64) as u16;
            let external = SocketAddr::new(address, port);
            if self.is_free(external, destination) {
                return Some(external);
            }
        }
        self.search(address, destination, port, PORTS)
    }

    /// The first free port from `start` on, around the range once.
    fn search(
        &self,
        address: IpAddr,
        destination: SocketAddr,
        start: u16,
        range: RangeInclusive<u16>,
    ) -> Option<SocketAddr> {
        let mut port = if range.contains(&start) { start } else { *range.start() };
        for _ in range.clone() {
            let external = SocketAddr::new(address, port);
            if self.is_free(external, destination) {
                return Some(external);
            }
            port = following(port, &range);
        }
        None
    }

    fn pool(&mut self, internal: IpAddr) -> Option<IpAddr> {
        if let (Pooling::Paired, Some(address)) = (self.behavior.pooling, self.pairs.get(&internal)) {
            return Some(*address);
        }
        let usable: Vec<_> = self.external.iter().filter(|address| address.is_ipv4() == internal.is_ipv4()).collect();
        let address = **usable.get(self.next_address.checked_rem(usable.len())?)?;
        self.next_address += 1;
        if self.behavior.pooling == Pooling::Paired {
            self.pairs.insert(internal, address);
        }
        Some(address)
    }

    /// Something was entered that ends at a moment.
    fn ends(&mut self, at: Timestamp) {
        self.next_end = self.next_end.min(at);
    }

    /// Removes what is idle for too long. Refreshing only postpones an end, so before `next_end` there is nothing to do.
    fn sweep(&mut self, now: Timestamp) {
        if now < self.next_end {
            return;
        }
        let lifetime = self.behavior.lifetime;
        let (used, owners) = (&mut self.used, &mut self.owners);
        let mut next_end = NEVER;
        let mut lives = |end: Timestamp| {
            if now < end {
                next_end = next_end.min(end);
            }
            now < end
        };
        self.flows.retain(|(_, destination), flow| {
            let keep = lives(flow.refreshed + lifetime);
            if !keep {
                owners.remove(&(flow.external, *destination));
                release(used, flow.external);
            }
            keep
        });
        self.bindings.retain(|_, binding| {
            let keep = lives(binding.refreshed + lifetime);
            if !keep {
                release(used, binding.external);
            }
            keep
        });
        self.tracked.retain(|_, until| lives(*until));
        self.next_end = next_end;
    }
}

fn release(used: &mut BTreeMap<SocketAddr, u32>, external: SocketAddr) {
    if let Some(count) = used.get_mut(&external) {
        *count -= 1;
        if *count == 0 {
            used.remove(&external);
        }
    }
}

fn following(port: u16, range: &RangeInclusive<u16>) -> u16 {
    if port >= *range.end() { *range.start() } else { port + 1 }
}

/// FNV-1a over what a hashing NAT would look at: the same on every run.
fn hash(internal: SocketAddr, scope: Scope) -> u64 {
    let text = format!("{internal} {scope:?}");
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
