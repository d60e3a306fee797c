//! What the options of a peer change, seen in its own recording.

use std::path::Path;

use serde_json::Value;

use crate::support::{Finished, Process, Server, directory, file};

/// The events of one kind in a recording, of one side.
fn events(recording: &Path, vantage: &str, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(recording).expect("a recording");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("whole lines"));
    lines.filter(|event| event["vantage"] == vantage && event["kind"] == kind).collect()
}

/// A session whose offerer has `options`, and where its recording is.
fn offer(server: &Server, room: &str, recording: &str, options: &[&str], environment: &[(&str, &str)]) -> Finished {
    let b = server.peer("answer", room, &[]);
    let a = server.peer_with("offer", room, &[options, &["--record", recording]].concat(), environment);
    let a = a.finish();
    b.finish();
    a
}

#[test]
fn dtls_1_2_is_insisted_on_and_1_3_is_the_default() {
    let server = Server::start();
    let directory = directory();
    for (room, options, version) in [("any", &[][..], "1.3"), ("old", &["--dtls", "1.2"], "1.2")] {
        let (path, name) = file(&directory, room);
        let a = offer(&server, room, &name, options, &[]);
        assert_eq!(a.code(), 0, "{}", a.stderr);
        let states = events(&path, "a", "dtls");
        let shown = |event: &Value| event["state"]["version"] == format!("DTLS {version}");
        assert!(states.iter().any(shown), "{version} in {states:#?}");
    }
}

#[test]
fn throughput_is_measured_each_way_when_it_is_asked_for() {
    let server = Server::start();
    let directory = directory();
    let (path, name) = file(&directory, "t");
    let a = offer(&server, "t", &name, &["--throughput", "300ms", "--format", "json"], &[]);
    assert_eq!(a.code(), 0, "{}", a.stderr);
    for direction in ["in", "out"] {
        let measured = events(&path, "a", "throughput");
        let one = measured.iter().find(|event| event["direction"] == direction);
        let one = one.unwrap_or_else(|| panic!("{direction} in {measured:#?}\n{}", a.stderr));
        assert!(one["bytes"].as_u64() > Some(0) && one["took_us"].as_u64() > Some(0), "{one}");
    }
    assert!(a.stderr.contains("throughput to the other side:"), "a live line: {}", a.stderr);
}

#[test]
fn a_port_an_address_and_no_tcp_choose_the_candidates() {
    let server = Server::start();
    let directory = directory();
    let (path, name) = file(&directory, "p");
    // A port that is free now.
    let port = std::net::UdpSocket::bind("127.0.0.2:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let a = offer(&server, "p", &name, &["--no-tcp", "--no-turn", "--port", &port.to_string()], &[]);
    assert_eq!(a.code(), 0, "{}", a.stderr);
    let candidates = events(&path, "a", "local-candidate");
    let [only] = candidates.as_slice() else { panic!("{candidates:#?}") };
    assert_eq!(only["base"], format!("127.0.0.2:{port}"));
}

#[test]
fn an_interface_can_be_chosen_and_left_out() {
    let server = Server::start();
    let directory = directory();
    let (path, name) = file(&directory, "i");
    let arguments = |room, more: [&'static str; 2]| {
        let common = ["offer", "--signal", &server.url, "--room", room, "--wait", "2s", "--record", &name];
        let all: Vec<&str> = common.into_iter().chain(more).collect();
        Process::start(&all, &[]).finish()
    };
    let chosen = arguments("i", ["--interface", "lo"]);
    let bases: Vec<Value> = events(&path, "a", "local-candidate").iter().map(|event| event["base"].clone()).collect();
    let loopback =
        |base: &Value| base.as_str().is_some_and(|base| base.starts_with("127.") || base.starts_with("[::1]"));
    assert!(!bases.is_empty() && bases.iter().all(loopback), "{bases:?}\n{}", chosen.stderr);
    arguments("x", ["--exclude-interface", "lo"]);
    let bases: Vec<Value> = events(&path, "a", "local-candidate").iter().map(|event| event["base"].clone()).collect();
    assert!(!bases.iter().any(loopback), "{bases:?}");
    let absent = arguments("n", ["--interface", "nowhere0"]);
    assert_eq!(absent.code(), 2);
    assert!(absent.stderr.contains("hint: check --interface"), "{}", absent.stderr);
}

#[test]
fn the_turn_password_comes_from_a_file_or_the_environment_and_is_shown_nowhere() {
    let directory = directory();
    let (users, users_name) = file(&directory, "users");
    std::fs::write(users, "alice:wonderland-7\n").expect("a file");
    let (secret, secret_name) = file(&directory, "password");
    std::fs::write(secret, "wonderland-7\n").expect("a file");
    let server = Server::start_with(&["--turn-users-file", &users_name]);
    let turn = format!("turn:{}", server.turn);
    let by_file = ["--turn-password-file", secret_name.as_str()];
    for (room, more, environment) in
        [("f", &by_file[..], &[][..]), ("e", &[], &[("TURN_PASSWORD", "wonderland-7")][..])]
    {
        let (path, name) = file(&directory, room);
        let options = [&["--turn", &turn, "--turn-user", "alice"][..], more].concat();
        let a = offer(&server, room, &name, &options, environment);
        assert_eq!(a.code(), 0, "{}", a.stderr);
        assert!(!events(&path, "a", "allocated").is_empty(), "no allocation: {}", a.stderr);
        let recording = std::fs::read_to_string(&path).expect("a recording");
        for text in [&recording, &a.stdout, &a.stderr] {
            assert!(!text.contains("wonderland-7"), "the password is in:\n{text}");
        }
    }
}

#[test]
fn nothing_is_measured_before_the_file_that_was_named_is_there() {
    let server = Server::start();
    let directory = directory();
    let (path, name) = file(&directory, "held");
    let (go, go_name) = file(&directory, "go");
    let b = server.peer("answer", "held", &["--measure-after", &go_name]);
    let a = server.peer("offer", "held", &["--measure-after", &go_name, "--record", &name]);
    a.wait_for("is open");
    b.wait_for("is open");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let so_far = std::fs::read_to_string(&path).expect("a recording");
    assert!(!so_far.contains("channel-ping"), "it has measured already");
    std::fs::write(go, "").expect("a file");
    let a = a.finish();
    b.finish();
    assert_eq!(a.code(), 0, "{}", a.stderr);
    assert!(!events(&path, "a", "round-trips").is_empty(), "{}", a.stderr);
}
