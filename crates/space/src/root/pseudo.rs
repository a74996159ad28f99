//! The file systems without files: proc, sysfs, and the tmpfs that hold a space's run-time state.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{attr, clone_tree, set_attributes};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};

use super::mask::{Blank, top_level};
use super::{Failed, Step, attach};
use crate::config::IdRange;

const LOCKED: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// What of proc's top level is shown, beside processes: what programs ask about the machine. All
/// else tells about, or reaches, more than that, and some of it acts when it is read.
const PROC_SHOWN: &[&str] = &[
    "cgroups",
    "cmdline",
    "cpuinfo",
    "devices",
    "filesystems",
    "loadavg",
    "meminfo",
    "mounts",
    "net",
    "pressure",
    "self",
    "stat",
    "swaps",
    "sys",
    "thread-self",
    "uptime",
    "version",
    "vmstat",
];

/// What of `/proc/sys` acts when it is read, or is root's.
const SYSCTLS_MASKED: &[&str] =
    &["/proc/sys/fs/binfmt_misc", "/proc/sys/kernel/usermodehelper", "/proc/sys/vm/stat_refresh"];

/// What of sysfs is shown: the interfaces of the space's own network namespace, and processors.
const SYS_SHOWN: &[&str] =
    &["class/net", "devices/virtual/net", "devices/system/cpu", "devices/system/node"];

/// The most that `/run`, and each of `/tmp` and `/dev/shm`, take.
const RUN_SIZE: &str = "64m";
/// See [`RUN_SIZE`].
pub(crate) const TMP_SIZE: &str = "512m";

/// Mounts proc, sysfs, `/run` and `/tmp` below `root`.
///
/// proc shows the PID namespace, and sysfs the network namespace, of the calling process. Both are
/// read-only as a whole: with `ids = "host"` root inside owns the files of `/proc/sys`, and the
/// mount is what stops it.
pub(crate) fn mount_all(root: &Path, ids: IdRange) -> Result<(), Failed> {
    let read_only = LOCKED.union(MountAttrFlags::MOUNT_ATTR_RDONLY);
    new("proc", &[], &top(root, "proc")?, read_only)?;
    sys(root)?;
    let owner = ids.root().to_string();
    let owned = |mode, size| {
        [("mode", mode), ("size", size), ("uid", owner.as_str()), ("gid", owner.as_str())]
    };
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
    new("tmpfs", &owned("0755", RUN_SIZE), &top(root, "run")?, plain)?;
    new("tmpfs", &owned("1777", TMP_SIZE), &top(root, "tmp")?, plain)?;
    let lock = root.join("run/lock");
    fs::create_dir(&lock).step(|| "make /run/lock".into())?;
    std::os::unix::fs::chown(&lock, Some(ids.root()), Some(ids.root()))
        .step(|| "give /run/lock to root".into())
}

/// Makes `/sys` of the parts that are shown, read-only. Reading a file of sysfs can make a device.
fn sys(root: &Path) -> Result<(), Failed> {
    let whole = root.with_file_name("sysfs");
    new("sysfs", &[], &whole, LOCKED)?;
    let place = top(root, "sys")?;
    small_tmpfs(&place, "0755")?;
    for shown in SYS_SHOWN {
        let step = || format!("show /sys/{shown}");
        let (from, to) = (whole.join(shown), place.join(shown));
        if !from.is_dir() {
            continue;
        }
        fs::create_dir_all(&to).step(step)?;
        let part = clone_tree(&from, false).step(step)?;
        set_attributes(part.as_fd(), false, attr::RDONLY, 0, None).step(step)?;
        attach(part.as_fd(), &to).step(step)?;
    }
    Blank::prepare(root)?;
    read_only(&place)
}

/// The paths of proc that are hidden, as they are there now.
pub(crate) fn proc_masked(root: &Path) -> Result<Vec<PathBuf>, Failed> {
    let step = || "list proc".to_owned();
    let mut masked: Vec<PathBuf> = SYSCTLS_MASKED.iter().map(PathBuf::from).collect();
    for entry in fs::read_dir(root.join("proc")).step(step)? {
        let name = entry.step(step)?.file_name();
        let name = name.to_string_lossy();
        let is_process = name.bytes().all(|byte| byte.is_ascii_digit());
        if !is_process && !PROC_SHOWN.contains(&name.as_ref()) {
            masked.push(Path::new("/proc").join(name.as_ref()));
        }
    }
    Ok(masked)
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
