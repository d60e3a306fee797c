//! `whyrelay demo`: a server and two peers on loopback, in this one process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use whyrelay_core::engine::turn_server::PeerPolicy;
use whyrelay_core::signal::unguessable_name;
use whyrelay_core::trace::event::Vantage;

use super::account::Wanted;
use super::args::{DemoArgs, Format};
use super::{answer, peer, runtime, serve};
use crate::server::signaling::{SignalingConfig, SignalingServer};
use crate::server::turn::{StunTurnConfig, StunTurnServer};
use crate::session::{self, SessionConfig};

/// All of 127.0.0.0/8 is this machine: server, A and B get an address each.
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const A: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

pub(super) fn run(args: DemoArgs, color: bool) -> anyhow::Result<u8> {
    let events = runtime()?.block_on(demo(&args))?;
    if args.format == Format::Text && args.output.is_none() {
        answer("\n")?;
    }
    Wanted { format: args.format, color, output: args.output, html: None }.print(&events)
}

async fn demo(args: &DemoArgs) -> anyhow::Result<Vec<whyrelay_core::trace::event::Event>> {
    let interrupt = peer::watch_signals()?;
    let relay = StunTurnServer::bind(StunTurnConfig {
        listen: vec![SocketAddr::new(IpAddr::V4(SERVER), 0)],
        relay_addresses: vec![IpAddr::V4(SERVER)],
        policy: PeerPolicy { allow_loopback_peers: true, ..PeerPolicy::default() },
        ..StunTurnConfig::default()
    })
    .context("starting the demo's STUN and TURN server")?;
    let config =
        SignalingConfig { announce: Some(serve::announce(Some(relay.clone()), false)), ..SignalingConfig::default() };
    let signaling =
        SignalingServer::bind(SocketAddr::new(IpAddr::V4(SERVER), 0), config).context("starting the demo's server")?;
    let url = format!("http://{}", signaling.local_addr());
    eprintln!("server on {}, STUN and TURN on {}", signaling.local_addr(), relay.addresses()[0]);
    eprintln!("side A (offerer) on {A}, side B (answerer) on {B}\n");

    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("getting random bytes from the system: {error}"))?;
    let room = unguessable_name(random);
    let config = |side, address| {
        let mut config = SessionConfig::local(side, url.clone(), room.clone(), IpAddr::V4(address));
        config.relay_only = args.relay_only;
        config
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(signaling.run(async {
        // Ends when the sender is dropped, too.
        let _ = stopped.await;
    }));
    let relaying = tokio::spawn(async move { relay.run(std::future::pending()).await });
    let (a, b) = tokio::join!(
        session::run(config(Vantage::A, A), interrupt.clone()),
        session::run(config(Vantage::B, B), interrupt)
    );
    relaying.abort();
    drop(stop);
    serving.await.context("stopping the demo's server")??;
    b?;
    Ok(a?.events)
}
