//! Progress on stderr: a line for each step, and one live line that is rewritten on a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use whyrelay_core::trace::event::{Direction, DtlsState, EventKind, ServerFailure, Side};

use super::driver::millis;

/// Between two live lines where stderr is not a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Between two rewrites of the live line on a terminal.
const LIVE_INTERVAL: Duration = Duration::from_millis(100);

/// Writes progress.
#[derive(Debug)]
pub(super) struct Progress {
    prefix: String,
    terminal: bool,
    live: bool,
    started: Instant,
    last_live: Option<Instant>,
}

impl Progress {
    /// Progress of one session; `prefix` tells two sessions in one process apart, and may be empty.
    pub(super) fn new(prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("[{prefix}] ") };
        Self { prefix, terminal: io::stderr().is_terminal(), live: false, started: Instant::now(), last_live: None }
    }

    /// A step that was reached.
    pub(super) fn step(&mut self, text: &str) {
        if crate::tui::covers_stderr() {
            return;
        }
        self.clear();
        let elapsed = self.started.elapsed().as_secs_f64();
        // A closed stderr is no reason to stop.
        let _ = writeln!(io::stderr(), "{}{elapsed:7.3}s {}", self.prefix, printable(text));
    }

    /// Something that goes on: rewritten on a terminal, else written now and then.
    pub(super) fn live(&mut self, text: &str) {
        if crate::tui::covers_stderr() {
            return;
        }
        let interval = if self.terminal { LIVE_INTERVAL } else { PLAIN_INTERVAL };
        if self.last_live.is_some_and(|last| last.elapsed() < interval) {
            return;
        }
        self.last_live = Some(Instant::now());
        if !self.terminal {
            self.step(text);
            return;
        }
        let elapsed = self.started.elapsed().as_secs_f64();
        let _ = write!(io::stderr(), "\r\x1b[K{}{elapsed:7.3}s {}", self.prefix, printable(text));
        let _ = io::stderr().flush();
        self.live = true;
    }

    /// Removes the live line.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.live) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The progress line that an event is worth, if any.
pub(super) fn line_for(event: &EventKind) -> Option<String> {
    Some(match event {
        EventKind::LocalCandidate { candidate, server, .. } => {
            let from = server.as_ref().map_or(String::new(), |server| format!(" from {server}"));
            format!("gathered: {} {} {}{from}", candidate.kind, candidate.transport, candidate.address)
        }
        EventKind::RemoteCandidate { candidate, .. } => {
            format!("received: {} {} {}", candidate.kind, candidate.transport, candidate.address)
        }
        EventKind::ServerFailed { failure: ServerFailure::ErrorResponse { expected: true, .. }, .. } => return None,
        EventKind::ServerFailed { server, method, failure, .. } => {
            let what = match failure {
                ServerFailure::Timeout { transmissions, took_us } => {
                    let seconds = Duration::from_micros(*took_us).as_secs_f64();
                    format!("no answer to {transmissions} requests in {seconds:.1} s")
                }
                ServerFailure::ErrorResponse { code, reason, .. } => match (*code, reason.trim()) {
                    (401, _) => "error 401: it refuses the user name or the password".into(),
                    (403, _) => "error 403: it refuses to relay to this address".into(),
                    (486, _) => "error 486: its quota for this user is used up".into(),
                    (508, _) => "error 508: it has no relay address or port left".into(),
                    (code, "") => format!("error {code}"),
                    (code, reason) => format!("error {code}: {reason}"),
                },
                ServerFailure::ConnectionFailed { detail }
                | ServerFailure::BadResponse { detail }
                | ServerFailure::Unresolved { detail } => detail.clone(),
                ServerFailure::SendFailed { errno, .. } => std::io::Error::from_raw_os_error(*errno).to_string(),
                ServerFailure::NoLocalAddress => whyrelay_core::report::words::NO_LOCAL_ADDRESS.into(),
                ServerFailure::NoCredentials => "it asks for a user name and password".into(),
            };
            format!("{server}: {method}: {what}")
        }
        EventKind::EndOfCandidates { side: Side::Local } => "gathering is complete".into(),
        EventKind::EndOfCandidates { side: Side::Remote } => "the other side has no more candidates".into(),
        EventKind::IceStateChanged { to, .. } => format!("ICE: {to:?}").to_lowercase(),
        EventKind::Dtls { state: DtlsState::Connected { version } } => format!("{version} is connected"),
        EventKind::Dtls { state: DtlsState::Failed { detail } } => format!("DTLS failed: {detail}"),
        EventKind::Dtls { state: DtlsState::FingerprintMismatch { .. } } => {
            "the other side's certificate is not the one of its description".into()
        }
        EventKind::RoundTrips { count, median_us, p99_us, lost } => format!(
            "round trip over the channel: median {}, 99th percentile {} ({count} measured, {lost} lost)",
            millis(Duration::from_micros(*median_us)),
            millis(Duration::from_micros(*p99_us))
        ),
        EventKind::Throughput { direction, bytes, took_us } => {
            let arrow = if *direction == Direction::Out { "to" } else { "from" };
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            let rate = *bytes as f64 * 8.0 / (*took_us).max(1) as f64;
            format!("throughput {arrow} the other side: {rate:.1} Mbit/s")
        }
        _ => return None,
    })
}

/// Text that may hold what a peer sent, without control characters that would move the cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_write_to_the_terminal() {
        assert_eq!(printable("evil\x1b[2J\r"), "evil\u{FFFD}[2J\u{FFFD}");
    }
}
