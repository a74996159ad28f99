//! Running an attempt in a child process, within a time limit.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::call::{own, sys};
use super::verdict::{Outcome, Verdict};

/// How long an attempt may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The hidden verb with which the program says who it runs as.
pub(super) const WHO_AM_I: &str = "who-am-i";

/// Prints the effective and the saved user id.
pub(super) fn report_ids() {
    // SAFETY: geteuid takes nothing and cannot fail.
    println!("{}", unsafe { libc::geteuid() });
}

/// Runs `attempt` in a child and returns what it came to.
pub(super) fn judge(attempt: impl FnOnce() -> Verdict) -> Verdict {
    let Ok((reader, writer)) = pipe() else { return Verdict::error("no pipe") };
    // SAFETY: this program has one thread, so the child may do anything after the fork.
    match unsafe { libc::fork() } {
        -1 => Verdict::error(format!("no child: {}", std::io::Error::last_os_error())),
        0 => {
            drop(reader);
            let verdict = attempt();
            let text = serde_json::to_vec(&verdict).unwrap_or_default();
            let _ = File::from(writer).write_all(&text);
            // SAFETY: _exit ends this child without running the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
        child => {
            drop(writer);
            collect(child, reader)
        }
    }
}

fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0_u8; 8];
    sys!(libc::SYS_pipe2, &mut ends, libc::O_CLOEXEC)?;
    let end = |at: usize| {
        i64::from(i32::from_ne_bytes([ends[at], ends[at + 1], ends[at + 2], ends[at + 3]]))
    };
    Ok((own(Ok(end(0)))?, own(Ok(end(4)))?))
}

/// Waits for the child within the limit, then reads its verdict.
fn collect(child: i32, reader: OwnedFd) -> Verdict {
    let Some(status) = wait(child, LIMIT) else {
        let _ = sys!(libc::SYS_kill, child, libc::SIGKILL);
        let _ = wait(child, Duration::from_secs(5));
        return Verdict::error(format!("no answer within {} s", LIMIT.as_secs()));
    };
    if libc::WIFSIGNALED(status) {
        return killed_by(libc::WTERMSIG(status));
    }
    let mut text = Vec::new();
    let mut reader = File::from(reader);
    let mut buffer = [0_u8; 65536];
    // One read: a grandchild may hold the pipe open, and a verdict is smaller than a pipe.
    if let Ok(got) = reader.read(&mut buffer) {
        text.extend_from_slice(&buffer[..got]);
    }
    serde_json::from_slice(&text).unwrap_or_else(|_| Verdict::error("the child gave no verdict"))
}

/// The child's status, or nothing after `limit`.
pub(super) fn wait(child: i32, limit: Duration) -> Option<i32> {
    let deadline = Instant::now() + limit;
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid integer to write to, and the child is ours.
        let done = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
        if done != 0 {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn killed_by(signal: i32) -> Verdict {
    let detail = format!("killed by signal {signal}");
    match signal {
        libc::SIGSYS => Verdict::refused(format!("{detail} (SIGSYS)")),
        _ => Verdict { outcome: Outcome::Error, errno: None, detail },
    }
}

/// A child that runs `act`, which must not return.
pub(super) fn fork(act: impl FnOnce()) -> std::io::Result<i32> {
    // SAFETY: this program has one thread, so the child may do anything after the fork.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()),
        0 => {
            act();
            // SAFETY: ends this child without running the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
        child => Ok(child),
    }
}
