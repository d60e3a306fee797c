//! `whyrelay report`.

use anyhow::Context as _;
use whyrelay_core::trace::recording::Recording;

use super::account;
use super::args::ReportArgs;

pub(super) fn run(args: ReportArgs, color: bool) -> anyhow::Result<u8> {
    let mut recordings = Vec::new();
    for file in &args.files {
        let bytes = std::fs::read(file).with_context(|| format!("reading the recording {}", file.display()))?;
        let recording = Recording::read(&bytes).with_context(|| format!("reading the recording {}", file.display()))?;
        if recording.cut_off {
            eprintln!("note: {} stops in the middle of a line: its writer did not end it", file.display());
        }
        if recording.unknown + recording.unreadable > 0 {
            let (unknown, unreadable) = (recording.unknown, recording.unreadable);
            eprintln!("note: {}: {unknown} events unknown, {unreadable} lines unreadable", file.display());
        }
        recordings.push(recording);
    }
    let recording = Recording::merge(recordings).context("putting the recordings together")?;
    account::print(&recording.events, args.format, color)
}
