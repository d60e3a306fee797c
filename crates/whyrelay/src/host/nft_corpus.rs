//! Rules of every kind, between a real kernel and a real nft: what is recorded of a rule is what nft lists.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::nft::Firewall;

/// Tables, chains and a set for the rules below.
const CHAINS: &str = "
add table inet t
add set inet t blocked { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }
add set inet t pairs { type ipv4_addr . inet_service; }
add map inet t where { type ipv4_addr : verdict; }
add set inet t ways { type ifname . ipv4_addr; }
add chain inet t side
add chain inet t input { type filter hook input priority filter; }
add chain inet t post { type nat hook postrouting priority srcnat; }
add table ip n
add chain ip n post { type nat hook postrouting priority srcnat; }
add chain ip n pre { type nat hook prerouting priority dstnat; }
add chain ip n mangle { type filter hook prerouting priority mangle; }
add table netdev e
add chain netdev e in { type filter hook ingress device lo priority 0; }
add table ip6 s
add chain ip6 s output { type filter hook output priority 0; policy drop; }
";

/// A chain, and a rule in it.
const RULES: &[(&str, &str)] = &[
    ("inet t input", "ct state established,related accept"),
    ("inet t input", "ct state invalid drop"),
    ("inet t input", "ct state new counter drop"),
    ("inet t input", "ct state != established drop"),
    ("inet t input", "ct status dnat accept"),
    ("inet t input", "ct direction original drop"),
    ("inet t input", "ct mark 0x00000001 drop"),
    ("inet t input", "ct count over 20 drop"),
    ("inet t input", "meta nfproto ipv4 drop"),
    ("inet t input", "meta nfproto ipv6 udp dport 3478 drop"),
    ("inet t input", "meta protocol ip udp dport 3478 drop"),
    ("inet t input", "ip protocol icmp drop"),
    ("inet t input", "meta l4proto udp drop"),
    ("inet t input", "meta l4proto ipv6-icmp drop"),
    ("inet t input", "meta l4proto { tcp, udp } drop"),
    ("inet t input", "udp dport 3478 drop"),
    ("inet t input", "udp sport 3478 counter drop"),
    ("inet t input", "udp sport 40000 udp dport 3478 drop"),
    ("inet t input", "tcp dport 22 accept"),
    ("inet t input", "th dport 3478 drop"),
    ("inet t input", "udp dport 1024-65535 drop"),
    ("inet t input", "udp dport != 1024-65535 drop"),
    ("inet t input", "udp dport { 3478, 5349 } drop"),
    ("inet t input", "udp dport != { 3478, 5349 } drop"),
    ("inet t input", "udp dport != 3478 drop"),
    ("inet t input", "udp dport > 1023 drop"),
    ("inet t input", "udp length > 1000 drop"),
    ("inet t input", "ip saddr 198.51.100.0/24 drop"),
    ("inet t input", "ip saddr 198.51.0.0/16 drop"),
    ("inet t input", "ip saddr 100.64.0.0/10 drop"),
    ("inet t input", "ip saddr 198.51.100.64/26 drop"),
    ("inet t input", "ip saddr != 198.51.100.0/24 drop"),
    ("inet t input", "ip saddr 198.51.100.7 drop"),
    ("inet t input", "ip saddr 198.51.100.7-198.51.100.9 drop"),
    ("inet t input", "ip saddr @blocked drop"),
    ("inet t input", "ip saddr != @blocked drop"),
    ("inet t input", "ip saddr . udp dport @pairs drop"),
    ("inet t input", "ip saddr vmap @where"),
    ("inet t input", "ip daddr 203.0.113.0/29 udp dport 40000 drop"),
    ("inet t input", "ip6 saddr 2001:db8::/32 drop"),
    ("inet t input", "ip6 saddr 2001:db8:1::/62 drop"),
    ("inet t input", "ip6 daddr 2001:db8::7 drop"),
    ("inet t input", "iifname \"eth0\" drop"),
    ("inet t input", "iifname \"wg*\" drop"),
    ("inet t input", "iifname != \"eth0\" drop"),
    ("inet t input", "iif \"lo\" accept"),
    ("inet t input", "iif != \"lo\" drop"),
    ("inet t input", "iif { \"lo\" } accept"),
    ("inet t input", "iifname { \"lo\", \"eth0\" } accept"),
    ("inet t input", "iifname != { \"lo\", \"eth0\" } drop"),
    ("inet t input", "iifname vmap { \"eth0\" : jump side, \"lo\" : accept }"),
    ("inet t input", "iifname . ip saddr @ways drop"),
    ("inet t input", "meta mark 0x0000002a drop"),
    ("inet t input", "meta mark & 0x0000ff00 == 0x00000100 drop"),
    ("inet t input", "meta mark != 0x00000000 drop"),
    ("inet t input", "meta length 1000-2000 drop"),
    ("inet t input", "meta length > 1400 drop"),
    ("inet t input", "meta skuid 1000 drop"),
    ("inet t input", "meta cgroup 1 drop"),
    ("inet t input", "meta pkttype broadcast drop"),
    ("inet t input", "ip ttl < 5 drop"),
    ("inet t input", "ip6 hoplimit 255 drop"),
    ("inet t input", "ip dscp ef drop"),
    ("inet t input", "ip frag-off & 8191 != 0 drop"),
    ("inet t input", "ether saddr 02:00:00:00:00:01 drop"),
    ("inet t input", "icmp type echo-request accept"),
    ("inet t input", "icmpv6 type nd-neighbor-solicit accept"),
    ("inet t input", "fib saddr . iif oif missing drop"),
    ("inet t input", "fib daddr type local accept"),
    ("inet t input", "numgen random mod 2 0 drop"),
    ("inet t input", "limit rate 10/second accept"),
    ("inet t input", "limit rate over 3/minute burst 7 packets drop"),
    ("inet t input", "limit rate over 100 kbytes/second drop"),
    ("inet t input", "udp dport 3478 reject"),
    ("inet t input", "udp dport 3478 reject with icmpx admin-prohibited"),
    ("inet t input", "ip protocol udp reject with icmp host-unreachable"),
    ("inet t input", "reject with icmpv6 no-route"),
    ("inet t input", "tcp dport 80 reject with tcp reset"),
    ("inet t input", "log prefix \"dropped: \" drop"),
    ("inet t input", "log prefix \"dropped: \" level info drop"),
    ("inet t input", "udp dport vmap { 1 : drop, 2 : accept }"),
    ("inet t input", "jump side"),
    ("inet t input", "goto side"),
    ("inet t input", "ip saddr 198.51.100.7 return"),
    ("inet t input", "queue to 1"),
    ("inet t input", "meta mark set 0x0000002a"),
    ("inet t input", "meta mark set meta mark & 0xffff00ff"),
    ("inet t input", "meta mark set meta mark | 0x00000100"),
    ("inet t input", "ct mark set 0x00000007"),
    ("inet t input", "meta mark set ct mark"),
    ("inet t input", "ct mark set meta mark"),
    ("inet t input", "th dport 3478 meta mark set 0x00000001 accept"),
    ("inet t input", "udp dport 3478 counter drop comment \"mine\""),
    ("inet t post", "ip saddr 10.0.0.0/8 snat ip to 203.0.113.1"),
    ("inet t post", "oifname \"eth0\" masquerade fully-random"),
    ("ip n post", "oifname \"eth0\" masquerade"),
    ("ip n post", "oifname \"eth0\" masquerade random"),
    ("ip n post", "oifname \"eth0\" masquerade fully-random"),
    ("ip n post", "oifname \"eth0\" masquerade fully-random,persistent"),
    ("ip n post", "ip protocol udp masquerade to :1024-65535"),
    ("ip n post", "ip protocol udp masquerade to :1024-65535 fully-random"),
    ("ip n post", "ip saddr 10.0.0.0/8 snat to 203.0.113.1"),
    ("ip n post", "ip saddr 10.0.0.0/8 snat to 203.0.113.1-203.0.113.4"),
    ("ip n post", "ip saddr 10.0.0.0/8 snat to 203.0.113.1-203.0.113.4 persistent"),
    ("ip n post", "ip saddr 10.0.0.0/8 udp sport 5 snat to 203.0.113.1:1024-2048 random"),
    ("ip n post", "ip saddr 10.0.0.0/8 snat to 203.0.113.1 fully-random"),
    ("ip n pre", "udp dport 40000 dnat to 192.168.1.2"),
    ("ip n pre", "udp dport 40000 dnat to 192.168.1.2:40001"),
    ("ip n pre", "udp dport 40000 redirect"),
    ("ip n pre", "udp dport 40000 redirect to :40001"),
    ("ip n mangle", "udp dport 3478 meta mark set 0x00000001"),
    ("ip n mangle", "udp dport 3478 reject with icmp host-prohibited"),
    ("netdev e in", "ip saddr 198.51.100.0/24 udp dport 3478 drop"),
    ("netdev e in", "meta protocol ip drop"),
    ("netdev e in", "ip6 saddr 2001:db8::/32 drop"),
    ("ip6 s output", "ip6 saddr 2001:db8::/32 udp dport 3478 drop"),
    ("ip6 s output", "udp dport 53 accept"),
];

/// As few kernels have every module, some rules may be refused.
const MOST_LOAD: usize = 80;

#[test]
fn rules_are_recorded_as_nft_lists_them() {
    in_own_network("host::nft_corpus::inside");
}

#[test]
fn rules_that_are_put_in_others_place_meanwhile_are_read_whole() {
    in_own_network("host::nft_corpus::inside_while_they_change");
}

/// Runs a test that changes the firewall.
fn in_own_network(test: &str) {
    let tools = ["nft", "unshare"].map(|tool| Command::new(tool).arg("--version").output().is_ok());
    if tools.contains(&false) {
        eprintln!("skipped: nft or unshare is not here");
        return;
    }
    let this = std::env::current_exe().expect("this test has a file");
    let inside = ["--exact", test, "--ignored", "--nocapture"];
    let ran = Command::new("unshare").arg("-rn").arg(this).args(inside).output().expect("unshare starts");
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    if said.contains("unshare failed") {
        eprintln!("skipped: {said}");
        return;
    }
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "changes the firewall: the test above runs it in a network of its own"]
fn inside() {
    assert!(nft(&["-f", "-"], CHAINS), "the chains load");
    let loaded: Vec<_> = RULES.iter().filter(|(chain, rule)| nft(&["add", "rule", chain, rule], "")).collect();
    assert!(loaded.len() >= MOST_LOAD, "only {} of {} rules load", loaded.len(), RULES.len());
    let listed = Command::new("nft").args(["list", "ruleset"]).output().expect("nft lists");
    let listed = by_chain(&String::from_utf8_lossy(&listed.stdout));
    let firewall = Firewall::read().expect("this user is root here");
    let mut read: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (chain, words) in firewall.texts() {
        read.entry(chain).or_default().push(without_names(&words));
    }
    assert_eq!(read.values().map(Vec::len).sum::<usize>(), loaded.len());
    let mut wrong = Vec::new();
    for (chain, rules) in &read {
        let wanted = listed.get(chain).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(rules.len(), wanted.len(), "{chain}");
        let pairs = rules.iter().zip(wanted).filter(|(ours, theirs)| ours != theirs);
        wrong.extend(pairs.map(|(ours, theirs)| format!("{chain}\n  nft:  {theirs}\n  ours: {ours}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "changes the firewall: the test above runs it in a network of its own"]
fn inside_while_they_change() {
    // So many that the kernel tells them in several parts, and no more than it takes at once.
    const MANY: usize = 500;
    assert!(nft(&["-f", "-"], CHAINS), "the chains load");
    let put_in_place = |port: usize| {
        let rules = format!("add rule inet t input udp dport {port} accept\n").repeat(MANY);
        assert!(nft(&["-f", "-"], &format!("flush chain inet t input\n{rules}")), "the rules load");
    };
    put_in_place(1);
    let changing = std::thread::spawn(move || (2..30).for_each(put_in_place));
    let (mut whole, mut torn) = (0, Vec::new());
    while !changing.is_finished() {
        // What changes all the time may never be read whole.
        let Ok(firewall) = Firewall::read() else { continue };
        let texts: std::collections::BTreeSet<_> = firewall.texts().map(|(_, words)| words).collect();
        whole += 1;
        if (texts.len(), firewall.texts().count()) != (1, MANY) {
            torn.push((texts.len(), firewall.texts().count()));
        }
    }
    changing.join().expect("nft loads all of them");
    assert!(whole > 0 && torn.is_empty(), "{whole} readings, of these torn: {torn:?}");
}

fn nft(arguments: &[&str], input: &str) -> bool {
    let mut command = Command::new("nft");
    let mut nft = command.args(arguments).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("nft starts");
    nft.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("nft reads");
    nft.wait().expect("nft ends").success()
}

/// The rules that nft lists, by their chain.
fn by_chain(listed: &str) -> BTreeMap<String, Vec<String>> {
    let (mut table, mut chain, mut rules) = (String::new(), None, BTreeMap::<String, Vec<String>>::new());
    for line in listed.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ").and_then(|line| line.strip_suffix(" {")) {
            table = name.to_owned();
        } else if let Some(name) = line.strip_prefix("chain ").and_then(|line| line.strip_suffix(" {")) {
            chain = Some(format!("{table} {name}"));
        } else if line == "}" {
            chain = None;
        } else if let Some(chain) = chain.as_ref().filter(|_| !line.starts_with("type ")) {
            rules.entry(chain.clone()).or_default().push(without_names(line));
        }
    }
    rules
}

/// Without what a recording has elsewhere (counters), or not at all: comments, and what is in sets without a name.
fn without_names(rule: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    let mut rest = rule.split(' ').peekable();
    while let Some(word) = rest.next() {
        match word {
            "counter" => _ = rest.nth(3),
            "comment" => break,
            "{" => {
                rest.by_ref().find(|word| *word == "}");
                words.push("{}");
            }
            word if word.starts_with("@__") => words.push("{}"),
            word => words.push(word),
        }
    }
    words.join(" ")
}
