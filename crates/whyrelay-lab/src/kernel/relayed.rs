//! What a relay over TLS has carried. Nothing on its wires tells data from checks, and between two allocations of its own
//! it hands data over inside: it says itself how many datagrams it has relayed, and the recordings tell which of them were
//! checks.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use whyrelay_core::trace::event::{Direction, Event, EventKind, Transport};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::demux::Protocol;
use whyrelay_core::wire::stun::Message;
use whyrelay_core::wire::turn::ChannelData;

use super::error::LabError;

/// Where it answers, in the server's namespace.
pub(super) const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9641);

/// How long it may take to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// What the relay has sent to its clients of what peers sent them: datagrams, checks among them. Call it in the server's
/// namespace.
///
/// # Errors
/// When it does not answer, or says nothing of it.
pub(super) fn to_clients() -> Result<u64, LabError> {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&METRICS, ANSWERED_WITHIN)?;
        stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    let said = asked().map_err(LabError::system("asking the relay what it has relayed"))?;
    relayed(&said).ok_or_else(|| LabError::Session { who: "whyrelay serve".to_owned(), said })
}

/// The number in what it says of itself.
fn relayed(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains("turn_relayed_datagrams_total{direction=\"to_client\"}"))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// How many checks came to both sides through a relay over TLS. It is a stream: whatever the relay sent there has come.
pub(super) fn checks(events: &[Event]) -> u64 {
    let is_check = |event: &&Event| match &event.kind {
        EventKind::Datagram(datagram) | EventKind::ProbeDatagram(datagram) => {
            datagram.direction == Direction::In
                && datagram.transport == Transport::Tls
                && inside(&datagram.data) == Some(Protocol::Stun)
        }
        _ => false,
    };
    events.iter().filter(is_check).count() as u64
}

/// What TURN carries in a message, if it carries anything.
fn inside(message: &[u8]) -> Option<Protocol> {
    match Protocol::of(message) {
        Protocol::TurnChannel => Some(Protocol::of(ChannelData::decode(message)?.data)),
        Protocol::Stun => Some(Protocol::of(Message::decode(message).ok()?.attribute(AttributeType::DATA)?.value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use whyrelay_core::time::Timestamp;
    use whyrelay_core::trace::event::{Datagram, Vantage};
    use whyrelay_core::wire::turn::ChannelNumber;

    use super::*;

    #[test]
    fn the_relays_own_number_is_read_by_its_direction() {
        let said = "HTTP/1.1 200 OK\r\n\r\n# TYPE whyrelay_turn_relayed_datagrams_total counter\n\
                    whyrelay_turn_relayed_datagrams_total{direction=\"to_peer\"} 40\n\
                    whyrelay_turn_relayed_datagrams_total{direction=\"to_client\"} 31\n";
        assert_eq!(relayed(said), Some(31));
        assert_eq!(relayed("HTTP/1.1 404 Not Found\r\n\r\n"), None);
    }

    #[test]
    fn checks_that_came_over_tls_are_known_by_what_turn_carries() {
        let channel = ChannelNumber::new(0x4000).unwrap();
        let check = ChannelData::encode(channel, &[0, 1, 0, 0]);
        let data = ChannelData::encode(channel, &[22, 254, 253, 0]);
        let event = |direction, transport, data: &[u8]| {
            let end = SocketAddr::from(([198, 51, 100, 1], 443));
            let (length, data) = (data.len() as u32, data.to_vec());
            let datagram = Datagram {
                direction,
                transport,
                local: end,
                remote: end,
                interface: None,
                length,
                data,
                integrity: None,
            };
            Event { seq: 0, at: Timestamp::from_micros(0), vantage: Vantage::A, kind: EventKind::Datagram(datagram) }
        };
        let (into, out) = (Direction::In, Direction::Out);
        let events = [
            event(into, Transport::Tls, &check),
            event(into, Transport::Tls, &data),
            event(out, Transport::Tls, &check),
            event(into, Transport::Udp, &check),
        ];
        assert_eq!(checks(&events), 1);
    }
}
