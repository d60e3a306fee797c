//! What the rules of a firewall do with one packet, as far as their words tell. What is not understood is not guessed:
//! then nothing is said of the packet.

mod words;

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
}

/// What is looked for in the chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// A rule that drops or rejects the packet.
    Stop,
    /// A rule that sets its mark.
    Mark,
}

/// What became of a packet in a chain.
enum Fate<'a> {
    /// It came to a rule of the kind that was looked for, and that took it.
    Found(&'a FirewallRule),
    /// It leaves the base chain.
    Accepted,
    /// It came to the end of the chain.
    Passed,
    /// That cannot be told.
    Unknown,
}

impl<'a> Filter<'a> {
    /// Of everything that was told at one moment.
    pub fn new(
        chains: impl IntoIterator<Item = &'a FirewallChain>,
        rules: impl IntoIterator<Item = &'a FirewallRule>,
    ) -> Self {
        Self { chains: chains.into_iter().collect(), rules: rules.into_iter().collect() }
    }

    /// Whether any rule stops anything at one of these hooks.
    pub fn stops_at(&self, hooks: &[&str]) -> bool {
        self.rules.iter().any(|rule| rule.stops_at(hooks))
    }

    /// The rule that surely drops or rejects a packet at one of these hooks, which it passes in this order. Whatever lets
    /// it pass in one base chain, it must pass the others, too. A packet whose addresses may be others by then is not
    /// followed.
    pub fn surely_stops(&self, hooks: &[&str], packet: &FilteredPacket<'_>) -> Option<&'a FirewallRule> {
        for (hook, base) in self.bases(hooks) {
            let fate = match self.follow(Wanted::Stop, base, hook, packet, 0) {
                Fate::Passed if base.drops => self.policy(base).map_or(Fate::Unknown, Fate::Found),
                fate => fate,
            };
            match fate {
                Fate::Found(rule) => return Some(rule),
                Fate::Unknown if base.chain_type.as_deref() == Some("nat") => return None,
                Fate::Accepted | Fate::Passed | Fate::Unknown => {}
            }
        }
        None
    }

    /// The rule that surely sets the mark of a packet at a hook before anything else may do so or end its way, and the
    /// mark.
    pub fn surely_marks(&self, hook: &str, packet: &FilteredPacket<'_>) -> Option<(&'a FirewallRule, u32)> {
        for (hook, base) in self.bases(&[hook]) {
            match self.follow(Wanted::Mark, base, hook, packet, 0) {
                Fate::Found(rule) => return Some((rule, mark_of(rule)?)),
                Fate::Unknown => return None,
                Fate::Accepted | Fate::Passed => {}
            }
        }
        None
    }

    /// The base chains of some hooks, in the order in which a packet passes them.
    fn bases<'b>(&self, hooks: &[&'b str]) -> Vec<(&'b str, &'a FirewallChain)> {
        let place = |chain: &FirewallChain| hooks.iter().position(|hook| chain.hook.as_deref() == Some(hook));
        let mut bases: Vec<_> = self.chains.iter().filter_map(|chain| Some((place(chain)?, *chain))).collect();
        bases.sort_by_key(|(hook, chain)| (*hook, priority(chain)));
        bases.into_iter().filter_map(|(hook, chain)| Some((*hooks.get(hook)?, chain))).collect()
    }

    /// What a chain does to a packet that came there from a hook.
    fn follow(
        &self,
        wanted: Wanted,
        chain: &FirewallChain,
        hook: &str,
        packet: &FilteredPacket<'_>,
        jumps: usize,
    ) -> Fate<'a> {
        let Some(rules) = self.rules_of(chain, hook).filter(|_| jumps < MAX_JUMPS) else { return Fate::Unknown };
        for rule in rules {
            let is_sure = match rule.takes(packet) {
                Some(false) => continue,
                takes => takes.is_some(),
            };
            let target = || {
                let target = rule.target.as_ref()?;
                self.chains.iter().find(|other| is_of_table(other, rule) && other.chain == *target)
            };
            let fate = match rule.verdict.as_deref() {
                // Its addresses are others from here on.
                _ if translates(rule) => return Fate::Unknown,
                _ if wanted == Wanted::Mark && rule.sets_mark => Fate::Found(rule),
                None => continue,
                Some("drop" | "reject") if wanted == Wanted::Stop => Fate::Found(rule),
                Some("accept") => Fate::Accepted,
                Some("return") => Fate::Passed,
                Some(verdict @ ("jump" | "goto")) => {
                    let jumps = jumps + 1;
                    let fate = target().map(|target| self.follow(wanted, target, hook, packet, jumps));
                    match fate.unwrap_or(Fate::Unknown) {
                        Fate::Passed if verdict == "jump" => continue,
                        fate => fate,
                    }
                }
                // Some program decides, or nothing comes further.
                Some(_) => return Fate::Unknown,
            };
            match fate {
                // A packet that it does not take comes to the next rule. One whose mark is another then may be taken by others.
                Fate::Found(_) if !is_sure && wanted == Wanted::Stop => {}
                fate if is_sure => return fate,
                _ => return Fate::Unknown,
            }
        }
        Fate::Passed
    }

    /// The rules of a chain for a hook, in their order; `None`: not all were told that matter.
    fn rules_of(&self, chain: &FirewallChain, hook: &str) -> Option<Vec<&'a FirewallRule>> {
        let of_chain = |rule: &&FirewallRule| {
            is_of_table(chain, rule) && rule.chain == chain.chain && rule.hook.as_deref() == Some(hook)
        };
        let placed = self.rules.iter().copied().filter(of_chain).filter(|rule| rule.position.is_some());
        let mut rules: Vec<&FirewallRule> = placed.collect();
        rules.sort_by_key(|rule| rule.position);
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

fn is_of_table(chain: &FirewallChain, rule: &FirewallRule) -> bool {
    (chain.framework, &chain.table_family, &chain.table) == (rule.framework, &rule.table_family, &rule.table)
}

/// Whether a rule ends a packet's way through its chain, leads it elsewhere or changes its addresses or mark.
fn matters(rule: &FirewallRule) -> bool {
    rule.verdict.is_some() || rule.sets_mark || translates(rule)
}

/// The mark that a rule sets, where its words say so whatever the packet had before.
fn mark_of(rule: &FirewallRule) -> Option<u32> {
    let words: Vec<&str> = rule.rule.split_whitespace().collect();
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

    #[test]
    fn a_rule_that_sets_the_mark_is_found_with_the_mark() {
        let marks = |words: &str, before: &[(&str, &str)]| {
            let (mut chain, mut rules) = chain("mark", Some("input"), &[before, &[(words, "none")]].concat());
            chain.chain_type = Some("route".into());
            let last = rules.last_mut().unwrap();
            (last.verdict, last.sets_mark) = (None, true);
            Filter::new([&chain], &rules).surely_marks("input", &packet()).map(|(_, mark)| mark)
        };
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
