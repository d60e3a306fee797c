//! Finding the mirror image of a pair: A's pair and B's pair that the same packets travel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::chain::{self, Chain, Checks};
use crate::diagnosis::evidence::Evidence;
use crate::host::Family;
use crate::trace::address::AddressClass;
use crate::trace::event::{Pair, PairState, PruneReason, Vantage};

/// A pair of both sides, or of one where the other has no mirror image of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedPair {
    /// A's pair.
    pub a: Option<SidePair>,
    /// B's pair.
    pub b: Option<SidePair>,
    /// A's checks.
    pub a_to_b: Chain,
    /// B's checks.
    pub b_to_a: Chain,
    /// Whether it goes through a relay.
    pub relayed: bool,
    /// Whether data goes over it.
    pub selected: bool,
}

/// A pair as one side has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidePair {
    /// The pair.
    pub pair: Pair,
    /// Whether the remote address is on the network of the local one.
    pub is_near: bool,
    /// Its priority, as the agent says.
    pub priority: Option<u64>,
    /// Its state, as the agent says.
    pub state: Option<PairState>,
    /// Why the agent removed it.
    pub pruned: Option<PruneReason>,
    /// Why its TCP connection was not made, or broke.
    pub no_connection: Option<String>,
    /// Whether it was nominated, on the wire.
    pub nominated: bool,
    /// Where the peer says that our checks come from, by its last answer.
    pub mapped: Option<SocketAddr>,
}

impl JoinedPair {
    /// One side's pair.
    pub const fn side(&self, vantage: Vantage) -> Option<&SidePair> {
        match vantage {
            Vantage::A => self.a.as_ref(),
            Vantage::B => self.b.as_ref(),
        }
    }

    /// The checks that one side sent.
    pub const fn from(&self, vantage: Vantage) -> &Chain {
        match vantage {
            Vantage::A => &self.a_to_b,
            Vantage::B => &self.b_to_a,
        }
    }

    /// Whether it is of an address family; each is of `None`.
    pub(crate) fn is_of(&self, family: Option<Family>) -> bool {
        family.is_none_or(|family| self.ends().any(|(_, remote)| Family::of(remote) == family))
    }

    /// Local and remote address, as each side has them.
    fn ends(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        let sides = [&self.a, &self.b].into_iter().flatten();
        sides.map(|side| (side.pair.local.ip(), side.pair.remote.ip()))
    }

    /// Whether an end of it means nothing beyond one link, or one host.
    pub fn is_link_local(&self) -> bool {
        let is_near = |ip| matches!(AddressClass::of(ip), AddressClass::LinkLocal | AddressClass::Loopback);
        self.ends().any(|(local, remote)| is_near(local) || is_near(remote))
    }

    /// Whether in one direction at least a check was sent and its answer seen.
    pub fn works(&self) -> bool {
        [&self.a_to_b, &self.b_to_a].iter().any(|chain| chain.broken.is_none() && chain.answer_seen > Some(0))
    }

    /// Whether a side tried to connect on it, in vain.
    pub fn is_unconnected(&self) -> bool {
        !self.was_checked() && [&self.a, &self.b].into_iter().flatten().any(|side| side.no_connection.is_some())
    }

    /// Whether either side sent a check on it.
    pub fn was_checked(&self) -> bool {
        [&self.a_to_b, &self.b_to_a].iter().any(|chain| {
            chain.sent.is_some_and(|sent| sent.checks > 0) || chain.seen.as_ref().is_some_and(|seen| seen.checks > 0)
        })
    }
}

/// Those that a reader takes for the path that should have worked come first: on one network or to a public address, then
/// between private addresses of different networks, link-local ones last. Else by priority, as they come.
pub fn likeliest_first<'a>(pairs: impl Iterator<Item = &'a JoinedPair>) -> Vec<&'a JoinedPair> {
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_by_key(|joined| {
        let is_public = |side: &SidePair| AddressClass::of(side.pair.remote.ip()) == AddressClass::Public;
        let mut sides = [&joined.a, &joined.b].into_iter().flatten();
        (joined.is_link_local(), !sides.any(|side| is_public(side) || side.is_near))
    });
    pairs
}

/// One side's pairs with their checks.
type Rows<'a> = BTreeMap<Pair, (Checks<'a>, Checks<'a>)>;

pub(super) fn pairs(evidence: &Evidence) -> Vec<JoinedPair> {
    let rows = [Vantage::A, Vantage::B].map(|vantage| rows(evidence, vantage));
    let mut mirrors = linked(evidence);
    mirrors.retain(|a, b| rows[0].contains_key(a) && rows[1].contains_key(b));
    guess(evidence, &rows, &mut mirrors);
    guess_hidden(evidence, &rows, &mut mirrors);

    let claimed: BTreeSet<Pair> = mirrors.values().copied().collect();
    let mut joined: Vec<JoinedPair> =
        rows[0].keys().map(|a| joined_pair(evidence, &rows, Some(*a), mirrors.get(a).copied())).collect();
    let alone = rows[1].keys().filter(|b| !claimed.contains(b));
    joined.extend(alone.map(|b| joined_pair(evidence, &rows, None, Some(*b))));
    let priority = |pair: &JoinedPair| [&pair.a, &pair.b].into_iter().flatten().filter_map(|side| side.priority).max();
    joined.sort_by_key(|pair| std::cmp::Reverse(priority(pair)));
    joined
}

/// Judges direct pairs that worked until ICE restarted, and not after that, by what came after it.
pub(super) fn judge_after_restart(evidence: &Evidence, pairs: &mut [JoinedPair]) {
    if [Vantage::A, Vantage::B].into_iter().any(|vantage| {
        let side = evidence.side(vantage);
        side.generation == 0 || side.is_counted()
    }) {
        return;
    }
    let rows = [Vantage::A, Vantage::B].map(|vantage| rows(evidence, vantage));
    for pair in pairs.iter_mut().filter(|pair| !pair.relayed) {
        for (from, rows) in [Vantage::A, Vantage::B].into_iter().zip(&rows) {
            let Some((sent, _)) = pair.side(from).and_then(|side| rows.get(&side.pair)) else { continue };
            if let Some(chain) = chain::after_restart(evidence, from, pair.from(from), sent) {
                match from {
                    Vantage::A => pair.a_to_b = chain,
                    Vantage::B => pair.b_to_a = chain,
                }
            }
        }
    }
}

fn rows(evidence: &Evidence, vantage: Vantage) -> Rows<'_> {
    let side = evidence.side(vantage);
    // A pair that was connected goes on under the connection's own address, and is not another pair.
    let renamed: BTreeSet<Pair> = side.connections.values().copied().collect();
    let named = side.pairs.keys().filter(|pair| !renamed.contains(pair));
    let mut rows: Rows<'_> = named.map(|pair| (*pair, Default::default())).collect();
    for (id, check) in &side.sent {
        rows.entry(check.pair).or_default().0.push((*id, check));
    }
    for (id, check) in &side.received {
        rows.entry(check.pair).or_default().1.push((*id, check));
    }
    rows
}

/// Pairs that share checks, A's to B's: for each the one with which it shares most.
fn linked(evidence: &Evidence) -> BTreeMap<Pair, Pair> {
    let (a, b) = (evidence.side(Vantage::A), evidence.side(Vantage::B));
    let mut shared: BTreeMap<(Pair, Pair), usize> = BTreeMap::new();
    let by_a = a.sent.iter().filter_map(|(id, check)| Some((check.pair, b.received.get(id)?.pair)));
    let by_b = b.sent.iter().filter_map(|(id, check)| Some((a.received.get(id)?.pair, check.pair)));
    for link in by_a.chain(by_b) {
        *shared.entry(link).or_default() += 1;
    }
    let mut links: Vec<_> = shared.into_iter().collect();
    links.sort_by_key(|(link, count)| (std::cmp::Reverse(*count), *link));
    let (mut mirrors, mut claimed) = (BTreeMap::new(), BTreeSet::new());
    for ((a, b), _) in links {
        if !mirrors.contains_key(&a) && claimed.insert(b) {
            mirrors.insert(a, b);
        }
    }
    mirrors
}

/// Mirror images of pairs of which no check arrived, by the candidates: B's pair from the base behind A's remote
/// address to an address behind which A's base is.
fn guess(evidence: &Evidence, rows: &[Rows<'_>; 2], mirrors: &mut BTreeMap<Pair, Pair>) {
    let (a, b) = (evidence.side(Vantage::A), evidence.side(Vantage::B));
    let mut claimed: BTreeSet<Pair> = mirrors.values().copied().collect();
    for pair in rows[0].keys() {
        if mirrors.contains_key(pair) {
            continue;
        }
        let behind = b.known.locals_at(pair.remote).first().and_then(|at| b.local_candidates.get(*at));
        let Some(base) = behind.map(|local| local.base) else { continue };
        let own = a.known.locals_of(pair.local).iter().filter_map(|at| a.local_candidates.get(*at));
        let mut addresses: Vec<_> = own.filter_map(|local| local.candidate.address.ip()).collect();
        addresses.push(pair.local);
        let class = AddressClass::of(pair.remote.ip());
        addresses.sort_by_key(|address| (AddressClass::of(address.ip()) != class, *address));
        let transport = pair.transport.counterpart();
        let image = addresses.into_iter().map(|remote| Pair { transport, local: base, remote });
        if let Some(image) = image.into_iter().find(|image| rows[1].contains_key(image) && !claimed.contains(image)) {
            claimed.insert(image);
            mirrors.insert(*pair, image);
        }
    }
}

/// Mirror images of a browser's pairs, whose own addresses it hides: by the port, which it tells.
fn guess_hidden(evidence: &Evidence, rows: &[Rows<'_>; 2], mirrors: &mut BTreeMap<Pair, Pair>) {
    let counted = [Vantage::A, Vantage::B].map(|vantage| evidence.side(vantage).is_counted());
    if counted == [false, false] {
        return;
    }
    let fits = |of: usize, own: SocketAddr, seen: SocketAddr| {
        own == seen
            || own.port() == seen.port()
                && (own.ip().is_unspecified() && counted[of] || seen.ip().is_unspecified() && counted[1 - of])
    };
    let nominated = |vantage, pair: &Pair| {
        let counts = evidence.side(vantage).counts.get(pair);
        counts.is_none_or(|(_, counts)| counts.nominated)
    };
    // A pair to an address that is told and one to the same address hidden may both fit: those that both sides
    // nominated belong together, then those that hide least.
    let mut fitting: Vec<(bool, usize, Pair, Pair)> = Vec::new();
    for a in rows[0].keys().filter(|a| !mirrors.contains_key(a)) {
        for b in rows[1].keys().filter(|b| a.transport.counterpart() == b.transport) {
            if fits(0, a.local, b.remote) && fits(1, b.local, a.remote) {
                let told =
                    [a.local, a.remote, b.local, b.remote].iter().filter(|end| !end.ip().is_unspecified()).count();
                fitting.push((nominated(Vantage::A, a) && nominated(Vantage::B, b), told, *a, *b));
            }
        }
    }
    fitting.sort_by(|one, other| (other.0, other.1).cmp(&(one.0, one.1)).then((one.2, one.3).cmp(&(other.2, other.3))));
    let mut claimed: BTreeSet<Pair> = mirrors.values().copied().collect();
    for (.., a, b) in fitting {
        if !mirrors.contains_key(&a) && claimed.insert(b) {
            mirrors.insert(a, b);
        }
    }
}

fn joined_pair(evidence: &Evidence, rows: &[Rows<'_>; 2], a: Option<Pair>, b: Option<Pair>) -> JoinedPair {
    let none = (Vec::new(), Vec::new());
    let checks_a = a.and_then(|pair| rows[0].get(&pair)).unwrap_or(&none);
    let checks_b = b.and_then(|pair| rows[1].get(&pair)).unwrap_or(&none);
    let relayed = a.is_some_and(|pair| super::is_relayed(evidence, Vantage::A, pair))
        || b.is_some_and(|pair| super::is_relayed(evidence, Vantage::B, pair));
    JoinedPair {
        a: a.map(|pair| side_pair(evidence, Vantage::A, pair, checks_a)),
        b: b.map(|pair| side_pair(evidence, Vantage::B, pair, checks_b)),
        a_to_b: chain::build(evidence, Vantage::A, [a, b], &checks_a.0, &checks_b.1),
        b_to_a: chain::build(evidence, Vantage::B, [b, a], &checks_b.0, &checks_a.1),
        relayed,
        selected: false,
    }
}

fn side_pair(evidence: &Evidence, vantage: Vantage, pair: Pair, checks: &(Checks<'_>, Checks<'_>)) -> SidePair {
    let side = evidence.side(vantage);
    let agent = side.pairs.get(&pair);
    let counts = side.counts.get(&pair).map(|(_, counts)| counts);
    let succeeded = checks.0.iter().any(|(_, check)| check.succeeded());
    let nominating = |checks: &Checks<'_>| checks.iter().any(|(_, check)| check.use_candidate && check.succeeded());
    let last = checks.0.iter().filter(|(_, check)| check.succeeded()).max_by_key(|(_, check)| check.seq);
    SidePair {
        pair,
        is_near: side.known.is_near(pair.local.ip(), pair.remote.ip()),
        priority: agent.map(|agent| agent.priority),
        state: agent.map(|agent| agent.state),
        pruned: agent.and_then(|agent| agent.pruned.clone()),
        no_connection: agent.and_then(|agent| agent.no_connection.clone()),
        nominated: nominating(&checks.0) || succeeded && nominating(&checks.1) || counts.is_some_and(|c| c.nominated),
        mapped: last.and_then(|(_, check)| check.mapped()),
    }
}
