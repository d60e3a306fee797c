//! Prints docs/findings.md; `cargo xtask findings` writes it.

fn main() {
    print!("{}", whyrelay_core::diagnosis::rules::markdown());
}
