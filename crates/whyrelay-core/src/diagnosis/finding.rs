//! Findings: what is wrong, whose fault it is, which events show it, what helps.

use serde::Serialize;

use crate::trace::event::Vantage;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// Side A: its host, its NAT, its network.
    A,
    /// Side B.
    B,
    /// Both sides.
    Both,
    /// The STUN or TURN server.
    Relay,
    /// The signaling, or what went over it.
    Signaling,
    /// Somewhere between A and B.
    Path,
}

impl Blame {
    /// The blame of one side.
    pub const fn side(vantage: Vantage) -> Self {
        match vantage {
            Vantage::A => Self::A,
            Vantage::B => Self::B,
        }
    }

    /// How it is written for a reader.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::Both => "both sides",
            Self::Relay => "the relay",
            Self::Signaling => "signaling",
            Self::Path => "the path",
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It keeps the session from working.
    Error,
    /// It keeps the session from being direct, or will hurt.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// The word in every format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// Most events that a finding cites: enough to look at, not a copy of the recording.
pub const MAX_CITED: usize = 8;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `WR` and three digits.
    pub code: &'static str,
    /// Names the fault, in kebab case.
    pub name: &'static str,
    /// Whose fault it is.
    pub blame: Blame,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence.
    pub summary: String,
    /// Numbers of the events that show it, at most [`MAX_CITED`].
    pub evidence: Vec<u64>,
    /// What helps, the likeliest first.
    pub advice: Vec<String>,
}

/// Something that a judgement would need and that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NotMeasured {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}
