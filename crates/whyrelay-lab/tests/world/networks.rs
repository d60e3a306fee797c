//! Which pairs of networks connect directly: CAUSES.md's table, all nine kinds against all nine, and experiment L1.

use std::time::Duration;

use whyrelay_core::nat::behavior::{
    Behavior, FilteringBehavior as Filtering, Hairpinning, MappingBehavior as Mapping, PortAllocation, Unsolicited,
    can_connect,
};
use whyrelay_lab::world::{Egress, Ipv6, Link, Neighbor, Path, Router, RouterKind, Setup, Site};

use crate::{expect_path, observe, runs};

/// Who speaks first: the other side's candidates come late.
const FIRST: [(&str, Duration, Duration); 3] = [
    ("together", Duration::ZERO, Duration::ZERO),
    ("the offerer", Duration::from_millis(400), Duration::ZERO),
    ("the answerer", Duration::ZERO, Duration::from_millis(400)),
];

fn behind(behavior: Behavior) -> Site {
    Site::behind(vec![Router::nat(behavior)])
}

fn home() -> Behavior {
    Behavior::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent)
}

fn symmetric(ports: PortAllocation) -> Behavior {
    let behavior = Behavior::new(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent);
    Behavior { ports, ..behavior }
}

fn check_each_first(seed: u64, a: &Site, b: &Site, path: Path) {
    for (_, offerers_delay, answerers_delay) in FIRST {
        let mut setup = Setup::new(seed, a.clone(), b.clone());
        setup.offerer.turn_tcp = true;
        setup.answerer.turn_tcp = true;
        setup.offerer.candidates_delay = offerers_delay;
        setup.answerer.candidates_delay = answerers_delay;
        expect_path(&setup, &observe(&setup), path);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Open,
    AddressRestricted,
    PortRestricted,
    Symmetric,
    UdpBlocked,
}

/// LINUX.md §3, without its Linux column, which the tests of L1 have.
fn expected(a: Class, b: Class) -> Path {
    use Class::{PortRestricted, Symmetric, UdpBlocked};
    match (a, b) {
        (UdpBlocked, _) | (_, UdpBlocked) => Path::Relayed,
        (Symmetric, Symmetric | PortRestricted) | (PortRestricted, Symmetric) => Path::Relayed,
        _ => Path::Direct,
    }
}

#[test]
fn every_pair_of_the_table_has_its_expected_outcome() {
    let one_to_one = Site::behind(vec![Router::new(RouterKind::OneToOne(Filtering::EndpointIndependent))]);
    let firewall = Site::behind(vec![Router::new(RouterKind::Firewall(Filtering::AddressAndPortDependent))]);
    let eim = |filtering| behind(Behavior::new(Mapping::EndpointIndependent, filtering));
    let carrier = Site::behind(vec![Router::nat(home()), Router::nat(home())]);
    let carrier_symmetric = Site::behind(vec![Router::nat(home()), Router::nat(symmetric(PortAllocation::Random))]);
    let adm = behind(Behavior::new(Mapping::AddressDependent, Filtering::AddressAndPortDependent));
    let symmetric_adf = behind(Behavior::new(Mapping::AddressAndPortDependent, Filtering::AddressDependent));
    let blocked = Site::behind(vec![Router::nat(home()).letting_out(Egress::NoUdp)]);
    let web_only = Site::behind(vec![Router::nat(home()).letting_out(Egress::TcpTo(vec![443, 3478]))]);
    let stun_only = Site::behind(vec![Router::nat(home()).letting_out(Egress::UdpTo(vec![3478]))]);
    let sites = [
        (Class::Open, Site::public()),
        (Class::Open, one_to_one),
        (Class::Open, eim(Filtering::EndpointIndependent)),
        (Class::AddressRestricted, eim(Filtering::AddressDependent)),
        (Class::PortRestricted, eim(Filtering::AddressAndPortDependent)),
        (Class::PortRestricted, firewall),
        (Class::PortRestricted, carrier),
        (Class::PortRestricted, behind(Behavior::linux(Unsolicited::Dropped))),
        (Class::Symmetric, adm),
        (Class::Symmetric, behind(symmetric(PortAllocation::Random))),
        (Class::Symmetric, behind(symmetric(PortAllocation::Sequential))),
        (Class::Symmetric, behind(symmetric(PortAllocation::Contiguous { block: 512 }))),
        (Class::Symmetric, symmetric_adf),
        (Class::Symmetric, carrier_symmetric),
        (Class::UdpBlocked, blocked),
        (Class::UdpBlocked, web_only),
        (Class::UdpBlocked, stun_only),
    ];
    for (number, (a_class, a)) in sites.iter().enumerate() {
        for (b_class, b) in &sites {
            // A firewall that lets UDP out to one port only still lets in what comes back from there, so two such
            // sites, or one and a relay on that port, are as blocked as the rest.
            check_each_first(number as u64, a, b, expected(*a_class, *b_class));
        }
    }
}

#[test]
fn the_nine_kinds_connect_exactly_when_predicted() {
    let kinds: Vec<_> = Mapping::ALL.into_iter().flat_map(|mapping| Filtering::ALL.map(|f| (mapping, f))).collect();
    for seed in 0..runs(2) {
        for a in &kinds {
            for b in &kinds {
                let path = if can_connect(*a, *b) { Path::Direct } else { Path::Relayed };
                let site = |(mapping, filtering)| behind(Behavior::new(mapping, filtering));
                check_each_first(seed, &site(*a), &site(*b), path);
            }
        }
    }
}

/// CAUSES.md, experiment L1: only the router's policy for input from outside differs, and who speaks first.
#[test]
fn a_linux_router_that_accepts_input_cannot_be_punched_by_a_peer_that_spoke_first() {
    use Unsolicited::{Dropped, Tracked};
    let table = [
        (Dropped, Dropped, [Path::Direct, Path::Direct, Path::Direct]),
        (Tracked, Tracked, [Path::Relayed, Path::Relayed, Path::Relayed]),
        (Tracked, Dropped, [Path::Relayed, Path::Direct, Path::Relayed]),
        (Dropped, Tracked, [Path::Direct, Path::Relayed, Path::Direct]),
    ];
    for seed in 0..runs(10) {
        for (a, b, paths) in table {
            for ((_, offerers_delay, answerers_delay), path) in FIRST.into_iter().zip(paths) {
                let site = |unsolicited| behind(Behavior::linux(unsolicited));
                let mut setup = Setup::new(seed, site(a), site(b));
                setup.offerer.candidates_delay = offerers_delay;
                setup.answerer.candidates_delay = answerers_delay;
                // Together: the answerer has the offerer's candidates with the offer, so it is first.
                expect_path(&setup, &observe(&setup), path);
            }
        }
    }
}

#[test]
fn an_accepting_router_is_reached_by_whoever_filters_less() {
    for first in FIRST {
        for filtering in [Filtering::EndpointIndependent, Filtering::AddressDependent] {
            let b = behind(Behavior::new(Mapping::EndpointIndependent, filtering));
            let mut setup = Setup::new(1, behind(Behavior::linux(Unsolicited::Tracked)), b);
            (setup.offerer.candidates_delay, setup.answerer.candidates_delay) = (first.1, first.2);
            expect_path(&setup, &observe(&setup), Path::Direct);
        }
    }
}

#[test]
fn neighbors_connect_on_their_segment_and_isolated_ones_only_by_hairpinning() {
    let link = Link::with_delay(Duration::from_micros(500));
    for (isolated, hairpinning, path) in [
        (false, Hairpinning::Unsupported, Path::Direct),
        (true, Hairpinning::Unsupported, Path::Relayed),
        (true, Hairpinning::ExternalSource, Path::Direct),
    ] {
        let mut router = Router::nat(Behavior { hairpinning, ..home() });
        router.isolated = isolated;
        let mut setup = Setup::new(3, Site::behind(vec![router]), Site::public());
        setup.b = Neighbor::OnSameSegment(link);
        // Two hosts with the same port behind one NAT, as VPN peers have it.
        expect_path(&setup, &observe(&setup), path);
        setup.answerer.port = 40_001;
        expect_path(&setup, &observe(&setup), path);
    }
}

#[test]
fn ipv6_behind_stateful_firewalls_is_direct_where_ipv4_is_not() {
    let site = |ipv6| {
        let mut router = Router::nat(symmetric(PortAllocation::Random));
        router.ipv6 = ipv6;
        Site::behind(vec![router]).dual_stack()
    };
    let filtered = Ipv6::Filtered(Filtering::AddressAndPortDependent);
    check_each_first(4, &site(filtered), &site(filtered), Path::Direct);
    check_each_first(5, &site(filtered), &site(Ipv6::Closed), Path::Relayed);
    check_each_first(6, &site(Ipv6::Closed), &site(Ipv6::Closed), Path::Relayed);
}

#[test]
fn without_turn_what_is_not_direct_fails() {
    for (a, b, path) in [
        (behind(home()), behind(home()), Path::Direct),
        (behind(home()), behind(symmetric(PortAllocation::Random)), Path::Failed),
        (Site::behind(vec![Router::nat(home()).letting_out(Egress::NoUdp)]), Site::public(), Path::Failed),
    ] {
        let mut setup = Setup::new(8, a, b);
        setup.offerer.turn_udp = false;
        setup.answerer.turn_udp = false;
        expect_path(&setup, &observe(&setup), path);
    }
}
