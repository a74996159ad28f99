//! Parts of the kernel that a portspace has no business with.

use super::call::{NULL, bytes, bytes_mut, own, sys, zeroed};
use super::{Attempt, Targets, Verdict};

const SURFACE: &str = "kernel surface: seccomp";
const MACHINE: &str = "the machine's own state: seccomp and no capabilities outside";
const FAMILY: &str = "socket families that do not belong to a network namespace: seccomp";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("processes", name, tests, run)
}

/// Values that libc does not name.
const KEYCTL_GET_KEYRING_ID: u64 = 0;
const KEY_SESSION_KEYRING: i32 = -3;

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("keyctl", SURFACE, |_| {
        Verdict::reached(sys!(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SESSION_KEYRING, 1))
    }),
    attempt("add-key", SURFACE, |_| {
        Verdict::of(sys!(libc::SYS_add_key, c"user", c"hs-attack", b"x", 1, -2_i32))
    }),
    attempt("request-key", SURFACE, |_| {
        Verdict::reached(sys!(libc::SYS_request_key, c"user", c"hs-attack", NULL, 0))
    }),
    attempt("perf-event-open", SURFACE, |_| perf()),
    attempt("bpf-map", SURFACE, |_| bpf_map()),
    attempt("bpf-program", SURFACE, |_| Verdict::reached(sys!(libc::SYS_bpf, 5, &[0_u8; 64], 64))),
    attempt("bpf-token", SURFACE, |_| Verdict::reached(sys!(libc::SYS_bpf, 36, &[0_u8; 64], 64))),
    attempt("userfaultfd", SURFACE, |_| Verdict::of(own(sys!(libc::SYS_userfaultfd, 1)))),
    attempt("io-uring-setup", SURFACE, |_| {
        Verdict::of(own(sys!(libc::SYS_io_uring_setup, 1, &mut [0_u8; 120])))
    }),
    attempt("fanotify", SURFACE, |_| Verdict::of(own(sys!(libc::SYS_fanotify_init, 0, 0)))),
    attempt("memfd-secret", SURFACE, |_| Verdict::of(own(sys!(libc::SYS_memfd_secret, 0)))),
    attempt("vmsplice-vm", SURFACE, |_| {
        Verdict::reached(sys!(libc::SYS_process_madvise, -1_i32, NULL, 0, 0, 0))
    }),
    attempt("kcmp", SURFACE, |_| Verdict::of(sys!(libc::SYS_kcmp, 1, 1, 0, 0, 0))),
    attempt("lookup-dcookie", SURFACE, |_| {
        Verdict::reached(sys!(libc::SYS_lookup_dcookie, 0, NULL, 0))
    }),
    attempt("modify-ldt", SURFACE, |_| Verdict::reached(sys!(libc::SYS_modify_ldt, 99, NULL, 0))),
    attempt("init-module", MACHINE, |_| {
        Verdict::reached(sys!(libc::SYS_init_module, NULL, 0, c""))
    }),
    attempt("finit-module", MACHINE, |_| {
        Verdict::reached(sys!(libc::SYS_finit_module, -1_i32, c"", 0))
    }),
    attempt("delete-module", MACHINE, |_| {
        Verdict::reached(sys!(libc::SYS_delete_module, c"hs_no_such_module", libc::O_NONBLOCK))
    }),
    attempt("kexec-load", MACHINE, |_| {
        Verdict::reached(sys!(libc::SYS_kexec_load, NULL, 0, NULL, 0xffff_u32))
    }),
    attempt("kexec-file-load", MACHINE, |_| {
        Verdict::reached(sys!(libc::SYS_kexec_file_load, -1_i32, -1_i32, 0, NULL, 0))
    }),
    // Turns Ctrl-Alt-Del off, as an init does.
    attempt("reboot", MACHINE, |_| {
        let (one, two) = (libc::LINUX_REBOOT_MAGIC1, libc::LINUX_REBOOT_MAGIC2);
        Verdict::of_or(
            sys!(libc::SYS_reboot, one, two, libc::LINUX_REBOOT_CMD_CAD_OFF, NULL),
            &[libc::EINVAL],
        )
    }),
    attempt("swapon", MACHINE, |_| {
        Verdict::reached(sys!(libc::SYS_swapon, c"/tmp/hs-no-such-file", 0))
    }),
    attempt("swapoff", MACHINE, |_| {
        Verdict::reached(sys!(libc::SYS_swapoff, c"/tmp/hs-no-such-file"))
    }),
    attempt("settimeofday", MACHINE, |_| set_time_of_day()),
    attempt("clock-settime", MACHINE, |_| set_clock()),
    attempt("adjtimex", MACHINE, |_| adjust_clock()),
    attempt("sethostname", "the host name is fixed: no CAP_SYS_ADMIN", |_| {
        set_name(1, libc::SYS_sethostname)
    }),
    attempt("setdomainname", "the host name is fixed: no CAP_SYS_ADMIN", |_| {
        set_name(5, libc::SYS_setdomainname)
    }),
    attempt("acct", MACHINE, |_| Verdict::reached(sys!(libc::SYS_acct, c"/tmp/hs-no-such-file"))),
    attempt("quotactl", MACHINE, |_| quota()),
    attempt("syslog-read", MACHINE, |_| {
        Verdict::of(sys!(libc::SYS_syslog, 3, &mut [0_u8; 64], 64))
    }),
    attempt("syslog-clear-check", MACHINE, |_| {
        Verdict::reached(sys!(libc::SYS_syslog, 99, NULL, 0))
    }),
    attempt("vhangup", MACHINE, |_| {
        let _ = sys!(libc::SYS_setsid);
        Verdict::of(sys!(libc::SYS_vhangup))
    }),
    attempt("iopl", MACHINE, |_| Verdict::of(sys!(libc::SYS_iopl, 3))),
    attempt("ioperm", MACHINE, |_| Verdict::of(sys!(libc::SYS_ioperm, 0x80, 1, 1))),
    attempt("aio-events", "the machine's AIO events are not taken away: seccomp", |_| aio_events()),
    attempt("socket-vsock", FAMILY, |_| family(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    attempt("socket-alg", FAMILY, |_| family(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    attempt("socket-xdp", FAMILY, |_| family(libc::AF_XDP, libc::SOCK_RAW, 0)),
    attempt("socket-key", FAMILY, |_| family(libc::AF_KEY, libc::SOCK_RAW, 2)),
    attempt("socket-can", FAMILY, |_| family(libc::AF_CAN, libc::SOCK_RAW, 1)),
    attempt("socket-bluetooth", FAMILY, |_| family(libc::AF_BLUETOOTH, libc::SOCK_RAW, 1)),
    attempt("socket-tipc", FAMILY, |_| family(libc::AF_TIPC, libc::SOCK_SEQPACKET, 0)),
    attempt("socket-rds", FAMILY, |_| family(libc::AF_RDS, libc::SOCK_SEQPACKET, 0)),
    attempt("socket-uevent", FAMILY, |_| {
        family(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT)
    }),
];

fn family(domain: i32, kind: i32, protocol: i32) -> Verdict {
    let refusals = [libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT];
    let result = own(sys!(libc::SYS_socket, domain, kind | libc::SOCK_CLOEXEC, protocol));
    Verdict::of_or(result, &refusals)
}

/// A software clock of our own process: the least that perf offers.
fn perf() -> Verdict {
    let mut attributes = [0_u8; 112];
    attributes[..4].copy_from_slice(&1_u32.to_ne_bytes());
    attributes[4..8].copy_from_slice(&112_u32.to_ne_bytes());
    Verdict::of(own(sys!(libc::SYS_perf_event_open, &attributes, 0, -1_i32, -1_i32, 0)))
}

/// An array of one entry.
fn bpf_map() -> Verdict {
    let mut attributes = [0_u32; 18];
    attributes[..4].copy_from_slice(&[2, 4, 4, 1]);
    Verdict::of(own(sys!(libc::SYS_bpf, 0, bytes(&attributes), size_of_val(&attributes))))
}

fn set_time_of_day() -> Verdict {
    let mut now = [0_i64; 2];
    let read = sys!(libc::SYS_gettimeofday, bytes_mut(&mut now), NULL);
    Verdict::of(read.and_then(|_| sys!(libc::SYS_settimeofday, bytes(&now), NULL)))
}

fn set_clock() -> Verdict {
    let mut now = [0_i64; 2];
    let read = sys!(libc::SYS_clock_gettime, libc::CLOCK_REALTIME, bytes_mut(&mut now));
    Verdict::of(read.and_then(|_| sys!(libc::SYS_clock_settime, libc::CLOCK_REALTIME, bytes(&now))))
}

/// Sets the clock's status bits to what they are.
fn adjust_clock() -> Verdict {
    let mut state: libc::timex = zeroed();
    let read = sys!(libc::SYS_adjtimex, bytes_mut(&mut state));
    state.modes = libc::ADJ_STATUS;
    let set = read.and_then(|_| sys!(libc::SYS_adjtimex, bytes_mut(&mut state)));
    Verdict::of(set)
}

/// Sets the host name (field 1 of what uname(2) tells) or the domain name (5) to what it is.
fn set_name(field: usize, set: i64) -> Verdict {
    const SIZE: usize = 65;
    let mut names = [0_u8; SIZE * 6];
    if let Err(error) = sys!(libc::SYS_uname, &mut names) {
        return Verdict::error(format!("the name to set again is not known: {error}"));
    }
    let name = super::call::c(&names[field * SIZE..(field + 1) * SIZE]);
    Verdict::of(sys!(set, &name, name.as_bytes().len()))
}

/// Asks for the quota of root on the root file system.
fn quota() -> Verdict {
    const SYNC: u64 = 0x0080_0001 << 8;
    Verdict::of(sys!(libc::SYS_quotactl, SYNC, NULL, 0, NULL))
}

/// Takes most of the asynchronous operations that the whole machine may have (fs.aio-max-nr):
/// databases use them. They are given back when this child ends.
fn aio_events() -> Verdict {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/fs/{name}")).ok();
    let number = |name: &str| read(name).and_then(|text| text.trim().parse::<u64>().ok());
    let most = number("aio-max-nr").unwrap_or(65_536);
    let free = most - number("aio-nr").unwrap_or(0).min(most);
    let mut context = [0_u8; 8];
    let taken = sys!(libc::SYS_io_setup, free / 4, &mut context);
    Verdict::of_or(taken, &[libc::EAGAIN]).on(format!("{} of {most}", free / 4))
}
