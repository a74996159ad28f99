//! Waiting for something to become true, with a limit.

use std::time::{Duration, Instant};

/// How long a test waits for anything, unless it says otherwise.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Asks again and again until `ask` gives a value; fails the test after [`LIMIT`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = ask() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {LIMIT:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks again and again until `ask` says yes; fails the test after [`LIMIT`].
#[track_caller]
pub fn wait_until(what: &str, mut ask: impl FnMut() -> bool) {
    wait_for(what, || ask().then_some(()));
}
