//! The application could be direct and may still be on its relay.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::Blame;
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR806",
    name: "application-stuck-on-relay",
    title: "the application could be direct and may still be on its relay",
    meaning: "A fresh session with the application's own mark, port and user is direct, so the network allows it now. A VPN that fell back to its relay tries again only rarely: NetBird three times and then once an hour, and after sleep or roaming it may not notice that anything changed.",
    detection: "This session, made as the application and without anything tried for it alone (`--try`), is direct, and nothing of its mark, interface or user was missing.",
    proof: "The VPN's own status: relayed before its restart and direct after it.",
    doubt: "The VPN shown as direct already.",
    fixes: &[Fix::cuts(
        "If the VPN still says \"Relayed\": netbird down && netbird up (for Tailscale: tailscale down && tailscale up).",
    )],
    threads: &["netbirdio/netbird#2507", "netbirdio/netbird#3237", "netbirdio/netbird#3213", "netbirdio/netbird#6082"],
    depends_on: &["WR803"],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    // What was tried for this session alone is nothing that the application does.
    let is_tried = |vantage| !session.evidence.side(vantage).options.tried.is_empty();
    if session.path != Path::Direct || session.recorded().any(is_tried) {
        return Examination::Clear;
    }
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let host = &session.evidence.side(vantage).host;
    let (seq, application) = host.application.as_ref().filter(|(_, application)| application.is_routed_alike())?;
    // Where only the plain sockets were answered, the application's are not direct.
    if host.tallies.get(&true).is_some_and(|(_, tally)| tally.pairs_checked > 0 && tally.pairs_answered == 0) {
        return None;
    }
    Some(Fault {
        blame: Blame::side(vantage),
        summary: format!(
            "Made as {}, this session of {} is direct: if the VPN itself is relayed, it has not tried again",
            application.asked,
            vantage.name()
        ),
        evidence: vec![*seq],
        ..Fault::default()
    })
}
