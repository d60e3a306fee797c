//! Every kind of fault that a scenario can express, as a piece of a scenario file, and the findings that name it.
//!
//! In a piece `SELF` is the side that has the fault, `OTHER` the other one, and `%` a number that no other fault of
//! the world has.

use super::fault::{Culprit, Fault, Hides, Leaves, Shows};

/// A fault of the host that keeps what it sends to the peer from leaving.
const HOST: Fault = Fault {
    name: "",
    findings: &[],
    alone: &[],
    culprit: Culprit::Own,
    shows: Shows::InSending,
    hides: Hides::Packets,
    leaves: Leaves::Relay,
    moves: false,
    piece: "",
};
/// The same of one address of the peer.
const TO_ONE_ADDRESS: Fault = Fault { leaves: Leaves::OtherAddresses, ..HOST };
/// The same in a place of its own.
const MOVED: Fault = Fault { moves: true, ..HOST };
/// A fault of the host that lets nothing out or in at all.
const DEAF: Fault = Fault { shows: Shows::AtServers, hides: Hides::Addresses, leaves: Leaves::Nothing, ..HOST };
/// A fault of the host that takes what arrives.
const ARRIVAL: Fault = Fault { shows: Shows::InArrivals, hides: Hides::Nothing, ..HOST };
/// A NAT or firewall in front.
const NETWORK: Fault =
    Fault { shows: Shows::AtServers, hides: Hides::Packets, leaves: Leaves::All, moves: true, ..HOST };
/// A server.
const SERVER: Fault =
    Fault { culprit: Culprit::Server, shows: Shows::Always, hides: Hides::Servers, leaves: Leaves::All, ..HOST };
/// A relay.
const RELAY: Fault =
    Fault { culprit: Culprit::Server, shows: Shows::AtRelay, hides: Hides::Nothing, leaves: Leaves::All, ..HOST };

macro_rules! by_rule {
    ($selector:literal) => {
        concat!(
            "[[host.SELF.interface]]\nname = \"wg%\"\nkind = \"tunnel\"\n",
            "[[host.SELF.route]]\nto = \"peer/26\"\ndev = \"wg%\"\ntable = 20%\n",
            "[[host.SELF.rule]]\npriority = 100%\ntable = 20%\n",
            $selector
        )
    };
}

macro_rules! full_tunnel {
    ($more:literal) => {
        concat!(
            "[[host.SELF.interface]]\nname = \"wg%\"\nkind = \"tunnel\"\n",
            "[[host.SELF.route]]\nto = \"default\"\ndev = \"wg%\"\ntable = 20%\n",
            "[[host.SELF.rule]]\npriority = 11%\nfwmark = \"0x1bd00\"\nnot = true\ntable = 20%\n",
            $more
        )
    };
}

macro_rules! behind {
    ($place:literal) => {
        concat!("[host.SELF]\nbehind = \"", $place, "\"\n[host.OTHER]\nbehind = \"home-router\"\n")
    };
}

const DIVERTS: &[&str] = &["policy-rule-diverts-peer"];
const MARK: &[&str] = &["mark-rule-collision"];
const REFUSES: &[&str] = &["route-refuses-peer"];
const INPUT: &[&str] = &["input-firewall-drops"];
const OUTPUT: &[&str] = &["output-firewall-drops"];
const EDM: &[&str] = &["endpoint-dependent-mapping"];

/// Every kind.
pub const FAULTS: &[Fault] = &[
    // ---- the host's routing ------------------------------------------------------------------------------------
    Fault { name: "rule-by-destination", findings: DIVERTS, piece: by_rule!("to = \"peer/26\"\n"), ..HOST },
    Fault { name: "rule-by-source", findings: DIVERTS, piece: by_rule!("from = \"address-of eth0\"\n"), ..HOST },
    Fault { name: "rule-by-user", findings: DIVERTS, piece: by_rule!("uidrange = \"0\"\n"), ..HOST },
    Fault { name: "rule-by-protocol", findings: DIVERTS, piece: by_rule!("ipproto = \"udp\"\n"), ..HOST },
    Fault {
        name: "rule-by-port",
        findings: DIVERTS,
        piece: by_rule!("sport = \"51820\"\n[host.SELF.session]\nport = 51820\n"),
        ..HOST
    },
    Fault {
        name: "rule-by-mark",
        findings: MARK,
        piece: by_rule!("fwmark = \"0x10000/0x10000\"\n[host.SELF.session]\nmark = \"0x1bd00\"\n"),
        ..HOST
    },
    Fault {
        name: "mark-blackhole",
        findings: MARK,
        piece: "[[host.SELF.rule]]\npriority = 100%\nfwmark = \"0x3d00/0x3f00\"\naction = \"blackhole\"\n[host.SELF.session]\nmark = \"0x1bd00\"\n",
        ..DEAF
    },
    Fault {
        name: "mark-prohibit",
        findings: MARK,
        piece: "[[host.SELF.rule]]\npriority = 100%\nfwmark = \"0x10000/0x10000\"\naction = \"prohibit\"\n[host.SELF.session]\nmark = \"0x1bd00\"\n",
        ..DEAF
    },
    Fault {
        name: "mark-unreachable",
        findings: MARK,
        piece: "[[host.SELF.rule]]\npriority = 100%\nfwmark = \"0x10000/0x10000\"\naction = \"unreachable\"\n[host.SELF.session]\nmark = \"0x1bd00\"\n",
        ..DEAF
    },
    Fault {
        name: "mark-to-dead-uplink",
        findings: MARK,
        piece: "[router.dead%]\nblock-udp = true\nallow-tcp = [\"1\"]\n[[host.SELF.interface]]\nname = \"eth%\"\nbehind = \"dead%\"\n[[host.SELF.route]]\nto = \"default\"\ndev = \"eth%\"\nvia = \"gateway\"\ntable = 20%\n[[host.SELF.rule]]\npriority = 100%\nfwmark = \"0x10000/0x10000\"\ntable = 20%\n[host.SELF.session]\nmark = \"0x1bd00\"\n",
        ..DEAF
    },
    Fault {
        name: "route-blackhole",
        findings: REFUSES,
        piece: "[[host.SELF.route]]\nto = \"peer\"\nkind = \"blackhole\"\n",
        ..TO_ONE_ADDRESS
    },
    Fault {
        name: "route-unreachable",
        findings: REFUSES,
        piece: "[[host.SELF.route]]\nto = \"peer\"\nkind = \"unreachable\"\n",
        ..TO_ONE_ADDRESS
    },
    Fault {
        name: "route-prohibit",
        findings: REFUSES,
        piece: "[[host.SELF.route]]\nto = \"peer\"\nkind = \"prohibit\"\n",
        ..TO_ONE_ADDRESS
    },
    Fault {
        name: "route-throw",
        findings: REFUSES,
        piece: "[[host.SELF.route]]\nto = \"peer\"\nkind = \"throw\"\n",
        ..TO_ONE_ADDRESS
    },
    Fault {
        name: "rule-blackhole",
        findings: REFUSES,
        piece: "[[host.SELF.rule]]\npriority = 100%\nto = \"peer\"\naction = \"blackhole\"\n",
        ..TO_ONE_ADDRESS
    },
    Fault {
        name: "rule-prohibit",
        findings: REFUSES,
        piece: "[[host.SELF.rule]]\npriority = 100%\nto = \"peer\"\naction = \"prohibit\"\n",
        ..TO_ONE_ADDRESS
    },
    Fault {
        name: "rule-unreachable",
        findings: REFUSES,
        piece: "[[host.SELF.rule]]\npriority = 100%\nto = \"peer\"\naction = \"unreachable\"\n",
        ..TO_ONE_ADDRESS
    },
    Fault {
        name: "vpn-route-covers-peer",
        findings: &["vpn-route-covers-peer"],
        piece: "[[host.SELF.interface]]\nname = \"wg%\"\nkind = \"tunnel\"\n[[host.SELF.route]]\nto = \"peer/26\"\ndev = \"wg%\"\n",
        ..HOST
    },
    Fault {
        name: "vpn-takes-everything",
        findings: &["vpn-carries-everything"],
        piece: "[[host.SELF.interface]]\nname = \"wg%\"\nkind = \"tunnel\"\nbehind = \"vpn-exit\"\n[[host.SELF.route]]\nto = \"0.0.0.0/1\"\ndev = \"wg%\"\n[[host.SELF.route]]\nto = \"128.0.0.0/1\"\ndev = \"wg%\"\n[host.OTHER]\nbehind = \"home-router\"\n[host.SELF]\nbehind = \"home-router\"\n",
        moves: true,
        leaves: Leaves::Relay,
        ..DEAF
    },
    Fault {
        name: "vpn-without-a-mark",
        findings: &["vpn-carries-everything"],
        piece: full_tunnel!("[host.SELF]\nbehind = \"home-router\"\n[host.OTHER]\nbehind = \"home-router\"\n"),
        moves: true,
        ..DEAF
    },
    Fault {
        name: "bridge-shadows-peer",
        findings: &["bridge-shadows-peer"],
        piece: "[host.SELF]\nbehind = \"home-router\"\n[[host.SELF.interface]]\nname = \"br-%\"\nkind = \"bridge\"\naddress = [\"peer/24\"]\n",
        ..MOVED
    },
    Fault {
        name: "peer-by-other-uplink",
        findings: &["peer-by-other-uplink"],
        piece: "[host.OTHER]\nbehind = \"home-router\"\n[host.SELF]\nbehind = \"home-router\"\n[[host.SELF.interface]]\nname = \"eth%\"\nbehind = \"home-router\"\n[[host.SELF.route]]\nto = \"peer/26\"\ndev = \"eth%\"\nvia = \"gateway\"\n",
        ..MOVED
    },
    Fault {
        name: "mark-rewritten-on-output",
        findings: &["mark-rewritten-on-output"],
        piece: full_tunnel!(
            "[[host.SELF.firewall]]\nhook = \"output\"\nverdict = \"set-mark\"\nmark = \"0x0\"\nto = \"peer/26\"\n[host.SELF]\nbehind = \"home-router\"\n[host.SELF.session]\nmark = \"0x1bd00\"\n"
        ),
        ..MOVED
    },
    Fault {
        name: "strict-rp-filter",
        findings: &["reverse-path-filter-drops"],
        piece: full_tunnel!(
            "[host.SELF]\nbehind = \"home-router\"\n[host.SELF.sysctl]\nrp_filter = 1\n[host.SELF.session]\nmark = \"0x1bd00\"\n"
        ),
        moves: true,
        ..DEAF
    },
    Fault {
        name: "ipv6-without-route",
        findings: &["ipv6-without-route"],
        piece: "[router.six%]\nipv6 = \"no-route\"\n[host.SELF]\nbehind = \"six%\"\nipv4 = false\nipv6 = true\n[host.OTHER]\nbehind = \"home-router\"\nipv6 = true\n[server]\nipv6 = true\n",
        moves: true,
        ..DEAF
    },
    Fault {
        name: "gateway-silent",
        findings: &["next-hop-silent"],
        piece: "[router.first]\ninside = \"192.168.77.0/24\"\n[host.SELF]\nbehind = \"first\"\n[[host.SELF.route]]\nto = \"peer/26\"\ndev = \"eth0\"\nvia = \"192.168.77.99\"\n",
        ..MOVED
    },
    Fault {
        name: "peer-on-the-wrong-link",
        findings: &["next-hop-silent"],
        piece: "[host.SELF]\nbehind = \"home-router\"\n[[host.SELF.route]]\nto = \"peer/26\"\ndev = \"eth0\"\n",
        ..MOVED
    },
    // ---- the host's packet filter ------------------------------------------------------------------------------
    Fault {
        name: "output-drop",
        findings: OUTPUT,
        piece: "[[host.SELF.firewall]]\nhook = \"output\"\nverdict = \"drop\"\nto = \"peer/26\"\n",
        ..HOST
    },
    Fault {
        name: "output-reject",
        findings: OUTPUT,
        piece: "[[host.SELF.firewall]]\nhook = \"output\"\nverdict = \"reject\"\nto = \"peer/26\"\n",
        ..HOST
    },
    Fault {
        name: "input-drop",
        findings: INPUT,
        piece: "[[host.SELF.firewall]]\nhook = \"input\"\nverdict = \"drop\"\nfrom = \"peer/26\"\n",
        ..ARRIVAL
    },
    Fault {
        name: "input-reject",
        findings: INPUT,
        piece: "[[host.SELF.firewall]]\nhook = \"input\"\nverdict = \"reject\"\nfrom = \"peer/26\"\n",
        alone: &["checks-rejected-on-the-way"],
        ..ARRIVAL
    },
    Fault {
        name: "prerouting-drop",
        findings: INPUT,
        piece: "[[host.SELF.firewall]]\nhook = \"prerouting\"\nverdict = \"drop\"\nfrom = \"peer/26\"\n",
        ..ARRIVAL
    },
    Fault {
        name: "conntrack-full",
        findings: &["conntrack-table-full"],
        piece: "[host.SELF]\nconntrack-full = true\n",
        ..DEAF
    },
    // ---- routers and networks ----------------------------------------------------------------------------------
    Fault { name: "symmetric", findings: EDM, piece: behind!("pfsense"), ..NETWORK },
    Fault { name: "symmetric-sequential", findings: EDM, piece: behind!("symmetric-sequential"), ..NETWORK },
    Fault { name: "address-dependent", findings: EDM, piece: behind!("address-dependent"), ..NETWORK },
    Fault { name: "carrier-symmetric", findings: EDM, piece: behind!("mobile-carrier-symmetric"), ..NETWORK },
    Fault { name: "corporate", findings: EDM, piece: behind!("corporate"), ..NETWORK },
    Fault { name: "kubernetes", findings: EDM, piece: behind!("kubernetes-node"), ..NETWORK },
    Fault {
        name: "addresses-vary",
        findings: &["public-address-varies"],
        piece: behind!("arbitrary-pooling"),
        ..NETWORK
    },
    Fault {
        name: "early-packet",
        findings: &["port-taken-by-early-packet"],
        piece: concat!(
            behind!("linux-input-accept"),
            "[signaling.OTHER]\ncandidates-delay = \"400ms\"\n[signaling.SELF]\ncandidates-delay = \"0ms\"\n"
        ),
        shows: Shows::InArrivals,
        ..NETWORK
    },
    Fault {
        name: "no-udp",
        findings: &["udp-blocked"],
        // Where no server answers over TCP either, a silent server looks the same.
        alone: &["stun-server-silent"],
        piece: behind!("corporate-no-udp"),
        hides: Hides::Addresses,
        ..NETWORK
    },
    Fault {
        name: "web-only",
        findings: &["udp-blocked"],
        // Where no server answers over TCP either, a silent server looks the same.
        alone: &["stun-server-silent"],
        piece: behind!("corporate-web-only"),
        hides: Hides::Addresses,
        ..NETWORK
    },
    Fault {
        name: "stun-only",
        findings: &["udp-only-to-servers"],
        piece: behind!("corporate-stun-only"),
        shows: Shows::TowardsRelay,
        ..NETWORK
    },
    Fault {
        name: "stun-only-rejecting",
        findings: &["checks-rejected-on-the-way", "udp-only-to-servers"],
        culprit: Culprit::Anybody,
        piece: "[router.office%]\npreset = \"corporate-stun-only\"\nreject = true\n[host.SELF]\nbehind = \"office%\"\n[host.OTHER]\nbehind = \"home-router\"\n",
        shows: Shows::TowardsRelay,
        ..NETWORK
    },
    Fault {
        name: "replies-dropped",
        findings: &["replies-dropped-in-front"],
        piece: behind!("stateless-firewall"),
        alone: &["udp-blocked", "stun-server-silent"],
        shows: Shows::InSending,
        hides: Hides::Addresses,
        ..NETWORK
    },
    Fault {
        name: "alg-rewrites-stun",
        findings: &["answers-rewritten"],
        piece: "[router.alg%]\nalg = \"stun\"\n[host.SELF]\nbehind = \"alg%\"\n[host.OTHER]\nbehind = \"home-router\"\n",
        hides: Hides::Addresses,
        ..NETWORK
    },
    Fault {
        name: "isolated-clients",
        findings: &["no-hairpin-behind-one-nat"],
        culprit: Culprit::Anybody,
        piece: "[router.guests]\npreset = \"hotel\"\n[host.SELF]\nbehind = \"guests\"\n[host.OTHER]\nbehind = \"guests\"\n",
        shows: Shows::InArrivals,
        hides: Hides::Addresses,
        ..NETWORK
    },
    // ---- configuration, servers, signaling ---------------------------------------------------------------------
    Fault {
        name: "relay-only",
        findings: &["relay-only-configured"],
        // Where the relay fails, too: the other side sees only that there is no candidate.
        alone: &["no-remote-candidates"],
        piece: "[host.SELF.session]\nrelay-only = true\n",
        shows: Shows::InSending,
        hides: Hides::Addresses,
        leaves: Leaves::All,
        ..HOST
    },
    Fault {
        name: "server-silent",
        findings: &["stun-server-silent"],
        culprit: Culprit::Anybody,
        piece: "[server]\nanswers = false\n",
        ..SERVER
    },
    Fault { name: "server-without-udp", findings: &["stun-server-silent"], piece: "[server]\nudp = false\n", ..SERVER },
    Fault {
        name: "candidates-lost",
        findings: &["no-remote-candidates"],
        culprit: Culprit::Signaling,
        piece: "[signaling.a]\nlose-candidates = true\n[signaling.b]\nlose-candidates = true\n",
        shows: Shows::Always,
        hides: Hides::Addresses,
        leaves: Leaves::All,
        ..HOST
    },
    Fault {
        name: "turn-wrong-password",
        findings: &["turn-credentials-rejected"],
        culprit: Culprit::Anybody,
        piece: "[server]\ncredentials = \"wrong\"\n",
        ..RELAY
    },
    Fault {
        name: "turn-expired-credentials",
        findings: &["turn-credentials-expired"],
        culprit: Culprit::Anybody,
        piece: "[server]\ncredentials = \"expired\"\n",
        ..RELAY
    },
    Fault {
        name: "turn-no-credentials",
        findings: &["turn-credentials-missing"],
        culprit: Culprit::Anybody,
        piece: "[server]\ncredentials = \"missing\"\n",
        ..RELAY
    },
    Fault {
        name: "turn-relay-ports-closed",
        findings: &["relayed-checks-lost"],
        piece: "[server]\nrelay-ports-closed = true\n[host.OTHER.session]\nno-turn = true\n",
        ..RELAY
    },
    Fault {
        name: "turn-wrong-relay-address",
        findings: &["relay-address-private"],
        piece: "[server]\nrelay-address = \"10.0.0.5\"\n[host.OTHER.session]\nno-turn = true\n",
        ..RELAY
    },
    Fault {
        name: "no-turn",
        findings: &["no-relay-available"],
        culprit: Culprit::Anybody,
        piece: "[host.SELF.session]\nno-turn = true\n[host.OTHER.session]\nno-turn = true\n",
        ..RELAY
    },
];

/// Strange and harmless: where these are planted alone, nothing may be wrong.
pub const DECOYS: &[(&str, &str)] = &[
    ("rule-of-another-user", by_rule!("uidrange = \"1000-1999\"\n")),
    ("rule-of-another-port", by_rule!("sport = \"51821\"\n")),
    ("rule-of-another-mark", by_rule!("fwmark = \"0x40000000/0x40000000\"\n")),
    ("rule-for-tcp", by_rule!("ipproto = \"tcp\"\n")),
    (
        "split-tunnel",
        "[[host.SELF.interface]]\nname = \"wg%\"\nkind = \"tunnel\"\n[[host.SELF.route]]\nto = \"10.99.0.0/16\"\ndev = \"wg%\"\n",
    ),
    (
        "marked-past-a-full-tunnel",
        full_tunnel!("[host.SELF]\nbehind = \"home-router\"\n[host.SELF.session]\nmark = \"0x1bd00\"\n"),
    ),
    (
        "loose-rp-filter",
        full_tunnel!(
            "[host.SELF]\nbehind = \"home-router\"\n[host.SELF.sysctl]\nrp_filter = 2\n[host.SELF.session]\nmark = \"0x1bd00\"\n"
        ),
    ),
    ("blackhole-elsewhere", "[[host.SELF.route]]\nto = \"10.200.0.0/16\"\nkind = \"blackhole\"\n"),
    ("drops-other-traffic", "[[host.SELF.firewall]]\nhook = \"input\"\nverdict = \"drop\"\ndport = \"5353\"\n"),
    ("drops-tcp-out", "[[host.SELF.firewall]]\nhook = \"output\"\nverdict = \"drop\"\nipproto = \"tcp\"\n"),
    ("drops-unsolicited", "[[host.SELF.firewall]]\nhook = \"input\"\nverdict = \"drop\"\nunsolicited = true\n"),
    (
        "accepts-then-drops",
        "[[host.SELF.firewall]]\nhook = \"input\"\nverdict = \"accept\"\nipproto = \"udp\"\n[[host.SELF.firewall]]\nhook = \"input\"\nverdict = \"drop\"\n",
    ),
    (
        "bridges",
        "[[host.SELF.interface]]\nname = \"br-x%\"\nkind = \"bridge\"\naddress = [\"172.2%.0.1/16\"]\n[[host.SELF.interface]]\nname = \"docker%\"\nkind = \"bridge\"\naddress = [\"172.1%.0.1/16\"]\n",
    ),
    (
        "second-uplink",
        "[[host.SELF.interface]]\nname = \"eth%\"\nbehind = \"home-router\"\n[[host.SELF.route]]\nto = \"default\"\ndev = \"eth%\"\ntable = 30%\nvia = \"gateway\"\n[[host.SELF.rule]]\npriority = 90%\nfrom = \"address-of eth%\"\ntable = 30%\n",
    ),
    ("sip-alg", "[router.sip%]\nalg = \"addresses\"\n[host.SELF]\nbehind = \"sip%\"\n"),
    ("wrong-turn-password", "[server]\ncredentials = \"wrong\"\n"),
    ("expired-turn-credentials", "[server]\ncredentials = \"expired\"\n"),
    ("relay-ports-closed", "[server]\nrelay-ports-closed = true\n"),
    ("no-turn", "[host.SELF.session]\nno-turn = true\n"),
    ("far-away", "[host.SELF.link]\ndelay = \"250ms\"\n"),
    ("lossy", "[host.SELF.link]\nloss = 2.0\njitter = \"5ms\"\nreorder = 2.0\nduplicate = 1.0\n"),
    ("slow-signaling", "[signaling.SELF]\ndelay = \"800ms\"\ncandidates-delay = \"1s\"\n"),
    ("late-starter", "[host.SELF.session]\nstarts = \"2s\"\n"),
    ("patient", "[host.SELF.session]\npatient = true\n"),
    (
        "ipv6-without-route",
        "[router.six%]\nipv6 = \"no-route\"\n[host.SELF]\nbehind = \"six%\"\nipv6 = true\n[host.OTHER]\nipv6 = true\n[server]\nipv6 = true\n",
    ),
    ("forgetful-router", "[host.SELF]\nbehind = \"forgetful\"\n"),
];
