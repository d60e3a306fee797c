//! Where the kernel sends a session's packets for the peer, against where it sends those for the servers: the
//! difference is local routing, and no NAT is to blame for what it does.

mod behind;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::evidence::{HostEvidence, SideEvidence, Taken};
use super::network::{Told, told};
use super::session::{Path, Session};
use crate::host::{
    Address, AnsweredRoute, PolicyRule, ProbeAim, ProbeOutcome, Route, RouteAnswer, RouteKind, RoutePurpose,
    RuleAction, look_up,
};
use crate::ice::candidate::CandidateType;
use crate::trace::address::AddressClass;
use crate::trace::event::{Transport, Vantage};

pub(super) use behind::{MendedWay, MendedWays, Untold, hidden, untold_addresses, untold_ways, with_mark};

/// Sources with the rules that lead them elsewhere that are looked at: each takes all tables.
const MAX_ASTRAY: usize = 16;

/// The tables and rules that every Linux has: local, main and default.
const OWN_TABLES: [u32; 4] = [0, 253, 254, 255];
const OWN_PRIORITIES: [u32; 3] = [0, 32_766, 32_767];

/// A question about a candidate of the peer whose answer is another than the servers'.
#[derive(Clone, Debug)]
pub struct Diversion<'a> {
    /// The answer for the peer; of one that another hides, the answer that would be, with the event of the one that is.
    pub answer: Cow<'a, Taken<RouteAnswer>>,
    /// The answer for a server, asked alike.
    pub server: Option<Cow<'a, Taken<RouteAnswer>>>,
    /// What does it.
    pub by: By<'a>,
    /// What hides it, in the order in which it would have to be mended: in words, and the event that told of it.
    pub behind: Vec<(String, u64)>,
}

impl<'a> Diversion<'a> {
    const fn seen(answer: &'a Taken<RouteAnswer>, server: Option<&'a Taken<RouteAnswer>>, by: By<'a>) -> Self {
        let server = match server {
            Some(server) => Some(Cow::Borrowed(server)),
            None => None,
        };
        Self { answer: Cow::Borrowed(answer), server, by, behind: Vec::new() }
    }
}

/// What sends a packet for the peer elsewhere.
#[derive(Clone, Copy, Debug)]
pub enum By<'a> {
    /// The kernel refuses to route it.
    Refusal,
    /// A policy rule that selects by the session's mark; without the mark the packet would go where it should.
    MarkRule(Option<&'a Taken<PolicyRule>>),
    /// A policy rule that selects this traffic.
    PolicyRule(Option<&'a Taken<PolicyRule>>),
    /// A route into a tunnel that covers the peer and not the servers.
    TunnelRoute,
    /// A bridge of this host whose network contains the peer's address.
    Bridge,
    /// A route to the peer by another uplink than to the servers.
    OtherUplink,
}

/// Candidates of the peer that a side could reach directly: public ones, and private ones on a network of its own.
pub fn reachable_candidates<'a>(side: &'a SideEvidence, peer: &'a SideEvidence) -> impl Iterator<Item = IpAddr> + 'a {
    let told = side.remote_candidates.iter().filter(|remote| remote.candidate.kind != CandidateType::Relayed);
    told.filter_map(|remote| remote.address)
        .filter(|address| !peer.is_relayed(*address))
        .map(|address| address.ip())
        .filter(move |&address| match AddressClass::of(address) {
            AddressClass::Public | AddressClass::CarrierGrade => true,
            AddressClass::Private => side.known.has_neighbor(address),
            _ => false,
        })
}

/// Sockets of a side that send from an address of one interface by another: behind a NAT, which sees two hosts with one
/// port, they compete for it with the socket that is at home there.
#[derive(Clone, Debug, Default)]
pub struct Rivals<'a> {
    /// The interface of each address.
    homes: BTreeMap<IpAddr, &'a str>,
    /// By interface and port: the socket that strays there, and the route that says so.
    strays: BTreeMap<(&'a str, u16), (SocketAddr, &'a Taken<RouteAnswer>)>,
    /// By socket and server, over UDP: the number of the first request, and whether any was repeated.
    asked: BTreeMap<(SocketAddr, SocketAddr), (u64, bool)>,
    /// Sockets without a rival, other ports' probes among them, that the NAT maps otherwise for each destination.
    varies: bool,
    /// Addresses of which the NAT kept the port of no fresh socket, of two at least: it draws every port, so that nobody
    /// can have taken one.
    drawn: BTreeSet<IpAddr>,
}

impl<'a> Rivals<'a> {
    pub(super) fn work_out(side: &'a SideEvidence) -> Self {
        let mut rivals = Self::default();
        for known in &side.host.addresses {
            rivals.homes.entry(known.fact.address).or_insert(&known.fact.device);
        }
        let asking = side.servers.iter().filter(|((transport, ..), _)| *transport == Transport::Udp);
        rivals.asked = asking
            .filter_map(|((_, local, server), path)| {
                let repeated = path.requests.values().any(|tally| tally.transmissions > tally.transactions);
                Some(((*local, *server), (path.first_seq()?, repeated)))
            })
            .collect();
        let mut sends: BTreeSet<SocketAddr> = rivals.asked.keys().map(|(local, _)| *local).collect();
        sends.extend(side.sent.values().map(|check| check.pair.local));
        for answer in &side.host.route_answers {
            let question = &answer.fact.question;
            let (Some(source), Some(port), Some(by)) = (question.source, question.source_port, answer.fact.device())
            else {
                continue;
            };
            let socket = SocketAddr::new(source, port);
            let strays = rivals.homes.get(&source).is_some_and(|home| *home != by);
            if question.out_device.is_none() && strays && sends.contains(&socket) {
                rivals.strays.entry((by, port)).or_insert((socket, answer));
            }
        }
        rivals.varies = rivals.vary(side);
        rivals.drawn = drawn(side);
        rivals
    }

    /// Another address of the side with a socket on the same port, whose packets leave by the interface of this one.
    pub fn of(&self, own: SocketAddr) -> Option<(SocketAddr, &'a Taken<RouteAnswer>)> {
        let home = self.homes.get(&own.ip())?;
        self.strays.get(&(*home, own.port())).copied()
    }

    /// Whether two addresses that servers told of one socket may differ only because a rival holds the port: towards one
    /// of them the NAT kept it and towards the other it did not, or the rival's packet was there before at both. Not where
    /// it maps other ports by destination, too.
    pub fn contend(&self, one: &Told, two: &Told) -> bool {
        let Some((rival, _)) = self.of(one.local).filter(|_| !self.varies && one.mapped != two.mapped) else {
            return false;
        };
        let may_be_taken = |told: &Told| {
            let (own, other) = (self.asked.get(&(told.local, told.server)), self.asked.get(&(rival, told.server)));
            // A repeated request may have been lost before it came to the NAT.
            own.zip(other).is_some_and(|((own, repeated), (other, _))| other < own || *repeated)
        };
        let kept = |told: &Told| told.mapped.port() == told.local.port();
        // Which of two packets sent at about one time came first is not known; a NAT that draws ports keeps none.
        let drawn = self.drawn.contains(&one.local.ip());
        kept(one) != kept(two) || !drawn && may_be_taken(one) && may_be_taken(two)
    }

    /// Whether sockets without a rival are mapped otherwise for each destination: then the NAT is so by itself.
    pub const fn others_vary(&self) -> bool {
        self.varies
    }

    fn vary(&self, side: &SideEvidence) -> bool {
        let mut first: BTreeMap<SocketAddr, SocketAddr> = BTreeMap::new();
        let mut differs = |local: SocketAddr, mapped: SocketAddr| {
            let first = *first.entry(local).or_insert(mapped);
            first.ip() == mapped.ip() && first.port() != mapped.port()
        };
        let probed = side.host.probes_with(|aim| *aim == ProbeAim::OtherPort);
        let probed = probed.filter_map(|probe| match probe.fact.result {
            ProbeOutcome::Answered { mapped: Some(mapped), .. } => Some((probe.fact.local, mapped)),
            _ => None,
        });
        let told = told(side).into_iter().map(|told| (told.local, told.mapped));
        let strays: BTreeSet<SocketAddr> = self.strays.values().map(|(socket, _)| *socket).collect();
        let apart = |local: &SocketAddr| self.of(*local).is_none() && !strays.contains(local);
        probed.chain(told).filter(|(local, _)| apart(local)).any(|(local, mapped)| differs(local, mapped))
    }
}

/// The addresses of a side whose fresh sockets, two at least and each of another port, servers all saw at another port.
fn drawn(side: &SideEvidence) -> BTreeSet<IpAddr> {
    let mut ports: BTreeMap<IpAddr, (BTreeSet<u16>, bool)> = BTreeMap::new();
    for probe in &side.host.probes {
        let ProbeOutcome::Answered { mapped: Some(mapped), .. } = probe.fact.result else { continue };
        let (local, remote) = (probe.fact.local, probe.fact.remote);
        if side.known.is_server(remote) && mapped.ip() != local.ip() && local.is_ipv4() == mapped.is_ipv4() {
            let (fresh, kept) = ports.entry(local.ip()).or_default();
            fresh.insert(local.port());
            *kept |= mapped.port() == local.port();
        }
    }
    ports.into_iter().filter(|(_, (fresh, kept))| fresh.len() >= 2 && !kept).map(|(ip, _)| ip).collect()
}

/// Every diversion on a side, in the order of the answers.
pub fn diversions<'a>(session: &Session<'a>, vantage: Vantage) -> Vec<Diversion<'a>> {
    session.diversions(vantage).to_vec()
}

pub(super) fn work_out_diversions<'a>(session: &Session<'a>, vantage: Vantage) -> Vec<Diversion<'a>> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let candidates: BTreeSet<IpAddr> = reachable_candidates(side, peer).collect();
    let about_peer = side.host.route_answers.iter().filter(|answer| {
        let question = &answer.fact.question;
        question.purpose == RoutePurpose::Peer
            && question.out_device.is_none()
            && candidates.contains(&question.destination)
    });
    let mut found: Vec<_> = about_peer.filter_map(|answer| diversion(&side.host, answer)).collect();
    if !found.iter().any(|diversion| matches!(diversion.by, By::MarkRule(_))) {
        found.extend(at_servers(side, &candidates));
    }
    found
}

/// What the mark does to the packets for the servers: whatever else diverts those for the peer does not touch these.
fn at_servers<'a>(side: &'a SideEvidence, candidates: &BTreeSet<IpAddr>) -> Vec<Diversion<'a>> {
    // A mark that is refused everywhere shows with the servers, too, where the peer has no address to ask about.
    let refused = side.host.routes_to_servers().filter(|answer| answer.fact.question.out_device.is_none());
    let refused = refused.filter(|answer| is_refused(&answer.fact) && mark_matters(&side.host, answer));
    let refused: Vec<_> =
        refused.map(|answer| Diversion::seen(answer, None, By::MarkRule(deciding(&side.host, &answer.fact)))).collect();
    if refused.is_empty() { led_astray(side, candidates) } else { refused }
}

/// Whether the side's mark keeps it from the servers as well: what they did not answer then says nothing of them.
pub fn mark_keeps_from_servers(session: &Session<'_>, vantage: Vantage) -> bool {
    let by_mark = |diversion: &Diversion<'_>| matches!(diversion.by, By::MarkRule(_));
    session.path != Path::Direct
        && diversions(session, vantage).iter().any(|diversion| {
            let host = &session.evidence.side(vantage).host;
            let servers = || host.routes_to_servers().filter(|answer| answer.fact.question.out_device.is_none());
            by_mark(diversion) && servers().any(|answer| mark_matters(host, answer))
        })
}

/// A rule that selects by the session's mark and sends everything, the packets to the servers as well, where nothing is
/// answered: the way to the servers is no measure then, that of the same packets without the mark is.
fn led_astray<'a>(side: &'a SideEvidence, candidates: &BTreeSet<IpAddr>) -> Vec<Diversion<'a>> {
    let host = &side.host;
    // A rule is one of an address family: what the other family hears says nothing of it.
    let answered = |is_ipv6: bool| {
        side.servers.iter().any(|((.., server), path)| server.is_ipv6() == is_ipv6 && path.has_answered())
            || side.sent.values().any(|check| {
                check.pair.remote.is_ipv6() == is_ipv6 && check.answer.is_some() && !side.is_relayed(check.pair.local)
            })
    };
    // Where sockets without the mark were tried, one of them must have been answered: else it is not the mark.
    let without_it = |is_ipv6: bool| {
        host.probes_with(|aim| matches!(aim, ProbeAim::Plain | ProbeAim::WithoutMark))
            .filter(move |probe| probe.fact.remote.is_ipv6() == is_ipv6)
            .map(|probe| &probe.fact.result)
    };
    // But a source that leaves by another uplink than its own is lost whatever else is, where that is the mark's doing:
    // without the mark, or without the rule that takes it, it leaves by its own.
    let strays = |is_ipv6: bool| {
        let mut known = BTreeSet::new();
        let astray = host.route_answers.iter().filter_map(|answer| {
            let question = &answer.fact.question;
            let asked = question.purpose == RoutePurpose::Server || candidates.contains(&question.destination);
            if !asked || question.destination.is_ipv6() != is_ipv6 {
                return None;
            }
            let home = leaves_elsewhere(host, &answer.fact)?;
            let rule = deciding(host, &answer.fact).filter(|rule| selects_by_mark(&rule.fact))?;
            // What holds of one destination holds of the others.
            known.insert((question.source, rule.seq)).then_some((answer, home, rule))
        });
        astray.take(MAX_ASTRAY).any(|(answer, home, rule)| {
            let at_home = |other: &RouteAnswer| other.device() == Some(home.fact.device.as_str());
            unmarked(host, answer).is_some_and(|other| at_home(&other.fact))
                || behind::without_rule(host, &answer.fact, &rule.fact).is_some_and(|other| at_home(&other))
        })
    };
    let leads_nowhere = [false, true].map(|is_ipv6| {
        let tried = without_it(is_ipv6).any(|result| !matches!(result, ProbeOutcome::NotMade { .. }));
        let helps = without_it(is_ipv6).any(|result| matches!(result, ProbeOutcome::Answered { .. }));
        let asked = side.servers.keys().any(|(.., server)| server.is_ipv6() == is_ipv6);
        !answered(is_ipv6) && if tried { helps || strays(is_ipv6) } else { asked }
    });
    if leads_nowhere == [false, false] {
        return Vec::new();
    }
    let about = |purpose: RoutePurpose| {
        host.route_answers.iter().filter(move |answer| {
            let question = &answer.fact.question;
            let nowhere = leads_nowhere[usize::from(question.destination.is_ipv6())];
            nowhere && question.purpose == purpose && question.out_device.is_none() && !is_refused(&answer.fact)
        })
    };
    let peers = about(RoutePurpose::Peer).filter(|answer| candidates.contains(&answer.fact.question.destination));
    let all = peers.chain(about(RoutePurpose::Server)).filter(|answer| mark_matters(host, answer));
    all.filter_map(|answer| {
        let rule = deciding(host, &answer.fact)?;
        let selects = selects_by_mark(&rule.fact);
        selects.then(|| Diversion::seen(answer, unmarked(host, answer), By::MarkRule(Some(rule))))
    })
    .collect()
}

fn diversion<'a>(host: &'a HostEvidence, answer: &'a Taken<RouteAnswer>) -> Option<Diversion<'a>> {
    let server = baseline(host, answer);
    let usual = server.and_then(|server| server.fact.route.as_ref());
    let by = by(host, &answer.fact, usual, deciding(host, &answer.fact), || mark_matters(host, answer))?;
    Some(Diversion::seen(answer, server, by))
}

/// What sends a packet elsewhere than those for the servers: its answer, the servers' route, the rule that decided, and
/// whether the mark did.
fn by<'a>(
    host: &HostEvidence,
    answer: &RouteAnswer,
    usual: Option<&AnsweredRoute>,
    rule: Option<&'a Taken<PolicyRule>>,
    by_mark: impl Fn() -> bool,
) -> Option<By<'a>> {
    if is_refused(answer) {
        return Some(match rule {
            _ if by_mark() => By::MarkRule(rule),
            // A table that refuses is reached by a rule that selects this traffic: that one is to be named.
            Some(rule) if leads_to_table(&rule.fact) => By::PolicyRule(Some(rule)),
            _ => By::Refusal,
        });
    }
    let (route, usual) = (answer.route.as_ref()?, usual?);
    if route.route_kind == RouteKind::Local || route.device == usual.device {
        return None;
    }
    if by_mark() {
        return Some(By::MarkRule(rule));
    }
    let by_rule =
        answer.rule.is_some_and(|priority| !OWN_PRIORITIES.contains(&priority)) || !OWN_TABLES.contains(&route.table);
    let tunnel = answer.device().and_then(|device| host.link(device)).is_some_and(|link| link.fact.is_tunnel());
    // A rule that selects everything, or everything but a mark, is a VPN's: what diverts is then its route.
    if by_rule && !(tunnel && rule.is_some_and(|rule| selects_everything(&rule.fact))) {
        return Some(By::PolicyRule(rule));
    }
    let bridge = answer.device().and_then(|device| host.link(device)).is_some_and(|link| link.fact.is_virtual_bridge());
    Some(match (tunnel, bridge && route.gateway.is_none()) {
        (true, _) => By::TunnelRoute,
        (_, true) => By::Bridge,
        _ => By::OtherUplink,
    })
}

/// Whether a rule takes packets by their mark.
const fn selects_by_mark(rule: &PolicyRule) -> bool {
    rule.mark.is_some() && !rule.invert
}

/// Whether the kernel refuses, by error or by the kind of route.
pub fn is_refused(answer: &RouteAnswer) -> bool {
    let kind = answer.route.as_ref().map(|route| &route.route_kind);
    answer.failure.is_some()
        || matches!(kind, Some(RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit))
}

/// The answer for a server of the same family, asked with the same mark and user, with the same source where there is one.
fn baseline<'a>(host: &'a HostEvidence, answer: &Taken<RouteAnswer>) -> Option<&'a Taken<RouteAnswer>> {
    let question = &answer.fact.question;
    let alike = |other: &&Taken<RouteAnswer>| {
        let asked = &other.fact.question;
        asked.destination.is_ipv4() == question.destination.is_ipv4()
            && (asked.mark, asked.user) == (question.mark, question.user)
            && asked.out_device.is_none()
            && !is_refused(&other.fact)
    };
    let same_source = |other: &&Taken<RouteAnswer>| other.fact.question.source == question.source;
    host.routes_to_servers().filter(alike).find(same_source).or_else(|| host.routes_to_servers().find(alike))
}

/// Whether the packet's mark decides: the same packet without it goes elsewhere, or a rule that selects by it refuses.
pub fn mark_matters(host: &HostEvidence, answer: &Taken<RouteAnswer>) -> bool {
    let question = &answer.fact.question;
    if question.mark == 0 {
        return false;
    }
    match unmarked(host, answer) {
        // That the packet without it goes yet elsewhere is another rule's doing.
        Some(_) if deciding(host, &answer.fact).is_some_and(|rule| !selects_by_mark(&rule.fact)) => false,
        Some(other) if is_refused(&answer.fact) => match deciding(host, &answer.fact) {
            // What refuses the packet without it as well stands behind this rule.
            Some(rule) => deciding(host, &other.fact).is_none_or(|by| by.fact.priority != rule.fact.priority),
            // A packet that no rule takes for its mark is refused for something else.
            None => {
                let may_be_taken = host.policy_rules.is_empty() || mark_rule(host, question.mark).is_some();
                may_be_taken && !is_refused(&other.fact)
            }
        },
        Some(other) => is_refused(&other.fact) || other.fact.device() != answer.fact.device(),
        None => mark_rule(host, question.mark).is_some_and(|rule| {
            let refuses =
                matches!(rule.fact.rule_action, RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit);
            deciding(host, &answer.fact).map_or(refuses, |decided| decided.fact.priority == rule.fact.priority)
        }),
    }
}

/// The answer for the same packet without a mark.
pub fn unmarked<'a>(host: &'a HostEvidence, answer: &Taken<RouteAnswer>) -> Option<&'a Taken<RouteAnswer>> {
    let question = &answer.fact.question;
    host.route_answers.iter().chain(&host.probe_answers).find(|other| {
        let asked = &other.fact.question;
        asked.mark == 0
            && (asked.destination, asked.source) == (question.destination, question.source)
            && asked.out_device.is_none()
    })
}

/// The address that a packet is sent from, where it leaves by another uplink than this is on.
pub fn leaves_elsewhere<'a>(host: &'a HostEvidence, answer: &RouteAnswer) -> Option<&'a Taken<Address>> {
    let physical = |device: &str| {
        host.link(device).is_some_and(|link| {
            !link.fact.is_tunnel() && !link.fact.is_virtual_bridge() || link.fact.link_kind.as_deref() == Some("veth")
        })
    };
    let (source, device) = (answer.question.source?, answer.device()?);
    let home = host.addresses.iter().find(|address| address.fact.address == source)?;
    let elsewhere = home.fact.device != device && device != "lo" && physical(&home.fact.device) && physical(device);
    (answer.question.out_device.is_none() && elsewhere).then_some(home)
}

/// The first rule that selects by a mark and takes this one.
pub fn mark_rule(host: &HostEvidence, mark: u32) -> Option<&Taken<PolicyRule>> {
    host.policy_rules.iter().filter(|rule| !rule.fact.invert).find(|rule| {
        let mask = rule.fact.mask.unwrap_or(u32::MAX);
        rule.fact.mark.is_some_and(|wanted| mask != 0 && mark & mask == wanted & mask && wanted & mask != 0)
    })
}

/// Whether a rule is one of the three that every Linux has.
pub fn is_own_rule(rule: &PolicyRule) -> bool {
    OWN_PRIORITIES.contains(&rule.priority)
}

/// Whether a rule selects some of the traffic and looks it up in a table of its own.
fn leads_to_table(rule: &PolicyRule) -> bool {
    let selects = rule.mark.is_some() || !selects_everything(rule);
    rule.rule_action == RuleAction::Lookup && selects && !is_own_rule(rule)
}

/// The policy rule that decided, where it was worked out or its table tells. Of a refusal the kernel does not tell
/// whether a route of some table said it: that is looked up in what the host told.
pub fn deciding<'a>(host: &'a HostEvidence, answer: &RouteAnswer) -> Option<&'a Taken<PolicyRule>> {
    let of_family =
        |rule: &&Taken<PolicyRule>| rule.fact.family == crate::host::Family::of(answer.question.destination);
    let by_priority = answer
        .rule
        .and_then(|priority| host.policy_rules.iter().filter(of_family).find(|rule| rule.fact.priority == priority));
    let by_table = by_priority.or_else(|| {
        let table = answer.route.as_ref()?.table;
        if OWN_TABLES.contains(&table) {
            return None;
        }
        host.policy_rules.iter().filter(of_family).find(|rule| rule.fact.table == Some(table))
    });
    by_table.or_else(|| {
        answer.failure.as_ref()?;
        let rules: Vec<PolicyRule> = host.policy_rules.iter().filter(of_family).map(|rule| rule.fact.clone()).collect();
        let routes: Vec<Route> = host.routes.iter().map(|route| route.fact.clone()).collect();
        // Where these do not refuse it either, what does was not told.
        let priority = Some(look_up(&rules, &routes, &[], &answer.question)).filter(is_refused)?.rule?;
        host.policy_rules.iter().filter(of_family).find(|rule| rule.fact.priority == priority)
    })
}

/// The route that refuses a packet, where the host told of it: in the table of the rule that decided.
pub fn refusing<'a>(host: &'a HostEvidence, answer: &RouteAnswer) -> Option<&'a Taken<Route>> {
    answer.failure.as_ref()?;
    let table = deciding(host, answer).and_then(|rule| rule.fact.table);
    let refuses =
        |kind: &RouteKind| matches!(kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit);
    let covering = host.routes.iter().filter(|route| {
        refuses(&route.fact.route_kind)
            && route.fact.destination.contains(answer.question.destination)
            && table.is_none_or(|table| route.fact.table == table)
    });
    covering.max_by_key(|route| route.fact.destination.length)
}

/// Whether the system of a side routes its packets to no server of a family.
pub fn is_kept_from_servers(side: &SideEvidence) -> bool {
    let mut answers =
        side.host.routes_to_servers().filter(|answer| answer.fact.question.out_device.is_none()).peekable();
    answers.peek().is_some() && answers.all(|answer| is_refused(&answer.fact))
}

/// The answer by which all of some packets that are not refused go into a tunnel.
pub fn into_tunnel<'a>(host: &HostEvidence, answers: impl Iterator<Item = &'a RouteAnswer>) -> Option<&'a RouteAnswer> {
    let tunnel = |device: &str| host.link(device).is_some_and(|link| link.fact.is_tunnel());
    let (mut through, mut past) = (None, false);
    for answer in answers.filter(|answer| !is_refused(answer)) {
        match answer.device() {
            Some(device) if tunnel(device) => through = through.or(Some(answer)),
            Some(_) => past = true,
            None => {}
        }
    }
    through.filter(|_| !past)
}

/// Whether a rule has no selector, or none but a mark that it does not want: every packet of a plain program.
fn selects_everything(rule: &PolicyRule) -> bool {
    let narrow = rule.from.is_some_and(|from| from.length > 0)
        || rule.to.is_some_and(|to| to.length > 0)
        || rule.users.is_some()
        || rule.protocol.is_some()
        || rule.source_ports.is_some()
        || rule.destination_ports.is_some()
        || rule.out_device.is_some()
        || rule.in_device.as_deref().is_some_and(|device| device != "lo");
    !narrow && (rule.mark.is_none() || rule.invert)
}
