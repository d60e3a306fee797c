//! Packets to the peer leave by another uplink than those to the servers.

use super::{Examination, Fix, Need, Rule};
use crate::diagnosis::finding::Remedy;
use crate::diagnosis::routes::{By, Diversion};
use crate::diagnosis::session::Session;
use crate::trace::event::Vantage;

use super::diverted::{self, Said};
use super::wording::{ask, detour, way};
use crate::host::Subject;

pub(super) const RULE: Rule = Rule {
    code: "WR118",
    name: "peer-by-other-uplink",
    title: "packets to the peer leave by another uplink than those to the servers",
    meaning: "This host has several uplinks and routes the peer by another one than the STUN server. The address that the server told is then that of one uplink, and the checks come from the other, which the peer's NAT does not expect.",
    detection: "The kernel routes packets to a candidate of the peer by another physical device than those to the servers, by a route of the main table. What another rule or route hides is looked for, too: in the rules and routes that the host told, without that one, where they explain what the kernel answers.",
    proof: "ip route get for both addresses; the peer sees a source that is no candidate.",
    doubt: "The same device for both.",
    fixes: &[
        Fix::safe("Let one uplink carry both: drop the more specific route, or use a server that goes the same way."),
        Fix::safe(
            "Or give each uplink a table and a rule by source address, so that each candidate leaves by its own uplink (netplan: routing-policy; NetworkManager: ipv4.routing-rules).",
        ),
    ],
    threads: &["netbirdio/netbird#980", "tailscale/tailscale#4404", "tailscale/tailscale#1066"],
    depends_on: &[],
    needs: &[Need::Host(Subject::RouteAnswers), Need::Host(Subject::Links)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    diverted::examine(session, |by| matches!(by, By::OtherUplink), say)
}

fn say(_session: &Session<'_>, vantage: Vantage, diversion: &Diversion<'_>) -> Said {
    let answer = &diversion.answer.fact;
    let to = answer.question.destination;
    let usual = diversion.server.as_ref().map_or_else(|| "elsewhere".to_owned(), |server| way(&server.fact));
    let mut advice = vec![Remedy::safe("See what the kernel does with these packets").run(ask(&answer.question))];
    advice.extend(detour(diversion, "Try the peer by the servers' uplink"));
    (
        format!(
            "{} sends packets to the peer ({to}) to {} and those to the servers to {usual}",
            vantage.name(),
            way(answer)
        ),
        vec![],
        advice,
    )
}
