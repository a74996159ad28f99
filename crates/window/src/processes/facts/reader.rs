//! The process that reads: holds two capabilities and no file that it could write to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

use super::driver::Frame;
use super::hash::Hashes;
use super::known::{Key, Known, ends};
use super::process::{Directory, Server, pid_namespaces, read, without_memory};
use super::schema::{Document, Found, Pid, Process, VERSION};
use super::sockets::{Diag, Sockets};
use super::status::{Stat, Status};
use super::users::{Map, Names};
use super::{Config, Members, cpu_time};

/// The least time between the beginnings of two rounds.
const PERIOD: Duration = Duration::from_secs(1);
/// A round may take one part in this many of the processor's time. Its own counts, not what passes while
/// others keep it from running: a busy machine is no reason to look away.
const SHARE: u32 = 20;
/// How much of the processor's time a round reads processes; the rest is for later rounds.
const BUDGET: Duration = Duration::from_millis(100);
/// The same for the first round.
const FIRST_BUDGET: Duration = Duration::from_secs(1);
/// The longest time between two rounds.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// How often the file is written although nothing has changed.
const FRESH: Duration = Duration::from_secs(10);
/// The most processes that are listed.
const MOST: usize = 8 << 10;
/// The largest file, in bytes.
const LARGEST: usize = 16 << 20;

/// What could not be read in time, and is left alone.
pub(super) struct Slow {
    /// Processes: number and start.
    pub(super) processes: BTreeSet<(u32, u64)>,
    /// All of them: only what the kernel itself knows is read.
    pub(super) all: bool,
    /// The files with the server's names of users and groups.
    pub(super) names: bool,
}

impl Slow {
    fn holds(&self, process: &Process) -> bool {
        self.all || self.processes.contains(&(process.pid.host, process.started_ticks))
    }
}

/// What the reader goes by from one round to the next.
pub(super) struct Reader {
    config: Config,
    diag: Option<Diag>,
    slow: Slow,
    boot_ms: u64,
    hashes: Hashes,
    users: Names,
    groups: Names,
    known: Known,
    told: Option<(Summary, Instant)>,
}

/// What is said besides the processes themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Summary {
    leader: Option<Pid>,
    left_out: usize,
    not_renewed: usize,
    problems: Vec<String>,
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
            known: Known::default(),
            told: None,
        }
    }

    /// Reads again and again, until nobody listens.
    pub(super) fn run(&mut self, out: &mut UnixStream) -> io::Result<()> {
        loop {
            let (start, began) = (cpu_time(), Instant::now());
            Frame::Busy(0).send(out)?;
            let (summary, is_new) = self.round(out)?;
            self.tell(summary, is_new, out)?;
            Frame::Idle.send(out)?;
            let rest = (cpu_time().saturating_sub(start) * SHARE).clamp(PERIOD, LONGEST_REST);
            std::thread::sleep(rest.saturating_sub(began.elapsed()));
        }
    }

    /// Sends the document where it says something new.
    fn tell(&mut self, summary: Summary, is_new: bool, out: &mut UnixStream) -> io::Result<()> {
        let is_known = |(last, when): &(Summary, Instant)| {
            !is_new && *last == summary && when.elapsed() < FRESH
        };
        if self.told.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        let found = Found {
            present: self.known.processes().len() > 0,
            leader: summary.leader,
            left_out: summary.left_out,
            not_renewed: summary.not_renewed,
            problems: summary.problems.clone(),
            processes: self.known.processes().cloned().collect(),
        };
        let bytes = bounded(&self.config.server, found, LARGEST)?;
        self.told = Some((summary, Instant::now()));
        Frame::Document(bytes).send(out)
    }

    /// Looks at the processes of the server, as far as the round's time goes. Returns whether any is
    /// another way than before.
    fn round(&mut self, out: &mut UnixStream) -> io::Result<(Summary, bool)> {
        let (sockets, mut problems) = match &mut self.diag {
            Some(diag) => diag.sockets(),
            None => (Sockets::new(), vec!["the server's network could not be looked at".into()]),
        };
        // What is known at once comes first.
        if self.told.is_some() {
            self.hashes.refill();
        }
        let leader = Directory::open(self.config.leader);
        let level = self.refresh(leader.as_ref());
        if self.slow.names {
            problems.push("names of users and groups could not be read in time".into());
        }
        if self.slow.all {
            problems
                .push("what processes can hold up is not read, since it holds up too many".into());
        }
        let server = Server {
            level,
            users: &self.users,
            groups: &self.groups,
            sockets: &sockets,
            network: leader.as_ref().and_then(|leader| leader.namespace("net")),
            boot_ms: self.boot_ms,
        };
        let members = members(&self.config, &processes()?);
        let living: Vec<Key> =
            ends(&members, MOST).into_iter().map(|place| members[place]).collect();
        let mut is_new = self.known.begin(&living);
        let budget = if self.told.is_none() { FIRST_BUDGET } else { BUDGET };
        let end = cpu_time() + budget;
        for place in self.known.order(&living) {
            let (pid, start) = living[place];
            Frame::Busy(pid).send(out)?;
            let alive = || drop(Frame::Busy(pid).send(out));
            let Some(directory) = Directory::open(pid) else { continue };
            let read = one(&directory, &server, &self.slow, &mut self.hashes, alive);
            // The number may have come to mean another.
            let read = read.filter(|process| process.started_ticks == start);
            is_new |= read.is_some_and(|process| self.known.note(process));
            if cpu_time() >= end {
                break;
            }
        }
        is_new |= self.known.name_parents();
        problems.sort();
        let leader = self.known.processes().find(|one| one.pid.host == self.config.leader);
        let summary = Summary {
            leader: leader.map(|leader| leader.pid),
            left_out: members.len().saturating_sub(self.known.processes().len()),
            not_renewed: self.known.old(),
            problems,
        };
        Ok((summary, is_new))
    }

    /// Takes what belongs to the server as a whole from its first process. Returns how deep its PID
    /// namespace is.
    fn refresh(&mut self, leader: Option<&Directory>) -> usize {
        let Some(leader) = leader else { return 0 };
        let root = leader.place("root").filter(|_| !self.slow.names);
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
    if slow.holds(&first) {
        let incomplete = Some("reading the rest did not end in time");
        return Some(Process { incomplete, ..first });
    }
    read(directory, server, hashes, alive)
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

/// The processes that belong to the server. No descriptor of any stays open: there may be more than
/// there are descriptors.
fn members(config: &Config, all: &[u32]) -> Vec<Key> {
    let directories = all.iter().filter_map(|pid| Directory::open(*pid));
    match &config.members {
        Members::All => keys(directories.filter(|one| !is_in_portspace(one))),
        Members::Descendants => descendants(config.leader, directories),
        Members::Of { pid_namespace, cgroup } => {
            let mut namespaces = pid_namespace.map(Namespaces::new);
            keys(directories.filter(|one| {
                namespaces.as_mut().is_some_and(|wanted| wanted.hold(one))
                    || cgroup.as_ref().is_some_and(|wanted| is_in_cgroup(one, wanted))
            }))
        }
    }
}

fn keys(directories: impl Iterator<Item = Directory>) -> Vec<Key> {
    directories.filter_map(|one| key(&one)).collect()
}

fn key(directory: &Directory) -> Option<Key> {
    Some((directory.pid, Stat::parse(&directory.text("stat")?)?.start))
}

/// A PID namespace and those below it, as far as they were met in a round.
struct Namespaces {
    wanted: u64,
    met: BTreeMap<u64, bool>,
}

impl Namespaces {
    fn new(wanted: u64) -> Self {
        Self { wanted, met: BTreeMap::from([(wanted, true)]) }
    }

    fn hold(&mut self, directory: &Directory) -> bool {
        let Some(own) = directory.namespace("pid") else { return false };
        let wanted = self.wanted;
        *self.met.entry(own).or_insert_with(|| pid_namespaces(directory).contains(&wanted))
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
fn descendants(leader: u32, all: impl Iterator<Item = Directory>) -> Vec<Key> {
    let found: Vec<(Key, u32)> =
        all.filter_map(|one| Some((key(&one)?, Status::of(&one)?.parent()))).collect();
    let parents: BTreeMap<u32, u32> =
        found.iter().map(|((pid, _), parent)| (*pid, *parent)).collect();
    let belongs = |pid: u32| {
        let mut chain = std::iter::successors(Some(pid), |pid| parents.get(pid).copied());
        chain.by_ref().take(parents.len() + 1).any(|pid| pid == leader)
    };
    let keys = found.into_iter().map(|(key, _)| key);
    keys.filter(|(pid, _)| belongs(*pid)).collect()
}

/// The document, with as many processes as fit: those that started first, and those that did last.
fn bounded(server: &str, mut found: Found, largest: usize) -> io::Result<Vec<u8>> {
    loop {
        let bytes = document(server, &found)?;
        if bytes.len() <= largest {
            return Ok(bytes);
        }
        let keys: Vec<Key> =
            found.processes.iter().map(|one| (one.pid.host, one.started_ticks)).collect();
        let kept: BTreeSet<usize> = ends(&keys, keys.len() / 2).into_iter().collect();
        found.left_out += keys.len() - kept.len();
        let mut place = 0..;
        found.processes.retain(|_| place.next().is_some_and(|place| kept.contains(&place)));
    }
}

/// The file's content, ended by a newline.
pub(super) fn document(server: &str, found: &Found) -> io::Result<Vec<u8>> {
    let written_ms = milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let document = Document { version: VERSION, server: server.to_owned(), written_ms, found };
    let mut bytes = Vec::new();
    hyperspector_changes::ascii::write(&document, &mut bytes)?;
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
        let bytes = bounded("shop", found, 64 << 10).unwrap();
        assert!(bytes.len() <= 64 << 10);
        let read: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let listed = read["processes"].as_array().unwrap().len();
        assert_eq!(read["left_out"].as_u64().unwrap() + listed as u64, 100);
        assert!(listed >= 12);
    }
}
