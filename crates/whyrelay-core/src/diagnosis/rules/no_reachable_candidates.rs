//! the sides have no addresses that could reach each other.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Path;
use crate::diagnosis::session::Session;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR508",
    name: "no-reachable-candidates",
    title: "the sides have no addresses that could reach each other",
    meaning: "Every direct pair leads to a private address in a network that the other side is not on. Without an address from a STUN server, or an IPv6 address, neither side knows how it looks from outside.",
    detection: "No direct pair has a public remote address or one on a common network.",
    proof: "A STUN answer from a server outside of both networks.",
    doubt: "A candidate with a public or common address on either side.",
    fixes: &[Fix::safe("Give both sides a STUN server (--stun) that they reach over UDP.")],
    threads: &["netbirdio/netbird#1744"],
    depends_on: &["WR301", "WR302", "WR303", "WR701", "WR702", "WR703", "WR705", "WR801", "WR102"],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let direct: Vec<_> = session.pairs.iter().filter(|pair| !pair.relayed && pair.was_checked()).collect();
    let could = direct.iter().any(|pair| [Vantage::A, Vantage::B].iter().any(|from| session.could_arrive(pair, *from)));
    if session.path == Path::Direct || direct.is_empty() || could {
        return Examination::Clear;
    }
    // Candidates come one by one: those of a recording that was cut short are not all of them.
    if !session.is_decided() {
        return Examination::Inconclusive { missing: "the recording ends before the session was decided".to_owned() };
    }
    Examination::Found(vec![Fault {
        blame: Blame::Both,
        severity: Severity::Warning,
        summary: "A and B know only private addresses of each other, in networks that they do not share".to_owned(),
        evidence: direct
            .iter()
            .flat_map(|pair| pair.a_to_b.evidence.iter().chain(&pair.b_to_a.evidence).copied())
            .collect(),
        ..Fault::default()
    }])
}
