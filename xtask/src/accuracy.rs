//! `cargo xtask accuracy`: measures how right the diagnosis is on virtual worlds and writes docs/accuracy.md.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

pub(crate) fn run(root: &Path) -> Result<()> {
    // In a release build: the worlds are many.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["run", "--quiet", "--release", "--package", "whyrelay-lab", "--example", "accuracy"]);
    let output = command.stderr(Stdio::inherit()).output().context("running the accuracy example")?;
    if !output.status.success() {
        bail!("the accuracy example ended with {}", output.status);
    }
    let mut page = String::from_utf8(output.stdout).context("reading the page")?;
    page.push_str(&crate::proven::table(root)?);
    let path = root.join("docs/accuracy.md");
    std::fs::write(&path, &page).with_context(|| format!("writing {}", path.display()))?;
    print!("{page}");
    Ok(())
}
