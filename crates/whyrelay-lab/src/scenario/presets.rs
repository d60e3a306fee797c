//! Routers by the names of places and equipment, in the terms of RFC 4787.

use std::time::Duration;

use serde::Serialize;
use whyrelay_core::nat::behavior::{
    FilteringBehavior as Filtering, Hairpinning, MappingBehavior as Mapping, Pooling, PortAllocation, Refresh,
    Unsolicited,
};

use super::file::{Ipv6, Link, Router, Translate};
use super::value::{Cidr, Span, Span32};

/// A preset: a router and what it stands for.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name in scenario files.
    pub name: &'static str,
    /// What it stands for.
    pub about: &'static str,
    make: fn() -> Router,
}

impl Preset {
    /// The router.
    pub fn router(&self) -> Router {
        (self.make)()
    }

    /// What it is in the words of RFC 4787, in the order of [`TERMS`]. A dash: there is no such thing without a NAT.
    pub fn terms(&self) -> [String; TERMS.len()] {
        let router = self.router();
        let translate = router.translate.unwrap_or(Translate::Nat);
        let is_nat = translate == Translate::Nat;
        let of_nat = |word: String| if is_nat { word } else { "-".to_owned() };
        let mapping = match translate {
            Translate::Nat => word(&router.mapping),
            Translate::OneToOne => "one-to-one".to_owned(),
            Translate::Nothing => "none".to_owned(),
        };
        let ports = match router.ports {
            Some(PortAllocation::Contiguous { block }) => format!("contiguous, {block} each"),
            ports => word(&ports),
        };
        let shared = if router.overloading == Some(true) { ", overloading" } else { "" };
        let pooling = match router.addresses {
            Some(1) | None => "one address".to_owned(),
            Some(count) => format!("{} of {count}", word(&router.pooling)),
        };
        let forgets = is_nat || router.filtering != Some(Filtering::EndpointIndependent);
        let lifetime = router.lifetime.filter(|_| forgets).map_or_else(|| "-".to_owned(), |span| span.to_string());
        let mut beside: Vec<String> = Vec::new();
        let list = |ports: &[Span32]| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if router.block_udp == Some(true) {
            beside.push("no UDP out".to_owned());
        }
        beside.extend(router.allow_udp.iter().map(|ports| format!("UDP out to {} only", list(ports))));
        beside.extend(router.allow_tcp.iter().map(|ports| format!("TCP out to {} only", list(ports))));
        beside.extend(router.stateless_inbound.iter().map(|ports| format!("UDP in to {} only", list(ports))));
        if router.isolated == Some(true) {
            beside.push("clients apart".to_owned());
        }
        if router.alg.is_some() {
            beside.push("rewrites payloads".to_owned());
        }
        beside.extend(router.ipv6.map(|ipv6| format!("IPv6 {}", word(&ipv6))));
        [
            mapping,
            word(&router.filtering),
            of_nat(format!("{ports}{shared}")),
            of_nat(pooling),
            lifetime,
            of_nat(word(&router.refresh)),
            of_nat(word(&router.hairpinning)),
            of_nat(word(&router.unsolicited)),
            beside.join("; "),
        ]
    }
}

/// What RFC 4787 says of a NAT: §4.1, §5, §4.2, §4.1 again, §4.3 twice, §6; what Linux adds, and what is no part of it.
pub const TERMS: [&str; 9] = [
    "mapping",
    "filtering",
    "port allocation",
    "pooling",
    "lifetime",
    "refresh",
    "hairpinning",
    "unsolicited inbound",
    "beside",
];

/// A term as scenario files spell it.
fn word(term: &impl Serialize) -> String {
    serde_json::to_value(term).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The preset of a name.
pub(super) fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// All of them.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "plain",
        about: "nothing but an endpoint-independent NAT that filters by address and port",
        make: home,
    },
    Preset {
        name: "home-router",
        about: "a home router: ports preserved, what nobody asked for dropped, IPv6 behind a stateful firewall",
        make: home,
    },
    Preset {
        name: "home-router-hairpin",
        about: "a home router that lets hosts inside reach each other by its outside address",
        make: || Router { hairpinning: Some(Hairpinning::ExternalSource), ..home() },
    },
    Preset {
        name: "home-router-open",
        about: "a home router that lets everybody in at a mapped port (\"full cone\", gaming mode)",
        make: || Router { filtering: Some(Filtering::EndpointIndependent), overloading: Some(false), ..home() },
    },
    Preset {
        name: "home-router-address-restricted",
        about: "a home router that lets in whom the host has sent to, from any port",
        make: || Router { filtering: Some(Filtering::AddressDependent), overloading: Some(false), ..home() },
    },
    Preset {
        name: "linux-input-accept",
        about: "a Linux router that accepts input from outside: an early packet takes the port (experiment L1)",
        make: || Router { unsolicited: Some(Unsolicited::Tracked), ..home() },
    },
    Preset {
        name: "pfsense",
        about: "outbound NAT with a random port for every destination, as pfSense and OPNsense come",
        make: || symmetric(PortAllocation::Random),
    },
    Preset {
        name: "symmetric-sequential",
        about: "a port for every destination, one after the other",
        make: || symmetric(PortAllocation::Sequential),
    },
    Preset {
        name: "address-dependent",
        about: "a port for every destination address",
        make: || Router { mapping: Some(Mapping::AddressDependent), ..symmetric(PortAllocation::Random) },
    },
    Preset {
        name: "mobile-carrier",
        about: "a carrier's NAT as RFC 6888 asks: endpoint-independent, paired addresses, a block of ports for each customer",
        make: || Router {
            ports: Some(PortAllocation::Contiguous { block: 512 }),
            overloading: Some(false),
            addresses: Some(4),
            hairpinning: Some(Hairpinning::ExternalSource),
            lifetime: Some(Span(Duration::from_secs(300))),
            link: delay(15),
            ..home()
        },
    },
    Preset {
        name: "mobile-carrier-symmetric",
        about: "a carrier's NAT with a port for every destination",
        make: || Router { ipv6: Some(Ipv6::None), link: delay(15), ..symmetric(PortAllocation::Random) },
    },
    Preset {
        name: "arbitrary-pooling",
        about: "a NAT with several addresses that gives every mapping any of them",
        make: || Router { addresses: Some(4), pooling: Some(Pooling::Arbitrary), ..symmetric(PortAllocation::Random) },
    },
    Preset {
        name: "corporate",
        about: "an office: a port for every destination, no IPv6",
        make: || Router { ipv6: Some(Ipv6::None), ..symmetric(PortAllocation::Random) },
    },
    Preset {
        name: "corporate-no-udp",
        about: "an office that lets TCP out and no UDP",
        make: || Router { block_udp: Some(true), ipv6: Some(Ipv6::None), ..home() },
    },
    Preset {
        name: "corporate-web-only",
        about: "an office that lets TCP out to 443 and 3478, and no UDP",
        make: || Router {
            block_udp: Some(true),
            allow_tcp: Some(vec![Span32(443..=443), Span32(3478..=3478)]),
            ipv6: Some(Ipv6::None),
            ..home()
        },
    },
    Preset {
        name: "corporate-stun-only",
        about: "an office that lets UDP out to the STUN port only",
        make: || Router { allow_udp: Some(vec![Span32(3478..=3478)]), ipv6: Some(Ipv6::None), ..home() },
    },
    Preset {
        name: "hotel",
        about: "a hotel or guest network: its clients do not reach each other",
        make: || Router { isolated: Some(true), ipv6: Some(Ipv6::None), ..home() },
    },
    Preset {
        name: "cloud",
        about: "a cloud's 1:1 address with an open security group",
        make: || Router {
            translate: Some(Translate::OneToOne),
            filtering: Some(Filtering::EndpointIndependent),
            ..home()
        },
    },
    Preset {
        name: "cloud-security-group",
        about: "a cloud's 1:1 address behind a stateful security group",
        make: || Router { translate: Some(Translate::OneToOne), ..home() },
    },
    Preset {
        name: "stateless-firewall",
        about: "public addresses behind a stateless filter: UDP comes in to 51820 only, replies included",
        make: || Router {
            translate: Some(Translate::Nothing),
            filtering: Some(Filtering::EndpointIndependent),
            stateless_inbound: Some(vec![Span32(51_820..=51_820)]),
            ..home()
        },
    },
    Preset {
        name: "stateful-firewall",
        about: "public addresses behind a stateful firewall",
        make: || Router { translate: Some(Translate::Nothing), ..home() },
    },
    Preset {
        name: "router",
        about: "public addresses, nothing filtered",
        make: || Router {
            translate: Some(Translate::Nothing),
            filtering: Some(Filtering::EndpointIndependent),
            ipv6: Some(Ipv6::Open),
            ..home()
        },
    },
    Preset {
        name: "kubernetes-node",
        about: "a pod behind its node's masquerade with --random-fully",
        make: || Router {
            inside: network([10, 244, 1, 0], 24),
            ipv6: Some(Ipv6::None),
            link: micros(50),
            ..symmetric(PortAllocation::Random)
        },
    },
    Preset {
        name: "docker-bridge",
        about: "a container behind its host's masquerade",
        make: || Router { inside: network([172, 17, 0, 0], 16), ipv6: Some(Ipv6::None), link: micros(50), ..home() },
    },
    Preset {
        name: "vpn-exit",
        about: "a commercial VPN's exit: a port for every destination, no IPv6",
        make: || Router { ipv6: Some(Ipv6::None), link: delay(10), ..symmetric(PortAllocation::Random) },
    },
    Preset {
        name: "satellite",
        about: "a home router with a satellite link",
        make: || Router { link: delay(280), ..home() },
    },
    Preset {
        name: "forgetful",
        about: "a home router that forgets a mapping after 3 s",
        make: || Router { lifetime: Some(Span(Duration::from_secs(3))), ..home() },
    },
    Preset {
        name: "sip-alg",
        about: "a home router that rewrites what it takes for addresses in UDP",
        make: || Router { alg: Some(super::file::Alg::Addresses), ..home() },
    },
];

/// What every preset starts from.
fn home() -> Router {
    Router {
        translate: Some(Translate::Nat),
        mapping: Some(Mapping::EndpointIndependent),
        filtering: Some(Filtering::AddressAndPortDependent),
        ports: Some(PortAllocation::Preserving),
        overloading: Some(true),
        addresses: Some(1),
        pooling: Some(Pooling::Paired),
        lifetime: Some(Span(Duration::from_secs(120))),
        refresh: Some(Refresh::Both),
        hairpinning: Some(Hairpinning::Unsupported),
        unsolicited: Some(Unsolicited::Dropped),
        ipv6: Some(Ipv6::Stateful),
        block_udp: Some(false),
        isolated: Some(false),
        port_mapping: Some(Vec::new()),
        icmp: Some(true),
        link: delay(1),
        ..Router::default()
    }
}

fn symmetric(ports: PortAllocation) -> Router {
    Router { mapping: Some(Mapping::AddressAndPortDependent), ports: Some(ports), overloading: Some(false), ..home() }
}

fn delay(milliseconds: u64) -> Link {
    Link { delay: Some(Span(Duration::from_millis(milliseconds))), ..Link::default() }
}

fn micros(microseconds: u64) -> Link {
    Link { delay: Some(Span(Duration::from_micros(microseconds))), ..Link::default() }
}

fn network(address: [u8; 4], prefix: u8) -> Option<Cidr> {
    Some(Cidr { address: address.into(), prefix })
}
