//! Making a user namespace with a given mapping (user_namespaces(7)).

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::config::IdRange;

/// Makes a user namespace with the mapping of `ids` and returns a descriptor of it.
///
/// Must be called by root of the initial user namespace.
pub fn create(ids: IdRange) -> io::Result<OwnedFd> {
    let (theirs, ours) = std::os::unix::net::UnixStream::pair()?;
    // SAFETY: the child of this fork makes only the async-signal-safe calls of `child` and exits.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        drop(ours);
        child(&theirs);
    }
    drop(theirs);
    let namespace = mapped(pid, ids, &ours);
    drop(ours);
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
    namespace
}

/// Waits for the child's namespace, writes its mappings, opens it.
fn mapped(pid: i32, ids: IdRange, child: &impl AsFd) -> io::Result<OwnedFd> {
    let mut answer = [1];
    rustix::io::read(child, &mut answer)?;
    if answer[0] != 0 {
        return Err(io::Error::from_raw_os_error(i32::from(answer[0])));
    }
    let map = match ids {
        IdRange::Private { base } => format!("0 {base} {}\n", IdRange::SIZE),
        IdRange::Host => format!("0 0 {}\n", u32::MAX),
    };
    fs::write(format!("/proc/{pid}/uid_map"), &map)?;
    fs::write(format!("/proc/{pid}/gid_map"), &map)?;
    Ok(fs::File::open(format!("/proc/{pid}/ns/user"))?.into())
}

/// The child: enters a new user namespace and stays until the parent has closed its end.
fn child(parent: &impl AsFd) -> ! {
    // SAFETY: unshare takes an integer; the process has one thread.
    let failed = unsafe { libc::unshare(libc::CLONE_NEWUSER) } < 0;
    let errno = if failed { io::Error::last_os_error().raw_os_error().unwrap_or(1) } else { 0 };
    let _ = rustix::io::write(parent, &[u8::try_from(errno).unwrap_or(1)]);
    let mut end = [0];
    let _ = rustix::io::read(parent, &mut end);
    // SAFETY: _exit ends the process without running anything of the parent's.
    unsafe { libc::_exit(0) }
}
