//! Both sides read the same account, and so does whoever reads the recordings.

use crate::support::{Finished, Server, directory, file, report};

fn both(server: &Server, room: &str, first: &str, offer: &[&str], answer: &[&str]) -> (Finished, Finished) {
    let (a, b) = if first == "offer" {
        let a = server.peer("offer", room, offer);
        a.wait_for("signaling: connected");
        (a, server.peer("answer", room, answer))
    } else {
        let b = server.peer("answer", room, answer);
        b.wait_for("signaling: connected");
        (server.peer("offer", room, offer), b)
    };
    (a.finish(), b.finish())
}

#[test]
fn both_sides_print_the_same_account_whoever_starts_first() {
    let server = Server::start();
    for first in ["offer", "answer"] {
        let (a, b) = both(&server, first, first, &[], &[]);
        assert_eq!((a.code(), b.code()), (0, 0), "{first} first:\n{}\n{}", a.stderr, b.stderr);
        assert_eq!(a.stdout, b.stdout, "{first} first");
        assert!(a.stdout.starts_with("DIRECT"), "{}", a.stdout);
    }
}

#[test]
fn recordings_give_the_account_again_byte_for_byte() {
    let server = Server::start();
    let directory = directory();
    let ((a_path, a_name), (b_path, b_name)) = (file(&directory, "a.jsonl"), file(&directory, "b.jsonl"));
    for format in ["text", "json"] {
        let common = ["--format", format, "--record"];
        let (a, b) =
            both(&server, format, "answer", &[&common[..], &[&a_name]].concat(), &[&common[..], &[&b_name]].concat());
        assert_eq!((a.code(), b.code()), (0, 0), "{}\n{}", a.stderr, b.stderr);
        assert_eq!(a.stdout, b.stdout);
        for path in [&a_path, &b_path] {
            let recording = std::fs::read_to_string(path).expect("a recording");
            assert!(recording.contains("\"seen_as\":\"127.0.0.1\""), "the server tells each side where it sees it");
        }
        for files in [&[&a_path][..], &[&b_path], &[&a_path, &b_path], &[&b_path, &a_path]] {
            let files: Vec<_> = files.iter().map(|path| path.as_path()).collect();
            let replayed = report(&files, &["--format", format]);
            assert_eq!(replayed.stdout, a.stdout, "{format} from {files:?}: {}", replayed.stderr);
            assert_eq!(replayed.code(), 0);
        }
    }
}

#[test]
fn a_relayed_session_is_called_relayed_on_both_sides() {
    let server = Server::start();
    let (a, b) =
        both(&server, "r", "answer", &["--relay-only", "--format", "json"], &["--relay-only", "--format", "json"]);
    assert_eq!((a.code(), b.code()), (1, 1), "{}\n{}", a.stderr, b.stderr);
    assert_eq!(a.stdout, b.stdout);
    let account: serde_json::Value = serde_json::from_str(&a.stdout).expect("the account is JSON");
    assert_eq!(account["schema"], "whyrelay.report/1");
    assert_eq!(account["path"], "relayed");
    assert_eq!(account["selected_pair"]["local"]["type"], "relay");
    // What the relay alone does not show: the servers are asked from a plain socket, which is announced.
    assert!(
        a.stderr.contains("asking STUN servers from a plain program's socket, because the session asks a relay alone")
    );
    let probes = account["probes"].as_array().expect("probes");
    let asked = |side: &str| {
        let of_side =
            |probe: &&serde_json::Value| probe["side"].as_str().is_some_and(|is| is.eq_ignore_ascii_case(side));
        probes
            .iter()
            .filter(of_side)
            .map(|probe| (probe["probe"].as_str(), probe["answered"].as_bool()))
            .collect::<Vec<_>>()
    };
    for side in ["a", "b"] {
        let asked = asked(side);
        assert!(!asked.is_empty(), "{side}");
        assert!(asked.iter().all(|probe| *probe == (Some("as a plain program, of a server"), Some(true))), "{asked:?}");
    }
}

#[test]
fn a_pair_that_cannot_connect_is_called_failed_within_seconds_on_both_sides() {
    // Relay only, but the server relays nothing: no candidate can exist.
    let server = Server::start_with(&["--no-turn"]);
    let started = std::time::Instant::now();
    let only = ["--relay-only", "--format", "json"];
    let (a, b) = both(&server, "f", "answer", &only, &only);
    assert_eq!((a.code(), b.code()), (1, 1), "{}\n{}", a.stderr, b.stderr);
    assert_eq!(a.stdout, b.stdout);
    let account: serde_json::Value = serde_json::from_str(&a.stdout).expect("the account is JSON");
    assert_eq!(account["path"], "failed");
    // Generous: the session's own limit is 30 s, and this must not be what ended it.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn the_go_labs_flags_work() {
    let server = Server::start();
    let arguments = |role: &'static str, address: &'static str| {
        vec!["-role", role, "-signaling-addr", &server.url, "-with-turn=false", "--address", address]
    };
    let b = crate::support::Process::start(&arguments("answerer", "127.0.0.3"), &[]);
    let a = crate::support::Process::start(&arguments("offerer", "127.0.0.2"), &[]);
    let (a, b) = (a.finish(), b.finish());
    assert_eq!((a.code(), b.code()), (0, 0), "{}\n{}", a.stderr, b.stderr);
    assert!(!a.stdout.contains(" relay "), "{}", a.stdout);
}

#[test]
fn the_demo_tells_two_stories_in_either_world() {
    // Where namespaces are not allowed both are in virtual time, and it says so; in CI they are.
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
    let kernel = "building networks from network namespaces";
    let possible = if in_ci { [kernel, "the network was up in"] } else { ["network", "namespaces"] };
    let asked_for = ["in virtual time", "as asked for"];
    for (arguments, world) in [(&["demo"][..], possible), (&["demo", "--virtual"], asked_for)] {
        let demo = crate::support::Process::start(arguments, &[]).finish();
        assert_eq!(demo.code(), 0, "{}", demo.stderr);
        assert!(world.iter().all(|words| demo.stderr.contains(words)), "{}", demo.stderr);
        let (homes, vpn) = demo.stdout.split_once("Story 2:").expect("a second story");
        assert!(homes.contains("RELAYED") && homes.contains("endpoint-dependent-mapping"), "{}", demo.stdout);
        assert!(vpn.contains("whyrelay offer): DIRECT"), "{}", demo.stdout);
        assert!(vpn.contains("RELAYED") && vpn.contains("mark-rule-collision"), "{}", demo.stdout);
    }
}

#[test]
fn the_demo_gives_one_account_to_programs() {
    for (arguments, name) in [(&[][..], "mark-rule-collision"), (&["--story", "homes"], "endpoint-dependent-mapping")] {
        let arguments = [&["demo", "--virtual", "--format", "json"], arguments].concat();
        let demo = crate::support::Process::start(&arguments, &[]).finish();
        assert_eq!(demo.code(), 0, "{}", demo.stderr);
        let account: serde_json::Value = serde_json::from_str(&demo.stdout).expect("one JSON object");
        assert_eq!(account["path"], "relayed", "{}", demo.stdout);
        let first = account["findings"][0]["name"].as_str().unwrap_or_default();
        assert_eq!(first, name, "{}", demo.stdout);
    }
}

#[test]
fn pseudonyms_agree_on_both_sides_when_either_asks_for_them() {
    let server = Server::start();
    let directory = directory();
    for (room, offer, answer) in [("x", &["--redact"][..], &[][..]), ("y", &[], &["--redact"])] {
        let ((a_path, a_name), (b_path, b_name)) =
            (file(&directory, &format!("{room}a")), file(&directory, &format!("{room}b")));
        let (a, b) = both(
            &server,
            room,
            "answer",
            &[offer, &["--record", &a_name]].concat(),
            &[answer, &["--record", &b_name]].concat(),
        );
        assert_eq!((a.code(), b.code()), (0, 0), "{}\n{}", a.stderr, b.stderr);
        assert_eq!(a.stdout, b.stdout, "{room}");
        for text in [&a.stdout, &std::fs::read_to_string(&a_path).unwrap(), &std::fs::read_to_string(&b_path).unwrap()]
        {
            for original in ["127.0.0.2:", "127.0.0.3:", "offer-peer-1"] {
                assert!(!text.contains(original), "{room}: {original} is in:\n{text}");
            }
        }
        assert_eq!(report(&[&a_path, &b_path], &[]).stdout, a.stdout);
    }
}

#[test]
fn a_peer_that_is_asked_for_pseudonyms_keeps_no_original_in_either_file() {
    let server = Server::start();
    let directory = directory();
    let ((record, record_name), (capture, capture_name)) = (file(&directory, "r"), file(&directory, "c"));
    let more = ["--record", &record_name, "--pcap", &capture_name];
    // Not 127.0.0.2: those four bytes are in a capture by chance, from a port, lengths and padding.
    let b = server.peer_at("127.83.91.203", "answer", "z", &more, &[]);
    b.wait_for("signaling: connected");
    let a = server.peer_at("127.83.91.202", "offer", "z", &["--redact"], &[]);
    let (a, b) = (a.finish(), b.finish());
    assert_eq!((a.code(), b.code()), (0, 0), "{}\n{}", a.stderr, b.stderr);
    assert!(b.stderr.contains("the other side wants pseudonyms"), "{}", b.stderr);
    let capture = std::fs::read(&capture).unwrap();
    for original in [[127, 83, 91, 202], [127, 83, 91, 203]] {
        assert!(!capture.windows(4).any(|bytes| bytes == original), "{original:?} is in the capture");
    }
    assert!(capture.len() > 2000, "datagrams are in it: {} bytes", capture.len());
    assert_eq!(report(&[&record], &[]).stdout, b.stdout);
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_capture_is_written_as_it_happens_and_from_a_recording() {
    let server = Server::start();
    let directory = directory();
    let ((live, live_name), (_, record_name)) = (file(&directory, "live"), file(&directory, "record"));
    let (later, later_name) = file(&directory, "later");
    let (a, b) = both(&server, "p", "answer", &["--pcap", &live_name, "--record", &record_name], &[]);
    assert_eq!((a.code(), b.code()), (0, 0), "{}\n{}", a.stderr, b.stderr);
    let replayed = crate::support::Process::start(&["report", &record_name, "--pcap", &later_name], &[]).finish();
    assert_eq!(replayed.code(), 0, "{}", replayed.stderr);
    let (live, later) = (std::fs::read(live).unwrap(), std::fs::read(later).unwrap());
    // Section header block, little endian.
    assert_eq!(live.get(..4), Some(&[0x0A, 0x0D, 0x0D, 0x0A][..]));
    assert_eq!(live, later);
}
