//! Prefixes of NAT64 translators (RFC 6052): networks of IPv6 of which each address stands for one of IPv4.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::Prefix;

/// A prefix that an operator's translator uses, of one of the lengths of RFC 6052 §2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nat64Prefix {
    prefix: Prefix,
    /// Where the four octets of the IPv4 address are.
    places: [usize; 4],
}

impl Nat64Prefix {
    /// A prefix of so many bits; `None` when no translator can have it: the length is not 32, 40, 48, 56, 64 or 96, or
    /// bits 64 to 71 of one of 96 bits are not zero (RFC 6052 §2.2).
    pub fn new(address: Ipv6Addr, length: u8) -> Option<Self> {
        // Octet 8 is left out by all (bits 64 to 71).
        let places = match length {
            32 => [4, 5, 6, 7],
            40 => [5, 6, 7, 9],
            48 => [6, 7, 9, 10],
            56 => [7, 9, 10, 11],
            64 => [9, 10, 11, 12],
            96 if address.octets()[8] == 0 => [12, 13, 14, 15],
            _ => return None,
        };
        Some(Self { prefix: Prefix::new(address.into(), length)?, places })
    }

    /// The IPv4 address that an address under this prefix stands for. Bits 64 to 71 and those behind the IPv4 address,
    /// which must be zero, are not looked at: translators differ in what they make of others.
    pub fn embedded(&self, ip: Ipv6Addr) -> Option<Ipv4Addr> {
        let octets = ip.octets();
        self.prefix.contains(IpAddr::V6(ip)).then(|| Ipv4Addr::from(self.places.map(|place| octets[place])))
    }
}

/// The text is no prefix of a NAT64.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no NAT64 prefix such as 2001:db8:64::/96, of 32, 40, 48, 56, 64 or 96 bits (RFC 6052)")]
pub struct NotANat64Prefix(String);

impl FromStr for Nat64Prefix {
    type Err = NotANat64Prefix;

    fn from_str(text: &str) -> Result<Self, NotANat64Prefix> {
        let read = || {
            let (address, length) = text.split_once('/')?;
            Self::new(address.parse().ok()?, length.parse().ok()?)
        };
        read().ok_or_else(|| NotANat64Prefix(text.to_owned()))
    }
}

impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.prefix.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of RFC 6052 §2.4.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        for (prefix, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
        ] {
            let read: Nat64Prefix = prefix.parse().unwrap();
            assert_eq!(read.to_string(), prefix);
            assert_eq!(read.embedded(address.parse().unwrap()), Some(Ipv4Addr::new(192, 0, 2, 33)), "{address}");
            assert_eq!(read.embedded("2a00::c000:221".parse().unwrap()), None, "{prefix}");
        }
    }

    #[test]
    fn what_no_translator_can_have_is_refused() {
        for text in
            ["", "2001:db8::", "2001:db8::/33", "2001:db8::/128", "10.0.0.0/32", "2001:db8:1:2:ff00::/96", "x/96"]
        {
            assert!(text.parse::<Nat64Prefix>().is_err(), "{text:?}");
        }
    }
}
