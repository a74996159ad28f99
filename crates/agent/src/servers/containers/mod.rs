//! Containers that others run: found by the files in which runtimes keep their state, and by cgroups.
//! No runtime is asked anything.
//!
//! What those files say is other software's word: which process it is has to be borne out by the
//! process's start time or by its cgroup.

mod files;
mod oci;
mod stores;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::cgroups::{self, Group, Hierarchy};
use super::sight::root;
use super::{Found, members};
use crate::process::ProcessId;

/// The shortest beginning of an id that stands for it.
const SHORTEST_ID: usize = 12;
/// How long a container's id is that a runtime makes up.
const ID_LENGTH: usize = 64;
/// The most cgroups that are looked at for a container that no file tells of.
const MOST_GROUPS: usize = 20_000;

/// What a runtime's files say of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    id: String,
    /// Its names, as people call it.
    names: Vec<String>,
    /// Its first process, where it runs, with its start time where that is known.
    process: Option<(i32, Option<u64>)>,
}

/// Finds the container `wanted`, a name or an id.
pub(super) fn find(wanted: &str) -> Result<Found, String> {
    let known = merged(stores::all().into_iter().chain(oci::all()));
    let Some(container) = chosen(wanted, &known)? else {
        if !is_id(wanted) {
            return Err(format!("no runtime on this host knows a container {wanted}"));
        }
        let leader = in_cgroups(wanted, false)?;
        return found(wanted, leader);
    };
    let id = &container.id;
    let known = container.process.and_then(|(pid, start)| verified(id, pid, start));
    let leader = match known {
        Some(leader) => leader,
        // One of root's runtimes knows it, so that only groups that root has made are it.
        None if is_id(id) => in_cgroups(id, true)?,
        None => return Err("it does not run".to_owned()),
    };
    found(id, leader)
}

/// What `known` says, put together by container.
fn merged(known: impl Iterator<Item = Known>) -> BTreeMap<String, Known> {
    let mut all: BTreeMap<String, Known> = BTreeMap::new();
    for one in known {
        let entry = all.entry(one.id.clone()).or_default();
        entry.id = one.id;
        entry.names.extend(one.names);
        let is_better = |(_, start): &(i32, Option<u64>)| start.is_some();
        if entry.process.is_none() || one.process.as_ref().is_some_and(is_better) {
            entry.process = one.process.or(entry.process);
        }
    }
    all
}

/// The container that `wanted` stands for.
fn chosen<'a>(
    wanted: &str,
    known: &'a BTreeMap<String, Known>,
) -> Result<Option<&'a Known>, String> {
    let named = |one: &&Known| one.id == wanted || one.names.iter().any(|name| name == wanted);
    let begun = |one: &&Known| wanted.len() >= SHORTEST_ID && one.id.starts_with(wanted);
    let mut matching: Vec<&Known> = known.values().filter(named).collect();
    if matching.is_empty() {
        matching = known.values().filter(begun).collect();
    }
    if matching.len() > 1 {
        let ids: Vec<&str> = matching.iter().map(|one| short(&one.id)).collect();
        return Err(format!("it could be any of {}; give an id", ids.join(", ")));
    }
    Ok(matching.pop())
}

/// Whether it looks like what a runtime makes up as an id.
fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn short(id: &str) -> &str {
    id.get(..SHORTEST_ID).filter(|_| is_id(id)).unwrap_or(id)
}

/// The process `pid`, where it is the container's: by its start time, or else by its cgroup.
fn verified(id: &str, pid: i32, start: Option<u64>) -> Option<ProcessId> {
    let stat = members::stat(pid).filter(|stat| !stat.has_ended())?;
    let is_it = match start {
        Some(start) => stat.start == start,
        None => is_in_group_of(id, pid),
    };
    is_it.then_some(ProcessId { pid, start: stat.start })
}

fn is_in_group_of(id: &str, pid: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let all = cgroups::hierarchies();
    let places = all.iter().filter_map(|one| Some((one, one.path_in(&text)?)));
    places.into_iter().any(|(hierarchy, path)| {
        path.ancestors().any(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            is_named_by(id, &name) && is_made_by_root(hierarchy, path)
        })
    })
}

/// Whether nobody but root could give a group its name: what it is in is root's. Managers hand parts
/// of the hierarchy to users (`user@1000.service`), who make groups of any name there.
fn is_made_by_root(hierarchy: &Hierarchy, path: &Path) -> bool {
    path.ancestors().skip(1).all(|above| is_root_s(&hierarchy.root.join(above)))
}

fn is_root_s(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|found| found.uid() == 0 && found.mode() & 0o022 == 0)
}

/// Whether a cgroup's name is one that runtimes give to the container with the id `id`: the id, or
/// `docker-ID.scope` and the like.
fn is_named_by(id: &str, name: &str) -> bool {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    name.strip_suffix(id).is_some_and(|before| before.is_empty() || before.ends_with('-'))
}

/// A container whose first process is `leader`, as a server.
fn found(id: &str, leader: ProcessId) -> Result<Found, String> {
    // Before it has changed to its own root, it would show the host's.
    if root(leader.pid).is_none_or(|theirs| Some(theirs) == root(std::process::id().cast_signed()))
    {
        return Err("it has the host's root: it is being started, or it is the base system".into());
    }
    let mut found = Found::led_by(leader);
    found.group = Group::of(leader.pid).and_then(|group| own_group(id, group));
    Ok(found)
}

/// The part of `group` that is the container's: what its runtime makes there is named by its id, and
/// its processes may be further down.
fn own_group(id: &str, group: Group) -> Option<Group> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_its = |path: &&Path| is_named_by(id, &name(path));
    let path = group.path.ancestors().filter(is_its).last()?.to_owned();
    group.above(&path)
}

/// The first process of the container with the id `id`, by the names of cgroups alone: of those that root
/// has made, and of those of users where there is none and users' do (`of_root`).
fn in_cgroups(id: &str, of_root: bool) -> Result<ProcessId, String> {
    let all = cgroups::hierarchies();
    let groups: Vec<Group> = all
        .iter()
        .map(|hierarchy| groups_of(id, hierarchy, &all, of_root))
        .find(|groups| !groups.is_empty())
        .unwrap_or_default();
    match &groups[..] {
        [] => Err("it does not run".to_owned()),
        [group] => members::leader(&group.processes()).ok_or_else(|| "it does not run".to_owned()),
        _ => Err(format!("{} cgroups have its id in their names", groups.len())),
    }
}

/// The populated groups in `hierarchy` that are named by `id`, outside of other containers.
fn groups_of(id: &str, hierarchy: &Hierarchy, all: &[Hierarchy], of_root: bool) -> Vec<Group> {
    let root_s = named_groups(id, hierarchy, all, true);
    if of_root || !root_s.is_empty() { root_s } else { named_groups(id, hierarchy, all, false) }
}

fn named_groups(id: &str, hierarchy: &Hierarchy, all: &[Hierarchy], of_root: bool) -> Vec<Group> {
    let (mut found, mut next, mut looked_at) = (Vec::new(), vec![hierarchy.root.clone()], 0);
    while let Some(directory) = next.pop() {
        if of_root && !is_root_s(&directory) {
            continue;
        }
        for group in cgroups::below(&directory) {
            looked_at += 1;
            if looked_at > MOST_GROUPS {
                break;
            }
            let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_helper = name.contains("conmon");
            if is_named_by(id, &name) && !is_helper {
                let path = group.strip_prefix(&hierarchy.root).unwrap_or(&group);
                found.push(Group::at(hierarchy, path, all));
            } else if !has_id(&name) {
                next.push(group);
            }
        }
    }
    found.retain(|group| !group.processes().is_empty());
    found
}

/// Whether a container's id is in the name of a cgroup.
fn has_id(name: &str) -> bool {
    name.split(|c: char| !c.is_ascii_alphanumeric()).any(is_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: &str, names: &[&str]) -> Known {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Known { id: id.into(), names, process: None }
    }

    #[test]
    fn a_name_stands_for_one_container_or_is_an_error() {
        let id = |n: u8| format!("{n:064x}");
        let all = merged(
            [known(&id(1), &["shop"]), known(&id(2), &["db", "prod/db"]), known(&id(3), &["db"])]
                .into_iter(),
        );
        assert_eq!(chosen("shop", &all).unwrap().unwrap().id, id(1));
        assert_eq!(chosen("prod/db", &all).unwrap().unwrap().id, id(2));
        assert_eq!(chosen(&id(3), &all).unwrap().unwrap().id, id(3));
        assert!(chosen("db", &all).is_err() && chosen(&"0".repeat(12), &all).is_err());
        assert_eq!(chosen("nothing", &all).unwrap(), None);
        // Too short to stand for anything.
        assert_eq!(chosen("000", &all).unwrap(), None);
    }

    #[test]
    fn what_several_files_say_is_put_together() {
        let with = |process| Known { process: Some(process), ..known("a", &["shop"]) };
        let all = merged([known("a", &[]), with((7, None)), with((7, Some(9)))].into_iter());
        assert_eq!(all["a"].process, Some((7, Some(9))));
        let all = merged([with((7, Some(9))), with((8, None)), known("a", &[])].into_iter());
        assert_eq!(all["a"].process, Some((7, Some(9))));
    }

    #[test]
    fn a_short_id_is_not_found_in_other_names() {
        let names = ["a", "docker-a.scope", "libpod-a.scope", "cri-containerd-a.scope"];
        assert!(names.iter().all(|name| is_named_by("a", name)));
        assert!(
            ["system.slice", "ba", "a.service", "a-b.scope"]
                .iter()
                .all(|name| !is_named_by("a", name))
        );
    }

    #[test]
    fn ids_are_known_in_the_names_of_cgroups() {
        let id = "0123456789abcdef".repeat(4);
        assert!(has_id(&format!("docker-{id}.scope")) && has_id(&id));
        assert!(!has_id("system.slice") && !has_id(&format!("docker-{id}0.scope")));
    }
}
