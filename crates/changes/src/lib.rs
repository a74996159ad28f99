//! What changed in a server's tree since somebody looked at it last.
//!
//! A *journal* is a directory of plain files that one process writes and any number read, without
//! asking each other anything. Every change has a sequence number. A reader keeps a [`mark::Mark`]:
//! the number at which it read the list that its last completed scan went by; what has a greater one
//! has changed since.
//!
//! - `state`: one line that says which journal this is ([`state::State`]), written in place.
//! - `ID-NUMBER.seg`: segments, which are appended to; each record ends with a NUL ([`record`]).
//! - `unwatched`: places whose changes cannot be watched, written by temp and rename.
//!
//! A path that changes again takes the place of its older record: the writer drops the older one when
//! it next compacts. A *gap* says that changes before it are not known; it takes the place of everything
//! before it, and who has a mark from before it has to scan all. A journal that begins anew has
//! another id, which no older mark knows.

pub mod ascii;
pub mod journal;
pub mod list;
pub mod mark;
pub mod reader;
pub mod record;
pub mod state;
pub mod upper;
mod walk;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file that is whole at any moment: beside its place, then renamed.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let mut file = File::create(&name)?;
    write(&mut file)?;
    file.flush()?;
    file.sync_data()?;
    fs::rename(&name, path)
}
