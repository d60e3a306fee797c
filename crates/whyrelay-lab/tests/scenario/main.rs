//! Scenario files: what is read, what is refused and how, and that the schema in docs is that of the code.

mod accuracy;
mod drawings;
mod fuzz;
mod keys;
mod kinds;
mod worlds;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use whyrelay_lab::scenario::topology::Host;
use whyrelay_lab::scenario::{PRESETS, Scenario, schema};

fn error(text: &str) -> String {
    let error = Scenario::parse("test", text).expect_err("this is no scenario");
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error} {source}")
}

const ENDS: &str = "\n[expect]\npath = \"direct\"\n";

#[test]
fn every_scenario_in_the_program_is_a_file_and_resolves_the_same_after_being_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let files = Scenario::files(&directory).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(files.len(), Scenario::embedded().len());
    for file in files {
        let scenario = Scenario::read(&file).unwrap_or_else(|error| panic!("{error}"));
        let written = scenario.to_toml().unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
        let again = Scenario::parse(&scenario.name, &written);
        let again = again.unwrap_or_else(|error| panic!("{}: {error}\n{written}", scenario.name));
        assert_eq!(again, scenario);
        assert_eq!(Scenario::find(&scenario.name).ok().as_ref(), Some(&scenario));
    }
}

#[test]
fn every_preset_makes_a_network() {
    for preset in PRESETS {
        let text = format!("title = \"t\"\n[host.a]\nbehind = {:?}\n[host.b]\n{ENDS}", preset.name);
        let scenario = Scenario::parse("preset", &text).unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        assert_eq!(scenario.topology.routers.len(), 1);
        assert!(!scenario.topology.hosts[0].interfaces[0].addresses.is_empty());
    }
}

#[test]
fn what_is_wrong_is_named_with_its_key_and_a_way_out() {
    for (text, parts) in [
        ("title = \"t\"\nfoo = 1", &["unknown field `foo`", "hint: docs/scenarios.md"][..]),
        ("about = \"t\"", &["missing field `title`", "hint: begin the file with title ="]),
        ("title = \"t\"\n[host.a]\nbehnd = \"home-router\"", &["unknown field `behnd`", "hint: did you mean behind?"]),
        ("title = \"t\"\n[host.a]\nconntrack_full = true", &["hint: did you mean conntrack-full?"]),
        ("title = \"t\"\n[router.r]\nipv6 = \"statefull\"", &["unknown variant", "hint: did you mean stateful?"]),
        ("title = \"t\"\n[host.a]\nlink = { delay = 5 }", &["integer `5`, expected text. A duration: 20ms"]),
        ("title = \"t\"\n[host.a]", &["host.b", "[host.b]"][..]),
        ("title = \"t\"\n[host.a]\nbehind = \"castle\"\n[host.b]", &["host.a.behind", "castle", "home-router"]),
        ("title = \"t\"\n[host.a]\n[host.b]\n[router.r]\noutside = \"x\"", &["router.r.outside", "no router \"x\""]),
        (
            "title = \"t\"\n[host.a]\n[host.b]\n[router.r]\noutside = \"s\"\n[router.s]\noutside = \"r\"",
            &["router.r.outside", "circle"],
        ),
        ("title = \"t\"\n[host.a]\nlink = { delay = \"5\" }\n[host.b]", &["\"5\" is no duration", "20ms"]),
        ("title = \"t\"\n[host.a]\nlink = { loss = 101.0 }\n[host.b]", &["host.a.link.loss", "percentage"]),
        ("title = \"t\"\n[host.a]\n[[host.a.rule]]\npriority = 1\n[host.b]", &["host.a.rule[0].table", "action"]),
        ("title = \"t\"\n[host.a]\n[host.b]\n[server]\ntls-port = 443", &["server.tls-port", "certificate = \"good\""]),
        (
            "title = \"t\"\n[host.a]\n[[host.a.route]]\nto = \"nowhere\"\ndev = \"eth0\"\n[host.b]",
            &["host.a.route[0].to", "peer"],
        ),
        (
            "title = \"t\"\n[host.a]\n[[host.a.route]]\nto = \"peer\"\ndev = \"eth0\"\nmtu = 500\n[host.b]",
            &["host.a.route[0].mtu", "576"],
        ),
        (
            "title = \"t\"\n[host.a]\n[[host.a.route]]\nto = \"default\"\ndev = \"wg0\"\n[host.b]",
            &["host.a.route[0].dev", "eth0"],
        ),
    ] {
        let said = error(&format!("{text}{ENDS}"));
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
}

/// Else a kernel would say so in its own words, two would have one address, or it would be changed without a word.
#[test]
fn what_cannot_be_is_refused_by_its_key() {
    let many = |number: usize| (0..number).map(|n| format!("[host.h{n}]\nbehind = \"r\"\n")).collect::<String>();
    let overfull = format!("[router.r]\ninside = \"10.0.0.0/29\"\n{}", many(6));
    let full = format!("[router.r]\ninside = \"10.0.0.0/29\"\n{}", many(5));
    let mut crowded: String = (0..4).map(|n| format!("[router.r{n}]\naddresses = 32\n")).collect();
    for n in 0..4 {
        crowded += &format!("[[host.a.interface]]\nname = \"x{n}\"\nbehind = \"r{n}\"\n");
    }
    let forwards = |second: &str| {
        format!("[router.r]\n[[router.r.forward]]\nport = 40000\nto = \"x\"\n{second}[host.x]\nbehind = \"r\"\n")
    };
    let doubling: String = (0..5)
        .map(|n| {
            let outside = if n == 0 { "internet".to_owned() } else { format!("d{}", n - 1) };
            format!("[router.d{n}]\noutside = \"{outside}\"\nlink = {{ duplicate = 100 }}\n")
        })
        .collect();
    let doubling = format!("behind = \"d4\"\n{doubling}");
    let route = |keys: &str| format!("[[host.a.route]]\nto = \"peer\"\ndev = \"eth0\"\n{keys}");
    for (piece, parts) in [
        ("[router.x]\n[host.x]\n", &["host.x", "router has this name"][..]),
        (
            "[router.cloud]\nlink.delay = \"1ms\"\n[host.c]\nbehind = \"cloud\"\n",
            &["router.cloud.preset", "a preset has this name", "preset = \"cloud\"", "\"plain\""],
        ),
        (
            "[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\nbehind = \"vpn-exit\"\naddress = [\"10.8.0.2/24\"]\n",
            &[
                "host.a.interface[0].address: wg0 is in 192.168.10.0/24, and 10.8.0.2 is no host's",
                "leave `address` out",
            ],
        ),
        (
            "[[host.a.interface]]\nname = \"x\"\nbehind = \"pfsense\"\naddress = [\"192.168.10.1/24\"]\n",
            &["router.a-pfsense has its address 192.168.10.1, too", "give it another `address`"],
        ),
        ("[router.r]\naddresses = 5000\n", &["router.r.addresses", "1 to 32"]),
        ("[router.r]\naddresses = -1\n", &["integer `-1`, expected a whole number from 0 to 4294967295"]),
        ("[host.a.session]\nport = 70000\n", &["integer `70000`, expected a whole number from 0 to 65535"]),
        ("[router.r]\ninside = \"192.168.1.7/24\"\n", &["router.r.inside: 192.168.1.7/24", "192.168.1.0/24"]),
        ("behind = 7\n", &["integer `7`, expected a name or several"]),
        ("session = { relay-only = true, no-turn = true }\n", &["host.a.session.no-turn", "one of the two"]),
        ("[host.a.link]\nrate = \"0bit\"\n", &["\"0bit\" lets nothing pass", "loss = 100.0"]),
        ("[router.r]\nlifetime = \"99999999s\"\n", &["\"99999999s\" is too long", "1440min"]),
        ("[router.r]\n", &["router.r: nobody is behind this router", "behind = \"r\"", "outside = \"r\""]),
        (
            "behind = [\"fritz\", \"carrier\"]\n[router.fritz]\n[router.carrier]\n",
            &["host.a.behind", "outside = \"carrier\" in [router.fritz]", "behind = \"fritz\" here"],
        ),
        (
            "behind = [\"docker-bridge\", \"fritz\", \"cloud\"]\n[router.fritz]\n",
            &["outside = \"cloud\" in [router.fritz]", "behind = [\"docker-bridge\", \"fritz\"] here"],
        ),
        ("[host.y]\nbehind = \"home-router\"\n[host.y-home-router]\n", &["host.y-home-router", "router"]),
        (&doubling, &["host.a", "of one up to 32 arrive", "`duplicate`"]),
        ("link.burst = { bad = 90, length = 1 }\n", &["host.a.link.burst.length", "write 9 or more, or bad = 50"]),
        ("link.burst = { bad = 99.5, length = 500 }\n", &["host.a.link.burst.bad", "99 or less"]),
        ("link.burst = { bad = 5, length = 2e6 }\n", &["host.a.link.burst.length", "1 to 1000000"]),
        ("link.burst = { bad = 5, length = nan }\n", &["host.a.link.burst.length", "1 to 1000000"]),
        ("link.burst = { bad = 5, length = 0.5 }\n", &["host.a.link.burst.length", "1 to 1000000"]),
        ("link.burst = { bad = 0.01, length = 1e6 }\n", &["host.a.link.burst.bad", "shorter"]),
        (
            &route("dev = \"lo\"\n").replacen("dev = \"eth0\"\n", "", 1),
            &["host.a.route[0].dev", "no route leads out of lo"],
        ),
        (
            "[[host.a.route]]\nto = \"default6\"\ndev = \"eth1\"\nvia = \"gateway\"\n\
             [[host.a.interface]]\nname = \"eth1\"\nbehind = \"docker-bridge\"\n",
            &["host.a.route[0].via", "nobody is a gateway of eth1 to ::/0"],
        ),
        (
            "[[host.a.rule]]\npriority = 5\ntable = 9\nfrom = \"address-of eth0\"\nto = \"default6\"\n",
            &["host.a.rule[0].from", "eth0 has no address of the family of ::/0"],
        ),
        (&overfull, &["no address is left", "10.0.0.0/29", "inside"]),
        (&crowded, &["router.r", "203.0.113.110", "addresses"]),
        ("[router.r]\naddresses = 0\n", &["router.r.addresses", "1 to 32"]),
        ("[router.r]\naddresses = 200\n", &["router.r.addresses", "1 to 32"]),
        ("[router.r]\nallow-udp = [\"99999\"]\n", &["router.r.allow-udp", "65535"]),
        ("[router.r]\nallow-tcp = [\"1-70000\"]\n", &["router.r.allow-tcp", "65535"]),
        ("[router.r]\nstateless-inbound = [\"65536\"]\n", &["router.r.stateless-inbound", "65535"]),
        (
            "[[host.a.rule]]\npriority = 5\ntable = 200\nsport = \"32768-65535\"\n",
            &["host.a.rule[0].sport", "from 1 to 65534", "write 32768-65534"],
        ),
        (
            "[[host.a.rule]]\npriority = 5\ntable = 200\ndport = \"0-1023\"\n",
            &["host.a.rule[0].dport", "from 1 to 65534", "write 1-1023"],
        ),
        (
            "[[host.a.rule]]\npriority = 5\ntable = 200\nsport = \"0\"\n",
            &["host.a.rule[0].sport", "write ports from 1 to 65534"],
        ),
        (
            "[[host.a.rule]]\npriority = 5\ntable = 200\n[[host.a.rule]]\npriority = 5\ntable = 200\n",
            &["host.a.rule[1]", "already", "another priority"],
        ),
        (
            "[[host.a.rule]]\npriority = 5\ntable = 200\n\
             [[host.a.rule]]\npriority = 5\ntable = 200\nfrom = \"0.0.0.0/0\"\n",
            &["host.a.rule[1]", "already"],
        ),
        ("[[host.a.rule]]\npriority = 32766\ntable = 254\n", &["host.a.rule[0]", "already"]),
        (
            "[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\naddress = [\"10.7.0.2/24\", \"10.7.0.2/16\"]\n",
            &["host.a.interface[0].address", "10.7.0.2 is there twice", "once"],
        ),
        ("[server]\ncertificate = \"good\"\ntls-port = 0\n", &["server.tls-port", "no port 0"]),
        ("[server]\ncertificate = \"good\"\ntls-port = 3478\n", &["server.tls-port", "STUN"]),
        ("[server]\ncertificate = \"good\"\ntls-port = 8080\n", &["server.tls-port", "signaling"]),
        ("[server]\ncertificate = \"good\"\ntls-port = 55000\n", &["server.tls-port", "relayed ports", "443"]),
        ("session = { uid = 33, port = 80 }\n", &["host.a.session.port", "takes root", "1024"]),
        ("session = { uid = 33, mark = \"0x1\" }\n", &["host.a.session.mark", "takes root", "session.uid"]),
        ("[[host.a.rule]]\npriority = 5\ntable = 200\nsport = \"70000\"\n", &["host.a.rule[0].sport", "65535"]),
        (
            "[[host.a.firewall]]\nhook = \"output\"\nverdict = \"drop\"\nipproto = \"udp\"\ndport = \"70000\"\n",
            &["host.a.firewall[0].dport", "65535"],
        ),
        ("[router.r]\nports = { contiguous = { block = 0 } }\n", &["router.r.ports.contiguous.block"]),
        ("[router.r]\npreset = \"cloud\"\nmapping = \"address-dependent\"\n", &["router.r.mapping", "no NAT"]),
        ("[router.r]\ntranslate = \"nothing\"\nhairpinning = \"external-source\"\n", &["router.r.hairpinning"]),
        ("[router.r]\nblock-udp = true\nallow-udp = [\"3478\"]\n", &["router.r.allow-udp", "block-udp"]),
        ("[router.r]\npreset = \"corporate-no-udp\"\nallow-udp = [\"3478\"]\n", &["router.r.allow-udp"]),
        ("[router.r]\ninside = \"127.0.0.0/24\"\n", &["router.r.inside", "127.0.0.0/24"]),
        ("[router.r]\ninside = \"224.0.0.0/24\"\n", &["router.r.inside", "224.0.0.0/24"]),
        ("[router.r]\ninside = \"0.0.0.0/8\"\n", &["router.r.inside"]),
        ("[router.r]\ninside = \"198.51.100.0/24\"\n", &["router.r.inside", "198.51.100.0/24"]),
        ("[router.r]\ninside = \"203.0.0.0/16\"\n", &["router.r.inside"]),
        ("[router.r]\n[[router.r.forward]]\nport = 40000\nto = \"b\"\n", &["router.r.forward[0].to", "not inside"]),
        ("[router.r]\n[[router.r.forward]]\nport = 0\nto = \"a\"\n", &["router.r.forward[0]", "port 0"]),
        (
            &forwards("[[router.r.forward]]\nport = 40000\nto = \"x\"\nto-port = 5\n"),
            &["router.r.forward[1].port", "40000 leads elsewhere"],
        ),
        (&route("via = \"2001:db8::1\"\n"), &["host.a.route[0].via", "family"]),
        (&route("via = \"10.99.99.99\"\n"), &["host.a.route[0].via", "10.99.99.99 is not reached by eth0"]),
        (&route("src = \"9.9.9.9\"\n"), &["host.a.route[0].src", "9.9.9.9"]),
        (&route("table = 0\n"), &["host.a.route[0].table", "main"]),
        (&(route("") + &route("")), &["host.a.route[1]", "already"]),
        ("[[host.a.rule]]\npriority = 5\ntable = 0\n", &["host.a.rule[0].table", "254"]),
        // Keys that would change nothing.
        (
            "[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\ndefault-metric = 5\n",
            &["interface[0].default-metric", "behind"],
        ),
        (
            "[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\nipv6 = true\n",
            &["interface[0].ipv6", "leads nowhere"],
        ),
        (
            "[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\nlink.delay = \"9ms\"\n",
            &["interface[0].link", "`mtu`"],
        ),
        (
            "[[host.a.interface]]\nname = \"x\"\nkind = \"bridge\"\nbehind = \"hotel\"\n",
            &["interface[0].behind", "bridge"],
        ),
        ("[host.c]\nsession.port = 7\n", &["host.c.session", "only a and b"]),
        ("[host.c]\nwrong-checksum = [\"peer\"]\n", &["host.c.wrong-checksum", "only a and b"]),
        ("wrong-checksum = [\"nobody\"]\n", &["host.a.wrong-checksum", "nobody", "peer"]),
        ("wrong-checksum = [\"peer\"]\nsession.port = 0\n", &["host.a.wrong-checksum", "session.port"]),
        ("ipv4 = false\n", &["host.a.ipv4", "no address", "ipv6 = true"]),
        ("[router.r]\nlifetime = \"0s\"\n", &["router.r.lifetime", "30s"]),
        ("[host.a.session]\nmark = \"0x1/0x1\"\n", &["host.a.session.mark", "mask"]),
        ("[server]\ncertificate = \"good\"\ncredentials = \"wrong\"\n", &["server.credentials", "TLS"]),
        ("[server]\ncertificate = \"good\"\nrelay-address = \"10.0.0.1\"\n", &["server.relay-address", "TLS"]),
        ("[server]\ncertificate = \"good\"\nturn = false\n", &["server.turn", "TLS"]),
        ("[server]\nturn = false\ncredentials = \"wrong\"\n", &["server.credentials", "no TURN"]),
        ("[server]\nanswers = false\nanswers-after = \"1s\"\n", &["server.answers-after", "answers nothing"]),
        ("[server]\nudp = false\nudp-filtered = true\n", &["server.udp-filtered", "one of the two"]),
        ("[signaling.a]\nlose-all = true\ndelay = \"1s\"\n", &["signaling.a.delay", "leave out lose-all"]),
        ("[signaling.b]\nlose-all = true\ncandidates-delay = \"1s\"\n", &["signaling.b.candidates-delay", "lost"]),
        ("[signaling.b]\nlose-all = true\nlose-candidates = true\n", &["signaling.b.lose-candidates", "lost"]),
        (
            "[signaling.a]\nlose-candidates = true\ncandidates-delay = \"1s\"\n",
            &["signaling.a.candidates-delay", "leave out lose-candidates"],
        ),
        ("behind = \"docker-bridge\"\nipv6 = true\n", &["host.a.ipv6", "no IPv6", "stateful"]),
        (
            "[[host.a.interface]]\nname = \"eth1\"\nbehind = \"corporate\"\nipv6 = true\n",
            &["host.a.interface[0].ipv6", "no IPv6"],
        ),
        (&route("kind = \"blackhole\"\n"), &["host.a.route[0].dev", "leads nowhere"]),
        (
            "[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\n[[host.a.route]]\nto = \"peer\"\ndev = \"wg0\"\nvia = \"gateway\"\n",
            &["host.a.route[0].via", "wg0 leads nowhere"],
        ),
        ("[[host.a.rule]]\npriority = 5\ntable = 9\naction = \"prohibit\"\n", &["host.a.rule[0].table", "no table"]),
        (
            "[[host.a.rule]]\npriority = 5\ntable = 9\nfrom = \"10.0.0.0/8\"\nto = \"fd00::/8\"\n",
            &["host.a.rule[0].to", "one family"],
        ),
        (
            "[[host.a.firewall]]\nhook = \"input\"\nverdict = \"set-mark\"\nmark = \"0x1\"\n",
            &["host.a.firewall[0].verdict", "prerouting"],
        ),
        (
            "[[host.a.firewall]]\nhook = \"prerouting\"\nverdict = \"drop\"\nunsolicited = true\n",
            &["host.a.firewall[0].unsolicited", "input"],
        ),
        ("silent-neighbor = [\"10.99.0.1\"]\n", &["host.a.silent-neighbor", "no neighbor"]),
        ("[router.r]\npooling = \"arbitrary\"\n", &["router.r.pooling", "addresses"]),
        ("[router.r]\nreject = true\n", &["router.r.reject", "block-udp"]),
        ("[router.r]\ntranslate = \"nothing\"\nalg = \"stun\"\n", &["router.r.alg", "translates nothing"]),
        ("[router.r]\npreset = \"router\"\nlifetime = \"3s\"\n", &["router.r.lifetime", "remembers nothing"]),
        (
            "[router.r]\npreset = \"corporate\"\n[router.s]\noutside = \"r\"\nipv6 = \"open\"\n",
            &["router.s.ipv6", "no IPv6"],
        ),
        ("[[host.a.rule]]\npriority = 5\ntable = 9\nsuppress-prefixlength = 200\n", &["suppress-prefixlength", "128"]),
        ("[host.a.sysctl]\n\"net.ipv4.conf.nope.rp_filter\" = 1\n", &["host.a.sysctl", "nope"]),
        ("[host.a.sysctl]\nrp_filter = 9\n", &["host.a.sysctl", "9 means nothing"]),
        ("[host.a.sysctl]\n\"net.ipv4/../../kernel.x\" = 1\n", &["host.a.sysctl", "no parameter"]),
        ("[host.a.sysctl]\n\"vm.swappiness\" = 60\n", &["host.a.sysctl", "whole machine"]),
        ("[host.a.session]\nuid = 4294967295\n", &["host.a.session.uid"]),
        ("[[host.a.interface]]\nname = \"eth 1\"\n", &["host.a.interface[0].name", "eth 1"]),
        ("[[host.a.interface]]\nname = \"e\\nlink set x\"\n", &["host.a.interface[0].name"]),
        ("[[host.a.interface]]\nname = \"a/b\"\n", &["host.a.interface[0].name"]),
        ("[[host.a.interface]]\nname = \"..\"\n", &["host.a.interface[0].name"]),
        ("[[host.a.interface]]\nname = \"-j\"\n", &["host.a.interface[0].name"]),
        ("[[host.a.interface]]\nname = \"lo\"\n", &["host.a.interface[0].name", "lo are there"]),
        ("[[host.a.interface]]\nname = \"eth0\"\n", &["host.a.interface[0].name"]),
        ("[[host.a.interface]]\nname = \"x\"\n[[host.a.interface]]\nname = \"x\"\n", &["host.a.interface[1].name"]),
    ] {
        let said = error(&format!("title = \"t\"\n[host.a]\n{piece}[host.b]\n{ENDS}"));
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in: {said}\n{piece}");
        }
    }
    let plain = Scenario::parse("test", &format!("title = \"t\"\n[host.a]\nbehind = []\n[host.b]\n{ENDS}"));
    assert!(plain.is_ok_and(|it| it.topology.routers.is_empty()), "behind nothing is on the Internet");
    let fits = format!("title = \"t\"\n[host.a]\n{full}[host.b]\n{ENDS}");
    assert!(Scenario::parse("test", &fits).is_ok(), "five hosts and a router fill a /29");
    for burst in ["bad = 90, length = 9", "bad = 50, length = 1", "bad = 99, length = 99", "bad = 0, length = 1"] {
        let text = format!("title = \"t\"\n[host.a]\nlink.burst = {{ {burst} }}\n[host.b]\n{ENDS}");
        assert!(Scenario::parse("test", &text).is_ok(), "{burst}");
    }
    let said = error(&format!("title = \"\\u001b[31mred\"\n[host.a]\n[host.b]\n{ENDS}"));
    assert!(said.contains("title") && said.contains("control characters"), "{said}");
    let said = error(&format!("title = \"t\"\nworlds = [\"virtual\", \"virtual\"]\n[host.a]\n[host.b]\n{ENDS}"));
    assert!(said.contains("worlds") && said.contains("twice"), "{said}");
    let others = |count: u32| (0..count).map(|number| format!("[host.h{number}]\n")).collect::<String>();
    let text = |count| format!("title = \"t\"\n[host.a]\n[host.b]\n{}{ENDS}", others(count));
    let crowd = Scenario::parse("test", &text(55)).unwrap_or_else(|error| panic!("{error}"));
    let addresses: BTreeSet<_> = crowd.topology.hosts.iter().flat_map(Host::addresses).collect();
    assert_eq!(addresses.len(), 57, "each has one of its own");
    let said = error(&text(56));
    assert!(
        said.contains("host.h") && said.contains("no address is left") && said.contains("55 for everybody"),
        "{said}"
    );
    // Sorted first, three thousand would take minutes.
    let behind = |n: u32| format!("[router.r{n:04}]\noutside = \"r{:04}\"\n", n + 1);
    let chained = (0..2999).map(behind).collect::<String>() + "[router.r2999]\n";
    let begun = Instant::now();
    let said = error(&format!("title = \"t\"\n[host.a]\n[host.b]\n{chained}{ENDS}"));
    assert!(said.contains("router.r0200: the scenario has more than 200 routers"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let chain = vec!["home-router"; 300];
    let said = error(&format!("title = \"t\"\n[host.a]\nbehind = {chain:?}\n[host.b]\n{ENDS}"));
    assert!(said.contains("more than 200 routers"), "{said}");
}

#[test]
fn what_is_no_file_of_a_scenario_is_named_with_what_is_wanted() {
    let directory = std::env::temp_dir().join(format!("whyrelay-scenario-files-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let binary = directory.join("binary.toml");
    std::fs::write(&binary, [0x74, 0xFF, 0xFE, 0x00]).unwrap();
    let (directory, binary) = (directory.display().to_string(), binary.display().to_string());
    for (wanted, parts) in [
        (binary.as_str(), [binary.as_str(), "no text in UTF-8", "hint: a scenario is a TOML file"]),
        (&directory, [&directory, "is a directory", "hint: name a file"]),
        ("-", ["there is no scenario \"-\"", "hint: name a file", "/dev/stdin"]),
    ] {
        let said = Scenario::find(wanted).expect_err("this is no scenario").to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{wanted}: {said}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_forward_leads_to_the_interface_behind_its_router() {
    let text = "title = \"t\"\n[router.r]\n[[router.r.forward]]\nport = 7\nto = \"a\"\n[host.a]\n\
                behind = \"home-router\"\n[[host.a.interface]]\nname = \"eth1\"\nbehind = \"r\"\n[host.b]\n";
    let scenario = Scenario::parse("test", &format!("{text}{ENDS}")).unwrap_or_else(|error| panic!("{error}"));
    let eth1 = scenario.topology.hosts[0].interfaces[1].addresses[0].address;
    let router = scenario.topology.routers.iter().find(|router| router.name == "r");
    let forwards: Vec<_> = router.into_iter().flat_map(|router| &router.forwards).map(|(_, to)| to.ip()).collect();
    assert_eq!(forwards, [eth1]);
}

#[test]
fn a_finding_that_nobody_looks_for_cannot_be_expected() {
    for (expect, key) in [
        ("[[expect.finding]]\nname = \"no-such-findng\"\n", "expect.finding[0].name"),
        ("also = [\"mtu-black-hole\", \"no-such-findng\"]\n", "expect.also[1]"),
    ] {
        let said = error(&format!("title = \"t\"\n[host.a]\n[host.b]\n{ENDS}{expect}"));
        for part in [key, "no-such-findng", "whyrelay explain --list"] {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
}

#[test]
fn names_stand_for_addresses() {
    let scenario = Scenario::find("policy-rule-diverts-peer").unwrap_or_else(|error| panic!("{error}"));
    let a = &scenario.topology.hosts[0];
    assert_eq!(a.rules[0].to.map(|to| to.to_string()).as_deref(), Some("203.0.113.64/26"));
    assert_eq!(a.interfaces[1].addresses[0].to_string(), "10.66.0.2/24");
    assert_eq!(scenario.topology.server_address().to_string(), "198.51.100.1");
}

/// `UPDATE_SCHEMA=1` writes it.
#[test]
fn the_schema_in_docs_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scenario.schema.json");
    let made = serde_json::to_string_pretty(&schema()).unwrap_or_default() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &made).unwrap_or_else(|error| panic!("{error}"));
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "docs/scenario.schema.json is old: run this test with UPDATE_SCHEMA=1");
}

#[test]
fn a_gateway_and_an_interface_s_address_are_of_the_family_that_they_are_for() {
    let text = format!(
        "title = \"t\"\n[host.a]\nbehind = \"home-router\"\nipv6 = true\n\
         [[host.a.route]]\nto = \"default6\"\ndev = \"eth0\"\nvia = \"gateway\"\ntable = 200\n\
         [[host.a.route]]\nto = \"default\"\ndev = \"eth0\"\nvia = \"gateway\"\ntable = 200\n\
         [[host.a.rule]]\npriority = 5\nfrom = \"address-of eth0\"\nto = \"default6\"\ntable = 200\n\
         [[host.a.rule]]\npriority = 6\nfrom = \"address-of eth0\"\ntable = 200\n[host.b]\n{ENDS}"
    );
    let topology = Scenario::parse("test", &text).unwrap_or_else(|error| panic!("{error}")).topology;
    let host = &topology.hosts[0];
    assert_eq!(
        host.routes.iter().map(|route| route.via.map(|via| via.is_ipv6())).collect::<Vec<_>>(),
        [Some(true), Some(false)]
    );
    let sources: Vec<bool> = host.rules.iter().filter_map(|rule| Some(rule.from?.address.is_ipv6())).collect();
    assert_eq!(sources, [true, false]);
}

/// Of every kind of value that is one of a few.
#[test]
fn a_mistyped_value_is_told_with_what_may_be_there() {
    let firewall = |rest: &str| format!("[[host.a.firewall]]\n{rest}");
    let route = |rest: &str| format!("[[host.a.route]]\nto = \"peer\"\ndev = \"eth0\"\n{rest}");
    let rule = |rest: &str| format!("[[host.a.rule]]\npriority = 5\ntable = 9\n{rest}");
    for (piece, part) in [
        ("[[host.a.interface]]\nname = \"x\"\nkind = \"tunel\"\n".to_owned(), "did you mean tunnel?"),
        ("[[host.a.interface]]\nname = \"x\"\nkind = \"wifi\"\n".to_owned(), "write ethernet, tunnel or bridge"),
        ("behind = \"home-ruter\"\n".to_owned(), "did you mean home-router?"),
        ("behind = \"myruter\"\n[router.my-router]\n".to_owned(), "did you mean my-router?"),
        (firewall("hook = \"ouptut\"\nverdict = \"drop\"\n"), "did you mean output?"),
        (firewall("hook = \"forward\"\nverdict = \"drop\"\n"), "write prerouting, input or output"),
        (firewall("hook = \"output\"\nverdict = \"dropp\"\n"), "did you mean drop?"),
        (firewall("hook = \"output\"\nverdict = \"deny\"\n"), "write accept, drop, reject or set-mark"),
        (firewall("hook = \"output\"\nverdict = \"drop\"\nipproto = \"icmp\"\n"), "write udp or tcp"),
        (firewall("hook = \"output\"\nverdict = \"drop\"\nto = \"sever\"\n"), "did you mean server?"),
        (firewall("hook = \"output\"\nverdict = \"drop\"\ndev = \"eht0\"\n"), "this host has eth0"),
        (route("kind = \"blackhol\"\n"), "did you mean blackhole?"),
        (route("kind = \"local\"\n"), "write unicast, blackhole, unreachable, prohibit or throw"),
        (route("via = \"gatway\"\n"), "did you mean gateway?"),
        (rule("action = \"prohibitt\"\n"), "did you mean prohibit?"),
        (rule("action = \"goto\"\n"), "write lookup, blackhole, unreachable or prohibit"),
        (rule("ipproto = \"upd\"\n"), "write udp or tcp"),
        (rule("to = \"defaut6\"\n"), "did you mean default6?"),
        ("silent-neighbor = [\"gatewy\"]\n".to_owned(), "did you mean gateway?"),
        ("[router.r]\npreset = \"pfsens\"\n".to_owned(), "did you mean pfsense?"),
        ("[router.r]\noutside = \"rooter2\"\n[router.router2]\n".to_owned(), "did you mean router2?"),
        ("[router.r]\nports = \"randm\"\n".to_owned(), "did you mean random?"),
        ("[router.r]\nmapping = \"symmetric\"\n".to_owned(), "write endpoint-independent, address-dependent or"),
        ("[router.r]\ntranslate = \"nat66\"\n".to_owned(), "write nat, one-to-one or nothing"),
        ("[router.r]\nport-mapping = [\"upnnp\"]\n".to_owned(), "did you mean upnp?"),
        ("[router.r]\nalg = \"sip\"\n".to_owned(), "write addresses or stun"),
        ("[server]\ncredentials = \"wrongg\"\n".to_owned(), "did you mean wrong?"),
        ("[server]\ncertificate = \"bad\"\n".to_owned(), "write good, self-signed, expired or wrong-name"),
    ] {
        let said = error(&format!("title = \"t\"\n[host.a]\n{piece}[host.b]\n{ENDS}"));
        assert!(said.contains(part), "{part:?} is not in: {said}\n{piece}");
    }
    let also = "title = \"t\"\n[host.a]\n[host.b]\n[expect]\npath = \"direct\"\nalso = [\"udp-bloked\"]\n";
    assert!(error(also).contains("did you mean udp-blocked?"));
    let path = "title = \"t\"\n[host.a]\n[host.b]\n[expect]\npath = \"none\"\n";
    assert!(error(path).contains("write direct, relayed or failed"));
}
