//! How what a command changes is made to last: in the words of whatever sets the host's network up.

mod routing;

use self::routing::Step;
use crate::diagnosis::evidence::HostEvidence;
use crate::diagnosis::finding::Remedy;
use crate::host::{Init, SoftwareName};

/// Behind the first of these remedies that changes something until the next boot: how it is made to last. In a container
/// what it is started with decides, and of a host that told nothing nothing is known. The rule's code names the file that
/// keeps it, so that no finding's overwrites another's.
pub(super) fn add(remedies: &mut Vec<Remedy>, code: &str, host: &HostEvidence) {
    if host.container.is_some() || !host.is_told() {
        return;
    }
    let by_tool = |command: &String| command.starts_with("ufw ") || command.starts_with("firewall-cmd ");
    // A program that keeps its rules has a command that lasts by itself.
    let is_kept = remedies.iter().flat_map(|remedy| &remedy.commands).any(by_tool);
    let code = code.to_ascii_lowercase();
    let lasting = remedies.iter().enumerate().find_map(|(position, remedy)| {
        let lasting = match Change::of(&remedy.commands)? {
            Change::Setting(setting) => Some(setting_lasts(setting, &code, host)),
            Change::Routing(steps) => Some(routing::lasting(&steps, &code, host)),
            Change::Nftables { of_firewalld } => (!is_kept).then(|| nftables_last(of_firewalld, host)),
            Change::LegacyIptables { is_ipv6 } => (!is_kept).then(|| legacy_iptables_last(is_ipv6, host)),
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
    Nftables {
        /// Whether it is in the table that firewalld writes.
        of_firewalld: bool,
    },
    /// A rule of the legacy iptables.
    LegacyIptables {
        /// Whether it is one of ip6tables.
        is_ipv6: bool,
    },
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
        let is_nftables =
            |command: &&String| ["nft insert rule ", "nft add rule "].iter().any(|verb| command.starts_with(verb));
        if let Some(command) = commands.iter().find(is_nftables) {
            return Some(Self::Nftables { of_firewalld: command.split(' ').nth(4) == Some("firewalld") });
        }
        let inserts = |command: &&String| command.contains("tables-legacy ") && command.contains("-I ");
        let command = commands.iter().find(inserts)?;
        Some(Self::LegacyIptables { is_ipv6: command.starts_with("ip6tables-legacy ") })
    }
}

fn setting_lasts(setting: &str, code: &str, host: &HostEvidence) -> Remedy {
    let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
    if is_distribution(host, &["nixos"]) {
        return Remedy::safe(format!(
            "To make it last, boot.kernel.sysctl.\"{name}\" = {value}; in the system's configuration, and nixos-rebuild switch"
        ));
    }
    let remedy = Remedy::safe("To make it last (undo: remove that file)")
        .run(format!("printf '{setting}\\n' > /etc/sysctl.d/90-whyrelay-{code}.conf"));
    // The settings are read before the module is there that this one belongs to.
    let is_of_module = name.starts_with("net.netfilter.nf_conntrack");
    if is_of_module && init(host).is_none_or(|init| init == Init::Systemd) {
        return remedy.run("echo nf_conntrack > /etc/modules-load.d/90-whyrelay.conf");
    }
    remedy
}

/// Where the rules of the legacy iptables are kept.
fn legacy_iptables_last(is_ipv6: bool, host: &HostEvidence) -> Remedy {
    let name = if is_ipv6 { "ip6tables" } else { "iptables" };
    if host.software(SoftwareName::Ufw).is_some() {
        let file = if is_ipv6 { "before6.rules" } else { "before.rules" };
        return Remedy::safe(format!("To make it last, add the rule to /etc/ufw/{file}, which ufw loads"));
    }
    let (how, command) = if is_distribution(host, &["debian", "ubuntu"]) {
        // It saves both families.
        ("with iptables-persistent".to_owned(), "netfilter-persistent save".to_owned())
    } else if is_distribution(host, &["rhel", "fedora", "centos"]) {
        ("with iptables-services".to_owned(), format!("{name}-legacy-save > /etc/sysconfig/{name}"))
    } else if init(host) == Some(Init::Openrc) {
        ("with OpenRC".to_owned(), format!("rc-service {name} save"))
    } else if is_distribution(host, &["arch"]) {
        (format!("with {name}.service"), format!("{name}-legacy-save > /etc/iptables/{name}.rules"))
    } else {
        let text = format!("To make it last, give the rule to whatever loads this host's {name} rules at boot");
        return Remedy::safe(text);
    };
    Remedy::safe(format!("To make it last, {how}")).run(command)
}

/// Where the rules of nftables are kept.
fn nftables_last(of_firewalld: bool, host: &HostEvidence) -> Remedy {
    if of_firewalld {
        return Remedy::safe(
            "To make it last, change the policy or rule in firewalld itself (firewall-cmd --permanent): it writes this table anew whenever it is reloaded",
        );
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
    Remedy::safe(text)
}

fn is_distribution(host: &HostEvidence, names: &[&str]) -> bool {
    host.system.as_ref().is_some_and(|(_, system)| system.is_one_of(names))
}

/// What starts a host's services, where it is known.
pub(super) fn init(host: &HostEvidence) -> Option<Init> {
    host.system.as_ref()?.1.init
}
