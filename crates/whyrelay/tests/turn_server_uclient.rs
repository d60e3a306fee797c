//! coturn's own client against our TURN server, on loopback. Where the client is not installed the tests are skipped,
//! and their names say why; in CI (`CI=true`) that is a failure.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use whyrelay::server::turn::{Metrics, StunTurnConfig, StunTurnServer, TlsFiles};
use whyrelay_core::engine::turn_server::{Credentials, PeerPolicy, SharedSecret};

/// How a client reaches the server, how it sends, and over what: each with each.
const TRANSPORTS: [(&str, &[&str]); 3] = [("udp", &[]), ("tcp", &["-t"]), ("tls", &["-t", "-S"])];
const MANNERS: [(&str, &[&str]); 2] = [("channels", &[]), ("indications", &["-s"])];
const FAMILIES: [(&str, &str, &[&str]); 2] = [("ipv4", "127.0.0.1", &[]), ("ipv6", "::1", &["-x"])];

/// What else it can do: a name and the arguments; each also gets a peer to talk to. Not between two clients over TLS: there
/// uclient counts 14 to 21 of 100 as lost, with coturn as with us, though our server sent them all; it seems to read one
/// record for each wakeup. `two_tls_clients_lose_nothing_between_them` is that case with a client that reads all.
const RUNS: [(&str, &[&str]); 9] = [
    ("udp_client_to_client", &["-y", "-m", "2"]),
    ("udp_client_to_client_with_indications", &["-y", "-s", "-m", "2"]),
    ("udp_with_dont_fragment", &["-g", "-s"]),
    ("udp_with_extra_requests", &["-G"]),
    ("udp_with_ipv4_explicitly_requested", &["-X"]),
    ("udp_with_large_datagrams", &["-l", "1200"]),
    ("udp_with_padded_channel_data", &["-D"]),
    ("tcp_client_to_client", &["-t", "-y", "-m", "2"]),
    ("tcp_with_odd_sizes", &["-t", "-l", "173"]),
];

/// One run, still to be done.
type Test = Box<dyn FnOnce() -> Result<()> + Send>;

fn main() -> ExitCode {
    let program = std::env::var_os("WHYRELAY_INTEROP_TURNUTILS").map(PathBuf::from);
    let program = program.unwrap_or_else(|| PathBuf::from("/usr/bin/turnutils_uclient"));
    let missing = (!program.exists()).then(|| format!("{} is not installed (package coturn)", program.display()));
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
    let mut tests: Vec<(String, Test)> = Vec::new();
    let mut runs: Vec<(String, Vec<&'static str>, &'static str)> =
        RUNS.iter().map(|(name, how)| ((*name).to_owned(), how.to_vec(), "127.0.0.1")).collect();
    for (transport, by) in TRANSPORTS {
        for (manner, with) in MANNERS {
            for (family, ip, over) in FAMILIES {
                let name = format!("{transport}_with_{manner}_over_{family}");
                runs.push((name, [by, with, over].concat(), ip));
            }
        }
    }
    for (name, how, ip) in runs {
        let program = program.clone();
        let run = move || uclient(&program, &["-u", "alice", "-w", "wonderland"], &how, ip);
        tests.push((name, Box::new(run)));
    }
    let secret = program.clone();
    let run = move || uclient(&secret, &["-u", "carol", "-W", "north"], &[], "127.0.0.1");
    tests.push(("udp_with_time_limited_credentials".to_owned(), Box::new(run)));
    for (name, flags, serves) in [
        ("the_program_with_rfc5766_channels", &["--rfc5766-channels"][..], true),
        ("the_program_without_them_refuses_their_numbers", &[], false),
    ] {
        let program = program.clone();
        tests.push((name.to_owned(), Box::new(move || the_program(&program, flags, serves))));
    }
    let negative = program.clone();
    tests.push((
        "negative_tests_are_refused_as_coturn_refuses_them".to_owned(),
        Box::new(move || negative_tests(&negative)),
    ));
    let broken = program.clone();
    tests.push((
        "negative_protocol_tests_leave_the_server_serving".to_owned(),
        Box::new(move || broken_protocol(&broken)),
    ));
    let stopped = program.clone();
    tests.push(("a_client_that_is_stopped_is_dropped_alone".to_owned(), Box::new(move || stopped_client(&stopped))));
    let trials = tests.into_iter().map(|(name, test)| {
        let shown = match &missing {
            Some(reason) if !in_ci => format!("{name} [skipped: {reason}]"),
            _ => name,
        };
        let reason = missing.clone();
        let run = move || match reason {
            Some(reason) => Err(Failed::from(format!("cannot run: {reason}"))),
            None => test().map_err(|error| Failed::from(format!("{error:?}"))),
        };
        Trial::test(shown, run).with_ignored_flag(missing.is_some() && !in_ci)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// How often uclient may be asked over TLS: it reads one record for each wakeup, and on a busy machine several come at
/// once. What it then counts as lost it has in its own buffer.
const TLS_ATTEMPTS: usize = 4;

/// Fifty datagrams to a peer and back (or to another client and back), none of them lost. Over TLS our server has sent
/// them all each time, and uclient has seen them all in one of its attempts.
fn uclient(program: &Path, who: &[&str], how: &[&str], ip: &str) -> Result<()> {
    if !how.contains(&"-S") {
        return uclient_once(program, who, how, ip).and_then(|lost| lost.map_or(Ok(()), |said| bail!(said)));
    }
    let mut said = String::new();
    for _ in 0..TLS_ATTEMPTS {
        match uclient_once(program, who, how, ip)? {
            None => return Ok(()),
            Some(lost) => said = lost,
        }
    }
    bail!("{TLS_ATTEMPTS} times: {said}")
}

/// Answers what it said where it counts some as lost.
fn uclient_once(program: &Path, who: &[&str], how: &[&str], ip: &str) -> Result<Option<String>> {
    let server = Server::start(ip)?;
    let echo = Echo::start(ip)?;
    let output = command(program, who, &server, &echo).args(how).args(["-n", "50", "-z", "5"]).arg(ip).output();
    let output = output.context("starting uclient")?;
    let said = said(&output);
    let counters = server.handle.metrics().counters;
    ensure!(output.status.success(), "uclient: {}\n{said}\n{counters:?}", output.status);
    ensure!(counters.datagrams_to_peers >= 50, "relayed {} datagrams\n{said}", counters.datagrams_to_peers);
    let back = counters.datagrams_to_clients;
    ensure!(back >= 50, "brought {back} datagrams back\n{said}\n{counters:?}");
    let counted = Counted::of(&said).with_context(|| format!("uclient counted nothing\n{said}"))?;
    ensure!(counted.sent >= 50, "{counted:?}\n{said}");
    Ok((!counted.is_clean()).then(|| format!("uclient lost packets: {counted:?}\n{said}\n{counters:?}")))
}

/// uclient, for one client; what is added last is the server.
fn command(program: &Path, who: &[&str], server: &Server, echo: &Echo) -> Command {
    let mut command = Command::new(program);
    let ip = server.address.ip().to_string();
    command.args(who).args(["-c", "-L", &ip, "-e", &ip]);
    command.args(["-r", &echo.address.port().to_string(), "-p", &server.address.port().to_string()]);
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What uclient counts itself.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    sent: u64,
    received: u64,
    lost: u64,
    dropped: u64,
}

impl Counted {
    /// As it says in the end; `None` when it did not get there.
    fn of(said: &str) -> Option<Self> {
        // Before the end it says how far it is, in lines with "msz=".
        let whole: Vec<&str> = said.lines().filter(|line| !line.contains("msz=")).collect();
        let number = |before: &str| -> Option<u64> {
            let line = whole.iter().find_map(|line| line.split_once(before))?.1;
            line.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
        };
        Some(Self {
            sent: number("tot_send_msgs=")?,
            received: number("tot_recv_msgs=")?,
            lost: number("Total lost packets ")?,
            dropped: number("total send dropped ")?,
        })
    }

    fn is_clean(&self) -> bool {
        self.sent > 0 && self.sent == self.received && self.lost == 0 && self.dropped == 0
    }
}

/// `whyrelay serve` as an operator starts it. uclient chooses its channel numbers at random from RFC 5766's range, three
/// quarters of which RFC 8656 reserves: with sixteen clients some are among them.
fn the_program(program: &Path, flags: &[&str], serves: bool) -> Result<()> {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("users"), "alice:wonderland\n")?;
    let listen = ["serve", "--listen", "127.0.0.1:0", "--stun-listen", "127.0.0.1:0", "--relay-address", "127.0.0.1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_whyrelay"));
    command.args(listen).args(["--allow-loopback-peers", "--turn-users-file", "users"]).args(flags);
    let mut serve = command.current_dir(directory.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut run = || {
        let mut greeting = String::new();
        BufReader::new(serve.stdout.take().context("stdout")?).read_line(&mut greeting)?;
        let addresses: Vec<SocketAddr> =
            greeting.split([' ', ',', '(']).filter_map(|word| word.trim_end_matches('.').parse().ok()).collect();
        let port = addresses.get(1).with_context(|| format!("no address in {greeting:?}"))?.port().to_string();
        let echo = Echo::start("127.0.0.1")?;
        let output = Command::new(program)
            .args(["-u", "alice", "-w", "wonderland", "-c", "-n", "5", "-z", "5", "-m", "16", "-L", "127.0.0.1"])
            .args(["-e", "127.0.0.1", "-r", &echo.address.port().to_string(), "-p", &port, "127.0.0.1"])
            .output()
            .context("starting uclient")?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let clean = output.status.success() && said.contains("Total lost packets 0 ");
        let refused = said.contains("channel bind: error 400");
        ensure!(if serves { clean } else { refused }, "{}: {said}", output.status);
        Ok(())
    };
    let outcome = run();
    serve.kill()?;
    serve.wait()?;
    outcome
}

const ALICE: [&str; 4] = ["-u", "alice", "-w", "wonderland"];

/// An honest run, while something else goes on or after it.
fn clean_run(program: &Path, server: &Server, echo: &Echo) -> Result<()> {
    let output = command(program, &ALICE, server, echo).args(["-n", "10", "-z", "5", "127.0.0.1"]).output()?;
    let said = said(&output);
    let counted = Counted::of(&said).with_context(|| said.clone())?;
    ensure!(output.status.success() && counted.is_clean(), "{counted:?}\n{said}");
    Ok(())
}

/// `-N` contradicts itself: a second channel for a peer. uclient ends as soon as that is refused, as by coturn.
fn negative_tests(program: &Path) -> Result<()> {
    let (server, echo) = (Server::start("127.0.0.1")?, Echo::start("127.0.0.1")?);
    let output = command(program, &ALICE, &server, &echo).args(["-N", "-n", "10", "127.0.0.1"]).output()?;
    let said = said(&output);
    ensure!(said.contains("channel bind: error 400"), "{}: it was not refused: {said}", output.status);
    ensure!(Counted::of(&said).is_none(), "it went on all the same: {said}");
    let errors = server.handle.metrics().counters.errors;
    ensure!(errors.get(&400).is_some_and(|count| *count >= 1), "{errors:?}");
    clean_run(program, &server, &echo)
}

/// `-R` changes bytes of every tenth message or so. A run ends if none of its requests was hit, for uclient repeats none;
/// with coturn a third of them do. What was changed must not be taken for what it was.
fn broken_protocol(program: &Path) -> Result<()> {
    let (server, echo) = (Server::start("127.0.0.1")?, Echo::start("127.0.0.1")?);
    let run = || {
        let mut limited = Command::new("timeout");
        let inner = command(program, &ALICE, &server, &echo);
        limited.arg("20").arg(program).args(inner.get_args()).args(["-R", "-n", "20", "-z", "5", "127.0.0.1"]);
        limited.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    let running = (0..12).map(|_| run()).collect::<Result<Vec<_>, _>>()?;
    let mut ended = Vec::new();
    for child in running {
        let output = child.wait_with_output()?;
        let said = said(&output);
        match (output.status.code(), Counted::of(&said)) {
            (Some(0), Some(counted)) => ended.push(counted),
            // A refusal that it did not expect, or no answer.
            (Some(124 | 255), _) => {}
            (code, counted) => bail!("{code:?} {counted:?}: {said}"),
        }
    }
    let metrics = server.handle.metrics();
    ensure!(ended.iter().any(|counted| counted.received > 0), "none of twelve ended: {metrics:?}");
    ensure!(ended.iter().all(|counted| counted.received <= counted.sent), "{ended:?}");
    let counters = &metrics.counters;
    let refused = counters.errors.values().sum::<u64>() + counters.noise + counters.datagrams_dropped;
    ensure!(refused > 12, "nothing was refused beyond the first requests: {counters:?}");
    clean_run(program, &server, &echo)
}

/// Over TCP, stopped with SIGSTOP while it is sent to: its connection stays, and takes nothing more.
fn stopped_client(program: &Path) -> Result<()> {
    let server = Server::with("127.0.0.1", |config| config.streams.write = Duration::from_millis(500))?;
    let echo = Echo::start("127.0.0.1")?;
    let mut stopped = command(program, &ALICE, &server, &echo)
        .args(["-t", "-n", "100000", "-z", "1", "-l", "1000", "127.0.0.1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let outcome = || -> Result<()> {
        let until = |what: &str, holds: &dyn Fn(&Metrics) -> bool| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while !holds(&server.handle.metrics()) {
                ensure!(Instant::now() < deadline, "never {what}: {:?}", server.handle.metrics());
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        };
        until("relayed", &|metrics| metrics.counters.datagrams_to_clients > 10)?;
        let relay = echo.heard_from().context("the relayed address")?;
        kill(Pid::from_raw(i32::try_from(stopped.id())?), Signal::SIGSTOP)?;
        // Its peer goes on.
        let peer = echo.socket.try_clone()?;
        for _ in 0..200 {
            (0..200).for_each(|_| drop(peer.send_to(&[7; 1200], relay)));
            std::thread::sleep(Duration::from_millis(5));
            if server.handle.metrics().streams == 0 {
                break;
            }
        }
        clean_run(program, &server, &echo)?;
        until("dropped", &|metrics| metrics.streams == 0 && metrics.unsent_stream_messages > 0)?;
        clean_run(program, &server, &echo)
    };
    let outcome = outcome();
    stopped.kill()?;
    stopped.wait()?;
    outcome
}

/// Our server with its runtime; it ends when dropped.
struct Server {
    handle: StunTurnServer,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<Runtime>,
    _directory: TempDir,
}

impl Server {
    fn start(ip: &str) -> Result<Self> {
        Self::with(ip, |_| {})
    }

    fn with(ip: &str, change: impl FnOnce(&mut StunTurnConfig)) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let tls = TlsFiles { certificates: directory.path().join("cert.pem"), key: directory.path().join("key.pem") };
        std::fs::write(&tls.certificates, made.cert.pem())?;
        std::fs::write(&tls.key, made.signing_key.serialize_pem())?;
        let mut config = StunTurnConfig {
            listen: vec![SocketAddr::new(ip.parse()?, 0)],
            relay_addresses: vec![ip.parse()?],
            tls: Some(tls),
            credentials: Credentials::none().with_user("alice", "wonderland"),
            secrets: SharedSecret::new("north").into_iter().collect(),
            // uclient chooses its channel numbers at random from RFC 5766's range.
            rfc5766_channels: true,
            policy: PeerPolicy { allow_loopback_peers: true, ..PeerPolicy::default() },
            ..StunTurnConfig::default()
        };
        change(&mut config);
        let runtime = Runtime::new()?;
        let handle = {
            let _inside = runtime.enter();
            StunTurnServer::bind(config)?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let server = handle.clone();
        runtime.spawn(async move {
            server
                .run(async {
                    let _ = stopped.await;
                })
                .await;
        });
        let address = handle.addresses()[0];
        Ok(Self { handle, address, stop: Some(stop), runtime: Some(runtime), _directory: directory })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

/// A peer that sends everything back.
struct Echo {
    socket: UdpSocket,
    address: SocketAddr,
    last: Arc<Mutex<Option<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(ip: &str) -> Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::new(ip.parse()?, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, own, last) = (Arc::clone(&stop), socket.try_clone()?, Arc::new(Mutex::new(None)));
        let heard = Arc::clone(&last);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, source)) = own.recv_from(&mut buffer) {
                    let _ = own.send_to(&buffer[..length], source);
                    *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
                }
            }
        });
        Ok(Self { socket, address, last, stop, thread: Some(thread) })
    }

    /// Who it has heard from last.
    fn heard_from(&self) -> Option<SocketAddr> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
