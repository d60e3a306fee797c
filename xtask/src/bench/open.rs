//! How long a user waits for a data channel, and what one peer costs until then.
//!
//! Both kinds of peer meet through the same signaling server, the Go lab's, and are
//! measured from outside in the same way: from before the process is started until it
//! says on stderr that its channel is open.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::{Value, json};

use super::{Comparison, Goal};
use crate::step;

/// Enough to see one slow open in fifty.
const RUNS: usize = 100;
/// An open that takes longer is one that waited for something.
const SLOW_MS: f64 = 500.0;
/// A peer that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(20);
const SERVER: &str = "127.0.0.1:8080";

/// One kind of peer.
struct Kind {
    program: PathBuf,
    offerer: &'static [&'static str],
    answerer: &'static [&'static str],
    /// In the line of stderr that says that the channel is open.
    marker: &'static str,
}

/// What one offerer did.
struct Sample {
    open_ms: f64,
    cpu_ms: f64,
    memory_kib: f64,
}

pub(super) fn run() -> Result<Vec<Comparison>> {
    let pion = Kind {
        program: tool("PION")?,
        offerer: &["-role", "offerer", "-signaling-addr", "http://127.0.0.1:8080", "-report", "-loopback"],
        answerer: &["-role", "answerer", "-signaling-addr", "http://127.0.0.1:8080", "-report", "-loopback"],
        marker: "is open",
    };
    let ours = Kind {
        program: std::env::current_dir()?.join("target/release/whyrelay"),
        offerer: &["offer", "--signal", "http://127.0.0.1:8080", "--no-turn"],
        answerer: &["answer", "--signal", "http://127.0.0.1:8080", "--no-turn"],
        marker: "is open",
    };
    let help = step::output(Command::new(&ours.program).arg("--help"))?;
    let measured = help.contains("offer");
    let server = Command::new(tool("GOLAB_SERVER")?)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the signaling server")?;
    let _server = Ended(server);
    let (mut our_samples, mut pion_samples) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        pion_samples.push(session(&pion)?);
        if measured {
            our_samples.push(session(&ours)?);
        }
    }
    let row = |what, unit, figure: fn(&[Sample]) -> f64, goal| Comparison {
        what,
        unit,
        ours: measured.then(|| figure(&our_samples)),
        peer: "Pion",
        theirs: figure(&pion_samples),
        goal,
    };
    Ok(vec![
        row("open, median", "ms", |all| median(all, |one| one.open_ms), Goal::RatioAtMost(1.0)),
        row("opens over 500 ms", "% of runs", slow_share, Goal::AtMost(0.0)),
        row("CPU of the offerer, median", "ms", |all| median(all, |one| one.cpu_ms), Goal::RatioAtMost(1.0)),
        row("memory of the offerer, median", "KiB", |all| median(all, |one| one.memory_kib), Goal::RatioAtMost(0.8)),
    ])
}

/// `MARKER PROGRAM ARGUMENT…`: runs the program and prints when it printed the marker, and
/// what it used. A process of its own, since the kernel adds up all children of one.
pub(super) fn measure(arguments: &[&str]) -> Result<()> {
    let [marker, program, arguments @ ..] = arguments else {
        bail!("bench-measure MARKER PROGRAM ARGUMENT…");
    };
    let start = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let mut open = None;
    let mut said = Vec::new();
    for line in BufReader::new(child.stderr.take().context("stderr is piped")?).split(b'\n') {
        let line = line?;
        if open.is_none() && String::from_utf8_lossy(&line).contains(marker) {
            open = Some(start.elapsed());
        }
        said.extend_from_slice(&line);
        said.push(b'\n');
    }
    let status = child.wait()?;
    let open = open.filter(|_| status.success());
    let Some(open) = open else {
        bail!("{program}: {status}\n{}", String::from_utf8_lossy(&said));
    };
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = usage.user_time() + usage.system_time();
    println!(
        "{}",
        json!({
            "open_ms": open.as_secs_f64() * 1000.0,
            "cpu_ms": cpu.num_microseconds() as f64 / 1000.0,
            "memory_kib": usage.max_rss(),
        })
    );
    Ok(())
}

/// One session: an answerer, and when it listens, a measured offerer.
fn session(kind: &Kind) -> Result<Sample> {
    let answerer = Command::new(&kind.program)
        .args(kind.answerer)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", kind.program.display()))?;
    let mut answerer = Ended(answerer);
    wait_until_listening("answer-peer-1")?;
    let mut measured = Command::new("timeout");
    measured.arg(LIMIT.as_secs().to_string());
    measured.arg(std::env::current_exe()?).args(["bench-measure", kind.marker]);
    measured.arg(&kind.program).args(kind.offerer);
    let line = step::output(&mut measured)?;
    let sample: Value = serde_json::from_str(&line)?;
    let figure = |name: &str| sample[name].as_f64().with_context(|| format!("no {name} in {line}"));
    // It ends by itself: killed, it would still be registered with the server.
    answerer.wait(LIMIT)?;
    Ok(Sample { open_ms: figure("open_ms")?, cpu_ms: figure("cpu_ms")?, memory_kib: figure("memory_kib")? })
}

/// Sends messages that receivers ignore until one is delivered.
fn wait_until_listening(id: &str) -> Result<()> {
    let body = json!({"type": "heartbeat", "content": "", "to": id, "from": "bench"}).to_string();
    let request = format!(
        "POST /send HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
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

fn tool(name: &str) -> Result<PathBuf> {
    let variable = format!("WHYRELAY_INTEROP_{name}");
    let path = std::env::var_os(&variable).with_context(|| {
        let reason = std::env::var(format!("{variable}_MISSING")).unwrap_or_default();
        format!("{name} is missing: {reason}")
    })?;
    ensure!(Path::new(&path).exists(), "{} is gone", path.display());
    Ok(PathBuf::from(path))
}

fn median(samples: &[Sample], figure: fn(&Sample) -> f64) -> f64 {
    let mut figures: Vec<f64> = samples.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// In percent.
fn slow_share(samples: &[Sample]) -> f64 {
    let slow = samples.iter().filter(|one| one.open_ms > SLOW_MS).count();
    100.0 * slow as f64 / samples.len() as f64
}

/// A child that does not outlive this.
struct Ended(Child);

impl Ended {
    fn wait(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
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
