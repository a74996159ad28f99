//! Both layouts, in directories that stand for the hierarchies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hyperspector_spec::plan::Limits;
use tempfile::TempDir;

use super::{Cgroups, Limit};

const PATH: &str = "hyperspector/main/alpha/nids";

const LIMITS: Limits = Limits {
    memory: Some(1 << 30),
    cpu_millis: Some(1500),
    cpu_weight: Some(200),
    io_weight: Some(50),
    pids: Some(64),
};

/// A machine's hierarchies, made of plain files.
struct Machine {
    directory: TempDir,
    cgroups: Cgroups,
}

impl Machine {
    fn v2(controllers: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("v2");
        let cgroups = Cgroups {
            v2: Some(root.clone()),
            disks: directory.path().join("block"),
            ..Cgroups::default()
        };
        let machine = Self { directory, cgroups };
        let mut node = root;
        for part in [""].into_iter().chain(PATH.split('/')) {
            node.push(part);
            put(&node, "cgroup.controllers", controllers);
            put(&node, "cgroup.subtree_control", "");
        }
        machine
    }

    fn hybrid() -> Self {
        let mut machine = Self::v2("");
        for controller in ["cpu", "memory", "pids", "blkio", "freezer"] {
            machine.cgroups.v1.insert(controller, machine.directory.path().join(controller));
        }
        machine
    }

    /// Puts control files into the group of a hierarchy.
    fn files(&self, hierarchy: &str, files: &[&str]) {
        files.iter().for_each(|file| put(&self.group(hierarchy), file, ""));
    }

    fn group(&self, hierarchy: &str) -> PathBuf {
        self.directory.path().join(hierarchy).join(PATH)
    }

    fn read(&self, hierarchy: &str, file: &str) -> String {
        std::fs::read_to_string(self.group(hierarchy).join(file)).unwrap()
    }

    /// Makes the group and tells which limits are missing, and why.
    fn create(&self, limits: &Limits) -> BTreeMap<Limit, Option<String>> {
        let (_, enforced) = self.cgroups.create(Path::new(PATH), limits).unwrap();
        enforced.into_iter().map(|e| (e.limit, e.missing)).collect()
    }
}

fn put(directory: &Path, file: &str, text: &str) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join(file), text).unwrap();
}

const V2_FILES: &[&str] =
    &["memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "io.bfq.weight", "pids.max"];

#[test]
fn the_mount_table_of_v2_alone() {
    let table = b"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
        31 23 0:27 / /sys/fs/bpf rw shared:5 - bpf bpf rw\n";
    let found = Cgroups::from_mountinfo(table);
    assert_eq!(found.v2_root(), Some(Path::new("/sys/fs/cgroup")));
    assert!(found.v1.is_empty());
}

#[test]
fn the_mount_table_of_a_hybrid() {
    let table =
        b"32 31 0:29 / /cg/cpu,cpuacct rw shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /cg/mem\\040ory rw - cgroup cgroup rw,memory\n\
        40 31 0:37 / /cg/systemd rw - cgroup cgroup rw,name=systemd\n\
        41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n\
        42 31 0:38 / /elsewhere rw - cgroup2 cgroup2 rw\n\
        garbage\n\n43 31 0:39 / /x rw - cgroup\n";
    let found = Cgroups::from_mountinfo(table);
    assert_eq!(found.v2_root(), Some(Path::new("/cg/unified")));
    let v1: Vec<_> = found.v1.iter().map(|(name, path)| (*name, path.to_str().unwrap())).collect();
    let shared = "/cg/cpu,cpuacct";
    assert_eq!(v1, [("cpu", shared), ("cpuacct", shared), ("memory", "/cg/mem ory")]);
}

#[test]
fn v2_limits() {
    let machine = Machine::v2("cpu io memory pids");
    machine.files("v2", V2_FILES);
    put(&machine.directory.path().join("block/sda/queue"), "scheduler", "none [bfq]\n");
    let enforced = machine.create(&LIMITS);
    assert_eq!(enforced.len(), 5);
    assert!(enforced.values().all(Option::is_none), "{enforced:?}");
    let written = V2_FILES.iter().map(|file| machine.read("v2", file)).collect::<Vec<_>>();
    assert_eq!(written, ["1073741824", "0", "150000 100000", "200", "50", "64"]);
}

#[test]
fn v2_controllers_are_enabled_above_and_not_in_the_group() {
    let machine = Machine::v2("cpu memory");
    machine.create(&Limits::default());
    // The last write stays in a plain file; the kernel would add them up.
    let control = |path: &str| {
        let node = machine.directory.path().join("v2").join(path);
        std::fs::read_to_string(node.join("cgroup.subtree_control")).unwrap()
    };
    for path in ["", "hyperspector", "hyperspector/main", "hyperspector/main/alpha"] {
        assert_eq!(control(path), "+memory", "{path}");
    }
    assert_eq!(control(PATH), "");
}

#[test]
fn a_limit_without_its_controller_says_why() {
    let machine = Machine::v2("cpu memory pids");
    machine.files("v2", &["cpu.max", "cpu.weight", "pids.max"]);
    std::fs::remove_file(machine.group("v2").join("../cgroup.subtree_control")).unwrap();
    let enforced = machine.create(&LIMITS);
    let why = enforced[&Limit::Memory].clone().unwrap();
    assert!(why.contains("+memory") && why.contains("alpha/cgroup.subtree_control"), "{why}");
    assert!(enforced[&Limit::IoWeight].as_deref().unwrap().contains("no disk weights"));
    assert_eq!(enforced[&Limit::Pids], None);
}

#[test]
fn weights_that_no_disk_heeds_are_not_called_enforced() {
    let machine = Machine::v2("io");
    machine.files("v2", &["io.weight", "io.bfq.weight"]);
    let limits = Limits { io_weight: Some(1000), ..Limits::default() };
    let why = machine.create(&limits)[&Limit::IoWeight].clone().unwrap();
    assert!(why.starts_with("no disk is shared out by weight"), "{why}");
    assert_eq!(machine.read("v2", "io.weight"), "default 1000");

    let root = machine.directory.path().join("v2");
    put(&root, "io.cost.qos", "8:0 enable=1 ctrl=auto\n");
    assert_eq!(machine.create(&limits)[&Limit::IoWeight], None);
}

#[test]
fn hybrid_limits() {
    let machine = Machine::hybrid();
    machine.files("memory", &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]);
    machine.files("cpu", &["cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"]);
    machine.files("pids", &["pids.max"]);
    let enforced = machine.create(&LIMITS);
    let missing: Vec<_> = enforced.iter().filter(|(_, why)| why.is_some()).collect();
    assert_eq!(missing.len(), 1, "only disks: {missing:?}");
    assert_eq!(machine.read("memory", "memory.limit_in_bytes"), "1073741824");
    assert_eq!(machine.read("memory", "memory.memsw.limit_in_bytes"), "1073741824");
    assert_eq!(machine.read("cpu", "cpu.cfs_quota_us"), "150000");
    assert_eq!(machine.read("cpu", "cpu.shares"), "2048");
    assert_eq!(machine.read("pids", "pids.max"), "64");
}

#[test]
fn limits_that_are_no_longer_asked_for_go() {
    let machine = Machine::v2("cpu io memory pids");
    machine.files("v2", V2_FILES);
    let (group, _) = machine.cgroups.create(Path::new(PATH), &LIMITS).unwrap();
    assert_eq!(group.update(&Limits::default()), []);
    let written = V2_FILES.iter().map(|file| machine.read("v2", file)).collect::<Vec<_>>();
    assert_eq!(written, ["max", "max", "max 100000", "100", "100", "max"]);
}

#[test]
fn usage_in_both_layouts() {
    let machine = Machine::v2("cpu memory pids");
    let group = machine.cgroups.create(Path::new(PATH), &Limits::default()).unwrap().0;
    put(&machine.group("v2"), "memory.current", "4096\n");
    put(&machine.group("v2"), "cpu.stat", "user_usec 1\nusage_usec 1234\nsystem_usec 2\n");
    put(&machine.group("v2"), "pids.current", "3\n");
    let usage = group.usage();
    assert_eq!((usage.memory, usage.memory_peak), (Some(4096), None));
    assert_eq!((usage.cpu_micros, usage.pids), (Some(1234), Some(3)));

    let machine = Machine::hybrid();
    let group = machine.cgroups.create(Path::new(PATH), &Limits::default()).unwrap().0;
    put(&machine.group("memory"), "memory.usage_in_bytes", "8192\n");
    put(&machine.group("memory"), "memory.max_usage_in_bytes", "9000\n");
    let usage = group.usage();
    assert_eq!((usage.memory, usage.memory_peak, usage.pids), (Some(8192), Some(9000), None));
}

#[test]
fn populated_says_the_kernel_or_else_the_lists() {
    let machine = Machine::v2("");
    let group = machine.cgroups.create(Path::new(PATH), &Limits::default()).unwrap().0;
    put(&machine.group("v2"), "cgroup.events", "populated 1\nfrozen 0\n");
    assert!(group.populated().unwrap());
    put(&machine.group("v2"), "cgroup.events", "populated 0\nfrozen 0\n");
    assert!(!group.populated().unwrap());

    let machine = Machine::hybrid();
    let group = machine.cgroups.create(Path::new(PATH), &Limits::default()).unwrap().0;
    assert!(!group.populated().unwrap());
    put(&machine.group("pids").join("below"), "cgroup.procs", "77\n");
    put(&machine.group("pids"), "cgroup.procs", "12\n0\n");
    assert!(group.populated().unwrap());
    assert_eq!(group.processes().unwrap().into_iter().collect::<Vec<_>>(), [12, 77]);
}

#[test]
fn removing_takes_the_empty_nodes_above_along_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("v2");
    std::fs::create_dir(&root).unwrap();
    let cgroups = Cgroups { v2: Some(root.clone()), ..Cgroups::default() };
    let other = Path::new("hyperspector/main/beta/fim");
    for path in [Path::new(PATH), other] {
        cgroups.create(path, &Limits::default()).unwrap();
    }
    std::fs::create_dir(root.join(PATH).join("made-inside")).unwrap();
    cgroups.remove(Path::new(PATH)).unwrap();
    assert!(!root.join("hyperspector/main/alpha").exists() && root.join(other).exists());
    assert!(cgroups.open(Path::new(PATH)).is_err() && cgroups.open(other).is_ok());
    cgroups.remove(other).unwrap();
    cgroups.remove(other).unwrap();
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
}

#[test]
fn only_plain_relative_paths_are_groups() {
    let machine = Machine::v2("");
    for path in ["", "/", "/a", "../a", "a/../b", "."] {
        assert!(machine.cgroups.create(Path::new(path), &LIMITS).is_err(), "{path}");
        assert!(machine.cgroups.remove(Path::new(path)).is_err(), "{path}");
    }
}
