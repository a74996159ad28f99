//! Looking after what runs: spaces that have ended are made again, workers that died are replaced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyperspector_spec::plan::{PortspaceName, Restart, Run};

use crate::apply::Agent;

/// How often everything is looked at.
const STEP: Duration = Duration::from_millis(200);
/// The first pause before a space is made again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Looks after the agent's things until it is told to end.
pub(crate) fn run(agent: &Arc<Mutex<Agent>>, is_ending: impl Fn() -> bool) {
    let mut pauses = Pauses::default();
    while !is_ending() {
        {
            let mut agent = agent.lock().unwrap_or_else(PoisonError::into_inner);
            agent.keep_masks();
            agent.revive_workers();
            for name in agent.missing() {
                if pauses.is_due(&name) {
                    agent.renew(&name);
                }
            }
        }
        reap();
        std::thread::sleep(STEP);
    }
}

/// Takes in the exit status of spaces and workers that have ended; the agent is a subreaper.
fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}

/// Whether a space that ended is to be made again.
pub(crate) fn is_renewed(run: Run) -> bool {
    !matches!(run, Run::Service { restart: Restart::Never })
}

/// The pauses between renewals of each portspace.
#[derive(Default)]
struct Pauses(HashMap<PortspaceName, (Instant, Duration)>);

impl Pauses {
    /// Whether `name` may be made again now; the pause doubles when that happens often.
    fn is_due(&mut self, name: &PortspaceName) -> bool {
        let now = Instant::now();
        let (last, pause) = self.0.get(name).copied().unwrap_or((now - FIRST_PAUSE, FIRST_PAUSE));
        if now.duration_since(last) < pause {
            return false;
        }
        let calm = now.duration_since(last) > pause * 4;
        let next = if calm { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        self.0.insert(name.clone(), (now, next));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_in_a_row_wait_longer() {
        let name = PortspaceName { hyperspector: "a".into(), portspace: "b".into() };
        let mut pauses = Pauses::default();
        assert!(pauses.is_due(&name));
        assert!(!pauses.is_due(&name));
    }
}
