//! What this host's kernel knows and does that can touch the session, as facts for the recording.
//!
//! Collected in a thread of its own, so that nothing of it delays the session: before the checks, for each address that
//! a socket sends to, and after the checks. One trait, `Collector`, with Linux complete; other systems say that they
//! do not measure.

#[cfg(target_os = "linux")]
mod conntrack;
#[cfg(target_os = "linux")]
mod counters;
#[cfg(target_os = "linux")]
mod installed;
#[cfg(target_os = "linux")]
mod ipsec;
#[cfg(target_os = "linux")]
mod legacy;
#[cfg(target_os = "linux")]
mod legacy_rule;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) mod netlink;
#[cfg(target_os = "linux")]
mod nft;
#[cfg(target_os = "linux")]
mod nft_chains;
#[cfg(target_os = "linux")]
mod nft_condition;
#[cfg(all(test, target_os = "linux"))]
mod nft_corpus;
#[cfg(target_os = "linux")]
mod nft_field;
#[cfg(target_os = "linux")]
mod nft_rule;
#[cfg(target_os = "linux")]
mod nft_words;
#[cfg(target_os = "linux")]
mod packets;
#[cfg(target_os = "linux")]
mod questions;
#[cfg(target_os = "linux")]
pub(crate) mod sockets;
#[cfg(target_os = "linux")]
pub(crate) mod software;
#[cfg(target_os = "linux")]
mod system;
#[cfg(target_os = "linux")]
pub(crate) mod tables;
mod tap;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use whyrelay_core::host::{HostFact, MAX_FACTS, Moment, RoutePurpose, Subject};

pub(crate) use tap::{Tap, is_server_request};

use crate::io::disguise::DeviceName;

/// Facts that wait for the session's loop; more wait in the collecting thread.
const QUEUE: usize = 1024;

/// Whom the facts are collected beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    /// A session: what takes long does not compete with it for the processor until a healthy one has its path; and it ends
    /// while its last words are under way.
    Session,
    /// A check, which waits for all facts and for every answer: what takes long is looked at while the network is waited
    /// for, and nothing is under way any more when it ends.
    Check,
}

impl Beside {
    /// When what takes long is looked at.
    const fn head_start(self) -> Duration {
        match self {
            Self::Session => Duration::from_millis(300),
            Self::Check => Duration::ZERO,
        }
    }

    /// How long what the last transmissions caused is on its way through the kernel.
    const fn under_way(self) -> Duration {
        match self {
            Self::Session => Duration::from_millis(20),
            Self::Check => Duration::ZERO,
        }
    }
}

/// How long after an address of the peer became known the next hops to it are looked for: by then its other addresses are
/// known, too.
const HOPS_AFTER: Duration = Duration::from_millis(300);

/// How often it is looked whether the interfaces of our addresses still work.
const LINKS_EVERY: Duration = Duration::from_millis(500);

/// Most changes of interfaces that are told: one that comes and goes all the time tells nothing more.
const MAX_LINK_CHANGES: usize = 32;

/// A socket of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OwnSocket {
    /// Its address.
    pub(crate) local: SocketAddr,
    /// The IP protocol: 17 UDP, 6 TCP.
    pub(crate) protocol: u8,
    /// Its firewall mark.
    pub(crate) mark: u32,
    /// Its user; `None`: this process's.
    pub(crate) user: Option<u32>,
    /// The interface that it is bound to.
    pub(crate) device: Option<DeviceName>,
    /// Whether it sends raw: the system then knows no ports.
    pub(crate) raw: bool,
}

/// One of our sockets and an address that it sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    /// The socket; `None`: none yet, the kernel chooses the source.
    pub(crate) socket: Option<OwnSocket>,
    /// Where to.
    pub(crate) remote: SocketAddr,
    /// What is there.
    pub(crate) purpose: RoutePurpose,
    /// Whether the socket is a probe's.
    pub(crate) probe: bool,
}

/// What the session tells the collecting thread.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input {
    /// A socket was opened.
    Socket(OwnSocket),
    /// A socket sends to an address for the first time.
    Flow(Flow),
    /// The peer told an address.
    Candidate(SocketAddr),
    /// Connections over TCP beside the session's sockets are about to be made to there: to signaling.
    Connecting(SocketAddr),
    /// Such a one did not come about, and is waited for no longer. Our port is not known.
    Connection { local: SocketAddr, remote: SocketAddr, given_up: Instant },
    /// The checks are over.
    Finish,
}

/// What concerns the session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// Its sockets.
    pub(crate) sockets: BTreeSet<OwnSocket>,
    /// Addresses of the peer.
    pub(crate) peers: BTreeSet<SocketAddr>,
    /// Addresses that the peer told, whether or not anything is sent there.
    pub(crate) candidates: BTreeSet<SocketAddr>,
    /// Addresses of servers.
    pub(crate) servers: BTreeSet<SocketAddr>,
    /// Where connections beside its sockets are made to.
    pub(crate) connected_to: BTreeSet<SocketAddr>,
    /// Both ends of those that did not come about.
    pub(crate) connections: BTreeSet<(SocketAddr, SocketAddr)>,
    /// When they were given up.
    pub(crate) given_up: Option<Instant>,
}

impl Scope {
    /// Every address that packets go to or come from.
    pub(crate) fn remotes(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.peers.iter().chain(&self.servers).map(SocketAddr::ip)
    }

    /// Our ports.
    pub(crate) fn ports(&self) -> BTreeSet<u16> {
        self.sockets.iter().map(|socket| socket.local.port()).collect()
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Socket(socket) => {
                self.sockets.insert(socket);
            }
            Input::Flow(flow) => {
                let list = match flow.purpose {
                    RoutePurpose::Peer => &mut self.peers,
                    RoutePurpose::Server => &mut self.servers,
                };
                // A question without a socket stands for an address, not for packets.
                if flow.socket.is_some() {
                    list.insert(flow.remote);
                }
            }
            Input::Candidate(remote) => {
                self.candidates.insert(remote);
            }
            Input::Connecting(remote) => {
                self.connected_to.insert(remote);
            }
            Input::Connection { local, remote, given_up } => {
                self.connections.insert((local, remote));
                self.given_up.get_or_insert(given_up);
            }
            Input::Finish => {}
        }
    }
}

/// Where facts go.
pub(crate) type Emit<'a> = dyn FnMut(HostFact) + 'a;

/// Collects facts about a host. Everything is best effort: what cannot be had is a fact of its own.
pub(crate) trait Collector: Send {
    /// Before the checks; the baseline of all counters.
    fn before(&mut self, scope: &Scope, emit: &mut Emit<'_>);
    /// A socket was opened, or a connection is about to be made beside them.
    fn socket(&mut self, scope: &Scope, emit: &mut Emit<'_>);
    /// A socket sends to an address for the first time.
    fn flow(&mut self, flow: &Flow, emit: &mut Emit<'_>);
    /// What takes long and does not change meanwhile, once: when the session has had its start, or at its end.
    fn later(&mut self, emit: &mut Emit<'_>);
    /// Every now and then: interfaces of our addresses that work no longer, or again.
    fn links(&mut self, emit: &mut Emit<'_>);
    /// Addresses of the peer became known a while ago: what has to be asked about them while the session goes on.
    fn peers(&mut self);
    /// After the checks.
    fn after(&mut self, scope: &Scope, emit: &mut Emit<'_>);
}

/// The subjects of [`Moment::After`], in the order in which they are told.
const AFTER: [Subject; 8] = [
    Subject::Counters,
    Subject::Nftables,
    Subject::IpsecPolicies,
    Subject::OwnPackets,
    Subject::Routes,
    Subject::Neighbors,
    Subject::Sockets,
    Subject::Conntrack,
];

/// How far the facts of [`Moment::After`] have come, and whether the programs were looked at: where nobody can wait for the
/// rest, it is said what is missing.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The last subject of [`AFTER`] of which something came.
    after: Option<usize>,
    /// Whether all programs were told, which come in no fixed order with the facts of after the checks.
    programs: bool,
}

impl Told {
    /// Notes a fact.
    pub(crate) fn note(&mut self, moment: Moment, fact: &HostFact) {
        self.programs |= matches!(
            fact,
            HostFact::Counted { subject: Subject::Software, .. }
                | HostFact::NotMeasured { subject: Subject::Software, .. }
        );
        let subject = match fact {
            _ if moment != Moment::After => return,
            HostFact::Counters { .. } => Subject::Counters,
            HostFact::FirewallRule(_) | HostFact::FirewallChain(_) => Subject::Nftables,
            HostFact::IpsecPolicy(_) => Subject::IpsecPolicies,
            HostFact::OwnPacket(_) | HostFact::OwnConnection(_) => Subject::OwnPackets,
            HostFact::Neighbor(_) => Subject::Neighbors,
            HostFact::Socket(_) => Subject::Sockets,
            HostFact::Counted { subject: Subject::LegacyIptables, .. }
            | HostFact::NotMeasured { subject: Subject::LegacyIptables, .. } => Subject::Nftables,
            HostFact::Counted { subject, .. } | HostFact::NotMeasured { subject, .. } => *subject,
            _ => return,
        };
        self.after = self.after.max(AFTER.iter().position(|after| *after == subject));
    }

    /// What was not told.
    pub(crate) fn missing(&self, why: &str) -> impl Iterator<Item = HostFact> {
        let from = self.after.map_or(0, |last| last + 1);
        let programs = (!self.programs).then_some(Subject::Software);
        AFTER[from..].iter().copied().chain(programs).map(move |subject| HostFact::NotMeasured {
            subject,
            why: why.to_owned(),
            needs: None,
        })
    }
}

/// Starts the collecting thread. The tap tells it what the session does; facts come from the receiver, which ends when
/// the facts of [`Moment::After`] are all there.
pub(crate) fn start(beside: Beside) -> (Tap, tokio::sync::mpsc::Receiver<(Moment, HostFact)>) {
    let (input, inputs) = std::sync::mpsc::channel();
    let (output, facts) = tokio::sync::mpsc::channel(QUEUE);
    // Without the thread there are no facts, which is not the session's failure.
    let _ = std::thread::Builder::new().name("host facts".into()).spawn(move || {
        collect(this_system(beside).as_mut(), &inputs, &output, beside.head_start(), HOPS_AFTER);
    });
    (Tap::new(input), facts)
}

fn collect(
    collector: &mut dyn Collector,
    inputs: &Receiver<Input>,
    output: &Sender<(Moment, HostFact)>,
    head_start: Duration,
    hops_after: Duration,
) {
    let mut scope = Scope::default();
    let mut room = MAX_FACTS / 2;
    // Fails only when the session is gone.
    let mut send = |moment: Moment, fact: HostFact| {
        if room > 0 {
            room -= 1;
            let _ = output.blocking_send((moment, fact));
        }
    };
    collector.before(&scope, &mut |fact| send(Moment::Before, fact));
    let mut later = Some(Instant::now() + head_start);
    let mut peers: Option<Instant> = None;
    let (mut links, mut link_changes) = (Some(Instant::now() + LINKS_EVERY), 0);
    loop {
        let waited = match [later, peers, links].into_iter().flatten().min() {
            Some(until) => inputs.recv_timeout(until.saturating_duration_since(Instant::now())),
            None => inputs.recv().map_err(RecvTimeoutError::from),
        };
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= Instant::now());
        let (is_over, is_idle) =
            (matches!(waited, Ok(Input::Finish)), matches!(waited, Err(RecvTimeoutError::Timeout)));
        // Behind what is told already: sockets that nobody looks for are not copied.
        if is_over && later.is_some() || is_idle && is_due(later) {
            later = None;
            collector.later(&mut |fact| send(Moment::During, fact));
        }
        if is_due(links) && !is_over {
            collector.links(&mut |fact| {
                link_changes += 1;
                send(Moment::During, fact);
            });
            links = (link_changes < MAX_LINK_CHANGES).then(|| Instant::now() + LINKS_EVERY);
        }
        // At the end it is too late to ask.
        if is_due(peers) && !is_over {
            peers = None;
            collector.peers();
        }
        let input = match waited {
            Ok(input) => input,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        scope.take(input);
        match input {
            Input::Socket(_) | Input::Connecting(_) => collector.socket(&scope, &mut |fact| send(Moment::Before, fact)),
            Input::Flow(flow) => {
                if flow.purpose == RoutePurpose::Peer && !flow.probe {
                    peers.get_or_insert_with(|| Instant::now() + hops_after);
                }
                collector.flow(&flow, &mut |fact| send(Moment::During, fact));
            }
            // What these tell of is told at the end.
            Input::Candidate(_) | Input::Connection { .. } => {}
            Input::Finish => {
                collector.after(&scope, &mut |fact| send(Moment::After, fact));
                return;
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn this_system(beside: Beside) -> Box<dyn Collector> {
    Box::new(linux::Linux::new(beside))
}

#[cfg(not(target_os = "linux"))]
fn this_system(_: Beside) -> Box<dyn Collector> {
    Box::new(Unmeasured)
}

/// A system that nobody has taught to tell facts.
#[cfg(not(target_os = "linux"))]
struct Unmeasured;

#[cfg(not(target_os = "linux"))]
impl Collector for Unmeasured {
    fn before(&mut self, _: &Scope, emit: &mut Emit<'_>) {
        for subject in Subject::ALL {
            let why = format!("whyrelay does not measure this on {}", std::env::consts::OS);
            emit(HostFact::NotMeasured { subject, why, needs: None });
        }
    }

    fn socket(&mut self, _: &Scope, _: &mut Emit<'_>) {}
    fn flow(&mut self, _: &Flow, _: &mut Emit<'_>) {}
    fn later(&mut self, _: &mut Emit<'_>) {}
    fn links(&mut self, _: &mut Emit<'_>) {}
    fn peers(&mut self) {}
    fn after(&mut self, _: &Scope, _: &mut Emit<'_>) {}
}

/// An interface for tests: an ordinary one that is up.
#[cfg(test)]
pub(crate) fn link(index: u32, device: &str) -> whyrelay_core::host::Link {
    whyrelay_core::host::Link {
        device: device.to_owned(),
        index,
        link_kind: None,
        loopback: false,
        up: true,
        running: true,
        mtu: 1500,
        mac: None,
        master: None,
        vrf_table: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes what is asked of it.
    #[derive(Default)]
    struct Noted(Vec<&'static str>);

    impl Collector for Noted {
        fn before(&mut self, _: &Scope, _: &mut Emit<'_>) {
            self.0.push("before");
        }
        fn socket(&mut self, _: &Scope, _: &mut Emit<'_>) {
            self.0.push("socket");
        }
        fn flow(&mut self, _: &Flow, _: &mut Emit<'_>) {
            self.0.push("flow");
        }
        fn later(&mut self, _: &mut Emit<'_>) {
            self.0.push("later");
        }
        fn links(&mut self, _: &mut Emit<'_>) {}
        fn peers(&mut self) {
            self.0.push("peers");
        }
        fn after(&mut self, _: &Scope, _: &mut Emit<'_>) {
            self.0.push("after");
        }
    }

    #[test]
    fn sockets_are_looked_for_ahead_of_what_takes_long_whenever_that_is_due() {
        let local = "192.0.2.1:1".parse().unwrap();
        let socket = OwnSocket { local, protocol: 17, mark: 0, user: None, device: None, raw: false };
        for beside in [Beside::Session, Beside::Check] {
            let (input, inputs) = std::sync::mpsc::channel();
            for told in [Input::Socket(socket), Input::Socket(socket), Input::Finish] {
                input.send(told).unwrap();
            }
            let (output, _facts) = tokio::sync::mpsc::channel(1);
            let mut noted = Noted::default();
            collect(&mut noted, &inputs, &output, beside.head_start(), HOPS_AFTER);
            assert_eq!(noted.0, ["before", "socket", "socket", "later", "after"], "{beside:?}");
        }
    }

    #[test]
    fn next_hops_are_looked_for_when_addresses_of_the_peer_are_known_whenever_that_is() {
        let flow = |port: u16, purpose, probe| {
            let remote = SocketAddr::from(([198, 51, 100, 7], port));
            Input::Flow(Flow { socket: None, remote, purpose, probe })
        };
        let (peer, server) = (RoutePurpose::Peer, RoutePurpose::Server);
        let noted = |told: &[(RoutePurpose, bool)], rest: Duration| {
            let told = told.to_vec();
            let (input, inputs) = std::sync::mpsc::channel();
            let telling = std::thread::spawn(move || {
                // When what takes long was looked at long ago.
                for (port, (purpose, probe)) in (1..).zip(told) {
                    std::thread::sleep(rest);
                    input.send(flow(port, purpose, probe)).unwrap();
                }
                std::thread::sleep(rest);
                input.send(Input::Finish).unwrap();
            });
            let (output, _facts) = tokio::sync::mpsc::channel(1);
            let mut noted = Noted::default();
            collect(&mut noted, &inputs, &output, Duration::ZERO, Duration::from_millis(20));
            telling.join().unwrap();
            noted.0
        };
        const REST: Duration = Duration::from_millis(200);
        let begin = ["before", "later"];
        let so = |rest: &[&'static str]| [&begin, rest].concat();
        assert_eq!(noted(&[(peer, false)], REST), so(&["flow", "peers", "after"]));
        assert_eq!(noted(&[(peer, false), (peer, false)], REST), so(&["flow", "peers", "flow", "peers", "after"]));
        assert_eq!(noted(&[(server, false), (peer, true)], REST), so(&["flow", "flow", "after"]), "no address of it");
        assert_eq!(
            noted(&[(peer, false)], Duration::ZERO).iter().filter(|told| **told == "peers").count(),
            0,
            "too late"
        );
    }

    #[test]
    fn what_was_not_told_in_time_is_not_measured() {
        let missing = |facts: &[HostFact]| {
            let mut told = Told::default();
            facts.iter().for_each(|fact| told.note(Moment::After, fact));
            let missing = told.missing("slow").map(|fact| match fact {
                HostFact::NotMeasured { subject, .. } => subject,
                other => panic!("{other:?}"),
            });
            missing.collect::<Vec<_>>()
        };
        let counted = |subject| HostFact::Counted { subject, total: 10_000, recorded: 0 };
        let counters = HostFact::Counters { moved: std::collections::BTreeMap::new(), read: Vec::new() };
        let programs = || counted(Subject::Software);
        assert_eq!(missing(&[programs()]), AFTER);
        assert_eq!(missing(&[programs(), counters, counted(Subject::LegacyIptables)]), AFTER[2..]);
        assert_eq!(missing(&[counted(Subject::Routes), programs()]), AFTER[5..]);
        assert_eq!(missing(&[programs(), counted(Subject::Conntrack), counted(Subject::Routes)]), []);
        // Programs that were not looked at are missing, whatever else is there.
        assert_eq!(missing(&[counted(Subject::Conntrack)]), [Subject::Software]);
        // The counts of before the checks say nothing of after.
        let mut told = Told::default();
        told.note(Moment::Before, &counted(Subject::Conntrack));
        assert_eq!(told.missing("slow").count(), AFTER.len() + 1);
    }
}
