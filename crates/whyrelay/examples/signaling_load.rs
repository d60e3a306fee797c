//! Loads a signaling server on loopback and tells what a message or a waiting peer costs it.
//!
//! ```text
//! signaling_load ADDRESS PID long-poll|websocket|matchbox|peerjs [--pairs N] [--rate N] [--seconds N] [--idle N]
//!     [--slow-readers N]
//! ```
//!
//! Each pair sends its next message when the last one has arrived, or all together `--rate` messages a second.
//! `--idle` instead opens so many receivers, gives each one message, and tells the server's memory for each. The
//! `--slow-readers` adds so many long-poll receivers that read nothing of what is sent to them all the time. The
//! result is one JSON object. `PID` is the server's process.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use whyrelay_core::signal::{Join, Message, MessageType};

/// Bytes of a message's content: a long candidate line.
const CONTENT: usize = 200;
/// Before measuring, so that pools are filled and code is warm.
const WARM_UP: Duration = Duration::from_millis(500);
/// Bytes of a message to a reader that does not read: what the kernel holds is full within the warm-up.
const SLOW_CONTENT: usize = 40_000;
/// A refused sender tries again after this.
const SLOW_AGAIN: Duration = Duration::from_millis(100);
/// A real client acknowledges at least this often.
const ACK_EVERY: u64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    LongPoll,
    WebSocket,
    Matchbox,
    PeerJs,
}

#[derive(Clone, Copy, Debug)]
struct Options {
    address: SocketAddr,
    pid: u32,
    protocol: Protocol,
    pairs: usize,
    rate: Option<u64>,
    seconds: u64,
    idle: Option<usize>,
    slow_readers: usize,
}

fn main() -> anyhow::Result<()> {
    let options = parse()?;
    ensure!(options.address.ip().is_loopback(), "only loopback is loaded");
    ensure!(options.pairs <= 5000 && options.seconds <= 120, "that is too much");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        match options.idle {
            Some(count) => idle(options, count).await,
            None => load(options).await,
        }
    })
}

fn parse() -> anyhow::Result<Options> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("ADDRESS PID PROTOCOL are needed");
    let (address, pid) = (next()?.parse()?, next()?.parse()?);
    let protocol = match next()?.as_str() {
        "long-poll" => Protocol::LongPoll,
        "websocket" => Protocol::WebSocket,
        "matchbox" => Protocol::Matchbox,
        "peerjs" => Protocol::PeerJs,
        other => bail!("unknown protocol {other}"),
    };
    let mut options =
        Options { address, pid, protocol, pairs: 100, rate: None, seconds: 5, idle: None, slow_readers: 0 };
    while let Ok(flag) = next() {
        let value = next()?;
        match flag.as_str() {
            "--pairs" => options.pairs = value.parse()?,
            "--rate" => options.rate = Some(value.parse()?),
            "--seconds" => options.seconds = value.parse()?,
            "--idle" => options.idle = Some(value.parse()?),
            "--slow-readers" => options.slow_readers = value.parse()?,
            other => bail!("unknown flag {other}"),
        }
    }
    Ok(options)
}

/// One sender and one receiver.
enum Pair {
    LongPoll { sender: TcpStream, request: Vec<u8>, receiver: TcpStream },
    WebSocket { sender: Socket, frame: FrameMaker, receiver: Socket, acks: bool, taken: u64 },
}

type Socket = Box<WebSocketStream<TcpStream>>;
type FrameMaker = Box<dyn FnMut() -> Frame>;

impl Pair {
    async fn open(options: Options, number: usize) -> anyhow::Result<Self> {
        let (from, to) = (format!("from-{number}"), format!("to-{number}"));
        let message = Message::new(MessageType::Candidate, &*from, &*to, "x".repeat(CONTENT));
        Ok(match options.protocol {
            Protocol::LongPoll => {
                let receiver = long_poll(options.address, &to).await?;
                let body = message.to_json();
                let request = format!(
                    "POST /send HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\nContent-Length: {}\r\nContent-Type: application/json\r\n\r\n{body}",
                    body.len()
                )
                .into_bytes();
                let sender = connect(options.address).await?;
                Self::LongPoll { sender, request, receiver }
            }
            Protocol::WebSocket => {
                let receiver = join(options.address, &to).await?;
                let sender = join(options.address, &from).await?;
                let mut numbered = message;
                let frame = Box::new(move || {
                    numbered.seq = Some(numbered.seq.unwrap_or(0) + 1);
                    Frame::text(numbered.to_json())
                });
                Self::WebSocket { sender, frame, receiver, acks: true, taken: 0 }
            }
            Protocol::Matchbox => {
                let (receiver, id) = matchbox(options.address).await?;
                let (sender, _) = matchbox(options.address).await?;
                let frame = Box::new(move || {
                    let data = "x".repeat(CONTENT);
                    Frame::text(format!(r#"{{"Signal":{{"receiver":{id},"data":"{data}"}}}}"#))
                });
                Self::WebSocket { sender, frame, receiver, acks: false, taken: 0 }
            }
            Protocol::PeerJs => {
                let receiver = peerjs(options.address, &to).await?;
                let sender = peerjs(options.address, &from).await?;
                let frame = Box::new(move || {
                    let data = "x".repeat(CONTENT);
                    Frame::text(format!(r#"{{"type":"CANDIDATE","payload":{{"candidate":"{data}"}},"dst":"{to}"}}"#))
                });
                Self::WebSocket { sender, frame, receiver, acks: false, taken: 0 }
            }
        })
    }

    /// Sends one message and waits until it has arrived.
    async fn exchange(&mut self) -> anyhow::Result<()> {
        match self {
            Self::LongPoll { sender, request, receiver } => {
                sender.write_all(request).await?;
                let mut buffer = [0; 4096];
                let response = read_until(sender, &mut buffer, b"\r\n\r\n").await?;
                ensure!(response.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(response));
                read_until(receiver, &mut buffer, b"}\n\r\n").await?;
            }
            Self::WebSocket { sender, frame, receiver, acks, taken } => {
                sender.send(frame()).await?;
                loop {
                    let text = receiver.next().await.context("the server closed")??.into_text()?;
                    // matchbox tells everybody of everybody; our server says joined and pings.
                    if text.contains(&"x".repeat(16)) {
                        break;
                    }
                }
                *taken += 1;
                if *acks && *taken % ACK_EVERY == 0 {
                    let mut ack = Message::new(MessageType::Ack, "", "", "");
                    ack.seq = Some(*taken);
                    receiver.send(Frame::text(ack.to_json())).await?;
                    // The server's acknowledgements to the sender.
                    while let Ok(Some(frame)) = tokio::time::timeout(Duration::ZERO, sender.next()).await {
                        frame?;
                    }
                }
            }
        }
        Ok(())
    }
}

async fn load(options: Options) -> anyhow::Result<()> {
    let mut pairs = Vec::new();
    for number in 0..options.pairs {
        pairs.push(Pair::open(options, number).await.with_context(|| format!("pair {number}"))?);
    }
    tokio::time::sleep(WARM_UP).await;
    let times = Rc::new(RefCell::new(Vec::<u32>::new()));
    let failure = Rc::new(RefCell::new(None));
    let running = Rc::new(Cell::new(true));
    for number in 0..options.slow_readers {
        spawn_local(send_to_slow_reader(options.address, number, Rc::clone(&running)));
    }
    let pause = options.rate.map(|rate| Duration::from_secs_f64(options.pairs as f64 / rate as f64));
    for (number, mut pair) in pairs.into_iter().enumerate() {
        let (times, failure, running) = (Rc::clone(&times), Rc::clone(&failure), Rc::clone(&running));
        spawn_local(async move {
            let mut at = tokio::time::Instant::now();
            if let Some(pause) = pause {
                // Spread evenly.
                at += pause.mul_f64(number as f64 / options.pairs as f64);
            }
            while running.get() {
                if let Some(pause) = pause {
                    tokio::time::sleep_until(at).await;
                    at += pause;
                }
                let begun = Instant::now();
                if let Err(error) = pair.exchange().await {
                    failure.borrow_mut().get_or_insert(error);
                    return;
                }
                times.borrow_mut().push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
        });
    }
    tokio::time::sleep(WARM_UP).await;
    times.borrow_mut().clear();
    let (cpu, begun) = (cpu_micros(options.pid)?, Instant::now());
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let (cpu, seconds) = (cpu_micros(options.pid)? - cpu, begun.elapsed().as_secs_f64());
    running.set(false);
    if let Some(error) = failure.borrow_mut().take() {
        return Err(error);
    }
    let mut times = times.take();
    times.sort_unstable();
    ensure!(!times.is_empty(), "nothing arrived");
    let part = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        r#"{{"protocol":"{:?}","pairs":{},"messages":{},"per_second":{:.0},"cpu_us_per_message":{:.2},"p50_us":{},"p99_us":{}}}"#,
        options.protocol,
        options.pairs,
        times.len(),
        times.len() as f64 / seconds,
        cpu as f64 / times.len() as f64,
        part(0.5),
        part(0.99)
    );
    Ok(())
}

async fn idle(options: Options, count: usize) -> anyhow::Result<()> {
    ensure!(count <= 20_000, "that is too much");
    // One receiver first, so that what the server has once is not counted.
    let mut receivers = vec![Waiting::open(options, 0).await?];
    tokio::time::sleep(WARM_UP).await;
    let before = memory_bytes(options.pid)?;
    for number in 1..=count {
        receivers.push(Waiting::open(options, number).await.with_context(|| format!("receiver {number}"))?);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = memory_bytes(options.pid)?;
    println!(
        r#"{{"protocol":"{:?}","receivers":{count},"bytes_per_receiver":{:.0}}}"#,
        options.protocol,
        after.saturating_sub(before) as f64 / count as f64
    );
    drop(receivers);
    Ok(())
}

/// A receiver that waits; over long poll it has had one message, as GOALS.md measures it.
enum Waiting {
    LongPoll { _stream: TcpStream },
    WebSocket { _socket: Socket },
}

impl Waiting {
    async fn open(options: Options, number: usize) -> anyhow::Result<Self> {
        Ok(match options.protocol {
            Protocol::LongPoll => {
                let id = format!("to-{number}");
                let mut stream = long_poll(options.address, &id).await?;
                let body = Message::new(MessageType::Candidate, "load", &*id, "x".repeat(CONTENT)).to_json();
                let request = format!(
                    "POST /send HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                // The server may not have read the receiver's request yet.
                loop {
                    let mut sender = connect(options.address).await?;
                    sender.write_all(request.as_bytes()).await?;
                    let mut response = Vec::new();
                    sender.read_to_end(&mut response).await?;
                    if response.starts_with(b"HTTP/1.1 200") {
                        break;
                    }
                    ensure!(response.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&response));
                }
                read_until(&mut stream, &mut [0; 4096], b"}\n\r\n").await?;
                Self::LongPoll { _stream: stream }
            }
            Protocol::WebSocket => Self::WebSocket { _socket: join(options.address, &format!("to-{number}")).await? },
            Protocol::Matchbox => Self::WebSocket { _socket: matchbox(options.address).await?.0 },
            Protocol::PeerJs => Self::WebSocket { _socket: peerjs(options.address, &format!("to-{number}")).await? },
        })
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Begins to receive. The Go server answers only with the first message, so the answer is not waited for; the
/// server has read the request once it takes the next connection.
async fn long_poll(address: SocketAddr, id: &str) -> anyhow::Result<TcpStream> {
    let mut stream = connect(address).await?;
    let request = format!("GET /receive?id={id} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    tokio::time::sleep(Duration::from_millis(2)).await;
    Ok(stream)
}

async fn websocket(address: SocketAddr, target: &str) -> anyhow::Result<Socket> {
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
    let url = format!("ws://{address}{target}");
    Ok(Box::new(tokio_tungstenite::client_async_with_config(url, connect(address).await?, Some(config)).await?.0))
}

async fn join(address: SocketAddr, id: &str) -> anyhow::Result<Socket> {
    let mut socket = websocket(address, "/ws").await?;
    let join = Join { id: id.to_owned(), token: id.to_owned(), ack: true, ..Join::default() };
    let message = Message::new(MessageType::Join, "", "", serde_json::to_string(&join)?);
    socket.send(Frame::text(message.to_json())).await?;
    let joined = socket.next().await.context("no answer to a join")??;
    ensure!(joined.to_text()?.contains("joined"), "{joined}");
    Ok(socket)
}

/// Joins matchbox's mesh; answers the id that it gives, as JSON.
async fn matchbox(address: SocketAddr) -> anyhow::Result<(Socket, String)> {
    let mut socket = websocket(address, "/room").await?;
    let assigned = socket.next().await.context("no id")??;
    let assigned: serde_json::Value = serde_json::from_str(assigned.to_text()?)?;
    let id = assigned.get("IdAssigned").context("no id")?.to_string();
    Ok((socket, id))
}

/// Registers with a PeerJS server.
async fn peerjs(address: SocketAddr, id: &str) -> anyhow::Result<Socket> {
    let mut socket = websocket(address, &format!("/peerjs?key=peerjs&id={id}&token={id}&version=1.5.5")).await?;
    let opened = socket.next().await.context("not opened")??;
    ensure!(opened.to_text()?.contains("OPEN"), "{opened}");
    Ok(socket)
}

/// Sends to a receiver that never reads, as fast as the server takes it: the kernel's buffers and its mailbox are full
/// soon, and then again and again. Ends with the first error.
async fn send_to_slow_reader(address: SocketAddr, number: usize, running: Rc<Cell<bool>>) -> anyhow::Result<()> {
    let id = format!("slow-{number}");
    let _receiver = long_poll(address, &id).await?;
    let body = Message::new(MessageType::Candidate, "load", &*id, "x".repeat(SLOW_CONTENT)).to_json();
    let head = "POST /send HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length:";
    let request = format!("{head} {}\r\n\r\n{body}", body.len());
    while running.get() {
        let mut sender = connect(address).await?;
        sender.write_all(request.as_bytes()).await?;
        let mut response = Vec::new();
        sender.read_to_end(&mut response).await?;
        if !response.starts_with(b"HTTP/1.1 200") {
            tokio::time::sleep(SLOW_AGAIN).await;
        }
    }
    Ok(())
}

async fn read_until<'a>(stream: &mut TcpStream, buffer: &'a mut [u8], end: &[u8]) -> anyhow::Result<&'a [u8]> {
    let mut len = 0;
    while !buffer[..len].ends_with(end) {
        ensure!(len < buffer.len(), "too much: {}", String::from_utf8_lossy(buffer));
        match stream.read(&mut buffer[len..]).await? {
            0 => bail!("the server closed after {}", String::from_utf8_lossy(&buffer[..len])),
            read => len += read,
        }
    }
    Ok(&buffer[..len])
}

/// CPU time of a process in user and kernel mode, all threads.
fn cpu_micros(pid: u32) -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    // Fields 14 and 15 of proc_pid_stat(5), in ticks of 10 ms.
    let ticks: u64 =
        fields.get(11).context("stat")?.parse::<u64>()? + fields.get(12).context("stat")?.parse::<u64>()?;
    Ok(ticks * 10_000)
}

fn memory_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("status")?;
    Ok(line.split_whitespace().nth(1).context("status")?.parse::<u64>()? * 1024)
}
