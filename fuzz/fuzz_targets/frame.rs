//! Bytes of any content as a frame of the tunnel's interface.
#![no_main]

use hyperspector_vpn::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::frame(bytes));
