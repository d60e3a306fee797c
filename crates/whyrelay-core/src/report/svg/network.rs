//! The two networks side by side, for a wide page.

use super::draw::{Point, fitted, open_picture, rect, text};
use super::lane::lane;
use crate::report::markup::Markup;
use crate::report::{Flow, Nat, Network, NetworkServer, NetworkSide, Reach, Report};
use crate::trace::event::Vantage;

const WIDTH: f64 = 960.0;
/// Width of a host, from the edge of the picture.
const HOST: f64 = 172.0;
/// Where a NAT begins, from the edge, and its width.
const NAT: (f64, f64) = (184.0, 148.0);
/// The middle: between the NATs.
const MIDDLE: (f64, f64) = (340.0, 620.0);
/// Height of a server, with the gap below it.
const SERVER: f64 = 56.0;
/// Room between two lanes.
const LANE: f64 = 50.0;
/// Characters of an address, of fixed width, or of small print that a host's box has room for.
const HOST_CHARACTERS: usize = 21;

/// Hosts, NATs, servers, and where each flow of checks stops: about 960 by 350.
pub fn network_svg(report: &Report) -> String {
    network_picture(report).finish()
}

pub(in crate::report) fn network_picture(report: &Report) -> Markup {
    let network = &report.network;
    let mut out = Markup::new();
    let servers = network.servers.len() as f64 * SERVER;
    let top = (servers + 26.0).max(116.0);
    // Relayed lanes above, next to the servers; so no two cross.
    let mut flows: Vec<&Flow> = network.flows.iter().filter(|flow| flow.drawn).collect();
    flows.sort_by_key(|flow| flow.via.is_empty());
    let height = top + (flows.len().max(1) as f64) * LANE + 8.0;

    open_picture(&mut out, WIDTH, height, "wr-picture wr-wide", &describe(network));
    rect(&mut out, "wr-cloud", (HOST + 8.0, 1.0), WIDTH - 2.0 * HOST - 16.0, height - 2.0, 12.0);
    for vantage in [Vantage::A, Vantage::B] {
        side(&mut out, network.side(vantage), vantage, height);
    }
    if flows.is_empty() {
        text(&mut out, "wr-faint", (WIDTH / 2.0, top + 24.0), "middle", "no check was sent");
    }
    let place = |index: usize| top + index as f64 * LANE + 18.0;
    for (index, flow) in flows.iter().enumerate() {
        draw_flow(&mut out, flow, place(index), index as f64);
    }
    // Over every line, also those of the lanes below that go up to a server.
    for (index, flow) in flows.iter().enumerate() {
        let above = if flow.via.is_empty() { 12.0 } else { 8.0 };
        let words = format!("{}: {}", name(flow), flow.label);
        text(&mut out, label_class(flow), (WIDTH / 2.0, place(index) - above), "middle", &words);
    }
    for (index, server) in network.servers.iter().enumerate() {
        server_box(&mut out, server, 10.0 + index as f64 * SERVER);
    }
    out.close("svg");
    out.line();
    out
}

/// What a screen reader says.
pub(super) fn describe(network: &Network) -> String {
    let flows: Vec<String> = network.flows.iter().map(|flow| format!("{}: {}", name(flow), flow.label)).collect();
    format!("The networks of A and B. {}", flows.join(". "))
}

/// A flow's name, like `A → B`.
pub(super) fn name(flow: &Flow) -> String {
    format!("{} → {}{}", flow.from.name(), flow.from.other().name(), route(flow))
}

const fn route(flow: &Flow) -> &'static str {
    match (flow.route.a_relay, flow.route.b_relay) {
        (true, true) => " by both relays",
        (true, false) => " by A's relay",
        (false, true) => " by B's relay",
        (false, false) => "",
    }
}

/// The class of a flow's label.
pub(super) const fn label_class(flow: &Flow) -> &'static str {
    if flow.stops.is_some() { "wr-label wr-bad-text" } else { "wr-label wr-good-text" }
}

/// Mirrors a place for B.
fn on(vantage: Vantage, x: f64) -> f64 {
    if vantage == Vantage::A { x } else { WIDTH - x }
}

fn box_at(vantage: Vantage, x: f64, width: f64) -> f64 {
    if vantage == Vantage::A { x } else { WIDTH - x - width }
}

fn side(out: &mut Markup, side: &NetworkSide, vantage: Vantage, height: f64) {
    let x = box_at(vantage, 1.0, HOST - 2.0);
    rect(out, if side.recorded { "wr-box" } else { "wr-unknown" }, (x, 1.0), HOST - 2.0, height - 2.0, 12.0);
    let at = |line: f64| (x + 14.0, 26.0 + line * 17.0);
    let role = if vantage == Vantage::A { "A · offerer" } else { "B · answerer" };
    text(out, "wr-strong", at(0.0), "start", role);
    let id = match &side.id {
        Some(id) => id.as_str(),
        None if side.recorded => "",
        None => "not recorded",
    };
    fitted(out, "wr-faint", at(1.0), "start", id, HOST_CHARACTERS);
    let mut line = 2.0;
    for address in &side.addresses {
        fitted(out, "wr-mono", at(line), "start", &address.address.to_string(), HOST_CHARACTERS);
        line += 1.0;
    }
    if let Some(first) = side.addresses.first().and_then(|address| address.interface.as_ref())
        && side.addresses.len() == 1
    {
        fitted(out, "wr-faint", at(line), "start", first, HOST_CHARACTERS);
        line += 1.0;
    }
    if side.addresses_left_out > 0 {
        text(out, "wr-faint", at(line), "start", &format!("and {} more", side.addresses_left_out));
    }
    nat(out, &side.nat, vantage, height);
}

fn nat(out: &mut Markup, nat: &Nat, vantage: Vantage, height: f64) {
    let x = box_at(vantage, NAT.0, NAT.1);
    let middle = x + NAT.1 / 2.0;
    let at = |line: f64| (middle, 30.0 + line * 16.0);
    match nat {
        Nat::None => text(out, "wr-faint", at(0.0), "middle", "no NAT seen"),
        Nat::Unknown => {
            rect(out, "wr-unknown", (x, 10.0), NAT.1, height - 20.0, 10.0);
            text(out, "wr-strong", at(0.0), "middle", "NAT?");
            text(out, "wr-faint", at(1.0), "middle", "not measured");
        }
        Nat::Translates { external, varies } => {
            rect(out, "wr-nat", (x, 10.0), NAT.1, height - 20.0, 10.0);
            text(out, "wr-strong", at(0.0), "middle", "NAT");
            for (line, address) in external.iter().take(3).enumerate() {
                fitted(out, "wr-mono", at(line as f64 + 1.0), "middle", &address.to_string(), 21);
            }
            if *varies {
                text(out, "wr-bad-text", at(external.len().min(3) as f64 + 1.0), "middle", "differs by peer");
            }
        }
    }
}

/// `A 5 of 5`, or `A no answer`.
pub(super) fn reach(name: &str, reach: Option<&Reach>) -> Option<(String, &'static str)> {
    let reach = reach?;
    Some(match reach.answered {
        0 => (format!("{name} ✕ no answer"), "wr-bad-text"),
        _ => (format!("{name} ✓ answered"), "wr-good-text"),
    })
}

fn server_box(out: &mut Markup, server: &NetworkServer, y: f64) {
    let (left, right) = MIDDLE;
    rect(out, "wr-box", (left, y), right - left, SERVER - 8.0, 10.0);
    let kind = if server.is_relay { "relay" } else { "STUN server" };
    fitted(out, "wr-strong", (left + 12.0, y + 19.0), "start", &format!("{kind} {}", server.name), 32);
    let mut x = left + 12.0;
    let reaches = [reach("A", server.a.as_ref()), reach("B", server.b.as_ref())];
    for (words, class) in reaches.into_iter().flatten() {
        text(out, class, (x, y + 38.0), "start", &words);
        x += 112.0;
    }
    if server.a.is_none() && server.b.is_none() {
        text(out, "wr-faint", (x, y + 38.0), "start", "not asked");
    }
}

fn draw_flow(out: &mut Markup, flow: &Flow, y: f64, index: f64) {
    let (from, to) = (on(flow.from, HOST), WIDTH - on(flow.from, HOST));
    if let Some(server) = flow.via.first() {
        let bottom = 10.0 + (*server as f64 + 1.0) * SERVER - 18.0;
        let inset = 5.0 + index * 13.0;
        let near = on(flow.from, MIDDLE.0 + inset);
        let far = WIDTH - near;
        // Up to the server, through it, down again.
        let way: [Point; 6] = [(from, y), (near, y), (near, bottom), (far, bottom), (far, y), (to, y)];
        lane(out, flow, &way, (0.0, 1.0), 0.8);
    } else {
        lane(out, flow, &[(from, y), (to, y)], (0.0, 1.0), 0.5);
    }
}
