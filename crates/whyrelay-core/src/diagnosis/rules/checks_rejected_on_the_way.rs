//! A router or firewall refuses the checks and says so.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::hops::{at_router, whose_refusal};
use super::{Examination, Fault, Fix, Need, Rule, udp_blocked};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::routes::mark_keeps_from_servers;
use crate::diagnosis::session::{Path, Session};
use crate::host::{ProbeAim, ProbeOutcome};
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR513",
    name: "checks-rejected-on-the-way",
    title: "a router or firewall refuses the checks and says so",
    meaning: "An ICMP error came back for the checks: a router on the way, or the firewall of the peer's host or network, refuses them and says so (administratively prohibited, or unreachable; nftables and iptables say \"port unreachable\" unless told otherwise).",
    detection: "The error queue of the socket: ICMP type 3 with a code other than \"fragmentation needed\", from an address that is not this host's own, for an address of the peer that could be reached from here: a private one in another network is refused everywhere. \"Port unreachable\" counts from a router only: from an address of the peer it says that the port is closed there. Whose fault it is says the offender's address: on a side's own network or way out, or between the two; a private one that is neither is the sender's only where a packet of low TTL ended there ahead of the first public router. Where a mark leads the session's own packets away: such an error for a plain program's checks.",
    proof: "The offender's address in the cited event, and who that is on traceroute.",
    doubt: "The same pair with an answer later: then the refusal was temporary.",
    fixes: &[
        Fix::firewall("If the offender is the peer or its router: allow inbound UDP to the peer's port there."),
        Fix::owner("If it is a router on the way: ask whoever runs it to let UDP between the two addresses pass."),
    ],
    threads: &["firewalld/firewalld#1452"],
    depends_on: &["WR801", "WR111"],
    needs: &[Need::Sockets],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(refusals(session).into_iter().map(|(_, fault)| fault).collect())
}

/// Whether somebody else than who has the peer's address refuses the checks of a side.
pub(in crate::diagnosis) fn is_on_the_way(session: &Session<'_>) -> bool {
    refusals(session).iter().any(|(on_the_way, fault)| *on_the_way && !fault.hidden)
}

/// The faults, and whether somebody else than who has the peer's address refuses.
fn refusals(session: &Session<'_>) -> Vec<(bool, Fault)> {
    let mut faults = Vec::new();
    // Who refuses everything over UDP refuses checks, too: that is one cause, and has a rule of its own.
    let blocked: Vec<Blame> = match udp_blocked::examine(session) {
        Examination::Found(faults) => faults.iter().map(|fault| fault.blame).collect(),
        _ => Vec::new(),
    };
    for vantage in session.recorded().filter(|_| session.path != Path::Direct) {
        if blocked.contains(&Blame::side(vantage)) {
            continue;
        }
        // Nor is it about the path to the peer where a mark leads all packets away from it.
        if mark_keeps_from_servers(session, vantage) {
            faults.extend(plainly(session, vantage).map(|fault| (true, fault)));
            continue;
        }
        let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
        let checked: BTreeSet<SocketAddr> = side.sent.values().map(|check| check.pair.remote).collect();
        let refused = side.icmp_errors.iter().filter_map(|((_, remote, icmp_type, code), error)| {
            let offender = error.offender.filter(|offender| !is_own(side, *offender))?;
            let unreachable = is_unreachable(side, *remote, offender, (*icmp_type, *code));
            let checked = checked.contains(remote) && !is_elsewhere(side, *remote);
            // The peer's own host has a rule of its own.
            let by_peer = is_own(peer, offender);
            (unreachable && checked && !by_peer).then_some((error.seq, *remote, offender, *icmp_type, *code))
        });
        let refused: Vec<_> = refused.collect();
        let Some((_, remote, offender, icmp_type, code)) = refused.iter().min() else { continue };
        let (blame, advice, whose) = refuser(session, vantage, *offender, *remote);
        let fault = Fault {
            blame,
            advice_is_all: !advice.is_empty(),
            advice,
            severity: session.harm(),
            summary: format!(
                "{offender}{whose} refuses the checks of {} to {remote} (ICMP {icmp_type}/{code}: {})",
                vantage.name(),
                meaning(*icmp_type, *code)
            ),
            evidence: refused.iter().map(|(seq, ..)| *seq).collect(),
            ..Fault::default()
        };
        faults.push((*offender != remote.ip(), fault));
    }
    faults
}

/// Whose fault a router's refusal is, what to do about it where it is the side's own, and whose router that is, for a
/// sentence.
fn refuser(session: &Session<'_>, from: Vantage, offender: IpAddr, remote: SocketAddr) -> (Blame, Vec<Remedy>, String) {
    // The peer's own address: its host or the router in front of it.
    let owner = if offender == remote.ip() { Some(from.other()) } else { whose_refusal(session, from, offender) };
    match owner {
        Some(own) if own == from => {
            // With the other recording it may turn out that this router refuses all of UDP, which has a rule of its own.
            let is_known = session.recorded().count() == 2;
            let blame = if is_known { Blame::side(own) } else { Blame::Path };
            (blame, vec![at_router(own, offender, remote.ip())], format!(", on the side of {},", own.name()))
        }
        Some(peer) => (Blame::side(peer), Vec::new(), String::new()),
        None => (Blame::Path, Vec::new(), String::new()),
    }
}

/// The same of checks from a plain program's socket.
fn plainly(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let plain = side.host.probes_with(|aim| matches!(aim, ProbeAim::Plain | ProbeAim::WithoutMark));
    let refused: Vec<_> = plain
        .filter_map(|probe| {
            let ProbeOutcome::Icmp { offender: Some(offender), icmp_type, icmp_code, .. } = probe.fact.result else {
                return None;
            };
            let remote = probe.fact.remote;
            let on_the_way = !is_own(side, offender) && !is_own(peer, offender) && !is_elsewhere(side, remote);
            (on_the_way && is_unreachable(side, remote, offender, (icmp_type, icmp_code)))
                .then_some((probe.seq, remote, offender, icmp_type, icmp_code))
        })
        .collect();
    let (_, remote, offender, icmp_type, code) = refused.iter().min()?;
    let (blame, advice, whose) = refuser(session, vantage, *offender, *remote);
    Some(Fault {
        blame,
        advice_is_all: !advice.is_empty(),
        advice,
        severity: session.harm(),
        summary: format!(
            "{offender}{whose} refuses the checks of {} to {remote} from a plain program's socket (ICMP {icmp_type}/{code}: {})",
            vantage.name(),
            meaning(*icmp_type, *code)
        ),
        evidence: refused.iter().map(|(seq, ..)| *seq).collect(),
        hidden: true,
        ..Fault::default()
    })
}

/// Whether an error says that what was sent to an address is refused, and not that its port is closed: the peer's host
/// says that itself, or the NAT that has its address.
fn is_unreachable(side: &SideEvidence, remote: SocketAddr, offender: IpAddr, (icmp_type, code): (u8, u8)) -> bool {
    let closed = || offender == remote.ip() || side.known.is_told(offender);
    if remote.is_ipv4() {
        icmp_type == 3 && code != 4 && !(code == 3 && closed())
    } else {
        icmp_type == 1 && !(code == 4 && closed())
    }
}

/// Whether an address is private and in no network of this side: providers refuse packets to it, as they should.
fn is_elsewhere(side: &SideEvidence, remote: SocketAddr) -> bool {
    matches!(AddressClass::of(remote.ip()), AddressClass::Private | AddressClass::LinkLocal)
        && !side.known.shares_network(remote.ip())
}

/// Whether an address is one of a side's own.
pub(crate) fn is_own(side: &SideEvidence, address: IpAddr) -> bool {
    side.known.is_own(address)
}

pub(crate) const fn meaning(icmp_type: u8, code: u8) -> &'static str {
    match (icmp_type, code) {
        (3, 0) => "network unreachable",
        (3, 1) => "host unreachable",
        (3, 9 | 10 | 13) | (1, 1 | 5) => "administratively prohibited",
        (3, 3) | (1, 4) => "port unreachable",
        (1, 0) => "no route",
        (1, 3) => "address unreachable",
        (1, 6) => "route rejected",
        _ => "unreachable",
    }
}
