//! Another host behind the NAT uses the same port.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::network::{Told, told};
use crate::diagnosis::session::{Break, Path, Session};
use crate::diagnosis::views::{Otherwise, mapped_otherwise};
use crate::host::{ProbeAim, ProbeOutcome};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR207",
    name: "port-shared-behind-nat",
    title: "another host behind the NAT uses the same port",
    meaning: "Two hosts behind one NAT use the same port, as every NetBird or WireGuard host does by default (51820). So do two sockets of one host that has the port on two addresses and sends from both by one interface. The NAT can preserve the port for one of them only: for the other the mapping depends on the destination, although the NAT is endpoint-independent for every other port.",
    detection: "The mapping of the session's port differs from server to server, and that of another port of the same host does not; or, where only one server was asked, the peer saw another port than it, and the NAT keeps another port of the host towards the server and not the session's. Or this host itself sends from a second address by the same interface, and the NAT keeps the port but towards destinations where that one's packets came first, or the peer sees the second address's packets come from there.",
    proof: "The router's connection table has entries of another host with the same port.",
    doubt: "A mapping that differs for another port, too: then the NAT is endpoint-dependent by itself.",
    fixes: &[
        Fix::safe("Give this host another port: whyrelay --port 51821."),
        Fix::cuts(
            "For NetBird: netbird down && netbird up --wireguard-port 51821; for Tailscale: PORT in /etc/default/tailscaled and a restart of tailscaled, or randomizeClientPort in the policy file.",
        ),
    ],
    threads: &["tailscale/tailscale#3105", "tailscale/tailscale#16300", "netbirdio/netbird#2703"],
    depends_on: &["WR108"],
    needs: &[Need::OtherSide, Need::Other(unprobed)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let found = session.recorded().filter_map(|vantage| {
        own_socket(session, vantage).or_else(|| fault(session, vantage)).or_else(|| not_kept(session, vantage))
    });
    let found: Vec<_> = found.collect();
    match session.recorded().find_map(|vantage| unseen(session, vantage)).filter(|_| found.is_empty()) {
        Some(missing) => Examination::Inconclusive { missing },
        None => Examination::of(found),
    }
}

/// A side sends from two addresses by one interface, its checks are not answered, and from where the peer sees them, if
/// it does, is not known.
fn unseen(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    let lost = session
        .pairs
        .iter()
        .filter(|pair| session.could_arrive(pair, vantage) && pair.from(vantage).broken == Some(Break::Somewhere));
    let mut own = lost.filter_map(|pair| pair.side(vantage)).map(|side| side.pair.local);
    let (own, (rival, _)) = own.find_map(|own| Some((own, session.rivals(vantage).of(own)?)))?;
    let (here, there) = (vantage.name(), vantage.other().name());
    Some(format!(
        "where {there} sees the checks of {here} come from, which sends from {own} and {rival} by one interface: the recording of {there}"
    ))
}

/// The other host is this one: a socket on the same port of another of its addresses, whose packets leave by the same
/// interface.
fn own_socket(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let (told, rivals) = (told(side), session.rivals(vantage));
    if rivals.others_vary() {
        return None;
    }
    told.iter().find_map(|first| {
        let (rival, answer) = rivals.of(first.local)?;
        let by_server = told.iter().find(|other| other.local == first.local && rivals.contend(first, other));
        // The peer saw the other socket's checks come from where servers see this one.
        let by_peer = || {
            side.sent.iter().filter(|(_, check)| check.pair.local == rival).find_map(|(id, check)| {
                let seen = peer.received.get(id).map(|received| (received.pair.remote, received.seq));
                let (from, seq) = seen.or_else(|| Some((check.mapped()?, check.answer.as_ref()?.seq)))?;
                (from == first.mapped && !peer.is_relayed(check.pair.remote)).then_some(seq)
            })
        };
        let seq = by_server.map(|other| other.seq).or_else(by_peer)?;
        let device = side.host.addresses.iter().find(|known| known.fact.address == rival.ip())?;
        Some(Fault {
            blame: Blame::side(vantage),
            severity: if session.path == Path::Direct { Severity::Info } else { Severity::Warning },
            summary: format!(
                "{} sends from {} and from {rival} by the same interface, and its NAT can give the port {} to one of the two only",
                vantage.name(),
                first.local,
                first.local.port()
            ),
            evidence: vec![first.seq, answer.seq, device.seq, seq],
            advice: vec![Remedy::safe(format!(
                "Leave {} out: whyrelay with --exclude-interface {0}",
                device.fact.device
            ))],
            ..Fault::default()
        })
    })
}

/// How another port of a host is mapped, where the session's is mapped by destination.
fn unprobed(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    let side = session.evidence.side(vantage);
    let told = told(side);
    // By what two servers told, or one and somebody else.
    let by_servers = dependent(&told).map(|(first, _)| *first);
    let first = by_servers.or_else(|| Some(mapped_otherwise(session, vantage)?.told))?;
    let by_socket = told.iter().any(|other| other.local != first.local && other.local.ip() == first.local.ip());
    let by_probe = side.host.probes_with(|aim| *aim == ProbeAim::OtherPort).next().is_some();
    (!by_socket && !by_probe).then(|| "how the NAT maps another port".to_owned())
}

/// Two answers by which the mapping of one socket depends on the destination.
fn dependent(told: &[Told]) -> Option<(&Told, &Told)> {
    told.iter().find_map(|first| {
        let other = told.iter().find(|other| {
            other.local == first.local
                && other.server != first.server
                && other.mapped.ip() == first.mapped.ip()
                && other.mapped.port() != first.mapped.port()
        })?;
        Some((first, other))
    })
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let told = told(side);
    let (first, other) = dependent(&told)?;
    // Another socket of the same address, with one mapping for servers at different addresses.
    let by_socket = told.iter().find_map(|a| {
        let elsewhere = a.local != first.local && a.local.ip() == first.local.ip();
        let same = told.iter().find(|b| b.local == a.local && b.server.ip() != a.server.ip() && b.mapped == a.mapped);
        same.filter(|_| elsewhere).map(|_| (a.local.port(), a.seq))
    });
    let by_probe = || {
        let mut mapped =
            side.host.probes_with(|aim| *aim == ProbeAim::OtherPort).filter_map(|probe| match probe.fact.result {
                ProbeOutcome::Answered { mapped: Some(mapped), .. } => {
                    Some((probe.fact.local, mapped, probe.fact.remote, probe.seq))
                }
                _ => None,
            });
        let (local, address, remote, seq) = mapped.next()?;
        mapped.any(|(l, m, r, _)| l == local && m == address && r.ip() != remote.ip()).then_some((local.port(), seq))
    };
    let (port, seq) = by_socket.or_else(by_probe)?;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: if session.path == Path::Direct { Severity::Info } else { Severity::Warning },
        summary: format!(
            "The NAT of {0} maps port {1} differently for each server ({2}, {3}) and port {port} of {0} always alike: another host uses port {1}",
            vantage.name(),
            first.local.port(),
            first.mapped,
            other.mapped
        ),
        evidence: vec![first.seq, other.seq, seq],
        ..Fault::default()
    })
}

/// Only one server was asked. The NAT keeps a fresh port of this host towards it; the session's it maps to others, by
/// destination: somebody else has that.
fn not_kept(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let Otherwise { told, view, .. } = mapped_otherwise(session, vantage)?;
    if told.mapped.port() == told.local.port() {
        return None;
    }
    let fresh = side.host.probes_with(|aim| *aim == ProbeAim::OtherPort).find(|probe| {
        let mapped = match probe.fact.result {
            ProbeOutcome::Answered { mapped, .. } => mapped,
            _ => None,
        };
        let (local, remote) = (probe.fact.local, probe.fact.remote);
        let alike = (local.ip(), remote.ip()) == (told.local.ip(), told.server.ip());
        alike && mapped.is_some_and(|mapped| mapped.ip() == told.mapped.ip() && mapped.port() == local.port())
    })?;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: if session.path == Path::Direct { Severity::Info } else { Severity::Warning },
        summary: format!(
            "The NAT of {} keeps port {} towards {} and maps port {} to others ({}, {}): another host uses port {3}",
            vantage.name(),
            fresh.fact.local.port(),
            told.server,
            told.local.port(),
            told.mapped,
            view.seen
        ),
        evidence: vec![told.seq, view.seq, fresh.seq],
        ..Fault::default()
    })
}
