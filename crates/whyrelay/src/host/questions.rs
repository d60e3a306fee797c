//! What the kernel's routing answers for a packet of the session, and which policy rule decided.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::Parseable;
use netlink_packet_route::route::RouteMessage;
use whyrelay_core::host::{
    AnsweredRoute, Family, Link, PolicyRule, Prefix, RouteAnswer, RouteFailure, RouteKind, RouteQuestion, RuleAction,
};

use super::netlink::{Netlink, push_attribute};
use super::tables;

const RTM_GETROUTE: u16 = 26;

// Attributes of linux/rtnetlink.h.
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_MARK: u16 = 16;
const RTA_UID: u16 = 25;
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;

const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
const RTM_F_FIB_MATCH: u32 = 0x2000;

pub(super) const MAIN: u32 = 254;
const LOCAL: u32 = 255;

/// Asks for the route of a packet.
pub(super) fn ask(
    netlink: &mut Netlink,
    question: RouteQuestion,
    links: &BTreeMap<u32, Link>,
    rules: &[PolicyRule],
) -> RouteAnswer {
    let chosen = request(netlink, &question, links, RTM_F_LOOKUP_TABLE);
    let answer = match chosen {
        Ok((route, _)) => {
            // The entry of the table that matched; the answer above names only the packet's own address.
            let matched = request(netlink, &question, links, RTM_F_LOOKUP_TABLE | RTM_F_FIB_MATCH).ok();
            // As long as nobody adds a rule the kernel keeps both in one table and names it `main`.
            let is_local = route.route_kind == RouteKind::Local && route.table == MAIN;
            let route = AnsweredRoute {
                table: if is_local { LOCAL } else { route.table },
                route_kind: route.route_kind,
                device: route.device,
                gateway: route.gateway,
                preferred_source: route.preferred_source,
                matched: matched.map(|(entry, _)| entry.destination),
                mtu: route.mtu,
            };
            RouteAnswer { question, route: Some(route), failure: None, rule: None }
        }
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(0);
            let failure = RouteFailure { errno, detail: error.to_string() };
            RouteAnswer { question, route: None, failure: Some(failure), rule: None }
        }
    };
    let rule = deciding_rule(&answer, rules);
    RouteAnswer { rule, ..answer }
}

fn request(
    netlink: &mut Netlink,
    question: &RouteQuestion,
    links: &BTreeMap<u32, Link>,
    flags: u32,
) -> io::Result<(whyrelay_core::host::Route, bool)> {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let is_v4 = question.destination.is_ipv4();
    let length = if is_v4 { 32 } else { 128 };
    let family = u8::try_from(if is_v4 { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or(0);
    let source_length = if question.source.is_some() { length } else { 0 };
    let mut payload = vec![family, length, source_length, 0, 0, 0, 0, 0];
    payload.extend(flags.to_ne_bytes());
    push_attribute(&mut payload, RTA_DST, &bytes(question.destination));
    if let Some(source) = question.source {
        push_attribute(&mut payload, RTA_SRC, &bytes(source));
    }
    if let Some(device) = &question.out_device {
        let index = links.values().find(|link| link.device == *device).map(|link| link.index);
        let index = index.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        push_attribute(&mut payload, RTA_OIF, &index.to_ne_bytes());
    }
    if question.mark != 0 {
        push_attribute(&mut payload, RTA_MARK, &question.mark.to_ne_bytes());
    }
    push_attribute(&mut payload, RTA_UID, &question.user.to_ne_bytes());
    push_attribute(&mut payload, RTA_IP_PROTO, &[question.protocol]);
    if let Some(port) = question.source_port {
        push_attribute(&mut payload, RTA_SPORT, &port.to_be_bytes());
        push_attribute(&mut payload, RTA_DPORT, &question.destination_port.to_be_bytes());
    }
    let answer = netlink.ask(RTM_GETROUTE, &payload)?;
    let message = RouteMessage::parse(&answer).map_err(|error| io::Error::other(error.to_string()))?;
    tables::route(&message, links).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The rule that decided: the first whose selectors take the packet and whose table or action is the answer's. Rules
/// before it that take the packet, too, had no route in their table, or had it suppressed.
fn deciding_rule(answer: &RouteAnswer, rules: &[PolicyRule]) -> Option<u32> {
    let family = Family::of(answer.question.destination);
    let mut candidates: Vec<&PolicyRule> =
        rules.iter().filter(|rule| rule.family == family && selects(rule, &answer.question)).collect();
    candidates.sort_by_key(|rule| rule.priority);
    let decides = |rule: &&PolicyRule| match (&answer.route, &answer.failure) {
        (Some(route), _) => rule.rule_action == RuleAction::Lookup && rule.table == Some(route.table),
        (None, Some(failure)) => match failure.errno {
            libc::EINVAL => rule.rule_action == RuleAction::Blackhole,
            libc::EACCES => rule.rule_action == RuleAction::Prohibit,
            libc::ENETUNREACH => rule.rule_action == RuleAction::Unreachable,
            _ => false,
        },
        (None, None) => false,
    };
    candidates.into_iter().find(decides).map(|rule| rule.priority)
}

/// Whether a rule's selectors take a packet of this host.
fn selects(rule: &PolicyRule, question: &RouteQuestion) -> bool {
    let within = |range: Option<(u16, u16)>, port: Option<u16>| {
        range.is_none_or(|(first, last)| port.is_some_and(|port| (first..=last).contains(&port)))
    };
    let covers = |prefix: Option<Prefix>, address: Option<IpAddr>| {
        prefix.is_none_or(|prefix| address.is_some_and(|address| prefix.contains(address)))
    };
    let ports = question.source_port.map(|_| question.destination_port);
    let mask = rule.mask.unwrap_or(u32::MAX);
    let taken = covers(rule.from, question.source)
        && covers(rule.to, Some(question.destination))
        && rule.in_device.as_deref().is_none_or(|device| device == "lo")
        && rule.out_device.as_deref().is_none_or(|device| question.out_device.as_deref() == Some(device))
        && rule.mark.is_none_or(|mark| question.mark & mask == mark & mask)
        && rule.users.is_none_or(|(first, last)| (first..=last).contains(&question.user))
        && rule.protocol.is_none_or(|protocol| protocol == question.protocol)
        && within(rule.source_ports, question.source_port)
        && within(rule.destination_ports, ports)
        && rule.tos.is_none();
    taken != rule.invert
}

#[cfg(test)]
mod tests {
    use whyrelay_core::host::RoutePurpose;

    use super::*;

    fn question(mark: u32, port: u16) -> RouteQuestion {
        RouteQuestion {
            purpose: RoutePurpose::Peer,
            destination: IpAddr::from([198, 51, 100, 7]),
            destination_port: 40000,
            source: Some(IpAddr::from([10, 0, 0, 1])),
            source_port: Some(port),
            protocol: 17,
            mark,
            user: 0,
            out_device: None,
            probe: false,
        }
    }

    fn rule(json: &str) -> PolicyRule {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_rule_takes_what_its_selectors_say() {
        let table = [
            (
                r#"{"family":"v4","priority":110,"rule_action":"lookup","table":7120,"mark":113920,"invert":true}"#,
                false,
            ),
            (r#"{"family":"v4","priority":1,"rule_action":"blackhole","mark":15616,"mask":16128}"#, true),
            (r#"{"family":"v4","priority":1,"rule_action":"blackhole","mark":65536,"mask":65536}"#, true),
            (
                r#"{"family":"v4","priority":1,"rule_action":"lookup","table":9,"protocol":17,"source_ports":[51820,51820]}"#,
                true,
            ),
            (r#"{"family":"v4","priority":1,"rule_action":"lookup","table":9,"users":[1000,2000]}"#, false),
            (
                r#"{"family":"v4","priority":1,"rule_action":"lookup","table":9,"to":{"address":"198.51.100.0","length":26}}"#,
                true,
            ),
            (r#"{"family":"v4","priority":1,"rule_action":"lookup","table":9,"in_device":"eth1"}"#, false),
        ];
        for (json, taken) in table {
            assert_eq!(selects(&rule(json), &question(0x1bd00, 51820)), taken, "{json}");
        }
        // mwan3's blackhole takes NetBird's mark: 0x1bd00 & 0x3f00 is 0x3d00.
        let mwan3 = rule(r#"{"family":"v4","priority":2061,"rule_action":"blackhole","mark":15616,"mask":16128}"#);
        assert!(selects(&mwan3, &question(0x1bd00, 1)) && !selects(&mwan3, &question(0x1c000, 1)));
    }
}
