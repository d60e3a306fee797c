//! What comes when the session has given up: from a peer that is no whyrelay, which would have given up by then, too.
//! While that peer says that its probes are under way, the session is not over.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;
use whyrelay_core::signal::{DEFAULT_ANSWERER, DEFAULT_OFFERER, MessageType, PeerInfo, PeerProbing};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::builder::MessageBuilder;
use whyrelay_core::wire::integrity::Key;
use whyrelay_core::wire::stun::{Class, Message, Method};

use crate::stranger::{SOUND, Stranger};
use crate::support::{Process, Server, directory, file, report};

/// The password in [`SOUND`].
const PASSWORD: &str = "abcdefghijklmnopqrstuvwx";

/// An offerer whose peer is in our own hands: described, with probes under way, so that the offerer is heard for some time
/// when it has given up.
fn offerer<'a>(server: &'a Server, room: &'a str, record: &str, timeout: &str) -> (Process, Stranger<'a>) {
    let mut stranger = Stranger::join(server, room, DEFAULT_ANSWERER);
    let a = server.peer("offer", room, &["--record", record, "--no-tcp", "--timeout", timeout, "--format", "json"]);
    stranger.wait_for("offer");
    let hello = PeerInfo { features: vec!["probes".to_owned()], ..PeerInfo::default() };
    let probing = PeerProbing { under_way: Some(true), ..PeerProbing::default() };
    let json = |content: serde_json::Result<String>| content.expect("it serializes");
    stranger.say(MessageType::Hello, DEFAULT_OFFERER, &json(serde_json::to_string(&hello)));
    stranger.say(MessageType::Answer, DEFAULT_OFFERER, &SOUND.replace("SETUP", "active"));
    stranger.say(MessageType::Probe, DEFAULT_OFFERER, &json(serde_json::to_string(&probing)));
    (a, stranger)
}

/// The offerer's account says this first, and its recording says the same.
fn is_explained(a: Process, path: &std::path::Path, code: &str, blame: &str, words: &str) {
    let a = a.finish();
    let account: Value = serde_json::from_str(&a.stdout).expect("an account");
    assert_eq!((a.code(), &account["path"]), (1, &Value::from("failed")), "{}", a.stderr);
    let first = &account["findings"][0];
    assert_eq!((&first["code"], &first["blame"]), (&Value::from(code), &Value::from(blame)), "{}", account["findings"]);
    assert_eq!(first["severity"], "error", "{first}");
    assert!(first["summary"].as_str().is_some_and(|summary| summary.contains(words)), "{first}");
    assert_eq!(report(&[path], &["--format", "json"]).stdout, a.stdout);
}

#[test]
fn an_answer_that_comes_when_the_checks_were_given_up_is_named() {
    let (server, directory) = (Server::signaling_only(), directory());
    let (path, name) = file(&directory, "a.jsonl");
    let own = UdpSocket::bind("127.0.0.9:0").expect("a socket");
    own.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
    let (a, stranger) = offerer(&server, "late-answer", &name, "30s");
    let port = own.local_addr().expect("an address").port();
    let candidate = format!("candidate:1 1 udp 2130706431 127.0.0.9 {port} typ host");
    stranger.say(MessageType::Candidate, DEFAULT_OFFERER, &candidate);
    stranger.say(MessageType::EndOfCandidates, DEFAULT_OFFERER, "");
    let mut buffer = [0; 1500];
    let (length, remote) = own.recv_from(&mut buffer).expect("a check");
    let check = Message::decode(&buffer[..length]).expect("a check");
    a.wait_for("ICE failed: nothing is left to try");
    let answer = MessageBuilder::new(Class::Success, Method::BINDING, check.transaction)
        .xor_address(AttributeType::XOR_MAPPED_ADDRESS, remote)
        .integrity(&Key::short_term(PASSWORD))
        .fingerprint();
    own.send_to(&answer.build(), remote).expect("it is sent");
    is_explained(a, &path, "WR510", "path", "A gave up on 127.0.0.9:");
}

#[test]
fn candidates_that_come_when_the_time_was_over_are_named() {
    let (server, directory) = (Server::signaling_only(), directory());
    let (path, name) = file(&directory, "a.jsonl");
    let (a, stranger) = offerer(&server, "late-candidates", &name, "1s");
    a.wait_for("the time limit is over");
    let candidate = "candidate:1 1 udp 2130706431 127.0.0.9 9 typ host";
    stranger.say(MessageType::Candidate, DEFAULT_OFFERER, candidate);
    is_explained(a, &path, "WR706", "signaling", "Candidates of B reached A after it had given up");
}
