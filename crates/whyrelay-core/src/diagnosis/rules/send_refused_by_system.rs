//! the system refuses to send.

use super::counterfactual::is_server;
use super::errno::{EACCES, ECONNREFUSED, EHOSTUNREACH, EINVAL, EMSGSIZE, ENETUNREACH, ENOBUFS, EPERM};
use super::wording::{against, quoted_firewall};
use super::{Examination, Fault, Fix, Need, Rule, one_family};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use std::collections::BTreeMap;

use crate::diagnosis::evidence::{SideEvidence, Taken};
use crate::host::FirewallRule;

pub(super) const RULE: Rule = Rule {
    code: "WR101",
    name: "send-refused-by-system",
    title: "the system refuses to send",
    meaning: "The kernel of a side did not send the datagrams at all. The error number says what stands in the way: EPERM a firewall rule on output, EINVAL a blackhole route or rule (or a socket on loopback that sends elsewhere), EACCES a prohibit route or rule, ENETUNREACH no route, ENOBUFS a rule that drops what leaves a device (nft's netdev family on egress), or a full queue, EMSGSIZE a datagram larger than the interface takes.",
    detection: "sendmsg failed; the error number is recorded with the socket and the destination.",
    proof: "errno of the cited sends, and the rule or route that ip route get and nft list ruleset show.",
    doubt: "The same send with success.",
    fixes: &[
        Fix::safe("Run ip route get with the address (and the mark, if one is set) on that side."),
        Fix::safe("List ip rule and the output chains of nft list ruleset."),
    ],
    threads: &["netbirdio/netbird#2116", "pjsip/pjproject#5031"],
    depends_on: &["WR103", "WR104", "WR105", "WR106", "WR112", "WR113", "WR117", "WR129", "WR131"],
    needs: &[Need::Sockets],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let mut by_errno: BTreeMap<i32, Vec<_>> = BTreeMap::new();
        // Errors with a meaning of their own have rules of their own.
        let others =
            side.send_failures.iter().filter(|((.., errno), _)| !matches!(*errno, EPERM | EMSGSIZE | ECONNREFUSED));
        // From elsewhere the peer's probes came alone: their answers are no part of the session, and nobody asked the
        // routing for them.
        let others =
            others.filter(|((_, remote, _), _)| side.known.remote_at(*remote).is_some() || is_server(side, *remote));
        for ((local, remote, errno), failure) in others {
            by_errno.entry(*errno).or_default().push((*local, *remote, failure));
        }
        for (errno, failures) in by_errno {
            let count: u32 = failures.iter().map(|(_, _, failure)| failure.count).sum();
            let Some((local, remote, first)) = failures.iter().min_by_key(|(_, _, failure)| failure.seq) else {
                continue;
            };
            let more = match failures.len() {
                1 => String::new(),
                others => format!(" and {} more", others - 1),
            };
            let rule = egress(side).filter(|_| errno == ENOBUFS);
            let inside = errno == EINVAL && local.ip().is_loopback() && !remote.ip().is_loopback();
            let meaning = if inside { "the socket is on loopback, which leads nowhere else" } else { meaning(errno) };
            let by = rule.map_or_else(|| meaning.to_owned(), |rule| quoted_firewall(&rule.fact));
            faults.push(Fault {
                blame: Blame::side(vantage),
                family: one_family(failures.iter().map(|(_, remote, _)| remote.ip())),
                severity: severity(
                    side,
                    errno,
                    &failures.iter().map(|(_, remote, _)| remote.is_ipv6()).collect::<Vec<_>>(),
                ),
                summary: format!(
                    "The system of {} refused {count} sends from {local} to {remote}{more}: {} ({})",
                    vantage.name(),
                    first.detail,
                    by
                ),
                evidence: rule
                    .map(|rule| rule.seq)
                    .into_iter()
                    .chain(failures.iter().map(|(.., failure)| failure.seq))
                    .collect(),
                advice: rule.map(|rule| against(&rule.fact, &side.host, Some(local.port()), false)).unwrap_or_default(),
                ..Fault::default()
            });
        }
    }
    Examination::of(faults)
}

/// A rule that drops what leaves a device.
fn egress(side: &SideEvidence) -> Option<&Taken<FirewallRule>> {
    side.host
        .firewall_rules
        .iter()
        .find(|rule| rule.fact.stops_at(&["egress"]) && rule.fact.packets_since.is_none_or(|packets| packets > 0))
}

const fn meaning(errno: i32) -> &'static str {
    match errno {
        EPERM => "a firewall rule on output drops or rejects it",
        EACCES => "a prohibit route or rule, or a broadcast address",
        EINVAL => "a blackhole route or rule",
        EMSGSIZE => "larger than the interface takes",
        ENOBUFS => "a rule that drops what leaves the device (nft, netdev egress), a traffic shaper, or a full queue",
        ENETUNREACH => "no route, or an unreachable route",
        EHOSTUNREACH => "no route to the host, or nobody answers there on the link",
        _ => "see errno(3)",
    }
}

/// A missing route of one address family is common and harmless while the other family has one.
fn severity(side: &SideEvidence, errno: i32, families: &[bool]) -> Severity {
    let one_family = families.iter().all(|&is_ipv6| is_ipv6 == families[0]);
    match errno {
        ENETUNREACH | EHOSTUNREACH if one_family && side.reaches(!families[0]) => Severity::Info,
        EMSGSIZE => Severity::Warning,
        _ => Severity::Error,
    }
}
