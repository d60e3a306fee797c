//! The kernel's decision where a packet goes, against what LINUX.md §2 saw of it.

use std::net::IpAddr;

use whyrelay_core::host::{
    Address, Family, PolicyRule, Prefix, Route, RouteAnswer, RouteKind, RoutePurpose, RouteQuestion, RuleAction,
    look_up, look_up_from,
};

const PEER: &str = "203.0.113.34";
const SERVER: &str = "198.51.100.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap_or((text, "32"));
    Prefix { address: ip(address), length: length.parse().unwrap_or(32) }
}

fn rule(priority: u32, table: u32) -> PolicyRule {
    PolicyRule::lookup(Family::V4, priority, table)
}

fn route(table: u32, to: &str, device: &str, gateway: Option<&str>) -> Route {
    Route {
        table,
        destination: prefix(to),
        route_kind: RouteKind::Unicast,
        device: Some(device.to_owned()),
        gateway: gateway.map(ip),
        preferred_source: None,
        metric: None,
        mtu: None,
        other_hops: Vec::new(),
        next_hop_object: None,
    }
}

fn refusing(table: u32, to: &str, route_kind: RouteKind) -> Route {
    Route { route_kind, device: None, ..route(table, to, "", None) }
}

struct Host {
    rules: Vec<PolicyRule>,
    routes: Vec<Route>,
    addresses: Vec<Address>,
}

impl Host {
    fn new(rules: Vec<PolicyRule>, routes: Vec<Route>) -> Self {
        let mut all = vec![rule(0, 255), rule(32_766, 254), rule(32_767, 253)];
        all.extend(rules);
        let mut main = vec![
            route(254, "0.0.0.0/0", "eth0", Some("192.168.1.1")),
            route(254, "192.168.1.0/24", "eth0", None),
            route(254, "10.66.0.0/24", "wg0", None),
        ];
        main.extend(routes);
        let address = |device: &str, address: &str| Address {
            device: device.to_owned(),
            address: ip(address),
            prefix_length: 24,
            scope: "global".to_owned(),
            flags: Vec::new(),
        };
        Self { rules: all, routes: main, addresses: vec![address("eth0", "192.168.1.2"), address("wg0", "10.66.0.2")] }
    }

    fn ask(&self, to: &str, change: impl FnOnce(&mut RouteQuestion)) -> RouteAnswer {
        let mut question = question(to);
        change(&mut question);
        look_up(&self.rules, &self.routes, &self.addresses, &question)
    }
}

fn question(to: &str) -> RouteQuestion {
    RouteQuestion {
        purpose: RoutePurpose::Peer,
        destination: ip(to),
        destination_port: 40_000,
        source: None,
        source_port: Some(51_820),
        protocol: 17,
        mark: 0,
        user: 0,
        out_device: None,
        probe: false,
    }
}

fn via_tunnel() -> Route {
    route(200, "0.0.0.0/0", "wg0", None)
}

#[test]
fn a_rule_by_destination_diverts_the_peer_and_not_the_server() {
    let host =
        Host::new(vec![PolicyRule { to: Some(prefix("203.0.113.0/26")), ..rule(1000, 200) }], vec![via_tunnel()]);
    let peer = host.ask(PEER, |_| {});
    assert_eq!((peer.device(), peer.rule), (Some("wg0"), Some(1000)));
    assert_eq!(peer.route.and_then(|route| route.preferred_source), Some(ip("10.66.0.2")));
    let server = host.ask(SERVER, |_| {});
    assert_eq!((server.device(), server.rule), (Some("eth0"), Some(32_766)));
    assert_eq!(server.route.and_then(|route| route.preferred_source), Some(ip("192.168.1.2")));
}

#[test]
fn each_selector_decides_alone() {
    type Change = fn(&mut RouteQuestion);
    let base = || rule(1000, 200);
    let table: [(PolicyRule, Change, bool); 12] = [
        (PolicyRule { source_ports: Some((51_820, 51_820)), protocol: Some(17), ..base() }, |_| {}, true),
        // A raw socket carries no ports in its question.
        (PolicyRule { source_ports: Some((51_820, 51_820)), ..base() }, |q| q.source_port = None, false),
        (PolicyRule { protocol: Some(6), ..base() }, |_| {}, false),
        (PolicyRule { users: Some((0, 0)), ..base() }, |_| {}, true),
        (PolicyRule { users: Some((0, 0)), ..base() }, |q| q.user = 1000, false),
        (PolicyRule { mark: Some(0x1bd00), ..base() }, |q| q.mark = 0x1bd00, true),
        (PolicyRule { mark: Some(0x10000), mask: Some(0x10000), ..base() }, |q| q.mark = 0x1bd00, true),
        (PolicyRule { mark: Some(0x1bd00), invert: true, ..base() }, |_| {}, true),
        (PolicyRule { mark: Some(0x1bd00), invert: true, ..base() }, |q| q.mark = 0x1bd00, false),
        (PolicyRule { from: Some(prefix("192.168.1.2")), ..base() }, |_| {}, false),
        (PolicyRule { from: Some(prefix("192.168.1.2")), ..base() }, |q| q.source = Some(ip("192.168.1.2")), true),
        (PolicyRule { in_device: Some("eth0".to_owned()), ..base() }, |_| {}, false),
    ];
    for (rule, change, diverted) in table {
        let host = Host::new(vec![rule.clone()], vec![via_tunnel()]);
        let answer = host.ask(PEER, change);
        assert_eq!(answer.device(), Some(if diverted { "wg0" } else { "eth0" }), "{rule:?}");
    }
}

#[test]
fn refusals_have_their_errno() {
    for (kind, errno) in [(RouteKind::Blackhole, 22), (RouteKind::Unreachable, 113), (RouteKind::Prohibit, 13)] {
        let host = Host::new(Vec::new(), vec![refusing(254, PEER, kind)]);
        assert_eq!(host.ask(PEER, |_| {}).failure.map(|failure| failure.errno), Some(errno));
        assert_eq!(host.ask(SERVER, |_| {}).device(), Some("eth0"));
    }
    for (action, errno) in [(RuleAction::Blackhole, 22), (RuleAction::Unreachable, 101), (RuleAction::Prohibit, 13)] {
        let host = Host::new(vec![PolicyRule { rule_action: action, table: None, ..rule(1000, 0) }], Vec::new());
        let answer = host.ask(PEER, |_| {});
        assert_eq!((answer.failure.map(|failure| failure.errno), answer.rule), (Some(errno), Some(1000)));
    }
    let mut host = Host::new(Vec::new(), Vec::new());
    host.routes.retain(|route| route.destination.length > 0);
    assert_eq!(host.ask(PEER, |_| {}).failure.map(|failure| failure.errno), Some(101));
}

#[test]
fn throw_and_a_suppressed_prefix_go_on_to_the_next_rule() {
    let host = Host::new(vec![rule(1000, 200)], vec![refusing(200, PEER, RouteKind::Throw), via_tunnel()]);
    assert_eq!(host.ask(PEER, |_| {}).device(), Some("eth0"));
    assert_eq!(host.ask(SERVER, |_| {}).device(), Some("wg0"));
    // wg-quick: main without its default, then everything unmarked into the tunnel.
    let rules = vec![
        PolicyRule { suppress_prefix_length: Some(0), ..rule(32_764, 254) },
        PolicyRule { mark: Some(0xca6c), invert: true, ..rule(32_765, 200) },
    ];
    let host = Host::new(rules, vec![via_tunnel()]);
    assert_eq!(host.ask(PEER, |_| {}).device(), Some("wg0"));
    assert_eq!(host.ask("192.168.1.9", |_| {}).device(), Some("eth0"));
    assert_eq!(host.ask(PEER, |q| q.mark = 0xca6c).device(), Some("eth0"));
}

#[test]
fn a_device_bound_socket_leaves_by_its_device_even_where_the_route_is_a_blackhole() {
    let host = Host::new(vec![PolicyRule { to: Some(prefix(PEER)), ..rule(1000, 200) }], vec![via_tunnel()]);
    assert_eq!(host.ask(PEER, |q| q.out_device = Some("eth0".to_owned())).device(), Some("eth0"));
    let host = Host::new(Vec::new(), vec![refusing(254, PEER, RouteKind::Blackhole)]);
    let bound = host.ask(PEER, |q| q.out_device = Some("eth0".to_owned()));
    assert_eq!(bound.device(), Some("eth0"));
    assert_eq!(bound.route.and_then(|route| route.gateway), None, "on the link");
}

#[test]
fn metrics_decide_between_equals_and_longer_prefixes_before_them() {
    let mut worse = route(254, "0.0.0.0/0", "wg0", None);
    worse.metric = Some(50);
    let mut host = Host::new(Vec::new(), vec![worse]);
    assert_eq!(host.ask(PEER, |_| {}).device(), Some("eth0"));
    host.routes[0].metric = Some(100);
    assert_eq!(host.ask(PEER, |_| {}).device(), Some("wg0"));
    // The two halves of everything, as VPNs take the default route.
    let halves = vec![route(254, "0.0.0.0/1", "wg0", None), route(254, "128.0.0.0/1", "wg0", None)];
    assert_eq!(Host::new(Vec::new(), halves).ask(PEER, |_| {}).device(), Some("wg0"));
}

#[test]
fn the_way_back_is_asked_without_the_mark_as_rp_filter_does() {
    let rules = vec![PolicyRule { mark: Some(0x1bd00), invert: true, ..rule(110, 200) }];
    let host = Host::new(rules, vec![via_tunnel()]);
    let back = look_up_from(&host.rules, &host.routes, &host.addresses, &question(PEER), "eth0");
    assert_eq!(back.device(), Some("wg0"), "so what arrives by eth0 fails the strict filter");
}

#[test]
fn a_circle_of_rules_ends() {
    let goto = |priority, to| PolicyRule { rule_action: RuleAction::Goto, goto: Some(to), ..rule(priority, 0) };
    let host = Host::new(vec![goto(10, 20), goto(20, 10)], Vec::new());
    assert_eq!(host.ask(PEER, |_| {}).device(), Some("eth0"));
}
