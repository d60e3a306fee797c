//! What of a program this process may imitate. What it may not is left out, and said.

use super::Suspect;
use crate::io::disguise::DeviceName;
use crate::io::udp::{UdpOptions, is_permitted};

impl Suspect {
    /// How a socket is made like the program's, as far as the system lets this process, and what it does not let. The
    /// port is the caller's business.
    pub fn permitted(&self) -> (UdpOptions, Vec<String>) {
        let own = nix::unistd::geteuid().as_raw();
        let mut wanted: Vec<(UdpOptions, String, &str)> = Vec::new();
        let plain = UdpOptions::default();
        if let Some(mark) = self.mark.filter(|mark| *mark != 0) {
            wanted.push((UdpOptions { mark: Some(mark), ..plain }, format!("its mark {mark:#x}"), "CAP_NET_ADMIN"));
        }
        if let Some(device) = self.device.as_deref() {
            let options = UdpOptions { device: DeviceName::new(device), ..plain };
            wanted.push((options, format!("bound to its interface {device}"), "CAP_NET_RAW"));
        }
        if let Some(user) = self.user.filter(|user| *user != own) {
            wanted.push((UdpOptions { user: Some(user), ..plain }, format!("its user {user}"), "CAP_SETUID"));
        }
        if self.raw {
            wanted.push((UdpOptions { raw: true, ..plain }, "its raw socket".into(), "CAP_NET_RAW"));
        }
        let (mut options, mut missing) = (plain, Vec::new());
        for (with, what, needs) in wanted {
            match is_permitted(with) {
                Ok(()) => {
                    options.mark = with.mark.or(options.mark);
                    options.device = with.device.or(options.device);
                    options.user = with.user.or(options.user);
                    options.raw |= with.raw;
                }
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    missing.push(format!("{what}: it takes {needs}"));
                }
                Err(error) => missing.push(format!("{what}: {error}")),
            }
        }
        (options, missing)
    }
}
