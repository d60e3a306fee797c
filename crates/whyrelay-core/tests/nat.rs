//! The simulated NAT: RFC 4787's nine kinds, port allocation, lifetimes, hairpinning, and the Linux behavior that lets
//! an early packet steal a port.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use whyrelay_core::nat::behavior::{
    Behavior, FilteringBehavior, Hairpinning, MappingBehavior, Pooling, PortAllocation, Refresh, Unsolicited,
    can_connect,
};
use whyrelay_core::nat::table::Table;
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

const START: Timestamp = Timestamp::from_micros(1_000_000);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn table(behavior: Behavior) -> Table {
    Table::new(behavior, vec![ip("203.0.113.1"), ip("2001:db8::1")], Random::from_number(1))
}

fn eim() -> Behavior {
    Behavior::new(MappingBehavior::EndpointIndependent, FilteringBehavior::EndpointIndependent)
}

fn seconds(seconds: u64) -> Timestamp {
    START + Duration::from_secs(seconds)
}

#[test]
fn all_nine_kinds_map_and_filter_as_rfc_4787_says() {
    use FilteringBehavior as F;
    use MappingBehavior as M;
    let inside = address("10.0.0.2:5000");
    let server = address("198.51.100.1:3478");
    let same_address = address("198.51.100.1:3479");
    let stranger = address("198.51.100.99:1");
    for mapping in M::ALL {
        for filtering in F::ALL {
            let mut nat = table(Behavior::new(mapping, filtering));
            let first = nat.outbound(START, inside, server).unwrap();
            assert_eq!(first.ip(), ip("203.0.113.1"));
            let lets_in = |nat: &mut Table, from| nat.inbound(START, from, first) == Some(inside);
            assert!(lets_in(&mut nat, server), "{mapping} {filtering}");
            assert_eq!(
                lets_in(&mut nat, same_address),
                filtering != F::AddressAndPortDependent,
                "{mapping} {filtering}"
            );
            assert_eq!(lets_in(&mut nat, stranger), filtering == F::EndpointIndependent, "{mapping} {filtering}");

            assert_eq!(nat.outbound(START, inside, server), Some(first), "{mapping} {filtering}");
            let second = nat.outbound(START, inside, same_address).unwrap();
            let third = nat.outbound(START, inside, stranger).unwrap();
            assert_eq!(first == second, mapping != M::AddressAndPortDependent, "{mapping} {filtering}");
            assert_eq!(first == third, mapping == M::EndpointIndependent, "{mapping} {filtering}");
            assert_ne!(nat.outbound(START, address("10.0.0.3:5000"), server), Some(first), "{mapping} {filtering}");
        }
    }
}

#[test]
fn ports_are_chosen_as_asked() {
    let inside = |host: u8, port| SocketAddr::new(IpAddr::from([10, 0, 0, host]), port);
    let to = address("198.51.100.1:1");
    let ports = |ports, sources: &[SocketAddr]| -> Vec<u16> {
        let mut nat = table(Behavior { ports, ..eim() });
        sources.iter().map(|source| nat.outbound(START, *source, to).unwrap().port()).collect()
    };
    let four = [inside(2, 5000), inside(2, 5001), inside(3, 5000), inside(3, 5001)];

    let preserved = ports(PortAllocation::Preserving, &four);
    assert_eq!(preserved[..2], [5000, 5001]);
    assert!(!preserved[2..].contains(&5000) && !preserved[2..].contains(&5001), "{preserved:?}");
    assert_eq!(ports(PortAllocation::Preserving, &[inside(2, 53)]), [53]);
    assert_eq!(ports(PortAllocation::Sequential, &four), [1024, 1025, 1026, 1027]);
    assert_eq!(ports(PortAllocation::Contiguous { block: 100 }, &four), [1024, 1025, 1124, 1125]);
    let random = ports(PortAllocation::Random, &four);
    assert_eq!(random, ports(PortAllocation::Random, &four), "the same seed gives the same ports");
    assert!(random.iter().all(|port| *port >= 1024 && ![5000, 5001].contains(port)), "{random:?}");
    let hashed = ports(PortAllocation::Hash, &four);
    assert_eq!(hashed[2], ports(PortAllocation::Hash, &four[2..])[0], "a hash does not depend on what came before");
    for (what, ports) in [("preserved", preserved), ("random", random), ("hashed", hashed)] {
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 4, "{what}: {ports:?}");
    }
}

#[test]
fn a_full_block_of_ports_drops_what_comes_next() {
    let mut nat = table(Behavior { ports: PortAllocation::Contiguous { block: 2 }, ..eim() });
    let to = address("198.51.100.1:1");
    let mapped: Vec<_> = (1..=3).map(|port| nat.outbound(START, SocketAddr::new(ip("10.0.0.2"), port), to)).collect();
    assert!(mapped[0].is_some() && mapped[1].is_some() && mapped[2].is_none(), "{mapped:?}");
}

#[test]
fn a_full_table_drops_new_flows_and_keeps_old_ones() {
    let mut nat = table(eim()).with_capacity(2);
    let to = |port| SocketAddr::new(ip("198.51.100.1"), port);
    let inside = address("10.0.0.2:5000");
    assert!(nat.outbound(START, inside, to(1)).is_some() && nat.outbound(START, inside, to(2)).is_some());
    assert_eq!(nat.outbound(START, inside, to(3)), None);
    assert!(nat.outbound(START, inside, to(1)).is_some());
    assert!(nat.outbound(seconds(200), inside, to(3)).is_some(), "idle flows make room");
    assert_eq!(nat.len(), 1);
}

#[test]
fn a_mapping_ends_when_it_is_idle_and_inbound_packets_refresh_it_only_if_asked() {
    let (inside, server) = (address("10.0.0.2:5000"), address("198.51.100.1:3478"));
    for (refresh, survives) in [(Refresh::Outbound, false), (Refresh::Both, true)] {
        let lifetime = Duration::from_secs(30);
        let behavior = Behavior { refresh, lifetime, ports: PortAllocation::Sequential, ..eim() };
        let mut nat = table(behavior);
        let mapped = nat.outbound(START, inside, server).unwrap();
        assert_eq!(nat.inbound(seconds(29), server, mapped), Some(inside));
        assert_eq!(nat.inbound(seconds(31), server, mapped).is_some(), survives, "{refresh:?}");
        let again = nat.outbound(seconds(32), inside, server).unwrap();
        assert_eq!(again == mapped, survives, "{refresh:?}");
        // Outbound packets keep it alive for as long as they come.
        assert_eq!(nat.outbound(seconds(61), inside, server), Some(again));
        assert_eq!(nat.outbound(seconds(90), inside, server), Some(again));
        assert_eq!(nat.inbound(seconds(121), server, again), None);
    }
}

#[test]
fn permissions_end_apart_from_the_mapping() {
    let behavior =
        Behavior { filtering: FilteringBehavior::AddressAndPortDependent, lifetime: Duration::from_secs(30), ..eim() };
    let mut nat = table(behavior);
    let (inside, one, two) = (address("10.0.0.2:5000"), address("198.51.100.1:1"), address("198.51.100.2:2"));
    let mapped = nat.outbound(START, inside, one).unwrap();
    assert_eq!(nat.outbound(seconds(20), inside, two), Some(mapped));
    assert_eq!(nat.inbound(seconds(35), one, mapped), None, "the permission of the first destination is over");
    assert_eq!(nat.inbound(seconds(35), two, mapped), Some(inside));
    assert_eq!(nat.outbound(seconds(36), inside, one), Some(mapped), "the mapping is not");
}

#[test]
fn hairpinning_turns_a_packet_around_from_the_address_it_should_have() {
    let (one, two, server) = (address("10.0.0.2:5000"), address("10.0.0.3:6000"), address("198.51.100.1:3478"));
    for (hairpinning, seen_from) in [
        (Hairpinning::Unsupported, None),
        (Hairpinning::ExternalSource, Some(address("203.0.113.1:5000"))),
        (Hairpinning::InternalSource, Some(one)),
    ] {
        let mut nat = table(Behavior { hairpinning, ..eim() });
        nat.outbound(START, one, server).unwrap();
        let mapped = nat.outbound(START, two, server).unwrap();
        assert_eq!(nat.outbound(START, one, mapped), None, "it does not leave by the outside");
        assert_eq!(nat.hairpin(START, one, mapped), seen_from.map(|from| (from, two)), "{hairpinning:?}");
        assert_eq!(nat.hairpin(START, one, server), None);
    }
}

#[test]
fn a_hairpinned_packet_meets_the_same_filter() {
    let filtering = FilteringBehavior::AddressAndPortDependent;
    let mut nat = table(Behavior { hairpinning: Hairpinning::ExternalSource, filtering, ..eim() });
    let (one, two, server) = (address("10.0.0.2:5000"), address("10.0.0.3:6000"), address("198.51.100.1:3478"));
    let (mapped_one, mapped_two) =
        (nat.outbound(START, one, server).unwrap(), nat.outbound(START, two, server).unwrap());
    assert_eq!(nat.hairpin(START, one, mapped_two), None);
    assert_eq!(nat.hairpin(START, two, mapped_one), Some((mapped_two, one)), "the other side spoke before");
    assert_eq!(nat.hairpin(START, one, mapped_two), Some((mapped_one, two)));
}

#[test]
fn pooling_is_paired_or_arbitrary() {
    let external: Vec<IpAddr> = (1..=3).map(|host| IpAddr::from([203, 0, 113, host])).collect();
    let seen = |pooling| -> BTreeSet<IpAddr> {
        let mut nat = Table::new(Behavior { pooling, ..eim() }, external.clone(), Random::from_number(1));
        let to = address("198.51.100.1:1");
        (1..=9).map(|port| nat.outbound(START, SocketAddr::new(ip("10.0.0.2"), port), to).unwrap().ip()).collect()
    };
    assert_eq!(seen(Pooling::Paired).len(), 1);
    assert_eq!(seen(Pooling::Arbitrary).len(), 3);
}

#[test]
fn one_to_one_keeps_ports_and_filters() {
    for (filtering, open) in
        [(FilteringBehavior::EndpointIndependent, true), (FilteringBehavior::AddressAndPortDependent, false)]
    {
        let mut nat = Table::new(Behavior { filtering, ..eim() }, vec![], Random::from_number(1))
            .with_one_to_one(ip("10.0.0.2"), ip("203.0.113.9"));
        let (inside, outside) = (address("10.0.0.2:5000"), address("203.0.113.9:5000"));
        let (server, stranger) = (address("198.51.100.1:3478"), address("198.51.100.2:1"));
        assert_eq!(nat.inbound(START, stranger, outside).is_some(), open);
        assert_eq!(nat.outbound(START, inside, server), Some(outside));
        assert_eq!(nat.inbound(START, server, outside), Some(inside));
        assert_eq!(nat.inbound(START, stranger, outside).is_some(), open);
        assert_eq!(nat.outbound(START, address("10.0.0.3:5000"), server), None, "no address for the other host");
    }
}

#[test]
fn a_forward_lets_everyone_in_and_goes_both_ways() {
    let filtering = FilteringBehavior::AddressAndPortDependent;
    let (inside, outside) = (address("10.0.0.2:5000"), address("203.0.113.1:7000"));
    let mut nat = table(Behavior { filtering, ..eim() }).with_forward(outside, inside);
    let stranger = address("198.51.100.2:1");
    assert_eq!(nat.inbound(START, stranger, outside), Some(inside));
    assert_eq!(nat.outbound(START, inside, stranger), Some(outside));
    assert_eq!(nat.outbound(START, address("10.0.0.9:7000"), stranger).map(|e| e.port() == 7000), Some(false));
}

/// As in Linux with masquerade and a dnat rule: rules translate what begins, and a flow stays as it began.
#[test]
fn a_forward_has_what_begins_and_not_the_flow_that_another_host_has() {
    let (own, forwarded, outside) =
        (address("10.0.0.2:40000"), address("10.0.0.3:40000"), address("203.0.113.1:40000"));
    let (server, early, later) = (address("198.51.100.1:3478"), address("198.51.100.2:1"), address("198.51.100.3:1"));
    let mut nat = table(Behavior::linux(Unsolicited::Dropped)).with_forward(outside, forwarded);
    assert_eq!(nat.outbound(START, own, server), Some(outside), "nothing came there yet");
    assert_eq!(nat.inbound(START, server, outside), Some(own), "its own flow's answer");
    assert_eq!(nat.inbound(START, early, outside), Some(forwarded));
    // Each has another port toward the one where the other was first.
    assert_ne!(nat.outbound(START, own, early).unwrap(), outside);
    assert_eq!(nat.outbound(START, forwarded, early), Some(outside));
    assert_ne!(nat.outbound(START, forwarded, server).unwrap(), outside);
    assert_eq!(nat.inbound(START, server, outside), Some(own), "it is still its own");
    assert_eq!(nat.outbound(START, forwarded, later), Some(outside));
    // A flow that a forward began outlasts it, and ends as others do.
    nat.forward(outside, None);
    assert_eq!(nat.inbound(seconds(60), later, outside), Some(forwarded));
    assert_eq!(nat.inbound(seconds(300), later, outside), None);
    assert!(nat.is_empty());
}

/// A port is forwarded that another host has toward servers already, as by a mapping service that does not know: toward
/// those the forward's host has one other port.
#[test]
fn a_forward_that_comes_late_leaves_its_host_one_other_port() {
    let (own, forwarded, outside) =
        (address("10.0.0.2:40000"), address("10.0.0.3:40000"), address("203.0.113.1:40000"));
    let servers = [address("198.51.100.1:3478"), address("198.51.100.2:3478")];
    for overloading in [true, false] {
        let mut nat = table(Behavior { overloading, ports: PortAllocation::Preserving, ..eim() });
        assert_eq!(servers.map(|server| nat.outbound(START, own, server)), [Some(outside); 2]);
        nat.forward(outside, Some(forwarded));
        let [one, two] = servers.map(|server| nat.outbound(START, forwarded, server).unwrap());
        assert!(one == two && one != outside, "overloading {overloading}: {one} {two}");
        assert_eq!(nat.outbound(START, forwarded, address("198.51.100.3:1")), Some(outside));
    }
}

/// The table has no room for the flow.
#[test]
fn a_full_table_lets_nothing_new_in_by_a_forward() {
    let (inside, outside) = (address("10.0.0.2:5000"), address("203.0.113.1:7000"));
    let (one, two) = (address("198.51.100.1:1"), address("198.51.100.2:1"));
    let mut nat = table(eim()).with_forward(outside, inside).with_capacity(1);
    assert_eq!(nat.inbound(START, one, outside), Some(inside));
    assert_eq!(nat.inbound(START, two, outside), None);
    assert_eq!(nat.inbound(START, one, outside), Some(inside));
    assert_eq!(nat.holders(outside.ip()).collect::<Vec<_>>(), [(7000, inside)]);
}

#[test]
fn families_do_not_mix() {
    let mut nat = table(eim());
    let v6 = nat.outbound(START, address("[fd00::2]:5000"), address("[2001:db8:9::1]:1")).unwrap();
    assert_eq!(v6, address("[2001:db8::1]:5000"));
    assert_eq!(nat.outbound(START, address("10.0.0.2:5000"), address("[2001:db8:9::1]:1")), None);
}

/// LINUX.md, row o: two hosts with the same port behind one Linux router.
#[test]
fn overloading_makes_the_later_mapping_depend_on_the_destination() {
    let mut nat = table(Behavior::linux(Unsolicited::Dropped));
    let (one, two) = (address("10.0.0.2:51820"), address("10.0.0.3:51820"));
    let (server, other) = (address("198.51.100.1:3478"), address("198.51.100.2:3478"));
    assert_eq!(nat.outbound(START, one, server).unwrap().port(), 51820);
    assert_eq!(nat.outbound(START, two, other).unwrap().port(), 51820);
    assert_ne!(nat.outbound(START, two, server).unwrap().port(), 51820);
    assert_eq!(nat.inbound(START, other, address("203.0.113.1:51820")), Some(two));
    assert_eq!(nat.inbound(START, server, address("203.0.113.1:51820")), Some(one));
}

/// Measured with masquerade of Linux 6: what a source got for its latest flow it gets for the next, and flows that are
/// there keep what they have.
#[test]
fn under_overloading_new_flows_follow_the_latest_of_their_source() {
    let (one, two) = (address("10.0.0.2:40000"), address("10.0.0.3:40000"));
    let to = |host: u8| SocketAddr::from(([198, 51, 100, host], 3478));
    // The clash comes with the first flow, or with a later one.
    for free in [None, Some(8)] {
        let mut nat = table(Behavior::linux(Unsolicited::Dropped));
        assert_eq!(nat.outbound(START, one, to(7)).unwrap().port(), 40000);
        let before = free.map(|host| (host, nat.outbound(START, two, to(host)).unwrap()));
        assert!(before.is_none_or(|(_, external)| external.port() == 40000));
        let beside = nat.outbound(START, two, to(7)).unwrap();
        assert_ne!(beside.port(), 40000);
        for host in [9, 10] {
            assert_eq!(nat.outbound(START, two, to(host)), Some(beside), "{free:?}");
        }
        assert!(before.is_none_or(|(host, external)| nat.outbound(START, two, to(host)) == Some(external)));
        // Idle, all of it is forgotten.
        assert_eq!(nat.outbound(seconds(121), two, to(7)).unwrap().port(), 40000);
        assert_eq!(nat.len(), 1);
    }
}

/// CAUSES.md, experiment L1: every tester calls this router endpoint-independent, and who speaks first decides.
#[test]
fn an_early_packet_steals_the_port_of_a_linux_router_that_accepts_input() {
    let (inside, peer, server) = (address("10.0.0.2:40000"), address("198.51.100.7:40000"), address("198.51.100.1:1"));
    for (unsolicited, stolen) in [(Unsolicited::Dropped, false), (Unsolicited::Tracked, true)] {
        let mut nat = table(Behavior::linux(unsolicited));
        let mapped = nat.outbound(START, inside, server).unwrap();
        assert_eq!(nat.outbound(START, inside, address("198.51.100.2:2")), Some(mapped), "looks endpoint-independent");
        assert_eq!(nat.inbound(START, peer, mapped), None);
        let toward_peer = nat.outbound(START, inside, peer).unwrap();
        assert_eq!(toward_peer != mapped, stolen, "{unsolicited:?}");
        assert_eq!(nat.inbound(START, peer, mapped).is_none(), stolen, "{unsolicited:?}");
        // The other destinations keep the port, so a tester still sees nothing.
        assert_eq!(nat.outbound(START, inside, server), Some(mapped));
    }
    // Inside first: nothing is stolen.
    let mut nat = table(Behavior::linux(Unsolicited::Tracked));
    let mapped = nat.outbound(START, inside, server).unwrap();
    assert_eq!(nat.outbound(START, inside, peer), Some(mapped));
    assert_eq!(nat.inbound(START, peer, mapped), Some(inside));
}

#[test]
fn a_stolen_port_comes_back_when_both_sides_have_been_silent() {
    let (inside, peer) = (address("10.0.0.2:40000"), address("198.51.100.7:40000"));
    let mut nat = table(Behavior::linux(Unsolicited::Tracked));
    let outside = address("203.0.113.1:40000");
    assert_eq!(nat.inbound(START, peer, outside), None);
    assert_ne!(nat.outbound(seconds(29), inside, peer), Some(outside));
    assert_eq!(nat.outbound(seconds(29 + 121), inside, peer), Some(outside));
}

#[test]
fn noise_from_outside_does_not_grow_the_table_beyond_its_bound() {
    let mut nat = table(Behavior::linux(Unsolicited::Tracked)).with_capacity(100);
    for port in 1..=u16::MAX {
        nat.inbound(START, SocketAddr::new(ip("198.51.100.7"), port), address("203.0.113.1:40000"));
    }
    let inside = address("10.0.0.2:40000");
    let taken = |nat: &mut Table, port| {
        nat.outbound(START, inside, SocketAddr::new(ip("198.51.100.7"), port)).unwrap().port() != 40000
    };
    assert!(!taken(&mut nat, 101) && taken(&mut nat, 100));
}

/// Two hosts behind NATs learn their mapped addresses from a server and then send to each other in turn:
/// the outcome is the one that the prediction gives.
#[test]
fn any_two_kinds_of_nat_connect_exactly_when_predicted() {
    use FilteringBehavior as F;
    use MappingBehavior as M;
    let kinds: Vec<(M, F)> =
        M::ALL.into_iter().flat_map(|mapping| F::ALL.map(|filtering| (mapping, filtering))).collect();
    let server = address("198.51.100.1:3478");
    for a in &kinds {
        for b in &kinds {
            for a_first in [true, false] {
                let nat = |kind: &(M, F), external, seed| {
                    Table::new(Behavior::new(kind.0, kind.1), vec![ip(external)], Random::from_number(seed))
                };
                let mut nats = [nat(a, "203.0.113.1", 1), nat(b, "203.0.113.2", 2)];
                let inside = [address("10.0.0.2:5000"), address("10.0.1.2:5000")];
                let mut known = [0, 1].map(|side| nats[side].outbound(START, inside[side], server).unwrap());
                let mut connected = false;
                // Whoever is heard is answered, and checked in turn, at the address it was heard from. An answer counts
                // if it comes from where the question went (RFC 8445 §7.2.5.2.1).
                for turn in 0..8 {
                    let from = usize::from((turn % 2 == 0) != a_first);
                    let to = 1 - from;
                    let mapped = nats[from].outbound(START, inside[from], known[to]).unwrap();
                    if nats[to].inbound(START, mapped, known[to]).is_some() {
                        known[from] = mapped;
                        let answered_from = nats[to].outbound(START, inside[to], mapped).unwrap();
                        let arrives = nats[from].inbound(START, answered_from, mapped).is_some();
                        connected |= arrives && answered_from == known[to];
                    }
                }
                assert_eq!(connected, can_connect(*a, *b), "{a:?} {b:?} a first: {a_first}");
            }
        }
    }
}

proptest! {
    /// Whatever happens, a packet is let in only to an endpoint that has that external address, no two endpoints share
    /// one flow, and what was just sent out is answered.
    #[test]
    fn an_answer_to_what_was_sent_always_comes_back(
        mapping in prop::sample::select(&MappingBehavior::ALL[..]), filtering in prop::sample::select(&FilteringBehavior::ALL[..]),
        ports in prop_oneof![
            Just(PortAllocation::Preserving), Just(PortAllocation::Random), Just(PortAllocation::Sequential),
            Just(PortAllocation::Hash), Just(PortAllocation::Contiguous { block: 64 }),
        ],
        overloading in any::<bool>(), tracked in any::<bool>(), both in any::<bool>(),
        packets in prop::collection::vec((0_u64..40_000_000, any::<bool>(), 0_u8..4, 0_u16..3, 0_u8..3, 0_u16..3), 1..60),
    ) {
        let behavior = Behavior {
            ports, overloading,
            unsolicited: if tracked { Unsolicited::Tracked } else { Unsolicited::Dropped },
            refresh: if both { Refresh::Both } else { Refresh::Outbound },
            ..Behavior::new(mapping, filtering)
        };
        let mut nat = Table::new(behavior, vec![ip("203.0.113.1")], Random::from_number(3));
        let mut now = START;
        for (later, out, host, port, remote_host, remote_port) in packets {
            now += Duration::from_micros(later);
            let inside = SocketAddr::new(IpAddr::from([10, 0, 0, host]), 2000 + port);
            let remote = SocketAddr::new(IpAddr::from([198, 51, 100, remote_host]), 2000 + remote_port);
            if out {
                let mapped = nat.outbound(now, inside, remote).unwrap();
                prop_assert_eq!(nat.inbound(now, remote, mapped), Some(inside));
                prop_assert_eq!(nat.outbound(now, inside, remote), Some(mapped));
            } else if let Some(found) = nat.inbound(now, remote, SocketAddr::new(ip("203.0.113.1"), 2000 + port)) {
                prop_assert!(found.ip().to_string().starts_with("10.0.0."));
            }
        }
        now += Duration::from_secs(1000);
        prop_assert_eq!(nat.inbound(now, address("198.51.100.0:2000"), address("203.0.113.1:2000")), None);
        prop_assert!(nat.is_empty());
    }
}
