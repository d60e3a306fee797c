//! Large packets get lost on the path.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{SideEvidence, Sizes};
use crate::diagnosis::finding::{Blame, Severity};
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
            "Lower the MTU of the tunnel or interface to what passes: ip link set dev DEV mtu 1280; for NetBird --mtu 1280.",
        ),
        Fix::owner("Let ICMP \"fragmentation needed\" (type 3, code 4) pass on every router and firewall on the way."),
    ],
    threads: &["coder/coder#13327", "cilium/cilium#47176", "qdm12/gluetun#1650", "tailscale/tailscale#11290"],
    depends_on: &[],
    needs: &[Need::OtherSide],
    examine,
};

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

fn fault(session: &Session<'_>, summary: String, evidence: Vec<u64>) -> Fault {
    let severity = if session.path == Path::Failed { Severity::Error } else { Severity::Warning };
    Fault { blame: Blame::Path, severity, summary, evidence, ..Fault::default() }
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
        return Some(fault(session, format!("Large packets vanish: {summary}"), vec![seq]));
    }
    let peer = session.evidence.side(vantage.other());
    padded(side, peer).map(|(summary, evidence)| fault(session, summary(vantage), evidence))
}

/// Probes of some sizes were answered, and of all larger ones that left none was: two at least, as one may be lost. What
/// the peer saw was not lost, and silence is not about size where smaller ones met it, too: answers that are long in
/// coming find nobody waiting.
fn padded(side: &SideEvidence, peer: &SideEvidence) -> Option<(impl Fn(Vantage) -> String, Vec<u64>)> {
    let of = |answered: bool| {
        side.host.probes.iter().filter_map(move |probe| match (&probe.fact.aim, &probe.fact.result) {
            (ProbeAim::Padded { length }, ProbeOutcome::Answered { .. }) if answered => {
                Some((*length, probe.seq, probe.fact.remote))
            }
            (ProbeAim::Padded { length }, ProbeOutcome::Silent) if !answered => {
                Some((*length, probe.seq, probe.fact.remote))
            }
            _ => None,
        })
    };
    let (passes, seq, remote) = of(true).max()?;
    if of(false).any(|(length, _, to)| length < passes && to == remote) {
        return None;
    }
    // A probe's length is that of the packet, what the peer saw that of the payload (RFC 791, RFC 8200, RFC 768).
    let headers = if remote.is_ipv4() { 28 } else { 48 };
    let seen = peer.host.probes_seen.iter().filter(|taken| taken.fact.0 == "padded").map(|taken| taken.fact.3);
    let arrived = seen.max().map_or(0, |payload| payload.saturating_add(headers));
    let mut lost: Vec<(u16, u64)> = of(false)
        .filter(|(length, _, to)| *length > passes && u32::from(*length) > arrived && *to == remote)
        .map(|(length, seq, _)| (length, seq))
        .collect();
    lost.sort_unstable();
    let (smallest, _) = *lost.first().filter(|_| lost.len() >= 2)?;
    let summary = move |vantage: Vantage| {
        let from = vantage.name();
        format!(
            "Packets of {passes} bytes from {from} to {remote} are answered and packets of {smallest} bytes are not"
        )
    };
    let evidence = std::iter::once(seq).chain(lost.into_iter().map(|(_, seq)| seq)).collect();
    Some((summary, evidence))
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
    Some(Fault { severity, ..fault(session, summary, vec![probe.seq]) })
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
            fault(session, summary, vec![sent.seq])
        })
    })
}
