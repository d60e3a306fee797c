//! ICE candidates and their line format (RFC 8445 §5.1, RFC 8839 §5.1, RFC 6544 §4.5).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The type of a candidate (RFC 8445 §4), spelled as in SDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CandidateType {
    /// An address of the host itself.
    #[serde(rename = "host")]
    Host,
    /// Learned from a STUN server: the address that a NAT gave us.
    #[serde(rename = "srflx")]
    ServerReflexive,
    /// Learned from a peer's check.
    #[serde(rename = "prflx")]
    PeerReflexive,
    /// An address on a TURN server.
    #[serde(rename = "relay")]
    Relayed,
}

impl CandidateType {
    /// The SDP spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::ServerReflexive => "srflx",
            Self::PeerReflexive => "prflx",
            Self::Relayed => "relay",
        }
    }

    /// The type preference of RFC 8445 §5.1.2.2, 0 to 126.
    pub const fn preference(self) -> u32 {
        match self {
            Self::Host => 126,
            Self::PeerReflexive => 110,
            Self::ServerReflexive => 100,
            Self::Relayed => 0,
        }
    }
}

impl fmt::Display for CandidateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The transport of a candidate, the TCP type included (RFC 6544 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CandidateTransport {
    /// UDP.
    Udp,
    /// Opens connections, accepts none; its port in SDP is 9.
    TcpActive,
    /// Accepts connections, opens none.
    TcpPassive,
    /// Simultaneous open. Read, never gathered.
    TcpSimultaneousOpen,
}

impl CandidateTransport {
    /// Whether it is any of the TCP types.
    pub const fn is_tcp(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// The transport a peer's candidate must have to be paired with this one (RFC 6544 §6.2).
    pub const fn counterpart(self) -> Self {
        match self {
            Self::Udp => Self::Udp,
            Self::TcpActive => Self::TcpPassive,
            Self::TcpPassive => Self::TcpActive,
            Self::TcpSimultaneousOpen => Self::TcpSimultaneousOpen,
        }
    }

    /// The `tcptype` of RFC 6544 §4.5.
    pub const fn tcp_type(self) -> Option<&'static str> {
        match self {
            Self::Udp => None,
            Self::TcpActive => Some("active"),
            Self::TcpPassive => Some("passive"),
            Self::TcpSimultaneousOpen => Some("so"),
        }
    }
}

impl fmt::Display for CandidateTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Udp => "udp",
            Self::TcpActive => "tcp-active",
            Self::TcpPassive => "tcp-passive",
            Self::TcpSimultaneousOpen => "tcp-so",
        })
    }
}

/// A candidate's address as signaled: an IP address, or a name that has to be resolved first (mDNS `.local`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CandidateAddress {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A name and port; browsers hide host addresses behind `.local` names (draft-ietf-mmusic-mdns-ice-candidates).
    Name {
        /// The name, lower case.
        name: String,
        /// The port.
        port: u16,
    },
}

impl CandidateAddress {
    /// The socket address, if it needs no look-up.
    pub const fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Name { .. } => None,
        }
    }
}

impl fmt::Display for CandidateAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Name { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// One candidate, local or remote, as it is signaled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// Groups candidates that are likely to share their fate (RFC 8445 §5.1.1.3): 1 to 32 ice-chars.
    pub foundation: String,
    /// The component; a data channel has only component 1.
    pub component: u16,
    /// The transport.
    pub transport: CandidateTransport,
    /// The priority (RFC 8445 §5.1.2).
    pub priority: u32,
    /// Where to send.
    pub address: CandidateAddress,
    /// The type.
    #[serde(rename = "type")]
    pub kind: CandidateType,
    /// `raddr` and `rport`: for srflx and prflx the base, for relay the mapped address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub related: Option<SocketAddr>,
    /// Extension attributes in order, like `generation 0` or `network-cost 999`; `tcptype` is not repeated here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<(String, String)>,
}

/// Longest candidate line that is read, in bytes; real ones have about 200.
pub const MAX_LINE: usize = 1024;

/// Why a candidate line cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCandidate {
    /// Longer than [`MAX_LINE`].
    #[error("the candidate line has {0} bytes, at most {MAX_LINE} are read")]
    TooLong(usize),
    /// A field is missing.
    #[error("the candidate line ends before its {0}")]
    Missing(&'static str),
    /// A field is not what it should be.
    #[error("the {field} of the candidate is {found:?}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What stands there.
        found: String,
    },
}

impl Candidate {
    /// The priority formula of RFC 8445 §5.1.2.1, for component 1.
    pub const fn compute_priority(kind: CandidateType, local_preference: u16) -> u32 {
        (kind.preference() << 24) | ((local_preference as u32) << 8) | 255
    }

    /// The value of an extension attribute.
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.extensions.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Candidate {
    /// The line as it is signaled, with `candidate:` in front and without `a=` (RFC 8839 §5.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.transport.is_tcp() { "tcp" } else { "udp" };
        write!(f, "candidate:{} {} {protocol} {} ", self.foundation, self.component, self.priority)?;
        match &self.address {
            CandidateAddress::Ip(address) => write!(f, "{} {}", address.ip(), address.port())?,
            CandidateAddress::Name { name, port } => write!(f, "{name} {port}")?,
        }
        write!(f, " typ {}", self.kind)?;
        if let Some(related) = self.related {
            write!(f, " raddr {} rport {}", related.ip(), related.port())?;
        }
        if let Some(tcp_type) = self.transport.tcp_type() {
            write!(f, " tcptype {tcp_type}")?;
        }
        self.extensions.iter().try_for_each(|(name, value)| write!(f, " {name} {value}"))
    }
}

impl FromStr for Candidate {
    type Err = BadCandidate;

    /// Reads a line with or without `a=` and `candidate:` in front.
    fn from_str(line: &str) -> Result<Self, BadCandidate> {
        if line.len() > MAX_LINE {
            return Err(BadCandidate::TooLong(line.len()));
        }
        let line = line.trim_matches(|c: char| c.is_ascii_whitespace());
        // RFC 8839 §5.1 has visible characters only. Others would reach a terminal, and are no separators.
        if let Some(control) = line.chars().find(|c| c.is_control() && !c.is_ascii_whitespace()) {
            return Err(invalid("text", &control.to_string()));
        }
        let line = line.strip_prefix("a=").unwrap_or(line);
        let line = line.strip_prefix("candidate:").unwrap_or(line);
        let mut words = line.split_ascii_whitespace();
        let mut next = |field| words.next().ok_or(BadCandidate::Missing(field));

        let foundation = next("foundation")?;
        let is_ice_char = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/' || c == '-';
        if foundation.len() > 32 || !foundation.chars().all(is_ice_char) {
            return Err(invalid("foundation", foundation));
        }
        let component = number("component", next("component")?)?;
        let protocol = next("transport")?;
        let priority = number("priority", next("priority")?)?;
        let host = next("address")?;
        let port = number("port", next("port")?)?;
        let address = match host.parse::<IpAddr>() {
            Ok(ip) => CandidateAddress::Ip(SocketAddr::new(ip, port)),
            Err(_) if is_name(host) => CandidateAddress::Name { name: host.to_ascii_lowercase(), port },
            Err(_) => return Err(invalid("address", host)),
        };
        let typ = next("type")?;
        if typ != "typ" {
            return Err(invalid("type", typ));
        }
        let kind = match next("type")? {
            "host" => CandidateType::Host,
            "srflx" => CandidateType::ServerReflexive,
            "prflx" => CandidateType::PeerReflexive,
            "relay" => CandidateType::Relayed,
            other => return Err(invalid("type", other)),
        };

        let (mut related_ip, mut related_port, mut tcp_type) = (None, None, None);
        let mut extensions = Vec::new();
        while let Some(name) = words.next() {
            let value = words.next().unwrap_or_default();
            match name {
                // Browsers write 0.0.0.0 here to hide the base; a name would be of no use.
                "raddr" => related_ip = value.parse::<IpAddr>().ok(),
                "rport" => related_port = value.parse::<u16>().ok(),
                "tcptype" => tcp_type = Some(value),
                _ => extensions.push((name.to_owned(), value.to_owned())),
            }
        }
        let transport = match (protocol.to_ascii_lowercase().as_str(), tcp_type) {
            ("udp", _) => CandidateTransport::Udp,
            // RFC 6544 §4.5 demands tcptype; old peers that leave it out accept connections.
            ("tcp", Some("passive") | None) => CandidateTransport::TcpPassive,
            ("tcp", Some("active")) => CandidateTransport::TcpActive,
            ("tcp", Some("so")) => CandidateTransport::TcpSimultaneousOpen,
            ("tcp", Some(other)) => return Err(invalid("tcptype", other)),
            _ => return Err(invalid("transport", protocol)),
        };
        let related = related_ip.zip(related_port).map(|(ip, port)| SocketAddr::new(ip, port));
        let foundation = foundation.to_owned();
        Ok(Self { foundation, component, transport, priority, address, kind, related, extensions })
    }
}

fn invalid(field: &'static str, found: &str) -> BadCandidate {
    BadCandidate::Invalid { field, found: found.chars().take(64).collect() }
}

fn number<T: FromStr>(field: &'static str, text: &str) -> Result<T, BadCandidate> {
    text.parse().map_err(|_| invalid(field, text))
}

/// A host name as DNS has it: labels of letters, digits and hyphens, 253 bytes at most.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    text.len() <= 253 && text.contains('.') && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_real_peers_survive_a_round_trip() {
        for line in [
            "candidate:842163049 1 udp 1677729535 203.0.113.7 49203 typ srflx raddr 192.168.1.5 rport 49203 generation 0 ufrag EsAw network-cost 999",
            "candidate:1 1 udp 2113937151 3b1f0a6e-9d41-4d9c-a1cb-0c7e6a7f3a11.local 54400 typ host generation 0 ufrag Zq4x network-cost 999",
            "candidate:3 1 tcp 1518280447 192.168.1.5 9 typ host tcptype active generation 0",
            "candidate:233762139 1 udp 16777215 2001:db8::7 50000 typ relay raddr 2001:db8::1 rport 40000",
        ] {
            let candidate: Candidate = line.parse().unwrap();
            assert_eq!(candidate.to_string(), line);
            assert_eq!(format!("a={line}").parse::<Candidate>().unwrap(), candidate);
        }
    }

    #[test]
    fn garbage_is_named() {
        for (line, message) in [
            ("", "the candidate line ends before its foundation"),
            ("candidate:1 1 udp", "the candidate line ends before its priority"),
            ("candidate:1 1 sctp 1 10.0.0.1 1 typ host", r#"the transport of the candidate is "sctp""#),
            ("candidate:1 1 udp 1 nonsense 1 typ host", r#"the address of the candidate is "nonsense""#),
            ("candidate:1 1 udp 1 10.0.0.1 70000 typ host", r#"the port of the candidate is "70000""#),
            ("candidate:1 1 udp 1 10.0.0.1 1 type host", r#"the type of the candidate is "type""#),
            ("candidate:1 1 udp 1 10.0.0.1 1 typ host x \u{1b}[2J", r#"the text of the candidate is "\u{1b}""#),
            ("candidate:1 1 udp 1 10.0.0.1 1 typ host x y\u{b}", r#"the text of the candidate is "\u{b}""#),
        ] {
            assert_eq!(line.parse::<Candidate>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn priority_follows_rfc_8445() {
        assert_eq!(Candidate::compute_priority(CandidateType::Host, 65535), 2_130_706_431);
    }
}
