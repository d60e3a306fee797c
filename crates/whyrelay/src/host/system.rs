//! The distribution, what starts its services, and who sets each interface up: from os-release and the files that the
//! managers keep under /run, without asking any of them.

use std::fs;
use std::path::Path;

use whyrelay_core::host::{HostFact, Init, InterfaceManager, Link, ManagedInterface, System, bounded};

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Most of netplan's connections that are looked through.
const MAX_CONNECTIONS: usize = 64;

/// What is told of this machine: nothing of who sets interfaces up where they are not this machine's own (another network
/// namespace).
pub(super) fn facts<'a>(links: impl IntoIterator<Item = &'a Link>) -> Vec<HostFact> {
    let root = Path::new("/");
    let mut facts = vec![HostFact::System(system(root))];
    if shares_network_with_init() {
        facts.extend(links.into_iter().filter_map(|link| managed(root, link)).map(HostFact::ManagedInterface));
    }
    facts
}

/// Whether the first process has the same network. Where that may not be known, it is taken to be so.
fn shares_network_with_init() -> bool {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    of("1").is_none_or(|first| of("self").is_none_or(|own| own == first))
}

/// The distribution and what starts its services (os-release(5)).
fn system(root: &Path) -> System {
    let release = read(root, "etc/os-release").or_else(|| read(root, "usr/lib/os-release")).unwrap_or_default();
    let value = |key: &str| {
        let value = release.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
        let value = value.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| bounded(value.to_owned()))
    };
    System {
        distribution: value("ID"),
        like: value("ID_LIKE")
            .map(|like| like.split_whitespace().take(8).map(str::to_owned).collect())
            .unwrap_or_default(),
        version: value("VERSION_ID"),
        init: init(root),
    }
}

fn init(root: &Path) -> Option<Init> {
    let first = read(root, "proc/1/comm").unwrap_or_default();
    let exists = |path: &str| root.join(path).exists();
    match first.trim_end() {
        // As sd_booted(3) looks.
        _ if exists("run/systemd/system") => Some(Init::Systemd),
        _ if exists("run/openrc") => Some(Init::Openrc),
        "procd" => Some(Init::Procd),
        "runit" => Some(Init::Runit),
        "init" if exists("etc/inittab") && exists("etc/init.d") => Some(Init::Sysv),
        _ => None,
    }
}

/// Who sets an interface up.
fn managed(root: &Path, link: &Link) -> Option<ManagedInterface> {
    let device = link.device.clone();
    if link.loopback {
        return None;
    }
    if let Some((profile, netplan)) = by_networkd(root, link.index) {
        let profile = Some(profile);
        return Some(ManagedInterface { device, manager: InterfaceManager::SystemdNetworkd, netplan, profile });
    }
    if let Some((profile, netplan)) = by_network_manager(root, link.index) {
        return Some(ManagedInterface { device, manager: InterfaceManager::NetworkManager, netplan, profile });
    }
    let (netplan, profile) = (None, None);
    let manager = if by_ifupdown(root, &device) {
        InterfaceManager::Ifupdown
    } else if by_netifd(root, &device) {
        InterfaceManager::Netifd
    } else {
        return None;
    };
    Some(ManagedInterface { device, manager, netplan, profile })
}

/// networkd's file for an interface, and netplan's name where that made it.
fn by_networkd(root: &Path, index: u32) -> Option<(String, Option<String>)> {
    let state = read(root, &format!("run/systemd/netif/links/{index}"))?;
    let value = |key: &str| state.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    if matches!(value("ADMIN_STATE"), None | Some("unmanaged" | "failed" | "linger")) {
        return None;
    }
    let file = value("NETWORK_FILE").filter(|file| !file.is_empty())?;
    let name = file.rsplit('/').next().unwrap_or(file);
    let netplan = name.strip_prefix("10-netplan-").and_then(|name| name.strip_suffix(".network"));
    Some((bounded(file.to_owned()), netplan.map(|name| bounded(name.to_owned()))))
}

/// NetworkManager's connection of an interface, and netplan's name where that made it.
fn by_network_manager(root: &Path, index: u32) -> Option<(Option<String>, Option<String>)> {
    let state = read(root, &format!("run/NetworkManager/devices/{index}"))?;
    let value = |text: &str, key: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('=').map(|value| value.trim().to_owned()))
    };
    if value(&state, "managed").is_none_or(|managed| managed != "true" && managed != "1") {
        return None;
    }
    let profile = value(&state, "connection-uuid").map(bounded);
    // Root alone may read the connections themselves.
    let made = profile.as_ref().and_then(|profile| {
        let entries = fs::read_dir(root.join("run/NetworkManager/system-connections")).ok()?;
        entries.flatten().take(MAX_CONNECTIONS).find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let id = name.strip_prefix("netplan-")?.strip_suffix(".nmconnection")?.to_owned();
            let text = read(root, &format!("run/NetworkManager/system-connections/{name}"))?;
            (value(&text, "uuid").as_ref() == Some(profile)).then(|| bounded(id))
        })
    });
    Some((profile, made))
}

/// Whether ifupdown has an interface up: its state has a line for each, `eth0=eth0`.
fn by_ifupdown(root: &Path, device: &str) -> bool {
    let state = read(root, "run/network/ifstate").unwrap_or_default();
    state.lines().any(|line| line.split('=').next() == Some(device))
}

/// Whether OpenWrt's configuration names an interface.
fn by_netifd(root: &Path, device: &str) -> bool {
    let names = |line: &str| {
        let mut words = line.split_whitespace();
        let is_option = matches!((words.next(), words.next()), (Some("option"), Some("device" | "ifname" | "name")));
        is_option && words.any(|word| word.trim_matches(['\'', '"']) == device)
    };
    root.join("sbin/netifd").exists() && read(root, "etc/config/network").is_some_and(|text| text.lines().any(names))
}

fn read(root: &Path, path: &str) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(root.join(path)).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::link;

    /// A machine's files.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn distributions_and_what_starts_their_services_are_read() {
        let systemd = ("run/systemd/system/a", "");
        let openwrt = "NAME=\"OpenWrt\"\nID=\"openwrt\"\nID_LIKE=\"lede openwrt\"\nVERSION_ID=\"23.05.5\"\n";
        for (files, distribution, like, version, init) in [
            (
                &[("etc/os-release", "PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n"), systemd][..],
                Some("debian"),
                &[][..],
                Some("12"),
                Some(Init::Systemd),
            ),
            (
                &[("usr/lib/os-release", "ID='linuxmint'\nID_LIKE=\"ubuntu debian\"\n"), systemd],
                Some("linuxmint"),
                &["ubuntu", "debian"],
                None,
                Some(Init::Systemd),
            ),
            (
                &[("etc/os-release", "ID=alpine\nVERSION_ID=3.20.3\n"), ("run/openrc/softlevel", "")],
                Some("alpine"),
                &[],
                Some("3.20.3"),
                Some(Init::Openrc),
            ),
            (
                &[("etc/os-release", openwrt), ("proc/1/comm", "procd\n")],
                Some("openwrt"),
                &["lede", "openwrt"],
                Some("23.05.5"),
                Some(Init::Procd),
            ),
            (&[("etc/os-release", "ID=void"), ("proc/1/comm", "runit\n")], Some("void"), &[], None, Some(Init::Runit)),
            (&[("etc/os-release", "ID=\nBUILD_ID=x\n"), ("proc/1/comm", "sh\n")], None, &[], None, None),
            (&[], None, &[], None, None),
        ] {
            let read = system(machine(files).path());
            assert_eq!(
                (read.distribution.as_deref(), read.version.as_deref(), read.init),
                (distribution, version, init)
            );
            assert_eq!(read.like, like);
        }
    }

    #[test]
    fn who_sets_an_interface_up_is_read_from_its_own_state() {
        use InterfaceManager::{Ifupdown, Netifd, NetworkManager, SystemdNetworkd};
        const UUID: &str = "5fb06bd0-0bb0-7ffb-45f1-d6edd65f3e03";
        let of_networkd = |file: &str| {
            format!("# This is private data. Do not parse.\nADMIN_STATE=configured\nNETWORK_FILE={file}\n")
        };
        let of_manager = format!("[device]\nmanaged=true\nconnection-uuid={UUID}\n");
        let by_netplan = format!("[connection]\nid=netplan-lan\ntype=ethernet\nuuid={UUID}\n");
        let plain = of_networkd("/etc/systemd/network/20-wired.network");
        let planned = of_networkd("/run/systemd/network/10-netplan-lan.network");
        let unmanaged = "ADMIN_STATE=unmanaged\n";
        let interfaces = "config interface 'wan'\n\toption device 'eth0'\n";
        for (files, expected) in [
            (
                &[("run/systemd/netif/links/2", plain.as_str())][..],
                Some((SystemdNetworkd, None, Some("/etc/systemd/network/20-wired.network"))),
            ),
            (
                &[("run/systemd/netif/links/2", planned.as_str())],
                Some((SystemdNetworkd, Some("lan"), Some("/run/systemd/network/10-netplan-lan.network"))),
            ),
            (&[("run/NetworkManager/devices/2", of_manager.as_str())], Some((NetworkManager, None, Some(UUID)))),
            (
                &[
                    ("run/systemd/netif/links/2", unmanaged),
                    ("run/NetworkManager/devices/2", &of_manager),
                    ("run/NetworkManager/system-connections/netplan-other.nmconnection", "uuid=1\n"),
                    ("run/NetworkManager/system-connections/netplan-lan.nmconnection", &by_netplan),
                ],
                Some((NetworkManager, Some("lan"), Some(UUID))),
            ),
            (
                &[
                    ("run/NetworkManager/devices/2", "[device]\nmanaged=false\n"),
                    ("run/network/ifstate", "lo=lo\neth0=home\n"),
                ],
                Some((Ifupdown, None, None)),
            ),
            (&[("sbin/netifd", ""), ("etc/config/network", interfaces)], Some((Netifd, None, None))),
            // Another interface's, or nobody's.
            (
                &[
                    ("run/systemd/netif/links/3", &plain),
                    ("run/network/ifstate", "eth01=eth01\n"),
                    ("etc/config/network", interfaces),
                ],
                None,
            ),
        ] {
            let read = managed(machine(files).path(), &link(2, "eth0"));
            let read = read.as_ref().map(|read| (read.manager, read.netplan.as_deref(), read.profile.as_deref()));
            assert_eq!(read, expected, "{files:?}");
        }
    }
}
