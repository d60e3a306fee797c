//! Loads a STUN and TURN server and says what it cost: `turn_load ADDR PID WHAT [OPTION…]`, as JSON. The server must know
//! the user `alice` with the password `wonderland` and relay to loopback.
//!
//! | what | what it does |
//! |---|---|
//! | `binding` | Binding requests, 64 under way, from one source or from `--sources N` |
//! | `latency` | one Binding request a millisecond: how long the answers take |
//! | `relay` | four clients, each with an allocation and a peer of its own, client to peer, or with `--to-client` the reverse |
//! | `relays` | four pairs of clients, each to the other's relayed address |
//! | `sessions` | allocations that are made, refreshed and given back, one after the other, each from an address of its own |
//! | `memory` | `--count N` allocations with one channel each |
//! | `amplification` | what a bare Binding request and a first Allocate get; the former also at `--discovery-port N` |
//!
//! `--size N` bytes of application data, `--rate N` packets a second in all instead of as many as go through,
//! `--seconds N`; `--indications` instead of channels; `--transport udp|tcp|tls`, the latter with `--certificate FILE` to
//! trust, which `turn_load certificate DIRECTORY` makes with its key.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls_pki_types::pem::PemObject as _;
use whyrelay_core::random::Random;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::framing::{Deframer, Framing};
use whyrelay_core::wire::integrity::Key;
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method};
use whyrelay_core::wire::turn::{ChannelData, ChannelNumber};

/// Packets under way for each client, when not paced.
const WINDOW: u64 = 128;
const CLIENTS: usize = 4;
/// Binding requests under way, from all sources together.
const UNDER_WAY: u64 = 64;

#[derive(Clone)]
struct Options {
    server: SocketAddr,
    process: u32,
    size: usize,
    rate: u64,
    seconds: u64,
    count: usize,
    sources: u64,
    to_client: bool,
    indications: bool,
    transport: Transport,
    discovery_port: u16,
}

#[derive(Clone)]
enum Transport {
    Udp,
    Tcp,
    Tls(Arc<rustls::ClientConfig>),
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [what, directory] = &arguments[..]
        && what == "certificate"
    {
        return make_certificate(FilePath::new(directory));
    }
    let [server, process, what, rest @ ..] = &arguments[..] else { bail!("turn_load ADDR PID WHAT …") };
    let text = |name: &str| -> Result<Option<&String>> {
        let at = rest.iter().position(|argument| argument == name);
        at.map(|at| rest.get(at + 1).with_context(|| format!("{name} wants a value"))).transpose()
    };
    let number =
        |name: &str, default: u64| -> Result<u64> { text(name)?.map_or(Ok(default), |text| Ok(text.parse()?)) };
    let flag = |name: &str| rest.iter().any(|argument| argument == name);
    let transport = match text("--transport")?.map(String::as_str) {
        None | Some("udp") => Transport::Udp,
        Some("tcp") => Transport::Tcp,
        Some("tls") => Transport::Tls(trusting(FilePath::new(text("--certificate")?.context("--certificate")?))?),
        Some(other) => bail!("{other} is no transport"),
    };
    let options = Options {
        server: server.parse()?,
        process: process.parse()?,
        size: number("--size", 172)? as usize,
        rate: number("--rate", 0)?,
        seconds: number("--seconds", 3)?,
        count: number("--count", 2000)? as usize,
        sources: number("--sources", 1)?.clamp(1, UNDER_WAY),
        to_client: flag("--to-client"),
        indications: flag("--indications"),
        transport,
        discovery_port: number("--discovery-port", 0)? as u16,
    };
    match what.as_str() {
        "binding" => binding(&options),
        "latency" => latency(&options),
        "relay" => relay(&options, false),
        "relays" => relay(&options, true),
        "sessions" => sessions(&options),
        "memory" => memory(&options),
        "amplification" => amplification(&options),
        other => bail!("{other} is unknown"),
    }
}

/// For a server on loopback.
fn make_certificate(directory: &FilePath) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join("cert.pem"), made.cert.pem())?;
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem())?;
    Ok(())
}

fn trusting(certificate: &FilePath) -> Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file(certificate)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn binding(options: &Options) -> Result<()> {
    let sockets = (0..options.sources).map(|_| connect(options.server)).collect::<Result<Vec<_>>>()?;
    for socket in &sockets {
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    }
    let each = UNDER_WAY / options.sources;
    let mut random = seeded();
    let mut buffer = [0; 1500];
    let request =
        |random: &mut Random| MessageBuilder::new(Class::Request, Method::BINDING, random.transaction_id()).build();
    // One request as a whole; the rest differ in their transaction ids only.
    let mut bytes = request(&mut random);
    let mut answered = 0_u64;
    let before = cpu(options.process)?;
    let start = Instant::now();
    let mut under_way = vec![0_u64; sockets.len()];
    let mut number = 0_u64;
    while start.elapsed() < Duration::from_secs(options.seconds) {
        for (socket, under_way) in sockets.iter().zip(&mut under_way) {
            while *under_way < each {
                number += 1;
                bytes[8..16].copy_from_slice(&number.to_be_bytes());
                socket.send(&bytes)?;
                *under_way += 1;
            }
        }
        for (socket, under_way) in sockets.iter().zip(&mut under_way) {
            match socket.recv(&mut buffer) {
                Ok(_) => {
                    answered += 1;
                    *under_way -= 1;
                }
                // Lost.
                Err(_) => *under_way = 0,
            }
        }
    }
    report(options, before, start, answered)
}

/// One request a millisecond; the answers are waited for by another thread, so that a late one delays no request.
fn latency(options: &Options) -> Result<()> {
    let socket = connect(options.server)?;
    let under_way: Arc<Mutex<HashMap<u64, Instant>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (socket, under_way, stop) = (socket.try_clone()?, Arc::clone(&under_way), Arc::clone(&stop));
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        std::thread::spawn(move || {
            let (mut buffer, mut taken) = ([0; 1500], Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let Ok(length) = socket.recv(&mut buffer) else { continue };
                let arrived = Instant::now();
                let Some(number) = buffer[..length].get(8..16) else { continue };
                let number = u64::from_be_bytes(number.try_into().unwrap_or_default());
                let sent = under_way.lock().ok().and_then(|mut under_way| under_way.remove(&number));
                taken.extend(sent.map(|sent| arrived - sent));
            }
            taken
        })
    };
    let mut random = seeded();
    let mut bytes = MessageBuilder::new(Class::Request, Method::BINDING, random.transaction_id()).build();
    let (before, start, count) = (cpu(options.process)?, Instant::now(), options.seconds * 1000);
    for number in 0..count {
        let due = Duration::from_millis(number);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        bytes[8..16].copy_from_slice(&number.to_be_bytes());
        under_way.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.insert(number, Instant::now());
        socket.send(&bytes)?;
    }
    std::thread::sleep(Duration::from_millis(200));
    let used = cpu(options.process)? - before;
    stop.store(true, Ordering::Relaxed);
    let mut taken = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    taken.sort_unstable();
    let at =
        |percent: usize| taken.get(taken.len() * percent / 100).map_or(f64::NAN, |taken| taken.as_secs_f64() * 1e6);
    println!(
        "{{\"p50_us\":{:.0},\"p99_us\":{:.0},\"answered\":{},\"of\":{count},\"cpu_us\":{:.3}}}",
        at(50),
        at(99),
        taken.len(),
        used.as_secs_f64() * 1e6 / count as f64
    );
    Ok(())
}

/// One way: where packets go in, and where they come out.
struct Path {
    from: Sender,
    delivered: Arc<AtomicU64>,
}

/// Who sends, and what.
enum Sender {
    /// A client, what its transport carries.
    Client(Client, Vec<u8>),
    /// A peer, to a relayed address.
    Peer(UdpSocket, SocketAddr, Vec<u8>),
}

impl Sender {
    fn send(&mut self) -> Result<()> {
        match self {
            Self::Client(client, bytes) => client.link.send(bytes),
            Self::Peer(socket, relayed, bytes) => Ok(socket.send_to(bytes, *relayed).map(drop)?),
        }
    }
}

/// What takes packets, and counts them.
enum Receiver {
    Client(Client),
    Peer(UdpSocket),
}

impl Receiver {
    fn count(mut self, delivered: &AtomicU64, stop: &AtomicBool) -> Result<()> {
        match &self {
            Self::Client(client) => client.link.set_patience(Duration::from_millis(50))?,
            Self::Peer(socket) => socket.set_read_timeout(Some(Duration::from_millis(50)))?,
        }
        let mut buffer = vec![0; 65_536];
        while !stop.load(Ordering::Relaxed) {
            let came = match &mut self {
                Self::Client(client) => client.link.receive(&mut buffer)?.is_some(),
                Self::Peer(socket) => socket.recv(&mut buffer).is_ok(),
            };
            delivered.fetch_add(u64::from(came), Ordering::Relaxed);
        }
        Ok(())
    }
}

fn relay(options: &Options, to_relays: bool) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let (mut paths, mut readers) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        let mut client = Client::allocate(options)?;
        let data = vec![7; options.size];
        let (from, to) = if to_relays {
            let mut other = Client::allocate(options)?;
            client.open(other.relayed, options)?;
            other.open(client.relayed, options)?;
            let bytes = client.packet(other.relayed, &data, options);
            (Sender::Client(client, bytes), Receiver::Client(other))
        } else {
            let peer = UdpSocket::bind((home(options.server), 0))?;
            let address = peer.local_addr()?;
            client.open(address, options)?;
            if options.to_client {
                (Sender::Peer(peer, client.relayed, data), Receiver::Client(client))
            } else {
                let bytes = client.packet(address, &data, options);
                (Sender::Client(client, bytes), Receiver::Peer(peer))
            }
        };
        let delivered: Arc<AtomicU64> = Arc::default();
        let (counted, stop) = (Arc::clone(&delivered), Arc::clone(&stop));
        readers.push(std::thread::spawn(move || to.count(&counted, &stop)));
        paths.push(Path { from, delivered });
    }
    let delivered = |paths: &[Path]| paths.iter().map(|path| path.delivered.load(Ordering::Relaxed)).sum::<u64>();
    // Let it warm up.
    for path in &mut paths {
        path.from.send()?;
    }
    std::thread::sleep(Duration::from_millis(200));
    let (before, start, first) = (cpu(options.process)?, Instant::now(), delivered(&paths));
    let mut sent = vec![0_u64; paths.len()];
    let mut settled: Vec<(u64, Instant)> = paths.iter().map(|_| (0, Instant::now())).collect();
    let base: Vec<u64> = paths.iter().map(|path| path.delivered.load(Ordering::Relaxed)).collect();
    let (mut total, ways) = (0_u64, paths.len());
    while start.elapsed() < Duration::from_secs(options.seconds) {
        if options.rate > 0 {
            // What is due by now, in turn; then sleep: a packet every 50 us at 20,000 a second.
            let due = (start.elapsed().as_secs_f64() * options.rate as f64) as u64;
            while total < due {
                paths[(total as usize) % ways].from.send()?;
                total += 1;
            }
            std::thread::sleep(Duration::from_micros(20));
            continue;
        }
        let mut idle = true;
        for (at, path) in paths.iter_mut().enumerate() {
            let done = path.delivered.load(Ordering::Relaxed) - base[at];
            if done > settled[at].0 {
                settled[at] = (done, Instant::now());
            } else if settled[at].1.elapsed() > Duration::from_millis(50) {
                // The rest is lost.
                sent[at] = done;
            }
            for _ in sent[at]..(done + WINDOW).min(sent[at] + 32) {
                path.from.send()?;
                sent[at] += 1;
                idle = false;
            }
        }
        if idle {
            std::thread::yield_now();
        }
    }
    std::thread::sleep(Duration::from_millis(50));
    let count = delivered(&paths) - first;
    report(options, before, start, count)?;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
    }
    Ok(())
}

fn sessions(options: &Options) -> Result<()> {
    let (before, start, mut count) = (cpu(options.process)?, Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(options.seconds) {
        let mut client = Client::allocate(options)?;
        for lifetime in [600, 0] {
            let request = client.start(Method::REFRESH).u32(AttributeType::LIFETIME, lifetime);
            client.ask(request)?;
        }
        count += 1;
    }
    report(options, before, start, count)
}

fn memory(options: &Options) -> Result<()> {
    let mut warm = Client::allocate(options)?;
    warm.open("127.0.0.1:9999".parse()?, options)?;
    std::thread::sleep(Duration::from_millis(300));
    let before = resident(options.process)?;
    let clients = Mutex::new(Vec::new());
    for _ in 0..options.count {
        let mut client = Client::allocate(options)?;
        client.open("127.0.0.1:9999".parse()?, options)?;
        clients.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.push(client);
    }
    std::thread::sleep(Duration::from_millis(300));
    let after = resident(options.process)?;
    let each = (after.saturating_sub(before)) as f64 / options.count as f64;
    println!("{{\"bytes_per_allocation\":{each:.0}}}");
    Ok(())
}

fn amplification(options: &Options) -> Result<()> {
    let mut random = seeded();
    let socket = connect(options.server)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut buffer = [0; 1500];
    let binding = MessageBuilder::new(Class::Request, Method::BINDING, random.transaction_id()).build();
    socket.send(&binding)?;
    let answer = socket.recv(&mut buffer)?;
    let at_discovery = match options.discovery_port {
        0 => f64::NAN,
        port => {
            let socket = connect(SocketAddr::new(options.server.ip(), port))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.send(&binding)?;
            socket.recv(&mut buffer)? as f64 / binding.len() as f64
        }
    };
    let allocate = MessageBuilder::new(Class::Request, Method::ALLOCATE, random.transaction_id())
        .attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .build();
    socket.send(&allocate)?;
    let refusal = socket.recv(&mut buffer)?;
    let flood = Instant::now();
    let mut answers = 0;
    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
    while flood.elapsed() < Duration::from_secs(2) {
        socket.send(&allocate)?;
        answers += u32::from(socket.recv(&mut buffer).is_ok());
    }
    println!(
        "{{\"binding_ratio\":{:.2},\"discovery_ratio\":{},\"refusal_bytes\":{refusal},\"refusals_per_second\":{:.1}}}",
        answer as f64 / binding.len() as f64,
        if at_discovery.is_nan() { "null".to_owned() } else { format!("{at_discovery:.2}") },
        f64::from(answers) / flood.elapsed().as_secs_f64()
    );
    Ok(())
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// What carries a client's messages.
enum Link {
    Udp(UdpSocket),
    /// With its socket, for the time limit.
    Stream {
        stream: Box<dyn Stream>,
        socket: TcpStream,
        deframer: Deframer,
    },
}

impl Link {
    fn open(server: SocketAddr, transport: &Transport) -> Result<Self> {
        if matches!(transport, Transport::Udp) {
            return Ok(Self::Udp(connect(server)?));
        }
        let socket = TcpStream::connect(server)?;
        socket.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match transport {
            Transport::Tls(config) => {
                let session = rustls::ClientConnection::new(Arc::clone(config), "localhost".try_into()?)?;
                Box::new(rustls::StreamOwned::new(session, socket.try_clone()?))
            }
            _ => Box::new(socket.try_clone()?),
        };
        Ok(Self::Stream { stream, socket, deframer: Deframer::new(Framing::Stun) })
    }

    fn set_patience(&self, patience: Duration) -> Result<()> {
        match self {
            Self::Udp(socket) => Ok(socket.set_read_timeout(Some(patience))?),
            Self::Stream { socket, .. } => Ok(socket.set_read_timeout(Some(patience))?),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Udp(socket) => Ok(socket.send(bytes).map(drop)?),
            Self::Stream { stream, .. } => {
                stream.write_all(bytes)?;
                Ok(stream.flush()?)
            }
        }
    }

    /// The length of the next message, which lies in the buffer; `None` when there is none in time.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match self {
            Self::Udp(socket) => Ok(socket.recv(buffer).ok()),
            Self::Stream { stream, deframer, .. } => loop {
                if let Some(message) = deframer.next_message()? {
                    buffer[..message.len()].copy_from_slice(message);
                    return Ok(Some(message.len()));
                }
                match stream.read(buffer) {
                    Ok(0) => bail!("the server has closed the connection"),
                    Ok(length) => deframer.push(&buffer[..length]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            },
        }
    }
}

/// A client with an allocation.
struct Client {
    link: Link,
    random: Random,
    realm: String,
    nonce: String,
    relayed: SocketAddr,
}

impl Client {
    fn allocate(options: &Options) -> Result<Self> {
        let mut client = Self {
            link: Link::open(options.server, &options.transport)?,
            random: seeded(),
            realm: String::new(),
            nonce: String::new(),
            relayed: SocketAddr::from(([0; 4], 0)),
        };
        let is_ipv6 = options.server.is_ipv6();
        let wanted = |message: MessageBuilder| {
            let message = message.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            if is_ipv6 { message.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]) } else { message }
        };
        // The budget of first answers is ten a second for one address: then it takes a while.
        client.link.set_patience(Duration::from_millis(110))?;
        for _ in 0..40 {
            let first = wanted(client.start(Method::ALLOCATE)).build();
            client.link.send(&first)?;
            let mut buffer = [0; 1500];
            let Some(length) = client.link.receive(&mut buffer)? else { continue };
            let message = Message::decode(&buffer[..length])?;
            client.realm = message.text(AttributeType::REALM).context("a realm")?.to_owned();
            client.nonce = message.text(AttributeType::NONCE).context("a nonce")?.to_owned();
            break;
        }
        client.link.set_patience(Duration::from_secs(2))?;
        let request = wanted(client.start(Method::ALLOCATE));
        let answer = client.ask(request)?;
        let relayed = Message::decode(&answer)?.xor_address(AttributeType::XOR_RELAYED_ADDRESS);
        client.relayed = relayed.context("no relayed address")?;
        Ok(client)
    }

    /// Has a channel for a peer, or a permission.
    fn open(&mut self, peer: SocketAddr, options: &Options) -> Result<()> {
        let request = match options.indications {
            true => self.start(Method::CREATE_PERMISSION),
            false => {
                self.start(Method::CHANNEL_BIND).attribute(AttributeType::CHANNEL_NUMBER, &ChannelNumber::FIRST.value())
            }
        };
        self.ask(request.xor_address(AttributeType::XOR_PEER_ADDRESS, peer)).map(drop)
    }

    /// Application data for a peer, as the client sends it.
    fn packet(&mut self, peer: SocketAddr, data: &[u8], options: &Options) -> Vec<u8> {
        let bytes = match options.indications {
            true => MessageBuilder::new(Class::Indication, Method::SEND, self.random.transaction_id())
                .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
                .attribute(AttributeType::DATA, data)
                .build(),
            false => ChannelData::encode(ChannelNumber::FIRST, data),
        };
        match self.link {
            Link::Udp(_) => bytes,
            Link::Stream { .. } => Framing::Stun.wrap(&bytes),
        }
    }

    fn start(&mut self, method: Method) -> MessageBuilder {
        MessageBuilder::new(Class::Request, method, self.random.transaction_id())
    }

    fn ask(&mut self, request: MessageBuilder) -> Result<Vec<u8>> {
        let key = Key::long_term("alice", &self.realm, "wonderland");
        let bytes = request.long_term_credential("alice", &self.realm, &self.nonce).integrity(&key).build();
        self.link.send(&bytes)?;
        let mut buffer = vec![0; 4096];
        let length = self.link.receive(&mut buffer)?.context("no answer")?;
        buffer.truncate(length);
        let message = Message::decode(&buffer)?;
        ensure!(message.class == Class::Success, "{} is refused: {:?}", message.method, message.error_code());
        Ok(buffer)
    }
}

fn connect(server: SocketAddr) -> Result<UdpSocket> {
    // Sources of their own, so that the budget for first answers does not hold up the preparation.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let source = match server {
        SocketAddr::V4(_) => SocketAddr::from(([127, 9, (number / 250) as u8, (number % 250 + 1) as u8], 0)),
        SocketAddr::V6(_) => SocketAddr::new(home(server), 0),
    };
    let socket = UdpSocket::bind(source)?;
    socket.connect(server)?;
    Ok(socket)
}

/// Loopback of the server's family.
const fn home(server: SocketAddr) -> IpAddr {
    if server.is_ipv4() { IpAddr::V4(std::net::Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) }
}

fn seeded() -> Random {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("random bytes");
    Random::from_seed(seed)
}

fn report(options: &Options, before: Duration, start: Instant, count: u64) -> Result<()> {
    let (used, elapsed) = (cpu(options.process)? - before, start.elapsed());
    println!(
        "{{\"cpu_us\":{:.3},\"count\":{count},\"per_second\":{:.0}}}",
        used.as_secs_f64() * 1e6 / count as f64,
        count as f64 / elapsed.as_secs_f64()
    );
    Ok(())
}

/// CPU time of all threads of a process so far, in hundredths of a second.
fn cpu(process: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a process")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("a field")?.parse()?) };
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// Resident bytes of a process.
fn resident(process: u32) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("VmRSS")?.parse::<usize>()? * 1024)
}
