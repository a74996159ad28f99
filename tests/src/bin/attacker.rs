//! Tries everything that a portspace should refuse, from inside, and reports what it could do.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ExitCode::from(hyperspector_tests::attacker::main(&arguments))
}
