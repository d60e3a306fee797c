//! Networks, as an operator writes them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network in CIDR notation; a plain address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// A network; `None` when the length exceeds the family's (32 or 128).
    pub const fn new(address: IpAddr, length: u8) -> Option<Self> {
        let longest = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        if length <= longest { Some(Self { address, length }) } else { None }
    }

    /// Whether it is one address.
    pub const fn is_one_address(&self) -> bool {
        self.length == if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// Whether the network contains an address of its own family.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                same_bits(network.to_bits().into(), ip.to_bits().into(), self.length, 32)
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => same_bits(network.to_bits(), ip.to_bits(), self.length, 128),
            _ => false,
        }
    }
}

fn same_bits(one: u128, other: u128, length: u8, width: u8) -> bool {
    (one ^ other).checked_shr(u32::from(width - length)).unwrap_or(0) == 0
}

/// The text is no network in CIDR notation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address and no network such as 192.0.2.0/24")]
pub struct NotAPrefix(String);

impl FromStr for Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let refuse = || NotAPrefix(text.to_owned());
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let length = match length {
            Some(length) => length.parse().map_err(|_| refuse())?,
            None if address.is_ipv4() => 32,
            None => 128,
        };
        Self::new(address, length).ok_or_else(refuse)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_written_and_nonsense_is_refused() {
        for (text, shown) in
            [("10.0.0.0/8", "10.0.0.0/8"), ("10.1.2.3", "10.1.2.3/32"), ("::1", "::1/128"), ("::/0", "::/0")]
        {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), shown);
        }
        for text in ["", "/", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0/8", "10.0.0.0/8/8", "example.com"] {
            assert!(text.parse::<Prefix>().is_err(), "{text:?}");
        }
    }
}
