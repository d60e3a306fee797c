//! Policies of the kernel's IPsec.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::Prefix;

/// Which packets an IPsec policy is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IpsecDirection {
    /// Those that come to this host.
    In,
    /// Those that leave it.
    Out,
    /// Those that it forwards.
    Forward,
}

impl IpsecDirection {
    /// As `ip xfrm policy` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Forward => "fwd",
        }
    }
}

/// What a policy wants done to a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpsecTemplate {
    /// This end of the tunnel; unspecified: any.
    pub source: IpAddr,
    /// Its other end.
    pub destination: IpAddr,
    /// The IP protocol: 50 ESP, 51 AH, 108 IPComp.
    pub protocol: u8,
    /// `transport`, `tunnel`, `beet` or the kernel's number.
    pub mode: String,
    /// Whether a packet may go without.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Whether the kernel has keys for it (a state); `None`: states were not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_set_up: Option<bool>,
}

/// A policy of the kernel's IPsec (`ip xfrm policy`) that can touch the session's packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpsecPolicy {
    /// Which packets it is about.
    pub direction: IpsecDirection,
    /// Whether it blocks them; else they pass once its templates are satisfied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blocks: bool,
    /// Of two that match, the one with the smaller number decides.
    pub priority: u32,
    /// Source addresses.
    pub source: Prefix,
    /// Destination addresses.
    pub destination: Prefix,
    /// The IP protocol; `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Source ports, first and last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<(u16, u16)>,
    /// Destination ports, first and last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_ports: Option<(u16, u16)>,
    /// The interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The firewall mark, and the bits of it that count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<(u32, u32)>,
    /// What it wants done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub templates: Vec<IpsecTemplate>,
}

impl IpsecPolicy {
    /// Whether it is about a UDP packet from one address to another. Which interface it takes is not known.
    pub fn matches(&self, source: SocketAddr, destination: SocketAddr, mark: u32) -> bool {
        let takes =
            |ports: Option<(u16, u16)>, port: u16| ports.is_none_or(|(first, last)| (first..=last).contains(&port));
        self.source.contains(source.ip())
            && self.destination.contains(destination.ip())
            && self.protocol.is_none_or(|protocol| protocol == 17)
            && takes(self.source_ports, source.port())
            && takes(self.destination_ports, destination.port())
            && self.mark.is_none_or(|(value, bits)| mark & bits == value)
    }

    /// Whether a packet without IPsec does not get through it. One that leaves gets through a tunnel that is set up.
    pub fn stops(&self) -> bool {
        let wanted = |template: &IpsecTemplate| {
            !template.optional && (self.direction != IpsecDirection::Out || template.is_set_up == Some(false))
        };
        self.blocks || self.templates.iter().any(wanted)
    }
}

/// As `ip xfrm policy add` takes it.
impl fmt::Display for IpsecPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src {} dst {}", self.source, self.destination)?;
        if let Some(protocol) = self.protocol {
            write!(f, " proto {}", protocol_name(protocol))?;
        }
        for (word, ports) in [("sport", self.source_ports), ("dport", self.destination_ports)] {
            match ports {
                Some((first, last)) if first == last => write!(f, " {word} {first}")?,
                Some((first, last)) => write!(f, " {word} {first}-{last}")?,
                None => {}
            }
        }
        if let Some(device) = &self.device {
            write!(f, " dev {device}")?;
        }
        write!(f, " dir {}", self.direction.name())?;
        if let Some((value, bits)) = self.mark {
            write!(f, " mark {value:#x} mask {bits:#x}")?;
        }
        write!(f, " priority {}", self.priority)?;
        if self.blocks {
            f.write_str(" action block")?;
        }
        for template in &self.templates {
            let (protocol, level) =
                (protocol_name(template.protocol), if template.optional { " level use" } else { "" });
            let IpsecTemplate { source, destination, mode, .. } = template;
            write!(f, " tmpl src {source} dst {destination} proto {protocol} mode {mode}{level}")?;
        }
        Ok(())
    }
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        6 => "tcp".into(),
        17 => "udp".into(),
        50 => "esp".into(),
        51 => "ah".into(),
        108 => "comp".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(direction: IpsecDirection) -> IpsecPolicy {
        let prefix = |address: &str, length| Prefix { address: address.parse().unwrap(), length };
        IpsecPolicy {
            direction,
            blocks: false,
            priority: 7,
            source: prefix("0.0.0.0", 0),
            destination: prefix("203.0.113.0", 24),
            protocol: Some(17),
            source_ports: None,
            destination_ports: Some((3478, 3478)),
            device: None,
            mark: Some((4, 6)),
            templates: Vec::new(),
        }
    }

    #[test]
    fn every_selector_counts() {
        let policy = policy(IpsecDirection::Out);
        let matches = |to: &str, mark| policy.matches("192.0.2.1:9".parse().unwrap(), to.parse().unwrap(), mark);
        assert!(matches("203.0.113.9:3478", 5));
        assert!(!matches("203.0.113.9:3479", 5) && !matches("203.0.114.9:3478", 5) && !matches("203.0.113.9:3478", 3));
        assert!(!matches("[2001:db8::1]:3478", 5));
    }

    #[test]
    fn a_tunnel_that_is_set_up_takes_what_leaves_and_nothing_that_comes_without_it() {
        for (direction, is_set_up, optional, stops) in [
            (IpsecDirection::Out, Some(true), false, false),
            (IpsecDirection::Out, Some(false), false, true),
            (IpsecDirection::Out, None, false, false),
            (IpsecDirection::In, Some(true), false, true),
            (IpsecDirection::In, Some(true), true, false),
        ] {
            let (source, destination) = ("192.0.2.1".parse().unwrap(), "203.0.113.1".parse().unwrap());
            let mode = "tunnel".to_owned();
            let template = IpsecTemplate { source, destination, protocol: 50, mode, optional, is_set_up };
            let policy = IpsecPolicy { templates: vec![template], ..policy(direction) };
            assert_eq!(policy.stops(), stops, "{policy}");
        }
        let policy = IpsecPolicy { blocks: true, ..policy(IpsecDirection::In) };
        assert!(policy.stops());
        assert_eq!(
            policy.to_string(),
            "src 0.0.0.0/0 dst 203.0.113.0/24 proto udp dport 3478 dir in mark 0x4 mask 0x6 priority 7 action block"
        );
    }
}
