//! How a change is made to last: in the words of what the host runs.

use whyrelay_core::host::{
    FirewallFramework, FirewallRule, HostFact, Init, InterfaceManager, ManagedInterface, Prefix, RoutePurpose,
    SoftwareName, System,
};
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::Vantage;

use crate::builder::{Fate, Session};
use crate::cases::facts::{UPLINK, Way, policy_rule};
use crate::cases::{failing, lost};
use crate::report::{B_MAPPED, STUN};

fn system(distribution: &str, init: Init) -> HostFact {
    let (distribution, init) = (Some(distribution.to_owned()), Some(init));
    HostFact::System(System { distribution, init, ..System::default() })
}

fn managed(manager: InterfaceManager, netplan: Option<&str>, profile: Option<&str>) -> HostFact {
    let (netplan, profile) = (netplan.map(str::to_owned), profile.map(str::to_owned));
    HostFact::ManagedInterface(ManagedInterface { device: "eth0".into(), manager, netplan, profile })
}

/// A policy rule leads the peer's packets into a tunnel.
fn diverted(facts: Vec<HostFact>) -> Session {
    lost(|session| {
        facts.into_iter().for_each(|fact| session.fact(Vantage::A, fact));
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
        let to = Prefix { address: "203.0.113.0".parse().expect("an address"), length: 24 };
        session.rule(whyrelay_core::host::PolicyRule { to: Some(to), ..policy_rule(100) });
        session.route(RoutePurpose::Server, STUN, 0, Ok(UPLINK));
        let way = Way { device: "wg0", gateway: None, table: 200, rule: Some(100) };
        session.route(RoutePurpose::Peer, B_MAPPED, 0, Ok(way));
    })
}

/// The remedy that makes the first change of a finding last.
fn lasting(session: &Session, code: &str) -> (String, Vec<String>) {
    let report = Report::from_events(&session.events);
    let finding = report.findings.iter().find(|finding| finding.code == code).unwrap_or_else(|| panic!("no {code}"));
    let position = finding.remedies.iter().position(|remedy| remedy.text.starts_with("To make it last"));
    let position = position.unwrap_or_else(|| panic!("{:?}", finding.advice));
    // It stands behind what it is about, and does as much.
    assert_eq!(finding.remedies[position].effect, finding.remedies[position - 1].effect);
    (finding.remedies[position].text.clone(), finding.remedies[position].commands.clone())
}

#[test]
fn a_policy_rule_is_given_to_what_sets_the_interface_up() {
    use InterfaceManager::{Ifupdown, Netifd, NetworkManager, SystemdNetworkd};
    let peer = B_MAPPED.rsplit_once(':').expect("a port").0;
    let file = "/etc/systemd/network/20-wired.network";
    let planned =
        "network: {version: 2, ethernets: {lan: {routing-policy: [{to: \"PEER/32\", priority: 99, table: 254}]}}}";
    for (fact, by, expected) in [
        (
            managed(NetworkManager, None, Some("uuid")),
            "with NetworkManager, which",
            "nmcli connection modify uuid +ipv4.routing-rules \"priority 99 from 0.0.0.0/0 to PEER/32 table 254\"",
        ),
        (
            managed(SystemdNetworkd, None, Some(file)),
            "with systemd-networkd, which",
            "printf '[RoutingPolicyRule]\\nFamily=ipv4\\nPriority=99\\nTo=PEER/32\\nTable=254\\n' > /etc/systemd/network/20-wired.network.d/whyrelay-wr105.conf",
        ),
        (managed(SystemdNetworkd, Some("lan"), Some(file)), "with netplan, which", planned),
        (managed(NetworkManager, Some("lan"), None), "with netplan, which", planned),
        (
            managed(Ifupdown, None, None),
            "with ifupdown, which",
            "printf '#!/bin/sh\\n[ \"$IFACE\" = eth0 ] || exit 0\\nip rule add pref 99 to PEER lookup main\\n' > /etc/network/if-up.d/whyrelay-wr105",
        ),
        (managed(Netifd, None, None), "with netifd, which", "uci set network.@rule[-1].dest=PEER/32"),
    ] {
        let (text, commands) = lasting(&diverted(vec![fact]), "WR105");
        assert!(text.contains(by), "{text}");
        let expected = expected.replace("PEER", peer);
        assert!(commands.iter().any(|command| command.contains(&expected)), "{expected}: {commands:#?}");
    }
    // Nobody is known to, or by a name that is not known.
    for facts in [vec![], vec![managed(NetworkManager, None, None)]] {
        let (text, commands) = lasting(&diverted(facts), "WR105");
        assert!(commands.is_empty() && text.contains("sets eth0 up"), "{text}: {commands:?}");
    }
}

#[test]
fn a_setting_and_a_firewall_rule_go_where_the_distribution_keeps_them() {
    let full = |facts: Vec<HostFact>| {
        lost(|session| {
            facts.into_iter().for_each(|fact| session.fact(Vantage::A, fact));
            session.fact(Vantage::A, HostFact::ConntrackUse { entries: 65_536, max: 65_536 });
        })
    };
    const SETTING: &str = "printf 'net.netfilter.nf_conntrack_max=131072\\n' > /etc/sysctl.d/90-whyrelay-wr112.conf";
    let (_, commands) = lasting(&full(vec![]), "WR112");
    assert_eq!(commands, [SETTING, "echo nf_conntrack > /etc/modules-load.d/90-whyrelay.conf"]);
    let (_, commands) = lasting(&full(vec![system("alpine", Init::Openrc)]), "WR112");
    assert_eq!(commands, [SETTING]);
    let (text, commands) = lasting(&full(vec![system("nixos", Init::Systemd)]), "WR112");
    assert!(commands.is_empty() && text.contains("boot.kernel.sysctl.\"net.netfilter.nf_conntrack_max\" = 131072"));

    let dropping = |facts: Vec<HostFact>| {
        lost(|session| {
            facts.into_iter().for_each(|fact| session.fact(Vantage::A, fact));
            session.firewall("input", "udp dport 40000 drop", Some("drop"), 7);
        })
    };
    for (distribution, place) in [
        (Some(("debian", Init::Systemd)), "/etc/nftables.conf, which nftables.service loads"),
        (Some(("fedora", Init::Systemd)), "/etc/sysconfig/nftables.conf"),
        (Some(("alpine", Init::Openrc)), "/etc/nftables.nft"),
        (Some(("openwrt", Init::Procd)), "/etc/nftables.d/"),
        (None, "often /etc/nftables.conf"),
    ] {
        let facts = distribution.map(|(id, init)| system(id, init)).into_iter().collect();
        let (text, _) = lasting(&dropping(facts), "WR111");
        assert!(text.contains(place), "{text}");
    }
    // ufw and firewalld keep what they are told.
    for software in [SoftwareName::Ufw, SoftwareName::Firewalld] {
        let mut session = dropping(vec![]);
        session.software(software, &[]);
        let found = &Report::from_events(&session.events).findings[0];
        assert!(!found.advice.iter().any(|line| line.contains("To make it last")), "{found:?}");
    }
}

/// A rule of A's host, of the legacy iptables or of a table of nftables, drops on a hook.
fn dropping_on(hook: &str, framework: FirewallFramework, family: &str, table: &str) -> HostFact {
    HostFact::FirewallRule(FirewallRule {
        framework,
        table_family: family.into(),
        table: table.into(),
        chain: hook.to_uppercase(),
        hook: Some(hook.into()),
        chain_type: Some("filter".into()),
        priority: Some(0),
        handle: None,
        position: Some(0),
        rule: "drop".into(),
        verdict: Some("drop".into()),
        target: None,
        sets_mark: false,
        packets: Some(7),
        packets_since: Some(7),
    })
}

#[test]
fn a_rule_of_ip6tables_is_kept_by_what_keeps_those() {
    let session = |distribution: &str, init: Init, family: &str| {
        lost(|session| {
            session.fact(Vantage::A, system(distribution, init));
            session.fact(Vantage::A, dropping_on("input", FirewallFramework::LegacyIptables, family, "filter"));
        })
    };
    for (distribution, init, ipv4, ipv6) in [
        ("debian", Init::Systemd, "netfilter-persistent save", "netfilter-persistent save"),
        (
            "fedora",
            Init::Systemd,
            "iptables-legacy-save > /etc/sysconfig/iptables",
            "ip6tables-legacy-save > /etc/sysconfig/ip6tables",
        ),
        ("alpine", Init::Openrc, "rc-service iptables save", "rc-service ip6tables save"),
        (
            "arch",
            Init::Systemd,
            "iptables-legacy-save > /etc/iptables/iptables.rules",
            "ip6tables-legacy-save > /etc/iptables/ip6tables.rules",
        ),
    ] {
        for (family, expected) in [("ip", ipv4), ("ip6", ipv6)] {
            assert_eq!(lasting(&session(distribution, init, family), "WR111").1, [expected], "{distribution}");
        }
    }
}

/// firewalld's command opens a port for what arrives: of what leaves something else has to be said.
#[test]
fn with_firewalld_what_leaves_is_made_to_last_as_well() {
    let refused = |software: Option<SoftwareName>, table: &str| {
        let session = failing(Fate::SendRefused(1), Fate::LostOnTheWay, |session| {
            session.fact(Vantage::A, system("fedora", Init::Systemd));
            session.fact(Vantage::A, dropping_on("output", FirewallFramework::Nftables, "inet", table));
            software.into_iter().for_each(|software| session.software(software, &[]));
        });
        lasting(&session, "WR103").0
    };
    assert!(refused(None, "own").contains("/etc/sysconfig/nftables.conf"));
    let firewalld = Some(SoftwareName::Firewalld);
    assert!(refused(firewalld, "own").contains("/etc/sysconfig/nftables.conf"));
    let own = refused(firewalld, "firewalld");
    assert!(own.contains("in firewalld itself (firewall-cmd --permanent)"), "{own}");
}

/// Files that the commands of a report write anew.
fn written(session: &Session) -> Vec<String> {
    let remedies = Report::from_events(&session.events).findings.into_iter().flat_map(|finding| finding.remedies);
    let lasting = remedies.filter(|remedy| remedy.text.starts_with("To make it last"));
    let commands = lasting.flat_map(|remedy| remedy.commands);
    commands.filter_map(|command| Some(command.rsplit_once(" > ")?.1.to_owned())).collect()
}

#[test]
fn what_makes_two_findings_last_is_not_kept_in_one_file() {
    let session = lost(|session| {
        session.fact(Vantage::A, HostFact::ConntrackUse { entries: 65_536, max: 65_536 });
        session.counters(Vantage::A, &[("TcpExt.IPReversePathFilter", 12)]);
    });
    let files = written(&session);
    for file in ["/etc/sysctl.d/90-whyrelay-wr112.conf", "/etc/sysctl.d/90-whyrelay-wr110.conf"] {
        assert_eq!(files.iter().filter(|written| *written == file).count(), 1, "{files:?}");
    }
    for (manager, netplan) in [
        (InterfaceManager::SystemdNetworkd, None),
        (InterfaceManager::SystemdNetworkd, Some("lan")),
        (InterfaceManager::Ifupdown, None),
    ] {
        let profile = Some("/etc/systemd/network/20-wired.network");
        let files = written(&diverted(vec![managed(manager, netplan, profile)]));
        assert!(files.iter().any(|file| file.contains("whyrelay-wr105")), "{files:?}");
    }
}

#[test]
fn a_service_is_set_by_what_starts_it() {
    let forced = |facts: Vec<HostFact>| {
        let session = lost(|session| {
            facts.into_iter().for_each(|fact| session.fact(Vantage::A, fact));
            session.software(SoftwareName::Netbird, &[("NB_FORCE_RELAY", "true")]);
        });
        let findings = Report::from_events(&session.events).findings;
        let found = findings.into_iter().find(|finding| finding.code == "WR803").expect("WR803");
        found.remedies.into_iter().flat_map(|remedy| remedy.commands).collect::<Vec<_>>()
    };
    let systemd = forced(vec![]);
    assert_eq!(systemd.last().map(String::as_str), Some("systemctl restart netbird"));
    assert!(systemd[1].contains("UnsetEnvironment=NB_FORCE_RELAY"), "{systemd:?}");
    assert_eq!(forced(vec![system("debian", Init::Systemd)]), systemd);
    assert_eq!(
        forced(vec![system("alpine", Init::Openrc)]),
        ["sed -i '/NB_FORCE_RELAY=/d' /etc/conf.d/netbird", "rc-service netbird restart"]
    );
    assert_eq!(forced(vec![system("openwrt", Init::Procd)]), ["/etc/init.d/netbird restart"]);
}

#[test]
fn in_a_container_nothing_is_made_to_last() {
    let mut session = diverted(vec![]);
    session.capabilities(&[], Some("docker"));
    let report = Report::from_events(&session.events);
    let advice: Vec<_> = report.findings.iter().flat_map(|finding| &finding.advice).collect();
    assert!(!advice.iter().any(|line| line.contains("To make it last")), "{advice:?}");
}
