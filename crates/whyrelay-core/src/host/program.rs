//! Other programs, their sockets, and how our sockets stand in for them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A program that touches the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the programs' own")]
pub enum SoftwareName {
    Netbird,
    Tailscale,
    Wireguard,
    Zerotier,
    Openvpn,
    Ipsec,
    Warp,
    Docker,
    Podman,
    Libvirt,
    Kubernetes,
    Cilium,
    Calico,
    Flannel,
    Mwan3,
    Ufw,
    Firewalld,
    Crowdsec,
    Fail2ban,
    NetworkManager,
    SystemdNetworkd,
    SystemdResolved,
}

/// A program that touches the network and how it was recognized.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Software {
    /// Which.
    pub software: SoftwareName,
    /// How it was recognized: an interface, a process, a rule, a table, a file.
    pub signs: Vec<String>,
    /// Its process, where one runs and can be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_id: Option<u32>,
    /// The settings of its environment that decide how it connects, like `NB_FORCE_RELAY`; never secrets. `None`: the
    /// environment could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<BTreeMap<String, String>>,
    /// What of this host's network bears its marks, tables or names. Firewall names are missing where the firewall
    /// could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub installed: Vec<Installed>,
}

impl Software {
    /// Whether it is surely there: it runs, the kernel's own kind of interface tells it, or signs of two kinds agree. A
    /// single mark, table or name may be anybody's.
    pub fn is_certain(&self) -> bool {
        let kinds = self.signs.iter().filter_map(|sign| sign.split_whitespace().next());
        let mut others = kinds.clone();
        let first = others.next();
        self.process_id.is_some()
            || self.signs.iter().any(|sign| sign.starts_with("process ") || sign.ends_with(OF_ITS_KIND))
            || others.any(|kind| Some(kind) != first)
    }
}

/// How the sign of an interface ends whose kind only this program makes.
pub const OF_ITS_KIND: &str = " of its own kind";

/// Something in this host's network that a program has put there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// What it is.
    pub part: InstalledPart,
    /// Which, in the words of the commands that show it.
    pub which: String,
}

/// What a program may put into a host's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstalledPart {
    /// A network interface.
    Interface,
    /// A policy rule (`ip rule`).
    PolicyRule,
    /// A routing table of its own, or its routes in another.
    Routes,
    /// A firewall mark.
    Mark,
    /// A table of the firewall.
    FirewallTable,
    /// A chain of the firewall, in a table that others use, too.
    FirewallChain,
}

impl InstalledPart {
    /// How it is written for a reader, before the name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::PolicyRule => "policy rule",
            Self::Routes => "routes",
            Self::Mark => "mark",
            Self::FirewallTable => "firewall table",
            Self::FirewallChain => "firewall chain",
        }
    }
}

/// The transport of a socket in the socket table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SocketTransport {
    /// UDP.
    Udp,
    /// TCP, listening or connected.
    Tcp,
    /// A raw IP socket.
    Raw,
}

/// A socket of the socket table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSocket {
    /// Its transport.
    pub socket_transport: SocketTransport,
    /// Its address; of a raw socket the port is the IP protocol.
    pub local: SocketAddr,
    /// Its user.
    pub user: u32,
    /// Its mark; `None`: the kernel tells marks only to CAP_NET_ADMIN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// The interface that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_device: Option<String>,
    /// The process that has it; `None`: a kernel socket, or not visible to us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_id: Option<u32>,
    /// That process's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}

/// How one of our own sockets was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketProfile {
    /// Its address.
    pub local: SocketAddr,
    /// Whether it stands in for the application (`--as`); else it is a plain program's.
    pub as_application: bool,
    /// Its firewall mark.
    #[serde(default)]
    pub mark: u32,
    /// The user id of the process.
    pub user: u32,
    /// The interface that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_device: Option<String>,
    /// Whether it sends through a raw socket, as NetBird does beside kernel WireGuard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
}

/// The application under suspicion, as this run stands in for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// What was asked for (`--as`).
    pub asked: String,
    /// Where its settings come from: `known`, `running` (read from its sockets), `given`.
    pub origin: String,
    /// Its firewall mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether its port was free; if not, its mark and user stand on another port.
    pub port_used: bool,
    /// Its user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// The interface that it binds to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_device: Option<String>,
    /// Whether it sends through a raw socket.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// What of it this run could not stand in for, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_imitated: Vec<String>,
}

impl Application {
    /// Whether the sockets of this run had its mark, its interface and its user: by these the kernel chooses the way.
    pub fn is_routed_alike(&self) -> bool {
        let parts = [
            self.mark.map(|mark| format!("mark {mark:#x}")),
            self.bound_device.as_ref().map(|device| format!("interface {device}")),
            self.user.map(|user| format!("user {user}")),
        ];
        !parts.iter().flatten().any(|part| self.lacks(part))
    }

    /// Whether this run lacked its mark.
    pub fn lacks_mark(&self) -> bool {
        self.mark.is_some_and(|mark| self.lacks(&format!("mark {mark:#x}")))
    }

    /// [`Application::not_imitated`] names what is lacking, and then why.
    fn lacks(&self, part: &str) -> bool {
        self.not_imitated.iter().any(|what| what.split(':').next().is_some_and(|what| what.ends_with(part)))
    }
}

/// How the sockets of one profile fared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileTally {
    /// Whether they stand in for the application; else they are a plain program's.
    pub as_application: bool,
    /// Direct pairs that were checked.
    pub pairs_checked: u32,
    /// Direct pairs on which a check was answered.
    pub pairs_answered: u32,
    /// Requests to servers.
    pub server_requests: u32,
    /// Requests to servers that were answered.
    pub server_answers: u32,
    /// Sends that the system refused.
    pub sends_refused: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_or_number_alone_makes_no_certainty() {
        let seen = |signs: &[&str], process_id| Software {
            software: SoftwareName::Wireguard,
            signs: signs.iter().map(|sign| (*sign).to_owned()).collect(),
            process_id,
            environment: None,
            installed: Vec::new(),
        };
        for (signs, process, certain) in [
            (&["interface wg0"][..], None, false),
            (&["interface wg0", "interface wg1"], None, false),
            (&["policy rule 5210", "policy rule 5270"], None, false),
            (&["interface wg0 of its own kind"], None, true),
            (&["interface wg0", "policy rule 32764"], None, true),
            (&["process wireguard-go"], Some(7), true),
            (&[], None, false),
        ] {
            assert_eq!(seen(signs, process).is_certain(), certain, "{signs:?}");
        }
    }
}
