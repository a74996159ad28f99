//! A space's `/dev`: the few devices that every program expects, its own terminals, its own shared
//! memory, and nothing else. Nothing can be added: the mount is read-only.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use hyperspector_sys::mount::{attr, clone_tree, set_attributes};
use rustix::mount::MountAttrFlags;

use super::pseudo::{self, small_tmpfs};
use super::{Failed, Step, attach};
use crate::config::IdRange;

/// The devices, each with its reason.
pub(crate) const DEVICES: &[(&str, &str)] = &[
    ("null", "output that nobody wants"),
    ("zero", "memory"),
    ("full", "programs that test how they meet a full disk"),
    ("random", "keys"),
    ("urandom", "keys"),
    ("tty", "the terminal of the process itself"),
];

/// The group that owns terminals, `tty`, in every Linux distribution.
const TTY_GROUP: u32 = 5;

/// Makes `/dev` below `root`. It is still to be made read-only.
pub(crate) fn populate(root: &Path, ids: IdRange) -> Result<(), Failed> {
    let dev = pseudo::top(root, "dev")?;
    small_tmpfs(&dev, "0755")?;
    for (name, _) in DEVICES {
        device(&dev, name)?;
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    for (name, target) in links {
        symlink(target, dev.join(name)).step(|| format!("link /dev/{name}"))?;
    }
    let group = (ids.root() + TTY_GROUP).to_string();
    let terminals = [("mode", "0620"), ("ptmxmode", "0666"), ("gid", group.as_str())];
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
    pseudo::new("devpts", &terminals, &dev.join("pts"), quiet)?;
    let owner = ids.root().to_string();
    let shared = [
        ("mode", "1777"),
        ("size", pseudo::TMP_SIZE),
        ("uid", owner.as_str()),
        ("gid", owner.as_str()),
    ];
    let locked = quiet.union(MountAttrFlags::MOUNT_ATTR_NODEV);
    pseudo::new("tmpfs", &shared, &dev.join("shm"), locked)?;
    // /dev/log, for a syslog daemon of the space, is its own to make.
    symlink("/run/log.socket", dev.join("log")).step(|| "link /dev/log".into())
}

/// Shows one device of the host, and its node as read-only: what it does is not what it is.
fn device(dev: &Path, name: &str) -> Result<(), Failed> {
    let step = || format!("show /dev/{name}");
    let node = clone_tree(Path::new("/dev").join(name), false).step(step)?;
    let set = attr::NOSUID | attr::NOEXEC | attr::RDONLY;
    set_attributes(node.as_fd(), false, set, 0, None).step(step)?;
    let place = dev.join(name);
    fs::write(&place, "").step(step)?;
    attach(node.as_fd(), &place).step(step)
}
