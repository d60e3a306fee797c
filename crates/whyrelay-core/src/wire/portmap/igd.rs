//! UPnP's Internet Gateway Device (WANIPConnection:1 and :2, WANPPPConnection:1): the description, where its control is, and the
//! actions that ask for the external address and map a port.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::xml::{Token, Tokens, escaped, text_of, unescaped};

/// Services of one description that are looked at.
const MAX_SERVICES: usize = 8;

/// Longest path that is asked for.
const MAX_PATH: usize = 512;

/// A service that maps ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// `WANIPConnection:1`
    Ip1,
    /// `WANIPConnection:2`
    Ip2,
    /// `WANPPPConnection:1`
    Ppp1,
}

impl ServiceType {
    const ALL: [Self; 3] = [Self::Ip1, Self::Ip2, Self::Ppp1];

    /// Its name in documents.
    pub const fn urn(self) -> &'static str {
        match self {
            Self::Ip1 => "urn:schemas-upnp-org:service:WANIPConnection:1",
            Self::Ip2 => "urn:schemas-upnp-org:service:WANIPConnection:2",
            Self::Ppp1 => "urn:schemas-upnp-org:service:WANPPPConnection:1",
        }
    }
}

/// A service of a description that maps ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Which.
    pub kind: ServiceType,
    /// Where its actions are called, as the description has it.
    pub control_url: String,
}

/// The services of a description that map ports, in its order.
pub fn services(description: &str) -> Vec<Service> {
    let mut found = Vec::new();
    let (mut kind, mut control, mut element) = (None, None, "");
    for token in Tokens::new(description) {
        match token {
            Token::Open("service") => (kind, control, element) = (None, None, ""),
            Token::Open(name) => element = name,
            Token::Text(text) if element == "serviceType" => {
                kind = ServiceType::ALL.into_iter().find(|kind| kind.urn() == text);
            }
            Token::Text(text) if element == "controlURL" => control = Some(unescaped(text)),
            Token::Close("service") => {
                if let (Some(kind), Some(control_url)) = (kind.take(), control.take())
                    && found.len() < MAX_SERVICES
                {
                    found.push(Service { kind, control_url });
                }
            }
            Token::Close(_) => element = "",
            Token::Text(_) => {}
        }
    }
    found
}

/// A description with one service, for a router of ours.
pub fn description(kind: ServiceType, control_url: &str) -> String {
    let (urn, control_url) = (kind.urn(), escaped(control_url));
    format!(
        "<?xml version=\"1.0\"?>\n<root xmlns=\"urn:schemas-upnp-org:device-1-0\">\
         <specVersion><major>1</major><minor>0</minor></specVersion><device>\
         <deviceType>{}</deviceType><friendlyName>whyrelay lab router</friendlyName><deviceList><device>\
         <deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList><device>\
         <deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList><service>\
         <serviceType>{urn}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>\
         <controlURL>{control_url}</controlURL><eventSubURL>/event</eventSubURL><SCPDURL>/scpd.xml</SCPDURL>\
         </service></serviceList></device></deviceList></device></deviceList></device></root>\n",
        super::ssdp::GATEWAY_DEVICE
    )
}

/// Where a document is or an action is called: on the gateway, and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The gateway's address, with the port that was named.
    pub address: SocketAddrV4,
    /// Path and query, printable.
    pub path: String,
}

impl Target {
    /// The place that a URL names, if it is at `gateway`: whatever else a router writes, or who answers in its place,
    /// nothing else is asked. `base`: what a URL without a host is relative to.
    pub fn of(url: &str, gateway: Ipv4Addr, base: Option<&Self>) -> Option<Self> {
        let (address, path) = match url.get(..7) {
            Some(scheme) if scheme.eq_ignore_ascii_case("http://") => {
                let rest = &url[7..];
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(end);
                let (host, port) = match authority.split_once(':') {
                    Some((host, port)) => (host, port.parse().ok()?),
                    None => (authority, 80),
                };
                (SocketAddrV4::new(host.parse().ok()?, port), path.to_owned())
            }
            _ => {
                let base = base?;
                let above = base.path.split('?').next()?.rsplit_once('/').map_or("", |(above, _)| above);
                let path = if url.starts_with('/') { url.to_owned() } else { format!("{above}/{url}") };
                (base.address, path)
            }
        };
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let fit = path.len() <= MAX_PATH && path.chars().all(|c| c.is_ascii_graphic());
        (*address.ip() == gateway && address.port() != 0 && fit).then_some(Self { address, path })
    }
}

/// What is asked of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Changes nothing.
    ExternalAddress,
    /// Maps a UDP port.
    Add {
        /// The router's port.
        external_port: u16,
        /// Our socket.
        internal: SocketAddrV4,
        /// Seconds; 0 for ever, which old routers insist on (error 725).
        lease_s: u32,
    },
    /// Ends a mapping.
    Delete {
        /// The router's port.
        external_port: u16,
    },
}

impl Action {
    const fn name(self) -> &'static str {
        match self {
            Self::ExternalAddress => "GetExternalIPAddress",
            Self::Add { .. } => "AddPortMapping",
            Self::Delete { .. } => "DeletePortMapping",
        }
    }

    /// The HTTP request that calls it.
    pub fn request(self, target: &Target, kind: ServiceType) -> Vec<u8> {
        let mut arguments = String::new();
        let mut argument = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = write!(arguments, "<{name}>{value}</{name}>");
        };
        if let Self::Add { external_port, .. } | Self::Delete { external_port } = self {
            argument("NewRemoteHost", "");
            argument("NewExternalPort", &external_port.to_string());
            argument("NewProtocol", "UDP");
        }
        if let Self::Add { internal, lease_s, .. } = self {
            argument("NewInternalPort", &internal.port().to_string());
            argument("NewInternalClient", &internal.ip().to_string());
            argument("NewEnabled", "1");
            argument("NewPortMappingDescription", "whyrelay check");
            argument("NewLeaseDuration", &lease_s.to_string());
        }
        let (name, urn) = (self.name(), kind.urn());
        let body = envelope(&format!("<u:{name} xmlns:u=\"{urn}\">{arguments}</u:{name}>"));
        super::http::post(SocketAddr::V4(target.address), &target.path, &format!("{urn}#{name}"), &body)
    }

    /// Reads a call, by its SOAPACTION and body.
    pub fn decode(action: &str, body: &str) -> Option<Self> {
        let (urn, name) = action.split_once('#')?;
        ServiceType::ALL.into_iter().find(|kind| kind.urn() == urn)?;
        let number = |name: &str| text_of(body, name)?.parse::<u32>().ok();
        let port = |name: &str| number(name).and_then(|port| u16::try_from(port).ok());
        let is_udp = || text_of(body, "NewProtocol").is_some_and(|protocol| protocol == "UDP");
        match name {
            "GetExternalIPAddress" => Some(Self::ExternalAddress),
            "AddPortMapping" if is_udp() => Some(Self::Add {
                external_port: port("NewExternalPort")?,
                internal: SocketAddrV4::new(
                    text_of(body, "NewInternalClient")?.parse().ok()?,
                    port("NewInternalPort")?,
                ),
                lease_s: number("NewLeaseDuration")?,
            }),
            "DeletePortMapping" if is_udp() => Some(Self::Delete { external_port: port("NewExternalPort")? }),
            _ => None,
        }
    }

    /// The body that answers it with success.
    pub fn answer(self, kind: ServiceType, external: Ipv4Addr) -> String {
        let (name, urn) = (self.name(), kind.urn());
        let value = match self {
            Self::ExternalAddress => format!("<NewExternalIPAddress>{external}</NewExternalIPAddress>"),
            Self::Add { .. } | Self::Delete { .. } => String::new(),
        };
        envelope(&format!("<u:{name}Response xmlns:u=\"{urn}\">{value}</u:{name}Response>"))
    }
}

/// What a service answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did; the external address where that was asked and is one.
    Done {
        /// The address.
        external: Option<IpAddr>,
    },
    /// It did not (UPnP Device Architecture 1.1 §3.2.2).
    Fault(Fault),
}

/// Why a service did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// UPnP's error code; 0 where it told none.
    pub code: u32,
    /// Its words, printable.
    pub words: String,
}

impl Fault {
    /// The port is somebody else's (WANIPConnection:1 §2.4.16).
    pub const CONFLICT: u32 = 718;
    /// No mapping that ends by itself (ibid.).
    pub const ONLY_PERMANENT: u32 = 725;
    /// There is no such mapping.
    pub const NO_SUCH_ENTRY: u32 = 714;

    /// The body that says so.
    pub fn body(code: u32, words: &str) -> String {
        let words = escaped(words);
        envelope(&format!(
            "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>\
             <UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>{code}</errorCode>\
             <errorDescription>{words}</errorDescription></UPnPError></detail></s:Fault>"
        ))
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error {} {}", self.code, self.words)
    }
}

/// Reads the answer to an action.
pub fn outcome(response: &super::http::Response) -> Outcome {
    let body = String::from_utf8_lossy(&response.body);
    if response.status == 200 {
        let external = text_of(&body, "NewExternalIPAddress").and_then(|text| text.parse::<Ipv4Addr>().ok());
        let external = external.filter(|ip| !ip.is_unspecified()).map(IpAddr::V4);
        return Outcome::Done { external };
    }
    let code = text_of(&body, "errorCode").and_then(|text| text.parse().ok()).unwrap_or(0);
    let words = text_of(&body, "errorDescription").unwrap_or_else(|| format!("HTTP status {}", response.status));
    Outcome::Fault(Fault { code, words: super::shown(&words) })
}

fn envelope(inside: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>{inside}</s:Body></s:Envelope>\r\n"
    )
}
