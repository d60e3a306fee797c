//! nftables rules (those of iptables-nft included) that can touch the session, by nfnetlink.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;

use netlink_sys::protocols::NETLINK_NETFILTER;
use whyrelay_core::host::{FirewallChain, FirewallFramework, FirewallRule, HostFact, Subject, bounded};

use super::netlink::{Netlink, attributes, big_endian, text};
use super::nft_chains::Deciding;
use super::nft_condition::Packet;
use super::nft_rule::Rule;
use super::{Emit, OwnSocket, Scope, tables};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_GETRULE: u16 = 7;

/// Most rules that are looked at.
const MAX_LOOKED_AT: usize = 200_000;

/// Most rules that are recorded because they do something to packets or counted some, and most facts of those that are
/// recorded because they decide what becomes of packets.
const MAX_RECORDED: usize = 256;
const MAX_DECIDING: usize = 1024;

/// Most packets that rules are tried on. Where there are more, what a chain does with the others is not known.
const MAX_PACKETS: usize = 1024;

/// Which rule it is: family, table, chain, and what stays the same while rules are added and taken out: the handle, or
/// what a rule of the legacy iptables says.
type Place = (u8, String, String, u64);

/// Which chain it is: family, table, chain.
pub(super) type Key = (u8, String, String);

/// The chain of a rule.
pub(super) fn key((family, table, chain, _): &Place) -> Key {
    (*family, table.clone(), chain.clone())
}

/// A chain.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) hook: Option<u32>,
    pub(super) priority: i32,
    pub(super) kind: String,
    pub(super) drops: bool,
    /// Packets that came to its policy; `None`: that is not counted.
    pub(super) packets: Option<u64>,
}

/// The rules of this host at one moment.
#[derive(Clone, Debug)]
pub(super) struct Firewall {
    pub(super) chains: BTreeMap<Key, Chain>,
    pub(super) rules: Vec<(Place, Rule)>,
    /// Families of which something could not be read.
    pub(super) unread: BTreeSet<u8>,
    framework: FirewallFramework,
}

impl Firewall {
    /// Reads them, again where they change meanwhile.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN; `Interrupted` where they change all the time.
    pub(super) fn read() -> io::Result<Self> {
        tables::whole(|| {
            let framework = FirewallFramework::Nftables;
            let mut firewall = Self { framework, ..Self::legacy() };
            let chains = dump(NFT_MSG_GETCHAIN, |family, body| {
                firewall.take_chain(family, body);
                ControlFlow::Continue(())
            })?;
            let rules = dump(NFT_MSG_GETRULE, |family, body| {
                firewall.take_rule(family, body);
                if firewall.rules.len() < MAX_LOOKED_AT { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if is_one(&chains, &rules) { Ok(firewall) } else { Err(io::ErrorKind::Interrupted.into()) }
        })
    }

    /// The legacy iptables without any rule, to be filled by who reads them.
    pub(super) const fn legacy() -> Self {
        let framework = FirewallFramework::LegacyIptables;
        Self { chains: BTreeMap::new(), rules: Vec::new(), unread: BTreeSet::new(), framework }
    }

    /// Family, table and name of every chain, which tell who made it.
    pub(super) fn chains(&self) -> impl Iterator<Item = (&'static str, &str, &str)> {
        self.chains.keys().map(|(family, table, chain)| (family_name(*family), table.as_str(), chain.as_str()))
    }

    /// The rules that can touch the session's packets or counted some since an earlier reading; and the chains that may
    /// stop these packets, with every rule that decides about them.
    pub(super) fn facts(&self, before: &Self, scope: &Scope, emit: &mut Emit<'_>) {
        let mut packets = packets_of(scope);
        let is_cut = packets.len() > MAX_PACKETS;
        packets.truncate(MAX_PACKETS);
        let hooks = self.hooks();
        let counted_since = self.counted_since(before);
        let positions = self.positions();
        let bases_of = |number: usize| hooks.get(&key(&self.rules[number].0)).map(Vec::as_slice).unwrap_or_default();
        let fact = |number: usize, base: &Chain| {
            let (place, rule) = &self.rules[number];
            let position = Some(positions[number]);
            FirewallRule { position, ..self.fact(place, rule, base, counted_since[number]) }
        };
        // Each with its order, and the rule's number; a policy has none.
        let mut facts: Vec<(u8, Option<usize>, FirewallRule)> = Vec::new();
        for ((family, table, chain), base) in &self.chains {
            if base.drops && base.hook.is_some_and(is_ours) {
                let earlier = before.chains.get(&(*family, table.clone(), chain.clone()));
                let since = base.packets.zip(earlier.and_then(|earlier| earlier.packets));
                facts.push((
                    0,
                    None,
                    self.policy((*family, table, chain), base, since.map(|(now, earlier)| moved(now, earlier))),
                ));
            }
        }
        for (number, ((_, rule), since)) in self.rules.iter().zip(&counted_since).enumerate() {
            let counted = since.is_some_and(|since| since > 0);
            let acts = rule.sets_mark || rule.translates || matches!(rule.verdict, Some("drop" | "reject" | "queue"));
            let bases = bases_of(number);
            if bases.is_empty() || !(counted || acts) || !packets.iter().any(|packet| rule.can_touch(packet)) {
                continue;
            }
            // What counted a packet and acts comes first, then what acts.
            let order = if counted && acts { 0 } else { 1 + u8::from(!acts) };
            facts.extend(bases.iter().map(|base| (order, Some(number), fact(number, base))));
        }
        facts.sort_by_key(|(order, ..)| *order);
        facts.truncate(MAX_RECORDED);
        // A rule is told once for each hook that leads to it: where facts are cut, one may be told in part.
        let mut told: BTreeMap<usize, usize> = BTreeMap::new();
        for number in facts.iter().filter_map(|(_, number, _)| *number) {
            *told.entry(number).or_default() += 1;
        }
        let mut chains = Vec::new();
        let mut room = MAX_DECIDING;
        let deciding = if is_cut { Vec::new() } else { self.deciding(&packets) };
        for Deciding { key, chain, rules, is_cut } in deciding {
            let (count, mut recorded) = (rules.len() as u64 + u64::from(is_cut), 0);
            for number in rules {
                let bases = bases_of(number);
                let known = told.get(&number).copied().unwrap_or_default();
                let missing = &bases[known.min(bases.len())..];
                if missing.len() <= room {
                    room -= missing.len();
                    facts.extend(missing.iter().map(|base| (3, Some(number), fact(number, base))));
                    told.insert(number, bases.len());
                    recorded += 1;
                }
            }
            chains.push(self.chain(&key, chain, count, recorded));
        }
        let recorded = told.iter().filter(|(number, facts)| bases_of(**number).len() == **facts).count() as u64;
        facts.into_iter().for_each(|(.., rule)| emit(HostFact::FirewallRule(rule)));
        chains.into_iter().for_each(|chain| emit(HostFact::FirewallChain(chain)));
        let subject = match self.framework {
            FirewallFramework::Nftables => Subject::Nftables,
            FirewallFramework::LegacyIptables => Subject::LegacyIptables,
        };
        emit(HostFact::Counted { subject, total: self.rules.len() as u64, recorded });
    }

    /// The place of each rule in its chain.
    fn positions(&self) -> Vec<u32> {
        let mut next: BTreeMap<(u8, &str, &str), u32> = BTreeMap::new();
        self.rules
            .iter()
            .map(|((family, table, chain, _), _)| {
                let next = next.entry((*family, table, chain)).or_default();
                let position = *next;
                *next += 1;
                position
            })
            .collect()
    }

    /// For each rule, what it counted since an earlier reading; `None`: it has no counter, or which of the earlier rules
    /// it was cannot be told.
    fn counted_since(&self, before: &Self) -> Vec<Option<u64>> {
        let mut earlier: BTreeMap<&Place, Vec<&Rule>> = BTreeMap::new();
        for (place, rule) in &before.rules {
            earlier.entry(place).or_default().push(rule);
        }
        let mut alike: BTreeMap<&Place, usize> = BTreeMap::new();
        for (place, _) in &self.rules {
            *alike.entry(place).or_default() += 1;
        }
        let mut seen: BTreeMap<&Place, usize> = BTreeMap::new();
        self.rules
            .iter()
            .map(|(place, rule)| {
                let position = seen.entry(place).or_default();
                let known = earlier.get(place);
                let same = known.and_then(|known| known.get(*position)).filter(|earlier| earlier.says_the_same(rule));
                *position += 1;
                let now = rule.packets?;
                match (known, same) {
                    // Several that say the same, and some came or went.
                    (Some(known), _) if known.len() != alike[place] => None,
                    (Some(_), Some(earlier)) => Some(moved(now, earlier.packets?)),
                    // A new one counts from nothing, unless it only was not read before.
                    _ => (!before.is_partial(place.0)).then_some(now),
                }
            })
            .collect()
    }

    /// Every rule: its chain, and what it says.
    #[cfg(test)]
    pub(super) fn texts(&self) -> impl Iterator<Item = (String, String)> {
        self.rules.iter().map(|((family, table, chain, _), rule)| {
            (format!("{} {table} {chain}", family_name(*family)), rule.words.join(" "))
        })
    }

    /// Whether there may be rules of a family that were not read.
    fn is_partial(&self, family: u8) -> bool {
        self.unread.contains(&family) || self.rules.len() >= MAX_LOOKED_AT
    }

    /// For each chain that a packet of the session can come to: a base chain of each hook that leads there. What drops
    /// for several hooks in one chain of its own is told for each of them.
    fn hooks(&self) -> BTreeMap<Key, Vec<&Chain>> {
        let mut jumps: BTreeMap<(u8, &str, &str), Vec<&str>> = BTreeMap::new();
        for ((family, table, chain, _), rule) in &self.rules {
            if let Some(target) = &rule.target {
                jumps.entry((*family, table, chain)).or_default().push(target);
            }
        }
        let mut hooks: BTreeMap<_, Vec<&Chain>> = BTreeMap::new();
        let bases = self.chains.iter().filter(|(_, chain)| chain.hook.is_some_and(is_ours));
        for ((family, table, chain), base) in bases {
            let mut open = vec![chain.as_str()];
            while let Some(chain) = open.pop() {
                let known = hooks.entry((*family, table.clone(), chain.to_owned())).or_default();
                if known.iter().all(|known| known.hook != base.hook) {
                    known.push(base);
                    open.extend(jumps.get(&(*family, table.as_str(), chain)).into_iter().flatten());
                }
            }
        }
        hooks
    }

    fn policy(&self, (family, table, chain): (u8, &str, &str), base: &Chain, since: Option<u64>) -> FirewallRule {
        let (words, packets) = (vec!["policy drop".into()], base.packets);
        let rule = Rule { words, packets, verdict: Some("drop"), ..Rule::default() };
        let place = (family, table.to_owned(), chain.to_owned(), 0);
        FirewallRule { handle: None, ..self.fact(&place, &rule, base, since) }
    }

    fn chain(&self, (family, table, name): &Key, chain: &Chain, rules: u64, recorded: u64) -> FirewallChain {
        FirewallChain {
            framework: self.framework,
            table_family: family_name(*family).into(),
            table: bounded(table.clone()),
            chain: bounded(name.clone()),
            hook: chain.hook.map(|hook| hook_name(*family, hook).into()),
            chain_type: chain.hook.map(|_| bounded(chain.kind.clone())),
            priority: chain.hook.filter(|_| self.framework == FirewallFramework::Nftables).map(|_| chain.priority),
            drops: chain.drops && chain.hook.is_some(),
            rules,
            recorded,
        }
    }

    fn fact(
        &self,
        (family, table, chain, handle): &Place,
        rule: &Rule,
        base: &Chain,
        since: Option<u64>,
    ) -> FirewallRule {
        FirewallRule {
            framework: self.framework,
            table_family: family_name(*family).into(),
            table: bounded(table.clone()),
            chain: bounded(chain.clone()),
            hook: base.hook.map(|hook| hook_name(*family, hook).into()),
            chain_type: Some(bounded(base.kind.clone())),
            priority: Some(base.priority),
            // The legacy iptables know no handles.
            handle: (self.framework == FirewallFramework::Nftables).then_some(*handle),
            position: None,
            rule: bounded(rule.words.join(" ")),
            verdict: rule.verdict.map(str::to_owned),
            target: rule.target.clone().map(bounded),
            sets_mark: rule.sets_mark,
            packets: rule.packets,
            packets_since: since,
        }
    }

    fn take_chain(&mut self, family: u8, body: &[u8]) {
        let (mut table, mut name) = (String::new(), String::new());
        let mut chain = Chain { hook: None, priority: 0, kind: String::new(), drops: false, packets: None };
        for (kind, value) in attributes(body) {
            match kind {
                1 => table = text(value),
                3 => name = text(value),
                4 => {
                    for (kind, value) in attributes(value) {
                        match (kind, value.first_chunk::<4>()) {
                            (1, Some(hook)) => chain.hook = Some(u32::from_be_bytes(*hook)),
                            (2, Some(priority)) => chain.priority = i32::from_be_bytes(*priority),
                            _ => {}
                        }
                    }
                }
                5 => chain.drops = big_endian(value) == Some(0),
                7 => chain.kind = text(value),
                8 => {
                    let packets = attributes(value).find(|(kind, _)| *kind == 2);
                    chain.packets = packets.and_then(|(_, value)| big_endian(value));
                }
                _ => {}
            }
        }
        if self.chains.len() < MAX_LOOKED_AT {
            self.chains.insert((family, table, name), chain);
        }
    }

    fn take_rule(&mut self, family: u8, body: &[u8]) {
        let (mut place, mut rule) = ((family, String::new(), String::new(), 0), Rule::default());
        for (kind, value) in attributes(body) {
            match kind {
                1 => place.1 = text(value),
                2 => place.2 = text(value),
                3 => place.3 = big_endian(value).unwrap_or(0),
                4 => rule = Rule::read(family, value),
                _ => {}
            }
        }
        self.rules.push((place, rule));
    }
}

/// How far a counter moved; one that was set to nothing in between has counted at least what it shows.
const fn moved(now: u64, earlier: u64) -> u64 {
    if now >= earlier { now - earlier } else { now }
}

/// The hooks that packets from and to this host pass: all of the inet family but `forward`, and those of a device.
pub(super) fn is_ours(hook: u32) -> bool {
    const FORWARD: u32 = 2;
    hook != FORWARD
}

fn hook_name(family: u8, hook: u32) -> &'static str {
    const NFPROTO_NETDEV: u8 = 5;
    match (family, hook) {
        (NFPROTO_NETDEV, 0) | (_, 5) => "ingress",
        (NFPROTO_NETDEV, _) => "egress",
        (_, 0) => "prerouting",
        (_, 1) => "input",
        (_, 2) => "forward",
        (_, 3) => "output",
        _ => "postrouting",
    }
}

const fn family_name(family: u8) -> &'static str {
    match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "other",
    }
}

/// TCP's number among IP's protocols.
const TCP: u8 = 6;

/// The session's packets, out and in, and those that it would send to what else the peer told and get from there: what a
/// rule does with them is asked as well.
fn packets_of(scope: &Scope) -> Vec<Packet> {
    let remotes: BTreeSet<&SocketAddr> = scope.peers.iter().chain(&scope.candidates).chain(&scope.servers).collect();
    let mut packets = Vec::new();
    for OwnSocket { local, protocol, .. } in &scope.sockets {
        for remote in remotes.iter().copied().filter(|remote| remote.is_ipv4() == local.is_ipv4()) {
            packets.push(Packet { protocol: *protocol, source: *local, destination: *remote });
            packets.push(Packet { protocol: *protocol, source: *remote, destination: *local });
        }
    }
    for (local, remote) in &scope.connections {
        packets.push(Packet { protocol: TCP, source: *local, destination: *remote });
        packets.push(Packet { protocol: TCP, source: *remote, destination: *local });
    }
    packets
}

/// What a list says of the rules' generation, which each change of them ends: the first and the last, as far as any entry
/// came.
type Generations = Option<([u8; 2], [u8; 2])>;

/// Whether two lists, or what there is of them, are of one generation.
fn is_one(chains: &Generations, rules: &Generations) -> bool {
    let all: BTreeSet<[u8; 2]> =
        [chains, rules].into_iter().flatten().flat_map(|(first, last)| [*first, *last]).collect();
    all.len() <= 1
}

/// Asks nftables for a list of all families; `take` gets the family and the attributes.
///
/// # Errors
/// `Interrupted` when the list changed meanwhile.
fn dump(message: u16, mut take: impl FnMut(u8, &[u8]) -> ControlFlow<()>) -> io::Result<Generations> {
    // struct nfgenmsg: family (0: all), version 0, resource id 0; in answers this is the generation.
    let header = [0; 4];
    let mut generations: Generations = None;
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    netlink.dump(NFNL_SUBSYS_NFTABLES << 8 | message, &header, |_, body| match body.split_first_chunk::<4>() {
        Some(([family, _, high, low], attributes)) => {
            let generation = [*high, *low];
            generations = Some((generations.map_or(generation, |(first, _)| first), generation));
            take(*family, attributes)
        }
        None => ControlFlow::Continue(()),
    })?;
    if netlink.is_torn() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(generations) }
}

#[cfg(test)]
mod tests {
    use whyrelay_core::host::{Filter, FilteredPacket};

    use super::super::nft_condition::{Comparison, Condition};
    use super::super::nft_field::Field;
    use super::*;

    fn firewall(rules: &[(u64, &str, Option<u64>)]) -> Firewall {
        let rule = |(handle, words, packets): &(u64, &str, Option<u64>)| {
            let rule = Rule { words: vec![(*words).to_owned()], packets: *packets, ..Rule::default() };
            ((1, "fw".to_owned(), "input".to_owned(), *handle), rule)
        };
        Firewall {
            framework: FirewallFramework::Nftables,
            rules: rules.iter().map(rule).collect(),
            ..Firewall::legacy()
        }
    }

    #[test]
    fn a_handle_that_another_rule_has_now_counts_from_nothing() {
        let before = firewall(&[(2, "drop", Some(500)), (3, "accept", Some(7)), (5, "log", None)]);
        let now = firewall(&[
            (2, "drop", Some(510)),
            // The ruleset was loaded again, and its handles were given anew.
            (3, "udp drop", Some(9)),
            (4, "reject", Some(2)),
            (5, "log", Some(3)),
            (6, "accept", None),
        ]);
        assert_eq!(now.counted_since(&before), [Some(10), Some(9), Some(2), None, None]);
        let reset = firewall(&[(2, "drop", Some(4))]);
        assert_eq!(reset.counted_since(&before), [Some(4)], "set to nothing in between");
    }

    fn socket(local: &str) -> OwnSocket {
        let local = local.parse().expect("an address");
        OwnSocket { local, protocol: 17, mark: 0, user: None, device: None, raw: false }
    }

    /// A chain on output that drops all but what goes to these addresses.
    fn lets_out_to(addresses: &[&str]) -> Firewall {
        let mut firewall = firewall(&[]);
        let (hook, kind) = (Some(3), "filter".to_owned());
        let chain = Chain { hook, priority: 0, kind, drops: true, packets: None };
        firewall.chains.insert((1, "fw".to_owned(), "out".to_owned()), chain);
        for (address, handle) in addresses.iter().zip(2..) {
            let to: std::net::Ipv4Addr = address.parse().expect("an address");
            let field = Field::Address { source: false, ipv6: false, length: 4 };
            let (order, comparison) = (field.order(), Comparison::Equal);
            let condition = Condition { field, mask: None, order, comparison, value: to.octets().to_vec() };
            let rule = Rule {
                words: vec![format!("ip daddr {address}"), "accept".to_owned()],
                verdict: Some("accept"),
                conditions: vec![condition],
                ..Rule::default()
            };
            firewall.rules.push(((1, "fw".to_owned(), "out".to_owned(), handle), rule));
        }
        firewall
    }

    /// What is told of a firewall that does not change.
    fn told(firewall: &Firewall, scope: &Scope) -> (Vec<FirewallChain>, Vec<FirewallRule>) {
        let (mut chains, mut rules) = (Vec::new(), Vec::new());
        firewall.facts(firewall, scope, &mut |fact| match fact {
            HostFact::FirewallChain(chain) => chains.push(chain),
            HostFact::FirewallRule(rule) => rules.push(rule),
            _ => {}
        });
        (chains, rules)
    }

    #[test]
    fn a_rule_that_lets_out_to_the_peer_is_told_where_nothing_was_sent_there() {
        let (local, server, peer) = ("203.0.113.34:51820", "192.0.2.10:3478", "198.51.100.2:50000");
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let (sockets, servers) = ([socket(local)].into(), [address(server)].into());
        let scope = Scope { sockets, servers, candidates: [address(peer)].into(), ..Scope::default() };
        let stops = |accepted: &[&str]| {
            let (chains, rules) = told(&lets_out_to(accepted), &scope);
            let (source, destination) = (address(local), address(peer));
            let packet = FilteredPacket { source, destination, in_device: None, out_device: Some("eth0") };
            Filter::new(&chains, &rules).surely_stops(&["output"], &packet).map(|rule| rule.rule.clone())
        };
        assert_eq!(stops(&["192.0.2.10", "198.51.100.2"]), None);
        assert_eq!(stops(&["192.0.2.10", "198.51.100.3"]).as_deref(), Some("policy drop"));
    }

    #[test]
    fn nothing_is_told_of_chains_where_there_are_more_packets_than_are_tried() {
        let chains = |addresses: u8| {
            let address = |text: String| text.parse::<SocketAddr>().expect("an address");
            let sockets = (0..addresses).map(|number| socket(&format!("172.17.{number}.1:51820"))).collect();
            let peers = (0..addresses).map(|number| address(format!("198.51.100.{number}:50000"))).collect();
            let scope = Scope { sockets, peers, ..Scope::default() };
            told(&lets_out_to(&["198.51.100.1"]), &scope).0.len()
        };
        assert_eq!((chains(22), chains(23)), (1, 0), "968 packets, and 1058");
    }

    #[test]
    fn lists_of_two_generations_are_not_one() {
        let of = |first, last| Some(([0, first], [0, last]));
        assert!(is_one(&of(5, 5), &of(5, 5)));
        assert!(is_one(&None, &None) && is_one(&of(5, 5), &None), "there is no rule");
        for (chains, rules) in [(of(5, 5), of(6, 6)), (of(5, 5), of(5, 6)), (of(4, 5), of(5, 5)), (of(5, 6), None)] {
            assert!(!is_one(&chains, &rules), "{chains:?} {rules:?}");
        }
    }

    #[test]
    fn rules_that_are_cut_are_not_counted_as_recorded() {
        // 200 rules of a chain that two hooks lead to are 400 facts.
        let told = |rules: u64| {
            let mut firewall = firewall(&[]);
            let rule =
                Rule { words: vec!["drop".to_owned()], packets: Some(0), verdict: Some("drop"), ..Rule::default() };
            let place = |chain: &str, handle| (1, "fw".to_owned(), chain.to_owned(), handle);
            firewall.rules.extend((0..rules).map(|handle| (place("common", handle), rule.clone())));
            let chain = |hook| Chain { hook, priority: 0, kind: "filter".to_owned(), drops: false, packets: None };
            firewall.chains.insert((1, "fw".to_owned(), "common".to_owned()), chain(None));
            for (name, hook) in [("in", 1), ("out", 3)] {
                let jump = Rule { target: Some("common".to_owned()), verdict: Some("jump"), ..Rule::default() };
                firewall.rules.push((place(name, 1000), jump));
                firewall.chains.insert((1, "fw".to_owned(), name.to_owned()), chain(Some(hook)));
            }
            let socket = socket("203.0.113.34:51820");
            let peers = ["198.51.100.7:51820".parse().expect("an address")].into();
            let scope = Scope { sockets: [socket].into(), peers, ..Scope::default() };
            let mut facts = Vec::new();
            firewall.facts(&firewall, &scope, &mut |fact| facts.push(fact));
            match facts.pop() {
                Some(HostFact::Counted { total, recorded, .. }) => (facts.len(), total, recorded),
                other => panic!("{other:?}"),
            }
        };
        // The two jumps, and three chains.
        assert_eq!(told(100), (200 + 2 + 3, 102, 102));
        // Those beyond the bound of what acts are told because they decide.
        assert_eq!(told(200), (400 + 2 + 3, 202, 202));
        // No more than so many of a chain.
        assert_eq!(told(300), (2 * 256 + 2 + 3, 302, 258));
    }
}
