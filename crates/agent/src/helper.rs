//! A worker that does jobs for the agent, as the agent holds it: no path of a server, or of an operator
//! that may lead to a file system that is dead, is resolved in the agent itself, which would wait there.
//! The worker ends with the agent.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use hyperspector_sys::worker;
use hyperspector_window::files::worker::Views;
use hyperspector_window::jobs::{Kind, Started};
use hyperspector_window::sockets::place::worker::Places;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Doing, Error};
use crate::layout::Layout;
use crate::process::{Process, ProcessId};
use crate::workers;

/// How long the worker may take to start, or to take a request.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer that has begun may take to end.
const ANSWER: Duration = Duration::from_secs(1);
/// How long between two attempts to start a worker that does not start.
const PAUSE: Duration = Duration::from_secs(1);

/// The worker that makes views.
pub(crate) type Viewer = Helper<Views>;
/// The worker that looks at paths, and places sockets.
pub(crate) type Errands = Helper<Places>;

/// A worker, started when it is needed first.
pub(crate) struct Helper<K> {
    running: Option<(Process, Channel)>,
    due: Option<Instant>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Default for Helper<K> {
    fn default() -> Self {
        Self { running: None, due: None, kind: PhantomData }
    }
}

/// An answer that is to come.
pub(crate) struct Reply<K> {
    channel: Channel,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> fmt::Debug for Reply<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an answer of {}", K::WHAT)
    }
}

impl<K: Kind> Helper<K> {
    /// Starts the worker, unless it runs.
    pub(crate) fn start(&mut self, layout: &Layout) -> Result<(), Error> {
        self.running.take_if(|(process, _)| !process.is_alive());
        if self.running.is_some() {
            return Ok(());
        }
        let doing = || format!("start {}", K::WHAT);
        let now = Instant::now();
        if self.due.is_some_and(|due| due > now) {
            return Err(Error::new(doing(), "it has just failed"));
        }
        self.due = Some(now + PAUSE);
        let place = workers::place(layout);
        let (child, channel) =
            worker::spawn_placed(K::NAME, &(), &[], Stdio::inherit(), place).doing(doing)?;
        let id = ProcessId::of(child.id().cast_signed()).doing(doing)?;
        let process = id.open().ok_or_else(|| Error::new(doing(), "it ended"))?;
        let failed = match channel.receive_within(PATIENCE).doing(doing)? {
            Some((Started::Ready, _)) => {
                channel.stream().set_write_timeout(Some(PATIENCE)).doing(doing)?;
                self.running = Some((process, channel));
                return Ok(());
            }
            Some((Started::Failed(why), _)) => why,
            None => "it ended without a word".to_owned(),
        };
        process.kill();
        Err(Error::new(doing(), failed))
    }

    /// Asks the worker; `fds` are the descriptors after the one for the answer.
    pub(crate) fn ask(
        &mut self,
        layout: &Layout,
        request: &K::Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply<K>, Error> {
        self.start(layout)?;
        let doing = || format!("ask {}", K::WHAT);
        let (ours, theirs) = Channel::pair().doing(doing)?;
        let fds: Vec<BorrowedFd<'_>> =
            std::iter::once(theirs.as_fd()).chain(fds.iter().copied()).collect();
        let Some((process, channel)) = &self.running else {
            return Err(Error::new(doing(), "it does not run"));
        };
        if let Err(error) = channel.send(request, &fds) {
            process.kill();
            self.running = None;
            return Err(error).doing(doing);
        }
        Ok(Reply { channel: ours, kind: PhantomData })
    }
}

impl<K: Kind> Reply<K> {
    /// Whether the answer is there, or never comes.
    pub(crate) fn is_there_within(&self, limit: Duration) -> bool {
        is_there_within(&self.channel, limit)
    }

    /// The answer; `None` where the process that was to give it has ended.
    pub(crate) fn take(self) -> Option<(K::Answer, Vec<OwnedFd>)> {
        self.channel.receive_within(ANSWER).ok()?
    }
}

/// Whether something is there to be received, or never comes.
pub(crate) fn is_there_within(channel: &Channel, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap_or_default();
    poll(&mut [PollFd::new(channel.stream(), PollFlags::IN)], Some(&limit))
        .is_ok_and(|ready| ready > 0)
}
