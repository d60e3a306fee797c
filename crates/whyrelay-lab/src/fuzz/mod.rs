//! Random worlds: two random places, faults planted in them or harmless decoys, what theory says, and a way to make a
//! world that comes out wrong small.

mod fault;
mod faults;
mod shrink;
mod theory;
mod tried;

use std::time::Duration;

use whyrelay_core::nat::behavior::{FilteringBehavior, MappingBehavior, PortAllocation, Refresh};
use whyrelay_core::random::Random;

use crate::predict::First;
use crate::scenario::file::{File, Host, Link, OneOrMany, Router, WorldKind};
use crate::scenario::value::Span;
use crate::scenario::{LARGEST_SEED, Scenario};

pub use fault::{Culprit, Fault, Hides, Leaves, Shows};
pub use faults::{DECOYS, FAULTS};
pub use shrink::shrink_by;
pub use tried::{Tried, try_world};

/// Presets that random places are made of: no faults of the network beside translation and filtering.
const PLACES: &[&str] = &[
    "home-router",
    "home-router-open",
    "home-router-address-restricted",
    "linux-input-accept",
    "pfsense",
    "symmetric-sequential",
    "address-dependent",
    "mobile-carrier",
    "mobile-carrier-symmetric",
    "corporate-no-udp",
    "corporate-stun-only",
    "cloud",
    "cloud-security-group",
    "stateful-firewall",
    "router",
    "kubernetes-node",
    "docker-bridge",
];

/// Those from where everybody connects with everybody.
const GOOD_PLACES: &[&str] = &[
    "home-router",
    "home-router-hairpin",
    "home-router-open",
    "home-router-address-restricted",
    "mobile-carrier",
    "cloud",
    "cloud-security-group",
    "stateful-firewall",
    "router",
    "docker-bridge",
    "satellite",
];

/// A fault that was planted.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// It.
    pub fault: &'static Fault,
    /// Where: 0 is a, 1 is b.
    pub side: usize,
}

/// Something that is laid over a world.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    what: What,
    /// Where: 0 is a, 1 is b.
    side: usize,
    /// A number that no other piece of the world has.
    slot: u64,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Fault(&'static Fault),
    /// The place and the sockets that a fault brings, and nothing wrong with them.
    Whole(&'static Fault),
    /// A name and a piece of a scenario file.
    Decoy(&'static str, &'static str),
}

/// A random world and what was planted in it.
#[derive(Clone, Debug)]
pub struct World {
    /// The network before anything was laid over it.
    base: File,
    /// What was laid over it, in this order.
    pieces: Vec<Piece>,
    /// It.
    pub file: File,
    /// Who speaks first.
    pub first: First,
    /// The faults.
    pub planted: Vec<Planted>,
    /// Strange things that do no harm, by name.
    pub decoys: Vec<&'static str>,
    /// Whether everybody connects with everybody as long as nothing is planted; else theory says who does.
    pub is_good: bool,
}

/// What random worlds are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any two places: does the path come out as theory says?
    Theory,
    /// Two good places, and up to three decoys.
    Healthy,
    /// Two good places with so many faults, and perhaps a decoy.
    Faults(usize),
    /// The same, whether or not one fault keeps the other from showing.
    AnyFaults(usize),
    /// The same with all of them on one side: its host, and what is in front of it.
    OneSide(usize),
}

/// Makes the world of a seed.
pub fn generate(seed: u64, kind: Kind) -> World {
    let mut random = Random::from_number(seed);
    // TOML has numbers of 63 bits.
    let own = seed & LARGEST_SEED;
    let mut file = File { title: format!("World of seed {seed}"), seed: own, ..File::default() };
    file.worlds = vec![WorldKind::Virtual];
    file.server.ipv6 = false;
    let places = if kind == Kind::Theory { PLACES } else { GOOD_PLACES };
    for name in ["a", "b"] {
        let behind = place(&mut random, &mut file, name, places, kind == Kind::Theory);
        let link = Link {
            delay: Some(Span(Duration::from_micros(500 + random.below(20_000)))),
            jitter: Span(Duration::from_micros(random.below(3000))),
            ..Link::default()
        };
        file.host
            .insert(name.to_owned(), Host { behind: OneOrMany::Many(behind), ipv4: true, link, ..Host::default() });
    }
    if is_astray(&file) {
        for host in file.host.values_mut() {
            host.behind = OneOrMany::Many(behinds(host).into_iter().take(1).collect());
        }
    }
    let first = if random.below(2) == 0 { First::A } else { First::B };
    let head_start = Span(Duration::from_millis(400));
    match first {
        First::A => file.signaling.a.candidates_delay = head_start,
        First::B => file.signaling.b.candidates_delay = head_start,
    }
    let mut world = World {
        base: file.clone(),
        pieces: Vec::new(),
        file,
        first,
        planted: Vec::new(),
        decoys: Vec::new(),
        is_good: kind != Kind::Theory,
    };
    match kind {
        Kind::Theory => {}
        Kind::Healthy => {
            for slot in 1..=random.below(4) {
                let (name, piece) = DECOYS[random.below(DECOYS.len() as u64) as usize];
                let what = What::Decoy(name, piece);
                world.lay(Piece { what, side: random.below(2) as usize, slot });
            }
        }
        Kind::Faults(count) | Kind::AnyFaults(count) | Kind::OneSide(count) => {
            for slot in 0..count {
                plant_one(&mut world, &mut random, slot, kind);
            }
            if random.below(2) == 0 {
                let (name, piece) = DECOYS[random.below(DECOYS.len() as u64) as usize];
                // Only what leaves places, servers and marks alone is without effect beside a fault.
                if !["[server]", "behind", "session", "signaling", "\"tcp\""].iter().any(|word| piece.contains(word)) {
                    let what = What::Decoy(name, piece);
                    world.lay(Piece { what, side: random.below(2) as usize, slot: 9 });
                }
            }
        }
    }
    world
}

/// Whether two routers in a row have one network inside: a fault of its own, so no place for others.
fn is_astray(file: &File) -> bool {
    Scenario::of("fuzz", file.clone()).is_ok_and(|scenario| {
        let topology = &scenario.topology;
        topology.routers.iter().any(|router| router.is_astray(topology))
    })
}

/// Plants one more fault that fits to those already there; only where asked for also one that these hide, or that hides
/// them, or one beside them on the same side.
fn plant_one(world: &mut World, random: &mut Random, slot: usize, kind: Kind) {
    let (may_hide, one_side) = (!matches!(kind, Kind::Faults(_)), matches!(kind, Kind::OneSide(_)));
    // A world of random faults would seldom have one that needs another; so the first never does.
    let fits = |world: &World, fault: &Fault| {
        let fits_to = |other: &Fault| {
            let apart = may_hide || (!other.hides(fault) && !fault.hides(other));
            // One that the other makes none of was not planted.
            let are_two = !one_side || !(fault.is_none_beside(other) || other.is_none_beside(fault));
            apart && are_two && !(other.moves && fault.moves) && other.findings != fault.findings
        };
        // A server's fault is on no side.
        let has_side = !one_side || fault.is_of_side();
        has_side
            && (slot > 0 || fault.shows != Shows::AtRelay)
            && world.planted.iter().all(|planted| fits_to(planted.fault))
    };
    for _ in 0..100 {
        let fault = &FAULTS[random.below(FAULTS.len() as u64) as usize];
        let mut side = random.below(2) as usize;
        if !fits(world, fault) {
            continue;
        }
        // Beside another fault on a host of its own: one that hides everything would hide both.
        if let Some(other) = world.planted.first() {
            side = if one_side { other.side } else { 1 - other.side };
        }
        if world.lay(Piece { what: What::Fault(fault), side, slot: slot as u64 }) {
            return;
        }
    }
}

impl World {
    /// Lays one more piece over it; false where the two do not make a scenario.
    fn lay(&mut self, piece: Piece) -> bool {
        let (text, names) = (piece.what.text(), ["a", "b"]);
        let text = text.replace("SELF", names[piece.side]).replace("OTHER", names[1 - piece.side]);
        let text = text.replace('%', &piece.slot.to_string());
        let merged = toml::Table::try_from(&self.file).ok().zip(text.parse::<toml::Table>().ok());
        let Some((mut table, more)) = merged else { return false };
        let more = if matches!(piece.what, What::Whole(_)) { whole(more) } else { more };
        lay_over(&mut table, more);
        let Ok(mut file) = table.try_into::<File>() else { return false };
        drop_unused(&mut file);
        if Scenario::of("fuzz", file.clone()).is_err() {
            return false;
        }
        self.file = file;
        self.pieces.push(piece);
        match piece.what {
            What::Fault(fault) => self.planted.push(Planted { fault, side: piece.side }),
            What::Whole(_) => {}
            What::Decoy(name, _) => self.decoys.push(name),
        }
        true
    }

    /// The same world, but that nothing is wrong in the place of one planted fault; `None` where that is no scenario.
    pub fn without(&self, planted: usize) -> Option<Self> {
        let mut faults = 0;
        let pieces = self.pieces.iter().map(|piece| match piece.what {
            What::Fault(fault) => {
                faults += 1;
                let what = if faults == planted + 1 { What::Whole(fault) } else { piece.what };
                Piece { what, ..*piece }
            }
            _ => *piece,
        });
        let pieces: Vec<Piece> = pieces.collect();
        self.again(self.base.clone(), pieces)
    }

    /// The world of another network with these pieces; `None` where they do not make a scenario.
    fn again(&self, mut base: File, pieces: impl IntoIterator<Item = Piece>) -> Option<Self> {
        drop_unused(&mut base);
        let (first, is_good) = (self.first, self.is_good);
        let (pieces_left, planted, decoys) = (Vec::new(), Vec::new(), Vec::new());
        let mut world = Self { file: base.clone(), base, pieces: pieces_left, first, planted, decoys, is_good };
        pieces.into_iter().all(|piece| world.lay(piece)).then_some(world)
    }
}

impl What {
    const fn text(self) -> &'static str {
        match self {
            Self::Fault(fault) | Self::Whole(fault) => fault.piece,
            Self::Decoy(_, piece) => piece,
        }
    }
}

/// What is left of a piece without what is wrong in it: where its hosts are, with home routers for what stood there,
/// their tunnels and uplinks, ports and marks, and who speaks first.
fn whole(piece: toml::Table) -> toml::Table {
    const OF_HOST: [&str; 5] = ["behind", "ipv4", "ipv6", "interface", "session"];
    let table = |value: toml::Value| value.try_into::<toml::Table>().unwrap_or_default();
    let only = |value: toml::Value, keys: &[&str]| {
        let kept = table(value).into_iter().filter(|(key, _)| keys.contains(&key.as_str()));
        kept.collect::<toml::Table>()
    };
    let home = || toml::Value::String("home-router".to_owned());
    let routers: Vec<String> = piece.get("router").cloned().map(table).unwrap_or_default().keys().cloned().collect();
    let at_home = |value: toml::Value| {
        let is_own = value.as_str().is_some_and(|name| routers.iter().any(|router| router == name));
        if is_own { value } else { home() }
    };
    let mut left = toml::Table::new();
    for (section, value) in piece {
        let value = match section.as_str() {
            "host" => {
                let hosts = table(value).into_iter().map(|(name, host)| {
                    let mut host = only(host, &OF_HOST);
                    if let Some(behind) = host.remove("behind") {
                        host.insert("behind".to_owned(), at_home(behind));
                    }
                    if let Some(session) = host.remove("session") {
                        host.insert("session".to_owned(), only(session, &["port", "mark"]).into());
                    }
                    if let Some(toml::Value::Array(interfaces)) = host.get_mut("interface") {
                        interfaces.retain(|one| one.get("kind").and_then(toml::Value::as_str) != Some("bridge"));
                        for interface in interfaces.iter_mut().filter_map(toml::Value::as_table_mut) {
                            if let Some(behind) = interface.remove("behind") {
                                interface.insert("behind".to_owned(), at_home(behind));
                            }
                        }
                    }
                    (name, toml::Value::from(host))
                });
                hosts.collect::<toml::Table>()
            }
            "router" => {
                let routers = table(value).into_iter().map(|(name, router)| {
                    let mut router = only(router, &["inside"]);
                    router.insert("preset".to_owned(), home());
                    (name, toml::Value::from(router))
                });
                routers.collect()
            }
            "server" => only(value, &["ipv6"]),
            // What is lost is the fault; who speaks first is not.
            "signaling" => {
                let sides =
                    table(value).into_iter().map(|(side, said)| (side, only(said, &["candidates-delay"]).into()));
                sides.collect()
            }
            _ => continue,
        };
        left.insert(section, value.into());
    }
    left
}

/// Routers that nobody is behind, and how late candidates are that are lost.
fn drop_unused(file: &mut File) {
    let used: Vec<String> = file.host.values().flat_map(behinds).collect();
    file.router.retain(|name, _| used.contains(name));
    for faults in [&mut file.signaling.a, &mut file.signaling.b].into_iter().filter(|faults| faults.lose_candidates) {
        faults.candidates_delay = Span::default();
    }
}

fn behinds(host: &Host) -> Vec<String> {
    let all = std::iter::once(&host.behind).chain(host.interface.iter().map(|interface| &interface.behind));
    all.flat_map(|behind| behind.names().to_vec()).collect()
}

/// Lists of tables grow, other values are replaced.
fn lay_over(base: &mut toml::Table, piece: toml::Table) {
    for (key, value) in piece {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(known)), toml::Value::Table(more)) => lay_over(known, more),
            (Some(toml::Value::Array(known)), toml::Value::Array(more))
                if more.first().is_some_and(toml::Value::is_table) =>
            {
                known.extend(more);
            }
            (_, value) => _ = base.insert(key, value),
        }
    }
}

/// A place: public, one preset, two, or a router with random behavior.
fn place(random: &mut Random, file: &mut File, name: &str, places: &[&str], any_mapping: bool) -> Vec<String> {
    let mut preset = || places[random.below(places.len() as u64) as usize].to_owned();
    let (one, two) = (preset(), preset());
    match random.below(8) {
        0 => Vec::new(),
        1..=3 => vec![one],
        4 => vec![one, two],
        _ => {
            let mapping = MappingBehavior::ALL[if any_mapping { random.below(3) as usize } else { 0 }];
            let ports = [
                PortAllocation::Preserving,
                PortAllocation::Random,
                PortAllocation::Sequential,
                PortAllocation::Hash,
                PortAllocation::Contiguous { block: 256 },
            ];
            let router = Router {
                mapping: Some(mapping),
                filtering: Some(FilteringBehavior::ALL[random.below(3) as usize]),
                ports: Some(ports[random.below(5) as usize]),
                // Overloading would make a mapping depend on others' destinations.
                overloading: Some(false),
                addresses: Some(1 + random.below(3) as u32),
                refresh: Some(if random.below(2) == 0 { Refresh::Outbound } else { Refresh::Both }),
                ..Router::default()
            };
            file.router.insert(format!("at-{name}"), router);
            vec![format!("at-{name}")]
        }
    }
}
