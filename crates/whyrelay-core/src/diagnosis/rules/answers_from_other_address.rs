//! A side answers from another address than it was asked at.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::Blame;
use crate::diagnosis::network::Network;
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR119",
    name: "answers-from-other-address",
    title: "a side answers from another address than it was asked at",
    meaning: "Checks reach one address of this host and its answers leave with another source (a wildcard socket on a host with several uplinks, or kernel WireGuard's reply route). The asker's NAT and ICE take them for a stranger's (RFC 8445 §7.2.5.2.1).",
    detection: "An answer came from another address than the check was sent to, both sides were recorded, and the NAT in front of the answering side does not map by destination.",
    proof: "Captures on both interfaces of the answering host.",
    doubt: "Answers from the address that was asked.",
    fixes: &[Fix::safe(
        "Give each uplink its own table and a rule by source address on the answering host (from ADDRESS lookup TABLE), or CONNMARK on a router (mwan3: sticky).",
    )],
    threads: &["openwrt/openwrt#12930", "openwrt/packages#9538", "tailscale/tailscale#21404"],
    depends_on: &["WR801"],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    // A NAT that maps by destination answers from another address, too; only its own side's servers tell.
    let faults = || session.recorded().filter_map(|vantage| fault(session, vantage)).collect::<Vec<_>>();
    Examination::of(if session.recorded().count() == 2 { faults() } else { Vec::new() })
}

fn fault(session: &Session<'_>, asker: Vantage) -> Option<Fault> {
    let (side, peer) = (session.evidence.side(asker), session.evidence.side(asker.other()));
    let astray =
        side.sent.values().filter(|check| !side.is_relayed(check.pair.local) && !peer.is_relayed(check.pair.remote));
    let astray = astray.filter_map(|check| {
        let answer = check.answer.as_ref().filter(|answer| !answer.symmetric)?;
        Some((answer.seq, check.pair.remote))
    });
    let (seq, asked) = astray.min()?;
    // A NAT that maps by destination answers from another address by nature; that has a rule of its own.
    if Network::of(session, asker.other(), asked.is_ipv6()).is_dependent() == Some(true) {
        return None;
    }
    Some(Fault {
        blame: Blame::side(asker.other()),
        severity: session.harm(),
        summary: format!(
            "{} asked {} at {asked}, and the answer came from another address",
            asker.name(),
            asker.other().name()
        ),
        evidence: vec![seq],
        ..Fault::default()
    })
}
