//! What neither world runs, because no session works there as it does elsewhere, and how long a session may take in
//! both.

use std::time::Duration;

use whyrelay_core::engine::peer_probes::plan::LONGEST_SILENCE;

use crate::scenario::Topology;
use crate::scenario::topology::{Link, Session};

/// Bits a second below which the handshake of the data channel, some 6 kB each way, outlasts its time limit.
const SLOWEST: u64 = 32_000;

/// Bytes that every link must take (RFC 8200 §5): packets of the data channel's handshake are as large, and nobody
/// fragments them.
const SMALLEST: u16 = 1280;

/// How long a session waits for the other side's description (`--wait`), which comes later where the other starts later.
const WAIT: Duration = Duration::from_secs(20);

/// How long a session may take from the other side's description to its channel (`--timeout`).
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// How long a peer's session waits for the other, from its own start.
pub(crate) fn wait(topology: &Topology, index: usize) -> Duration {
    let starts = |index: usize| topology.sessions[index].starts;
    WAIT + starts(1 - index).saturating_sub(starts(index))
}

/// How much longer than others a topology's sessions may take, as the scenario has it: the silence that one asks for, as
/// far as anybody is silent, and the wait for one that starts late.
pub(crate) fn asked_for(topology: &Topology) -> (Duration, Duration) {
    let most = |of: fn(&Session) -> Duration| topology.sessions.iter().map(of).max().unwrap_or_default();
    (most(|session| session.silence).min(LONGEST_SILENCE), most(|session| session.starts))
}

/// Why no session works by a topology's links; `None` when one may.
pub(crate) fn exceeded(topology: &Topology) -> Option<String> {
    let hosts = topology.hosts.iter().flat_map(|host| {
        host.interfaces.iter().map(move |own| (format!("{}'s link {}", host.name, own.name), &own.link))
    });
    let routers = topology.routers.iter().map(|router| (format!("the link of {}", router.name), &router.link));
    let mut links = hosts.chain(routers).chain([("the server's link".to_owned(), &topology.server.link)]);
    links.find_map(|(whose, link)| why_not(link).map(|why| format!("{whose}: {why}")))
}

/// What only a kernel would notice of a host that is no peer: virtual time has none there, as such a host sends nothing.
pub(crate) fn without_kernel(topology: &Topology) -> Option<String> {
    topology.hosts.iter().skip(topology.sessions.len()).find_map(|host| {
        let said = [
            ("route", !host.routes.is_empty()),
            ("rule", !host.rules.is_empty()),
            ("sysctl", !host.sysctls.is_empty()),
            ("firewall", !host.firewall.is_empty()),
            ("silent-neighbor", !host.silent_neighbors.is_empty()),
            ("conntrack-full", host.conntrack_full),
        ];
        let (key, _) = said.into_iter().find(|(_, said)| *said)?;
        Some(format!("host.{}.{key}: only a and b have a kernel in virtual time", host.name))
    })
}

fn why_not(link: &Link) -> Option<String> {
    if let Some(rate) = link.rate.filter(|rate| *rate < SLOWEST) {
        return Some(format!("{rate} bit/s, and the handshake of the data channel needs {SLOWEST}"));
    }
    let mtu = link.mtu.filter(|mtu| *mtu < SMALLEST)?;
    Some(format!("packets of {mtu} bytes, and the handshake of the data channel needs {SMALLEST}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn a_session_waits_longer_for_one_that_starts_later_and_lasts_as_long_as_a_silence() {
        let text = "title = \"t\"\n[host.a]\nsession = { starts = \"60s\", silence = \"120s\" }\n[host.b]\n[expect]\npath = \"direct\"\n";
        let topology = Scenario::parse("t", text).unwrap().topology;
        let seconds = Duration::from_secs;
        assert_eq!([0, 1].map(|index| wait(&topology, index)), [seconds(20), seconds(80)]);
        assert_eq!(asked_for(&topology), (seconds(120), seconds(60)));
    }
}
