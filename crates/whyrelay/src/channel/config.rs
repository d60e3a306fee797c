//! What a connection needs to know of both descriptions.

use std::time::Duration;

use bytes::Bytes;
use whyrelay_core::sdp::{DtlsRole, Fingerprint, SdpError, SessionDescription};

use super::Certificate;

/// Which DTLS versions are offered and taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DtlsVersions {
    /// 1.3, or 1.2 where the peer has no 1.3.
    #[default]
    Any,
    /// 1.2 (`--dtls 1.2`).
    Only12,
    /// 1.3.
    Only13,
}

/// What a [`Channel`](super::Channel) needs to know.
#[derive(Clone, Debug)]
pub struct ChannelConfig {
    /// Whether this side sends the ClientHello: [`whyrelay_core::sdp::DtlsRole::Client`].
    pub dtls_client: bool,
    /// Whether this side made the offer; the offerer opens the data channel.
    pub offerer: bool,
    /// The versions of DTLS.
    pub versions: DtlsVersions,
    /// Our certificate.
    pub certificate: Certificate,
    /// The fingerprints in the peer's description: its certificate must match one.
    pub fingerprints: Vec<Fingerprint>,
    /// The label of the data channel that the offerer opens.
    pub label: String,
    /// Our `a=sctp-port`.
    pub local_sctp_port: u16,
    /// The peer's.
    pub remote_sctp_port: u16,
    /// The largest message that the peer takes, in bytes; `None` for any.
    pub max_message_size: Option<u64>,
    /// The round trip that ICE measured, to be set: tells how soon a lost handshake message is repeated.
    pub round_trip: Option<Duration>,
    /// The INIT chunks of our and of the peer's description (`a=sctp-init`), where both have one.
    pub sctp_init: Option<(Bytes, Bytes)>,
}

impl ChannelConfig {
    /// What follows from both descriptions.
    ///
    /// # Errors
    /// When the descriptions' DTLS roles exclude each other.
    pub fn from_descriptions(
        local: &SessionDescription,
        remote: &SessionDescription,
        offerer: bool,
        certificate: Certificate,
    ) -> Result<Self, SdpError> {
        let dtls_client = DtlsRole::negotiate(local.setup, remote.setup)? == DtlsRole::Client;
        let sctp_init = local.sctp_init.clone().zip(remote.sctp_init.clone());
        Ok(Self {
            local_sctp_port: local.sctp_port,
            remote_sctp_port: remote.sctp_port,
            max_message_size: remote.max_message_size,
            sctp_init: sctp_init.map(|(local, remote)| (Bytes::from(local), Bytes::from(remote))),
            ..Self::new(dtls_client, offerer, certificate, remote.fingerprints.clone())
        })
    }

    /// What both sides have where their descriptions say nothing else.
    pub fn new(dtls_client: bool, offerer: bool, certificate: Certificate, fingerprints: Vec<Fingerprint>) -> Self {
        Self {
            dtls_client,
            offerer,
            versions: DtlsVersions::Any,
            certificate,
            fingerprints,
            label: "testChannel".to_owned(),
            local_sctp_port: whyrelay_core::sdp::SCTP_PORT,
            remote_sctp_port: whyrelay_core::sdp::SCTP_PORT,
            max_message_size: Some(whyrelay_core::sdp::DEFAULT_MAX_MESSAGE_SIZE),
            round_trip: None,
            sctp_init: None,
        }
    }
}
