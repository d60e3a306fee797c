//! Giving out segments and addresses.
//!
//! The Internet is 203.0.113.0/24 and 2001:db8:1::/64 for peers and routers, a block for each side, and
//! 198.51.100.0/24 and 2001:db8:ffff::/64 for the server. The networks inside follow in the order in which they are
//! made: 192.168.10.0/24, 192.168.11.0/24 … for homes, 100.64.0.0/24 … between two routers, 10.20.0.0/24 … in clouds,
//! and parts of 192.0.2.0/24 where nothing is translated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use whyrelay_core::nat::behavior::{Behavior, FilteringBehavior, MappingBehavior};

use super::error::Wrong;
use super::file::{self, Ipv6, Translate};
use super::resolve::{egress, link};
use super::topology::{INTERNET, Router, Segment, Translation};
use super::value::Cidr;

/// Where each side's block on the Internet begins: a, b, everybody else.
const BLOCKS: [u32; 3] = [10, 110, 200];

/// How many addresses that makes, for who runs out of them.
pub(super) const ON_THE_INTERNET: &str =
    "on the Internet a scenario has 100 addresses for a, 90 for b and 55 for everybody else, routers included";

/// Each has a network of its own unless the scenario says one.
pub(super) const MOST_ROUTERS: usize = 200;

/// Networks that are no hosts', or that are the Internet's and the server's here.
const NOT_INSIDE: [Cidr; 5] = [
    network([0, 0, 0, 0], 8),
    network([127, 0, 0, 0], 8),
    network([224, 0, 0, 0], 3),
    network([203, 0, 113, 0], 24),
    network([198, 51, 100, 0], 24),
];

/// Segments, routers and what has been given out.
pub(super) struct Layout {
    pub(super) segments: Vec<Segment>,
    pub(super) routers: Vec<Router>,
    /// The next host number on each segment.
    next: Vec<u32>,
    /// The next numbers on the Internet, for each side.
    public: [u32; 3],
    untranslated: u8,
}

impl Layout {
    pub(super) fn new() -> Self {
        let v6 = |group: u16| Cidr { address: Ipv6Addr::new(0x2001, 0xDB8, group, 0, 0, 0, 0, 0).into(), prefix: 64 };
        let internet = Segment {
            name: "internet".to_owned(),
            ipv4: vec![network([203, 0, 113, 0], 24), network([198, 51, 100, 0], 24)],
            ipv6: vec![v6(1), v6(0xFFFF)],
            gateways: vec![[203, 0, 113, 1].into(), Ipv6Addr::new(0x2001, 0xDB8, 1, 0, 0, 0, 0, 1).into()],
            isolated: false,
        };
        Self { segments: vec![internet], routers: Vec::new(), next: vec![2], public: BLOCKS, untranslated: 0 }
    }

    /// The segment inside a router.
    pub(super) fn inside_of(&self, router: &str) -> Option<usize> {
        self.routers.iter().find(|known| known.name == router).map(|router| router.inside)
    }

    pub(super) fn server_addresses(&self, second: bool, ipv6: bool) -> Vec<Cidr> {
        let mut addresses = vec![network([198, 51, 100, 1], 24)];
        if second {
            addresses.push(network([198, 51, 100, 2], 24));
        }
        if ipv6 {
            let address = Ipv6Addr::new(0x2001, 0xDB8, 0xFFFF, 0, 0, 0, 0, 1).into();
            addresses.push(Cidr { address, prefix: 64 });
        }
        addresses
    }

    /// Addresses for one interface on a segment.
    pub(super) fn addresses(&mut self, segment: usize, side: usize, ipv4: bool, ipv6: bool) -> Vec<Cidr> {
        let mut addresses = Vec::new();
        if ipv4 {
            let inside = self.take(segment, side);
            // Routers that translate nothing leave it to the one behind them.
            let router_of = |segment| self.routers.iter().position(|router| router.inside == segment);
            let mut router = router_of(segment);
            while let Some(plain) =
                router.filter(|router| matches!(self.routers[*router].translation, Translation::Nothing { .. }))
            {
                router = router_of(self.routers[plain].outside);
            }
            let one_to_one =
                router.filter(|router| matches!(self.routers[*router].translation, Translation::OneToOne { .. }));
            if let Some(router) = one_to_one {
                let outside = self.addresses(self.routers[router].outside, side, true, false);
                let Some(outside) = outside.first().map(|cidr| cidr.address) else { return Vec::new() };
                if let Translation::OneToOne { pairs, .. } = &mut self.routers[router].translation {
                    pairs.push((inside.address, outside));
                }
            }
            addresses.push(inside);
        }
        if ipv6 {
            addresses.extend(self.take_ipv6(segment, side));
        }
        addresses
    }

    /// The gateways of a segment with a metric.
    pub(super) fn gateways(&self, segment: usize, ipv4: bool, ipv6: bool, metric: u32) -> Vec<(IpAddr, u32)> {
        let wanted = |gateway: &&IpAddr| if gateway.is_ipv4() { ipv4 } else { ipv6 };
        let routed = |gateway: &&IpAddr| {
            let router = self.routers.iter().find(|router| router.inside == segment);
            gateway.is_ipv4() || router.is_none_or(|router| router.ipv6 != Ipv6::NoRoute)
        };
        let gateways = self.segments[segment].gateways.iter().filter(wanted).filter(routed);
        gateways.map(|gateway| (*gateway, metric)).collect()
    }

    /// Makes a router and its inside; answers the segment inside.
    pub(super) fn add_router(
        &mut self,
        name: &str,
        spec: &file::Router,
        outside: usize,
        side: usize,
        carries: bool,
    ) -> Result<usize, Wrong> {
        let key = format!("router.{name}");
        if self.routers.len() >= MOST_ROUTERS {
            return Err(too_many_routers(&key));
        }
        let number = self.routers.len() as u8;
        let translate = spec.translate.unwrap_or(Translate::Nat);
        let ipv4 = match (spec.inside, translate) {
            (Some(inside), _) if !inside.address.is_ipv4() || !(8..=29).contains(&inside.prefix) => {
                let hint = "write an IPv4 network with a prefix of 8 to 29 bits";
                return Err(Wrong::new(format!("{key}.inside"), format!("{inside} does not do"), hint));
            }
            (Some(inside), _) if NOT_INSIDE.iter().any(|other| overlap(*other, inside)) => {
                let hint = "take one that hosts can have and that is not the Internet's or the server's here, \
                            as 192.168.1.0/24";
                return Err(Wrong::new(format!("{key}.inside"), format!("{inside} does not do"), hint));
            }
            (Some(inside), _) if inside != inside.network() => {
                let hint = format!("write the network: {}", inside.network());
                return Err(Wrong::new(format!("{key}.inside"), format!("{inside} is an address in one"), hint));
            }
            (Some(inside), _) => inside,
            (None, Translate::Nothing) if self.untranslated >= 8 => {
                let problem = "there are public networks for eight routers that do not translate";
                return Err(Wrong::new(key, problem, "say `inside`"));
            }
            (None, Translate::Nothing) => {
                self.untranslated += 1;
                network([192, 0, 2, (self.untranslated - 1) * 32], 27)
            }
            (None, Translate::OneToOne) => network([10, 20, number, 0], 24),
            (None, Translate::Nat) if carries => network([100, 64, number, 0], 24),
            (None, Translate::Nat) => network([192, 168, 10_u8.saturating_add(number), 0], 24),
        };
        let ipv6 = spec.ipv6.unwrap_or(Ipv6::Stateful);
        let prefix = Ipv6Addr::new(0x2001, 0xDB8, 0x100 + u16::from(number), 0, 0, 0, 0, 0).into();
        let prefix = (ipv6 != Ipv6::None && !self.segments[outside].ipv6.is_empty())
            .then_some(Cidr { address: prefix, prefix: 64 });

        let segment = self.segments.len();
        let own = std::iter::once(plus(ipv4, 1)).chain(prefix.map(|prefix| plus(prefix, 1)));
        let inside_addresses: Vec<Cidr> = own.collect();
        self.segments.push(Segment {
            name: name.to_owned(),
            ipv4: vec![ipv4],
            ipv6: prefix.into_iter().collect(),
            gateways: inside_addresses.iter().map(|cidr| cidr.address).collect(),
            isolated: spec.isolated == Some(true),
        });
        self.next.push(2);

        let count = if translate == Translate::Nat { spec.addresses.unwrap_or(1) } else { 1 };
        let mut outside_addresses: Vec<Cidr> = Vec::new();
        for _ in 0..count {
            outside_addresses.extend(self.addresses(outside, side, true, false));
        }
        if prefix.is_some() {
            outside_addresses.extend(self.take_ipv6(outside, side));
        }
        let behavior = behavior(spec);
        let (filtering, lifetime) = (behavior.filtering, behavior.lifetime);
        let translation = match translate {
            Translate::Nat => Translation::Nat(behavior),
            Translate::OneToOne => Translation::OneToOne { filtering, lifetime, pairs: Vec::new() },
            Translate::Nothing => Translation::Nothing { filtering, lifetime },
        };
        self.routers.push(Router {
            name: name.to_owned(),
            inside: segment,
            outside,
            inside_addresses,
            outside_addresses,
            translation,
            ipv6,
            egress: egress(spec),
            rejects: (spec.reject == Some(true)).then(|| spec.reject_with.unwrap_or_default()),
            stateless_inbound: spec.stateless_inbound.clone(),
            forwards: Vec::new(),
            port_mapping: spec.port_mapping.clone().unwrap_or_default(),
            alg: spec.alg,
            icmp: spec.icmp.unwrap_or(true),
            link: link(&format!("{key}.link"), &spec.link, Duration::from_millis(1))?,
        });
        Ok(segment)
    }

    fn take(&mut self, segment: usize, side: usize) -> Cidr {
        if segment == INTERNET {
            let number = self.public[side];
            self.public[side] += 1;
            return plus(network([203, 0, 113, 0], 24), number);
        }
        let number = self.next[segment];
        self.next[segment] += 1;
        plus(self.segments[segment].ipv4[0], number)
    }

    fn take_ipv6(&mut self, segment: usize, side: usize) -> Option<Cidr> {
        let prefix = *self.segments[segment].ipv6.first()?;
        let number = self.next[segment] + if segment == INTERNET { 0x1000 * (side as u32 + 1) } else { 0x100 };
        self.next[segment] += 1;
        Some(plus(prefix, number))
    }
}

pub(super) fn too_many_routers(key: &str) -> Wrong {
    Wrong::new(key, format!("the scenario has more than {MOST_ROUTERS} routers"), "leave some out")
}

fn behavior(spec: &file::Router) -> Behavior {
    let mapping = spec.mapping.unwrap_or(MappingBehavior::EndpointIndependent);
    let filtering = spec.filtering.unwrap_or(FilteringBehavior::AddressAndPortDependent);
    let usual = Behavior::new(mapping, filtering);
    Behavior {
        mapping,
        filtering,
        ports: spec.ports.unwrap_or(usual.ports),
        overloading: spec.overloading.unwrap_or(usual.overloading),
        pooling: spec.pooling.unwrap_or(usual.pooling),
        lifetime: spec.lifetime.map_or(usual.lifetime, |span| span.0),
        refresh: spec.refresh.unwrap_or(usual.refresh),
        hairpinning: spec.hairpinning.unwrap_or(usual.hairpinning),
        unsolicited: spec.unsolicited.unwrap_or(usual.unsolicited),
    }
}

const fn network([a, b, c, d]: [u8; 4], prefix: u8) -> Cidr {
    Cidr { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
}

fn overlap(one: Cidr, other: Cidr) -> bool {
    one.contains(other.address) || other.contains(one.address)
}

/// The address so many after a network's first, with its prefix.
fn plus(network: Cidr, number: u32) -> Cidr {
    let address = match network.address {
        IpAddr::V4(first) => IpAddr::V4(u32::from(first).wrapping_add(number).into()),
        IpAddr::V6(first) => IpAddr::V6(u128::from(first).wrapping_add(u128::from(number)).into()),
    };
    Cidr { address, ..network }
}
