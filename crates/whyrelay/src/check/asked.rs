//! What a part of a check was asked to find out and has not told yet. A check that is stopped says so of each: what has
//! no line looks as if nobody had asked.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use whyrelay_core::host::HostFact;
use whyrelay_core::trace::event::{EventKind, Transport};
use whyrelay_core::trace::measurement::Measurement;

/// Why something has no answer.
pub(crate) const STOPPED: &str = "the check was stopped";

/// One answer that is expected.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What it is, in words.
    what: String,
    /// What the part calls it when it says itself that it was not measured.
    word: &'static str,
    is_answer: fn(&Measurement) -> bool,
}

impl Row {
    fn new(what: String, word: &'static str, is_answer: fn(&Measurement) -> bool) -> Self {
        Self { what, word, is_answer }
    }

    /// What is asked of the NAT in front of a local address.
    pub(crate) fn of_nat(local: IpAddr, hairpin: bool) -> Vec<Self> {
        let mut rows = vec![
            Self::new(format!("mapping for {local}"), "mapping", |fact| matches!(fact, Measurement::Mapping { .. })),
            Self::new(format!("filtering for {local}"), "filtering", |fact| {
                matches!(fact, Measurement::Filtering { .. })
            }),
            Self::new(format!("ports for {local}"), "ports", |fact| matches!(fact, Measurement::PortAllocation { .. })),
        ];
        if hairpin {
            rows.push(Self::new(format!("hairpinning for {local}"), "hairpinning", |fact| {
                matches!(fact, Measurement::Hairpin { .. })
            }));
        }
        rows
    }

    /// Whether a server is reached.
    pub(crate) fn of_reach(transport: Transport, remote: std::net::SocketAddr) -> Vec<Self> {
        let is = |fact: &Measurement| matches!(fact, Measurement::Reach { .. });
        vec![Self::new(format!("{} to {remote}", transport.name()), "to port", is)]
    }

    /// What a whyrelay server measures for us.
    pub(crate) fn of_probes(server: std::net::SocketAddr) -> Vec<Self> {
        let of = |what: &str| format!("{what} by {server}");
        vec![
            Self::new(of("early arrival"), "early arrival", |fact| matches!(fact, Measurement::EarlyArrival { .. })),
            Self::new(of("third party, high port"), "random high port", |fact| {
                matches!(fact, Measurement::ThirdParty { .. })
            }),
            Self::new(of("largest packets"), "largest packet", |fact| matches!(fact, Measurement::PathMtu { .. })),
            Self::new(of("WireGuard's shape"), "WireGuard's shape", |fact| {
                matches!(fact, Measurement::PacketShape { .. })
            }),
        ]
    }

    /// The first routers on the way.
    pub(crate) fn of_hops(remote: std::net::SocketAddr) -> Vec<Self> {
        let what = format!("routers on the way to {remote}");
        vec![Self::new(what, "routers on the way", |fact| matches!(fact, Measurement::Hop { .. }))]
    }

    /// PCP of the router for IPv6.
    pub(crate) fn of_pinhole() -> Vec<Self> {
        let what = "PCP of the router for IPv6";
        vec![Self::new(what.to_owned(), what, |fact| matches!(fact, Measurement::PortMapper { .. }))]
    }

    /// How a program's packets fare; its answers are facts of the host.
    pub(crate) fn of_program(name: &str) -> Vec<Self> {
        vec![Self::new(format!("what servers answer as {name}"), "program", |_| false)]
    }

    /// Allocation and relaying.
    pub(crate) fn of_relay(url: &impl std::fmt::Display, experiments: bool) -> Vec<Self> {
        let is_echo = |fact: &Measurement| matches!(fact, Measurement::RelayEcho { .. });
        let mut rows =
            vec![Self::new(format!("{url}: allocation and echo through the relay"), "through the relay", is_echo)];
        if experiments {
            let is = |fact: &Measurement| matches!(fact, Measurement::EarlyArrival { .. });
            rows.push(Self::new("early arrival".to_owned(), "early arrival", is));
        }
        rows
    }
}

/// The answers that one part is still to give. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked(Arc<Mutex<Vec<Row>>>);

impl Asked {
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        Self(Arc::new(Mutex::new(rows)))
    }

    /// Takes note of what the part tells.
    pub(crate) fn told(&self, kind: &EventKind) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kind {
            EventKind::Measured(fact) => rows.retain(|row| !(row.is_answer)(fact)),
            EventKind::NotMeasured { what, .. } => rows.retain(|row| !what.contains(row.word)),
            EventKind::HostFact { fact, .. } if matches!(**fact, HostFact::Application(_)) => rows.clear(),
            _ => {}
        }
    }

    /// The part is over: what it has not told by now has its events.
    pub(crate) fn is_over(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What is still open.
    pub(crate) fn left(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|row| row.what.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_or_said_to_be_unmeasured_is_no_longer_open() {
        let local: IpAddr = "192.0.2.1".parse().unwrap();
        let asked = Asked::new(Row::of_nat(local, true));
        let (ports, addresses) = (Vec::new(), Vec::new());
        asked.told(&EventKind::Measured(Measurement::PortAllocation { local, ports, addresses }));
        let missing = |what: &str| EventKind::NotMeasured { what: what.into(), why: "nobody answers".into() };
        asked.told(&missing("mapping"));
        asked.told(&missing("something else"));
        assert_eq!(asked.left(), ["filtering for 192.0.2.1", "hairpinning for 192.0.2.1"]);
        asked.is_over();
        assert_eq!(asked.left(), Vec::<String>::new());
    }
}
