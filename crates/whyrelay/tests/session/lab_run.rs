//! What `lab run` prints for programs and CI systems, of scenarios that come out right, wrong, and not at all.

use std::process::{Command, Output};

/// One that is not as it says, with what XML and JSON must escape.
const WRONG: &str = "title = \"No <relay> & no \\\"path\\\"\"\n\
    [host.a]\nbehind = \"pfsense\"\n[host.b]\nbehind = \"pfsense\"\n[server]\nturn = false\n\
    [expect]\npath = \"relayed\"\n[[expect.finding]]\nname = \"udp-blocked\"\n";

fn lab_run(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a directory");
    let wrong = directory.path().join("wrong-on-purpose.toml");
    std::fs::write(&wrong, WRONG).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_whyrelay"));
    command.args(["lab", "run", "two-homes", "symmetric-against-home", "turn-certificate-expired"]).arg(&wrong);
    command.args(arguments).env_remove("WHYRELAY_SIGNAL").output().expect("whyrelay runs")
}

fn stdout(arguments: &[&str]) -> String {
    let output = lab_run(arguments);
    // One is not as it says.
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn results_for_programs_are_json() {
    let json = stdout(&["--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["results"].as_array().map(Vec::len), Some(3));
    insta::assert_snapshot!("lab-run-json", json);
}

#[test]
fn results_for_ci_systems_are_junit_on_stdout_and_in_a_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("junit.xml");
    let shown = stdout(&["--format", "junit", "--junit", &file.display().to_string()]);
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), shown);
    insta::assert_snapshot!("lab-run-junit", shown);
}

#[test]
fn results_for_people_are_a_table() {
    insta::assert_snapshot!("lab-run-text", stdout(&["--jobs", "1"]));
}
