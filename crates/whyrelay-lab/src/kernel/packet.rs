//! IPv4 packets as a router sees them: where from, where to, and both replaced with every checksum kept right.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What a packet carries, as far as translation cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// An ICMP echo request or reply, whose identifier counts as its port.
    Echo,
    /// An ICMP error about a packet that starts here.
    Error(usize),
}

/// A packet that could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) carried: Carried,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// Where the packet starts and where its payload does.
    start: usize,
    payload: usize,
}

/// What the fragments of one packet have in common (RFC 791 §3.2): source, destination, protocol, identification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FragmentKey(Ipv4Addr, Ipv4Addr, u8, u16);

/// A part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) key: FragmentKey,
    pub(crate) is_first: bool,
    pub(crate) is_last: bool,
}

/// Whether a packet is a fragment; `None`: it is whole, or no packet of IPv4.
pub(crate) fn fragment(packet: &[u8]) -> Option<Fragment> {
    let header = header_of(packet)?;
    let offset = u16::from_be_bytes([header[6], header[7]]);
    let (is_first, is_last) = (offset & 0x1FFF == 0, offset & 0x2000 == 0);
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let key = FragmentKey(address(12), address(16), header[9], u16::from_be_bytes([header[4], header[5]]));
    (!is_first || !is_last).then_some(Fragment { key, is_first, is_last })
}

/// Gives a fragment without ports other addresses, and one hop for one that the kernel has taken off too many.
pub(crate) fn readdress(packet: &mut [u8], source: IpAddr, destination: IpAddr) {
    let Some(length) = header_of(packet).map(<[u8]>::len) else { return };
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { return };
    let header = &mut packet[..length];
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    header[8] = header[8].saturating_add(1);
    seal(header);
}

/// The header of a packet of IPv4, options included.
fn header_of(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    let length = usize::from(first & 0x0F) * 4;
    if first >> 4 == 4 && length >= 20 { packet.get(..length) } else { None }
}

/// Writes the checksum of a header anew.
fn seal(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = !fold(add(0, header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Reads the packet that starts at `start`. A fragment that is not the first has no ports: `None`, as for everything
/// else that is not translated.
pub(crate) fn parse(bytes: &[u8], start: usize) -> Option<Parsed> {
    let packet = bytes.get(start..)?;
    let header = header_of(packet)?.len();
    if packet.len() < header + 8 {
        return None;
    }
    let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1FFF;
    if fragment != 0 {
        return None;
    }
    let number = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let (carried, source, destination) = match (packet[9], packet[header]) {
        (17, _) => (Carried::Udp, number(header), number(header + 2)),
        (6, _) => (Carried::Tcp, number(header), number(header + 2)),
        (1, 0 | 8) => (Carried::Echo, number(header + 4), number(header + 4)),
        (1, 3 | 4 | 11 | 12) => (Carried::Error(start + header + 8), 0, 0),
        _ => return None,
    };
    let socket = |at, port| SocketAddr::new(IpAddr::V4(address(at)), port);
    let (source, destination) = (socket(12, source), socket(16, destination));
    Some(Parsed { carried, source, destination, start, payload: start + header })
}

impl Parsed {
    /// Replaces the source. `partial`: the checksum holds the pseudo header's sum only (offloading).
    pub(crate) fn set_source(&self, bytes: &mut [u8], source: SocketAddr, partial: bool) {
        self.replace(bytes, 12, 0, source, partial);
    }

    /// Replaces the destination.
    pub(crate) fn set_destination(&self, bytes: &mut [u8], destination: SocketAddr, partial: bool) {
        self.replace(bytes, 16, 2, destination, partial);
    }

    /// Adds one hop, for one that the kernel has taken off too many.
    pub(crate) fn give_back_hop(&self, bytes: &mut [u8]) {
        bytes[self.start + 8] = bytes[self.start + 8].saturating_add(1);
        self.seal_header(bytes);
    }

    /// Writes the checksum of an ICMP message anew.
    pub(crate) fn seal_icmp(&self, bytes: &mut [u8]) {
        let end = bytes.len();
        let at = self.payload + 2;
        bytes[at..at + 2].fill(0);
        let sum = !fold(add(0, &bytes[self.payload..end]));
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// Changes the payload of a UDP packet, whose length stays.
    pub(crate) fn rewrite_udp(&self, bytes: &mut [u8], partial: bool, change: impl FnOnce(&mut [u8])) {
        let Some(payload) = bytes.get_mut(self.payload + 8..) else { return };
        change(payload);
        let at = self.payload + 6;
        // With offloading the payload is summed up later; zero is no checksum.
        if partial || bytes[at..at + 2] == [0, 0] {
            return;
        }
        bytes[at..at + 2].fill(0);
        let pseudo = add(17 + (bytes.len() - self.payload) as u32, &bytes[self.start + 12..self.start + 20]);
        let sum = match !fold(add(pseudo, &bytes[self.payload..])) {
            0 => 0xFFFF,
            sum => sum,
        };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    fn replace(&self, bytes: &mut [u8], address_at: usize, port_at: usize, new: SocketAddr, partial: bool) {
        let IpAddr::V4(address) = new.ip() else { return };
        let at = self.start + address_at;
        let old: [u8; 4] = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        bytes[at..at + 4].copy_from_slice(&address.octets());
        self.seal_header(bytes);
        let (checksum_at, port_at, has_pseudo_header) = match self.carried {
            Carried::Udp => (6, port_at, true),
            Carried::Tcp => (16, port_at, true),
            Carried::Echo => (2, 4, false),
            Carried::Error(_) => return,
        };
        let checksum_at = self.payload + checksum_at;
        // What an ICMP error quotes may end before its checksum.
        let known = checksum_at + 2 <= bytes.len();
        let field = if known { u16::from_be_bytes([bytes[checksum_at], bytes[checksum_at + 1]]) } else { 0 };
        let unused = self.carried == Carried::Udp && field == 0 && !partial;
        let mut sum = u32::from(if partial { field } else { !field });
        if has_pseudo_header {
            sum = replaced(sum, &old, &address.octets());
        }
        let port_at = self.payload + port_at;
        let port = new.port().to_be_bytes();
        // With offloading the ports are summed up later.
        if !partial {
            sum = replaced(sum, &[bytes[port_at], bytes[port_at + 1]], &port);
        }
        bytes[port_at..port_at + 2].copy_from_slice(&port);
        if known && !unused {
            let mut field = if partial { fold(sum) } else { !fold(sum) };
            if self.carried == Carried::Udp && field == 0 && !partial {
                field = 0xFFFF;
            }
            bytes[checksum_at..checksum_at + 2].copy_from_slice(&field.to_be_bytes());
        }
    }

    fn seal_header(&self, bytes: &mut [u8]) {
        seal(&mut bytes[self.start..self.payload]);
    }
}

/// RFC 1624: takes words out of a ones' complement sum and puts others in.
fn replaced(sum: u32, old: &[u8], new: &[u8]) -> u32 {
    let without = old.chunks_exact(2).fold(sum, |sum, word| sum + u32::from(!u16::from_be_bytes([word[0], word[1]])));
    add(without, new)
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum = words.iter().fold(sum, |sum, word| fold_once(sum + u32::from(u16::from_be_bytes(*word))));
    match rest {
        [last] => sum + (u32::from(*last) << 8),
        _ => sum,
    }
}

const fn fold_once(sum: u32) -> u32 {
    (sum & 0xFFFF) + (sum >> 16)
}

const fn fold(sum: u32) -> u16 {
    fold_once(fold_once(sum)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP packet with right checksums.
    fn udp(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
        let (source, destination): (SocketAddr, SocketAddr) = (source.parse().unwrap(), destination.parse().unwrap());
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
        for address in [source.ip(), destination.ip()] {
            let IpAddr::V4(address) = address else { panic!() };
            bytes.extend(address.octets());
        }
        let length = (8 + payload.len()) as u16;
        bytes[2..4].copy_from_slice(&(20 + length).to_be_bytes());
        bytes.extend(source.port().to_be_bytes());
        bytes.extend(destination.port().to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        let pseudo = add(17 + u32::from(length), &bytes[12..20]);
        let sum = !fold(add(pseudo, &bytes[20..]));
        bytes[26..28].copy_from_slice(&sum.to_be_bytes());
        parse(&bytes, 0).unwrap().seal_header(&mut bytes);
        bytes
    }

    #[test]
    fn a_rewritten_packet_is_as_if_it_had_been_sent_so() {
        for payload in [&b""[..], b"odd", b"even", &[0xFF; 1400]] {
            let mut bytes = udp("192.168.10.2:40000", "203.0.113.110:51820", payload);
            let parsed = parse(&bytes, 0).unwrap();
            parsed.set_source(&mut bytes, "203.0.113.10:1027".parse().unwrap(), false);
            parsed.set_destination(&mut bytes, "10.20.0.9:9".parse().unwrap(), false);
            assert_eq!(bytes, udp("203.0.113.10:1027", "10.20.0.9:9", payload), "{payload:?}");
        }
    }

    #[test]
    fn a_rewritten_payload_is_as_if_it_had_been_sent_so() {
        for payload in [&b"\x0a\x14\x00\x09"[..], b"odd\x0a\x14\x00\x09", &[0xFF; 1400]] {
            let mut bytes = udp("192.168.10.2:40000", "203.0.113.110:51820", payload);
            let parsed = parse(&bytes, 0).unwrap();
            let reverse = |bytes: &mut [u8]| bytes.reverse();
            parsed.rewrite_udp(&mut bytes, false, reverse);
            let mut reversed = payload.to_vec();
            reverse(&mut reversed);
            assert_eq!(bytes, udp("192.168.10.2:40000", "203.0.113.110:51820", &reversed), "{payload:?}");
        }
    }

    #[test]
    fn nothing_that_can_arrive_is_read_beyond_its_end() {
        let whole = udp("192.168.10.2:40000", "203.0.113.110:51820", b"payload");
        for length in 0..whole.len() {
            let mut bytes = whole[..length].to_vec();
            if let Some(parsed) = parse(&bytes, 0) {
                parsed.set_source(&mut bytes, "203.0.113.10:1027".parse().unwrap(), false);
                parsed.give_back_hop(&mut bytes);
            }
        }
        assert_eq!(parse(&whole, 20), None);
        let mut fragment = whole;
        fragment[7] = 1;
        assert_eq!(parse(&fragment, 0), None);
    }
}
