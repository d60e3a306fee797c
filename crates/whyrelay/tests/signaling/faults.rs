//! What brought the origin's server down, one test each, with a healthy pair undisturbed beside it.

use std::time::Duration;

use hyper::StatusCode;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use whyrelay::server::signaling::SignalingConfig;
use whyrelay_core::signal::MessageType;

use super::lab::{HealthyPair, LabClient, SOON, Server, candidate, quick, read_to_end};

/// A receiver that takes almost nothing: small buffers and no reading.
async fn deaf_receiver(server: &Server, id: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let request = format!("GET /receive?id={id} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stream
}

/// Sends to `to` until something else than 200 comes, and answers that.
async fn flood(server: &Server, to: &str) -> StatusCode {
    let content = "x".repeat(60_000);
    let flooding = async {
        loop {
            let status = server.send("a", to, &content).await;
            if status != StatusCode::OK {
                return status;
            }
        }
    };
    tokio::time::timeout(SOON, flooding).await.expect("the mailbox is bounded")
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

#[tokio::test]
async fn a_slow_reader_is_pushed_back_and_then_dropped_alone() {
    let server = Server::start(quick());
    let pair = HealthyPair::start(server.address).await;
    let mut slow = deaf_receiver(&server, "slow").await;
    assert_eq!(flood(&server, "slow").await, StatusCode::TOO_MANY_REQUESTS);
    // It is cut off without having read, and whoever sends to it is told at once, not blocked.
    tokio::time::sleep(Duration::from_millis(900)).await;
    let mut kept = Vec::new();
    let _ = tokio::time::timeout(SOON, slow.read_to_end(&mut kept)).await.expect("dropped");
    pair.was_undisturbed().await;
}

#[tokio::test]
async fn a_slow_reader_that_catches_up_gets_everything_in_order() {
    let server = Server::start(SignalingConfig::default());
    let mut slow = deaf_receiver(&server, "slow").await;
    let content = "x".repeat(50_000);
    let mut taken = 0;
    while server.send("a", "slow", &format!("{taken} {content}")).await == StatusCode::OK {
        taken += 1;
    }
    let mut all = Vec::new();
    let mut part = vec![0; 100_000];
    let mut lines = 0;
    while lines < taken {
        let len = tokio::time::timeout(SOON, slow.read(&mut part)).await.expect("the rest comes").unwrap();
        assert!(len > 0, "ended");
        lines += part[..len].iter().filter(|byte| **byte == b'}').count();
        all.extend_from_slice(&part[..len]);
    }
    let text = String::from_utf8(all).unwrap();
    let numbers: Vec<usize> =
        text.split(r#""content":""#).skip(1).map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (0..taken).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_dead_reader_holds_nobody_up_and_its_messages_wait() {
    let server = Server::start(SignalingConfig::default());
    let pair = HealthyPair::start(server.address).await;
    reset(deaf_receiver(&server, "dead").await);
    for content in 0..20 {
        assert_eq!(server.send("a", "dead", &content.to_string()).await, StatusCode::OK);
    }
    let mut back = LabClient::start(server.address, "dead").await;
    for content in 0..20 {
        back.expect(&content.to_string()).await;
    }
    pair.was_undisturbed().await;
}

#[tokio::test]
async fn a_reset_during_a_send_loses_that_send_alone() {
    let server = Server::start(SignalingConfig::default());
    let pair = HealthyPair::start(server.address).await;
    let mut receiver = LabClient::start(server.address, "b").await;
    let body = candidate("a", "b", &"x".repeat(1000)).to_json();
    let whole = format!("POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for cut in [1, 20, 60, 200, whole.len() - 1] {
        let mut stream = server.connect().await;
        stream.write_all(&whole.as_bytes()[..cut]).await.unwrap();
        reset(stream);
    }
    assert_eq!(server.send("a", "b", "whole").await, StatusCode::OK);
    receiver.expect("whole").await;
    pair.was_undisturbed().await;
}

#[tokio::test]
async fn receivers_that_come_and_go_while_they_are_sent_to_crash_nothing() {
    let server = Server::start(SignalingConfig::default());
    let pair = HealthyPair::start(server.address).await;
    LabClient::start(server.address, "flighty").await;
    for round in 0..50 {
        let stream = deaf_receiver(&server, "flighty").await;
        assert_eq!(server.send("a", "flighty", "x").await, StatusCode::OK);
        if round % 2 == 0 { reset(stream) } else { drop(stream) }
    }
    pair.was_undisturbed().await;
}

#[tokio::test]
async fn the_second_receiver_with_an_id_ends_the_first_with_the_reason() {
    let server = Server::start(SignalingConfig::default());
    let pair = HealthyPair::start(server.address).await;
    let mut first = LabClient::start(server.address, "b").await;
    let mut second = LabClient::start(server.address, "b").await;
    let reason = first.next().await.unwrap();
    assert_eq!(reason.kind, MessageType::Error);
    assert!(reason.content.contains("replaced"), "{}", reason.content);
    assert!(first.next().await.is_none());
    drop(first);
    // The end of the first one must not take the second one's place away.
    tokio::time::sleep(Duration::from_millis(50)).await;
    for content in ["1", "2"] {
        assert_eq!(server.send("a", "b", content).await, StatusCode::OK);
        second.expect(content).await;
    }
    pair.was_undisturbed().await;
}

#[tokio::test]
async fn an_id_claimed_with_a_token_is_not_taken_over() {
    let server = Server::start(SignalingConfig::default());
    let pair = HealthyPair::start(server.address).await;
    let mut owner = server.connect().await;
    owner.write_all(b"GET /receive?id=b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer owner\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    owner.read_exact(&mut head).await.unwrap();
    while server.send("a", "b", "mine").await != StatusCode::OK {}
    for thief in ["", "Authorization: Bearer thief\r\n"] {
        let request = format!("GET /receive?id=b HTTP/1.1\r\nHost: x\r\n{thief}\r\n");
        assert!(server.raw(request.as_bytes()).await.starts_with("HTTP/1.1 409"));
        let body = candidate("b", "healthy-1", "forged").to_json();
        let request = format!(
            "POST /send HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{thief}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert!(server.raw(request.as_bytes()).await.starts_with("HTTP/1.1 403"));
    }
    let mut read = vec![0; 4096];
    let mut text = String::new();
    while !text.contains("mine") {
        let len = tokio::time::timeout(SOON, owner.read(&mut read)).await.unwrap().unwrap();
        assert!(len > 0);
        text.push_str(&String::from_utf8_lossy(&read[..len]));
    }
    pair.was_undisturbed().await;
}

#[tokio::test]
async fn a_body_of_64_mib_is_refused_without_being_read() {
    let server = Server::start(SignalingConfig::default());
    let pair = HealthyPair::start(server.address).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 67108864\r\n\r\n").await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let writer = tokio::spawn(async move {
        let part = vec![b'x'; 64 * 1024];
        let mut written = 0;
        while written < 64 * 1024 * 1024 && writing.write_all(&part).await.is_ok() {
            written += part.len();
        }
        written
    });
    let mut response = vec![0; 12];
    tokio::time::timeout(SOON, reading.read_exact(&mut response)).await.unwrap().unwrap();
    assert_eq!(response, b"HTTP/1.1 413");
    let written = tokio::time::timeout(SOON, writer).await.unwrap().unwrap();
    assert!(written < 32 * 1024 * 1024, "{written} bytes were taken");
    let chunked = format!(
        "POST /send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n8000\r\n{0}\r\n8001\r\n{0}",
        "x".repeat(0x8000)
    );
    assert!(server.raw(chunked.as_bytes()).await.starts_with("HTTP/1.1 413"));
    pair.was_undisturbed().await;
}

#[tokio::test]
async fn half_requests_end_when_their_time_is_over() {
    let server = Server::start(quick());
    let pair = HealthyPair::start(server.address).await;
    for half in [
        &b""[..],
        b"POST /se",
        b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n\r\n\x81",
    ] {
        let response = server.raw(half).await;
        let expected = match half {
            b"" => "",
            _ if half.starts_with(b"GET /ws") => "HTTP/1.1 101",
            _ => "HTTP/1.1 408",
        };
        assert!(response.starts_with(expected), "{response}");
    }
    pair.was_undisturbed().await;
}

#[tokio::test]
async fn a_request_that_drips_gets_no_more_time_than_one_that_stops() {
    let server = Server::start(quick());
    let pair = HealthyPair::start(server.address).await;
    let stream = server.connect().await;
    let (mut reading, mut writing) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while writing.write_all(b"GET / HTTP/1.1\r\nA: b\r\n".get(..1).unwrap_or_default()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
    let mut all = Vec::new();
    let _ = tokio::time::timeout(SOON, reading.read_to_end(&mut all)).await.expect("cut off");
    dripping.abort();
    pair.was_undisturbed().await;
}

#[tokio::test]
async fn garbage_ends_its_own_connection_alone() {
    let server = Server::start(SignalingConfig::default());
    let pair = HealthyPair::start(server.address).await;
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..], b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", &[b'a'; 100_000]]
    {
        let response = server.raw(garbage).await;
        assert!(response.starts_with("HTTP/1.1 4"), "{response}");
    }
    pair.was_undisturbed().await;
}

#[tokio::test]
async fn the_whole_servers_mailboxes_are_bounded_together() {
    let server = Server::start(SignalingConfig { max_queued_bytes: 100_000, ..SignalingConfig::default() });
    for id in ["b", "c"] {
        drop(LabClient::start(server.address, id).await);
    }
    // Let the server see that both are away.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let content = "x".repeat(60_000);
    assert_eq!(server.send("a", "b", &content).await, StatusCode::OK);
    assert_eq!(server.send("a", "c", &content).await, StatusCode::SERVICE_UNAVAILABLE);
    let mut back = LabClient::start(server.address, "b").await;
    back.expect(&content).await;
    assert_eq!(server.send("a", "c", &content).await, StatusCode::OK);
}

#[tokio::test]
async fn a_connection_beyond_the_bound_is_closed_and_the_others_stay() {
    let server = Server::start(SignalingConfig { max_connections: 3, ..SignalingConfig::default() });
    // A receiver counts as a connection and as a peer.
    let mut receiver = LabClient::start(server.address, "b").await;
    let mut beyond = server.connect().await;
    assert_eq!(read_to_end(&mut beyond).await, "");
    receiver.send(MessageType::Candidate, "b", "to myself").await;
    receiver.expect("to myself").await;
}
