//! Tracers that are ready for a server: the kernel takes seconds to check their programs, which nobody
//! shall wait for when one has ended.

use std::process::Stdio;
use std::time::{Duration, Instant};

use hyperspector_space::cgroup::Cgroups;
use hyperspector_sys::channel::Channel;
use hyperspector_sys::worker;
use hyperspector_window::syscalls::tracer::{KIND, MEMORY, Spare, Started};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Doing, Error};
use crate::layout::Layout;
use crate::process::{Process, ProcessId};
use crate::workers;

/// How long after a failure the next one is started.
const PAUSE: Duration = Duration::from_secs(10);
/// How long one may take for its first word, once that is on its way.
const WORD: Duration = Duration::from_secs(1);

/// Tracers without a server.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    waiting: Vec<(Process, Channel)>,
    failure: Option<(String, Instant)>,
}

impl Spares {
    /// Has so many of them make themselves ready, and no more.
    pub(super) fn keep(&mut self, layout: &Layout, count: usize) {
        if self.failure.as_ref().is_some_and(|(_, since)| since.elapsed() < PAUSE) {
            return;
        }
        self.waiting.truncate(count);
        if self.waiting.len() < count
            && let Ok(cgroups) = Cgroups::detect()
        {
            workers::remove_empty(&cgroups, &layout.tracers_cgroup());
        }
        while self.waiting.len() < count {
            match start(layout) {
                Ok(spare) => self.waiting.push(spare),
                Err(error) => {
                    self.failure = Some((error.to_string(), Instant::now()));
                    return;
                }
            }
        }
    }

    /// The process ids of them.
    pub(crate) fn pids(&self) -> impl Iterator<Item = i32> {
        self.waiting.iter().map(|(process, _)| process.id.pid)
    }

    /// One that is ready within that time.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn take(
        &mut self,
        layout: &Layout,
        patience: Duration,
    ) -> Result<(Process, Channel), Error> {
        let doing = "make a tracer ready";
        if self.waiting.is_empty() {
            self.keep(layout, 1);
        }
        if self.waiting.is_empty() {
            let why = self.failure.as_ref().map(|(why, _)| why.clone());
            return Err(Error::new(doing, why.unwrap_or_default()));
        }
        if !has_word(&self.waiting[0].1, patience) {
            return Err(Error::new(doing, "the kernel is still checking its programs"));
        }
        let (process, channel) = self.waiting.remove(0);
        let why = match channel.receive_within(WORD) {
            Ok(Some((Started::Ready, _))) => return Ok((process, channel)),
            Ok(Some((Started::Failed(why), _))) => why,
            Ok(None) => "it ended without a word".to_owned(),
            Err(error) => error.to_string(),
        };
        process.kill();
        self.failure = Some((why.clone(), Instant::now()));
        Err(Error::new(doing, why))
    }
}

fn start(layout: &Layout) -> Result<(Process, Channel), Error> {
    let doing = || "start a tracer".to_owned();
    let place = workers::place_limited(layout.tracers_cgroup(), MEMORY);
    let (child, channel) =
        worker::spawn_placed(KIND, &Spare, &[], Stdio::inherit(), place).doing(doing)?;
    let id = ProcessId::of(child.id().cast_signed()).doing(doing)?;
    let process = id.open().ok_or_else(|| Error::new(doing(), "it ended"))?;
    Ok((process, channel))
}

/// Whether it says something within that time, or ends.
fn has_word(channel: &Channel, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).ok();
    let mut fds = [PollFd::new(channel, PollFlags::IN)];
    poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
}
