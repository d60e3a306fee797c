//! NAT behavior in the words of RFC 4787, and a simulated NAT with time as an argument.

pub mod behavior;
pub mod table;
