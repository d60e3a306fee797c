//! What the rules of a firewall do with one packet, as far as their words tell. What is not understood is not guessed:
//! then nothing is said of the packet.

mod words;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::firewall::{FirewallChain, FirewallFramework, FirewallRule};

/// Deepest that jumps from chain to chain are followed: nftables and iptables allow 16.
const MAX_JUMPS: usize = 16;

/// A UDP packet of the session at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilteredPacket<'a> {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// The interface that it came in by; `None`: none, or not known.
    pub in_device: Option<&'a str>,
    /// The interface that it leaves by; `None`: none, or not known.
    pub out_device: Option<&'a str>,
}

/// The chains and rules of a firewall as a host told them.
#[derive(Clone, Debug, Default)]
pub struct Filter<'a> {
    chains: Vec<&'a FirewallChain>,
    rules: Vec<&'a FirewallRule>,
    /// The numbers of the chains with these names.
    numbers: BTreeMap<Place<'a>, Vec<usize>>,
    /// The rules of the chains with these names that have a position, in their order.
    placed: BTreeMap<Place<'a>, Vec<&'a FirewallRule>>,
}

/// What became of a packet in a chain.
#[derive(Clone, Copy)]
enum Fate<'a> {
    /// It came to a rule that drops or rejects it.
    Stopped(&'a FirewallRule),
    /// It leaves the base chain.
    Accepted,
    /// It came to the end of the chain.
    Passed,
    /// That cannot be told.
    Unknown,
}

/// What set a packet's mark last.
#[derive(Clone, Copy)]
enum Marked<'a> {
    /// No packet comes there.
    Nowhere,
    /// Nothing did.
    No,
    /// This rule, surely.
    By(&'a FirewallRule),
    /// That cannot be told, or it may be stopped.
    Unknown,
}

impl Marked<'_> {
    /// Where it is the one or the other.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nowhere, marked) | (marked, Self::Nowhere) => marked,
            (Self::No, Self::No) => Self::No,
            (Self::By(one), Self::By(two)) if std::ptr::eq(one, two) => self,
            _ => Self::Unknown,
        }
    }

    /// Where this comes after something else.
    const fn after(self, earlier: Self) -> Self {
        match (earlier, self) {
            (Self::Nowhere, _) => Self::Nowhere,
            (_, Self::No) => earlier,
            _ => self,
        }
    }
}

/// What set the mark of the packets that come to the end of a chain, and of those that leave its base chain in it.
#[derive(Clone, Copy)]
struct Marks<'a> {
    passed: Marked<'a>,
    left: Marked<'a>,
}

/// A packet's way through the chains of a hook: what is known of each, by its number; `None`: that is being found out.
struct Way<'b, T> {
    hook: &'b str,
    packet: &'b FilteredPacket<'b>,
    known: BTreeMap<usize, Option<T>>,
}

impl<'b, T: Copy> Way<'b, T> {
    const fn new(hook: &'b str, packet: &'b FilteredPacket<'b>) -> Self {
        Self { hook, packet, known: BTreeMap::new() }
    }

    /// What is known of a chain, found out at most once, however many rules lead there; `unknown`: of a circle, and of one
    /// that is too deep.
    fn of(&mut self, chain: usize, jumps: usize, unknown: T, find: impl FnOnce(&mut Self) -> T) -> T {
        if jumps >= MAX_JUMPS {
            return unknown;
        }
        if let Some(known) = self.known.get(&chain) {
            return known.unwrap_or(unknown);
        }
        self.known.insert(chain, None);
        let found = find(self);
        self.known.insert(chain, Some(found));
        found
    }
}

impl<'a> Filter<'a> {
    /// Of everything that was told at one moment.
    pub fn new(
        chains: impl IntoIterator<Item = &'a FirewallChain>,
        rules: impl IntoIterator<Item = &'a FirewallRule>,
    ) -> Self {
        let chains: Vec<_> = chains.into_iter().collect();
        let mut numbers: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (number, chain) in chains.iter().enumerate() {
            numbers.entry(Place::of_chain(chain)).or_default().push(number);
        }
        let rules: Vec<_> = rules.into_iter().collect();
        let mut placed: BTreeMap<_, Vec<&FirewallRule>> = BTreeMap::new();
        for rule in rules.iter().filter(|rule| rule.position.is_some()) {
            placed.entry(Place::of_rule(rule, &rule.chain)).or_default().push(rule);
        }
        for rules in placed.values_mut() {
            rules.sort_by_key(|rule| rule.position);
        }
        Self { chains, rules, numbers, placed }
    }

    /// Whether any rule stops anything at one of these hooks.
    pub fn stops_at(&self, hooks: &[&str]) -> bool {
        self.rules.iter().any(|rule| rule.stops_at(hooks))
    }

    /// The rule that surely drops or rejects a packet at one of these hooks, which it passes in this order. Whatever lets
    /// it pass in one base chain, it must pass the others, too. A packet whose addresses may be others by then is not
    /// followed.
    pub fn surely_stops(&self, hooks: &[&str], packet: &FilteredPacket<'_>) -> Option<&'a FirewallRule> {
        for (hook, number, base) in self.bases(hooks) {
            let fate = match self.follow(number, &mut Way::new(hook, packet), 0) {
                Fate::Passed if base.drops => self.policy(base).map_or(Fate::Unknown, Fate::Stopped),
                fate => fate,
            };
            match fate {
                Fate::Stopped(rule) => return Some(rule),
                Fate::Unknown if base.chain_type.as_deref() == Some("nat") => return None,
                Fate::Accepted | Fate::Passed | Fate::Unknown => {}
            }
        }
        None
    }

    /// The rule that surely is the last to set the mark by which a packet is routed again behind a hook, and the mark.
    pub fn surely_marks(&self, hook: &str, packet: &FilteredPacket<'_>) -> Option<(&'a FirewallRule, u32)> {
        let bases = self.bases(&[hook]).into_iter().filter(|(.., base)| routes_again(base));
        let marked = bases.fold(Marked::No, |earlier, (hook, number, _)| {
            let Marks { passed, left } = self.marks(number, &mut Way::new(hook, packet), 0);
            passed.or(left).after(earlier)
        });
        let Marked::By(rule) = marked else { return None };
        Some((rule, mark_of(rule)?))
    }

    /// The base chains of some hooks with their numbers, in the order in which a packet passes them.
    fn bases<'b>(&self, hooks: &[&'b str]) -> Vec<(&'b str, usize, &'a FirewallChain)> {
        let place = |chain: &FirewallChain| hooks.iter().position(|hook| chain.hook.as_deref() == Some(hook));
        let chains = self.chains.iter().enumerate();
        let mut bases: Vec<_> = chains.filter_map(|(number, chain)| Some((place(chain)?, number, *chain))).collect();
        bases.sort_by_key(|(hook, _, chain)| (*hook, priority(chain)));
        bases.into_iter().filter_map(|(hook, number, chain)| Some((*hooks.get(hook)?, number, chain))).collect()
    }

    /// What a chain does to a packet.
    fn follow(&self, chain: usize, way: &mut Way<'_, Fate<'a>>, jumps: usize) -> Fate<'a> {
        way.of(chain, jumps, Fate::Unknown, |way| self.follow_rules(chain, way, jumps))
    }

    fn follow_rules(&self, chain: usize, way: &mut Way<'_, Fate<'a>>, jumps: usize) -> Fate<'a> {
        let Some(rules) = self.rules_of(chain, way.hook) else { return Fate::Unknown };
        for rule in rules {
            let is_sure = match rule.takes(way.packet) {
                Some(false) => continue,
                takes => takes.is_some(),
            };
            let fate = match rule.verdict.as_deref() {
                // Its addresses are others from here on.
                _ if translates(rule) => return Fate::Unknown,
                None => continue,
                Some("drop" | "reject") => Fate::Stopped(rule),
                Some("accept") => Fate::Accepted,
                Some("return") => Fate::Passed,
                Some(verdict @ ("jump" | "goto")) => {
                    let fate = self.target(rule).map(|target| self.follow(target, way, jumps + 1));
                    match fate.unwrap_or(Fate::Unknown) {
                        Fate::Passed if verdict == "jump" => continue,
                        fate => fate,
                    }
                }
                // Some program decides, or nothing comes further.
                Some(_) => return Fate::Unknown,
            };
            match fate {
                // A packet that it does not take comes to the next rule.
                Fate::Stopped(_) if !is_sure => {}
                fate if is_sure => return fate,
                _ => return Fate::Unknown,
            }
        }
        Fate::Passed
    }

    /// What sets a packet's mark in a chain.
    fn marks(&self, chain: usize, way: &mut Way<'_, Marks<'a>>, jumps: usize) -> Marks<'a> {
        let unknown = Marks { passed: Marked::Unknown, left: Marked::Unknown };
        way.of(chain, jumps, unknown, |way| self.marks_of_rules(chain, way, jumps).unwrap_or(unknown))
    }

    fn marks_of_rules(&self, chain: usize, way: &mut Way<'_, Marks<'a>>, jumps: usize) -> Option<Marks<'a>> {
        let (mut here, mut passed, mut left) = (Marked::No, Marked::Nowhere, Marked::Nowhere);
        for rule in self.rules_of(chain, way.hook)? {
            let is_sure = match rule.takes(way.packet) {
                Some(false) => continue,
                takes => takes.is_some(),
            };
            let taken = if rule.sets_mark { Marked::By(rule).after(here) } else { here };
            // What is left of the packets that it takes comes to the next rule.
            let next = match rule.verdict.as_deref() {
                _ if translates(rule) => return None,
                None => taken,
                Some("accept") => {
                    left = left.or(taken);
                    Marked::Nowhere
                }
                Some("return") => {
                    passed = passed.or(taken);
                    Marked::Nowhere
                }
                Some(verdict @ ("jump" | "goto")) => {
                    let there = self.marks(self.target(rule)?, way, jumps + 1);
                    left = left.or(there.left.after(taken));
                    let back = there.passed.after(taken);
                    if verdict == "jump" {
                        back
                    } else {
                        passed = passed.or(back);
                        Marked::Nowhere
                    }
                }
                // Nothing comes further, or some program decides.
                Some(_) => {
                    left = left.or(Marked::Unknown.after(taken));
                    Marked::Nowhere
                }
            };
            here = if is_sure { next } else { here.or(next) };
        }
        Some(Marks { passed: passed.or(here), left })
    }

    /// The chain that a rule leads to.
    fn target(&self, rule: &FirewallRule) -> Option<usize> {
        let target = rule.target.as_ref()?;
        let numbers = self.numbers.get(&Place::of_rule(rule, target))?;
        numbers.iter().copied().find(|number| self.chains.get(*number).is_some_and(|chain| is_of_table(chain, rule)))
    }

    /// The rules of a chain for a hook, in their order; `None`: not all were told that matter.
    fn rules_of(&self, chain: usize, hook: &str) -> Option<Vec<&'a FirewallRule>> {
        let chain = *self.chains.get(chain)?;
        let of_chain = |rule: &&FirewallRule| is_of_table(chain, rule) && rule.hook.as_deref() == Some(hook);
        let placed = self.placed.get(&Place::of_chain(chain)).into_iter().flatten().copied();
        let mut rules: Vec<&FirewallRule> = placed.filter(of_chain).collect();
        rules.dedup_by_key(|rule| rule.position);
        let told = rules.iter().filter(|rule| matters(rule)).count() as u64;
        (chain.recorded >= chain.rules && told >= chain.rules).then_some(rules)
    }

    /// What was told of a base chain's policy.
    fn policy(&self, base: &FirewallChain) -> Option<&'a FirewallRule> {
        let of_base = |rule: &&FirewallRule| is_of_table(base, rule) && rule.chain == base.chain && rule.stops();
        self.rules.iter().copied().filter(of_base).find(|rule| rule.position.is_none() && rule.handle.is_none())
    }
}

/// The names by which a chain is found: of the table's family, of the table, and its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a>(&'a str, &'a str, &'a str);

impl<'a> Place<'a> {
    fn of_chain(chain: &'a FirewallChain) -> Self {
        Self(&chain.table_family, &chain.table, &chain.chain)
    }

    /// Of a chain in the table of a rule.
    fn of_rule(rule: &'a FirewallRule, chain: &'a str) -> Self {
        Self(&rule.table_family, &rule.table, chain)
    }
}

fn is_of_table(chain: &FirewallChain, rule: &FirewallRule) -> bool {
    (chain.framework, &chain.table_family, &chain.table) == (rule.framework, &rule.table_family, &rule.table)
}

/// Whether a rule ends a packet's way through its chain, leads it elsewhere or changes its addresses or mark.
fn matters(rule: &FirewallRule) -> bool {
    rule.verdict.is_some() || rule.sets_mark || translates(rule)
}

/// Whether a packet whose mark it changes is routed again: of nftables' chains those of one type alone, of iptables' those
/// of one table.
fn routes_again(base: &FirewallChain) -> bool {
    match base.framework {
        FirewallFramework::Nftables => base.chain_type.as_deref() == Some("route"),
        FirewallFramework::LegacyIptables => base.table == "mangle",
    }
}

/// The mark that a rule sets, where its words say so whatever the packet had before.
fn mark_of(rule: &FirewallRule) -> Option<u32> {
    let mut words: Vec<&str> = rule.rule.split_whitespace().collect();
    while matches!(words.last(), Some(&("accept" | "return" | "continue" | "counter"))) {
        words.pop();
    }
    let text = words.windows(4).find_map(|words| match words {
        ["meta", "mark", "set", mark] => Some(*mark),
        _ => None,
    });
    let text = text.or_else(|| {
        let option = words.iter().position(|word| *word == "--set-xmark")?;
        words.get(option + 1)?.strip_suffix("/0xffffffff")
    })?;
    // What follows the mark is part of how it is worked out.
    let is_whole = words.last().is_some_and(|last| last.trim_end_matches("/0xffffffff") == text);
    text.strip_prefix("0x").filter(|_| is_whole).and_then(|digits| u32::from_str_radix(digits, 16).ok())
}

/// Whether it changes addresses or ports, by its words.
fn translates(rule: &FirewallRule) -> bool {
    const WORDS: [&str; 11] = [
        "masquerade",
        "snat",
        "dnat",
        "redirect",
        "tproxy",
        "MASQUERADE",
        "SNAT",
        "DNAT",
        "REDIRECT",
        "NETMAP",
        "TPROXY",
    ];
    rule.rule.split_whitespace().any(|word| WORDS.contains(&word))
}

/// Its place among the base chains of a hook. The legacy iptables pass their tables in a fixed order
/// (linux/netfilter_ipv4.h, enum nf_ip_hook_priorities).
fn priority(chain: &FirewallChain) -> i32 {
    if chain.framework == FirewallFramework::Nftables {
        return chain.priority.unwrap_or(0);
    }
    let before = matches!(chain.hook.as_deref(), Some("prerouting" | "output"));
    match chain.table.as_str() {
        "raw" => -300,
        "mangle" => -150,
        "nat" if before => -100,
        "nat" => 100,
        "security" => 50,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn rule(chain: &str, words: &str, verdict: &str) -> FirewallRule {
        FirewallRule {
            framework: FirewallFramework::Nftables,
            table_family: "inet".into(),
            table: "filter".into(),
            chain: chain.into(),
            hook: Some("input".into()),
            chain_type: Some("filter".into()),
            priority: Some(0),
            handle: Some(4),
            position: None,
            rule: words.into(),
            verdict: Some(verdict.into()),
            target: None,
            sets_mark: false,
            packets: Some(0),
            packets_since: Some(0),
        }
    }

    pub(super) fn packet() -> FilteredPacket<'static> {
        FilteredPacket {
            source: "203.0.113.7:40000".parse().unwrap(),
            destination: "192.168.1.2:51820".parse().unwrap(),
            in_device: Some("eth0"),
            out_device: None,
        }
    }

    /// A chain with its rules, each as its words and verdict; a jump names its chain at the end.
    fn chain(name: &str, hook: Option<&str>, rules: &[(&str, &str)]) -> (FirewallChain, Vec<FirewallRule>) {
        let told = rules.iter().zip(0..).map(|((words, verdict), position)| FirewallRule {
            position: Some(position),
            target: (*verdict == "jump" || *verdict == "goto")
                .then(|| words.split_whitespace().last().unwrap_or_default().to_owned()),
            ..rule(name, words, verdict)
        });
        let count = rules.len() as u64;
        let chain = FirewallChain {
            framework: FirewallFramework::Nftables,
            table_family: "inet".into(),
            table: "filter".into(),
            chain: name.into(),
            hook: hook.map(str::to_owned),
            chain_type: hook.map(|_| "filter".to_owned()),
            priority: hook.map(|_| 0),
            drops: false,
            rules: count,
            recorded: count,
        };
        (chain, told.collect())
    }

    /// The words of the rule that surely stops the packet.
    fn stopping(chains: &[(FirewallChain, Vec<FirewallRule>)]) -> Option<String> {
        let rules = chains.iter().flat_map(|(_, rules)| rules);
        let filter = Filter::new(chains.iter().map(|(chain, _)| chain), rules);
        filter.surely_stops(&["prerouting", "input"], &packet()).map(|rule| rule.rule.clone())
    }

    const DROP: (&str, &str) = ("ip saddr 203.0.113.0/26 counter drop", "drop");
    const UNKNOWN: &str = "ct state established";

    #[test]
    fn rules_are_followed_in_their_order() {
        let stops = |rules: &[(&str, &str)]| stopping(&[chain("input", Some("input"), rules)]).is_some();
        assert!(stops(&[DROP]));
        assert!(stops(&[("tcp dport 22 accept", "accept"), DROP]), "that is about TCP");
        assert!(stops(&[DROP, ("ct state established accept", "accept")]), "it comes after");
        assert!(!stops(&[("ct state established accept", "accept"), DROP]), "it may take it first");
        assert!(!stops(&[("udp dport 51820 accept", "accept"), DROP]), "it does");
        assert!(stops(&[("ct state invalid drop", "drop"), DROP]), "whether the first does or the second");
        assert!(!stops(&[("ct state invalid drop", "drop")]));
        assert!(!stops(&[("queue to 0", "queue"), DROP]), "a program decides");
        assert!(!stops(&[("return", "return"), DROP]));
        assert!(stops(&[("udp dport 5353 return", "return"), DROP]));
    }

    #[test]
    fn jumps_lead_to_another_chain_and_back() {
        let stops = |begin: (&str, &str), rest: &[(&str, &str)], target: &[(&str, &str)]| {
            let mut base = vec![begin];
            base.extend(rest);
            stopping(&[chain("input", Some("input"), &base), chain("more", None, target)]).is_some()
        };
        let (jump, goto) = (("meta l4proto udp jump more", "jump"), ("goto more", "goto"));
        let (perhaps, accept, back) = (format!("{UNKNOWN} jump more"), ("accept", "accept"), ("return", "return"));
        let perhaps = (perhaps.as_str(), "jump");
        assert!(stops(jump, &[], &[DROP]));
        assert!(stops(jump, &[DROP], &[]), "back at once");
        assert!(stops(jump, &[DROP], &[back, accept]));
        assert!(!stops(jump, &[DROP], &[accept]));
        assert!(!stops(perhaps, &[DROP], &[accept]));
        assert!(stops(perhaps, &[DROP], &[DROP]), "here or there");
        assert!(stops(perhaps, &[DROP], &[back]));
        assert!(!stops(perhaps, &[], &[DROP]));
        assert!(stops(goto, &[], &[DROP]));
        assert!(!stops(goto, &[DROP], &[]), "it does not come back");
        assert!(!stops(("jump elsewhere", "jump"), &[DROP], &[]), "nothing was told of that chain");
        assert!(!stops(("jump input", "jump"), &[DROP], &[]), "a circle ends");
    }

    #[test]
    fn what_was_not_told_or_may_translate_proves_nothing() {
        let (mut input, rules) = chain("input", Some("input"), &[DROP]);
        (input.rules, input.recorded) = (300, 256);
        assert_eq!(stopping(&[(input, rules)]), None, "there are more");
        let (input, _) = chain("input", Some("input"), &[DROP]);
        assert_eq!(stopping(&[(input, Vec::new())]), None, "they got lost");

        let nat = |words: &str| {
            let (mut chain, mut rules) = chain("pre", Some("prerouting"), &[(words, "accept")]);
            chain.chain_type = Some("nat".into());
            rules.iter_mut().for_each(|rule| (rule.hook, rule.verdict) = (Some("prerouting".into()), None));
            stopping(&[(chain, rules), self::chain("input", Some("input"), &[DROP])])
        };
        assert_eq!(nat("udp dport 51820 dnat to 10.0.0.2"), None, "it may have another address by then");
        assert!(nat("tcp dport 80 dnat to 10.0.0.2").is_some());
        let forwarded = chain("forward", Some("forward"), &[DROP]);
        assert_eq!(stopping(&[forwarded]), None);
    }

    /// The mark that rules of a chain surely set, each as its words and verdict; "mark": it sets the mark.
    fn marks(kind: &str, told: &[(&str, &str)]) -> Option<u32> {
        let chains = [route_chain(kind, told)];
        marked(&chains)
    }

    fn route_chain(kind: &str, told: &[(&str, &str)]) -> (FirewallChain, Vec<FirewallRule>) {
        let (mut chain, mut rules) = chain(kind, Some("input"), told);
        chain.chain_type = Some(kind.into());
        for rule in rules.iter_mut().filter(|rule| rule.rule.contains("mark set")) {
            rule.sets_mark = true;
            rule.verdict = rule.verdict.take().filter(|verdict| verdict != "mark");
        }
        (chain, rules)
    }

    fn marked(chains: &[(FirewallChain, Vec<FirewallRule>)]) -> Option<u32> {
        let rules = chains.iter().flat_map(|(_, rules)| rules);
        let filter = Filter::new(chains.iter().map(|(chain, _)| chain), rules);
        filter.surely_marks("input", &packet()).map(|(_, mark)| mark)
    }

    #[test]
    fn a_rule_that_sets_the_mark_is_found_with_the_mark() {
        let marks = |words: &str, before: &[(&str, &str)]| marks("route", &[before, &[(words, "mark")]].concat());
        assert_eq!(marks("ip saddr 203.0.113.0/26 counter meta mark set 0x00000000", &[]), Some(0));
        assert_eq!(marks("meta mark set 0x0001bd00", &[]), Some(0x1bd00));
        assert_eq!(marks("meta mark set meta mark & 0xfffffff0 | 0x00000001", &[]), None, "it depends");
        assert_eq!(marks("ip saddr 198.51.100.1 meta mark set 0x00000000", &[]), None, "it is about others");
        assert_eq!(marks("ct state new meta mark set 0x00000000", &[]), None);
        assert_eq!(marks("meta mark set 0x00000000", &[("ct state established accept", "accept")]), None);
        assert_eq!(marks("meta mark set 0x00000000", &[("tcp dport 22 accept", "accept")]), Some(0));
        assert_eq!(marks("meta mark set 0x00000000", &[("udp dport 51820 accept", "accept")]), None);
        assert_eq!(marks("meta mark set 0x00000000", &[DROP]), None);
    }

    #[test]
    fn of_several_marks_the_last_one_counts() {
        const ZERO: (&str, &str) = ("meta mark set 0x00000000", "mark");
        const SEVEN: (&str, &str) = ("ip saddr 203.0.113.0/26 meta mark set 0x00000007", "mark");
        const PERHAPS: (&str, &str) = ("ct state new meta mark set 0x00000007", "mark");
        let marks = |told: &[(&str, &str)]| marks("route", told);
        assert_eq!(marks(&[ZERO, SEVEN]), Some(7));
        assert_eq!(marks(&[ZERO, PERHAPS]), None);
        assert_eq!(marks(&[PERHAPS, ZERO]), Some(0), "whatever it had before");
        assert_eq!(marks(&[ZERO, ("ip saddr 198.51.100.1 meta mark set 0x00000007", "mark")]), Some(0));
        assert_eq!(marks(&[ZERO, ("accept", "accept"), SEVEN]), Some(0), "it comes no further");
        assert_eq!(marks(&[ZERO, (UNKNOWN, "accept"), SEVEN]), None);
        assert_eq!(marks(&[ZERO, (UNKNOWN, "accept")]), Some(0), "either way");
        assert_eq!(marks(&[("meta mark set 0x00000000 accept", "accept"), SEVEN]), Some(0));

        let (mut later, rules) = route_chain("route", &[SEVEN]);
        later.priority = Some(5);
        let later = |words: &str| {
            let (mut later, mut rules) = (later.clone(), rules.clone());
            later.chain = "later".into();
            rules.iter_mut().for_each(|rule| (rule.chain, rule.rule) = ("later".into(), words.into()));
            marked(&[route_chain("route", &[ZERO, ("accept", "accept")]), (later, rules)])
        };
        assert_eq!(later(SEVEN.0), Some(7), "the next chain sees it as well");
        assert_eq!(later(PERHAPS.0), None);

        let jumping = |target: &[(&str, &str)], rest: &[(&str, &str)]| {
            let base = [&[ZERO, ("jump more", "jump")], rest].concat();
            let (mut more, rules) = route_chain("more", target);
            (more.hook, more.chain_type) = (None, None);
            marked(&[route_chain("route", &base), (more, rules)])
        };
        assert_eq!(jumping(&[SEVEN], &[]), Some(7));
        assert_eq!(jumping(&[SEVEN], &[ZERO]), Some(0));
        assert_eq!(jumping(&[(UNKNOWN, "return"), SEVEN], &[]), None);
        assert_eq!(jumping(&[SEVEN, ("accept", "accept")], &[ZERO]), Some(7));
    }

    #[test]
    fn only_a_chain_that_has_packets_routed_again_marks_them_for_the_routing() {
        const SETS: [(&str, &str); 1] = [("meta mark set 0x00000000", "mark")];
        assert_eq!(marks("route", &SETS), Some(0));
        assert_eq!(marks("filter", &SETS), None);
        let legacy = |table: &str| {
            let (mut chain, mut rules) =
                route_chain("filter", &[("-j MARK --set-xmark 0x0/0xffffffff mark set", "mark")]);
            chain.framework = FirewallFramework::LegacyIptables;
            (chain.table_family, chain.table) = ("ip".into(), table.into());
            for rule in &mut rules {
                rule.framework = chain.framework;
                (rule.table_family, rule.table) = ("ip".into(), table.into());
                rule.rule = "-j MARK --set-xmark 0x0/0xffffffff".into();
            }
            marked(&[(chain, rules)])
        };
        assert_eq!((legacy("mangle"), legacy("raw"), legacy("filter")), (Some(0), None, None));
    }

    #[test]
    fn chains_that_lead_to_many_others_again_and_again_end() {
        let name = |level: usize| format!("level{level}");
        let mut chains = vec![chain("input", Some("input"), &[("jump level1", "jump"); 8])];
        for level in 1..15 {
            let jump = format!("jump {}", name(level + 1));
            chains.push(chain(&name(level), None, &[(jump.as_str(), "jump"); 8]));
        }
        chains.push(chain(&name(15), None, &[("tcp dport 22 accept", "accept")]));
        assert_eq!(stopping(&chains), None);
        chains[0].0.chain_type = Some("route".to_owned());
        assert_eq!(marked(&chains), None);
    }

    #[test]
    fn a_policy_stops_what_comes_to_the_end_of_its_chain() {
        let policy = |accepted: &str| {
            let (mut input, mut rules) = chain("input", Some("input"), &[(accepted, "accept")]);
            input.drops = true;
            rules.push(FirewallRule { handle: None, ..rule("input", "policy drop", "drop") });
            stopping(&[(input, rules)])
        };
        assert_eq!(policy("tcp dport 22 accept").as_deref(), Some("policy drop"));
        assert_eq!(policy("udp dport 51820 accept"), None);
        assert_eq!(policy("ct state established accept"), None);
    }

    #[test]
    fn one_base_chain_is_enough_and_what_another_lets_pass_does_not_help() {
        let other = |words: &str, verdict: &str| {
            let (mut chain, mut rules) = chain("first", Some("input"), &[(words, verdict)]);
            chain.priority = Some(-10);
            rules.iter_mut().for_each(|rule| rule.priority = Some(-10));
            stopping(&[self::chain("input", Some("input"), &[DROP]), (chain, rules)])
        };
        assert_eq!(other("accept", "accept").as_deref(), Some(DROP.0));
        assert_eq!(other("ct state established accept", "accept").as_deref(), Some(DROP.0));
        assert_eq!(other("udp dport 51820 drop", "drop").as_deref(), Some("udp dport 51820 drop"), "the first of them");
    }
}
