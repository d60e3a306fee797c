//! Pictures of a scenario: as text and as SVG. All that makes it another network than a plain one is in them.

mod svg;
mod words;

use std::fmt::Write as _;

use crate::scenario::Topology;
use crate::scenario::topology::INTERNET;

pub use svg::{escape, svg};

/// A box of the picture and what hangs below it.
struct Node {
    title: String,
    lines: Vec<String>,
    kind: &'static str,
    below: Vec<Node>,
    /// The host that it is, or is an uplink of.
    host: Option<usize>,
}

/// A tree with the Internet at its root.
pub fn text(topology: &Topology) -> String {
    // A title is no place for what moves a terminal's cursor.
    let title: String = topology.title.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    let mut out = format!("{} - {title}\n\n", topology.name);
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
    let server = Node {
        title: "server (STUN, TURN, signaling)".to_owned(),
        lines: words::server(topology),
        kind: "server",
        below: Vec::new(),
        host: None,
    };
    internet.insert(0, server);
    Node { title: "Internet".to_owned(), lines: Vec::new(), kind: "internet", below: internet, host: None }
}

fn inside(topology: &Topology, segment: usize) -> Vec<Node> {
    let mut nodes = Vec::new();
    for router in topology.routers.iter().filter(|router| router.outside == segment) {
        nodes.push(Node {
            title: format!("router {}", router.name),
            lines: words::router(topology, router),
            kind: "router",
            below: inside(topology, router.inside),
            host: None,
        });
    }
    for (index, host) in topology.hosts.iter().enumerate() {
        let role = ["offerer", "answerer"].get(index).map(|role| format!(" ({role})")).unwrap_or_default();
        // A host is drawn once, where its eth0 is; elsewhere only the interface by which it is there.
        for (number, interface) in host.interfaces.iter().enumerate().filter(|(_, own)| own.segment == Some(segment)) {
            let title = format!("host {}{role}", host.name);
            nodes.push(Node {
                title: if number == 0 { title } else { format!("{} of host {}", interface.name, host.name) },
                lines: if number == 0 { words::host(topology, index) } else { Vec::new() },
                kind: if number > 0 {
                    "uplink"
                } else if index < 2 {
                    "peer"
                } else {
                    "host"
                },
                below: Vec::new(),
                host: Some(index),
            });
        }
    }
    nodes
}
