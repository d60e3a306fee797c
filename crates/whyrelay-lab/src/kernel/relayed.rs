//! What a relay over TLS has carried. Nothing on its wires tells data from checks, and between two allocations of its own
//! it hands data over inside: it says itself how many datagrams it has relayed, and the recordings tell which of them were
//! checks.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use whyrelay_core::trace::event::{Direction, Event, EventKind, Transport, Vantage};
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

/// Whether a relay over TLS has carried the data that both sides have recorded: of what it sent to its clients, as many
/// datagrams were no checks. A check that it sent and whose client did not wait for it looks like one of them; alone it is
/// too few.
pub(super) fn carried(datagrams: u64, events: &[Event]) -> bool {
    let answers = [Vantage::A, Vantage::B].map(|vantage| answers(events, vantage));
    // Where only one side is a client, only what came to that side counts.
    datagrams >= answers[0].min(answers[1]).max(1)
}

/// How many datagrams at least brought a side answers to its pings. Those that came at the same moment may have been one.
fn answers(events: &[Event], vantage: Vantage) -> u64 {
    let is_answer =
        |event: &&Event| matches!(event.kind, EventKind::ChannelPing { direction: Direction::In, answer: true, .. });
    let own = events.iter().filter(|event| event.vantage == vantage).filter(is_answer);
    own.map(|event| event.at).collect::<BTreeSet<_>>().len() as u64
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
    use whyrelay_core::trace::event::Datagram;
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
    fn a_check_without_an_answer_is_no_data() {
        let answer = |vantage, at, id| {
            let kind = EventKind::ChannelPing { direction: Direction::In, answer: true, id };
            Event { seq: 0, at: Timestamp::from_micros(at), vantage, kind }
        };
        let (a, b) = (Vantage::A, Vantage::B);
        // Two of b's came in one datagram.
        let events = [
            answer(a, 1_000, 0),
            answer(a, 2_000, 1),
            answer(a, 3_000, 2),
            answer(b, 1_500, 0),
            answer(b, 2_500, 1),
            answer(b, 2_500, 2),
        ];
        for (datagrams, carried_it) in [(0, false), (1, false), (2, true), (6, true)] {
            assert_eq!(carried(datagrams, &events), carried_it, "{datagrams}");
        }
        // Where neither side has recorded an answer, something must have come all the same.
        assert_eq!([carried(0, &[]), carried(1, &[])], [false, true]);
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
