//! The parts of a check that ask somebody, as what is known by then makes them.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use whyrelay_core::engine::gather::Server;
use whyrelay_core::engine::nat_discovery::DiscoveryConfig;
use whyrelay_core::engine::server_url::ServerProtocol;
use whyrelay_core::host::leads_to_guests;
use whyrelay_core::random::Random;
use whyrelay_core::trace::event::Transport;

use super::asked::Row;
use super::config::{CheckConfig, Credentials};
use super::journal::Journal;
use super::local::{self, DefaultRoute};
use super::nat::{self, Origin};
use super::servers::Known;
use super::stop::Stop;
use super::{pinhole, port_map, reach, turn};
use crate::io::interfaces::{self, Interface, InterfaceFilter};
use crate::io::tls::ClientTls;
use crate::io::udp::UdpOptions;

/// Where HTTP/3 and disguised VPNs go: networks that block other UDP often let it through.
const HTTPS_PORT: u16 = 443;

/// Where STUN and TURN are over UDP and TCP, and over TLS, unless a URL says otherwise (RFC 8489 §8.1).
const STUN_PORT: u16 = 3478;
const TLS_PORT: u16 = 5349;

/// For a connection that need not come about: a lost SYN is sent again after 1 s.
const TRY_LIMIT: Duration = Duration::from_millis(1500);

/// Local addresses that are looked from, of each family.
const MAX_ORIGINS: usize = 4;

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

/// What all parts have in common.
pub(super) struct Look<'a> {
    pub(super) config: &'a CheckConfig,
    pub(super) journal: &'a Journal,
    pub(super) found: &'a [Interface],
    pub(super) known: &'a [Known],
    /// Whether a whyrelay server announced them, which names all that it has.
    pub(super) is_all_announced: bool,
    pub(super) tls: &'a ClientTls,
    pub(super) options: UdpOptions,
    pub(super) until: Instant,
    pub(super) stop: &'a Stop,
}

impl Look<'_> {
    /// The first server of each family over UDP, with our end: whom to ask for whyrelay's own probes.
    pub(super) fn probe_servers(&self) -> Vec<(Origin, SocketAddr)> {
        let first = |ipv4: bool| {
            let mut remotes = self.known.iter().filter(|server| server.is_udp()).flat_map(Known::remotes);
            let remote = remotes.find(|remote| remote.is_ipv4() == ipv4)?;
            Some((self.origin_toward(remote)?, remote))
        };
        [first(true), first(false)].into_iter().flatten().collect()
    }

    fn origin_toward(&self, remote: SocketAddr) -> Option<Origin> {
        let preferred = local::origin_toward(remote, self.found, self.options.mark)?;
        permitted(remote, preferred, self.found, &self.config.interfaces)
    }

    /// The local addresses to look from toward a server: the system's own choice, then the other usable ones.
    fn origins(&self, remote: SocketAddr) -> Vec<Origin> {
        let (config, journal) = (self.config, self.journal);
        let mut origins: Vec<Origin> = Vec::new();
        let preferred = self.origin_toward(remote);
        let chosen = interfaces::usable(self.found, &config.interfaces);
        let restricted = config.interfaces.is_only();
        if let Some(preferred) = preferred {
            let wanted = chosen.iter().any(|(address, _)| address.ip() == preferred.address.ip());
            if wanted || !restricted && remote.ip().is_loopback() {
                origins.push(preferred);
            }
        }
        for (address, interface) in chosen {
            let known = origins.iter().any(|origin| origin.address.ip() == address.ip());
            let link_local = interfaces::is_link_local(&address);
            let is_apart = address.ip().is_loopback() && !(restricted && remote.ip().is_loopback());
            if known || is_apart || address.is_ipv4() != remote.is_ipv4() {
                continue;
            }
            let name = interface.clone().unwrap_or_default();
            let what = format!("the NAT's behavior for {} ({name})", address.ip());
            if leads_to_guests(&name) && !restricted {
                journal.missing(
                    what,
                    "the interface serves this host's own guests: name it with --interface to look from it",
                );
            } else if !link_local && origins.len() < MAX_ORIGINS {
                origins.push(Origin { address, interface });
            } else if !link_local {
                journal
                    .missing(what, format!("only {MAX_ORIGINS} addresses are looked from: name it with --interface"));
            }
        }
        origins
    }

    /// What the NAT in front of each local address does.
    pub(super) fn nat(&self, random: &mut Random, discovery: &[SocketAddr]) -> Vec<Part> {
        let (journal, options, until) = (self.journal, self.options, self.until);
        let mut parts: Vec<Part> = Vec::new();
        if !self.known.is_empty() && !self.known.iter().any(Known::is_udp) {
            let why = "no server over UDP was named: give --stun stun:HOST or --turn turn:HOST";
            journal.missing("the NAT's behavior, and how many are in front", why);
        }
        for ipv4 in [true, false] {
            let mut servers: Vec<SocketAddr> = Vec::new();
            for server in self.known.iter().filter(|server| server.is_udp()) {
                let remotes = server.remotes().filter(|remote| remote.is_ipv4() == ipv4);
                servers.extend(remotes.filter(|remote| !servers.contains(remote)).collect::<Vec<_>>());
            }
            let Some(&first) = servers.first() else { continue };
            let origins = self.origins(first);
            if origins.is_empty() {
                let family = if ipv4 { "IPv4" } else { "IPv6" };
                journal.missing(format!("the NAT's behavior for {family}"), "this host has no address to look from");
            }
            for origin in origins {
                let proving: Vec<SocketAddr> =
                    discovery.iter().copied().filter(|remote| remote.is_ipv4() == ipv4).take(1).collect();
                let servers = [proving.clone(), servers.clone()].concat();
                let config = DiscoveryConfig { servers, proving, hairpin: self.config.hairpin, ports: true };
                let (random, rows) = (random.fork(), Row::of_nat(origin.address.ip(), config.hairpin));
                parts.push(part(journal, rows, |journal| {
                    nat::discover(journal, random, origin, config, options, until)
                }));
            }
        }
        parts
    }

    /// Which servers are reached, and over what.
    pub(super) fn reach(&self, random: &mut Random) -> Vec<Part> {
        let (journal, options, until) = (self.journal, self.options, self.until);
        let mut parts = self.https_port(random);
        let mut asked: Vec<(Transport, SocketAddr)> = Vec::new();
        // What URLs name goes first: where one names what is a try by another, it is none.
        for unannounced in [false, true] {
            for server in self.known {
                let ways = if unannounced { self.tries(server) } else { self.named(server) };
                for (transport, remote) in ways {
                    // A socket's origin is known for each: without one it was said already.
                    let Some(origin) = self.origin_toward(remote).filter(|_| !asked.contains(&(transport, remote)))
                    else {
                        continue;
                    };
                    asked.push((transport, remote));
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
        self.tell_unasked_transports(&asked);
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

    /// Why there is no end of ours toward a destination.
    fn no_way(&self) -> &'static str {
        if self.config.interfaces.is_empty() {
            "there is no route to it"
        } else {
            "there is no route to it from the interfaces and addresses that were chosen"
        }
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
    fn tell_unasked_transports(&self, asked: &[(Transport, SocketAddr)]) {
        let mut told: Vec<(Transport, IpAddr)> = Vec::new();
        for remote in self.known.iter().flat_map(Known::remotes) {
            for transport in [Transport::Udp, Transport::Tls] {
                let is_asked = asked.iter().any(|(over, to)| *over == transport && to.ip() == remote.ip());
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
    fn https_port(&self, random: &mut Random) -> Vec<Part> {
        if !self.known.is_empty() && !is_on_https_port(self.known, Transport::Tls, |_| true) {
            let why = "no server on 443 was given: name one with --turn turns:HOST:443";
            self.journal.missing("TURN over TLS to port 443", why);
        }
        let mut parts: Vec<Part> = Vec::new();
        for remote in https_ports(self.known) {
            let Some(origin) = self.origin_toward(remote) else { continue };
            let target = reach::Target { label: String::new(), remote, origin, expected: false, unannounced: true };
            let (random, rows) = (random.fork(), Row::of_reach(Transport::Udp, remote));
            parts.push(part(self.journal, rows, |journal| {
                reach::over_another_port(journal, random, target, self.options, self.until)
            }));
        }
        parts
    }

    /// Port mapping by the router of the preferred default route over IPv4. `outside`: a whyrelay server that can try it.
    pub(super) fn port_map(
        &self,
        random: &mut Random,
        routes: &[DefaultRoute],
        outside: Option<(Origin, SocketAddr)>,
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
        let relays = self.turn_targets().filter(|target| target.server.username.is_some());
        let relays = relays.filter(|target| target.origin.address.is_ipv4()).take(MAX_TRIED_BY).collect();
        let map = self.config.map;
        let target = port_map::Target { origin, gateway, map, outside, relays, tls: self.tls.clone() };
        let (random, stop) = (random.fork(), self.stop.clone());
        Some(Box::pin(port_map::look(journal.clone(), random, target, self.options, self.until, stop)))
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

    /// The TURN servers that there is a way to.
    fn turn_targets(&self) -> impl Iterator<Item = turn::Target> + '_ {
        let turn = self.known.iter().filter(|server| server.url.protocol() == ServerProtocol::Turn);
        turn.filter_map(|server| {
            let origin = self.origin_toward(server.remotes().next()?)?;
            let server = Server {
                url: server.url.clone(),
                addresses: server.addresses.clone(),
                username: server.credentials.as_ref().map(|credentials| credentials.username.clone()),
                password: server.credentials.as_ref().map(Credentials::password),
            };
            Some(turn::Target { server, origin, experiments: false, lifetime: None })
        })
    }

    /// Allocation and relaying by each TURN server. `is_ours`: a whyrelay server measures the rest by its own probes.
    pub(super) fn turn(&self, random: &mut Random, is_ours: bool) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let mut first = true;
        for mut target in self.turn_targets() {
            let over_udp = target.server.url.transport() == Transport::Udp;
            target.experiments = over_udp && first && !is_ours;
            target.lifetime = self.config.lifetime.filter(|_| over_udp && first);
            first &= !over_udp;
            let (random, stop, until) = (random.fork(), self.stop.clone(), self.until);
            let (with, rows) =
                ((self.tls.clone(), self.options), Row::of_relay(&target.server.url, target.experiments));
            parts
                .push(part(self.journal, rows, |journal| turn::try_server(journal, random, target, with, until, stop)));
        }
        let any = self.known.iter().any(|server| server.url.protocol() == ServerProtocol::Turn);
        if !any && !self.known.is_empty() && !is_ours {
            let why = "it takes a TURN server to send from: give --turn or --signal";
            self.journal.missing("early arrival, egress to a third party, echo through a relay", why);
        }
        if self.config.lifetime.is_some() && first {
            let why = "it takes a TURN server over UDP to send after the silence";
            self.journal.missing("the lifetime of an idle mapping", why);
        }
        parts
    }
}

/// Our end toward a destination: the system's own choice where that is one of ours, else the first of those that were
/// chosen and may get there.
fn permitted(remote: SocketAddr, preferred: Origin, found: &[Interface], filter: &InterfaceFilter) -> Option<Origin> {
    let chosen = interfaces::usable(found, filter);
    let own = remote.ip().is_loopback() && !filter.is_only() && preferred.address.ip().is_loopback();
    if own || filter.is_empty() || chosen.iter().any(|(address, _)| address.ip() == preferred.address.ip()) {
        return Some(preferred);
    }
    let other = chosen.into_iter().find(|(address, _)| interfaces::could_reach(*address, remote));
    other.map(|(address, interface)| Origin { address, interface })
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
    use whyrelay_core::trace::event::InterfaceUse;

    fn known(url: &str, addresses: &[&str]) -> Known {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        Known { url: url.parse().unwrap(), addresses, credentials: None }
    }

    #[test]
    fn sockets_are_on_what_was_chosen_and_no_other() {
        let interface = |name: &str, address: &str, used| {
            let addresses = vec![format!("{address}:0").parse().unwrap()];
            Interface { name: name.to_owned(), index: 1, addresses, used }
        };
        let toward = |remote: &str, filter: &InterfaceFilter, eth0: InterfaceUse| {
            let found = [
                interface("eth0", "192.168.1.2", eth0),
                interface("eth1", "10.0.0.2", InterfaceUse::Used),
                interface("lo", "127.0.0.1", InterfaceUse::Loopback),
            ];
            let preferred = if remote.starts_with("127.") { "127.0.0.1:0" } else { "192.168.1.2:0" };
            let preferred = Origin { address: preferred.parse().unwrap(), interface: None };
            permitted(remote.parse().unwrap(), preferred, &found, filter).map(|origin| origin.address.ip().to_string())
        };
        let (server, here) = ("198.51.100.1:3478", "127.0.0.1:3478");
        let none = InterfaceFilter::default();
        assert_eq!(toward(server, &none, InterfaceUse::Used).as_deref(), Some("192.168.1.2"), "the system's choice");
        let without = InterfaceFilter { exclude: vec!["eth0".into()], ..InterfaceFilter::default() };
        assert_eq!(toward(server, &without, InterfaceUse::Excluded).as_deref(), Some("10.0.0.2"));
        assert_eq!(toward(here, &without, InterfaceUse::Excluded).as_deref(), Some("127.0.0.1"));
        let addresses = vec!["127.0.0.1".parse().unwrap()];
        let loopback = InterfaceFilter { addresses, ..InterfaceFilter::default() };
        assert_eq!(toward(server, &loopback, InterfaceUse::Used), None, "loopback leads nowhere else");
        assert_eq!(toward(here, &loopback, InterfaceUse::Used).as_deref(), Some("127.0.0.1"));
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
