//! Starting a command inside a space, and knowing how it ended.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::WaitStatus;

use super::users::{self, User};
use crate::control::End;

/// Where programs are looked for.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a command is started with.
pub struct Start<'a> {
    /// The program and its arguments.
    pub command: &'a [String],
    /// Variables on top of the defaults, later ones winning.
    pub environment: Vec<&'a BTreeMap<String, String>>,
    /// The user, by name or number.
    pub user: &'a str,
    /// The working directory.
    pub directory: &'a Path,
    /// Its standard streams.
    pub streams: Streams,
}

/// A command's standard streams.
pub enum Streams {
    /// Input is empty; both outputs go into this pipe.
    Logged(OwnedFd),
    /// Three descriptors.
    Given([OwnedFd; 3]),
    /// A terminal, which becomes the controlling one.
    Terminal(OwnedFd),
}

/// Starts a command as a session of its own.
///
/// # Errors
/// A text for people: which program, which user or directory, and why not.
pub fn start(start: Start<'_>) -> Result<Child, String> {
    let [program, arguments @ ..] = start.command else { return Err("empty command".into()) };
    let user = users::find(start.user)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(start.directory).env_clear();
    for (name, value) in defaults(&user) {
        command.env(name, value);
    }
    for variables in start.environment {
        command.envs(variables);
    }
    let has_terminal = matches!(start.streams, Streams::Terminal(_));
    set_streams(&mut command, start.streams).map_err(|e| format!("start {program}: {e}"))?;
    // SAFETY: the closure runs in the child between fork and exec, makes only system calls, and
    // allocates nothing.
    unsafe { command.pre_exec(move || become_user(&user, has_terminal)) };
    if !start.directory.is_dir() {
        return Err(format!("start {program}: {} is not a directory", start.directory.display()));
    }
    command.spawn().map_err(|error| format!("start {program}: {error}"))
}

fn defaults(user: &User) -> [(&'static str, String); 5] {
    let name = user.name.clone().unwrap_or_else(|| user.uid.to_string());
    [
        ("PATH", PATH.to_owned()),
        ("HOME", user.home.clone()),
        ("USER", name.clone()),
        ("LOGNAME", name),
        ("LANG", "C.UTF-8".to_owned()),
    ]
}

fn set_streams(command: &mut Command, streams: Streams) -> io::Result<()> {
    match streams {
        Streams::Logged(pipe) => {
            command.stdin(Stdio::null()).stdout(pipe.try_clone()?).stderr(pipe);
        }
        Streams::Given([input, output, errors]) => {
            command.stdin(input).stdout(output).stderr(errors);
        }
        Streams::Terminal(terminal) => {
            command
                .env("TERM", "xterm-256color")
                .stdin(terminal.try_clone()?)
                .stdout(terminal.try_clone()?)
                .stderr(terminal);
        }
    }
    Ok(())
}

/// In the child: a session of its own, default signals, the user's ids.
fn become_user(user: &User, has_terminal: bool) -> io::Result<()> {
    rustix::process::setsid()?;
    if has_terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    super::signals::reset()?;
    let groups = user.groups.as_ptr();
    // SAFETY: the pointer and length describe a live slice of gid_t (u32), which is only read.
    check(unsafe { libc::setgroups(user.groups.len(), groups) })?;
    // SAFETY: setresgid takes integers.
    check(unsafe { libc::setresgid(user.gid, user.gid, user.gid) })?;
    // SAFETY: setresuid takes integers.
    check(unsafe { libc::setresuid(user.uid, user.uid, user.uid) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How a process ended, from its wait status.
pub fn end(status: WaitStatus) -> Option<End> {
    status.exit_status().map(End::Status).or_else(|| status.terminating_signal().map(End::Signal))
}

/// Makes a pseudo-terminal of this mount namespace: master and slave.
pub fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name, flags, Mode::empty())?;
    debug_assert!(master.as_raw_fd() != slave.as_raw_fd());
    Ok((master, slave))
}
