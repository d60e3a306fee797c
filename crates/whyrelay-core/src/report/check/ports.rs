//! Rows about which class of ports gets through: STUN's own, 443, and a random high one. What each server said stands
//! under its address.

use super::{Row, Section, State};
use crate::diagnosis::evidence::SideEvidence;
use crate::trace::event::Transport;
use crate::trace::measurement::Measurement;

/// Where HTTP/3 and HTTPS go, which networks that block the rest let through.
const HTTPS_PORT: u16 = 443;

pub(super) fn of(side: &SideEvidence) -> Vec<Row> {
    let facts = &side.measured.facts;
    let reached = |over: Transport, https: bool| {
        facts.iter().filter_map(move |(seq, fact)| match fact {
            Measurement::Reach { transport, remote, rtt_us, .. }
                if *transport == over && (remote.port() == HTTPS_PORT) == https =>
            {
                Some((*seq, rtt_us.is_some()))
            }
            _ => None,
        })
    };
    let third_party = facts.iter().filter_map(|(seq, fact)| match fact {
        Measurement::ThirdParty { observed, .. } => Some((*seq, observed.is_some())),
        _ => None,
    });
    [
        row("UDP, STUN's ports", reached(Transport::Udp, false)),
        row("UDP, port 443", reached(Transport::Udp, true)),
        row("UDP, random high port", third_party),
        row("TLS, port 443", reached(Transport::Tls, true)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn row(name: &'static str, asked: impl Iterator<Item = (u64, bool)>) -> Option<Row> {
    let asked: Vec<(u64, bool)> = asked.collect();
    let (all, passed) = (asked.len(), asked.iter().filter(|(_, passed)| *passed).count());
    let (value, state) = match (passed, all) {
        (_, 0) => return None,
        (0, _) => (format!("nothing came back (0 of {all})"), State::Bad),
        _ => (format!("passes ({passed} of {all})"), State::Good),
    };
    let evidence = asked.into_iter().map(|(seq, _)| seq).collect();
    Some(Row { section: Section::Udp, subject: "by class of ports".to_owned(), name, value, state, evidence })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::diagnosis::evidence::Evidence;
    use crate::time::Timestamp;
    use crate::trace::event::{Event, EventKind, Vantage};

    #[test]
    fn each_class_of_ports_that_was_asked_has_a_row() {
        let remote = |text: &str| text.parse::<SocketAddr>().unwrap();
        let reach = |transport, to: &str, rtt_us| {
            let detail = None;
            Measurement::Reach { transport, remote: remote(to), rtt_us, detail }
        };
        let (local, observed) = (remote("192.0.2.1:1"), None);
        let facts = [
            reach(Transport::Udp, "192.0.2.9:3478", Some(9)),
            reach(Transport::Udp, "192.0.2.8:3478", None),
            reach(Transport::Udp, "192.0.2.9:443", None),
            reach(Transport::Tcp, "192.0.2.9:443", Some(9)),
            reach(Transport::Tls, "192.0.2.9:5349", Some(9)),
            Measurement::ThirdParty { local, remote: remote("192.0.2.9:50000"), observed, sent: 5 },
        ];
        let event = |(seq, fact)| {
            let (at, vantage, kind) = (Timestamp::from_micros(seq), Vantage::A, EventKind::Measured(fact));
            Event { seq, at, vantage, kind }
        };
        let told = |facts: &[Measurement]| {
            let events: Vec<Event> = (0..).zip(facts.iter().cloned()).map(event).collect();
            let rows = of(Evidence::of(&events).side(Vantage::A));
            rows.iter().map(|row| format!("{}: {} {:?}", row.name, row.value, row.evidence)).collect::<Vec<_>>()
        };
        assert_eq!(
            told(&facts),
            [
                "UDP, STUN's ports: passes (1 of 2) [0, 1]",
                "UDP, port 443: nothing came back (0 of 1) [2]",
                "UDP, random high port: nothing came back (0 of 1) [5]",
            ]
        );
        assert_eq!(told(&[reach(Transport::Tls, "192.0.2.9:443", Some(9))]), ["TLS, port 443: passes (1 of 1) [0]"]);
        assert!(told(&[]).is_empty());
    }
}
