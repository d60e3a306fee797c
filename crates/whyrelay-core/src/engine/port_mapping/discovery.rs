//! Which protocols the router speaks, and its external address by its own word. Nothing is mapped.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::{EXCHANGE_PATIENCE, ExchangeId, Output, Pending, PortMapper, searches};
use crate::time::Timestamp;
use crate::trace::event::EventKind;
use crate::trace::measurement::{Measurement, PortMapperProtocol};
use crate::wire::portmap::http::{self, Progress};
use crate::wire::portmap::igd::{self, Action, Outcome, Service, Target};
use crate::wire::portmap::{self, nat_pmp, pcp, shown, ssdp};

/// Strangers that answered our search and are told of.
const MAX_STRANGERS: usize = 3;

/// Where a protocol stands.
#[derive(Debug)]
enum Asked<T> {
    /// Enters at the start; leaves with an answer, a refusal, or when patience ends.
    Waiting(Pending),
    /// Enters when it has answered, or will not.
    Settled(Option<T>),
}

/// A service of the router, where its actions are called.
#[derive(Clone, Debug)]
pub(super) struct Control {
    pub(super) target: Target,
    pub(super) service: Service,
    /// The router's external address by its own word.
    pub(super) external: Option<IpAddr>,
}

/// UPnP, step by step.
#[derive(Debug)]
enum Upnp {
    /// Enters at the start; leaves with an answer of the gateway, or when patience ends.
    Searching(Pending),
    /// Enters with the first answer; leaves with the description.
    Describing { exchange: ExchangeId, from: Target, until: Timestamp },
    /// Enters with a description that has services; leaves when one has told the address, or none is left.
    Asking { exchange: ExchangeId, left: Vec<Control>, last: Option<Control>, until: Timestamp },
    /// Enters when it is known whether it is there.
    Settled(Option<Control>),
}

#[derive(Debug)]
pub(super) struct Discovery {
    /// The external address.
    nat_pmp: Asked<Option<IpAddr>>,
    pcp: Asked<()>,
    upnp: Upnp,
    strangers: BTreeSet<Ipv4Addr>,
    told: bool,
}

impl Discovery {
    pub(super) fn new(now: Timestamp, local: Ipv4Addr, gateway: Ipv4Addr) -> Self {
        let control = SocketAddr::V4(SocketAddrV4::new(gateway, portmap::PORT));
        let address = nat_pmp::Request::ExternalAddress.encode();
        let (client, operation) = (IpAddr::V4(local), pcp::Operation::Announce);
        let announce = pcp::Request { lifetime_s: 0, client, operation }.encode();
        Self {
            nat_pmp: Asked::Waiting(Pending::new(now, vec![(control, address)])),
            pcp: Asked::Waiting(Pending::new(now, vec![(control, announce)])),
            upnp: Upnp::Searching(Pending::new(now, searches(gateway))),
            strangers: BTreeSet::new(),
            told: false,
        }
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let upnp = match &self.upnp {
            Upnp::Searching(pending) => Some(pending.deadline()),
            Upnp::Describing { until, .. } | Upnp::Asking { until, .. } => Some(*until),
            Upnp::Settled(_) => None,
        };
        [self.nat_pmp.deadline(), self.pcp.deadline(), upnp].into_iter().flatten().min()
    }

    /// The protocols that are there, the best first: PCP tells address and port of the mapping itself.
    pub(super) fn found(&self) -> Vec<PortMapperProtocol> {
        let mut found = Vec::new();
        if matches!(self.pcp, Asked::Settled(Some(()))) {
            found.push(PortMapperProtocol::Pcp);
        }
        if matches!(self.nat_pmp, Asked::Settled(Some(_))) {
            found.push(PortMapperProtocol::NatPmp);
        }
        if self.control().is_some() {
            found.push(PortMapperProtocol::Upnp);
        }
        found
    }

    pub(super) const fn control(&self) -> Option<&Control> {
        match &self.upnp {
            Upnp::Settled(control) => control.as_ref(),
            _ => None,
        }
    }

    /// The external address by NAT-PMP.
    pub(super) const fn external(&self) -> Option<IpAddr> {
        match &self.nat_pmp {
            Asked::Settled(Some(external)) => *external,
            _ => None,
        }
    }
}

impl<T> Asked<T> {
    const fn is_settled(&self) -> bool {
        matches!(self, Self::Settled(_))
    }

    fn deadline(&self) -> Option<Timestamp> {
        match self {
            Self::Waiting(pending) => Some(pending.deadline()),
            Self::Settled(_) => None,
        }
    }
}

impl PortMapper {
    pub(super) fn start_discovery(&mut self) {
        self.advance_discovery();
    }

    pub(super) fn advance_discovery(&mut self) {
        let silent = "no answer";
        if let Asked::Waiting(pending) = &mut self.discovery.nat_pmp
            && !pending.advance(self.now, &mut self.outputs)
        {
            self.settle_nat_pmp(None, None, Some(silent.to_owned()));
        }
        if let Asked::Waiting(pending) = &mut self.discovery.pcp
            && !pending.advance(self.now, &mut self.outputs)
        {
            self.settle_pcp(false, Some(silent.to_owned()));
        }
        if let Upnp::Searching(pending) = &mut self.discovery.upnp
            && !pending.advance(self.now, &mut self.outputs)
        {
            self.settle_upnp(None, Some("no answer of the gateway to a search".to_owned()));
        }
        match &self.discovery.upnp {
            Upnp::Describing { from, until, .. } if *until <= self.now.heard => {
                let detail = format!("it announced itself, and its description at {} did not come", from.address);
                self.settle_upnp(None, Some(detail));
            }
            Upnp::Asking { until, .. } if *until <= self.now.heard => self.asked(Err("it did not answer in time")),
            _ => {}
        }
        let settled = self.discovery.nat_pmp.is_settled() && self.discovery.pcp.is_settled();
        if settled && matches!(self.discovery.upnp, Upnp::Settled(_)) && !self.discovery.told {
            self.discovery.told = true;
            self.outputs.push_back(Output::Discovered);
        }
    }

    /// An answer to one of our questions, perhaps.
    pub(super) fn discovered_by(&mut self, remote: SocketAddrV4, bytes: &[u8]) {
        if self.is_control(remote) {
            self.answered(bytes);
        } else if let Some(answer) = ssdp::Answer::decode(bytes) {
            self.found_by_search(remote, &answer);
        }
    }

    fn answered(&mut self, bytes: &[u8]) {
        let nat_pmp = nat_pmp::Response::decode(bytes);
        if let (Some(response), false) = (nat_pmp, self.discovery.nat_pmp.is_settled()) {
            match response {
                nat_pmp::Response::ExternalAddress { address, .. } => {
                    let external = (!address.is_unspecified()).then_some(IpAddr::V4(address));
                    let detail = external.is_none().then(|| "it has no external address itself".to_owned());
                    self.settle_nat_pmp(Some(external), external, detail);
                }
                nat_pmp::Response::Refused { operation: 0, result } => match result {
                    // RFC 6887 §9: that is how a router that speaks NAT-PMP only answers PCP.
                    nat_pmp::ResultCode::UNSUPPORTED_VERSION => {}
                    nat_pmp::ResultCode::NETWORK_FAILURE => {
                        self.settle_nat_pmp(Some(None), None, Some(result.name().to_owned()));
                    }
                    // It is there, and switched off.
                    _ => self.settle_nat_pmp(None, None, Some(format!("it refuses: {}", result.name()))),
                },
                nat_pmp::Response::Refused { .. } | nat_pmp::Response::Mapped { .. } => {}
            }
        }
        let response = pcp::Response::decode(bytes);
        if response.is_some_and(|response| response.result == pcp::ResultCode::UNSUPPORTED_VERSION) {
            // The other way round: it answers NAT-PMP.
            if !self.discovery.nat_pmp.is_settled() {
                self.settle_nat_pmp(None, None, Some("it speaks PCP only".to_owned()));
            }
            return;
        }
        if self.discovery.pcp.is_settled() {
            return;
        }
        if let Some(response) = response {
            match response.result {
                // ANNOUNCE may be unknown to a router that knows MAP.
                pcp::ResultCode::SUCCESS | pcp::ResultCode::UNSUPPORTED_OPERATION => self.settle_pcp(true, None),
                result => self.settle_pcp(false, Some(format!("it refuses: {}", result.name()))),
            }
        } else if let Some(nat_pmp::Response::Refused { result: nat_pmp::ResultCode::UNSUPPORTED_VERSION, .. }) =
            nat_pmp
        {
            self.settle_pcp(false, Some("it speaks NAT-PMP only".to_owned()));
        }
    }

    fn found_by_search(&mut self, remote: SocketAddrV4, answer: &ssdp::Answer) {
        if *remote.ip() != self.gateway {
            let strangers = &mut self.discovery.strangers;
            if strangers.len() < MAX_STRANGERS
                && strangers.insert(*remote.ip())
                && answer.target == ssdp::GATEWAY_DEVICE
            {
                let detail = "it says that it is a gateway; it is not this host's, so it was not asked".to_owned();
                self.tell(PortMapperProtocol::Upnp, Some(IpAddr::V4(*remote.ip())), false, None, Some(detail));
            }
            return;
        }
        if !matches!(self.discovery.upnp, Upnp::Searching(_)) {
            return;
        }
        let Some(from) = Target::of(&answer.location, self.gateway, None) else {
            let detail = format!("it names another place than itself ({}): not followed", shown(&answer.location));
            return self.settle_upnp(None, Some(detail));
        };
        let request = http::get(SocketAddr::V4(from.address), &from.path);
        let exchange = self.exchange(from.address, request);
        self.discovery.upnp = Upnp::Describing { exchange, from, until: self.now.time + EXCHANGE_PATIENCE };
    }

    /// An ICMP error: nobody listens there.
    pub(super) fn refused(&mut self, remote: SocketAddrV4) {
        let closed = || Some("the port is closed".to_owned());
        if self.is_control(remote) {
            if !self.discovery.nat_pmp.is_settled() {
                self.settle_nat_pmp(None, None, closed());
            }
            if !self.discovery.pcp.is_settled() {
                self.settle_pcp(false, closed());
            }
        }
        // A search to the gateway's closed port says nothing of the one to the group.
    }

    /// The description, or a service's word about its address.
    pub(super) fn described_by(&mut self, exchange: ExchangeId, result: Result<&[u8], &str>) {
        match &self.discovery.upnp {
            Upnp::Describing { exchange: wanted, from, .. } if *wanted == exchange => {
                let from = from.clone();
                match read(result) {
                    Ok(response) if response.status == 200 => {
                        let text = String::from_utf8_lossy(&response.body).into_owned();
                        self.ask_services(&from, &text);
                    }
                    Ok(response) => {
                        self.settle_upnp(None, Some(format!("its description has HTTP status {}", response.status)));
                    }
                    Err(why) => self.settle_upnp(None, Some(format!("its description did not come: {why}"))),
                }
            }
            Upnp::Asking { exchange: wanted, .. } if *wanted == exchange => match read(result) {
                Ok(response) => self.asked(Ok(igd::outcome(&response))),
                Err(why) => self.asked(Err(&why)),
            },
            _ => {}
        }
    }

    fn ask_services(&mut self, from: &Target, description: &str) {
        let services = igd::services(description);
        let found = services.len();
        let mut left: Vec<Control> = services
            .into_iter()
            .filter_map(|service| {
                let target = Target::of(&service.control_url, self.gateway, Some(from))?;
                Some(Control { target, service, external: None })
            })
            .collect();
        left.reverse();
        if left.is_empty() {
            let detail = match found {
                0 => "its description has no service that maps ports",
                _ => "its services are elsewhere by its own word: not followed",
            };
            return self.settle_upnp(None, Some(detail.to_owned()));
        }
        self.ask_next(left, None);
    }

    fn ask_next(&mut self, mut left: Vec<Control>, last: Option<Control>) {
        let Some(control) = left.pop() else {
            let detail = last.is_some().then(|| "it tells no external address".to_owned());
            return self.settle_upnp(last, detail);
        };
        let request = Action::ExternalAddress.request(&control.target, control.service.kind);
        let exchange = self.exchange(control.target.address, request);
        let until = self.now.time + EXCHANGE_PATIENCE;
        left.push(control);
        self.discovery.upnp = Upnp::Asking { exchange, left, last, until };
    }

    /// A service's answer. One without an address may be the unused one of two: the next is asked.
    fn asked(&mut self, outcome: Result<Outcome, &str>) {
        let Upnp::Asking { left, last, .. } = &mut self.discovery.upnp else { return };
        let (mut left, last) = (std::mem::take(left), last.take());
        let Some(mut control) = left.pop() else { return };
        match outcome {
            Ok(Outcome::Done { external: Some(external) }) => {
                control.external = Some(external);
                self.settle_upnp(Some(control), None);
            }
            Ok(_) => self.ask_next(left, last.or(Some(control))),
            Err(why) if left.is_empty() && last.is_none() => {
                self.settle_upnp(None, Some(format!("its control does not answer: {}", shown(why))));
            }
            Err(_) => self.ask_next(left, last),
        }
    }

    fn settle_nat_pmp(&mut self, found: Option<Option<IpAddr>>, external: Option<IpAddr>, detail: Option<String>) {
        let is_there = found.is_some();
        self.discovery.nat_pmp = Asked::Settled(found);
        self.tell(PortMapperProtocol::NatPmp, Some(IpAddr::V4(self.gateway)), is_there, external, detail);
    }

    fn settle_pcp(&mut self, found: bool, detail: Option<String>) {
        self.discovery.pcp = Asked::Settled(found.then_some(()));
        self.tell(PortMapperProtocol::Pcp, Some(IpAddr::V4(self.gateway)), found, None, detail);
    }

    fn settle_upnp(&mut self, found: Option<Control>, detail: Option<String>) {
        let external = found.as_ref().and_then(|control| control.external);
        let is_there = found.is_some();
        self.discovery.upnp = Upnp::Settled(found);
        self.tell(PortMapperProtocol::Upnp, Some(IpAddr::V4(self.gateway)), is_there, external, detail);
    }

    fn tell(
        &mut self,
        protocol: PortMapperProtocol,
        gateway: Option<IpAddr>,
        found: bool,
        external: Option<IpAddr>,
        detail: Option<String>,
    ) {
        let fact = Measurement::PortMapper { protocol, gateway, found, external, detail };
        self.outputs.push_back(Output::Event(EventKind::Measured(fact)));
    }
}

/// A whole response, or why there is none.
pub(super) fn read(result: Result<&[u8], &str>) -> Result<http::Response, String> {
    match http::response(result.map_err(shown)?, true) {
        Progress::Complete(response) => Ok(response),
        Progress::More => Err("it ends in the middle".to_owned()),
        Progress::Bad(why) => Err(why.to_owned()),
    }
}
