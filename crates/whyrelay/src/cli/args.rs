//! The command line, as clap sees it. Each verb resolves its arguments to one configuration value before it acts.

mod check;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use whyrelay_core::host::parse_number;

pub use check::{CheckArgs, Only};

use super::stun_args::DiscoveryArgs;
use super::turn_args::TurnArgs;

/// What the exit status of a session and its account says, in the words of README.md.
macro_rules! session_status {
    () => {
        "The exit status is 0 when the path is direct over UDP and there is no error and no warning; 1 when it is relayed, \
         over TCP or there is none, when it broke (--stay), or when there is an error or a warning; 2 when whyrelay could \
         not look, or could not write what was asked for. A finding that is information alone is no cause of anything, and \
         changes no exit status."
    };
}

/// The same of a check.
const CHECK_STATUS: &str = "The exit status is 0 when there is no error and no warning; 1 when there is an error or a \
    warning; 2 when nothing could be measured of the network (no server was named, or none could be asked), when the check \
    was stopped before it had found anything, or when it could not write what was asked for.";

/// Why can these two machines not connect directly?
#[derive(Debug, Parser)]
#[command(
    name = "whyrelay",
    version,
    about = "Why can these two machines not connect directly?",
    long_about = "whyrelay connects two machines the way WebRTC and mesh VPNs do, watches every packet on both \
        sides, and says whether the path is direct, relayed or dead, and where it breaks.\n\n\
        Three commands make a test: `whyrelay serve` on a machine that both can reach, then `whyrelay answer` on \
        one of the two and `whyrelay offer` on the other, in any order. `whyrelay demo` shows it all on this machine.",
    after_help = concat!(session_status!(), "\nAnswers go to stdout, everything else to stderr."),
    propagate_version = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// What applies to every verb.
    #[command(flatten)]
    pub shared: Shared,
}

/// Flags of every verb.
#[derive(Clone, Debug, Args)]
pub struct Shared {
    /// Log more to stderr; twice for everything. Secrets are never logged
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Color on the terminal
    #[arg(long, value_enum, default_value_t = Color::Auto, global = true, value_name = "WHEN")]
    pub color: Color,
}

/// When to color.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// When stdout is a terminal, not a dumb one (TERM=dumb), and NO_COLOR is not set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Tell two stories of relayed peers, on this machine alone: no Internet and no root needed
    ///
    /// The networks are made of Linux network namespaces where the system allows it, else they are simulated; this
    /// machine's own network is not touched. Exit status: 0 when the stories came out as told, though both have a finding.
    Demo(DemoArgs),
    /// Be the meeting point: signaling, STUN and TURN. Prints what to run on the two machines
    Serve(ServeArgs),
    /// Be side A: send the offer. Either side may start first
    #[command(after_help = session_status!())]
    Offer(PeerArgs),
    /// Be side B: wait for the offer and answer it. Either side may start first
    #[command(after_help = session_status!())]
    Answer(PeerArgs),
    /// Look at this host alone: what its network does to UDP, which servers work, what would stop a peer
    ///
    /// Ctrl-C ends it at any time
    #[command(after_help = CHECK_STATUS)]
    Check(CheckArgs),
    /// Print the account from recordings: one side's, both sides', or one that holds both
    #[command(after_help = session_status!())]
    Report(ReportArgs),
    /// Say what a finding means, how it is detected and what helps
    Explain(ExplainArgs),
    /// The laboratory: networks from scenario files, in virtual time and in real kernels
    Lab(super::lab::args::LabArgs),
    /// Print the completion script of a shell
    Completions(super::manual::CompletionsArgs),
    /// Print the manual page, or write one for each verb into a directory
    Man(super::manual::ManArgs),
}

/// How the account is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one object, schema whyrelay.report/1 (of a check, whyrelay.check/1).
    Json,
    /// For a browser: one file that needs nothing else.
    Html,
}

/// `whyrelay demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Tell this story only
    #[arg(long, value_enum, value_name = "STORY")]
    pub story: Option<Story>,
    /// In virtual time, even if network namespaces can be used
    #[arg(long = "virtual")]
    pub virtual_time: bool,
    /// How to print the accounts. JSON and HTML hold one: the VPN's unless --story says otherwise
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// A story of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Story {
    /// Two homes, one behind a NAT with address-and-port-dependent mapping
    Homes,
    /// A VPN's marked socket, caught by a policy rule while a plain test connects
    Vpn,
}

/// `whyrelay serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Address and port of signaling (HTTP long poll and WebSocket); default: port 8080 on all addresses, IPv4 and IPv6
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Port of signaling on all addresses, in the Go lab's spelling
    #[arg(long, value_name = "PORT", conflicts_with = "listen")]
    pub port: Option<u16>,
    /// Address and port of STUN and TURN (UDP and TCP); may be repeated. Default: port 3478 on all addresses, of each
    /// family that this host has one of
    #[arg(long, value_name = "ADDR:PORT")]
    pub stun_listen: Vec<SocketAddr>,
    /// No STUN and no TURN: signaling only
    #[arg(long)]
    pub no_stun: bool,
    /// STUN without TURN: no relay
    #[arg(long)]
    pub no_turn: bool,
    /// Name or address by which the peers reach this machine, announced in STUN and TURN URLs; default: the address
    /// at which each peer reached signaling
    #[arg(long, value_name = "HOST")]
    pub public_host: Option<String>,
    /// Address that relayed traffic leaves from; default: the one of --stun-listen or of the default route. May be
    /// repeated, once for each family
    #[arg(long, value_name = "IP")]
    pub relay_address: Vec<IpAddr>,
    /// Address announced for relayed traffic when this machine stands behind a 1:1 NAT. May be repeated, once for each
    /// family
    #[arg(long, value_name = "IP")]
    pub external_address: Vec<IpAddr>,
    /// Ports for relayed traffic
    #[arg(long, value_name = "FIRST-LAST", default_value = "49152-65535", value_parser = parse_ports)]
    pub relay_ports: (u16, u16),
    /// Relay to private addresses too (10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7)
    #[arg(long)]
    pub allow_private_peers: bool,
    /// Relay to loopback addresses too: for tests on one machine
    #[arg(long)]
    pub allow_loopback_peers: bool,
    /// Certificate chain for TLS, PEM; with --tls-key signaling is https and wss, and TURN is offered over TLS. Read
    /// again on SIGHUP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key for TLS, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Refuse the room without a name, which the Go lab's clients use
    #[arg(long)]
    pub no_default_room: bool,
    /// TURN.
    #[command(flatten)]
    pub turn: TurnArgs,
    /// Behavior discovery.
    #[command(flatten)]
    pub discovery: DiscoveryArgs,
}

/// `whyrelay offer` and `whyrelay answer`.
#[derive(Clone, Debug, Args)]
pub struct PeerArgs {
    /// The signaling server: the URL that `whyrelay serve` prints; without it, one on this machine
    #[arg(
        long,
        visible_alias = "signaling-addr",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080",
        env = "WHYRELAY_SIGNAL"
    )]
    pub signal: String,
    /// The room in which the two meet; without one, the room that the Go lab's clients use
    #[arg(long, value_name = "NAME")]
    pub room: Option<String>,
    /// This peer's id; default offer-peer-1 or answer-peer-1
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// The other peer's id; default answer-peer-1 or offer-peer-1
    #[arg(long, value_name = "ID")]
    pub peer: Option<String>,

    /// STUN server, like stun:stun.example.org:3478; may be repeated. Default: what the signaling server announces
    #[arg(long, value_name = "URL", help_heading = "Servers")]
    pub stun: Vec<String>,
    /// TURN server, like turn:turn.example.org:3478?transport=tcp or turns:…; may be repeated
    #[arg(long, value_name = "URL", help_heading = "Servers")]
    pub turn: Vec<String>,
    /// TURN user name. The password comes from TURN_PASSWORD or --turn-password-file, never from an argument
    #[arg(long, value_name = "NAME", help_heading = "Servers")]
    pub turn_user: Option<String>,
    /// File whose first line is the TURN password
    #[arg(long, value_name = "FILE", help_heading = "Servers")]
    pub turn_password_file: Option<PathBuf>,
    /// Trust the certificates in this PEM file too, for turns: and https:
    #[arg(long, value_name = "FILE", help_heading = "Servers")]
    pub tls_ca: Vec<PathBuf>,

    /// Use relayed candidates only
    #[arg(long, conflicts_with = "no_turn", help_heading = "Candidates")]
    pub relay_only: bool,
    /// Use no TURN server
    #[arg(long, help_heading = "Candidates")]
    pub no_turn: bool,
    /// With or without TURN, in the Go lab's spelling
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        action = clap::ArgAction::Set, help_heading = "Candidates")]
    pub with_turn: Option<bool>,
    /// Gather from this interface only; may be repeated
    #[arg(long, value_name = "NAME", help_heading = "Candidates")]
    pub interface: Vec<String>,
    /// Do not gather from this interface; may be repeated
    #[arg(long, value_name = "NAME", help_heading = "Candidates")]
    pub exclude_interface: Vec<String>,
    /// Gather from this local address only; may be repeated
    #[arg(long, value_name = "IP", help_heading = "Candidates")]
    pub address: Vec<IpAddr>,
    /// No TCP candidates
    #[arg(long, help_heading = "Candidates")]
    pub no_tcp: bool,

    /// Make the sockets like another program's and compare with a plain program's: netbird, tailscale, wireguard, a
    /// process id, or a list like mark=0x1bd00,port=51820,interface=eth0,uid=1000,raw. Then there are no TCP candidates
    #[arg(long = "as", value_name = "PROGRAM", help_heading = "Sockets")]
    pub as_program: Option<String>,
    /// Local UDP port, as the application under suspicion uses it (WireGuard and NetBird: 51820)
    #[arg(long, value_name = "PORT", help_heading = "Sockets")]
    pub port: Option<u16>,
    /// Firewall mark of every socket (SO_MARK, needs CAP_NET_ADMIN), like 0x1bd00
    #[arg(long, value_name = "MARK", value_parser = parse_mark, help_heading = "Sockets")]
    pub mark: Option<u32>,
    /// Offer this DTLS version only
    #[arg(long, value_enum, value_name = "VERSION", help_heading = "Sockets")]
    pub dtls: Option<DtlsVersion>,

    /// Give up when there is no connection after this time, the wait for the peer not counted
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration, help_heading = "Session")]
    pub timeout: Duration,
    /// Wait this long for the peer to appear, from when signaling is connected
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration, help_heading = "Session")]
    pub wait: Duration,
    /// Keep RFC 8445's own retransmission schedule: up to 40 s until a dead pair is given up
    #[arg(long, help_heading = "Session")]
    pub patient: bool,
    /// Keep the connection open and report consent loss, path changes, restarts and interfaces that go down until Ctrl-C,
    /// or until the other side ends. When there is no path at that moment, it broke: the exit status is 1
    #[arg(long, help_heading = "Session")]
    pub stay: bool,
    /// Apply something harmless for this one session and tell whether the path is direct with it: port (another one),
    /// device (bind each socket to its interface), exclude (leave tunnels and virtual bridges out, or exclude=NAME),
    /// opener (a packet of low TTL ahead of the checks, just past this side's NATs), mapping (a port mapping by the router, removed at the end).
    /// May be repeated
    #[arg(long = "try", value_name = "WHAT", value_parser = crate::session::parse_trial, help_heading = "Session")]
    pub trials: Vec<crate::session::Trial>,
    /// Measure the throughput for this time, each way
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Session")]
    pub throughput: Option<Duration>,
    /// Find out how long this side's NAT remembers an idle mapping, up to this time: the session then takes that much
    /// longer, and the other side waits for it
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Session")]
    pub lifetime: Option<Duration>,
    /// Measure nothing before this file is there: the laboratory has cut the relay by then
    #[arg(long, value_name = "FILE", hide = true)]
    pub measure_after: Option<PathBuf>,

    /// Watch it on a terminal screen: path, pairs, checks, events, findings. The account is printed when it is left
    #[arg(long, help_heading = "Output")]
    pub tui: bool,
    /// Compare with the recording of an earlier session, after a fix: what is gone, what is new, what changed
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub prove: Option<PathBuf>,
    /// Write the recording (JSON lines) to this file, as it happens; at the end it holds both sides
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub record: Option<PathBuf>,
    /// Write the same datagrams to this file for Wireshark (pcapng)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub pcap: Option<PathBuf>,
    /// Replace addresses and names by pseudonyms, which agree on both sides, in account, recording and capture
    #[arg(long, help_heading = "Output")]
    pub redact: bool,
    /// How to print the account
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    pub format: Format,
    /// Write the account to this file instead of stdout
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Also write the account to this file as HTML
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,
}

/// A DTLS version to insist on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtlsVersion {
    /// DTLS 1.2
    #[value(name = "1.2")]
    V12,
}

/// `whyrelay report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Recordings: one, or one of each side; - is stdin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How to print the account
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Look at it on a terminal screen, and step through time; the account is only written where -o says
    #[arg(long)]
    pub tui: bool,
    /// Write the account to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Also write the recorded datagrams to this file for Wireshark (pcapng)
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Replace addresses and names in the output by pseudonyms
    #[arg(long)]
    pub redact: bool,
}

/// `whyrelay explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The finding's code or name, like WR504 or peer-sees-other-port
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
    /// List all findings
    #[arg(long, conflicts_with = "code")]
    pub list: bool,
}

/// Parses the command line of this process, in whichever spelling.
///
/// # Errors
/// What clap says; help and version, too.
pub fn parse(arguments: Vec<String>) -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches_from(translate_go_lab(arguments))?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let (Verb::Check(args), Some((_, of_verb))) = (&mut cli.verb, matches.subcommand()) {
        args.signal_is_from_environment = of_verb.value_source("signal") == Some(ValueSource::EnvVariable);
    }
    Ok(cli)
}

/// The Go lab's command line in ours: `-role offerer -signaling-addr URL -with-turn=false` becomes `offer …`.
pub fn translate_go_lab(mut arguments: Vec<String>) -> Vec<String> {
    const SPELLINGS: [&str; 3] = ["role", "signaling-addr", "with-turn"];
    for argument in &mut arguments {
        let name = argument.trim_start_matches('-').split('=').next().unwrap_or_default();
        if argument.starts_with('-') && !argument.starts_with("--") && SPELLINGS.contains(&name) {
            argument.insert(0, '-');
        }
    }
    let Some(at) = arguments.iter().position(|argument| argument == "--role" || argument.starts_with("--role=")) else {
        return arguments;
    };
    let (role, taken) = match arguments[at].split_once('=') {
        Some((_, role)) => (role.to_owned(), 1),
        None => (arguments.get(at + 1).cloned().unwrap_or_default(), 2),
    };
    let verb = match role.as_str() {
        "offerer" => "offer",
        "answerer" => "answer",
        // Left for clap to complain about.
        _ => return arguments,
    };
    arguments.drain(at..(at + taken).min(arguments.len()));
    let has_verb = arguments.get(1).is_some_and(|first| first == "offer" || first == "answer");
    if !has_verb {
        arguments.insert(1, verb.into());
    }
    arguments
}

/// A duration with a unit: `500ms`, `5s`, `2m`; a bare number is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is no time; write 500ms, 5s or 2m"))?;
    let seconds = match &text[digits.len()..] {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        unit => return Err(format!("{unit:?} is no unit of time; write 500ms, 5s or 2m")),
    };
    const LONGEST: f64 = 366.0 * 86_400.0;
    if !(0.0..=LONGEST).contains(&seconds) {
        return Err(format!("{text:?} is no time that can be waited for"));
    }
    match Duration::from_secs_f64(seconds) {
        Duration::ZERO => Err(format!("{text:?} leaves no time for anything; write 500ms, 5s or 2m")),
        duration => Ok(duration),
    }
}

/// A firewall mark, decimal or with `0x`.
fn parse_mark(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no firewall mark; write a number like 114944 or 0x1c100");
    parse_number(text).ok_or_else(wrong)
}

/// A port range `FIRST-LAST`.
fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("{text:?} is no port range; write 49152-65535");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first == 0 || first > last {
        return Err(wrong());
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        super::parse(line.split_whitespace().map(String::from).collect())
    }

    fn peer(line: &str) -> PeerArgs {
        match parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).verb {
            Verb::Offer(args) | Verb::Answer(args) => args,
            other => panic!("{line} is {other:?}"),
        }
    }

    #[test]
    fn the_exit_status_is_said_alike_by_the_help_and_by_the_readme() {
        let words = |text: &str| text.replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ");
        let readme = words(include_str!("../../../../README.md"));
        let command = Cli::command();
        for (verb, status) in [
            ("offer", session_status!()),
            ("answer", session_status!()),
            ("report", session_status!()),
            ("check", CHECK_STATUS),
        ] {
            let help = command.find_subcommand(verb).unwrap().get_after_help().unwrap().to_string();
            assert_eq!(words(&help), words(status), "{verb}");
            assert!(readme.contains(&words(status)), "{verb}: README.md says it otherwise");
        }
        assert!(words(&command.get_after_help().unwrap().to_string()).starts_with(&words(session_status!())));
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_go_labs_spelling_is_understood() {
        for line in [
            "whyrelay -role offerer -signaling-addr http://h:1 -with-turn=false",
            "whyrelay --role=offerer --signaling-addr=http://h:1 --with-turn=false",
            "whyrelay offer --signal http://h:1 --with-turn=false",
            "whyrelay offer --role offerer --signaling-addr http://h:1 -with-turn=false",
        ] {
            let cli = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let Verb::Offer(args) = cli.verb else { panic!("{line}") };
            assert_eq!((args.signal.as_str(), args.with_turn), ("http://h:1", Some(false)), "{line}");
        }
        assert!(matches!(parse("whyrelay -role answerer").unwrap().verb, Verb::Answer(_)));
        assert!(parse("whyrelay -role bystander").is_err());
    }

    #[test]
    fn every_flag_of_a_peer_is_read() {
        let args = peer(
            "whyrelay offer --signal http://h --room r --id a --peer b --stun stun:s --stun stun:t --turn turn:t \
             --turn-user u --turn-password-file f --tls-ca ca.pem --interface eth0 --exclude-interface wt0 \
             --address 192.0.2.1 --no-tcp --as netbird --port 51820 --mark 0x1bd00 --dtls 1.2 --timeout 1500ms --wait 1m \
             --patient --stay --try opener --try exclude=docker0 --prove before.jsonl --throughput 5s --measure-after cut --record r.jsonl --pcap p.pcapng --redact --format json -o out.json --html out.html -vv",
        );
        assert_eq!((args.stun.len(), args.port, args.mark), (2, Some(51820), Some(0x1bd00)));
        assert_eq!((args.timeout, args.wait), (Duration::from_millis(1500), Duration::from_secs(60)));
        assert_eq!((args.throughput, args.format), (Some(Duration::from_secs(5)), Format::Json));
        assert_eq!((args.trials.len(), args.prove), (2, Some("before.jsonl".into())));
        assert_eq!(args.as_program.as_deref(), Some("netbird"));
        assert_eq!((args.dtls, args.address.len()), (Some(DtlsVersion::V12), 1));
        assert_eq!((args.output, args.html), (Some("out.json".into()), Some("out.html".into())));
        assert_eq!(args.measure_after, Some("cut".into()));
        assert!(args.patient && args.stay && args.redact && args.no_tcp);
        assert!(peer("whyrelay answer --relay-only").relay_only);
    }

    #[test]
    fn a_wrong_value_is_explained() {
        for (line, words) in [
            ("whyrelay offer --mark red", "is no firewall mark"),
            ("whyrelay offer --try reboot", "cannot be tried; give port, device"),
            ("whyrelay offer --timeout soon", "write 500ms, 5s or 2m"),
            ("whyrelay offer --timeout 0s", "leaves no time for anything"),
            ("whyrelay answer --wait 0", "leaves no time for anything"),
            ("whyrelay check --lifetime 0ms", "leaves no time for anything"),
            ("whyrelay lab fuzz --worlds 0", "0 is not in 1.."),
            ("whyrelay serve --relay-ports 9", "is no port range"),
            ("whyrelay offer --relay-only --no-turn", "cannot be used with"),
            ("whyrelay offer --turn-password secret", "unexpected argument"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
