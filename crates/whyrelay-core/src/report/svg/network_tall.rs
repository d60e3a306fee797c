//! The two networks one above the other, for a narrow page.

use super::draw::{Point, circle, fitted, open_picture, rect, text};
use super::lane::lane;
use super::network::{describe, label_class, name, reach};
use crate::report::markup::Markup;
use crate::report::{Flow, Nat, NetworkSide, Report};
use crate::trace::event::Vantage;

const WIDTH: f64 = 360.0;
/// Height of a host.
const HOST: f64 = 72.0;
/// Height of a NAT, and its gap to the host.
const NAT: (f64, f64) = (46.0, 14.0);
/// Height of a server with the gap below it.
const SERVER: f64 = 52.0;
/// Where servers begin, from the left.
const SERVERS: f64 = 176.0;
/// Where addresses of hosts and NATs begin: right of the lanes.
const WORDS: f64 = 176.0;

/// The same as [`super::network_svg`], upright: 360 wide, for a telephone.
pub fn network_tall_svg(report: &Report) -> String {
    network_tall_picture(report).finish()
}

pub(in crate::report) fn network_tall_picture(report: &Report) -> Markup {
    let network = &report.network;
    let mut out = Markup::new();
    let middle = (network.servers.len() as f64 * SERVER + 24.0).max(110.0);
    let ends = HOST + NAT.0 + NAT.1;
    let bottom = 2.0 * ends + middle;
    let mut flows: Vec<&Flow> = network.flows.iter().filter(|flow| flow.drawn).collect();
    // Direct lanes left, relayed ones next to the servers.
    flows.sort_by_key(|flow| !flow.via.is_empty());
    let height = bottom + 22.0 + flows.len() as f64 * 38.0;

    open_picture(&mut out, WIDTH, height, "wr-picture wr-tall", &describe(network));
    rect(&mut out, "wr-cloud", (1.0, HOST + 6.0), WIDTH - 2.0, bottom - 2.0 * HOST - 12.0, 12.0);
    side(&mut out, &network.a, Vantage::A, 1.0, HOST + NAT.1);
    side(&mut out, &network.b, Vantage::B, bottom - HOST, bottom - HOST - NAT.1 - NAT.0);
    let servers_top = ends + 10.0;
    for (index, flow) in flows.iter().enumerate() {
        let x = 24.0 + index as f64 * 26.0;
        draw_flow(&mut out, flow, x, (HOST, bottom - HOST), servers_top);
        circle(
            &mut out,
            "wr-badge",
            (x, if flow.from == Vantage::A { HOST - 12.0 } else { bottom - HOST + 12.0 }),
            8.5,
        );
        let number = (index + 1).to_string();
        let badge_y = if flow.from == Vantage::A { HOST - 8.0 } else { bottom - HOST + 16.0 };
        text(&mut out, "wr-badge-text", (x, badge_y), "middle", &number);
        legend(&mut out, flow, &number, bottom + 26.0 + index as f64 * 38.0);
    }
    for (index, server) in network.servers.iter().enumerate() {
        let y = servers_top + index as f64 * SERVER;
        rect(&mut out, "wr-box", (SERVERS, y), WIDTH - SERVERS - 8.0, SERVER - 8.0, 10.0);
        let kind = if server.is_relay { "relay" } else { "STUN" };
        fitted(&mut out, "wr-strong", (SERVERS + 10.0, y + 18.0), "start", &format!("{kind} {}", server.name), 21);
        let mut x = SERVERS + 10.0;
        let reaches = [reach("A", server.a.as_ref()), reach("B", server.b.as_ref())];
        for (words, class) in reaches.into_iter().flatten() {
            let short = words.replace(" answered", "").replace(" no answer", "");
            text(&mut out, class, (x, y + 36.0), "start", &short);
            x += 44.0;
        }
    }
    if flows.is_empty() {
        text(&mut out, "wr-faint", (28.0, bottom + 16.0), "start", "no check was sent");
    }
    out.close("svg");
    out.line();
    out
}

fn legend(out: &mut Markup, flow: &Flow, number: &str, y: f64) {
    circle(out, "wr-badge", (12.0, y - 4.0), 8.5);
    text(out, "wr-badge-text", (12.0, y), "middle", number);
    text(out, "wr-strong", (28.0, y), "start", &name(flow));
    fitted(out, label_class(flow), (28.0, y + 16.0), "start", &flow.label, 52);
}

fn draw_flow(out: &mut Markup, flow: &Flow, x: f64, (top, bottom): (f64, f64), servers_top: f64) {
    let (from, to) = if flow.from == Vantage::A { (top, bottom) } else { (bottom, top) };
    let Some(server) = flow.via.first() else {
        lane(out, flow, &[(x, from), (x, to)], (1.0, 0.0), 0.5);
        return;
    };
    let y = servers_top + *server as f64 * SERVER + SERVER / 2.0 - 4.0;
    let (near, far) = if flow.from == Vantage::A { (y - 10.0, y + 10.0) } else { (y + 10.0, y - 10.0) };
    let way: [Point; 6] = [(x, from), (x, near), (SERVERS + 6.0, near), (SERVERS + 6.0, far), (x, far), (x, to)];
    lane(out, flow, &way, (1.0, 0.0), 0.85);
}

fn side(out: &mut Markup, side: &NetworkSide, vantage: Vantage, y: f64, nat_y: f64) {
    rect(out, if side.recorded { "wr-box" } else { "wr-unknown" }, (1.0, y), WIDTH - 2.0, HOST - 2.0, 12.0);
    let role = if vantage == Vantage::A { "A · offerer" } else { "B · answerer" };
    let first = if vantage == Vantage::A { y + 22.0 } else { y + 40.0 };
    text(out, "wr-strong", (14.0, first), "start", role);
    let id = side.id.as_deref().unwrap_or(if side.recorded { "" } else { "not recorded" });
    fitted(out, "wr-faint", (14.0, first + 17.0), "start", id, 22);
    for (line, address) in side.addresses.iter().take(3).enumerate() {
        let at = (WORDS, y + 20.0 + line as f64 * 16.0);
        fitted(out, "wr-mono", at, "start", &address.address.to_string(), 24);
    }
    match &side.nat {
        Nat::None => text(out, "wr-faint", (WORDS, nat_y + NAT.0 / 2.0 + 4.0), "start", "no NAT seen"),
        Nat::Unknown => {
            rect(out, "wr-unknown", (8.0, nat_y), WIDTH - 16.0, NAT.0, 10.0);
            text(out, "wr-faint", (WORDS, nat_y + NAT.0 / 2.0 + 4.0), "start", "NAT? not measured");
        }
        Nat::Translates { external, varies } => {
            rect(out, "wr-nat", (8.0, nat_y), WIDTH - 16.0, NAT.0, 10.0);
            text(
                out,
                "wr-strong",
                (WORDS, nat_y + 19.0),
                "start",
                if *varies { "NAT, differs by peer" } else { "NAT" },
            );
            let address = external.first().map(ToString::to_string).unwrap_or_default();
            let more = if external.len() > 1 { " …" } else { "" };
            fitted(out, "wr-mono", (WORDS, nat_y + 36.0), "start", &format!("{address}{more}"), 26);
        }
    }
}
