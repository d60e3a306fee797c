//! What is tried for one session (`--try`): harmless, and gone with it.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use whyrelay_core::engine::peer;
use whyrelay_core::engine::peer_probes;
use whyrelay_core::engine::peer_probes::plan::OPENER_TTL;
use whyrelay_core::host::leads_to_guests;
use whyrelay_core::ice::candidate::{Candidate, CandidateType};
use whyrelay_core::trace::event::Direction;

use super::driver::Session;
use crate::io::disguise::DeviceName;
use crate::io::udp::UdpOptions;

/// The peer's candidates are held back for this long after the openers, so that these pass our NAT first.
const OPENER_AHEAD: Duration = Duration::from_millis(250);

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
            Self::Opener => write!(f, "a packet of TTL {OPENER_TTL} ahead of the checks"),
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
        // A relay is none of the peer's own addresses: its NAT is on no way to it.
        if candidate.kind != CandidateType::Relayed {
            self.send_trial_openers(remote);
        }
        self.held_back.push_back((Instant::now() + OPENER_AHEAD, Some(candidate)));
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
        for (local, door) in self.doors.iter().filter(|(local, _)| local.is_ipv4() == remote.is_ipv4()) {
            let bytes = peer_probes::opener(self.random.transaction_id(), &ours, &theirs);
            self.sink.pass_probe(now, Direction::Out, (*local, remote), &bytes);
            // What is refused here is refused to the checks, too, and told there.
            let _ = door.send_with_ttl(remote, &bytes, OPENER_TTL);
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
