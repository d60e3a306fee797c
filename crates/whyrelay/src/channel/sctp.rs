//! The SCTP association in its DTLS connection: sctp-proto, with the choice of who opens it.
//!
//! Between two peers that both put an INIT into their descriptions it is open from the start. Otherwise both sides may
//! send one, and peers differ: Chromium and Pion always do, aiortc only as the ICE-controlling side, others only as
//! DTLS client. sctp-proto does not follow RFC 9260 §5.2.1 when two INITs cross, and a Pion that is opened believes the
//! receive window to be zero until the first SACK. So the DTLS client sends its INIT at once and the DTLS server only
//! when none has come for two round trips; and where two cross all the same, the offerer's counts: an offerer ignores
//! the peer's, an answerer drops its own and takes the peer's. Every peer that sends INITs also answers them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use sctp_proto::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, EndpointEvent, Event,
    Payload, PayloadProtocolIdentifier as Ppid, ServerConfig, StreamEvent, TransportConfig,
};

use super::{ChannelConfig, MAX_DATAGRAM};

/// What one SCTP packet may have: what is left of a datagram by the larger of the two record formats, DTLS 1.2 with an
/// AEAD: header 13, explicit nonce 8, tag 16 bytes.
const MAX_PACKET: usize = MAX_DATAGRAM - 37;
/// Common header and DATA chunk header (RFC 9260 §3.1, §3.3.1).
const HEADERS: usize = 12 + 16;
/// DATA is padded to four bytes.
const MAX_PAYLOAD: u32 = ((MAX_PACKET - HEADERS) & !3) as u32;

/// How much a peer may send ahead, in bytes. It limits throughput to this much per round trip; the sender in
/// [`super::measure`] keeps less in flight on short paths, where more costs time and gains nothing.
const RECEIVE_BUFFER: u32 = 1024 * 1024;

/// First retransmission timeout, in milliseconds: the value of libwebrtc, whose peers it is measured against.
const RTO_INITIAL_MS: u64 = 500;
/// Least, in milliseconds: must exceed the 200 ms for which a peer may delay its SACK.
const RTO_MIN_MS: u64 = 400;
/// Most, in milliseconds: one packet in three seconds burdens nobody, and a session waits for no more.
const RTO_MAX_MS: u64 = 3_000;

/// How long the DTLS server waits for the peer's INIT on top of two round trips: the peer's own time.
const MIN_PATIENCE: Duration = Duration::from_millis(30);
/// How long at most, and where the round trip is not known.
const MAX_PATIENCE: Duration = Duration::from_millis(300);

/// INIT's chunk type, and where it stands in a packet.
const INIT: u8 = 1;
const FIRST_CHUNK: usize = 12;

/// sctp-proto wants an address of the peer; inside DTLS there is none.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// What the association has to say.
#[derive(Debug)]
pub(super) enum Output {
    /// It is established.
    Established,
    /// A message came.
    Message { stream: u16, ppid: Ppid, data: Vec<u8> },
    /// The peer reset a stream: its data channel is closed (RFC 8831 §6.7).
    StreamClosed { stream: u16 },
    /// It ended.
    Lost { reason: String },
}

/// One SCTP association.
pub(super) struct Sctp {
    endpoint: Endpoint,
    transport: Arc<TransportConfig>,
    current: Option<Current>,
    offerer: bool,
    /// When to send our INIT, until it is sent or not needed.
    connect_at: Option<Instant>,
    reported_end: bool,
}

struct Current {
    handle: AssociationHandle,
    association: Association,
    /// Whether the peer opened it.
    passive: bool,
}

impl Sctp {
    pub(super) fn new(config: &ChannelConfig) -> Self {
        let transport = Arc::new(transport_config(config));
        let mut server = ServerConfig::new();
        server.transport = Arc::clone(&transport);
        let mut endpoint = EndpointConfig::new();
        endpoint.max_payload_size(MAX_PAYLOAD);
        Self {
            endpoint: Endpoint::new(Arc::new(endpoint), Some(Arc::new(server))),
            transport,
            current: None,
            offerer: config.offerer,
            connect_at: None,
            reported_end: false,
        }
    }

    /// DTLS is connected: opens the association, or waits for the peer to do it.
    ///
    /// # Errors
    /// When the peer's `a=sctp-init` makes no sense.
    pub(super) fn start(&mut self, now: Instant, config: &ChannelConfig) -> anyhow::Result<()> {
        if config.sctp_init.is_some() || config.dtls_client {
            return self.connect(config.sctp_init.clone());
        }
        let patience = config.round_trip.map_or(MAX_PATIENCE, |rtt| (rtt * 2 + MIN_PATIENCE).min(MAX_PATIENCE));
        self.connect_at = Some(now + patience);
        Ok(())
    }

    fn connect(&mut self, sctp_init: Option<(Bytes, Bytes)>) -> anyhow::Result<()> {
        self.connect_at = None;
        let mut client = ClientConfig::new();
        client.transport = Arc::clone(&self.transport);
        if let Some((local, remote)) = sctp_init {
            client = client.with_snap(local, remote);
        }
        let (handle, association) = self.endpoint.connect(client, NOWHERE).context("open the SCTP association")?;
        self.current = Some(Current { handle, association, passive: false });
        Ok(())
    }

    pub(super) fn handle_packet(&mut self, now: Instant, packet: Vec<u8>) {
        if packet.get(FIRST_CHUNK) == Some(&INIT) && !self.makes_way() {
            return;
        }
        match self.endpoint.handle(now, NOWHERE, None, None, Bytes::from(packet)) {
            Some((handle, DatagramEvent::AssociationEvent(event))) => {
                if let Some(current) = self.current.as_mut().filter(|current| current.handle == handle) {
                    current.association.handle_event(event);
                }
            }
            Some((handle, DatagramEvent::NewAssociation(association))) => {
                self.connect_at = None;
                let current = Current { handle, association, passive: true };
                if let Some(previous) = self.current.replace(current) {
                    self.endpoint.handle_event(previous.handle, EndpointEvent::drained());
                }
            }
            None => {}
        }
    }

    /// Whether the peer's INIT goes through: not past an association that is established, because sctp-proto would
    /// close that one, and not past the offerer's own.
    fn makes_way(&self) -> bool {
        match &self.current {
            None => true,
            Some(current) => current.association.is_handshaking() && (current.passive || !self.offerer),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.connect_at.is_some_and(|at| at <= now) {
            // Fails only for a bad `a=sctp-init`, and there is none.
            let _ = self.connect(None);
        }
        if let Some(current) = &mut self.current {
            current.association.handle_timeout(now);
        }
    }

    /// The next packets for the peer.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Vec<Bytes>> {
        match self.current.as_mut()?.association.poll_transmit(now)?.payload {
            Payload::RawEncode(packets) => Some(packets),
            Payload::PartialDecode(_) => None,
        }
    }

    /// The next thing it has to say.
    pub(super) fn poll(&mut self) -> Option<Output> {
        let association = &mut self.current.as_mut()?.association;
        while association.poll_endpoint_event().is_some() {}
        loop {
            // Messages first: they were there before what ends their stream.
            match association.poll()? {
                Event::Connected => return Some(Output::Established),
                Event::Stream(StreamEvent::Readable { id } | StreamEvent::Opened { id }) => {
                    if let Some(message) = read(association, id) {
                        return Some(message);
                    }
                }
                Event::Stream(StreamEvent::Finished { id }) => return Some(Output::StreamClosed { stream: id }),
                Event::HandshakeFailed { reason } | Event::AssociationLost { reason } if !self.reported_end => {
                    self.reported_end = true;
                    return Some(Output::Lost { reason: reason.to_string() });
                }
                _ => {}
            }
        }
    }

    /// The next message of a stream that had one: a stream tells once that it is readable.
    pub(super) fn read(&mut self, stream: u16) -> Option<Output> {
        read(&mut self.current.as_mut()?.association, stream)
    }

    /// Opens a stream towards the peer.
    pub(super) fn open_stream(&mut self, stream: u16) -> bool {
        self.current.as_mut().is_some_and(|current| current.association.open_stream(stream, Ppid::Binary).is_ok())
    }

    /// Queues a message.
    pub(super) fn write(&mut self, stream: u16, ppid: Ppid, data: &[u8]) -> bool {
        let Some(current) = &mut self.current else { return false };
        current.association.stream(stream).and_then(|mut stream| stream.write_with_ppi(data, ppid)).is_ok()
    }

    /// Bytes of messages that the peer has not acknowledged.
    pub(super) fn buffered(&mut self, stream: u16) -> usize {
        let Some(current) = &mut self.current else { return 0 };
        current.association.stream(stream).and_then(|stream| stream.buffered_amount()).unwrap_or(0)
    }

    /// Resets a stream, which closes its data channel.
    pub(super) fn close_stream(&mut self, stream: u16) {
        if let Some(current) = &mut self.current
            && let Ok(mut stream) = current.association.stream(stream)
        {
            // Before the association is established there is nothing to reset.
            let _ = stream.close();
        }
    }

    /// Starts the shutdown (RFC 9260 §9.2).
    pub(super) fn shutdown(&mut self) {
        if let Some(current) = &mut self.current {
            let _ = current.association.shutdown();
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let of_association = self.current.as_ref().and_then(|current| current.association.poll_timeout());
        [self.connect_at, of_association].into_iter().flatten().min()
    }
}

/// A fresh INIT chunk for `a=sctp-init` (draft-hancke-tsvwg-snap): good for one association.
///
/// # Errors
/// When SCTP cannot write it, which does not happen.
pub fn sctp_init() -> anyhow::Result<Bytes> {
    let transport = TransportConfig::default().with_max_receive_buffer_size(RECEIVE_BUFFER);
    sctp_proto::generate_snap_token(&transport).context("make an SCTP INIT chunk")
}

fn read(association: &mut Association, id: u16) -> Option<Output> {
    let chunks = association.stream(id).ok()?.read_sctp().ok()??;
    let mut data = vec![0; chunks.len()];
    chunks.read(&mut data).ok()?;
    Some(Output::Message { stream: id, ppid: chunks.ppi, data })
}

/// The settings of every association here.
fn transport_config(config: &ChannelConfig) -> TransportConfig {
    let largest = config.max_message_size.unwrap_or(u64::MAX);
    TransportConfig::default()
        .with_max_receive_buffer_size(RECEIVE_BUFFER)
        .with_max_send_message_size(u32::try_from(largest).unwrap_or(u32::MAX))
        .with_max_receive_message_size(u32::try_from(whyrelay_core::sdp::OUR_MAX_MESSAGE_SIZE).unwrap_or(u32::MAX))
        // The session has its own time limit.
        .with_max_init_retransmits(None)
        .with_rto_initial_ms(RTO_INITIAL_MS)
        .with_rto_min_ms(RTO_MIN_MS)
        .with_rto_max_ms(RTO_MAX_MS)
        .with_local_port(config.local_sctp_port)
        .with_remote_port(config.remote_sctp_port)
}
