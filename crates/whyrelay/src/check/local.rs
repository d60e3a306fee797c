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
        journal.missing("the gateway", "the main routing table has no default route");
    }
    let (resolvers, unknown) = resolvers(|path| std::fs::read_to_string(path).ok());
    if resolvers.is_empty() {
        journal.missing("resolvers", "/etc/resolv.conf names none");
    }
    for server in resolvers {
        let origin = origin_toward(SocketAddr::new(server, 53), interfaces, mark);
        let interface = origin.and_then(|origin| origin.interface);
        journal.measured(Measurement::Resolver { server, interface });
    }
    if let Some(stub) = unknown {
        let why = "it is a program of this host, and no file says whom it asks";
        journal.missing(format!("the interface of the resolvers behind {stub}"), why);
    }
    routes
}

/// Where programs that answer on this host's loopback write whom they ask themselves.
const BEHIND_STUBS: [&str; 2] = ["/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"];

/// The resolvers, those behind one on this host's loopback as well; and that one, if it is not known whom it asks.
fn resolvers(read: impl Fn(&str) -> Option<String>) -> (Vec<IpAddr>, Option<IpAddr>) {
    let mut servers = name_servers(&read("/etc/resolv.conf").unwrap_or_default());
    let Some(stub) = servers.iter().copied().find(IpAddr::is_loopback) else { return (servers, None) };
    let behind = BEHIND_STUBS.into_iter().find_map(|path| {
        let behind: Vec<IpAddr> = name_servers(&read(path)?).into_iter().filter(|ip| !ip.is_loopback()).collect();
        (!behind.is_empty()).then_some(behind)
    });
    let unknown = behind.is_none().then_some(stub);
    servers.extend(behind.unwrap_or_default());
    servers.truncate(MAX_LISTED);
    (servers, unknown)
}

fn name_servers(file: &str) -> Vec<IpAddr> {
    let servers = file.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    // An IPv6 link-local one comes with its scope.
    servers.filter_map(|text| text.split('%').next()?.parse().ok()).take(MAX_LISTED).collect()
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
        assert_eq!(name_servers(file), ["127.0.0.53".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
    }

    #[test]
    fn whom_a_resolver_on_this_host_asks_is_read_where_it_says_so() {
        let of = |files: &[(&str, &str)]| {
            let read = |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
            let (servers, unknown) = resolvers(read);
            (servers.iter().map(ToString::to_string).collect::<Vec<_>>(), unknown.map(|ip| ip.to_string()))
        };
        let stub = ("/etc/resolv.conf", "nameserver 127.0.0.53\n");
        let plain = ("/etc/resolv.conf", "nameserver 192.168.1.1\n");
        let upstream = (BEHIND_STUBS[0], "nameserver 192.168.1.1\nnameserver 2001:db8::1\n");
        assert_eq!(of(&[plain, upstream]), (vec!["192.168.1.1".to_owned()], None));
        assert_eq!(of(&[stub]), (vec!["127.0.0.53".to_owned()], Some("127.0.0.53".to_owned())));
        let all = ["127.0.0.53", "192.168.1.1", "2001:db8::1"].map(str::to_owned).to_vec();
        assert_eq!(of(&[stub, upstream]), (all, None));
        assert_eq!(of(&[stub, (BEHIND_STUBS[1], "nameserver 127.0.0.1\n")]).1, Some("127.0.0.53".to_owned()));
    }
}
