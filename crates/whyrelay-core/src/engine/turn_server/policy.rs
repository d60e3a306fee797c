//! Which peers a client may reach through the relay (SECURITY: TURN servers as open relays).
//!
//! A relay stands inside somebody's network, so every address that is not plainly on the public Internet is refused
//! unless the operator allowed it. IPv6 has many spellings of an IPv4 address; they are decoded before they are
//! judged, so that `::ffff:127.0.0.1` is loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Nat64Prefix, Prefix};

/// What the operator allows beyond the public Internet. The default allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPolicy {
    /// Allows private addresses (RFC 1918), shared ones (100.64.0.0/10) and unique local ones (fc00::/7).
    pub allow_private_peers: bool,
    /// Allows loopback addresses.
    pub allow_loopback_peers: bool,
    /// Allows every address in these networks, whatever they are, but this machine's own: one of those is allowed by a
    /// prefix of its own alone. The server's own end points stay refused.
    pub allowed: Vec<Prefix>,
    /// Refuses every address in these networks, whatever else is allowed.
    pub refused: Vec<Prefix>,
    /// Prefixes of NAT64 translators that this server's packets may come to, beside the well-known one (64:ff9b::/96):
    /// an address under one of them is refused as the IPv4 address in it is. Opens nothing.
    pub nat64: Vec<Nat64Prefix>,
    /// The addresses of this machine, under all of which its services may be reached: interfaces and, behind a 1:1
    /// NAT, the external address.
    pub own_addresses: Vec<IpAddr>,
    /// End points that no allowance opens: the server's listeners and its back ends. An unspecified address stands
    /// for every own address and loopback.
    pub own_endpoints: Vec<SocketAddr>,
}

/// Why a peer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// 0.0.0.0/8, ::.
    #[error("the address is unspecified")]
    Unspecified,
    /// 127.0.0.0/8, ::1.
    #[error("the address is loopback")]
    Loopback,
    /// 169.254.0.0/16 (cloud metadata services live there), fe80::/10, fec0::/10.
    #[error("the address is link-local")]
    LinkLocal,
    /// RFC 1918, fc00::/7, and the metadata addresses that clouds put there.
    #[error("the address is private")]
    Private,
    /// 100.64.0.0/10, carrier-grade NAT.
    #[error("the address is shared address space")]
    Shared,
    /// 224.0.0.0/4, ff00::/8.
    #[error("the address is multicast")]
    Multicast,
    /// 255.255.255.255.
    #[error("the address is broadcast")]
    Broadcast,
    /// Documentation, benchmarking, protocol assignments, 240.0.0.0/4 and other blocks that nobody on the Internet has.
    #[error("the address is reserved")]
    Reserved,
    /// An IPv4 address written as IPv6 (mapped, compatible, translated): no packet on a wire carries it.
    #[error("the address is IPv4 in IPv6 spelling")]
    EmbeddedIpv4,
    /// One of this machine's addresses, other than the relayed address of a live allocation.
    #[error("the address is this server's own")]
    Own,
    /// The operator refuses this network.
    #[error("the address is refused by configuration")]
    Configured,
}

impl Refusal {
    /// One word for it, for metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Reserved => "reserved",
            Self::EmbeddedIpv4 => "embedded-ipv4",
            Self::Own => "own",
            Self::Configured => "configured",
        }
    }
}

impl PeerPolicy {
    /// Judges a peer that is not the relayed address of a live allocation on this server.
    ///
    /// # Errors
    /// [`Refusal`], which the server answers with 403 (RFC 8656 §10.2, §12.2).
    pub fn check(&self, peer: SocketAddr) -> Result<(), Refusal> {
        let ip = peer.ip();
        let written = embedded_ipv4(ip);
        let embedded = || written.into_iter().chain(self.translated(ip));
        let spellings = || std::iter::once(ip).chain(embedded().map(|embedded| IpAddr::V4(embedded.address)));

        if spellings().any(|ip| self.refused.iter().any(|prefix| prefix.contains(ip))) {
            return Err(Refusal::Configured);
        }
        if spellings().any(|ip| self.is_own_endpoint(SocketAddr::new(ip, peer.port()))) {
            return Err(Refusal::Own);
        }
        for embedded in embedded() {
            self.check_ip(IpAddr::V4(embedded.address))?;
            embedded.teredo_server.map_or(Ok(()), |server| self.check_ip(IpAddr::V4(server)))?;
            if !embedded.routable {
                return Err(Refusal::EmbeddedIpv4);
            }
        }
        self.check_ip(ip)
    }

    fn check_ip(&self, ip: IpAddr) -> Result<(), Refusal> {
        let allowed = || self.allowed.iter().filter(|prefix| prefix.contains(ip));
        let class = match ip {
            IpAddr::V4(ip) => classify_ipv4(ip),
            IpAddr::V6(ip) => classify_ipv6(ip),
        };
        let by_flag = match class {
            Some(Refusal::Loopback) => self.allow_loopback_peers,
            Some(Refusal::Private | Refusal::Shared) => self.allow_private_peers,
            _ => false,
        };
        match class {
            _ if METADATA.contains(&ip) && !allowed().any(Prefix::is_one_address) => {
                Err(class.unwrap_or(Refusal::LinkLocal))
            }
            Some(refusal) if !by_flag && allowed().next().is_none() => Err(refusal),
            // Loopback addresses are always this machine's own: who allows them means them. Any other own address is
            // opened by name only, not by allowing the network it lies in.
            _ if class != Some(Refusal::Loopback) && self.is_own(ip) && !allowed().any(Prefix::is_one_address) => {
                Err(Refusal::Own)
            }
            _ => Ok(()),
        }
    }

    /// What an address stands for behind the operator's translators, of which one may have a prefix within another's.
    fn translated(&self, ip: IpAddr) -> impl Iterator<Item = Embedded> {
        let embedded = move |prefix: &Nat64Prefix| match ip {
            IpAddr::V6(ip) => prefix.embedded(ip),
            IpAddr::V4(_) => None,
        };
        let routable = |address| Embedded { address, routable: true, teredo_server: None };
        self.nat64.iter().filter_map(embedded).map(routable)
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.own_addresses.contains(&ip)
    }

    /// Whether a datagram from or to this address is from or to the server's own listeners or back ends.
    pub fn is_own_endpoint(&self, address: SocketAddr) -> bool {
        let own_ip = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified() || self.is_own(ip);
        self.own_endpoints.iter().any(|own| {
            own.port() == address.port()
                && (own.ip() == address.ip() || (own.ip().is_unspecified() && own_ip(address.ip())))
        })
    }
}

/// Where clouds give their machines passwords. No network that they lie in opens them, nor a flag; each must be named alone.
const METADATA: [IpAddr; 8] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xFD00, 0xEC2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xFD00, 0xEC2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xFD20, 0xCE, 0, 0, 0, 0, 0, 0x254)),
];

/// An IPv4 address inside an IPv6 one.
#[derive(Clone, Copy)]
struct Embedded {
    address: Ipv4Addr,
    /// Whether packets with the outer address can exist on the Internet.
    routable: bool,
    /// A second IPv4 address in it.
    teredo_server: Option<Ipv4Addr>,
}

fn embedded_ipv4(ip: IpAddr) -> Option<Embedded> {
    let IpAddr::V6(ip) = ip else { return None };
    let octets = ip.octets();
    let at = |offset: usize| Ipv4Addr::new(octets[offset], octets[offset + 1], octets[offset + 2], octets[offset + 3]);
    let found = |address, routable| Some(Embedded { address, routable, teredo_server: None });
    match ip.segments() {
        // :: and ::1 are IPv6's own; the rest of ::/96 is IPv4-compatible (RFC 4291 §2.5.5.1).
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, ..] => found(at(12), false),
        // IPv4-mapped (RFC 4291 §2.5.5.2) and IPv4-translated (RFC 2765 §2.1).
        [0, 0, 0, 0, 0, 0xFFFF, ..] | [0, 0, 0, 0, 0xFFFF, 0, ..] => found(at(12), false),
        // NAT64's well-known prefix (RFC 6052 §2.1).
        [0x64, 0xFF9B, 0, 0, 0, 0, ..] => found(at(12), true),
        // 6to4 (RFC 3056 §2).
        [0x2002, ..] => found(at(2), true),
        // Teredo (RFC 4380 §4): the server, then the client with its bits inverted.
        [0x2001, 0, ..] => {
            let client = Ipv4Addr::from_bits(!at(12).to_bits());
            Some(Embedded { address: client, routable: true, teredo_server: Some(at(4)) })
        }
        // ISATAP (RFC 5214 §6.1): any prefix, then 0:5efe or 200:5efe.
        [_, _, _, _, 0 | 0x0200, 0x5EFE, ..] => found(at(12), true),
        _ => None,
    }
}

/// The special-purpose blocks of IANA's IPv4 registry (RFC 6890), multicast and class E; `None` on the Internet.
fn classify_ipv4(ip: Ipv4Addr) -> Option<Refusal> {
    Some(match ip.octets() {
        [0, ..] => Refusal::Unspecified,
        [127, ..] => Refusal::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Refusal::Private,
        [100, 64..=127, ..] => Refusal::Shared,
        [169, 254, ..] => Refusal::LinkLocal,
        // Protocol assignments, documentation, 6to4 relay anycast, AS112 twice, AMT, benchmarking.
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Refusal::Reserved,
        [192, 88, 99, _] | [192, 31, 196, _] | [192, 175, 48, _] | [192, 52, 193, _] | [198, 18 | 19, ..] => {
            Refusal::Reserved
        }
        // The virtual address under which one cloud's hosts reach its metadata and DNS service.
        [168, 63, 129, 16] => Refusal::LinkLocal,
        [224..=239, ..] => Refusal::Multicast,
        [255, 255, 255, 255] => Refusal::Broadcast,
        [240..=255, ..] => Refusal::Reserved,
        _ => return None,
    })
}

/// IANA's IPv6 registry; only 2000::/3 and the NAT64 prefix are on the Internet, and not all of that.
fn classify_ipv6(ip: Ipv6Addr) -> Option<Refusal> {
    Some(match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Refusal::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Refusal::Loopback,
        [0xFE80..=0xFEFF, ..] => Refusal::LinkLocal,
        [0xFC00..=0xFDFF, ..] => Refusal::Private,
        [0xFF00..=0xFFFF, ..] => Refusal::Multicast,
        // Judged by the IPv4 address inside.
        [0x64, 0xFF9B, 0, 0, 0, 0, ..] | [0x2001, 0, ..] => return None,
        // Documentation; and the other protocol assignments of 2001::/23: benchmarking, ORCHID, AS112, AMT.
        [0x2001, 0x0DB8, ..] | [0x3FFF, 0..=0x0FFF, ..] | [0x2001, 1..=0x01FF, ..] => Refusal::Reserved,
        // AS112.
        [0x2620, 0x4F, 0x8000, ..] => Refusal::Reserved,
        [0x2000..=0x3FFF, ..] => return None,
        _ => Refusal::Reserved,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &PeerPolicy, address: &str) -> Result<(), Refusal> {
        policy.check(SocketAddr::new(address.parse().unwrap(), 5000))
    }

    /// The first and the last address of every refused block, and their neighbors that are not refused.
    #[test]
    fn security_1_special_purpose_addresses_are_refused_to_their_last_bit() {
        use Refusal::*;
        let refused = [
            ("0.0.0.0", "0.255.255.255", Unspecified),
            ("10.0.0.0", "10.255.255.255", Private),
            ("100.64.0.0", "100.127.255.255", Shared),
            ("127.0.0.0", "127.255.255.255", Loopback),
            ("169.254.0.0", "169.254.255.255", LinkLocal),
            ("169.254.169.254", "169.254.170.2", LinkLocal),
            ("172.16.0.0", "172.31.255.255", Private),
            ("192.0.0.0", "192.0.0.255", Reserved),
            ("192.0.2.0", "192.0.2.255", Reserved),
            ("192.31.196.0", "192.31.196.255", Reserved),
            ("192.52.193.0", "192.52.193.255", Reserved),
            ("192.88.99.0", "192.88.99.255", Reserved),
            ("192.168.0.0", "192.168.255.255", Private),
            ("192.175.48.0", "192.175.48.255", Reserved),
            ("198.18.0.0", "198.19.255.255", Reserved),
            ("198.51.100.0", "198.51.100.255", Reserved),
            ("203.0.113.0", "203.0.113.255", Reserved),
            ("224.0.0.0", "239.255.255.255", Multicast),
            ("240.0.0.0", "255.255.255.254", Reserved),
            ("255.255.255.255", "255.255.255.255", Broadcast),
            ("168.63.129.16", "168.63.129.16", LinkLocal),
            ("::", "::", Unspecified),
            ("::1", "::1", Loopback),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", Reserved),
            ("100::", "100::ffff:ffff:ffff:ffff", Reserved),
            ("2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved),
            ("2001:2::", "2001:2::ffff", Reserved),
            ("2001:10::", "2001:2f:ffff::", Reserved),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Reserved),
            ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", Reserved),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved),
            ("4000::", "fbff:ffff::", Reserved),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Private),
            ("fd00:ec2::254", "fd00:ec2::254", Private),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", LinkLocal),
            ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", LinkLocal),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Multicast),
            ("ff02::1", "ff0e::1", Multicast),
        ];
        let policy = PeerPolicy::default();
        for (first, last, why) in refused {
            assert_eq!(check(&policy, first), Err(why), "{first}");
            assert_eq!(check(&policy, last), Err(why), "{last}");
        }
        let allowed = [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.31.195.255",
            "192.31.197.0",
            "192.52.192.255",
            "192.52.194.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "192.175.47.255",
            "192.175.49.0",
            "198.17.255.255",
            "198.20.0.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "8.8.8.8",
            "2000::",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2620:4f:7fff:ffff::",
            "2620:4f:8001::",
            "3ffe:ffff::",
            "3fff:1000::",
        ];
        for address in allowed {
            assert_eq!(check(&policy, address), Ok(()), "{address}");
        }
    }

    /// Every way to write one IPv4 address as IPv6.
    fn spellings(ip: Ipv4Addr) -> Vec<Ipv6Addr> {
        let [a, b, c, d] = ip.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        vec![
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xFFFF, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0xFFFF, 0, high, low),
            Ipv6Addr::new(0x64, 0xFF9B, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0, 0x0808, 0x0808, 0, 0x1234, !high, !low),
            Ipv6Addr::new(0x2001, 0, high, low, 0, 0x1234, !0x0808, !0x0808),
            Ipv6Addr::new(0x2A00, 1, 2, 3, 0, 0x5EFE, high, low),
            Ipv6Addr::new(0x2A00, 1, 2, 3, 0x0200, 0x5EFE, high, low),
        ]
    }

    #[test]
    fn security_1_ipv4_in_ipv6_is_decoded_before_it_is_judged() {
        let policy = PeerPolicy::default();
        for inside in [
            "127.0.0.1",
            "127.8.8.8",
            "10.1.2.3",
            "100.64.0.1",
            "169.254.169.254",
            "192.168.1.1",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            for ip in spellings(inside.parse().unwrap()) {
                assert!(policy.check(SocketAddr::new(ip.into(), 80)).is_err(), "{inside} as {ip}");
            }
        }
        for mapped in ["::ffff:0.0.0.0", "::ffff:0:0.0.0.0", "64:ff9b::", "2002::1"] {
            assert_eq!(check(&policy, mapped), Err(Refusal::Unspecified), "{mapped}");
        }
        // A public address inside: what can be routed is allowed, what cannot is not.
        let verdicts =
            spellings("8.8.4.4".parse().unwrap()).into_iter().map(|ip| policy.check(SocketAddr::new(ip.into(), 80)));
        let (refused, allowed): (Vec<_>, Vec<_>) = verdicts.partition(|verdict| verdict.is_err());
        assert_eq!(refused, [Err(Refusal::EmbeddedIpv4); 3]);
        assert_eq!(allowed.len(), 6);
    }

    #[test]
    fn security_1_ipv4_behind_an_operators_nat64_is_judged_as_ipv4() {
        let prefixes = ["2a00:64::/32", "2a00:65::/40", "2a00:66::/48", "2a00:67::/56", "2a00:68::/64", "2a00:69::/96"];
        let at_host = |inside: &str, prefix: &str| {
            let [a, b, c, d] = inside.parse::<Ipv4Addr>().unwrap().octets();
            let (address, length) = prefix.split_once('/').unwrap();
            let mut octets = address.parse::<Ipv6Addr>().unwrap().octets();
            let mut at = length.parse::<usize>().unwrap() / 8;
            for octet in [a, b, c, d] {
                // RFC 6052 §2.2: bits 64 to 71 are zero.
                at += usize::from(at == 8);
                octets[at] = octet;
                at += 1;
            }
            Ipv6Addr::from(octets).to_string()
        };
        let blind = PeerPolicy::default();
        let policy = PeerPolicy {
            nat64: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            own_addresses: vec!["9.9.9.9".parse().unwrap()],
            own_endpoints: vec!["8.8.8.8:5000".parse().unwrap()],
            refused: vec!["7.7.7.0/24".parse().unwrap()],
            ..blind.clone()
        };
        let allowing = PeerPolicy { allowed: vec!["::/0".parse().unwrap()], ..policy.clone() };
        for prefix in prefixes {
            for (inside, why) in [
                ("127.0.0.1", Refusal::Loopback),
                ("10.1.2.3", Refusal::Private),
                ("100.64.0.1", Refusal::Shared),
                ("169.254.169.254", Refusal::LinkLocal),
                ("255.255.255.255", Refusal::Broadcast),
                ("9.9.9.9", Refusal::Own),
                ("8.8.8.8", Refusal::Own),
                ("7.7.7.7", Refusal::Configured),
            ] {
                let translated = at_host(inside, prefix);
                assert_eq!(check(&blind, &translated), Ok(()), "{translated}, of which nothing is known");
                assert_eq!(check(&policy, &translated), Err(why), "{inside} as {translated}");
                assert_eq!(check(&allowing, &translated), Err(why), "{translated}, with all of IPv6 allowed");
            }
            assert_eq!(check(&policy, &at_host("8.8.4.4", prefix)), Ok(()), "{prefix}");
        }
        assert_eq!(check(&policy, "2a00:70::10.1.2.3"), Ok(()), "another network");
        // The prefix for local use (RFC 8215) stays refused whole; who allows it has what is inside judged.
        let local = PeerPolicy { nat64: vec!["64:ff9b:1:fffe::/96".parse().unwrap()], ..blind };
        assert_eq!(check(&local, "64:ff9b:1:fffe::8.8.4.4"), Err(Refusal::Reserved));
        let opened = PeerPolicy { allowed: vec!["64:ff9b:1::/48".parse().unwrap()], ..local };
        assert_eq!(check(&opened, "64:ff9b:1:fffe::8.8.4.4"), Ok(()));
        assert_eq!(check(&opened, "64:ff9b:1:fffe::10.1.2.3"), Err(Refusal::Private));
    }

    #[test]
    fn security_1_allowing_loopback_opens_loopback_only() {
        let policy = PeerPolicy { allow_loopback_peers: true, ..PeerPolicy::default() };
        assert_eq!(check(&policy, "127.0.0.1"), Ok(()));
        assert_eq!(check(&policy, "::1"), Ok(()));
        for still in
            ["10.0.0.1", "100.64.0.1", "fd00::1", "169.254.169.254", "0.0.0.0", "::", "::ffff:127.0.0.1", "::127.0.0.1"]
        {
            assert!(check(&policy, still).is_err(), "{still}");
        }
    }

    #[test]
    fn security_1_allowing_private_peers_opens_neither_loopback_nor_link_local_nor_own_addresses() {
        let own = "192.168.1.5".parse().unwrap();
        let policy = PeerPolicy { allow_private_peers: true, own_addresses: vec![own], ..PeerPolicy::default() };
        for opened in ["10.0.0.1", "172.16.0.1", "192.168.1.6", "100.64.0.1", "fd00::1"] {
            assert_eq!(check(&policy, opened), Ok(()), "{opened}");
        }
        for still in
            ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "224.0.0.1", "192.168.1.5", "::ffff:192.168.1.5"]
        {
            assert!(check(&policy, still).is_err(), "{still}");
        }
    }

    #[test]
    fn security_1_metadata_addresses_of_clouds_are_opened_by_their_own_names_only() {
        let networks = ["169.254.0.0/16", "100.64.0.0/10", "0.0.0.0/0", "fd00::/8", "::/0"];
        let networks: Vec<Prefix> = networks.iter().map(|text| text.parse().unwrap()).collect();
        for ip in METADATA {
            let text = ip.to_string();
            let private = PeerPolicy { allow_private_peers: true, ..PeerPolicy::default() };
            assert!(check(&private, &text).is_err(), "{ip} by --allow-private-peers");
            let wide = PeerPolicy { allowed: networks.clone(), ..private };
            assert!(check(&wide, &text).is_err(), "{ip} by its network");
            let named = PeerPolicy { allowed: vec![text.parse().unwrap()], ..PeerPolicy::default() };
            assert_eq!(check(&named, &text), Ok(()), "{ip} by itself");
            let IpAddr::V4(ip) = ip else { continue };
            for spelling in spellings(ip) {
                assert!(check(&wide, &spelling.to_string()).is_err(), "{ip} as {spelling}");
            }
        }
    }

    #[test]
    fn security_1_listed_networks_are_allowed_and_no_others() {
        let allowed = ["203.0.113.0/25", "2001:db8:1::/48", "127.0.0.2"].map(|text| text.parse().unwrap()).to_vec();
        let policy = PeerPolicy { allowed, ..PeerPolicy::default() };
        for opened in ["203.0.113.0", "203.0.113.127", "2001:db8:1:ffff::1", "127.0.0.2"] {
            assert_eq!(check(&policy, opened), Ok(()), "{opened}");
        }
        for still in ["203.0.113.128", "2001:db8:2::1", "127.0.0.1", "127.0.0.3"] {
            assert!(check(&policy, still).is_err(), "{still}");
        }
    }

    #[test]
    fn refused_networks_are_refused_in_every_spelling_and_whatever_is_allowed() {
        let everything = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let refused = vec!["8.8.8.8/32".parse().unwrap()];
        let policy = PeerPolicy { allowed: everything, refused, ..PeerPolicy::default() };
        assert_eq!(check(&policy, "8.8.8.8"), Err(Refusal::Configured));
        for ip in spellings("8.8.8.8".parse().unwrap()).into_iter().filter(|ip| ip.segments()[..2] != [0x2001, 0]) {
            assert_eq!(check(&policy, &ip.to_string()), Err(Refusal::Configured), "{ip}");
        }
        assert_eq!(check(&policy, "127.0.0.1"), Ok(()));
    }

    #[test]
    fn security_1_own_listeners_and_back_ends_are_refused_whatever_is_allowed() {
        let everything = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let policy = PeerPolicy {
            allow_loopback_peers: true,
            allowed: everything.into_iter().chain(["9.9.9.10".parse().unwrap()]).collect(),
            own_addresses: ["9.9.9.9", "9.9.9.10"].map(|ip| ip.parse().unwrap()).to_vec(),
            own_endpoints: vec!["0.0.0.0:3478".parse().unwrap(), "127.0.0.1:6379".parse().unwrap()],
            ..PeerPolicy::default()
        };
        for own in [
            "9.9.9.9:3478",
            "127.0.0.1:3478",
            "127.3.2.1:3478",
            "[::1]:3478",
            "0.0.0.0:3478",
            "127.0.0.1:6379",
            "9.9.9.9:3479",
            "[64:ff9b::909:909]:3479",
            "9.9.9.10:3478",
            "[::ffff:9.9.9.9]:3478",
            "[64:ff9b::909:909]:3478",
            "[::ffff:127.0.0.1]:6379",
        ] {
            assert_eq!(policy.check(own.parse().unwrap()), Err(Refusal::Own), "{own}");
        }
        for other in ["9.9.9.10:3479", "9.9.9.8:3478", "127.0.0.1:6380", "127.0.0.2:6379"] {
            assert_eq!(policy.check(other.parse().unwrap()), Ok(()), "{other}");
        }
    }
}
