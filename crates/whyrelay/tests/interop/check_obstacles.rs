//! `whyrelay check` where something on the way does what a scenario of the laboratory does not: each obstacle of its own.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::check::{check, measured, our_server};
use crate::check_ways::{SECOND, plug_in};
use crate::router::{Internet, Nat, Site};
use crate::suite::{Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_obstacles::packets_shaped_as_wireguard_are_blocked", &tools, wireguard);
    suite.test("check_obstacles::a_smaller_path_is_measured_each_way", &tools, small_path);
    suite.test("check_obstacles::hairpinning_is_seen_where_it_is", &tools, hairpin);
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
