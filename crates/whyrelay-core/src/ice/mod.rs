//! Interactive Connectivity Establishment: RFC 8445, with trickle (RFC 8838), consent (RFC 7675) and TCP (RFC 6544).

pub mod candidate;
