//! The client's side of docs/probes.md: what a whyrelay server measures for who has proven its address.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::Direction;
use whyrelay_core::trace::measurement::Measurement;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::probe::{self, DISGUISED_REQUEST, Disguise, Operation, ProbeToken};
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

use super::hops;
use super::journal::Journal;
use super::nat::Origin;
use super::sockets::{Arrived, Sockets, bare};
use crate::io::udp::UdpOptions;

/// Sends of one request, and the time behind each but the last: soon at first, as one exchange in five fails where one
/// packet in ten is lost, and what a server offers is asked ahead of all else.
const SENDS: u32 = INTERVALS.len() as u32 + 1;
const INTERVALS: [Duration; 4] =
    [Duration::from_millis(40), Duration::from_millis(50), Duration::from_millis(80), Duration::from_millis(120)];

/// Behind the last send, and no less than two round trips.
const LAST_WAIT: Duration = Duration::from_millis(300);

/// UDP payloads that are tried: what fits into an MTU of 1500 over IPv4 and IPv6, of 1492 (PPPoE), 1420 (WireGuard),
/// 1400, 1280 (IPv6's least), and what every path carries.
const SIZES: [u16; 7] = [1472, 1452, 1444, 1392, 1372, 1252, 1200];

/// The time behind each of the two times that all sizes are asked.
const SIZES_INTERVAL: Duration = Duration::from_millis(100);

/// The time between two packets of sizes that are asked once more, and behind the last the least wait.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(40);
const LEAST_CONFIRM_WAIT: Duration = Duration::from_millis(60);

/// Datagrams of each shape.
const SHAPED: u32 = 4;

/// What a server says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Described {
    /// Where it offers behavior discovery.
    pub(crate) discovery: Option<SocketAddr>,
    /// When it was asked, and how long its answer took.
    round: Option<(Timestamp, Duration)>,
}

/// A socket, the server's STUN port, and the nonce that proves us.
struct Session {
    journal: Journal,
    random: Random,
    sockets: Sockets,
    local: SocketAddr,
    server: SocketAddr,
    nonce: Vec<u8>,
    until: Instant,
    /// What arrived that is no answer to the request under way.
    others: Vec<(SocketAddr, Vec<u8>)>,
    /// When the last request that was answered was first sent, and how long its answer took.
    round: Option<(Timestamp, Duration)>,
    /// The wait behind the last send of a request, as long as none was answered.
    last_wait: Duration,
    /// The error code by which the last request was refused; `None`: it was not answered, or with success.
    refused: Option<u16>,
    /// Whether the last answer that was to name a port of ours did not.
    names_no_port: bool,
}

/// A port of the server that is ours for a while.
struct Third {
    remote: SocketAddr,
    token: ProbeToken,
    /// Our address as the STUN port saw it.
    mapped: SocketAddr,
}

impl Third {
    /// What an answer of the server at an address names; `None`: it lacks the port, its token or our address.
    fn named_in(answer: &[u8], server: IpAddr) -> Option<Self> {
        let message = Message::decode(answer).ok()?;
        Some(Self {
            remote: SocketAddr::new(server, probe::port_of(&message)?),
            token: probe::token_of(&message)?,
            mapped: message.xor_address(AttributeType::XOR_MAPPED_ADDRESS)?,
        })
    }
}

/// Asks a server what it offers, until `limit`; `None` for a server that is not whyrelay's, or silent.
pub(crate) async fn describe(
    journal: &Journal,
    random: Random,
    (origin, server): (Origin, SocketAddr),
    options: UdpOptions,
    limit: Instant,
) -> Option<Described> {
    let mut session = Session::open(journal, random, &origin, server, options, limit)?;
    // How far away it is nobody knows yet: a repetition may be the first that is answered.
    session.last_wait = limit.saturating_duration_since(Instant::now());
    session.describe().await
}

impl Session {
    fn open(
        journal: &Journal,
        random: Random,
        origin: &Origin,
        server: SocketAddr,
        options: UdpOptions,
        until: Instant,
    ) -> Option<Self> {
        let mut sockets = Sockets::new(journal.clone());
        let local = sockets.open(origin.address, origin.interface.as_deref(), options).ok()?;
        let (journal, nonce, others, round) = (journal.clone(), Vec::new(), Vec::new(), None);
        let (last_wait, refused, names_no_port) = (LAST_WAIT, None, false);
        Some(Self {
            journal,
            random,
            sockets,
            local,
            server,
            nonce,
            until,
            others,
            round,
            last_wait,
            refused,
            names_no_port,
        })
    }

    /// Sends a request until it is answered. The nonce is taken from a 438 and the request repeated, once.
    async fn request(
        &mut self,
        remote: SocketAddr,
        build: impl Fn(TransactionId) -> MessageBuilder,
        proves: bool,
    ) -> Option<Vec<u8>> {
        for _ in 0..2 {
            let id = self.random.transaction_id();
            let mut builder = build(id);
            if proves && !self.nonce.is_empty() {
                builder = builder.attribute(AttributeType::NONCE, &self.nonce);
            }
            let bytes = builder.fingerprint().build();
            self.refused = None;
            let answer = self.transact(remote, id, &bytes).await?;
            let message = Message::decode(&answer).ok()?;
            self.refused = message.error_code().map(|error| error.code);
            let stale = message.class == Class::Error && message.error_code().is_some_and(|error| error.code == 438);
            match message.attribute(AttributeType::NONCE).filter(|_| stale && proves) {
                Some(nonce) => self.nonce = nonce.value.to_vec(),
                None => return (message.class == Class::Success).then_some(answer),
            }
        }
        None
    }

    async fn transact(&mut self, remote: SocketAddr, id: TransactionId, bytes: &[u8]) -> Option<Vec<u8>> {
        let (at, started) = (self.journal.now(), Instant::now());
        for interval in INTERVALS.map(Some).into_iter().chain([None]) {
            // The system's refusal is an event of its own.
            let _ = self.sockets.send(self.local, remote, bytes);
            let wake = (Instant::now() + interval.unwrap_or_else(|| self.last_wait())).min(self.until);
            while let Some((from, bytes)) = self.arrival(wake).await {
                let is_answer = Message::decode(&bytes).is_ok_and(|message| {
                    message.is_sound()
                        && message.transaction == id
                        && matches!(message.class, Class::Success | Class::Error)
                });
                if is_answer && bare(from) == bare(remote) {
                    self.round = Some((at, started.elapsed()));
                    return Some(bytes);
                }
                self.keep(from, bytes);
            }
            if Instant::now() >= self.until {
                return None;
            }
        }
        None
    }

    fn keep(&mut self, from: SocketAddr, bytes: Vec<u8>) {
        // Few are wanted; a flood must not be kept.
        if self.others.len() < 256 {
            self.others.push((from, bytes));
        }
    }

    async fn arrival(&mut self, wake: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        loop {
            if let Arrived::Datagram { local, remote, bytes, .. } = self.sockets.recv(wake).await?
                && local == self.local
            {
                return Some((remote, bytes));
            }
        }
    }

    async fn describe(&mut self) -> Option<Described> {
        let answer = self.request(self.server, |id| Operation::Describe.request(id), true).await?;
        let (sent, took) = self.round?;
        let message = Message::decode(&answer).ok()?;
        if let Some(theirs) = message.u64(AttributeType::PROBE_TIME) {
            let ours = sent.as_micros().saturating_add(u64::try_from(took.as_micros()).unwrap_or(0) / 2);
            let offset_ms = (i128::from(theirs) - i128::from(ours)) / 1000;
            let offset_ms = i64::try_from(offset_ms).unwrap_or(i64::MAX);
            let precision_ms = u32::try_from(took.as_millis() / 2 + 1).unwrap_or(u32::MAX);
            let server = format!("stun:{}", self.server);
            self.journal.measured(Measurement::Clock { server, offset_ms, precision_ms });
        }
        let discovery = probe::port_of(&message).map(|port| SocketAddr::new(self.server.ip(), port));
        Some(Described { discovery, round: self.round })
    }

    /// A fresh port of the server; with `knock` it sends first. `port`: to that port of ours instead of this one.
    async fn third(&mut self, knock: bool, port: Option<u16>) -> Option<Third> {
        let build = |id| {
            let request = Operation::Open { knock }.request(id);
            match port {
                Some(port) => request.attribute(AttributeType::PROBE_PORT, &probe::port_value(port)),
                None => request,
            }
        };
        self.names_no_port = false;
        let answer = self.request(self.server, build, true).await?;
        let third = Third::named_in(&answer, self.server.ip());
        self.names_no_port = third.is_none();
        third
    }

    /// Where a third party sees us.
    async fn observe(&mut self, third: &Third) -> Option<SocketAddr> {
        let token = third.token;
        let build = |id| Operation::Observe.request(id).attribute(AttributeType::PROBE_TOKEN, &token.0);
        let answer = self.request(third.remote, build, false).await?;
        Message::decode(&answer).ok()?.xor_address(AttributeType::XOR_MAPPED_ADDRESS)
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Why there is no port of the server to send to, or from: for want of time, or by its word, or as it said none.
    fn why_no_port(&self) -> String {
        match self.refused {
            // Ours are for 8 sessions a source, 4 new ones a second, and 512 in all (docs/probes.md).
            Some(code @ (486 | 508)) => {
                format!("{} opens no more ports just now (error {code}): check again later", self.server)
            }
            Some(code) => format!("{} opens no port (error {code})", self.server),
            None if self.names_no_port => {
                format!("{} was asked for a port, and its answer names none that could be used", self.server)
            }
            None => self.why(&format!("{} did not answer when asked for a port", self.server)),
        }
    }

    /// Why something is missing: for want of time, or else this.
    fn why(&self, otherwise: &str) -> String {
        if self.is_over() { self.journal.no_time() } else { otherwise.to_owned() }
    }

    /// The wait behind the last send.
    fn last_wait(&self) -> Duration {
        self.round.map_or(self.last_wait, |(_, took)| LAST_WAIT.max(took * 2))
    }

    /// Behind the last size that is asked once more: others were answered, so how long that takes is known.
    fn confirm_wait(&self) -> Duration {
        self.round.map_or(self.last_wait, |(_, took)| LEAST_CONFIRM_WAIT.max(took * 2))
    }

    /// Whether the unsolicited packet of a third party came.
    async fn was_knocked(&mut self, third: &Third, wait: Duration) -> bool {
        let is =
            |(from, bytes): &(SocketAddr, Vec<u8>)| bare(*from) == bare(third.remote) && is_knock(bytes, third.token);
        self.wait(wait, |others| others.iter().any(is)).await;
        self.others.iter().any(is)
    }
}

/// A packet that the server sends unasked by any of ours to where it goes.
pub(crate) struct Knock {
    from: SocketAddr,
    token: ProbeToken,
    /// Our address as the server saw it.
    pub(crate) mapped: SocketAddr,
}

impl Knock {
    pub(crate) fn is(&self, remote: SocketAddr, bytes: &[u8]) -> bool {
        bare(remote) == bare(self.from) && is_knock(bytes, self.token)
    }
}

/// Has the server send a packet to another port of our public address.
pub(crate) async fn knock_at(
    journal: &Journal,
    random: Random,
    (origin, server): (Origin, SocketAddr),
    options: UdpOptions,
    port: u16,
    until: Instant,
) -> Option<Knock> {
    let mut session = Session::open(journal, random, &origin, server, options, until)?;
    let third = session.third(true, Some(port)).await?;
    Some(Knock { from: third.remote, token: third.token, mapped: third.mapped })
}

fn is_knock(bytes: &[u8], token: ProbeToken) -> bool {
    Message::decode(bytes).is_ok_and(|message| {
        message.class == Class::Indication
            && message.method == Method::PROBE
            && probe::token_of(&message) == Some(token)
    })
}

/// Everything that a whyrelay server can measure for us, from one socket. `described`: what it offers, where it was asked
/// already; else it is, until `limit`.
pub(crate) async fn look(
    journal: Journal,
    mut random: Random,
    (origin, server): (Origin, SocketAddr),
    options: UdpOptions,
    (limit, until): (Instant, Instant),
    described: Option<Described>,
) {
    let what = "early arrival, largest packets and WireGuard's shape";
    let described = match described {
        Some(described) => Some(described),
        None => describe(&journal, random.fork(), (origin.clone(), server), options, limit).await,
    };
    let Some(described) = described else {
        let why = if Instant::now() >= until {
            journal.no_time()
        } else {
            format!("{server} did not answer when asked what it offers")
        };
        let what = "early arrival, a random high port, largest packets, WireGuard's shape, the server's clock";
        return journal.missing(what, why);
    };
    let unfragmented = UdpOptions { dont_fragment: true, ..options };
    let Some(mut session) = Session::open(&journal, random, &origin, server, unfragmented, until) else {
        return journal.missing(what, "no socket could be opened");
    };
    session.round = described.round;
    let Some(plain) = session.third(false, None).await else {
        return journal.missing(what, session.why_no_port());
    };
    let (local, control) = (session.local, session.observe(&plain).await);
    if control.is_none() && session.is_over() {
        return journal.missing(format!("a random high port, {what}"), journal.no_time());
    }
    let sent = if control.is_some() { 1 } else { SENDS };
    journal.measured(Measurement::ThirdParty { local, remote: plain.remote, observed: control, sent });
    let Some(control) = control else {
        let random = session.random.fork();
        hops::look(journal.clone(), random, (origin, plain.remote), Class::Indication, options, until).await;
        return journal.missing(what, "nothing from a random high port of the server was answered");
    };
    early_arrival(&mut session, control).await;
    sizes(&mut session, &plain).await;
    shapes(&mut session, &plain).await;
}

/// CAUSES.md, L1: an unsolicited packet first, then ours to where it came from.
async fn early_arrival(session: &mut Session, control: SocketAddr) {
    const WHAT: &str = "early arrival";
    let Some(third) = session.third(true, None).await else {
        return session.journal.missing(WHAT, session.why_no_port());
    };
    let arrived = session.was_knocked(&third, Duration::from_millis(100)).await;
    let Some(observed) = session.observe(&third).await else {
        return session.journal.missing(WHAT, session.why("our packets to the port that knocked were not answered"));
    };
    let (local, remote, mapped) = (session.local, third.remote, third.mapped);
    session.journal.measured(Measurement::EarlyArrival { local, remote, mapped, observed, control, arrived });
}

/// The largest packet each way, all sizes at once, each twice.
async fn sizes(session: &mut Session, third: &Third) {
    // IPv6's header is 20 bytes longer.
    let most = if third.remote.is_ipv4() { SIZES[0] } else { SIZES[1] };
    let sizes: Vec<u16> = SIZES.into_iter().filter(|size| *size <= most).collect();
    for direction in [Direction::Out, Direction::In] {
        let mut asked: Vec<(TransactionId, u16)> = Vec::new();
        // The others do not fit into our own interface, which is an event of its own.
        let mut fitting = sizes.clone();
        for _ in 0..2 {
            fitting.retain(|size| {
                let id = session.random.transaction_id();
                let bytes = sized(id, third.token, direction, *size);
                asked.push((id, *size));
                session.sockets.send(session.local, third.remote, &bytes) != Err(libc::EMSGSIZE)
            });
            let Some(&most) = fitting.first() else { break };
            session.wait(SIZES_INTERVAL, |answers| has_largest(most, &asked, answers)).await;
        }
        let Some(&most_sent) = fitting.first() else {
            let least = sizes.last().copied().unwrap_or(most);
            session.journal.missing("the largest packet", format!("{TOO_SMALL} (the least that is tried has {least})"));
            continue;
        };
        session.wait(session.last_wait(), |answers| has_largest(most_sent, &asked, answers)).await;
        // All at once they fill a slow line's queue, which then drops some of any size: what got lost is asked once more,
        // without the rest, where that leaves time for what comes behind it.
        let lost = to_confirm(&fitting, largest_of(&asked, &session.others));
        let left = session.until.saturating_duration_since(Instant::now());
        if has_time_to_confirm(lost.len(), direction, left, session.last_wait(), session.confirm_wait()) {
            for size in lost {
                let id = session.random.transaction_id();
                let _ = session.sockets.send(session.local, third.remote, &sized(id, third.token, direction, size));
                asked.push((id, size));
                session.wait(CONFIRM_INTERVAL, |answers| has_largest(most_sent, &asked, answers)).await;
            }
            session.wait(session.confirm_wait(), |answers| has_largest(most_sent, &asked, answers)).await;
        }
        let largest = largest_of(&asked, &session.others);
        let (local, remote) = (session.local, third.remote);
        match largest {
            Some(payload) if may_be_on_its_way(payload, most_sent, session.is_over()) => {
                session.journal.missing("the largest packet", session.journal.no_time());
            }
            Some(payload) => {
                let lost = sizes.iter().copied().filter(|size| *size > payload).min();
                session.journal.measured(Measurement::PathMtu { local, remote, direction, payload, lost });
            }
            None => session.journal.missing("the largest packet", session.why("no packet of any size was answered")),
        }
    }
}

/// Why no size is known where none could be sent.
const TOO_SMALL: &str = "none of the sizes that are tried fits into this host's own interface: see its MTU";

/// Whether larger packets than those that were answered may be on their way still, so that they were not lost: not what
/// never left, as our own interface takes none of that size.
const fn may_be_on_its_way(answered: u16, most_sent: u16, is_over: bool) -> bool {
    is_over && answered < most_sent
}

/// The sizes of those that were sent, largest first, which are larger than what was answered: the smallest first.
fn to_confirm(sent: &[u16], answered: Option<u16>) -> Vec<u16> {
    let larger = |size: &u16| answered.is_some_and(|answered| *size > answered);
    sent.iter().copied().filter(larger).rev().collect()
}

/// Whether so many sizes can be asked once more in the time that is left, so that the sizes of the other direction and the
/// shapes can be measured, too.
fn has_time_to_confirm(
    sizes: usize,
    direction: Direction,
    left: Duration,
    last_wait: Duration,
    confirm_wait: Duration,
) -> bool {
    let cost = CONFIRM_INTERVAL * u32::try_from(sizes).unwrap_or(u32::MAX) + confirm_wait;
    let other = if direction == Direction::Out { SIZES_INTERVAL * 2 + last_wait } else { Duration::ZERO };
    let shapes = last_wait;
    sizes > 0 && left >= cost + other + shapes
}

/// The largest size that was answered.
fn largest_of(asked: &[(TransactionId, u16)], arrived: &[(SocketAddr, Vec<u8>)]) -> Option<u16> {
    let is_answered = |id: TransactionId| arrived.iter().any(|(_, bytes)| answers(bytes, id));
    asked.iter().filter(|(id, _)| is_answered(*id)).map(|(_, size)| *size).max()
}

/// Whether the largest size was answered: then nothing more is to be learned.
fn has_largest(most: u16, asked: &[(TransactionId, u16)], arrived: &[(SocketAddr, Vec<u8>)]) -> bool {
    asked.iter().any(|(id, size)| *size == most && arrived.iter().any(|(_, bytes)| answers(bytes, *id)))
}

fn answers(bytes: &[u8], id: TransactionId) -> bool {
    Message::decode(bytes).is_ok_and(|message| message.class == Class::Success && message.transaction == id)
}

/// A request that is `size` bytes large (out), or asks for an answer that is (in).
fn sized(id: TransactionId, token: ProbeToken, direction: Direction, size: u16) -> Vec<u8> {
    let request = Operation::Observe.request(id).attribute(AttributeType::PROBE_TOKEN, &token.0);
    if direction == Direction::In {
        return request.u32(AttributeType::PROBE_SIZE, size.into()).fingerprint().build();
    }
    let bare_length = request.clone().attribute(AttributeType::PADDING, &[]).fingerprint().build().len();
    let padding = usize::from(size).saturating_sub(bare_length);
    request.attribute(AttributeType::PADDING, &vec![0; padding]).fingerprint().build()
}

/// Datagrams as WireGuard's handshake, and random ones of the same size, in turn.
async fn shapes(session: &mut Session, third: &Third) {
    let mut sent: Vec<(Disguise, Vec<u8>)> = Vec::new();
    for _ in 0..SHAPED {
        for kind in [Disguise::WireGuard, Disguise::Random] {
            let mut noise = [0; DISGUISED_REQUEST];
            for chunk in noise.chunks_mut(32) {
                let random: [u8; 32] = session.random.bytes();
                chunk.copy_from_slice(&random[..chunk.len()]);
            }
            let bytes = probe::disguise(kind, third.token, session.random.bytes(), noise);
            let _ = session.sockets.send(session.local, third.remote, &bytes);
            sent.push((kind, bytes));
        }
    }
    let is_answered = |bytes: &[u8], arrived: &[(SocketAddr, Vec<u8>)]| {
        arrived.iter().any(|(_, answer)| probe::is_answer_to(answer, bytes))
    };
    session.wait(session.last_wait(), |arrived| sent.iter().all(|(_, bytes)| is_answered(bytes, arrived))).await;
    if session.is_over() && !sent.iter().all(|(_, bytes)| is_answered(bytes, &session.others)) {
        return session.journal.missing("WireGuard's shape", session.journal.no_time());
    }
    let arrived = |wanted: Disguise| {
        let answered = sent.iter().filter(|(kind, bytes)| *kind == wanted && is_answered(bytes, &session.others));
        u32::try_from(answered.count()).unwrap_or(u32::MAX)
    };
    session.journal.measured(Measurement::PacketShape {
        local: session.local,
        remote: third.remote,
        shaped_sent: SHAPED,
        shaped_arrived: arrived(Disguise::WireGuard),
        random_sent: SHAPED,
        random_arrived: arrived(Disguise::Random),
    });
}

impl Session {
    /// Collects what arrives until enough has, or for this long.
    async fn wait(&mut self, limit: Duration, enough: impl Fn(&[(SocketAddr, Vec<u8>)]) -> bool) {
        let wake = (Instant::now() + limit).min(self.until);
        while !enough(&self.others) {
            let Some((from, bytes)) = self.arrival(wake).await else { return };
            self.keep(from, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_asked_once_more_only_where_that_leaves_time_for_what_comes_behind() {
        // Behind WireGuard's MTU of 1420.
        let lost = to_confirm(&SIZES, Some(1392));
        assert_eq!(lost, [1444, 1452, 1472]);
        // What our own interface did not take was not lost.
        assert_eq!(to_confirm(&SIZES[3..], Some(1392)), [0; 0]);
        assert_eq!(to_confirm(&SIZES, None), [0; 0]);
        let ms = Duration::from_millis;
        let has_time = |direction, left| has_time_to_confirm(lost.len(), direction, ms(left), LAST_WAIT, ms(60));
        // Three packets take 180 ms; then the other direction 500, and the shapes 300.
        assert!(has_time(Direction::Out, 980) && !has_time(Direction::Out, 979));
        assert!(has_time(Direction::In, 480) && !has_time(Direction::In, 479));
        assert!(!has_time_to_confirm(0, Direction::In, ms(5000), LAST_WAIT, ms(60)));
    }

    #[test]
    fn what_our_own_interface_did_not_take_is_not_on_its_way() {
        // An MTU of 1420: 1392 is the most that was sent.
        assert!(!may_be_on_its_way(1392, 1392, true));
        assert!(may_be_on_its_way(1372, 1392, true) && !may_be_on_its_way(1372, 1392, false));
    }

    #[test]
    fn an_answer_that_names_no_port_is_told_from_silence() {
        let (id, server) = (TransactionId([7; 12]), IpAddr::from([192, 0, 2, 1]));
        let (port, token) = (probe::port_value(50_000), ProbeToken([9; 8]));
        let named = |with_port: bool, with_token: bool, with_address: bool| {
            let mut answer = MessageBuilder::new(Class::Success, Method::PROBE, id);
            if with_port {
                answer = answer.attribute(AttributeType::PROBE_PORT, &port);
            }
            if with_token {
                answer = answer.attribute(AttributeType::PROBE_TOKEN, &token.0);
            }
            if with_address {
                answer = answer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, SocketAddr::from(([203, 0, 113, 1], 9)));
            }
            Third::named_in(&answer.build(), server).map(|third| third.remote.to_string())
        };
        assert_eq!(named(true, true, true).as_deref(), Some("192.0.2.1:50000"));
        assert!(named(false, true, true).is_none() && named(true, false, true).is_none());
        assert!(named(true, true, false).is_none());
    }
}
