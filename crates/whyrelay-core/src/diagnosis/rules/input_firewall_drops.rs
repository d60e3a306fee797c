//! This host's own firewall drops what arrives.

use super::{Examination, Fault, Fix, Need, Rule};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::diagnosis::evidence::{HostEvidence, ServerPath, SideEvidence, Taken};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::network::seen_at;
use crate::diagnosis::session::{Break, Path, Session};
use crate::host::{
    Address, Family, FilteredPacket, FirewallFramework, FirewallRule, Moment, OwnConnection, OwnPacket, SoftwareName,
    Subject,
};
use crate::trace::event::{SignalingState, Transport, Vantage};
use crate::trace::measurement::Measurement;

use super::ahead::ahead;
use super::checks_rejected_on_the_way::{is_own, meaning};
use super::errno::EPERM;
use super::wording::{again_with, against, quoted_firewall};
use super::{next_hop_silent, would_drop};

pub(super) const RULE: Rule = Rule {
    code: "WR111",
    name: "input-firewall-drops",
    title: "this host's own firewall drops what arrives",
    meaning: "The peer's checks, or the servers' answers, reach this host and its firewall (nftables, iptables, ufw, firewalld, a cloud agent) drops or rejects them before the program sees them: nobody on this host asked for them yet, or the firewall does not let answers in.",
    detection: "Packets for the session's sockets reached an interface and no socket, where that can be seen; and the counter of a dropping rule on input or prerouting moved during the checks; or more packets were received than delivered, none of them by reverse path filtering; also a rule that lets in only what was asked for, where the peer's NAT gives each destination another port and its packets reach the interface all the same; or the peer got \"administratively prohibited\" from this host's own address. Or several answers of a server that seems silent, or what a relay sent back, reached an interface and not the socket that had asked; or what signaling answers to a host that looks at itself did, soon enough, and no connection came about. Where something else stops the packets before they come to the filter: a rule that surely takes them, where the rules of its chain before it and of the chains that lead there were told. Or a next hop of IPv6 is not found, and a rule that counted packets takes its neighbor advertisements for certain: it is of a base chain, and the rules of that before it were all told. Or such a rule takes packets of the peer's probes that reached an interface and no socket.",
    proof: "tcpdump on this host shows the checks that the recording lacks.",
    doubt: "A check from the same address that the program did get.",
    fixes: &[Fix::firewall("Allow inbound UDP to the program's port in the host's firewall.")],
    threads: &[
        "tailscale/tailscale#9084",
        "netbirdio/netbird#730",
        "netbirdio/netbird#5978",
        "tailscale/tailscale#1312",
        "tailscale/tailscale#11813",
        "tailscale/tailscale#10375",
        "tailscale/tailscale#1872",
    ],
    depends_on: &["WR110", "WR112", "WR129", "WR120"],
    needs: &[
        Need::OtherSide,
        Need::Host(Subject::Counters),
        Need::Host(Subject::Nftables),
        Need::Host(Subject::LegacyIptables),
        Need::Host(Subject::OwnPackets),
    ],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    if session.evidence.is_alone() {
        return of_one_host(session.evidence.side(Vantage::A));
    }
    let of_side = |vantage| {
        let of_servers = || from_servers(session.evidence.side(vantage), vantage, session.harm());
        let would_drop = || would_drop::on_input(session, vantage);
        // What reverse path filtering or a full connection table took looks the same, and hides nothing else that is sure.
        match would_drop::dropped_by_others(session.evidence.side(vantage)) {
            Some(_) => would_drop().or_else(|| fault(session, vantage)).or_else(of_servers),
            None => fault(session, vantage).or_else(of_servers).or_else(would_drop),
        }
    };
    let of_side = |vantage| {
        let (of_neighbors, other) = (of_neighbors(session, vantage), of_side(vantage));
        // What a rule takes of the neighbors explains what it would take besides.
        let is_same =
            |fault: &Fault| of_neighbors.as_ref().is_some_and(|it| it.evidence.first() == fault.evidence.first());
        let other = other.filter(|fault| !is_same(fault));
        of_neighbors.into_iter().chain(other)
    };
    Examination::of([Vantage::A, Vantage::B].into_iter().flat_map(of_side).collect())
}

/// The rule on arrival that takes what an IPv6 neighbor answers (RFC 4861 section 4.4), so that the kernel never learns
/// its hardware address: it takes ICMPv6 from there for certain, whatever its type, no rule of its base chain before it,
/// all of which were told, may let that in, and it counted packets since the session began. `None` also of IPv4: no such
/// filter sees ARP.
pub(super) fn taking_neighbor<'a>(
    side: &'a SideEvidence,
    hop: IpAddr,
    device: Option<&str>,
) -> Option<&'a Taken<FirewallRule>> {
    let of_family = |own: &&Taken<Address>| own.fact.address.is_ipv6() && device.is_none_or(|it| own.fact.device == it);
    let own = side.host.addresses.iter().find(of_family).filter(|_| hop.is_ipv6())?;
    let packet = FilteredPacket {
        source: SocketAddr::new(hop, 0),
        destination: SocketAddr::new(own.fact.address, 0),
        in_device: device.or(Some(&own.fact.device)),
        out_device: None,
    };
    let lets_in = |rule: &FirewallRule| {
        let ends = rule.verdict.as_deref().is_some_and(|verdict| !matches!(verdict, "drop" | "reject"));
        ends && rule.takes_icmpv6(&packet) != Some(false)
    };
    let rules = || side.host.firewall_rules.iter().filter(|rule| rule.moment == Moment::After);
    rules().filter(|rule| took(rule) && rule.fact.takes_icmpv6(&packet) == Some(true)).find(|rule| {
        let ahead = ahead(&side.host, &rule.fact);
        ahead.is_some_and(|ahead| !ahead.iter().any(|other| lets_in(&other.fact)))
    })
}

/// A neighbor on the way to the peer that the kernel still looks for, as this host's own firewall takes its answers.
fn of_neighbors(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let (silent, to, neighbor) = next_hop_silent::unanswered(session, vantage, Family::V6)?;
    let side = session.evidence.side(vantage);
    let rule = taking_neighbor(side, silent, Some(&neighbor.fact.device))?;
    let here = vantage.name();
    let port = side.local_candidates.first().map(|local| local.base.port());
    let mut advice = vec![let_neighbors_in(&rule.fact)];
    advice.extend(self::advice(&side.host, Some(rule), port));
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "The firewall of {here} took {} packets on arrival: {}; among what it takes is what {silent}, the next hop to {to}, answers when it is looked for (neighbor discovery)",
            rule.fact.packets_since.unwrap_or_default(),
            quoted_firewall(&rule.fact)
        ),
        evidence: vec![rule.seq, neighbor.seq],
        advice,
        family: Some(Family::V6),
        ..Fault::default()
    })
}

/// What lets neighbor discovery in, ahead of a rule: without it nothing else comes over IPv6.
fn let_neighbors_in(rule: &FirewallRule) -> Remedy {
    let let_in =
        Remedy::firewall("Let neighbor discovery in ahead of the rule, without which IPv6 does not work at all");
    let FirewallRule { table_family, table, chain, .. } = rule;
    match rule.framework {
        FirewallFramework::Nftables => let_in.run(format!(
            "nft insert rule {table_family} {table} {chain} icmpv6 type '{{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }}' accept"
        )),
        FirewallFramework::LegacyIptables => {
            let table = if table == "filter" { String::new() } else { format!("-t {table} ") };
            let types = ["neighbour-solicitation", "neighbour-advertisement", "router-advertisement"];
            types.into_iter().fold(let_in, |remedy, of| {
                remedy.run(format!("ip6tables-legacy {table}-I {chain} -p ipv6-icmp --icmpv6-type {of} -j ACCEPT"))
            })
        }
    }
}

/// Of a host that looks at itself: whether the answers of a server that seems silent, or what a relay sent back, reached
/// an interface and no socket.
pub(super) fn of_one_host(side: &SideEvidence) -> Examination {
    if let Some(fault) = from_servers(side, Vantage::A, Severity::Error).or_else(|| from_signaling(side)) {
        return Examination::of(vec![fault]);
    }
    if let Some(suspicion) = perhaps_from_signaling(side) {
        return Examination::Inconclusive { missing: suspicion.words };
    }
    match side.host.why_not_measured(Subject::OwnPackets).filter(|_| !silent_servers(side).is_empty()) {
        Some((why, Some(needs))) => Examination::Inconclusive { missing: format!("{why} (needs {needs})") },
        Some((why, None)) => Examination::Inconclusive { missing: why.to_owned() },
        None => Examination::Clear,
    }
}

/// Servers that were asked over UDP and answered none of this side's sockets, and relayed addresses that nothing came
/// back from. What came from one and was changed on its way did reach a socket.
fn silent_servers(side: &SideEvidence) -> Vec<SocketAddr> {
    let asked = side.asked();
    let mut silent: Vec<SocketAddr> = unechoed(side).map(|(_, relayed)| relayed).collect();
    for (transport, _, server) in side.servers.keys() {
        let damaged = side.damaged.keys().any(|(_, other)| other == server);
        let answered = |((over, _, other), path): (&(Transport, SocketAddr, SocketAddr), &ServerPath)| {
            *over == Transport::Udp && other == server && path.has_answered()
        };
        let is_new = *transport == Transport::Udp && !silent.contains(server) && !damaged;
        if is_new && asked.get(server).is_some_and(|sent| *sent >= 3) && !side.servers.iter().any(answered) {
            silent.push(*server);
        }
    }
    silent
}

/// Relayed addresses where packets of this side got in, and nothing came that was sent back from there; each with the
/// event that says so.
pub(super) fn unechoed(side: &SideEvidence) -> impl Iterator<Item = (u64, SocketAddr)> {
    let facts = || side.measured.facts.iter();
    let got_in = move |relayed: SocketAddr| {
        let is = |fact: &Measurement| matches!(fact, Measurement::ThirdParty { remote, observed: Some(_), .. } if *remote == relayed);
        facts().any(|(_, fact)| is(fact))
    };
    facts().filter_map(move |(seq, fact)| match fact {
        Measurement::RelayEcho { relayed, rtt_us: None, .. } if got_in(*relayed) => Some((*seq, *relayed)),
        _ => None,
    })
}

/// The answers of a server that seems silent reached an interface of this host and no socket.
fn from_servers(side: &SideEvidence, vantage: Vantage, severity: Severity) -> Option<Fault> {
    let (host, silent) = (&side.host, silent_servers(side));
    // What a server answers over TCP does not count: these packets are UDP's.
    let arrived: Vec<_> = host
        .own_packets
        .iter()
        .filter(|packet| packet.fact.arrived && silent.contains(&packet.fact.source))
        .filter_map(|packet| Some((packet, undelivered_of(side, &packet.fact)?)))
        .collect();
    let (first, _) = arrived.first()?;
    let source = first.fact.source;
    let packets: u64 = arrived.iter().filter(|(packet, _)| packet.fact.source == source).map(|(_, lost)| lost).sum();
    let rule = host.firewall_rules.iter().find(|rule| took(rule));
    // One may have come late, to a socket that was closed by then.
    if packets < 2 && rule.is_none() {
        return None;
    }
    let by = rule.map_or_else(|| perhaps_by(host), |rule| format!(", by {}", quoted_firewall(&rule.fact)));
    let rule = rule.or_else(|| uncounted(host));
    Some(Fault {
        blame: Blame::side(vantage),
        severity,
        summary: format!(
            "{packets} packets of {source} reached an interface of {} and no program: its own firewall drops them on input{by}",
            vantage.name()
        ),
        evidence: rule.map(|rule| rule.seq).into_iter().chain([first.seq]).collect(),
        advice: advice(host, rule, None),
        ..Fault::default()
    })
}

/// How long a connection to signaling has at least, in microseconds: an answer that came later than that may have found
/// nobody.
const TIME_TO_CONNECT: u64 = 1_500_000;

/// The signaling server that did not answer this side, by the last that was said of it.
fn silent_signaling(side: &SideEvidence) -> Option<(u64, &str)> {
    let is_silent = |state: &SignalingState| matches!(state, SignalingState::Failed { detail } if detail.starts_with("the server did not answer"));
    side.signaling.last().filter(|(.., state)| is_silent(state)).map(|(seq, server, _)| (*seq, server.as_str()))
}

/// What signaling answered to the first packets of connections, where no connection came about: it reached an interface.
fn answers_of_signaling(side: &SideEvidence) -> impl Iterator<Item = &Taken<OwnConnection>> {
    let packets = || side.host.own_connections.iter();
    let is_silent = silent_signaling(side).is_some();
    let asked = move |server| packets().any(|packet| !packet.fact.arrived && packet.fact.destination == server);
    packets().filter(move |packet| is_silent && packet.fact.arrived && asked(packet.fact.source))
}

/// Whether an answer came while its connection was waited for.
fn is_soon(answer: &OwnConnection) -> bool {
    !answer.late && answer.after_us.is_some_and(|after| after < TIME_TO_CONNECT)
}

/// How long after it was asked signaling answered, in seconds, with the event, where that was too late for a connection.
pub(super) fn late_signaling(side: &SideEvidence) -> Option<(f64, u64)> {
    let answers = answers_of_signaling(side).filter_map(|packet| Some((packet.fact.after_us?, packet)));
    let (first, packet) = answers.min_by_key(|(after, packet)| (*after, packet.seq))?;
    (!is_soon(&packet.fact)).then(|| (first as f64 / 1e6, packet.seq))
}

/// Whether this host's own firewall is what keeps signaling's answers from it.
pub(super) fn has_taken_signaling(side: &SideEvidence) -> bool {
    from_signaling(side).is_some()
}

/// The answers of signaling, over TCP, reached an interface of a host that looks at itself, and no program.
fn from_signaling(side: &SideEvidence) -> Option<Fault> {
    let (host, (failed, server)) = (&side.host, silent_signaling(side)?);
    let arrived: Vec<_> = answers_of_signaling(side).filter(|packet| is_soon(&packet.fact)).collect();
    // What comes by a bridge, a bond or a VLAN is seen at its port as well.
    let mut by_device: BTreeMap<&str, u64> = BTreeMap::new();
    for packet in &arrived {
        *by_device.entry(packet.fact.device.as_str()).or_default() += packet.fact.packets;
    }
    let packets = by_device.into_values().max().unwrap_or_default();
    let first = arrived.first().filter(|_| packets >= 2)?;
    let packet = |answer: &OwnConnection| {
        let (source, destination) = (answer.source, answer.destination);
        FilteredPacket { source, destination, in_device: None, out_device: None }
    };
    let may_take =
        |rule: &FirewallRule| arrived.iter().any(|answer| rule.takes_tcp(&packet(&answer.fact)) != Some(false));
    let rule = host.firewall_rules.iter().find(|rule| took(rule) && may_take(&rule.fact));
    let by = rule.map_or_else(|| perhaps_by(host), |rule| format!(", by {}", quoted_firewall(&rule.fact)));
    let rule = rule.or_else(|| uncounted(host).filter(|rule| may_take(&rule.fact)));
    Some(Fault {
        blame: Blame::side(Vantage::A),
        severity: Severity::Error,
        summary: format!(
            "{packets} packets by which {server} answers A's connections reached an interface of A and no program: its own firewall drops them on input{by}"
        ),
        evidence: rule.map(|rule| rule.seq).into_iter().chain([first.seq, failed]).collect(),
        advice: rule.map(|rule| vec![let_answers_in(&rule.fact)]).unwrap_or_else(|| advice(host, None, None)),
        ..Fault::default()
    })
}

/// What hints at this host's own firewall, and does not prove it.
pub(super) struct Suspicion {
    pub(super) words: String,
    pub(super) evidence: [u64; 2],
    pub(super) advice: Remedy,
}

/// Signaling does not answer a host that looks at itself, over TCP, and nothing else came in either: packets reached the
/// kernel and no program, and a rule on input drops such. Whose packets they were nobody knows, be they broadcasts, where
/// those of TCP were not looked at: that signaling is dead is as likely.
pub(super) fn perhaps_from_signaling(side: &SideEvidence) -> Option<Suspicion> {
    let host = &side.host;
    let (_, server) = silent_signaling(side).filter(|_| host.own_connections.is_empty())?;
    let (seq, lost) = undelivered(host).filter(|(_, lost)| *lost >= 3 && side.delivered.is_empty())?;
    let counting = host.firewall_rules.iter().find(|rule| took(rule));
    let rule = counting.or_else(|| uncounted(host))?;
    let by = counting.map_or_else(|| perhaps_by(host), |rule| format!(", some by {}", quoted_firewall(&rule.fact)));
    Some(Suspicion {
        words: format!(
            "{lost} packets reached the kernel of A and no program while {server} was asked{by}: whether its answers are among them is not known"
        ),
        evidence: [rule.seq, seq],
        advice: let_answers_in(&rule.fact),
    })
}

/// What lets the answers of this host's own connections in, ahead of a rule.
fn let_answers_in(rule: &FirewallRule) -> Remedy {
    let let_in = Remedy::firewall("Let in what answers this host's own connections and requests");
    match (rule.framework, rule.hook.as_deref()) {
        (FirewallFramework::Nftables, Some("input")) => let_in.run(format!(
            "nft insert rule {} {} {} ct state established,related accept",
            rule.table_family, rule.table, rule.chain
        )),
        (FirewallFramework::LegacyIptables, Some("input")) => {
            let command = if rule.table_family == "ip6" { "ip6tables-legacy" } else { "iptables-legacy" };
            let states = "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT";
            let_in.run(format!("{command} -I {} {states}", rule.chain))
        }
        _ => let_in,
    }
}

/// How many of the packets to a socket that had asked there came to no socket; `None`: none, or it had not asked. What
/// a socket gets, be it no answer, its firewall did not drop; and what came unasked may be for a socket that is gone.
fn undelivered_of(side: &SideEvidence, packet: &OwnPacket) -> Option<u64> {
    let (own, other) = (packet.destination, packet.source);
    let third = |fact: &Measurement| matches!(fact, Measurement::ThirdParty { local, remote, .. } if (*local, *remote) == (own, other));
    let asked = side.servers.contains_key(&(Transport::Udp, own, other))
        || side.measured.facts.iter().any(|(_, fact)| third(fact));
    let delivered = side.delivered.get(&(own, other)).copied().unwrap_or_default();
    packet.packets.checked_sub(delivered).filter(|lost| asked && *lost > 0)
}

/// What lets packets in: against the rule, where one is known; else with the tool that this host has. Never a rule for a
/// table that is not there.
pub(super) fn advice(host: &HostEvidence, rule: Option<&Taken<FirewallRule>>, port: Option<u16>) -> Vec<Remedy> {
    let mut advice = rule.map(|rule| against(&rule.fact, host, port, true)).unwrap_or_default();
    let tool =
        |command: String| Remedy::firewall(format!("Let these packets in{}", again_with(port, host))).run(command);
    if advice.is_empty() {
        let ports = port.map_or_else(|| "1024:65535".to_owned(), |port| port.to_string());
        advice.push(match (host.software(SoftwareName::Ufw), host.software(SoftwareName::Firewalld)) {
            (Some(_), _) => tool(format!("ufw prepend allow in proto udp to any port {ports}")),
            (_, Some(_)) => {
                let ports = ports.replace(':', "-");
                tool(format!("firewall-cmd --permanent --add-port={ports}/udp && firewall-cmd --reload"))
            }
            _ => Remedy::safe("See which rule on input drops them").run("nft -a list ruleset").run("iptables-save -c"),
        });
    }
    advice
}

/// A rule without a counter, or a chain's policy, that drops what arrives, as far as is known.
fn uncounted(host: &HostEvidence) -> Option<&Taken<FirewallRule>> {
    host.firewall_rules
        .iter()
        .find(|rule| drops_arrivals(rule) && rule.fact.packets_since.is_none() && rule.fact.packets.is_none())
}

/// That rule in words, if there is one.
fn perhaps_by(host: &HostEvidence) -> String {
    uncounted(host)
        .map_or_else(String::new, |rule| format!(", perhaps by {}, which counts nothing", quoted_firewall(&rule.fact)))
}

/// Whether a rule dropped something that arrived since the session began.
fn took(rule: &Taken<FirewallRule>) -> bool {
    drops_arrivals(rule) && rule.fact.packets_since.is_some_and(|packets| packets > 0)
}

fn drops_arrivals(rule: &Taken<FirewallRule>) -> bool {
    rule.fact.stops_at(&["input", "prerouting", "ingress"])
}

/// A rule without a counter that drops what a device receives (nft's netdev family), before the kernel counts it. What
/// reached the interface and no socket is what tells that something does.
fn uncounted_at_device(host: &HostEvidence) -> Option<&Taken<FirewallRule>> {
    host.firewall_rules.iter().find(|rule| rule.fact.stops_at(&["ingress"]) && rule.fact.packets.is_none())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let host = &side.host;
    let lost: u32 = session
        .pairs
        .iter()
        .filter(|pair| session.could_arrive(pair, vantage.other()))
        .map(|pair| pair.from(vantage.other()))
        .filter(|chain| chain.broken == Some(Break::OnTheWay))
        .filter_map(|chain| chain.sent)
        .map(|sent| sent.transmissions)
        .sum();
    // What was dropped must have been the session's: an interface saw packets from where no socket heard anything.
    let unheard = side.unheard();
    if unheard.as_ref().is_some_and(Vec::is_empty) {
        return None;
    }
    let took = |rule: &&Taken<FirewallRule>| took(rule);
    // A host that did not send there, or may not, has no connection to which an arrival could belong: that is what a
    // rule by state sees then, and no fault of the rule.
    let refused = side.send_failures.keys().any(|(.., errno)| *errno == EPERM);
    let sent_to = |address: std::net::SocketAddr| {
        let failed = side.send_failures.keys().any(|(_, remote, _)| *remote == address);
        !failed && side.sent.values().any(|check| check.pair.remote == address && check.refused < check.transmissions)
    };
    let stranger = stranger(session, vantage);
    let unasked = stranger.or_else(|| unasked(session, vantage));
    let uninvited = unasked.is_none()
        && unheard.as_ref().is_some_and(|unheard| unheard.iter().all(|(source, ..)| !sent_to(*source)));
    let cannot_send = refused || uninvited;
    let is_effect = |rule: &&Taken<FirewallRule>| {
        cannot_send && (rule.fact.rule.contains("ct state") || rule.fact.rule.contains("--ctstate"))
    };
    // What a rule took that does not take such a packet was another.
    let of_unasked = |rule: &&Taken<FirewallRule>| unasked.is_none_or(|packet| may_take_new(&rule.fact, &packet.fact));
    let rule = host.firewall_rules.iter().filter(took).filter(of_unasked).find(|rule| !is_effect(rule));
    if rule.is_none() && host.firewall_rules.iter().filter(took).any(|rule| is_effect(&rule)) {
        return None;
    }
    let port = side.local_candidates.first().map(|local| local.base.port());
    let rejected = peer.icmp_errors.iter().find(|((_, _, icmp_type, code), error)| {
        let prohibited = matches!((*icmp_type, *code), (3, 9 | 10 | 13) | (1, 1));
        prohibited
            && error.offender.is_some_and(|offender| is_own(side, offender) || is_public_of(session, vantage, offender))
    });
    let at_device = uncounted_at_device(host);
    let undelivered = undelivered(host).filter(|(_, count)| lost > 0 && *count >= i64::from(lost.min(3)));
    let here = vantage.name();
    let arrived: Vec<u64> = unheard.iter().flatten().map(|(.., seq)| *seq).take(2).collect();
    let by = if rule.is_none() { perhaps_by(host) } else { String::new() };
    let (summary, mut evidence) = if let Some(rule) = rule.filter(|_| lost > 0 || rejected.is_some()) {
        let packets = rule.fact.packets_since.unwrap_or_default();
        let from = stranger.map_or_else(String::new, |packet| {
            let (source, there) = (packet.fact.source, vantage.other().name());
            format!("; the checks of {there} come from {source}, a port of its NAT that {here} cannot know")
        });
        (
            format!("The firewall of {here} took {packets} packets on arrival: {}{from}", quoted_firewall(&rule.fact)),
            vec![rule.seq],
        )
    } else if let Some(((_, remote, icmp_type, code), error)) = rejected {
        let text = format!(
            "The firewall of {here} rejects the checks to {remote} (ICMP {icmp_type}/{code}: {})",
            meaning(*icmp_type, *code)
        );
        (text, vec![error.seq])
    } else if let (Some(rule), Some(unheard), true) = (at_device, &unheard, lost > 0) {
        let packets: u64 = unheard.iter().map(|(_, packets, _)| packets).sum();
        let text = format!(
            "{packets} packets reached an interface of {here} and no program, and it drops some as they arrive there: {}",
            quoted_firewall(&rule.fact)
        );
        (text, vec![rule.seq])
    } else if let Some((seq, count)) = undelivered {
        (
            format!(
                "{count} packets reached the kernel of {here} and no program: its firewall drops them on input{by}"
            ),
            vec![seq],
        )
    } else {
        return None;
    };
    evidence.extend(stranger.map(|packet| packet.seq));
    evidence.extend(arrived);
    let advice = advice(host, rule.or(at_device).or_else(|| uncounted(host)), port);
    Some(Fault { blame: Blame::side(vantage), severity: session.harm(), summary, evidence, advice, ..Fault::default() })
}

/// What the peer sent to a socket of a side, reached its interface, and was dropped by its own firewall, although the side
/// sends to that address of the peer: the peer's NAT gives each destination another port, so that nobody can send to the
/// right one first (RFC 4787 section 4.1). The network lets such packets in; a firewall that does, too, makes the path
/// direct. `None` also where something else than the firewall may have taken them, or would keep the answers back, and
/// where no rule that counted packets may take them.
pub(in crate::diagnosis) fn stranger<'a>(session: &'a Session<'_>, vantage: Vantage) -> Option<&'a Taken<OwnPacket>> {
    let rules = || session.evidence.side(vantage).host.firewall_rules.iter().filter(|rule| took(rule));
    all_unasked(session, vantage).into_iter().find(|packet| rules().any(|rule| may_take_new(&rule.fact, &packet.fact)))
}

/// The same, whatever the rules take.
fn unasked<'a>(session: &'a Session<'_>, vantage: Vantage) -> Option<&'a Taken<OwnPacket>> {
    all_unasked(session, vantage).into_iter().next()
}

/// Whether a rule may take a packet of a connection that is not known yet: such a one is not invalid.
fn may_take_new(rule: &FirewallRule, packet: &OwnPacket) -> bool {
    let OwnPacket { source, destination, device, .. } = packet;
    let (source, destination, in_device) = (*source, *destination, Some(device.as_str()));
    let arrival = FilteredPacket { source, destination, in_device, out_device: None };
    let words: Vec<&str> = rule.rule.split_whitespace().collect();
    let is_of_invalid = words.windows(2).any(|pair| pair == ["--ctstate", "INVALID"] || pair == ["state", "invalid"]);
    !is_of_invalid && rule.takes(&arrival) != Some(false)
}

/// What came to a side from ports of the peer's NAT to which nobody can have sent, and to no socket.
fn all_unasked<'a>(session: &'a Session<'_>, vantage: Vantage) -> Vec<&'a Taken<OwnPacket>> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    if session.path == Path::Direct || session.evidence.is_alone() {
        return Vec::new();
    }
    let is_otherwise_kept = side.send_failures.keys().any(|(.., errno)| *errno == EPERM)
        || would_drop::dropped_by_others(side).is_some()
        || !session.diversions(vantage).is_empty();
    if is_otherwise_kept || !side.host.firewall_rules.iter().any(took) {
        return Vec::new();
    }
    let (heard, of_peer) = (side.heard_from(), seen_at(peer));
    let failed = |to: IpAddr| side.send_failures.keys().any(|(_, remote, _)| remote.ip() == to);
    let sends = |from: SocketAddr, to: IpAddr| {
        let left = side.sent.values().filter(|check| check.refused < check.transmissions);
        !failed(to) && left.into_iter().any(|check| (check.pair.local, check.pair.remote.ip()) == (from, to))
    };
    let sent_to = |to: SocketAddr| side.sent.values().any(|check| check.pair.remote == to);
    let unasked = side.host.own_packets.iter().filter(|packet| {
        let OwnPacket { source, destination, arrived, .. } = &packet.fact;
        let varies = || session.network(vantage.other(), source.is_ipv6()).is_dependent() == Some(true);
        let is_new = *arrived && !heard.contains(source) && !sent_to(*source) && of_peer.contains_key(&source.ip());
        is_new && sends(*destination, source.ip()) && varies()
    });
    unasked.collect()
}

/// Packets that the kernel received and gave to nobody, forwarded ones and those of reverse path filtering aside.
fn undelivered(host: &HostEvidence) -> Option<(u64, i64)> {
    let (seq, received) = host.counter("Ip.InReceives")?;
    let (_, delivered) = host.counter("Ip.InDelivers")?;
    let other = |name| host.counter(name).map_or(0, |(_, by)| by);
    let explained = other("Ip.ForwDatagrams")
        + other("TcpExt.IPReversePathFilter")
        + other("Ip.InAddrErrors")
        + other("Ip.InDiscards")
        + other("Ip.ReasmReqds");
    Some((seq, received - delivered - explained))
}

/// Whether an address is what servers see of a side without a NAT in between.
fn is_public_of(session: &Session<'_>, vantage: Vantage, address: std::net::IpAddr) -> bool {
    let side = session.evidence.side(vantage);
    crate::diagnosis::network::told(side).iter().any(|told| told.mapped.ip() == address && told.local.ip() == address)
}
