//! Foreign implementations that may use relayed candidates only, relayed by `whyrelay serve`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::check::{check_by, findings, measured, rows};
use crate::coturn;
use crate::namespace::Namespace;
use crate::ours::{self, Account};
use crate::peers::{self, Role};
use crate::process::Process;
use crate::router::{Internet, Nat};
use crate::suite::{Suite, Tool};

/// A network that peers may be in, and an address of the server in it that it gets while it serves.
fn own_addresses() -> Result<()> {
    let namespace = Namespace::new()?;
    let directory = tempfile::tempdir()?;
    let users = directory.path().join("users");
    std::fs::write(&users, format!("{USER}:{PASSWORD}\n"))?;
    let users = users.display().to_string();
    let _server = ours::Server::start(&namespace, &["--turn-users-file", &users, "--allow-peer", "10.0.0.0/8"])?;
    let ask = |peer: &str| -> Result<String> {
        let mut command = namespace.command("timeout");
        command.args(["20", "turnutils_uclient", "-u", USER, "-w", PASSWORD, "-c", "-s", "-n", "1", "-e", peer]);
        let output = command.arg(namespace.address().to_string()).output()?;
        Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    };
    const REFUSED: &str = "create permission error 403";
    let others = ask("10.0.0.5")?;
    ensure!(!others.contains(REFUSED), "another machine's address: {others}");
    namespace.shell("ip address add 10.0.0.5/32 dev wr0")?;
    std::thread::sleep(Duration::from_millis(1500));
    let own = ask("10.0.0.5")?;
    ensure!(own.contains(REFUSED), "its own address: {own}");
    Ok(())
}

/// Behind a link that takes 1280 bytes: what has the DF bit dies in front of it, and everything else arrives in fragments.
fn dont_fragment() -> Result<()> {
    let mut internet = Internet::new()?;
    let (client, peer) = (internet.site(Nat::None)?, internet.site(Nat::None)?);
    peer.router.run(&["link", "set", "lan", "mtu", "1280"])?;
    peer.host.run(&["link", "set", "eth0", "mtu", "1280"])?;
    let users = users()?;
    let server = ours::Server::start(&internet.server, &["--turn-users-file", &users.path().display().to_string()])?;
    let address = peer.host.address().to_string();
    let mut command = peer.host.command("turnutils_peer");
    let echo = Process::start("turnutils_peer", command.args(["-L", &address, "-p", "3480"]))?;
    std::thread::sleep(Duration::from_millis(500));
    // By indications, ten a run, all at once, as each waits long for what is lost; DONT-FRAGMENT is an attribute of theirs.
    let runs =
        [("1400", &["-g"][..], 10), ("1400", &[], 0), ("1000", &["-g"], 0), ("1400", &["-g"], 10), ("1400", &[], 0)];
    let start = |(size, more, lost)| {
        let mut command = client.host.command("timeout");
        command.args(["40", "turnutils_uclient", "-u", USER, "-w", PASSWORD, "-c", "-s", "-n", "10", "-z", "20"]);
        command.args(["-l", size, "-e", &address, "-r", "3480"]).args(more);
        let process = Process::start("turnutils_uclient", command.arg(internet.server.address().to_string()))?;
        anyhow::Ok((size, more, lost, process))
    };
    for run in runs.map(start) {
        let (size, more, lost, process) = run?;
        let said = process.finish(Duration::from_secs(45))?.account;
        let counted = format!("Total lost packets {lost} (");
        let all = said.contains("tot_send_msgs=10,") && said.contains(&counted);
        ensure!(all, "{size} bytes {more:?}: not {lost} lost: {said}\n{}\n{}", server.account(), echo.account());
    }
    Ok(())
}

/// Makes the command of a foreign peer.
type Peer = fn(&Namespace, Role, &str) -> Result<Command>;

const USER: &str = "alice";
const PASSWORD: &str = "wonderland";

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    use Tool::{Chromium, NetworkNamespaces, Pion, Python};
    let tools = [NetworkNamespaces, Tool::Nft];
    suite.test("our_turn::relays_behind_a_one_to_one_nat_at_its_public_address", &tools, behind_one_to_one_nat);
    let aiortc = [NetworkNamespaces, Python];
    suite.test("our_turn::relays_aiortc_over_udp", &aiortc, || relayed(peers::aiortc, "--", "udp"));
    suite.test("our_turn::relays_aiortc_over_tcp", &aiortc, || relayed(peers::aiortc, "--", "tcp"));
    let uclient = [NetworkNamespaces, Tool::Turnserver];
    suite.test("our_turn::relays_to_no_own_address_that_came_later", &uclient, own_addresses);
    let uclient = [NetworkNamespaces, Tool::Nft, Tool::Turnserver];
    suite.test("our_turn::sets_df_on_the_wire_for_who_asks_for_it_and_for_nobody_else", &uclient, dont_fragment);
    let chromium = [NetworkNamespaces, Chromium];
    suite.test("our_turn::relays_chromium_over_udp", &chromium, || relayed(peers::chromium, "--", "udp"));
    suite.test("our_turn::relays_chromium_over_tcp", &chromium, || relayed(peers::chromium, "--", "tcp"));
    suite.test("our_turn::relays_aiortc_over_tls", &aiortc, || relayed_over_tls(peers::aiortc, &[]));
    suite.test("our_turn::relays_chromium_over_tls", &chromium, || {
        relayed_over_tls(peers::chromium, &["--any-certificate"])
    });
    let pion = [NetworkNamespaces, Pion];
    suite.test("our_turn::relays_pion_over_udp", &pion, || relayed(peers::pion, "-", "udp"));
    suite.test("our_turn::relays_pion_over_tcp", &pion, || relayed(peers::pion, "-", "tcp"));
}

/// `dash` is how the peer's flags begin.
fn relayed(foreign: Peer, dash: &str, transport: &str) -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let users = users()?;
    let server = ours::Server::start(&left, &["--turn-users-file", &users.path().display().to_string()])?;
    let command = foreign(&right, Role::Answerer, server.url())?;
    let url = format!("turn:{}:3478?transport={transport}", left.address());
    // Ours has credentials that signaling announces, and a relay of its own on the same server.
    let mine = ours::peer(&left, Role::Offerer, server.url());
    meet(&server, command, mine, dash, &url)
}

fn users() -> Result<tempfile::NamedTempFile> {
    let users = tempfile::NamedTempFile::new()?;
    std::fs::write(users.path(), format!("{USER}:{PASSWORD}\n"))?;
    Ok(users)
}

/// Our relay for TLS stands beside the server that both signal by: that one would be HTTPS with a certificate.
fn relayed_over_tls(foreign: Peer, more: &[&str]) -> Result<()> {
    const METRICS: &str = "127.0.0.1:9100";
    let (left, right) = Namespace::pair()?;
    let (users, directory) = (users()?, tempfile::tempdir()?);
    coturn::write_certificates(&left.address().to_string(), directory.path())?;
    let file = |name: &str| directory.path().join(name).display().to_string();
    let host = left.address();
    let server = ours::Server::start(&left, &[])?;
    let mut relay = left.command(env!("CARGO_BIN_EXE_whyrelay"));
    relay.args(["serve", "--listen", &format!("{host}:8443"), "--stun-listen", &format!("{host}:5349")]);
    relay.args(["--tls-cert", &file("server.pem"), "--tls-key", &file("server.key"), "--metrics-listen", METRICS]);
    let relay = Process::start("the relay", relay.arg("--turn-users-file").arg(users.path()))?;
    relay.line(Duration::from_secs(10), |line| line.contains(&format!("https://{host}:8443")))?;
    let mut command = foreign(&right, Role::Answerer, server.url())?;
    command.args(more).env("SSL_CERT_FILE", file("authority.pem"));
    let url = format!("turns:{host}:5349?transport=tcp");
    // Both by one relay: to another one's relayed addresses, which are this machine's own, it would not relay.
    let mut mine = ours::peer(&left, Role::Offerer, server.url());
    mine.args(["--turn", &url, "--turn-user", USER, "--tls-ca", &file("authority.pem")]).env("TURN_PASSWORD", PASSWORD);
    meet(&server, command, mine, "--", &url).with_context(|| relay.account())?;
    let made = server.metric(&left, METRICS, "whyrelay_turn_allocations_total")?;
    ensure!(made > 1, "{made} allocations: {}", relay.account());
    Ok(())
}

/// A foreign peer that may use this relay only, and one of ours.
fn meet(server: &ours::Server, mut command: Command, mut mine: Command, dash: &str, url: &str) -> Result<()> {
    let flags = [["turn", url], ["turn-user", USER], ["hold", "3"]];
    command.args(flags.iter().flat_map(|[name, value]| [format!("{dash}{name}"), (*value).to_owned()]));
    command.arg(format!("{dash}relay-only")).env("TURN_PASSWORD", PASSWORD);
    let theirs = Process::start("the foreign peer", &mut command)?;
    // Its other candidates are the server's own addresses, which that refuses: Chromium, told of nothing else yet, gives
    // up.
    let mine = Process::start("whyrelay", mine.arg("--relay-only"))?;

    let account = Account::of(mine).with_context(|| server.account())?;
    let result = peers::success(theirs).with_context(|| format!("{}\n{}", account.printed, server.account()))?;
    account.must_be_relayed()?;
    // aiortc forgets its pair when we end first; ours remembers.
    let ours = &account.json["selected_pair"]["remote"];
    ensure!(ours["type"] == "relay", "its candidate was not a relayed one: {}", account.printed);
    let theirs = &result["selected"]["local"]["type"];
    ensure!(theirs.is_null() || theirs == "relay", "it was not relayed: {result}");
    ensure!(!result["received"].as_str().unwrap_or_default().is_empty(), "it received nothing from us: {result}");
    Ok(())
}

/// As clouds do: the server has a private address, and its router gives it a public one, port by port.
fn behind_one_to_one_nat() -> Result<()> {
    const PUBLIC: &str = "11.0.113.200";
    let mut internet = Internet::new()?;
    let (cloud, one, two) = (internet.site(Nat::OpenInput)?, internet.site(Nat::Random)?, internet.site(Nat::Random)?);
    let private = cloud.host.address().to_string();
    cloud.router.run(&["address", "add", &format!("{PUBLIC}/24"), "dev", "wan"])?;
    cloud.router.nft(&format!(
        "table ip cloud {{\n\
         chain prerouting {{ type nat hook prerouting priority -101; ip daddr {PUBLIC} dnat to {private}; }}\n\
         chain postrouting {{ type nat hook postrouting priority 99; ip saddr {private} oifname wan snat to {PUBLIC}; }}\n}}\n"
    ))?;
    let users = users()?;
    let file = users.path().display().to_string();
    let external = ["--external-address", PUBLIC, "--turn-users-file", &file, "--public-host", PUBLIC];
    // It prints the URL of its public name.
    let mut command = cloud.host.command(env!("CARGO_BIN_EXE_whyrelay"));
    command.args(["serve", "--listen", &format!("{private}:8080"), "--stun-listen", &format!("{private}:3478")]);
    let server = Process::start("whyrelay serve", command.args(external))?;
    let (url, signal) = (format!("turn:{PUBLIC}:3478"), format!("http://{PUBLIC}:8080"));
    server.line(Duration::from_secs(10), |line| line.contains(&signal))?;

    let mut command = one.host.command(env!("CARGO_BIN_EXE_whyrelay"));
    let arguments = ["--turn", &url, "--turn-user", USER];
    let (json, check) = check_by(command.env("TURN_PASSWORD", PASSWORD), &arguments)?;
    let context = || format!("{}\n{}", check.account, server.account());
    let allocated = rows(&json, "allocation");
    ensure!(allocated.iter().any(|row| row.contains(&format!("relays at {PUBLIC}:"))), "{}", context());
    let echo = measured(&json, "relay-echo").with_context(context)?;
    ensure!(echo["rtt_us"].is_u64(), "nothing came through it: {}", context());
    ensure!(!findings(&json).contains(&"relay-address-private"), "{}", context());

    // Two hosts whose NATs map each destination apart meet by nothing else.
    let start = |host: &Namespace, role: Role| {
        let mut command = ours::peer(host, role, &signal);
        Process::start(role.name(), command.args(["--no-tcp"]))
    };
    let answerer = start(&two.host, Role::Answerer)?;
    let offered = Account::of(start(&one.host, Role::Offerer)?).with_context(|| server.account())?;
    Account::of(answerer)?.must_be_relayed()?;
    offered.must_be_relayed()?;
    let selected = &offered.json["selected_pair"];
    let by_it = ["local", "remote"].iter().any(|side| {
        let address = selected[side]["address"].as_str().unwrap_or_default();
        selected[side]["type"] == "relay" && address.starts_with(PUBLIC)
    });
    ensure!(by_it, "not by the public address: {}", offered.printed);
    Ok(())
}
