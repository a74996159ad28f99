//! Ctrl-C and its kind end the trace, with its table. A second one ends the program at once.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

static HAS_COME: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    HAS_COME.store(true, Ordering::Relaxed);
}

/// From now on, these signals are noted; calls that wait are interrupted.
pub fn note_them() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all fields are numbers, sets of signals and addresses that may be null.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note as *const () as usize;
        action.sa_flags = libc::SA_RESETHAND;
        // SAFETY: `action` is whole and lives for the call; the handler does nothing but set a flag.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether one has come.
pub fn have_come() -> bool {
    HAS_COME.load(Ordering::Relaxed)
}
