//! `whyrelay check` and servers: certificates, credentials, and an account that the recording gives again.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

use crate::check::{LIMIT, check, findings, measured, our_server_with, rows};
use crate::coturn::{Certificate, Coturn, OTHER_NAME, PASSWORD, Transport, USER};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::router::{Internet, Nat, SERVER};
use crate::suite::{Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::Turnserver];
    suite.test("check_servers::a_certificate_is_judged_by_name_chain_and_end", &tools, certificate);
    suite.test("check_servers::each_fault_of_a_certificate_is_told_as_it_is", &tools, certificates);
    suite.test("check_servers::a_wrong_password_is_told", &tools, wrong_password);
    let ours = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_servers::timed_credentials_are_judged_offline", &ours, timed_credentials);
    suite.test("check_servers::a_clock_that_differs_is_told_with_how_much", &ours, clock);
    suite.test("check_servers::a_foreign_turn_server_is_third_party_enough", &tools, third_party);
    suite.test("check_servers::a_healthy_server_checked_on_its_own_machine_is_blamed_for_nothing", &ours, at_home);
}

fn password_file(password: &str) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    writeln!(file, "{password}")?;
    Ok(file)
}

fn certificate() -> Result<()> {
    let mut internet = Internet::new()?;
    let coturn = Coturn::start(&internet.server)?;
    let site = internet.site(Nat::Home)?;
    let password = password_file(PASSWORD)?;
    let (url, authority) = (coturn.url(Transport::Tls), coturn.authority());
    let (secret, authority) = (password.path().display().to_string(), authority.display().to_string());
    let arguments = ["--turn", &url, "--turn-user", USER, "--turn-password-file", &secret];
    let (json, ours) = check(&site.host, &[&arguments[..], &["--tls-ca", &authority]].concat())?;
    let fact = measured(&json, "certificate").cloned().unwrap_or_default();
    let host = internet.server.address().to_string();
    ensure!(fact["refused"].is_null() && fact["name"] == host.as_str(), "{fact}: {}", ours.account);
    ensure!(fact["names"].as_array().is_some_and(|names| names.contains(&host.as_str().into())), "{fact}");
    ensure!(fact["not_after_s"].as_u64().is_some_and(|end| end > 1_700_000_000), "{fact}");
    for kind in ["relay-echo", "reach"] {
        ensure!(measured(&json, kind).is_some(), "{kind} is missing: {}\n{}", ours.account, coturn.log());
    }
    // Without the authority.
    let (json, ours) = check(&site.host, &arguments)?;
    let fact = measured(&json, "certificate").cloned().unwrap_or_default();
    ensure!(fact["refused"].as_str().is_some_and(|why| why.contains("UnknownIssuer")), "{fact}: {}", ours.account);
    let found = json["findings"].as_array().into_iter().flatten().any(|found| found["name"] == "turn-tls-failed");
    ensure!(found, "no finding: {}", ours.account);
    Ok(())
}

/// Another name, an end in the past, and a chain without its middle; and a chain that has it.
fn certificates() -> Result<()> {
    let mut internet = Internet::new()?;
    let site = internet.site(Nat::Home)?;
    let password = password_file(PASSWORD)?;
    let secret = password.path().display().to_string();
    for (kind, words, end) in [
        (Certificate::OtherName, "not valid for name", None),
        (Certificate::Expired, "expired", Some(1_577_836_800)),
        (Certificate::WithoutIntermediate, "UnknownIssuer", None),
        (Certificate::ByIntermediate, "", None),
    ] {
        let coturn = Coturn::start_with(&internet.server, kind)?;
        let (url, authority) = (coturn.url(Transport::Tls), coturn.authority().display().to_string());
        let arguments = ["--turn", &url, "--turn-user", USER, "--turn-password-file", &secret, "--tls-ca", &authority];
        let (json, ours) = check(&site.host, &arguments)?;
        let context = || format!("{kind:?}: {}\n{}", ours.account, coturn.log());
        let fact = measured(&json, "certificate").cloned().unwrap_or_default();
        let refused = fact["refused"].as_str();
        let row = rows(&json, "certificate");
        if kind == Certificate::ByIntermediate {
            ensure!(refused.is_none() && fact["chain"] == 2, "{fact}: {}", context());
            ensure!(row.len() == 1 && row[0].contains("chain of 2"), "{row:?}: {}", context());
            ensure!(!findings(&json).contains(&"turn-tls-failed"), "{}", context());
            continue;
        }
        let says = |why: &str| why.to_lowercase().contains(&words.to_lowercase());
        ensure!(refused.is_some_and(says), "{fact}: {}", context());
        ensure!(end.is_none() || fact["not_after_s"].as_u64() == end, "{fact}: {}", context());
        ensure!(row.len() == 1 && row[0].starts_with("not trusted for 11.0.113.1: "), "{row:?}: {}", context());
        let shown = if kind == Certificate::OtherName { OTHER_NAME } else { "11.0.113.1" };
        ensure!(row[0].contains(&format!("it is for {shown}")), "{row:?}: {}", context());
        ensure!(findings(&json).contains(&"turn-tls-failed"), "{:?}: {}", findings(&json), context());
    }
    Ok(())
}

/// A relay of TCP in front of our server, in its namespace, that makes the Date of its answers 28 years old: a server whose
/// clock is that much behind. It serves until the test's process ends.
fn serve_behind(server: &Namespace, port: u16, to: SocketAddr) -> Result<()> {
    let inside = File::open(Path::new("/run/netns").join(server.name()))?;
    let at = SocketAddr::new(to.ip(), port);
    let (bound, is_bound) = std::sync::mpsc::channel();
    // Only this thread, and those that it starts, are in there.
    std::thread::spawn(move || {
        let listening =
            setns(&inside, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from).and_then(|()| TcpListener::bind(at));
        let listener = match listening {
            Ok(listener) => listener,
            Err(error) => return drop(bound.send(Err(error))),
        };
        let _ = bound.send(Ok(()));
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut server)) = (client, TcpStream::connect(to)) else { return };
            let (Ok(mut from_client), Ok(mut to_server)) = (client.try_clone(), server.try_clone()) else { return };
            std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
            std::thread::spawn(move || {
                let mut buffer = [0; 65_536];
                while let Ok(length @ 1..) = server.read(&mut buffer) {
                    if client.write_all(&behind(&buffer[..length])).is_err() {
                        return;
                    }
                }
            });
        }
    });
    is_bound.recv().map_err(|_| anyhow!("the relay's thread ended"))?.context("the relay's socket")
}

/// The same bytes with an earlier year in the Date header: after 28 years the days of the week are the same.
fn behind(bytes: &[u8]) -> Vec<u8> {
    // Frames may follow what is text.
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
    let (text, rest) = (String::from_utf8_lossy(&bytes[..end]), &bytes[end..]);
    let lines = text.split_inclusive('\n').map(|line| {
        let year = line.get(..5).filter(|name| name.eq_ignore_ascii_case("date:")).and_then(|_| line.split(' ').nth(4));
        match year.and_then(|year| Some((year, year.parse::<u32>().ok()? - 28))) {
            Some((year, before)) => line.replacen(year, &before.to_string(), 1),
            None => line.to_owned(),
        }
    });
    [lines.collect::<String>().as_bytes(), rest].concat()
}

fn clock() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server_with(&internet, &[])?;
    let site = internet.site(Nat::Home)?;
    serve_behind(&internet.server, 8081, SocketAddr::new(SERVER[0].into(), server.port()))?;
    for (url, words) in
        [(server.url().to_owned(), "agrees with ours"), ("http://11.0.113.1:8081".into(), " days behind ours")]
    {
        let (json, ours) = check(&site.host, &["--signal", &url])?;
        let told = json["rows"].as_array().into_iter().flatten();
        let told = told.filter(|row| row["name"] == "clock" && row["subject"] == url.as_str());
        let told: Vec<&str> = told.filter_map(|row| row["value"].as_str()).collect();
        ensure!(told.len() == 1 && told[0].contains(words), "{told:?}: {}\n{}", ours.account, server.account());
    }
    Ok(())
}

/// By the secret, and by this host's clock: expired ones, forged ones, and those that it makes itself.
fn timed_credentials() -> Result<()> {
    let mut internet = Internet::new()?;
    let (secret, forged) = (password_file("north")?, password_file("a-guess")?);
    let path = |file: &tempfile::NamedTempFile| file.path().display().to_string();
    let (secret, forged) = (path(&secret), path(&forged));
    let _server = our_server_with(&internet, &["--turn-secret-file", &secret])?;
    let site = internet.site(Nat::Home)?;
    let turn = ["--turn", "turn:11.0.113.1:3478", "--turn-secret-file", &secret];
    let (json, ours) = check(&site.host, &turn)?;
    let told = rows(&json, "timed credentials");
    ensure!(told.len() == 1 && told[0].starts_with("made here from the secret"), "{told:?}: {}", ours.account);
    ensure!(rows(&json, "authentication") == ["accepted"], "{}", ours.account);
    let old = [&turn[..], &["--turn-user", "1000000000:alice", "--turn-password-file", &forged]].concat();
    let (json, ours) = check(&site.host, &old)?;
    let told = rows(&json, "timed credentials");
    let says = |words: &str| told.len() == 1 && told[0].contains(words);
    ensure!(says("expired ") && says("NOT signed with the secret"), "{told:?}: {}", ours.account);
    ensure!(findings(&json).contains(&"turn-credentials-expired"), "{:?}: {}", findings(&json), ours.account);
    Ok(())
}

fn wrong_password() -> Result<()> {
    let mut internet = Internet::new()?;
    let coturn = Coturn::start(&internet.server)?;
    let site = internet.site(Nat::Home)?;
    let password = password_file("a-guess")?;
    let secret = password.path().display().to_string();
    let recording = tempfile::NamedTempFile::new()?;
    let path = recording.path().display().to_string();
    let url = coturn.url(Transport::Udp);
    let arguments = ["--turn", &url, "--turn-user", USER, "--turn-password-file", &secret, "--record", &path];
    let (json, ours) = check(&site.host, &arguments)?;
    let names: Vec<_> = json["findings"].as_array().into_iter().flatten().map(|found| &found["name"]).collect();
    ensure!(names.first().is_some_and(|name| **name == "turn-credentials-rejected"), "{names:?}: {}", ours.account);
    ensure!(!std::fs::read_to_string(&path)?.contains("a-guess"), "the password is in the recording");
    let mut command = site.host.command(env!("CARGO_BIN_EXE_whyrelay"));
    let again =
        Process::start("whyrelay report", command.args(["report", "--format", "json", &path]))?.finish(LIMIT)?;
    ensure!(again.stdout == ours.stdout, "the recording's account differs: {}\n{}", ours.account, again.account);
    Ok(())
}

/// coturn knows no probes of ours: its relays send, and see what arrives.
fn third_party() -> Result<()> {
    let mut internet = Internet::new()?;
    let coturn = Coturn::start(&internet.server)?;
    let password = password_file(PASSWORD)?;
    let secret = password.path().display().to_string();
    let url = coturn.url(Transport::Udp);
    for (nat, stolen) in [(Nat::OpenInput, true), (Nat::Home, false)] {
        let site = internet.site(nat)?;
        let (json, ours) = check(&site.host, &["--turn", &url, "--turn-user", USER, "--turn-password-file", &secret])?;
        let context = || format!("{nat:?}: {}\n{}", ours.account, coturn.log());
        let Some(early) = measured(&json, "early-arrival") else { anyhow::bail!("not measured: {}", context()) };
        let lost = early["observed"] != early["mapped"] && early["control"] == early["mapped"];
        ensure!(lost == stolen, "{early}: {}", context());
        for kind in ["third-party", "relay-echo"] {
            ensure!(measured(&json, kind).is_some(), "{kind} is missing: {}", context());
        }
    }
    Ok(())
}

fn at_home() -> Result<()> {
    let internet = Internet::new()?;
    let server = our_server_with(&internet, &[])?;
    let (json, ours) = check(&internet.server, &["--signal", server.url()])?;
    let context = || format!("{}\n{}", ours.account, server.account());
    ensure!(findings(&json).is_empty(), "{:?}: {}", findings(&json), context());
    let untold = json["not_measured"].as_array().into_iter().flatten();
    let echo = untold.filter(|one| one["what"].as_str().is_some_and(|what| what.ends_with("echo through the relay")));
    ensure!(echo.count() > 0, "nothing says that no echo was measured: {}", context());
    Ok(())
}
