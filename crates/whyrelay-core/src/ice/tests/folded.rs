//! What the account makes of ICE-TCP pairs (RFC 6544), whose active end has another port for each connection.

use std::time::Duration;

use crate::diagnosis::evidence::Evidence;
use crate::diagnosis::session::{JoinedPair, Session};
use crate::ice::candidate::CandidateType;
use crate::trace::event::Vantage;

use super::behavior::tcp;
use super::network::{A, Link, Network};

const LIMIT: Duration = Duration::from_secs(6);

#[test]
fn a_connected_tcp_pair_is_one_pair_with_both_chains() {
    let mut network = Network::new(1, Link::of_delay(10));
    network.recorded = true;
    tcp(&mut network);
    network.start_both();
    assert!(network.run_until(LIMIT, Network::are_completed));
    let events = network.recordings();
    let evidence = Evidence::of(&events);
    let session = Session::of(&evidence);
    let [pair] = session.pairs.as_slice() else { panic!("{:#?}", session.pairs) };
    assert!(pair.selected);
    for chain in [&pair.a_to_b, &pair.b_to_a] {
        assert!(chain.answer_seen.is_some_and(|answers| answers > 0), "{chain:#?}");
        assert_eq!(chain.broken, None);
    }
    // The connection's own port, under the name of the candidate that it was made from.
    let end = session.end(pair, Vantage::A).expect("A's end");
    assert_eq!((end.kind, end.address), (CandidateType::Host, network.pair(A).local));
    assert_eq!(session.end(pair, Vantage::B).map(|end| end.kind), Some(CandidateType::Host));
    for vantage in [Vantage::A, Vantage::B] {
        let agents: Vec<_> = evidence.folded_checklist(vantage).iter().map(|folded| folded.pair).collect();
        assert_eq!(agents, [pair.side(vantage).expect("both have it").pair]);
    }
}

#[test]
fn a_tcp_pair_without_a_connection_says_so_and_counts_no_checks() {
    let mut network = Network::new(1, Link::of_delay(10));
    network.recorded = true;
    tcp(&mut network);
    network.blackout = true;
    network.start_both();
    network.run(LIMIT);
    let events = network.recordings();
    let evidence = Evidence::of(&events);
    let session = Session::of(&evidence);
    let [pair] = session.pairs.as_slice() else { panic!("{:#?}", session.pairs) };
    assert!(pair.is_unconnected() && !pair.was_checked());
    let reason = |pair: &JoinedPair| pair.a.as_ref().and_then(|side| side.no_connection.clone());
    assert_eq!(reason(pair).as_deref(), Some("connection refused"));
}
