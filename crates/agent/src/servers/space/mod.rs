//! Server spaces: made, kept, changed while they run, taken down.
//!
//! What they have in common with portspaces is in [`crate::space`]. What is their own: they are on
//! the host's network behind a port guard, resolve names as the host does, and may write to
//! directories of the host.

mod chance;
mod keep;
mod set_id;

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use hyperspector_space::cgroup::{Cgroup, Cgroups};
use hyperspector_space::config::{Compare, Condition, Network, Rule, RuleAction, SpaceConfig};
use hyperspector_spec::plan::{Ports, Protocol, ServerSpacePlan};
use hyperspector_window::ports;
use hyperspector_window::sockets::place::paths::Owned;

use crate::error::{Doing, Error, all_or_first, on};
use crate::layout::{Layout, SpaceDir, SpaceName};
use crate::process::Process;
use crate::record::ServerSpaceRecord;
use crate::space::{self, Ground};
use crate::{files, guard, windows};

pub(crate) use keep::{first_id, status};

/// A server space that runs.
#[derive(Debug)]
pub(crate) struct ServerSpace {
    /// What is known about it, as it is on disk.
    pub(crate) record: ServerSpaceRecord,
    /// Its init.
    pub(crate) init: Process,
}

/// Makes the server space `plan`; `before` is called with its init before its command runs. On failure nothing of it is left but its state directory.
fn make(
    layout: &Layout,
    cgroups: &Cgroups,
    name: &str,
    (plan, below): (&ServerSpacePlan, Owned),
    before: &mut dyn FnMut(i32),
) -> Result<ServerSpace, Error> {
    steps(layout, cgroups, name, (plan, below), before).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = remove(layout, cgroups, name, None);
    })
}

fn steps(
    layout: &Layout,
    cgroups: &Cgroups,
    name: &str,
    (plan, below): (&ServerSpacePlan, Owned),
    before: &mut dyn FnMut(i32),
) -> Result<ServerSpace, Error> {
    let id = SpaceName::Server(name.into());
    let ground = Ground::prepare(layout, cgroups, id, &plan.space, below)?;
    etc(&ground.dir, plan)?;
    // A socket is judged by the guard of the cgroup that it was made in: before anybody is in it.
    guard_ports(layout, name, plan, &ground.cgroup)?;
    let config =
        SpaceConfig { rules: rules(plan), ..ground.config(layout, &plan.space, Network::Host) };
    let launched = ground.launch(&config, None)?;
    let (init, space) = ground.record(&launched, Vec::new()).inspect_err(|_| launched.abandon())?;
    let record = ServerSpaceRecord { plan: plan.clone(), space };
    let path = ground.dir.record();
    // On disk before the command runs: whatever becomes of this agent, the next one finds it.
    files::save(&path, &record).doing(on("write", &path)).inspect_err(|_| launched.abandon())?;
    before(launched.init);
    launched.go().doing(|| format!("start {name}"))?;
    Ok(ServerSpace { record, init })
}

/// Takes down a server space: processes, port guard, cgroup, run-time files. What lasts stays.
pub(crate) fn remove(
    layout: &Layout,
    cgroups: &Cgroups,
    name: &str,
    init: Option<&Process>,
) -> Result<(), Error> {
    let (dir, cgroup) = (layout.server(name), layout.cgroup(&SpaceName::Server(name.into())));
    let record: Option<ServerSpaceRecord> = files::load(&dir.record());
    let grace = record.as_ref().map_or(0, |record| record.plan.space.stop_grace);
    let known = record.as_ref().map(|record| &record.space);
    let mut errors = Vec::new();
    errors.extend(space::end(&cgroup, cgroups, known, grace, init).err());
    let pins = pins(layout, name);
    errors.extend(ports::remove(&pins).doing(on("remove", &pins)).err());
    errors.extend(space::clear(&cgroup, cgroups, &dir));
    all_or_first(errors)
}

/// The files of `/etc` that a server space gets from us: names are resolved as on the host, and its
/// own leads to itself.
fn etc(dir: &SpaceDir, plan: &ServerSpacePlan) -> Result<(), Error> {
    let hostname = &plan.space.hostname;
    let (mut hosts, resolver) = (of_host("/etc/hosts"), of_host("/etc/resolv.conf"));
    let is_known = hosts.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_ascii_whitespace().skip(1).any(|name| name == hostname)
    });
    if !is_known {
        if !hosts.is_empty() && !hosts.ends_with('\n') {
            hosts.push('\n');
        }
        hosts.push_str(&format!("127.0.1.1\t{hostname}\n"));
    }
    space::write_etc(dir, [&hosts, &format!("{hostname}\n"), &resolver])
}

/// A small file of the host; empty where there is none.
fn of_host(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Where a server space's BPF links and maps are pinned. Portspaces' names hold no `_`.
fn pins(layout: &Layout, name: &str) -> PathBuf {
    layout.bpf().join(format!("server_{name}"))
}

fn guard_ports(
    layout: &Layout,
    name: &str,
    plan: &ServerSpacePlan,
    cgroup: &Cgroup,
) -> Result<(), Error> {
    let doing = || format!("guard the ports of {name}");
    let directory = guard::guarded(layout, cgroup, doing)?;
    ports::attach(directory.as_fd(), &guarded(plan), &pins(layout, name)).doing(doing)
}

/// Socket diagnosis lists the sockets of a network: the host's. `/proc/net` has as much of it as
/// programs need, and fewer kernel modules are loaded on demand.
fn no_diagnosis() -> Rule {
    let is = |argument, value: i32| Condition {
        argument,
        compare: Compare::Equal,
        value: u64::from(value.cast_unsigned()),
    };
    Rule {
        syscall: libc::SYS_socket,
        conditions: vec![is(0, libc::AF_NETLINK), is(2, libc::NETLINK_SOCK_DIAG)],
        action: RuleAction::Errno(libc::EPROTONOSUPPORT as u16),
    }
}

/// What the port guard is told.
fn guarded(plan: &ServerSpacePlan) -> ports::Config {
    let ranges = |all: &[Ports]| {
        let range = |one: &Ports| ports::Range {
            protocol: match one.protocol {
                Protocol::Tcp => ports::Protocol::Tcp,
                Protocol::Udp => ports::Protocol::Udp,
            },
            first: one.first,
            last: one.last,
        };
        all.iter().map(range).collect()
    };
    ports::Config { ports: ranges(&plan.ports), deny: ranges(&plan.deny) }
}

/// The seccomp rules of a server space, on top of the policy of every space.
fn rules(plan: &ServerSpacePlan) -> Vec<Rule> {
    let mut rules: Vec<Rule> = ports::rules().iter().map(windows::rule).collect();
    rules.push(no_diagnosis());
    if plan.space.mounts.iter().any(|mount| mount.writable) {
        rules.extend(set_id::rules());
    }
    rules
}
