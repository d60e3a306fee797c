//! Runs the real program on loopback: a server and two peers, each with an address of its own in 127.0.0.0/8.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Nothing here takes longer, even on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

/// A process that does not outlive its test.
pub(crate) struct Process {
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
}

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

impl Process {
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::run(arguments, environment, Stdio::null())
    }

    /// The file is its stdin.
    pub(crate) fn start_reading(file: std::fs::File, arguments: &[&str]) -> Self {
        Self::run(arguments, &[], file.into())
    }

    fn run(arguments: &[&str], environment: &[(&str, &str)], stdin: Stdio) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_whyrelay"));
        command.args(arguments).env_remove("TURN_PASSWORD").env_remove("WHYRELAY_SIGNAL");
        command.envs(environment.iter().copied());
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdout = collect(child.stdout.take().expect("stdout is piped"));
        let stderr = collect(child.stderr.take().expect("stderr is piped"));
        Self { child, stdout, stderr }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        nix::sys::signal::kill(pid, signal).expect("our own child can be signaled");
    }

    /// Waits for a line on stderr that contains `words`.
    pub(crate) fn wait_for(&self, words: &str) -> String {
        let until = Instant::now() + LIMIT;
        let mut seen = String::new();
        while let Ok(line) = self.stderr.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if line.contains(words) {
                return line;
            }
            seen.push_str(&line);
        }
        panic!("no line with {words:?} came; stderr was:\n{seen}");
    }

    /// Waits for the end.
    pub(crate) fn finish(mut self) -> Finished {
        let until = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our own child can be waited for") {
                break status;
            }
            if Instant::now() >= until {
                let _ = self.child.kill();
                let stderr: String = self.stderr.iter().collect();
                panic!("the program did not end within {LIMIT:?}; stderr was:\n{stderr}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Finished { status, stdout: self.stdout.iter().collect(), stderr: self.stderr.iter().collect() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines in a thread, so that a full pipe stops nobody.
fn collect(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}

/// `whyrelay serve` on free ports of 127.0.0.1.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) url: String,
    /// Address and port of STUN and TURN.
    pub(crate) turn: String,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(more: &[&str]) -> Self {
        let mut arguments = vec!["serve", "--listen", "127.0.0.1:0", "--stun-listen", "127.0.0.1:0"];
        arguments.extend_from_slice(&["--relay-address", "127.0.0.1", "--allow-loopback-peers"]);
        arguments.extend_from_slice(more);
        let process = Process::start(&arguments, &[]);
        let (mut url, mut turn) = (None, None);
        let until = Instant::now() + LIMIT;
        while url.is_none() || turn.is_none() {
            let line = process
                .stdout
                .recv_timeout(until.saturating_duration_since(Instant::now()))
                .expect("the server says what to run");
            let words: Vec<&str> = line.split_whitespace().collect();
            for pair in words.windows(2) {
                match pair {
                    [address, "(UDP"] => turn = Some((*address).to_owned()),
                    ["--signal", address] => url = Some((*address).to_owned()),
                    _ => {}
                }
            }
        }
        Self { process, url: url.expect("a URL"), turn: turn.expect("an address") }
    }

    /// One without STUN and TURN.
    pub(crate) fn signaling_only() -> Self {
        let process = Process::start(&["serve", "--listen", "127.0.0.1:0", "--no-stun"], &[]);
        let until = Instant::now() + LIMIT;
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            let line = process.stdout.recv_timeout(wait).expect("the server says what to run");
            let mut words = line.split_whitespace().skip_while(|word| *word != "--signal");
            if let Some(url) = words.nth(1) {
                return Self { process, url: url.to_owned(), turn: String::new() };
            }
        }
    }

    /// A peer in a room, with its own loopback address.
    pub(crate) fn peer(&self, verb: &str, room: &str, more: &[&str]) -> Process {
        self.peer_with(verb, room, more, &[])
    }

    pub(crate) fn peer_with(&self, verb: &str, room: &str, more: &[&str], environment: &[(&str, &str)]) -> Process {
        let address = if verb == "offer" { "127.0.0.2" } else { "127.0.0.3" };
        self.peer_at(address, verb, room, more, environment)
    }

    /// One whose address is chosen.
    pub(crate) fn peer_at(
        &self,
        address: &str,
        verb: &str,
        room: &str,
        more: &[&str],
        environment: &[(&str, &str)],
    ) -> Process {
        let mut arguments = vec![verb, "--signal", &self.url, "--room", room, "--address", address];
        arguments.extend_from_slice(more);
        Process::start(&arguments, environment)
    }
}

/// Takes connections in front of a server, and hands on what either end sends so much later; answers its URL. It lasts
/// until the test's process ends.
pub(crate) fn far_away(server: &Server, delay: Duration) -> String {
    let target = server.url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(&target) else { return };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                to.set_nodelay(true).expect("a socket");
                hand_on_later(from, to, delay);
            }
        }
    });
    url
}

fn hand_on_later(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (read, later) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok(length) = from.read(&mut buffer) {
            let piece = buffer[..length].to_vec();
            if read.send((Instant::now() + delay, piece)).is_err() || length == 0 {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (at, piece) in later {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if piece.is_empty() || to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// `whyrelay report` on these files.
pub(crate) fn report(files: &[&Path], more: &[&str]) -> Finished {
    let mut arguments = vec!["report"];
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    arguments.extend(files.iter().map(String::as_str));
    arguments.extend_from_slice(more);
    Process::start(&arguments, &[]).finish()
}

/// A directory of its own for a test's files.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A file in it, as an argument.
pub(crate) fn file(directory: &tempfile::TempDir, name: &str) -> (PathBuf, String) {
    let path = directory.path().join(name);
    let text = path.display().to_string();
    (path, text)
}
