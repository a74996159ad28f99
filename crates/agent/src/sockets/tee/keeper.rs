//! The keeper of a tee: starting it, and talking to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyperspector_sys::netns;
use hyperspector_window::sockets::keeper::{self, Config};
use hyperspector_window::sockets::{self, Reply, Request};

use super::{Record, Tee};
use crate::error::{Doing, Error, on};
use crate::layout::{Layout, private_dir};
use crate::process::Process;
use crate::space::listen;
use crate::{files, ids, workers};

/// How long a keeper that has not answered in time is not asked again.
const SILENCE: Duration = Duration::from_secs(10);
/// How long after a failure a keeper is started again.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

impl Tee {
    pub(super) fn ensure_keeper(&mut self, layout: &Layout, name: &str) -> Result<(), Error> {
        if self.keeper.as_ref().is_some_and(Process::is_alive) {
            return Ok(());
        }
        if self.due.is_some_and(|due| due > Instant::now()) {
            return Err(Error::new(format!("start the tee of {name}"), "it has just failed"));
        }
        self.due = Some(Instant::now() + PAUSE);
        if self.keeper.take().is_some() {
            eprintln!("the keeper of {name}'s tee is gone; starting another");
            self.restarts += 1;
        }
        self.start(layout, name)
    }

    /// Starts a keeper, which takes over from a tee that has lost its own.
    pub(super) fn start(&mut self, layout: &Layout, name: &str) -> Result<(), Error> {
        let doing = || format!("start the tee of {name}");
        let dir = layout.tee(name);
        private_dir(&dir.0).doing(on("make", &dir.0))?;
        let orphan = netns::connect(dir.successor()).ok();
        let control = listen(&dir.control())?;
        let successor = listen(&dir.successor())?;
        let user = user(layout, name)?;
        let config = Config { uid: user, gid: user };
        let mut fds = vec![control.as_fd(), successor.as_fd()];
        fds.extend(orphan.as_ref().map(AsFd::as_fd));
        let process = workers::start(layout, "keeper", &config, &fds)
            .map_err(|why| Error::new(doing(), why))?;
        self.keeper = Some(process);
        self.told.clear();
        self.save(layout, name)?;
        self.recall(layout, name)
    }

    /// Asks the keeper which sources it has.
    pub(super) fn recall(&mut self, layout: &Layout, name: &str) -> Result<(), Error> {
        let asked = keeper::ask(&layout.tee(name).control(), &Request::Status, &[]);
        let status = asked.doing(|| format!("ask the tee of {name}"))?;
        let Reply::Status(status) = status else { return Ok(()) };
        let open = status.sources.iter().filter(|source| source.open);
        self.open = open.map(|source| source.name.clone()).collect();
        // Readers that nobody wants any more are found by their names.
        let told = status.readers.iter().map(|reader| {
            let nothing = sockets::Reader {
                name: reader.name.clone(),
                source: String::new(),
                to: PathBuf::new(),
                queue: 0,
                senders: false,
            };
            (reader.name.clone(), (nothing, None))
        });
        self.told = told.collect();
        Ok(())
    }

    pub(super) fn save(&self, layout: &Layout, name: &str) -> Result<(), Error> {
        let record = Record { keeper: self.keeper(), places: self.places.done.clone() };
        let path = layout.tee(name).record();
        files::save(&path, &record).doing(on("write", &path))
    }

    pub(super) fn tell(
        &self,
        layout: &Layout,
        name: &str,
        request: &Request,
        fds: &[&OwnedFd],
    ) -> Result<(), Error> {
        let asked = self.keeper_asked(layout, name, request, fds);
        asked.map(drop).doing(|| format!("tell the tee of {name}"))
    }

    /// Asks it how it is.
    pub(crate) fn ask(&self, layout: &Layout, name: &str) {
        let reply = self.keeper_asked(layout, name, &Request::Status, &[]);
        *self.status.borrow_mut() = match reply {
            Ok(Reply::Status(status)) => Some(status),
            _ => None,
        };
    }

    /// Asks the keeper, unless it was silent just now: one that connects to a receiver waits where the
    /// server's file system does.
    fn keeper_asked(
        &self,
        layout: &Layout,
        name: &str,
        request: &Request,
        fds: &[&OwnedFd],
    ) -> io::Result<Reply> {
        if self.silent.get().is_some_and(|until| until > Instant::now()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer just now"));
        }
        let asked = keeper::ask(&layout.tee(name).control(), request, fds);
        let is_late = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
        };
        let is_silent = asked.as_ref().is_err_and(is_late);
        self.silent.set(is_silent.then(|| Instant::now() + SILENCE));
        asked
    }
}

/// The user of a server's tee, who is nobody else.
fn user(layout: &Layout, name: &str) -> Result<u32, Error> {
    ids::held_by(&layout.state.join("portspaces/.agent/tees").join(name))
}
