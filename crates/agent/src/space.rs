//! What making a portspace and making a server space have in common, and taking either down.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyperspector_space::cgroup::{Cgroup, Cgroups, Enforcement};
use hyperspector_space::config::{Bind, IdRange, Network, RootConfig, SpaceConfig};
use hyperspector_space::launch::{self, Building, Launched};
use hyperspector_spec::plan::{Ids, Protection, Restart, Root, Run, SpacePlan};
use hyperspector_sys::{mountinfo, netns};
use hyperspector_window::files::Located;
use hyperspector_window::sockets::place::paths::Owned;
use hyperspector_window::sockets::place::worker::{Answer, Job, Places, Request};

use crate::error::{Doing, Error, on};
use crate::helper::{Errands, Reply};
use crate::ids::{self, Register};
use crate::layout::{Layout, SpaceDir, SpaceName, private_dir};
use crate::process::Process;
use crate::record::SpaceRecord;
use crate::{files, renew};

/// The greatest size of one of a space's two log files, in bytes.
pub(crate) const LOG_SIZE: u64 = 8 << 20;
/// How long a killed cgroup may take to become empty.
const DRAIN: Duration = Duration::from_secs(10);
/// The files of `/etc` that a space gets from us.
const ETC: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// What a space stands on, made before its builder starts.
pub(crate) struct Ground {
    pub(crate) name: SpaceName,
    pub(crate) dir: SpaceDir,
    pub(crate) cgroup: Cgroup,
    ids: IdRange,
    owner: u32,
    limits_missing: Vec<String>,
    control: UnixListener,
    files: [File; 3],
}

impl Ground {
    /// Makes directories, an id range, the upper layer, the cgroup, the log files and the control
    /// socket. `below` is what lies under the root, see [`look_below`].
    pub(crate) fn prepare(
        layout: &Layout,
        cgroups: &Cgroups,
        name: SpaceName,
        plan: &SpacePlan,
        below: Owned,
    ) -> Result<Self, Error> {
        let dir = layout.space(&name);
        private_dir(&dir.run).doing(on("make", &dir.run))?;
        private_dir(&dir.staging()).doing(on("make", &dir.staging()))?;
        let (ids, owner) = ids(&dir, plan)?;
        if plan.run == (Run::Service { restart: Restart::Clean }) {
            renew::clean(&dir, &plan.keep)?;
        }
        layers(&dir, below, ids)?;
        let (cgroup, limits) = cgroups
            .create(&layout.cgroup(&name), &plan.limits)
            .doing(|| format!("make the cgroup of {name}"))?;
        let limits_missing = limits_missing(&limits, &name, plan)?;
        let control = listen(&dir.control())?;
        let files = [
            rewritable(&dir.logs()[0], false)?,
            rewritable(&dir.logs()[1], false)?,
            rewritable(&dir.report(), true)?,
        ];
        Ok(Self { name, dir, cgroup, ids, owner, limits_missing, control, files })
    }

    /// What the builder is told of `plan`; windows and their rules are not in it.
    pub(crate) fn config(
        &self,
        layout: &Layout,
        plan: &SpacePlan,
        network: Network,
    ) -> SpaceConfig {
        let files =
            ETC.map(|name| Bind::read_only(self.dir.etc(name), Path::new("/etc").join(name)));
        let mounts = plan.mounts.iter().map(|mount| Bind {
            from: mount.from.clone(),
            to: mount.to.clone(),
            writable: mount.writable,
        });
        SpaceConfig {
            name: self.name.to_string(),
            hostname: plan.hostname.clone(),
            network,
            ids: self.ids,
            owner: self.owner,
            root: RootConfig {
                lower: lower(plan).to_owned(),
                layers: self.dir.layers(),
                files: files.into(),
            },
            staging: self.dir.staging(),
            hide: hidden(layout),
            mask: plan.mask.clone(),
            keep: plan.keep.clone(),
            mounts: mounts.collect(),
            sockets: Vec::new(),
            windows: None,
            others: Vec::new(),
            command: plan.command.clone(),
            companions: Vec::new(),
            environment: plan.environment.clone(),
            user: plan.user.clone(),
            directory: plan.directory.clone(),
            run: plan.run,
            stop_grace: plan.stop_grace,
            rules: Vec::new(),
            landlock_optional: plan.allow_missing.contains(&Protection::Landlock),
            log_size: LOG_SIZE,
        }
    }

    /// Has the builder begin; the command does not run when it is done.
    pub(crate) fn start(
        &self,
        config: &SpaceConfig,
        network: Option<BorrowedFd<'_>>,
    ) -> Result<Building, Error> {
        let mut fds = vec![self.control.as_fd()];
        fds.extend(self.files.iter().map(AsFd::as_fd));
        fds.extend(network);
        launch::start(config, &fds, |pid| place(&self.cgroup, pid))
            .doing(|| format!("build {}", self.name))
    }

    /// Holds the init of the space that was launched, and what is to be written down of it.
    /// `missing` are the protections that the spec lets it go without.
    pub(crate) fn record(
        &self,
        launched: &Launched,
        missing: Vec<String>,
        renewals: u64,
    ) -> Result<(Process, SpaceRecord), Error> {
        let doing = || format!("hold the init of {}", self.name);
        let fd = launched.pidfd.try_clone().doing(doing)?;
        let init = Process::new(launched.init, fd).doing(doing)?;
        let record = SpaceRecord {
            init: init.id,
            enforced: launched.enforced.clone(),
            limits_missing: self.limits_missing.clone(),
            missing,
            since: now(),
            renewals,
        };
        Ok((init, record))
    }
}

/// The ids that the space's files carry, and the one that its user namespace belongs to.
fn ids(dir: &SpaceDir, plan: &SpacePlan) -> Result<(IdRange, u32), Error> {
    let base = ids::held_by(&dir.state)?;
    let ids = match plan.ids {
        Ids::Host => IdRange::Host,
        Ids::Private => IdRange::Private { base },
    };
    Ok((ids, base))
}

/// Makes the upper layer where there is none. Its root directory is the space's, and has to look
/// like the one below it.
fn layers(dir: &SpaceDir, below: Owned, ids: IdRange) -> Result<(), Error> {
    let layers = dir.layers();
    private_dir(&layers).doing(on("make", &layers))?;
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    if !upper.is_dir() {
        fs::create_dir(&upper).doing(on("make", &upper))?;
    }
    // At every start: what the space made of its root directory does not last.
    let doing = || format!("set up {}", upper.display());
    let shifted = |id: u32| if id < IdRange::SIZE { ids.root() + id } else { ids.root() };
    chown(&upper, Some(shifted(below.uid)), Some(shifted(below.gid))).doing(doing)?;
    let mode = fs::Permissions::from_mode(below.mode);
    fs::set_permissions(&upper, mode).doing(doing)?;
    if !work.is_dir() {
        fs::create_dir(&work).doing(on("make", &work))?;
    }
    Ok(())
}

/// Has a worker look at what a space is made of that the operator has chosen: the directory under its
/// root, and what is mounted. A dead file system would hold up the agent.
pub(crate) fn look_below(
    layout: &Layout,
    errands: &mut Errands,
    plan: &SpacePlan,
) -> Result<Reply<Places>, Error> {
    let job = Job::Owners(chosen(plan));
    errands.ask(layout, &Request { process: None, tree: "/".into(), job }, &[])
}

/// That nobody answers who was asked by [`look_below`].
pub(crate) fn no_answer(plan: &SpacePlan) -> Error {
    Error::new(looking(plan), "a file system does not answer")
}

fn looking(plan: &SpacePlan) -> String {
    let names: Vec<String> = chosen(plan).iter().map(|path| path.display().to_string()).collect();
    format!("look at {}", names.join(", "))
}

/// What was found of the directory under a space's root, see [`look_below`].
pub(crate) fn found_below(plan: &SpacePlan, reply: Reply<Places>) -> Result<Owned, Error> {
    let Some((Answer::Owners(found), _)) = reply.take() else {
        return Err(Error::new(looking(plan), "a file system does not answer: the worker ended"));
    };
    // What is wrong with a mount, its own step tells.
    match found.into_iter().next() {
        Some(found) => {
            found.map_err(|why| Error::new(format!("look at {}", lower(plan).display()), why))
        }
        None => Err(Error::new(looking(plan), "the worker did not")),
    }
}

/// The paths of the host that the operator has chosen for a space, the one under its root first.
fn chosen(plan: &SpacePlan) -> Vec<PathBuf> {
    let mounts = plan.mounts.iter().map(|mount| mount.from.clone());
    std::iter::once(lower(plan).to_owned()).chain(mounts).collect()
}

/// The directory of the host that lies under a space's root.
fn lower(plan: &SpacePlan) -> &Path {
    match &plan.root {
        Root::Base => Path::new("/"),
        Root::Directory(path) => path,
    }
}

/// Writes the files of `/etc` that a space gets from us, in the order of [`ETC`], where they are not
/// so already; in place, since they are mounted, and never emptied.
pub(crate) fn write_etc(dir: &SpaceDir, texts: [&str; ETC.len()]) -> Result<(), Error> {
    for (name, text) in ETC.iter().zip(texts) {
        let path = dir.etc(name);
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            continue;
        }
        if let Some(parent) = path.parent() {
            private_dir(parent).doing(on("make", parent))?;
        }
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let mut file = opened.doing(on("open", &path))?;
        let length = text.len() as u64;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.set_len(length));
        written.doing(on("write", &path))?;
        let mode = fs::Permissions::from_mode(0o644);
        file.set_permissions(mode).doing(on("open up", &path))?;
    }
    Ok(())
}

/// What of the limits could not be put in place: an error, unless the spec says otherwise.
fn limits_missing(
    limits: &[Enforcement],
    name: &SpaceName,
    plan: &SpacePlan,
) -> Result<Vec<String>, Error> {
    let missing = missing(limits);
    if missing.is_empty() || plan.allow_missing.contains(&Protection::Limits) {
        return Ok(missing);
    }
    let cause = format!("{}; allow-missing = [\"limits\"] would go without", missing.join("; "));
    Err(Error::new(format!("limit {name}"), cause))
}

/// The limits that could not be put in place, with the reason.
pub(crate) fn missing(limits: &[Enforcement]) -> Vec<String> {
    limits
        .iter()
        .filter_map(|limit| Some(format!("{:?}: {}", limit.limit, limit.missing.as_ref()?)))
        .collect()
}

fn place(cgroup: &Cgroup, pid: i32) -> io::Result<()> {
    cgroup.add(pid.cast_unsigned()).map_err(io::Error::other)
}

/// A socket that listens at `path`, for root alone.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, Error> {
    netns::listen(path).doing(on("listen at", path))
}

fn rewritable(path: &Path, truncate: bool) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(truncate)
        .mode(0o600)
        .open(path)
        .doing(on("open", path))
}

/// HyperSpector's own directories: this agent's, and those of every other agent of the machine.
pub(crate) fn hidden(layout: &Layout) -> Vec<PathBuf> {
    let mut all = Register::default().hidden();
    all.extend([layout.state.clone(), layout.run.clone()]);
    all.sort();
    all.dedup();
    all
}

/// Paths of the host by the file systems that they are on.
pub(crate) fn located(paths: &[PathBuf]) -> io::Result<Vec<Located>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let mounts: Vec<_> = mountinfo::mounts(&table).collect();
    let located = |path: &PathBuf| Located::find(path, mounts.iter().cloned());
    Ok(paths.iter().filter_map(located).collect())
}

/// Ends all processes of a space: its init is asked to, and killed after its time of grace. `init` is
/// given where it is held; `known` is what was written down.
pub(crate) fn end(
    cgroup: &Path,
    cgroups: &Cgroups,
    known: Option<(SpaceRecord, u32)>,
    init: Option<&Process>,
) -> Result<(), Error> {
    let grace = known.as_ref().map_or(0, |(_, grace)| *grace);
    let opened = known.and_then(|(record, _)| record.init.open());
    if let Some(init) = init.or(opened.as_ref()) {
        init.end(Duration::from_secs(u64::from(grace) + 1));
    }
    // Whatever else of it is left, and whatever was being started.
    match cgroups.open(cgroup) {
        Ok(group) => group.kill(DRAIN).doing(|| format!("end what is in {}", cgroup.display())),
        Err(_) => Ok(()),
    }
}

/// Removes the cgroup and the run-time files of a space that has ended. What lasts stays.
pub(crate) fn clear(cgroup: &Path, cgroups: &Cgroups, dir: &SpaceDir) -> Vec<Error> {
    let doing = || format!("remove the cgroup {}", cgroup.display());
    let removed = [
        cgroups.remove(cgroup).doing(doing),
        files::remove(&dir.run).doing(on("remove", &dir.run)),
    ];
    removed.into_iter().filter_map(Result::err).collect()
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
