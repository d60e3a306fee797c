//! A peer that has its router map the port of its socket before it says anything to the other (`--try mapping`), and
//! has it removed at the end: the core's own client, as the real driver drives it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use whyrelay_core::engine::port_mapping::{ExchangeId, Input, Output, PortMapper};
use whyrelay_core::host::Route;
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{Direction, EndReason, EventKind, Transport};
use whyrelay_core::trace::measurement::{Measurement, PortMapperProtocol};

use super::network::USUAL_TTL;
use super::peer::{Action, Peer};

/// The port of the socket that asks: not the one that is mapped.
const ASKING_PORT: u16 = 45_351;

/// How long making a mapping, or removing it, may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The table `main` of Linux.
const MAIN: u32 = 254;

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Enters at the start; leaves when every protocol has answered or will not.
    Discovering,
    /// Enters then; leaves when the router has mapped, or has not.
    Mapping,
    /// Enters when no mapping came of it; leaves when what the router may have made all the same is taken back.
    TakingBack,
    /// Enters with the mapping; leaves at the end of the session.
    Held { protocol: PortMapperProtocol, external: SocketAddr },
    /// Enters at the end of the session; leaves when the router has answered, or will not.
    Removing { protocol: PortMapperProtocol, external: SocketAddr, reason: EndReason },
    /// Nothing stands, and nothing is asked any more.
    Over,
}

/// A port mapping of one session.
#[derive(Debug)]
pub(super) struct Asking {
    machine: PortMapper,
    state: State,
    /// The socket that asks.
    local: SocketAddr,
    /// The session's socket, whose port is mapped.
    base: SocketAddr,
    until: Timestamp,
    pub(super) wake_at: Timestamp,
}

/// What the machine said last.
enum Said {
    Discovered,
    Mapped(PortMapperProtocol, Option<IpAddr>, u16),
    Failed,
    Unmapped(bool),
}

impl Asking {
    /// Begins to ask the default gateway of the first socket that has one.
    pub(super) fn begin(now: Timestamp, sockets: &[SocketAddr], gateway: Gateways<'_>, random: Random) -> Option<Self> {
        let (own, base, gateway) = sockets.iter().find_map(|base| match base.ip() {
            IpAddr::V4(own) => Some((own, *base, gateway(own)?)),
            IpAddr::V6(_) => None,
        })?;
        let machine = PortMapper::new(now, own, gateway, random);
        let (state, local) = (State::Discovering, SocketAddr::new(own.into(), ASKING_PORT));
        Some(Self { machine, state, local, base, until: now + LIMIT, wake_at: now })
    }
}

/// The default gateway of the interface that has an address.
type Gateways<'a> = &'a dyn Fn(Ipv4Addr) -> Option<Ipv4Addr>;

/// The gateway of the first default route in table main by a device.
pub(super) fn default_gateway(routes: &[Route], device: &str) -> Option<Ipv4Addr> {
    let is = |route: &&Route| route.table == MAIN && route.destination.length == 0;
    let mut routes: Vec<&Route> =
        routes.iter().filter(is).filter(|route| route.device.as_deref() == Some(device)).collect();
    routes.sort_by_key(|route| route.metric.unwrap_or(0));
    routes.into_iter().find_map(|route| match route.gateway? {
        IpAddr::V4(gateway) => Some(gateway),
        IpAddr::V6(_) => None,
    })
}

impl Peer {
    /// Whether an address is the socket's that asks for a port mapping.
    pub(super) fn is_asking(&self, local: SocketAddr) -> bool {
        self.asking.as_ref().is_some_and(|asking| asking.local == local)
    }

    /// A response of the router's HTTP server, or why there is none.
    pub(super) fn exchanged(
        &mut self,
        now: Timestamp,
        exchange: ExchangeId,
        response: Result<&[u8], &str>,
    ) -> Vec<Action> {
        self.ask(
            now,
            match response {
                Ok(bytes) => Input::Exchanged { exchange, bytes },
                Err(detail) => Input::ExchangeFailed { exchange, detail },
            },
        );
        self.finish()
    }

    /// Feeds the port mapper, if there is one.
    pub(super) fn ask(&mut self, now: Timestamp, input: Input<'_>) {
        let Some(asking) = &mut self.asking else { return };
        asking.machine.handle_input(now, input);
        self.follow_asking(now);
    }

    /// Its time has come: what takes too long is given up.
    pub(super) fn wake_asking(&mut self, now: Timestamp) {
        let Some(asking) = &self.asking else { return };
        if asking.wake_at > now {
            return;
        }
        if asking.until <= now {
            match asking.state {
                State::Discovering | State::Mapping => self.asked(now, Said::Failed),
                State::TakingBack | State::Removing { .. } => self.asked(now, Said::Unmapped(false)),
                State::Held { .. } | State::Over => {}
            }
        }
        self.ask(now, Input::Timeout);
    }

    /// Does what the port mapper wants, and goes on when it has come to an end.
    pub(super) fn follow_asking(&mut self, now: Timestamp) {
        while let Some(said) = self.drain_asking(now) {
            self.asked(now, said);
        }
    }

    fn asked(&mut self, now: Timestamp, said: Said) {
        if let Some(asking) = &mut self.asking {
            let base = asking.base;
            match (asking.state, said) {
                (State::Discovering, Said::Discovered) => {
                    asking.state = State::Mapping;
                    asking.machine.handle_input(now, Input::Map { internal_port: base.port() });
                }
                (State::Mapping, Said::Mapped(protocol, Some(external), port)) => {
                    let external = SocketAddr::new(external, port);
                    asking.state = State::Held { protocol, external };
                    self.begin(now, Some((base, external)));
                }
                // The router may have made what it did not answer, or what it did not tell the address of.
                (State::Discovering | State::Mapping, Said::Failed | Said::Mapped(..)) => {
                    (asking.state, asking.until) = (State::TakingBack, now + LIMIT);
                    asking.machine.handle_input(now, Input::Unmap);
                }
                (State::TakingBack, Said::Unmapped(_)) => {
                    asking.state = State::Over;
                    self.begin(now, None);
                }
                (State::Removing { protocol, external, reason }, Said::Unmapped(removed)) => {
                    asking.state = State::Over;
                    let measured = Measurement::PortMapped { protocol, local: base, external, reached: None, removed };
                    self.record(now, EventKind::Measured(measured));
                    self.record(now, EventKind::RecordingEnded { reason });
                }
                _ => {}
            }
        }
    }

    /// Has the mapping removed at the end of the session; `false` when there is none.
    pub(super) fn remove_mapping(&mut self, now: Timestamp, reason: EndReason) -> bool {
        let Some(asking) = &mut self.asking else { return false };
        let State::Held { protocol, external } = asking.state else { return false };
        (asking.state, asking.until) = (State::Removing { protocol, external, reason }, now + LIMIT);
        self.ask(now, Input::Unmap);
        true
    }

    fn drain_asking(&mut self, now: Timestamp) -> Option<Said> {
        loop {
            let asking = self.asking.as_mut()?;
            let local = asking.local;
            return Some(match asking.machine.poll_output() {
                Output::Transmit { remote, bytes } => {
                    self.door(now, Direction::Out, Transport::Udp, local, remote, &bytes);
                    let (ttl, is_probe) = (USUAL_TTL, false);
                    self.actions.push(Action::Send { source: local, destination: remote, bytes, ttl, is_probe });
                    continue;
                }
                Output::Exchange { exchange: id, remote, request } => {
                    self.actions.push(Action::Exchange { id, local: local.ip(), remote, request });
                    continue;
                }
                Output::Event(kind) => {
                    self.record(now, kind);
                    continue;
                }
                Output::Discovered => Said::Discovered,
                Output::Mapped { protocol, external, external_port } => Said::Mapped(protocol, external, external_port),
                Output::MapFailed { .. } => Said::Failed,
                Output::Unmapped { confirmed } => Said::Unmapped(confirmed),
                Output::Timeout(at) => {
                    let waits = !matches!(asking.state, State::Held { .. } | State::Over);
                    asking.wake_at = if waits { at.min(asking.until) } else { at };
                    return None;
                }
            });
        }
    }
}
