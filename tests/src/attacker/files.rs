//! Changing what a file window shows.
//!
//! The window should hold a directory `hs-target` with `plain.txt`, `disposable.txt`, `fifo`,
//! `device` (character 1:3), `stream.sock`, `datagram.sock` and an executable `program`. Where it
//! does not, any regular file serves, and what needs the rest says so. Every change is one that
//! leaves things as they are, but for a file of our own making.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::call::{NULL, bytes, c, open, own, sys};
use super::{Attempt, Targets, Verdict};

const READ_ONLY: &str = "file windows are read-only";
const NO_WRITE: &str = "nothing in a file window opens for writing: Landlock";
const NO_DEV: &str = "file windows are nodev";
const NO_EXEC: &str = "file windows are noexec, nosuid";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("files", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("file-open-write", READ_ONLY, |t| on_file(t, |f| open(f, libc::O_WRONLY))),
    attempt("file-open-readwrite", READ_ONLY, |t| on_file(t, |f| open(f, libc::O_RDWR))),
    attempt("file-open-append", READ_ONLY, |t| {
        on_file(t, |f| open(f, libc::O_WRONLY | libc::O_APPEND))
    }),
    attempt("file-open-path-reopen", READ_ONLY, |t| on_file(t, reopen_writable)),
    attempt("file-create", READ_ONLY, |t| in_windows(t, create)),
    attempt("file-tmpfile", READ_ONLY, |t| {
        in_windows(t, |dir| {
            let flags = libc::O_TMPFILE | libc::O_WRONLY;
            Verdict::of_or(open(&path(dir), flags), &[libc::EOPNOTSUPP])
        })
    }),
    attempt("file-truncate", READ_ONLY, |t| on_file(t, truncate)),
    attempt("file-chmod", READ_ONLY, |t| on_file(t, chmod)),
    attempt("file-chown", READ_ONLY, |t| {
        on_file(t, |f| sys!(libc::SYS_fchownat, libc::AT_FDCWD, f, -1_i32, -1_i32, 0))
    }),
    attempt("file-utimes", READ_ONLY, |t| on_file(t, touch)),
    attempt("file-setxattr", READ_ONLY, |t| on_file(t, set_attribute)),
    attempt("file-link", READ_ONLY, |t| in_windows(t, |dir| link_to(dir, dir))),
    attempt("file-link-out", "file windows are mounts of their own", |t| {
        in_windows(t, |dir| link_to(dir, Path::new("/tmp")))
    }),
    attempt("file-unlink", READ_ONLY, |t| in_windows(t, unlink)),
    attempt("file-rename", READ_ONLY, |t| in_windows(t, rename)),
    attempt("file-mkdir", READ_ONLY, |t| in_windows(t, mkdir)),
    attempt("file-symlink", READ_ONLY, |t| in_windows(t, symlink)),
    attempt("file-mknod", READ_ONLY, |t| in_windows(t, |dir| mknod(&dir.join("hs-attack-node")))),
    attempt("file-map-shared", READ_ONLY, |t| on_file(t, map_shared)),
    attempt("file-set-flags", READ_ONLY, |t| on_file(t, set_flags)),
    attempt("file-write-hint", READ_ONLY, |t| on_file(t, write_hint)),
    attempt("file-mmap-exec", NO_EXEC, |t| on_file(t, map_executable)),
    attempt("file-execute", NO_EXEC, |t| in_windows(t, execute)),
    attempt("device-open-read", NO_DEV, |t| special(t, "device", |f| open(f, libc::O_RDONLY))),
    attempt("device-open-readwrite", NO_DEV, |t| special(t, "device", |f| open(f, libc::O_RDWR))),
    attempt("device-via-bind-name", NO_DEV, |t| {
        special(t, "device", |f| open(&follow_descriptor(f)?, libc::O_RDWR))
    }),
    attempt("fifo-open-write", NO_WRITE, |t| {
        special(t, "fifo", |f| open(f, libc::O_WRONLY | libc::O_NONBLOCK))
    }),
    attempt("fifo-open-readwrite", NO_WRITE, |t| {
        special(t, "fifo", |f| open(f, libc::O_RDWR | libc::O_NONBLOCK))
    }),
    attempt("fifo-read", "a pipe's data is not taken from the server", |t| {
        special(t, "fifo", |f| open(f, libc::O_RDONLY | libc::O_NONBLOCK))
    }),
    attempt("socket-open", NO_WRITE, |t| {
        special(t, "stream.sock", |f| open(f, libc::O_RDWR)).refused_if("ENXIO")
    }),
    attempt("file-handle", "no way round paths: no CAP_DAC_READ_SEARCH, seccomp", |t| {
        on_file(t, open_by_handle)
    }),
    attempt("mknod-null", "no devices of one's own", |_| mknod_and_open(0o020_666, 1, 3)),
    attempt("mknod-mem", "no devices of one's own", |_| mknod_and_open(0o020_666, 1, 1)),
    attempt("mknod-disk", "no devices of one's own", |_| disk()),
    attempt("setuid-effect", "no_new_privs", |_| setuid_effect()),
    attempt("hidden-paths", "masked paths and HyperSpector's own state do not show", hidden),
];

pub(super) fn path(path: &Path) -> CString {
    c(path.as_os_str().as_encoded_bytes())
}

impl Verdict {
    /// Takes an error as a refusal.
    fn refused_if(mut self, errno: &str) -> Self {
        if self.errno.as_deref() == Some(errno) {
            self.outcome = super::Outcome::Refused;
        }
        self
    }
}

/// Tries something in each window, in its `hs-target` directory where there is one.
pub(super) fn in_windows(targets: &Targets, act: impl Fn(&Path) -> Verdict) -> Verdict {
    Verdict::worst(targets.files.iter().map(|window| {
        let prepared = window.join("hs-target");
        let place = if prepared.is_dir() { &prepared } else { window };
        act(place).on(place.display())
    }))
}

/// A regular file to try things on.
pub(super) fn a_file(dir: &Path) -> Option<PathBuf> {
    let known = ["plain.txt", "etc/hostname", "etc/passwd", "hostname"].map(|name| dir.join(name));
    known.into_iter().find(|path| path.is_file()).or_else(|| {
        let entries = std::fs::read_dir(dir).ok()?.flatten();
        entries.map(|entry| entry.path()).find(|path| path.is_file())
    })
}

/// Tries something on a regular file of each window.
pub(super) fn on_file<T>(targets: &Targets, act: impl Fn(&CString) -> io::Result<T>) -> Verdict {
    in_windows(targets, |dir| match a_file(dir) {
        Some(file) => Verdict::of(act(&path(&file))),
        None => Verdict::error("no regular file"),
    })
}

/// Tries something on the special file `name` of each window that has it.
fn special<T>(targets: &Targets, name: &str, act: impl Fn(&CString) -> io::Result<T>) -> Verdict {
    in_windows(targets, |dir| match std::fs::symlink_metadata(dir.join(name)) {
        Ok(_) => Verdict::of(act(&path(&dir.join(name)))),
        Err(_) => Verdict::error(format!("no {name} here")),
    })
}

/// Opens the file as a bare path first, then again for writing through /proc.
fn reopen_writable(file: &CString) -> io::Result<i64> {
    let name = follow_descriptor(file)?;
    open(&name, libc::O_WRONLY).map(|_| 0)
}

/// A second name of the file: that of a descriptor, which is kept open for the attempt's life.
fn follow_descriptor(file: &CString) -> io::Result<CString> {
    use std::os::fd::IntoRawFd;
    let bare = open(file, libc::O_PATH)?;
    Ok(c(format!("/proc/self/fd/{}", bare.into_raw_fd())))
}

fn create(dir: &Path) -> Verdict {
    let new = path(&dir.join("hs-attack-new"));
    let result = open(&new, libc::O_WRONLY | libc::O_CREAT);
    if result.is_ok() {
        let _ = sys!(libc::SYS_unlinkat, libc::AT_FDCWD, &new, 0);
    }
    Verdict::of(result)
}

fn truncate(file: &CString) -> io::Result<i64> {
    let size = std::fs::metadata(as_path(file))?.len();
    sys!(libc::SYS_truncate, file, size)
}

fn chmod(file: &CString) -> io::Result<i64> {
    let mode = std::fs::metadata(as_path(file))?.mode();
    sys!(libc::SYS_fchmodat, libc::AT_FDCWD, file, mode & 0o7777)
}

fn touch(file: &CString) -> io::Result<i64> {
    let found = std::fs::metadata(as_path(file))?;
    let times = [found.atime(), found.atime_nsec(), found.mtime(), found.mtime_nsec()];
    sys!(libc::SYS_utimensat, libc::AT_FDCWD, file, bytes(&times), 0)
}

fn set_attribute(file: &CString) -> io::Result<i64> {
    sys!(libc::SYS_setxattr, file, c"user.hs-attack", b"1", 1, 0)?;
    sys!(libc::SYS_removexattr, file, c"user.hs-attack")
}

/// FS_IOC_SETFLAGS with the flags that are set already.
fn set_flags(file: &CString) -> io::Result<i64> {
    const GET: u64 = 0x8008_6601;
    const SET: u64 = 0x4008_6602;
    let fd = open(file, libc::O_RDONLY)?;
    let mut flags = [0_u8; 8];
    sys!(libc::SYS_ioctl, &fd, GET, &mut flags)?;
    sys!(libc::SYS_ioctl, &fd, SET, &flags)
}

/// Says how long the file's data is going to live (fcntl(2)): a property of the inode, which needs
/// no descriptor for writing. Set to what it is.
fn write_hint(file: &CString) -> io::Result<i64> {
    const GET: i32 = 1035;
    const SET: i32 = 1036;
    let fd = open(file, libc::O_RDONLY)?;
    let mut hint = [0_u8; 8];
    sys!(libc::SYS_fcntl, &fd, GET, &mut hint)?;
    sys!(libc::SYS_fcntl, &fd, SET, &hint)
}

fn map_shared(file: &CString) -> io::Result<i64> {
    map(file, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)
}

fn map_executable(file: &CString) -> io::Result<i64> {
    map(file, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE)
}

fn map(file: &CString, protection: i32, flags: i32) -> io::Result<i64> {
    let fd = open(file, libc::O_RDONLY)?;
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours, and it
    // is never read or written.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, raw, 0) };
    if place == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(0) }
}

fn link_to(dir: &Path, into: &Path) -> Verdict {
    let Some(file) = a_file(dir) else { return Verdict::error("no regular file") };
    let new = into.join("hs-attack-link");
    let result = std::fs::hard_link(file, &new);
    if result.is_ok() {
        let _ = std::fs::remove_file(new);
    }
    Verdict::of_or(result, &[libc::EXDEV])
}

/// Removes the file that is there to be removed; else one that is not there, which a read-only
/// mount refuses before it looks.
fn unlink(dir: &Path) -> Verdict {
    Verdict::reached(std::fs::remove_file(dir.join("disposable.txt")))
}

fn rename(dir: &Path) -> Verdict {
    let Some(file) = a_file(dir) else { return Verdict::error("no regular file") };
    let new = file.with_extension("hs-attack");
    let result = std::fs::rename(&file, &new);
    if result.is_ok() {
        let _ = std::fs::rename(&new, &file);
    }
    Verdict::of(result)
}

fn mkdir(dir: &Path) -> Verdict {
    let new = dir.join("hs-attack-dir");
    let result = std::fs::create_dir(&new);
    if result.is_ok() {
        let _ = std::fs::remove_dir(new);
    }
    Verdict::of(result)
}

fn symlink(dir: &Path) -> Verdict {
    let new = dir.join("hs-attack-symlink");
    let result = std::os::unix::fs::symlink("/etc/shadow", &new);
    if result.is_ok() {
        let _ = std::fs::remove_file(new);
    }
    Verdict::of(result)
}

fn mknod(place: &Path) -> Verdict {
    let name = path(place);
    let result = sys!(libc::SYS_mknodat, libc::AT_FDCWD, &name, 0o010_600, 0);
    if result.is_ok() {
        let _ = sys!(libc::SYS_unlinkat, libc::AT_FDCWD, &name, 0);
    }
    Verdict::of(result)
}

/// Makes a device node below /tmp and opens it: making one is only harmful where it opens.
fn mknod_and_open(mode: u32, major: u32, minor: u32) -> Verdict {
    let name = c(format!("/tmp/hs-attack-device-{}", std::process::id()));
    let device = libc::makedev(major, minor);
    let made = sys!(libc::SYS_mknodat, libc::AT_FDCWD, &name, mode, device);
    let opened = made.and_then(|_| open(&name, libc::O_RDONLY | libc::O_NONBLOCK));
    let _ = sys!(libc::SYS_unlinkat, libc::AT_FDCWD, &name, 0);
    Verdict::of_or(opened, &[libc::ENXIO, libc::ENODEV])
}

/// The device that the root file system, or the first disk, is on.
fn disk() -> Verdict {
    let text = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
    let mut lines = text.lines().skip(2).map(str::split_ascii_whitespace);
    let number = |words: &mut std::str::SplitAsciiWhitespace<'_>| words.next()?.parse().ok();
    let found = lines.next().and_then(|mut w| Some((number(&mut w)?, number(&mut w)?)));
    let (major, minor) = found.unwrap_or((8, 0));
    mknod_and_open(0o060_600, major, minor)
}

fn execute(dir: &Path) -> Verdict {
    let program = dir.join("program");
    if !program.exists() {
        return Verdict::error("no program here");
    }
    Verdict::of(Command::new(program).output())
}

/// A set-user-id copy of this program that belongs to user 1: which user does it run as?
fn setuid_effect() -> Verdict {
    let place = PathBuf::from(format!("/tmp/hs-attack-setuid-{}", std::process::id()));
    let result = std::fs::copy("/proc/self/exe", &place)
        .and_then(|_| std::os::unix::fs::chown(&place, Some(1), Some(1)))
        .and_then(|()| sys!(libc::SYS_fchmodat, libc::AT_FDCWD, &path(&place), 0o6755))
        .and_then(|_| Command::new(&place).arg(super::child::WHO_AM_I).output());
    let _ = std::fs::remove_file(&place);
    match result {
        Ok(output) if output.stdout == b"1\n" => Verdict::possible("ran as the file's owner"),
        Ok(output) if output.status.success() => Verdict::refused("ran as the caller"),
        Ok(output) => Verdict::error(format!("{output:?}")),
        Err(error) => Verdict::of::<()>(Err(error)),
    }
}

/// Makes a handle of the file and opens it relative to the window: with the right capability that
/// reaches every inode of the file system, whatever the mount shows.
fn open_by_handle(file: &CString) -> io::Result<i64> {
    let mut handle = [0_u8; 8 + 128];
    handle[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let mut mount_id = [0_u8; 4];
    let here = libc::AT_FDCWD;
    sys!(libc::SYS_name_to_handle_at, here, file, &mut handle, &mut mount_id, 0)?;
    let directory = open(file, libc::O_PATH).and(open(file, libc::O_RDONLY))?;
    own(sys!(libc::SYS_open_by_handle_at, &directory, &handle, libc::O_RDONLY))?;
    Ok(i64::try_from(NULL).unwrap_or(0))
}

/// A hidden path shows when it has something in it.
fn hidden(targets: &Targets) -> Verdict {
    Verdict::worst(targets.hidden.iter().map(|place| {
        let verdict = match std::fs::metadata(place) {
            Err(error) => Verdict::of_or::<()>(Err(error), &[libc::ENOENT, libc::ENOTDIR]),
            Ok(found) if found.is_dir() => directory_shows(place),
            Ok(_) => match std::fs::read(place) {
                Ok(content) if content.is_empty() => Verdict::refused("empty"),
                other => Verdict::of(other),
            },
        };
        verdict.on(place.display())
    }))
}

fn directory_shows(place: &Path) -> Verdict {
    match std::fs::read_dir(place).map(|entries| entries.flatten().count()) {
        Ok(0) => Verdict::refused("empty"),
        Ok(count) => Verdict::possible(format!("{count} entries")),
        Err(error) => Verdict::of::<()>(Err(error)),
    }
}

fn as_path(file: &CString) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(file.as_bytes()))
}
