//! Two of our peers in virtual time: which pairs of networks connect, how, how fast, and whether the account of it that
//! is folded from the wire is the agents' own.

mod checking;
mod conditions;
mod networks;
mod roles;

use std::collections::BTreeMap;
use std::time::Duration;

use whyrelay_core::diagnosis::evidence::{Evidence, FoldedState};
use whyrelay_core::diagnosis::session::{self, Session};
use whyrelay_core::trace::event::{Event, EventKind, IceState, Pair, PairState, Vantage};
use whyrelay_lab::world::{Neighbor, Outcome, Path, PeerOutcome, Setup, run};

/// How many times the usual number of runs: `WHYRELAY_LAB_RUNS=20` for a long night.
fn runs(usual: u64) -> u64 {
    let times = std::env::var("WHYRELAY_LAB_RUNS").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    usual * times
}

/// Runs a world and checks what holds in every one of them.
fn observe(setup: &Setup) -> Outcome {
    let outcome = run(setup);
    let events = || outcome.a.events[..outcome.a.observed].iter().chain(&outcome.b.events[..outcome.b.observed]);
    let evidence = Evidence::of(events());
    for (vantage, peer) in [(Vantage::A, &outcome.a), (Vantage::B, &outcome.b)] {
        compare_checklists(setup, vantage, peer, &evidence);
    }
    if let Some(path) = outcome.path() {
        let account = match Session::of(&evidence).path {
            session::Path::Direct => Path::Direct,
            session::Path::Relayed => Path::Relayed,
            session::Path::Failed => Path::Failed,
        };
        assert_eq!(account, path, "the account says otherwise than the agents, {setup:?}");
    }
    // Loss can eat the goodbyes, all within a second; then the allocation ends by itself.
    let allowed = if is_lossless(setup) { 0 } else { 4 };
    assert!(outcome.allocations_left <= allowed, "allocations are given back, {setup:?}");
    outcome
}

fn is_lossless(setup: &Setup) -> bool {
    let sites = [Some(&setup.a), if let Neighbor::At(site) = &setup.b { Some(site) } else { None }];
    let links = sites.into_iter().flatten().flat_map(|site| site.routers.iter().map(|r| r.link).chain([site.link]));
    links.chain([setup.server]).all(|link| link.loss == 0 && link.delay < Duration::from_millis(300))
}

/// The checklist folded from the wire equals the agent's own: the same pairs were checked, with the same results.
fn compare_checklists(setup: &Setup, vantage: Vantage, peer: &PeerOutcome, evidence: &Evidence) {
    let folded: BTreeMap<Pair, _> =
        evidence.folded_checklist(vantage).into_iter().map(|pair| (pair.pair, pair)).collect();
    let own: BTreeMap<Pair, _> = peer.checklist.iter().map(|pair| (pair.pair, pair)).collect();
    let context = |pair: &Pair| {
        format!("{vantage:?} {pair:?}\nagent {:?}\nwire {:?}\n{setup:?}", own.get(pair), folded.get(pair))
    };
    for (pair, agents) in &own {
        match folded.get(pair) {
            Some(wires) => {
                assert!(wires.state.agrees_with(agents.state), "{}", context(pair));
                // A nominated pair that fails later, as when consent expires on it, is no longer one for the agent.
                let failed = wires.nominated && agents.state == PairState::Failed;
                assert!(wires.nominated == agents.nominated || failed, "{}", context(pair));
                // A pair that succeeded is checked again to nominate it, and silence then fails it.
                let again = wires.sent >= 2 && matches!(agents.state, PairState::Failed | PairState::InProgress);
                let succeeded = agents.state == PairState::Succeeded || again;
                assert!(wires.state != FoldedState::Succeeded || succeeded, "{}", context(pair));
            }
            // A pair that was never checked leaves nothing on the wire.
            None => {
                assert!(!agents.nominated && agents.state != PairState::Succeeded, "{}", context(pair));
                assert!(agents.state != PairState::InProgress, "{}", context(pair));
            }
        }
    }
    let removed = |pair: &Pair| {
        peer.events[..peer.observed]
            .iter()
            .any(|event| matches!(&event.kind, EventKind::PairPruned { pair: pruned, .. } if pruned == pair))
    };
    for (pair, wires) in &folded {
        // What was only received can be a check that the agent refused.
        assert!(own.contains_key(pair) || wires.sent == 0 || removed(pair), "{}", context(pair));
    }
}

/// Checks that a world ended on a path, on both sides, and that data goes that way.
fn expect_path(setup: &Setup, outcome: &Outcome, path: Path) {
    let said = (outcome.a.path, outcome.b.path);
    assert_eq!(said, (path, path), "{setup:?}\n{}", decisions(outcome));
    match path {
        Path::Direct => assert!(outcome.relay_cut, "direct means direct, {setup:?}"),
        Path::Relayed => assert!(outcome.relayed_data > 0, "relayed means relayed, {setup:?}"),
        Path::Failed => {
            assert_eq!((outcome.a.state, outcome.b.state), (IceState::Failed, IceState::Failed), "{setup:?}");
            assert_eq!((outcome.a.data_received, outcome.b.data_received), (0, 0), "{setup:?}");
            return;
        }
    }
    assert!(outcome.a.data_received > 0 && outcome.b.data_received > 0, "data arrives, {setup:?}");
}

/// What the agents decided, for a reader of a failed test.
fn decisions(outcome: &Outcome) -> String {
    let told = |event: &&Event| {
        matches!(
            event.kind,
            EventKind::RemoteCandidate { .. }
                | EventKind::LocalCandidate { .. }
                | EventKind::PairNominated { .. }
                | EventKind::PairSelected { .. }
                | EventKind::IceStateChanged { .. }
                | EventKind::EndOfCandidates { .. }
                | EventKind::PairStateChanged { .. }
                | EventKind::ServerFailed { .. }
                | EventKind::RoleConflict { .. }
        )
    };
    let events = outcome.a.events.iter().chain(&outcome.b.events).filter(told);
    events.map(whyrelay_core::trace::recording::encode).collect()
}
