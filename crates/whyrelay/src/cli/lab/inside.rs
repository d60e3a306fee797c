//! `whyrelay lab exec`, `shell` and `clean`: programs inside a network of namespaces.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use whyrelay_lab::kernel::{self, Conditions, Lab, LabError, Plan, Services, SessionArguments, privilege, state};
use whyrelay_lab::scenario::{Scenario, Topology};

use super::args::inside::{ExecArgs, PlaceArgs, ShellArgs};
use super::certify::certify;
use super::kernel::watch_interrupts;
use crate::cli::{HEALTHY, answer, runtime};

/// As a shell answers it.
const NO_SUCH_PROGRAM: u8 = 127;

pub(super) fn exec(args: &ExecArgs) -> anyhow::Result<u8> {
    if let Some(program) = args.command.first().filter(|program| !is_there(Path::new(program))) {
        crate::tell!(
            "error: there is no program {}\n\
             hint: the hosts of a lab have this machine's own programs: install it, or run another, like ip",
            program.display()
        );
        return Ok(NO_SUCH_PROGRAM);
    }
    run_inside(&args.place, &args.command)
}

pub(super) fn shell(args: &ShellArgs) -> anyhow::Result<u8> {
    let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into());
    run_inside(&args.place, &[shell])
}

pub(super) fn clean() -> anyhow::Result<u8> {
    let removed = state::clean().context("removing what interrupted labs have left")?;
    let mut text = String::new();
    for record in &removed {
        text.push_str(&format!(
            "removed {} ({}): {} namespaces\n",
            record.id,
            record.scenario,
            record.namespaces.len()
        ));
    }
    for record in state::all().iter().filter(|record| record.owner_lives()) {
        text.push_str(&format!("kept {} ({}): process {} uses it\n", record.id, record.scenario, record.pid));
    }
    if text.is_empty() {
        text.push_str("nothing was left\n");
    }
    answer(&text)?;
    Ok(HEALTHY)
}

/// Builds the network, serves in it, runs the program, and answers its exit status; tells of what is left of it.
fn run_inside(place: &PlaceArgs, command: &[OsString]) -> anyhow::Result<u8> {
    let status = run_in(place, command);
    if let Some(left) = super::left() {
        crate::tell!("{left}");
    }
    status
}

fn run_in(place: &PlaceArgs, command: &[OsString]) -> anyhow::Result<u8> {
    let scenario = Scenario::find(&place.scenario)?;
    let topology = &scenario.topology;
    let routers = place.routers.into();
    let plan = Plan::of(topology, routers)?;
    // Before the first thread: the kernel wants it so.
    privilege::acquire()?;
    // A signal that comes while the lab is made ends it at once, and as properly as later ones.
    let interrupted = watch_interrupts()?;
    let program = std::env::current_exe().context("finding this program's own file")?;
    let conditions = Conditions { program: &program, routers, certify: Some(certify), interrupted: &interrupted };
    for missing in kernel::missing_inside(topology, &place.host) {
        crate::tell!("left out: {missing}");
    }
    let lab = Lab::up_unless(plan, &interrupted)?;
    let services = Services::start(&lab, topology, &conditions);
    let _services = services.map_err(|error: LabError| error.or_interrupted(&interrupted))?;
    let (first, rest) = command.split_first().context("no command")?;
    let mut inside = lab.command(&place.host, first)?;
    inside.args(rest).env("WHYRELAY_SIGNAL", kernel::signal_url(topology, &place.host)).env("WHYRELAY_LAB", lab.id());
    let peer = topology.hosts.iter().position(|host| host.name == place.host);
    let peer = peer.filter(|peer| *peer < topology.sessions.len());
    let sessions = SessionArguments::of_all(&lab, topology);
    if let Some(SessionArguments { arguments, signal, .. }) = peer.and_then(|peer| sessions.get(peer)) {
        inside.env("WHYRELAY_SIGNAL", signal).env("WHYRELAY_LAB_SESSION", arguments.join(" "));
    }
    // For who goes on to a peer from here (`ip netns exec`), and takes this environment along. One password is everybody's.
    for (peer, SessionArguments { arguments, password, .. }) in sessions.iter().enumerate() {
        inside.env(variable(topology, peer), arguments.join(" "));
        if let Some(password) = password {
            inside.env("TURN_PASSWORD", password);
        }
    }
    if is_shell(first, command) {
        crate::tell!("{}", greeting(&scenario, &lab, &place.host, peer));
        inside.env("PS1", format!("{}:{}$ ", scenario.name, place.host));
    }
    runtime()?.block_on(run(inside, &interrupted))
}

/// Runs it to its end, or to that of the lab.
async fn run(inside: std::process::Command, interrupted: &AtomicBool) -> anyhow::Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut child = tokio::process::Command::from(inside).kill_on_drop(true).spawn().context("starting it")?;
    // What came before the program did not reach it.
    anyhow::ensure!(!interrupted.load(Ordering::Relaxed), LabError::Interrupted);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            // It is the program's, which has got it, too.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => child.start_kill()?,
            _ = hangup.recv() => child.start_kill()?,
        }
    };
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Where every program inside finds what the scenario says of a peer's session: `WHYRELAY_LAB_SESSION_A` and `_B`.
fn variable(topology: &Topology, peer: usize) -> String {
    format!("WHYRELAY_LAB_SESSION_{}", topology.hosts[peer].name.to_ascii_uppercase())
}

/// Whether a program can be found as `execvp` finds it.
fn is_there(program: &Path) -> bool {
    if program.components().count() > 1 || program.is_absolute() {
        return program.exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn is_shell(first: &OsStr, command: &[OsString]) -> bool {
    command.len() == 1 && std::env::var_os("SHELL").is_none_or(|shell| shell == first)
}

fn greeting(scenario: &Scenario, lab: &Lab, host: &str, peer: Option<usize>) -> String {
    let session = peer.map_or_else(String::new, |peer| {
        let (verb, answers) = if peer == 0 { ("offer", "answer") } else { ("answer", "offer") };
        let other = &scenario.topology.hosts[1 - peer].name;
        format!(
            ", WHYRELAY_LAB_SESSION has what the scenario says of {host}'s session:\n  \
             whyrelay {verb} $WHYRELAY_LAB_SESSION\n\
             and the other peer's is\n  \
             ip netns exec {}-{other} whyrelay {answers} ${}",
            lab.id(),
            variable(&scenario.topology, 1 - peer)
        )
    });
    format!(
        "{}: {}\nYou are on {host}. There are also {}: ip netns exec {}-NAME …\n\
         `whyrelay serve` runs on server; WHYRELAY_SIGNAL is the way to it{session}\nLeaving the shell removes everything.",
        scenario.name,
        scenario.topology.title,
        lab.nodes().iter().filter(|node| *node != host).map(String::as_str).collect::<Vec<_>>().join(", "),
        lab.id(),
    )
}
