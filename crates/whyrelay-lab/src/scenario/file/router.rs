//! Routers: NAT, firewall and what else one does to packets.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use whyrelay_core::nat::behavior::{
    FilteringBehavior, Hairpinning, MappingBehavior, Pooling, PortAllocation, Refresh, Unsolicited,
};

use super::is_default;
use super::link::Link;
use super::names::{BehaviorName, HairpinningName, PoolingName, PortAllocationName, RefreshName, UnsolicitedName};
use crate::scenario::value::{Cidr, Span, Span32};

/// One name or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several, the nearest to the host first.
    Many(Vec<String>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or several, as in \"home-router\" or [\"home-router\", \"mobile-carrier\"]")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(name.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(OneOrMany::Many(names))
            }
        }

        deserializer.deserialize_any(Names)
    }
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl OneOrMany {
    /// All of them.
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// What a router does to IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Translate {
    /// NAT (RFC 4787).
    Nat,
    /// An external address for each host inside, ports unchanged, as clouds do.
    OneToOne,
    /// Nothing: the network inside has public addresses.
    Nothing,
}

/// A router. A preset gives what is not said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Router {
    /// What it starts from: the name of a preset, `plain` unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// The network outside: a router's name, or `internet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<String>,
    /// The IPv4 network inside, for instance 192.168.1.0/24; the router has its first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Cidr>,
    /// What it does to IPv4 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translate: Option<Translate>,
    /// Which destinations share a mapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BehaviorName>")]
    pub mapping: Option<MappingBehavior>,
    /// Who is let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BehaviorName>")]
    pub filtering: Option<FilteringBehavior>,
    /// How ports are chosen: preserving, random, sequential, hash, or { contiguous = { block = 512 } }.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PortAllocationName>")]
    pub ports: Option<PortAllocation>,
    /// Whether two hosts may share an external port as long as their destinations differ, as in Linux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overloading: Option<bool>,
    /// How many external addresses it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub addresses: Option<u32>,
    /// Which of them a mapping gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PoolingName>")]
    pub pooling: Option<Pooling>,
    /// How long an idle mapping lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Span>,
    /// What keeps it alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<RefreshName>")]
    pub refresh: Option<Refresh>,
    /// Packets from the inside to its own external addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<HairpinningName>")]
    pub hairpinning: Option<Hairpinning>,
    /// Packets from outside that nobody asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<UnsolicitedName>")]
    pub unsolicited: Option<Unsolicited>,
    /// IPv6, which is never translated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6>,
    /// UDP packets to no destination pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_udp: Option<bool>,
    /// UDP passes to these ports only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_udp: Option<Vec<Span32>>,
    /// TCP connections pass to these ports only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_tcp: Option<Vec<Span32>>,
    /// What is not let out is refused with ICMP (administratively prohibited) instead of dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject: Option<bool>,
    /// What it says when it refuses, if not that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject_with: Option<Refusal>,
    /// A stateless filter in front of it: UDP comes in to these ports of the outside only, replies included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateless_inbound: Option<Vec<Span32>>,
    /// Hosts inside do not reach each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// Ports that lead to a host inside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<Forward>,
    /// Protocols by which hosts inside may ask for a forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_mapping: Option<Vec<PortMapping>>,
    /// An application-layer gateway that rewrites what it takes for addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<Alg>,
    /// Whether it sends ICMP errors (time exceeded, packet too big, unreachable).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<bool>,
    /// Its link to the outside.
    #[serde(default, skip_serializing_if = "is_default")]
    pub link: Link,
}

impl Router {
    /// This router, with what it does not say taken from another.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            preset: self.preset.or(base.preset),
            outside: self.outside.or(base.outside),
            inside: self.inside.or(base.inside),
            translate: self.translate.or(base.translate),
            mapping: self.mapping.or(base.mapping),
            filtering: self.filtering.or(base.filtering),
            ports: self.ports.or(base.ports),
            overloading: self.overloading.or(base.overloading),
            addresses: self.addresses.or(base.addresses),
            pooling: self.pooling.or(base.pooling),
            lifetime: self.lifetime.or(base.lifetime),
            refresh: self.refresh.or(base.refresh),
            hairpinning: self.hairpinning.or(base.hairpinning),
            unsolicited: self.unsolicited.or(base.unsolicited),
            ipv6: self.ipv6.or(base.ipv6),
            block_udp: self.block_udp.or(base.block_udp),
            allow_udp: self.allow_udp.or(base.allow_udp),
            allow_tcp: self.allow_tcp.or(base.allow_tcp),
            reject: self.reject.or(base.reject),
            reject_with: self.reject_with.or(base.reject_with),
            stateless_inbound: self.stateless_inbound.or(base.stateless_inbound),
            isolated: self.isolated.or(base.isolated),
            forward: if self.forward.is_empty() { base.forward } else { self.forward },
            port_mapping: self.port_mapping.or(base.port_mapping),
            alg: self.alg.or(base.alg),
            icmp: self.icmp.or(base.icmp),
            link: Link { delay: self.link.delay.or(base.link.delay), ..self.link },
        }
    }
}

/// What a router says that refuses a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Administratively prohibited, as a company's firewall does.
    #[default]
    Prohibited,
    /// Port unreachable, as nftables and iptables do where they are not told what to say.
    PortUnreachable,
}

/// IPv6 at a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6 {
    /// No prefix inside and no route.
    None,
    /// Addresses inside, and no route to the outside.
    NoRoute,
    /// A stateful firewall: in comes what answers.
    Stateful,
    /// Everything passes.
    Open,
}

/// What an application-layer gateway rewrites in UDP payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Alg {
    /// Plain addresses: what XOR-MAPPED-ADDRESS was invented against. Harmless to today's STUN.
    Addresses,
    /// XOR-MAPPED-ADDRESS too: STUN's integrity notices.
    Stun,
}

/// A protocol that asks a router for a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PortMapping {
    /// UPnP IGD.
    Upnp,
    /// NAT-PMP (RFC 6886).
    NatPmp,
    /// PCP (RFC 6887).
    Pcp,
}

/// A port of the router that leads to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Forward {
    /// The port outside.
    pub port: u16,
    /// The host inside.
    pub to: String,
    /// The port inside; the same unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_port: Option<u16>,
}
