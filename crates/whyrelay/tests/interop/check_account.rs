//! The account of `whyrelay check` in networks where something is wrong: each row right, no false alarm, and what was not
//! looked at said to be so. [`check_by`] holds each account against docs/check.schema.json.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::check::{LIMIT, check, check_by, findings, measured, missing, our_server, rows};
use crate::coturn::{Coturn, PASSWORD, Transport, USER};
use crate::namespace::Namespace;
use crate::ours::Server;
use crate::process::Process;
use crate::router::{Internet, Nat};
use crate::suite::{self, Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_account::a_router_that_refuses_udp_is_named_and_is_no_further_hop", &tools, refusing_router);
    suite.test("check_account::the_servers_own_refusal_shows_that_its_ports_get_through", &tools, closed_port);
    suite.test("check_account::a_host_without_a_network_is_told_so_first", &tools, without_network);
    suite.test("check_account::this_hosts_own_firewall_is_told_from_a_silent_server", &tools, own_firewall);
    suite.test("check_account::a_firewall_that_takes_signalings_answers_is_told", &tools, closed_to_everything);
    suite.test("check_account::an_ordinary_user_is_told_what_takes_root", &tools, ordinary_user);
    suite.test("check_account::a_connection_that_does_not_come_about_is_told", &tools, only_web);
    suite.test("check_account::our_own_server_is_tried_over_tcp_and_tls", &tools, tries);
    suite.test("check_account::a_recording_gives_every_account_again", &tools, again);
    suite.test("check_account::a_check_that_is_stopped_says_so_of_what_was_asked", &tools, stopped);
    suite.test("check_account::a_resolver_that_does_not_answer_is_told_from_a_server", &tools, silent_resolver);
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::Turnserver];
    suite.test("check_account::a_url_over_tcp_is_not_asked_over_udp", &tools, tcp_only);
    suite.test("check_account::the_own_firewall_that_drops_what_a_relay_sends_is_told", &tools, relayed_dropped);
    suite.test("check_account::a_relay_at_a_private_address_is_the_first_cause", &tools, private_relay);
    suite.test("check_account::each_transport_of_a_foreign_server_is_tried", &tools, foreign_tries);
}

/// The row of an end point about one transport.
fn reach<'a>(json: &'a Value, end_point: &str, transport: &str) -> &'a str {
    let mut rows = json["rows"].as_array().into_iter().flatten();
    let row = rows.find(|row| row["subject"] == end_point && row["name"] == transport);
    row.and_then(|row| row["value"].as_str()).unwrap_or("no row")
}

/// The first finding's words.
fn first(json: &Value) -> &str {
    json["findings"][0]["summary"].as_str().unwrap_or("nothing was found")
}

fn refusing_router() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    site.router.nft(
        "table ip refuse { chain f { type filter hook forward priority -1; \
         iifname lan meta l4proto udp reject with icmp type admin-prohibited; }\n}\n",
    )?;
    let (json, ours) = check(&site.host, &["--signal", server.url()])?;
    ensure!(findings(&json).first() == Some(&"udp-blocked"), "{}", ours.account);
    let router = site.host.address().to_string().replace(".2", ".1");
    let words = format!("{router}, on the way, refuses it (ICMP 3/13: administratively prohibited)");
    ensure!(first(&json).contains(&words), "{words}: {}", ours.account);
    let udp = reach(&json, "11.0.113.1:3478", "UDP");
    ensure!(udp.contains("on the way, refuses it: administratively prohibited (ICMP 3/13)"), "{udp}: {}", ours.account);
    ensure!(rows(&json, "first router") == [router.as_str()], "{}", ours.account);
    for further in ["second router", "third router", "further router"] {
        ensure!(!rows(&json, further).contains(&router.as_str()), "{further}: {}", ours.account);
    }
    Ok(())
}

/// Nothing listens where STUN should: the server's host says so, and that is no blocked network.
fn closed_port() -> Result<()> {
    let mut internet = Internet::new()?;
    let site = internet.site(Nat::Home)?;
    let (json, ours) = check(&site.host, &["--stun", "stun:11.0.113.1:3478"])?;
    let told = rows(&json, "UDP, servers' ports");
    ensure!(told == ["port 3478: passes (1 of 1; 1 refused by the server itself)"], "{told:?}: {}", ours.account);
    let udp = reach(&json, "11.0.113.1:3478", "UDP");
    ensure!(udp.contains("its host says that nothing listens on the port (ICMP 3/3)"), "{udp}: {}", ours.account);
    ensure!(!findings(&json).contains(&"udp-blocked"), "{}", ours.account);
    Ok(())
}

/// At each moment from before the servers are known to behind the last answer: nothing that was asked is left without a
/// line.
fn stopped() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    // Nothing answers over UDP, so that it takes its whole time.
    let site = internet.site(Nat::NoUdp)?;
    for moment in [0, 30, 150, 400, 900] {
        let mut command = site.host.command(env!("CARGO_BIN_EXE_whyrelay"));
        command.args(["check", "--format", "json", "--signal", server.url(), "--hairpin", "--map"]);
        let check = Process::start("whyrelay check", &mut command)?;
        std::thread::sleep(Duration::from_millis(300 + moment));
        // It may not have come so far as to listen for it: then it ends as any program does.
        check.signal(Signal::SIGINT)?;
        let finished = check.finish(LIMIT)?;
        if finished.status.code().is_none() {
            continue;
        }
        let json: Value = serde_json::from_str(&finished.stdout)?;
        let told = missing(&json);
        let before_servers =
            told.iter().any(|told| told.starts_with("the NAT's behavior, servers and what gets through"));
        for (kind, word) in [
            ("mapping", "mapping for 192.168.1.2"),
            ("filtering", "filtering for 192.168.1.2"),
            ("port-allocation", "ports for 192.168.1.2"),
            ("early-arrival", "early arrival by"),
            ("path-mtu", "largest packets by"),
            ("packet-shape", "WireGuard's shape by"),
            ("hop", "routers on the way to 11.0.113.1:3478"),
        ] {
            let says = |told: &&String| told.contains(word) && told.ends_with("the check was stopped");
            let lines = told.iter().filter(says).count();
            // A test that ended by itself has said why.
            let what = word.split(" by").next().and_then(|word| word.split(" for").next()).unwrap_or(word);
            let by_itself = told.iter().any(|told| told.contains(what) && !told.ends_with("the check was stopped"));
            let is_told = measured(&json, kind).is_some() || before_servers || by_itself || lines == 1;
            ensure!(is_told, "after {moment} ms {kind} has no line: {told:#?}: {}", finished.account);
        }
        for (kind, word) in [("hairpin", "hairpinning"), ("port-mapped", "mapping a port on the router")] {
            let lines = told.iter().filter(|told| told.starts_with(word)).count();
            ensure!(measured(&json, kind).is_some() || lines == 1, "{moment} ms: {kind}: {told:#?}");
        }
        ensure!(measured(&json, "ipv6").is_some(), "{moment} ms: {}", finished.account);
    }
    Ok(())
}

/// The name of the signaling server: nobody answers at the resolver's address.
fn silent_resolver() -> Result<()> {
    let mut internet = Internet::new()?;
    let _server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().display().to_string();
    for (text, words) in [
        ("nameserver 11.0.113.77\n", "cannot resolve signal.example: the resolver did not answer within"),
        // Nothing listens there, which the system knows at once.
        ("nameserver 127.0.0.1\noptions attempts:1\n", "cannot resolve signal.example: the resolver (127.0.0.1) says:"),
    ] {
        std::fs::write(&path, text)?;
        let mut command = site.host.command("sh");
        command.args(["-e", "-c", "mount --bind $0 /etc/resolv.conf; exec \"$@\"", &path]);
        command.arg(env!("CARGO_BIN_EXE_whyrelay"));
        let (json, ours) = check_by(&mut command, &["--signal", "http://signal.example:8080"])?;
        ensure!(findings(&json) == ["server-name-unresolved"], "{}", ours.account);
        ensure!(json["findings"][0]["severity"] == "error", "{}", ours.account);
        ensure!(first(&json).contains(words), "{words}: {}", ours.account);
        ensure!(ours.status.code() == Some(2), "nothing was measured: {}", ours.account);
    }
    Ok(())
}

fn without_network() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    site.host.run(&["link", "set", "eth0", "down"])?;
    for arguments in [["--signal", server.url()], ["--stun", "stun:stun.example.org"]] {
        let (json, ours) = check(&site.host, &arguments)?;
        ensure!(findings(&json) == ["no-usable-address"], "{arguments:?}: {}", ours.account);
        ensure!(first(&json).ends_with("has no network: eth0 is down"), "{}", ours.account);
    }
    // With an address and no route it is this host all the same, and not the server.
    site.host.run(&["link", "set", "eth0", "up"])?;
    let (json, ours) = check(&site.host, &["--signal", server.url()])?;
    ensure!(findings(&json) == ["signaling-failed"] && json["findings"][0]["blame"] == "a", "{}", ours.account);
    ensure!(first(&json).ends_with("(this host has no route to it)"), "{}", ours.account);
    Ok(())
}

/// `whyrelay` on a host, by a user with no privileges at all.
fn without_privileges(host: &Namespace) -> std::process::Command {
    let mut command = host.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    command.arg(env!("CARGO_BIN_EXE_whyrelay"));
    command
}

/// Answers arrive and are dropped here: root sees that, and who may not is told what it would take.
fn own_firewall() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    site.host.nft(
        "table inet own { chain i { type filter hook input priority 0; \
         iifname eth0 meta l4proto udp counter drop; }\n}\n",
    )?;
    let (json, ours) = check(&site.host, &["--signal", server.url()])?;
    ensure!(findings(&json).first() == Some(&"input-firewall-drops"), "{}", ours.account);
    ensure!(json["findings"][0]["blame"] == "a" && first(&json).contains("drop"), "{}", ours.account);
    ensure!(!findings(&json).contains(&"stun-server-silent"), "it has a cause: {}", ours.account);
    let (json, ours) = check_by(&mut without_privileges(&site.host), &["--signal", server.url()])?;
    ensure!(!findings(&json).contains(&"input-firewall-drops"), "{}", ours.account);
    let told = missing(&json);
    let says = |told: &String| told.contains("own firewall drops") || told.contains("input-firewall-drops");
    let says = |told: &String| says(told) && told.contains("needs CAP_NET_RAW");
    ensure!(told.iter().any(says), "{told:#?}: {}", ours.account);
    Ok(())
}

/// Signaling is asked over TCP, and its answers arrive as well.
fn closed_to_everything() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    site.host
        .nft("table inet own { chain i { type filter hook input priority 0; policy drop; iifname lo accept; }\n}\n")?;
    let (json, ours) = check(&site.host, &["--signal", server.url()])?;
    ensure!(findings(&json) == ["input-firewall-drops"], "{}", ours.account);
    ensure!(first(&json).contains(server.url()) && first(&json).contains("policy drop"), "{}", ours.account);
    let advice = json["findings"][0]["advice"].to_string();
    ensure!(advice.contains("ct state established,related accept"), "{advice}: {}", ours.account);
    // A server that is not there is none of this host's firewall's doing.
    let (json, ours) = check(&site.host, &["--signal", "http://11.0.113.77:8080"])?;
    ensure!(findings(&json) == ["signaling-failed"], "{}", ours.account);
    ensure!(json["findings"][0]["blame"] == "signaling", "{}", ours.account);
    Ok(())
}

/// The server's own port is let in, its relayed ports are not: by a rule on input, and by one at the device.
fn relayed_dropped() -> Result<()> {
    let mut internet = Internet::new()?;
    let coturn = Coturn::start(&internet.server)?;
    let site = internet.site(Nat::Home)?;
    let (_file, password) = password_file()?;
    let url = coturn.url(Transport::Udp);
    let arguments = ["--turn", &url, "--turn-user", USER, "--turn-password-file", &password];
    for (family, hook) in [("inet", "input"), ("netdev", "ingress device eth0")] {
        site.host.nft(&format!(
            "table {family} own {{ chain i {{ type filter hook {hook} priority 0; udp sport 49152-65535 counter drop; }}\n}}\n"
        ))?;
        let (json, ours) = check(&site.host, &arguments)?;
        ensure!(findings(&json) == ["input-firewall-drops"], "{}", ours.account);
        ensure!(json["findings"][0]["blame"] == "a" && first(&json).contains("drop"), "{}", ours.account);
        site.host.nft(&format!("delete table {family} own\n"))?;
    }
    let (json, ours) = check(&site.host, &arguments)?;
    ensure!(json["healthy"] == true && findings(&json).is_empty(), "{}", ours.account);
    Ok(())
}

fn ordinary_user() -> Result<()> {
    let (file, password) = password_file()?;
    file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    let unprivileged = || without_privileges(&site.host);
    let mut command = unprivileged();
    let (json, ours) = check_by(&mut command, &["--signal", server.url()])?;
    let (as_root, by_root) = check(&site.host, &["--signal", server.url()])?;
    // What takes no root is the same.
    for name in ["mapping", "filtering", "early arrival", "UDP, servers' ports", "authentication", "NATs in front"] {
        // How many destinations were compared is told in brackets.
        let told = |json: &Value| rows(json, name).iter().map(|row| row.split('(').next().map(str::to_owned)).collect();
        let (one, two): (Vec<_>, Vec<_>) = (told(&json), told(&as_root));
        ensure!(one == two && !one.is_empty(), "{name}: {one:?} {two:?}: {}", ours.account);
    }
    ensure!(json["healthy"] == true, "{}", ours.account);
    let told = missing(&json);
    ensure!(told.iter().any(|told| told.contains("needs CAP_NET_RAW")), "{told:#?}: {}", ours.account);
    ensure!(!missing(&as_root).iter().any(|told| told.contains("CAP_")), "{}", by_root.account);
    // A mark takes more, and then nothing at all is said of the network.
    let mut command = unprivileged();
    let (json, ours) = check_by(&mut command, &["--signal", server.url(), "--mark", "0x1bd00"])?;
    let told = missing(&json);
    let says = |told: &String| told.contains("sockets with the mark 0x1bd00") && told.contains("it takes root");
    ensure!(told.iter().any(says), "{told:#?}: {}", ours.account);
    ensure!(!told.iter().any(|told| told.contains("no route")), "{told:#?}: {}", ours.account);
    ensure!(measured(&json, "ipv6").is_some(), "{}", ours.account);
    // What was asked for is told of, and what needs no socket is done.
    let asked = ["--hairpin", "--map", "--lifetime", "15s", "--mark", "0x1bd00"];
    let turn = ["--turn", "turn:11.0.113.1:3478", "--turn-user", "9999999999:alice", "--turn-password-file", &password];
    let (json, ours) = check_by(&mut unprivileged(), &[&asked[..], &turn].concat())?;
    let told = missing(&json);
    for what in ["hairpinning", "the lifetime of an idle mapping", "mapping a port on the router"] {
        let says = |told: &&String| told.starts_with(&format!("{what}: it takes root"));
        ensure!(told.iter().filter(says).count() == 1, "{what}: {told:#?}: {}", ours.account);
    }
    ensure!(measured(&json, "timed-credentials").is_some(), "{}", ours.account);
    let mut command = unprivileged();
    let (json, ours) = check_by(&mut command, &["--signal", server.url(), "--as", "mark=0x1bd00"])?;
    ensure!(rows(&json, "sockets").is_empty(), "they had no mark: {}", ours.account);
    let (json, by_root) = check(&site.host, &["--signal", server.url(), "--as", "mark=0x1bd00"])?;
    ensure!(rows(&json, "sockets") == ["mark 0x1bd00"], "{}", by_root.account);
    Ok(())
}

/// A network that lets the web and our signaling out, and swallows the rest.
fn only_web() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    site.router.nft(
        "table ip web { chain f { type filter hook forward priority -1; iifname lan meta l4proto udp drop; \
         iifname lan tcp dport != { 80, 443, 8080 } drop; }\n}\n",
    )?;
    let (json, ours) = check(&site.host, &["--signal", server.url()])?;
    let told = rows(&json, "allocation");
    ensure!(told.len() == 2 && told.iter().all(|told| told.starts_with("no answer")), "{told:?}: {}", ours.account);
    let tcp = reach(&json, "11.0.113.1:3478", "TCP");
    ensure!(tcp.starts_with("no answer within"), "{tcp}: {}", ours.account);
    ensure!(findings(&json).contains(&"turn-server-unreachable"), "{}", ours.account);
    Ok(())
}

/// Files of a certificate for the server's address, and of a secret.
fn certificate(directory: &tempfile::TempDir) -> Result<[String; 3]> {
    let certified = rcgen::generate_simple_self_signed(vec!["11.0.113.1".to_owned()])?;
    let path = |name: &str| directory.path().join(name).display().to_string();
    let [own, key, secret] = [path("own.pem"), path("key.pem"), path("secret")];
    std::fs::write(&own, certified.cert.pem())?;
    std::fs::write(&key, certified.signing_key.serialize_pem())?;
    std::fs::write(&secret, "north\n")?;
    Ok([own, key, secret])
}

/// As the operator's manual has it: a URL without a transport.
fn tries() -> Result<()> {
    let mut internet = Internet::new()?;
    let directory = tempfile::tempdir()?;
    let [own, key, secret] = certificate(&directory)?;
    let arguments = ["--tls-cert", &own, "--tls-key", &key, "--turn-secret-file", &secret];
    let _server = Server::start(&internet.server, &arguments)?;
    let site = internet.site(Nat::Home)?;
    let turn = ["--turn", "turn:11.0.113.1:3478", "--turn-secret-file", &secret];
    let (json, ours) = check(&site.host, &[&turn[..], &["--tls-ca", &own]].concat())?;
    let told = |transport: &str| reach(&json, "11.0.113.1:3478", transport);
    ensure!(told("UDP").starts_with("answers in") && !told("UDP").contains("a try"), "{}", ours.account);
    for transport in ["TCP", "TLS"] {
        let told = told(transport);
        ensure!(told.starts_with("answers in") && told.contains("a try"), "{transport}: {told}: {}", ours.account);
    }
    let usual = reach(&json, "11.0.113.1:5349", "TLS");
    ensure!(usual.contains("refused") && usual.contains("it need not be offered"), "{usual}: {}", ours.account);
    ensure!(json["healthy"] == true && ours.status.success(), "a try is no alarm: {}", ours.account);
    // A certificate that nobody vouches for, where no URL says TLS, is told and is no finding.
    let (json, ours) = check(&site.host, &turn)?;
    let told = reach(&json, "11.0.113.1:3478", "TLS");
    ensure!(told.contains("UnknownIssuer") && told.contains("a try"), "{told}: {}", ours.account);
    ensure!(json["healthy"] == true && ours.status.success(), "a try is no alarm: {}", ours.account);
    // Where a URL names it, it is one.
    let turns = ["--turn", "turns:11.0.113.1:3478", "--turn-secret-file", &secret];
    let (json, ours) = check(&site.host, &turns)?;
    ensure!(findings(&json).first() == Some(&"turn-tls-failed"), "{}", ours.account);
    Ok(())
}

fn password_file() -> Result<(tempfile::NamedTempFile, String)> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), PASSWORD)?;
    let path = file.path().display().to_string();
    Ok((file, path))
}

/// The server's firewall drops UDP, which its URL does not name: nobody is to blame.
fn tcp_only() -> Result<()> {
    let mut internet = Internet::new()?;
    let coturn = Coturn::start(&internet.server)?;
    internet.server.nft("table inet f { chain f { type filter hook input priority 0; udp dport 3478 drop; }\n}\n")?;
    let site = internet.site(Nat::Home)?;
    let (_file, password) = password_file()?;
    let url = coturn.url(Transport::Tcp);
    let (json, ours) = check(&site.host, &["--turn", &url, "--turn-user", USER, "--turn-password-file", &password])?;
    let context = || format!("{}\n{}", ours.account, coturn.log());
    ensure!(reach(&json, "11.0.113.1:3478", "UDP") == "no row", "{}", context());
    ensure!(reach(&json, "11.0.113.1:3478", "TCP").starts_with("answers in"), "{}", context());
    ensure!(rows(&json, "UDP, servers' ports").is_empty(), "{}", context());
    ensure!(findings(&json).is_empty() && json["healthy"] == true, "a false alarm: {}", context());
    let told = missing(&json);
    ensure!(told.iter().any(|told| told.starts_with("UDP to 11.0.113.1: no URL names it")), "{told:?}: {}", context());
    ensure!(told.iter().any(|told| told.starts_with("the NAT's behavior")), "{told:?}: {}", context());
    // Where the network lets no UDP out either, nothing that was asked tells that.
    let site = internet.site(Nat::NoUdp)?;
    let trust = coturn.authority().display().to_string();
    for url in [url, coturn.url(Transport::Tls)] {
        let arguments = ["--turn", &url, "--turn-user", USER, "--turn-password-file", &password, "--tls-ca", &trust];
        let (json, ours) = check(&site.host, &arguments)?;
        let context = || format!("{url}: {}\n{}", ours.account, coturn.log());
        ensure!(rows(&json, "allocation").iter().any(|told| told.starts_with("relays at")), "{}", context());
        ensure!(rows(&json, "UDP, random high port").is_empty(), "{}", context());
        let third = rows(&json, "third party, high port");
        ensure!(third.iter().all(|told| told.starts_with("not measured")), "{third:?}: {}", context());
        ensure!(!ours.stdout.contains("nothing of "), "{}", context());
        let told = missing(&json);
        ensure!(told.iter().any(|told| told.starts_with("UDP to 11.0.113.1: no URL names it")), "{}", context());
        ensure!(json["healthy"] == true && json["known"] == false, "{}", context());
    }
    Ok(())
}

/// A server that was not told its public address: nothing that is sent to the relay arrives, and UDP is not blocked.
fn private_relay() -> Result<()> {
    let mut internet = Internet::new()?;
    internet.server.run(&["address", "add", "10.66.0.1/24", "dev", "br0"])?;
    let mut command = internet.server.command(suite::path("TURNSERVER")?);
    command.args(["-n", "-L", "11.0.113.1", "-E", "10.66.0.1", "-p", "3478", "-a", "-u"]);
    command.args([&format!("{USER}:{PASSWORD}"), "-r", "whyrelay.test", "--no-tls", "--no-dtls", "--no-cli"]);
    command.args(["--log-file", "stdout", "--simple-log", "-v", "--pidfile", "/dev/null"]);
    let coturn = Process::start("turnserver", &mut command)?;
    coturn.line(Duration::from_secs(15), |line| line.contains("UDP listener opened on: 11.0.113.1:3478"))?;
    let site = internet.site(Nat::Home)?;
    let (_file, password) = password_file()?;
    let turn = ["--turn", "turn:11.0.113.1:3478", "--turn-user", USER, "--turn-password-file", &password];
    let (json, ours) = check(&site.host, &[&turn[..], &["--lifetime", "15s"]].concat())?;
    let context = || format!("{}\n{}", ours.account, coturn.account());
    ensure!(findings(&json) == ["relay-address-private"], "{}", context());
    ensure!(rows(&json, "UDP, random high port").is_empty(), "{}", context());
    let told = missing(&json);
    ensure!(told.iter().any(|told| told.contains("cannot be reached from outside")), "{told:?}: {}", context());
    let lifetime = "the lifetime of an idle mapping of 192.168.1.2: the relay's address cannot be reached";
    ensure!(told.iter().any(|told| told == lifetime), "{told:?}: {}", context());
    Ok(())
}

/// coturn has TLS where RFC 8489 has it, with an authority of its own.
fn foreign_tries() -> Result<()> {
    let mut internet = Internet::new()?;
    let coturn = Coturn::start(&internet.server)?;
    let site = internet.site(Nat::Home)?;
    let (_file, password) = password_file()?;
    let (url, authority) = (coturn.url(Transport::Udp), coturn.authority().display().to_string());
    let arguments = ["--turn", &url, "--turn-user", USER, "--turn-password-file", &password, "--tls-ca", &authority];
    let (json, ours) = check(&site.host, &arguments)?;
    for (end_point, transport) in [("11.0.113.1:3478", "TCP"), ("11.0.113.1:5349", "TLS")] {
        let told = reach(&json, end_point, transport);
        ensure!(told.starts_with("answers in") && told.contains("a try"), "{transport}: {told}: {}", ours.account);
    }
    ensure!(json["healthy"] == true, "{}\n{}", ours.account, coturn.log());
    Ok(())
}

/// Behind each of these the recording's account is the live one, byte for byte.
fn again() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let far = |host: &Namespace| recorded_again(host, &["--signal", server.url()]);
    for nat in [Nat::None, Nat::Home, Nat::Random, Nat::NoUdp] {
        far(&internet.site(nat)?.host)?;
    }
    for network in [[192, 168, 5], [100, 64, 5]] {
        let site = internet.site_at(Nat::Home, network)?;
        far(&site.behind()?)?;
    }
    let site = internet.site(Nat::Home)?;
    recorded_again(&site.host, &[])?;
    recorded_again(&site.host, &["--stun", "stun:nowhere.invalid", "--hairpin"])?;
    site.host.run(&["link", "set", "eth0", "down"])?;
    far(&site.host)
}

fn recorded_again(host: &Namespace, arguments: &[&str]) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().display().to_string();
    let (_, ours) = check(host, &[arguments, &["--record", &path]].concat())?;
    let mut command = host.command(env!("CARGO_BIN_EXE_whyrelay"));
    let report =
        Process::start("whyrelay report", command.args(["report", "--format", "json", &path]))?.finish(LIMIT)?;
    ensure!(report.stdout == ours.stdout, "the recording's account differs: {}\n{}", ours.account, report.account);
    Ok(())
}
