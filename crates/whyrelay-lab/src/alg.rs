//! Application-layer gateways, for both worlds.

use std::net::IpAddr;

use crate::scenario::file::Alg;

/// What an application-layer gateway makes of a payload: every copy of one IPv4 address becomes another.
pub(crate) fn rewrite(bytes: &mut [u8], alg: Alg, from: IpAddr, to: IpAddr) {
    /// STUN's magic cookie (RFC 8489 §5), with which XOR-MAPPED-ADDRESS hides addresses.
    const COOKIE: u32 = 0x2112_A442;
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { return };
    let forms: &[u32] = match alg {
        Alg::Addresses => &[0],
        Alg::Stun => &[0, COOKIE],
    };
    for form in forms {
        let (from, to) = ((u32::from(from) ^ form).to_be_bytes(), (u32::from(to) ^ form).to_be_bytes());
        let mut at = 0;
        while let Some(window) = bytes.get_mut(at..at + 4) {
            if window == from {
                window.copy_from_slice(&to);
            }
            at += 1;
        }
    }
}
