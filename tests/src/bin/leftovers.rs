//! Says what the tests left behind; exits with 1 where that is anything.
//!
//! `leftovers > before`, then the tests, then `leftovers before`: what was there already, of a
//! HyperSpector that runs on this machine for good, is not the tests'. Settings of the machine that
//! tests must leave alone are listed with their values, and are left behind where those changed.

use std::process::ExitCode;

use hyperspector_tests::leftovers;

fn main() -> ExitCode {
    let before = match std::env::args_os().nth(1).map(std::fs::read_to_string) {
        None => None,
        Some(Ok(text)) => Some(text),
        Some(Err(error)) => {
            eprintln!("leftovers: read what was there before: {error}");
            return ExitCode::from(2);
        }
    };
    let is_new = |line: &String| {
        before.as_ref().is_none_or(|before| before.lines().all(|old| old != line.as_str()))
    };
    let left: Vec<String> = leftovers::all().into_iter().filter(is_new).collect();
    let changed: Vec<String> = leftovers::settings().into_iter().filter(is_new).collect();
    for line in left.iter().chain(&changed) {
        println!("{line}");
    }
    let is_clean = left.is_empty() && (changed.is_empty() || before.is_none());
    if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
