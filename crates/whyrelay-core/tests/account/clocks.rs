//! Whose clock is wrong, and what follows from it.

use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{EventKind, Vantage};
use whyrelay_core::trace::measurement::Measurement;

use crate::cases::lost;

const TURNS: &str = "turns:turn.example.org:443";

/// Findings about clocks and TLS of a session in which A measured these clocks (theirs minus ours, in seconds) and TLS
/// said this of a certificate.
fn found(clocks: &[(&str, i64)], refused: &str) -> Vec<(&'static str, &'static str, String)> {
    let session = lost(|session| {
        for (server, seconds) in clocks {
            let (server, offset_ms, precision_ms) = ((*server).to_owned(), seconds * 1000, 500);
            session.push(Vantage::A, EventKind::Measured(Measurement::Clock { server, offset_ms, precision_ms }));
        }
        let (names, not_after_s, chain) = (vec!["turn.example.org".to_owned()], Some(1_900_000_000), 2);
        let (server, name, refused) = (TURNS.into(), "turn.example.org".into(), Some(refused.into()));
        let certificate = Measurement::Certificate { server, name, names, not_after_s, chain, refused };
        session.push(Vantage::A, EventKind::Measured(certificate));
    });
    let report = Report::from_events(&session.events);
    let about = report.findings.into_iter().filter(|finding| matches!(finding.code, "WR707" | "WR409"));
    about.map(|finding| (finding.code, finding.blame.name(), finding.summary)).collect()
}

#[test]
fn a_certificate_that_only_this_hosts_clock_puts_out_of_its_time_is_the_clocks_fault() {
    const EXPIRED: &str = "invalid peer certificate: certificate expired: verification time 1 (UNIX)";
    const EARLY: &str = "invalid peer certificate: certificate not valid yet: verification time 1 (UNIX)";
    let https = "https://signal.example";
    for (offset, refused, way, seems) in
        [(-90_000_000, EXPIRED, "ahead of", "expired"), (90_000_000, EARLY, "behind", "not yet valid")]
    {
        let found = found(&[(https, offset)], refused);
        let expected = format!(
            "The clock of A is 90000000 s {way} that of {https}, so that the certificate of {TURNS} seems {seems}"
        );
        assert_eq!(found, [("WR707", "A", expected)]);
    }
    // A wrong clock the other way explains nothing of it, nor does a right one.
    for (offset, refused, codes) in [
        (90_000_000, EXPIRED, &["WR707", "WR409"][..]),
        (-90_000_000, EARLY, &["WR707", "WR409"]),
        (1, EXPIRED, &["WR409"]),
        (-90_000_000, "invalid peer certificate: UnknownIssuer", &["WR707", "WR409"]),
    ] {
        let found = found(&[(https, offset)], refused);
        assert_eq!(found.iter().map(|(code, ..)| *code).collect::<Vec<_>>(), codes, "{offset} {refused}: {found:?}");
    }
}

#[test]
fn where_another_server_agrees_the_servers_clock_is_wrong() {
    let refused = "invalid peer certificate: UnknownIssuer";
    for (wrong, blame) in [("https://signal.example", "signaling"), ("stun:192.0.2.10:3478", "the relay")] {
        let found = found(&[("stun:192.0.2.11:3478", 0), (wrong, 7200)], refused);
        let expected = format!(
            "The clock of {wrong} is 7200 s ahead of that of A, with which that of stun:192.0.2.11:3478 agrees"
        );
        assert_eq!(found[0], ("WR707", blame, expected));
    }
}
