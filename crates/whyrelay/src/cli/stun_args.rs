//! The flags of `whyrelay serve` for behavior discovery, and what they resolve to.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use whyrelay_core::engine::turn_server::SharedSecret;

use crate::server::turn::{AlternateAddress, AlternateConfig, DiscoveryConfig};

/// Behavior discovery.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "NAT behavior discovery (RFC 5780)")]
pub struct DiscoveryArgs {
    /// A second address of this machine, to show clients how their NATs behave; LOCAL=PUBLIC behind a 1:1 NAT. May be
    /// repeated, once for each family
    #[arg(long, value_name = "IP", value_parser = parse_alternate, conflicts_with = "alternate_server")]
    pub alternate_address: Vec<AlternateAddress>,
    /// Another whyrelay server that is the second address, and whose second address this one is; both need the same
    /// secret. May be repeated, once for each family
    #[arg(long, value_name = "IP", requires = "alternate_secret_file")]
    pub alternate_server: Vec<IpAddr>,
    /// File whose first line is the secret that both servers share. Read again on SIGHUP
    #[arg(long, value_name = "FILE", requires = "alternate_server")]
    pub alternate_secret_file: Option<PathBuf>,
    /// First of the two UDP ports; default: the two after the one of --stun-listen
    #[arg(long, value_name = "PORT")]
    pub discovery_port: Option<u16>,
    /// Serve clients that prove no address, too, like turnutils_natdiscovery and stunclient: 5 answers a second from
    /// another address for each source, 50 for all. Whoever forges a source can have them sent to it
    #[arg(long)]
    pub rfc5780_clients: bool,
}

impl DiscoveryArgs {
    /// What is to be offered, if anything.
    pub(super) fn resolve(&self) -> anyhow::Result<Option<DiscoveryConfig>> {
        let alternate = match (&self.alternate_address[..], &self.alternate_server[..], &self.alternate_secret_file) {
            ([], [], _) if self.discovery_port.is_some() => {
                bail!("--discovery-port needs --alternate-address or --alternate-server")
            }
            ([], [], _) if self.rfc5780_clients => {
                bail!("--rfc5780-clients needs --alternate-address: only from a second address there is more to send")
            }
            ([], [], _) => return Ok(None),
            (addresses @ [_, ..], _, _) => AlternateConfig::Here(addresses.to_vec()),
            ([], addresses, Some(file)) => {
                AlternateConfig::Server { addresses: addresses.to_vec(), secret: read_secret(file)? }
            }
            ([], _, None) => bail!("--alternate-server needs --alternate-secret-file"),
        };
        Ok(Some(DiscoveryConfig { port: self.discovery_port, alternate, serves_unproven: self.rfc5780_clients }))
    }
}

impl DiscoveryArgs {
    /// The secret that is shared with the other server, if there is one.
    pub(super) fn secret(&self) -> anyhow::Result<Option<SharedSecret>> {
        self.alternate_secret_file.as_deref().map(read_secret).transpose()
    }
}

/// The secret in the first line of a file.
pub(super) fn read_secret(file: &Path) -> anyhow::Result<SharedSecret> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading the secret in {}", file.display()))?;
    let line = text.lines().next().unwrap_or_default().trim();
    ensure!(!line.is_empty(), "the first line of {} is empty: it is to be the secret", file.display());
    SharedSecret::new(line).context("a secret")
}

/// `LOCAL` or `LOCAL=PUBLIC`.
fn parse_alternate(text: &str) -> Result<AlternateAddress, String> {
    let (local, public) = text.split_once('=').unwrap_or((text, text));
    let parse = |ip: &str| ip.parse::<IpAddr>().map_err(|_| format!("{ip:?} is no address; write IP or LOCAL=PUBLIC"));
    let (local, public) = (parse(local)?, parse(public)?);
    if local.is_ipv4() != public.is_ipv4() || local.is_unspecified() {
        return Err(format!("{text:?}: write one address, or two of one family"));
    }
    Ok(AlternateAddress { local, public })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternate_addresses_are_read() {
        let read = |text: &str| parse_alternate(text).map(|found| (found.local.to_string(), found.public.to_string()));
        assert_eq!(read("192.0.2.1"), Ok(("192.0.2.1".into(), "192.0.2.1".into())));
        assert_eq!(read("10.0.0.2=192.0.2.1"), Ok(("10.0.0.2".into(), "192.0.2.1".into())));
        for wrong in ["", "0.0.0.0", "x", "10.0.0.1=", "10.0.0.1=::1", "10.0.0.1:80"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_the_first_line_and_must_not_be_empty() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("secret");
        std::fs::write(&file, "north \nsouth\n")?;
        assert!(read_secret(&file)? == SharedSecret::new("north").context("a secret")?);
        std::fs::write(&file, "\nsouth\n")?;
        assert!(read_secret(&file).is_err());
        assert!(read_secret(&directory.path().join("none")).is_err());
        Ok(())
    }
}
