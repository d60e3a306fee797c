//! What the kernel knows of a connection that its reader does not: whether bytes wait, and when the last ones came.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket};
use tokio::net::TcpStream;

/// Silence of a reader that counts as its having stood still. The kernel counts in ticks of up to 10 ms.
const STOOD_STILL: Duration = Duration::from_millis(20);

/// A second handle to the socket of a connection, as long as its reader reads. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Witness(Arc<Mutex<Option<Socket>>>);

impl Witness {
    /// The connection is there. Without a second handle nothing is known, as before.
    pub(super) fn sees(&self, stream: &TcpStream) {
        *self.lock() = SockRef::from(stream).try_clone().ok();
    }

    /// The reader has ended: a handle that stays would keep the connection open.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    /// How many bytes have arrived, and how many of them the reader has read (of TLS, of its records).
    pub(super) fn progress(&self) -> Option<(u64, u64)> {
        let guard = self.lock();
        let socket = guard.as_ref()?;
        // In this order: what arrives in between counts as unread.
        let arrived = received(socket)?;
        let unread = u64::try_from(unread(socket)?).unwrap_or(0);
        Some((arrived, arrived.saturating_sub(unread)))
    }

    /// When the bytes arrived that were just read: now, unless the reader stood still.
    pub(super) fn arrived(&self) -> Instant {
        let now = Instant::now();
        let ago = self.lock().as_ref().and_then(last_received).filter(|ago| *ago >= STOOD_STILL);
        ago.and_then(|ago| now.checked_sub(ago)).unwrap_or(now)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Socket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a packet takes there and back, as the kernel has measured it; `None`: it has not. `tcpi_rtt`, microseconds,
/// behind 8 bytes of flags and 15 words.
pub(crate) fn round_trip(stream: &TcpStream) -> Option<Duration> {
    let micros: [u8; 4] = of_tcp_info(&SockRef::from(stream), 8 + 15 * 4)?;
    Some(Duration::from_micros(u32::from_ne_bytes(micros).into())).filter(|time| !time.is_zero())
}

/// Bytes that wait in a socket.
#[expect(unsafe_code, reason = "one ioctl with a pointer to a live integer")]
fn unread(socket: &Socket) -> Option<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `socket` is borrowed; FIONREAD writes one int, which `bytes` is.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, std::ptr::from_mut(&mut bytes)) };
    (result == 0).then_some(bytes)
}

/// How long ago data arrived last: `tcpi_last_data_recv` of `struct tcp_info`, milliseconds, behind 8 bytes of flags and
/// 11 words.
fn last_received(socket: &Socket) -> Option<Duration> {
    let millis: [u8; 4] = of_tcp_info(socket, 8 + 11 * 4)?;
    Some(Duration::from_millis(u32::from_ne_bytes(millis).into()))
}

/// Bytes that have arrived: `tcpi_bytes_received`, behind 8 bytes of flags, 24 words and three double words.
fn received(socket: &Socket) -> Option<u64> {
    of_tcp_info(socket, 8 + 24 * 4 + 3 * 8).map(u64::from_ne_bytes)
}

/// So many bytes of `struct tcp_info`, from an offset on.
#[expect(unsafe_code, reason = "one getsockopt with pointers to a live buffer and its size")]
fn of_tcp_info<const SIZE: usize>(socket: &Socket, offset: usize) -> Option<[u8; SIZE]> {
    let mut info = [0_u8; 256];
    let info = info.get_mut(..offset + SIZE)?;
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the kernel writes at most `length` bytes to `info`.
    let result = unsafe {
        let to = info.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &mut length)
    };
    let whole = result == 0 && length as usize == info.len();
    info.last_chunk().copied().filter(|_| whole)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn the_kernel_tells_what_waits_and_when_it_came() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let there_and_back = round_trip(&ours);
        assert!(there_and_back.is_some_and(|time| time < Duration::from_secs(5)), "{there_and_back:?}");
        let witness = Witness::default();
        assert_eq!(witness.progress(), None);
        witness.sees(&ours);
        assert_eq!(witness.progress(), Some((0, 0)));
        theirs.write_all(b"hello").unwrap();
        let sent = Instant::now();
        while witness.progress() != Some((5, 0)) {
            assert!(sent.elapsed() < Duration::from_secs(20), "{:?}", witness.progress());
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(300));
        let after = witness.arrived().saturating_duration_since(sent);
        assert!(after < Duration::from_millis(100), "{after:?} after it was sent, not 300 ms");
        let mut buffer = [0; 3];
        ours.readable().await.unwrap();
        assert_eq!(ours.try_read(&mut buffer).unwrap(), 3);
        assert_eq!(witness.progress(), Some((5, 3)));
        witness.forget();
        assert_eq!(witness.progress(), None);
    }
}
