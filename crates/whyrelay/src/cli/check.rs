//! `whyrelay check`.

use std::time::Duration;

use super::account::Wanted;
use super::args::CheckArgs;
use super::files::Files;
use super::{peer, runtime};
use crate::check::{self, CheckConfig, Outcome};

pub(super) fn run(args: CheckArgs, color: bool) -> anyhow::Result<u8> {
    Files::default()
        .read("--turn-password-file", &args.turn_password_file)
        .read("--turn-secret-file", &args.turn_secret_file)
        .read("--tls-ca", &args.tls_ca)
        .written("--record", &args.record)
        .written("--pcap", &args.pcap)
        .written("--output", &args.output)
        .must_differ()?;
    let (format, output) = (args.format.into(), args.output.clone());
    let wanted = Wanted { format, color, output, ..Wanted::default() };
    wanted.check()?;
    let config = CheckConfig::resolve(args)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let interrupt = peer::watch_signals()?;
        check::run(config, interrupt, color).await
    });
    // Name look-ups that hang in the system's resolver must not hold the process.
    runtime.shutdown_timeout(Duration::from_millis(10));
    let Outcome { events, unwritten } = outcome?;
    let status = wanted.print(&events)?;
    // The account is there; what was asked for besides is not.
    anyhow::ensure!(unwritten.is_empty(), "{}", unwritten.join("; "));
    Ok(status)
}
