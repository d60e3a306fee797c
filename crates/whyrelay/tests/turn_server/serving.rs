//! What the flags of `whyrelay serve` promise, over UDP, TCP and TLS, by the program itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method, TransactionId};

use crate::client::{PATIENCE, SPELLINGS, TurnClient};
use crate::operator::{Serve, relays, time_limited, trusting};

const TLS: [&str; 4] = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];

/// A client of a user over each transport.
async fn over_each(serve: &Serve, name: &str, password: &str) -> Result<[TurnClient; 3]> {
    let tls = trusting(serve.directory.path())?;
    Ok([
        TurnClient::udp(serve.stun, name, password).await?,
        TurnClient::tcp(serve.stun, name, password).await?,
        TurnClient::tls(serve.stun, tls, name, password).await?,
    ])
}

async fn code(client: &mut TurnClient) -> String {
    client.allocate().await.map_or_else(|error| error.to_string(), |_| "granted".into())
}

/// Credentials of one name are one user, whenever they expire.
#[tokio::test(flavor = "multi_thread")]
async fn quotas_of_a_user_and_in_total_hold_whatever_the_transport() -> Result<()> {
    let serve = Serve::start(&[&TLS[..], &["--user-quota", "2", "--total-quota", "3"]].concat()).await?;
    let mut alice = over_each(&serve, "alice", "wonderland").await?;
    let mut codes = Vec::new();
    for client in &mut alice {
        codes.push(code(client).await);
    }
    assert_eq!(codes, ["granted", "granted", "Allocate: 486"]);
    let (name, password) = time_limited("north", "carol");
    let mut carol = over_each(&serve, &name, &password).await?;
    codes.clear();
    for client in &mut carol {
        codes.push(code(client).await);
    }
    assert_eq!(codes, ["granted", "Allocate: 508", "Allocate: 508"]);
    // What is given back is free again, for whom has room.
    ensure!(alice[0].refresh(0).await? == 0);
    assert_eq!(code(&mut carol[2]).await, "granted");
    ensure!(alice[1].refresh(0).await? == 0);
    let (name, password) = time_limited("north", "carol");
    assert_eq!(code(&mut TurnClient::udp(serve.stun, &name, &password).await?).await, "Allocate: 486");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn security_1_no_spelling_is_relayed_to_over_any_transport() -> Result<()> {
    let nat64 = ["--allow-peer", "2001:db8:64::/48", "--nat64-prefix", "2001:db8:64::/96"];
    let serve = Serve::start_strictly(&[&TLS[..], &["--relay-address", "::1"], &nat64].concat()).await?;
    let canaries = [UdpSocket::bind("127.0.0.1:0").await?, UdpSocket::bind("[::1]:0").await?];
    for (at, mut client) in over_each(&serve, "alice", "wonderland").await?.into_iter().enumerate() {
        let request = client
            .start(Method::ALLOCATE)
            .attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
        ensure!(client.request(request).await?.code() == 0, "both families over transport {at}");
        for spelling in SPELLINGS {
            let ip: IpAddr = spelling.parse()?;
            let peer = SocketAddr::new(ip, canaries[usize::from(ip.is_ipv6())].local_addr()?.port());
            let codes = (client.permit(peer).await?, client.bind(0x4000, peer).await?);
            ensure!(codes == (403, 403), "{peer} over transport {at}: {codes:?}");
            client.send_indication(peer, b"x", false).await?;
        }
        for (inside, expected) in [("8.8.4.4", 0), ("127.0.0.1", 403), ("10.0.0.1", 403), ("169.254.169.254", 403)] {
            let peer = format!("[2001:db8:64::{inside}]:80").parse()?;
            ensure!(client.permit(peer).await? == expected, "{peer} over transport {at}");
        }
        // Behind the last of them.
        ensure!(client.refresh(600).await? == 0);
    }
    for canary in canaries {
        let heard = canary.try_recv_from(&mut [0; 10]);
        ensure!(heard.is_err(), "a forbidden peer was reached: {heard:?}");
    }
    Ok(())
}

/// The relayed address is the one outside; what comes to the one inside is relayed, and two relays meet by the one
/// outside although nobody here translates it.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_1_to_1_nat_the_external_address_is_told_and_meant() -> Result<()> {
    let external: IpAddr = "198.51.100.7".parse()?;
    let serve = Serve::start(&["--external-address", "198.51.100.7"]).await?;
    let mut alice = TurnClient::udp(serve.stun, "alice", "wonderland").await?;
    let (name, password) = time_limited("north", "carol");
    let mut carol = TurnClient::tcp(serve.stun, &name, &password).await?;
    let (relayed, theirs) = (alice.allocate().await?, carol.allocate().await?);
    assert_eq!((relayed.ip(), theirs.ip()), (external, external));
    let peer = UdpSocket::bind("127.0.0.1:0").await?;
    ensure!(alice.permit(peer.local_addr()?).await? == 0);
    relays(&mut alice, &peer).await?;
    peer.send_to(b"from outside", ("127.0.0.1", relayed.port())).await?;
    let received = alice.receive().await?;
    let data = received.message().attribute(AttributeType::DATA).context("no data")?.value.to_vec();
    assert_eq!(data, b"from outside");

    ensure!(alice.permit(theirs).await? == 0 && carol.permit(relayed).await? == 0);
    alice.send_indication(theirs, b"from relay to relay", false).await?;
    let received = carol.receive().await?;
    let message = received.message();
    assert_eq!(message.xor_address(AttributeType::XOR_PEER_ADDRESS), Some(relayed));
    assert_eq!(message.attribute(AttributeType::DATA).map(|data| data.value), Some(&b"from relay to relay"[..]));
    // The neighbors of that address are as reserved as ever.
    ensure!(alice.permit("198.51.100.8:9".parse()?).await? == 403);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn alternate_turn_server_sends_new_clients_away_over_every_transport() -> Result<()> {
    let second = Serve::start(&[]).await?;
    let first = Serve::start(&[&TLS[..], &["--alternate-turn-server", &second.stun.to_string()]].concat()).await?;
    for mut client in over_each(&first, "alice", "wonderland").await? {
        let request = client.start(Method::ALLOCATE).attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let refused = client.request(request).await?;
        assert_eq!(refused.code(), 300);
        let named = refused.message().address(AttributeType::ALTERNATE_SERVER).context("no server is named")?;
        assert_eq!(named, second.stun);
        TurnClient::udp(named, "alice", "wonderland").await?.allocate().await?;
    }
    Ok(())
}

/// A thread for each core has its share of the clients; as long as the first can look after all of them, the others rest.
#[tokio::test(flavor = "multi_thread")]
async fn every_core_carries_datagrams_once_it_is_needed() -> Result<()> {
    let serve = Serve::start(&[]).await?;
    let cores = std::thread::available_parallelism()?.get().min(16);
    // It greets before the last of them runs.
    let all = async {
        loop {
            let found = serve.carriers()?;
            if found.len() >= cores {
                return anyhow::Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let before = timeout(PATIENCE, all).await.context("not a thread for each core")??;
    assert_eq!(before.len(), cores, "{before:?}");
    let request = MessageBuilder::new(Class::Request, Method::BINDING, TransactionId([1; 12])).build();
    for _ in 0..16 * cores {
        let client = UdpSocket::bind("127.0.0.1:0").await?;
        for _ in 0..4 {
            client.send_to(&request, serve.stun).await?;
            timeout(PATIENCE, client.recv(&mut [0; 100])).await.context("no answer")??;
        }
    }
    let runs = |carriers: Vec<(String, u64)>| -> Vec<u64> {
        before.iter().zip(carriers).map(|((_, before), (_, after))| after - before).collect()
    };
    let alone = runs(serve.carriers()?);
    ensure!(alone[0] >= 4 && alone[1..].iter().all(|other| *other < alone[0] / 2), "put on a core {alone:?} times");
    // More than one can carry.
    let (stun, stop) = (serve.stun, Arc::new(AtomicBool::new(false)));
    let flood = |_| {
        let (request, stop) = (request.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let clients: Vec<_> = (0..16).filter_map(|_| std::net::UdpSocket::bind("127.0.0.1:0").ok()).collect();
            while !stop.load(Ordering::Relaxed) {
                clients.iter().for_each(|client| drop(client.send_to(&request, stun)));
            }
        })
    };
    let floods: Vec<_> = (0..cores).map(flood).collect();
    let all = async {
        while runs(serve.carriers()?).iter().any(|runs| *runs < 4) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    let helped = timeout(PATIENCE, all).await;
    stop.store(true, Ordering::Relaxed);
    floods.into_iter().for_each(|flood| drop(flood.join()));
    helped.with_context(|| format!("put on a core {:?} times", serve.carriers().map(runs)))?
}
