//! `whyrelay check` behind the NATs that no kernel has: the laboratory's user-space router, as the scenario describes it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use whyrelay_lab::kernel::{Lab, Plan, RouterChoice};
use whyrelay_lab::scenario::Scenario;

use crate::check::{behavior, check_by, measured};
use crate::process::Process;
use crate::suite::{Suite, Tool};

/// As the scenarios' names have them.
const WORDS: [(&str, &str); 3] =
    [("ei", "endpoint-independent"), ("ad", "address-dependent"), ("apd", "address-and-port-dependent")];

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_lab::knows_all_nine_kinds_of_nat_in_user_space", &tools, nine_kinds);
}

fn nine_kinds() -> Result<()> {
    for (mapping, mapping_words) in WORDS {
        for (filtering, filtering_words) in WORDS {
            let name = format!("nat-{mapping}-{filtering}-against-home");
            let scenario = Scenario::find(&name)?;
            let lab = Lab::up(Plan::of(&scenario.topology, RouterChoice::UserSpace)?)?;
            let (server, url) = serve(&lab, &scenario)?;
            let mut command = lab.command("a", env!("CARGO_BIN_EXE_whyrelay"))?;
            let (json, ours) = check_by(&mut command, &["--signal", &url])?;
            let context = || format!("{name}\n{}\n{}", ours.account, server.account());
            let known = (behavior(&json, "mapping"), behavior(&json, "filtering"));
            ensure!(known == (mapping_words, filtering_words), "{known:?}: {}", context());
            ensure!(measured(&json, "early-arrival").is_some(), "{}", context());
        }
    }
    Ok(())
}

/// A server with a second address, which the laboratory's own has not.
fn serve(lab: &Lab, scenario: &Scenario) -> Result<(Process, String)> {
    let first = scenario.topology.server_address();
    let second = "198.51.100.200";
    let add = format!(
        "device=$(ip -o address show to {first} | awk '{{ print $2; exit }}'); ip address add {second}/24 dev $device;
         for i in $(seq 200); do ip link show $device | grep -q 'state UP' && exit 0; sleep 0.01; done; exit 1"
    );
    let added = lab.command("server", "sh")?.args(["-e", "-c", &add]).output()?;
    ensure!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let mut command = lab.command("server", env!("CARGO_BIN_EXE_whyrelay"))?;
    command.args(["serve", "--listen", &format!("{first}:8080"), "--stun-listen", &format!("{first}:3478")]);
    // The laboratory's Internet has documentation addresses.
    command.args(["--alternate-address", second, "--allow-peer", "203.0.113.0/24", "--allow-peer", "198.51.100.0/24"]);
    let server = Process::start("whyrelay serve", &mut command)?;
    let url = format!("http://{first}:8080");
    server.line(Duration::from_secs(10), |line| line.contains(&url)).context("it does not listen")?;
    Ok((server, url))
}
