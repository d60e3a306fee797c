//! Both sides are behind one NAT that does not turn packets around.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::network::{Told, told_anyhow, told_plainly, why_plainly};
use crate::diagnosis::routes::diversions;
use crate::diagnosis::session::Break;
use crate::diagnosis::session::{Path, Session};
use crate::host::Family;
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR204",
    name: "no-hairpin-behind-one-nat",
    title: "both sides are behind one NAT that does not turn packets around",
    meaning: "Both sides have the same public address, so they are behind one NAT. Their local addresses do not reach each other (client isolation, VLANs, a guest network), and the NAT does not send packets from inside to its own public address back inside (hairpinning). So neither way works.",
    detection: "Both sides' servers see the same public address, the checks between the local addresses are lost or there are none on a common network, and the checks to the public address are lost, too. Where those of one side arrive between the local addresses and those of the other do not, it says which.",
    proof: "A ping between the two local addresses fails, and a hairpin test (whyrelay check --hairpin) fails.",
    doubt: "One check between the local addresses that arrives.",
    fixes: &[
        Fix::owner(
            "Allow the two hosts to reach each other: client isolation off, or a rule for UDP between the VLANs.",
        ),
        Fix::owner("Turn on hairpinning (NAT loopback) on the router."),
    ],
    threads: &["netbirdio/netbird#3648", "peervpn/peervpn#24", "zerotier/ZeroTierOne#225"],
    depends_on: &["WR801", "WR110", "WR111", "WR113"],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct || session.recorded().count() < 2 {
        return Examination::Clear;
    }
    // A plain socket has the same address outside.
    let [a, b] = [Vantage::A, Vantage::B].map(|vantage| told_anyhow(session.evidence.side(vantage)));
    let translated = |told: &&Told| told.mapped.ip() != told.local.ip() && told.mapped.is_ipv4();
    let common = a.iter().filter(translated).find_map(|mine| {
        let theirs = b.iter().filter(translated).find(|theirs| theirs.mapped.ip() == mine.mapped.ip())?;
        Some((mine, theirs))
    });
    let Some((mine, theirs)) = common else { return Examination::Clear };
    let public = mine.mapped.ip();
    let mut lost = Vec::new();
    let within = within(session);
    // A host that sends the packets for the other elsewhere, or does not send them, shows nothing of the network; nor
    // does its NAT then let in what it did not ask for. On the inside the other's packets arrive all the same.
    let astray =
        [Vantage::A, Vantage::B].map(|vantage| !diversions(session, vantage).is_empty() || refuses(session, vantage));
    let [a_strays, b_strays] = astray;
    for pair in &session.pairs {
        for (from, strays, other_strays) in [(Vantage::A, a_strays, b_strays), (Vantage::B, b_strays, a_strays)] {
            let inside =
                || pair.side(from).is_some_and(|own| AddressClass::of(own.pair.remote.ip()) == AddressClass::Private);
            if !session.could_arrive(pair, from) || strays || other_strays && !inside() {
                continue;
            }
            match pair.from(from).broken {
                Some(Break::OnTheWay) => lost.extend(pair.from(from).evidence.iter().copied()),
                None if pair.from(from).sent.is_none_or(|sent| sent.checks == 0) => {}
                // Something arrived: this is not about a network that keeps its hosts apart.
                _ => return Examination::Clear,
            }
        }
    }
    if lost.is_empty() {
        return Examination::Clear;
    }
    let plainly = [(Vantage::A, mine), (Vantage::B, theirs)].into_iter().find_map(|(vantage, told)| {
        let side = session.evidence.side(vantage);
        told_plainly(side).contains(told).then(|| why_plainly(side))
    });
    let local = |vantage| if vantage == Vantage::A { mine.local.ip() } else { theirs.local.ip() };
    let (inside, advice) = match within {
        Within { reaches: Some((from, seq)), .. } => {
            let (here, there) = (from.name(), from.other().name());
            lost.insert(0, seq);
            let remedy = Remedy::owner(format!(
                "On the router or switch between the two networks, let UDP from {} ({there}) through to {} ({here}) as well, or keep state, so that answers pass",
                local(from.other()),
                local(from)
            ));
            (format!("on its inside {here} reaches {there}, and nothing of {there} reaches {here}"), vec![remedy])
        }
        Within { tried: [true, false], .. } => {
            ("A does not reach B on its inside (B did not try the other way there)".to_owned(), Vec::new())
        }
        Within { tried: [false, true], .. } => {
            ("B does not reach A on its inside (A did not try the other way there)".to_owned(), Vec::new())
        }
        _ => ("they do not reach each other on its inside".to_owned(), Vec::new()),
    };
    Examination::Found(vec![Fault {
        family: Some(Family::V4),
        blame: Blame::Path,
        severity: session.harm(),
        summary: format!(
            "A ({}) and B ({}) are behind one NAT with the public address {public}: {inside}, and it does not turn packets around{}",
            mine.local.ip(),
            theirs.local.ip(),
            plainly.unwrap_or_default()
        ),
        evidence: [mine.seq, theirs.seq].into_iter().chain(lost).collect(),
        advice,
        ..Fault::default()
    }])
}

/// What the checks between private addresses show of the inside.
struct Within {
    /// A side whose checks arrive there, although those of the other do not, and the event.
    reaches: Option<(Vantage, u64)>,
    /// Whether A and B sent any there.
    tried: [bool; 2],
}

/// The networks on the inside may be several, with a router between them: unlike on the Internet, private addresses of
/// another network are reached there, or are not.
fn within(session: &Session<'_>) -> Within {
    let (mut arrived, mut tried) = ([None, None], [false; 2]);
    for pair in session.pairs.iter().filter(|pair| !pair.relayed) {
        for (from, at) in [(Vantage::A, 0), (Vantage::B, 1)] {
            let remote = pair.side(from).map(|own| own.pair.remote.ip());
            let chain = pair.from(from);
            if remote.map(AddressClass::of) != Some(AddressClass::Private)
                || chain.sent.is_none_or(|sent| sent.checks == 0)
            {
                continue;
            }
            tried[at] = true;
            if chain.seen.as_ref().is_some_and(|seen| seen.checks > 0) {
                arrived[at] = arrived[at].or(chain.evidence.first().copied());
            }
        }
    }
    let reaches = match arrived {
        [Some(seq), None] => Some((Vantage::A, seq)),
        [None, Some(seq)] => Some((Vantage::B, seq)),
        _ => None,
    };
    Within { reaches, tried }
}

/// Whether the system of a side refuses to send to the other.
fn refuses(session: &Session<'_>, vantage: Vantage) -> bool {
    let could = session.pairs.iter().filter(|pair| session.could_arrive(pair, vantage));
    could.into_iter().any(|pair| pair.from(vantage).broken == Some(Break::AtSending))
}
