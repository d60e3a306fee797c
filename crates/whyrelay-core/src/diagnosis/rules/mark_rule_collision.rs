//! Another program's rule takes the application's firewall mark for its own.

use super::{Examination, Fix, Need, Rule};
use crate::diagnosis::evidence::{HostEvidence, Taken};
use crate::diagnosis::finding::Remedy;
use crate::diagnosis::routes::{By, Diversion, is_refused, mark_rule, refusing, unmarked};
use crate::diagnosis::session::Session;
use crate::trace::event::Vantage;

use super::diverted::{self, Said};
use super::service::{Variable, with_variable};
use super::wording::{ask, exempt_mark, is_about, quoted, way};
use crate::host::{PolicyRule, RouteAnswer, RoutePurpose, SoftwareName, Subject};

pub(super) const RULE: Rule = Rule {
    code: "WR106",
    name: "mark-rule-collision",
    title: "another program's rule takes the application's firewall mark for its own",
    meaning: "The application marks its sockets (NetBird 0x1bd00, Tailscale 0x80000, wg-quick 0xca6c), and a policy rule of another program (mwan3 with mask 0x3f00, UniFi's 0x10000, a VRF, a container network) matches bits of that mark. Its packets are then dropped (\"invalid argument\") or routed wrongly, while every unmarked program on the same host works. A plain test proves nothing here.",
    detection: "The same packet with and without the mark: another route, or a refusal; or a rule with a mask that takes the mark and refuses. Where the rule sends the packets to the servers the same way, no server may have answered, and of the sockets without the mark, where any were tried, one must have been. What another rule or route hides is looked for, too: in the rules and routes that the host told, without that one, where they explain what the kernel answers.",
    proof: "ip route get ADDRESS mark MARK against the same without mark; and a check without the mark that is answered.",
    doubt: "The same answer with and without the mark.",
    fixes: &[
        Fix::cuts(
            "Give the application another mark: for NetBird (from September 2026 on) set NB_FWMARK_BASE to a value that shares no bits with the rule's mask.",
        ),
        Fix::cuts(
            "Or narrow the other program's mask: for mwan3 uci set mwan3.globals.mmx_mask, for others its own setting.",
        ),
        Fix::cuts("Or let NetBird do without marks: NB_USE_LEGACY_ROUTING=true, or NB_SKIP_SOCKET_MARK=true."),
    ],
    threads: &[
        "netbirdio/netbird#2116",
        "netbirdio/netbird#3736",
        "netbirdio/netbird#3602",
        "netbirdio/netbird#3219",
        "netbirdio/netbird#6022",
        "netbirdio/netbird#6289",
        "netbirdio/netbird#7314",
        "tailscale/tailscale#4038",
        "tailscale/tailscale#18443",
        "tailscale/tailscale#10828",
        "tailscale/tailscale#14453",
    ],
    depends_on: &[],
    needs: &[Need::Host(Subject::RouteAnswers), Need::Host(Subject::PolicyRules), Need::Host(Subject::Routes)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    diverted::examine(session, |by| matches!(by, By::MarkRule(_)), say)
}

/// The mark that NetBird uses unless it is told another.
const NETBIRD: u32 = 0x1BD00;

fn say(session: &Session<'_>, vantage: Vantage, diversion: &Diversion<'_>) -> Said {
    let host = &session.evidence.side(vantage).host;
    let question = &diversion.answer.fact.question;
    let By::MarkRule(rule) = diversion.by else { return Said::default() };
    let rule = rule.or_else(|| mark_rule(host, question.mark));
    let advice = advice(host, &diversion.answer.fact, rule);
    let by = rule.map_or_else(|| "a policy rule".to_owned(), |rule| format!("\"{}\"", quoted(&rule.fact)));
    let without = unmarked(host, &diversion.answer).filter(|answer| !is_refused(&answer.fact));
    let summary = format!(
        "On {} {by} takes packets with the mark {:#x}: to the {} ({}) {}, and without the mark they {}",
        vantage.name(),
        question.mark,
        if question.purpose == RoutePurpose::Server { "server" } else { "peer" },
        question.destination,
        match &diversion.answer.fact.failure {
            Some(failure) => format!("the system refuses them ({})", failure.detail),
            None => format!("they go to {}", way(&diversion.answer.fact)),
        },
        without.map_or_else(|| "would not".to_owned(), |answer| format!("go to {}", way(&answer.fact)))
    );
    let refusing = refusing(host, &diversion.answer.fact).map(|route| route.seq);
    (summary, rule.map(|rule| rule.seq).into_iter().chain(refusing).collect(), advice)
}

/// What helps against a rule that takes the mark of a packet, by the kernel's answer for that packet: also where nothing but
/// the difference to a plain program's packets tells of it (WR126).
pub(super) fn advice(host: &HostEvidence, answer: &RouteAnswer, rule: Option<&Taken<PolicyRule>>) -> Vec<Remedy> {
    let question = &answer.question;
    let mut advice = vec![
        Remedy::safe("See the difference that the mark makes")
            .run(ask(question))
            .run(ask(&crate::host::RouteQuestion { mark: 0, ..question.clone() })),
    ];
    // Which other mark helps is known only where the rule is.
    let free = rule.and_then(|rule| free_mark(host, rule.fact.mask.unwrap_or(u32::MAX)));
    if let Some((what, mark)) = free.filter(|_| question.mark == NETBIRD || is_about(host, SoftwareName::Netbird)) {
        advice.push(with_variable(
            &format!("{what} (from NetBird of September 2026 on)"),
            host,
            "netbird",
            "mark",
            Variable::Set(&format!("NB_FWMARK_BASE={mark:#x}")),
        ));
    }
    if is_about(host, SoftwareName::Mwan3) || rule.is_some_and(|rule| rule.fact.mask == Some(0x3F00)) {
        advice.push(
            Remedy::cuts("Or give mwan3 other bits")
                .run("uci set mwan3.globals.mmx_mask='0x3F000000' && uci commit mwan3")
                .run("mwan3 restart"),
        );
    }
    if let Some(rule) = rule {
        let refused = is_refused(answer);
        advice.push(exempt_mark("Or exempt the mark ahead of that rule", &rule.fact, question.mark, refused));
    }
    advice
}

/// NetBird's mark moved up until no rule of this host takes it, best one that shares no bit with the mask of the rule
/// that takes the present one; with what it does.
fn free_mark(host: &HostEvidence, mask: u32) -> Option<(String, u32)> {
    let marks = || (1..12).map(|shift| NETBIRD << shift).filter(|mark| mark_rule(host, *mark).is_none());
    // A rule without a mask takes one mark only: any other will do.
    if mask == u32::MAX {
        return marks().next().map(|mark| ("Give NetBird another mark".to_owned(), mark));
    }
    let apart = marks().find(|mark| mark & mask == 0);
    let apart = apart.map(|mark| (format!("Give NetBird a mark that shares no bits with {mask:#x}"), mark));
    apart.or_else(|| Some(("Give NetBird a mark that no rule here takes".to_owned(), marks().next()?)))
}
