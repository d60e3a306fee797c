//! The application's packets fare worse than a plain program's.

use super::wording::{ask, quoted, way};
use super::{Examination, Fault, Fix, Need, Rule, mark_rule_collision};
use crate::diagnosis::evidence::{HostEvidence, Taken};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::routes::{deciding, is_refused, mark_rule};
use crate::diagnosis::session::{Path, Session};
use crate::host::{RouteAnswer, Subject};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR126",
    name: "application-treated-differently",
    title: "the application's packets fare worse than a plain program's",
    meaning: "A plain program's checks from this host are answered, and the same checks made as the application (its mark, port, user, interface, kind of socket) are not. Something on this host or in front of it tells them apart, and no rule names what.",
    detection: "The session ran as the application and as a plain program, and only the plain one was answered.",
    proof: "The two runs again, in turns.",
    doubt: "Both answered, or neither.",
    fixes: &[Fix::safe(
        "Compare the routes with and without the mark (ip route get), and the firewall's counters before and after a run.",
    )],
    threads: &["netbirdio/netbird#3736"],
    depends_on: &[
        "WR103", "WR104", "WR105", "WR106", "WR107", "WR109", "WR110", "WR111", "WR115", "WR116", "WR118", "WR119",
    ],
    needs: &[Need::Host(Subject::Application), Need::Other(untallied)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

/// How the sockets of either kind fared, where an application was asked for and that was not told.
pub(super) fn untallied(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    let host = &session.evidence.side(vantage).host;
    host.application.as_ref()?;
    let kinds = [(true, "how sockets like the application's fared,"), (false, "how a plain program's sockets fared,")];
    kinds.into_iter().find(|(kind, _)| !host.tallies.contains_key(kind)).map(|(_, what)| what.to_owned())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let host = &session.evidence.side(vantage).host;
    let (first, plain) = host.tallies.get(&false)?;
    let (second, application) = host.tallies.get(&true)?;
    let direct = plain.pairs_answered > 0 && application.pairs_checked > 0 && application.pairs_answered == 0;
    let servers = plain.server_answers > 0 && application.server_requests > 0 && application.server_answers == 0;
    let difference = difference(host);
    let advice = difference.map(|(own, plain)| advice(host, own, plain)).unwrap_or_default();
    let named = difference.map_or_else(String::new, |(own, plain)| {
        let by = deciding(host, &own.fact).map_or_else(String::new, |rule| format!(" by \"{}\"", quoted(&rule.fact)));
        format!(
            "; to {} the kernel sends them to {}{by}, a plain program's to {}",
            own.fact.question.destination,
            way(&own.fact),
            way(&plain.fact)
        )
    });
    (direct || servers).then(|| Fault {
        blame: Blame::side(vantage),
        severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
        summary: format!(
            "On {} {} of a plain program are answered, and those of {} are not{named}",
            vantage.name(),
            if direct { "checks" } else { "requests to servers" },
            host.application.as_ref().map_or("the application", |(_, application)| application.asked.as_str())
        ),
        evidence: [*first, *second]
            .into_iter()
            .chain(difference.into_iter().flat_map(|(own, plain)| [own.seq, plain.seq]))
            .collect(),
        // Where the routes are compared already and the rule is named, the general advice says nothing more.
        advice_is_all: !advice.is_empty(),
        advice,
        ..Fault::default()
    })
}

/// What helps where the kernel sends the two elsewhere: against a rule that takes the mark as where a session finds it by
/// itself (WR106), else what shows the difference.
fn advice(host: &HostEvidence, own: &Taken<RouteAnswer>, plain: &Taken<RouteAnswer>) -> Vec<Remedy> {
    let rule = deciding(host, &own.fact).filter(|rule| rule.fact.mark.is_some());
    if own.fact.question.mark != 0 && (rule.is_some() || mark_rule(host, own.fact.question.mark).is_some()) {
        let rule = rule.or_else(|| mark_rule(host, own.fact.question.mark));
        return mark_rule_collision::advice(host, &own.fact, rule);
    }
    vec![
        Remedy::safe("See the difference").run(ask(&own.fact.question)).run(ask(&plain.fact.question)),
        Remedy::safe("Compare the firewall's counters before and after a run").run("nft -a list ruleset"),
    ]
}

/// The kernel's answers for the application's packets and a plain program's that lead elsewhere for one address.
fn difference(host: &HostEvidence) -> Option<(&Taken<RouteAnswer>, &Taken<RouteAnswer>)> {
    let profile = host.profiles.values().find(|(_, profile)| profile.as_application)?;
    let is_own = |answer: &&Taken<RouteAnswer>| {
        let question = &answer.fact.question;
        !question.probe
            && question.source.is_some()
            && (question.mark, question.user) == (profile.1.mark, profile.1.user)
    };
    host.route_answers.iter().filter(is_own).find_map(|own| {
        let others = host.route_answers.iter().chain(&host.probe_answers).filter(|other| !is_own(other));
        let plain = others.into_iter().find(|other| {
            let (asked, question) = (&other.fact.question, &own.fact.question);
            (asked.destination, asked.source) == (question.destination, question.source) && asked.out_device.is_none()
        })?;
        let differs = own.fact.device() != plain.fact.device() || is_refused(&own.fact) != is_refused(&plain.fact);
        differs.then_some((own, plain))
    })
}
