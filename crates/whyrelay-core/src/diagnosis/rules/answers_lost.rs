//! answers get lost on the way back.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::{Break, JoinedPair, Path, Session, likeliest_first};
use crate::host::Family;
use crate::trace::event::Vantage;
use crate::trace::measurement::THROUGHPUT;

pub(super) const RULE: Rule = Rule {
    code: "WR503",
    name: "answers-lost",
    title: "answers get lost on the way back",
    meaning: "Checks arrive and are answered, and the answers never come back: they leave by another interface or address, a stateless firewall drops them, or the mapping is gone. Through a relay: the relay drops them, as where a limit of its rate is used up, which a measurement of the throughput does.",
    detection: "The receiver recorded the answers as sent, and they are absent from the sender's recording, joined by transaction id.",
    proof: "A capture on both sides: the answer leaves the answering host and never reaches the asking one, while requests of the same five-tuple do.",
    doubt: "A capture on the asking side that shows the answer arrive: then its own input firewall or reverse-path filter takes it.",
    fixes: &[
        Fix::safe("On the answering side: see by which interface and source address the answers leave (ip route get)."),
        Fix::firewall("Look for a stateless firewall that allows requests out and no answers in."),
    ],
    threads: &["netbirdio/netbird#390", "openwrt/openwrt#12930"],
    depends_on: &[
        "WR305", "WR101", "WR208", "WR202", "WR206", "WR207", "WR201", "WR504", "WR103", "WR104", "WR105", "WR106",
        "WR107", "WR108", "WR109", "WR110", "WR111", "WR112", "WR113", "WR114", "WR115", "WR116", "WR118", "WR119",
        "WR120", "WR129", "WR130", "WR131",
    ],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    let from = |from| Fault::of_families(|family| lost(session, from, family));
    Examination::of([Vantage::A, Vantage::B].into_iter().filter_map(from).collect())
}

fn lost(session: &Session<'_>, from: Vantage, family: Option<Family>) -> Option<Fault> {
    let broken = session.pairs.iter().filter(|pair| pair.from(from).broken == Some(Break::OnTheWayBack));
    let chains = likeliest_first(broken.filter(|pair| pair.is_of(family)));
    let pair = chains.first()?;
    let chain = pair.from(from);
    let from_where = chain.seen.as_ref().and_then(|seen| seen.from.first().copied());
    let to = from_where.map(|address| format!(" to {address}")).unwrap_or_default();
    let (here, there) = (from.name(), from.other().name());
    let evidence = || chains.iter().flat_map(|pair| pair.from(from).evidence.iter().copied()).collect();
    if chains.iter().all(|pair| is_overloaded(session, from, pair)) {
        return Some(Fault {
            blame: Blame::Path,
            severity: if session.path == Path::Failed { Severity::Warning } else { Severity::Info },
            summary: format!(
                "{there} answers the checks of {here} through the relay, and no answer reaches {here} since the throughput is measured: more is sent then than the relay carries, as where its rate is limited"
            ),
            evidence: evidence(),
            advice_is_all: true,
            advice: vec![Remedy::safe(
                "Measure without --throughput, or raise the limit at the relay (whyrelay serve: --total-rate and --max-rate; coturn: max-bps)",
            )],
            ..Fault::default()
        });
    }
    Some(Fault {
        blame: if pair.relayed { Blame::Relay } else { Blame::Path },
        severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
        summary: format!("{there} answers the checks of {here}{to}, and no answer reaches {here}"),
        evidence: evidence(),
        // Through a relay neither side's routes have a part in it.
        advice_is_all: pair.relayed,
        advice: if pair.relayed { at_the_relay() } else { Vec::new() },
        ..Fault::default()
    })
}

/// Whether a pair's answers got lost in a relay after the session had begun to measure what that carries: then it drops
/// what is beyond its rate, whatever that is.
fn is_overloaded(session: &Session<'_>, from: Vantage, pair: &JoinedPair) -> bool {
    let is_measured = [Vantage::A, Vantage::B].into_iter().any(|vantage| {
        let side = session.evidence.side(vantage);
        let unmeasured = |(_, what, _): &(u64, String, String)| what.starts_with(THROUGHPUT);
        !side.throughput.is_empty() || side.measured.missing.iter().any(unmeasured)
    });
    let side = session.evidence.side(from);
    // It begins when the channel is there.
    let begun = side.channel_opened.map(|(_, at)| at.as_micros().saturating_sub(side.first_at.as_micros()));
    let first = pair.from(from).sent.map(|sent| sent.first_us);
    pair.relayed && is_measured && begun.zip(first).is_some_and(|(begun, first)| first >= begun)
}

/// What to look at where answers get lost in a relay, which lets some packets through and not others.
fn at_the_relay() -> Vec<Remedy> {
    vec![
        Remedy::safe(
            "At the relay: see whether a limit of its rate is used up, and drops what is beyond (whyrelay serve: --total-rate and --max-rate; coturn: max-bps)",
        ),
        Remedy::firewall("See whether the relay's own firewall lets in what peers send to its relayed ports"),
    ]
}
