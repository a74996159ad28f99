//! Bytes of any content as datagrams to the VPN.
#![no_main]

use hyperspector_vpn::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::datagrams(bytes));
