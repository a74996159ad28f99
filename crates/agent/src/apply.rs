//! Making the host equal to a plan: what is gone goes, what is new comes, what differs is made
//! again, and the rest is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hyperspector_space::cgroup::Cgroups;
use hyperspector_space::control::{Report, State};
use hyperspector_space::init::report;
use hyperspector_spec::plan::{HostPlan, HyperspectorPlan, Limits, PortspaceName, PortspacePlan};
use hyperspector_vpn::hub::Hub;

use crate::build::{self, Portspace, Site};
use crate::error::{Doing, Error, on};
use crate::ids::Register;
use crate::layout::{Layout, private_dir};
use crate::masks::Masks;
use crate::protocol::{Done, Failure, Outcome};
use crate::record::PortspaceRecord;
use crate::vpn::Vpn;
use crate::windows::{Guard, Windows};
use crate::{files, supervise, teardown};

/// How long a command may take to be executed.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long a command must live to count as started: a bad configuration ends most sooner.
const SETTLED: Duration = Duration::from_millis(300);
/// How many lines of a failed command are shown.
const LAST_LINES: usize = 8;

/// The agent's picture of what runs.
pub(crate) struct Agent {
    pub(crate) layout: Layout,
    pub(crate) cgroups: Cgroups,
    /// What is wanted.
    pub(crate) plan: HostPlan,
    /// What was wanted before.
    before: HostPlan,
    pub(crate) guard: Option<Guard>,
    pub(crate) hyperspectors: BTreeMap<String, Hyperspector>,
    /// Portspaces that are wanted and could not be made, with the reason.
    pub(crate) failures: BTreeMap<PortspaceName, String>,
}

/// A HyperSpector's part on this host.
pub(crate) struct Hyperspector {
    pub(crate) hub: Hub,
    pub(crate) vpn: Vpn,
    pub(crate) portspaces: BTreeMap<String, Portspace>,
}

/// Where progress is told.
pub(crate) type Tell<'a> = &'a dyn Fn(String);

impl Agent {
    /// An agent that adopts what an earlier one has left running.
    pub(crate) fn adopt(layout: Layout) -> Result<Self, Error> {
        let cgroups = Cgroups::detect().doing(|| "find the cgroup hierarchies".into())?;
        Register::default().announce(&layout)?;
        let nothing = HostPlan { host: String::new(), hyperspectors: Vec::new() };
        let plan: HostPlan = files::load(&layout.plan()).unwrap_or(nothing);
        let guard = Guard::adopt(&layout);
        let mut agent = Self {
            layout,
            cgroups,
            before: plan.clone(),
            plan,
            guard,
            hyperspectors: BTreeMap::new(),
            failures: BTreeMap::new(),
        };
        for name in teardown::names(&agent.layout.hyperspectors()) {
            agent.adopt_hyperspector(&name);
        }
        Ok(agent)
    }

    /// Adopts a HyperSpector and those of its portspaces that live; the rest is removed.
    fn adopt_hyperspector(&mut self, name: &str) {
        let dir = self.layout.hyperspector(name);
        let Ok(hub) = Hub::open(dir.hub()) else {
            let _ = teardown::hyperspector(&self.layout, &self.cgroups, name);
            return;
        };
        let vpn = Vpn::adopt(&self.layout, name);
        let mut portspaces = BTreeMap::new();
        for portspace in teardown::names(&dir.0.join("ps")) {
            let id = PortspaceName { hyperspector: name.to_owned(), portspace: portspace.clone() };
            let files = self.layout.portspace(&id);
            let record: Option<PortspaceRecord> = files::load(&files.record());
            let living = record.and_then(|record| Some((record.init.open()?, record)));
            match living {
                Some((init, record)) => {
                    let windows = Windows::adopt(&record);
                    portspaces.insert(
                        portspace,
                        Portspace { record, init, windows, masks: Masks::default() },
                    );
                }
                None => {
                    let _ = build::remove(&self.layout, &self.cgroups, Some(&hub), &id, None);
                }
            }
        }
        self.hyperspectors.insert(name.to_owned(), Hyperspector { hub, vpn, portspaces });
    }

    /// Makes the host equal to `plan`.
    ///
    /// # Errors
    /// Where something that all portspaces need is missing; what one portspace lacks is told in its
    /// outcome, and the others come up.
    pub(crate) fn apply(&mut self, plan: HostPlan, tell: Tell<'_>) -> Result<Vec<Outcome>, Error> {
        // Written first: an agent that is killed from here on leaves the next one its aim.
        files::save(&self.layout.plan(), &plan).doing(on("write", &self.layout.plan()))?;
        self.before = std::mem::replace(&mut self.plan, plan.clone());
        self.failures.clear();
        let mut outcomes = self.remove_unwanted(&plan, tell);
        self.need_guard(&plan)?;
        for hyperspector in &plan.hyperspectors {
            self.ensure_hyperspector(hyperspector, tell)?;
            for portspace in &hyperspector.portspaces {
                outcomes.push(self.ensure_portspace(hyperspector, portspace, tell));
            }
        }
        self.wait_until_started(&mut outcomes, tell);
        Ok(outcomes)
    }

    fn need_guard(&mut self, plan: &HostPlan) -> Result<(), Error> {
        let mut all = plan.hyperspectors.iter().flat_map(|one| &one.portspaces);
        if self.guard.is_none() && all.any(|portspace| portspace.windows.packets.is_some()) {
            self.guard = Some(Guard::start(&self.layout)?);
        }
        Ok(())
    }

    fn remove_unwanted(&mut self, plan: &HostPlan, tell: Tell<'_>) -> Vec<Outcome> {
        let wanted: BTreeSet<&PortspaceName> = plan
            .hyperspectors
            .iter()
            .flat_map(|one| one.portspaces.iter().map(|portspace| &portspace.name))
            .collect();
        let mut outcomes = Vec::new();
        for (name, hyperspector) in &mut self.hyperspectors {
            let gone: Vec<String> = hyperspector
                .portspaces
                .values()
                .map(|portspace| &portspace.record.plan.name)
                .filter(|name| !wanted.contains(name))
                .map(|name| name.portspace.clone())
                .collect();
            for portspace in gone {
                let id = PortspaceName { hyperspector: name.clone(), portspace };
                tell(format!("removing {id}"));
                let (hub, living) =
                    (&hyperspector.hub, hyperspector.portspaces.remove(&id.portspace));
                let init = living.as_ref().map(|living| &living.init);
                let removed = build::remove(&self.layout, &self.cgroups, Some(hub), &id, init);
                outcomes.push(outcome(id, Done::Removed, removed.err()));
            }
        }
        let names: BTreeSet<&str> =
            plan.hyperspectors.iter().map(|one| one.name.as_str()).collect();
        let gone: Vec<String> = self
            .hyperspectors
            .keys()
            .filter(|name| !names.contains(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            tell(format!("removing {name}"));
            self.hyperspectors.remove(&name);
            let _ = teardown::hyperspector(&self.layout, &self.cgroups, &name);
        }
        outcomes
    }

    /// Makes the hub and the VPN, or changes the VPN's peers, and keeps names up to date.
    fn ensure_hyperspector(
        &mut self,
        plan: &HyperspectorPlan,
        tell: Tell<'_>,
    ) -> Result<(), Error> {
        if self.is_remade(plan) {
            tell(format!("removing {}: its network changes", plan.name));
            self.hyperspectors.remove(&plan.name);
            teardown::hyperspector(&self.layout, &self.cgroups, &plan.name)?;
        }
        if !self.hyperspectors.contains_key(&plan.name) {
            tell(format!("making the hub of {}", plan.name));
            let dir = self.layout.hyperspector(&plan.name);
            private_dir(&dir.0).doing(on("make", &dir.0))?;
            let hub = Hub::create(dir.hub()).doing(|| format!("make the hub of {}", plan.name))?;
            let vpn = Vpn::default();
            let made = Hyperspector { hub, vpn, portspaces: BTreeMap::new() };
            self.hyperspectors.insert(plan.name.clone(), made);
        }
        let Some(hyperspector) = self.hyperspectors.get_mut(&plan.name) else { return Ok(()) };
        hyperspector.vpn.ensure(&self.layout, &hyperspector.hub, plan, tell)?;
        for portspace in hyperspector.portspaces.values() {
            let name = &portspace.record.plan.name;
            build::etc(&self.layout.portspace(name), plan, &portspace.record.plan)?;
        }
        Ok(())
    }

    /// Whether what all portspaces of a HyperSpector are connected with changes.
    fn is_remade(&self, wanted: &HyperspectorPlan) -> bool {
        let known = self.before.hyperspectors.iter().find(|one| one.name == wanted.name);
        let differs = known.is_some_and(|known| {
            known.vpn.networks != wanted.vpn.networks || known.vpn.mtu != wanted.vpn.mtu
        });
        differs && self.hyperspectors.contains_key(&wanted.name)
    }

    fn ensure_portspace(
        &mut self,
        hyperspector: &HyperspectorPlan,
        plan: &PortspacePlan,
        tell: Tell<'_>,
    ) -> Outcome {
        let name = plan.name.clone();
        let Some(existing) = self.living(&name) else {
            tell(format!("starting {name}"));
            let failure = self.make(hyperspector, plan).err();
            return outcome(name, Done::Started, failure);
        };
        let running = &existing.record.plan;
        if running == plan && existing.init.is_alive() {
            return outcome(name, Done::Kept, None);
        }
        let alike = PortspacePlan { limits: plan.limits, ..running.clone() } == *plan;
        if alike && existing.init.is_alive() && self.limit(&name, &plan.limits).is_ok() {
            return outcome(name, Done::Limited, None);
        }
        tell(format!("restarting {name}"));
        self.unmake(&name);
        let failure = self.make(hyperspector, plan).err();
        outcome(name, Done::Restarted, failure)
    }

    fn living(&self, name: &PortspaceName) -> Option<&Portspace> {
        self.hyperspectors.get(&name.hyperspector)?.portspaces.get(&name.portspace)
    }

    /// Changes the limits of a running portspace.
    fn limit(&mut self, name: &PortspaceName, limits: &Limits) -> Result<(), Error> {
        let doing = || format!("limit {name}");
        let cgroup = self.cgroups.open(&self.layout.cgroup(name)).doing(doing)?;
        let missing = build::missing(&cgroup.update(limits));
        let record = self.layout.portspace(name).record();
        let hyperspector = self.hyperspectors.get_mut(&name.hyperspector);
        if let Some(living) = hyperspector.and_then(|one| one.portspaces.get_mut(&name.portspace)) {
            living.record.plan.limits = *limits;
            living.record.limits_missing = missing;
            files::save(&record, &living.record).doing(on("write", &record))?;
        }
        Ok(())
    }

    fn make(&mut self, hyperspector: &HyperspectorPlan, plan: &PortspacePlan) -> Result<(), Error> {
        let Some(living) = self.hyperspectors.get_mut(&hyperspector.name) else {
            return Err(Error::new(format!("start {}", plan.name), "its hub is not there"));
        };
        // What an agent that was killed has left of it.
        if self.layout.portspace(&plan.name).run.exists() {
            let hub = Some(&living.hub);
            let _ = build::remove(&self.layout, &self.cgroups, hub, &plan.name, None);
        }
        let site = Site {
            layout: &self.layout,
            cgroups: &self.cgroups,
            hub: &living.hub,
            hyperspector,
            guard: self.guard.as_ref(),
        };
        match build::portspace(&site, plan) {
            Ok(portspace) => {
                self.failures.remove(&plan.name);
                living.portspaces.insert(plan.name.portspace.clone(), portspace);
                Ok(())
            }
            Err(error) => {
                self.failures.insert(plan.name.clone(), error.to_string());
                Err(error)
            }
        }
    }

    fn unmake(&mut self, name: &PortspaceName) {
        let Some(living) = self.hyperspectors.get_mut(&name.hyperspector) else { return };
        let portspace = living.portspaces.remove(&name.portspace);
        let init = portspace.as_ref().map(|portspace| &portspace.init);
        let hub = Some(&living.hub);
        if let Err(error) = build::remove(&self.layout, &self.cgroups, hub, name, init) {
            eprintln!("remove {name}: {error}");
        }
    }

    /// Portspaces that are wanted and do not live: their init has ended, they could not be made, or
    /// they ended while no agent ran.
    pub(crate) fn missing(&self) -> Vec<PortspaceName> {
        let wanted = self.plan.hyperspectors.iter().filter_map(|plan| {
            let living = self.hyperspectors.get(&plan.name)?;
            Some(plan.portspaces.iter().filter(|one| supervise::is_renewed(one.run)).filter(
                |one| {
                    let portspace = living.portspaces.get(&one.name.portspace);
                    portspace.is_none_or(|portspace| !portspace.init.is_alive())
                },
            ))
        });
        wanted.flatten().map(|one| one.name.clone()).collect()
    }

    /// Makes a portspace again that is wanted and does not live.
    pub(crate) fn renew(&mut self, name: &PortspaceName) {
        let hyperspectors = &self.plan.hyperspectors;
        let Some(hyperspector) = hyperspectors.iter().find(|one| one.name == name.hyperspector)
        else {
            return;
        };
        let hyperspector = hyperspector.clone();
        let Some(plan) = hyperspector.portspaces.iter().find(|one| one.name == *name) else {
            return;
        };
        eprintln!("making {name} again");
        let renewals = self.living(name).map_or(0, |living| living.record.renewals) + 1;
        self.unmake(name);
        if let Err(error) = self.make(&hyperspector, plan) {
            eprintln!("make {name} again: {error}");
            return;
        }
        let living = self.hyperspectors.get_mut(&name.hyperspector);
        if let Some(living) = living.and_then(|one| one.portspaces.get_mut(&name.portspace)) {
            living.record.renewals = renewals;
            let _ = files::save(&self.layout.portspace(name).record(), &living.record);
        }
    }

    /// Replaces workers that have died.
    pub(crate) fn revive_workers(&mut self) {
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

    /// Hides again what servers have put in the place of something hidden.
    pub(crate) fn keep_masks(&mut self) {
        let all = self.hyperspectors.values_mut().flat_map(|one| one.portspaces.values_mut());
        for Portspace { record, init, masks, .. } in all.filter(|one| one.init.is_alive()) {
            if let Err(error) = masks.keep(&record.plan, init.id.pid) {
                eprintln!("keep hidden what {} must not see: {error}", record.plan.name);
            }
        }
    }

    /// Waits until every portspace that was started has executed its command and lived for a moment.
    fn wait_until_started(&self, outcomes: &mut [Outcome], tell: Tell<'_>) {
        let deadline = Instant::now() + START_PATIENCE;
        for outcome in outcomes.iter_mut() {
            if outcome.failure.is_some() || outcome.done == Done::Removed {
                continue;
            }
            outcome.failure = self.settled(&outcome.name, deadline);
            let is_new = matches!(outcome.done, Done::Started | Done::Restarted);
            if is_new && outcome.failure.is_none() {
                tell(format!("{} runs", outcome.name));
            }
        }
    }

    fn settled(&self, name: &PortspaceName, deadline: Instant) -> Option<Failure> {
        let path = self.layout.portspace(name).report();
        loop {
            let report = report::read(&path).ok();
            if let Some(report) = &report {
                match report.state {
                    State::Failed => return Some(self.failure(name, reason_of(report))),
                    State::Stopped if !ended_well(report) => {
                        return Some(self.failure(name, reason_of(report)));
                    }
                    State::Stopped | State::Waiting => return None,
                    State::Running if has_settled(report) => return None,
                    State::Running | State::Starting => {}
                }
            }
            if Instant::now() > deadline {
                let reason = "the command was not started in time".to_owned();
                return Some(self.failure(name, reason));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn failure(&self, name: &PortspaceName, reason: String) -> Failure {
        let logs = self.layout.portspace(name).logs();
        Failure { reason, last_lines: crate::logs::last(&logs, LAST_LINES) }
    }
}

fn has_settled(report: &Report) -> bool {
    build::now().saturating_sub(report.since) >= u64::try_from(SETTLED.as_millis()).unwrap_or(0)
}

fn ended_well(report: &Report) -> bool {
    report.last_end == Some(hyperspector_space::control::End::Status(0))
}

pub(crate) fn reason_of(report: &Report) -> String {
    report.reason.clone().unwrap_or_else(|| match report.last_end {
        Some(end) => end.to_string(),
        None => "it was not started".to_owned(),
    })
}

fn outcome(name: PortspaceName, done: Done, error: Option<Error>) -> Outcome {
    let failure = error.map(|error| Failure { reason: error.to_string(), last_lines: Vec::new() });
    Outcome { name, done, failure }
}
