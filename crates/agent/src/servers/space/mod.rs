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
use hyperspector_space::launch::{Building, Launched};
use hyperspector_spec::plan::{Ports, Protocol, ServerSpacePlan};
use hyperspector_window::ports;
use hyperspector_window::sockets::place::paths::Owned;

use crate::error::{Doing, Error, all_or_first, on};
use crate::layout::{Layout, SpaceDir, SpaceName};
use crate::process::Process;
use crate::record::{self, ServerSpaceRecord};
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

/// A server space whose builder works.
pub(crate) struct Begun {
    plan: ServerSpacePlan,
    ground: Ground,
}

/// Makes what the server space `plan` stands on, and has its builder begin. `below` is what lies under
/// its root.
pub(crate) fn begin(
    layout: &Layout,
    cgroups: &Cgroups,
    name: &SpaceName,
    plan: &ServerSpacePlan,
    below: Owned,
) -> Result<(Begun, Building), Error> {
    let ground = Ground::prepare(layout, cgroups, name.clone(), &plan.space, below)?;
    etc(&ground.dir, plan)?;
    // A socket is judged by the guard of the cgroup that it was made in: before anybody is in it.
    guard_ports(layout, &name.to_string(), plan, &ground.cgroup)?;
    let config =
        SpaceConfig { rules: rules(plan), ..ground.config(layout, &plan.space, Network::Host) };
    let building = ground.start(&config, None)?;
    Ok((Begun { plan: plan.clone(), ground }, building))
}

/// Writes down a server space that is built: whatever becomes of this agent, the next one finds it.
pub(crate) fn note(begun: Begun, renewals: u64, launched: &Launched) -> Result<ServerSpace, Error> {
    let Begun { plan, ground } = begun;
    let (init, space) = ground.record(launched, Vec::new(), renewals)?;
    let record = ServerSpaceRecord { plan, space };
    let path = ground.dir.record();
    files::save(&path, &record).doing(on("write", &path))?;
    Ok(ServerSpace { record, init })
}

/// Takes down a server space: processes, port guard, cgroup, run-time files. What lasts stays.
pub(crate) fn remove(layout: &Layout, cgroups: &Cgroups, name: &str) -> Result<(), Error> {
    let id = SpaceName::Server(name.into());
    let ended = space::end(&layout.cgroup(&id), cgroups, record::known(layout, &id), None);
    let cleared = clear(layout, cgroups, name);
    all_or_first([ended, cleared].into_iter().filter_map(Result::err).collect())
}

/// Removes what is left of a server space whose processes have ended.
pub(crate) fn clear(layout: &Layout, cgroups: &Cgroups, name: &str) -> Result<(), Error> {
    let (dir, cgroup) = (layout.server(name), layout.cgroup(&SpaceName::Server(name.into())));
    let pins = pins(layout, name);
    let mut errors = Vec::new();
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
