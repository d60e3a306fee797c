//! The clock of this host, or of a server, is wrong.

use super::need::BY_CHECK;
use super::turn_tls_failed::refused;
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::Vantage;
use crate::trace::measurement::Measurement;

/// Credentials of the shared-secret scheme and certificates tolerate minutes, not more.
const TOLERATED_MS: i64 = 120_000;

pub(super) const RULE: Rule = Rule {
    code: "WR707",
    name: "clock-wrong",
    title: "the clock of this host or of a server is wrong",
    meaning: "This host's clock differs from the server's by more than TLS, time-limited TURN credentials and WireGuard tolerate: certificates seem not yet valid or expired, credentials end at once, and WireGuard refuses handshakes whose time went backwards.",
    detection: "Servers' times were compared with this host's. Where one agrees with this host's clock, the other one's is wrong; where none does, this host's is taken for wrong.",
    proof: "date -u here and on another machine.",
    doubt: "A second server that agrees with this host's clock, where only one was asked: then the server's is wrong.",
    fixes: &[Fix::safe("Set the wrong clock and keep it set: timedatectl set-ntp true.")],
    threads: &["opnsense/core#9181"],
    depends_on: &[],
    needs: &[Need::Other(uncompared)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let severity = if session.path == Path::Direct { Severity::Info } else { Severity::Warning };
    let fault = |vantage| Some(Fault { severity, ..fault(session.evidence.side(vantage), vantage)? });
    Examination::of(session.recorded().filter_map(fault).collect())
}

fn uncompared(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    compared(session.evidence.side(vantage)).is_empty().then(|| BY_CHECK.to_owned())
}

/// A server's clock beside ours.
struct Compared<'a> {
    seq: u64,
    server: &'a str,
    /// Its clock minus ours, in milliseconds.
    offset_ms: i64,
    is_off: bool,
}

fn compared(side: &SideEvidence) -> Vec<Compared<'_>> {
    let mut clocks = Vec::new();
    for (seq, fact) in &side.measured.facts {
        if let Measurement::Clock { server, offset_ms, precision_ms } = fact {
            let is_off = offset_ms.saturating_abs() > TOLERATED_MS + i64::from(*precision_ms);
            clocks.push(Compared { seq: *seq, server, offset_ms: *offset_ms, is_off });
        }
    }
    clocks
}

fn fault(side: &SideEvidence, vantage: Vantage) -> Option<Fault> {
    let clocks = compared(side);
    let off = clocks.iter().find(|clock| clock.is_off)?;
    let seconds = off.offset_ms.saturating_abs() / 1000;
    let (server, here) = (off.server, vantage.name());
    if let Some(witness) = clocks.iter().find(|clock| !clock.is_off) {
        let way = if off.offset_ms > 0 { "ahead of" } else { "behind" };
        let is_signaling = ["http", "ws"].iter().any(|scheme| server.starts_with(scheme));
        return Some(Fault {
            blame: if is_signaling { Blame::Signaling } else { Blame::Relay },
            summary: format!(
                "The clock of {server} is {seconds} s {way} that of {here}, with which that of {} agrees",
                witness.server
            ),
            evidence: vec![off.seq, witness.seq],
            ..Fault::default()
        });
    }
    let way = if off.offset_ms > 0 { "behind" } else { "ahead of" };
    let (seems, seq) = explained(side, off.offset_ms)
        .map_or_else(Default::default, |(words, seq)| (format!(", so that {words}"), Some(seq)));
    Some(Fault {
        blame: Blame::side(vantage),
        summary: format!("The clock of {here} is {seconds} s {way} that of {server}{seems}"),
        evidence: std::iter::once(off.seq).chain(seq).collect(),
        ..Fault::default()
    })
}

/// A certificate that only seems to be out of its time by this host's clock, which is wrong by so much.
fn explained(side: &SideEvidence, offset_ms: i64) -> Option<(String, u64)> {
    let (server, what, seq) = refused(side)?;
    let seems = match offset_ms {
        ..0 if what.contains("certificate expired") => "expired",
        0.. if what.contains("certificate not valid yet") => "not yet valid",
        _ => return None,
    };
    Some((format!("the certificate of {server} seems {seems}"), seq))
}

/// Whether a side's own clock makes the certificate that it refuses look out of its time.
pub(super) fn explains_certificate(side: &SideEvidence) -> bool {
    let clocks = compared(side);
    let agrees = clocks.iter().any(|clock| !clock.is_off);
    !agrees && clocks.iter().find(|clock| clock.is_off).is_some_and(|off| explained(side, off.offset_ms).is_some())
}
