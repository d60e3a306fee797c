//! The rules. One file a rule, one line here; the text of a rule is what `whyrelay explain` prints.

use std::collections::BTreeSet;
use std::net::IpAddr;

use self::alike::joined;
use self::need::Missing;
use super::finding::{Blame, Effect, Finding, MAX_CITED, NotMeasured, Remedy, Severity};
use super::session::{Path, Session};
use crate::host::Family;
use crate::trace::event::Vantage;

mod ahead;
mod alike;
mod answers_after_giving_up;
mod answers_from_other_address;
mod answers_lost;
mod answers_rewritten;
mod application_connects_lazily;
mod application_forces_relay;
mod application_stuck_on_relay;
mod application_treated_differently;
mod bridge_shadows_peer;
mod candidate_is_own_address;
mod candidates_come_too_late;
mod capability_missing;
mod check_integrity_failed;
mod checks_not_answered;
mod checks_not_arriving;
mod checks_refused;
pub(super) mod checks_rejected_on_the_way;
mod checks_unanswered;
mod checksum_for_another_source;
mod clock_wrong;
mod conntrack_table_full;
mod consent_lost;
pub(super) mod container_nat_randomizes_ports;
mod container_network_in_front;
mod counterfactual;
mod default_route_only_in_policy_table;
mod diverted;
mod document;
mod dtls_failed;
pub(super) mod endpoint_dependent_mapping;
mod errno;
mod fingerprint_mismatch;
mod hops;
mod how_far;
pub(super) mod input_firewall_drops;
mod interface_left_out;
mod ipsec_policy_drops;
mod ipv6_without_route;
mod lasting;
mod mapping_expires_early;
mod mark_rewritten_on_output;
mod mark_rule_collision;
mod mdns_candidate_unresolved;
mod mtu_black_hole;
pub(super) mod nat_behind_nat;
mod need;
mod network_went_away;
mod next_hop_silent;
mod no_hairpin_behind_one_nat;
mod no_reachable_candidates;
mod no_relay_available;
mod no_remote_candidates;
mod no_usable_address;
mod output_firewall_drops;
mod packets_blocked_by_shape;
mod path_mtu_reduced;
mod peer_by_other_uplink;
mod peer_message_refused;
mod peer_never_came;
mod peer_sees_other_port;
mod peer_vanished;
mod plain_program_diverted;
mod policy_rule_diverts_peer;
mod port_shared_behind_nat;
mod port_taken;
mod port_taken_by_early_packet;
mod public_address_varies;
mod relay_address_private;
mod relay_fell_silent;
mod relay_only_configured;
mod relayed_checks_lost;
mod replies_dropped_in_front;
mod reverse_path_filter_drops;
mod route_refuses_peer;
mod send_refused_by_system;
mod server_name_unresolved;
mod service;
mod signaling_failed;
mod source_leaves_by_other_interface;
mod source_rewritten_here;
mod stranger_at_private_address;
mod stun_server_silent;
mod turn_allocation_refused;
mod turn_credentials_expired;
mod turn_credentials_missing;
mod turn_credentials_rejected;
mod turn_permission_refused;
mod turn_server_unreachable;
mod turn_tls_failed;
pub(super) mod udp_blocked;
mod udp_only_to_servers;
mod virtual_interfaces_crowd;
mod vpn_carries_everything;
mod vpn_drops_carrier_range;
mod vpn_route_covers_peer;
mod wording;
mod would_drop;

pub use alike::Alike;
pub(crate) use checks_rejected_on_the_way::{is_own, meaning as icmp_meaning};
pub use document::markdown;
pub use need::Need;
pub(crate) use turn_tls_failed::in_words as tls_in_words;
pub use wording::quoted;
pub(crate) use wording::{ask, quoted_firewall, way};

/// A rule: what it looks for and how.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// `WR` and three digits; the first digit is the layer.
    pub code: &'static str,
    /// Names the fault, in kebab case.
    pub name: &'static str,
    /// One line for a list of rules.
    pub title: &'static str,
    /// What is wrong and what it leads to.
    pub meaning: &'static str,
    /// How it is detected.
    pub detection: &'static str,
    /// What proves it beyond this detection.
    pub proof: &'static str,
    /// What would change the judgement.
    pub doubt: &'static str,
    /// How it is fixed, the likeliest first. A finding may add what is particular to it.
    pub fixes: &'static [Fix],
    /// Public threads about it: `owner/repository#number`.
    pub threads: &'static [&'static str],
    /// Rules whose finding explains this one: then it stays quiet.
    pub depends_on: &'static [&'static str],
    /// What it must know of each side to say that its fault is not there.
    pub needs: &'static [Need],
    /// Looks for the fault: whether it was found. [`Rule::judge`] says what that means.
    pub examine: fn(&Session<'_>) -> Examination,
}

/// A fix that holds wherever the rule fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fix {
    /// What it does to the machine or network.
    pub effect: Effect,
    /// What to do.
    pub text: &'static str,
}

impl Fix {
    const fn safe(text: &'static str) -> Self {
        Self { effect: Effect::Safe, text }
    }

    const fn cuts(text: &'static str) -> Self {
        Self { effect: Effect::CutsConnections, text }
    }

    const fn firewall(text: &'static str) -> Self {
        Self { effect: Effect::ChangesFirewall, text }
    }

    /// Whether a command of the advice sets what this fix names: then it is said already, and exactly.
    fn is_said_in(&self, advice: &[Remedy]) -> bool {
        let is_setting = |word: &&str| word.len() > 5 && word.contains('_');
        let words = || self.text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(is_setting);
        let commands = || advice.iter().flat_map(|remedy| &remedy.commands);
        words().any(|word| commands().any(|command| command.contains(word)))
    }

    const fn owner(text: &'static str) -> Self {
        Self { effect: Effect::NeedsRouterOwner, text }
    }
}

impl Rule {
    /// What it says of a session: that the fault is not there only where nothing is missing that it needs to know, or
    /// where a direct path refutes it.
    pub fn judge(&self, session: &Session<'_>) -> Examination {
        let cut_short = || session.cut_short().filter(|_| self.is_about_silence());
        match (self.examine)(session) {
            Examination::Found(faults) => match cut_short() {
                Some(cut_short) => Examination::Inconclusive { missing: cut_short.missing() },
                None => Examination::Found(faults),
            },
            Examination::Clear => Missing::told(&need::missing_of_all(self, session))
                .map_or(Examination::Clear, |missing| Examination::Inconclusive { missing }),
            other => other,
        }
    }

    /// Whether it could see its fault on a side, were it there.
    pub fn sees(&self, session: &Session<'_>, vantage: Vantage) -> bool {
        need::missing(self.needs, session, vantage).is_none()
    }

    /// Whether its fault shows in what the checks and the peer leave out: an answer, a candidate, a relay. What servers
    /// leave out is judged by how long they were asked (WR301, WR302), by a measurement that came to its end (WR304), or
    /// by a request that was given up (WR402).
    fn is_about_silence(&self) -> bool {
        const CODES: [&str; 8] = ["WR407", "WR501", "WR502", "WR503", "WR505", "WR508", "WR703", "WR802"];
        CODES.contains(&self.code)
    }

    /// Whether a path that is direct suffers from it all the same: it breaks when idle, or large packets get lost on it.
    pub fn harms_a_direct_path(&self) -> bool {
        matches!(self.code, "WR205" | "WR603")
    }

    /// Whether it can judge a host that looks at its own network (`whyrelay check`): rules of the host, its NAT, STUN
    /// and TURN, and of reaching signaling. The others need a peer.
    fn judges_one_host(&self) -> bool {
        // Signaling, the clock, packet sizes and shapes, and what answers too late are looked at without a peer, too.
        let measured = ["WR510", "WR604", "WR605", "WR701", "WR707"].contains(&self.code);
        measured || ["WR1", "WR2", "WR3", "WR4"].iter().any(|family| self.code.starts_with(family))
    }
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examination {
    /// The fault is there; once for each place where it is.
    Found(Vec<Fault>),
    /// It was looked for and is not there.
    Clear,
    /// It could not be looked for.
    Inconclusive {
        /// What is missing.
        missing: String,
    },
}

/// One place where the fault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose fault it is.
    pub blame: Blame,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence.
    pub summary: String,
    /// Events that show it.
    pub evidence: Vec<u64>,
    /// What helps here, before the fixes of the rule.
    pub advice: Vec<Remedy>,
    /// Whether the fixes of the rule do not help here: then the advice is all.
    pub advice_is_all: bool,
    /// What would change this judgement, where it is more than what the rule says.
    pub doubt: Option<String>,
    /// The one side that sees it, where it is not that side's fault: a fault of the other side explains nothing of it.
    pub seen_by: Option<Vantage>,
    /// The one address family that it is about: one of the other family neither explains it nor is explained by it.
    pub family: Option<Family>,
    /// The code of a rule that may tell of it: then it is told by itself only where no finding of that rule, which comes
    /// earlier, cites its events.
    pub told_in: Option<&'static str>,
    /// What it is about, where it may be one of several that are told in one finding.
    pub alike: Option<Alike>,
    /// Whether another fault hides it, so that it does no harm until that one is mended: then it explains nothing of what
    /// was seen, and nothing explains it.
    pub hidden: bool,
    /// The same, told of each family by itself, where both are concerned: what is explained of one is left out.
    pub parts: Vec<Self>,
}

impl Default for Fault {
    fn default() -> Self {
        Self {
            blame: Blame::Path,
            severity: Severity::Info,
            summary: String::new(),
            evidence: Vec::new(),
            advice: Vec::new(),
            advice_is_all: false,
            doubt: None,
            seen_by: None,
            family: None,
            told_in: None,
            alike: None,
            hidden: false,
            parts: Vec::new(),
        }
    }
}

impl Fault {
    /// What a rule says of the families together, `say(None)`, and of each.
    fn of_families(say: impl Fn(Option<Family>) -> Option<Self>) -> Option<Self> {
        let families = [Family::V4, Family::V6];
        let mut parts: Vec<Self> = families
            .into_iter()
            .filter_map(|family| say(Some(family)).map(|fault| Self { family: Some(family), ..fault }))
            .collect();
        if parts.len() < families.len() { parts.pop() } else { say(None).map(|fault| Self { parts, ..fault }) }
    }

    /// What of it is left when its parts are looked at one by one.
    fn without(self, is_explained: impl Fn(&Self) -> bool) -> Option<Self> {
        let (explained, mut open): (Vec<_>, Vec<_>) = self.parts.iter().cloned().partition(|part| is_explained(part));
        match (explained.is_empty(), open.pop()) {
            (false, open) => open,
            (true, _) => (!is_explained(&self)).then_some(self),
        }
    }
}

/// The one family of some addresses.
fn one_family(addresses: impl IntoIterator<Item = IpAddr>) -> Option<Family> {
    let mut families = addresses.into_iter().map(Family::of);
    let first = families.next()?;
    families.all(|other| other == first).then_some(first)
}

impl Examination {
    /// Found when there is any fault, else clear.
    pub fn of(faults: Vec<Fault>) -> Self {
        if faults.is_empty() { Self::Clear } else { Self::Found(faults) }
    }
}

/// Every rule, causes before their effects, in the order in which a cause is looked for: configuration, what the host
/// itself does to its packets (error numbers, routes, counters), the networks, servers, checks. Findings come in this
/// order, those that another hides behind the others, and those that are only information last.
pub const RULES: &[Rule] = &[
    signaling_failed::RULE,
    peer_message_refused::RULE,
    peer_never_came::RULE,
    relay_only_configured::RULE,
    no_usable_address::RULE,
    mdns_candidate_unresolved::RULE,
    no_remote_candidates::RULE,
    interface_left_out::RULE,
    application_forces_relay::RULE,
    application_connects_lazily::RULE,
    port_taken::RULE,
    capability_missing::RULE,
    network_went_away::RULE,
    conntrack_table_full::RULE,
    ipsec_policy_drops::RULE,
    output_firewall_drops::RULE,
    mark_rule_collision::RULE,
    ipv6_without_route::RULE,
    route_refuses_peer::RULE,
    policy_rule_diverts_peer::RULE,
    vpn_route_covers_peer::RULE,
    bridge_shadows_peer::RULE,
    peer_by_other_uplink::RULE,
    mark_rewritten_on_output::RULE,
    vpn_carries_everything::RULE,
    source_leaves_by_other_interface::RULE,
    next_hop_silent::RULE,
    source_rewritten_here::RULE,
    reverse_path_filter_drops::RULE,
    vpn_drops_carrier_range::RULE,
    input_firewall_drops::RULE,
    checksum_for_another_source::RULE,
    answers_from_other_address::RULE,
    application_treated_differently::RULE,
    default_route_only_in_policy_table::RULE,
    container_network_in_front::RULE,
    application_stuck_on_relay::RULE,
    plain_program_diverted::RULE,
    send_refused_by_system::RULE,
    server_name_unresolved::RULE,
    answers_rewritten::RULE,
    replies_dropped_in_front::RULE,
    udp_blocked::RULE,
    udp_only_to_servers::RULE,
    stun_server_silent::RULE,
    no_hairpin_behind_one_nat::RULE,
    port_taken_by_early_packet::RULE,
    port_shared_behind_nat::RULE,
    public_address_varies::RULE,
    container_nat_randomizes_ports::RULE,
    endpoint_dependent_mapping::RULE,
    peer_sees_other_port::RULE,
    nat_behind_nat::RULE,
    clock_wrong::RULE,
    mapping_expires_early::RULE,
    turn_credentials_missing::RULE,
    turn_credentials_expired::RULE,
    turn_credentials_rejected::RULE,
    turn_tls_failed::RULE,
    turn_server_unreachable::RULE,
    turn_allocation_refused::RULE,
    turn_permission_refused::RULE,
    relay_address_private::RULE,
    fingerprint_mismatch::RULE,
    peer_vanished::RULE,
    relay_fell_silent::RULE,
    check_integrity_failed::RULE,
    candidates_come_too_late::RULE,
    answers_after_giving_up::RULE,
    checks_rejected_on_the_way::RULE,
    packets_blocked_by_shape::RULE,
    checks_not_arriving::RULE,
    checks_not_answered::RULE,
    checks_refused::RULE,
    answers_lost::RULE,
    relayed_checks_lost::RULE,
    checks_unanswered::RULE,
    stranger_at_private_address::RULE,
    virtual_interfaces_crowd::RULE,
    candidate_is_own_address::RULE,
    no_reachable_candidates::RULE,
    consent_lost::RULE,
    mtu_black_hole::RULE,
    path_mtu_reduced::RULE,
    dtls_failed::RULE,
    no_relay_available::RULE,
];

/// The rule of a code (`WR504`, upper or lower case) or of a name.
pub fn find(code_or_name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.code.eq_ignore_ascii_case(code_or_name) || rule.name == code_or_name)
}

/// What all rules say of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// Root causes first.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub not_measured: Vec<NotMeasured>,
    /// Whether something is wrong, or could be, although the session is direct.
    pub has_harmless: bool,
}

/// Runs every rule. A path over TCP alone leaves to be found why there is none over UDP.
pub fn diagnose(session: &Session<'_>) -> Diagnosis {
    session.over_udp().map_or_else(|| diagnose_path(session), |session| diagnose_path(&session))
}

/// What each rule that applies says, before one explains another.
pub(crate) fn examine_all(session: &Session<'_>) -> Vec<(&'static Rule, Examination)> {
    let applicable = RULES.iter().filter(|rule| !session.evidence.is_alone() || rule.judges_one_host());
    applicable.map(|rule| (rule, rule.judge(session))).collect()
}

fn diagnose_path(session: &Session<'_>) -> Diagnosis {
    let examinations = examine_all(session);
    let found: Vec<(&str, Blame, Option<Family>)> = examinations
        .iter()
        .filter_map(|(rule, examination)| match examination {
            Examination::Found(faults) => Some((rule.code, faults)),
            _ => None,
        })
        .flat_map(|(code, faults)| faults.iter().map(move |fault| (code, fault)))
        .filter(|(_, fault)| fault.severity != Severity::Info && !fault.hidden)
        .map(|(code, fault)| (code, fault.blame, fault.family))
        .collect();

    let mut diagnosis = Diagnosis::default();
    let (mut without, mut cited) = (Vec::new(), BTreeSet::new());
    for (rule, examination) in examinations {
        let explains = |code: &str| rule.depends_on.contains(&code);
        match examination {
            Examination::Found(faults) => {
                // A fault of one side explains nothing on the other, and one of an address family nothing of the other.
                let is_explained = |fault: &Fault| {
                    let seen_by = fault.seen_by.map_or(Blame::Path, Blame::side);
                    let concerns = |blame: Blame| blame.may_concern(fault.blame) && blame.may_concern(seen_by);
                    let alike =
                        |family: Option<Family>| family.is_none() || fault.family.is_none_or(|own| family == Some(own));
                    !fault.hidden
                        && found
                            .iter()
                            .any(|(code, blame, family)| explains(code) && concerns(*blame) && alike(*family))
                };
                let open = faults.into_iter().filter_map(|fault| fault.without(is_explained));
                let is_told = |fault: &Fault| {
                    let told = |code| fault.evidence.iter().all(|seq| cited.contains(&(code, *seq)));
                    fault.told_in.is_some_and(told)
                };
                let open: Vec<Fault> = open.filter(|fault| !is_told(fault)).collect();
                cited.extend(open.iter().flat_map(|fault| fault.evidence.iter().map(|seq| (rule.code, *seq))));
                let harmful = open.iter().any(|fault| fault.severity != Severity::Info);
                diagnosis.has_harmless |= harmful && session.path == Path::Direct;
                diagnosis.findings.extend(joined(open).into_iter().map(|fault| finding(rule, fault, session)));
            }
            // What could keep a path from being direct is of no interest where it is direct.
            Examination::Inconclusive { missing }
                if session.path != Path::Direct && !found.iter().any(|(code, ..)| explains(code)) =>
            {
                without.push((rule, missing));
            }
            _ => {}
        }
    }
    diagnosis.not_measured = grouped(&without);
    // A stable sort keeps causes before effects; what another hides comes behind them, and what did no harm last.
    diagnosis.findings.sort_by_key(|finding| (finding.severity == Severity::Info, finding.hidden));
    diagnosis
}

/// Most rules that are named for what is missing: one side's recording is missing for most of them.
const MAX_NAMED: usize = 8;

/// What is missing for the same reason, in one entry each.
fn grouped(without: &[(&Rule, String)]) -> Vec<NotMeasured> {
    let mut reasons: Vec<&String> = Vec::new();
    for (_, why) in without {
        if !reasons.contains(&why) {
            reasons.push(why);
        }
    }
    let entry = |why: &String| {
        let rules: Vec<&Rule> = without.iter().filter(|(_, other)| other == why).map(|(rule, _)| *rule).collect();
        let what = match rules.as_slice() {
            [one] => format!("whether {}", one.title),
            several if several.len() > MAX_NAMED => {
                let families = document::families(several).map(|(title, rules)| format!("{title} {}", rules.len()));
                let families: Vec<String> = families.collect();
                let count = several.len();
                format!("whether it is one of {count} faults ({}; whyrelay explain --list)", families.join(", "))
            }
            several => {
                let names: Vec<_> = several.iter().map(|rule| rule.name).collect();
                format!("whether it is one of {}", names.join(", "))
            }
        };
        let mut codes: Vec<&str> = rules.iter().map(|rule| rule.code).collect();
        codes.sort_unstable();
        NotMeasured { what, why: why.clone(), codes }
    };
    reasons.into_iter().map(entry).collect()
}

fn finding(rule: &Rule, fault: Fault, session: &Session<'_>) -> Finding {
    let Fault { blame, severity, summary, mut evidence, doubt, hidden, seen_by, .. } = fault;
    let (mut remedies, advice_is_all) = (fault.advice, fault.advice_is_all);
    evidence.sort_unstable();
    evidence.dedup();
    evidence.truncate(MAX_CITED);
    let host = match blame {
        Blame::A => Some(&session.evidence.side(Vantage::A).host),
        Blame::B => Some(&session.evidence.side(Vantage::B).host),
        _ => None,
    };
    host.into_iter().for_each(|host| lasting::add(&mut remedies, rule.code, host));
    let fixes: Vec<&Fix> = rule.fixes.iter().filter(|fix| !advice_is_all && !fix.is_said_in(&remedies)).collect();
    remedies.extend(fixes.into_iter().map(|fix| Remedy { effect: fix.effect, ..Remedy::safe(fix.text) }));
    let advice = remedies.iter().map(Remedy::line).collect();
    let doubt = doubt.unwrap_or_else(|| rule.doubt.to_owned());
    // What did no harm is no warning: the session is direct all the same.
    let did_no_harm = session.path == Path::Direct && !rule.harms_a_direct_path();
    let severity = if did_no_harm { Severity::Info } else { severity };
    Finding {
        code: rule.code,
        name: rule.name,
        blame,
        severity,
        summary,
        evidence,
        advice,
        remedies,
        doubt,
        hidden,
        seen_by,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_dependencies_exist() {
        for (position, rule) in RULES.iter().enumerate() {
            assert!(rule.code.len() == 5 && rule.code.starts_with("WR"), "{}", rule.code);
            assert!(RULES[position + 1..].iter().all(|other| other.code != rule.code && other.name != rule.name));
            for code in rule.depends_on {
                // What a rule depends on comes before it, so that no two can silence each other.
                assert!(RULES[..position].iter().any(|other| other.code == *code), "{} depends on {code}", rule.code);
            }
            assert!(!rule.fixes.is_empty() && !rule.meaning.is_empty() && !rule.detection.is_empty());
            assert!(!rule.proof.is_empty() && !rule.doubt.is_empty());
            for thread in rule.threads {
                let (repository, number) = thread.split_once('#').expect("owner/repository#number");
                assert!(repository.split('/').count() == 2 && number.parse::<u32>().is_ok(), "{thread}");
            }
        }
    }
}
