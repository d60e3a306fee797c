//! Any sequence of datagrams, from clients with and without a password and from peers, against the TURN server: it
//! never panics, is drained in bounded time, and holds no more than its bounds.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use whyrelay_core::engine::turn_server::{
    Client, ClientTransport, Credentials, Input, ListenerId, Output, StreamId, TurnConfig, TurnServer,
};
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::Key;
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

/// Attributes that a request is built of: type and value.
fn attributes<'a>(mut rest: &'a [u8]) -> Vec<(AttributeType, &'a [u8])> {
    let mut found = Vec::new();
    while let [kind, length, more @ ..] = rest {
        let kinds = [0x0D_u16, 0x12, 0x13, 0x17, 0x19, 0x0C, 0x18, 0x1A, 0x22, 0x8000, 0x06, 0x7777];
        let kind = kinds[usize::from(*kind) % kinds.len()];
        let (value, later) = more.split_at(usize::from(*length % 24).min(more.len()));
        found.push((AttributeType(kind), value));
        rest = later;
    }
    found
}

fuzz_target!(|bytes: &[u8]| {
    let config = TurnConfig { credentials: Credentials::none().with_user("u", "p"), ..TurnConfig::default() };
    let bound = config.limits.allocations_per_user;
    let mut server = TurnServer::new(config, Random::from_number(1));
    let mut now = Timestamp::from_micros(1_000_000_000);
    let key = Key::long_term("u", "whyrelay", "p");
    let mut nonce = String::new();
    let mut relays = Vec::new();
    let mut port = 50_000;
    let mut rest = bytes;
    while let [what, length, more @ ..] = rest {
        let (data, later) = more.split_at(usize::from(*length).min(more.len()));
        rest = later;
        let source = SocketAddr::from(([192, 0, 2, *what & 3], 1000));
        let stream = what & 4 != 0;
        let transport = if stream {
            ClientTransport::Stream(StreamId(u64::from(what & 3)))
        } else {
            ClientTransport::Udp(ListenerId(0))
        };
        let client = Client { transport, source };
        let built;
        let input = match what >> 4 {
            0..=3 => Input::FromClient { client, bytes: data },
            // An authenticated request of a method.
            method @ 4..=11 => {
                let methods = [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND];
                let request =
                    MessageBuilder::new(Class::Request, methods[usize::from(method) % 4], TransactionId([*length; 12]));
                let request = attributes(data).into_iter().fold(request, |b, (kind, value)| b.attribute(kind, value));
                built = request
                    .text(AttributeType::USERNAME, "u")
                    .text(AttributeType::REALM, "whyrelay")
                    .text(AttributeType::NONCE, &nonce)
                    .integrity(&key)
                    .build();
                Input::FromClient { client, bytes: &built }
            }
            12 => Input::StreamClosed { client },
            13 => match relays.last() {
                Some(relay) => Input::FromPeer { relay: *relay, peer: source, bytes: data },
                None => Input::Timeout,
            },
            _ => {
                now += Duration::from_secs(u64::from(*length) * 10);
                Input::Timeout
            }
        };
        server.handle_input(now, input);
        let mut outputs = 0;
        loop {
            outputs += 1;
            assert!(outputs < 10_000, "it must come to rest");
            match server.poll_output() {
                Output::SendToClient { bytes, .. } => {
                    if let Ok(message) = Message::decode(&bytes)
                        && let Some(fresh) = message.text(AttributeType::NONCE)
                    {
                        nonce = fresh.to_owned();
                    }
                }
                Output::OpenRelay { relay, .. } => {
                    relays.push(relay);
                    port = if port == 65_000 { 50_000 } else { port + 1 };
                    let address = SocketAddr::from(([198, 51, 100, 1], port));
                    server.handle_input(now, Input::RelayOpened { relay, address });
                }
                Output::CloseRelay { relay } => relays.retain(|open| *open != relay),
                Output::SendFromRelay { .. } => {}
                Output::Timeout(_) => break,
            }
        }
        assert!(server.allocations() <= bound);
        assert_eq!(server.allocations(), relays.len());
    }
});
