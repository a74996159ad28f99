//! Taking everything down, with or without a living agent: found by what is there, not by what
//! somebody remembers.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hyperspector_space::cgroup::Cgroups;
use hyperspector_spec::plan::PortspaceName;
use hyperspector_vpn::hub::Hub;

use crate::error::{Doing, Error, all_or_first, on};
use crate::guard::Guard;
use crate::ids::Register;
use crate::layout::Layout;
use crate::servers::space;
use crate::vpn::Vpn;
use crate::{build, files, journals, processes, sockets, syscalls, trash};

/// How long a killed cgroup may take to become empty.
const DRAIN: Duration = Duration::from_secs(10);
/// How often the progress of a long removal is told.
const TELL_PERIOD: Duration = Duration::from_secs(2);

/// Takes down all that is there. Goes on past every failure and returns them all.
pub fn everything(layout: &Layout, tell: &dyn Fn(String)) -> Result<(), Error> {
    let cgroups = Cgroups::detect().doing(|| "find the cgroup hierarchies".into())?;
    let mut errors = Vec::new();
    for name in names(&layout.hyperspectors()) {
        tell(format!("taking down {name}"));
        errors.extend(hyperspector(layout, &cgroups, &name, tell).err());
    }
    for name in names(&layout.servers()) {
        tell(format!("ending {name}"));
        errors.extend(space::remove(layout, &cgroups, &name).err());
    }
    for name in names(&layout.all_facts()) {
        errors.extend(processes::remove(layout, &name).err());
    }
    errors.extend(journals::remove_all(layout).err());
    for name in names(&layout.tees()) {
        errors.extend(sockets::remove(layout, &name).err());
    }
    for name in names(&layout.tracers()) {
        errors.extend(syscalls::remove(layout, &name).err());
    }
    // Those too that an agent has started and not written down.
    errors.extend(cgroup(&cgroups, &layout.workers_cgroup()).err());
    errors.extend(Guard::remove(layout).err());
    errors.extend(cgroup(&cgroups, &layout.cgroup_base()).err());
    let all = [layout.hyperspectors(), layout.servers(), layout.all_facts(), layout.tees()];
    let traces = [layout.tracers(), layout.all_trace_sockets()];
    for path in all.into_iter().chain(traces).chain([layout.plan()]) {
        errors.extend(files::remove(&path).doing(on("remove", &path)).err());
    }
    all_or_first(errors)
}

/// Takes down one HyperSpector: its portspaces, its VPN, its hub.
pub(crate) fn hyperspector(
    layout: &Layout,
    cgroups: &Cgroups,
    name: &str,
    tell: &dyn Fn(String),
) -> Result<(), Error> {
    let dir = layout.hyperspector(name);
    let hub = Hub::open(dir.hub()).ok();
    let mut errors = Vec::new();
    for portspace in names(&dir.0.join("ps")) {
        let id = PortspaceName { hyperspector: name.to_owned(), portspace };
        tell(format!("ending {id}"));
        errors.extend(build::remove(layout, cgroups, hub.as_ref(), &id).err());
    }
    errors.extend(Vpn::remove(layout, name).err());
    drop(hub);
    errors.extend(Hub::remove(dir.hub()).doing(|| format!("remove the hub of {name}")).err());
    errors.extend(files::remove(&dir.0).doing(on("remove", &dir.0)).err());
    all_or_first(errors)
}

/// Ends all processes in a cgroup and below, and removes it; fine where it is not there.
pub(crate) fn cgroup(cgroups: &Cgroups, path: &Path) -> Result<(), Error> {
    let doing = || format!("remove the cgroup {}", path.display());
    if let Ok(group) = cgroups.open(path) {
        group.kill(DRAIN).doing(doing)?;
    }
    cgroups.remove(path).doing(doing)
}

/// Removes what lasts: upper layers, logs, keys, id ranges.
pub fn purge(layout: &Layout, tell: &dyn Fn(String)) -> Result<(), Error> {
    let trash = layout.state.join("trash");
    let mut errors = Vec::new();
    for spaces in [layout.state.join("portspaces"), layout.server_states(), layout.journal_states()]
    {
        let thrown =
            trash::throw(&spaces, &trash).and_then(|()| trash::empty(&trash, &mut counting(tell)));
        match thrown.doing(on("remove", &spaces)) {
            // Ranges are given back when no file carries their ids any more, and not before.
            Ok(()) => errors.extend(Register::default().release_below(&spaces).err()),
            Err(error) => errors.push(error),
        }
    }
    for path in [&layout.state.join("keys"), &layout.agent_log()] {
        errors.extend(files::remove(path).doing(on("remove", path)).err());
    }
    errors.extend(Register::default().withdraw(layout).err());
    all_or_first(errors)
}

/// Removes the agent's two directories where they are empty: what is not ours stays, and they with
/// it.
pub fn directories(layout: &Layout) {
    for path in [&layout.state, &layout.run] {
        let _ = fs::remove_dir(path);
    }
}

/// Counts files that are removed, and tells how many they are now and then.
fn counting(tell: &dyn Fn(String)) -> impl FnMut() {
    let (mut count, mut told) = (0_u64, Instant::now());
    move || {
        count += 1;
        if told.elapsed() >= TELL_PERIOD {
            told = Instant::now();
            tell(format!("removing upper layers and logs: {count} files so far"));
        }
    }
}

/// The names of the directories in `path`, sorted; none where it is not there.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
