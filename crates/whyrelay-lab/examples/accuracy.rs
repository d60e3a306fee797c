//! Measures the accuracy of the diagnosis and prints docs/accuracy.md; `cargo xtask accuracy` runs it.
//!
//! `accuracy [HEALTHY ONE TWO]` changes how many worlds of each kind there are.

use std::time::Instant;

use whyrelay_lab::accuracy::{Accuracy, FULL, Size};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<u64> = std::env::args().skip(1).map(|number| number.parse()).collect::<Result<_, _>>()?;
    let size = match numbers.as_slice() {
        [] => FULL,
        [healthy, one, two] => Size { healthy: *healthy, one: *one, two: *two },
        _ => return Err("usage: accuracy [HEALTHY ONE TWO]".into()),
    };
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let begun = Instant::now();
    let accuracy = Accuracy::measure(size, threads)?;
    let worlds = size.healthy + size.one + size.two;
    eprintln!("{worlds} worlds on {threads} threads in {:.1} s", begun.elapsed().as_secs_f64());
    print!("{}", accuracy.markdown());
    Ok(())
}
