//! The origin's protocol, to the letter, and what a robust HTTP server owes its clients.

use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use whyrelay::server::signaling::{SignalingConfig, SignalingServer};
use whyrelay_core::signal::{MAX_MESSAGE, MessageType};

use super::lab::{LabClient, Server, candidate, quick, read_to_end};

#[tokio::test]
async fn two_of_the_origins_clients_exchange_offer_answer_and_candidates() {
    let server = Server::start(SignalingConfig::default());
    let mut answerer = LabClient::start(server.address, "answer-peer-1").await;
    let mut offerer = LabClient::start(server.address, "offer-peer-1").await;
    let sdp = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\na=ice-ufrag:\"ü\\\r\n";
    offerer.send(MessageType::Offer, "answer-peer-1", sdp).await;
    let offer = answerer.next().await.unwrap();
    assert_eq!((offer.kind, offer.content.as_str(), offer.from.as_str()), (MessageType::Offer, sdp, "offer-peer-1"));
    answerer.send(MessageType::Answer, "offer-peer-1", sdp).await;
    assert_eq!(offerer.next().await.unwrap().kind, MessageType::Answer);
    for number in 0..200 {
        offerer.send(MessageType::Candidate, "answer-peer-1", &number.to_string()).await;
        answerer.expect(&number.to_string()).await;
    }
}

#[tokio::test]
async fn errors_are_the_origins() {
    let server = Server::start(SignalingConfig::default());
    let absent = candidate("a", "nobody", "").to_json();
    assert_eq!(server.post("/send", absent).await, (StatusCode::NOT_FOUND, "recipient not found\n".into()));
    assert_eq!(server.get("/receive").await, (StatusCode::BAD_REQUEST, "missing client ID\n".into()));
    assert_eq!(server.get("/receive?id=").await.0, StatusCode::BAD_REQUEST);
    for garbage in ["", "nonsense", "[]", r#"{"type":1}"#] {
        let (status, reason) = server.post("/send", garbage).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{garbage}");
        assert!(!reason.trim().is_empty());
    }
    assert_eq!(server.get("/send").await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(server.post("/receive?id=a", "").await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn an_unknown_type_is_passed_on_and_a_servers_own_is_not() {
    let server = Server::start(SignalingConfig::default());
    let mut receiver = LabClient::start(server.address, "b").await;
    let unknown = r#"{"type":"later","content":"x","to":"b","from":"a","more":1}"#;
    assert_eq!(server.post("/send", unknown).await.0, StatusCode::OK);
    assert_eq!(receiver.next().await.unwrap().kind, MessageType::Unknown("later".into()));
    let forged = r#"{"type":"servers","content":"{}","to":"b","from":""}"#;
    assert_eq!(server.post("/send", forged).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_response_stays_open_with_heartbeats() {
    let server = Server::start(quick());
    let mut receiver = LabClient::start(server.address, "b").await;
    for _ in 0..4 {
        assert_eq!(receiver.next_line().await.unwrap().kind, MessageType::Heartbeat);
    }
    assert_eq!(server.send("a", "b", "still here").await, StatusCode::OK);
    receiver.expect("still here").await;
}

#[tokio::test]
async fn messages_survive_the_gap_between_two_polls_in_order() {
    let server = Server::start(SignalingConfig::default());
    LabClient::start(server.address, "b").await.leave().await;
    for content in ["1", "2", "3"] {
        assert_eq!(server.send("a", "b", content).await, StatusCode::OK);
    }
    let mut second = LabClient::start(server.address, "b").await;
    for content in ["1", "2", "3"] {
        second.expect(content).await;
    }
}

#[tokio::test]
async fn a_peer_that_stays_away_is_forgotten_with_its_messages() {
    let server = Server::start(SignalingConfig { mailbox_age: Duration::from_millis(200), ..quick() });
    LabClient::start(server.address, "b").await.leave().await;
    assert_eq!(server.send("a", "b", "old").await, StatusCode::OK);
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(server.send("a", "b", "older").await, StatusCode::NOT_FOUND);
    let mut back = LabClient::start(server.address, "b").await;
    assert_eq!(server.send("a", "b", "new").await, StatusCode::OK);
    back.expect("new").await;
}

#[tokio::test]
async fn what_a_departed_session_left_behind_does_not_meet_the_next_one() {
    let server = Server::start(quick());
    let answerer = LabClient::start(server.address, "answer-peer-1").await;
    let mut offerer = LabClient::start(server.address, "offer-peer-1").await;
    answerer.leave().await;
    offerer.send(MessageType::Candidate, "answer-peer-1", "stale").await;
    offerer.leave().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut answerer = LabClient::start(server.address, "answer-peer-1").await;
    let mut offerer = LabClient::start(server.address, "offer-peer-1").await;
    offerer.send(MessageType::Offer, "answer-peer-1", "fresh").await;
    answerer.expect("fresh").await;
}

#[tokio::test]
async fn rooms_keep_equal_ids_apart() {
    let server = Server::start(SignalingConfig::default());
    let mut red = LabClient::start_in(server.address, "b", "&room=red").await;
    let mut blue = LabClient::start_in(server.address, "b", "&room=blue").await;
    assert_eq!(server.post("/send?room=blue", candidate("a", "b", "blue").to_json()).await.0, StatusCode::OK);
    assert_eq!(server.post("/send?room=red", candidate("a", "b", "red").to_json()).await.0, StatusCode::OK);
    assert_eq!(server.send("a", "b", "default").await, StatusCode::NOT_FOUND);
    red.expect("red").await;
    blue.expect("blue").await;
}

#[tokio::test]
async fn without_a_default_room_a_room_must_be_named() {
    let server = Server::start(SignalingConfig { has_default_room: false, ..SignalingConfig::default() });
    assert_eq!(server.get("/receive?id=a").await.0, StatusCode::FORBIDDEN);
    assert_eq!(server.send("a", "b", "").await, StatusCode::FORBIDDEN);
    LabClient::start_in(server.address, "a", "&room=r").await;
}

#[tokio::test]
async fn names_are_bounded() {
    let server = Server::start(SignalingConfig::default());
    let long = "a".repeat(129);
    assert_eq!(server.get(&format!("/receive?id={long}")).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(server.get(&format!("/receive?id=a&room={long}")).await.0, StatusCode::BAD_REQUEST);
    LabClient::start(server.address, &"a".repeat(128)).await;
}

#[tokio::test]
async fn requests_may_come_in_any_pieces_and_pipelined() {
    let server = Server::start(SignalingConfig::default());
    let mut receiver = LabClient::start(server.address, "b").await;
    let body = candidate("a", "b", "1").to_json();
    let known = format!("POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (left, right) = body.split_at(7);
    let chunked = format!(
        "POST /send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7;x=y\r\n{left}\r\n{:x}\r\n{right}\r\n0\r\n\r\n",
        right.len()
    );
    let all = format!("{known}{chunked}{}", known.replace("Host", "Connection: close\r\nHost"));
    let mut stream = server.connect().await;
    for piece in all.as_bytes().chunks(17) {
        stream.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(read_to_end(&mut stream).await.matches("HTTP/1.1 200 OK").count(), 3);
    let at_once = server.raw(all.as_bytes()).await;
    assert_eq!(at_once.matches("HTTP/1.1 200 OK").count(), 3, "{at_once}");
    for _ in 0..6 {
        receiver.expect("1").await;
    }
}

#[tokio::test]
async fn a_client_that_asks_before_its_body_is_told_to_go_on() {
    let server = Server::start(SignalingConfig::default());
    let _receiver = LabClient::start(server.address, "b").await;
    let body = candidate("a", "b", "1").to_json();
    let mut stream = server.connect().await;
    let head = format!(
        "POST /send HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
    let too_long = head.replace(&body.len().to_string(), &(MAX_MESSAGE + 1).to_string());
    assert!(server.raw(too_long.as_bytes()).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn an_old_client_receives_lines_to_the_end_of_the_connection() {
    let server = Server::start(SignalingConfig::default());
    let mut stream = server.connect().await;
    stream.write_all(b"GET /receive?id=b HTTP/1.0\r\n\r\n").await.unwrap();
    while server.send("a", "b", "1").await != StatusCode::OK {}
    server.stop().await;
    let all = read_to_end(&mut stream).await;
    let body = all.split_once("\r\n\r\n").unwrap().1;
    assert!(!all.contains("chunked"));
    assert_eq!(body.lines().next(), Some(candidate("a", "b", "1").to_json().as_str()));
}

#[tokio::test]
async fn a_foreign_pages_requests_are_refused() {
    let config =
        SignalingConfig { allowed_origins: vec!["https://friend.example".into()], ..SignalingConfig::default() };
    let server = Server::start(config);
    let _receiver = LabClient::start(server.address, "b").await;
    let body = candidate("a", "b", "1").to_json();
    for (origin, status) in [
        ("https://evil.example", "403"),
        ("null", "403"),
        ("https://friend.example", "200"),
        ("http://server:8080", "200"),
        ("http://server", "403"),
    ] {
        let request = format!(
            "POST /send HTTP/1.1\r\nHost: server:8080\r\nOrigin: {origin}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let response = server.raw(request.as_bytes()).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{origin}: {response}");
    }
}

#[tokio::test]
async fn health_is_told_and_other_routes_are_served_elsewhere() {
    let router = axum::Router::new().route("/page", axum::routing::post(|body: String| async move { body }));
    let server = SignalingServer::bind("127.0.0.1:0".parse().unwrap(), SignalingConfig::default()).unwrap();
    let server = Server::run(server.with_routes(router));
    assert_eq!(server.get("/health").await, (StatusCode::OK, "{\"status\":\"ok\",\"peers\":0,\"rooms\":0}\n".into()));
    assert_eq!(server.post("/page", vec![b'x'; 100_000]).await, (StatusCode::OK, "x".repeat(100_000)));
    assert_eq!(server.get("/nowhere").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_shutdown_tells_the_receivers_and_ends_their_responses() {
    let server = Server::start(SignalingConfig::default());
    let mut receiver = LabClient::start(server.address, "b").await;
    let idle = server.connect().await;
    server.send("a", "b", "last").await;
    server.stop().await;
    receiver.expect("last").await;
    assert_eq!(receiver.next().await.unwrap().kind, MessageType::Bye);
    assert!(receiver.next().await.is_none());
    drop(idle);
}
