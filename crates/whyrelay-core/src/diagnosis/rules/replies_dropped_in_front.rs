//! A firewall in front lets packets out and no answers in.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Break;
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::{Transport, Vantage};

pub(super) const RULE: Rule = Rule {
    code: "WR208",
    name: "replies-dropped-in-front",
    title: "a firewall in front lets packets out and no answers in",
    meaning: "What a side sends over UDP arrives, and nothing comes back to it: a stateless firewall in front of it (a provider's or a cloud's: Hetzner, network ACLs) does not let answers in, because it does not know that they were asked for.",
    detection: "Checks of the side arrived at the peer and were answered, and not one UDP packet reached the side, from no peer and from no server, although one of those answers the other side.",
    proof: "A capture on the host shows packets out and none in; the firewall has no rule for the host's ephemeral ports.",
    doubt: "One UDP packet that reaches the side.",
    fixes: &[Fix::firewall(
        "In the provider's firewall allow inbound UDP to the ports that this host sends from (net.ipv4.ip_local_port_range, and the VPN's port).",
    )],
    threads: &["netbirdio/netbird#390", "netbirdio/netbird#2120", "netbirdio/netbird#2567"],
    depends_on: &["WR110", "WR111"],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let (mut faults, mut unproven) = (Vec::new(), false);
    for vantage in session.recorded().filter(|_| session.path != Path::Direct) {
        let side = session.evidence.side(vantage);
        // What comes by a relay comes over the connection to it.
        let deaf = !side.received.values().any(|check| !side.is_relayed(check.pair.local))
            && !side.sent.values().any(|check| check.answer.is_some() && !side.is_relayed(check.pair.local))
            && !side.servers.iter().any(|((transport, ..), path)| *transport == Transport::Udp && path.has_answered());
        let answered = session.pairs.iter().filter(|pair| pair.from(vantage).broken == Some(Break::OnTheWayBack));
        let evidence: Vec<u64> = answered.flat_map(|pair| pair.from(vantage).evidence.iter().copied()).collect();
        if !deaf || evidence.is_empty() {
            continue;
        }
        // The peer's answers alone may be lost on the peer's own side; a server that others hear is not.
        if !is_answered_elsewhere(session, vantage) {
            unproven = true;
            continue;
        }
        faults.push(Fault {
            blame: Blame::side(vantage),
            severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
            summary: format!(
                "What {} sends over UDP arrives at {}, and nothing that is sent to {0} over UDP reaches it",
                vantage.name(),
                vantage.other().name()
            ),
            evidence,
            ..Fault::default()
        });
    }
    if faults.is_empty() && unproven {
        return Examination::Inconclusive { missing: "no server that answers the other side was asked".to_owned() };
    }
    Examination::of(faults)
}

/// Whether a server that a side asks over UDP answers the other side.
fn is_answered_elsewhere(session: &Session<'_>, vantage: Vantage) -> bool {
    let (own, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let asked = own.asked();
    other.servers.iter().any(|((transport, _, server), path)| {
        *transport == Transport::Udp
            && path.has_answered()
            && asked.get(server).is_some_and(|transmissions| *transmissions >= 3)
    })
}
