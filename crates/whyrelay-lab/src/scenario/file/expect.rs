//! What must come out.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whyrelay_core::nat::behavior::{FilteringBehavior, MappingBehavior};

use super::is_default;
use super::names::BehaviorName;

/// In [`Expect::also`]: any finding at all.
pub const ANYTHING: &str = "anything";

/// What must come out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expect {
    /// The path.
    pub path: Path,
    /// The best that these networks allow, as the account says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Best>,
    /// Findings of severity error or warning that must be there. None: nothing may be wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finding: Vec<Finding>,
    /// Findings of that severity that may be there besides, none of them as the first where another must be there;
    /// `anything` stands for all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// The NAT behavior that a stranger discovers from a host's place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nat: BTreeMap<String, Discovered>,
}

impl Default for Expect {
    fn default() -> Self {
        Self { path: Path::Direct, expected: None, finding: Vec::new(), also: Vec::new(), nat: BTreeMap::new() }
    }
}

/// How the peers are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// From host to host.
    Direct,
    /// By a relay.
    Relayed,
    /// Not at all.
    Failed,
}

/// The best path that two networks allow, as an account tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Best {
    /// From host to host.
    Direct,
    /// By a relay.
    Relayed,
    /// None.
    Failed,
    /// Nothing that was measured tells: a fault of a host hides it, as a rule.
    Unknown,
}

/// A finding that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Finding {
    /// Its code or its name.
    pub name: String,
    /// Codes or names of others that are as good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub or: Vec<String>,
    /// Whose fault it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blame: Option<Blame>,
    /// Whether it must come before all others.
    #[serde(default, skip_serializing_if = "is_default")]
    pub first: bool,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// Side a.
    A,
    /// Side b.
    B,
    /// Both sides.
    Both,
    /// The server.
    Relay,
    /// Signaling.
    Signaling,
    /// Between the two.
    Path,
}

/// What is discovered of a NAT (RFC 5780).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Discovered {
    /// Whether UDP gets out and back at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<bool>,
    /// Which destinations share a mapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BehaviorName>")]
    pub mapping: Option<MappingBehavior>,
    /// Who is let in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BehaviorName>")]
    pub filtering: Option<FilteringBehavior>,
    /// Whether a host reaches its own mapped address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hairpinning: Option<bool>,
    /// Whether the port outside is the one inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_preservation: Option<bool>,
}
