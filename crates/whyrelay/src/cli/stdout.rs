//! Whether there was a stdout when the program began.
//!
//! Rust's runtime opens `/dev/null` in the place of one that is closed (`>&-`), ahead of `main`: an answer that is written
//! there is lost, and no write fails. So it is looked at before.

use std::sync::atomic::{AtomicBool, Ordering};

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Functions in this section are called by the loader, ahead of the runtime (System V ABI, "Initialization and Termination
/// Functions").
#[cfg(target_os = "linux")]
#[used]
#[expect(
    unsafe_code,
    reason = "whoever puts a function into this section has to keep from the runtime in it: this does"
)]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "fcntl(F_GETFD) of a number that may be no descriptor, before there is a runtime")]
extern "C" fn look() {
    // SAFETY: it only reads the flags of a descriptor, and fails with EBADF where there is none.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    WAS_CLOSED.store(flags == -1, Ordering::Relaxed);
}

/// Says that an answer would be lost.
///
/// # Errors
/// When stdout was closed from the beginning.
pub(super) fn must_be_open() -> anyhow::Result<()> {
    anyhow::ensure!(
        !WAS_CLOSED.load(Ordering::Relaxed),
        "writing the answer to stdout: it is closed\nhint: leave stdout open, or give a file (--output) where the command takes one"
    );
    Ok(())
}
