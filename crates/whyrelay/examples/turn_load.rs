//! Loads a STUN and TURN server and says what it cost: `turn_load ADDR PID WHAT [--size N] [--rate N] [--seconds N]
//! [--count N] [--sources N]`, as JSON. The server must know the user `alice` with the password `wonderland` and relay to loopback.
//!
//! | what | what it does |
//! |---|---|
//! | `binding` | Binding requests, 64 under way, from one source or from so many |
//! | `relay` | four clients, each with an allocation and a channel to a peer of its own, client to peer |
//! | `relays` | four pairs of clients, each to the other's relayed address |
//! | `memory` | `--count` allocations with one channel each |
//! | `amplification` | what a bare Binding request and a first Allocate get |

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use whyrelay_core::random::Random;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::Key;
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method};
use whyrelay_core::wire::turn::{ChannelData, ChannelNumber};

/// Packets under way for each client, when not paced.
const WINDOW: u64 = 128;
const CLIENTS: usize = 4;
/// Binding requests under way, from all sources together.
const UNDER_WAY: u64 = 64;

struct Options {
    server: SocketAddr,
    process: u32,
    size: usize,
    rate: u64,
    seconds: u64,
    count: usize,
    sources: u64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, process, what, rest @ ..] = &arguments[..] else { bail!("turn_load ADDR PID WHAT …") };
    let option = |name: &str, default: u64| -> Result<u64> {
        match rest.iter().position(|argument| argument == name) {
            Some(at) => Ok(rest.get(at + 1).context("a value")?.parse()?),
            None => Ok(default),
        }
    };
    let options = Options {
        server: server.parse()?,
        process: process.parse()?,
        size: option("--size", 172)? as usize,
        rate: option("--rate", 0)?,
        seconds: option("--seconds", 3)?,
        count: option("--count", 2000)? as usize,
        sources: option("--sources", 1)?.clamp(1, UNDER_WAY),
    };
    match what.as_str() {
        "binding" => binding(&options),
        "relay" => relay(&options, false),
        "relays" => relay(&options, true),
        "memory" => memory(&options),
        "amplification" => amplification(&options),
        other => bail!("{other} is unknown"),
    }
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

/// One way of a channel: where it goes in, and where it comes out.
struct Path {
    from: UdpSocket,
    to: UdpSocket,
    delivered: Arc<AtomicU64>,
    _others: Vec<Client>,
}

fn relay(options: &Options, to_relays: bool) -> Result<()> {
    let mut paths = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::allocate(options.server)?;
        let from = client.socket.try_clone()?;
        let delivered = Arc::default();
        if to_relays {
            let mut other = Client::allocate(options.server)?;
            client.bind(other.relayed)?;
            other.bind(client.relayed)?;
            let to = other.socket.try_clone()?;
            paths.push(Path { from, to, delivered, _others: vec![client, other] });
        } else {
            let peer = UdpSocket::bind("127.0.0.1:0")?;
            client.bind(peer.local_addr()?)?;
            paths.push(Path { from, to: peer, delivered, _others: vec![client] });
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for path in &paths {
        let (socket, delivered, stop) = (path.to.try_clone()?, Arc::clone(&path.delivered), Arc::clone(&stop));
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        readers.push(std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                if socket.recv(&mut buffer).is_ok() {
                    delivered.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    let data = ChannelData::encode(ChannelNumber::FIRST, &vec![7; options.size]);
    let delivered = |paths: &[Path]| paths.iter().map(|path| path.delivered.load(Ordering::Relaxed)).sum::<u64>();
    // Let it warm up.
    for path in &paths {
        path.from.send(&data)?;
    }
    std::thread::sleep(Duration::from_millis(200));
    let (before, start, first) = (cpu(options.process)?, Instant::now(), delivered(&paths));
    let mut sent = vec![0_u64; paths.len()];
    let mut settled: Vec<(u64, Instant)> = paths.iter().map(|_| (0, Instant::now())).collect();
    let base: Vec<u64> = paths.iter().map(|path| path.delivered.load(Ordering::Relaxed)).collect();
    let mut total = 0_u64;
    while start.elapsed() < Duration::from_secs(options.seconds) {
        if options.rate > 0 {
            // What is due by now, in turn; then sleep: a packet every 50 us at 20,000 a second.
            let due = (start.elapsed().as_secs_f64() * options.rate as f64) as u64;
            while total < due {
                paths[(total as usize) % paths.len()].from.send(&data)?;
                total += 1;
            }
            std::thread::sleep(Duration::from_micros(20));
            continue;
        }
        let mut idle = true;
        for (at, path) in paths.iter().enumerate() {
            let done = path.delivered.load(Ordering::Relaxed) - base[at];
            if done > settled[at].0 {
                settled[at] = (done, Instant::now());
            } else if settled[at].1.elapsed() > Duration::from_millis(50) {
                // The rest is lost.
                sent[at] = done;
            }
            for _ in sent[at]..(done + WINDOW).min(sent[at] + 32) {
                path.from.send(&data)?;
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
        let _ = reader.join();
    }
    Ok(())
}

fn memory(options: &Options) -> Result<()> {
    let mut warm = Client::allocate(options.server)?;
    warm.bind("127.0.0.1:9999".parse()?)?;
    std::thread::sleep(Duration::from_millis(300));
    let before = resident(options.process)?;
    let clients = Mutex::new(Vec::new());
    for _ in 0..options.count {
        let mut client = Client::allocate(options.server)?;
        client.bind("127.0.0.1:9999".parse()?)?;
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
        "{{\"binding_ratio\":{:.2},\"refusal_bytes\":{refusal},\"refusals_per_second\":{:.1}}}",
        answer as f64 / binding.len() as f64,
        f64::from(answers) / flood.elapsed().as_secs_f64()
    );
    Ok(())
}

/// A client with an allocation.
struct Client {
    socket: UdpSocket,
    random: Random,
    realm: String,
    nonce: String,
    relayed: SocketAddr,
}

impl Client {
    fn allocate(server: SocketAddr) -> Result<Self> {
        let socket = connect(server)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut client = Self {
            socket,
            random: seeded(),
            realm: String::new(),
            nonce: String::new(),
            relayed: SocketAddr::from(([0; 4], 0)),
        };
        let transport = |message: MessageBuilder| message.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        // The budget of first answers is ten a second for one address: then it takes a while.
        for _ in 0..40 {
            let first = transport(client.start(Method::ALLOCATE)).build();
            client.socket.send(&first)?;
            let mut buffer = [0; 1500];
            client.socket.set_read_timeout(Some(Duration::from_millis(110)))?;
            let Ok(length) = client.socket.recv(&mut buffer) else { continue };
            let message = Message::decode(&buffer[..length])?;
            client.realm = message.text(AttributeType::REALM).context("a realm")?.to_owned();
            client.nonce = message.text(AttributeType::NONCE).context("a nonce")?.to_owned();
            break;
        }
        client.socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let request = transport(client.start(Method::ALLOCATE));
        let answer = client.ask(request)?;
        let relayed = Message::decode(&answer)?.xor_address(AttributeType::XOR_RELAYED_ADDRESS);
        client.relayed = relayed.context("no relayed address")?;
        Ok(client)
    }

    fn bind(&mut self, peer: SocketAddr) -> Result<()> {
        let request = self
            .start(Method::CHANNEL_BIND)
            .attribute(AttributeType::CHANNEL_NUMBER, &ChannelNumber::FIRST.value())
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        self.ask(request).map(drop)
    }

    fn start(&mut self, method: Method) -> MessageBuilder {
        MessageBuilder::new(Class::Request, method, self.random.transaction_id())
    }

    fn ask(&mut self, request: MessageBuilder) -> Result<Vec<u8>> {
        let key = Key::long_term("alice", &self.realm, "wonderland");
        let bytes = request
            .text(AttributeType::USERNAME, "alice")
            .text(AttributeType::REALM, &self.realm)
            .text(AttributeType::NONCE, &self.nonce)
            .integrity(&key)
            .build();
        self.socket.send(&bytes)?;
        let mut buffer = vec![0; 1500];
        let length = self.socket.recv(&mut buffer).context("no answer")?;
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
    let source = SocketAddr::from(([127, 9, (number / 250) as u8, (number % 250 + 1) as u8], 0));
    let socket = UdpSocket::bind(source)?;
    socket.connect(server)?;
    Ok(socket)
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
