//! The list of what changed in a server's tree since a mark, from all that tells of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, StatxFlags, statx};

use crate::mark::Seen;
use crate::reader::{Answer, Journal};
use crate::record::{Kinds, Subject};
use crate::upper::Snapshot;
use crate::walk;

/// Where the windows on a server are in a portspace.
#[derive(Clone, Debug)]
pub struct Windows {
    /// Its tree.
    pub files: PathBuf,
    /// The upper layer alone.
    pub upper: PathBuf,
    /// The upper layers of overlays further down in the tree, each by its path.
    pub layers: PathBuf,
    /// What is in the tree below the layer and does not show.
    pub deleted: PathBuf,
    /// The journal.
    pub journal: PathBuf,
}

impl Windows {
    /// Those of the server `name`, below `root`.
    pub fn of(root: &Path, name: &str) -> Self {
        let changes = root.join(".dserverfs");
        Self {
            files: root.join(".serverfs").join(name),
            upper: changes.join(name),
            layers: changes.join(format!("{name}.layers")),
            deleted: changes.join(format!("{name}.deleted")),
            journal: changes.join(format!("{name}.journal")),
        }
    }
}

/// A path that changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// How.
    pub kinds: Kinds,
    /// Whether everything below it is to be looked at too.
    pub is_tree: bool,
}

/// The list.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Why it is not known what changed, where it is not: everything is to be scanned.
    pub all: Option<String>,
    /// What changed, by path.
    pub changes: BTreeMap<Vec<u8>, Change>,
}

/// Reads the list, and what a reader is to remember once it has scanned what is on it.
///
/// # Errors
/// Where there is no window on the server's changes, or it cannot be read. What the windows themselves
/// do not know is no error: the answer is to scan all.
pub fn read(windows: &Windows, seen: Option<&Seen>) -> io::Result<(List, Seen)> {
    let (has_journal, has_upper) = (windows.journal.is_dir(), is_shown(&windows.upper));
    if !has_journal && !has_upper {
        let text = format!("{} is not there", windows.journal.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let mut list = List::default();
    let mut now = Seen::default();
    if has_journal {
        now.journal = list.take_journal(windows, seen)?;
    }
    if has_upper {
        now.upper = list.take_upper(windows, seen)?;
    } else if seen.is_some_and(|seen| seen.upper.is_some()) {
        list.scan_all("the server's upper layer is not there");
    }
    list.take_whole_tree();
    Ok((list, now))
}

/// Whether a layer is shown at `place`, and not the empty directory that is there for it.
fn is_shown(place: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    let around = place.parent().and_then(device);
    place.is_dir() && (device(place) != around || place.is_symlink())
}

/// The paths at which overlays further down are, with their layers.
fn layers(windows: &Windows) -> io::Result<Vec<(Vec<u8>, PathBuf)>> {
    let mut all = vec![(b"/".to_vec(), windows.upper.clone())];
    let entries = match std::fs::read_dir(&windows.layers) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = name.replace("%2f", "/").replace("%25", "%").into_bytes();
        if path.starts_with(b"/") && path != b"/" {
            all.push((path, entry.path()));
        }
    }
    Ok(all)
}

impl List {
    fn take_journal(
        &mut self,
        windows: &Windows,
        seen: Option<&Seen>,
    ) -> io::Result<Option<crate::mark::Mark>> {
        let journal = match Journal::read(&windows.journal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.scan_all("the journal has not begun yet");
                return Ok(None);
            }
            other => other?,
        };
        match journal.since(seen.and_then(|seen| seen.journal.as_ref())) {
            Answer::All(reason) => self.scan_all(&reason),
            Answer::Changed(changed) => self.take_changed(changed, windows)?,
        }
        Ok(Some(journal.mark()))
    }

    fn take_changed(
        &mut self,
        changed: Vec<(Subject, Kinds)>,
        windows: &Windows,
    ) -> io::Result<()> {
        let mut inodes = HashMap::new();
        for (subject, kinds) in changed {
            match subject {
                Subject::Path(path) => self.put(path, kinds, false),
                Subject::Tree(path) => self.put(path, kinds, true),
                Subject::Inode { major, minor, number } => {
                    inodes.insert((major, minor, number), kinds);
                }
            }
        }
        if inodes.is_empty() {
            return Ok(());
        }
        if !windows.files.is_dir() {
            self.scan_all(&format!(
                "a file with several names changed, and they cannot be looked for without {}",
                windows.files.display()
            ));
            return Ok(());
        }
        if let Err(error) = self.take_names(&windows.files, &inodes) {
            self.scan_all(&format!("a file with several names cannot be looked for: {error}"));
        }
        Ok(())
    }

    /// Adds all names of `inodes`, by looking through the whole tree once.
    fn take_names(
        &mut self,
        files: &Path,
        inodes: &HashMap<(u32, u32, u64), Kinds>,
    ) -> io::Result<()> {
        let numbers: HashSet<u64> = inodes.keys().map(|(_, _, number)| *number).collect();
        let unread = walk::walk(files, b"/", |found| {
            if found.kind == FileType::Directory || !numbers.contains(&found.inode) {
                return Ok(());
            }
            let wanted = StatxFlags::INO;
            let Ok(now) = statx(found.directory, found.name, AtFlags::SYMLINK_NOFOLLOW, wanted)
            else {
                return Ok(());
            };
            let key = (now.stx_dev_major, now.stx_dev_minor, now.stx_ino);
            if let Some(kinds) = inodes.get(&key) {
                self.put(found.path.clone(), *kinds, false);
            }
            Ok(())
        })?;
        for path in unread {
            self.put(path, Kinds::default(), true);
        }
        Ok(())
    }

    fn take_upper(
        &mut self,
        windows: &Windows,
        seen: Option<&Seen>,
    ) -> io::Result<Option<Snapshot>> {
        let now = match Snapshot::take(&layers(windows)?, Some(&windows.deleted)) {
            Ok(now) => now,
            Err(error) => {
                self.scan_all(&format!("the upper layer cannot be compared: {error}"));
                return Ok(None);
            }
        };
        match seen.and_then(|seen| seen.upper.as_ref()) {
            None => self.scan_all("no scan has been completed yet"),
            Some(before) => {
                // Only where the overlay may take up a directory by its old name.
                let redirects = windows.journal.join(REDIRECTS).exists();
                for change in now.since(before) {
                    self.put(change.path, change.kinds, redirects && change.is_new_directory);
                }
                for path in now.unread() {
                    self.put(path.clone(), Kinds::default(), true);
                }
            }
        }
        Ok(Some(now))
    }

    fn put(&mut self, path: Vec<u8>, kinds: Kinds, is_tree: bool) {
        let change = self.changes.entry(path).or_default();
        change.kinds |= kinds;
        change.is_tree |= is_tree;
    }

    fn scan_all(&mut self, reason: &str) {
        self.all.get_or_insert_with(|| reason.to_owned());
    }

    /// A list that names the whole tree names nothing.
    fn take_whole_tree(&mut self) {
        if self.changes.get(&b"/"[..]).is_some_and(|change| change.is_tree) {
            self.scan_all("the whole tree may have changed");
        }
        if self.all.is_some() {
            self.changes.clear();
        }
    }
}

/// A file in the journal that says that the server's overlay may have renamed directories without copying
/// what is in them (redirect_dir).
pub const REDIRECTS: &str = "redirects";

impl List {
    /// The files that are there now: every path on the list that is no directory, and what is below
    /// those that stand for all that is below them.
    pub fn files(&self, windows: &Windows) -> io::Result<Vec<Vec<u8>>> {
        let mut files = std::collections::BTreeSet::new();
        for (path, change) in &self.changes {
            if change.is_tree {
                walk::walk(&windows.files, path, |found| {
                    if found.kind != FileType::Directory {
                        files.insert(found.path.clone());
                    }
                    Ok(())
                })?;
            }
            if is_file(&windows.files, path) {
                files.insert(path.clone());
            }
        }
        Ok(files.into_iter().collect())
    }
}

fn is_file(root: &Path, path: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let below = Path::new(std::ffi::OsStr::from_bytes(walk::relative(path)));
    std::fs::symlink_metadata(root.join(below)).is_ok_and(|found| !found.is_dir())
}
