//! `whyrelay check` and servers: certificates, credentials, and an account that the recording gives again.

use std::io::Write as _;

use anyhow::{Result, ensure};

use crate::check::{LIMIT, check, measured};
use crate::coturn::{Coturn, PASSWORD, Transport, USER};
use crate::process::Process;
use crate::router::{Internet, Nat};
use crate::suite::{Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::Turnserver];
    suite.test("check_servers::a_certificate_is_judged_by_name_chain_and_end", &tools, certificate);
    suite.test("check_servers::a_wrong_password_is_told", &tools, wrong_password);
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
