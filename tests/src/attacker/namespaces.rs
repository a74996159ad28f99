//! Making namespaces, joining others, and changing mounts.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::call::{NULL, bytes, c, open, own, sys};
use super::child::wait;
use super::{Attempt, Targets, Verdict};

const GROUP: &str = "namespaces";
const NEW: &str = "no new namespaces: seccomp";
const JOIN: &str = "no joining of other namespaces: seccomp, and no other process in sight";
const MOUNT: &str = "no changes to mounts: seccomp and no CAP_SYS_ADMIN";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new(GROUP, name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("unshare-user", NEW, |_| unshare(libc::CLONE_NEWUSER)),
    attempt("unshare-mount", NEW, |_| unshare(libc::CLONE_NEWNS)),
    attempt("unshare-pid", NEW, |_| unshare(libc::CLONE_NEWPID)),
    attempt("unshare-net", NEW, |_| unshare(libc::CLONE_NEWNET)),
    attempt("unshare-ipc", NEW, |_| unshare(libc::CLONE_NEWIPC)),
    attempt("unshare-uts", NEW, |_| unshare(libc::CLONE_NEWUTS)),
    attempt("unshare-cgroup", NEW, |_| unshare(libc::CLONE_NEWCGROUP)),
    attempt("unshare-time", NEW, |_| unshare(libc::CLONE_NEWTIME)),
    attempt("clone-user", NEW, |_| clone(libc::CLONE_NEWUSER)),
    attempt("clone-mount", NEW, |_| clone(libc::CLONE_NEWNS)),
    attempt("clone-pid", NEW, |_| clone(libc::CLONE_NEWPID)),
    attempt("clone-net", NEW, |_| clone(libc::CLONE_NEWNET)),
    attempt("clone-all", NEW, |_| {
        clone(libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET)
    }),
    attempt("clone3-user", NEW, |_| clone3(libc::CLONE_NEWUSER)),
    attempt("clone3-mount", NEW, |_| clone3(libc::CLONE_NEWNS)),
    attempt("clone3-net", NEW, |_| clone3(libc::CLONE_NEWNET)),
    attempt("clone3-time", NEW, |_| clone3(libc::CLONE_NEWTIME)),
    attempt("setns-proc", JOIN, |_| setns_everything()),
    attempt("setns-pidfd", JOIN, |_| setns_pidfd()),
    attempt("mount-tmpfs", MOUNT, |_| mount_tmpfs()),
    attempt("mount-proc", MOUNT, |_| mount_here(c"proc", 0)),
    attempt("mount-bind", MOUNT, |_| mount_here(c"/etc", libc::MS_BIND)),
    attempt("remount-writable", MOUNT, remount_writable),
    attempt("mount-setattr-writable", MOUNT, setattr_writable),
    attempt("umount-proc", MOUNT, |_| umount_proc()),
    attempt("umount-window", MOUNT, umount_window),
    attempt("pivot-root", MOUNT, |_| {
        // The paths are looked up after the permission check, so these can do no harm.
        Verdict::reached(sys!(libc::SYS_pivot_root, c"/hs-no-such-root", c"/hs-no-such-root"))
    }),
    attempt("chroot-escape", "nothing above the root: own mount namespace", |_| chroot_escape()),
    attempt("open-tree-clone", MOUNT, |_| {
        let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
        Verdict::of(own(sys!(libc::SYS_open_tree, libc::AT_FDCWD, c"/", flags)))
    }),
    attempt("fsopen", MOUNT, |_| Verdict::of(own(sys!(libc::SYS_fsopen, c"tmpfs", 0)))),
    attempt("fspick", MOUNT, |_| Verdict::of(own(sys!(libc::SYS_fspick, libc::AT_FDCWD, c"/", 0)))),
    attempt("move-mount", MOUNT, |_| {
        let here = libc::AT_FDCWD;
        let nowhere = c"/hs-no-such-mount";
        Verdict::reached(sys!(libc::SYS_move_mount, here, nowhere, here, nowhere, 0))
    }),
    attempt("uid-map-rewrite", "own ids are fixed: the map is written once", |_| map_rewrite()),
];

/// unshare(2), which tells nothing about `CLONE_NEWUSER` when more is asked for.
fn unshare(flag: i32) -> Verdict {
    Verdict::of_or(sys!(libc::SYS_unshare, flag), &[libc::ENOSPC, libc::EUSERS])
}

/// clone(2) as a fork with a new namespace.
fn clone(flag: i32) -> Verdict {
    ended(sys!(libc::SYS_clone, flag | libc::SIGCHLD, NULL, NULL, NULL, NULL))
}

fn clone3(flag: i32) -> Verdict {
    // struct clone_args, first version: flags, pidfd, child_tid, parent_tid, exit_signal, stack,
    // stack_size, tls.
    let flags = u64::from(flag.cast_unsigned());
    let args: [u64; 8] = [flags, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
    ended(sys!(libc::SYS_clone3, bytes(&args), size_of_val(&args)))
}

/// The child of a clone ends at once; the parent reaps it.
fn ended(result: io::Result<i64>) -> Verdict {
    match result {
        // SAFETY: this is the new child, which has nothing to clean up.
        Ok(0) => unsafe { libc::_exit(0) },
        Ok(child) => {
            let _ = wait(i32::try_from(child).unwrap_or(0), Duration::from_secs(1));
            Verdict::possible("a child in a new namespace")
        }
        Err(error) => Verdict::of_or::<()>(Err(error), &[libc::ENOSPC, libc::EUSERS]),
    }
}

/// Joins every namespace of every process that is not one of ours.
fn setns_everything() -> Verdict {
    let mut tried = 0;
    for pid in super::processes::visible() {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/ns")) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).ok();
            let (own_link, other) = (link("self"), link(&pid.to_string()));
            if other.is_none() || other == own_link {
                continue;
            }
            tried += 1;
            let result = open(&c(entry.path().as_os_str().as_encoded_bytes()), libc::O_RDONLY)
                .and_then(|fd| sys!(libc::SYS_setns, &fd, 0));
            if result.is_ok() {
                return Verdict::possible(format!("joined {name} of process {pid}"));
            }
        }
    }
    Verdict::refused(format!("{tried} foreign namespaces in sight, none could be joined"))
}

/// Joins the namespaces of process 1 through a pidfd, so without /proc.
fn setns_pidfd() -> Verdict {
    let flags = libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    Verdict::of(
        own(sys!(libc::SYS_pidfd_open, 1, 0)).and_then(|fd| sys!(libc::SYS_setns, &fd, flags)),
    )
}

/// Mounts over a directory of our own, and unmounts it again where that worked.
fn mount_here(source: &CStr, flags: u64) -> Verdict {
    mount(source, if flags == 0 { source } else { c"none" }, flags)
}

fn mount_tmpfs() -> Verdict {
    mount(c"tmpfs", c"tmpfs", 0)
}

fn mount(source: &CStr, kind: &CStr, flags: u64) -> Verdict {
    let place = format!("/tmp/hs-attack-mount-{}", std::process::id());
    if let Err(error) = fs::create_dir(&place) {
        return Verdict::error(format!("no place to mount on: {error}"));
    }
    let path = c(&place);
    let result = sys!(libc::SYS_mount, source, &path, kind, flags, NULL);
    if result.is_ok() {
        let _ = sys!(libc::SYS_umount2, &path, libc::MNT_DETACH);
    }
    let _ = fs::remove_dir(&place);
    Verdict::of(result)
}

fn remount_writable(targets: &Targets) -> Verdict {
    let flags = libc::MS_REMOUNT | libc::MS_BIND;
    Verdict::worst(targets.files.iter().map(|window| {
        let path = c(window.as_os_str().as_encoded_bytes());
        let result = sys!(libc::SYS_mount, NULL, &path, NULL, flags, NULL);
        Verdict::of(result).on(window.display())
    }))
}

fn setattr_writable(targets: &Targets) -> Verdict {
    let mut attributes: libc::mount_attr = super::call::zeroed();
    attributes.attr_clr = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV;
    let size = size_of::<libc::mount_attr>();
    Verdict::worst(targets.files.iter().map(|window| {
        let path = c(window.as_os_str().as_encoded_bytes());
        let value = bytes(&attributes);
        let result = sys!(libc::SYS_mount_setattr, libc::AT_FDCWD, &path, 0, value, size);
        Verdict::of(result).on(window.display())
    }))
}

/// Asks for /proc to be marked as expired, which is as far as unmounting can go without harm.
fn umount_proc() -> Verdict {
    let result = sys!(libc::SYS_umount2, c"/proc", libc::MNT_EXPIRE);
    let _ = fs::read("/proc/self/stat");
    Verdict::reached(result)
}

fn umount_window(targets: &Targets) -> Verdict {
    Verdict::worst(targets.files.iter().map(|window| {
        let path = c(window.as_os_str().as_encoded_bytes());
        let result = sys!(libc::SYS_umount2, &path, libc::MNT_DETACH);
        Verdict::of(result).on(window.display())
    }))
}

/// The classic: keep the working directory outside a deeper root, and climb.
fn chroot_escape() -> Verdict {
    let identity = |path: &str| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let before = identity("/");
    let place = format!("/tmp/hs-attack-root-{}", std::process::id());
    let _ = fs::create_dir(&place);
    let result = sys!(libc::SYS_chroot, &c(&place));
    if result.is_ok() {
        for _ in 0..64 {
            let _ = sys!(libc::SYS_chdir, c"..");
        }
        let _ = sys!(libc::SYS_chroot, c".");
    }
    let after = identity("/");
    let _ = fs::remove_dir(&place);
    match result {
        Err(error) => Verdict::of::<()>(Err(error)),
        Ok(_) if after != before => Verdict::possible("came out above the root"),
        Ok(_) => Verdict::refused("chroot works, and climbing ends at the portspace's own root"),
    }
}

fn map_rewrite() -> Verdict {
    Verdict::worst(
        ["/proc/self/uid_map", "/proc/1/uid_map"].map(|path| {
            Verdict::of_or(fs::write(path, "0 0 4294967295"), &[libc::EINVAL]).on(path)
        }),
    )
}
