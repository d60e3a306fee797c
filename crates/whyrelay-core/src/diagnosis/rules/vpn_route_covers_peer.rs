//! A VPN's route covers the peer's own address.

use super::{Examination, Fix, Need, Rule};
use crate::diagnosis::finding::Remedy;
use crate::diagnosis::routes::{By, Diversion};
use crate::diagnosis::session::Session;
use crate::trace::event::Vantage;

use super::diverted::{self, Said};
use super::wording::{ask, detour, is_about, way};
use crate::host::{SoftwareName, Subject};

pub(super) const RULE: Rule = Rule {
    code: "WR107",
    name: "vpn-route-covers-peer",
    title: "a VPN's route covers the peer's own address",
    meaning: "A route into a tunnel (a network route or exit node of a VPN, an AllowedIPs range) contains the address at which the peer is to be reached. The packets of the direct path are sent into the tunnel that they should carry, so the direct path dies as soon as the route is there.",
    detection: "The kernel routes packets to a candidate of the peer into a tunnel, and those to the servers not. What another rule or route hides is looked for, too: in the rules and routes that the host told, without that one, where they explain what the kernel answers.",
    proof: "ip route get PEER-ADDRESS shows the tunnel; without the route the check is answered.",
    doubt: "A check bound to the physical device that fails, too.",
    fixes: &[Fix::safe(
        "Take the peer's address out of the route: split the range, or exclude it in the VPN's network route or exit node settings.",
    )],
    threads: &[
        "netbirdio/netbird#2159",
        "netbirdio/netbird#4047",
        "netbirdio/netbird#4069",
        "netbirdio/netbird#3924",
        "netbirdio/netbird#4503",
        "netbirdio/netbird#4950",
    ],
    depends_on: &[],
    needs: &[Need::Host(Subject::RouteAnswers), Need::Host(Subject::Links)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    diverted::examine(session, |by| matches!(by, By::TunnelRoute), say)
}

fn say(session: &Session<'_>, vantage: Vantage, diversion: &Diversion<'_>) -> Said {
    let host = &session.evidence.side(vantage).host;
    let answer = &diversion.answer.fact;
    let to = answer.question.destination;
    let mut advice = vec![Remedy::safe("See what the kernel does with these packets").run(ask(&answer.question))];
    advice.extend(detour(diversion, "Send the peer's own address past the tunnel"));
    if is_about(host, SoftwareName::Netbird) {
        advice.push(
            Remedy::cuts("With NetBird, see and deselect the route that covers it (undo: netbird networks select -a)")
                .run("netbird networks list")
                .run("netbird networks deselect NETWORK-ID"),
        );
    }
    if is_about(host, SoftwareName::Tailscale) {
        advice.push(
            Remedy::cuts("With Tailscale, do without the exit node or subnet routes")
                .run("tailscale set --exit-node= --accept-routes=false"),
        );
    }
    let covering = answer
        .route
        .as_ref()
        .and_then(|route| route.matched)
        .map(|prefix| format!(" (the route {prefix})"))
        .unwrap_or_default();
    let summary = format!(
        "{} sends packets for the peer's own address {to} into the tunnel: {}{covering}",
        vantage.name(),
        way(answer)
    );
    (summary, vec![], advice)
}
