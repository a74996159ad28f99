//! A cgroup of a test's own, and what a program in it does, under our tracer.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use hyperspector_window::syscalls::{Calls, Only, Scope, Settings, Tracer};

/// A cgroup; it goes with this value.
pub struct Group(pub PathBuf);

impl Group {
    pub fn new(name: &str) -> Self {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let is_v2 = |root: &&str| PathBuf::from(root).join("cgroup.procs").exists();
        let root = roots.into_iter().find(is_v2).expect("a cgroup v2 hierarchy");
        let path = PathBuf::from(root).join(format!("hs-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn scope(&self) -> Scope {
        Scope { groups: vec![fs::metadata(&self.0).unwrap().ino()], ..Scope::default() }
    }

    /// What a shell does to move into the group.
    pub fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.0.display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let kill = self.0.join("cgroup.kill");
        let _ = fs::write(kill, "1");
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Everything.
pub fn everything() -> Settings {
    Settings {
        native: Calls::ALL,
        compat: Calls::ALL,
        string: 4096,
        buffer: 512,
        files: true,
        wake: 1 << 18,
        failed_only: false,
        pids: Only::default(),
        uids: Only::default(),
    }
}

/// How many times slower than a usual machine this one is, as its caller says (an emulated one, say).
pub fn slowdown() -> u32 {
    std::env::var("HYPERSPECTOR_TEST_SLOWDOWN").map_or(1, |text| text.parse().unwrap())
}

/// The records of what `command` does, as bytes, and whether it ended in time.
pub fn traced(group: &Group, mut command: Command, patience: Duration) -> (Vec<Vec<u8>>, bool) {
    let mut tracer = Tracer::start(1 << 26).unwrap();
    tracer.set(&everything());
    tracer.set_scope(&group.scope());
    let mut records = Vec::new();
    let reader = tracer.reader(|bytes| records.push(bytes.to_vec())).unwrap();
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + patience * slowdown();
    let mut has_ended = false;
    while !has_ended && Instant::now() < deadline {
        reader.read(Duration::from_millis(20)).unwrap();
        has_ended = child.try_wait().unwrap().is_some();
    }
    if !has_ended {
        let _ = fs::write(group.0.join("cgroup.kill"), "1");
    }
    let _ = child.wait();
    reader.read(Duration::from_millis(50)).unwrap();
    drop(reader);
    (records, has_ended)
}
