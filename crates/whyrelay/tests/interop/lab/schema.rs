//! The schema that we give out describes scenario files: a stranger's validator says so of every one, and refuses what
//! the program refuses.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use whyrelay_lab::scenario::Scenario;

use crate::suite::{self, Suite, Tool};

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    suite.test("lab::every_scenario_obeys_the_schema_and_what_is_wrong_does_not", &[Tool::Python], obeys);
}

/// Pieces of a scenario that the schema must refuse, as the program does, and where.
const WRONG: &[(&str, &str)] = &[
    ("foo = 1\n", "foo"),
    ("worlds = [\"real\"]\n", "$.worlds"),
    ("seed = -1\n", "$.seed"),
    ("[host.a]\nbehnd = \"home-router\"\n[host.b]\n", "behnd"),
    ("[host.a]\nbehind = 7\n[host.b]\n", "$.host.a.behind"),
    ("[host.a]\nlink = { delay = \"5\" }\n[host.b]\n", "$.host.a.link.delay"),
    ("[host.a]\nsession = { mark = \"red\" }\n[host.b]\n", "$.host.a.session.mark"),
    ("[[host.a.route]]\ndev = \"eth0\"\n[host.b]\n", "'to' is a required property"),
    ("[[host.a.rule]]\npriority = 1\naction = \"lose\"\n[host.b]\n", "action"),
    ("[[host.a.firewall]]\nhook = \"input\"\nverdict = \"maybe\"\n[host.b]\n", "verdict"),
    ("[router.r]\nmapping = \"symmetric\"\n", "$.router.r.mapping"),
    ("[router.r]\nports = { contiguous = { block = 64, blok = 1 } }\n", "$.router.r.ports"),
    ("[router.r]\nports = { contiguous = { block = 0 } }\n", "$.router.r.ports"),
    ("[router.r]\naddresses = 33\n", "$.router.r.addresses"),
    ("[host.a]\nlink = { delay = \" 5ms\" }\n[host.b]\n", "$.host.a.link.delay"),
    ("[host.a]\nsession = { mark = -7 }\n[host.b]\n", "$.host.a.session.mark"),
    ("[router.r]\nlink = { rate = \"fast\" }\n", "$.router.r.link.rate"),
    ("[server]\ncertificate = \"old\"\n", "certificate"),
    ("[signaling.c]\ndelay = \"1s\"\n", "'c' was unexpected"),
    ("[[expect.finding]]\nblame = \"a\"\n", "'name' is a required property"),
];

fn obeys() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let files: Vec<String> =
        Scenario::files(&root.join("scenarios"))?.iter().map(|file| file.display().to_string()).collect();
    ensure!(files.len() == Scenario::embedded().len() && files.len() > 100, "{} files", files.len());
    let mut texts = BTreeMap::new();
    for (number, (piece, _)) in WRONG.iter().enumerate() {
        let text = format!("title = \"t\"\n{piece}\n[expect]\npath = \"direct\"\n");
        ensure!(Scenario::parse("wrong", &text).is_err(), "the program takes what the schema is to refuse:\n{text}");
        texts.insert(format!("wrong {number}"), text);
    }
    texts.insert("no title".to_owned(), "[expect]\npath = \"direct\"\n".to_owned());
    texts.insert("no path".to_owned(), "title = \"t\"\n[expect]\n".to_owned());

    let order = json!({ "schema": root.join("docs/scenario.schema.json"), "files": files, "texts": texts });
    let mut command = Command::new(suite::path("PYTHON")?);
    command.arg(root.join("interop/scenario_schema.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().context("starting Python")?;
    child.stdin.take().context("no stdin")?.write_all(order.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    let problems: BTreeMap<String, Vec<String>> = serde_json::from_slice(&output.stdout).context("its answer")?;
    ensure!(problems.len() == files.len() + texts.len(), "{} were judged", problems.len());

    let disobey: Vec<_> =
        files.iter().map(|file| (file, &problems[file])).filter(|(_, wrong)| !wrong.is_empty()).collect();
    ensure!(disobey.is_empty(), "these do not obey docs/scenario.schema.json: {disobey:#?}");
    for (number, (piece, place)) in WRONG.iter().enumerate() {
        let wrong = &problems[&format!("wrong {number}")];
        ensure!(wrong.iter().any(|problem| problem.contains(place)), "{place:?} is not in {wrong:?}, for:\n{piece}");
    }
    for name in ["no title", "no path"] {
        ensure!(problems[name].iter().any(|problem| problem.contains("required")), "{name}: {:?}", problems[name]);
    }
    Ok(())
}
