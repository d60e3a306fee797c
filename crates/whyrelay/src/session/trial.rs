//! What is tried for one session (`--try`): harmless, and gone with it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use whyrelay_core::engine::peer;
use whyrelay_core::engine::peer_probes;
use whyrelay_core::engine::peer_probes::plan::OPENER_TTL;
use whyrelay_core::engine::server_url::ServerUrl;
use whyrelay_core::host::{ProbeAim, ProbeOutcome, leads_to_guests};
use whyrelay_core::ice::candidate::{Candidate, CandidateType};
use whyrelay_core::trace::address::AddressClass;
use whyrelay_core::trace::event::{Direction, EventKind, Transport};
use whyrelay_core::trace::measurement::Measurement;

use super::driver::Session;
use crate::check::Entry;
use crate::io::disguise::DeviceName;
use crate::io::udp::UdpOptions;

/// The peer's candidates are held back for this long after the openers, so that these pass our NAT first.
const OPENER_AHEAD: Duration = Duration::from_millis(250);

/// How long openers wait for the routers in front to tell where this side's last NAT is. Routers answer within
/// milliseconds, and a network by radio within a quarter of a second; more would only hold the session up.
const HOPS_WITHIN: Duration = Duration::from_millis(300);

/// Candidates that are held back; a peer has not more.
const MAX_HELD: usize = 128;

/// Interfaces that lead into tunnels, by the first letters of their names.
const TUNNELS: [&str; 6] = ["wt", "wg", "tun", "tap", "tailscale", "zt"];

/// One thing to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Another port than the one that was asked for.
    Port,
    /// Each socket bound to the interface that has its address.
    Device,
    /// Without an interface; `None`: without tunnels and virtual bridges.
    Exclude(Option<String>),
    /// A packet of low TTL ahead of the checks.
    Opener,
    /// A port mapping by the router.
    Mapping,
}

impl Trial {
    /// The interface that the user wants left out by name.
    pub(super) const fn excluded_name(&self) -> Option<&String> {
        match self {
            Self::Exclude(Some(name)) => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port => f.write_str("another port"),
            Self::Device => f.write_str("each socket bound to the interface of its address"),
            Self::Exclude(None) => f.write_str("without tunnels and virtual bridges"),
            Self::Exclude(Some(name)) => write!(f, "without the interface {name}"),
            Self::Opener => {
                write!(f, "a packet of TTL {OPENER_TTL}, or just past this side's last NAT, ahead of the checks")
            }
            Self::Mapping => f.write_str("a port mapping by the router, removed at the end"),
        }
    }
}

/// Reads what stands behind `--try`.
///
/// # Errors
/// A sentence that says what can stand there.
pub fn parse_trial(text: &str) -> Result<Trial, String> {
    // What ends with "=" names nothing, where something was to be named.
    let (word, name) = text.split_once('=').map_or((text, None), |(word, name)| (word, Some(name)));
    Ok(match (word, name) {
        ("port", None) => Trial::Port,
        ("device", None) => Trial::Device,
        ("opener", None) => Trial::Opener,
        ("mapping", None) => Trial::Mapping,
        ("exclude", None) => Trial::Exclude(None),
        ("exclude", Some(name)) if DeviceName::new(name).is_some() => Trial::Exclude(Some(name.to_owned())),
        _ => {
            return Err(format!(
                "{text:?} cannot be tried; give port, device, exclude, exclude=NAME, opener or mapping"
            ));
        }
    })
}

/// What is known of the way out, for openers.
#[derive(Debug, Default)]
pub(super) struct Hops {
    /// The routers that answered, by their number on the way to a server.
    routers: BTreeMap<u8, IpAddr>,
    /// Until when more are waited for; `None`: nobody looks.
    until: Option<Instant>,
    /// Openers that wait for them.
    waiting: Vec<SocketAddr>,
    /// The TTL that was told of.
    told: Option<u8>,
}

impl Hops {
    /// Notes a router.
    pub(super) fn heard(&mut self, ttl: u8, router: IpAddr) {
        self.routers.insert(ttl, router);
    }

    /// When openers are due that wait.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until.filter(|_| !self.waiting.is_empty())
    }

    /// Whether nothing more is waited for: the time is over, or a router of the Internet has answered, in front of which
    /// every router has, too.
    fn are_known(&self, now: Instant) -> bool {
        let outside = self.routers.iter().find(|(_, router)| !is_inside(**router)).map(|(ttl, _)| *ttl);
        let is_whole = outside.is_some_and(|outside| (1..outside).all(|ttl| self.routers.contains_key(&ttl)));
        is_whole || self.until.is_none_or(|until| now >= until)
    }

    /// The TTL of an opener: it passes this side's last NAT, the last router with an inner address, and gets no further.
    /// `reached`: the least TTL that is known to get as far as the other side, to which none may be.
    fn opener_ttl(&self, remote: IpAddr, reached: Option<u8>) -> u8 {
        let last_inside = self.routers.iter().rev().find(|(_, router)| is_inside(**router)).map(|(ttl, _)| *ttl);
        let past = last_inside.map_or(OPENER_TTL, |ttl| ttl.saturating_add(1));
        let own_hop = self.routers.iter().find(|(_, router)| **router == remote).map(|(ttl, _)| *ttl);
        let least = reached.into_iter().chain(own_hop).min();
        least.map_or(past, |least| past.min(least.saturating_sub(1)).max(1))
    }
}

/// Whether an address is one that NATs have inside (RFC 1918, RFC 6598).
fn is_inside(address: IpAddr) -> bool {
    matches!(AddressClass::of(address), AddressClass::Private | AddressClass::CarrierGrade)
}

/// The interfaces that a session leaves out to try it.
pub(super) fn excluded(trials: &[Trial]) -> Vec<String> {
    let names = || crate::io::interfaces::list(&crate::io::interfaces::InterfaceFilter::default()).unwrap_or_default();
    let excluded = trials.iter().flat_map(|trial| match trial {
        Trial::Exclude(Some(name)) => vec![name.clone()],
        Trial::Exclude(None) => names()
            .into_iter()
            .map(|interface| interface.name)
            .filter(|name| leads_to_guests(name) || TUNNELS.iter().any(|prefix| name.starts_with(prefix)))
            .collect(),
        _ => Vec::new(),
    });
    excluded.collect()
}

impl Session {
    /// Says what is tried.
    pub(super) fn announce_trials(&mut self) {
        for trial in self.config.trials.clone() {
            self.progress.step(&format!("trying for this session: {trial}"));
        }
    }

    pub(super) fn tries(&self, trial: &Trial) -> bool {
        self.config.trials.contains(trial)
    }

    /// How a socket of an interface is made.
    pub(super) fn options_on(&self, interface: Option<&str>) -> UdpOptions {
        let options = self.imitation.options;
        match interface.and_then(DeviceName::new).filter(|_| self.tries(&Trial::Device)) {
            Some(device) => UdpOptions { device: Some(device), ..options },
            None => options,
        }
    }

    /// A candidate of the peer came: at once to the agent, or an opener first.
    pub(super) fn take_candidate(&mut self, candidate: Candidate) {
        let remote = candidate.address.ip().filter(|_| self.tries(&Trial::Opener) && self.held_back.len() < MAX_HELD);
        let Some(remote) = remote else { return self.feed(peer::Input::RemoteCandidate(candidate)) };
        let now = Instant::now();
        // A relay is none of the peer's own addresses: its NAT is on no way to it.
        if candidate.kind != CandidateType::Relayed {
            self.hops.waiting.push(remote);
            self.send_waiting_openers();
        }
        let sent_by = self.hops.deadline().map_or(now, |until| until.max(now));
        self.held_back.push_back((sent_by + OPENER_AHEAD, Some(candidate)));
    }

    /// Looks for the routers in front, if openers will need them.
    pub(super) fn trace_for_openers(&mut self, server: &ServerUrl) {
        if self.tries(&Trial::Opener) && server.transport() == Transport::Udp {
            let random = self.random.fork();
            if self.beside.trace(&self.config, random, server.clone()) {
                self.hops.until = Some(Instant::now() + HOPS_WITHIN);
            }
        }
    }

    /// Takes what was noted beside the session.
    pub(super) fn note(&mut self, entry: Entry) {
        if let Entry::Fact(_, EventKind::Measured(Measurement::Hop { ttl, router: Some(router), .. })) = &entry {
            self.hops.heard(*ttl, *router);
        }
        self.sink.note(entry);
    }

    /// Sends the openers that need wait no longer.
    pub(super) fn send_waiting_openers(&mut self) {
        if self.hops.waiting.is_empty() || !self.hops.are_known(Instant::now()) {
            return;
        }
        for remote in std::mem::take(&mut self.hops.waiting) {
            self.send_trial_openers(remote);
        }
    }

    /// The least TTL with which something is known to have come as far as an address of the other side.
    fn reached_by(&self, remote: IpAddr) -> Option<u8> {
        let of_ttl = self.sink.probes(|aim| matches!(aim, ProbeAim::TimeToLive { .. }));
        let reached = of_ttl.iter().filter(|probe| probe.remote.ip() == remote).filter_map(|probe| {
            let ProbeAim::TimeToLive { ttl } = probe.aim else { return None };
            let arrived = match probe.result {
                ProbeOutcome::Answered { .. } => true,
                ProbeOutcome::Icmp { offender, .. } => offender == Some(remote),
                _ => false,
            };
            arrived.then_some(ttl)
        });
        reached.min()
    }

    /// The peer has no more candidates: those that are held back come first.
    pub(super) fn take_end_of_candidates(&mut self) {
        match self.held_back.back() {
            Some((at, _)) => self.held_back.push_back((*at, None)),
            None => self.feed(peer::Input::RemoteEndOfCandidates),
        }
    }

    fn send_trial_openers(&mut self, remote: SocketAddr) {
        let Some((ours, theirs)) = self.both_credentials() else { return };
        let now = self.clock.now();
        let ttl = match remote.ip() {
            IpAddr::V4(_) => self.hops.opener_ttl(remote.ip(), self.reached_by(remote.ip())),
            // Nobody has looked for a NAT there.
            IpAddr::V6(_) => OPENER_TTL,
        };
        if ttl != OPENER_TTL && self.hops.told.replace(ttl) != Some(ttl) {
            self.progress.step(&format!("an opener has TTL {ttl} here, by what the routers in front say"));
        }
        for (local, door) in self.doors.iter().filter(|(local, _)| local.is_ipv4() == remote.is_ipv4()) {
            let bytes = peer_probes::opener(self.random.transaction_id(), &ours, &theirs);
            self.sink.pass_probe(now, Direction::Out, (*local, remote), &bytes);
            // What is refused here is refused to the checks, too, and told there.
            let _ = door.send_with_ttl(remote, &bytes, ttl);
        }
    }

    /// Lets the agent have the candidates that were held back long enough.
    pub(super) fn release_candidates(&mut self) {
        self.release_candidates_until(Instant::now());
    }

    /// Lets it have all of them: a session that is over needs no openers, and what they tell of the path is missing.
    pub(super) fn release_all_candidates(&mut self) {
        self.release_candidates_until(Instant::now() + OPENER_AHEAD);
    }

    fn release_candidates_until(&mut self, until: Instant) {
        while let Some((_, candidate)) = self.held_back.pop_front_if(|(at, _)| *at <= until) {
            self.feed(match candidate {
                Some(candidate) => peer::Input::RemoteCandidate(candidate),
                None => peer::Input::RemoteEndOfCandidates,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opener_passes_the_own_nats_and_not_the_peers() {
        let ttl = |routers: &[(u8, &str)], remote: &str, reached| {
            let mut hops = Hops::default();
            routers.iter().for_each(|(ttl, router)| hops.heard(*ttl, router.parse().unwrap()));
            hops.opener_ttl(remote.parse().unwrap(), reached)
        };
        let peer = "198.51.100.7";
        assert_eq!(ttl(&[], peer, None), 2, "nothing is known");
        assert_eq!(ttl(&[(1, "192.168.1.1"), (2, "203.0.113.1")], peer, None), 2);
        assert_eq!(ttl(&[(1, "192.168.1.1"), (2, "100.64.0.1"), (3, "203.0.113.1")], peer, None), 3);
        // Two routers at home, and a carrier's that says nothing in between.
        assert_eq!(ttl(&[(1, "192.168.1.1"), (2, "10.0.0.1"), (4, "100.64.0.1")], peer, None), 5);
        assert_eq!(ttl(&[(1, "203.0.113.1"), (2, "192.0.2.1")], peer, None), 2, "no NAT at all");
        // The peer's router is near, as the trace, or a hop itself, has told.
        assert_eq!(ttl(&[(1, "192.168.1.1"), (2, "100.64.0.1")], peer, Some(3)), 2);
        assert_eq!(ttl(&[(1, "192.168.1.1"), (2, "100.64.0.1"), (3, peer)], peer, None), 2);
        assert_eq!(ttl(&[(1, "192.168.1.1")], peer, Some(1)), 1);
    }

    #[test]
    fn openers_wait_for_routers_no_longer_than_it_takes() {
        let now = Instant::now();
        let known = |routers: &[(u8, &str)], after: u64| {
            let mut hops = Hops { until: Some(now + HOPS_WITHIN), ..Hops::default() };
            routers.iter().for_each(|(ttl, router)| hops.heard(*ttl, router.parse().unwrap()));
            hops.are_known(now + Duration::from_millis(after))
        };
        assert!(!known(&[], 0) && known(&[], 300));
        assert!(!known(&[(1, "192.168.1.1")], 0), "there may be another inside");
        assert!(known(&[(1, "192.168.1.1"), (2, "203.0.113.1")], 0));
        assert!(!known(&[(2, "203.0.113.1")], 0), "the first may be slow");
        assert!(Hops::default().are_known(now), "nobody looks");
    }

    #[test]
    fn what_can_be_tried_is_understood_and_the_rest_explained() {
        for (text, trial) in [
            ("port", Trial::Port),
            ("device", Trial::Device),
            ("exclude", Trial::Exclude(None)),
            ("exclude=docker0", Trial::Exclude(Some("docker0".into()))),
            ("opener", Trial::Opener),
            ("mapping", Trial::Mapping),
        ] {
            assert_eq!(parse_trial(text), Ok(trial), "{text}");
        }
        for text in ["", "reboot", "port=1", "port=", "exclude=", "exclude=a/b", "opener=2"] {
            assert!(parse_trial(text).unwrap_err().contains("give port, device, exclude"), "{text}");
        }
    }
}
