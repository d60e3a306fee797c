//! Scenarios: what a network between two peers is like, and what is expected of it.
//!
//! A [`Scenario`] is read from a TOML file ([`mod@file`]) and resolves to a [`Topology`] with every address given, from
//! which both worlds build. `docs/scenarios.md` is the manual, `docs/scenario.schema.json` the schema.

mod check;
mod embedded;
mod error;
pub mod file;
mod host_rules;
mod layout;
mod plausible;
pub mod presets;
mod resolve;
pub mod topology;
pub mod value;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use error::{ScenarioError, Syntax};
pub use presets::{PRESETS, Preset, TERMS};
pub use topology::Topology;

use crate::words::nearest;

/// The largest seed of a scenario: TOML's integers are signed and have 64 bits.
pub const LARGEST_SEED: u64 = i64::MAX as u64;

/// The port at which a scenario's server serves STUN and TURN (RFC 8489 §18.6).
pub(crate) const STUN_PORT: u16 = 3478;

/// The port at which it serves signaling.
pub(crate) const SIGNALING_PORT: u16 = 8080;

/// The usual port of TURN over TLS (RFC 8656 §2.1).
const TLS_PORT: u16 = 5349;

/// A scenario: the file, and what it resolves to.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its name: the file's without `.toml`.
    pub name: String,
    /// The file.
    pub file: file::File,
    /// What it resolves to.
    pub topology: Topology,
}

impl Scenario {
    /// Reads a scenario from a file's text.
    pub fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let file = toml::from_str(text)
            .map_err(|error| ScenarioError::Syntax { name: name.to_owned(), source: Syntax::from(error) })?;
        Self::of(name, file)
    }

    /// Resolves a file's content.
    pub fn of(name: &str, file: file::File) -> Result<Self, ScenarioError> {
        let topology = resolve::resolve(name, &file).map_err(|wrong| wrong.at(name))?;
        Ok(Self { name: name.to_owned(), file, topology })
    }

    /// Reads a scenario from a file. What is wrong with it is told with its path.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
            ErrorKind::InvalidData => ScenarioError::NoText { path: path.to_owned() },
            ErrorKind::IsADirectory => ScenarioError::Directory { path: path.to_owned() },
            _ => ScenarioError::Read { path: path.to_owned(), source },
        })?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Self::parse(&name, &text).map_err(|error| error.in_file(path))
    }

    /// The scenario files of a directory, in order of their names.
    pub fn files(path: &Path) -> Result<Vec<PathBuf>, ScenarioError> {
        let failed = |source| ScenarioError::Read { path: path.to_owned(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.extension().is_some_and(|extension| extension == "toml") {
                files.push(file);
            }
        }
        files.sort();
        Ok(files)
    }

    /// The scenarios that come with whyrelay: their names and texts.
    pub const fn embedded() -> &'static [(&'static str, &'static str)] {
        embedded::SCENARIOS
    }

    /// A scenario that comes with whyrelay, or one from a file.
    pub fn find(name_or_path: &str) -> Result<Self, ScenarioError> {
        let found = Self::embedded().iter().find(|(name, _)| *name == name_or_path);
        if let Some((name, text)) = found {
            return Self::parse(name, text);
        }
        let path = Path::new(name_or_path);
        if path.exists() {
            return Self::read(path);
        }
        if name_or_path == "-" {
            let hint = "name a file; /dev/stdin is one, for a scenario from a pipe".to_owned();
            return Err(ScenarioError::Unknown { name: name_or_path.to_owned(), hint });
        }
        let names = || Self::embedded().iter().map(|(name, _)| *name);
        let mut similar: Vec<_> = names().filter(|name| name.contains(name_or_path)).take(5).collect();
        if similar.is_empty() {
            similar.extend(nearest(name_or_path, names()));
        }
        let hint = match similar.is_empty() {
            true => "`whyrelay lab list` names those that come with whyrelay; else give the path of a file".to_owned(),
            false => format!("did you mean {}?", similar.join(", ")),
        };
        Err(ScenarioError::Unknown { name: name_or_path.to_owned(), hint })
    }

    /// The file's text, as it would be written.
    ///
    /// # Errors
    /// The file has something that TOML cannot say.
    pub fn to_toml(&self) -> Result<String, ScenarioError> {
        let failed = |source| ScenarioError::Write { name: self.name.clone(), source: Box::new(source) };
        toml::to_string(&self.file).map_err(failed)
    }
}

/// The JSON schema of scenario files.
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(file::File)
}
