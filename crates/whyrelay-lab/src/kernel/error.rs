//! What can go wrong with a lab: the machine's fault, the scenario's, or a program's.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// A lab cannot be made, used or removed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program that the lab runs is not installed.
    #[error("{program} is not installed\nhint: apt-get install {package}")]
    Missing {
        /// Which.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The system does not let this user make namespaces.
    #[error("{what}\nhint: {hint}")]
    NotAllowed {
        /// What was refused.
        what: String,
        /// The way out.
        hint: &'static str,
    },
    /// A program said no.
    #[error("{command}: {said}")]
    Command {
        /// What was run.
        command: String,
        /// Its last words.
        said: String,
    },
    /// A session or server of whyrelay's own did not do its work.
    #[error("{who}: {said}")]
    Session {
        /// Which, and where.
        who: String,
        /// Its last words.
        said: String,
    },
    /// The system said no.
    #[error("{doing}")]
    System {
        /// What was tried.
        doing: String,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// Something went wrong in a network that was built.
    #[error(transparent)]
    Inside(Box<LabError>),
    /// The namespace world cannot do what the scenario says.
    #[error("the namespace world cannot do this: {0}\nhint: run it with --virtual")]
    Unsupported(String),
    /// The user ended it.
    #[error("interrupted")]
    Interrupted,
    /// There is no such host or router.
    #[error("there is no {name:?} in this lab\nhint: it has {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Those that are there.
        known: String,
    },
}

impl LabError {
    /// Ends what is being done once the user wants it ended.
    pub(crate) fn if_set(interrupted: &AtomicBool) -> Result<(), Self> {
        if interrupted.load(Ordering::Relaxed) { Err(Self::Interrupted) } else { Ok(()) }
    }

    /// For `map_err`: what a signal to all of a lab's programs has ended has not failed.
    pub fn or_interrupted(self, interrupted: &AtomicBool) -> Self {
        if interrupted.load(Ordering::Relaxed) { Self::Interrupted } else { self }
    }

    /// Whether it says that no network can be built here, and not that something went wrong in one that was.
    pub const fn is_about_this_system(&self) -> bool {
        !matches!(self, Self::Inside(_) | Self::Interrupted)
    }

    /// For `map_err`: what went wrong in a network that is there. What the user ends has not gone wrong.
    pub(crate) fn inside(self) -> Self {
        if matches!(self, Self::Interrupted) { self } else { Self::Inside(Box::new(self)) }
    }

    /// For `map_err`: an operation that the system refused.
    pub(crate) fn system<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        let doing = doing.into();
        move |source| Self::System { doing, source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_once_all_is_to_end_is_interrupted() {
        let failed = || LabError::Command { command: "ip".to_owned(), said: "signal: 15 (SIGTERM)".to_owned() };
        for error in [failed(), failed().inside()] {
            assert!(matches!(error.or_interrupted(&AtomicBool::new(true)), LabError::Interrupted));
        }
        let kept = failed().or_interrupted(&AtomicBool::new(false));
        assert!(matches!(kept, LabError::Command { .. }), "{kept:?}");
    }
}
