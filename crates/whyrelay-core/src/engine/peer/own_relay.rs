//! Whether UDP gets out, and answers back in, at a port that no server listens on.
//!
//! Where servers are silent over UDP and one of them relays for us over TCP or TLS, our own relayed address is a UDP
//! port of the Internet that we hear. A Binding request goes there from our socket, comes back inside of the
//! connection, and is answered through it, as a STUN server would: then it is the servers' port that is closed, not
//! UDP. Nothing is made of the answer but a fact: a program whose servers are silent does not learn its address so.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::engine::stun_server;
use crate::time::Timestamp;
use crate::trace::address::AddressClass;
use crate::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

/// How long an answer over UDP may take longer than the allocation over the connection, which took more round trips.
const PATIENCE: Duration = Duration::from_millis(250);

/// When the request is sent again: a session without a direct path may be over two seconds later.
const SENDS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(450),
    Duration::from_millis(700),
];

/// Relayed addresses that are tried: one of each family on two interfaces.
const MAX_TRIED: usize = 4;

/// What it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Permission for packets from our own public address.
    Permission { relayed: SocketAddr, peer: IpAddr },
    /// Send this from a socket.
    Send { local: SocketAddr, remote: SocketAddr, bytes: Vec<u8> },
}

/// How far one relayed address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The servers may still answer over UDP, until then.
    Listening(Timestamp),
    /// The server is asked for the permission; left by its answer.
    Asking,
    /// The request was sent so many times, and is sent next at this moment, if again.
    Sending { first: Timestamp, sent: usize },
    /// Answered, refused, or not needed.
    Done,
}

#[derive(Debug)]
struct Tried {
    local: SocketAddr,
    relayed: SocketAddr,
    /// Our own address as the server sees it.
    public: SocketAddr,
    id: TransactionId,
    stage: Stage,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OwnRelay {
    sockets: Vec<SocketAddr>,
    /// Our addresses that a server answered over UDP.
    heard: BTreeSet<IpAddr>,
    tried: Vec<Tried>,
}

impl OwnRelay {
    /// A UDP socket is there.
    pub(super) fn add_socket(&mut self, local: SocketAddr) {
        self.sockets.push(local);
    }

    /// A server answered at a socket.
    pub(super) fn heard(&mut self, local: SocketAddr) {
        self.heard.insert(local.ip());
    }

    /// A server relays for us over a connection from `local`, and sees us at `public`.
    pub(super) fn relayed(
        &mut self,
        now: Timestamp,
        local: IpAddr,
        relayed: SocketAddr,
        public: SocketAddr,
        id: TransactionId,
    ) {
        let socket = self.sockets.iter().find(|socket| socket.ip() == local).copied();
        let family = relayed.is_ipv4() == local.is_ipv4() && public.is_ipv4() == local.is_ipv4();
        // What is not of the Internet no server should let in, nor would it tell of the way there.
        let both = [relayed, public].into_iter().all(|address| AddressClass::of(address.ip()) == AddressClass::Public);
        let Some(local) = socket.filter(|_| family && both && self.tried.len() < MAX_TRIED) else { return };
        let stage = Stage::Listening(now + PATIENCE);
        self.tried.push(Tried { local, relayed, public, id, stage });
    }

    /// The server's word on a permission.
    pub(super) fn permission(&mut self, now: Timestamp, relayed: SocketAddr, peer: IpAddr, granted: bool) {
        let asked =
            |tried: &&mut Tried| tried.relayed == relayed && tried.public.ip() == peer && tried.stage == Stage::Asking;
        if let Some(tried) = self.tried.iter_mut().find(asked) {
            tried.stage = if granted { Stage::Sending { first: now, sent: 0 } } else { Stage::Done };
        }
    }

    /// Something arrived at a relayed address: if it is our request, the answer to it.
    pub(super) fn arrived(&self, relayed: SocketAddr, source: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        let message = Message::decode(bytes).ok()?;
        let ours = |tried: &Tried| tried.relayed == relayed && tried.id == message.transaction;
        self.tried.iter().any(ours).then(|| stun_server::answer(&message, source))?
    }

    /// Whether what arrived at a socket is the answer.
    pub(super) fn is_answer(&mut self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> bool {
        let at = |tried: &&mut Tried| tried.local == local && tried.relayed == remote;
        let Some(tried) = self.tried.iter_mut().find(at) else { return false };
        let ours = Message::decode(bytes)
            .is_ok_and(|message| message.class == Class::Success && message.transaction == tried.id);
        if ours {
            tried.stage = Stage::Done;
        }
        ours
    }

    /// What is due.
    pub(super) fn poll(&mut self, now: Timestamp) -> Option<Wanted> {
        for tried in &mut self.tried {
            match tried.stage {
                Stage::Listening(_) if self.heard.contains(&tried.local.ip()) => tried.stage = Stage::Done,
                Stage::Listening(until) if until <= now => {
                    tried.stage = Stage::Asking;
                    return Some(Wanted::Permission { relayed: tried.relayed, peer: tried.public.ip() });
                }
                Stage::Sending { first, sent } if SENDS.get(sent).is_some_and(|wait| first + *wait <= now) => {
                    tried.stage = Stage::Sending { first, sent: sent + 1 };
                    let bytes = MessageBuilder::new(Class::Request, Method::BINDING, tried.id).build();
                    return Some(Wanted::Send { local: tried.local, remote: tried.relayed, bytes });
                }
                _ => {}
            }
        }
        None
    }

    /// When something is due next.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let of = |tried: &Tried| match tried.stage {
            Stage::Listening(until) => Some(until),
            Stage::Sending { first, sent } => SENDS.get(sent).map(|wait| first + *wait),
            Stage::Asking | Stage::Done => None,
        };
        self.tried.iter().filter_map(of).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "192.168.1.2:40000";
    const RELAYED: &str = "198.51.100.1:49152";
    const PUBLIC: &str = "203.0.113.10:50001";

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::from_micros(milliseconds * 1000)
    }

    /// A relay over TCP since the moment 0.
    fn relayed_at(relayed: &str, public: &str) -> OwnRelay {
        let mut machine = OwnRelay::default();
        machine.add_socket(address(LOCAL));
        let id = TransactionId([7; 12]);
        machine.relayed(at(0), address(LOCAL).ip(), address(relayed), address(public), id);
        machine
    }

    #[test]
    fn the_own_relayed_address_is_asked_where_servers_are_silent_and_answers_through_the_connection() {
        let mut machine = relayed_at(RELAYED, PUBLIC);
        assert_eq!(machine.poll(at(249)), None, "servers may still answer");
        assert_eq!(machine.deadline(), Some(at(250)));
        let (relayed, peer) = (address(RELAYED), address(PUBLIC).ip());
        assert_eq!(machine.poll(at(250)), Some(Wanted::Permission { relayed, peer }));
        assert_eq!((machine.poll(at(260)), machine.deadline()), (None, None));
        machine.permission(at(300), relayed, peer, true);
        let Some(Wanted::Send { local, remote, bytes }) = machine.poll(at(300)) else { panic!("nothing is sent") };
        assert_eq!((local, remote), (address(LOCAL), relayed));
        assert_eq!((machine.poll(at(399)), machine.deadline()), (None, Some(at(400))));
        // Its NAT mapped the socket to another port than the connection.
        let source = address("203.0.113.10:40000");
        let answer = machine.arrived(relayed, source, &bytes).expect("an answer");
        assert!(machine.is_answer(local, remote, &answer));
        assert_eq!((machine.poll(at(1000)), machine.deadline()), (None, None));
    }

    #[test]
    fn it_is_sent_five_times_and_no_more() {
        let mut machine = relayed_at(RELAYED, PUBLIC);
        machine.poll(at(250));
        machine.permission(at(300), address(RELAYED), address(PUBLIC).ip(), true);
        let sent = (300..5000).filter(|moment| machine.poll(at(*moment)).is_some()).count();
        assert_eq!((sent, machine.deadline()), (SENDS.len(), None));
    }

    #[test]
    fn nothing_is_asked_where_a_server_answers_over_udp_or_the_permission_is_refused() {
        let mut heard = relayed_at(RELAYED, PUBLIC);
        heard.heard(address(LOCAL));
        assert_eq!(heard.poll(at(1000)), None);
        let mut refused = relayed_at(RELAYED, PUBLIC);
        refused.poll(at(250));
        refused.permission(at(300), address(RELAYED), address(PUBLIC).ip(), false);
        assert_eq!(refused.poll(at(1000)), None);
        for (relayed, public) in [("10.0.0.1:49152", PUBLIC), (RELAYED, "192.168.1.2:50001")] {
            assert_eq!(relayed_at(relayed, public).poll(at(1000)), None, "{relayed} {public}");
        }
    }
}
