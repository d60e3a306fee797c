//! Abuse against the program as it is run, with bounds: while an attack lasts, honest clients over UDP and TCP get every
//! answer within the retransmissions that RFC 8489 has them make, and the server's memory, measured from outside at its
//! highest, grows by no more than is said.

use std::net::{IpAddr, SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use whyrelay_core::random::Random;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

use crate::client::{PATIENCE, SPELLINGS, TurnClient};
use crate::operator::{Serve, time_limited, trusting, value};

/// Where the peers of honest clients are: the one address of this machine that may be relayed to.
const HOME: &str = "127.0.0.9";

/// Honest clients over UDP, and over TCP.
const OVER_UDP: usize = 8;
const OVER_TCP: usize = 2;

const MIB: usize = 1 << 20;

/// How honest clients fared.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    asked: u32,
    answered: u32,
    /// To the server, by UDP.
    datagrams_sent: u64,
}

impl Tally {
    fn note(&mut self, answered: bool) {
        self.asked += 1;
        self.answered += u32::from(answered);
    }
}

/// One that refreshes its allocation and has something relayed there and back, over and over.
struct Honest {
    client: TurnClient,
    peer: UdpSocket,
}

impl Honest {
    async fn begin(mut client: TurnClient) -> Result<Self> {
        client.allocate().await?;
        let peer = UdpSocket::bind((HOME, 0)).await?;
        ensure!(client.permit(peer.local_addr()?).await? == 0, "no permission");
        Ok(Self { client, peer })
    }

    async fn until(mut self, stop: Arc<AtomicBool>) -> Result<Tally> {
        let mut tally = Tally::default();
        while !stop.load(Ordering::Relaxed) {
            let refresh = self.client.start(Method::REFRESH).u32(AttributeType::LIFETIME, 600);
            let answer = self.client.ask_patiently(refresh).await?;
            tally.note(answer.is_some_and(|answer| answer.code() == 0));
            let echoed = self.echo(tally.asked).await?;
            tally.note(echoed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tally.datagrams_sent = self.client.datagrams_sent;
        Ok(tally)
    }

    /// Something of its own, there and back; what is lost is sent again, as often as a request is.
    async fn echo(&mut self, number: u32) -> Result<bool> {
        let data = number.to_be_bytes();
        let (address, mut buffer) = (self.peer.local_addr()?, [0; 64]);
        for _ in 0..7 {
            self.client.send_indication(address, &data, false).await?;
            let there = async {
                loop {
                    let (length, relayed) = self.peer.recv_from(&mut buffer).await?;
                    if buffer[..length] == data {
                        return anyhow::Ok(relayed);
                    }
                }
            };
            let Ok(relayed) = timeout(Duration::from_millis(500), there).await else { continue };
            self.peer.send_to(&data, relayed?).await?;
            let is_back = |bytes: &[u8]| {
                Message::decode(bytes)
                    .is_ok_and(|it| it.attribute(AttributeType::DATA).is_some_and(|back| back.value == data))
            };
            if self.client.receive_until(Duration::from_millis(500), is_back).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A server as an operator starts it who allows one peer, and the honest clients that it serves meanwhile.
struct Siege {
    serve: Serve,
    honest: JoinSet<Result<Tally>>,
    stop: Arc<AtomicBool>,
    before: usize,
}

impl Siege {
    async fn begin(flags: &[&str]) -> Result<Self> {
        let home = format!("{HOME}/32");
        let serve = Serve::start_strictly(&[&["--allow-peer", &home], flags].concat()).await?;
        let (stop, mut honest) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for at in 0..OVER_UDP + OVER_TCP {
            let client = match at < OVER_UDP {
                true => TurnClient::udp(serve.stun, "alice", "wonderland").await?,
                false => TurnClient::tcp(serve.stun, "alice", "wonderland").await?,
            };
            let client = Honest::begin(client).await.with_context(|| format!("honest client {at}"))?;
            honest.spawn(client.until(Arc::clone(&stop)));
        }
        // What it needs for them it has by then.
        tokio::time::sleep(Duration::from_millis(300)).await;
        // The highest is measured from now on.
        std::fs::write(format!("/proc/{}/clear_refs", serve.process()?), "5").context("resetting VmHWM")?;
        let before = serve.memory("VmRSS:")?;
        Ok(Self { serve, honest, stop, before })
    }

    /// Honest clients ask no more, and have been served.
    async fn leave(&mut self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        while let Some(tally) = self.honest.join_next().await {
            let tally = tally??;
            ensure!(tally.asked >= 10, "an honest client asked {tally:?} only");
            all.asked += tally.asked;
            all.answered += tally.answered;
            all.datagrams_sent += tally.datagrams_sent;
        }
        ensure!(all.answered * 100 >= all.asked * 99, "honest clients: {all:?}");
        Ok(all)
    }

    /// Honest clients have been served, memory has grown by `bound` at most, and a newcomer is let in.
    async fn end(mut self, bound: usize) -> Result<()> {
        let honest = self.leave().await?;
        self.end_without_honest(honest, bound).await
    }

    /// The same when they have left.
    async fn end_without_honest(self, honest: Tally, bound: usize) -> Result<()> {
        let grown = self.serve.memory("VmHWM:")?.saturating_sub(self.before);
        println!(
            "honest clients: {honest:?}; memory grew by {} KiB at most, from {}",
            grown / 1024,
            self.before / 1024
        );
        ensure!(grown <= bound, "memory grew by {grown} bytes at its highest, {bound} are allowed");
        Honest::begin(TurnClient::tcp(self.serve.stun, "alice", "wonderland").await?).await.context("a newcomer")?;
        Ok(())
    }
}

/// One attack from beginning to end.
async fn besieged(flags: &[&str], bound: usize, attack: impl AsyncFnOnce(SocketAddr) -> Result<()>) -> Result<()> {
    let siege = Siege::begin(flags).await?;
    attack(siege.serve.stun).await.context("the attack")?;
    siege.end(bound).await
}

/// The attack in a thread of its own: blocking, as fast as it can.
async fn by_thread(attack: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    tokio::task::spawn_blocking(attack).await?
}

/// A user whose credentials a back end made, and who turned out to be hostile.
async fn mallory(server: SocketAddr) -> Result<TurnClient> {
    hostile(server, "mallory").await
}

/// Each from an address of its own: they are not to use up the first answers of one.
async fn hostile(server: SocketAddr, name: &str) -> Result<TurnClient> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let (name, password) = time_limited("north", name);
    TurnClient::udp_from([127, 66, high, low].into(), server, &name, &password).await
}

/// A million are sent, as fast as two threads can; the server has read each of them, or its kernel has counted it as
/// dropped: together as many as these and all that honest clients sent. A tenth must have been read.
#[tokio::test(flavor = "multi_thread")]
async fn security_8_a_million_random_datagrams_cost_bounded_memory_and_honest_clients_are_served() -> Result<()> {
    const EACH: u32 = 500_000;
    let mut siege = Siege::begin(&[]).await?;
    let address = siege.serve.stun;
    let attack = |seed| {
        by_thread(move || {
            let mut random = Random::from_number(seed);
            let mut bytes = [0; 1200];
            let sockets: Vec<StdUdpSocket> = (0..64)
                .map(|at| StdUdpSocket::bind(SocketAddr::from(([127, 8, seed as u8, at + 1], 0))))
                .collect::<Result<_, _>>()?;
            for round in 0..EACH {
                let noise: [u8; 32] = random.bytes();
                bytes[..32].copy_from_slice(&noise);
                // Most are short, some as long as a packet; half of them look like STUN up to the cookie, and some of
                // those are whole.
                let length = usize::from(noise[30]) * if round % 16 == 0 { 4 } else { 1 } % bytes.len();
                if round % 2 == 0 {
                    let value = if round % 4 == 0 { 0 } else { length.saturating_sub(20) as u8 & !3 };
                    bytes[..8].copy_from_slice(&[0, noise[1] & 0x0F, 0, value, 0x21, 0x12, 0xA4, 0x42]);
                }
                let length = if round % 4 == 0 { 20 } else { length };
                sockets[round as usize % sockets.len()].send_to(&bytes[..length], address)?;
            }
            Ok(())
        })
    };
    let (one, other) = tokio::join!(attack(1), attack(2));
    one?;
    other?;
    let metrics = siege.serve.metrics().await?;
    ensure!(value(&metrics, "whyrelay_turn_allocations") == Some((OVER_UDP + OVER_TCP) as u64), "{metrics}");
    let noise = value(&metrics, "whyrelay_noise_datagrams_total").context("noise")?;
    ensure!(noise > u64::from(EACH / 5), "the flood did not arrive: {metrics}");
    let honest = siege.leave().await?;
    let sent = u64::from(2 * EACH) + honest.datagrams_sent;
    let handed_over = async {
        loop {
            let metrics = siege.serve.metrics().await?;
            let of = |name: &str| value(&metrics, name).with_context(|| name.to_owned());
            let (read, dropped) =
                (of("whyrelay_received_datagrams_total")?, of("whyrelay_overflowed_datagrams_total")?);
            if read + dropped >= sent {
                return anyhow::Ok((read, dropped));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (read, dropped) = timeout(PATIENCE, handed_over).await.context("not all of a million are accounted for")??;
    println!("{read} of {sent} were read, {dropped} dropped");
    ensure!(read + dropped == sent, "{read} read and {dropped} dropped of {sent}");
    siege.end_without_honest(honest, 24 * MIB).await
}

#[tokio::test(flavor = "multi_thread")]
async fn security_1_attempts_at_an_open_relay_in_every_spelling_leave_honest_clients_served() -> Result<()> {
    besieged(&["--relay-address", "::1"], 16 * MIB, async |server| {
        let canaries = [UdpSocket::bind("127.0.0.1:0").await?, UdpSocket::bind("[::1]:0").await?];
        let ports = [canaries[0].local_addr()?.port(), canaries[1].local_addr()?.port()];
        let mut attackers = JoinSet::new();
        for _ in 0..8 {
            attackers.spawn(async move {
                let mut attacker = mallory(server).await?;
                let both = attacker.allocation().attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
                ensure!(attacker.request(both).await?.code() == 0, "both families");
                let until = Instant::now() + Duration::from_secs(2);
                while Instant::now() < until {
                    for spelling in SPELLINGS {
                        let ip: IpAddr = spelling.parse()?;
                        let peer = SocketAddr::new(ip, ports[usize::from(ip.is_ipv6())]);
                        let codes = (attacker.permit(peer).await?, attacker.bind(0x4000, peer).await?);
                        ensure!(codes == (403, 403), "{peer}: {codes:?}");
                        attacker.send_indication(peer, b"x", false).await?;
                    }
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = attackers.join_next().await {
            done??;
        }
        for canary in canaries {
            let heard = canary.try_recv_from(&mut [0; 10]);
            ensure!(heard.is_err(), "a forbidden peer was reached: {heard:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn security_3_allocation_floods_end_at_the_quotas_and_leave_honest_clients_served() -> Result<()> {
    besieged(&["--total-quota", "300"], 16 * MIB, async |server| {
        let mut attackers = JoinSet::new();
        for number in 0..16 {
            attackers.spawn(async move {
                let (mut held, mut refused) = (Vec::new(), 0);
                for round in 0..100 {
                    // One name over and over, and always another one.
                    let name = if round % 2 == 0 { "mallory".to_owned() } else { format!("mallory-{number}-{round}") };
                    let mut attacker = hostile(server, &name).await?;
                    let request = attacker.allocation();
                    match attacker.ask_patiently(request).await?.map(|answer| answer.code()) {
                        Some(0) => held.push(attacker),
                        Some(486 | 508) => refused += 1,
                        other => anyhow::bail!("{other:?}"),
                    }
                    if refused >= 5 && held.len() + refused > 20 {
                        break;
                    }
                }
                let granted = held.len();
                for mut attacker in held {
                    ensure!(attacker.refresh(0).await? == 0, "what was granted is not there");
                }
                anyhow::Ok((granted, refused))
            });
        }
        let (mut held, mut refused) = (0, 0);
        while let Some(done) = attackers.join_next().await {
            let (some, more) = done??;
            (held, refused) = (held + some, refused + more);
        }
        ensure!(held > 64 && refused >= 16 * 5, "{held} granted, {refused} refused");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn security_3_permission_floods_end_at_the_limits_and_leave_honest_clients_served() -> Result<()> {
    besieged(&["--max-new-peers", "1000000"], 16 * MIB, async |server| {
        let mut attackers = JoinSet::new();
        for number in 0..32_u8 {
            attackers.spawn(async move {
                let mut attacker = mallory(server).await?;
                let request = attacker.allocation();
                let granted = attacker.ask_patiently(request).await?.context("no answer")?.code();
                ensure!(granted == 0, "{granted}");
                // Sent, not waited for; sixteen peers each.
                for round in 0..1000_u16 {
                    let mut request = attacker.start(Method::CREATE_PERMISSION);
                    for at in 0..16 {
                        let [high, low] = (round * 16 + at).to_be_bytes();
                        let peer = SocketAddr::from(([8, number, high, low], 9));
                        request = request.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
                    }
                    let bytes = attacker.sign(request);
                    attacker.send(&bytes).await?;
                    if round % 16 == 0 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                // All answers to the flood are read past.
                let one_more = attacker.permission(SocketAddr::from(([9, number, 9, 9], 9)));
                let code = attacker.ask_patiently(one_more).await?.context("no answer")?.code();
                ensure!(code == 508, "{code} for one permission more");
                anyhow::Ok(())
            });
        }
        while let Some(done) = attackers.join_next().await {
            done??;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn security_9_truncated_and_oversized_messages_leave_honest_clients_served() -> Result<()> {
    besieged(&[], 24 * MIB, async |server| {
        let mut attacker = mallory(server).await?;
        attacker.allocate().await?;
        let request = attacker.permission("8.8.8.8:9".parse()?);
        let whole = attacker.sign(request);
        let over_udp = by_thread(move || {
            let socket = StdUdpSocket::bind("127.0.0.66:0")?;
            let oversized = [0x00, 0x40, 0x4F, 0x50, 0x80, 0xFF].map(|first| vec![first; 65_507]);
            for round in 0..300 {
                for length in 0..whole.len() {
                    let _ = socket.send_to(&whole[..length], server);
                }
                let _ = socket.send_to(&oversized[round % oversized.len()], server);
            }
            Ok(())
        });
        let over_tcp = async {
            let oversized = [&[0, 3, 0xFF, 0xFC, 0x21, 0x12, 0xA4, 0x42][..], &[0; 16_384]].concat();
            for round in 0..300 {
                let mut stream = TcpStream::connect(server).await?;
                // It may close before all of it is written.
                let _ = stream.write_all(if round % 2 == 0 { &oversized } else { &[0xFF; 64] }).await;
                let closed = timeout(PATIENCE, stream.read(&mut [0; 16])).await.context("not closed")?;
                ensure!(!matches!(closed, Ok(1..)), "an answer");
            }
            anyhow::Ok(())
        };
        let (one, other) = tokio::join!(over_udp, over_tcp);
        one.and(other)
    })
    .await
}

/// From ten sources, and from one more than a source may have; silent, or in the middle of a message or a handshake. They
/// are open all the while.
#[tokio::test(flavor = "multi_thread")]
async fn security_12_half_open_connections_leave_honest_clients_served() -> Result<()> {
    const EACH: usize = 80;
    const OF_ONE_SOURCE: usize = 256;
    allow_many_files()?;
    let tls = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    // A connection costs its buffer, its task, and while it shakes hands rustls' buffers.
    besieged(&tls, (10 * EACH + OF_ONE_SOURCE) * 24 * 1024 + 8 * MIB, async |server| {
        let client_hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3][..], &[7; 100]].concat();
        let beginnings: [&[u8]; 4] = [b"", &[0, 1, 0], &[0, 3, 0xFF, 0xFC, 0x21, 0x12, 0xA4, 0x42], &client_hello];
        let (mut held, mut of_one) = (Vec::new(), Vec::new());
        for source in 0..=10 {
            for number in 0..if source == 0 { OF_ONE_SOURCE + 50 } else { EACH } {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::from(([127, 6, 6, 100 + source], 0)))?;
                let mut stream = socket.connect(server).await?;
                let written = stream.write_all(beginnings[number % beginnings.len()]).await;
                if source == 0 {
                    of_one.push(stream);
                } else {
                    written?;
                    held.push(stream);
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let is_open = |stream: &TcpStream| matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        let open = held.iter().filter(|stream| is_open(stream)).count();
        ensure!(open == 10 * EACH, "{open} are still open");
        let open = of_one.iter().filter(|stream| is_open(stream)).count();
        ensure!(open == OF_ONE_SOURCE, "{open} of one source are still open");
        Ok(())
    })
    .await
}

/// Forty clients take nothing of what is sent to them, as fast as it comes.
#[tokio::test(flavor = "multi_thread")]
async fn security_12_slow_readers_cost_bounded_memory_and_leave_honest_clients_served() -> Result<()> {
    const READERS: usize = 40;
    // Half a mebibyte waits for each, and as much again may be on its way to the socket.
    besieged(&[], READERS * MIB + 8 * MIB, async |server| {
        let flooder = StdUdpSocket::bind((HOME, 0))?;
        let mut readers = Vec::new();
        for number in 0..READERS {
            let (name, password) = time_limited("north", &format!("slow-{number}"));
            let mut reader = TurnClient::tcp(server, &name, &password).await?;
            let relayed = reader.allocate().await?;
            ensure!(reader.bind(0x4000, flooder.local_addr()?).await? == 0, "no channel");
            readers.push((reader, relayed));
        }
        let relayed: Vec<SocketAddr> = readers.iter().map(|(_, relayed)| *relayed).collect();
        by_thread(move || {
            let begin = std::time::Instant::now();
            while begin.elapsed() < Duration::from_secs(3) {
                for relayed in &relayed {
                    let _ = flooder.send_to(&[7; 1200], relayed);
                }
            }
            Ok(())
        })
        .await?;
        drop(readers);
        Ok(())
    })
    .await
}

/// Requests for answers from elsewhere, from a thousand addresses whose owners asked for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn security_6_forged_sources_asking_for_behavior_tests_leave_honest_clients_served() -> Result<()> {
    allow_many_files()?;
    let siege = Siege::begin(&["--alternate-address", "127.0.0.2", "--rfc5780-clients"]).await?;
    let asked = *siege.serve.discovery.first().context("no discovery")?;
    by_thread(move || {
        let request = MessageBuilder::new(Class::Request, Method::BINDING, TransactionId([1; 12]))
            .u32(AttributeType::CHANGE_REQUEST, 6)
            .build();
        let mut victims = Vec::new();
        for at in 0..1000_u16 {
            let victim = StdUdpSocket::bind(SocketAddr::from(([127, 7, (at / 250) as u8, (at % 250 + 1) as u8], 0)))?;
            victim.set_nonblocking(true)?;
            victims.push(victim);
        }
        let begin = std::time::Instant::now();
        for _ in 0..100 {
            for victim in &victims {
                let _ = victim.send_to(&request, asked);
            }
        }
        std::thread::sleep(Duration::from_millis(200));
        let seconds = begin.elapsed().as_secs() as usize + 1;
        let heard = |victim: &StdUdpSocket| std::iter::from_fn(|| victim.recv_from(&mut [0; 200]).ok()).count();
        let answers: usize = victims.iter().map(heard).sum();
        ensure!(answers <= 50 * seconds, "{answers} answers to strangers within {seconds} s");
        Ok(())
    })
    .await?;
    siege.end(16 * MIB).await
}

/// Out of file descriptors it neither spins nor ends: who is there is served, and newcomers are once there is room.
#[tokio::test(flavor = "multi_thread")]
async fn without_file_descriptors_it_neither_spins_nor_ends() -> Result<()> {
    let mut siege = Siege::begin(&[]).await?;
    let (serve, server) = (&siege.serve, siege.serve.stun);
    let limit = format!("--nofile={}", serve.open_files()? + 20);
    let limited = std::process::Command::new("prlimit").args(["--pid", &serve.process()?.to_string(), &limit]).status();
    ensure!(limited.context("prlimit (util-linux)")?.success(), "prlimit");
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(TcpStream::connect(server).await?);
        held.push(TcpStream::connect(serve.signaling).await?);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    ensure!(serve.open_files()? >= limit.trim_start_matches("--nofile=").parse::<usize>()? - 1, "some are left");
    // Honest clients ask all the while, which is most of what it does.
    let before = serve.processor_time()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let taken = serve.processor_time()? - before;
    ensure!(taken < Duration::from_secs(1), "it took {taken:?} of two seconds");
    let mut late = mallory(server).await?;
    let refused = late.allocate().await;
    ensure!(refused.is_err_and(|error| error.to_string() == "Allocate: 508"), "a relay without a socket");
    // Each of the two listeners tries ten times a second or more, and says so every five.
    let said = siege.serve.has_said("cannot accept a connection");
    ensure!((2..=4).contains(&said), "it was said {said} times");
    drop(held);
    siege.end(16 * MIB).await
}

/// Each way every fifth datagram is lost, and every tenth comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_fifth_of_all_datagrams_lost_each_way_every_client_is_served_and_has_one_allocation() -> Result<()> {
    const CLIENTS: u64 = 30;
    let serve = Serve::start(&[]).await?;
    let mut tasks = JoinSet::new();
    for number in 0..CLIENTS {
        let server = lossy_way(serve.stun, number).await?;
        tasks.spawn(async move {
            let mut client = TurnClient::udp(server, "alice", "wonderland").await?;
            // Nothing here takes a round trip of half a second.
            client.rto = Duration::from_millis(100);
            let mut tally = Tally::default();
            let allocation = client.allocation();
            tally.note(client.ask_patiently(allocation).await?.is_some_and(|answer| answer.code() == 0));
            for peer in 0..4 {
                let permission = client.permission(SocketAddr::from(([127, 0, 0, 10 + peer], 9)));
                tally.note(client.ask_patiently(permission).await?.is_some_and(|answer| answer.code() == 0));
            }
            anyhow::Ok((client, tally))
        });
    }
    let (mut clients, mut all) = (Vec::new(), Tally::default());
    while let Some(done) = tasks.join_next().await {
        let (client, tally) = done??;
        clients.push(client);
        (all.asked, all.answered) = (all.asked + tally.asked, all.answered + tally.answered);
    }
    ensure!(all.answered * 100 >= all.asked * 98, "{all:?}");
    let metrics = serve.metrics().await?;
    // Requests that were sent again and came twice made none besides.
    ensure!(value(&metrics, "whyrelay_turn_allocations_total") == Some(CLIENTS), "{metrics}");
    ensure!(value(&metrics, "whyrelay_turn_allocations") == Some(CLIENTS), "{metrics}");
    for mut client in clients {
        let leave = client.start(Method::REFRESH).u32(AttributeType::LIFETIME, 0);
        // An answer that was lost: then there is nothing to refresh.
        client.ask_patiently(leave).await?;
    }
    let metrics = serve.metrics().await?;
    ensure!(value(&metrics, "whyrelay_turn_allocations") == Some(0), "{metrics}");
    Ok(())
}

/// The address of a way to the server that loses datagrams.
async fn lossy_way(server: SocketAddr, seed: u64) -> Result<SocketAddr> {
    let own = SocketAddr::from(([127, 5, 0, 1 + seed as u8], 0));
    let (near, far) = (UdpSocket::bind("127.0.0.1:0").await?, UdpSocket::bind(own).await?);
    far.connect(server).await?;
    let address = near.local_addr()?;
    let mut random = Random::from_number(seed);
    tokio::spawn(async move {
        let (mut out, mut back, mut client) = ([0; 2048], [0; 2048], None);
        loop {
            let (is_out, length) = tokio::select! {
                Ok((length, source)) = near.recv_from(&mut out) => {
                    client = Some(source);
                    (true, length)
                }
                Ok(length) = far.recv(&mut back) => (false, length),
                else => return,
            };
            let [loss, again] = random.bytes::<2>();
            let copies = if loss < 51 { 0 } else { 1 + usize::from(again < 26) };
            for _ in 0..copies {
                let _ = match (is_out, client) {
                    (true, _) => far.send(&out[..length]).await,
                    (false, Some(client)) => near.send_to(&back[..length], client).await,
                    (false, None) => continue,
                };
            }
        }
    });
    Ok(address)
}

/// The usual soft limit of 1024 is too little for what these attackers hold.
fn allow_many_files() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// Over TLS as over TCP: a connection that was taken up goes on while others shake hands for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn security_12_handshakes_that_lead_nowhere_leave_a_client_over_tls_served() -> Result<()> {
    let siege = Siege::begin(&["--tls-cert", "cert.pem", "--tls-key", "key.pem"]).await?;
    let trusted = trusting(siege.serve.directory.path())?;
    let over_tls = TurnClient::tls(siege.serve.stun, trusted.clone(), "alice", "wonderland").await?;
    let honest = tokio::spawn(Honest::begin(over_tls).await?.until(Arc::clone(&siege.stop)));
    for round in 0..300 {
        let stream = TcpStream::connect(siege.serve.stun).await?;
        // Half of them go through with it, and say nothing then.
        if round % 2 == 0 {
            let connector = tokio_rustls::TlsConnector::from(Arc::new(trusted.clone()));
            drop(connector.connect("localhost".try_into()?, stream).await?);
        }
    }
    let stop = Arc::clone(&siege.stop);
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);
    let tally = honest.await??;
    ensure!(tally.asked >= 10 && tally.answered == tally.asked, "over TLS: {tally:?}");
    siege.end(24 * MIB).await
}
