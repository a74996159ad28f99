//! Where a portspace finds what changed on servers.
//!
//! ```text
//! /.dserverfs/NAME             the upper layer of the server's overlay, where it has one
//! /.dserverfs/NAME.journal/    the journal
//! /.dserverfs/NAME.deleted     → NAME.journal/deleted
//! ```
//!
//! All of it is attached from outside, by threads that enter the portspace's mount namespace, over the
//! directory [`PLACE`] that is there for it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{
    apart, attach_over, attr, clone_at, clone_tree, set_attributes, within,
};
use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::processes::procfs::{Stage, tmpfs};
use crate::processes::view::found;
use crate::swap::replace;

/// The directory of a portspace's root below which everything is.
pub const PLACE: &str = ".dserverfs";
/// The directory of a portspace's root that holds programs of ours.
pub const PROGRAMS: &str = ".hyperspector";

const LOCKED: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOATIME;

/// Lays out the window in the portspace whose mount namespace is `mounts`, with nothing in it.
pub fn lay_out(mounts: BorrowedFd<'_>, servers: &[String]) -> io::Result<()> {
    let skeleton = apart(|| skeleton(servers))??;
    within(mounts, || attach_over(skeleton.as_fd(), found(Path::new(PLACE))?.as_fd()))?
}

/// Shows the journal of `server` that is in `directory` of the caller's own tree.
pub fn show_journal(mounts: BorrowedFd<'_>, server: &str, directory: &Path) -> io::Result<()> {
    let tree = clone_tree(directory, false)?;
    set_attributes(tree.as_fd(), false, LOCKED | attr::NOEXEC, attr::ATIME_MASK, None)?;
    let place = Path::new(PLACE).join(format!("{server}.journal"));
    replace(mounts, &place, Some(tree.as_fd()))
}

/// Shows the upper layers of `server`, each a detached tree with its place in the server's tree, the
/// root's first. Those that are shown already stay as they are. `users` says how owners are shifted.
pub fn show_upper(
    mounts: BorrowedFd<'_>,
    server: &str,
    layers: &[(PathBuf, OwnedFd)],
    users: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut wanted = Vec::new();
    for (place, layer) in layers {
        wanted.push((place_of(server, place), identity(layer.as_fd())?));
    }
    if within(mounts, || wanted.iter().all(|(place, layer)| is_at(place, *layer)))? {
        return Ok(());
    }
    let mut trees = Vec::new();
    for (place, layer) in layers {
        let tree = clone_at(layer, false)?;
        let shift = users.map_or(0, |_| attr::IDMAP);
        let set = LOCKED | attr::NOEXEC | shift;
        set_attributes(tree.as_fd(), false, set, attr::ATIME_MASK, users)?;
        trees.push((place_of(server, place), tree));
    }
    let names: Vec<String> = layers.iter().map(|(place, _)| name_of(place)).collect();
    let skeleton = apart(|| {
        let stage = Stage::make()?;
        stage.attach(tmpfs("64k", &(8 + names.len()).to_string())?.as_fd(), "tree")?;
        let top = stage.path("tree");
        names.iter().try_for_each(|name| fs::create_dir(top.join(name)))?;
        locked(&top)
    })??;
    replace(mounts, &Path::new(PLACE).join(format!("{server}.layers")), Some(skeleton.as_fd()))?;
    trees.iter().try_for_each(|(place, tree)| replace(mounts, place, Some(tree.as_fd())))
}

/// Hides `paths` in the upper layer of `server`, those that are there and not hidden yet: the server may
/// have made them since. An empty directory `directory` and an empty file `file` are at `blank`.
/// Returns how many were hidden now.
pub fn hide(
    mounts: BorrowedFd<'_>,
    server: &str,
    paths: &[PathBuf],
    blank: &Path,
) -> io::Result<usize> {
    within(mounts, || {
        let top = Path::new(PLACE).join(server);
        let device = statx_device(found(&top)?.as_fd())?;
        let mut hidden = 0;
        for path in paths {
            let path = path.strip_prefix("/").unwrap_or(path);
            // A link on the way, which the server may have made, leads nowhere here.
            let Ok(target) = found(&top.join(path)) else { continue };
            if statx_device(target.as_fd())? != device {
                continue;
            }
            let is_directory = rustix::fs::fstat(&target)
                .map(|found| rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir())?;
            let name = if is_directory { "directory" } else { "file" };
            let cover = clone_at(found(&blank.join(name))?, false)?;
            let set = LOCKED | attr::NOEXEC;
            set_attributes(cover.as_fd(), false, set, attr::ATIME_MASK, None)?;
            attach_over(cover.as_fd(), target.as_fd())?;
            hidden += 1;
        }
        Ok(hidden)
    })?
}

fn statx_device(file: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    identity(file).map(|(major, minor, _)| (major, minor))
}

/// Where the upper layer of the overlay at `place` is shown.
fn place_of(server: &str, place: &Path) -> PathBuf {
    let below = Path::new(PLACE);
    match place.parent() {
        None => below.join(server),
        Some(_) => below.join(format!("{server}.layers")).join(name_of(place)),
    }
}

/// A path as a file's name: as the layers themselves are called.
fn name_of(place: &Path) -> String {
    place.to_string_lossy().replace('%', "%25").replace('/', "%2f")
}

/// Whether `place` shows this directory.
fn is_at(place: &Path, wanted: (u32, u32, u64)) -> bool {
    found(place).and_then(|there| identity(there.as_fd())).is_ok_and(|there| there == wanted)
}

/// Shows programs of the caller's own tree, each under its name.
pub fn show_programs(mounts: BorrowedFd<'_>, programs: &[(&str, PathBuf)]) -> io::Result<()> {
    let mut trees = Vec::new();
    for (name, path) in programs {
        let program = clone_tree(fs::canonicalize(path)?, false)?;
        set_attributes(program.as_fd(), false, LOCKED, attr::ATIME_MASK, None)?;
        trees.push((*name, program));
    }
    let skeleton = apart(|| {
        let stage = Stage::make()?;
        stage.attach(tmpfs("16k", "8")?.as_fd(), "tree")?;
        let top = stage.path("tree");
        programs.iter().try_for_each(|(name, _)| fs::write(top.join(name), ""))?;
        locked(&top)
    })??;
    within(mounts, || {
        attach_over(skeleton.as_fd(), found(Path::new(PROGRAMS))?.as_fd())?;
        trees.iter().try_for_each(|(name, program)| {
            attach_over(program.as_fd(), found(&Path::new(PROGRAMS).join(name))?.as_fd())
        })
    })?
}

fn skeleton(servers: &[String]) -> io::Result<OwnedFd> {
    let stage = Stage::make()?;
    stage.attach(tmpfs("256k", &(16 + servers.len() * 5).to_string())?.as_fd(), "tree")?;
    let top = stage.path("tree");
    for server in servers {
        let journal = format!("{server}.journal");
        fs::create_dir(top.join(server))?;
        fs::create_dir(top.join(&journal))?;
        fs::create_dir(top.join(format!("{server}.layers")))?;
        symlink(format!("{journal}/deleted"), top.join(format!("{server}.deleted")))?;
    }
    locked(&top)
}

fn locked(top: &Path) -> io::Result<OwnedFd> {
    let tree = clone_tree(top, false)?;
    set_attributes(tree.as_fd(), false, LOCKED, attr::ATIME_MASK, None)?;
    Ok(tree)
}

/// Which directory it is.
fn identity(directory: BorrowedFd<'_>) -> io::Result<(u32, u32, u64)> {
    let found = statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    Ok((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
}
