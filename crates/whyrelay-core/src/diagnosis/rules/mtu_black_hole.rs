//! Large packets get lost on the path.

use std::net::{IpAddr, SocketAddr};

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{SideEvidence, Sizes};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::host::{ProbeAim, ProbeOutcome};
use crate::trace::event::{DtlsState, Vantage};
use crate::trace::measurement::Measurement;

/// A datagram of this payload or more is large: DTLS flights with a certificate are, STUN messages are not.
const LARGE: u32 = 600;

/// The largest payload that an interface of 1500 bytes takes over IPv4: smaller losses are a black hole.
const LARGEST: u16 = 1472;

pub(super) const RULE: Rule = Rule {
    code: "WR603",
    name: "mtu-black-hole",
    title: "large packets get lost on the path",
    meaning: "Small packets pass and large ones vanish without a word: a link on the way takes smaller packets than the interface says, and the ICMP message that would tell is filtered. Checks and handshakes of small size work, then nothing loads.",
    detection: "Packets of a padded probe up to a size arrived and larger ones did not, though they fit the interface; or the DTLS handshake's large datagrams never arrived while small packets on the same pair did; or the signaling server acknowledged nothing of a large TCP segment, sent again and again on two connections whose handshake passed at once.",
    proof: "ping -M do -s SIZE in both directions, from 1472 downwards.",
    doubt: "A packet as large as the interface's MTU that arrives.",
    fixes: &[
        Fix::safe(
            "On the side whose large packets get lost, lower the MTU of the tunnel or interface to what passes: ip link set dev DEV mtu 1280; for NetBird --mtu 1280.",
        ),
        ICMP,
    ],
    threads: &["coder/coder#13327", "cilium/cilium#47176", "qdm12/gluetun#1650", "tailscale/tailscale#11290"],
    depends_on: &[],
    needs: &[Need::OtherSide, Need::Other(untried)],
    examine,
};

const ICMP: Fix =
    Fix::owner("Let ICMP \"fragmentation needed\" (type 3, code 4) pass on every router and firewall on the way.");

fn examine(session: &Session<'_>) -> Examination {
    let between: Vec<Fault> = session
        .recorded()
        .filter_map(|vantage| measured(session, vantage).or_else(|| seen(session, vantage)))
        .collect();
    if !between.is_empty() {
        return Examination::Found(between);
    }
    Examination::of(session.recorded().filter_map(|vantage| toward_signaling(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage, summary: String, evidence: Vec<u64>) -> Fault {
    let severity = if session.path == Path::Failed { Severity::Error } else { Severity::Warning };
    // Both ways are two faults: one may be mended and not the other.
    Fault { blame: Blame::Path, severity, summary, evidence, seen_by: Some(vantage), ..Fault::default() }
}

/// The side that must send smaller packets is the one whose large ones get lost, wherever that is.
fn lower(session: &Session<'_>, vantage: Vantage, local: IpAddr, passes: u16) -> Remedy {
    let side = session.evidence.side(vantage);
    let of_candidate = side.local_candidates.iter().find(|candidate| candidate.base.ip() == local);
    let device = side.host.addresses.iter().find(|own| own.fact.address == local).map(|own| own.fact.device.clone());
    let device = device.or_else(|| of_candidate.and_then(|candidate| candidate.interface.clone()));
    let link = device.as_deref().and_then(|device| side.host.link(device)).map(|link| link.fact.mtu);
    let (here, there) = (vantage.name(), vantage.other().name());
    let undo = match (&device, link) {
        (Some(device), Some(mtu)) => format!(" (undo: ip link set dev {device} mtu {mtu})"),
        _ => String::new(),
    };
    let remedy = Remedy::safe(format!(
        "On {here}, whose packets get lost: lower the MTU of the interface that they leave by, or of the tunnel on it, to what passes; that of {there} need not change for this{undo}"
    ));
    match device {
        Some(device) => remedy.run(format!("ip link set dev {device} mtu {passes}")),
        None => remedy,
    }
}

fn measured(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let sweep = side.measured.facts.iter().find_map(|(seq, fact)| match fact {
        Measurement::PathMtu { payload, lost: Some(lost), remote, .. } if *lost <= LARGEST => {
            Some((format!("between {} and {remote} {payload} bytes pass and {lost} do not", vantage.name()), *seq))
        }
        _ => None,
    });
    if let Some((summary, seq)) = sweep {
        return Some(fault(session, vantage, format!("Large packets vanish: {summary}"), vec![seq]));
    }
    let peer = session.evidence.side(vantage.other());
    padded(side, peer).map(|lost| {
        let (here, there) = (vantage.name(), vantage.other().name());
        let Padded { remote, passes, smallest, .. } = lost;
        // Whose answers are small: each way is by itself.
        let back = largest_answered(peer).filter(|(length, ..)| *length >= smallest);
        let one_way = back.map_or(String::new(), |(length, ..)| {
            format!("; those of {length} bytes from {there} to {here} are: it is about what {here} sends")
        });
        let text = format!(
            "Packets of {passes} bytes from {here} to {remote} are answered and packets of {smallest} bytes are not{one_way}{}",
            toward_server(side, peer, here, smallest)
        );
        let advice = vec![lower(session, vantage, lost.local.ip(), passes), Remedy { effect: ICMP.effect, ..Remedy::safe(ICMP.text) }];
        Fault { advice, advice_is_all: true, ..fault(session, vantage, text, lost.evidence) }
    })
}

/// What large TCP segments to the signaling server say of where the large packets of a side get lost.
fn toward_server(side: &SideEvidence, peer: &SideEvidence, here: &str, smallest: u16) -> String {
    let arrive = |side: &SideEvidence| {
        let segments = side.host.probes_with(|aim| matches!(aim, ProbeAim::Segment { .. }));
        let mut told = segments.filter_map(|probe| match (&probe.fact.aim, &probe.fact.result) {
            (ProbeAim::Segment { length }, ProbeOutcome::Answered { .. }) if *length >= smallest => Some(true),
            (ProbeAim::Segment { .. }, ProbeOutcome::Silent) => Some(false),
            _ => None,
        });
        told.next()
    };
    match (arrive(side), arrive(peer)) {
        (Some(true), _) => {
            format!("; large ones of {here} to the signaling server arrive, so it is not the link of {here}")
        }
        // Else it may be the server's own link.
        (Some(false), Some(true)) => {
            format!(
                "; nor do large ones of {here} to the signaling server arrive, and the other side's do: it is on the side of {here}"
            )
        }
        _ => String::new(),
    }
}

/// The largest padded probe of a side that was answered.
fn largest_answered(side: &SideEvidence) -> Option<(u16, u64, SocketAddr, SocketAddr)> {
    let answered = side.host.probes.iter().filter_map(|probe| match (&probe.fact.aim, &probe.fact.result) {
        (ProbeAim::Padded { length }, ProbeOutcome::Answered { .. }) => {
            Some((*length, probe.seq, probe.fact.remote, probe.fact.local))
        }
        _ => None,
    });
    answered.max()
}

/// Large probes of a side that get lost.
struct Padded {
    local: SocketAddr,
    remote: SocketAddr,
    /// The largest that is answered, in bytes of the packet.
    passes: u16,
    /// The smallest that is not.
    smallest: u16,
    evidence: Vec<u64>,
}

/// Whether large packets of a side pass, where a session has a direct path and nobody tried: a browser cannot, and a
/// session that ends at once does not.
fn untried(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    let side = session.evidence.side(vantage);
    let (_, pair) = side.selected_pair()?;
    let relayed = side.is_relayed(pair.local) || side.known.is_told_as_relayed(pair.remote);
    let tried = side.host.probes.iter().any(|probe| matches!(probe.fact.aim, ProbeAim::Padded { .. }));
    let told = side.measured.facts.iter().any(|(_, fact)| matches!(fact, Measurement::PathMtu { .. }));
    (!relayed && !tried && !told).then(|| "whether large packets pass that leave the host".to_owned())
}

/// Probes of some sizes were answered, and of all larger ones that left none was: two at least, as one may be lost. What
/// the peer saw was not lost, and silence is not about size where smaller ones met it, too: answers that are long in
/// coming find nobody waiting.
fn padded(side: &SideEvidence, peer: &SideEvidence) -> Option<Padded> {
    let silent = || {
        side.host.probes.iter().filter_map(|probe| match (&probe.fact.aim, &probe.fact.result) {
            (ProbeAim::Padded { length }, ProbeOutcome::Silent) => Some((*length, probe.seq, probe.fact.remote)),
            _ => None,
        })
    };
    let (passes, seq, remote, local) = largest_answered(side)?;
    if silent().any(|(length, _, to)| length < passes && to == remote) {
        return None;
    }
    // A probe's length is that of the packet, what the peer saw that of the payload (RFC 791, RFC 8200, RFC 768).
    let headers = if remote.is_ipv4() { 28 } else { 48 };
    let seen = peer.host.probes_seen.iter().filter(|taken| taken.fact.0 == "padded").map(|taken| taken.fact.3);
    let arrived = seen.max().map_or(0, |payload| payload.saturating_add(headers));
    let mut lost: Vec<(u16, u64)> = silent()
        .filter(|(length, _, to)| *length > passes && u32::from(*length) > arrived && *to == remote)
        .map(|(length, seq, _)| (length, seq))
        .collect();
    lost.sort_unstable();
    let (smallest, _) = *lost.first().filter(|_| lost.len() >= 2)?;
    let evidence = std::iter::once(seq).chain(lost.into_iter().map(|(_, seq)| seq)).collect();
    Some(Padded { local, remote, passes, smallest, evidence })
}

/// The signaling server acknowledged no large segment. The session's own are small, so that alone did it no harm: only a
/// handshake that broke is explained by it, where the way to the peer leads through the same link.
fn toward_signaling(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let lost = side.host.probes_with(|aim| matches!(aim, ProbeAim::Segment { .. })).find_map(|probe| {
        let ProbeAim::Segment { length } = probe.fact.aim else { return None };
        (probe.fact.result == ProbeOutcome::Silent).then_some((length, probe))
    });
    let (length, probe) = lost?;
    let broke = |vantage| matches!(session.evidence.side(vantage).dtls.last(), Some((_, DtlsState::Failed { .. })));
    let severity = match session.path {
        Path::Direct => Severity::Info,
        Path::Failed if broke(Vantage::A) || broke(Vantage::B) => Severity::Error,
        _ => Severity::Warning,
    };
    let summary = format!(
        "TCP packets of {length} bytes from {} to the signaling server {} get lost ({} sent, none acknowledged), while smaller ones pass",
        vantage.name(),
        probe.fact.remote,
        probe.fact.transmissions
    );
    Some(Fault { severity, ..fault(session, vantage, summary, vec![probe.seq]) })
}

/// Large datagrams of the handshake were sent on a pair and never arrived, while checks on it did.
fn seen(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    if session.path == Path::Direct || !session.evidence.is_complete(vantage.other()) {
        return None;
    }
    session.pairs.iter().filter(|pair| !pair.relayed).find_map(|pair| {
        let (own, theirs) = (pair.side(vantage)?, pair.side(vantage.other())?);
        pair.from(vantage).answer_seen.filter(|answers| *answers > 0)?;
        let sent: &Sizes = side.sizes.get(&(own.pair.local, own.pair.remote))?;
        let arrived = peer.sizes.get(&(theirs.pair.local, theirs.pair.remote)).map_or(0, |sizes| sizes.largest_in);
        let vanished =
            sent.largest_out >= LARGE && sent.large_out >= 3 && arrived < sent.largest_out && arrived < LARGE;
        vanished.then(|| {
            let summary = format!(
                "Datagrams of {} bytes from {} to {} never arrived, while checks did",
                sent.largest_out,
                vantage.name(),
                own.pair.remote
            );
            fault(session, vantage, summary, vec![sent.seq])
        })
    })
}
