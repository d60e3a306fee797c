//! What is read of a running program on Linux: its settings, its sockets, the kind of its interface.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use whyrelay_core::host::{HostSocket, Link, SocketTransport, parse_number};

use super::{Known, Origin, Suspect, wireguard};
use crate::host::{sockets, software, tables};

/// Where NetBird keeps its configuration, newest first. It holds keys, too; only `WgPort` is taken.
const NETBIRD_CONFIGURATION: [&str; 2] = ["/var/lib/netbird/default.json", "/etc/netbird/config.json"];

/// Longest configuration that is read, in bytes.
const MAX_CONFIGURATION: u64 = 1 << 20;

/// Open files of a process that are looked at.
const MAX_OPEN_FILES: usize = 4096;

/// The first port of the range that the system gives out by itself: a program's own port lies outside of it or is the
/// only one.
const FIRST_EPHEMERAL: u16 = 32_768;

/// What is known of a program, corrected by what is read of it.
pub(super) fn of(known: Known) -> Suspect {
    let mut suspect = known.defaults();
    let links = tables::links().unwrap_or_default();
    let names: &[&str] = match known {
        Known::Netbird => &["netbird"],
        Known::Tailscale => &["tailscaled"],
        Known::Wireguard => &["wireguard-go", "boringtun"],
    };
    let process = software::processes().find(|(_, name)| names.contains(&name.as_str())).map(|(id, _)| id);
    if let Some(process) = process {
        suspect.origin = Origin::Running;
        suspect.user = user_of(process);
        take_sockets(&mut suspect, process, &links);
    }
    suspect.left_out = left_out(known, &links);
    suspect.left_out.extend(process.iter().flat_map(|process| tunnels_of(*process)));
    suspect.left_out.sort();
    suspect.left_out.dedup();
    match known {
        Known::Netbird => netbird(&mut suspect, process, &links),
        Known::Wireguard => {
            let device = links.values().find(|link| link.link_kind.as_deref() == Some("wireguard"));
            if let Some(device) = device {
                kernel_wireguard(&mut suspect, &device.device);
            }
        }
        Known::Tailscale => {}
    }
    if known != Known::Wireguard {
        suspect.note("one socket for all addresses: each of ours is bound to one, and a rule may select by that");
    }
    suspect
}

/// Interfaces that a program offers no candidates of, by its sources.
fn left_out(known: Known, links: &BTreeMap<u32, Link>) -> Vec<String> {
    const NETBIRD: [&str; 13] =
        ["wt0", "wt", "utun", "tun0", "zt", "ZeroTier", "wg", "ts", "Tailscale", "tailscale", "docker", "veth", "br-"];
    let prefixes: &[&str] = match known {
        Known::Netbird => &NETBIRD,
        Known::Tailscale => &["tailscale"],
        Known::Wireguard => &[],
    };
    let is_left_out = |link: &&Link| {
        let is_wireguard = link.link_kind.as_deref() == Some("wireguard");
        is_wireguard || prefixes.iter().any(|prefix| link.device.starts_with(prefix))
    };
    links.values().filter(is_left_out).map(|link| link.device.clone()).collect()
}

/// Any process: its own port, mark, interface and user.
pub(super) fn of_process(process: u32) -> anyhow::Result<Suspect> {
    let Ok(name) = fs::read_to_string(format!("/proc/{process}/comm")) else {
        anyhow::bail!("--as {process}: there is no such process\nhint: pidof netbird, or name the program itself");
    };
    let name: String = name.trim_end().chars().filter(|c| !c.is_control()).take(64).collect();
    let known = [("netbird", Known::Netbird), ("tailscaled", Known::Tailscale)];
    if let Some((_, known)) = known.iter().find(|(program, _)| *program == name) {
        return Ok(of(*known));
    }
    if fs::read_dir(format!("/proc/{process}/fd")).is_err() {
        anyhow::bail!(
            "--as {process}: the sockets of {name} belong to another user\nhint: run as root, or describe them: mark=0x1bd00,port=51820"
        );
    }
    let mut suspect = Suspect::new(&name, Origin::Running);
    suspect.user = user_of(process);
    suspect.left_out = tunnels_of(process);
    let links = tables::links().unwrap_or_default();
    if !take_sockets(&mut suspect, process, &links) {
        anyhow::bail!("--as {process}: {name} has no UDP socket in this network namespace");
    }
    Ok(suspect)
}

/// The TUN interfaces that a process has made: what goes over them is inside of its own tunnel.
fn tunnels_of(process: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{process}/fdinfo")).into_iter().flatten().flatten();
    let open = entries.take(MAX_OPEN_FILES).filter_map(|entry| fs::read_to_string(entry.path()).ok());
    open.filter_map(|text| text.lines().find_map(|line| Some(line.strip_prefix("iff:")?.trim().to_owned()))).collect()
}

fn user_of(process: u32) -> Option<u32> {
    fs::metadata(format!("/proc/{process}")).ok().map(|metadata| metadata.uid())
}

/// Takes over what the sockets of a process are like; whether it has one.
fn take_sockets(suspect: &mut Suspect, process: u32, links: &BTreeMap<u32, Link>) -> bool {
    let Ok(all) = sockets::of_process(process, links) else { return false };
    let udp: Vec<&HostSocket> = all.iter().filter(|socket| socket.socket_transport == SocketTransport::Udp).collect();
    let own = main_socket(&udp, suspect.port);
    if let Some(own) = own {
        suspect.port = Some(own.local.port());
        suspect.holds_port = true;
        suspect.device.clone_from(&own.bound_device);
        // Rules by user see the one that made the socket, whoever the process is by now.
        suspect.user = Some(own.user);
    }
    // The kernel tells marks only to CAP_NET_ADMIN; without it what is known stands.
    let marks = own.into_iter().chain(udp.iter().copied()).chain(&all).map(|socket| socket.mark);
    match marks.clone().flatten().find(|mark| *mark != 0) {
        Some(mark) => suspect.mark = Some(mark),
        None if marks.flatten().next().is_some() => suspect.mark = None,
        None if own.is_some() => suspect.note("its mark, as it may be set: reading it needs CAP_NET_ADMIN"),
        None => {}
    }
    suspect.raw |= all.iter().any(|socket| socket.socket_transport == SocketTransport::Raw);
    own.is_some()
}

/// The socket by which a program meets its peers: on the port that it is known for, else on one that it chose itself.
fn main_socket<'a>(udp: &[&'a HostSocket], port: Option<u16>) -> Option<&'a HostSocket> {
    let on = |wanted: &dyn Fn(&HostSocket) -> bool| udp.iter().copied().find(|socket| wanted(socket));
    on(&|socket| Some(socket.local.port()) == port)
        .or_else(|| on(&|socket| socket.mark.is_some_and(|mark| mark != 0) && chosen(socket)))
        .or_else(|| on(&chosen))
        .or_else(|| udp.first().copied())
}

fn chosen(socket: &HostSocket) -> bool {
    let port = socket.local.port();
    (1024..FIRST_EPHEMERAL).contains(&port) || matches!(port, 51_820 | 41_641)
}

/// NetBird: environment, configuration, and whether the kernel's WireGuard is in use, beside which it sends raw.
fn netbird(suspect: &mut Suspect, process: Option<u32>, links: &BTreeMap<u32, Link>) {
    let environment = process.and_then(software::environment);
    if process.is_some() && environment.is_none() {
        suspect.note("settings of its environment: reading them needs its user or root");
    }
    let environment = environment.unwrap_or_default();
    let setting = |name: &str| environment.get(name).map(|value| value.trim().to_ascii_lowercase());
    let is_set = |name: &str| matches!(setting(name).as_deref(), Some("1" | "t" | "true" | "yes" | "on"));
    if let Some(base) = setting("NB_FWMARK_BASE").and_then(|value| parse_number(&value)) {
        suspect.mark = Some(base);
    }
    if is_set("NB_SKIP_SOCKET_MARK") || is_set("NB_USE_LEGACY_ROUTING") {
        suspect.mark = None;
    }
    if !suspect.holds_port {
        let configured = setting("NB_WIREGUARD_PORT").and_then(|value| value.parse().ok());
        suspect.port = configured.or_else(configured_port).or(suspect.port);
    }
    let interface = links.values().find(|link| {
        let number = link.device.strip_prefix("wt");
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    match interface {
        Some(interface) if interface.link_kind.as_deref() == Some("wireguard") => {
            suspect.raw = true;
            let mark = suspect.mark;
            kernel_wireguard(suspect, &interface.device);
            // Checks carry the mark of NetBird's own sockets; that of the interface is for WireGuard's packets.
            suspect.mark = mark.or(suspect.mark);
        }
        Some(_) => suspect.raw = false,
        None => {}
    }
}

/// The port that NetBird's configuration names.
fn configured_port() -> Option<u16> {
    NETBIRD_CONFIGURATION.iter().map(Path::new).find_map(|path| {
        if path.metadata().ok()?.len() > MAX_CONFIGURATION {
            return None;
        }
        let text = fs::read_to_string(path).ok()?;
        port_in(&text)
    })
}

fn port_in(text: &str) -> Option<u16> {
    #[derive(serde::Deserialize)]
    struct Configuration {
        #[serde(rename = "WgPort")]
        port: Option<u16>,
    }
    serde_json::from_str::<Configuration>(text).ok()?.port.filter(|port| *port != 0)
}

fn kernel_wireguard(suspect: &mut Suspect, device: &str) {
    match wireguard::read(device) {
        Ok(read) => {
            suspect.origin = Origin::Running;
            suspect.mark = read.mark;
            suspect.holds_port |= read.port.is_some();
            suspect.port = read.port.or(suspect.port);
        }
        Err(error) => suspect.note(format!("port and mark of {device} as it has them: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(port: u16, mark: Option<u32>) -> HostSocket {
        HostSocket {
            socket_transport: SocketTransport::Udp,
            local: ([0, 0, 0, 0], port).into(),
            user: 0,
            mark,
            bound_device: None,
            process_id: None,
            process: None,
        }
    }

    #[test]
    fn the_socket_that_meets_peers_is_told_from_the_others() {
        let (dns, own, ephemeral) = (socket(40_000, None), socket(5000, Some(7)), socket(45_000, Some(0x1BD00)));
        let port = |udp: &[&HostSocket], known| main_socket(udp, known).map(|socket| socket.local.port());
        assert_eq!(port(&[&dns, &own, &ephemeral], Some(51_820)), Some(5000));
        assert_eq!(port(&[&dns, &ephemeral], Some(45_000)), Some(45_000));
        assert_eq!(port(&[&dns, &ephemeral], None), Some(40_000));
        assert_eq!(port(&[], Some(1)), None);
    }

    #[test]
    fn of_a_configuration_with_keys_only_the_port_is_taken() {
        assert_eq!(port_in(r#"{"PrivateKey": "x", "WgPort": 51821, "IFaceBlackList": []}"#), Some(51_821));
        for text in ["", "[]", r#"{"WgPort": 99999}"#, r#"{"WgPort": 0}"#, r#"{"WgIface": "wt0"}"#] {
            assert_eq!(port_in(text), None, "{text}");
        }
    }

    #[test]
    fn a_process_is_read_with_its_socket() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let suspect = of_process(std::process::id()).unwrap();
        assert!(suspect.holds_port && suspect.user == Some(nix::unistd::geteuid().as_raw()), "{suspect:?}");
        drop(socket);
        assert!(of_process(u32::MAX).unwrap_err().to_string().contains("no such process"));
    }
}
