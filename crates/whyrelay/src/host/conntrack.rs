//! Connection tracking entries of the session, by nfnetlink.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_NETFILTER;
use whyrelay_core::host::{ConntrackEntry, HostFact, Subject};

use super::netlink::{Netlink, attributes, big_endian};
use super::{Emit, Scope};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;

/// Most entries that are recorded.
const MAX_RECORDED: usize = 128;

/// How long the table is read: a full one has hundreds of thousands of entries.
const MAX_TIME: Duration = Duration::from_millis(500);

/// `IPS_SEEN_REPLY` of linux/netfilter/nf_conntrack_common.h.
const SEEN_REPLY: u64 = 2;

/// Reads the table and emits the entries whose ends are the session's.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN.
pub(super) fn facts(scope: &Scope, emit: &mut Emit<'_>) -> io::Result<()> {
    let ports = scope.ports();
    let remotes: std::collections::BTreeSet<IpAddr> = scope.remotes().collect();
    let until = Instant::now() + MAX_TIME;
    let mut reading = Reading::default();
    Netlink::open(NETLINK_NETFILTER)?.dump(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, &[0; 4], |_, body| {
        reading.total += 1;
        if let Some(entry) = body.get(4..).and_then(read) {
            let ends = [entry.original_source, entry.original_destination, entry.reply_source, entry.reply_destination];
            let ours = ends.iter().any(|end| ports.contains(&end.port()));
            if ours && ends.iter().any(|end| remotes.contains(&end.ip())) {
                reading.take(entry);
            }
        }
        if reading.total.is_multiple_of(256) && Instant::now() > until {
            reading.left_out = Some(format!("the table was not read to its end in {} ms", MAX_TIME.as_millis()));
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    reading.tell(emit);
    Ok(())
}

/// What was read of the table.
#[derive(Default)]
struct Reading {
    total: u64,
    recorded: Vec<ConntrackEntry>,
    /// Why entries of the session may be missing.
    left_out: Option<String>,
}

impl Reading {
    fn take(&mut self, entry: ConntrackEntry) {
        if self.recorded.len() < MAX_RECORDED {
            self.recorded.push(entry);
        } else {
            self.left_out = Some(format!("more than {MAX_RECORDED} entries are the session's, the rest was left out"));
        }
    }

    fn tell(self, emit: &mut Emit<'_>) {
        let recorded = self.recorded.len() as u64;
        self.recorded.into_iter().for_each(|entry| emit(HostFact::ConntrackEntry(entry)));
        emit(HostFact::Counted { subject: Subject::Conntrack, total: self.total, recorded });
        if let Some(why) = self.left_out {
            emit(HostFact::NotMeasured { subject: Subject::Conntrack, why, needs: None });
        }
    }
}

fn read(body: &[u8]) -> Option<ConntrackEntry> {
    let (mut original, mut reply, mut status, mut mark, mut timeout_s) = (None, None, 0, 0, None);
    for (kind, value) in attributes(body) {
        let number = || big_endian(value).and_then(|number| u32::try_from(number).ok());
        match kind {
            1 => original = tuple(value),
            2 => reply = tuple(value),
            3 => status = big_endian(value).unwrap_or(0),
            7 => timeout_s = number(),
            8 => mark = number().unwrap_or(0),
            _ => {}
        }
    }
    let ((protocol, original_source, original_destination), (_, reply_source, reply_destination)) = (original?, reply?);
    Some(ConntrackEntry {
        protocol,
        original_source,
        original_destination,
        reply_source,
        reply_destination,
        replied: status & SEEN_REPLY != 0,
        mark,
        timeout_s,
    })
}

/// Protocol, source and destination of one direction; `None` for protocols without ports.
fn tuple(value: &[u8]) -> Option<(u8, SocketAddr, SocketAddr)> {
    let (mut source, mut destination, mut ports, mut protocol) = (None, None, (None, None), None);
    let address = |value: &[u8]| -> Option<IpAddr> {
        match value.len() {
            4 => value.first_chunk::<4>().map(|bytes| (*bytes).into()),
            16 => value.first_chunk::<16>().map(|bytes| (*bytes).into()),
            _ => None,
        }
    };
    let port = |value: &[u8]| value.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
    for (kind, value) in attributes(value) {
        for (inner, value) in attributes(value) {
            match (kind, inner) {
                (1, 1 | 3) => source = address(value),
                (1, 2 | 4) => destination = address(value),
                (2, 1) => protocol = value.first().copied(),
                (2, 2) => ports.0 = port(value),
                (2, 3) => ports.1 = port(value),
                _ => {}
            }
        }
    }
    Some((protocol?, SocketAddr::new(source?, ports.0?), SocketAddr::new(destination?, ports.1?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_had_no_room_are_told_of() {
        let end: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let entry = ConntrackEntry {
            protocol: 17,
            original_source: end,
            original_destination: end,
            reply_source: end,
            reply_destination: end,
            replied: true,
            mark: 0,
            timeout_s: None,
        };
        let told = |entries: usize| {
            let (mut reading, mut facts) = (Reading::default(), Vec::new());
            (0..entries).for_each(|_| reading.take(entry.clone()));
            reading.tell(&mut |fact| facts.push(fact));
            let recorded = facts.iter().filter(|fact| matches!(fact, HostFact::ConntrackEntry(_))).count();
            (recorded, facts.iter().any(|fact| matches!(fact, HostFact::NotMeasured { .. })))
        };
        assert_eq!(told(MAX_RECORDED), (MAX_RECORDED, false));
        assert_eq!(told(MAX_RECORDED + 1), (MAX_RECORDED, true));
    }
}
