//! An IPsec policy drops packets.

use std::net::SocketAddr;

use super::errno::EPERM;
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{HostEvidence, Taken};
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::session::{Break, JoinedPair, Path, Session, likeliest_first};
use crate::host::{IpsecDirection, IpsecPolicy, Prefix, Subject};
use crate::trace::event::{Transport, Vantage};

pub(super) const RULE: Rule = Rule {
    code: "WR129",
    name: "ipsec-policy-drops",
    title: "an IPsec policy of this host drops the session's packets",
    meaning: "A policy of the kernel's IPsec (ip xfrm policy; strongSwan, Libreswan, a corporate VPN client) covers these packets and blocks them, or wants them in a tunnel that is not there. On the way out it looks like a firewall (EPERM, \"operation not permitted\"), on the way in like silence; no firewall rule shows it.",
    detection: "The kernel's IPsec counters (/proc/net/xfrm_stat) for blocked packets or missing states moved during the checks. They are the whole host's and say nothing alone: so, as root, the policies are read (as ip xfrm policy shows them), and the one that decides about an address from which nothing came must block or want a tunnel. Where the policies cannot be read, so many of the session's own packets must have been stopped: on the way out its sends were refused with EPERM, on the way in packets for its sockets reached an interface and no socket; not where a firewall rule took as many.",
    proof: "ip xfrm policy lists the policy, and its counter in /proc/net/xfrm_stat grows with each check.",
    doubt: "The counters standing still while checks are lost.",
    fixes: &[Fix::firewall(
        "Let the peer's address, or UDP of this program, pass by a policy of its own where the policy is configured (in strongSwan a connection with type = passthrough).",
    )],
    threads: &["cilium/cilium#37552"],
    depends_on: &["WR801"],
    needs: &[Need::Sockets, Need::OtherSide, Need::Host(Subject::Counters), Need::Host(Subject::OwnPackets)],
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
    // All of them were read: what none of them stops is stopped elsewhere.
    let all_read = side.host.counted.get(&Subject::IpsecPolicies).is_some_and(|(_, total, recorded)| total == recorded);
    if all_read || !side.host.ipsec_policies.is_empty() {
        let found = by_policy(session, vantage);
        if found.is_some() || all_read {
            return found;
        }
    }
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

/// The policy that stops what goes to an address, or comes from there, from which nothing came.
fn by_policy(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let stops = |direction| {
        let mut policies = side.host.ipsec_policies.iter();
        policies.any(|policy| policy.fact.direction == direction && policy.fact.stops())
    };
    if session.path == Path::Direct || ![IpsecDirection::Out, IpsecDirection::In].into_iter().any(stops) {
        return None;
    }
    let silent = |pair: &&JoinedPair| !pair.relayed && pair.from(vantage).answer_seen.is_none_or(|seen| seen == 0);
    let pairs = likeliest_first(session.pairs.iter().filter(silent));
    let to_peer = pairs.iter().filter_map(|pair| pair.side(vantage)).map(|own| (own.pair.local, own.pair.remote));
    let unanswered = side.servers.iter().filter(|(_, path)| !path.has_answered() && path.transmissions() > 0);
    let to_servers = unanswered
        .filter(|((transport, ..), _)| *transport == Transport::Udp)
        .map(|((_, local, server), _)| (*local, *server));
    to_peer.chain(to_servers).find_map(|(local, remote)| {
        let mark = side.host.profiles.get(&local).map_or(0, |(_, profile)| profile.mark);
        [
            (IpsecDirection::Out, "sends to", &OUT[..], local, remote),
            (IpsecDirection::In, "receives from", &IN[..], remote, local),
        ]
        .into_iter()
        .find_map(|(direction, verb, counters, source, destination)| {
            let (seq, packets, why) = moved(&side.host, counters)?;
            let about = |policy: &&Taken<IpsecPolicy>| {
                policy.fact.direction == direction && policy.fact.matches(source, destination, mark)
            };
            let decides = side.host.ipsec_policies.iter().filter(about).min_by_key(|policy| policy.fact.priority)?;
            let decides = Some(decides).filter(|decides| decides.fact.stops())?;
            let name = vantage.name();
            Some(Fault {
                blame: Blame::side(vantage),
                severity: session.harm(),
                summary: format!(
                    "IPsec on {name} drops what it {verb} {remote}, by the policy {} ({packets} packets of this host: {why})",
                    decides.fact
                ),
                evidence: vec![decides.seq, seq],
                advice: [Remedy::safe("Look at the policy").run("ip xfrm policy").run("ip -s xfrm state")]
                    .into_iter()
                    .chain(let_pass(&decides.fact, source, destination))
                    .collect(),
                ..Fault::default()
            })
        })
    })
}

/// A policy ahead of one that stops packets, for those between two addresses. Ahead of the first priority there is none.
fn let_pass(policy: &IpsecPolicy, source: SocketAddr, destination: SocketAddr) -> Option<Remedy> {
    const WHAT: &str = "Let these two addresses pass ahead of it, if it is not meant to keep them out (undo: the same with delete, without priority)";
    let passing = IpsecPolicy {
        priority: policy.priority.checked_sub(1)?,
        source: Prefix::host(source.ip()),
        destination: Prefix::host(destination.ip()),
        protocol: Some(17),
        source_ports: None,
        destination_ports: None,
        blocks: false,
        templates: Vec::new(),
        ..policy.clone()
    };
    Some(Remedy::firewall(WHAT).run(format!("ip xfrm policy add {passing}")))
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
