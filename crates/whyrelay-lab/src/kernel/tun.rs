//! TUN and TAP devices.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use super::error::LabError;
use super::privilege::tun_refused;

/// Bytes of `struct virtio_net_hdr`, which stands before each packet of a device with offloading.
pub(crate) const OFFLOAD_HEADER: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum field holds only the sum of the pseudo header.
const NEEDS_CHECKSUM: u8 = 1;

const TUNSETIFF: libc::c_ulong = 0x4004_54CA;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54D0;
/// `TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6`
const OFFLOAD_TCP: libc::c_ulong = 0x01 | 0x02 | 0x04;
/// `TUN_F_USO4 | TUN_F_USO6`, since Linux 6.2.
const OFFLOAD_UDP: libc::c_ulong = 0x20 | 0x40;

/// What a device carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// IP packets, with an offload header: several segments may come as one.
    Tun,
    /// Ethernet frames.
    Tap,
    /// IP packets that nobody reads.
    Sink,
}

/// A device in the namespace of the thread that made it; it is gone when dropped.
#[derive(Debug)]
pub(crate) struct Device {
    file: File,
}

impl Device {
    /// Makes a device.
    pub(crate) fn create(name: &str, kind: Kind) -> Result<Self, LabError> {
        let file = open().map_err(tun_refused)?;
        let flags = match kind {
            Kind::Tun => libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR,
            Kind::Tap => libc::IFF_TAP | libc::IFF_NO_PI,
            Kind::Sink => libc::IFF_TUN | libc::IFF_NO_PI,
        };
        // struct ifreq: 16 bytes of name, then a union that begins with the flags; 40 bytes in all.
        let mut request = [0_u8; 40];
        let length = name.len().min(15);
        request[..length].copy_from_slice(&name.as_bytes()[..length]);
        request[16..18].copy_from_slice(&(flags as u16).to_ne_bytes());
        control(&file, TUNSETIFF, request.as_mut_ptr() as libc::c_ulong)
            .map_err(LabError::system(format!("making the device {name}")))?;
        if kind == Kind::Tun && control(&file, TUNSETOFFLOAD, OFFLOAD_TCP | OFFLOAD_UDP).is_err() {
            // An older kernel; without any it works, too.
            let _ = control(&file, TUNSETOFFLOAD, OFFLOAD_TCP);
        }
        Ok(Self { file })
    }

    /// The next packet; `None` when there is none now.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        (&self.file).read(buffer).ok().filter(|length| *length > 0)
    }

    /// Sends a packet. A device that is down or full loses it, as a cable does.
    pub(crate) fn write(&self, packet: &[u8]) {
        let _ = (&self.file).write(packet);
    }
}

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open("/dev/net/tun")
}

/// Why this user can make no such device, in one line; `None` when they can.
pub(crate) fn refused() -> Option<String> {
    open().err().map(|error| tun_refused(error).to_string().replace("\nhint: ", "; "))
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether an offload header says that the checksum is to be completed.
pub(crate) fn needs_checksum(header: &[u8]) -> bool {
    header.first().is_some_and(|flags| flags & NEEDS_CHECKSUM != 0)
}

#[expect(unsafe_code, reason = "the ioctls of TUN have no safe wrapper")]
fn control(file: &File, request: libc::c_ulong, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: both requests take an integer or a pointer to an ifreq; the caller keeps the latter alive.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
