//! Packets are dropped for what they look like.

use super::need::BY_CHECK;
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::Vantage;
use crate::trace::measurement::Measurement;

pub(super) const RULE: Rule = Rule {
    code: "WR605",
    name: "packets-blocked-by-shape",
    title: "packets are dropped for what they look like",
    meaning: "Something on the way lets ordinary UDP pass and drops packets that look like WireGuard's handshake (or another VPN's): a provider's or country's inspection, or the \"security suite\" of a router. The path is found and the tunnel on it never comes up.",
    detection: "Packets shaped like WireGuard's handshake did not arrive, and random packets of the same size to the same address did.",
    proof: "The same two kinds of packets again, in turns: only the shaped ones are missing.",
    doubt: "A shaped packet that arrives.",
    fixes: &[
        Fix::owner("Turn off the router's inspection or \"security suite\" for this host, or use another line."),
        Fix::safe("Carry the tunnel in something that does not look like it (a relay over TLS, AmneziaWG)."),
    ],
    threads: &[
        "xiahualiu/wg_gaming_installer#36",
        "threefoldtech/zos#1442",
        "tailscale/tailscale#19457",
        "zerotier/ZeroTierOne#1349",
    ],
    depends_on: &[],
    needs: &[Need::Other(untried)],
    examine,
};

fn untried(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    let mut facts = session.evidence.side(vantage).measured.facts.iter();
    let tried = facts.any(|(_, fact)| matches!(fact, Measurement::PacketShape { .. }));
    (!tried).then(|| BY_CHECK.to_owned())
}

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let facts = &session.evidence.side(vantage).measured.facts;
        let dropped = facts.iter().find_map(|(seq, fact)| match fact {
            Measurement::PacketShape {
                remote, shaped_sent, shaped_arrived: 0, random_arrived, random_sent, ..
            } if *shaped_sent >= 3 && *random_arrived * 2 >= *random_sent && *random_arrived > 0 => {
                Some((*seq, *remote, *shaped_sent, *random_arrived, *random_sent))
            }
            _ => None,
        });
        let Some((seq, remote, shaped, arrived, sent)) = dropped else { continue };
        faults.push(Fault {
            blame: Blame::Path,
            severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
            summary: format!(
                "None of {shaped} packets from {} to {remote} that look like WireGuard's arrived, and {arrived} of {sent} random ones did",
                vantage.name()
            ),
            evidence: vec![seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
