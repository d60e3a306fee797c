//! A server whose clock is wrong: a proxy in front of ours that puts another time into its answer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::{Process, Server};

/// Passes connections on to `server`, whose Date is behind by so much.
fn proxy(server: String, behind: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    // It ends with the test's process.
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(upstream) = TcpStream::connect(&server) else { return };
            let (from_client, to_server) = (client.try_clone(), upstream.try_clone());
            if let (Ok(from), Ok(to)) = (from_client, to_server) {
                std::thread::spawn(move || pass(from, to, |_| {}));
            }
            std::thread::spawn(move || pass(upstream, client, |bytes| set_date(bytes, behind)));
        }
    });
    format!("http://{address}")
}

fn pass(mut from: TcpStream, mut to: TcpStream, change: impl Fn(&mut [u8])) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        change(&mut buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// The head comes in one piece, and a date has always the same length (RFC 9110 §5.6.7).
fn set_date(bytes: &mut [u8], behind: Duration) {
    const NAME: &[u8] = b"\r\ndate: ";
    let at = bytes.windows(NAME.len()).position(|window| window.eq_ignore_ascii_case(NAME));
    if let Some(at) = at.map(|at| at + NAME.len()) {
        let date = httpdate::fmt_http_date(SystemTime::now() - behind);
        bytes[at..at + date.len()].copy_from_slice(date.as_bytes());
    }
}

fn check(url: &str) -> Value {
    let ended = Process::start(&["check", "--signal", url, "--interface", "lo", "--format", "json"], &[]).finish();
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", ended.stdout, ended.stderr))
}

#[test]
fn a_wrong_clock_is_measured_and_blamed_on_whoever_stands_alone() {
    let hours = Duration::from_secs(3 * 3600 + 60);
    // Behind the proxy signaling has another time than STUN of the same server; without STUN there is no witness.
    for (more, blame, words) in [
        (&[][..], "signaling", "s behind that of this host, with which that of stun:127.0.0.1:"),
        (&["--no-stun"], "a", "s ahead of that of http://127.0.0.1:"),
    ] {
        let server = if more.is_empty() { Server::start() } else { Server::signaling_only() };
        let upstream = server.url.trim_start_matches("http://").to_owned();
        let url = proxy(upstream, hours);
        let account = check(&url);
        let rows = account["rows"].as_array().expect("rows");
        let row = rows
            .iter()
            .find(|row| row["name"] == "clock" && row["subject"].as_str().is_some_and(|of| of.starts_with(&url)));
        let value = row.and_then(|row| row["value"].as_str()).unwrap_or_default();
        assert!(value.starts_with("3 h behind ours"), "{value}: {rows:#?}");
        let findings = account["findings"].as_array().expect("findings");
        let found =
            findings.iter().find(|finding| finding["code"] == "WR707").unwrap_or_else(|| panic!("{findings:#?}"));
        assert_eq!(found["blame"], blame, "{found}");
        assert!(found["summary"].as_str().is_some_and(|summary| summary.contains(words)), "{found}");
    }
    let server = Server::start();
    let account = check(&server.url);
    let findings = account["findings"].as_array().expect("findings");
    assert!(findings.iter().all(|finding| finding["code"] != "WR707"), "{findings:#?}");
}
