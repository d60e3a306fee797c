//! A drawing shows all that makes a network another than a plain one.

use std::collections::BTreeMap;

use whyrelay_lab::draw::{svg, text};
use whyrelay_lab::scenario::file::Expect;
use whyrelay_lab::scenario::{Scenario, Topology};

fn parse(text: &str) -> Topology {
    Scenario::parse("test", text).unwrap_or_else(|error| panic!("{error}\n{text}")).topology
}

/// A network without what is no part of it: names for people, and what must come out.
fn bare(topology: &Topology) -> Topology {
    Topology {
        name: String::new(),
        title: String::new(),
        about: None,
        worlds: Vec::new(),
        seed: 0,
        expect: Expect::default(),
        ..topology.clone()
    }
}

#[test]
fn no_two_scenarios_with_different_networks_have_one_drawing() {
    let mut drawings: BTreeMap<String, (String, Topology)> = BTreeMap::new();
    let mut pictures: BTreeMap<String, String> = BTreeMap::new();
    for (name, source) in Scenario::embedded() {
        let Scenario { topology, .. } = Scenario::parse(name, source).unwrap_or_else(|error| panic!("{error}"));
        let network = bare(&topology);
        if let Some((other, same)) = drawings.insert(text(&network), (topology.name.clone(), network.clone())) {
            assert!(same == network, "{name} and {other} have one drawing:\n{}", text(&network));
        } else if let Some(other) = pictures.insert(svg(&network), topology.name.clone()) {
            panic!("{name} and {other} have one picture");
        }
    }
    assert!(drawings.len() > 100, "only {} drawings", drawings.len());
}

/// Each key changes the text and the picture, and is said.
#[test]
fn every_key_of_a_network_is_drawn() {
    const ROUTER: &str = "[router.r]\n";
    const RULE: &str = "[[host.a.rule]]\npriority = 5\ntable = 200\n";
    const ROUTE: &str = "[[host.a.route]]\nto = \"peer\"\ndev = \"eth0\"\n";
    const FILTER: &str = "[[host.a.firewall]]\nhook = \"output\"\nverdict = \"drop\"\n";
    const UPLINK: &str = "[[host.a.interface]]\nname = \"eth1\"\n";
    const SESSION: &str = "[host.a.session]\n";
    const SERVER: &str = "[server]\n";
    for (base, key, words) in [
        ("", UPLINK, "eth1 of host a"),
        (UPLINK, "default-metric = 7", "default metric 7"),
        (UPLINK, "kind = \"tunnel\"", "eth1 tunnel"),
        (UPLINK, "kind = \"bridge\"", "leads nowhere"),
        (UPLINK, "link = { delay = \"9ms\" }", "eth1 link: 9 ms"),
        ("", RULE, "rule 5: -> 200"),
        (RULE, "not = true", "not"),
        (RULE, "from = \"10.1.0.0/16\"", "from 10.1.0.0/16"),
        (RULE, "to = \"peer\"", "to 203.0.113.110/32"),
        (RULE, "fwmark = \"0x1/0x1\"", "fwmark 0x1/0x1"),
        (RULE, "oif = \"eth0\"", "oif eth0"),
        (RULE, "iif = \"lo\"", "iif lo"),
        (RULE, "ipproto = \"udp\"", "udp"),
        (RULE, "sport = \"7\"", "sport 7"),
        (RULE, "dport = \"7-9\"", "dport 7-9"),
        (RULE, "uidrange = \"0-5\"", "uid 0-5"),
        (RULE, "action = \"prohibit\"", "-> prohibit"),
        (RULE, "action = \"blackhole\"", "-> blackhole"),
        (RULE, "action = \"unreachable\"", "-> unreachable"),
        (RULE, "suppress-prefixlength = 0", "without prefixes up to 0"),
        ("", ROUTE, "route 203.0.113.110/32 dev eth0"),
        (ROUTE, "via = \"gateway\"", "via 192.168.10.1"),
        (ROUTE, "src = \"192.168.10.2\"", "src 192.168.10.2"),
        (ROUTE, "table = 200", "table 200"),
        (ROUTE, "metric = 3", "metric 3"),
        (ROUTE, "mtu = 1300", "mtu 1300"),
        (ROUTE, "kind = \"blackhole\"", "blackhole 203.0.113.110/32"),
        (ROUTE, "kind = \"unreachable\"", "unreachable 203"),
        (ROUTE, "kind = \"prohibit\"", "prohibit 203"),
        (ROUTE, "kind = \"throw\"", "throw 203"),
        ("", FILTER, "nft output: -> drop"),
        (FILTER, "fwmark = \"0x1\"", "mark 0x1"),
        (FILTER, "ipproto = \"tcp\"", "tcp"),
        (FILTER, "from = \"10.1.0.0/16\"", "from 10.1.0.0/16"),
        (FILTER, "to = \"server\"", "to 198.51.100.1/32"),
        (FILTER, "sport = \"7\"", "sport 7"),
        (FILTER, "dport = \"7\"", "dport 7"),
        (FILTER, "dev = \"eth0\"", "dev eth0"),
        (FILTER, "unsolicited = true", "unsolicited"),
        ("", "[[host.a.firewall]]\nhook = \"input\"\nverdict = \"reject\"\n", "nft input: -> reject"),
        ("", "[[host.a.firewall]]\nhook = \"prerouting\"\nverdict = \"accept\"\n", "nft prerouting: -> accept"),
        ("", "[[host.a.firewall]]\nhook = \"output\"\nverdict = \"set-mark\"\nmark = \"0x7\"\n", "-> mark 0x7"),
        ("", "[host.a.sysctl]\nrp_filter = 1\n", "net.ipv4.conf.all.rp_filter = 1"),
        (SESSION, "port = 5", "session: port 5"),
        (SESSION, "mark = \"0x1bd00\"", "mark 0x1bd00"),
        (SESSION, "uid = 33", "uid 33"),
        (SESSION, "relay-only = true", "relay only"),
        (SESSION, "no-turn = true", "no TURN"),
        (SESSION, "patient = true", "patient"),
        (SESSION, "map-port = true", "asks for a port mapping"),
        (SESSION, "silence = \"4s\"", "silent for 4s"),
        (SESSION, "starts = \"2s\"", "starts after 2s"),
        (ROUTER, "inside = \"10.9.0.0/24\"", "10.9.0.0/24"),
        (ROUTER, "translate = \"one-to-one\"", "1:1"),
        (ROUTER, "translate = \"nothing\"", "no translation"),
        (ROUTER, "mapping = \"address-dependent\"", "maps address-dependent"),
        (ROUTER, "filtering = \"address-dependent\"", "filters address-dependent"),
        (ROUTER, "ports = \"random\"", "random ports"),
        (ROUTER, "ports = \"sequential\"", "one port after the other"),
        (ROUTER, "ports = \"hash\"", "ports by hash"),
        (ROUTER, "ports = { contiguous = { block = 64 } }", "blocks of 64 ports"),
        (ROUTER, "overloading = false", "hosts share no port"),
        (ROUTER, "addresses = 2", "203.0.113.10, 203.0.113.11"),
        (ROUTER, "pooling = \"arbitrary\"", "any of its addresses"),
        (ROUTER, "lifetime = \"3s\"", "forgets after 3s"),
        (ROUTER, "translate = \"nothing\"\nlifetime = \"3s\"", "forgets after 3s"),
        (ROUTER, "refresh = \"outbound\"", "only what goes out keeps a mapping"),
        (ROUTER, "hairpinning = \"external-source\"", "hairpins"),
        (ROUTER, "hairpinning = \"internal-source\"", "hairpins with the inside source"),
        (ROUTER, "unsolicited = \"tracked\"", "an early packet takes the port"),
        (ROUTER, "ipv6 = \"none\"", "no IPv6"),
        (ROUTER, "ipv6 = \"no-route\"", "IPv6 addresses without a route"),
        (ROUTER, "ipv6 = \"open\"", "lets all IPv6 in"),
        (ROUTER, "block-udp = true", "lets no UDP out"),
        (ROUTER, "allow-udp = [\"3478\"]", "lets UDP out to 3478 only"),
        (ROUTER, "allow-tcp = [\"443\", \"3478-3479\"]", "lets TCP out to 443, 3478-3479 only"),
        (ROUTER, "allow-tcp = []", "lets no TCP out"),
        (ROUTER, "reject = true", "refuses what it does not let out"),
        (ROUTER, "stateless-inbound = [\"7\"]", "stateless: UDP in to 7 only"),
        (ROUTER, "isolated = true", "hosts inside do not reach each other"),
        (
            ROUTER,
            "[[router.r.forward]]\nport = 7\nto = \"a\"\nto-port = 8",
            "forwards 203.0.113.10:7 to 192.168.10.2:8",
        ),
        (ROUTER, "port-mapping = [\"upnp\", \"nat-pmp\", \"pcp\"]", "maps ports by UPnP, NAT-PMP, PCP"),
        (ROUTER, "alg = \"stun\"", "rewrites addresses in STUN"),
        (ROUTER, "alg = \"addresses\"", "rewrites addresses in UDP"),
        (ROUTER, "icmp = false", "sends no ICMP errors"),
        (ROUTER, "link = { delay = \"7ms\", jitter = \"2ms\" }", "link: 7 ms, up to 2ms more"),
        (ROUTER, "link = { loss = 2.5, reorder = 1.0, duplicate = 3.0 }", "2.5 % lost, 1 % overtaken, 3 % twice"),
        (
            ROUTER,
            "link = { burst = { bad = 5.0, length = 8.0, loss = 50.0 } }",
            "5 % bad in bursts of 8 packets that lose 50 %",
        ),
        (ROUTER, "link = { rate = \"64kbit\", mtu = 1400 }", "64kbit, MTU 1400"),
        (SERVER, "answers = false", "answers nothing"),
        (SERVER, "turn = false", "no TURN"),
        (SERVER, "udp = false", "no UDP"),
        (SERVER, "tcp = false", "no TURN over TCP"),
        (SERVER, "relay-address = \"10.0.0.1\"", "announces the wrong relayed address 10.0.0.1"),
        (SERVER, "credentials = \"wrong\"", "password is wrong"),
        (SERVER, "credentials = \"expired\"", "credentials have expired"),
        (SERVER, "credentials = \"missing\"", "have no credentials"),
        (SERVER, "relay-ports-closed = true", "relayed ports closed"),
        (SERVER, "certificate = \"good\"", "TURN over TLS"),
        (SERVER, "certificate = \"self-signed\"", "self-signed"),
        (SERVER, "certificate = \"expired\"", "expired certificate"),
        (SERVER, "certificate = \"wrong-name\"", "another name"),
        (SERVER, "answers-after = \"1s\"", "answers after 1s"),
        (SERVER, "link = { delay = \"90ms\" }", "link: 90 ms"),
        ("", "[signaling.a]\ndelay = \"1s\"", "signaling from a to b: takes 1s"),
        ("", "[signaling.b]\ncandidates-delay = \"1s\"", "signaling from b to a: candidates 1s later"),
        ("", "[signaling.a]\nlose-candidates = true", "loses candidates"),
        ("", "[signaling.a]\nlose-all = true", "loses everything"),
    ] {
        let file = |piece: &str| {
            let router = if piece.contains(ROUTER) { "" } else { ROUTER };
            format!("title = \"t\"\n[host.b]\n{router}[host.a]\nbehind = \"r\"\n{piece}\n[expect]\npath = \"direct\"\n")
        };
        let (plain, drawn) = (parse(&file(base)), parse(&file(&format!("{base}{key}"))));
        assert_ne!(text(&drawn), text(&plain), "{base}{key}");
        assert_ne!(svg(&drawn), svg(&plain), "{base}{key}");
        assert!(text(&drawn).contains(words), "{words:?} is not in:\n{}", text(&drawn));
        assert!(!text(&plain).contains(words) || base.is_empty() && key.is_empty(), "{words:?} was there before {key}");
    }
    for (piece, words) in [
        ("conntrack-full = true", "its table of connections is full"),
        ("silent-neighbor = [\"gateway\"]", "no ARP from 192.168.10.1"),
        ("ipv6 = true", "2001:db8:100::103"),
        ("link = { mtu = 1280 }", "eth0 link: MTU 1280"),
    ] {
        let drawn = parse(&format!(
            "title = \"t\"\n[host.b]\n[host.a]\nbehind = \"home-router\"\n{piece}\n[expect]\npath = \"direct\"\n"
        ));
        assert!(text(&drawn).contains(words), "{words:?} is not in:\n{}", text(&drawn));
    }
}

#[test]
fn a_host_with_two_uplinks_is_one_box_and_its_second_interface_another() {
    let drawn = parse(
        "title = \"t\"\n[host.a]\nbehind = \"home-router\"\n[[host.a.interface]]\nname = \"eth1\"\n\
         behind = \"mobile-carrier\"\n[host.b]\n[expect]\npath = \"direct\"\n",
    );
    let picture = text(&drawn);
    assert_eq!(picture.matches("-- host a").count(), 1, "{picture}");
    assert_eq!(picture.matches("-- eth1 of host a").count(), 1, "{picture}");
    let picture = svg(&drawn);
    assert_eq!(picture.matches("class=\"same\"").count(), 1, "{picture}");
    assert_eq!(picture.matches("class=\"uplink\"").count(), 1, "{picture}");
}

/// No file can say one; a program may.
#[test]
fn a_title_moves_no_cursor() {
    let mut drawn = parse("title = \"t\"\n[host.a]\n[host.b]\n[expect]\npath = \"direct\"\n");
    drawn.title = "\u{1b}[31mred".to_owned();
    assert!(!text(&drawn).contains('\u{1b}') && !svg(&drawn).contains('\u{1b}'));
}
