//! A server's tree on a file system of its own, and a journal of it.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hyperspector_changes::journal::Limits;
use hyperspector_changes::list::{self, List, Windows};
use hyperspector_changes::mark::Seen;
use hyperspector_sys::mount::clone_tree;
use hyperspector_sys::{channel, netns, worker};
use hyperspector_window::changes::{
    Config, Place, Reply, Request, Role, Started, Status, fanotify,
};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

/// A user of the host that is nobody.
pub const USER: u32 = 0x6fff_0001;

/// From here on, mounts are this process's own.
pub fn own_mounts() {
    // SAFETY: the process has one thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

/// Mounts a tmpfs of some size at `path`.
pub fn tmpfs(path: &Path, size: &str) {
    fs::create_dir_all(path).unwrap();
    let options = std::ffi::CString::new(format!("size={size}")).unwrap();
    mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
}

/// The root of a clone of the mount at `path`, as the agent hands it over.
pub fn root_of(path: &Path) -> OwnedFd {
    let tree = clone_tree(path, false).unwrap();
    if path.is_dir() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        return openat(tree, ".", flags, Mode::empty()).unwrap();
    }
    use std::os::fd::AsRawFd;
    let through = format!("/proc/self/fd/{}", tree.as_raw_fd());
    openat(CWD, through, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// The tree, the journal, and its worker.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub worker: Option<Child>,
    seen: Option<Seen>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.kill();
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let home = self.dir.path().display().to_string();
        let below = table.lines().filter_map(|line| line.split(' ').nth(1));
        for path in below.filter(|path| path.starts_with(&home)).collect::<Vec<_>>().iter().rev() {
            let _ = rustix::mount::unmount(*path, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Lab {
    /// A tree on a tmpfs, with `prepare` done before it is watched, and a completed scan.
    pub fn new(prepare: impl FnOnce(&Path)) -> Self {
        Self::hiding(prepare, &[])
    }

    pub fn hiding(prepare: impl FnOnce(&Path), hidden: &[&str]) -> Self {
        let mut lab = Self::bare();
        tmpfs(&lab.tree(), "64m");
        prepare(&lab.tree());
        lab.start(hidden);
        lab.watch(&lab.tree(), "/");
        lab.scan();
        lab
    }

    /// Nothing but directories.
    pub fn bare() -> Self {
        let dir = tempfile::Builder::new().prefix("hs-changes-").tempdir().unwrap();
        let windows = Windows::of(&dir.path().join("windows"), "shop");
        fs::create_dir_all(&windows.journal).unwrap();
        fs::create_dir_all(windows.files.parent().unwrap()).unwrap();
        let lab = Self { dir, worker: None, seen: None };
        std::os::unix::fs::symlink(lab.tree(), windows.files).unwrap();
        std::os::unix::fs::symlink("shop.journal/deleted", windows.deleted).unwrap();
        lab
    }

    pub fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    pub fn windows(&self) -> Windows {
        Windows::of(&self.dir.path().join("windows"), "shop")
    }

    /// Starts a worker.
    pub fn start(&mut self, hidden: &[&str]) {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let config = Config {
            uid: USER,
            gid: USER,
            id: format!("test{number}"),
            began: format!("for the {number}. time"),
            limits: Limits::default(),
        };
        let _ = fs::remove_file(self.socket());
        let listener = netns::listen(self.socket()).unwrap();
        let journal = File::open(self.windows().journal).unwrap();
        let fds = [listener.as_fd(), journal.as_fd()];
        let (child, channel) = worker::spawn("journal", &config, &fds, Stdio::inherit()).unwrap();
        self.worker = Some(child);
        let (word, _) = channel.receive::<Started>().unwrap().unwrap();
        assert!(matches!(word, Started::Ready), "{word:?}");
        let hidden = hidden.iter().map(|path| path.as_bytes().to_vec()).collect();
        assert!(matches!(self.ask(&Request::Hidden(hidden), &[]).0, Reply::Done));
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("journal.sock")
    }

    pub fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> (Reply, Vec<OwnedFd>) {
        channel::ask(&self.socket(), request, fds, Duration::from_secs(5)).unwrap()
    }

    pub fn status(&self) -> Status {
        match self.ask(&Request::Status, &[]).0 {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// Watches the mount at `path`, which the server sees at `place`.
    pub fn watch(&self, path: &Path, place: &str) {
        let root = root_of(path);
        let group = self.ask(&Request::Group, &[]).1.remove(0);
        fanotify::mark(group.as_fd(), root.as_fd()).unwrap();
        self.add(root, place, Role::Tree);
    }

    pub fn add(&self, root: OwnedFd, place: &str, role: Role) {
        let places = vec![Place { path: place.as_bytes().to_vec(), role, key: String::new() }];
        let (reply, _) = self.ask(&Request::Add(places), &[root.as_fd()]);
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }

    pub fn kill(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }

    pub fn list(&self) -> (List, Seen) {
        list::read(&self.windows(), self.seen.as_ref()).unwrap()
    }

    /// Everything is scanned: later lists begin here.
    pub fn scan(&mut self) {
        std::thread::sleep(Duration::from_millis(250));
        self.seen = Some(self.list().1);
    }

    /// The paths on the list, once the last change is on it: one of a file that is made for this.
    pub fn changed(&mut self) -> Vec<String> {
        let last = self.tree().join("last");
        fs::write(&last, "").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (list, seen) = self.list();
            assert_eq!(list.all, None);
            if list.changes.contains_key(&b"/last"[..]) {
                self.seen = Some(seen);
                fs::remove_file(&last).unwrap();
                self.scan();
                return list
                    .changes
                    .iter()
                    .filter(|(path, _)| !matches!(&path[..], b"/last" | b"/"))
                    .map(|(path, change)| {
                        let path = String::from_utf8_lossy(path);
                        let end = if change.is_tree { "/" } else { "" };
                        format!("{path}{end} {}", change.kinds.words().join("+"))
                    })
                    .collect();
            }
            assert!(Instant::now() < deadline, "{list:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the list is to scan all, and gives the reason.
    pub fn wait_all(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(reason) = self.list().0.all {
                return reason;
            }
            assert!(Instant::now() < deadline, "never to scan all");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A directory of root's alone.
pub fn private(path: &Path) {
    fs::DirBuilder::new().mode(0o700).create(path).unwrap();
}
