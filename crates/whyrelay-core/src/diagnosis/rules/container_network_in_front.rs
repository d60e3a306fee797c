//! The program runs in a container with a network of its own.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::host::Subject;
use crate::ice::candidate::CandidateType;
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR121",
    name: "container-network-in-front",
    title: "the program runs in a container with a network of its own",
    meaning: "The program runs in a container on a bridge network, so in most set-ups the host translates its packets once more and lets nothing in that it did not ask for. Its host candidate is then an address that nobody else can reach; a port that a router forwards to the host does not reach the container unless it is published.",
    detection: "The process is in a container, and its address is that of a bridge network.",
    proof: "The same session with host networking.",
    doubt: "A container with host networking, or a published port that is reached from outside.",
    fixes: &[Fix::cuts(
        "Start the container anew with host networking (docker run --network host), or with its UDP port published (-p 51820:51820/udp).",
    )],
    threads: &["netbirdio/netbird#2604", "netbirdio/netbird#3213"],
    depends_on: &["WR801"],
    needs: &[Need::Host(Subject::Capabilities), Need::Host(Subject::Links)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let container = side.host.container.as_deref()?;
    let hosts = || {
        side.local_candidates.iter().filter(|local| local.candidate.kind == CandidateType::Host && local.base.is_ipv4())
    };
    let bridged = hosts().find(|local| {
        let veth = local
            .interface
            .as_deref()
            .and_then(|name| side.host.link(name))
            .is_some_and(|link| link.fact.link_kind.as_deref() == Some("veth"));
        AddressClass::of(local.base.ip()) == AddressClass::Private && veth
    })?;
    if hosts().any(|local| AddressClass::of(local.base.ip()) == AddressClass::Public) {
        return None;
    }
    // One more NAT keeps nothing from being direct by itself; what it does to ports has a rule of its own.
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Info,
        summary: format!(
            "{} runs in a container ({container}) with the address {}: what its host does to its packets cannot be seen from inside",
            vantage.name(),
            bridged.base.ip()
        ),
        evidence: side.host.capabilities.iter().map(|(seq, ..)| *seq).chain([bridged.seq]).collect(),
        ..Fault::default()
    })
}
