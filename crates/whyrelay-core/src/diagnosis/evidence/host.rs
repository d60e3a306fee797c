//! What one side's host told of itself, folded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::host::{
    Address, Application, ConntrackEntry, FirewallChain, FirewallFramework, FirewallRule, HostFact, HostSocket,
    IpsecPolicy, Link, MAX_FACTS, ManagedInterface, Moment, Neighbor, OwnConnection, OwnPacket, PolicyRule, Probe,
    ProbeAim, ProfileTally, Route, RouteAnswer, RoutePurpose, SocketProfile, Software, SoftwareName, Subject, System,
};
use crate::time::Timestamp;

/// Most facts of one kind that are kept, since facts are compared with each other. Who records them keeps some hundred
/// of a kind; answers of routing are one for each socket and address.
const MAX_OF_A_KIND: usize = 2000;

/// A fact with its event and moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken<T> {
    /// Number of its event.
    pub seq: u64,
    /// When it was taken.
    pub moment: Moment,
    /// The fact.
    pub fact: T,
}

/// What one side's host told of itself. Lists are in the order of the events; a later fact of the same thing does not
/// replace an earlier one.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "a field is named after the fact it is folded from; see crate::host")]
pub struct HostEvidence {
    pub facts: usize,
    pub links: Vec<Taken<Link>>,
    /// Interfaces that stopped working while the session went on: the event, and when.
    pub links_lost: BTreeMap<String, (u64, Timestamp)>,
    pub addresses: Vec<Taken<Address>>,
    pub routes: Vec<Taken<Route>>,
    pub policy_rules: Vec<Taken<PolicyRule>>,
    pub neighbors: Vec<Taken<Neighbor>>,
    /// By name and interface, the last value.
    pub sysctls: BTreeMap<(String, Option<String>), (u64, String)>,
    pub firewall_rules: Vec<Taken<FirewallRule>>,
    pub firewall_chains: Vec<Taken<FirewallChain>>,
    pub ipsec_policies: Vec<Taken<IpsecPolicy>>,
    /// Entries and limit.
    pub conntrack_use: Vec<Taken<(u64, u64)>>,
    pub conntrack: Vec<Taken<ConntrackEntry>>,
    pub sockets: Vec<Taken<HostSocket>>,
    pub profiles: BTreeMap<SocketAddr, (u64, SocketProfile)>,
    /// Event, name servers, and whether a local stub answers.
    pub resolver: Option<(u64, Vec<IpAddr>, bool)>,
    pub software: Vec<Taken<Software>>,
    pub system: Option<(u64, System)>,
    /// By interface, the last that was told.
    pub managed: BTreeMap<String, (u64, ManagedInterface)>,
    /// What was there before the checks and no longer after them.
    pub gone: Vec<Taken<HostFact>>,
    /// Event, user id, effective capabilities.
    pub capabilities: Option<(u64, u32, Vec<String>)>,
    pub container: Option<String>,
    /// About the session's own sockets.
    pub route_answers: Vec<Taken<RouteAnswer>>,
    /// About those of probes.
    pub probe_answers: Vec<Taken<RouteAnswer>>,
    /// By name: event and movement.
    pub counters: BTreeMap<String, (u64, i64)>,
    /// The groups of counters that were read, with the last event.
    pub counter_groups: BTreeMap<String, u64>,
    pub own_packets: Vec<Taken<OwnPacket>>,
    /// Packets that begin or refuse connections to signaling.
    pub own_connections: Vec<Taken<OwnConnection>>,
    pub probes: Vec<Taken<Probe>>,
    /// Probes of the peer that arrived: aim, where, from where, length.
    pub probes_seen: Vec<Taken<(String, SocketAddr, SocketAddr, u32)>>,
    pub application: Option<(u64, Application)>,
    /// By whether they stand in for the application.
    pub tallies: BTreeMap<bool, (u64, ProfileTally)>,
    /// By subject: event, why, and the privilege that is missing.
    pub not_measured: BTreeMap<Subject, Vec<(u64, String, Option<String>)>>,
    /// By subject: event, how many there are and how many are recorded.
    pub counted: BTreeMap<Subject, (u64, u64, u64)>,
}

impl HostEvidence {
    /// Takes a fact in; `false` when the bound is reached.
    pub(super) fn apply(&mut self, seq: u64, moment: Moment, fact: &HostFact) -> bool {
        if self.facts >= MAX_FACTS {
            return false;
        }
        self.facts += 1;
        let full = |length: usize| length >= MAX_OF_A_KIND;
        match fact {
            HostFact::Link(_) if full(self.links.len()) => return false,
            HostFact::Address(_) if full(self.addresses.len()) => return false,
            HostFact::Route(_) if full(self.routes.len()) => return false,
            HostFact::PolicyRule(_) if full(self.policy_rules.len()) => return false,
            HostFact::Neighbor(_) if full(self.neighbors.len()) => return false,
            HostFact::FirewallRule(_) if full(self.firewall_rules.len()) => return false,
            HostFact::FirewallChain(_) if full(self.firewall_chains.len()) => return false,
            HostFact::IpsecPolicy(_) if full(self.ipsec_policies.len()) => return false,
            HostFact::ConntrackEntry(_) if full(self.conntrack.len()) => return false,
            HostFact::Socket(_) if full(self.sockets.len()) => return false,
            HostFact::Software(_) if full(self.software.len()) => return false,
            HostFact::ManagedInterface(_) if full(self.managed.len()) => return false,
            HostFact::Gone { .. } if full(self.gone.len()) => return false,
            HostFact::RouteAnswer(_) if full(self.route_answers.len().max(self.probe_answers.len())) => return false,
            HostFact::OwnPacket(_) if full(self.own_packets.len()) => return false,
            HostFact::OwnConnection(_) if full(self.own_connections.len()) => return false,
            HostFact::Probe(_) if full(self.probes.len()) => return false,
            HostFact::ProbeSeen { .. } if full(self.probes_seen.len()) => return false,
            HostFact::Link(link) => push(&mut self.links, seq, moment, link),
            HostFact::Address(address) => push(&mut self.addresses, seq, moment, address),
            HostFact::Route(route) => push(&mut self.routes, seq, moment, route),
            HostFact::PolicyRule(rule) => push(&mut self.policy_rules, seq, moment, rule),
            HostFact::Neighbor(neighbor) => push(&mut self.neighbors, seq, moment, neighbor),
            HostFact::Sysctl { sysctl, interface, value } => {
                self.sysctls.insert((sysctl.clone(), interface.clone()), (seq, value.clone()));
            }
            HostFact::FirewallRule(rule) => push(&mut self.firewall_rules, seq, moment, rule),
            HostFact::FirewallChain(chain) => push(&mut self.firewall_chains, seq, moment, chain),
            HostFact::IpsecPolicy(policy) => push(&mut self.ipsec_policies, seq, moment, policy),
            HostFact::ConntrackUse { entries, max } => push(&mut self.conntrack_use, seq, moment, &(*entries, *max)),
            HostFact::ConntrackEntry(entry) => push(&mut self.conntrack, seq, moment, entry),
            HostFact::Socket(socket) => push(&mut self.sockets, seq, moment, socket),
            HostFact::SocketProfile(profile) => {
                self.profiles.insert(profile.local, (seq, profile.clone()));
            }
            HostFact::Resolver { servers, stub } => self.resolver = Some((seq, servers.clone(), *stub)),
            HostFact::Software(software) => push(&mut self.software, seq, moment, software),
            HostFact::System(system) => self.system = Some((seq, system.clone())),
            HostFact::ManagedInterface(managed) => {
                self.managed.insert(managed.device.clone(), (seq, managed.clone()));
            }
            HostFact::Gone { gone } => push(&mut self.gone, seq, moment, &**gone),
            HostFact::Capabilities { user, effective, container } => {
                self.capabilities = Some((seq, *user, effective.clone()));
                self.container.clone_from(container);
            }
            HostFact::RouteAnswer(answer) if answer.question.probe => {
                push(&mut self.probe_answers, seq, moment, answer);
            }
            HostFact::RouteAnswer(answer) => push(&mut self.route_answers, seq, moment, answer),
            HostFact::Counters { moved, read } => {
                for (name, by) in moved {
                    let entry = self.counters.entry(name.clone()).or_insert((seq, 0));
                    *entry = (seq, entry.1.saturating_add(*by));
                }
                self.counter_groups.extend(read.iter().map(|group| (group.clone(), seq)));
            }
            HostFact::OwnPacket(packet) => push(&mut self.own_packets, seq, moment, packet),
            HostFact::OwnConnection(packet) => push(&mut self.own_connections, seq, moment, packet),
            HostFact::Probe(probe) => push(&mut self.probes, seq, moment, probe),
            HostFact::ProbeSeen { aim, local, remote, length } => {
                push(&mut self.probes_seen, seq, moment, &(aim.clone(), *local, *remote, *length));
            }
            HostFact::Application(application) => self.application = Some((seq, application.clone())),
            HostFact::ProfileTally(tally) => {
                self.tallies.insert(tally.as_application, (seq, tally.clone()));
            }
            HostFact::NotMeasured { subject, why, needs } => {
                self.not_measured.entry(*subject).or_default().push((seq, why.clone(), needs.clone()));
            }
            HostFact::Counted { subject, total, recorded } => {
                self.counted.insert(*subject, (seq, *total, *recorded));
            }
        }
        true
    }

    /// Whether anything at all was told: an older recording, or another system, has nothing.
    pub const fn is_told(&self) -> bool {
        self.facts > 0
    }

    /// Why a subject was not measured, with the privilege that is missing.
    pub fn why_not_measured(&self, subject: Subject) -> Option<(&str, Option<&str>)> {
        let (_, why, needs) = self.not_measured.get(&subject)?.last()?;
        Some((why, needs.as_deref()))
    }

    /// The event that counts the session's packets at the interfaces, where all of them were looked for: one that was not
    /// seen was not there.
    pub fn saw_all_packets(&self) -> Option<u64> {
        let (seq, ..) = self.counted.get(&Subject::OwnPackets)?;
        self.why_not_measured(Subject::OwnPackets).is_none().then_some(*seq)
    }

    /// Whether the host was looked at for a subject: a fact says so, or the count of those that there are.
    pub fn is_looked_at(&self, subject: Subject) -> bool {
        let told = match subject {
            Subject::Links => !self.links.is_empty(),
            Subject::Addresses => !self.addresses.is_empty(),
            Subject::PolicyRules => !self.policy_rules.is_empty(),
            Subject::Sysctls => !self.sysctls.is_empty(),
            Subject::Resolver => self.resolver.is_some(),
            Subject::Capabilities => self.capabilities.is_some(),
            Subject::RouteAnswers => !self.route_answers.is_empty() || !self.probe_answers.is_empty(),
            Subject::Counters => !self.counter_groups.is_empty(),
            Subject::Routes => !self.routes.is_empty(),
            Subject::Neighbors => !self.neighbors.is_empty(),
            Subject::Conntrack => !self.conntrack.is_empty(),
            Subject::Sockets => !self.sockets.is_empty(),
            Subject::Software => !self.software.is_empty(),
            Subject::OwnPackets => !self.own_packets.is_empty(),
            Subject::System => self.system.is_some(),
            // A rule says so of its own kind of rules alone.
            Subject::Nftables => self.has_rules_of(FirewallFramework::Nftables),
            Subject::LegacyIptables => self.has_rules_of(FirewallFramework::LegacyIptables),
            // Looked at where there is a reason to: a counter of IPsec that moved, an application that was named, a path
            // that does not come about.
            Subject::IpsecPolicies | Subject::Application | Subject::Probes => true,
        };
        told || self.counted.contains_key(&subject)
    }

    fn has_rules_of(&self, framework: FirewallFramework) -> bool {
        self.firewall_rules.iter().any(|rule| rule.fact.framework == framework)
    }

    /// How far a counter moved, with its event; `None` when its group (the part before the dot) was not read.
    pub fn counter(&self, name: &str) -> Option<(u64, i64)> {
        let (group, _) = name.split_once('.')?;
        self.counters.get(name).copied().or_else(|| self.counter_groups.get(group).map(|seq| (*seq, 0)))
    }

    /// An interface by name, as it was told last.
    pub fn link(&self, device: &str) -> Option<&Taken<Link>> {
        self.links.iter().rfind(|link| link.fact.device == device)
    }

    /// The effective value of `rp_filter` on an interface: the greater of its own and that of `all`.
    pub fn rp_filter(&self, device: &str) -> Option<(u64, u8)> {
        let value = |interface: &str| {
            let (seq, value) = self.sysctls.get(&("rp_filter".into(), Some(interface.into())))?;
            Some((*seq, value.parse::<u8>().ok()?))
        };
        let (own, all) = (value(device)?, value("all")?);
        Some(if own.1 >= all.1 { own } else { all })
    }

    /// A kernel setting of the whole namespace.
    pub fn sysctl(&self, name: &str) -> Option<(u64, &str)> {
        self.sysctls.get(&(name.into(), None)).map(|(seq, value)| (*seq, value.as_str()))
    }

    /// The answers to questions about one destination.
    pub fn routes_to(&self, destination: IpAddr) -> impl Iterator<Item = &Taken<RouteAnswer>> {
        self.route_answers.iter().filter(move |answer| answer.fact.question.destination == destination)
    }

    /// The answers to questions about the servers.
    pub fn routes_to_servers(&self) -> impl Iterator<Item = &Taken<RouteAnswer>> {
        self.route_answers.iter().filter(|answer| answer.fact.question.purpose == RoutePurpose::Server)
    }

    /// The interfaces by which packets with this destination were seen to leave.
    pub fn left_by(&self, destination: SocketAddr) -> BTreeSet<&str> {
        let left = |packet: &&Taken<OwnPacket>| !packet.fact.arrived && packet.fact.destination == destination;
        let packets = self.own_packets.iter().filter(left);
        packets.map(|packet| packet.fact.device.as_str()).collect()
    }

    /// A program, where it was seen.
    pub fn software(&self, name: SoftwareName) -> Option<&Taken<Software>> {
        self.software.iter().find(|software| software.fact.software == name)
    }

    /// Probes with an aim that a predicate takes.
    pub fn probes_with(&self, aim: impl Fn(&ProbeAim) -> bool) -> impl Iterator<Item = &Taken<Probe>> {
        self.probes.iter().filter(move |probe| aim(&probe.fact.aim))
    }
}

fn push<T: Clone>(list: &mut Vec<Taken<T>>, seq: u64, moment: Moment, fact: &T) {
    list.push(Taken { seq, moment, fact: fact.clone() });
}
