//! Whether large packets reach the signaling server. The session's own segments are small, so that it works where they do
//! not; this asks on connections of its own, by what the system says of them (TCP_INFO): the bytes of one large segment
//! stay unacknowledged on connections whose handshake passed at once.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use whyrelay_core::host::{Probe, ProbeAim, ProbeOutcome};

/// The largest packet that is asked for: interfaces of this host may take more than any network beyond.
const LARGEST: u32 = 1500;
/// Smaller ones say nothing that the session's own do not.
const SMALLEST: u32 = 1000;
/// A segment that the system has sent again so often without an answer is lost: 1.4 s after it went on a short path.
const RETRANSMISSIONS: u32 = 3;
/// A second connection, which must agree that it is lost, begins so much later.
const SECOND_AFTER: Duration = Duration::from_millis(300);
/// How often the system is asked.
const TICK: Duration = Duration::from_millis(20);
/// All of it.
const LIMIT: Duration = Duration::from_secs(8);

/// What the system says of a connection.
struct State {
    /// Segments without an acknowledgement.
    unacknowledged: u32,
    /// How often the first of them was sent again because nothing came.
    unanswered: u32,
    /// Segments that were sent again, in all.
    sent_again: u32,
    /// Bytes that one segment carries.
    segment: u32,
    /// Bytes of its headers.
    headers: u32,
}

/// How one connection fared.
struct Attempt {
    local: SocketAddr,
    /// Length of the packet.
    length: u16,
    transmissions: u32,
    /// After which time it was acknowledged; `None`: not.
    acknowledged: Option<Duration>,
}

/// Asks. `None`: nothing can be said, as a connection could not be made, lost smaller packets too, or has small segments.
pub(crate) async fn probe(server: SocketAddr) -> Option<Probe> {
    timeout(LIMIT, probe_without_limit(server)).await.ok().flatten()
}

async fn probe_without_limit(server: SocketAddr) -> Option<Probe> {
    // Ends with this function.
    let mut second = JoinSet::new();
    second.spawn(async move {
        sleep(SECOND_AFTER).await;
        attempt(server).await
    });
    let mut told = attempt(server).await.ok().flatten()?;
    if told.acknowledged.is_none() {
        let again = second.join_next().await?.ok()?.ok().flatten()?;
        told.transmissions += again.transmissions;
        told.acknowledged = again.acknowledged;
    }
    let answered = |after: Duration| ProbeOutcome::Answered {
        mapped: None,
        round_trip_us: u64::try_from(after.as_micros()).unwrap_or(u64::MAX),
    };
    Some(Probe {
        aim: ProbeAim::Segment { length: told.length },
        local: told.local,
        remote: server,
        transmissions: told.transmissions,
        result: told.acknowledged.map_or(ProbeOutcome::Silent, answered),
    })
}

/// One connection with one segment. `None`: it says nothing.
async fn attempt(server: SocketAddr) -> io::Result<Option<Attempt>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let before = state(&stream)?;
    let headers = before.headers + if server.is_ipv4() { 20 } else { 40 };
    let length = (before.segment + headers).min(LARGEST);
    // A path that lost the handshake's packets, too, loses for another reason.
    if before.sent_again > 0 || length < SMALLEST {
        return Ok(None);
    }
    let begun = Instant::now();
    stream.write_all(&request(server, (length - headers) as usize)).await?;
    loop {
        let now = state(&stream)?;
        let lost = now.unanswered >= RETRANSMISSIONS;
        if now.unacknowledged == 0 || lost {
            return Ok(Some(Attempt {
                local: stream.local_addr()?,
                length: u16::try_from(length).unwrap_or(u16::MAX),
                transmissions: 1 + now.sent_again,
                // What the system cut smaller meanwhile was lost as a whole.
                acknowledged: (!lost && now.segment >= before.segment).then(|| begun.elapsed()),
            }));
        }
        sleep(TICK).await;
    }
}

/// A request of that many bytes that any HTTP server takes. Its answer is not waited for.
fn request(server: SocketAddr, length: usize) -> Vec<u8> {
    let begin = format!("GET /health HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nWhyrelay-Padding: ");
    const END: &str = "\r\n\r\n";
    let padding = length.saturating_sub(begin.len() + END.len());
    format!("{begin}{}{END}", "0".repeat(padding)).into_bytes()
}

#[cfg(not(target_os = "linux"))]
fn state(_: &TcpStream) -> io::Result<State> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "getsockopt(TCP_INFO) has no safe wrapper")]
fn state(stream: &TcpStream) -> io::Result<State> {
    /// `TCPI_OPT_TIMESTAMPS` of linux/tcp.h: twelve bytes of each segment.
    const TIMESTAMPS: u8 = 1;
    let socket = std::os::fd::AsRawFd::as_raw_fd(stream);
    // SAFETY: numbers alone, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has that many and lives through the call.
    let result =
        unsafe { libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(State {
        unacknowledged: info.tcpi_unacked,
        unanswered: info.tcpi_retransmits.into(),
        sent_again: info.tcpi_total_retrans,
        segment: info.tcpi_snd_mss,
        headers: if info.tcpi_options & TIMESTAMPS == 0 { 20 } else { 32 },
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_arrives_is_acknowledged_by_the_system_alone() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let probe = probe(server).await.unwrap();
        assert_eq!((probe.remote, probe.transmissions), (server, 1));
        assert_eq!(probe.aim, ProbeAim::Segment { length: 1500 });
        assert!(matches!(probe.result, ProbeOutcome::Answered { .. }), "{:?}", probe.result);
        let request = request(server, 1448);
        assert!(request.len() == 1448 && request.ends_with(b"0\r\n\r\n"));
    }

    #[tokio::test]
    async fn a_server_that_takes_no_connection_says_nothing_of_sizes() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(probe(closed).await, None);
    }
}
