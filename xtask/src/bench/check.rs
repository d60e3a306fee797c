//! How long it takes to know what the own network does to UDP: `whyrelay check` beside coturn's natdiscovery, behind the
//! same router or without one, and with the same server, ours.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::peers::{Ended, built, median, tool};
use super::{Comparison, Goal, counted};
use crate::step;

const RUNS: usize = 5;

/// So many times that of what takes milliseconds, and the time between two: our server answers who has proven nothing ten
/// times a second, and who knows no proof five times.
const SHORT_RUNS: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// The server's two addresses, and where it offers behavior discovery. Not of a documentation range: there no server
/// relays to.
const FIRST: &str = "11.0.113.1";
const SECOND: &str = "11.0.113.2";
const DISCOVERY_PORT: &str = "3479";

pub(super) fn run(runs: Option<usize>) -> Result<Vec<Comparison>> {
    let (whyrelay, natdiscovery) = (built("whyrelay")?, tool("NATDISCOVERY")?);
    let site = Site::new()?;
    let mut serve = Command::new(&whyrelay);
    serve.args(["serve", "--listen", &format!("{FIRST}:8080"), "--stun-listen", &format!("{FIRST}:3478")]);
    let _server = Ended::start(serve.args(["--alternate-address", SECOND, "--rfc5780-clients"]))?;
    site.wait_for_server()?;
    let signal = format!("http://{FIRST}:8080");
    let stun = format!("stun:{FIRST}:3478");
    let recording = std::env::temp_dir().join(format!("whyrelay-bench-{}.jsonl", std::process::id()));
    let recorded = recording.display().to_string();
    let ours = |host: &str, arguments: &[&str]| -> Result<f64> {
        let mut check = command(host, &whyrelay.display().to_string());
        check.arg("check").args(arguments).args(["--format", "json"]);
        let begin = Instant::now();
        let output = check.output().context("starting whyrelay check")?;
        let took = milliseconds(begin);
        // 1: a finding, which blocked UDP is.
        anyhow::ensure!(output.status.code().is_some_and(|code| code < 2), "whyrelay check: {}", output.status);
        Ok(took)
    };
    let by_signal = || ours(&site.host, &["--signal", &signal, "--record", &recorded]);
    let theirs = |host: &str| -> Result<f64> {
        let mut command = command(host, &natdiscovery.display().to_string());
        command.args(["-m", "-f", "-p", DISCOVERY_PORT, FIRST]);
        let begin = Instant::now();
        command.output().context("starting natdiscovery")?;
        Ok(milliseconds(begin))
    };
    let (mut known, mut whole, mut natdiscovery_took) = (Vec::new(), Vec::new(), Vec::new());
    for () in counted(runs.unwrap_or(RUNS), "behind a filtering NAT") {
        whole.push(by_signal()?);
        known.push(until_known(&std::fs::read_to_string(&recording)?));
        natdiscovery_took.push(theirs(&site.host)?);
    }
    let (mut direct, mut direct_whole, mut natdiscovery_direct) = (Vec::new(), Vec::new(), Vec::new());
    for () in counted(runs.unwrap_or(RUNS) * SHORT_RUNS, "without a NAT, what natdiscovery asks") {
        // What natdiscovery asks.
        direct.push(ours(&site.direct, &["--stun", &stun, "--only", "nat"])?);
        natdiscovery_direct.push(theirs(&site.direct)?);
        std::thread::sleep(PAUSE);
    }
    // Everything; not so often, as a system says a few times a second that nobody listens on a port, and port 443 is asked.
    for () in counted(runs.unwrap_or(RUNS), "without a NAT, the whole") {
        direct_whole.push(ours(&site.direct, &["--stun", &stun])?);
        std::thread::sleep(PAUSE);
    }
    site.block_udp()?;
    let (mut blocked, mut natdiscovery_blocked) = (Vec::new(), Vec::new());
    for () in counted(runs.unwrap_or(RUNS), "UDP blocked") {
        blocked.push(by_signal()?);
        natdiscovery_blocked.push(theirs(&site.host)?);
    }
    drop(std::fs::remove_file(&recording));
    let peer = "natdiscovery";
    let theirs = median(natdiscovery_took);
    let row = |what, ours, theirs, limit| Comparison::new(what, "ms", ours, peer, theirs, Goal::AtMost(limit));
    let (direct, natdiscovery_direct) = (median(direct), median(natdiscovery_direct));
    let whole_direct = median(direct_whole);
    Ok(vec![
        row("no NAT: mapping, filtering and ports (--only nat), start to exit", direct, natdiscovery_direct, 25.0),
        Comparison {
            goal: Goal::None,
            ..row("no NAT: the whole check, start to exit", whole_direct, natdiscovery_direct, 0.0)
        },
        row("filtering NAT: start to mapping and filtering known", median(known), theirs, 1000.0),
        row("filtering NAT: the whole check", median(whole), theirs, 3000.0),
        row("UDP blocked: the whole check, with the cause", median(blocked), median(natdiscovery_blocked), 3000.0),
    ])
}

fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}

/// From a recording: from its first event to the later of the two answers.
fn until_known(recording: &str) -> f64 {
    let events = || recording.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let at = |event: &Value| event["at"].as_f64();
    let told = |what: &str| events().find(|event| event["measurement"] == what).as_ref().and_then(at);
    match (events().next().as_ref().and_then(at), told("mapping"), told("filtering")) {
        (Some(begin), Some(mapping), Some(filtering)) => (mapping.max(filtering) - begin) / 1000.0,
        _ => f64::NAN,
    }
}

/// A router with a closed NAT and a host behind it, and a host without one, in namespaces of their own; the server is in
/// this one.
struct Site {
    router: String,
    host: String,
    direct: String,
}

impl Site {
    fn new() -> Result<Self> {
        let name = |what: &str| format!("whyrelay-bench-{}-{what}", std::process::id());
        let site = Self { router: name("router"), host: name("host"), direct: name("direct") };
        let Self { router, host, direct } = &site;
        shell(&format!(
            "ip netns add {router}; ip netns add {host}; ip netns add {direct}
             ip link add plug2 type veth peer name eth0 netns {direct}
             ip address add 11.0.114.1/24 dev plug2; ip link set plug2 up
             ip -n {direct} link set lo up
             ip -n {direct} address add 11.0.114.2/24 dev eth0; ip -n {direct} link set eth0 up
             ip -n {direct} route add 11.0.113.0/24 via 11.0.114.1
             ip link add plug type veth peer name wan netns {router}
             ip -n {router} link add lan type veth peer name eth0 netns {host}
             ip address add {FIRST}/24 dev plug; ip address add {SECOND}/24 dev plug; ip link set plug up
             ip -n {router} address add 11.0.113.11/24 dev wan; ip -n {router} link set wan up
             ip -n {router} address add 192.168.1.1/24 dev lan; ip -n {router} link set lan up
             ip -n {host} link set lo up
             ip -n {host} address add 192.168.1.2/24 dev eth0; ip -n {host} link set eth0 up
             ip -n {host} route add default via 192.168.1.1
             ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1"
        ))?;
        site.nft(
            "table ip nat {\nchain post { type nat hook postrouting priority 100; oifname wan masquerade; }\n}\n\
             table ip filter {\nchain input { type filter hook input priority 0; policy drop; iifname lan accept; \
             ct state established,related accept; }\n}\n",
        )?;
        Ok(site)
    }

    fn block_udp(&self) -> Result<()> {
        self.nft("table ip block {\nchain f { type filter hook forward priority 0; meta l4proto udp drop; }\n}\n")
    }

    /// In the router.
    fn nft(&self, rules: &str) -> Result<()> {
        let mut nft = Command::new("ip");
        step::output(nft.args(["netns", "exec", &self.router, "nft", rules])).map(drop)
    }

    /// Until the server answers both hosts: links take up to a second to come up.
    fn wait_for_server(&self) -> Result<()> {
        let script = format!(
            "for i in $(seq 100); do (: </dev/tcp/{FIRST}/8080) 2>/dev/null && exit 0; sleep 0.1; done; exit 1"
        );
        for host in [&self.host, &self.direct] {
            step::output(command(host, "bash").args(["-c", &script])).context("the server does not answer")?;
        }
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for name in [&self.host, &self.direct, &self.router] {
            drop(step::output(Command::new("ip").args(["netns", "delete", name])));
        }
    }
}

/// On a host.
fn command(host: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host, program]);
    command
}

fn shell(script: &str) -> Result<()> {
    step::output(Command::new("sh").args(["-e", "-c", script])).map(drop)
}
