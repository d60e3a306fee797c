//! What of a scenario file cannot be, said before anything is laid out.

use whyrelay_core::diagnosis::rules;
use whyrelay_core::nat::behavior::{FilteringBehavior, PortAllocation};

use super::LARGEST_SEED;
use super::error::Wrong;
use super::file::{self, File};
use super::value::{Span, Span32};
use super::{SIGNALING_PORT, STUN_PORT};
use crate::words::did_you_mean;

/// Most external addresses of a router: a third of a side's block of the Internet.
const MOST_ADDRESSES: u32 = 32;

/// The first port of relays in either world (RFC 8656 §7.2 recommends 49152 and up).
const FIRST_RELAYED_PORT: u16 = 49_152;

/// The first port that any user may bind (Linux's ip_unprivileged_port_start).
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// Checks all but routers, which have a preset filled in first: [`router`].
pub(super) fn check(file: &File) -> Result<(), Wrong> {
    if file.title.chars().any(char::is_control) {
        return Err(Wrong::new("title", "it has control characters", "write one line of plain text"));
    }
    if file.seed > LARGEST_SEED {
        let hint = format!("the largest is {LARGEST_SEED}");
        return Err(Wrong::new("seed", format!("no file can say {}", file.seed), hint));
    }
    for peer in ["a", "b"] {
        if !file.host.contains_key(peer) {
            let hint = format!("write [host.{peer}]; a is the offerer, b the answerer");
            return Err(Wrong::new(format!("host.{peer}"), "the scenario has no such host", hint));
        }
    }
    for (section, names) in [("router", file.router.keys().collect::<Vec<_>>()), ("host", file.host.keys().collect())] {
        for name in names {
            let fine = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && (1..=32).contains(&name.len());
            if !fine || name == "internet" || name == "server" {
                let hint = "use up to 32 letters, digits and hyphens, and neither \"internet\" nor \"server\"";
                return Err(Wrong::new(format!("{section}.{name}"), "this is no name", hint));
            }
        }
    }
    if file.worlds.is_empty() {
        return Err(Wrong::new("worlds", "the list is empty", "leave it out for both worlds, or name one"));
    }
    if file.worlds.len() > 1 && file.worlds[1..].contains(&file.worlds[0]) {
        return Err(Wrong::new("worlds", "a world is named twice", "name each once"));
    }
    for (name, spec) in &file.host {
        host(&format!("host.{name}"), spec)?;
        let of_a_session = [
            ("session", spec.session != file::Session::default()),
            ("wrong-checksum", !spec.wrong_checksum.is_empty()),
        ];
        let said = of_a_session.iter().find(|(_, said)| *said && !["a", "b"].contains(&name.as_str()));
        if let Some((what, _)) = said {
            let hint = "only a and b run whyrelay: leave it out";
            return Err(Wrong::new(format!("host.{name}.{what}"), "this host has no session", hint));
        }
    }
    server(&file.server)?;
    signaling("signaling.a", &file.signaling.a)?;
    signaling("signaling.b", &file.signaling.b)?;
    expect(file)
}

/// What is lost is not late.
fn signaling(key: &str, spec: &file::SignalingFaults) -> Result<(), Wrong> {
    let is_late = spec.candidates_delay != Span::default();
    let (moot, why, hint) = if spec.lose_all {
        let all =
            [("delay", spec.delay.is_some()), ("candidates-delay", is_late), ("lose-candidates", spec.lose_candidates)];
        let moot = all.into_iter().find(|(_, said)| *said).map(|(key, _)| key);
        (moot, "everything is lost already", "leave it out, or leave out lose-all")
    } else {
        let moot = (spec.lose_candidates && is_late).then_some("candidates-delay");
        (moot, "these candidates are lost", "leave it out, or leave out lose-candidates")
    };
    match moot {
        Some(moot) => Err(Wrong::new(format!("{key}.{moot}"), why, hint)),
        None => Ok(()),
    }
}

/// What a server is told and nobody would ever see.
fn server(spec: &file::Server) -> Result<(), Wrong> {
    let usual = file::Server::default();
    let turn = [
        ("credentials", spec.credentials != usual.credentials),
        ("relay-address", spec.relay_address.is_some()),
        ("relay-ports-closed", spec.relay_ports_closed),
        ("tcp", !spec.tcp),
    ];
    let plain = [
        ("credentials", spec.credentials != usual.credentials),
        ("relay-address", spec.relay_address.is_some()),
        ("turn", !spec.turn),
        ("udp", !spec.udp),
        ("udp-filtered", spec.udp_filtered),
        ("tcp", !spec.tcp),
        ("second-address", !spec.second_address),
        ("answers", !spec.answers),
    ];
    let any = [("turn", !spec.turn), ("udp", !spec.udp), ("udp-filtered", spec.udp_filtered)];
    let late = [("answers-after", spec.answers_after != usual.answers_after)];
    let first = |keys: &[(&'static str, bool)]| keys.iter().find(|(_, said)| *said).map(|(key, _)| *key);
    let (moot, why, hint) = if spec.certificate.is_some() {
        let hint = "leave it out: with `certificate` the peers use TURN over TLS and no other server";
        (first(&plain), "nobody asks this of a server of TURN over TLS", hint)
    } else if !spec.answers {
        let all = [&any[..], &turn, &late].concat();
        (first(&all), "this server answers nothing", "leave it out, or leave out answers = false")
    } else if !spec.turn {
        (first(&turn), "this server has no TURN", "leave it out, or leave out turn = false")
    } else {
        let both = !spec.udp && spec.udp_filtered;
        (both.then_some("udp-filtered"), "this server has no UDP to be filtered", "say one of the two")
    };
    if let Some(key) = moot {
        return Err(Wrong::new(format!("server.{key}"), why, hint));
    }
    let taken = spec.tls_port.and_then(|port| match port {
        0 => Some("there is no port 0".to_owned()),
        STUN_PORT => Some(format!("STUN is at port {STUN_PORT}")),
        SIGNALING_PORT => Some(format!("signaling is at port {SIGNALING_PORT}")),
        FIRST_RELAYED_PORT.. => Some(format!("relayed ports are from {FIRST_RELAYED_PORT} on")),
        _ => None,
    });
    match taken {
        Some(why) => Err(Wrong::new("server.tls-port", why, "write another, as 443, or leave it out for 5349")),
        None => Ok(()),
    }
}

fn expect(file: &File) -> Result<(), Wrong> {
    let expect = &file.expect;
    if let Some(name) = expect.nat.keys().find(|name| !file.host.contains_key(*name)) {
        return Err(Wrong::new(format!("expect.nat.{name}"), "there is no such host", "name one of the hosts"));
    }
    if !expect.nat.is_empty() && !file.server.second_address {
        let hint = "leave out second-address = false, or `expect.nat`";
        return Err(Wrong::new("server.second-address", "what a NAT does is found out by two addresses", hint));
    }
    let must = expect.finding.iter().enumerate().map(|(index, it)| (format!("finding[{index}].name"), &it.name));
    let or = expect.finding.iter().enumerate().flat_map(|(index, it)| {
        it.or.iter().enumerate().map(move |(other, name)| (format!("finding[{index}].or[{other}]"), name))
    });
    let may = expect.also.iter().enumerate().map(|(index, name)| (format!("also[{index}]"), name));
    let may = may.filter(|(_, name)| *name != file::ANYTHING);
    // What nobody looks for would never be missed.
    if let Some((key, name)) = must.chain(or).chain(may).find(|(_, name)| rules::find(name).is_none()) {
        let meant = did_you_mean(name, rules::RULES.iter().map(|rule| rule.name));
        let hint = format!("{meant}`whyrelay explain --list` names them all");
        return Err(Wrong::new(format!("expect.{key}"), format!("there is no finding {name:?}"), hint));
    }
    Ok(())
}

fn host(key: &str, spec: &file::Host) -> Result<(), Wrong> {
    for (index, interface) in spec.interface.iter().enumerate() {
        let earlier = spec.interface[..index].iter().any(|earlier| earlier.name == interface.name);
        if earlier || !is_interface_name(&interface.name) {
            let hint = "an interface has a name of its own of up to 15 letters, digits, hyphens, dots and underscores; \
                        eth0 and lo are there already";
            let problem = format!("{:?} is no new name", interface.name);
            return Err(Wrong::new(format!("{key}.interface[{index}].name"), problem, hint));
        }
        leads_somewhere(&format!("{key}.interface[{index}]"), interface)?;
    }
    for (index, route) in spec.route.iter().enumerate() {
        if route.table == Some(0) {
            let hint = "leave it out for main";
            return Err(Wrong::new(format!("{key}.route[{index}].table"), "there is no table 0", hint));
        }
        let of_a_way = [
            ("dev", route.dev.is_some()),
            ("via", route.via.is_some()),
            ("src", route.src.is_some()),
            ("mtu", route.mtu.is_some()),
        ];
        if let Some((what, _)) = of_a_way.iter().find(|(_, said)| *said && route.kind != file::RouteKind::Unicast) {
            let hint = "leave it out, or leave out `kind`";
            return Err(Wrong::new(format!("{key}.route[{index}].{what}"), "this route leads nowhere", hint));
        }
    }
    for (index, rule) in spec.rule.iter().enumerate() {
        let key = format!("{key}.rule[{index}]");
        if rule.table == Some(0) {
            return Err(Wrong::new(format!("{key}.table"), "there is no table 0", "main is 254"));
        }
        if rule.suppress_prefixlength.is_some_and(|length| length > 128) {
            let hint = "a prefix has up to 128 bits";
            return Err(Wrong::new(format!("{key}.suppress-prefixlength"), "no prefix is so long", hint));
        }
        let looks = rule.action == file::RuleAction::Lookup;
        let of_a_table =
            [("table", rule.table.is_some()), ("suppress-prefixlength", rule.suppress_prefixlength.is_some())];
        if let Some((what, _)) = of_a_table.iter().find(|(_, said)| *said && !looks) {
            let hint = "leave it out, or leave out `action`";
            return Err(Wrong::new(format!("{key}.{what}"), "this rule looks in no table", hint));
        }
        rule_ports(&format!("{key}.sport"), &rule.sport)?;
        rule_ports(&format!("{key}.dport"), &rule.dport)?;
    }
    for (index, rule) in spec.firewall.iter().enumerate() {
        let key = format!("{key}.firewall[{index}]");
        if rule.hook == file::Hook::Input && rule.verdict == file::Verdict::SetMark {
            let hint = "hook = \"prerouting\" has rp_filter see it, hook = \"output\" the routes";
            return Err(Wrong::new(format!("{key}.verdict"), "nobody looks at a mark behind this hook", hint));
        }
        if rule.hook == file::Hook::Prerouting && rule.unsolicited {
            let hint = "say hook = \"input\": this hook is ahead of connection tracking";
            return Err(Wrong::new(format!("{key}.unsolicited"), "no connection is known there", hint));
        }
        ports(&format!("{key}.sport"), &rule.sport)?;
        ports(&format!("{key}.dport"), &rule.dport)?;
    }
    if spec.session.mark.is_some_and(|mark| mark.mask != u32::MAX) {
        let hint = "write the whole mark, as in \"0x1bd00\"; rules have masks";
        return Err(Wrong::new(format!("{key}.session.mark"), "a socket's mark has no mask", hint));
    }
    if spec.session.relay_only && spec.session.no_turn {
        let hint = "say one of the two; against a server without TURN: relay-only = true, and turn = false in [server]";
        return Err(Wrong::new(format!("{key}.session.no-turn"), "relay-only wants relays, and no-turn none", hint));
    }
    if spec.session.uid == Some(u32::MAX) {
        let hint = "the largest is 4294967294";
        return Err(Wrong::new(format!("{key}.session.uid"), "it stands for no user", hint));
    }
    if spec.session.uid.is_some_and(|uid| uid != 0) {
        if let Some(port @ 1..FIRST_UNPRIVILEGED_PORT) = spec.session.port {
            let hint = format!("write one from {FIRST_UNPRIVILEGED_PORT} on, or leave out session.uid");
            return Err(Wrong::new(format!("{key}.session.port"), format!("port {port} takes root"), hint));
        }
        if spec.session.mark.is_some() {
            let hint = "leave it out, or leave out session.uid";
            return Err(Wrong::new(format!("{key}.session.mark"), "a socket's mark takes root", hint));
        }
    }
    for (name, value) in &spec.sysctl {
        sysctl(key, spec, name, *value)?;
    }
    Ok(())
}

/// What of an interface means nothing where it leads nowhere.
fn leads_somewhere(key: &str, interface: &file::Interface) -> Result<(), Wrong> {
    let leads = interface.is_plugged_in();
    if leads && interface.kind == file::InterfaceKind::Bridge {
        let hint = "a bridge is a network of its host alone: leave out `behind`, or `kind`";
        return Err(Wrong::new(format!("{key}.behind"), "a bridge leads nowhere", hint));
    }
    // Packets of every link are of some size.
    let link = file::Link { mtu: None, ..interface.link };
    for (what, said, hint) in [
        ("default-metric", interface.default_metric.is_some(), "say where it leads (`behind`), or write a [[route]]"),
        ("ipv6", interface.ipv6, "say where it leads (`behind`), or give it an IPv6 `address`"),
        ("link", link != file::Link::default(), "say where it leads (`behind`), or leave all but `mtu` out"),
    ] {
        if said && !leads {
            return Err(Wrong::new(format!("{key}.{what}"), "this interface leads nowhere", hint));
        }
    }
    Ok(())
}

/// What goes into the lines of `ip` and into file names.
fn is_interface_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let taken = ["eth0", "lo", "all", "default", ".", ".."].contains(&name);
    (1..=15).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('-') && !taken
}

fn sysctl(key: &str, host: &file::Host, name: &str, value: i64) -> Result<(), Wrong> {
    let wrong = |problem: String, hint: &str| Err(Wrong::new(format!("{key}.sysctl.{name:?}"), problem, hint));
    let short = name == "rp_filter" || name == "src_valid_mark";
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let full = name.starts_with("net.") && name.chars().all(plain);
    if !short && !full {
        let hint =
            "write rp_filter, src_valid_mark, or a full name that begins with net: others are the whole machine's";
        return wrong("this is no parameter of a network".to_owned(), hint);
    }
    for family in ["net.ipv4.conf.", "net.ipv4.neigh.", "net.ipv6.conf.", "net.ipv6.neigh."] {
        let Some((interface, _)) = name.strip_prefix(family).and_then(|rest| rest.rsplit_once('.')) else { continue };
        let known = ["all", "default", "lo", "eth0"].contains(&interface)
            || host.interface.iter().any(|own| own.name == interface);
        if !known {
            return wrong(format!("there is no interface {interface:?}"), "name one of this host's, all or default");
        }
    }
    let most = match name.rsplit('.').next() {
        Some("rp_filter") => 2,
        Some("src_valid_mark") => 1,
        _ => return Ok(()),
    };
    match (0..=most).contains(&value) {
        true => Ok(()),
        false => wrong(format!("{value} means nothing"), "rp_filter is 0, 1 or 2, src_valid_mark 0 or 1"),
    }
}

/// A router as it is written, and with its preset filled in.
pub(super) fn router(key: &str, written: &file::Router, spec: &file::Router) -> Result<(), Wrong> {
    let wrong = |what: &str, problem: &str, hint: &str| Err(Wrong::new(format!("{key}.{what}"), problem, hint));
    if spec.addresses.is_some_and(|count| !(1..=MOST_ADDRESSES).contains(&count)) {
        return wrong("addresses", "so many cannot be", "write a number from 1 to 32");
    }
    if matches!(spec.ports, Some(PortAllocation::Contiguous { block: 0 })) {
        return wrong("ports.contiguous.block", "a block of no ports", "write how many ports a host inside gets");
    }
    let of_a_nat = [
        ("mapping", written.mapping.is_some()),
        ("ports", written.ports.is_some()),
        ("overloading", written.overloading.is_some()),
        ("addresses", written.addresses.is_some()),
        ("pooling", written.pooling.is_some()),
        ("refresh", written.refresh.is_some()),
        ("hairpinning", written.hairpinning.is_some()),
        ("unsolicited", written.unsolicited.is_some()),
    ];
    let is_nat = spec.translate.is_none_or(|translate| translate == file::Translate::Nat);
    if let Some((what, _)) = of_a_nat.into_iter().find(|(_, written)| *written && !is_nat) {
        return wrong(what, "this router is no NAT", "leave it out, or say translate = \"nat\"");
    }
    if written.pooling.is_some() && spec.addresses.unwrap_or(1) == 1 {
        return wrong("pooling", "this router has one address", "say how many `addresses` it has, or leave it out");
    }
    let remembers = is_nat || spec.filtering != Some(FilteringBehavior::EndpointIndependent);
    if written.lifetime.is_some() && !remembers {
        return wrong("lifetime", "this router remembers nothing", "say what it filters by, or leave it out");
    }
    if written.lifetime.is_some_and(|lifetime| lifetime.0.is_zero()) {
        return wrong("lifetime", "nothing is remembered for no time", "write how long, as in \"30s\"");
    }
    if spec.alg.is_some() && spec.translate == Some(file::Translate::Nothing) {
        return wrong("alg", "this router translates nothing, so there is nothing to rewrite", "leave it out");
    }
    let holds_back = spec.block_udp == Some(true) || spec.allow_udp.is_some() || spec.allow_tcp.is_some();
    if written.reject == Some(true) && !holds_back {
        let hint = "say what it does not let out: block-udp, allow-udp or allow-tcp";
        return wrong("reject", "this router lets everything out", hint);
    }
    if spec.block_udp == Some(true) && spec.allow_udp.is_some() {
        let hint = "say one of the two; block-udp = false takes back what a preset says";
        return wrong("allow-udp", "it lets UDP out that block-udp does not", hint);
    }
    if written.reject_with.is_some() && spec.reject != Some(true) {
        return wrong("reject-with", "this router refuses nothing", "say reject = true, or leave it out");
    }
    for (what, list) in
        [("allow-udp", &spec.allow_udp), ("allow-tcp", &spec.allow_tcp), ("stateless-inbound", &spec.stateless_inbound)]
    {
        ports(&format!("{key}.{what}"), list.iter().flatten())?;
    }
    for (index, forward) in spec.forward.iter().enumerate() {
        if forward.port == 0 || forward.to_port == Some(0) {
            return wrong(&format!("forward[{index}]"), "there is no port 0", "write a port from 1 to 65535");
        }
    }
    Ok(())
}

fn ports<'a>(key: &str, ranges: impl IntoIterator<Item = &'a Span32>) -> Result<(), Wrong> {
    match ranges.into_iter().find(|range| *range.0.end() > u32::from(u16::MAX)) {
        Some(range) => Err(Wrong::new(key, format!("{range} are no ports"), "ports end at 65535")),
        None => Ok(()),
    }
}

/// Linux takes neither the first nor the last port into a policy rule (fib_rule_port_range_valid).
fn rule_ports(key: &str, range: &Option<Span32>) -> Result<(), Wrong> {
    ports(key, range)?;
    match range.as_ref().map(|range| (*range.0.start(), *range.0.end())) {
        Some((first, last)) if first == 0 || last == u32::from(u16::MAX) => {
            let hint = match (first.max(1), last.min(u32::from(u16::MAX) - 1)) {
                (first, last) if first > last => "write ports from 1 to 65534".to_owned(),
                (first, last) => format!("write {}", Span32(first..=last)),
            };
            Err(Wrong::new(key, "Linux takes ports from 1 to 65534 into a policy rule", hint))
        }
        _ => Ok(()),
    }
}
