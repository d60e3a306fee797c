//! A plain program's packets are sent another way than the application's.

use super::application_treated_differently::untallied;
use super::wording::{ask, quoted, way};
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{HostEvidence, Taken};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::routes::deciding;
use crate::diagnosis::session::Session;
use crate::host::{RouteAnswer, RoutePurpose, Subject};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR128",
    name: "plain-program-diverted",
    title: "a plain program's packets are sent another way than the application's",
    meaning: "The application's own packets reach the peer, and a plain program's from this host do not: a rule that the application itself (a VPN with an exit node, a kill switch) or another program installed sends everything without its mark elsewhere. That is how such a VPN is meant to work; it means that a plain test from this host says nothing about the application.",
    detection: "The session stood in for the application and was answered; the same addresses, probed from a plain socket, were not, and the kernel routes the two differently.",
    proof: "ip route get ADDRESS against the same with the mark.",
    doubt: "Both answered, or the same route for both.",
    fixes: &[Fix::safe("Nothing, unless plain programs of this host are to reach the peer, too.")],
    threads: &["tailscale/tailscale#1527"],
    depends_on: &[],
    needs: &[Need::Host(Subject::Application), Need::Other(untallied)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let host = &session.evidence.side(vantage).host;
    let (_, application) = host.application.as_ref()?;
    let (seq, plain) = host.tallies.get(&false)?;
    let (_, own) = host.tallies.get(&true)?;
    if plain.pairs_checked == 0 || plain.pairs_answered > 0 || own.pairs_answered == 0 {
        return None;
    }
    let (diverted, usual) = difference(host)?;
    let rule = deciding(host, &diverted.fact);
    let by = rule.map_or_else(|| "A route".to_owned(), |rule| format!("\"{}\"", quoted(&rule.fact)));
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Info,
        summary: format!(
            "On {} {by} sends a plain program's packets to the peer ({}) to {}; those of {} go to {}",
            vantage.name(),
            diverted.fact.question.destination,
            way(&diverted.fact),
            application.asked,
            way(&usual.fact)
        ),
        evidence: [diverted.seq, usual.seq, *seq].into_iter().chain(rule.map(|rule| rule.seq)).collect(),
        advice: vec![
            Remedy::safe("See the difference").run(ask(&diverted.fact.question)).run(ask(&usual.fact.question)),
        ],
        ..Fault::default()
    })
}

/// The kernel's answers for a plain socket and for the application's that lead elsewhere for the same address. Probes
/// without the mark only, or bound to an interface, are no plain program's.
fn difference(host: &HostEvidence) -> Option<(&Taken<RouteAnswer>, &Taken<RouteAnswer>)> {
    let (_, profile) = host.profiles.values().find(|(_, profile)| !profile.as_application)?;
    let about_peer = |answer: &&Taken<RouteAnswer>| {
        let question = &answer.fact.question;
        question.purpose == RoutePurpose::Peer && question.source.is_some()
    };
    let is_plain = |answer: &&Taken<RouteAnswer>| {
        let question = &answer.fact.question;
        (question.mark, question.user) == (profile.mark, profile.user) && question.out_device.is_none()
    };
    host.probe_answers.iter().filter(about_peer).filter(is_plain).find_map(|plain| {
        let own = host.route_answers.iter().filter(about_peer).find(|own| {
            let (asked, other) = (&own.fact.question, &plain.fact.question);
            (asked.destination, asked.source) == (other.destination, other.source)
        })?;
        let elsewhere =
            own.fact.device() != plain.fact.device() || own.fact.failure.is_some() != plain.fact.failure.is_some();
        elsewhere.then_some((plain, own))
    })
}
