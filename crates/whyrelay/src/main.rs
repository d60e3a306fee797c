//! `whyrelay`: why can these two machines not connect directly?

use std::process::ExitCode;

fn main() -> ExitCode {
    whyrelay::cli::run()
}
