//! What an operator does: `whyrelay serve` with files, metrics, and SIGHUP.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::Method;

use crate::client::{PATIENCE, TurnClient};

/// The program, serving on loopback with its files in a directory. It ends when dropped.
pub(crate) struct Serve {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
    signaling: SocketAddr,
    pub(crate) stun: SocketAddr,
    discovery: Vec<SocketAddr>,
    pub(crate) directory: TempDir,
}

impl Serve {
    /// It may relay to loopback.
    pub(crate) async fn start(flags: &[&str]) -> Result<Self> {
        Self::start_strictly(&[&["--allow-loopback-peers"], flags].concat()).await
    }

    /// It may relay where the flags allow.
    pub(crate) async fn start_strictly(flags: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        write_certificate(directory.path(), "localhost")?;
        std::fs::write(directory.path().join("users"), "alice:wonderland\n")?;
        std::fs::write(directory.path().join("secret"), "north\n")?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_whyrelay"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--turn-users-file", "users"]);
        command.args(["--turn-secret-file", "secret", "--relay-address", "127.0.0.1", "-v"]);
        if !flags.contains(&"--stun-listen") {
            command.args(["--stun-listen", "127.0.0.1:0"]);
        }
        command.args(flags).current_dir(directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("starting whyrelay")?;
        let mut greeting = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let said = BufReader::new(child.stderr.take().context("stderr")?).lines();
        let line = timeout(PATIENCE, greeting.next_line()).await.context("no greeting")??.context("no greeting")?;
        let addresses: Vec<SocketAddr> =
            line.split([' ', ',', '(']).filter_map(|word| word.trim_end_matches('.').parse().ok()).collect();
        let [signaling, stun, discovery @ ..] = &addresses[..] else { anyhow::bail!("{line}") };
        let (signaling, stun, discovery) = (*signaling, *stun, discovery.to_vec());
        Ok(Self { child, said, signaling, stun, discovery, directory })
    }

    /// Sends SIGHUP and waits for what the server says of it.
    async fn reload(&mut self) -> Result<String> {
        kill(Pid::from_raw(i32::try_from(self.child.id().context("it has ended")?)?), Signal::SIGHUP)?;
        let about = async {
            while let Some(line) = self.said.next_line().await? {
                if line.contains("reloaded") {
                    return Ok(line);
                }
            }
            anyhow::bail!("it said nothing of it")
        };
        timeout(PATIENCE, about).await.context("no word of the reload")?
    }

    /// Its threads that carry datagrams: name, and how often each was put on a core so far.
    pub(crate) fn carriers(&self) -> Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id().context("it has ended")?))? {
            let path = task?.path();
            // One of the runtime's may have ended since.
            let read = |file: &str| std::fs::read_to_string(path.join(file));
            let (Ok(name), Ok(runs)) = (read("comm"), read("schedstat")) else { continue };
            if let Some(number) = name.trim().strip_prefix("turn-") {
                found.push((number.to_owned(), runs.split_whitespace().nth(2).context("schedstat")?.parse()?));
            }
        }
        found.sort();
        Ok(found)
    }

    async fn metrics(&self) -> Result<String> {
        fetch(self.signaling, "/metrics", "").await
    }
}

fn write_certificate(directory: &Path, name: &str) -> Result<()> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    std::fs::write(directory.join("cert.pem"), made.cert.pem())?;
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem())?;
    Ok(())
}

/// A client configuration that trusts the certificate that lies there now.
pub(crate) fn trusting(directory: &Path) -> Result<rustls::ClientConfig> {
    use rustls_pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file(directory.join("cert.pem"))?)?;
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn fetch(server: SocketAddr, path: &str, headers: &str) -> Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.context("no answer")??;
    Ok(answer)
}

/// A value of the metrics.
fn value(metrics: &str, name: &str) -> Option<u64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

pub(crate) async fn relays(client: &mut TurnClient, peer: &UdpSocket) -> Result<()> {
    client.send_indication(peer.local_addr()?, b"hello", false).await?;
    let mut buffer = [0; 16];
    let (length, _) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.context("nothing relayed")??;
    ensure!(&buffer[..length] == b"hello", "something else was relayed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_replaces_certificate_users_and_secret_and_drops_no_allocation() -> Result<()> {
    let mut serve = Serve::start(&["--tls-cert", "cert.pem", "--tls-key", "key.pem"]).await?;
    let directory = serve.directory.path().to_owned();
    let first = trusting(&directory)?;
    let peer = UdpSocket::bind("127.0.0.1:0").await?;
    let mut over_udp = TurnClient::udp(serve.stun, "alice", "wonderland").await?;
    let mut over_tls = TurnClient::tls(serve.stun, first, "alice", "wonderland").await?;
    let made = time_limited("north", "carol");
    let mut limited = TurnClient::udp(serve.stun, &made.0, &made.1).await?;
    for client in [&mut over_udp, &mut over_tls, &mut limited] {
        client.allocate().await?;
        ensure!(client.permit(peer.local_addr()?).await? == 0, "a permission");
    }

    // Of its own: it must not resume what another client began.
    let stale = trusting(&directory)?;
    write_certificate(&directory, "localhost")?;
    std::fs::write(directory.join("users"), "bob:builder\n")?;
    std::fs::write(directory.join("secret"), "south\n")?;
    assert_eq!(serve.reload().await?, "reloaded");

    for client in [&mut over_udp, &mut over_tls, &mut limited] {
        relays(client, &peer).await?;
        ensure!(client.refresh(600).await? == 0, "a refresh with what made the allocation");
    }
    let second = trusting(&directory)?;
    let mut bob = TurnClient::tls(serve.stun, second, "bob", "builder").await?;
    bob.allocate().await.context("the new user over the new certificate")?;
    ensure!(TurnClient::tls(serve.stun, stale, "bob", "builder").await.is_err(), "the old certificate is served");
    let made = time_limited("south", "carol");
    TurnClient::udp(serve.stun, &made.0, &made.1).await?.allocate().await.context("the new secret")?;
    for (name, password) in [("alice".to_owned(), "wonderland".to_owned()), time_limited("north", "dave")] {
        let refused = TurnClient::udp(serve.stun, &name, &password).await?.allocate().await;
        ensure!(refused.is_err_and(|error| error.to_string() == "Allocate: 401"), "{name} is let in");
    }

    // What cannot be read changes nothing.
    std::fs::write(directory.join("users"), "nonsense\n")?;
    std::fs::write(directory.join("key.pem"), "nonsense\n")?;
    let said = serve.reload().await?;
    ensure!(said.starts_with("not reloaded: "), "{said}");
    TurnClient::udp(serve.stun, "bob", "builder").await?.allocate().await.context("after a failed reload")?;
    Ok(())
}

/// As a back end makes them that shares the secret (coturn's `use-auth-secret`).
pub(crate) fn time_limited(secret: &str, name: &str) -> (String, String) {
    use whyrelay_core::engine::turn_server::SharedSecret;
    use whyrelay_core::time::Timestamp;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let expires = Timestamp::from_micros(now.as_micros() as u64) + Duration::from_secs(600);
    let made = SharedSecret::new(secret).expect("a secret").credentials(name, expires);
    (made.username, made.password)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_turn_nobody_is_relayed_and_stun_is_answered() -> Result<()> {
    let serve = Serve::start(&["--no-turn"]).await?;
    let mut client = TurnClient::udp(serve.stun, "alice", "wonderland").await?;
    let allocate = client.start(Method::ALLOCATE).build();
    client.send(&allocate).await?;
    ensure!(client.receive().await?.code() == 403, "a relay where there is none");
    let binding = client.start(Method::BINDING).build();
    client.send(&binding).await?;
    ensure!(client.receive().await?.code() == 0, "no answer to a Binding request");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happened_and_are_for_this_machine_only() -> Result<()> {
    let serve = Serve::start(&["--user-quota", "1"]).await?;
    let mut client = TurnClient::udp(serve.stun, "alice", "wonderland").await?;
    client.allocate().await?;
    let peer = UdpSocket::bind("127.0.0.1:0").await?;
    ensure!(client.permit(peer.local_addr()?).await? == 0);
    ensure!(client.permit("10.0.0.1:9".parse()?).await? == 403);
    relays(&mut client, &peer).await?;
    let mut second = TurnClient::udp(serve.stun, "alice", "wonderland").await?;
    ensure!(second.allocate().await.is_err_and(|error| error.to_string() == "Allocate: 486"));
    let metrics = serve.metrics().await?;
    ensure!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("text/plain; version=0.0.4"), "{metrics}");
    for (name, expected) in [
        ("whyrelay_turn_allocations", 1),
        ("whyrelay_turn_errors_total{code=\"403\"}", 1),
        ("whyrelay_turn_errors_total{code=\"486\"}", 1),
        ("whyrelay_turn_rejected_by_policy_total{reason=\"private\"}", 1),
        ("whyrelay_turn_relayed_bytes_total{direction=\"to_peer\"}", 5),
        ("whyrelay_signaling_queued_messages", 0),
    ] {
        ensure!(value(&metrics, name) == Some(expected), "{name} in {metrics}");
    }
    for secret in ["alice", "wonderland", "north", "127.0.0.1"] {
        ensure!(!metrics.contains(secret), "{secret} in {metrics}");
    }
    let forwarded = fetch(serve.signaling, "/metrics", "X-Forwarded-For: 192.0.2.1\r\n").await?;
    ensure!(forwarded.starts_with("HTTP/1.1 403"), "{forwarded}");
    Ok(())
}

/// Of a peer that went away for a moment: what comes for it waits.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_how_deep_the_mailboxes_are() -> Result<()> {
    let serve = Serve::start(&[]).await?;
    let mut receiving = TcpStream::connect(serve.signaling).await?;
    receiving.write_all(b"GET /receive?id=bob HTTP/1.1\r\nHost: test\r\n\r\n").await?;
    let mut first = [0; 1];
    timeout(PATIENCE, receiving.read_exact(&mut first)).await.context("no answer")??;
    drop(receiving);
    let wait_for = async |queued: u64, deepest: u64| -> Result<()> {
        let wanted = [("whyrelay_signaling_queued_messages", queued), ("whyrelay_signaling_deepest_mailbox", deepest)];
        for _ in 0..500 {
            let metrics = serve.metrics().await?;
            if wanted.iter().all(|(name, expected)| value(&metrics, name) == Some(*expected)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("never {wanted:?}: {}", serve.metrics().await?)
    };
    let body = r#"{"type":"candidate","content":"","to":"bob","from":"alice"}"#;
    let post = format!(
        "POST /send HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    for sent in 1..=2 {
        // What was written to the connection that is no more waits with the others once that is known.
        let mut stream = TcpStream::connect(serve.signaling).await?;
        stream.write_all(post.as_bytes()).await?;
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.context("no answer")??;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{sent}: {answer}");
    }
    wait_for(2, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_serve_logs_holds_a_secret_or_a_clients_address() -> Result<()> {
    let mut serve = Serve::start(&[]).await?;
    let mut client = TurnClient::udp(serve.stun, "alice", "wonderland").await?;
    client.allocate().await?;
    client.refresh(0).await?;
    let mut said: Vec<String> = Vec::new();
    // The answer to the refresh may come before the line about the relay.
    while !said.last().is_some_and(|line| line.contains("relay closed")) {
        said.push(timeout(PATIENCE, serve.said.next_line()).await.context("silence")??.context("it has ended")?);
    }
    kill(Pid::from_raw(i32::try_from(serve.child.id().context("it has ended")?)?), Signal::SIGTERM)?;
    while let Some(line) = timeout(PATIENCE, serve.said.next_line()).await.context("it does not end")?? {
        said.push(line);
    }
    let said = said.join("\n");
    ensure!(said.contains("relay opened") && said.contains("relay closed"), "{said}");
    for secret in ["wonderland", "alice", "north", "127.0.0.1"] {
        ensure!(!said.contains(secret), "{secret} in {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_addresses_give_behavior_discovery_from_four_sockets() -> Result<()> {
    let serve = Serve::start(&["--alternate-address", "127.0.0.2", "--rfc5780-clients"]).await?;
    let [first, second, third, fourth] = serve.discovery[..] else { anyhow::bail!("{:?}", serve.discovery) };
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let mut random = whyrelay_core::random::Random::from_number(4);
    for (asked, flags, from, other) in
        [(first, 0, first, fourth), (first, 2, second, third), (first, 4, third, second), (fourth, 6, first, fourth)]
    {
        let request = whyrelay_core::wire::stun::MessageBuilder::new(
            whyrelay_core::wire::stun::Class::Request,
            Method::BINDING,
            random.transaction_id(),
        );
        socket.send_to(&request.u32(AttributeType::CHANGE_REQUEST, flags).build(), asked).await?;
        let mut buffer = [0; 200];
        let (length, source) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.context("no answer")??;
        let answer = whyrelay_core::wire::stun::Message::decode(&buffer[..length])?;
        assert_eq!(source, from);
        assert_eq!(answer.address(AttributeType::RESPONSE_ORIGIN), Some(from));
        assert_eq!(answer.address(AttributeType::OTHER_ADDRESS), Some(other));
    }
    Ok(())
}

/// Each with one address and the other's secret: a changed address is answered by the other one, to who has a proof.
#[tokio::test(flavor = "multi_thread")]
async fn two_servers_are_each_others_alternate() -> Result<()> {
    use whyrelay_core::wire::stun::{Class, Message, MessageBuilder};
    let port = two_free_ports()?.to_string();
    let start = async |own: &str, other: &str| {
        let stun = format!("{own}:0");
        let flags = ["--stun-listen", &stun, "--alternate-server", other, "--alternate-secret-file", "secret"];
        Serve::start(&[&flags[..], &["--discovery-port", &port]].concat()).await
    };
    let (first, _second) = (start("127.0.0.1", "127.0.0.2").await?, start("127.0.0.2", "127.0.0.1").await?);
    let asked = *first.discovery.first().context("no discovery")?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let mut random = whyrelay_core::random::Random::from_number(5);
    let mut nonce = String::new();
    for (flags, from) in [(0x06, None), (0x04, Some(0)), (0x06, Some(1))] {
        let request = MessageBuilder::new(Class::Request, Method::BINDING, random.transaction_id())
            .u32(AttributeType::CHANGE_REQUEST, flags)
            .text(AttributeType::NONCE, &nonce);
        socket.send_to(&request.build(), asked).await?;
        let mut buffer = [0; 200];
        let (length, source) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.context("no answer")??;
        let answer = Message::decode(&buffer[..length])?;
        match from {
            None => {
                assert_eq!((source, answer.error_code().map(|error| error.code)), (asked, Some(438)));
                nonce = answer.text(AttributeType::NONCE).context("no nonce")?.to_owned();
            }
            Some(next) => {
                assert_eq!(source, SocketAddr::from(([127, 0, 0, 2], asked.port() + next)));
                assert_eq!(answer.xor_address(AttributeType::XOR_MAPPED_ADDRESS), Some(socket.local_addr()?));
            }
        }
    }
    Ok(())
}

/// Two ports in a row that are free on both addresses now.
fn two_free_ports() -> Result<u16> {
    for _ in 0..50 {
        let port = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let free = |ip: &str, port| std::net::UdpSocket::bind((ip, port)).is_ok();
        let places = [("127.0.0.1", 0), ("127.0.0.1", 1), ("127.0.0.2", 0), ("127.0.0.2", 1)];
        if port < u16::MAX && places.iter().all(|(ip, step)| free(ip, port + step)) {
            return Ok(port);
        }
    }
    anyhow::bail!("no two ports in a row are free")
}
