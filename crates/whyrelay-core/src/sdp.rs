//! The session description of one data channel (RFC 8839, RFC 8841), read leniently.
