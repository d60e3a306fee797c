//! Pseudonyms of IP addresses.
//!
//! Within a range an address is permuted bit by bit, each bit by a hash of the bits before it: addresses keep the length
//! of the prefix that they share (the construction of Crypto-PAn), so that rules see which of them are on one network,
//! whatever the length of its prefix, and which a route or a firewall's rule covers. Public IPv4 addresses go to
//! 240.0.0.0/4, public IPv6 addresses to 3fff::/20 (RFC 9637): ranges that nobody has, so that a pseudonym is seen to be
//! one and never is a stranger's address. No bit of a public prefix survives: those of IPv6 are permuted behind the 20
//! bits that are replaced, and of IPv4, where there is no room for that, which addresses share 24 bits is all that is
//! kept in front of the last eight. The address of a prefix (`2001:db8::` of `2001:db8::/32`) is an address like any
//! other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{MAX_REMEMBERED, Redactor};
use crate::trace::address::AddressClass;

impl Redactor {
    /// The pseudonym of an address.
    pub(super) fn address(&mut self, original: IpAddr) -> IpAddr {
        if let Some(known) = self.addresses.get(&original) {
            return *known;
        }
        let pseudonym = match original {
            IpAddr::V4(ip) => IpAddr::V4(self.v4(ip)),
            IpAddr::V6(ip) => IpAddr::V6(match ip.to_ipv4_mapped() {
                Some(ip) => self.v4(ip).to_ipv6_mapped(),
                None => self.v6(ip),
            }),
        };
        if self.addresses.len() < MAX_REMEMBERED {
            self.addresses.insert(original, pseudonym);
        }
        pseudonym
    }

    fn v4(&self, ip: Ipv4Addr) -> Ipv4Addr {
        let bits = u32::from(ip);
        let range = match AddressClass::of(IpAddr::V4(ip)) {
            AddressClass::Unspecified | AddressClass::Multicast => return ip,
            AddressClass::Loopback if ip == Ipv4Addr::LOCALHOST => return ip,
            AddressClass::Loopback => 8,
            AddressClass::LinkLocal => 16,
            AddressClass::CarrierGrade => 10,
            AddressClass::Private => match ip.octets()[0] {
                10 => 8,
                172 => 12,
                _ => 16,
            },
            AddressClass::Public => {
                let network = u32::from(u16::from_be_bytes(self.two("v4 network", &ip.octets()[..3])));
                let more = u32::from(self.hash("v4 network", &ip.octets()[..3])[2] & 0x0F);
                let host = self.permute(bits, 24) & 0xFF;
                return Ipv4Addr::from(0xF000_0000 | (more << 24) | (network << 8) | host);
            }
        };
        Ipv4Addr::from(self.permute(bits, range))
    }

    fn v6(&self, ip: Ipv6Addr) -> Ipv6Addr {
        let octets = ip.octets();
        match AddressClass::of(IpAddr::V6(ip)) {
            AddressClass::Unspecified | AddressClass::Multicast | AddressClass::Loopback => ip,
            // The first ten bits name nobody. The six behind them, which are zero everywhere, are zero.
            AddressClass::LinkLocal => {
                let mut pseudonym = self.permute_v6(octets, 16);
                pseudonym[1] &= 0xC0;
                Ipv6Addr::from(pseudonym)
            }
            AddressClass::Private => Ipv6Addr::from(self.permute_v6(octets, 8)),
            _ => {
                let mut pseudonym = self.permute_v6(octets, 16);
                (pseudonym[0], pseudonym[1]) = (0x3F, 0xFF);
                pseudonym[2] &= 0x0F;
                Ipv6Addr::from(pseudonym)
            }
        }
    }

    /// Flips each bit behind the range, in bits, by a hash of the original bits before it: one hash for each byte, whose
    /// bits are a tree of the flips, as every bit in front has two ways.
    fn permute_v6(&self, original: [u8; 16], range: usize) -> [u8; 16] {
        let mut pseudonym = original;
        for position in range / 8..original.len() {
            let hash = self.hash("v6 byte", &original[..position]);
            for bit in 0..8 {
                // The nodes of a level follow those of the levels above.
                let node = (1_usize << bit) + (usize::from(original[position]) >> (8 - bit));
                let flip = hash[node / 8] >> (node % 8) & 1;
                pseudonym[position] ^= flip << (7 - bit);
            }
        }
        pseudonym
    }

    /// Flips each bit behind the range by a hash of the original bits before it.
    fn permute(&self, original: u32, range: u32) -> u32 {
        (range..32).fold(original, |pseudonym, position| {
            let before = original >> (32 - position);
            let mut input = [0; 5];
            input[..4].copy_from_slice(&before.to_be_bytes());
            input[4] = position as u8;
            let flip = u32::from(self.hash("v4 bit", &input)[0] & 1);
            pseudonym ^ (flip << (31 - position))
        })
    }

    fn two(&self, kind: &str, original: &[u8]) -> [u8; 2] {
        let hash = self.hash(kind, original);
        [hash[0], hash[1]]
    }
}
