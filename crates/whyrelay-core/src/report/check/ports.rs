//! Rows about which class of ports gets through: those of the servers' URLs, 443, and a random high one. What each server
//! said stands under its address.

use super::rows::udp_was_asked;
use super::{Row, Section, State, refusal};
use crate::diagnosis::evidence::SideEvidence;
use crate::trace::event::Transport;
use crate::trace::measurement::Measurement;

/// Where HTTP/3 and HTTPS go, which networks that block the rest let through.
const HTTPS_PORT: u16 = 443;

/// A question that shows whether a class of ports gets through.
struct Asked {
    evidence: Vec<u64>,
    port: u16,
    passed: bool,
    /// By the server itself, whose port is closed: the way to it is open.
    refused: bool,
    /// A connection, by the server or a firewall that answers for it: it shows nothing of the way.
    reset: bool,
}

pub(super) fn of(side: &SideEvidence) -> Vec<Row> {
    let facts = &side.measured.facts;
    let reached = |over: Transport, https: bool| {
        facts.iter().filter_map(move |(seq, fact)| match fact {
            Measurement::Reach { transport, local, remote, rtt_us, detail, unannounced }
                if *transport == over && (remote.port() == HTTPS_PORT) == https =>
            {
                let refusal = refusal::of(side, *local, &[*remote]);
                let by_server = refusal.filter(|refusal| refusal.by_server && over == Transport::Udp);
                // Of a port that no URL names, the round trip is the server's refusal's, which `detail` says, whoever
                // else refused before.
                let refused = match rtt_us {
                    Some(_) => over == Transport::Udp && detail.is_some(),
                    None => by_server.is_some(),
                };
                let late = side.late().any(|late| late.server == *remote && *local == Some(late.local));
                let passed = rtt_us.is_some() || refused || late && over == Transport::Udp;
                let reset = !passed && over != Transport::Udp && detail.as_deref().is_some_and(refusal::is_reset);
                // Whether anybody listens there is not known: silence says nothing of the network.
                let tells = passed || !unannounced;
                let evidence = [Some(*seq), by_server.filter(|_| refused).map(|refusal| refusal.seq)];
                let evidence = evidence.into_iter().flatten().collect();
                tells.then_some(Asked { evidence, port: remote.port(), passed, refused, reset })
            }
            _ => None,
        })
    };
    let udp_was_asked = udp_was_asked(side);
    let third_party = facts.iter().filter_map(|(seq, fact)| match fact {
        // A port that may be closed: where nobody was asked over UDP, nothing is known of what gets through.
        Measurement::ThirdParty { observed: None, .. } if !udp_was_asked => None,
        Measurement::ThirdParty { remote, observed, .. } => Some(Asked {
            evidence: vec![*seq],
            port: remote.port(),
            passed: observed.is_some(),
            refused: false,
            reset: false,
        }),
        _ => None,
    });
    [
        row("UDP, servers' ports", reached(Transport::Udp, false)),
        row("UDP, port 443", reached(Transport::Udp, true)),
        row("UDP, random high port", third_party),
        row("TCP, servers' ports", reached(Transport::Tcp, false)),
        row("TCP, port 443", reached(Transport::Tcp, true)),
        row("TLS, port 443", reached(Transport::Tls, true)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn row(name: &'static str, asked: impl Iterator<Item = Asked>) -> Option<Row> {
    let asked: Vec<Asked> = asked.collect();
    let count = |is: fn(&&Asked) -> bool| asked.iter().filter(is).count();
    let (all, passed, refused) = (asked.len(), count(|asked| asked.passed), count(|asked| asked.refused));
    let reset = count(|asked| asked.reset);
    let mut ports: Vec<u16> = asked.iter().map(|asked| asked.port).collect();
    ports.sort_unstable();
    ports.dedup();
    let ports = match ports.as_slice() {
        [HTTPS_PORT] => String::new(),
        ports => format!("port {}: ", ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")),
    };
    let (value, state) = match (passed, all, refused) {
        (_, 0, _) => return None,
        (0, ..) if reset == all => (format!("{ports}{} ({reset} of {all})", refusal::RESET), State::Plain),
        (0, ..) if reset > 0 => (format!("{ports}no answer (0 of {all}; {reset} {})", refusal::RESET), State::Bad),
        (0, ..) => (format!("{ports}no answer (0 of {all})"), State::Bad),
        (.., 0) => (format!("{ports}passes ({passed} of {all})"), State::Good),
        _ => (format!("{ports}passes ({passed} of {all}; {refused} refused by the server itself)"), State::Good),
    };
    let evidence = asked.into_iter().flat_map(|asked| asked.evidence).collect();
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
            let (local, detail, unannounced) = (None, None, false);
            Measurement::Reach { transport, local, remote: remote(to), rtt_us, detail, unannounced }
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
                "UDP, servers' ports: port 3478: passes (1 of 2) [0, 1]",
                "UDP, port 443: no answer (0 of 1) [2]",
                "UDP, random high port: port 50000: no answer (0 of 1) [5]",
                "TCP, port 443: passes (1 of 1) [3]",
            ]
        );
        let tls = [reach(Transport::Tls, "192.0.2.9:443", Some(9))];
        assert_eq!(told(&tls), ["TLS, port 443: passes (1 of 1) [0]"]);
        // A relay's port that is silent, where nobody was asked over UDP.
        let by_tcp = [reach(Transport::Tcp, "192.0.2.9:3478", Some(9)), facts[5].clone()];
        assert_eq!(told(&by_tcp), ["TCP, servers' ports: port 3478: passes (1 of 1) [0]"]);
        let events: Vec<Event> = (0..).zip(by_tcp).map(event).collect();
        let rows = super::super::rows::of(Evidence::of(&events).side(Vantage::A));
        let third = rows.iter().find(|row| row.name == "third party, high port").unwrap();
        assert!(third.value.starts_with("not measured: 5 packets did not arrive, and no server"), "{}", third.value);
        assert_eq!(third.state, State::Plain);
        assert!(told(&[]).is_empty());
    }

    /// The rows for one port that did not answer: a try or not, with whom an ICMP error came from.
    fn of_one_that_did_not_answer(unannounced: bool, offender: Option<&str>) -> Vec<String> {
        of_one_asked_from("192.0.2.1:7", unannounced, offender)
    }

    /// The same, asked from here; the ICMP error is another socket's, of 192.0.2.1.
    fn of_one_asked_from(asking: &str, unannounced: bool, offender: Option<&str>) -> Vec<String> {
        let (transport, remote) = (Transport::Udp, "192.0.2.9:3478".parse().unwrap());
        let (asking, rtt_us, detail) = (asking.parse().ok(), None, None);
        of_one(Measurement::Reach { transport, local: asking, remote, rtt_us, detail, unannounced }, offender)
    }

    /// The same of this measurement, with ICMP errors from these before it.
    fn of_one<'a>(reach: Measurement, offenders: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let (local, remote) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.9:3478".parse().unwrap());
        let icmp = offenders.into_iter().map(|offender| {
            let (icmp_type, icmp_code, errno) = (3, 3, 111);
            EventKind::IcmpError { local, remote, offender: offender.parse().ok(), icmp_type, icmp_code, errno }
        });
        let kinds = icmp.chain([EventKind::Measured(reach)]);
        let event = |(seq, kind)| Event { seq, at: Timestamp::from_micros(seq), vantage: Vantage::A, kind };
        let events: Vec<Event> = (0..).zip(kinds).map(event).collect();
        of(Evidence::of(&events).side(Vantage::A)).into_iter().map(|row| row.value).collect()
    }

    #[test]
    fn a_refusal_by_the_server_itself_shows_that_packets_get_through() {
        let refused = of_one_that_did_not_answer(false, Some("192.0.2.9"));
        assert_eq!(refused, ["port 3478: passes (1 of 1; 1 refused by the server itself)"]);
        // A port that no URL names: the round trip is known.
        let (transport, local) = (Transport::Udp, "192.0.2.1:1".parse().ok());
        for (detail, told) in [
            (Some("refused by the server itself".to_owned()), "passes (1 of 1; 1 refused by the server itself)"),
            (None, "passes (1 of 1)"),
        ] {
            let (remote, rtt_us, unannounced) = ("192.0.2.9:3478".parse().unwrap(), Some(9), true);
            let reach = Measurement::Reach { transport, local, remote, rtt_us, detail, unannounced };
            assert_eq!(of_one(reach.clone(), Some("192.0.2.9")), [format!("port 3478: {told}")]);
            // A router refuses the first packet, and the host a later one.
            assert_eq!(of_one(reach, ["10.0.0.1", "192.0.2.9"]), [format!("port 3478: {told}")]);
        }
        let by_another = of_one_that_did_not_answer(false, Some("10.0.0.1"));
        assert_eq!(by_another, ["port 3478: no answer (0 of 1)"]);
        // What a VPN's address met is not this one's.
        let elsewhere = of_one_asked_from("10.8.0.2:7", false, Some("192.0.2.9"));
        assert_eq!(elsewhere, ["port 3478: no answer (0 of 1)"]);
    }

    #[test]
    fn a_connection_that_is_refused_is_not_one_that_nobody_answers() {
        let (rtt_us, unannounced) = (None, false);
        let told = |transport, details: &[Option<&str>]| {
            let facts = (1..).zip(details).map(|(last, detail)| Measurement::Reach {
                transport,
                local: None,
                remote: SocketAddr::from(([192, 0, 2, last], 443)),
                rtt_us,
                detail: detail.map(str::to_owned),
                unannounced,
            });
            let event = |(seq, fact)| {
                let (at, vantage, kind) = (Timestamp::from_micros(seq), Vantage::A, EventKind::Measured(fact));
                Event { seq, at, vantage, kind }
            };
            let events: Vec<Event> = (0..).zip(facts).map(event).collect();
            let evidence = Evidence::of(&events);
            let of_servers = super::super::rows::of(evidence.side(Vantage::A));
            let of_servers: Vec<_> = of_servers.into_iter().map(|row| row.value).collect();
            let rows = of(evidence.side(Vantage::A));
            (rows.into_iter().map(|row| (row.value, row.state)).collect::<Vec<_>>(), of_servers)
        };
        let refused = Some("Connection refused (os error 111)");
        for transport in [Transport::Tcp, Transport::Tls] {
            let one = "refused, by the server or a firewall that answers for it (1 of 1)";
            let (rows, of_servers) = told(transport, &[refused]);
            assert_eq!(rows, [(one.to_owned(), State::Plain)]);
            assert_eq!(of_servers, ["refused, by the server or a firewall that answers for it"]);
            let silent = Some("no answer within 2.1 s");
            let some = "no answer (0 of 2; 1 refused, by the server or a firewall that answers for it)";
            assert_eq!(told(transport, &[refused, silent]).0, [(some.to_owned(), State::Bad)]);
            assert_eq!(told(transport, &[silent]).0, [("no answer (0 of 1)".to_owned(), State::Bad)]);
        }
    }

    #[test]
    fn a_port_that_no_url_names_is_not_told_of_when_it_is_silent() {
        assert_eq!(of_one_that_did_not_answer(false, None), ["port 3478: no answer (0 of 1)"]);
        assert!(of_one_that_did_not_answer(true, None).is_empty());
        assert!(of_one_that_did_not_answer(true, Some("10.0.0.1")).is_empty());
    }
}
