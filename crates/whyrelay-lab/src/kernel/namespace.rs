//! Doing things inside a network namespace.

use std::fs::File;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};

use super::error::LabError;

/// Where `ip netns` keeps its names.
const DIRECTORY: &str = "/run/netns";

/// The file that stands for a namespace.
pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(DIRECTORY).join(name)
}

/// Runs something inside a network namespace, on a thread of its own. Processes that it starts are in there, too.
pub(crate) fn enter<T: Send>(name: &str, doing: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
    let file = File::open(path(name)).map_err(LabError::system(format!("opening the namespace {name}")))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET)
                .map_err(LabError::system::<nix::Error>(format!("entering the namespace {name}")))?;
            doing()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
