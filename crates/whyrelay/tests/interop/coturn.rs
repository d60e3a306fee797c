//! coturn in a namespace, over UDP, TCP and TLS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::process::Process;
use crate::suite;

/// The account that the server knows.
pub(crate) const USER: &str = "alice";
/// Its password.
pub(crate) const PASSWORD: &str = "not-a-secret";

const PORT: u16 = 3478;
const TLS_PORT: u16 = 5349;

/// How a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// `turn:…?transport=udp`
    Udp,
    /// `turn:…?transport=tcp`
    Tcp,
    /// `turns:…?transport=tcp`
    Tls,
}

/// A TURN server with long-term credentials; it ends when dropped.
pub(crate) struct Coturn {
    process: Process,
    directory: TempDir,
    host: String,
}

impl Coturn {
    /// Starts the server on the address of `namespace` and waits until it listens.
    pub(crate) fn start(namespace: &Namespace) -> Result<Self> {
        Self::start_until(namespace, None)
    }

    /// The same with a certificate that ended with the year 2019.
    pub(crate) fn start_expired(namespace: &Namespace) -> Result<Self> {
        Self::start_until(namespace, Some(2020))
    }

    /// With a certificate that ends as `year` begins.
    fn start_until(namespace: &Namespace, year: Option<i32>) -> Result<Self> {
        let directory = tempfile::tempdir().context("making a directory for coturn")?;
        let host = namespace.address().to_string();
        let file = |name: &str| directory.path().join(name);
        write_certificates_until(&host, directory.path(), year)?;
        let configuration = format!(
            "listening-ip={host}\nrelay-ip={host}\nlistening-port={PORT}\ntls-listening-port={TLS_PORT}\n\
             lt-cred-mech\nrealm=whyrelay.test\nuser={USER}:{PASSWORD}\n\
             cert={}\npkey={}\nuserdb={}\npidfile={}\n\
             allow-loopback-peers\nno-cli\nno-stdout-log\nlog-file={}\nsimple-log\nverbose\n",
            file("server.pem").display(),
            file("server.key").display(),
            file("turndb").display(),
            file("pid").display(),
            file("log").display(),
        );
        let path = file("turnserver.conf");
        std::fs::write(&path, configuration)?;
        let mut command = namespace.command(suite::path("TURNSERVER")?);
        command.arg("-c").arg(path);
        let process = Process::start("turnserver", &mut command)?;
        let coturn = Self { process, directory, host };
        coturn.wait_until_it_listens()?;
        Ok(coturn)
    }

    /// The TURN URL of one transport.
    pub(crate) fn url(&self, transport: Transport) -> String {
        let host = &self.host;
        match transport {
            Transport::Udp => format!("turn:{host}:{PORT}?transport=udp"),
            Transport::Tcp => format!("turn:{host}:{PORT}?transport=tcp"),
            Transport::Tls => format!("turns:{host}:{TLS_PORT}?transport=tcp"),
        }
    }

    /// The PEM file of the authority that has signed the server's certificate, for `SSL_CERT_FILE`.
    pub(crate) fn authority(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn wait_until_it_listens(&self) -> Result<()> {
        let opened = [
            format!("UDP listener opened on: {}:{PORT}", self.host),
            format!("TCP listener opened on : {}:{PORT}", self.host),
            format!("TLS/TCP listener opened on : {}:{TLS_PORT}", self.host),
        ];
        for _ in 0..500 {
            let log = self.log();
            if opened.iter().all(|line| log.contains(line)) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        anyhow::bail!("coturn does not listen\n{}\n{}", self.log(), self.process.account())
    }
}

/// An authority and a certificate for `host`, as PEM files.
pub(crate) fn write_certificates(host: &str, directory: &Path) -> Result<()> {
    write_certificates_until(host, directory, None)
}

/// The same, and the certificate ends as `year` begins.
fn write_certificates_until(host: &str, directory: &Path, year: Option<i32>) -> Result<()> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Python takes RFC 5280 at its word (VERIFY_X509_STRICT): an authority may sign, and is named by its key.
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(vec![host.to_owned()])?;
    server.is_ca = IsCa::ExplicitNoCa;
    server.use_authority_key_identifier_extension = true;
    if let Some(year) = year {
        server.not_after = rcgen::date_time_ymd(year, 1, 1);
    }
    let server = server.signed_by(&key, &authority)?;
    let write = |name: &str, text: String| std::fs::write(directory.join(name), text);
    write("authority.pem", authority.pem())?;
    write("server.pem", server.pem())?;
    write("server.key", key.serialize_pem())?;
    Ok(())
}
