//! Mapping a port on the router: the client ([`PortMapper`]) and, for the laboratory, the router's end
//! ([`router::MappingRouter`]).
//!
//! ```text
//! Datagram, SendFailed ──────┐                ┌─ Transmit, Exchange (an HTTP request and its whole response)
//! Exchanged, ExchangeFailed ─┼─> PortMapper ──┼─ Event (what each protocol answered)
//! Map, Unmap, Timeout ───────┘                └─ Discovered, Mapped, MapFailed, Unmapped
//! ```
//!
//! Discovery asks NAT-PMP, PCP and UPnP side by side and changes nothing on the router. Only [`Input::Map`] does, and
//! only [`Input::Unmap`] takes it back, also after [`Output::MapFailed`]: a request that was not answered in time may
//! have been carried out. A mapping ends by itself after [`LEASE`] all the same, except on a router that knows only
//! permanent ones (UPnP's error 725): there it stays until it is removed.

mod discovery;
mod mapping;
pub mod router;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use crate::random::Random;
use crate::time::{Now, Timestamp};
use crate::trace::event::EventKind;
use crate::trace::measurement::PortMapperProtocol;
use crate::wire::portmap::{self, ssdp};

/// How long a mapping lives if nobody removes it: a killed program leaves nothing behind for long. A router that knows
/// only permanent mappings keeps it all the same.
pub const LEASE: Duration = Duration::from_secs(120);

/// When a request is repeated after its first transmission. RFC 6886 §3.1 has 250 ms and doubles it for over a minute;
/// a router is one hop away.
const REPEATS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(500)];

/// After that long without an answer there is none. Routers may spread answers to a search over a second (MX).
const PATIENCE: Duration = Duration::from_millis(1200);

/// For an HTTP request and its response.
const EXCHANGE_PATIENCE: Duration = Duration::from_millis(800);

/// An HTTP request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u32);

/// What the machine is told.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A datagram arrived.
    Datagram {
        /// From where.
        remote: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The system refused a datagram, or an ICMP error came back for one.
    SendFailed {
        /// Where to.
        remote: SocketAddr,
    },
    /// The whole response to [`Output::Exchange`], or what came until the other end closed.
    Exchanged {
        /// Which.
        exchange: ExchangeId,
        /// What came, at most [`portmap::http::MAX_BYTES`].
        bytes: &'a [u8],
    },
    /// There was no connection.
    ExchangeFailed {
        /// Which.
        exchange: ExchangeId,
        /// Why.
        detail: &'a str,
    },
    /// Map this port of ours, by the best protocol that was found. Once.
    Map {
        /// Our port.
        internal_port: u16,
    },
    /// Ask for the mapping for as long again; to be fed in good time before [`LEASE`] is over. Answered with
    /// [`Output::Mapped`], or [`Output::MapFailed`]: then the old one stands until its end.
    Renew,
    /// Remove the mapping.
    Unmap,
    /// The time of [`Output::Timeout`] has come.
    Timeout,
}

/// What the machine wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send.
    Transmit {
        /// Where to: the gateway, or SSDP's group.
        remote: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Connect, send, and read one HTTP response.
    Exchange {
        /// Which.
        exchange: ExchangeId,
        /// The gateway.
        remote: SocketAddr,
        /// The request.
        request: Vec<u8>,
    },
    /// A fact for the recording.
    Event(EventKind),
    /// All three protocols have answered, or will not.
    Discovered,
    /// The mapping is made.
    Mapped {
        /// By which protocol.
        protocol: PortMapperProtocol,
        /// Where it is reached from outside, by the router's word; `None`: it told no address, only the port.
        external: Option<IpAddr>,
        /// Its port there.
        external_port: u16,
    },
    /// No protocol made it, as far as the router answered: [`Input::Unmap`] takes back what it did not answer.
    MapFailed {
        /// What each said.
        detail: String,
    },
    /// The end of [`Input::Unmap`].
    Unmapped {
        /// Whether the router said that it is gone.
        confirmed: bool,
    },
    /// Nothing more for now: call again with [`Input::Timeout`] at this time.
    Timeout(Timestamp),
}

/// A request over UDP that waits for its answer.
#[derive(Clone, Debug)]
struct Pending {
    sent_at: Timestamp,
    sent: usize,
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
}

/// See the module. IPv4 only: IPv6 needs no mapping, and the pinholes that PCP can open there are not looked at.
#[derive(Debug)]
pub struct PortMapper {
    local: Ipv4Addr,
    gateway: Ipv4Addr,
    random: Random,
    now: Now,
    outputs: VecDeque<Output>,
    exchanges: u32,
    discovery: discovery::Discovery,
    mapping: mapping::State,
    /// What the router was asked to map and did not answer; UPnP's, which is asked last and whose mapping may be
    /// permanent, is the first to be taken back.
    unanswered: Vec<mapping::Made>,
    /// Whether everything that was taken back so far is gone, by the router's word.
    all_gone: bool,
}

impl PortMapper {
    /// Looks from `local` at `gateway`; drain before the first input.
    pub fn new(now: Timestamp, local: Ipv4Addr, gateway: Ipv4Addr, random: Random) -> Self {
        let mut machine = Self {
            local,
            gateway,
            random,
            now: now.into(),
            outputs: VecDeque::new(),
            exchanges: 0,
            discovery: discovery::Discovery::new(now, local, gateway),
            mapping: mapping::State::Idle,
            unanswered: Vec::new(),
            all_gone: true,
        };
        machine.start_discovery();
        machine
    }

    /// Takes an input in; drain with [`Self::poll_output`] before the next.
    pub fn handle_input(&mut self, now: impl Into<Now>, input: Input<'_>) {
        self.now = now.into();
        match input {
            Input::Datagram { remote, bytes } => {
                let SocketAddr::V4(remote) = remote else { return };
                self.discovered_by(remote, bytes);
                if self.is_control(remote) {
                    self.mapped_by(bytes);
                }
            }
            Input::SendFailed { remote } => {
                if let SocketAddr::V4(remote) = remote {
                    self.refused(remote);
                }
            }
            Input::Exchanged { exchange, bytes } => self.exchanged(exchange, Ok(bytes)),
            Input::ExchangeFailed { exchange, detail } => self.exchanged(exchange, Err(detail)),
            Input::Map { internal_port } => self.map(internal_port),
            Input::Renew => self.renew(),
            Input::Unmap => self.unmap(),
            Input::Timeout => {}
        }
        self.advance_discovery();
        self.advance_mapping();
    }

    /// The next thing to do, or until when there is nothing.
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| {
            let never = self.now.time + Duration::from_secs(3600);
            let due = [self.discovery.deadline(), self.mapping.deadline()];
            Output::Timeout(due.into_iter().flatten().min().unwrap_or(never).max(self.now.time))
        })
    }

    fn control(&self) -> SocketAddr {
        SocketAddr::V4(SocketAddrV4::new(self.gateway, portmap::PORT))
    }

    fn is_control(&self, remote: SocketAddrV4) -> bool {
        SocketAddr::V4(remote) == self.control()
    }

    fn exchange(&mut self, remote: SocketAddrV4, request: Vec<u8>) -> ExchangeId {
        self.exchanges += 1;
        let exchange = ExchangeId(self.exchanges);
        self.outputs.push_back(Output::Exchange { exchange, remote: SocketAddr::V4(remote), request });
        exchange
    }

    fn exchanged(&mut self, exchange: ExchangeId, result: Result<&[u8], &str>) {
        self.described_by(exchange, result);
        self.mapped_over(exchange, result);
    }
}

impl Pending {
    fn new(now: Timestamp, datagrams: Vec<(SocketAddr, Vec<u8>)>) -> Self {
        Self { sent_at: now, sent: 0, datagrams }
    }

    /// Sends what is due; false once nothing is to be hoped for.
    fn advance(&mut self, now: Now, outputs: &mut VecDeque<Output>) -> bool {
        while self.next_send().is_some_and(|due| due <= now.time) {
            self.sent += 1;
            let transmit =
                |(remote, bytes): &(SocketAddr, Vec<u8>)| Output::Transmit { remote: *remote, bytes: bytes.clone() };
            outputs.extend(self.datagrams.iter().map(transmit));
        }
        now.heard < self.sent_at + PATIENCE
    }

    fn next_send(&self) -> Option<Timestamp> {
        match self.sent {
            0 => Some(self.sent_at),
            sent => REPEATS.get(sent - 1).map(|after| self.sent_at + *after),
        }
    }

    fn deadline(&self) -> Timestamp {
        self.next_send().unwrap_or(self.sent_at + PATIENCE)
    }
}

/// Searches to the group and to the gateway itself, which some routers alone answer.
fn searches(gateway: Ipv4Addr) -> Vec<(SocketAddr, Vec<u8>)> {
    let own = SocketAddrV4::new(gateway, ssdp::GROUP.port());
    [own, ssdp::GROUP].into_iter().map(|to| (SocketAddr::V4(to), ssdp::search(to))).collect()
}
