//! The command line of `whyrelay check`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Format, parse_duration, parse_mark};

/// `whyrelay check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The signaling server whose announced STUN and TURN servers are used, unless --stun or --turn names others.
    /// Without any server only this host itself is looked at
    #[arg(
        long,
        visible_alias = "signaling-addr",
        value_name = "URL",
        env = "WHYRELAY_SIGNAL",
        help_heading = "Servers"
    )]
    pub signal: Option<String>,
    /// Whether that is the environment's.
    #[arg(skip)]
    pub signal_is_from_environment: bool,
    /// STUN server, like stun:stun.example.org:3478; may be repeated
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
    /// File whose first line is the secret of time-limited credentials (coturn's static-auth-secret): they are checked
    /// against it, or made from it
    #[arg(long, value_name = "FILE", help_heading = "Servers")]
    pub turn_secret_file: Option<PathBuf>,
    /// Trust the certificates in this PEM file too, for turns: and https:
    #[arg(long, value_name = "FILE", help_heading = "Servers")]
    pub tls_ca: Vec<PathBuf>,

    /// Look from this interface only; may be repeated
    #[arg(long, value_name = "NAME", help_heading = "Sockets")]
    pub interface: Vec<String>,
    /// Do not look from this interface; may be repeated
    #[arg(long, value_name = "NAME", help_heading = "Sockets")]
    pub exclude_interface: Vec<String>,
    /// Look from this local address only; may be repeated
    #[arg(long, value_name = "IP", help_heading = "Sockets")]
    pub address: Vec<IpAddr>,
    /// Ask the servers like another program, too, and compare with a plain one: netbird, tailscale, wireguard, a
    /// process id, or a list like mark=0x1bd00,port=51820,interface=eth0,uid=1000,raw
    #[arg(long = "as", value_name = "PROGRAM", help_heading = "Sockets")]
    pub as_program: Option<String>,
    /// Firewall mark of every socket (SO_MARK, needs CAP_NET_ADMIN), like 0x1bd00
    #[arg(long, value_name = "MARK", value_parser = parse_mark, help_heading = "Sockets")]
    pub mark: Option<u32>,

    /// At most this long for everything that needs no consent. A network that is slower than a satellite's takes more
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "3s", help_heading = "Sockets")]
    pub time: Duration,

    /// Look at this alone, and end as soon as it is known
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        conflicts_with_all = ["as_program", "lifetime", "map"],
        help_heading = "Sockets"
    )]
    pub only: Option<Only>,

    /// Send packets to our own public address, to see whether the router turns them around
    #[arg(long, help_heading = "With your consent")]
    pub hairpin: bool,
    /// Find out for at most this time how long an idle mapping lives
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "With your consent")]
    pub lifetime: Option<Duration>,
    /// Map a port on the router by PCP, NAT-PMP or UPnP, have it tried from outside, and remove it
    #[arg(long, help_heading = "With your consent")]
    pub map: bool,

    /// Write the recording (JSON lines) to this file; `whyrelay report` reads it
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub record: Option<PathBuf>,
    /// Write the same datagrams to this file for Wireshark (pcapng)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub pcap: Option<PathBuf>,
    /// Replace addresses and names by pseudonyms in account, recording and capture
    #[arg(long, help_heading = "Output")]
    pub redact: bool,
    /// How to print the account
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    pub format: CheckFormat,
    /// Write the account to this file instead of stdout
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,
}

/// What a check looks at, where it is not everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Only {
    /// Where servers see this host, and its NAT's mapping, filtering and ports; not what else gets through, whether relays
    /// work, the router, or this host's own routes and firewall.
    Nat,
}

/// How the account of a check is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one object, schema whyrelay.check/1.
    Json,
}

impl From<CheckFormat> for Format {
    fn from(format: CheckFormat) -> Self {
        match format {
            CheckFormat::Text => Self::Text,
            CheckFormat::Json => Self::Json,
        }
    }
}
