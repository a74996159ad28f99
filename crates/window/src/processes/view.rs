//! Where a portspace finds the processes of servers.
//!
//! ```text
//! /.serverproc/NAME              → NAME.root/proc
//! /.serverproc/NAME.json         → .facts/NAME/processes.json
//! /.serverproc/NAME.root/proc/   the server's processes
//! /.serverproc/NAME.root/…       the portspace's own programs
//! /.serverproc/.facts/NAME/      what the facts worker writes
//! ```
//!
//! `NAME.root` is for programs that look in `/proc` and nowhere else: after
//! `chroot /.serverproc/NAME.root` they find the server's. It shows nothing more than the portspace
//! sees anyway.
//!
//! All of it is attached from outside, by threads that enter the portspace's mount namespace, over
//! the directory [`PLACE`] that is there for it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{apart, attach_over, attr, clone_tree, set_attributes, within};
use hyperspector_sys::path::{beneath, directory};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::procfs::{Stage, tmpfs};
use crate::swap::replace;

/// The directory of a portspace's root below which everything is.
pub const PLACE: &str = ".serverproc";

/// What of the portspace's own root shows beside a server's processes: programs, and what they need
/// to start.
const TOOLS: &[&str] =
    &["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt", "nix", "gnu", "dev"];

const LOCKED: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// Lays out the window in the portspace whose mount namespace is `mounts`: every server is down.
/// What was laid out before is covered.
///
/// # Errors
/// The step, with its cause.
pub fn lay_out(mounts: BorrowedFd<'_>, servers: &[String]) -> io::Result<()> {
    let tools = within(mounts, Tool::all)?;
    let skeleton = apart(|| skeleton(servers, &tools))?.map_err(doing("put together", PLACE))?;
    within(mounts, || {
        let place = found(Path::new(PLACE)).map_err(doing("find", PLACE))?;
        attach_over(skeleton.as_fd(), place.as_fd()).map_err(doing("attach", PLACE))?;
        for server in servers {
            tools.iter().try_for_each(|tool| tool.show(&root_of(server)))?;
        }
        Ok(())
    })?
}

/// Shows the procfs `tree` as the processes of `server`, in place of what was there.
///
/// # Errors
/// Where it cannot be attached; nothing shows then.
pub fn show(mounts: BorrowedFd<'_>, server: &str, tree: BorrowedFd<'_>) -> io::Result<()> {
    replace(mounts, &processes_of(server), Some(tree))
}

/// Shows nothing as the processes of `server`: it is down.
///
/// # Errors
/// Where what was there cannot be taken away.
pub fn clear(mounts: BorrowedFd<'_>, server: &str) -> io::Result<()> {
    replace(mounts, &processes_of(server), None)
}

/// Shows `directory` of the caller's own tree, in which the facts worker writes, read-only.
///
/// # Errors
/// Where it cannot be attached.
pub fn show_facts(mounts: BorrowedFd<'_>, server: &str, directory: &Path) -> io::Result<()> {
    let tree = clone_tree(directory, false)?;
    let set = LOCKED | attr::NOATIME;
    set_attributes(tree.as_fd(), false, set, attr::ATIME_MASK, None)?;
    let place = Path::new(PLACE).join(".facts").join(server);
    replace(mounts, &place, Some(tree.as_fd()))
}

/// Where the processes of `server` are, from the portspace's root.
pub(crate) fn processes_of(server: &str) -> PathBuf {
    root_of(server).join("proc")
}

/// The directory that [`processes_of`] is in.
fn root_of(server: &str) -> PathBuf {
    Path::new(PLACE).join(format!("{server}.root"))
}

/// Takes away all that is mounted at `place`, which nobody inside can put a link at.
pub(crate) fn unmount_all(place: &Path) -> io::Result<()> {
    let path = Path::new("/").join(place);
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    loop {
        match rustix::mount::unmount(&path, flags) {
            Ok(()) => {}
            // INVAL: nothing is mounted there.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What is at `path` from the root, where no link is on the way.
pub(crate) fn found(path: &Path) -> io::Result<OwnedFd> {
    beneath(directory("/")?, path)
}

/// The directories and links, as a detached read-only tree.
fn skeleton(servers: &[String], tools: &[Tool]) -> io::Result<OwnedFd> {
    let stage = Stage::make()?;
    let inodes = 16 + servers.len() * (tools.len() + 8);
    stage.attach(tmpfs("256k", &inodes.to_string())?.as_fd(), "tree")?;
    let top = stage.path("tree");
    fs::create_dir(top.join(".facts"))?;
    for server in servers {
        let name = format!("{server}.root");
        let root = top.join(&name);
        fs::create_dir(&root)?;
        fs::create_dir(root.join("proc"))?;
        tools.iter().try_for_each(|tool| tool.place(&root))?;
        fs::create_dir(top.join(".facts").join(server))?;
        symlink(format!("{name}/proc"), top.join(server))?;
        symlink(format!(".facts/{server}/processes.json"), top.join(format!("{server}.json")))?;
    }
    let tree = clone_tree(&top, false)?;
    set_attributes(tree.as_fd(), false, attr::RDONLY, 0, None)?;
    Ok(tree)
}

/// A directory at the top of the portspace's root, or a link there, as `/bin` often is.
struct Tool {
    name: &'static str,
    link: Option<OsString>,
}

impl Tool {
    /// Those of [`TOOLS`] that are there, in the calling thread's root.
    fn all() -> Vec<Self> {
        let look = |name: &'static str| {
            let path = Path::new("/").join(name);
            let found = fs::symlink_metadata(&path).ok()?;
            let link = found.is_symlink().then(|| fs::read_link(&path).ok());
            let link = link.flatten().map(PathBuf::into_os_string);
            (link.is_some() || found.is_dir()).then_some(Self { name, link })
        };
        TOOLS.iter().copied().filter_map(look).collect()
    }

    /// Makes the link, or the place to mount on.
    fn place(&self, root: &Path) -> io::Result<()> {
        match &self.link {
            Some(target) => symlink(target, root.join(self.name)),
            None => fs::create_dir(root.join(self.name)),
        }
    }

    /// Shows the directory once more, with what is mounted below it, in the calling thread's root.
    fn show(&self, root: &Path) -> io::Result<()> {
        if self.link.is_some() {
            return Ok(());
        }
        let name = || format!("/{}", self.name);
        let set = attr::RDONLY | attr::NOSUID;
        // Devices have to be written to: they are what the portspace has.
        let set = if self.name == "dev" { set } else { set | attr::NODEV };
        found(Path::new(self.name))
            .and_then(|_| clone_tree(name(), true))
            .and_then(|tree| {
                set_attributes(tree.as_fd(), true, set, 0, None)?;
                attach_over(tree.as_fd(), found(&root.join(self.name))?.as_fd())
            })
            .map_err(doing("show once more", &name()))
    }
}

/// Gives an error its step and object.
fn doing(step: &'static str, object: &str) -> impl FnOnce(io::Error) -> io::Error {
    let object = object.to_owned();
    move |cause| {
        let text = format!("{step} {object}: {}", hyperspector_sys::errno::text(&cause));
        io::Error::new(cause.kind(), text)
    }
}
