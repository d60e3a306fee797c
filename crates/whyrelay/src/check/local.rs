//! What this host itself says of its way out: default routes, resolvers, IPv6. Read from the system, nothing is sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};
use whyrelay_core::trace::address::AddressClass;
use whyrelay_core::trace::measurement::{Ipv6State, Measurement};

use super::journal::Journal;
use super::nat::Origin;
use crate::io::interfaces::Interface;

/// Default routes and resolvers that are looked at; more are not.
const MAX_LISTED: usize = 8;

/// A default route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DefaultRoute {
    pub(crate) interface: String,
    pub(crate) gateway: Option<IpAddr>,
    metric: u32,
}

/// The default routes of the main table, IPv4 first, the preferred ones first.
pub(crate) fn default_routes() -> Vec<DefaultRoute> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut routes = ipv4_defaults(&read("/proc/net/route"));
    routes.extend(ipv6_defaults(&read("/proc/net/ipv6_route")));
    routes.truncate(MAX_LISTED);
    routes
}

/// `/proc/net/route`: Iface Destination Gateway Flags RefCnt Use Metric Mask …, addresses in host order.
fn ipv4_defaults(table: &str) -> Vec<DefaultRoute> {
    let mut routes: Vec<DefaultRoute> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [interface, destination, gateway, flags, _, _, metric, mask, ..] = fields.as_slice() else {
                return None;
            };
            // RTF_UP, not RTF_REJECT.
            let flags = u32::from_str_radix(flags, 16).ok()?;
            if *destination != "00000000" || *mask != "00000000" || flags & 0x201 != 1 {
                return None;
            }
            let gateway = u32::from_str_radix(gateway, 16).ok()?;
            let gateway = (gateway != 0).then(|| IpAddr::V4(Ipv4Addr::from(gateway.to_ne_bytes())));
            Some(DefaultRoute { interface: (*interface).to_owned(), gateway, metric: metric.parse().ok()? })
        })
        .collect();
    routes.sort_by_key(|route| route.metric);
    routes
}

/// `/proc/net/ipv6_route`: destination length source length gateway metric refcount use flags interface.
fn ipv6_defaults(table: &str) -> Vec<DefaultRoute> {
    let mut routes: Vec<DefaultRoute> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, "00", _, _, gateway, metric, _, _, flags, interface] = fields.as_slice() else { return None };
            let flags = u32::from_str_radix(flags, 16).ok()?;
            if *interface == "lo" || flags & 0x201 != 1 {
                return None;
            }
            let gateway = u128::from_str_radix(gateway, 16).ok()?;
            let gateway = (gateway != 0).then(|| IpAddr::V6(Ipv6Addr::from(gateway)));
            let metric = u32::from_str_radix(metric, 16).ok()?;
            Some(DefaultRoute { interface: (*interface).to_owned(), gateway, metric })
        })
        .collect();
    routes.sort_by_key(|route| route.metric);
    routes
}

/// Notes gateways and resolvers.
pub(crate) fn look(journal: &Journal, interfaces: &[Interface], mark: Option<u32>) -> Vec<DefaultRoute> {
    let routes = default_routes();
    for route in &routes {
        let (interface, gateway) = (route.interface.clone(), route.gateway);
        journal.measured(Measurement::Gateway { interface, gateway });
    }
    if routes.is_empty() {
        journal.missing("the gateway", "there is none: the main routing table has no default route");
    }
    let links: Vec<(u32, String)> =
        interfaces.iter().map(|interface| (interface.index, interface.name.clone())).collect();
    let (resolvers, unknown) = resolvers(|path| std::fs::read_to_string(path).ok(), &links);
    if resolvers.is_empty() {
        journal.missing("resolvers", "/etc/resolv.conf names none");
    }
    for Resolver { server, link } in resolvers {
        let by_route = || origin_toward(SocketAddr::new(server, 53), interfaces, mark)?.interface;
        let interface = link.or_else(by_route);
        journal.measured(Measurement::Resolver { server, interface });
    }
    for stub in unknown {
        let why = "it forwards on this host, and no file says to whom";
        journal.missing(format!("the interface of the resolvers behind {stub}"), why);
    }
    routes
}

/// A resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Resolver {
    server: IpAddr,
    /// The interface that it is asked by whatever the routes say.
    link: Option<String>,
}

/// Where systemd-resolved answers programs of this host; anything else on loopback is another forwarder.
const SYSTEMD: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];

/// Whom systemd-resolved asks.
const BEHIND_SYSTEMD: &str = "/run/systemd/resolve/resolv.conf";

/// Servers of one link, which systemd-resolved asks by that link (IP_UNICAST_IF): those that programs gave it, and those
/// of networkd. The file's name is the link's index.
const OF_LINKS: [(&str, &str); 2] =
    [("/run/systemd/resolve/netif/", "SERVERS="), ("/run/systemd/netif/links/", "DNS=")];

/// Whom the forwarder asks that NetworkManager started, and how the resolv.conf begins that goes with it.
const BEHIND_NETWORK_MANAGER: &str = "/run/NetworkManager/no-stub-resolv.conf";
const BY_NETWORK_MANAGER: &str = "# Generated by NetworkManager";

/// The resolvers, those behind a forwarder on this host as well; and forwarders of which it is not known whom they ask.
fn resolvers(read: impl Fn(&str) -> Option<String>, links: &[(u32, String)]) -> (Vec<Resolver>, Vec<IpAddr>) {
    let file = read("/etc/resolv.conf").unwrap_or_default();
    let mut servers = name_servers(&file, links);
    let behind = |path: &str| -> Option<Vec<Resolver>> {
        let mut behind = name_servers(&read(path)?, links);
        behind.retain(|resolver| !resolver.server.is_loopback());
        (!behind.is_empty()).then_some(behind)
    };
    let (mut asked, mut unknown) = (Vec::new(), Vec::new());
    for stub in servers.iter().map(|resolver| resolver.server).filter(IpAddr::is_loopback) {
        let by_network_manager = || behind(BEHIND_NETWORK_MANAGER).filter(|_| file.contains(BY_NETWORK_MANAGER));
        let found = if SYSTEMD.iter().any(|own| stub == *own) {
            behind(BEHIND_SYSTEMD).map(|behind| by_link(behind, &read, links))
        } else {
            by_network_manager()
        };
        match found {
            Some(behind) => asked.extend(behind),
            None => unknown.push(stub),
        }
    }
    for resolver in asked {
        if !servers.contains(&resolver) {
            servers.push(resolver);
        }
    }
    servers.truncate(MAX_LISTED);
    (servers, unknown)
}

/// The same resolvers with the link that each belongs to, if it does to one: once for each, if it does to several.
fn by_link(resolvers: Vec<Resolver>, read: &impl Fn(&str) -> Option<String>, links: &[(u32, String)]) -> Vec<Resolver> {
    let names = |file: &str, key: &str, server: IpAddr| {
        let servers = file.lines().filter_map(|line| line.strip_prefix(key)).flat_map(str::split_whitespace);
        // With a port, a scope or a name behind it where there is one.
        servers.filter_map(|word| word.split(['%', '#']).next()).any(|word| {
            word.parse() == Ok(server) || word.parse::<SocketAddr>().is_ok_and(|address| address.ip() == server)
        })
    };
    let links_of = |server: IpAddr| {
        let asking = links.iter().filter(move |(index, _)| {
            OF_LINKS.iter().any(|(directory, key)| {
                read(&format!("{directory}{index}")).is_some_and(|file| names(&file, key, server))
            })
        });
        asking.map(|(_, name)| name.clone()).collect::<Vec<_>>()
    };
    let mut known = Vec::new();
    for resolver in resolvers {
        let asking = if resolver.link.is_none() { links_of(resolver.server) } else { Vec::new() };
        if asking.is_empty() {
            known.push(resolver);
            continue;
        }
        known.extend(asking.into_iter().map(|link| Resolver { server: resolver.server, link: Some(link) }));
    }
    known
}

/// The servers that a resolv.conf names. `links`: to tell the name of a scope that is a number.
fn name_servers(file: &str, links: &[(u32, String)]) -> Vec<Resolver> {
    let servers = file.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    // An IPv6 link-local one comes with its scope: a link's name or, where no link has such a name, its index.
    let name_of = |scope: &str| {
        let by_index = || links.iter().find(|(index, _)| scope.parse() == Ok(*index));
        let found = links.iter().find(|(_, name)| name == scope).or_else(by_index);
        found.map_or_else(|| scope.to_owned(), |(_, name)| name.clone())
    };
    let read = |text: &str| {
        let (ip, scope) = text.split_once('%').map_or((text, None), |(ip, scope)| (ip, Some(name_of(scope))));
        Some(Resolver { server: ip.parse().ok()?, link: scope })
    };
    servers.filter_map(read).take(MAX_LISTED).collect()
}

/// The address that the system itself would use toward a destination, with the mark of our sockets. Nothing is sent.
pub(crate) fn origin_toward(remote: SocketAddr, interfaces: &[Interface], mark: Option<u32>) -> Option<Origin> {
    let socket = Socket::new(Domain::for_address(remote), Type::DGRAM, Some(Protocol::UDP)).ok()?;
    if let Some(mark) = mark {
        socket.set_mark(mark).ok()?;
    }
    socket.connect(&remote.into()).ok()?;
    let mut address = UdpSocket::from(socket).local_addr().ok()?;
    address.set_port(0);
    let has = |interface: &&Interface| interface.addresses.iter().any(|own| own.ip() == address.ip());
    let interface = interfaces.iter().find(has).map(|interface| interface.name.clone());
    Some(Origin { address, interface })
}

/// Whether this process may mark its sockets.
pub(crate) fn can_mark(mark: u32) -> bool {
    Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).is_ok_and(|socket| socket.set_mark(mark).is_ok())
}

/// What there is of IPv6 before anybody is asked: the answer, or the address to try.
pub(crate) fn ipv6_state(interfaces: &[Interface]) -> Result<IpAddr, (Ipv6State, Option<IpAddr>)> {
    let disabled = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    let off = disabled.map_or_else(|_| !Path::new("/proc/net/if_inet6").exists(), |text| text.trim() == "1");
    if off {
        return Err((Ipv6State::Off, None));
    }
    let Some(address) = reaching_ipv6(interfaces) else { return Err((Ipv6State::NoAddress, None)) };
    let has_route = !ipv6_defaults(&std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default()).is_empty();
    if has_route { Ok(address) } else { Err((Ipv6State::NoPath, Some(address))) }
}

/// An IPv6 address that reaches beyond its own network.
pub(crate) fn reaching_ipv6<'a>(interfaces: impl IntoIterator<Item = &'a Interface>) -> Option<IpAddr> {
    let mut addresses = interfaces.into_iter().flat_map(|interface| &interface.addresses).map(SocketAddr::ip);
    addresses.find(|ip| ip.is_ipv6() && AddressClass::of(*ip) == AddressClass::Public)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_read_as_linux_writes_them() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n\
            tun0\t00000000\t00000000\t0001\t0\t0\t700\t00000000\t0\t0\t0\n\
            eth1\t00000000\t00000000\t0201\t0\t0\t50\t00000000\t0\t0\t0\n\
            torn line\n";
        let routes = ipv4_defaults(table);
        let names: Vec<_> = routes.iter().map(|route| route.interface.as_str()).collect();
        assert_eq!(names, ["eth0", "wlan0", "tun0"]);
        assert_eq!(routes[2].gateway, None);
        #[cfg(target_endian = "little")]
        assert_eq!(routes[0].gateway, Some("10.0.0.1".parse().unwrap()));

        let zero = "0".repeat(32);
        let table = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n\
             20010db8000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n"
        );
        let routes = ipv6_defaults(&table);
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[0].gateway, Some("fe80::1".parse().unwrap()));
    }

    #[test]
    fn resolvers_are_read_with_and_without_scope() {
        let file =
            "# comment\nsearch x\nnameserver 127.0.0.53\n nameserver fe80::1%eth0\nnameserver nonsense\noptions a\n";
        let read: Vec<_> =
            name_servers(file, &[]).into_iter().map(|resolver| (resolver.server, resolver.link)).collect();
        assert_eq!(
            read,
            [("127.0.0.53".parse().unwrap(), None), ("fe80::1".parse().unwrap(), Some("eth0".to_owned()))]
        );
    }

    /// What is told of a host with these files: each resolver, with the link that it belongs to; and forwarders of which
    /// it is not known whom they ask.
    fn told(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let read = |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
        let (servers, unknown) = resolvers(read, &[(2, "eth0".into()), (7, "wg0".into())]);
        let shown = |resolver: &Resolver| match &resolver.link {
            Some(link) => format!("{} by {link}", resolver.server),
            None => resolver.server.to_string(),
        };
        (servers.iter().map(shown).collect(), unknown.iter().map(ToString::to_string).collect())
    }

    const SYSTEMD_STUB: (&str, &str) = ("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    const SYSTEMD_ASKS: (&str, &str) = (BEHIND_SYSTEMD, "nameserver 192.168.1.1\nnameserver 2001:db8::1\n");

    #[test]
    fn whom_systemd_asks_and_by_which_link_is_read() {
        assert_eq!(told(&[SYSTEMD_STUB]), (vec!["127.0.0.53".to_owned()], vec!["127.0.0.53".to_owned()]));
        let all = ["127.0.0.53", "192.168.1.1", "2001:db8::1"].map(str::to_owned).to_vec();
        assert_eq!(told(&[SYSTEMD_STUB, SYSTEMD_ASKS]), (all, Vec::new()));
        let by_program = ("/run/systemd/resolve/netif/7", "LLMNR=yes\nSERVERS=10.0.0.1 2001:db8::1#dns.example\n");
        let by_networkd = ("/run/systemd/netif/links/2", "# private\nDNS=192.168.1.1 fe80::1%2\n");
        let all = ["127.0.0.53", "192.168.1.1 by eth0", "2001:db8::1 by wg0"].map(str::to_owned).to_vec();
        assert_eq!(told(&[SYSTEMD_STUB, SYSTEMD_ASKS, by_program, by_networkd]), (all, Vec::new()));
    }

    #[test]
    fn a_server_of_several_links_is_told_of_each_and_a_scope_by_its_name() {
        let by_program = ("/run/systemd/resolve/netif/7", "SERVERS=192.168.1.1\n");
        let by_networkd = ("/run/systemd/netif/links/2", "DNS=192.168.1.1\n");
        let all =
            ["127.0.0.53", "192.168.1.1 by eth0", "192.168.1.1 by wg0", "2001:db8::1"].map(str::to_owned).to_vec();
        assert_eq!(told(&[SYSTEMD_STUB, SYSTEMD_ASKS, by_program, by_networkd]), (all, Vec::new()));
        for (scope, link) in [("2", "eth0"), ("eth0", "eth0"), ("9", "9")] {
            let file = format!("nameserver fe80::1%{scope}\n");
            assert_eq!(told(&[("/etc/resolv.conf", &file)]), (vec![format!("fe80::1 by {link}")], Vec::new()));
        }
    }

    #[test]
    fn a_forwarder_on_loopback_that_is_not_systemds_is_not_taken_for_it() {
        let plain = ("/etc/resolv.conf", "nameserver 192.168.1.1\n");
        assert_eq!(told(&[plain, SYSTEMD_ASKS]), (vec!["192.168.1.1".to_owned()], Vec::new()));
        for other in ["127.0.0.1", "127.0.1.1", "::1"] {
            let file = format!("nameserver {other}\n");
            let unknown = (vec![other.to_owned()], vec![other.to_owned()]);
            assert_eq!(told(&[("/etc/resolv.conf", &file), SYSTEMD_ASKS]), unknown);
            // NetworkManager's file tells of its own forwarder only.
            let upstream = (BEHIND_NETWORK_MANAGER, "nameserver 10.0.0.1\n");
            assert_eq!(told(&[("/etc/resolv.conf", &file), upstream]), unknown);
            let file = format!("{BY_NETWORK_MANAGER}\nsearch x\nnameserver {other}\n");
            let known = (vec![other.to_owned(), "10.0.0.1".to_owned()], Vec::new());
            assert_eq!(told(&[("/etc/resolv.conf", &file), upstream]), known);
        }
    }
}
