//! The builder of a space, which becomes its init.
//!
//! It starts as root of the host, alone in its process, and goes through these stages:
//!
//! 1. makes the user namespace, enters the network namespace that it was given, if any, and makes the
//!    mount, PID, IPC, UTS and cgroup namespaces, which all belong to the initial user namespace;
//! 2. as the first process of the PID namespace: builds the root and enters it;
//! 3. enters the user namespace, where it is root over nothing but its own files and processes, and
//!    gives up capabilities, privileges to come, and system calls;
//! 4. waits until whoever answers its brokered calls is listening, and runs the command.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use hyperspector_sys::channel::Channel;
use hyperspector_sys::worker;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, LinkNameSpaceType, Uid, UnshareFlags, capabilities,
    move_into_link_name_space, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::config::{Enforced, FD_COUNT, FromBuilder, Network, SpaceConfig, ToBuilder};
use crate::confine::{self, landlock, seccomp};
use crate::init::{self, Resources};
use crate::root::{self, Failed, Step};
use crate::userns;

/// The worker's name for [`worker::spawn`].
pub const KIND: &str = "space";

/// The worker: builds the space that it is told to, and is its init until it ends.
pub fn worker_main() -> ExitCode {
    let Ok((config, fds, agent)) = worker::receive::<SpaceConfig>() else {
        return ExitCode::FAILURE;
    };
    let failed = match stages(&config, fds, &agent) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(resources)) => {
            drop(agent);
            return init::run(&config, resources).unwrap_or(ExitCode::FAILURE);
        }
        Err(failed) => failed,
    };
    let (step, cause) = (failed.step, failed.cause.to_string());
    let _ = agent.send(&FromBuilder::Failed { step, cause }, &[]);
    ExitCode::FAILURE
}

/// All stages; `None` in the process that is not to be the space's init.
fn stages(
    config: &SpaceConfig,
    mut fds: Vec<OwnedFd>,
    agent: &Channel,
) -> Result<Option<Resources>, Failed> {
    let wanted = FD_COUNT + usize::from(config.network == Network::Own);
    let network = fds.split_off(FD_COUNT.min(fds.len())).pop();
    let fds: [OwnedFd; FD_COUNT] = fds
        .try_into()
        .ok()
        .filter(|_| FD_COUNT + usize::from(network.is_some()) == wanted)
        .ok_or_else(|| io::Error::other("descriptors are missing"))
        .step(|| "start the builder".into())?;
    let [control, log0, log1, report] = fds;
    expect(agent, ToBuilder::Placed)?;
    give_up_reserves().step(|| "give up the right to reserves".into())?;

    let users = userns::create(config.ids, &config.others, config.owner)
        .step(|| "make the user namespace".into())?;
    namespaces(config, network)?;
    if is_parent(agent)? {
        return Ok(None);
    }

    let mounts = root::build(config, users.as_fd())?;
    let enforced = confine(config, users.as_fd(), mounts)?;
    drop(users);
    let (enforced, listener) = enforced;
    let passed: Vec<BorrowedFd<'_>> = listener.iter().map(AsFd::as_fd).collect();
    agent.send(&FromBuilder::Ready(enforced), &passed).step(|| "report to the agent".into())?;
    // The listener must not stay here: it could answer for the broker.
    drop(listener);
    expect(agent, ToBuilder::Go)?;

    let control = UnixListener::from(control);
    Ok(Some(Resources { control, logs: [log0, log1], report }))
}

/// overlayfs writes with the rights of whoever has mounted it: without this one, the part of a disk
/// that is reserved for root stays so.
fn give_up_reserves() -> io::Result<()> {
    let now = capabilities(None)?;
    let without = |set: CapabilitySet| set.difference(CapabilitySet::SYS_RESOURCE);
    Ok(set_capabilities(
        None,
        CapabilitySets {
            effective: without(now.effective),
            permitted: without(now.permitted),
            inheritable: without(now.inheritable),
        },
    )?)
}

fn expect(agent: &Channel, wanted: ToBuilder) -> Result<(), Failed> {
    let step = || format!("wait for {wanted:?}");
    match agent.receive::<ToBuilder>().step(step)? {
        Some((message, _)) if message == wanted => Ok(()),
        _ => Err(io::Error::other("the agent is gone")).step(step),
    }
}

/// Enters and makes the namespaces; the PID namespace is the next child's.
fn namespaces(config: &SpaceConfig, network: Option<OwnedFd>) -> Result<(), Failed> {
    if let Some(network) = network {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .step(|| "enter the network namespace".into())?;
    }
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    // SAFETY: the process has one thread and shares no descriptors with another.
    unsafe { rustix::thread::unshare_unsafe(flags) }.step(|| "make namespaces".into())?;
    rustix::system::sethostname(config.hostname.as_bytes())
        .step(|| format!("set the host name {}", config.hostname))
}

/// Forks the first process of the PID namespace. The parent tells the agent about it, and is done.
fn is_parent(agent: &Channel) -> Result<bool, Failed> {
    let step = || "make the first process".to_owned();
    // SAFETY: the process has one thread, so the child is a whole copy.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error()).step(step);
    }
    if pid > 0 {
        agent.send(&FromBuilder::Forked { pid }, &[]).step(step)?;
    }
    Ok(pid > 0)
}

/// Gives up everything, for good.
fn confine(
    config: &SpaceConfig,
    users: BorrowedFd<'_>,
    mounts: root::Shown,
) -> Result<(Enforced, Option<OwnedFd>), Failed> {
    stdio_of_its_own().step(|| "open /dev/null".into())?;
    move_into_link_name_space(users, Some(LinkNameSpaceType::User))
        .step(|| "enter the user namespace".into())?;
    become_root_inside().step(|| "become root inside".into())?;
    // A crash must not hand the process's memory to the host's core dump handler, which is root:
    // 1 stops both files and handlers (core(5)).
    let core = Rlimit { current: Some(1), maximum: Some(1) };
    setrlimit(Resource::Core, core).step(|| "limit core dumps".into())?;
    limit_the_rest().step(|| "set limits".into())?;
    set_no_new_privs(true).step(|| "set no_new_privs".into())?;
    let has_windows = config.windows.as_ref().is_some_and(|places| places.used);
    let landlock = landlock::restrict(has_windows, config.network == Network::Host)
        .map(str::to_owned)
        .or_else(|error| {
            if config.landlock_optional { Ok(format!("missing: {error}")) } else { Err(error) }
        })
        .step(|| "restrict it with landlock (allow-missing = [\"landlock\"])".into())?;
    confine::capabilities::drop_all_but_kept().step(|| "drop capabilities".into())?;
    let mut rules = config.rules.clone();
    if !config.others.is_empty() {
        rules.extend(confine::ids::rules());
    }
    let listener = seccomp::install(&rules).step(|| "install the filters".into())?;
    verify_mounts_are_out_of_reach().step(|| "check what was given up".into())?;
    let enforced = Enforced {
        landlock,
        syscalls_allowed: seccomp::allowed_count(),
        brokered: listener.is_some(),
        capabilities: confine::capabilities::KEPT
            .iter()
            .map(|(_, name, _)| (*name).to_owned())
            .collect(),
        mounts,
    };
    Ok((enforced, listener))
}

/// The standard streams are the space's own `/dev/null`, not the host's.
fn stdio_of_its_own() -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(dup2_stderr(&null)?)
}

fn become_root_inside() -> io::Result<()> {
    set_thread_groups(&[])?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// The other limits do not depend on who has started the agent. IDSs hold many files open; nobody
/// inside needs to go before everybody else.
fn limit_the_rest() -> io::Result<()> {
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
    for (resource, value) in [(Resource::Rtprio, 0), (Resource::Nice, 0)] {
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
    }
    for (resource, most) in [(Resource::Memlock, 8 << 20), (Resource::Sigpending, 16 << 10)] {
        let maximum = getrlimit(resource).maximum.map_or(most, |value| value.min(most));
        setrlimit(resource, Rlimit { current: Some(maximum), maximum: Some(maximum) })?;
    }
    Ok(())
}

/// Tries what must not work any more.
fn verify_mounts_are_out_of_reach() -> io::Result<()> {
    let mounted = rustix::mount::mount_bind("/tmp", "/run").is_ok();
    // SAFETY: the process has one thread.
    let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.is_ok();
    if mounted || unshared {
        return Err(io::Error::other("mounting or making namespaces still works"));
    }
    Ok(())
}
