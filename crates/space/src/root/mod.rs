//! What a space sees as its file system.
//!
//! The builder does all of this as root of the host, in a mount namespace of its own that belongs
//! to the initial user namespace, and in the PID and network namespaces of the space. Nobody inside
//! has any power over that mount namespace afterwards.

mod devices;
mod mask;
mod mounts;
mod overlay;
mod pseudo;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{attach_over, attr, clone_tree, set_attributes};
use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, UnmountFlags, move_mount};

use crate::config::{Bind, IdRange, Places, SpaceConfig};

pub use mask::BLANK;

/// A step that failed, with its object.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct Failed {
    /// What was being done, with its object.
    pub step: String,
    /// Why it failed.
    #[source]
    pub cause: io::Error,
}

/// Names a step in its error.
pub(crate) trait Step<T> {
    /// Gives an error the name of the step.
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Failed>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Failed> {
        self.map_err(|cause| Failed { step: step(), cause: cause.into() })
    }
}

/// What was shown in each mount, by its path: the file systems by their place.
pub type Shown = BTreeMap<String, Vec<String>>;

/// The directories of a space's root below which windows are attached from outside.
pub const WINDOWS: [&str; 5] =
    [VIEWS, ".dserverfs", ".serverproc", ".servertrace", ".hyperspector"];

/// The one for file windows.
pub const VIEWS: &str = ".serverfs";

/// Builds the root of the space described by `config` and makes it this process's root.
///
/// The calling process must be alone in a fresh mount namespace and the first process of its PID
/// namespace. `users` is the space's user namespace.
pub fn build(config: &SpaceConfig, users: BorrowedFd<'_>) -> Result<Shown, Failed> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).step(|| "make the mounts private".into())?;

    let shift = Shift::new(config.ids, users);
    // Everything that is taken from the host is cloned before the root is put together, so that
    // nothing of the root can show up in it.
    let lower = tree::whole(&config.root.lower, &shift)?;
    let lower_source = lower.source.clone();
    let mounts = config
        .mounts
        .iter()
        .map(|bind| mounts::clone(bind, &shift, &config.hide).map(|tree| (bind, tree)))
        .collect::<Result<Vec<_>, _>>()?;
    let bind = |bind| shift.bind(bind).map(|tree| (bind, tree));
    let files = config.root.files.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    let sockets = config.sockets.iter().map(socket).collect::<Result<Vec<_>, _>>()?;

    let root = overlay::assemble(&config.staging, &config.root, lower)?;
    pseudo::mount_all(&root, config.ids)?;
    let hidden = mask::Blank::at(&root);
    devices::populate(&root, config.ids)?;
    for path in &config.keep {
        mask::place(&root, path, true).step(|| format!("make {}", path.display()))?;
    }
    let masks = mask::above(&root, &config.mask, &config.mounts)?;
    let mut shown = Shown::new();
    for (bind, tree) in &mounts {
        mounts::attach(&root, bind, tree)?;
        shown.insert(bind.to.display().to_string(), tree.describe());
    }
    for (bind, tree) in files.iter().chain(&sockets) {
        attach_bind(&root, bind, tree)?;
    }
    for place in masks.iter().chain([&root.join("dev")]) {
        pseudo::read_only(place)?;
    }
    for (bind, tree) in &mounts {
        let step = || format!("find {}", bind.to.display());
        let place = mask::found(&root, &bind.to).step(step)?;
        let place = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
        hide_own(&hidden, &place, &tree.source, config)?;
    }
    hide_own(&hidden, &root, &lower_source, config)?;
    hidden.hide(&root, &mask::not_above(&config.mask, &config.mounts))?;

    if let Some(places) = &config.windows {
        windows(&root, places)?;
    }
    hidden.hide(&root, &pseudo::proc_masked(&root)?)?;
    enter(&root)?;
    Ok(shown)
}

/// Makes the places that windows are attached to.
fn windows(root: &Path, places: &Places) -> Result<(), Failed> {
    for name in WINDOWS {
        let place = pseudo::top(root, name)?;
        pseudo::small_tmpfs(&place, "0755")?;
        for view in places.views.iter().filter(|_| name == VIEWS) {
            fs::create_dir(place.join(view)).step(|| format!("make the place of view {view}"))?;
        }
        pseudo::read_only(&place)?;
    }
    Ok(())
}

/// Hides HyperSpector's own directories in what is shown of `source` at `place`.
fn hide_own(
    hidden: &mask::Blank,
    place: &Path,
    source: &Path,
    config: &SpaceConfig,
) -> Result<(), Failed> {
    if let Some(own) = config.hide.iter().find(|own| source.starts_with(own)) {
        let text = format!("it is in {}, which is HyperSpector's own", own.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
            .step(|| format!("show {}", source.display()));
    }
    hidden.hide(place, &inside(source, &config.hide))
}

/// The paths of the host that lie in the tree `source`, as seen from its root.
fn inside(source: &Path, paths: &[PathBuf]) -> Vec<PathBuf> {
    paths
        .iter()
        .filter_map(|path| path.strip_prefix(source).ok())
        .map(|below| Path::new("/").join(below))
        .collect()
}

/// How owners of the host's files are shown inside.
pub(crate) struct Shift<'a> {
    users: Option<BorrowedFd<'a>>,
}

impl<'a> Shift<'a> {
    fn new(ids: IdRange, users: BorrowedFd<'a>) -> Self {
        Self { users: matches!(ids, IdRange::Private { .. }).then_some(users) }
    }

    /// Sets `set` on a detached mount, and shifts its owners.
    fn apply(&self, mount: BorrowedFd<'_>, set: u64) -> io::Result<()> {
        match self.users {
            Some(users) => set_attributes(mount, false, set | attr::IDMAP, 0, Some(users)),
            None => set_attributes(mount, false, set, 0, None),
        }
    }

    /// A detached read-only clone of a file of the host.
    fn bind(&self, bind: &Bind) -> Result<OwnedFd, Failed> {
        let name = || format!("mount {} read-only", bind.from.display());
        let tree = clone_tree(&bind.from, false).step(name)?;
        let set = attr::RDONLY | attr::NOSUID | attr::NODEV;
        self.apply(tree.as_fd(), set)
            .map_err(|cause| tree::explain_at(cause, &bind.from))
            .step(name)?;
        Ok(tree)
    }
}

/// A detached clone of a Unix socket of the host. Its owner is nobody inside; its mode counts.
fn socket(bind: &Bind) -> Result<(&Bind, OwnedFd), Failed> {
    let step = || format!("offer the socket {}", bind.from.display());
    let is_socket = fs::symlink_metadata(&bind.from).step(step)?.file_type().is_socket();
    if !is_socket {
        return Err(io::Error::other("it is no socket")).step(step);
    }
    let tree = clone_tree(&bind.from, false).step(step)?;
    let set = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
    set_attributes(tree.as_fd(), false, set, 0, None).step(step)?;
    Ok((bind, tree))
}

/// Attaches the detached mount `tree` at `place`.
pub(crate) fn attach(tree: BorrowedFd<'_>, place: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Attaches a bind at its place in the root, making the place where there is none.
fn attach_bind(root: &Path, bind: &Bind, tree: &OwnedFd) -> Result<(), Failed> {
    let step = || format!("mount {} at {}", bind.from.display(), bind.to.display());
    let is_dir = fs::metadata(&bind.from).step(step)?.is_dir();
    let place = mask::place(root, &bind.to, is_dir).step(step)?;
    attach_over(tree.as_fd(), place.as_fd()).step(step)
}

/// Makes `root` this process's root and lets go of the old one (pivot_root(2), the "." form).
fn enter(root: &Path) -> Result<(), Failed> {
    let step = || "enter the root".to_owned();
    rustix::process::chdir(root).step(step)?;
    rustix::process::pivot_root(".", ".").step(step)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step(step)?;
    rustix::process::chdir("/").step(step)
}
