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
