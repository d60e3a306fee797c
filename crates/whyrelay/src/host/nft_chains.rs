//! The chains of a firewall that may stop the session's packets or change them, and the rules in them that decide:
//! together they say what becomes of a packet that no rule has counted yet.

use std::collections::{BTreeMap, BTreeSet};

use super::nft::{Chain, Firewall, Key, is_ours, key};
use super::nft_condition::Packet;
use super::nft_rule::Rule;

/// Most rules that are tried on packets for this, and most chains that are told: with more, none is.
const MAX_TRIED: usize = 20_000;
const MAX_CHAINS: usize = 256;

/// Most rules of a chain that are told.
const MAX_OF_A_CHAIN: usize = 256;

/// A chain, and its rules that decide about the session's packets.
#[derive(Debug)]
pub(super) struct Deciding<'a> {
    pub(super) key: Key,
    pub(super) chain: &'a Chain,
    /// The numbers of the rules in their order, no more than are told.
    pub(super) rules: Vec<usize>,
    /// Whether there are more.
    pub(super) is_cut: bool,
}

impl Firewall {
    /// The chains that some of these packets pass, at a hook or by a jump from there, where some rule may stop one or
    /// change its addresses or mark. Nothing where no rule may stop or mark any.
    pub(super) fn deciding(&self, packets: &[Packet]) -> Vec<Deciding<'_>> {
        let mut by_chain: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        let decides = |rule: &Rule| rule.verdict.is_some() || rule.translates || rule.sets_mark;
        let decides = self.rules.iter().enumerate().filter(|(_, (_, rule))| decides(rule));
        for (tried, (number, (place, rule))) in decides.enumerate() {
            if tried >= MAX_TRIED {
                return Vec::new();
            }
            if packets.iter().any(|packet| rule.can_touch(packet)) {
                by_chain.entry(key(place)).or_default().push(number);
            }
        }
        let (mut wanted, mut is_wanted) = (BTreeSet::new(), false);
        for (base_key, base) in self.chains.iter().filter(|(_, chain)| chain.hook.is_some_and(is_ours)) {
            let passed = self.passed(base_key, &by_chain);
            let of_it =
                || passed.iter().filter_map(|key| by_chain.get(key)).flatten().map(|number| &self.rules[*number].1);
            let acts = |rule: &Rule| rule.sets_mark || matches!(rule.verdict, Some("drop" | "reject"));
            let may_act = base.drops || of_it().any(acts);
            is_wanted |= may_act;
            if may_act || of_it().any(|rule| rule.translates) {
                wanted.extend(passed);
            }
        }
        if !is_wanted || wanted.len() > MAX_CHAINS {
            return Vec::new();
        }
        let told = wanted.into_iter().filter_map(|key| {
            let chain = self.chains.get(&key)?;
            let mut rules = by_chain.remove(&key).unwrap_or_default();
            let is_cut = rules.len() > MAX_OF_A_CHAIN;
            rules.truncate(MAX_OF_A_CHAIN);
            Some(Deciding { key, chain, rules, is_cut })
        });
        told.collect()
    }

    /// A base chain and those that its packets may come to.
    fn passed(&self, base: &Key, by_chain: &BTreeMap<Key, Vec<usize>>) -> BTreeSet<Key> {
        let (mut passed, mut open) = (BTreeSet::new(), vec![base.clone()]);
        while let Some(chain) = open.pop() {
            let rules = by_chain.get(&chain).into_iter().flatten().map(|number| &self.rules[*number].1);
            let targets = rules.filter_map(|rule| rule.target.clone());
            let targets: Vec<Key> = targets.map(|target| (chain.0, chain.1.clone(), target)).collect();
            if passed.insert(chain) {
                open.extend(targets);
            }
        }
        passed
    }
}
