//! The command line of `whyrelay lab`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[cfg(target_os = "linux")]
pub(crate) mod inside;

/// `whyrelay lab`.
#[derive(Clone, Debug, Args)]
pub struct LabArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: LabVerb,
}

/// The verbs of `whyrelay lab`.
#[derive(Clone, Debug, Subcommand)]
pub enum LabVerb {
    /// List the scenarios that come with whyrelay, and the presets of routers
    List(ListArgs),
    /// Run scenarios and compare what comes out with what they expect
    Run(RunArgs),
    /// Every kind of NAT against every other, each side speaking first
    Matrix(MatrixArgs),
    /// Draw a scenario
    Draw(DrawArgs),
    /// Run random worlds and compare each with theory; a wrong one is made small and printed as a scenario file
    Fuzz(FuzzArgs),
    /// Run a program on a host of a scenario, in Linux network namespaces
    #[cfg(target_os = "linux")]
    Exec(inside::ExecArgs),
    /// A shell on a host of a scenario, in Linux network namespaces
    #[cfg(target_os = "linux")]
    Shell(inside::ShellArgs),
    /// Remove what interrupted labs have left in the system, and only that
    #[cfg(target_os = "linux")]
    Clean,
}

/// `whyrelay lab list`.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// List the presets instead
    #[arg(long)]
    pub presets: bool,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For CI systems.
    Junit,
}

/// `whyrelay lab run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Scenarios: names of `lab list`, files, or directories of them. All that come with whyrelay unless said
    #[arg(value_name = "SCENARIO|DIR")]
    pub scenarios: Vec<String>,
    /// In virtual time: no root, deterministic. What happens unless said otherwise
    #[arg(long = "virtual", conflicts_with = "kernel")]
    pub virtual_time: bool,
    /// In network namespaces: real kernels
    #[arg(long)]
    pub kernel: bool,
    /// Who translates in network namespaces
    #[cfg(target_os = "linux")]
    #[arg(long, value_enum, default_value_t, requires = "kernel")]
    pub routers: inside::Routers,
    /// Scenarios at a time; default: one for each core, two with --kernel
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: Option<u8>,
    /// How to print the results
    #[arg(long, value_enum, default_value_t)]
    pub format: TableFormat,
    /// Write the results as JUnit, too
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Print the account of each scenario before the table
    #[arg(long)]
    pub account: bool,
    /// Write each scenario's recordings there, as NAME-a.jsonl and NAME-b.jsonl
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,
}

/// `whyrelay lab matrix`.
#[derive(Clone, Debug, Args)]
pub struct MatrixArgs {
    /// Everything random comes from it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How to print the table
    #[arg(long, value_enum, default_value_t)]
    pub format: PictureFormat,
}

/// How a table or picture is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PictureFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// A picture.
    Svg,
}

/// `whyrelay lab draw`.
#[derive(Clone, Debug, Args)]
pub struct DrawArgs {
    /// The scenario: a name of `lab list`, or a file
    #[arg(value_name = "SCENARIO")]
    pub scenario: String,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub format: DrawFormat,
}

/// How a scenario is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DrawFormat {
    /// A tree in text.
    #[default]
    Text,
    /// A picture.
    Svg,
}

/// `whyrelay lab fuzz`.
#[derive(Clone, Debug, Args)]
pub struct FuzzArgs {
    /// How many worlds
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub worlds: u64,
    /// The first world's seed; the others follow
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Plant so many faults in each world, 0 to 2, and judge path and account by them; 0: harmless decoys only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub faults: Option<u8>,
    /// Worlds at a time; default: one for each core
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: Option<u8>,
}
