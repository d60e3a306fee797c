//! What the laboratory's routers and cables do to single packets, between real kernels: plain sockets in its namespaces.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use whyrelay_lab::kernel::{Lab, Plan, RouterChoice};
use whyrelay_lab::scenario::{Scenario, Topology};

use super::strangers::SERVER;
use crate::suite::{Suite, Tool, each};

/// How long a packet is waited for that must come, and one that must not.
const COMES: Duration = Duration::from_secs(5);
const COMES_NOT: Duration = Duration::from_millis(500);
/// A port of the server where nothing else is.
const PORT: u16 = 9000;
/// The port of both hosts.
const SAME: u16 = 40_000;

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("lab::two_hosts_behind_one_nat_may_use_one_port", &tools, one_port);
    suite.test("lab::routers_carry_fragments", &tools, fragments);
    suite.test("lab::a_router_that_accepts_input_says_that_a_port_is_closed", &tools, accepts_input);
    suite.test("lab::what_comes_in_keeps_a_mapping_whoever_translates", &tools, kept_by_inbound);
    suite.test("lab::a_pool_of_addresses_is_dealt_out_whoever_translates", &tools, pool);
    suite.test("lab::an_early_packet_is_remembered_as_long_whoever_translates", &tools, early);
    suite.test("lab::a_server_that_answers_late_hears_in_time", &tools, answers_late);
    suite.test("lab::a_cable_does_to_packets_what_its_link_says", &tools, cables);
}

fn topology(text: &str) -> Result<Topology> {
    Ok(Scenario::parse("packets", &format!("title = \"packets\"\n{text}[expect]\npath = \"direct\"\n"))?.topology)
}

/// A socket on a node of a lab, and then elsewhere.
fn socket(lab: &Lab, node: &str, address: impl Into<IpAddr>, port: u16) -> Result<UdpSocket> {
    let address = SocketAddr::new(address.into(), port);
    let opened = lab.enter(node, || Ok(UdpSocket::bind(address)))?.with_context(|| format!("opening {address}"))?;
    opened.set_read_timeout(Some(COMES))?;
    Ok(opened)
}

fn address_of(topology: &Topology, host: &str) -> Result<IpAddr> {
    topology.host(host).and_then(|host| host.addresses().next()).context("the host has no address")
}

/// Sends something and answers where it is seen to come from.
fn seen(from: &UdpSocket, at: &UdpSocket, bytes: &[u8]) -> Result<SocketAddr> {
    from.send_to(bytes, at.local_addr()?)?;
    let mut buffer = [0; 65_536];
    let (length, source) = at.recv_from(&mut buffer).context("nothing came")?;
    ensure!(buffer[..length] == *bytes, "{length} bytes came instead of {}", bytes.len());
    Ok(source)
}

/// Answers, and sees that the answer comes to the right socket.
fn answers(from: &UdpSocket, to: SocketAddr, at: &UdpSocket) -> Result<()> {
    from.send_to(b"answer", to)?;
    let mut buffer = [0; 64];
    let (_, source) = at.recv_from(&mut buffer).with_context(|| format!("no answer by {to}"))?;
    ensure!(source == from.local_addr()?, "the answer comes from {source}");
    Ok(())
}

/// RFC 4787 §4.2.1: preserving with overloading, as Linux does it, and without.
fn one_port() -> Result<()> {
    let runs = [(true, RouterChoice::Kernel), (true, RouterChoice::UserSpace), (false, RouterChoice::Kernel)];
    each(&runs, runs.len(), |(overloading, choice)| {
        let text = format!(
            "[router.home]\noverloading = {overloading}\n[host.a]\nbehind = \"home\"\n[host.b]\nbehind = \"home\"\n"
        );
        let topology = topology(&text)?;
        let plan = Plan::of(&topology, *choice)?;
        // Linux overloads whatever a scenario says.
        let by_linux = *overloading && *choice == RouterChoice::Kernel;
        ensure!(plan.in_user_space().is_empty() == by_linux, "{:?} in user space", plan.in_user_space());
        let lab = Lab::up(plan)?;
        let [first, second] = SERVER.map(|address| socket(&lab, "server", address.parse::<IpAddr>()?, PORT));
        let (first, second) = (first?, second?);
        let [a, b] = ["a", "b"].map(|host| socket(&lab, host, address_of(&topology, host)?, SAME));
        let (a, b) = (a?, b?);
        let one = seen(&a, &first, b"a")?;
        ensure!(one.port() == SAME, "the first one keeps its port: {one}");
        let (elsewhere, clash) = (seen(&b, &second, b"b")?, seen(&b, &first, b"b again")?);
        ensure!(clash.port() != SAME, "two hosts have {clash} toward one destination");
        let expected = if *overloading { one } else { clash };
        ensure!(elsewhere == expected, "overloading {overloading}: {elsewhere} elsewhere, and {clash}");
        answers(&first, one, &a)?;
        answers(&first, clash, &b)?;
        answers(&second, elsewhere, &b)
    })
}

/// RFC 4787 §6: where packets of both directions refresh a mapping, it also lets others in for as long as something comes.
fn kept_by_inbound() -> Result<()> {
    let runs = [
        ("endpoint-independent", RouterChoice::Kernel),
        ("endpoint-independent", RouterChoice::UserSpace),
        ("address-dependent", RouterChoice::Kernel),
        ("address-dependent", RouterChoice::UserSpace),
    ];
    each(&runs, runs.len(), |(filtering, choice)| {
        let text = format!(
            "[router.r]\nfiltering = {filtering:?}\nrefresh = \"both\"\nlifetime = \"2s\"\n[host.a]\nbehind = \"r\"\n[host.b]\n"
        );
        let topology = topology(&text)?;
        let plan = Plan::of(&topology, *choice)?;
        ensure!(plan.in_user_space().is_empty() == (*choice == RouterChoice::Kernel), "{:?}", plan.in_user_space());
        let lab = Lab::up(plan)?;
        let server = |port| socket(&lab, "server", SERVER[0].parse::<IpAddr>()?, port);
        let (known, stranger) = (server(PORT)?, server(PORT + 1)?);
        let a = socket(&lab, "a", address_of(&topology, "a")?, SAME)?;
        let mapped = seen(&a, &known, b"a")?;
        // Twice the lifetime, by packets from outside alone.
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(500));
            answers(&known, mapped, &a).with_context(|| format!("{filtering}, {choice:?}"))?;
        }
        answers(&stranger, mapped, &a).with_context(|| format!("another's, {filtering}, {choice:?}"))
    })
}

/// RFC 4787 §4.1: hosts have addresses of the pool in turn, and each keeps its own ("paired").
fn pool() -> Result<()> {
    let runs = [RouterChoice::Kernel, RouterChoice::UserSpace, RouterChoice::AsDescribed];
    each(&runs, runs.len(), |choice| {
        let hosts =
            "[router.r]\naddresses = 2\n[host.a]\nbehind = \"r\"\n[host.b]\nbehind = \"r\"\n[host.c]\nbehind = \"r\"\n";
        let topology = topology(hosts)?;
        let external: Vec<IpAddr> = topology.routers[0].external().collect();
        let lab = Lab::up(Plan::of(&topology, *choice)?)?;
        let [first, second] = SERVER.map(|address| socket(&lab, "server", address.parse::<IpAddr>()?, PORT));
        let (first, second) = (first?, second?);
        for (host, expected) in [("a", external[0]), ("b", external[1]), ("c", external[0])] {
            let own = socket(&lab, host, address_of(&topology, host)?, SAME)?;
            for server in [&first, &second] {
                let mapped = seen(&own, server, b"which?")?;
                ensure!(mapped.ip() == expected, "{choice:?}: {host} is seen at {mapped}, expected {expected}");
                answers(server, mapped, &own)?;
            }
        }
        Ok(())
    })
}

/// Linux tracks what came to the router itself for 30 s (nf_conntrack_udp_timeout), however long its mappings live: as long
/// nobody inside has that port toward who sent it.
fn early() -> Result<()> {
    let runs = [RouterChoice::Kernel, RouterChoice::UserSpace];
    each(&runs, runs.len(), |choice| {
        let topology = topology("[router.r]\npreset = \"linux-input-accept\"\n[host.a]\nbehind = \"r\"\n[host.b]\n")?;
        let outside = topology.routers[0].external().next().context("the router has no address")?;
        let lab = Lab::up(Plan::of(&topology, *choice)?)?;
        let server = socket(&lab, "server", SERVER[0].parse::<IpAddr>()?, PORT)?;
        let from = |port| socket(&lab, "a", address_of(&topology, "a")?, port);
        // A host keeps the port that it once got: each packet is for another.
        let (soon, later) = (SAME, SAME + 1);
        // Neighbors are known then: an early packet that waits for one is none.
        seen(&from(SAME + 2)?, &server, b"first")?;
        for port in [soon, later] {
            server.send_to(b"early", (outside, port))?;
        }
        std::thread::sleep(Duration::from_millis(300));
        let mapped = seen(&from(soon)?, &server, b"soon")?;
        ensure!(mapped.port() != soon, "{choice:?}: {mapped} although an early packet has its port");
        std::thread::sleep(Duration::from_secs(31));
        let mapped = seen(&from(later)?, &server, b"later")?;
        ensure!(mapped.port() == later, "{choice:?}: {mapped} although the early packet is 31 s old");
        Ok(())
    })
}

/// As in virtual time: what the server is sent is not late, what it sends is, once.
fn answers_late() -> Result<()> {
    let topology = topology("[host.a]\n[host.b]\n[server]\nanswers-after = \"600ms\"\n")?;
    let lab = Lab::up(Plan::of(&topology, RouterChoice::AsDescribed)?)?;
    let server = socket(&lab, "server", SERVER[0].parse::<IpAddr>()?, PORT)?;
    let a = socket(&lab, "a", address_of(&topology, "a")?, SAME)?;
    // Neighbors are known then.
    let from = seen(&a, &server, b"first")?;
    let began = Instant::now();
    seen(&a, &server, b"question")?;
    let question = began.elapsed();
    answers(&server, from, &a)?;
    let both = began.elapsed();
    ensure!(question < Duration::from_millis(300), "the server heard after {question:?}");
    ensure!((Duration::from_millis(600)..Duration::from_millis(1100)).contains(&both), "there and back in {both:?}");
    Ok(())
}

fn fragments() -> Result<()> {
    let choices = [RouterChoice::Kernel, RouterChoice::UserSpace];
    each(&choices, choices.len(), |choice| {
        let topology = topology("[host.a]\nbehind = [\"home-router\", \"home-router\"]\n[host.b]\n")?;
        let lab = Lab::up(Plan::of(&topology, *choice)?)?;
        let server = socket(&lab, "server", SERVER[0].parse::<IpAddr>()?, PORT)?;
        let a = socket(&lab, "a", address_of(&topology, "a")?, SAME)?;
        for length in [1473, 3000, 9000, 60_000] {
            let bytes: Vec<u8> = (0..length).map(|number: u32| number as u8).collect();
            let mapped = seen(&a, &server, &bytes).with_context(|| format!("{choice:?}, {length} bytes out"))?;
            server.send_to(&bytes, mapped)?;
            let mut buffer = vec![0; 65_536];
            let came = a.recv_from(&mut buffer).with_context(|| format!("{choice:?}, {length} bytes in"))?.0;
            ensure!(buffer[..came] == bytes[..], "{choice:?}: {came} bytes of {length}");
        }
        Ok(())
    })
}

/// What is not let in is a packet to the router itself, whoever translates: it says that nobody listens there.
fn accepts_input() -> Result<()> {
    let runs = [
        ("linux-input-accept", true, RouterChoice::Kernel),
        ("linux-input-accept", true, RouterChoice::UserSpace),
        ("linux-input-accept", false, RouterChoice::Kernel),
        ("linux-input-accept", false, RouterChoice::UserSpace),
        ("home-router", true, RouterChoice::Kernel),
        ("home-router", true, RouterChoice::UserSpace),
    ];
    each(&runs, runs.len(), |(preset, icmp, choice)| {
        let text = format!("[router.r]\npreset = {preset:?}\nicmp = {icmp}\n[host.a]\nbehind = \"r\"\n[host.b]\n");
        let topology = topology(&text)?;
        let outside = topology.routers[0].external().next().context("the router has no address")?;
        let lab = Lab::up(Plan::of(&topology, *choice)?)?;
        let server = socket(&lab, "server", SERVER[0].parse::<IpAddr>()?, PORT)?;
        server.connect((outside, SAME))?;
        server.send(b"is anybody there?")?;
        let says = *icmp && *preset == "linux-input-accept";
        server.set_read_timeout(Some(if says { COMES } else { COMES_NOT }))?;
        let kind = server.recv(&mut [0; 64]).err().map(|error| error.kind());
        let expected = if says { ErrorKind::ConnectionRefused } else { ErrorKind::WouldBlock };
        ensure!(kind == Some(expected), "{preset}, icmp {icmp}, {choice:?}: {kind:?}");
        Ok(())
    })
}

/// A link, what is sent over it, and what must come of it: the times of arrival by number, counted from its departure.
type Expected = (&'static str, usize, usize, fn(&[(usize, Duration)]) -> bool);

/// Many at once, so that chance has nothing to say: one in a million of these fails by it.
const CABLES: [Expected; 7] = [
    ("delay = \"60ms\"", 50, 100, |came| came.len() == 50 && came.iter().all(|(_, took)| took.as_millis() >= 60)),
    ("jitter = \"80ms\"", 200, 100, |came| {
        let took: BTreeSet<u128> = came.iter().map(|(_, took)| took.as_millis()).collect();
        took.len() > 20 && took.last().zip(took.first()).is_some_and(|(most, least)| most - least > 50)
    }),
    ("loss = 50.0", 400, 100, |came| (140..260).contains(&came.len())),
    ("burst = { bad = 50.0, length = 10.0 }", 2000, 100, |came| {
        let numbers: BTreeSet<usize> = came.iter().map(|(number, _)| *number).collect();
        let lost: Vec<usize> = (0..2000).filter(|number| !numbers.contains(number)).collect();
        let together = lost.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
        lost.len() > 300 && lost.len() < 1700 && together * 10 > lost.len() * 8
    }),
    ("reorder = 30.0", 400, 100, |came| came.windows(2).filter(|pair| pair[1].0 < pair[0].0).count() > 50),
    ("duplicate = 50.0", 400, 100, |came| (500..700).contains(&came.len())),
    // 1000 bytes of IP take 80 ms.
    ("rate = \"100kbit\"", 8, 972, |came| {
        came.len() == 8 && came.iter().zip(1..).all(|((_, took), place)| took.as_millis() >= 80 * place - 40)
    }),
];

/// Between two packets: less than the 30 ms that one is held back to be overtaken.
const APART: Duration = Duration::from_millis(2);

fn cables() -> Result<()> {
    let hosts: String = CABLES
        .iter()
        .enumerate()
        .map(|(number, (link, ..))| format!("[host.h{number}]\nlink = {{ {link} }}\n"))
        .collect();
    let topology = topology(&format!("[host.a]\n[host.b]\n{hosts}"))?;
    let lab = Lab::up(Plan::of(&topology, RouterChoice::AsDescribed)?)?;
    let numbered: Vec<(usize, Expected)> = CABLES.into_iter().enumerate().collect();
    each(&numbered, CABLES.len(), |(number, (link, count, size, is_right))| {
        let (count, host) = (*count, format!("h{number}"));
        let server = socket(&lab, "server", SERVER[0].parse::<IpAddr>()?, PORT + 1 + *number as u16)?;
        let own = socket(&lab, &host, address_of(&topology, &host)?, SAME)?;
        let to = server.local_addr()?;
        server.set_read_timeout(Some(Duration::from_secs(1)))?;
        let began = Instant::now();
        let hurried = link.starts_with("rate");
        let came = std::thread::scope(|scope| -> Result<Vec<(usize, Duration, Instant)>> {
            let receiving = scope.spawn(|| {
                let (mut buffer, mut came) = ([0; 2048], Vec::new());
                while let Ok(length) = server.recv(&mut buffer) {
                    if length == *size {
                        let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
                        let left = u64::from_be_bytes(buffer[4..12].try_into().unwrap_or_default());
                        came.push((number as usize, Duration::from_micros(left), Instant::now()));
                    }
                }
                came
            });
            for number in 0..count {
                let mut bytes = vec![0; *size];
                bytes[..4].copy_from_slice(&(number as u32).to_be_bytes());
                bytes[4..12].copy_from_slice(&(began.elapsed().as_micros() as u64).to_be_bytes());
                own.send_to(&bytes, to)?;
                if !hurried {
                    std::thread::sleep(APART);
                }
            }
            Ok(receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let came: Vec<(usize, Duration)> =
            came.into_iter().map(|(number, left, at)| (number, (at - began).saturating_sub(left))).collect();
        ensure!(is_right(&came), "{link}: {} of {count} came: {came:?}", came.len());
        Ok(())
    })
}
