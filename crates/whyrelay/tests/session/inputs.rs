//! Bad input: a clear line, the way out, the right exit status. Secrets stay secret.

use crate::support::{Process, Server, directory, file};

#[test]
fn what_cannot_work_is_said_in_one_line_with_the_way_out() {
    let server = Server::start();
    let url = server.url.as_str();
    let here = ["--address", "127.0.0.2"];
    let table: [(&[&str], &str, &str); 9] = [
        (&["offer", "--signal", "htp:/x"], "is broken", "hint: give it as http://HOST:PORT"),
        (&["offer", "--signal", "http://127.0.0.1:1"], "cannot reach the signaling server", "hint: check that"),
        (&["offer", "--signal", url, "--stun", "stun://x"], "has slashes", "--stun"),
        (&["offer", "--signal", url, "--stun", "turn:x"], "a stun: or stuns: URL belongs here", "stun.example.org"),
        (&["offer", "--signal", url, "--turn", "turn:127.0.0.1"], "needs --turn-user", "--turn-user"),
        (&["offer", "--signal", url, "--turn", "turn:h", "--turn-user", "u"], "no password", "hint: set TURN_PASSWORD"),
        (&["offer", "--signal", url, "--id", "x", "--peer", "x"], "are both", "hint: give the two sides"),
        (&["offer", "--signal", url, "--record", "/nonexistent/r"], "creating the recording", "/nonexistent/r"),
        (&["report", "/nonexistent"], "reading the recording", "No such file"),
    ];
    for (arguments, what, way_out) in table {
        let mut arguments = arguments.to_vec();
        if arguments[0] == "offer" {
            arguments.extend(here);
        }
        let ended = Process::start(&arguments, &[]).finish();
        assert_eq!(ended.code(), 2, "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(what), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(way_out), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{arguments:?}: {}", ended.stdout);
    }
}

#[test]
fn a_server_that_is_no_signaling_server_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming().take(4).flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        }
    });
    let ended = Process::start(&["offer", "--signal", &url, "--address", "127.0.0.2"], &[]).finish();
    assert_eq!(ended.code(), 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("no signaling server"), "{}", ended.stderr);
}

#[test]
fn an_id_that_is_taken_is_named() {
    let server = Server::start();
    let first = server.peer("answer", "t", &[]);
    first.wait_for("signaling: connected");
    let second = server.peer("answer", "t", &[]).finish();
    assert_eq!(second.code(), 2, "{}", second.stderr);
    assert!(second.stderr.contains("already taken"), "{}", second.stderr);
    assert!(second.stderr.contains("hint: choose another --id"), "{}", second.stderr);
}

#[test]
fn a_recording_that_is_none_is_refused_by_name() {
    let directory = directory();
    let (path, name) = file(&directory, "not-a-recording");
    std::fs::write(path, "hello\nworld\n").unwrap();
    let ended = Process::start(&["report", &name], &[]).finish();
    assert_eq!(ended.code(), 2);
    assert!(ended.stderr.contains("not a recording"), "{}", ended.stderr);
}

#[test]
fn a_wrong_turn_password_is_said_and_no_password_is_shown() {
    const PASSWORD: &str = "correct-horse-battery-staple";
    let server = Server::start();
    let directory = directory();
    let turn = format!("turn:{}", server.turn);
    let (recording, recording_name) = file(&directory, "a.jsonl");
    let common = ["--turn", &turn, "--turn-user", "alice", "-vvv"];
    let environment = [("TURN_PASSWORD", PASSWORD)];
    let b = server.peer_with("answer", "p", &common, &environment);
    let a = server.peer_with("offer", "p", &[&common[..], &["--record", &recording_name]].concat(), &environment);
    let (a, b) = (a.finish(), b.finish());
    assert!(a.stderr.contains("refuses the user name or the password"), "{}", a.stderr);
    assert!(a.stdout.starts_with("DIRECT"), "{}\n{}", a.stdout, a.stderr);
    let recording = std::fs::read_to_string(recording).unwrap();
    for (what, text) in [("stdout", &a.stdout), ("stderr", &a.stderr), ("b", &b.stderr), ("recording", &recording)] {
        assert!(!text.contains(PASSWORD), "the password is in {what}");
    }
}

#[test]
fn ice_passwords_and_announced_credentials_are_in_no_output() {
    let server = Server::start();
    let directory = directory();
    let (path, name) = file(&directory, "a.jsonl");
    let b = server.peer("answer", "s", &["-vvv"]);
    let a = server.peer("offer", "s", &["-vvv", "--record", &name]);
    let (a, b) = (a.finish(), b.finish());
    let recording = std::fs::read_to_string(path).unwrap();
    for text in [&a.stdout, &a.stderr, &b.stdout, &b.stderr, &recording] {
        assert!(!text.contains("ice-pwd"), "a description is shown");
        assert!(!text.contains("credential\":"), "an announcement is shown");
    }
}

#[test]
fn every_finding_can_be_explained() {
    let list = Process::start(&["explain", "--list"], &[]).finish();
    assert_eq!(list.code(), 0, "{}", list.stderr);
    for line in list.stdout.lines() {
        let code = line.split_whitespace().next().expect("a code");
        let explained = Process::start(&["explain", code], &[]).finish();
        assert_eq!(explained.code(), 0, "{code}: {}", explained.stderr);
        assert!(explained.stdout.starts_with(code) && explained.stdout.contains("How it is detected"), "{code}");
    }
    let unknown = Process::start(&["explain", "WR999"], &[]).finish();
    assert_eq!(unknown.code(), 2);
    assert!(unknown.stderr.contains("hint: `whyrelay explain --list`"), "{}", unknown.stderr);
}
