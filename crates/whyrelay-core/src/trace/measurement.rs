//! What one host measured of its own network, its servers and its way out: facts, each with the addresses it is about.
//!
//! A [`Measurement`] is the body of [`super::event::EventKind::Measured`]. What could not be measured is an event of its
//! own, so that "no" is never written for "did not look".

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::event::{Direction, Transport};
use crate::nat::behavior::{FilteringBehavior, Hairpinning, MappingBehavior};

/// What a session measures where it is asked to, as it calls it where it did not.
pub const THROUGHPUT: &str = "throughput";

/// Why what servers tell was not measured where none did.
pub const WITHOUT_ANSWER: &str = "no server answered over UDP";

/// Why what is beside the NAT was not measured where the NAT alone was asked for.
pub const ONLY_NAT: &str = "only the NAT was asked for (--only nat)";

/// One thing that was measured. Addresses of UDP unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "measurement")]
pub enum Measurement {
    // ---- the NAT, for one local address ----------------------------------------------------------------------
    /// A server told the mapped address of a socket.
    MappedAddress {
        /// Our socket.
        local: SocketAddr,
        /// The server, or its other address.
        remote: SocketAddr,
        /// What it saw.
        mapped: SocketAddr,
        /// Round trip in microseconds, where the request was sent once only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rtt_us: Option<u64>,
    },
    /// How the NAT maps (RFC 5780 §4.3).
    Mapping {
        /// Our socket.
        local: SocketAddr,
        /// What the destinations told.
        behavior: MappingBehavior,
        /// False where no destination differed in its port only: then address-dependent is the least that it is.
        exact: bool,
        /// The mapped address of the first answer.
        mapped: SocketAddr,
        /// Destinations that were compared.
        destinations: Vec<SocketAddr>,
    },
    /// Whom the NAT or firewall lets in (RFC 5780 §4.4).
    Filtering {
        /// Our address.
        local: IpAddr,
        /// What arrived and what did not.
        behavior: FilteringBehavior,
        /// The server that sent from its other addresses.
        server: SocketAddr,
        /// How often each request was sent whose answer did not come.
        transmissions: u32,
    },
    /// Which external port each of several new sockets got, in the order in which they first sent.
    PortAllocation {
        /// Our address.
        local: IpAddr,
        /// Internal and external port.
        ports: Vec<PortPair>,
        /// The external addresses, each once.
        addresses: Vec<IpAddr>,
    },
    /// What became of packets to our own mapped address (RFC 5780 §4.5), each trial alike.
    Hairpin {
        /// The socket that should get them.
        local: SocketAddr,
        /// Its mapped address, where they were sent.
        mapped: SocketAddr,
        /// What it does.
        behavior: Hairpinning,
        /// How many were sent.
        sent: u32,
        /// How many arrived.
        arrived: u32,
    },
    /// How long an idle mapping lives: between these two, found by bisection.
    MappingLifetime {
        /// Our address.
        local: IpAddr,
        /// After this long without a packet one from outside still came in, in seconds.
        at_least_s: u32,
        /// After this long none did, in seconds. `None`: it outlived every wait.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_most_s: Option<u32>,
    },
    /// Whether something on the way rewrites addresses inside of packets (an application-level gateway): the server's
    /// MAPPED-ADDRESS and XOR-MAPPED-ADDRESS of one answer.
    AddressRewriting {
        /// Our socket.
        local: SocketAddr,
        /// The server.
        remote: SocketAddr,
        /// MAPPED-ADDRESS as it arrived.
        plain: SocketAddr,
        /// XOR-MAPPED-ADDRESS as it arrived.
        xored: SocketAddr,
    },

    // ---- what no tester looks at -----------------------------------------------------------------------------
    /// A third party sent to our mapped address before we sent to it; then we did.
    EarlyArrival {
        /// Our socket.
        local: SocketAddr,
        /// The third party.
        remote: SocketAddr,
        /// Our address as the STUN server saw it.
        mapped: SocketAddr,
        /// Our address as the third party saw it.
        observed: SocketAddr,
        /// Our address as another third party saw it that had not sent before.
        control: SocketAddr,
        /// Whether the early packet came in to us.
        arrived: bool,
    },
    /// We sent to a third party on a random high port.
    ThirdParty {
        /// Our socket.
        local: SocketAddr,
        /// The third party.
        remote: SocketAddr,
        /// From where it saw us; `None`: nothing arrived there.
        observed: Option<SocketAddr>,
        /// How many packets were sent.
        sent: u32,
    },
    /// A destination was asked: what came back.
    Reach {
        /// UDP, TCP or TLS.
        transport: Transport,
        /// Our socket; `None`: there was no connection, or the recording is an older one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        local: Option<SocketAddr>,
        /// The destination.
        remote: SocketAddr,
        /// Round trip in microseconds; `None`: no answer.
        rtt_us: Option<u64>,
        /// What the system or the other end said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// Whether no URL says that it is offered: a try, whose silence is nobody's fault.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unannounced: bool,
    },
    /// The largest UDP payload that arrived unfragmented.
    PathMtu {
        /// Our socket.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
        /// From us or to us.
        direction: Direction,
        /// Largest payload that arrived, in bytes.
        payload: u16,
        /// Smallest payload that did not arrive, in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lost: Option<u16>,
    },
    /// Packets shaped as WireGuard's handshake, and packets of the same size with random bytes.
    PacketShape {
        /// Our socket.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
        /// WireGuard-shaped packets sent.
        shaped_sent: u32,
        /// WireGuard-shaped packets that arrived.
        shaped_arrived: u32,
        /// Random packets sent.
        random_sent: u32,
        /// Random packets that arrived.
        random_arrived: u32,
    },

    // ---- the way out -----------------------------------------------------------------------------------------
    /// The next hop of the default route.
    Gateway {
        /// The interface.
        interface: String,
        /// The next hop; `None`: the route has none (a tunnel).
        gateway: Option<IpAddr>,
    },
    /// A router on the way, by the time-exceeded message for a packet with this TTL.
    Hop {
        /// Where the packet was going.
        remote: SocketAddr,
        /// Its TTL.
        ttl: u8,
        /// Who said that the time was exceeded; `None`: nobody.
        router: Option<IpAddr>,
    },
    /// What a port-mapping protocol answered; nothing was mapped.
    PortMapper {
        /// Which.
        protocol: PortMapperProtocol,
        /// Whom we asked; for UPnP who answered.
        gateway: Option<IpAddr>,
        /// Whether it is there.
        found: bool,
        /// The router's external address by its own word.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external: Option<IpAddr>,
        /// What it said besides, like an error.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// A port was mapped on the router (`--map`), tried from outside, and the mapping removed.
    PortMapped {
        /// By which protocol.
        protocol: PortMapperProtocol,
        /// Our socket.
        local: SocketAddr,
        /// The external address that it should have.
        external: SocketAddr,
        /// Whether a packet from outside arrived; `None`: nobody was there to send one.
        reached: Option<bool>,
        /// Whether the router confirmed the removal.
        removed: bool,
    },
    /// What this host has of IPv6.
    Ipv6 {
        /// One of four answers.
        state: Ipv6State,
        /// The address that it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
    },
    /// The resolvers that this host asks for names.
    Resolver {
        /// A resolver.
        server: IpAddr,
        /// The interface that packets to it leave by.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interface: Option<String>,
    },

    // ---- servers ---------------------------------------------------------------------------------------------
    /// What went through a TURN server and back.
    RelayEcho {
        /// The server, without credentials.
        server: String,
        /// The relayed address.
        relayed: SocketAddr,
        /// From us over the relay and back, in microseconds; `None`: nothing came.
        rtt_us: Option<u64>,
        /// How many packets were sent.
        sent: u32,
        /// Where nothing that was sent to the relayed address got in: whether packets came from there to the socket that
        /// had sent to it, and to none that had not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        came_from_relay: Option<bool>,
    },
    /// The certificate that a server showed.
    Certificate {
        /// The server, without credentials.
        server: String,
        /// The name or address that it should be for.
        name: String,
        /// Who it says it is for: names and addresses.
        names: Vec<String>,
        /// Its last second, since the Unix epoch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_after_s: Option<u64>,
        /// How many certificates came.
        chain: u32,
        /// Why it is not trusted; `None`: it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
    },
    /// A server's clock against ours.
    Clock {
        /// The server, without credentials.
        server: String,
        /// Its clock minus ours, in milliseconds.
        offset_ms: i64,
        /// How exact that is, in milliseconds.
        precision_ms: u32,
    },
    /// TURN credentials of the shared-secret scheme, looked at without a server.
    TimedCredentials {
        /// The server that they are for, without credentials.
        server: String,
        /// When they end, in seconds since the Unix epoch, by their user name.
        expires_s: u64,
        /// Whether the password is the user name's HMAC; `None`: the secret was not given.
        signed: Option<bool>,
        /// Whether they were made here, from the secret that the user gave.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        made_here: bool,
    },
}

/// An internal port and what the NAT made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPair {
    /// The socket's own.
    pub internal: u16,
    /// As the server saw it.
    pub external: u16,
}

/// A protocol to map ports on a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortMapperProtocol {
    /// UPnP Internet Gateway Device.
    Upnp,
    /// RFC 6886.
    NatPmp,
    /// RFC 6887.
    Pcp,
}

impl PortMapperProtocol {
    /// The usual spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upnp => "UPnP",
            Self::NatPmp => "NAT-PMP",
            Self::Pcp => "PCP",
        }
    }
}

/// What a host has of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6State {
    /// A server answered over it.
    Works,
    /// There is an address that reaches beyond this network, and no path: no route, or no answer.
    NoPath,
    /// There is no default route, and a server answered over IPv6 all the same.
    OnLink,
    /// The system supports it and no interface has such an address.
    NoAddress,
    /// It is off in the system.
    Off,
    /// There is an address and nobody was asked over it.
    NotTried,
}
