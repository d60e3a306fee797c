//! What can be wrong with a scenario.

mod syntax;

use std::fmt;
use std::path::{Path, PathBuf};

pub use syntax::Syntax;

/// A scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A file or directory cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be written as a file.
    #[error("writing scenario {name}")]
    Write {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<toml::ser::Error>,
    },
    /// A file is no text.
    #[error("reading {}: it is no text in UTF-8\nhint: a scenario is a TOML file; `whyrelay lab list` names examples", path.display())]
    NoText {
        /// Which.
        path: PathBuf,
    },
    /// A directory, where one scenario is wanted.
    #[error("{} is a directory\nhint: name a file of it; `whyrelay lab run` takes all of a directory", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
    },
    /// The text is no scenario: TOML, keys or values.
    #[error("reading scenario {name}")]
    Syntax {
        /// Its name or file.
        name: String,
        /// Where, why, and the way out.
        #[source]
        source: Syntax,
    },
    /// It says something that cannot be.
    #[error("scenario {name}: {key}: {problem}\nhint: {hint}")]
    Meaning {
        /// Its name or file.
        name: String,
        /// Where: a dotted key.
        key: String,
        /// What is wrong.
        problem: String,
        /// The way out.
        hint: String,
    },
    /// There is no such scenario.
    #[error("there is no scenario {name:?}\nhint: {hint}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The way out.
        hint: String,
    },
}

impl ScenarioError {
    /// The same about a scenario that is in a file.
    pub(super) fn in_file(mut self, path: &Path) -> Self {
        if let Self::Syntax { name, .. } | Self::Meaning { name, .. } = &mut self {
            *name = path.display().to_string();
        }
        self
    }
}

/// Something wrong at a key.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) key: String,
    pub(super) problem: String,
    pub(super) hint: String,
}

impl Wrong {
    pub(super) fn new(key: impl fmt::Display, problem: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self { key: key.to_string(), problem: problem.to_string(), hint: hint.to_string() }
    }

    pub(super) fn at(self, name: &str) -> ScenarioError {
        ScenarioError::Meaning { name: name.to_owned(), key: self.key, problem: self.problem, hint: self.hint }
    }
}
