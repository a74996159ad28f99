//! The space's own root: an overlay of a layer of its own over a tree of the host (overlayfs).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{attr, clone_tree};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::pseudo::small_tmpfs;
use super::tree::Tree;
use super::{Failed, Step, attach, attach_over, mask};
use crate::config::RootConfig;

/// File systems that parts of an installed system are on, and that overlayfs takes as lower layers.
const ON_DISK: &[&str] =
    &["btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "squashfs", "vfat", "xfs", "zfs"];

/// Puts the root together below `staging` and returns where it is.
///
/// Real file systems that the lower tree has mounted on it (`/var` on a disk of its own) each get an
/// overlay too, with layers of their own.
pub(crate) fn assemble(
    staging: &Path,
    config: &RootConfig,
    lower: Tree,
) -> Result<PathBuf, Failed> {
    small_tmpfs(staging, "0700")?;
    let (below, layers, root) =
        (staging.join("lower"), staging.join("layers"), staging.join("root"));
    for place in [&below, &layers, &root] {
        fs::create_dir(place).step(|| format!("make {}", place.display()))?;
    }
    lower.attach(&below, attr::NOSUID | attr::NODEV)?;
    let own =
        clone_tree(&config.layers, false).step(|| format!("clone {}", config.layers.display()))?;
    attach(own.as_fd(), &layers).step(|| "attach the layers".into())?;

    let whole = overlay(&below, &layers.join("upper"), &layers.join("work"))?;
    attach(whole.as_fd(), &root).step(|| "attach the root".into())?;
    for (place, kind) in lower.places() {
        // tmpfs below the root is the running system's state (/run, /tmp): not part of an image.
        if !ON_DISK.contains(&kind) {
            continue;
        }
        let source = below.join(place);
        let name = place.to_string_lossy().replace('%', "%25").replace('/', "%2f");
        let (upper, work) =
            (layers.join(format!("upper.{name}")), layers.join(format!("work.{name}")));
        like(&source, &upper)?;
        let _ = fs::create_dir(&work);
        let step = || format!("make /{}", place.display());
        let target = mask::place(&root, &Path::new("/").join(place), true).step(step)?;
        overlay(&source, &upper, &work)
            .and_then(|mount| attach_over(mount.as_fd(), target.as_fd()).step(step))?;
    }
    Ok(root)
}

/// An overlay, mounted nowhere yet.
fn overlay(lower: &Path, upper: &Path, work: &Path) -> Result<OwnedFd, Failed> {
    let step = || format!("overlay {} over {}", upper.display(), lower.display());
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).step(step)?;
    let options = [("lowerdir", lower), ("upperdir", upper), ("workdir", work)];
    for (name, path) in options {
        fsconfig_set_string(context.as_fd(), name, escaped(path)).step(step)?;
    }
    for (name, value) in [("metacopy", "off"), ("redirect_dir", "off"), ("index", "off")] {
        fsconfig_set_string(context.as_fd(), name, value).step(step)?;
    }
    fsconfig_create(context.as_fd()).step(step)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).step(step)
}

/// overlayfs reads `:` and `\` in layer paths.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}

/// Makes the directory `path` with the owner and mode of `model`, unless it is there.
pub(crate) fn like(model: &Path, path: &Path) -> Result<(), Failed> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let step = || format!("make {}", path.display());
    if path.is_dir() {
        return Ok(());
    }
    let found = fs::metadata(model).step(step)?;
    fs::create_dir(path).step(step)?;
    chown(path, Some(found.uid()), Some(found.gid())).step(step)?;
    fs::set_permissions(path, fs::Permissions::from_mode(found.mode() & 0o7777)).step(step)
}
