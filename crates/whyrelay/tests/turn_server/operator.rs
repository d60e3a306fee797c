//! What an operator does: `whyrelay serve` with files, metrics, and SIGHUP.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Method, TransactionId};

use crate::client::{PATIENCE, TurnClient};

/// The program, serving on loopback with its files in a directory. It ends when dropped.
pub(crate) struct Serve {
    child: Child,
    /// What it says on stderr, read all the while: what finds no room in the pipe is lost.
    said: UnboundedReceiver<String>,
    pub(crate) signaling: SocketAddr,
    pub(crate) stun: SocketAddr,
    pub(crate) discovery: Vec<SocketAddr>,
    pub(crate) directory: TempDir,
}

impl Serve {
    /// It may relay to loopback.
    pub(crate) async fn start(flags: &[&str]) -> Result<Self> {
        Self::start_strictly(&[&["--allow-loopback-peers"], flags].concat()).await
    }

    /// It may relay where the flags allow.
    pub(crate) async fn start_strictly(flags: &[&str]) -> Result<Self> {
        Self::start_with(flags, Stdio::piped()).await
    }

    async fn start_with(flags: &[&str], stderr: Stdio) -> Result<Self> {
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
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        let mut child = command.spawn().context("starting whyrelay")?;
        let mut greeting = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let (tell, said) = unbounded_channel();
        if let Some(stderr) = child.stderr.take() {
            let mut lines = BufReader::new(stderr).lines();
            tokio::spawn(async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    // Nobody may listen any more.
                    let _ = tell.send(line);
                }
            });
        }
        let line = timeout(PATIENCE, greeting.next_line()).await.context("no greeting")??.context("no greeting")?;
        let addresses: Vec<SocketAddr> =
            line.split([' ', ',', '(']).filter_map(|word| word.trim_end_matches('.').parse().ok()).collect();
        let [signaling, stun, discovery @ ..] = &addresses[..] else { anyhow::bail!("{line}") };
        let (signaling, stun, discovery) = (*signaling, *stun, discovery.to_vec());
        Ok(Self { child, said, signaling, stun, discovery, directory })
    }

    /// Sends SIGHUP and waits for what the server says of it.
    async fn reload(&mut self) -> Result<String> {
        kill(self.process()?, Signal::SIGHUP)?;
        self.says("reloaded").await
    }

    /// The next line with these words.
    async fn says(&mut self, words: &str) -> Result<String> {
        let about = async {
            while let Some(line) = self.said.recv().await {
                if line.contains(words) {
                    return Ok(line);
                }
            }
            anyhow::bail!("it said nothing of it")
        };
        timeout(PATIENCE, about).await.with_context(|| format!("no word of {words:?}"))?
    }

    /// How many lines with these words it has said, of those that nobody has asked for.
    pub(crate) fn has_said(&mut self, words: &str) -> usize {
        std::iter::from_fn(|| self.said.try_recv().ok()).filter(|line| line.contains(words)).count()
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

    pub(crate) fn process(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id().context("it has ended")?)?))
    }

    /// A field of its status that counts memory, in bytes.
    pub(crate) fn memory(&self, field: &str) -> Result<usize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process()?))?;
        let line = status.lines().find(|line| line.starts_with(field)).context("no such field")?;
        Ok(line.split_whitespace().nth(1).context("a number")?.parse::<usize>()? * 1024)
    }

    /// The processor's time that it has taken so far.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process()?))?;
        let (_, fields) = stat.rsplit_once(')').context("its fields")?;
        let ticks = |at: usize| -> Result<u64> { Ok(fields.split_whitespace().nth(at).context("a field")?.parse()?) };
        // Of a hundredth of a second each.
        Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
    }

    /// How many files and sockets it has open.
    pub(crate) fn open_files(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.process()?))?.count())
    }

    pub(crate) async fn metrics(&self) -> Result<String> {
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
pub(crate) fn value(metrics: &str, name: &str) -> Option<u64> {
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
    // Each client is challenged once; what was sent again on a busy machine counts as well.
    for (name, least) in [
        ("whyrelay_turn_requests_total{method=\"Allocate\"}", 4),
        ("whyrelay_turn_requests_total{method=\"CreatePermission\"}", 2),
        ("whyrelay_challenges_total", 2),
    ] {
        ensure!(value(&metrics, name).is_some_and(|count| count >= least), "{name} in {metrics}");
    }
    ensure!(!metrics.contains("errors_total{code=\"401\"}"), "a challenge is no refusal: {metrics}");
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
        said.push(timeout(PATIENCE, serve.said.recv()).await.context("silence")?.context("it has ended")?);
    }
    kill(serve.process()?, Signal::SIGTERM)?;
    while let Some(line) = timeout(PATIENCE, serve.said.recv()).await.context("it does not end")? {
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

/// New clients go elsewhere from a reload on, and come back after another; those who are there stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_begins_and_ends_that_new_clients_are_sent_elsewhere() -> Result<()> {
    let second = Serve::start(&[]).await?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("alternates");
    std::fs::write(&file, "")?;
    let mut first = Serve::start(&["--alternate-turn-server-file", &file.display().to_string()]).await?;
    let peer = UdpSocket::bind("127.0.0.1:0").await?;
    let mut alice = TurnClient::udp(first.stun, "alice", "wonderland").await?;
    alice.allocate().await?;
    ensure!(alice.permit(peer.local_addr()?).await? == 0);
    for (text, code) in [(format!("{}\n", second.stun), 300), (String::new(), 0), (format!("{}\n", second.stun), 300)] {
        std::fs::write(&file, text)?;
        assert_eq!(first.reload().await?, "reloaded");
        let mut newcomer = TurnClient::tcp(first.stun, "alice", "wonderland").await?;
        let request = newcomer.allocation();
        let answer = newcomer.request(request).await?;
        assert_eq!(answer.code(), code);
        let named = answer.message().address(AttributeType::ALTERNATE_SERVER);
        assert_eq!(named, (code == 300).then_some(second.stun));
        relays(&mut alice, &peer).await?;
        ensure!(alice.refresh(600).await? == 0);
    }
    std::fs::write(&file, "turn.example.org\n")?;
    let said = first.reload().await?;
    ensure!(said.starts_with("not reloaded: ") && said.contains("line 1"), "{said}");
    Ok(())
}

/// SIGTERM lets nobody in any more; who is there is relayed until he leaves, and then the server ends by itself.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_until_the_last_allocation_ends() -> Result<()> {
    let mut serve = Serve::start(&["--drain", "60"]).await?;
    let peer = UdpSocket::bind("127.0.0.1:0").await?;
    let mut alice = TurnClient::udp(serve.stun, "alice", "wonderland").await?;
    let mut over_tcp = TurnClient::tcp(serve.stun, "alice", "wonderland").await?;
    for client in [&mut alice, &mut over_tcp] {
        client.allocate().await?;
        ensure!(client.permit(peer.local_addr()?).await? == 0);
    }
    kill(serve.process()?, Signal::SIGTERM)?;
    let said = serve.says("live on").await?;
    ensure!(said.contains("2 allocations live on for up to 60 s"), "{said}");
    let refused = TurnClient::udp(serve.stun, "alice", "wonderland").await?.allocate().await;
    ensure!(refused.is_err_and(|error| error.to_string() == "Allocate: 508"), "a newcomer was let in");
    for client in [&mut alice, &mut over_tcp] {
        relays(client, &peer).await?;
        ensure!(client.refresh(600).await? == 0);
        ensure!(serve.child.try_wait()?.is_none(), "it has ended");
        ensure!(client.refresh(0).await? == 0);
    }
    let ended = timeout(PATIENCE, serve.child.wait()).await.context("it does not end")??;
    ensure!(ended.success(), "{ended}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_in_its_time_and_a_second_sigterm_ends_it_at_once() -> Result<()> {
    for (seconds, signals) in [("1", 1), ("600", 2), ("0", 1)] {
        let mut serve = Serve::start(&["--drain", seconds]).await?;
        TurnClient::udp(serve.stun, "alice", "wonderland").await?.allocate().await?;
        kill(serve.process()?, Signal::SIGTERM)?;
        serve.says("closing").await?;
        if seconds != "0" {
            tokio::time::sleep(Duration::from_millis(500)).await;
            ensure!(serve.child.try_wait()?.is_none(), "--drain {seconds}: it has ended already");
        }
        if signals > 1 {
            serve.says("live on").await?;
            kill(serve.process()?, Signal::SIGTERM)?;
        }
        timeout(PATIENCE, serve.child.wait())
            .await
            .with_context(|| format!("--drain {seconds}: it does not end"))??;
    }
    Ok(())
}

/// What is refused is in the log: how often, by code and by reason; from whom at the next level only. A flood costs lines
/// by the second, not by the request.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_logged_by_the_second_without_secrets() -> Result<()> {
    // It is started with one -v.
    for (more, names_clients) in [(&[][..], false), (&["-v"], true)] {
        let mut serve = Serve::start(more).await?;
        let mut client = TurnClient::udp(serve.stun, "alice", "wonderland").await?;
        client.allocate().await?;
        ensure!(client.permit("10.0.0.1:9".parse()?).await? == 403);
        let wrong = TurnClient::udp(serve.stun, "alice", "hunter2").await?.allocate().await;
        ensure!(wrong.is_err_and(|error| error.to_string() == "Allocate: 401"));
        let flooder = UdpSocket::bind("127.0.0.1:0").await?;
        let request = client.start(Method::ALLOCATE).build();
        for _ in 0..2000 {
            flooder.send_to(&request, serve.stun).await?;
        }
        let mut said: Vec<String> = Vec::new();
        for words in ["code=401", "code=403", "reason=\"private\"", "withheld"] {
            let seen = |said: &[String]| said.iter().any(|line| line.contains(words));
            while !seen(&said) {
                let line = timeout(PATIENCE, serve.said.recv()).await.with_context(|| words.to_owned())?;
                said.push(line.context("it has ended")?);
            }
        }
        ensure!(said.len() < 100, "{} lines for 2000 requests", said.len());
        let said = said.join("\n");
        assert_eq!(said.contains("client=127.0.0.1:"), names_clients, "{said}");
        for secret in ["wonderland", "hunter2", "alice", "north"] {
            ensure!(!said.contains(secret), "{secret} in {said}");
        }
    }
    Ok(())
}

/// Behind a 1:1 NAT the second address has another name outside, which is the one that clients are told.
#[tokio::test(flavor = "multi_thread")]
async fn an_alternate_address_behind_a_1_to_1_nat_is_named_as_clients_see_it() -> Result<()> {
    use whyrelay_core::wire::stun::{Class, Message, MessageBuilder};
    let named = ["--alternate-address", "127.0.0.2=198.51.100.8", "--external-address", "198.51.100.7"];
    let serve = Serve::start(&[&named[..], &["--rfc5780-clients"]].concat()).await?;
    let [asked, _, other, _] = serve.discovery[..] else { anyhow::bail!("{:?}", serve.discovery) };
    assert_eq!((asked.ip(), other.ip()), ("127.0.0.1".parse()?, "127.0.0.2".parse::<std::net::IpAddr>()?));
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    for (flags, from, origin) in [(0, asked, "198.51.100.7"), (4, other, "198.51.100.8")] {
        let request = MessageBuilder::new(Class::Request, Method::BINDING, TransactionId([flags as u8; 12]));
        socket.send_to(&request.u32(AttributeType::CHANGE_REQUEST, flags).build(), asked).await?;
        let mut buffer = [0; 200];
        let (length, source) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.context("no answer")??;
        let answer = Message::decode(&buffer[..length])?;
        assert_eq!(source, from);
        assert_eq!(
            answer.address(AttributeType::RESPONSE_ORIGIN),
            Some(SocketAddr::new(origin.parse()?, asked.port()))
        );
        let named = answer.address(AttributeType::OTHER_ADDRESS).context("no other address")?;
        assert_eq!(named.ip().to_string(), if flags == 0 { "198.51.100.8" } else { "198.51.100.7" });
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
    let (mut first, mut second) = (start("127.0.0.1", "127.0.0.2").await?, start("127.0.0.2", "127.0.0.1").await?);
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
    // A new secret, at one and then at both: only who shares it is answered for. What is relayed goes on.
    let mut alice = TurnClient::udp(first.stun, "alice", "wonderland").await?;
    alice.allocate().await?;
    for (server, answers) in [(&mut first, false), (&mut second, true)] {
        std::fs::write(server.directory.path().join("secret"), "south\n")?;
        assert_eq!(server.reload().await?, "reloaded");
        let change = |nonce: &str, random: &mut whyrelay_core::random::Random| {
            let request = MessageBuilder::new(Class::Request, Method::BINDING, random.transaction_id());
            request.u32(AttributeType::CHANGE_REQUEST, 0x06).text(AttributeType::NONCE, nonce).build()
        };
        let mut buffer = [0; 200];
        socket.send_to(&change("", &mut random), asked).await?;
        let (length, _) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.context("no nonce")??;
        let nonce = Message::decode(&buffer[..length])?.text(AttributeType::NONCE).context("a nonce")?.to_owned();
        socket.send_to(&change(&nonce, &mut random), asked).await?;
        let answered = timeout(Duration::from_millis(500), socket.recv_from(&mut buffer)).await;
        assert_eq!(answered.is_ok(), answers);
    }
    ensure!(alice.refresh(600).await? == 0);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_neither_serving_nor_the_end() -> Result<()> {
    // Of two lines each, more than the pipe holds.
    const SESSIONS: usize = 200;
    let (mut unread, stderr) = std::io::pipe()?;
    fcntl(&stderr, FcntlArg::F_SETPIPE_SZ(4 * 4096))?;
    let mut serve = Serve::start_with(&["--allow-loopback-peers"], stderr.into()).await?;
    serves_and_ends(&mut serve, SESSIONS).await?;
    let mut log = Vec::new();
    std::io::Read::read_to_end(&mut unread, &mut log)?;
    let opened = String::from_utf8(log)?.matches("relay opened").count();
    ensure!((1..SESSIONS).contains(&opened), "{opened} of {SESSIONS} were written: the pipe was never full");
    Ok(())
}

/// The log goes to a file on a full disk; nothing else is written by a server.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_the_log_and_nothing_else() -> Result<()> {
    let full = std::fs::File::options().write(true).open("/dev/full")?;
    serves_and_ends(&mut Serve::start_with(&["--allow-loopback-peers"], full.into()).await?, 3).await
}

/// So many allocations, which are logged, and a SIGTERM.
async fn serves_and_ends(serve: &mut Serve, sessions: usize) -> Result<()> {
    let mut alice = TurnClient::udp(serve.stun, "alice", "wonderland").await?;
    for _ in 0..sessions {
        alice.allocate().await?;
        ensure!(alice.refresh(0).await? == 0);
    }
    kill(serve.process()?, Signal::SIGTERM)?;
    let status = timeout(PATIENCE, serve.child.wait()).await.context("it does not end")??;
    ensure!(status.success(), "{status}");
    Ok(())
}
