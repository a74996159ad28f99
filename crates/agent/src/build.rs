//! Making one portspace, and taking it down: plain lists of steps.
//!
//! Making is in two parts, before its builder works and after; [`crate::making`] waits in between. Taking down does not look at how far making came: every step removes what is there and is fine
//! with what is not, so it is also how a half-made portspace is undone.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use hyperspector_space::cgroup::Cgroups;
use hyperspector_space::config::{Network, Places, SpaceConfig};
use hyperspector_space::launch::{Building, Launched};
use hyperspector_spec::plan::{
    HyperspectorPlan, Ids, PortspaceName, PortspacePlan, ServerKind, ServerPlan,
};
use hyperspector_sys::netlink::Link;
use hyperspector_sys::netns;
use hyperspector_vpn::hub::{self, Hub, Port};
use hyperspector_window::sockets::place::paths::Owned;

use crate::error::{Doing, Error, all_or_first, on};
use crate::files;
use crate::guard::Guard;
use crate::journals::Journals;
use crate::layout::{Layout, SpaceDir, SpaceName};
use crate::process::{Process, ProcessId};
use crate::processes;
use crate::programs;
use crate::record::{self, PortspaceRecord, Watched};
use crate::servers::space::first_id;
use crate::space::{self, Ground};
use crate::syscalls;
use crate::views::{Around, Views};
use crate::watch::Lost;
use crate::windows::{self, Windows};

/// A portspace that runs.
#[derive(Debug)]
pub(crate) struct Portspace {
    /// What is known about it, as it is on disk.
    pub(crate) record: PortspaceRecord,
    /// Its init.
    pub(crate) init: Process,
    /// Its broker and what it takes to start that again.
    pub(crate) windows: Windows,
    /// Its windows on processes.
    pub(crate) processes: processes::Windows,
    /// Its file windows.
    pub(crate) views: Views,
    /// Interfaces that it watches and does not see any more.
    pub(crate) lost: Lost,
}

/// What making a portspace takes from around it.
pub(crate) struct Site<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) cgroups: &'a Cgroups,
    pub(crate) hub: &'a Hub,
    pub(crate) servers: &'a [ServerPlan],
    pub(crate) hyperspector: &'a HyperspectorPlan,
}

/// A portspace whose builder works.
pub(crate) struct Begun {
    plan: PortspacePlan,
    ground: Ground,
    links: Vec<Link>,
    ranges: Vec<u32>,
}

/// Makes what the portspace `plan` stands on, and has its builder begin. `below` is what lies under
/// its root.
pub(crate) fn begin(
    site: &Site<'_>,
    plan: &PortspacePlan,
    below: Owned,
) -> Result<(Begun, Building), Error> {
    let name = SpaceName::from(&plan.name);
    let ground = Ground::prepare(site.layout, site.cgroups, name, &plan.space, below)?;
    etc(&ground.dir, site.hyperspector, plan)?;
    let links = windows::host_links(plan)?;
    let network = network(site, &ground.dir, plan, &links)?;

    let ranges = ranges(site.layout, site.servers, plan);
    let names = plan.windows.files.iter().map(|window| window.server.clone());
    let places = Places { views: names.collect(), used: plan.windows.servers().next().is_some() };
    let config = SpaceConfig {
        windows: Some(places),
        others: ranges.clone(),
        rules: windows::rules(plan),
        companions: syscalls::writers(plan),
        ..ground.config(site.layout, &plan.space, Network::Own)
    };
    let building = ground.start(&config, Some(network.as_fd()))?;
    Ok((Begun { plan: plan.clone(), ground, links, ranges }, building))
}

/// Opens the windows of a portspace that is built, writes it down, and has its views made.
pub(crate) fn open(
    begun: &Begun,
    renewals: u64,
    (guard, servers): (Option<&Guard>, &[ServerPlan]),
    around: &mut Around<'_>,
    journals: &mut Journals,
    launched: &mut Launched,
) -> Result<Portspace, Error> {
    let Begun { plan, ground, links, ranges } = begun;
    let (layout, dir) = (around.layout, &ground.dir);
    let windows = windows::open(layout, plan, links, launched, (&ground.cgroup, guard))?;
    let processes = processes::Windows::open(layout, around.servers, plan, launched.init)?;
    programs::show(plan, launched.init)?;
    syscalls::open(layout, plan, launched.init)?;
    journals.open(layout, servers, plan, launched.init)?;
    let missing = windows.missing().map(str::to_owned).into_iter().collect();
    let (init, space) = ground.record(launched, missing, renewals)?;
    let record = PortspaceRecord {
        plan: plan.clone(),
        space,
        broker: windows.broker_id(),
        watched: links.iter().map(Watched::from).collect(),
        processes: processes.shown(),
        ranges: ranges.clone(),
    };
    // On disk before the command runs: whatever becomes of this agent, the next one finds it.
    files::save(&dir.record(), &record).doing(on("write", &dir.record()))?;
    let mut views = Views::new(plan, around.servers);
    views.begin(plan, &init, around)?;
    Ok(Portspace { record, init, windows, views, processes, lost: Lost::default() })
}

/// The ranges of ids of the server spaces that the portspace watches, by their first ids. Ids of the
/// host are in nobody's range.
pub(crate) fn ranges(layout: &Layout, servers: &[ServerPlan], plan: &PortspacePlan) -> Vec<u32> {
    if plan.space.ids == Ids::Host {
        return Vec::new();
    }
    let watched: BTreeSet<&str> = plan.windows.servers().collect();
    let spaces = servers.iter().filter_map(|server| match &server.kind {
        ServerKind::Space(space) if watched.contains(server.name.as_str()) => {
            first_id(&layout.server(&server.name), space)
        }
        _ => None,
    });
    spaces.collect()
}

/// Writes the files of `/etc` that the portspace gets from us.
pub(crate) fn etc(
    dir: &SpaceDir,
    hyperspector: &HyperspectorPlan,
    plan: &PortspacePlan,
) -> Result<(), Error> {
    let hostname = &plan.space.hostname;
    let mut hosts = format!("127.0.0.1\tlocalhost\n{}\t{hostname}\n", plan.address);
    for (address, names) in &hyperspector.names {
        hosts.push_str(&format!("{address}\t{}\n", names.join(" ")));
    }
    let resolver = "# there is no name server: the names of the HyperSpector are in hosts\n";
    space::write_etc(dir, [&hosts, &format!("{hostname}\n"), resolver])
}

/// Makes the network namespace, connects it to the hub, and adds the shadows of watched interfaces.
fn network(
    site: &Site<'_>,
    dir: &SpaceDir,
    plan: &PortspacePlan,
    links: &[Link],
) -> Result<OwnedFd, Error> {
    let doing = || format!("make the network of {}", plan.name);
    let namespace = netns::create(dir.network()).doing(doing)?;
    hub::prepare(namespace.as_fd()).doing(doing)?;
    let port = Port {
        name: &plan.name.portspace,
        namespace: namespace.as_fd(),
        address: plan.address,
        mtu: site.hyperspector.vpn.mtu,
        networks: &site.hyperspector.vpn.networks,
    };
    let (name, policy) = (&plan.name.portspace, &site.hyperspector.policy);
    let connected = site.hub.add_portspace(&port);
    connected
        .and_then(|()| site.hub.shape_port(name, policy, &site.hyperspector.ports()))
        .doing(|| format!("connect {} to its hub", plan.name))?;
    windows::shadows(links, namespace.as_fd())?;
    Ok(namespace)
}

/// Takes down a portspace: processes, broker, network, cgroup, run-time files. What lasts stays.
pub(crate) fn remove(
    layout: &Layout,
    cgroups: &Cgroups,
    hub: Option<&Hub>,
    name: &PortspaceName,
) -> Result<(), Error> {
    let (known, cgroup) = (record::known(layout, &name.into()), layout.cgroup(&name.into()));
    let ended = space::end(&cgroup, cgroups, known, None);
    let cleared = clear(layout, cgroups, hub, name);
    all_or_first([ended, cleared].into_iter().filter_map(Result::err).collect())
}

/// Removes what is left of a portspace whose processes have ended.
pub(crate) fn clear(
    layout: &Layout,
    cgroups: &Cgroups,
    hub: Option<&Hub>,
    name: &PortspaceName,
) -> Result<(), Error> {
    let (dir, cgroup) = (layout.portspace(name), layout.cgroup(&name.into()));
    let record: Option<PortspaceRecord> = files::load(&dir.record());
    let mut errors = Vec::new();
    let mut attempt = |result: Result<(), Error>| errors.extend(result.err());

    if let Some(broker) = record.and_then(|record| record.broker).and_then(ProcessId::open) {
        broker.kill();
    }
    attempt(windows::close(layout, name));
    if let Some(hub) = hub {
        let removed = hub.remove_portspace(&name.portspace);
        attempt(removed.doing(|| format!("disconnect {name} from its hub")));
    }
    attempt(netns::remove(dir.network()).doing(on("remove", &dir.network())));
    errors.extend(space::clear(&cgroup, cgroups, &dir));
    all_or_first(errors)
}
