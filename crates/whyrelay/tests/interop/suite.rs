//! The list of interop tests, and what becomes of one whose tool is missing.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use whyrelay_lab::work;

/// A program that a test needs, as `cargo xtask test` announces it.
#[derive(Clone, Copy)]
pub(crate) enum Tool {
    /// Python with aiortc.
    Python,
    /// Chromium, with Node and playwright-core to drive it.
    Chromium,
    /// Firefox, with Node to serve its page.
    Firefox,
    /// The Pion peer, built.
    Pion,
    /// The Go lab's signaling server, emulated and built.
    GolabServer,
    /// coturn.
    Turnserver,
    /// nftables.
    Nft,
    /// The legacy iptables, for IPv4 and IPv6.
    IptablesLegacy,
    /// coturn's client for RFC 5780.
    NatDiscovery,
    /// A router's daemon for UPnP, NAT-PMP and PCP.
    Miniupnpd,
    /// WireGuard in user space, with `wg` to set it up.
    Wireguard,
    /// OpenVPN.
    Openvpn,
    /// `ip`, and the right to make namespaces.
    NetworkNamespaces,
}

impl Tool {
    /// The variables whose values are paths, without their prefix.
    fn variables(self) -> &'static [&'static str] {
        match self {
            Self::Python => &["PYTHON"],
            Self::Chromium => &["CHROMIUM", "NODE", "NODE_DIR"],
            Self::Firefox => &["FIREFOX", "NODE"],
            Self::Pion => &["PION"],
            Self::GolabServer => &["GOLAB_SERVER"],
            Self::Turnserver => &["TURNSERVER"],
            Self::Nft => &["NFT"],
            Self::IptablesLegacy => &["IPTABLES_LEGACY"],
            Self::NatDiscovery => &["NATDISCOVERY"],
            Self::Miniupnpd => &["MINIUPNPD"],
            Self::Wireguard => &["WIREGUARD_GO", "WG"],
            Self::Openvpn => &["OPENVPN"],
            Self::NetworkNamespaces => &["NETNS"],
        }
    }

    /// Why this tool cannot be used; none when it can.
    fn missing(self) -> Option<String> {
        self.variables().iter().find_map(|name| path(name).err()).map(|error| error.to_string())
    }
}

/// The path that `WHYRELAY_INTEROP_<name>` holds.
///
/// # Errors
/// When it is not set: the reason that xtask gives, or how to have it set.
pub(crate) fn path(name: &str) -> Result<PathBuf> {
    let variable = format!("WHYRELAY_INTEROP_{name}");
    if let Some(path) = std::env::var_os(&variable) {
        return Ok(PathBuf::from(path));
    }
    match std::env::var(format!("{variable}_MISSING")) {
        Ok(reason) => bail!("{reason}"),
        Err(_) => bail!("{variable} is not set: run `cargo xtask interop`"),
    }
}

/// All interop tests of this binary.
#[derive(Default)]
pub(crate) struct Suite {
    trials: Vec<Trial>,
}

impl Suite {
    /// Adds a test that runs when all it `needs` is there.
    pub(crate) fn test(&mut self, name: &str, needs: &[Tool], test: fn() -> Result<()>) {
        let Some(reason) = needs.iter().find_map(|tool| tool.missing()) else {
            let trial = Trial::test(name, move || test().map_err(|error| Failed::from(format!("{error:?}"))));
            self.trials.push(trial);
            return;
        };
        // CI has every tool, or says so loudly. Elsewhere the name carries the reason, since
        // that is all that test runners show of an ignored test.
        let must_run = std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
        let shown = if must_run { name.to_owned() } else { format!("{name} [skipped: {reason}]") };
        let trial = Trial::test(shown, move || Err(Failed::from(format!("cannot run: {reason}"))));
        self.trials.push(trial.with_ignored_flag(!must_run));
    }

    /// Runs what the command line selects, as a built-in test harness would.
    pub(crate) fn run(self) -> ExitCode {
        libtest_mimic::run(&Arguments::from_args(), self.trials).exit_code()
    }
}

/// Does something with each of them, several at a time; what goes wrong is one error.
pub(crate) fn each<T: Sync>(items: &[T], at_once: usize, doing: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let failed = |item: &T| doing(item).err().map(|error| format!("{error:#}"));
    let failures: Vec<String> = work::each(items, at_once, failed, |_| ()).into_iter().flatten().collect();
    ensure!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), items.len(), failures.join("\n"));
    Ok(())
}
