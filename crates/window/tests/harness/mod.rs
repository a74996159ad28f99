//! Running tests in programs that have a main of their own, since they start their workers by running
//! themselves.

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A test and its name.
pub type Test = (&'static str, fn());

/// Runs the tests whose names contain one of the words in `args`, or all; with a `limit`, each in a
/// thread of its own, and one that takes longer fails. Returns how many failed.
pub fn run(args: &[String], tests: &[Test], limit: Option<Duration>) -> usize {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    let words: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(*word));
    let mut failed = 0;
    for (name, test) in tests.iter().filter(|(name, _)| wanted(name)) {
        let start = Instant::now();
        let passed = match limit {
            Some(limit) => within(limit, *test),
            None => std::panic::catch_unwind(test).is_ok(),
        };
        failed += usize::from(!passed);
        let verdict = if passed { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", start.elapsed().as_millis());
    }
    println!("{failed} failed");
    failed
}

/// The program's exit status.
pub fn status(failed: usize) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether `test` passes in time.
fn within(limit: Duration, test: fn()) -> bool {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let passed = std::panic::catch_unwind(test).is_ok();
        let _ = sender.send(passed);
    });
    match receiver.recv_timeout(limit) {
        Ok(passed) => {
            let _ = thread.join();
            passed
        }
        Err(_) => {
            println!("took more than {} s", limit.as_secs());
            false
        }
    }
}
