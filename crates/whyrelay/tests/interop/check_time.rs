//! How long `whyrelay check` takes: the whole of it, and until mapping and filtering are known.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use whyrelay_lab::kernel::{Lab, Plan, RouterChoice};
use whyrelay_lab::scenario::Scenario;

use crate::check::{behavior, check, check_by, findings, missing, our_server};
use crate::check_lab::serve;
use crate::check_loss::{KNOWN, WHOLE, known_after, recorded};
use crate::router::{Internet, Nat};
use crate::suite::{Suite, Tool};

/// Runs of each; the slowest counts.
const RUNS: usize = 3;

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_time::blocked_udp_is_named_within_three_seconds", &tools, blocked);
    suite.test("check_time::mapping_and_filtering_are_known_within_a_second", &tools, known);
    suite.test("check_time::a_slow_network_takes_no_longer_and_blames_nobody", &tools, slow);
}

/// A round trip of 600 ms, and 10 % of packets lost each way: there is no time for everything, which is said, and with more
/// of it all is found.
fn slow() -> Result<()> {
    const MAPPING: &str = "endpoint-independent";
    const FILTERING: &str = "address-and-port-dependent";
    let text = format!(
        "title = \"A slow link that loses packets\"\n\
         [router.nat]\nmapping = \"{MAPPING}\"\nfiltering = \"{FILTERING}\"\nports = \"preserving\"\n\
         overloading = false\n\
         [host.a]\nbehind = \"nat\"\nlink = {{ delay = \"300ms\", loss = 10.0 }}\n\
         [host.b]\nbehind = \"home-router\"\n\
         [expect]\npath = \"direct\"\n"
    );
    let scenario = Scenario::parse("check-slow", &text)?;
    let lab = Lab::up(Plan::of(&scenario.topology, RouterChoice::UserSpace)?)?;
    let (server, url) = serve(&lab, &scenario)?;
    let stun = format!("stun:{}:3478", scenario.topology.server_address());
    for by in [["--stun", stun.as_str()], ["--signal", url.as_str()]] {
        for _ in 0..RUNS {
            let file = tempfile::NamedTempFile::new()?;
            let path = file.path().display().to_string();
            let mut command = lab.command("a", env!("CARGO_BIN_EXE_whyrelay"))?;
            let (json, ours) = check_by(&mut command, &[&by[..], &["--record", &path]].concat())?;
            let context = || format!("{by:?}: {}\n{}", ours.account, server.account());
            let whole = recorded(&std::fs::read(file.path())?)?;
            println!("{by:?}: {} ms in all", whole.as_millis());
            ensure!(whole < WHOLE, "{whole:?} in all: {}", context());
            // No server is called silent that had no time to answer; signaling itself may have been lost.
            let wrong = findings(&json).iter().any(|name| *name != "signaling-failed");
            ensure!(!wrong, "{:?}: {}", findings(&json), context());
            let told = missing(&json);
            let more = told.iter().any(|told| told.contains("--time"));
            ensure!(more || !findings(&json).is_empty(), "{told:#?}: {}", context());
        }
    }
    let mut command = lab.command("a", env!("CARGO_BIN_EXE_whyrelay"))?;
    let (json, ours) = check_by(&mut command, &["--stun", &stun, "--time", "15s"])?;
    let known = (behavior(&json, "mapping"), behavior(&json, "filtering"));
    ensure!(known == (MAPPING, FILTERING), "{known:?}: {}\n{}", ours.account, server.account());
    let told = missing(&json);
    ensure!(!told.iter().any(|told| told.contains("--time")), "{told:#?}: {}", ours.account);
    Ok(())
}

fn blocked() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::NoUdp)?;
    for run in 1..=RUNS {
        let file = tempfile::NamedTempFile::new()?;
        let path = file.path().display().to_string();
        let began = Instant::now();
        let (json, ours) = check(&site.host, &["--signal", server.url(), "--record", &path])?;
        let took = began.elapsed();
        ensure!(findings(&json).first() == Some(&"udp-blocked"), "{}", ours.account);
        let recorded = recorded(&std::fs::read(file.path())?)?;
        println!("run {run}: {} ms, of which {} ms are recorded", took.as_millis(), recorded.as_millis());
        ensure!(took < WHOLE, "run {run} took {took:?}, of which {recorded:?} are recorded: {}", ours.account);
    }
    Ok(())
}

fn known() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    for run in 1..=RUNS {
        let file = tempfile::NamedTempFile::new()?;
        let path = file.path().display().to_string();
        let began = Instant::now();
        let (_, ours) = check(&site.host, &["--signal", server.url(), "--record", &path])?;
        let took = began.elapsed();
        let known = known_after(&std::fs::read(file.path())?).with_context(|| ours.account.clone())?;
        println!("run {run}: known after {} ms, {} ms in all", known.as_millis(), took.as_millis());
        ensure!(known < KNOWN, "run {run}: known after {known:?}: {}", ours.account);
        ensure!(took < WHOLE, "run {run} took {took:?}: {}", ours.account);
    }
    Ok(())
}
