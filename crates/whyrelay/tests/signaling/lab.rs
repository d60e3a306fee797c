//! What the tests are made of: a server, and clients that know nothing of whyrelay.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use whyrelay::server::signaling::{ServerError, SignalingConfig, SignalingServer};
use whyrelay_core::signal::{Message, MessageType};

/// What must happen happens within this, however busy the machine is.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Bounds that make the passing of time short.
pub(crate) fn quick() -> SignalingConfig {
    SignalingConfig {
        heartbeat_interval: Duration::from_millis(300),
        request_timeout: Duration::from_millis(400),
        idle_timeout: Duration::from_millis(800),
        write_timeout: Duration::from_millis(500),
        claim_grace: Duration::from_millis(400),
        ..SignalingConfig::default()
    }
}

/// A running server, which ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) running: JoinHandle<Result<(), ServerError>>,
}

impl Server {
    pub(crate) fn start(config: SignalingConfig) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), config)
    }

    pub(crate) fn start_at(address: SocketAddr, config: SignalingConfig) -> Self {
        Self::run(SignalingServer::bind(address, config).unwrap())
    }

    pub(crate) fn run(server: SignalingServer) -> Self {
        let address = server.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self { address, stop: Some(stop), running }
    }

    /// Shuts down and waits for the end.
    pub(crate) async fn stop(mut self) {
        self.stop.take();
        tokio::time::timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `request` as it is and reads to the end of the connection.
    pub(crate) async fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        let _ = stream.write_all(request).await;
        read_to_end(&mut stream).await
    }

    /// One request of an ordinary HTTP client.
    pub(crate) async fn request(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let (mut sender, _) = connection_to(self.address).await;
        sender.send_request(request).await.unwrap()
    }

    pub(crate) async fn get(&self, target: &str) -> (StatusCode, String) {
        let request = Request::get(target).header("host", "server").body(Full::default()).unwrap();
        let response = self.request(request).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// `POST /send` of `body` to `target`.
    pub(crate) async fn post(&self, target: &str, body: impl Into<Bytes>) -> (StatusCode, String) {
        let request = Request::post(target).header("host", "server").body(Full::new(body.into())).unwrap();
        let response = self.request(request).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    pub(crate) async fn send(&self, from: &str, to: &str, content: &str) -> StatusCode {
        self.post("/send", candidate(from, to, content).to_json()).await.0
    }
}

pub(crate) fn candidate(from: &str, to: &str, content: &str) -> Message {
    Message::new(MessageType::Candidate, from, to, content)
}

/// A connection of an ordinary HTTP client, and the task that drives it.
async fn connection_to<B>(address: SocketAddr) -> (hyper::client::conn::http1::SendRequest<B>, JoinHandle<()>)
where
    B: hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(async {
        // Its end, however it comes, is seen by whoever reads or sends.
        let _ = connection.await;
    });
    (sender, driving)
}

/// Reads whatever comes until the connection ends.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset ends the reading as well.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut all)).await.expect("the connection ends");
    String::from_utf8_lossy(&all).into_owned()
}

/// The origin's client as SIGNALING.md describes it: one long poll for ever, one keep-alive connection to send, and
/// anything but 200 is the end.
pub(crate) struct LabClient {
    pub(crate) id: String,
    connections: [JoinHandle<()>; 2],
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    body: Incoming,
    read: Vec<u8>,
}

impl LabClient {
    pub(crate) async fn start(address: SocketAddr, id: &str) -> Self {
        Self::start_in(address, id, "").await
    }

    pub(crate) async fn start_in(address: SocketAddr, id: &str, more_query: &str) -> Self {
        let (mut receiving, receiving_connection) = connection_to(address).await;
        let request = Request::get(format!("/receive?id={id}{more_query}"))
            .header("host", address.to_string())
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = receiving.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "the origin's client exits");
        let (sender, sending_connection) = connection_to(address).await;
        let connections = [receiving_connection, sending_connection];
        Self { id: id.to_owned(), connections, sender, body: response.into_body(), read: Vec::new() }
    }

    /// Closes both connections: when it returns, the kernel has sent their ends, which a mere `drop` leaves to tasks
    /// that run some time later.
    pub(crate) async fn leave(self) {
        for connection in self.connections {
            connection.abort();
            let _ = connection.await;
        }
    }

    /// Sends as the origin does.
    pub(crate) async fn send(&mut self, kind: MessageType, to: &str, content: &str) {
        assert_eq!(self.try_send(kind, to, content).await, StatusCode::OK, "the origin's client exits");
    }

    pub(crate) async fn try_send(&mut self, kind: MessageType, to: &str, content: &str) -> StatusCode {
        let message = Message::new(kind, &*self.id, to, content).to_json();
        let request = Request::post("/send")
            .header("host", "server")
            .header("content-type", "application/json")
            .body(Full::new(message.into()))
            .unwrap();
        self.sender.ready().await.unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        let status = response.status();
        response.into_body().collect().await.unwrap();
        status
    }

    /// The next message that is not a heartbeat, or `None` at the end of the response.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            let message = self.next_line().await?;
            if message.kind != MessageType::Heartbeat {
                return Some(message);
            }
        }
    }

    /// The next message of any kind.
    pub(crate) async fn next_line(&mut self) -> Option<Message> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(Message::from_json(&line).unwrap());
            }
            let frame = tokio::time::timeout(SOON, self.body.frame()).await.expect("something comes")?;
            self.read.extend_from_slice(frame.ok()?.data_ref()?);
        }
    }

    pub(crate) async fn expect(&mut self, content: &str) {
        assert_eq!(self.next().await.expect("a message").content, content);
    }
}

/// Two of the origin's clients that go on exchanging messages while something else goes wrong.
pub(crate) struct HealthyPair {
    rounds: watch::Receiver<u32>,
    running: JoinHandle<()>,
}

impl HealthyPair {
    pub(crate) async fn start(address: SocketAddr) -> Self {
        let mut one = LabClient::start(address, "healthy-1").await;
        let mut two = LabClient::start(address, "healthy-2").await;
        let (done, rounds) = watch::channel(0);
        let running = tokio::spawn(async move {
            loop {
                let content = done.borrow().to_string();
                one.send(MessageType::Candidate, "healthy-2", &content).await;
                two.expect(&content).await;
                two.send(MessageType::Candidate, "healthy-1", &content).await;
                one.expect(&content).await;
                done.send_modify(|rounds| *rounds += 1);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { rounds, running }
    }

    /// Every message of the pair arrived, in order, and the next ones do as well.
    pub(crate) async fn was_undisturbed(mut self) {
        let before = *self.rounds.borrow();
        let more = self.rounds.wait_for(|rounds| *rounds >= before + 20);
        let goes_on = tokio::time::timeout(SOON, more).await.expect("the pair goes on").is_ok();
        assert!(goes_on, "the pair failed: {:?}", self.running.await);
        self.running.abort();
    }
}
