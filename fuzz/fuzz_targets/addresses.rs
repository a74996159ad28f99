//! Bytes of any content as allowed networks, and addresses that are looked for among them.
#![no_main]

use hyperspector_vpn::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::addresses(bytes));
