//! Spaces that are being made or ended, step by step.
//!
//! A step may wait for a file system that answers nobody: of what a space is made of, of a server that it
//! is to see, or one that a killed process is stuck in. Nobody waits with it: the agent is held while
//! a step begins, and again when what it waited for is there or its time is over.

mod step;

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyperspector_space::launch::{Building, Launched, Progress};
use hyperspector_window::sockets::place::paths::Owned;

use crate::apply::Agent;
use crate::build::{self, Begun, Portspace, Site};
use crate::error::{Doing, Error};
use crate::layout::SpaceName;
use crate::process::Process;
use crate::views::Around;
use crate::{record, servers, space};
use step::{BUILDING, Step};
pub(crate) use step::{Making, What};

/// How long the agent is held for steps that are ready, until others come to it.
const AT_ONCE: Duration = Duration::from_millis(100);

impl Agent {
    /// Begins to make a space anew, or to end it. What there is of it ends first.
    pub(crate) fn begin(&mut self, name: &SpaceName, what: Option<What>, renewals: u64) {
        let step = match self.making.remove(name) {
            Some(Making { step: step @ Step::Ending(_), .. }) => step,
            before => {
                drop(before);
                Step::Ending(self.end(name))
            }
        };
        self.making.insert(name.clone(), Making::at(what, renewals, step));
    }

    /// Has what there is of a space ended, in a thread: it is given some time, and a process that waits
    /// in a dead file system ends when that answers.
    fn end(&mut self, name: &SpaceName) -> Option<JoinHandle<Result<(), Error>>> {
        let init = self.take_living(name);
        let cgroup = self.layout.cgroup(name);
        let is_there = self.layout.space(name).run.exists() || self.cgroups.open(&cgroup).is_ok();
        if init.is_none() && !is_there {
            return None;
        }
        let cgroups = self.cgroups.clone();
        let known = record::known(&self.layout, name);
        Some(std::thread::spawn(move || space::end(&cgroup, &cgroups, known, init.as_ref())))
    }

    fn take_living(&mut self, name: &SpaceName) -> Option<Process> {
        match name {
            SpaceName::Server(name) => self.server_spaces.remove(name).map(|one| one.init),
            SpaceName::Portspace(name) => {
                let living = self.hyperspectors.get_mut(&name.hyperspector)?;
                living.portspaces.remove(&name.portspace).map(|one| one.init)
            }
        }
    }

    /// Goes on with spaces that have something to go on with: with all of them, if that does not take long.
    pub(crate) fn tend(&mut self) {
        let start = Instant::now();
        let names: Vec<SpaceName> = self.making.keys().cloned().collect();
        for name in names {
            if start.elapsed() >= AT_ONCE {
                return;
            }
            while self.is_ready(&name) {
                let Some(making) = self.making.remove(&name) else { break };
                let was_ending = matches!(making.step, Step::Ending(_));
                match self.go_on(&name, making) {
                    Ok(Some(making)) => {
                        self.making.insert(name.clone(), making);
                    }
                    Ok(None) => {}
                    Err(error) => self.fail(&name, &error, was_ending),
                }
            }
        }
    }

    /// Whether the step of `name` can be gone on with.
    fn is_ready(&mut self, name: &SpaceName) -> bool {
        let Some(mut making) = self.making.remove(name) else { return false };
        let is_done = match &mut making.step {
            Step::Ending(ending) => ending.as_ref().is_none_or(JoinHandle::is_finished),
            Step::Looking(reply) => {
                reply.is_there_within(Duration::ZERO)
                    && making.portspace().is_none_or(|plan| self.has_facts(plan))
            }
            Step::BuildingServer(_, building) | Step::BuildingPortspace(_, building) => {
                building.is_ready_within(Duration::ZERO)
            }
            Step::Placing(space, _) => {
                self.place_sockets(&name.to_string(), space.init.id.pid, false)
            }
            Step::Showing(portspace, _) => {
                let Portspace { record, init, views, .. } = &mut **portspace;
                views.are_made(&record.plan, init)
            }
        };
        let is_ready = is_done || making.is_late();
        self.making.insert(name.clone(), making);
        is_ready
    }

    /// Tells why a space was not made, and has what there is of it ended, but where that failed.
    fn fail(&mut self, name: &SpaceName, error: &Error, was_ending: bool) {
        eprintln!("make {name}: {error}");
        // Why it was ended stays told where it does not end either.
        let is_told = was_ending && self.failures.contains_key(name);
        if !is_told {
            self.failures.insert(name.clone(), error.to_string());
        }
        if !was_ending {
            self.begin(name, None, 0);
        }
    }

    /// The next step of a space; `None` where it runs, or has ended as it should.
    fn go_on(&mut self, name: &SpaceName, making: Making) -> Result<Option<Making>, Error> {
        let Making { what, renewals, step, .. } = making;
        if let Step::Ending(Some(ending)) = step {
            let failed =
                |_| Err(Error::new(format!("end {name}"), "the thread that does it failed"));
            ending.join().unwrap_or_else(failed)?;
            self.clear(name)?;
            return Ok(what.map(|what| Making::at(Some(what), renewals, Step::Ending(None))));
        }
        let Some(what) = what else { return Ok(None) };
        let step = match step {
            Step::Ending(_) => {
                if let What::Portspace(_, plan) = &what {
                    self.need_guard(plan)?;
                    self.need_facts(plan)?;
                }
                let (layout, errands, plan) = (&self.layout, &mut self.errands, what.space());
                // One look that hangs is enough: it cannot even be killed, perhaps.
                let asked = self.unanswered.remove(name).map(Ok);
                let asked = asked.unwrap_or_else(|| space::look_below(layout, errands, plan));
                Step::Looking(asked?)
            }
            Step::Looking(reply) if !reply.is_there_within(Duration::ZERO) => {
                self.unanswered.insert(name.clone(), reply);
                return Err(space::no_answer(what.space()));
            }
            Step::Looking(reply) => {
                let below = space::found_below(what.space(), reply)?;
                self.build(name, &what, below)?
            }
            Step::BuildingServer(begun, building) => match go_on(name, building)? {
                Progress::Building(building) => Step::BuildingServer(begun, building),
                Progress::Built(launched) => {
                    let space = servers::space::note(*begun, renewals, &launched)?;
                    self.place_sockets(&name.to_string(), space.init.id.pid, true);
                    Step::Placing(Box::new(space), Box::new(launched))
                }
            },
            Step::BuildingPortspace(begun, building) => match go_on(name, building)? {
                Progress::Building(building) => Step::BuildingPortspace(begun, building),
                Progress::Built(launched) => self.open(&begun, renewals, launched)?,
            },
            Step::Placing(space, launched) => {
                self.trace_first(&name.to_string(), space.init.id.pid);
                launched.go().doing(|| format!("start {name}"))?;
                self.failures.remove(name);
                self.server_spaces.insert(name.to_string(), *space);
                return Ok(None);
            }
            Step::Showing(portspace, launched) => {
                launched.go().doing(|| format!("start {name}"))?;
                self.failures.remove(name);
                let plan = &portspace.record.plan.name;
                let living = self.hyperspectors.get_mut(&plan.hyperspector);
                let portspaces = &mut living.ok_or_else(|| no_hub(name))?.portspaces;
                portspaces.insert(plan.portspace.clone(), *portspace);
                return Ok(None);
            }
        };
        Ok(Some(Making::at(Some(what), renewals, step)))
    }

    /// Removes what is left of a space that has ended.
    fn clear(&mut self, name: &SpaceName) -> Result<(), Error> {
        match name {
            SpaceName::Server(name) => servers::space::clear(&self.layout, &self.cgroups, name),
            SpaceName::Portspace(name) => {
                let hub = self.hyperspectors.get(&name.hyperspector).map(|one| &one.hub);
                build::clear(&self.layout, &self.cgroups, hub, name)
            }
        }
    }

    /// Has the builder begin.
    fn build(&mut self, name: &SpaceName, what: &What, below: Owned) -> Result<Step, Error> {
        let (hyperspector, plan) = match what {
            What::Server(plan) => {
                let (begun, building) =
                    servers::space::begin(&self.layout, &self.cgroups, name, plan, below)?;
                return Ok(Step::BuildingServer(Box::new(begun), building));
            }
            What::Portspace(hyperspector, plan) => (hyperspector, plan),
        };
        let Some(living) = self.hyperspectors.get(&hyperspector.name) else {
            return Err(no_hub(name));
        };
        let site = Site {
            layout: &self.layout,
            cgroups: &self.cgroups,
            hub: &living.hub,
            servers: &self.plan.servers,
            hyperspector,
        };
        let (begun, building) = build::begin(&site, plan, below)?;
        Ok(Step::BuildingPortspace(Box::new(begun), building))
    }

    /// Opens the windows of a portspace that is built, and has its views made.
    fn open(
        &mut self,
        begun: &Begun,
        renewals: u64,
        mut launched: Launched,
    ) -> Result<Step, Error> {
        let mut around = Around {
            layout: &self.layout,
            servers: &self.servers,
            prints: &mut self.prints,
            viewer: &mut self.viewer,
            own: space::hidden(&self.layout),
        };
        let (guard, servers) = (self.guard.as_ref(), self.plan.servers.as_slice());
        let around = &mut around;
        let watched = (guard, servers);
        let portspace =
            build::open(begun, renewals, watched, around, &mut self.journals, &mut launched)?;
        Ok(Step::Showing(Box::new(portspace), Box::new(launched)))
    }

    /// What a space that does not run yet waits for, for people.
    pub(crate) fn awaits(&self, name: &SpaceName) -> Option<String> {
        let making = self.making.get(name);
        let waiting =
            || self.pending.contains(name).then(|| "its turn has not come yet".to_owned());
        making.map(|making| format!("not yet: {}", making.step.describe())).or_else(waiting)
    }
}

/// Goes on with what a builder says next.
fn go_on(name: &SpaceName, building: Building) -> Result<Progress, Error> {
    let doing = || format!("build {name}");
    if !building.is_ready_within(Duration::ZERO) {
        let why = format!("it was not done within {BUILDING:?}: a file system does not answer");
        return Err(Error::new(doing(), why));
    }
    building.go_on().doing(doing)
}

fn no_hub(name: &SpaceName) -> Error {
    Error::new(format!("start {name}"), "its hub is not there")
}
