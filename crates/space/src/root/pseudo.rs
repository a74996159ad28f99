//! The file systems without files: proc, sysfs, and the tmpfs that hold a space's run-time state.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{attr, set_attributes};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};

use super::mask::top_level;
use super::{Failed, Step, attach};
use crate::config::IdRange;

const LOCKED: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Paths of proc that tell about, or reach, the whole machine.
pub(crate) const PROC_MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/driver",
    "/proc/dynamic_debug",
    "/proc/fs",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/irq",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/modules",
    "/proc/mtrr",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/sysrq-trigger",
    "/proc/sysvipc",
    "/proc/timer_list",
    "/proc/tty",
    "/proc/vmallocinfo",
];

/// Paths of sysfs that tell about, or reach, the whole machine.
pub(crate) const SYS_MASKED: &[&str] = &[
    "/sys/block",
    "/sys/bus",
    "/sys/dev",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs",
    "/sys/hypervisor",
    "/sys/kernel",
    "/sys/module",
    "/sys/power",
];

/// Mounts proc, sysfs, `/run` and `/tmp` below `root`.
///
/// proc shows the PID namespace, and sysfs the network namespace, of the calling process. Both are
/// read-only as a whole: with `ids = "host"` root inside owns the files of `/proc/sys`, and the
/// mount is what stops it.
pub(crate) fn mount_all(root: &Path, ids: IdRange) -> Result<(), Failed> {
    let read_only = LOCKED.union(MountAttrFlags::MOUNT_ATTR_RDONLY);
    new("proc", &[], &top(root, "proc")?, read_only)?;
    new("sysfs", &[], &top(root, "sys")?, read_only)?;
    let owner = ids.root().to_string();
    let owned = |mode| [("mode", mode), ("uid", owner.as_str()), ("gid", owner.as_str())];
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
    new("tmpfs", &owned("0755"), &top(root, "run")?, plain)?;
    new("tmpfs", &owned("1777"), &top(root, "tmp")?, plain)?;
    let lock = root.join("run/lock");
    fs::create_dir(&lock).step(|| "make /run/lock".into())?;
    std::os::unix::fs::chown(&lock, Some(ids.root()), Some(ids.root()))
        .step(|| "give /run/lock to root".into())
}

/// A directory of the root itself to mount on.
pub(crate) fn top(root: &Path, name: &str) -> Result<PathBuf, Failed> {
    top_level(root, name).step(|| format!("make /{name}"))
}

/// Mounts a new file system of `kind` at `place`, making the place where there is none.
pub(crate) fn new(
    kind: &str,
    options: &[(&str, &str)],
    place: &Path,
    attributes: MountAttrFlags,
) -> Result<(), Failed> {
    let step = || format!("mount {kind} at {}", place.display());
    if !place.is_dir() {
        fs::create_dir(place).step(step)?;
    }
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).step(step)?;
    for (name, value) in options {
        fsconfig_set_string(context.as_fd(), *name, *value).step(step)?;
    }
    fsconfig_create(context.as_fd()).step(step)?;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).step(step)?;
    attach(mount.as_fd(), place).step(step)
}

/// A tmpfs for a handful of directory entries of ours.
pub(crate) fn small_tmpfs(place: &Path, mode: &str) -> Result<(), Failed> {
    new("tmpfs", &[("mode", mode), ("size", "256k"), ("nr_inodes", "512")], place, LOCKED)
}

/// Makes the mount at `place` read-only.
pub(crate) fn read_only(place: &Path) -> Result<(), Failed> {
    let step = || format!("make {} read-only", place.display());
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(rustix::fs::CWD, place, flags).step(step)?;
    set_attributes(mount.as_fd(), false, attr::RDONLY, 0, None).step(step)
}
