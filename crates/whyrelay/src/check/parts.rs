//! The parts of a check that ask somebody: of each server that becomes known, those that it makes possible.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use whyrelay_core::engine::gather::Server;
use whyrelay_core::engine::nat_discovery::DiscoveryConfig;
use whyrelay_core::engine::server_url::ServerProtocol;
use whyrelay_core::random::Random;
use whyrelay_core::trace::event::Transport;

use super::asked::Row;
use super::config::{CheckConfig, Credentials};
use super::journal::Journal;
use super::local::{self, DefaultRoute};
use super::nat::{self, Named, Naming, Origin};
use super::port_map::TriedBy;
use super::servers::{Known, Servers};
use super::stop::Stop;
use super::{pinhole, port_map, reach, turn};
use crate::io::interfaces::{self, Interface};
use crate::io::tls::ClientTls;
use crate::io::udp::UdpOptions;

/// Where HTTP/3 and disguised VPNs go: networks that block other UDP often let it through.
const HTTPS_PORT: u16 = 443;

/// Where STUN and TURN are over UDP and TCP, and over TLS, unless a URL says otherwise (RFC 8489 §8.1).
const STUN_PORT: u16 = 3478;
const TLS_PORT: u16 = 5349;

/// For a connection that need not come about: a lost SYN is sent again after 1 s.
const TRY_LIMIT: Duration = Duration::from_millis(1500);

/// TURN servers that a mapped port is tried by, one after the other.
const MAX_TRIED_BY: usize = 2;

/// One thing that is looked at.
pub(super) type Part = Pin<Box<dyn Future<Output = ()>>>;

/// A part that is to tell these, with a journal of its own.
pub(super) fn part<F: Future<Output = ()> + 'static>(
    journal: &Journal,
    rows: Vec<Row>,
    look: impl FnOnce(Journal) -> F,
) -> Part {
    let journal = journal.asking(rows);
    let looking = look(journal.clone());
    Box::pin(async move {
        looking.await;
        journal.is_over();
    })
}

/// What all parts have in common, and what there is of them so far.
pub(super) struct Look<'a> {
    pub(super) config: &'a CheckConfig,
    pub(super) journal: &'a Journal,
    pub(super) found: &'a [Interface],
    /// Whether a whyrelay server announced the servers, which names all that it has.
    pub(super) is_all_announced: bool,
    pub(super) tls: &'a ClientTls,
    pub(super) options: UdpOptions,
    pub(super) until: Instant,
    pub(super) stop: &'a Stop,
    pub(super) so_far: SoFar,
}

/// What was begun already.
#[derive(Debug, Default)]
pub(super) struct SoFar {
    /// The servers that are known.
    pub(super) known: Vec<Known>,
    /// The way to them: over what, where to, and whether only as a try.
    reached: Vec<(Transport, SocketAddr, bool)>,
    /// Where port 443 is asked.
    https: Vec<SocketAddr>,
    /// The first servers of each family.
    pub(super) probed: Vec<SocketAddr>,
    /// What is looked at of NATs: the family, and where servers are named that become known later.
    nats: Vec<(bool, mpsc::UnboundedSender<Named>)>,
    /// Whether there is a TURN server over UDP.
    relays_over_udp: bool,
    /// Families for which the lifetime of mappings is looked at.
    lifetimes: Vec<bool>,
}

impl Look<'_> {
    /// The first server of each family over UDP, with our end, where there was none before: whom to send what any server
    /// will do for.
    pub(super) fn probe_servers(&mut self) -> Vec<(Origin, SocketAddr)> {
        let mut asked = Vec::new();
        for ipv4 in [true, false] {
            if self.so_far.probed.iter().any(|probed| probed.is_ipv4() == ipv4) {
                continue;
            }
            let mut remotes = self.so_far.known.iter().filter(|server| server.is_udp()).flat_map(Known::remotes);
            let Some(remote) = remotes.find(|remote| remote.is_ipv4() == ipv4) else { continue };
            if let Some(origin) = self.origin_toward(remote) {
                asked.push((origin, remote));
            }
        }
        self.so_far.probed.extend(asked.iter().map(|(_, remote)| *remote));
        asked
    }

    /// Servers of a family over UDP, among those that have become known, with our end: each may be whyrelay's.
    pub(super) fn may_be_ours(&self, ipv4: bool, servers: &[Known]) -> Vec<(Origin, SocketAddr)> {
        let mut found: Vec<(Origin, SocketAddr)> = Vec::new();
        for remote in servers.iter().filter(|server| server.is_udp()).flat_map(Known::remotes) {
            if remote.is_ipv4() == ipv4
                && !found.iter().any(|(_, known)| *known == remote)
                && let Some(origin) = self.origin_toward(remote)
            {
                found.push((origin, remote));
            }
        }
        found
    }

    /// What the NAT in front of each local address does, by servers that have become known: they are named to what looks at
    /// it already.
    pub(super) fn nat(&mut self, random: &mut Random, servers: &Servers) -> Vec<Part> {
        let (journal, options, until, is_whole) = (self.journal, self.options, self.until, self.config.is_whole());
        let mut parts: Vec<Part> = Vec::new();
        for ipv4 in [true, false] {
            let of_family = |remote: &SocketAddr| remote.is_ipv4() == ipv4;
            let proving: Vec<SocketAddr> = servers.discovery.iter().copied().filter(of_family).take(1).collect();
            let remotes: Vec<SocketAddr> = servers
                .list
                .iter()
                .filter(|server| server.is_udp())
                .flat_map(Known::remotes)
                .filter(of_family)
                .collect();
            let Some(&first) = remotes.first().or(proving.first()) else { continue };
            if self.name_to_nats(ipv4, &proving, &remotes) {
                continue;
            }
            let (origins, left_out) = self.origins(first);
            left_out.into_iter().for_each(|(what, why)| journal.missing(what, why));
            if origins.is_empty() {
                let family = if ipv4 { "IPv4" } else { "IPv6" };
                journal.missing(format!("the NAT's behavior for {family}"), "this host has no address to look from");
            }
            for origin in origins {
                let (sender, named) = mpsc::unbounded_channel();
                self.so_far.nats.push((ipv4, sender));
                let (hairpin, servers) = (self.config.hairpin, [proving.clone(), remotes.clone()].concat());
                let (proving, patient) = (proving.clone(), journal.is_patient());
                let config = DiscoveryConfig { servers, proving, hairpin, ports: true, naming: true, patient };
                let (random, rows) = (random.fork(), Row::of_nat(origin.address.ip(), hairpin));
                parts.push(part(journal, rows, |journal| {
                    let naming = Naming { servers: named, is_brief: !is_whole };
                    nat::discover(journal, random, origin, (config, Some(naming)), options, until)
                }));
            }
        }
        parts
    }

    /// Names further servers to what looks at the NATs of a family. False: nothing does.
    fn name_to_nats(&self, ipv4: bool, proving: &[SocketAddr], remotes: &[SocketAddr]) -> bool {
        let mut is_looked_at = false;
        for (_, sender) in self.so_far.nats.iter().filter(|(of, _)| *of == ipv4) {
            is_looked_at = true;
            let proving = proving.iter().map(|remote| Named { remote: *remote, proving: true });
            for named in proving.chain(remotes.iter().map(|remote| Named { remote: *remote, proving: false })) {
                // What has come to its end needs none.
                let _ = sender.send(named);
            }
        }
        is_looked_at
    }

    /// A whyrelay server told where it offers behavior discovery.
    pub(super) fn offers_discovery(&self, remote: SocketAddr) {
        self.name_to_nats(remote.is_ipv4(), &[remote], &[]);
    }

    /// No more servers will be named to what looks at NATs.
    pub(super) fn end_naming(&mut self) {
        self.so_far.nats.clear();
    }

    /// Whether a NAT is looked at, or was.
    pub(super) fn has_nats(&self) -> bool {
        !self.so_far.nats.is_empty()
    }

    /// Whether it is being found out how long mappings live.
    pub(super) fn finds_lifetimes(&self) -> bool {
        !self.so_far.lifetimes.is_empty()
    }

    /// No more servers will become known: says what nothing was found to ask for.
    pub(super) fn all_named(&self) {
        let (journal, known) = (self.journal, &self.so_far.known);
        if !known.is_empty() && !known.iter().any(Known::is_udp) {
            let why = "no server over UDP was named: give --stun stun:HOST or --turn turn:HOST";
            journal.missing("the NAT's behavior, and how many are in front", why);
        }
        if !self.config.is_whole() {
            return;
        }
        if !known.is_empty() && !is_on_https_port(known, Transport::Tls, |_| true) {
            let why = "no server on 443 was given: name one with --turn turns:HOST:443";
            journal.missing("TURN over TLS to port 443", why);
        }
        self.tell_unasked_transports();
    }

    /// No TURN server is there that would send from a fresh port where no whyrelay server does.
    pub(super) fn tell_without_relay(&self, is_ours: bool) {
        let known = &self.so_far.known;
        if self.config.lifetime.is_some() && !self.finds_lifetimes() {
            let why = "it takes a TURN server over UDP to send after the silence";
            self.journal.missing(turn::LIFETIME, why);
        }
        if !is_ours && !known.is_empty() && !known.iter().any(|server| server.url.protocol() == ServerProtocol::Turn) {
            let why = "it takes a TURN server to send from: give --turn or --signal";
            self.journal.missing("early arrival, egress to a third party, echo through a relay", why);
        }
    }

    /// Whether servers that have become known are reached, and over what.
    pub(super) fn reach(&mut self, random: &mut Random, servers: &Servers) -> Vec<Part> {
        let (journal, options, until) = (self.journal, self.options, self.until);
        let mut parts = self.https_port(random);
        // What URLs name goes first: where one names what is a try by another, it is none.
        for unannounced in [false, true] {
            for server in &servers.list {
                let ways = if unannounced { self.tries(server) } else { self.named(server) };
                for (transport, remote) in ways {
                    let is_asked = self
                        .so_far
                        .reached
                        .iter()
                        .any(|(over, to, is_try)| (*over, *to) == (transport, remote) && (unannounced || !is_try));
                    // A socket's origin is known for each: without one it was said already.
                    let Some(origin) = self.origin_toward(remote).filter(|_| !is_asked) else { continue };
                    self.so_far.reached.push((transport, remote, unannounced));
                    let (label, expected) = (server.url.to_string(), server.url.protocol() == ServerProtocol::Stun);
                    let target =
                        reach::Target { label, remote, origin, expected: expected && !unannounced, unannounced };
                    let until = if unannounced { (Instant::now() + TRY_LIMIT).min(until) } else { until };
                    let (random, mark, rows) = (random.fork(), options.mark, Row::of_reach(transport, remote));
                    let name = server.url.host().to_string();
                    let tls = (transport == Transport::Tls).then(|| (self.tls.clone(), name));
                    parts.push(if transport == Transport::Udp {
                        part(journal, rows, |journal| reach::over_udp(journal, random, target, options, until))
                    } else {
                        part(journal, rows, |journal| reach::over_stream(journal, random, target, tls, mark, until))
                    });
                }
            }
        }
        parts
    }

    /// What a server's URL names, at each of its addresses that there is a route to.
    fn named(&self, server: &Known) -> Vec<(Transport, SocketAddr)> {
        let mut ways = Vec::new();
        for remote in server.remotes() {
            match self.origin_toward(remote) {
                Some(_) => ways.push((server.url.transport(), remote)),
                None => self.journal.missing(format!("{}: reaching {remote}", server.url), self.no_way()),
            }
        }
        ways
    }

    /// What a server may offer beside what its URL names. TCP shows whether UDP alone is what does not get through; TLS is
    /// where RFC 8489 has it, and many TURN servers take it on their own port as well. UDP is never a try: what offers
    /// none is silent, as one is whose network lets none through.
    fn tries(&self, server: &Known) -> Vec<(Transport, SocketAddr)> {
        if server.url.transport() != Transport::Udp {
            return Vec::new();
        }
        let is_turn = server.url.protocol() == ServerProtocol::Turn;
        let mut ways = Vec::new();
        for remote in server.remotes() {
            ways.push((Transport::Tcp, remote));
            // What a whyrelay server announces is all that it has.
            if self.is_all_announced {
                continue;
            }
            if is_turn {
                ways.push((Transport::Tls, remote));
            }
            if remote.port() == STUN_PORT {
                ways.push((Transport::Tls, SocketAddr::new(remote.ip(), TLS_PORT)));
            }
        }
        ways
    }

    /// Servers that are not asked over UDP, or over TLS: it is neither their URLs' nor a try.
    fn tell_unasked_transports(&self) {
        let mut told: Vec<(Transport, IpAddr)> = Vec::new();
        for remote in self.so_far.known.iter().flat_map(Known::remotes) {
            for transport in [Transport::Udp, Transport::Tls] {
                let is_asked =
                    self.so_far.reached.iter().any(|(over, to, _)| *over == transport && to.ip() == remote.ip());
                if is_asked || told.contains(&(transport, remote.ip())) {
                    continue;
                }
                told.push((transport, remote.ip()));
                let what = format!("{} to {}", transport.name(), remote.ip());
                let why = match transport {
                    Transport::Udp => "no URL names it: give --stun stun:HOST or --turn turn:HOST",
                    _ if self.is_all_announced => "the server announces none: serve --tls-cert and --tls-key",
                    _ => "no URL names it: give --turn turns:HOST",
                };
                self.journal.missing(what, why);
            }
        }
    }

    /// Port 443, the class of ports beside STUN's own and random high ones: by the servers that listen there, and where
    /// none does over UDP, by what the first server's host says there.
    fn https_port(&mut self, random: &mut Random) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for remote in https_ports(&self.so_far.known) {
            let Some(origin) = self.origin_toward(remote) else { continue };
            if self.so_far.https.iter().any(|asked| asked.is_ipv4() == remote.is_ipv4()) {
                continue;
            }
            self.so_far.https.push(remote);
            let target = reach::Target { label: String::new(), remote, origin, expected: false, unannounced: true };
            let (random, rows) = (random.fork(), Row::of_reach(Transport::Udp, remote));
            parts.push(part(self.journal, rows, |journal| {
                reach::over_another_port(journal, random, target, self.options, self.until)
            }));
        }
        parts
    }

    /// Port mapping by the router of the preferred default route over IPv4. `tried_by`: tells who can try it.
    pub(super) fn port_map(
        &self,
        random: &mut Random,
        routes: &[DefaultRoute],
        tried_by: oneshot::Receiver<TriedBy>,
    ) -> Option<Part> {
        const WHAT: &str = "port mapping protocols of the router";
        let journal = self.journal;
        let chosen = |name: &str| interfaces::is_chosen(self.found, &self.config.interfaces, name);
        let gateway = routes.iter().filter(|route| chosen(&route.interface)).find_map(|route| match route.gateway {
            Some(IpAddr::V4(gateway)) => Some(gateway),
            _ => None,
        });
        let Some(gateway) = gateway else {
            let excluded = routes.iter().any(|route| !chosen(&route.interface));
            let why = "there is no default route over IPv4 with a router";
            journal.missing(WHAT, if excluded { self.no_way() } else { why });
            return None;
        };
        let Some(origin) = self.origin_toward(SocketAddr::from((gateway, 5351))) else {
            journal.missing(WHAT, self.no_way());
            return None;
        };
        let target = port_map::Target { origin, gateway, map: self.config.map, tls: self.tls.clone() };
        let (random, stop) = (random.fork(), self.stop.clone());
        Some(Box::pin(port_map::look(journal.clone(), random, target, tried_by, self.options, self.until, stop)))
    }

    /// Who can try a mapped port from outside, as far as is known: a whyrelay server, or else TURN servers.
    pub(super) fn tried_by(&self, outside: Option<(Origin, SocketAddr)>) -> TriedBy {
        let relays = self.turn_targets(&self.so_far.known).filter(|target| target.server.username.is_some());
        let relays = relays.filter(|target| target.origin.address.is_ipv4()).take(MAX_TRIED_BY).collect();
        TriedBy { outside, relays }
    }

    /// Whether the router of the default route over IPv6 speaks PCP.
    pub(super) fn pinhole(&self, routes: &[DefaultRoute]) -> Option<Part> {
        let route = routes.iter().find(|route| matches!(route.gateway, Some(IpAddr::V6(_))))?;
        let Some(IpAddr::V6(gateway)) = route.gateway else { return None };
        let interface = self.found.iter().find(|interface| interface.name == route.interface)?;
        let address = local::reaching_ipv6([interface])?;
        if !interfaces::is_chosen(self.found, &self.config.interfaces, &interface.name) {
            return None;
        }
        let origin = Origin { address: SocketAddr::new(address, 0), interface: Some(interface.name.clone()) };
        let router = pinhole::router(gateway, interface.index);
        let (options, until) = (self.options, self.until);
        Some(part(self.journal, Row::of_pinhole(), |journal| pinhole::look(journal, origin, router, options, until)))
    }

    /// The TURN servers that there is a way to, each of their addresses apart.
    fn turn_targets<'s>(&'s self, servers: &'s [Known]) -> impl Iterator<Item = turn::Target> + 's {
        let turn = servers.iter().filter(|server| server.url.protocol() == ServerProtocol::Turn);
        turn.flat_map(|server| server.remotes().map(move |remote| (server, remote))).filter_map(|(server, remote)| {
            let origin = self.origin_toward(remote)?;
            let url = server.url.clone();
            let family = if remote.is_ipv4() { "IPv4" } else { "IPv6" };
            let label = if server.addresses.len() > 1 { format!("{url} over {family}") } else { url.to_string() };
            let server = Server {
                url,
                addresses: vec![remote.ip()],
                username: server.credentials.as_ref().map(|credentials| credentials.username.clone()),
                password: server.credentials.as_ref().map(Credentials::password),
            };
            Some(turn::Target { server, label, origin, experiments: false })
        })
    }

    /// Allocation and relaying by each TURN server that has become known. `is_ours`: a whyrelay server measures the rest by
    /// its own probes.
    pub(super) fn turn(&mut self, random: &mut Random, servers: &[Known], is_ours: bool) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let (journal, until) = (self.journal, self.until);
        for mut target in self.turn_targets(servers).collect::<Vec<_>>() {
            if target.server.url.transport() == Transport::Udp {
                target.experiments = !self.so_far.relays_over_udp && !is_ours;
                self.so_far.relays_over_udp = true;
                parts.extend(self.lifetimes(random, &target));
            }
            let (random, stop, with) = (random.fork(), self.stop.clone(), (self.tls.clone(), self.options));
            let rows = Row::of_relay(&target.label, target.experiments);
            parts.push(part(journal, rows, |journal| turn::try_server(journal, random, target, with, until, stop)));
        }
        parts
    }

    /// With consent: how long mappings live in front of each local address, by the first TURN server over UDP of its family.
    fn lifetimes(&mut self, random: &mut Random, target: &turn::Target) -> Vec<Part> {
        let Some(limit) = self.config.lifetime else { return Vec::new() };
        let ipv4 = target.origin.address.is_ipv4();
        if self.so_far.lifetimes.contains(&ipv4) {
            return Vec::new();
        }
        self.so_far.lifetimes.push(ipv4);
        let remotes = target.server.addresses.iter().map(|ip| SocketAddr::new(*ip, target.server.url.port()));
        let origins = remotes.flat_map(|remote| self.origins(remote).0);
        let parts = origins.map(|origin| -> Part {
            let target = turn::Target { origin, ..target.clone() };
            let (random, stop, with) = (random.fork(), self.stop.clone(), (self.tls.clone(), self.options));
            Box::pin(turn::find_lifetime(self.journal.clone(), random, target, with, limit, stop))
        });
        parts.collect()
    }
}

/// Whether a server stands on [`HTTPS_PORT`] over a transport, at an address of a kind.
fn is_on_https_port(known: &[Known], transport: Transport, wanted: fn(&SocketAddr) -> bool) -> bool {
    let mut on = known.iter().filter(|server| server.url.port() == HTTPS_PORT);
    on.any(|server| server.url.transport() == transport && server.remotes().any(|remote| wanted(&remote)))
}

/// Where [`HTTPS_PORT`] is asked over UDP, because no server that stands there tells whether it gets through.
fn https_ports(known: &[Known]) -> Vec<SocketAddr> {
    let of_family = |family: fn(&SocketAddr) -> bool| {
        let host = known.iter().flat_map(Known::remotes).find(family)?;
        // A server there over the other family tells nothing of this one.
        let is_told = is_on_https_port(known, Transport::Udp, family);
        (!is_told).then(|| SocketAddr::new(host.ip(), HTTPS_PORT))
    };
    [of_family(SocketAddr::is_ipv4), of_family(SocketAddr::is_ipv6)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(url: &str, addresses: &[&str]) -> Known {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        Known { url: url.parse().unwrap(), place: 0, addresses, credentials: None }
    }

    #[test]
    fn port_443_is_asked_over_the_families_for_which_no_server_stands_there() {
        let asked = |known: &[Known]| https_ports(known).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let both = known("stun:stun.example:3478", &["192.0.2.1", "2001:db8::1"]);
        assert_eq!(asked(&[]), "");
        assert_eq!(asked(std::slice::from_ref(&both)), "192.0.2.1:443 [2001:db8::1]:443");
        // A server over one family, or over TCP, tells nothing of UDP over the other.
        let one = known("stun:192.0.2.9:443", &["192.0.2.9"]);
        assert_eq!(asked(&[both.clone(), one]), "[2001:db8::1]:443");
        let tls = known("turns:turn.example:443", &["192.0.2.1", "2001:db8::1"]);
        assert_eq!(asked(&[both.clone(), tls]), "192.0.2.1:443 [2001:db8::1]:443");
        let all = known("turn:turn.example:443", &["192.0.2.1", "2001:db8::1"]);
        assert_eq!(asked(&[both, all]), "");
    }
}
