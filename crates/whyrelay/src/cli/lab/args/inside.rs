//! The command line of `whyrelay lab exec` and `shell`.

use std::ffi::OsString;

use clap::{Args, ValueEnum};
use whyrelay_lab::kernel::RouterChoice;

/// Which network, and where in it.
#[derive(Clone, Debug, Args)]
pub struct PlaceArgs {
    /// A scenario that comes with whyrelay, or a TOML file
    #[arg(value_name = "SCENARIO")]
    pub scenario: String,
    /// A host or router of it: `a`, `b`, `server` …
    #[arg(value_name = "HOST")]
    pub host: String,
    /// Who translates
    #[arg(long, value_enum, default_value_t)]
    pub routers: Routers,
}

/// `whyrelay lab exec`.
#[derive(Clone, Debug, Args)]
pub struct ExecArgs {
    /// Where
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `whyrelay lab shell`.
#[derive(Clone, Debug, Args)]
pub struct ShellArgs {
    /// Where
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Which routers translate where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Routers {
    /// nftables where the scenario describes Linux or a plain filter, else whyrelay's user-space router
    #[default]
    AsDescribed,
    /// nftables wherever it can do what the scenario says
    Kernel,
    /// whyrelay's user-space router wherever addresses are translated
    UserSpace,
}

impl From<Routers> for RouterChoice {
    fn from(routers: Routers) -> Self {
        match routers {
            Routers::AsDescribed => Self::AsDescribed,
            Routers::Kernel => Self::Kernel,
            Routers::UserSpace => Self::UserSpace,
        }
    }
}
