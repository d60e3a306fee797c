//! The course of a check: servers become known, those that are whyrelay's say so, and each time parts begin.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use whyrelay_core::random::Random;
use whyrelay_core::wire::stun::Class;

use super::asked::{Row, STOPPED};
use super::local::DefaultRoute;
use super::nat::Origin;
use super::parts::{Look, Part, part};
use super::probes::Described;
use super::servers::{self, Known, Naming, Servers};
use super::turn::LIFETIME;
use super::{SERVERS, compare, hops, probes};

/// Asking a named server what it offers takes this part of the check's time at most: two round trips of 300 ms each.
const DESCRIBE_PART: u32 = 5;

/// A server that was asked what it offers, and its answer.
type Asked = ((Origin, SocketAddr), Option<Described>);

/// See the module.
pub(super) struct Course<'a> {
    pub(super) ways: Look<'a>,
    random: Random,
    /// What is dropped when the check is stopped, as it leaves nothing behind.
    parts: FuturesUnordered<Part>,
    /// What takes back itself what it changed.
    careful: FuturesUnordered<Part>,
    describing: FuturesUnordered<Pin<Box<dyn Future<Output = Asked>>>>,
    /// Who is asked that.
    undescribed: Vec<(Origin, SocketAddr)>,
    /// Servers whose relays are tried when it is known whether a whyrelay server is among all.
    for_relays: Vec<Known>,
    /// A whyrelay server over IPv4, which can try a mapped port.
    outside: Option<(Origin, SocketAddr)>,
    is_ours: bool,
    is_mapping_begun: bool,
    is_settled: bool,
}

impl<'a> Course<'a> {
    pub(super) fn new(ways: Look<'a>, random: Random) -> Self {
        Self {
            ways,
            random,
            parts: FuturesUnordered::new(),
            careful: FuturesUnordered::new(),
            describing: FuturesUnordered::new(),
            undescribed: Vec::new(),
            for_relays: Vec::new(),
            outside: None,
            is_ours: false,
            is_mapping_begun: false,
            is_settled: false,
        }
    }

    /// Begins what needs no server.
    pub(super) fn begin(&mut self, routes: &[DefaultRoute]) {
        let (config, journal, until) = (self.ways.config, self.ways.journal, self.ways.until);
        if config.signal.is_some() && !config.urls.is_empty() {
            let (config, tls) = (config.clone(), self.ways.tls.clone());
            let looking = |journal| servers::look_at_signaling(config, journal, tls, until);
            self.parts.push(part(journal, Vec::new(), looking));
        }
        self.parts.extend(self.ways.pinhole(routes));
    }

    /// Everything, until it is done or the check is stopped.
    pub(super) async fn run(&mut self, mut naming: Naming, routes: &[DefaultRoute]) {
        let (mut stop, mut is_naming) = (self.ways.stop.clone(), true);
        loop {
            if self.describing.is_empty() && (!is_naming || !self.ways.so_far.known.is_empty()) {
                self.all_described(routes);
            }
            if !is_naming && self.describing.is_empty() {
                self.settled();
                if self.parts.is_empty() && self.careful.is_empty() {
                    return;
                }
            }
            tokio::select! {
                biased;
                () = stop.asked() => break,
                servers = naming.next(), if is_naming => match servers {
                    Some(servers) => self.known(servers),
                    None => {
                        is_naming = false;
                        self.all_named();
                    }
                },
                Some((asked, described)) = self.describing.next() => self.described(asked, described),
                Some(()) = self.parts.next() => {}
                Some(()) = self.careful.next() => {}
            }
        }
        // What was about to be asked is said to be unmeasured.
        naming.stopped();
        let (config, journal) = (self.ways.config, self.ways.journal);
        self.describing.clear();
        for asked in std::mem::take(&mut self.undescribed) {
            self.described(asked, Some(Described { discovery: None }));
        }
        self.all_described(routes);
        if self.ways.so_far.known.is_empty() {
            journal.missing(SERVERS, STOPPED);
            if config.hairpin {
                journal.missing("hairpinning", STOPPED);
            }
        }
        if is_naming && config.lifetime.is_some() && !self.ways.finds_lifetimes() {
            journal.missing(LIFETIME, STOPPED);
        }
        self.parts.clear();
        while self.careful.next().await.is_some() {}
    }

    /// Servers have become known.
    fn known(&mut self, servers: Servers) {
        self.ways.so_far.known.extend(servers.list.iter().cloned());
        let asked = self.ways.probe_servers();
        let (journal, options, until) = (self.ways.journal, self.ways.options, self.ways.until);
        for (origin, server) in &asked {
            let (random, asked) = (self.random.fork(), (origin.clone(), *server));
            // First: a router that refuses the rest says so a few times a second, and nothing more then.
            let looking = |journal| hops::look(journal, random, asked, Class::Request, options, until);
            self.parts.push(part(journal, Row::of_hops(*server), looking));
        }
        self.parts.extend(self.ways.nat(&mut self.random, &servers));
        self.parts.extend(self.ways.reach(&mut self.random, &servers));
        if let Some(application) = self.ways.config.application.clone().filter(|_| !asked.is_empty()) {
            let (random, asked) = (self.random.fork(), asked.clone());
            let rows = Row::of_program(application.name());
            self.parts.push(part(journal, rows, |journal| compare::look(journal, random, application, asked, until)));
        }
        self.for_relays.extend(servers.list);
        for asked in asked {
            // A server that was named instead of announced says itself where it offers behavior discovery; an announced
            // one is not waited for.
            if self.ways.is_all_announced {
                self.described(asked, Some(Described { discovery: None }));
                continue;
            }
            self.undescribed.push(asked.clone());
            let (journal, random) = (journal.clone(), self.random.fork());
            let limit = (Instant::now() + self.ways.config.time / DESCRIBE_PART).min(until);
            self.describing.push(Box::pin(async move {
                let described = probes::describe(&journal, random, asked.clone(), options, limit).await;
                (asked, described)
            }));
        }
    }

    /// A server said what it offers, or nothing.
    fn described(&mut self, asked: (Origin, SocketAddr), described: Option<Described>) {
        let (journal, options, until) = (self.ways.journal, self.ways.options, self.ways.until);
        self.undescribed.retain(|(_, server)| *server != asked.1);
        let Some(Described { discovery }) = described else {
            let why = if Instant::now() >= until {
                journal.no_time()
            } else {
                let waited = self.ways.config.time / DESCRIBE_PART;
                let how = "it is no whyrelay server, or silent, or slow (--time)";
                format!("{} did not say within {} s what it offers: {how}", asked.1, waited.as_secs_f64())
            };
            return journal.missing("largest packets, WireGuard's shape, the server's clock", why);
        };
        self.is_ours = true;
        if let Some(discovery) = discovery {
            self.ways.offers_discovery(discovery);
        }
        if asked.1.is_ipv4() {
            self.outside.get_or_insert_with(|| asked.clone());
        }
        let (random, is_asked) = (self.random.fork(), !self.ways.is_all_announced);
        let rows = Row::of_probes(asked.1);
        self.parts.push(part(journal, rows, |journal| probes::look(journal, random, asked, options, until, is_asked)));
    }

    /// Nobody is asked what it offers any more, for now: begins what depends on that.
    fn all_described(&mut self, routes: &[DefaultRoute]) {
        let servers = std::mem::take(&mut self.for_relays);
        self.careful.extend(self.ways.turn(&mut self.random, &servers, self.is_ours));
        if !std::mem::replace(&mut self.is_mapping_begun, true) {
            self.careful.extend(self.ways.port_map(&mut self.random, routes, self.outside.clone()));
        }
    }

    /// Nothing more will become known of servers.
    fn settled(&mut self) {
        if !std::mem::replace(&mut self.is_settled, true) {
            self.ways.end_naming();
            self.ways.tell_without_relay(self.is_ours);
        }
    }

    /// No more servers will become known.
    fn all_named(&mut self) {
        let (config, journal) = (self.ways.config, self.ways.journal);
        if self.ways.so_far.known.is_empty() {
            let why = if !config.urls.is_empty() {
                "no name of a server was resolved"
            } else if config.signal.is_some() {
                "the signaling server was not reached, or announces no server: give --stun or --turn, too"
            } else {
                "no server was named: give --signal, --stun or --turn"
            };
            journal.missing(SERVERS, why);
        }
        if let Some(application) = &config.application {
            let why = if self.ways.so_far.probed.is_empty() {
                "no server was asked over UDP: give --signal or --stun"
            } else {
                "rules can look at the address: `whyrelay offer --as` asks a peer"
            };
            journal.missing(format!("how packets to a peer fare as {}", application.name()), why);
        }
        self.ways.all_named();
    }
}
