//! The facts workers: one for each server whose processes a portspace sees.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::{Duration, Instant};

use hyperspector_window::processes::facts::{self, Config, FILE, KIND, write_absent};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, on};
use crate::layout::{FactsDir, Layout, private_dir};
use crate::process::{Process, ProcessId};
use crate::servers::{Present, Processes};
use crate::{files, ids, workers};

/// How long after a failure, or the end of a worker, the next is started.
const PAUSE: Duration = Duration::from_secs(1);
/// A worker that has told nothing for longer cannot look: it does so at least every ten seconds, and
/// starts anew after three for what holds it up.
const SILENCE: Duration = Duration::from_secs(60);

/// What is written down of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The worker.
    process: ProcessId,
    /// What it looks at.
    subject: Subject,
}

/// What a worker looks at: on the same, a worker stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Subject {
    /// All processes of the host.
    All,
    /// The server that this process leads.
    Led(ProcessId),
}

impl Subject {
    fn of(present: &Present) -> Option<Self> {
        match present.processes {
            Processes::None => None,
            Processes::All => Some(Self::All),
            _ => Some(Self::Led(present.leader.id)),
        }
    }
}

/// The facts of one server.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    worker: Option<(Process, Subject)>,
    /// Whether the file says that the server is not there.
    is_absent: bool,
    /// Before then, no worker is started.
    due: Option<Instant>,
}

impl Facts {
    /// Finds the worker that an earlier agent has started.
    pub(crate) fn adopt(layout: &Layout, name: &str) -> Self {
        let record: Option<Record> = files::load(&layout.facts(name).record());
        let worker = record.and_then(|record| Some((record.process.open()?, record.subject)));
        Self { worker, ..Self::default() }
    }

    /// Which process the worker is.
    pub(crate) fn worker(&self) -> Option<ProcessId> {
        self.worker.as_ref().map(|(process, _)| process.id)
    }

    /// For how long nothing has been told, where a worker should and that is too long.
    pub(crate) fn silence(&self, layout: &Layout, name: &str) -> Option<Duration> {
        self.worker.as_ref()?;
        let written =
            std::fs::metadata(layout.facts(name).out().join(FILE)).ok()?.modified().ok()?;
        written.elapsed().ok().filter(|age| *age > SILENCE)
    }

    /// Has a worker look at the server, where it is there, and the file say so where it is not.
    pub(crate) fn ensure(
        &mut self,
        layout: &Layout,
        name: &str,
        present: Option<&Present>,
    ) -> Result<(), Error> {
        let subject = present.and_then(Subject::of);
        let is_right = |(process, looked_at): &(Process, Subject)| {
            Some(*looked_at) == subject && process.is_alive()
        };
        if self.worker.as_ref().is_some_and(is_right) || subject.is_none() && self.is_absent {
            return Ok(());
        }
        if let Some((process, _)) = self.worker.take() {
            process.kill();
        }
        let dir = layout.facts(name);
        match (present, subject) {
            (Some(present), Some(subject)) => self.start(layout, &dir, name, present, subject),
            _ => self.tell_absence(&dir, name),
        }
    }

    fn start(
        &mut self,
        layout: &Layout,
        dir: &FactsDir,
        name: &str,
        present: &Present,
        subject: Subject,
    ) -> Result<(), Error> {
        if self.due.is_some_and(|due| due > Instant::now()) {
            return Ok(());
        }
        self.due = Some(Instant::now() + PAUSE);
        let doing = || format!("look at the processes of {name}");
        let user = user(layout)?;
        prepare(dir, user)?;
        let config = Config {
            server: name.to_owned(),
            leader: present.leader.id.pid.cast_unsigned(),
            members: members(present).doing(doing)?,
            uid: user,
            gid: user,
        };
        let out = File::open(dir.out()).doing(on("open", &dir.out()))?;
        let network = present.namespace("net").doing(doing)?;
        let fds = [out.as_fd(), network.as_fd()];
        let process =
            workers::start(layout, KIND, &config, &fds).map_err(|why| Error::new(doing(), why))?;
        let record = Record { process: process.id, subject };
        let saved = files::save(&dir.record(), &record).doing(on("write", &dir.record()));
        saved.inspect_err(|_| process.kill())?;
        (self.worker, self.is_absent) = (Some((process, subject)), false);
        Ok(())
    }

    fn tell_absence(&mut self, dir: &FactsDir, name: &str) -> Result<(), Error> {
        // A server that comes back is looked at at once.
        self.due = None;
        prepare(dir, 0)?;
        write_absent(&dir.out(), name).doing(on("write in", &dir.out()))?;
        self.is_absent = true;
        Ok(())
    }

    /// Whether the worker has looked, or none is to.
    pub(crate) fn are_there(&self, layout: &Layout, name: &str) -> bool {
        self.worker.is_none() || layout.facts(name).out().join(FILE).exists()
    }
}

/// The user of the facts workers, who is nobody else.
fn user(layout: &Layout) -> Result<u32, Error> {
    ids::held_by(&layout.state.join("portspaces/.agent/facts"))
}

/// Makes the directory that the worker writes in, and makes it its own. Portspaces have it mounted: it
/// stays the same directory.
fn prepare(dir: &FactsDir, user: u32) -> Result<(), Error> {
    let out = dir.out();
    private_dir(&out).doing(on("make", &out))?;
    let readable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&out, readable).doing(on("open up", &out))?;
    chown(&out, Some(user), Some(user)).doing(on("give away", &out))
}

/// Which processes the worker is to take for the server's.
fn members(present: &Present) -> std::io::Result<facts::Members> {
    let cgroup = present.group.as_ref().map(|group| format!("/{}", group.path.display()));
    Ok(match present.processes {
        Processes::All => facts::Members::All,
        Processes::Descendants | Processes::None => facts::Members::Descendants,
        Processes::Group => facts::Members::Of { pid_namespace: None, cgroup },
        Processes::Namespace => {
            let namespace = File::from(present.namespace("pid")?).metadata()?.ino();
            facts::Members::Of { pid_namespace: Some(namespace), cgroup }
        }
    })
}

/// Ends the worker of a server, and removes what it has written.
pub(crate) fn remove(layout: &Layout, name: &str) -> Result<(), Error> {
    let dir = layout.facts(name);
    let record: Option<Record> = files::load(&dir.record());
    workers::end(record.map(|record| record.process), &dir.0)
}
