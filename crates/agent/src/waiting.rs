//! Waiting for what a plan has begun, without holding the agent.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hyperspector_space::control::{Report, State};
use hyperspector_space::init::report;

use crate::apply::{Agent, Tell};
use crate::layout::{Layout, SpaceName};
use crate::protocol::{Done, Failure, Outcome};
use crate::server::hold;
use crate::space;

/// How long a command may take to be executed.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long a command must live to count as started: a bad configuration ends most sooner.
const SETTLED: Duration = Duration::from_millis(300);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(2);
/// How long portspaces wait for servers that are looked for in files.
const LOOKING: Duration = Duration::from_secs(1);
/// How long they wait for journals to follow what servers mount, so that they find what there is to show.
const FOLLOWING: Duration = Duration::from_secs(2);
/// How many lines of a failed command are shown.
const LAST_LINES: usize = 8;

/// Waits until the spaces are made or ended, and takes down why one is not.
pub(crate) fn until_made(agent: &Mutex<Agent>, outcomes: &mut [Outcome], tell: Tell<'_>) {
    let mut told = BTreeSet::new();
    let mut left: Vec<&mut Outcome> = outcomes.iter_mut().collect();
    while !left.is_empty() {
        let mut waiting = Vec::new();
        {
            let mut agent = hold(agent);
            agent.tend();
            left.retain_mut(|outcome| {
                let Some(making) = agent.making.get(&outcome.name) else {
                    agent.pending.remove(&outcome.name);
                    let reason = agent.failures.get(&outcome.name).cloned();
                    outcome.failure =
                        reason.map(|reason| Failure { reason, last_lines: Vec::new() });
                    return false;
                };
                let why = making.waits().filter(|why| told.insert((outcome.name.clone(), *why)));
                waiting.extend(why.map(|why| format!("waiting for {}: {why}", outcome.name)));
                true
            });
        }
        // A client that is slow does not hold up the agent.
        waiting.into_iter().for_each(tell);
        std::thread::sleep(LOOK);
    }
}

/// Asks the agent again and again until it says yes, but not for longer than `limit`.
fn within(agent: &Mutex<Agent>, limit: Duration, mut ask: impl FnMut(&mut Agent) -> bool) {
    let end = Instant::now() + limit;
    while !ask(&mut hold(agent)) && Instant::now() < end {
        std::thread::sleep(LOOK);
    }
}

/// Looks for servers, and waits a little for what is looked at for that.
pub(crate) fn until_looked_for(agent: &Mutex<Agent>) {
    within(agent, LOOKING, |agent| {
        agent.follow_servers();
        !agent.servers.are_looked_for()
    });
}

/// Waits a little until the journals follow their servers.
pub(crate) fn until_followed(agent: &Mutex<Agent>) {
    within(agent, FOLLOWING, |agent| agent.journals.have_followed());
}

/// Waits until every space that was started has executed its command and lived for a moment.
pub(crate) fn until_started(layout: &Layout, outcomes: &mut [Outcome], tell: Tell<'_>) {
    let deadline = Instant::now() + START_PATIENCE;
    for outcome in outcomes.iter_mut() {
        if outcome.failure.is_some() || outcome.done == Done::Removed {
            continue;
        }
        outcome.failure = settled(layout, &outcome.name, deadline);
        let is_new = matches!(outcome.done, Done::Started | Done::Restarted);
        if is_new && outcome.failure.is_none() {
            tell(format!("{} runs", outcome.name));
        }
    }
}

fn settled(layout: &Layout, name: &SpaceName, deadline: Instant) -> Option<Failure> {
    let path = layout.space(name).report();
    loop {
        let report = report::read(&path).ok();
        if let Some(report) = &report {
            match report.state {
                State::Failed => return Some(failure(layout, name, reason_of(report))),
                State::Stopped if !ended_well(report) => {
                    return Some(failure(layout, name, reason_of(report)));
                }
                State::Stopped | State::Waiting => return None,
                State::Running if has_settled(report) => return None,
                State::Running | State::Starting => {}
            }
        }
        if Instant::now() > deadline {
            let reason = "the command was not started in time".to_owned();
            return Some(failure(layout, name, reason));
        }
        std::thread::sleep(LOOK);
    }
}

/// Why a space does not run, with the last lines that it printed.
pub(crate) fn failure(layout: &Layout, name: &SpaceName, reason: String) -> Failure {
    let logs = layout.space(name).logs();
    Failure { reason, last_lines: crate::logs::last(&logs, LAST_LINES) }
}

fn has_settled(report: &Report) -> bool {
    space::now().saturating_sub(report.since) >= u64::try_from(SETTLED.as_millis()).unwrap_or(0)
}

fn ended_well(report: &Report) -> bool {
    report.last_end == Some(hyperspector_space::control::End::Status(0))
}

/// Why a command does not run.
pub(crate) fn reason_of(report: &Report) -> String {
    report.reason.clone().unwrap_or_else(|| match report.last_end {
        Some(end) => end.to_string(),
        None => "it was not started".to_owned(),
    })
}
