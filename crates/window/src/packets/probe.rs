//! What this kernel has of what the packet window needs.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use hyperspector_sys::{netns, seccomp_notify};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use serde::Serialize;

use super::diag::Diag;
use super::{guard, unix_guard};

/// What was found. Each is an error text where it is missing.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// How the transmit guard would be attached.
    pub transmit_guard: Result<guard::How, String>,
    /// Packet sockets (`CONFIG_PACKET`).
    pub packet_sockets: Result<(), String>,
    /// Asking which packet sockets exist (`CONFIG_PACKET_DIAG`).
    pub packet_diag: Result<(), String>,
    /// seccomp user notification.
    pub notification: Result<(), String>,
    /// Answering with a descriptor, in one step (Linux 5.14).
    pub add_fd: Result<(), String>,
    /// Looking at other processes at all: Yama can forbid it.
    pub tracing: Result<(), String>,
    /// The programs of the Unix guard (Linux 6.7).
    pub unix_guard: Result<(), String>,
}

/// Tries each thing, in a network namespace made for it where that matters. Needs root; changes
/// nothing.
pub fn probe() -> Facts {
    let text = |error: io::Error| error.to_string();
    let namespace = netns::new().map_err(text);
    let inside = |work: fn() -> io::Result<()>| {
        let namespace = namespace.as_ref().map_err(String::clone)?;
        netns::within(namespace.as_fd(), work).map_err(text)?.map_err(text)
    };
    Facts {
        transmit_guard: inside(|| guard::try_attach(guard::How::Tcx))
            .map(|()| guard::How::Tcx)
            .or_else(|_| {
                inside(|| guard::try_attach(guard::How::Clsact)).map(|()| guard::How::Clsact)
            }),
        packet_sockets: inside(packet_socket),
        packet_diag: inside(|| Diag::open().map(drop)),
        notification: action_available().map_err(text),
        add_fd: add_fd().map_err(text),
        tracing: tracing(),
        unix_guard: unix_guard::load().map(drop).map_err(|error| error.to_string()),
    }
}

fn packet_socket() -> io::Result<()> {
    socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    Ok(())
}

fn action_available() -> io::Result<()> {
    let action = libc::SECCOMP_RET_USER_NOTIF;
    let operation = libc::SECCOMP_GET_ACTION_AVAIL;
    // SAFETY: the call reads one u32, which lives across it.
    match unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw const action) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts a filter that lets everything through on a thread that ends at once, for its listener.
fn add_fd() -> io::Result<()> {
    let tried = std::thread::spawn(|| {
        rustix::thread::set_no_new_privs(true)?;
        const RET_K: u16 = 0x06;
        let allow =
            seccompiler::sock_filter { code: RET_K, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
        let listener = seccomp_notify::install(&[allow])?;
        // Nobody asks under this number, which is looked at after the flags.
        match listener.reply_with_fd(0, listener.as_fd(), true) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    });
    tried.join().unwrap_or_else(|_| Err(io::Error::other("the probing thread panicked")))
}

/// Yama's strictest setting forbids tracing to everybody.
fn tracing() -> Result<(), String> {
    match fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
        Ok(scope) if scope.trim() == "3" => {
            Err("kernel.yama.ptrace_scope is 3; the broker needs 2 or less".into())
        }
        _ => Ok(()),
    }
}
