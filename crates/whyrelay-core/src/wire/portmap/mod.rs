//! How a host asks its router to map a port: NAT-PMP, PCP, and UPnP's Internet Gateway Device with what it is made of
//! (SSDP, HTTP, XML, SOAP). Codecs for both ends, because the laboratory's routers speak them, too.
//!
//! Routers write all of this badly, and anyone on the local network can answer a search: everything is read leniently,
//! bounded in size, and an address is never taken from it ([`igd::Target::of`] is the one exception, and it takes the
//! gateway's own only).

pub mod http;
pub mod igd;
pub mod nat_pmp;
pub mod pcp;
pub mod ssdp;
#[cfg(test)]
mod tests;
mod xml;

/// Where a router listens for NAT-PMP and PCP (RFC 6886 §3, RFC 6887 §19.1).
pub const PORT: u16 = 5351;

/// Text of a stranger for an event: printable, and not long.
pub fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect::<String>().trim().to_owned()
}
