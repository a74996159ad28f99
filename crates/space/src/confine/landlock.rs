//! Landlock for a space (landlock(7)): what is seen in its windows cannot be opened for writing.
//!
//! The views are read-only mounts, which stops every write to files and directories. A read-only
//! mount does not stop the opening of a *named pipe* for writing, and whoever does that speaks to
//! the server that reads it; Landlock does. It also keeps signals and abstract sockets inside.
//!
//! Rules only ever add rights to a hierarchy, so where there are views, everything but them is
//! listed: each entry of the root directory. A file directly in `/`, or in a directory that is made
//! there later, can therefore not be opened for writing; directories that the spec keeps are made
//! before.

use std::fs;
use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::root::WINDOWS;

/// Restricts this process and all that come from it. Returns what was enforced.
///
/// `must_scope` is for a space that shares its network with others: abstract sockets belong to a
/// network, and nothing else keeps it from theirs.
///
/// # Errors
/// Where the kernel lacks what is asked for: Landlock ABI 2 (Linux 5.19); with `must_scope` ABI 6
/// (Linux 6.12).
pub fn restrict(has_windows: bool, must_scope: bool) -> io::Result<&'static str> {
    // Refer is handled to be granted: without that, Landlock refuses every rename and link between
    // directories. Truncating is not handled: a read-only mount stops it, and the kernel would look
    // for that right at every open, which costs an integrity checker 3 % of its time.
    let all = AccessFs::WriteFile | AccessFs::Refer;
    let scope = if must_scope { CompatLevel::HardRequirement } else { CompatLevel::BestEffort };
    let scoped =
        |ruleset: Ruleset| ruleset.set_compatibility(scope).scope(Scope::from_all(ABI::V6));
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    if must_scope && !has_windows {
        // Nothing is to be kept from files, and the kernel does not look at each open.
        let ruleset = scoped(ruleset).and_then(Ruleset::create).map_err(io::Error::other)?;
        return enforced(ruleset);
    }
    let mut ruleset = ruleset
        .handle_access(all)
        .and_then(scoped)
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    for path in if has_windows { all_but_windows()? } else { vec![PathBuf::from("/")] } {
        // The right to rename is one of directories.
        let rights = if path.is_dir() { all } else { all & !BitFlags::from(AccessFs::Refer) };
        let beneath = PathFd::new(path).map_err(io::Error::other)?;
        ruleset = ruleset.add_rule(PathBeneath::new(beneath, rights)).map_err(io::Error::other)?;
    }
    enforced(ruleset)
}

fn enforced(ruleset: RulesetCreated) -> io::Result<&'static str> {
    let status = ruleset.restrict_self().map_err(io::Error::other)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "files",
        RulesetStatus::NotEnforced => return Err(io::Error::other("landlock was not enforced")),
    })
}

/// The entries of the root directory but the windows. A symbolic link is no hierarchy of its own.
fn all_but_windows() -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        let is_window = WINDOWS.iter().any(|window| entry.file_name() == *window);
        if !is_window && !entry.file_type()?.is_symlink() {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}
