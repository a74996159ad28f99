//! Making a portspace's view equal to one that is put together, mount by mount.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hyperspector_sys::mountinfo::Mounted;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount};

use super::stage::attach_over;
use crate::tree::{beneath, directory};

/// `MOVE_MOUNT_BENEATH` (include/uapi/linux/mount.h, Linux 6.5).
const BENEATH: MoveMountFlags = MoveMountFlags::from_bits_retain(0x200);

/// What is seen at a place.
#[derive(Debug, PartialEq, Eq)]
struct Seen<'a> {
    device: &'a str,
    root: &'a Path,
    kind: &'a str,
}

/// A place whose mounts differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// Where, from the top of the view.
    pub(super) place: PathBuf,
    /// How many mounts are to be taken away there; what is below them goes with them.
    old: usize,
    /// Whether something is to be mounted there; what is below it comes with it.
    pub(super) is_new: bool,
}

/// The places at which `actual` is not as `wanted`, each of them the uppermost that differs.
pub(super) fn differences(wanted: &[Mounted], actual: &[Mounted]) -> Vec<Difference> {
    let (wanted, there) = (seen(wanted), seen(actual));
    let mut differing: Vec<&Path> = wanted
        .keys()
        .chain(there.keys())
        .copied()
        .filter(|place| wanted.get(place) != there.get(place))
        .collect();
    differing.sort();
    differing.dedup();
    let mut found: Vec<Difference> = Vec::new();
    for place in differing {
        if found.iter().all(|above| !place.starts_with(&above.place)) {
            let old = actual.iter().filter(|mounted| mounted.place == place).count();
            let is_new = wanted.contains_key(place);
            found.push(Difference { place: place.to_owned(), old, is_new });
        }
    }
    found
}

/// As if all of `actual` differed from `wanted`.
pub(super) fn anew(wanted: &[Mounted], actual: &[Mounted]) -> Vec<Difference> {
    let is_top = |mounted: &&Mounted| mounted.place.as_os_str().is_empty();
    let old = actual.iter().filter(is_top).count();
    let is_new = wanted.iter().any(|mounted| is_top(&mounted));
    let top = Difference { place: PathBuf::new(), old, is_new };
    if old > 0 || is_new { vec![top] } else { Vec::new() }
}

/// What is seen at each place: of several mounts, the last.
fn seen(mounts: &[Mounted]) -> BTreeMap<&Path, Seen<'_>> {
    let seen = |one| {
        let Mounted { device, root, kind, .. }: &Mounted = one;
        Seen { device, root, kind }
    };
    mounts.iter().map(|mounted| (mounted.place.as_path(), seen(mounted))).collect()
}

/// Exchanges what is at `difference` in the view at `top` for `new`. `descriptors` is the calling
/// process's own `/proc/self/fd`.
pub(super) fn exchange(
    top: &Path,
    difference: &Difference,
    new: Option<OwnedFd>,
    descriptors: BorrowedFd<'_>,
) -> io::Result<()> {
    let open = || {
        let root = directory("/")?;
        beneath(root.as_fd(), &super::choice::joined(top, &difference.place))
    };
    let mut left = difference.old;
    if let (Some(new), 1) = (&new, left) {
        // Where the kernel can, the new one comes below the old one, so that nothing else shows
        // meanwhile.
        let old = open()?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
            | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH
            | BENEATH;
        match move_mount(new, "", &old, "", flags) {
            Ok(()) => return unmount(old.as_fd(), descriptors),
            Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    while left > 0 {
        unmount(open()?.as_fd(), descriptors)?;
        left -= 1;
    }
    match new {
        Some(new) => attach_over(new.as_fd(), open()?.as_fd()),
        None => Ok(()),
    }
}

/// Unmounts the mount whose root `mount` stands for, and what is below it. umount2(2) takes paths
/// alone, and a path through a server's files could lead elsewhere the next moment: this one leads
/// over our own descriptor.
fn unmount(mount: BorrowedFd<'_>, descriptors: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(descriptors)?;
    let unmounted = rustix::mount::unmount(mount.as_raw_fd().to_string(), UnmountFlags::DETACH);
    rustix::process::chdir("/")?;
    Ok(unmounted?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(place: &str, device: &str) -> Mounted {
        Mounted {
            id: 0,
            parent: 0,
            device: device.into(),
            root: "/".into(),
            place: place.into(),
            kind: "ext4".into(),
            options: String::new(),
        }
    }

    fn places(wanted: &[(&str, &str)], actual: &[(&str, &str)]) -> Vec<(String, usize, bool)> {
        let all = |list: &[(&str, &str)]| -> Vec<Mounted> {
            list.iter().map(|(place, device)| mounted(place, device)).collect()
        };
        let found = differences(&all(wanted), &all(actual));
        let text = |one: Difference| (one.place.display().to_string(), one.old, one.is_new);
        found.into_iter().map(text).collect()
    }

    #[test]
    fn what_is_alike_is_left_alone() {
        let both = [("", "8:1"), ("srv", "8:2")];
        assert_eq!(places(&both, &both), []);
        assert_eq!(places(&[], &[]), []);
    }

    #[test]
    fn only_the_uppermost_difference_counts() {
        let (old, new) = ([("", "8:1"), ("a", "8:2"), ("a/b", "8:3")], [("", "8:1"), ("a", "8:9")]);
        assert_eq!(places(&new, &old), [("a".into(), 1, true)]);
        assert_eq!(places(&new[..1], &old), [("a".into(), 1, false)]);
        assert_eq!(places(&old, &new[..1]), [("a".into(), 0, true)]);
        assert_eq!(places(&[], &old), [("".into(), 1, false)]);
        // A name that begins alike is another one.
        assert_eq!(places(&[("ab", "8:1")], &[("a", "8:1")]).len(), 2);
    }

    #[test]
    fn of_several_at_a_place_the_last_one_is_seen_and_all_go() {
        let hidden = [("", "8:1"), ("a", "8:2"), ("a", "0:5")];
        assert_eq!(places(&hidden, &[("", "8:1"), ("a", "0:5")]), []);
        assert_eq!(places(&[("", "8:1")], &hidden), [("a".into(), 2, false)]);
    }
}
