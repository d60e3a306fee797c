//! URLs of STUN and TURN servers: `stun:`, `stuns:` (RFC 7064), `turn:`, `turns:` (RFC 7065).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::trace::event::Transport;

/// What a server is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerProtocol {
    /// A reflexive address.
    Stun,
    /// A relayed address.
    Turn,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerHost {
    /// An address.
    Ip(IpAddr),
    /// A name that has to be looked up, lower case.
    Name(String),
}

impl fmt::Display for ServerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The URL of a STUN or TURN server. It holds no credentials.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerUrl {
    protocol: ServerProtocol,
    transport: Transport,
    host: ServerHost,
    port: u16,
}

/// Why a server URL cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadServerUrl {
    /// It starts with none of the four schemes.
    #[error("{0:?} is no server URL: it starts with stun:, stuns:, turn: or turns:, like turn:turn.example.org:3478")]
    Scheme(String),
    /// It is written like an HTTP URL.
    #[error("{0:?} has slashes behind its scheme: write turn:host:port, not turn://host:port")]
    Slashes(String),
    /// It carries a user name or a password.
    #[error("the server URL carries a user name or password: it takes none, give them beside it")]
    Credentials,
    /// There is no usable host.
    #[error("the host of the server URL is {0:?}: it is a name, an IPv4 address or an IPv6 address in brackets")]
    Host(String),
    /// The port is no port.
    #[error("the port of the server URL is {0:?}: it is a number from 1 to 65535")]
    Port(String),
    /// Something other than `?transport=udp` or `?transport=tcp` follows.
    #[error("{0:?} follows the server URL's port: only ?transport=udp and ?transport=tcp may, and only for TURN")]
    Query(String),
    /// `turns:` with `?transport=udp` is TURN over DTLS.
    #[error("TURN over DTLS (turns: with ?transport=udp) is not supported: use turns:HOST, which is TLS over TCP")]
    Dtls,
    /// Longer than any real one.
    #[error("the server URL has {0} bytes, at most {MAX_LENGTH} are read")]
    TooLong(usize),
}

/// Longest URL that is read, in bytes: a name has 253 at most.
const MAX_LENGTH: usize = 512;

impl ServerUrl {
    /// What the server is asked for.
    pub const fn protocol(&self) -> ServerProtocol {
        self.protocol
    }

    /// What the server is reached over.
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// Where it is.
    pub const fn host(&self) -> &ServerHost {
        &self.host
    }

    /// Its port; 3478, or 5349 over TLS, where the URL names none.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for ServerUrl {
    type Err = BadServerUrl;

    fn from_str(text: &str) -> Result<Self, BadServerUrl> {
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            return Err(BadServerUrl::TooLong(text.len()));
        }
        // Before anything else, so that no other message repeats a password.
        if text.contains('@') {
            return Err(BadServerUrl::Credentials);
        }
        let shown = || text.to_owned();
        let (scheme, rest) = text.split_once(':').ok_or_else(|| BadServerUrl::Scheme(shown()))?;
        let (protocol, secure) = match scheme.to_ascii_lowercase().as_str() {
            "stun" => (ServerProtocol::Stun, false),
            "stuns" => (ServerProtocol::Stun, true),
            "turn" => (ServerProtocol::Turn, false),
            "turns" => (ServerProtocol::Turn, true),
            _ => return Err(BadServerUrl::Scheme(shown())),
        };
        if rest.starts_with("//") {
            return Err(BadServerUrl::Slashes(shown()));
        }
        let (authority, query) = match rest.split_once('?') {
            Some((authority, query)) => (authority, Some(query)),
            None => (rest, None),
        };
        let (host, port) = split_authority(authority)?;
        let port = match port {
            None if secure => 5349,
            None => 3478,
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => port,
                _ => return Err(BadServerUrl::Port(port.to_owned())),
            },
        };
        let query = query.map(|query| query.to_ascii_lowercase());
        let transport = match (protocol, query.as_deref(), secure) {
            (_, None, true) | (ServerProtocol::Turn, Some("transport=tcp"), true) => Transport::Tls,
            (_, None, false) | (ServerProtocol::Turn, Some("transport=udp"), false) => Transport::Udp,
            (ServerProtocol::Turn, Some("transport=tcp"), false) => Transport::Tcp,
            (ServerProtocol::Turn, Some("transport=udp"), true) => return Err(BadServerUrl::Dtls),
            (_, Some(query), _) => return Err(BadServerUrl::Query(format!("?{query}"))),
        };
        Ok(Self { protocol, transport, host, port })
    }
}

fn split_authority(authority: &str) -> Result<(ServerHost, Option<&str>), BadServerUrl> {
    let bad = || BadServerUrl::Host(authority.to_owned());
    if let Some(rest) = authority.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']').ok_or_else(bad)?;
        let ip: Ipv6Addr = ip.parse().map_err(|_| bad())?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port),
            None if rest.is_empty() => None,
            None => return Err(bad()),
        };
        return Ok((ServerHost::Ip(IpAddr::V6(ip)), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    // An IPv6 address without brackets has further colons.
    if port.is_some_and(|port| port.contains(':')) {
        return Err(bad());
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok((ServerHost::Ip(IpAddr::V4(ip)), port));
    }
    if !is_name(host) {
        return Err(bad());
    }
    Ok((ServerHost::Name(host.to_ascii_lowercase()), port))
}

/// A host name as resolvers take it. A last label of digits only would be a broken IPv4 address.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let bytes = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(bytes)
    };
    let numeric = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    text.len() <= 253 && text.split('.').all(label) && !text.rsplit('.').next().is_some_and(numeric)
}

impl fmt::Display for ServerUrl {
    /// With its port, and with its transport where it is not the scheme's own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.protocol, self.transport) {
            (ServerProtocol::Stun, Transport::Tls) => "stuns:",
            (ServerProtocol::Stun, _) => "stun:",
            (ServerProtocol::Turn, Transport::Tls) => "turns:",
            (ServerProtocol::Turn, _) => "turn:",
        })?;
        match &self.host {
            ServerHost::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
            host => write!(f, "{host}")?,
        }
        write!(f, ":{}", self.port)?;
        if self.protocol == ServerProtocol::Turn && self.transport == Transport::Tcp {
            f.write_str("?transport=tcp")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_both_rfcs_are_read_and_written() {
        for (text, transport, shown) in [
            ("stun:stun.example.org", Transport::Udp, "stun:stun.example.org:3478"),
            ("stuns:Stun.Example.org", Transport::Tls, "stuns:stun.example.org:5349"),
            ("STUN:192.0.2.1:19302", Transport::Udp, "stun:192.0.2.1:19302"),
            ("turn:[2001:db8::1]", Transport::Udp, "turn:[2001:db8::1]:3478"),
            ("turn:[2001:db8::1]:443?transport=tcp", Transport::Tcp, "turn:[2001:db8::1]:443?transport=tcp"),
            ("turn:turn.example.org?transport=udp", Transport::Udp, "turn:turn.example.org:3478"),
            ("turns:turn.example.org", Transport::Tls, "turns:turn.example.org:5349"),
            ("turns:turn.example.org:443?transport=tcp", Transport::Tls, "turns:turn.example.org:443"),
            ("turn:localhost", Transport::Udp, "turn:localhost:3478"),
        ] {
            let url: ServerUrl = text.parse().unwrap();
            assert_eq!(url.transport(), transport, "{text}");
            assert_eq!(url.to_string(), shown);
            assert_eq!(shown.parse::<ServerUrl>().unwrap(), url);
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_says_why() {
        for (text, error) in [
            ("", BadServerUrl::Scheme(String::new())),
            ("turn.example.org:3478", BadServerUrl::Scheme("turn.example.org:3478".to_owned())),
            ("http://x", BadServerUrl::Scheme("http://x".to_owned())),
            ("turn://x:3478", BadServerUrl::Slashes("turn://x:3478".to_owned())),
            ("turn:ali:secret@x", BadServerUrl::Credentials),
            ("turn:", BadServerUrl::Host(String::new())),
            ("stun:2001:db8::1", BadServerUrl::Host("2001:db8::1".to_owned())),
            ("stun:[2001:db8::1", BadServerUrl::Host("[2001:db8::1".to_owned())),
            ("stun:[::1]x", BadServerUrl::Host("[::1]x".to_owned())),
            ("stun:192.0.2.300", BadServerUrl::Host("192.0.2.300".to_owned())),
            ("stun:a b", BadServerUrl::Host("a b".to_owned())),
            ("stun:x:0", BadServerUrl::Port("0".to_owned())),
            ("stun:x:", BadServerUrl::Port(String::new())),
            ("stun:x:70000", BadServerUrl::Port("70000".to_owned())),
            ("stun:x?transport=udp", BadServerUrl::Query("?transport=udp".to_owned())),
            ("turn:x?transport=sctp", BadServerUrl::Query("?transport=sctp".to_owned())),
            ("turns:x?transport=udp", BadServerUrl::Dtls),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn no_message_repeats_a_password() {
        let error = "turn:ali:opensesame@turn.example.org".parse::<ServerUrl>().unwrap_err();
        assert!(!error.to_string().contains("opensesame"));
    }
}
