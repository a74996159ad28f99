//! Control groups on the real kernel. Needs root.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyperspector_space::cgroup::{Cgroup, Cgroups, Limit};
use hyperspector_spec::plan::Limits;

const SECONDS: Duration = Duration::from_secs(5);

/// A group with the processes in it; both go when it does.
struct Guard {
    cgroups: Cgroups,
    path: PathBuf,
    children: Vec<Child>,
}

impl Guard {
    fn new(name: &str) -> Self {
        Self::within(Cgroups::detect().unwrap(), name)
    }

    fn within(cgroups: Cgroups, name: &str) -> Self {
        // The instance names the test run, so that none disturbs another.
        let path = format!("hyperspector/hs-test-{}-{name}/alpha/nids", std::process::id());
        Self { cgroups, path: path.into(), children: Vec::new() }
    }

    /// Starts a shell that waits for a line and then runs `script`, all of it in the group.
    fn start(&mut self, group: &Cgroup, script: &str) -> u32 {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read -r line; {script}")]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        group.add(child.id()).unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
        self.children.push(child);
        self.children.last().unwrap().id()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let killed = self.cgroups.open(&self.path).map(|group| group.kill(SECONDS));
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let removed = self.cgroups.remove(&self.path);
        assert!(std::thread::panicking() || removed.is_ok(), "{removed:?} {killed:?}");
    }
}

#[test]
fn a_process_is_where_it_was_put_and_nothing_is_left_of_it() {
    let mut guard = Guard::new("life");
    let (group, _) = guard.cgroups.create(&guard.path, &Limits::default()).unwrap();
    assert!(!group.populated().unwrap());
    let pid = guard.start(&group, "sleep 60 & sleep 60 & sleep 60 & wait");
    let lines = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let wanted = format!(":/{}", guard.path.display());
    // On v2 alone there is only the first of these lines.
    for mark in ["0::", ":memory:", ":pids:", ":cpu:", ":freezer:"] {
        let mut marked = lines.lines().filter(|line| line.contains(mark));
        assert!(marked.all(|line| line.ends_with(&wanted)), "{lines}");
    }
    assert!(lines.contains(&wanted));

    let started = Instant::now();
    while group.processes().unwrap().len() < 4 && started.elapsed() < SECONDS {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(group.processes().unwrap().len(), 4);
    let usage = guard.cgroups.open(&guard.path).unwrap().usage();
    assert!(usage.memory.unwrap() > 0 && usage.cpu_micros.unwrap() > 0, "{usage:?}");
    assert_eq!(usage.pids, Some(4));

    group.kill(SECONDS).unwrap();
    assert!(!group.populated().unwrap());
    guard.cgroups.remove(&guard.path).unwrap();
    let root = guard.cgroups.v2_root().unwrap().join(&guard.path);
    assert!(!root.exists() && !root.parent().unwrap().exists());
}

#[test]
fn limits_hold_and_can_be_changed_while_it_runs() {
    let mut guard = Guard::new("limits");
    let limits = Limits {
        memory: Some(32 << 20),
        cpu_millis: Some(200),
        cpu_weight: Some(50),
        io_weight: None,
        pids: Some(5),
    };
    let (group, enforced) = guard.cgroups.create(&guard.path, &limits).unwrap();
    assert_eq!(enforced.len(), 4);
    assert!(enforced.iter().all(|e| e.missing.is_none()), "{enforced:?}");

    // 64 MiB in a variable: more than there may be.
    let hungry = "x=$(head -c 67108864 /dev/zero | tr '\\0' x); echo ${#x}";
    guard.start(&group, hungry);
    let status = guard.children.last_mut().unwrap().wait().unwrap();
    assert!(!status.success(), "it was killed for its memory: {status:?}");

    guard.start(&group, "while :; do :; done");
    let before = group.usage().cpu_micros.unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let used = group.usage().cpu_micros.unwrap() - before;
    assert!(used < 400_000, "a fifth of a processor: {used} us in a second");

    let more = Limits { cpu_millis: None, ..limits };
    let enforced = group.update(&more);
    assert!(enforced.iter().all(|e| e.limit != Limit::Cpu && e.missing.is_none()), "{enforced:?}");
    let before = group.usage().cpu_micros.unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let freed = group.usage().cpu_micros.unwrap() - before;
    assert!(freed > used, "{freed} us after the limit went, {used} us before");
}

#[test]
fn a_fork_bomb_is_stopped_and_killed() {
    let mut guard = Guard::new("bomb");
    let limits = Limits { pids: Some(20), ..Limits::default() };
    let (group, _) = guard.cgroups.create(&guard.path, &limits).unwrap();
    guard.start(&group, "b() { b 2>/dev/null & b 2>/dev/null & sleep 60; }; b 2>/dev/null");
    std::thread::sleep(Duration::from_millis(300));
    assert!(group.usage().pids.unwrap() <= 20);
    group.kill(SECONDS).unwrap();
    assert!(!group.populated().unwrap());
}

/// Needs v1 hierarchies; where there are none, there is nothing that could fail.
#[test]
fn without_v2_all_processes_are_killed_too() {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let v1: String =
        table.lines().filter(|line| !line.contains("cgroup2")).flat_map(|l| [l, "\n"]).collect();
    let mut guard = Guard::within(Cgroups::from_mountinfo(v1.as_bytes()), "v1");
    let limits = Limits { pids: Some(40), ..Limits::default() };
    let (group, enforced) = guard.cgroups.create(&guard.path, &limits).unwrap();
    if enforced.iter().any(|e| e.missing.is_some()) {
        assert!(!v1.contains(" - cgroup "), "{enforced:?}");
        return;
    }
    guard.start(&group, "b() { b 2>/dev/null & b 2>/dev/null & sleep 60; }; b 2>/dev/null");
    std::thread::sleep(Duration::from_millis(300));
    assert!(group.processes().unwrap().len() > 3);
    group.kill(SECONDS).unwrap();
    assert!(!group.populated().unwrap());
}
