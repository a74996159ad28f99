//! The windows on system calls: one tracer for each server that a portspace watches, kept as servers and
//! portspaces come and go.
//!
//! A portspace's sockets are in a directory of its own, one for each server. Its mount of that is there
//! before its command runs, and stays; a tracer that is started anew gets a new socket in it.

mod scope;
mod spares;
mod tracer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use hyperspector_spec::plan::{HostPlan, PortspaceName, PortspacePlan, SyscallText, TextForm};
use hyperspector_window::syscalls::view;

use crate::apply::Agent;
use crate::error::{Doing, Error, on};
use crate::files;
use crate::layout::Layout;
use crate::process::ProcessId;
use crate::programs::STRACE;
use crate::status::{SyscallStatus, TracerStatus};
use scope::Subject;
pub(crate) use spares::Spares;
pub(crate) use tracer::{Tracer, remove};

/// How long a server space, or a portspace that is made, waits for a tracer.
const FIRST: Duration = Duration::from_secs(60);

/// How many are kept ready once every server has one: so many can die one after the other before
/// somebody has to wait for the kernel.
const SPARES: usize = 2;

/// The tracers of this host.
#[derive(Debug, Default)]
pub(crate) struct Tracers {
    /// By server.
    all: BTreeMap<String, Tracer>,
    spares: Spares,
}

impl Tracers {
    /// Finds those that an earlier agent has started.
    pub(crate) fn adopt(layout: &Layout) -> Self {
        let names = crate::teardown::names(&layout.tracers()).into_iter();
        let all = names.map(|name| (name.clone(), Tracer::adopt(layout, &name))).collect();
        Self { all, spares: Spares::default() }
    }

    /// The process ids of all of them.
    pub(crate) fn pids(&self) -> impl Iterator<Item = i32> {
        let known = self.all.values().filter_map(|tracer| Some(tracer.worker()?.pid));
        known.chain(self.spares.pids())
    }

    /// Has one ready for each server that has none, and another one.
    fn keep_spares(&mut self, layout: &Layout) {
        let missing = self.all.values().filter(|tracer| !tracer.is_alive()).count();
        let count = match missing {
            _ if self.all.is_empty() => 0,
            0 => SPARES,
            // Those that are wanted now come first: the kernel's work is shared among all.
            missing => missing + 1,
        };
        self.spares.keep(layout, count);
    }
}

/// The portspaces of a plan, by server.
fn watched(plan: &HostPlan) -> BTreeMap<String, Vec<PortspaceName>> {
    let mut all: BTreeMap<String, Vec<PortspaceName>> = BTreeMap::new();
    for portspace in plan.hyperspectors.iter().flat_map(|one| &one.portspaces) {
        let servers: BTreeSet<&String> =
            portspace.windows.syscalls.iter().map(|window| &window.server).collect();
        for server in servers {
            all.entry(server.clone()).or_default().push(portspace.name.clone());
        }
    }
    all
}

/// Shows a portspace its sockets, before its command runs.
pub(crate) fn open(layout: &Layout, plan: &PortspacePlan, init: i32) -> Result<(), Error> {
    if plan.windows.syscalls.is_empty() {
        return Ok(());
    }
    let doing = || format!("show {} the system calls of servers", plan.name);
    let mounts = File::open(format!("/proc/{init}/ns/mnt")).doing(doing)?;
    view::show(mounts.as_fd(), &tracer::directory(layout, &plan.name)?).doing(doing)
}

/// Which directory a portspace's sockets are in, by device and inode, where it has some.
pub(crate) fn offered(layout: &Layout, plan: &PortspacePlan) -> Result<Option<(u64, u64)>, Error> {
    if plan.windows.syscalls.is_empty() {
        return Ok(None);
    }
    let directory = tracer::directory(layout, &plan.name)?;
    let found = std::fs::metadata(&directory).doing(on("look at", &directory))?;
    Ok(Some((found.dev(), found.ino())))
}

/// The programs that write what a portspace has written of system calls.
pub(crate) fn writers(plan: &PortspacePlan) -> Vec<Vec<String>> {
    let windows = plan.windows.syscalls.iter();
    windows.filter_map(|window| Some(writer(&window.server, window.text.as_ref()?))).collect()
}

fn writer(server: &str, text: &SyscallText) -> Vec<String> {
    let form: &[&str] = match text.form {
        TextForm::Strace => &["-tt", "-T", "-y"],
        TextForm::Json => &["--json"],
        TextForm::Audit => &["--audit"],
    };
    let calls = if text.calls.is_empty() { "default".to_owned() } else { text.calls.join(",") };
    let rotate = format!("{}x{}", text.size, text.keep);
    let to = text.to.display().to_string();
    let mut words = vec![format!("/.hyperspector/{STRACE}")];
    words.extend(["--wait", "--server", server].map(String::from));
    words.extend(form.iter().map(ToString::to_string));
    words.extend(["--trace", &calls, "-A", "--output", &to, "--rotate", &rotate].map(String::from));
    words.extend(text.fifo.then(|| "--fifo".to_owned()));
    words.extend(text.failed_only.then(|| "--failed-only".to_owned()));
    words
}

impl Agent {
    /// Has every server's tracer be as it is wanted now.
    pub(crate) fn follow_syscalls(&mut self) {
        self.have_traced(Duration::ZERO);
    }

    /// The same, and waits until all are traced that are there.
    pub(crate) fn need_tracers(&mut self) {
        self.have_traced(FIRST);
    }

    fn have_traced(&mut self, patience: Duration) {
        let wanted = watched(&self.plan);
        let gone: Vec<String> =
            self.tracers.all.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            self.tracers.all.remove(&name);
            if let Err(error) = remove(&self.layout, &name) {
                eprintln!("{error}");
            }
        }
        for name in wanted.keys() {
            self.tracers.all.entry(name.clone()).or_default();
        }
        self.tracers.keep_spares(&self.layout);
        for (name, places) in &wanted {
            let places: Vec<&PortspaceName> = places.iter().collect();
            let Tracers { all, spares } = &mut self.tracers;
            let Some(tracer) = all.get_mut(name) else { continue };
            let present = self.servers.present(name).filter(|one| one.has_processes());
            let found = present.and_then(|present| {
                let subject = Subject::of(&self.layout, &self.cgroups, present);
                Some((subject.inspect_err(|why| eprintln!("trace {name}: {why}")).ok()?, present))
            });
            let mut spare = || spares.take(&self.layout, patience);
            tracer.follow(&self.layout, name, found, &places, &mut spare);
        }
        self.tracers.keep_spares(&self.layout);
        self.forget_sockets(&wanted);
    }

    /// Removes the sockets of portspaces that do not watch any more.
    fn forget_sockets(&self, wanted: &BTreeMap<String, Vec<PortspaceName>>) {
        let all = self.layout.all_trace_sockets();
        let kept: BTreeSet<_> =
            wanted.values().flatten().map(|name| self.layout.trace_sockets(name)).collect();
        for name in crate::teardown::names(&all) {
            let path = all.join(name);
            if !kept.contains(&path)
                && let Err(error) = files::remove(&path).doing(on("remove", &path))
            {
                eprintln!("{error}");
            }
        }
    }

    /// Traces a server space before its command runs, whose init is `init`.
    pub(crate) fn trace_first(&mut self, name: &str, init: i32) {
        if !watched(&self.plan).contains_key(name) {
            return;
        }
        self.tracers.all.entry(name.to_owned()).or_default();
        self.tracers.keep_spares(&self.layout);
        let Tracers { all, spares } = &mut self.tracers;
        let Some(tracer) = all.get_mut(name) else { return };
        let mut spare = || spares.take(&self.layout, FIRST);
        let traced = ProcessId::of(init)
            .doing(|| format!("look at the init of {name}"))
            .and_then(|init| tracer.trace_first(&self.layout, name, init, &mut spare));
        if let Err(error) = traced {
            eprintln!("{error}");
        }
    }

    /// Asks every tracer how it is, for what comes next.
    pub(crate) fn look_at_tracers(&self) {
        self.tracers.all.iter().for_each(|(name, tracer)| tracer.ask_status(&self.layout, name));
    }

    /// How a server's tracer is.
    pub(crate) fn tracer_status(&self, server: &str) -> Option<TracerStatus> {
        let tracer = self.tracers.all.get(server)?;
        Some(tracer.status(&self.layout, &self.cgroups))
    }

    /// Why a portspace does not see the system calls of a server that is there.
    pub(crate) fn untraced(&self, name: &PortspaceName) -> Option<&str> {
        let all = self.plan.hyperspectors.iter().flat_map(|one| &one.portspaces);
        let windows = all.filter(|one| one.name == *name).flat_map(|one| &one.windows.syscalls);
        windows.filter_map(|window| self.tracers.all.get(&window.server)?.problem()).next()
    }

    /// How a portspace's windows on system calls are.
    pub(crate) fn syscall_windows(&self, plan: &PortspacePlan) -> Vec<SyscallStatus> {
        let servers: BTreeSet<&String> =
            plan.windows.syscalls.iter().map(|window| &window.server).collect();
        let place = plan.name.to_string();
        let status = |server: &String| {
            let tracer = self.tracers.all.get(server);
            let texts = plan.windows.syscalls.iter().filter(|window| window.server == *server);
            SyscallStatus {
                server: server.clone(),
                texts: texts.filter_map(|window| Some(window.text.as_ref()?.to.clone())).collect(),
                readers: tracer.map(|one| one.readers(&place)).unwrap_or_default(),
                problem: tracer.and_then(Tracer::problem).map(str::to_owned).or_else(|| {
                    self.servers.absence(server).map(|why| format!("it is down: {why}"))
                }),
            }
        };
        servers.into_iter().map(status).collect()
    }
}
