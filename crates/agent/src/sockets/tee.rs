//! The tee of one server: its keeper, and what that was told.

mod keeper;
mod look;
mod readers;
mod remove;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_window::sockets::place::worker::Places as Kind;
use hyperspector_window::sockets::{self, Status};
use serde::{Deserialize, Serialize};

use super::Wanted;
use super::places::{Errand, Place, Places, Seat};
use crate::complaint::Complaint;
use crate::error::{Doing, Error};
use crate::files;
use crate::helper::{Errands, Reply as Replied};
use crate::layout::Layout;
use crate::process::{Process, ProcessId};
use crate::servers::Present;
use crate::status::TeeStatus;
pub(crate) use remove::remove;

/// What an errand is answered by.
type Answering = Replied<Kind>;

/// How long a server's file system may take to answer before the agent goes on with something else,
/// once; until it has answered again, it is not waited for at all.
const QUICK: Duration = Duration::from_millis(100);
/// How long a server's file system may take before that is told.
const FIRST: Duration = Duration::from_secs(2);

/// What is written down of a tee.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Record {
    keeper: Option<ProcessId>,
    places: BTreeMap<PathBuf, Place>,
}

/// The tee of one server.
#[derive(Debug, Default)]
pub(crate) struct Tee {
    keeper: Option<Process>,
    places: Places,
    /// Sources that the keeper has open.
    open: BTreeSet<String>,
    /// What it was told of readers.
    told: BTreeMap<String, (sockets::Reader, Option<ProcessId>)>,
    restarts: u64,
    failure: Complaint,
    /// Before then, no keeper is started.
    due: Option<Instant>,
    /// When the paths were looked at last, and through which process.
    looked: Option<(Instant, ProcessId)>,
    /// What is being done in the server's tree, and since when.
    errand: Option<(Errand, Answering, Instant)>,
    /// The server's tree did not answer in time the last time.
    is_slow: bool,
    /// Before then, a keeper that did not answer in time is not asked again.
    silent: Cell<Option<Instant>>,
    /// How it was when it was asked last.
    status: RefCell<Option<Status>>,
}

impl Tee {
    /// Finds the tee that an earlier agent has started. A tee that has lost its keeper gets another
    /// at once.
    pub(crate) fn adopt(layout: &Layout, name: &str) -> Self {
        let record: Record = files::load(&layout.tee(name).record()).unwrap_or_default();
        let mut tee = Self {
            keeper: record.keeper.and_then(ProcessId::open),
            places: Places { done: record.places, ..Places::default() },
            ..Self::default()
        };
        let started = match tee.keeper {
            Some(_) => tee.recall(layout, name),
            None => tee.start(layout, name),
        };
        if let Err(error) = started {
            eprintln!("{error}");
        }
        tee
    }

    /// Which process the keeper is.
    pub(crate) fn keeper(&self) -> Option<ProcessId> {
        self.keeper.as_ref().map(|keeper| keeper.id)
    }

    /// Makes everything as it is wanted.
    pub(crate) fn follow(
        &mut self,
        layout: &Layout,
        name: &str,
        wanted: &Wanted,
        present: Option<&Present>,
        errands: &mut Errands,
    ) {
        let result = self.ensure_keeper(layout, name).and_then(|()| {
            let patience = if self.is_slow { Duration::ZERO } else { QUICK };
            if let Some(present) = present {
                let members = || {
                    let all = present.members().into_iter();
                    all.map(i32::cast_unsigned).collect()
                };
                let seat = Seat::of(present, &members);
                self.look(layout, name, (wanted, &seat), errands, patience)?;
            }
            self.leave_unwanted(layout, name, wanted)?;
            self.settle(layout, errands, patience)?;
            self.tell_readers(layout, name, wanted)
        });
        self.noted(result);
    }

    /// Puts sockets in their places in a server space whose command does not run yet: begins to where
    /// `is_first`, and goes on else. Returns whether nothing is left to be waited for.
    pub(crate) fn place_first(
        &mut self,
        layout: &Layout,
        name: &str,
        wanted: &Wanted,
        (init, is_first): (i32, bool),
        errands: &mut Errands,
    ) -> bool {
        let result = self.ensure_keeper(layout, name).and_then(|()| {
            let by = ProcessId::of(init).doing(|| format!("look at the init of {name}"))?;
            let members = Vec::new;
            let seat = Seat { by, tree: Path::new("/"), members: &members, is_new: true };
            if is_first {
                self.begin_to_look(&(wanted, &seat));
            }
            self.take_all(layout, name, (wanted, &seat), errands, Instant::now())?;
            self.tell_readers(layout, name, wanted)
        });
        let is_over = result.is_err() || (self.errand.is_none() && self.places.errands.is_empty());
        self.noted(result);
        is_over
    }

    /// Tells a failure once.
    fn noted(&mut self, result: Result<(), Error>) {
        if let Some(failure) = self.failure.note(result.err().map(|error| error.to_string())) {
            eprintln!("{failure}");
        }
    }

    /// How it was when it was asked last.
    pub(crate) fn status(&self) -> TeeStatus {
        let status = self.status.borrow().clone().unwrap_or_default();
        TeeStatus {
            keeper_pid: self.keeper().map(|keeper| keeper.pid),
            pid: status.tee,
            restarts: status.restarts + self.restarts,
            problem: self.failure.now().map(str::to_owned),
            sockets: status.sources,
        }
    }

    /// How a reader was then.
    pub(crate) fn reader(&self, name: &str) -> Option<sockets::ReaderStatus> {
        let status = self.status.borrow();
        status.as_ref()?.readers.iter().find(|reader| reader.name == name).cloned()
    }

    /// Why a socket cannot be read.
    pub(crate) fn problem(&self, path: &Path) -> Option<&str> {
        self.places.problem(path).or(self.failure.now())
    }
}
