//! A stranger's agents reach each other where ours do, and nowhere else: every pair of the matrix. Ours try each in
//! virtual time, and between real kernels one of every two classes of places that RFC 4787 cannot tell apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use whyrelay_lab::kernel::{Conditions, Lab, Plan, RouterChoice, Services};
use whyrelay_lab::matrix::{Case, Cell, KINDS, Kind, cells, run_cell};
use whyrelay_lab::scenario::file::Path as Outcome;
use whyrelay_lab::scenario::{Scenario, Topology};

use super::own;
use super::strangers::SERVER;
use crate::process::Process;
use crate::suite::{self, Suite, Tool};

/// Gathering, checking and a greeting take some 20 s.
const LIMIT: Duration = Duration::from_secs(60);
/// Of the 512 pairs of aioice, and of our sessions between kernels, those that may come out otherwise once and right the
/// second time: a fault that shows now and then is one, too.
const UNREPEATED: usize = 4;
/// The matrix that `whyrelay lab matrix` shows.
const SEED: u64 = 1;

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::Python];
    suite.test("lab::aioice_gets_the_outcome_of_our_agent_for_every_pair_of_the_matrix", &tools, every_pair);
}

/// One lab with two hosts in each place, and one Python program with two agents for each pair: all at the same time. Ours
/// come after that, some at a time.
fn every_pair() -> Result<()> {
    let scenario = places()?;
    let lab = Lab::up(Plan::of(&scenario.topology, RouterChoice::AsDescribed)?)?;
    let interrupted = AtomicBool::new(false);
    let program = Path::new(env!("CARGO_BIN_EXE_whyrelay"));
    let routers = RouterChoice::AsDescribed;
    let conditions = Conditions { program, routers, certify: None, interrupted: &interrupted };
    let mut services = Services::start(&lab, &scenario.topology, &conditions)?;
    own::signaling(&lab, &mut services, &scenario.topology)?;
    let cases: Vec<Case> = cells().collect();
    ensure!(cases.len() == 2 * KINDS.len() * KINDS.len(), "{} pairs", cases.len());

    let aioice = strangers(&lab, &cases)?;
    let ours = cases.iter().map(|&(a, b, first)| run_cell(a, b, first, SEED)).collect::<Result<Vec<Cell>, _>>()?;
    let mut theirs = outcomes(aioice)?;
    let direct = theirs.iter().filter(|outcome| *outcome == "direct").count();
    let failed = theirs.iter().filter(|outcome| *outcome == "failed").count();
    ensure!(direct > 0 && failed > 0, "{direct} are direct, {failed} fail");

    // Where the first to speak stands still for so long, it is the second.
    let again: Vec<usize> = (0..cases.len()).filter(|&number| !is_alike(&ours[number], &theirs[number])).collect();
    repeated("aioice", again.len(), cases.len())?;
    let mut differ = Vec::new();
    if !again.is_empty() {
        let cases: Vec<Case> = again.iter().map(|&number| cases[number]).collect();
        let second = outcomes(strangers(&lab, &cases)?)?;
        for (&number, second) in again.iter().zip(&second).filter(|(number, second)| !is_alike(&ours[**number], second))
        {
            let (Cell { a, b, first, path, .. }, before) = (&ours[number], &theirs[number]);
            differ.push(format!("{a} and {b}, {first:?} first: aioice {second} ({before} before), ours {path:?}"));
        }
        again.into_iter().zip(second).for_each(|(number, second)| theirs[number] = second);
    }
    ensure!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), cases.len(), differ.join("\n"));
    let against: Vec<&Cell> = ours.iter().filter(|cell| !cell.agrees()).collect();
    ensure!(against.is_empty(), "ours against theory: {against:?}");
    between_kernels(&lab, &scenario.topology, &cases, &theirs)
}

/// Of every pair of the matrix: what aioice came to there is what ours came to in its class. That the places of a class are
/// all the same aioice has found out: it was in each of them.
fn between_kernels(lab: &Lab, topology: &Topology, cases: &[Case], theirs: &[String]) -> Result<()> {
    let chosen = own::representatives(topology)?;
    ensure!(chosen.len() > 48 && chosen.len() < cases.len(), "{} pairs of classes", chosen.len());
    let (classes, pairs): (Vec<_>, Vec<Case>) = chosen.into_iter().unzip();
    let mut ours = own::run(lab, topology, &pairs, 0)?;
    let wanted = |number: usize| {
        let case = cases.iter().position(|case| same(case, &pairs[number]));
        case.map_or("", |case| &*theirs[case])
    };
    // Where a process stands still, who was to speak first is the second.
    let again: Vec<usize> = (0..pairs.len()).filter(|&number| !is_path(&ours[number], wanted(number))).collect();
    repeated("our sessions", again.len(), pairs.len())?;
    let second = own::run(lab, topology, &again.iter().map(|&number| pairs[number]).collect::<Vec<_>>(), 1)?;
    for (&number, second) in again.iter().zip(second) {
        ours[number] = second.map_err(|second| format!("{second}; before: {:?}", ours[number]));
    }
    let ours: BTreeMap<own::Classes, Result<Outcome, String>> = classes.into_iter().zip(ours).collect();
    let mut differ = Vec::new();
    for (case, theirs) in cases.iter().zip(theirs) {
        let own = &ours[&own::classes(topology, *case)?];
        if !is_path(own, theirs) {
            differ.push(format!(
                "{} and {}, {:?} first: aioice {theirs}, ours {own:?}",
                case.0.label, case.1.label, case.2
            ));
        }
    }
    ensure!(differ.is_empty(), "{} of {} differ between kernels:\n{}", differ.len(), cases.len(), differ.join("\n"));
    Ok(())
}

/// Says how many are tried a second time, which is what may be chance and no fault.
fn repeated(whose: &str, count: usize, of: usize) -> Result<()> {
    eprintln!("{whose}: {count} of {of} are tried a second time");
    ensure!(count <= UNREPEATED, "{whose}: {count} of {of} came out otherwise at first, more than {UNREPEATED}");
    Ok(())
}

fn same(one: &Case, other: &Case) -> bool {
    (one.0.label, one.1.label, one.2) == (other.0.label, other.1.label, other.2)
}

/// Whether a proven path is what aioice came to without TURN.
fn is_path(ours: &Result<Outcome, String>, theirs: &str) -> bool {
    matches!((ours, theirs), (Ok(Outcome::Direct), "direct") | (Ok(Outcome::Relayed), "failed"))
}

fn is_alike(ours: &Cell, theirs: &str) -> bool {
    match theirs {
        "direct" => ours.path == Some(Outcome::Direct),
        // Without TURN.
        "failed" => ours.path == Some(Outcome::Relayed),
        _ => false,
    }
}

/// The hosts of a side are named by their places; the two that every scenario has are in the first.
pub(super) fn host(side: &str, kind: &Kind) -> String {
    match KINDS.iter().position(|known| known.label == kind.label) {
        None | Some(0) => side.to_owned(),
        Some(number) => format!("{side}{number}"),
    }
}

/// Each place twice, with routers of its own.
fn places() -> Result<Scenario> {
    let mut text = "title = \"every place of the matrix, for each side\"\nserver = { ipv6 = false }\n".to_owned();
    for side in ["a", "b"] {
        for kind in KINDS {
            writeln!(text, "[host.{}]\nbehind = {:?}", host(side, kind), kind.behind)?;
        }
    }
    text.push_str("[expect]\npath = \"direct\"\n");
    Ok(Scenario::parse("matrix", &text)?)
}

/// Starts two agents of aioice for each pair.
fn strangers(lab: &Lab, cases: &[Case]) -> Result<Process> {
    let pairs: Vec<_> =
        cases.iter().map(|(a, b, first)| json!({ "a": host("a", a), "b": host("b", b), "first": first })).collect();
    let ends = cases.iter().flat_map(|(a, b, _)| [host("a", a), host("b", b)]);
    let hosts = ends.collect::<BTreeSet<_>>().into_iter().map(|name| Ok((name.clone(), lab.namespace(&name)?.into())));
    let hosts = hosts.collect::<Result<serde_json::Map<_, _>>>()?;
    let order = json!({ "stun": SERVER[0], "hosts": hosts, "pairs": pairs });
    let mut command = std::process::Command::new(suite::path("PYTHON")?);
    command.arg("interop/aioice_pairs.py").arg(order.to_string());
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    Process::start("aioice", &mut command)
}

/// What became of each pair.
fn outcomes(aioice: Process) -> Result<Vec<String>> {
    let finished = aioice.finish(LIMIT)?;
    serde_json::from_str(&finished.stdout).with_context(|| finished.account.clone())
}
