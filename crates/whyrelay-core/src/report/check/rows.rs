//! Rows about the NAT and about which UDP gets through.

use std::net::{IpAddr, SocketAddr};

use super::{Row, Section, State, refusal};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::Finding;
use crate::diagnosis::network::mapping_in_front;
use crate::diagnosis::rules::tls_in_words;
use crate::nat::behavior::{FilteringBehavior, Hairpinning, MappingBehavior, can_connect};
use crate::trace::event::{Direction, Transport};
use crate::trace::measurement::{Measurement, PortPair};

pub(super) fn of(side: &SideEvidence) -> Vec<Row> {
    let mut rows: Vec<Row> = side.measured.facts.iter().filter_map(|(seq, fact)| row(side, *seq, fact)).collect();
    rows.extend(mappings_of_one_server(side));
    rows.extend(interfaces(side, &rows));
    rows
}

/// How a mapping is towards two ports of one server, where no second address was there to compare with: else it would
/// seem as if nothing was known of it.
fn mappings_of_one_server(side: &SideEvidence) -> Vec<Row> {
    let facts = &side.measured.facts;
    let measured = |ip: IpAddr| {
        facts.iter().any(|(_, fact)| matches!(fact, Measurement::Mapping { local, .. } if local.ip() == ip))
    };
    let mut told: Vec<IpAddr> = Vec::new();
    let mut rows = Vec::new();
    for (seq, fact) in facts {
        let Measurement::EarlyArrival { local, mapped, control, .. } = fact else { continue };
        if measured(local.ip()) || told.contains(&local.ip()) {
            continue;
        }
        told.push(local.ip());
        let (value, state) = if local == mapped && mapped == control {
            ("no NAT: one server sees this host's own address".to_owned(), State::Good)
        } else if mapped == control {
            ("the same towards two ports of one server; towards other addresses not measured".to_owned(), State::Plain)
        } else {
            (format!("another towards each port of a server: {mapped}, {control}"), State::Warning)
        };
        rows.extend(nat(*seq, local.ip(), "mapping", value, state));
    }
    rows
}

/// Which interface each address is on, where the NATs in front of several were looked at.
fn interfaces(side: &SideEvidence, rows: &[Row]) -> Vec<Row> {
    let mut subjects: Vec<IpAddr> =
        rows.iter().filter(|row| row.section == Section::Nat).filter_map(|row| row.subject.parse().ok()).collect();
    subjects.sort_unstable();
    subjects.dedup();
    let of = |ip: &IpAddr| side.interfaces.iter().find(|(_, _, addresses, _)| addresses.contains(ip));
    let found: Vec<_> = subjects.iter().filter_map(|ip| Some((*ip, of(ip)?))).collect();
    if found.iter().all(|(_, (_, name, ..))| found.first().is_some_and(|(_, (_, first, ..))| first == name)) {
        return Vec::new();
    }
    found
        .into_iter()
        .filter_map(|(ip, (seq, name, ..))| nat(*seq, ip, "interface", name.clone(), State::Plain))
        .collect()
}

fn nat(seq: u64, local: IpAddr, name: &'static str, value: String, state: State) -> Option<Row> {
    Some(Row { section: Section::Nat, subject: local.to_string(), name, value, state, evidence: vec![seq] })
}

fn udp(seq: u64, remote: SocketAddr, name: &'static str, value: String, state: State) -> Option<Row> {
    Some(Row { section: Section::Udp, subject: remote.to_string(), name, value, state, evidence: vec![seq] })
}

fn row(side: &SideEvidence, seq: u64, fact: &Measurement) -> Option<Row> {
    match fact {
        Measurement::MappedAddress { local, remote, mapped, rtt_us } => {
            let rtt = rtt_us.map_or_else(String::new, |us| format!(", {}", milliseconds(us)));
            let value = format!("{mapped} as seen by {remote}{rtt}");
            nat(seq, local.ip(), "mapped address", value, State::Plain)
        }
        Measurement::Mapping { local, behavior, exact, mapped, destinations } => {
            let (value, state) = match (local == mapped, behavior) {
                (true, _) => ("no NAT: servers see this host's own address".to_owned(), State::Good),
                (_, MappingBehavior::EndpointIndependent) => {
                    (format!("{behavior} (towards {} destinations)", destinations.len()), State::Good)
                }
                _ => match mapping_in_front(side, local.ip(), (*behavior, *exact)) {
                    (behavior, true) => (behavior.to_string(), State::Warning),
                    (behavior, false) => {
                        (format!("{behavior} at least: no two ports of one server were compared"), State::Warning)
                    }
                },
            };
            nat(seq, local.ip(), "mapping", value, state)
        }
        Measurement::Filtering { local, behavior, transmissions, .. } => {
            let value = match behavior {
                FilteringBehavior::EndpointIndependent => format!("{behavior}: anyone is let in"),
                _ => format!("{behavior} (silence after {transmissions} requests)"),
            };
            nat(seq, *local, "filtering", value, State::Plain)
        }
        Measurement::PortAllocation { local, ports, addresses } => {
            let addresses = match addresses.as_slice() {
                [] => return None,
                [_] => String::new(),
                several => {
                    let list = several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    format!("; several public addresses: {list}")
                }
            };
            let state = if addresses.is_empty() { State::Plain } else { State::Warning };
            nat(seq, *local, "ports", format!("{}{addresses}", ports_in_words(ports)), state)
        }
        Measurement::Hairpin { local, behavior, sent, arrived, .. } => {
            let (word, state) = match behavior {
                Hairpinning::Unsupported => ("not supported", State::Plain),
                Hairpinning::ExternalSource => ("works", State::Good),
                Hairpinning::InternalSource => ("works, but shows the internal address", State::Warning),
            };
            nat(seq, local.ip(), "hairpinning", format!("{word} ({arrived} of {sent} arrived)"), state)
        }
        Measurement::MappingLifetime { local, at_least_s, at_most_s } => {
            let value = match at_most_s {
                Some(most) if *at_least_s == 0 => format!("an idle mapping lives less than {most} s"),
                Some(most) => format!("an idle mapping lives {at_least_s} s, and not {most} s"),
                None => format!("an idle mapping lives {at_least_s} s or more"),
            };
            // RFC 4787 REQ-5: two minutes at least.
            let state = if at_most_s.is_some_and(|most| most < 120) { State::Warning } else { State::Plain };
            nat(seq, *local, "mapping lifetime", value, state)
        }
        Measurement::AddressRewriting { local, plain, xored, .. } => {
            let (value, state) = if plain == xored {
                ("no: addresses inside of packets arrive unchanged".to_owned(), State::Good)
            } else {
                (format!("yes: {xored} arrived as {plain}: an application-level gateway"), State::Warning)
            };
            nat(seq, local.ip(), "rewriting", value, state)
        }
        Measurement::EarlyArrival { local, mapped, observed, control, arrived, .. } => {
            let (value, state) = match (observed == mapped, control == mapped) {
                (true, _) if *arrived => {
                    ("harmless: the early packet gets through to this host".to_owned(), State::Good)
                }
                (true, _) => ("harmless: the mapping outlives an early packet".to_owned(), State::Good),
                (false, true) => {
                    (format!("an early packet steals the mapping: {mapped} becomes {observed}"), State::Bad)
                }
                (false, false) => ("not told: the mapping depends on the destination anyway".to_owned(), State::Plain),
            };
            nat(seq, local.ip(), "early arrival", value, state)
        }
        Measurement::ThirdParty { remote, observed, sent, .. } => match observed {
            Some(observed) => {
                udp(seq, *remote, "third party, high port", format!("reached, as {observed}"), State::Good)
            }
            None if !udp_was_asked(side) => {
                let value = format!("not measured: {sent} packets did not arrive, and {NOBODY_OVER_UDP}");
                udp(seq, *remote, "third party, high port", value, State::Plain)
            }
            None => {
                udp(seq, *remote, "third party, high port", format!("nothing of {sent} packets arrived"), State::Bad)
            }
        },
        Measurement::Reach { .. } => reach(side, seq, fact),
        Measurement::PathMtu { remote, direction, payload, lost, .. } => {
            let name = if *direction == Direction::Out { "largest packet out" } else { "largest packet in" };
            let lost = lost.map_or_else(String::new, |lost| format!(", {lost} bytes did not"));
            let state = if *payload < 1252 { State::Warning } else { State::Plain };
            udp(seq, *remote, name, format!("{payload} bytes of payload arrived{lost}"), state)
        }
        Measurement::PacketShape { remote, shaped_sent, shaped_arrived, random_sent, random_arrived, .. } => {
            let blocked = *shaped_arrived == 0 && *random_arrived > 0;
            let value = format!(
                "{shaped_arrived} of {shaped_sent} shaped as WireGuard's arrived, {random_arrived} of {random_sent} random ones"
            );
            udp(seq, *remote, "WireGuard shape", value, if blocked { State::Bad } else { State::Plain })
        }
        _ => None,
    }
}

/// Why silence over UDP shows nothing: the port may as well be closed at the server.
const NOBODY_OVER_UDP: &str = "no server was asked over UDP that would tell this network from a closed port";

/// Whether any server whose URL names UDP was asked over it.
pub(super) fn udp_was_asked(side: &SideEvidence) -> bool {
    side.measured.facts.iter().any(|(_, fact)| {
        matches!(fact, Measurement::Reach { transport: Transport::Udp, unannounced: false, .. })
            || matches!(fact, Measurement::MappedAddress { .. })
    })
}

/// What came back of a server that was asked.
fn reach(side: &SideEvidence, seq: u64, fact: &Measurement) -> Option<Row> {
    let Measurement::Reach { transport, local, remote, rtt_us, detail, unannounced } = fact else { return None };
    let name = match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
        Transport::Tls => "TLS",
    };
    let mut evidence = vec![seq];
    let mut detail = detail.clone();
    if let (Transport::Udp, None, Some(refusal)) = (transport, rtt_us, refusal::of(side, *local, &[*remote])) {
        evidence.push(refusal.seq);
        detail = Some(refusal.words);
    }
    let late = side.late().find(|late| late.server == *remote && *local == Some(late.local));
    let late = late.filter(|_| detail.is_none());
    evidence.extend(late.map(|late| late.seq));
    let (value, state) = match (rtt_us, detail) {
        (Some(us), None) => (format!("answers in {}", milliseconds(*us)), State::Good),
        (Some(us), Some(detail)) if *transport == Transport::Udp => {
            (format!("passes in {}: {detail}", milliseconds(*us)), State::Good)
        }
        (Some(us), Some(detail)) => {
            (format!("passes in {}, but {}", milliseconds(*us), tls_in_words(&detail)), State::Warning)
        }
        (None, Some(detail)) if detail.starts_with("no answer") => (detail, State::Warning),
        (None, Some(detail)) if *transport != Transport::Udp && refusal::is_reset(&detail) => {
            (refusal::RESET.to_owned(), State::Warning)
        }
        (None, Some(detail)) => (format!("no answer: {detail}"), State::Warning),
        (None, None) => match late {
            Some(late) => (too_late(late.after_us), State::Warning),
            None => ("no answer".to_owned(), State::Bad),
        },
    };
    let (value, state) = match (unannounced, state) {
        (false, state) => (value, state),
        (true, State::Good) => (format!("{value} ({TRIED})"), State::Good),
        (true, _) => (format!("{value} ({TRIED}, it need not be offered)"), State::Plain),
    };
    let (section, subject) = (Section::Udp, remote.to_string());
    Some(Row { section, subject, name, value, state, evidence })
}

/// An answer that nobody waited for any more.
pub(super) fn too_late(after_us: u64) -> String {
    format!("answered after {:.1} s, when the check waited no longer (--time gives it more)", after_us as f64 / 1e6)
}

/// What a transport is that no URL names.
const TRIED: &str = "a try: no URL names it";

/// Port preservation, or the step from port to port, or that there is no order.
fn ports_in_words(ports: &[PortPair]) -> String {
    if ports.len() < 2 {
        return "too few were seen".to_owned();
    }
    if ports.iter().all(|pair| pair.internal == pair.external) {
        return format!("preserved ({} of {})", ports.len(), ports.len());
    }
    let kept = ports.iter().filter(|pair| pair.internal == pair.external).count();
    let steps: Vec<i32> =
        ports.windows(2).map(|pair| i32::from(pair[1].external) - i32::from(pair[0].external)).collect();
    let step = steps[0];
    let list = ports.iter().map(|pair| pair.external.to_string()).collect::<Vec<_>>().join(", ");
    // Other hosts' mappings fall between ours, so small steps upwards are an order, too.
    let in_order = steps.iter().all(|step| (1..=16).contains(step));
    match steps.iter().all(|other| *other == step) {
        true => format!("not preserved, in steps of {step}: predictable ({list})"),
        false if in_order => format!("not preserved, rising in small steps: predictable ({list})"),
        false if kept > 0 => format!("preserved for {kept} of {} ({list})", ports.len()),
        false => format!("not preserved, unpredictable ({list})"),
    }
}

pub(super) fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}

/// What a peer can expect of this host.
pub(super) fn summary(side: &SideEvidence, first: Option<&Finding>) -> String {
    if let Some(finding) = first.filter(|finding| finding.severity != crate::diagnosis::finding::Severity::Info) {
        return finding.summary.clone();
    }
    let behavior = side.measured.nats().into_iter().find_map(|nat| {
        let (mapping, exact) = mapping_in_front(side, nat.local, nat.mapping?);
        Some((nat, mapping, exact, nat.filtering))
    });
    let Some((nat, mapping, exact, filtering)) = behavior else {
        let seen = side.measured.nats().into_iter().find_map(|nat| nat.mapped);
        return match seen {
            Some((_, mapped)) => format!(
                "This host is seen at {mapped} by a server, and nothing was found wrong; how the network treats other destinations is not known: that takes servers at two addresses."
            ),
            None => {
                "Nothing was found wrong, but what this network does to UDP is not known: see what was not measured."
                    .to_owned()
            }
        };
    };
    let what = if nat.translates() == Some(false) { "There is no NAT" } else { "The NAT" };
    let home = (MappingBehavior::EndpointIndependent, FilteringBehavior::AddressAndPortDependent);
    let hard = (MappingBehavior::AddressAndPortDependent, FilteringBehavior::AddressAndPortDependent);
    let own = (mapping, filtering.unwrap_or(FilteringBehavior::AddressAndPortDependent));
    let how = match (nat.translates(), exact) {
        (Some(false), _) => String::new(),
        (_, true) => format!("'s mapping is {mapping}"),
        (_, false) => format!("'s mapping is {mapping} at least"),
    };
    let reach = match (can_connect(own, home), can_connect(own, hard)) {
        (true, true) => "direct connections should come about with any peer whose network lets UDP out",
        (true, false) => {
            "direct connections should come about with ordinary peers, not with one whose NAT maps each destination apart (a symmetric NAT)"
        }
        (false, _) => "direct connections come about only with peers that are open or have a port forwarded",
    };
    format!("{what}{how}: {reach}.")
}
