//! Reading a session description: sections first, then the attributes of the data channel's one.

use base64::Engine as _;

use super::{
    DEFAULT_MAX_MESSAGE_SIZE, Fingerprint, IcePassword, MAX_CANDIDATES, MAX_LENGTH, OtherMedia, Protocol, SCTP_PORT,
    SdpError, SdpType, SessionDescription, Setup,
};
use crate::ice::candidate::Candidate;

/// One `m=` line and what follows it.
struct Section<'a> {
    media: &'a str,
    port: &'a str,
    protocol: &'a str,
    formats: &'a str,
    lines: Vec<&'a str>,
}

impl<'a> Section<'a> {
    fn new(line: &'a str) -> Self {
        let mut words = line.splitn(4, ' ');
        let mut next = || words.next().unwrap_or_default().trim();
        Self { media: next(), port: next(), protocol: next(), formats: next(), lines: Vec::new() }
    }

    /// The protocol, if this is a data channel's section.
    fn data_channel(&self) -> Option<Protocol> {
        if !self.media.eq_ignore_ascii_case("application") {
            return None;
        }
        match self.protocol.to_ascii_uppercase().as_str() {
            "UDP/DTLS/SCTP" => Some(Protocol::UdpDtlsSctp),
            "TCP/DTLS/SCTP" => Some(Protocol::TcpDtlsSctp),
            "DTLS/SCTP" => Some(Protocol::DtlsSctp),
            _ => None,
        }
    }
}

/// The attributes of the session and of one section.
struct Attributes<'a> {
    session: &'a [&'a str],
    section: &'a [&'a str],
}

impl<'a> Attributes<'a> {
    /// Values of `a=name:value` in the section, or where it has none, at the session level.
    fn values(&self, name: &str) -> Vec<&'a str> {
        let of = |lines: &'a [&'a str]| -> Vec<&'a str> { lines.iter().filter_map(|line| value(line, name)).collect() };
        let values = of(self.section);
        if values.is_empty() { of(self.session) } else { values }
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.values(name).into_iter().next()
    }
}

/// The value of an attribute line, empty for a property like `a=ice-lite`.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = line.strip_prefix("a=")?.strip_prefix(name)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix(':').map(str::trim) }
}

pub(super) fn parse(kind: SdpType, text: &str) -> Result<SessionDescription, SdpError> {
    if text.len() > MAX_LENGTH {
        return Err(SdpError::TooLong(text.len()));
    }
    let mut lines = text.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty());
    if lines.next() != Some("v=0") {
        return Err(SdpError::NotSdp);
    }
    let mut session = Vec::new();
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in lines {
        if let Some(media) = line.strip_prefix("m=") {
            sections.push(Section::new(media));
        } else {
            sections.last_mut().map_or(&mut session, |section| &mut section.lines).push(line);
        }
    }

    let is_usable = |section: &Section<'_>| {
        section.data_channel().is_some()
            // Port 0 with bundle-only is no rejection (RFC 9143 §6).
            && (section.port != "0" || section.lines.contains(&"a=bundle-only"))
    };
    let Some(index) = sections.iter().position(is_usable) else {
        if sections.iter().any(|section| section.data_channel().is_some()) {
            return Err(SdpError::DataChannelRejected);
        }
        let media = sections.iter().take(16).map(|section| shorten(section.media)).collect();
        return Err(SdpError::NoDataChannel { media });
    };
    let data = sections.remove(index);
    let attributes = Attributes { session: &session, section: &data.lines };
    let protocol = data.data_channel().unwrap_or(Protocol::UdpDtlsSctp);

    let mut description = SessionDescription {
        session_id: 0,
        session_version: 0,
        ufrag: credential(&attributes, "ice-ufrag", 4)?.to_owned(),
        password: IcePassword::new(credential(&attributes, "ice-pwd", 22)?),
        ice_options: ice_options(&session, &data.lines),
        ice_lite: attributes.value("ice-lite").is_some(),
        setup: setup(kind, attributes.value("setup"))?,
        fingerprints: fingerprints(&attributes)?,
        mid: mid(&data.lines),
        bundled: false,
        protocol,
        sctp_port: sctp_port(protocol, data.formats, &attributes)?,
        max_message_size: match attributes.value("max-message-size").map(str::parse) {
            Some(Ok(0)) => None,
            Some(Ok(size)) => Some(size),
            Some(Err(_)) | None => Some(DEFAULT_MAX_MESSAGE_SIZE),
        },
        sctp_init: attributes
            .value("sctp-init")
            .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok()),
        candidates: Vec::new(),
        refused_candidates: Vec::new(),
        end_of_candidates: attributes.value("end-of-candidates").is_some(),
        section: index,
        other_media: sections.iter().take(MAX_OTHER_MEDIA).map(other_media).collect(),
    };
    if let Some(mid) = &description.mid {
        let groups = session.iter().filter_map(|line| value(line, "group"));
        description.bundled = groups
            .filter_map(|group| group.strip_prefix("BUNDLE"))
            .any(|mids| mids.split_ascii_whitespace().any(|each| each == mid));
    }
    if let Some(origin) = session.iter().find_map(|line| line.strip_prefix("o=")) {
        let mut words = origin.split_ascii_whitespace().skip(1);
        description.session_id = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        description.session_version = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    }
    for line in attributes.values("candidate") {
        if description.candidates.len() + description.refused_candidates.len() == MAX_CANDIDATES {
            break;
        }
        match line.parse::<Candidate>() {
            Ok(candidate) => description.candidates.push(candidate),
            Err(error) => description.refused_candidates.push(error),
        }
    }
    Ok(description)
}

/// Most other sections that are kept for the answer; a browser's offer has at most some dozens.
const MAX_OTHER_MEDIA: usize = 64;

fn other_media(section: &Section<'_>) -> OtherMedia {
    OtherMedia {
        media: section.media.to_owned(),
        protocol: section.protocol.to_owned(),
        formats: section.formats.to_owned(),
        mid: mid(&section.lines),
    }
}

fn mid(lines: &[&str]) -> Option<String> {
    lines.iter().find_map(|line| value(line, "mid")).filter(|mid| !mid.is_empty()).map(str::to_owned)
}

/// Session and section add up: RFC 8839 §5.6 has them at the session level, browsers write them in the section.
fn ice_options(session: &[&str], section: &[&str]) -> Vec<String> {
    let lines = session.iter().chain(section).filter_map(|line| value(line, "ice-options"));
    let mut options: Vec<String> = Vec::new();
    for option in lines.flat_map(str::split_ascii_whitespace) {
        if !options.iter().any(|known| known == option) {
            options.push(option.to_owned());
        }
    }
    options
}

fn credential<'a>(attributes: &Attributes<'a>, name: &'static str, shortest: usize) -> Result<&'a str, SdpError> {
    let text = attributes.value(name).ok_or(SdpError::Missing(name))?;
    // RFC 8839 §5.4 has ice-chars only; some peers use more of ASCII, and only the colon would be ambiguous.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic()) && !(name == "ice-ufrag" && text.contains(':'));
    if (shortest..=256).contains(&text.len()) && is_plain { Ok(text) } else { Err(SdpError::BadCredential(name)) }
}

fn setup(kind: SdpType, text: Option<&str>) -> Result<Setup, SdpError> {
    Ok(match text {
        Some("actpass") => Setup::Actpass,
        Some("active") => Setup::Active,
        Some("passive") => Setup::Passive,
        Some(other) => return Err(SdpError::Invalid { attribute: "setup", found: shorten(other) }),
        None if kind == SdpType::Offer => Setup::Actpass,
        None => Setup::Active,
    })
}

fn fingerprints(attributes: &Attributes<'_>) -> Result<Vec<Fingerprint>, SdpError> {
    let mut fingerprints = Vec::new();
    // More than a handful is nobody's: one per hash function and certificate.
    for text in attributes.values("fingerprint").into_iter().take(16) {
        let bad = |_| SdpError::Invalid { attribute: "fingerprint", found: shorten(text) };
        fingerprints.push(text.parse::<Fingerprint>().map_err(bad)?);
    }
    if fingerprints.is_empty() {
        return Err(SdpError::Missing("fingerprint"));
    }
    if !fingerprints.iter().any(Fingerprint::is_known) {
        let found = fingerprints.iter().map(|fingerprint| fingerprint.hash.name().to_owned()).collect();
        return Err(SdpError::NoKnownFingerprint { found });
    }
    Ok(fingerprints)
}

fn sctp_port(protocol: Protocol, formats: &str, attributes: &Attributes<'_>) -> Result<u16, SdpError> {
    let (attribute, text) = if protocol == Protocol::DtlsSctp {
        ("sctpmap", formats.split_ascii_whitespace().next())
    } else {
        ("sctp-port", attributes.value("sctp-port"))
    };
    match text.map(str::parse::<u16>) {
        None => Ok(SCTP_PORT),
        Some(Ok(port)) if port != 0 => Ok(port),
        Some(_) => Err(SdpError::Invalid { attribute, found: shorten(text.unwrap_or_default()) }),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}
