//! Any sequence of candidates, checks right and wrong, answers, and time against an ICE agent: it never panics, comes
//! to rest after each input, and holds no more than its bounds.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use whyrelay_core::ice::candidate::{Candidate, CandidateTransport};
use whyrelay_core::ice::{Agent, Config, Credentials, Input, LocalCandidate, Output};
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{Role, Side};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::Key;
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

const OURS: &str = "our-password-our-password";
const THEIRS: &str = "their-password-their-pass";

fn candidate(kind: &str, address: SocketAddr, priority: u32) -> Candidate {
    let line = format!("candidate:1 1 udp {priority} {} {} typ {kind}", address.ip(), address.port());
    line.parse().expect("a candidate line")
}

fuzz_target!(|bytes: &[u8]| {
    let config = Config::new(
        if bytes.first().is_some_and(|b| b & 1 == 0) { Role::Controlling } else { Role::Controlled },
        Credentials::new("ours", OURS),
    );
    let pairs = config.limits.pairs;
    let mut now = Timestamp::from_micros(1_000_000_000);
    let mut agent = Agent::new(now, config, Random::from_number(1));
    let local = SocketAddr::from(([10, 0, 0, 1], 1000));
    let relayed = SocketAddr::from(([198, 51, 100, 1], 50_000));
    let mut asked: Vec<(SocketAddr, SocketAddr, Vec<u8>)> = Vec::new();
    let mut rest = bytes;
    while let [what, length, more @ ..] = rest {
        let (data, later) = more.split_at(usize::from(*length & 63).min(more.len()));
        rest = later;
        let byte = |n: usize| data.get(n).copied().unwrap_or_default();
        let remote = SocketAddr::from(([192, 0, 2, byte(0) & 15], 1000 + u16::from(byte(1) & 3)));
        let at = if byte(2) & 1 == 0 { local } else { relayed };
        let transport = CandidateTransport::Udp;
        let built;
        let input = match what % 16 {
            0 => Input::LocalCandidate(LocalCandidate::new(candidate("host", local, 2_130_706_431), local)),
            1 => Input::LocalCandidate(LocalCandidate::new(candidate("relay", relayed, 16_777_215), relayed)),
            2 => Input::RemoteCredentials(Credentials::new("their", THEIRS)),
            3 => match std::str::from_utf8(data).ok().and_then(|line| line.parse().ok()) {
                Some(candidate) => Input::RemoteCandidate { candidate, resolved: None },
                None => {
                    let kind = ["host", "srflx", "relay"][usize::from(byte(3)) % 3];
                    Input::RemoteCandidate {
                        candidate: candidate(kind, remote, u32::from(byte(4)) << 20),
                        resolved: None,
                    }
                }
            },
            4 => Input::RemoteEndOfCandidates,
            5 => Input::LocalEndOfCandidates,
            6 => Input::Datagram { transport, local: at, remote, bytes: data },
            // A check that is right.
            7 | 8 => {
                let role =
                    if byte(3) & 1 == 0 { AttributeType::ICE_CONTROLLING } else { AttributeType::ICE_CONTROLLED };
                let mut check = MessageBuilder::new(Class::Request, Method::BINDING, TransactionId([byte(4); 12]))
                    .text(AttributeType::USERNAME, "ours:their")
                    .u32(AttributeType::PRIORITY, u32::from(byte(5)) << 16)
                    .u64(role, u64::from(byte(6)));
                if byte(3) & 2 != 0 {
                    check = check.attribute(AttributeType::USE_CANDIDATE, b"");
                }
                built = check.integrity(&Key::short_term(OURS)).fingerprint().build();
                Input::Datagram { transport, local: at, remote, bytes: &built }
            }
            // An answer to something that was asked, right or with an error.
            9..=11 => match asked.pop() {
                Some((base, to, question)) => {
                    let question = Message::decode(&question).expect("what the agent sent");
                    let class = if byte(3) & 3 == 0 { Class::Error } else { Class::Success };
                    let answer = MessageBuilder::new(class, question.method, question.transaction);
                    let answer = match class {
                        Class::Error => answer.error(if byte(4) & 1 == 0 { 487 } else { 400 }, "no"),
                        _ => answer.xor_address(
                            AttributeType::XOR_MAPPED_ADDRESS,
                            if byte(5) & 1 == 0 { base } else { remote },
                        ),
                    };
                    built = answer.integrity(&Key::short_term(THEIRS)).fingerprint().build();
                    let from = if byte(6) & 7 == 0 { remote } else { to };
                    Input::Datagram { transport, local: base, remote: from, bytes: &built }
                }
                None => Input::Timeout,
            },
            12 => Input::PermissionGranted { relayed, peer: remote.ip() },
            13 => Input::PermissionDenied { relayed, peer: remote.ip(), code: Some(403) },
            14 => Input::Restart { credentials: Credentials::new("ours", OURS), side: Side::Local },
            _ => {
                now += Duration::from_millis(u64::from(*length) * 20);
                Input::Timeout
            }
        };
        agent.handle_input(now, input);
        let mut outputs = 0;
        loop {
            outputs += 1;
            assert!(outputs < 10_000, "it must come to rest");
            match agent.poll_output() {
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.bytes).expect("it sends STUN");
                    assert!(message.defects.is_empty());
                    if message.class == Class::Request && asked.len() < 64 {
                        asked.push((transmit.local, transmit.remote, transmit.bytes.clone()));
                    }
                }
                Output::Timeout(at) => {
                    assert!(at > now || asked.len() <= 64);
                    break;
                }
                _ => {}
            }
        }
        assert!(agent.checklist().len() <= pairs);
    }
});
