//! Facts about a host: what its kernel knows and did that can touch the packets of a session.
//!
//! Only the types; collecting them is the binary's work, judging them the rules'. Every fact is one event
//! ([`EventKind::HostFact`](crate::trace::event::EventKind::HostFact)) with the [`Moment`] at which it was taken. What
//! could not be seen is a fact, too: [`HostFact::NotMeasured`], with the privilege that would show it.

mod filter;
mod firewall;
mod ipsec;
mod lookup;
mod network;
mod number;
mod probe;
mod program;
mod routing;
mod system;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use filter::{Filter, FilteredPacket};
pub use firewall::{ConntrackEntry, FirewallChain, FirewallFramework, FirewallRule};
pub use ipsec::{IpsecDirection, IpsecPolicy, IpsecTemplate};
pub use lookup::{look_up, look_up_from};
pub use network::{
    Address, Family, Link, Neighbor, NeighborState, NextHop, PolicyRule, Prefix, Route, RouteKind, RuleAction,
    leads_to_guests,
};
pub use number::parse_number;
pub use probe::{Probe, ProbeAim, ProbeOutcome};
pub use program::{
    Application, HostSocket, Installed, InstalledPart, OF_ITS_KIND, ProfileTally, SocketProfile, SocketTransport,
    Software, SoftwareName,
};
pub use routing::{AnsweredRoute, RouteAnswer, RouteFailure, RoutePurpose, RouteQuestion};
pub use system::{Init, InterfaceManager, ManagedInterface, System};

/// Most facts of one side that are recorded or folded; the rest is counted.
pub const MAX_FACTS: usize = 20_000;

/// Most routes that are recorded of a host: where it has more, those that cover the peer, the servers, or everything.
pub const MAX_ROUTES: usize = 128;

/// Longest text in a fact, in bytes.
pub const MAX_TEXT: usize = 512;

/// When a fact was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// Before the checks.
    Before,
    /// While checks were under way.
    During,
    /// After the checks.
    After,
}

/// What a fact that is missing would have been about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// Interfaces.
    Links,
    /// Addresses of interfaces.
    Addresses,
    /// Routing tables.
    Routes,
    /// Policy rules.
    PolicyRules,
    /// Neighbors (ARP, NDP).
    Neighbors,
    /// Kernel settings.
    Sysctls,
    /// nftables.
    Nftables,
    /// Legacy iptables.
    LegacyIptables,
    /// Policies of the kernel's IPsec.
    IpsecPolicies,
    /// The connection tracking table.
    Conntrack,
    /// The socket table.
    Sockets,
    /// The resolver's configuration.
    Resolver,
    /// Other programs that touch the network.
    Software,
    /// This process's capabilities.
    Capabilities,
    /// Answers of the kernel's routing for the session's own packets.
    RouteAnswers,
    /// Counters of the kernel.
    Counters,
    /// The copy of our own packets as they left.
    OwnPackets,
    /// The application under suspicion.
    Application,
    /// Probes.
    Probes,
    /// The distribution, and who sets the interfaces up.
    System,
}

impl Subject {
    /// Every subject.
    pub const ALL: [Self; 20] = [
        Self::Links,
        Self::Addresses,
        Self::Routes,
        Self::PolicyRules,
        Self::Neighbors,
        Self::Sysctls,
        Self::Nftables,
        Self::LegacyIptables,
        Self::IpsecPolicies,
        Self::Conntrack,
        Self::Sockets,
        Self::Resolver,
        Self::Software,
        Self::Capabilities,
        Self::RouteAnswers,
        Self::Counters,
        Self::OwnPackets,
        Self::Application,
        Self::Probes,
        Self::System,
    ];

    /// How it is written for a reader.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Links => "the interfaces",
            Self::Addresses => "the addresses of the interfaces",
            Self::Routes => "the routes",
            Self::PolicyRules => "the policy rules",
            Self::Neighbors => "the neighbors",
            Self::Sysctls => "the kernel's settings",
            Self::Nftables => "the firewall's rules",
            Self::LegacyIptables => "the rules of the legacy iptables",
            Self::IpsecPolicies => "the IPsec policies",
            Self::Conntrack => "the connection tracking table",
            Self::Sockets => "the sockets of other programs",
            Self::Resolver => "the resolver's configuration",
            Self::Software => "the programs that touch the network",
            Self::Capabilities => "the capabilities",
            Self::RouteAnswers => "the kernel's answers for the session's packets",
            Self::Counters => "the kernel's counters",
            Self::OwnPackets => "a copy of its packets as they leave and arrive",
            Self::Application => "the application",
            Self::Probes => "the probes",
            Self::System => "the distribution and its network manager",
        }
    }
}

/// One fact about the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum HostFact {
    /// An interface.
    Link(Link),
    /// An address of an interface.
    Address(Address),
    /// A route: one that covers a peer, a server or everything, and of a host with few routes every one but those to its own
    /// addresses.
    Route(Route),
    /// A policy rule.
    PolicyRule(PolicyRule),
    /// A neighbor: a next hop, or a peer on the same link.
    Neighbor(Neighbor),
    /// A kernel setting.
    Sysctl {
        /// Its name without the path, like `rp_filter` or `src_valid_mark`.
        sysctl: String,
        /// The interface that it is about, `all` or `default` included; `None`: the whole namespace.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interface: Option<String>,
        /// Its value as text.
        value: String,
    },
    /// A firewall rule that can touch the session's packets, or that counted some of them, of those that do something to
    /// packets; and of chains that may stop the session's packets every rule that can touch them and has a verdict.
    FirewallRule(FirewallRule),
    /// A chain of a firewall that packets of the session pass, at a hook or by a jump from there, where some rule of its hook
    /// may stop them, set their mark or change their addresses. None where none of all chains may stop or mark any, nor where
    /// there are more rules, chains or packets than are looked at.
    FirewallChain(FirewallChain),
    /// A policy of the kernel's IPsec that can touch the session's packets.
    IpsecPolicy(IpsecPolicy),
    /// The connection tracking table's use.
    ConntrackUse {
        /// Entries in use.
        entries: u64,
        /// The limit.
        max: u64,
    },
    /// An entry of the connection tracking table that belongs to the session.
    ConntrackEntry(ConntrackEntry),
    /// A socket of another program that matters: one on the session's ports, or the application's.
    Socket(HostSocket),
    /// How one of our own sockets was made, as a plain program's or as the application's.
    SocketProfile(SocketProfile),
    /// The resolver's configuration.
    Resolver {
        /// The name servers.
        servers: Vec<IpAddr>,
        /// Whether a local stub (systemd-resolved, dnsmasq) answers.
        stub: bool,
    },
    /// A program that touches the network and how it was recognized.
    Software(Software),
    /// The distribution and what starts its services.
    System(System),
    /// Who sets an interface up.
    ManagedInterface(ManagedInterface),
    /// What this process may do.
    Capabilities {
        /// The effective user id.
        user: u32,
        /// The effective capabilities that matter here, like `CAP_NET_ADMIN`.
        effective: Vec<String>,
        /// The kind of container that this runs in, like `docker`, where one is seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<String>,
    },
    /// What the kernel's routing answers for a packet of the session.
    RouteAnswer(RouteAnswer),
    /// Counters that moved since the facts of [`Moment::Before`]; those that did not are left out.
    Counters {
        /// By name, like `TcpExt.IPReversePathFilter` or `Udp.InCsumErrors`.
        moved: BTreeMap<String, i64>,
        /// The groups that were read, like `TcpExt`: a counter of one of them that is not in `moved` did not move.
        read: Vec<String>,
    },
    /// Packets of ours as they left (or came back by) an interface.
    OwnPacket(OwnPacket),
    /// Packets that begin a connection to signaling, or refuse one, as they left or arrived at an interface.
    OwnConnection(OwnConnection),
    /// A probe and what came of it.
    Probe(Probe),
    /// A probe of the peer arrived.
    ProbeSeen {
        /// The peer's name of the probe's aim.
        aim: String,
        /// Where it arrived.
        local: SocketAddr,
        /// Where it came from.
        remote: SocketAddr,
        /// Its UDP payload's length, in bytes.
        length: u32,
    },
    /// The application under suspicion, as this run stands in for it.
    Application(Application),
    /// How the sockets of one profile fared.
    ProfileTally(ProfileTally),
    /// What was told before the checks and does not hold after them: an interface, an address or a policy rule that is no
    /// longer there, or an answer of the routing that is another one now.
    Gone {
        /// The fact, as it was told.
        gone: Box<HostFact>,
    },
    /// Something was not measured.
    NotMeasured {
        /// What.
        subject: Subject,
        /// Why.
        why: String,
        /// The privilege that would show it, like `CAP_NET_ADMIN`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        needs: Option<String>,
    },
    /// How many of a list there are, and how many of them are recorded: said of the lists that are read after the checks
    /// whenever they were read, also where all of them are recorded or there are none; of those before the checks
    /// (interfaces, addresses, policy rules) only where there are more than are recorded.
    Counted {
        /// Of what.
        subject: Subject,
        /// How many there are.
        total: u64,
        /// How many of them are recorded.
        recorded: u64,
    },
}

/// UDP packets of one of our sockets and one other end, as they left or arrived at an interface (AF_PACKET).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnPacket {
    /// The interface.
    pub device: String,
    /// Whether they arrived there; else they left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub arrived: bool,
    /// The source that the packets carry.
    pub source: SocketAddr,
    /// The destination that they carry.
    pub destination: SocketAddr,
    /// How many.
    pub packets: u64,
    /// How many of them, of the first 64, carry a UDP checksum that does not fit their addresses and contents. Not
    /// those without one, nor those whose checksum the device computes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wrong_checksums: u64,
}

/// TCP packets with SYN or RST to or from the signaling server, as they left or arrived at an interface (AF_PACKET).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnConnection {
    /// The interface.
    pub device: String,
    /// Whether they arrived there; else they left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub arrived: bool,
    /// The source that the packets carry.
    pub source: SocketAddr,
    /// The destination that they carry.
    pub destination: SocketAddr,
    /// How many.
    pub packets: u64,
    /// Of those that arrived: how long after the first packet from there to here the first of them came, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_us: Option<u64>,
    /// The first of those that arrived came when no connection was waited for any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Cuts a text to [`MAX_TEXT`] bytes, at a character.
pub fn bounded(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let mut end = MAX_TEXT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}
