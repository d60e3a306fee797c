//! `whyrelay check` and servers: certificates, credentials, and an account that the recording gives again.

use std::io::Write as _;

use anyhow::{Result, ensure};

use crate::check::{LIMIT, check, findings, measured, our_server_with, rows};
use crate::coturn::{Coturn, PASSWORD, Transport, USER};
use crate::process::Process;
use crate::router::{Internet, Nat};
use crate::suite::{Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::Turnserver];
    suite.test("check_servers::a_certificate_is_judged_by_name_chain_and_end", &tools, certificate);
    suite.test("check_servers::a_wrong_password_is_told", &tools, wrong_password);
    let ours = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_servers::timed_credentials_are_judged_offline", &ours, timed_credentials);
    suite.test("check_servers::a_foreign_turn_server_is_third_party_enough", &tools, third_party);
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
