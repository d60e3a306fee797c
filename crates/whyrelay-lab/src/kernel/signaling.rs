//! Signaling beside the network: a proxy between a peer's own loopback address and the server, whatever the scenario
//! does to the paths between them. It delays a peer's messages, or loses them or its candidates, where the scenario says so.
//!
//! Everything passes as it is but the frames of a WebSocket (RFC 6455 §5.2). Those from the peer stay in order: what
//! follows a late message is late, too. A lost candidate becomes a message of a type that nobody knows, because the
//! server numbers messages and would ask for a missing one again. Where the scenario gives no credentials for TURN,
//! the server's announcement loses them here. The server sees the proxy; the address that it tells a peer becomes the
//! one at which it sees a plain program's connection by the network that the scenario describes, where one comes about.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use whyrelay_core::signal::{Joined, Message};

use super::error::LabError;
use super::namespace::enter;
use crate::scenario::SIGNALING_PORT;
use crate::scenario::topology::Signaling;

/// What messages take in any network: they are not delayed for it.
const USUAL: Duration = Duration::from_millis(20);
/// The longest frame that is held back; signaling's own messages are shorter.
const LONGEST: usize = 1 << 20;
/// The longest head of a request.
const LONGEST_HEAD: usize = 16 * 1024;
/// How long the thread that accepts may take to notice that it is to end.
const NOTICE: Duration = Duration::from_millis(50);

/// How long a plain program's connection to the server may take, and the answer to its join: before Linux repeats the
/// first packet (RFC 6298 §2.1: a second), so that nothing of it is under way once a session looks at its host.
const ASKED_WITHIN: Duration = Duration::from_millis(950);

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is so late.
    Late(Duration),
    /// It becomes one that nobody knows, and is so late.
    Unknown(Duration),
    /// It is gone.
    Gone,
}

impl Fate {
    /// That of a side's candidates, or of all else that it says.
    pub(super) fn of(faults: &Signaling, is_candidate: bool) -> Self {
        let usual = faults.delay.saturating_sub(USUAL);
        match is_candidate {
            _ if faults.lose_all => Self::Gone,
            true if faults.lose_candidates => Self::Unknown(usual + faults.candidates_delay),
            true => Self::Late(usual + faults.candidates_delay),
            false => Self::Late(usual),
        }
    }
}

/// A proxy; it ends when dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens at a port in a peer's namespace. Without credentials, the server's are withheld. `seen`: the address that
    /// the server tells the peer.
    pub(super) fn start(
        (peer, port): (String, u16),
        server: String,
        faults: &Signaling,
        credentials: bool,
        seen: Option<IpAddr>,
    ) -> Result<Self, LabError> {
        let faults = faults.clone();
        let listener = enter(&peer, || {
            let listener =
                TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(LabError::system("listening for signaling"))?;
            listener.set_nonblocking(true).map_err(LabError::system("listening for signaling"))?;
            Ok(listener)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let accept = move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((peer, _)) = listener.accept() else {
                    thread::sleep(NOTICE);
                    continue;
                };
                let (server, faults) = (server.clone(), faults.clone());
                // It ends with its connection, and every connection ends with the lab.
                thread::spawn(move || {
                    let server = enter(&server, || {
                        TcpStream::connect((Ipv4Addr::LOCALHOST, SIGNALING_PORT))
                            .map_err(LabError::system("connecting to signaling"))
                    });
                    if let Ok(server) = server {
                        let _ = serve(peer, server, &faults, credentials, seen);
                    }
                });
            }
        };
        let thread = thread::Builder::new().name("lab signaling".to_owned()).spawn(accept);
        Ok(Self { stop, thread: Some(thread.map_err(LabError::system("starting a thread"))?) })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The address from which the server sees a plain program's connection, from a peer's namespace to the first of its
/// addresses that takes one; all are asked at once, as one that takes none costs its time.
pub(super) fn seen_from(peer: &str, servers: &[SocketAddr]) -> Option<IpAddr> {
    let ask = || {
        thread::scope(|scope| {
            // A thread starts in the namespace of the one that starts it.
            let asking: Vec<_> = servers
                .iter()
                .enumerate()
                .map(|(number, server)| scope.spawn(move || asked(*server, &format!("{peer}-{number}"))))
                .collect();
            let answers: Vec<_> = asking.into_iter().filter_map(|asked| asked.join().ok()?.ok()?).collect();
            Ok(answers.into_iter().next())
        })
    };
    enter(peer, ask).ok().flatten()
}

fn asked(server: SocketAddr, id: &str) -> io::Result<Option<IpAddr>> {
    let mut stream = TcpStream::connect_timeout(&server, ASKED_WITHIN)?;
    stream.set_read_timeout(Some(ASKED_WITHIN))?;
    let join = format!(
        "GET /ws?id={id}&room=plain HTTP/1.1\r\nHost: lab\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bGFiLXBsYWluLXByb2dyYW0=\r\n\r\n"
    );
    stream.write_all(join.as_bytes())?;
    read_head(&mut stream)?;
    let frame = read_frame(&mut stream)?;
    let told =
        Message::from_json(&frame.clear()).ok().and_then(|told| serde_json::from_str::<Joined>(&told.content).ok());
    Ok(told.and_then(|joined| joined.address))
}

fn serve(
    mut peer: TcpStream,
    mut server: TcpStream,
    faults: &Signaling,
    credentials: bool,
    seen: Option<IpAddr>,
) -> io::Result<()> {
    peer.set_nonblocking(false)?;
    for stream in [&peer, &server] {
        stream.set_nodelay(true)?;
    }
    let (mut from_server, mut to_peer) = (server.try_clone()?, peer.try_clone()?);
    let head = read_head(&mut peer)?;
    let framed = String::from_utf8_lossy(&head).to_ascii_lowercase().contains("upgrade: websocket");
    thread::spawn(move || {
        let _ = match framed && !(credentials && seen.is_none()) {
            true => pass_on(&mut from_server, &mut to_peer, credentials, seen),
            false => io::copy(&mut from_server, &mut to_peer).map(drop),
        };
        let _ = to_peer.shutdown(Shutdown::Both);
    });
    server.write_all(&head)?;
    if !framed {
        io::copy(&mut peer, &mut server)?;
        return server.shutdown(Shutdown::Write);
    }
    let (late, ready) = channel();
    let writer = server.try_clone()?;
    thread::spawn(move || deliver(&ready, writer));
    let mut last = Instant::now();
    loop {
        let mut frame = read_frame(&mut peer)?;
        // A ping is the connection's own.
        if frame.is_message() {
            let is_candidate = frame.is(b"\"type\":\"candidate\"") || frame.is(b"\"type\":\"end-of-candidates\"");
            let delay = match Fate::of(faults, is_candidate) {
                Fate::Gone => continue,
                Fate::Unknown(delay) => {
                    frame.replace(b"\"type\":\"candidate\"", b"\"type\":\"x-lost-it\"");
                    frame.replace(b"\"type\":\"end-of-candidates\"", b"\"type\":\"x-lost-that-alike\"");
                    delay
                }
                Fate::Late(delay) => delay,
            };
            last = last.max(Instant::now() + delay);
        }
        if late.send((last, frame.bytes)).is_err() {
            return Ok(());
        }
    }
}

/// Passes the server's frames on: those of its announcement without credentials where there are none, and what it says of
/// the peer's address as the peer is seen.
fn pass_on(
    server: &mut TcpStream,
    peer: &mut TcpStream,
    credentials: bool,
    mut seen: Option<IpAddr>,
) -> io::Result<()> {
    peer.write_all(&read_head(server)?)?;
    loop {
        if credentials && seen.is_none() {
            return io::copy(server, peer).map(drop);
        }
        let mut frame = read_frame(server)?;
        if !credentials && frame.is(b"\"type\":\"servers\"") {
            frame.replace(b"credential", b"x-withheld");
        }
        let joined = seen.filter(|_| frame.is(b"\"type\":\"joined\"")).and_then(|seen| frame.seen_at(seen));
        if let Some(joined) = joined {
            seen = None;
            frame = joined;
        }
        peer.write_all(&frame.bytes)?;
    }
}

fn deliver(ready: &Receiver<(Instant, Vec<u8>)>, mut server: TcpStream) {
    for (when, bytes) in ready {
        thread::sleep(when.saturating_duration_since(Instant::now()));
        if server.write_all(&bytes).is_err() {
            return;
        }
    }
    let _ = server.shutdown(Shutdown::Write);
}

/// The head of a request, up to the empty line.
fn read_head(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST_HEAD {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head)
}

/// A WebSocket frame, as it came. A server's has no mask, which is one of zeros.
struct Frame {
    bytes: Vec<u8>,
    payload: usize,
    mask: [u8; 4],
}

fn read_frame(stream: &mut impl Read) -> io::Result<Frame> {
    let mut bytes = vec![0; 2];
    stream.read_exact(&mut bytes)?;
    let more = match bytes[1] & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let masked = bytes[1] & 0x80 != 0;
    let mut rest = vec![0; more + if masked { 4 } else { 0 }];
    stream.read_exact(&mut rest)?;
    let length = match more {
        0 => usize::from(bytes[1] & 0x7F),
        _ => rest[..more].iter().fold(0, |sum: usize, byte| sum.wrapping_shl(8) | usize::from(*byte)),
    };
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut mask = [0; 4];
    if masked {
        mask.copy_from_slice(&rest[more..]);
    }
    bytes.extend(rest);
    let payload = bytes.len();
    bytes.resize(payload + length, 0);
    stream.read_exact(&mut bytes[payload..])?;
    Ok(Frame { bytes, payload, mask })
}

impl Frame {
    /// A text or binary message, and no control frame.
    fn is_message(&self) -> bool {
        self.bytes[0] & 0x08 == 0
    }

    fn clear(&self) -> Vec<u8> {
        self.bytes[self.payload..].iter().zip(self.mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
    }

    fn is(&self, part: &[u8]) -> bool {
        self.clear().windows(part.len()).any(|window| window == part)
    }

    /// The server's answer to a join with another address of the peer.
    fn seen_at(&self, address: IpAddr) -> Option<Self> {
        let mut message = Message::from_json(&self.clear()).ok()?;
        let joined = Joined { address: Some(address), ..serde_json::from_str(&message.content).ok()? };
        message.content = serde_json::to_string(&joined).ok()?;
        let text = message.to_json();
        // Text, whole, without a mask (RFC 6455 §5.2).
        let mut bytes = vec![0x81];
        match u8::try_from(text.len()) {
            Ok(length @ ..126) => bytes.push(length),
            _ => {
                bytes.push(126);
                bytes.extend(u16::try_from(text.len()).ok()?.to_be_bytes());
            }
        }
        let payload = bytes.len();
        bytes.extend(text.into_bytes());
        Some(Self { bytes, payload, mask: [0; 4] })
    }

    /// Replaces a part by one of the same length.
    fn replace(&mut self, part: &[u8], other: &[u8]) {
        let clear = self.clear();
        let Some(at) = clear.windows(part.len()).position(|window| window == part) else { return };
        for (offset, byte) in other.iter().take(part.len()).enumerate() {
            let index = at + offset;
            self.bytes[self.payload + index] = byte ^ self.mask[index % 4];
        }
    }
}

#[cfg(test)]
mod tests {
    use whyrelay_core::signal::MessageType;

    use super::*;

    fn frame(text: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut bytes = vec![0x81, 0x80 | 126];
        bytes.extend((text.len() as u16).to_be_bytes());
        bytes.extend(mask);
        bytes.extend(text.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    #[test]
    fn a_candidate_is_made_a_message_that_nobody_knows() {
        let bytes = frame(br#"{"number":4,"type":"candidate","content":"candidate:1 1 udp"}"#);
        let mut read = read_frame(&mut &bytes[..]).unwrap();
        assert!(read.is_message() && read.is(b"\"type\":\"candidate\""));
        read.replace(b"\"type\":\"candidate\"", b"\"type\":\"x-lost-it\"");
        assert_eq!(read.bytes, frame(br#"{"number":4,"type":"x-lost-it","content":"candidate:1 1 udp"}"#));
    }

    #[test]
    fn a_server_s_announcement_loses_its_credentials() {
        let text = br#"{"type":"servers","content":"{\"servers\":[{\"credential\":\"secret\"}]}"}"#;
        let mut bytes = vec![0x81, text.len() as u8];
        bytes.extend(text);
        let mut read = read_frame(&mut &bytes[..]).unwrap();
        assert!(read.is(b"\"type\":\"servers\""));
        read.replace(b"credential", b"x-withheld");
        assert!(!read.is(b"credential") && read.is(b"x-withheld") && read.bytes.len() == bytes.len());
    }

    #[test]
    fn the_server_s_word_of_the_peer_s_address_becomes_that_of_a_plain_program() {
        let joined = Joined { received: 7, address: Some(Ipv4Addr::LOCALHOST.into()), ..Joined::default() };
        let content = serde_json::to_string(&joined).unwrap();
        let text = Message::new(MessageType::Joined, "", "offer-peer-1", content).to_json();
        let mut bytes = vec![0x81, 126];
        bytes.extend((text.len() as u16).to_be_bytes());
        bytes.extend(text.as_bytes());
        let read = read_frame(&mut &bytes[..]).unwrap();
        let other: IpAddr = "203.0.113.10".parse().unwrap();
        let told = read_frame(&mut &read.seen_at(other).unwrap().bytes[..]).unwrap();
        assert!(told.is_message() && told.is(b"\"type\":\"joined\"") && told.is(b"offer-peer-1"));
        let message = Message::from_json(&told.clear()).unwrap();
        let expected = Joined { address: Some(other), ..joined };
        assert_eq!(serde_json::from_str::<Joined>(&message.content).unwrap(), expected);
    }

    #[test]
    fn a_frame_that_is_too_long_ends_the_connection() {
        let bytes = [&[0x82, 0x80 | 127][..], &[0xFF; 8], &[0; 4]].concat();
        assert!(read_frame(&mut &bytes[..]).is_err());
    }
}
