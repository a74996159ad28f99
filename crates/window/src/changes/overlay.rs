//! The layers of a server's overlay: those that we have made it of, or what the kernel says of a
//! container's.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::clone_tree;
use hyperspector_sys::mountinfo::Mounted;
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use serde::{Deserialize, Serialize};

/// What an overlay is made of, as the caller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Where the server sees it.
    pub place: PathBuf,
    /// The upper layer.
    pub upper: PathBuf,
    /// The layers below, the topmost first.
    pub below: Vec<PathBuf>,
    /// Whether directories may be renamed without being copied (redirect_dir).
    pub redirects: bool,
}

/// Layers that are open.
pub(super) struct Opened {
    /// The upper layer as a detached tree, and its root.
    pub(super) upper: OwnedFd,
    pub(super) root: OwnedFd,
    /// The layers below together, where they can be had.
    pub(super) below: Option<OwnedFd>,
}

/// The layers of an overlay that a container runtime has mounted: paths of the host.
pub(super) fn layers_of(mounted: &Mounted) -> Vec<Layers> {
    let mut upper = None;
    let (mut below, mut redirects) = (Vec::new(), false);
    for option in split(&mounted.options, ',') {
        match option.split_once('=') {
            Some(("upperdir", path)) => upper = Some(plain(path)),
            Some(("lowerdir", paths)) => {
                below.extend(split(paths, ':').iter().filter(|p| !p.is_empty()).map(|p| plain(p)));
            }
            Some(("lowerdir+", path)) => below.push(plain(path)),
            Some(("redirect_dir", how)) => redirects |= how == "on",
            Some(("metacopy", how)) => redirects |= how == "on",
            _ => {}
        }
    }
    let place = PathBuf::from("/");
    upper.map(|upper| Layers { place, upper, below, redirects }).into_iter().collect()
}

/// Parts at a separator that no backslash is before.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut escaped) = (vec![String::new()], false);
    for character in text.chars() {
        if character == separator && !escaped {
            parts.push(String::new());
            continue;
        }
        escaped = character == '\\' && !escaped;
        if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    parts
}

/// A path as it is, from how the mount table has it: octal escapes of the kernel, then overlayfs's own
/// backslashes.
fn plain(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    let mut path = Vec::new();
    let mut escaped = false;
    for byte in bytes {
        if byte == b'\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        path.push(byte);
    }
    super::mounts::path(&path)
}

/// Opens the layers.
pub(super) fn open(layers: &Layers) -> io::Result<Opened> {
    let upper = clone_tree(absolute(&layers.upper)?, false)?;
    let root = opened(&upper)?;
    Ok(Opened { upper, root, below: below(layers).ok() })
}

fn absolute(path: &Path) -> io::Result<&Path> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(io::Error::other(format!("{} is no path of the host", path.display())))
}

fn opened(tree: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(tree, ".", flags, Mode::empty())?)
}

/// The layers below as one tree: they do not change, so they can be mounted once more.
fn below(layers: &Layers) -> io::Result<OwnedFd> {
    let paths = layers
        .below
        .iter()
        .map(|path| match path.is_absolute() {
            true => fs::canonicalize(path),
            // Docker's are short names in a directory above, for the mount call's sake.
            false => {
                let above = layers.upper.ancestors().nth(2).unwrap_or(&layers.upper);
                fs::canonicalize(above.join(path))
            }
        })
        .collect::<io::Result<Vec<_>>>()?;
    match &paths[..] {
        [] => Err(io::ErrorKind::NotFound.into()),
        [one] => opened(&clone_tree(one, false)?),
        several => {
            let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
            let escaped = |path: &PathBuf| {
                String::from_utf8_lossy(path.as_os_str().as_bytes())
                    .replace('\\', "\\\\")
                    .replace(':', "\\:")
            };
            let joined: Vec<String> = several.iter().map(escaped).collect();
            fsconfig_set_string(context.as_fd(), "lowerdir", joined.join(":"))?;
            fsconfig_set_flag(context.as_fd(), "ro")?;
            fsconfig_create(context.as_fd())?;
            let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
                | MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV;
            opened(&fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_s_layers_are_read() {
        let options = r"rw,lowerdir=/d/l/A:/d/l/B\134:x,upperdir=/d/ID/my\040diff,workdir=/d/w,redirect_dir=on";
        let mounted = Mounted {
            id: 1,
            parent: 0,
            device: "0:50".into(),
            root: "/".into(),
            place: "/".into(),
            kind: "overlay".into(),
            options: options.into(),
        };
        let found = layers_of(&mounted).remove(0);
        assert_eq!(found.upper, Path::new("/d/ID/my diff"));
        assert_eq!(found.below, [Path::new("/d/l/A"), Path::new("/d/l/B"), Path::new("x")]);
        assert!(found.redirects);
    }
}
