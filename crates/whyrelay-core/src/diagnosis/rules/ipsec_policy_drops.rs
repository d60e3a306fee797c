//! An IPsec policy drops packets.

use std::net::SocketAddr;

use super::errno::EPERM;
use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::evidence::HostEvidence;
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::session::{Break, Path, Session};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR129",
    name: "ipsec-policy-drops",
    title: "an IPsec policy of this host drops the session's packets",
    meaning: "A policy of the kernel's IPsec (ip xfrm policy; strongSwan, Libreswan, a corporate VPN client) covers these packets and blocks them, or wants them in a tunnel that is not there. On the way out it looks like a firewall (EPERM, \"operation not permitted\"), on the way in like silence; no firewall rule shows it.",
    detection: "The kernel's IPsec counters (/proc/net/xfrm_stat) for blocked packets or missing states moved during the checks, and so many of the session's own packets were stopped: on the way out its sends were refused with EPERM, on the way in packets for its sockets reached an interface and no socket. The counters are the whole host's: alone they say nothing. Not where a firewall rule took as many.",
    proof: "ip xfrm policy lists the policy, and its counter in /proc/net/xfrm_stat grows with each check.",
    doubt: "The counters standing still while checks are lost.",
    fixes: &[Fix::firewall(
        "Let the peer's address, or UDP of this program, pass by a policy of its own where the policy is configured (in strongSwan a connection with type = passthrough).",
    )],
    threads: &[],
    depends_on: &["WR801"],
    examine,
};

/// Counters of packets that a policy stops: what they are called, and what each says.
const OUT: [(&str, &str); 4] = [
    ("Xfrm.XfrmOutPolBlock", "a policy blocks them"),
    ("Xfrm.XfrmOutNoStates", "a policy wants them in a tunnel that is not there"),
    ("Xfrm.XfrmOutPolDead", "their policy is gone"),
    ("Xfrm.XfrmOutBundleGenError", "their tunnel cannot be set up"),
];
const IN: [(&str, &str); 3] = [
    ("Xfrm.XfrmInPolBlock", "a policy blocks them"),
    ("Xfrm.XfrmInTmplMismatch", "a policy wants them from a tunnel"),
    ("Xfrm.XfrmInNoPols", "no policy lets them in"),
];

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let refused = || side.send_failures.iter().filter(|((.., errno), _)| *errno == EPERM).map(|(_, failure)| failure);
    let refusals: u64 = refused().map(|failure| u64::from(failure.count)).sum();
    let (refusing, taking) = (&["output", "postrouting"], &["input", "prerouting", "ingress"]);
    let out = moved(&side.host, &OUT).filter(|(_, packets, _)| explains(*packets, refusals));
    let out = out.filter(|_| !firewall_took(&side.host, refusing, refusals));
    let (seq, packets, why, way, own) = match out {
        Some((seq, packets, why)) => {
            (seq, packets, why, "sent", refused().map(|failure| failure.seq).collect::<Vec<u64>>())
        }
        None => {
            let arrived = stopped_arrivals(session, vantage);
            let stopped: u64 = arrived.iter().map(|(packets, _)| packets).sum();
            let (seq, packets, why) = moved(&side.host, &IN).filter(|(_, packets, _)| explains(*packets, stopped))?;
            let filtered = side.host.counter("TcpExt.IPReversePathFilter").is_some_and(|(_, packets)| packets > 0);
            if filtered || firewall_took(&side.host, taking, stopped) {
                return None;
            }
            (seq, packets, why, "received", arrived.into_iter().map(|(_, seq)| seq).collect())
        }
    };
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!("IPsec on {} dropped {packets} packets that it {way}: {why}", vantage.name()),
        evidence: [seq].into_iter().chain(own.into_iter().take(5)).collect(),
        advice: vec![
            Remedy::safe("Find the policy")
                .run("ip xfrm policy")
                .run("ip -s xfrm state")
                .run("cat /proc/net/xfrm_stat"),
        ],
        ..Fault::default()
    })
}

/// Packets for the session's sockets that reached an interface of this side and no socket, from where something is
/// missing: packets and event of each.
fn stopped_arrivals(session: &Session<'_>, vantage: Vantage) -> Vec<(u64, u64)> {
    let (side, other) = (session.evidence.side(vantage), vantage.other());
    let lost = session.pairs.iter().any(|pair| {
        let broken = pair.from(other).broken;
        session.could_arrive(pair, other) && matches!(broken, Some(Break::OnTheWay | Break::Somewhere))
    });
    let asked = side.asked();
    let is_missing = |source: &SocketAddr| asked.get(source).map_or(lost, |sent| *sent >= 3);
    if session.path == Path::Direct {
        return Vec::new();
    }
    let unheard = side.unheard().unwrap_or_default().into_iter();
    unheard.filter(|(source, ..)| is_missing(source)).map(|(_, packets, seq)| (packets, seq)).collect()
}

/// Whether a counter of the whole host can stand for so many of the session's packets. It was read first when some of
/// them had gone already.
fn explains(counted: i64, own: u64) -> bool {
    own > 0 && u64::try_from(counted).unwrap_or_default().saturating_mul(2) >= own
}

/// Whether a firewall rule on one of these hooks took at least so many packets: then it is that rule, and the counter
/// is another program's.
fn firewall_took(host: &HostEvidence, hooks: &[&str], own: u64) -> bool {
    host.firewall_rules
        .iter()
        .any(|rule| rule.fact.stops_at(hooks) && rule.fact.packets_since.is_some_and(|packets| packets >= own))
}

/// The counter that moved most: event, packets, what it says.
fn moved(host: &HostEvidence, names: &[(&str, &'static str)]) -> Option<(u64, i64, &'static str)> {
    let moved = names.iter().filter_map(|(name, why)| {
        let (seq, packets) = host.counter(name).filter(|(_, packets)| *packets > 0)?;
        Some((seq, packets, *why))
    });
    moved.max_by_key(|(_, packets, _)| *packets)
}
