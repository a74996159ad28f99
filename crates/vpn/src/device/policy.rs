//! The system calls of the embedded VPN once it runs: reviewed data, a reason for each, and what
//! enforces it (seccomp(2)). Everything else ends the process.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// An allowed call.
pub struct Call {
    /// Its number on this architecture.
    pub number: libc::c_long,
    /// Its arguments: where one is named, its bits under the mask must be the value.
    pub only: &'static [Argument],
    /// Who needs it.
    #[allow(dead_code, reason = "for readers of this list; a test checks that it is there")]
    pub reason: &'static str,
}

/// A condition on an argument, of which the lower 32 bits count.
pub struct Argument {
    index: u8,
    mask: u32,
    value: u32,
}

const ALL: u32 = u32::MAX;

const fn call(number: libc::c_long, reason: &'static str) -> Call {
    Call { number, only: &[], reason }
}

const fn only(number: libc::c_long, only: &'static [Argument], reason: &'static str) -> Call {
    Call { number, only, reason }
}

const fn argument(index: u8, mask: u32, value: i32) -> Argument {
    Argument { index, mask, value: value.cast_unsigned() }
}

/// What is allowed. Descriptors are not looked at: the process has those that it was given, and no
/// call here makes others but `accept4` on the control socket.
pub const ALLOWED: &[Call] = &[
    call(libc::SYS_read, "packets from the tunnel's interface, frames from the agent"),
    call(libc::SYS_write, "frames to the agent, the wake-up at the end, messages on stderr"),
    call(libc::SYS_writev, "packets to the tunnel's interface"),
    call(libc::SYS_recvmsg, "frames from the agent"),
    call(libc::SYS_recvmmsg, "datagrams"),
    call(libc::SYS_sendmsg, "datagrams, frames to the agent"),
    only(libc::SYS_sendto, &[argument(4, ALL, 0)], "frames to the agent: without an address"),
    only(libc::SYS_recvfrom, &[argument(4, ALL, 0)], "frames from the agent: without an address"),
    #[cfg(target_arch = "x86_64")]
    call(libc::SYS_poll, "waiting for packets"),
    call(libc::SYS_ppoll, "waiting for packets, with a limit"),
    call(libc::SYS_accept4, "the agent's connections to the control socket"),
    only(
        libc::SYS_setsockopt,
        &[argument(1, ALL, libc::SOL_SOCKET), argument(2, ALL, libc::SO_RCVTIMEO)],
        "patience with the agent, reading",
    ),
    only(
        libc::SYS_setsockopt,
        &[argument(1, ALL, libc::SOL_SOCKET), argument(2, ALL, libc::SO_SNDTIMEO)],
        "patience with the agent, writing",
    ),
    call(libc::SYS_close, "the agent's connections, once served"),
    only(
        libc::SYS_fcntl,
        &[argument(1, ALL, libc::F_GETFD)],
        "debug builds look whether a descriptor is open before they close it",
    ),
    call(libc::SYS_futex, "locks between the threads"),
    call(libc::SYS_clock_gettime, "timers, where the kernel has no faster way"),
    call(libc::SYS_clock_nanosleep, "the timers' thread"),
    call(libc::SYS_nanosleep, "as above, on older C libraries"),
    call(libc::SYS_restart_syscall, "waiting goes on after the process was stopped and continued"),
    call(libc::SYS_getrandom, "ephemeral keys, session indices"),
    only(libc::SYS_mmap, &[argument(2, 4, 0)], "the allocator; nothing executable"),
    only(libc::SYS_mprotect, &[argument(2, 4, 0)], "the allocator; nothing executable"),
    call(libc::SYS_munmap, "the allocator"),
    call(libc::SYS_mremap, "the allocator"),
    call(libc::SYS_madvise, "the allocator"),
    call(libc::SYS_brk, "the allocator"),
    call(libc::SYS_sigaltstack, "the end of a thread"),
    call(libc::SYS_rt_sigprocmask, "the end of a thread"),
    call(libc::SYS_rt_sigreturn, "signal handlers return"),
    call(libc::SYS_exit, "the end of a thread"),
    call(libc::SYS_exit_group, "the end"),
];

/// What fails with EACCES instead of ending the process.
pub const REFUSED: &[Call] = &[
    #[cfg(target_arch = "x86_64")]
    call(libc::SYS_open, "the C library's allocator looks at a sysctl when it gives back memory"),
    call(libc::SYS_openat, "as above; also how the process tests its own confinement"),
];

/// Why no filter could be made.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The architecture has no filter.
    #[error("make the system call filter: {0}")]
    Build(#[from] seccompiler::BackendError),
    /// The kernel refused it.
    #[error("apply the system call filter: {0}")]
    Apply(#[from] seccompiler::Error),
}

/// Puts the policy over all threads of the process, for good.
pub fn apply() -> Result<(), PolicyError> {
    // First the lesser one: the other does not let a filter be added any more. Where both have a
    // say, the stricter wins.
    for program in programs()? {
        seccompiler::apply_filter_all_threads(&program)?;
    }
    Ok(())
}

/// Refusals, then the allow-list.
fn programs() -> Result<[BpfProgram; 2], PolicyError> {
    let errno = SeccompAction::Errno(libc::EACCES.cast_unsigned());
    let refuse = filter(REFUSED.iter(), SeccompAction::Allow, errno)?;
    let allowed = ALLOWED.iter().chain(REFUSED);
    let allow = filter(allowed, SeccompAction::KillProcess, SeccompAction::Allow)?;
    Ok([refuse, allow])
}

fn filter<'a>(
    calls: impl Iterator<Item = &'a Call>,
    otherwise: SeccompAction,
    action: SeccompAction,
) -> Result<BpfProgram, PolicyError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls {
        let conditions = call.only.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        // A call without rules is taken whatever its arguments.
        let list = rules.entry(call.number).or_default();
        if !conditions.is_empty() {
            list.push(SeccompRule::new(conditions)?);
        }
    }
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, otherwise, action, architecture)?.try_into()?)
}

fn condition(a: &Argument) -> Result<SeccompCondition, seccompiler::BackendError> {
    let compare = SeccompCmpOp::MaskedEq(a.mask.into());
    SeccompCondition::new(a.index, SeccompCmpArgLen::Dword, compare, a.value.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// Calls that must end the process: number, arguments.
    const ATTACKS: &[(libc::c_long, [libc::c_long; 6])] = &[
        (libc::SYS_execve, [0; 6]),
        (libc::SYS_socket, [1, 1, 0, 0, 0, 0]),
        (libc::SYS_ptrace, [0; 6]),
        (libc::SYS_bpf, [0; 6]),
        (libc::SYS_clone, [17, 0, 0, 0, 0, 0]),
        (libc::SYS_unshare, [0; 6]),
        (libc::SYS_kill, [1, 0, 0, 0, 0, 0]),
        (libc::SYS_prctl, [3, 0, 0, 0, 0, 0]),
        (libc::SYS_ioctl, [0; 6]),
        (libc::SYS_setuid, [0; 6]),
        (libc::SYS_openat2, [0; 6]),
        (libc::SYS_mount, [0; 6]),
        (libc::SYS_unlinkat, [-100, 0, 0, 0, 0, 0]),
        (libc::SYS_mmap, [0, 4096, 5, 0x22, -1, 0]),
        (libc::SYS_mprotect, [0, 4096, 4, 0, 0, 0]),
        (libc::SYS_setsockopt, [0, 1, 36, 0, 0, 0]),
        (libc::SYS_fcntl, [0, 4, 0, 0, 0, 0]),
        (libc::SYS_sendto, [0, 0, 0, 0, 1, 16]),
        // The x32 form of getpid.
        (0x4000_0000 | libc::SYS_getpid, [0; 6]),
    ];

    const ATTACK: &str = "HYPERSPECTOR_TEST_ATTACK";

    /// Not a test by itself: the process that is attacked from within.
    #[test]
    #[ignore = "run by attacks_end_the_process"]
    fn attacker() {
        let Ok(number) = std::env::var(ATTACK) else { return };
        let number: usize = number.parse().unwrap();
        apply().unwrap();
        let refused = std::fs::File::open("/dev/null").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        if let Some((call, a)) = ATTACKS.get(number) {
            // SAFETY: the policy ends the process before the kernel looks at an argument; where it
            // did not, every pointer among them is null or a small number, which is refused.
            unsafe { libc::syscall(*call, a[0], a[1], a[2], a[3], a[4], a[5]) };
        }
    }

    #[test]
    fn attacks_end_the_process() {
        let run = |number: usize| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "device::policy::tests::attacker", "--ignored"]);
            command.args(["--test-threads", "1"]).env(ATTACK, number.to_string());
            command.output().unwrap().status
        };
        for (number, (call, _)) in ATTACKS.iter().enumerate() {
            assert_eq!(run(number).signal(), Some(libc::SIGSYS), "call {call} was let through");
        }
        let harmless = run(ATTACKS.len());
        assert!(harmless.success(), "the policy stops what it should not: {harmless}");
    }

    #[test]
    fn the_filters_can_be_made() {
        assert!(programs().unwrap().iter().all(|program| program.len() > 3));
    }

    #[test]
    fn every_call_has_a_reason_and_one_kind_of_rule() {
        for call in ALLOWED.iter().chain(REFUSED) {
            assert!(!call.reason.is_empty());
            let same: Vec<_> = ALLOWED.iter().filter(|c| c.number == call.number).collect();
            assert!(same.len() < 2 || same.iter().all(|c| !c.only.is_empty()), "{}", call.number);
        }
    }

    #[test]
    fn what_would_be_a_way_out_is_not_there() {
        for number in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_ioctl,
            libc::SYS_setuid,
            libc::SYS_kill,
            libc::SYS_prctl,
            libc::SYS_openat2,
        ] {
            assert!(ALLOWED.iter().all(|call| call.number != number), "{number}");
        }
    }
}
