//! Making the host equal to a plan: what is gone goes, what is new comes, what differs is made
//! again, and the rest is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hyperspector_space::cgroup::Cgroups;
use hyperspector_space::control::{Report, State};
use hyperspector_space::init::report;
use hyperspector_spec::plan::{
    HostPlan, HyperspectorPlan, Limits, PortspaceName, PortspacePlan, VpnPlan,
};
use hyperspector_vpn::hub::Hub;

use crate::build::{self, Portspace, Site};
use crate::error::{Doing, Error, on};
use crate::guard::Guard;
use crate::helper::{Errands, Viewer};
use crate::journals::Journals;
use crate::layout::{Layout, SpaceName, private_dir};
use crate::lock::Lock;
use crate::processes::{Facts, Listed};
use crate::protocol::{Done, Failure, Outcome};
use crate::servers::{ServerSpace, Servers};
use crate::sockets::Tees;
use crate::syscalls::Tracers;
use crate::views::{Around, Prints};
use crate::vpn::Vpn;
use crate::{files, space, teardown};

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
    /// The lock of the run directory.
    pub(crate) lock: Lock,
    /// What is wanted.
    pub(crate) plan: HostPlan,
    pub(crate) guard: Option<Guard>,
    /// What is watched, as it is now.
    pub(crate) servers: Servers,
    /// What they were like when their views were looked at last.
    pub(crate) prints: Prints,
    /// The worker that makes views.
    pub(crate) viewer: Viewer,
    /// What changes on those whose changes are watched.
    pub(crate) journals: Journals,
    /// The server spaces, by name.
    pub(crate) server_spaces: BTreeMap<String, ServerSpace>,
    pub(crate) hyperspectors: BTreeMap<String, Hyperspector>,
    /// Spaces that are wanted and could not be made, with the reason.
    pub(crate) failures: BTreeMap<SpaceName, String>,
    /// What is known of servers' processes, by server.
    pub(crate) facts: BTreeMap<String, Facts>,
    /// The tees of servers whose sockets are read, by server.
    pub(crate) tees: Tees,
    /// The worker that looks at paths, and puts servers' sockets in place.
    pub(crate) errands: Errands,
    /// The tracers of servers whose system calls are watched, by server.
    pub(crate) tracers: Tracers,
    /// The processes of servers that are shown one by one.
    pub(crate) listed: BTreeMap<String, Listed>,
}

/// A HyperSpector's part on this host.
pub(crate) struct Hyperspector {
    pub(crate) hub: Hub,
    /// What the hub was made for, as far as is known.
    pub(crate) network: Option<VpnPlan>,
    pub(crate) vpn: Vpn,
    pub(crate) portspaces: BTreeMap<String, Portspace>,
}

/// Where progress is told.
pub(crate) type Tell<'a> = &'a dyn Fn(String);

impl Agent {
    /// Makes the host equal to `plan`.
    ///
    /// # Errors
    /// Where something that all portspaces need is missing; what one portspace lacks is told in its
    /// outcome, and the others come up.
    pub(crate) fn apply(&mut self, plan: HostPlan, tell: Tell<'_>) -> Result<Vec<Outcome>, Error> {
        // Written first: an agent that is killed from here on leaves the next one its aim.
        files::save(&self.layout.plan(), &plan).doing(on("write", &self.layout.plan()))?;
        self.plan = plan.clone();
        self.servers.want(&plan.servers);
        self.failures.clear();
        let mut outcomes = self.remove_unwanted(&plan, tell);
        outcomes.extend(self.apply_servers(&plan, tell));
        self.follow_servers();
        for (name, why) in self.servers.absent() {
            tell(format!("server {name} is down: {why}"));
        }
        self.journals.want(&self.layout, &self.servers, &plan);
        self.need_tracers();
        let mut unconnected = BTreeMap::new();
        for hyperspector in &plan.hyperspectors {
            let hub = self.ensure_hub(hyperspector, tell);
            if hub.is_ok()
                && let Err(error) = self.ensure_connected(hyperspector, tell)
            {
                unconnected.insert(&hyperspector.name, error);
            }
            for portspace in &hyperspector.portspaces {
                outcomes.push(match &hub {
                    Ok(()) => self.ensure_portspace(hyperspector, portspace, tell),
                    Err(error) => self.without_hub(&portspace.name, error),
                });
            }
        }
        self.wait_until_started(&mut outcomes, tell);
        // An IDS that lacks its VPN, or one of its windows, still sees and notes: it runs, and its
        // operator is told.
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.failure.is_none()) {
            let SpaceName::Portspace(name) = &outcome.name else { continue };
            let lacks = unconnected
                .get(&name.hyperspector)
                .map(|error| format!("is cut off from other hosts: {error}"))
                .or_else(|| Some(format!("sees no system calls: {}", self.untraced(name)?)));
            if let Some(lacks) = lacks.filter(|_| outcome.done != Done::Removed) {
                let reason = format!("it runs, but {lacks}");
                outcome.failure = Some(Failure { reason, last_lines: Vec::new() });
            }
        }
        Ok(outcomes)
    }

    /// What becomes of a portspace whose hub cannot be made.
    fn without_hub(&mut self, name: &PortspaceName, error: &Error) -> Outcome {
        let reason = error.to_string();
        self.failures.insert(name.into(), reason.clone());
        let failure = Some(Failure { reason, last_lines: Vec::new() });
        Outcome { name: name.into(), done: Done::Started, failure }
    }

    /// Starts the guard where it is needed and does not run.
    fn need_guard(&mut self, plan: &PortspacePlan) -> Result<(), Error> {
        if self.guard.is_none() && plan.windows.packets.is_some() {
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
            let _ = teardown::hyperspector(&self.layout, &self.cgroups, &name, tell);
        }
        outcomes
    }

    /// Makes the hub, again where its networks change, and its rules.
    pub(crate) fn ensure_hub(
        &mut self,
        plan: &HyperspectorPlan,
        tell: Tell<'_>,
    ) -> Result<(), Error> {
        if self.is_remade(plan) {
            tell(format!("removing {}: its network changes", plan.name));
            self.hyperspectors.remove(&plan.name);
            teardown::hyperspector(&self.layout, &self.cgroups, &plan.name, tell)?;
        }
        if !self.hyperspectors.contains_key(&plan.name) {
            tell(format!("making the hub of {}", plan.name));
            let dir = self.layout.hyperspector(&plan.name);
            if dir.hub().exists() {
                // What could not be taken down, or was half made.
                let _ = teardown::hyperspector(&self.layout, &self.cgroups, &plan.name, tell);
            }
            private_dir(&dir.0).doing(on("make", &dir.0))?;
            files::save(&dir.network(), &plan.vpn).doing(on("write", &dir.network()))?;
            let hub = Hub::create(dir.hub()).doing(|| format!("make the hub of {}", plan.name))?;
            let network = Some(plan.vpn.clone());
            let (vpn, portspaces) = (Vpn::default(), BTreeMap::new());
            let made = Hyperspector { hub, network, vpn, portspaces };
            self.hyperspectors.insert(plan.name.clone(), made);
        }
        let Some(made) = self.hyperspectors.get(&plan.name) else { return Ok(()) };
        let doing = || format!("say who may talk to whom in {}", plan.name);
        made.hub.enforce(&plan.policy, &plan.ports()).doing(doing)
    }

    /// Starts the VPN, or changes its peers, and keeps names up to date.
    fn ensure_connected(&mut self, plan: &HyperspectorPlan, tell: Tell<'_>) -> Result<(), Error> {
        let Some(hyperspector) = self.hyperspectors.get_mut(&plan.name) else { return Ok(()) };
        let connected = hyperspector.vpn.ensure(&self.layout, &hyperspector.hub, plan, tell);
        for portspace in hyperspector.portspaces.values() {
            let name = &portspace.record.plan.name;
            build::etc(&self.layout.portspace(name), plan, &portspace.record.plan)?;
        }
        connected
    }

    /// Whether what all portspaces of a HyperSpector are connected with changes.
    fn is_remade(&self, wanted: &HyperspectorPlan) -> bool {
        let known = self.hyperspectors.get(&wanted.name).and_then(|one| one.network.as_ref());
        known.is_some_and(|known| {
            known.networks != wanted.vpn.networks || known.mtu != wanted.vpn.mtu
        })
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
        // A server of that name may be a server space now, or another than it was.
        let ranges = build::ranges(&self.layout, &self.plan.servers, plan);
        let is_same = ranges == existing.record.ranges;
        if is_same && running == plan && existing.init.is_alive() {
            return outcome(name, Done::Kept, None);
        }
        let mut alike = running.clone();
        alike.space.limits = plan.space.limits;
        let alike = is_same && alike == *plan;
        if alike && existing.init.is_alive() && self.limit(&name, &plan.space.limits).is_ok() {
            return outcome(name, Done::Limited, None);
        }
        tell(format!("restarting {name}"));
        self.unmake(&name);
        let failure = self.make(hyperspector, plan).err();
        outcome(name, Done::Restarted, failure)
    }

    pub(crate) fn living(&self, name: &PortspaceName) -> Option<&Portspace> {
        self.hyperspectors.get(&name.hyperspector)?.portspaces.get(&name.portspace)
    }

    /// Changes the limits of a running portspace.
    fn limit(&mut self, name: &PortspaceName, limits: &Limits) -> Result<(), Error> {
        let doing = || format!("limit {name}");
        let cgroup = self.cgroups.open(&self.layout.cgroup(&name.into())).doing(doing)?;
        let missing = space::missing(&cgroup.update(limits));
        let record = self.layout.portspace(name).record();
        let hyperspector = self.hyperspectors.get_mut(&name.hyperspector);
        if let Some(living) = hyperspector.and_then(|one| one.portspaces.get_mut(&name.portspace)) {
            living.record.plan.space.limits = *limits;
            living.record.space.limits_missing = missing;
            files::save(&record, &living.record).doing(on("write", &record))?;
        }
        Ok(())
    }

    pub(crate) fn make(
        &mut self,
        hyperspector: &HyperspectorPlan,
        plan: &PortspacePlan,
    ) -> Result<(), Error> {
        let needed = self.need_guard(plan).and_then(|()| self.need_facts(plan));
        let made = needed.and_then(|()| self.build(hyperspector, plan));
        match &made {
            Ok(()) => self.failures.remove(&SpaceName::from(&plan.name)),
            Err(error) => self.failures.insert((&plan.name).into(), error.to_string()),
        };
        made
    }

    fn build(
        &mut self,
        hyperspector: &HyperspectorPlan,
        plan: &PortspacePlan,
    ) -> Result<(), Error> {
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
            servers: &self.plan.servers,
            hyperspector,
            guard: self.guard.as_ref(),
        };
        let mut around = Around {
            layout: &self.layout,
            servers: &self.servers,
            prints: &mut self.prints,
            viewer: &mut self.viewer,
            errands: &mut self.errands,
            own: space::hidden(&self.layout),
        };
        let portspace = build::portspace(&site, &mut around, &mut self.journals, plan)?;
        living.portspaces.insert(plan.name.portspace.clone(), portspace);
        Ok(())
    }

    pub(crate) fn unmake(&mut self, name: &PortspaceName) {
        let Some(living) = self.hyperspectors.get_mut(&name.hyperspector) else { return };
        let portspace = living.portspaces.remove(&name.portspace);
        let init = portspace.as_ref().map(|portspace| &portspace.init);
        let hub = Some(&living.hub);
        if let Err(error) = build::remove(&self.layout, &self.cgroups, hub, name, init) {
            eprintln!("remove {name}: {error}");
        }
    }

    /// Waits until every space that was started has executed its command and lived for a moment.
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

    fn settled(&self, name: &SpaceName, deadline: Instant) -> Option<Failure> {
        let path = self.layout.space(name).report();
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

    pub(crate) fn failure(&self, name: &SpaceName, reason: String) -> Failure {
        let logs = self.layout.space(name).logs();
        Failure { reason, last_lines: crate::logs::last(&logs, LAST_LINES) }
    }
}

fn has_settled(report: &Report) -> bool {
    space::now().saturating_sub(report.since) >= u64::try_from(SETTLED.as_millis()).unwrap_or(0)
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

pub(crate) fn outcome(name: impl Into<SpaceName>, done: Done, error: Option<Error>) -> Outcome {
    let name = name.into();
    let failure = error.map(|error| Failure { reason: error.to_string(), last_lines: Vec::new() });
    Outcome { name, done, failure }
}
