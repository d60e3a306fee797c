//! How many NATs are in front of this host, by all that tells of it: its own address, what servers see, the router's own
//! word about its external address, and the routers behind it.

use std::net::IpAddr;

use serde::Serialize;

use super::{Row, Section, State};
use crate::diagnosis::evidence::SideEvidence;
use crate::trace::address::AddressClass;
use crate::trace::measurement::Measurement;

/// NATs for IPv4, between this host and the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatsInFront {
    /// Servers see this host's own address.
    None,
    /// This host's router has the public address itself.
    One,
    /// This host's router has a private address outside: another router translates again.
    Two,
    /// The provider translates for many customers (carrier-grade NAT, 100.64.0.0/10 or by its own word).
    CarrierGrade,
    /// There is one; whether there are more was not told.
    OneAtLeast,
    /// No server told what it sees.
    NotMeasured,
}

/// The answer with its words and what shows it.
struct Answer {
    nats: NatsInFront,
    local: IpAddr,
    words: String,
    evidence: Vec<u64>,
}

/// The answer alone.
pub(super) fn of(side: &SideEvidence) -> NatsInFront {
    answer(side).map_or(NatsInFront::NotMeasured, |answer| answer.nats)
}

/// The answer as a row.
pub(super) fn row(side: &SideEvidence) -> Option<Row> {
    let Answer { nats, local, words, evidence } = answer(side)?;
    let state = match nats {
        NatsInFront::None | NatsInFront::One => State::Good,
        NatsInFront::Two | NatsInFront::CarrierGrade => State::Warning,
        NatsInFront::OneAtLeast | NatsInFront::NotMeasured => State::Plain,
    };
    let (section, subject, name) = (Section::WayOut, local.to_string(), "NATs in front");
    Some(Row { section, subject, name, value: words, state, evidence })
}

fn answer(side: &SideEvidence) -> Option<Answer> {
    let facts = &side.measured.facts;
    let mapping = facts.iter().find_map(|(seq, fact)| match fact {
        Measurement::Mapping { local, mapped, .. } if local.is_ipv4() => Some((*seq, local.ip(), mapped.ip())),
        _ => None,
    });
    // One server is enough to be seen by; it takes two to compare.
    let seen = facts.iter().find_map(|(seq, fact)| match fact {
        Measurement::MappedAddress { local, mapped, .. } if local.is_ipv4() => Some((*seq, local.ip(), mapped.ip())),
        _ => None,
    });
    let (seq, local, mapped) = mapping.or(seen)?;
    let make = |nats, words: String, more: Option<u64>| {
        Some(Answer { nats, local, words, evidence: std::iter::once(seq).chain(more).collect() })
    };
    if local == mapped {
        return make(NatsInFront::None, "none".to_owned(), None);
    }
    let told = facts.iter().find_map(|(seq, fact)| match fact {
        Measurement::PortMapper { external: Some(ip @ IpAddr::V4(_)), protocol, .. } => Some((*seq, *ip, *protocol)),
        _ => None,
    });
    if let Some((told, external, protocol)) = told {
        let words = format!("the router's external address is {external} by {}", protocol.name());
        return match AddressClass::of(external) {
            _ if external == mapped => {
                make(NatsInFront::One, "one: the router has the public address itself".to_owned(), Some(told))
            }
            AddressClass::CarrierGrade => {
                make(NatsInFront::CarrierGrade, format!("two: {words}, a carrier's (CGNAT)"), Some(told))
            }
            AddressClass::Public => {
                let words = format!("two: {words}, servers see {mapped}: the provider translates again");
                make(NatsInFront::CarrierGrade, words, Some(told))
            }
            _ => {
                let words = format!("two: {words}, a private one; servers see {mapped}");
                make(NatsInFront::Two, words, Some(told))
            }
        };
    }
    if AddressClass::of(local) == AddressClass::CarrierGrade {
        let words = "the provider's: this host itself has a carrier's address (CGNAT)".to_owned();
        return make(NatsInFront::CarrierGrade, words, None);
    }
    let behind = facts.iter().filter_map(|(seq, fact)| match fact {
        Measurement::Hop { ttl: 2.., router: Some(router @ IpAddr::V4(_)), .. } => Some((*seq, *router)),
        _ => None,
    });
    let behind: Vec<(u64, IpAddr)> = behind.collect();
    let of_class = |class| behind.iter().find(|(_, router)| AddressClass::of(*router) == class).copied();
    if let Some((hop, router)) = of_class(AddressClass::CarrierGrade) {
        let words = format!("probably two: behind the router stands {router}, in a carrier's range (CGNAT)");
        return make(NatsInFront::CarrierGrade, words, Some(hop));
    }
    if let Some((hop, router)) = of_class(AddressClass::Private) {
        let words = format!("probably two: behind the router stands {router}, a private address");
        return make(NatsInFront::Two, words, Some(hop));
    }
    make(NatsInFront::OneAtLeast, "one at least; the router tells no external address".to_owned(), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::evidence::Evidence;
    use crate::nat::behavior::MappingBehavior;
    use crate::time::Timestamp;
    use crate::trace::event::{Event, EventKind, Vantage};
    use crate::trace::measurement::PortMapperProtocol;

    /// The answer for an own address, what servers see, the router's word, and the routers from the second on.
    fn told(local: &str, mapped: &str, external: Option<&str>, hops: &[&str]) -> (NatsInFront, String) {
        let socket = |ip: &str| format!("{ip}:4000").parse().unwrap();
        let remote = socket("198.51.100.1");
        let mut facts = vec![Measurement::Mapping {
            local: socket(local),
            behavior: MappingBehavior::EndpointIndependent,
            exact: true,
            mapped: socket(mapped),
            destinations: vec![remote],
        }];
        facts.extend(external.map(|ip| Measurement::PortMapper {
            protocol: PortMapperProtocol::Upnp,
            gateway: None,
            found: true,
            external: Some(ip.parse().unwrap()),
            detail: None,
        }));
        facts.extend(hops.iter().zip(2..).map(|(router, ttl)| Measurement::Hop {
            remote,
            ttl,
            router: router.parse().ok(),
        }));
        let events: Vec<Event> = (0..)
            .zip(facts)
            .map(|(seq, fact)| Event {
                seq,
                at: Timestamp::from_micros(seq),
                vantage: Vantage::A,
                kind: EventKind::Measured(fact),
            })
            .collect();
        let evidence = Evidence::of(&events);
        let side = evidence.side(Vantage::A);
        (of(side), row(side).unwrap().value)
    }

    #[test]
    fn one_server_is_enough_to_be_seen_by() {
        let (local, mapped) = ("192.168.1.2:4000".parse().unwrap(), "203.0.113.7:4000".parse().unwrap());
        let remote = "198.51.100.1:3478".parse().unwrap();
        let fact = Measurement::MappedAddress { local, remote, mapped, rtt_us: None };
        let (seq, at, vantage) = (0, Timestamp::from_micros(0), Vantage::A);
        let evidence = Evidence::of(&[Event { seq, at, vantage, kind: EventKind::Measured(fact) }]);
        assert_eq!(of(evidence.side(Vantage::A)), NatsInFront::OneAtLeast);
    }

    #[test]
    fn each_combination_has_its_own_answer() {
        use NatsInFront::{CarrierGrade, None as Without, One, OneAtLeast, Two};
        let (home, public) = ("192.168.1.2", "203.0.113.7");
        for (local, mapped, external, hops, nats) in [
            (public, public, None, vec![], Without),
            (home, public, Some(public), vec!["10.0.0.1"], One),
            (home, public, Some("192.168.0.9"), vec![], Two),
            (home, public, Some("100.70.1.2"), vec![], CarrierGrade),
            (home, public, Some("198.51.100.77"), vec![], CarrierGrade),
            ("100.70.1.2", public, None, vec![], CarrierGrade),
            (home, public, None, vec!["silent", "100.64.0.1"], CarrierGrade),
            (home, public, None, vec!["192.168.0.1"], Two),
            (home, public, None, vec!["198.51.100.9"], OneAtLeast),
            (home, public, None, vec![], OneAtLeast),
        ] {
            let (found, words) = told(local, mapped, external, &hops);
            assert_eq!(found, nats, "{local} {mapped} {external:?} {hops:?}: {words}");
        }
        assert_eq!(of(Evidence::of(&[]).side(Vantage::A)), NatsInFront::NotMeasured);
    }
}
