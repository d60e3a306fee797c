//! A stranger on the other end of signaling: whatever it says, the session says what was wrong with it, ends in the
//! ordinary way, and keeps its recording.

use whyrelay_core::signal::{DEFAULT_ANSWERER, DEFAULT_OFFERER, MessageType};

use crate::stranger::{SOUND, Stranger};
use crate::support::{Server, directory, file, report};

/// Descriptions that cannot be used, each with what is said of it.
fn garbage(setup: &str) -> Vec<(&'static str, String)> {
    let sound = SOUND.replace("SETUP", setup);
    vec![
        ("empty", String::new()),
        ("noise", "\u{1b}[2J\u{7}\u{0}{}]]>'\"; DROP".repeat(50)),
        ("no section", "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n".into()),
        ("no fingerprint", sound.replace("a=fingerprint", "a=nothing")),
        ("no password", sound.replace("a=ice-pwd", "a=nothing")),
    ]
}

#[test]
fn an_answer_that_is_garbage_is_said_and_the_recording_kept() {
    let (server, directory) = (Server::start(), directory());
    for (index, (what, text)) in garbage("active").into_iter().enumerate() {
        let room = format!("g{index}");
        let (path, name) = file(&directory, &format!("{room}.jsonl"));
        let mut stranger = Stranger::join(&server, &room, DEFAULT_ANSWERER);
        let a = server.peer("offer", &room, &["--record", &name, "--timeout", "5s"]);
        stranger.wait_for("offer");
        stranger.say(MessageType::Answer, DEFAULT_OFFERER, &text);
        let a = a.finish();
        assert_eq!(a.code(), 1, "{what}: {}", a.stderr);
        let said = a.stderr.lines().filter(|line| line.contains("the other side's answer cannot be used: ")).count();
        assert_eq!(said, 1, "{what}: {}", a.stderr);
        assert!(!a.stderr.contains('\u{1b}') && !a.stdout.contains('\u{1b}'), "{what} reached the terminal");
        assert!(a.stdout.starts_with("FAILED"), "{what}: {}", a.stdout);
        assert_eq!(report(&[&path], &[]).stdout, a.stdout, "{what}: the recording says something else");
    }
}

#[test]
fn an_offer_that_is_garbage_is_said_and_the_recording_kept() {
    let (server, directory) = (Server::start(), directory());
    for (index, (what, text)) in garbage("actpass").into_iter().enumerate() {
        let room = format!("o{index}");
        let (path, name) = file(&directory, &format!("{room}.jsonl"));
        let b = server.peer("answer", &room, &["--record", &name, "--timeout", "5s"]);
        b.wait_for("signaling: connected");
        let stranger = Stranger::join(&server, &room, DEFAULT_OFFERER);
        stranger.say(MessageType::Offer, DEFAULT_ANSWERER, &text);
        let b = b.finish();
        assert_eq!(b.code(), 1, "{what}: {}", b.stderr);
        assert!(b.stderr.contains("the other side's offer cannot be used: "), "{what}: {}", b.stderr);
        assert_eq!(report(&[&path], &[]).stdout, b.stdout, "{what}: the recording says something else");
    }
}

#[test]
fn candidate_lines_that_are_garbage_are_refused_one_by_one() {
    let (server, directory) = (Server::start(), directory());
    let (path, name) = file(&directory, "c.jsonl");
    let mut stranger = Stranger::join(&server, "c", DEFAULT_ANSWERER);
    let a = server.peer("offer", "c", &["--record", &name, "--timeout", "20s"]);
    stranger.wait_for("offer");
    let inside = "a=candidate:1 1 udp\r\na=candidate:\u{fffd}\r\n";
    let answer = format!("{}{inside}", SOUND.replace("SETUP", "active"));
    stranger.say(MessageType::Answer, DEFAULT_OFFERER, &answer);
    let lines = [
        "candidate:1 1 udp 2130706431 127.0.0.9 not-a-port typ host",
        "candidate:1 1 udp 99999999999999999999 127.0.0.9 1 typ host",
        "a password: hunter2",
        "candidate:\u{1b}[2J",
        "candidate:1 1 udp 1 127.0.0.9 65536 typ host",
        &"x".repeat(60_000),
    ];
    for line in lines {
        stranger.say(MessageType::Candidate, DEFAULT_OFFERER, line);
    }
    stranger.say(MessageType::EndOfCandidates, DEFAULT_OFFERER, "");
    let a = a.finish();
    assert_eq!(a.code(), 1, "{}", a.stderr);
    assert!(a.stdout.starts_with("FAILED"), "{}", a.stdout);
    let said = a.stderr.matches("a candidate of the other side cannot be read: ").count();
    assert_eq!(said, lines.len(), "{}", a.stderr);
    let recording = std::fs::read_to_string(&path).expect("signaling works");
    let refused = recording.lines().filter(|line| line.contains(r#""kind":"remote-candidate-refused""#)).count();
    assert_eq!(refused, lines.len() + 2, "{recording}");
    assert!(!recording.contains("hunter2"), "what is no candidate line may hold a password");
    assert_eq!(report(&[&path], &[]).stdout, a.stdout);
}

#[test]
fn a_stranger_in_the_room_does_not_disturb_a_pair() {
    let (server, directory) = (Server::start(), directory());
    let (path, name) = file(&directory, "s.jsonl");
    let mallory = Stranger::join(&server, "s", "mallory");
    let b = server.peer("answer", "s", &["--record", &name]);
    b.wait_for("signaling: connected");
    for kind in [MessageType::Offer, MessageType::Candidate, MessageType::Recording, MessageType::Bye] {
        mallory.say(kind, DEFAULT_ANSWERER, "garbage");
    }
    let a = server.peer("offer", "s", &[]).finish();
    let b = b.finish();
    for side in [&a, &b] {
        assert_eq!(side.code(), 0, "{}\n{}", side.stdout, side.stderr);
        assert!(side.stdout.starts_with("DIRECT"), "{}", side.stdout);
    }
    let recording = std::fs::read_to_string(&path).expect("signaling works");
    assert_eq!(recording.matches("it comes from another id than --peer names").count(), 4, "{recording}");
}
