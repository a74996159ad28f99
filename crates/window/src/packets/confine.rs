//! How the guard and the broker give up what they do not need, and make sure that it is gone.

use std::io;

use hyperspector_sys::capabilities::limit_bounding_set;
use libc as l;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, Gid, Uid, capabilities,
    clear_ambient_capability_set, set_capabilities, set_capabilities_secure_bits,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};
use seccompiler::SeccompAction;

use super::rules::{Action, Cond, Rule, Test, filter};

/// System calls with one reason for being allowed.
pub(crate) type Group = (&'static str, &'static [i64]);

/// A call that is allowed under conditions.
pub(crate) const fn only(call: i64, when: &'static [Cond], reason: &'static str) -> Rule {
    Rule { call, when, action: Action::Ask, reason }
}

/// What every worker of the packet window calls.
pub(crate) const COMMON: &[Group] = &[
    (
        "talk on descriptors that are open",
        &[
            l::SYS_read,
            l::SYS_write,
            l::SYS_readv,
            l::SYS_writev,
            l::SYS_close,
            l::SYS_fcntl,
            l::SYS_recvfrom,
            l::SYS_recvmsg,
            l::SYS_sendto,
            l::SYS_sendmsg,
            l::SYS_accept4,
            l::SYS_getsockopt,
            l::SYS_setsockopt,
            l::SYS_getsockname,
        ],
    ),
    (
        "wait",
        &[
            #[cfg(target_arch = "x86_64")]
            l::SYS_poll,
            l::SYS_ppoll,
            l::SYS_futex,
            l::SYS_nanosleep,
            l::SYS_clock_nanosleep,
            l::SYS_clock_gettime,
            l::SYS_restart_syscall,
            l::SYS_sched_yield,
        ],
    ),
    ("memory of its own", &[l::SYS_munmap, l::SYS_mremap, l::SYS_madvise, l::SYS_brk]),
    (
        "signals to itself, and its end",
        &[
            l::SYS_rt_sigaction,
            l::SYS_rt_sigprocmask,
            l::SYS_rt_sigreturn,
            l::SYS_sigaltstack,
            l::SYS_exit,
            l::SYS_exit_group,
            l::SYS_gettid,
            l::SYS_getpid,
            l::SYS_getrandom,
        ],
    ),
];

const NOT_EXECUTABLE: Cond =
    Cond { arg: 2, test: Test::Masked { mask: l::PROT_EXEC.cast_unsigned(), value: 0 } };

/// As [`COMMON`], with conditions.
const COMMON_IF: &[Rule] = &[
    only(l::SYS_mmap, &[NOT_EXECUTABLE], "memory that holds no code"),
    only(l::SYS_mprotect, &[NOT_EXECUTABLE], "memory that holds no code"),
];

/// Becomes `uid` and `gid` of the current user namespace, with no other groups, and keeps the
/// capabilities `keep` alone, for good. Must be called while there is one thread.
pub(crate) fn drop_to(uid: u32, gid: u32, keep: CapabilitySet) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_keep_capabilities(true)?;
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    // Changing the user has emptied the effective set.
    let all = capabilities(None)?.permitted;
    set_capabilities(None, sets(all, all))?;
    // From here on no change of user gives or takes a capability.
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED,
    )?;
    limit_bounding_set(CapabilitySet::empty())?;
    clear_ambient_capability_set()?;
    set_capabilities(None, sets(keep, keep))?;
    set_no_new_privs(true)?;
    make_undumpable()?;
    check_capabilities(keep)
}

pub(crate) fn sets(effective: CapabilitySet, permitted: CapabilitySet) -> CapabilitySets {
    CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() }
}

/// Nobody else of the same user may trace this process.
fn make_undumpable() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes an integer.
    match unsafe { l::prctl(l::PR_SET_DUMPABLE, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tries to get a dropped capability back.
fn check_capabilities(keep: CapabilitySet) -> io::Result<()> {
    let more = keep | CapabilitySet::SYS_ADMIN;
    let regained = !keep.contains(CapabilitySet::SYS_ADMIN)
        && set_capabilities(None, sets(more, more)).is_ok();
    if regained || capabilities(None)?.permitted != keep {
        return Err(io::Error::other("a dropped capability could be regained"));
    }
    Ok(())
}

/// From here on only [`COMMON`] and what is given may be called, by all threads; the rest fails
/// with `ENOSYS`, which makes the C library fall back where it can, and lets the confinement be
/// tested from inside.
pub(crate) fn allow_only(groups: &[Group], conditional: &[Rule]) -> io::Result<()> {
    let plain: Vec<Rule> = COMMON
        .iter()
        .chain(groups)
        .flat_map(|(reason, calls)| calls.iter().map(move |call| only(*call, &[], reason)))
        .collect();
    let all: Vec<&Rule> = plain.iter().chain(COMMON_IF).chain(conditional).collect();
    let refused = SeccompAction::Errno(l::ENOSYS.cast_unsigned());
    let program = filter(&all, refused, SeccompAction::Allow).map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)?;
    check_calls()
}

/// Tries what no worker may do.
fn check_calls() -> io::Result<()> {
    // SAFETY: unshare takes an integer.
    let namespaces = is_refused(unsafe { l::syscall(l::SYS_unshare, l::CLONE_NEWUSER) });
    // SAFETY: execve with a null path cannot succeed.
    let execution = is_refused(unsafe { l::syscall(l::SYS_execve, 0, 0, 0) });
    // SAFETY: socket takes three integers; a descriptor that it made would be leaked into a
    // process that ends for that reason.
    let sockets = is_refused(unsafe { l::syscall(l::SYS_socket, l::AF_INET, l::SOCK_DGRAM, 0) });
    expect_refused(namespaces && execution && sockets)
}

/// Whether the system call that has just returned `result` is one that [`allow_only`] refuses.
pub(crate) fn is_refused(result: l::c_long) -> bool {
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(l::ENOSYS)
}

/// An error where not all of the calls that were tried are refused.
pub(crate) fn expect_refused(all: bool) -> io::Result<()> {
    if all { Ok(()) } else { Err(io::Error::other("a forbidden system call went through")) }
}
