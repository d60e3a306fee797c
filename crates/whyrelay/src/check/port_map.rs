//! Drives the core's port mapper: which protocols the router speaks, and with `--map` one mapping, tried from outside and removed.

mod held;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use whyrelay_core::engine::port_mapping::{ExchangeId, Input, Output, PortMapper};
use whyrelay_core::random::Random;
use whyrelay_core::time::{Now, Timestamp};
use whyrelay_core::trace::measurement::{Measurement, PortMapperProtocol};
use whyrelay_core::wire::portmap::http::{self, Progress};
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method};

use super::asked::STOPPED;
use super::journal::Journal;
use super::nat::Origin;
use super::probes;
use super::sockets::{Arrived, Sockets};
use super::stop::Stop;
use super::turn;
pub(crate) use held::{HeldMapping, hold};

use crate::io::stream::connect_tcp;
use crate::io::tls::ClientTls;
use crate::io::udp::UdpOptions;

/// For a connection to the router and its response: the core gives up before.
const EXCHANGE_LIMIT: Duration = Duration::from_millis(1000);

/// Taking back what was mapped, also where the router answers nothing any more: by then each protocol was asked for it.
pub(crate) const UNMAP_LIMIT: Duration = Duration::from_secs(4);

/// Making and trying a mapping together; it comes on top of what was not asked for.
const MAP_LIMIT: Duration = Duration::from_secs(8);

/// The packet from outside is awaited so long after the server has sent it.
const KNOCK_WAIT: Duration = Duration::from_millis(1000);

/// The packets out of a relay are awaited so long after the first of them.
const RELAYED_WAIT: Duration = Duration::from_millis(1500);

/// Where to look and what for.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Our end toward the router.
    pub(crate) origin: Origin,
    /// The router.
    pub(crate) gateway: Ipv4Addr,
    /// With consent, a port is mapped.
    pub(crate) map: bool,
    /// What certificates of TURN servers are judged by.
    pub(crate) tls: ClientTls,
}

/// Who can try a mapping from outside.
#[derive(Clone, Debug)]
pub(crate) struct TriedBy {
    /// A whyrelay server, with our end toward it.
    pub(crate) outside: Option<(Origin, SocketAddr)>,
    /// TURN servers, which can try it as well.
    pub(crate) relays: Vec<turn::Target>,
}

/// The result of an HTTP exchange.
type Exchanged = (ExchangeId, Result<Vec<u8>, String>);

struct Driver {
    journal: Journal,
    machine: PortMapper,
    sockets: Sockets,
    local: SocketAddr,
    mark: Option<u32>,
    exchanges: FuturesUnordered<std::pin::Pin<Box<dyn Future<Output = Exchanged> + Send>>>,
    /// When the machine has its next timeout.
    deadline: Timestamp,
}

/// What the machine says to whom has it mapped.
enum Said {
    Discovered,
    Mapped { protocol: PortMapperProtocol, external: Option<IpAddr>, external_port: u16 },
    MapFailed { detail: String },
    Unmapped { confirmed: bool },
}

/// Asks the router, and maps if it may, once it is known who can try that. A mapping is removed also when the check is
/// stopped.
pub(crate) async fn look(
    journal: Journal,
    mut random: Random,
    target: Target,
    tried_by: oneshot::Receiver<TriedBy>,
    options: UdpOptions,
    until: Instant,
    stop: Stop,
) {
    let mut driver = match Driver::open(journal.clone(), random.fork(), &target.origin, target.gateway, options) {
        Ok(driver) => driver,
        Err(why) => return journal.missing("port mapping protocols of the router", why),
    };
    let why = match stop.clone().unless(driver.run(until)).await {
        Some(Some(Said::Discovered)) if target.map => {
            return match stop.clone().unless(tried_by).await {
                Some(Ok(tried_by)) => map(&mut driver, random, (&target, &tried_by), options, stop).await,
                // Stopped here, or where it would be told.
                _ => journal.missing(MAPPING, STOPPED),
            };
        }
        Some(Some(Said::Discovered)) => return,
        Some(_) => journal.no_time(),
        None => STOPPED.to_owned(),
    };
    journal.missing("port mapping protocols of the router", why.as_str());
    if target.map {
        journal.missing(MAPPING, why);
    }
}

/// What takes consent.
const MAPPING: &str = "mapping a port on the router";

async fn map(
    driver: &mut Driver,
    random: Random,
    (target, tried_by): (&Target, &TriedBy),
    options: UdpOptions,
    stop: Stop,
) {
    const WHAT: &str = MAPPING;
    let journal = driver.journal.clone();
    let until = Instant::now() + MAP_LIMIT;
    // A socket that sends to nobody: what arrives there came by the mapping.
    let mut silent = Sockets::new(journal.clone());
    let Ok(local) = silent.open(target.origin.address, target.origin.interface.as_deref(), options) else {
        return journal.missing(WHAT, "no socket could be opened");
    };
    driver.feed(Input::Map { internal_port: local.port() });
    let said = stop.clone().unless(driver.run(until)).await.flatten();
    let (protocol, external, external_port) = match said {
        Some(Said::Mapped { protocol, external, external_port }) => (protocol, external, external_port),
        said => {
            // The router may have made what it did not answer.
            driver.unmap().await;
            let why = match said {
                Some(Said::MapFailed { detail }) => detail,
                _ => "the check was stopped before it was made".to_owned(),
            };
            return journal.missing(WHAT, why);
        }
    };
    let mapped = (external, external_port);
    let tried = try_from_outside(&journal, random, (target, tried_by), options, &mut silent, mapped, &stop).await;
    let removed = driver.unmap().await;
    let (reached, seen) = match tried {
        Ok((reached, seen)) => (Some(reached), Some(seen)),
        Err(why) => {
            journal.missing("the mapped port, from outside", why);
            (None, None)
        }
    };
    let Some(ip) = external.or(seen) else {
        return journal.missing(WHAT, "it was mapped, but neither the router nor a server told the external address");
    };
    let external = SocketAddr::new(ip, external_port);
    journal.measured(Measurement::PortMapped { protocol, local, external, reached, removed });
}

/// Whether a packet of a server to the mapped port arrives, and the address that the server sees us at: one of a
/// whyrelay server's own, else one out of a TURN server's relay.
async fn try_from_outside(
    journal: &Journal,
    mut random: Random,
    (target, tried_by): (&Target, &TriedBy),
    options: UdpOptions,
    silent: &mut Sockets,
    (external, port): (Option<IpAddr>, u16),
    stop: &Stop,
) -> Result<(bool, IpAddr), String> {
    let mut why = "it takes a server to send from outside: give --signal, or --turn with a user".to_owned();
    if let Some(outside) = tried_by.outside.clone() {
        let limit = Instant::now() + MAP_LIMIT / 2;
        let knocking = probes::knock_at(journal, random.fork(), outside, options, port, limit);
        if let Some(knock) = stop.clone().unless(knocking).await.ok_or(STOPPED)? {
            let arriving = arrives(silent, KNOCK_WAIT, |remote, bytes| knock.is(remote, bytes));
            let reached = stop.clone().unless(arriving).await.ok_or(STOPPED)?;
            return Ok((reached, knock.mapped.ip()));
        }
        why = "the whyrelay server would not send to it".to_owned();
    }
    for relay in &tried_by.relays {
        let id = random.transaction_id();
        let bytes = MessageBuilder::new(Class::Indication, Method::BINDING, id).fingerprint().build();
        let arriving = arrives(silent, RELAYED_WAIT, |_, arrived| arrived == bytes.as_slice());
        let from = turn::Outside { target: relay.clone(), tls: target.tls.clone(), options };
        match turn::send_from_outside(journal, random.fork(), from, (external, port), &bytes, arriving, stop).await {
            Ok(tried) => return Ok(tried),
            Err(detail) => why = format!("{}: {detail}", relay.server.url),
        }
    }
    Err(why)
}

/// Whether such a datagram arrives within a time, which begins when this is first asked.
async fn arrives(silent: &mut Sockets, wait: Duration, is: impl Fn(SocketAddr, &[u8]) -> bool) -> bool {
    let until = Instant::now() + wait;
    while let Some(arrived) = silent.recv(until).await {
        if let Arrived::Datagram { remote, bytes, .. } = arrived
            && is(remote, &bytes)
        {
            return true;
        }
    }
    false
}

impl Driver {
    /// A socket toward the router and a machine that has not asked yet; or why there is none.
    fn open(
        journal: Journal,
        random: Random,
        origin: &Origin,
        gateway: Ipv4Addr,
        options: UdpOptions,
    ) -> Result<Self, String> {
        let IpAddr::V4(own) = origin.address.ip() else { return Err("IPv6 needs none".into()) };
        let mut sockets = Sockets::new(journal.clone());
        let opened = sockets.open(origin.address, origin.interface.as_deref(), options);
        let local = opened.map_err(|error| format!("no socket could be opened: {error}"))?;
        let machine = PortMapper::new(journal.now(), own, gateway, random);
        let (mark, exchanges, deadline) = (options.mark, FuturesUnordered::new(), journal.now());
        Ok(Self { journal, machine, sockets, local, mark, exchanges, deadline })
    }

    fn feed(&mut self, input: Input<'_>) {
        let now = self.journal.now();
        // What arrived counts as in time until the machine has had its timeout.
        self.machine.handle_input(Now::ahead_of_timers(now, now), input);
    }

    /// Takes back what was made, or may have been; whether the router said that all of it is gone.
    async fn unmap(&mut self) -> bool {
        self.feed(Input::Unmap);
        let until = Instant::now() + UNMAP_LIMIT;
        loop {
            match self.run(until).await {
                Some(Said::Unmapped { confirmed }) => return confirmed,
                // Of what was under way.
                Some(_) => {}
                None => return false,
            }
        }
    }

    /// Runs until the machine says something, or until a time.
    async fn run(&mut self, until: Instant) -> Option<Said> {
        loop {
            if let Some(said) = self.drain() {
                return Some(said);
            }
            let wake = self.journal.clock().instant(self.deadline).min(until);
            tokio::select! {
                arrived = self.sockets.recv(wake) => match arrived {
                    Some(Arrived::Datagram { remote, bytes, .. }) => {
                        self.feed(Input::Datagram { remote, bytes: &bytes });
                    }
                    Some(Arrived::Refused { remote, .. }) => self.feed(Input::SendFailed { remote }),
                    None if Instant::now() >= until => return None,
                    None => {
                        self.take_exchanges().await;
                        let now = Now::timers(self.journal.now(), self.sockets.heard());
                        self.machine.handle_input(now, Input::Timeout);
                    }
                },
                Some(exchanged) = self.exchanges.next(), if !self.exchanges.is_empty() => self.exchanged(exchanged),
            }
        }
    }

    /// Takes the exchanges that have come to an end by now.
    async fn take_exchanges(&mut self) {
        // Their sockets are looked at in between.
        tokio::task::yield_now().await;
        while let Some(Some(exchanged)) = self.exchanges.next().now_or_never() {
            self.exchanged(exchanged);
        }
    }

    fn exchanged(&mut self, (exchange, result): Exchanged) {
        match &result {
            Ok(bytes) => self.feed(Input::Exchanged { exchange, bytes }),
            Err(detail) => self.feed(Input::ExchangeFailed { exchange, detail }),
        }
    }

    fn drain(&mut self) -> Option<Said> {
        loop {
            return Some(match self.machine.poll_output() {
                Output::Transmit { remote, bytes } => {
                    if self.sockets.send(self.local, remote, &bytes).is_err() {
                        self.feed(Input::SendFailed { remote });
                    }
                    continue;
                }
                Output::Exchange { exchange, remote, request } => {
                    let (local, mark) = (SocketAddr::new(self.local.ip(), 0), self.mark);
                    self.exchanges.push(Box::pin(async move {
                        let talk = talk(local, remote, mark, request);
                        let result = match tokio::time::timeout(EXCHANGE_LIMIT, talk).await {
                            Ok(result) => result.map_err(|error| error.to_string()),
                            Err(_) => Err("it took too long".to_owned()),
                        };
                        (exchange, result)
                    }));
                    continue;
                }
                Output::Event(kind) => {
                    self.journal.fact(kind);
                    continue;
                }
                Output::Discovered => Said::Discovered,
                Output::Mapped { protocol, external, external_port } => {
                    Said::Mapped { protocol, external, external_port }
                }
                Output::MapFailed { detail } => Said::MapFailed { detail },
                Output::Unmapped { confirmed } => Said::Unmapped { confirmed },
                Output::Timeout(at) => {
                    self.deadline = at;
                    return None;
                }
            });
        }
    }
}

/// One request and its response.
async fn talk(local: SocketAddr, remote: SocketAddr, mark: Option<u32>, request: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut stream = connect_tcp(Some(local), remote, mark).await?;
    stream.write_all(&request).await?;
    let mut response = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let length = stream.read(&mut buffer).await?;
        response.extend_from_slice(&buffer[..length]);
        if length == 0 || !matches!(http::response(&response, false), Progress::More) {
            return Ok(response);
        }
    }
}
