//! `whyrelay check` where something on the way does what a scenario of the laboratory does not: each obstacle of its own.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::check::{check, measured, our_server};
use crate::check_ways::{SECOND, plug_in};
use crate::namespace::Namespace;
use crate::ours::{self, Server};
use crate::peers::{LIMIT, Role};
use crate::process::Process;
use crate::router::{Internet, Nat, Site};
use crate::suite::{Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_obstacles::packets_shaped_as_wireguard_are_blocked", &tools, wireguard);
    suite.test("check_obstacles::a_smaller_path_is_measured_each_way", &tools, small_path);
    suite.test("check_obstacles::hairpinning_is_seen_where_it_is", &tools, hairpin);
    suite.test("check_obstacles::the_own_firewall_that_stops_signaling_is_named", &tools, own_firewall);
    suite.test("check_obstacles::a_mapping_that_dies_is_found_by_bisection", &tools, lifetime);
}

fn number(fact: &Value, field: &str) -> Option<u64> {
    fact[field].as_u64()
}

fn wireguard() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    for blocked in [false, true] {
        let site = internet.site(Nat::Home)?;
        if blocked {
            // 148 bytes and UDP's header; then how a handshake initiation begins.
            site.router.nft(
                "table ip shape { chain f { type filter hook forward priority -1; \
                 udp length 156 @th,64,32 0x01000000 drop; }\n}\n",
            )?;
        }
        let (json, ours) = check(&site.host, &["--signal", server.url()])?;
        let fact = measured(&json, "packet-shape").with_context(|| format!("not measured: {}", ours.account))?;
        let arrived = (number(fact, "shaped_arrived"), number(fact, "random_arrived"));
        ensure!(arrived.1 > Some(0), "{fact}: {}", ours.account);
        ensure!((arrived.0 == Some(0)) == blocked, "{fact}: {}", ours.account);
        let found = json["findings"].as_array().is_some_and(|findings| !findings.is_empty());
        ensure!(found == blocked, "findings: {}", ours.account);
    }
    Ok(())
}

/// What this host's own firewall refuses looks as if the server had refused it: with a TCP reset the system says the same.
fn own_firewall() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&right, &[])?;
    let record = tempfile::tempdir()?;
    let path = record.path().join("a.jsonl").display().to_string();
    let offer = || {
        let mut command = ours::peer(&left, Role::Offerer, server.url());
        command.args(["--record", &path]);
        Process::start("offer", &mut command)?.finish(LIMIT)
    };
    let to = format!("ip daddr {} tcp dport {}", right.address(), server.port());
    for verdict in ["reject with tcp reset", "reject with icmp port-unreachable", "reject with icmp admin-prohibited"] {
        left.nft(&format!(
            "table inet own {{ chain o {{ type filter hook output priority 0; {to} counter {verdict}; }}\n}}\n"
        ))?;
        let (json, ours) = check(&left, &["--signal", server.url()])?;
        // Of the network nothing could be measured.
        ensure!(ours.status.code() == Some(2), "{verdict}: {}", ours.account);
        let found = json["findings"].as_array().and_then(|findings| findings.first()).context("no finding")?;
        let summary = found["summary"].as_str().unwrap_or_default();
        ensure!(found["name"] == "signaling-failed" && found["at"] != "signaling", "{verdict}: {found}");
        ensure!(summary.contains("rejects its own connections") && summary.contains("in inet own o"), "{summary}");
        let finished = offer()?;
        ensure!(finished.status.code() == Some(2), "{verdict}: {}", finished.account);
        ensure!(finished.account.contains("rejects its own connections"), "{verdict}: {}", finished.account);
        ensure!(finished.account.contains("nft insert rule inet own o ip daddr"), "{verdict}: {}", finished.account);
        let recorded = std::fs::read_to_string(&path)?;
        ensure!(recorded.contains(r#""what":"firewall-rule""#), "{verdict}: no rule is recorded");
        left.run_nft(&["delete", "table", "inet", "own"])?;
    }
    // Nobody listens there: then it is the server's own refusal, and the hint is about the server.
    drop(server);
    let (json, ours) = check(&left, &["--signal", &format!("http://{}:8080", right.address())])?;
    let summary = json["findings"][0]["summary"].as_str().unwrap_or_default();
    ensure!(summary.contains("could not use the signaling server"), "{}", ours.account);
    Ok(())
}

/// The router has no ICMP for what is too large: it vanishes.
fn small_path() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    for (name, inwards) in [("in", true), ("out", false)] {
        let site = internet.site(Nat::Home)?;
        let interface = if inwards { "wan" } else { "lan" };
        site.router.nft(&format!(
            "table ip large {{ chain f {{ type filter hook forward priority -1; \
             iifname {interface} meta l4proto udp meta length > 1300 drop; }}\n}}\n"
        ))?;
        let (json, ours) = check(&site.host, &["--signal", server.url()])?;
        let facts = json["measurements"].as_array().into_iter().flatten();
        let mut seen = 0;
        for fact in facts.filter(|fact| fact["measurement"] == "path-mtu") {
            let payload = number(fact, "payload");
            // IPv4's and UDP's headers are 28 bytes.
            let fits = if fact["direction"] == name { payload <= Some(1272) } else { payload > Some(1400) };
            ensure!(payload > Some(1000) && fits, "{name}: {fact}: {}", ours.account);
            seen += 1;
        }
        ensure!(seen == 2, "{name}: {seen} directions: {}", ours.account);
    }
    Ok(())
}

/// Lets the host reach itself by the router's outer address, as RFC 4787 §6 wants it.
fn hairpinning(site: &Site) -> Result<()> {
    let (outside, host) = (site.router.address(), site.host.address());
    site.router.nft(&format!(
        "table ip hairpin {{\n\
         chain prerouting {{ type nat hook prerouting priority -101; \
         iifname lan ip daddr {outside} meta l4proto udp dnat to {host}; }}\n\
         chain postrouting {{ type nat hook postrouting priority 99; \
         oifname lan ip saddr {host} ip daddr {host} snat to {outside}; }}\n}}\n"
    ))
}

fn hairpin() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    for hairpins in [false, true] {
        let site = internet.site(Nat::Home)?;
        if hairpins {
            hairpinning(&site)?;
        }
        let (json, ours) = check(&site.host, &["--signal", server.url(), "--hairpin"])?;
        let fact = measured(&json, "hairpin").with_context(|| format!("not measured: {}", ours.account))?;
        ensure!(number(fact, "sent") > Some(1), "repeated: {fact}: {}", ours.account);
        ensure!((number(fact, "arrived") > Some(0)) == hairpins, "{hairpins}: {fact}: {}", ours.account);
    }
    Ok(())
}

/// The router forgets after 5 s: 3 s are too short a silence, 6 s too long, and 4 s are tried behind both.
fn lifetime() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    site.router.sysctl("net.netfilter.nf_conntrack_udp_timeout=5")?;
    site.router.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream=5")?;
    // A second uplink, whose router forgets sooner.
    let other = internet.site(Nat::Home)?;
    other.router.sysctl("net.netfilter.nf_conntrack_udp_timeout=2")?;
    other.router.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream=2")?;
    plug_in(&site, &other)?;
    let (json, ours) = check(&site.host, &["--signal", server.url(), "--lifetime", "20s"])?;
    let of = |address: &str| {
        let mut facts = json["measurements"].as_array().into_iter().flatten();
        let fact = facts.find(|fact| fact["measurement"] == "mapping-lifetime" && fact["local"] == address);
        fact.map(|fact| (number(fact, "at_least_s"), number(fact, "at_most_s")))
    };
    ensure!(of(&site.host.address().to_string()) == Some((Some(4), Some(6))), "{}", ours.account);
    ensure!(of(&SECOND.to_string()) == Some((Some(1), Some(3))), "{}", ours.account);
    // Who waits was told each step.
    for silence in ["silent for 3 s", "silent for 6 s", "silent for 4 s"] {
        ensure!(ours.account.contains(silence), "{silence}: {}", ours.account);
    }
    Ok(())
}
