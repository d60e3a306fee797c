//! signaling failed.

use super::{Examination, Fault, Fix, Rule, input_firewall_drops, no_usable_address};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::errno::{EACCES, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EPERM, ETIMEDOUT};
use super::wording::quoted_firewall;
use crate::diagnosis::evidence::{SideEvidence, Taken};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::Session;
use crate::host::{FilteredPacket, FirewallFramework, FirewallRule, Moment, RoutePurpose, RouteQuestion, look_up};
use crate::trace::event::{Side, SignalingState, Vantage};

pub(super) const RULE: Rule = Rule {
    code: "WR701",
    name: "signaling-failed",
    title: "signaling failed",
    meaning: "The signaling server could not be reached or refused this side. Without signaling the two sides cannot learn each other's candidates, so nothing else can work.",
    detection: "The signaling connection was given up, or was lost and did not come back, before the peer's description came, or the server refused for good a message that the peer needs, or too many were waiting for it; where the system has no route to the server, or a rule on output of its own firewall has counted, surely takes connections to it (in a base chain, where no rule ahead may let them out or lead them elsewhere), and does to them what the program was told (a reject is a refusal, a drop is silence), the fault is this side's; not once it was connected. Where a check saw its answer to the first packet of a connection arrive when nobody waited any longer, the network is slow: the path is to blame, and not the server.",
    proof: "The error of the connection, and curl to the server's /health from this machine.",
    doubt: "The peer's description arriving all the same.",
    fixes: &[
        Fix::safe("Open the server's /health address with curl from this machine."),
        Fix::firewall("Check the URL of --signal, the proxy and the firewall for the server's port."),
    ],
    threads: &["netbirdio/netbird#5404"],
    depends_on: &[],
    needs: &[],
    examine,
};

/// How Linux's ENETUNREACH ends, by the standard library.
const ENETUNREACH_IN_WORDS: &str = "(os error 101)";

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        faults.extend(untaken(session, vantage));
        let met = side.descriptions.iter().any(|description| description.side == Side::Remote);
        let Some((seq, server, state)) = side.signaling.last().filter(|_| !met) else { continue };
        let (what, detail) = match state {
            SignalingState::Failed { detail } => ("could not use", detail),
            SignalingState::Lost { detail } => ("lost, and has not reached again,", detail),
            _ => continue,
        };
        // A host without any network has a finding of its own, which explains this.
        if no_usable_address::without_network(side).is_some() {
            continue;
        }
        // So has a name that is not resolved.
        if side.names.iter().any(|(_, name, addresses, _)| addresses.is_empty() && is_host_of(server, name)) {
            continue;
        }
        // What arrived at this host and not at the program is that host's doing.
        if session.evidence.is_alone() && input_firewall_drops::has_taken_signaling(side) {
            continue;
        }
        if let Some((after, answered)) =
            input_firewall_drops::late_signaling(side).filter(|_| session.evidence.is_alone())
        {
            faults.push(slow_network(vantage, server, after, [*seq, answered]));
            continue;
        }
        // Who had a connection once was let out.
        let connected = side.signaling.iter().any(|(.., state)| matches!(state, SignalingState::Connected { .. }));
        let stopped = matches!(state, SignalingState::Failed { .. }) && !connected;
        let stopped = stopped.then(|| Stopped::find(side, server, detail)).flatten();
        if let Some(stopped) = stopped.as_ref().filter(|stopped| stopped.surely) {
            faults.push(stopped.fault(vantage, server, *seq));
            continue;
        }
        // The system's own word, before anything was sent: the fault is at this side.
        let without_route = detail.contains(ENETUNREACH_IN_WORDS);
        let suspicion =
            session.evidence.is_alone().then(|| input_firewall_drops::perhaps_from_signaling(side)).flatten();
        let perhaps = stopped.filter(|_| suspicion.is_none());
        let why = if without_route { " (this host has no route to it)" } else { "" };
        faults.push(Fault {
            blame: if without_route { Blame::side(vantage) } else { Blame::Signaling },
            severity: Severity::Error,
            summary: format!("{} {what} the signaling server {server}: {detail}{why}", vantage.name()),
            evidence: [*seq]
                .into_iter()
                .chain(suspicion.iter().flat_map(|suspicion| suspicion.evidence))
                .chain(perhaps.iter().map(|stopped| stopped.rule.seq))
                .collect(),
            doubt: suspicion
                .as_ref()
                .map(|suspicion| suspicion.words.clone())
                .or_else(|| perhaps.as_ref().map(|stopped| stopped.in_doubt(vantage))),
            advice: if without_route {
                vec![Remedy::safe("Look at this machine's routes: is there a default route?").run("ip route show")]
            } else {
                suspicion.map(|suspicion| suspicion.advice).into_iter().collect()
            },
            ..Fault::default()
        });
    }
    Examination::of(faults)
}

/// A rule of this host's own firewall that has stopped something on its way out, perhaps connections to the server: what
/// the program is told then looks like the server's own refusal, or its silence.
struct Stopped<'a> {
    rule: &'a Taken<FirewallRule>,
    to: SocketAddr,
    /// Whether its words say that it takes such connections; else they do not tell.
    surely: bool,
}

impl<'a> Stopped<'a> {
    /// The first that takes them surely, or else may take them, and does to a connection what its program was told.
    fn find(side: &'a SideEvidence, server: &str, detail: &str) -> Option<Self> {
        let verdict = verdict_that_tells(detail)?;
        let mut found = None;
        for rule in side.host.firewall_rules.iter().filter(|rule| rule.moment == Moment::After) {
            let counted = rule.fact.packets_since.is_some_and(|packets| packets > 0);
            let stops = rule.fact.stops_at(&["output", "postrouting"]) && rule.fact.verdict.as_deref() == Some(verdict);
            for to in addresses_of(side, server).into_iter().filter(|_| counted && stops) {
                match takes(side, rule, to) {
                    Some(true) => return Some(Self { rule, to, surely: true }),
                    None => found = found.or(Some(Self { rule, to, surely: false })),
                    Some(false) => {}
                }
            }
        }
        found
    }

    fn fault(&self, vantage: Vantage, server: &str, failed: u64) -> Fault {
        let (rule, to) = (&self.rule.fact, self.to);
        let (ip, port, how) = (to.ip(), to.port(), rule.verdict.as_deref().unwrap_or("drop"));
        let family = if ip.is_ipv4() { "ip" } else { "ip6" };
        let (table_family, table, chain) = (&rule.table_family, &rule.table, &rule.chain);
        let let_out = match rule.framework {
            FirewallFramework::Nftables => {
                format!("nft insert rule {table_family} {table} {chain} {family} daddr {ip} tcp dport {port} accept")
            }
            FirewallFramework::LegacyIptables => {
                let command = if ip.is_ipv4() { "iptables-legacy" } else { "ip6tables-legacy" };
                format!("{command} -I {chain} -p tcp -d {ip} --dport {port} -j ACCEPT")
            }
        };
        Fault {
            blame: Blame::side(vantage),
            severity: Severity::Error,
            summary: format!(
                "The firewall of {} {how}s its own connections to the signaling server {server} ({to}), by {}: the server has not seen them",
                vantage.name(),
                quoted_firewall(rule)
            ),
            evidence: vec![failed, self.rule.seq],
            advice: vec![Remedy::firewall("Let these connections out, ahead of the rule").run(let_out)],
            advice_is_all: true,
            ..Fault::default()
        }
    }

    fn in_doubt(&self, vantage: Vantage) -> String {
        format!(
            "the firewall of {} stopped packets on their way out meanwhile, by {}: whether connections to the server are among them is not known",
            vantage.name(),
            quoted_firewall(&self.rule.fact)
        )
    }
}

/// What a rule on output would have had to do to a connection that ended like this before it came about; `None`: no rule
/// there does that. Linux tells a program of a reject by ECONNREFUSED (port unreachable, TCP reset), EHOSTUNREACH,
/// ENETUNREACH or EACCES (the other codes of ICMP and ICMPv6), and of a drop nothing: it gets no answer.
fn verdict_that_tells(detail: &str) -> Option<&'static str> {
    let is_one_of = |errors: &[i32]| errors.iter().any(|errno| detail.contains(&format!("(os error {errno})")));
    if is_one_of(&[ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EACCES]) {
        return Some("reject");
    }
    // "No answer" is said of TLS and of the handshake behind it as well, where there is a connection already.
    let is_silent = detail.starts_with("the server did not answer within")
        || detail.contains("cannot reach the signaling server") && detail.ends_with("no answer");
    (is_silent || is_one_of(&[EPERM, ETIMEDOUT])).then_some("drop")
}

/// Whether a rule takes connections of this host to an address, as far as is known: by their words, and unless a rule
/// ahead of it in its chain lets them out. That it does is certain only in a base chain, where all that is ahead of it was
/// told and none of that may let them out or lead them elsewhere.
fn takes(side: &SideEvidence, rule: &Taken<FirewallRule>, destination: SocketAddr) -> Option<bool> {
    let way = way_to(side, destination);
    // Whichever of its addresses they had, on the way where it is known.
    let sources = side.host.addresses.iter().filter(|own| {
        own.fact.address.is_ipv4() == destination.is_ipv4()
            && own.fact.address.is_loopback() == destination.ip().is_loopback()
            && way.as_ref().is_none_or(|way| *way == own.fact.device)
    });
    let ahead = |other: &&Taken<FirewallRule>| {
        let place = |rule: &FirewallRule| {
            (rule.framework, rule.table_family.clone(), rule.table.clone(), rule.chain.clone(), rule.hook.clone())
        };
        let before = matches!((other.fact.position, rule.fact.position), (Some(other), Some(own)) if other < own);
        other.moment == rule.moment
            && other.fact.verdict.as_deref() == Some("accept")
            && place(&other.fact) == place(&rule.fact)
            && (before || other.fact.position.is_some() && rule.fact.position.is_none())
    };
    let ahead: Vec<_> = side.host.firewall_rules.iter().filter(ahead).collect();
    let all_ahead = super::ahead::ahead(&side.host, &rule.fact);
    let taken = sources.map(|own| {
        let (source, out_device) = (SocketAddr::new(own.fact.address, 0), Some(own.fact.device.as_str()));
        let packet = FilteredPacket { source, destination, in_device: None, out_device };
        let let_out = ahead.iter().any(|other| other.fact.takes_tcp(&packet) == Some(true));
        if let_out {
            return Some(false);
        }
        let leads_away = |other: &FirewallRule| {
            let ends = other.verdict.as_deref().is_some_and(|verdict| !matches!(verdict, "drop" | "reject"));
            ends && other.takes_tcp(&packet) != Some(false)
        };
        let comes_there = || all_ahead.as_ref().is_some_and(|ahead| !ahead.iter().any(|other| leads_away(&other.fact)));
        rule.fact.takes_tcp(&packet).filter(|takes| !takes || comes_there())
    });
    let taken: BTreeSet<_> = taken.collect();
    // Several addresses that fare differently tell nothing of the one that it was.
    taken.first().copied().flatten().filter(|_| taken.len() == 1)
}

/// The interface by which connections of a plain program leave for an address, by the rules and routes that were told.
fn way_to(side: &SideEvidence, destination: SocketAddr) -> Option<String> {
    let rules: Vec<_> = side.host.policy_rules.iter().map(|rule| rule.fact.clone()).collect();
    let routes: Vec<_> = side.host.routes.iter().map(|route| route.fact.clone()).collect();
    let addresses: Vec<_> = side.host.addresses.iter().map(|own| own.fact.clone()).collect();
    let question = RouteQuestion {
        purpose: RoutePurpose::Server,
        destination: destination.ip(),
        destination_port: destination.port(),
        source: None,
        source_port: None,
        // TCP.
        protocol: 6,
        mark: 0,
        user: 0,
        out_device: None,
        probe: true,
    };
    look_up(&rules, &routes, &addresses, &question).device().map(str::to_owned)
}

/// Where a signaling server is, as far as a side knows: its URL has an address, or its name was resolved.
fn addresses_of(side: &SideEvidence, server: &str) -> Vec<SocketAddr> {
    let (scheme, rest) = server.split_once("://").unwrap_or(("http", server));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if let Ok(address) = authority.parse() {
        return vec![address];
    }
    let default = if matches!(scheme, "https" | "wss") { 443 } else { 80 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(default)),
        _ => (authority, default),
    };
    if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return vec![SocketAddr::new(ip, port)];
    }
    let of_name = side.names.iter().filter(|(_, name, ..)| name.eq_ignore_ascii_case(host));
    of_name.flat_map(|(_, _, addresses, _)| addresses).map(|ip| SocketAddr::new(*ip, port)).collect()
}

/// The server answers, later than anybody waited.
fn slow_network(vantage: Vantage, server: &str, after: f64, evidence: [u64; 2]) -> Fault {
    Fault {
        blame: Blame::Path,
        severity: Severity::Error,
        summary: format!(
            "The network of {} is slow: {server} answered the first packet of a connection {after:.1} s after it was sent, when nobody waited any longer",
            vantage.name()
        ),
        evidence: evidence.into(),
        advice: vec![Remedy::safe(
            "Check again with --time 20s: then answers are waited for so long as they take here",
        )],
        advice_is_all: true,
        ..Fault::default()
    }
}

/// Messages of a side that signaling did not take: the peer never got them.
fn untaken(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    // What a connection needs; not what the account alone does.
    let is_needed = |message: &str| matches!(message, "offer" | "answer" | "candidate" | "end-of-candidates");
    let untaken =
        || session.evidence.side(vantage).untaken_messages.iter().filter(|(_, message, _)| is_needed(message));
    let (_, message, detail) = untaken().next()?;
    let more = untaken().count() - 1;
    let more = if more > 0 { format!(", and {more} more of its messages") } else { String::new() };
    Some(Fault {
        blame: Blame::Signaling,
        severity: session.harm(),
        summary: format!("signaling did not take the {message} of {}: {detail}{more}", vantage.name()),
        evidence: untaken().map(|(seq, ..)| *seq).collect(),
        ..Fault::default()
    })
}

/// Whether a URL is of the host with this name.
pub(super) fn is_host_of(url: &str, name: &str) -> bool {
    let behind_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    behind_scheme.split(['/', ':']).next().is_some_and(|host| host.eq_ignore_ascii_case(name))
}
