//! Whether the router of the default route over IPv6 speaks PCP (RFC 6887), which opens a firewall for who asks: it is
//! asked by ANNOUNCE, which opens nothing. Only this host's own default gateway is asked.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use whyrelay_core::trace::measurement::{Measurement, PortMapperProtocol};
use whyrelay_core::wire::portmap;
use whyrelay_core::wire::portmap::pcp::{Operation, Request, Response, ResultCode};

use super::journal::Journal;
use super::nat::Origin;
use super::sockets::{Arrived, Sockets, bare};
use crate::io::udp::UdpOptions;

/// Sends of the request, and the time between two. RFC 6887 §8.1.1 waits 3 s before the second; the whole check has less.
const SENDS: u32 = 3;
const INTERVAL: Duration = Duration::from_millis(250);

/// Behind the last.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// Where a router is asked; `index`: the interface that a link-local address stands behind.
pub(crate) fn router(gateway: Ipv6Addr, index: u32) -> SocketAddr {
    let scope = if gateway.is_unicast_link_local() { index } else { 0 };
    SocketAddr::V6(SocketAddrV6::new(gateway, portmap::PORT, 0, scope))
}

/// Asks.
pub(crate) async fn look(journal: Journal, origin: Origin, router: SocketAddr, options: UdpOptions, until: Instant) {
    let mut sockets = Sockets::new(journal.clone());
    let opened = sockets.open(origin.address, origin.interface.as_deref(), options);
    let Ok(local) = opened else {
        return journal.missing("PCP of the router for IPv6", "no socket could be opened");
    };
    let request = Request { lifetime_s: 0, client: local.ip(), operation: Operation::Announce }.encode();
    let mut told = None;
    for sent in 1..=SENDS {
        if let Err(errno) = sockets.send(local, router, &request) {
            told = Some((false, in_words(errno)));
            break;
        }
        let wake = (Instant::now() + if sent == SENDS { LAST_WAIT } else { INTERVAL }).min(until);
        told = answer(&mut sockets, router, wake).await;
        if told.is_some() {
            break;
        }
    }
    if told.is_none() && Instant::now() >= until {
        return journal.missing("PCP of the router for IPv6", journal.no_time());
    }
    let (found, detail) = told.unwrap_or_else(|| (false, "no answer".to_owned()));
    let (protocol, gateway): (_, Option<IpAddr>) = (PortMapperProtocol::Pcp, Some(router.ip()));
    journal.measured(Measurement::PortMapper { protocol, gateway, found, external: None, detail: Some(detail) });
}

/// Whether the router speaks PCP, and what it said; `None`: nothing until then.
async fn answer(sockets: &mut Sockets, router: SocketAddr, wake: Instant) -> Option<(bool, String)> {
    loop {
        match sockets.recv(wake).await? {
            Arrived::Datagram { remote, bytes, .. } if bare(remote) == bare(router) => {
                let Some(response) = Response::decode(&bytes) else {
                    return Some((false, "it answers, not as PCP".to_owned()));
                };
                return Some(match response.result {
                    ResultCode::SUCCESS => (true, "may open its IPv6 firewall for who asks".to_owned()),
                    result => (false, result.name().to_owned()),
                });
            }
            Arrived::Refused { errno, .. } => {
                return Some((false, in_words(errno)));
            }
            Arrived::Datagram { .. } => {}
        }
    }
}

fn in_words(errno: i32) -> String {
    match errno {
        libc::ECONNREFUSED => "the port is closed".to_owned(),
        other => std::io::Error::from_raw_os_error(other).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use whyrelay_core::trace::event::EventKind;

    use super::super::journal::Entry;
    use super::*;
    use crate::io::clock::Clock;

    /// What is measured of a router that answers so; it is told what came to it.
    async fn ask(answer: Option<Vec<u8>>) -> (bool, String, Vec<u8>) {
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let router = socket.local_addr().unwrap();
        // In the same thread: the answer waits before the client looks again.
        let router_side = async {
            let mut buffer = [0; 100];
            let (length, client) = socket.recv_from(&mut buffer).unwrap();
            if let Some(answer) = answer {
                socket.send_to(&answer, client).unwrap();
            }
            buffer[..length].to_vec()
        };
        let (journal, mut entries) = Journal::new(Clock::start());
        let origin = Origin { address: "[::1]:0".parse().unwrap(), interface: None };
        let until = Instant::now() + Duration::from_secs(60);
        let looking = look(journal, origin, router, UdpOptions::default(), until);
        let ((), asked) = futures_util::future::join(looking, router_side).await;
        let facts = std::iter::from_fn(|| entries.try_recv().ok()).filter_map(|entry| match entry {
            Entry::Fact(_, EventKind::Measured(Measurement::PortMapper { found, detail, gateway, .. })) => {
                assert_eq!(gateway, Some(router.ip()));
                Some((found, detail.unwrap()))
            }
            _ => None,
        });
        let facts: Vec<_> = facts.collect();
        let [(found, detail)] = &facts[..] else { panic!("one answer, not {facts:?}") };
        (*found, detail.clone(), asked)
    }

    fn response(result: ResultCode) -> Vec<u8> {
        Response { result, lifetime_s: 0, epoch_s: 1, operation: Operation::Announce }.encode()
    }

    #[tokio::test]
    async fn a_router_that_speaks_pcp_over_ipv6_is_found_and_nothing_is_mapped() {
        let (found, detail, asked) = ask(Some(response(ResultCode::SUCCESS))).await;
        assert!(found && detail.contains("firewall"), "{detail}");
        let request = Request::decode(&asked).unwrap();
        let expected = (Operation::Announce, 0, IpAddr::V6(Ipv6Addr::LOCALHOST));
        assert_eq!((request.operation, request.lifetime_s, request.client), expected);
    }

    #[tokio::test]
    async fn a_router_that_refuses_or_is_silent_is_told_as_such() {
        let (found, detail, _) = ask(Some(response(ResultCode::NOT_AUTHORIZED))).await;
        assert_eq!((found, detail.as_str()), (false, "not authorized"));
        let (found, detail, _) = ask(None).await;
        assert_eq!((found, detail.as_str()), (false, "no answer"));
    }

    #[test]
    fn a_link_local_router_is_asked_by_its_interface() {
        let link_local = router("fe80::1".parse().unwrap(), 7);
        assert!(matches!(link_local, SocketAddr::V6(v6) if v6.scope_id() == 7));
        assert!(matches!(router("2001:db8::1".parse().unwrap(), 7), SocketAddr::V6(v6) if v6.scope_id() == 0));
    }
}
