//! Random worlds: two random places, what theory says of them, and a way to make a world that disagrees small.

use std::time::Duration;

use whyrelay_core::nat::behavior::{FilteringBehavior, MappingBehavior, PortAllocation, Refresh};
use whyrelay_core::random::Random;

use crate::predict::{First, Place, predict};
use crate::run::{Observed, run_virtual};
use crate::scenario::file::{
    File, Host, Interface, InterfaceKind, Link, OneOrMany, Path, Route, Router, Rule, WorldKind,
};
use crate::scenario::presets::PRESETS;
use crate::scenario::value::{Mark, Span, Span32};
use crate::scenario::{Scenario, ScenarioError};

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

/// A fault of a host that can be planted, and the finding that must name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A policy rule by destination leads into a tunnel.
    RuleByDestination,
    /// One by user id.
    RuleByUser,
    /// One by the mark of the session's sockets.
    RuleByMark,
    /// One by the session's port.
    RuleByPort,
}

impl Planted {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::RuleByDestination, Self::RuleByUser, Self::RuleByMark, Self::RuleByPort];

    /// The finding that names it.
    pub const fn finding(self) -> &'static str {
        "policy-rule-diverts-peer"
    }

    fn plant(self, host: &mut Host) {
        let wg0 = Interface {
            name: "wg0".to_owned(),
            kind: InterfaceKind::Tunnel,
            behind: OneOrMany::default(),
            address: Vec::new(),
            ipv6: false,
            default_metric: None,
            link: Link::default(),
        };
        host.interface.push(wg0);
        host.route.push(Route {
            to: "peer/26".to_owned(),
            dev: Some("wg0".to_owned()),
            table: Some(200),
            ..Route::default()
        });
        let rule = Rule { priority: 1000, table: Some(200), ..Rule::default() };
        host.rule.push(match self {
            Self::RuleByDestination => Rule { to: Some("peer/26".to_owned()), ..rule },
            Self::RuleByUser => Rule { uidrange: Some(Span32(0..=0)), ..rule },
            Self::RuleByMark => {
                let mark = Mark { value: 0x1_bd00, mask: u32::MAX };
                host.session.mark = Some(mark);
                Rule { fwmark: Some(mark), ..rule }
            }
            Self::RuleByPort => {
                host.session.port = Some(51_820);
                Rule { sport: Some(Span32(51_820..=51_820)), ..rule }
            }
        });
    }
}

/// A random world and what was planted in it.
#[derive(Clone, Debug)]
pub struct World {
    /// It.
    pub file: File,
    /// Who speaks first.
    pub first: First,
    /// The fault of a's host, if there is one.
    pub planted: Option<Planted>,
}

/// Makes the world of a seed, with a fault planted at a or without.
pub fn generate(seed: u64, with_fault: bool) -> World {
    let mut random = Random::from_number(seed);
    let mut file = File { title: format!("World of seed {seed}"), seed, ..File::default() };
    file.worlds = vec![WorldKind::Virtual];
    file.server.ipv6 = false;
    for name in ["a", "b"] {
        let behind = place(&mut random, &mut file, name);
        let link = Link {
            delay: Some(Span(Duration::from_micros(500 + random.below(20_000)))),
            jitter: Span(Duration::from_micros(random.below(3000))),
            ..Link::default()
        };
        file.host
            .insert(name.to_owned(), Host { behind: OneOrMany::Many(behind), ipv4: true, link, ..Host::default() });
    }
    let first = if random.below(2) == 0 { First::A } else { First::B };
    let head_start = Span(Duration::from_millis(400));
    match first {
        First::A => file.signaling.a.candidates_delay = head_start,
        First::B => file.signaling.b.candidates_delay = head_start,
    }
    let planted = with_fault.then(|| Planted::ALL[random.below(Planted::ALL.len() as u64) as usize]);
    if let (Some(planted), Some(a)) = (planted, file.host.get_mut("a")) {
        planted.plant(a);
    }
    World { file, first, planted }
}

/// A place: public, one preset, two, or a router with random behavior.
fn place(random: &mut Random, file: &mut File, name: &str) -> Vec<String> {
    let mut preset = || PLACES[random.below(PLACES.len() as u64) as usize].to_owned();
    let (one, two) = (preset(), preset());
    match random.below(8) {
        0 => Vec::new(),
        1..=3 => vec![one],
        4 => vec![one, two],
        _ => {
            let mapping = MappingBehavior::ALL[random.below(3) as usize];
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
                addresses: Some(1 + random.below(3) as u8),
                refresh: Some(if random.below(2) == 0 { Refresh::Outbound } else { Refresh::Both }),
                ..Router::default()
            };
            file.router.insert(format!("at-{name}"), router);
            vec![format!("at-{name}")]
        }
    }
}

/// Why a world is wrong; nothing: it is as theory says.
pub fn problems(world: &World) -> Result<Vec<String>, ScenarioError> {
    let Scenario { topology, .. } = Scenario::of("fuzz", world.file.clone())?;
    let observed = run_virtual(&topology);
    let mut problems = observed.contradictions.clone();
    let (a, b) = (Place::of(&topology, 0), Place::of(&topology, 1));
    // A host that sends into a tunnel is as good as one that lets nothing out to the peer.
    let expected = match world.planted {
        None => predict(a, b, world.first),
        Some(_) => predict(Place { blocked: true, ..a }, b, world.first),
    };
    if observed.path != Some(expected) {
        let (got, expected) = (crate::run::path_name(observed.path), crate::run::path_name(Some(expected)));
        problems.push(format!("the path is {got}, theory says {expected}"));
    }
    problems.extend(wrong_findings(world, &observed, expected));
    Ok(problems)
}

/// A healthy direct path has no finding; a planted fault is the first.
fn wrong_findings(world: &World, observed: &Observed, expected: Path) -> Option<String> {
    let severe = |finding: &&whyrelay_core::diagnosis::finding::Finding| {
        finding.severity != whyrelay_core::diagnosis::finding::Severity::Info
    };
    let first = observed.report.findings.iter().find(severe);
    match (world.planted, first) {
        (None, Some(finding)) if expected == Path::Direct => {
            Some(format!("a healthy direct path has the finding {}", finding.name))
        }
        _ => None,
    }
}

/// Makes a world that is wrong as small as it stays wrong.
pub fn shrink(world: &World) -> World {
    let mut smallest = world.clone();
    let is_wrong = |world: &World| problems(world).is_ok_and(|problems| !problems.is_empty());
    loop {
        let next = smaller(&smallest).into_iter().find(|world| is_wrong(world));
        match next {
            Some(next) => smallest = next,
            None => return smallest,
        }
    }
}

/// Worlds with one thing less.
fn smaller(world: &World) -> Vec<World> {
    let mut worlds = Vec::new();
    let mut propose = |change: &dyn Fn(&mut World)| {
        let mut changed = world.clone();
        change(&mut changed);
        let used: Vec<String> = changed.file.host.values().flat_map(|host| host.behind.names().to_vec()).collect();
        changed.file.router.retain(|name, _| used.contains(name));
        if changed.file != world.file {
            worlds.push(changed);
        }
    };
    if world.planted.is_some() {
        propose(&|world| {
            world.planted = None;
            if let Some(a) = world.file.host.get_mut("a") {
                (a.interface, a.route, a.rule) = Default::default();
                a.session = Default::default();
            }
        });
    }
    for name in ["a", "b"] {
        let Some(host) = world.file.host.get(name) else { continue };
        for index in 0..host.behind.names().len() {
            propose(&|world| {
                if let Some(host) = world.file.host.get_mut(name) {
                    let mut behind = host.behind.names().to_vec();
                    behind.remove(index);
                    host.behind = OneOrMany::Many(behind);
                }
            });
            // Presets are simpler than routers of their own, and earlier presets than later ones.
            let own = PRESETS.iter().position(|preset| preset.name == host.behind.names()[index]);
            for simpler in PLACES.iter().filter(|name| {
                let rank = PRESETS.iter().position(|preset| preset.name == **name);
                own.is_none_or(|own| rank.is_some_and(|rank| rank < own))
            }) {
                propose(&|world| {
                    if let Some(host) = world.file.host.get_mut(name) {
                        let mut behind = host.behind.names().to_vec();
                        behind[index] = (*simpler).to_owned();
                        host.behind = OneOrMany::Many(behind);
                    }
                });
            }
        }
        propose(&|world| {
            if let Some(host) = world.file.host.get_mut(name) {
                host.link = Link::default();
            }
        });
    }
    for name in world.file.router.keys() {
        let changes: [fn(&mut Router); 4] = [
            |router| router.ports = None,
            |router| router.addresses = None,
            |router| router.refresh = None,
            |router| router.overloading = None,
        ];
        for change in changes {
            propose(&|world| {
                if let Some(router) = world.file.router.get_mut(name) {
                    change(router);
                }
            });
        }
    }
    worlds
}
