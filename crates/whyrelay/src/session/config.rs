//! What one session is to do: the command line, resolved to one value before anything happens.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use whyrelay_core::engine::credentials::Password;
use whyrelay_core::engine::server_url::{ServerProtocol, ServerUrl};
use whyrelay_core::signal::{DEFAULT_ANSWERER, DEFAULT_OFFERER, MAX_NAME};
use whyrelay_core::trace::event::{SessionOptions, Vantage};

use super::Trial;
use crate::application::Suspect;
use crate::cli::args::{DtlsVersion, PeerArgs};
use crate::io::interfaces::{self, InterfaceFilter};
use crate::io::udp::UdpOptions;

/// What one session is to do.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// A: offer. B: answer.
    pub side: Vantage,
    /// The signaling server.
    pub signal: String,
    /// The room; empty for the default one.
    pub room: String,
    /// Our id.
    pub id: String,
    /// The peer's id.
    pub peer: String,
    /// STUN servers that the user named.
    pub stun: Vec<ServerUrl>,
    /// TURN servers that the user named.
    pub turn: Vec<ServerUrl>,
    /// Their user name and password.
    pub turn_credentials: Option<(String, Password)>,
    /// PEM files with roots to trust.
    pub tls_roots: Vec<PathBuf>,
    /// Relayed candidates only.
    pub relay_only: bool,
    /// No TURN.
    pub no_turn: bool,
    /// No TCP candidates.
    pub no_tcp: bool,
    /// Which interfaces and addresses.
    pub interfaces: InterfaceFilter,
    /// Interfaces that are to be left out and are not there.
    pub absent: Vec<String>,
    /// The local UDP port.
    pub port: Option<u16>,
    /// SO_MARK.
    pub mark: Option<u32>,
    /// The program that this session stands in for.
    pub application: Option<Suspect>,
    /// What is tried for this session.
    pub trials: Vec<Trial>,
    /// DTLS 1.2 only.
    pub dtls12: bool,
    /// From both descriptions to a connection, at most.
    pub timeout: Duration,
    /// How long to wait for the peer.
    pub wait: Duration,
    /// RFC 8445's own schedule.
    pub patient: bool,
    /// Stay connected.
    pub stay: bool,
    /// Throughput, for this long each way.
    pub throughput: Option<Duration>,
    /// The longest silence to try a mapping with.
    pub lifetime: Option<Duration>,
    /// Nothing is measured before this file is there.
    pub measure_after: Option<PathBuf>,
    /// The recording's file.
    pub record: Option<PathBuf>,
    /// The capture's file.
    pub pcap: Option<PathBuf>,
    /// Pseudonyms instead of addresses.
    pub redact: bool,
    /// Where every event goes as it is recorded, besides: to the screen.
    pub watch: Option<std::sync::mpsc::Sender<crate::tui::worker::Feed>>,
    /// Put before progress lines when two sessions share a terminal.
    pub label: String,
}

impl SessionConfig {
    /// Resolves the command line.
    ///
    /// # Errors
    /// A sentence that names the argument and the way out.
    pub fn resolve(side: Vantage, args: PeerArgs) -> anyhow::Result<Self> {
        let (own, other) = match side {
            Vantage::A => (DEFAULT_OFFERER, DEFAULT_ANSWERER),
            Vantage::B => (DEFAULT_ANSWERER, DEFAULT_OFFERER),
        };
        let id = args.id.unwrap_or_else(|| own.into());
        let peer = args.peer.unwrap_or_else(|| other.into());
        for (flag, name) in [("--id", &id), ("--peer", &peer), ("--room", &args.room.clone().unwrap_or_default())] {
            anyhow::ensure!(name.len() <= MAX_NAME, "{flag} has {} bytes, at most {MAX_NAME} are possible", name.len());
        }
        anyhow::ensure!(id != peer, "--id and --peer are both {id:?}\nhint: give the two sides different ids");

        crate::signaling::check_url("--signal", &args.signal)?;
        let stun = parse_urls("--stun", &args.stun, ServerProtocol::Stun)?;
        let turn = parse_urls("--turn", &args.turn, ServerProtocol::Turn)?;
        let no_turn = args.no_turn || args.with_turn == Some(false);
        anyhow::ensure!(
            !(args.relay_only && no_turn),
            "--relay-only and --with-turn=false leave nothing to connect with"
        );
        let application = args.as_program.as_deref().map(Suspect::resolve).transpose()?.map(|mut suspect| {
            // What is given beside it stands against what is known of it.
            suspect.mark = args.mark.or(suspect.mark);
            suspect.port = args.port.or(suspect.port).filter(|_| !args.trials.contains(&Trial::Port));
            suspect
        });
        interfaces::must_exist("--interface", &args.interface)?;
        interfaces::must_exist("--try exclude=", args.trials.iter().filter_map(Trial::excluded_name))?;
        // One command line for many hosts leaves out what only some of them have.
        let (absent, _) = interfaces::absent(&args.exclude_interface).context("listing the interfaces")?;
        let left_out = application.iter().flat_map(|suspect| &suspect.left_out);
        let left_out: Vec<String> = left_out.filter(|name| !args.interface.contains(name)).cloned().collect();
        let turn_credentials = turn_credentials(args.turn_user, args.turn_password_file.as_deref(), &turn)?;
        Ok(Self {
            side,
            signal: args.signal,
            room: args.room.unwrap_or_default(),
            id,
            peer,
            stun,
            turn,
            turn_credentials,
            tls_roots: args.tls_ca,
            relay_only: args.relay_only,
            no_turn,
            // A VPN's path is UDP's: one over TCP would say nothing of it.
            no_tcp: args.no_tcp || application.is_some(),
            interfaces: InterfaceFilter {
                include: args.interface,
                exclude: [args.exclude_interface, left_out, super::trial::excluded(&args.trials)].concat(),
                addresses: args.address,
            },
            absent,
            port: args
                .port
                .or(application.as_ref().and_then(|suspect| suspect.port))
                .filter(|_| !args.trials.contains(&Trial::Port)),
            mark: args.mark,
            application,
            trials: args.trials,
            dtls12: args.dtls == Some(DtlsVersion::V12),
            timeout: args.timeout,
            wait: args.wait,
            patient: args.patient,
            stay: args.stay,
            throughput: args.throughput,
            lifetime: args.lifetime,
            measure_after: args.measure_after,
            record: args.record,
            pcap: args.pcap,
            redact: args.redact,
            watch: None,
            label: String::new(),
        })
    }

    /// A session on one machine, for the demo and for tests: one address, no files.
    pub fn local(side: Vantage, signal: String, room: String, address: IpAddr) -> Self {
        let (id, peer) = match side {
            Vantage::A => (DEFAULT_OFFERER, DEFAULT_ANSWERER),
            Vantage::B => (DEFAULT_ANSWERER, DEFAULT_OFFERER),
        };
        Self {
            side,
            signal,
            room,
            id: id.into(),
            peer: peer.into(),
            stun: Vec::new(),
            turn: Vec::new(),
            turn_credentials: None,
            tls_roots: Vec::new(),
            relay_only: false,
            no_turn: false,
            no_tcp: false,
            interfaces: InterfaceFilter { addresses: vec![address], ..InterfaceFilter::default() },
            absent: Vec::new(),
            port: None,
            mark: None,
            application: None,
            trials: Vec::new(),
            dtls12: false,
            timeout: Duration::from_secs(30),
            wait: Duration::from_secs(30),
            patient: false,
            stay: false,
            throughput: None,
            lifetime: None,
            measure_after: None,
            record: None,
            pcap: None,
            redact: false,
            watch: None,
            label: match side {
                Vantage::A => "A".into(),
                Vantage::B => "B".into(),
            },
        }
    }

    /// How this session's own sockets are made, and what of the application they are not like.
    pub(super) fn sockets(&self) -> (UdpOptions, Vec<String>) {
        match &self.application {
            Some(application) => application.permitted(),
            None => (UdpOptions { mark: self.mark, ..UdpOptions::default() }, Vec::new()),
        }
    }

    /// The whole command for the other side, as it can be pasted there. The URL as it was given, but for a password.
    pub fn other_command(&self) -> String {
        let (verb, own, other) = match self.side {
            Vantage::A => ("answer", DEFAULT_OFFERER, DEFAULT_ANSWERER),
            Vantage::B => ("offer", DEFAULT_ANSWERER, DEFAULT_OFFERER),
        };
        let has_secret =
            url::Url::parse(&self.signal).is_ok_and(|url| url.password().is_some() || url.query().is_some());
        let signal = if has_secret { super::signals::public_url(&self.signal) } else { self.signal.clone() };
        let mut command = format!("whyrelay {verb} --signal {}", quoted(&signal));
        // The ids are of this side: there they are the other way round.
        let named = [("--room", &self.room, ""), ("--id", &self.peer, other), ("--peer", &self.id, own)];
        for (flag, value, usual) in named {
            if value != usual {
                command.push_str(&format!(" {flag} {}", quoted(value)));
            }
        }
        command
    }

    /// What the recording says of the command line.
    pub fn options(&self) -> SessionOptions {
        SessionOptions {
            relay_only: self.relay_only,
            no_turn: self.no_turn,
            interfaces: self.interfaces.include.clone(),
            excluded_interfaces: self.interfaces.exclude.clone(),
            port: self.port,
            mark: self.mark,
            patient: self.patient,
            redacted: self.redact,
            tried: self.trials.iter().map(ToString::to_string).collect(),
        }
    }
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:[]@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

pub(crate) fn parse_urls(flag: &str, urls: &[String], protocol: ServerProtocol) -> anyhow::Result<Vec<ServerUrl>> {
    let parse = |text: &String| {
        let url: ServerUrl = text.parse().map_err(|error| anyhow::anyhow!("{flag}: {error}"))?;
        let (wanted, example) = match protocol {
            ServerProtocol::Stun => ("stun: or stuns:", "stun:stun.example.org:3478"),
            ServerProtocol::Turn => ("turn: or turns:", "turn:turn.example.org:3478"),
        };
        anyhow::ensure!(url.protocol() == protocol, "{flag} {text}: a {wanted} URL belongs here, like {example}");
        Ok(url)
    };
    urls.iter().map(parse).collect()
}

/// The TURN credentials: the password from the file or TURN_PASSWORD, never from an argument, where every user of the
/// machine could read it.
fn turn_credentials(
    user: Option<String>,
    file: Option<&Path>,
    turn: &[ServerUrl],
) -> anyhow::Result<Option<(String, Password)>> {
    let Some(user) = user else {
        anyhow::ensure!(turn.is_empty(), "--turn needs --turn-user: TURN servers give nothing to strangers");
        return Ok(None);
    };
    let password = read_turn_password(&user, file)?;
    Ok(Some((user, Password::new(password))))
}

/// The password of a TURN user.
///
/// # Errors
/// When there is none, or its file cannot be read.
pub(crate) fn read_turn_password(user: &str, file: Option<&Path>) -> anyhow::Result<String> {
    let password = match file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| anyhow::anyhow!("--turn-password-file {}: {error}", file.display()))?;
            text.lines().next().unwrap_or_default().to_owned()
        }
        None => std::env::var("TURN_PASSWORD").unwrap_or_default(),
    };
    anyhow::ensure!(
        !password.is_empty(),
        "there is no password for --turn-user {user}\nhint: set TURN_PASSWORD, or name a file with --turn-password-file"
    );
    Ok(password)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Verb};

    fn resolve(more: &[&str]) -> anyhow::Result<SessionConfig> {
        let cli = Cli::try_parse_from(["whyrelay", "offer"].iter().chain(more))?;
        let Verb::Offer(args) = cli.verb else { panic!("it is an offer") };
        SessionConfig::resolve(Vantage::A, args)
    }

    #[test]
    fn a_broken_signaling_url_is_told_before_anything_happens() {
        let error = resolve(&["--signal", "192.0.2.1:8080"]).unwrap_err().to_string();
        assert!(
            error.starts_with("--signal: the signaling URL \"192.0.2.1:8080\" is broken: it begins with"),
            "{error}"
        );
        assert!(error.contains("\nhint: give it as http://HOST:PORT"), "{error}");
    }

    #[test]
    fn who_stands_in_for_a_vpn_offers_no_tcp() {
        assert!(!resolve(&[]).unwrap().no_tcp);
        for program in ["wireguard", "mark=0x1bd00"] {
            assert!(resolve(&["--as", program]).unwrap().no_tcp, "{program}");
        }
    }
}
