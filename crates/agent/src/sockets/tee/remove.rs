//! The end of a tee.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hyperspector_window::sockets::{Request, keeper};

use super::keeper::PAUSE;
use super::look::told_undone;
use super::{FIRST, Record};
use crate::error::{Doing, Error, all_or_first, on};
use crate::files;
use crate::helper::Errands;
use crate::layout::{Layout, TeeDir};
use crate::process::ProcessId;
use crate::sockets::places::{Errand, Place};

/// Ends a server's tee, and leaves its sockets as they were.
pub(crate) fn remove(layout: &Layout, name: &str) -> Result<(), Error> {
    let dir: TeeDir = layout.tee(name);
    let record: Record = files::load(&dir.record()).unwrap_or_default();
    let mut errors = Vec::new();
    errors.extend(undo(layout, &record.places).err());
    if let Some(keeper) = record.keeper.and_then(ProcessId::open) {
        let _ = keeper::ask(&dir.control(), &Request::Stop, &[]);
        if !keeper.has_ended_within(PAUSE) {
            keeper.kill();
        }
    }
    errors.extend(files::remove(&dir.0).doing(on("remove", &dir.0)).err());
    all_or_first(errors)
}

/// Leaves sockets as they were. What a server's file system does not answer in time is left.
fn undo(layout: &Layout, places: &BTreeMap<PathBuf, Place>) -> Result<(), Error> {
    let mut errands = Errands::default();
    let due: Vec<Errand> = places.iter().filter_map(|(path, place)| place.undo(path)).collect();
    let mut errors = Vec::new();
    for errand in due {
        let path = errand.paths().iter().map(|path| path.display().to_string()).collect::<String>();
        let doing = || format!("leave {path} as it was");
        match errands.ask(layout, &errand.request(), &[]) {
            Ok(reply) if !reply.is_there_within(FIRST) => {
                errors.push(Error::new(doing(), "the server's file system does not answer"));
            }
            Ok(reply) => told_undone(&errand, reply),
            Err(error) => errors.push(error),
        }
    }
    all_or_first(errors)
}
