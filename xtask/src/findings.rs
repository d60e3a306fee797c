//! `cargo xtask findings`: writes docs/findings.md from the rules.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::step;
use crate::test::cargo;

/// The rules are asked by a program of their own: a dependency on the core would have every `cargo xtask` build it first.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut example = cargo(&["run", "--quiet", "--package", "whyrelay-lab", "--example", "findings"]);
    let page = step::output(example.stderr(Stdio::inherit()))?;
    let path = root.join("docs/findings.md");
    std::fs::write(&path, page).with_context(|| format!("writing {}", path.display()))
}
