//! What attackers try against real sockets; an honest client is served all the while.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use whyrelay::server::turn::StreamLimits;
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method, TransactionId};

use crate::client::{PATIENCE, TurnClient};
use crate::{Server, certificate};

/// A whole relayed round trip.
pub(crate) async fn honest(client: &mut TurnClient, peer: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 64];
    client.send_indication(peer.local_addr()?, b"honest", false).await?;
    let (length, relayed) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await??;
    assert_eq!(&buffer[..length], b"honest");
    peer.send_to(b"served", relayed).await?;
    client.receive().await.map(drop)
}

pub(crate) async fn honest_client(server: &Server) -> Result<(TurnClient, UdpSocket)> {
    let mut client = TurnClient::udp(server.address, "alice", "wonderland").await?;
    let peer = UdpSocket::bind("127.0.0.1:0").await?;
    client.allocate().await?;
    assert_eq!(client.permit(peer.local_addr()?).await?, 0);
    Ok((client, peer))
}

#[tokio::test(flavor = "multi_thread")]
async fn security_5_a_flood_of_first_requests_is_answered_ten_times_a_second() -> Result<()> {
    let server = Server::start()?;
    let (mut client, peer) = honest_client(&server).await?;
    let attacker = UdpSocket::bind("127.0.0.7:0").await?;
    let request = MessageBuilder::new(Class::Request, Method::ALLOCATE, TransactionId([1; 12])).build();
    let start = std::time::Instant::now();
    for _ in 0..5000 {
        attacker.send_to(&request, server.address).await?;
    }
    let mut answers = 0;
    let mut buffer = [0; 100];
    while let Ok(received) = timeout(Duration::from_millis(300), attacker.recv_from(&mut buffer)).await {
        assert_eq!(received?.0, 56);
        answers += 1;
    }
    let allowed = 11 + 10 * start.elapsed().as_secs();
    assert!((10..=allowed).contains(&answers), "{answers} answers, {allowed} allowed");
    honest(&mut client, &peer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn security_12_half_open_connections_and_half_messages_are_closed() -> Result<()> {
    let (_directory, files, _) = certificate()?;
    let server = Server::with(|config| {
        config.tls = Some(files);
        config.streams = StreamLimits { idle: Duration::from_millis(300), ..StreamLimits::default() };
    })?;
    let (mut client, peer) = honest_client(&server).await?;
    // Silence; half a header; a header that promises 64 KiB; half a TLS handshake.
    let beginnings: [&[u8]; 4] = [b"", &[0, 1, 0], &[0, 3, 0xFF, 0xFC, 0x21, 0x12, 0xA4, 0x42], &[22, 3, 1, 2, 0]];
    for bytes in beginnings {
        let mut stream = TcpStream::connect(server.address).await?;
        stream.write_all(bytes).await?;
        let closed = timeout(PATIENCE, stream.read(&mut [0; 16])).await.context("not closed")?;
        assert!(closed.is_err() || closed.is_ok_and(|length| length == 0), "{bytes:?}");
    }
    server.until("all closed", |metrics| metrics.streams == 0 && metrics.streams_refused == 4).await;
    honest(&mut client, &peer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allocation_over_tcp_survives_silence() -> Result<()> {
    let server = Server::with(|config| {
        config.streams = StreamLimits { idle: Duration::from_millis(100), ..StreamLimits::default() };
    })?;
    let mut client = TurnClient::tcp(server.address, "alice", "wonderland").await?;
    client.allocate().await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(client.refresh(600).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_and_oversized_first_messages_end_the_connection() -> Result<()> {
    let server = Server::start()?;
    let oversized = [&[0, 3, 0xFF, 0xFC, 0x21, 0x12, 0xA4, 0x42][..], &[0; 8192]].concat();
    for bytes in [&[0xFF; 64][..], &oversized] {
        let mut stream = TcpStream::connect(server.address).await?;
        stream.write_all(bytes).await?;
        let closed = timeout(PATIENCE, stream.read(&mut [0; 16])).await.context("not closed")?;
        assert!(!matches!(closed, Ok(1..)), "an answer");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn security_12_connections_of_one_source_are_capped() -> Result<()> {
    let server = Server::with(|config| {
        config.streams = StreamLimits { connections_per_source: 10, ..StreamLimits::default() };
    })?;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(TcpStream::connect(server.address).await?);
    }
    let mut refused = TcpStream::connect(server.address).await?;
    assert!(!matches!(timeout(PATIENCE, refused.read(&mut [0; 1])).await.context("not closed")?, Ok(1..)));
    drop(held);
    for _ in 0..500 {
        let client = TurnClient::tcp(server.address, "alice", "wonderland").await;
        if let Ok(mut client) = client
            && client.allocate().await.is_ok()
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no place after the others left");
}

#[tokio::test(flavor = "multi_thread")]
async fn security_12_a_slow_reader_is_dropped_alone_and_costs_bounded_memory() -> Result<()> {
    let server = Server::with(|config| {
        config.streams = StreamLimits { write: Duration::from_millis(500), ..StreamLimits::default() };
    })?;
    let (mut client, peer) = honest_client(&server).await?;
    let mut slow = TurnClient::tcp(server.address, "bob", "builder").await?;
    let relayed = slow.allocate().await?;
    let flooder = UdpSocket::bind("127.0.0.1:0").await?;
    assert_eq!(slow.bind(0x4000, flooder.local_addr()?).await?, 0);
    let data = [7; 1200];
    for round in 0..200_000_u32 {
        let _ = flooder.send_to(&data, relayed).await;
        if round % 2000 == 0 {
            honest(&mut client, &peer).await?;
            if server.handle.metrics().streams == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    server.until("dropped", |metrics| metrics.streams == 0 && metrics.allocations == 1).await;
    assert!(server.handle.metrics().unsent_stream_messages > 0);
    honest(&mut client, &peer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn security_3_an_allocation_flood_ends_at_the_quota() -> Result<()> {
    let server = Server::with(|config| config.limits.allocations_per_user = 3)?;
    let (mut client, peer) = honest_client(&server).await?;
    let mut codes = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut flooder = TurnClient::tcp(server.address, "bob", "builder").await?;
        codes.push(flooder.allocate().await.map_or_else(|error| error.to_string(), |_| "granted".into()));
        clients.push(flooder);
    }
    assert_eq!(codes[..3], ["granted"; 3]);
    assert_eq!(codes[3..], ["Allocate: 486"; 3]);
    honest(&mut client, &peer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn security_1_the_servers_own_ports_are_refused_even_where_loopback_is_allowed() -> Result<()> {
    let server = Server::start()?;
    let mut client = TurnClient::udp(server.address, "alice", "wonderland").await?;
    client.allocate().await?;
    assert_eq!(client.permit(server.address).await?, 403);
    assert_eq!(client.bind(0x4000, server.address).await?, 403);
    let peer = UdpSocket::bind("127.0.0.1:0").await?;
    assert_eq!(client.permit(peer.local_addr()?).await?, 0);
    client.send_indication(server.address, &[0; 20], false).await?;
    server.until("refused", |metrics| metrics.counters.policy_refusals == 3).await;
    Ok(())
}
