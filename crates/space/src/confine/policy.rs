//! The seccomp policy of a portspace, as data: what may be called, what is refused, and why.
//!
//! Whatever is in neither list fails with `ENOSYS`, as on a kernel that does not have the call, so
//! that programs fall back. What is listed as refused fails with `EPERM`. The architecture is
//! checked first: calls of another ABI (i386, x32) never reach the lists.

use libc as l;

/// System calls with one reason for being allowed or refused.
pub struct Group {
    /// Why.
    pub reason: &'static str,
    /// The calls, by number and name.
    pub calls: &'static [(i64, &'static str)],
}

macro_rules! group {
    ($reason:literal: $($call:ident)+) => {
        Group { reason: $reason, calls: &[$((l::$call, stringify!($call))),+] }
    };
}

/// What may be called with any arguments but those that [`super::seccomp`] refuses.
#[cfg(target_arch = "x86_64")]
pub const ALLOWED: &[Group] = &[
    group!("read, write and position on descriptors that are open":
        SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev
        SYS_preadv2 SYS_pwritev2 SYS_lseek SYS_close SYS_close_range SYS_dup SYS_dup2 SYS_dup3
        SYS_sendfile SYS_splice SYS_tee SYS_vmsplice SYS_copy_file_range SYS_readahead SYS_fadvise64
        SYS_pipe SYS_pipe2 SYS_memfd_create),
    group!("open and look at files: the mount table and file modes decide which":
        SYS_open SYS_openat SYS_openat2 SYS_creat SYS_stat SYS_fstat SYS_lstat SYS_newfstatat
        SYS_statx SYS_statfs SYS_fstatfs SYS_access SYS_faccessat SYS_faccessat2 SYS_getdents
        SYS_getdents64 SYS_readlink SYS_readlinkat SYS_getcwd SYS_chdir SYS_fchdir SYS_getxattr
        SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr),
    group!("change files of its own: views are read-only mounts":
        SYS_mkdir SYS_mkdirat SYS_rmdir SYS_unlink SYS_unlinkat SYS_rename SYS_renameat
        SYS_renameat2 SYS_link SYS_linkat SYS_symlink SYS_symlinkat SYS_chmod SYS_fchmod
        SYS_fchmodat SYS_fchmodat2 SYS_chown SYS_fchown SYS_lchown SYS_fchownat SYS_truncate
        SYS_ftruncate SYS_fallocate SYS_utime SYS_utimes SYS_utimensat SYS_futimesat SYS_setxattr
        SYS_lsetxattr SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr SYS_umask
        SYS_sync SYS_fsync SYS_fdatasync SYS_syncfs SYS_sync_file_range SYS_flock),
    group!("named pipes and socket files; the kernel refuses device nodes in a user namespace":
        SYS_mknod SYS_mknodat),
    group!("leave the root directory for a deeper one: daemons confine themselves":
        SYS_chroot),
    group!("descriptor flags, terminals, locks; arguments that reach further are refused below":
        SYS_fcntl SYS_ioctl),
    group!("wait on descriptors":
        SYS_poll SYS_ppoll SYS_select SYS_pselect6 SYS_epoll_create SYS_epoll_create1 SYS_epoll_ctl
        SYS_epoll_wait SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd SYS_eventfd2 SYS_signalfd
        SYS_signalfd4 SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_inotify_init
        SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch),
    group!("sockets of the families that are let through below; the network is the VPN alone":
        SYS_socket SYS_socketpair SYS_bind SYS_connect SYS_listen SYS_accept SYS_accept4
        SYS_getsockname SYS_getpeername SYS_setsockopt SYS_getsockopt SYS_sendto SYS_recvfrom
        SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg SYS_shutdown),
    group!("memory of its own":
        SYS_brk SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_msync SYS_mincore
        SYS_mlock SYS_mlock2 SYS_munlock SYS_mlockall SYS_munlockall SYS_membarrier SYS_mseal
        SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_get_mempolicy SYS_set_mempolicy
        SYS_mbind SYS_memfd_secret),
    group!("threads and processes; flags that make namespaces are refused below":
        SYS_clone SYS_fork SYS_vfork SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4
        SYS_waitid SYS_set_tid_address SYS_set_robust_list SYS_get_robust_list SYS_rseq SYS_futex
        SYS_futex_waitv SYS_arch_prctl SYS_prctl
        SYS_restart_syscall SYS_personality),
    group!("signals: they reach the space's own processes alone":
        SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigtimedwait
        SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_rt_sigsuspend SYS_sigaltstack SYS_kill
        SYS_tkill SYS_tgkill SYS_pause SYS_alarm SYS_pidfd_open SYS_pidfd_send_signal),
    group!("who it is, and who it becomes inside its own user namespace":
        SYS_getpid SYS_getppid SYS_gettid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid
        SYS_getresuid SYS_getresgid SYS_getgroups SYS_getpgid SYS_getpgrp SYS_getsid SYS_setuid
        SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setgroups SYS_setfsuid
        SYS_setfsgid SYS_setpgid SYS_setsid SYS_capget SYS_capset),
    group!("limits and scheduling of its own; the cgroup is what binds":
        SYS_getrlimit SYS_setrlimit SYS_prlimit64 SYS_getrusage SYS_times SYS_getpriority
        SYS_setpriority SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity
        SYS_sched_getparam SYS_sched_setparam SYS_sched_getscheduler SYS_sched_setscheduler
        SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_rr_get_interval
        SYS_sched_getattr SYS_sched_setattr SYS_ioprio_get SYS_ioprio_set SYS_getcpu),
    group!("clocks, read and waited for":
        SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday
        SYS_time SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun
        SYS_timer_delete SYS_setitimer SYS_getitimer),
    group!("what machine this is":
        SYS_uname SYS_sysinfo SYS_getrandom),
    group!("System V and POSIX objects of its own IPC namespace":
        SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop SYS_semctl SYS_semtimedop
        SYS_msgget SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend
        SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr),
    group!("further confinement by the program itself can only take away":
        SYS_seccomp SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self),
];

/// What is refused on purpose, with `EPERM`.
#[cfg(target_arch = "x86_64")]
pub const REFUSED: &[Group] = &[
    group!("a namespace of its own would give capabilities over it, and kernel code behind them":
        SYS_unshare SYS_setns),
    group!("mounts make up the root and the views":
        SYS_mount SYS_umount2 SYS_pivot_root SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig
        SYS_fsmount SYS_fspick SYS_mount_setattr),
    group!("loading code into the kernel, or another kernel":
        SYS_bpf SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load
        SYS_kexec_file_load),
    group!("a second way into every call that the filter would not see":
        SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register),
    group!("asynchronous I/O contexts are counted for the whole machine (fs.aio-max-nr)":
        SYS_io_setup SYS_io_destroy SYS_io_submit SYS_io_cancel SYS_io_getevents),
    group!("reading, stopping or steering other processes":
        SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd SYS_kcmp
        SYS_process_madvise SYS_process_mrelease SYS_migrate_pages SYS_move_pages),
    group!("large kernel interfaces with a history, which no IDS here needs":
        SYS_perf_event_open SYS_userfaultfd SYS_keyctl SYS_add_key SYS_request_key
        SYS_lookup_dcookie SYS_modify_ldt SYS_remap_file_pages SYS_uselib SYS_ustat SYS_sysfs
        SYS__sysctl SYS_vserver SYS_nfsservctl),
    group!("a file handle opens files that no path leads to (open_by_handle_at(2))":
        SYS_open_by_handle_at SYS_name_to_handle_at),
    group!("permission events would stop a server that opens a file (fanotify(7))":
        SYS_fanotify_init SYS_fanotify_mark),
    group!("the machine as a whole":
        SYS_reboot SYS_swapon SYS_swapoff SYS_sethostname SYS_setdomainname SYS_settimeofday
        SYS_clock_settime SYS_clock_adjtime SYS_adjtimex SYS_acct SYS_quotactl SYS_quotactl_fd
        SYS_syslog SYS_vhangup SYS_iopl SYS_ioperm),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_call_is_listed_twice() {
        let mut seen = HashSet::new();
        for (number, name) in ALLOWED.iter().chain(REFUSED).flat_map(|group| group.calls) {
            assert!(seen.insert(number), "{name} is listed twice");
        }
    }

    #[test]
    fn calls_that_open_the_way_out_are_not_allowed() {
        let allowed: HashSet<_> =
            ALLOWED.iter().flat_map(|g| g.calls).map(|(_, name)| *name).collect();
        for name in ["SYS_bpf", "SYS_unshare", "SYS_mount", "SYS_io_uring_setup", "SYS_clone3"] {
            assert!(!allowed.contains(name), "{name} is allowed");
        }
    }
}
