//! What `whyrelay serve` is asked for and cannot do, said before anybody relies on it.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::ensure;
use url::Url;

use super::args::ServeArgs;

/// Refuses what cannot work; `own`: this host's addresses, `stun_listen`: where STUN and TURN listen.
pub(super) fn must_work(args: &ServeArgs, own: &[IpAddr], stun_listen: &[SocketAddr]) -> anyhow::Result<()> {
    if let Some(host) = &args.public_host {
        ensure!(
            is_host(host),
            "--public-host {host}: that is neither a name nor an address\n\
             hint: give it alone, without scheme, port and path, like turn.example.org, 192.0.2.1 or [2001:db8::1]"
        );
    }
    if args.no_stun || args.no_turn {
        return Ok(());
    }
    for ip in &args.relay_address {
        // One that is here may not be usable yet; whatever else keeps it from being bound is said when it is.
        let is_elsewhere = !own.contains(ip)
            && UdpSocket::bind((*ip, 0)).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable);
        let has = own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        ensure!(
            !is_elsewhere,
            "--relay-address {ip}: this host has no such address; it has {has}\n\
             hint: behind a 1:1 NAT the address outside goes into --external-address"
        );
    }
    for ip in &args.external_address {
        let of_family = |other: &IpAddr| other.is_ipv4() == ip.is_ipv4();
        let listened = stun_listen.iter().map(SocketAddr::ip).filter(|listened| !listened.is_unspecified());
        let relays = own.iter().chain(&args.relay_address).copied().chain(listened).any(|own| of_family(&own));
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        ensure!(
            relays,
            "--external-address {ip}: this host has no address of {family} that could be relayed from\n\
             hint: leave it out, or give this host an address of {family}"
        );
    }
    let (first, last) = args.relay_ports;
    let is_free = |port: &u16| !stun_listen.iter().any(|listened| listened.port() == *port);
    ensure!(
        (first..=last).any(|port| is_free(&port)),
        "--relay-ports {first}-{last}: STUN and TURN listen there themselves, which leaves none to relay from\n\
         hint: give more ports, or others; without TURN: --no-turn"
    );
    Ok(())
}

/// Whether it can stand as the host of a URL.
fn is_host(text: &str) -> bool {
    let whole = |url: Url| {
        let alone = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        alone && url.password().is_none() && url.port() == Some(1) && url.host_str().is_some()
    };
    !text.contains(char::is_whitespace)
        && !text.contains('/')
        && Url::parse(&format!("http://{text}:1")).is_ok_and(whole)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::args::{Cli, Verb};
    use super::*;

    fn tried(line: &str) -> anyhow::Result<()> {
        let arguments = ["whyrelay", "serve"].into_iter().chain(line.split_whitespace());
        let Verb::Serve(args) = Cli::try_parse_from(arguments)?.verb else { panic!("it serves") };
        let own: [IpAddr; 1] = ["127.0.0.1".parse()?];
        let stun = if args.stun_listen.is_empty() {
            vec!["0.0.0.0:3478".parse::<SocketAddr>()?]
        } else {
            args.stun_listen.clone()
        };
        must_work(&args, &own, &stun)
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_way_out() {
        for (line, words) in [
            ("--relay-address 203.0.113.7", "this host has no such address; it has 127.0.0.1"),
            ("--relay-ports 3478-3478", "leaves none to relay from"),
            ("--stun-listen 127.0.0.1:5000 --stun-listen 127.0.0.1:5001 --relay-ports 5000-5001", "leaves none"),
            ("--external-address 2001:db8::1", "no address of IPv6"),
            ("--public-host a/b", "neither a name nor an address"),
            ("--public-host turn.example.org:3478", "without scheme, port and path"),
            ("--public-host http://turn.example.org", "without scheme"),
            ("--user-quota 0", "0 is not in 1.."),
            ("--total-quota 0", "0 is not in 1.."),
        ] {
            let error = tried(line).expect_err(line).to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
        assert!(!is_host("a b") && !is_host("") && !is_host("u@h") && !is_host("a?b"));
        for line in [
            "--relay-address 127.0.0.1 --external-address 203.0.113.7 --relay-ports 3478-3479",
            "--public-host turn.example.org",
            "--public-host [2001:db8::1]",
            "--no-turn --relay-address 203.0.113.7",
        ] {
            tried(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
