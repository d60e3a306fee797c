//! The DTLS connection: dimpl, driven so that every input is followed by draining its outputs, and the peer's
//! certificate held against the fingerprints of its description before anything else gets through.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dimpl::{Config, Dtls, Error, Output as DimplOutput, ProtocolVersion, UnexpectedMessageError};
use whyrelay_core::sdp::Fingerprint;
use whyrelay_core::trace::event::DtlsState;
use whyrelay_core::wire::dtls::{self, Content};

use super::{ChannelConfig, DtlsVersions, MAX_DATAGRAM};

/// What the connection gives.
#[derive(Debug)]
pub(super) enum Output {
    /// A datagram for the peer.
    Datagram(Vec<u8>),
    /// Decrypted data: one SCTP packet.
    Data(Vec<u8>),
    /// The connection went on. `Connected` comes at most once and only after `FingerprintVerified`.
    State(DtlsState),
}

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Entered by creation, left by dimpl's `Connected` with a verified certificate, or an error.
    Handshaking,
    /// Data goes both ways; left by either side's close or an error.
    Connected,
    /// Nothing goes in or out any more.
    Ended,
}

/// One DTLS connection.
pub(super) struct DtlsTransport {
    dtls: Dtls,
    state: State,
    verified: bool,
    fingerprints: Vec<Fingerprint>,
    buffer: Vec<u8>,
    deadline: Option<Instant>,
}

impl DtlsTransport {
    pub(super) fn new(now: Instant, config: &ChannelConfig, out: &mut VecDeque<Output>) -> anyhow::Result<Self> {
        let dimpl_config = Config::builder()
            .mtu(MAX_DATAGRAM)
            // The cookie costs a round trip and protects against spoofed sources; ICE has proved the peer's already.
            .use_server_cookie(false)
            .flight_start_rto(first_retransmission(config.round_trip))
            // From 100 ms doubling: 12 s, so that the handshake's own limit or the session's comes first.
            .flight_retries(FLIGHT_RETRIES)
            .max_queue_rx(RECEIVE_QUEUE)
            .max_queue_tx(TRANSMIT_QUEUE)
            .build()
            .context("configure DTLS")?;
        let dimpl_config = Arc::new(dimpl_config);
        let certificate = config.certificate.inner.clone();
        let mut dtls = match config.versions {
            DtlsVersions::Any => Dtls::new_auto(dimpl_config, certificate, now),
            DtlsVersions::Only12 => Dtls::new_12(dimpl_config, certificate, now),
            DtlsVersions::Only13 => Dtls::new_13(dimpl_config, certificate, now),
        };
        dtls.set_active(config.dtls_client);
        let mut this = Self {
            dtls,
            state: State::Handshaking,
            verified: false,
            fingerprints: config.fingerprints.clone(),
            buffer: vec![0; 4096],
            deadline: None,
        };
        out.push_back(Output::State(DtlsState::Started { client: config.dtls_client }));
        this.handle_timeout(now, out);
        Ok(this)
    }

    pub(super) fn handle_datagram(&mut self, now: Instant, datagram: &[u8], out: &mut VecDeque<Output>) {
        if self.state == State::Ended || (self.state == State::Handshaking && !self.admits(datagram)) {
            return;
        }
        // dimpl takes its time from here for everything that the packet sets off.
        let result = self.dtls.handle_timeout(now).and_then(|()| self.dtls.handle_packet(datagram));
        self.settle(result, out);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        if self.state != State::Ended {
            let result = self.dtls.handle_timeout(now);
            self.settle(result, out);
        }
    }

    /// Encrypts one SCTP packet; drops it unless connected.
    pub(super) fn send(&mut self, data: &[u8], out: &mut VecDeque<Output>) {
        if self.state == State::Connected {
            let result = self.dtls.send_application_data(data).map(|_| ());
            self.settle(result, out);
        }
    }

    /// Says close_notify if connected, and ends.
    pub(super) fn close(&mut self, out: &mut VecDeque<Output>) {
        if self.state == State::Ended {
            return;
        }
        let was_connected = self.state == State::Connected;
        let result = self.dtls.close();
        self.settle(result, out);
        if was_connected && self.state != State::Ended {
            out.push_back(Output::State(DtlsState::Closed));
        }
        self.end();
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether a datagram can belong to the handshake. dimpl queues what it cannot use yet and stops at a full queue,
    /// so records that can never be used must not get there.
    fn admits(&self, datagram: &[u8]) -> bool {
        let Some(record) = dtls::records(datagram).into_iter().next() else { return false };
        match record.content {
            Content::ChangeCipherSpec | Content::Alert(_) | Content::Handshake(_) | Content::Ack => {
                // With this header DTLS 1.3 sends in the clear only (RFC 9147 §4); DTLS 1.2 also its Finished.
                record.epoch == 0 || self.dtls.protocol_version() == Some(ProtocolVersion::DTLS1_2)
            }
            Content::ApplicationData => self.dtls.protocol_version() == Some(ProtocolVersion::DTLS1_2),
            // dimpl drops it unless it has the keys.
            Content::Encrypted => true,
            Content::Unknown(_) => false,
        }
    }

    /// Drains dimpl after an input: its receive queue overflows otherwise.
    fn settle(&mut self, result: Result<(), Error>, out: &mut VecDeque<Output>) {
        match result {
            Ok(()) => {}
            // Left untouched by a packet that it did not want: a fragment that overtook the ServerHello, or noise. The
            // peer repeats what mattered.
            Err(
                Error::ReceiveQueueFull
                | Error::UnexpectedMessage(UnexpectedMessageError::UnrecognizedAutoServerResponse),
            ) if self.state == State::Handshaking => {}
            Err(error) => {
                self.drain(out);
                if self.state != State::Ended {
                    self.fail(describe(&error), out);
                }
                return;
            }
        }
        self.drain(out);
    }

    fn drain(&mut self, out: &mut VecDeque<Output>) {
        while self.state != State::Ended {
            match self.dtls.poll_output(&mut self.buffer) {
                DimplOutput::Packet(packet) => out.push_back(Output::Datagram(packet.to_vec())),
                DimplOutput::BufferTooSmall { needed } => self.buffer.resize(needed, 0),
                // dimpl gives none before `Connected`; the condition makes it not matter.
                DimplOutput::ApplicationData(data) if self.state == State::Connected => {
                    out.push_back(Output::Data(data.to_vec()));
                }
                DimplOutput::PeerCert(der) => {
                    if self.fingerprints.iter().any(|fingerprint| fingerprint.matches(der)) {
                        self.verified = true;
                        out.push_back(Output::State(DtlsState::FingerprintVerified));
                    } else {
                        let found = Fingerprint::of_certificate(der).to_string();
                        out.push_back(Output::State(DtlsState::FingerprintMismatch { found }));
                        self.fail("the peer's certificate is not the one of its description".into(), out);
                    }
                }
                DimplOutput::Connected if self.verified => {
                    self.state = State::Connected;
                    let version = version_name(self.dtls.protocol_version());
                    out.push_back(Output::State(DtlsState::Connected { version }));
                }
                DimplOutput::Connected => self.fail("the peer has shown no certificate".into(), out),
                DimplOutput::CloseNotify => {
                    out.push_back(Output::State(DtlsState::Closed));
                    // RFC 5246 §7.2.1: answer with our own and close.
                    let _ = self.dtls.close();
                    self.forward_packets(out);
                    self.end();
                }
                DimplOutput::Timeout(deadline) => {
                    self.deadline = Some(deadline);
                    return;
                }
                _ => {}
            }
        }
    }

    /// What is still to be sent after the end, like our close_notify.
    fn forward_packets(&mut self, out: &mut VecDeque<Output>) {
        loop {
            match self.dtls.poll_output(&mut self.buffer) {
                DimplOutput::Packet(packet) => out.push_back(Output::Datagram(packet.to_vec())),
                DimplOutput::BufferTooSmall { needed } => self.buffer.resize(needed, 0),
                DimplOutput::Timeout(_) => return,
                _ => {}
            }
        }
    }

    fn fail(&mut self, detail: String, out: &mut VecDeque<Output>) {
        out.push_back(Output::State(DtlsState::Failed { detail }));
        self.end();
    }

    fn end(&mut self) {
        self.state = State::Ended;
        self.deadline = None;
    }
}

/// Retransmissions of one flight.
const FLIGHT_RETRIES: usize = 7;
/// Datagrams dimpl keeps until the ones before them come; a whole handshake has about ten.
const RECEIVE_QUEUE: usize = 64;
/// Datagrams dimpl keeps until they are polled, which is after each input.
const TRANSMIT_QUEUE: usize = 64;

/// When to repeat the first flight: twice the round trip that ICE measured plus the time for signing on a slow
/// machine, within RFC 9147 §5.8.2's lower bound of 100 ms for a known round trip and its default of 1 s.
fn first_retransmission(round_trip: Option<Duration>) -> Duration {
    let default = Duration::from_secs(1);
    round_trip.map_or(default, |rtt| (rtt * 2 + Duration::from_millis(50)).clamp(Duration::from_millis(100), default))
}

fn version_name(version: Option<ProtocolVersion>) -> String {
    match version {
        Some(ProtocolVersion::DTLS1_2) => "DTLS 1.2".into(),
        Some(ProtocolVersion::DTLS1_3) => "DTLS 1.3".into(),
        other => format!("{other:?}"),
    }
}

/// dimpl's error in the words of a reader, with alerts by their registered name.
fn describe(error: &Error) -> String {
    match error {
        Error::SecurityError(dimpl::SecurityError::FatalAlert { description }) => {
            format!("the peer ended the handshake with the alert {}", alert_name(*description))
        }
        Error::Timeout(_) => "the peer does not answer the DTLS handshake".into(),
        other => other.to_string(),
    }
}

/// The name of an alert (RFC 8446 §6).
fn alert_name(description: u8) -> String {
    let name = match description {
        10 => "unexpected_message",
        20 => "bad_record_mac",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        109 => "missing_extension",
        116 => "certificate_required",
        _ => return description.to_string(),
    };
    format!("{name} ({description})")
}
