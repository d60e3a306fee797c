//! `whyrelay serve`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use whyrelay_core::engine::turn_server::PeerPolicy;
use whyrelay_core::host::leads_to_guests;
use whyrelay_core::signal::{IceServer, ServersAnnouncement, unguessable_name};

use super::args::ServeArgs;
use super::serve_refusals::must_work;
use super::{HEALTHY, answer, peer};
use crate::io::interfaces::{self, InterfaceFilter};
use crate::page;
use crate::server::certificates::Certificates;
use crate::server::metrics::{self, Audience};
use crate::server::signaling::{Announce, Gauges, SignalingConfig, SignalingServer};
use crate::server::turn::{StunTurnConfig, StunTurnServer, TlsFiles};

/// Writes a line to stderr, unless nobody reads there: what is served does not wait for that.
macro_rules! say {
    ($($argument:tt)*) => { crate::server::log::say(format_args!($($argument)*)) };
}

/// The port of signaling, where none is given.
const SIGNALING_PORT: u16 = 8080;

/// The port of STUN and TURN, where none is given (RFC 8489 §18.6).
const STUN_PORT: u16 = 3478;

pub(super) fn run(args: ServeArgs) -> anyhow::Result<u8> {
    // Signaling has a thread of its own; relaying uses every core.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(serve(args))?;
    Ok(HEALTHY)
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let on_all = args.listen.is_none_or(|listen| listen.ip().is_unspecified());
    if on_all && args.public_host.is_none() {
        await_address().await;
    }
    let own: Vec<IpAddr> = own_addresses().into_iter().map(|(ip, _)| ip).collect();
    let listen = args.listen.unwrap_or_else(|| all_addresses(&own, args.port.unwrap_or(SIGNALING_PORT)));
    let mut interrupt = peer::watch_ending_signals(false)?;
    let stun_listen =
        if args.stun_listen.is_empty() { both_families(&own, STUN_PORT) } else { args.stun_listen.clone() };
    must_work(&args, &own, &stun_listen)?;
    let relay = if args.no_stun { None } else { Some(bind_relay(&args, stun_listen)?) };
    let certificates = match (&args.tls_cert, &args.tls_key) {
        (Some(chain), Some(key)) => Some(Certificates::load(chain, key)?),
        _ => None,
    };
    let gauges = Arc::<Gauges>::default();
    let config = SignalingConfig {
        has_default_room: !args.no_default_room,
        announce: Some(announce(relay.clone(), args.no_turn)),
        tls: certificates.as_ref().map(|certificates| certificates.server_config(&[b"http/1.1"])).transpose()?,
        gauges: Arc::clone(&gauges),
        ..SignalingConfig::default()
    };
    let is_tls = config.tls.is_some();
    let signaling =
        SignalingServer::bind(listen, config).map_err(|error| with_listen_hint(error.into(), "--listen", listen))?;
    let metrics_here = metrics::router(relay.clone(), Arc::clone(&gauges), Audience::ThisMachine);
    let signaling = signaling.with_routes(page::routes().merge(metrics_here));
    if let Some(address) = args.turn.metrics_listen {
        serve_metrics(address, metrics::router(relay.clone(), gauges, Audience::Everybody)).await?;
    }
    tokio::spawn(reload_on_hangup(args.clone(), relay.clone(), certificates, signal(SignalKind::hangup())?));
    let greeting = Greeting::new(&args, signaling.local_addr(), is_tls)?;
    let hosts = greeting.hosts();
    // A server is of use without its words, too: who starts it in the background may have closed stdout.
    if super::stdout::must_be_open().is_ok() {
        answer(&greeting.text(&hosts, relay.as_ref()))?;
    }
    if hosts.is_empty() {
        tokio::spawn(greet_when_there_is_an_address(greeting, relay.clone()));
    }

    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let relaying = async {
        if let Some(relay) = &relay {
            let end = async {
                while !*stopped.borrow_and_update() {
                    if stopped.changed().await.is_err() {
                        break;
                    }
                }
                let allocations = relay.refuse_newcomers();
                if allocations > 0 && args.turn.drain > 0 {
                    say!(
                        "{allocations} allocations live on for up to {} s; Ctrl-C or SIGTERM again ends them at once",
                        args.turn.drain
                    );
                }
                // When the time is over, they end with the server.
                let _ = tokio::time::timeout(Duration::from_secs(args.turn.drain), relay.emptied()).await;
            };
            relay.run(end).await;
        }
    };
    let signaling = async {
        let served = signaling
            .run(async {
                let _ = interrupt.changed().await;
                say!("closing");
                // Whoever waits for it may have ended already.
                let _ = stop.send(true);
            })
            .await;
        let _ = stop.send(true);
        served
    };
    let (served, ()) = tokio::join!(signaling, relaying);
    Ok(served?)
}

/// Signaling on all addresses: one socket takes both families where this host speaks IPv6.
fn all_addresses(own: &[IpAddr], port: u16) -> SocketAddr {
    let any = if own.iter().any(IpAddr::is_ipv6) { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, port)
}

/// STUN and TURN on all addresses, which have a socket each: of IPv4 unless this host has IPv6 alone, and of IPv6 where
/// it has an address that means something elsewhere.
fn both_families(own: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let has_ipv6 = own.iter().any(|ip| matches!(ip, IpAddr::V6(ip) if !ip.is_unicast_link_local()));
    let has_ipv4 = own.iter().any(IpAddr::is_ipv4) || !has_ipv6;
    let all: [(bool, IpAddr); 2] = [(has_ipv4, Ipv4Addr::UNSPECIFIED.into()), (has_ipv6, Ipv6Addr::UNSPECIFIED.into())];
    all.into_iter().filter(|(has, _)| *has).map(|(_, any)| SocketAddr::new(any, port)).collect()
}

fn bind_relay(args: &ServeArgs, listen: Vec<SocketAddr>) -> anyhow::Result<StunTurnServer> {
    let first = listen.first().copied().context("an address for STUN")?;
    let config = StunTurnConfig {
        listen,
        tls: args.tls_cert.clone().zip(args.tls_key.clone()).map(|(certificates, key)| TlsFiles { certificates, key }),
        relay_addresses: args.relay_address.clone(),
        relay_ports: args.relay_ports,
        external_addresses: args.external_address.clone(),
        public_host: args.public_host.clone(),
        policy: PeerPolicy {
            allow_private_peers: args.allow_private_peers,
            allow_loopback_peers: args.allow_loopback_peers,
            allowed: args.turn.allow_peer.clone(),
            refused: args.turn.refuse_peer.clone(),
            nat64: args.turn.nat64_prefix.clone(),
            ..PeerPolicy::default()
        },
        discovery: args.discovery.resolve()?,
        credentials: args.turn.users()?,
        secrets: args.turn.secrets()?,
        realm: args.turn.turn_realm.clone(),
        alternate_servers: args.turn.alternate_servers()?,
        strict_expiry: args.turn.strict_expiry,
        rfc5766_channels: args.turn.rfc5766_channels,
        turn: !args.no_turn,
        limits: args.turn.limits(),
        ..StunTurnConfig::default()
    };
    StunTurnServer::bind(config).map_err(|error| with_listen_hint(error, "--stun-listen", first))
}

/// Serves `/metrics` on a listener of its own.
async fn serve_metrics(address: SocketAddr, router: axum::Router) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address} for metrics"))
        .map_err(|error| with_listen_hint(error, "--metrics-listen", address))?;
    tokio::spawn(async move { metrics::serve(listener, router).await });
    Ok(())
}

/// Reads certificates, users, secrets and alternate servers again at every SIGHUP. What cannot be read stays as it was, and
/// is said.
async fn reload_on_hangup(
    args: ServeArgs,
    relay: Option<StunTurnServer>,
    certificates: Option<Arc<Certificates>>,
    mut hangup: Signal,
) {
    while hangup.recv().await.is_some() {
        let mut failed = Vec::new();
        if let Some(Err(error)) = certificates.as_ref().map(|certificates| certificates.reload()) {
            failed.push(anyhow::Error::from(error));
        }
        if let Some(relay) = &relay {
            if let Err(error) = relay.reload_certificates() {
                failed.push(error.into());
            }
            match args.turn.users().and_then(|users| Ok((users, args.turn.secrets()?))) {
                Ok((users, secrets)) => relay.set_credentials(users, secrets),
                Err(error) => failed.push(error),
            }
            match args.turn.alternate_servers() {
                Ok(servers) => relay.set_alternate_servers(servers),
                Err(error) => failed.push(error),
            }
            match args.discovery.secret() {
                Ok(secret) => secret.iter().for_each(|secret| relay.set_discovery_secret(secret)),
                Err(error) => failed.push(error),
            }
        }
        for error in &failed {
            say!("not reloaded: {error:#}");
        }
        if failed.is_empty() {
            say!("reloaded");
        }
    }
}

/// What a joining peer is told. A server without any says so, so that nobody waits for it.
pub(super) fn announce(relay: Option<StunTurnServer>, no_turn: bool) -> Announce {
    Arc::new(move |_room, id, local| {
        let Some(mut announcement) = relay.as_ref().and_then(|relay| relay.announce(id, local)) else {
            return Some(ServersAnnouncement::default());
        };
        if no_turn {
            announcement.servers.retain(|server: &IceServer| server.credential.is_none());
        }
        Some(announcement)
    })
}

fn with_listen_hint(error: anyhow::Error, flag: &str, address: SocketAddr) -> anyhow::Error {
    let in_use = error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::AddrInUse)
    });
    if in_use {
        let free = SocketAddr::new(address.ip(), 0);
        return anyhow::anyhow!(
            "{error:#}\nhint: another program has this port; choose another with {flag}, like {flag} {free} for any free one"
        );
    }
    error
}

/// How long an address is waited for: a link that has just come up has one a moment later (DHCP), and may use it a second
/// after that (duplicate address detection).
const ADDRESS_WITHIN: Duration = Duration::from_secs(2);

/// How often this machine's addresses are looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The same when nobody waits for one any more.
const LOOK_LATER: Duration = Duration::from_secs(1);

/// Waits a moment for an address at which another machine may reach this one, where there is none yet or one that cannot
/// be used yet.
async fn await_address() {
    let until = Instant::now() + ADDRESS_WITHIN;
    let mut told = false;
    while !is_reachable(&own_addresses()) && Instant::now() < until {
        if !std::mem::replace(&mut told, true) {
            say!("this machine has no address yet: waiting up to {} s for one", ADDRESS_WITHIN.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether another machine may reach one of these, and all of them can be listened on.
fn is_reachable(own: &[(IpAddr, Option<String>)]) -> bool {
    let all = likeliest_first(own.to_vec(), true);
    !all.is_empty() && all.iter().all(|ip| std::net::UdpSocket::bind((*ip, 0)).is_ok())
}

/// Says what to run once this machine has an address.
async fn greet_when_there_is_an_address(greeting: Greeting, relay: Option<StunTurnServer>) {
    let hosts = loop {
        tokio::time::sleep(LOOK_LATER).await;
        let hosts = greeting.hosts();
        if !hosts.is_empty() {
            break hosts;
        }
    };
    let mut text = format!("This machine has an address now.\n\n{}", greeting.what_to_run(&hosts));
    if relay.is_some_and(|relay| relay.addresses().iter().all(|address| address.ip().is_loopback())) {
        text.push_str("STUN and TURN do not listen there: end the server and start it again for that.\n");
    }
    // Whoever does not read it has ended, and so does the server then.
    let _ = answer(&text);
}

/// What to run on the two machines.
struct Greeting {
    scheme: &'static str,
    /// Where signaling listens.
    signaling: SocketAddr,
    public_host: Option<String>,
    no_turn: bool,
    room: String,
}

impl Greeting {
    fn new(args: &ServeArgs, signaling: SocketAddr, is_tls: bool) -> anyhow::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| anyhow::anyhow!("getting random bytes from the system: {error}"))?;
        Ok(Self {
            scheme: if is_tls { "https" } else { "http" },
            signaling,
            public_host: args.public_host.clone(),
            no_turn: args.no_turn,
            room: unguessable_name(random),
        })
    }

    /// At which hosts this one is reached now, the likeliest first; none: only by programs on itself.
    fn hosts(&self) -> Vec<String> {
        match &self.public_host {
            Some(host) => vec![host.clone()],
            None if self.signaling.ip().is_unspecified() => {
                likeliest_first(own_addresses(), self.signaling.is_ipv6()).into_iter().map(url_host).collect()
            }
            None => vec![url_host(self.signaling.ip())],
        }
    }

    fn what_to_run(&self, hosts: &[String]) -> String {
        let url = |host: &str| format!("{}://{host}:{}", self.scheme, self.signaling.port());
        let first = hosts.first().map_or("127.0.0.1", String::as_str);
        let others: Vec<String> = hosts.iter().skip(1).map(|host| url(host)).collect();
        let is_here_alone = self.public_host.is_none() && self.signaling.ip().is_loopback();
        let place = if is_here_alone { HERE } else { "on the two machines" };
        what_to_run(place, &url(first), &others, &self.room)
    }

    fn text(&self, hosts: &[String], relay: Option<&StunTurnServer>) -> String {
        let servers = match relay {
            None => "no STUN, no TURN (--no-stun)".to_owned(),
            Some(relay) => {
                let list = relay.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let what = if self.no_turn { "STUN" } else { "STUN and TURN" };
                let over = if self.scheme == "https" { "UDP, TCP and TLS" } else { "UDP and TCP" };
                match relay.discovery_addresses() {
                    [] => format!("{what} on {list} ({over})"),
                    discovery => {
                        let discovery = discovery.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                        format!("{what} on {list} ({over}), NAT behavior discovery on {discovery} (UDP)")
                    }
                }
            }
        };
        let alone = if hosts.is_empty() {
            "This machine has no address yet: only programs on it reach this server. What to run elsewhere is said when it has one.\n\n"
        } else {
            ""
        };
        format!(
            "whyrelay {} serves signaling on {}, {servers}.\n\n\
             {alone}{}\
             Ctrl-C ends the server.\n",
            env!("CARGO_PKG_VERSION"),
            self.signaling,
            self.what_to_run(hosts)
        )
    }
}

/// Most addresses that are listed besides.
const MAX_OTHERS: usize = 8;

/// Where to run the two commands when the server listens on a loopback address.
const HERE: &str = "both on this machine (no other one reaches a loopback address; leave --listen out for those)";

/// The two commands with this URL, and the other ones.
fn what_to_run(place: &str, url: &str, others: &[String], room: &str) -> String {
    let mut text = format!(
        "Run these {place}, in any order:\n\n  \
         whyrelay answer --signal {url} --room {room}\n  \
         whyrelay offer --signal {url} --room {room}\n\n"
    );
    if !others.is_empty() {
        text.push_str("Each of the two may use another address of this machine, where it does not reach that one:\n\n");
        others.iter().take(MAX_OTHERS).for_each(|url| text.push_str(&format!("  {url}\n")));
        text.push('\n');
    }
    text
}

fn url_host(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// The addresses of this machine, each with its interface.
fn own_addresses() -> Vec<(IpAddr, Option<String>)> {
    let filter = InterfaceFilter::default();
    let found = interfaces::list(&filter).unwrap_or_default();
    let usable = interfaces::usable(&found, &filter);
    usable.into_iter().map(|(address, interface)| (address.ip(), interface)).collect()
}

/// Those at which another machine most likely reaches this one come first; those of IPv6 only where it is listened on.
fn likeliest_first(mut addresses: Vec<(IpAddr, Option<String>)>, with_ipv6: bool) -> Vec<IpAddr> {
    // A link-local address of IPv6 needs a scope, which is another one on each machine.
    addresses.retain(|(ip, _)| match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => with_ipv6 && !ip.is_unicast_link_local(),
    });
    addresses.sort_by_key(|(ip, interface)| {
        let is_link_local = matches!(ip, IpAddr::V4(ip) if ip.is_link_local());
        // Virtual bridges lead to this machine's own guests.
        let to_guests = interface.as_deref().is_some_and(leads_to_guests);
        (is_link_local, to_guests, ip.is_ipv6())
    });
    addresses.into_iter().map(|(ip, _)| ip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_address_each_family_of_this_host_is_listened_on() {
        for (own, signaling, stun) in [
            (&["192.0.2.1"][..], "0.0.0.0:8080", &["0.0.0.0:3478"][..]),
            (&["192.0.2.1", "2001:db8::1"], "[::]:8080", &["0.0.0.0:3478", "[::]:3478"]),
            (&["2001:db8::1"], "[::]:8080", &["[::]:3478"]),
            (&["192.0.2.1", "fe80::1"], "[::]:8080", &["0.0.0.0:3478"]),
            (&[], "0.0.0.0:8080", &["0.0.0.0:3478"]),
        ] {
            let own: Vec<IpAddr> = own.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(all_addresses(&own, SIGNALING_PORT).to_string(), signaling);
            let listened: Vec<String> = both_families(&own, STUN_PORT).iter().map(ToString::to_string).collect();
            assert_eq!(listened, stun, "{own:?}");
        }
        let both = ["2001:db8::1", "fe80::1"].map(|ip| (ip.parse().unwrap(), Some("eth0".to_owned())));
        assert_eq!(likeliest_first(both.to_vec(), true), ["2001:db8::1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn every_address_of_this_machine_is_offered_the_likeliest_first() {
        let address = |ip: &str, interface: &str| (ip.parse().unwrap(), Some(interface.to_owned()));
        let addresses = vec![
            address("172.17.0.1", "docker0"),
            address("fe80::1", "eth0"),
            address("2001:db8::1", "eth0"),
            address("192.0.2.1", "eth0"),
        ];
        let urls = |with_ipv6| {
            let sorted = likeliest_first(addresses.clone(), with_ipv6);
            sorted.into_iter().map(|ip| format!("http://{}:8080", url_host(ip))).collect::<Vec<_>>()
        };
        let all = urls(true);
        let text = what_to_run("here", &all[0], &all[1..], "r");
        assert!(text.contains("whyrelay answer --signal http://192.0.2.1:8080 --room r\n"), "{text}");
        assert!(text.contains("\n\n  http://[2001:db8::1]:8080\n  http://172.17.0.1:8080\n\n"), "{text}");
        assert_eq!(urls(false), ["http://192.0.2.1:8080", "http://172.17.0.1:8080"]);
        let one = what_to_run("here", &all[0], &[], "r");
        assert!(!one.contains("another address"), "{one}");
    }
}
