//! `cargo xtask fuzz`: every fuzz target for a while.
//!
//! cargo-fuzz wants a nightly compiler for its address sanitizer. The code under test is
//! safe Rust, so coverage is enough, and coverage is had from the stable compiler: these
//! are the flags that cargo-fuzz gives it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::step;
use crate::test::cargo;

/// LLVM's coverage counters as libFuzzer reads them, and the checks of a debug build.
const RUSTFLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

const DIRECTORY: &str = "target/fuzz";
/// One input that takes longer is reported as a hang.
const INPUT_LIMIT_SECONDS: u32 = 5;

/// Runs the targets that `arguments` name, or all.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let (wanted, seconds) = parse(arguments)?;
    let targets = targets()?;
    let targets: Vec<&String> =
        targets.iter().filter(|target| wanted.is_none_or(|wanted| wanted == target.as_str())).collect();
    if targets.is_empty() {
        bail!("no fuzz target is called {}", wanted.unwrap_or_default());
    }
    let host = host()?;
    let mut build = cargo(&["build", "--release", "--manifest-path", "fuzz/Cargo.toml"]);
    build
        // Naming the target keeps the flags away from build scripts.
        .args(["--target", &host])
        .env("CARGO_TARGET_DIR", DIRECTORY)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"));
    step::run("build fuzz targets", build, Duration::from_secs(20 * 60))?;
    let mut failed = Vec::new();
    for target in targets {
        let corpus = Path::new("fuzz/corpus").join(target);
        let artifacts = Path::new(DIRECTORY).join("artifacts").join(target);
        std::fs::create_dir_all(&corpus)?;
        std::fs::create_dir_all(&artifacts)?;
        let program = Path::new(DIRECTORY).join(&host).join("release").join(target);
        let mut command = Command::new(program);
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_LIMIT_SECONDS}"))
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(corpus);
        let seeds = Path::new("fuzz/seeds").join(target);
        if seeds.exists() {
            command.arg(seeds);
        }
        let limit = Duration::from_secs(seconds + 120);
        // One that fails has left its input; the others are worth their time still.
        if step::run(&format!("fuzz {target} for {seconds} s"), command, limit).is_err() {
            failed.push(target.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("failed, with the input under {DIRECTORY}/artifacts: {}", failed.join(", "));
    }
    Ok(())
}

/// What this machine is called by its compiler, such as `x86_64-unknown-linux-gnu`.
fn host() -> Result<String> {
    let about = step::output(Command::new("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// `[TARGET] [--seconds N]`
fn parse<'a>(arguments: &[&'a str]) -> Result<(Option<&'a str>, u64)> {
    let (mut target, mut seconds) = (None, 60);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            "--seconds" => {
                let value = arguments.next().context("--seconds wants a number")?;
                seconds = value.parse().with_context(|| format!("--seconds {value}"))?;
            }
            name if !name.starts_with('-') && target.is_none() => target = Some(name),
            other => bail!("unexpected argument {other}"),
        }
    }
    Ok((target, seconds))
}

/// The binaries of the fuzz crate.
fn targets() -> Result<Vec<String>> {
    if !Path::new("fuzz/Cargo.toml").exists() {
        bail!("there is no fuzz/Cargo.toml");
    }
    let arguments = ["metadata", "--format-version", "1", "--no-deps"];
    let mut command = cargo(&arguments);
    command.args(["--manifest-path", "fuzz/Cargo.toml"]);
    let metadata: serde_json::Value = serde_json::from_str(&step::output(&mut command)?)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    Ok(packages
        .flat_map(|package| package["targets"].as_array().into_iter().flatten())
        .filter(|target| target["kind"][0] == "bin")
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SECURITY 8 names what comes from strangers; each has a target, and each target seeds that reach behind the first
    /// check.
    #[test]
    fn security_8_whatever_a_stranger_sends_has_a_fuzz_target_with_seeds() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("fuzz/Cargo.toml");
        for target in [
            "stun_decode",
            "channel_data",
            "datagram",
            "turn_server_input",
            "ice_agent_input",
            "sdp",
            "candidate_line",
            "signal_message",
            "recording_line",
            "dtls_records",
            "port_mapping",
        ] {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "no target {target}");
            assert!(fuzz.join("fuzz_targets").join(target).with_extension("rs").is_file(), "{target}");
            let seeds = std::fs::read_dir(fuzz.join("seeds").join(target)).into_iter().flatten().count();
            assert!(seeds > 0, "no seeds for {target}");
        }
    }
}
