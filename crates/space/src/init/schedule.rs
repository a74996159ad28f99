//! When a command is started next: pure.

use std::time::Duration;

use hyperspector_spec::plan::{Restart, Run};

use crate::control::{End, State};

/// The first pause before a failed service is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A service that ran for this long is taken to have been well.
const WELL: Duration = Duration::from_secs(60);

/// What to do after a command has ended or could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start it again after this long; the state in between.
    After(Duration, State),
    /// End the space: the agent makes it again with a clean upper layer, after this long.
    Leave(Duration),
    /// Nothing.
    Stay(State),
}

/// The pauses between starts that fail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule {
    failures: u32,
}

impl Schedule {
    /// Decides after a run that ended with `end` (`None`: it could not be started) after `ran`.
    pub fn next(&mut self, run: Run, end: Option<End>, ran: Duration) -> Next {
        match run {
            Run::Every { seconds } => {
                Next::After(Duration::from_secs(seconds).saturating_sub(ran), State::Waiting)
            }
            Run::Service { restart } => self.service(restart, end, ran),
        }
    }

    fn service(&mut self, restart: Restart, end: Option<End>, ran: Duration) -> Next {
        let well = end == Some(End::Status(0));
        match restart {
            Restart::Never if well => Next::Stay(State::Stopped),
            Restart::Never => {
                Next::Stay(if end.is_some() { State::Stopped } else { State::Failed })
            }
            Restart::OnFailure if well => Next::Stay(State::Stopped),
            Restart::Clean => Next::Leave(self.pause(ran)),
            Restart::Always | Restart::OnFailure => Next::After(self.pause(ran), State::Failed),
        }
    }

    fn pause(&mut self, ran: Duration) -> Duration {
        if ran >= WELL {
            self.failures = 0;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures += 1;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    fn service(restart: Restart) -> Run {
        Run::Service { restart }
    }

    #[test]
    fn a_periodic_command_keeps_its_period() {
        let mut schedule = Schedule::default();
        let every = Run::Every { seconds: 60 };
        let next = schedule.next(every, Some(End::Status(7)), SOON);
        assert_eq!(next, Next::After(Duration::from_secs(59), State::Waiting));
        let next = schedule.next(every, Some(End::Status(0)), Duration::from_secs(100));
        assert_eq!(next, Next::After(Duration::ZERO, State::Waiting));
    }

    #[test]
    fn pauses_grow_and_a_long_run_ends_them() {
        let mut schedule = Schedule::default();
        let mut pause = |ran| match schedule.next(service(Restart::Always), None, ran) {
            Next::After(pause, State::Failed) => pause,
            other => panic!("{other:?}"),
        };
        assert_eq!(pause(SOON), FIRST_PAUSE);
        assert_eq!(pause(SOON), FIRST_PAUSE * 2);
        for _ in 0..20 {
            assert!(pause(SOON) <= LONGEST_PAUSE);
        }
        assert_eq!(pause(WELL), FIRST_PAUSE);
    }

    #[test]
    fn what_ended_well_is_started_again_only_where_that_is_asked_for() {
        let next = |restart| Schedule::default().next(service(restart), Some(End::Status(0)), SOON);
        assert_eq!(next(Restart::OnFailure), Next::Stay(State::Stopped));
        assert_eq!(next(Restart::Never), Next::Stay(State::Stopped));
        assert!(matches!(next(Restart::Always), Next::After(..)));
        assert!(matches!(next(Restart::Clean), Next::Leave(_)));
    }
}
