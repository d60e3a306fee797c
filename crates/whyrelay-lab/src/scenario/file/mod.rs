//! A scenario file as it is written: TOML, unknown keys refused, everything optional that has an obvious value.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod expect;
mod host;
mod link;
mod names;
mod router;
mod server;

pub use expect::{ANYTHING, Best, Blame, Discovered, Expect, Finding, Path};
pub use host::{
    FirewallRule, Hook, Host, Interface, InterfaceKind, Protocol, Route, RouteKind, Rule, RuleAction, Session, Verdict,
};
pub use link::{Burst, Link};
pub use router::{Alg, Forward, Ipv6, OneOrMany, PortMapping, Refusal, Router, Translate};
pub use server::{Certificate, Credentials, Server, Signaling, SignalingFaults};

/// A scenario: a network between two peers, and what is expected of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// One line for lists.
    pub title: String,
    /// What is to be learned from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Where it can be run; both worlds unless one cannot express it.
    #[serde(default = "both_worlds", skip_serializing_if = "is_both_worlds")]
    pub worlds: Vec<WorldKind>,
    /// Everything random in the virtual world comes from it.
    #[schemars(range(max = crate::scenario::LARGEST_SEED))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub seed: u64,
    /// Routers by name. Each has one network inside, which has the router's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub router: BTreeMap<String, Router>,
    /// Hosts by name. `a`, the offerer, and `b`, the answerer, are the peers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host: BTreeMap<String, Host>,
    /// The STUN, TURN and signaling server. It is on the Internet.
    #[serde(default, skip_serializing_if = "is_default")]
    pub server: Server,
    /// What signaling does to messages.
    #[serde(default, skip_serializing_if = "is_default")]
    pub signaling: Signaling,
    /// What must come out.
    pub expect: Expect,
}

/// Which world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WorldKind {
    /// Virtual time.
    Virtual,
    /// Network namespaces.
    Kernel,
}

impl File {
    /// The routers that something is behind: hosts' interfaces and other routers.
    pub(crate) fn routers_in_use(&self) -> BTreeSet<&String> {
        let places = self.host.values().flat_map(|host| {
            std::iter::once(&host.behind).chain(host.interface.iter().map(|interface| &interface.behind))
        });
        let outside = self.router.values().filter_map(|router| router.outside.as_ref());
        places.flat_map(OneOrMany::names).chain(outside).collect()
    }
}

fn both_worlds() -> Vec<WorldKind> {
    vec![WorldKind::Virtual, WorldKind::Kernel]
}

fn is_both_worlds(worlds: &[WorldKind]) -> bool {
    worlds.len() == 2
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const fn yes() -> bool {
    true
}

const fn is_yes(value: &bool) -> bool {
    *value
}
