//! The connection tracking table is full.

use super::errno::EPERM;
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::{Break, Session};
use crate::host::{ProbeOutcome, Subject};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR112",
    name: "conntrack-table-full",
    title: "the connection tracking table is full",
    meaning: "This host tracks connections and its table is full, so the kernel drops every packet that would begin a new entry: sends fail with EPERM, as if a firewall rule dropped them, and STUN fails, too.",
    detection: "The table's entries reached its limit, or its drop counter moved; it harms the session where sends fail with EPERM or the peer's checks are lost. Where something else refuses them before: a probe that fails with EPERM.",
    proof: "dmesg says \"nf_conntrack: table full, dropping packet\".",
    doubt: "A table that is not full while sends are refused.",
    fixes: &[Fix::safe(
        "Find what fills it: conntrack -L, sorted by source; often a scanner or a program that does not close its sockets.",
    )],
    threads: &["Ysurac/openmptcprouter#2943", "boramalper/magnetico#253"],
    depends_on: &[],
    needs: &[Need::Host(Subject::Counters)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let host = &side.host;
    let dropped =
        host.counters.iter().find(|(name, (_, by))| name.contains("conntrack") && name.ends_with("drop") && *by > 0);
    let usage = host.conntrack_use.iter().max_by_key(|usage| usage.fact.0);
    let full = usage.filter(|usage| usage.fact.1 > 0 && usage.fact.0 >= usage.fact.1);
    if dropped.is_none() && full.is_none() {
        return None;
    }
    // Connections of others that are dropped do this session no harm.
    let sends = side.send_failures.keys().any(|(.., errno)| *errno == EPERM);
    let unheard = side.unheard().is_none_or(|unheard| !unheard.is_empty());
    let lost = || {
        session.pairs.iter().any(|pair| {
            session.could_arrive(pair, vantage.other()) && pair.from(vantage.other()).broken == Some(Break::OnTheWay)
        })
    };
    let harms = sends || unheard && lost();
    // Something else refuses the session's own packets before they come to it; those of a probe came as far.
    let refused = ProbeOutcome::Refused { errno: EPERM };
    let probe = host.probes.iter().find(|probe| probe.fact.result == refused);
    let kept_back = side.send_failures.values().map(|failure| failure.seq).min();
    let hidden = probe.zip(kept_back).filter(|_| !harms && full.is_some() && dropped.is_some());
    let behind = hidden.map_or("", |_| ": that comes to light once what else refuses its packets is mended");
    let of = usage.map(|usage| format!(": {} of {} entries", usage.fact.0, usage.fact.1)).unwrap_or_default();
    let drops = dropped.map(|(_, (_, by))| format!(", {by} packets dropped")).unwrap_or_default();
    let more = usage.map_or(524_288, |usage| usage.fact.1.saturating_mul(2));
    Some(Fault {
        blame: Blame::side(vantage),
        severity: if harms || hidden.is_some() { session.harm().min(Severity::Warning) } else { Severity::Info },
        summary: format!("The connection tracking table of {} is full{of}{drops}{behind}", vantage.name()),
        evidence: dropped
            .map(|(_, (seq, _))| *seq)
            .into_iter()
            .chain(full.map(|full| full.seq))
            .chain(hidden.into_iter().flat_map(|(probe, seq)| [probe.seq, seq]))
            .collect(),
        hidden: hidden.is_some(),
        advice: vec![
            Remedy::safe("Make it larger, until the next boot")
                .run(format!("sysctl -w net.netfilter.nf_conntrack_max={more}")),
        ],
        ..Fault::default()
    })
}
