//! What would divert a packet for the peer once that which diverts it now is mended: looked up in the rules and routes
//! that the host told. Where these do not explain what the kernel answered, nothing is concluded from them.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{
    By, Diversion, at_servers, by, diversions, into_tunnel, is_own_rule, is_refused, reachable_candidates,
    selects_by_mark,
};
use crate::diagnosis::evidence::{HostEvidence, Taken};
use crate::diagnosis::network::{seen_at, seen_bound, seen_by_signaling};
use crate::diagnosis::rules::quoted;
use crate::diagnosis::session::Session;
use crate::host::{
    Address, AnsweredRoute, Family, MAX_ROUTES, PolicyRule, Prefix, Route, RouteAnswer, RouteKind, RoutePurpose,
    RouteQuestion, RuleAction, Subject, look_up, look_up_from,
};
use crate::trace::event::Vantage;

/// Most answers of one side that are followed, each for another address or socket.
const MAX_FOLLOWED: usize = 16;

/// Most causes that are taken away one after the other.
const MAX_BEHIND: usize = 4;

/// The diversions of a side that others hide, in the order of the answers.
pub(crate) fn hidden<'a>(session: &Session<'a>, vantage: Vantage) -> Vec<Diversion<'a>> {
    let host = &session.evidence.side(vantage).host;
    let Some(tables) = Tables::of(host) else { return Vec::new() };
    let mut found = behind_others(session, vantage, &tables);
    for (answer, untold) in looked_up(session, vantage, &tables) {
        let why = format!("what keeps the peer's address {} from it", untold.words());
        found.extend(follow(host, tables.clone(), &answer, None, vec![(why, untold.seq)]));
    }
    found
}

/// Where the packets of a side's sockets would go to addresses of the peer that it was not told: by the rules and routes
/// that the host told, from each address from which it asked servers.
pub(crate) fn untold_ways(session: &Session<'_>, vantage: Vantage) -> Vec<(Taken<RouteAnswer>, Untold)> {
    let tables = Tables::of(&session.evidence.side(vantage).host);
    tables.map(|tables| looked_up(session, vantage, &tables)).unwrap_or_default()
}

fn looked_up(session: &Session<'_>, vantage: Vantage, tables: &Tables) -> Vec<(Taken<RouteAnswer>, Untold)> {
    let host = &session.evidence.side(vantage).host;
    let mut found = Vec::new();
    for untold in untold_addresses(session, vantage).into_iter().filter(|_| tables.are_whole) {
        let address = untold.address;
        let templates = host.routes_to_servers().filter(|server| {
            let question = &server.fact.question;
            Family::of(address) == Family::of(question.destination)
                && question.out_device.is_none()
                && is_alike(&tables.ask(question), &server.fact)
        });
        let mut asked = BTreeSet::new();
        for server in templates.filter(|server| asked.insert(server.fact.question.source)).take(MAX_FOLLOWED) {
            let question = &server.fact.question;
            let question = RouteQuestion { purpose: RoutePurpose::Peer, destination: address, ..question.clone() };
            found.push((Taken { seq: server.seq, moment: server.moment, fact: tables.ask(&question) }, untold));
        }
    }
    found
}

/// An address at which the peer was seen and of which a side was not told. Its port is not known: that of what was seen is
/// not that of a session's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Untold {
    /// The address.
    pub(crate) address: IpAddr,
    /// The event that says so.
    pub(crate) seq: u64,
    /// Only the signaling server says so: where a proxy stands in between, it is the proxy's.
    pub(crate) by_signaling: bool,
}

impl Untold {
    /// The address, and who alone says that it is the peer's.
    pub(crate) fn words(&self) -> String {
        let seen = if self.by_signaling { ", where signaling (or a proxy in front of it) sees it," } else { "" };
        format!("{}{seen}", self.address)
    }
}

/// Addresses of the peer that a side was not told: where it was told none that it could reach, all at which the peer was
/// seen; else those at which only sockets bound to a device were, as what the session sends leaves elsewhere.
pub(crate) fn untold_addresses(session: &Session<'_>, vantage: Vantage) -> Vec<Untold> {
    let evidence = session.evidence;
    let (side, peer) = (evidence.side(vantage), evidence.side(vantage.other()));
    let is_told = reachable_candidates(side, peer).next().is_some();
    let seen = if is_told { seen_bound(peer) } else { seen_at(peer) };
    let known = |(address, seq)| Untold { address, seq, by_signaling: false };
    let mut found: Vec<_> = seen.into_iter().map(known).collect();
    if found.is_empty() && !is_told {
        let by_signaling = seen_by_signaling(side, peer);
        found.extend(by_signaling.map(|(address, seq)| Untold { address, seq, by_signaling: true }));
    }
    found.retain(|untold| !side.known.is_told(untold.address));
    found.truncate(MAX_FOLLOWED);
    found
}

/// Those behind what does divert packets of the session.
fn behind_others<'a>(session: &Session<'a>, vantage: Vantage, tables: &Tables) -> Vec<Diversion<'a>> {
    let evidence = session.evidence;
    let (side, peer) = (evidence.side(vantage), evidence.side(vantage.other()));
    let host = &side.host;
    let seen = diversions(session, vantage);
    let is_told =
        |diversion: &&Diversion<'_>| is_alike(&tables.ask(&diversion.answer.fact.question), &diversion.answer.fact);
    let about_peer = seen.iter().filter(|diversion| diversion.answer.fact.question.purpose == RoutePurpose::Peer);
    let mut followed = BTreeSet::new();
    let new = about_peer.filter(|diversion| followed.insert(&diversion.answer.fact.question));
    let mut found: Vec<_> = new
        .take(MAX_FOLLOWED)
        .filter(is_told)
        .flat_map(|diversion| follow(host, tables.clone(), &diversion.answer, Some(diversion.by), Vec::new()))
        .collect();
    // Where nothing goes to the servers, or all into a tunnel, nothing is known to go another way than that: not before
    // that is mended.
    let (mended, behind) = at_servers_mended(session, vantage, tables, Tunnels::Mended);
    if !behind.is_empty() {
        let candidates: BTreeSet<_> = reachable_candidates(side, peer).collect();
        let others = host.route_answers.iter().filter(|answer| {
            let question = &answer.fact.question;
            let about_peer = question.purpose == RoutePurpose::Peer && question.out_device.is_none();
            about_peer && candidates.contains(&question.destination) && followed.insert(question)
        });
        let others =
            others.take(MAX_FOLLOWED).filter(|answer| is_alike(&tables.ask(&answer.fact.question), &answer.fact));
        found.extend(others.flat_map(|answer| follow(host, mended.clone(), answer, None, behind.clone())));
    }
    found
}

/// Where packets of a side would go once what diverts them, or keeps them back, is mended.
#[derive(Clone, Debug, Default)]
pub(crate) struct MendedWays<'a> {
    /// Those for the peer, once everything that diverts them is mended.
    pub(crate) to_peer: Vec<MendedWay<'a>>,
    /// Those for the servers, once what keeps them from there, or leads their mark astray, is mended; nothing where
    /// nothing does.
    pub(crate) to_servers: Vec<MendedWay<'a>>,
}

impl<'a> MendedWays<'a> {
    pub(crate) fn work_out(session: &Session<'a>, vantage: Vantage) -> Self {
        let evidence = session.evidence;
        let (side, peer) = (evidence.side(vantage), evidence.side(vantage.other()));
        let host = &side.host;
        let Some(tables) = Tables::of(host) else { return Self::default() };
        let (mended, first) = at_servers_mended(session, vantage, &tables, Tunnels::Left);
        let to_servers = tables.told_of_servers(host).filter(|_| !first.is_empty()).map(|seen| {
            let way = mended.ask(&seen.fact.question);
            MendedWay { seen, back: mended.way_back(&way), way, behind: first.clone() }
        });
        let to_servers = to_servers.collect();
        let (mended, first) = at_servers_mended(session, vantage, &tables, Tunnels::Mended);
        let candidates: BTreeSet<_> = reachable_candidates(side, peer).collect();
        let mut asked = BTreeSet::new();
        let about_peer = host.route_answers.iter().filter(|answer| {
            let question = &answer.fact.question;
            let about_peer = question.purpose == RoutePurpose::Peer && question.out_device.is_none();
            about_peer
                && candidates.contains(&question.destination)
                && asked.insert(question)
                && is_alike(&tables.ask(question), &answer.fact)
        });
        let way = |seen: &'a Taken<RouteAnswer>| {
            let mut tables = mended.clone();
            let mut behind = first.clone();
            for _ in 0..MAX_BEHIND {
                let answer = tables.ask(&seen.fact.question);
                let server = server_question(host, &seen.fact.question).map(|question| tables.ask(question));
                let usual = server.as_ref().and_then(|server| server.route.as_ref());
                let Some(cause) = tables.cause(host, &answer, usual) else { break };
                behind.push(tables.mend(host, &answer, &cause)?);
            }
            let way = tables.ask(&seen.fact.question);
            let back = tables.way_back(&way);
            Some(MendedWay { seen, way, back, behind })
        };
        let to_peer = about_peer.take(MAX_FOLLOWED).filter_map(way).collect();
        Self { to_peer, to_servers }
    }
}

impl MendedWay<'_> {
    /// What is to be mended first, in words.
    pub(crate) fn mended(&self) -> String {
        match self.behind.iter().map(|(words, _)| words.as_str()).collect::<Vec<_>>().as_slice() {
            [] => "what keeps these packets from leaving".to_owned(),
            words => words.join(" and "),
        }
    }
}

/// Whether a tunnel that takes everything is mended, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tunnels {
    Left,
    Mended,
}

/// The tables without what keeps packets for the servers from them, leads their mark astray, or takes everything into a
/// tunnel: that is to be mended before anything can be said to go another way than those.
fn at_servers_mended(
    session: &Session<'_>,
    vantage: Vantage,
    tables: &Tables,
    tunnels: Tunnels,
) -> (Tables, Vec<(String, u64)>) {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let host = &side.host;
    let (mut mended, mut behind) = (tables.clone(), Vec::new());
    let candidates: BTreeSet<_> = reachable_candidates(side, peer).collect();
    let told = |answer: &RouteAnswer| is_alike(&tables.ask(&answer.question), answer);
    let astray = at_servers(side, &candidates).into_iter().find(|diversion| {
        diversion.answer.fact.question.purpose == RoutePurpose::Server && told(&diversion.answer.fact)
    });
    let refused = || {
        let refused = tables.told_of_servers(host).find(|answer| is_refused(&answer.fact))?;
        Some((refused.fact.clone(), tables.cause(host, &refused.fact, None)?))
    };
    let astray = astray.map(|diversion| (diversion.answer.fact.clone(), diversion.by)).or_else(refused);
    behind.extend(astray.and_then(|(answer, by)| mended.mend(host, &answer, &by)));
    if tunnels == Tunnels::Mended {
        let of_session = host.routes_to_servers().filter(|answer| answer.fact.question.out_device.is_none());
        let answers: Vec<RouteAnswer> = if behind.is_empty() {
            of_session.map(|answer| answer.fact.clone()).collect()
        } else {
            tables.told_of_servers(host).map(|answer| mended.ask(&answer.fact.question)).collect()
        };
        let mut without = mended.clone();
        let through =
            into_tunnel(host, answers.iter()).filter(|answer| is_alike(&mended.ask(&answer.question), answer));
        let taken = through.and_then(|answer| without.mend_tunnel(host, answer));
        // What then refuses them keeps them from leaking past the tunnel, and goes with it.
        let mut asked = answers.iter().take(MAX_FOLLOWED).map(|answer| without.ask(&answer.question));
        if let Some(taken) = taken.filter(|_| asked.all(|answer| !is_refused(&answer))) {
            drop(asked);
            behind.push(taken);
            mended = without;
        }
    }
    (mended, behind)
}

/// Where a packet goes, and where it would.
#[derive(Clone, Debug)]
pub(crate) struct MendedWay<'a> {
    /// The answer of the kernel.
    pub(crate) seen: &'a Taken<RouteAnswer>,
    /// What it would answer.
    pub(crate) way: RouteAnswer,
    /// What it would answer about the way back of a packet that came from there by the interface of that way: what strict
    /// filtering by reverse path asks (IPv4).
    pub(crate) back: Option<RouteAnswer>,
    /// What would be mended, in words, and the event that told of it.
    pub(crate) behind: Vec<(String, u64)>,
}

/// Where a packet goes once its mark is another, by the rules and routes that the host told.
pub(crate) fn with_mark(host: &HostEvidence, seen: &RouteAnswer, mark: u32) -> Option<RouteAnswer> {
    let tables = Tables::of(host)?;
    let explained = is_alike(&tables.ask(&seen.question), seen);
    explained.then(|| tables.ask(&RouteQuestion { mark, ..seen.question.clone() }))
}

/// Where a packet goes without a rule, by the other rules and the routes that the host told.
pub(super) fn without_rule(host: &HostEvidence, seen: &RouteAnswer, rule: &PolicyRule) -> Option<RouteAnswer> {
    let mut tables = Tables::of(host)?;
    let explained = is_alike(&tables.ask(&seen.question), seen);
    tables.rules.retain(|told| told != rule);
    explained.then(|| tables.ask(&seen.question))
}

/// Takes one cause after the other away, until the packet goes where those for the servers go. `cause`: what is to be
/// taken away first; `behind`: what was.
fn follow<'a>(
    host: &'a HostEvidence,
    mut tables: Tables,
    seen: &Taken<RouteAnswer>,
    mut cause: Option<By<'a>>,
    mut behind: Vec<(String, u64)>,
) -> Vec<Diversion<'a>> {
    let question = &seen.fact.question;
    let mut found = Vec::new();
    for _ in 0..MAX_BEHIND {
        if let Some(cause) = cause {
            let answer = tables.ask(question);
            let Some(mended) = tables.mend(host, &answer, &cause) else { break };
            behind.push(mended);
        }
        let answer = tables.ask(question);
        // That there is no route at all is nothing that was told.
        if is_refused(&answer) && tables.deciding(&answer).is_none() && tables.route_of(&answer).is_none() {
            break;
        }
        let server = server_question(host, question).map(|question| tables.ask(question));
        let usual = server.as_ref().and_then(|server| server.route.as_ref());
        if tables.is_fallback(&answer) {
            break;
        }
        let Some(next) = tables.cause(host, &answer, usual) else { break };
        let taken = |fact| Cow::Owned(Taken { seq: seen.seq, moment: seen.moment, fact });
        found.push(Diversion {
            answer: taken(answer),
            server: server.filter(|server| !is_refused(server)).map(taken),
            by: next,
            behind: behind.clone(),
        });
        cause = Some(next);
    }
    found
}

/// A question about a server that was asked with the same mark and user, from the same source where there is one.
fn server_question<'a>(host: &'a HostEvidence, question: &RouteQuestion) -> Option<&'a RouteQuestion> {
    let alike = |asked: &&RouteQuestion| {
        Family::of(asked.destination) == Family::of(question.destination)
            && (asked.mark, asked.user) == (question.mark, question.user)
            && asked.out_device.is_none()
    };
    let asked = || host.routes_to_servers().map(|answer| &answer.fact.question).filter(alike);
    asked().find(|asked| asked.source == question.source).or_else(|| asked().next())
}

/// Whether two answers send a packet the same way.
fn is_alike(one: &RouteAnswer, two: &RouteAnswer) -> bool {
    let rule = one.rule.is_none() || two.rule.is_none() || one.rule == two.rule;
    let gateway = |answer: &RouteAnswer| answer.route.as_ref().and_then(|route| route.gateway);
    rule && is_refused(one) == is_refused(two) && one.device() == two.device() && gateway(one) == gateway(two)
}

/// The rules and routes of a host.
#[derive(Clone, Debug)]
struct Tables {
    rules: Vec<PolicyRule>,
    routes: Vec<Route>,
    addresses: Vec<Address>,
    /// Whether no route of the host is missing; else only those are known to be there that cover who was asked about.
    are_whole: bool,
    /// The rules and routes that were taken out.
    mended: (Vec<PolicyRule>, Vec<Route>),
}

impl Tables {
    /// `None` where the host has more rules than it told, or more routes for the session's packets.
    fn of(host: &HostEvidence) -> Option<Self> {
        let routes = host.counted.get(&Subject::Routes);
        if routes.is_some_and(|(_, total, recorded)| recorded < total && *recorded >= MAX_ROUTES as u64) {
            return None;
        }
        let whole = host.counted.get(&Subject::PolicyRules).is_none_or(|(_, total, recorded)| total <= recorded);
        let known = host.is_looked_at(Subject::PolicyRules)
            && [Subject::PolicyRules, Subject::Routes].iter().all(|of| host.why_not_measured(*of).is_none());
        (whole && known && !host.routes.is_empty()).then(|| Self {
            rules: host.policy_rules.iter().map(|rule| rule.fact.clone()).collect(),
            routes: host.routes.iter().map(|route| route.fact.clone()).collect(),
            addresses: host.addresses.iter().map(|own| own.fact.clone()).collect(),
            are_whole: routes.is_some_and(|(_, total, recorded)| total <= recorded),
            mended: (Vec::new(), Vec::new()),
        })
    }

    fn ask(&self, question: &RouteQuestion) -> RouteAnswer {
        look_up(&self.rules, &self.routes, &self.addresses, question)
    }

    /// What the kernel answered about the servers, where these tables explain it; not all of very many.
    fn told_of_servers<'a>(&self, host: &'a HostEvidence) -> impl Iterator<Item = &'a Taken<RouteAnswer>> {
        let of_session = host.routes_to_servers().filter(|answer| answer.fact.question.out_device.is_none());
        of_session.take(MAX_FOLLOWED).filter(|answer| is_alike(&self.ask(&answer.fact.question), &answer.fact))
    }

    /// The way back of a packet that came from where an answer leads, by the same interface (fib_validate_source in the
    /// kernel): without a mark, unless src_valid_mark is set.
    fn way_back(&self, way: &RouteAnswer) -> Option<RouteAnswer> {
        let device = way.device()?;
        let (source, source_port, mark, user) = (way.question.source?, None, 0, 0);
        let question = RouteQuestion { source: Some(source), source_port, mark, user, ..way.question.clone() };
        Some(look_up_from(&self.rules, &self.routes, &self.addresses, &question, device))
    }

    /// Takes a tunnel away that everything goes into, by an answer that leads there: the rule of its own that looks up
    /// everything in its table, or its routes that are wide enough.
    fn mend_tunnel(&mut self, host: &HostEvidence, answer: &RouteAnswer) -> Option<(String, u64)> {
        let rule = self.deciding(answer).filter(|rule| !is_own_rule(rule));
        if let Some(rule) = rule.and_then(|rule| host.policy_rules.iter().find(|told| told.fact == *rule)) {
            return self.mend(host, answer, &By::PolicyRule(Some(rule)));
        }
        let route = self.route_of(answer)?.clone();
        let mended = self.mend(host, answer, &By::TunnelRoute)?;
        // 0.0.0.0/1 and 128.0.0.0/1 are one default route.
        let is_other_half = |other: &Route| {
            (other.table, &other.device) == (route.table, &route.device)
                && other.destination.length <= 1
                && Family::of(other.destination.address) == Family::of(route.destination.address)
        };
        if route.destination.length > 1 {
            return None;
        }
        let (halves, left) = self.routes.drain(..).partition(is_other_half);
        self.routes = left;
        self.mended.1.extend::<Vec<Route>>(halves);
        Some(mended)
    }

    /// What diverts a packet that these tables answer so.
    fn cause<'a>(&self, host: &'a HostEvidence, answer: &RouteAnswer, usual: Option<&AnsweredRoute>) -> Option<By<'a>> {
        let rule = self.deciding(answer).and_then(|rule| host.policy_rules.iter().find(|told| told.fact == *rule));
        let by_mark = || {
            let unmarked = self.ask(&RouteQuestion { mark: 0, ..answer.question.clone() });
            rule.is_some_and(|rule| selects_by_mark(&rule.fact)) && !is_alike(answer, &unmarked)
        };
        by(host, answer, usual, rule, by_mark)
    }

    /// The rule that decided: of several with one priority, the one without which the answer is another.
    fn deciding(&self, answer: &RouteAnswer) -> Option<&PolicyRule> {
        let (priority, family) = (answer.rule?, Family::of(answer.question.destination));
        let of_it: Vec<&PolicyRule> =
            self.rules.iter().filter(|rule| rule.priority == priority && rule.family == family).collect();
        let decides = |rule: &&PolicyRule| {
            let others = self.rules.iter().filter(|other| other != rule).cloned().collect();
            let without = Self { rules: others, ..self.clone() }.ask(&answer.question);
            without.rule != answer.rule || !is_alike(&without, answer)
        };
        match of_it.as_slice() {
            [one] => Some(one),
            several => several.iter().copied().find(decides),
        }
    }

    /// Takes away what does it: in words, and the event that told of it. `None`: the host told nothing that does.
    fn mend(&mut self, host: &HostEvidence, answer: &RouteAnswer, cause: &By<'_>) -> Option<(String, u64)> {
        let rule = match cause {
            By::MarkRule(rule) | By::PolicyRule(rule) => Some((*rule)?),
            By::Refusal => {
                let refuses = |rule: &&PolicyRule| rule.rule_action != RuleAction::Lookup;
                let refusing = self.deciding(answer).filter(refuses);
                refusing.and_then(|rule| host.policy_rules.iter().find(|told| told.fact == *rule))
            }
            By::TunnelRoute | By::Bridge | By::OtherUplink => None,
        };
        if let Some(rule) = rule {
            self.rules.retain(|other| *other != rule.fact);
            self.mended.0.push(rule.fact.clone());
            return Some((format!("\"{}\"", quoted(&rule.fact)), rule.seq));
        }
        let route = self.route_of(answer)?.clone();
        let told = host.routes.iter().find(|told| told.fact == route)?;
        self.routes.retain(|other| *other != route);
        self.mended.1.push(route.clone());
        let kind = match route.route_kind {
            RouteKind::Unicast => String::new(),
            other => format!("{} ", format!("{other:?}").to_lowercase()),
        };
        let device = route.device.map_or_else(String::new, |device| format!(" dev {device}"));
        Some((format!("the route {kind}{}{device}", route.destination), told.seq))
    }

    /// Whether it is refused by what stands behind a rule or route that was taken out so that nothing leaks where that one
    /// does not lead (Tailscale, mwan3, a VPN's table): a rule with the same selectors, or a route of the same table and
    /// prefix with a higher metric. Who mends the one takes the other away with it.
    fn is_fallback(&self, answer: &RouteAnswer) -> bool {
        if !is_refused(answer) {
            return false;
        }
        let (rules, routes) = &self.mended;
        match self.deciding(answer) {
            Some(rule) if rule.rule_action != RuleAction::Lookup => {
                let selectors = selectors(rule);
                rules.iter().any(|mended| self::selectors(mended) == selectors)
            }
            _ => self.route_of(answer).is_some_and(|route| {
                routes.iter().any(|mended| {
                    (mended.table, &mended.destination) == (route.table, &route.destination)
                        && mended.metric.unwrap_or(0) < route.metric.unwrap_or(0)
                })
            }),
        }
    }

    /// The route that an answer is by: of a refusal the one that refuses, or leads away from the table.
    fn route_of(&self, answer: &RouteAnswer) -> Option<&Route> {
        let (to, family) = (answer.question.destination, Family::of(answer.question.destination));
        // As the kernel chooses.
        let order = |route: &&Route| (Reverse(route.destination.length), route.metric.unwrap_or(0));
        let of = |route: &Route| Family::of(route.destination.address) == family && route.destination.contains(to);
        if let Some(by) = &answer.route {
            let is_it = |route: &&Route| {
                of(route)
                    && (route.table, &route.device, route.gateway) == (by.table, &by.device, by.gateway)
                    && by.matched.is_none_or(|matched: Prefix| matched == route.destination)
            };
            return self.routes.iter().filter(is_it).min_by_key(order);
        }
        let table = self.deciding(answer).and_then(|rule| rule.table);
        let refuses = |route: &&Route| match table {
            Some(table) => {
                let kinds = [RouteKind::Blackhole, RouteKind::Unreachable, RouteKind::Prohibit];
                of(route) && route.table == table && kinds.contains(&route.route_kind)
            }
            None => of(route) && route.route_kind == RouteKind::Throw,
        };
        self.routes.iter().filter(refuses).min_by_key(order)
    }
}

/// A rule without its place and what it does.
fn selectors(rule: &PolicyRule) -> PolicyRule {
    let (rule_action, table, goto) = (RuleAction::Lookup, None, None);
    PolicyRule { priority: 0, rule_action, table, goto, suppress_prefix_length: None, origin: None, ..rule.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::evidence::Evidence;
    use crate::host::{HostFact, Moment};
    use crate::time::Timestamp;
    use crate::trace::event::{Event, EventKind};

    #[test]
    fn nothing_is_looked_up_in_rules_or_routes_that_are_not_told_whole() {
        let known = |more: &[HostFact]| {
            let route = Route {
                table: 254,
                destination: Prefix { address: "0.0.0.0".parse().expect("an address"), length: 0 },
                route_kind: RouteKind::Unicast,
                device: Some("eth0".to_owned()),
                gateway: None,
                preferred_source: None,
                metric: None,
                mtu: None,
                other_hops: Vec::new(),
                next_hop_object: None,
            };
            let rule = HostFact::PolicyRule(PolicyRule::lookup(Family::V4, 32_766, 254));
            // Most routes of a host concern nobody here.
            let counted = HostFact::Counted { subject: Subject::Routes, total: 100_000, recorded: 1 };
            let facts = [rule, HostFact::Route(route), counted].into_iter().chain(more.iter().cloned());
            let events: Vec<Event> = facts
                .enumerate()
                .map(|(number, fact)| Event {
                    seq: 2 * number as u64,
                    at: Timestamp::from_micros(number as u64),
                    vantage: Vantage::A,
                    kind: EventKind::HostFact { moment: Moment::After, fact: Box::new(fact) },
                })
                .collect();
            Tables::of(&Evidence::of(&events).side(Vantage::A).host).is_some()
        };
        assert!(known(&[]));
        let cut = |subject| HostFact::NotMeasured { subject, why: "the rest was left out".to_owned(), needs: None };
        for (facts, is_known) in [
            (cut(Subject::Routes), false),
            (cut(Subject::PolicyRules), false),
            (cut(Subject::Nftables), true),
            (HostFact::Counted { subject: Subject::PolicyRules, total: 300, recorded: 256 }, false),
        ] {
            assert_eq!(known(std::slice::from_ref(&facts)), is_known, "{facts:?}");
        }
    }

    #[test]
    fn of_two_routes_with_one_prefix_the_one_that_the_kernel_chooses_is_taken_out() {
        let peers = Prefix { address: "198.51.100.0".parse().expect("an address"), length: 24 };
        let route = |kind: &RouteKind, metric: u32, gateway: Option<&str>| Route {
            table: 254,
            destination: peers,
            route_kind: kind.clone(),
            device: (*kind == RouteKind::Unicast).then(|| "wg0".to_owned()),
            gateway: gateway.map(|gateway| gateway.parse().expect("an address")),
            preferred_source: None,
            metric: Some(metric),
            mtu: None,
            other_hops: Vec::new(),
            next_hop_object: None,
        };
        let question = RouteQuestion {
            purpose: RoutePurpose::Peer,
            destination: "198.51.100.7".parse().expect("an address"),
            destination_port: 40_000,
            source: None,
            source_port: None,
            protocol: 17,
            mark: 0,
            user: 0,
            out_device: None,
            probe: false,
        };
        let (unicast, blackhole) = (RouteKind::Unicast, RouteKind::Blackhole);
        let chosen = |routes: [Route; 2]| {
            let rules = vec![PolicyRule::lookup(Family::V4, 32_766, 254)];
            let tables = Tables {
                rules,
                routes: routes.to_vec(),
                addresses: Vec::new(),
                are_whole: true,
                mended: (Vec::new(), Vec::new()),
            };
            tables.route_of(&tables.ask(&question)).and_then(|route| route.metric)
        };
        assert_eq!(chosen([route(&unicast, 10, None), route(&unicast, 50, None)]), Some(10));
        assert_eq!(chosen([route(&unicast, 50, None), route(&unicast, 10, Some("10.66.0.1"))]), Some(10));
        assert_eq!(chosen([route(&blackhole, 10, None), route(&blackhole, 50, None)]), Some(10));

        // The kernel's answer does not tell the metric: which of two with one device it is, the next hop says.
        let routes = vec![route(&unicast, 10, None), route(&unicast, 50, Some("10.66.0.1"))];
        let rules = vec![PolicyRule::lookup(Family::V4, 32_766, 254)];
        let tables = Tables { rules, routes, addresses: Vec::new(), are_whole: true, mended: (Vec::new(), Vec::new()) };
        let mut answer = tables.ask(&question);
        answer.route.as_mut().expect("a route").gateway = Some("10.66.0.1".parse().expect("an address"));
        assert_eq!(tables.route_of(&answer).and_then(|route| route.metric), Some(50));
    }
}
