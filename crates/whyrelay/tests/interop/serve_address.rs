//! `whyrelay serve` on a machine that has no address yet.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::namespace::Namespace;
use crate::peers::LIMIT;
use crate::process::Process;
use crate::suite::{Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let namespaces = [Tool::NetworkNamespaces];
    suite.test("serve_address::it_waits_a_moment_for_one", &namespaces, address_soon);
    suite.test("serve_address::it_says_what_to_run_when_one_comes", &namespaces, address_later);
}

fn serve(namespace: &Namespace) -> Result<Process> {
    let mut command = namespace.command(env!("CARGO_BIN_EXE_whyrelay"));
    Process::start("whyrelay serve", command.arg("serve"))
}

fn give_an_address(namespace: &Namespace) -> Result<()> {
    namespace.shell("ip address add 203.0.113.9/24 dev eth0")
}

fn without_address() -> Result<Namespace> {
    let namespace = Namespace::bare([203, 0, 113, 9].into())?;
    namespace.shell(
        "sysctl -qw net.ipv6.conf.default.disable_ipv6=1; ip link add eth0 type veth peer name eth1;
         ip link set eth0 up; ip link set eth1 up",
    )?;
    Ok(namespace)
}

fn address_soon() -> Result<()> {
    let namespace = without_address()?;
    let server = serve(&namespace)?;
    server.line(LIMIT, |line| line.contains("no address yet: waiting"))?;
    give_an_address(&namespace)?;
    let line = server.line(LIMIT, |line| line.contains("whyrelay answer --signal "))?;
    ensure!(line.contains("--signal http://203.0.113.9:8080 "), "{}", server.account());
    ensure!(server.account().contains("203.0.113.9:3478 (UDP and TCP)"), "{}", server.account());
    Ok(())
}

fn address_later() -> Result<()> {
    let namespace = without_address()?;
    let server = serve(&namespace)?;
    server.line(LIMIT, |line| line.contains("only programs on it reach this server"))?;
    let first = server.line(LIMIT, |line| line.contains("whyrelay answer --signal "))?;
    ensure!(first.contains("--signal http://127.0.0.1:8080 "), "{first}");
    give_an_address(&namespace)?;
    let limit = Duration::from_secs(10);
    let second = server.nth_line(1, limit, |line| line.contains("whyrelay answer --signal "))?;
    ensure!(second.contains("--signal http://203.0.113.9:8080 "), "{}", server.account());
    server.line(LIMIT, |line| line.contains("STUN and TURN do not listen there"))?;
    Ok(())
}
