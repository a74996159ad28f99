//! The agent's process: its control socket, its supervisor, its end.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::apply::{self, Agent};
use crate::error::{Doing, Error};
use crate::layout::Layout;
use crate::lock::Lock;
use crate::protocol::{Answer, Request};
use crate::{collect, space, supervise, teardown};

/// How long a client may take to send its request or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for whoever only looks whether somebody has the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How soon the agent sees that it is to end.
const STEP: Duration = Duration::from_millis(50);

/// Runs the agent until it is asked to take everything down. `ready` is called when it listens.
///
/// A signal that ends the process leaves everything running: the next agent adopts it.
pub fn run(layout: &Layout, ready: impl FnOnce()) -> Result<(), Error> {
    let lock = Lock::take(layout, LOCK_PATIENCE)?
        .ok_or_else(|| Error::new("start the agent", "another one runs in this run directory"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .doing(|| "become the reaper of what is started".into())?;
    let agent = Arc::new(Mutex::new(Agent::adopt(layout.clone(), lock)?));
    let listener = space::listen(&layout.socket())?;
    let ending = Arc::new(AtomicBool::new(false));
    let supervisor = {
        let (agent, ending) = (agent.clone(), ending.clone());
        std::thread::spawn(move || supervise::run(&agent, || ending.load(Ordering::Relaxed)))
    };
    ready();
    accept(&listener, &agent, &ending);
    let _ = supervisor.join();
    wait_for_answers(&agent);
    hold(&agent).lock.remove();
    Ok(())
}

/// Answers clients, each in a thread of its own, until one has asked for the end.
fn accept(listener: &UnixListener, agent: &Arc<Mutex<Agent>>, ending: &Arc<AtomicBool>) {
    let step = Timespec::try_from(STEP).unwrap_or_default();
    while !ending.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        if !poll(&mut fds, Some(&step)).is_ok_and(|ready| ready > 0) {
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                let (agent, ending) = (agent.clone(), ending.clone());
                std::thread::spawn(move || serve(stream, &agent, &ending));
            }
            // Out of descriptors, most likely; a pause lets some be given back.
            Err(_) => std::thread::sleep(STEP),
        }
    }
}

/// Lets the threads that answer clients finish: each of them shares the agent.
fn wait_for_answers(agent: &Arc<Mutex<Agent>>) {
    let deadline = Instant::now() + PATIENCE;
    while Arc::strong_count(agent) > 1 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Answers one client.
fn serve(stream: UnixStream, agent: &Mutex<Agent>, ending: &AtomicBool) {
    let patience =
        stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)));
    let client = Channel::new(stream);
    let request = match patience.and_then(|()| client.receive::<Request>()) {
        Ok(Some((request, _))) => request,
        Ok(None) => return,
        Err(error) => {
            let _ = client.send(&Answer::Failed(format!("read the request: {error}")), &[]);
            return;
        }
    };
    // A client that is gone does not stop what it asked for.
    let tell = |text: String| {
        let _ = client.send(&Answer::Progress(text), &[]);
    };
    let answer = answer(request, agent, ending, &tell);
    let _ = client.send(&answer.unwrap_or_else(|error| Answer::Failed(error.to_string())), &[]);
}

/// Holds the agent, for a moment.
pub(crate) fn hold(agent: &Mutex<Agent>) -> MutexGuard<'_, Agent> {
    agent.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(
    request: Request,
    agent: &Mutex<Agent>,
    ending: &AtomicBool,
    tell: &dyn Fn(String),
) -> Result<Answer, Error> {
    let is_ending = || ending.load(Ordering::Relaxed);
    let ended = || Error::new("answer", "the agent is ending");
    if matches!(request, Request::Status) {
        let agent = hold(agent);
        let status = || Answer::Status(Box::new(collect::status(&agent)));
        return if is_ending() { Err(ended()) } else { Ok(status()) };
    }
    let turn = hold(agent).turn.clone();
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    if is_ending() {
        return Err(ended());
    }
    match request {
        Request::Apply(plan) => Ok(Answer::Applied(apply::apply(agent, &plan, tell)?)),
        Request::Status => Err(ended()),
        Request::Down { purge } => down(&mut hold(agent), purge, ending, tell),
    }
}

fn down(
    agent: &mut Agent,
    purge: bool,
    ending: &AtomicBool,
    tell: &dyn Fn(String),
) -> Result<Answer, Error> {
    let layout = agent.layout.clone();
    agent.making.clear();
    agent.hyperspectors.clear();
    agent.plan.hyperspectors.clear();
    agent.server_spaces.clear();
    agent.plan.servers.clear();
    agent.guard = None;
    let down = teardown::everything(&layout, tell);
    ending.store(true, Ordering::Relaxed);
    down?;
    if purge {
        teardown::purge(&layout, tell)?;
        agent.lock.remove();
        teardown::directories(&layout);
    }
    Ok(Answer::Down)
}
