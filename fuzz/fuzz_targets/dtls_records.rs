//! Any bytes as DTLS records: they take no more than there is, and each has a name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whyrelay_core::wire::demux::Protocol;
use whyrelay_core::wire::dtls;

fuzz_target!(|bytes: &[u8]| {
    let _ = Protocol::of(bytes);
    let records = dtls::records(bytes);
    assert!(records.iter().map(|record| usize::from(record.length)).sum::<usize>() <= bytes.len());
    assert!(records.iter().all(|record| !record.content.name().is_empty()));
});
