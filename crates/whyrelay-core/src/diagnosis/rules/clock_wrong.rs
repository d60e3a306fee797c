//! The clock of this host is wrong.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::measurement::Measurement;

/// Credentials of the shared-secret scheme and certificates tolerate minutes, not more.
const TOLERATED_MS: i64 = 120_000;

pub(super) const RULE: Rule = Rule {
    code: "WR707",
    name: "clock-wrong",
    title: "the clock of this host is wrong",
    meaning: "This host's clock differs from the server's by more than TLS, time-limited TURN credentials and WireGuard tolerate: certificates seem not yet valid or expired, credentials end at once, and WireGuard refuses handshakes whose time went backwards.",
    detection: "A server's time was compared with this host's.",
    proof: "date -u here and on another machine.",
    doubt: "Another server with the same difference the other way: then the first server's clock is wrong.",
    fixes: &[Fix::safe("Set the clock and keep it set: timedatectl set-ntp true.")],
    threads: &["opnsense/core#9181"],
    depends_on: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let facts = &session.evidence.side(vantage).measured.facts;
        let off = facts.iter().find_map(|(seq, fact)| match fact {
            Measurement::Clock { server, offset_ms, precision_ms }
                if offset_ms.saturating_abs() > TOLERATED_MS + i64::from(*precision_ms) =>
            {
                Some((*seq, server.clone(), *offset_ms))
            }
            _ => None,
        });
        let Some((seq, server, offset)) = off else { continue };
        let way = if offset > 0 { "behind" } else { "ahead of" };
        faults.push(Fault {
            blame: Blame::side(vantage),
            severity: if session.path == Path::Direct { Severity::Info } else { Severity::Warning },
            summary: format!(
                "The clock of {} is {} s {way} that of {server}",
                vantage.name(),
                offset.saturating_abs() / 1000
            ),
            evidence: vec![seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
