//! Every rule fires where its fault is and is silent everywhere else; with one side's recording, nothing wrong is said.

use std::collections::BTreeSet;

use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_core::diagnosis::rules::RULES;
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{Event, Vantage};

use crate::cases::{self, Case, near};
use crate::report::direct;

fn findings(events: &[Event]) -> Vec<(&'static str, &'static str, Severity)> {
    let findings = Report::from_events(events).findings;
    findings.iter().map(|finding| (finding.code, finding.blame.name(), finding.severity)).collect()
}

#[test]
fn every_rule_has_a_case_that_fires_it_on_the_right_side() {
    let cases = cases::all();
    let mut wrong = Vec::new();
    for rule in RULES {
        let of_rule: Vec<&Case> = cases.iter().filter(|case| case.code == rule.code).collect();
        if of_rule.is_empty() {
            wrong.push(format!("{} {} has no case", rule.code, rule.name));
        }
        for case in of_rule {
            let found = findings(&case.session.events);
            if !found.iter().any(|(code, blame, _)| *code == case.code && *blame == case.blame) {
                wrong.push(format!("{} at {} is not found: {found:?}", case.code, case.blame));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_case_has_no_other_errors_or_warnings_and_its_own_come_first() {
    let mut wrong = Vec::new();
    for case in cases::all() {
        let harmful: Vec<_> =
            findings(&case.session.events).into_iter().filter(|(.., severity)| *severity != Severity::Info).collect();
        if let Some(other) =
            harmful.iter().find(|(code, ..)| *code != case.code && !case.also.contains(code) && *code != "WR802")
        {
            wrong.push(format!("{}: {other:?} in {harmful:?}", case.code));
        }
        let own = harmful.iter().position(|(code, ..)| *code == case.code);
        // What is only information, and what follows from everything (no relay to fall back to), does not lead.
        if own.is_some_and(|position| position > 0) && !matches!(case.code, "WR802" | "WR407") {
            wrong.push(format!("{} is not first: {harmful:?}", case.code));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_is_silent_one_step_away_from_its_fault() {
    let all = near::all();
    let mut wrong: Vec<String> = RULES
        .iter()
        .filter(|rule| all.iter().all(|near| near.code != rule.code))
        .map(|rule| format!("{} {} has no near miss", rule.code, rule.name))
        .collect();
    for near in all {
        let found = findings(&near.session.events);
        let fired = found
            .iter()
            .any(|(code, _, severity)| *code == near.code && !(near.as_information && *severity == Severity::Info));
        if fired {
            wrong.push(format!("{}, although {}: {found:?}", near.code, near.why));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_command_that_changes_what_a_firewall_lets_through_or_cuts_connections_says_so() {
    let changes = |command: &str| {
        ["nft add", "nft 'add", "nft insert", "nft delete", "iptables", "ip6tables", "ufw", "firewall-cmd"]
            .iter()
            .any(|start| command.starts_with(start))
            || command.contains("rp_filter=")
            || [" route del blackhole", " route del unreachable", " route del prohibit"]
                .iter()
                .any(|part| command.contains(part))
    };
    let looks = |command: &str| {
        ["ip route get", "ip -6 route get", "ip route show", "ip neigh", "ss ", "nft -a list", "iptables-save"]
            .iter()
            .any(|start| command.starts_with(start))
    };
    let cuts = |command: &String| {
        [" restart", "tailscale set ", "networks deselect", "daemon-reload"].iter().any(|part| command.contains(part))
    };
    let mut seen = 0;
    for case in cases::all() {
        for finding in Report::from_events(&case.session.events).findings {
            for remedy in &finding.remedies {
                let is_cut = remedy.commands.iter().any(cuts);
                // What keeps packets in is a firewall, whatever it is made of.
                let is_kill_switch = remedy.text.contains("kill switch");
                for command in &remedy.commands {
                    seen += 1;
                    let expected = match is_kill_switch || changes(command) && !looks(command) {
                        true => "changes the firewall",
                        false if is_cut => "cuts connections",
                        false => "safe",
                    };
                    assert_eq!(remedy.effect.name(), expected, "{}: {command}", finding.code);
                    let hole = command
                        .split([' ', '/', '='])
                        .find(|word| word.len() > 3 && word.bytes().all(|b| b.is_ascii_uppercase()));
                    let known = ["ACCEPT", "GATEWAY", "NETWORK-ID", "OUTPUT"];
                    assert!(hole.is_none_or(|word| known.contains(&word)), "{}: {command} has a hole", finding.code);
                }
            }
        }
    }
    assert!(seen > 20, "only {seen} commands");
}

#[test]
fn what_a_command_sets_is_not_advised_again_in_words() {
    for case in cases::all() {
        for finding in Report::from_events(&case.session.events).findings {
            for setting in ["NB_FWMARK_BASE", "NB_FORCE_RELAY", "mmx_mask"] {
                let said = finding.remedies.iter().filter(|remedy| remedy.line().contains(setting)).count();
                assert!(said <= 1, "{}: {setting} is advised {said} times: {:#?}", finding.code, finding.remedies);
            }
        }
    }
}

/// NetBird takes nothing but "true" for it.
#[test]
fn netbirds_other_words_do_not_force_its_relay() {
    use whyrelay_core::host::SoftwareName;
    let forced = |value: &str| {
        let mut session = direct();
        session.software(SoftwareName::Netbird, &[("NB_FORCE_RELAY", value)]);
        findings(&session.events).iter().any(|(code, ..)| *code == "WR803")
    };
    assert!(forced("true") && forced("TRUE"));
    assert!(!forced("1") && !forced("yes") && !forced("on"));
}

/// Tailscale takes what Go takes for true; the advice is about its service.
#[test]
fn tailscales_variable_forces_its_relay() {
    use whyrelay_core::host::SoftwareName;
    let advised = |value: &str| {
        let mut session = direct();
        session.software(SoftwareName::Tailscale, &[("TS_DEBUG_ALWAYS_USE_DERP", value)]);
        let report = Report::from_events(&session.events);
        let found = report.findings.iter().find(|finding| finding.code == "WR803");
        found.map(|found| found.remedies.iter().map(|remedy| format!("{remedy:?}")).collect::<String>())
    };
    assert!(advised("1").is_some_and(|advice| advice.contains("systemctl restart tailscaled")));
    assert!(advised("true").is_some());
    assert_eq!((advised("0"), advised("yes")), (None, None));
}

#[test]
fn a_healthy_session_has_no_finding() {
    assert_eq!(findings(&direct().events), []);
}

#[test]
fn one_side_alone_says_nothing_that_both_do_not_say() {
    // What only means that something is not known from one side, or that blames nobody in particular.
    const UNKNOWN: [&str; 3] = ["WR505", "WR602", "WR802"];
    let mut wrong = Vec::new();
    for case in cases::all() {
        let both: BTreeSet<_> = findings(&case.session.events).into_iter().map(|(code, ..)| code).collect();
        for vantage in [Vantage::A, Vantage::B] {
            for (code, blame, severity) in findings(&case.session.of(vantage)) {
                if severity != Severity::Info && !both.contains(code) && !UNKNOWN.contains(&code) && blame != "the path"
                {
                    wrong.push(format!("{} from {}: {code} at {blame}", case.code, vantage.name()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_finding_says_what_shows_it_and_what_helps() {
    for case in cases::all() {
        for finding in Report::from_events(&case.session.events).findings {
            assert!(!finding.remedies.is_empty() && !finding.doubt.is_empty(), "{}", finding.code);
            assert_eq!(finding.remedies.len(), finding.advice.len());
            assert!(finding.summary.len() < 400, "{}: {}", finding.code, finding.summary);
            let cited = finding.evidence.iter().all(|seq| case.session.events.iter().any(|event| event.seq == *seq));
            assert!(cited, "{} cites events that are not there", finding.code);
            // Facts that are missing cannot be cited: these are about what did not come.
            let about_nothing = matches!(finding.code, "WR702" | "WR703" | "WR802" | "WR508" | "WR102" | "WR801");
            assert!(!finding.evidence.is_empty() || about_nothing, "{} cites nothing", finding.code);
        }
    }
}
