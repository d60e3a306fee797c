//! DTLS, SCTP and data channels on the path that ICE selected: one state machine without sockets.
//!
//! Feed [`Channel::handle_datagram`] the datagrams that RFC 7983 §7 gives to DTLS, call [`Channel::handle_timeout`] when
//! the time of the last [`Output::Timeout`] is over, and after each of them, and after every other `&mut` call, poll
//! [`Channel::poll_output`] until it answers `Timeout`. Datagrams may be lost, doubled, reordered or made up.
//!
//! Who starts: the answerer is DTLS client (RFC 8842 §5.3) and should create its `Channel` as soon as a pair is usable,
//! because creating it sends the ClientHello. A ClientHello may be there before the offerer has the answer: keep the
//! last few DTLS datagrams until the `Channel` can be made. The offerer opens the data channel and may send at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use sctp_proto::PayloadProtocolIdentifier as Ppid;
use whyrelay_core::trace::event::{DtlsState, EventKind};

mod certificate;
mod config;
mod dcep;
mod dtls;
pub mod measure;
#[cfg(test)]
mod measure_tests;
mod sctp;
#[cfg(test)]
mod tests;

pub use certificate::Certificate;
pub use config::{ChannelConfig, DtlsVersions};
use dcep::{Dcep, Open};
pub use sctp::sctp_init;

/// The largest datagram that is sent, in bytes: with IPv6, UDP and a TURN header it still fits the 1280 bytes that
/// every IPv6 path carries (RFC 8200 §5).
pub const MAX_DATAGRAM: usize = 1200;

/// Most bytes of unacknowledged messages on one data channel; [`Channel::send_message`] refuses more.
pub const MAX_BUFFERED: usize = 4 * 1024 * 1024;

/// Most data channels that a peer may open.
const MAX_CHANNELS: usize = 64;

/// Most messages that may overtake the last step of SCTP's handshake: more than fit one initial congestion window.
const MAX_EARLY: usize = 64;

/// How long [`Channel::close`] waits for messages that are still on their way.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The deadline when nothing is waited for.
const IDLE: Duration = Duration::from_secs(3600);

/// What a [`Channel`] gives.
#[derive(Debug)]
pub enum Output {
    /// A datagram for the peer, on the selected pair.
    Transmit(Vec<u8>),
    /// Something for the recording.
    Event(EventKind),
    /// A data channel is open: messages can be sent on it.
    Opened {
        /// Its SCTP stream.
        channel: u16,
        /// Its label.
        label: String,
    },
    /// A message came.
    Message {
        /// The data channel.
        channel: u16,
        /// Whether it is binary, not text.
        binary: bool,
        /// Its bytes; of text too, which is UTF-8 unless the peer is wrong.
        data: Vec<u8>,
    },
    /// One data channel is closed, the connection is not.
    ChannelClosed {
        /// The data channel.
        channel: u16,
    },
    /// The connection ended; no further output but `Timeout` comes.
    Closed,
    /// Nothing more until an input, or this time.
    Timeout(Instant),
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no such data channel, or it is not open.
    #[error("the data channel is not open")]
    NotOpen,
    /// The peer takes no message of this size.
    #[error("the message has {length} bytes, the peer takes {limit} at most")]
    TooLong {
        /// Its length.
        length: usize,
        /// What the peer takes.
        limit: u64,
    },
    /// [`MAX_BUFFERED`] is reached; try again when [`Channel::buffered_amount`] went down.
    #[error("too much is waiting to be sent")]
    Full,
}

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Until either side closes or something fails.
    Open,
    /// [`Channel::close`] was called and messages are still on their way, until then.
    Closing(Instant),
    /// Nothing happens any more.
    Closed,
}

/// One connection with its data channels.
pub struct Channel {
    config: ChannelConfig,
    now: Instant,
    dtls: dtls::DtlsTransport,
    sctp: sctp::Sctp,
    channels: BTreeMap<u16, String>,
    /// Messages that overtook the last step of SCTP's handshake, until it is done; `None` from then on.
    early: Option<Vec<(u16, Ppid, Vec<u8>)>>,
    state: State,
    dtls_outputs: VecDeque<dtls::Output>,
    outputs: VecDeque<Output>,
}

impl Channel {
    /// Starts the DTLS handshake.
    ///
    /// # Errors
    /// When DTLS refuses its configuration.
    pub fn new(now: Instant, config: ChannelConfig) -> anyhow::Result<Self> {
        let mut dtls_outputs = VecDeque::new();
        let dtls = dtls::DtlsTransport::new(now, &config, &mut dtls_outputs)?;
        let mut this = Self {
            sctp: sctp::Sctp::new(&config),
            config,
            now,
            dtls,
            channels: BTreeMap::new(),
            early: Some(Vec::new()),
            state: State::Open,
            dtls_outputs,
            outputs: VecDeque::new(),
        };
        this.pump();
        Ok(this)
    }

    /// Takes a datagram from the peer, whatever it holds.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        self.advance(now);
        self.dtls.handle_datagram(self.now, datagram, &mut self.dtls_outputs);
        self.pump();
    }

    /// Does what the time asks for. Calling it too early or too often is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        if self.dtls.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.dtls.handle_timeout(self.now, &mut self.dtls_outputs);
        }
        self.sctp.handle_timeout(self.now);
        self.pump();
    }

    /// Sends a message on an open data channel.
    ///
    /// # Errors
    /// When the channel is not open, the message too long, or too much is waiting already.
    pub fn send_message(&mut self, now: Instant, channel: u16, binary: bool, data: &[u8]) -> Result<(), SendError> {
        if self.state != State::Open || !self.channels.contains_key(&channel) {
            return Err(SendError::NotOpen);
        }
        if let Some(limit) = self.config.max_message_size
            && data.len() as u64 > limit
        {
            return Err(SendError::TooLong { length: data.len(), limit });
        }
        if self.sctp.buffered(channel) + data.len() > MAX_BUFFERED {
            return Err(SendError::Full);
        }
        self.advance(now);
        // SCTP cannot send nothing: one zero byte under a type that says empty (RFC 8831 §6.6).
        let (ppid, data): (_, &[u8]) = match (binary, data.is_empty()) {
            (false, false) => (Ppid::String, data),
            (true, false) => (Ppid::Binary, data),
            (false, true) => (Ppid::StringEmpty, &[0]),
            (true, true) => (Ppid::BinaryEmpty, &[0]),
        };
        let written = self.sctp.write(channel, ppid, data);
        self.pump();
        if written { Ok(()) } else { Err(SendError::NotOpen) }
    }

    /// Closes one data channel; the peer is told.
    pub fn close_channel(&mut self, now: Instant, channel: u16) {
        self.advance(now);
        if self.channels.remove(&channel).is_some() {
            self.sctp.close_stream(channel);
        }
        self.pump();
    }

    /// Closes the connection: as soon as every message has arrived, or after two seconds, the peer is told by SCTP's
    /// SHUTDOWN and by DTLS's close_notify.
    pub fn close(&mut self, now: Instant) {
        self.advance(now);
        if self.state == State::Open {
            self.state = State::Closing(self.now + CLOSE_WAIT);
            self.pump();
        }
    }

    /// What there is to do, until `Timeout`.
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| Output::Timeout(self.deadline()))
    }

    /// Bytes of messages that the peer has not acknowledged.
    pub fn buffered_amount(&mut self, channel: u16) -> usize {
        self.sctp.buffered(channel)
    }

    /// The data channel with our label, or else the first one that is open.
    pub fn open_channel(&self) -> Option<u16> {
        let ours = self.channels.iter().find(|(_, label)| **label == self.config.label);
        ours.or_else(|| self.channels.iter().next()).map(|(channel, _)| *channel)
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn deadline(&self) -> Instant {
        let idle = self.now + IDLE;
        if self.state == State::Closed {
            return idle;
        }
        let closing = if let State::Closing(until) = self.state { Some(until) } else { None };
        [self.dtls.deadline(), self.sctp.deadline(), closing].into_iter().flatten().fold(idle, Instant::min)
    }

    /// Carries everything between DTLS and SCTP until both are quiet.
    fn pump(&mut self) {
        loop {
            while let Some(output) = self.dtls_outputs.pop_front() {
                self.take_from_dtls(output);
            }
            if self.state == State::Closed {
                return;
            }
            while let Some(output) = self.sctp.poll() {
                self.take_from_sctp(output);
            }
            while let Some(packets) = self.sctp.poll_transmit(self.now) {
                for packet in packets {
                    self.dtls.send(&packet, &mut self.dtls_outputs);
                    // Sent at once, so that dimpl's transmit queue never fills.
                    while let Some(output) = self.dtls_outputs.pop_front() {
                        self.take_from_dtls(output);
                    }
                }
            }
            self.close_when_sent();
            if self.dtls_outputs.is_empty() {
                return;
            }
        }
    }

    fn take_from_dtls(&mut self, output: dtls::Output) {
        match output {
            dtls::Output::Datagram(datagram) => self.outputs.push_back(Output::Transmit(datagram)),
            dtls::Output::Data(packet) => self.sctp.handle_packet(self.now, packet),
            dtls::Output::State(state) => {
                self.outputs.push_back(Output::Event(EventKind::Dtls { state: state.clone() }));
                match state {
                    DtlsState::Connected { .. } => {
                        if let Err(error) = self.sctp.start(self.now, &self.config) {
                            self.end(&format!("{error:#}"));
                        }
                    }
                    DtlsState::Failed { detail } => self.end(&detail),
                    DtlsState::Closed => self.end("closed by the peer"),
                    DtlsState::Started { .. }
                    | DtlsState::FingerprintVerified
                    | DtlsState::FingerprintMismatch { .. } => {}
                }
            }
        }
    }

    fn take_from_sctp(&mut self, output: sctp::Output) {
        match output {
            sctp::Output::Established => {
                if self.config.offerer {
                    self.open();
                }
                for (stream, ppid, data) in self.early.take().into_iter().flatten() {
                    self.take_message(stream, ppid, data);
                }
            }
            sctp::Output::Message { stream, ppid, data } => {
                let mut next = Some((ppid, data));
                while let Some((ppid, data)) = next.take() {
                    self.take_message(stream, ppid, data);
                    if let Some(sctp::Output::Message { ppid, data, .. }) = self.sctp.read(stream) {
                        next = Some((ppid, data));
                    }
                }
            }
            sctp::Output::StreamClosed { stream } => {
                if self.channels.remove(&stream).is_some() {
                    self.outputs.push_back(Output::ChannelClosed { channel: stream });
                    let detail = "closed by the peer".to_owned();
                    self.outputs.push_back(Output::Event(EventKind::ChannelClosed { detail }));
                }
            }
            sctp::Output::Lost { reason } => {
                self.dtls.close(&mut self.dtls_outputs);
                self.end(&reason);
            }
        }
    }

    /// Opens our data channel. Messages may follow at once, in order behind the DATA_CHANNEL_OPEN (RFC 8832 §6).
    fn open(&mut self) {
        // RFC 8832 §6: the DTLS client takes even streams, the server odd ones.
        let stream = u16::from(!self.config.dtls_client);
        let open = Dcep::Open(Open::reliable(&self.config.label)).encode();
        if self.sctp.open_stream(stream) && self.sctp.write(stream, Ppid::Dcep, &open) {
            self.opened(stream, self.config.label.clone());
        }
    }

    fn opened(&mut self, stream: u16, label: String) {
        self.channels.insert(stream, label.clone());
        self.outputs.push_back(Output::Event(EventKind::ChannelOpened { label: label.clone() }));
        self.outputs.push_back(Output::Opened { channel: stream, label });
    }

    fn take_message(&mut self, stream: u16, ppid: Ppid, data: Vec<u8>) {
        if let Some(early) = &mut self.early {
            early.push((stream, ppid, data));
            if early.len() > MAX_EARLY {
                self.dtls.close(&mut self.dtls_outputs);
                self.end("the peer sends data but does not complete the SCTP handshake");
            }
            return;
        }
        let (binary, data) = match ppid {
            Ppid::Dcep => return self.take_dcep(stream, &data),
            Ppid::String => (false, data),
            Ppid::Binary => (true, data),
            Ppid::StringEmpty => (false, Vec::new()),
            Ppid::BinaryEmpty => (true, Vec::new()),
            // Unknown types are ignored (RFC 8831 §6.6).
            Ppid::Unknown => return,
        };
        if self.channels.contains_key(&stream) {
            self.outputs.push_back(Output::Message { channel: stream, binary, data });
        }
    }

    fn take_dcep(&mut self, stream: u16, data: &[u8]) {
        match Dcep::decode(data) {
            // Already open: a peer that opens twice is answered twice.
            Some(Dcep::Open(open)) => {
                if self.channels.len() >= MAX_CHANNELS && !self.channels.contains_key(&stream) {
                    self.sctp.close_stream(stream);
                    return;
                }
                self.sctp.write(stream, Ppid::Dcep, &Dcep::Ack.encode());
                if !self.channels.contains_key(&stream) {
                    self.opened(stream, open.label);
                }
            }
            // We have not waited for it.
            Some(Dcep::Ack) | None => {}
        }
    }

    fn close_when_sent(&mut self) {
        let State::Closing(until) = self.state else { return };
        let unsent: usize = self.channels.keys().copied().map(|stream| self.sctp.buffered(stream)).sum();
        if unsent > 0 && self.now < until {
            return;
        }
        self.sctp.shutdown();
        while let Some(packets) = self.sctp.poll_transmit(self.now) {
            for packet in packets {
                self.dtls.send(&packet, &mut self.dtls_outputs);
            }
        }
        self.dtls.close(&mut self.dtls_outputs);
        let outputs = std::mem::take(&mut self.dtls_outputs);
        for output in outputs {
            match output {
                dtls::Output::Datagram(datagram) => self.outputs.push_back(Output::Transmit(datagram)),
                dtls::Output::State(state) => self.outputs.push_back(Output::Event(EventKind::Dtls { state })),
                dtls::Output::Data(_) => {}
            }
        }
        self.end("closed by this side");
    }

    fn end(&mut self, detail: &str) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Closed;
        if !self.channels.is_empty() {
            self.channels.clear();
            self.outputs.push_back(Output::Event(EventKind::ChannelClosed { detail: detail.to_owned() }));
        }
        self.outputs.push_back(Output::Closed);
    }
}
