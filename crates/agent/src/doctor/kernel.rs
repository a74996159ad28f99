//! Namespaces, the system call filter, Landlock, descriptors of processes.

use std::fs;
use std::io;

use hyperspector_space::config::IdRange;
use hyperspector_space::confine::seccomp;
use hyperspector_space::userns;
use hyperspector_sys::pidfd;
use rustix::thread::UnshareFlags;

use super::{Part, Row, Want, in_thread, text};

/// The first id of the range that is tried: just above those that are given out.
pub(super) const TRIED_IDS: IdRange = IdRange::Private { base: 0x7fff_0000 };

pub(super) fn rows() -> Vec<Row> {
    let part = Part::Portspaces;
    vec![
        Row::tried(
            part,
            "user namespaces",
            user_namespaces(),
            Want::essential(
                "CONFIG_USER_NS=y; sysctl user.max_user_namespaces above 0; not from within a chroot",
            ),
        ),
        Row::tried(
            part,
            "other namespaces",
            other_namespaces(),
            Want::essential(
                "CONFIG_NAMESPACES=y with PID, network, IPC, UTS and cgroup namespaces; \
             sysctl user.max_*_namespaces above 0",
            ),
        ),
        Row::tried(
            part,
            "system call filter",
            filter(),
            Want::essential("CONFIG_SECCOMP_FILTER=y"),
        ),
        landlock(),
        Row::tried(part, "pidfds", pidfds(), Want::essential("Linux 5.3 or later")),
    ]
}

fn user_namespaces() -> Result<String, String> {
    userns::create(TRIED_IDS, &[], TRIED_IDS.root()).map_err(text)?;
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    Ok(format!("made, with a range of ids; at most {}", most.trim()))
}

fn other_namespaces() -> Result<&'static str, String> {
    in_thread(|| {
        let flags = UnshareFlags::NEWNS
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWCGROUP;
        // SAFETY: descriptors stay shared, and the thread ends with this closure.
        unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(text)?;
        // A thread cannot leave its process's PID namespace, so this one is only looked for.
        let pids = fs::metadata("/proc/self/ns/pid_for_children");
        pids.map_err(|_| "no PID namespaces".to_owned())?;
        Ok("mount, PID, network, IPC, UTS, cgroup")
    })
}

/// Installs the policy of portspaces on a thread.
fn filter() -> Result<String, String> {
    in_thread(|| {
        rustix::thread::set_no_new_privs(true).map_err(text)?;
        seccomp::install(&[]).map_err(text)?;
        Ok(format!("installed; lets {} calls through", seccomp::allowed_count()))
    })
}

fn landlock() -> Row {
    let (part, what) = (Part::Portspaces, "Landlock");
    let want = Want::degraded(
        "named pipes in a file window could be opened for writing; a portspace needs \
         allow-missing = [\"landlock\"]",
        "CONFIG_SECURITY_LANDLOCK=y, landlock in the kernel's lsm= list, Linux 5.19 or later",
    );
    match landlock_abi() {
        Ok(abi) if abi >= 6 => Row::good(part, what, format!("ABI {abi}")),
        Ok(abi) if abi >= 2 => Row::wanting(
            part,
            what,
            format!("ABI {abi}"),
            Want::degraded(
                "signals and abstract sockets are kept inside by namespaces alone; a server space \
                 needs allow-missing = [\"landlock\"]",
                "Linux 6.12 or later (ABI 6)",
            ),
        ),
        Ok(abi) => Row::wanting(part, what, format!("ABI {abi}; 2 is needed"), want),
        Err(error) => Row::wanting(part, what, text(error), want),
    }
}

/// The version of Landlock (landlock_create_ruleset(2)).
fn landlock_abi() -> io::Result<i64> {
    const VERSION: libc::c_uint = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with the version flag, a null attribute and size 0 the call only returns a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION) };
    if abi < 0 { Err(io::Error::last_os_error()) } else { Ok(abi) }
}

fn pidfds() -> Result<&'static str, String> {
    pidfd::open_process(std::process::id()).map_err(text)?;
    let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
    Ok(match pidfd::open_thread(thread) {
        Ok(_) => "of processes and of threads",
        Err(_) => "of processes; of threads since Linux 6.9",
    })
}
