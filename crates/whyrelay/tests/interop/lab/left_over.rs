//! Nothing of a lab is left, whatever ends it, and nothing else is touched.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::namespace::Namespace;
use crate::process::{Finished, Process};
use crate::suite::{Suite, Tool};

const WHYRELAY: &str = env!("CARGO_BIN_EXE_whyrelay");
const LIMIT: Duration = Duration::from_secs(20);
/// When what was still being built would be there: at once, or by an `ip` that begins late.
const SOON: Duration = Duration::from_millis(300);
const LATE: Duration = Duration::from_millis(1500);

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("lab::clean_removes_what_a_killed_lab_left_and_only_that", &tools, killed);
    suite.test("lab::clean_removes_what_a_killed_run_left_whatever_ran_in_it", &tools, killed_while_running);
    suite.test("lab::clean_works_from_inside_ip_netns_exec_and_on_labs_made_there", &tools, inside_exec);
    suite.test("lab::nothing_is_left_after_ctrl_c", &tools, interrupted);
    suite.test("lab::ctrl_c_leaves_the_table_of_what_finished", &tools, interrupted_in_the_middle);
    suite.test("lab::what_cannot_be_removed_is_not_called_removed", &tools, not_removed);
    suite.test("lab::a_signal_ends_exec_while_it_builds", &tools, interrupted_exec);
    suite.test("lab::clean_ends_what_a_killed_lab_was_still_building", &tools, killed_while_building);
    suite.test("lab::clean_leaves_a_lab_of_another_pid_namespace", &tools, other_process_ids);
    suite.test("lab::nothing_is_left_of_what_begins_others_all_the_time", &tools, storm);
    suite.test("lab::labs_side_by_side_touch_neither_each_other_nor_the_machine", &tools, side_by_side);
    suite.test("lab::works_without_root_or_says_what_to_do", &tools, without_root);
    suite.test("lab::a_limit_of_namespaces_is_named_with_its_setting", &tools, limits_are_named);
    suite.test("lab::a_missing_program_is_told_once", &tools, a_missing_program);
    suite.test("lab::without_ip_nothing_is_left_and_what_is_left_goes", &tools, without_ip);
    suite.test("lab::a_killed_lab_without_root_leaves_no_process", &tools, killed_without_root);
    suite.test("lab::without_root_another_users_lab_is_told_and_left", &tools, another_users);
    suite.test("lab::without_root_what_takes_root_or_tun_is_left_out", &tools, left_out_without_root);
}

/// whyrelay in a namespace that stands for a machine, without the file systems of its own that `ip netns exec` gives.
fn on(machine: &Namespace) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", machine.name())).arg(WHYRELAY);
    command
}

/// A lab that is up: its process says so from inside.
struct Up {
    process: Process,
    id: String,
}

impl Up {
    fn start(machine: &Namespace) -> Result<Self> {
        Self::start_by(on(machine))
    }

    fn start_by(command: Command) -> Result<Self> {
        Self::start_beside(command, "")
    }

    /// The same with something that runs beside.
    fn start_beside(mut command: Command, beside: &str) -> Result<Self> {
        // The name of the inner shell tells whose it is.
        let inside = "exec sh -c 'sleep 600; :' /run/whyrelay-lab/$WHYRELAY_LAB/inside >&- 2>&-";
        let inside = format!("echo in $WHYRELAY_LAB; {beside}{inside}");
        command.args(["lab", "exec", "two-homes", "a", "--", "sh", "-c", &inside]);
        let process = Process::start("whyrelay lab exec", &mut command)?;
        let line = process.line(LIMIT, |line| line.contains("in wrl"))?;
        let id = line.split_whitespace().last().context("no id")?.to_owned();
        Ok(Self { process, id })
    }
}

/// The named namespaces of a lab, and processes with its id in their environment or arguments.
pub(super) fn namespaces(id: &str) -> Result<BTreeSet<String>> {
    let list = std::fs::read_dir("/run/netns").context("reading /run/netns")?;
    let names = list.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.starts_with(&format!("{id}-")) || name.starts_with(&format!("{id}+"))).collect())
}

/// What a machine's own network is made of.
fn network_of(machine: &Namespace) -> Result<String> {
    let mut state = String::new();
    for command in [
        "ip -d link",
        "ip address",
        "ip rule",
        "ip route show table all",
        "ip -6 rule",
        "ip neighbor show nud permanent",
        "nft list ruleset",
        "grep -H . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv[46]/conf/*/forwarding /proc/sys/net/ipv4/conf/*/rp_filter",
    ] {
        let output = machine.command("sh").args(["-c", command]).output()?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        state.push_str(&format!("{command}\n{}", String::from_utf8_lossy(&output.stdout)));
    }
    Ok(state)
}

fn clean(machine: &Namespace) -> Result<Finished> {
    Process::start("whyrelay lab clean", on(machine).args(["lab", "clean"]))?.finish(LIMIT)
}

fn killed() -> Result<()> {
    // A namespace stands for the machine, because others may work on the real one meanwhile.
    let machine = Namespace::new()?;
    let before = network_of(&machine)?;
    let (killed, alive) = (Up::start(&machine)?, Up::start(&machine)?);
    ensure!(killed.id != alive.id, "two labs have one name");
    ensure!(network_of(&machine)? == before, "the machine's own network is touched: {}", network_of(&machine)?);
    ensure!(!namespaces(&killed.id)?.is_empty(), "there is nothing to remove");
    let mine = namespaces(&alive.id)?;

    killed.process.signal(Signal::SIGKILL)?;
    killed.process.finish(LIMIT)?;
    ensure!(!namespaces(&killed.id)?.is_empty(), "a killed lab removed its own namespaces: the test tests nothing");
    let said = clean(&machine)?;
    ensure!(said.stdout.contains(&format!("removed {}", killed.id)), "{}", said.account);
    ensure!(said.stdout.contains(&format!("kept {}", alive.id)), "{}", said.account);
    ensure!(namespaces(&killed.id)?.is_empty(), "left: {:?}", namespaces(&killed.id)?);
    gone(&killed.id)?;
    ensure!(namespaces(&alive.id)? == mine, "the other lab was touched");
    ensure!(network_of(&machine)? == before, "the machine's own network is touched");

    alive.process.signal(Signal::SIGTERM)?;
    alive.process.finish(LIMIT)?;
    ensure!(namespaces(&alive.id)?.is_empty(), "left: {:?}", namespaces(&alive.id)?);
    gone(&alive.id)?;
    ensure!(network_of(&machine)? == before, "the machine's own network is touched");
    Ok(())
}

/// To whom cleans up, the process id of its owner is nobody's, or another's.
fn other_process_ids() -> Result<()> {
    let machine = Namespace::new()?;
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", machine.name()));
    command.args(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", WHYRELAY]);
    let alive = Up::start_by(command)?;
    let mine = namespaces(&alive.id)?;
    ensure!(!mine.is_empty(), "there is nothing to remove");
    let said = clean(&machine)?;
    ensure!(said.stdout.contains(&format!("kept {}", alive.id)), "{}", said.account);
    ensure!(namespaces(&alive.id)? == mine, "left: {:?} of {mine:?}", namespaces(&alive.id)?);

    // Its lock ends with it.
    alive.process.signal(Signal::SIGKILL)?;
    alive.process.finish(LIMIT)?;
    gone(&alive.id)?;
    let said = clean(&machine)?;
    ensure!(said.stdout.contains(&format!("removed {}", alive.id)), "{}", said.account);
    ensure!(namespaces(&alive.id)?.is_empty(), "left: {:?}", namespaces(&alive.id)?);
    Ok(())
}

/// A shell that begins one program after the other in the background is not done when the lab is.
fn storm() -> Result<()> {
    let machine = Namespace::new()?;
    // Its own, by which this test's are known.
    let seconds = format!("{}.5", 1_000_000 + std::process::id());
    let inside = format!("(while :; do sleep {seconds} & done) & sleep 0.3");
    let left = || -> Result<Vec<i32>> {
        let mut left = Vec::new();
        for process in std::fs::read_dir("/proc")?.flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let pid = process.file_name().to_string_lossy().parse::<i32>();
            left.extend(pid.ok().filter(|_| line == format!("sleep\0{seconds}\0").into_bytes()));
        }
        Ok(left)
    };
    let mut command = on(&machine);
    command.args(["lab", "exec", "public-hosts", "a", "--", "sh", "-c", &inside]);
    let finished = Process::start("whyrelay lab exec", &mut command)?.finish(LIMIT)?;
    std::thread::sleep(SOON);
    let left = left()?;
    for pid in &left {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGKILL);
    }
    ensure!(left.is_empty(), "{} are left: {}", left.len(), finished.account);
    Ok(())
}

/// All that a run can start, by threads of its own and by what stands in command lines: routers in user space, cables, and
/// a server with a certificate for TURN over TLS.
const RUNS: [(&str, &str); 3] =
    [("symmetric-against-home", "lab router"), ("bad-link", "lab wire"), ("tls-on-443", "--tls-cert")];

fn killed_while_running() -> Result<()> {
    let machine = Namespace::new()?;
    let before = network_of(&machine)?;
    for (scenario, wanted) in RUNS {
        let mut command = on(&machine);
        command.args(["lab", "run", "--kernel", scenario]);
        let process = Process::start("whyrelay lab run", &mut command)?;
        let run = run_id(process.id())?;
        let id = format!("{run}-0");
        Stage::Running.wait(&run)?;
        let (threads, commands) = (threads(process.id())?, commands(&id)?);
        process.signal(Signal::SIGKILL)?;
        let killed = process.finish(LIMIT)?;
        ensure!(!killed.status.success(), "{scenario}: it was not killed: {}", killed.account);
        ensure!(
            threads.contains(wanted) || commands.contains(wanted),
            "{scenario}: no {wanted:?}: {threads:?} {commands}"
        );
        ensure!(commands.contains(" serve ") && commands.contains(" answer "), "{scenario}: {commands}");
        // The server ends with the run, and a session may, because of that.
        ensure!(!namespaces(&id)?.is_empty(), "{scenario}: there is nothing to remove");
        let said = clean(&machine)?;
        ensure!(said.stdout.contains(&format!("removed {id}")), "{scenario}: {}", said.account);
        nothing_left(&run, SOON, scenario)?;
        ensure!(network_of(&machine)? == before, "{scenario}: the machine's own network is touched");
    }
    Ok(())
}

/// The names of a process' threads.
fn threads(pid: u32) -> Result<BTreeSet<String>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    // One may end meanwhile.
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    Ok(names.map(|name| name.trim().to_owned()).collect())
}

/// The command lines of a lab's processes.
fn commands(id: &str) -> Result<String> {
    let found = Command::new("pgrep").args(["-fa", &format!("/run/whyrelay-lab/{id}/")]).output()?;
    Ok(String::from_utf8_lossy(&found.stdout).into_owned())
}

/// Where `ip netns exec` mounts names, nobody else sees them: a lab that was made there, or outside, is removed whole from
/// either place.
fn inside_exec() -> Result<()> {
    let machine = Namespace::new()?;
    let inside = || machine.command(WHYRELAY);
    for (made_inside, cleaned_inside) in [(false, true), (true, true), (true, false)] {
        let up = Up::start_by(if made_inside { inside() } else { on(&machine) })?;
        let said = format!("made inside: {made_inside}, cleaned inside: {cleaned_inside}");
        up.process.signal(Signal::SIGKILL)?;
        up.process.finish(LIMIT)?;
        let mut command = if cleaned_inside { inside() } else { on(&machine) };
        let cleaned = Process::start("whyrelay lab clean", command.args(["lab", "clean"]))?.finish(LIMIT)?;
        ensure!(cleaned.stdout.contains(&format!("removed {}", up.id)), "{said}: {}", cleaned.account);
        ensure!(namespaces(&up.id)?.is_empty(), "{said}: left: {:?}", namespaces(&up.id)?);
        gone(&up.id).context(said)?;
    }
    Ok(())
}

/// Whether a process of a lab runs.
fn is_there(id: &str) -> Result<bool> {
    let found = Command::new("pgrep").args(["-f", &format!("/run/whyrelay-lab/{id}/")]).output()?;
    Ok(!found.stdout.is_empty())
}

/// No process of a lab runs on.
pub(super) fn gone(id: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        if !is_there(id)? {
            return Ok(());
        }
        if begun.elapsed() > LIMIT {
            bail!("processes of {id} are left");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the ids of a process' labs begin with: its id, and when it began, in clock ticks since boot (proc(5)).
fn run_id(pid: u32) -> Result<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').context("no stat")?.1;
    let began: u64 = fields.split_whitespace().nth(19).context("no start time")?.parse()?;
    Ok(format!("wrl{pid}-{began:x}"))
}

/// How far a run of several labs is when it is interrupted, by what is there.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The first lab is written down, and nothing of it made.
    Begun,
    /// The first namespaces are there.
    Building,
    /// A host asks how its NAT behaves, which comes ahead of the session's server.
    Discovering,
    /// The session's server is being started, which comes after the network.
    Serving,
    /// A peer records, and will for a second at least.
    Running,
}

/// Whether something in a named namespace has a UDP socket.
fn has_udp_socket(namespace: &str) -> bool {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).args(["cat", "/proc/net/udp"]);
    // Its first line is a head.
    command.output().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).lines().nth(1).is_some())
}

impl Stage {
    /// Whether one of a run's labs is so far.
    fn is_reached(self, run: &str) -> bool {
        (0..3).any(|number| {
            let lab = Path::new("/run/whyrelay-lab").join(format!("{run}-{number}"));
            let serves = || lab.join("serve.log").exists();
            match self {
                Self::Begun => lab.with_extension("json").exists(),
                Self::Building => namespaces(&format!("{run}-{number}")).is_ok_and(|names| !names.is_empty()),
                Self::Discovering => {
                    let asks = |host| has_udp_socket(&format!("{run}-{number}-{host}"));
                    lab.join("serve-discovery.log").exists() && ["a", "b"].into_iter().any(asks) && !serves()
                }
                Self::Serving => serves(),
                Self::Running => {
                    let recorded = |side| lab.join(side).join("recording.jsonl").metadata();
                    ["a", "b"].into_iter().any(|side| recorded(side).is_ok_and(|file| file.len() > 0))
                }
            }
        })
    }
}

fn interrupted() -> Result<()> {
    let machine = Namespace::new()?;
    for (stage, signal) in [
        (Stage::Begun, Signal::SIGINT),
        (Stage::Discovering, Signal::SIGINT),
        (Stage::Serving, Signal::SIGTERM),
        (Stage::Running, Signal::SIGINT),
    ] {
        let mut command = on(&machine);
        command.args(["lab", "run", "--kernel", "--jobs", "3", "no-udp-on-both-sides", "two-homes", "server-silent"]);
        let process = Process::start("whyrelay lab run", &mut command)?;
        let id = run_id(process.id())?;
        stage.wait(&id)?;
        process.signal(signal)?;
        let finished = process.finish(LIMIT)?;
        ensure!(finished.status.code() == Some(2), "{stage:?}: {}", finished.account);
        ensure!(finished.account.contains("interrupted"), "{stage:?}: {}", finished.account);
        ensure!(namespaces(&id)?.is_empty(), "left at {stage:?}: {:?}", namespaces(&id)?);
        for number in 0..3 {
            gone(&format!("{id}-{number}"))?;
        }
    }
    Ok(())
}

fn interrupted_in_the_middle() -> Result<()> {
    let machine = Namespace::new()?;
    let mut command = on(&machine);
    command.args(["lab", "run", "--kernel", "--jobs", "1", "public-hosts", "no-udp-on-both-sides", "two-homes"]);
    let process = Process::start("whyrelay lab run", &mut command)?;
    process.line(LIMIT, |line| line.contains("[1/3] ok public-hosts"))?;
    process.signal(Signal::SIGINT)?;
    let finished = process.finish(LIMIT)?;
    ensure!(finished.status.code() == Some(2), "{}", finished.account);
    for words in ["1 scenario, all as expected", "interrupted: 2 scenarios not run"] {
        ensure!(finished.stdout.contains(words), "not {words:?}: {}", finished.account);
    }
    ensure!(!finished.account.contains("BROKEN"), "{}", finished.account);
    Ok(())
}

/// What cannot be removed is not called removed.
fn not_removed() -> Result<()> {
    let machine = Namespace::new()?;
    let directory = tempfile::tempdir()?;
    let real = crate::suite::path("NETNS")?;
    let refuses = format!("#!/bin/sh\n[ \"$1 $2\" = 'netns delete' ] && exit 1\nexec {} \"$@\"\n", real.display());
    program(&directory.path().join("ip"), &refuses)?;
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH")?);
    let mut command = on(&machine);
    command.env("PATH", &path).args(["lab", "run", "--kernel", "two-homes"]);
    let process = Process::start("whyrelay lab run", &mut command)?;
    let id = run_id(process.id())?;
    Stage::Running.wait(&id)?;
    process.signal(Signal::SIGINT)?;
    let finished = process.finish(LIMIT)?;
    let cleaned = clean(&machine)?;
    let said = format!("could not remove {id}-0 (two-homes); `whyrelay lab clean` does later");
    ensure!(finished.stdout.contains(&said), "not {said:?}: {}", finished.account);
    ensure!(!finished.account.contains("every network is removed"), "{}", finished.account);
    ensure!(cleaned.stdout.contains(&format!("removed {id}-0")), "{}", cleaned.account);
    nothing_left(&id, Duration::ZERO, "after `lab clean`")?;
    // Nor is it passed over where nothing is interrupted, whatever the format of the results.
    let runs: [&[&str]; 4] = [
        &["lab", "run", "--kernel", "public-hosts"],
        &["lab", "run", "--kernel", "--format", "json", "public-hosts"],
        &["lab", "run", "--kernel", "--format", "junit", "public-hosts"],
        &["demo", "--story", "homes", "--format", "json"],
    ];
    for arguments in runs {
        let mut command = on(&machine);
        command.env("PATH", &path).args(arguments);
        let process = Process::start("whyrelay", &mut command)?;
        let id = run_id(process.id())?;
        let finished = process.finish(LIMIT)?;
        let cleaned = clean(&machine)?;
        let said = format!("could not remove {id}-0");
        ensure!(finished.account.contains(&said), "{arguments:?}, not {said:?}: {}", finished.account);
        ensure!(finished.status.code() == Some(2), "{arguments:?}: {}", finished.account);
        ensure!(cleaned.stdout.contains(&format!("removed {id}-0")), "{}", cleaned.account);
    }
    Ok(())
}

impl Stage {
    /// Waits until one of a run's labs is so far.
    fn wait(self, run: &str) -> Result<()> {
        let begun = Instant::now();
        while !self.is_reached(run) {
            ensure!(begun.elapsed() < LIMIT, "{self:?} was never reached");
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }
}

/// A scenario whose network takes a while to build.
fn large() -> Result<tempfile::NamedTempFile> {
    let hosts: String = (0..24).map(|number| format!("[host.h{number}]\nbehind = \"home-router\"\n")).collect();
    let text = format!("title = \"many\"\n[host.a]\n[host.b]\n{hosts}[expect]\npath = \"direct\"\n");
    let file = tempfile::Builder::new().suffix(".toml").tempfile()?;
    std::fs::write(file.path(), text)?;
    Ok(file)
}

/// `lab exec` of a program that must not begin.
fn exec_large(machine: &Namespace, scenario: &Path) -> Result<(Process, String)> {
    exec_large_by(on(machine), scenario)
}

fn exec_large_by(mut command: Command, scenario: &Path) -> Result<(Process, String)> {
    command.args(["lab", "exec"]).arg(scenario).args(["a", "--", "sh", "-c", "echo it has begun; exec sleep 600"]);
    let process = Process::start("whyrelay lab exec", &mut command)?;
    let id = run_id(process.id())?;
    Ok((process, id))
}

/// The files of labs of a run.
fn files(run: &str) -> Result<BTreeSet<String>> {
    let list = std::fs::read_dir("/run/whyrelay-lab").context("reading /run/whyrelay-lab")?;
    let names = list.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.starts_with(&format!("{run}-"))).collect())
}

/// Nothing of a run is left, now and a moment later: what still builds would have made something by then.
fn nothing_left(run: &str, later: Duration, context: &str) -> Result<()> {
    for wait in [later, Duration::ZERO] {
        let (names, files) = (namespaces(&format!("{run}-0"))?, files(run)?);
        ensure!(names.is_empty() && files.is_empty(), "{context}: left: {names:?} {files:?}");
        gone(&format!("{run}-0")).with_context(|| context.to_owned())?;
        std::thread::sleep(wait);
    }
    Ok(())
}

fn interrupted_exec() -> Result<()> {
    let (machine, scenario) = (Namespace::new()?, large()?);
    for (stage, signal) in [
        (Stage::Begun, Signal::SIGINT),
        (Stage::Building, Signal::SIGINT),
        (Stage::Building, Signal::SIGHUP),
        (Stage::Serving, Signal::SIGTERM),
    ] {
        let (process, id) = exec_large(&machine, scenario.path())?;
        stage.wait(&id)?;
        process.signal(signal)?;
        let finished = process.finish(LIMIT)?;
        let context = format!("{signal} at {stage:?}: {}", finished.account);
        // Once it serves, the program may begin at any moment.
        let began = finished.stdout.contains("it has begun");
        ensure!(!began || matches!(stage, Stage::Serving), "it went on: {context}");
        ensure!(began || finished.status.code() == Some(2), "{context}");
        ensure!(began || finished.account.contains("interrupted"), "{context}");
        nothing_left(&id, SOON, &context)?;
    }
    Ok(())
}

/// A directory with an `ip` that begins late, as on a machine that is busy.
fn slow_ip() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    let real = crate::suite::path("NETNS")?;
    program(&directory.path().join("ip"), &format!("#!/bin/sh\nsleep 0.8\nexec {} \"$@\"\n", real.display()))?;
    Ok(directory)
}

/// Writes a program.
fn program(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text)?;
    std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// What it has started to build goes on without it: `ip` has its orders, and makes namespaces long after.
fn killed_while_building() -> Result<()> {
    let (machine, scenario) = (Namespace::new()?, large()?);
    let before = network_of(&machine)?;
    let slow = slow_ip()?;
    for (stage, late) in
        [(Stage::Begun, true), (Stage::Begun, false), (Stage::Building, false), (Stage::Serving, false)]
    {
        let mut command = on(&machine);
        if late {
            let path = std::env::var("PATH")?;
            command.env("PATH", format!("{}:{path}", slow.path().display()));
        }
        let (process, id) = exec_large_by(command, scenario.path())?;
        stage.wait(&id)?;
        if late {
            // By now it has its orders.
            std::thread::sleep(Duration::from_millis(100));
        }
        process.signal(Signal::SIGKILL)?;
        let killed = process.finish(LIMIT)?;
        ensure!(!killed.status.success(), "{stage:?}: it was not killed: {}", killed.account);
        let said = clean(&machine)?;
        ensure!(said.stdout.contains(&format!("removed {id}-0")), "{stage:?}: {}", said.account);
        nothing_left(&id, if late { LATE } else { SOON }, &format!("killed at {stage:?}"))?;
    }
    ensure!(network_of(&machine)? == before, "the machine's own network is touched");
    Ok(())
}

/// The machine has the labs' addresses itself, and rules against their networks; two labs are the same, and one is none
/// of theirs. Each comes out as if it were alone, and the machine's network is as before all the time.
fn side_by_side() -> Result<()> {
    let machine = Namespace::new()?;
    machine.shell(
        "ip link add up0 type veth peer name up1; ip address add 203.0.113.10/24 dev up0;
         ip address add 198.51.100.1/24 dev up0; ip link set up0 up; ip link set up1 up;
         ip route add blackhole 192.168.10.0/24; ip rule add to 203.0.113.0/24 blackhole priority 50;
         nft 'table inet own { chain in { type filter hook input priority 0; policy drop; };
              chain out { type filter hook output priority 0; policy drop; }; }'",
    )?;
    // A carrier comes a moment later.
    std::thread::sleep(Duration::from_millis(300));
    let before = network_of(&machine)?;
    ensure!(before.contains("table inet own") && before.contains("203.0.113.10/24"), "{before}");
    let mut running = Vec::new();
    for scenarios in [["two-homes", "symmetric-against-home"], ["two-homes", "vpn-marked-socket"]] {
        let mut command = on(&machine);
        command.args(["lab", "run", "--kernel", "--jobs", "2"]).args(scenarios);
        running.push(Process::start("whyrelay lab run", &mut command)?);
    }
    let ids = running.iter().map(|process| run_id(process.id())).collect::<Result<Vec<_>>>()?;
    let labs =
        |id: &String| Ok((0..2).any(|number| !namespaces(&format!("{id}-{number}")).unwrap_or_default().is_empty()));
    let begun = Instant::now();
    let mut together = 0;
    while begun.elapsed() < LIMIT * 3 {
        let up = ids.iter().map(labs).collect::<Result<Vec<bool>>>()?;
        together += usize::from(!up.contains(&false));
        ensure!(network_of(&machine)? == before, "the machine's own network is touched: {}", network_of(&machine)?);
        if together > 0 && !up.contains(&true) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(together > 0, "the labs were never up at the same time");
    for (process, id) in running.into_iter().zip(&ids) {
        let finished = process.finish(LIMIT)?;
        ensure!(finished.stdout.contains("2 scenarios, all as expected"), "{}", finished.account);
        nothing_left(id, SOON, "side by side")?;
    }
    ensure!(network_of(&machine)? == before, "the machine's own network is touched");
    Ok(())
}

/// This build's program where another user finds it.
struct Copied {
    _directory: tempfile::TempDir,
    program: std::path::PathBuf,
}

impl Copied {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let program = directory.path().join("whyrelay");
        std::fs::copy(WHYRELAY, &program)?;
        Ok(Self { _directory: directory, program })
    }

    /// It, started by an ordinary user through other programs.
    fn as_nobody(&self, by: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
        command.args(by).arg(&self.program);
        command
    }

    /// It, started by the machine's root who gave up being that: root of a user namespace, to whom /run belongs, and not the
    /// network, nor perhaps the mounts.
    fn as_root_of_a_user_namespace(&self, more: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.arg("--map-root-user").args(more).arg(&self.program);
        command
    }

    /// As an ordinary user, as one who made a user namespace himself and is root there, and as root who did the same.
    fn without_root(&self) -> [(&'static str, Command); 4] {
        [
            ("nobody", self.as_nobody(&[])),
            ("nobody as root", self.as_nobody(&["unshare", "--map-root-user"])),
            ("root as root of a user namespace", self.as_root_of_a_user_namespace(&[])),
            ("the same with its own mounts", self.as_root_of_a_user_namespace(&["--mount"])),
        ]
    }
}

/// Whether a system that lets nobody make namespaces said so.
fn says_what_to_do(account: &str) -> bool {
    account.contains("hint: run it with sudo") || account.contains("unshare failed")
}

/// Whether this system lets an ordinary user make what a laboratory is in, by asking another program.
fn is_allowed(copied: &Copied) -> Result<bool> {
    let by = ["unshare", "--map-root-user", "--net", "--mount", "true"];
    Ok(copied.as_nobody(&by).output().context("unshare")?.status.success())
}

fn without_root() -> Result<()> {
    let copied = Copied::new()?;
    let allowed = is_allowed(&copied)?;
    for (who, mut command) in copied.without_root() {
        command.args(["lab", "exec", "public-hosts", "a", "--", "ip", "-brief", "address"]);
        let finished = Process::start("whyrelay lab exec as nobody", &mut command)?.finish(LIMIT)?;
        // Root may be allowed what others are not.
        if allowed || finished.status.success() {
            ensure!(finished.status.success(), "{who}: {}", finished.account);
            ensure!(finished.stdout.contains("203.0.113.10"), "{who}: {}", finished.account);
        } else {
            ensure!(says_what_to_do(&finished.account), "{who}: {}", finished.account);
        }
    }
    Ok(())
}

/// In a user namespace whose owner, an ordinary user, has set a limit. What it owns holds for who is in it, so whyrelay is
/// refused as the system's own setting would do it.
fn limits_are_named() -> Result<()> {
    let copied = Copied::new()?;
    let allowed = is_allowed(&copied)?;
    for (limit, hint) in [
        ("max_user_namespaces", "hint: run it with sudo, or allow it: sysctl -w user.max_user_namespaces=10000"),
        ("max_net_namespaces", "hint: allow it, as root: sysctl -w user.max_net_namespaces=10000"),
        ("max_mnt_namespaces", "hint: allow it, as root: sysctl -w user.max_mnt_namespaces=10000"),
    ] {
        let set = format!("echo 0 >/proc/sys/user/{limit} && exec \"$@\"");
        let by = ["unshare", "--map-current-user", "--keep-caps", "sh", "-c", &set, "sh"];
        let mut command = copied.as_nobody(&by);
        command.args(["lab", "exec", "public-hosts", "a", "--", "true"]);
        let finished = Process::start("whyrelay lab exec as nobody", &mut command)?.finish(LIMIT)?;
        if !allowed {
            ensure!(says_what_to_do(&finished.account), "{limit}: {}", finished.account);
            continue;
        }
        ensure!(finished.status.code() == Some(2), "{limit}: {}", finished.account);
        for said in ["this user may not make a user namespace with networks and mounts of its own (ENOSPC", hint] {
            ensure!(finished.account.contains(said), "{limit}: not {said:?}: {}", finished.account);
        }
    }
    Ok(())
}

/// Of many scenarios each would fail by it.
fn a_missing_program() -> Result<()> {
    let mut command = Command::new("unshare");
    let hide = "nft=$(PATH=$PATH:/usr/sbin:/sbin command -v nft) && mount --bind /dev/null $nft && exec \"$@\"";
    command.args(["--mount", "sh", "-c", hide, "sh", WHYRELAY, "lab", "run", "--kernel", "two-homes", "public-hosts"]);
    let finished = Process::start("whyrelay lab run without nft", &mut command)?.finish(LIMIT)?;
    ensure!(finished.status.code() == Some(2), "{}", finished.account);
    let said = "error: nft is not installed\nhint: apt-get install nftables";
    ensure!(finished.account.matches("nft is not installed").count() == 1, "{}", finished.account);
    ensure!(finished.account.contains(said), "{}", finished.account);
    Ok(())
}

/// What has no `ip` makes nothing, writes down nothing, and clears away what stands there without namespaces.
fn without_ip() -> Result<()> {
    let hidden = |script: &str| -> Result<Finished> {
        let hide = "for at in $(PATH=$PATH:/usr/sbin:/sbin which -a ip); do mount --bind /dev/null $at; done; ";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("{hide}{script}"), WHYRELAY]);
        Process::start("whyrelay without ip", &mut command)?.finish(LIMIT)
    };
    for arguments in ["lab exec two-homes a -- true", "lab run --kernel two-homes", "demo --story vpn"] {
        // The shell's own process becomes the one that would make a lab.
        let finished = hidden(&format!("echo pid $$; exec \"$0\" {arguments}"))?;
        ensure!(finished.account.contains("ip is not installed"), "{arguments}: {}", finished.account);
        let pid = finished.stdout.lines().find_map(|line| line.strip_prefix("pid ")).context("no pid")?;
        let left = files(&format!("wrl{pid}"))?;
        ensure!(left.is_empty(), "{arguments}: left {left:?}: {}", finished.account);
    }
    // As one that is killed right after it has written itself down: nobody is process 4194304 or more.
    let directory = Path::new("/run/whyrelay-lab/wrl4194305-1-0");
    std::fs::create_dir_all(directory)?;
    let record = serde_json::json!({
        "id": "wrl4194305-1-0", "pid": 4_194_305, "started": 1, "scenario": "none",
        "namespaces": ["wrl4194305-1-0-a"], "directory": directory,
    });
    std::fs::write(directory.with_extension("json"), record.to_string())?;
    let finished = hidden("exec \"$0\" lab clean")?;
    ensure!(finished.status.success(), "{}", finished.account);
    ensure!(finished.stdout.contains("removed wrl4194305-1-0"), "{}", finished.account);
    let left = files("wrl4194305")?;
    ensure!(left.is_empty(), "left {left:?}: {}", finished.account);
    Ok(())
}

/// Its names stand in a /run of its own, where `lab clean` cannot see them.
/// Begins one program after the other, each known by its lab.
const STORM: &str = "(while :; do sh -c 'sleep 600; :' /run/whyrelay-lab/$WHYRELAY_LAB/inside & done) >&- 2>&- & ";

fn killed_without_root() -> Result<()> {
    let copied = Copied::new()?;
    let allowed = is_allowed(&copied)?;
    // At the end one that begins others all the time.
    let storm = copied.without_root().into_iter().take(1).map(|user| (user, STORM));
    for ((who, command), beside) in copied.without_root().into_iter().map(|user| (user, "")).chain(storm) {
        let up = match Up::start_beside(command, beside) {
            Ok(up) => up,
            Err(error) => {
                ensure!(!allowed && says_what_to_do(&format!("{error:#}")), "{who}: {error:#}");
                continue;
            }
        };
        ensure!(is_there(&up.id)?, "{who}: the test tests nothing");
        up.process.signal(Signal::SIGKILL)?;
        up.process.finish(LIMIT)?;
        gone(&up.id).context(who)?;
    }
    Ok(())
}

fn another_users() -> Result<()> {
    let (machine, copied) = (Namespace::new()?, Copied::new()?);
    let up = Up::start(&machine)?;
    up.process.signal(Signal::SIGKILL)?;
    up.process.finish(LIMIT)?;
    let said =
        Process::start("whyrelay lab clean as nobody", copied.as_nobody(&[]).args(["lab", "clean"]))?.finish(LIMIT)?;
    let left = !namespaces(&up.id)?.is_empty();
    clean(&machine)?;
    ensure!(said.status.code() == Some(2), "{}", said.account);
    // Of this lab, or of one that another test has left at this moment.
    ensure!(said.account.contains("was left by another user (0)"), "{}", said.account);
    ensure!(said.account.contains("hint: run it with sudo"), "{}", said.account);
    ensure!(!said.account.contains("Permission denied"), "{}", said.account);
    ensure!(left, "nobody removed what root made");
    Ok(())
}

/// A part of what runs without root, of each kind: routers by nftables and in user space, cables, tunnels, faults of hosts
/// and of servers, IPv6.
const PART: [&str; 10] = [
    "public-hosts",
    "two-homes",
    "symmetric-against-home",
    "satellite",
    "unmarked-socket",
    "policy-rule-by-user-not-ours",
    "input-drop",
    "turn-wrong-password",
    "tls-on-443",
    "ipv6-only-hosts",
];

/// Those of them that need TUN devices.
const NEEDS_TUN: [&str; 4] = ["symmetric-against-home", "satellite", "unmarked-socket", "turn-wrong-password"];

/// Whether everybody may open the device for TUN, or only root: a file system of its own has it either way.
fn left_out_without_root() -> Result<()> {
    let copied = Copied::new()?;
    let allowed = is_allowed(&copied)?;
    for (mode, is_open) in [("600", false), ("666", true)] {
        let device = format!(
            "mkdir -p $1 && mount -t tmpfs -o dev tmpfs $1 && mknod $1/tun c 10 200 && chmod {mode} $1/tun && mount --bind $1/tun /dev/net/tun"
        );
        let directory = tempfile::tempdir()?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-e", "-c", &format!("{device}; shift; exec \"$@\""), "sh"]);
        let nobody = copied.as_nobody(&[]);
        command.arg(directory.path().join("dev")).arg(nobody.get_program()).args(nobody.get_args());
        command.args(["lab", "run", "--kernel"]).args(PART);
        let finished = Process::start("whyrelay lab run as nobody", &mut command)?.finish(LIMIT * 4)?;
        if !allowed {
            ensure!(says_what_to_do(&finished.account), "{}", finished.account);
            continue;
        }
        ensure!(finished.status.success(), "{}", finished.account);
        let by_user =
            "skipped policy-rule-by-user-not-ours: a policy rule about other users than this one: that takes root";
        ensure!(finished.account.contains(by_user), "{}", finished.account);
        for name in NEEDS_TUN {
            let skipped = finished.account.contains(&format!("skipped {name}: "));
            ensure!(skipped != is_open, "TUN for everybody: {is_open}, {name}: {}", finished.account);
        }
        ensure!(finished.account.contains("chmod 666 /dev/net/tun") != is_open, "{}", finished.account);
        let ran = PART.len() - 1 - if is_open { 0 } else { NEEDS_TUN.len() };
        ensure!(finished.stdout.contains(&format!("{ran} scenarios, all as expected")), "{}", finished.account);
    }
    Ok(())
}
