//! A TURN client of a few lines, over UDP, TCP and TLS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};
use whyrelay_core::random::Random;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::framing::{Deframer, Framing};
use whyrelay_core::wire::integrity::{Integrity, Key};
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method};

/// How long anything may take on loopback.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What RFC 8489 §6.2.1 has clients begin with.
const RTO: Duration = Duration::from_millis(500);

/// This machine and the networks behind it, in every spelling.
pub(crate) const SPELLINGS: [&str; 27] = [
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.31.255.255",
    "192.168.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b:1::127.0.0.1",
    "2002:7f00:1::",
    "2001:0:808:808::80ff:fffe",
    "fe80::1",
    "fec0::1",
    "fd00::1",
    "fd00:ec2::254",
    "ff02::1",
    "2a00::5efe:127.0.0.1",
    "64:ff9b::a9fe:a9fe",
];

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(crate) enum Connection {
    Udp(UdpSocket),
    Stream(Box<dyn Stream>, Deframer),
}

pub(crate) struct TurnClient {
    connection: Connection,
    random: Random,
    username: String,
    password: String,
    nonce: String,
    /// Over UDP.
    pub(crate) datagrams_sent: u64,
    /// How long an answer is waited for before a request is sent again.
    pub(crate) rto: Duration,
}

/// One message from the server.
pub(crate) struct Received(pub(crate) Vec<u8>);

impl Received {
    pub(crate) fn message(&self) -> Message<'_> {
        Message::decode(&self.0).expect("a STUN message")
    }

    /// 0 for success.
    pub(crate) fn code(&self) -> u16 {
        let message = self.message();
        message.error_code().map_or(0, |error| error.code)
    }
}

impl TurnClient {
    pub(crate) async fn udp(server: SocketAddr, username: &str, password: &str) -> Result<Self> {
        let local = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { Ipv6Addr::LOCALHOST.into() };
        Self::udp_from(local, server, username, password).await
    }

    /// From another address of this machine.
    pub(crate) async fn udp_from(local: IpAddr, server: SocketAddr, username: &str, password: &str) -> Result<Self> {
        let socket = UdpSocket::bind((local, 0)).await?;
        socket.connect(server).await?;
        Ok(Self::new(Connection::Udp(socket), username, password))
    }

    pub(crate) async fn tcp(server: SocketAddr, username: &str, password: &str) -> Result<Self> {
        let stream = TcpStream::connect(server).await?;
        Ok(Self::new(Connection::Stream(Box::new(stream), Deframer::new(Framing::Stun)), username, password))
    }

    pub(crate) async fn tls(
        server: SocketAddr,
        config: rustls::ClientConfig,
        username: &str,
        password: &str,
    ) -> Result<Self> {
        let stream = TcpStream::connect(server).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect("localhost".try_into()?, stream).await?;
        Ok(Self::new(Connection::Stream(Box::new(stream), Deframer::new(Framing::Stun)), username, password))
    }

    pub(crate) fn new(connection: Connection, username: &str, password: &str) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("random bytes");
        let (username, password) = (username.to_owned(), password.to_owned());
        let (random, nonce) = (Random::from_seed(seed), String::new());
        Self { connection, random, username, password, nonce, datagrams_sent: 0, rto: RTO }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.send_together(&[bytes]).await
    }

    /// Over a connection in one write; the datagrams of UDP one by one.
    pub(crate) async fn send_together(&mut self, messages: &[impl AsRef<[u8]>]) -> Result<()> {
        match &mut self.connection {
            Connection::Udp(socket) => {
                for message in messages {
                    socket.send(message.as_ref()).await?;
                    self.datagrams_sent += 1;
                }
            }
            Connection::Stream(stream, _) => {
                let bytes: Vec<u8> = messages.iter().flat_map(|message| Framing::Stun.wrap(message.as_ref())).collect();
                stream.write_all(&bytes).await?;
                stream.flush().await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn receive(&mut self) -> Result<Received> {
        timeout(PATIENCE, self.receive_patiently()).await.context("the server says nothing")?
    }

    async fn receive_patiently(&mut self) -> Result<Received> {
        let mut buffer = vec![0; 65_536];
        match &mut self.connection {
            Connection::Udp(socket) => {
                let length = socket.recv(&mut buffer).await?;
                buffer.truncate(length);
                Ok(Received(buffer))
            }
            Connection::Stream(stream, deframer) => loop {
                if let Some(message) = deframer.next_message()? {
                    return Ok(Received(message.to_vec()));
                }
                let length = stream.read(&mut buffer).await?;
                ensure!(length > 0, "the server has closed the connection");
                deframer.push(&buffer[..length]);
            },
        }
    }

    pub(crate) fn start(&mut self, method: Method) -> MessageBuilder {
        MessageBuilder::new(Class::Request, method, self.random.transaction_id())
    }

    fn key(&self) -> Key {
        Key::long_term(&self.username, "whyrelay", &self.password)
    }

    pub(crate) fn sign(&self, request: MessageBuilder) -> Vec<u8> {
        request.long_term_credential(&self.username, "whyrelay", &self.nonce).integrity(&self.key()).build()
    }

    /// Asks as RFC 8489 §6.2.1 has clients do: over UDP seven times, the wait doubles, and the last is sixteen times the
    /// first. `None`: not answered for all that. A new nonce is taken once.
    pub(crate) async fn ask_patiently(&mut self, request: MessageBuilder) -> Result<Option<Received>> {
        for _ in 0..2 {
            let bytes = self.sign(request.clone());
            let transaction = Message::decode(&bytes)?.transaction;
            let is_udp = matches!(self.connection, Connection::Udp(_));
            for (attempt, factor) in [1, 2, 4, 8, 16, 32, 16].into_iter().enumerate() {
                if attempt == 0 || is_udp {
                    self.send(&bytes).await?;
                }
                // What asked for the nonce may be answered again, late.
                let (current, is_stale) =
                    (self.nonce.clone(), |it: &Message<'_>| it.error_code().is_some_and(|it| it.code == 438));
                let is_answer = |bytes: &[u8]| {
                    Message::decode(bytes).is_ok_and(|it| {
                        let is_late = is_stale(&it) && it.text(AttributeType::NONCE) == Some(&current);
                        it.transaction == transaction && !is_late
                    })
                };
                let Some(answer) = self.receive_until(self.rto * factor, is_answer).await? else { continue };
                let nonce = answer.message().text(AttributeType::NONCE).map(str::to_owned);
                match nonce.filter(|_| answer.code() == 438) {
                    Some(nonce) => self.nonce = nonce,
                    None => return Ok(Some(answer)),
                }
                break;
            }
        }
        Ok(None)
    }

    /// The first message that is wanted, within so long; the others are passed over.
    pub(crate) async fn receive_until(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Received>> {
        let until = Instant::now() + patience;
        loop {
            match timeout_at(until, self.receive_patiently()).await {
                Ok(received) => match received? {
                    received if wanted(&received.0) => return Ok(Some(received)),
                    _ => {}
                },
                Err(_) => return Ok(None),
            }
        }
    }

    /// Signs and sends; a new nonce is taken once.
    pub(crate) async fn request(&mut self, request: MessageBuilder) -> Result<Received> {
        for _ in 0..2 {
            let bytes = self.sign(request.clone());
            self.send(&bytes).await?;
            let received = self.receive().await?;
            let (code, nonce) = {
                let message = received.message();
                ensure!(message.transaction == Message::decode(&bytes)?.transaction, "the answer to something else");
                (received.code(), message.text(AttributeType::NONCE).map(str::to_owned))
            };
            match nonce {
                Some(nonce) if code == 438 => self.nonce = nonce,
                _ => {
                    let signed = received.message().check_integrity(&self.key());
                    ensure!(code == 401 || signed == Integrity::Valid, "the answer is not signed");
                    return Ok(received);
                }
            }
        }
        bail!("438 twice")
    }

    pub(crate) fn allocation(&mut self) -> MessageBuilder {
        self.start(Method::ALLOCATE).attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
    }

    pub(crate) fn permission(&mut self, peer: SocketAddr) -> MessageBuilder {
        self.start(Method::CREATE_PERMISSION).xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
    }

    /// Allocates; the relayed address.
    pub(crate) async fn allocate(&mut self) -> Result<SocketAddr> {
        let request = self.allocation();
        let received = self.request(request).await?;
        ensure!(received.code() == 0, "Allocate: {}", received.code());
        received.message().xor_address(AttributeType::XOR_RELAYED_ADDRESS).context("no relayed address")
    }

    pub(crate) async fn permit(&mut self, peer: SocketAddr) -> Result<u16> {
        let request = self.permission(peer);
        Ok(self.request(request).await?.code())
    }

    pub(crate) async fn bind(&mut self, number: u16, peer: SocketAddr) -> Result<u16> {
        let [high, low] = number.to_be_bytes();
        let request = self
            .start(Method::CHANNEL_BIND)
            .attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0])
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        Ok(self.request(request).await?.code())
    }

    pub(crate) async fn refresh(&mut self, lifetime: u32) -> Result<u16> {
        let request = self.start(Method::REFRESH).u32(AttributeType::LIFETIME, lifetime);
        Ok(self.request(request).await?.code())
    }

    pub(crate) async fn send_indication(&mut self, peer: SocketAddr, data: &[u8], dont_fragment: bool) -> Result<()> {
        let mut indication = MessageBuilder::new(Class::Indication, Method::SEND, self.random.transaction_id())
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        if dont_fragment {
            indication = indication.attribute(AttributeType::DONT_FRAGMENT, &[]);
        }
        self.send(&indication.attribute(AttributeType::DATA, data).build()).await
    }
}
