//! What runs on the server's host: `whyrelay serve`, with the faults that the scenario gives it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::scenario::file::Credentials;
use crate::scenario::topology::{Signaling, Topology};
use crate::scenario::{SIGNALING_PORT, STUN_PORT};

use super::command::{nft, run, unreached};
use super::error::LabError;
use super::lab::Lab;
use super::plan::SERVER;
use super::relayed;
use super::run::{Certified, Conditions};
use super::signaling::{Fate, Proxy, seen_from};

/// The file of the authority that peers trust.
pub(super) const AUTHORITY: &str = "authority.pem";
/// How a Refresh request begins (RFC 8489 §5, RFC 8656 §17).
const REFRESH: u16 = 0x0004;
/// Relayed ports: few, so that a rule can close them all.
const RELAY_PORTS: &str = "50000-59999";

/// How long a program may take to say that it is ready.
const READY: Duration = Duration::from_secs(10);
/// Between two looks at whether all is to end.
const LOOK: Duration = Duration::from_millis(20);

/// The one user of TURN: a lab guards nothing.
pub(super) const USER: &str = "lab";
/// Its password.
pub(super) const PASSWORD: &str = "lab-password";
/// The secret of credentials that expire.
pub(super) const SECRET: &str = "lab-secret";

/// The URL of signaling for a host that is no peer, by the network that the scenario describes; that of a peer is in
/// [`SessionArguments`](super::SessionArguments).
pub fn signal_url(topology: &Topology, host: &str) -> String {
    let host = topology.host(host);
    let speaks =
        |address: &IpAddr| host.is_none_or(|host| host.addresses().any(|own| own.is_ipv4() == address.is_ipv4()));
    let mut addresses = topology.server.addresses.iter().map(|cidr| cidr.address);
    let address = addresses.find(speaks).unwrap_or_else(|| topology.server_address());
    format!("http://{}", SocketAddr::new(address, SIGNALING_PORT))
}

/// The URL of signaling for a peer, beside the network: a scenario's faults are of the path between the peers.
pub(super) fn signal_beside() -> String {
    format!("http://127.0.0.1:{SIGNALING_PORT}")
}

/// The server's programs; they end when dropped.
#[derive(Debug)]
pub struct Services {
    _server: Running,
    tls: Option<Running>,
    /// They end with it.
    proxies: Vec<Proxy>,
}

/// A program that ends with its value.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Ends what [`start`] has started, the program in its shell included.
    fn end(mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Does something while the server is one that shows how NATs behave (RFC 5780): on the port of STUN and the one after
/// it, by both of its addresses. Nothing of it is left when the session's own is started.
pub(super) fn with_discovery<T>(
    lab: &Lab,
    conditions: &Conditions<'_>,
    [first, second]: [IpAddr; 2],
    doing: impl FnOnce(SocketAddr) -> Result<T, LabError>,
) -> Result<T, LabError> {
    let mut command = serve(conditions.program);
    command.args(["--listen", "127.0.0.1:0", "--no-turn", "--alternate-address", &second.to_string()]);
    // Its plain port is one that nobody asks.
    command.args(["--stun-listen", &SocketAddr::new(first, STUN_PORT - 1).to_string()]);
    command.args(["--discovery-port", &STUN_PORT.to_string()]);
    let server = start(lab, command, "serve-discovery.log", conditions.interrupted)?;
    let done = doing(SocketAddr::new(first, STUN_PORT));
    server.end();
    done
}

impl Services {
    /// Starts `whyrelay serve`, a second one for TURN over TLS where the scenario has a certificate and one can be made,
    /// and what does to the peers' signaling as the scenario says.
    ///
    /// # Errors
    /// When one does not come up, with what it said; when all is to end.
    pub fn start(lab: &Lab, topology: &Topology, conditions: &Conditions<'_>) -> Result<Self, LabError> {
        let faults = &topology.server.faults;
        lab.nft(SERVER, &packet_filter(topology))?;
        let mut command = serve(conditions.program);
        command.args(arguments(topology));
        credentials(lab, &mut command)?;
        let server = start(lab, command, "serve.log", conditions.interrupted)?;
        let tls = match (faults.certificate, conditions.certify) {
            (Some(kind), Some(certify)) => {
                let made = certify(kind, topology.server_address());
                let made = made.map_err(LabError::system("making a certificate"))?;
                Some(serve_tls(lab, topology, conditions, &made)?)
            }
            _ => None,
        };
        Ok(Self { _server: server, tls, proxies: proxies(lab, topology)? })
    }

    /// Gives a host one more way to signaling beside the network, at a port of its loopback address: who is no peer of the
    /// scenario has none.
    ///
    /// # Errors
    /// When there is no such host, or something listens there.
    pub fn signal_beside(&mut self, lab: &Lab, host: &str, port: u16, faults: &Signaling) -> Result<(), LabError> {
        self.proxies.push(Proxy::start((lab.namespace(host)?, port), lab.namespace(SERVER)?, faults, true, None)?);
        Ok(())
    }

    /// What the relay over TLS has sent to its clients of what their peers sent, checks included; nothing where there is
    /// none.
    pub(super) fn relayed_over_tls(&self, lab: &Lab) -> Result<u64, LabError> {
        if self.tls.is_some() { lab.enter(SERVER, relayed::to_clients) } else { Ok(0) }
    }

    /// Datagrams of the peers' data that the relay has sent where its wires tell them.
    pub(super) fn relayed_data(&self, lab: &Lab) -> Result<u64, LabError> {
        let program = nft()?;
        let listed = lab.enter(SERVER, || run(&program, &["list", "counter", "inet", "counting", "relayed"], ""))?;
        let number = listed.split_once("packets ").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| LabError::Command { command: "nft list counter".to_owned(), said: listed })
    }
}

/// What in `nft` matches the peers' data that the relay sends to a peer, and to its client over UDP and over TCP: what begins
/// as DTLS does (RFC 7983 §7), plain or in ChannelData (RFC 8656 §12.4; over TCP behind a header of 32 bytes, as Linux
/// sends it).
pub fn relayed_matches() -> [String; 3] {
    [
        format!("udp sport {RELAY_PORTS} @th,64,8 20-63"),
        format!("udp sport {STUN_PORT} @th,64,8 64-79 @th,96,8 20-63"),
        format!("tcp sport {STUN_PORT} @th,256,8 64-79 @th,288,8 20-63"),
    ]
}

/// Starts another one for TURN over TLS: signaling stays plain.
fn serve_tls(
    lab: &Lab,
    topology: &Topology,
    conditions: &Conditions<'_>,
    made: &Certified,
) -> Result<Running, LabError> {
    let mut command = serve(conditions.program);
    command.args(tls_arguments(topology));
    credentials(lab, &mut command)?;
    for (flag, name, text) in [
        ("--tls-cert", "server.pem", &made.certificate),
        ("--tls-key", "server.key", &made.key),
        ("", AUTHORITY, &made.authority),
    ] {
        let file = write(lab, name, text)?;
        if !flag.is_empty() {
            command.arg(flag).arg(file);
        }
    }
    start(lab, command, "serve-tls.log", conditions.interrupted)
}

/// What the server is told beside its credentials.
fn arguments(topology: &Topology) -> Vec<String> {
    let faults = &topology.server.faults;
    let mut arguments = vec![
        "--listen".to_owned(),
        format!("[::]:{SIGNALING_PORT}"),
        "--relay-ports".to_owned(),
        RELAY_PORTS.to_owned(),
    ];
    for cidr in &topology.server.addresses {
        arguments.extend(["--stun-listen".to_owned(), SocketAddr::new(cidr.address, STUN_PORT).to_string()]);
    }
    if !faults.turn {
        arguments.push("--no-turn".to_owned());
    }
    if let Some(address) = faults.relay_address {
        arguments.extend(["--external-address".to_owned(), address.to_string()]);
    }
    arguments
}

/// The same for TURN over TLS, beside its certificate.
fn tls_arguments(topology: &Topology) -> Vec<String> {
    let listen = topology.tls_address().to_string();
    let metrics = relayed::METRICS.to_string();
    let said = ["--listen", "127.0.0.1:0", "--metrics-listen", &metrics, "--relay-ports", RELAY_PORTS];
    said.into_iter().chain(["--stun-listen", &listen]).map(str::to_owned).collect()
}

/// What of a topology's server and signaling is in what is run, one line each.
pub(super) fn told(topology: &Topology) -> Vec<String> {
    let mut told = vec![format!("whyrelay serve {}", arguments(topology).join(" ")), packet_filter(topology)];
    if let Some(kind) = topology.server.faults.certificate {
        told.push(format!("whyrelay serve {} with a certificate: {kind:?}", tls_arguments(topology).join(" ")));
    }
    told.push(format!("credentials are passed on: {}", passes_credentials(topology)));
    for (host, faults) in topology.hosts.iter().zip(&topology.signaling) {
        let fates = [false, true].map(|is_candidate| Fate::of(faults, is_candidate));
        told.push(format!("what {} says, and its candidates: {fates:?}", host.name));
    }
    told
}

/// Whether the peers hear of TURN's credentials from the server.
fn passes_credentials(topology: &Topology) -> bool {
    topology.server.faults.credentials != Credentials::Missing
}

/// `whyrelay serve`, which must not outlive a lab that is killed: the standard input of this shell ends with the lab,
/// however that ends.
fn serve(program: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#""$@" </dev/null & served=$!; read -r _; kill -9 $served; wait"#, "sh"]).arg(program);
    command.arg("serve");
    // The lab's Internet is made of documentation addresses, which a relay rightly refuses.
    for network in ["203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24", "2001:db8::/32"] {
        command.args(["--allow-peer", network]);
    }
    command
}

/// The one user and the secret, by files as an operator gives them.
fn credentials(lab: &Lab, command: &mut Command) -> Result<(), LabError> {
    command.arg("--turn-users-file").arg(write(lab, "users", &format!("{USER}:{PASSWORD}\n"))?);
    command.arg("--turn-secret-file").arg(write(lab, "secret", &format!("{SECRET}\n"))?);
    Ok(())
}

fn write(lab: &Lab, name: &str, text: &str) -> Result<PathBuf, LabError> {
    let file = lab.directory().join(name);
    let failed = || LabError::system(format!("writing {}", file.display()));
    fs::write(&file, text).map_err(failed())?;
    // A session of another user reads it, whatever the umask is: a lab guards nothing.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).map_err(failed())?;
    Ok(file)
}

/// Starts it on the server and waits until it serves.
fn start(lab: &Lab, mut command: Command, log: &str, interrupted: &AtomicBool) -> Result<Running, LabError> {
    let log = lab.directory().join(log);
    let file = File::create(&log).map_err(LabError::system(format!("making {}", log.display())))?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).process_group(0);
    // It ends with its standard input, and not with the terminal's signals.
    let spawn = || unreached(|| command.spawn()).map_err(LabError::system("starting whyrelay serve"));
    let child = lab.enter(SERVER, spawn)?;
    let mut server = Running(child);
    let lines = server.0.stdout.take().map(lines);
    let begun = Instant::now();
    let mut first = String::new();
    while let Some(lines) = lines.as_ref().filter(|_| begun.elapsed() < READY) {
        LabError::if_set(interrupted)?;
        match lines.recv_timeout(LOOK) {
            Ok(line) if line.contains("serves signaling") => return Ok(server),
            Ok(line) => first.push_str(&line),
            Err(RecvTimeoutError::Timeout) => {}
            // It has ended.
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    Err(LabError::Session { who: "whyrelay serve".to_owned(), said: format!("it does not serve\n{first}{said}") })
}

/// What it says, line by line, to its end: also what nobody wants to hear must not stop it.
fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (said, heard) = channel();
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        while stdout.read_line(&mut line).is_ok_and(|length| length > 0) {
            let _ = said.send(std::mem::take(&mut line));
        }
    });
    heard
}

/// The table of the server's packet filter by which it is cut off: without it, it is there again.
pub const CUT: &str = "inet cut";

/// Drops from now on whatever the server would serve but signaling, and but what gives allocations back: Refresh
/// (RFC 8656 §3.2; over TCP behind a header of 32 bytes, as Linux sends it), without which every session would end late.
///
/// # Errors
/// When `nft` says no.
pub fn cut_off(lab: &Lab, topology: &Topology) -> Result<(), LabError> {
    let tls = topology.tls_address().port();
    let rules = format!(
        "table {CUT} {{ chain in {{ type filter hook input priority -20;\n\
         udp dport {STUN_PORT} @th,64,16 {REFRESH:#x} accept\nmeta l4proto udp drop\n\
         tcp dport {STUN_PORT} @th,256,16 {REFRESH:#x} accept\ntcp dport {{ {STUN_PORT}, {tls} }} drop\n}}\n}}\n"
    );
    lab.nft(SERVER, &rules).map(drop)
}

fn proxies(lab: &Lab, topology: &Topology) -> Result<Vec<Proxy>, LabError> {
    let servers: Vec<SocketAddr> =
        topology.server.addresses.iter().map(|cidr| SocketAddr::new(cidr.address, SIGNALING_PORT)).collect();
    let peers = || topology.hosts.iter().zip(&topology.signaling);
    let namespaces = peers().map(|(host, _)| lab.namespace(&host.name)).collect::<Result<Vec<_>, _>>()?;
    // Before any session looks at its host, and both at once: what does not come about takes its time. A full table lets no
    // connection out.
    let seen: Vec<Option<IpAddr>> = thread::scope(|scope| {
        let asks = namespaces.iter().zip(&topology.hosts).map(|(peer, host)| (!host.conntrack_full).then_some(peer));
        let asking: Vec<_> = asks.map(|peer| peer.map(|peer| scope.spawn(|| seen_from(peer, &servers)))).collect();
        asking.into_iter().map(|asked| asked?.join().ok().flatten()).collect()
    });
    let credentials = passes_credentials(topology);
    let proxies = namespaces.into_iter().zip(peers()).zip(seen).map(|((peer, (_, faults)), seen)| {
        Proxy::start((peer, SIGNALING_PORT), lab.namespace(SERVER)?, faults, credentials, seen)
    });
    proxies.collect()
}

/// What the server does not serve is dropped in front of it, as firewalls do, and what it relays is counted.
fn packet_filter(topology: &Topology) -> String {
    let faults = &topology.server.faults;
    let mut rules = Vec::new();
    let both = "meta l4proto { udp, tcp }";
    if !faults.answers {
        rules.push(format!("{both} th dport {STUN_PORT} drop"));
    }
    if !faults.udp {
        // Nothing listens there, and the host says so.
        rules.push(format!("udp dport {STUN_PORT} reject"));
    }
    if faults.udp_filtered {
        rules.push(format!("udp dport {STUN_PORT} drop"));
    }
    if !faults.tcp {
        rules.push(format!("tcp dport {STUN_PORT} reject with tcp reset"));
    }
    if faults.relay_ports_closed {
        rules.push(format!("udp dport {RELAY_PORTS} drop"));
    }
    let counted: String = relayed_matches().map(|data| format!("{data} counter name relayed\n")).concat();
    let mut text = format!(
        "table inet counting {{\ncounter relayed {{ }}\n\
         chain out {{ type filter hook output priority -10; policy accept;\n{counted}}}\n}}\n"
    );
    if !rules.is_empty() {
        text.push_str(&format!(
            "table inet faults {{ chain in {{ type filter hook input priority 0;\n{}\n}}\n}}\n",
            rules.join("\n")
        ));
    }
    text
}
