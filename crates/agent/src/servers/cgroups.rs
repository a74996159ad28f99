//! Control groups of servers that are not ours, in whichever hierarchy their manager uses.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use hyperspector_sys::mountinfo;

/// How deep below a group its processes are looked for.
const DEEPEST: usize = 32;
/// The most groups below one that are looked at.
const MOST_GROUPS: usize = 4096;
/// The most processes that a group may have.
const MOST_PROCESSES: usize = 65536;

/// A group of processes, in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Its path from the root of the hierarchy.
    pub(crate) path: PathBuf,
    /// Its directory in the hierarchy in which its processes were found.
    pub(crate) directory: PathBuf,
    /// Its directory in the v2 hierarchy, where its processes are there too.
    pub(crate) v2: Option<PathBuf>,
    /// What the hierarchy is mounted with.
    options: Options,
}

/// A hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    options: Options,
    /// Where it is mounted.
    pub(super) root: PathBuf,
}

/// What a v1 hierarchy is mounted with: its controllers or its name, among others; nothing for v2.
type Options = BTreeSet<String>;

/// The hierarchies, in the order in which managers of services prefer them: v2, systemd's own of v1,
/// then the controllers'.
pub(super) fn hierarchies() -> Vec<Hierarchy> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    in_table(&table)
}

fn in_table(table: &[u8]) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mounted in mountinfo::mounts(table).filter(|one| one.root == Path::new("/")) {
        let options: Options = match mounted.kind.as_str() {
            "cgroup2" => Options::new(),
            "cgroup" => mounted.options.split(',').map(str::to_owned).collect(),
            _ => continue,
        };
        if found.iter().all(|one| one.options != options) {
            found.push(Hierarchy { options, root: mounted.place });
        }
    }
    found.sort_by_key(|one| (!one.options.is_empty(), !one.options.contains("name=systemd")));
    found
}

impl Hierarchy {
    /// Whether it is the v2 hierarchy.
    pub(super) fn is_v2(&self) -> bool {
        self.options.is_empty()
    }

    /// Whether it is the v1 hierarchy of that name.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.options.contains(&format!("name={name}"))
    }

    /// Where `/proc/PID/cgroup` says that a process is in it.
    pub(super) fn path_in(&self, text: &str) -> Option<PathBuf> {
        path_in(text, &self.options)
    }

    /// One that is at `root`.
    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self { options: Options::new(), root: root.to_owned() }
    }
}

impl Group {
    /// The group at `path`, relative to the hierarchies' roots: in the first hierarchy in which it has
    /// processes.
    pub(super) fn find(path: &Path) -> Result<Self, String> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let all = hierarchies();
        let there: Vec<&Hierarchy> =
            all.iter().filter(|one| one.root.join(path).is_dir()).collect();
        let groups = there.iter().map(|one| Self::at(one, path, &all));
        let populated = groups.clone().find(|group| !group.processes().is_empty());
        populated.ok_or_else(|| {
            let what =
                if there.is_empty() { "there is no cgroup" } else { "no process is in the cgroup" };
            format!("{what} {}", path.display())
        })
    }

    pub(super) fn at(hierarchy: &Hierarchy, path: &Path, all: &[Hierarchy]) -> Self {
        let v2 = all.iter().find(|one| one.options.is_empty()).map(|one| one.root.join(path));
        Self {
            path: path.to_owned(),
            directory: hierarchy.root.join(path),
            v2: v2.filter(|directory| !collect(directory).is_empty()),
            options: hierarchy.options.clone(),
        }
    }

    /// The group of a process, in the first hierarchy in which that is not the root.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let all = hierarchies();
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        all.iter().find_map(|hierarchy| {
            let path = path_in(&text, &hierarchy.options)?;
            (path != Path::new("")).then(|| Self::at(hierarchy, &path, &all))
        })
    }

    /// The group at `path`, which is this one or one above it.
    pub(super) fn above(self, path: &Path) -> Option<Self> {
        let levels = self.path.strip_prefix(path).ok()?.components().count();
        let up = |directory: &Path| directory.ancestors().nth(levels).map(Path::to_owned);
        Some(Self {
            path: path.to_owned(),
            directory: up(&self.directory)?,
            v2: self.v2.as_deref().and_then(up),
            options: self.options,
        })
    }

    /// Whether a process is in it or below.
    pub(super) fn holds(&self, pid: i32) -> bool {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        path_in(&text, &self.options).is_some_and(|path| path.starts_with(&self.path))
    }

    /// The processes in it and below, as many as are looked at.
    pub(crate) fn processes(&self) -> BTreeSet<i32> {
        collect(&self.directory)
    }
}

/// Where `/proc/PID/cgroup` says that a process is in the hierarchy with these options.
fn path_in(text: &str, options: &Options) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let path = path.strip_prefix('/')?;
        let is_it = match controllers {
            "" => options.is_empty(),
            some => some.split(',').all(|one| options.contains(one)),
        };
        is_it.then(|| PathBuf::from(path))
    })
}

/// The processes of the group `directory` and of those below it; systemd's own helpers of a unit are
/// in one called `.control` and are not the unit's.
fn collect(directory: &Path) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut next = vec![(directory.to_owned(), 0)];
    let mut groups = 0;
    while let Some((group, depth)) = next.pop() {
        groups += 1;
        if groups > MOST_GROUPS || found.len() > MOST_PROCESSES {
            break;
        }
        let _ = read_processes(&group.join("cgroup.procs"), &mut found);
        if depth < DEEPEST {
            next.extend(below(&group).map(|below| (below, depth + 1)));
        }
    }
    found
}

fn read_processes(path: &Path, found: &mut BTreeSet<i32>) -> io::Result<()> {
    for line in BufReader::new(fs::File::open(path)?).lines() {
        // 0 is a process of another PID namespace.
        found.extend(line?.parse().ok().filter(|pid: &i32| *pid > 0));
    }
    Ok(())
}

/// The groups directly below one.
pub(super) fn below(group: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry.file_name() != ".control" && entry.file_type().is_ok_and(|kind| kind.is_dir())
        })
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
42 31 0:38 /inner /mnt/other rw - cgroup2 cgroup2 rw
";

    #[test]
    fn the_hierarchy_of_services_comes_first() {
        let found = in_table(TABLE);
        let roots: Vec<_> = found.iter().map(|one| one.root.to_str().unwrap()).collect();
        assert_eq!(
            roots,
            ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cpu"]
        );
    }

    #[test]
    fn a_process_is_found_in_the_hierarchy_that_is_asked_for() {
        let text = "9:name=systemd:/system.slice/a.service\n1:cpu,cpuacct:/x:y\n0::/\n";
        let path =
            |options: &[&str]| path_in(text, &options.iter().map(|one| (*one).into()).collect());
        assert_eq!(path(&[]), Some("".into()));
        assert_eq!(path(&["rw", "xattr", "name=systemd"]), Some("system.slice/a.service".into()));
        assert_eq!(path(&["rw", "cpu", "cpuacct"]), Some("x:y".into()));
        assert_eq!(path(&["rw", "memory"]), None);
    }
}
