//! Captures: the recorded datagrams as pcapng (draft-ietf-opsawg-pcapng), for Wireshark.
//!
//! The door sees no IP or transport headers, so these are made up around what it saw: addresses, ports, times,
//! directions and lengths are the recorded ones. Streams get one TCP segment a message with sequence numbers that fit
//! together. What stood inside of TLS is shown as exported PDUs on an interface named `tls`: as TCP segments Wireshark
//! would look for TLS records in them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::event::{Datagram, Direction, Event, EventKind, Transport, Vantage};
use crate::wire::integrity::Integrity;
use crate::wire::stun::{Message, Method};

/// LINKTYPE_RAW: packets begin with an IPv4 or IPv6 header.
const LINKTYPE_RAW: u16 = 101;
/// LINKTYPE_WIRESHARK_UPPER_PDU: tags, then the message of an upper layer.
const LINKTYPE_UPPER_PDU: u16 = 252;

const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const OPT_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const SHB_USERAPPL: u16 = 4;

/// Writes a capture block by block, so that it can be written as the events happen.
#[derive(Clone, Debug, Default)]
pub struct PcapngWriter {
    has_header: bool,
    interfaces: BTreeMap<(Vantage, String), u32>,
    /// Interfaces of sockets, where a datagram does not name its own.
    sockets: BTreeMap<(Vantage, SocketAddr), String>,
    streams: BTreeMap<(Vantage, SocketAddr, SocketAddr), Stream>,
    /// Streams to STUN and TURN servers; the others are between ICE-TCP peers and have RFC 4571 lengths.
    server_streams: BTreeSet<(Vantage, SocketAddr, SocketAddr)>,
}

/// Sequence numbers of a stream, as bytes sent so far in each direction.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    sent: u32,
    received: u32,
}

/// All datagrams of a recording as one capture.
pub fn capture(events: &[Event]) -> Vec<u8> {
    let mut writer = PcapngWriter::new();
    let mut bytes = writer.header();
    for event in events {
        bytes.extend_from_slice(&writer.push(event));
    }
    bytes
}

impl PcapngWriter {
    /// An empty capture.
    pub fn new() -> Self {
        Self::default()
    }

    /// The section header, with which a capture begins.
    pub fn header(&mut self) -> Vec<u8> {
        self.has_header = true;
        let mut body = Vec::new();
        body.extend_from_slice(&0x1A2B_3C4Du32.to_le_bytes());
        body.extend_from_slice(&1u16.to_le_bytes());
        body.extend_from_slice(&0u16.to_le_bytes());
        // The length of the section is not known beforehand.
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        option(&mut body, SHB_USERAPPL, concat!("whyrelay ", env!("CARGO_PKG_VERSION")).as_bytes());
        end_of_options(&mut body);
        block(SECTION_HEADER, &body)
    }

    /// The blocks that an event adds; none for anything but datagrams. Begins with the section header if
    /// [`Self::header`] was not called.
    pub fn push(&mut self, event: &Event) -> Vec<u8> {
        match &event.kind {
            EventKind::SocketOpened { local, interface: Some(interface), .. } => {
                self.sockets.insert((event.vantage, *local), interface.clone());
                Vec::new()
            }
            EventKind::LocalCandidate { base, interface: Some(interface), .. } => {
                self.sockets.entry((event.vantage, *base)).or_insert_with(|| interface.clone());
                Vec::new()
            }
            EventKind::Datagram(datagram) | EventKind::ProbeDatagram(datagram) => {
                let mut bytes = if self.has_header { Vec::new() } else { self.header() };
                self.packet(&mut bytes, event, datagram);
                bytes
            }
            _ => Vec::new(),
        }
    }

    fn packet(&mut self, out: &mut Vec<u8>, event: &Event, datagram: &Datagram) {
        let is_tls = datagram.transport == Transport::Tls;
        let name = match &datagram.interface {
            _ if is_tls => "tls".to_owned(),
            Some(interface) => interface.clone(),
            None => {
                let socket = self.sockets.get(&(event.vantage, datagram.local));
                socket.cloned().unwrap_or_else(|| "unknown".to_owned())
            }
        };
        let interface = self.interface(out, event.vantage, name, is_tls);
        let (packet, missing) = match datagram.transport {
            Transport::Udp => udp(datagram),
            Transport::Tcp => self.tcp(event.vantage, datagram),
            Transport::Tls => upper_pdu(datagram),
        };

        let mut body = Vec::new();
        let micros = event.at.as_micros();
        body.extend_from_slice(&interface.to_le_bytes());
        body.extend_from_slice(&((micros >> 32) as u32).to_le_bytes());
        body.extend_from_slice(&(micros as u32).to_le_bytes());
        body.extend_from_slice(&(packet.len() as u32).to_le_bytes());
        body.extend_from_slice(&(packet.len() as u32).saturating_add(missing).to_le_bytes());
        body.extend_from_slice(&packet);
        body.resize(body.len().next_multiple_of(4), 0);
        let direction: u32 = match datagram.direction {
            Direction::In => 1,
            Direction::Out => 2,
        };
        option(&mut body, EPB_FLAGS, &direction.to_le_bytes());
        option(&mut body, OPT_COMMENT, comment(event, datagram).as_bytes());
        end_of_options(&mut body);
        out.extend_from_slice(&block(ENHANCED_PACKET, &body));
    }

    /// The number of an interface; its first use writes its description.
    fn interface(&mut self, out: &mut Vec<u8>, vantage: Vantage, name: String, is_tls: bool) -> u32 {
        let next = self.interfaces.len() as u32;
        if let Some(number) = self.interfaces.get(&(vantage, name.clone())) {
            return *number;
        }
        let mut body = Vec::new();
        let link_type = if is_tls { LINKTYPE_UPPER_PDU } else { LINKTYPE_RAW };
        body.extend_from_slice(&link_type.to_le_bytes());
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&0u32.to_le_bytes());
        option(&mut body, IF_NAME, name.as_bytes());
        let what = if is_tls { "inside of TLS, " } else { "" };
        option(&mut body, IF_DESCRIPTION, format!("{what}seen by side {}", vantage.name()).as_bytes());
        option(&mut body, IF_TSRESOL, &[6]);
        end_of_options(&mut body);
        out.extend_from_slice(&block(INTERFACE_DESCRIPTION, &body));
        self.interfaces.insert((vantage, name), next);
        next
    }

    fn tcp(&mut self, vantage: Vantage, datagram: &Datagram) -> (Vec<u8>, u32) {
        let key = (vantage, datagram.local, datagram.remote);
        if is_server_message(&datagram.data) {
            self.server_streams.insert(key);
        }
        let mut payload = Vec::new();
        if !self.server_streams.contains(&key) {
            payload.extend_from_slice(&(datagram.length as u16).to_be_bytes());
        }
        payload.extend_from_slice(&datagram.data);
        let mut missing = datagram.length.saturating_sub(datagram.data.len() as u32);
        // ChannelData is padded in streams (RFC 8656 §12.5).
        let is_channel_data =
            self.server_streams.contains(&key) && datagram.data.first().is_some_and(|byte| byte >> 6 == 1);
        if is_channel_data && missing == 0 {
            payload.resize(payload.len().next_multiple_of(4), 0);
        } else if is_channel_data {
            missing += datagram.length.next_multiple_of(4) - datagram.length;
        }

        let stream = self.streams.entry(key).or_default();
        let length = (payload.len() as u32).saturating_add(missing);
        let (sequence, acknowledged) = match datagram.direction {
            Direction::Out => (stream.sent, stream.received),
            Direction::In => (stream.received, stream.sent),
        };
        match datagram.direction {
            Direction::Out => stream.sent = stream.sent.wrapping_add(length),
            Direction::In => stream.received = stream.received.wrapping_add(length),
        }
        let (from, to) = ends(datagram);
        let mut segment = Vec::with_capacity(20 + payload.len());
        segment.extend_from_slice(&from.port().to_be_bytes());
        segment.extend_from_slice(&to.port().to_be_bytes());
        segment.extend_from_slice(&sequence.wrapping_add(1).to_be_bytes());
        segment.extend_from_slice(&acknowledged.wrapping_add(1).to_be_bytes());
        // Five words of header; PSH and ACK; a window of 65,535 bytes; checksum and urgent pointer follow.
        segment.extend_from_slice(&[0x50, 0x18, 0xFF, 0xFF, 0, 0, 0, 0]);
        segment.extend_from_slice(&payload);
        if missing == 0 {
            let checksum = transport_checksum(from.ip(), to.ip(), 6, &segment);
            segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        }
        (ip(from.ip(), to.ip(), 6, &segment, missing), missing)
    }
}

/// Whether a message in a stream belongs to a STUN or TURN server: ChannelData, a TURN method, or a Binding request
/// without USERNAME.
fn is_server_message(bytes: &[u8]) -> bool {
    match bytes.first() {
        Some(64..=79) => true,
        Some(0..=3) => Message::decode(bytes).is_ok_and(|message| message.method != Method::BINDING),
        _ => false,
    }
}

fn ends(datagram: &Datagram) -> (SocketAddr, SocketAddr) {
    match datagram.direction {
        Direction::Out => (datagram.local, datagram.remote),
        Direction::In => (datagram.remote, datagram.local),
    }
}

/// An IP packet with a UDP datagram, and how many bytes of it are missing.
fn udp(datagram: &Datagram) -> (Vec<u8>, u32) {
    let (from, to) = ends(datagram);
    let missing = datagram.length.saturating_sub(datagram.data.len() as u32);
    let mut segment = Vec::with_capacity(8 + datagram.data.len());
    segment.extend_from_slice(&from.port().to_be_bytes());
    segment.extend_from_slice(&to.port().to_be_bytes());
    segment.extend_from_slice(&clip(datagram.length.saturating_add(8)).to_be_bytes());
    segment.extend_from_slice(&[0, 0]);
    segment.extend_from_slice(&datagram.data);
    if missing == 0 {
        let checksum = transport_checksum(from.ip(), to.ip(), 17, &segment);
        // RFC 768: a checksum of zero is sent as all ones.
        let checksum = if checksum == 0 { 0xFFFF } else { checksum };
        segment[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
    (ip(from.ip(), to.ip(), 17, &segment, missing), missing)
}

/// An IP header in front of a segment of which `missing` bytes were cut.
fn ip(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8], missing: u32) -> Vec<u8> {
    let length = (segment.len() as u32).saturating_add(missing);
    let mut packet = Vec::with_capacity(40 + segment.len());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend_from_slice(&[0x45, 0]);
            packet.extend_from_slice(&clip(length.saturating_add(20)).to_be_bytes());
            // No identification, don't fragment, 64 hops.
            packet.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
            let checksum = fold(sum(0, &packet));
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        _ => {
            packet.extend_from_slice(&[0x60, 0, 0, 0]);
            packet.extend_from_slice(&clip(length).to_be_bytes());
            packet.extend_from_slice(&[protocol, 64]);
            packet.extend_from_slice(&octets6(from));
            packet.extend_from_slice(&octets6(to));
        }
    }
    packet.extend_from_slice(segment);
    packet
}

/// Tags of Wireshark's exported PDUs (epan/exported_pdu.h), then the message.
fn upper_pdu(datagram: &Datagram) -> (Vec<u8>, u32) {
    const DISSECTOR_NAME: u16 = 12;
    const IPV4_SOURCE: u16 = 20;
    const IPV4_DESTINATION: u16 = 21;
    const IPV6_SOURCE: u16 = 22;
    const IPV6_DESTINATION: u16 = 23;
    const PORT_TYPE: u16 = 24;
    const SOURCE_PORT: u16 = 25;
    const DESTINATION_PORT: u16 = 26;
    /// Wireshark's number for TCP ports.
    const TCP: u32 = 2;

    let (from, to) = ends(datagram);
    let mut packet = Vec::new();
    let mut tag = |kind: u16, value: &[u8]| {
        packet.extend_from_slice(&kind.to_be_bytes());
        packet.extend_from_slice(&(value.len().next_multiple_of(4) as u16).to_be_bytes());
        packet.extend_from_slice(value);
        packet.resize(packet.len().next_multiple_of(4), 0);
    };
    tag(DISSECTOR_NAME, b"stun-udp");
    for (address, four, six) in [(from, IPV4_SOURCE, IPV6_SOURCE), (to, IPV4_DESTINATION, IPV6_DESTINATION)] {
        match address.ip() {
            IpAddr::V4(ip) => tag(four, &ip.octets()),
            IpAddr::V6(ip) => tag(six, &ip.octets()),
        }
    }
    tag(PORT_TYPE, &TCP.to_be_bytes());
    tag(SOURCE_PORT, &u32::from(from.port()).to_be_bytes());
    tag(DESTINATION_PORT, &u32::from(to.port()).to_be_bytes());
    // End of tags.
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(&datagram.data);
    (packet, datagram.length.saturating_sub(datagram.data.len() as u32))
}

fn comment(event: &Event, datagram: &Datagram) -> String {
    let integrity = match datagram.integrity {
        Some(Integrity::Valid) => ", message integrity right (its value is blanked)",
        Some(Integrity::Invalid) => ", message integrity WRONG (its value is blanked)",
        Some(Integrity::Absent) => ", no message integrity",
        None => "",
    };
    format!("event {} of side {}{integrity}", event.seq, event.vantage.name())
}

/// The checksum of a UDP or TCP segment, with its pseudo-header (RFC 768, RFC 9293 §3.1, RFC 8200 §8.1).
fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let pseudo = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => sum(sum(0, &from.octets()), &to.octets()),
        _ => sum(sum(0, &octets6(from)), &octets6(to)),
    };
    let length = segment.len() as u32;
    let pseudo = pseudo + u64::from(protocol) + u64::from(length >> 16) + u64::from(length & 0xFFFF);
    fold(sum(pseudo, segment))
}

fn sum(start: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(2).fold(start, |sum, pair| {
        sum + u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    })
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

fn octets6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn clip(length: u32) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() + 12) as u32;
    let mut block = Vec::with_capacity(body.len() + 12);
    block.extend_from_slice(&kind.to_le_bytes());
    block.extend_from_slice(&length.to_le_bytes());
    block.extend_from_slice(body);
    block.extend_from_slice(&length.to_le_bytes());
    block
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&(value.len() as u16).to_le_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend_from_slice(&[0; 4]);
}
