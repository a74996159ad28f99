//! What the tests are made in: two namespaces with a link, cgroups, the guard's pins.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use hyperspector_sys::netns;
use hyperspector_window::ports::{self, Config, Counts, Protocol, Range};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// Gives this process mounts of its own, which end with it.
pub fn own_mounts() {
    use rustix::mount::{MountPropagationFlags, mount_change};
    // SAFETY: only the mount namespace changes, while there is one thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

/// A host and its peer, and a cgroup without a guard.
pub struct Lab {
    pub host: OwnedFd,
    pub peer: OwnedFd,
    folder: TempDir,
    pub free: Cgroup,
}

/// Of the file systems that a lab mounts in its folder.
const MOUNTS: [(&str, &str); 2] = [("bpf", "bpf"), ("cgroup", "cgroup2")];

impl Lab {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("hs-").tempdir().unwrap();
        for (name, kind) in MOUNTS {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            mount(kind, &path, kind, MountFlags::empty(), None).unwrap();
        }
        let (host, peer) = (netns::new().unwrap(), netns::new().unwrap());
        connect(&host, &peer);
        let free = Cgroup::new(folder.path());
        Self { host, peer, folder, free }
    }

    /// A cgroup with the guard.
    pub fn guarded(&self, config: &Config) -> Guarded {
        let cgroup = Cgroup::new(self.folder.path());
        let pins = self.folder.path().join("bpf").join(cgroup.0.file_name().unwrap());
        let guarded = Guarded { cgroup, pins };
        guarded.attach(config).unwrap();
        guarded
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.free.remove();
        for (name, _) in MOUNTS {
            let _ = unmount(self.folder.path().join(name), UnmountFlags::DETACH);
        }
    }
}

fn connect(host: &OwnedFd, peer: &OwnedFd) {
    netns::within(host.as_fd(), || {
        ip("link set lo up");
        ip("link add h0 type veth peer name p0");
        let mut links = hyperspector_sys::netlink::Connection::open().unwrap();
        links.move_to("p0", peer.as_fd(), None).unwrap();
        addresses("h0", 1);
    })
    .unwrap();
    netns::within(peer.as_fd(), || {
        ip("link set lo up");
        addresses("p0", 2);
    })
    .unwrap();
}

fn addresses(device: &str, number: u8) {
    ip(&format!("link set {device} addrgenmode none"));
    ip(&format!("link set {device} up"));
    ip(&format!("addr add 10.9.0.{number}/24 dev {device}"));
    ip(&format!("addr add fd09::{number}/64 dev {device} nodad"));
    ip(&format!("addr add fe80::{number}/64 dev {device} nodad"));
}

/// Runs `ip` in the namespace of the calling thread.
pub fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

/// A cgroup of cgroup v2 that is removed with the value. What ran in it has ended by then.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    fn new(folder: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hs-test-{}-{number}", std::process::id());
        // A mount of the test's own shows the one hierarchy that there is.
        let path = folder.join("cgroup").join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn remove(&self) {
        for _ in 0..100 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A cgroup with the guard, which is removed with the value.
pub struct Guarded {
    pub cgroup: Cgroup,
    pub pins: PathBuf,
}

impl Guarded {
    pub fn attach(&self, config: &Config) -> Result<(), ports::Error> {
        let directory = File::open(&self.cgroup.0).unwrap();
        ports::attach(directory.as_fd(), config, &self.pins)
    }

    pub fn counts(&self) -> Counts {
        ports::counts(&self.pins).unwrap()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = ports::remove(&self.pins);
    }
}

/// The ranges that `text` names, as the operator would: `tcp/80 udp/53-54`.
pub fn ranges(text: &str) -> Vec<Range> {
    let range = |word: &str| {
        let (protocol, ports) = word.split_once('/').unwrap();
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let protocol = if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp };
        Range { protocol, first: first.parse().unwrap(), last: last.parse().unwrap() }
    };
    text.split_whitespace().map(range).collect()
}

/// A configuration without denied ports.
pub fn registered(text: &str) -> Config {
    Config { ports: ranges(text), deny: Vec::new() }
}

/// A configuration with denied ports alone.
pub fn denied(text: &str) -> Config {
    Config { ports: Vec::new(), deny: ranges(text) }
}
