//! `whyrelay report`.

use std::io::Read;
use std::path::Path;

use anyhow::Context as _;
use whyrelay_core::report::CheckReport;
use whyrelay_core::trace::pcapng::capture;
use whyrelay_core::trace::recording::{MAX_RECORDING, Recording};
use whyrelay_core::trace::redact::redact;

use super::account::{Wanted, status};
use super::args::ReportArgs;
use super::files::Files;
use super::peer::watch_signals;
use super::runtime;
use crate::tui::over_recording;

/// Reads a recording; `-` is stdin. What is longer than one may be is not read to its end, which a device has none of.
pub(super) fn read(file: &Path) -> anyhow::Result<Recording> {
    let reading = || format!("reading the recording {}", file.display());
    let mut bytes = Vec::new();
    let opened: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::fs::File::open(file).with_context(reading)?),
    };
    // One more than is taken, so that it is seen to be too long.
    opened.take(MAX_RECORDING as u64 + 1).read_to_end(&mut bytes).with_context(reading)?;
    anyhow::ensure!(
        bytes.len() <= MAX_RECORDING,
        "{}: it is longer than the {} MB that a recording may have",
        reading(),
        MAX_RECORDING >> 20
    );
    Recording::read(&bytes).with_context(reading)
}

pub(super) fn run(args: ReportArgs, color: bool) -> anyhow::Result<u8> {
    let given = args.files.len();
    anyhow::ensure!(
        given <= 2,
        "an account is of one session: it takes one recording, or one of each side, and {given} files are given\n\
         hint: run `whyrelay report` once for each session"
    );
    Files::default()
        .read("the recording", &args.files)
        .written("--pcap", &args.pcap)
        .written("--output", &args.output)
        .must_differ()?;
    let mut recordings = Vec::new();
    for file in &args.files {
        let recording = read(file)?;
        if recording.cut_off {
            crate::tell!("note: {} stops in the middle of a line: its writer did not end it", file.display());
        }
        if recording.unknown + recording.unreadable > 0 {
            let (unknown, unreadable) = (recording.unknown, recording.unreadable);
            crate::tell!("note: {}: {unknown} events unknown, {unreadable} lines unreadable", file.display());
        }
        let (unread, total) = recording.unread();
        anyhow::ensure!(total > 0, "{} is empty: it holds no event", file.display());
        anyhow::ensure!(
            unread < total,
            "none of the {total} events of {} can be read: they are damaged, or of a newer whyrelay",
            file.display()
        );
        recordings.push(recording);
    }
    let recording = Recording::merge(recordings).with_context(|| {
        let names: Vec<String> = args.files.iter().map(|file| file.display().to_string()).collect();
        format!("putting {} together", names.join(" and "))
    });
    let recording = match recording {
        Err(error) if args.files.len() > 1 => {
            let one = args.files[0].display();
            anyhow::bail!(
                "{error:#}\nhint: name the two sides of one session, or look at one alone: whyrelay report {one}"
            )
        }
        recording => recording?,
    };
    let unread = recording.unread();
    let mut events = recording.events;
    if args.redact {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|error| anyhow::anyhow!("getting random bytes from the system: {error}"))?;
        events = redact(&events, &secret);
    }
    if let Some(file) = &args.pcap {
        std::fs::write(file, capture(&events)).with_context(|| format!("writing the capture {}", file.display()))?;
    }
    let wanted = Wanted { format: args.format, color, output: args.output, unread, ..Wanted::default() };
    if !args.tui {
        return wanted.print(&events);
    }
    anyhow::ensure!(!CheckReport::is_check(&events), "the account of one host alone has no screen: leave --tui out");
    let report = wanted.write_only(&events)?;
    runtime()?.block_on(async {
        let interrupt = watch_signals()?;
        over_recording(events, color, interrupt).await
    })?;
    Ok(status(&report))
}
