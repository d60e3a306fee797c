//! IPsec policies that can touch the session's packets, by NETLINK_XFRM (linux/xfrm.h).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

use whyrelay_core::host::{HostFact, IpsecDirection, IpsecPolicy, IpsecTemplate, Link, Prefix, Subject};

use super::netlink::{Netlink, attributes};
use super::{Emit, Scope};

const NETLINK_XFRM: isize = 6;
const XFRM_MSG_GETSA: u16 = 18;
const XFRM_MSG_GETPOLICY: u16 = 21;

/// Lengths of `xfrm_userpolicy_info`, `xfrm_usersa_info` and `xfrm_user_tmpl`.
const POLICY: usize = 168;
const STATE: usize = 224;
const TEMPLATE: usize = 64;

/// Attributes: `XFRMA_TMPL`, `XFRMA_MARK`, `XFRMA_IF_ID`.
const TEMPLATES: u16 = 5;
const MARK: u16 = 21;
const INTERFACE_ID: u16 = 31;

/// Most policies that are recorded.
const MAX_RECORDED: usize = 64;

/// Keys that the kernel has: where they lead, and for which protocol.
type States = Vec<(IpAddr, u8)>;

/// Reads the policies and emits those that can touch what the session sends or hears.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN, EPROTONOSUPPORT where the kernel has no IPsec.
pub(super) fn facts(scope: &Scope, links: &BTreeMap<u32, Link>, emit: &mut Emit<'_>) -> io::Result<()> {
    let states = states()?;
    let remotes: Vec<IpAddr> = scope.remotes().collect();
    let (mut total, mut recorded) = (0, Vec::new());
    Netlink::open(NETLINK_XFRM)?.dump(XFRM_MSG_GETPOLICY, &[], |_, body| {
        let Some(policy) = policy(body, links, &states) else { return ControlFlow::Continue(()) };
        let far = match policy.direction {
            IpsecDirection::In => &policy.source,
            IpsecDirection::Out => &policy.destination,
            IpsecDirection::Forward => return ControlFlow::Continue(()),
        };
        if remotes.iter().any(|remote| far.contains(*remote)) {
            total += 1;
            // Those of an interface of IPsec's own are about what is routed there.
            let of_interface = attributes(&body[POLICY..]).any(|(kind, value)| kind == INTERFACE_ID && value != [0; 4]);
            if !of_interface && recorded.len() < MAX_RECORDED {
                recorded.push(policy);
            }
        }
        ControlFlow::Continue(())
    })?;
    let count = recorded.len() as u64;
    recorded.into_iter().for_each(|policy| emit(HostFact::IpsecPolicy(policy)));
    emit(HostFact::Counted { subject: Subject::IpsecPolicies, total, recorded: count });
    Ok(())
}

fn states() -> io::Result<States> {
    let mut states = Vec::new();
    Netlink::open(NETLINK_XFRM)?.dump(XFRM_MSG_GETSA, &[], |_, body| {
        // One without an SPI is only asked for.
        if let Some(body) = body.get(..STATE)
            && body[72..76] != [0; 4]
        {
            let family = u16_at(body, 212);
            states.extend(address(body, 56, family).map(|to| (to, body[76])));
        }
        ControlFlow::Continue(())
    })?;
    Ok(states)
}

/// A policy that is not one socket's own.
fn policy(body: &[u8], links: &BTreeMap<u32, Link>, states: &States) -> Option<IpsecPolicy> {
    let info = body.get(..POLICY)?;
    let family = u16_at(info, 40);
    let direction = match info[160] {
        0 => IpsecDirection::In,
        1 => IpsecDirection::Out,
        2 => IpsecDirection::Forward,
        _ => return None,
    };
    // Value and mask in the order of the network: a range where the mask is a prefix, as it is where anybody sets it.
    let ports = |at: usize| {
        let (value, mask) =
            (u16::from_be_bytes([info[at], info[at + 1]]), u16::from_be_bytes([info[at + 2], info[at + 3]]));
        (mask != 0).then_some((value & mask, value | !mask))
    };
    let (mut templates, mut mark) = (Vec::new(), None);
    for (kind, value) in attributes(&body[POLICY..]) {
        match kind {
            TEMPLATES => templates.extend(value.chunks_exact(TEMPLATE).filter_map(|bytes| template(bytes, states))),
            MARK if value.len() == 8 => {
                let (value, bits) = (u32_at(value, 0), u32_at(value, 4));
                mark = (bits != 0).then_some((value, bits));
            }
            _ => {}
        }
    }
    let index = u32_at(info, 48);
    Some(IpsecPolicy {
        direction,
        blocks: info[161] == 1,
        priority: u32_at(info, 152),
        source: Prefix { address: address(info, 16, family)?, length: info[43] },
        destination: Prefix { address: address(info, 0, family)?, length: info[42] },
        protocol: (info[44] != 0).then_some(info[44]),
        source_ports: ports(36),
        destination_ports: ports(32),
        device: (index != 0)
            .then(|| links.get(&index).map_or_else(|| format!("index {index}"), |link| link.device.clone())),
        mark,
        templates,
    })
}

fn template(bytes: &[u8], states: &States) -> Option<IpsecTemplate> {
    let family = u16_at(bytes, 24);
    let (destination, protocol) = (address(bytes, 0, family)?, bytes[20]);
    let mode = match bytes[48] {
        0 => "transport".to_owned(),
        1 => "tunnel".to_owned(),
        4 => "beet".to_owned(),
        other => other.to_string(),
    };
    let leads_there = |(to, by): &(IpAddr, u8)| *by == protocol && (*to == destination || destination.is_unspecified());
    Some(IpsecTemplate {
        source: address(bytes, 28, family)?,
        destination,
        protocol,
        mode,
        optional: bytes[50] != 0,
        is_set_up: Some(states.iter().any(leads_there)),
    })
}

/// An address of 16 bytes room; none of a family that is neither of the two.
fn address(bytes: &[u8], at: usize, family: u16) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}
