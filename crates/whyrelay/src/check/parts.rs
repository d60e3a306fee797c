//! The parts of a check that ask somebody, as what is known by then makes them.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Instant;

use whyrelay_core::engine::gather::Server;
use whyrelay_core::engine::nat_discovery::DiscoveryConfig;
use whyrelay_core::engine::server_url::ServerProtocol;
use whyrelay_core::host::leads_to_guests;
use whyrelay_core::random::Random;
use whyrelay_core::trace::event::Transport;

use super::config::{CheckConfig, Credentials};
use super::journal::Journal;
use super::local::{self, DefaultRoute};
use super::nat::{self, Origin};
use super::servers::Known;
use super::stop::Stop;
use super::{pinhole, port_map, reach, turn};
use crate::io::interfaces::{self, Interface};
use crate::io::tls::ClientTls;
use crate::io::udp::UdpOptions;

/// Where HTTP/3 and disguised VPNs go: networks that block other UDP often let it through.
const HTTPS_PORT: u16 = 443;

/// Local addresses that are looked from, of each family.
const MAX_ORIGINS: usize = 4;

/// TURN servers that a mapped port is tried by, one after the other.
const MAX_TRIED_BY: usize = 2;

/// One thing that is looked at.
pub(super) type Part = Pin<Box<dyn Future<Output = ()>>>;

/// What all parts have in common.
pub(super) struct Look<'a> {
    pub(super) config: &'a CheckConfig,
    pub(super) journal: &'a Journal,
    pub(super) found: &'a [Interface],
    pub(super) known: &'a [Known],
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
        local::origin_toward(remote, self.found, self.options.mark)
    }

    /// The local addresses to look from toward a server: the system's own choice, then the other usable ones.
    fn origins(&self, remote: SocketAddr) -> Vec<Origin> {
        let (config, journal) = (self.config, self.journal);
        let mut origins: Vec<Origin> = Vec::new();
        let preferred = self.origin_toward(remote);
        let chosen = interfaces::usable(self.found, &config.interfaces);
        let restricted = !config.interfaces.include.is_empty() || !config.interfaces.addresses.is_empty();
        if let Some(preferred) = preferred {
            let wanted = chosen.iter().any(|(address, _)| address.ip() == preferred.address.ip());
            if wanted || !restricted && remote.ip().is_loopback() {
                origins.push(preferred);
            }
        }
        for (address, interface) in chosen {
            let known = origins.iter().any(|origin| origin.address.ip() == address.ip());
            if known || address.is_ipv4() != remote.is_ipv4() || address.ip().is_loopback() && !restricted {
                continue;
            }
            let link_local = matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local());
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
                parts.push(Box::pin(nat::discover(journal.clone(), random.fork(), origin, config, options, until)));
            }
        }
        parts
    }

    /// Which servers are reached, and over what.
    pub(super) fn reach(&self, random: &mut Random) -> Vec<Part> {
        let (journal, options, until) = (self.journal, self.options, self.until);
        let mut parts = self.https_port(random);
        let mut asked: Vec<(Transport, SocketAddr)> = Vec::new();
        for server in self.known {
            for remote in server.remotes() {
                let Some(origin) = self.origin_toward(remote) else {
                    journal.missing(format!("{}: reaching {remote}", server.url), "there is no route to it");
                    continue;
                };
                let own = server.url.transport();
                // Beside the URL's own transport: whether UDP alone is what does not get through.
                let others = if own == Transport::Tls { vec![own] } else { vec![Transport::Udp, Transport::Tcp] };
                for transport in others {
                    if asked.contains(&(transport, remote)) {
                        continue;
                    }
                    asked.push((transport, remote));
                    let label = server.url.to_string();
                    let expected = transport == own && server.url.protocol() == ServerProtocol::Stun;
                    let target = reach::Target { label, remote, origin: origin.clone(), expected };
                    let (journal, random, mark) = (journal.clone(), random.fork(), options.mark);
                    parts.push(match transport {
                        Transport::Udp => Box::pin(reach::over_udp(journal, random, target, options, until)),
                        Transport::Tcp => Box::pin(reach::over_stream(journal, random, target, None, mark, until)),
                        Transport::Tls => {
                            let tls = Some((self.tls.clone(), server.url.host().to_string()));
                            Box::pin(reach::over_stream(journal, random, target, tls, mark, until))
                        }
                    });
                }
            }
        }
        parts
    }

    /// Port 443, the class of ports beside STUN's own and random high ones: by the servers that listen there, and where
    /// none does over UDP, by what the first server's host says there.
    fn https_port(&self, random: &mut Random) -> Vec<Part> {
        let there = |transport, wanted: fn(&SocketAddr) -> bool| {
            let mut on = self.known.iter().filter(|server| server.url.port() == HTTPS_PORT);
            on.any(|server| server.url.transport() == transport && server.remotes().any(|remote| wanted(&remote)))
        };
        if !self.known.is_empty() && !there(Transport::Tls, |_| true) {
            let why = "no server on 443 was given: name one with --turn turns:HOST:443";
            self.journal.missing("TURN over TLS to port 443", why);
        }
        let mut parts: Vec<Part> = Vec::new();
        for family in [SocketAddr::is_ipv4, SocketAddr::is_ipv6] {
            let mut hosts = self.known.iter().flat_map(Known::remotes).filter(family);
            // A server there over the other family tells nothing of this one.
            let Some(host) = hosts.next().filter(|_| !there(Transport::Udp, family)) else { continue };
            let remote = SocketAddr::new(host.ip(), HTTPS_PORT);
            let Some(origin) = self.origin_toward(remote) else { continue };
            let target = reach::Target { label: String::new(), remote, origin, expected: false };
            let (journal, random) = (self.journal.clone(), random.fork());
            parts.push(Box::pin(reach::over_another_port(journal, random, target, self.options, self.until)));
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
        let gateway = routes.iter().find_map(|route| match route.gateway {
            Some(IpAddr::V4(gateway)) => Some(gateway),
            _ => None,
        });
        let Some(gateway) = gateway else {
            journal.missing(WHAT, "there is no default route over IPv4 with a router");
            return None;
        };
        let Some(origin) = self.origin_toward(SocketAddr::from((gateway, 5351))) else {
            journal.missing(WHAT, "there is no route to the router");
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
        let origin = Origin { address: SocketAddr::new(address, 0), interface: Some(interface.name.clone()) };
        let router = pinhole::router(gateway, interface.index);
        Some(Box::pin(pinhole::look(self.journal.clone(), origin, router, self.options, self.until)))
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
            let (journal, random, stop) = (self.journal.clone(), random.fork(), self.stop.clone());
            let with = (self.tls.clone(), self.options);
            parts.push(Box::pin(turn::try_server(journal, random, target, with, self.until, stop)));
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
