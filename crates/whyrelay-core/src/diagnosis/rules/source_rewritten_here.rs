//! This host gives its packets a source address that is none of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::wording::{again_with, quoted_firewall};
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{HostEvidence, SideEvidence, Taken};
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::session::{Path, Session};
use crate::host::{FirewallFramework, FirewallRule, Subject};
use crate::trace::event::{Transport, Vantage};

/// Fewer packets without an answer may be lost by themselves.
const ENOUGH: u64 = 3;

pub(super) const RULE: Rule = Rule {
    code: "WR130",
    name: "source-rewritten-here",
    title: "this host gives its packets a source address that is none of its own",
    meaning: "A rule of this host's own firewall (SNAT on postrouting) changes the source of the session's packets into an address that this host does not have: an old address, one of another machine, a cluster's. Who gets such packets answers elsewhere, if the provider lets them pass at all.",
    detection: "The copies of our own packets at the interface have a source that is none of this host's addresses, and nothing came back from where they went.",
    proof: "tcpdump on that interface shows the source; nft list ruleset, the rule.",
    doubt: "An answer to such a packet: then the address leads here after all.",
    fixes: &[Fix::firewall("Take the source translation out, or except this program's packets from it.")],
    threads: &["Nyr/openvpn-install#991"],
    depends_on: &["WR801"],
    needs: &[Need::Host(Subject::OwnPackets), Need::Host(Subject::Addresses)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    // That the copies are missing, and what they would take, is said once for all rules.
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn own_addresses(side: &SideEvidence) -> BTreeSet<IpAddr> {
    let told = side.host.addresses.iter().map(|address| address.fact.address);
    let sockets = side.sockets.keys().map(|(_, local)| local.ip());
    told.chain(sockets).chain(side.local_candidates.iter().map(|local| local.base.ip())).collect()
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let own = own_addresses(side);
    if side.host.addresses.is_empty() {
        return None;
    }
    let udp = side.sockets.keys().filter(|(transport, _)| *transport == Transport::Udp).map(|(_, local)| local.port());
    let ports: BTreeSet<u16> = udp.chain(side.local_candidates.iter().map(|local| local.base.port())).collect();
    let heard = side.heard_from();
    // A gateway that offers no port mapping is silent anyway: only the servers and the peer count.
    let servers =
        side.servers.keys().filter(|(transport, ..)| *transport == Transport::Udp).map(|(.., server)| *server);
    let asked: BTreeSet<SocketAddr> = servers.chain(side.sent.values().map(|check| check.pair.remote)).collect();
    let strange = side.host.own_packets.iter().find(|packet| {
        let packet = &packet.fact;
        !packet.arrived
            && packet.packets >= ENOUGH
            && ports.contains(&packet.source.port())
            && !own.contains(&packet.source.ip())
            && !packet.source.ip().is_unspecified()
            && asked.contains(&packet.destination)
            && !heard.contains(&packet.destination)
    })?;
    let packet = &strange.fact;
    let rule = translating(side, packet.source.ip());
    let by = rule.map_or_else(String::new, |rule| format!(", by {}", quoted_firewall(&rule.fact)));
    let mut advice = vec![Remedy::safe("See what leaves").run(format!(
        "tcpdump -ni {} udp port {}",
        packet.device,
        packet.source.port()
    ))];
    match rule {
        Some(rule) => advice.extend(around(&rule.fact, &side.host, packet.source.port())),
        None => advice.push(Remedy::safe("Find the rule").run("nft -a list ruleset | grep -n -E 'snat|masquerade'")),
    }
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "{} packets of {} to {} leave {} with the source {}, which is no address of this host{by}",
            packet.packets,
            vantage.name(),
            packet.destination,
            packet.device,
            packet.source
        ),
        evidence: std::iter::once(strange.seq).chain(rule.map(|rule| rule.seq)).collect(),
        advice,
        ..Fault::default()
    })
}

/// The rule that translates: that which names the address, else the only one on postrouting.
fn translating(side: &SideEvidence, to: IpAddr) -> Option<&Taken<FirewallRule>> {
    let named = to.to_string();
    let is_translation = |rule: &&Taken<FirewallRule>| {
        let words = rule.fact.rule.to_ascii_lowercase();
        rule.fact.hook.as_deref() == Some("postrouting")
            && ["nat", "snat", "netmap"].iter().any(|name| words.split_whitespace().any(|word| word == *name))
    };
    let mut all = side.host.firewall_rules.iter().filter(is_translation);
    let names = side.host.firewall_rules.iter().filter(is_translation).find(|rule| rule.fact.rule.contains(&named));
    names.or_else(|| all.next().filter(|_| all.next().is_none()))
}

/// How the rule lets this program's packets alone.
pub(super) fn around(rule: &FirewallRule, host: &HostEvidence, port: u16) -> Vec<Remedy> {
    let FirewallRule { table_family: family, table, chain, .. } = rule;
    let then = again_with(Some(port), host);
    if rule.framework == FirewallFramework::LegacyIptables {
        let command = if family == "ip6" { "ip6tables-legacy" } else { "iptables-legacy" };
        let command = format!("{command} -t {table} -I {chain} -p udp --sport {port} -j ACCEPT");
        return vec![Remedy::firewall(format!("Except this program's port from it{then}")).run(command)];
    }
    let accept = format!("nft insert rule {family} {table} {chain} udp sport {port} accept");
    let mut ways =
        vec![Remedy::firewall(format!("Except this program's port from it, until the next reload{then}")).run(accept)];
    ways.extend(rule.handle.map(|handle| {
        let command = format!("nft delete rule {family} {table} {chain} handle {handle}");
        Remedy::firewall("Or take the rule out").run(command)
    }));
    ways
}
