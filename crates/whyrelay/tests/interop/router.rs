//! One server, and hosts behind Linux routers: every NAT that nftables can be.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::namespace::Namespace;

/// The server's two addresses. Not of a documentation range: servers refuse to relay there.
pub(crate) const SERVER: [Ipv4Addr; 2] = [Ipv4Addr::new(11, 0, 113, 1), Ipv4Addr::new(11, 0, 113, 2)];

/// The ports that a host's sockets get behind a NAT that has a list of them: the first, and how many (a power of two, see
/// [`rules`]).
const HOST_PORTS: (u16, u16) = (32_768, 512);

/// What a router does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    /// It routes: the host's own address is seen.
    None,
    /// `masquerade` and a closed input: what most homes have.
    Home,
    /// `masquerade`, and anyone is let in to a mapped port.
    OpenToAll,
    /// `masquerade`, and those addresses are let in that were sent to.
    OpenToKnownAddresses,
    /// A port of its own for each socket, the same for every destination.
    OtherPort,
    /// A port for each of the server's two addresses.
    PortPerAddress,
    /// A random port for each flow.
    Random,
    /// The next port for each flow.
    Sequential,
    /// [`Self::Home`] with an open input: an early packet takes the port (CAUSES.md, L1).
    OpenInput,
    /// [`Self::Home`], and no UDP gets through.
    NoUdp,
}

/// A host behind its router.
pub(crate) struct Site {
    pub(crate) host: Namespace,
    pub(crate) router: Namespace,
}

/// A server namespace with both addresses on one bridge that routers are plugged into.
pub(crate) struct Internet {
    pub(crate) server: Namespace,
    sites: u8,
}

impl Internet {
    pub(crate) fn new() -> Result<Self> {
        let server = Namespace::bare(SERVER[0])?;
        // With an address of its own: else it takes one of its ports', and another when ports come and go, and routers
        // go on sending to the old one.
        server.run(&["link", "add", "br0", "address", "02:00:00:00:00:01", "type", "bridge"])?;
        server.run(&["link", "set", "br0", "up"])?;
        for address in SERVER {
            server.run(&["address", "add", &format!("{address}/24"), "dev", "br0"])?;
        }
        Ok(Self { server, sites: 0 })
    }

    /// Plugs in another router with a host behind it.
    pub(crate) fn site(&mut self, nat: Nat) -> Result<Site> {
        // Where it only routes, the host's address is a public one, too.
        let number = self.sites + 1;
        self.site_at(nat, if nat == Nat::None { [11, 0, 200 + number] } else { [192, 168, number] })
    }

    /// The same with a network of one's choice between router (.1) and host (.2).
    pub(crate) fn site_at(&mut self, nat: Nat, [a, b, c]: [u8; 3]) -> Result<Site> {
        self.sites += 1;
        let number = self.sites;
        let outside = Ipv4Addr::new(11, 0, 113, 10 + number);
        let (gateway, address) = (Ipv4Addr::new(a, b, c, 1), Ipv4Addr::new(a, b, c, 2));
        let (router, host) = (Namespace::bare(outside)?, Namespace::bare(address)?);
        let plug = format!("plug{number}");
        self.server.run(&["link", "add", &plug, "type", "veth", "peer", "name", "wan", "netns", router.name()])?;
        self.server.run(&["link", "set", &plug, "master", "br0", "up"])?;
        router.run(&["link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", host.name()])?;
        router.run(&["address", "add", &format!("{outside}/24"), "dev", "wan"])?;
        router.run(&["address", "add", &format!("{gateway}/24"), "dev", "lan"])?;
        router.run(&["link", "set", "wan", "up"])?;
        router.run(&["link", "set", "lan", "up"])?;
        host.run(&["address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        host.run(&["link", "set", "eth0", "up"])?;
        host.run(&["route", "add", "default", "via", &gateway.to_string()])?;
        router.sysctl("net.ipv4.ip_forward=1")?;
        // Those that these have one for.
        if matches!(nat, Nat::OtherPort | Nat::PortPerAddress) {
            let last = HOST_PORTS.0 + HOST_PORTS.1 - 1;
            host.sysctl(&format!("net.ipv4.ip_local_port_range={} {last}", HOST_PORTS.0))?;
        }
        if nat == Nat::None {
            self.server.run(&["route", "add", &format!("{address}/32"), "via", &outside.to_string()])?;
        }
        router.nft(&rules(nat, outside))?;
        Ok(Site { host, router })
    }
}

impl Site {
    /// Makes the host a router itself, with NAT, and answers a host behind it.
    pub(crate) fn behind(&self) -> Result<Namespace> {
        let host = Namespace::bare(Ipv4Addr::new(192, 168, 77, 2))?;
        let router = &self.host;
        router.run(&["link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", host.name()])?;
        router.run(&["address", "add", "192.168.77.1/24", "dev", "lan"])?;
        router.run(&["link", "set", "lan", "up"])?;
        host.run(&["address", "add", "192.168.77.2/24", "dev", "eth0"])?;
        host.run(&["link", "set", "eth0", "up"])?;
        host.run(&["route", "add", "default", "via", "192.168.77.1"])?;
        router.sysctl("net.ipv4.ip_forward=1")?;
        router.nft(
            "table ip nat { chain postrouting { type nat hook postrouting priority 100; oifname eth0 masquerade; }\n}\n",
        )?;
        Ok(host)
    }
}

/// The router's rules, as docs of the laboratory have them.
fn rules(nat: Nat, outside: Ipv4Addr) -> String {
    let chain = |hook: &str, rules: &str| format!("chain {hook} {{ type nat hook {hook} {rules}; }}\n");
    let post = |rules: &str| chain("postrouting", &format!("priority 100; {rules}"));
    let masquerade = post("oifname wan masquerade");
    let to_ports = |key: &str, elements: Vec<String>| {
        let elements = elements.join(", ");
        post(&format!("oifname wan meta l4proto udp snat ip to {key} map {{ {elements} }}; oifname wan masquerade"))
    };
    // For each of the host's ports one of its own in each of so many sets, scattered: two that met in one would have a
    // packet dropped.
    let outside_port =
        |at: u16, set: u16| format!("{outside} . {}", 30_000 + set * HOST_PORTS.1 + at * 101 % HOST_PORTS.1);
    let learned = |kind: &str, inbound: &str, outbound: &str| {
        format!(
            "map m {{ type {kind} : ipv4_addr . inet_service; flags dynamic; timeout 2m; size 65535; }}\n\
             chain prerouting {{ type nat hook prerouting priority -100; \
             iifname wan meta l4proto udp dnat ip to {inbound} map @m; }}\n{masquerade}\
             chain learn {{ type filter hook postrouting priority 110; oifname wan meta l4proto udp \
             update @m {{ {outbound} : ct original ip saddr . ct original proto-src }}; }}\n"
        )
    };
    let table = match nat {
        Nat::None => String::new(),
        Nat::Home | Nat::OpenInput | Nat::NoUdp => masquerade.clone(),
        Nat::OpenToAll => learned("inet_service", "udp dport", "udp sport"),
        Nat::OpenToKnownAddresses => {
            learned("ipv4_addr . inet_service", "ip saddr . udp dport", "ip daddr . udp sport")
        }
        Nat::OtherPort => {
            let element = |at| format!("{} : {}", HOST_PORTS.0 + at, outside_port(at, 0));
            to_ports("udp sport", (0..HOST_PORTS.1).map(element).collect())
        }
        Nat::PortPerAddress => {
            let element = |at, (server, set)| format!("{} . {server} : {}", HOST_PORTS.0 + at, outside_port(at, set));
            let servers = || SERVER.into_iter().zip(0..);
            let elements = (0..HOST_PORTS.1).flat_map(|at| servers().map(move |server| (at, server)));
            to_ports("udp sport . ip daddr", elements.map(|(at, server)| element(at, server)).collect())
        }
        Nat::Random => post("oifname wan masquerade fully-random"),
        Nat::Sequential => {
            let element = |at| format!("{at} : {outside} . {}", 30_000 + at);
            to_ports("numgen inc mod 1024", (0..1024).map(element).collect())
        }
    };
    let input = match nat {
        Nat::OpenInput | Nat::None => "accept",
        _ => "drop",
    };
    let forward = if nat == Nat::NoUdp { "meta l4proto udp drop" } else { "accept" };
    format!(
        "table ip nat {{\n{table}}}\ntable ip filter {{\n\
         chain input {{ type filter hook input priority 0; policy {input}; \
         iifname lan accept; ct state established,related accept; }}\n\
         chain forward {{ type filter hook forward priority 0; {forward}; }}\n}}\n"
    )
}
