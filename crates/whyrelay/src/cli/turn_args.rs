//! The flags of `whyrelay serve` for TURN's users, quotas and peers, and what they resolve to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use whyrelay_core::engine::turn_server::{Credentials, Limits, Nat64Prefix, Prefix, SharedSecret};

/// TURN beyond the defaults.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "TURN")]
pub struct TurnArgs {
    /// File with one user a line, NAME:PASSWORD. Read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub turn_users_file: Option<PathBuf>,
    /// File with the secret of time-limited credentials, as coturn's static-auth-secret: the first line makes those
    /// that are announced, further lines are good as well. Read again on SIGHUP. Default: a random one for this run
    #[arg(long, value_name = "FILE")]
    pub turn_secret_file: Option<PathBuf>,
    /// Realm of the credentials; of more than eight bytes it makes the first answer to strangers larger
    #[arg(long, value_name = "REALM", default_value = "whyrelay")]
    pub turn_realm: String,
    /// Allocations of one user
    #[arg(long, value_name = "N", default_value_t = Limits::default().allocations_per_user,
        value_parser = quota())]
    pub user_quota: usize,
    /// Allocations in all
    #[arg(long, value_name = "N", default_value_t = Limits::default().allocations, value_parser = quota())]
    pub total_quota: usize,
    /// New peers (permissions, and channels without one) of one user at one address per second
    #[arg(long, value_name = "N", default_value_t = Limits::default().new_peers_per_second.unwrap_or(u32::MAX),
        value_parser = clap::value_parser!(u32).range(1..))]
    pub max_new_peers: u32,
    /// Bytes that one allocation may relay per second, both ways together; default: no limit. A datagram larger than half
    /// of it never passes
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(4000..))]
    pub max_rate: Option<u64>,
    /// Bytes that all allocations together may relay per second, both ways; default: no limit. What goes from one relay
    /// of this server to another counts twice; a datagram that makes more than half of it never passes. With --max-rate
    /// nobody can take all of it
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(8000..))]
    pub total_rate: Option<u64>,
    /// Datagrams that one allocation may relay per second, both ways together; default: no limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10..))]
    pub max_datagram_rate: Option<u32>,
    /// End an allocation when the credentials that it was made with expire
    #[arg(long)]
    pub strict_expiry: bool,
    /// Accept channel numbers of RFC 5766 (0x5000 to 0x7FFF) too, which RFC 8656 reserves: old clients choose them,
    /// coturn's turnutils_uclient among them
    #[arg(long)]
    pub rfc5766_channels: bool,
    /// Relay to this network too, whatever it is; an address of this machine must be named alone. May be repeated
    #[arg(long, value_name = "NETWORK")]
    pub allow_peer: Vec<Prefix>,
    /// Never relay to this network; may be repeated
    #[arg(long, value_name = "NETWORK")]
    pub refuse_peer: Vec<Prefix>,
    /// Prefix of a NAT64 in this server's network, as 2001:db8:64::/96: a peer under it is refused where the IPv4 address
    /// in it is. The well-known 64:ff9b::/96 always is. May be repeated
    #[arg(long, value_name = "PREFIX")]
    pub nat64_prefix: Vec<Nat64Prefix>,
    /// Send every new TURN client of its family to another server (ALTERNATE-SERVER); may be repeated, once for each
    /// family
    #[arg(long, value_name = "ADDR:PORT")]
    pub alternate_turn_server: Vec<SocketAddr>,
    /// File with such servers, one a line; empty: none. Read again on SIGHUP, so that a server is emptied, and taken into
    /// use again, while it serves
    #[arg(long, value_name = "FILE", conflicts_with = "alternate_turn_server")]
    pub alternate_turn_server_file: Option<PathBuf>,
    /// How long allocations may live on after Ctrl-C or SIGTERM, while nobody new is let in; a second one ends the server
    /// at once
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub drain: u64,
    /// Answer /metrics on this address, to whoever can reach it. On the port of signaling it is answered to this
    /// machine only
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Metrics")]
    pub metrics_listen: Option<SocketAddr>,
}

/// At least one: who wants no relay has --no-turn.
fn quota() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

impl TurnArgs {
    /// The static users, from their file.
    pub(super) fn users(&self) -> anyhow::Result<Credentials> {
        let Some(file) = &self.turn_users_file else { return Ok(Credentials::none()) };
        let mut users = Credentials::none();
        for (at, line) in lines(file, "the users")? {
            match line.split_once(':') {
                Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                    users = users.with_user(name, password);
                }
                // The line is not shown: it may hold a password.
                _ => bail!("{}, line {at}: write NAME:PASSWORD", file.display()),
            }
        }
        Ok(users)
    }

    /// The secrets of time-limited credentials; none when there is no file for them.
    pub(super) fn secrets(&self) -> anyhow::Result<Vec<SharedSecret>> {
        let Some(file) = &self.turn_secret_file else { return Ok(Vec::new()) };
        let secrets: Vec<SharedSecret> =
            lines(file, "the secret")?.into_iter().filter_map(|(_, line)| SharedSecret::new(line)).collect();
        ensure!(!secrets.is_empty(), "{} holds no secret", file.display());
        Ok(secrets)
    }

    /// The servers that new clients are sent to.
    pub(super) fn alternate_servers(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let Some(file) = &self.alternate_turn_server_file else {
            return one_of_each_family(self.alternate_turn_server.clone()).context("--alternate-turn-server");
        };
        let servers = lines(file, "the alternate servers")?.into_iter().map(|(at, line)| {
            line.parse().with_context(|| format!("{}, line {at}: write ADDR:PORT, not {line:?}", file.display()))
        });
        one_of_each_family(servers.collect::<anyhow::Result<_>>()?).with_context(|| file.display().to_string())
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            allocations: self.total_quota,
            allocations_per_user: self.user_quota,
            new_peers_per_second: Some(self.max_new_peers),
            bytes_per_second: self.max_rate,
            total_bytes_per_second: self.total_rate,
            datagrams_per_second: self.max_datagram_rate,
            ..Limits::default()
        }
    }
}

fn one_of_each_family(servers: Vec<SocketAddr>) -> anyhow::Result<Vec<SocketAddr>> {
    let ipv4 = servers.iter().filter(|server| server.is_ipv4()).count();
    ensure!(ipv4 <= 1 && servers.len() - ipv4 <= 1, "there can be one server of each family");
    Ok(servers)
}

/// The lines of a file that are neither empty nor comments, with their numbers.
fn lines(file: &Path, what: &str) -> anyhow::Result<Vec<(usize, String)>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {what} in {}", file.display()))?;
    let lines = text.lines().map(str::trim).enumerate().map(|(at, line)| (at + 1, line.to_owned()));
    Ok(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        turn: TurnArgs,
    }

    fn with_file(flag: &str, text: &str) -> anyhow::Result<(tempfile::TempDir, TurnArgs)> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("file");
        std::fs::write(&file, text)?;
        let line = Line::try_parse_from(["serve", flag, &file.display().to_string()])?;
        Ok((directory, line.turn))
    }

    #[test]
    fn users_are_read_and_a_bad_line_is_named_but_not_shown() -> anyhow::Result<()> {
        let (_directory, args) = with_file("--turn-users-file", "# us\nalice:won:der\n\nbob:b\n")?;
        assert_eq!(format!("{:?}", args.users()?), r#"Credentials { users: ["alice", "bob"], secrets: 0 }"#);
        let (_directory, args) = with_file("--turn-users-file", "alice:x\nhunter2\n")?;
        let error = format!("{:#}", args.users().expect_err("a bad line"));
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
        Ok(())
    }

    #[test]
    fn alternate_servers_are_one_of_each_family_from_flags_or_a_file() -> anyhow::Result<()> {
        let servers = |text: &str| -> anyhow::Result<Vec<String>> {
            let (_directory, args) = with_file("--alternate-turn-server-file", text)?;
            Ok(args.alternate_servers()?.iter().map(ToString::to_string).collect())
        };
        assert_eq!(
            servers("192.0.2.1:3478\n# the same\n[2001:db8::1]:3478\n")?,
            ["192.0.2.1:3478", "[2001:db8::1]:3478"]
        );
        assert!(servers("\n")?.is_empty());
        for wrong in ["192.0.2.1", "turn.example.org:3478", "192.0.2.1:1\n192.0.2.2:1"] {
            assert!(servers(wrong).is_err(), "{wrong}");
        }
        let flags = |one, other| ["serve", "--alternate-turn-server", one, "--alternate-turn-server", other];
        let two = Line::try_parse_from(flags("192.0.2.1:1", "[2001:db8::1]:1"))?.turn;
        assert_eq!(two.alternate_servers()?.len(), 2);
        assert!(Line::try_parse_from(flags("192.0.2.1:1", "192.0.2.2:1"))?.turn.alternate_servers().is_err());
        Ok(())
    }

    #[test]
    fn secrets_are_read_in_order_and_there_must_be_one() -> anyhow::Result<()> {
        let (_directory, args) = with_file("--turn-secret-file", "new\nold\n")?;
        let expected: Vec<SharedSecret> = ["new", "old"].into_iter().filter_map(SharedSecret::new).collect();
        assert!(args.secrets()? == expected);
        let (_directory, args) = with_file("--turn-secret-file", "# none\n")?;
        assert!(args.secrets().is_err());
        Ok(())
    }
}
