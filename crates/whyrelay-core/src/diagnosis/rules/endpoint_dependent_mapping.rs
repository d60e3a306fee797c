//! the NAT gives each destination another address.

use super::hops::whose_refusal;
use super::need::SECOND_SERVER;
use super::{
    Examination, Fault, Fix, Need, Rule, container_nat_randomizes_ports, input_firewall_drops, nat_behind_nat,
    next_hop_silent, public_address_varies, udp_blocked, udp_only_to_servers,
};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::network::{Told, has_way_in, told, told_plainly, why_plainly};
use crate::diagnosis::session::{Break, Path, Session};
use crate::diagnosis::views::{Otherwise, View, mapped_otherwise};
use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::host::{ProbeAim, ProbeOutcome, Route};
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR201",
    name: "endpoint-dependent-mapping",
    title: "the NAT gives each destination another address",
    meaning: "The NAT in front of a side maps one socket to different addresses for different destinations (RFC 4787: address-dependent or address-and-port-dependent mapping; many call it symmetric). The address that a STUN server reports is then not the one that the peer sees, so the peer's checks go to a port that nobody listens on.",
    detection: "Two servers report different mapped addresses for the same socket. Or the peer, or a relay, saw checks of that socket come from another port than the only server did, and no packet of the peer can have taken that port before: the NAT does not keep it, or whoever saw the other port had sent nothing there and the router refused nothing; or two of them saw two other ports, of which an early packet explains one alone. Where no server answers the session's own sockets, or they ask a relay alone, a plain program's socket was asked.",
    proof: "Two STUN servers at different addresses, asked from one socket, tell different mapped ports; and the peer sees a third one.",
    doubt: "Equal answers from the same socket once the router is changed, or from another port of the same host: then only this port is affected.",
    fixes: &[STATIC_PORT, FORWARD, PUBLIC],
    threads: &[
        "tailscale/tailscale#864",
        "tailscale/tailscale#5127",
        "tailscale/tailscale#14953",
        "firezone/firezone#3024",
        "netbirdio/docs#933",
    ],
    depends_on: &["WR206", "WR207", "WR108", "WR209"],
    needs: &[Need::Other(uncompared)],
    examine,
};

/// The number of the table that holds the routes of a host without policy routing.
const MAIN_TABLE: u32 = 254;

const STATIC_PORT: Fix =
    Fix::owner("Turn on static-port outbound NAT on that router (pfSense, OPNsense) or endpoint-independent mapping.");

const FORWARD: Fix = Fix::owner(
    "Forward a port to that host by PCP, NAT-PMP or UPnP (whyrelay --try mapping), so that the peer is told of it; a forward by hand helps only where the router also sends from the forwarded port.",
);

const PUBLIC: Fix = Fix::owner("Give one of the two sides a public address, or IPv6.");

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| of_side(session, vantage).0).collect())
}

/// What two servers tell one socket, where they were not asked and nobody else tells.
fn uncompared(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    (!of_side(session, vantage).1).then(|| SECOND_SERVER.to_owned())
}

/// The fault of a side, and whether anything was compared.
fn of_side(session: &Session<'_>, vantage: Vantage) -> (Option<Fault>, bool) {
    let side = session.evidence.side(vantage);
    let (fault, compared) = by_servers(session, vantage, told(side));
    let fault = fault.or_else(|| by_view(session, vantage));
    // Packets of such a NAT come to the peer's interface all the same: it is the peer's own firewall that takes them.
    let comes_in = input_firewall_drops::stranger(session, vantage.other()).is_some();
    let fault = fault.map(|fault| Fault { severity: if comes_in { Severity::Info } else { fault.severity }, ..fault });
    if fault.is_some() {
        return (fault, true);
    }
    let (plainly, also_compared) = by_servers(session, vantage, told_plainly(side));
    // What explains different answers has no finding of its own that is about the session's packets.
    let explained = || {
        public_address_varies::plainly(session, vantage).is_some()
            || container_nat_randomizes_ports::own_translation(session, vantage).is_some()
    };
    let plainly = plainly.filter(|_| !explained()).map(|fault| Fault {
        summary: format!("{}{}", fault.summary, why_plainly(side)),
        hidden: true,
        ..fault
    });
    (plainly, compared || also_compared)
}

/// The same as far as servers tell.
fn by_servers(session: &Session<'_>, vantage: Vantage, told: Vec<Told>) -> (Option<Fault>, bool) {
    let rivals = session.rivals(vantage);
    // Where there is no NAT there is nothing to compare.
    let mut compared = told.iter().any(|told| told.mapped == told.local);
    // What each socket was told by servers outside of its own network, in the order of the events.
    let mut by_socket: BTreeMap<(SocketAddr, bool), Vec<Told>> = BTreeMap::new();
    for told in told {
        if told.mapped != told.local && AddressClass::of(told.mapped.ip()) == AddressClass::Public {
            by_socket.entry((told.local, told.mapped.is_ipv6())).or_default().push(told);
        }
    }
    for ((local, _), answers) in by_socket {
        let Some(first) = answers.first() else { continue };
        let others = || answers.iter().filter(|other| other.server != first.server);
        let differing = || {
            others()
                .filter(|other| other.mapped.ip() == first.mapped.ip() && other.mapped.port() != first.mapped.port())
        };
        // Which of two sockets the NAT gives the port to says nothing of the NAT.
        let other = differing().find(|other| !rivals.contend(first, other));
        compared |= other.is_some() || others().next().is_some() && differing().next().is_none();
        let Some(other) = other else { continue };
        let fault = Fault {
            blame: Blame::side(vantage),
            severity: Severity::Warning,
            summary: format!(
                "The NAT of {} maps {local} to {} towards {} and to {} towards {}",
                vantage.name(),
                first.mapped,
                first.server,
                other.mapped,
                other.server
            ),
            evidence: vec![first.seq, other.seq],
            advice: advice(session, vantage),
            advice_is_all: is_all(session, vantage),
            ..Fault::default()
        };
        return (Some(fault), true);
    }
    (None, compared)
}

/// Somebody who is no server saw the same socket at another port, and no early packet explains that.
fn by_view(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let Otherwise { told, view, second } = mapped_otherwise(session, vantage)?;
    let there = vantage.other().name();
    let towards = |view: &View| {
        let observer = if view.by_relay { format!("the relay of {there}") } else { there.to_owned() };
        format!("to {} towards {observer} ({})", view.seen, view.observer)
    };
    let others = match &second {
        None => format!(" and {}", towards(&view)),
        Some(second) => format!(", {} and {}", towards(&view), towards(second)),
    };
    let doubt = "A second server at another address that tells the same port: then something took it from this socket. Or another port of the same host that is mapped alike: then only this port is affected.";
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Warning,
        summary: format!(
            "The NAT of {} maps {} to {} towards {}{others}",
            vantage.name(),
            told.local,
            told.mapped,
            told.server
        ),
        evidence: [told.seq, view.seq].into_iter().chain(second.map(|second| second.seq)).collect(),
        advice: advice(session, vantage),
        advice_is_all: is_all(session, vantage),
        // Two other ports leave no such doubt.
        doubt: second.is_none().then(|| doubt.to_owned()),
        ..Fault::default()
    })
}

/// Behind two NATs nothing that is done on the inner router leads in: which of the two maps by destination is not known.
fn advice(session: &Session<'_>, vantage: Vantage) -> Vec<Remedy> {
    let mut advice = by_other_uplink(session, vantage);
    advice.extend(outside_of_container(session, vantage));
    let public = match closed_port(session, vantage) {
        Some(closed) => {
            let there = vantage.other().name();
            vec![Remedy::owner(format!(
                "Let UDP port {} in to {} from any address and port, on the firewall in front of {there}: {there} has a public address, and what {} sends there does not arrive",
                closed.port(),
                closed.ip(),
                vantage.name()
            ))]
        }
        None if input_firewall_drops::stranger(session, vantage.other()).is_some() => Vec::new(),
        None => vec![remedy(PUBLIC)],
    };
    if nat_behind_nat::is_behind_two(session, vantage) {
        advice.push(Remedy::owner(
            "Ask the provider, or who runs the outer router, for a public IPv4 address: with a second NAT in front, forwarding a port on the own router is not enough",
        ));
        advice.extend(public);
    } else if has_way_in(session, vantage) {
        // A forward is there.
        advice.push(remedy(STATIC_PORT));
        advice.extend(public);
    } else if is_all(session, vantage) {
        advice.extend([remedy(STATIC_PORT), remedy(FORWARD)]);
        advice.extend(public);
    }
    advice
}

/// Whether the fixes of the rule do not all help.
fn is_all(session: &Session<'_>, vantage: Vantage) -> bool {
    nat_behind_nat::is_behind_two(session, vantage)
        || has_way_in(session, vantage)
        || closed_port(session, vantage).is_some()
        || input_firewall_drops::stranger(session, vantage.other()).is_some()
}

/// The public address of the other side, which has no NAT in front, where nothing that a side sends there arrives, at its
/// interface neither: a firewall in front of it lets in only what it asked for.
pub(in crate::diagnosis) fn closed_port(session: &Session<'_>, vantage: Vantage) -> Option<SocketAddr> {
    let there = vantage.other();
    if session.path == Path::Direct || session.network(there, false).translates != Some(false) {
        return None;
    }
    let open = told(session.evidence.side(there)).into_iter().filter(|told| told.mapped == told.local);
    let mut open = open.map(|told| told.local).filter(SocketAddr::is_ipv4);
    // Where nobody looked at the interface it is not known.
    let came = session.evidence.side(there).unheard().is_none_or(|unheard| !unheard.is_empty());
    let is_lost = |to: &SocketAddr| {
        let mut checks = session.pairs.iter().filter(|pair| session.could_arrive(pair, vantage));
        checks.any(|pair| {
            let remote = pair.side(vantage).map(|own| own.pair.remote);
            remote == Some(*to) && pair.from(vantage).broken == Some(Break::OnTheWay)
        })
    };
    open.find(|local| !came && is_lost(local) && !is_stopped_here(session, vantage, *local))
}

/// Whether something on the own side of what is sent to an address may be why nothing of it arrives there.
fn is_stopped_here(session: &Session<'_>, vantage: Vantage, to: SocketAddr) -> bool {
    let side = session.evidence.side(vantage);
    let is_found = |rule: &Rule| match (rule.examine)(session) {
        Examination::Found(faults) => faults.iter().any(|fault| fault.blame.may_concern(Blame::side(vantage))),
        _ => false,
    };
    let refused = || {
        side.icmp_errors.iter().any(|((_, remote, icmp_type, code), error)| {
            let is_there =
                |offender| offender == to.ip() || whose_refusal(session, vantage, offender) == Some(vantage.other());
            *remote == to && *icmp_type == 3 && *code != 4 && !error.offender.is_some_and(is_there)
        })
    };
    side.send_failures.keys().any(|(_, remote, _)| remote.is_ipv4())
        || !session.diversions(vantage).is_empty()
        || refused()
        || [udp_blocked::RULE, udp_only_to_servers::RULE, next_hop_silent::RULE].iter().any(is_found)
}

/// Another uplink of the side with a default route, by which a check of the peer is answered over IPv4 while nothing direct
/// works, and packets to servers go by another that is no tunnel.
pub(in crate::diagnosis) fn other_uplink<'a>(session: &'a Session<'_>, vantage: Vantage) -> Option<&'a str> {
    let side = session.evidence.side(vantage);
    let bound = side.host.probes_with(|aim| matches!(aim, ProbeAim::Device { .. }));
    let mut answered = bound.filter(|probe| {
        let is_answered = matches!(probe.fact.result, ProbeOutcome::Answered { .. });
        is_answered && probe.fact.remote.is_ipv4() && !side.known.is_server(probe.fact.remote)
    });
    let is_tunnel = |device: &str| side.host.link(device).is_none_or(|link| link.fact.is_tunnel());
    let by_servers: Vec<_> = side
        .host
        .routes_to_servers()
        .filter(|answer| answer.fact.question.out_device.is_none() && answer.fact.question.destination.is_ipv4())
        .map(|answer| answer.fact.device())
        .collect();
    // What goes into a tunnel is to go there, whatever the metric of another default route.
    if by_servers.is_empty() || by_servers.iter().flatten().any(|device| is_tunnel(device)) {
        return None;
    }
    let has_default = |device: &str| {
        let whole = |route: &Route| route.destination.length == 0 && route.destination.address.is_ipv4();
        side.host.routes.iter().any(|route| {
            route.fact.table == MAIN_TABLE && whole(&route.fact) && route.fact.device.as_deref() == Some(device)
        })
    };
    let is_other = |device: &str| !by_servers.contains(&Some(device)) && !is_tunnel(device) && has_default(device);
    answered.find_map(|probe| match &probe.fact.aim {
        ProbeAim::Device { device } if session.path != Path::Direct && is_other(device) => Some(device.as_str()),
        _ => None,
    })
}

/// That uplink has another NAT in front.
fn by_other_uplink(session: &Session<'_>, vantage: Vantage) -> Vec<Remedy> {
    let advice = other_uplink(session, vantage).map(|device| {
        Remedy::cuts(format!(
            "Let {} send by {device}, where a check of the peer is answered: give the default route of {device} the lowest metric",
            vantage.name()
        ))
        .run("ip route show default")
    });
    advice.into_iter().collect()
}

fn remedy(fix: Fix) -> Remedy {
    Remedy { effect: fix.effect, ..Remedy::safe(fix.text) }
}

/// From inside of a container it is not known whose NAT it is: the host's own may draw ports as well.
fn outside_of_container(session: &Session<'_>, vantage: Vantage) -> Vec<Remedy> {
    let container = session.evidence.side(vantage).host.container.as_ref();
    let looked = container.map(|container| {
        Remedy::safe(format!(
            "{} runs in a container ({container}): run whyrelay on its host, too. If that is mapped alike, the container's network draws random ports (masquerade --random-fully), and host networking helps; if not, the router in front does it",
            vantage.name()
        ))
    });
    looked.into_iter().collect()
}
