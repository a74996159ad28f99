//! What a tracer gives up once its programs are loaded: all but its descriptors.

use std::io;
use std::os::fd::OwnedFd;

use libc as l;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::CapabilitySet;

use super::MEMORY;
use crate::packets::confine::{Group, allow_only, drop_to, expect_refused, is_refused, only};
use crate::packets::rules::{Cond, Rule, Test};

/// What it calls besides what every worker calls.
const CALLS: &[Group] = &[("an answer is on its way to a reader that leaves", &[l::SYS_shutdown])];

/// `BPF_MAP_UPDATE_ELEM` (bpf(2)).
const UPDATE: Cond = Cond { arg: 0, test: Test::Is(2) };
#[allow(clippy::cast_possible_truncation)]
const FIONBIO: Cond = Cond { arg: 1, test: Test::Is(l::FIONBIO as u32) };

const CONDITIONAL: &[Rule] = &[
    only(l::SYS_bpf, &[UPDATE], "processes that are traced by number, in a map that it has open"),
    only(l::SYS_ioctl, &[FIONBIO], "connections that are not waited for"),
];

/// Becomes `uid` and `gid` in the empty directory `root`, without a capability, for good.
pub(super) fn give_up(uid: u32, gid: u32, root: OwnedFd) -> io::Result<()> {
    if uid == 0 || gid == 0 {
        return Err(io::Error::other("a tracer must not be root"));
    }
    let limit =
        |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    limit(Resource::Core, 1)?;
    limit(Resource::Data, MEMORY)?;
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")?;
    drop(root);
    drop_to(uid, gid, CapabilitySet::empty())?;
    allow_only(CALLS, CONDITIONAL)?;
    check()
}

/// Tries what a tracer may not do any more.
fn check() -> io::Result<()> {
    // SAFETY: a program or map that could be made with no attributes at all does not exist; the calls
    // write nothing.
    let loads = is_refused(unsafe { l::syscall(l::SYS_bpf, 5, 0, 0) });
    // SAFETY: as above.
    let makes = is_refused(unsafe { l::syscall(l::SYS_bpf, 0, 0, 0) });
    // SAFETY: openat reads a static C string; a descriptor that it made would be leaked into a process
    // that ends for that reason.
    let opens =
        is_refused(unsafe { l::syscall(l::SYS_openat, l::AT_FDCWD, c"/".as_ptr(), l::O_RDONLY) });
    expect_refused(loads && makes && opens)
}
