//! Making one portspace, and taking it down: two plain lists of steps.
//!
//! Taking down does not look at how far making came: every step removes what is there and is fine
//! with what is not, so it is also how a half-made portspace is undone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyperspector_space::cgroup::{Cgroup, Cgroups, Enforcement};
use hyperspector_space::config::{Bind, IdRange, RootConfig, SpaceConfig, View};
use hyperspector_space::launch::{Launched, launch};
use hyperspector_spec::plan::{
    Adoption, FileWindow, HyperspectorPlan, Ids, PortspaceName, PortspacePlan, Protection, Restart,
    Root, Run, ServerKind, ServerPlan,
};
use hyperspector_sys::netlink::Link;
use hyperspector_sys::netns;
use hyperspector_vpn::hub::{self, Hub, Port};

use crate::error::{Doing, Error, all_or_first, on};
use crate::guard::Guard;
use crate::ids::Register;
use crate::layout::{Layout, PortspaceDir, private_dir};
use crate::masks::Masks;
use crate::process::{Process, ProcessId};
use crate::record::{PortspaceRecord, Watched};
use crate::watch::Lost;
use crate::windows::{self, Windows};
use crate::{files, renew};

/// The greatest size of one of a portspace's two log files, in bytes.
pub(crate) const LOG_SIZE: u64 = 8 << 20;
/// How long a killed cgroup may take to become empty.
const DRAIN: Duration = Duration::from_secs(10);

/// A portspace that runs.
#[derive(Debug)]
pub(crate) struct Portspace {
    /// What is known about it, as it is on disk.
    pub(crate) record: PortspaceRecord,
    /// Its init.
    pub(crate) init: Process,
    /// Its broker and what it takes to start that again.
    pub(crate) windows: Windows,
    /// What was hidden in its views when it was looked at last.
    pub(crate) masks: Masks,
    /// Interfaces that it watches and does not see any more.
    pub(crate) lost: Lost,
}

/// What making a portspace takes from around it.
pub(crate) struct Site<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) cgroups: &'a Cgroups,
    pub(crate) hub: &'a Hub,
    pub(crate) hyperspector: &'a HyperspectorPlan,
    pub(crate) servers: &'a [ServerPlan],
    pub(crate) guard: Option<&'a Guard>,
}

/// Makes the portspace `plan`. On failure nothing of it is left but its state directory.
pub(crate) fn portspace(site: &Site<'_>, plan: &PortspacePlan) -> Result<Portspace, Error> {
    steps(site, plan).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = remove(site.layout, site.cgroups, Some(site.hub), &plan.name, None);
    })
}

fn steps(site: &Site<'_>, plan: &PortspacePlan) -> Result<Portspace, Error> {
    let dir = site.layout.portspace(&plan.name);
    private_dir(&dir.run).doing(on("make", &dir.run))?;
    private_dir(&dir.staging()).doing(on("make", &dir.staging()))?;
    let (ids, owner) = ids(&dir, plan)?;
    if plan.space.run == (Run::Service { restart: Restart::Clean }) {
        renew::clean(&dir, &plan.space.keep)?;
    }
    layers(&dir, plan, ids)?;
    etc(&dir, site.hyperspector, plan)?;

    let (cgroup, limits) = site
        .cgroups
        .create(&site.layout.cgroup(&plan.name), &plan.space.limits)
        .doing(|| format!("make the cgroup of {}", plan.name))?;
    let limits_missing = limits_missing(&limits, plan)?;
    let links = windows::host_links(plan)?;
    let network = network(site, &dir, plan, &links)?;

    let control = listen(&dir.control())?;
    let files = [
        rewritable(&dir.logs()[0], false)?,
        rewritable(&dir.logs()[1], false)?,
        rewritable(&dir.report(), true)?,
    ];
    let config = SpaceConfig { owner, ..config(site, &dir, plan, ids) };
    let fds =
        [network.as_fd(), control.as_fd(), files[0].as_fd(), files[1].as_fd(), files[2].as_fd()];
    let mut launched =
        launch(&config, fds, |pid| place(&cgroup, pid)).doing(|| format!("build {}", plan.name))?;

    let windows = windows::open(site, &dir, plan, &links, &mut launched, &cgroup)
        .inspect_err(|_| launched.abandon())?;
    let init = init_of(&launched, plan)?;
    let record = PortspaceRecord {
        plan: plan.clone(),
        init: init.id,
        broker: windows.broker_id(),
        enforced: launched.enforced.clone(),
        limits_missing,
        missing: windows.missing().map(str::to_owned).into_iter().collect(),
        watched: links.iter().map(Watched::from).collect(),
        since: now(),
        renewals: 0,
    };
    // On disk before the command runs: whatever becomes of this agent, the next one finds it.
    files::save(&dir.record(), &record).doing(on("write", &dir.record()))?;
    launched.go().doing(|| format!("start {}", plan.name))?;
    Ok(Portspace { record, init, windows, masks: Masks::default(), lost: Lost::default() })
}

fn init_of(launched: &Launched, plan: &PortspacePlan) -> Result<Process, Error> {
    let doing = || format!("hold the init of {}", plan.name);
    let fd = launched.pidfd.try_clone().doing(doing)?;
    Process::new(launched.init, fd).doing(doing)
}

/// The ids that the portspace's files carry, and the one that its user namespace belongs to.
fn ids(dir: &PortspaceDir, plan: &PortspacePlan) -> Result<(IdRange, u32), Error> {
    private_dir(&dir.state).doing(on("make", &dir.state))?;
    let base = Register::default().range(&dir.state)?;
    let ids = match plan.space.ids {
        Ids::Host => IdRange::Host,
        Ids::Private => IdRange::Private { base },
    };
    Ok((ids, base))
}

/// Makes the upper layer where there is none. Its root directory is the portspace's, and has to
/// look like the one below it.
fn layers(dir: &PortspaceDir, plan: &PortspacePlan, ids: IdRange) -> Result<(), Error> {
    let layers = dir.layers();
    private_dir(&layers).doing(on("make", &layers))?;
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    if !upper.is_dir() {
        fs::create_dir(&upper).doing(on("make", &upper))?;
    }
    // At every start: what the portspace made of its root directory does not last.
    let below = fs::metadata(lower(plan)).doing(on("look at", lower(plan)))?;
    let doing = || format!("set up {}", upper.display());
    let shifted = |id: u32| if id < IdRange::SIZE { ids.root() + id } else { ids.root() };
    chown(&upper, Some(shifted(below.uid())), Some(shifted(below.gid()))).doing(doing)?;
    let mode = fs::Permissions::from_mode(below.mode() & 0o7777);
    fs::set_permissions(&upper, mode).doing(doing)?;
    if !work.is_dir() {
        fs::create_dir(&work).doing(on("make", &work))?;
    }
    Ok(())
}

fn lower(plan: &PortspacePlan) -> &Path {
    match &plan.space.root {
        Root::Base => Path::new("/"),
        Root::Directory(path) => path,
    }
}

/// Writes the files of `/etc` that the portspace gets from us, in place: they are mounted.
pub(crate) fn etc(
    dir: &PortspaceDir,
    hyperspector: &HyperspectorPlan,
    plan: &PortspacePlan,
) -> Result<(), Error> {
    let mut hosts = format!("127.0.0.1\tlocalhost\n{}\t{}\n", plan.address, plan.space.hostname);
    for (address, names) in &hyperspector.names {
        hosts.push_str(&format!("{address}\t{}\n", names.join(" ")));
    }
    let texts = [
        ("hosts", hosts),
        ("hostname", format!("{}\n", plan.space.hostname)),
        (
            "resolv.conf",
            "# there is no name server: the names of the HyperSpector are in hosts\n".into(),
        ),
    ];
    for (name, text) in texts {
        let path = dir.etc(name);
        if let Some(parent) = path.parent() {
            private_dir(parent).doing(on("make", parent))?;
        }
        fs::write(&path, text).doing(on("write", &path))?;
        let mode = fs::Permissions::from_mode(0o644);
        fs::set_permissions(&path, mode).doing(on("open up", &path))?;
    }
    Ok(())
}

/// What of the limits could not be put in place: an error, unless the spec says otherwise.
fn limits_missing(limits: &[Enforcement], plan: &PortspacePlan) -> Result<Vec<String>, Error> {
    let missing = missing(limits);
    if missing.is_empty() || plan.space.allow_missing.contains(&Protection::Limits) {
        return Ok(missing);
    }
    let cause = format!("{}; allow-missing = [\"limits\"] would go without", missing.join("; "));
    Err(Error::new(format!("limit {}", plan.name), cause))
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

/// Makes the network namespace, connects it to the hub, and adds the shadows of watched interfaces.
fn network(
    site: &Site<'_>,
    dir: &PortspaceDir,
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
    site.hub.add_portspace(&port).doing(|| format!("connect {} to its hub", plan.name))?;
    windows::shadows(links, namespace.as_fd())?;
    Ok(namespace)
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

fn config(site: &Site<'_>, dir: &PortspaceDir, plan: &PortspacePlan, ids: IdRange) -> SpaceConfig {
    let (layout, servers) = (site.layout, site.servers);
    let files = ["hosts", "hostname", "resolv.conf"]
        .map(|name| Bind { from: dir.etc(name), to: Path::new("/etc").join(name) });
    let binds = plan
        .space
        .mounts
        .iter()
        .map(|mount| Bind { from: mount.from.clone(), to: mount.to.clone() });
    SpaceConfig {
        name: plan.name.to_string(),
        hostname: plan.space.hostname.clone(),
        ids,
        owner: ids.root(),
        root: RootConfig {
            lower: lower(plan).to_owned(),
            layers: dir.layers(),
            files: files.into(),
        },
        staging: dir.staging(),
        hide: hidden(layout),
        mask: plan.space.mask.clone(),
        keep: plan.space.keep.clone(),
        mounts: binds.collect(),
        views: plan.windows.files.iter().filter_map(|window| view(servers, window)).collect(),
        command: plan.space.command.clone(),
        environment: plan.space.environment.clone(),
        user: plan.space.user.clone(),
        directory: plan.space.directory.clone(),
        run: plan.space.run,
        stop_grace: plan.space.stop_grace,
        rules: windows::rules(plan),
        landlock_optional: plan.space.allow_missing.contains(&Protection::Landlock),
        log_size: LOG_SIZE,
    }
}

fn view(servers: &[ServerPlan], window: &FileWindow) -> Option<View> {
    let source = tree(servers, &window.server)?.to_owned();
    Some(View { name: window.server.clone(), source, mask: window.mask.clone() })
}

/// The directory of the host that holds a server's files.
pub(crate) fn tree<'a>(servers: &'a [ServerPlan], name: &str) -> Option<&'a Path> {
    match &servers.iter().find(|server| server.name == name)?.kind {
        ServerKind::Adopted(Adoption::Base) => Some(Path::new("/")),
        ServerKind::Adopted(Adoption::Directory(path)) => Some(path),
        _ => None,
    }
}

/// HyperSpector's own directories: this agent's, and those of every other agent of the machine.
fn hidden(layout: &Layout) -> Vec<PathBuf> {
    let mut all = Register::default().hidden();
    all.extend([layout.state.clone(), layout.run.clone()]);
    all.sort();
    all.dedup();
    all
}

/// Takes down a portspace: processes, broker, network, cgroup, run-time files. What lasts stays.
pub(crate) fn remove(
    layout: &Layout,
    cgroups: &Cgroups,
    hub: Option<&Hub>,
    name: &PortspaceName,
    init: Option<&Process>,
) -> Result<(), Error> {
    let dir = layout.portspace(name);
    let record: Option<PortspaceRecord> = files::load(&dir.record());
    let mut errors = Vec::new();
    let mut attempt = |result: Result<(), Error>| errors.extend(result.err());

    let grace = record.as_ref().map_or(0, |record| record.plan.space.stop_grace);
    let opened = record.as_ref().and_then(|record| record.init.open());
    if let Some(init) = init.or(opened.as_ref()) {
        init.end(Duration::from_secs(u64::from(grace) + 1));
    }
    // Whatever else of it is left, and whatever was being started.
    let cgroup = layout.cgroup(name);
    if let Ok(group) = cgroups.open(&cgroup) {
        attempt(group.kill(DRAIN).doing(|| format!("end the processes of {name}")));
    }
    if let Some(broker) = record.and_then(|record| record.broker).and_then(ProcessId::open) {
        broker.kill();
    }
    attempt(windows::close(layout, name));
    if let Some(hub) = hub {
        let removed = hub.remove_portspace(&name.portspace);
        attempt(removed.doing(|| format!("disconnect {name} from its hub")));
    }
    attempt(netns::remove(dir.network()).doing(on("remove", &dir.network())));
    attempt(cgroups.remove(&cgroup).doing(|| format!("remove the cgroup of {name}")));
    attempt(files::remove(&dir.run).doing(on("remove", &dir.run)));
    all_or_first(errors)
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
