//! The words that text, HTML and screen share.

use serde::Serialize;

use super::{CandidateRow, PairOfSide, PairRow, Report};
use crate::diagnosis::expected::{Expected, Verdict};
use crate::diagnosis::session::{Break, Chain, End, Path};
use crate::ice::candidate::CandidateTransport;
use crate::trace::event::Vantage;

/// Why a server is not asked from any address of a host: another family, or loopback on one end alone.
pub const NO_LOCAL_ADDRESS: &str =
    "no address in use here reaches it: none of its family, or it is a loopback address and --address names none here";

/// One step of a chain, like `seen by B 2 from 192.0.2.1:4000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The step.
    pub words: String,
    /// How many checks came so far; `None`: not measured.
    pub count: Option<u32>,
}

/// A pair as every rendering says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PairWords {
    /// A's end.
    pub a: String,
    /// B's end.
    pub b: String,
    /// What the pair is: selected, relayed, its states.
    pub marks: Vec<String>,
    /// How far A's checks came.
    pub a_to_b: ChainWords,
    /// How far B's checks came.
    pub b_to_a: ChainWords,
}

/// A chain in words, like `sent 7 > seen by B 0 > answered 0 > answer seen 0`, `never reached B`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChainWords {
    /// Its steps; `null`: nothing was sent because there was no connection to send on.
    pub steps: Option<String>,
    /// Where it broke; `null`: nowhere, or it is not known.
    pub broken: Option<String>,
}

/// The steps of a chain on which nothing was sent.
pub const NOT_CHECKED: &str = "not checked";

pub(super) fn pair(pair: &PairRow) -> PairWords {
    PairWords {
        a: end(pair.a.as_ref()),
        b: end(pair.b.as_ref()),
        marks: marks(pair),
        a_to_b: chain(&pair.a_to_b, Vantage::A, pair.a_pair.as_ref()),
        b_to_a: chain(&pair.b_to_a, Vantage::B, pair.b_pair.as_ref()),
    }
}

fn chain(chain: &Chain, from: Vantage, side: Option<&PairOfSide>) -> ChainWords {
    if let Some(why) = no_connection(chain, side) {
        return ChainWords { steps: None, broken: Some(why) };
    }
    let steps = steps(chain, from).map_or_else(
        || NOT_CHECKED.to_owned(),
        |steps| {
            let mut line = steps.map(|step| step.words).join(" > ");
            for error in errors(chain) {
                line.push_str(", ");
                line.push_str(&error);
            }
            line
        },
    );
    ChainWords { steps: Some(steps), broken: broken(chain, from) }
}

/// The path as a heading.
pub const fn path(path: Path) -> &'static str {
    match path {
        Path::Direct => "DIRECT",
        Path::Relayed => "RELAYED",
        Path::Failed => "FAILED",
    }
}

/// The heading where the events do not tell how it came out.
pub const UNDECIDED: &str = "UNDECIDED";

/// What belongs behind the heading; empty where the path says it all.
pub(super) const fn note(path: Path, over_tcp: bool, verdict: Verdict, expected: Expected) -> &'static str {
    match (verdict, expected) {
        _ if over_tcp => "but over TCP, not UDP",
        (Verdict::DirectBut, _) => "but see below",
        (Verdict::RelayedAsItMustBe, _) => "as it must be",
        (Verdict::NoPathAsItMustBe, _) => "these two networks allow no path without a relay",
        (_, Expected::Direct) if !matches!(path, Path::Direct) => "these networks should allow a direct path",
        (Verdict::NoPath, Expected::Relayed) => "these networks should allow a relayed path",
        _ => "",
    }
}

/// What would make the path direct, one line for each way.
pub fn ways(report: &Report) -> Vec<String> {
    let ways = report.would_allow_direct.iter().enumerate();
    ways.map(|(position, way)| format!("{} {way}", if position == 0 { "Would make it direct:" } else { "or" }))
        .collect()
}

/// An end of a pair.
pub fn end(end: Option<&End>) -> String {
    end.map_or_else(|| "unknown".to_owned(), End::to_string)
}

/// A candidate's type, with its transport where that is not UDP.
pub fn candidate_type(row: &CandidateRow) -> String {
    match row.transport {
        CandidateTransport::Udp => row.kind.to_string(),
        transport => format!("{} {transport}", row.kind),
    }
}

/// A candidate's address, with what a name resolved to.
pub fn candidate_address(row: &CandidateRow) -> String {
    match row.resolved {
        Some(resolved) => format!("{} = {resolved}", row.address),
        None => row.address.clone(),
    }
}

/// What a pair is: selected or nominated, relayed, its states.
pub fn marks(pair: &PairRow) -> Vec<String> {
    let mut marks = Vec::new();
    if pair.selected {
        marks.push("selected".to_owned());
    } else if pair.nominated {
        marks.push("nominated".to_owned());
    }
    if pair.relayed {
        marks.push("relayed".to_owned());
    }
    marks.extend(states(pair));
    marks
}

/// The pair's state for each side, once where both have the same.
fn states(pair: &PairRow) -> Option<String> {
    let state = |side: &Option<PairOfSide>| side.as_ref().and_then(|side| side.state).map(super::describe::pair_state);
    match (state(&pair.a_pair), state(&pair.b_pair)) {
        (Some(a), Some(b)) if a == b => Some(a.to_owned()),
        (Some(a), Some(b)) => Some(format!("A {a}, B {b}")),
        (Some(a), None) => Some(format!("A {a}")),
        (None, Some(b)) => Some(format!("B {b}")),
        (None, None) => None,
    }
}

/// The four steps of a chain from a side: sent, seen, answered, answer seen. `None`: nothing was sent.
pub fn steps(chain: &Chain, from: Vantage) -> Option<[Step; 4]> {
    if chain.sent.is_some_and(|sent| sent.checks == 0) {
        return None;
    }
    let receiver = from.other().name();
    let sent = match chain.sent {
        Some(sent) if sent.transmissions > sent.checks => format!("sent {} ({}x)", sent.checks, sent.transmissions),
        Some(sent) => format!("sent {}", sent.checks),
        None => "sent ?".to_owned(),
    };
    let seen = match &chain.seen {
        Some(seen) => {
            let from: Vec<_> = seen.from.iter().map(ToString::to_string).collect();
            let from = if from.is_empty() { String::new() } else { format!(" from {}", from.join(", ")) };
            format!("seen by {receiver} {}{from}", seen.checks)
        }
        None => format!("seen by {receiver} ?"),
    };
    let counted = |what: &str, count: Option<u32>| match count {
        Some(count) => format!("{what} {count}"),
        None => format!("{what} ?"),
    };
    Some([
        Step { words: sent, count: chain.sent.map(|sent| sent.checks) },
        Step { words: seen, count: chain.seen.as_ref().map(|seen| seen.checks) },
        Step { words: counted("answered", chain.answered), count: chain.answered },
        Step { words: counted("answer seen", chain.answer_seen), count: chain.answer_seen },
    ])
}

/// Why a side's TCP connection for a pair did not come about, where nothing was sent for that.
pub fn no_connection(chain: &Chain, side: Option<&PairOfSide>) -> Option<String> {
    let untried = chain.sent.is_none_or(|sent| sent.checks == 0);
    let detail = side?.no_connection.as_ref().filter(|_| untried)?;
    Some(format!("no TCP connection: {detail}"))
}

/// What stands where a pair's checks would be listed and there are none.
pub const fn no_checks(pair: &PairRow) -> &'static str {
    if pair.checked {
        "Only the number of its checks is known: a browser does not show its packets."
    } else {
        "No check was sent on this pair."
    }
}

/// The error answers of a chain.
pub fn errors(chain: &Chain) -> Vec<String> {
    chain.errors.iter().map(|(code, count)| format!("{count}x error {code}")).collect()
}

/// Where the chain from a side broke.
pub fn broken(chain: &Chain, from: Vantage) -> Option<String> {
    let receiver = from.other().name();
    Some(match chain.broken? {
        Break::AtSending => "the system refused to send".to_owned(),
        Break::OnTheWay => format!("never reached {receiver}"),
        Break::AtAnswering => format!("{receiver} did not answer"),
        Break::OnTheWayBack => "the answers were lost".to_owned(),
        Break::Refused => format!("{receiver} answered with errors"),
        Break::Somewhere => "not answered".to_owned(),
    })
}

/// Microseconds with the digits and the unit that matter.
pub fn duration(micros: u64) -> String {
    super::describe::duration(micros)
}

/// Text in which every character shows what it is: control characters, and those that turn the direction of writing,
/// become U+FFFD. What a peer sends goes through it before it reaches a terminal.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c == '\n' || c == '\t' { '\u{FFFD}' } else { super::markup::visible(c) }).collect()
}
