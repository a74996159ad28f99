//! Unix sockets in a portspace: bound and connected by the broker, as the caller would.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyperspector_window::packets::unix_guard;
use libc as l;
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

use super::child::Do;
use super::lab::{Lab, Portspace, until};

/// A `struct sockaddr_un` of full length.
fn address(path: &Path) -> Vec<u8> {
    let mut address = vec![0; 110];
    address[..2].copy_from_slice(&1_u16.to_ne_bytes());
    let path = path.as_os_str().as_encoded_bytes();
    address[2..2 + path.len()].copy_from_slice(path);
    address
}

fn stream(portspace: &Portspace) -> i32 {
    portspace.does(Do::Socket(l::AF_UNIX, l::SOCK_STREAM, 0)) as i32
}

/// A directory in which anybody may do anything.
fn open_folder(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.folder.path().join(name);
    fs::create_dir(&path).unwrap();
    for path in [lab.folder.path(), &path] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    path
}

pub fn bound_as_the_caller() {
    let lab = Lab::new();
    let portspace = lab.portspace("a");
    let folder = open_folder(&lab, "run");
    let path = folder.join("socket");
    let fd = stream(&portspace);
    portspace.does(Do::Bind(fd, address(&path)));
    let made = fs::metadata(&path).unwrap();
    assert_eq!((made.uid(), made.gid()), (200_000, 200_000));
    portspace.fails(l::EADDRINUSE, Do::Bind(stream(&portspace), address(&path)));
    portspace.fails(l::ENOENT, Do::Bind(stream(&portspace), address(&folder.join("no/such"))));
    portspace.does(Do::Listen(fd, 1));
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());

    // Root inside is nobody special outside, and another user inside is not root.
    let closed = folder.join("closed");
    fs::create_dir(&closed).unwrap();
    let refused = Do::Bind(stream(&portspace), address(&closed.join("socket")));
    portspace.fails(l::EACCES, refused);
    std::os::unix::fs::chown(&closed, Some(200_000), Some(200_000)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    portspace.does(Do::Bind(stream(&portspace), address(&closed.join("socket"))));
    portspace.does(Do::Become(33));
    let refused = Do::Bind(stream(&portspace), address(&closed.join("another")));
    portspace.fails(l::EACCES, refused);
    portspace.does(Do::Bind(stream(&portspace), address(&folder.join("user"))));
    assert_eq!(fs::metadata(folder.join("user")).unwrap().uid(), 200_033);
    // Abstract names too.
    let mut name = address(Path::new(""));
    name[3..10].copy_from_slice(b"hidden!");
    portspace.does(Do::Bind(stream(&portspace), name));
}

/// A cgroup of cgroup v2 that is removed with the value.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(lab: &Lab) -> Self {
        // A mount of the test's own shows the one hierarchy that there is.
        let root = lab.folder.path().join("cgroup");
        fs::create_dir(&root).unwrap();
        mount("cgroup2", &root, "cgroup2", MountFlags::empty(), None).unwrap();
        let path = root.join(format!("hs-test-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn add(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let procs = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|line| line.parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn guarded(lab: &Lab, cgroup: &Cgroup) -> (Portspace, PathBuf) {
    let portspace = lab.portspace_with("a", &["w0"], 8 << 20, true);
    cgroup.add(portspace.child.0.id());
    let pins = lab.pins.with_file_name("unix-a");
    let directory = fs::File::open(&cgroup.0).unwrap();
    unix_guard::attach(directory.as_fd(), portspace.broker.0.id(), &pins).unwrap();
    (portspace, pins)
}

pub fn guard_refuses_windows_only() {
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let own = open_folder(&lab, "own");
    let served = open_folder(&lab, "served");
    let seen = open_folder(&lab, "seen");
    // A server's socket, seen through a window.
    let server = UnixListener::bind(served.join("server")).unwrap();
    let log = UnixDatagram::bind(served.join("log")).unwrap();
    log.set_nonblocking(true).unwrap();
    for name in ["server", "log"] {
        fs::set_permissions(served.join(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    mount_bind(&served, &seen).unwrap();
    let window = MountFlags::BIND
        | MountFlags::RDONLY
        | MountFlags::NOSUID
        | MountFlags::NODEV
        | MountFlags::NOEXEC;
    mount_remount(&seen, window, "").unwrap();

    let (portspace, pins) = guarded(&lab, &cgroup);
    let connect = |fd, path: &Path| Do::Connect(fd, address(path));
    portspace.fails(l::EACCES, connect(stream(&portspace), &seen.join("server")));
    portspace.fails(l::ENOENT, connect(stream(&portspace), &own.join("nothing")));
    let datagram = portspace.does(Do::Socket(l::AF_UNIX, l::SOCK_DGRAM, 0)) as i32;
    portspace.fails(l::EACCES, connect(datagram, &seen.join("log")));
    let send = Do::Send(datagram, b"to the log".to_vec(), address(&seen.join("log")));
    portspace.fails(l::EPERM, send);
    assert!(log.recv(&mut [0; 64]).is_err());
    // A link that leads into the window is no way in either.
    std::os::unix::fs::symlink(seen.join("server"), own.join("link")).unwrap();
    portspace.fails(l::EACCES, connect(stream(&portspace), &own.join("link")));

    // Its own sockets, by path and by abstract name.
    let listening = stream(&portspace);
    portspace.does(Do::Bind(listening, address(&own.join("mine"))));
    portspace.does(Do::Listen(listening, 4));
    portspace.does(connect(stream(&portspace), &own.join("mine")));
    let mut name = address(Path::new(""));
    name[3..10].copy_from_slice(b"hidden!");
    let listening = stream(&portspace);
    portspace.does(Do::Bind(listening, name.clone()));
    portspace.does(Do::Listen(listening, 4));
    portspace.does(Do::Connect(stream(&portspace), name));

    // Without a broker nothing that has a path is connected, and a new broker is soon named.
    unix_guard::set_broker(&pins, 0).unwrap();
    portspace.fails(l::EPERM, connect(stream(&portspace), &own.join("mine")));
    unix_guard::set_broker(&pins, portspace.broker.0.id()).unwrap();
    portspace.does(connect(stream(&portspace), &own.join("mine")));

    unix_guard::remove(&pins).unwrap();
    unix_guard::remove(&pins).unwrap();
    until("the programs are gone", || {
        let send = Do::Send(datagram, b"let through".to_vec(), address(&seen.join("log")));
        portspace.try_to(send).is_ok()
    });
    drop(server);
}

pub fn waiting_holds_up_nobody() {
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let own = open_folder(&lab, "own");
    let (mut portspace, pins) = guarded(&lab, &cgroup);
    let listening = stream(&portspace);
    portspace.does(Do::Bind(listening, address(&own.join("slow"))));
    portspace.does(Do::Listen(listening, 0));
    portspace.does(Do::Connect(stream(&portspace), address(&own.join("slow"))));
    // The queue is full now: this one waits, and the broker goes on with others.
    let waiting = stream(&portspace);
    portspace.order(&Do::Connect(waiting, address(&own.join("slow"))));
    std::thread::sleep(Duration::from_millis(100));
    assert!(portspace.status().guard);
    // When the caller is killed, the wait ends.
    let broker = portspace.broker.0.id();
    let threads = || fs::read_dir(format!("/proc/{broker}/task")).unwrap().count();
    assert_eq!(threads(), 2);
    portspace.child.kill();
    until("the thread is gone", || threads() == 1);
    unix_guard::remove(&pins).unwrap();
}
