//! The TURN credentials have expired.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::measurement::Measurement;

pub(super) const RULE: Rule = Rule {
    code: "WR410",
    name: "turn-credentials-expired",
    title: "the TURN credentials have expired",
    meaning: "Time-limited TURN credentials carry the second of their end in the user name. It is past, by this side's clock, so the server refuses them; or the clock of one of the two is wrong.",
    detection: "The server answered 401 to a request whose user name begins with a time that is past; or the credentials were looked at and have ended.",
    proof: "date +%s on the server and here, next to the number in the user name.",
    doubt: "The same credentials accepted by the server: then only this side's clock is wrong.",
    fixes: &[
        Fix::safe("Fetch fresh credentials from whoever hands them out, shortly before they are used."),
        Fix::safe(
            "Set the clocks of the TURN server, of whoever hands out credentials and of this host (timedatectl set-ntp true).",
        ),
    ],
    threads: &["nextcloud/spreed#6323", "nextcloud/talk-desktop#1416", "coturn/coturn#1204"],
    depends_on: &[],
    needs: &[Need::Sockets],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let Some((expires, now, seq)) = expired(session.evidence.side(vantage)) else { continue };
        let ago = now.saturating_sub(expires);
        faults.push(Fault {
            blame: Blame::side(vantage),
            severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
            summary: format!("The TURN credentials of {} ended {ago} s before they were used", vantage.name()),
            evidence: vec![seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}

fn expired(side: &SideEvidence) -> Option<(u64, u64, u64)> {
    let now = side.first_at.as_micros() / 1_000_000;
    let by_request = side.requests.values().filter(|request| request.authenticated && request.error == Some(401));
    let by_request = by_request.filter_map(|request| {
        let (expires, sent) = (request.expires_s?, request.first.as_micros() / 1_000_000);
        (expires < sent).then_some((expires, sent, request.seq))
    });
    let measured = side.measured.facts.iter().filter_map(|(seq, fact)| match fact {
        Measurement::TimedCredentials { expires_s, .. } if *expires_s < now => Some((*expires_s, now, *seq)),
        _ => None,
    });
    by_request.chain(measured).min_by_key(|(.., seq)| *seq)
}
