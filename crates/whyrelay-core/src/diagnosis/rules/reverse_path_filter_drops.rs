//! Strict reverse path filtering drops what arrives.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::routes::is_refused;
use crate::diagnosis::session::{Path, Session};
use crate::host::{ProbeAim, Subject};
use crate::trace::event::Vantage;

use super::wording::sysctl_name;

pub(super) const RULE: Rule = Rule {
    code: "WR110",
    name: "reverse-path-filter-drops",
    title: "strict reverse path filtering drops what arrives",
    meaning: "The kernel of this side drops packets that arrive by another interface than the one by which it would answer (rp_filter=1). A capture shows the checks and the program never gets them. It comes with policy routing, a full-tunnel VPN, or two uplinks.",
    detection: "The counter TcpExt IPReversePathFilter moved during the checks. It is the whole host's: where the packets that reach the interfaces could be looked at, some of them must have been for the session's own sockets, which never heard from there. Where something else keeps the host from sending: an interface that its rules and routes would use then filters strictly, and by them the way back from there is another.",
    proof: "nstat -az TcpExtIPReversePathFilter before and after a check; with rp_filter=2 the check arrives.",
    doubt: "The counter standing still while checks are lost.",
    fixes: &[Fix::firewall("In a container, set the sysctl on the host or with --sysctl.")],
    threads: &[
        "netbirdio/netbird#1839",
        "netbirdio/netbird#2753",
        "tailscale/tailscale#3310",
        "tailscale/tailscale#19796",
    ],
    depends_on: &[],
    needs: &[Need::Host(Subject::Counters)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    let of_side = |vantage| fault(session, vantage).or_else(|| would_drop(session, vantage));
    Examination::of(session.recorded().filter_map(of_side).collect())
}

/// Nothing arrives, as something else keeps this side from sending, and what would arrive then would be dropped: its way
/// back is by another interface.
fn would_drop(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let host = &side.host;
    // With it a mark that the filter sets on arrival may choose the way back.
    if host.sysctls.iter().any(|((name, _), (_, value))| name == "src_valid_mark" && value == "1") {
        return None;
    }
    let heard: BTreeSet<IpAddr> = side.delivered.keys().map(|(_, other)| other.ip()).collect();
    let failed = |to: IpAddr| {
        let to_there = side.send_failures.iter().filter(|((_, remote, _), _)| remote.ip() == to);
        to_there.map(|(_, failure)| failure.seq).min()
    };
    let mended = session.mended_ways(vantage);
    let ways = mended.to_servers.iter().chain(&mended.to_peer);
    let (way, device, strict, kept_back) = ways.filter(|way| !is_refused(&way.way)).find_map(|way| {
        let to = way.way.question.destination;
        let device = way.way.device()?.to_owned();
        let (strict, value) = host.rp_filter(&device)?;
        let is_dropped = value == 1 && way.back.as_ref().is_some_and(|back| back.device() != Some(&device));
        let kept_back = way.behind.first().map(|(_, seq)| *seq).or_else(|| failed(to))?;
        (to.is_ipv4() && is_dropped && !heard.contains(&to)).then_some((way, device, strict, kept_back))
    })?;
    let back = way.back.as_ref().map(super::wording::way).unwrap_or_default();
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "The kernel of {} drops what arrives from {} by {device} (rp_filter is 1 there, and the way back is {back}): that comes to light once {} is mended",
            vantage.name(),
            way.way.question.destination,
            way.mended()
        ),
        evidence: vec![strict, way.seen.seq, kept_back],
        advice: vec![loosely(&device, "1")],
        hidden: true,
        ..Fault::default()
    })
}

/// The greater value of the interface and of "all" counts: one of the two is enough.
fn loosely(device: &str, before: &str) -> Remedy {
    Remedy::firewall(format!("Filter loosely (undo: the same with {before})"))
        .run(format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", sysctl_name(device)))
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let host = &side.host;
    let (seq, dropped) = host.counter("TcpExt.IPReversePathFilter").filter(|(_, by)| *by > 0)?;
    // The counter is the whole host's. Answers to a probe that is bound to a device which the routing does not use for
    // the peer are dropped as well, and another program's packets: what the session's own sockets miss is what counts.
    let undelivered = side.undelivered();
    if undelivered.as_ref().is_some_and(Vec::is_empty) {
        return None;
    }
    let missed = undelivered.into_iter().flatten().map(|(_, seq)| seq).take(2);
    // Which interfaces are strict: those of the session's sockets first.
    let used = side.local_candidates.iter().filter_map(|local| local.interface.clone());
    let strict: Vec<_> =
        used.filter_map(|device| Some((host.rp_filter(&device).filter(|(_, value)| *value == 1)?.0, device))).collect();
    let on = strict.first().map(|(_, device)| format!(" (rp_filter is 1 on {device})")).unwrap_or_default();
    let device = strict.first().map_or("all", |(_, device)| device.as_str());
    let before = host.sysctls.get(&("rp_filter".into(), Some(device.into()))).map_or("1", |(_, value)| value.as_str());
    let marked = host.sysctls.iter().any(|((name, _), (_, value))| name == "src_valid_mark" && value == "1");
    let mut advice = vec![loosely(device, before)];
    if marked {
        advice.push(Remedy::firewall("src_valid_mark is 1 here: if a rule marks packets on arrival, save and restore the mark per connection (ct mark), as wg-quick does"));
    }
    let probes = host.probes_with(|aim| matches!(aim, ProbeAim::Device { .. })).map(|probe| probe.seq);
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "The kernel of {} dropped {dropped} packets on arrival by reverse path filtering{on}",
            vantage.name()
        ),
        evidence: [seq]
            .into_iter()
            .chain(strict.first().map(|(seq, _)| *seq))
            .chain(missed)
            .chain(probes.take(2))
            .collect(),
        advice,
        ..Fault::default()
    })
}
