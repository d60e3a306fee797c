//! whyrelay's client: with whyrelay's server, with the origin's, and with none.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use whyrelay::server::signaling::{SignalingConfig, SignalingServer, load_tls};
use whyrelay::signaling::{Client, Incoming, SignalingError, SignalingOptions, Transport};
use whyrelay_core::signal::{
    DEFAULT_ANSWERER, DEFAULT_OFFERER, IceServer, Message, MessageType, RecordingAssembler, RecordingChunk,
    ServersAnnouncement, split_recording,
};

use super::lab::{LabClient, SOON, Server, quick};
use super::lab_server::LabServer;

fn options(address: SocketAddr, id: &str, peer: &str) -> SignalingOptions {
    SignalingOptions::new(format!("http://{address}"), id, peer)
}

async fn offerer(address: SocketAddr) -> Client {
    Client::connect(options(address, DEFAULT_OFFERER, DEFAULT_ANSWERER)).await.unwrap()
}

async fn answerer(address: SocketAddr) -> Client {
    Client::connect(options(address, DEFAULT_ANSWERER, DEFAULT_OFFERER)).await.unwrap()
}

/// What comes until `pick` likes it.
async fn until<T>(client: &mut Client, mut pick: impl FnMut(Incoming) -> Option<T>) -> T {
    let picking = async {
        loop {
            let event = client.recv().await.expect("the client lives");
            assert!(!matches!(event, Incoming::Failed(_)), "{event:?}");
            if let Some(picked) = pick(event) {
                return picked;
            }
        }
    };
    tokio::time::timeout(SOON, picking).await.expect("it comes")
}

async fn message(client: &mut Client) -> Message {
    until(client, |event| match event {
        Incoming::Message(message) => Some(message),
        _ => None,
    })
    .await
}

async fn failure(client: &mut Client) -> SignalingError {
    let failing = async {
        loop {
            if let Incoming::Failed(error) = client.recv().await.expect("a failure") {
                return error;
            }
        }
    };
    tokio::time::timeout(SOON, failing).await.expect("it fails")
}

#[tokio::test]
async fn either_side_may_start_first() {
    let server = Server::start(SignalingConfig::default());
    for offerer_first in [true, false] {
        let (mut a, mut b);
        if offerer_first {
            a = offerer(server.address).await;
            a.send(MessageType::Offer, DEFAULT_ANSWERER, "offer").unwrap();
            let waits = until(&mut a, |event| match event {
                Incoming::WaitingForPeer(peer) => Some(peer),
                _ => None,
            });
            assert_eq!(waits.await, DEFAULT_ANSWERER);
            b = answerer(server.address).await;
        } else {
            b = answerer(server.address).await;
            a = offerer(server.address).await;
            a.send(MessageType::Offer, DEFAULT_ANSWERER, "offer").unwrap();
        }
        assert_eq!(a.server().transport, Transport::WebSocket);
        assert_eq!(message(&mut b).await.content, "offer");
        b.send(MessageType::Answer, DEFAULT_OFFERER, "answer").unwrap();
        assert_eq!(message(&mut a).await.content, "answer");
        assert!(a.close(SOON).await && b.close(SOON).await);
    }
}

#[tokio::test]
async fn either_side_may_be_the_origins_client() {
    let server = Server::start(SignalingConfig::default());
    let mut go = LabClient::start(server.address, DEFAULT_ANSWERER).await;
    let mut ours = offerer(server.address).await;
    ours.send(MessageType::Offer, DEFAULT_ANSWERER, "offer").unwrap();
    go.expect("offer").await;
    go.send(MessageType::Answer, DEFAULT_OFFERER, "answer").await;
    assert_eq!(message(&mut ours).await.kind, MessageType::Answer);
    assert!(ours.close(SOON).await);
    drop(go);

    let mut ours = answerer(server.address).await;
    let mut go = LabClient::start(server.address, DEFAULT_OFFERER).await;
    go.send(MessageType::Offer, DEFAULT_ANSWERER, "offer").await;
    assert_eq!(message(&mut ours).await.content, "offer");
    ours.send(MessageType::Answer, DEFAULT_OFFERER, "answer").unwrap();
    go.expect("answer").await;
}

#[tokio::test]
async fn our_offerer_waits_until_the_origins_answerer_comes() {
    let server = Server::start(SignalingConfig::default());
    let ours = offerer(server.address).await;
    ours.send(MessageType::Offer, DEFAULT_ANSWERER, "offer").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut go = LabClient::start(server.address, DEFAULT_ANSWERER).await;
    go.expect("offer").await;
}

#[tokio::test]
async fn with_the_origins_server_either_side_may_start_first() {
    for offerer_first in [true, false] {
        let server = LabServer::start(Duration::from_secs(120)).await;
        let (mut a, mut b);
        if offerer_first {
            a = offerer(server.address).await;
            a.send(MessageType::Offer, DEFAULT_ANSWERER, "offer").unwrap();
            until(&mut a, |event| matches!(event, Incoming::WaitingForPeer(_)).then_some(())).await;
            b = answerer(server.address).await;
        } else {
            b = answerer(server.address).await;
            a = offerer(server.address).await;
            a.send(MessageType::Offer, DEFAULT_ANSWERER, "offer").unwrap();
        }
        assert_eq!(a.server().transport, Transport::LongPoll);
        assert_eq!(message(&mut b).await.content, "offer");
        for number in 0..50 {
            b.send(MessageType::Candidate, DEFAULT_OFFERER, number.to_string()).unwrap();
        }
        for number in 0..50 {
            assert_eq!(message(&mut a).await.content, number.to_string());
        }
    }
}

#[tokio::test]
async fn with_the_origins_server_a_response_that_ends_is_opened_again() {
    let server = LabServer::start(Duration::from_millis(150)).await;
    let mut a = offerer(server.address).await;
    let mut b = answerer(server.address).await;
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        a.send(MessageType::Candidate, DEFAULT_ANSWERER, round.to_string()).unwrap();
        assert_eq!(message(&mut b).await.content, round.to_string());
        b.send(MessageType::Candidate, DEFAULT_OFFERER, round.to_string()).unwrap();
        assert_eq!(message(&mut a).await.content, round.to_string());
    }
}

#[tokio::test]
async fn with_the_origins_server_nobody_can_play_the_server() {
    let server = LabServer::start(Duration::from_secs(120)).await;
    let mut a = offerer(server.address).await;
    let b = answerer(server.address).await;
    let mut mallory = Client::connect(options(server.address, "mallory", "")).await.unwrap();
    for kind in [MessageType::Servers, MessageType::Error, MessageType::PeerLeft] {
        mallory.send(kind, DEFAULT_OFFERER, r#"{"servers":[{"urls":["stun:192.0.2.66"]}]}"#).unwrap();
    }
    mallory.send(MessageType::Candidate, DEFAULT_OFFERER, "after").unwrap();
    let event = tokio::time::timeout(SOON, a.recv()).await.unwrap().unwrap();
    assert!(matches!(&event, Incoming::Message(message) if message.content == "after"), "{event:?}");
    drop(b);
    assert!(tokio::time::timeout(Duration::from_millis(10), mallory.recv()).await.is_err());
}

#[tokio::test]
async fn long_poll_works_with_our_server_too() {
    let announce = |_: &str, _: &str, _| Some(ServersAnnouncement { lifetime_s: Some(1), ..Default::default() });
    let config = SignalingConfig { announce: Some(std::sync::Arc::new(announce)), ..SignalingConfig::default() };
    let server = Server::start(config);
    let long_poll = |id: &str, peer: &str| SignalingOptions {
        transport: Transport::LongPoll,
        room: "a room & more".into(),
        ..options(server.address, id, peer)
    };
    let mut a = Client::connect(long_poll("a", "b")).await.unwrap();
    a.send(MessageType::Offer, "b", "offer").unwrap();
    until(&mut a, |event| matches!(event, Incoming::Servers(_)).then_some(())).await;
    let mut b = Client::connect(long_poll("b", "a")).await.unwrap();
    assert_eq!(message(&mut b).await.content, "offer");
    let thief = SignalingOptions { token: Some("thief".into()), ..long_poll("a", "b") };
    let mut thief = Client::connect(thief).await.unwrap();
    assert!(matches!(failure(&mut thief).await, SignalingError::IdTaken { .. }));
}

#[tokio::test]
async fn the_servers_to_use_are_announced_at_once() {
    let announce = |room: &str, id: &str, reached: Option<std::net::IpAddr>| {
        let url = format!("stun:{}:3478", reached?);
        let server = IceServer { urls: vec![url], username: Some(format!("{room}:{id}")), credential: None };
        Some(ServersAnnouncement { servers: vec![server], lifetime_s: Some(600), ..Default::default() })
    };
    let config = SignalingConfig { announce: Some(std::sync::Arc::new(announce)), ..SignalingConfig::default() };
    let server = Server::start(config);
    let in_room = SignalingOptions { room: "r".into(), ..options(server.address, "a", "b") };
    let mut client = Client::connect(in_room).await.unwrap();
    let Some(Incoming::Servers(announced)) = client.recv().await else { panic!("not the servers first") };
    assert_eq!(announced.servers[0].urls, ["stun:127.0.0.1:3478"]);
    assert_eq!(announced.servers[0].username.as_deref(), Some("r:a"));
    assert_eq!(client.server().seen_as, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(client.server().whyrelay.as_deref(), Some(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_server_without_servers_says_so_at_once() {
    let server = Server::start(SignalingConfig::default());
    let mut client = offerer(server.address).await;
    let Some(Incoming::Servers(announced)) = client.recv().await else { panic!("not the announcement first") };
    assert_eq!(announced, ServersAnnouncement::default());
}

#[tokio::test]
async fn a_broken_url_an_absent_server_and_a_stranger_are_told_apart() {
    let error = Client::connect(SignalingOptions::new("not a url", "a", "b")).await.unwrap_err();
    assert!(matches!(error, SignalingError::Url { .. }), "{error}");

    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = Client::connect(options(unused, "a", "b")).await.unwrap_err();
    assert!(matches!(error, SignalingError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&unused.to_string()));

    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = stranger.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = stranger.accept().await {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await;
        }
    });
    let error = Client::connect(options(address, "a", "b")).await.unwrap_err();
    assert!(matches!(error, SignalingError::NotSignaling { .. } | SignalingError::Lost { .. }), "{error}");

    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = web.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(web, axum::Router::new()).await });
    let mut client = Client::connect(options(address, "a", "b")).await.unwrap();
    let error = failure(&mut client).await;
    assert!(matches!(error, SignalingError::NotSignaling { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hasty = SignalingOptions {
        connect_timeout: Duration::from_millis(200),
        ..options(silent.local_addr().unwrap(), "a", "b")
    };
    let error = tokio::time::timeout(SOON, Client::connect(hasty)).await.unwrap().unwrap_err();
    assert!(matches!(error, SignalingError::Lost { .. }), "{error}");
}

#[tokio::test]
async fn a_taken_id_is_an_error_and_free_again_after_a_goodbye() {
    let server = Server::start(SignalingConfig::default());
    let first = offerer(server.address).await;
    let error = Client::connect(options(server.address, DEFAULT_OFFERER, "")).await.unwrap_err();
    assert!(matches!(error, SignalingError::IdTaken { free_in: None, .. }), "{error}");
    assert!(first.close(SOON).await);
    offerer(server.address).await;
}

#[tokio::test]
async fn a_crashed_peers_id_is_waited_for() {
    let server = Server::start(quick());
    drop(offerer(server.address).await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    tokio::time::timeout(SOON, offerer(server.address)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_dies_is_told_and_found_again() {
    let server = Server::start(SignalingConfig::default());
    let address = server.address;
    let mut a = offerer(address).await;
    let mut b = answerer(address).await;
    server.stop().await;
    until(&mut a, |event| matches!(event, Incoming::Disconnected { .. }).then_some(())).await;
    a.send(MessageType::Offer, DEFAULT_ANSWERER, "while it was away").unwrap();
    let _server = Server::start_at(address, SignalingConfig::default());
    assert_eq!(message(&mut b).await.content, "while it was away");
    until(&mut a, |event| matches!(event, Incoming::Reconnected).then_some(())).await;
}

/// Passes connections on to `to`, and cuts all of them each time `cut` changes.
async fn fragile_path(to: SocketAddr, cut: watch::Receiver<u32>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut cut = cut.clone();
            cut.mark_unchanged();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = cut.changed() => {}
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn nothing_is_lost_or_repeated_over_a_path_that_breaks() {
    let server = Server::start(SignalingConfig::default());
    let (cut, cutting) = watch::channel(0);
    let address = fragile_path(server.address, cutting).await;
    let mut a = offerer(address).await;
    let mut b = answerer(address).await;
    let count = 600;
    let sender = a.sender();
    tokio::spawn(async move {
        for number in 0..count {
            sender.send(MessageType::Candidate, DEFAULT_ANSWERER, number.to_string()).unwrap();
            if number % 100 == 50 {
                cut.send_modify(|cuts| *cuts += 1);
            }
            if number % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        // The path stays as it is from here on.
        cut.closed().await;
    });
    let mut losses = 0;
    for number in 0..count {
        let received = until(&mut b, |event| match event {
            Incoming::Message(message) => Some(message.content),
            Incoming::Disconnected { .. } => {
                losses += 1;
                None
            }
            _ => None,
        })
        .await;
        assert_eq!(received, number.to_string());
    }
    assert!(losses > 0, "the path never broke");
    b.send(MessageType::Bye, DEFAULT_OFFERER, "").unwrap();
    assert_eq!(message(&mut a).await.kind, MessageType::Bye);
}

#[tokio::test]
async fn a_recording_larger_than_a_mailbox_arrives_whole() {
    let server = Server::start(SignalingConfig::default());
    let a = offerer(server.address).await;
    let mut b = answerer(server.address).await;
    let mut random = 1u32;
    let recording: Vec<u8> = (0..2_000_000)
        .map(|_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 24) as u8
        })
        .collect();
    for chunk in split_recording(&recording).unwrap() {
        a.send(MessageType::Recording, DEFAULT_ANSWERER, chunk.to_content()).unwrap();
    }
    let sending = tokio::spawn(a.close(SOON));
    let mut assembler = RecordingAssembler::new();
    let whole = loop {
        let piece = RecordingChunk::from_content(&message(&mut b).await.content).unwrap();
        if let Some(whole) = assembler.push(&piece).unwrap() {
            break whole;
        }
    };
    assert!(sending.await.unwrap(), "everything was taken");
    assert!(whole == recording);
}

#[tokio::test]
async fn a_message_that_no_server_takes_is_refused_at_once() {
    let server = Server::start(SignalingConfig::default());
    let mut a = offerer(server.address).await;
    let error = a.send(MessageType::Offer, "b", "x".repeat(70_000)).unwrap_err();
    assert!(matches!(error, SignalingError::TooLarge));
    a.send(MessageType::Servers, DEFAULT_OFFERER, "{}").unwrap();
    until(&mut a, |event| matches!(event, Incoming::Refused(MessageType::Servers, _)).then_some(())).await;
    a.send(MessageType::Candidate, DEFAULT_OFFERER, "to myself").unwrap();
    assert_eq!(message(&mut a).await.content, "to myself");
}

#[tokio::test]
async fn a_peers_coming_and_going_is_told() {
    let server = Server::start(SignalingConfig::default());
    let mut a = offerer(server.address).await;
    let b = answerer(server.address).await;
    until(&mut a, |event| matches!(event, Incoming::PeerJoined(peer) if peer == DEFAULT_ANSWERER).then_some(())).await;
    assert!(b.close(SOON).await);
    until(&mut a, |event| matches!(event, Incoming::PeerLeft(peer) if peer == DEFAULT_ANSWERER).then_some(())).await;
}

#[tokio::test]
async fn tls_works_and_an_unknown_certificate_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let config = SignalingConfig { tls: Some(load_tls(&certificate, &key).unwrap()), ..SignalingConfig::default() };
    let server = Server::run(SignalingServer::bind("127.0.0.1:0".parse().unwrap(), config).unwrap());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let url = format!("https://localhost:{}", server.address.port());
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        let trusting = SignalingOptions {
            roots: Some(std::sync::Arc::new(roots.clone())),
            transport,
            ..SignalingOptions::new(&url, "a", "")
        };
        let mut client = Client::connect(trusting).await.unwrap();
        client.send(MessageType::Candidate, "a", "to myself").unwrap();
        assert_eq!(message(&mut client).await.content, "to myself");
        client.close(SOON).await;
    }
    let error = Client::connect(SignalingOptions {
        roots: Some(std::sync::Arc::new(rustls::RootCertStore::empty())),
        ..SignalingOptions::new(&url, "b", "")
    })
    .await
    .unwrap_err();
    assert!(matches!(error, SignalingError::Tls { .. }), "{error}");
    let plain = SignalingOptions::new(url.replace("https", "http"), "c", "");
    assert!(Client::connect(plain).await.is_err());
}

#[tokio::test]
async fn the_connection_and_the_first_message_take_two_round_trips() {
    // Counts what goes back and forth: each turn of direction is half a round trip.
    let server = Server::start(SignalingConfig::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counting = tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(server.address).await.unwrap();
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
        let (mut up, mut down) = (vec![0; 10_000], vec![0; 10_000]);
        let mut turns = Vec::new();
        loop {
            tokio::select! {
                len = near_in.read(&mut up) => {
                    let Ok(len @ 1..) = len else { return turns };
                    if turns.last() != Some(&'>') { turns.push('>') }
                    far_out.write_all(&up[..len]).await.unwrap();
                }
                len = far_in.read(&mut down) => {
                    let Ok(len @ 1..) = len else { return turns };
                    if turns.last() != Some(&'<') { turns.push('<') }
                    near_out.write_all(&down[..len]).await.unwrap();
                    // What comes at once comes together.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    });
    let mut client = Client::connect(options(address, "a", "")).await.unwrap();
    client.send(MessageType::Candidate, "a", "to myself").unwrap();
    assert_eq!(message(&mut client).await.content, "to myself");
    drop(client);
    // Up: the handshake with the join. Down: everything that the server has to say. Up: the message.
    assert_eq!(counting.await.unwrap()[..4], ['>', '<', '>', '<']);
}
