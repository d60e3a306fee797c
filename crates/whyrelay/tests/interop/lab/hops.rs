//! Routers count hops as routers do, whoever translates there: a packet with too few dies at the right one, which says
//! so to its sender through every NAT in between.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use whyrelay_lab::kernel::{Lab, Plan, RouterChoice};
use whyrelay_lab::scenario::Scenario;

use crate::suite::{Suite, Tool};

/// The server, which listens at no such port and says so.
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 9);
/// An error is a matter of a millisecond; the rest is for a machine that is busy.
const LIMIT: Duration = Duration::from_secs(20);
/// A packet may be lost to a queue for a neighbor: it is repeated.
const AGAIN: u16 = 250;
/// What a router that sends no errors is waited for.
const SILENCE: Duration = Duration::from_secs(1);

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("lab::a_packet_dies_at_the_hop_that_its_ttl_says_and_the_sender_is_told", &tools, hops);
}

/// Type and code of an ICMP error, and whose it is.
type Told = (Ipv4Addr, u8, u8);

fn hops() -> Result<()> {
    for (choice, translating) in [(RouterChoice::Kernel, 0), (RouterChoice::UserSpace, 2)] {
        for icmp in [true, false] {
            let text = format!(
                "title = \"two NATs\"\n[router.inner]\npreset = \"home-router\"\noutside = \"outer\"\nicmp = {icmp}\n\
                 [router.outer]\npreset = \"home-router\"\n[host.a]\nbehind = \"inner\"\n[host.b]\n[expect]\npath = \"direct\"\n"
            );
            let scenario = Scenario::parse("hops", &text)?;
            let topology = &scenario.topology;
            let segment = topology.hosts[0].interfaces[0].segment.context("a is nowhere")?;
            let mut routers = Vec::new();
            for router in topology.way_out(segment) {
                let inside = router.inside_addresses.iter().map(|cidr| cidr.address).find(IpAddr::is_ipv4);
                routers.push(inside.context("a router without an address inside")?);
            }
            ensure!(routers.len() == 2, "{routers:?}");
            let plan = Plan::of(topology, choice)?;
            ensure!(plan.in_user_space().len() == translating, "{choice:?}: {:?}", plan.in_user_space());
            let lab = Lab::up(plan)?;
            let send =
                |ttl: u32, limit| lab.enter("a", || Ok(told_of(ttl, limit).map_err(|error| format!("{error:#}"))));
            for (ttl, router) in (1..).zip(&routers) {
                let limit = if icmp || ttl > 1 { LIMIT } else { SILENCE };
                let told = send(ttl, limit)?.map_err(anyhow::Error::msg)?;
                // Time exceeded in transit (RFC 792).
                let expected = match router {
                    IpAddr::V4(address) if icmp || ttl > 1 => Some((*address, 11, 0)),
                    _ => None,
                };
                ensure!(told == expected, "{choice:?}, ICMP {icmp}, TTL {ttl}: {told:?} instead of {expected:?}");
            }
            // With enough it arrives, where nobody listens at that port.
            let arrived = send(64, LIMIT)?.map_err(anyhow::Error::msg)?;
            ensure!(arrived == Some((*SERVER.ip(), 3, 3)), "{choice:?}, ICMP {icmp}: {arrived:?}");
        }
    }
    Ok(())
}

/// Sends to the server until an error comes back for it, or a time is over.
fn told_of(ttl: u32, limit: Duration) -> Result<Option<Told>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_ttl(ttl)?;
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    let until = Instant::now() + limit;
    while Instant::now() < until {
        // An error for an earlier one may be reported here.
        let _ = socket.send_to(b"how far", SERVER);
        let mut ready = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        poll(&mut ready, PollTimeout::from(AGAIN))?;
        if let Some(told) = error(&socket)? {
            return Ok(Some(told));
        }
    }
    Ok(None)
}

/// The next error in the queue of a socket.
fn error(socket: &UdpSocket) -> Result<Option<Told>> {
    let (mut payload, mut control) = ([0; 64], nix::cmsg_space!([u8; 128]));
    let mut buffers = [IoSliceMut::new(&mut payload)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut buffers, Some(&mut control), flags) {
        Ok(message) => message,
        Err(nix::errno::Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error).context("reading the queue of errors"),
    };
    for part in message.cmsgs()? {
        if let ControlMessageOwned::Ipv4RecvErr(error, Some(offender)) = part {
            let address = Ipv4Addr::from(u32::from_be(offender.sin_addr.s_addr));
            return Ok(Some((address, error.ee_type, error.ee_code)));
        }
    }
    Ok(None)
}
