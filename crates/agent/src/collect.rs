//! Finding out how things are, by asking the system and the workers.

use std::collections::BTreeSet;
use std::fs;

use hyperspector_space::control::{Report, State};
use hyperspector_space::init::report;
use hyperspector_spec::plan::{HyperspectorPlan, PortspacePlan, Run, SpacePlan};

use crate::apply::{Agent, Hyperspector};
use crate::build::Portspace;
use crate::layout::SpaceName;
use crate::process::Process;
use crate::processes::Facts;
use crate::record::SpaceRecord;
use crate::servers::{self, Servers, space};
use crate::status::{
    AgentStatus, HostStatus, HyperspectorStatus, PortspaceStatus, ServerStatus, SpaceStatus, Usage,
    VpnStatus, WindowsStatus,
};
use crate::waiting::{failure, reason_of};

/// The status of the whole host.
pub(crate) fn status(agent: &Agent) -> HostStatus {
    let pid = std::process::id();
    agent.look_at_tees();
    agent.look_at_tracers();
    HostStatus {
        host: agent.plan.host.clone(),
        agent: Some(AgentStatus {
            pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            memory_bytes: resident(pid),
        }),
        guard: agent.guard.as_ref().map(|guard| guard.status()),
        servers: servers(agent),
        hyperspectors: names(agent).map(|name| hyperspector(agent, name)).collect(),
    }
}

fn servers(agent: &Agent) -> Vec<ServerStatus> {
    let mut all = agent.servers.status(|name| space::status(agent, name));
    for server in &mut all {
        let worker = agent.facts.get(&server.name).and_then(Facts::worker);
        server.facts_pid = worker.map(|worker| worker.pid);
        server.changes = agent.journals.status(&agent.layout, &server.name);
        server.tee = agent.tee_status(&server.name);
        server.tracer = agent.tracer_status(&server.name);
    }
    all
}

/// The HyperSpectors that are there or should be, in order.
fn names(agent: &Agent) -> impl Iterator<Item = &str> {
    let wanted = agent.plan.hyperspectors.iter().map(|plan| plan.name.as_str());
    let all: BTreeSet<&str> =
        agent.hyperspectors.keys().map(String::as_str).chain(wanted).collect();
    all.into_iter()
}

fn hyperspector(agent: &Agent, name: &str) -> HyperspectorStatus {
    let living = agent.hyperspectors.get(name);
    let plan = agent.plan.hyperspectors.iter().find(|one| one.name == name);
    let there = living.into_iter().flat_map(|living| living.portspaces.values());
    let is_there = |name: &str| living.is_some_and(|one| one.portspaces.contains_key(name));
    let missing = plan
        .into_iter()
        .flat_map(|plan| &plan.portspaces)
        .filter_map(|plan| (!is_there(&plan.name.portspace)).then(|| missing(agent, plan))?);
    let mut portspaces: Vec<_> =
        there.map(|portspace| running(agent, portspace)).chain(missing).collect();
    portspaces.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some((living, plan)) = living.zip(plan) {
        note_refused(living, plan, &mut portspaces);
    }
    let vpn = living.map_or_else(VpnStatus::default, |living| living.vpn.status(plan));
    HyperspectorStatus { name: name.to_owned(), vpn, portspaces }
}

/// What the hub keeps from and of each portspace.
fn note_refused(
    living: &Hyperspector,
    plan: &HyperspectorPlan,
    portspaces: &mut [PortspaceStatus],
) {
    let refused = living.hub.refused(&plan.ports()).ok();
    for status in portspaces {
        let Some((_, name)) = status.name.split_once('/') else { continue };
        status.rate = plan.policy.rates.get(name).copied();
        status.refused = refused.as_ref().and_then(|all| all.get(name).copied());
    }
}

fn running(agent: &Agent, portspace: &Portspace) -> PortspaceStatus {
    let plan = &portspace.record.plan;
    let name = SpaceName::from(&plan.name);
    let mut status = base(&agent.servers, plan);
    status.windows.views = portspace.views.status(&agent.servers);
    status.windows.broker_pid = portspace.windows.broker_id().map(|id| id.pid);
    status.windows.broker = portspace.windows.describe(&agent.layout.portspace(&plan.name));
    status.windows.processes =
        portspace.processes.describe(&agent.layout, &agent.servers, &agent.facts);
    status.windows.sockets = agent.socket_windows(plan);
    status.windows.syscalls = agent.syscall_windows(plan);
    look(agent, &name, &portspace.record.space, &portspace.init, &mut status.space);
    let lost = portspace.lost.iter().map(|(name, how)| format!("interface {name} {how}"));
    let reasons: Vec<String> = status.space.reason.take().into_iter().chain(lost).collect();
    status.space.reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    status
}

/// How a space is that was made.
pub(crate) fn look(
    agent: &Agent,
    name: &SpaceName,
    record: &SpaceRecord,
    init: &Process,
    status: &mut SpaceStatus,
) {
    status.enforced = record.enforced.clone();
    status.limits_missing = record.limits_missing.clone();
    status.missing = record.missing.clone();
    status.usage = usage(agent, name);
    if !init.is_alive() {
        status.reason = Some("its init has ended".to_owned());
        return;
    }
    status.init_pid = Some(init.id.pid);
    let Ok(report) = report::read(&agent.layout.space(name).report()) else {
        status.reason = Some("its init reports nothing".to_owned());
        return;
    };
    take_report(status, &report, record);
    if report.state == State::Failed {
        status.last_lines = failure(&agent.layout, name, String::new()).last_lines;
    }
}

fn take_report(status: &mut SpaceStatus, report: &Report, record: &SpaceRecord) {
    status.state = report.state;
    status.pid = report.pid.and_then(|inner| on_host(record.init.pid, inner));
    status.since_ms = report.since;
    status.restarts = record.renewals.saturating_add(report.starts.saturating_sub(1));
    status.last_end = report.last_end;
    status.next_ms = report.next;
    let is_bad = matches!(report.state, State::Failed) || report.reason.is_some();
    status.reason = is_bad.then(|| reason_of(report));
}

/// A portspace that does not run: it could not be made, or is being made.
fn missing(agent: &Agent, plan: &PortspacePlan) -> Option<PortspaceStatus> {
    let mut status = base(&agent.servers, plan);
    agent.note_missing(&SpaceName::from(&plan.name), &mut status.space);
    status.space.reason.is_some().then_some(status)
}

impl Agent {
    /// Says why a space does not run, where that is known.
    pub(crate) fn note_missing(&self, name: &SpaceName, status: &mut SpaceStatus) {
        status.reason = self.failures.get(name).cloned();
        if status.reason.is_none() {
            status.reason = self.awaits(name);
            status.state = if status.reason.is_some() { State::Starting } else { State::Failed };
        }
    }
}

fn base(servers: &Servers, plan: &PortspacePlan) -> PortspaceStatus {
    let described = |name: &String| match servers.kind(name) {
        Some(kind) => format!("{name} ({})", servers::described(kind)),
        None => name.clone(),
    };
    let files = plan.windows.files.iter().map(|window| described(&window.server));
    let packets = plan.windows.packets.iter().flat_map(|window| window.interfaces.clone());
    PortspaceStatus {
        name: plan.name.to_string(),
        address: plan.address,
        rate: None,
        refused: None,
        space: planned(&plan.space),
        windows: WindowsStatus {
            packets: packets.collect(),
            broker_pid: None,
            broker: None,
            files: files.collect(),
            views: Default::default(),
            changes: plan.windows.changes.iter().map(described).collect(),
            processes: plan.windows.processes.clone(),
            sockets: Vec::new(),
            syscalls: Vec::new(),
        },
    }
}

/// What is known of a space from its plan alone.
pub(crate) fn planned(plan: &SpacePlan) -> SpaceStatus {
    SpaceStatus {
        hostname: plan.hostname.clone(),
        state: State::Failed,
        command: plan.command.clone(),
        pid: None,
        init_pid: None,
        since_ms: 0,
        restarts: 0,
        every_seconds: match plan.run {
            Run::Every { seconds } => Some(seconds),
            Run::Service { .. } => None,
        },
        last_end: None,
        reason: None,
        last_lines: Vec::new(),
        next_ms: None,
        ids: plan.ids,
        limits: plan.limits,
        usage: Usage::default(),
        enforced: Default::default(),
        limits_missing: Vec::new(),
        missing: Vec::new(),
    }
}

fn usage(agent: &Agent, name: &SpaceName) -> Usage {
    let group = agent.cgroups.open(&agent.layout.cgroup(name));
    let Ok(usage) = group.map(|group| group.usage()) else { return Usage::default() };
    Usage { memory_bytes: usage.memory, cpu_us: usage.cpu_micros, pids: usage.pids }
}

/// The host's process id of the child of `init` that is `inner` to itself. The command is a child
/// of init from its start to its end.
fn on_host(init: i32, inner: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        ids.and_then(|ids| ids.split_whitespace().last()?.parse().ok()) == Some(inner)
    })
}

/// The resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}
