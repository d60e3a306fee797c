//! A resolver in a namespace that knows one name.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::namespace::Namespace;

/// Answers on port 53 until it is dropped: the one name has this address, all others do not exist.
pub(crate) struct Resolver {
    over: Arc<AtomicBool>,
    serving: Option<std::thread::JoinHandle<()>>,
}

impl Resolver {
    /// Starts it at an address of the namespace.
    pub(crate) fn start(namespace: &Namespace, at: Ipv4Addr, name: &str, address: Ipv4Addr) -> Result<Self> {
        let inside = File::open(Path::new("/run/netns").join(namespace.name()))?;
        let name = labels(name);
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
                if let Some(answer) = answer(&query[..length], &name, address) {
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        let resolver = Self { over, serving: Some(serving) };
        is_bound.recv().map_err(|_| anyhow!("the resolver's thread ended"))?.context("the resolver's socket")?;
        Ok(resolver)
    }
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

/// The answer to a query with one question (RFC 1035 §4.1).
fn answer(query: &[u8], name: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let (id, question) = (query.get(..2)?, query.get(12..)?);
    let end = question.iter().position(|byte| *byte == 0)? + 1;
    let (asked, kind) = (&question[..end], question.get(end..end + 4)?);
    let is_known = asked.eq_ignore_ascii_case(name);
    // An A record; of other kinds there is none, which is no error.
    let is_answered = is_known && kind == [0, 1, 0, 1];
    let code = if is_known { 0x80 } else { 0x83 };
    let mut answer = [id, &[0x81, code, 0, 1, 0, u8::from(is_answered), 0, 0, 0, 0], asked, kind].concat();
    if is_answered {
        answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
