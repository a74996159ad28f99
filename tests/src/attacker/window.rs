//! The processes window: what leads out of `/.serverproc`, or changes anything by it.
//!
//! Everything is tried on every process that shows, on its threads, and by `self` and `thread-self`;
//! but for the portspace's own processes, which show in a window on the base system.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::call::{NULL, c, open, own, sys, zeroed};
use super::{Attempt, Targets, Verdict};

const LEADS: &str = "no link of a server's process can be followed";
const MEMORY: &str = "a server's memory and environment do not show";
const READ_ONLY: &str = "nothing in the window can be written to";
const SIGNALS: &str = "a process of a server cannot be signalled or traced";
const TOP: &str = "beside processes there is only what is on the list";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("serverproc", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("window-links", LEADS, |_| each(links)),
    attempt("window-links-as-owner", LEADS, |_| each(|dir| as_owner(dir, links))),
    attempt("window-link-paths", LEADS, |_| each(link_paths)),
    attempt("window-descriptors", LEADS, |_| each(descriptors)),
    attempt("window-descriptors-as-owner", LEADS, |_| each(|dir| as_owner(dir, descriptors))),
    attempt("window-descriptor-numbers", "which descriptors there are does not show", |_| {
        each(|dir| worst(["fd", "fdinfo"].map(|name| lists(dir, name))))
    }),
    attempt("window-mapped-files", LEADS, |_| each(|dir| lists(dir, "map_files"))),
    attempt("window-namespaces", LEADS, |_| each(namespaces)),
    attempt("window-memory", MEMORY, |_| each(memory)),
    attempt("window-memory-as-owner", MEMORY, |_| each(|dir| as_owner(dir, memory))),
    attempt("window-write", READ_ONLY, |_| each(writes)),
    attempt("window-write-as-owner", READ_ONLY, |_| each(|dir| as_owner(dir, writes))),
    attempt("window-make", READ_ONLY, |_| each(makes)),
    attempt("window-pidfd-directory", SIGNALS, |_| each(pidfd_of_directory)),
    attempt("window-pidfd-number", SIGNALS, |_| each(pidfd_of_number)),
    attempt("window-pidfd-ioctl", SIGNALS, |_| each(pidfd_ioctl)),
    attempt("window-notes-as-descriptor", SIGNALS, |_| each(descriptor_notes)),
    attempt("window-top", TOP, |_| worst(servers().iter().map(|server| top(server)))),
    attempt("window-climb", LEADS, |_| each(climb)),
    attempt("window-facts-write", READ_ONLY, |_| facts()),
    attempt("window-tools-write", READ_ONLY, |_| tools()),
];

/// Absence, and the end of a process, are as good as a refusal.
const ABSENT: &[i32] = &[
    libc::ENOENT,
    libc::ENOTDIR,
    libc::ESRCH,
    libc::EINVAL,
    libc::EIO,
    libc::ELOOP,
    libc::ENXIO,
    libc::EISDIR,
];

/// The most processes of a server that are tried.
const MOST: usize = 150;

/// The servers whose processes show.
fn servers() -> Vec<PathBuf> {
    let entries = fs::read_dir("/.serverproc").into_iter().flatten().flatten();
    let is_plain =
        |path: &PathBuf| !path.file_name().unwrap_or_default().to_string_lossy().contains('.');
    entries.map(|entry| entry.path()).filter(is_plain).collect()
}

fn numbered(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_number = |path: &PathBuf| {
        path.file_name().unwrap_or_default().to_string_lossy().parse::<u32>().is_ok()
    };
    entries.map(|entry| entry.path()).filter(is_number)
}

/// Whether a process is of our own PID namespace: what is its number there started when it did.
fn is_own(dir: &Path) -> bool {
    let status = fs::read_to_string(dir.join("status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let here = numbers.and_then(|numbers| numbers.split_whitespace().last());
    let started = |stat: PathBuf| {
        let text = fs::read(stat).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
    };
    let stat = here.map(|here| PathBuf::from(format!("/proc/{here}/stat")));
    stat.is_some_and(|stat| started(stat).is_some_and(|own| Some(own) == started(dir.join("stat"))))
}

/// The directories of processes and threads that are not our own.
fn processes() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for server in servers() {
        let links = ["self", "thread-self"].map(|name| server.join(name));
        let mut theirs: Vec<PathBuf> = numbered(&server).filter(|dir| !is_own(dir)).collect();
        theirs.sort();
        let threads: Vec<PathBuf> =
            theirs.iter().take(MOST).flat_map(|dir| numbered(&dir.join("task")).take(2)).collect();
        all.extend(theirs.into_iter().take(MOST));
        all.extend(threads);
        all.extend(links.into_iter().filter(|link| link.exists() && !is_own(link)));
    }
    all
}

fn worst(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    Verdict::worst(verdicts)
}

fn each(try_on: impl Fn(&Path) -> Verdict) -> Verdict {
    worst(processes().iter().map(|dir| try_on(dir).on(dir.display())))
}

/// As the user of the host that the process belongs to, where it can be become.
fn as_owner(dir: &Path, try_it: impl Fn(&Path) -> Verdict) -> Verdict {
    let keep = u64::from(u32::MAX);
    let Ok(found) = fs::metadata(dir) else { return Verdict::refused("it has ended") };
    let (uid, gid) = (u64::from(found.uid()), u64::from(found.gid()));
    let _ = sys!(libc::SYS_setresgid, keep, gid, keep);
    let changed = sys!(libc::SYS_setresuid, keep, uid, keep);
    let verdict = try_it(dir);
    if changed.is_ok() {
        let _ = sys!(libc::SYS_setresuid, keep, 0, keep);
    }
    let _ = sys!(libc::SYS_setresgid, keep, 0, keep);
    verdict
}

fn path(dir: &Path, name: &str) -> CString {
    c(dir.join(name).as_os_str().as_encoded_bytes())
}

fn opens(dir: &Path, name: &str, flags: i32) -> Verdict {
    Verdict::of_or(open(&path(dir, name), flags), ABSENT).on(name)
}

/// Reads some; what is empty shows nothing.
fn reads(dir: &Path, name: &str) -> Verdict {
    let mut some = [0_u8; 64];
    let read = open(&path(dir, name), libc::O_RDONLY | libc::O_NONBLOCK);
    match read.and_then(|file| sys!(libc::SYS_read, &file, &mut some, 64)) {
        Ok(0) => Verdict::refused(format!("{name}: empty")),
        other => Verdict::of_or(other, ABSENT).on(name),
    }
}

fn links(dir: &Path) -> Verdict {
    let flags = [libc::O_RDONLY, libc::O_PATH, libc::O_PATH | libc::O_DIRECTORY, libc::O_RDWR];
    let names = ["root", "cwd", "exe"];
    let opened = names.iter().flat_map(|name| flags.map(|flags| opens(dir, name, flags)));
    let read = names.map(|name| Verdict::of_or(fs::read_link(dir.join(name)), ABSENT).on(name));
    worst(opened.chain(read))
}

fn link_paths(dir: &Path) -> Verdict {
    let names = ["root/", "root/etc/passwd", "cwd/.", "root/../etc", "root/proc/1/root", "exe/"];
    let stat = |name: &str| Verdict::of_or(fs::metadata(dir.join(name)), ABSENT).on(name);
    worst(names.map(stat).into_iter().chain([executes(dir)]))
}

/// Runs the server's program; execve(2) returns only where that fails.
fn executes(dir: &Path) -> Verdict {
    let exe = path(dir, "exe");
    Verdict::of_or(sys!(libc::SYS_execve, &exe, NULL, NULL), ABSENT).on("execute exe")
}

fn descriptors(dir: &Path) -> Verdict {
    let numbers = (0..12).flat_map(|number| {
        [
            opens(dir, &format!("fd/{number}"), libc::O_RDONLY | libc::O_NONBLOCK),
            opens(dir, &format!("fd/{number}"), libc::O_PATH),
            reads(dir, &format!("fdinfo/{number}")),
        ]
    });
    worst(numbers)
}

fn lists(dir: &Path, name: &str) -> Verdict {
    let listed = fs::read_dir(dir.join(name)).and_then(|mut entries| entries.next().transpose());
    match listed {
        Ok(None) => Verdict::refused(format!("{name}: empty")),
        other => Verdict::of_or(other, ABSENT).on(name),
    }
}

fn namespaces(dir: &Path) -> Verdict {
    let kinds = ["mnt", "pid", "net", "user", "uts", "ipc", "cgroup", "time", "pid_for_children"];
    worst(kinds.map(|kind| opens(dir, &format!("ns/{kind}"), libc::O_RDONLY)))
}

fn memory(dir: &Path) -> Verdict {
    let files = [
        "environ",
        "auxv",
        "maps",
        "smaps",
        "smaps_rollup",
        "numa_maps",
        "pagemap",
        "stack",
        "syscall",
        "personality",
        "io",
        "seccomp_cache",
        "task_diag",
    ];
    let opened = [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY].map(|flags| {
        let Ok(memory) = open(&path(dir, "mem"), flags) else { return Verdict::refused("mem") };
        // A thread of the kernel has none.
        let mut some = [0_u8; 8];
        let read = sys!(libc::SYS_pread64, &memory, &mut some, 8, 0x40_0000);
        Verdict::of_or(read.and_then(|got| if got > 0 { Ok(()) } else { none() }), ABSENT).on("mem")
    });
    worst(files.map(|name| reads(dir, name)).into_iter().chain(opened))
}

fn none<T>() -> std::io::Result<T> {
    Err(std::io::Error::from_raw_os_error(libc::EIO))
}

fn writes(dir: &Path) -> Verdict {
    let files = [
        "oom_score_adj",
        "oom_adj",
        "comm",
        "clear_refs",
        "coredump_filter",
        "autogroup",
        "sched",
        "timerslack_ns",
        "timens_offsets",
        "uid_map",
        "gid_map",
        "projid_map",
        "setgroups",
        "loginuid",
        "make-it-fail",
        "fail-nth",
        "attr/current",
        "attr/exec",
        "attr/keycreate",
        "attr/apparmor/current",
        "latency",
        "cgroup",
        "limits",
        "stat",
    ];
    worst(files.map(|name| opens(dir, name, libc::O_WRONLY)))
}

/// Entries made, changed and removed.
fn makes(dir: &Path) -> Verdict {
    let (new, own) = (path(dir, "hs-new"), path(dir, "."));
    let at = libc::AT_FDCWD;
    worst([
        Verdict::of_or(sys!(libc::SYS_mkdirat, at, &new, 0o700), ABSENT).on("mkdir"),
        Verdict::of_or(sys!(libc::SYS_symlinkat, &own, at, &new), ABSENT).on("symlink"),
        Verdict::of_or(sys!(libc::SYS_fchmodat, at, &own, 0o777), ABSENT).on("chmod"),
        Verdict::of_or(sys!(libc::SYS_fchownat, at, &own, 0, 0, 0), ABSENT).on("chown"),
        Verdict::of_or(sys!(libc::SYS_rmdir, &own), &[ABSENT, &[libc::EBUSY]].concat()).on("rmdir"),
    ])
}

/// The directory of a process counts as a pidfd (pidfd_send_signal(2)).
fn pidfd_of_directory(dir: &Path) -> Verdict {
    let flags = [libc::O_RDONLY | libc::O_DIRECTORY, libc::O_PATH | libc::O_DIRECTORY];
    let refused = [ABSENT, &[libc::EBADF]].concat();
    let tries = flags.iter().flat_map(|flags| {
        let Ok(directory) = open(&path(dir, "."), *flags) else {
            return vec![Verdict::refused("it has ended")];
        };
        let mut info: libc::siginfo_t = zeroed();
        let signal = |scope: u32| {
            let sent = sys!(libc::SYS_pidfd_send_signal, &directory, 0, NULL, scope);
            Verdict::of_or(sent, &refused).on("pidfd_send_signal")
        };
        let waited = sys!(
            libc::SYS_waitid,
            libc::P_PIDFD,
            &directory,
            super::call::bytes_mut(&mut info),
            libc::WEXITED | libc::WNOHANG,
            NULL
        );
        let refused = [&refused[..], &[libc::ECHILD]].concat();
        vec![
            signal(0),
            signal(1),
            signal(2),
            signal(4),
            Verdict::of_or(waited, &refused).on("waitid"),
            Verdict::of_or(own(sys!(libc::SYS_pidfd_getfd, &directory, 0, 0)), &refused)
                .on("pidfd_getfd"),
            Verdict::of_or(sys!(libc::SYS_setns, &directory, libc::CLONE_NEWNS), &refused)
                .on("setns"),
            Verdict::of_or(sys!(libc::SYS_process_mrelease, &directory, 0), &refused)
                .on("process_mrelease"),
        ]
    });
    worst(tries)
}

/// The number that shows, taken for one of our own namespace: nobody is there, or one of our own.
fn pidfd_of_number(dir: &Path) -> Verdict {
    let number = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Ok(number) = number.parse::<i64>() else { return Verdict::refused("no number") };
    let shown = fs::read(dir.join("cmdline")).unwrap_or_default();
    let here = fs::read(format!("/proc/{number}/cmdline"));
    match open_pidfd(number) {
        Err(error) => Verdict::of_or::<()>(Err(error), ABSENT),
        Ok(_) if here.is_ok_and(|here| here != shown || number == 1) => {
            Verdict::refused("the number is another process's here")
        }
        Ok(_) => Verdict::possible(format!("a pidfd of {number}")),
    }
}

fn open_pidfd(number: i64) -> std::io::Result<OwnedFd> {
    own(sys!(libc::SYS_pidfd_open, number, 0))
}

/// The requests of a pidfd, made of the directory: namespaces of the process (ioctl_pidfd(2)).
fn pidfd_ioctl(dir: &Path) -> Verdict {
    let Ok(directory) = open(&path(dir, "."), libc::O_RDONLY | libc::O_DIRECTORY) else {
        return Verdict::refused("it has ended");
    };
    let refused = [ABSENT, &[libc::ENOTTY, libc::EBADF]].concat();
    // PIDFD_GET_CGROUP_NAMESPACE to PIDFD_GET_UTS_NAMESPACE are _IO(0xFF, 1) to _IO(0xFF, 10).
    worst((1..=10).map(|number| {
        Verdict::of_or(own(sys!(libc::SYS_ioctl, &directory, 0xff00 | number, 0)), &refused)
    }))
}

/// What is written about a descriptor, opened to reach the descriptor itself.
fn descriptor_notes(dir: &Path) -> Verdict {
    worst((0..8).map(|number| {
        let notes = open(&path(dir, &format!("fdinfo/{number}")), libc::O_PATH);
        let through = notes.and_then(|notes| {
            let again = sys!(libc::SYS_openat, &notes, c"", libc::O_RDONLY);
            own(again)
        });
        Verdict::of_or(through, ABSENT)
    }))
}

/// What shows beside processes.
fn top(server: &Path) -> Verdict {
    let files = [
        "kcore",
        "kmsg",
        "keys",
        "key-users",
        "timer_list",
        "sysrq-trigger",
        "kallsyms",
        "interrupts",
        "iomem",
        "kpageflags",
        "kpagecgroup",
        "kpagecount",
        "slabinfo",
        "modules",
        "mtrr",
        "locks",
        "vmallocinfo",
        "sched_debug",
        "config.gz",
        "partitions",
        "sys/kernel/core_pattern",
        "sys/kernel/hostname",
        "sys/vm/stat_refresh",
        "acpi/wakeup",
        "irq/default_smp_affinity",
        "driver/rtc",
        "fs/jbd2",
        "bus/pci/devices",
        "scsi/scsi",
        "tty/drivers",
        "sysvipc/shm",
    ];
    let writable = ["pressure/cpu", "pressure/memory", "pressure/io", "stat", "uptime", "swaps"];
    let written = writable.map(|name| opens(server, name, libc::O_RDWR));
    let flags = libc::O_WRONLY | libc::O_NONBLOCK;
    let triggered = opens(server, "sysrq-trigger", flags);
    worst(files.map(|name| reads(server, name)).into_iter().chain(written).chain([triggered]))
}

/// Up and out of a process's directory.
fn climb(dir: &Path) -> Verdict {
    let names = ["../sys/kernel/ostype", "../../sys/kernel/ostype", "../root/etc", "../../1/root/"];
    let stat = |name: &str| Verdict::of_or(fs::metadata(dir.join(name)), ABSENT).on(name);
    worst(names.map(stat))
}

/// The file of facts, and the directory that it is replaced in.
fn facts() -> Verdict {
    let top = Path::new("/.serverproc");
    worst(servers().iter().flat_map(|server| {
        let name = server.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let directory = top.join(".facts").join(&name);
        let (file, new) = (directory.join("processes.json"), path(&directory, ".new"));
        let file = c(file.as_os_str().as_encoded_bytes());
        vec![
            opens(top, &format!("{name}.json"), libc::O_RDWR),
            opens(top, &format!("{name}.json"), libc::O_WRONLY | libc::O_TRUNC),
            opens(&directory, ".new", libc::O_WRONLY | libc::O_CREAT),
            Verdict::of_or(sys!(libc::SYS_rename, &file, &new), ABSENT).on("rename"),
            Verdict::of_or(sys!(libc::SYS_unlink, &file), ABSENT).on("unlink"),
            Verdict::of_or(sys!(libc::SYS_chmod, &file, 0o666), ABSENT).on("chmod"),
            Verdict::of_or(sys!(libc::SYS_unlink, &path(top, &name)), ABSENT).on("unlink the link"),
        ]
    }))
}

/// The directory for programs that look in `/proc`.
fn tools() -> Verdict {
    worst(servers().iter().flat_map(|server| {
        let root = PathBuf::from(format!("{}.root", server.display()));
        ["hs-new", "usr/hs-new", "etc/hs-new", "proc/hs-new", "dev/hs-new"]
            .map(|name| opens(&root, name, libc::O_WRONLY | libc::O_CREAT))
    }))
}
