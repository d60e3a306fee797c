//! `lab shell` on a terminal: a prompt, job control, Ctrl-C for what runs in it, and nothing left.

use anyhow::{Context as _, Result, ensure};

use super::left_over::{gone, namespaces};
use crate::suite::{Suite, Tool};

#[path = "../../session/pty.rs"]
#[expect(dead_code, reason = "other tests of terminals use the rest")]
mod pty;

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("lab::a_shell_on_a_terminal_is_one_and_leaves_nothing", &tools, shell);
}

fn shell() -> Result<()> {
    const PROMPT: &str = "two-homes:a$ ";
    let prompts = |times: usize| move |screen: &str| screen.matches(PROMPT.trim_end()).count() >= times;
    let environment = [("SHELL", "/bin/sh")];
    let mut terminal = pty::Pty::start(&["lab", "shell", "two-homes", "a"], (40, 120), &environment);
    let screen = terminal.wait_for("a prompt", prompts(1));
    ensure!(screen.contains("You are on a.") && screen.contains("WHYRELAY_SIGNAL"), "{screen}");
    terminal.press("echo lab=$WHYRELAY_LAB signal=$WHYRELAY_SIGNAL; ip -brief address show dev eth0\r");
    let screen = terminal.shows("192.168.10.2/24");
    // Beside the network, so that no fault of the host is in the way.
    ensure!(screen.contains("signal=http://127.0.0.1:"), "{screen}");
    let id = screen.split("lab=wrl").nth(1).and_then(|rest| rest.split_whitespace().next()).context("no id")?;
    let id = format!("wrl{id}");
    ensure!(!namespaces(&id)?.is_empty(), "there is no network {id}");

    // Ctrl-C is for what runs in the shell: that ends, the shell and the network stay.
    terminal.wait_for("a prompt", prompts(2));
    // It says so itself: between a command and the next, a shell may miss Ctrl-C.
    terminal.press("sh -c 'echo begins; exec sleep 600'; echo not reached\r");
    terminal.wait_for("its output", |screen| screen.lines().any(|line| line.trim() == "begins"));
    terminal.press("\x03");
    terminal.wait_for("a prompt", prompts(3));
    terminal.press("echo still $((40 + 2))\r");
    let screen = terminal.shows("still 42");
    ensure!(!screen.lines().any(|line| line.trim() == "not reached"), "{screen}");
    ensure!(!namespaces(&id)?.is_empty(), "Ctrl-C took the network away");

    terminal.press("exit 7\r");
    let status = terminal.finish();
    ensure!(status.code() == Some(7), "{status}; the screen was:\n{}", terminal.contents());
    ensure!(namespaces(&id)?.is_empty(), "left: {:?}", namespaces(&id)?);
    gone(&id)
}
