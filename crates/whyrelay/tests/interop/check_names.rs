//! `whyrelay check` and servers' names: those that are slow or not answered hold up nothing, each address family of a name
//! is asked, and what is too much is said.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::check::{behavior, check, check_by, findings, measured, missing, our_server_with, rows};
use crate::check_loss::{known_after, recorded};
use crate::resolver::{Name, Resolver, asking};
use crate::router::{Internet, Nat, SERVER, Site};
use crate::suite::{Suite, Tool};

/// The resolver's address, on the host itself.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

/// The server's second family.
const SERVER_6: &str = "2a11:1::1";

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_names::a_name_that_is_not_resolved_holds_up_no_other_server", &tools, silent);
    suite.test("check_names::silence_of_everything_takes_less_than_three_seconds", &tools, all_silent);
    suite.test("check_names::a_server_whose_name_is_resolved_late_is_asked_all_the_same", &tools, late);
    suite.test("check_names::both_families_of_a_turn_server_are_tried_and_told", &tools, both_families);
    suite.test("check_names::servers_that_are_too_many_are_said_to_be_unasked", &tools, too_many);
}

/// A check that is recorded: its account, and from the recording's clock when mapping and filtering were known and when
/// all was over.
struct Timed {
    json: Value,
    account: String,
    known: Duration,
    whole: Duration,
}

fn timed(site: &Site, arguments: &[&str]) -> Result<Timed> {
    let (file, resolv) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    let path = file.path().display().to_string();
    let mut command = asking(&site.host, RESOLVER, resolv.path())?;
    let (json, ours) = check_by(&mut command, &[arguments, &["--record", &path]].concat())?;
    let bytes = std::fs::read(file.path())?;
    let known = known_after(&bytes).with_context(|| ours.account.clone())?;
    Ok(Timed { json, known, whole: recorded(&bytes)?, account: ours.account })
}

/// By the server that has an address, mapping and filtering are known within the second that the resolver is given.
fn silent() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server_with(&internet, &[])?;
    let site = internet.site(Nat::Home)?;
    let _resolver = Resolver::start(&site.host, RESOLVER, &[("silent.example", Name::Silent)])?;
    for silent in [["--stun", "stun:silent.example"], ["--turn", "turn:silent.example"]] {
        // The one that waits for its name stands first.
        let check = timed(&site, &[&silent[..], &["--stun", "stun:11.0.113.1:3478"]].concat())?;
        let context = || format!("{}\n{}", check.account, server.account());
        ensure!(behavior(&check.json, "mapping") == "endpoint-independent", "{}", context());
        ensure!(behavior(&check.json, "filtering") == "address-and-port-dependent", "{}", context());
        println!("known after {} ms, {} ms in all", check.known.as_millis(), check.whole.as_millis());
        ensure!(check.known < Duration::from_secs(1), "known after {:?}: {}", check.known, context());
        ensure!(check.whole < Duration::from_secs(3), "{:?} in all: {}", check.whole, context());
        let named = rows(&check.json, "name");
        ensure!(named == ["the resolver did not answer within 1 s"], "{named:?}: {}", context());
        for kind in ["early-arrival", "third-party", "path-mtu", "packet-shape", "clock"] {
            ensure!(measured(&check.json, kind).is_some(), "{kind} is missing: {}", context());
        }
    }
    Ok(())
}

/// UDP that is blocked, servers that are dead over everything, a name that nobody resolves, and the router's silence: each
/// waits beside the others.
fn all_silent() -> Result<()> {
    let mut internet = Internet::new()?;
    let _server = our_server_with(&internet, &[])?;
    let site = internet.site(Nat::NoUdp)?;
    let _resolver = Resolver::start(&site.host, RESOLVER, &[("silent.example", Name::Silent)])?;
    let servers = [
        ["--stun", "stun:silent.example"],
        ["--turn", "turns:silent.example"],
        ["--stun", "stun:11.0.113.1:3478"],
        ["--stun", "stun:11.0.113.77:3478"],
        ["--turn", "turn:11.0.113.78:3478"],
        ["--turn", "turn:11.0.113.79:3478?transport=tcp"],
        ["--turn", "turns:11.0.113.80"],
        ["--signal", "http://11.0.113.81:8080"],
    ];
    let (file, resolv) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    let path = file.path().display().to_string();
    let mut command = asking(&site.host, RESOLVER, resolv.path())?;
    let (json, ours) = check_by(&mut command, &[&servers.concat()[..], &["--record", &path]].concat())?;
    let whole = recorded(&std::fs::read(file.path())?)?;
    println!("{} ms in all", whole.as_millis());
    ensure!(whole < Duration::from_secs(3), "{whole:?} in all: {}", ours.account);
    ensure!(findings(&json).contains(&"udp-blocked"), "{:?}: {}", findings(&json), ours.account);
    Ok(())
}

/// The second server is known when the first has long answered.
fn late() -> Result<()> {
    let mut internet = Internet::new()?;
    let users = tempfile::NamedTempFile::new()?;
    std::fs::write(users.path(), "alice:wonderland\n")?;
    let listen = format!("{}:3500", SERVER[1]);
    let users = users.path().display().to_string();
    let server = our_server_with(&internet, &["--stun-listen", &listen, "--turn-users-file", &users])?;
    let site = internet.site(Nat::Home)?;
    let at = [IpAddr::from(SERVER[1])];
    let slow = [("slow.example", Name::Slow(Duration::from_millis(250), &at))];
    let _resolver = Resolver::start(&site.host, RESOLVER, &slow)?;
    let password = tempfile::NamedTempFile::new()?;
    std::fs::write(password.path(), "wonderland\n")?;
    let password = password.path().display().to_string();
    let turn = ["--turn", "turn:slow.example:3500", "--turn-user", "alice", "--turn-password-file", &password];
    let check = timed(&site, &[&["--stun", "stun:11.0.113.1:3478"][..], &turn].concat())?;
    let context = || format!("{}\n{}", check.account, server.account());
    ensure!(behavior(&check.json, "mapping") == "endpoint-independent", "{}", context());
    ensure!(rows(&check.json, "name") == [SERVER[1].to_string()], "{}", context());
    let allocated = rows(&check.json, "allocation");
    ensure!(allocated.len() == 1 && allocated[0].starts_with("relays at"), "{allocated:?}: {}", context());
    let seen = rows(&check.json, "mapped address");
    let by_late = format!("as seen by {listen}");
    ensure!(seen.iter().any(|row| row.contains(&by_late)), "{seen:?}: {}", context());
    let udp = rows(&check.json, "UDP, servers' ports");
    ensure!(udp.len() == 1 && udp[0].contains("2 of 2"), "{udp:?}: {}", context());
    ensure!(check.json["healthy"] == true, "{}", context());
    Ok(())
}

/// The host and the server have both families, and one of them is dead, in turn; or none is.
fn both_families() -> Result<()> {
    let mut internet = Internet::new()?;
    internet
        .server
        .shell(&format!("ip -6 address add {SERVER_6}/64 dev br0 nodad; ip -6 route add 2a11:2::/64 via 2a11:1::f"))?;
    let site = internet.site(Nat::Home)?;
    site.router.shell(
        "sysctl -qw net.ipv6.conf.all.forwarding=1; ip -6 address add 2a11:1::f/64 dev wan nodad;
         ip -6 address add 2a11:2::1/64 dev lan nodad",
    )?;
    site.host.shell("ip -6 address add 2a11:2::2/64 dev eth0 nodad; ip -6 route add default via 2a11:2::1")?;
    let users = tempfile::NamedTempFile::new()?;
    std::fs::write(users.path(), "alice:wonderland\n")?;
    let (users, listen) = (users.path().display().to_string(), format!("[{SERVER_6}]:3478"));
    let server = our_server_with(&internet, &["--stun-listen", &listen, "--turn-users-file", &users])?;
    let at = [IpAddr::from(SERVER[0]), SERVER_6.parse()?];
    let _resolver = Resolver::start(&site.host, RESOLVER, &[("turn.example", Name::At(&at))])?;
    let (password, resolv) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    std::fs::write(password.path(), "wonderland\n")?;
    let password = password.path().display().to_string();
    for transport in ["udp", "tcp"] {
        let url = format!("turn:turn.example:3478?transport={transport}");
        let arguments = ["--turn", &url, "--turn-user", "alice", "--turn-password-file", &password];
        for dead in [None, Some("IPv4"), Some("IPv6")] {
            let family = if dead == Some("IPv4") { "ip" } else { "ip6" };
            if dead.is_some() {
                internet.server.nft(&format!(
                    "table {family} dead {{ chain f {{ type filter hook input priority 0; \
                     meta l4proto {{ udp, tcp }} th dport 3478 drop; }}\n}}\n"
                ))?;
            }
            let (json, ours) = check_by(&mut asking(&site.host, RESOLVER, resolv.path())?, &arguments)?;
            if dead.is_some() {
                internet.server.nft(&format!("delete table {family} dead\n"))?;
            }
            let context = || format!("{transport}, dead: {dead:?}: {}\n{}", ours.account, server.account());
            let told = rows(&json, "allocation");
            for family in ["IPv4", "IPv6"] {
                let of = |row: &&&str| row.starts_with(&format!("over {family}: "));
                let row =
                    told.iter().find(of).with_context(|| format!("no row of {family}: {told:?}: {}", context()))?;
                let works = row.contains(": relays at ");
                ensure!(works == (dead != Some(family)), "{row}: {}", context());
                let echo = rows(&json, "permission and echo")
                    .iter()
                    .any(|row| row.starts_with(&format!("over {family}: through ")));
                ensure!(echo == works, "echo over {family}: {}", context());
            }
            let silent =
                findings(&json).iter().any(|name| ["stun-server-silent", "turn-server-unreachable"].contains(name));
            // Also where the other family's allocation shows that the server works: who has this one alone has no relay.
            ensure!(silent == dead.is_some(), "{:?}: {}", findings(&json), context());
        }
    }
    Ok(())
}

/// The seventeenth, and the ninth at one NAT.
fn too_many() -> Result<()> {
    let mut internet = Internet::new()?;
    let _server = our_server_with(&internet, &[])?;
    let site = internet.site(Nat::Home)?;
    let urls: Vec<String> = (0..17).map(|n| format!("stun:11.0.113.1:{}", 3478 + n)).collect();
    let arguments: Vec<&str> = urls.iter().flat_map(|url| ["--stun", url]).collect();
    let (json, ours) = check(&site.host, &arguments)?;
    let told = missing(&json);
    let why = "a check looks at 16 servers: make another for the rest";
    ensure!(told.contains(&format!("{}: {why}", urls[16])), "{told:#?}: {}", ours.account);
    ensure!(told.iter().filter(|told| told.ends_with(why)).count() == 1, "{told:#?}: {}", ours.account);
    let unasked = told.iter().filter(|told| told.contains("only 8 servers of each address family")).count();
    ensure!(unasked >= 8, "{told:#?}: {}", ours.account);
    Ok(())
}
