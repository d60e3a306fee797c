//! A full table of tracked connections.
//!
//! Its limit is the machine's and can be set in no other namespace; the entries are counted for each alone. So a host's
//! own table is filled with as many as the limit says, by ctnetlink, and nobody else's runs out.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::panic::resume_unwind;
use std::thread;

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket};

use super::error::LabError;

/// The most entries of a machine of which a table is filled: each takes some 300 bytes and some microseconds.
const MOST: u32 = 524_288;

/// Entries of one message to the kernel.
const BATCH: u32 = 256;

/// The rules that a host with a full table needs: connections are tracked, but for what it says to itself, signaling among
/// that.
pub(super) const RULES: &str = "table inet tracked {
chain out { type filter hook output priority -300; oifname lo notrack; }
chain pre { type filter hook prerouting priority -300; iifname lo notrack; }
chain in { type filter hook input priority 0; ct state established accept; }
}
";

// Of linux/netfilter/nfnetlink_conntrack.h: subsystem and message, attributes of an entry, of a tuple and of its parts.
const NEW: u16 = 1 << 8;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const TIMEOUT: u16 = 7;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const NESTED: u16 = 0x8000;

/// Request and create (linux/netlink.h).
const FLAGS: u16 = 0x0001 | 0x0400;

/// Confirmed, assured, answers seen: the kernel gives none of them up for another (`early_drop`).
const ASSURED: u32 = 1 << 3 | 1 << 2 | 1 << 1;

/// For longer than any session, in seconds.
const LASTING: u32 = 600;

/// Why no table is filled here; `None`: one can be.
pub(super) fn refused() -> Option<String> {
    let limit = number("nf_conntrack_max").ok()?;
    let many = || format!("this machine's has {limit} places, and filling more than {MOST} takes too long");
    (limit > MOST).then(many)
}

/// Fills the table of the namespace that this thread is in. Its rules must be there.
///
/// # Errors
/// When the kernel takes none, or not as many as it has places.
pub(super) fn fill() -> Result<(), LabError> {
    let failed = || LabError::system::<std::io::Error>("filling the table of connections");
    let limit = number("nf_conntrack_max").map_err(failed())?;
    // One thread writes messages while the kernel reads another's; those of a namespace start in it.
    thread::scope(|scope| {
        let workers = [0, 1].map(|worker| scope.spawn(move || put_entries(worker * BATCH, limit)));
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    match number("nf_conntrack_count").map_err(failed())? {
        count if count >= limit => Ok(()),
        count => Err(failed()(std::io::Error::other(format!("it has {count} entries of {limit}")))),
    }
}

/// Puts every second batch of entries up to the limit, beginning with the one at `first`.
fn put_entries(first: u32, limit: u32) -> Result<(), LabError> {
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
        .map_err(LabError::system("opening ctnetlink"))?;
    let mut batch = Vec::new();
    for first in (first..=limit).step_by(2 * BATCH as usize) {
        batch.clear();
        (first..first + BATCH).for_each(|number| entry(&mut batch, number));
        sendto(kernel.as_raw_fd(), &batch, &NetlinkAddr::new(0, 0), MsgFlags::empty())
            .map_err(LabError::system("filling the table of connections"))?;
    }
    Ok(())
}

fn number(name: &str) -> std::io::Result<u32> {
    let text = fs::read_to_string(format!("/proc/sys/net/netfilter/{name}"))?;
    text.trim().parse().map_err(std::io::Error::other)
}

/// Puts the message that makes one entry: UDP between an address of 10.0.0.0/8 and one that no scenario has.
fn entry(out: &mut Vec<u8>, number: u32) {
    let (one, other) = ((0x0A00_0000 + number).to_be_bytes(), [172, 16, 7, 2]);
    let start = out.len();
    // The header's length is known at the end; no sequence number, and the kernel knows whose it is.
    out.extend([0; 4]);
    out.extend(NEW.to_ne_bytes());
    out.extend(FLAGS.to_ne_bytes());
    out.extend([0; 8]);
    // The family, version 0, no resource.
    out.extend([libc::AF_INET as u8, 0, 0, 0]);
    tuple(out, ORIGINAL, one, other);
    tuple(out, REPLY, other, one);
    attribute(out, STATUS, &ASSURED.to_be_bytes());
    attribute(out, TIMEOUT, &LASTING.to_be_bytes());
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// The addresses and ports of one direction.
fn tuple(out: &mut Vec<u8>, direction: u16, source: [u8; 4], destination: [u8; 4]) {
    nest(out, direction, |out| {
        nest(out, TUPLE_IP, |out| {
            attribute(out, 1, &source);
            attribute(out, 2, &destination);
        });
        nest(out, TUPLE_PROTOCOL, |out| {
            let port = 1_u16.to_be_bytes();
            attribute(out, 1, &[libc::IPPROTO_UDP as u8]);
            attribute(out, 2, &port);
            attribute(out, 3, &port);
        });
    });
}

fn nest(out: &mut Vec<u8>, kind: u16, inside: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    attribute(out, NESTED | kind, &[]);
    inside(out);
    let length = (out.len() - start) as u16;
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = 4 + value.len() as u16;
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}
