//! A program under test: its output kept, its time limited, and nothing of it left behind.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How much of each stream an error shows: its end.
const SHOWN_LINES: usize = 60;

/// A running program, killed with all its descendants when dropped.
///
/// It stays in the process group of the test, so that Ctrl-C and the runner's own time
/// limit end it too.
pub(crate) struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

/// What a program has printed so far.
#[derive(Default)]
struct Output {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Default)]
struct Lines {
    stdout: Vec<String>,
    stderr: Vec<String>,
    open_streams: usize,
}

/// A program that has ended.
pub(crate) struct Finished {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Everything it wrote to stdout.
    pub(crate) stdout: String,
    /// Name and output, for an error message.
    pub(crate) account: String,
}

impl Process {
    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Starts `command`; `name` is what errors call it.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        let output = Arc::new(Output::default());
        output.lock().open_streams = 2;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let readers = vec![
            output.clone().follow(stdout, |lines| &mut lines.stdout),
            output.clone().follow(stderr, |lines| &mut lines.stderr),
        ];
        Ok(Self { name: name.to_owned(), child, output, readers })
    }

    /// Waits until a line of stdout or stderr satisfies `wanted`, and answers it.
    ///
    /// # Errors
    /// When there is none within `limit` or the program ends before.
    pub(crate) fn line(&self, limit: Duration, wanted: impl Fn(&str) -> bool) -> Result<String> {
        self.nth_line(0, limit, wanted)
    }

    /// The same for a line that `before` others like it precede.
    ///
    /// # Errors
    /// As for [`Self::line`].
    pub(crate) fn nth_line(&self, before: usize, limit: Duration, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut lines = self.output.lock();
        loop {
            let found = lines.stdout.iter().chain(&lines.stderr).filter(|line| wanted(line)).nth(before);
            if let Some(line) = found {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.open_streams == 0 {
                let ended = if left.is_zero() { "in time" } else { "before it ended" };
                drop(lines);
                return Err(anyhow!("{} did not print it {ended}\n{}", self.name, self.account()));
            }
            let waited = self.output.more.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How many lines so far satisfy `wanted`.
    pub(crate) fn count(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let lines = self.output.lock();
        lines.stdout.iter().chain(&lines.stderr).filter(|line| wanted(line)).count()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(pid(&self.child), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Waits for the program to end.
    ///
    /// # Errors
    /// When it has not ended within `limit`; it is killed then.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<Finished> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                let account = self.account();
                return Err(anyhow!("{} runs for more than {limit:?}\n{account}", self.name));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // A descendant may hold the streams open; what the program itself wrote is there soon.
        let patience = Instant::now() + Duration::from_secs(1);
        while self.readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        let stdout = self.output.lock().stdout.join("\n");
        let account = format!("{status}\n{}", self.account());
        Ok(Finished { status, stdout, account })
    }

    /// What it printed, for an error message.
    pub(crate) fn account(&self) -> String {
        let lines = self.output.lock();
        let end = |stream: &[String]| {
            let skipped = stream.len().saturating_sub(SHOWN_LINES);
            stream[skipped..].join("\n")
        };
        let (stdout, stderr) = (end(&lines.stdout), end(&lines.stderr));
        format!("--- {0} stdout\n{stdout}\n--- {0} stderr\n{stderr}\n---", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already reaped: its id may be somebody else's by now.
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        for process in descendants(pid(&self.child)) {
            let _ = kill(process, Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps every line of `stream` until it ends.
    fn follow(
        self: Arc<Self>,
        stream: impl Read + Send + 'static,
        which: fn(&mut Lines) -> &mut Vec<String>,
    ) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                which(&mut self.lock()).push(line);
                self.more.notify_all();
            }
            self.lock().open_streams -= 1;
            self.more.notify_all();
        })
    }
}

fn pid(child: &Child) -> Pid {
    // Process ids are positive and fit: PID_MAX_LIMIT is 2^22.
    Pid::from_raw(child.id().cast_signed())
}

/// The children of `root`, theirs, and so on, as /proc has them now.
fn descendants(root: Pid) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // pid (name) state parent …; the name may hold anything, parentheses too.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root.as_raw()];
    while let Some(process) = open.pop() {
        for child in children.remove(&process).unwrap_or_default() {
            found.push(Pid::from_raw(child));
            open.push(child);
        }
    }
    found
}
