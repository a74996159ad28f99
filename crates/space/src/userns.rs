//! Making a user namespace with a given mapping (user_namespaces(7)).

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{
    CapabilitySets, Gid, Uid, UnshareFlags, capabilities, set_capabilities, set_keep_capabilities,
    set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
};

use crate::config::IdRange;

/// Makes a user namespace with the mapping of `ids`, and ranges of `others` mapped to themselves, and
/// returns a descriptor of it.
///
/// It belongs to the user `owner` of the host, who is nobody else. The kernel charges what it counts
/// for each user (inotify instances, queued signals, message queues) to the owner of the namespace
/// too (kernel/ucount.c): a namespace of root's could use up root's share.
///
/// Must be called by root of the initial user namespace.
pub fn create(ids: IdRange, others: &[u32], owner: u32) -> io::Result<OwnedFd> {
    with_map(&map(ids, others), owner)
}

/// Makes a user namespace by which a mount shows files of the range that begins with `from` as those of
/// the one that begins with `to`. It is for nothing else. See [`create`] for the rest.
pub fn shifting(from: u32, to: u32, owner: u32) -> io::Result<OwnedFd> {
    with_map(&format!("{from} {to} {}\n", IdRange::SIZE), owner)
}

fn with_map(map: &str, owner: u32) -> io::Result<OwnedFd> {
    let (theirs, ours) = std::os::unix::net::UnixStream::pair()?;
    // SAFETY: the child of this fork makes only the async-signal-safe calls of `child` and exits.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        drop(ours);
        child(&theirs, owner);
    }
    drop(theirs);
    let namespace = mapped(pid, map, &ours);
    drop(ours);
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
    namespace
}

/// Waits for the child's namespace, writes its mappings, opens it.
fn mapped(pid: i32, map: &str, child: &impl AsFd) -> io::Result<OwnedFd> {
    let mut answer = [1];
    rustix::io::read(child, &mut answer)?;
    if answer[0] != 0 {
        return Err(io::Error::from_raw_os_error(i32::from(answer[0])));
    }
    fs::write(format!("/proc/{pid}/uid_map"), map)?;
    fs::write(format!("/proc/{pid}/gid_map"), map)?;
    Ok(fs::File::open(format!("/proc/{pid}/ns/user"))?.into())
}

/// The lines of `uid_map`. Where ids are the host's, all are there.
fn map(ids: IdRange, others: &[u32]) -> String {
    let IdRange::Private { base } = ids else { return format!("0 0 {}\n", u32::MAX) };
    let own = format!("0 {base} {}\n", IdRange::SIZE);
    let other = |first: &u32| format!("{first} {first} {}\n", IdRange::SIZE);
    others.iter().map(other).fold(own, |all, line| all + &line)
}

/// The child: enters a new user namespace as `owner` and stays until the parent has closed its end.
fn child(parent: &impl AsFd, owner: u32) -> ! {
    let errno = match enter_as(owner) {
        Ok(()) => 0,
        Err(error) => u8::try_from(error.raw_os_error()).unwrap_or(1),
    };
    let _ = rustix::io::write(parent, &[errno]);
    let mut end = [0];
    let _ = rustix::io::read(parent, &mut end);
    // SAFETY: _exit ends the process without running anything of the parent's.
    unsafe { libc::_exit(0) }
}

/// Becomes `owner`, with capabilities, since making user namespaces may be root's alone.
fn enter_as(owner: u32) -> rustix::io::Result<()> {
    set_keep_capabilities(true)?;
    let all = capabilities(None)?;
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_capabilities(None, CapabilitySets { effective: all.permitted, ..all })?;
    // SAFETY: the process has one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }
}
