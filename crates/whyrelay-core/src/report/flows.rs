//! Flows: the checks of one side over one kind of route, taken together, and where they stop.

use serde::Serialize;

use super::describe::duration;
use super::network::NetworkServer;
use crate::diagnosis::session::{Break, Chain, JoinedPair, Path, Session};
use crate::ice::candidate::CandidateType;
use crate::trace::event::Vantage;

/// A kind of route: through which relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Route {
    /// Through A's relay.
    pub a_relay: bool,
    /// Through B's relay.
    pub b_relay: bool,
}

/// Checks of one side over one kind of route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Whose checks.
    pub from: Vantage,
    /// Over which route.
    pub route: Route,
    /// Which of the network's servers stand on the way, A's first.
    pub via: Vec<usize>,
    /// On how many pairs.
    pub pairs: u32,
    /// Checks that were sent; `null` when the sender was not recorded.
    pub sent: Option<u32>,
    /// Transmissions of them; `null` likewise.
    pub transmissions: Option<u32>,
    /// Checks that the other side saw.
    pub seen: Option<u32>,
    /// Checks that it answered.
    pub answered: Option<u32>,
    /// Answers that came back.
    pub answer_seen: Option<u32>,
    /// Where they stop; `null` when a check was answered, or nothing was sent.
    pub stops: Option<Break>,
    /// Whether data goes over this route.
    pub selected: bool,
    /// Whether a drawing shows it: the route of the data, the direct one, and a relayed one.
    pub drawn: bool,
    /// What became of them, in a few words.
    pub label: String,
}

/// Every flow: the route of the data first, then the direct one, then relayed ones; A's before B's.
pub(super) fn flows(session: &Session<'_>, servers: &[NetworkServer]) -> Vec<Flow> {
    let mut routes: Vec<(Route, Vec<&JoinedPair>)> = Vec::new();
    for pair in &session.pairs {
        let relay = |vantage| session.end(pair, vantage).is_some_and(|end| end.kind == CandidateType::Relayed);
        let route = Route { a_relay: relay(Vantage::A), b_relay: relay(Vantage::B) };
        match routes.iter_mut().find(|(known, _)| *known == route) {
            Some((_, pairs)) => pairs.push(pair),
            None => routes.push((route, vec![pair])),
        }
    }
    let carries_data = |pairs: &[&JoinedPair]| session.path != Path::Failed && pairs.iter().any(|pair| pair.selected);
    routes.sort_by_key(|(route, pairs)| (!carries_data(pairs), *route));
    let mut flows: Vec<Flow> = Vec::new();
    for (route, pairs) in &routes {
        // Three or four relayed routes say the same as one, so that only the first is drawn.
        let is_relayed = |route: Route| route.a_relay || route.b_relay;
        let drawn = !flows.iter().any(|flow| flow.route != *route && is_relayed(flow.route) && is_relayed(*route));
        for from in [Vantage::A, Vantage::B] {
            let mut flow = flow(session, from, *route, pairs);
            let Some(flow) = flow.as_mut() else { continue };
            flow.selected = carries_data(pairs);
            flow.drawn = drawn;
            flow.via = via(session, *route, pairs, servers);
            flow.label = label(flow, pairs);
            flows.push(flow.clone());
        }
    }
    flows
}

fn flow(session: &Session<'_>, from: Vantage, route: Route, pairs: &[&JoinedPair]) -> Option<Flow> {
    let was_sent = |pair: &&&JoinedPair| {
        let chain = pair.from(from);
        chain.sent.is_some_and(|sent| sent.checks > 0) || chain.seen.as_ref().is_some_and(|seen| seen.checks > 0)
    };
    let arrived = |pair: &JoinedPair| pair.from(from).seen.as_ref().is_some_and(|seen| seen.checks > 0);
    let sent: Vec<&JoinedPair> = pairs.iter().filter(was_sent).copied().collect();
    // A peer's private address in another network answers nobody, and that is no fault.
    let sensible: Vec<&JoinedPair> =
        sent.iter().filter(|pair| pair.relayed || session.could_arrive(pair, from) || arrived(pair)).copied().collect();
    let counted = if sensible.is_empty() { sent } else { sensible };
    let chains: Vec<&Chain> = counted.iter().map(|pair| pair.from(from)).collect();
    let first = chains.first()?;
    // Measured on one pair is measured on all: it depends on which sides were recorded.
    let total = |count: fn(&Chain) -> Option<u32>| {
        count(first)?;
        Some(chains.iter().filter_map(|chain| count(chain)).fold(0, u32::saturating_add))
    };
    let works = chains.iter().any(|chain| chain.broken.is_none() && chain.answer_seen.or(chain.answered) > Some(0));
    let furthest = chains.iter().filter_map(|chain| chain.broken).max_by_key(|broken| progress(*broken));
    Some(Flow {
        from,
        route,
        via: Vec::new(),
        pairs: u32::try_from(chains.len()).unwrap_or(u32::MAX),
        sent: total(|chain| Some(chain.sent?.checks)),
        transmissions: total(|chain| Some(chain.sent?.transmissions)),
        seen: total(|chain| Some(chain.seen.as_ref()?.checks)),
        answered: total(|chain| chain.answered),
        answer_seen: total(|chain| chain.answer_seen),
        stops: if works { None } else { furthest },
        selected: false,
        drawn: true,
        label: String::new(),
    })
}

/// How far a check came before its chain broke.
const fn progress(broken: Break) -> u8 {
    match broken {
        Break::AtSending => 0,
        Break::OnTheWay => 1,
        Break::Somewhere => 2,
        Break::AtAnswering => 3,
        Break::OnTheWayBack => 4,
        Break::Refused => 5,
    }
}

/// The servers that relay, as far as they are known: the one that gave the relayed address.
fn via(session: &Session<'_>, route: Route, pairs: &[&JoinedPair], servers: &[NetworkServer]) -> Vec<usize> {
    let of = |vantage: Vantage, wanted: bool| {
        let base =
            pairs.iter().filter(|_| wanted).find_map(|pair| session.end(pair, vantage)).map(|end| end.address)?;
        let gave = |server: &NetworkServer| {
            let reach = if vantage == Vantage::A { &server.a } else { &server.b };
            reach.as_ref().is_some_and(|reach| reach.relayed.contains(&base)) || server.address == Some(base.ip())
        };
        servers.iter().position(gave).or_else(|| servers.iter().position(|server| server.is_relay))
    };
    let mut via: Vec<usize> =
        [of(Vantage::A, route.a_relay), of(Vantage::B, route.b_relay)].into_iter().flatten().collect();
    via.dedup();
    via
}

fn label(flow: &Flow, pairs: &[&JoinedPair]) -> String {
    let (from, to) = (flow.from.name(), flow.from.other().name());
    let checks = |count: u32| if count == 1 { "1 check".to_owned() } else { format!("{count} checks") };
    let sent = flow.sent.map_or_else(|| "checks".to_owned(), checks);
    let times = match flow.transmissions {
        Some(1) => "sent once".to_owned(),
        Some(times) => format!("sent {times} times"),
        None => "sent".to_owned(),
    };
    let seen = flow.seen.unwrap_or(0);
    match flow.stops {
        None if flow.answer_seen.is_none() => format!("{} arrived at {to}", checks(seen)),
        None => {
            let fastest = pairs.iter().filter_map(|pair| pair.from(flow.from).round_trip_us).min();
            let took = fastest.map_or_else(String::new, |us| format!(" in {}", duration(us)));
            let of = flow.sent.map_or_else(String::new, |sent| format!(" of {sent}"));
            format!("{}{of} answered{took}", flow.answer_seen.unwrap_or(0))
        }
        Some(Break::AtSending) => format!("{sent}, refused by {from}'s own system"),
        Some(Break::OnTheWay) => format!("{times}, none reached {to}"),
        Some(Break::AtAnswering) => format!("{} reached {to}, none answered", checks(seen)),
        Some(Break::OnTheWayBack) => format!("{} reached {to}, the answers were lost", checks(seen)),
        Some(Break::Refused) => format!("{sent}, {to} answered with errors"),
        Some(Break::Somewhere) => format!("{times}, no answer; what {to} saw is not known"),
    }
}
