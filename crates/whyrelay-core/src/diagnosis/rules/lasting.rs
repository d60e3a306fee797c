//! How what a command changes is made to last: in the words of whatever sets the host's network up.

mod routing;

use self::routing::Step;
use crate::diagnosis::evidence::HostEvidence;
use crate::diagnosis::finding::Remedy;
use crate::host::{Init, SoftwareName};

/// Behind the first of these remedies that changes something until the next boot: how it is made to last. In a container
/// what it is started with decides, and of a host that told nothing nothing is known.
pub(super) fn add(remedies: &mut Vec<Remedy>, host: &HostEvidence) {
    if host.container.is_some() || !host.is_told() {
        return;
    }
    let lasting = remedies.iter().enumerate().find_map(|(position, remedy)| {
        let lasting = match Change::of(&remedy.commands)? {
            Change::Setting(setting) => Some(setting_lasts(setting, host)),
            Change::Routing(steps) => Some(routing::lasting(&steps, host)),
            Change::Nftables => firewall_lasts(host, false),
            Change::LegacyIptables => firewall_lasts(host, true),
        };
        Some((position, lasting.map(|lasting| Remedy { effect: remedy.effect, ..lasting })))
    });
    if let Some((position, Some(lasting))) = lasting {
        remedies.insert(position + 1, lasting);
    }
}

/// What commands change until the next boot.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change<'a> {
    /// A kernel setting, as `name=value`.
    Setting(&'a str),
    /// Policy rules and routes.
    Routing(Vec<Step<'a>>),
    /// A rule of nftables.
    Nftables,
    /// A rule of the legacy iptables.
    LegacyIptables,
}

impl<'a> Change<'a> {
    fn of(commands: &'a [String]) -> Option<Self> {
        if let Some(setting) = commands.iter().find_map(|command| command.strip_prefix("sysctl -w ")) {
            return Some(Self::Setting(setting));
        }
        let steps: Vec<Step<'a>> = commands.iter().filter_map(|command| Step::of(command)).collect();
        if !steps.is_empty() {
            return Some(Self::Routing(steps));
        }
        let starts = |words: &[&str]| commands.iter().any(|command| words.iter().any(|word| command.starts_with(word)));
        if starts(&["nft insert rule ", "nft add rule "]) {
            return Some(Self::Nftables);
        }
        let inserts = |command: &String| command.contains("tables-legacy ") && command.contains("-I ");
        commands.iter().any(inserts).then_some(Self::LegacyIptables)
    }
}

fn setting_lasts(setting: &str, host: &HostEvidence) -> Remedy {
    let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
    if is_distribution(host, &["nixos"]) {
        return Remedy::safe(format!(
            "To make it last, boot.kernel.sysctl.\"{name}\" = {value}; in the system's configuration, and nixos-rebuild switch"
        ));
    }
    let remedy = Remedy::safe("To make it last (undo: remove that file)")
        .run(format!("printf '{setting}\\n' > /etc/sysctl.d/90-whyrelay.conf"));
    // The settings are read before the module is there that this one belongs to.
    let is_of_module = name.starts_with("net.netfilter.nf_conntrack");
    if is_of_module && init(host).is_none_or(|init| init == Init::Systemd) {
        return remedy.run("echo nf_conntrack > /etc/modules-load.d/90-whyrelay.conf");
    }
    remedy
}

/// Where a firewall's rules are kept, unless a program keeps them, whose own command is advised already.
fn firewall_lasts(host: &HostEvidence, legacy: bool) -> Option<Remedy> {
    if [SoftwareName::Ufw, SoftwareName::Firewalld].into_iter().any(|name| host.software(name).is_some()) {
        return None;
    }
    if legacy {
        let (how, command) = if is_distribution(host, &["debian", "ubuntu"]) {
            ("with iptables-persistent", "netfilter-persistent save")
        } else if is_distribution(host, &["rhel", "fedora", "centos"]) {
            ("with iptables-services", "iptables-legacy-save > /etc/sysconfig/iptables")
        } else if init(host) == Some(Init::Openrc) {
            ("with OpenRC", "rc-service iptables save")
        } else if is_distribution(host, &["arch"]) {
            ("with iptables.service", "iptables-legacy-save > /etc/iptables/iptables.rules")
        } else {
            return Some(Remedy::safe(
                "To make it last, give the rule to whatever loads this host's iptables rules at boot",
            ));
        };
        return Some(Remedy::safe(format!("To make it last, {how}")).run(command));
    }
    let text = if is_distribution(host, &["openwrt"]) {
        "To make it last, add the rule to a file in /etc/nftables.d/, which fw4 includes"
    } else if is_distribution(host, &["rhel", "fedora", "centos"]) {
        "To make it last, add the rule to the ruleset in /etc/sysconfig/nftables.conf, which nftables.service loads"
    } else if is_distribution(host, &["alpine"]) {
        "To make it last, add the rule to the ruleset in /etc/nftables.nft, which the service nftables loads"
    } else if is_distribution(host, &["nixos"]) {
        "To make it last, add the rule to networking.nftables.ruleset, and nixos-rebuild switch"
    } else if is_distribution(host, &["debian", "ubuntu", "arch"]) {
        "To make it last, add the rule to the ruleset in /etc/nftables.conf, which nftables.service loads"
    } else {
        "To make it last, add the rule to the ruleset that this host loads at boot (often /etc/nftables.conf)"
    };
    Some(Remedy::safe(text))
}

fn is_distribution(host: &HostEvidence, names: &[&str]) -> bool {
    host.system.as_ref().is_some_and(|(_, system)| system.is_one_of(names))
}

/// What starts a host's services, where it is known.
pub(super) fn init(host: &HostEvidence) -> Option<Init> {
    host.system.as_ref()?.1.init
}
