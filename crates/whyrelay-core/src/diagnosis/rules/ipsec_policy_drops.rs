//! An IPsec policy drops packets.

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
    detection: "The kernel's IPsec counters (/proc/net/xfrm_stat) for blocked packets or missing states moved during the checks: on the way out while sends were refused with EPERM or were lost, on the way in while packets of the peer or of a server were lost.",
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
    let refused: Vec<u64> =
        side.send_failures.iter().filter(|((.., errno), _)| *errno == EPERM).map(|(_, failure)| failure.seq).collect();
    let lost = |from: Vantage| {
        session.pairs.iter().any(|pair| {
            session.could_arrive(pair, from)
                && matches!(pair.from(from).broken, Some(Break::OnTheWay | Break::Somewhere))
        })
    };
    let silent = || {
        side.asked().iter().any(|(server, sent)| {
            *sent >= 3 && !side.servers.iter().any(|((.., other), path)| other == server && path.has_answered())
        })
    };
    let direct = session.path == Path::Direct;
    let out = moved(&side.host, &OUT).filter(|_| !refused.is_empty() || !direct && (lost(vantage) || silent()));
    let (seq, packets, why, way) = match out {
        Some((seq, packets, why)) => (seq, packets, why, "sent"),
        None => {
            let (seq, packets, why) =
                moved(&side.host, &IN).filter(|_| !direct && (lost(vantage.other()) || silent()))?;
            (seq, packets, why, "received")
        }
    };
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!("IPsec on {} dropped {packets} packets that it {way}: {why}", vantage.name()),
        evidence: [seq].into_iter().chain(refused.into_iter().take(5)).collect(),
        advice: vec![
            Remedy::safe("Find the policy")
                .run("ip xfrm policy")
                .run("ip -s xfrm state")
                .run("cat /proc/net/xfrm_stat"),
        ],
        ..Fault::default()
    })
}

/// The counter that moved most: event, packets, what it says.
fn moved(host: &HostEvidence, names: &[(&str, &'static str)]) -> Option<(u64, i64, &'static str)> {
    let moved = names.iter().filter_map(|(name, why)| {
        let (seq, packets) = host.counter(name).filter(|(_, packets)| *packets > 0)?;
        Some((seq, packets, *why))
    });
    moved.max_by_key(|(_, packets, _)| *packets)
}
