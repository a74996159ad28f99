//! One control group: who is in it, what it uses, its end.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_spec::plan::Limits;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::Error;
use super::detect::Weighing;
use super::limits::{self, Enforcement, write_file};

/// How long to wait between two looks at something that the kernel is still doing.
const PAUSE: Duration = Duration::from_millis(10);

/// How long the kernel may take to let go of a group whose processes are gone.
const DRAIN: Duration = Duration::from_secs(5);

/// A group: the same path in every hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    pub(super) v2: Option<PathBuf>,
    pub(super) v1: BTreeMap<&'static str, PathBuf>,
    /// Why v2 controllers are not to be had here.
    pub(super) refused: BTreeMap<&'static str, String>,
    pub(super) weighing: Weighing,
}

/// What a group uses; `None` where the kernel does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory in bytes, page cache included.
    pub memory: Option<u64>,
    /// The most memory that it has used, in bytes.
    pub memory_peak: Option<u64>,
    /// Processor time, in microseconds.
    pub cpu_micros: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// What is known of processes that were killed and have not ended.
const LEFT: &str =
    "processes are left, which wait for a file system or a device that does not answer";

impl Cgroup {
    /// Its directory in the v2 hierarchy.
    pub fn v2_directory(&self) -> Option<&Path> {
        self.v2.as_deref()
    }

    /// Its directories in all hierarchies, each once, the v2 hierarchy's first.
    pub(super) fn directories(&self) -> Vec<&PathBuf> {
        let v1: BTreeSet<_> = self.v1.values().collect();
        self.v2.iter().chain(v1).collect()
    }

    /// Its v2 directory, where that has the file.
    pub(super) fn v2_with(&self, file: &str) -> Option<&Path> {
        self.v2.as_deref().filter(|node| node.join(file).exists())
    }

    /// Its directory with a v1 controller; else why there is none, nor a v2 one.
    pub(super) fn v1_of(&self, controller: &'static str) -> Result<&Path, String> {
        let refused = || match self.refused.get(controller) {
            Some(why) => why.clone(),
            None => format!("the kernel has no {controller} controller"),
        };
        self.v1.get(controller).map(PathBuf::as_path).ok_or_else(refused)
    }

    /// Sets the limits, of processes that run already too; says what became of each that is asked
    /// for. Those that are not are set to the kernel's defaults.
    pub fn update(&self, limits: &Limits) -> Vec<Enforcement> {
        limits::apply(self, limits)
    }

    /// Moves a process here. What it starts is here from then on; what it started before is not.
    pub fn add(&self, pid: u32) -> Result<(), Error> {
        for directory in self.directories() {
            write_file(&directory.join("cgroup.procs"), &pid.to_string())
                .map_err(|e| Error::new("move a process to cgroup", directory, e))?;
        }
        Ok(())
    }

    /// Whether there are processes in it or below.
    pub fn populated(&self) -> Result<bool, Error> {
        if let Some(node) = self.v2_with("cgroup.events") {
            let path = node.join("cgroup.events");
            let text = read(&path).map_err(|e| Error::new("read", &path, e))?;
            if field(&text, "populated") == Some(1) {
                return Ok(true);
            }
        }
        // Nor in a v1 hierarchy, to which a process may have been moved in part.
        Ok(!self.processes()?.is_empty())
    }

    /// The processes in it and below.
    pub fn processes(&self) -> Result<BTreeSet<u32>, Error> {
        let mut pids = BTreeSet::new();
        for directory in self.directories() {
            collect(directory, &mut pids)
                .map_err(|e| Error::new("list processes of cgroup", directory, e))?;
        }
        Ok(pids)
    }

    /// The names of the groups right below it.
    pub fn names_below(&self) -> BTreeSet<std::ffi::OsString> {
        let directories = self.directories().into_iter();
        let below = directories.flat_map(|directory| subdirectories(directory).unwrap_or_default());
        below.filter_map(|directory| directory.file_name().map(ToOwned::to_owned)).collect()
    }

    /// How much memory it may use, in bytes; `None` where that is not limited.
    pub fn memory_limit(&self) -> Option<u64> {
        let v2 = || number(&self.v2.as_ref()?.join("memory.max"));
        // Of v1, no limit is the greatest number of whole pages.
        let v1 = || number(&self.v1.get("memory")?.join("memory.limit_in_bytes"));
        v2().or_else(|| v1().filter(|bytes| *bytes < 1 << 62))
    }

    /// What it uses now.
    pub fn usage(&self) -> Usage {
        let v2 = |file: &str| number(&self.v2.as_ref()?.join(file));
        let v1 = |controller: &str, file: &str| number(&self.v1.get(controller)?.join(file));
        let stat = self.v2.as_ref().and_then(|node| read(&node.join("cpu.stat")).ok());
        Usage {
            memory: v2("memory.current").or_else(|| v1("memory", "memory.usage_in_bytes")),
            memory_peak: v2("memory.peak").or_else(|| v1("memory", "memory.max_usage_in_bytes")),
            cpu_micros: stat
                .and_then(|text| field(&text, "usage_usec"))
                .or_else(|| v1("cpuacct", "cpuacct.usage").map(|nanos| nanos / 1000)),
            pids: v2("pids.current").or_else(|| v1("pids", "pids.current")),
        }
    }

    /// Kills all processes in it and below, those too that are just being started, and waits until
    /// they are gone, at most `patience`.
    pub fn kill(&self, patience: Duration) -> Result<(), Error> {
        let until = Instant::now() + patience;
        while self.populated()? {
            if Instant::now() >= until {
                let cause = io::Error::new(io::ErrorKind::TimedOut, LEFT);
                return Err(Error::new("kill the processes of cgroup", self.name(), cause));
            }
            self.kill_once()?;
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn kill_once(&self) -> Result<(), Error> {
        if let Some(node) = self.v2_with("cgroup.kill") {
            write_file(&node.join("cgroup.kill"), "1")
                .map_err(|e| Error::new("kill the processes of cgroup", node, e))?;
        }
        // Before Linux 5.14, and without v2: frozen, so that nobody forks away from under the list.
        // A frozen process dies when it thaws. Without a freezer the next round finds the rest.
        if self.processes()?.is_empty() {
            return Ok(());
        }
        self.freeze(true);
        let killed = self.processes().map(|pids| pids.into_iter().for_each(|pid| self.end(pid)));
        self.freeze(false);
        killed
    }

    fn freeze(&self, frozen: bool) {
        if let Some(node) = self.v2_with("cgroup.freeze") {
            let _ = write_file(&node.join("cgroup.freeze"), if frozen { "1" } else { "0" });
        }
        if let Some(node) = self.v1.get("freezer") {
            let state = if frozen { "FROZEN" } else { "THAWED" };
            let _ = write_file(&node.join("freezer.state"), state);
        }
    }

    /// Kills one process, unless it has gone and its number has become another's.
    fn end(&self, pid: u32) {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let Some(Ok(process)) = raw.map(|raw| pidfd_open(raw, PidfdFlags::empty())) else { return };
        if self.processes().is_ok_and(|pids| pids.contains(&pid)) {
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }

    /// Removes it and all groups below it in every hierarchy. There must be no processes left; the
    /// kernel gets some time to notice that they are gone. Goes on to the end, and tells the first
    /// error. Not an error where it is not there.
    pub fn remove(&self) -> Result<(), Error> {
        let until = Instant::now() + DRAIN;
        let mut result = Ok(());
        for directory in self.directories() {
            let removed = remove_tree(directory, until);
            result = result.and(removed.map_err(|e| Error::new("remove cgroup", directory, e)));
        }
        result
    }

    /// The directory to name in an error.
    fn name(&self) -> &Path {
        self.directories().first().map_or(Path::new(""), |directory| directory.as_path())
    }
}

/// Removes a directory of groups, the innermost first.
fn remove_tree(directory: &Path, until: Instant) -> io::Result<()> {
    for below in subdirectories(directory)? {
        remove_tree(&below, until)?;
    }
    loop {
        match rustix::fs::rmdir(directory) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < until => std::thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The groups right below one; none where it is not there.
fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Adds the processes in a group and below; a group that vanishes meanwhile has none.
fn collect(directory: &Path, pids: &mut BTreeSet<u32>) -> io::Result<()> {
    match read(&directory.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    }
    // 0 is a process of another PID namespace that cannot be named here.
    pids.remove(&0);
    subdirectories(directory)?.iter().try_for_each(|below| collect(below, pids))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::NODEV)
}

fn read(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

fn number(path: &Path) -> Option<u64> {
    read(path).ok()?.trim().parse().ok()
}

/// The number after `name` in a file of lines `NAME NUMBER`.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(key, _)| *key == name)?.1.trim().parse().ok()
}
