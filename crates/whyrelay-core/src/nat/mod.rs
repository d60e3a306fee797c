//! NAT behavior (RFC 4787) and a simulated NAT with time as an argument.
