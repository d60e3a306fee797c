//! `whyrelay lab`: the NAT laboratory.

pub(super) mod args;
#[cfg(target_os = "linux")]
mod certify;
mod draw;
mod fuzz;
#[cfg(target_os = "linux")]
mod inside;
mod junit;
#[cfg(target_os = "linux")]
mod kernel;
mod list;
mod matrix;
mod run;
mod table;

#[cfg(target_os = "linux")]
pub(super) use kernel::watch_interrupts;

use args::{LabArgs, LabVerb};

/// What is left of this process' networks, as a line; `None` when nothing is.
#[cfg(target_os = "linux")]
pub(super) fn left() -> Option<String> {
    let left = whyrelay_lab::kernel::state::left();
    let named: Vec<String> = left.iter().map(|record| format!("{} ({})", record.id, record.scenario)).collect();
    (!left.is_empty()).then(|| format!("could not remove {}; `whyrelay lab clean` does later", named.join(", ")))
}

#[cfg(not(target_os = "linux"))]
pub(super) const fn left() -> Option<String> {
    None
}

/// What has become of this process' networks, by what is [`left`] of them.
pub(super) fn removal(left: Option<&str>) -> &str {
    left.unwrap_or("every network is removed")
}

/// Runs a verb of the laboratory.
pub(super) fn run(args: LabArgs, color: bool) -> anyhow::Result<u8> {
    match args.verb {
        LabVerb::List(args) => list::run(&args),
        LabVerb::Run(args) => run::run(&args, color),
        LabVerb::Matrix(args) => matrix::run(&args, color),
        LabVerb::Draw(args) => draw::run(&args),
        LabVerb::Fuzz(args) => fuzz::run(&args),
        #[cfg(target_os = "linux")]
        LabVerb::Exec(args) => inside::exec(&args),
        #[cfg(target_os = "linux")]
        LabVerb::Shell(args) => inside::shell(&args),
        #[cfg(target_os = "linux")]
        LabVerb::Clean => inside::clean(),
    }
}
