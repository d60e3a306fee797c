//! One line for a reader about a STUN message, broken or not.

use std::fmt::{self, Write as _};

use super::attribute::{self, AttributeType};
use super::stun::{Class, Message, RawAttribute};
use super::turn::ChannelNumber;

/// Attributes and defects that are spelled out; the rest is counted. A sound message has about ten.
const MAX_LISTED: usize = 24;

/// Characters of a text attribute that are shown: a peer may send 763 bytes of anything.
const MAX_TEXT: usize = 64;

impl Message<'_> {
    /// What this message says and what is wrong with it, on one line of printable characters.
    ///
    /// Known attributes show their values, unknown ones their type and length. Integrity values never show, and
    /// neither do DATA and RESERVATION-TOKEN. Attributes that a receiver must ignore because they stand behind the
    /// integrity attribute (RFC 8489 §14.5) are marked `ignored`.
    ///
    /// ```text
    /// Binding indication 070707070707070707070707, no attributes
    /// ```
    pub fn describe(&self) -> String {
        let mut line = format!("{} {} {}", self.method, class_name(self.class), self.transaction);
        if self.attributes.is_empty() {
            line.push_str(", no attributes");
        }
        for (index, raw) in self.attributes.iter().take(MAX_LISTED).enumerate() {
            line.push_str(if index == 0 { ": " } else { ", " });
            // Writing to a String cannot fail.
            let _ = self.describe_attribute(&mut line, raw);
            if !self.counts(raw) {
                line.push_str(" (ignored)");
            }
        }
        more(&mut line, self.attributes.len());
        for (index, defect) in self.defects.iter().take(MAX_LISTED).enumerate() {
            line.push_str(if index == 0 { "; wrong: " } else { ", " });
            let _ = write!(line, "{defect}");
        }
        more(&mut line, self.defects.len());
        line
    }

    fn describe_attribute(&self, line: &mut String, raw: &RawAttribute<'_>) -> fmt::Result {
        let RawAttribute { kind, value, .. } = *raw;
        write!(line, "{kind}")?;
        let number = || value.try_into().ok().map(u32::from_be_bytes);
        match kind {
            AttributeType::XOR_MAPPED_ADDRESS
            | AttributeType::XOR_PEER_ADDRESS
            | AttributeType::XOR_RELAYED_ADDRESS => match attribute::read_xor_address(value, self.transaction) {
                Some(address) => write!(line, " {address}"),
                None => malformed(line, value),
            },
            AttributeType::MAPPED_ADDRESS
            | AttributeType::OTHER_ADDRESS
            | AttributeType::RESPONSE_ORIGIN
            | AttributeType::ALTERNATE_SERVER => match attribute::read_address(value) {
                Some(address) => write!(line, " {address}"),
                None => malformed(line, value),
            },
            AttributeType::USERNAME
            | AttributeType::REALM
            | AttributeType::NONCE
            | AttributeType::SOFTWARE
            | AttributeType::ALTERNATE_DOMAIN => text(line, value),
            AttributeType::PRIORITY => match number() {
                Some(number) => write!(line, " {number}"),
                None => malformed(line, value),
            },
            AttributeType::LIFETIME => match number() {
                Some(number) => write!(line, " {number} s"),
                None => malformed(line, value),
            },
            AttributeType::ERROR_CODE => match value {
                [_, _, class, number, reason @ ..] => {
                    write!(line, " {}", u16::from(class & 0x07) * 100 + u16::from(*number))?;
                    text(line, reason)
                }
                _ => malformed(line, value),
            },
            AttributeType::UNKNOWN_ATTRIBUTES => {
                let kinds = value.chunks_exact(2).take(MAX_LISTED);
                kinds
                    .map(|kind| AttributeType(u16::from_be_bytes([kind[0], kind[1]])))
                    .try_for_each(|k| write!(line, " {k}"))
            }
            AttributeType::CHANNEL_NUMBER => match ChannelNumber::read(value) {
                Some(channel) => write!(line, " 0x{:04x}", channel.number()),
                None => malformed(line, value),
            },
            AttributeType::REQUESTED_TRANSPORT => match value {
                [17, _, _, _] => line.write_str(" UDP"),
                [6, _, _, _] => line.write_str(" TCP"),
                [protocol, _, _, _] => write!(line, " protocol {protocol}"),
                _ => malformed(line, value),
            },
            AttributeType::REQUESTED_ADDRESS_FAMILY | AttributeType::ADDITIONAL_ADDRESS_FAMILY => match value {
                [0x01, _, _, _] => line.write_str(" IPv4"),
                [0x02, _, _, _] => line.write_str(" IPv6"),
                [family, _, _, _] => write!(line, " family {family}"),
                _ => malformed(line, value),
            },
            AttributeType::CHANGE_REQUEST => match number() {
                Some(flags) => {
                    let of = |bit: u32, name| if flags & bit == 0 { "" } else { name };
                    write!(line, "{}{}", of(0x04, " address"), of(0x02, " port"))
                }
                None => malformed(line, value),
            },
            AttributeType::ICE_CONTROLLED | AttributeType::ICE_CONTROLLING => match value.try_into() {
                Ok(tie_breaker) => write!(line, " {:016x}", u64::from_be_bytes(tie_breaker)),
                Err(_) => malformed(line, value),
            },
            // Values that must not show, or say nothing.
            AttributeType::MESSAGE_INTEGRITY
            | AttributeType::MESSAGE_INTEGRITY_SHA256
            | AttributeType::FINGERPRINT
            | AttributeType::USE_CANDIDATE
            | AttributeType::DONT_FRAGMENT => Ok(()),
            _ => write!(line, " ({} bytes)", value.len()),
        }
    }
}

const fn class_name(class: Class) -> &'static str {
    match class {
        Class::Request => "request",
        Class::Indication => "indication",
        Class::Success => "success response",
        Class::Error => "error response",
    }
}

fn more(line: &mut String, count: usize) {
    if count > MAX_LISTED {
        let _ = write!(line, " and {} more", count - MAX_LISTED);
    }
}

fn malformed(line: &mut String, value: &[u8]) -> fmt::Result {
    write!(line, " malformed ({} bytes)", value.len())
}

/// Text in quotes with everything unprintable escaped, cut to [`MAX_TEXT`] characters.
fn text(line: &mut String, value: &[u8]) -> fmt::Result {
    let text = String::from_utf8_lossy(value);
    let mut shown: String = text.chars().take(MAX_TEXT).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_TEXT).is_some() {
        shown.push('…');
    }
    write!(line, " \"{shown}\"")
}
