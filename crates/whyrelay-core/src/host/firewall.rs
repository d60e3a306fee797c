//! Firewall rules and connection tracking.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Which firewall a rule belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirewallFramework {
    /// nftables, iptables-nft included.
    Nftables,
    /// The legacy iptables.
    LegacyIptables,
}

/// A firewall rule, or (without a handle) a chain's policy, that can touch the session's packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallRule {
    /// Which firewall.
    pub framework: FirewallFramework,
    /// The table's family: `ip`, `ip6`, `inet`, `bridge`, `netdev`, `arp`.
    pub table_family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The hook of the base chain that leads here: `prerouting`, `input`, `forward`, `output`, `postrouting`,
    /// `ingress`; `None`: no base chain leads here, or it was not worked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// The type of that base chain: `filter`, `nat`, `route`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_type: Option<String>,
    /// The priority of that base chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// The rule's handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// Its place among the rules of its chain, from 0; `None`: a chain's policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// The rule as far as it could be read, in the words of nft.
    pub rule: String,
    /// Its verdict: `accept`, `drop`, `reject`, `jump`, `goto`, `return`, `queue`, or `other`, which nobody here knows; `None`: it has
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// The chain that it jumps to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether it sets the packet's mark.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sets_mark: bool,
    /// Packets that it counted; `None`: it has no counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Packets that it counted since the facts before the checks; `None`: it has no counter, or which of the rules
    /// before the checks it was cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_since: Option<u64>,
}

impl FirewallRule {
    /// Whether it drops or rejects what is seen at one of these hooks.
    pub fn stops_at(&self, hooks: &[&str]) -> bool {
        self.stops() && self.hook.as_deref().is_some_and(|hook| hooks.contains(&hook))
    }

    /// Whether it drops or rejects.
    pub fn stops(&self) -> bool {
        matches!(self.verdict.as_deref(), Some("drop" | "reject"))
    }
}

/// A chain that packets of the session pass, at a hook or by a jump from there, where some rule may stop them or change
/// their addresses or mark: how many of its rules can touch them and decide what becomes of them. Where all of these are recorded,
/// what the chain does to a packet can be followed, whatever they have counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallChain {
    /// Which firewall.
    pub framework: FirewallFramework,
    /// The table's family, like a rule's.
    pub table_family: String,
    /// The table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// The hook, where it is a base chain, like a rule's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// The type of a base chain: `filter`, `nat`, `route`; of the legacy iptables the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_type: Option<String>,
    /// The priority of a base chain; the legacy iptables tell none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Whether the policy of a base chain drops what comes to its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drops: bool,
    /// How many of its rules can touch the session's packets and have a verdict, or change addresses or the mark; where
    /// there are more than are recorded perhaps fewer than there are.
    pub rules: u64,
    /// How many of these are recorded.
    pub recorded: u64,
}

/// A connection tracking entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackEntry {
    /// The IP protocol: 17 UDP, 6 TCP.
    pub protocol: u8,
    /// Source of the first packet.
    pub original_source: SocketAddr,
    /// Destination of the first packet.
    pub original_destination: SocketAddr,
    /// Source of the expected answer.
    pub reply_source: SocketAddr,
    /// Destination of the expected answer.
    pub reply_destination: SocketAddr,
    /// Whether an answer was seen.
    pub replied: bool,
    /// Its mark.
    #[serde(default)]
    pub mark: u32,
    /// The time until it expires, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
}
