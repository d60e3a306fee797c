//! Printing the account and what it says for the exit status.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_core::diagnosis::session;
use whyrelay_core::report::{
    CheckReport, Report, TextOptions, render_check_json, render_check_text, render_html, render_json, render_text,
};
use whyrelay_core::trace::event::Event;

use super::args::Format;
use super::{COULD_NOT_LOOK, FINDING, HEALTHY, answer, terminal_columns};

/// What is said when the account of one host alone is asked for as HTML.
const NO_HTML: &str = "the account of one host alone has no HTML form: use --format text or json";

/// In which form the account is wanted, and where.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) format: Format,
    /// Whether the terminal shows colors; a file never has any.
    pub(super) color: bool,
    /// Instead of stdout.
    pub(super) output: Option<PathBuf>,
    /// Besides, as HTML.
    pub(super) html: Option<PathBuf>,
    /// The events of an earlier session to compare with.
    pub(super) before: Option<Vec<Event>>,
    /// Events of a recording that could not be read, and all of them.
    pub(super) unread: (u64, u64),
}

impl Wanted {
    /// Tries the files before a session starts: an hour of it must not be lost for a wrong directory. A session that
    /// comes to nothing leaves none behind.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.output.is_none() {
            super::stdout::must_be_open()?;
        }
        for file in [&self.output, &self.html].into_iter().flatten() {
            let existed = file.exists();
            let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
            opened.with_context(|| format!("creating the account {}", file.display()))?;
            if !existed {
                std::fs::remove_file(file).with_context(|| format!("trying the account {}", file.display()))?;
            }
        }
        Ok(())
    }

    /// Prints the account of these events; answers the exit status.
    pub(super) fn print(&self, events: &[Event]) -> anyhow::Result<u8> {
        if CheckReport::is_check(events) {
            return self.print_check(events);
        }
        let report = self.report(events);
        self.render(&report)?;
        Ok(status(&report))
    }

    /// Writes the account to the file that is wanted, if any, and nothing to stdout.
    pub(super) fn write_only(&self, events: &[Event]) -> anyhow::Result<Report> {
        let report = self.report(events);
        if self.output.is_some() {
            self.render(&report)?;
        }
        Ok(report)
    }

    fn report(&self, events: &[Event]) -> Report {
        let mut report = Report::from_events(events);
        report.lacks(self.unread.0, self.unread.1);
        report.ends_early(events);
        if let Some(before) = &self.before {
            report.prove(before, events);
        }
        report
    }

    /// As wide as the terminal.
    fn text(&self) -> TextOptions {
        let own = TextOptions { color: self.color && self.output.is_none(), ..TextOptions::default() };
        TextOptions { columns: terminal_columns().filter(|_| self.output.is_none()), ..own }
    }

    fn render(&self, report: &Report) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Text => render_text(report, &self.text()),
            Format::Json => render_json(report),
            Format::Html => render_html(report),
        };
        match &self.output {
            Some(file) => write(file, &text)?,
            None => answer(&text)?,
        }
        if let Some(file) = &self.html {
            write(file, &render_html(report))?;
        }
        Ok(())
    }

    /// The account of one host alone.
    fn print_check(&self, events: &[Event]) -> anyhow::Result<u8> {
        let mut report = CheckReport::from_events(events);
        report.lacks(self.unread.0, self.unread.1);
        let text = match self.format {
            Format::Text => render_check_text(&report, &self.text()),
            Format::Json => render_check_json(&report),
            Format::Html => anyhow::bail!(NO_HTML),
        };
        match &self.output {
            Some(file) => write(file, &text)?,
            None => answer(&text)?,
        }
        Ok(match (report.looked(), report.healthy) {
            (false, _) => COULD_NOT_LOOK,
            (true, true) if !report.complete => COULD_NOT_LOOK,
            (true, true) => HEALTHY,
            (true, false) => FINDING,
        })
    }
}

/// Where nothing can be written (a full disk), no empty file is left, which would look like an account.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let written = std::fs::write(file, text);
    if written.is_err() && file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0) {
        let _ = std::fs::remove_file(file);
    }
    written.with_context(|| format!("writing the account {}", file.display()))
}

/// 0: direct over UDP, and nothing is wrong: what is information alone is no cause of anything. 1: everything else.
pub(super) fn status(report: &Report) -> u8 {
    let wrong = report.findings.iter().any(|finding| finding.severity != Severity::Info);
    if report.path == session::Path::Direct && !report.over_tcp && !wrong { HEALTHY } else { FINDING }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made::finding;

    #[test]
    fn information_alone_changes_no_exit_status() {
        let mut report = Report::from_events(&[]);
        for (path, over_tcp, severity, expected) in [
            (session::Path::Direct, false, None, HEALTHY),
            (session::Path::Direct, false, Some(Severity::Info), HEALTHY),
            (session::Path::Direct, false, Some(Severity::Warning), FINDING),
            (session::Path::Direct, false, Some(Severity::Error), FINDING),
            (session::Path::Direct, true, None, FINDING),
            (session::Path::Relayed, false, Some(Severity::Info), FINDING),
            (session::Path::Failed, false, None, FINDING),
        ] {
            (report.path, report.over_tcp) = (path, over_tcp);
            report.findings = severity.map(|severity| finding("WR401", severity)).into_iter().collect();
            assert_eq!(status(&report), expected, "{path:?} {over_tcp} {severity:?}");
        }
    }

    #[test]
    fn files_are_tried_and_neither_made_nor_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(directory.path().join(name));
        std::fs::write(path("old.html").unwrap(), "of yesterday").unwrap();
        let wanted = Wanted { output: path("new.json"), html: path("old.html"), ..Wanted::default() };
        wanted.check().unwrap();
        assert!(!path("new.json").unwrap().exists());
        assert_eq!(std::fs::read_to_string(path("old.html").unwrap()).unwrap(), "of yesterday");
        let error = Wanted { output: path("missing/new.json"), ..Wanted::default() }.check().unwrap_err();
        assert!(format!("{error:#}").contains("creating the account"), "{error:#}");
    }
}
