//! What the operator decides about a TURN server.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{Credentials, Discovery, PeerPolicy};

/// A TURN server's configuration. The default lets in nobody and relays to the public Internet only.
#[derive(Clone, Debug)]
pub struct TurnConfig {
    /// The realm of the long-term credentials; with eight bytes or fewer a 401 has 56 bytes.
    pub realm: String,
    /// Who may allocate.
    pub credentials: Credentials,
    /// Which peers may be reached.
    pub policy: PeerPolicy,
    /// Whether TURN is served at all; if not, its requests get 403 and STUN remains.
    pub turn: bool,
    /// Whether IPv4 relayed addresses are given out.
    pub relay_ipv4: bool,
    /// Whether IPv6 relayed addresses are given out.
    pub relay_ipv6: bool,
    /// The address that peers see in place of the one an IPv4 relay is bound to (1:1 NAT).
    pub external_ipv4: Option<Ipv4Addr>,
    /// The address that peers see in place of the one an IPv6 relay is bound to.
    pub external_ipv6: Option<Ipv6Addr>,
    /// Whether DONT-FRAGMENT is obeyed; if not, it is answered 420 as RFC 8656 §7.2 demands.
    pub dont_fragment: bool,
    /// Sends every client elsewhere that comes by the family of one of these: 300 with ALTERNATE-SERVER (RFC 8656 §7.2).
    /// At most one of each family counts.
    pub alternate_servers: Vec<SocketAddr>,
    /// Ends an allocation when the credentials it was made with expire. Otherwise it may be refreshed further.
    pub strict_expiry: bool,
    /// Whether channel numbers 0x5000 to 0x7FFF are accepted as well: RFC 5766 allowed them, and some clients of its
    /// time choose them (coturn's `turnutils_uclient` up to 4.6 at least). RFC 8656 §12 reserves them.
    pub rfc5766_channels: bool,
    /// Behavior discovery (RFC 5780), at most one for each address family; empty: none.
    pub discovery: Vec<Discovery>,
    /// Bounds.
    pub limits: Limits,
}

impl Default for TurnConfig {
    fn default() -> Self {
        Self {
            realm: "whyrelay".to_owned(),
            credentials: Credentials::none(),
            policy: PeerPolicy::default(),
            turn: true,
            relay_ipv4: true,
            relay_ipv6: true,
            external_ipv4: None,
            external_ipv6: None,
            dont_fragment: true,
            alternate_servers: Vec::new(),
            strict_expiry: false,
            rfc5766_channels: false,
            discovery: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// The bounds of a TURN server: nothing that clients send makes it hold more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Allocations in all; one more gets 508.
    pub allocations: usize,
    /// Allocations of one user (time-limited credentials of one name are one user); one more gets 486.
    pub allocations_per_user: usize,
    /// Permissions of one allocation; one more gets 508.
    pub permissions: usize,
    /// Channels of one allocation; one more gets 508.
    pub channels: usize,
    /// New peers (permissions, and channels without one) of one user at one address per second, whatever allocations they are for; a
    /// second's worth may come at once, and what is over gets 508. One request that names more peers than that passes
    /// when nothing was asked for in the second before, and the seconds after it pay. What is refreshed, or refused for
    /// another reason, costs nothing. `None`: no limit.
    pub new_peers_per_second: Option<u32>,
    /// Application bytes that one allocation may relay per second, both ways together; what is over is dropped. A
    /// datagram larger than half a second's worth never passes. `None`: no limit.
    pub bytes_per_second: Option<u64>,
    /// Application datagrams that one allocation may relay per second, both ways together; half a second's worth may
    /// come at once, what is over is dropped. `None`: no limit.
    pub datagrams_per_second: Option<u32>,
    /// The same bytes of all allocations together; what one relays to another counts for both. Who takes most of it leaves
    /// little for the others, unless each has a limit as well. `None`: no limit.
    pub total_bytes_per_second: Option<u64>,
    /// Unauthenticated error answers to one source address in any second.
    pub unauthenticated_per_second: u16,
    /// The lifetime of an allocation when the client names none or a shorter one (RFC 8656 §7.2: 10 minutes).
    pub default_lifetime: Duration,
    /// The longest lifetime (RFC 8656 §7.2: an hour).
    pub maximum_lifetime: Duration,
    /// How long a nonce is good (RFC 8656 §5: at most an hour).
    pub nonce_lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations: 10_000,
            allocations_per_user: 64,
            permissions: 64,
            channels: 64,
            // A session has a handful, and a company behind one address many sessions: far from both, and far below
            // what a scan of other people's networks needs.
            new_peers_per_second: Some(100),
            bytes_per_second: None,
            total_bytes_per_second: None,
            datagrams_per_second: None,
            unauthenticated_per_second: 10,
            default_lifetime: Duration::from_secs(600),
            maximum_lifetime: Duration::from_secs(3600),
            nonce_lifetime: Duration::from_secs(3600),
        }
    }
}
