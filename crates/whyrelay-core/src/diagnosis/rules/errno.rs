//! Error numbers of Linux. Where they differ from other systems' the names in the event still say it.

/// What the packet filter, or a full table of connections, makes of a send.
pub(super) const EPERM: i32 = 1;
/// A route or rule that prohibits.
pub(super) const EACCES: i32 = 13;
/// A blackhole.
pub(super) const EINVAL: i32 = 22;
/// A datagram that is too large.
pub(super) const EMSGSIZE: i32 = 90;
/// An address that a socket cannot have: of another host, or of a VRF that the socket is not in.
pub(super) const EADDRNOTAVAIL: i32 = 99;
/// An interface that is down.
pub(super) const ENETDOWN: i32 = 100;
/// No route, or a rule that says unreachable.
pub(super) const ENETUNREACH: i32 = 101;
/// A full queue, or a rule of nft's netdev family on egress: the kernel says the same of both.
pub(super) const ENOBUFS: i32 = 105;
/// A connection that nobody answered.
pub(super) const ETIMEDOUT: i32 = 110;
/// A closed port, by ICMP.
pub(super) const ECONNREFUSED: i32 = 111;
/// A route that says unreachable, or a silent next hop.
pub(super) const EHOSTUNREACH: i32 = 113;
