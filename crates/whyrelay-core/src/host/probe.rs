//! Probes that separate causes, and what came of them.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What a probe changes, compared with an ordinary check to the same address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "probe")]
pub enum ProbeAim {
    /// As a plain program, while the session stands in for another (`--as`): no mark, no interface, our own user, any
    /// port, a UDP socket.
    Plain,
    /// Bound to an interface (SO_BINDTODEVICE): separates local routing from the NAT.
    Device {
        /// The interface.
        device: String,
    },
    /// As a plain program, of a STUN server: what the network in front is like, where the session's own sockets cannot
    /// tell, because no server answers them or they ask a relay alone.
    PlainServer,
    /// From another, fresh port.
    OtherPort,
    /// Without the session's firewall mark.
    WithoutMark,
    /// With a limited TTL on the same addresses and ports: the hop at which checks die.
    TimeToLive {
        /// The TTL.
        ttl: u8,
    },
    /// Padded to a length, with the don't-fragment bit.
    Padded {
        /// The length of the IP packet, in bytes.
        length: u16,
    },
    /// One TCP segment to the signaling server, as large as the system makes them, on a connection of its own. The
    /// session's own segments are small.
    Segment {
        /// The length of the IP packet, in bytes.
        length: u16,
    },
    /// A server sends to the mapped address before we send to it: does the mapping stay?
    EarlyArrival,
    /// After silence: does the mapping still stand?
    Silence {
        /// How long, in seconds.
        seconds: u32,
    },
    /// After an opener with a low TTL from a fresh port, which the peer's NAT does not see.
    AfterOpener {
        /// The opener's TTL.
        ttl: u8,
    },
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum ProbeOutcome {
    /// It was answered.
    Answered {
        /// Where the other end saw it come from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mapped: Option<SocketAddr>,
        /// Round trip, in microseconds.
        round_trip_us: u64,
    },
    /// Only answers came that somebody on the way had changed: their FINGERPRINT is wrong.
    Rewritten {
        /// The address that they tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        told: Option<SocketAddr>,
        /// How many.
        answers: u32,
    },
    /// Nothing came back.
    Silent,
    /// The system refused to send it.
    Refused {
        /// errno.
        errno: i32,
    },
    /// An ICMP error came back.
    Icmp {
        /// Who sent it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offender: Option<IpAddr>,
        /// ICMP type.
        icmp_type: u8,
        /// ICMP code.
        icmp_code: u8,
        /// The MTU that it names, in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mtu: Option<u32>,
    },
    /// It could not be made.
    NotMade {
        /// Why.
        detail: String,
    },
}

/// A probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What it changes.
    pub aim: ProbeAim,
    /// Our socket.
    pub local: SocketAddr,
    /// Where to.
    pub remote: SocketAddr,
    /// How often it was sent.
    pub transmissions: u32,
    /// What came of it.
    pub result: ProbeOutcome,
}
