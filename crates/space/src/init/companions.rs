//! Programs of ours that run beside the command: they are as confined as that, and started again
//! whenever they end.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::child::{Start, Streams, start};
use super::log::Log;
use crate::config::SpaceConfig;

/// How long after its start one is started again at the earliest: what is wrong stays so for a while.
const PAUSE: Duration = Duration::from_secs(5);

/// The companions of a space's command.
pub(crate) struct Companions {
    /// When each is to be started; `None` while it runs.
    due: Vec<Option<Instant>>,
    started: Vec<Instant>,
    running: HashMap<i32, usize>,
}

impl Companions {
    /// All are due.
    pub(crate) fn new(commands: &[Vec<String>]) -> Self {
        let now = Instant::now();
        let due = vec![Some(now); commands.len()];
        Self { due, started: vec![now; commands.len()], running: HashMap::new() }
    }

    /// Whether `pid` is one of them.
    pub(crate) fn contains(&self, pid: i32) -> bool {
        self.running.contains_key(&pid)
    }

    /// Takes note that `pid` has ended. Returns whether it was one of them.
    pub(crate) fn ended(&mut self, pid: i32) -> bool {
        let Some(index) = self.running.remove(&pid) else { return false };
        if let (Some(due), Some(started)) = (self.due.get_mut(index), self.started.get(index)) {
            *due = Some(*started + PAUSE);
        }
        true
    }

    /// How long none can become due.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let next = self.due.iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Starts those that are due; what they print goes to the log.
    pub(crate) fn start_due(&mut self, config: &SpaceConfig, log: &mut Log, now: Instant) {
        for (index, command) in config.companions.iter().enumerate() {
            let Some(due) = self.due.get_mut(index).filter(|due| due.is_some_and(|at| at <= now))
            else {
                continue;
            };
            let started = log.writer().map_err(|error| error.to_string()).and_then(|pipe| {
                start(Start {
                    command,
                    environment: Vec::new(),
                    user: "0",
                    directory: Path::new("/"),
                    streams: Streams::Logged(pipe),
                })
            });
            match started {
                Ok(child) => {
                    *due = None;
                    self.running.insert(child.id().cast_signed(), index);
                    if let Some(started) = self.started.get_mut(index) {
                        *started = now;
                    }
                }
                Err(reason) => {
                    log.note(&reason);
                    *due = Some(now + PAUSE);
                }
            }
        }
    }
}
