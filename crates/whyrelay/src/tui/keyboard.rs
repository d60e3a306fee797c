//! Waiting for the terminal to have something to read. crossterm's own wait never comes back from a terminal that is
//! gone: it reads its end over and over.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::crossterm::event;

/// The terminal that keys come from.
#[derive(Debug)]
pub(super) struct Keyboard {
    /// `None`: none was found, and crossterm says what it thinks of that.
    terminal: Option<OwnedFd>,
}

impl Keyboard {
    /// The one that crossterm reads: stdin, or the process's own terminal.
    pub(super) fn open() -> Self {
        let stdin = io::stdin();
        let terminal = if stdin.is_terminal() {
            stdin.as_fd().try_clone_to_owned()
        } else {
            File::options().read(true).write(true).open("/dev/tty").map(OwnedFd::from)
        };
        Self { terminal: terminal.ok() }
    }

    /// Whether a key or another event of the terminal came within this time.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn wait(&self, within: Duration) -> io::Result<bool> {
        let Some(terminal) = &self.terminal else { return event::poll(within) };
        let mut waiting = [PollFd::new(terminal.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
        match poll(&mut waiting, timeout) {
            // A signal, such as that of a new size.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if waiting[0].revents().is_some_and(|events| events.intersects(gone)) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the terminal is gone"));
        }
        // Not zero: crossterm would not even look.
        event::poll(Duration::from_millis(1))
    }
}
