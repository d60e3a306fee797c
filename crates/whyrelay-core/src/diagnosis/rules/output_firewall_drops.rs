//! This host's own firewall drops what is sent to the peer.

use std::net::SocketAddr;

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{SideEvidence, Taken};
use crate::diagnosis::finding::{Blame, Finding, Remedy, Severity};
use crate::diagnosis::network::told;
use crate::diagnosis::session::{Path, Session};
use crate::engine::server_url::{ServerHost, ServerUrl};
use crate::host::{FilteredPacket, FirewallFramework, FirewallRule, Subject};
use crate::ice::candidate::CandidateType;
use crate::trace::event::{ServerFailure, Vantage};

use super::errno::EPERM;
use super::wording::{against, quoted_firewall};
use super::would_drop;

pub(super) const RULE: Rule = Rule {
    code: "WR103",
    name: "output-firewall-drops",
    title: "this host's own firewall drops what is sent to the peer",
    meaning: "A firewall rule on output or postrouting of this host drops or rejects the session's UDP packets. The kernel says so to the sender: EPERM, \"operation not permitted\".",
    detection: "Sends failed with EPERM; the firewall's rules and their counters, where they can be read, name the rule. Or, where no server answers over UDP and there is no path, connecting to a relay over TCP failed, and a rule counted packets that takes such connections for certain. Where something else stops the packets before they come to the filter: a rule that surely takes them, where the rules of its chain before it and of the chains that lead there were told.",
    proof: "The counter of the rule grows with each check.",
    doubt: "A send with success to the same address.",
    fixes: &[Fix::firewall("Allow outbound UDP for this program or port in the host's firewall.")],
    threads: &["pjsip/pjproject#5031"],
    depends_on: &["WR112", "WR129"],
    needs: &[Need::Sockets],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let of_side = |vantage| {
        let fault = fault(session, vantage).or_else(|| connections(session, vantage));
        [fault, would_drop::on_output(session, vantage)]
    };
    Examination::of(session.recorded().flat_map(of_side).flatten().collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let refused: Vec<_> = side.send_failures.iter().filter(|((_, _, errno), _)| *errno == EPERM).collect();
    let ((local, remote, _), first) = refused.iter().min_by_key(|(_, failure)| failure.seq)?;
    let count: u32 = refused.iter().map(|(_, failure)| failure.count).sum();
    let rule = side.host.firewall_rules.iter().find(|rule| {
        rule.fact.stops_at(&["output", "postrouting"]) && rule.fact.packets_since.is_none_or(|packets| packets > 0)
    });
    let by = rule.map(|rule| format!(" by {}", quoted_firewall(&rule.fact))).unwrap_or_default();
    let mut advice = match rule {
        Some(rule) => against(&rule.fact, &side.host, Some(local.port()), false),
        None => vec![
            Remedy::safe("Find the rule")
                .run("nft -a list ruleset | grep -n -B20 -E 'drop|reject'")
                .run("iptables-save -c | grep -E 'OUTPUT.*(DROP|REJECT)'"),
        ],
    };
    if rule.is_none()
        && let Some((_, Some(needs))) = side.host.why_not_measured(Subject::Nftables)
    {
        advice.push(Remedy::safe(format!("Run whyrelay with {needs}: then it names the rule")));
    }
    let severity = if session.path == Path::Direct { Severity::Warning } else { session.harm() };
    Some(Fault {
        blame: Blame::side(vantage),
        severity,
        summary: format!(
            "The firewall of {} drops what it sends itself{by}: {count} packets from {local}, first to {remote} ({})",
            vantage.name(),
            first.detail
        ),
        evidence: refused.iter().map(|(_, failure)| failure.seq).take(6).chain(rule.map(|rule| rule.seq)).collect(),
        advice,
        ..Fault::default()
    })
}

/// Whether a finding is about connections to relays: then what the network does to UDP is not this firewall's doing.
pub(in crate::diagnosis) fn is_about_connections(session: &Session<'_>, finding: &Finding) -> bool {
    let about = |vantage| finding.blame == Blame::side(vantage) && connections(session, vantage).is_some();
    finding.code == RULE.code && !finding.hidden && session.recorded().any(about)
}

/// The connections over TCP to a relay, where nothing else is left: no server answers over UDP, there is no relayed
/// address, and no path. The kernel does not tell the program who drops them, so a rule must have counted some since the
/// session began that takes such packets for certain.
fn connections(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let has_relay = side.local_candidates.iter().any(|local| local.candidate.kind == CandidateType::Relayed);
    let refused = side.send_failures.keys().any(|(.., errno)| *errno == EPERM);
    let is_needed = session.path == Path::Failed && !has_relay && told(side).is_empty();
    if !is_needed || refused || session.evidence.is_alone() {
        return None;
    }
    let counted = |rule: &&Taken<FirewallRule>| {
        rule.fact.stops_at(&["output", "postrouting"]) && rule.fact.packets_since.is_some_and(|packets| packets > 0)
    };
    let (failed, detail, server, rule) = side.server_failures.iter().find_map(|failed| {
        let ServerFailure::ConnectionFailed { detail } = &failed.failure else { return None };
        addresses(side, &failed.server).into_iter().find_map(|server| {
            let own = side.local_candidates.iter().map(|local| local.base.ip());
            let own = own.into_iter().find(|own| own.is_ipv4() == server.is_ipv4())?;
            let takes = |rule: &&Taken<FirewallRule>| {
                let taken = would_drop::whatever_the_port(|port| {
                    let source = SocketAddr::new(own, port);
                    let packet = FilteredPacket { source, destination: server, in_device: None, out_device: None };
                    rule.fact.takes_tcp(&packet)
                });
                taken == Some(true)
            };
            let rule = side.host.firewall_rules.iter().filter(counted).find(takes)?;
            Some((failed, detail, server, rule))
        })
    })?;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "The firewall of {} drops its own connections to {} ({detail}), by {}: a relay over TCP is all that is left to it, as no server answers over UDP",
            vantage.name(),
            failed.server,
            quoted_firewall(&rule.fact)
        ),
        evidence: vec![failed.seq, rule.seq],
        advice: let_out(&rule.fact, server.port()),
        advice_is_all: true,
        ..Fault::default()
    })
}

/// The addresses of a server's URL, as far as this side knows.
fn addresses(side: &SideEvidence, url: &str) -> Vec<SocketAddr> {
    let Ok(url) = url.parse::<ServerUrl>() else { return Vec::new() };
    match url.host() {
        ServerHost::Ip(ip) => vec![SocketAddr::new(*ip, url.port())],
        ServerHost::Name(name) => side
            .names
            .iter()
            .filter(|(_, known, ..)| known.eq_ignore_ascii_case(name))
            .flat_map(|(_, _, addresses, _)| addresses.iter().map(|address| SocketAddr::new(*address, url.port())))
            .collect(),
    }
}

/// What lets connections to a port out, ahead of a rule.
fn let_out(rule: &FirewallRule, port: u16) -> Vec<Remedy> {
    let ahead = Remedy::firewall("Accept these connections ahead of the rule, until the next reload of the ruleset");
    let FirewallRule { table_family, table, chain, .. } = rule;
    if rule.framework == FirewallFramework::LegacyIptables {
        let command = if table_family == "ip6" { "ip6tables-legacy" } else { "iptables-legacy" };
        let table = if table == "filter" { String::new() } else { format!("-t {table} ") };
        return vec![ahead.run(format!("{command} {table}-I {chain} -p tcp --dport {port} -j ACCEPT"))];
    }
    let place = format!("{table_family} {table} {chain}");
    let mut advice = vec![ahead.run(format!("nft insert rule {place} tcp dport {port} accept"))];
    if let Some(handle) = rule.handle {
        advice.push(Remedy::firewall("Or take the rule out").run(format!("nft delete rule {place} handle {handle}")));
    }
    advice
}
