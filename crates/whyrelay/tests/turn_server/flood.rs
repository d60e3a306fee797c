//! Abuse by plain sockets: what exactly attackers get. How honest clients fare meanwhile is in `siege`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use whyrelay::server::turn::{AlternateAddress, AlternateConfig, DiscoveryConfig};
use whyrelay_core::engine::turn_server::PeerPolicy;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

use crate::Server;
use crate::abuse::{honest, honest_client};
use crate::client::{SPELLINGS, TurnClient};

/// Spoofed as far as a server can tell: requests from a thousand addresses whose owners asked for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn security_6_spoofed_sources_asking_for_behavior_tests_get_little_and_the_proven_are_served() -> Result<()> {
    let alternate: IpAddr = Ipv4Addr::new(127, 0, 0, 2).into();
    let server = Server::with(|config| {
        let here = AlternateConfig::Here(vec![AlternateAddress { local: alternate, public: alternate }]);
        config.discovery = Some(DiscoveryConfig { port: None, alternate: here, serves_unproven: true });
    })?;
    let asked = server.handle.discovery_addresses()[0];
    let request = MessageBuilder::new(Class::Request, Method::BINDING, TransactionId([1; 12]))
        .u32(AttributeType::CHANGE_REQUEST, 6)
        .build();
    let flood = std::thread::spawn(move || -> Result<(usize, Duration)> {
        let begin = std::time::Instant::now();
        let mut victims = Vec::new();
        for at in 0..1000_u16 {
            let victim = StdUdpSocket::bind(SocketAddr::from(([127, 7, (at / 250) as u8, (at % 250 + 1) as u8], 0)))?;
            for _ in 0..10 {
                victim.send_to(&request, asked)?;
            }
            victims.push(victim);
        }
        std::thread::sleep(Duration::from_millis(200));
        let mut answers = 0;
        for victim in &victims {
            victim.set_nonblocking(true)?;
            while let Ok((length, _)) = victim.recv_from(&mut [0; 200]) {
                ensure!(length <= 68, "{length} bytes");
                answers += 1;
            }
        }
        Ok((answers, begin.elapsed()))
    });
    let client = UdpSocket::bind("127.0.0.1:0").await?;
    let mut buffer = [0; 200];
    let mut nonce = String::new();
    let mut served = 0;
    for number in 0..20_u8 {
        let asking = MessageBuilder::new(Class::Request, Method::BINDING, TransactionId([number; 12]))
            .u32(AttributeType::CHANGE_REQUEST, 6)
            .text(AttributeType::NONCE, &nonce);
        client.send_to(&asking.build(), asked).await?;
        // Lost in the flood, perhaps: asked again.
        let Ok(received) = timeout(Duration::from_millis(300), client.recv_from(&mut buffer)).await else { continue };
        let (length, source) = received?;
        let message = Message::decode(&buffer[..length])?;
        match message.text(AttributeType::NONCE) {
            Some(fresh) => nonce = fresh.to_owned(),
            None => {
                ensure!(source.ip() == alternate, "from {source}");
                served += 1;
            }
        }
    }
    let (answers, took) = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
    ensure!(served >= 10, "who has proven itself was served {served} times of 20");
    let allowed = 50 * (took.as_secs() as usize + 1);
    ensure!(answers <= allowed, "{answers} answers to strangers in {took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn security_3_a_permission_flood_ends_at_the_limit_and_others_are_served() -> Result<()> {
    let server = Server::start()?;
    let (mut client, peer) = honest_client(&server).await?;
    let mut flooder = TurnClient::udp(server.address, "bob", "builder").await?;
    flooder.allocate().await?;
    let mut granted = 0;
    for at in 0..500_u16 {
        let stranger = SocketAddr::from(([8, 8, (at >> 8) as u8, at as u8], 9));
        granted += usize::from(flooder.permit(stranger).await? == 0);
    }
    assert_eq!(granted, 64);
    let metrics = server.handle.metrics();
    assert_eq!(metrics.counters.errors.get(&508), Some(&436));
    honest(&mut client, &peer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn security_9_truncated_and_oversized_datagrams_get_no_success_and_change_nothing() -> Result<()> {
    let server = Server::start()?;
    let (mut client, peer) = honest_client(&server).await?;
    let attacker = UdpSocket::bind("127.0.0.1:0").await?;
    let whole = MessageBuilder::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12]))
        .attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .text(AttributeType::USERNAME, "alice")
        .build();
    for length in 0..whole.len() {
        attacker.send_to(&whole[..length], server.address).await?;
    }
    for first in [0x00, 0x40, 0x4F, 0x50, 0x80, 0xFF] {
        attacker.send_to(&[first; 65_507], server.address).await?;
    }
    let oversized = MessageBuilder::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12]))
        .attribute(AttributeType::DATA, &vec![0; 65_000]);
    attacker.send_to(&oversized.build(), server.address).await?;
    server.until("all read", |metrics| metrics.counters.noise + metrics.counters.datagrams_dropped > 40).await;
    let mut buffer = [0; 100];
    while let Ok(received) = timeout(Duration::from_millis(100), attacker.recv_from(&mut buffer)).await {
        let message = Message::decode(&buffer[..received?.0])?;
        assert_eq!(message.class, Class::Error);
    }
    assert_eq!(server.handle.metrics().allocations, 1);
    honest(&mut client, &peer).await
}

/// Every spelling of this machine and of the networks behind it, by permission, channel and Send, on a server that
/// allows nothing beyond the Internet. The canary hears of none.
#[tokio::test(flavor = "multi_thread")]
async fn security_1_no_spelling_makes_an_open_relay() -> Result<()> {
    let server = Server::with(|config| {
        config.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        config.relay_addresses = vec![Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
        config.policy = PeerPolicy::default();
    })?;
    let mut client = TurnClient::udp(server.address, "alice", "wonderland").await?;
    let request = client
        .start(Method::ALLOCATE)
        .attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    assert_eq!(client.request(request).await?.code(), 0, "both families");
    let canary = UdpSocket::bind("127.0.0.1:0").await?;
    let canary_ipv6 = UdpSocket::bind("[::1]:0").await?;
    for spelling in SPELLINGS {
        let ip: IpAddr = spelling.parse()?;
        let port = if ip.is_ipv4() { canary.local_addr()? } else { canary_ipv6.local_addr()? }.port();
        let peer = SocketAddr::new(ip, port);
        assert_eq!(client.permit(peer).await?, 403, "{peer} by CreatePermission");
        // Both relays are on loopback here, and a permission may name a relay's address without its port.
        if !["127.0.0.1", "::1"].contains(&spelling) {
            assert_eq!(client.permit(SocketAddr::new(ip, 0)).await?, 403, "{ip} without a port");
        }
        assert_eq!(client.bind(0x4000, peer).await?, 403, "{peer} by ChannelBind");
        client.send_indication(peer, b"x", false).await?;
        client.send(&[0x40, 0, 0, 1, b'x']).await?;
    }
    let dropped = 2 * SPELLINGS.len() as u64;
    server.until("all read", |metrics| metrics.counters.datagrams_dropped == dropped).await;
    for canary in [canary, canary_ipv6] {
        let heard = canary.try_recv_from(&mut [0; 10]);
        ensure!(heard.is_err(), "a forbidden peer was reached: {heard:?}");
    }
    assert_eq!(server.handle.metrics().counters.policy_refusals, 3 * SPELLINGS.len() as u64 - 2);
    Ok(())
}
