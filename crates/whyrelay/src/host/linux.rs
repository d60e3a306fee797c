//! Linux: everything that netlink and procfs tell.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use whyrelay_core::host::{
    AnsweredRoute, HostFact, Link, MAX_ROUTES, Neighbor, NeighborState, OwnConnection, OwnPacket, PolicyRule, Route,
    RouteAnswer, RouteKind, RoutePurpose, RouteQuestion, Subject,
};

use super::counters::{self, Counters};
use super::netlink::Netlink;
use super::nft::Firewall;
use super::packets::{Copied, Copy, Tally};
use super::{
    Beside, Collector, Emit, Flow, Scope, conntrack, installed, ipsec, legacy, questions, sockets, software, system,
    tables,
};

/// Most interfaces that are recorded.
const MAX_LINKS: usize = 64;

/// Most policy rules that are recorded: all that any host has, and a bound.
const MAX_RULES: usize = 256;

/// Most next hops that the kernel is asked to look for.
const MAX_HOPS: usize = 8;

/// Of how many addresses of the peer next hops are looked for, about.
const MAX_LOOKED_FOR: usize = 16;

/// A next hop that has not answered for so long is silent: an answer over a radio link that saves power takes a while.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// Most neighbors that are recorded.
const MAX_NEIGHBORS: usize = 64;

const CAP_NET_RAW: u32 = 13;

/// The table of the host's own addresses.
const LOCAL: u32 = 255;

/// What is known of this host.
#[derive(Default)]
pub(super) struct Linux {
    /// How long what the last transmissions caused is waited for.
    under_way: Duration,
    links: BTreeMap<u32, Link>,
    rules: Vec<PolicyRule>,
    baseline: Counters,
    routing: Option<Netlink>,
    copy: Option<Copy>,
    /// The rules before the checks; `None`: they cannot be read.
    firewall: Option<Firewall>,
    /// The same of the legacy iptables, where they have tables.
    legacy: Option<Firewall>,
    answers: Vec<RouteAnswer>,
    /// Addresses of the peer.
    peers: BTreeSet<IpAddr>,
    /// Those of them whose next hops were looked for.
    looked_for: BTreeSet<IpAddr>,
    /// Next hops that routes to them name, though no packets go there: by interface, and when the kernel was asked.
    hops: BTreeMap<(String, IpAddr), Instant>,
    /// Interfaces of our own addresses: they can touch the session whatever they are.
    addresses: Vec<whyrelay_core::host::Address>,
    /// What was told before the checks of interfaces, addresses, settings and policy rules: what is otherwise after them
    /// is told again.
    told: Vec<HostFact>,
}

impl Collector for Linux {
    fn before(&mut self, _: &Scope, emit: &mut Emit<'_>) {
        self.baseline = Counters::read();
        self.start_copy(emit);
        let mut told = Vec::new();
        self.take_configuration(&mut |fact: HostFact| {
            told.push(fact.clone());
            emit(fact);
        });
        self.told = told;
        match tables::open() {
            Ok(netlink) => self.routing = Some(netlink),
            Err(error) => not_measured(Subject::RouteAnswers, &error, emit),
        }
        if self.baseline.is_empty() {
            not_measured(Subject::Counters, &io::ErrorKind::NotFound.into(), emit);
        }
        if let Some(fact) = counters::conntrack_use() {
            emit(fact);
        }
        emit(software::capabilities());
        match software::resolver() {
            Some(fact) => emit(fact),
            None => not_measured(Subject::Resolver, &io::ErrorKind::NotFound.into(), emit),
        }
        match Firewall::read() {
            Ok(firewall) => self.firewall = Some(firewall),
            Err(error) => not_measured(Subject::Nftables, &error, emit),
        }
        self.legacy = legacy_iptables(None, emit);
    }

    fn socket(&mut self, scope: &Scope, emit: &mut Emit<'_>) {
        if let Some(copy) = &self.copy
            && let Err(error) = copy.look_for(scope.ports(), &scope.connected_to)
        {
            not_measured(Subject::OwnPackets, &error, emit);
            self.copy = None;
        }
    }

    fn flow(&mut self, flow: &Flow, emit: &mut Emit<'_>) {
        if flow.purpose == RoutePurpose::Peer && !flow.probe {
            self.peers.insert(flow.remote.ip());
        }
        let Some(netlink) = &mut self.routing else { return };
        if is_link_local(flow.remote.ip()) {
            return;
        }
        let question = RouteQuestion {
            purpose: flow.purpose,
            destination: flow.remote.ip(),
            destination_port: flow.remote.port(),
            source: flow.socket.map(|socket| socket.local.ip()).filter(|ip| !ip.is_unspecified()),
            source_port: flow.socket.filter(|socket| !socket.raw).map(|socket| socket.local.port()),
            protocol: flow.socket.map_or(17, |socket| socket.protocol),
            mark: flow.socket.map_or(0, |socket| socket.mark),
            user: flow.socket.and_then(|socket| socket.user).unwrap_or_else(|| nix::unistd::geteuid().as_raw()),
            out_device: flow.socket.and_then(|socket| socket.device).map(|device| device.name()),
            probe: flow.probe,
        };
        let answer = questions::ask(netlink, question, &self.links, &self.rules);
        emit(HostFact::RouteAnswer(answer.clone()));
        self.answers.push(answer);
    }

    /// Every process of the host is looked at: milliseconds where there are hundreds.
    fn later(&mut self, emit: &mut Emit<'_>) {
        let mut routes = BTreeMap::new();
        // What cannot be read is said with the routes that are recorded.
        let _ = tables::routes(&self.links, |route| installed::count(&mut routes, &route));
        let chains = self.firewall.iter().chain(&self.legacy).flat_map(Firewall::chains).collect();
        let host = installed::Host { rules: &self.rules, chains, routes: &routes };
        let programs = software::programs(self.links.values(), &host);
        let total = programs.len() as u64;
        programs.into_iter().for_each(&mut *emit);
        // That there is none is told, too.
        emit(HostFact::Counted { subject: Subject::Software, total, recorded: total });
        if !software::in_laboratory() {
            system::facts(self.links.values().take(MAX_LINKS)).into_iter().for_each(emit);
        }
    }

    fn links(&mut self, emit: &mut Emit<'_>) {
        let Ok(now) = tables::links() else { return };
        for link in now.values().filter(|link| self.addresses.iter().any(|own| own.device == link.device)) {
            let before = self.links.get_mut(&link.index).filter(|before| before.works() != link.works());
            if let Some(before) = before {
                before.clone_from(link);
                emit(HostFact::Link(link.clone()));
            }
        }
    }

    fn peers(&mut self) {
        let new: BTreeSet<IpAddr> = self.peers.difference(&self.looked_for).copied().collect();
        // Where there are very many routes each reading takes long.
        if new.is_empty() || self.hops.len() >= MAX_HOPS || self.looked_for.len() >= MAX_LOOKED_FOR {
            return;
        }
        let mut hops = BTreeSet::new();
        let _ = tables::routes(&self.links, |route| hops.extend(hops_of(&route, &new)));
        self.looked_for.extend(new);
        self.look_for(hops);
    }

    fn after(&mut self, scope: &Scope, emit: &mut Emit<'_>) {
        // First what goes on counting.
        let counters = Counters::read().since(&self.baseline);
        // Then the names of interfaces, which the facts below speak of: some may have come up since the checks began.
        if let Ok(links) = tables::links() {
            self.links = links;
        }
        // Asking may load the kernel's module, so only where IPsec stopped something is it asked.
        let ipsec_stopped =
            matches!(&counters, HostFact::Counters { moved, .. } if moved.keys().any(|name| name.starts_with("Xfrm.")));
        emit(counters);
        if let Some(fact) = counters::conntrack_use() {
            emit(fact);
        }
        if let Some(before) = &self.firewall {
            match Firewall::read() {
                Ok(now) => now.facts(before, scope, emit),
                Err(error) => not_measured(Subject::Nftables, &error, emit),
            }
        }
        if let Some(before) = &self.legacy
            && let Some(now) = legacy_iptables(Some(before), emit)
        {
            now.facts(before, scope, emit);
        }
        if ipsec_stopped && let Err(error) = ipsec::facts(scope, &self.links, emit) {
            not_measured(Subject::IpsecPolicies, &error, emit);
        }
        self.settle_copy(scope.given_up, emit);
        self.take_routes(scope, emit);
        self.take_neighbors(scope, emit);
        match sockets::facts(&scope.ports(), &self.links) {
            Ok(facts) => facts.into_iter().for_each(&mut *emit),
            Err(error) => not_measured(Subject::Sockets, &error, emit),
        }
        if let Err(error) = conntrack::facts(scope, emit) {
            not_measured(Subject::Conntrack, &error, emit);
        }
        let told = std::mem::take(&mut self.told);
        self.take_configuration(&mut |fact: HostFact| {
            if !told.contains(&fact) {
                emit(fact);
            }
        });
        for fact in told {
            if !self.has(&fact) {
                emit(HostFact::Gone { gone: Box::new(fact) });
            }
        }
        self.tell_changed_answers(emit);
    }
}

impl Linux {
    pub(super) fn new(beside: Beside) -> Self {
        Self { under_way: beside.under_way(), ..Self::default() }
    }

    /// Has the kernel look for next hops to which no packet of the session may come, because something else keeps it back:
    /// whether they answer shows in the neighbors after the checks. Without the privilege they are not looked for.
    fn look_for(&mut self, hops: BTreeSet<(String, IpAddr)>) {
        let used = |device: &str, hop: IpAddr| {
            let mut routes = self.answers.iter().filter_map(|answer| {
                Some((answer.device()?, answer.route.as_ref()?.gateway.unwrap_or(answer.question.destination)))
            });
            routes.any(|way| way == (device, hop))
        };
        let link = |device: &str| self.links.values().find(|link| link.device == device);
        let new =
            |(device, hop): &(String, IpAddr)| !used(device, *hop) && !self.hops.contains_key(&(device.clone(), *hop));
        let asked = hops.into_iter().filter(new).take(MAX_HOPS - self.hops.len());
        let asked = asked.filter(|(device, hop)| {
            let asks = link(device).filter(|link| link.up && !link.loopback && !link.is_tunnel());
            asks.is_some_and(|link| tables::look_for_neighbor(link, *hop).is_ok())
        });
        let asked: Vec<_> = asked.map(|hop| (hop, Instant::now())).collect();
        self.hops.extend(asked);
    }

    /// Whether an interface, an address or a policy rule is still there, as it was read last. What is otherwise than it
    /// was is still there.
    fn has(&self, fact: &HostFact) -> bool {
        match fact {
            HostFact::Link(link) => self.links.values().any(|now| now.device == link.device),
            HostFact::Address(address) => {
                self.addresses.iter().any(|now| (now.address, &now.device) == (address.address, &address.device))
            }
            HostFact::PolicyRule(rule) => self.rules.contains(rule),
            _ => true,
        }
    }

    /// The routing's answers that are no longer what they were: asked once more.
    fn tell_changed_answers(&mut self, emit: &mut Emit<'_>) {
        let Some(netlink) = &mut self.routing else { return };
        for before in std::mem::take(&mut self.answers) {
            let now = questions::ask(netlink, before.question.clone(), &self.links, &self.rules);
            // What was learned of the path's MTU meanwhile is no other way.
            let way = |answer: &RouteAnswer| {
                let route = answer.route.clone().map(|route| AnsweredRoute { mtu: None, ..route });
                (route, answer.failure.clone())
            };
            if way(&now) != way(&before) {
                emit(HostFact::Gone { gone: Box::new(HostFact::RouteAnswer(before)) });
            }
        }
    }

    fn start_copy(&mut self, emit: &mut Emit<'_>) {
        match Copy::start() {
            Ok(copy) => self.copy = Some(copy),
            Err(error) => {
                let needs = (!software::has_capability(CAP_NET_RAW)).then(|| "CAP_NET_RAW".into());
                emit(HostFact::NotMeasured { subject: Subject::OwnPackets, why: error.to_string(), needs });
            }
        }
    }

    /// Interfaces, addresses, settings and policy rules.
    fn take_configuration(&mut self, emit: &mut Emit<'_>) {
        self.take_links(emit);
        match tables::rules() {
            Ok(rules) => {
                emit_bounded(Subject::PolicyRules, MAX_RULES, &rules, emit, |rule| HostFact::PolicyRule(rule.clone()));
                self.rules = rules;
            }
            Err(error) => not_measured(Subject::PolicyRules, &error, emit),
        }
    }

    fn take_links(&mut self, emit: &mut Emit<'_>) {
        match tables::links() {
            Ok(links) => self.links = links,
            Err(error) => not_measured(Subject::Links, &error, emit),
        }
        match tables::addresses(&self.links) {
            Ok(addresses) => self.addresses = addresses,
            Err(error) => not_measured(Subject::Addresses, &error, emit),
        }
        // Those that can touch the session come first: with an address and up, or a tunnel.
        let with_address: BTreeSet<&str> = self.addresses.iter().map(|address| address.device.as_str()).collect();
        let mut links: Vec<&Link> = self.links.values().collect();
        links.sort_by_key(|link| {
            let has_address = with_address.contains(link.device.as_str());
            (!(has_address && link.up), !link.is_tunnel(), !has_address, link.is_virtual_bridge(), link.index)
        });
        let recorded: BTreeSet<&str> = links.iter().take(MAX_LINKS).map(|link| link.device.as_str()).collect();
        emit_bounded(Subject::Links, MAX_LINKS, &links, emit, |link| HostFact::Link((*link).clone()));
        let addresses: Vec<_> =
            self.addresses.iter().filter(|address| recorded.contains(address.device.as_str())).collect();
        emit_bounded(Subject::Addresses, 2 * MAX_LINKS, &addresses, emit, |address| {
            HostFact::Address((*address).clone())
        });
        for fact in counters::settings(recorded) {
            emit(fact);
        }
    }

    /// `given_up`: when connections beside the session's sockets were.
    fn settle_copy(&mut self, given_up: Option<Instant>, emit: &mut Emit<'_>) {
        let Some(copy) = self.copy.take() else { return };
        std::thread::sleep(self.under_way);
        let (copied, left_out) = copy.stop();
        let recorded = copied.len() as u64;
        // When the first packet left to where an answer comes from.
        let asked: Vec<_> = copied
            .iter()
            .filter(|((_, arrived, ..), _)| !arrived)
            .map(|((.., source, destination, _), tally)| ((*destination, *source), tally.first))
            .collect();
        let answered_after = |ends: (SocketAddr, SocketAddr), arrived: Option<Instant>| {
            let asked = asked.iter().filter(|(of, _)| *of == ends).filter_map(|(_, first)| *first).min()?;
            u64::try_from(arrived?.checked_duration_since(asked)?.as_micros()).ok()
        };
        for ((index, arrived, source, destination, what), tally) in copied {
            let device = self.links.get(&index).map_or_else(|| format!("index {index}"), |link| link.device.clone());
            let Tally { packets, first, wrong_checksums } = tally;
            emit(match what {
                Copied::Datagram => {
                    HostFact::OwnPacket(OwnPacket { device, arrived, source, destination, packets, wrong_checksums })
                }
                Copied::Connection => {
                    let after_us = answered_after((source, destination), first).filter(|_| arrived);
                    let late = arrived && is_late(first, given_up);
                    HostFact::OwnConnection(OwnConnection {
                        device,
                        arrived,
                        source,
                        destination,
                        packets,
                        after_us,
                        late,
                    })
                }
            });
        }
        // That it was looked at is told where nothing left, too.
        emit(HostFact::Counted { subject: Subject::OwnPackets, total: recorded, recorded });
        if let Some(why) = left_out {
            emit(HostFact::NotMeasured { subject: Subject::OwnPackets, why, needs: None });
        }
    }

    /// The routes that cover the peer, the servers, or everything; and where there are few, all but those to the host's own
    /// addresses: the peer may have an address that it could not tell.
    fn take_routes(&self, scope: &Scope, emit: &mut Emit<'_>) {
        let remotes: BTreeSet<IpAddr> = scope.remotes().collect();
        let mut covering = Covering::default();
        let all = tables::whole(|| {
            covering = Covering::default();
            tables::routes(&self.links, |route| covering.take(&remotes, route))
        });
        match all {
            Ok(total) => covering.tell(total, emit),
            Err(error) => not_measured(Subject::Routes, &error, emit),
        }
    }

    /// The neighbors that our packets go to: next hops, and peers on the same link.
    fn take_neighbors(&self, scope: &Scope, emit: &mut Emit<'_>) {
        let hops = self.answers.iter().filter_map(|answer| answer.route.as_ref()?.gateway);
        let looked_for = self.hops.keys().map(|(_, hop)| *hop);
        let wanted: BTreeSet<IpAddr> = scope.remotes().chain(hops).chain(looked_for).collect();
        let mut facts = Vec::new();
        let all = tables::whole(|| {
            facts.clear();
            tables::neighbors(&self.links, |neighbor| {
                let asked = self.hops.get(&(neighbor.device.clone(), neighbor.address));
                if wanted.contains(&neighbor.address) && tells(&neighbor, asked) && facts.len() < MAX_NEIGHBORS {
                    facts.push(HostFact::Neighbor(neighbor));
                }
            })
        });
        match all {
            Ok(total) => {
                let recorded = facts.len() as u64;
                facts.into_iter().for_each(&mut *emit);
                emit(HostFact::Counted { subject: Subject::Neighbors, total, recorded });
            }
            Err(error) => not_measured(Subject::Neighbors, &error, emit),
        }
    }
}

/// Whether something came when it was given up already.
fn is_late(came: Option<Instant>, given_up: Option<Instant>) -> bool {
    came.zip(given_up).is_some_and(|(came, given_up)| came > given_up)
}

/// Whether the state of a neighbor says something: not that one is still looked for which we asked for just now.
fn tells(neighbor: &Neighbor, asked: Option<&Instant>) -> bool {
    neighbor.neighbor_state != NeighborState::Incomplete || asked.is_none_or(|asked| asked.elapsed() >= ANSWERS_WITHIN)
}

/// The next hops that a route names for addresses of the peer: its gateway, or where it has none the address itself.
fn hops_of(route: &Route, peers: &BTreeSet<IpAddr>) -> Vec<(String, IpAddr)> {
    let Some(device) = route.device.as_ref().filter(|_| route.route_kind == RouteKind::Unicast) else {
        return Vec::new();
    };
    let covered = peers.iter().filter(|peer| route.destination.contains(**peer));
    covered.map(|peer| (device.clone(), route.gateway.unwrap_or(*peer))).take(MAX_HOPS).collect()
}

/// Whether an address says nothing without an interface: every one has a route for such addresses, and which of them the
/// routing names is no more than the order in which they came up.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The routes that lead to the session's addresses.
#[derive(Default)]
struct Covering {
    /// Those that cover an address of the session, or everything.
    routes: Vec<Route>,
    /// The others, but for those to the host's own addresses.
    others: Vec<Route>,
    /// How many of those there are.
    own: u64,
    /// More cover something than have room.
    is_cut: bool,
}

impl Covering {
    fn take(&mut self, remotes: &BTreeSet<IpAddr>, route: Route) {
        let is_default = route.destination.length == 0;
        let wanted = if is_default {
            remotes.iter().any(|remote| remote.is_ipv4() == route.destination.address.is_ipv4())
        } else {
            remotes.iter().any(|remote| route.destination.contains(*remote))
        };
        let is_local = route.table == LOCAL;
        if wanted && !(is_local && is_default) {
            // A host of many routes may have many that cover everything, one for each table: those of the tables that
            // every Linux has go before.
            self.routes.push(route);
            if self.routes.len() > MAX_ROUTES {
                self.is_cut = true;
                let of_others = self.routes.iter().rposition(|route| !matches!(route.table, 253..=LOCAL));
                self.routes.remove(of_others.unwrap_or(MAX_ROUTES));
            }
        } else if is_local {
            self.own += 1;
        } else if self.others.len() < MAX_ROUTES {
            self.others.push(route);
        }
    }

    /// `total`: of how many.
    fn tell(mut self, total: u64, emit: &mut Emit<'_>) {
        let total = total.saturating_sub(self.own);
        if total <= MAX_ROUTES as u64 {
            self.routes.append(&mut self.others);
        }
        let recorded = self.routes.len() as u64;
        self.routes.into_iter().for_each(|route| emit(HostFact::Route(route)));
        emit(HostFact::Counted { subject: Subject::Routes, total, recorded });
        if self.is_cut {
            // The count of all that there are does not say so: most of them concern nobody here.
            let why =
                format!("more than {MAX_ROUTES} of them lead to an address of the session, the rest was left out");
            emit(HostFact::NotMeasured { subject: Subject::Routes, why, needs: None });
        }
    }
}

/// The rules of the legacy iptables, where there are tables. What could not be read is said unless `known` says that it
/// could not be read before.
fn legacy_iptables(known: Option<&Firewall>, emit: &mut Emit<'_>) -> Option<Firewall> {
    let (firewall, unread) = legacy::read();
    match unread.as_slice() {
        _ if known.is_some_and(|known| !known.unread.is_empty()) => {}
        [] => {}
        // Which of the two matters only where the other was read.
        [(program, error)] => not_measured_part(Subject::LegacyIptables, Some(program), error, emit),
        [(_, error), ..] => not_measured(Subject::LegacyIptables, error, emit),
    }
    firewall
}

/// Emits a list up to a bound, and how long it is where it is longer.
pub(super) fn emit_bounded<T>(
    subject: Subject,
    bound: usize,
    list: &[T],
    emit: &mut Emit<'_>,
    fact: impl Fn(&T) -> HostFact,
) {
    list.iter().take(bound).for_each(|item| emit(fact(item)));
    if list.len() > bound {
        emit(HostFact::Counted { subject, total: list.len() as u64, recorded: bound as u64 });
    }
}

pub(super) fn not_measured(subject: Subject, error: &io::Error, emit: &mut Emit<'_>) {
    not_measured_part(subject, None, error, emit);
}

/// The same of a part of the subject.
fn not_measured_part(subject: Subject, part: Option<&str>, error: &io::Error, emit: &mut Emit<'_>) {
    let refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES));
    let needs = refused.then(|| "CAP_NET_ADMIN".to_owned());
    let part = part.map_or_else(String::new, |part| format!("{part}: "));
    emit(HostFact::NotMeasured { subject, why: format!("{part}{error}"), needs });
}

#[cfg(test)]
mod tests {
    use whyrelay_core::host::{Prefix, RouteKind, RoutePurpose};

    use super::*;

    fn route(table: u32, destination: &str, length: u8) -> Route {
        Route {
            table,
            destination: Prefix { address: destination.parse().unwrap(), length },
            route_kind: RouteKind::Unicast,
            device: None,
            gateway: None,
            preferred_source: None,
            metric: None,
            mtu: None,
            other_hops: Vec::new(),
            next_hop_object: None,
        }
    }

    #[test]
    fn the_routing_is_asked_about_addresses_that_are_one_links_alone_by_nobody() {
        let asked = |remote: &str| {
            let (mut host, mut facts) = (Linux { routing: tables::open().ok(), ..Linux::default() }, Vec::new());
            let remote = remote.parse().unwrap();
            host.flow(&Flow { socket: None, remote, purpose: RoutePurpose::Peer, probe: false }, &mut |fact| {
                facts.push(fact);
            });
            facts.len()
        };
        assert_eq!([asked("127.0.0.1:9"), asked("[fe80::1]:9"), asked("[fe80::1%2]:9")], [1, 0, 0]);
    }

    /// What is told of routes, on the way to an IPv4 address: how many, and whether something is missing.
    fn told(routes: impl IntoIterator<Item = Route>) -> (usize, bool) {
        let remotes = BTreeSet::from(["198.51.100.7".parse().unwrap()]);
        let (mut covering, mut facts) = (Covering::default(), Vec::new());
        routes.into_iter().for_each(|route| covering.take(&remotes, route));
        covering.tell(100_000, &mut |fact| facts.push(fact));
        let missing = facts.iter().any(|fact| matches!(fact, HostFact::NotMeasured { subject: Subject::Routes, .. }));
        (facts.iter().filter(|fact| matches!(fact, HostFact::Route(_))).count(), missing)
    }

    #[test]
    fn a_neighbor_that_we_asked_for_just_now_is_not_silent_yet() {
        let tells = |neighbor_state, asked: Option<u64>| {
            let (device, address) = ("eth0".to_owned(), "192.168.1.99".parse().unwrap());
            let asked = asked.and_then(|ago| Instant::now().checked_sub(Duration::from_millis(ago)));
            tells(&Neighbor { device, address, mac: None, neighbor_state }, asked.as_ref())
        };
        use NeighborState::{Failed, Incomplete, Reachable};
        assert!(!tells(Incomplete, Some(50)));
        assert!(tells(Incomplete, Some(1100)) && tells(Incomplete, None), "so long, or packets of the session wait");
        assert!(tells(Reachable, Some(50)) && tells(Failed, Some(50)));
    }

    #[test]
    fn what_came_after_the_connection_was_given_up_is_late() {
        let (early, now) = (Instant::now(), Instant::now() + Duration::from_millis(1));
        assert!(is_late(Some(now), Some(early)) && !is_late(Some(early), Some(now)));
        assert!(!is_late(Some(now), None) && !is_late(None, Some(now)), "nobody gave up, or nothing came");
    }

    #[test]
    fn next_hops_are_those_of_the_routes_that_lead_to_the_peer() {
        let peers = BTreeSet::from(["198.51.100.7".parse().unwrap()]);
        let by = |destination: &str, length, gateway: Option<&str>, route_kind| {
            let gateway = gateway.map(|gateway| gateway.parse().unwrap());
            let route =
                Route { device: Some("eth0".to_owned()), gateway, route_kind, ..route(254, destination, length) };
            hops_of(&route, &peers).into_iter().map(|(_, hop)| hop.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(by("198.51.100.0", 24, Some("192.168.1.99"), RouteKind::Unicast), ["192.168.1.99"]);
        assert_eq!(by("198.51.100.0", 24, None, RouteKind::Unicast), ["198.51.100.7"], "on the link");
        assert_eq!(by("203.0.113.0", 24, Some("192.168.1.99"), RouteKind::Unicast), [""; 0]);
        assert_eq!(by("198.51.100.0", 24, None, RouteKind::Blackhole), [""; 0]);
    }

    #[test]
    fn routes_that_lead_to_the_session_are_told_and_that_some_are_not() {
        let others = || (0..200).map(|n| route(254, &format!("10.0.{n}.0"), 24));
        assert_eq!(told(others()), (0, false));
        let some =
            [route(254, "0.0.0.0", 0), route(255, "0.0.0.0", 0), route(254, "::", 0), route(7, "198.51.100.0", 26)];
        assert_eq!(told(some.into_iter().chain(others())), (2, false));
        let everything = |tables: u32| (1000..1000 + tables).map(|table| route(table, "0.0.0.0", 0));
        assert_eq!(told(everything(MAX_ROUTES as u32)), (MAX_ROUTES, false));
        assert_eq!(told(everything(MAX_ROUTES as u32 + 1)), (MAX_ROUTES, true));
        // The default route of the main table stays, wherever it comes.
        let (mut covering, remotes) = (Covering::default(), BTreeSet::from(["198.51.100.7".parse().unwrap()]));
        everything(500).chain([route(254, "0.0.0.0", 0)]).for_each(|route| covering.take(&remotes, route));
        assert!(covering.routes.iter().any(|route| route.table == 254) && covering.routes.len() == MAX_ROUTES);
    }
}
