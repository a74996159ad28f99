//! Looking after what runs: spaces that have ended are made again, workers that died are replaced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyperspector_spec::plan::{PortspaceName, Restart, Run};

use crate::apply::Agent;
use crate::build::Portspace;
use crate::layout::SpaceName;
use crate::making::{Making, What};
use crate::server::hold;

/// How often everything is looked at.
const STEP: Duration = Duration::from_millis(200);
/// How often what is being made is looked at.
const SHORT: Duration = Duration::from_millis(10);
/// How often the interfaces that portspaces watch are looked at, and the host's files of names.
const WATCH_PERIOD: Duration = Duration::from_secs(1);
/// The first pause before a space is made again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Looks after the agent's things until it is told to end.
pub(crate) fn run(agent: &Arc<Mutex<Agent>>, is_ending: impl Fn() -> bool) {
    let (mut pauses, mut watched) = (Pauses::default(), Instant::now());
    while !is_ending() {
        {
            let mut agent = hold(agent);
            // Whoever held it last may have taken everything down.
            if is_ending() {
                break;
            }
            agent.follow_servers();
            agent.follow_views();
            agent.follow_processes();
            agent.follow_sockets();
            agent.follow_syscalls();
            agent.revive_workers();
            agent.keep_journals();
            let mut due = agent.missing();
            if watched.elapsed() >= WATCH_PERIOD {
                watched = Instant::now();
                agent.follow_names();
                due.extend(agent.follow_interfaces().into_iter().map(SpaceName::from));
            }
            agent.making.keys().for_each(|name| pauses.stand_still(name));
            due.retain(|name| agent.is_free(name));
            for name in due.iter().filter(|name| pauses.is_due(name)) {
                agent.renew(name);
            }
        }
        reap();
        rest(agent);
    }
}

/// Waits for the next time, and goes on with what is being made meanwhile.
fn rest(agent: &Mutex<Agent>) {
    let end = Instant::now() + STEP;
    while Instant::now() < end {
        let is_busy = {
            let mut agent = hold(agent);
            agent.tend();
            !agent.making.is_empty()
        };
        let left = end.saturating_duration_since(Instant::now());
        std::thread::sleep(if is_busy { left.min(SHORT) } else { left });
    }
}

impl Agent {
    /// Spaces that are wanted and do not live: their init has ended, they could not be made, or they
    /// ended while no agent ran.
    fn missing(&self) -> Vec<SpaceName> {
        let portspaces = self.missing_portspaces().into_iter().map(SpaceName::from);
        self.missing_servers().into_iter().map(SpaceName::Server).chain(portspaces).collect()
    }

    fn missing_portspaces(&self) -> Vec<PortspaceName> {
        let wanted = self.plan.hyperspectors.iter().flat_map(|plan| &plan.portspaces);
        wanted
            .filter(|plan| is_renewed(plan.space.run))
            .map(|plan| &plan.name)
            .filter(|name| self.living(name).is_none_or(|living| !living.init.is_alive()))
            .cloned()
            .collect()
    }

    /// Whether nobody makes or ends a space, or is about to.
    fn is_free(&self, name: &SpaceName) -> bool {
        !self.making.contains_key(name) && !self.pending.contains(name)
    }

    /// Begins to make a space again that is wanted and does not live.
    fn renew(&mut self, name: &SpaceName) {
        match name {
            SpaceName::Server(name) => self.renew_server(name),
            SpaceName::Portspace(name) => self.renew_portspace(name),
        }
    }

    fn renew_portspace(&mut self, name: &PortspaceName) {
        let hyperspectors = &self.plan.hyperspectors;
        let Some(hyperspector) = hyperspectors.iter().find(|one| one.name == name.hyperspector)
        else {
            return;
        };
        let hyperspector = hyperspector.clone();
        let Some(plan) = hyperspector.portspaces.iter().find(|one| one.name == *name) else {
            return;
        };
        let plan = plan.clone();
        eprintln!("making {name} again");
        let renewals = self.living(name).map_or(0, |living| living.record.space.renewals) + 1;
        if let Err(error) = self.ensure_hub(&hyperspector, &|_| {}) {
            eprintln!("make {name} again: {error}");
            self.failures.insert(name.into(), error.to_string());
            return;
        }
        let what = What::Portspace(Box::new(hyperspector), Box::new(plan));
        self.begin(&name.into(), Some(what), renewals);
    }

    /// Replaces workers that have died.
    fn revive_workers(&mut self) {
        if let Some(guard) = &mut self.guard
            && let Err(error) = guard.revive(&self.layout)
        {
            eprintln!("revive the guard: {error}");
        }
        for plan in &self.plan.hyperspectors {
            let Some(living) = self.hyperspectors.get_mut(&plan.name) else { continue };
            if let Err(error) = living.vpn.revive(&self.layout, &living.hub, plan) {
                eprintln!("revive the vpn of {}: {error}", plan.name);
            }
            for portspace in living.portspaces.values_mut() {
                let Portspace { record, windows, init, .. } = portspace;
                let guard = self.guard.as_ref();
                if let Err(error) = windows.revive(&self.layout, record, init, guard) {
                    eprintln!("revive the broker of {}: {error}", record.plan.name);
                }
            }
        }
    }

    /// Finds servers again that have restarted.
    pub(crate) fn follow_servers(&mut self) {
        let init = |name: &str| Some(self.server_spaces.get(name)?.init.id);
        self.servers.follow(&self.layout, &mut self.errands, &init);
    }

    /// Keeps the journals of what changes on servers, and shows new upper layers.
    fn keep_journals(&mut self) {
        self.journals.keep(&self.layout, &self.servers, &self.plan);
        let portspaces = self.hyperspectors.values().flat_map(|one| one.portspaces.values());
        let living: Vec<&Portspace> = portspaces.filter(|one| one.init.is_alive()).collect();
        for portspace in &living {
            let (plan, init) = (&portspace.record.plan, portspace.init.id.pid);
            let shown = self.journals.show_uppers(&self.layout, &self.plan.servers, plan, init);
            if let Err(error) = shown {
                eprintln!("{error}");
            }
        }
        let shown: Vec<i32> = self.making.values().filter_map(Making::shown).collect();
        let is_there =
            |init| shown.contains(&init) || living.iter().any(|one| one.init.id.pid == init);
        self.journals.forget_others(is_there);
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

/// The pauses between renewals of each space.
#[derive(Default)]
struct Pauses(HashMap<SpaceName, (Instant, Duration)>);

impl Pauses {
    /// While it is being made, no time passes.
    fn stand_still(&mut self, name: &SpaceName) {
        if let Some((last, _)) = self.0.get_mut(name) {
            *last = Instant::now();
        }
    }

    /// Whether `name` may be made again now; the pause doubles when that happens often.
    fn is_due(&mut self, name: &SpaceName) -> bool {
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
        let name = SpaceName::Server("a".into());
        let mut pauses = Pauses::default();
        assert!(pauses.is_due(&name));
        assert!(!pauses.is_due(&name));
    }

    #[test]
    fn while_one_is_made_its_pause_does_not_end() {
        let name = SpaceName::Server("a".into());
        let long_ago = Instant::now().checked_sub(LONGEST_PAUSE * 9).unwrap();
        let mut pauses = Pauses([(name.clone(), (long_ago, LONGEST_PAUSE))].into());
        pauses.stand_still(&name);
        assert!(!pauses.is_due(&name));
        // It was not calm either: it has not lived.
        assert_eq!(pauses.0[&name].1, LONGEST_PAUSE);
    }
}
