//! coturn in a namespace, over UDP, TCP and TLS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
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

/// Has the command of `turnserver` serve STUN alone on two addresses, which makes it answer CHANGE-REQUEST, at a port and the
/// one after it, and waits until it listens.
pub(crate) fn on_two_addresses(mut command: Command, addresses: [String; 2], port: u16) -> Result<Process> {
    let [first, second] = &addresses;
    command.args(["-n", "-L", first, "-L", second, "-p", &port.to_string(), "--no-auth", "--no-tls"]);
    command.args(["--no-dtls", "--no-cli", "--log-file", "stdout", "--simple-log", "-v", "--pidfile", "/dev/null"]);
    let process = Process::start("turnserver", &mut command)?;
    for address in &addresses {
        let opened = format!("UDP listener opened on: {address}:{}", port + 1);
        process.line(Duration::from_secs(15), |line| line.contains(&opened))?;
    }
    Ok(process)
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
        Self::start_with(namespace, Certificate::Good)
    }

    /// The same with a certificate of which something is wrong.
    pub(crate) fn start_with(namespace: &Namespace, certificate: Certificate) -> Result<Self> {
        let directory = tempfile::tempdir().context("making a directory for coturn")?;
        let host = namespace.address().to_string();
        let file = |name: &str| directory.path().join(name);
        write_certificate(certificate, &host, directory.path())?;
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

/// What a server's certificate is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certificate {
    /// For its address, by the authority.
    Good,
    /// It ended with the year 2019.
    Expired,
    /// For [`OTHER_NAME`].
    OtherName,
    /// By another authority, for which the first one vouches; the server shows both.
    ByIntermediate,
    /// The same, and the server shows its own alone.
    WithoutIntermediate,
}

/// A name that no server of these tests has.
pub(crate) const OTHER_NAME: &str = "elsewhere.example";

/// An authority and a certificate for `host`, as PEM files.
pub(crate) fn write_certificates(host: &str, directory: &Path) -> Result<()> {
    write_certificate(Certificate::Good, host, directory)
}

/// The same of a certificate that is like this.
fn write_certificate(kind: Certificate, host: &str, directory: &Path) -> Result<()> {
    let authority_of = |name: &str| -> Result<CertificateParams> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, name);
        // Python takes RFC 5280 at its word (VERIFY_X509_STRICT): an authority may sign, and is named by its key.
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        authority.use_authority_key_identifier_extension = true;
        Ok(authority)
    };
    let authority = CertifiedIssuer::self_signed(authority_of("the authority")?, KeyPair::generate()?)?;
    let between = CertifiedIssuer::signed_by(authority_of("one between")?, KeyPair::generate()?, &authority)?;
    let key = KeyPair::generate()?;
    let name = if kind == Certificate::OtherName { OTHER_NAME } else { host };
    let mut server = CertificateParams::new(vec![name.to_owned()])?;
    server.is_ca = IsCa::ExplicitNoCa;
    server.use_authority_key_identifier_extension = true;
    if kind == Certificate::Expired {
        server.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }
    let is_between = matches!(kind, Certificate::ByIntermediate | Certificate::WithoutIntermediate);
    let server = server.signed_by(&key, if is_between { &between } else { &authority })?;
    let more = if kind == Certificate::ByIntermediate { between.pem() } else { String::new() };
    let write = |name: &str, text: String| std::fs::write(directory.join(name), text);
    write("authority.pem", authority.pem())?;
    write("server.pem", server.pem() + &more)?;
    write("server.key", key.serialize_pem())?;
    Ok(())
}
