//! The verbs: parse, resolve to one configuration, act, answer with an exit status.

mod account;
pub mod args;
mod check;
mod demo;
mod explain;
mod files;
mod lab;
mod manual;
mod peer;
mod report;
mod serve;
mod serve_refusals;
mod stdout;
mod stun_args;
mod turn_args;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use whyrelay_core::trace::event::Vantage;

use args::{Color, Shared, Verb};

/// The path is direct and nothing is wrong.
const HEALTHY: u8 = 0;
/// There is a finding.
const FINDING: u8 = 1;
/// whyrelay could not look.
const COULD_NOT_LOOK: u8 = 2;

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let cli = match args::parse(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no failure; clap knows which is which.
            if !error.use_stderr()
                && let Err(lost) = stdout::must_be_open()
            {
                return could_not_look(&lost);
            }
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { COULD_NOT_LOOK } else { HEALTHY });
        }
    };
    start_log(&cli.shared, matches!(cli.verb, Verb::Serve(_)));
    let color = use_color(cli.shared.color);
    let outcome = match cli.verb {
        Verb::Demo(args) => demo::run(args, color),
        Verb::Serve(args) => serve::run(args),
        Verb::Offer(args) => peer::run(Vantage::A, args, color),
        Verb::Answer(args) => peer::run(Vantage::B, args, color),
        Verb::Check(args) => check::run(args, color),
        Verb::Report(args) => report::run(args, color),
        Verb::Explain(args) => explain::run(&args),
        Verb::Lab(args) => lab::run(args, color),
        Verb::Completions(args) => manual::completions(&args),
        Verb::Man(args) => manual::man(&args),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => could_not_look(&error),
    }
}

fn could_not_look(error: &anyhow::Error) -> ExitCode {
    // A closed stderr is no reason for another status.
    let _ = writeln!(io::stderr(), "error: {error:#}");
    ExitCode::from(COULD_NOT_LOOK)
}

/// Logs to stderr: warnings, or more with `-v`. No event and no content of a message is logged above debug. A server does
/// not wait for who reads it.
fn start_log(shared: &Shared, is_server: bool) {
    let (ours, others) = match shared.verbose {
        0 => (LevelFilter::WARN, LevelFilter::WARN),
        1 => (LevelFilter::INFO, LevelFilter::WARN),
        2 => (LevelFilter::DEBUG, LevelFilter::INFO),
        _ => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    let writer = if is_server {
        BoxMakeWriter::new(|| crate::server::log::LogWriter)
    } else {
        BoxMakeWriter::new(crate::tui::log_writer)
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(io::stderr().is_terminal());
    let levels = Targets::new().with_default(others).with_target("whyrelay", ours);
    tracing_subscriber::registry().with(lines.with_filter(levels)).init();
}

fn use_color(color: Color) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => io::stdout().is_terminal() && terminal_takes_color(|name| std::env::var_os(name)),
    }
}

/// Whether the environment leaves colors to us.
fn terminal_takes_color(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    variable("NO_COLOR").is_none_or(|value| value.is_empty()) && variable("TERM").is_none_or(|term| term != "dumb")
}

/// Columns of the terminal that stdout is; `None` where it is none.
fn terminal_columns() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    match ratatui::crossterm::terminal::size() {
        // A terminal that tells no size says 0.
        Ok((columns @ 20.., _)) => Some(columns.into()),
        _ => None,
    }
}

/// Writes an answer to stdout. A reader that closed the pipe has read enough: that is no error. A stdout that was closed
/// from the beginning is one.
fn answer(text: &str) -> anyhow::Result<()> {
    stdout::must_be_open()?;
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("writing the answer to stdout"))
        }
        _ => Ok(()),
    }
}

/// The runtime of a verb: one thread is enough for a session, and starts fastest.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dumb_terminal_and_one_of_whom_wants_none_get_no_color() {
        for (name, value, takes) in [
            ("TERM", "xterm", true),
            ("TERM", "dumb", false),
            ("NO_COLOR", "1", false),
            ("NO_COLOR", "", true),
            ("OTHER", "dumb", true),
        ] {
            assert_eq!(terminal_takes_color(|asked| (asked == name).then(|| value.into())), takes, "{name}={value}");
        }
    }
}
