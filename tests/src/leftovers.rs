//! What the tests, or HyperSpector, may have left behind: finding it, and removing what is ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::run;

/// Everything that is left, one line for each thing; empty where the machine is clean.
pub fn all() -> Vec<String> {
    let mut left = Vec::new();
    left.extend(namespaces().into_iter().map(|name| format!("network namespace {name}")));
    left.extend(mounts().into_iter().map(|path| format!("mount {}", path.display())));
    left.extend(links().into_iter().map(|name| format!("link {name}")));
    left.extend(cgroups().into_iter().map(|path| format!("cgroup {}", path.display())));
    left.extend(pins().into_iter().map(|path| format!("bpf pin {}", path.display())));
    left.extend(processes().into_iter().map(|text| format!("process {text}")));
    left.extend(directories().into_iter().map(|path| format!("directory {}", path.display())));
    left
}

/// Settings of the machine's own that something that is started could change, each with its value:
/// systemd, for one, gives Unix sockets longer queues.
pub fn settings() -> Vec<String> {
    const NAMES: &[&str] = &[
        "net/unix/max_dgram_qlen",
        "net/core/rmem_max",
        "net/core/wmem_max",
        "net/ipv4/ip_forward",
        "net/ipv4/ip_unprivileged_port_start",
        "net/ipv4/ping_group_range",
        "fs/file-max",
        "fs/nr_open",
        "kernel/core_pattern",
        "kernel/pid_max",
        "kernel/printk",
    ];
    let setting = |name: &&str| {
        let value = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
        Some(format!("setting {name} = {}", value.trim()))
    };
    NAMES.iter().filter_map(setting).collect()
}

fn is_ours(name: &str) -> bool {
    name.starts_with("hs-") || name.contains("hyperspector")
}

fn entries(path: &str) -> Vec<PathBuf> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn named(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn namespaces() -> Vec<String> {
    entries("/run/netns").iter().map(|path| named(path)).filter(|name| is_ours(name)).collect()
}

/// Mounts with a part of their path that is ours, in this mount namespace.
fn mounts() -> Vec<PathBuf> {
    let ours =
        |path: &PathBuf| path.components().any(|c| is_ours(&c.as_os_str().to_string_lossy()));
    mount_points()
        .into_iter()
        .filter(|path| path.starts_with("/tmp") || path.starts_with("/run"))
        .filter(ours)
        .collect()
}

fn mount_points() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let point = |line: &str| Some(PathBuf::from(line.split(' ').nth(4)?));
    table.lines().filter_map(point).collect()
}

/// Links of ours in the initial network namespace.
fn links() -> Vec<String> {
    entries("/sys/class/net").iter().map(|path| named(path)).filter(|name| is_ours(name)).collect()
}

/// Cgroups of ours, in every hierarchy.
fn cgroups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((dir, depth)) = waiting.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let inside = named(&dir).contains("hyperspector");
            if inside || is_ours(&named(&entry.path())) && named(&entry.path()) != "hyperspector" {
                found.push(entry.path());
            }
            if depth < 3 {
                waiting.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

fn pins() -> Vec<PathBuf> {
    let ours = |path: &PathBuf| {
        is_ours(&named(path)) && fs::read_dir(path).is_ok_and(|mut d| d.next().is_some())
    };
    entries("/sys/fs/bpf").into_iter().filter(ours).collect()
}

/// Processes that run the product or the attacker.
fn processes() -> Vec<String> {
    let mut found = Vec::new();
    for pid in pids() {
        let line = command_line(pid);
        let first = line.split(' ').next().unwrap_or_default();
        let name = named(Path::new(first));
        if name == "hyperspector" || name == "attacker" || name == "hs-attacker" {
            found.push(format!("{pid}: {line}"));
        }
    }
    found
}

fn directories() -> Vec<PathBuf> {
    let ours = |path: &PathBuf| {
        named(path)
            .strip_prefix("hs-t")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    entries("/tmp").into_iter().filter(ours).collect()
}

fn pids() -> Vec<i32> {
    entries("/proc").iter().filter_map(|path| named(path).parse().ok()).collect()
}

fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " ")
}

/// Processes with a text in their command line.
pub fn processes_with(text: &str) -> Vec<i32> {
    pids().into_iter().filter(|pid| command_line(*pid).contains(text)).collect()
}

/// Ends by force every process that has to do with a directory: by its command line, an open
/// descriptor, or what is mounted in a namespace of its own. Removes the cgroups that they were in.
pub(crate) fn end_all_of(dir: &Path) {
    let text = dir.to_string_lossy().into_owned();
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    let has_to_do = |pid: i32| {
        let descriptors = entries(&format!("/proc/{pid}/fd"));
        let elsewhere = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() != own;
        let table = || fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let mounts = || table().lines().any(|line| shows_elsewhere(line, dir, &text));
        command_line(pid).contains(&text)
            || descriptors.iter().any(|fd| fs::read_link(fd).is_ok_and(|to| to.starts_with(dir)))
            || elsewhere && mounts()
    };
    let mut cgroups = Vec::new();
    let myself = std::process::id().cast_signed();
    for pid in pids().into_iter().filter(|pid| *pid > 1 && *pid != myself && has_to_do(*pid)) {
        eprintln!("ended by force: {pid} {}", command_line(pid));
        cgroups.push(fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default());
        kill(pid);
    }
    let paths = cgroups.iter().flat_map(|text| text.lines());
    paths.filter_map(|line| line.splitn(3, ':').nth(2)).for_each(remove_cgroup);
}

/// Whether a line of a mount table has something of a directory at another place. At its own place, all
/// have it whose namespace is a copy of the host's: another test's builders have, for a moment.
fn shows_elsewhere(line: &str, dir: &Path, text: &str) -> bool {
    let place = line.split(' ').nth(4).unwrap_or_default();
    line.contains(text) && !Path::new(place).starts_with(dir)
}

/// Removes a cgroup of ours and those above it that are empty then, in every hierarchy.
fn remove_cgroup(path: &str) {
    let hierarchies =
        entries("/sys/fs/cgroup").into_iter().chain([PathBuf::from("/sys/fs/cgroup")]);
    let path = Path::new(path.trim_start_matches('/'));
    for hierarchy in hierarchies {
        for part in path.ancestors().filter(|part| part.starts_with("hyperspector")) {
            let _ = fs::remove_dir(hierarchy.join(part));
        }
    }
}

/// Ends a process, unless it is this one.
pub fn kill(pid: i32) {
    if pid > 1 && pid != std::process::id().cast_signed() {
        run(Command::new("kill").args(["-9", &pid.to_string()]), b"", Duration::from_secs(5));
    }
}

/// Unmounts everything below a directory, the innermost first.
pub(crate) fn unmount_below(dir: &Path) {
    let mut points: Vec<_> =
        mount_points().into_iter().filter(|path| path.starts_with(dir) && path != dir).collect();
    points.reverse();
    for point in points {
        run(Command::new("umount").arg("-l").arg(point), b"", Duration::from_secs(5));
    }
}
