//! What a Linux host does with the packets of its sockets, as far as it leaves evidence: rules and routes, the packet
//! filter, connection tracking, rp_filter, neighbors; errno, ICMP errors and counters (LINUX.md §2).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use whyrelay_core::host::{
    Address, AnsweredRoute, Family, PolicyRule, Prefix, Route, RouteAnswer, RouteKind, RoutePurpose, RouteQuestion,
    RuleAction, look_up, look_up_from,
};

use super::network::About;
use crate::scenario::file::{self, Hook, Protocol, Verdict};
use crate::scenario::topology::{self, FirewallRule};
use crate::scenario::value::Cidr;

/// How long Linux asks for a neighbor before it gives up: three times, a second apart.
pub(super) const NEIGHBOR_TIMEOUT: Duration = Duration::from_secs(3);

/// Packets of one kind whose checksums a copy looks at, as the real one does.
const CHECKED: u64 = 64;

/// EMSGSIZE of Linux, for what the interface is too small for.
const EMSGSIZE: i32 = 90;

/// EPERM, which the packet filter and a full connection table make of a send.
const EPERM: i32 = 1;
/// EINVAL of Linux, for a source address that the host does not have.
const EINVAL: i32 = 22;

/// EHOSTUNREACH of Linux, for a neighbor that does not answer, and for what a router prohibits.
pub(super) const EHOSTUNREACH: i32 = 113;

/// ECONNREFUSED of Linux, for a port where nobody listens.
pub(super) const ECONNREFUSED: i32 = 111;

/// The port of a connection that a plain program makes: one of those that Linux gives.
const PLAIN_PORT: u16 = 45_678;

/// UDP's number.
const UDP: u8 = 17;
/// TCP's number.
const TCP: u8 = 6;

/// Where a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    /// The number of the interface.
    pub(super) interface: usize,
    /// The next hop; `None`: on the link.
    pub(super) gateway: Option<IpAddr>,
}

/// What became of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It leaves.
    Leaves(Leaving),
    /// `sendto` says no.
    Refused(i32),
    /// `sendto` says no, and an ICMP error of this type and code comes from the host's own address.
    Rejected(i32, (u8, u8)),
}

/// What the packet filter makes of what a socket sends.
#[derive(Debug)]
enum Output {
    /// It passes, by this route.
    Passes(AnsweredRoute),
    /// Gone.
    Dropped,
    /// Gone, and an ICMP error says that nobody listens: nft's `reject with icmpx port-unreachable`.
    Rejected,
    /// It has another mark now, and by that no route: the errno.
    NoRoute(i32),
}

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// A socket gets it.
    Delivered,
    /// Gone.
    Dropped,
    /// Gone, and the sender is told that it is prohibited: nft's `reject with icmpx admin-prohibited`.
    Rejected,
}

/// A socket that is made otherwise than the session's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    /// Its firewall mark.
    pub(super) mark: u32,
    /// The interface that it is bound to (SO_BINDTODEVICE).
    pub(super) device: Option<String>,
}

/// Packets of one kind, as a copy of them tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) packets: u64,
    /// Those of the first [`CHECKED`] whose checksum is wrong.
    pub(super) wrong_checksums: u64,
}

impl Copied {
    fn add(&mut self, wrong_checksum: bool) {
        self.packets += 1;
        self.wrong_checksums += u64::from(wrong_checksum && self.packets <= CHECKED);
    }
}

/// A host's kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) host: topology::Host,
    pub(super) mark: u32,
    pub(super) uid: u32,
    pub(super) rules: Vec<PolicyRule>,
    pub(super) routes: Vec<Route>,
    pub(super) addresses: Vec<Address>,
    /// Counters that moved.
    pub(super) counters: BTreeMap<String, i64>,
    /// Packets that each rule of the filter matched.
    pub(super) matched: Vec<u64>,
    /// Packets by interface, source and destination as they left.
    pub(super) left: BTreeMap<(usize, SocketAddr, SocketAddr), Copied>,
    /// Packets by interface, source and destination as they arrived, ahead of every filter.
    pub(super) arrived: BTreeMap<(usize, SocketAddr, SocketAddr), Copied>,
    /// Neighbors that did not answer, by interface.
    pub(super) failed_neighbors: BTreeSet<(usize, IpAddr)>,
    /// Connections that are tracked, by their own and their other end.
    connections: BTreeMap<(SocketAddr, SocketAddr), Tracked>,
}

/// What connection tracking knows of one connection of UDP. For the filter (nft's `ct state new`) the packets of its first
/// direction are new until one of the other has come; those are never new.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    /// This host sent the first packet.
    begun_here: bool,
    /// A packet of the other direction was seen, whatever the filter made of it.
    is_answered: bool,
}

impl Kernel {
    pub(super) fn new(host: topology::Host, mark: u32, uid: u32) -> Self {
        let mut addresses = Vec::new();
        for interface in &host.interfaces {
            addresses.extend(interface.addresses.iter().map(|cidr| Address {
                device: interface.name.clone(),
                address: cidr.address,
                prefix_length: cidr.prefix,
                scope: "global".to_owned(),
                flags: Vec::new(),
            }));
        }
        let local = addresses.iter().map(|own| Route {
            table: 255,
            destination: Prefix { address: own.address, length: Cidr::host(own.address).prefix },
            route_kind: RouteKind::Local,
            device: Some(own.device.clone()),
            gateway: None,
            preferred_source: Some(own.address),
            metric: None,
            mtu: None,
            other_hops: Vec::new(),
            next_hop_object: None,
        });
        let routes = local.chain(host.all_routes().iter().map(route)).collect();
        let rules = host.all_rules().iter().flat_map(rule).collect();
        let matched = vec![0; host.firewall.len()];
        Self {
            host,
            mark,
            uid,
            rules,
            routes,
            addresses,
            counters: BTreeMap::new(),
            matched,
            left: BTreeMap::new(),
            arrived: BTreeMap::new(),
            failed_neighbors: BTreeSet::new(),
            connections: BTreeMap::new(),
        }
    }

    /// A question about a packet of this host's session.
    pub(super) fn question(&self, purpose: RoutePurpose, source: Option<SocketAddr>, to: SocketAddr) -> RouteQuestion {
        RouteQuestion {
            purpose,
            destination: to.ip(),
            destination_port: to.port(),
            source: source.map(|source| source.ip()),
            source_port: source.map(|source| source.port()),
            protocol: UDP,
            mark: self.mark,
            user: self.uid,
            out_device: None,
            probe: false,
        }
    }

    /// The same about another socket.
    pub(super) fn question_of(
        &self,
        socket: &Socket,
        purpose: RoutePurpose,
        source: Option<SocketAddr>,
        to: SocketAddr,
    ) -> RouteQuestion {
        let (mark, out_device) = (socket.mark, socket.device.clone());
        RouteQuestion { mark, out_device, ..self.question(purpose, source, to) }
    }

    pub(super) fn ask(&self, question: &RouteQuestion) -> RouteAnswer {
        look_up(&self.rules, &self.routes, &self.addresses, question)
    }

    /// A datagram of a socket bound to an address, with so many bytes, which nobody may fragment. `None`: it is one of the
    /// session's own.
    pub(super) fn send(&mut self, socket: Option<&Socket>, source: SocketAddr, to: SocketAddr, payload: usize) -> Sent {
        let question = match socket {
            Some(socket) => self.question_of(socket, RoutePurpose::Peer, Some(source), to),
            None => self.question(RoutePurpose::Peer, Some(source), to),
        };
        let answer = self.ask(&question);
        let route = match (answer.route, answer.failure) {
            (Some(route), _) => route,
            (None, failure) => {
                let errno = failure.map_or(EINVAL, |failure| failure.errno);
                if errno == 101 {
                    self.count(if to.is_ipv4() { "Ip.OutNoRoutes" } else { "Ip6.OutNoRoutes" });
                }
                return Sent::Refused(errno);
            }
        };
        self.count(if to.is_ipv4() { "Ip.OutRequests" } else { "Ip6.OutRequests" });
        let discards = if to.is_ipv4() { "Ip.OutDiscards" } else { "Ip6.OutDiscards" };
        if self.host.conntrack_full && !self.connections.contains_key(&(source, to)) {
            self.count(discards);
            self.count("nf_conntrack.drop");
            return Sent::Refused(EPERM);
        }
        let is_new = self.is_new(source, to, true);
        let route = match self.output(&question, route, source, to, is_new) {
            Output::Passes(route) => route,
            Output::Dropped => {
                self.count(discards);
                return Sent::Refused(EPERM);
            }
            Output::Rejected => {
                self.count(discards);
                return Sent::Rejected(EPERM, About::PortUnreachable.icmp(to.is_ipv4()));
            }
            Output::NoRoute(errno) => return Sent::Refused(errno),
        };
        self.track(source, to, true);
        match self.leaving(&route) {
            Some(leaving) if self.is_too_big(leaving.interface, to, payload) => Sent::Refused(EMSGSIZE),
            Some(leaving) => {
                let wrong = self.spoils(socket, source, to);
                self.left.entry((leaving.interface, source, to)).or_default().add(wrong);
                Sent::Leaves(leaving)
            }
            None => Sent::Refused(EINVAL),
        }
    }

    /// The packet filter's say on what a socket sends by a route. With another mark it is routed again behind the last rule, as
    /// by a chain of type route.
    fn output(
        &mut self,
        question: &RouteQuestion,
        route: AnsweredRoute,
        source: SocketAddr,
        to: SocketAddr,
        is_new: bool,
    ) -> Output {
        let protocol = if question.protocol == TCP { Protocol::Tcp } else { Protocol::Udp };
        let mut mark = question.mark;
        let device = route.device.as_deref();
        for index in 0..self.host.firewall.len() {
            let rule = &self.host.firewall[index];
            if rule.hook != Hook::Output || !matches(rule, source, to, protocol, device, mark, is_new) {
                continue;
            }
            self.matched[index] += 1;
            match rule.verdict {
                Verdict::Accept => break,
                Verdict::Drop => return Output::Dropped,
                Verdict::Reject => {
                    self.count_icmp_unreachable(to.is_ipv4());
                    return Output::Rejected;
                }
                Verdict::SetMark => mark = marked(rule, mark),
            }
        }
        if mark == question.mark {
            return Output::Passes(route);
        }
        let again = self.ask(&RouteQuestion { mark, ..question.clone() });
        match again.route {
            Some(new) => Output::Passes(new),
            None => Output::NoRoute(again.failure.map_or(EINVAL, |failure| failure.errno)),
        }
    }

    /// Whether a datagram leaves with a checksum for another source address: its sockets are made right but the session's.
    pub(super) fn spoils(&self, socket: Option<&Socket>, source: SocketAddr, to: SocketAddr) -> bool {
        socket.is_none() && self.host.wrong_checksum.as_ref().is_some_and(|wrong| wrong.is_of(source, to))
    }

    /// Whether an interface takes smaller packets only. A route's MTU stops nobody who asks for the path's (Linux's
    /// IP_PMTUDISC_PROBE), and others are fragmented.
    fn is_too_big(&self, interface: usize, to: SocketAddr, payload: usize) -> bool {
        let headers = if to.is_ipv4() { 28 } else { 48 };
        self.host.interfaces[interface].link.mtu.is_some_and(|mtu| payload + headers > usize::from(mtu))
    }

    /// Where a connection's packets leave; the packet filter and the rules have their say, of the answers that come in,
    /// too. The errno is `connect`'s; without one, nothing ever comes of it.
    pub(super) fn connect(&mut self, source: SocketAddr, to: SocketAddr) -> Result<Leaving, Option<i32>> {
        let question = RouteQuestion { protocol: TCP, ..self.question(RoutePurpose::Server, Some(source), to) };
        let answer = self.ask(&question);
        let Some(route) = answer.route else {
            return Err(Some(answer.failure.map_or(EINVAL, |failure| failure.errno)));
        };
        if self.host.conntrack_full {
            return Err(None);
        }
        let route = match self.output(&question, route, source, to, true) {
            Output::Passes(route) => route,
            // Linux sends the first packet again until its time is over, whatever became of it.
            Output::Dropped | Output::NoRoute(_) => return Err(None),
            Output::Rejected => return Err(Some(ECONNREFUSED)),
        };
        let device = route.device.clone().unwrap_or_default();
        // The answer comes in by the same interface, where rp_filter must take it for the way back.
        let answered = !self.stops(Hook::Prerouting, to, source, &device)
            && (!to.is_ipv4() || self.is_way_back(to, source, &device, 0))
            && !self.stops(Hook::Input, to, source, &device);
        if answered { self.leaving(&route).ok_or(Some(EINVAL)) } else { Err(None) }
    }

    /// The source of a plain program's connection, whose socket has no mark and is bound to nothing, and where it leaves;
    /// `None`: it does not come about. Nothing is counted, as no packet is sent.
    pub(super) fn plain_connection(&mut self, to: SocketAddr) -> Option<(SocketAddr, Leaving)> {
        let (mark, matched) = (std::mem::take(&mut self.mark), self.matched.clone());
        let counters = self.counters.clone();
        let question = RouteQuestion { protocol: TCP, ..self.question(RoutePurpose::Server, None, to) };
        let route = self.ask(&question).route;
        let on_device = |device: &str| {
            let on_it = self.addresses.iter().filter(|own| own.device == device).map(|own| own.address);
            on_it.into_iter().find(|own| own.is_ipv4() == to.is_ipv4())
        };
        let source = route.and_then(|route| route.preferred_source.or_else(|| on_device(route.device.as_deref()?)));
        let found = source.and_then(|source| {
            let source = SocketAddr::new(source, PLAIN_PORT);
            Some((source, self.connect(source, to).ok()?))
        });
        (self.mark, self.matched, self.counters) = (mark, matched, counters);
        found
    }

    /// Whether the filter stops what answers a connection of this host.
    fn stops(&mut self, hook: Hook, source: SocketAddr, to: SocketAddr, device: &str) -> bool {
        for (rule, matched) in self.host.firewall.iter().zip(&mut self.matched) {
            // It is not unsolicited.
            if rule.hook != hook || !matches(rule, source, to, Protocol::Tcp, Some(device), self.mark, false) {
                continue;
            }
            *matched += 1;
            match rule.verdict {
                Verdict::Accept => return false,
                Verdict::Drop | Verdict::Reject => return true,
                Verdict::SetMark => {}
            }
        }
        false
    }

    /// A datagram from outside.
    pub(super) fn receive(
        &mut self,
        interface: usize,
        source: SocketAddr,
        to: SocketAddr,
        wrong_checksum: bool,
    ) -> Arrived {
        let ipv4 = to.is_ipv4();
        self.arrived.entry((interface, source, to)).or_default().add(wrong_checksum);
        self.count(if ipv4 { "Ip.InReceives" } else { "Ip6.InReceives" });
        let device = self.host.interfaces[interface].name.clone();
        let mut mark = 0;
        // Ahead of connection tracking, where no rule asks for it.
        if let Some(stopped) = self.filter(Hook::Prerouting, source, to, &device, &mut mark, false) {
            return stopped;
        }
        // Connection tracking calls a packet with a wrong checksum invalid, which is not new.
        let is_new = !wrong_checksum && self.is_new(to, source, false);
        if ipv4 && !self.is_way_back(source, to, &device, mark) {
            self.count("TcpExt.IPReversePathFilter");
            return Arrived::Dropped;
        }
        if let Some(stopped) = self.filter(Hook::Input, source, to, &device, &mut mark, is_new) {
            return stopped;
        }
        if wrong_checksum {
            self.count(if ipv4 { "Ip.InDelivers" } else { "Ip6.InDelivers" });
            self.count(if ipv4 { "Udp.InErrors" } else { "Udp6.InErrors" });
            self.count(if ipv4 { "Udp.InCsumErrors" } else { "Udp6.InCsumErrors" });
            return Arrived::Dropped;
        }
        if self.host.conntrack_full && !self.connections.contains_key(&(to, source)) {
            self.count("nf_conntrack.drop");
            return Arrived::Dropped;
        }
        self.track(to, source, false);
        self.count(if ipv4 { "Ip.InDelivers" } else { "Ip6.InDelivers" });
        Arrived::Delivered
    }

    /// A neighbor did not answer: the address that the ICMP error comes from.
    pub(super) fn neighbor_failed(&mut self, interface: usize, neighbor: IpAddr) -> Option<IpAddr> {
        self.failed_neighbors.insert((interface, neighbor));
        self.count_icmp_unreachable(neighbor.is_ipv4());
        let own = &self.host.interfaces[interface].addresses;
        own.iter().map(|cidr| cidr.address).find(|address| address.is_ipv4() == neighbor.is_ipv4())
    }

    /// The next hops that routes name for some addresses: a gateway, or where there is none the address itself.
    pub(super) fn next_hops(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<(usize, IpAddr)> {
        let device = |route: &Route| {
            let device = route.device.as_ref().filter(|_| route.route_kind == RouteKind::Unicast)?;
            self.host.interfaces.iter().position(|interface| interface.name == *device)
        };
        let routes = self.routes.iter().filter_map(|route| Some((device(route)?, route)));
        let covered = |route: &Route| {
            let covered = addresses.iter().filter(|address| route.destination.contains(**address));
            covered.map(|address| route.gateway.unwrap_or(*address)).collect::<Vec<_>>()
        };
        routes.flat_map(|(interface, route)| covered(route).into_iter().map(move |hop| (interface, hop))).collect()
    }

    pub(super) fn count(&mut self, counter: &str) {
        *self.counters.entry(counter.to_owned()).or_default() += 1;
    }

    /// An ICMP error of this host. Those of ICMPv6 have counters of their own, which no recording has.
    fn count_icmp_unreachable(&mut self, ipv4: bool) {
        if ipv4 {
            self.count("Icmp.OutDestUnreachs");
        }
    }

    fn leaving(&self, route: &AnsweredRoute) -> Option<Leaving> {
        let device = route.device.as_ref()?;
        let interface = self.host.interfaces.iter().position(|interface| interface.name == *device)?;
        Some(Leaving { interface, gateway: route.gateway })
    }

    /// Whether connection tracking calls a packet new, that this host sends or gets.
    fn is_new(&mut self, own: SocketAddr, other: SocketAddr, is_sent: bool) -> bool {
        match self.connections.get_mut(&(own, other)) {
            None => true,
            Some(tracked) if tracked.begun_here == is_sent => !tracked.is_answered,
            Some(tracked) => {
                tracked.is_answered = true;
                false
            }
        }
    }

    /// A packet that no filter has stopped begins a connection where there is none.
    fn track(&mut self, own: SocketAddr, other: SocketAddr, is_sent: bool) {
        let begun = Tracked { begun_here: is_sent, is_answered: false };
        self.connections.entry((own, other)).or_insert(begun);
    }

    fn filter(
        &mut self,
        hook: Hook,
        source: SocketAddr,
        to: SocketAddr,
        device: &str,
        mark: &mut u32,
        is_new: bool,
    ) -> Option<Arrived> {
        for index in 0..self.host.firewall.len() {
            let rule = &self.host.firewall[index];
            if rule.hook != hook || !matches(rule, source, to, Protocol::Udp, Some(device), *mark, is_new) {
                continue;
            }
            self.matched[index] += 1;
            match rule.verdict {
                Verdict::Accept => return None,
                Verdict::Drop => return Some(Arrived::Dropped),
                Verdict::Reject => {
                    self.count_icmp_unreachable(to.is_ipv4());
                    return Some(Arrived::Rejected);
                }
                Verdict::SetMark => *mark = marked(rule, *mark),
            }
        }
        None
    }

    /// rp_filter: 1 wants the way back by the same interface, 2 any way back, 0 nothing. The greater of `all` and the
    /// interface's own counts.
    fn is_way_back(&self, source: SocketAddr, to: SocketAddr, device: &str, mark: u32) -> bool {
        let of = |name: &str, parameter: &str| {
            self.host.sysctls.get(&format!("net.ipv4.conf.{name}.{parameter}")).copied().unwrap_or(0)
        };
        let strictness = of("all", "rp_filter").max(of(device, "rp_filter"));
        if strictness == 0 {
            return true;
        }
        let with_mark = of("all", "src_valid_mark").max(of(device, "src_valid_mark")) != 0;
        let question = RouteQuestion {
            mark: if with_mark { mark } else { 0 },
            source: Some(to.ip()),
            source_port: None,
            user: 0,
            ..self.question(RoutePurpose::Peer, None, source)
        };
        let back = look_up_from(&self.rules, &self.routes, &self.addresses, &question, device);
        match back.device() {
            Some(back) => strictness == 2 || back == device,
            None => false,
        }
    }
}

/// A mark behind a rule that sets it.
fn marked(rule: &FirewallRule, mark: u32) -> u32 {
    rule.mark.map_or(mark, |set| mark & !set.mask | set.value & set.mask)
}

fn matches(
    rule: &FirewallRule,
    source: SocketAddr,
    to: SocketAddr,
    protocol: Protocol,
    device: Option<&str>,
    mark: u32,
    unsolicited: bool,
) -> bool {
    rule.ipproto.is_none_or(|wanted| wanted == protocol)
        && rule.from.is_none_or(|from| from.contains(source.ip()))
        && rule.to.is_none_or(|wanted| wanted.contains(to.ip()))
        && rule.sport.as_ref().is_none_or(|ports| ports.contains(source.port().into()))
        && rule.dport.as_ref().is_none_or(|ports| ports.contains(to.port().into()))
        && rule.dev.as_deref().is_none_or(|dev| Some(dev) == device)
        && rule.fwmark.is_none_or(|wanted| mark & wanted.mask == wanted.value & wanted.mask)
        && (!rule.unsolicited || unsolicited)
}

fn prefix(cidr: Cidr) -> Prefix {
    Prefix { address: cidr.address, length: cidr.prefix }
}

fn route(route: &topology::Route) -> Route {
    Route {
        table: route.table,
        destination: prefix(route.to),
        route_kind: match route.kind {
            file::RouteKind::Unicast => RouteKind::Unicast,
            file::RouteKind::Blackhole => RouteKind::Blackhole,
            file::RouteKind::Unreachable => RouteKind::Unreachable,
            file::RouteKind::Prohibit => RouteKind::Prohibit,
            file::RouteKind::Throw => RouteKind::Throw,
        },
        device: route.dev.clone(),
        gateway: route.via,
        preferred_source: route.src,
        metric: (route.metric > 0).then_some(route.metric),
        mtu: route.mtu.map(u32::from),
        other_hops: Vec::new(),
        next_hop_object: None,
    }
}

/// A rule for each family that its addresses allow.
fn rule(rule: &topology::Rule) -> Vec<PolicyRule> {
    let ports = |range: &Option<crate::scenario::value::Span32>| {
        range.as_ref().map(|range| (*range.0.start() as u16, *range.0.end() as u16))
    };
    let families = [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| [rule.from, rule.to].into_iter().flatten().all(|cidr| Family::of(cidr.address) == *family));
    families
        .map(|family| PolicyRule {
            rule_action: match rule.action {
                file::RuleAction::Lookup => RuleAction::Lookup,
                file::RuleAction::Blackhole => RuleAction::Blackhole,
                file::RuleAction::Unreachable => RuleAction::Unreachable,
                file::RuleAction::Prohibit => RuleAction::Prohibit,
            },
            table: (rule.action == file::RuleAction::Lookup).then_some(rule.table),
            invert: rule.not,
            from: rule.from.map(prefix),
            to: rule.to.map(prefix),
            in_device: rule.iif.clone(),
            out_device: rule.oif.clone(),
            mark: rule.fwmark.map(|mark| mark.value),
            mask: rule.fwmark.map(|mark| mark.mask),
            users: rule.uidrange.as_ref().map(|range| (*range.0.start(), *range.0.end())),
            protocol: rule.ipproto.map(|protocol| if protocol == Protocol::Udp { UDP } else { TCP }),
            source_ports: ports(&rule.sport),
            destination_ports: ports(&rule.dport),
            suppress_prefix_length: rule.suppress_prefixlength.map(u32::from),
            ..PolicyRule::lookup(family, rule.priority, rule.table)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn kernel(rules: &[(&str, &str)]) -> Kernel {
        let rule = |(rule, more): &(&str, &str)| format!("[[host.a.firewall]]\n{rule}\n{more}\n");
        let rules: String = rules.iter().map(rule).collect();
        let text = format!("title = \"t\"\n[host.a]\n{rules}[host.b]\n[expect]\npath = \"direct\"\n");
        let topology = Scenario::parse("test", &text).unwrap().topology;
        Kernel::new(topology.hosts[0].clone(), 0, 0)
    }

    /// As nft's `ct state new` on Linux: until the other side has sent something, and not until the first was let through.
    #[test]
    fn packets_are_unsolicited_until_they_were_answered() {
        let accept_new = |hook| {
            let (accept, drop) =
                (format!("hook = \"{hook}\"\nverdict = \"accept\""), format!("hook = \"{hook}\"\nverdict = \"drop\""));
            kernel(&[(&accept, "unsolicited = true"), (&drop, "")])
        };
        let (other, delivered, dropped) =
            (SocketAddr::from(([203, 0, 113, 110], 7)), Arrived::Delivered, Arrived::Dropped);
        let own = |kernel: &Kernel| SocketAddr::new(kernel.addresses[0].address, 9);

        let mut taking = accept_new("input");
        let here = own(&taking);
        assert_eq!([(); 3].map(|()| taking.receive(0, other, here, false)), [delivered; 3]);
        assert!(matches!(taking.send(None, here, other, 1), Sent::Leaves(_)));
        assert_eq!(taking.receive(0, other, here, false), dropped);
        // Its own connection: what comes is an answer.
        let third = SocketAddr::new(other.ip(), 8);
        assert!(matches!(taking.send(None, here, third, 1), Sent::Leaves(_)));
        assert_eq!(taking.receive(0, third, here, false), dropped);

        let mut sending = accept_new("output");
        let here = own(&sending);
        for _ in 0..3 {
            assert!(matches!(sending.send(None, here, other, 1), Sent::Leaves(_)));
        }
        assert_eq!(sending.receive(0, other, here, false), delivered);
        assert_eq!(sending.send(None, here, other, 1), Sent::Refused(EPERM));
        // What answers is never new.
        assert_eq!(sending.receive(0, third, here, false), delivered);
        assert_eq!(sending.send(None, here, third, 1), Sent::Refused(EPERM));
    }

    /// The host `a` of a scenario, and an address of the server for connections.
    fn connecting(text: &str) -> (Kernel, SocketAddr, SocketAddr) {
        let text = format!("title = \"t\"\n[host.a]\n{text}[host.b]\n[expect]\npath = \"direct\"\n");
        let topology = Scenario::parse("test", &text).unwrap().topology;
        let kernel = Kernel::new(topology.hosts[0].clone(), 0, 0);
        let here = SocketAddr::new(kernel.addresses[0].address, 9);
        (kernel, here, SocketAddr::new(topology.server_address(), 3478))
    }

    /// As in Linux: a rejected connection is refused at once; one whose new mark leads nowhere is tried until its
    /// time is over; one whose new mark leads elsewhere goes there.
    #[test]
    fn the_filter_rejects_connections_and_marks_them_as_it_does_datagrams() {
        const MARKS: &str =
            "[[host.a.firewall]]\nhook = \"output\"\nverdict = \"set-mark\"\nmark = \"0x7\"\nipproto = \"tcp\"\n";
        const REJECTS: &str = "[[host.a.firewall]]\nhook = \"output\"\nverdict = \"reject\"\nipproto = \"tcp\"\n";
        const DROPS: &str = "[[host.a.firewall]]\nhook = \"output\"\nverdict = \"drop\"\nipproto = \"tcp\"\n";
        let blackhole = "[[host.a.rule]]\npriority = 5\nfwmark = \"0x7\"\naction = \"blackhole\"\n".to_owned() + MARKS;
        let tunnel = "[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\n\
                      [[host.a.route]]\nto = \"default\"\ndev = \"wg0\"\ntable = 200\n\
                      [[host.a.rule]]\npriority = 5\nfwmark = \"0x7\"\ntable = 200\n"
            .to_owned()
            + MARKS;
        let by_mark = MARKS.to_owned() + &REJECTS.replace("ipproto", "fwmark = \"0x7\"\nipproto");
        for (text, comes, unreachable) in [
            ("", Ok(0), None),
            (REJECTS, Err(Some(ECONNREFUSED)), Some(&1)),
            (DROPS, Err(None), None),
            (&blackhole, Err(None), None),
            (&tunnel, Ok(1), None),
            (&by_mark, Err(Some(ECONNREFUSED)), Some(&1)),
        ] {
            let (mut kernel, here, server) = connecting(text);
            assert!(kernel.plain_connection(server).is_none_or(|_| comes.is_ok()), "{text}");
            assert!(kernel.counters.is_empty(), "nothing was sent: {text}");
            assert_eq!(kernel.connect(here, server).map(|leaving| leaving.interface), comes, "{text}");
            assert_eq!(kernel.counters.get("Icmp.OutDestUnreachs"), unreachable, "{text}");
            assert!(matches!(kernel.send(None, here, server, 1), Sent::Leaves(_)), "UDP: {text}");
        }
    }

    /// ICMPv6 has types of its own, and IPv6 counters.
    #[test]
    fn what_the_filter_rejects_is_told_and_counted_in_its_family() {
        for (family, kind, counters) in [
            ("ipv4 = true\nipv6 = false\n", (3, 3), ["Icmp.OutDestUnreachs", "Ip.OutDiscards", "Ip.OutRequests"]),
            ("ipv4 = false\nipv6 = true\n", (1, 4), ["", "Ip6.OutDiscards", "Ip6.OutRequests"]),
        ] {
            let rule = "[[host.a.firewall]]\nhook = \"output\"\nverdict = \"reject\"\n";
            let (mut kernel, here, server) = connecting(&format!("{family}{rule}"));
            let to = match here.is_ipv4() {
                true => server,
                false => "[2001:db8:ffff::1]:3478".parse().unwrap(),
            };
            assert_eq!(kernel.send(None, here, to, 1), Sent::Rejected(EPERM, kind));
            let moved: Vec<&str> = kernel.counters.keys().map(String::as_str).collect();
            let expected: Vec<&str> = counters.into_iter().filter(|name| !name.is_empty()).collect();
            assert_eq!(moved, expected);
        }
    }

    /// Linux looks rules and routes up with the interface of the socket: a table that leads elsewhere has nothing for it.
    #[test]
    fn a_socket_bound_to_the_uplink_goes_around_a_rule_that_diverts() {
        let text = "title = \"t\"\n[host.a]\n[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\n\
                    [[host.a.route]]\nto = \"default\"\ndev = \"wg0\"\ntable = 200\n\
                    [[host.a.rule]]\npriority = 5\ntable = 200\nfwmark = \"0x7\"\n[host.b]\n[expect]\npath = \"direct\"\n";
        let topology = Scenario::parse("test", text).unwrap().topology;
        let mut kernel = Kernel::new(topology.hosts[0].clone(), 7, 0);
        let (here, other) =
            (SocketAddr::new(kernel.addresses[0].address, 9), SocketAddr::from(([203, 0, 113, 110], 7)));
        let name = |sent: Sent| match sent {
            Sent::Leaves(Leaving { interface, .. }) => topology.hosts[0].interfaces[interface].name.as_str(),
            refused => panic!("{refused:?}"),
        };
        let own = name(kernel.send(None, here, other, 1));
        let bound = Socket { mark: 7, device: Some("eth0".to_owned()) };
        let unmarked = Socket { mark: 0, device: None };
        let [bound, unmarked] = [bound, unmarked].map(|socket| name(kernel.send(Some(&socket), here, other, 1)));
        assert_eq!([own, bound, unmarked], ["wg0", "eth0", "eth0"]);
    }

    /// An answer that the filter drops was seen all the same: tracking comes first.
    #[test]
    fn a_dropped_answer_is_an_answer() {
        let mut kernel = kernel(&[
            ("hook = \"input\"\nverdict = \"accept\"", "unsolicited = true"),
            ("hook = \"input\"\nverdict = \"drop\"", ""),
            ("hook = \"output\"\nverdict = \"drop\"", ""),
        ]);
        let (here, other) =
            (SocketAddr::new(kernel.addresses[0].address, 9), SocketAddr::from(([203, 0, 113, 110], 7)));
        assert_eq!(kernel.receive(0, other, here, false), Arrived::Delivered);
        assert_eq!(kernel.send(None, here, other, 1), Sent::Refused(EPERM));
        assert_eq!(kernel.receive(0, other, here, false), Arrived::Dropped);
    }

    /// What is dropped for its checksum is copied, counted and no answer; the session's sockets alone send so.
    #[test]
    fn a_wrong_checksum_is_of_the_session_s_sockets_and_is_counted_where_it_arrives() {
        let text = "title = \"t\"\n[host.a]\nwrong-checksum = [\"peer\"]\n[host.b]\n[expect]\npath = \"direct\"\n";
        let topology = Scenario::parse("test", text).unwrap().topology;
        let [mut a, mut b] = [0, 1].map(|host| Kernel::new(topology.hosts[host].clone(), 0, 0));
        let (here, there) =
            (SocketAddr::new(a.addresses[0].address, 40_000), SocketAddr::new(b.addresses[0].address, 9));
        let (probe, third) = (SocketAddr::new(here.ip(), 50_000), SocketAddr::new([203, 0, 113, 99].into(), 9));
        let plain = Socket { mark: 0, device: None };
        for (socket, source, to, wrong) in
            [(None, here, there, 1), (None, here, third, 0), (Some(&plain), probe, there, 0)]
        {
            assert!(matches!(a.send(socket, source, to, 1), Sent::Leaves(_)));
            assert_eq!(a.left[&(0, source, to)], Copied { packets: 1, wrong_checksums: wrong }, "{source} to {to}");
            assert_eq!(a.spoils(socket, source, to), wrong == 1);
        }
        for _ in 0..2 * CHECKED {
            assert_eq!(b.receive(0, here, there, true), Arrived::Dropped);
        }
        assert_eq!(b.arrived[&(0, here, there)], Copied { packets: 2 * CHECKED, wrong_checksums: CHECKED });
        assert_eq!(b.counters.get("Udp.InCsumErrors"), Some(&(2 * CHECKED as i64)));
        assert!(b.connections.is_empty(), "it begins no connection");
    }
}
