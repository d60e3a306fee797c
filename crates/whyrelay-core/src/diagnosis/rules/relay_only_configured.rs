//! the session was told to use a relay.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR801",
    name: "relay-only-configured",
    title: "the session was told to use a relay",
    meaning: "A side was started with --relay-only (other programs: iceTransportPolicy relay, NB_FORCE_RELAY), so it offers and uses relayed candidates only. A direct path was never tried; and without a TURN server there is nothing to offer, so such a session can never connect.",
    detection: "The options at the start of the recording; and whether the side knows any TURN server.",
    proof: "The options at the start of the recording.",
    doubt: "A session without the option.",
    fixes: &[
        Fix::safe("Leave out --relay-only to try a direct path."),
        Fix::safe("To keep it, give that side a TURN server that works (--turn), and drop --no-turn."),
    ],
    threads: &["netbirdio/netbird#5589"],
    depends_on: &[],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let asked: Vec<_> =
        session.recorded().filter(|&vantage| session.evidence.side(vantage).options.relay_only).collect();
    let whose = |sides: &[Vantage]| match sides {
        [one] => (Blame::side(*one), one.name().to_owned()),
        _ => (Blame::Both, "both sides".to_owned()),
    };
    if asked.is_empty() {
        return Examination::Clear;
    }
    let without: Vec<_> =
        asked.iter().copied().filter(|&vantage| !session.evidence.side(vantage).knows_relay()).collect();
    let (blame, severity, summary) = match (session.path, without.as_slice()) {
        (Path::Failed, []) => {
            let (blame, who) = whose(&asked);
            // Where a relay is there and does not work, that is the fault to look for.
            (blame, Severity::Info, format!("--relay-only was asked for on {who}, so no direct path was tried"))
        }
        (Path::Failed, none) => {
            let (blame, who) = whose(none);
            let text = format!("--relay-only was asked for on {who}, without any TURN server: that can never connect");
            (blame, Severity::Error, text)
        }
        _ => {
            let (blame, who) = whose(&asked);
            (blame, Severity::Warning, format!("--relay-only was asked for on {who}, so no direct path was tried"))
        }
    };
    let evidence = asked.iter().map(|vantage| vantage.first_seq()).collect();
    Examination::Found(vec![Fault { blame, severity, summary, evidence, ..Fault::default() }])
}
