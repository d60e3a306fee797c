//! Measures the accuracy of the diagnosis and prints docs/accuracy.md; `cargo xtask accuracy` runs it.
//!
//! `accuracy [HEALTHY ONE TWO]` changes how many worlds of each kind there are; `accuracy from SEED HEALTHY ONE TWO` takes
//! worlds of other seeds than the held-out ones, which are used up once their misses are read; `accuracy show healthy|one|two|any|side SEED DIR`
//! writes the scenario, both recordings and the account of one world.

use std::path::Path;
use std::time::Instant;

use whyrelay_lab::accuracy::{Accuracy, FULL, HELD_OUT, HELD_OUT_SEED, SEED, Size, score};
use whyrelay_lab::fuzz::{Kind, generate};
use whyrelay_lab::run::run_virtual;
use whyrelay_lab::scenario::Scenario;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [show, kind, seed, directory] = arguments.as_slice()
        && show == "show"
    {
        return self::show(kind, seed.parse()?, Path::new(directory));
    }
    let (arguments, held_out_seed) = match arguments.as_slice() {
        [from, seed, sizes @ ..] if from == "from" => (sizes.to_vec(), seed.parse()?),
        _ => (arguments, HELD_OUT_SEED),
    };
    let numbers: Vec<u64> = arguments.iter().map(|number| number.parse()).collect::<Result<_, _>>()?;
    let (size, held_size) = match numbers.as_slice() {
        [] => (FULL, HELD_OUT),
        [healthy, one, two] => {
            let size = Size { healthy: *healthy, one: *one, two: *two, any: *two, one_side: *two };
            (size, size)
        }
        _ => return Err("usage: accuracy [from SEED] [HEALTHY ONE TWO]".into()),
    };
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let begun = Instant::now();
    let accuracy = Accuracy::measure(size, SEED, threads)?;
    let held_out = Accuracy::measure(held_size, held_out_seed, threads)?;
    let worlds: u64 =
        [size, held_size].iter().map(|size| size.healthy + size.one + size.two + size.any + size.one_side).sum();
    eprintln!("{worlds} worlds on {threads} threads in {:.1} s", begun.elapsed().as_secs_f64());
    print!("{}", accuracy.markdown(&held_out));
    Ok(())
}

fn show(kind: &str, seed: u64, directory: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let kind = match kind {
        "healthy" => Kind::Healthy,
        "one" => Kind::Faults(1),
        "two" => Kind::Faults(2),
        "any" => Kind::AnyFaults(2),
        "side" => Kind::OneSide(2),
        _ => return Err("a kind is healthy, one, two, any or side".into()),
    };
    let world = generate(seed, kind);
    let observed = run_virtual(&Scenario::of("fuzz", world.file.clone())?.topology);
    std::fs::create_dir_all(directory)?;
    for (name, recording) in ["a.jsonl", "b.jsonl"].iter().zip(&observed.recordings) {
        std::fs::write(directory.join(name), recording)?;
    }
    std::fs::write(directory.join("world.toml"), toml::to_string(&world.file)?)?;
    for planted in &world.planted {
        println!("planted: {} on {}", planted.fault.name, ["a", "b"][planted.side]);
    }
    println!("decoys: {:?}\n{:#?}", world.decoys, score(&world, &observed));
    Ok(())
}
