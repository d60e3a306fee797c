//! Puts the repository's scenarios into the program.

use std::path::Path;
use std::{env, fs};

fn main() {
    let directory = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../../scenarios");
    println!("cargo::rerun-if-changed={}", directory.display());
    let mut files: Vec<_> = fs::read_dir(&directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.retain(|file: &std::path::PathBuf| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let mut code =
        "/// Names and texts, in order of name.\npub(super) static SCENARIOS: &[(&str, &str)] = &[\n".to_owned();
    for file in files {
        println!("cargo::rerun-if-changed={}", file.display());
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let path = file.canonicalize().unwrap_or(file);
        code.push_str(&format!("    ({name:?}, include_str!({:?})),\n", path.display().to_string()));
    }
    code.push_str("];\n");
    let out = Path::new(&env::var("OUT_DIR").unwrap_or_default()).join("scenarios.rs");
    if let Err(error) = fs::write(&out, code) {
        println!("cargo::error=writing {}: {error}", out.display());
    }
}
