//! The course of a check: servers become known, those that are whyrelay's say so, and each time parts begin.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use tokio::sync::oneshot;
use whyrelay_core::random::Random;
use whyrelay_core::wire::stun::Class;

use super::asked::{Row, STOPPED};
use super::local::DefaultRoute;
use super::nat::Origin;
use super::parts::{Look, Part, part};
use super::port_map::TriedBy;
use super::probes::Described;
use super::servers::{self, Known, Naming, Servers};
use super::turn::LIFETIME;
use super::{SERVERS, compare, hops, probes};

/// Asking a named server what it offers takes this part of the check's time at most: two round trips of 300 ms each.
const DESCRIBE_PART: u32 = 5;

/// A server, with our end.
type Ended = (Origin, SocketAddr);

/// Servers of one family that were asked what they offer, and of the first of them that is whyrelay's the answer.
type Asked = (Vec<Ended>, Option<(Ended, Described)>);

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
    undescribed: Vec<Ended>,
    /// Servers of one family none of which said it, and why not.
    silent: Vec<(bool, String)>,
    /// Families over IPv4, or not, with a whyrelay server.
    ours: Vec<bool>,
    /// Servers whose relays are tried when it is known whether a whyrelay server is among all.
    for_relays: Vec<Known>,
    /// A whyrelay server over IPv4, which can try a mapped port.
    outside: Option<Ended>,
    is_mapping_begun: bool,
    /// Where it is told who can try a mapped port.
    tried_by: Option<oneshot::Sender<TriedBy>>,
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
            silent: Vec::new(),
            ours: Vec::new(),
            for_relays: Vec::new(),
            outside: None,
            is_mapping_begun: false,
            tried_by: None,
            is_settled: false,
        }
    }

    /// Begins what needs no server.
    pub(super) fn begin(&mut self, routes: &[DefaultRoute]) {
        let (config, journal, until) = (self.ways.config, self.ways.journal, self.ways.until);
        if !config.is_whole() {
            return;
        }
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
            if !is_naming && !self.ways.config.is_whole() && self.ways.has_nats() && self.parts.is_empty() {
                // What is known of the NAT needs no word of what else a server would offer.
                return self.settled();
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
                Some((asked, described)) = self.describing.next() => self.described(&asked, described),
                Some(()) = self.parts.next() => {}
                Some(()) = self.careful.next() => {}
            }
        }
        // What was about to be asked is said to be unmeasured.
        naming.stopped();
        let (config, journal) = (self.ways.config, self.ways.journal);
        self.describing.clear();
        for asked in std::mem::take(&mut self.undescribed) {
            self.is_ours(asked, Some(Described::default()));
        }
        self.tell_silent();
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
        self.tried_by = None;
        while self.careful.next().await.is_some() {}
    }

    /// Servers have become known.
    fn known(&mut self, servers: Servers) {
        self.ways.so_far.known.extend(servers.list.iter().cloned());
        self.ways.so_far.known.sort_by_key(|server| server.place);
        let asked = self.ways.probe_servers();
        let (journal, options, until) = (self.ways.journal, self.ways.options, self.ways.until);
        let is_whole = self.ways.config.is_whole();
        for (origin, server) in asked.iter().filter(|_| is_whole) {
            let (random, asked) = (self.random.fork(), (origin.clone(), *server));
            // First: a router that refuses the rest says so a few times a second, and nothing more then.
            let looking = |journal| hops::look(journal, random, asked, Class::Request, options, until);
            self.parts.push(part(journal, Row::of_hops(*server), looking));
        }
        self.parts.extend(self.ways.nat(&mut self.random, &servers));
        if is_whole {
            self.parts.extend(self.ways.reach(&mut self.random, &servers));
        }
        if let Some(application) = self.ways.config.application.clone().filter(|_| !asked.is_empty()) {
            let (random, asked) = (self.random.fork(), asked.clone());
            let rows = Row::of_program(application.name());
            self.parts.push(part(journal, rows, |journal| compare::look(journal, random, application, asked, until)));
        }
        // A server that was named instead of announced says itself where it offers behavior discovery; an announced one is
        // not waited for.
        if self.ways.is_all_announced {
            for asked in asked {
                self.is_ours(asked, None);
            }
        } else {
            self.describe(true, &servers.list);
            self.describe(false, &servers.list);
        }
        self.for_relays.extend(servers.list);
    }

    /// Asks servers of a family that have become known what they offer, unless a whyrelay server is known there: all at
    /// once, and the first that was named counts.
    fn describe(&mut self, ipv4: bool, servers: &[Known]) {
        let asked = self.ways.may_be_ours(ipv4, servers);
        if asked.is_empty() || self.ours.contains(&ipv4) {
            return;
        }
        self.undescribed.extend(asked.iter().cloned());
        let limit = (Instant::now() + self.ways.config.time / DESCRIBE_PART).min(self.ways.until);
        let with: Vec<(Ended, Random)> = asked.iter().map(|asked| (asked.clone(), self.random.fork())).collect();
        let (journal, options) = (self.ways.journal.clone(), self.ways.options);
        self.describing.push(Box::pin(async move {
            let journal = &journal;
            let describe = |(asked, random): (Ended, Random)| async move {
                let described = probes::describe(journal, random, asked.clone(), options, limit).await;
                described.map(|described| (asked, described))
            };
            let mut answers: FuturesOrdered<_> = with.into_iter().map(describe).collect();
            while let Some(answer) = answers.next().await {
                if answer.is_some() {
                    return (asked, answer);
                }
            }
            (asked, None)
        }));
    }

    /// Of servers of a family one said what it offers, or none did.
    fn described(&mut self, asked: &[Ended], described: Option<(Ended, Described)>) {
        self.undescribed.retain(|(_, server)| !asked.iter().any(|(_, of)| of == server));
        if let Some((server, described)) = described {
            return self.is_ours(server, Some(described));
        }
        let Some((_, first)) = asked.first() else { return };
        let why = if Instant::now() >= self.ways.until {
            self.ways.journal.no_time()
        } else {
            let waited = self.ways.config.time / DESCRIBE_PART;
            let servers: Vec<String> = asked.iter().map(|(_, server)| server.to_string()).collect();
            let how = match servers.len() {
                1 => "it offers: it is no whyrelay server, or silent, or slow (--time)",
                _ => "they offer: they are no whyrelay servers, or silent, or slow (--time)",
            };
            format!("{} did not say within {} s what {how}", servers.join(", "), waited.as_secs_f64())
        };
        self.silent.push((first.is_ipv4(), why));
    }

    /// Says of families without a whyrelay server what only such a one measures.
    fn tell_silent(&mut self) {
        for (ipv4, why) in std::mem::take(&mut self.silent) {
            if !self.ours.contains(&ipv4) && self.ways.config.is_whole() {
                self.ways.journal.missing("largest packets, WireGuard's shape, the server's clock", why);
            }
        }
    }

    /// A whyrelay server, and what it offers, where it was asked: one of each family is asked for all that it can measure.
    fn is_ours(&mut self, asked: Ended, described: Option<Described>) {
        let (journal, options, until) = (self.ways.journal, self.ways.options, self.ways.until);
        if self.ours.contains(&asked.1.is_ipv4()) {
            return;
        }
        self.ours.push(asked.1.is_ipv4());
        if let Some(discovery) = described.and_then(|described| described.discovery) {
            self.ways.offers_discovery(discovery);
        }
        if !self.ways.config.is_whole() {
            return;
        }
        if asked.1.is_ipv4() {
            self.outside.get_or_insert_with(|| asked.clone());
        }
        let limit = (Instant::now() + self.ways.config.time / DESCRIBE_PART * 2).min(until);
        let (random, times, rows) = (self.random.fork(), (limit, until), Row::of_probes(asked.1));
        self.parts.push(part(journal, rows, |journal| probes::look(journal, random, asked, options, times, described)));
    }

    /// Nobody is asked what it offers any more, for now: begins what depends on that.
    fn all_described(&mut self, routes: &[DefaultRoute]) {
        let servers = std::mem::take(&mut self.for_relays);
        if !self.ways.config.is_whole() {
            return;
        }
        self.careful.extend(self.ways.turn(&mut self.random, &servers, !self.ours.is_empty()));
        if !std::mem::replace(&mut self.is_mapping_begun, true) {
            let (sender, tried_by) = oneshot::channel();
            self.tried_by = Some(sender);
            self.careful.extend(self.ways.port_map(&mut self.random, routes, tried_by));
        }
        if self.outside.is_some() {
            self.tell_who_tries();
        }
    }

    /// Has a mapping tried by who is known now.
    fn tell_who_tries(&mut self) {
        if let Some(sender) = self.tried_by.take() {
            // What has come to its end needs none.
            let _ = sender.send(self.ways.tried_by(self.outside.clone()));
        }
    }

    /// Nothing more will become known of servers.
    fn settled(&mut self) {
        if !std::mem::replace(&mut self.is_settled, true) {
            self.ways.end_naming();
            if self.ways.config.is_whole() {
                self.ways.tell_without_relay(!self.ours.is_empty());
            }
            self.tell_silent();
            self.tell_who_tries();
        }
    }

    /// No more servers will become known.
    fn all_named(&mut self) {
        let (config, journal) = (self.ways.config, self.ways.journal);
        if self.ways.so_far.known.is_empty() {
            let why = if !config.urls.is_empty() {
                "no name of a server was resolved"
            } else if config.signal.is_some() {
                "the signaling server was not reached in time, or announces no server: give --stun or --turn, too"
            } else {
                "no server was named: give --signal, --stun or --turn"
            };
            journal.missing(SERVERS, why);
        }
        if let Some(application) = &config.application {
            let why = if self.ways.so_far.probed.is_empty() {
                // What its sockets would be like is told all the same.
                let (random, program, until) = (self.random.fork(), application.clone(), self.ways.until);
                let rows = Row::of_program(application.name());
                let look = |journal| compare::look(journal, random, program, Vec::new(), until);
                self.parts.push(part(journal, rows, look));
                "no server was asked over UDP: give --signal or --stun"
            } else {
                "rules can look at the address: `whyrelay offer --as` asks a peer"
            };
            journal.missing(format!("how packets to a peer fare as {}", application.name()), why);
        }
        self.ways.all_named();
    }
}
