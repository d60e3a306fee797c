//! What system a host runs, and who sets its interfaces up: what decides how a change is made to last.

use serde::{Deserialize, Serialize};

/// The distribution (os-release) and what starts its services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// `ID` of os-release, like `debian`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<String>,
    /// `ID_LIKE`: those that it derives from, the closest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub like: Vec<String>,
    /// `VERSION_ID`, like `12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What starts services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
}

impl System {
    /// Whether it is one of these distributions, or derives from one.
    pub fn is_one_of(&self, names: &[&str]) -> bool {
        self.distribution.iter().chain(&self.like).any(|id| names.contains(&id.as_str()))
    }
}

/// What starts a host's services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// systemd.
    Systemd,
    /// OpenRC (Alpine, Gentoo).
    Openrc,
    /// procd (OpenWrt).
    Procd,
    /// runit (Void).
    Runit,
    /// Scripts in /etc/init.d.
    Sysv,
}

impl Init {
    /// The command that restarts a service.
    pub fn restart(self, service: &str) -> String {
        match self {
            Self::Systemd => format!("systemctl restart {service}"),
            Self::Openrc => format!("rc-service {service} restart"),
            Self::Procd | Self::Sysv => format!("/etc/init.d/{service} restart"),
            Self::Runit => format!("sv restart {service}"),
        }
    }
}

/// Who sets an interface up, as its own files under /run say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedInterface {
    /// The interface.
    pub device: String,
    /// Who sets it up.
    pub manager: InterfaceManager,
    /// The name by which netplan's files know it, where these are what the manager was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netplan: Option<String>,
    /// The manager's own name of its settings: NetworkManager's connection (a UUID), networkd's file (a path).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// A program that sets interfaces up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceManager {
    /// NetworkManager.
    NetworkManager,
    /// systemd-networkd.
    SystemdNetworkd,
    /// ifupdown: /etc/network/interfaces.
    Ifupdown,
    /// OpenWrt's netifd: /etc/config/network.
    Netifd,
}

impl InterfaceManager {
    /// Its name for a reader.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkManager => "NetworkManager",
            Self::SystemdNetworkd => "systemd-networkd",
            Self::Ifupdown => "ifupdown",
            Self::Netifd => "netifd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derivative_is_known_by_what_it_derives_from() {
        let system = |id: &str, like: &[&str]| System {
            distribution: Some(id.to_owned()),
            like: like.iter().map(|id| (*id).to_owned()).collect(),
            ..System::default()
        };
        assert!(system("debian", &[]).is_one_of(&["debian"]));
        assert!(system("linuxmint", &["ubuntu", "debian"]).is_one_of(&["debian"]));
        assert!(!system("fedora", &[]).is_one_of(&["debian"]) && !System::default().is_one_of(&["debian"]));
    }
}
