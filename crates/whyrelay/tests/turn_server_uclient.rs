//! coturn's own client against our TURN server, on loopback. Where the client is not installed the tests are skipped,
//! and their names say why; in CI (`CI=true`) that is a failure.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use whyrelay::server::turn::{StunTurnConfig, StunTurnServer, TlsFiles};
use whyrelay_core::engine::turn_server::{Credentials, PeerPolicy, SharedSecret};

/// A name and the arguments that make uclient do it; each also gets a peer to talk to. Not between two clients over
/// TLS: there uclient counts 14 to 21 of 100 as lost, with coturn as with us, though our server sent them all; it seems to
/// read one record for each wakeup. `two_tls_clients_lose_nothing_between_them` is that case with a client that reads all.
const RUNS: [(&str, &[&str]); 15] = [
    ("udp_with_channels", &["-c"]),
    ("udp_with_indications", &["-c", "-s"]),
    ("udp_client_to_client", &["-c", "-y", "-m", "2"]),
    ("udp_client_to_client_with_indications", &["-c", "-y", "-s", "-m", "2"]),
    ("udp_with_dont_fragment", &["-c", "-g", "-s"]),
    ("udp_with_extra_requests", &["-c", "-G"]),
    ("udp_with_ipv4_explicitly_requested", &["-c", "-X"]),
    ("udp_with_large_datagrams", &["-c", "-l", "1200"]),
    ("udp_with_padded_channel_data", &["-c", "-D"]),
    ("tcp_with_channels", &["-c", "-t"]),
    ("tcp_with_indications", &["-c", "-t", "-s"]),
    ("tcp_client_to_client", &["-c", "-t", "-y", "-m", "2"]),
    ("tcp_with_odd_sizes", &["-c", "-t", "-l", "173"]),
    ("tls_with_channels", &["-c", "-t", "-S"]),
    ("tls_with_indications", &["-c", "-t", "-S", "-s"]),
];

/// One run, still to be done.
type Test = Box<dyn FnOnce() -> Result<()> + Send>;

fn main() -> ExitCode {
    let program = std::env::var_os("WHYRELAY_INTEROP_TURNUTILS").map(PathBuf::from);
    let program = program.unwrap_or_else(|| PathBuf::from("/usr/bin/turnutils_uclient"));
    let missing = (!program.exists()).then(|| format!("{} is not installed (package coturn)", program.display()));
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
    let mut tests: Vec<(String, Test)> = Vec::new();
    for (name, arguments) in RUNS {
        let program = program.clone();
        let run = move || uclient(&program, &["-u", "alice", "-w", "wonderland"], arguments, "127.0.0.1");
        tests.push((name.to_owned(), Box::new(run)));
    }
    let secret = program.clone();
    let run = move || uclient(&secret, &["-u", "carol", "-W", "north"], &["-c"], "127.0.0.1");
    tests.push(("udp_with_time_limited_credentials".to_owned(), Box::new(run)));
    for (name, transport) in [
        ("udp_over_ipv6", &["-c", "-x"][..]),
        ("udp_over_ipv6_with_indications", &["-c", "-x", "-s"]),
        ("tcp_over_ipv6", &["-c", "-x", "-t"]),
        ("tls_over_ipv6", &["-c", "-x", "-t", "-S"]),
    ] {
        let program = program.clone();
        let run = move || uclient(&program, &["-u", "alice", "-w", "wonderland"], transport, "::1");
        tests.push((name.to_owned(), Box::new(run)));
    }
    for (name, flags, serves) in [
        ("the_program_with_rfc5766_channels", &["--rfc5766-channels"][..], true),
        ("the_program_without_them_refuses_their_numbers", &[], false),
    ] {
        let program = program.clone();
        tests.push((name.to_owned(), Box::new(move || the_program(&program, flags, serves))));
    }
    let negative = program.clone();
    tests.push(("negative_tests_leave_the_server_serving".to_owned(), Box::new(move || negative_tests(&negative))));
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
    let output = Command::new(program)
        .args(who)
        .args(how)
        .args(["-n", "50", "-z", "5", "-L", ip, "-e", ip])
        .args(["-r", &echo.address.port().to_string(), "-p", &server.address.port().to_string(), ip])
        .output()
        .context("starting uclient")?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let counters = server.handle.metrics().counters;
    ensure!(output.status.success(), "uclient: {}\n{said}\n{counters:?}", output.status);
    ensure!(counters.datagrams_to_peers >= 50, "relayed {} datagrams\n{said}", counters.datagrams_to_peers);
    let back = counters.datagrams_to_clients;
    ensure!(back >= 50, "brought {back} datagrams back\n{said}\n{counters:?}");
    Ok((!said.contains("Total lost packets 0 ")).then(|| format!("uclient lost packets\n{said}\n{counters:?}")))
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

/// coturn's negative protocol tests send broken and contradictory requests; afterwards an honest run must succeed.
fn negative_tests(program: &Path) -> Result<()> {
    let server = Server::start("127.0.0.1")?;
    let echo = Echo::start("127.0.0.1")?;
    let (peer, port) = (echo.address.port().to_string(), server.address.port().to_string());
    let run = |extra: &[&str]| {
        let who =
            ["-u", "alice", "-w", "wonderland", "-c", "-n", "10", "-z", "5", "-L", "127.0.0.1", "-e", "127.0.0.1"];
        // Negative runs may wait for answers that nobody owes them.
        let mut command = Command::new("timeout");
        command.args(["20", &program.display().to_string()]).args(who).args(extra);
        command.args(["-r", &peer, "-p", &port, "127.0.0.1"]).output().context("starting uclient")
    };
    run(&["-N"])?;
    run(&["-R"])?;
    let refused = server.handle.metrics().counters.errors.values().sum::<u64>();
    ensure!(refused > 2, "the negative tests got {refused} errors");
    let honest = run(&[])?;
    let said = String::from_utf8_lossy(&honest.stdout);
    ensure!(said.contains("Total lost packets 0 "), "after the negative tests\n{said}");
    Ok(())
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
        let directory = tempfile::tempdir()?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let tls = TlsFiles { certificates: directory.path().join("cert.pem"), key: directory.path().join("key.pem") };
        std::fs::write(&tls.certificates, made.cert.pem())?;
        std::fs::write(&tls.key, made.signing_key.serialize_pem())?;
        let config = StunTurnConfig {
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
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(ip: &str) -> Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::new(ip.parse()?, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, source)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], source);
                }
            }
        });
        Ok(Self { address, stop, thread: Some(thread) })
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
