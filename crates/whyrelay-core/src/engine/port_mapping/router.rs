//! A router's end of NAT-PMP, PCP and UPnP, for the laboratory: it keeps the mappings and says which exist; who has it
//! forwards by them. It maps UDP and refuses TCP, each protocol by its own error (RFC 6886 §3.5, RFC 6887 §7.4, UPnP
//! Device Architecture 1.1 §3.2.2): what a laboratory's peers listen at is UDP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use crate::time::Timestamp;
use crate::wire::portmap::http::{self, Progress};
use crate::wire::portmap::igd::{self, Action, Fault, ServiceType};
use crate::wire::portmap::{self, nat_pmp, pcp, ssdp};

/// Mappings in all; more are refused.
const MAX_MAPPINGS: usize = 128;

/// Longest lease that is given.
const MAX_LEASE_S: u32 = 3600;

/// Where the description is.
const DESCRIPTION: &str = "/rootDesc.xml";

/// Where actions are called.
const CONTROL: &str = "/ctl/IPConn";

/// A router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// Its address in the local network.
    pub internal: Ipv4Addr,
    /// Its address outside, which may be private itself.
    pub external: Ipv4Addr,
    /// Answer NAT-PMP.
    pub nat_pmp: bool,
    /// Answer PCP.
    pub pcp: bool,
    /// Answer UPnP; the TCP port of its HTTP server.
    pub upnp: Option<u16>,
}

/// A mapping that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The port outside, at [`RouterConfig::external`].
    pub external_port: u16,
    /// Where packets to it go.
    pub internal: SocketAddrV4,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    internal: SocketAddrV4,
    /// `None`: for ever.
    ends: Option<Timestamp>,
    /// PCP: who may change it.
    nonce: Option<[u8; 12]>,
}

/// See the module.
#[derive(Debug)]
pub struct MappingRouter {
    config: RouterConfig,
    started: Timestamp,
    mappings: BTreeMap<u16, Mapping>,
    /// Outside ports that the NAT has given out, with the inside endpoints that have them.
    held: BTreeSet<(u16, SocketAddrV4)>,
}

impl MappingRouter {
    /// A router without mappings.
    pub const fn new(now: Timestamp, config: RouterConfig) -> Self {
        Self { config, started: now, mappings: BTreeMap::new(), held: BTreeSet::new() }
    }

    /// Which ports of the external address the NAT has given out, and to which inside endpoints: they are mapped to nobody
    /// else (RFC 6887 §11.3 leaves the choice of the port to the server). It holds until it is told again.
    pub fn hold(&mut self, held: impl IntoIterator<Item = (u16, SocketAddrV4)>) {
        self.held = held.into_iter().collect();
    }

    /// A datagram from inside to [`portmap::PORT`] or to SSDP's port, at the router or the group: the answer, from the
    /// router's own address and the same port.
    pub fn datagram(&mut self, now: Timestamp, source: SocketAddr, port: u16, bytes: &[u8]) -> Option<Vec<u8>> {
        let SocketAddr::V4(source) = source else { return None };
        if port == ssdp::GROUP.port() {
            return self.search(bytes);
        }
        if port != portmap::PORT {
            return None;
        }
        self.sweep(now);
        match *bytes.first()? {
            nat_pmp::VERSION if self.config.nat_pmp => self.nat_pmp(now, source, bytes),
            pcp::VERSION if self.config.pcp => self.pcp(now, source, bytes),
            // RFC 6887 §9: each answers the other's version with its own and result 1.
            pcp::VERSION if self.config.nat_pmp => {
                let (operation, result) = (bytes.get(1)? & 0x7F, nat_pmp::ResultCode::UNSUPPORTED_VERSION);
                Some(nat_pmp::Response::Refused { operation, result }.encode())
            }
            _ if self.config.pcp => {
                let operation = pcp::Operation::Other(bytes.get(1)? & 0x7F);
                let (result, epoch_s) = (pcp::ResultCode::UNSUPPORTED_VERSION, self.epoch_s(now));
                Some(pcp::Response { result, lifetime_s: 0, epoch_s, operation }.encode())
            }
            _ => None,
        }
    }

    /// A request to the HTTP server: the response, after which it closes. `None`: more bytes are needed.
    pub fn http(&mut self, now: Timestamp, source: IpAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        let request = match http::request(bytes) {
            Progress::Complete(request) => request,
            Progress::More => return None,
            Progress::Bad(_) => return Some(response(400, "")),
        };
        self.sweep(now);
        Some(match (request.method.as_str(), request.path.as_str(), request.action) {
            ("GET", DESCRIPTION, _) => response(200, &igd::description(ServiceType::Ip1, CONTROL)),
            ("POST", CONTROL, Some(action)) => {
                let body = String::from_utf8_lossy(&request.body).into_owned();
                // One that it knows, and not with these arguments: TCP above all.
                let knows = |name: &str| action.ends_with(&format!("#{name}"));
                let known = knows("AddPortMapping") || knows("DeletePortMapping");
                let done = Action::decode(&action, &body)
                    .ok_or(if known { (402, "Invalid Args") } else { (401, "Invalid Action") })
                    .and_then(|action| self.act(now, source, action));
                match done {
                    Ok(body) => response(200, &body),
                    Err((code, words)) => response(500, &Fault::body(code, words)),
                }
            }
            _ => response(404, ""),
        })
    }

    /// The mappings that exist now.
    pub fn forwards(&mut self, now: Timestamp) -> impl Iterator<Item = Forward> + '_ {
        self.sweep(now);
        self.mappings.iter().map(|(port, mapping)| Forward { external_port: *port, internal: mapping.internal })
    }

    /// Where a packet from outside to this port goes.
    pub fn forward(&mut self, now: Timestamp, external_port: u16) -> Option<SocketAddrV4> {
        self.sweep(now);
        self.mappings.get(&external_port).map(|mapping| mapping.internal)
    }

    /// When the next mapping ends by itself.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.mappings.values().filter_map(|mapping| mapping.ends).min()
    }

    fn sweep(&mut self, now: Timestamp) {
        self.mappings.retain(|_, mapping| mapping.ends.is_none_or(|ends| ends > now));
    }

    fn epoch_s(&self, now: Timestamp) -> u32 {
        u32::try_from(now.since(self.started).as_secs()).unwrap_or(u32::MAX)
    }

    fn search(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let port = self.config.upnp?;
        let target = ssdp::decode_search(bytes)?;
        let ours = target == ssdp::GATEWAY_DEVICE || target == "ssdp:all" || target == "upnp:rootdevice";
        let location = format!("http://{}:{port}{DESCRIPTION}", self.config.internal);
        ours.then(|| ssdp::Answer { location, target }.encode())
    }

    fn nat_pmp(&mut self, now: Timestamp, source: SocketAddrV4, bytes: &[u8]) -> Option<Vec<u8>> {
        let epoch_s = self.epoch_s(now);
        let response = match nat_pmp::Request::decode(bytes) {
            Some(nat_pmp::Request::ExternalAddress) => {
                nat_pmp::Response::ExternalAddress { epoch_s, address: self.config.external }
            }
            Some(nat_pmp::Request::Map(asked)) => {
                let internal = SocketAddrV4::new(*source.ip(), asked.internal_port);
                if asked.lifetime_s == 0 {
                    // RFC 6886 §3.4: internal port 0 ends all of this client's.
                    self.mappings.retain(|_, kept| {
                        let same = kept.internal == internal
                            || asked.internal_port == 0 && kept.internal.ip() == internal.ip();
                        !same || kept.nonce.is_some()
                    });
                    let mapping = nat_pmp::Mapping { external_port: 0, ..asked };
                    nat_pmp::Response::Mapped { epoch_s, mapping }
                } else {
                    let lifetime_s = asked.lifetime_s.min(MAX_LEASE_S);
                    match self.map(now, internal, asked.external_port, lifetime_s, None) {
                        Some(external_port) => {
                            let mapping = nat_pmp::Mapping { external_port, lifetime_s, ..asked };
                            nat_pmp::Response::Mapped { epoch_s, mapping }
                        }
                        None => {
                            let result = nat_pmp::ResultCode::OUT_OF_RESOURCES;
                            nat_pmp::Response::Refused { operation: 1, result }
                        }
                    }
                }
            }
            None => {
                let (operation, result) = (bytes.get(1)? & 0x7F, nat_pmp::ResultCode::UNSUPPORTED_OPERATION);
                nat_pmp::Response::Refused { operation, result }
            }
        };
        Some(response.encode())
    }

    fn pcp(&mut self, now: Timestamp, source: SocketAddrV4, bytes: &[u8]) -> Option<Vec<u8>> {
        // What is no request, a response above all, is never answered: two routers would answer each other for ever.
        let Some(request) = pcp::Request::decode(bytes) else {
            if !pcp::is_malformed_request(bytes) {
                return None;
            }
            let operation = pcp::Operation::Other(bytes.get(1)? & 0x7F);
            return Some(self.refuse(now, operation, pcp::ResultCode::MALFORMED_REQUEST));
        };
        let mut operation = request.operation;
        let known = matches!(operation, pcp::Operation::Announce | pcp::Operation::Map(_));
        let prefers_failure = match pcp::prefers_failure(bytes, operation) {
            Ok(prefers) => prefers,
            // Of an operation that it does not know it knows no options.
            Err(_) if !known => false,
            Err(result) => return Some(self.refuse(now, operation, result)),
        };
        let mut lifetime_s = 0;
        let result = match &mut operation {
            _ if request.client != IpAddr::V4(*source.ip()) => pcp::ResultCode::ADDRESS_MISMATCH,
            pcp::Operation::Announce => pcp::ResultCode::SUCCESS,
            pcp::Operation::Map(map) if map.protocol == pcp::UDP && map.internal_port != 0 => {
                let internal = SocketAddrV4::new(*source.ip(), map.internal_port);
                let own = |kept: &Mapping| kept.internal == internal && kept.nonce.is_some();
                let foreign = self.mappings.values().any(|kept| own(kept) && kept.nonce != Some(map.nonce));
                if foreign {
                    // RFC 6887 §11.3: only who knows the nonce changes it.
                    pcp::ResultCode::NOT_AUTHORIZED
                } else if request.lifetime_s == 0 {
                    self.mappings.retain(|_, kept| !own(kept));
                    pcp::ResultCode::SUCCESS
                } else {
                    lifetime_s = request.lifetime_s.min(MAX_LEASE_S);
                    let given = self.place(internal, map.external_port, Some(map.nonce));
                    let any_address = map.external_address.is_unspecified();
                    let fits = given.is_none_or(|port| map.external_port == 0 || port == map.external_port)
                        && (any_address || map.external_address == IpAddr::V4(self.config.external));
                    match given.filter(|_| fits || !prefers_failure) {
                        Some(port) => {
                            self.make(now, port, internal, lifetime_s, Some(map.nonce));
                            (map.external_port, map.external_address) = (port, IpAddr::V4(self.config.external));
                            pcp::ResultCode::SUCCESS
                        }
                        None if !fits && prefers_failure => {
                            lifetime_s = 0;
                            pcp::ResultCode::CANNOT_PROVIDE_EXTERNAL
                        }
                        None => pcp::ResultCode::NO_RESOURCES,
                    }
                }
            }
            pcp::Operation::Map(map) if map.protocol != pcp::UDP => pcp::ResultCode::UNSUPPORTED_PROTOCOL,
            pcp::Operation::Map(_) | pcp::Operation::Other(_) => pcp::ResultCode::UNSUPPORTED_OPERATION,
        };
        Some(pcp::Response { result, lifetime_s, epoch_s: self.epoch_s(now), operation }.encode())
    }

    fn refuse(&self, now: Timestamp, operation: pcp::Operation, result: pcp::ResultCode) -> Vec<u8> {
        pcp::Response { result, lifetime_s: 0, epoch_s: self.epoch_s(now), operation }.encode()
    }

    fn act(&mut self, now: Timestamp, source: IpAddr, action: Action) -> Result<String, (u32, &'static str)> {
        match action {
            Action::ExternalAddress => {}
            Action::Add { external_port, internal, lease_s } => {
                // WANIPConnection:2 §2.5.16: for itself only.
                if IpAddr::V4(*internal.ip()) != source {
                    return Err((606, "Action not authorized"));
                }
                match self.mappings.get(&external_port) {
                    Some(kept) if kept.internal != internal => return Err((Fault::CONFLICT, "ConflictInMappingEntry")),
                    None if !self.is_free(external_port, internal) => {
                        return Err((Fault::CONFLICT, "ConflictInMappingEntry"));
                    }
                    None if self.mappings.len() >= MAX_MAPPINGS => return Err((501, "Action Failed")),
                    _ => {}
                }
                let ends = (lease_s > 0).then(|| now + Duration::from_secs(lease_s.min(MAX_LEASE_S).into()));
                self.mappings.insert(external_port, Mapping { internal, ends, nonce: None });
            }
            Action::Delete { external_port } => match self.mappings.get(&external_port) {
                Some(kept) if IpAddr::V4(*kept.internal.ip()) == source => {
                    self.mappings.remove(&external_port);
                }
                _ => return Err((Fault::NO_SUCH_ENTRY, "NoSuchEntryInArray")),
            },
        }
        Ok(action.answer(ServiceType::Ip1, self.config.external))
    }

    /// Makes or renews a mapping, at the suggested port or at the next that is free.
    fn map(
        &mut self,
        now: Timestamp,
        internal: SocketAddrV4,
        suggested: u16,
        lifetime_s: u32,
        nonce: Option<[u8; 12]>,
    ) -> Option<u16> {
        let port = self.place(internal, suggested, nonce)?;
        self.make(now, port, internal, lifetime_s, nonce);
        Some(port)
    }

    /// The port outside of the mapping that there is, or of a new one: the suggested one or the next that is free.
    fn place(&self, internal: SocketAddrV4, suggested: u16, nonce: Option<[u8; 12]>) -> Option<u16> {
        let known = self.mappings.iter().find(|(_, kept)| kept.internal == internal && kept.nonce == nonce);
        match known.map(|(port, _)| *port) {
            Some(port) => Some(port),
            None if self.mappings.len() >= MAX_MAPPINGS => None,
            None => {
                let first = if suggested < 1024 { internal.port().max(1024) } else { suggested };
                (first..=u16::MAX).chain(1024..first).find(|port| self.is_free(*port, internal))
            }
        }
    }

    fn make(&mut self, now: Timestamp, port: u16, internal: SocketAddrV4, lifetime_s: u32, nonce: Option<[u8; 12]>) {
        let ends = Some(now + Duration::from_secs(lifetime_s.into()));
        self.mappings.insert(port, Mapping { internal, ends, nonce });
    }

    /// Whether a port outside can be mapped to an inside endpoint: it is not mapped, and the NAT gave it to nobody else.
    fn is_free(&self, port: u16, internal: SocketAddrV4) -> bool {
        let first = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let mut held = self.held.range((port, first)..).take_while(|(held, _)| *held == port);
        !self.mappings.contains_key(&port) && held.all(|(_, own)| *own == internal)
    }
}

fn response(status: u16, body: &str) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        _ => "Internal Server Error",
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/xml; charset=\"utf-8\"\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
