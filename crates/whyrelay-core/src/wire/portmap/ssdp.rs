//! Searching for devices (UPnP Device Architecture 1.1 §1.3): a request over UDP that looks like HTTP, and its answers.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::http;

/// Where searches go.
pub const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);

/// The device that maps ports; one of a later version answers to it, too (§1.3.2).
pub const GATEWAY_DEVICE: &str = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";

/// Largest datagram that is read.
const MAX_LENGTH: usize = 2048;

/// A search, to the group (answers are spread over a second) or to one host.
pub fn search(to: SocketAddrV4) -> Vec<u8> {
    let spread = if to.ip().is_multicast() { "MX: 1\r\n" } else { "" };
    format!("M-SEARCH * HTTP/1.1\r\nHOST: {to}\r\nMAN: \"ssdp:discover\"\r\n{spread}ST: {GATEWAY_DEVICE}\r\n\r\n")
        .into_bytes()
}

/// What a search is for; `None` for what is none.
pub fn decode_search(bytes: &[u8]) -> Option<String> {
    let text = http::head(bytes.get(..bytes.len().min(MAX_LENGTH))?)?;
    text.starts_with("M-SEARCH ").then(|| http::header(&text, "st").map(str::to_owned)).flatten()
}

/// An answer to a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where the device's description is.
    pub location: String,
    /// What it says that it is.
    pub target: String,
}

impl Answer {
    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        let Self { location, target } = self;
        format!(
            "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {target}\r\nEXT:\r\nSERVER: whyrelay UPnP/1.1\r\n\
             USN: uuid:00000000-0000-0000-0000-000000000000::{target}\r\nLOCATION: {location}\r\n\r\n"
        )
        .into_bytes()
    }

    /// Reads a datagram; `None` for what is none, or names no place.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let text = http::head(bytes.get(..bytes.len().min(MAX_LENGTH))?)?;
        let mut words = text.lines().next()?.split_whitespace();
        if !words.next()?.starts_with("HTTP/1.") || words.next()? != "200" {
            return None;
        }
        let target = http::header(&text, "st").unwrap_or_default().to_owned();
        Some(Self { location: http::header(&text, "location")?.to_owned(), target })
    }
}
