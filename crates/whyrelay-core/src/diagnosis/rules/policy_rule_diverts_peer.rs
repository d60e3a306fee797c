//! A policy rule sends the peer's packets another way.

use super::{Examination, Fix, Need, Rule};
use crate::diagnosis::finding::Remedy;
use crate::diagnosis::routes::{By, Diversion, is_refused, refusing};
use crate::diagnosis::session::Session;
use crate::trace::event::Vantage;

use super::diverted::{self, Said};
use super::wording::{ask, ip, quoted, selectors, table_name, way, without_rule};
use crate::host::Subject;

pub(super) const RULE: Rule = Rule {
    code: "WR105",
    name: "policy-rule-diverts-peer",
    title: "a policy rule sends the peer's packets another way",
    meaning: "A policy rule (ip rule) of this host selects the packets to the peer, by address, port, user or protocol, and looks them up in another table than the packets to the servers. So STUN works, the candidates look right, and every check to the peer leaves by another interface, often into a tunnel, or meets a route there that refuses it. Rule dumps that leave out ports and users do not show it.",
    detection: "The kernel was asked how it routes the session's own packets (RTM_GETROUTE with their mark, user, protocol and ports) to the peer and to the servers: another device, or a refusal by the table that the rule leads to, decided by a rule that is not one of the kernel's three. What another rule or route hides is looked for, too: in the rules and routes that the host told, without that one, where they explain what the kernel answers.",
    proof: "The same check bound to the physical device (SO_BINDTODEVICE) is answered.",
    doubt: "The same route for peer and servers after the rule is gone, and a session that fails all the same.",
    fixes: &[Fix::safe(
        "Find out who installs the rule (ip rule show; a VPN, mwan3, a container network, netplan routing-policy): what is changed elsewhere comes back.",
    )],
    threads: &["netbirdio/netbird#2926", "netbirdio/netbird#4273", "netbirdio/netbird#3602"],
    depends_on: &[],
    needs: &[Need::Host(Subject::RouteAnswers), Need::Host(Subject::PolicyRules), Need::Host(Subject::Routes)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    diverted::examine(session, |by| matches!(by, By::PolicyRule(_)), say)
}

fn say(session: &Session<'_>, vantage: Vantage, diversion: &Diversion<'_>) -> Said {
    let answer = &diversion.answer.fact;
    if is_refused(answer) {
        return say_refused(session, vantage, diversion);
    }
    let to = answer.question.destination;
    let usual = diversion.server.as_ref().map_or_else(|| "elsewhere".to_owned(), |server| way(&server.fact));
    let By::PolicyRule(rule) = diversion.by else { return Said::default() };
    let family = ip(crate::host::Family::of(to));
    let mut advice = vec![Remedy::safe("See what the kernel does with these packets").run(ask(&answer.question))];
    let (by, more) = match rule {
        Some(rule) => {
            let main = diversion
                .server
                .as_ref()
                .and_then(|server| server.fact.route.as_ref())
                .map_or(254, |route| if route.table == 0 { 254 } else { route.table });
            let before = rule.fact.priority.saturating_sub(1);
            let exception = format!("{family} rule add pref {before} to {to} lookup {}", table_name(main));
            advice.push(
                Remedy::safe(format!("Let the peer go the usual way (undo: {family} rule del pref {before} to {to})"))
                    .run(exception),
            );
            let delete = format!("{family} rule del pref {} {}", rule.fact.priority, selectors(&rule.fact));
            advice.push(Remedy::safe("Or take the rule out").run(delete));
            (quoted(&rule.fact), vec![rule.seq])
        }
        None => ("a policy rule".to_owned(), vec![]),
    };
    let summary = format!(
        "On {} \"{by}\" sends packets to the peer ({to}) to {}; those to the servers go to {usual}",
        vantage.name(),
        way(answer)
    );
    (summary, more, advice)
}

/// The rule leads to a table that refuses.
fn say_refused(session: &Session<'_>, vantage: Vantage, diversion: &Diversion<'_>) -> Said {
    let (host, answer) = (&session.evidence.side(vantage).host, &diversion.answer.fact);
    let By::PolicyRule(Some(rule)) = diversion.by else { return Said::default() };
    let (to, route) = (answer.question.destination, refusing(host, answer));
    let what = route.map_or_else(String::new, |route| {
        format!(" by \"{} {}\"", format!("{:?}", route.fact.route_kind).to_lowercase(), route.fact.destination)
    });
    let servers = match &diversion.server {
        Some(server) => format!("those to the servers go to {}", way(&server.fact)),
        None => "the servers' fare no better".to_owned(),
    };
    let summary = format!(
        "On {} \"{}\" looks packets to the peer ({to}) up where they are refused{what} ({}); {servers}",
        vantage.name(),
        quoted(&rule.fact),
        way(answer)
    );
    let advice = vec![
        Remedy::safe("See what the kernel does with these packets").run(ask(&answer.question)),
        without_rule("Take the rule out", &rule.fact),
    ];
    (summary, [rule.seq].into_iter().chain(route.map(|route| route.seq)).collect(), advice)
}
