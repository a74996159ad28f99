//! Locks and leases: they need no write access, but a server that takes locks waits for them.

use std::ffi::CString;
use std::io;

use super::call::{bytes, open, sys};
use super::files::on_file;
use super::{Attempt, Targets, Verdict};

const LOCKS: &str = "a portspace cannot hold up a server's file locks";
const LEASES: &str = "a portspace cannot hold up a server's opens: seccomp";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("files", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("flock-exclusive", LOCKS, |t| on_file(t, |f| flock(f, libc::LOCK_EX))),
    attempt("flock-shared", LOCKS, |t| on_file(t, |f| flock(f, libc::LOCK_SH))),
    attempt("fcntl-read-lock", LOCKS, |t| on_file(t, |f| record(f, libc::F_SETLK, libc::F_RDLCK))),
    attempt("fcntl-write-lock", LOCKS, |t| {
        let verdict = on_file(t, |f| record(f, libc::F_SETLK, libc::F_WRLCK));
        needs_writing(verdict)
    }),
    attempt("ofd-read-lock", LOCKS, |t| {
        on_file(t, |f| record(f, libc::F_OFD_SETLK, libc::F_RDLCK))
    }),
    attempt("lease-read", LEASES, |t| on_file(t, |f| lease(f, libc::F_RDLCK))),
    attempt("lease-high-bits", LEASES, |t| on_file(t, lease_high_bits)),
    attempt("lease-write", LEASES, |t| on_file(t, |f| lease(f, libc::F_WRLCK))),
];

/// A write lock on a descriptor that is open for reading is EBADF, which is the wanted answer.
fn needs_writing(mut verdict: Verdict) -> Verdict {
    if verdict.errno.as_deref() == Some("EBADF") {
        verdict.outcome = super::Outcome::Refused;
    }
    verdict
}

fn flock(file: &CString, kind: i32) -> io::Result<i64> {
    let fd = open(file, libc::O_RDONLY)?;
    sys!(libc::SYS_flock, &fd, kind | libc::LOCK_NB)
}

fn record(file: &CString, command: i32, kind: i32) -> io::Result<i64> {
    let fd = open(file, libc::O_RDONLY)?;
    let mut lock: libc::flock = super::call::zeroed();
    lock.l_type = i16::try_from(kind).unwrap_or_default();
    sys!(libc::SYS_fcntl, &fd, command, bytes(&lock))
}

fn lease(file: &CString, kind: i32) -> io::Result<i64> {
    let fd = open(file, libc::O_RDONLY)?;
    sys!(libc::SYS_fcntl, &fd, libc::F_SETLEASE, kind)
}

/// The same with bits set that the kernel cuts off and a careless filter compares.
fn lease_high_bits(file: &CString) -> io::Result<i64> {
    let fd = open(file, libc::O_RDONLY)?;
    let command = libc::F_SETLEASE as u64 | 1 << 32;
    sys!(libc::SYS_fcntl, &fd, command, libc::F_RDLCK)
}
