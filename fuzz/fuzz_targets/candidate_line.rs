//! Any text as a candidate line: what is read is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whyrelay_core::ice::candidate::{Candidate, MAX_LINE};

fuzz_target!(|line: &str| match line.parse::<Candidate>() {
    Ok(candidate) => {
        let written = candidate.to_string();
        // The prefix and `tcptype`, where they were left out, can make it longer than is read.
        assert!(written.len() > MAX_LINE || written.parse::<Candidate>() == Ok(candidate));
    }
    Err(error) => assert!(error.to_string().len() < 2048),
});
