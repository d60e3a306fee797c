//! What `whyrelay serve` runs.

use std::net::{IpAddr, Ipv6Addr};

pub mod certificates;
pub(crate) mod log;
pub mod metrics;
pub mod signaling;
pub mod turn;

/// What one client's connections are counted under: an IPv4 address or an IPv6 /64, which one client commonly has whole.
fn client_network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip => ip,
    }
}
