//! The two kinds of peer that are measured beside each other, started and watched from outside in the same way.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::step;

/// Where every server of a bench listens.
pub(super) const SERVER: &str = "127.0.0.1:8080";
/// The same for the peers.
const SIGNAL: &str = "http://127.0.0.1:8080";
/// A peer that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(90);
/// The address of the peers: Pion uses no loopback address, so it is one of a veth.
const ADDRESS: &str = "192.0.2.1/24";

/// One kind of peer.
pub(super) struct Kind {
    pub(super) program: PathBuf,
    pub(super) offerer: Vec<String>,
    pub(super) answerer: Vec<String>,
}

impl Kind {
    /// whyrelay as it comes, with further flags for both sides.
    pub(super) fn ours(flags: &[&str]) -> Result<Self> {
        let side = |verb: &str| words(&[&[verb, "--signal", SIGNAL, "--no-turn"], flags]);
        Ok(Self { program: built("whyrelay")?, offerer: side("offer"), answerer: side("answer") })
    }

    /// The str0m peer.
    pub(super) fn str0m() -> Result<Self> {
        let address = ADDRESS.split('/').next().unwrap_or_default();
        let side = |role: &str| words(&[&[role, SERVER, address]]);
        Ok(Self { program: tool("STR0M")?, offerer: side("offerer"), answerer: side("answerer") })
    }

    /// The Pion peer, with further flags for both sides.
    pub(super) fn pion(flags: &[&str]) -> Result<Self> {
        let side = |role: &str| words(&[&["-role", role, "-signaling-addr", SIGNAL, "-report"], flags]);
        Ok(Self { program: tool("PION")?, offerer: side("offerer"), answerer: side("answerer") })
    }
}

/// What one offerer did.
pub(super) struct Sample {
    figures: BTreeMap<String, f64>,
    /// The line that the marker was found in, and the one after it.
    pub(super) line: String,
}

impl Sample {
    /// NaN when it was not measured.
    pub(super) fn figure(&self, name: &str) -> f64 {
        self.figures.get(name).copied().unwrap_or(f64::NAN)
    }
}

/// A child that does not outlive this.
pub(super) struct Ended(Child);

impl Ended {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().display().to_string();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().with_context(|| format!("starting {program}"))?))
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.0.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "a peer does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gives this namespace the address that the peers use.
pub(super) fn make_network() -> Result<()> {
    let run = |arguments: &str| step::output(Command::new("ip").args(arguments.split(' ')));
    run("link add bench0 type veth peer name bench1")?;
    for link in ["bench0", "bench1"] {
        // One address is what both kinds of peer are to use.
        run(&format!("link set {link} addrgenmode none up"))?;
    }
    run(&format!("address add {ADDRESS} dev bench0"))?;
    Ok(())
}

/// The signaling server that both kinds of peer meet over: ours, which speaks to both.
pub(super) fn signaling_server() -> Result<Ended> {
    let server = Ended::start(Command::new(built("examples/signaling_server")?).arg(SERVER))?;
    wait_for_server()?;
    Ok(server)
}

pub(super) fn wait_for_server() -> Result<()> {
    let address: SocketAddr = SERVER.parse()?;
    let deadline = Instant::now() + LIMIT;
    while TcpStream::connect_timeout(&address, LIMIT).is_err() {
        ensure!(Instant::now() < deadline, "the server does not listen");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// One session: an answerer, and when it listens, an offerer that is measured until it says `marker`.
pub(super) fn session(kind: &Kind, marker: &str) -> Result<Sample> {
    let mut answerer = Ended::start(Command::new(&kind.program).args(&kind.answerer))?;
    wait_until_listening("answer-peer-1")?;
    let mut measured = Command::new("timeout");
    measured.arg(LIMIT.as_secs().to_string());
    measured.arg(std::env::current_exe()?).args(["bench-measure", marker]);
    measured.arg(&kind.program).args(&kind.offerer);
    let output = step::output(&mut measured)?;
    let sample: Value = serde_json::from_str(&output).with_context(|| output.clone())?;
    // It ends by itself: killed, it would still be registered with the server.
    answerer.wait()?;
    let fields = sample.as_object().context("an object")?;
    let figures = fields.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect();
    Ok(Sample { figures, line: sample["line"].as_str().unwrap_or_default().to_owned() })
}

/// `MARKER PROGRAM ARGUMENT…`: runs the program and prints when it printed the marker, on stdout or stderr, what it
/// had used by then, and what it used in all. A process of its own, since the kernel adds up all children of one.
pub(super) fn measure(arguments: &[&str]) -> Result<()> {
    let [marker, program, arguments @ ..] = arguments else {
        bail!("bench-measure MARKER PROGRAM ARGUMENT…");
    };
    let (said, writer) = std::io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
    // It holds the writing end: with it, the pipe would never end.
    drop(command);
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let mut found = None;
    let mut text = Vec::new();
    for line in BufReader::new(said).split(b'\n') {
        let line = line?;
        let shown = String::from_utf8_lossy(&line);
        if let Some((_, _, _, lines)) = &mut found {
            let lines: &mut Vec<String> = lines;
            lines.push(shown.trim().to_owned());
        } else if shown.contains(marker) {
            let after = start.elapsed();
            // Held, so that what it does next does not count. It may have ended before this was scheduled: then
            // there is nothing to read, and the run counts for its time alone.
            kill(pid, Signal::SIGSTOP)?;
            let memory = |field| memory_kib(pid, field).ok();
            let (cpu, memory) = (cpu_ms(pid).ok(), memory("VmHWM:").zip(memory("RssAnon:")));
            kill(pid, Signal::SIGCONT)?;
            let used = cpu.zip(memory).unzip();
            found = Some((after, used.0, used.1, vec![shown.trim().to_owned()]));
        }
        text.extend_from_slice(&line);
        text.push(b'\n');
    }
    let status = child.wait()?;
    let Some((after, cpu, memory, lines)) = found else {
        bail!("{program}: {status}\n{}", String::from_utf8_lossy(&text));
    };
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let whole = usage.user_time() + usage.system_time();
    println!(
        "{}",
        json!({
            "marker_ms": after.as_secs_f64() * 1000.0,
            "cpu_ms": cpu,
            "memory_kib": memory.map(|(peak, _)| peak),
            "own_memory_kib": memory.map(|(_, own)| own),
            "whole_cpu_ms": whole.num_microseconds() as f64 / 1000.0,
            "whole_memory_kib": usage.max_rss(),
            "line": lines[..lines.len().min(2)].join(" "),
        })
    );
    Ok(())
}

/// CPU time of all threads of a process so far, in user and kernel mode.
fn cpu_ms(pid: Pid) -> Result<f64> {
    let clock = ClockId::pid_cpu_clock_id(pid)?;
    Ok(Duration::from(clock_gettime(clock)?).as_secs_f64() * 1000.0)
}

/// A field of a process's status: the most memory that it has held so far, or what it shares with no file.
fn memory_kib(pid: Pid, field: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(field)).with_context(|| field.to_owned())?;
    Ok(line.split_whitespace().nth(1).with_context(|| field.to_owned())?.parse()?)
}

/// Sends messages that receivers ignore until one is delivered.
fn wait_until_listening(id: &str) -> Result<()> {
    let body = json!({"type": "heartbeat", "content": "", "to": id, "from": "bench"}).to_string();
    let request = format!(
        "POST /send HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let server: SocketAddr = SERVER.parse()?;
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if let Ok(mut stream) = TcpStream::connect_timeout(&server, LIMIT) {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            if answer.starts_with("HTTP/1.1 200") {
                return Ok(());
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("{id} does not listen")
}

/// A program of the release build.
pub(super) fn built(name: &str) -> Result<PathBuf> {
    let path = std::env::current_dir()?.join("target/release").join(name);
    ensure!(path.exists(), "{} is not built", path.display());
    Ok(path)
}

/// A program that `interop` or the bench itself has built.
pub(super) fn tool(name: &str) -> Result<PathBuf> {
    let variable = format!("WHYRELAY_INTEROP_{name}");
    let path = std::env::var_os(&variable).with_context(|| {
        let reason = std::env::var(format!("{variable}_MISSING")).unwrap_or_default();
        format!("{name} is missing: {reason}")
    })?;
    ensure!(Path::new(&path).exists(), "{} is gone", path.display());
    Ok(PathBuf::from(path))
}

/// The middle one of those that were measured; NaN when there is none.
pub(super) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().filter(|figure| !figure.is_nan()).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn words(parts: &[&[&str]]) -> Vec<String> {
    parts.concat().into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn a_median_is_the_middle_and_of_nothing_there_is_none() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!(median([]).is_nan());
    }
}
