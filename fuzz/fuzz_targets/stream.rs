//! Bytes of any content as a stream.
#![no_main]

#[path = "../../crates/syscalls/tests/properties/mod.rs"]
#[allow(dead_code, reason = "each target checks one of them")]
mod properties;

use hyperspector_syscalls::record::{Start, machine};
use hyperspector_syscalls::stream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let server = b"s";
    let begun = Start {
        version: stream::VERSION,
        machine: machine::NATIVE,
        epoch: 0,
        tracer: 1,
        queue: 0,
        server,
    };
    // Half of them begin as they should: what follows is what the fuzzer has to find.
    if bytes.first().is_some_and(|first| first % 2 == 0) {
        let whole = [&stream::start(1, &begun), bytes.get(1..).unwrap_or_default()].concat();
        properties::stream(&whole);
    } else {
        properties::stream(bytes);
    }
});
