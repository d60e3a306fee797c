//! Both sides joined: for each pair the chain of its checks in each direction, and the path that came out.

mod chain;
mod join;
mod outcome;

use std::cell::OnceCell;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

pub use chain::{Break, Chain, Seen, Sent};
pub use join::{JoinedPair, SidePair, likeliest_first};
pub use outcome::{Path, SideOutcome};

use super::evidence::{Evidence, Outage, SideEvidence};
use super::finding::Severity;
use super::network::Network;
use super::routes::{self, Diversion, MendedWays, Rivals};
use crate::ice::candidate::{CandidateTransport, CandidateType};
use crate::trace::address::AddressClass;
use crate::trace::event::{EndReason, IceState, Pair, Vantage};

/// A session: what the evidence of both sides says together.
#[derive(Clone, Debug)]
pub struct Session<'a> {
    /// What it is made from.
    pub evidence: &'a Evidence,
    /// Every pair that a side had, the mirror images of both sides joined.
    pub pairs: Vec<JoinedPair>,
    /// How each side ended, A first.
    pub outcomes: [SideOutcome; 2],
    /// The path.
    pub path: Path,
    /// Which of `pairs` is the selected one.
    pub selected: Option<usize>,
    /// The networks in front of both sides, for IPv4 and IPv6: worked out when a rule first asks.
    networks: [OnceCell<Network>; 4],
    /// Sockets that compete for a port, likewise.
    rivals: [OnceCell<Rivals<'a>>; 2],
    /// Diversions, likewise.
    diversions: [OnceCell<Vec<Diversion<'a>>>; 2],
    /// Those that others hide, likewise.
    hidden: [OnceCell<Vec<Diversion<'a>>>; 2],
    /// Where packets would go once what diverts them is mended, likewise.
    mended: [OnceCell<MendedWays<'a>>; 2],
}

/// For so long checks are repeated before they count as unanswered (docs/decisions.md).
const PATIENCE: Duration = Duration::from_millis(2500);

/// A session that ended before its checks had their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutShort {
    /// The side that ended it.
    pub by: Vantage,
    /// Whether that side was interrupted by its user or system; else it just left.
    pub interrupted: bool,
    /// For how long the first check could have been answered; `None`: none was sent.
    pub after: Option<Duration>,
}

impl CutShort {
    /// What is missing then, in words.
    pub(super) fn missing(&self) -> String {
        let how = if self.interrupted { "was interrupted" } else { "left" };
        let when = match self.after {
            Some(after) => format!("when checks had been sent for {} ms", after.as_millis()),
            None => "before any check was sent".to_owned(),
        };
        format!("the rest of the session: {} {how} {when}", self.by.name())
    }
}

/// One end of a pair, as the other end knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// The type of the candidate.
    #[serde(rename = "type")]
    pub kind: CandidateType,
    /// Its address.
    pub address: SocketAddr,
    /// Its base, where that side was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<SocketAddr>,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.ip().is_unspecified() {
            // A browser hides it.
            return write!(f, "{} hidden:{}", self.kind, self.address.port());
        }
        write!(f, "{} {}", self.kind, self.address)
    }
}

impl<'a> Session<'a> {
    /// Joins both sides.
    pub fn of(evidence: &'a Evidence) -> Self {
        let mut pairs = join::pairs(evidence);
        let outcomes = [Vantage::A, Vantage::B].map(|vantage| outcome::of_side(evidence.side(vantage)));
        let selected = mark_selected(evidence, &mut pairs);
        let path = outcome::path(evidence, &outcomes, &pairs);
        if path != Path::Direct {
            join::judge_after_restart(evidence, &mut pairs);
        }
        let (networks, rivals, diversions, hidden, mended) = Default::default();
        Self { evidence, pairs, outcomes, path, selected, networks, rivals, diversions, hidden, mended }
    }

    /// How a side ended.
    pub const fn outcome(&self, vantage: Vantage) -> &SideOutcome {
        match vantage {
            Vantage::A => &self.outcomes[0],
            Vantage::B => &self.outcomes[1],
        }
    }

    /// Whether either side's events tell how it came out, and nobody ended it before its checks had the time.
    pub fn is_decided(&self) -> bool {
        let open = |outcome: &SideOutcome| matches!(outcome, SideOutcome::Undecided | SideOutcome::NotRecorded);
        self.path != Path::Failed || (!self.outcomes.iter().all(open) && self.cut_short().is_none())
    }

    /// The network in front of a side.
    pub fn network(&self, vantage: Vantage, is_ipv6: bool) -> &Network {
        let index = 2 * usize::from(vantage == Vantage::B) + usize::from(is_ipv6);
        self.networks[index].get_or_init(|| Network::work_out(self, vantage, is_ipv6))
    }

    /// Which sockets of a side compete for a port of the NAT in front.
    pub fn rivals(&self, vantage: Vantage) -> &Rivals<'a> {
        let evidence: &'a Evidence = self.evidence;
        self.rivals[usize::from(vantage == Vantage::B)].get_or_init(|| Rivals::work_out(evidence.side(vantage)))
    }

    /// What sends a side's packets for the peer elsewhere than those for the servers.
    pub fn diversions(&self, vantage: Vantage) -> &[Diversion<'a>] {
        self.diversions[usize::from(vantage == Vantage::B)].get_or_init(|| routes::work_out_diversions(self, vantage))
    }

    /// Where a side's packets would go once what diverts them, or keeps them back, is mended.
    pub(super) fn mended_ways(&self, vantage: Vantage) -> &MendedWays<'a> {
        self.mended[usize::from(vantage == Vantage::B)].get_or_init(|| MendedWays::work_out(self, vantage))
    }

    /// What would send a side's packets for the peer elsewhere once what does it now is mended.
    pub fn hidden_diversions(&self, vantage: Vantage) -> &[Diversion<'a>] {
        self.hidden[usize::from(vantage == Vantage::B)].get_or_init(|| routes::hidden(self, vantage))
    }

    /// How bad it is when something keeps the session from being direct: an error when there is no path at all.
    pub fn harm(&self) -> Severity {
        if self.path == Path::Failed { Severity::Error } else { Severity::Warning }
    }

    /// When the direct path broke that a relayed session had before: who saw it, and how long after the beginning of its
    /// recording.
    pub fn direct_until(&self) -> Option<(Vantage, Duration)> {
        if self.path != Path::Relayed {
            return None;
        }
        self.recorded().find_map(|vantage| {
            let side = self.evidence.side(vantage);
            let direct_before = |outage: &&Outage| {
                let before = side.selected.iter().rev().find(|(seq, _)| *seq < outage.seq);
                before.is_some_and(|(_, pair)| !is_relayed(self.evidence, vantage, *pair))
            };
            let outage = side.outages.iter().rev().find(direct_before)?;
            Some((vantage, outage.at.since(side.first_at)))
        })
    }

    /// Whether the path is direct over TCP alone: data goes over TCP, and over UDP no direct pair worked. For a program
    /// that uses UDP alone that is none.
    pub fn is_over_tcp(&self) -> bool {
        let transport =
            |pair: &JoinedPair| [&pair.a, &pair.b].into_iter().flatten().map(|side| side.pair.transport).next();
        let over_tcp = |pair: &JoinedPair| transport(pair).is_some_and(CandidateTransport::is_tcp);
        let selected = self.selected.and_then(|index| self.pairs.get(index));
        self.path == Path::Direct
            && selected.is_some_and(over_tcp)
            && !self.pairs.iter().any(|pair| !pair.relayed && !over_tcp(pair) && pair.works())
    }

    /// The same session for who uses UDP alone, where it is direct over TCP alone: not direct, and why is to be found.
    pub(super) fn over_udp(&self) -> Option<Self> {
        self.is_over_tcp().then(|| self.as_if_relayed())
    }

    /// The same session, judged as if it were relayed: what a rule says of a host whatever came out.
    pub(crate) fn as_if_relayed(&self) -> Self {
        Self { path: Path::Relayed, ..self.clone() }
    }

    /// Whether the session ended before its checks had the time to be answered, because a side was interrupted or left:
    /// then that a check was not answered says nothing. Servers have their own time (`SideEvidence::asked`), and a host
    /// that looks at itself sends no checks.
    pub fn cut_short(&self) -> Option<CutShort> {
        let sides = [Vantage::A, Vantage::B].map(|vantage| self.evidence.side(vantage));
        let gave_up = |side: &SideEvidence| side.ice_states.iter().any(|(_, state, _)| *state == IceState::Failed);
        let decided = sides.iter().any(|side| !side.selected.is_empty() || gave_up(side));
        if self.evidence.is_alone() || self.path != Path::Failed || decided {
            return None;
        }
        let ended = |vantage: Vantage| self.evidence.side(vantage).ended.map(|(_, reason)| reason);
        let left = |vantage: Vantage| ended(vantage).is_none() && ended(vantage.other()) == Some(EndReason::PeerLeft);
        let interrupted = |vantage: Vantage| self.evidence.interrupted(vantage).is_some();
        let by = [Vantage::A, Vantage::B].into_iter().find(|&vantage| interrupted(vantage) || left(vantage))?;
        let checked = sides.iter().filter_map(|side| {
            let first = side.sent.values().map(|check| check.first).min()?;
            // Facts of the host are still recorded after its agent has closed.
            Some(side.closed_at.unwrap_or(side.last_at).since(first))
        });
        let after = checked.max();
        after.is_none_or(|after| after < PATIENCE).then_some(CutShort { by, interrupted: interrupted(by), after })
    }

    /// The sides that were recorded.
    pub fn recorded(&self) -> impl Iterator<Item = Vantage> + '_ {
        [Vantage::A, Vantage::B].into_iter().filter(|&vantage| self.evidence.is_recorded(vantage))
    }

    /// Whether a side's checks on a direct pair could arrive at all: the address is public, or on a network that the
    /// side is on, too. A peer's private address in another network answers nobody, and that is no fault.
    pub fn could_arrive(&self, pair: &JoinedPair, from: Vantage) -> bool {
        let Some(side) = pair.side(from).filter(|_| !pair.relayed) else { return false };
        let (local, remote) = (side.pair.local.ip(), side.pair.remote.ip());
        match AddressClass::of(remote) {
            AddressClass::Public | AddressClass::CarrierGrade => AddressClass::of(local) != AddressClass::Loopback,
            AddressClass::Loopback => AddressClass::of(local) == AddressClass::Loopback,
            AddressClass::Private | AddressClass::LinkLocal => {
                let known = &self.evidence.side(from).known;
                known.shares_network(remote) || known.is_near(local, remote)
            }
            AddressClass::Unspecified | AddressClass::Multicast => false,
        }
    }

    /// One end of a pair.
    pub fn end(&self, pair: &JoinedPair, vantage: Vantage) -> Option<End> {
        let (own, other) = (self.evidence.side(vantage), self.evidence.side(vantage.other()));
        let (ours, theirs) = (pair.side(vantage), pair.side(vantage.other()));
        let base = ours.map(|side| side.pair.local);
        let relayed = base.filter(|&base| own.is_relayed(base));
        let mapped = ours.and_then(|side| side.mapped);
        let address = relayed.or(mapped).or_else(|| theirs.map(|side| side.pair.remote)).or(base)?;
        let connected = ours.filter(|side| side.pair.local == address).map(|side| own.base_of(side.pair));
        let named = connected.filter(|&base| Some(base) != ours.map(|side| side.pair.local)).unwrap_or(address);
        let own_candidate = own.known.locals_at(named).first().and_then(|at| own.local_candidates.get(*at));
        let as_told = other.known.remote_at(address).and_then(|at| other.remote_candidates.get(at));
        let kind = match (own_candidate, as_told) {
            _ if relayed.is_some() => CandidateType::Relayed,
            (Some(local), _) => local.candidate.kind,
            (None, Some(remote)) => remote.candidate.kind,
            (None, None) if base == Some(address) => CandidateType::Host,
            (None, None) => CandidateType::PeerReflexive,
        };
        Some(End { kind, address, base })
    }
}

/// Whether a side's pair goes through a relay: our own, or the peer's.
pub(crate) fn is_relayed(evidence: &Evidence, vantage: Vantage, pair: Pair) -> bool {
    let (own, other) = (evidence.side(vantage), evidence.side(vantage.other()));
    own.is_relayed(pair.local) || own.known.is_told_as_relayed(pair.remote) || other.is_relayed(pair.remote)
}

/// Marks the pair that data goes over, by A's word, else by B's, else by the nominations on the wire.
fn mark_selected(evidence: &Evidence, pairs: &mut [JoinedPair]) -> Option<usize> {
    let selected = [Vantage::A, Vantage::B].map(|vantage| {
        let side = evidence.side(vantage);
        side.selected_pair().map(|(_, pair)| pair).or_else(|| nominated_on_the_wire(evidence, vantage))
    });
    let position = |pairs: &[JoinedPair], vantage: Vantage, wanted: Option<Pair>| {
        pairs.iter().position(|pair| pair.side(vantage).is_some_and(|side| Some(side.pair) == wanted))
    };
    let found = position(pairs, Vantage::A, selected[0]).or_else(|| position(pairs, Vantage::B, selected[1]))?;
    pairs[found].selected = true;
    Some(found)
}

fn nominated_on_the_wire(evidence: &Evidence, vantage: Vantage) -> Option<Pair> {
    let checks = evidence.side(vantage).sent.values().chain(evidence.side(vantage).received.values());
    let nominating = checks.filter(|check| check.use_candidate && check.succeeded());
    let last = nominating.max_by_key(|check| check.seq)?;
    let folded = evidence.folded_checklist(vantage);
    folded.iter().any(|pair| pair.pair == last.pair && pair.nominated).then_some(last.pair)
}
