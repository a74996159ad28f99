//! Says what the tests left behind; exits with 1 where that is anything.
//!
//! `leftovers > before`, then the tests, then `leftovers before`: what was there already, of a
//! HyperSpector that runs on this machine for good, is not the tests'.

use std::process::ExitCode;

fn main() -> ExitCode {
    let before = match std::env::args_os().nth(1).map(std::fs::read_to_string) {
        None => String::new(),
        Some(Ok(text)) => text,
        Some(Err(error)) => {
            eprintln!("leftovers: read what was there before: {error}");
            return ExitCode::from(2);
        }
    };
    let lines = hyperspector_tests::leftovers::all().into_iter();
    let left: Vec<String> = lines.filter(|line| !before.lines().any(|old| old == line)).collect();
    for line in &left {
        println!("{line}");
    }
    if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
