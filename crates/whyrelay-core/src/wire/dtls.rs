//! DTLS records as far as the trace shows them: content type, epoch and, while it is in the clear, the handshake
//! message (RFC 6347 §4, RFC 9147 §4). Nothing is decrypted.

use serde::{Deserialize, Serialize};

/// What one DTLS record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The content type.
    pub content: Content,
    /// The version field, 0xFEFD for DTLS 1.2; absent from the unified header of DTLS 1.3.
    pub version: Option<u16>,
    /// The epoch; of the unified header only its low two bits are known.
    pub epoch: u16,
    /// Bytes of the record's body.
    pub length: u16,
}

/// The content type of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// ChangeCipherSpec (20).
    ChangeCipherSpec,
    /// Alert (21), with level and description while it is in the clear.
    Alert(Option<(u8, u8)>),
    /// Handshake (22), with the message type while it is in the clear.
    Handshake(Option<u8>),
    /// Application data (23).
    ApplicationData,
    /// ACK (26, RFC 9147 §7).
    Ack,
    /// Encrypted under DTLS 1.3's unified header: the type is hidden.
    Encrypted,
    /// A type that we do not know.
    Unknown(u8),
}

impl Content {
    /// A short name for a reader, like `ClientHello` or `application data`.
    pub fn name(self) -> String {
        match self {
            Self::ChangeCipherSpec => "ChangeCipherSpec".into(),
            Self::Alert(Some((level, description))) => format!("alert {level}/{description}"),
            Self::Alert(None) => "alert (encrypted)".into(),
            Self::Handshake(None) => "handshake (encrypted)".into(),
            Self::Handshake(Some(kind)) => match handshake_name(kind) {
                Some(name) => name.into(),
                None => format!("handshake {kind}"),
            },
            Self::ApplicationData => "application data".into(),
            Self::Ack => "ACK".into(),
            Self::Encrypted => "encrypted record".into(),
            Self::Unknown(kind) => format!("record type {kind}"),
        }
    }
}

/// The registered name of a handshake message type.
pub const fn handshake_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0 => "HelloRequest",
        1 => "ClientHello",
        2 => "ServerHello",
        3 => "HelloVerifyRequest",
        4 => "NewSessionTicket",
        8 => "EncryptedExtensions",
        11 => "Certificate",
        12 => "ServerKeyExchange",
        13 => "CertificateRequest",
        14 => "ServerHelloDone",
        15 => "CertificateVerify",
        16 => "ClientKeyExchange",
        20 => "Finished",
        _ => return None,
    })
}

/// The records of one datagram, as far as they can be read; stops at the first that does not fit.
pub fn records(datagram: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut rest = datagram;
    while let Some((record, length)) = read_record(rest) {
        records.push(record);
        rest = &rest[length..];
    }
    records
}

/// The content type of DTLS 1.2 records with a connection id (RFC 9146 §3).
const TLS12_CID: u8 = 25;

/// One record and how many bytes it takes.
fn read_record(bytes: &[u8]) -> Option<(Record, usize)> {
    let first = *bytes.first()?;
    if first & 0xE0 == 0x20 {
        return read_unified(bytes, first);
    }
    let header = bytes.first_chunk::<13>()?;
    let version = u16::from_be_bytes([header[1], header[2]]);
    let epoch = u16::from_be_bytes([header[3], header[4]]);
    let length = u16::from_be_bytes([header[11], header[12]]);
    if first == TLS12_CID {
        // The connection id stands between sequence number and length, and its length is not on the wire
        // (RFC 9146 §4): what these two bytes say is not the length, so the record takes the rest.
        let length = (bytes.len() - 13) as u16;
        return Some((Record { content: Content::Unknown(first), version: Some(version), epoch, length }, bytes.len()));
    }
    let body = bytes.get(13..13 + usize::from(length))?;
    let clear = epoch == 0;
    let content = match first {
        20 => Content::ChangeCipherSpec,
        21 => Content::Alert(if clear { body.first_chunk::<2>().map(|alert| (alert[0], alert[1])) } else { None }),
        22 => Content::Handshake(if clear { body.first().copied() } else { None }),
        23 => Content::ApplicationData,
        26 => Content::Ack,
        other => Content::Unknown(other),
    };
    Some((Record { content, version: Some(version), epoch, length }, 13 + usize::from(length)))
}

/// The unified header of DTLS 1.3: `001CSLEE` (RFC 9147 §4, figure 3). `None` when the datagram ends inside it or the
/// record claims more than there is.
fn read_unified(bytes: &[u8], first: u8) -> Option<(Record, usize)> {
    let record = |length: usize| Record {
        content: Content::Encrypted,
        version: None,
        epoch: u16::from(first & 0x03),
        length: length as u16,
    };
    if first & 0x10 != 0 {
        // A connection id, whose length is not on the wire, comes first: where the record ends cannot be known.
        return Some((record(bytes.len() - 1), bytes.len()));
    }
    let sequence = if first & 0x08 != 0 { 2 } else { 1 };
    let rest = bytes.get(1 + sequence..)?;
    if first & 0x04 == 0 {
        return Some((record(rest.len()), bytes.len()));
    }
    let field = rest.first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*field));
    rest.get(2..2 + length)?;
    Some((record(length), 1 + sequence + 2 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_type_shows_only_while_it_is_in_the_clear() {
        let clear = [&[22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2][..], &[1, 0]].concat();
        let hidden = [&[22, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2][..], &[1, 0]].concat();
        let both = [clear, hidden].concat();
        let contents: Vec<_> = records(&both).iter().map(|record| record.content).collect();
        assert_eq!(contents, [Content::Handshake(Some(1)), Content::Handshake(None)]);
        assert_eq!(contents[0].name(), "ClientHello");
    }

    #[test]
    fn a_unified_header_without_length_takes_the_rest() {
        let records = records(&[0b0010_1010, 0, 1, 9, 9, 9]);
        assert_eq!(records, [Record { content: Content::Encrypted, version: None, epoch: 2, length: 3 }]);
    }

    #[test]
    fn a_record_longer_than_the_datagram_is_not_read() {
        assert_eq!(records(&[22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1]), []);
    }
}
