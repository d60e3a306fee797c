//! Which sizes a direct path is asked for, and how long an answer to the largest may take before smaller ones follow.

use std::time::Duration;

/// The largest packet of an Ethernet, in bytes.
pub const LARGEST: u16 = 1500;

/// What is asked when that is not answered: PPPoE, tunnels, WireGuard over IPv4 and IPv6, the least MTU of IPv6.
pub const SMALLER: [u16; 11] = [1496, 1492, 1480, 1460, 1440, 1420, 1400, 1360, 1320, 1280, 1200];

/// An answer to the largest that is not there by then, or by three round trips, may not come.
const ANSWERED_WITHIN: Duration = Duration::from_millis(250);

/// How long the largest is under way alone, where a round trip is known.
pub fn patience(round_trip: Option<Duration>) -> Duration {
    ANSWERED_WITHIN.max(round_trip.unwrap_or_default() * 3)
}
