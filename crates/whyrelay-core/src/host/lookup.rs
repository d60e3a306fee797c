//! How Linux decides where a packet goes: policy rules, tables, routes.
//!
//! A pure function of what `ip rule`, `ip route show table all` and `ip address` say. It answers what the kernel's own
//! RTM_GETROUTE answers, and in addition which rule decided. The order (fib_rules_lookup, fib_table_lookup and
//! ip_route_output_key in the kernel): rules by priority; the first whose selectors match and whose table has a route
//! decides; in a table the longest prefix wins, then the least metric; *throw* and a suppressed prefix go on to the
//! next rule.

use std::net::IpAddr;

use super::network::{Address, Family, PolicyRule, Prefix, Route, RouteKind, RuleAction};
use super::routing::{AnsweredRoute, RouteAnswer, RouteFailure, RouteQuestion};

/// errno of Linux for a refused route.
mod errno {
    /// EACCES, for *prohibit*.
    pub(super) const ACCES: i32 = 13;
    /// EINVAL, for *blackhole*.
    pub(super) const INVAL: i32 = 22;
    /// ENETUNREACH, for no route and for rules that say *unreachable*.
    pub(super) const NETUNREACH: i32 = 101;
    /// EHOSTUNREACH, for routes that say *unreachable*.
    pub(super) const HOSTUNREACH: i32 = 113;
}

/// Most jumps from rule to rule, so that a circle ends.
const MAX_JUMPS: usize = 1000;

/// Answers a question about a packet that this host sends.
pub fn look_up(rules: &[PolicyRule], routes: &[Route], addresses: &[Address], question: &RouteQuestion) -> RouteAnswer {
    look_up_from(rules, routes, addresses, question, "lo")
}

/// Answers a question about a packet that came by a device, `lo` for one that this host sends: what rp_filter asks
/// about the way back.
pub fn look_up_from(
    rules: &[PolicyRule],
    routes: &[Route],
    addresses: &[Address],
    question: &RouteQuestion,
    in_device: &str,
) -> RouteAnswer {
    let family = Family::of(question.destination);
    let mut ordered: Vec<&PolicyRule> = rules.iter().filter(|rule| rule.family == family).collect();
    ordered.sort_by_key(|rule| rule.priority);
    let answer = |rule: Option<u32>, result: Result<AnsweredRoute, RouteFailure>| RouteAnswer {
        question: question.clone(),
        rule,
        failure: result.as_ref().err().cloned(),
        route: result.ok(),
    };
    let mut refused = (None, failure(errno::NETUNREACH, "ENETUNREACH: no route"));
    let (mut position, mut jumps) = (0, 0);
    while let Some(rule) = ordered.get(position) {
        position += 1;
        if !selects(rule, question, in_device) {
            continue;
        }
        let decided = match rule.rule_action {
            RuleAction::Lookup => match in_table(rule, routes, question) {
                Some(route) => chosen(route, addresses),
                None => continue,
            },
            RuleAction::Goto => {
                jumps += 1;
                let target = rule.goto.and_then(|goto| ordered.iter().position(|rule| rule.priority == goto));
                if let Some(target) = target.filter(|_| jumps < MAX_JUMPS) {
                    position = target;
                }
                continue;
            }
            RuleAction::Nop | RuleAction::Other => continue,
            RuleAction::Blackhole => Err(failure(errno::INVAL, "EINVAL: the rule is a blackhole")),
            RuleAction::Unreachable => Err(failure(errno::NETUNREACH, "ENETUNREACH: the rule says unreachable")),
            RuleAction::Prohibit => Err(failure(errno::ACCES, "EACCES: the rule prohibits it")),
        };
        match decided {
            Ok(route) => return answer(Some(rule.priority), Ok(route)),
            Err(failure) => {
                refused = (Some(rule.priority), failure);
                break;
            }
        }
    }
    // A socket bound to a device needs no route: IPv4 takes the destination to be on that link.
    if let (Some(device), Family::V4) = (&question.out_device, family) {
        let preferred_source = question.source.or_else(|| source_on(device, question.destination, addresses));
        let route = AnsweredRoute {
            route_kind: RouteKind::Unicast,
            device: Some(device.clone()),
            gateway: None,
            preferred_source,
            table: 254,
            matched: None,
            mtu: None,
        };
        return answer(None, Ok(route));
    }
    answer(refused.0, Err(refused.1))
}

/// Whether a rule's selectors match.
fn selects(rule: &PolicyRule, question: &RouteQuestion, in_device: &str) -> bool {
    let any = |prefix: &Prefix| prefix.length == 0;
    let within = |port: Option<u16>, range: Option<(u16, u16)>| match (port, range) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(port), Some((first, last))) => (first..=last).contains(&port),
    };
    let from = rule.from.is_none_or(|from| any(&from) || question.source.is_some_and(|source| from.contains(source)));
    let to = rule.to.is_none_or(|to| to.contains(question.destination));
    let mark = rule.mark.is_none_or(|mark| {
        let mask = rule.mask.unwrap_or(u32::MAX);
        question.mark & mask == mark & mask
    });
    let in_device = rule.in_device.as_ref().is_none_or(|device| device == in_device);
    let out_device = rule.out_device.as_ref().is_none_or(|device| Some(device) == question.out_device.as_ref());
    let user = rule.users.is_none_or(|(first, last)| (first..=last).contains(&question.user));
    let protocol = rule.protocol.is_none_or(|protocol| protocol == question.protocol);
    let source_port = within(question.source_port, rule.source_ports);
    let destination_port = within(Some(question.destination_port), rule.destination_ports);
    // What a VRF's table is for packets outside of it is never looked up; the type of service is always 0 here.
    let other = !rule.l3mdev && rule.tos.is_none_or(|tos| tos == 0);
    let matches =
        from && to && mark && in_device && out_device && user && protocol && source_port && destination_port && other;
    matches != rule.invert
}

/// The route that a rule's table has for a question: nothing, when the lookup goes on to the next rule.
fn in_table<'a>(rule: &PolicyRule, routes: &'a [Route], question: &RouteQuestion) -> Option<&'a Route> {
    let refuses = |kind: &RouteKind| {
        matches!(kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw)
    };
    let usable = |route: &&Route| {
        let device = question.out_device.is_none() || route.device == question.out_device;
        route.destination.contains(question.destination) && (device || refuses(&route.route_kind))
    };
    let found = routes
        .iter()
        .filter(|route| Some(route.table) == rule.table && usable(route))
        // The first of equals: `min_by_key` keeps it.
        .min_by_key(|route| (std::cmp::Reverse(route.destination.length), route.metric.unwrap_or(0)))?;
    let suppressed = rule.suppress_prefix_length.is_some_and(|most| u32::from(found.destination.length) <= most);
    (found.route_kind != RouteKind::Throw && !suppressed).then_some(found)
}

fn chosen(route: &Route, addresses: &[Address]) -> Result<AnsweredRoute, RouteFailure> {
    match route.route_kind {
        RouteKind::Blackhole => return Err(failure(errno::INVAL, "EINVAL: a blackhole route")),
        RouteKind::Unreachable => return Err(failure(errno::HOSTUNREACH, "EHOSTUNREACH: the route says unreachable")),
        RouteKind::Prohibit => return Err(failure(errno::ACCES, "EACCES: the route prohibits it")),
        _ => {}
    }
    let toward = route.gateway.unwrap_or(route.destination.address);
    let source = || route.device.as_ref().and_then(|device| source_on(device, toward, addresses));
    Ok(AnsweredRoute {
        route_kind: route.route_kind.clone(),
        device: route.device.clone(),
        gateway: route.gateway,
        preferred_source: route.preferred_source.or_else(source),
        table: route.table,
        matched: Some(route.destination),
        mtu: route.mtu,
    })
}

/// The source that the kernel takes when the route prefers none: the device's first address in the next hop's network,
/// else its first.
fn source_on(device: &str, toward: IpAddr, addresses: &[Address]) -> Option<IpAddr> {
    let own = || addresses.iter().filter(|own| own.device == device && Family::of(own.address) == Family::of(toward));
    let near = |own: &&Address| Prefix { address: own.address, length: own.prefix_length }.contains(toward);
    own().find(near).or_else(|| own().next()).map(|own| own.address)
}

fn failure(errno: i32, detail: &str) -> RouteFailure {
    RouteFailure { errno, detail: detail.to_owned() }
}
