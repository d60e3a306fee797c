//! Signaling: the messages with which two peers find each other before any path between them exists.
//!
//! One JSON object per message, `{"type", "content", "to", "from"}`, all strings. `offer`, `answer`, `candidate` and
//! `heartbeat` are the origin's; the other types are ours, which is safe because receivers ignore types they do not
//! know. Between a whyrelay peer and a whyrelay server a message also carries a number (`seq`), so that a broken
//! connection neither loses nor repeats one ([`Outbox`], [`Inbox`]).

mod control;
mod message;
mod outbox;
mod recording;

use std::time::Duration;

pub use control::{IceServer, Join, Joined, PeerInfo, PeerProbing, Refusal, RefusalCode, ServersAnnouncement};
pub use message::{Message, MessageError, MessageType};
pub use outbox::{Inbox, Outbox, OutboxFull};
pub use recording::{RECORDING_CHUNK, RecordingAssembler, RecordingChunk, RecordingError, TracePiece, split_recording};

/// Bytes of one message as JSON, at most. A session description with fifty candidates is below 10 KB.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Bytes of a peer id, a room name or a token, at most.
pub const MAX_NAME: usize = 128;
/// Messages that wait for one peer, at most: a trickling browser sends about thirty in all.
pub const MAILBOX_MESSAGES: usize = 64;
/// Bytes that wait for one peer, at most: four of the largest messages.
pub const MAILBOX_BYTES: usize = 4 * MAX_MESSAGE;
/// How long a message waits for a peer that is away. After that its candidates' NAT mappings are gone anyway.
pub const MAILBOX_AGE: Duration = Duration::from_secs(60);
/// A message with more content than this is acknowledged at once, so that a recording flows; others in groups.
pub const LARGE_MESSAGE: usize = 16 * 1024;
/// A receiver hears from the server at least this often. The origin's server ends a response after 120 s without a
/// message and many proxies do so after 60 s or 30 s.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(25);

/// The id that the origin's offerer always has, and ours unless told otherwise.
pub const DEFAULT_OFFERER: &str = "offer-peer-1";
/// The id that the origin's answerer always has, and ours unless told otherwise.
pub const DEFAULT_ANSWERER: &str = "answer-peer-1";

/// An unguessable name, for a room or a token, from 16 random bytes.
///
/// Hexadecimal, so that it never begins with a dash on a command line and survives every URL.
pub fn unguessable_name(random: [u8; 16]) -> String {
    random.iter().fold(String::with_capacity(32), |mut name, byte| {
        for nibble in [byte >> 4, byte & 15] {
            name.extend(char::from_digit(u32::from(nibble), 16));
        }
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unguessable_name_keeps_all_of_its_randomness() {
        let mut bytes = [0xff; 16];
        bytes[0] = 0x0a;
        assert_eq!(unguessable_name(bytes), "0affffffffffffffffffffffffffffff");
    }
}
