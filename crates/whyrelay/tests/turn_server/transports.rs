//! What honest clients do, over each transport.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Class, Method};
use whyrelay_core::wire::turn::{ChannelData, ChannelNumber};

use crate::client::{PATIENCE, TurnClient};
use crate::{Server, certificate};

async fn binding(client: &mut TurnClient) -> Result<SocketAddr> {
    let request = client.start(Method::BINDING).build();
    client.send(&request).await?;
    let received = client.receive().await?;
    received.message().xor_address(AttributeType::XOR_MAPPED_ADDRESS).context("no mapped address")
}

/// Allocates, relays by indication and by channel both ways, refreshes and leaves.
async fn session(server: &Server, mut client: TurnClient) -> Result<()> {
    assert!(binding(&mut client).await?.ip().is_loopback());
    let peer = UdpSocket::bind("127.0.0.1:0").await?;
    let peer_address = peer.local_addr()?;
    let relayed = client.allocate().await?;
    assert_eq!(client.permit(peer_address).await?, 0);
    let mut buffer = [0; 2048];

    client.send_indication(peer_address, b"by indication", false).await?;
    let (length, source) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await??;
    assert_eq!((&buffer[..length], source), (&b"by indication"[..], relayed));
    peer.send_to(b"back", relayed).await?;
    let received = client.receive().await?;
    let message = received.message();
    assert_eq!((message.class, message.method), (Class::Indication, Method::DATA));
    assert_eq!(message.attribute(AttributeType::DATA).context("no data")?.value, b"back");

    let channel = ChannelNumber::new(0x4001).context("a channel number")?;
    assert_eq!(client.bind(channel.number(), peer_address).await?, 0);
    for size in [0, 1, 2, 3, 4, 5, 1199, 1200] {
        let data = vec![7; size];
        client.send(&ChannelData::encode(channel, &data)).await?;
        let (length, _) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await??;
        assert_eq!(length, size);
        peer.send_to(&data, relayed).await?;
        let received = client.receive().await?;
        let message = ChannelData::decode(&received.0).context("ChannelData")?;
        assert_eq!((message.number, message.data), (0x4001, &data[..]));
    }
    assert_eq!(client.refresh(600).await?, 0);
    assert_eq!(client.refresh(0).await?, 0);
    server.until("no allocation", |metrics| metrics.allocations == 0).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_over_udp() -> Result<()> {
    let server = Server::start()?;
    session(&server, TurnClient::udp(server.address, "alice", "wonderland").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_over_tcp() -> Result<()> {
    let server = Server::start()?;
    session(&server, TurnClient::tcp(server.address, "alice", "wonderland").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_over_tls_on_the_same_port_as_tcp() -> Result<()> {
    let (_directory, files, trusting) = certificate()?;
    let server = Server::with(|config| config.tls = Some(files))?;
    session(&server, TurnClient::tls(server.address, trusting, "alice", "wonderland").await?).await?;
    session(&server, TurnClient::tcp(server.address, "alice", "wonderland").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_over_each_transport_and_address_family() -> Result<()> {
    for address in ["127.0.0.1", "::1"] {
        let address: std::net::IpAddr = address.parse()?;
        let (_directory, files, trusting) = certificate()?;
        let server = Server::with(|config| {
            config.listen = vec![SocketAddr::new(address, 0)];
            config.relay_addresses = vec![address];
            config.tls = Some(files);
        })?;
        let over_udp = TurnClient::udp(server.address, "alice", "wonderland").await?;
        let over_tcp = TurnClient::tcp(server.address, "alice", "wonderland").await?;
        let over_tls = TurnClient::tls(server.address, trusting, "alice", "wonderland").await?;
        for mut client in [over_udp, over_tcp, over_tls] {
            assert_eq!(binding(&mut client).await?.ip(), address);
        }
    }
    Ok(())
}

/// An Allocate and what needs its relay come to the server in one read.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_sent_right_behind_an_allocate_find_its_relay() -> Result<()> {
    let (_directory, files, trusting) = certificate()?;
    let server = Server::with(|config| config.tls = Some(files))?;
    let over_tcp = TurnClient::tcp(server.address, "alice", "wonderland").await?;
    let over_tls = TurnClient::tls(server.address, trusting, "alice", "wonderland").await?;
    for mut client in [over_tcp, over_tls] {
        let peer = UdpSocket::bind("127.0.0.1:0").await?;
        let peer_address = peer.local_addr()?;
        // It learns the nonce by that.
        assert_eq!(client.refresh(600).await?, 437);
        let (allocation, permission) = (client.allocation(), client.permission(peer_address));
        let requests = [client.sign(allocation), client.sign(permission)];
        client.send_together(&requests).await?;
        let answers = [client.receive().await?, client.receive().await?];
        let methods = answers.each_ref().map(|answer| (answer.message().method, answer.code()));
        assert_eq!(methods, [(Method::ALLOCATE, 0), (Method::CREATE_PERMISSION, 0)]);
        client.send_indication(peer_address, b"let through", false).await?;
        let mut buffer = [0; 16];
        let (length, _) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await??;
        assert_eq!(&buffer[..length], b"let through");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv6_client_gets_an_ipv6_relay() -> Result<()> {
    let server = Server::with(|config| {
        config.listen = vec!["[::1]:0".parse().expect("an address")];
        config.relay_addresses = vec!["::1".parse().expect("an address")];
    })?;
    let mut client = TurnClient::udp(server.address, "alice", "wonderland").await?;
    let peer = UdpSocket::bind("[::1]:0").await?;
    let request = client
        .start(Method::ALLOCATE)
        .attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    let received = client.request(request).await?;
    let relayed = received.message().xor_address(AttributeType::XOR_RELAYED_ADDRESS).context("no relayed address")?;
    assert!(relayed.is_ipv6());
    assert_eq!(client.permit(peer.local_addr()?).await?, 0);
    client.send_indication(peer.local_addr()?, b"six", false).await?;
    let mut buffer = [0; 16];
    let (length, source) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await??;
    assert_eq!((&buffer[..length], source), (&b"six"[..], relayed));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_over_different_transports_meet_relay_to_relay() -> Result<()> {
    // The default policy: loopback is refused, the other's live relayed address is not.
    let server = Server::with(|config| config.policy = Default::default())?;
    let mut alice = TurnClient::udp(server.address, "alice", "wonderland").await?;
    let mut bob = TurnClient::tcp(server.address, "bob", "builder").await?;
    let (a, b) = (alice.allocate().await?, bob.allocate().await?);
    let stranger = UdpSocket::bind("127.0.0.1:0").await?;
    assert_eq!(alice.permit(stranger.local_addr()?).await?, 403);
    assert_eq!((alice.bind(0x4000, b).await?, bob.bind(0x4001, a).await?), (0, 0));
    alice.send(&[0x40, 0, 0, 5, b'h', b'e', b'l', b'l', b'o']).await?;
    assert_eq!(bob.receive().await?.0, [0x40, 1, 0, 5, b'h', b'e', b'l', b'l', b'o']);
    bob.send(&[0x40, 1, 0, 2, b'h', b'i']).await?;
    assert_eq!(alice.receive().await?.0, [0x40, 0, 0, 2, b'h', b'i']);
    Ok(())
}

/// `turnutils_uclient` does not read all that comes over TLS, and so proves nothing here.
#[tokio::test(flavor = "multi_thread")]
async fn two_tls_clients_lose_nothing_between_them() -> Result<()> {
    let (_directory, files, trusting) = certificate()?;
    let server = Server::with(|config| {
        config.policy = Default::default();
        config.tls = Some(files);
    })?;
    let mut alice = TurnClient::tls(server.address, trusting.clone(), "alice", "wonderland").await?;
    let mut bob = TurnClient::tls(server.address, trusting, "bob", "builder").await?;
    let (a, b) = (alice.allocate().await?, bob.allocate().await?);
    assert_eq!((alice.bind(0x4000, b).await?, bob.bind(0x4001, a).await?), (0, 0));
    for burst in 0..20_u8 {
        for at in 0..50 {
            alice.send(&[0x40, 0, 0, 4, burst, at, 1, 2]).await?;
            bob.send(&[0x40, 1, 0, 4, burst, at, 3, 4]).await?;
        }
        for at in 0..50 {
            assert_eq!(bob.receive().await?.0, [0x40, 1, 0, 4, burst, at, 1, 2]);
            assert_eq!(alice.receive().await?.0, [0x40, 0, 0, 4, burst, at, 3, 4]);
        }
    }
    assert_eq!(server.handle.metrics().unsent_stream_messages, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_many_sizes_arrives_whole_and_in_order() -> Result<()> {
    let server = Server::start()?;
    let mut client = TurnClient::udp(server.address, "alice", "wonderland").await?;
    let peer = UdpSocket::bind("127.0.0.1:0").await?;
    let relayed = client.allocate().await?;
    assert_eq!(client.bind(0x4000, peer.local_addr()?).await?, 0);
    // Equal sizes leave together; a shorter one ends the group, a longer one begins the next.
    let sizes: Vec<usize> = (0..600_usize).map(|at| 4 + at % 7 * 150 + usize::from(at % 50 > 40) * 100).collect();
    for (at, burst) in sizes.chunks(60).enumerate() {
        for (step, size) in burst.iter().enumerate() {
            let mut data = vec![0; *size];
            data[..4].copy_from_slice(&((at * 60 + step) as u32).to_be_bytes());
            peer.send_to(&data, relayed).await?;
        }
        for (step, size) in burst.iter().enumerate() {
            let received = client.receive().await?;
            let data = ChannelData::decode(&received.0).context("ChannelData")?.data;
            assert_eq!(data.len(), *size);
            assert_eq!(data[..4], ((at * 60 + step) as u32).to_be_bytes());
        }
    }
    assert_eq!(server.handle.metrics().unsent_datagrams, 0);
    Ok(())
}

/// That the bit is on the wire is shown where a link is too small for the datagram: `our_turn::sets_df_on_the_wire…` among
/// the interop tests.
#[tokio::test(flavor = "multi_thread")]
async fn datagrams_with_and_without_dont_fragment_arrive() -> Result<()> {
    let server = Server::start()?;
    let mut client = TurnClient::udp(server.address, "alice", "wonderland").await?;
    let peer = UdpSocket::bind("127.0.0.1:0").await?;
    client.allocate().await?;
    assert_eq!(client.permit(peer.local_addr()?).await?, 0);
    let mut buffer = [0; 16];
    for (data, dont_fragment) in [(b"a", true), (b"b", false), (b"c", true)] {
        client.send_indication(peer.local_addr()?, data, dont_fragment).await?;
        let (length, _) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await??;
        assert_eq!(&buffer[..length], data);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn announced_credentials_let_in_and_name_what_can_be_reached() -> Result<()> {
    let (_directory, files, _) = certificate()?;
    let server = Server::with(|config| config.tls = Some(files))?;
    let announced = server.handle.announce("carol", Some(server.address.ip())).context("an announcement")?;
    let port = server.address.port();
    assert_eq!(announced.servers[0].urls, [format!("stun:127.0.0.1:{port}")]);
    let turn = &announced.servers[1];
    let expected = ["turn:", "turn:", "turns:"].map(|scheme| format!("{scheme}127.0.0.1:{port}?transport="));
    assert!(turn.urls.iter().zip(&expected).all(|(url, expected)| url.starts_with(expected)), "{:?}", turn.urls);
    let (username, password) = (turn.username.as_deref(), turn.credential.as_deref());
    let mut client =
        TurnClient::udp(server.address, username.context("a user")?, password.context("a password")?).await?;
    client.allocate().await?;
    let mut stranger = TurnClient::udp(server.address, username.context("a user")?, "guess").await?;
    assert!(stranger.allocate().await.is_err_and(|error| error.to_string() == "Allocate: 401"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_announced_host_is_the_one_that_peers_can_reach() -> Result<()> {
    let external =
        Server::with(|config| config.external_addresses = vec!["198.51.100.7".parse().expect("an address")])?;
    let named = Server::with(|config| config.public_host = Some("turn.example".to_owned()))?;
    for (server, host) in [(external, "198.51.100.7"), (named, "turn.example")] {
        let announced = server.handle.announce("carol", None).context("an announcement")?;
        assert_eq!(announced.servers[0].urls, [format!("stun:{host}:{}", server.address.port())]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allocation_expires_on_the_real_clock() -> Result<()> {
    let server = Server::with(|config| config.limits.default_lifetime = Duration::from_secs(1))?;
    let mut client = TurnClient::udp(server.address, "alice", "wonderland").await?;
    let relayed = client.allocate().await?;
    server.until("expired", |metrics| metrics.allocations == 0).await;
    // The port is free again.
    UdpSocket::bind(relayed).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_closes_relays_and_connections() -> Result<()> {
    let server = Server::start()?;
    let mut client = TurnClient::tcp(server.address, "alice", "wonderland").await?;
    let relayed = client.allocate().await?;
    drop(server);
    assert!(client.receive().await.is_err_and(|error| error.to_string().contains("closed")));
    for _ in 0..500 {
        if UdpSocket::bind(relayed).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the relay's port stays taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn few_ports_are_all_used_and_then_it_is_508() -> Result<()> {
    // Some of these may be taken by others on this machine; every one that can be bound must be given out.
    let first = 61_000;
    let free = (0..4).filter(|at| std::net::UdpSocket::bind(("127.0.0.1", first + at)).is_ok()).count();
    let server = Server::with(|config| config.relay_ports = (first, first + 3))?;
    let mut clients = Vec::new();
    for _ in 0..free {
        let mut client = TurnClient::udp(server.address, "alice", "wonderland").await?;
        let relayed = client.allocate().await?;
        assert!((first..first + 4).contains(&relayed.port()));
        clients.push(client);
    }
    let mut late = TurnClient::udp(server.address, "alice", "wonderland").await?;
    assert!(late.allocate().await.is_err_and(|error| error.to_string() == "Allocate: 508"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_even_port_is_even() -> Result<()> {
    let server = Server::start()?;
    for _ in 0..10 {
        let mut client = TurnClient::udp(server.address, "alice", "wonderland").await?;
        let request = client
            .start(Method::ALLOCATE)
            .attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attribute(AttributeType::EVEN_PORT, &[0]);
        let received = client.request(request).await?;
        let relayed = received.message().xor_address(AttributeType::XOR_RELAYED_ADDRESS).context("no address")?;
        assert_eq!(relayed.port() % 2, 0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_allocation_relays_in_both_families() -> Result<()> {
    let server = Server::with(|config| {
        config.relay_addresses = vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()]
    })?;
    let mut client = TurnClient::udp(server.address, "alice", "wonderland").await?;
    let request = client
        .start(Method::ALLOCATE)
        .attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    assert_eq!(client.request(request).await?.code(), 0);
    let mut buffer = [0; 64];
    for (channel, address) in [(0x4000, "127.0.0.1:0"), (0x4001, "[::1]:0")] {
        let peer = UdpSocket::bind(address).await?;
        assert_eq!(client.bind(channel, peer.local_addr()?).await?, 0);
        let number = ChannelNumber::new(channel).context("a channel number")?;
        client.send(&ChannelData::encode(number, b"out")).await?;
        let (length, relayed) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await??;
        assert_eq!((&buffer[..length], relayed.is_ipv4()), (&b"out"[..], address.starts_with("127")));
        peer.send_to(b"back", relayed).await?;
        let received = client.receive().await?;
        assert_eq!(
            ChannelData::decode(&received.0).context("ChannelData")?,
            ChannelData { number: channel, data: b"back" }
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alternate_server_is_named_and_followed() -> Result<()> {
    let second = Server::start()?;
    let first = Server::with(|config| config.alternate_servers = vec![second.address])?;
    let mut client = TurnClient::udp(first.address, "alice", "wonderland").await?;
    let request = client.start(Method::ALLOCATE).attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    let refused = client.request(request).await?;
    assert_eq!(refused.code(), 300);
    let named = refused.message().address(AttributeType::ALTERNATE_SERVER).context("no server is named")?;
    assert_eq!(named, second.address);
    TurnClient::udp(named, "alice", "wonderland").await?.allocate().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_cannot_have_one_port() -> Result<()> {
    let server = Server::start()?;
    // Sharing it out among threads must not let in another server, which would get half of the clients.
    let second = Server::with(|config| config.listen = vec![server.address]);
    assert!(second.is_err_and(|error| format!("{error:#}").contains("in use")));
    assert!(std::net::UdpSocket::bind(server.address).is_err());
    Ok(())
}
