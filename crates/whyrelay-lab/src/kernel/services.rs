//! What runs on the server's host: `whyrelay serve`, with the faults that the scenario gives it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::scenario::file::Credentials;
use crate::scenario::topology::Topology;

use super::error::LabError;
use super::host::SIGNALING_PORT;
use super::lab::Lab;
use super::plan::SERVER;

/// The port of STUN and TURN.
pub(crate) const STUN_PORT: u16 = 3478;
/// Relayed ports: few, so that a rule can close them all.
const RELAY_PORTS: &str = "50000-59999";

/// How long a program may take to say that it is ready.
const READY: Duration = Duration::from_secs(10);

/// The URL of signaling on the server's first address.
pub fn signal_url(topology: &Topology) -> String {
    match topology.server_address() {
        IpAddr::V4(ip) => format!("http://{ip}:{SIGNALING_PORT}"),
        IpAddr::V6(ip) => format!("http://[{ip}]:{SIGNALING_PORT}"),
    }
}

/// The server's programs; they end when dropped.
#[derive(Debug)]
pub struct Services {
    server: Running,
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

impl Services {
    /// Starts `whyrelay serve`; `program` is whyrelay's own file.
    ///
    /// # Errors
    /// When it does not come up, with what it said.
    pub fn start(lab: &Lab, topology: &Topology, program: &Path) -> Result<Self, LabError> {
        let faults = &topology.server.faults;
        if faults.certificate.is_some() || matches!(faults.credentials, Credentials::Expired) {
            return Err(LabError::Unsupported("TURN over TLS and expired credentials".to_owned()));
        }
        close_ports(lab, topology)?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", &format!("0.0.0.0:{SIGNALING_PORT}"), "--relay-ports", RELAY_PORTS]);
        command.args(["--stun-listen", &format!("{}:{STUN_PORT}", topology.server_address())]);
        if let Some(second) = topology.server.addresses.get(1).filter(|second| second.address.is_ipv4()) {
            command.args(["--alternate-address", &second.address.to_string()]);
        }
        // The lab's Internet is made of documentation addresses, which a relay rightly refuses.
        for network in ["203.0.113.0/24", "198.51.100.0/24", "2001:db8::/32"] {
            command.args(["--allow-peer", network]);
        }
        if !faults.turn {
            command.arg("--no-turn");
        }
        if let Some(address) = faults.relay_address {
            command.args(["--external-address", &address.to_string()]);
        }
        let log = lab.directory().join("serve.log");
        let failed = |doing: &str| LabError::system(format!("{doing} {}", log.display()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).map_err(failed("making"))?);
        let child = lab.enter(SERVER, || command.spawn().map_err(LabError::system("starting whyrelay serve")))?;
        let mut server = Running(child);
        let begun = Instant::now();
        let mut first = String::new();
        if let Some(stdout) = server.0.stdout.take() {
            let mut lines = BufReader::new(stdout);
            while begun.elapsed() < READY && lines.read_line(&mut first).is_ok_and(|length| length > 0) {
                if first.contains("serves signaling") {
                    // What it says later must not stop it.
                    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
                    return Ok(Self { server });
                }
            }
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        Err(LabError::Command { command: "whyrelay serve".to_owned(), said: format!("{first}{said}") })
    }

    /// The process id of `whyrelay serve`.
    pub fn server_pid(&self) -> u32 {
        self.server.0.id()
    }
}

/// What the server does not serve is dropped in front of it, as firewalls do.
fn close_ports(lab: &Lab, topology: &Topology) -> Result<(), LabError> {
    let faults = &topology.server.faults;
    let mut rules = Vec::new();
    let both = "meta l4proto { udp, tcp }";
    if !faults.answers {
        rules.push(format!("{both} th dport {STUN_PORT} drop"));
    }
    if !faults.udp {
        rules.push(format!("udp dport {STUN_PORT} drop"));
    }
    if !faults.tcp {
        rules.push(format!("tcp dport {STUN_PORT} drop"));
    }
    if faults.relay_ports_closed {
        rules.push(format!("udp dport {RELAY_PORTS} drop"));
    }
    let mut text = format!(
        "table inet counting {{\ncounter to_relay {{ }}\ncounter from_relay {{ }}\n\
         chain in {{ type filter hook input priority -10; udp dport {RELAY_PORTS} counter name to_relay; }}\n\
         chain out {{ type filter hook output priority -10; udp sport {RELAY_PORTS} counter name from_relay; }}\n}}\n"
    );
    if !rules.is_empty() {
        text.push_str(&format!(
            "table inet faults {{ chain in {{ type filter hook input priority 0;\n{}\n}} }}\n",
            rules.join("\n")
        ));
    }
    lab.nft(SERVER, &text).map(drop)
}
