//! What a topology needs of each namespace.

use std::net::IpAddr;
use std::time::Duration;

use whyrelay_core::engine::port_mapping::router::RouterConfig;
use whyrelay_core::nat::behavior::{Behavior, MappingBehavior, Unsolicited};
use whyrelay_core::nat::table::Table;
use whyrelay_core::random::Random;

use crate::port_mapping;
use crate::scenario::file::{InterfaceKind, Ipv6};
use crate::scenario::topology::{Host, INTERNET, Link, Router, Topology, Translation};
use crate::scenario::value::Cidr;
use crate::world;

use super::error::LabError;
use super::nft::{LAN, WAN};
use super::router::{Fragments, INSIDE, OUTSIDE, Translator};
use super::{host, nft, wire};

/// The server's name.
pub const SERVER: &str = "server";
/// The name of the Internet's own router.
pub const INTERNET_ROUTER: &str = "internet";

/// Which routers translate where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterChoice {
    /// By nftables where the scenario describes Linux (`overloading`) or a plain filter, else in user space.
    #[default]
    AsDescribed,
    /// By nftables wherever it can.
    Kernel,
    /// In user space wherever something is translated.
    UserSpace,
}

/// Bridges, and what leads from each to the interfaces of its segment.
pub(super) struct Fabric {
    /// Lines for `ip -batch`.
    pub(super) ip: Vec<String>,
    /// Cables of ours, in the order in which they draw their seeds.
    pub(super) cables: Vec<Cable>,
}

/// A cable of ours.
#[derive(Debug)]
pub(super) struct Cable {
    /// The namespace of the interface.
    pub(super) namespace: String,
    /// The interface.
    pub(super) name: String,
    /// Its other end, at the bridge.
    pub(super) plug: String,
    /// What it does to packets that leave the interface, and to those that come to it.
    pub(super) links: [world::Link; 2],
}

/// All that is to be made.
#[derive(Debug)]
pub struct Plan {
    /// The scenario's name.
    pub scenario: String,
    /// What its links lose, they lose by this seed and by the packets that come.
    pub(super) seed: u64,
    /// How many segments there are; each becomes a bridge.
    pub(super) segments: usize,
    /// Each becomes a namespace.
    pub(super) nodes: Vec<Node>,
}

/// One namespace.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) ports: Vec<Port>,
    /// Bridges of its own.
    pub(super) bridges: Vec<String>,
    /// Tunnels that lead nowhere.
    pub(super) sinks: Vec<String>,
    /// Lines for `ip -batch`.
    pub(super) ip: Vec<String>,
    /// Lines for `ip -6 -batch`.
    pub(super) ip6: Vec<String>,
    pub(super) sysctls: Vec<(String, i64)>,
    pub(super) nft: String,
    /// Its table of tracked connections has no place left.
    pub(super) conntrack_full: bool,
    pub(super) translator: Option<Translator>,
    /// What maps ports as hosts inside ask.
    pub(super) mapping: Option<RouterConfig>,
}

/// One interface that is plugged into a segment, or into nothing.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) segment: Option<usize>,
    pub(super) link: Link,
    /// So much later is what leaves by it, beside what its link does both ways.
    pub(super) late: Duration,
    pub(super) isolated: bool,
    /// A VPN's device: programs must see that it is no wire.
    pub(super) tunnel: bool,
    /// Its device computes no checksums, so that what leaves has those that the kernel wrote.
    pub(super) no_offload: bool,
}

impl Port {
    /// Whether a cable of ours leads there: for its link's faults, because a tunnel must look like one, or because the device
    /// must leave checksums alone, which the ends of a veth pair do not.
    fn is_cable(&self) -> bool {
        self.segment.is_some() && (self.tunnel || self.no_offload || wire::is_needed(&self.leaving()))
    }

    /// What becomes of packets that leave by it.
    fn leaving(&self) -> Link {
        Link { delay: self.link.delay + self.late, ..self.link }
    }
}

impl Node {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ports: Vec::new(),
            bridges: Vec::new(),
            sinks: Vec::new(),
            ip: vec!["link set lo up".to_owned()],
            ip6: Vec::new(),
            sysctls: Vec::new(),
            nft: String::new(),
            conntrack_full: false,
            translator: None,
            mapping: None,
        }
    }

    /// Puts up an interface with its addresses.
    pub(super) fn up(&mut self, interface: &str, addresses: &[Cidr]) {
        self.ip.push(format!("link set {interface} up"));
        for cidr in addresses {
            let nodad = if cidr.address.is_ipv6() { " nodad" } else { "" };
            self.ip.push(format!("address add {cidr} dev {interface}{nodad}"));
        }
    }

    fn forwards(&mut self) {
        for name in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.accept_local"] {
            self.sysctls.push((name.to_owned(), 1));
        }
        for name in ["net.ipv4.conf.all.send_redirects", "net.ipv4.conf.default.send_redirects"] {
            self.sysctls.push((name.to_owned(), 0));
        }
    }
}

impl Plan {
    /// What a topology needs.
    ///
    /// # Errors
    /// When it says something that namespaces cannot do.
    pub fn of(topology: &Topology, choice: RouterChoice) -> Result<Self, LabError> {
        if let Some(what) = port_mapping::without_ports(topology) {
            return Err(LabError::Unsupported(what));
        }
        let mut nodes = vec![internet(topology), server(topology)];
        for router in &topology.routers {
            nodes.push(router_node(topology, router, choice)?);
        }
        nodes.extend(topology.hosts.iter().map(|host| host::node(topology, host)));
        Ok(Self { scenario: topology.name.clone(), seed: topology.seed, segments: topology.segments.len(), nodes })
    }
}

impl Plan {
    /// The routers that translate in user space; the others translate by nftables.
    pub fn in_user_space(&self) -> Vec<&str> {
        self.nodes.iter().filter(|node| node.translator.is_some()).map(|node| &*node.name).collect()
    }

    /// What a lab is built from, one line each: commands for `ip` and `nft`, kernel parameters, what cables do to packets. The
    /// tables of user-space routers, and what maps ports there, are told by their configuration.
    pub fn steps(&self) -> Vec<String> {
        let Fabric { ip, cables } = self.fabric("lab");
        let mut steps: Vec<String> = ip.iter().map(|line| format!("ip {line}")).collect();
        steps.extend(cables.iter().map(|cable| format!("seed {}: {cable:?}", self.seed)));
        for node in &self.nodes {
            let Node { name, ports: _, bridges, sinks, ip, ip6, sysctls, nft, conntrack_full, translator, mapping } =
                node;
            steps.extend(ip.iter().map(|line| format!("{name}: ip {line}")));
            steps.extend(ip6.iter().map(|line| format!("{name}: ip -6 {line}")));
            steps.extend(nft.lines().map(|line| format!("{name}: nft {line}")));
            steps.push(format!("{name}: bridges {bridges:?}, tunnels {sinks:?}, parameters {sysctls:?}"));
            if *conntrack_full {
                steps.push(format!("{name}: the table of connections is filled"));
            }
            steps.push(format!("{name}: translates {translator:?}, maps ports {mapping:?}"));
        }
        steps
    }

    /// What is between the namespaces of a lab with this id.
    pub(super) fn fabric(&self, id: &str) -> Fabric {
        let mut ip = vec!["link set lo up".to_owned()];
        for segment in 0..self.segments {
            ip.push(format!("link add br{segment} type bridge stp_state 0 mcast_snooping 0"));
            ip.push(format!("link set br{segment} up"));
        }
        let mut cables = Vec::new();
        let mut number = 0;
        for node in &self.nodes {
            let namespace = format!("{id}-{}", node.name);
            for port in &node.ports {
                number += 1;
                let plug = format!("p{number}");
                if port.is_cable() {
                    let links = [(&port.leaving()).into(), (&port.link).into()];
                    let (namespace, name) = (namespace.clone(), port.name.clone());
                    cables.push(Cable { namespace, name, plug: plug.clone(), links });
                } else {
                    ip.push(format!("link add {plug} type veth peer name {} netns {namespace}", port.name));
                }
                if let Some(segment) = port.segment {
                    ip.push(format!("link set {plug} master br{segment}"));
                    if port.isolated {
                        ip.push(format!("link set {plug} type bridge_slave isolated on"));
                    }
                }
                ip.push(format!("link set {plug} up"));
            }
            for index in 0..node.bridges.len() {
                number += 1;
                // A container's end, so that the bridge has a carrier.
                let end = container_end(index);
                ip.push(format!("link add p{number} type veth peer name {end} netns {namespace}"));
                ip.push(format!("link set p{number} up"));
            }
        }
        Fabric { ip, cables }
    }

    /// Whether it has routers or cables of ours, which are TUN and TAP devices.
    pub(super) fn needs_tun(&self) -> bool {
        self.nodes.iter().any(|node| node.translator.is_some() || node.ports.iter().any(Port::is_cable))
    }
}

/// What is plugged into a host's bridge of a number. No interface of a scenario has a plus in its name, and each such name
/// is short.
pub(super) fn container_end(bridge: usize) -> String {
    format!("+c{bridge}")
}

/// A link without any fault.
const fn plain_link() -> Link {
    Link {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0,
        burst: None,
        reordering: 0,
        duplication: 0,
        rate: None,
        mtu: None,
    }
}

/// The router of the Internet: between the server's network and that of the peers, and toward what is not translated.
fn internet(topology: &Topology) -> Node {
    let mut node = Node::new(INTERNET_ROUTER);
    let segment = &topology.segments[INTERNET];
    node.ports.push(Port {
        name: "eth0".to_owned(),
        segment: Some(INTERNET),
        link: plain_link(),
        late: Duration::ZERO,
        isolated: false,
        tunnel: false,
        no_offload: false,
    });
    let mut addresses = Vec::new();
    for network in segment.ipv4.iter().chain(&segment.ipv6) {
        let own = segment.gateways.iter().find(|gateway| network.contains(**gateway));
        addresses.push(Cidr { address: own.copied().unwrap_or_else(|| server_gateway(*network)), ..*network });
    }
    node.up("eth0", &addresses);
    node.forwards();
    routes_inward(topology, &mut node, INTERNET, "eth0");
    // Nobody on the Internet answers for private addresses.
    node.ip.push("route add blackhole 0.0.0.0/0".to_owned());
    node.ip.push("route add blackhole ::/0".to_owned());
    node
}

/// The Internet's router on the server's network, which no segment names: the last address but one of its first 255.
fn server_gateway(network: Cidr) -> IpAddr {
    match network.address {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + 254).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + 254).into()),
    }
}

fn server(topology: &Topology) -> Node {
    let mut node = Node::new(SERVER);
    let server = &topology.server;
    node.ports.push(Port {
        name: "eth0".to_owned(),
        segment: Some(INTERNET),
        link: server.link,
        // Signaling goes beside the network: all that is late there is STUN and TURN.
        late: server.faults.answers_after.0,
        isolated: false,
        tunnel: false,
        no_offload: false,
    });
    if let Some(mtu) = server.link.mtu {
        node.ip.push(format!("link set eth0 mtu {mtu}"));
    }
    node.up("eth0", &server.addresses);
    let segment = &topology.segments[INTERNET];
    for (networks, default) in [(&segment.ipv4, "0.0.0.0/0"), (&segment.ipv6, "::/0")] {
        let own = networks.iter().find(|network| server.addresses.iter().any(|own| network.contains(own.address)));
        if let Some(network) = own {
            node.ip.push(format!("route add {default} via {} dev eth0", server_gateway(*network)));
        }
    }
    node
}

/// Routes from a segment to the networks behind its routers that are not translated.
fn routes_inward(topology: &Topology, node: &mut Node, at: usize, device: &str) {
    for (index, segment) in topology.segments.iter().enumerate().filter(|(index, _)| *index != at) {
        // The router next to `at` on the way to that segment, if there is a way.
        let way = topology.way_out(index);
        let Some(last) = way.iter().position(|router| router.outside == at) else { continue };
        let (way, next) = (&way[..=last], way[last]);
        let untranslated = way.iter().all(|router| matches!(router.translation, Translation::Nothing { .. }));
        let routed6 = way.iter().all(|router| !matches!(router.ipv6, Ipv6::None | Ipv6::NoRoute));
        let networks = segment.ipv4.iter().filter(|_| untranslated).chain(segment.ipv6.iter().filter(|_| routed6));
        for network in networks {
            let is_ipv4 = network.address.is_ipv4();
            let via = next.outside_addresses.iter().find(|cidr| cidr.address.is_ipv4() == is_ipv4);
            if let Some(via) = via {
                node.ip.push(format!("route add {network} via {} dev {device}", via.address));
            }
        }
    }
}

fn router_node(topology: &Topology, router: &Router, choice: RouterChoice) -> Result<Node, LabError> {
    let translates = matches!(router.translation, Translation::Nat(_));
    if !translates && router.alg.is_some() {
        return Err(LabError::Unsupported(format!(
            "the application-layer gateway of {}, which is no NAT",
            router.name
        )));
    }
    let mut node = Node::new(&router.name);
    let inside = &topology.segments[router.inside];
    let port = |name: &str, segment, link| Port {
        name: name.to_owned(),
        segment: Some(segment),
        link,
        late: Duration::ZERO,
        isolated: false,
        tunnel: false,
        no_offload: false,
    };
    node.ports.push(port(LAN, router.inside, plain_link()));
    // The MTU is the router's to enforce, and to tell of.
    node.ports.push(port(WAN, router.outside, Link { mtu: None, ..router.link }));
    node.up(LAN, &router.inside_addresses);
    node.up(WAN, &router.outside_addresses);
    node.forwards();
    if !translates {
        // A provider drops what comes from addresses that are not its customer's (RFC 2827), as in virtual time.
        node.sysctls.push((format!("net.ipv4.conf.{LAN}.rp_filter"), 1));
    }
    // Whoever is plugged in by a tunnel routes into it without a gateway.
    let tunnels = |host: &Host| {
        let mut interfaces = host.interfaces.iter();
        interfaces.any(|own| own.kind == InterfaceKind::Tunnel && own.segment == Some(router.inside))
    };
    if topology.hosts.iter().any(tunnels) {
        node.sysctls.push((format!("net.ipv4.conf.{LAN}.proxy_arp"), 1));
        node.sysctls.push((format!("net.ipv4.neigh.{LAN}.proxy_delay"), 0));
    }
    let locked = router.link.mtu.map(|mtu| format!(" mtu lock {mtu}")).unwrap_or_default();
    let is_routed = |gateway: &&IpAddr| gateway.is_ipv4() || !matches!(router.ipv6, Ipv6::None | Ipv6::NoRoute);
    for gateway in topology.segments[router.outside].gateways.iter().filter(is_routed) {
        let default = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        node.ip.push(format!("route add {default} via {gateway} dev {WAN}{locked}"));
    }
    if router.link.mtu.is_some() {
        for network in inside.ipv4.iter().chain(&inside.ipv6) {
            node.ip.push(format!("route replace {network} dev {LAN}{locked}"));
        }
        for own in &router.outside_addresses {
            node.ip.push(format!("route replace {} dev {WAN}{locked}", own.network()));
        }
    }
    routes_inward(topology, &mut node, router.inside, LAN);
    if by_kernel(topology, router, choice) {
        node.nft = nft::translating(router);
        if let Translation::OneToOne { pairs, .. } = &router.translation {
            node.ip.extend(pairs.iter().map(|(_, outside)| format!("address add {outside}/32 dev {WAN}")));
        }
        let seconds = router.translation.lifetime().as_secs() as i64;
        for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            node.sysctls.push((format!("net.netfilter.{name}"), seconds));
        }
    } else {
        node.nft = nft::filtering(router);
        user_space(topology, router, &mut node);
    }
    Ok(node)
}

fn by_kernel(topology: &Topology, router: &Router, choice: RouterChoice) -> bool {
    // Linux overloads ports, which takes two hosts to be seen.
    let shares = |behavior: &Behavior| behavior.overloading || inside_of(topology, router).nth(1).is_none();
    let is_linux = !matches!(&router.translation, Translation::Nat(behavior) if !shares(behavior));
    let possible = is_linux && nft::cannot(router).is_none();
    match (choice, &router.translation) {
        // Nothing to translate, and the kernel filters as it is asked to.
        (_, Translation::Nothing { .. }) => possible,
        (RouterChoice::Kernel, _) | (RouterChoice::AsDescribed, Translation::OneToOne { .. }) => possible,
        (RouterChoice::AsDescribed, Translation::Nat(behavior)) => behavior.overloading && possible,
        (RouterChoice::UserSpace, _) => false,
    }
}

/// Routes what is to be translated through the user-space router.
fn user_space(topology: &Topology, router: &Router, node: &mut Node) {
    let behavior = match &router.translation {
        Translation::Nat(behavior) => behavior.clone(),
        Translation::OneToOne { filtering, lifetime, .. } | Translation::Nothing { filtering, lifetime } => {
            let plain = Behavior::new(MappingBehavior::EndpointIndependent, *filtering);
            Behavior { lifetime: *lifetime, ..plain }
        }
    };
    let pairs: Vec<(IpAddr, IpAddr)> = match &router.translation {
        Translation::Nat(_) => Vec::new(),
        Translation::OneToOne { pairs, .. } => pairs.clone(),
        Translation::Nothing { .. } => inside_of(topology, router).map(|address| (address, address)).collect(),
    };
    let external: Vec<IpAddr> = if pairs.is_empty() { router.external().collect() } else { Vec::new() };
    let mut random = Random::from_number(topology.seed ^ (router.inside as u64) << 32);
    let mut table = |behavior: Behavior| {
        let mut table = Table::new(behavior, external.clone(), random.fork());
        for (inside, outside) in &pairs {
            table = table.with_one_to_one(*inside, *outside);
        }
        for (outside, inside) in &router.forwards {
            table = table.with_forward(*outside, *inside);
        }
        table
    };
    // Connections live longer than any session in a lab (RFC 5382 REQ-5).
    let connections = Behavior { lifetime: Duration::from_secs(7440), ..behavior.clone() };
    let echoes = Behavior { lifetime: Duration::from_secs(60), ..behavior.clone() };
    let accepts_input = behavior.unsolicited == Unsolicited::Tracked;
    let (udp, tcp, echo) = (table(behavior), table(connections), table(echoes));
    let fragments = Fragments::default();
    node.translator = Some(Translator { udp, tcp, echo, alg: router.alg, accepts_input, fragments });
    node.mapping = port_mapping::config(router);

    let mut to: Vec<IpAddr> =
        if pairs.is_empty() { external } else { pairs.iter().map(|(_, outside)| *outside).collect() };
    // A forward is at the router's own address, also where each host has another.
    to.extend(router.forwards.iter().map(|(outside, _)| outside.ip()));
    to.sort_unstable();
    to.dedup();
    let mtu = router.link.mtu.map(|mtu| format!(" mtu lock {mtu}")).unwrap_or_default();
    for device in [INSIDE, OUTSIDE] {
        node.ip.push(format!("link set {device} up"));
        node.ip.push(format!("link set {device} txqueuelen 5000"));
    }
    node.ip.push(format!("route add 0.0.0.0/0 dev {INSIDE} table 101{mtu}"));
    node.ip.push(format!("route add 0.0.0.0/0 dev {OUTSIDE} table 102{mtu}"));
    // Its own addresses inside stay its own; what else comes from there is translated, what comes for a translated
    // address, too. The table of local addresses is asked after that.
    for own in router.inside_addresses.iter().filter(|cidr| cidr.address.is_ipv4()) {
        node.ip.push(format!("rule add from all iif {LAN} to {}/32 priority 5 lookup local", own.address));
    }
    for address in &to {
        node.ip.push(format!("rule add from all iif {WAN} to {address}/32 priority 10 lookup 102"));
        if !matches!(router.translation, Translation::Nothing { .. }) {
            node.ip.push(format!("neighbor add proxy {address} dev {WAN}"));
        }
    }
    node.ip.push(format!("rule add from all iif {LAN} priority 11 lookup 101"));
    // Else the kernel answers for what it answers by proxy up to 0.8 s late.
    node.sysctls.push((format!("net.ipv4.neigh.{WAN}.proxy_delay"), 0));
    node.ip.push("rule add from all priority 100 lookup local".to_owned());
    node.ip.push("rule del from all priority 0 lookup local".to_owned());
}

/// The IPv4 addresses on a router's inside: hosts and routers.
fn inside_of<'a>(topology: &'a Topology, router: &Router) -> impl Iterator<Item = IpAddr> + use<'a> {
    let segment = router.inside;
    let interfaces = topology.hosts.iter().flat_map(|host| &host.interfaces);
    let hosts = interfaces.filter(move |interface| interface.segment == Some(segment));
    let hosts = hosts.flat_map(|interface| interface.addresses.iter().map(|cidr| cidr.address));
    let inner = topology.routers.iter().filter(move |inner| inner.outside == segment).flat_map(Router::external);
    hosts.chain(inner).filter(IpAddr::is_ipv4)
}
