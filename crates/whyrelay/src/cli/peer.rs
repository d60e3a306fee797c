//! `whyrelay offer` and `whyrelay answer`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use whyrelay_core::report::CheckReport;
use whyrelay_core::trace::event::{Event, Vantage};

use super::account::Wanted;
use super::args::PeerArgs;
use super::files::Files;
use super::{report, runtime};
use crate::session::{self, SessionConfig};
use crate::tui::{self, Live};

/// The exit status of a session that a second Ctrl-C ends at once, as of a process that SIGINT ended.
const FORCED_EXIT: i32 = 130;

pub(super) fn run(side: Vantage, args: PeerArgs, color: bool) -> anyhow::Result<u8> {
    Files::default()
        .read("--turn-password-file", &args.turn_password_file)
        .read("--tls-ca", &args.tls_ca)
        .read("--prove", &args.prove)
        .written("--record", &args.record)
        .written("--pcap", &args.pcap)
        .written("--output", &args.output)
        .written("--html", &args.html)
        .must_differ()?;
    let before = args.prove.as_deref().map(read_before).transpose()?;
    let (format, output, html) = (args.format, args.output.clone(), args.html.clone());
    let wanted = Wanted { format, color, output, html, before, ..Wanted::default() };
    wanted.check()?;
    let on_screen = args.tui;
    let mut config = SessionConfig::resolve(side, args)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let interrupt = watch_signals()?;
        if !on_screen {
            return session::run(config, interrupt).await;
        }
        let screen = Live::open(color, config.other_command())?;
        config.watch = screen.feed();
        let outcome = session::run(config, interrupt.clone()).await;
        // An error is to be read, not to be looked at on an empty screen.
        let shown = screen.finish(interrupt, outcome.is_ok()).await;
        let outcome = outcome?;
        shown?;
        Ok(outcome)
    });
    // Name look-ups that hang in the system's resolver must not hold the process.
    runtime.shutdown_timeout(Duration::from_millis(10));
    let session::Outcome { events, unwritten } = outcome?;
    let status = wanted.print(&events)?;
    // The account is there; what was asked for besides is not.
    anyhow::ensure!(unwritten.is_empty(), "{}", unwritten.join("; "));
    Ok(status)
}

/// The recording to compare with.
fn read_before(file: &Path) -> anyhow::Result<Vec<Event>> {
    let recording = report::read(file).context("--prove")?;
    anyhow::ensure!(
        !CheckReport::is_check(&recording.events),
        "--prove {}: that is the recording of a check; it takes one of a session",
        file.display()
    );
    Ok(recording.events)
}

/// Signals so close to the first are the same wish: `timeout` sends one to its child and one to the child's group.
const ONE_WISH: Duration = Duration::from_millis(150);

/// Counts Ctrl-C, SIGTERM and SIGHUP: the first closes the session properly, the second ends the process at once,
/// unless it is a SIGHUP: that comes from a terminal, not from somebody who waits.
pub(super) fn watch_signals() -> anyhow::Result<watch::Receiver<u32>> {
    watch_ending_signals(true)
}

/// The same, SIGHUP only if it is to end the program: a server reads its files again instead.
pub(super) fn watch_ending_signals(hangup_ends: bool) -> anyhow::Result<watch::Receiver<u32>> {
    let (sender, receiver) = watch::channel(0);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => if !hangup_ends || first.is_some() { continue },
            }
            if first.get_or_insert_with(Instant::now).elapsed() < ONE_WISH && *sender.borrow() >= 1 {
                continue;
            }
            if *sender.borrow() >= 1 {
                tui::restore();
                std::process::exit(FORCED_EXIT);
            }
            sender.send_modify(|count| *count += 1);
        }
    });
    Ok(receiver)
}
