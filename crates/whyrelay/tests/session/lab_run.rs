//! What `lab run` prints for programs and CI systems, of scenarios that come out right, wrong, and not at all.

use std::process::{Command, Output};

/// One that is not as it says, with what XML and JSON must escape.
const WRONG: &str = "title = \"No <relay> & no \\\"path\\\"\"\n\
    [host.a]\nbehind = \"pfsense\"\n[host.b]\nbehind = \"pfsense\"\n[server]\nturn = false\n\
    [expect]\npath = \"relayed\"\n[[expect.finding]]\nname = \"udp-blocked\"\n";

/// One that virtual time leaves out, because it says so.
const ELSEWHERE: &str = "title = \"t\"\nworlds = [\"kernel\"]\n[host.a]\n[host.b]\n[expect]\npath = \"direct\"\n";

fn lab_run(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a directory");
    let [wrong, elsewhere] = ["wrong-on-purpose.toml", "between-kernels.toml"].map(|name| directory.path().join(name));
    std::fs::write(&wrong, WRONG).expect("a file");
    std::fs::write(&elsewhere, ELSEWHERE).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_whyrelay"));
    command.args(["lab", "run", "two-homes", "symmetric-against-home"]).arg(&elsewhere).arg(&wrong);
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

/// Whoever looks at results later sees what was run and what was not.
#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_in_virtual_time_leaves_what_was_run_and_tells_of_the_rest() {
    use std::io::BufRead as _;

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("junit.xml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_whyrelay"));
    command.args(["lab", "run", "--jobs", "1", "--junit"]).arg(&file);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("whyrelay runs");
    let mut progress = std::io::BufReader::new(child.stderr.take().expect("stderr"));
    let mut first = String::new();
    progress.read_line(&mut first).expect("a line");
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("a signal");
    let output = child.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(2), "{first}");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("interrupted: ") && shown.contains(" not run\n"), "{shown}");
    let name = first.split_whitespace().last().expect("a name");
    let written = std::fs::read_to_string(&file).expect("a file");
    assert!(written.contains(&format!("name=\"{name}\" time=")), "{name} is not in {written}");
    assert!(written.contains("><skipped message=\"interrupted\"/></testcase>"), "{written}");
}

/// One that is quick to run.
const RIGHT: &str = "title = \"t\"\n[host.a]\n[host.b]\n[expect]\npath = \"direct\"\n";

fn whyrelay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_whyrelay")).args(arguments).output().expect("whyrelay runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// Nothing is left out without a word: of two with one name none is run, unless they are the same.
#[test]
fn scenarios_of_one_name_are_not_taken_for_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
    for place in [&one, &other] {
        std::fs::create_dir(place).expect("a directory");
        std::fs::write(place.join("x.toml"), RIGHT).expect("a file");
    }
    let arguments = ["lab", "run", &one.display().to_string(), &other.display().to_string()].map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let same = whyrelay(&arguments);
    assert_eq!(same.status.code(), Some(0), "{}", said(&same));
    std::fs::write(other.join("x.toml"), RIGHT.replace("\"t\"", "\"u\"")).expect("a file");
    let different = whyrelay(&arguments);
    assert_eq!(different.status.code(), Some(2), "{}", said(&different));
    for part in ["the name x", &one.join("x.toml").display().to_string(), &other.join("x.toml").display().to_string()] {
        assert!(said(&different).contains(part), "{part:?} is not in: {}", said(&different));
    }
}

#[test]
fn a_wrong_file_of_a_directory_is_told_with_its_path_and_the_others_run() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("good.toml"), RIGHT).expect("a file");
    let bad = directory.path().join("bad.toml");
    std::fs::write(&bad, RIGHT.replace("[host.b]", "[host.b]\nbehnd = \"x\"")).expect("a file");
    let output = whyrelay(&["lab", "run", &directory.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("1 scenario, all as expected"), "{table}");
    for part in ["could not run", "behnd", &bad.display().to_string()] {
        assert!(table.contains(part), "{part:?} is not in: {table}");
    }
}

/// What reads the results finds out why there are none.
#[test]
fn where_everything_is_skipped_the_reasons_are_printed_and_it_is_no_success() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().display().to_string();
    let empty = whyrelay(&["lab", "run", &place]);
    assert_eq!(empty.status.code(), Some(2), "{}", said(&empty));
    assert!(said(&empty).contains("no file there ends with .toml\nhint: "), "{}", said(&empty));
    std::fs::write(directory.path().join("elsewhere.toml"), ELSEWHERE).expect("a file");
    let junit = directory.path().join("junit.xml");
    let output = whyrelay(&["lab", "run", &place, "--format", "json", "--junit", &junit.display().to_string()]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["skipped"][0]["scenario"], "elsewhere");
    assert!(std::fs::read_to_string(junit).expect("a file").contains("skipped=\"1\""));
    assert!(said(&output).contains("nothing ran") && said(&output).contains("hint: --kernel"), "{}", said(&output));
}

/// Before the run: a run may take minutes.
#[test]
fn what_cannot_be_written_is_said_before_anything_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let within = file.join("junit.xml").display().to_string();
    for option in ["--junit", "--record"] {
        let output = whyrelay(&["lab", "run", "public-hosts", option, &within]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(&within) && !said(&output).contains("[1/1]"), "{}", said(&output));
    }
}

/// Byte for byte: what is printed, and every recording.
#[test]
fn nothing_depends_on_how_many_run_at_the_same_time() {
    let fuzz = |jobs| {
        let output = whyrelay(&["lab", "fuzz", "--worlds", "60", "--seed", "7", "--faults", "2", "--jobs", jobs]);
        assert!(output.status.code() != Some(2), "{}", said(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let (one, two) = (fuzz("1"), fuzz("2"));
    assert!(one.starts_with("60 worlds from seed 7"), "{one}");
    assert_eq!(one, two);

    let names = ["two-homes", "jitter-and-reordering", "bursty-loss", "symmetric-on-both-sides", "many-bridges"];
    let recorded = |jobs| {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path().display().to_string();
        let output = whyrelay(&[&["lab", "run", "--jobs", jobs, "--record", &place], &names[..]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let read = |file| std::fs::read(directory.path().join(file)).expect("a recording");
        names.map(|name| ["a", "b"].map(|side| read(format!("{name}-{side}.jsonl"))))
    };
    let (one, two) = (recorded("1"), recorded("2"));
    assert!(one.iter().flatten().all(|recording| recording.len() > 1000));
    assert!(one == two, "recordings differ");
}

#[test]
fn more_random_worlds_than_memory_holds_are_begun() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whyrelay"));
    command.args(["lab", "fuzz", "--worlds", "18446744073709551615"]).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("whyrelay runs");
    std::thread::sleep(std::time::Duration::from_secs(1));
    let ended = child.try_wait().expect("its status");
    child.kill().expect("it ends");
    let output = child.wait_with_output().expect("its output");
    assert_eq!(ended, None, "{}", String::from_utf8_lossy(&output.stderr));
}
