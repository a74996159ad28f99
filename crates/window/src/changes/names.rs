//! From events to what a journal records.

use std::collections::{HashMap, HashSet};
use std::io;

use hyperspector_changes::record::{Kinds, Subject};
use libc as l;
use rustix::fs::{AtFlags, StatxFlags, statx};

use super::fanotify::Event;
use super::handle::{Handle, is_gone};
use super::places::{Places, Role, join};

/// What changed and is not in the journal yet, in order.
#[derive(Debug, Default)]
pub(super) struct Pending {
    order: Vec<(Subject, Kinds)>,
    at: HashMap<Subject, usize>,
    /// Files whose names were counted since the journal was written last.
    counted: HashSet<(u64, Handle)>,
    /// Whether something changed in an upper layer.
    pub(super) is_upper_changed: bool,
}

impl Pending {
    fn put(&mut self, subject: Subject, kinds: Kinds) {
        match self.at.get(&subject) {
            Some(at) => self.order[*at].1 |= kinds,
            None => {
                self.at.insert(subject.clone(), self.order.len());
                self.order.push((subject, kinds));
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Takes what there is.
    pub(super) fn take(&mut self) -> Vec<(Subject, Kinds)> {
        self.at.clear();
        self.counted.clear();
        std::mem::take(&mut self.order)
    }

    /// Takes in one event.
    ///
    /// # Errors
    /// Where it cannot be told what it means, other than that files are gone.
    pub(super) fn add(&mut self, event: &Event, places: &mut Places) -> io::Result<()> {
        let kinds = kinds(event);
        let is_directory = event.is_any(l::FAN_ONDIR);
        if is_directory && event.is_any(l::FAN_MOVED_FROM | l::FAN_MOVED_TO | l::FAN_DELETE) {
            places.forget();
        }
        if let Some((directory, name)) = &event.place {
            for at in places.directory(event.fsid, directory)?.iter() {
                if at.role == Role::Upper {
                    self.is_upper_changed = true;
                    continue;
                }
                if at.is_above {
                    self.put(Subject::Tree(at.path.clone()), kinds);
                    continue;
                }
                let path = join(&at.path, name);
                if places.is_hidden(&path) {
                    continue;
                }
                if is_directory && is_other(event) {
                    self.put(Subject::Tree(path.clone()), kinds);
                }
                self.put(Subject::Path(path), kinds);
            }
        }
        match &event.target {
            Some(target) if !is_directory => self.add_target(event, target, kinds, places),
            _ => Ok(()),
        }
    }

    /// Takes in what an event says of a file, whatever it is called.
    fn add_target(
        &mut self,
        event: &Event,
        target: &Handle,
        kinds: Kinds,
        places: &mut Places,
    ) -> io::Result<()> {
        let single: Vec<Vec<u8>> = places.files(event.fsid, target).map(<[u8]>::to_vec).collect();
        for path in single {
            self.put(Subject::Path(path), kinds);
        }
        // One without a name tells that the number of names has changed.
        let is_count = event.place.is_none();
        if !(is_count || event.is_any(CONTENT)) {
            return Ok(());
        }
        let key = (event.fsid, target.clone());
        if !is_count && !self.counted.insert(key) {
            return Ok(());
        }
        let Some(tree) = places.any_tree(event.fsid) else { return Ok(()) };
        let file = match target.open(&tree.root) {
            Err(error) if is_gone(&error) => return Ok(()),
            other => other?,
        };
        let wanted = StatxFlags::NLINK | StatxFlags::INO;
        let found = statx(&file, "", AtFlags::EMPTY_PATH, wanted)?;
        match found.stx_nlink {
            0 => return Ok(()),
            1 if !is_count => return Ok(()),
            1 => {
                let names = places.only_name(event.fsid, target, found.stx_ino);
                let is_known = !names.is_empty();
                for path in names.into_iter().filter(|path| !places.is_hidden(path)) {
                    self.put(Subject::Path(path), kinds);
                }
                if is_known {
                    return Ok(());
                }
            }
            _ => {}
        }
        let (major, minor, number) = (found.stx_dev_major, found.stx_dev_minor, found.stx_ino);
        self.put(Subject::Inode { major, minor, number }, kinds);
        Ok(())
    }
}

/// Events after which a file is another one under each of its names.
const CONTENT: u64 = l::FAN_MODIFY | l::FAN_CLOSE_WRITE | l::FAN_ATTRIB;

/// Whether what is below a directory's path is something else now.
fn is_other(event: &Event) -> bool {
    event.is_any(l::FAN_MOVED_FROM | l::FAN_MOVED_TO | l::FAN_DELETE)
}

fn kinds(event: &Event) -> Kinds {
    let named = [
        (l::FAN_CREATE, Kinds::CREATED),
        (l::FAN_MODIFY | l::FAN_CLOSE_WRITE, Kinds::MODIFIED),
        (l::FAN_ATTRIB, Kinds::ATTRIBUTES),
        (l::FAN_MOVED_FROM | l::FAN_MOVED_TO, Kinds::MOVED),
        (l::FAN_DELETE, Kinds::DELETED),
    ];
    let there = named.into_iter().filter(|(bits, _)| event.is_any(*bits));
    there.fold(Kinds::default(), |all, (_, kind)| all | kind)
}
