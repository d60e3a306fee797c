//! Near misses: for each rule a session one step away from its fault, in which it must stay silent.

use whyrelay_core::host::{
    HostFact, NeighborState, OwnPacket, Prefix, ProbeAim, RoutePurpose, RuleAction, SoftwareName, Subject,
};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::trace::event::{
    Direction, DtlsState, EndReason, EventKind, IceState, IceStateReason, InterfaceUse, RefuseReason, ServerFailure,
    SessionOptions, Side, SignalingState, Transport, Vantage,
};
use whyrelay_core::trace::measurement::{Measurement, PortMapperProtocol};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::Integrity;
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method};

use super::facts::{UPLINK, Way, policy_rule};
use super::host::{EXIT, astray_by, diverted, exit_node, icmp, second_network, translated};
use super::network::{
    broken_relay, connected, lost_and, refused_with, relay_to_relay, seen_by_peer, seen_by_relay, server_failed,
    silent_for_both,
};
use super::{STUN_2, failing, lost, over_relay};
use crate::builder::{Check, Fate, Session, address};
use crate::report::{A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks, b_checks, behind_nats, direct, relayed};

const LOST: Fate = Fate::LostOnTheWay;
const PEER: RoutePurpose = RoutePurpose::Peer;
const SERVER: RoutePurpose = RoutePurpose::Server;
const TUNNEL: [(&str, Option<&str>); 1] = [("wg0", Some("wireguard"))];

/// A session in which a rule must not fire.
pub(crate) struct Near {
    /// The code of the rule.
    pub(crate) code: &'static str,
    /// What is different from its fault.
    pub(crate) why: &'static str,
    pub(crate) session: Session,
    /// It may say so as information: the thing is there and did no harm.
    pub(crate) as_information: bool,
}

fn near(code: &'static str, why: &'static str, session: Session) -> Near {
    Near { code, why, session, as_information: false }
}

fn harmless(code: &'static str, why: &'static str, session: Session) -> Near {
    Near { as_information: true, ..near(code, why, session) }
}

pub(crate) fn all() -> Vec<Near> {
    let mut all = routing();
    all.extend(host());
    all.extend(nat());
    all.extend(servers());
    all.extend(checks());
    all.extend(session());
    all
}

fn into(device: &'static str, table: u32, rule: u32) -> Way<'static> {
    Way { device, gateway: None, table, rule: Some(rule) }
}

fn finished(mut session: Session) -> Session {
    session.end(Vantage::A, EndReason::Finished);
    session.end(Vantage::B, EndReason::Finished);
    session
}

fn send_failed(session: &mut Session, local: &str, remote: &str, errno: i32) {
    let (transport, local, remote, detail) = (Transport::Udp, address(local), address(remote), "refused".to_owned());
    session.push(Vantage::A, EventKind::SendFailed { transport, local, remote, errno, detail });
}

/// Everything leaves by a TAP device.
fn by_tap(device: &'static str) -> Session {
    lost(|session| {
        session.tap(Vantage::A, device, "192.168.1.2");
        session.route(SERVER, STUN, 0, Ok(Way { device, ..UPLINK }));
        session.route(PEER, B_MAPPED, 0, Ok(Way { device, ..UPLINK }));
    })
}

fn routing() -> Vec<Near> {
    let everywhere = failing(Fate::SendRefused(22), LOST, |session| {
        session.rule(whyrelay_core::host::PolicyRule {
            rule_action: RuleAction::Blackhole,
            table: None,
            ..policy_rule(99)
        });
        session.route(SERVER, STUN, 0, Ok(UPLINK));
        session.route(PEER, B_MAPPED, 0, Err(22));
        session.route(PEER, B_MAPPED, 0x1BD00, Err(22));
    });
    let all_in_tunnel = lost(|session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
        session.route(SERVER, STUN, 0, Ok(into("wg0", 51_820, 32_765)));
        session.route(PEER, B_MAPPED, 0, Ok(into("wg0", 51_820, 32_765)));
    });
    let same_uplink = lost(|session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "eth1", None, "192.168.2.2");
        session.route(SERVER, STUN, 0, Ok(into("eth1", 254, 32_766)));
        session.route(PEER, B_MAPPED, 0, Ok(into("eth1", 254, 32_766)));
    });
    let at_home = lost(|session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "eth1", None, "192.168.2.2");
        session.route(SERVER, STUN, 0, Ok(UPLINK));
        session.route(PEER, B_MAPPED, 0, Ok(UPLINK));
    });
    let to_peer = |session: &mut Session| {
        let to = Some(Prefix { address: "198.51.100.0".parse().expect("an address"), length: 24 });
        session.rule(whyrelay_core::host::PolicyRule { to, ..policy_rule(100) });
    };
    let by_router = diverted(&[], UPLINK, |session| {
        icmp(session, Vantage::A, B_MAPPED, "192.168.1.1", 3, 1);
        session.neighbor("192.168.1.1", NeighborState::Reachable);
    });
    let heard_by_hand = diverted(&[], UPLINK, |session| session.neighbor_by_hand("192.168.1.1"));
    let with_main = diverted(&[], UPLINK, |session| {
        session.default_route(254);
        session.default_route(201);
        session.route(SERVER, STUN, 0, Ok(Way { table: 201, ..UPLINK }));
    });
    let not_whole = diverted(&[], UPLINK, |session| {
        session.default_route(201);
        session.route(SERVER, STUN, 0, Ok(Way { table: 201, ..UPLINK }));
        let (subject, why) = (Subject::Routes, "the rest was left out".to_owned());
        session.fact(Vantage::A, HostFact::NotMeasured { subject, why, needs: None });
    });
    let by_metric = exit_node(|session, mark| {
        session.route(PEER, B_MAPPED, mark, Ok(Way { rule: Some(5210), ..UPLINK }));
        session.asked_from("192.168.2.2");
        session.probe_route(PEER, B_MAPPED, 0, Ok(EXIT));
        session.asked_from("192.168.2.2");
    });
    let own_address = exit_node(|session, mark| {
        let to = "172.17.0.1:50000";
        session.candidate(Vantage::B, CandidateType::Host, to, to, None);
        session.route(PEER, to, mark, Ok(Way { device: "lo", gateway: None, table: 255, rule: Some(0) }));
    });
    vec![
        near("WR104", "the firewall refuses, not the route", failing(Fate::SendRefused(1), LOST, |_| {})),
        near(
            "WR105",
            "another table, the same device",
            diverted(&TUNNEL, Way { table: 200, rule: Some(100), ..UPLINK }, to_peer),
        ),
        near("WR106", "it is refused without the mark, too", everywhere),
        near(
            "WR106",
            "the mark leads into a tunnel, and without it nothing is answered either",
            astray_by(Some("wireguard"), None),
        ),
        near("WR106", "a second source leaves by another uplink, for its metric and not for the mark", by_metric),
        near("WR106", "with the mark an address of this host itself is reached by its loopback", own_address),
        near("WR107", "the servers' packets go the same way", all_in_tunnel),
        near("WR108", "the servers' packets go by the uplink", diverted(&TUNNEL, into("wg0", 254, 32_766), |_| {})),
        near("WR108", "the default route leads by an uplink that is a TAP device", by_tap(UPLINK.device)),
        near(
            "WR109",
            "they left where the kernel had said",
            diverted(&TUNNEL, UPLINK, |session| session.own_packet("eth0", A, B_MAPPED)),
        ),
        near(
            "WR109",
            "a packet to the peer arrived at another interface: it did not leave by it",
            diverted(&TUNNEL, UPLINK, |session| session.arrived_packet("wg0", A, B_MAPPED)),
        ),
        near("WR113", "a router says so, and the next hop is reachable", by_router),
        near("WR113", "its address was set by hand, and the servers answer through it", heard_by_hand),
        near(
            "WR114",
            "there is a bridge, and the route does not lead to it",
            diverted(&[("br-1", Some("bridge"))], UPLINK, |_| {}),
        ),
        near("WR115", "the source is on the device by which they leave", at_home),
        near(
            "WR115",
            "the first network's address is lost as well, and none leads on by the second",
            second_network(None, false),
        ),
        harmless("WR115", "the same, where the second has a router", second_network(Some("10.20.0.1"), false)),
        near("WR118", "peer and servers by the same uplink", same_uplink),
        near("WR125", "the main table has a default route as well", with_main),
        near("WR125", "not all routes were told: the main table's may be among the others", not_whole),
    ]
}

fn host() -> Vec<Near> {
    let counters = |name: &'static str, by: i64| lost(|session| session.counters(Vantage::A, &[(name, by)]));
    let carrier = lost(|session| {
        session.firewall("forward", "ip saddr 100.64.0.0/10 iifname != \"tailscale0\" drop", Some("drop"), 3);
        session.arrived_packet("eth0", "203.0.113.77:41641", A);
    });
    let ipv6 = |peer: bool| {
        failing(LOST, LOST, |session| {
            let (own, other) = ("[2001:db8:a::1]:40000", "[2001:db8:b::1]:40000");
            session.candidate(Vantage::A, CandidateType::Host, own, own, None);
            if peer {
                session.candidate(Vantage::B, CandidateType::Host, other, other, None);
            }
            send_failed(session, own, other, 101);
        })
    };
    let mut relay_only = Session::with_options(SessionOptions { relay_only: true, ..SessionOptions::default() });
    let (name, addresses) = ("eth0".to_owned(), vec![address(A).ip()]);
    relay_only.push(Vantage::A, EventKind::Interface { name, index: 2, addresses, used: InterfaceUse::Used });
    relay_only.push(Vantage::A, EventKind::EndOfCandidates { side: Side::Local });
    relay_only.fail(Vantage::A);
    let tallies = |plain, own| {
        lost(|session| {
            session.application(None, true);
            session.tally(false, plain);
            session.tally(true, own);
        })
    };
    let unavailable = lost(|session| {
        let (local, detail) = (address("192.168.1.2:51820"), "Cannot assign requested address".to_owned());
        session.push(Vantage::A, EventKind::SocketFailed { transport: Transport::Udp, local, errno: 99, detail });
    });
    let able = lost(|session| {
        session.application(Some(0x1BD00), true);
        session.capabilities(&["CAP_NET_RAW", "CAP_NET_ADMIN"], Some("docker"));
    });
    let own_network = lost(|session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.capabilities(&[], Some("docker"));
    });
    let mut few = direct();
    for index in 0..2 {
        few.candidate_on(Vantage::A, &format!("172.{}.0.1:40000", 20 + index), &format!("br-{index}"));
    }
    let mut neighbor = direct();
    neighbor.candidate(Vantage::B, CandidateType::Host, "172.17.0.2:50000", "172.17.0.2:50000", None);
    neighbor.link(Vantage::A, "docker0", Some("bridge"), "172.17.0.1");
    let mut tried = direct();
    tried.application(Some(0x1BD00), false);
    tried.tried("device");
    let mut unmarked = direct();
    unmarked.application_without(Some(0x1BD00), true, vec!["its mark 0x1bd00: it takes CAP_NET_ADMIN".into()]);
    let mut marked = direct();
    marked.application_without(Some(0x1BD00), true, vec!["its raw socket: it takes CAP_NET_RAW".into()]);
    marked.capabilities(&["CAP_SETUID"], None);
    let mut alike = direct();
    alike.application(Some(0x1BD00), true);
    alike.profile(true, 0x1BD00);
    alike.profile(false, 0);
    alike.tally(true, 2);
    alike.tally(false, 0);
    alike.route(PEER, B_MAPPED, 0x1BD00, Ok(UPLINK));
    alike.probe_route(PEER, B_MAPPED, 0, Ok(UPLINK));
    let netbird = |setting| lost(|session| session.software(SoftwareName::Netbird, &[setting]));
    let elsewhere = lost(|session| {
        let (name, addresses) = ("eth1".to_owned(), vec!["172.31.0.9".parse().expect("an address")]);
        session.push(Vantage::A, EventKind::Interface { name, index: 3, addresses, used: InterfaceUse::Excluded });
    });
    let firewalled = lost(|session| {
        session.arrived_packet("eth0", B_MAPPED, A);
        session.firewall("input", "udp dport 40000 drop", Some("drop"), 7);
        session.counters(Vantage::A, &[("Xfrm.XfrmInTmplMismatch", 90)]);
    });
    let checksums = failing(Fate::AnswerLost, LOST, |session| session.wrong_checksums(Vantage::A, A, B_MAPPED, false));
    // The counter is the whole host's, and other programs get packets, too.
    let of_others = lost(|session| session.counters(Vantage::B, &[("Udp.InCsumErrors", 5)]));
    // A stranger's packet, from an address that nobody told of, and one of the peer's among many, damaged on the way.
    let of_stranger = lost(|session| session.wrong_checksums(Vantage::B, "192.0.2.99:40000", B, true));
    let damaged = lost(|session| {
        let (device, source, destination) = ("eth0".to_owned(), address(A_MAPPED), address(B));
        let packet = OwnPacket { device, source, destination, packets: 7, arrived: true, wrong_checksums: 1 };
        session.fact(Vantage::B, HostFact::OwnPacket(packet));
    });
    let of_server = lost(|session| session.wrong_checksums(Vantage::A, STUN, A, true));
    // Answers to a probe that is bound to another device count, and those of other programs: nothing of the session's
    // own sockets is missing.
    let probed = lost(|session| {
        session.counters(Vantage::A, &[("TcpExt.IPReversePathFilter", 8)]);
        let (source, destination) = (address(STUN), address(A));
        let packet =
            OwnPacket { device: "eth0".into(), arrived: true, source, destination, packets: 9, wrong_checksums: 0 };
        session.fact(Vantage::A, HostFact::OwnPacket(packet));
    });
    let other_gone = lost(|session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "docker0", Some("bridge"), "172.17.0.1");
        session.gone_address(Vantage::A, "docker0", "172.17.0.1");
    });
    vec![
        harmless("WR101", "one family has no route, the other works", ipv6(true)),
        near("WR102", "relay only was asked for", relay_only),
        near("WR131", "the session has no candidate of what is gone", other_gone),
        near("WR103", "a route refuses, not the firewall", failing(Fate::SendRefused(22), LOST, |_| {})),
        near("WR129", "the counter stood still", counters("Xfrm.XfrmOutPolBlock", 0)),
        near("WR129", "another program's packets are blocked on the way out", counters("Xfrm.XfrmOutPolBlock", 90)),
        near("WR129", "another program's packets are blocked on arrival", counters("Xfrm.XfrmInTmplMismatch", 90)),
        near("WR129", "a firewall rule took the session's packets", firewalled),
        near("WR110", "the session's sockets heard all that arrived for them", probed),
        near("WR110", "the counter stood still", counters("TcpExt.IPReversePathFilter", 0)),
        near(
            "WR111",
            "the rule took nothing",
            lost(|session| session.firewall("input", "udp dport 40000 drop", Some("drop"), 0)),
        ),
        near(
            "WR112",
            "one entry is left",
            lost(|session| session.fact(Vantage::A, HostFact::ConntrackUse { entries: 262_143, max: 262_144 })),
        ),
        near("WR116", "the sender's checks arrived", checksums),
        near("WR116", "only the whole host's counter moved", of_others),
        near("WR116", "it is the server's packets that arrive so", of_server),
        near("WR116", "a stranger's packets arrive so", of_stranger),
        near("WR116", "one packet of many was damaged on its way", damaged),
        harmless("WR117", "the peer has no IPv6 and IPv4 works", ipv6(false)),
        near("WR119", "the answers leave from the address that was asked", failing(Fate::AnswerLost, LOST, |_| {})),
        near("WR120", "no address of that range is part of the session", carrier),
        near("WR121", "the container has the host's own network", own_network),
        near("WR122", "two bridges crowd nothing", few),
        near("WR123", "the capability is there", able),
        near("WR124", "the address is wrong, not the port taken", unavailable),
        near("WR126", "neither is answered", tallies(0, 0)),
        near("WR127", "a neighbor's address on the bridge's network", neighbor),
        near("WR128", "the kernel routes both alike", alike),
        near("WR130", "it is another address of this host", translated("10.0.7.7:40000")),
        near("WR801", "nobody asked for it", finished(relayed())),
        near("WR803", "it is set to false", netbird(("NB_FORCE_RELAY", "false"))),
        near("WR804", "it is set to false", netbird(("NB_LAZY_CONN", "false"))),
        near("WR805", "it is on another network than the peer", elsewhere),
        near("WR123", "the path is direct and nothing of the mark is lacking", marked),
        near("WR806", "it went without the application's mark", unmarked),
        near("WR806", "it is direct by what was tried for this session alone", tried),
        near("WR806", "the session is relayed, too", lost(|session| session.application(Some(0x1BD00), false))),
    ]
}

fn nat() -> Vec<Near> {
    let told = |mapped: &str| {
        let mut session = relayed();
        session.stun(Vantage::A, A, STUN_2, Some(mapped));
        session.stun(Vantage::B, B, STUN_2, Some(B_MAPPED));
        session
    };
    let advertised = lost(|session| session.check(Check { seen_from: A_MAPPED, ..a_checks(Fate::AnswerLost) }));
    let mapper = lost_and(
        Vantage::A,
        Measurement::PortMapper {
            protocol: PortMapperProtocol::NatPmp,
            gateway: Some(address("192.168.1.1:1").ip()),
            found: true,
            external: Some(address(A_MAPPED).ip()),
            detail: None,
        },
    );
    let mut two_nats = Session::new();
    let (here, there) = ("192.168.1.2:40000", "192.168.1.3:50000");
    for (vantage, local, mapped) in [(Vantage::A, here, A_MAPPED), (Vantage::B, there, B_MAPPED)] {
        for server in [STUN, STUN_2] {
            two_nats.stun(vantage, local, server, Some(mapped));
        }
        two_nats.candidate(vantage, CandidateType::Host, local, local, None);
        two_nats.candidate(vantage, CandidateType::ServerReflexive, mapped, local, None);
    }
    for (a, b) in [(there, here), (B_MAPPED, A_MAPPED)] {
        two_nats.check(Check { remote: a, transmissions: 7, ..a_checks(LOST) });
        two_nats.check(Check { local: there, remote: b, transmissions: 7, ..b_checks(LOST) });
    }
    two_nats.fail(Vantage::A);
    two_nats.fail(Vantage::B);
    let lives = Measurement::MappingLifetime { local: address(A).ip(), at_least_s: 240, at_most_s: None };
    let mut hears = Session::new();
    hears.candidate(Vantage::A, CandidateType::Host, A, A, None);
    for (vantage, local, mapped) in [(Vantage::A, A, A_MAPPED), (Vantage::B, B, B_MAPPED)] {
        hears.stun(vantage, local, STUN, Some(mapped));
    }
    hears.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
    hears.check(Check { transmissions: 7, ..a_checks(Fate::AnswerLost) });
    hears.fail(Vantage::A);
    hears.fail(Vantage::B);
    let kept = lost(|session| {
        let waiting = "192.168.1.2:41000";
        session.probe(ProbeAim::EarlyArrival, waiting, STUN, Some("203.0.113.1:41000"));
        session.probe(ProbeAim::EarlyArrival, waiting, B_MAPPED, Some("203.0.113.1:41000"));
    });
    let mut masquerade = told("203.0.113.1:61234");
    masquerade.firewall("postrouting", "masquerade", None, 5);
    vec![
        near("WR201", "both servers tell the same", over_relay(told(A_MAPPED))),
        near("WR201", "the peer had sent there first, and may have taken the port", seen_by_relay(true)),
        near("WR201", "the NAT keeps another port: this one is somebody else's", seen_by_peer(true)),
        near("WR202", "the peer sees the port that servers see", advertised),
        near("WR202", "a check that waited for the peer's packets keeps the port", kept),
        near("WR203", "the router's external address is the one that servers see", mapper),
        near("WR204", "the public addresses differ", two_nats),
        near("WR205", "the mapping outlives every keepalive", lost_and(Vantage::A, lives)),
        near("WR206", "another port of the same address", over_relay(told("203.0.113.1:61234"))),
        near("WR207", "no other port is known to be mapped alike", over_relay(told("203.0.113.1:61234"))),
        near("WR207", "no other port is kept either", seen_by_peer(false)),
        near("WR208", "a server's answer comes back", hears),
        near("WR209", "the host masquerades with ports in order", over_relay(masquerade)),
    ]
}

fn servers() -> Vec<Near> {
    let other_socket = failing(LOST, LOST, |session| {
        session.stun(Vantage::A, A, "192.0.2.12:3478", None);
        session.stun(Vantage::A, "192.168.1.2:41000", "192.0.2.12:3478", Some("203.0.113.1:41000"));
    });
    let mut heard = Session::new();
    heard.candidate(Vantage::A, CandidateType::Host, A, A, None);
    heard.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
    heard.stun(Vantage::A, A, STUN, None);
    heard.stun(Vantage::A, A, STUN_2, Some(A_MAPPED));
    heard.allocate_over_tls(Vantage::A, A, "192.0.2.10:443", RELAYED);
    heard.fail(Vantage::A);
    heard.fail(Vantage::B);
    let named = failing(LOST, LOST, |session| {
        let (name, addresses) = ("relay.example".to_owned(), vec![address(STUN).ip()]);
        session.push(Vantage::A, EventKind::NameResolved { name, addresses, took_us: 1000, error: None });
    });
    let third = Measurement::ThirdParty {
        local: address(A),
        remote: address("192.0.2.10:52000"),
        observed: Some(address(A_MAPPED)),
        sent: 5,
    };
    let once = failing(LOST, LOST, |session| {
        let id = session.id();
        let request = MessageBuilder::new(Class::Request, Method::BINDING, id).build();
        session.datagram(Vantage::A, Direction::Out, A, "192.0.2.12:3478", &request, None);
        let mut answer = MessageBuilder::new(Class::Success, Method::BINDING, id)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(A))
            .fingerprint()
            .build();
        answer[26] ^= 1;
        session.datagram(Vantage::A, Direction::In, A, "192.0.2.12:3478", &answer, None);
    });
    let inside =
        Measurement::ThirdParty { local: address(A), remote: address("10.9.9.9:52000"), observed: None, sent: 5 };
    let mut public = behind_nats();
    public.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, B_MAPPED);
    public.fail(Vantage::A);
    public.fail(Vantage::B);
    let unauthorized = ServerFailure::ErrorResponse { code: 401, reason: "Unauthorized".into(), expected: false };
    let refused = || ServerFailure::ConnectionFailed { detail: "connection refused".into() };
    vec![
        near("WR301", "another socket of this host gets its answer", other_socket),
        near("WR302", "one server answers over UDP", heard),
        near("WR302", "it is one server, silent for both sides", silent_for_both(false)),
        near("WR303", "the name was resolved", named),
        near("WR304", "a third party saw what was sent", lost_and(Vantage::A, third)),
        near("WR304", "packets come from the relayed port, and none gets in", relay_to_relay(true)),
        near("WR304", "nobody reaches a relay at a private address", lost_and(Vantage::A, inside)),
        near("WR305", "one damaged answer may be chance", once),
        near("WR401", "the first 401 belongs to every allocation", over_relay(relayed())),
        near(
            "WR402",
            "the credentials are missing, the server was not asked",
            server_failed("turn:relay.example", ServerFailure::NoCredentials),
        ),
        near("WR403", "a stale nonce is renewed", refused_with(Method::CREATE_PERMISSION, "alice", 438)),
        near("WR404", "the relayed address is public", public),
        near("WR405", "a challenge is no refusal", refused_with(Method::ALLOCATE, "alice", 401)),
        near("WR406", "there were credentials, and they are wrong", server_failed("turn:relay.example", unauthorized)),
        near("WR407", "the relay carries checks", over_relay(relayed())),
        near("WR407", "both networks may be closed as well", relay_to_relay(false)),
        near("WR409", "nobody listens: TLS never began", server_failed("turns:relay.example", refused())),
        near("WR410", "they end in the future", refused_with(Method::ALLOCATE, "9999999999:alice", 401)),
    ]
}

fn checks() -> Vec<Near> {
    let unanswered = lost(|session| {
        session.check(Check { remote: "192.168.1.77:50000", transmissions: 3, ..a_checks(LOST) });
    });
    let named = failing(LOST, LOST, |session| {
        let line = "candidate:1 1 udp 2122260223 8b7f3a0e.local 50000 typ host".to_owned();
        let reason = RefuseReason::Unresolved { detail: "no such name".into() };
        session.push(Vantage::A, EventKind::RemoteCandidateRefused { line, reason });
    });
    let peer = address(B_MAPPED).ip().to_string();
    let closed = lost(|session| icmp(session, Vantage::A, B_MAPPED, &peer, 3, 3));
    // The peer's host has another address, of which it told.
    let closed_at_its_other = lost(|session| {
        let other = "198.51.100.77:50000";
        session.candidate(Vantage::B, CandidateType::ServerReflexive, other, B, None);
        icmp(session, Vantage::A, B_MAPPED, "198.51.100.77", 3, 3);
    });
    let mut cut = Session::new();
    cut.candidate(Vantage::A, CandidateType::Host, A, A, None);
    cut.candidate(Vantage::B, CandidateType::Host, B, B, None);
    cut.check(Check { remote: B, ..a_checks(LOST) });
    let private = lost(|session| {
        session.check(Check { remote: B, transmissions: 7, ..a_checks(LOST) });
        icmp(session, Vantage::A, B, "203.0.113.254", 3, 0);
    });
    let sound = failing(LOST, LOST, |session| {
        let id = session.id();
        let request = MessageBuilder::new(Class::Request, Method::BINDING, id)
            .text(AttributeType::USERNAME, "bbbb:aaaa")
            .u32(AttributeType::PRIORITY, 1)
            .build();
        session.datagram(Vantage::B, Direction::In, B, A_MAPPED, &request, Some(Integrity::Valid));
    });
    let by_proxy = lost(|session| {
        let (local, seen_from) = ("192.168.1.2:40007", "10.0.0.2:50690");
        session.check(Check { local, seen_from, ..a_checks(Fate::AnswerLost) });
    });
    vec![
        near("WR501", "they arrive, and the answers are lost", failing(Fate::AnswerLost, Fate::AnswerLost, |_| {})),
        near("WR502", "they are answered with an error", failing(Fate::Error(400), Fate::Error(400), |_| {})),
        near("WR503", "they never arrive", failing(LOST, LOST, |_| {})),
        near("WR504", "a proxy on the peer's own host passes them on", by_proxy),
        near("WR504", "the peer sees what was advertised", failing(Fate::AnswerLost, LOST, |_| {})),
        near("WR505", "both recordings are there", failing(LOST, LOST, |_| {})),
        near("WR507", "the integrity is right", sound),
        near("WR508", "both have public addresses", failing(LOST, LOST, |_| {})),
        near("WR508", "the recording was cut before more candidates came", cut),
        near("WR509", "they are not answered at all", failing(Fate::Ignored, Fate::Ignored, |_| {})),
        near("WR510", "the answer came before the agent gave up", failing(Fate::Answered, LOST, |_| {})),
        near("WR511", "nobody answers there", unanswered),
        harmless("WR512", "the peer has another candidate", named),
        near("WR513", "the peer says that the port is closed: that is no router's refusal", closed),
        near("WR513", "the peer says so from another of its addresses", closed_at_its_other),
        near("WR513", "a provider refuses a private address of the peer", private),
    ]
}

fn session() -> Vec<Near> {
    let state = |session: &mut Session, vantage, state| {
        session.push(vantage, EventKind::Signaling { server: "http://192.0.2.1:8080".into(), state });
    };
    let connected_by = || SignalingState::Connected { by: "websocket".into(), seen_as: None };
    let mut again = Session::new();
    again.events.retain(|event| !matches!(&event.kind, EventKind::Description { side: Side::Remote, .. }));
    state(&mut again, Vantage::A, SignalingState::Failed { detail: "connection refused".into() });
    state(&mut again, Vantage::A, connected_by());
    again.end(Vantage::A, EndReason::Failed);
    let mut met = Session::new();
    state(&mut met, Vantage::B, connected_by());
    met.end(Vantage::B, EndReason::TimeLimit);
    let unknown = failing(LOST, LOST, |session| {
        let line = "candidate:1 1 udp 1 8b7f3a0e.local 5 typ host".to_owned();
        let reason = RefuseReason::Unresolved { detail: "no such name".into() };
        session.push(Vantage::A, EventKind::RemoteCandidateRefused { line, reason });
    });
    let mut in_order = connected();
    state(&mut in_order, Vantage::A, SignalingState::PeerLeft);
    in_order.end(Vantage::B, EndReason::Finished);
    in_order.end(Vantage::A, EndReason::PeerLeft);
    let mut in_time = Session::new();
    in_time.candidate(Vantage::A, CandidateType::Host, A, A, None);
    in_time.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
    in_time.fail(Vantage::A);
    in_time.fail(Vantage::B);
    let mut small = connected();
    small.datagram(Vantage::A, Direction::Out, A, B_MAPPED, &[22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], None);
    small.push(Vantage::A, EventKind::Dtls { state: DtlsState::Failed { detail: "timed out".into() } });
    small.end(Vantage::A, EndReason::Failed);
    small.end(Vantage::B, EndReason::PeerLeft);
    let mut closed = connected();
    icmp(&mut closed, Vantage::A, B_MAPPED, "203.0.113.254", 3, 3);
    let (local, remote) = (address(A), address(B_MAPPED));
    let shape = Measurement::PacketShape {
        local,
        remote,
        shaped_sent: 5,
        shaped_arrived: 0,
        random_sent: 5,
        random_arrived: 0,
    };
    let clock = Measurement::Clock { server: "https://example".into(), offset_ms: 900, precision_ms: 500 };
    let mut recovered = connected();
    let (from, to, reason) = (IceState::Completed, IceState::Disconnected, IceStateReason::ConsentExpired);
    recovered.push(Vantage::A, EventKind::IceStateChanged { from, to, reason });
    let mut with_relay = relayed();
    with_relay.fail(Vantage::A);
    with_relay.fail(Vantage::B);
    vec![
        near("WR411", "the server answers after the path broke", broken_relay(Some(A_MAPPED))),
        near("WR506", "the path came back", finished(recovered)),
        near("WR601", "the certificate is the announced one", finished(connected())),
        near("WR602", "the handshake was never begun", failing(LOST, LOST, |_| {})),
        near("WR603", "small records are lost as well", small),
        near("WR604", "the port is closed, no packet is too large", finished(closed)),
        near("WR605", "random packets are lost as well", lost_and(Vantage::A, shape)),
        near("WR701", "it was connected again", again),
        near("WR702", "its description came", met),
        near("WR703", "a candidate came", failing(LOST, LOST, |_| {})),
        near("WR704", "a name cannot be resolved: the line can be read", unknown),
        near("WR705", "it had finished before it left", in_order),
        near("WR706", "they came before the agent gave up", in_time),
        near("WR707", "less than a second", lost_and(Vantage::A, clock)),
        near("WR802", "there was a relay", with_relay),
    ]
}
