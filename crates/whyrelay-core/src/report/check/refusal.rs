//! Who refused what was sent to a server: this host, a router on the way, or the server itself. An errno alone does not
//! tell: ECONNREFUSED and EHOSTUNREACH come by ICMP from all three.

use std::net::{IpAddr, SocketAddr};

use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::rules::{icmp_meaning, is_own};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// In words.
    pub(super) words: String,
    /// Whether the server's own host said so: then what was sent had reached it.
    pub(super) by_server: bool,
    /// The event that shows it.
    pub(super) seq: u64,
}

/// What was first said about datagrams from a local address to one of these; `None`: nothing was. What another address of
/// this host met (a VPN's) is another way's. Without a local address, of an older recording, any counts.
pub(super) fn of(side: &SideEvidence, local: Option<SocketAddr>, remotes: &[SocketAddr]) -> Option<Refusal> {
    let ours = |socket: SocketAddr| local.is_none_or(|local| local.ip() == socket.ip());
    let icmp = side.icmp_errors.iter().filter(|((socket, remote, icmp_type, code), _)| {
        ours(*socket) && remotes.contains(remote) && is_unreachable(*remote, *icmp_type, *code)
    });
    if let Some(((_, remote, icmp_type, code), error)) = icmp.min_by_key(|(_, error)| error.seq) {
        let by_server = error.offender == Some(remote.ip());
        let words = by_icmp(side, *remote, error.offender, *icmp_type, *code);
        return Some(Refusal { words, by_server, seq: error.seq });
    }
    let sends = side.send_failures.iter().filter(|((socket, remote, _), _)| ours(*socket) && remotes.contains(remote));
    let ((.., errno), failure) = sends.min_by_key(|(_, failure)| failure.seq)?;
    Some(Refusal { words: by_errno(*errno), by_server: false, seq: failure.seq })
}

/// What is said of a connection that was refused: a firewall's reset looks like the server's.
pub(super) const RESET: &str = "refused, by the server or a firewall that answers for it";

/// Whether what the system said of a connection is that it was refused (ECONNREFUSED), by Linux's number.
pub(super) fn is_reset(detail: &str) -> bool {
    detail.contains("(os error 111)")
}

/// Destination unreachable (RFC 792, RFC 4443 §3.1). Packets that live for few hops die of something else, and those that
/// are too large for the path are asked for.
fn is_unreachable(remote: SocketAddr, icmp_type: u8, code: u8) -> bool {
    if remote.is_ipv4() { icmp_type == 3 && code != 4 } else { icmp_type == 1 }
}

fn by_icmp(side: &SideEvidence, remote: SocketAddr, offender: Option<IpAddr>, icmp_type: u8, code: u8) -> String {
    let icmp = format!("ICMP {icmp_type}/{code}");
    let meaning = icmp_meaning(icmp_type, code);
    let closed = matches!((icmp_type, code), (3, 3) | (1, 4));
    let unreachable = matches!((icmp_type, code), (3, 1) | (1, 3));
    match offender {
        Some(ip) if ip == remote.ip() && closed => format!("its host says that nothing listens on the port ({icmp})"),
        Some(ip) if ip == remote.ip() => format!("its host refuses it: {meaning} ({icmp})"),
        Some(ip) if is_own(side, ip) && unreachable => {
            format!("the next hop does not answer on this host's link: {meaning} ({icmp} from {ip}, this host)")
        }
        Some(ip) if is_own(side, ip) => format!("this host's own firewall rejects it: {meaning} ({icmp} from {ip})"),
        Some(ip) => format!("{ip}, on the way, refuses it: {meaning} ({icmp})"),
        None => format!("refused on the way or by its host: {meaning} ({icmp}, from whom is not known)"),
    }
}

/// What the system said to the send itself, by Linux's numbers.
pub(super) fn by_errno(errno: i32) -> String {
    let why = match errno {
        1 => "this host's own firewall refuses packets to it",
        13 => "a route or rule of this host prohibits it",
        22 => "a route or rule of this host throws packets to it away (blackhole)",
        101 => "this host has no route to it",
        111 => "its port is said to be closed, by whom is not known",
        113 => "this host has no way to it: an unreachable route, or nobody answers on the link",
        _ => return format!("this host refused to send (errno {errno})"),
    };
    format!("{why} (errno {errno})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::evidence::Evidence;
    use crate::time::Timestamp;
    use crate::trace::event::{Event, EventKind, InterfaceUse, Transport, Vantage};

    const SERVER: &str = "203.0.113.9:3478";

    fn told(kinds: Vec<EventKind>) -> Option<Refusal> {
        let own = vec!["192.168.1.2".parse().unwrap()];
        let used = InterfaceUse::Used;
        let interface = EventKind::Interface { name: "eth0".into(), index: 2, addresses: own, used };
        let events: Vec<Event> = (0..)
            .zip(std::iter::once(interface).chain(kinds))
            .map(|(seq, kind)| Event { seq, at: Timestamp::from_micros(seq), vantage: Vantage::A, kind })
            .collect();
        let evidence = Evidence::of(&events);
        let of_local = |local: Option<&str>| {
            of(evidence.side(Vantage::A), local.map(|local| local.parse().unwrap()), &[SERVER.parse().unwrap()])
        };
        // Another socket of the same address is the same way, and another address is not.
        let refusal = of_local(Some("192.168.1.2:9"));
        assert_eq!(of_local(None), refusal);
        assert_eq!(of_local(Some("10.8.0.2:40000")), None);
        refusal
    }

    fn icmp(offender: &str, icmp_type: u8, icmp_code: u8, errno: i32) -> EventKind {
        let (local, remote) = ("192.168.1.2:40000".parse().unwrap(), SERVER.parse().unwrap());
        EventKind::IcmpError { local, remote, offender: offender.parse().ok(), icmp_type, icmp_code, errno }
    }

    fn send_failed(errno: i32) -> EventKind {
        let (local, remote) = ("192.168.1.2:40000".parse().unwrap(), SERVER.parse().unwrap());
        EventKind::SendFailed { transport: Transport::Udp, local, remote, errno, detail: String::new() }
    }

    #[test]
    fn the_same_errno_is_laid_at_the_door_of_whom_sent_the_icmp() {
        for (offender, (icmp_type, code), errno, words, by_server) in [
            ("203.0.113.9", (3, 3), 111, "its host says that nothing listens on the port (ICMP 3/3)", true),
            ("203.0.113.9", (3, 13), 113, "its host refuses it: administratively prohibited (ICMP 3/13)", true),
            ("10.0.0.1", (3, 3), 111, "10.0.0.1, on the way, refuses it: port unreachable (ICMP 3/3)", false),
            (
                "10.0.0.1",
                (3, 13),
                113,
                "10.0.0.1, on the way, refuses it: administratively prohibited (ICMP 3/13)",
                false,
            ),
            ("10.0.0.1", (3, 1), 113, "10.0.0.1, on the way, refuses it: host unreachable (ICMP 3/1)", false),
            (
                "192.168.1.2",
                (3, 1),
                113,
                "the next hop does not answer on this host's link: host unreachable (ICMP 3/1 from 192.168.1.2, this host)",
                false,
            ),
            (
                "192.168.1.2",
                (3, 3),
                111,
                "this host's own firewall rejects it: port unreachable (ICMP 3/3 from 192.168.1.2)",
                false,
            ),
            (
                "nobody",
                (3, 3),
                111,
                "refused on the way or by its host: port unreachable (ICMP 3/3, from whom is not known)",
                false,
            ),
        ] {
            let refusal = told(vec![icmp(offender, icmp_type, code, errno)]).unwrap();
            assert_eq!(
                (refusal.words.as_str(), refusal.by_server),
                (words, by_server),
                "{offender} {icmp_type}/{code}"
            );
        }
    }

    #[test]
    fn what_the_system_itself_refused_is_this_hosts_doing_and_icmp_says_more() {
        assert_eq!(
            told(vec![send_failed(1)]).unwrap().words,
            "this host's own firewall refuses packets to it (errno 1)"
        );
        assert_eq!(told(vec![send_failed(90)]).unwrap().words, "this host refused to send (errno 90)");
        // A later send is told of the earlier one's ICMP.
        let both = told(vec![send_failed(111), icmp("10.0.0.1", 3, 13, 111)]).unwrap();
        assert!(both.words.starts_with("10.0.0.1, on the way"), "{both:?}");
    }

    #[test]
    fn packets_that_live_for_few_hops_and_those_that_are_too_large_are_no_refusal() {
        assert_eq!(told(vec![icmp("10.0.0.1", 11, 0, 113), icmp("10.0.0.1", 3, 4, 90)]), None);
        assert_eq!(told(Vec::new()), None);
    }
}
