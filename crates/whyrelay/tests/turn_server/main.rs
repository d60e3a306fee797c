//! The embedded STUN and TURN server on loopback: real sockets, all transports, and what attackers try.

mod abuse;
mod client;
mod flood;
mod operator;
mod serving;
mod siege;
mod transports;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;
use tokio::sync::oneshot;
use whyrelay::server::turn::{StunTurnConfig, StunTurnServer, TlsFiles};
use whyrelay_core::engine::turn_server::{Credentials, PeerPolicy};

/// A server on loopback that may relay to loopback; it ends when dropped.
struct Server {
    handle: StunTurnServer,
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Server {
    fn start() -> Result<Self> {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut StunTurnConfig)) -> Result<Self> {
        let mut config = StunTurnConfig {
            listen: vec!["127.0.0.1:0".parse()?],
            relay_addresses: vec!["127.0.0.1".parse()?],
            credentials: Credentials::none().with_user("alice", "wonderland").with_user("bob", "builder"),
            policy: PeerPolicy { allow_loopback_peers: true, ..PeerPolicy::default() },
            ..StunTurnConfig::default()
        };
        change(&mut config);
        let handle = StunTurnServer::bind(config)?;
        let address = handle.addresses()[0];
        let (stop, stopped) = oneshot::channel::<()>();
        let server = handle.clone();
        tokio::spawn(async move {
            server
                .run(async {
                    let _ = stopped.await;
                })
                .await;
        });
        Ok(Self { handle, address, _stop: stop })
    }

    /// Waits until something holds of the server; it must within five seconds.
    async fn until(&self, what: &str, holds: impl Fn(&whyrelay::server::turn::Metrics) -> bool) {
        for _ in 0..500 {
            if holds(&self.handle.metrics()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {what}: {:?}", self.handle.metrics());
    }
}

/// A certificate for `localhost`, on disk, and a client configuration that trusts it.
fn certificate() -> Result<(TempDir, TlsFiles, rustls::ClientConfig)> {
    let directory = tempfile::tempdir()?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let files = TlsFiles { certificates: directory.path().join("cert.pem"), key: directory.path().join("key.pem") };
    std::fs::write(&files.certificates, made.cert.pem())?;
    std::fs::write(&files.key, made.signing_key.serialize_pem())?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((directory, files, client))
}
