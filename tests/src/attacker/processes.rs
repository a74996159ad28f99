//! Signals, tracing and memory of processes: those outside, and the portspace's own init.

use std::fs;
use std::io;

use super::call::{NULL, bytes, bytes_mut, own, sys, zeroed};
use super::{Attempt, Targets, Verdict};

const OUTSIDE: &str = "no process outside in sight: own PID namespace";
const INIT: &str = "the init is out of reach: seccomp, not dumpable";
const LIMITS: &str = "own limits and priorities cannot be raised";
const CONFINED: &str = "what was dropped stays dropped";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("processes", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("victim-signal", OUTSIDE, |t| victim(t, |pid| sys!(libc::SYS_kill, pid, libc::SIGURG))),
    attempt("victim-pidfd", OUTSIDE, |t| victim(t, |pid| sys!(libc::SYS_pidfd_open, pid, 0))),
    attempt("victim-ptrace", OUTSIDE, |t| victim(t, attach)),
    attempt("victim-memory-write", OUTSIDE, |t| victim(t, write_memory)),
    attempt("victim-priority", OUTSIDE, |t| {
        victim(t, |pid| sys!(libc::SYS_setpriority, libc::PRIO_PROCESS, pid, 1))
    }),
    attempt("victim-affinity", OUTSIDE, |t| victim(t, affinity)),
    attempt("victim-limits", OUTSIDE, |t| victim(t, limits_of)),
    attempt("signal-every-pid", OUTSIDE, |_| signal_every_pid()),
    attempt("foreign-proc-entries", OUTSIDE, |_| foreign_entries()),
    attempt("pidfd-signal-proc-dir", OUTSIDE, |_| signal_by_directory()),
    attempt("init-kill", INIT, |_| kill_init()),
    attempt("init-ptrace", INIT, |_| Verdict::of(attach(1))),
    attempt("init-memory-write", INIT, |_| Verdict::of(write_memory(1))),
    attempt("init-memory-read", INIT, |_| Verdict::of(read_memory(1))),
    attempt("init-pidfd-getfd", INIT, |_| steal_descriptor()),
    attempt("init-limits", INIT, |_| Verdict::of(limits_of(1))),
    attempt("ptrace-child", "no tracing at all: seccomp", |_| {
        Verdict::of(sys!(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, NULL, NULL))
    }),
    attempt("priority-raise", LIMITS, |_| raise_priority()),
    attempt("scheduler-realtime", LIMITS, |_| {
        Verdict::of(sys!(libc::SYS_sched_setscheduler, 0, libc::SCHED_FIFO, &1_i32.to_ne_bytes()))
    }),
    attempt("oom-score-lower", LIMITS, |_| lower_oom_score()),
    attempt("rlimit-raise", LIMITS, |_| raise_limit()),
    attempt("no-new-privs-clear", CONFINED, |_| clear_no_new_privs()),
    attempt("capabilities-outside", CONFINED, |_| capabilities_outside()),
    attempt("seccomp-listener", "no seccomp listener of one's own", |_| listener()),
    attempt("personality", CONFINED, |_| personality()),
    attempt("tty-push", "no input pushed into a terminal: seccomp", |_| push_input()),
    attempt("dumpable-core", "no core files by the host's pattern", |_| core_of_own()),
];

/// Raises the priority over that which it was started with; over one that is lower, where it was
/// started with the highest.
fn raise_priority() -> Verdict {
    let set = |nice: i64| sys!(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, nice);
    // The kernel answers with 20 minus the nice value (getpriority(2), "C library/kernel differences").
    let started = sys!(libc::SYS_getpriority, libc::PRIO_PROCESS, 0).map(|answer| 20 - answer);
    let lowered = started.and_then(|nice| match nice {
        -20 => set(-19).map(|_| -19),
        nice => Ok(nice),
    });
    match lowered {
        Ok(nice) => Verdict::of(set(nice - 1)).on(format!("from {nice}")),
        Err(error) => Verdict::error(format!("its own priority: {error}")),
    }
}

/// Every process id in /proc.
pub(super) fn visible() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Tries something on the process outside, unless its id means another process here.
fn victim(targets: &Targets, act: impl Fn(i32) -> io::Result<i64>) -> Verdict {
    let Some((pid, text)) = &targets.victim else { return Verdict::error("needs --victim") };
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    if !line.is_empty() && !line.contains(text.as_str()) {
        return Verdict::refused(format!("process {pid} is another one here"));
    }
    Verdict::of_or(act(*pid), &[libc::ESRCH])
}

fn attach(pid: i32) -> io::Result<i64> {
    sys!(libc::SYS_ptrace, libc::PTRACE_SEIZE, pid, NULL, NULL)
}

/// Writes nothing to an address that the other process is sure to have: the permission check comes
/// with the first byte, so one byte is read and the same one written.
fn write_memory(pid: i32) -> io::Result<i64> {
    let mut byte = [0_u8; 1];
    let place = fs::read_to_string(format!("/proc/{pid}/maps")).ok().and_then(|maps| {
        let line = maps.lines().find(|line| line.contains("rw-p"))?;
        u64::from_str_radix(line.split('-').next()?, 16).ok()
    });
    let place = place.unwrap_or(0x1000);
    let remote = [place, 1];
    let local = [byte.as_mut_ptr().addr() as u64, 1];
    let got = sys!(libc::SYS_process_vm_readv, pid, bytes(&local), 1, bytes(&remote), 1, 0);
    let put = sys!(libc::SYS_process_vm_writev, pid, bytes(&local), 1, bytes(&remote), 1, 0);
    got.and(put)
}

fn read_memory(pid: i32) -> io::Result<i64> {
    let mut byte = [0_u8; 1];
    let local = [byte.as_mut_ptr().addr() as u64, 1];
    let remote = [0x1000_u64, 1];
    match sys!(libc::SYS_process_vm_readv, pid, bytes(&local), 1, bytes(&remote), 1, 0) {
        // The address is not mapped there, so the check was passed.
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(0),
        other => other,
    }
}

fn affinity(pid: i32) -> io::Result<i64> {
    let mut mask = [0_u8; 128];
    sys!(libc::SYS_sched_getaffinity, pid, mask.len(), &mut mask)?;
    sys!(libc::SYS_sched_setaffinity, pid, mask.len(), &mask)
}

/// Reads and writes back another process's limit on open files.
fn limits_of(pid: i32) -> io::Result<i64> {
    let mut limit: libc::rlimit64 = zeroed();
    sys!(libc::SYS_prlimit64, pid, libc::RLIMIT_NOFILE, NULL, bytes_mut(&mut limit))?;
    sys!(libc::SYS_prlimit64, pid, libc::RLIMIT_NOFILE, bytes(&limit), NULL)
}

/// Signal 0 to every process id: one that answers, and is not a thread of a process in our own
/// namespaces, is outside.
fn signal_every_pid() -> Verdict {
    let most = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    let most = most.trim().parse().unwrap_or(32_768).min(4_194_304);
    let mut ours = 0;
    for pid in 1..=most {
        if sys!(libc::SYS_kill, pid, 0).is_err() {
            continue;
        }
        if is_foreign(pid) {
            return Verdict::possible(format!("process {pid} can be signalled"));
        }
        ours += 1;
    }
    Verdict::refused(format!("{ours} of {most} ids answer, all of them in our own namespaces"))
}

/// Whether a process is in other namespaces than we, as far as its entry tells.
fn is_foreign(pid: i32) -> bool {
    ["pid", "user"].iter().any(|name| {
        let own = fs::read_link(format!("/proc/self/ns/{name}")).ok();
        let other = fs::read_link(format!("/proc/{pid}/ns/{name}"));
        match other {
            Ok(other) => Some(other) != own,
            // An init that is not dumpable hides its links, and is still ours.
            Err(_) => pid != 1,
        }
    })
}

fn foreign_entries() -> Verdict {
    match visible().into_iter().find(|pid| is_foreign(*pid)) {
        Some(pid) => Verdict::possible(format!("/proc/{pid} is a process of other namespaces")),
        None => Verdict::refused("every process in sight is in our own namespaces"),
    }
}

/// Signals through a directory of a procfs instead of a pidfd, for each procfs in sight.
fn signal_by_directory() -> Verdict {
    let places = ["/.serverproc", "/.serverfs/base/proc", "/.serverfs/host/proc"];
    let found: Vec<_> = places.iter().filter(|place| fs::metadata(place).is_ok()).collect();
    if found.is_empty() {
        return Verdict::refused("no other procfs in sight");
    }
    Verdict::worst(found.into_iter().map(|place| {
        let name = super::call::c(format!("{place}/1"));
        let result = super::call::open(&name, libc::O_DIRECTORY | libc::O_RDONLY)
            .and_then(|fd| sys!(libc::SYS_pidfd_send_signal, &fd, 0, NULL, 0));
        Verdict::of_or(result, &[libc::ENOENT, libc::EINVAL, libc::EBADF]).on(place)
    }))
}

/// The kernel drops signals that an init has no handler for, so the question is whether it lives.
fn kill_init() -> Verdict {
    // The number of the initial PID namespace is fixed (include/linux/proc_ns.h).
    match fs::read_link("/proc/self/ns/pid") {
        Ok(own) if own.as_os_str() != "pid:[4026531836]" => (),
        _ => return Verdict::error("process 1 may be the machine's own init; not tried"),
    }
    let result = sys!(libc::SYS_kill, 1, libc::SIGKILL);
    std::thread::sleep(std::time::Duration::from_millis(20));
    match result {
        Err(error) => Verdict::of::<()>(Err(error)),
        Ok(_) => Verdict::refused("sent, and we are still here"),
    }
}

fn steal_descriptor() -> Verdict {
    let stolen = own(sys!(libc::SYS_pidfd_open, 1, 0)).and_then(|init| {
        let mut last = Err(io::Error::from_raw_os_error(libc::EBADF));
        for number in 0..32 {
            last = own(sys!(libc::SYS_pidfd_getfd, &init, number, 0));
            let number = last.as_ref().err().and_then(io::Error::raw_os_error);
            if number != Some(libc::EBADF) {
                break;
            }
        }
        last
    });
    Verdict::of(stolen)
}

fn lower_oom_score() -> Verdict {
    let Ok(text) = fs::read_to_string("/proc/self/oom_score_adj") else {
        return Verdict::refused("cannot be read");
    };
    let now: i32 = text.trim().parse().unwrap_or(0);
    Verdict::of(fs::write("/proc/self/oom_score_adj", (now - 1).max(-1000).to_string()))
}

fn raise_limit() -> Verdict {
    let kinds = [libc::RLIMIT_NOFILE, libc::RLIMIT_NPROC, libc::RLIMIT_MEMLOCK, libc::RLIMIT_NICE];
    Verdict::worst(kinds.map(|kind| {
        let mut limit: libc::rlimit64 = zeroed();
        let read = sys!(libc::SYS_prlimit64, 0, kind, NULL, bytes_mut(&mut limit));
        if limit.rlim_max == libc::RLIM64_INFINITY {
            return Verdict::refused("is without limit already");
        }
        limit.rlim_max += 1;
        Verdict::of(read.and_then(|_| sys!(libc::SYS_prlimit64, 0, kind, bytes(&limit), NULL)))
    }))
}

fn clear_no_new_privs() -> Verdict {
    let cleared = sys!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0);
    let set = sys!(libc::SYS_prctl, libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    match (cleared, set) {
        (_, Ok(0)) => Verdict::possible("no_new_privs is not set"),
        (Ok(_), Ok(_)) => Verdict::possible("the call succeeded"),
        (_, _) => Verdict::refused("is set, and cannot be cleared"),
    }
}

/// A process of the initial user namespace has a full map; whoever sees that holds its
/// capabilities for real.
fn capabilities_outside() -> Verdict {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.unwrap_or_default().trim(), 16).unwrap_or(0);
    let link = fs::read_link("/proc/self/ns/user").unwrap_or_default();
    // The initial user namespace's number is fixed (include/linux/proc_ns.h).
    if link.as_os_str() == "user:[4026531837]" && effective != 0 {
        return Verdict::possible(format!("{effective:#x} in the initial user namespace"));
    }
    Verdict::refused(format!("effective set {effective:#x} in {}", link.display()))
}

/// A listener of one's own could answer for the broker: SECCOMP_SET_MODE_FILTER with
/// FLAG_NEW_LISTENER and a filter that allows everything.
fn listener() -> Verdict {
    const NEW_LISTENER: u64 = 8;
    let allow = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 };
    let mut program = [0_u8; 16];
    program[..2].copy_from_slice(&1_u16.to_ne_bytes());
    program[8..].copy_from_slice(&std::ptr::from_ref(&allow).addr().to_ne_bytes());
    let result =
        own(sys!(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, NEW_LISTENER, &program));
    Verdict::of_or(result, &[libc::EBUSY])
}

/// READ_IMPLIES_EXEC and a 32-bit identity.
fn personality() -> Verdict {
    const READ_IMPLIES_EXEC: u64 = 0x0040_0000;
    Verdict::of(sys!(libc::SYS_personality, READ_IMPLIES_EXEC))
}

/// TIOCSTI on a terminal of our own, made the controlling one.
fn push_input() -> Verdict {
    // The hang-up at the end is not to end us before the answer is written.
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    let _ = sys!(libc::SYS_setsid);
    let terminal = super::call::open(c"/dev/ptmx", libc::O_RDWR).and_then(|main| {
        sys!(libc::SYS_ioctl, &main, libc::TIOCSPTLCK, &0_i32.to_ne_bytes())?;
        let flags = libc::O_RDWR;
        let other = own(sys!(libc::SYS_ioctl, &main, libc::TIOCGPTPEER, flags))?;
        sys!(libc::SYS_ioctl, &other, libc::TIOCSCTTY, 0)?;
        Ok((main, other))
    });
    match terminal {
        Err(error) => Verdict::error(format!("no terminal: {error}")),
        Ok((_main, other)) => {
            Verdict::of_or(sys!(libc::SYS_ioctl, &other, libc::TIOCSTI, b"x"), &[libc::EIO])
        }
    }
}

/// A core pattern that starts a program on the host is run for any process that dumps, whatever its
/// limit on core files is, unless that is 1 (core(5), umh_coredump_setup in fs/coredump.c).
fn core_of_own() -> Verdict {
    let mut limit: libc::rlimit64 = zeroed();
    let read = sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, NULL, bytes_mut(&mut limit));
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    match read {
        Err(error) => Verdict::of::<()>(Err(error)),
        Ok(_) if limit.rlim_max == 1 => Verdict::refused("the limit is 1: no program is started"),
        Ok(_) if pattern.starts_with('|') => Verdict::possible("a dump would start a host program"),
        Ok(_) => Verdict::refused("cores are files, in the portspace's own directories"),
    }
}
