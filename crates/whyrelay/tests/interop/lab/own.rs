//! Our own agents between real kernels, on the places of the matrix: one pair of sessions for every two classes of places
//! that are the same in RFC 4787's terms. Direct is proven by data that passes with the relay cut, relayed by what the
//! relay has counted for this very session.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{Direction, Event, EventKind, Vantage};
use whyrelay_core::trace::recording::Recording;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Class, Message, Method};
use whyrelay_lab::kernel::{CUT, Lab, Services, SessionArguments, cut_off, data_passed, relayed_matches};
use whyrelay_lab::matrix::{Case, HEAD_START, KINDS, Kind, cells};
use whyrelay_lab::predict::{First, Place, predict};
use whyrelay_lab::scenario::Topology;
use whyrelay_lab::scenario::file::Path as Outcome;
use whyrelay_lab::scenario::topology::Signaling;

use super::strangers::SERVER;
use crate::process::Process;

const WHYRELAY: &str = env!("CARGO_BIN_EXE_whyrelay");
/// Sessions side by side: more would be late themselves.
const AT_ONCE: usize = 12;
const LIMIT: Duration = Duration::from_secs(60);
/// How long a direct path may take.
const DIRECT_WITHIN: Duration = Duration::from_secs(10);
/// Where a side's candidates reach the other late.
const LATE: u16 = 8081;
const USUAL: u16 = 8080;
/// What the relay has sent of the peers' data, as `Services` counts it for all together: by the relayed address that it came
/// from, or by the client that it went to.
fn counting() -> String {
    let whose = ["ip saddr . udp sport", "ip daddr . udp dport", "ip daddr . tcp dport"];
    let rules = relayed_matches().into_iter().zip(whose);
    let rules: String = rules.map(|(data, whose)| format!("{data} update @relayed {{ {whose} counter }}\n")).collect();
    format!(
        "table inet pairs {{\n\
         set relayed {{ type ipv4_addr . inet_service; flags dynamic; size 4096; }}\n\
         chain out {{ type filter hook output priority -9;\n{rules}}}\n}}\n"
    )
}

/// Two classes of places, and whether a speaks first.
pub(super) type Classes = (String, String, bool);

/// The class of a place: all that RFC 4787 has words for, and who lets an early packet take a port.
pub(super) fn class(topology: &Topology, host: &str) -> Result<String> {
    let index = topology.hosts.iter().position(|known| known.name == host).with_context(|| format!("no {host}"))?;
    Ok(format!("{:?}", Place::of(topology, index)))
}

/// The cases of the matrix as classes.
pub(super) fn classes(topology: &Topology, (a, b, first): Case) -> Result<Classes> {
    Ok((
        class(topology, &super::matrix::host("a", a))?,
        class(topology, &super::matrix::host("b", b))?,
        first == First::A,
    ))
}

/// One case for every two classes, of other members each time.
pub(super) fn representatives(topology: &Topology) -> Result<BTreeMap<Classes, Case>> {
    let mut members: BTreeMap<String, Vec<&'static Kind>> = BTreeMap::new();
    for kind in KINDS {
        members.entry(class(topology, &super::matrix::host("a", kind))?).or_default().push(kind);
    }
    let mut chosen = BTreeMap::new();
    for (row, (of_a, kinds_a)) in members.iter().enumerate() {
        for (column, (of_b, kinds_b)) in members.iter().enumerate() {
            for (shift, first) in [First::A, First::B].into_iter().enumerate() {
                let a = kinds_a[(column + shift * members.len()) % kinds_a.len()];
                let b = kinds_b[(row + shift * members.len()) % kinds_b.len()];
                chosen.insert((of_a.clone(), of_b.clone(), first == First::A), (a, b, first));
            }
        }
    }
    Ok(chosen)
}

/// Every place's signaling, usual and late.
pub(super) fn signaling(lab: &Lab, services: &mut Services, topology: &Topology) -> Result<()> {
    let usual = topology.signaling[0].clone();
    let late = Signaling { candidates_delay: HEAD_START, ..usual.clone() };
    for host in &topology.hosts {
        // The two peers have the usual one already.
        if host.name != "a" && host.name != "b" {
            services.signal_beside(lab, &host.name, USUAL, &usual)?;
        }
        services.signal_beside(lab, &host.name, LATE, &late)?;
    }
    lab.nft("server", &counting())?;
    Ok(())
}

/// What becomes of each case: its path, or why it has none that is proven. Each round has names and ports of its own.
pub(super) fn run(
    lab: &Lab,
    topology: &Topology,
    cases: &[Case],
    round: usize,
) -> Result<Vec<Result<Outcome, String>>> {
    let mut outcomes: Vec<Option<Result<Outcome, String>>> = vec![None; cases.len()];
    let expected = |case: &Case| -> Result<Outcome> {
        let place = |side: &str, kind| {
            let name = super::matrix::host(side, kind);
            let index = topology.hosts.iter().position(|host| host.name == name).context("no such host")?;
            anyhow::Ok(Place::of(topology, index))
        };
        Ok(predict(place("a", case.0)?, place("b", case.1)?, case.2))
    };
    let paths = cases.iter().map(expected).collect::<Result<Vec<_>>>()?;
    for wanted in [Outcome::Direct, Outcome::Relayed] {
        let numbers: Vec<usize> = (0..cases.len()).filter(|&number| paths[number] == wanted).collect();
        let own = |number: usize| round * cells().count() + number;
        for some in numbers.chunks(AT_ONCE) {
            let named: Vec<(usize, Case)> = some.iter().map(|&number| (own(number), cases[number])).collect();
            for (number, outcome) in some.iter().zip(together(lab, topology, &named, wanted == Outcome::Direct)?) {
                outcomes[*number] = Some(outcome);
            }
        }
    }
    outcomes.into_iter().map(|outcome| outcome.context("a case was left out")).collect()
}

/// One side of a session.
struct Side {
    process: Process,
    recording: PathBuf,
}

/// Sessions of some cases at the same time. The relay is cut for all of them as soon as all are direct, if they are to be.
fn together(
    lab: &Lab,
    topology: &Topology,
    cases: &[(usize, Case)],
    direct: bool,
) -> Result<Vec<Result<Outcome, String>>> {
    // The next sessions may have ports of the last ones.
    lab.nft("server", "flush set inet pairs relayed")?;
    let released = lab.directory().join(format!("released-{}", cases[0].0));
    let start = |case: &(usize, Case), verb| start(lab, topology, *case, verb, direct.then_some(&*released));
    let answers = cases.iter().map(|case| start(case, "answer")).collect::<Result<Vec<_>>>()?;
    for answer in &answers {
        answer.process.line(LIMIT, |line| line.contains("signaling: connected"))?;
    }
    let offers = cases.iter().map(|case| start(case, "offer")).collect::<Result<Vec<_>>>()?;
    let mut cut = None;
    if direct {
        // Who is not direct by then comes out otherwise in the end.
        for side in offers.iter().chain(&answers) {
            let _ = side.process.line(DIRECT_WITHIN, |line| line.contains(" path: ") && !line.contains("relay"));
        }
        cut_off(lab, topology)?;
        cut = Some(Timestamp::from_micros(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64));
        std::fs::write(&released, "")?;
    }
    let mut ended = Vec::new();
    for (offer, answer) in offers.into_iter().zip(answers) {
        ended.push([end(offer)?, end(answer)?]);
    }
    if direct {
        lab.nft("server", &format!("delete table {CUT}"))?;
    }
    let counted = counted(lab)?;
    ended.into_iter().map(|sides| Ok(proven(&sides, cut, &counted))).collect()
}

fn start(
    lab: &Lab,
    topology: &Topology,
    (number, (a, b, first)): (usize, Case),
    verb: &'static str,
    released: Option<&Path>,
) -> Result<Side> {
    let (host, is_first) = match verb {
        "offer" => (super::matrix::host("a", a), first == First::A),
        _ => (super::matrix::host("b", b), first == First::B),
    };
    let recording = lab.directory().join(format!("{verb}-{number}-{}.jsonl", released.is_some()));
    let mut command: Command = lab.command(&host, WHYRELAY)?;
    let signal = format!("http://127.0.0.1:{}", if is_first { LATE } else { USUAL });
    command.args([verb, "--signal", &signal, "--room", &format!("pair-{number}"), "--format", "json"]);
    command.args(["--wait", "30s", "--timeout", "20s", "--color", "never"]).arg("--record").arg(&recording);
    // Those of the scenario's first peer; its port cannot be everybody's.
    let SessionArguments { arguments, password, .. } = SessionArguments::of(lab, topology, 0);
    let others = arguments.iter().skip_while(|argument| *argument != "--port").skip(2);
    command.args(["--port", &(41_000 + number).to_string()]).args(others);
    command.env("TURN_PASSWORD", password.unwrap_or_default()).env("WHYRELAY_LAB", "matrix");
    if let Some(released) = released {
        command.arg("--measure-after").arg(released);
    }
    Ok(Side { process: Process::start(&format!("whyrelay {verb} on {host}"), &mut command)?, recording })
}

/// What a side's account says of the path, and its own events.
fn end(side: Side) -> Result<(String, Vec<Event>)> {
    let finished = side.process.finish(LIMIT)?;
    ensure!(matches!(finished.status.code(), Some(0 | 1)), "{}", finished.account);
    let account: serde_json::Value =
        serde_json::from_str(&finished.stdout).with_context(|| finished.account.clone())?;
    let path = account["path"].as_str().context("an account without a path")?.to_owned();
    Ok((path, Recording::read(std::fs::read(&side.recording)?.as_slice())?.events))
}

/// The path of a session, where it is proven; else why not.
fn proven(
    [(of_a, a), (of_b, b)]: &[(String, Vec<Event>); 2],
    cut: Option<Timestamp>,
    counted: &BTreeSet<SocketAddr>,
) -> Result<Outcome, String> {
    if of_a != of_b {
        return Err(format!("a says {of_a}, b {of_b}"));
    }
    let data = data_passed(a, Vantage::A, cut) && data_passed(b, Vantage::B, cut);
    match &**of_a {
        "direct" if cut.is_none() => Err("direct, and the relay was not cut".to_owned()),
        "direct" | "relayed" if !data => Err(format!("{of_a}, and no data passed")),
        "direct" => Ok(Outcome::Direct),
        "relayed" if cut.is_some() => Err("relayed, and theory says direct".to_owned()),
        "relayed" => {
            let own: BTreeSet<SocketAddr> = allocated(a, Vantage::A).chain(allocated(b, Vantage::B)).collect();
            match own.is_disjoint(counted) {
                true => Err(format!("relayed, and the relay counted nothing for {own:?}")),
                false => Ok(Outcome::Relayed),
            }
        }
        _ => Ok(Outcome::Failed),
    }
}

/// From where the TURN server saw a side, and the relayed address: it says so when it allocates.
fn allocated(events: &[Event], vantage: Vantage) -> impl Iterator<Item = SocketAddr> {
    let of_side = events.iter().filter(move |event| event.vantage == vantage);
    of_side
        .flat_map(|event| {
            let EventKind::Datagram(datagram) = &event.kind else { return [None; 2] };
            let is_answer = datagram.direction == Direction::In && datagram.remote.ip().to_string() == SERVER[0];
            match Message::decode(&datagram.data) {
                Ok(message) if is_answer && (message.class, message.method) == (Class::Success, Method::ALLOCATE) => {
                    let told = [AttributeType::XOR_MAPPED_ADDRESS, AttributeType::XOR_RELAYED_ADDRESS];
                    told.map(|kind| message.xor_address(kind))
                }
                _ => [None; 2],
            }
        })
        .flatten()
}

/// What the relay has counted, as `nft` lists it: `{ 203.0.113.10 . 40000 counter packets 5 bytes 600, … }`.
fn counted(lab: &Lab) -> Result<BTreeSet<SocketAddr>> {
    let listed = lab.enter("server", || {
        let output = Command::new("nft").args(["-n", "list", "set", "inet", "pairs", "relayed"]).output();
        Ok(output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()))
    })??;
    let elements = listed.split_once("elements = {").map_or("", |(_, rest)| rest);
    let element = |text: &str| {
        let (address, rest) = text.trim().split_once(" . ")?;
        let port = rest.split_whitespace().next()?;
        rest.contains("counter packets").then(|| format!("{address}:{port}").parse().ok()).flatten()
    };
    Ok(elements.split(',').filter_map(element).collect())
}
