//! Which mounts of a server make up its view. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hyperspector_sys::mountinfo::{self, Mounted};
use serde::{Deserialize, Serialize};

/// The most mounts of a server that are looked at for its view, in the order of its table.
pub const MOST_MOUNTS: usize = 1024;

/// A place in a file system: the same file, wherever that is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// The file system's device number, as the mount table has it.
    pub device: String,
    /// The path from the file system's own root.
    pub path: PathBuf,
}

impl Located {
    /// Where `path`, which has no links in it, is by the mount table `mounts`.
    pub fn find(path: &Path, mounts: impl Iterator<Item = Mounted>) -> Option<Self> {
        // The last one at a place covers the others.
        let on = mounts
            .filter(|mounted| path.starts_with(&mounted.place))
            .max_by_key(|mounted| mounted.place.components().count())?;
        let below = path.strip_prefix(&on.place).ok()?;
        Some(Self { device: on.device, path: joined(&on.root, below) })
    }
}

/// `below` under `above`; an empty path adds nothing, not even a slash.
pub(crate) fn joined(above: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { above.to_owned() } else { above.join(below) }
}

/// The mounts of a server's table by place, from the top of the tree that is shown; what is too much
/// is left out.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Below the top: relative paths, parents before children.
    pub(super) places: BTreeMap<PathBuf, Vec<Mounted>>,
    /// How many mounts were not looked at.
    pub(super) beyond: usize,
}

/// Sorts the table of a server whose tree is at `tree` in its root.
pub(super) fn candidates(tree: &Path, table: impl Iterator<Item = Mounted>) -> Candidates {
    let (mut found, mut taken) = (Candidates::default(), 0);
    for mounted in table {
        let Ok(below) = mounted.place.strip_prefix(tree) else { continue };
        if below.as_os_str().is_empty() {
            continue;
        }
        if taken == MOST_MOUNTS {
            found.beyond += 1;
            continue;
        }
        taken += 1;
        found.places.entry(below.to_owned()).or_default().push(mounted);
    }
    found
}

/// What the kernel puts after the path of a mount's root that has no name any more.
const UNNAMED: &[u8] = b"//deleted";

/// Whether what is mounted has no name any more: a mount table has no more of it than the last one,
/// which another file may have had too.
pub(super) fn is_unnamed(mounted: &Mounted) -> bool {
    mounted.root.as_os_str().as_bytes().ends_with(UNNAMED)
}

/// Mounts without a name: they can be attached nowhere by themselves, but come along with what they are
/// mounted on.
#[derive(Debug, Default)]
pub(super) struct Unnamed {
    /// Where they are, as the table has it.
    pub(super) places: BTreeSet<PathBuf>,
    /// The numbers of the mounts that they come along with.
    pub(super) holders: HashSet<u64>,
}

/// Those of a server's table; the first ones, where they are many.
pub(super) fn unnamed(table: &[Mounted]) -> Unnamed {
    let is_one = |one: &&Mounted| is_unnamed(one) && mountinfo::refused(&one.kind).is_none();
    let first = table.iter().filter(is_one).take(MOST_MOUNTS);
    let places: BTreeSet<PathBuf> = first.map(|one| one.place.clone()).collect();
    let by_id: HashMap<u64, &Mounted> = table.iter().map(|one| (one.id, one)).collect();
    let holder = |one| {
        // A table that the kernel has made has no loops; so many steps are enough for any.
        let above =
            std::iter::successors(Some(one), |one: &&Mounted| by_id.get(&one.parent).copied());
        above.take(table.len()).find(|one| !places.contains(&one.place)).map(|one| one.id)
    };
    let holders =
        table.iter().filter(|one| places.contains(&one.place)).filter_map(holder).collect();
    Unnamed { places, holders }
}

/// Whether two views, each by its mounts, show the same at every place: of several, the last counts.
pub(super) fn are_alike(one: &[Mounted], other: &[Mounted]) -> bool {
    fn seen(mounts: &[Mounted]) -> BTreeMap<&Path, (&str, &Path, &str)> {
        let seen = |one| {
            let Mounted { place, device, root, kind, .. }: &Mounted = one;
            (place.as_path(), (device.as_str(), root.as_path(), kind.as_str()))
        };
        mounts.iter().map(seen).collect()
    }
    seen(one) == seen(other)
}

/// What of a server's tree is HyperSpector's own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// All of the mount.
    All,
    /// These paths below it.
    Below(Vec<PathBuf>),
}

/// Which of `hidden` lies in the mount that shows `root` of the file system `device`.
pub(crate) fn own(device: &str, root: &Path, hidden: &[Located]) -> Own {
    let here = hidden.iter().filter(|one| one.device == device);
    if here.clone().any(|one| root.starts_with(&one.path)) {
        return Own::All;
    }
    Own::Below(
        here.filter_map(|one| one.path.strip_prefix(root).ok()).map(Path::to_owned).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperspector_sys::mountinfo::mounts;

    const TABLE: &[u8] = b"\
22 27 0:21 / /proc rw - proc proc rw
27 1 254:0 / / rw - ext4 /dev/vda rw
28 27 0:7 / /run rw - tmpfs tmpfs rw
29 27 254:1 /data /srv/my\\040data rw - xfs /dev/vdb rw
30 27 254:1 / /srv/my\\040data rw - xfs /dev/vdb rw
31 27 254:0 /var/lib /mnt rw - ext4 /dev/vda rw
";

    #[test]
    fn mounts_are_sorted_by_place_below_the_tree() {
        let found = candidates(Path::new("/"), mounts(TABLE));
        let places: Vec<_> = found.places.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(places, ["mnt", "proc", "run", "srv/my data"]);
        assert_eq!(found.places[Path::new("srv/my data")].len(), 2);
        let below = candidates(Path::new("/srv"), mounts(TABLE));
        assert_eq!(below.places.keys().collect::<Vec<_>>(), [Path::new("my data")]);
        assert!(candidates(Path::new("/sr"), mounts(TABLE)).places.is_empty());
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let lines: String =
            (0..MOST_MOUNTS + 5).map(|n| format!("{n} 1 0:{n} / /{n} rw - tmpfs t rw\n")).collect();
        let found = candidates(Path::new("/"), mounts(lines.as_bytes()));
        assert_eq!((found.places.len(), found.beyond), (MOST_MOUNTS, 5));
    }

    #[test]
    fn what_has_no_name_comes_along_with_what_it_is_on() {
        let lines = b"1 0 8:1 / / rw - ext4 x rw\n\
            2 1 8:2 / /a rw - ext4 x rw\n\
            3 2 8:1 /f//deleted /a/f rw - ext4 x rw\n\
            4 3 8:1 /g /a/f rw - ext4 x rw\n\
            5 1 8:1 /deleted /b rw - ext4 x rw\n\
            6 1 0:4 /1//deleted /p rw - proc x rw\n";
        let table: Vec<Mounted> = mounts(lines).collect();
        let found = unnamed(&table);
        assert_eq!(found.places, BTreeSet::from(["/a/f".into()]));
        assert_eq!(found.holders, HashSet::from([2]));
    }

    #[test]
    fn views_are_alike_where_the_same_is_seen() {
        let view = |lines: &[&str]| -> Vec<Mounted> {
            let table: String =
                (1..).zip(lines).map(|(n, line)| format!("{n} 0 {line}\n")).collect();
            mounts(table.as_bytes()).collect()
        };
        let (top, a) = ("8:1 / / ro - ext4 x rw", "8:2 / /a ro - ext4 x rw");
        let (other, below) = ("8:3 / /a ro - ext4 x rw", "8:2 / /a/b ro - ext4 x rw");
        let both = view(&[top, a]);
        assert!(are_alike(&both, &both) && are_alike(&[], &[]));
        assert!(are_alike(&both, &view(&[top, other, a])), "what is covered is not seen");
        for differing in [view(&[top]), view(&[top, other]), view(&[top, a, below]), Vec::new()] {
            assert!(!are_alike(&both, &differing) && !are_alike(&differing, &both));
        }
    }

    #[test]
    fn a_file_is_the_same_wherever_its_file_system_is_mounted() {
        let find = |path: &str| Located::find(Path::new(path), mounts(TABLE)).unwrap();
        assert_eq!(find("/mnt/hs"), find("/var/lib/hs"));
        assert_eq!(find("/srv/my data/a").path, Path::new("/a"));
        let hidden = [find("/var/lib/hs")];
        let below = |path: &str| Own::Below(vec![path.into()]);
        assert_eq!(own("254:0", Path::new("/"), &hidden), below("var/lib/hs"));
        assert_eq!(own("254:0", Path::new("/var"), &hidden), below("lib/hs"));
        assert_eq!(own("254:0", Path::new("/var/lib/hs/x"), &hidden), Own::All);
        assert_eq!(own("254:0", Path::new("/var/lib/hsx"), &hidden), Own::Below(vec![]));
        assert_eq!(own("254:1", Path::new("/"), &hidden), Own::Below(vec![]));
    }
}
