//! Waiting for something to become true, with a limit.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a test waits for anything, unless it says otherwise; see [`patience`].
pub const LIMIT: Duration = Duration::from_secs(20);

/// A limit of time on this machine: `limit`, times the variable `HYPERSPECTOR_TEST_SLOWDOWN` where
/// there is one (for an emulated machine, say).
pub fn patience(limit: Duration) -> Duration {
    static SLOWDOWN: OnceLock<u32> = OnceLock::new();
    let slowdown = *SLOWDOWN.get_or_init(|| {
        let text = std::env::var("HYPERSPECTOR_TEST_SLOWDOWN").unwrap_or_else(|_| "1".into());
        text.parse().unwrap_or_else(|error| panic!("HYPERSPECTOR_TEST_SLOWDOWN={text}: {error}"))
    });
    limit * slowdown
}

/// Asks again and again until `ask` gives a value; fails the test after [`LIMIT`].
#[track_caller]
pub fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    wait_within(LIMIT, what, ask)
}

/// As [`wait_for`], with another limit for a machine of usual speed.
#[track_caller]
pub fn wait_within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let limit = patience(limit);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ask() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks again and again until `ask` says yes; fails the test after [`LIMIT`].
#[track_caller]
pub fn wait_until(what: &str, mut ask: impl FnMut() -> bool) {
    wait_for(what, || ask().then_some(()));
}
