//! What the facts worker's two processes give up.

use std::io;
use std::os::fd::OwnedFd;

use libc as l;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, setrlimit};
use rustix::thread::CapabilitySet;

use crate::packets::confine::{Group, allow_only, drop_to, expect_refused, is_refused, only};
use crate::packets::rules::{Cond, Rule, Test};

/// All that is kept: links and lists of processes are for those who may trace them, and directories
/// and programs may be closed to others.
pub(super) const KEPT: CapabilitySet =
    CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// How much memory each of the two may have, in bytes.
const MEMORY: u64 = 512 << 20;

/// What the reader calls.
const READ: &[Group] = &[(
    "look at what is in proc, and at programs",
    &[
        l::SYS_readlinkat,
        l::SYS_newfstatat,
        l::SYS_fstat,
        l::SYS_fstatfs,
        l::SYS_statx,
        l::SYS_getdents64,
        l::SYS_lseek,
        l::SYS_pread64,
    ],
)];

/// What the driver calls besides, to have a reader and to write the file.
const DRIVE: &[Group] = &[
    ("start a reader, and see to its end", &[l::SYS_wait4, l::SYS_kill, l::SYS_socketpair]),
    ("a reader gives up more", &[l::SYS_prctl, l::SYS_seccomp, l::SYS_getppid]),
    ("put a new file in the place of the old one", &[l::SYS_renameat, l::SYS_unlinkat]),
    ("a process that is forked sets this up", &[l::SYS_set_robust_list, l::SYS_rseq]),
];

const fn arg(arg: u8, mask: i32, value: i32) -> Cond {
    let (mask, value) = (mask.cast_unsigned(), value.cast_unsigned());
    Cond { arg, test: Test::Masked { mask, value } }
}

/// Flags of openat(2) with which something is written or made.
const WRITING: i32 = l::O_ACCMODE | l::O_CREAT | l::O_TRUNC | l::O_APPEND;
/// Of a fork: nothing is shared, and no namespace is made.
const SHARING: i32 = l::CLONE_VM | l::CLONE_FS | l::CLONE_FILES | l::CLONE_THREAD;
const NAMESPACES: i32 = l::CLONE_NEWNS
    | l::CLONE_NEWUSER
    | l::CLONE_NEWPID
    | l::CLONE_NEWNET
    | l::CLONE_NEWIPC
    | l::CLONE_NEWUTS
    | l::CLONE_NEWCGROUP;

#[allow(clippy::cast_possible_truncation)]
const READ_IF: &[Rule] = &[
    only(l::SYS_openat, &[arg(2, WRITING, l::O_RDONLY)], "for reading"),
    only(
        l::SYS_ioctl,
        &[Cond { arg: 1, test: Test::Is(l::NS_GET_PARENT as u32) }],
        "which namespace a namespace is in",
    ),
];

const DRIVE_IF: &[Rule] = &[
    only(
        l::SYS_openat,
        &[arg(2, WRITING, l::O_WRONLY | l::O_CREAT)],
        "a new file beside the one that is replaced",
    ),
    only(l::SYS_clone, &[arg(0, SHARING | NAMESPACES, 0)], "a reader"),
];

/// Becomes `uid` and `gid`, the driver. The reader's rights are among its own, since it has them to
/// give.
pub(super) fn driver(uid: u32, gid: u32) -> io::Result<()> {
    let limit =
        |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    limit(Resource::As, MEMORY)?;
    limit(Resource::Core, 1)?;
    drop_to(uid, gid, KEPT)?;
    let groups = [READ, DRIVE].concat();
    let rules = [READ_IF, DRIVE_IF].concat();
    allow_only(&groups, &rules)
}

/// Gives up the rest, in the reader: it ends with `parent`, and cannot write anywhere.
pub(super) fn reader(parent: Pid, out: &mut OwnedFd) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(parent) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // The procfs in the place of the directory that the driver writes in.
    *out = openat(CWD, "/", flags, Mode::empty())?;
    allow_only(READ, READ_IF)?;
    check()
}

/// Tries what a reader may not do.
fn check() -> io::Result<()> {
    let wronly = l::O_WRONLY | l::O_CLOEXEC;
    // SAFETY: openat reads a static C string; a descriptor that it made would be leaked into a
    // process that ends for that reason.
    let opened = is_refused(unsafe {
        l::syscall(l::SYS_openat, l::AT_FDCWD, c"/self/comm".as_ptr(), wronly)
    });
    // SAFETY: fork takes nothing; a child that it made would end with this process.
    let forked = is_refused(unsafe { l::syscall(l::SYS_clone, l::SIGCHLD, 0, 0, 0, 0) });
    // SAFETY: kill takes two integers, and signal 0 does nothing.
    let signalled = is_refused(unsafe { l::syscall(l::SYS_kill, 1, 0) });
    expect_refused(opened && forked && signalled)
}
