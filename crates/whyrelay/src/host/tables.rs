//! Interfaces, addresses, routes, policy rules and neighbors, by rtnetlink.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;

use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia};
use netlink_packet_route::rule::{RuleAction as KernelAction, RuleAttribute, RuleMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use whyrelay_core::host::{
    Address, Family, Link, Neighbor, NeighborState, NextHop, PolicyRule, Prefix, Route, RouteKind, RuleAction,
};

use super::netlink::{Netlink, push_attribute};

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_GETRULE: u16 = 34;

/// Most entries of a table that are looked at: more than any host has, and a bound.
const MAX_LOOKED_AT: u64 = 2_000_000;

/// How often a list is read that changes meanwhile: where interfaces come and go all the time, half of the readings of a
/// thousand of them are torn.
const READINGS: usize = 16;

/// Most next hops of one route that are recorded.
const MAX_HOPS: usize = 16;

/// A new socket for rtnetlink.
pub(super) fn open() -> io::Result<Netlink> {
    Netlink::open(NETLINK_ROUTE)
}

/// All interfaces by index.
pub(crate) fn links() -> io::Result<BTreeMap<u32, Link>> {
    whole(read_links)
}

fn read_links() -> io::Result<BTreeMap<u32, Link>> {
    let mut links = BTreeMap::new();
    let mut masters = Vec::new();
    dump(RTM_GETLINK, AddressFamily::Unspec, 16, |payload| {
        let Ok(message) = LinkMessage::parse(payload) else { return };
        let flags = message.header.flags;
        let mut link = Link {
            device: String::new(),
            index: message.header.index,
            link_kind: None,
            loopback: flags.contains(LinkFlags::Loopback),
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::LowerUp),
            mtu: 0,
            mac: None,
            master: None,
            vrf_table: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.device = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(mac) if mac.len() == 6 && mac.iter().any(|byte| *byte != 0) => {
                    link.mac = Some(hardware(&mac));
                }
                LinkAttribute::Controller(index) => masters.push((link.index, index)),
                LinkAttribute::LinkInfo(infos) => {
                    let kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                    link.link_kind = kind.or(link.link_kind);
                    link.vrf_table = infos.iter().find_map(vrf_table);
                }
                _ => {}
            }
        }
        links.insert(link.index, link);
    })?;
    for (index, master) in masters {
        let name = links.get(&master).map(|link: &Link| link.device.clone());
        if let Some(link) = links.get_mut(&index) {
            link.master = name;
        }
    }
    Ok(links)
}

/// The table of a VRF.
fn vrf_table(info: &LinkInfo) -> Option<u32> {
    let LinkInfo::Data(InfoData::Vrf(data)) = info else { return None };
    data.iter().find_map(|data| match data {
        InfoVrf::TableId(table) => Some(*table),
        _ => None,
    })
}

/// All addresses.
pub(super) fn addresses(links: &BTreeMap<u32, Link>) -> io::Result<Vec<Address>> {
    whole(|| read_addresses(links))
}

fn read_addresses(links: &BTreeMap<u32, Link>) -> io::Result<Vec<Address>> {
    const FLAGS: [(AddressFlags, &str); 8] = [
        (AddressFlags::Secondary, "secondary"),
        (AddressFlags::Optimistic, "optimistic"),
        (AddressFlags::Dadfailed, "dadfailed"),
        (AddressFlags::Deprecated, "deprecated"),
        (AddressFlags::Tentative, "tentative"),
        (AddressFlags::Permanent, "permanent"),
        (AddressFlags::Noprefixroute, "noprefixroute"),
        (AddressFlags::StablePrivacy, "stable-privacy"),
    ];
    let mut addresses = Vec::new();
    dump(RTM_GETADDR, AddressFamily::Unspec, 8, |payload| {
        let Ok(message) = AddressMessage::parse(payload) else { return };
        let (mut own, mut flags) = (None, AddressFlags::empty());
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(address) => own = Some(address),
                AddressAttribute::Address(address) => own = own.or(Some(address)),
                AddressAttribute::Flags(all) => flags = all,
                _ => {}
            }
        }
        let Some(address) = own else { return };
        let Some(link) = links.get(&message.header.index) else { return };
        addresses.push(Address {
            device: link.device.clone(),
            address,
            prefix_length: message.header.prefix_len,
            scope: match message.header.scope {
                AddressScope::Universe => "global".into(),
                other => format!("{other:?}").to_lowercase(),
            },
            flags: FLAGS.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| (*name).into()).collect(),
        });
    })?;
    Ok(addresses)
}

/// Looks at all routes of all tables; answers how many there are.
pub(super) fn routes(links: &BTreeMap<u32, Link>, mut take: impl FnMut(Route)) -> io::Result<u64> {
    dump(RTM_GETROUTE, AddressFamily::Unspec, 12, |payload| {
        let Ok(message) = RouteMessage::parse(payload) else { return };
        if let Some((route, _)) = route(&message, links) {
            take(route);
        }
    })
}

/// A route message as a fact, and whether its source prefix is set.
pub(super) fn route(message: &RouteMessage, links: &BTreeMap<u32, Link>) -> Option<(Route, bool)> {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let length = message.header.destination_prefix_length;
    let mut route = Route {
        table: message.header.table.into(),
        destination: Prefix { address: unspecified, length },
        route_kind: route_kind(message.header.kind),
        device: None,
        gateway: None,
        preferred_source: None,
        metric: None,
        mtu: None,
        other_hops: Vec::new(),
        next_hop_object: None,
    };
    let name = |index: u32| links.get(&index).map(|link| link.device.clone());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Destination(address) => {
                route.destination.address = ip(address).unwrap_or(unspecified);
            }
            RouteAttribute::Oif(index) => route.device = name(*index),
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet6(via)) => route.gateway = Some((*via).into()),
            RouteAttribute::PrefSource(address) => route.preferred_source = ip(address),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(hops) => {
                let mut hops = hops.iter().take(MAX_HOPS).map(|hop| NextHop {
                    device: name(hop.interface_index),
                    gateway: hop.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(address) => ip(address),
                        RouteAttribute::Via(RouteVia::Inet6(via)) => Some((*via).into()),
                        _ => None,
                    }),
                });
                if let Some(first) = hops.next() {
                    (route.device, route.gateway) = (first.device, first.gateway);
                    route.other_hops = hops.collect();
                }
            }
            RouteAttribute::NhId(id) => route.next_hop_object = Some(*id),
            _ => {}
        }
    }
    Some((route, message.header.source_prefix_length > 0))
}

/// All policy rules.
pub(super) fn rules() -> io::Result<Vec<PolicyRule>> {
    whole(read_rules)
}

fn read_rules() -> io::Result<Vec<PolicyRule>> {
    let mut rules = Vec::new();
    for (family, kernel) in [(Family::V4, AddressFamily::Inet), (Family::V6, AddressFamily::Inet6)] {
        let asked = dump(RTM_GETRULE, kernel, 12, |payload| {
            if let Ok(message) = RuleMessage::parse(payload) {
                rules.push(rule(family, &message));
            }
        });
        // A kernel without IPv6 has no IPv6 rules.
        let is_torn = |error: &io::Error| error.kind() == io::ErrorKind::Interrupted;
        if family == Family::V4 || asked.as_ref().is_err_and(is_torn) {
            asked?;
        }
    }
    Ok(rules)
}

fn rule(family: Family, message: &RuleMessage) -> PolicyRule {
    let header = &message.header;
    let mut rule = PolicyRule {
        rule_action: match header.action {
            KernelAction::ToTable => RuleAction::Lookup,
            KernelAction::Goto => RuleAction::Goto,
            KernelAction::Nop => RuleAction::Nop,
            KernelAction::Blackhole => RuleAction::Blackhole,
            KernelAction::Unreachable => RuleAction::Unreachable,
            KernelAction::Prohibit => RuleAction::Prohibit,
            _ => RuleAction::Other,
        },
        table: (header.action == KernelAction::ToTable).then_some(header.table.into()),
        invert: header.flags.bits() & FIB_RULE_INVERT != 0,
        tos: Some(header.tos).filter(|tos| *tos != 0),
        ..PolicyRule::lookup(family, 0, header.table.into())
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Destination(address) => {
                rule.to = Some(Prefix { address: *address, length: header.dst_len });
            }
            RuleAttribute::Source(address) => {
                rule.from = Some(Prefix { address: *address, length: header.src_len });
            }
            RuleAttribute::Iifname(name) => rule.in_device = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.out_device = Some(name.clone()),
            RuleAttribute::Goto(priority) => rule.goto = Some(*priority),
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(mark) => rule.mark = Some(*mark),
            RuleAttribute::FwMask(mask) => rule.mask = Some(*mask).filter(|mask| *mask != u32::MAX),
            RuleAttribute::SuppressPrefixLen(length) => {
                rule.suppress_prefix_length = Some(*length).filter(|length| *length != u32::MAX);
            }
            RuleAttribute::Table(table) if rule.table.is_some() => rule.table = Some(*table),
            RuleAttribute::L3MDev(set) => rule.l3mdev = *set,
            RuleAttribute::UidRange(range) => rule.users = Some((range.start, range.end)),
            RuleAttribute::IpProtocol(protocol) => rule.protocol = Some(u8::from(*protocol)),
            RuleAttribute::SourcePortRange(range) => rule.source_ports = Some((range.start, range.end)),
            RuleAttribute::DestinationPortRange(range) => rule.destination_ports = Some((range.start, range.end)),
            RuleAttribute::Protocol(origin) => {
                // 0: not told, 2: the kernel's own, 3: `ip` at boot or by hand.
                rule.origin = Some(u8::from(*origin)).filter(|origin| !matches!(origin, 0 | 2 | 3));
            }
            _ => {}
        }
    }
    rule
}

/// Has the kernel look for a neighbor on a link (ARP, neighbor discovery), as it would before it sends there: nothing else
/// leaves. Needs CAP_NET_ADMIN.
pub(super) fn look_for_neighbor(link: &Link, neighbor: IpAddr) -> io::Result<()> {
    // struct ndmsg of linux/neighbour.h, NTF_USE and NDA_DST.
    const USE: u8 = 1;
    const DESTINATION: u16 = 1;
    let family = if neighbor.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut payload = vec![u8::from(family), 0, 0, 0];
    payload.extend(link.index.to_ne_bytes());
    payload.extend([0, 0, USE, 0]);
    match neighbor {
        IpAddr::V4(ip) => push_attribute(&mut payload, DESTINATION, &ip.octets()),
        IpAddr::V6(ip) => push_attribute(&mut payload, DESTINATION, &ip.octets()),
    }
    open()?.make(RTM_NEWNEIGH, &payload)
}

/// All neighbors.
pub(super) fn neighbors(links: &BTreeMap<u32, Link>, mut take: impl FnMut(Neighbor)) -> io::Result<u64> {
    dump(RTM_GETNEIGH, AddressFamily::Unspec, 12, |payload| {
        let Ok(message) = NeighbourMessage::parse(payload) else { return };
        let Some(link) = links.get(&message.header.ifindex) else { return };
        let (mut address, mut mac) = (None, None);
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(ip)),
                NeighbourAttribute::LinkLayerAddress(bytes) if bytes.len() == 6 => mac = Some(hardware(&bytes)),
                _ => {}
            }
        }
        let Some(address) = address else { return };
        let neighbor_state = match message.header.state {
            NeighbourState::Incomplete => NeighborState::Incomplete,
            NeighbourState::Reachable => NeighborState::Reachable,
            NeighbourState::Stale => NeighborState::Stale,
            NeighbourState::Delay => NeighborState::Delay,
            NeighbourState::Probe => NeighborState::Probe,
            NeighbourState::Failed => NeighborState::Failed,
            NeighbourState::Noarp => NeighborState::NoArp,
            NeighbourState::Permanent => NeighborState::Permanent,
            _ => NeighborState::Other,
        };
        take(Neighbor { device: link.device.clone(), address, mac, neighbor_state });
    })
}

/// `FIB_RULE_INVERT` of linux/fib_rules.h.
const FIB_RULE_INVERT: u32 = 2;

/// Reads a list again where it changed meanwhile. What changes all the time is an error in the end: a list of which
/// entries may be missing is no proof that one is not there.
pub(super) fn whole<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut last = read();
    for _ in 1..READINGS {
        match &last {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => last = read(),
            _ => break,
        }
    }
    last
}

/// Asks for a list of an address family with an otherwise empty header of this length; answers how many came.
///
/// # Errors
/// `Interrupted` when the list changed meanwhile.
fn dump(message_type: u16, family: AddressFamily, header: usize, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut payload = vec![0; header];
    payload[0] = u8::from(family);
    let mut count = 0;
    let mut netlink = open()?;
    netlink.dump(message_type, &payload, |_, body| {
        count += 1;
        take(body);
        if count < MAX_LOOKED_AT { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if netlink.is_torn() {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "it changed each time while it was read"));
    }
    Ok(count)
}

pub(super) fn route_kind(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast | RouteType::Anycast => RouteKind::Broadcast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        _ => RouteKind::Other,
    }
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn hardware(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteNextHop;

    use super::*;
    use crate::host::link;

    fn links() -> BTreeMap<u32, Link> {
        BTreeMap::from([(2, link(2, "eth0")), (3, link(3, "eth1"))])
    }

    fn hop(interface_index: u32, attributes: Vec<RouteAttribute>) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        (hop.interface_index, hop.attributes) = (interface_index, attributes);
        hop
    }

    #[test]
    fn a_list_that_changes_while_it_is_read_is_read_again() {
        let readings = |torn: usize| {
            let mut read = 0;
            let list = whole(|| {
                read += 1;
                if read <= torn { Err(io::ErrorKind::Interrupted.into()) } else { Ok("whole") }
            });
            (list.map_err(|error| error.kind()), read)
        };
        assert_eq!(readings(0), (Ok("whole"), 1));
        assert_eq!(readings(READINGS - 1), (Ok("whole"), READINGS));
        assert_eq!(readings(READINGS), (Err(io::ErrorKind::Interrupted), READINGS));
        // Whatever else is wrong is not asked again.
        let mut asked = 0;
        let refused: io::Result<()> = whole(|| {
            asked += 1;
            Err(io::ErrorKind::PermissionDenied.into())
        });
        assert_eq!((refused.unwrap_err().kind(), asked), (io::ErrorKind::PermissionDenied, 1));
    }

    #[test]
    fn a_route_over_several_next_hops_has_them_all() {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, 1].into()));
        let via = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        let hops = vec![hop(2, vec![gateway]), hop(3, vec![via]), hop(9, Vec::new())];
        message.attributes = vec![RouteAttribute::Table(1000), RouteAttribute::MultiPath(hops)];
        let (route, from_source) = route(&message, &links()).unwrap();
        assert_eq!((route.table, from_source), (1000, false));
        assert_eq!((route.device.as_deref(), route.gateway), (Some("eth0"), Some([192, 0, 2, 1].into())));
        let others: Vec<_> = route.other_hops.iter().map(|hop| (hop.device.as_deref(), hop.gateway)).collect();
        // The last one's interface is gone.
        assert_eq!(others, [(Some("eth1"), Some("fe80::1".parse().unwrap())), (None, None)]);
    }

    #[test]
    fn a_next_hop_object_and_the_table_of_a_vrf_are_read() {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        message.attributes = vec![RouteAttribute::NhId(7), RouteAttribute::Oif(3)];
        let (route, _) = route(&message, &links()).unwrap();
        assert_eq!((route.next_hop_object, route.device.as_deref()), (Some(7), Some("eth1")));
        let vrf = |data| vrf_table(&LinkInfo::Data(InfoData::Vrf(data)));
        assert_eq!(vrf(vec![InfoVrf::TableId(10)]), Some(10));
        assert_eq!(
            (vrf(Vec::new()), vrf_table(&LinkInfo::Kind(netlink_packet_route::link::InfoKind::Vrf))),
            (None, None)
        );
    }
}
