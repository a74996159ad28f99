//! Finding what an earlier agent has left running.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hyperspector_space::cgroup::Cgroups;
use hyperspector_spec::plan::{HostPlan, PortspaceName};
use hyperspector_vpn::hub::Hub;

use crate::apply::{Agent, Hyperspector};
use crate::build::Portspace;
use crate::error::{Doing, Error};
use crate::guard::Guard;
use crate::helper::{Errands, Viewer};
use crate::ids::Register;
use crate::journals::Journals;
use crate::layout::Layout;
use crate::lock::Lock;
use crate::processes::{self, Facts};
use crate::record::PortspaceRecord;
use crate::servers::Servers;
use crate::sockets::Tee;
use crate::syscalls::Tracers;
use crate::views::{Prints, Views};
use crate::vpn::Vpn;
use crate::watch::Lost;
use crate::windows::Windows;
use crate::{files, teardown, workers};

impl Agent {
    /// An agent that adopts what an earlier one has left running.
    pub(crate) fn adopt(layout: Layout, lock: Lock) -> Result<Self, Error> {
        let cgroups = Cgroups::detect().doing(|| "find the cgroup hierarchies".into())?;
        Register::default().announce(&layout)?;
        let nothing =
            HostPlan { host: String::new(), servers: Vec::new(), hyperspectors: Vec::new() };
        let plan: HostPlan = files::load(&layout.plan()).unwrap_or(nothing);
        let guard = Guard::adopt(&layout);
        let mut agent = Self {
            layout,
            cgroups,
            lock,
            plan,
            guard,
            servers: Servers::default(),
            prints: Prints::default(),
            viewer: Viewer::default(),
            journals: Journals::default(),
            server_spaces: BTreeMap::new(),
            hyperspectors: BTreeMap::new(),
            failures: BTreeMap::new(),
            making: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            pending: BTreeSet::new(),
            turn: Arc::default(),
            facts: BTreeMap::new(),
            tees: BTreeMap::new(),
            errands: Errands::default(),
            tracers: Tracers::default(),
            listed: BTreeMap::new(),
        };
        agent.servers.want(&agent.plan.servers);
        for name in teardown::names(&agent.layout.all_facts()) {
            let facts = Facts::adopt(&agent.layout, &name);
            agent.facts.insert(name, facts);
        }
        for name in teardown::names(&agent.layout.tees()) {
            let tee = Tee::adopt(&agent.layout, &name);
            agent.tees.insert(name, tee);
        }
        agent.tracers = Tracers::adopt(&agent.layout);
        for name in teardown::names(&agent.layout.servers()) {
            agent.adopt_server(&name);
        }
        for name in teardown::names(&agent.layout.hyperspectors()) {
            agent.adopt_hyperspector(&name);
        }
        agent.journals = Journals::adopt(&agent.layout);
        workers::end_strays(&agent.layout, &agent.cgroups, &agent.workers());
        Ok(agent)
    }

    /// The process ids of all workers that are known.
    fn workers(&self) -> BTreeSet<i32> {
        let mut known: BTreeSet<i32> = self.guard.iter().map(|guard| guard.id().pid).collect();
        known.extend(self.facts.values().filter_map(|facts| Some(facts.worker()?.pid)));
        known.extend(self.journals.pids());
        known.extend(self.tees.values().filter_map(|tee| Some(tee.keeper()?.pid)));
        known.extend(self.tracers.pids());
        for hyperspector in self.hyperspectors.values() {
            known.extend(hyperspector.vpn.pid());
            let portspaces = hyperspector.portspaces.values();
            known.extend(portspaces.filter_map(|one| Some(one.windows.broker_id()?.pid)));
        }
        known
    }

    /// Adopts a HyperSpector and those of its portspaces that live; the rest is removed.
    fn adopt_hyperspector(&mut self, name: &str) {
        let dir = self.layout.hyperspector(name);
        let Ok(hub) = Hub::open(dir.hub()) else {
            let _ = teardown::hyperspector(&self.layout, &self.cgroups, name, &|_| {});
            return;
        };
        let vpn = Vpn::adopt(&self.layout, name);
        let (mut portspaces, mut ended) = (BTreeMap::new(), Vec::new());
        for portspace in teardown::names(&dir.0.join("ps")) {
            let id = PortspaceName { hyperspector: name.to_owned(), portspace: portspace.clone() };
            let files = self.layout.portspace(&id);
            let record: Option<PortspaceRecord> = files::load(&files.record());
            let living = record.and_then(|record| Some((record.space.init.open()?, record)));
            match living {
                Some((init, record)) => {
                    let windows = Windows::adopt(&record);
                    if record.broker.is_some() && windows.broker_id().is_none() {
                        // Nobody holds its listener any more: it has to be made again.
                        eprintln!("the broker of {id} has died; ending {id}");
                        init.kill();
                    }
                    let views = Views::new(&record.plan, &self.servers);
                    let lost = Lost::default();
                    let processes = processes::Windows::adopt(&record.plan, &record.processes);
                    let living = Portspace { record, init, windows, views, processes, lost };
                    portspaces.insert(portspace, living);
                }
                None => ended.push(id.into()),
            }
        }
        let network = files::load(&dir.network());
        self.hyperspectors.insert(name.to_owned(), Hyperspector { hub, network, vpn, portspaces });
        for portspace in ended {
            self.begin(&portspace, None, 0);
        }
    }
}
