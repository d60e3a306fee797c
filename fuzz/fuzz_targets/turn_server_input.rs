//! Any sequence of datagrams, from clients with and without a password and from peers, against the TURN server with all
//! that it can serve: time-limited credentials, behavior discovery on addresses of its own and beside another server,
//! probes. It never panics, is drained in bounded time, holds no more than its bounds, and sends strangers little.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use whyrelay_core::engine::turn_server::{
    Alternate, Client, ClientTransport, Credentials, Discovery, DiscoverySocket, Family, Input, ListenerId, Output,
    SharedSecret, StreamId, TurnConfig, TurnServer,
};
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::Key;
use whyrelay_core::wire::probe;
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

/// Sessions of probes that one source may have, and the sources that there are here.
const PROBES: usize = 8 * 4;

/// What allocations of one user may be there.
const ALLOCATIONS: usize = 6;

/// Attributes that a request is built of: type and value.
fn attributes(mut rest: &[u8]) -> Vec<(AttributeType, &[u8])> {
    let mut found = Vec::new();
    while let [kind, length, more @ ..] = rest {
        let kinds = [
            0x0D_u16, 0x12, 0x13, 0x17, 0x19, 0x0C, 0x18, 0x1A, 0x22, 0x8000, 0x06, 0x7777, 0x03, 0x26, 0x27, 0x7F50,
            0x7F51, 0x7F52, 0x7F53, 0x7F55,
        ];
        let kind = kinds[usize::from(*kind) % kinds.len()];
        let (value, later) = more.split_at(usize::from(*length % 24).min(more.len()));
        found.push((AttributeType(kind), value));
        rest = later;
    }
    found
}

fn socket(listener: u16, address: &str) -> DiscoverySocket {
    DiscoverySocket { listener: ListenerId(listener), address: address.parse().expect("an address") }
}

fn secret() -> SharedSecret {
    SharedSecret::new("north").expect("a secret")
}

/// Listener 0 is the STUN port; 1 to 4 are discovery over IPv4, on two addresses of this server; 5 and 6 over IPv6, beside
/// another server.
fn config(serves_unproven: bool) -> TurnConfig {
    let here = Discovery {
        primary: [socket(1, "198.41.0.1:3479"), socket(2, "198.41.0.1:3480")],
        alternate: Alternate::Here([socket(3, "198.41.0.2:3479"), socket(4, "198.41.0.2:3480")]),
        serves_unproven,
    };
    let beside = Discovery {
        primary: [socket(5, "[2a00::1]:3479"), socket(6, "[2a00::1]:3480")],
        alternate: Alternate::Server { ip: "2a00::2".parse().expect("an address"), secret: secret() },
        serves_unproven,
    };
    let mut config = TurnConfig {
        credentials: Credentials::none().with_user("u", "p").with_secret(secret()),
        discovery: vec![here, beside],
        strict_expiry: serves_unproven,
        ..TurnConfig::default()
    };
    config.limits.allocations_per_user = ALLOCATIONS / 2;
    config.limits.allocations = ALLOCATIONS;
    config.limits.bytes_per_second = Some(10_000);
    config.limits.total_bytes_per_second = Some(15_000);
    config
}

fuzz_target!(|bytes: &[u8]| {
    let [choices, rest @ ..] = bytes else { return };
    let mut server = TurnServer::new(config(choices & 1 != 0), Random::from_number(1));
    let mut now = Timestamp::from_micros(1_000_000_000);
    let limited = secret().credentials("u", now + Duration::from_secs(1000));
    let users = [("u", "p"), (limited.username.as_str(), limited.password.as_str())];
    let mut nonce = String::new();
    let mut token = Vec::new();
    // What is open, and whether it may be one of a pair.
    let mut relays = Vec::new();
    let mut port = 50_000;
    let mut rest = rest;
    while let [what, length, more @ ..] = rest {
        let (data, later) = more.split_at(usize::from(*length).min(more.len()));
        rest = later;
        let stream = what & 4 != 0;
        let listener = if what & 8 != 0 { u16::from(*length) % 7 } else { 0 };
        let source = match (listener, what & 3) {
            // The other server.
            (5 | 6, 3) => SocketAddr::from(([0x2a00, 0, 0, 0, 0, 0, 0, 2], 3479)),
            (5 | 6, host) => SocketAddr::from(([0x2a00, 0, 0, u16::from(host), 0, 0, 0, 9], 1000)),
            (_, host) => SocketAddr::from(([192, 0, 2, host], 1000)),
        };
        let transport = if stream {
            ClientTransport::Stream(StreamId(u64::from(what & 3)))
        } else {
            ClientTransport::Udp(ListenerId(listener))
        };
        let client = Client { transport, source };
        let id = TransactionId([*length; 12]);
        let built;
        let (mut unproven, mut asked) = (0, 0);
        let input = match what >> 4 {
            0..=2 => Input::FromClient { client, bytes: data },
            // A Binding request, a PROBE, or a FORWARD, with what proves the source if there is any.
            method @ 3..=5 => {
                let (class, method) = match method {
                    3 => (Class::Request, Method::BINDING),
                    4 => (Class::Request, Method::PROBE),
                    _ => (Class::Indication, Method::FORWARD),
                };
                let mut message = MessageBuilder::new(class, method, id);
                if class == Class::Indication {
                    let peer = SocketAddr::from(([0x2a00, 0, 0, 1, 0, 0, 0, 9], 1000));
                    message = message
                        .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
                        .attribute(AttributeType::PROBE_PORT, &probe::port_value(3479))
                        .u64(AttributeType::PROBE_TIME, now.as_micros());
                }
                message = attributes(data).into_iter().fold(message, |b, (kind, value)| b.attribute(kind, value));
                if !data.is_empty() && data.len() % 2 == 0 {
                    message = message.text(AttributeType::NONCE, &nonce);
                    if !token.is_empty() {
                        message = message.attribute(AttributeType::PROBE_TOKEN, &token);
                    }
                }
                built = message.build();
                if method == Method::BINDING {
                    asked = built.len();
                    unproven = if data.is_empty() { asked } else { 0 };
                }
                Input::FromClient { client, bytes: &built }
            }
            // An authenticated request of a method.
            method @ 6..=11 => {
                let methods = [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND];
                let request = MessageBuilder::new(Class::Request, methods[usize::from(method) % 4], id);
                let request = attributes(data).into_iter().fold(request, |b, (kind, value)| b.attribute(kind, value));
                let (name, password) = users[usize::from(*length) % users.len()];
                built = request
                    .text(AttributeType::USERNAME, name)
                    .text(AttributeType::REALM, "whyrelay")
                    .text(AttributeType::NONCE, &nonce)
                    .integrity(&Key::long_term(name, "whyrelay", password))
                    .build();
                Input::FromClient { client, bytes: &built }
            }
            12 => Input::StreamClosed { client },
            13 | 14 => match relays.get(usize::from(*length) % relays.len().max(1)) {
                Some(relay) => Input::FromPeer { relay: *relay, peer: source, bytes: data },
                None => Input::Timeout,
            },
            _ => {
                match data {
                    [1, ..] => server.set_wall_clock(now, Timestamp::from_micros(u64::from(*length) << 32)),
                    [2, ..] => server.set_discovery_secret(&secret()),
                    [3, 3, 3, ..] => server.drain(),
                    [4, ..] => server.set_credentials(Credentials::none().with_secret(secret())),
                    _ => now += Duration::from_secs(u64::from(*length) * 10),
                }
                Input::Timeout
            }
        };
        server.handle_input(now, input);
        let mut outputs = 0;
        loop {
            outputs += 1;
            assert!(outputs < 10_000, "it must come to rest");
            match server.poll_output() {
                Output::SendToClient { client: to, bytes } => {
                    if unproven > 0 && choices & 1 == 0 {
                        // Of IPv6 the mapped address alone is more.
                        let least = if to.source.is_ipv4() { 32 } else { 44 };
                        assert!(bytes.len() <= (unproven * 8 / 5).max(least), "{} for {unproven}", bytes.len());
                    }
                    if let Ok(message) = Message::decode(&bytes) {
                        let is_challenge = message.error_code().is_some_and(|error| error.code == 438);
                        if is_challenge && asked > 0 {
                            assert!(bytes.len() <= asked * 8 / 5, "{} for {asked}", bytes.len());
                        }
                        if let Some(fresh) = message.text(AttributeType::NONCE) {
                            nonce = fresh.to_owned();
                        }
                        if let Some(fresh) = message.attribute(AttributeType::PROBE_TOKEN) {
                            token = fresh.value.to_vec();
                        }
                    }
                }
                Output::OpenRelay { relay, family, .. } => {
                    relays.push(relay);
                    port = if port == 65_000 { 50_000 } else { port + 1 };
                    let address = match family {
                        Family::Ipv4 => SocketAddr::from(([198, 41, 0, 1], port)),
                        Family::Ipv6 => SocketAddr::from(([0x2a00, 0, 0, 0, 0, 0, 0, 1], port)),
                    };
                    server.handle_input(now, Input::RelayOpened { relay, address });
                }
                Output::CloseRelay { relay } => relays.retain(|open| *open != relay),
                Output::SendFromRelay { .. } => {}
                Output::Timeout(_) => break,
            }
        }
        let (allocations, probes) = (server.allocations(), server.probe_sessions());
        assert!(allocations <= ALLOCATIONS && probes <= PROBES, "{allocations} {probes}");
        assert!((allocations + probes..=2 * allocations + probes).contains(&relays.len()), "{}", relays.len());
        assert!(server.take_refusals().len() <= 16);
    }
});
