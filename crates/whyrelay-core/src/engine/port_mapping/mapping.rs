//! Making one mapping, and removing it.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use super::discovery::{Control, read};
use super::{EXCHANGE_PATIENCE, ExchangeId, LEASE, Output, Pending, PortMapper};
use crate::time::{Now, Timestamp};
use crate::trace::measurement::PortMapperProtocol;
use crate::wire::portmap::igd::{self, Action, Fault, Outcome};
use crate::wire::portmap::{nat_pmp, pcp};

/// External ports that UPnP is asked for, when the first is somebody else's.
const MAX_PORTS: u32 = 4;

/// Where an external port is drawn from when ours is taken.
const DRAWN_PORTS: std::ops::Range<u16> = 20_000..60_000;

/// Where the mapping stands.
#[derive(Debug)]
pub(super) enum State {
    /// Enters at the start and when no protocol made it; leaves with `Map`.
    Idle,
    /// Enters with a request; leaves with its answer, or when patience ends and the next protocol is asked. `renews`: the
    /// mapping that the request is to prolong, which stands whatever the answer.
    Making { attempt: Attempt, left: Vec<PortMapperProtocol>, refusals: Vec<String>, renews: Option<Made> },
    /// Enters with success; leaves with `Renew` or `Unmap`.
    Made(Made),
    /// Enters with `Unmap` while UPnP's request is under way; leaves with its end, or when patience ends. A router may serve
    /// connections in any order, and what it has refused to us may be somebody else's.
    Stopping { attempt: Attempt, renews: Option<Made> },
    /// Enters with `Unmap`; leaves with an answer or when patience ends.
    Removing { attempt: Attempt },
    /// Enters when all is over.
    Over,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Attempt {
    internal_port: u16,
    /// What UPnP was asked for.
    external_port: u16,
    nonce: [u8; 12],
    lease_s: u32,
    ports_tried: u32,
    by: By,
}

#[derive(Debug)]
enum By {
    Pcp(Pending),
    NatPmp(Pending),
    Upnp { exchange: ExchangeId, until: Timestamp },
}

/// A mapping that exists, or may.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    protocol: PortMapperProtocol,
    internal_port: u16,
    external_port: u16,
    nonce: [u8; 12],
}

impl Attempt {
    fn is_over(&self, now: Now) -> bool {
        matches!(self.by, By::Upnp { until, .. } if now.heard >= until)
    }

    /// What is there if the router has done as it was asked.
    const fn asked_for(&self) -> Made {
        let protocol = match self.by {
            By::Pcp(_) => PortMapperProtocol::Pcp,
            By::NatPmp(_) => PortMapperProtocol::NatPmp,
            By::Upnp { .. } => PortMapperProtocol::Upnp,
        };
        let Self { internal_port, external_port, nonce, .. } = *self;
        Made { protocol, internal_port, external_port, nonce }
    }
}

impl State {
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match self {
            Self::Making { attempt, .. } | Self::Stopping { attempt, .. } | Self::Removing { attempt } => {
                Some(match &attempt.by {
                    By::Pcp(pending) | By::NatPmp(pending) => pending.deadline(),
                    By::Upnp { until, .. } => *until,
                })
            }
            Self::Idle | Self::Made(_) | Self::Over => None,
        }
    }
}

impl PortMapper {
    pub(super) fn map(&mut self, internal_port: u16) {
        if !matches!(self.mapping, State::Idle) {
            return;
        }
        let mut left = self.discovery.found();
        left.reverse();
        self.map_by_next(internal_port, left, Vec::new());
    }

    /// Asks for the same mapping for as long again, by the protocol that made it.
    pub(super) fn renew(&mut self) {
        let State::Made(made) = self.mapping else { return };
        let Made { protocol, internal_port, external_port, nonce } = made;
        let attempt = match protocol {
            PortMapperProtocol::Pcp => Some(self.ask_pcp(internal_port, nonce, lease_s())),
            PortMapperProtocol::NatPmp => Some(self.ask_nat_pmp(internal_port, lease_s())),
            PortMapperProtocol::Upnp => self.discovery.control().cloned().map(|control| {
                let action = self.add(internal_port, external_port, lease_s());
                // No other port will do.
                self.ask_upnp(&control, action, internal_port, external_port, lease_s(), MAX_PORTS)
            }),
        };
        if let Some(attempt) = attempt {
            let renews = Some(made);
            self.mapping = State::Making { attempt, left: Vec::new(), refusals: Vec::new(), renews };
        }
    }

    pub(super) fn unmap(&mut self) {
        match std::mem::replace(&mut self.mapping, State::Over) {
            State::Made(made) => self.remove(made),
            State::Making { attempt: attempt @ Attempt { by: By::Upnp { .. }, .. }, renews, .. } => {
                self.mapping = State::Stopping { attempt, renews };
            }
            // It may have been made although its answer was lost: ask for its end by the same protocol.
            State::Making { attempt, .. } => self.remove(attempt.asked_for()),
            removing @ (State::Stopping { .. } | State::Removing { .. }) => self.mapping = removing,
            State::Idle | State::Over => self.removed(true),
        }
    }

    fn remove(&mut self, made: Made) {
        let attempt = match made.protocol {
            PortMapperProtocol::Pcp => Some(self.ask_pcp(made.internal_port, made.nonce, 0)),
            PortMapperProtocol::NatPmp => Some(self.ask_nat_pmp(made.internal_port, 0)),
            PortMapperProtocol::Upnp => self.discovery.control().cloned().map(|control| {
                let action = Action::Delete { external_port: made.external_port };
                self.ask_upnp(&control, action, made.internal_port, made.external_port, 0, 0)
            }),
        };
        match attempt {
            Some(attempt) => self.mapping = State::Removing { attempt },
            None => self.removed(false),
        }
    }

    /// One is gone, or nobody says so; then what may have been made besides is taken back, too.
    fn removed(&mut self, confirmed: bool) {
        self.mapping = State::Over;
        self.all_gone &= confirmed;
        match self.unanswered.pop() {
            Some(made) => self.remove(made),
            None => self.outputs.push_back(Output::Unmapped { confirmed: self.all_gone }),
        }
    }

    fn map_by_next(&mut self, internal_port: u16, mut left: Vec<PortMapperProtocol>, mut refusals: Vec<String>) {
        while let Some(protocol) = left.pop() {
            let attempt = match protocol {
                PortMapperProtocol::Pcp => {
                    let nonce = self.random.bytes();
                    Some(self.ask_pcp(internal_port, nonce, lease_s()))
                }
                PortMapperProtocol::NatPmp => Some(self.ask_nat_pmp(internal_port, lease_s())),
                PortMapperProtocol::Upnp => self.discovery.control().cloned().map(|control| {
                    let action = self.add(internal_port, internal_port, lease_s());
                    self.ask_upnp(&control, action, internal_port, internal_port, lease_s(), 1)
                }),
            };
            if let Some(attempt) = attempt {
                self.mapping = State::Making { attempt, left, refusals, renews: None };
                return;
            }
        }
        if refusals.is_empty() {
            refusals.push("the router offers none of UPnP, NAT-PMP and PCP".to_owned());
        }
        self.mapping = State::Over;
        self.outputs.push_back(Output::MapFailed { detail: refusals.join("; ") });
    }

    /// Nothing came that tells whether the router has done it: the next protocol is asked, and the end takes this back.
    fn give_up(&mut self, protocol: PortMapperProtocol, why: &str) {
        if let State::Making { attempt, renews: None, .. } = &self.mapping {
            self.unanswered.push(attempt.asked_for());
        }
        self.refuse(protocol, why);
    }

    fn refuse(&mut self, protocol: PortMapperProtocol, why: &str) {
        let why = format!("{}: {why}", protocol.name());
        match std::mem::replace(&mut self.mapping, State::Idle) {
            State::Making { renews: Some(made), .. } => {
                self.mapping = State::Made(made);
                self.outputs.push_back(Output::MapFailed { detail: why });
            }
            State::Making { attempt, left, mut refusals, renews: None } => {
                refusals.push(why);
                self.map_by_next(attempt.internal_port, left, refusals);
            }
            _ => {}
        }
    }

    fn made(&mut self, protocol: PortMapperProtocol, external: Option<IpAddr>, external_port: u16) {
        let State::Making { attempt, .. } = &self.mapping else { return };
        let Attempt { internal_port, nonce, .. } = *attempt;
        self.mapping = State::Made(Made { protocol, internal_port, external_port, nonce });
        self.outputs.push_back(Output::Mapped { protocol, external, external_port });
    }

    fn ask_pcp(&mut self, internal_port: u16, nonce: [u8; 12], lifetime_s: u32) -> Attempt {
        let external_address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let external_port = if lifetime_s == 0 { 0 } else { internal_port };
        let map = pcp::Map { nonce, protocol: pcp::UDP, internal_port, external_port, external_address };
        let (client, operation) = (IpAddr::V4(self.local), pcp::Operation::Map(map));
        let bytes = pcp::Request { lifetime_s, client, operation }.encode();
        let by = By::Pcp(Pending::new(self.now.time, vec![(self.control(), bytes)]));
        Attempt { internal_port, external_port, nonce, lease_s: lifetime_s, ports_tried: 0, by }
    }

    fn ask_nat_pmp(&mut self, internal_port: u16, lifetime_s: u32) -> Attempt {
        // RFC 6886 §3.4: to end a mapping, the external port is zero.
        let external_port = if lifetime_s == 0 { 0 } else { internal_port };
        let mapping = nat_pmp::Mapping { internal_port, external_port, lifetime_s };
        let bytes = nat_pmp::Request::Map(mapping).encode();
        let by = By::NatPmp(Pending::new(self.now.time, vec![(self.control(), bytes)]));
        Attempt { internal_port, external_port, nonce: [0; 12], lease_s: lifetime_s, ports_tried: 0, by }
    }

    fn add(&self, internal_port: u16, external_port: u16, lease_s: u32) -> Action {
        Action::Add { external_port, internal: SocketAddrV4::new(self.local, internal_port), lease_s }
    }

    fn ask_upnp(
        &mut self,
        control: &Control,
        action: Action,
        internal_port: u16,
        external_port: u16,
        lease_s: u32,
        ports_tried: u32,
    ) -> Attempt {
        let exchange = self.exchange(control.target.address, action.request(&control.target, control.service.kind));
        let by = By::Upnp { exchange, until: self.now.time + EXCHANGE_PATIENCE };
        Attempt { internal_port, external_port, nonce: [0; 12], lease_s, ports_tried, by }
    }

    pub(super) fn advance_mapping(&mut self) {
        if let State::Stopping { attempt, .. } = &self.mapping
            && attempt.is_over(self.now)
        {
            self.remove(attempt.asked_for());
        }
        let (attempt, removing) = match &mut self.mapping {
            State::Making { attempt, .. } => (attempt, false),
            State::Removing { attempt } => (attempt, true),
            State::Idle | State::Made(_) | State::Stopping { .. } | State::Over => return,
        };
        let (alive, protocol) = match &mut attempt.by {
            By::Pcp(pending) => (pending.advance(self.now, &mut self.outputs), PortMapperProtocol::Pcp),
            By::NatPmp(pending) => (pending.advance(self.now, &mut self.outputs), PortMapperProtocol::NatPmp),
            By::Upnp { until, .. } => (self.now.heard < *until, PortMapperProtocol::Upnp),
        };
        match (alive, removing) {
            (true, _) => {}
            (false, true) => {
                self.removed(false);
                self.advance_mapping();
            }
            (false, false) => {
                self.give_up(protocol, "no answer");
                // What was asked of the next one leaves at once.
                self.advance_mapping();
            }
        }
    }

    /// The router's answer to NAT-PMP or PCP.
    pub(super) fn mapped_by(&mut self, bytes: &[u8]) {
        let (attempt, removing) = match &self.mapping {
            State::Making { attempt, .. } => (attempt, false),
            State::Removing { attempt } => (attempt, true),
            State::Idle | State::Made(_) | State::Stopping { .. } | State::Over => return,
        };
        let internal_port = attempt.internal_port;
        match attempt.by {
            By::Pcp(_) => {
                let Some(response) = pcp::Response::decode(bytes) else { return };
                let pcp::Operation::Map(map) = response.operation else { return };
                if map.nonce != attempt.nonce || map.internal_port != internal_port || map.protocol != pcp::UDP {
                    return;
                }
                match (response.result, removing) {
                    (result, true) => self.removed(result == pcp::ResultCode::SUCCESS),
                    (pcp::ResultCode::SUCCESS, false) => {
                        let external = Some(map.external_address).filter(|ip| !ip.is_unspecified());
                        self.made(PortMapperProtocol::Pcp, external, map.external_port);
                    }
                    (result, false) => self.refuse(PortMapperProtocol::Pcp, result.name()),
                }
            }
            By::NatPmp(_) => match (nat_pmp::Response::decode(bytes), removing) {
                (Some(nat_pmp::Response::Mapped { mapping, .. }), _) if mapping.internal_port != internal_port => {}
                // A late answer to the request that made it has a lifetime still.
                (Some(nat_pmp::Response::Mapped { mapping, .. }), true) if mapping.lifetime_s == 0 => {
                    self.removed(true)
                }
                (Some(nat_pmp::Response::Mapped { mapping, .. }), false) if mapping.lifetime_s > 0 => {
                    let external = self.discovery.external();
                    self.made(PortMapperProtocol::NatPmp, external, mapping.external_port);
                }
                (Some(nat_pmp::Response::Refused { operation: 1, .. }), true) => self.removed(false),
                (Some(nat_pmp::Response::Refused { operation: 1, result }), false) => {
                    self.refuse(PortMapperProtocol::NatPmp, result.name());
                }
                _ => {}
            },
            By::Upnp { .. } => {}
        }
    }

    /// The router's answer to UPnP.
    pub(super) fn mapped_over(&mut self, exchange: ExchangeId, result: Result<&[u8], &str>) {
        let (attempt, removing) = match &self.mapping {
            State::Making { attempt, .. } | State::Stopping { attempt, .. } => (attempt, false),
            State::Removing { attempt } => (attempt, true),
            State::Idle | State::Made(_) | State::Over => return,
        };
        if !matches!(attempt.by, By::Upnp { exchange: wanted, .. } if wanted == exchange) {
            return;
        }
        let asked_for = attempt.asked_for();
        let Attempt { internal_port, external_port, lease_s, ports_tried, .. } = *attempt;
        let outcome = read(result).map(|response| igd::outcome(&response));
        if removing {
            let gone = |fault: &Fault| fault.code == Fault::NO_SUCH_ENTRY;
            return self.removed(match &outcome {
                Ok(Outcome::Done { .. }) => true,
                Ok(Outcome::Fault(fault)) => gone(fault),
                Err(_) => false,
            });
        }
        if let State::Stopping { renews, .. } = self.mapping {
            return match (outcome, renews) {
                (Ok(Outcome::Fault(_)), None) => self.removed(true),
                (Ok(Outcome::Fault(_)), Some(made)) => self.remove(made),
                (Ok(Outcome::Done { .. }) | Err(_), _) => self.remove(asked_for),
            };
        }
        let Some(control) = self.discovery.control().cloned() else { return };
        match outcome {
            Ok(Outcome::Done { .. }) => self.made(PortMapperProtocol::Upnp, control.external, external_port),
            Ok(Outcome::Fault(Fault { code: Fault::ONLY_PERMANENT, .. })) if lease_s > 0 => {
                self.again(&control, internal_port, external_port, 0, ports_tried);
            }
            Ok(Outcome::Fault(Fault { code: Fault::CONFLICT, .. })) if ports_tried < MAX_PORTS => {
                let span = u64::from(DRAWN_PORTS.end - DRAWN_PORTS.start);
                let drawn = DRAWN_PORTS.start + u16::try_from(self.random.below(span)).unwrap_or(0);
                self.again(&control, internal_port, drawn, lease_s, ports_tried + 1);
            }
            Ok(Outcome::Fault(fault)) => self.refuse(PortMapperProtocol::Upnp, &fault.to_string()),
            Err(why) => self.give_up(PortMapperProtocol::Upnp, &why),
        }
    }

    fn again(&mut self, control: &Control, internal_port: u16, external_port: u16, lease_s: u32, ports_tried: u32) {
        let action = self.add(internal_port, external_port, lease_s);
        let next = self.ask_upnp(control, action, internal_port, external_port, lease_s, ports_tried);
        if let State::Making { attempt, .. } = &mut self.mapping {
            *attempt = next;
        }
    }
}

fn lease_s() -> u32 {
    u32::try_from(LEASE.as_secs()).unwrap_or(u32::MAX)
}
