//! Where the hierarchies are, and making one path in all of them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use hyperspector_spec::plan::Limits;
use hyperspector_sys::mountinfo::{self, Mounted};

use super::limits::{self, Enforcement};
use super::{Cgroup, Error};

/// The v1 controllers that are of use here. Each of our groups is made in the hierarchies of these.
const V1: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "blkio", "freezer"];

/// The v2 controllers that are of use here.
pub(super) const V2: [&str; 4] = ["cpu", "memory", "io", "pids"];

/// Where the kernel lists the disks.
const DISKS: &str = "/sys/block";

/// The hierarchies of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// The v2 hierarchy; it may have no controllers.
    pub(super) v2: Option<PathBuf>,
    /// The v1 hierarchies by controller; two controllers may share one.
    pub(super) v1: BTreeMap<&'static str, PathBuf>,
    /// Where the disks are.
    pub(super) disks: PathBuf,
}

impl Cgroups {
    /// Finds the hierarchies that are mounted in the caller's mount namespace.
    pub fn detect() -> Result<Self, Error> {
        let path = "/proc/self/mountinfo";
        let table = std::fs::read(path).map_err(|e| Error::new("read", path, e))?;
        let found = Self::from_mountinfo(&table);
        if found.v2.is_none() && found.v1.is_empty() {
            let cause = io::Error::new(io::ErrorKind::NotFound, "none is mounted");
            return Err(Error::new("look for", "cgroup hierarchies", cause));
        }
        Ok(found)
    }

    /// Reads a mount table (proc_pid_mountinfo(5)). Of several mounts of one hierarchy the first
    /// counts.
    pub fn from_mountinfo(table: &[u8]) -> Self {
        let mut found = Self { disks: DISKS.into(), ..Self::default() };
        for Mounted { kind, place, options, .. } in mountinfo::mounts(table) {
            if kind == "cgroup2" {
                found.v2.get_or_insert(place);
            } else if kind == "cgroup" {
                for name in V1.iter().filter(|name| options.split(',').any(|one| one == **name)) {
                    found.v1.entry(name).or_insert_with(|| place.clone());
                }
            }
        }
        found
    }

    /// The v2 hierarchy's root, for programs that are attached to cgroups.
    pub fn v2_root(&self) -> Option<&Path> {
        self.v2.as_deref()
    }

    /// Makes the group at `path`, relative to the roots, and sets its limits; a group that is there
    /// is taken over. What could not be enforced is in the list, with the reason; only limits that
    /// were asked for are.
    pub fn create(
        &self,
        path: &Path,
        limits: &Limits,
    ) -> Result<(Cgroup, Vec<Enforcement>), Error> {
        check(path)?;
        let mut refused = BTreeMap::new();
        if let Some(root) = &self.v2 {
            make_v2(root, path, &mut refused)?;
        }
        for root in self.v1_roots() {
            let directory = root.join(path);
            std::fs::create_dir_all(&directory)
                .map_err(|e| Error::new("create cgroup", &directory, e))?;
        }
        let group = self.at(path, refused);
        let enforced = group.update(limits);
        Ok((group, enforced))
    }

    /// The group at `path`, which must be there.
    pub fn open(&self, path: &Path) -> Result<Cgroup, Error> {
        check(path)?;
        let group = self.at(path, BTreeMap::new());
        for directory in group.directories() {
            std::fs::metadata(directory).map_err(|e| Error::new("open cgroup", directory, e))?;
        }
        Ok(group)
    }

    /// Removes the group at `path` with all below it, which must be without processes, and those
    /// above it that are empty then. Not an error where it is not there.
    pub fn remove(&self, path: &Path) -> Result<(), Error> {
        check(path)?;
        self.at(path, BTreeMap::new()).remove()?;
        let roots = self.v2.iter().chain(self.v1_roots());
        for root in roots {
            let above = path.ancestors().skip(1).take_while(|p| !p.as_os_str().is_empty());
            // Stops at the first that is in use: it has other groups, or processes.
            let _ = above.map(|p| std::fs::remove_dir(root.join(p))).find(Result::is_err);
        }
        Ok(())
    }

    /// The v1 hierarchies, each once.
    fn v1_roots(&self) -> impl Iterator<Item = &PathBuf> {
        let roots: std::collections::BTreeSet<_> = self.v1.values().collect();
        roots.into_iter()
    }

    fn at(&self, path: &Path, refused: BTreeMap<&'static str, String>) -> Cgroup {
        Cgroup {
            v2: self.v2.as_ref().map(|root| root.join(path)),
            v1: self.v1.iter().map(|(name, root)| (*name, root.join(path))).collect(),
            refused,
            weighing: Weighing::read(&self.disks, self.v2_root()),
        }
    }
}

/// Who shares out the disks' time by weight; without either, weights are numbers in files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weighing {
    /// The scheduler of some disk is bfq.
    pub bfq: bool,
    /// The I/O cost model is on for some disk.
    pub cost: bool,
}

impl Weighing {
    fn read(disks: &Path, v2: Option<&Path>) -> Self {
        let says = |path: PathBuf, word| {
            std::fs::read_to_string(path)
                .is_ok_and(|text| text.split_whitespace().any(|w| w == word))
        };
        let mut entries = std::fs::read_dir(disks).into_iter().flatten().flatten();
        Self {
            bfq: entries.any(|disk| says(disk.path().join("queue/scheduler"), "[bfq]")),
            cost: v2.is_some_and(|root| says(root.join("io.cost.qos"), "enable=1")),
        }
    }
}

/// A relative path of plain names.
fn check(path: &Path) -> Result<(), Error> {
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !path.as_os_str().is_empty() {
        return Ok(());
    }
    let cause = io::Error::new(io::ErrorKind::InvalidInput, "not a relative path of plain names");
    Err(Error::new("use cgroup", path, cause))
}

/// Makes the path in the v2 hierarchy, enabling the controllers in each node above the last. Which
/// controllers could not be had, and why, goes into `refused`.
fn make_v2(
    root: &Path,
    path: &Path,
    refused: &mut BTreeMap<&'static str, String>,
) -> Result<(), Error> {
    let mut node = root.to_owned();
    for part in path.components() {
        for controller in V2 {
            if let Err(why) = limits::enable(&node, controller) {
                refused.entry(controller).or_insert(why);
            }
        }
        node.push(part);
        match std::fs::create_dir(&node) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::new("create cgroup", &node, error));
            }
            _ => {}
        }
    }
    Ok(())
}
