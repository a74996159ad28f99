//! The capabilities that root has inside a space (capabilities(7)).
//!
//! They count against the space's own user namespace alone, which owns no other namespace, so they
//! reach no further than the space's own files and processes.

use std::io;

use hyperspector_sys::capabilities::limit_bounding_set;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
};

/// What stays, with the reason.
pub const KEPT: &[(CapabilitySet, &str, &str)] = &[
    (CapabilitySet::CHOWN, "chown", "daemons give their files to the user that they become"),
    (CapabilitySet::DAC_OVERRIDE, "dac_override", "root is used to reading and writing all files"),
    (CapabilitySet::DAC_READ_SEARCH, "dac_read_search", "integrity checkers read every file"),
    (CapabilitySet::FOWNER, "fowner", "as chown, for modes and times"),
    (CapabilitySet::FSETID, "fsetid", "as chown, for set-group-id directories"),
    (CapabilitySet::KILL, "kill", "supervisors end what they started under another user"),
    (CapabilitySet::SETGID, "setgid", "daemons leave root"),
    (CapabilitySet::SETUID, "setuid", "daemons leave root"),
    (CapabilitySet::SETPCAP, "setpcap", "daemons drop capabilities when they leave root"),
    (CapabilitySet::SYS_CHROOT, "sys_chroot", "daemons confine themselves further"),
];

/// The set of [`KEPT`].
pub fn kept() -> CapabilitySet {
    KEPT.iter().fold(CapabilitySet::empty(), |all, (one, ..)| all | *one)
}

/// Drops every capability but [`KEPT`], from the bounding set too, and tries to get one back.
///
/// # Errors
/// The failing call; `PermissionDenied` turned round (an error that says so) if a dropped capability
/// could be had again.
pub fn drop_all_but_kept() -> io::Result<()> {
    let kept = kept();
    limit_bounding_set(kept)?;
    clear_ambient_capability_set()?;
    let empty = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: empty },
    )?;
    let regained = CapabilitySets {
        effective: kept | CapabilitySet::SYS_ADMIN,
        permitted: kept | CapabilitySet::SYS_ADMIN,
        inheritable: empty,
    };
    if set_capabilities(None, regained).is_ok() || capabilities(None)?.permitted != kept {
        return Err(io::Error::other("a dropped capability could be regained"));
    }
    Ok(())
}
