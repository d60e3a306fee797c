//! Other programs that touch the network, this process's capabilities, the resolver.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use whyrelay_core::host::{HostFact, Link, OF_ITS_KIND, Software, SoftwareName, bounded};

use super::installed::{self, Host};

/// Most processes that are looked at.
const MAX_PROCESSES: usize = 20_000;

/// Longest environment that is read, in bytes.
const MAX_ENVIRONMENT: usize = 256 * 1024;

/// Settings of an environment that decide how a program connects. None of them is a secret.
const SETTINGS: [&str; 24] = [
    "NB_FORCE_RELAY",
    "NB_ICE_FORCE_RELAY_CONN",
    "NB_ICE_KEEP_ALIVE_INTERVAL_SEC",
    "NB_ICE_DISCONNECTED_TIMEOUT_SEC",
    "NB_ICE_FAILED_TIMEOUT_SEC",
    "NB_ICE_RELAY_ACCEPTANCE_MIN_WAIT_SEC",
    "NB_ICE_MONITOR_PERIOD",
    "NB_RELAY_TRANSPORT",
    "NB_USE_LEGACY_ROUTING",
    "NB_DISABLE_CUSTOM_ROUTING",
    "NB_SKIP_SOCKET_MARK",
    "NB_WG_KERNEL_DISABLED",
    "NB_DISABLE_EBPF_WG_PROXY",
    "NB_DISABLE_NAT_MAPPER",
    "NB_DISABLE_PCP_HEALTH_CHECK",
    "NB_LAZY_CONN",
    "NB_SKIP_NFTABLES_CHECK",
    "NB_USE_NETSTACK_MODE",
    "NB_FWMARK_BASE",
    "NB_EXTRA_IFACE_BLACKLIST",
    "NB_WIREGUARD_PORT",
    "TS_DEBUG_ALWAYS_USE_DERP",
    "TS_DEBUG_FIREWALL_MODE",
    "TS_NO_UDP",
];

/// By the name of a process.
const PROCESSES: [(&str, SoftwareName); 22] = [
    ("netbird", SoftwareName::Netbird),
    ("tailscaled", SoftwareName::Tailscale),
    ("wireguard-go", SoftwareName::Wireguard),
    ("boringtun", SoftwareName::Wireguard),
    ("zerotier-one", SoftwareName::Zerotier),
    ("openvpn", SoftwareName::Openvpn),
    ("charon", SoftwareName::Ipsec),
    ("pluto", SoftwareName::Ipsec),
    ("warp-svc", SoftwareName::Warp),
    ("dockerd", SoftwareName::Docker),
    ("podman", SoftwareName::Podman),
    ("libvirtd", SoftwareName::Libvirt),
    ("kubelet", SoftwareName::Kubernetes),
    ("k3s-server", SoftwareName::Kubernetes),
    ("cilium-agent", SoftwareName::Cilium),
    ("calico-node", SoftwareName::Calico),
    ("flanneld", SoftwareName::Flannel),
    ("mwan3rtmon", SoftwareName::Mwan3),
    ("firewalld", SoftwareName::Firewalld),
    ("crowdsec", SoftwareName::Crowdsec),
    ("fail2ban-server", SoftwareName::Fail2ban),
    ("NetworkManager", SoftwareName::NetworkManager),
];

/// By the first letters of an interface's name.
const INTERFACES: [(&str, SoftwareName); 14] = [
    ("wt", SoftwareName::Netbird),
    ("tailscale", SoftwareName::Tailscale),
    ("wg", SoftwareName::Wireguard),
    ("zt", SoftwareName::Zerotier),
    ("tun", SoftwareName::Openvpn),
    ("CloudflareWARP", SoftwareName::Warp),
    ("docker", SoftwareName::Docker),
    ("podman", SoftwareName::Podman),
    ("virbr", SoftwareName::Libvirt),
    ("cni", SoftwareName::Kubernetes),
    ("kube-", SoftwareName::Kubernetes),
    ("cilium_", SoftwareName::Cilium),
    ("cali", SoftwareName::Calico),
    ("flannel", SoftwareName::Flannel),
];

/// What is seen of a program.
#[derive(Debug, Default)]
struct Seen<'a> {
    signs: Vec<String>,
    process: Option<u32>,
    links: Vec<&'a Link>,
}

impl Seen<'_> {
    /// Some signs of each kind are enough: ufw alone has thirty chains.
    fn sign(&mut self, text: String) {
        const MOST: usize = 3;
        let kind = |sign: &str| sign.split_whitespace().next().map(str::to_owned);
        let alike = self.signs.iter().filter(|sign| kind(sign) == kind(&text)).count();
        if alike < MOST && !self.signs.contains(&text) {
            self.signs.push(bounded(text));
        }
    }
}

/// The programs that are seen, by their processes, their interfaces, their policy rules, and the names of firewall
/// tables and chains, with what each has installed.
pub(super) fn programs<'a>(links: impl IntoIterator<Item = &'a Link>, host: &Host<'_>) -> Vec<HostFact> {
    let mut seen: BTreeMap<SoftwareName, Seen<'a>> = BTreeMap::new();
    for (id, name) in processes().filter(|_| !in_laboratory()) {
        if let Some((_, software)) = PROCESSES.iter().find(|(process, _)| *process == name) {
            let entry = seen.entry(*software).or_default();
            entry.sign(format!("process {name}"));
            entry.process = entry.process.or(Some(id));
        }
    }
    for link in links {
        let by_kind = link.link_kind.as_deref() == Some("wireguard");
        let by_name = INTERFACES.iter().find(|(start, _)| {
            link.device.strip_prefix(start).is_some_and(|rest| {
                rest.is_empty() || start.len() > 3 || rest.bytes().all(|byte| byte.is_ascii_digit())
            })
        });
        let software = by_name.map(|(_, software)| *software).or(by_kind.then_some(SoftwareName::Wireguard));
        if let Some(software) = software {
            let entry = seen.entry(software).or_default();
            let own_kind = by_kind && software == SoftwareName::Wireguard;
            entry.sign(format!("interface {}{}", link.device, if own_kind { OF_ITS_KIND } else { "" }));
            entry.links.push(link);
        }
    }
    for rule in host.rules {
        if let Some(software) = installed::by_rule(rule) {
            seen.entry(software).or_default().sign(format!("policy rule {}", rule.priority));
        }
    }
    // Its chains can be read by root alone, its settings by everybody.
    if !in_laboratory() && fs::read_to_string(UFW_SETTINGS).is_ok_and(|text| is_enabled(&text)) {
        seen.entry(SoftwareName::Ufw).or_default().sign(format!("file {UFW_SETTINGS}"));
    }
    for name in host.chains.iter().flat_map(|(_, table, chain)| [table, chain]) {
        if let Some(software) = installed::by_firewall_name(name) {
            seen.entry(software).or_default().sign(format!("firewall {name}"));
        }
    }
    let fact = |(software, seen): (SoftwareName, Seen<'a>)| {
        let environment = seen.process.and_then(environment);
        let installed = installed::of(software, &seen.links, host);
        HostFact::Software(Software { software, signs: seen.signs, process_id: seen.process, environment, installed })
    };
    seen.into_iter().map(fact).collect()
}

/// Where ufw says whether it is on.
const UFW_SETTINGS: &str = "/etc/ufw/ufw.conf";

/// Whether ufw's settings turn it on.
fn is_enabled(settings: &str) -> bool {
    settings
        .lines()
        .any(|line| line.split('#').next().is_some_and(|line| line.trim().eq_ignore_ascii_case("enabled=yes")))
}

/// Whether this host is one of the laboratory's: then the processes of this machine, and the container that it may
/// be, are none of it.
pub(super) fn in_laboratory() -> bool {
    std::env::var_os("WHYRELAY_LAB").is_some()
}

/// Processes of this network namespace with their names. Whose namespace we may not know counts as one of ours.
pub(crate) fn processes() -> impl Iterator<Item = (u32, String)> {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.take(MAX_PROCESSES).filter_map(move |entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let theirs = fs::read_link(entry.path().join("ns/net")).ok();
        if theirs.is_some() && theirs != own {
            return None;
        }
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((id, name.trim_end().to_owned()))
    })
}

/// The settings of a process that decide how it connects; `None`: its environment cannot be read.
pub(crate) fn environment(process: u32) -> Option<BTreeMap<String, String>> {
    let mut bytes = fs::read(format!("/proc/{process}/environ")).ok()?;
    bytes.truncate(MAX_ENVIRONMENT);
    let settings = bytes.split(|byte| *byte == 0).filter_map(|setting| {
        let (name, value) = std::str::from_utf8(setting).ok()?.split_once('=')?;
        SETTINGS.contains(&name).then(|| (name.to_owned(), bounded(value.to_owned())))
    });
    Some(settings.collect())
}

/// What this process may do.
pub(super) fn capabilities() -> HostFact {
    const NAMES: [(u32, &str); 5] = [
        (10, "CAP_NET_BIND_SERVICE"),
        (12, "CAP_NET_ADMIN"),
        (13, "CAP_NET_RAW"),
        (19, "CAP_SYS_PTRACE"),
        (21, "CAP_SYS_ADMIN"),
    ];
    let effective = effective_capabilities();
    let has = |(bit, name): &(u32, &str)| (effective >> bit & 1 == 1).then(|| (*name).to_owned());
    HostFact::Capabilities {
        user: nix::unistd::geteuid().as_raw(),
        effective: NAMES.iter().filter_map(has).collect(),
        container: container(),
    }
}

/// Whether this process has a capability, by its number.
pub(super) fn has_capability(number: u32) -> bool {
    effective_capabilities() >> number & 1 == 1
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}

fn container() -> Option<String> {
    if in_laboratory() {
        return None;
    }
    if Path::new("/.dockerenv").exists() {
        return Some("docker".into());
    }
    if Path::new("/run/.containerenv").exists() {
        return Some("podman".into());
    }
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Some("kubernetes".into());
    }
    // Who is not root may read what systemd found out, and not what it was found by.
    if let Ok(kind) = fs::read_to_string("/run/systemd/container") {
        return Some(bounded(kind.trim().to_owned())).filter(|kind| !kind.is_empty());
    }
    let bytes = fs::read("/proc/1/environ").ok()?;
    let setting = bytes.split(|byte| *byte == 0).find_map(|setting| setting.strip_prefix(b"container="))?;
    Some(bounded(String::from_utf8_lossy(setting).into_owned()))
}

/// The resolver's configuration.
pub(super) fn resolver() -> Option<HostFact> {
    let servers = crate::io::names::name_servers()?;
    let stub = servers.iter().any(IpAddr::is_loopback);
    Some(HostFact::Resolver { servers, stub })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ufw_is_on_where_its_settings_say_so() {
        assert!(is_enabled("# Set to yes to start on boot.\nENABLED=yes\n\nLOGLEVEL=low\n"));
        assert!(!is_enabled("# ENABLED=yes\nENABLED=no\n") && !is_enabled(""));
    }
}
