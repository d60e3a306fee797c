//! The NAT laboratory: one scenario file, two worlds (virtual time, Linux namespaces). It starts with the lab issue.
