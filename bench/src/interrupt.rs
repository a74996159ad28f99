//! Ctrl-C: noted, and acted on between steps, so that everything is removed.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};

static CAME: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    CAME.store(true, Ordering::Relaxed);
}

/// From now on, SIGINT and SIGTERM are noted. The children of the moment end by them.
pub fn watch() {
    let handler: extern "C" fn(libc::c_int) = note;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Fails once one came.
pub fn check() -> Result<()> {
    ensure!(!CAME.load(Ordering::Relaxed), "interrupted");
    Ok(())
}
