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

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("lab::clean_removes_what_a_killed_lab_left_and_only_that", &tools, killed);
    suite.test("lab::clean_works_from_inside_ip_netns_exec_and_on_labs_made_there", &tools, inside_exec);
    suite.test("lab::nothing_is_left_after_ctrl_c", &tools, interrupted);
    suite.test("lab::ctrl_c_leaves_the_table_of_what_finished", &tools, interrupted_in_the_middle);
    suite.test("lab::works_without_root_or_says_what_to_do", &tools, without_root);
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

    fn start_by(mut command: Command) -> Result<Self> {
        // The name of the inner shell tells whose it is.
        let inside = "echo in $WHYRELAY_LAB; exec sh -c 'sleep 600; :' /run/whyrelay-lab/$WHYRELAY_LAB/inside >&- 2>&-";
        command.args(["lab", "exec", "two-homes", "a", "--", "sh", "-c", inside]);
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
    for command in ["ip -d link", "ip address", "ip rule", "ip route show table all", "ip -6 rule", "nft list ruleset"]
    {
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
    /// The first server was started, which comes after the network.
    Serving,
    /// A peer records, and will for a second at least.
    Running,
}

impl Stage {
    /// Whether one of a run's labs is so far.
    fn is_reached(self, run: &str) -> bool {
        (0..3).any(|number| {
            let lab = Path::new("/run/whyrelay-lab").join(format!("{run}-{number}"));
            match self {
                Self::Begun => lab.with_extension("json").exists(),
                Self::Serving => lab.join("serve.log").exists(),
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
    for (stage, signal) in
        [(Stage::Begun, Signal::SIGINT), (Stage::Serving, Signal::SIGTERM), (Stage::Running, Signal::SIGINT)]
    {
        let mut command = on(&machine);
        command.args(["lab", "run", "--kernel", "--jobs", "3", "no-udp-on-both-sides", "two-homes", "server-silent"]);
        let process = Process::start("whyrelay lab run", &mut command)?;
        let id = run_id(process.id())?;
        let begun = Instant::now();
        while !stage.is_reached(&id) {
            ensure!(begun.elapsed() < LIMIT, "{stage:?} was never reached");
            std::thread::sleep(Duration::from_millis(1));
        }
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
}

/// As an ordinary user, and as one who made a user namespace himself and is root there.
const WITHOUT_ROOT: [&[&str]; 2] = [&[], &["unshare", "--map-root-user"]];

/// Whether a system that lets nobody make namespaces said so.
fn says_what_to_do(account: &str) -> bool {
    account.contains("hint: run it with sudo") || account.contains("unshare failed")
}

fn without_root() -> Result<()> {
    let copied = Copied::new()?;
    for by in WITHOUT_ROOT {
        let mut command = copied.as_nobody(by);
        command.args(["lab", "exec", "public-hosts", "a", "--", "ip", "-brief", "address"]);
        let finished = Process::start("whyrelay lab exec as nobody", &mut command)?.finish(LIMIT)?;
        if finished.status.success() {
            ensure!(finished.stdout.contains("203.0.113.10"), "{by:?}: {}", finished.account);
        } else {
            ensure!(says_what_to_do(&finished.account), "{by:?}: {}", finished.account);
        }
    }
    Ok(())
}

/// Its names stand in a /run of its own, where `lab clean` cannot see them.
fn killed_without_root() -> Result<()> {
    let copied = Copied::new()?;
    for by in WITHOUT_ROOT {
        let up = match Up::start_by(copied.as_nobody(by)) {
            Ok(up) => up,
            Err(error) => {
                ensure!(says_what_to_do(&format!("{error:#}")), "{by:?}: {error:#}");
                continue;
            }
        };
        ensure!(is_there(&up.id)?, "{by:?}: the test tests nothing");
        up.process.signal(Signal::SIGKILL)?;
        up.process.finish(LIMIT)?;
        gone(&up.id).with_context(|| format!("{by:?}"))?;
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

fn left_out_without_root() -> Result<()> {
    let copied = Copied::new()?;
    let mut command = copied.as_nobody(&[]);
    let wanted = ["public-hosts", "unmarked-socket", "policy-rule-by-user-not-ours", "satellite"];
    command.args(["lab", "run", "--kernel"]).args(wanted);
    let finished = Process::start("whyrelay lab run as nobody", &mut command)?.finish(LIMIT * 2)?;
    if !finished.status.success() && says_what_to_do(&finished.account) && !finished.account.contains("[1/") {
        return Ok(());
    }
    ensure!(finished.status.success(), "{}", finished.account);
    let by_user =
        "skipped policy-rule-by-user-not-ours: a policy rule about other users than this one: that takes root";
    ensure!(finished.account.contains(by_user), "{}", finished.account);
    // Where everybody may open it, nothing is left out.
    let tun = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata("/dev/net/tun")?.permissions());
    for name in ["unmarked-socket", "satellite"].iter().filter(|_| tun & 0o006 != 0o006) {
        ensure!(finished.account.contains(&format!("skipped {name}: ")), "{name}: {}", finished.account);
        ensure!(finished.account.contains("chmod 666 /dev/net/tun"), "{name}: {}", finished.account);
    }
    Ok(())
}
