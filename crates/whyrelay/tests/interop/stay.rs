//! Connections that are kept open (`--stay`) while their path breaks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::coturn::{Coturn, PASSWORD, Transport, USER};
use crate::homes::Homes;
use crate::namespace::Namespace;
use crate::ours::{self, Account, Server};
use crate::peers::{LIMIT, Role};
use crate::process::Process;
use crate::suite::{self, Suite, Tool};

/// Consent is missed after 6 s, ICE restarts 3 s later and then every 10 s.
const BREAK_LIMIT: Duration = Duration::from_secs(45);

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    use Tool::{NetworkNamespaces, Nft, Turnserver};
    let tools = [NetworkNamespaces, Nft];
    suite.test("stay::a_path_that_was_silent_comes_back_by_a_restart", &tools, comes_back);
    suite.test("stay::a_broken_path_moves_to_the_other_cable", &tools, moves);
    suite.test("stay::a_relay_that_ends_is_named", &tools, relay_gone);
    suite.test("stay::an_interface_that_goes_down_is_the_cause_and_no_route", &tools, goes_down);
    let coturn = [NetworkNamespaces, Turnserver];
    suite.test("stay::an_allocation_that_was_lost_is_made_again", &coturn, allocated_again);
}

/// Two sides that stay connected.
struct Pair {
    offerer: Process,
    answerer: Process,
    recording: tempfile::TempDir,
}

impl Pair {
    fn connect(left: &Namespace, right: &Namespace, server: &Server, more: &[&str]) -> Result<Self> {
        let recording = tempfile::tempdir()?;
        let start = |namespace: &Namespace, role: Role| {
            let mut command = ours::peer(namespace, role, server.url());
            command.arg("--stay").args(more).env("TURN_PASSWORD", PASSWORD);
            command.arg("--record").arg(recording.path().join(role.name()));
            Process::start(role.name(), &mut command)
        };
        let answerer = start(right, Role::Answerer)?;
        let offerer = start(left, Role::Offerer)?;
        for peer in [&offerer, &answerer] {
            peer.line(LIMIT, |line| line.contains("round trip over the channel: median"))?;
        }
        Ok(Self { offerer, answerer, recording })
    }

    /// Interrupts one side and takes both accounts, which must be the same but for what a side cannot know.
    fn end(self, server: &Server) -> Result<(Account, Account, String)> {
        self.offerer.signal(Signal::SIGINT)?;
        let offered = Account::of(self.offerer).with_context(|| server.account())?;
        let answered = Account::of(self.answerer).with_context(|| server.account())?;
        ensure!(offered.json == answered.json, "two accounts:\n{}\n{}", offered.printed, answered.printed);
        let recording = std::fs::read_to_string(self.recording.path().join(Role::Offerer.name()))?;
        Ok((offered, answered, recording))
    }
}

fn is_path(line: &str) -> bool {
    line.contains("s path: ")
}

fn comes_back() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &["--no-stun"])?;
    let pair = Pair::connect(&left, &right, &server, &[])?;
    let paths = pair.offerer.count(is_path);
    for namespace in [&left, &right] {
        namespace.drop_udp("wr0")?;
    }
    for peer in [&pair.offerer, &pair.answerer] {
        peer.line(BREAK_LIMIT, |line| line.contains("the path is silent"))?;
    }
    pair.offerer.line(BREAK_LIMIT, |line| line.contains("restarting ICE"))?;
    for namespace in [&left, &right] {
        namespace.let_pass()?;
    }
    pair.offerer.nth_line(paths, BREAK_LIMIT, is_path)?;
    let (account, _, recording) = pair.end(&server)?;
    ensure!(account.json["path"] == "direct", "{}", account.printed);
    for word in [r#""reason":"consent-silent""#, r#""kind":"ice-restarted""#, r#""kind":"pair-selected""#] {
        ensure!(recording.contains(word), "no {word} in the recording: {}", account.printed);
    }
    Ok(())
}

fn goes_down() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&right, &["--no-stun"])?;
    let pair = Pair::connect(&left, &right, &server, &[])?;
    left.run(&["link", "set", "wr0", "down"])?;
    pair.offerer.line(LIMIT, |line| line.contains("the interface wr0 was set down"))?;
    pair.offerer.line(BREAK_LIMIT, |line| line.contains("restarting ICE"))?;
    let Pair { offerer, answerer, recording } = pair;
    let began = std::time::Instant::now();
    offerer.signal(Signal::SIGINT)?;
    let account = Account::of(offerer)?;
    let took = began.elapsed();
    answerer.signal(Signal::SIGINT)?;
    answerer.finish(LIMIT)?;
    // Nothing comes over such a network, so that nothing is waited for.
    ensure!(took < Duration::from_millis(1200), "{took:?}: {}", account.printed);
    let codes = account.codes();
    ensure!(codes.contains(&"WR131") && !codes.contains(&"WR104"), "{codes:?}: {}", account.printed);
    let summary = account.summary_of("WR131");
    ensure!(summary.contains("wr0 was set down, ") && summary.contains(" s after the beginning"), "{summary}");
    let recording = std::fs::read_to_string(recording.path().join(Role::Offerer.name()))?;
    ensure!(
        recording.contains(r#""moment":"during","fact":{"what":"link","device":"wr0""#),
        "no change of a link in the recording"
    );
    Ok(())
}

fn moves() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    Namespace::second_cable(&left, &right)?;
    let server = Server::start(&left, &["--no-stun"])?;
    // TCP would go on over the broken cable.
    let pair = Pair::connect(&left, &right, &server, &["--no-tcp"])?;
    let paths = pair.offerer.count(is_path);
    let last = pair.offerer.nth_line(paths.saturating_sub(1), LIMIT, is_path)?;
    let (broken, other) = if last.contains("203.0.113.") { ("wr0", "198.51.100.") } else { ("wr2", "203.0.113.") };
    for namespace in [&left, &right] {
        namespace.drop_udp(broken)?;
    }
    let moved = pair.offerer.nth_line(paths, BREAK_LIMIT, is_path)?;
    ensure!(moved.contains(other), "it did not move away from {broken}: {}", pair.offerer.account());
    pair.offerer.line(BREAK_LIMIT, |line| line.contains("restarting ICE"))?;
    let (account, _, _) = pair.end(&server)?;
    ensure!(account.json["path"] == "direct", "{}", account.printed);
    for side in ["local", "remote"] {
        let address = account.json["selected_pair"][side]["address"].as_str().unwrap_or_default();
        ensure!(address.starts_with(other), "the account shows {address}: {}", account.printed);
    }
    Ok(())
}

fn allocated_again() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &["--no-stun"])?;
    let coturn = Coturn::start(&left)?;
    let url = coturn.url(Transport::Udp);
    let pair = Pair::connect(&left, &right, &server, &["--relay-only", "--turn", &url, "--turn-user", USER])?;
    let paths = pair.offerer.count(is_path);
    drop(coturn);
    let coturn = Coturn::start(&left)?;
    pair.offerer.nth_line(paths, BREAK_LIMIT, is_path).with_context(|| coturn.log())?;
    let (account, _, recording) = pair.end(&server)?;
    account.must_be_relayed()?;
    let after_loss = recording.split(r#""kind":"deallocated""#).nth(1).unwrap_or_default();
    ensure!(after_loss.contains(r#""kind":"allocated""#), "no allocation after the loss: {}", account.printed);
    Ok(())
}

/// Its program ends, its machine falls silent, or it ends together with signaling: then the side whose relay it is not has
/// nobody's word but that of the relay's machine.
fn relay_gone() -> Result<()> {
    const CASES: [&str; 4] = ["program", "machine", "with-signaling", "of-A-with-signaling"];
    suite::each(&CASES, 4, |case| relay_gone_as(case).with_context(|| (*case).to_owned()))
}

fn relay_gone_as(case: &str) -> Result<()> {
    let homes = Homes::new()?;
    let between = &homes.between;
    let users = tempfile::NamedTempFile::new()?;
    std::fs::write(users.path(), "alice:wonderland\n")?;
    let relay = |listen: &str| {
        let mut command = between.command(env!("CARGO_BIN_EXE_whyrelay"));
        command.args([
            "serve",
            "--listen",
            listen,
            "--stun-listen",
            "192.0.2.1:3478",
            "--allow-peer",
            "203.0.113.0/24",
        ]);
        let relay = Process::start("the relay", command.arg("--turn-users-file").arg(users.path()))?;
        relay.line(LIMIT, |line| line.contains("Ctrl-C ends"))?;
        anyhow::Ok(relay)
    };
    let (signaling, relay) = match case {
        "with-signaling" | "of-A-with-signaling" => (None, relay("192.0.2.1:8080")?),
        _ => (Some(Server::start(between, &["--no-stun"])?), relay("192.0.2.1:8081")?),
    };
    let start = |namespace: &Namespace, role: Role| {
        let mut command = ours::peer(namespace, role, "http://192.0.2.1:8080");
        command.args(["--stay", "--no-tcp"]);
        match (case, role) {
            ("of-A-with-signaling", Role::Answerer) => command.args(["--no-turn", "--stun", "stun:192.0.2.1:3478"]),
            _ => command.args(["--relay-only", "--turn", "turn:192.0.2.1:3478", "--turn-user", "alice"]),
        };
        Process::start(role.name(), command.env("TURN_PASSWORD", "wonderland"))
    };
    let answerer = start(&homes.b, Role::Answerer)?;
    let offerer = start(&homes.a, Role::Offerer)?;
    for peer in [&offerer, &answerer] {
        peer.line(LIMIT, |line| line.contains("round trip over the channel: median"))?;
    }
    if case == "machine" {
        between.shell(
            "nft 'table ip d { chain i { type filter hook input priority 0; meta l4proto udp drop; };
               chain o { type filter hook output priority 0; meta l4proto udp drop; }; }'",
        )?;
    } else {
        drop(relay);
    }
    for peer in [&offerer, &answerer] {
        peer.line(BREAK_LIMIT, |line| line.contains("the path is "))?;
    }
    // Long enough for whatever is tried then.
    std::thread::sleep(Duration::from_secs(15));
    offerer.signal(Signal::SIGINT)?;
    let offered = Account::of(offerer)?;
    if signaling.is_none() {
        answerer.signal(Signal::SIGINT)?;
    }
    let answered = Account::of(answerer)?;
    for account in [&offered, &answered] {
        let first = &account.json["findings"][0];
        ensure!(account.json["path"] == "failed" && first["code"] == "WR411", "{}", account.printed);
        ensure!(first["summary"].as_str().is_some_and(|said| said.contains("the relay at 192.0.2.1:")), "{first}");
    }
    Ok(())
}
