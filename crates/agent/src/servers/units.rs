//! systemd's units: found by the names of cgroups, as systemd makes them.
//!
//! A unit's cgroup is below slices alone, in a hierarchy of its own on v1. What a service or a
//! container makes in its own cgroup is named as it likes, and a user's own services are his: none of
//! that is taken for a unit of the system.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cgroups::{self, Group, Hierarchy};
use super::{Found, members};

/// The most slices that are looked at.
const MOST_SLICES: usize = 4096;
/// How long a unit's process may go by the name that systemd gives it until it executes the unit's
/// own program.
const SETTING_UP: Duration = Duration::from_secs(5);

/// Finds the unit `name`, which has its suffix.
pub(super) fn find(name: &str) -> Result<Found, String> {
    let all = cgroups::hierarchies();
    let hierarchy = systemd(&all).ok_or("systemd does not run on this host")?;
    let Some(path) = path(hierarchy, name) else {
        return Err("it does not run: it has no cgroup".to_owned());
    };
    let mut group = Group::at(hierarchy, &path, &all).processes();
    // What systemd has forked and is still setting up shows the host's own tree.
    group.retain(|&pid| !is_being_set_up(pid));
    let leader = members::leader(&group).ok_or("it does not run: it has no process")?;
    Ok(Found::in_group_of(Group::at(hierarchy, &path, &all), leader))
}

/// The hierarchy that systemd names units in: its own of v1, or v2 where systemd's slices are there.
fn systemd(all: &[Hierarchy]) -> Option<&Hierarchy> {
    let named = all.iter().find(|one| one.is_named("systemd"));
    let is_its = |one: &&Hierarchy| one.root.join("system.slice").is_dir();
    named.filter(is_its).or_else(|| all.iter().find(|one| one.is_v2() && is_its(one)))
}

/// The path of the unit's cgroup, from the root of the hierarchy.
fn path(hierarchy: &Hierarchy, unit: &str) -> Option<PathBuf> {
    let (mut next, mut looked_at) = (vec![hierarchy.root.clone()], 0);
    while let Some(slice) = next.pop() {
        looked_at += 1;
        if looked_at > MOST_SLICES {
            return None;
        }
        for group in cgroups::below(&slice) {
            let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if unescaped(&name) == unit {
                return group.strip_prefix(&hierarchy.root).ok().map(Path::to_owned);
            }
            if name.ends_with(".slice") {
                next.push(group);
            }
        }
    }
    None
}

/// systemd puts a `_` before names that the kernel, or itself, could take for something else.
fn unescaped(name: &str) -> &str {
    name.strip_prefix('_').unwrap_or(name)
}

/// Whether systemd has forked the process and not executed the unit's program in it yet: until then
/// it goes by that program's name in brackets. Anybody could, so it does not count for long.
fn is_being_set_up(pid: i32) -> bool {
    let Some(stat) = members::stat(pid) else { return false };
    let is_in_brackets = stat.name.starts_with('(') && stat.name.ends_with(')');
    is_in_brackets && stat.age().is_some_and(|age| age < SETTING_UP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn units_are_found_below_slices_alone() {
        let home = tempfile::tempdir().unwrap();
        let make = |path: &str| fs::create_dir_all(home.path().join(path)).unwrap();
        make("system.slice/system-getty.slice/getty@tty1.service");
        make("system.slice/nginx.service/db.service");
        make("user.slice/user-1000.slice/user@1000.service/app.slice/shop.service");
        make("docker/0123/web.service");
        make("system.slice/__odd.service");
        let hierarchy = Hierarchy::at(home.path());
        let find = |unit: &str| path(&hierarchy, unit).map(|path| path.display().to_string());
        assert_eq!(find("nginx.service").as_deref(), Some("system.slice/nginx.service"));
        assert!(find("getty@tty1.service").is_some());
        assert!(find("_odd.service").is_some());
        for other in ["db.service", "shop.service", "web.service", "nothing.service"] {
            assert_eq!(find(other), None, "{other}");
        }
    }
}
