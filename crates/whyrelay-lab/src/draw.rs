//! Pictures of a scenario: as text and as SVG.

use std::fmt::Write as _;

use crate::scenario::Topology;
use crate::scenario::file::{InterfaceKind, Ipv6};
use crate::scenario::topology::{Host, INTERNET, Router, Translation};

/// A box of the picture and what hangs below it.
struct Node {
    title: String,
    lines: Vec<String>,
    kind: &'static str,
    below: Vec<Node>,
}

/// A tree with the Internet at its root.
pub fn text(topology: &Topology) -> String {
    let mut out = format!("{} - {}\n\n", topology.name, topology.title);
    branch(&tree(topology), "", "", &mut out);
    out
}

fn branch(node: &Node, first: &str, rest: &str, out: &mut String) {
    let _ = writeln!(out, "{first}{}", node.title);
    let bar = if node.below.is_empty() { "    " } else { "|   " };
    for line in &node.lines {
        let _ = writeln!(out, "{rest}{bar}{line}");
    }
    for (index, below) in node.below.iter().enumerate() {
        let last = index + 1 == node.below.len();
        let further = if last { "    " } else { "|   " };
        branch(below, &format!("{rest}{}", if last { "`-- " } else { "|-- " }), &format!("{rest}{further}"), out);
    }
}

fn tree(topology: &Topology) -> Node {
    let mut internet = inside(topology, INTERNET);
    let addresses: Vec<_> = topology.server.addresses.iter().map(|cidr| cidr.address.to_string()).collect();
    let server = Node {
        title: "server (STUN, TURN, signaling)".to_owned(),
        lines: std::iter::once(addresses.join(", ")).chain(server_faults(topology)).collect(),
        kind: "server",
        below: Vec::new(),
    };
    internet.insert(0, server);
    Node { title: "Internet".to_owned(), lines: Vec::new(), kind: "internet", below: internet }
}

fn inside(topology: &Topology, segment: usize) -> Vec<Node> {
    let mut nodes = Vec::new();
    for router in topology.routers.iter().filter(|router| router.outside == segment) {
        nodes.push(Node {
            title: format!("router {}", router.name),
            lines: router_lines(topology, router),
            kind: "router",
            below: inside(topology, router.inside),
        });
    }
    for (index, host) in topology.hosts.iter().enumerate() {
        let here: Vec<_> = host.interfaces.iter().filter(|own| own.segment == Some(segment)).collect();
        let Some(first) = here.first() else { continue };
        let role = ["offerer", "answerer"].get(index).map(|role| format!(" ({role})")).unwrap_or_default();
        let whole = host.interfaces.first() == Some(first);
        nodes.push(Node {
            title: format!("host {}{role}", host.name),
            lines: if whole { host_lines(host) } else { vec![format!("{} of {}", first.name, host.name)] },
            kind: if index < 2 { "peer" } else { "host" },
            below: Vec::new(),
        });
    }
    nodes
}

fn router_lines(topology: &Topology, router: &Router) -> Vec<String> {
    let addresses: Vec<_> = router.outside_addresses.iter().map(|cidr| cidr.address.to_string()).collect();
    let net = topology.segments[router.inside].ipv4.first().map(ToString::to_string).unwrap_or_default();
    let mut lines = vec![format!("{} outside, {net} inside", addresses.join(", "))];
    match &router.translation {
        Translation::Nat(behavior) => {
            lines.push(format!("maps {}, filters {}", behavior.mapping, behavior.filtering));
        }
        Translation::OneToOne { filtering, pairs, .. } => {
            let pairs: Vec<_> = pairs.iter().map(|(inside, outside)| format!("{inside} = {outside}")).collect();
            lines.push(format!("1:1 {}, filters {filtering}", pairs.join(", ")));
        }
        Translation::Nothing { filtering, .. } => lines.push(format!("no translation, filters {filtering}")),
    }
    let egress = &router.egress;
    match &egress.udp {
        Some(ports) if ports.is_empty() => lines.push("lets no UDP out".to_owned()),
        Some(ports) => {
            let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
            lines.push(format!("lets UDP out to {} only", ports.join(", ")));
        }
        None => {}
    }
    if let Some(ports) = &router.stateless_inbound {
        let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
        lines.push(format!("stateless: UDP in to {} only", ports.join(", ")));
    }
    if topology.segments[router.inside].isolated {
        lines.push("hosts inside do not reach each other".to_owned());
    }
    if matches!(router.ipv6, Ipv6::NoRoute) {
        lines.push("IPv6 addresses without a route".to_owned());
    }
    let link = &router.link;
    if link.delay.as_millis() > 1 || link.loss > 0 || link.burst.is_some() || link.mtu.is_some() {
        let loss = if link.loss > 0 { format!(", {} % lost", f64::from(link.loss) / 100.0) } else { String::new() };
        let mtu = link.mtu.map(|mtu| format!(", MTU {mtu}")).unwrap_or_default();
        lines.push(format!("{} ms{loss}{mtu}", link.delay.as_micros() as f64 / 1000.0));
    }
    lines
}

fn host_lines(host: &Host) -> Vec<String> {
    let mut lines = Vec::new();
    for interface in &host.interfaces {
        let addresses: Vec<_> = interface.addresses.iter().map(ToString::to_string).collect();
        let kind = match interface.kind {
            InterfaceKind::Ethernet => "",
            InterfaceKind::Tunnel => " tunnel",
            InterfaceKind::Bridge => " bridge",
        };
        lines.push(format!("{}{kind} {}", interface.name, addresses.join(", ")));
    }
    for rule in &host.rules {
        let to = rule.to.map(|to| format!(" to {to}")).unwrap_or_default();
        let mark = rule.fwmark.map(|mark| format!(" fwmark {mark}")).unwrap_or_default();
        let not = if rule.not { " not" } else { "" };
        lines.push(format!("rule {}:{not}{to}{mark} -> {}", rule.priority, rule.table));
    }
    for rule in &host.firewall {
        lines.push(format!("nft {:?}: {}", rule.hook, crate::world::firewall_text(rule)).to_lowercase());
    }
    if !host.silent_neighbors.is_empty() {
        let silent: Vec<_> = host.silent_neighbors.iter().map(ToString::to_string).collect();
        lines.push(format!("{} does not answer ARP", silent.join(", ")));
    }
    if host.conntrack_full {
        lines.push("connection table full".to_owned());
    }
    lines
}

fn server_faults(topology: &Topology) -> Vec<String> {
    let faults = &topology.server.faults;
    let mut lines = Vec::new();
    let mut say = |is: bool, what: &str| {
        if is {
            lines.push(what.to_owned());
        }
    };
    say(!faults.answers, "answers nothing");
    say(!faults.turn, "no TURN");
    say(faults.relay_ports_closed, "relayed ports closed");
    say(faults.relay_address.is_some(), "announces a wrong relayed address");
    say(faults.credentials != crate::scenario::file::Credentials::Right, "the peers' credentials are not good");
    lines
}

/// Width of a character of the monospaced type, in pixels.
const CHARACTER: usize = 7;
/// Height of a line.
const LINE: usize = 16;
/// Space inside and around a box.
const PAD: usize = 10;

/// The same tree as boxes, from left to right.
pub fn svg(topology: &Topology) -> String {
    let tree = tree(topology);
    let mut boxes = String::new();
    let mut lines = String::new();
    let mut widths = Vec::new();
    measure(&tree, 0, &mut widths);
    let mut bottom = 3 * LINE;
    place(&tree, 0, &widths, &mut bottom, &mut boxes, &mut lines);
    let width: usize = widths.iter().map(|width| width + 5 * PAD).sum::<usize>() + PAD;
    let width = width.max((topology.title.len() + 2) * (CHARACTER + 2));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{bottom}\" viewBox=\"0 0 {width} {bottom}\" \
         font-family=\"ui-monospace,Menlo,Consolas,monospace\" font-size=\"11.5\">\n\
         <style>rect{{stroke:#57606a;rx:5}} .internet{{fill:#ddf4ff}} .router{{fill:#fff8c5}} .peer{{fill:#dafbe1}} \
         .host{{fill:#f6f8fa}} .server{{fill:#fbefff}} path{{stroke:#57606a;fill:none}} text{{fill:#1f2328}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\" style=\"stroke:none\"/>\n\
         <text x=\"{PAD}\" y=\"24\" font-size=\"14\" font-weight=\"bold\">{}</text>\n{lines}{boxes}</svg>\n",
        escape(&topology.title)
    )
}

fn measure(node: &Node, depth: usize, widths: &mut Vec<usize>) {
    let longest = node.lines.iter().chain([&node.title]).map(|line| line.chars().count()).max().unwrap_or(0);
    let width = longest * CHARACTER + 2 * PAD;
    match widths.get_mut(depth) {
        Some(known) => *known = (*known).max(width),
        None => widths.push(width),
    }
    node.below.iter().for_each(|below| measure(below, depth + 1, widths));
}

/// Draws a node and what is below it; answers the middle of its box.
fn place(
    node: &Node,
    depth: usize,
    widths: &[usize],
    bottom: &mut usize,
    boxes: &mut String,
    lines: &mut String,
) -> usize {
    let x = PAD + widths[..depth].iter().map(|width| width + 5 * PAD).sum::<usize>();
    let height = (node.lines.len() + 1) * LINE + PAD;
    let top = *bottom;
    let middles: Vec<usize> =
        node.below.iter().map(|below| place(below, depth + 1, widths, bottom, boxes, lines)).collect();
    *bottom = (*bottom).max(top + height + PAD);
    let middle = match (middles.first(), middles.last()) {
        (Some(first), Some(last)) => ((first + last) / 2).max(top + height / 2),
        _ => top + height / 2,
    };
    let y = middle - height / 2;
    *bottom = (*bottom).max(y + height + PAD);
    let width = widths[depth];
    let _ =
        writeln!(boxes, "<rect class=\"{}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>", node.kind);
    for (number, line) in std::iter::once(&node.title).chain(&node.lines).enumerate() {
        let weight = if number == 0 { " font-weight=\"bold\"" } else { "" };
        let (x, y) = (x + PAD, y + (number + 1) * LINE);
        let _ = writeln!(boxes, "<text x=\"{x}\" y=\"{y}\"{weight}>{}</text>", escape(line));
    }
    for to in middles {
        let (from, end) = (x + width, x + width + 5 * PAD);
        let half = (from + end) / 2;
        let _ = writeln!(lines, "<path d=\"M{from} {middle} H{half} V{to} H{end}\"/>");
    }
    middle
}

/// For text in XML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 has no control characters.
            control if control.is_control() && control != '\n' && control != '\t' => escaped.push('\u{FFFD}'),
            other => escaped.push(other),
        }
    }
    escaped
}
