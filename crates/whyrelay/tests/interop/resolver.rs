//! A resolver in a namespace that knows some names.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::namespace::Namespace;

/// What is known of a name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name<'a> {
    /// Its addresses.
    At(&'a [IpAddr]),
    /// The same, and a question for one of them is answered after a while only.
    Slow(Duration, &'a [IpAddr]),
    /// Nobody answers who asks for it.
    Silent,
}

/// Answers on port 53 until it is dropped: of these names; all others do not exist.
pub(crate) struct Resolver {
    over: Arc<AtomicBool>,
    serving: Option<std::thread::JoinHandle<()>>,
}

/// A name as it is asked for, and what is answered: after which time, with which addresses.
type Known = (Vec<u8>, Option<(Duration, Vec<IpAddr>)>);

impl Resolver {
    /// Starts it at an address of the namespace.
    pub(crate) fn start(namespace: &Namespace, at: Ipv4Addr, names: &[(&str, Name<'_>)]) -> Result<Self> {
        let inside = File::open(Path::new("/run/netns").join(namespace.name()))?;
        let known = |(name, of): &(&str, Name<'_>)| -> Known {
            let answer = match of {
                Name::At(addresses) => Some((Duration::ZERO, addresses.to_vec())),
                Name::Slow(wait, addresses) => Some((*wait, addresses.to_vec())),
                Name::Silent => None,
            };
            (labels(name), answer)
        };
        let names: Vec<Known> = names.iter().map(known).collect();
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let (bound, is_bound) = std::sync::mpsc::channel();
        // Only this thread is in there.
        let serving = std::thread::spawn(move || {
            let opened = setns(&inside, CloneFlags::CLONE_NEWNET)
                .map_err(std::io::Error::from)
                .and_then(|()| UdpSocket::bind(SocketAddr::new(IpAddr::V4(at), 53)))
                .and_then(|socket| socket.set_read_timeout(Some(Duration::from_millis(50))).map(|()| socket));
            let socket = match opened {
                Ok(socket) => socket,
                Err(error) => return drop(bound.send(Err(error))),
            };
            let _ = bound.send(Ok(()));
            let mut query = [0; 512];
            while !until.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut query) else { continue };
                if let Some((wait, answer)) = answer(&query[..length], &names) {
                    std::thread::sleep(wait);
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        let resolver = Self { over, serving: Some(serving) };
        is_bound.recv().map_err(|_| anyhow!("the resolver's thread ended"))?.context("the resolver's socket")?;
        Ok(resolver)
    }
}

/// whyrelay on a host whose programs ask the resolver at an address; `file`: where its resolv.conf is written.
pub(crate) fn asking(host: &Namespace, resolver: Ipv4Addr, file: &Path) -> Result<Command> {
    std::fs::write(file, format!("nameserver {resolver}\n"))?;
    let mut command = host.command("sh");
    command.args(["-e", "-c", "mount --bind $0 /etc/resolv.conf; exec \"$@\""]).arg(file);
    command.arg(env!("CARGO_BIN_EXE_whyrelay"));
    Ok(command)
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

/// A name as RFC 1035 §3.1 lays it out.
fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.extend(u8::try_from(label.len()));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// The answer to a query with one question (RFC 1035 §4.1), and after which time it is given; `None`: never.
fn answer(query: &[u8], names: &[Known]) -> Option<(Duration, Vec<u8>)> {
    let (id, question) = (query.get(..2)?, query.get(12..)?);
    let end = question.iter().position(|byte| *byte == 0)? + 1;
    let (asked, kind) = (&question[..end], question.get(end..end + 4)?);
    let known = names.iter().find(|(name, _)| asked.eq_ignore_ascii_case(name));
    let (wait, addresses) = match known {
        Some((_, answer)) => answer.clone()?,
        None => (Duration::ZERO, Vec::new()),
    };
    // A and AAAA records (RFC 3596 §2.1); of other kinds there is none, which is no error.
    let records: Vec<Vec<u8>> = addresses.iter().filter_map(|address| record(*address, kind)).collect();
    let code = if known.is_some() { 0x80 } else { 0x83 };
    let count = u8::try_from(records.len()).ok()?;
    let wait = if records.is_empty() { Duration::ZERO } else { wait };
    Some((
        wait,
        [&[id, &[0x81, code, 0, 1, 0, count, 0, 0, 0, 0], asked, kind].concat()[..], &records.concat()].concat(),
    ))
}

/// An address as a record of the kind that is asked for.
fn record(address: IpAddr, kind: &[u8]) -> Option<Vec<u8>> {
    let (of, bytes) = match address {
        IpAddr::V4(ip) => ([0, 1, 0, 1], ip.octets().to_vec()),
        IpAddr::V6(ip) => ([0, 28, 0, 1], ip.octets().to_vec()),
    };
    let length = u8::try_from(bytes.len()).ok()?;
    // The name is that of the question; it holds for a minute.
    (kind == of).then(|| [&[0xC0, 12][..], &of, &[0, 0, 0, 60, 0, length], &bytes].concat())
}
