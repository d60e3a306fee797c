//! Every scenario in virtual time comes out as it says.

use std::collections::BTreeSet;
use std::net::IpAddr;

use whyrelay_core::host::{HostFact, Probe, ProbeAim, ProbeOutcome};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::trace::event::{Direction, Event, EventKind, Transport, Vantage};
use whyrelay_core::trace::measurement::{Measurement, PortMapperProtocol};
use whyrelay_core::trace::recording::encode;
use whyrelay_lab::run::{cannot_virtually, judge, path_name, run_virtual};
use whyrelay_lab::scenario::Scenario;
use whyrelay_lab::work;

fn all() -> Vec<Scenario> {
    let scenarios = Scenario::embedded().iter().map(|(name, text)| Scenario::parse(name, text));
    scenarios.map(|scenario| scenario.unwrap_or_else(|error| panic!("{error}"))).collect()
}

#[test]
fn every_scenario_comes_out_in_virtual_time_as_it_says() {
    let mut wrong = Vec::new();
    for Scenario { topology, .. } in all().iter().filter(|s| cannot_virtually(&s.topology).is_none()) {
        let verdict = judge(topology, &run_virtual(topology));
        if !verdict.passed() {
            let findings: Vec<_> = verdict.findings.iter().map(ToString::to_string).collect();
            let (path, problems) = (path_name(verdict.path), verdict.problems.join("; "));
            wrong.push(format!("{}: {path}; {problems}\n    found: {}", topology.name, findings.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "{} scenarios came out otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

/// `whyrelay offer --wait 20s --timeout 20s`, as the namespace world runs it: a side that starts late is waited for.
#[test]
fn sessions_in_virtual_time_give_up_when_the_program_does() {
    let homes = "[host.a]\nbehind = \"home-router\"\n";
    for (said, path, finding) in [
        ("[host.a]\nsession.starts = \"60s\"\n", "direct", None),
        ("[host.a]\n[signaling.a]\ndelay = \"19s\"\n", "direct", None),
        ("[host.a]\n[signaling.a]\ndelay = \"21s\"\n", "failed", Some("WR702")),
        ("[host.a]\n[signaling.b]\ndelay = \"21s\"\n", "failed", Some("WR702")),
        ("[host.a]\nsession.starts = \"60s\"\n[signaling.a]\ndelay = \"21s\"\n", "failed", Some("WR702")),
        // Nobody checks anything before.
        (
            &format!("{homes}[signaling.a]\ncandidates-delay = \"15s\"\n[signaling.b]\ncandidates-delay = \"15s\"\n"),
            "direct",
            None,
        ),
        (
            &format!("{homes}[signaling.a]\ncandidates-delay = \"25s\"\n[signaling.b]\ncandidates-delay = \"25s\"\n"),
            "failed",
            None,
        ),
    ] {
        let text = format!("title = \"t\"\n{said}[host.b]\nbehind = \"home-router\"\n[expect]\npath = \"direct\"\n");
        let topology = Scenario::parse("test", &text).unwrap_or_else(|error| panic!("{error}\n{text}")).topology;
        let observed = run_virtual(&topology);
        let codes: Vec<_> = observed.report.findings.iter().map(|finding| finding.code.to_string()).collect();
        assert_eq!(path_name(observed.path), path, "{said}: {codes:?}");
        assert!(finding.is_none_or(|code| codes.iter().any(|found| found == code)), "{said}: {codes:?}");
    }
}

#[test]
fn a_nat_that_is_otherwise_than_expected_fails_the_run_and_says_in_what() {
    let text = "title = \"t\"\n[host.a]\nbehind = \"home-router\"\n[host.b]\nbehind = \"home-router\"\n\
                [expect]\npath = \"direct\"\n[expect.nat.a]\nmapping = \"address-dependent\"\n\
                filtering = \"endpoint-independent\"\nport-preservation = false\nhairpinning = true\nudp = false\n";
    let Scenario { topology, .. } = Scenario::parse("test", text).unwrap_or_else(|error| panic!("{error}"));
    let verdict = judge(&topology, &run_virtual(&topology));
    assert_eq!(
        verdict.problems,
        [
            "expect.nat.a.udp: it is true, expected false",
            "expect.nat.a.mapping: it is endpoint-independent, expected address-dependent",
            "expect.nat.a.filtering: it is address-and-port-dependent, expected endpoint-independent",
            "expect.nat.a.hairpinning: it is false, expected true",
            "expect.nat.a.port-preservation: it is true, expected false",
        ]
    );
}

/// Byte for byte, whatever else runs at the same time.
#[test]
fn the_same_seed_gives_the_same_recordings() {
    let all: Vec<Scenario> = all().into_iter().filter(|s| cannot_virtually(&s.topology).is_none()).collect();
    assert!(all.len() > 150, "{} scenarios", all.len());
    let differs = |Scenario { name, topology, .. }: &Scenario| {
        let (one, other) = (run_virtual(topology), run_virtual(topology));
        let same = one.recordings == other.recordings && one.recordings.iter().all(|recording| !recording.is_empty());
        (!same).then(|| name.clone())
    };
    let differ = work::each(&all, work::cores(), differs, |_| ());
    let differ: Vec<String> = differ.into_iter().flatten().collect();
    assert!(differ.is_empty(), "{differ:?}");
}

/// Else the test above could not fail.
#[test]
fn another_seed_gives_other_recordings() {
    let Scenario { mut topology, .. } =
        Scenario::find("jitter-and-reordering").unwrap_or_else(|error| panic!("{error}"));
    let one = run_virtual(&topology);
    topology.seed += 1;
    assert_ne!(one.recordings, run_virtual(&topology).recordings);
}

/// How late a connection and its segments are follows the seed as everything else by chance does.
#[test]
fn jitter_of_connections_follows_the_seed() {
    let text = "title = \"t\"\n[host.a]\nbehind = \"corporate-no-udp\"\nlink = { delay = \"20ms\", jitter = \"10ms\" }\n\
                [host.b]\n[expect]\npath = \"relayed\"\n";
    let Scenario { mut topology, .. } = Scenario::parse("test", text).unwrap_or_else(|error| panic!("{error}"));
    let [mut connected, mut answered] = [BTreeSet::new(), BTreeSet::new()];
    for seed in 1..=6 {
        topology.seed = seed;
        let events = run_virtual(&topology).events;
        let own = || events.iter().filter(|event| event.vantage == Vantage::A);
        let over_tcp = |wanted: Direction| {
            let is = move |event: &&Event| {
                matches!(&event.kind, EventKind::Datagram(datagram)
                    if datagram.transport == Transport::Tcp && datagram.direction == wanted)
            };
            own().find(is).map_or_else(|| panic!("seed {seed}: nothing over TCP"), |event| event.at)
        };
        let begun = own().next().map_or_else(|| panic!("seed {seed}: no event"), |event| event.at);
        connected.insert(over_tcp(Direction::Out).since(begun));
        answered.insert(over_tcp(Direction::In).since(over_tcp(Direction::Out)));
    }
    assert!(connected.len() > 3, "connected after {connected:?}");
    assert!(answered.len() > 3, "answered after {answered:?}");
}

/// The router maps by the protocol that it speaks, and is told at the end that the mapping may go.
#[test]
fn a_port_is_mapped_by_each_protocol_for_the_length_of_the_session() {
    for (protocol, name) in [
        (PortMapperProtocol::Pcp, "port-mapping-by-pcp"),
        (PortMapperProtocol::NatPmp, "port-mapping-by-nat-pmp"),
        (PortMapperProtocol::Upnp, "port-mapping-by-upnp"),
    ] {
        let scenario = Scenario::find(name).unwrap_or_else(|error| panic!("{error}"));
        let events = run_virtual(&scenario.topology).events;
        let own: Vec<&EventKind> =
            events.iter().filter(|event| event.vantage == Vantage::A).map(|event| &event.kind).collect();
        let mapped = own.iter().find_map(|kind| match kind {
            EventKind::Measured(Measurement::PortMapped { protocol, external, removed, .. }) => {
                Some((*protocol, *external, *removed))
            }
            _ => None,
        });
        let Some((by, external, removed)) = mapped else { panic!("{name}: nothing was mapped") };
        assert_eq!((by, removed), (protocol, true), "{name}");
        let used = own.iter().any(|kind| {
            matches!(kind, EventKind::LocalCandidate { candidate, .. }
                if candidate.address.ip() == Some(external) && candidate.kind == CandidateType::ServerReflexive)
        });
        assert!(used, "{name}: {external} is no candidate");
        let ended = own.iter().filter(|kind| matches!(kind, EventKind::RecordingEnded { .. }));
        assert_eq!(ended.count(), 1, "{name}");
    }
}

/// What came of a side's probes in a scenario, by what they change.
fn probes(name: &str, vantage: Vantage) -> Vec<Probe> {
    let scenario = Scenario::find(name).unwrap_or_else(|error| panic!("{error}"));
    let events = run_virtual(&scenario.topology).events;
    let own = events.into_iter().filter(|event| event.vantage == vantage);
    let probe = |event: Event| match event.kind {
        EventKind::HostFact { fact, .. } => match *fact {
            HostFact::Probe(probe) => Some(probe),
            _ => None,
        },
        _ => None,
    };
    own.filter_map(probe).collect()
}

/// A rule sends the session's own packets into a tunnel, and a socket that is bound to the uplink around it.
#[test]
fn what_a_rule_diverts_a_probe_bound_to_the_uplink_does_not() {
    let probes = probes("policy-rule-diverts-peer", Vantage::A);
    let server = |probe: &Probe| probe.remote.port() == 3478;
    let answered = |aim: ProbeAim| {
        let mut of_aim = probes.iter().filter(|probe| probe.aim == aim && !server(probe)).peekable();
        assert!(of_aim.peek().is_some(), "{aim:?}: {probes:?}");
        of_aim.any(|probe| matches!(probe.result, ProbeOutcome::Answered { .. }))
    };
    assert!(answered(ProbeAim::Device { device: "eth0".to_owned() }), "{probes:?}");
    assert!(!answered(ProbeAim::OtherPort), "{probes:?}");
}

/// What A's sockets heard besides checks were probes of B; what a rule of A dropped meanwhile were connections.
#[test]
fn probes_that_arrived_are_none_that_a_firewall_dropped() {
    let text = "title = \"t\"\n[host.a]\nbehind = \"home-router\"\n\
                [[host.a.firewall]]\nhook = \"input\"\nverdict = \"accept\"\nipproto = \"udp\"\n\
                [[host.a.firewall]]\nhook = \"input\"\nverdict = \"drop\"\n\
                [host.b]\nbehind = \"home-router\"\n[host.b.session]\nmark = \"0x1bd00\"\n\
                [[host.b.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\n\
                [[host.b.route]]\nto = \"peer/26\"\ndev = \"wg0\"\ntable = 200\n\
                [[host.b.rule]]\npriority = 1000\nfwmark = \"0x10000/0x10000\"\ntable = 200\n\
                [expect]\npath = \"relayed\"\n";
    let Scenario { topology, .. } = Scenario::parse("test", text).unwrap_or_else(|error| panic!("{error}"));
    let findings = run_virtual(&topology).report.findings;
    let named = |name: &str| findings.iter().any(|finding| finding.name == name);
    assert!(named("mark-rule-collision"), "{findings:?}");
    assert!(!named("input-firewall-drops"), "{findings:?}");
}

/// The routers in front of a host tell where packets of a low TTL died, and behind the first that is silent nobody does.
#[test]
fn hops_are_found_in_virtual_time() {
    let scenario = Scenario::find("double-nat-symmetric").unwrap_or_else(|error| panic!("{error}"));
    let topology = &scenario.topology;
    let way = topology.way_out(topology.hosts[0].interfaces[0].segment.unwrap_or_default());
    let routers: Vec<_> = way.iter().map(|router| router.inside_addresses[0].address).collect();
    let hops = probes("double-nat-symmetric", Vantage::A).into_iter().filter_map(|probe| match probe {
        // The first router is asked towards a server as well.
        Probe { aim: ProbeAim::TimeToLive { ttl }, remote, result, .. } if remote.port() != 3478 => Some((ttl, result)),
        _ => None,
    });
    let (told, silent): (Vec<_>, Vec<_>) = hops.partition(|(_, result)| *result != ProbeOutcome::Silent);
    let offenders: Vec<_> = told
        .iter()
        .map(|(ttl, result)| match result {
            ProbeOutcome::Icmp { offender: Some(offender), icmp_type: 11, .. } => (*ttl, *offender),
            other => panic!("TTL {ttl}: {other:?}"),
        })
        .collect();
    let expected: Vec<_> = (1..).zip(routers.iter().copied()).collect();
    assert!(expected.len() == 2 && offenders.starts_with(&expected), "{offenders:?}, expected {expected:?}");
    assert_eq!(silent.len(), 1, "{silent:?}");
}

/// Nobody asks why a session is relayed that is direct.
#[test]
fn a_direct_session_probes_no_causes() {
    assert_eq!(probes("two-homes", Vantage::A), []);
}

/// What TLS carries is recorded as that, and what it says of a certificate as the real client has it.
#[test]
fn tls_leaves_what_a_real_client_records() {
    let events = |name: &str| {
        let scenario = Scenario::find(name).unwrap_or_else(|error| panic!("{error}"));
        run_virtual(&scenario.topology).events
    };
    let over = |events: &[Event], transport: Transport| {
        let is =
            |event: &&Event| matches!(&event.kind, EventKind::Datagram(datagram) if datagram.transport == transport);
        events.iter().filter(is).count()
    };
    let good = events("tls-on-443");
    assert!(over(&good, Transport::Tls) > 10 && over(&good, Transport::Tcp) == 0);
    for (name, said) in [
        ("turn-certificate-self-signed", "invalid peer certificate: UnknownIssuer"),
        ("turn-certificate-expired", "invalid peer certificate: certificate expired: verification time 17672256"),
        ("turn-certificate-wrong-name", "invalid peer certificate: certificate not valid for name \"198.51.100.1\""),
    ] {
        let events = events(name);
        assert_eq!(over(&events, Transport::Tls), 0, "{name}");
        let recorded: Vec<String> = events.iter().map(encode).collect();
        let said = said.replace('"', "\\\"");
        assert!(recorded.iter().any(|event| event.contains(&said)), "{name}: {said:?} is in no event");
    }
}

/// What a world does not honor it refuses, with the reason.
#[test]
fn what_virtual_time_does_not_honor_is_refused() {
    for (piece, reason) in [
        ("[router.r]\ntranslate = \"one-to-one\"\nport-mapping = [\"pcp\"]", "port mapping by r"),
        ("[host.a.sysctl]\n\"net.ipv4.ip_forward\" = 1", "net.ipv4.ip_forward"),
        ("[host.c]\nconntrack-full = true", "host.c.conntrack-full"),
        ("[host.a.link]\nrate = \"16kbit\"", "a's link eth0: 16000 bit/s"),
        ("[router.r.link]\nmtu = 1000", "the link of r: packets of 1000 bytes"),
        ("[server.link]\nrate = \"8kbit\"", "the server's link: 8000 bit/s"),
    ] {
        let behind = if piece.contains("router.r") { "behind = \"r\"" } else { "" };
        let text = format!("title = \"t\"\n[host.a]\n{behind}\n[host.b]\n{piece}\n[expect]\npath = \"direct\"\n");
        let scenario = Scenario::parse("test", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let said = cannot_virtually(&scenario.topology).unwrap_or_default();
        assert!(said.contains(reason), "{reason:?} is not in {said:?}");
    }
    let unfit: Vec<_> = all().into_iter().filter(|s| cannot_virtually(&s.topology).is_some()).map(|s| s.name).collect();
    assert!(unfit.is_empty(), "virtual time does not run all of the scenarios: {unfit:?}");
}

/// As between namespaces: who has a flow keeps it, though its port is forwarded to somebody else, who gets what begins.
#[test]
fn a_forwarded_port_takes_no_flow_from_who_has_it() {
    let text = "title = \"t\"\n[router.r]\nforward = [{ port = 40000, to = \"c\" }]\n[host.a]\nbehind = \"r\"\n\
                [host.c]\nbehind = \"r\"\n[host.b]\nbehind = \"home-router\"\n[expect]\npath = \"relayed\"\n\
                expected = \"direct\"\n[[expect.finding]]\nname = \"port-taken-by-early-packet\"\nfirst = true\n";
    let scenario = Scenario::parse("test", text).unwrap_or_else(|error| panic!("{error}"));
    let verdict = judge(&scenario.topology, &run_virtual(&scenario.topology));
    assert!(verdict.problems.is_empty(), "{:?}", verdict.problems);
}

/// Else both hosts had one address outside.
#[test]
fn a_router_maps_no_port_that_another_host_has_outside() {
    let text = "title = \"t\"\n[router.r]\nport-mapping = [\"pcp\"]\noverloading = false\n\
                [host.a]\nbehind = \"r\"\nsession = { port = 40000, map-port = true, starts = \"1s\" }\n\
                [host.b]\nbehind = \"r\"\nsession.port = 40000\n[expect]\npath = \"direct\"\n";
    let scenario = Scenario::parse("test", text).unwrap_or_else(|error| panic!("{error}"));
    let reflexive = |side: Vantage| -> BTreeSet<String> {
        let events = run_virtual(&scenario.topology).events.into_iter().filter(move |event| event.vantage == side);
        let candidates = events.filter_map(|event| match event.kind {
            EventKind::LocalCandidate { candidate, .. } => Some(candidate),
            _ => None,
        });
        let reflexive = candidates.filter(|candidate| candidate.kind == CandidateType::ServerReflexive);
        reflexive.map(|candidate| candidate.address.to_string()).collect()
    };
    let (a, b) = (reflexive(Vantage::A), reflexive(Vantage::B));
    assert!(b.contains("203.0.113.10:40000"), "{b:?}");
    assert!(!a.is_empty() && a.is_disjoint(&b), "{a:?} {b:?}");
}

/// An address of one family stands for no allocation of the other.
#[test]
fn a_wrong_relayed_address_is_announced_in_its_own_family_alone() {
    for (wrong, ipv6, right) in [("2001:db8::9", true, "198.51.100.1"), ("10.0.0.1", false, "2001:db8:ffff::1")] {
        let text = format!(
            "title = \"t\"\n[host.a]\n[host.b]\n[server]\nrelay-address = {wrong:?}\n[expect]\npath = \"direct\"\n"
        );
        let scenario = Scenario::parse("test", &text).unwrap_or_else(|error| panic!("{error}"));
        let relayed: BTreeSet<IpAddr> = run_virtual(&scenario.topology)
            .events
            .into_iter()
            .filter_map(|event| match event.kind {
                EventKind::LocalCandidate { candidate, .. } if candidate.kind == CandidateType::Relayed => {
                    candidate.address.ip().map(|address| address.ip())
                }
                _ => None,
            })
            .collect();
        let (wrong, right): (IpAddr, IpAddr) = (wrong.parse().unwrap(), right.parse().unwrap());
        assert_eq!(relayed, BTreeSet::from([wrong, right]));
        assert_eq!(wrong.is_ipv6(), ipv6);
    }
}

/// To a public host behind a firewall nobody says that a public address would help.
#[test]
fn a_closed_port_in_front_of_a_public_host_is_named() {
    let scenario = Scenario::find("stateful-firewall-against-symmetric").unwrap_or_else(|error| panic!("{error}"));
    let report = run_virtual(&scenario.topology).report;
    let first = report.would_allow_direct.first().map(String::as_str).unwrap_or_default();
    assert!(
        first.starts_with("UDP port 40001 let in to ") && first.ends_with("by the firewall in front of B"),
        "{first}"
    );
    let finding = report.findings.iter().find(|finding| finding.code == "WR201");
    let advice = &finding.unwrap_or_else(|| panic!("no WR201")).advice;
    assert!(advice.iter().any(|line| line.starts_with("Let UDP port 40001 in")), "{advice:?}");
    assert!(advice.iter().all(|line| !line.contains("Give one of the two sides a public address")), "{advice:?}");
}

/// Where another uplink leads to the peer, that is what helps, and not another port.
#[test]
fn the_other_uplink_is_named_where_the_peer_answers_by_it() {
    let scenario = Scenario::find("preferred-uplink-symmetric").unwrap_or_else(|error| panic!("{error}"));
    let report = run_virtual(&scenario.topology).report;
    let first = report.would_allow_direct.first().map(String::as_str);
    assert_eq!(first, Some("the uplink eth0 of A as the one that it sends by"));
    let finding = report.findings.iter().find(|finding| finding.code == "WR201");
    let advice = &finding.unwrap_or_else(|| panic!("no WR201")).advice;
    assert!(advice.first().is_some_and(|line| line.starts_with("Let A send by eth0")), "{advice:?}");
}

/// Large packets that get lost in both directions are two findings with one name and blame: a verdict tells them apart.
#[test]
fn findings_that_are_alike_but_for_their_direction_are_told_apart() {
    let scenario = Scenario::find("mtu-black-hole").unwrap_or_else(|error| panic!("{error}"));
    let verdict = judge(&scenario.topology, &run_virtual(&scenario.topology));
    let shown: Vec<_> = verdict.findings.iter().map(ToString::to_string).collect();
    let of = |side: &str| format!("WR603 mtu-black-hole (the path, as {side} sees it)");
    assert_eq!(shown, [of("A"), of("B")]);
}
