//! a side has no address to use.

use std::net::IpAddr;

use super::errno::EADDRNOTAVAIL;
use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::evidence::{ServerPath, SideEvidence};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::host::leads_to_guests;
use crate::trace::address::AddressClass;
use crate::trace::event::{InterfaceUse, Side};
use crate::trace::measurement::Measurement;

pub(super) const RULE: Rule = Rule {
    code: "WR102",
    name: "no-usable-address",
    title: "a side has no address to use",
    meaning: "No interface of this host is up with a usable address, or the options exclude all of them, so there is not even a host candidate.",
    detection: "Gathering ended on a side without any local candidate, or every interface was left out; in a check, no interface but those to the host's own guests is up with an address that leaves its network, and no server answered.",
    proof: "The cited interfaces with their state.",
    doubt: "An interface that is up with an address.",
    fixes: &[Fix::safe("Bring an interface up."), Fix::safe("Check --interface and --exclude-interface.")],
    threads: &["pion/webrtc#2275", "viamrobotics/goutils#27"],
    depends_on: &["WR801"],
    needs: &[],
    examine,
};

/// Of a host that looks at itself: its interfaces in words, when none of them leads anywhere and nobody answered. Those
/// to its own guests (docker0, virbr0) lead nowhere: they have an address whatever the network is like. A router's br-lan
/// has such a name, too, and a default route tells it from them.
pub(super) fn without_network(side: &SideEvidence) -> Option<String> {
    let leaves = |ip: &IpAddr| !matches!(AddressClass::of(*ip), AddressClass::Loopback | AddressClass::LinkLocal);
    let is_default = |name: &str| {
        let mut facts = side.measured.facts.iter();
        facts.any(|(_, fact)| matches!(fact, Measurement::Gateway { interface, .. } if interface == name))
    };
    let to_guests = |name: &str| leads_to_guests(name) && !is_default(name);
    let has_way = side.interfaces.iter().any(|(_, name, addresses, used)| {
        *used == InterfaceUse::Used && !to_guests(name) && addresses.iter().any(leaves)
    });
    let answered = side.servers.values().any(ServerPath::has_answered);
    let excluded =
        side.interfaces.iter().any(|(.., used)| matches!(used, InterfaceUse::NotIncluded | InterfaceUse::Excluded));
    // A recording without interfaces lacks them: it tells nothing of them.
    if side.measured.alone.is_none() || side.interfaces.is_empty() || has_way || answered || excluded {
        return None;
    }
    let outward = side.interfaces.iter().filter(|(_, name, ..)| !to_guests(name));
    let told = outward.filter_map(|(_, name, _, used)| match used {
        InterfaceUse::Down => Some(format!("{name} is down")),
        InterfaceUse::NoAddress => Some(format!("{name} is up and has no address")),
        InterfaceUse::Used => Some(format!("{name} has no address that leaves its network")),
        _ => None,
    });
    let told: Vec<String> = told.take(MAX_NAMED).collect();
    let has_guests = side.interfaces.iter().any(|(_, name, ..)| to_guests(name));
    Some(match (told.is_empty(), has_guests) {
        (true, false) => "it has no interface but loopback".to_owned(),
        (true, true) => "it has no interface but loopback and those to its own guests".to_owned(),
        (false, _) => told.join(", "),
    })
}

/// Interfaces that are named; hosts of containers have hundreds.
const MAX_NAMED: usize = 4;

/// An address of a VRF can be used by sockets that are bound to it alone (Documentation/networking/vrf.rst of Linux): to
/// others it is not available.
fn in_vrf(side: &SideEvidence, address: IpAddr, errno: i32) -> String {
    let host = &side.host;
    if errno != EADDRNOTAVAIL {
        return String::new();
    }
    let device = host.addresses.iter().find(|own| own.fact.address == address).map(|own| own.fact.device.as_str());
    let master = device.and_then(|device| host.link(device)?.fact.master.as_deref());
    let table = master.and_then(|master| host.link(master)?.fact.vrf_table);
    match (device, master, table) {
        (Some(device), Some(master), Some(table)) => format!(
            "; {device} belongs to the VRF {master} (table {table}): run the program in it, with \"ip vrf exec {master}\" before its command"
        ),
        _ => String::new(),
    }
}

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        if let Some(interfaces) = without_network(side) {
            faults.push(Fault {
                blame: Blame::side(vantage),
                severity: Severity::Error,
                summary: format!("{} has no network: {interfaces}", vantage.name()),
                evidence: side.interfaces.iter().map(|(seq, ..)| *seq).collect(),
                ..Fault::default()
            });
            continue;
        }
        let Some(&end) = side.end_of_candidates.get(&Side::Local) else { continue };
        if !side.local_candidates.is_empty() {
            continue;
        }
        // With --relay-only the host's own addresses are left out: what keeps the relay away is the fault then.
        if side.options.relay_only && side.interfaces.iter().any(|(.., used)| *used == InterfaceUse::Used) {
            continue;
        }
        let excluded = side
            .interfaces
            .iter()
            .filter(|(_, _, _, used)| matches!(used, InterfaceUse::NotIncluded | InterfaceUse::Excluded));
        let excluded: Vec<_> = excluded.map(|(_, name, ..)| name.as_str()).collect();
        let why = match (side.socket_failures.first(), excluded.as_slice()) {
            (Some((_, _, local, errno, detail)), _) => {
                format!("the socket at {local} could not be opened: {detail}{}", in_vrf(side, local.ip(), *errno))
            }
            (None, []) => "no interface is up with a usable address".to_owned(),
            (None, names) => format!("the options exclude {}", names.join(", ")),
        };
        let sockets = side.socket_failures.iter().map(|(seq, ..)| *seq);
        faults.push(Fault {
            blame: Blame::side(vantage),
            severity: Severity::Error,
            summary: format!("{} has no candidate at all: {why}", vantage.name()),
            evidence: side.interfaces.iter().map(|(seq, ..)| *seq).chain(sockets).chain([end]).collect(),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
