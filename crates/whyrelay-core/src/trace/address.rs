//! What an address says about where it can be reached from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The reach of an IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressClass {
    /// `0.0.0.0`, `::`.
    Unspecified,
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// RFC 1918 and unique local addresses (fc00::/7): reachable inside of one site.
    Private,
    /// 100.64.0.0/10 (RFC 6598): between a customer's NAT and the provider's.
    CarrierGrade,
    /// Multicast and broadcast.
    Multicast,
    /// Anything else: meant to be reachable from everywhere. Pseudonyms of public addresses count as public.
    Public,
}

impl AddressClass {
    /// The class of an address; an IPv4 address mapped into IPv6 has the class of the IPv4 address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => Self::of_v4(ip),
                None => Self::of_v6(ip),
            },
        }
    }

    const fn of_v4(ip: Ipv4Addr) -> Self {
        let [a, b, ..] = ip.octets();
        if ip.is_unspecified() {
            Self::Unspecified
        } else if ip.is_loopback() {
            Self::Loopback
        } else if ip.is_link_local() {
            Self::LinkLocal
        } else if ip.is_private() {
            Self::Private
        } else if a == 100 && b & 0xC0 == 64 {
            Self::CarrierGrade
        } else if ip.is_multicast() || ip.is_broadcast() {
            Self::Multicast
        } else {
            Self::Public
        }
    }

    const fn of_v6(ip: Ipv6Addr) -> Self {
        if ip.is_unspecified() {
            Self::Unspecified
        } else if ip.is_loopback() {
            Self::Loopback
        } else if ip.segments()[0] & 0xFFC0 == 0xFE80 {
            Self::LinkLocal
        } else if ip.segments()[0] & 0xFE00 == 0xFC00 {
            Self::Private
        } else if ip.is_multicast() {
            Self::Multicast
        } else {
            Self::Public
        }
    }
}

/// The address without IPv6 scope and flow label, which mean something on one host only.
pub fn bare(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

/// Whether two addresses are likely to be on one link: same /24 (IPv4) or same /64 (IPv6).
///
/// These two are what most links have, and pseudonyms keep them; the side that has one of the addresses may have told the
/// real length of its prefix ([`crate::diagnosis::evidence::Known::is_near`]).
pub fn same_subnet(one: IpAddr, two: IpAddr) -> bool {
    match (one, two) {
        (IpAddr::V4(one), IpAddr::V4(two)) => one.octets()[..3] == two.octets()[..3],
        (IpAddr::V6(one), IpAddr::V6(two)) => one.octets()[..8] == two.octets()[..8],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_range_has_its_class() {
        for (ip, class) in [
            ("0.0.0.0", AddressClass::Unspecified),
            ("127.9.8.7", AddressClass::Loopback),
            ("169.254.1.1", AddressClass::LinkLocal),
            ("10.1.2.3", AddressClass::Private),
            ("172.31.255.1", AddressClass::Private),
            ("172.32.0.1", AddressClass::Public),
            ("192.168.0.1", AddressClass::Private),
            ("100.64.0.1", AddressClass::CarrierGrade),
            ("100.127.255.255", AddressClass::CarrierGrade),
            ("100.128.0.1", AddressClass::Public),
            ("224.0.0.1", AddressClass::Multicast),
            ("255.255.255.255", AddressClass::Multicast),
            ("203.0.113.7", AddressClass::Public),
            ("240.1.2.3", AddressClass::Public),
            ("::", AddressClass::Unspecified),
            ("::1", AddressClass::Loopback),
            ("fe80::1", AddressClass::LinkLocal),
            ("fd12::1", AddressClass::Private),
            ("ff02::1", AddressClass::Multicast),
            ("2001:db8::1", AddressClass::Public),
            ("3fff:1::1", AddressClass::Public),
            ("::ffff:10.0.0.1", AddressClass::Private),
        ] {
            assert_eq!(AddressClass::of(ip.parse().unwrap()), class, "{ip}");
        }
    }
}
