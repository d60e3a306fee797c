//! What a check is to do: the command line, resolved to one value before anything happens.

use std::path::PathBuf;
use std::time::Duration;

use whyrelay_core::engine::credentials::Password;
use whyrelay_core::engine::server_url::{ServerProtocol, ServerUrl};
use whyrelay_core::engine::turn_server::SharedSecret;
use whyrelay_core::time::Timestamp;

use crate::application::Suspect;
use crate::cli::args::{CheckArgs, Only};
use crate::io::clock::Clock;
use crate::io::interfaces::{self, InterfaceFilter};
use crate::session::{parse_urls, read_turn_password};

/// The least time that a check can be given: what it asks takes so long to be given up.
const LEAST_TIME: Duration = Duration::from_secs(2);

/// How long credentials made from the shared secret hold.
const OWN_CREDENTIALS: Duration = Duration::from_secs(3600);

/// User name and password. It shows neither.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    password: String,
    /// Whether they were made from the shared secret, by us.
    pub(crate) made_here: bool,
}

impl Credentials {
    pub(crate) fn new(username: String, password: String) -> Self {
        Self { username, password, made_here: false }
    }

    pub(crate) fn password(&self) -> Password {
        Password::new(self.password.clone())
    }

    /// When they end, in seconds since the epoch, by the shared-secret scheme's user name (`expiry:name` or `expiry`).
    pub(crate) fn expires_s(&self) -> Option<u64> {
        let (expiry, _) = self.username.split_once(':').unwrap_or((&self.username, ""));
        // Ten digits: a moment after 2001. Anything else is an ordinary user name.
        (expiry.len() >= 10).then(|| expiry.parse().ok()).flatten()
    }

    /// Whether the password is what the secret makes of the user name.
    pub(crate) fn are_signed_with(&self, secret: &SharedSecret) -> bool {
        let (Some(expires_s), Some((_, name))) = (self.expires_s(), self.username.split_once(':')) else {
            return false;
        };
        let made = secret.credentials(name, Timestamp::from_micros(expires_s.saturating_mul(1_000_000)));
        made.username == self.username && made.password == self.password
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// What a check is to do.
#[derive(Clone, Debug)]
pub struct CheckConfig {
    pub(crate) signal: Option<String>,
    pub(crate) urls: Vec<ServerUrl>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) secret: Option<SharedSecret>,
    pub(crate) tls_roots: Vec<PathBuf>,
    pub(crate) interfaces: InterfaceFilter,
    pub(crate) mark: Option<u32>,
    pub(crate) application: Option<Suspect>,
    /// For everything that takes no consent of its own.
    pub(crate) time: Duration,
    /// Nothing else is looked at.
    pub(crate) only: Option<Only>,
    pub(crate) hairpin: bool,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) map: bool,
    pub(crate) record: Option<PathBuf>,
    pub(crate) pcap: Option<PathBuf>,
    pub(crate) redact: bool,
}

impl CheckConfig {
    /// Resolves the command line.
    ///
    /// # Errors
    /// A sentence that names the argument and the way out.
    pub fn resolve(args: CheckArgs) -> anyhow::Result<Self> {
        // Other servers were asked for: what the environment names besides is no part of that.
        let names_servers = !args.stun.is_empty() || !args.turn.is_empty();
        let signal = args.signal.filter(|_| !(args.signal_is_from_environment && names_servers));
        if let Some(signal) = &signal {
            crate::signaling::check_url("--signal", signal)?;
        }
        anyhow::ensure!(args.time >= LEAST_TIME, "--time: a check takes {} s at least", LEAST_TIME.as_secs());
        interfaces::must_exist("--interface", &args.interface)?;
        interfaces::must_exist("--exclude-interface", &args.exclude_interface)?;
        let mut urls = parse_urls("--stun", &args.stun, ServerProtocol::Stun)?;
        urls.extend(parse_urls("--turn", &args.turn, ServerProtocol::Turn)?);
        let secret = args.turn_secret_file.map(|file| {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| anyhow::anyhow!("--turn-secret-file {}: {error}", file.display()))?;
            let secret = SharedSecret::new(text.lines().next().unwrap_or_default().trim());
            secret
                .ok_or_else(|| anyhow::anyhow!("--turn-secret-file {}: its first line holds no secret", file.display()))
        });
        let secret = secret.transpose()?;
        let password = args.turn_user.as_ref().and_then(|user| {
            match read_turn_password(user, args.turn_password_file.as_deref()) {
                // With the secret a password can be made.
                Err(_) if secret.is_some() && args.turn_password_file.is_none() => None,
                password => Some(password),
            }
        });
        let credentials = match (args.turn_user, password.transpose()?, &secret) {
            (Some(user), Some(password), _) => Some(Credentials::new(user, password)),
            (user, None, Some(secret)) => {
                let made =
                    secret.credentials(user.as_deref().unwrap_or("whyrelay"), Clock::start().now() + OWN_CREDENTIALS);
                Some(Credentials { made_here: true, ..Credentials::new(made.username, made.password) })
            }
            _ => None,
        };
        Ok(Self {
            signal,
            urls,
            credentials,
            secret,
            tls_roots: args.tls_ca,
            interfaces: InterfaceFilter {
                include: args.interface,
                exclude: args.exclude_interface,
                addresses: args.address,
            },
            mark: args.mark,
            application: args.as_program.as_deref().map(Suspect::resolve).transpose()?,
            time: args.time,
            only: args.only,
            hairpin: args.hairpin,
            lifetime: args.lifetime,
            map: args.map,
            record: args.record,
            pcap: args.pcap,
            redact: args.redact,
        })
    }

    /// Whether everything is looked at, and not only a part that was asked for.
    pub(crate) fn is_whole(&self) -> bool {
        self.only.is_none()
    }

    /// What changes something or takes long, and was asked for.
    pub(crate) fn consents(&self) -> Vec<String> {
        let asked = [(self.hairpin, "hairpin"), (self.lifetime.is_some(), "lifetime"), (self.map, "map")];
        asked.into_iter().filter(|(asked, _)| *asked).map(|(_, name)| name.to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_in_the_command_line_is_said_with_its_flag() {
        use clap::Parser as _;
        let refused = |arguments: &[&str]| {
            let cli = crate::cli::args::Cli::try_parse_from(["whyrelay", "check"].iter().chain(arguments)).unwrap();
            let crate::cli::args::Verb::Check(args) = cli.verb else { panic!("it is a check") };
            CheckConfig::resolve(args).unwrap_err().to_string()
        };
        for flag in ["--interface", "--exclude-interface"] {
            let error = refused(&[flag, "nosuch9"]);
            assert!(error.starts_with(&format!("{flag} nosuch9: this host has no interface of that name")), "{error}");
        }
        let error = refused(&["--signal", "example.org:8080"]);
        assert!(error.starts_with("--signal: ") && error.contains("\nhint: give it as http://"), "{error}");
        assert_eq!(refused(&["--time", "1s"]), "--time: a check takes 2 s at least");
    }

    #[test]
    fn the_nat_alone_is_asked_for_with_nothing_that_needs_more() {
        use clap::Parser as _;
        let parsed = |arguments: &[&str]| {
            let only = ["whyrelay", "check", "--stun", "stun:192.0.2.1", "--only", "nat"];
            crate::cli::args::Cli::try_parse_from(only.iter().chain(arguments))
        };
        for refused in [&["--map"][..], &["--lifetime", "1m"], &["--as", "netbird"]] {
            assert!(parsed(refused).is_err(), "{refused:?}");
        }
        let crate::cli::args::Verb::Check(args) = parsed(&["--hairpin"]).unwrap().verb else { panic!("it is a check") };
        let config = CheckConfig::resolve(args).unwrap();
        assert!(!config.is_whole() && config.hairpin);
    }

    #[test]
    fn timed_credentials_are_told_from_ordinary_ones_and_checked_offline() {
        let secret = SharedSecret::new("north").unwrap();
        let made = secret.credentials("alice", Timestamp::from_micros(1_900_000_000_000_000));
        let good = Credentials::new(made.username.clone(), made.password);
        assert_eq!(good.expires_s(), Some(1_900_000_000));
        assert!(good.are_signed_with(&secret));
        assert!(!good.are_signed_with(&SharedSecret::new("south").unwrap()));
        assert!(!Credentials::new(made.username, "other".into()).are_signed_with(&secret));
        for ordinary in ["alice", "1234", "alice:1900000000", ""] {
            assert_eq!(Credentials::new(ordinary.into(), "x".into()).expires_s(), None, "{ordinary}");
        }
        assert!(!format!("{good:?}").contains("alice"));
    }
}
