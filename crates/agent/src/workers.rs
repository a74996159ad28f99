//! Starting workers, and where they live: a cgroup of the agent's, beside those of the portspaces, by
//! which they are found whatever becomes of the agent that starts them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hyperspector_space::cgroup::Cgroups;
use hyperspector_spec::plan::Limits;
use hyperspector_sys::worker::{self, Started};
use serde::Serialize;

use crate::error::{Doing, Error, on};
use crate::files;
use crate::layout::Layout;
use crate::process::{Process, ProcessId};

/// How long a worker may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts the worker `kind` with `config` and `fds`, and waits until it says that it runs. One that does not
/// is ended.
///
/// # Errors
/// The cause.
pub(crate) fn start(
    layout: &Layout,
    kind: &str,
    config: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> Result<Process, String> {
    let text = |error: io::Error| error.to_string();
    let place = place(layout);
    let (child, channel) =
        worker::spawn_placed(kind, config, fds, Stdio::inherit(), place).map_err(text)?;
    let id = ProcessId::of(child.id().cast_signed()).map_err(text)?;
    let process = id.open().ok_or("it ended")?;
    let word = channel.receive_within(PATIENCE).map_err(text);
    let runs = match word {
        Ok(Some((Started::Ready, _))) => Ok(()),
        Ok(Some((Started::Failed(why), _))) => Err(why),
        Ok(None) => Err("it ended without a word".to_owned()),
        Err(error) => Err(error),
    };
    runs.inspect_err(|_| process.kill())?;
    Ok(process)
}

/// Ends the worker that a record tells of, and removes its directory.
pub(crate) fn end(process: Option<ProcessId>, directory: &Path) -> Result<(), Error> {
    if let Some(process) = process.and_then(ProcessId::open) {
        process.kill();
    }
    files::remove(directory).doing(on("remove", directory))
}

/// Puts a worker into the cgroup, for `hyperspector_sys::worker::spawn_placed`.
pub(crate) fn place(layout: &Layout) -> impl FnOnce(u32) -> io::Result<()> + use<> {
    let path = layout.workers_cgroup();
    move |pid| {
        let cgroups = Cgroups::detect().map_err(io::Error::other)?;
        let (group, _) = cgroups.create(&path, &Limits::default()).map_err(io::Error::other)?;
        match group.v2_directory() {
            // In this hierarchy alone: a v1 group has no share of real-time (the guard's).
            Some(directory) => fs::write(directory.join("cgroup.procs"), pid.to_string()),
            None => group.add(pid).map_err(io::Error::other),
        }
    }
}

/// Puts a worker that may use so many bytes of memory into a cgroup of its own below `above`, which is
/// called by its number. Where the host does not limit memory, that is told once it is looked at.
pub(crate) fn place_limited(
    above: PathBuf,
    memory: u64,
) -> impl FnOnce(u32) -> io::Result<()> + use<> {
    move |pid| {
        let cgroups = Cgroups::detect().map_err(io::Error::other)?;
        let limits = Limits { memory: Some(memory), ..Limits::default() };
        let path = above.join(pid.to_string());
        let (group, _) = cgroups.create(&path, &limits).map_err(io::Error::other)?;
        group.add(pid).map_err(io::Error::other)
    }
}

/// How much memory a worker in a cgroup of its own below `above` may use, in bytes.
pub(crate) fn memory_limit(cgroups: &Cgroups, above: &Path, pid: i32) -> Option<u64> {
    cgroups.open(&above.join(pid.to_string())).ok()?.memory_limit()
}

/// Removes the cgroups below `above` whose workers have ended.
pub(crate) fn remove_empty(cgroups: &Cgroups, above: &Path) {
    let Ok(group) = cgroups.open(above) else { return };
    for name in group.names_below() {
        if let Ok(below) = cgroups.open(&above.join(name))
            && below.processes().is_ok_and(|pids| pids.is_empty())
            && let Err(error) = below.remove()
        {
            eprintln!("{error}");
        }
    }
}

/// Ends the workers that are not `known`: an agent started them and was killed before it had written
/// them down.
pub(crate) fn end_strays(layout: &Layout, cgroups: &Cgroups, known: &BTreeSet<i32>) {
    let groups = [layout.workers_cgroup(), layout.tracers_cgroup()];
    let groups: Vec<_> = groups.iter().filter_map(|path| cgroups.open(path).ok()).collect();
    let members = || -> BTreeSet<u32> {
        groups.iter().flat_map(|group| group.processes().unwrap_or_default()).collect()
    };
    let is_stray =
        |pid: &i32| !known.contains(pid) && !parent(*pid).is_some_and(|pid| known.contains(&pid));
    for pid in members().iter().map(|pid| pid.cast_signed()).filter(is_stray) {
        let Some(process) = ProcessId::of(pid).ok().and_then(ProcessId::open) else { continue };
        // Asked again, with the process held: its number was not another's meanwhile.
        if members().contains(&pid.cast_unsigned()) {
            eprintln!("ending the worker {pid}, which no record names");
            process.kill();
        }
    }
}

/// The parent of a process: workers may have started others.
fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}
