//! Direct means direct between real kernels, too: the cut of the relay ends what needs it, whoever says otherwise.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Result, ensure};
use whyrelay_lab::kernel::{Conditions, RouterChoice, run_kernel};
use whyrelay_lab::run::{Observed, judge};
use whyrelay_lab::scenario::file::Path as Outcome;
use whyrelay_lab::scenario::{Scenario, Topology};

use crate::suite::{Suite, Tool};

const WHYRELAY: &str = env!("CARGO_BIN_EXE_whyrelay");

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("lab::a_relayed_session_that_says_it_is_direct_dies_by_the_cut", &tools, a_liar_is_caught);
    suite.test("lab::a_direct_session_that_says_it_is_relayed_or_failed_is_caught", &tools, the_other_liars_are_caught);
}

/// whyrelay, but that its sessions use the relay alone and call that direct, in what they say and in their account.
fn liar(directory: &Path) -> Result<PathBuf> {
    script(
        &directory.join("liar"),
        &format!(
            "{{ {WHYRELAY} \"$@\" --relay-only 2>&1 >&3 3>&- | sed -u '/ path: /s/relay[a-z]*/host/g' >&2; }} 3>&1 |\n\
             sed 's/\"path\": *\"relayed\"/\"path\": \"direct\"/'\n"
        ),
    )
}

/// whyrelay, but that the account of a direct session has another path.
fn liar_that_says(directory: &Path, path: &str) -> Result<PathBuf> {
    let lie = format!("{WHYRELAY} \"$@\" | sed 's/\"path\": *\"direct\"/\"path\": \"{path}\"/'\n");
    script(&directory.join(path), &lie)
}

/// A program in whyrelay's place, with something else for its sessions.
fn script(file: &Path, session: &str) -> Result<PathBuf> {
    let text = format!("#!/bin/sh\ncase $1 in offer | answer) ;; *) exec {WHYRELAY} \"$@\" ;; esac\n{session}");
    std::fs::write(file, text)?;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))?;
    Ok(file.to_owned())
}

fn run(topology: &Topology, program: &Path) -> Result<Observed> {
    let interrupted = AtomicBool::new(false);
    let routers = RouterChoice::AsDescribed;
    let conditions = Conditions { program, routers, certify: None, interrupted: &interrupted };
    Ok(run_kernel(topology, &conditions)?.observed)
}

fn a_liar_is_caught() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let liar = liar(directory.path())?;
    let topology = Scenario::find("two-homes")?.topology;
    // Where the scenario expects a relayed path nothing is cut, and the lie is believed: data passes.
    let mut uncut = topology.clone();
    uncut.expect.path = Outcome::Relayed;
    let (cut, uncut) = std::thread::scope(|scope| {
        let cut = scope.spawn(|| run(&topology, &liar));
        let uncut = run(&uncut, &liar);
        (cut.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), uncut)
    });
    let (cut, uncut) = (cut?, uncut?);
    ensure!(uncut.path == Some(Outcome::Direct) && !uncut.relay_cut, "the liar is no liar: {:?}", uncut.path);
    ensure!(uncut.contradictions.is_empty(), "no data passed although nothing was cut: {:?}", uncut.contradictions);

    ensure!(cut.path == Some(Outcome::Direct) && cut.relay_cut, "{:?}, cut: {}", cut.path, cut.relay_cut);
    let problems = judge(&topology, &cut).problems;
    for side in ["A", "B"] {
        let told = format!("no data passed at {side}");
        ensure!(problems.iter().any(|problem| problem.contains(&told)), "{told:?} is not in {problems:?}");
    }
    Ok(())
}

/// Data passes, and not by the relay: neither lie can be believed, where nothing was cut.
fn the_other_liars_are_caught() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let topology = Scenario::find("two-homes")?.topology;
    for (lie, path, told) in [
        ("relayed", Outcome::Relayed, ["relayed, and yet the relay carried no data"; 2]),
        ("failed", Outcome::Failed, ["failed, and yet data passed at A", "failed, and yet data passed at B"]),
    ] {
        let mut uncut = topology.clone();
        uncut.expect.path = path;
        let observed = run(&uncut, &liar_that_says(directory.path(), lie)?)?;
        ensure!(observed.path == Some(path) && !observed.relay_cut, "the liar is no liar: {:?}", observed.path);
        ensure!(observed.relayed_data == Some(0), "{lie}: the relay carried {:?}", observed.relayed_data);
        let problems = judge(&uncut, &observed).problems;
        for told in told {
            ensure!(problems.iter().any(|problem| problem == told), "{lie}: {told:?} is not in {problems:?}");
        }
    }
    Ok(())
}
