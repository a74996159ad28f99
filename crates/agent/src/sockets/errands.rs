//! The worker that looks at and changes the places of servers' sockets, as the agent holds it: no path
//! of a server is resolved in the agent itself, which would wait where the server's file system does.
//! The worker ends with the agent.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use hyperspector_sys::worker;
use hyperspector_window::sockets::place::worker::{Answer, KIND, Request, Started};
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

/// The worker, started when it is needed first.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    running: Option<(Process, Channel)>,
    due: Option<Instant>,
}

/// An answer that is to come.
#[derive(Debug)]
pub(super) struct Reply(Channel);

impl Errands {
    /// Starts the worker, unless it runs.
    fn start(&mut self, layout: &Layout) -> Result<(), Error> {
        self.running.take_if(|(process, _)| !process.is_alive());
        if self.running.is_some() {
            return Ok(());
        }
        let doing = || "start the worker that places sockets".to_owned();
        let now = Instant::now();
        if self.due.is_some_and(|due| due > now) {
            return Err(Error::new(doing(), "it has just failed"));
        }
        self.due = Some(now + PAUSE);
        let place = workers::place(layout);
        let (child, channel) =
            worker::spawn_placed(KIND, &(), &[], Stdio::inherit(), place).doing(doing)?;
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

    /// Asks the worker.
    pub(super) fn ask(&mut self, layout: &Layout, request: &Request) -> Result<Reply, Error> {
        self.start(layout)?;
        let doing = || "ask the worker that places sockets".to_owned();
        let (ours, theirs) = Channel::pair().doing(doing)?;
        let Some((process, channel)) = &self.running else {
            return Err(Error::new(doing(), "it does not run"));
        };
        if let Err(error) = channel.send(request, &[theirs.as_fd()]) {
            process.kill();
            self.running = None;
            return Err(error).doing(doing);
        }
        Ok(Reply(ours))
    }
}

impl Reply {
    /// Whether the answer is there, or never comes.
    pub(super) fn is_there_within(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).unwrap_or_default();
        poll(&mut [PollFd::new(self.0.stream(), PollFlags::IN)], Some(&limit))
            .is_ok_and(|ready| ready > 0)
    }

    /// The answer; `None` where the process that was to give it has ended.
    pub(super) fn take(self) -> Option<(Answer, Vec<OwnedFd>)> {
        self.0.receive_within(ANSWER).ok()?
    }
}
