//! This host's own firewall drops what is sent to the peer.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::Severity;
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::session::{Path, Session};
use crate::host::Subject;
use crate::trace::event::Vantage;

use super::errno::EPERM;
use super::wording::{against, quoted_firewall};
use super::would_drop;

pub(super) const RULE: Rule = Rule {
    code: "WR103",
    name: "output-firewall-drops",
    title: "this host's own firewall drops what is sent to the peer",
    meaning: "A firewall rule on output or postrouting of this host drops or rejects the session's UDP packets. The kernel says so to the sender: EPERM, \"operation not permitted\".",
    detection: "Sends failed with EPERM; the firewall's rules and their counters, where they can be read, name the rule. Where something else stops the packets before they come to the filter: a rule that surely takes them, where the rules of its chain before it and of the chains that lead there were told.",
    proof: "The counter of the rule grows with each check.",
    doubt: "A send with success to the same address.",
    fixes: &[Fix::firewall("Allow outbound UDP for this program or port in the host's firewall.")],
    threads: &["pjsip/pjproject#5031"],
    depends_on: &["WR112", "WR129"],
    needs: &[Need::Sockets],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let of_side = |vantage| [fault(session, vantage), would_drop::on_output(session, vantage)];
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
