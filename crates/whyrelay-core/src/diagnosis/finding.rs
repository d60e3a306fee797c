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

    /// Whether a fault blamed so may be the cause of one blamed on `effect`: not when it is on the other side.
    pub const fn may_concern(self, effect: Self) -> bool {
        !matches!((self, effect), (Self::A, Self::B) | (Self::B, Self::A))
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

/// What a remedy does to the machine or network that it is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It only looks, or changes something of this program or host that is easily changed back.
    Safe,
    /// It restarts something or takes it down, and cuts connections that go on now.
    CutsConnections,
    /// It changes what a firewall lets through, on this host, a router or a server.
    ChangesFirewall,
    /// It needs whoever owns the router, the provider's line or another network.
    NeedsRouterOwner,
}

impl Effect {
    /// How it is written for a reader.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::CutsConnections => "cuts connections",
            Self::ChangesFirewall => "changes the firewall",
            Self::NeedsRouterOwner => "needs the router's owner",
        }
    }
}

/// Something that helps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// What it does.
    pub effect: Effect,
    /// What to do, in words.
    pub text: String,
    /// Exact commands for the machine at hand, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

impl Remedy {
    /// A remedy that changes nothing that is not easily changed back.
    pub fn safe(text: impl Into<String>) -> Self {
        Self { effect: Effect::Safe, text: text.into(), commands: Vec::new() }
    }

    /// A remedy that cuts connections that go on now.
    pub fn cuts(text: impl Into<String>) -> Self {
        Self { effect: Effect::CutsConnections, ..Self::safe(text) }
    }

    /// A remedy that changes what a firewall lets through.
    pub fn firewall(text: impl Into<String>) -> Self {
        Self { effect: Effect::ChangesFirewall, ..Self::safe(text) }
    }

    /// A remedy that needs the router's owner.
    pub fn owner(text: impl Into<String>) -> Self {
        Self { effect: Effect::NeedsRouterOwner, ..Self::safe(text) }
    }

    /// With a command to run.
    #[must_use]
    pub fn run(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }

    /// Words and commands in one line.
    pub fn line(&self) -> String {
        if self.commands.is_empty() {
            return self.text.clone();
        }
        format!("{}: {}", self.text.trim_end_matches('.'), self.commands.join(" && "))
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
    /// What helps, the likeliest first: the lines of `remedies`.
    pub advice: Vec<String>,
    /// What helps, with what it does and the exact commands.
    pub remedies: Vec<Remedy>,
    /// What would change this judgement.
    pub doubt: String,
    /// Whether another fault hides it, so that it is no cause of what was seen.
    #[serde(skip)]
    pub hidden: bool,
    /// The one side that sees it, where it is not that side's fault.
    #[serde(skip)]
    pub seen_by: Option<Vantage>,
}

impl Finding {
    /// Where it is, for a reader: whose fault it is, and a server that is asked for STUN is no relay for that.
    pub fn place(&self) -> &'static str {
        match self.blame {
            Blame::Relay if self.code.starts_with("WR3") => "the server",
            blame => blame.name(),
        }
    }
}

/// Something that a judgement would need and that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NotMeasured {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
    /// The codes of the findings that it may be.
    pub codes: Vec<&'static str>,
}

impl NotMeasured {
    /// Something that is no finding.
    pub const fn new(what: String, why: String) -> Self {
        Self { what, why, codes: Vec::new() }
    }
}
