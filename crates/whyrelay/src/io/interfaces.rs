//! The interfaces of this host and which of their addresses a session may use.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use anyhow::Context as _;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use whyrelay_core::host::Link;
use whyrelay_core::trace::event::InterfaceUse;

/// An interface with its addresses and whether they are used.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index, 0 when the system does not tell.
    pub index: u32,
    /// Its addresses; port 0, IPv6 link-local ones with their scope.
    pub addresses: Vec<SocketAddr>,
    /// Whether it is used, else why not.
    pub used: InterfaceUse,
}

/// What the user asked for.
#[derive(Clone, Debug, Default)]
pub struct InterfaceFilter {
    /// Only these names; all when empty.
    pub include: Vec<String>,
    /// Not these names.
    pub exclude: Vec<String>,
    /// Only these local addresses; all when empty.
    pub addresses: Vec<IpAddr>,
}

impl InterfaceFilter {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.exclude.is_empty() && !self.is_only()
    }

    /// Whether what is to be used was named, instead of what is not.
    pub fn is_only(&self) -> bool {
        !self.include.is_empty() || !self.addresses.is_empty()
    }

    fn judge(&self, name: &str, up: bool, loopback: bool) -> InterfaceUse {
        if self.exclude.iter().any(|excluded| excluded == name) {
            InterfaceUse::Excluded
        } else if !up {
            InterfaceUse::Down
        } else if !self.include.is_empty() {
            if self.include.iter().any(|included| included == name) {
                InterfaceUse::Used
            } else {
                InterfaceUse::NotIncluded
            }
        } else if loopback {
            InterfaceUse::Loopback
        } else {
            InterfaceUse::Used
        }
    }
}

/// The host's interfaces by name, each judged by the filter.
///
/// # Errors
/// When the system does not list them.
pub fn list(filter: &InterfaceFilter) -> io::Result<Vec<Interface>> {
    let mut interfaces: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in getifaddrs()? {
        let name = entry.interface_name;
        let interface = interfaces.entry(name.clone()).or_insert_with(|| {
            let up = entry.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING);
            let loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            Interface {
                index: if_nametoindex(name.as_str()).unwrap_or(0),
                used: filter.judge(&name, up, loopback),
                addresses: Vec::new(),
                name,
            }
        });
        let Some(address) = entry.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            interface.addresses.push(SocketAddr::new(IpAddr::V4(v4.ip()), 0));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            interface.addresses.push(SocketAddr::V6(SocketAddrV6::new(v6.ip(), 0, 0, v6.scope_id())));
        }
    }
    let mut interfaces: Vec<Interface> = interfaces.into_values().collect();
    for interface in &mut interfaces {
        interface.addresses.sort();
        interface.addresses.dedup();
        if interface.used == InterfaceUse::Used && interface.addresses.is_empty() {
            interface.used = InterfaceUse::NoAddress;
        }
    }
    Ok(interfaces)
}

/// Those of the names that no interface of this host has, and the names that there are.
///
/// # Errors
/// When the system does not list them.
pub fn absent<'a>(names: impl IntoIterator<Item = &'a String>) -> io::Result<(Vec<String>, Vec<String>)> {
    let there: Vec<String> = list(&InterfaceFilter::default())?.into_iter().map(|interface| interface.name).collect();
    Ok((names.into_iter().filter(|name| !there.contains(*name)).cloned().collect(), there))
}

/// Refuses names that no interface of this host has.
///
/// # Errors
/// A sentence that names the flag, those that are missing, and those that there are; when the system does not list them.
pub fn must_exist<'a>(flag: &str, names: impl IntoIterator<Item = &'a String>) -> anyhow::Result<()> {
    let (absent, there) = absent(names).context("listing the interfaces")?;
    anyhow::ensure!(
        absent.is_empty(),
        "{flag}{}{}: this host has no interface of that name; it has {}\nhint: check {flag}",
        if flag.ends_with('=') { "" } else { " " },
        absent.join(", "),
        there.join(", ")
    );
    Ok(())
}

/// The addresses to open sockets on, each with its interface's name.
///
/// An IPv6 link-local address is used only where its interface has no other IPv6 address: it adds pairs without
/// adding reach. Named addresses win over everything else, and need not be listed (all of 127.0.0.0/8 can be bound).
pub fn usable(interfaces: &[Interface], filter: &InterfaceFilter) -> Vec<(SocketAddr, Option<String>)> {
    if !filter.addresses.is_empty() {
        let name_of = |ip: IpAddr| {
            let has = |interface: &&Interface| interface.addresses.iter().any(|address| address.ip() == ip);
            let exact = interfaces.iter().find(has);
            let loopback = || interfaces.iter().find(|interface| ip.is_loopback() && interface.name.starts_with("lo"));
            exact.or_else(loopback).map(|interface| interface.name.clone())
        };
        return filter.addresses.iter().map(|ip| (SocketAddr::new(*ip, 0), name_of(*ip))).collect();
    }
    let mut addresses = Vec::new();
    for interface in interfaces.iter().filter(|interface| interface.used == InterfaceUse::Used) {
        let has_global_v6 = interface.addresses.iter().any(|address| address.is_ipv6() && !is_link_local(address));
        for address in &interface.addresses {
            if !(is_link_local(address) && has_global_v6) {
                addresses.push((*address, Some(interface.name.clone())));
            }
        }
    }
    addresses
}

/// Whether a packet from an address of this host may come to a destination beyond it, as far as addresses tell.
pub fn could_reach(local: SocketAddr, remote: SocketAddr) -> bool {
    local.is_ipv4() == remote.is_ipv4()
        && local.ip().is_loopback() == remote.ip().is_loopback()
        && !is_link_local(&local)
}

/// Whether an address of an interface is one to use.
pub fn is_chosen(interfaces: &[Interface], filter: &InterfaceFilter, name: &str) -> bool {
    filter.is_empty() || usable(interfaces, filter).iter().any(|(_, on)| on.as_deref() == Some(name))
}

/// What is said of an address that was asked for and is none of this host's.
const NOT_OF_THIS_HOST: &str = "\nhint: --address must be an address of this host";

/// What is said of an address that the system says is not available: the VRF that it belongs to, outside of which no
/// socket may have it; or, where it was asked for, that it must be this host's.
pub fn not_available(interfaces: &[Interface], filter: &InterfaceFilter, address: IpAddr) -> String {
    #[cfg(target_os = "linux")]
    let links = crate::host::tables::links().unwrap_or_default();
    #[cfg(not(target_os = "linux"))]
    let links = BTreeMap::new();
    let asked_for = filter.addresses.contains(&address);
    in_vrf(interfaces, &links, address).unwrap_or_else(|| if asked_for { NOT_OF_THIS_HOST } else { "" }.to_owned())
}

fn in_vrf(interfaces: &[Interface], links: &BTreeMap<u32, Link>, address: IpAddr) -> Option<String> {
    let has = |interface: &&Interface| interface.addresses.iter().any(|own| own.ip() == address);
    let device = &interfaces.iter().find(has)?.name;
    let named = |name: &str| links.values().find(|link| link.device == name);
    let master = named(device)?.master.as_deref()?;
    let table = named(master)?.vrf_table?;
    Some(format!(
        "\nhint: {device} belongs to the VRF {master} (table {table}): put \"ip vrf exec {master}\" before the command"
    ))
}

/// Refuses what leaves nothing to use: addresses that this host does not have, or interfaces that are all left out.
///
/// # Errors
/// A sentence that names the address, or the flags.
pub fn must_leave_one(interfaces: &[Interface], filter: &InterfaceFilter) -> anyhow::Result<()> {
    for address in &filter.addresses {
        match std::net::UdpSocket::bind((*address, 0)) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                anyhow::bail!("--address {address}: {error}{}", not_available(interfaces, filter, *address))
            }
            // Whatever else is wrong shows when it is used.
            _ => {}
        }
    }
    anyhow::ensure!(
        filter.is_empty() || !usable(interfaces, filter).is_empty(),
        "no interface is left that has an address\nhint: check --interface and --exclude-interface"
    );
    Ok(())
}

/// IPv6 link-local, fe80::/10.
pub fn is_link_local(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::link;

    #[test]
    fn the_filter_says_why() {
        let asked = InterfaceFilter { include: vec!["eth0".into()], exclude: vec!["wt0".into()], addresses: vec![] };
        assert_eq!(asked.judge("eth0", true, false), InterfaceUse::Used);
        assert_eq!(asked.judge("eth1", true, false), InterfaceUse::NotIncluded);
        assert_eq!(asked.judge("wt0", true, false), InterfaceUse::Excluded);
        let plain = InterfaceFilter::default();
        assert_eq!(plain.judge("lo", true, true), InterfaceUse::Loopback);
        assert_eq!(plain.judge("eth0", false, false), InterfaceUse::Down);
    }

    #[test]
    fn what_leaves_nothing_to_use_is_refused() {
        let left = |filter: InterfaceFilter| {
            must_leave_one(&list(&filter).unwrap(), &filter).map_err(|error| error.to_string())
        };
        assert_eq!(left(InterfaceFilter::default()), Ok(()), "a host without a network is looked at all the same");
        assert_eq!(left(InterfaceFilter { include: vec!["lo".into()], ..InterfaceFilter::default() }), Ok(()));
        let all = list(&InterfaceFilter::default()).unwrap().into_iter().map(|interface| interface.name).collect();
        let none = left(InterfaceFilter { exclude: all, ..InterfaceFilter::default() }).unwrap_err();
        assert!(none.starts_with("no interface is left"), "{none}");
        // TEST-NET-1 is nobody's.
        let addresses = vec!["192.0.2.99".parse().unwrap()];
        let foreign = left(InterfaceFilter { addresses, ..InterfaceFilter::default() }).unwrap_err();
        assert!(foreign.starts_with("--address 192.0.2.99: ") && foreign.ends_with(NOT_OF_THIS_HOST), "{foreign}");
    }

    #[test]
    fn an_address_in_a_vrf_is_named_with_it() {
        let interface = |name: &str, address: &str| Interface {
            name: name.to_owned(),
            index: 2,
            addresses: vec![format!("{address}:0").parse().unwrap()],
            used: InterfaceUse::Used,
        };
        let interfaces = [interface("eth0", "192.0.2.1"), interface("eth1", "192.0.2.2"), interface("p1", "192.0.2.3")];
        let links = [
            Link { master: Some("mgmt".to_owned()), ..link(2, "eth0") },
            link(3, "eth1"),
            Link { master: Some("br0".to_owned()), ..link(4, "p1") },
            link(5, "br0"),
            Link { vrf_table: Some(10), ..link(6, "mgmt") },
        ];
        let links = links.into_iter().map(|link| (link.index, link)).collect();
        let said = |address: &str| in_vrf(&interfaces, &links, address.parse().unwrap());
        let hint = said("192.0.2.1").unwrap();
        assert!(
            hint.contains("eth0 belongs to the VRF mgmt (table 10)") && hint.contains("\"ip vrf exec mgmt\""),
            "{hint}"
        );
        assert_eq!(["192.0.2.2", "192.0.2.3", "192.0.2.4"].map(said), [None, None, None]);
        // Nobody asked for it: it is not said that somebody did.
        let plain = not_available(&[], &InterfaceFilter::default(), "192.0.2.99".parse().unwrap());
        assert_eq!(plain, "");
    }

    #[test]
    fn loopback_reaches_loopback_only() {
        let reaches = |local: &str, remote: &str| could_reach(local.parse().unwrap(), remote.parse().unwrap());
        assert!(reaches("127.0.0.1:0", "127.0.0.9:1") && reaches("192.0.2.1:0", "198.51.100.1:1"));
        assert!(!reaches("127.0.0.1:0", "198.51.100.1:1") && !reaches("192.0.2.1:0", "127.0.0.1:1"));
        assert!(!reaches("192.0.2.1:0", "[2001:db8::1]:1") && !reaches("[fe80::1]:0", "[2001:db8::1]:1"));
    }

    #[test]
    fn link_local_is_used_only_without_a_better_address() {
        let interface = |name: &str, addresses: &[&str]| Interface {
            name: name.into(),
            index: 1,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            used: InterfaceUse::Used,
        };
        let interfaces = [
            interface("eth0", &["[fe80::1]:0", "[2001:db8::1]:0", "192.0.2.1:0"]),
            interface("eth1", &["[fe80::2]:0"]),
        ];
        let used: Vec<String> = usable(&interfaces, &InterfaceFilter::default())
            .into_iter()
            .map(|(address, _)| address.ip().to_string())
            .collect();
        assert_eq!(used, ["2001:db8::1", "192.0.2.1", "fe80::2"]);
    }
}
