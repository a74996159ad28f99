//! Doing as a caller would with a path: binding or connecting its Unix socket in its root and
//! working directory, with its users, groups, umask and capabilities.
//!
//! Each such call runs in a thread of its own, since a connection may wait for the other side as
//! long as that likes, and since those things can be a thread's own. A thread and not a process:
//! the Unix guard in the kernel knows the broker by its process id.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

use hyperspector_sys::seccomp_notify::{Listener, Reply};
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::process::{chroot, fchdir, umask};
use rustix::thread::{
    CapabilitySet, Gid, Uid, UnshareFlags, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid, unshare_unsafe,
};

use super::caller::{Caller, own_descriptor};
use super::{KEPT, address};
use crate::packets::{confine, option};

/// How many calls may be under way. A caller beyond that is told to try again, as it would be by
/// a listener with a full queue.
const MOST: usize = 16;

/// What a thread interrupts another with.
const INTERRUPT: libc::c_int = libc::SIGUSR1;

/// Who a caller is: what it may do with files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
    capabilities: u64,
}

impl Identity {
    /// Reads the text of a `status` file (proc_pid_status(5)). Users and groups are those that
    /// count for files.
    fn read(status: &str) -> Option<Self> {
        let line = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let last = |name| line(name)?.split_whitespace().nth(3)?.parse().ok();
        let groups = line("Groups:")?.split_whitespace().map(str::parse);
        Some(Self {
            uid: last("Uid:")?,
            gid: last("Gid:")?,
            groups: groups.collect::<Result<_, _>>().ok()?,
            umask: u32::from_str_radix(line("Umask:")?.trim(), 8).ok()?,
            capabilities: u64::from_str_radix(line("CapEff:")?.trim(), 16).ok()?,
        })
    }
}

/// A call to be made as its caller.
struct Errand {
    procfs: OwnedFd,
    root: OwnedFd,
    directory: OwnedFd,
    identity: Identity,
    socket: OwnedFd,
    address: Vec<u8>,
    connect: bool,
    offered: Option<(u64, u64)>,
}

/// A call under way.
#[derive(Debug)]
struct Running {
    listener: Listener,
    id: u64,
    thread: JoinHandle<()>,
}

/// The calls under way.
#[derive(Debug)]
pub(super) struct Errands {
    running: Vec<Running>,
    /// The directory whose sockets can be connected to though it is read-only.
    offered: Option<(u64, u64)>,
}

impl Errands {
    /// None yet.
    pub(super) fn new(offered: Option<(u64, u64)>) -> Self {
        Self { running: Vec::new(), offered }
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts a call; it is answered by its thread.
    pub(super) fn start(
        &mut self,
        caller: &Caller<'_>,
        socket: OwnedFd,
        address: Vec<u8>,
        connect: bool,
    ) -> Result<(), Errno> {
        if self.running.len() >= MOST {
            return Err(Errno::AGAIN);
        }
        let identity = Identity::read(&caller.status()?).ok_or(Errno::INVAL)?;
        let (root, directory) = (caller.directory("root")?, caller.directory("cwd")?);
        let procfs = copy(&caller.outside.procfs)?;
        let offered = self.offered;
        let errand =
            Errand { procfs, root, directory, identity, socket, address, connect, offered };
        let id = caller.notification.id;
        let listener = caller.listener.try_clone().map_err(|_| Errno::MFILE)?;
        let answering = caller.listener.try_clone().map_err(|_| Errno::MFILE)?;
        let thread = std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || {
                let reply = match errand.run() {
                    Ok(()) => Reply::Value(0),
                    Err(error) => Reply::Errno(error.raw_os_error()),
                };
                // A caller that has been killed needs no answer.
                let _ = answering.reply(id, reply);
            })
            .map_err(|_| Errno::AGAIN)?;
        self.running.push(Running { listener, id, thread });
        Ok(())
    }

    /// Lets go of calls that are done, and interrupts those whose caller is gone.
    pub(super) fn tend(&mut self) {
        for running in &self.running {
            if !running.thread.is_finished() && !running.listener.is_waiting(running.id) {
                // SAFETY: the thread has not been joined, so its handle is good; the signal has a
                // handler that does nothing.
                unsafe { libc::pthread_kill(running.thread.as_pthread_t(), INTERRUPT) };
            }
        }
        self.running.retain(|running| !running.thread.is_finished());
    }
}

impl Errand {
    fn run(self) -> Result<(), Errno> {
        self.become_caller()?;
        if !self.connect {
            return option::bind(self.socket.as_fd(), &self.address);
        }
        let path = address::path(&self.address).ok_or(Errno::INVAL)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let mut target = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        if is_window(&target)? {
            target = self.offered_at(path)?;
        }
        // By descriptor, so that it is what was looked at. The procfs is not in the caller's
        // root, but may still be the working directory.
        fchdir(&self.procfs)?;
        let family = u16::try_from(libc::AF_UNIX).unwrap_or_default();
        let mut through = family.to_ne_bytes().to_vec();
        through.extend_from_slice(own_descriptor(&target).as_bytes());
        through.push(0);
        option::connect(self.socket.as_fd(), &through)
    }

    /// What is at `path` directly in the directory that is offered.
    fn offered_at(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let slash = path.iter().rposition(|byte| *byte == b'/').ok_or(Errno::ACCESS)?;
        let (above, name) = path.split_at_checked(slash + 1).ok_or(Errno::ACCESS)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let above = rustix::fs::openat(CWD, above, flags | OFlags::DIRECTORY, Mode::empty())?;
        let found = rustix::fs::fstat(&above)?;
        if self.offered != Some((found.st_dev, found.st_ino)) || matches!(name, b"" | b"." | b"..")
        {
            return Err(Errno::ACCESS);
        }
        rustix::fs::openat(above, name, flags | OFlags::NOFOLLOW, Mode::empty())
    }

    /// For good: the thread ends after the call.
    fn become_caller(&self) -> Result<(), Errno> {
        // SAFETY: unsharing the file-system attributes leaves descriptors and memory as they are.
        unsafe { unshare_unsafe(UnshareFlags::FS) }?;
        fchdir(&self.root)?;
        chroot(".")?;
        fchdir(&self.directory)?;
        umask(Mode::from_raw_mode(self.identity.umask));
        let groups: Vec<_> = self.identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups)?;
        let (uid, gid) = (Uid::from_raw(self.identity.uid), Gid::from_raw(self.identity.gid));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        let capabilities = CapabilitySet::from_bits_retain(self.identity.capabilities) & KEPT;
        set_capabilities(None, confine::sets(capabilities, capabilities))
    }
}

/// Whether a file is one of the host's, in a file window or a mounted directory: those mounts are
/// read-only, which a portspace cannot change, and where it can make sockets they are not.
fn is_window(file: &OwnedFd) -> Result<bool, Errno> {
    Ok(rustix::fs::fstatvfs(file)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn copy(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
}

/// Makes [`INTERRUPT`] end a waiting call and do nothing else.
pub(super) fn prepare_interrupt() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: all zeroes is a sigaction without flags and with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: `action` lives across the call; its handler does nothing, so it is safe at any time.
    match unsafe { libc::sigaction(INTERRUPT, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::caller::status_field;
    use super::*;

    const STATUS: &str = "Name:\tsuricata\nUmask:\t0027\nTgid:\t12\nPid:\t13\n\
        Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t4 24 \nCapEff:\t0000000000000402\n";

    #[test]
    fn identity_is_what_counts_for_files() {
        let identity = Identity::read(STATUS).unwrap();
        let expected =
            Identity { uid: 4, gid: 8, groups: vec![4, 24], umask: 0o27, capabilities: 0x402 };
        assert_eq!(identity, expected);
        assert_eq!(status_field(STATUS, "Tgid:"), Some(12));
    }

    #[test]
    fn no_groups_are_fine_and_missing_lines_are_not() {
        let none = STATUS.replace("4 24", "");
        assert_eq!(Identity::read(&none).unwrap().groups, Vec::<u32>::new());
        assert_eq!(Identity::read(&STATUS.replace("Umask", "Mask")), None);
    }
}
