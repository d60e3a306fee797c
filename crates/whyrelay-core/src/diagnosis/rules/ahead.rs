//! What stands ahead of a firewall rule in its chain, where all of it was told: of packets that are not the session's over
//! UDP the rules that let them pass are mostly left out of a recording.

use std::collections::BTreeSet;

use crate::diagnosis::evidence::{HostEvidence, Taken};
use crate::host::{FirewallFramework, FirewallRule, Moment};

/// The rules ahead of one in its base chain, after the checks. `None`: not all of them were told, or packets are led to its
/// chain by a jump, so that rules elsewhere decide which come there. So it is of a policy: how many rules are ahead of it
/// nobody tells.
pub(super) fn ahead<'a>(host: &'a HostEvidence, rule: &FirewallRule) -> Option<Vec<&'a Taken<FirewallRule>>> {
    let own = rule.position.filter(|_| is_of_base_chain(host, rule))?;
    let ahead: Vec<_> = after(host)
        .filter(|other| place(&other.fact) == place(rule) && other.fact.position.is_some_and(|other| other < own))
        .collect();
    let positions: BTreeSet<u32> = ahead.iter().filter_map(|other| other.fact.position).collect();
    (u32::try_from(positions.len()) == Ok(own)).then_some(ahead)
}

/// Whether the chain of a rule is one that packets come to by themselves: no jump leads to such a one. Where no chains
/// were told, none that a known jump leads to.
fn is_of_base_chain(host: &HostEvidence, rule: &FirewallRule) -> bool {
    let mut chains = host.firewall_chains.iter().filter(|chain| chain.moment == Moment::After).peekable();
    if chains.peek().is_some() {
        let is_same = |chain: &crate::host::FirewallChain| {
            (chain.framework, &*chain.table_family, &*chain.table, &*chain.chain) == place(rule)
        };
        return chains.any(|chain| chain.fact.hook.is_some() && is_same(&chain.fact));
    }
    let is_led_there = |other: &Taken<FirewallRule>| {
        let (framework, family, table, _) = place(&other.fact);
        let target = other.fact.target.as_deref().unwrap_or_default();
        (framework, family, table, target) == place(rule)
    };
    rule.hook.is_some() && !after(host).any(is_led_there)
}

fn after(host: &HostEvidence) -> impl Iterator<Item = &Taken<FirewallRule>> {
    host.firewall_rules.iter().filter(|rule| rule.moment == Moment::After)
}

/// The chain of a rule.
fn place(rule: &FirewallRule) -> (FirewallFramework, &str, &str, &str) {
    (rule.framework, &rule.table_family, &rule.table, &rule.chain)
}
