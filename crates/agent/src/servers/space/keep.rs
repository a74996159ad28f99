//! The agent's care for server spaces: what the plan wants against what runs.

use hyperspector_spec::plan::{HostPlan, Ids, Ports, ServerKind, ServerSpacePlan};
use hyperspector_window::ports;

use super::chance::given_by_chance;
use super::{ServerSpace, etc, guard_ports, pins};
use crate::apply::{Agent, Tell, outcome};
use crate::error::{Doing, Error, on};
use crate::ids::Register;
use crate::layout::{SpaceDir, SpaceName};
use crate::making::What;
use crate::protocol::{Done, Outcome};
use crate::record::ServerSpaceRecord;
use crate::status::ServerSpaceStatus;
use crate::{collect, files, space, supervise};

/// The server spaces of a plan.
fn planned(plan: &HostPlan) -> impl Iterator<Item = (&str, &ServerSpacePlan)> {
    plan.servers.iter().filter_map(|server| match &server.kind {
        ServerKind::Space(space) => Some((server.name.as_str(), &**space)),
        ServerKind::Adopted(_) => None,
    })
}

impl Agent {
    /// Begins to make the server spaces that are not there, and changes those that are others.
    pub(crate) fn apply_servers(&mut self, plan: &HostPlan, tell: Tell<'_>) -> Vec<Outcome> {
        planned(plan).map(|(name, plan)| self.ensure_server(name, plan, tell)).collect()
    }

    fn ensure_server(&mut self, name: &str, plan: &ServerSpacePlan, tell: Tell<'_>) -> Outcome {
        let id = SpaceName::Server(name.to_owned());
        let what = || Some(What::Server(Box::new(plan.clone())));
        let Some(existing) = self.server_spaces.get(name) else {
            tell(format!("starting {name}"));
            self.begin(&id, what(), 0);
            return outcome(id, Done::Started, None);
        };
        let (running, is_alive) = (&existing.record.plan, existing.init.is_alive());
        if running == plan && is_alive {
            return outcome(id, Done::Kept, None);
        }
        let mut alike = running.clone();
        alike.space.limits = plan.space.limits;
        let is_limited = alike == *plan;
        alike.ports.clone_from(&plan.ports);
        alike.deny.clone_from(&plan.deny);
        if alike == *plan && is_alive && self.change_server(name, plan).is_ok() {
            return outcome(id, if is_limited { Done::Limited } else { Done::Changed }, None);
        }
        tell(format!("restarting {name}"));
        self.begin(&id, what(), 0);
        outcome(id, Done::Restarted, None)
    }

    /// Changes limits and ports of a server space that runs.
    fn change_server(&mut self, name: &str, plan: &ServerSpacePlan) -> Result<(), Error> {
        let doing = || format!("change {name}");
        let id = SpaceName::Server(name.to_owned());
        let cgroup = self.cgroups.open(&self.layout.cgroup(&id)).doing(doing)?;
        let missing = space::missing(&cgroup.update(&plan.space.limits));
        guard_ports(&self.layout, name, plan, &cgroup)?;
        let Some(living) = self.server_spaces.get_mut(name) else { return Ok(()) };
        living.record.plan = plan.clone();
        living.record.space.limits_missing = missing;
        let path = self.layout.server(name).record();
        files::save(&path, &living.record).doing(on("write", &path))
    }

    /// Finds a server space that an earlier agent has left running; what does not live is removed.
    pub(crate) fn adopt_server(&mut self, name: &str) {
        let record: Option<ServerSpaceRecord> = files::load(&self.layout.server(name).record());
        match record.and_then(|record| Some((record.space.init.open()?, record))) {
            Some((init, record)) => {
                self.server_spaces.insert(name.to_owned(), ServerSpace { record, init });
            }
            None => self.begin(&SpaceName::Server(name.to_owned()), None, 0),
        }
    }

    /// Server spaces that are wanted and do not live.
    pub(crate) fn missing_servers(&self) -> Vec<String> {
        planned(&self.plan)
            .filter(|(_, plan)| supervise::is_renewed(plan.space.run))
            .filter(|(name, _)| {
                self.server_spaces.get(*name).is_none_or(|living| !living.init.is_alive())
            })
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    /// Begins to make a server space again that is wanted and does not live.
    pub(crate) fn renew_server(&mut self, name: &str) {
        let found = planned(&self.plan).find(|(known, _)| *known == name);
        let Some(plan) = found.map(|(_, plan)| plan.clone()) else { return };
        eprintln!("making {name} again");
        let living = self.server_spaces.get(name);
        let renewals = living.map_or(0, |living| living.record.space.renewals) + 1;
        let id = SpaceName::Server(name.to_owned());
        self.begin(&id, Some(What::Server(Box::new(plan))), renewals);
    }

    /// Has server spaces follow what the host says of names.
    pub(crate) fn follow_names(&self) {
        for (name, space) in &self.server_spaces {
            if let Err(error) = etc(&self.layout.server(name), &space.record.plan) {
                eprintln!("keep the names of {name}: {error}");
            }
        }
    }
}

/// How a server space is that runs, or could not be made.
pub(crate) fn status(agent: &Agent, name: &str) -> Option<ServerSpaceStatus> {
    let id = SpaceName::Server(name.to_owned());
    let living = agent.server_spaces.get(name);
    let wanted = || Some(planned(&agent.plan).find(|(known, _)| *known == name)?.1);
    let plan = living.map(|living| &living.record.plan).or_else(wanted)?;
    let mut space = collect::planned(&plan.space);
    agent.note_missing(&id, &mut space);
    if let Some(ServerSpace { record, init }) = living {
        collect::look(agent, &id, &record.space, init, &mut space);
    }
    let text = |ports: &[Ports]| ports.iter().map(Ports::to_string).collect();
    Some(ServerSpaceStatus {
        space,
        ports: text(&plan.ports),
        given_by_chance: given_by_chance(&plan.ports),
        deny: text(&plan.deny),
        refused: ports::counts(&pins(&agent.layout, name)).ok(),
        first_id: first_id(&agent.layout.server(name), plan),
    })
}

/// The first of the host's ids that a server space's own are.
pub(crate) fn first_id(dir: &SpaceDir, plan: &ServerSpacePlan) -> Option<u32> {
    match plan.space.ids {
        Ids::Private => Register::default().range(&dir.state).ok(),
        Ids::Host => None,
    }
}
