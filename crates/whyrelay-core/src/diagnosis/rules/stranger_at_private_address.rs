//! A stranger has the peer's private address.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::address::AddressClass;

pub(super) const RULE: Rule = Rule {
    code: "WR511",
    name: "stranger-at-private-address",
    title: "a stranger has the peer's private address",
    meaning: "Both sides use the same private range (192.168.0.0/24 and 192.168.1.0/24 are everywhere), so checks to the peer's private address reach somebody else on the own network. That pair is dead; it does no harm, unless a program takes the stranger's answer for the peer's.",
    detection: "A check to a private address of the peer was answered with an error or an ICMP message, and the peer never saw it.",
    proof: "The neighbor table shows whose hardware address answers.",
    doubt: "The peer's recording with that check.",
    fixes: &[Fix::safe(
        "Nothing to do for whyrelay; use another private range on one side if a program confuses the two.",
    )],
    threads: &["netbirdio/netbird#3259", "netbirdio/netbird#1744"],
    depends_on: &[],
    needs: &[Need::Sockets, Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session
        .recorded()
        .filter(|vantage| session.path != Path::Direct && session.evidence.is_complete(vantage.other()))
    {
        let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
        let private = side.sent.iter().filter(|(id, check)| {
            AddressClass::of(check.pair.remote.ip()) == AddressClass::Private && !peer.received.contains_key(*id)
        });
        let strange = private.filter_map(|(_, check)| {
            let icmp = side.icmp_errors.iter().find(|((local, remote, icmp_type, code), error)| {
                (*local, *remote) == (check.pair.local, check.pair.remote)
                    && (*icmp_type, *code) == (3, 3)
                    && error.offender == Some(remote.ip())
            });
            let answered = check.answer.as_ref().map(|answer| answer.seq);
            Some((check.pair.remote, answered.or(icmp.map(|(_, error)| error.seq))?))
        });
        let Some((remote, seq)) = strange.min_by_key(|(_, seq)| *seq) else { continue };
        faults.push(Fault {
            blame: Blame::Path,
            severity: Severity::Info,
            summary: format!(
                "Somebody else answers {} at {remote}: {} never saw those checks",
                vantage.name(),
                vantage.other().name()
            ),
            evidence: vec![seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
