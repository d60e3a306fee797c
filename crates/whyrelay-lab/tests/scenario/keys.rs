//! Every key of a scenario file changes something in each world that takes it, or is refused there with a word.

use std::collections::BTreeSet;

use serde_json::Value;
use whyrelay_core::host::{HostFact, Moment};
use whyrelay_core::trace::event::{Event, EventKind};
use whyrelay_core::trace::recording::encode;
use whyrelay_lab::run::{cannot_virtually, run_virtual};
use whyrelay_lab::scenario::{Scenario, Topology, schema};

const ROUTER: &str = "[router.r]\n";
const RULE: &str = "[[host.a.rule]]\npriority = 5\ntable = 200\n";
const ROUTE: &str = "[[host.a.route]]\nto = \"peer\"\ndev = \"eth0\"\n";
const FILTER: &str = "[[host.a.firewall]]\nhook = \"output\"\nverdict = \"drop\"\n";
const UPLINK: &str = "[[host.a.interface]]\nname = \"eth1\"\n";
const SESSION: &str = "[host.a.session]\n";
const SERVER: &str = "[server]\n";

/// What is there already, what is added, and what a drawing then says; nothing: it says it otherwise.
pub(crate) const KEYS: &[(&str, &str, &str)] = &[
    ("", UPLINK, "eth1 of host a"),
    (UPLINK, "default-metric = 7", "default metric 7"),
    (UPLINK, "kind = \"tunnel\"", "eth1 tunnel"),
    (UPLINK, "kind = \"bridge\"", "leads nowhere"),
    (UPLINK, "link = { delay = \"30ms\" }", "eth1 link: 30 ms"),
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
    ("", "[[host.a.rule]]\npriority = 5\naction = \"prohibit\"\n", "-> prohibit"),
    ("", "[[host.a.rule]]\npriority = 5\naction = \"blackhole\"\n", "-> blackhole"),
    ("", "[[host.a.rule]]\npriority = 5\naction = \"unreachable\"\n", "-> unreachable"),
    (RULE, "suppress-prefixlength = 0", "without prefixes up to 0"),
    ("", ROUTE, "route 203.0.113.110/32 dev eth0"),
    (ROUTE, "via = \"gateway\"", "via 192.168.10.1"),
    (ROUTE, "src = \"192.168.10.2\"", "src 192.168.10.2"),
    (ROUTE, "table = 200", "table 200"),
    (ROUTE, "metric = 3", "metric 3"),
    (ROUTE, "mtu = 1300", "mtu 1300"),
    ("", "[[host.a.route]]\nto = \"peer\"\nkind = \"blackhole\"\n", "blackhole 203.0.113.110/32"),
    ("", "[[host.a.route]]\nto = \"peer\"\nkind = \"unreachable\"\n", "unreachable 203"),
    ("", "[[host.a.route]]\nto = \"peer\"\nkind = \"prohibit\"\n", "prohibit 203"),
    ("", "[[host.a.route]]\nto = \"peer\"\nkind = \"throw\"\n", "throw 203"),
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
    ("", "[host.a]\nwrong-checksum = [\"peer\"]", "port 40000 sends with wrong checksums to 203.0.113.110/32"),
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
    ("[router.r]\naddresses = 2\n", "pooling = \"arbitrary\"", "any of its addresses"),
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
    (ROUTER, "allow-tcp = [\"443\", \"3479-3480\"]", "lets TCP out to 443, 3479-3480 only"),
    (ROUTER, "allow-tcp = []", "lets no TCP out"),
    ("[router.r]\nblock-udp = true\n", "reject = true", "refuses what it does not let out"),
    (ROUTER, "stateless-inbound = [\"7\"]", "stateless: UDP in to 7 only"),
    (ROUTER, "isolated = true", "hosts inside do not reach each other"),
    (ROUTER, "[[router.r.forward]]\nport = 7\nto = \"a\"\nto-port = 8", "forwards 203.0.113.10:7 to 192.168.10.2:8"),
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
    ("", "[host.a]\nipv4 = false\nipv6 = true", ""),
    (UPLINK, "address = [\"10.7.0.2/24\"]", "10.7.0.2"),
    ("[[host.a.interface]]\nname = \"eth1\"\n", "behind = \"home-router\"", ""),
    ("[[host.a.interface]]\nname = \"eth1\"\nbehind = \"home-router\"\n", "ipv6 = true", ""),
    ("[router.s]\npreset = \"mobile-carrier\"\n[host.c]\nbehind = \"s\"\n[router.r]\n", "outside = \"s\"", ""),
    (ROUTER, "filtering = \"endpoint-independent\"", "filters endpoint-independent"),
    (
        "[router.r]\nallow-udp = [\"3478\"]\nreject = true\n",
        "reject-with = \"port-unreachable\"",
        "calls ports unreachable",
    ),
    (SERVER, "ipv6 = false", ""),
    (SERVER, "second-address = false", ""),
    (SERVER, "udp-filtered = true", "its UDP port filtered"),
    ("[server]\ncertificate = \"good\"\n", "tls-port = 443", "serves TLS on port 443"),
    ("", "[signaling.b]\ndelay = \"1s\"", "signaling from b to a: takes 1s"),
    ("", "[signaling.a]\ncandidates-delay = \"1s\"", "signaling from a to b: candidates 1s later"),
    ("", "[signaling.b]\nlose-candidates = true", "signaling from b to a: loses candidates"),
    ("", "[signaling.b]\nlose-all = true", "signaling from b to a: loses everything"),
    ("", "[host.a]\nconntrack-full = true", "its table of connections is full"),
    ("", "[host.a]\nsilent-neighbor = [\"gateway\"]", "no ARP from 192.168.10.1"),
    ("", "[host.a]\nipv6 = true", "2001:db8:100::103"),
    ("", "[host.a]\nlink = { mtu = 1280 }", "eth0 link: MTU 1280"),
];

/// Where a key changes what happens that changes nothing in the table's plain network: what it is there (`KEY` stands for
/// it, in the router `r` unless it says otherwise), and the rest of the scenario.
const ELSEWHERE: &[(&str, &str)] = &[
    // A peer that comes from another port than it told is let in.
    (
        "filtering = \"address-dependent\"",
        "[router.r]\nKEY\n[host.a]\nbehind = \"r\"\n[host.b]\nbehind = \"pfsense\"\n",
    ),
    // Its one port serves several destinations, or one.
    (
        "overloading = false",
        "[router.r]\nmapping = \"address-and-port-dependent\"\nports = { contiguous = { block = 1 } }\nKEY\n\
         [host.a]\nbehind = \"r\"\n[host.b]\n",
    ),
    ("addresses = 2", "[router.r]\nKEY\n[host.a]\nbehind = \"r\"\n[host.b]\nbehind = \"r\"\n"),
    (
        "pooling = \"arbitrary\"",
        "[router.r]\naddresses = 2\nmapping = \"address-and-port-dependent\"\nKEY\n[host.a]\nbehind = \"r\"\n[host.b]\n",
    ),
    // What was told of a mapping is no longer so when the peer's candidates come.
    (
        "lifetime = \"3s\"",
        "[router.r]\nports = \"random\"\noverloading = false\nKEY\n[host.a]\nbehind = \"r\"\n[host.b]\nbehind = \"home-router\"\n\
         [signaling.a]\ncandidates-delay = \"6s\"\n[signaling.b]\ncandidates-delay = \"6s\"\n",
    ),
    // Checks come in, and nothing goes out that answers them, until the mapping is over or not.
    (
        "refresh = \"outbound\"",
        "[router.r]\nports = \"random\"\noverloading = false\nfiltering = \"endpoint-independent\"\nlifetime = \"2s\"\nKEY\n\
         [host.a]\nbehind = \"r\"\n[[host.a.firewall]]\nhook = \"input\"\nverdict = \"drop\"\nfrom = \"peer\"\n\
         [host.b]\n[signaling.b]\ncandidates-delay = \"3s\"\n",
    ),
    ("hairpinning = \"external-source\"", APART),
    ("hairpinning = \"internal-source\"", APART),
    ("isolated = true", "[router.r]\nKEY\n[host.a]\nbehind = \"r\"\n[host.b]\nbehind = \"r\"\n"),
    ("ipv6 = \"no-route\"", DUAL),
    ("ipv6 = \"open\"", DUAL),
    (
        "[[router.r.forward]]\nport = 7\nto = \"a\"\nto-port = 8",
        "[router.r]\nKEY\n[host.a]\nbehind = \"r\"\nsession.port = 8\n[host.b]\nbehind = \"pfsense\"\n",
    ),
    (
        "port-mapping = [\"upnp\", \"nat-pmp\", \"pcp\"]",
        "[router.r]\nKEY\n[host.a]\nbehind = \"r\"\nsession.map-port = true\n[host.b]\n",
    ),
    (RULE, ROUTED),
    ("not = true", DIVERTED),
    ("from = \"10.1.0.0/16\"", DIVERTED),
    ("to = \"peer\"", DIVERTED),
    ("fwmark = \"0x1/0x1\"", DIVERTED),
    ("oif = \"eth0\"", DIVERTED),
    ("ipproto = \"udp\"", DIVERTED),
    ("sport = \"7\"", DIVERTED),
    ("sport = \"7\"", FILTERED),
    ("dport = \"7-9\"", DIVERTED),
    ("suppress-prefixlength = 0", DIVERTED),
    (
        "uidrange = \"0-5\"",
        "[host.a]\nsession.uid = 33\n[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\n\
     [[host.a.route]]\nto = \"default\"\ndev = \"wg0\"\ntable = 200\n\
     [[host.a.rule]]\npriority = 5\ntable = 200\nKEY\n[host.b]\n",
    ),
    // What comes in is asked about by rp_filter, which is no packet of this host's own.
    (
        "iif = \"lo\"",
        "[host.a]\n[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\n[[host.a.route]]\nto = \"peer/26\"\n\
         dev = \"wg0\"\ntable = 200\n[[host.a.rule]]\npriority = 5\ntable = 200\nKEY\n\
         [host.a.sysctl]\nrp_filter = 1\n[host.b]\n",
    ),
    // Else it is that of the device.
    (
        "src = \"192.168.10.2\"",
        "[host.a]\nbehind = \"home-router\"\n[[host.a.interface]]\nname = \"eth1\"\nbehind = \"home-router\"\n\
         [[host.a.route]]\nto = \"peer\"\ndev = \"eth1\"\nvia = \"gateway\"\nKEY\n[host.b]\n",
    ),
    // The other route to the peer has a metric of 2.
    (
        "metric = 3",
        "[host.a]\nbehind = \"home-router\"\n[[host.a.route]]\nto = \"peer\"\ndev = \"eth0\"\nKEY\n\
         [[host.a.route]]\nto = \"peer\"\ndev = \"eth0\"\nvia = \"gateway\"\nmetric = 2\n[host.b]\n",
    ),
    // What goes into the tunnel is not stopped by a filter at the other device.
    (
        "dev = \"eth0\"",
        "[host.a]\nbehind = \"home-router\"\n[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\n\
         [[host.a.route]]\nto = \"peer\"\ndev = \"wg0\"\n\
         [[host.a.firewall]]\nhook = \"output\"\nverdict = \"drop\"\nKEY\n[host.b]\n",
    ),
    // What answers the peer's check is of a connection that the peer began.
    ("unsolicited = true", FILTERED),
    ("mark = \"0x1bd00\"", MARKED),
    (
        "uid = 33",
        "[host.a]\n[[host.a.rule]]\npriority = 5\nuidrange = \"33\"\naction = \"prohibit\"\n\
         [host.a.session]\nKEY\n[host.b]\n",
    ),
    ("[host.a.sysctl]\nrp_filter = 1\n", STRICT),
    ("icmp = false", "[router.r]\nlink = { mtu = 1280 }\nKEY\n[host.a]\nbehind = \"r\"\n[host.b]\n"),
    (
        "relay-ports-closed = true",
        "[host.a]\nbehind = \"pfsense\"\n[host.b]\nbehind = \"pfsense\"\nsession.no-turn = true\n[server]\nKEY\n",
    ),
];

/// A table that leads into a tunnel, and a rule that leads there.
const ROUTED: &str = "[host.a]\n[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\n\
                      [[host.a.route]]\nto = \"default\"\ndev = \"wg0\"\ntable = 200\nKEY\n[host.b]\n";
const DIVERTED: &str = "[host.a]\n[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\n\
                        [[host.a.route]]\nto = \"default\"\ndev = \"wg0\"\ntable = 200\n\
                        [[host.a.rule]]\npriority = 5\ntable = 200\nKEY\n[host.b]\n";
const FILTERED: &str = "[host.a]\n[[host.a.firewall]]\nhook = \"output\"\nverdict = \"drop\"\nKEY\n[host.b]\n";
/// A rule for marked packets; a tunnel for all others.
const MARKED: &str = "[host.a]\n[[host.a.rule]]\npriority = 5\nfwmark = \"0x1bd00\"\naction = \"prohibit\"\n\
                      [host.a.session]\nKEY\n[host.b]\n";
const STRICT: &str = "[host.a]\nsession.mark = \"0x1bd00\"\n[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\n\
                      [[host.a.route]]\nto = \"default\"\ndev = \"wg0\"\ntable = 200\n\
                      [[host.a.rule]]\npriority = 5\nfwmark = \"0x1bd00\"\nnot = true\ntable = 200\nKEY\n[host.b]\n";

/// Two guests, of whom each finds the other by the router's address only.
const APART: &str = "[router.r]\nisolated = true\nKEY\n[host.a]\nbehind = \"r\"\n[host.b]\nbehind = \"r\"\n";
const DUAL: &str =
    "[router.r]\nKEY\n[host.a]\nipv6 = true\nbehind = \"r\"\n[host.b]\nipv6 = true\nbehind = \"home-router\"\n";

/// Harmless by design: today's STUN has no plain addresses, which is what XOR-MAPPED-ADDRESS was made for (RFC 8489
/// §14.2). What it rewrites is tested where it does.
const HARMLESS: &str = "alg = \"addresses\"";

/// Behind it no host may have IPv6, which is all that it does.
const REFUSES_IPV6: &str = "ipv6 = \"none\"";

/// The table, and each key of a link at each place that has one.
fn keys() -> Vec<(String, String)> {
    let mut keys: Vec<(String, String)> =
        KEYS.iter().map(|(base, key, _)| ((*base).to_owned(), (*key).to_owned())).collect();
    for place in [
        "[host.a.link]\n",
        "[[host.a.interface]]\nname = \"eth1\"\n[host.a.interface.link]\n",
        "[router.r.link]\n",
        "[server.link]\n",
    ] {
        for key in [
            "delay = \"30ms\"",
            "jitter = \"30ms\"",
            "loss = 30.0",
            "burst = { bad = 30.0, length = 2.0 }",
            "reorder = 30.0",
            "duplicate = 30.0",
            "rate = \"100kbit\"",
            "mtu = 1280",
        ] {
            keys.push((place.to_owned(), key.to_owned()));
        }
        keys.push((format!("{place}burst.bad = 30.0\nburst.length = 2.0\n"), "burst.loss = 50.0".to_owned()));
    }
    keys
}

/// A scenario with a piece of text: `a` behind the router `r`.
pub(crate) fn file(piece: &str) -> String {
    let router = if piece.contains("[router.r") { "" } else { ROUTER };
    let piece = piece.strip_prefix("[host.a]\n").unwrap_or(piece);
    format!("title = \"t\"\n[host.b]\n{router}[host.a]\nbehind = \"r\"\n{piece}\n[expect]\npath = \"direct\"\n")
}

/// Keys that say what is expected, or name something: they are no part of a network.
fn is_beside(path: &str) -> bool {
    path.starts_with("expect") || ["title", "about", "worlds", "seed", "router.*.preset"].contains(&path)
}

/// The keys of the schema, from a place in it on.
fn keys_of(schema: &Value, at: &Value, path: &str, found: &mut BTreeSet<String>) {
    let Some(at) = at.as_object() else { return };
    if let Some(reference) = at.get("$ref").and_then(Value::as_str) {
        return keys_of(schema, schema.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null), path, found);
    }
    for choice in ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|kind| at.get(kind)?.as_array()).flatten() {
        keys_of(schema, choice, path, found);
    }
    for (name, value) in at.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        found.insert(path.clone());
        keys_of(schema, value, &path, found);
    }
    for inner in ["additionalProperties", "items"].into_iter().filter_map(|kind| at.get(kind)) {
        // Of a table by names and of a list each member is alike.
        let path = if at.contains_key("items") { path.to_owned() } else { format!("{path}.*") };
        keys_of(schema, inner, &path, found);
    }
}

/// The keys of a file, spelled as those of the schema.
fn keys_in(value: &toml::Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let by_name = ["host", "router", "host.*.sysctl", "expect.nat"].contains(&path);
                let name = if by_name { "*" } else { name };
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                found.insert(path.clone());
                keys_in(value, &path, found);
            }
        }
        toml::Value::Array(list) => list.iter().for_each(|value| keys_in(value, path, found)),
        _ => {}
    }
}

fn topology(piece: &str) -> Topology {
    Scenario::parse("test", &file(piece)).unwrap_or_else(|error| panic!("{error}\n{piece}")).topology
}

#[test]
fn the_table_has_every_key_of_the_schema() {
    let schema = serde_json::to_value(schema()).unwrap_or_default();
    let (mut known, mut tried) = (BTreeSet::new(), BTreeSet::new());
    keys_of(&schema, &schema, "", &mut known);
    for (base, key) in keys() {
        let value: toml::Table = file(&format!("{base}{key}")).parse().unwrap_or_else(|error| panic!("{error}"));
        keys_in(&toml::Value::Table(value), "", &mut tried);
    }
    assert!(known.len() > 120, "{} keys in the schema", known.len());
    let untried: Vec<_> = known.iter().filter(|path| !is_beside(path) && !tried.contains(*path)).collect();
    assert!(untried.is_empty(), "not in the table: {untried:?}");
    let unknown: Vec<_> =
        tried.difference(&known).filter(|path| !path.ends_with('*') && !path.contains(".sysctl.")).collect();
    assert!(unknown.is_empty(), "not in the schema: {unknown:?}");
}

#[test]
fn every_key_changes_what_happens_in_virtual_time_or_is_refused_there() {
    let mut idle = Vec::new();
    for (base, key) in keys() {
        let (without, with) = (topology(&base), topology(&format!("{base}{key}")));
        let elsewhere = ELSEWHERE.iter().any(|(known, _)| *known == key) || [HARMLESS, REFUSES_IPV6].contains(&&*key);
        if !elsewhere && changes_nothing(&without, &with) {
            idle.push(format!("{base}{key}"));
        }
    }
    for (key, text) in ELSEWHERE {
        let parse = |key: &str| {
            let text = format!("title = \"t\"\n{}[expect]\npath = \"direct\"\n", text.replace("KEY", key));
            Scenario::parse("test", &text).unwrap_or_else(|error| panic!("{error}\n{text}")).topology
        };
        if changes_nothing(&parse(""), &parse(key)) {
            idle.push(text.replace("KEY", key));
        }
    }
    assert!(idle.is_empty(), "{} change nothing:\n{}", idle.len(), idle.join("\n"));
    let refused = Scenario::parse("test", &file(&format!("[host.a]\nipv6 = true\n{ROUTER}{REFUSES_IPV6}")));
    assert!(refused.is_err_and(|error| error.to_string().contains("host.a.ipv6")));
}

fn changes_nothing(without: &Topology, with: &Topology) -> bool {
    cannot_virtually(with).is_none() && happened(without) == happened(with)
}

/// What happens in a world, and when: packets, errors, answers, counters, states. How its hosts and sessions are set up,
/// which their recordings tell as well, is no part of it: else every key would change something.
fn happened(topology: &Topology) -> Vec<String> {
    let events = run_virtual(topology).events;
    events.into_iter().filter_map(|event| what_happened(Event { seq: 0, ..event })).collect()
}

/// An event without what says how something is set up; `None`: it says nothing else.
fn what_happened(event: Event) -> Option<String> {
    let (at, side) = (event.at.as_micros(), event.vantage.name());
    match &event.kind {
        EventKind::RecordingStarted { .. } | EventKind::SocketOpened { .. } | EventKind::Interface { .. } => None,
        EventKind::HostFact { moment: Moment::Before, .. } => None,
        EventKind::HostFact { fact, .. } => match &**fact {
            // That a rule is there is setup; that it took something is not.
            HostFact::FirewallRule(rule) => {
                let packets = rule.packets_since.filter(|packets| *packets > 0)?;
                Some(format!("{at} {side}: a rule at {} took {packets} packets", rule.chain))
            }
            HostFact::FirewallChain(_) => None,
            // What becomes of a packet, and not by which rule and table.
            HostFact::RouteAnswer(answer) => {
                let (from, to) = (answer.question.source, answer.question.destination);
                let way = answer.route.as_ref().map(|way| {
                    (way.route_kind.clone(), way.device.clone(), way.gateway, way.preferred_source, way.mtu)
                });
                let errno = answer.failure.as_ref().map(|failure| failure.errno);
                Some(format!("{at} {side}: {from:?} to {to}: {way:?} {errno:?}"))
            }
            _ => Some(encode(&event)),
        },
        _ => Some(encode(&event)),
    }
}

/// What is built and run in namespaces: what a file says, and what no command and no cable there has, does nothing. Compared
/// by configuration, which says only that it arrives: the terms of a router in user space, and what maps ports there (the
/// code of virtual time, where the test above compares what it does), and the kind of a certificate.
#[cfg(target_os = "linux")]
#[test]
fn every_key_changes_what_is_built_in_namespaces_or_is_refused_there() {
    use whyrelay_lab::kernel::{Plan, RouterChoice, told};

    let built = |topology: &Topology| {
        let plan = Plan::of(topology, RouterChoice::AsDescribed).ok()?;
        Some([plan.steps(), told(topology)].concat())
    };
    let mut idle = Vec::new();
    for (base, key) in keys() {
        // A link is a cable already: what a key makes of it is compared, and not only that there is one.
        let cable = if key.starts_with("delay") { "loss = 1.0\n" } else { "delay = \"40ms\"\n" };
        let base = if base.ends_with("link]\n") { base + cable } else { base };
        let (without, with) = (topology(&base), topology(&format!("{base}{key}")));
        if built(&with).is_some_and(|built_with| built(&without) == Some(built_with)) {
            idle.push(format!("{base}{key}"));
        }
    }
    assert!(idle.is_empty(), "{} change nothing:\n{}", idle.len(), idle.join("\n"));
}
