//! Making the host equal to a plan: what is gone goes, what is new comes, what differs is made
//! again, and the rest is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use hyperspector_space::cgroup::Cgroups;
use hyperspector_spec::plan::{
    HostPlan, HyperspectorPlan, Limits, PortspaceName, PortspacePlan, ServerKind, ServerPlan,
    VpnPlan,
};
use hyperspector_vpn::hub::Hub;
use hyperspector_window::sockets::place::worker::Places;

use crate::build::{self, Portspace};
use crate::error::{Doing, Error, on};
use crate::guard::Guard;
use crate::helper::{Errands, Reply, Viewer};
use crate::journals::Journals;
use crate::layout::{Layout, SpaceName, private_dir};
use crate::lock::Lock;
use crate::making::{Making, What};
use crate::processes::{Facts, Listed};
use crate::protocol::{Done, Failure, Outcome};
use crate::server::hold;
use crate::servers::{ServerSpace, Servers};
use crate::sockets::Tees;
use crate::syscalls::Tracers;
use crate::views::Prints;
use crate::vpn::Vpn;
use crate::{files, space, teardown, waiting};

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
    /// Spaces that are being made or ended.
    pub(crate) making: BTreeMap<SpaceName, Making>,
    /// What was asked of the file systems that spaces are made of, and not answered in time.
    pub(crate) unanswered: BTreeMap<SpaceName, Reply<Places>>,
    /// Spaces of a plan that is being applied, which has not come to them.
    pub(crate) pending: BTreeSet<SpaceName>,
    /// Held by whoever applies a plan or takes everything down: one after the other.
    pub(crate) turn: Arc<Mutex<()>>,
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
    /// Writes down what is wanted from now on. One space after the other is taken up by `apply`, and by
    /// nobody else before.
    fn want(&mut self, plan: &HostPlan) -> Result<(), Error> {
        // Written first: an agent that is killed from here on leaves the next one its aim.
        files::save(&self.layout.plan(), plan).doing(on("write", &self.layout.plan()))?;
        self.plan = plan.clone();
        self.servers.want(&plan.servers);
        self.failures.clear();
        // Others may be looked at now.
        self.unanswered.clear();
        self.pending = spaces(plan).collect();
        Ok(())
    }

    /// Begins to end the spaces that `plan` does not have.
    fn end_unwanted(&mut self, plan: &HostPlan, tell: Tell<'_>) -> Vec<Outcome> {
        let wanted: BTreeSet<SpaceName> = spaces(plan).collect();
        let portspaces = self.hyperspectors.values().flat_map(|one| one.portspaces.values());
        let portspaces = portspaces.map(|one| SpaceName::from(&one.record.plan.name));
        let servers = self.server_spaces.keys().cloned().map(SpaceName::Server);
        let all = portspaces.chain(servers).chain(self.making.keys().cloned());
        let gone: BTreeSet<SpaceName> = all.filter(|name| !wanted.contains(name)).collect();
        let end = |name: SpaceName| {
            tell(format!("removing {name}"));
            self.begin(&name, None, 0);
            outcome(name, Done::Removed, None)
        };
        gone.into_iter().map(end).collect()
    }

    /// Takes down the HyperSpectors that `plan` does not have, whose portspaces have ended.
    fn remove_unwanted(&mut self, plan: &HostPlan, tell: Tell<'_>) {
        let is_wanted = |name: &String| plan.hyperspectors.iter().any(|one| one.name == *name);
        let gone: Vec<String> =
            self.hyperspectors.keys().filter(|name| !is_wanted(name)).cloned().collect();
        for name in gone {
            tell(format!("removing {name}"));
            self.hyperspectors.remove(&name);
            let _ = teardown::hyperspector(&self.layout, &self.cgroups, &name, tell);
        }
    }

    /// Begins to make the portspaces that are not there, changes those that are others, and connects them.
    /// Returns what was done, and why a HyperSpector is cut off.
    fn apply_portspaces(
        &mut self,
        plan: &HostPlan,
        tell: Tell<'_>,
    ) -> (Vec<Outcome>, BTreeMap<String, Error>) {
        let (mut outcomes, mut unconnected) = (Vec::new(), BTreeMap::new());
        for hyperspector in &plan.hyperspectors {
            let hub = self.ensure_hub(hyperspector, tell);
            if hub.is_ok()
                && let Err(error) = self.ensure_connected(hyperspector, tell)
            {
                unconnected.insert(hyperspector.name.clone(), error);
            }
            for portspace in &hyperspector.portspaces {
                outcomes.push(match &hub {
                    Ok(()) => self.ensure_portspace(hyperspector, portspace, tell),
                    Err(error) => self.without_hub(&portspace.name, error),
                });
            }
        }
        (outcomes, unconnected)
    }

    /// What becomes of a portspace whose hub cannot be made.
    fn without_hub(&mut self, name: &PortspaceName, error: &Error) -> Outcome {
        let reason = error.to_string();
        self.pending.remove(&name.into());
        self.failures.insert(name.into(), reason.clone());
        let failure = Some(Failure { reason, last_lines: Vec::new() });
        Outcome { name: name.into(), done: Done::Started, failure }
    }

    /// Starts the guard where it is needed and does not run.
    pub(crate) fn need_guard(&mut self, plan: &PortspacePlan) -> Result<(), Error> {
        if self.guard.is_none() && plan.windows.packets.is_some() {
            self.guard = Some(Guard::start(&self.layout)?);
        }
        Ok(())
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
            self.making.retain(|name, _| !is_part(name, &plan.name));
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
        let what = || Some(What::Portspace(Box::new(hyperspector.clone()), Box::new(plan.clone())));
        let Some(existing) = self.living(&name) else {
            tell(format!("starting {name}"));
            self.begin(&SpaceName::from(&name), what(), 0);
            return outcome(name, Done::Started, None);
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
        self.begin(&SpaceName::from(&name), what(), 0);
        outcome(name, Done::Restarted, None)
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
}

/// Makes the host equal to `plan`. The agent is held for moments only: what a space is waited for holds
/// up nobody else.
///
/// # Errors
/// Where something that all portspaces need is missing; what one portspace lacks is told in its
/// outcome, and the others come up.
pub(crate) fn apply(
    agent: &Mutex<Agent>,
    plan: &HostPlan,
    tell: Tell<'_>,
) -> Result<Vec<Outcome>, Error> {
    hold(agent).want(plan)?;
    let outcomes = steps(agent, plan, tell);
    // Whatever became of it, the supervisor looks after all of them from now on.
    hold(agent).pending.clear();
    Ok(outcomes)
}

fn steps(agent: &Mutex<Agent>, plan: &HostPlan, tell: Tell<'_>) -> Vec<Outcome> {
    let mut outcomes = hold(agent).end_unwanted(plan, tell);
    waiting::until_made(agent, &mut outcomes, tell);
    let mut servers = {
        let mut agent = hold(agent);
        agent.remove_unwanted(plan, tell);
        agent.apply_servers(plan, tell)
    };
    waiting::until_made(agent, &mut servers, tell);
    waiting::until_looked_for(agent);
    {
        let agent = &mut *hold(agent);
        for (name, why) in agent.servers.absent() {
            tell(format!("server {name} is down: {why}"));
        }
        agent.journals.want(&agent.layout, &agent.servers, plan);
    }
    waiting::until_followed(agent);
    let (mut portspaces, unconnected) = {
        let mut agent = hold(agent);
        agent.need_tracers();
        agent.apply_portspaces(plan, tell)
    };
    waiting::until_made(agent, &mut portspaces, tell);
    outcomes.extend(servers.into_iter().chain(portspaces));
    let layout = hold(agent).layout.clone();
    waiting::until_started(&layout, &mut outcomes, tell);
    // An IDS that lacks its VPN, or one of its windows, still sees and notes: it runs, and its
    // operator is told.
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.failure.is_none()) {
        let SpaceName::Portspace(name) = &outcome.name else { continue };
        let agent = hold(agent);
        let lacks = unconnected
            .get(&name.hyperspector)
            .map(|error| format!("is cut off from other hosts: {error}"))
            .or_else(|| Some(format!("sees no system calls: {}", agent.untraced(name)?)));
        if let Some(lacks) = lacks.filter(|_| outcome.done != Done::Removed) {
            let reason = format!("it runs, but {lacks}");
            outcome.failure = Some(Failure { reason, last_lines: Vec::new() });
        }
    }
    outcomes
}

/// The names of the spaces of a plan.
fn spaces(plan: &HostPlan) -> impl Iterator<Item = SpaceName> {
    let portspaces = plan.hyperspectors.iter().flat_map(|one| &one.portspaces);
    let portspaces = portspaces.map(|plan| SpaceName::from(&plan.name));
    let is_space = |server: &&ServerPlan| matches!(server.kind, ServerKind::Space(_));
    let servers = plan.servers.iter().filter(is_space);
    servers.map(|server| SpaceName::Server(server.name.clone())).chain(portspaces)
}

/// Whether a space is a portspace of `hyperspector`.
fn is_part(name: &SpaceName, hyperspector: &str) -> bool {
    matches!(name, SpaceName::Portspace(name) if name.hyperspector == hyperspector)
}

pub(crate) fn outcome(name: impl Into<SpaceName>, done: Done, error: Option<Error>) -> Outcome {
    let name = name.into();
    let failure = error.map(|error| Failure { reason: error.to_string(), last_lines: Vec::new() });
    Outcome { name, done, failure }
}
