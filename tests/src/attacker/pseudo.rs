//! /proc, /sys and /dev: what can be written there, and what leads out.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::call::{c, open, sys};
use super::{Attempt, Targets, Verdict};

const PROC: &str = "/proc is read-only and masked";
const SYS: &str = "/sys is read-only and masked";
const DEV: &str = "/dev holds only what is on the list";
const OUT: &str = "/proc leads nowhere outside: own PID namespace";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("files", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("proc-sys-core-pattern", PROC, |_| rewrite("/proc/sys/kernel/core_pattern")),
    attempt("proc-sys-modprobe", PROC, |_| rewrite("/proc/sys/kernel/modprobe")),
    attempt("proc-sys-hotplug", PROC, |_| rewrite("/proc/sys/kernel/hotplug")),
    attempt("proc-sys-binfmt", PROC, |_| writable("/proc/sys/fs/binfmt_misc/register")),
    attempt("proc-sys-any", PROC, |_| any_writable("/proc/sys")),
    attempt("proc-sys-net", PROC, |_| rewrite("/proc/sys/net/ipv4/ip_forward")),
    attempt("proc-sysrq", PROC, |_| writable("/proc/sysrq-trigger")),
    attempt("proc-top-level", PROC, |_| proc_top_level()),
    attempt("proc-kcore", PROC, |_| readable("/proc/kcore")),
    attempt("proc-kmsg", PROC, |_| kernel_log()),
    attempt("proc-keys", PROC, |_| readable("/proc/keys")),
    attempt("proc-kpage", PROC, |_| readable("/proc/kpageflags")),
    attempt("proc-timer-list", PROC, |_| readable("/proc/timer_list")),
    attempt("proc-kallsyms", "kernel addresses do not show", |_| kallsyms()),
    attempt("proc-1-exe-write", OUT, |_| exe_write()),
    attempt("proc-root-links", OUT, |_| foreign_roots()),
    attempt("proc-1-fds", "the init's descriptors cannot be reopened", |_| init_descriptors()),
    attempt("proc-1-mem", "the init's memory cannot be opened", |_| {
        opens("/proc/1/mem", libc::O_RDWR)
    }),
    attempt("proc-1-environ", "the init's environment does not show", |_| {
        readable("/proc/1/environ")
    }),
    attempt("sys-uevent-helper", SYS, |_| rewrite("/sys/kernel/uevent_helper")),
    attempt("sys-cgroup", SYS, |_| any_writable("/sys/fs/cgroup")),
    attempt("sys-bpffs", SYS, |_| listed("/sys/fs/bpf")),
    attempt("sys-debugfs", SYS, |_| listed("/sys/kernel/debug")),
    attempt("sys-tracefs", SYS, |_| listed("/sys/kernel/tracing")),
    attempt("sys-securityfs", SYS, |_| listed("/sys/kernel/security")),
    attempt("sys-any", SYS, |_| any_writable("/sys")),
    attempt("sys-firmware", SYS, |_| listed("/sys/firmware")),
    attempt("dev-beyond-list", DEV, |_| devices()),
    attempt("dev-kmsg", DEV, |_| opens("/dev/kmsg", libc::O_RDWR)),
    attempt("dev-mem", DEV, |_| opens("/dev/mem", libc::O_RDONLY)),
    attempt("dev-tun", DEV, |_| opens("/dev/net/tun", libc::O_RDWR)),
    attempt("dev-kvm", DEV, |_| opens("/dev/kvm", libc::O_RDWR)),
    attempt("dev-fuse", DEV, |_| opens("/dev/fuse", libc::O_RDWR)),
];

/// Absence is as good as a refusal for all of these.
const ABSENT: &[i32] = &[libc::ENOENT, libc::ENOTDIR, libc::ENXIO, libc::ENODEV];

fn opens(path: &str, flags: i32) -> Verdict {
    Verdict::of_or(open(&c(path), flags), ABSENT).on(path)
}

fn writable(path: &str) -> Verdict {
    opens(path, libc::O_WRONLY)
}

/// Reads some; an empty file shows nothing.
fn readable(path: &str) -> Verdict {
    use std::io::Read;
    let mut some = [0_u8; 64];
    match fs::File::open(path).and_then(|mut file| file.read(&mut some)) {
        Ok(0) => Verdict::refused(format!("{path}: empty")),
        other => Verdict::of_or(other, ABSENT).on(path),
    }
}

/// A masked file reads as empty; the real one has something, or says that there is nothing new.
fn kernel_log() -> Verdict {
    let path = "/proc/kmsg";
    match open(&c(path), libc::O_RDONLY | libc::O_NONBLOCK) {
        Err(error) => Verdict::of_or::<()>(Err(error), ABSENT).on(path),
        Ok(log) => match sys!(libc::SYS_read, &log, &mut [0_u8; 64], 64) {
            Ok(0) => Verdict::refused(format!("{path}: empty")),
            other => Verdict::reached(other).on(path),
        },
    }
}

/// A directory that should show nothing.
fn listed(path: &str) -> Verdict {
    match fs::read_dir(path).map(|entries| entries.flatten().count()) {
        Ok(0) => Verdict::refused(format!("{path}: empty")),
        Ok(count) => Verdict::possible(format!("{path}: {count} entries show")),
        Err(error) => Verdict::of_or::<()>(Err(error), ABSENT).on(path),
    }
}

/// Writes back what is there.
fn rewrite(path: &str) -> Verdict {
    let result = fs::read(path).and_then(|value| fs::write(path, value));
    Verdict::of_or(result, ABSENT).on(path)
}

/// Looks for files that open for writing, without writing to any.
fn any_writable(top: &str) -> Verdict {
    let mut found = Vec::new();
    let mut left = 60_000;
    walk(Path::new(top), &mut left, &mut |path| {
        if open(&c(path.as_os_str().as_encoded_bytes()), libc::O_WRONLY | libc::O_NONBLOCK).is_ok()
        {
            found.push(path.display().to_string());
        }
        found.len() < 5
    });
    if found.is_empty() {
        return Verdict::refused(format!("nothing below {top} opens for writing"));
    }
    Verdict::possible(format!("opens for writing: {}", found.join(" ")))
}

/// Visits regular files, at most `left` entries, while `visit` says so; not debugfs and tracefs,
/// where even opening does things.
fn walk(top: &Path, left: &mut usize, visit: &mut dyn FnMut(&Path) -> bool) -> bool {
    let dangerous = ["/sys/kernel/debug", "/sys/kernel/tracing"];
    if dangerous.iter().any(|name| top.starts_with(name)) {
        return true;
    }
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        *left = left.saturating_sub(1);
        let more = match () {
            () if *left == 0 => false,
            () if kind.is_dir() => walk(&entry.path(), left, visit),
            () if kind.is_file() => visit(&entry.path()),
            () => true,
        };
        if !more {
            return false;
        }
    }
    true
}

/// The files of /proc itself.
fn proc_top_level() -> Verdict {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let path = c(entry.path().as_os_str().as_encoded_bytes());
        if is_file && open(&path, libc::O_WRONLY).is_ok() {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    if found.is_empty() {
        return Verdict::refused("no file of /proc itself opens for writing");
    }
    Verdict::possible(format!("open for writing: {}", found.join(" ")))
}

fn kallsyms() -> Verdict {
    let Ok(text) = fs::read_to_string("/proc/kallsyms") else {
        return Verdict::refused("cannot be read");
    };
    let shown = text.lines().any(|line| !line.starts_with("0000000000000000"));
    if shown { Verdict::possible("addresses show") } else { Verdict::refused("all zero") }
}

/// Opens for writing the program of every process that runs another than ours. "Text file busy"
/// would mean that only its running protects it.
fn exe_write() -> Verdict {
    let own = fs::metadata("/proc/self/exe").map(|m| (m.dev(), m.ino())).ok();
    let mut verdicts = Vec::new();
    for pid in super::processes::visible() {
        let path = format!("/proc/{pid}/exe");
        if fs::metadata(&path).map(|m| (m.dev(), m.ino())).ok() == own {
            continue;
        }
        let result = open(&c(&path), libc::O_WRONLY);
        let busy = result.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::ETXTBSY));
        // A program of the portspace's own file system is its own to change; the init's is not.
        if busy && pid != 1 {
            continue;
        }
        let verdict = if busy { Verdict::reached(result) } else { Verdict::of_or(result, ABSENT) };
        verdicts.push(verdict.on(path));
    }
    Verdict::worst(verdicts)
}

/// A process whose root or working directory is on a root that is not ours leads out.
fn foreign_roots() -> Verdict {
    let own = fs::metadata("/").map(|m| (m.dev(), m.ino())).ok();
    for pid in super::processes::visible() {
        let path = format!("/proc/{pid}/root/");
        let root = fs::metadata(&path).map(|m| (m.dev(), m.ino())).ok();
        if root.is_some() && root != own {
            return Verdict::possible(format!("{path} is another root"));
        }
    }
    Verdict::refused("every root in sight is our own")
}

fn init_descriptors() -> Verdict {
    let entries = match fs::read_dir("/proc/1/fd") {
        Ok(entries) => entries,
        Err(error) => return Verdict::of_or::<()>(Err(error), ABSENT).on("/proc/1/fd"),
    };
    let mut shown = Vec::new();
    for entry in entries.flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let path = c(entry.path().as_os_str().as_encoded_bytes());
        if target != Path::new("/dev/null")
            && open(&path, libc::O_RDONLY | libc::O_NONBLOCK).is_ok()
        {
            shown.push(target.display().to_string());
        }
    }
    if shown.is_empty() {
        return Verdict::refused("none can be opened");
    }
    Verdict::possible(format!("opened: {}", shown.join(" ")))
}

/// Opens every device node of /dev that is not on the list.
fn devices() -> Verdict {
    const LIST: &[&str] =
        &["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "pts"];
    let mut found = Vec::new();
    let mut seen = 0;
    let mut waiting = vec![std::path::PathBuf::from("/dev")];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            if dir == Path::new("/dev") && LIST.contains(&name.as_str()) {
                continue;
            }
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_char_device() || kind.is_block_device() {
                seen += 1;
                found.extend(device_opens(&entry.path()));
            }
        }
    }
    if found.is_empty() {
        return Verdict::refused(format!("{seen} nodes beyond the list, none opens"));
    }
    Verdict::possible(format!("opened: {}", found.join(" ")))
}

/// The name of a device that opens. A watchdog is not opened: that would start it.
fn device_opens(path: &Path) -> Option<String> {
    let text = path.display().to_string();
    if text.contains("watchdog") {
        return Some(format!("{text} (is there; not tried)"));
    }
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    open(&c(path.as_os_str().as_encoded_bytes()), flags).ok().map(|_| text)
}
