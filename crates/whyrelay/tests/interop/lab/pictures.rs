//! The laboratory's pictures are XML in the eyes of a stranger, whatever stands in them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use whyrelay_lab::draw::svg;
use whyrelay_lab::scenario::Scenario;

use crate::suite::{self, Suite, Tool};

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    suite.test("lab::every_picture_is_xml", &[Tool::Python], are_xml);
}

/// A scenario whose words would be markup.
const MARKUP: &str = "title = '<b>&amp; \"a]]> &'\nabout = '<!-- &'\n[host.a]\n[host.b]\n[expect]\npath = 'direct'\n";

fn are_xml() -> Result<()> {
    let mut pictures = BTreeMap::new();
    for (name, text) in Scenario::embedded() {
        pictures.insert((*name).to_owned(), svg(&Scenario::parse(name, text)?.topology));
    }
    pictures.insert("markup".to_owned(), svg(&Scenario::parse("markup", MARKUP)?.topology));
    for arguments in [&["draw", "two-homes"][..], &["matrix"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_whyrelay"));
        let output = command.arg("lab").args(arguments).args(["--format", "svg"]).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        pictures.insert(arguments.join(" "), String::from_utf8(output.stdout)?);
    }
    let wrong = [("wrong: markup", "<svg xmlns='http://www.w3.org/2000/svg'>&</svg>"), ("wrong: root", "<svg/>")];
    pictures.extend(wrong.map(|(name, text)| (name.to_owned(), text.to_owned())));

    let problems = problems(&pictures)?;
    ensure!(problems.len() == pictures.len() && problems.len() > 190, "{} pictures", problems.len());
    for (name, problem) in &problems {
        let is_wrong = wrong.iter().any(|(wrong, _)| wrong == name);
        ensure!(problem.is_empty() != is_wrong, "{name}: {problem:?}");
    }
    Ok(())
}

/// What is wrong with each; nothing where nothing is.
fn problems(pictures: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(suite::path("PYTHON")?);
    command.arg(root.join("interop/svg_is_xml.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("starting Python")?;
    child.stdin.take().context("no stdin")?.write_all(&serde_json::to_vec(pictures)?)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", output.status);
    serde_json::from_slice(&output.stdout).context("its answer")
}
