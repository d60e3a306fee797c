//! The way to the server: its URL, its address, TCP, and TLS if asked for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use url::{Host, Position, Url};

use super::{SignalingError, SignalingOptions};
use crate::io::tls::handshake_failed;
use crate::io::{names, witness};

/// Where the server is.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    is_tls: bool,
    host: Host<String>,
    port: u16,
    /// What goes in front of the routes.
    prefix: String,
    /// Host, and port if it is not the scheme's.
    pub(super) authority: String,
}

/// A connection to the server.
pub(super) struct Connected {
    pub(super) stream: Box<dyn Duplex>,
    pub(super) remote: SocketAddr,
    pub(super) local: SocketAddr,
}

pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Endpoint {
    pub(super) fn parse(text: &str) -> Result<Self, SignalingError> {
        let broken = |reason: &str| SignalingError::Url { url: text.to_owned(), reason: reason.to_owned() };
        let url = Url::parse(text).map_err(|error| broken(&in_words(error)))?;
        let (is_tls, default_port) = match url.scheme() {
            "http" | "ws" => (false, 80),
            "https" | "wss" => (true, 443),
            _ => return Err(broken("it begins with neither http:// nor https://")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(broken("it holds a user or a password"));
        }
        let host = url.host().map(|host| host.to_owned()).ok_or_else(|| broken("it has no host"))?;
        Ok(Self {
            is_tls,
            host,
            port: url.port().unwrap_or(default_port),
            prefix: url.path().trim_end_matches('/').to_owned(),
            authority: url[Position::BeforeHost..Position::AfterPort].to_owned(),
        })
    }

    /// The host, where it is a name.
    pub(super) fn name(&self) -> Option<String> {
        match &self.host {
            Host::Domain(name) => Some(name.clone()),
            Host::Ipv4(_) | Host::Ipv6(_) => None,
        }
    }

    /// Its addresses, by those of its name where it has one.
    pub(super) fn at(&self, found: &[IpAddr]) -> Vec<SocketAddr> {
        match &self.host {
            Host::Domain(_) => found.iter().map(|ip| SocketAddr::new(*ip, self.port)).collect(),
            Host::Ipv4(ip) => vec![(*ip, self.port).into()],
            Host::Ipv6(ip) => vec![(*ip, self.port).into()],
        }
    }

    /// The path of `route` with its query.
    pub(super) fn target(&self, route: &str) -> String {
        format!("{}{route}", self.prefix)
    }

    /// The whole URL of `route`, for WebSocket.
    pub(super) fn websocket_url(&self, route: &str) -> String {
        format!("{}://{}{}", if self.is_tls { "wss" } else { "ws" }, self.authority, self.target(route))
    }

    /// Connects within the options' time.
    pub(super) async fn connect(&self, options: &SignalingOptions) -> Result<Connected, SignalingError> {
        let unreachable = |source| SignalingError::Unreachable { authority: self.authority.clone(), source };
        let addresses = self.addresses().await?;
        let stream = tokio::time::timeout(options.connect_timeout, connect_to_one(&addresses))
            .await
            .map_err(|_| unreachable(io::Error::new(io::ErrorKind::TimedOut, "no answer")))?
            .map_err(unreachable)?;
        let _ = options.made.set(witness::round_trip(&stream).unwrap_or_default());
        stream.set_nodelay(true).map_err(unreachable)?;
        let (remote, local) =
            stream.peer_addr().and_then(|remote| Ok((remote, stream.local_addr()?))).map_err(unreachable)?;
        if !self.is_tls {
            return Ok(Connected { stream: Box::new(stream), remote, local });
        }
        let failed = |source| SignalingError::Tls { authority: self.authority.clone(), source };
        let name = match &self.host {
            Host::Domain(name) => ServerName::try_from(name.clone()).map_err(io::Error::other).map_err(failed)?,
            Host::Ipv4(ip) => ServerName::from(std::net::IpAddr::from(*ip)),
            Host::Ipv6(ip) => ServerName::from(std::net::IpAddr::from(*ip)),
        };
        let connector = TlsConnector::from(client_config(options.roots.as_ref()).map_err(failed)?);
        let stream = tokio::time::timeout(options.connect_timeout, connector.connect(name, stream))
            .await
            .map_err(|_| failed(io::Error::new(io::ErrorKind::TimedOut, "no answer")))?
            .map_err(|error| failed(handshake_failed(error)))?;
        Ok(Connected { stream: Box::new(stream), remote, local })
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, SignalingError> {
        match &self.host {
            Host::Ipv4(ip) => Ok(vec![(*ip, self.port).into()]),
            Host::Ipv6(ip) => Ok(vec![(*ip, self.port).into()]),
            Host::Domain(name) => names::look_up_signaling(name, self.port)
                .await
                .map_err(|source| SignalingError::Name { host: name.clone(), source }),
        }
    }
}

/// What is wrong with a URL, for who typed it.
fn in_words(error: url::ParseError) -> String {
    use url::ParseError;
    match error {
        ParseError::RelativeUrlWithoutBase => "it begins with neither http:// nor https://".into(),
        ParseError::EmptyHost => "it has no host".into(),
        ParseError::InvalidPort => "its port is no number from 0 to 65535".into(),
        ParseError::InvalidIpv4Address => "its host is no address of IPv4, and no name either".into(),
        ParseError::InvalidIpv6Address => "what stands in brackets is no address of IPv6".into(),
        ParseError::IdnaError | ParseError::InvalidDomainCharacter => "its host can be no name".into(),
        other => other.to_string(),
    }
}

/// How long an address has the field to itself before the next one is tried beside it (RFC 8305 §5: 250 ms).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the address that takes it first: they are tried one after the other, families in turn, each without
/// waiting for the end of those before (RFC 8305 §4, §5), so that a dead family costs a moment. The error is the last
/// that tells of the network or the server: that this host has no way to one address family is told only where nothing
/// else is known.
async fn connect_to_one(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let no_way =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable);
    let mut told: Option<io::Error> = None;
    let mut left = families_in_turn(addresses).into_iter();
    let mut attempts: FuturesUnordered<_> = left.next().map(connect_small).into_iter().collect();
    while !attempts.is_empty() {
        tokio::select! {
            biased;
            Some(ended) = attempts.next() => match ended {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    if !(no_way(&error) && told.as_ref().is_some_and(|told| !no_way(told))) {
                        told = Some(error);
                    }
                    attempts.extend(left.next().map(connect_small));
                }
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if left.len() > 0 => attempts.extend(left.next().map(connect_small)),
        }
    }
    Err(told.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

/// The addresses in the system's order, which begins with the family that it prefers, but one of each family in turn.
fn families_in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let (preferred, other): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().partition(|address| address.is_ipv4() == first.is_ipv4());
    let longer = preferred.len().max(other.len());
    (0..longer).flat_map(|at| [preferred.get(at), other.get(at)]).flatten().copied().collect()
}

/// What a segment carries at most: with headers and options no packet is then larger than the smallest that every
/// network has to take (RFC 791 §3.1, RFC 8200 §5).
const fn largest_segment(address: &SocketAddr) -> u32 {
    if address.is_ipv4() { 576 - 40 } else { 1280 - 60 }
}

/// Connects with segments that pass where large packets vanish without a word, in both directions: the option in our SYN
/// binds the server, too.
async fn connect_small(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A system that does not take it has its own size, as without.
    let _ = socket2::SockRef::from(&socket).set_tcp_mss(largest_segment(&address));
    socket.connect(address).await
}

/// The TLS configuration, made when it is first needed: reading the system's roots takes milliseconds.
fn client_config(roots: Option<&Arc<RootCertStore>>) -> io::Result<Arc<ClientConfig>> {
    static SYSTEM: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(roots) = roots {
        return build_config(Arc::clone(roots));
    }
    if let Some(config) = SYSTEM.get() {
        return Ok(Arc::clone(config));
    }
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err(io::Error::other("the system has no root certificates"));
    }
    let config = build_config(Arc::new(roots))?;
    Ok(Arc::clone(SYSTEM.get_or_init(|| config)))
}

fn build_config(roots: Arc<RootCertStore>) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, target, websocket) in [
            ("http://localhost:8080", "/send", "ws://localhost:8080/send"),
            ("https://example.org/", "/send", "wss://example.org/send"),
            ("ws://[::1]:8080/a/b/", "/a/b/send", "ws://[::1]:8080/a/b/send"),
        ] {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!(
                (endpoint.target("/send").as_str(), endpoint.websocket_url("/send").as_str()),
                (target, websocket)
            );
        }
    }

    #[tokio::test]
    async fn an_address_without_a_route_hides_no_refusal_of_another() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // Nobody can connect to it, whatever the routes: the system says that the network is unreachable, and sends nothing.
        let without_route: SocketAddr = "255.255.255.255:9".parse().unwrap();
        for (addresses, kind) in [
            (&[closed, without_route][..], io::ErrorKind::ConnectionRefused),
            (&[without_route, closed], io::ErrorKind::ConnectionRefused),
            (&[without_route, without_route], io::ErrorKind::NetworkUnreachable),
            (&[], io::ErrorKind::NotFound),
        ] {
            let error = connect_to_one(addresses).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{addresses:?}: {error}");
        }
    }

    #[test]
    fn families_take_turns_from_the_one_that_the_system_prefers() {
        let sorted = |list: &[&str]| {
            let addresses: Vec<SocketAddr> = list.iter().map(|text| text.parse().unwrap()).collect();
            families_in_turn(&addresses).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            sorted(&["[::1]:1", "[::2]:1", "[::3]:1", "192.0.2.1:1"]),
            ["[::1]:1", "192.0.2.1:1", "[::2]:1", "[::3]:1"]
        );
        assert_eq!(sorted(&["192.0.2.1:1", "192.0.2.2:1", "[::1]:1"]), ["192.0.2.1:1", "[::1]:1", "192.0.2.2:1"]);
        assert!(sorted(&[]).is_empty());
    }

    #[tokio::test]
    async fn a_dead_family_does_not_hold_up_the_other() {
        // A queue that is full takes no connection and refuses none, like a gateway that is dead.
        let full = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        full.bind(&"[::1]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        let dead = full.local_addr().unwrap().as_socket().unwrap();
        let _fills = std::net::TcpStream::connect(dead).unwrap();
        let works = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let alive = works.local_addr().unwrap();
        let addresses = [dead, alive];
        let connecting = tokio::time::timeout(ATTEMPT_DELAY * 3, connect_to_one(&addresses));
        assert_eq!(connecting.await.expect("in time").unwrap().peer_addr().unwrap(), alive);
    }

    #[test]
    fn a_broken_url_says_what_is_wrong() {
        const SCHEME: &str = "it begins with neither http:// nor https://";
        for (url, words) in [
            ("", SCHEME),
            ("localhost:8080", SCHEME),
            ("192.0.2.1:8080", SCHEME),
            ("example.org", SCHEME),
            ("ftp://example.org", SCHEME),
            ("http://", "it has no host"),
            ("http://a:b@c", "it holds a user or a password"),
            ("http://a:99999", "its port is no number from 0 to 65535"),
            ("http://192.0.2.300", "its host is no address of IPv4, and no name either"),
            ("http://[2001:db8]:8080", "what stands in brackets is no address of IPv6"),
            ("http://a b", "its host can be no name"),
        ] {
            match Endpoint::parse(url).unwrap_err() {
                SignalingError::Url { reason, .. } => assert_eq!(reason, words, "{url}"),
                other => panic!("{url}: {other}"),
            }
        }
    }
}
