//! What is on the wire: telling protocols apart, reading STUN, TURN and DTLS leniently, writing STUN and TURN.
//!
//! A tool that explains broken peers must read broken messages: the decoders here keep the raw bytes, keep what
//! they do not know, and describe a defect instead of refusing the message.

pub mod attribute;
pub mod builder;
pub mod demux;
mod describe;
pub mod dtls;
pub mod framing;
pub mod integrity;
pub mod portmap;
pub mod probe;
pub mod stun;
pub mod turn;
