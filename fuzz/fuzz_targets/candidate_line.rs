//! Any text as a candidate line: what is read is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whyrelay_core::ice::candidate::Candidate;

fuzz_target!(|line: &str| match line.parse::<Candidate>() {
    Ok(candidate) => assert_eq!(candidate.to_string().parse::<Candidate>(), Ok(candidate)),
    Err(error) => assert!(error.to_string().len() < 2048),
});
