//! Sessions that end in the middle: Ctrl-C, a peer that vanishes, a server that dies.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::pty::Pty;
use crate::support::{Process, Server, directory, far_away, file, report};

#[test]
fn ctrl_c_at_any_moment_leaves_a_recording_that_can_be_read() {
    let server = Server::start();
    let directory = directory();
    for (index, delay) in [0, 3, 10, 20, 40, 80, 160, 400].into_iter().enumerate() {
        let room = format!("c{index}");
        let (path, name) = file(&directory, &format!("{room}.jsonl"));
        let other = server.peer("answer", &room, &["--stay"]);
        other.wait_for("signaling: connected");
        let peer = server.peer("offer", &room, &["--stay", "--record", &name]);
        std::thread::sleep(Duration::from_millis(delay));
        peer.signal(Signal::SIGINT);
        let ended = peer.finish();
        other.signal(Signal::SIGTERM);
        other.finish();
        if !path.exists() {
            // The signal came before the program could handle it; the system ended it.
            assert_eq!(ended.code(), -1, "after {delay} ms: {}", ended.stderr);
            continue;
        }
        let replayed = report(&[&path], &[]);
        assert!(replayed.code() < 2 || std::fs::metadata(&path).is_ok_and(|m| m.len() == 0), "{}", replayed.stderr);
        if ended.code() >= 0 {
            assert_eq!(replayed.stdout, ended.stdout, "after {delay} ms");
        }
    }
}

#[test]
fn a_killed_peers_recording_can_be_read() {
    let server = Server::start();
    let directory = directory();
    let (path, name) = file(&directory, "a.jsonl");
    let b = server.peer("answer", "k", &["--stay"]);
    let a = server.peer("offer", "k", &["--stay", "--record", &name]);
    a.wait_for("round trip over the channel: median");
    a.signal(Signal::SIGKILL);
    a.finish();
    let replayed = report(&[&path], &["--format", "json"]);
    assert_eq!(replayed.code(), 0, "{}", replayed.stderr);
    assert!(replayed.stdout.contains(r#""path":"direct""#) || replayed.stdout.contains(r#""path": "direct""#));
    assert!(replayed.stdout.contains("A's recording ends early, "), "{}", replayed.stdout);
    b.signal(Signal::SIGINT);
    b.finish();
}

#[test]
fn a_peer_that_is_killed_while_the_connection_is_kept_open_leaves_no_healthy_session() {
    let server = Server::start();
    let b = server.peer("answer", "s", &["--stay"]);
    let a = server.peer("offer", "s", &["--stay"]);
    a.wait_for("round trip over the channel: median");
    b.signal(Signal::SIGKILL);
    b.finish();
    a.wait_for("the path is silent");
    a.wait_for("restarting ICE");
    a.signal(Signal::SIGINT);
    let a = a.finish();
    assert_eq!(a.code(), 1, "{}\n{}", a.stdout, a.stderr);
    let flat = a.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.starts_with("FAILED"), "{}", a.stdout);
    assert!(flat.contains("A and B talked directly, until the path broke "), "{}", a.stdout);
    assert!(flat.contains("WR705") && flat.contains("Breaks of the path A the path fell silent at "), "{}", a.stdout);
}

#[test]
fn a_connection_that_was_to_stay_says_why_it_ends() {
    let server = Server::start();
    let b = server.peer("answer", "l", &[]);
    let a = server.peer("offer", "l", &["--stay"]).finish();
    let b = b.finish();
    assert_eq!((a.code(), b.code()), (0, 0), "{}", a.stderr);
    assert!(
        a.stderr.contains("the other side closed the data channel: the session ends. --stay keeps"),
        "{}",
        a.stderr
    );
    assert!(!b.stderr.contains("the other side closed"), "{}", b.stderr);
}

#[test]
fn without_a_stdout_there_is_no_answer_and_that_is_an_error() {
    let directory = directory();
    let output = directory.path().join("out");
    for (arguments, is_lost) in [
        ("explain WR401", true),
        ("--version", true),
        ("check --help", true),
        ("check", true),
        // In time: not when the session is over.
        ("offer --signal http://127.0.0.1:1", true),
        ("offer --signal http://127.0.0.1:1 -o OUT", false),
        ("check -o OUT", false),
        ("no-such-verb", false),
    ] {
        let arguments = arguments.replace("OUT", output.to_str().expect("a name in UTF-8"));
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {} {arguments} >&-", env!("CARGO_BIN_EXE_whyrelay"))]);
        let ended = shell.output().expect("a shell");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(2) || !is_lost, "{arguments}: {}, {said}", ended.status);
        let is_told = said.contains("error: writing the answer to stdout: it is closed\nhint: ");
        assert_eq!(is_told, is_lost, "{arguments}: {said}");
    }
}

#[test]
fn a_recording_that_is_cut_before_the_peer_came_is_undecided() {
    let server = Server::start();
    let directory = directory();
    let (path, name) = file(&directory, "u.jsonl");
    let a = server.peer("offer", "u", &["--record", &name]);
    a.wait_for("signaling: connected");
    a.signal(Signal::SIGKILL);
    a.finish();
    let replayed = report(&[&path], &[]);
    assert_eq!(replayed.code(), 1, "{}", replayed.stderr);
    assert!(replayed.stdout.starts_with("UNDECIDED\n"), "{}", replayed.stdout);
    assert!(replayed.stdout.contains("ends early"), "{}", replayed.stdout);
}

#[test]
fn the_wait_for_the_peer_does_not_count_the_way_to_the_server() {
    // It takes connections and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let a = Process::start(&["offer", "--signal", &url, "--address", "127.0.0.2", "--wait", "300ms"], &[]).finish();
    assert_eq!(a.code(), 2, "{}", a.stderr);
    assert!(!a.stderr.contains("did not come"), "{}", a.stderr);
    assert!(a.stderr.contains("connecting to signaling"), "{}", a.stderr);
}

#[test]
fn a_peer_that_vanishes_before_it_connects_is_a_finding_not_a_hang() {
    let server = Server::start();
    let a = server.peer("offer", "v", &["--relay-only", "--timeout", "5s"]);
    a.wait_for("signaling: connected");
    let b = server.peer("answer", "v", &["--relay-only"]);
    a.wait_for("answer received");
    b.signal(Signal::SIGKILL);
    b.finish();
    let a = a.finish();
    assert!(a.code() < 2, "{}", a.stderr);
    assert!(!a.stdout.is_empty());
}

#[test]
fn who_is_interrupted_before_there_is_a_path_is_named_by_the_other_side() {
    let server = Server::start();
    let a = server.peer("offer", "c", &["--timeout", "10s"]);
    a.wait_for("signaling: connected");
    // It offers nothing, so the two find no path.
    let no_relay = ["--relay-only", "--turn", "turn:127.0.0.1:9", "--turn-user", "u"];
    let b = server.peer_with("answer", "c", &no_relay, &[("TURN_PASSWORD", "p")]);
    a.wait_for("answer received");
    b.signal(Signal::SIGINT);
    let (a, b) = (a.finish(), b.finish());
    assert!(a.code() < 2, "{}", a.stderr);
    // At once, not when B has closed.
    assert!(a.stderr.contains("the other side was interrupted (Ctrl-C or a signal)"), "{}", a.stderr);
    for ended in [&a, &b] {
        let words = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("[WR705] peer-vanished (at B)"), "{}\n{}", ended.stdout, ended.stderr);
        assert!(words.contains("B was interrupted (Ctrl-C or a signal) before there was a path"), "{words}");
        assert!(!words.contains("[WR505]") && !words.contains("[WR508]"), "{words}");
    }
}

/// Each side is 200 ms from the signaling server, so that a recording is 200 ms on its way, and the other one comes 400 ms
/// after it at the earliest.
#[test]
fn recordings_are_exchanged_by_a_signaling_server_that_is_far_away() {
    let server = Server::start();
    let url = far_away(&server, Duration::from_millis(100));
    let peer = |verb: &str, address: &str, more: &[&str], environment: &[(&str, &str)]| {
        let arguments = [verb, "--signal", &url, "--room", "far", "--address", address];
        Process::start(&[&arguments[..], more].concat(), environment)
    };
    let b = peer("answer", "127.0.0.3", &["--timeout", "10s"], &[]);
    b.wait_for("signaling: connected");
    // It offers nothing, so the two find no path.
    let no_relay = ["--relay-only", "--turn", "turn:127.0.0.1:9", "--turn-user", "u"];
    let a = peer("offer", "127.0.0.2", &no_relay, &[("TURN_PASSWORD", "p")]);
    a.wait_for("answer received");
    a.signal(Signal::SIGINT);
    let (a, b) = (a.finish(), b.finish());
    for ended in [&a, &b] {
        assert!(!ended.stdout.contains("not recorded"), "{}\n{}", ended.stdout, ended.stderr);
    }
    assert_eq!(a.stdout, b.stdout);
}

#[test]
fn a_signaling_server_that_dies_in_the_middle_does_not_end_a_session_that_has_a_path() {
    let server = Server::start();
    let b = server.peer("answer", "d", &["--stay"]);
    let a = server.peer("offer", "d", &["--stay"]);
    a.wait_for("data channel");
    server.process.signal(Signal::SIGKILL);
    a.wait_for("signaling: ");
    std::thread::sleep(Duration::from_millis(500));
    a.signal(Signal::SIGINT);
    b.signal(Signal::SIGINT);
    let (a, b) = (a.finish(), b.finish());
    for ended in [&a, &b] {
        assert!(ended.stdout.starts_with("DIRECT"), "{}\n{}", ended.stdout, ended.stderr);
        assert!(ended.stdout.contains("Not measured"), "{}", ended.stdout);
    }
}

#[test]
fn waiting_for_a_peer_that_never_comes_ends() {
    let server = Server::start();
    let a = server.peer("offer", "w", &["--wait", "1500ms"]).finish();
    assert_eq!(a.code(), 1, "{}", a.stderr);
    assert!(a.stderr.contains("did not come"), "{}", a.stderr);
    // The whole command, as it can be pasted on the other machine.
    let command = format!("`whyrelay answer --signal {} --room w`", server.url);
    assert!(a.stderr.contains(&command), "{}", a.stderr);
}

#[test]
fn an_interrupted_demo_ends_by_itself() {
    let demo = Process::start(&["demo"], &[]);
    demo.signal(Signal::SIGTERM);
    demo.finish();
}

#[test]
fn interrupted_before_anybody_came_is_what_the_account_says() {
    let server = Server::start();
    let a = server.peer("offer", "nobody", &[]);
    a.wait_for("signaling: connected");
    a.signal(Signal::SIGINT);
    let a = a.finish();
    assert!(a.stdout.contains("A was interrupted before B came."), "{}", a.stdout);
}

#[test]
fn ctrl_c_ends_a_demo_at_any_moment() {
    for after in [20, 60, 100, 200, 400] {
        let mut demo = Pty::start(&["demo"], (40, 130), &[]);
        std::thread::sleep(Duration::from_millis(after));
        demo.press("\u{3}");
        let status = demo.finish();
        // Before there is anything to remove, the signal itself ends it.
        let ended = status.code() == Some(2) || status.signal() == Some(Signal::SIGINT as i32);
        assert!(ended, "after {after} ms: {status}\n{}", demo.contents());
    }
}

#[test]
fn a_closed_stderr_is_no_reason_to_stop() {
    for arguments in [&["demo", "--virtual"][..], &["lab", "run", "two-homes"], &["lab", "matrix"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_whyrelay"));
        let status = command.args(arguments).stdout(Stdio::null()).stderr(writer).status().expect("the program starts");
        assert_eq!(status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn a_signaling_server_that_dies_before_the_peer_came_is_said_and_the_recording_kept() {
    let server = Server::start();
    let directory = directory();
    let (path, name) = file(&directory, "d.jsonl");
    let a = server.peer("offer", "e", &["--wait", "3s", "--record", &name]);
    a.wait_for("signaling: connected");
    server.process.signal(Signal::SIGKILL);
    a.wait_for("trying again in");
    let a = a.finish();
    assert_eq!(a.code(), 1, "{}", a.stderr);
    assert!(a.stderr.contains("the signaling server did not come back within the 3 s of --wait"), "{}", a.stderr);
    // It is the server's fault, not that of a peer who could not be heard of.
    assert!(a.stdout.contains("error[WR701]") && !a.stdout.contains("WR702"), "{}", a.stdout);
    assert_eq!(report(&[&path], &[]).stdout, a.stdout);
}
