//! Starting HyperSpector's own worker processes: the same program again, single-threaded and with a
//! clean descriptor table, given its work as one typed message.
//!
//! A worker is `hyperspector __worker KIND` with its end of a [`Channel`] as descriptor 3. The first
//! message on it is the worker's configuration, with the descriptors that it may use; nothing else
//! is inherited. The channel stays open for whatever the two sides agree on.
//!
//! The program is run from a read-only clone of its own file's mount, so that a process in a
//! portspace that gets hold of a worker's `/proc/PID/exe` cannot write to the program through it
//! (compare CVE-2019-5736).

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::channel::Channel;

/// Where a worker finds its channel.
pub const CHANNEL_FD: RawFd = 3;

/// The hidden subcommand that turns the program into a worker.
pub const SUBCOMMAND: &str = "__worker";

/// What a worker says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Started {
    /// It runs, and does what it is for.
    Ready,
    /// It ends, for this reason.
    Failed(String),
}

/// Is a worker that serves until it cannot any more: takes its configuration and descriptors, starts, and
/// says how that went. Whoever started it may have gone meanwhile; it goes on. Errors go to standard error,
/// after `name`.
pub fn serve<C: DeserializeOwned, W, E: Display>(
    name: &str,
    start: impl FnOnce(C, Vec<OwnedFd>) -> Result<W, E>,
    serve: impl FnOnce(W) -> String,
) -> ExitCode {
    let (config, fds, channel) = match receive() {
        Ok(received) => received,
        Err(error) => {
            eprintln!("{name}: read the configuration: {error}");
            return ExitCode::FAILURE;
        }
    };
    match start(config, fds) {
        Ok(worker) => {
            let _ = channel.send(&Started::Ready, &[]);
            drop(channel);
            eprintln!("{name}: {}", serve(worker));
        }
        Err(error) => {
            eprintln!("{name}: {error}");
            let _ = channel.send(&Started::Failed(error.to_string()), &[]);
        }
    }
    ExitCode::FAILURE
}

/// Starts the worker `kind`, sends it `config` and `fds`, and returns it with our end of the channel.
///
/// `stderr` is where its diagnostics go; stdin and stdout are `/dev/null`.
pub fn spawn(
    kind: &str,
    config: &impl Serialize,
    fds: &[BorrowedFd<'_>],
    stderr: Stdio,
) -> io::Result<(Child, Channel)> {
    spawn_placed(kind, config, fds, stderr, |_| Ok(()))
}

/// Like [`spawn`]; `place` is called with the worker's process id before the worker has anything to
/// go by, to put it where it will be found whatever becomes of the caller.
pub fn spawn_placed(
    kind: &str,
    config: &impl Serialize,
    fds: &[BorrowedFd<'_>],
    stderr: Stdio,
    place: impl FnOnce(u32) -> io::Result<()>,
) -> io::Result<(Child, Channel)> {
    let (mut child, channel) = start(kind, stderr)?;
    match place(child.id()).and_then(|()| channel.send(config, fds)) {
        Ok(()) => Ok((child, channel)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

/// Starts the worker `kind`, which waits for its configuration and ends when the channel does.
fn start(kind: &str, stderr: Stdio) -> io::Result<(Child, Channel)> {
    let (ours, theirs) = Channel::pair()?;
    let program = own_program()?;
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command
        .arg0("hyperspector")
        .args([OsStr::new(SUBCOMMAND), OsStr::new(kind)])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    let channel = theirs.as_fd().as_raw_fd();
    // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system calls
    // (dup2, close_range); `channel` stays open in the parent until after the spawn.
    unsafe { command.pre_exec(move || keep_only(channel)) };
    let child = command.spawn()?;
    drop(theirs);
    Ok((child, ours))
}

/// In a worker: takes the channel and reads the configuration and descriptors from it.
pub fn receive<C: DeserializeOwned>() -> io::Result<(C, Vec<OwnedFd>, Channel)> {
    // SAFETY: descriptor 3 is the channel by the contract of `spawn`, and this is called once, at
    // the start of the worker, before anything else could own it.
    let stream = unsafe { UnixStream::from_raw_fd(CHANNEL_FD) };
    rustix::io::fcntl_setfd(&stream, rustix::io::FdFlags::CLOEXEC)?;
    let channel = Channel::new(stream);
    let (config, fds) = channel.receive()?.ok_or_else(|| {
        io::Error::new(io::ErrorKind::UnexpectedEof, "started without a configuration")
    })?;
    Ok((config, fds, channel))
}

/// Makes `channel` descriptor 3 and marks everything above close-on-exec.
fn keep_only(channel: RawFd) -> io::Result<()> {
    // SAFETY: dup2 takes two integers; `channel` is open, and 3 may be overwritten in this child.
    check(unsafe { libc::dup2(channel, CHANNEL_FD) })?;
    if channel == CHANNEL_FD {
        // SAFETY: fcntl F_SETFD takes integers; dup2 onto itself leaves close-on-exec set.
        check(unsafe { libc::fcntl(CHANNEL_FD, libc::F_SETFD, 0) })?;
    }
    let (first, last) = (CHANNEL_FD.cast_unsigned() + 1, u32::MAX);
    // SAFETY: close_range takes integers; with CLOEXEC it only marks descriptors, so the one that
    // is being executed stays open until then.
    check(unsafe { libc::close_range(first, last, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The program of a worker, which was run from a read-only mount itself: one that is on no path.
fn own_program_of_a_worker() -> io::Result<OwnedFd> {
    let program = File::open("/proc/self/exe")?;
    let mount = rustix::fs::fstatvfs(&program)?;
    let is_read_only = mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    if is_read_only { Ok(program.into()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Opens this program for later starts, for a process that is about to give up what that takes.
pub fn prepare() -> io::Result<()> {
    own_program().map(drop)
}

/// This program, opened once, through a read-only mount where that can be had.
fn own_program() -> io::Result<BorrowedFd<'static>> {
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program.as_fd());
    }
    let opened =
        own_program_of_a_worker().or_else(|_| crate::mount::read_only_file("/proc/self/exe"));
    let opened = opened.or_else(|error| {
        // Without CAP_SYS_ADMIN there is no portspace to protect the program from either.
        if error.kind() == io::ErrorKind::PermissionDenied {
            File::open("/proc/self/exe").map(OwnedFd::from)
        } else {
            Err(error)
        }
    })?;
    Ok(PROGRAM.get_or_init(|| opened).as_fd())
}
