//! The server's WebSocket with a client that is not ours, as a web page would use it.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::StatusCode;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message as Frame};
use whyrelay::server::signaling::SignalingConfig;
use whyrelay_core::signal::{Join, Message, MessageType};

use super::lab::{HealthyPair, LabClient, SOON, Server, candidate, quick, read_to_end};

type Socket = WebSocketStream<TcpStream>;

async fn open(server: &Server, target: &str, origin: Option<&str>) -> Result<Socket, Error> {
    let mut request = format!("ws://{}{target}", server.address).into_client_request().unwrap();
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse().unwrap());
    }
    Ok(tokio_tungstenite::client_async(request, server.connect().await).await?.0)
}

async fn say(socket: &mut Socket, message: &Message) {
    socket.send(Frame::text(message.to_json())).await.unwrap();
}

async fn join(server: &Server, join: &Join) -> Socket {
    let mut socket = open(server, "/ws", None).await.unwrap();
    say(&mut socket, &Message::new(MessageType::Join, "", "", serde_json::to_string(join).unwrap())).await;
    socket
}

async fn joined(server: &Server, id: &str) -> Socket {
    let mut socket = join(server, &Join { id: id.into(), ..Join::default() }).await;
    welcomed(&mut socket).await;
    socket
}

async fn welcomed(socket: &mut Socket) {
    assert_eq!(next(socket).await.kind, MessageType::Joined);
    assert_eq!(next(socket).await.kind, MessageType::Servers);
}

async fn next_frame(socket: &mut Socket) -> Option<Frame> {
    tokio::time::timeout(SOON, socket.next()).await.expect("something comes")?.ok()
}

async fn next(socket: &mut Socket) -> Message {
    loop {
        match next_frame(socket).await.expect("a message") {
            Frame::Text(text) => return Message::from_json(text.as_bytes()).unwrap(),
            Frame::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn close_code(socket: &mut Socket) -> u16 {
    loop {
        if let Some(CloseFrame { code, .. }) = match next_frame(socket).await.expect("a close") {
            Frame::Close(close) => close,
            _ => None,
        } {
            return code.into();
        }
    }
}

#[tokio::test]
async fn a_page_joins_with_its_first_message_and_talks_to_the_origins_client() {
    let server = Server::start(SignalingConfig::default());
    let mut page = joined(&server, "page").await;
    let mut go = LabClient::start(server.address, "go").await;
    say(&mut page, &Message::new(MessageType::Offer, "somebody else", "go", "offer")).await;
    let offer = go.next().await.unwrap();
    assert_eq!((offer.content.as_str(), offer.from.as_str(), offer.seq), ("offer", "page", None));
    go.send(MessageType::Answer, "page", "answer").await;
    let answer = next(&mut page).await;
    assert_eq!((answer.content.as_str(), answer.seq), ("answer", None));
}

#[tokio::test]
async fn a_page_may_name_its_id_in_the_address() {
    let server = Server::start(SignalingConfig::default());
    let mut page = open(&server, "/ws?id=page&room=r", None).await.unwrap();
    welcomed(&mut page).await;
    let message = candidate("a", "page", "1").to_json();
    assert_eq!(server.post("/send?room=r", message).await.0, StatusCode::OK);
    assert_eq!(next(&mut page).await.content, "1");
}

#[tokio::test]
async fn without_numbers_a_refusal_still_says_for_whom() {
    let server = Server::start(SignalingConfig::default());
    let mut page = joined(&server, "page").await;
    say(&mut page, &candidate("page", "absent", "1")).await;
    let refused = next(&mut page).await;
    assert_eq!((refused.kind, refused.from.as_str()), (MessageType::Refused, "absent"));
    let _absent = LabClient::start(server.address, "absent").await;
    let came = next(&mut page).await;
    assert_eq!((came.kind, came.from.as_str()), (MessageType::PeerJoined, "absent"));
}

#[tokio::test]
async fn each_end_has_its_close_code() {
    let server = Server::start(quick());
    let _owner = join(&server, &Join { id: "owned".into(), token: "owner".into(), ..Join::default() }).await;
    tokio::time::sleep(Duration::from_millis(50)).await;

    let mut thief = join(&server, &Join { id: "owned".into(), token: "thief".into(), ..Join::default() }).await;
    assert_eq!(close_code(&mut thief).await, 4409);

    let mut nameless = join(&server, &Join::default()).await;
    assert_eq!(close_code(&mut nameless).await, 4400);

    let mut hasty = open(&server, "/ws", None).await.unwrap();
    say(&mut hasty, &candidate("a", "b", "no join")).await;
    assert_eq!(close_code(&mut hasty).await, 4400);

    let mut first = joined(&server, "twice").await;
    let _second = joined(&server, "twice").await;
    assert_eq!(next(&mut first).await.kind, MessageType::Error);
    assert_eq!(close_code(&mut first).await, 4408);

    let mut large = joined(&server, "large").await;
    let _ = large.send(Frame::text("x".repeat(100_000))).await;
    assert_eq!(close_code(&mut large).await, 1009);

    let mut binary = joined(&server, "binary").await;
    binary.send(Frame::binary(vec![1])).await.unwrap();
    assert_eq!(close_code(&mut binary).await, 1003);

    let mut staying = joined(&server, "staying").await;
    server.stop().await;
    assert_eq!(next(&mut staying).await.kind, MessageType::Bye);
    assert_eq!(close_code(&mut staying).await, 1001);
}

#[tokio::test]
async fn a_foreign_page_is_refused() {
    let config = SignalingConfig { allowed_origins: vec!["https://friend.example".into()], ..quick() };
    let server = Server::start(config);
    let own = format!("http://{}", server.address);
    for (origin, is_allowed) in
        [(own.as_str(), true), ("https://friend.example", true), ("https://evil.example", false)]
    {
        let opened = open(&server, "/ws", Some(origin)).await;
        match opened {
            Ok(_) => assert!(is_allowed, "{origin}"),
            Err(Error::Http(response)) => {
                assert!(!is_allowed, "{origin}");
                assert_eq!(response.status(), StatusCode::FORBIDDEN);
            }
            Err(error) => panic!("{origin}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_dropped_and_one_that_does_stays() {
    let server = Server::start(quick());
    let pair = HealthyPair::start(server.address).await;
    let mut dead = joined(&server, "dead").await;
    let mut alive = joined(&server, "alive").await;
    // Reading answers the pings.
    let reading = tokio::spawn(async move {
        loop {
            if let Some(Frame::Text(text)) = next_frame(&mut alive).await {
                return Message::from_json(text.as_bytes()).unwrap();
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let all = read_to_end(dead.get_mut()).await;
    assert!(all.contains("too-slow"), "{all}");
    assert_eq!(server.send("a", "alive", "still there?").await, StatusCode::OK);
    assert_eq!(reading.await.unwrap().content, "still there?");
    pair.was_undisturbed().await;
}

#[tokio::test]
async fn a_deaf_websocket_pushes_its_senders_back_and_nobody_else() {
    let server = Server::start(quick());
    let pair = HealthyPair::start(server.address).await;
    let _deaf = joined(&server, "deaf").await;
    let content = "x".repeat(60_000);
    let flooding = async { while server.send("a", "deaf", &content).await == StatusCode::OK {} };
    tokio::time::timeout(SOON, flooding).await.expect("the mailbox is bounded");
    pair.was_undisturbed().await;
}

#[tokio::test]
async fn garbage_frames_end_their_own_connection_alone() {
    use tokio::io::AsyncWriteExt;
    let server = Server::start(SignalingConfig::default());
    let pair = HealthyPair::start(server.address).await;
    for garbage in
        [&[0xff; 100][..], &[0x81, 0x01, 0x00], &[0x88, 0xfe, 0xff, 0xff, 0, 0, 0, 0], b"GET / HTTP/1.1\r\n\r\n"]
    {
        let mut socket = joined(&server, "garbage").await;
        socket.get_mut().write_all(garbage).await.unwrap();
        while next_frame(&mut socket).await.is_some() {}
    }
    pair.was_undisturbed().await;
}
