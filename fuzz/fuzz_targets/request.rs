//! Bytes of any content as a request.
#![no_main]

#[path = "../../crates/syscalls/tests/properties/mod.rs"]
#[allow(dead_code, reason = "each target checks one of them")]
mod properties;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::request(bytes));
