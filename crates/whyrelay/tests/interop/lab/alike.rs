//! Scenarios that are no files of ours, because each is only about one word: both worlds make the same of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, ensure};
use whyrelay_lab::kernel::{Conditions, RouterChoice, run_kernel};
use whyrelay_lab::run::run_virtual;
use whyrelay_lab::scenario::Scenario;
use whyrelay_lab::scenario::file::Path as Outcome;

use crate::suite::{Suite, Tool, each};

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("lab::both_worlds_read_a_file_the_same_way", &tools, alike);
    suite.test("lab::a_session_of_another_user_runs_whatever_is_closed_to_that_user", &tools, closed_to_users);
}

/// A session whose mark leads into nothing: what a filter does to the mark decides.
const MARKED: &str = "[host.a]\nsession.mark = \"0x1\"\n\
                      [[host.a.rule]]\npriority = 100\nfwmark = \"0x7\"\naction = \"blackhole\"\n";

/// What is said, the scenario, and what comes of it.
fn cases() -> Vec<(&'static str, String, Outcome)> {
    let filter = |hook: &str, keys: &str| format!("[[host.a.firewall]]\nhook = {hook:?}\n{keys}\n");
    let accept = filter("output", "verdict = \"accept\"\nipproto = \"udp\"\nto = \"peer\"");
    let mark = filter("output", "verdict = \"set-mark\"\nmark = \"0x7\"\nipproto = \"udp\"\nto = \"peer\"");
    let drop_marked = |hook| filter(hook, "verdict = \"drop\"\nfwmark = \"0x7\"");
    let mark_peer = filter("prerouting", "verdict = \"set-mark\"\nmark = \"0x7\"\nfrom = \"peer\"");
    let homes = "[host.a]\nbehind = \"home-router\"\n";
    let unmarked = "[host.a]\nsession.mark = \"0x1\"\n";
    let home_b = "[host.b]\nbehind = \"home-router\"\n";
    vec![
        ("accepted before it is marked", format!("{MARKED}{accept}{mark}[host.b]\n"), Outcome::Direct),
        ("marked before it is accepted", format!("{MARKED}{mark}{accept}[host.b]\n"), Outcome::Relayed),
        (
            "marked, then dropped by the mark",
            format!("{unmarked}{mark}{}[host.b]\n", drop_marked("output")),
            Outcome::Relayed,
        ),
        ("dropped by a mark set later", format!("{unmarked}{}{mark}[host.b]\n", drop_marked("output")), Outcome::Direct),
        (
            "marked on arrival, then dropped",
            format!("{homes}{mark_peer}{}{home_b}", drop_marked("prerouting")),
            Outcome::Relayed,
        ),
        (
            "dropped by a mark that arrivals get later",
            format!("{homes}{}{mark_peer}{home_b}", drop_marked("prerouting")),
            Outcome::Direct,
        ),
        (
            "bridges with long names, with a dot, and parameters of theirs",
            "[host.a]\n[[host.a.interface]]\nname = \"br-0123456789ab\"\nkind = \"bridge\"\naddress = [\"172.18.0.1/16\"]\n\
             [[host.a.interface]]\nname = \"br1\"\nkind = \"bridge\"\n[[host.a.interface]]\nname = \"br1.0\"\n\
             kind = \"bridge\"\n[host.a.sysctl]\n\"net.ipv4.conf.br1.0.rp_filter\" = 1\n[host.b]\n"
                .to_owned(),
            Outcome::Direct,
        ),
        (
            "ports of a policy rule, from the first to the last",
            "[host.a]\n[[host.a.rule]]\npriority = 100\nipproto = \"udp\"\nto = \"peer\"\ndport = \"1-65534\"\n\
             action = \"prohibit\"\n[host.b]\n"
                .to_owned(),
            Outcome::Relayed,
        ),
        (
            "signaling that is later than the program waits",
            "[host.a]\n[host.b]\n[signaling.a]\ndelay = \"25s\"\n".to_owned(),
            Outcome::Failed,
        ),
        (
            "a start that is later than the program waits, which waits so much longer",
            "[host.a]\nsession.starts = \"22s\"\n[host.b]\n".to_owned(),
            Outcome::Direct,
        ),
    ]
}

fn alike() -> Result<()> {
    let (cases, interrupted) = (cases(), AtomicBool::new(false));
    let program = Path::new(env!("CARGO_BIN_EXE_whyrelay"));
    let routers = RouterChoice::AsDescribed;
    let conditions = Conditions { program, routers, certify: None, interrupted: &interrupted };
    each(&cases, 5, |(said, text, path)| {
        let text = format!("title = \"alike\"\n{text}[expect]\npath = \"direct\"\n");
        let topology = Scenario::parse("alike", &text).with_context(|| text.clone())?.topology;
        let simulated = run_virtual(&topology).path;
        let real = run_kernel(&topology, &conditions).with_context(|| format!("{said}:\n{text}"))?.observed.path;
        ensure!(
            simulated == Some(*path) && real == Some(*path),
            "{said}: {simulated:?} in virtual time, {real:?} between real kernels, expected {path:?}"
        );
        Ok(())
    })
}

/// A build in a home, a umask that leaves others nothing, and a /run that nobody has opened yet.
fn closed_to_users() -> Result<()> {
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700))?;
    let program = directory.path().join("whyrelay");
    std::fs::copy(env!("CARGO_BIN_EXE_whyrelay"), &program)?;
    let script = "mount -t tmpfs tmpfs /run && umask 077 && exec \"$0\" lab run --kernel policy-rule-by-user";
    let output = Command::new("unshare").args(["--mount", "sh", "-c", script]).arg(&program).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.contains("1 scenario, all as expected"), "{said}\n{stderr}");
    Ok(())
}
