//! The broker's loop: every call gets an answer, whatever happens.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use hyperspector_sys::channel::Channel;
use hyperspector_sys::seccomp_notify::{Listener, Notification, Reply as Verdict};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::answers::{Answer, Answers};
use super::caller::{Caller, Outside};
use super::context::Errands;
use super::{Reply, Request, Status};

/// How many agents may be connected at once.
const CONNECTIONS: usize = 8;

/// How long half a request may take, and how often callers that wait are looked after.
const PATIENCE: Duration = Duration::from_millis(500);

/// A broker at work.
#[derive(Debug)]
pub(super) struct Broker {
    answers: Answers,
    outside: Outside,
    listeners: Vec<Listener>,
    control: UnixListener,
    agents: Vec<Channel>,
    errands: Errands,
    answered: u64,
    refused: u64,
}

/// What there is to do.
#[derive(Debug, Default)]
struct Ready {
    control: bool,
    guard_lost: bool,
    agents: Vec<usize>,
    listeners: Vec<(usize, PollFlags)>,
}

impl Broker {
    pub(super) fn new(answers: Answers, outside: Outside, control: UnixListener) -> Self {
        let (listeners, agents) = (Vec::new(), Vec::new());
        let errands = Errands::new(answers.offered());
        Self { answers, outside, listeners, control, agents, errands, answered: 0, refused: 0 }
    }

    /// Serves this listener too.
    pub(super) fn add_listener(&mut self, listener: Listener) {
        listener.wake_in_step();
        self.listeners.push(listener);
    }

    /// Serves for ever.
    pub(super) fn serve(&mut self) -> io::Error {
        loop {
            match self.wait() {
                Ok(ready) => self.step(ready),
                Err(error) => return error,
            }
        }
    }

    fn step(&mut self, ready: Ready) {
        if ready.guard_lost {
            self.outside.set_guard(None);
        }
        // From the end, so that removing one moves none that is still to be looked at.
        for (at, events) in ready.listeners.into_iter().rev() {
            if events.contains(PollFlags::IN) {
                self.take(at);
            } else {
                // Nobody is left who has this filter.
                self.listeners.swap_remove(at);
            }
        }
        self.errands.tend();
        for at in ready.agents.into_iter().rev() {
            if self.obey(at).is_none() {
                self.agents.swap_remove(at);
            }
        }
        if ready.control {
            self.accept();
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let timeout = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
        let timeout = (!self.errands.is_empty()).then_some(timeout);
        let mut fds = vec![PollFd::new(&self.control, PollFlags::IN)];
        // Only its end is of interest.
        fds.extend(self.outside.guard().map(|guard| PollFd::new(guard, PollFlags::empty())));
        let agents = fds.len();
        fds.extend(self.agents.iter().map(|agent| PollFd::new(agent, PollFlags::IN)));
        let listeners = fds.len();
        fds.extend(self.listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let events = |at: usize| fds[at].revents();
        let ready = |from: usize, to: usize| {
            (from..to).filter(move |at| !events(*at).is_empty()).map(move |at| at - from)
        };
        Ok(Ready {
            control: !events(0).is_empty(),
            guard_lost: ready(1, agents).next().is_some(),
            agents: ready(agents, listeners).collect(),
            listeners: ready(listeners, fds.len()).map(|at| (at, events(at + listeners))).collect(),
        })
    }

    /// Takes one call and answers it.
    fn take(&mut self, at: usize) {
        let listener = &self.listeners[at];
        // A caller that was killed meanwhile needs no answer.
        let Ok(notification) = listener.receive() else { return };
        let mut caller = Caller::new(&mut self.outside, listener, notification);
        let result = self
            .answers
            .answer(&mut caller, notification.call, &notification.args)
            .and_then(|answer| deliver(answer, &caller, &mut self.errands));
        match result {
            Ok(()) => self.answered += 1,
            Err(errno) => {
                self.refused += 1;
                let _ = listener.reply(notification.id, Verdict::Errno(errno.raw_os_error()));
            }
        }
    }

    /// Does what the agent asks; `None` ends the connection.
    fn obey(&mut self, at: usize) -> Option<()> {
        let agent = self.agents[at].try_clone().ok()?;
        let (request, fds) = agent.receive::<Request>().ok()??;
        let fd = <[OwnedFd; 1]>::try_from(fds).ok();
        let reply = match (request, fd) {
            (Request::Status, _) => Reply::Status(self.status()),
            (Request::Guard, Some([fd])) => {
                self.outside.set_guard(Some(Channel::new(fd.into())));
                Reply::Done
            }
            (Request::Listener, Some([fd])) => {
                self.add_listener(Listener::new(fd));
                Reply::Done
            }
            (_, None) => Reply::Refused("one descriptor should come with this request".into()),
        };
        agent.send(&reply, &[]).ok()
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.control.accept() else { return };
        let limited = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        if limited.is_ok() && self.agents.len() < CONNECTIONS {
            self.agents.push(Channel::new(stream));
        }
    }

    fn status(&mut self) -> Status {
        let live = self.outside.live().unwrap_or_default();
        let ours = live.iter().filter(|socket| self.answers.is_ours(socket.cookie));
        Status {
            guard: self.outside.guard().is_some(),
            listeners: self.listeners.len(),
            sockets: ours.clone().count(),
            ring: ours.map(|socket| socket.ring).sum(),
            answered: self.answered,
            refused: self.refused,
            violations: self.answers.violations,
            known: self.answers.known(),
        }
    }
}

/// Hands an answer over. An error is for the caller, who still waits.
fn deliver(
    answer: Answer<OwnedFd>,
    caller: &Caller<'_>,
    errands: &mut Errands,
) -> Result<(), Errno> {
    let Notification { id, .. } = caller.notification;
    let verdict = match answer {
        Answer::Continue => Verdict::Continue,
        Answer::Done => Verdict::Value(0),
        Answer::Give { socket, cloexec } => {
            use std::os::fd::AsFd;
            let given = caller.listener.reply_with_fd(id, socket.as_fd(), cloexec);
            return given.map_err(super::caller::errno);
        }
        Answer::AsCaller { socket, address, connect } => {
            return errands.start(caller, socket, address, connect);
        }
    };
    // Fails only if the caller is gone.
    let _ = caller.listener.reply(id, verdict);
    Ok(())
}
