//! The tee: reads the messages of one server, and passes them on.
//!
//! It is told everything by its keeper and waits for nobody: each round takes one batch of each
//! socket that has something, and sends what readers have room for.

mod hand_over;
mod intake;
mod run;
mod take;
mod told;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use hyperspector_sys::worker;
use libc as l;
use rustix::thread::CapabilitySet;

use super::message::{ToKeeper, ToTee};
use crate::packets::confine::{self, only};
use crate::packets::rules::{Cond, Rule, Test};

pub(super) use intake::{Count, MOST_SOURCES, SIZE, count, give_up, reset, round};

/// What it calls besides what every worker calls.
const CALLS: &[confine::Group] = &[
    (
        "wait for many sockets",
        &[
            #[cfg(target_arch = "x86_64")]
            l::SYS_epoll_wait,
            l::SYS_epoll_pwait,
            l::SYS_epoll_pwait2,
            l::SYS_epoll_ctl,
            l::SYS_epoll_create1,
        ],
    ),
    ("several messages at once", &[l::SYS_recvmmsg, l::SYS_sendmmsg]),
    ("say that no more comes", &[l::SYS_shutdown]),
    ("the size of its memory", &[l::SYS_fstat]),
];

const QUEUE_LENGTH: Cond = Cond { arg: 1, test: Test::Is(l::TIOCOUTQ as u32) };
const CONDITIONAL: &[Rule] = &[only(l::SYS_ioctl, &[QUEUE_LENGTH], "what a reader has not taken")];

/// The worker `tee`, started by a keeper. Never returns before it has handed over or lost its way.
pub fn worker_main() -> ExitCode {
    let (start, fds, channel) = match worker::receive::<ToTee>() {
        Ok(received) => received,
        Err(error) => {
            eprintln!("tee: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ToTee::Start { uid, gid } = start else { return ExitCode::FAILURE };
    let begun = begin(uid, gid, fds);
    let (memory, successor) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let _ = channel.send(&ToKeeper::Failed(error.to_string()), &[]);
            return ExitCode::FAILURE;
        }
    };
    match run::run(channel, memory, successor, (uid, gid)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tee: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Gives up everything but the descriptors.
fn begin(uid: u32, gid: u32, fds: Vec<OwnedFd>) -> io::Result<(OwnedFd, UnixListener)> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "descriptors are missing");
    let mut fds = fds.into_iter();
    let (Some(root), Some(memory), Some(successor)) = (fds.next(), fds.next(), fds.next()) else {
        return Err(missing());
    };
    if uid == 0 || gid == 0 {
        return Err(io::Error::other("a tee must not be root"));
    }
    interrupt_on_alarm()?;
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")?;
    drop(root);
    confine::drop_to(uid, gid, CapabilitySet::empty())?;
    confine::allow_only(CALLS, CONDITIONAL)?;
    if std::fs::read_dir("/").is_ok() {
        return Err(io::Error::other("the file system can still be read"));
    }
    let successor = UnixListener::from(successor);
    Ok((memory, successor))
}

/// Lets the keeper's SIGALRM break what holds it up: dropping a descriptor that a writer has passed
/// can wait, for a TCP connection that lingers, say.
fn interrupt_on_alarm() -> io::Result<()> {
    extern "C" fn nothing(_: l::c_int) {}
    // SAFETY: a sigaction of all zeroes is valid: no flags (so that calls are interrupted), no mask.
    let mut action: l::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(l::c_int) as usize;
    // SAFETY: `action` is initialised, and its handler does nothing at all.
    match unsafe { l::sigaction(l::SIGALRM, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
