//! Facts about a host, as its kernel would tell them.

use std::collections::BTreeMap;

use whyrelay_core::host::{
    Address, AnsweredRoute, Application, Family, FirewallChain, FirewallFramework, FirewallRule, HostFact, Link,
    Moment, Neighbor, NeighborState, OwnPacket, PolicyRule, Prefix, Probe, ProbeAim, ProbeOutcome, ProfileTally, Route,
    RouteAnswer, RouteFailure, RouteKind, RoutePurpose, RouteQuestion, SocketProfile, Software, SoftwareName,
};
use whyrelay_core::trace::event::{EventKind, Vantage};

use crate::builder::{Session, address};

impl Session {
    pub(crate) fn fact(&mut self, vantage: Vantage, fact: HostFact) {
        self.push(vantage, EventKind::HostFact { moment: Moment::After, fact: Box::new(fact) });
    }

    /// An interface with an address.
    pub(crate) fn link(&mut self, vantage: Vantage, device: &str, kind: Option<&str>, own: &str) {
        self.link_with(vantage, device, kind, None, own);
    }

    /// An address of an interface that was there before the checks and is not after them.
    pub(crate) fn gone_address(&mut self, vantage: Vantage, device: &str, own: &str) {
        let (device, scope, address) = (device.to_owned(), "global".to_owned(), own.parse().expect("an address"));
        let gone = HostFact::Address(Address { device, address, prefix_length: 24, scope, flags: vec![] });
        self.fact(vantage, HostFact::Gone { gone: Box::new(gone) });
    }

    /// A TAP device, which is an Ethernet.
    pub(crate) fn tap(&mut self, vantage: Vantage, device: &str, own: &str) {
        self.link_with(vantage, device, Some("tun"), Some("02:00:00:00:00:01".to_owned()), own);
    }

    fn link_with(&mut self, vantage: Vantage, device: &str, kind: Option<&str>, mac: Option<String>, own: &str) {
        let link = Link {
            device: device.into(),
            index: 2,
            link_kind: kind.map(str::to_owned),
            loopback: false,
            up: true,
            running: true,
            mtu: 1500,
            mac,
            master: None,
            vrf_table: None,
        };
        self.fact(vantage, HostFact::Link(link));
        let (device, scope) = (device.to_owned(), "global".to_owned());
        let address = own.parse().expect("an address");
        self.fact(vantage, HostFact::Address(Address { device, address, prefix_length: 24, scope, flags: vec![] }));
    }

    /// What the kernel answers for a packet of A to an address: where it leads, or errno.
    pub(crate) fn route(&mut self, purpose: RoutePurpose, to: &str, mark: u32, way: Result<Way<'_>, i32>) {
        self.route_of(false, purpose, to, mark, way);
    }

    /// The same for a probe's socket.
    pub(crate) fn probe_route(&mut self, purpose: RoutePurpose, to: &str, mark: u32, way: Result<Way<'_>, i32>) {
        self.route_of(true, purpose, to, mark, way);
    }

    fn route_of(&mut self, probe: bool, purpose: RoutePurpose, to: &str, mark: u32, way: Result<Way<'_>, i32>) {
        let destination = address(to);
        let question = RouteQuestion {
            purpose,
            destination: destination.ip(),
            destination_port: destination.port(),
            source: Some(address(crate::report::A).ip()),
            source_port: Some(40_000),
            protocol: 17,
            mark,
            user: 0,
            out_device: None,
            probe,
        };
        let rule = way.as_ref().ok().and_then(|way| way.rule);
        let failure = way.as_ref().err().map(|errno| RouteFailure { errno: *errno, detail: format!("errno {errno}") });
        let route = way.ok().map(|way| AnsweredRoute {
            route_kind: RouteKind::Unicast,
            device: Some(way.device.into()),
            gateway: way.gateway.map(|gateway| gateway.parse().expect("an address")),
            preferred_source: Some(address(crate::report::A).ip()),
            table: way.table,
            matched: None,
            mtu: None,
        });
        self.fact(Vantage::A, HostFact::RouteAnswer(RouteAnswer { question, route, failure, rule }));
    }

    /// What the kernel answers for a packet of a plain socket of A to a server.
    pub(crate) fn plain_route(&mut self, local: &str, server: &str, way: Way<'_>) {
        self.probe_route(RoutePurpose::Server, server, 0, Ok(way));
        let Some(EventKind::HostFact { fact, .. }) = self.events.last_mut().map(|event| &mut event.kind) else {
            return;
        };
        if let HostFact::RouteAnswer(answer) = fact.as_mut() {
            answer.question.source_port = Some(address(local).port());
        }
    }

    /// What the kernel answers for a packet of A to a server from another of its addresses, with the session's port.
    pub(crate) fn route_from(&mut self, source: &str, to: &str, way: Way<'_>) {
        self.route(RoutePurpose::Server, to, 0, Ok(way));
        self.asked_from(source);
    }

    /// The last question to the routing is about a packet from another source.
    pub(crate) fn asked_from(&mut self, source: &str) {
        let Some(EventKind::HostFact { fact, .. }) = self.events.last_mut().map(|event| &mut event.kind) else {
            return;
        };
        if let HostFact::RouteAnswer(answer) = fact.as_mut() {
            answer.question.source = Some(source.parse().expect("an address"));
        }
    }

    pub(crate) fn rule(&mut self, rule: PolicyRule) {
        self.fact(Vantage::A, HostFact::PolicyRule(rule));
    }

    pub(crate) fn counters(&mut self, vantage: Vantage, moved: &[(&str, i64)]) {
        let moved: BTreeMap<_, _> = moved.iter().map(|(name, by)| ((*name).to_owned(), *by)).collect();
        let read = ["Ip", "Udp", "TcpExt", "Icmp"].map(str::to_owned).to_vec();
        self.fact(vantage, HostFact::Counters { moved, read });
    }

    pub(crate) fn firewall(&mut self, hook: &str, rule: &str, verdict: Option<&str>, packets: u64) {
        let rule = FirewallRule {
            framework: FirewallFramework::Nftables,
            table_family: "inet".into(),
            table: "filter".into(),
            chain: hook.into(),
            hook: Some(hook.into()),
            chain_type: Some("filter".into()),
            priority: Some(0),
            handle: Some(7),
            position: Some(self.firewall_rules(hook).count() as u32),
            rule: rule.into(),
            verdict: verdict.map(str::to_owned),
            target: None,
            sets_mark: verdict.is_none(),
            packets: Some(packets),
            packets_since: Some(packets),
        };
        self.fact(Vantage::A, HostFact::FirewallRule(rule));
    }

    /// A chain's policy on a hook of A, which counts nothing.
    pub(crate) fn policy(&mut self, hook: &str, verdict: &str) {
        self.firewall(hook, &format!("policy {verdict}"), Some(verdict), 0);
        let Some(EventKind::HostFact { fact, .. }) = self.events.last_mut().map(|event| &mut event.kind) else {
            return;
        };
        if let HostFact::FirewallRule(rule) = fact.as_mut() {
            (rule.table, rule.chain) = ("own".to_owned(), "in".to_owned());
            (rule.handle, rule.position, rule.packets, rule.packets_since) = (None, None, None, None);
        }
    }

    /// The rules that were told of a hook of A.
    fn firewall_rules(&self, hook: &str) -> impl Iterator<Item = &FirewallRule> {
        let rules = self.events.iter().filter_map(|event| match &event.kind {
            EventKind::HostFact { fact, .. } => match fact.as_ref() {
                HostFact::FirewallRule(rule) => Some(rule),
                _ => None,
            },
            _ => None,
        });
        rules.filter(move |rule| rule.hook.as_deref() == Some(hook) && rule.position.is_some())
    }

    /// The chain of a hook of A with the rules that were told before; `untold`: how many more there are.
    pub(crate) fn firewall_chain(&mut self, hook: &str, untold: u64) {
        let recorded = self.firewall_rules(hook).filter(|rule| rule.verdict.is_some()).count() as u64;
        let chain = FirewallChain {
            framework: FirewallFramework::Nftables,
            table_family: "inet".into(),
            table: "filter".into(),
            chain: hook.into(),
            hook: Some(hook.into()),
            chain_type: Some("filter".into()),
            priority: Some(0),
            drops: false,
            rules: recorded + untold,
            recorded,
        };
        self.fact(Vantage::A, HostFact::FirewallChain(chain));
    }

    /// All that was told of the firewall of A is of chains of this type.
    pub(crate) fn chain_type(&mut self, kind: &str) {
        for event in &mut self.events {
            let EventKind::HostFact { fact, .. } = &mut event.kind else { continue };
            match fact.as_mut() {
                HostFact::FirewallRule(rule) => rule.chain_type = Some(kind.to_owned()),
                HostFact::FirewallChain(chain) => chain.chain_type = Some(kind.to_owned()),
                _ => {}
            }
        }
    }

    /// A neighbor of A whose hardware address was set by hand.
    pub(crate) fn neighbor_by_hand(&mut self, at: &str) {
        let (device, address) = ("eth0".to_owned(), at.parse().expect("an address"));
        let (mac, neighbor_state) = (Some("02:00:00:00:00:99".to_owned()), NeighborState::Permanent);
        self.fact(Vantage::A, HostFact::Neighbor(Neighbor { device, address, mac, neighbor_state }));
    }

    pub(crate) fn neighbor(&mut self, at: &str, neighbor_state: NeighborState) {
        let (device, address) = ("eth0".to_owned(), at.parse().expect("an address"));
        self.fact(Vantage::A, HostFact::Neighbor(Neighbor { device, address, mac: None, neighbor_state }));
    }

    /// A packet that an interface of A saw arrive.
    pub(crate) fn arrived_packet(&mut self, device: &str, source: &str, destination: &str) {
        let (source, destination) = (address(source), address(destination));
        let packet =
            OwnPacket { device: device.into(), source, destination, packets: 3, arrived: true, wrong_checksums: 0 };
        self.fact(Vantage::A, HostFact::OwnPacket(packet));
    }

    /// Packets with a wrong checksum that left an interface of a side, or arrived at it.
    pub(crate) fn wrong_checksums(&mut self, vantage: Vantage, source: &str, destination: &str, arrived: bool) {
        let (device, source, destination) = ("eth0".to_owned(), address(source), address(destination));
        let packet = OwnPacket { device, source, destination, packets: 7, arrived, wrong_checksums: 7 };
        self.fact(vantage, HostFact::OwnPacket(packet));
    }

    pub(crate) fn own_packet(&mut self, device: &str, source: &str, destination: &str) {
        let (source, destination) = (address(source), address(destination));
        self.fact(
            Vantage::A,
            HostFact::OwnPacket(OwnPacket {
                device: device.into(),
                source,
                destination,
                packets: 7,
                arrived: false,
                wrong_checksums: 0,
            }),
        );
    }

    pub(crate) fn software(&mut self, software: SoftwareName, environment: &[(&str, &str)]) {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (signs, process_id) = (vec!["process".to_owned()], Some(1));
        self.fact(
            Vantage::A,
            HostFact::Software(Software {
                software,
                signs,
                process_id,
                environment: Some(environment),
                installed: vec![],
            }),
        );
    }

    /// Something is tried for this session alone, at A.
    pub(crate) fn tried(&mut self, what: &str) {
        for event in &mut self.events {
            if let (Vantage::A, EventKind::RecordingStarted { options, .. }) = (event.vantage, &mut event.kind) {
                options.tried = vec![what.into()];
            }
        }
    }

    pub(crate) fn application(&mut self, mark: Option<u32>, port_used: bool) {
        self.application_without(mark, port_used, vec![]);
    }

    /// The same, of which something is lacking.
    pub(crate) fn application_without(&mut self, mark: Option<u32>, port_used: bool, not_imitated: Vec<String>) {
        let application = Application {
            asked: "netbird".into(),
            origin: "known".into(),
            mark,
            port: Some(51_820),
            port_used,
            user: Some(0),
            bound_device: None,
            raw: false,
            not_imitated,
        };
        self.fact(Vantage::A, HostFact::Application(application));
    }

    /// How a socket of A was made, as the application's or a plain program's; its user is 0.
    pub(crate) fn profile(&mut self, as_application: bool, mark: u32) {
        let local = address(if as_application { crate::report::A } else { "192.168.1.2:40001" });
        let profile = SocketProfile { local, as_application, mark, user: 0, bound_device: None, raw: false };
        self.fact(Vantage::A, HostFact::SocketProfile(profile));
    }

    pub(crate) fn tally(&mut self, as_application: bool, answered: u32) {
        self.fact(
            Vantage::A,
            HostFact::ProfileTally(ProfileTally {
                as_application,
                pairs_checked: 2,
                pairs_answered: answered,
                server_requests: 2,
                server_answers: 2,
                sends_refused: 0,
            }),
        );
    }

    /// A probe of A: answered and seen from an address, or silent.
    pub(crate) fn probe(&mut self, aim: ProbeAim, local: &str, remote: &str, seen: Option<&str>) {
        let result = match seen {
            Some(seen) => ProbeOutcome::Answered { mapped: Some(address(seen)), round_trip_us: 20_000 },
            None => ProbeOutcome::Silent,
        };
        let (local, remote, transmissions) = (address(local), address(remote), 1);
        self.fact(Vantage::A, HostFact::Probe(Probe { aim, local, remote, transmissions, result }));
    }

    pub(crate) fn capabilities(&mut self, effective: &[&str], container: Option<&str>) {
        let effective = effective.iter().map(|name| (*name).to_owned()).collect();
        self.fact(Vantage::A, HostFact::Capabilities { user: 0, effective, container: container.map(str::to_owned) });
    }

    /// A route of A's main table by eth0.
    pub(crate) fn route_to(&mut self, network: &str, length: u8) {
        let destination = Prefix { address: network.parse().expect("an address"), length };
        let route = Route { device: Some("eth0".into()), ..bare_route(254, destination, RouteKind::Unicast) };
        self.fact(Vantage::A, HostFact::Route(route));
    }

    /// A default route of A that refuses.
    pub(crate) fn refusing_route(&mut self, kind: RouteKind, table: u32) {
        self.fact(Vantage::A, HostFact::Route(bare_route(table, everywhere(), kind)));
    }

    pub(crate) fn default_route(&mut self, table: u32) {
        let (device, gateway) = (Some("eth0".into()), Some("192.168.1.1".parse().expect("an address")));
        let route = Route { device, gateway, ..bare_route(table, everywhere(), RouteKind::Unicast) };
        self.fact(Vantage::A, HostFact::Route(route));
    }
}

/// A route that leads nowhere by itself.
pub(crate) fn bare_route(table: u32, destination: Prefix, route_kind: RouteKind) -> Route {
    Route {
        table,
        destination,
        route_kind,
        device: None,
        gateway: None,
        preferred_source: None,
        metric: None,
        mtu: None,
        other_hops: Vec::new(),
        next_hop_object: None,
    }
}

/// All of IPv4.
pub(crate) fn everywhere() -> Prefix {
    Prefix { address: std::net::Ipv4Addr::UNSPECIFIED.into(), length: 0 }
}

/// Where an answer leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    pub(crate) device: &'a str,
    pub(crate) gateway: Option<&'a str>,
    pub(crate) table: u32,
    pub(crate) rule: Option<u32>,
}

/// By the uplink, as usual.
pub(crate) const UPLINK: Way<'static> =
    Way { device: "eth0", gateway: Some("192.168.1.1"), table: 254, rule: Some(32_766) };

/// A rule that looks up a table for one destination.
pub(crate) fn policy_rule(priority: u32) -> PolicyRule {
    PolicyRule::lookup(Family::V4, priority, 200)
}
