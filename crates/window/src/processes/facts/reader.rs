//! The process that reads: holds two capabilities and no file that it could write to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

use super::driver::Frame;
use super::hash::Hashes;
use super::process::{Directory, Server, pid_namespaces, read, without_memory};
use super::schema::{Document, Found, Pid, Process, VERSION};
use super::sockets::{Diag, Sockets};
use super::status::Status;
use super::text::json;
use super::users::{Map, Names};
use super::{Config, Members};

/// The least time between the beginnings of two rounds.
const PERIOD: Duration = Duration::from_secs(1);
/// A round may take one part in this many of the time.
const SHARE: u32 = 20;
/// How often the file is written although nothing has changed.
const FRESH: Duration = Duration::from_secs(10);
/// The most processes that are listed.
const MOST: usize = 8 << 10;
/// The largest file, in bytes.
const LARGEST: usize = 16 << 20;

/// A process that could not be read in time: its number and start.
pub(super) type Slow = BTreeSet<(u32, u64)>;

/// What the reader goes by from one round to the next.
pub(super) struct Reader {
    config: Config,
    diag: Option<Diag>,
    slow: Slow,
    boot_ms: u64,
    hashes: Hashes,
    users: Names,
    groups: Names,
    last: Option<(Found, Instant)>,
}

impl Reader {
    pub(super) fn new(config: Config, diag: Option<Diag>, slow: Slow) -> Self {
        Self {
            config,
            diag,
            slow,
            boot_ms: boot_ms(),
            hashes: Hashes::new(),
            users: Names::default(),
            groups: Names::default(),
            last: None,
        }
    }

    /// Reads again and again, until nobody listens.
    pub(super) fn run(&mut self, out: &mut UnixStream) -> io::Result<()> {
        loop {
            let start = Instant::now();
            Frame::Busy(0).send(out)?;
            let found = self.round(out)?;
            self.tell(found, out)?;
            Frame::Idle.send(out)?;
            let took = start.elapsed();
            std::thread::sleep((took * SHARE).max(PERIOD).saturating_sub(took));
        }
    }

    /// Sends the document where it says something new.
    fn tell(&mut self, found: Found, out: &mut UnixStream) -> io::Result<()> {
        let is_known = |(last, when): &(Found, Instant)| *last == found && when.elapsed() < FRESH;
        if self.last.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        let bytes = bounded(&self.config.server, &found, LARGEST)?;
        self.last = Some((found, Instant::now()));
        Frame::Document(bytes).send(out)
    }

    /// Looks at all processes of the server once.
    fn round(&mut self, out: &mut UnixStream) -> io::Result<Found> {
        let (sockets, mut problems) = match &mut self.diag {
            Some(diag) => diag.sockets(),
            None => (Sockets::new(), vec!["the server's network could not be looked at".into()]),
        };
        // What is known at once comes first.
        if self.last.is_some() {
            self.hashes.refill();
        }
        let leader = Directory::open(self.config.leader);
        let level = self.refresh(leader.as_ref());
        let server = Server {
            level,
            users: &self.users,
            groups: &self.groups,
            sockets: &sockets,
            network: leader.as_ref().and_then(|leader| leader.namespace("net")),
            boot_ms: self.boot_ms,
        };
        let members = members(&self.config, &processes()?);
        let mut processes = Vec::new();
        for directory in members.iter().take(MOST) {
            Frame::Busy(directory.pid).send(out)?;
            let alive = || drop(Frame::Busy(directory.pid).send(out));
            processes.extend(one(directory, &server, &self.slow, &mut self.hashes, alive));
        }
        name_parents(&mut processes);
        problems.sort();
        let leader = processes.iter().find(|one| one.pid.host == self.config.leader);
        Ok(Found {
            present: !processes.is_empty(),
            leader: leader.map(|leader| leader.pid),
            left_out: members.len().saturating_sub(MOST),
            problems,
            processes,
        })
    }

    /// Takes what belongs to the server as a whole from its first process. Returns how deep its PID
    /// namespace is.
    fn refresh(&mut self, leader: Option<&Directory>) -> usize {
        let Some(leader) = leader else { return 0 };
        let root = leader.place("root");
        let map = |name| Map::parse(&leader.text(name).unwrap_or_default());
        self.users.refresh(map("uid_map"), root.as_ref(), "passwd");
        self.groups.refresh(map("gid_map"), root.as_ref(), "group");
        let status = Status::of(leader).map(|status| status.pids().len());
        status.unwrap_or(0).saturating_sub(1)
    }
}

/// Reads one process, but for what took too long the last time.
fn one(
    directory: &Directory,
    server: &Server<'_>,
    slow: &Slow,
    hashes: &mut Hashes,
    alive: impl FnMut(),
) -> Option<Process> {
    let first = without_memory(directory, server)?;
    if slow.contains(&(first.pid.host, first.started_ticks)) {
        let incomplete = Some("reading the rest did not end in time");
        return Some(Process { incomplete, ..first });
    }
    read(directory, server, hashes, alive)
}

/// Adds the numbers that parents have in the server.
fn name_parents(processes: &mut [Process]) {
    let inside: BTreeMap<u32, Option<u32>> =
        processes.iter().map(|one| (one.pid.host, one.pid.server)).collect();
    for process in processes {
        process.parent.server = inside.get(&process.parent.host).copied().flatten();
    }
}

/// All processes of the procfs, by number.
fn processes() -> io::Result<Vec<u32>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let entries = Dir::new(openat(CWD, "/", flags, Mode::empty())?)?;
    let mut all: Vec<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok()).collect();
    all.sort_unstable();
    Ok(all)
}

/// The processes that belong to the server.
fn members(config: &Config, all: &[u32]) -> Vec<Directory> {
    let directories = all.iter().filter_map(|pid| Directory::open(*pid));
    match &config.members {
        Members::All => directories.filter(|one| !is_in_portspace(one)).collect(),
        Members::Descendants => descendants(config.leader, directories.collect()),
        Members::Of { pid_namespace, cgroup } => directories
            .filter(|one| {
                pid_namespace.is_some_and(|wanted| is_in_namespace(one, wanted))
                    || cgroup.as_ref().is_some_and(|wanted| is_in_cgroup(one, wanted))
            })
            .collect(),
    }
}

fn is_in_namespace(directory: &Directory, wanted: u64) -> bool {
    match directory.namespace("pid") {
        Some(namespace) if namespace == wanted => true,
        Some(_) => pid_namespaces(directory).contains(&wanted),
        None => false,
    }
}

fn is_in_cgroup(directory: &Directory, wanted: &str) -> bool {
    directory.text("cgroup").is_some_and(|text| names_cgroup(&text, wanted))
}

/// Portspaces are none of each other's business.
fn is_in_portspace(directory: &Directory) -> bool {
    directory.text("cgroup").is_some_and(|text| paths(&text).any(is_of_portspace))
}

/// Whether this is the cgroup of a portspace: `/hyperspector/AGENT/HYPERSPECTOR/PORTSPACE`, where no
/// name begins with a dot, as those of server spaces and workers do.
fn is_of_portspace(path: &str) -> bool {
    let mut parts =
        path.strip_prefix("/hyperspector/").into_iter().flat_map(|path| path.split('/'));
    parts.nth(1).is_some_and(|name| !name.starts_with('.'))
}

/// The paths in a `/proc/PID/cgroup`.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2))
}

/// Whether a `/proc/PID/cgroup` (cgroups(7)) names the group `wanted` or one below it. A group's name
/// holds no newline.
fn names_cgroup(text: &str, wanted: &str) -> bool {
    paths(text).any(|path| {
        let rest = path.strip_prefix(wanted);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// `leader` and whatever came from it, in order.
fn descendants(leader: u32, all: Vec<Directory>) -> Vec<Directory> {
    let parents: BTreeMap<u32, u32> =
        all.iter().filter_map(|one| Some((one.pid, Status::of(one)?.parent()))).collect();
    let belongs = |pid: u32| {
        let mut chain = std::iter::successors(Some(pid), |pid| parents.get(pid).copied());
        chain.by_ref().take(parents.len() + 1).any(|pid| pid == leader)
    };
    all.into_iter().filter(|one| belongs(one.pid)).collect()
}

/// The document, with as many processes as fit.
fn bounded(server: &str, found: &Found, largest: usize) -> io::Result<Vec<u8>> {
    let mut found = found.clone();
    loop {
        let bytes = document(server, found.clone())?;
        if bytes.len() <= largest {
            return Ok(bytes);
        }
        let left = found.processes.len() / 2;
        found.left_out += found.processes.len() - left;
        found.processes.truncate(left);
    }
}

/// The file's content, ended by a newline.
pub(super) fn document(server: &str, found: Found) -> io::Result<Vec<u8>> {
    let written_ms = milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let document = Document { version: VERSION, server: server.to_owned(), written_ms, found };
    let mut bytes = json(&document)?;
    bytes.write_all(b"\n")?;
    Ok(bytes)
}

/// When the machine was started, in milliseconds since 1970.
fn boot_ms() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    let milliseconds = |clock| {
        let time = clock_gettime(clock);
        u64::try_from(time.tv_sec * 1000 + time.tv_nsec / 1_000_000).unwrap_or(0)
    };
    milliseconds(ClockId::Realtime).saturating_sub(milliseconds(ClockId::Boottime))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What the file of a server that does not run says.
pub(super) fn absent() -> Found {
    Found { present: false, leader: None::<Pid>, ..Found::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_named_whole() {
        let text = "12:pids:/a/b\n1:name=systemd:/system.slice/x.service\n0::/shop/sub:dir\n";
        for wanted in ["/a/b", "/a", "/shop", "/shop/sub:dir", "/system.slice/x.service"] {
            assert!(names_cgroup(text, wanted), "{wanted}");
        }
        for wanted in ["/sho", "/a/b/c", "/shop/sub", "shop"] {
            assert!(!names_cgroup(text, wanted), "{wanted}");
        }
    }

    #[test]
    fn portspaces_are_told_from_server_spaces_and_workers() {
        assert!(is_of_portspace("/hyperspector/0a1b/alpha/nids"));
        for path in ["/hyperspector/0a1b/.servers/shop", "/hyperspector/0a1b/.workers", "/a", "/"] {
            assert!(!is_of_portspace(path), "{path}");
        }
    }

    #[test]
    fn a_document_that_is_too_large_is_cut() {
        let process = Process { command_line: vec!["x".repeat(1 << 10)], ..Process::default() };
        let found = Found { processes: vec![process; 100], ..Found::default() };
        let bytes = bounded("shop", &found, 64 << 10).unwrap();
        assert!(bytes.len() <= 64 << 10);
        let read: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let listed = read["processes"].as_array().unwrap().len();
        assert_eq!(read["left_out"].as_u64().unwrap() + listed as u64, 100);
        assert!(listed >= 12);
    }

    #[test]
    fn parents_have_their_inner_number() {
        let process = |host, server, parent| Process {
            pid: Pid { host, server: Some(server) },
            parent: Pid { host: parent, server: None },
            ..Process::default()
        };
        let mut processes = [process(100, 1, 7), process(101, 2, 100)];
        name_parents(&mut processes);
        assert_eq!((processes[0].parent.server, processes[1].parent.server), (None, Some(1)));
    }
}
