//! The session description of one data channel (RFC 8866, RFC 8839, RFC 8841, RFC 8842), read leniently.
//!
//! [`SessionDescription::parse`] finds the data channel's section wherever it stands and takes each attribute from
//! there or from the session level. What is written is accepted by browsers, Pion and aiortc as offer and as answer.

use std::fmt;

use crate::ice::Credentials;
use crate::ice::candidate::{BadCandidate, Candidate};
use crate::random::Random;

mod fingerprint;
mod parse;

pub use fingerprint::{BadFingerprint, Fingerprint, HashFunction};

/// Longest description that is read, in bytes; real ones have 500 to 8000.
pub const MAX_LENGTH: usize = 64 * 1024;

/// Most candidates that are taken from one description; a host with many interfaces has some dozens.
pub const MAX_CANDIDATES: usize = 256;

/// The SCTP port of data channels, by convention (RFC 8841 §5.1 has no default; every stack uses this one).
pub const SCTP_PORT: u16 = 5000;

/// What a peer that says nothing accepts in one message, in bytes (RFC 8841 §6.1).
pub const DEFAULT_MAX_MESSAGE_SIZE: u64 = 64 * 1024;

/// What we accept in one message, in bytes. More would have to be held while its pieces come in.
pub const OUR_MAX_MESSAGE_SIZE: u64 = 64 * 1024;

/// An ICE password (RFC 8839 §5.4). It shows itself only to who asks with [`IcePassword::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct IcePassword(String);

impl IcePassword {
    /// Wraps a password.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// The password itself, for the message integrity of checks.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IcePassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IcePassword(hidden)")
    }
}

/// `a=setup` (RFC 4145 §4, RFC 8842 §5.2): who opens the DTLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Setup {
    /// Either; only in offers.
    Actpass,
    /// The side that says so is the DTLS client.
    Active,
    /// The side that says so is the DTLS server.
    Passive,
}

impl Setup {
    /// The SDP spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Actpass => "actpass",
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }

    /// What an answer says to an offer that says this: active wherever there is a choice, because the answerer knows
    /// both descriptions first and so starts the handshake one way earlier (RFC 8842 §5.3).
    #[must_use]
    pub const fn answer(self) -> Self {
        match self {
            Self::Actpass | Self::Passive => Self::Active,
            Self::Active => Self::Passive,
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The DTLS role that follows from both descriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DtlsRole {
    /// Sends the ClientHello.
    Client,
    /// Waits for it.
    Server,
}

impl DtlsRole {
    /// The role of the side that said `local` to a peer that said `remote`.
    ///
    /// An answer that repeats `actpass` is against RFC 8842 §5.3 and means a peer that takes the offerer's view; the
    /// offerer then stays server, as browsers do.
    ///
    /// # Errors
    /// When both say active or both say passive.
    pub const fn negotiate(local: Setup, remote: Setup) -> Result<Self, SdpError> {
        match (local, remote) {
            (Setup::Active, Setup::Passive | Setup::Actpass) | (Setup::Actpass, Setup::Passive) => Ok(Self::Client),
            (Setup::Passive | Setup::Actpass, Setup::Active | Setup::Actpass) => Ok(Self::Server),
            (Setup::Active, Setup::Active) | (Setup::Passive, Setup::Passive) => {
                Err(SdpError::SetupConflict { local, remote })
            }
        }
    }
}

/// The transport protocol of the data channel's section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `UDP/DTLS/SCTP webrtc-datachannel` (RFC 8841 §4).
    UdpDtlsSctp,
    /// `TCP/DTLS/SCTP webrtc-datachannel` (RFC 8841 §4); the default candidate is a TCP one, nothing else differs.
    TcpDtlsSctp,
    /// `DTLS/SCTP 5000` with `a=sctpmap`, of draft-ietf-mmusic-sctp-sdp before its version 21.
    DtlsSctp,
}

/// A section that is not the data channel's: an answer must reject it in its place (RFC 3264 §6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherMedia {
    /// The media, like `audio`.
    pub media: String,
    /// The transport protocol, like `UDP/TLS/RTP/SAVPF`.
    pub protocol: String,
    /// The formats.
    pub formats: String,
    /// `a=mid`.
    pub mid: Option<String>,
}

/// What one side brings to its description.
#[derive(Clone, Debug)]
pub struct LocalParameters {
    /// The session id of `o=`.
    pub session_id: u64,
    /// The ICE user name fragment.
    pub ufrag: String,
    /// The ICE password.
    pub password: IcePassword,
    /// The fingerprint of our certificate.
    pub fingerprint: Fingerprint,
}

impl LocalParameters {
    /// Parameters with fresh credentials.
    pub fn generate(random: &mut Random, fingerprint: Fingerprint) -> Self {
        // Fits a signed 64-bit number, which some parsers take.
        let session_id = random.u64() >> 2;
        let credentials = Credentials::generate(random);
        let (ufrag, password) = (credentials.ufrag().to_owned(), IcePassword::new(credentials.password()));
        Self { session_id, ufrag, password, fingerprint }
    }
}

/// A session description of one data channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDescription {
    /// The session id of `o=`; 0 where it cannot be read.
    pub session_id: u64,
    /// The session version of `o=`: one more with each description of the same side.
    pub session_version: u64,
    /// The ICE user name fragment.
    pub ufrag: String,
    /// The ICE password.
    pub password: IcePassword,
    /// `a=ice-options`, like `trickle`.
    pub ice_options: Vec<String>,
    /// `a=ice-lite` (RFC 8445 §2.5): the peer only answers checks.
    pub ice_lite: bool,
    /// `a=setup`; where it is missing, what an offer (actpass) or an answer (active) most likely means.
    pub setup: Setup,
    /// The fingerprints, at least one: the certificate must match one of those whose hash function we know.
    pub fingerprints: Vec<Fingerprint>,
    /// `a=mid` of the data channel's section.
    pub mid: Option<String>,
    /// Whether its mid is in `a=group:BUNDLE`.
    pub bundled: bool,
    /// The protocol.
    pub protocol: Protocol,
    /// `a=sctp-port`.
    pub sctp_port: u16,
    /// The largest message the side accepts, in bytes; `None` is any size (`a=max-message-size:0`).
    pub max_message_size: Option<u64>,
    /// `a=sctp-init` (draft-hancke-tsvwg-snap): the side's SCTP INIT chunk, which saves two round trips when both
    /// sides bring one.
    pub sctp_init: Option<Vec<u8>>,
    /// The candidates in the description, in order.
    pub candidates: Vec<Candidate>,
    /// Candidate lines that were refused, with the reason.
    pub refused_candidates: Vec<BadCandidate>,
    /// `a=end-of-candidates` (RFC 8838 §8.2).
    pub end_of_candidates: bool,
    /// Where the data channel's section stands among all sections, from 0.
    pub section: usize,
    /// The other sections, in order.
    pub other_media: Vec<OtherMedia>,
}

/// Whether a description offers or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SdpType {
    /// An offer.
    Offer,
    /// An answer.
    Answer,
}

impl SessionDescription {
    /// Reads a description. Unknown lines are skipped, lines may end in `\r\n` or `\n`.
    ///
    /// # Errors
    /// When it is no description, is longer than [`MAX_LENGTH`], or cannot lead to a data channel.
    pub fn parse(kind: SdpType, text: &str) -> Result<Self, SdpError> {
        parse::parse(kind, text)
    }

    /// An offer of one data channel.
    pub fn offer(local: LocalParameters) -> Self {
        Self {
            session_id: local.session_id,
            session_version: 1,
            ufrag: local.ufrag,
            password: local.password,
            ice_options: vec!["trickle".into(), "ice2".into()],
            ice_lite: false,
            setup: Setup::Actpass,
            fingerprints: vec![local.fingerprint],
            mid: Some("0".into()),
            bundled: true,
            protocol: Protocol::UdpDtlsSctp,
            sctp_port: SCTP_PORT,
            max_message_size: Some(OUR_MAX_MESSAGE_SIZE),
            sctp_init: None,
            candidates: Vec::new(),
            refused_candidates: Vec::new(),
            end_of_candidates: false,
            section: 0,
            other_media: Vec::new(),
        }
    }

    /// The answer to `offer`: takes its data channel in its form, rejects its other sections.
    pub fn answer(offer: &Self, local: LocalParameters) -> Self {
        Self {
            setup: offer.setup.answer(),
            mid: offer.mid.clone(),
            bundled: offer.bundled,
            protocol: offer.protocol,
            section: offer.section,
            other_media: offer.other_media.clone(),
            ..Self::offer(local)
        }
    }

    /// Whether the side trickles candidates (RFC 8838 §4.1).
    pub fn trickles(&self) -> bool {
        self.ice_options.iter().any(|option| option == "trickle")
    }

    fn write_section(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::UdpDtlsSctp => f.write_str("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n")?,
            Protocol::TcpDtlsSctp => f.write_str("m=application 9 TCP/DTLS/SCTP webrtc-datachannel\r\n")?,
            Protocol::DtlsSctp => write!(f, "m=application 9 DTLS/SCTP {}\r\n", self.sctp_port)?,
        }
        f.write_str("c=IN IP4 0.0.0.0\r\n")?;
        if let Some(mid) = &self.mid {
            write!(f, "a=mid:{mid}\r\n")?;
        }
        write!(f, "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", self.ufrag, self.password.expose())?;
        if !self.ice_options.is_empty() {
            write!(f, "a=ice-options:{}\r\n", self.ice_options.join(" "))?;
        }
        for fingerprint in &self.fingerprints {
            write!(f, "a=fingerprint:{fingerprint}\r\n")?;
        }
        write!(f, "a=setup:{}\r\n", self.setup)?;
        if self.protocol == Protocol::DtlsSctp {
            write!(f, "a=sctpmap:{} webrtc-datachannel 65535\r\n", self.sctp_port)?;
        } else {
            write!(f, "a=sctp-port:{}\r\n", self.sctp_port)?;
        }
        // Zero stands for any size (RFC 8841 §6.1).
        write!(f, "a=max-message-size:{}\r\n", self.max_message_size.unwrap_or(0))?;
        if let Some(init) = &self.sctp_init {
            use base64::Engine as _;
            write!(f, "a=sctp-init:{}\r\n", base64::engine::general_purpose::STANDARD.encode(init))?;
        }
        for candidate in &self.candidates {
            write!(f, "a={candidate}\r\n")?;
        }
        if self.end_of_candidates { f.write_str("a=end-of-candidates\r\n") } else { Ok(()) }
    }
}

impl fmt::Display for SessionDescription {
    /// The description as it is signaled. It holds the ICE password: never log it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v=0\r\no=- {} {} IN IP4 127.0.0.1\r\n", self.session_id, self.session_version)?;
        f.write_str("s=-\r\nt=0 0\r\n")?;
        if let (true, Some(mid)) = (self.bundled, &self.mid) {
            write!(f, "a=group:BUNDLE {mid}\r\n")?;
        }
        if self.ice_lite {
            f.write_str("a=ice-lite\r\n")?;
        }
        let section = self.section.min(self.other_media.len());
        for (index, media) in self.other_media.iter().enumerate() {
            if index == section {
                self.write_section(f)?;
            }
            // Port 0 rejects the section (RFC 3264 §6).
            write!(
                f,
                "m={} 0 {} {}\r\nc=IN IP4 0.0.0.0\r\na=inactive\r\n",
                media.media, media.protocol, media.formats
            )?;
            if let Some(mid) = &media.mid {
                write!(f, "a=mid:{mid}\r\n")?;
            }
        }
        if section == self.other_media.len() { self.write_section(f) } else { Ok(()) }
    }
}

/// Why a description cannot be used. No variant shows the ICE password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Longer than [`MAX_LENGTH`].
    #[error("the session description has {0} bytes, at most {MAX_LENGTH} are read")]
    TooLong(usize),
    /// It does not begin with `v=0`.
    #[error("this is no session description: it does not begin with v=0")]
    NotSdp,
    /// There is no data channel in it.
    #[error("the session description has no data channel, only {}", list(.media))]
    NoDataChannel {
        /// The media it has.
        media: Vec<String>,
    },
    /// The data channel's section has port 0.
    #[error("the peer rejected the data channel")]
    DataChannelRejected,
    /// An attribute that must be there is not.
    #[error("the session description has no a={0}")]
    Missing(&'static str),
    /// An attribute is not what it should be.
    #[error("the a={attribute} of the session description is {found:?}")]
    Invalid {
        /// Which.
        attribute: &'static str,
        /// Its beginning.
        found: String,
    },
    /// An ICE credential has the wrong length or characters; it is not shown.
    #[error("the a={0} of the session description is not 4 to 256 (password: 22 to 256) printable characters")]
    BadCredential(&'static str),
    /// No fingerprint uses a hash function that we know.
    #[error("the certificate fingerprint uses {found:?}; sha-256, sha-384, sha-512 and sha-1 are known")]
    NoKnownFingerprint {
        /// The hash functions.
        found: Vec<String>,
    },
    /// Nobody or both would open the DTLS connection.
    #[error("this side says a=setup:{local} and the peer a=setup:{remote}: they exclude each other")]
    SetupConflict {
        /// Ours.
        local: Setup,
        /// The peer's.
        remote: Setup,
    },
}

fn list(media: &[String]) -> String {
    if media.is_empty() { "nothing at all".into() } else { media.join(", ") }
}

#[cfg(test)]
mod tests;
