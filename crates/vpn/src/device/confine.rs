//! What the worker gives up before it reads its first datagram, and the attempts to get it back.

use std::io;

use hyperspector_sys::capabilities::limit_bounding_set;
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs, set_thread_groups,
};

use super::policy;

/// Descriptors: the standard ones, the channel, those that were passed, one of an agent with what it
/// passes, and some air.
const DESCRIPTORS: u64 = 32;

/// Why the worker could not be confined; it does not run then.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// It was told to stay root.
    #[error("run the VPN as user {uid}, group {gid}: neither may be 0")]
    Root {
        /// The user wanted.
        uid: u32,
        /// The group wanted.
        gid: u32,
    },
    /// A step failed.
    #[error("{step}: {source}")]
    Step {
        /// `leave root`, say.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A step seemed to work and did not.
    #[error("the VPN's process could {0} after giving that up")]
    Regained(&'static str),
    /// The filter could not be applied.
    #[error(transparent)]
    Policy(#[from] policy::PolicyError),
}

/// Keeps what the process has in memory from core dumps, other processes of its user, and swap.
///
/// To be called before there is a secret. Returns whether the memory is locked: that takes an
/// unlimited RLIMIT_MEMLOCK, which root may not be free to set in a container.
pub fn protect_memory() -> Result<bool, ConfineError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    step("forbid core dumps", setrlimit(Resource::Core, none))?;
    step("forbid tracing", set_undumpable())?;
    let all = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, all).is_err() {
        // All later memory would count against the limit, and threads could not be started.
        return Ok(false);
    }
    // Without MCL_ONFAULT the allocator's reserved but unused memory would be filled.
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: mlockall takes an integer and changes no memory's content.
    Ok(unsafe { libc::mlockall(flags) } == 0)
}

/// Becomes user `uid` and group `gid` for good: no other groups, no capabilities, no new privileges.
///
/// Only for a process of one thread: the kernel keeps these for each thread.
pub fn leave_root(uid: u32, gid: u32) -> Result<(), ConfineError> {
    if uid == 0 || gid == 0 {
        return Err(ConfineError::Root { uid, gid });
    }
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    step("empty the bounding set", limit_bounding_set(CapabilitySet::empty()))?;
    step("leave all groups", set_thread_groups(&[]))?;
    step("leave root's group", rustix::thread::set_thread_res_gid(group, group, group))?;
    step("leave root", rustix::thread::set_thread_res_uid(user, user, user))?;
    step("drop ambient capabilities", clear_ambient_capability_set())?;
    step("drop capabilities", set_capabilities(None, NO_CAPABILITIES))?;
    step("forbid new privileges", set_no_new_privs(true))?;
    // A change of user made the process what its old user's system settings say.
    step("forbid tracing", set_undumpable())?;
    try_to_regain()
}

/// Limits descriptors and processes, and puts the system call policy over all threads.
///
/// To be called when all threads run; none of them may have touched a datagram.
pub fn close_down() -> Result<(), ConfineError> {
    let limit = |n| Rlimit { current: Some(n), maximum: Some(n) };
    step("limit descriptors", setrlimit(Resource::Nofile, limit(DESCRIPTORS)))?;
    step("limit processes", setrlimit(Resource::Nproc, limit(0)))?;
    policy::apply()?;
    match std::fs::File::open("/") {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => Ok(()),
        _ => Err(ConfineError::Regained("open files")),
    }
}

const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// Every attempt must fail.
fn try_to_regain() -> Result<(), ConfineError> {
    let (user, group) = (Uid::ROOT, Gid::ROOT);
    let attempts = [
        ("become root", rustix::thread::set_thread_res_uid(user, user, user).is_ok()),
        ("join root's group", rustix::thread::set_thread_res_gid(group, group, group).is_ok()),
        ("join groups", set_thread_groups(&[group]).is_ok()),
        ("take a capability", takes_capability()),
        ("keep a capability", capabilities(None) != Ok(NO_CAPABILITIES)),
        ("raise a limit", raises_limit()),
    ];
    match attempts.into_iter().find(|(_, worked)| *worked) {
        Some((what, _)) => Err(ConfineError::Regained(what)),
        None => Ok(()),
    }
}

fn takes_capability() -> bool {
    let wanted = CapabilitySet::NET_ADMIN;
    let sets = CapabilitySets { effective: wanted, permitted: wanted, ..NO_CAPABILITIES };
    set_capabilities(None, sets).is_ok()
}

fn raises_limit() -> bool {
    let core = getrlimit(Resource::Core);
    core.maximum != Some(0)
        || setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(1) }).is_ok()
}

fn set_undumpable() -> rustix::io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
}

fn step<T, E: Into<io::Error>>(
    step: &'static str,
    result: Result<T, E>,
) -> Result<T, ConfineError> {
    result.map_err(|e| ConfineError::Step { step, source: e.into() })
}
