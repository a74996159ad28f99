//! How far a reader has come.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::upper::Snapshot;

/// A place in a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The journal's id.
    pub journal: String,
    /// The greatest sequence number when the list was read.
    pub number: u64,
}

/// What a reader remembers between two scans of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Where it was in the journal, where there is one.
    pub journal: Option<Mark>,
    /// How the upper layer was, where there is one.
    pub upper: Option<Snapshot>,
}

/// The files in which a reader keeps what it remembers: one that a completed scan has set, and one that
/// the last list has left and that the scan sets when it is done. A scan that is killed sets nothing.
#[derive(Clone, Debug)]
pub struct Marks {
    set: PathBuf,
    next: PathBuf,
}

impl Marks {
    /// The marks `name` in `directory`.
    pub fn new(directory: &Path, name: &str) -> Self {
        let file = |end| directory.join(format!("{name}.{end}"));
        Self { set: file("mark"), next: file("next") }
    }

    /// What the last completed scan has set; `None` before the first one, and where it cannot be read as
    /// a mark, which is no reason not to scan.
    pub fn read(&self) -> io::Result<Option<Seen>> {
        match fs::read(&self.set) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Leaves what is to be set when the scan that begins now is done.
    pub fn prepare(&self, seen: &Seen) -> io::Result<()> {
        if let Some(directory) = self.next.parent() {
            fs::create_dir_all(directory)?;
        }
        let text = serde_json::to_vec(seen)?;
        crate::replace(&self.next, |file| file.write_all(&text))
    }

    /// Sets it.
    ///
    /// # Errors
    /// `NotFound` where no list was read since the last time.
    pub fn set(&self) -> io::Result<()> {
        fs::rename(&self.next, &self.set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_set_by_a_scan_that_is_done_and_by_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let marks = Marks::new(&home.path().join("marks"), "shop");
        assert_eq!(marks.read().unwrap(), None);
        assert_eq!(marks.set().unwrap_err().kind(), io::ErrorKind::NotFound);
        let seen =
            |number| Seen { journal: Some(Mark { journal: "a".into(), number }), upper: None };
        marks.prepare(&seen(3)).unwrap();
        assert_eq!(marks.read().unwrap(), None, "the scan was killed");
        marks.prepare(&seen(5)).unwrap();
        marks.set().unwrap();
        assert_eq!(marks.read().unwrap(), Some(seen(5)));
        assert!(marks.set().is_err(), "no list was read since");
        fs::write(home.path().join("marks/shop.mark"), "nonsense").unwrap();
        assert_eq!(marks.read().unwrap(), None);
    }
}
