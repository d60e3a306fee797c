//! IPsec policies.

use whyrelay_core::host::{HostFact, IpsecDirection, IpsecPolicy, IpsecTemplate, Prefix, Subject};
use whyrelay_core::trace::event::Vantage;

use crate::builder::{Fate, address};
use crate::choices::said;
use crate::report::{A, B_MAPPED, failed};

fn policy(direction: IpsecDirection, far: &str) -> IpsecPolicy {
    let all = Prefix { address: "0.0.0.0".parse().expect("an address"), length: 0 };
    let far = Prefix::host(address(far).ip());
    let (source, destination) = match direction {
        IpsecDirection::In => (far, all),
        _ => (all, far),
    };
    IpsecPolicy {
        direction,
        blocks: true,
        priority: 10,
        source,
        destination,
        protocol: None,
        source_ports: None,
        destination_ports: None,
        device: None,
        mark: None,
        templates: Vec::new(),
    }
}

#[test]
fn the_ipsec_policy_that_stops_the_sessions_packets_is_named_and_no_other() {
    let template = |is_set_up| IpsecTemplate {
        source: address(A).ip(),
        destination: address(B_MAPPED).ip(),
        protocol: 50,
        mode: "transport".into(),
        optional: false,
        is_set_up: Some(is_set_up),
    };
    let out = policy(IpsecDirection::Out, B_MAPPED);
    let wants = |is_set_up| IpsecPolicy { blocks: false, templates: vec![template(is_set_up)], ..out.clone() };
    let passes = IpsecPolicy { blocks: false, priority: 9, ..out.clone() };
    let elsewhere = policy(IpsecDirection::Out, "192.0.2.77:1");
    const BLOCK: &str = "Xfrm.XfrmOutPolBlock";
    const NO_STATES: &str = "Xfrm.XfrmOutNoStates";
    const OUT: &str =
        "IPsec on A drops what it sends to 198.51.100.2:50000, by the policy src 0.0.0.0/0 dst 198.51.100.2/32 dir out";
    const IN: &str = "IPsec on A drops what it receives from 198.51.100.2:50000, by the policy src 198.51.100.2/32 dst 0.0.0.0/0 dir in";
    for (name, policies, counter, expected) in [
        ("it blocks", vec![out.clone()], BLOCK, Some(OUT)),
        ("it wants a tunnel that is not there: no errno tells of it", vec![wants(false)], NO_STATES, Some(OUT)),
        ("its tunnel is there", vec![wants(true)], NO_STATES, None),
        ("on the way in", vec![policy(IpsecDirection::In, B_MAPPED)], "Xfrm.XfrmInPolBlock", Some(IN)),
        ("another lets it pass first", vec![out.clone(), passes], BLOCK, None),
        ("it is about another address", vec![elsewhere], BLOCK, None),
        ("the counter of the other way moved", vec![out.clone()], "Xfrm.XfrmInPolBlock", None),
    ] {
        // Neither refused sends nor arrivals are known.
        let mut session = failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
        session.counters(Vantage::A, &[(counter, 9)]);
        let count = policies.len() as u64;
        for policy in policies {
            session.fact(Vantage::A, HostFact::IpsecPolicy(policy));
        }
        let subject = Subject::IpsecPolicies;
        session.fact(Vantage::A, HostFact::Counted { subject, total: count, recorded: count });
        let found = said(&session, "WR129");
        match expected {
            Some(begin) => assert!(found.len() == 1 && found[0].1.starts_with(begin), "{name}: {found:?}"),
            None => assert_eq!(found, [], "{name}"),
        }
    }
}
