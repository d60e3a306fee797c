//! The page of `whyrelay serve`, used in a real browser as a person would.

#[path = "../../../whyrelay-core/tests/account/hostile.rs"]
mod everywhere;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::namespace::Namespace;
use crate::ours::{self, Account, Server};
use crate::peers::{self, Role};
use crate::process::Process;
use crate::suite::{self, Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    use Tool::{Chromium, Firefox, NetworkNamespaces, Nft};
    let tools = [NetworkNamespaces, Chromium];
    let firefox = [NetworkNamespaces, Firefox];
    suite.test("page::offers_and_we_answer", &tools, || with_ours(Role::Offerer, false, CHROMIUM));
    suite.test("page::answers_our_offer", &tools, || with_ours(Role::Answerer, false, CHROMIUM));
    suite.test("page::is_relayed_with_us", &tools, || with_ours(Role::Answerer, true, CHROMIUM));
    suite.test("page::in_firefox_offers_and_we_answer", &firefox, || with_ours(Role::Offerer, false, FIREFOX));
    suite.test("page::in_firefox_answers_our_offer", &firefox, || with_ours(Role::Answerer, false, FIREFOX));
    suite.test("page::in_firefox_meets_the_page_in_chromium", &[NetworkNamespaces, Chromium, Firefox], two_browsers);
    suite.test("page::uses_pseudonyms_when_we_ask", &tools, with_pseudonyms);
    suite.test("page::meets_another_page", &tools, || two_pages(false));
    suite.test("page::is_relayed_to_another_page", &tools, || two_pages(true));
    suite.test("page::tells_dtls_that_fails_from_ice_that_fails", &tools, wrong_fingerprint);
    suite.test("page::tells_why_it_fails", &[NetworkNamespaces, Chromium, Nft], failing);
    suite.test("page::needs_no_pointer_and_keeps_nobody_out", &tools, keyboard);
    suite.test("page::shows_a_session_while_it_lasts", &tools, live);
    suite.test("page::shows_what_both_sides_saw_while_it_lasts", &tools, || follow(Role::Answerer));
    suite.test("page::shows_what_both_sides_saw_to_the_offerer_too", &tools, || follow(Role::Offerer));
    suite.test("page::keeps_what_a_peer_sent_before_it_was_killed", &tools, follow_until_gone);
    suite.test("page::shows_hostile_text_as_text", &tools, hostile);
}

/// The script that uses the page, and with what.
type Browser = &'static [&'static str];

const CHROMIUM: Browser = &["page/run.mjs", "peer"];
/// As narrow as a phone, or as its window can be made.
const FIREFOX: Browser = &["page/firefox.mjs", "--width", "390"];

/// The page of `server` in a browser in `namespace`, doing what `scenario` says.
fn browser(namespace: &Namespace, scenario: &str, server: &Server) -> Result<Command> {
    script(namespace, &["page/run.mjs", scenario], server)
}

fn script(namespace: &Namespace, script: &[&str], server: &Server) -> Result<Command> {
    let mut command = namespace.command(suite::path("NODE")?);
    command.arg(peers::source(script[0])).args(&script[1..]);
    command.args(["--url", &format!("{}/#room={ROOM}", server.url())]);
    if let Some(shots) = std::env::var_os("WHYRELAY_INTEROP_SHOTS") {
        command.arg("--shot").arg(shots);
    }
    Ok(command)
}

/// That of `hostile.mjs`.
const MARKUP: &str = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg onload=alert(3)>";

const ROOM: &str = "page-test";

/// The two hosts of [`Namespace::pair`].
const ADDRESSES: [&str; 2] = ["203.0.113.1:", "203.0.113.2:"];

fn with_ours(page_role: Role, relayed: bool, which: Browser) -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &["--allow-private-peers"])?;
    let mut command = ours::peer(&left, page_role.other(), server.url());
    command.args(["--room", ROOM]);
    let mine = Process::start("whyrelay", &mut command)?;
    let mut command = script(&right, which, &server)?;
    command.args(["--side", if page_role == Role::Offerer { "a" } else { "b" }]);
    if relayed {
        command.arg("--relay-only");
    }
    let page = Process::start("the page", &mut command)?;
    let account = Account::of(mine).with_context(|| server.account())?;
    let result = peers::success(page).with_context(|| account.printed.clone())?;

    let path = if relayed { "relayed" } else { "direct" };
    if relayed {
        account.must_be_relayed()?
    } else {
        account.must_be_direct()?
    }
    must_be(&result, path)?;
    // Both sides were recorded, and say so with one voice.
    for side in ["a", "b"] {
        ensure!(!account.json[side].is_null(), "{side} was not recorded: {}", account.printed);
    }
    ensure!(result["reason"] == account.json["reason"], "{result}\n{}", account.printed);
    if which == FIREFOX {
        ensure!(result["width"].as_u64() <= Some(500), "the window is not narrow: {result}");
        ensure!(result["wide"] == false, "it has to be scrolled sideways: {result}");
    }
    ensure!(which == FIREFOX || result["reportIsHtml"] == true, "no report: {result}");
    Ok(())
}

/// `--redact` on our side: neither account, recording nor what the page shows at the end has an address of either side.
fn with_pseudonyms() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &["--allow-private-peers"])?;
    let mut command = ours::peer(&left, Role::Offerer, server.url());
    command.args(["--room", ROOM, "--redact"]);
    let mine = Process::start("whyrelay", &mut command)?;
    let mut command = script(&right, CHROMIUM, &server)?;
    let page = Process::start("the page", command.args(["--side", "b", "--recording"]))?;
    let account = Account::of(mine).with_context(|| server.account())?;
    let result = peers::success(page).with_context(|| account.printed.clone())?;
    must_be(&result, "direct")?;
    ensure!(result["reason"] == account.json["reason"], "{result}\n{}", account.printed);
    let text = |field: &str| result[field].as_str().unwrap_or_default().to_owned();
    for (what, text) in [
        ("our account", account.json.to_string()),
        ("the recording", text("recording")),
        ("the report", text("report")),
    ] {
        ensure!(text.len() > 500, "{what} is empty: {result}");
        for address in ADDRESSES {
            ensure!(!text.contains(address), "{address} stands in {what}:\n{text}");
        }
    }
    for rows in [&result["pairs"], &result["candidates"], &result["reason"]] {
        ensure!(
            ADDRESSES.iter().all(|address| !rows.to_string().contains(address)),
            "the page shows an address: {rows}"
        );
    }
    Ok(())
}

/// The page in two browsers of different make, on two hosts.
fn two_browsers() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &["--allow-private-peers"])?;
    let mut command = script(&right, FIREFOX, &server)?;
    let firefox = Process::start("the page in Firefox", command.args(["--side", "b"]))?;
    let mut command = script(&left, CHROMIUM, &server)?;
    let chromium = Process::start("the page in Chromium", command.args(["--side", "a"]))?;
    let in_chromium = peers::success(chromium).with_context(|| server.account())?;
    let in_firefox = peers::success(firefox).with_context(|| server.account())?;
    must_be(&in_chromium, "direct")?;
    must_be(&in_firefox, "direct")?;
    ensure!(in_chromium["reason"] == in_firefox["reason"], "{in_chromium}\n{in_firefox}");
    Ok(())
}

fn two_pages(relayed: bool) -> Result<()> {
    let namespace = Namespace::new()?;
    let server = Server::start(&namespace, &["--allow-private-peers"])?;
    let mut command = browser(&namespace, "pair", &server)?;
    if relayed {
        command.arg("--relay-only");
    }
    let result = peers::success(Process::start("two pages", &mut command)?).with_context(|| server.account())?;
    for side in ["a", "b"] {
        must_be(&result[side], if relayed { "relayed" } else { "direct" })?;
        // What each counted, told by the other's statistics: nothing is missing.
        let chains = result[side]["pairs"][0].to_string();
        ensure!(chains.contains("seen by A") && chains.contains("seen by B"), "{result}");
        ensure!(!chains.contains('?'), "a browser knows its counts: {result}");
    }
    ensure!(result["a"]["reason"] == result["b"]["reason"], "{result}");
    Ok(())
}

/// ICE finds a path, and the other side's certificate is not the one that was announced.
fn wrong_fingerprint() -> Result<()> {
    let namespace = Namespace::new()?;
    let server = Server::start(&namespace, &[])?;
    let mut command = browser(&namespace, "pair", &server)?;
    let page = Process::start("two pages", command.arg("--wrong-fingerprint"))?;
    let result = peers::success(page).with_context(|| server.account())?;
    for side in ["a", "b"] {
        must_be(&result[side], "failed")?;
        ensure!(result[side]["findings"].to_string().contains("WR60"), "{side}: {result}");
    }
    Ok(())
}

/// What two pages show while they are connected.
fn live() -> Result<()> {
    let namespace = Namespace::new()?;
    let server = Server::start(&namespace, &[])?;
    let mut command = browser(&namespace, "live", &server)?;
    let result = peers::success(Process::start("two pages", &mut command)?).with_context(|| server.account())?;
    for (side, seen) in result["seen"].as_array().context("nothing was seen")?.iter().enumerate() {
        let number = |when: &str, field: &str| seen[when][field].as_u64().unwrap_or_default();
        for when in ["before", "after"] {
            ensure!(seen[when]["finished"] == false && seen[when]["wide"] == false, "{side}: {seen}");
            ensure!(number(when, "selected") == 1 && number(when, "pairs") >= 1, "{side}: {seen}");
            let candidates = seen[when]["candidates"].to_string();
            ensure!(candidates.contains("\"A\"") && candidates.contains("\"B\""), "{side}: {seen}");
            ensure!(seen[when]["facts"].to_string().contains("direct: "), "{side}: {seen}");
        }
        ensure!(number("after", "points") > number("before", "points"), "the plot does not move: {seen}");
        // Two round trips may be the same, so the words may be: the points tell that it moves.
        ensure!(seen["after"]["caption"].to_string().contains(" ms now"), "{side}: {seen}");
    }
    for ended in result["ended"].as_array().context("no account")? {
        must_be(ended, "direct")?;
    }
    Ok(())
}

/// Our peer, and the page that follows what it records.
fn following(
    (left, right): &(Namespace, Namespace),
    page_role: Role,
    page_flags: &[&str],
) -> Result<(Process, Process, Server)> {
    let server = Server::start(left, &["--allow-private-peers"])?;
    let mut command = ours::peer(left, page_role.other(), server.url());
    let mine = Process::start("whyrelay", command.args(["--room", ROOM, "--stay"]))?;
    let mut command = browser(right, "follow", &server)?;
    let side = if page_role == Role::Offerer { "a" } else { "b" };
    let page = Process::start("the page", command.args(["--side", side]).args(page_flags))?;
    page.line(peers::LIMIT, |line| line == "FOLLOWED")?;
    Ok((mine, page, server))
}

/// How far checks came is told by both sides: only our peer can say what reached it.
fn tells_of_both(pairs: &Value) -> Result<()> {
    let selected = pairs[0].to_string();
    ensure!(selected.contains("seen by A") && selected.contains("seen by B") && !selected.contains('?'), "{pairs}");
    Ok(())
}

/// Verdict, causes and the chains of both sides stand there while both are connected.
fn follow(page_role: Role) -> Result<()> {
    let hosts = Namespace::pair()?;
    let (mine, page, server) = following(&hosts, page_role, &["--relay-only"])?;
    let result = peers::success(page).with_context(|| server.account())?;
    let account = Account::of(mine).with_context(|| server.account())?;
    must_be(&result, "relayed")?;
    account.must_be_relayed()?;
    let seen = &result["seen"];
    ensure!(seen["finished"] == false, "{seen}");
    ensure!(seen["soFar"].as_str().is_some_and(|text| text.starts_with("So far: RELAYED")), "{seen}");
    ensure!(seen["findings"].to_string().contains("relay-only-configured") && seen["fixes"] != 0, "{seen}");
    tells_of_both(&seen["pairs"])
}

fn follow_until_gone() -> Result<()> {
    let hosts = Namespace::pair()?;
    let (mine, page, server) = following(&hosts, Role::Answerer, &["--until-gone"])?;
    mine.signal(Signal::SIGKILL)?;
    let result = peers::success(page).with_context(|| server.account())?;
    ensure!(result["missing"].to_string().contains("its recording was cut off"), "{result}");
    tells_of_both(&result["pairs"])
}

fn failing() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &["--no-stun"])?;
    for namespace in [&left, &right] {
        namespace.drop_all_but_tcp(server.port())?;
    }
    let mut command = ours::peer(&left, Role::Offerer, server.url());
    command.args(["--room", ROOM, "--timeout", "6s"]);
    let mine = Process::start("whyrelay", &mut command)?;
    let page = Process::start("the page", &mut browser(&right, "peer", &server)?)?;
    let account = Account::of(mine).with_context(|| server.account())?;
    let result = peers::success(page).with_context(|| account.printed.clone())?;
    ensure!(account.json["path"] == "failed" && account.has_finding(), "{}", account.printed);
    must_be(&result, "failed")?;
    ensure!(result["findings"].as_array().is_some_and(|list| !list.is_empty()), "no finding: {result}");
    Ok(())
}

fn keyboard() -> Result<()> {
    let namespace = Namespace::new()?;
    let server = Server::start(&namespace, &[])?;
    let mut command = browser(&namespace, "keyboard", &server)?;
    let result = peers::success(Process::start("the page", &mut command)?).with_context(|| server.account())?;
    must_be(&result, "direct")?;
    ensure!(result["saved"] == "whyrelay.jsonl", "{result}");
    Ok(())
}

fn hostile() -> Result<()> {
    let namespace = Namespace::new()?;
    let server = Server::start(&namespace, &[])?;
    let (recording, fields) = everywhere::recording(MARKUP);
    ensure!(fields > 160, "it is in {fields} fields only");
    let directory = tempfile::tempdir()?;
    let events = directory.path().join("hostile.jsonl");
    std::fs::write(&events, recording)?;
    let mut command = browser(&namespace, "hostile", &server)?;
    command.arg("--events").arg(&events);
    let result = peers::success(Process::start("the page", &mut command)?).with_context(|| server.account())?;
    // The path is what that recording claims.
    ensure!(result["faults"].as_array().is_some_and(Vec::is_empty), "faults: {result}");
    ensure!(result["planted"] == MARKUP, "another markup: {result}");
    ensure!(result["shownAsText"] == true, "the markup is not shown: {result}");
    ensure!(result["live"]["shownAsText"] == true, "the markup is not shown while it lasts: {result}");
    ensure!(result["before"] == result["live"]["foreign"], "markup became elements while it lasted: {result}");
    ensure!(result["before"] == result["after"], "markup became elements: {result}");
    let drawn: Vec<&str> = result["drawn"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(drawn.contains(&"text"), "nothing is drawn: {result}");
    let harmless = ["circle", "g", "line", "path", "polygon", "polyline", "rect", "text", "title", "tspan"];
    ensure!(drawn.iter().all(|name| harmless.contains(name)), "more than a drawing: {drawn:?}");
    let report = result["report"].as_str().unwrap_or_default();
    ensure!(report.contains("&lt;img src=x"), "the report does not show it as text");
    for element in ["<img src=x", "<script>alert", "<svg onload"] {
        ensure!(!report.contains(element), "{element} stands in the report");
    }
    Ok(())
}

/// Fails unless the page says this path, and did nothing that it must not.
fn must_be(result: &Value, path: &str) -> Result<()> {
    ensure!(result["path"] == path, "the path is not {path}: {result}");
    ensure!(result["faults"].as_array().is_some_and(Vec::is_empty), "faults: {result}");
    Ok(())
}
