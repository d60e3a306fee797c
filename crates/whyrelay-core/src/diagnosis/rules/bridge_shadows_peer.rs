//! A bridge on this host has the peer's network.

use super::{Examination, Fix, Need, Rule};
use crate::diagnosis::finding::Remedy;
use crate::diagnosis::routes::{By, Diversion};
use crate::diagnosis::session::Session;
use crate::trace::event::Vantage;

use super::diverted::{self, Said};
use super::wording::{ask, detour, way};
use crate::host::Subject;

pub(super) const RULE: Rule = Rule {
    code: "WR114",
    name: "bridge-shadows-peer",
    title: "a bridge on this host has the peer's network",
    meaning: "A bridge of this host (Docker, libvirt, Kubernetes) has a network that contains the peer's address. The kernel looks for the peer on the bridge, where it is not, instead of sending the packets out: \"host unreachable\" from the host's own bridge address after a few seconds.",
    detection: "The kernel routes packets to a candidate of the peer onto a bridge, on the link, and those to the servers not. What another rule or route hides is looked for, too: in the rules and routes that the host told, without that one, where they explain what the kernel answers.",
    proof: "ip route get PEER-ADDRESS shows the bridge without a gateway; ip neigh shows FAILED.",
    doubt: "The peer answering on that bridge: then it is a container of this host.",
    fixes: &[Fix::cuts(
        "Give the bridge another network: for Docker \"default-address-pools\" or \"bip\" in /etc/docker/daemon.json, then recreate the network.",
    )],
    threads: &["moby/moby#37823", "bitwarden/server#947"],
    depends_on: &[],
    needs: &[Need::Host(Subject::RouteAnswers), Need::Host(Subject::Links)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    diverted::examine(session, |by| matches!(by, By::Bridge), say)
}

fn say(session: &Session<'_>, vantage: Vantage, diversion: &Diversion<'_>) -> Said {
    let side = session.evidence.side(vantage);
    let answer = &diversion.answer.fact;
    let to = answer.question.destination;
    let icmp = side
        .icmp_errors
        .iter()
        .find(|((_, remote, icmp_type, code), _)| remote.ip() == to && (*icmp_type, *code) == (3, 1));
    let mut advice = vec![Remedy::safe("See what the kernel does with these packets").run(ask(&answer.question))];
    advice.extend(detour(diversion, "Send the peer's address out until then"));
    let summary = format!(
        "{} looks for the peer ({to}) on its own bridge: {}, not on the way to the servers",
        vantage.name(),
        way(answer)
    );
    (summary, icmp.map(|(_, error)| error.seq).into_iter().collect(), advice)
}
