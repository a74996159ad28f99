//! What the tests are made in: namespaces, links, a guard, portspaces with their brokers.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use hyperspector_sys::{netns, worker};
use hyperspector_window::packets::{MARK, broker, guard};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use tempfile::TempDir;

use super::child::{self, Do, Outcome};

/// The EtherType of the tests' frames: for local experiments.
pub const ETHERTYPE: u16 = 0x88b5;

/// The user, inside, that brokers become.
const BROKER_UID: u32 = 65000;

/// Gives this process mounts of its own, which end with it.
pub fn own_mounts() {
    use rustix::mount::{MountPropagationFlags, mount_change};
    // SAFETY: only the mount namespace changes, while there is one thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).unwrap();
}

/// A process that is ended with the value.
pub struct Process(pub Child);

impl Process {
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A host and its peer.
pub struct Lab {
    pub host: OwnedFd,
    pub peer: OwnedFd,
    pub folder: TempDir,
    pub pins: PathBuf,
    clsact: bool,
    guard: Option<Process>,
}

impl Lab {
    /// With the links of the picture, and a guard.
    pub fn new() -> Self {
        Self::with(false)
    }

    pub fn with(clsact: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("hs-").tempdir().unwrap();
        let bpf = folder.path().join("bpf");
        fs::create_dir(&bpf).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("bpf", &bpf, "bpf", flags, None).unwrap();
        let (host, peer) = (netns::new().unwrap(), netns::new().unwrap());
        let pins = bpf.join("guard");
        let mut lab = Self { host, peer, folder, pins, clsact, guard: None };
        lab.in_host(|| ip("link set lo up"));
        lab.veth("w0", "w1");
        lab.veth("x0", "x1");
        lab.start_guard();
        lab
    }

    /// Makes a pair between host and peer, both up.
    pub fn veth(&self, ours: &str, theirs: &str) {
        let peer = self.peer.try_clone().unwrap();
        self.in_host(|| {
            ip(&format!("link add {ours} type veth peer name {theirs}"));
            let mut routes = hyperspector_sys::netlink::Connection::open().unwrap();
            routes.move_to(theirs, peer.as_fd(), None).unwrap();
            ip(&format!("link set {ours} up"));
        });
        netns::within(self.peer.as_fd(), || ip(&format!("link set {theirs} up"))).unwrap();
    }

    pub fn in_host<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        netns::within(self.host.as_fd(), work).unwrap()
    }

    fn socket_path(&self) -> PathBuf {
        self.folder.path().join("guard.sock")
    }

    /// Starts a guard, in place of one that has ended.
    pub fn start_guard(&mut self) {
        let _ = fs::remove_file(self.socket_path());
        let listener = UnixListener::bind(self.socket_path()).unwrap();
        let config = guard::Config {
            pin_dir: self.pins.clone(),
            uid: 65533,
            gid: 65533,
            force_clsact: self.clsact,
        };
        let (child, channel) = self.in_host(|| {
            worker::spawn("guard", &config, &[listener.as_fd()], Stdio::inherit()).unwrap()
        });
        self.guard = Some(Process(child));
        match channel.receive().unwrap().unwrap().0 {
            guard::Started::Ready => {}
            guard::Started::Failed(why) => panic!("guard: {why}"),
        }
    }

    pub fn kill_guard(&mut self) {
        self.guard = None;
    }

    pub fn guard_pid(&self) -> u32 {
        self.guard.as_ref().unwrap().0.id()
    }

    /// A connection to the guard.
    pub fn connect(&self) -> Channel {
        Channel::new(UnixStream::connect(self.socket_path()).unwrap())
    }

    pub fn status(&self) -> guard::Status {
        let channel = self.connect();
        channel.send(&guard::Request::Status, &[]).unwrap();
        match channel.receive().unwrap().unwrap().0 {
            guard::Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn index(&self, name: &str) -> u32 {
        self.in_host(|| {
            let mut routes = hyperspector_sys::netlink::Connection::open().unwrap();
            routes.link(name).unwrap().index
        })
    }

    /// A portspace that watches w0.
    pub fn portspace(&self, name: &str) -> Portspace {
        self.portspace_with(name, &["w0"], 8 << 20, false)
    }

    pub fn portspace_with(
        &self,
        name: &str,
        watched: &[&str],
        ring_limit: u64,
        unix_guard: bool,
    ) -> Portspace {
        let interfaces = watched.iter().map(|name| (name.to_string(), self.index(name)));
        let policy = broker::Policy {
            interfaces: interfaces.collect(),
            any: watched.is_empty(),
            ring_limit,
            socket_limit: 64,
            offered: None,
        };
        Portspace::new(self, name, policy, unix_guard)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.guard = None;
        // The folder cannot be removed under what is mounted in it.
        for name in ["bpf", "cgroup", "seen"] {
            let flags = rustix::mount::UnmountFlags::DETACH;
            let _ = rustix::mount::unmount(self.folder.path().join(name), flags);
        }
    }
}

/// A portspace: its program, and its broker.
pub struct Portspace {
    pub child: Process,
    pub broker: Process,
    channel: Channel,
    pub listener: OwnedFd,
    user_namespace: OwnedFd,
    control: PathBuf,
    policy: broker::Policy,
}

impl Portspace {
    fn new(lab: &Lab, name: &str, policy: broker::Policy, unix_guard: bool) -> Self {
        let (channel, theirs) = Channel::pair().unwrap();
        let namespace = netns::new().unwrap();
        let child = netns::within(namespace.as_fd(), || child::spawn(&theirs)).unwrap();
        drop(theirs);
        let pid = child.id();
        let child = Process(child);
        channel.receive::<String>().unwrap().unwrap();
        fs::write(format!("/proc/{pid}/uid_map"), "0 200000 65536").unwrap();
        fs::write(format!("/proc/{pid}/gid_map"), "0 200000 65536").unwrap();
        channel.send(&"mapped", &[]).unwrap();
        channel.send(&unix_guard, &[]).unwrap();
        let (_, mut fds) = channel.receive::<String>().unwrap().unwrap();
        let listener = fds.remove(0);
        let user_namespace = fs::File::open(format!("/proc/{pid}/ns/user")).unwrap().into();
        let control = lab.folder.path().join(format!("{name}.sock"));
        let start = Start {
            lab,
            policy: policy.clone(),
            known: broker::Known::default(),
            user_namespace: &user_namespace,
            listener: &listener,
            control: &control,
        };
        let broker = start.broker();
        Self { child, broker, channel, listener, user_namespace, control, policy }
    }

    /// Ends the broker, and starts another that is told `known`.
    pub fn replace_broker(&mut self, lab: &Lab, known: broker::Known) {
        self.broker.kill();
        let start = Start {
            lab,
            policy: self.policy.clone(),
            known,
            user_namespace: &self.user_namespace,
            listener: &self.listener,
            control: &self.control,
        };
        self.broker = start.broker();
    }

    pub fn order(&self, order: &Do) {
        self.channel.send(order, &[]).unwrap();
    }

    pub fn outcome(&self) -> Outcome {
        self.channel.receive().unwrap().unwrap().0
    }

    /// Has something done.
    pub fn try_to(&self, order: Do) -> Outcome {
        self.order(&order);
        self.outcome()
    }

    /// Has something done that must work; the number.
    #[track_caller]
    pub fn does(&self, order: Do) -> i64 {
        let what = format!("{order:?}");
        self.try_to(order).unwrap_or_else(|errno| panic!("{what}: errno {errno}")).0
    }

    /// Has something done that must fail with this errno.
    #[track_caller]
    pub fn fails(&self, errno: i32, order: Do) {
        let what = format!("{order:?}");
        assert_eq!(self.try_to(order).map(|(number, _)| number), Err(errno), "{what}");
    }

    /// A packet socket that is bound to an interface.
    #[track_caller]
    pub fn bound(&self, interface: u32) -> i32 {
        let protocol = i32::from(ETHERTYPE.to_be());
        let fd = self.does(Do::Socket(libc::AF_PACKET, libc::SOCK_RAW, protocol));
        let fd = i32::try_from(fd).unwrap();
        self.does(Do::Bind(fd, link_layer(ETHERTYPE, interface)));
        fd
    }

    pub fn ask_broker(&self, request: &broker::Request, fds: &[BorrowedFd<'_>]) -> broker::Reply {
        let channel = Channel::new(UnixStream::connect(&self.control).unwrap());
        channel.send(request, fds).unwrap();
        channel.receive().unwrap().unwrap().0
    }

    pub fn status(&self) -> broker::Status {
        match self.ask_broker(&broker::Request::Status, &[]) {
            broker::Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }
}

/// What a broker is started with.
struct Start<'a> {
    lab: &'a Lab,
    policy: broker::Policy,
    known: broker::Known,
    user_namespace: &'a OwnedFd,
    listener: &'a OwnedFd,
    control: &'a Path,
}

impl Start<'_> {
    fn broker(self) -> Process {
        let _ = fs::remove_file(self.control);
        let control = UnixListener::bind(self.control).unwrap();
        let guard = self.lab.connect();
        let config = broker::Config {
            policy: self.policy,
            guard: true,
            uid: BROKER_UID,
            gid: BROKER_UID,
            known: self.known,
        };
        let fds =
            [control.as_fd(), self.user_namespace.as_fd(), guard.as_fd(), self.listener.as_fd()];
        let (child, channel) =
            self.lab.in_host(|| worker::spawn("broker", &config, &fds, Stdio::inherit()).unwrap());
        let process = Process(child);
        match channel.receive().unwrap().unwrap().0 {
            broker::Started::Ready => process,
            broker::Started::Failed(why) => panic!("broker: {why}"),
        }
    }
}

/// Runs `ip` in the namespace of the calling thread.
pub fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

/// A `struct sockaddr_ll`.
pub fn link_layer(ethertype: u16, interface: u32) -> Vec<u8> {
    let mut address = vec![0; 20];
    address[..2].copy_from_slice(&17_u16.to_ne_bytes());
    address[2..4].copy_from_slice(&ethertype.to_be_bytes());
    address[4..8].copy_from_slice(&interface.to_ne_bytes());
    address
}

/// A broadcast frame of the tests' EtherType.
pub fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame.resize(60, 0);
    frame
}

/// Root's own packet socket in a namespace: the test's ear and mouth.
pub struct Ear {
    socket: OwnedFd,
    index: u32,
}

impl Ear {
    pub fn new(namespace: &OwnedFd, interface: &str, mark: bool) -> Self {
        netns::within(namespace.as_fd(), || {
            let mut routes = hyperspector_sys::netlink::Connection::open().unwrap();
            let index = routes.link(interface).unwrap().index;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let family = AddressFamily::PACKET;
            let socket = rustix::net::socket_with(family, SocketType::RAW, flags, None).unwrap();
            let address = link_layer(ETHERTYPE, index);
            let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
            // SAFETY: the address lives across the call and is 20 bytes long.
            let bound = unsafe { libc::bind(fd, address.as_ptr().cast(), 20) };
            assert_eq!(bound, 0, "{}", io::Error::last_os_error());
            if mark {
                let mark = MARK.to_ne_bytes();
                let mark = mark.as_ptr().cast();
                // SAFETY: the mark is four bytes that live across the call.
                let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_MARK, mark, 4) };
                assert_eq!(set, 0, "{}", io::Error::last_os_error());
            }
            Self { socket, index }
        })
        .unwrap()
    }

    /// Sends a frame; whether the kernel took it.
    pub fn send(&self, text: &str) -> bool {
        self.send_on(self.index, text).is_ok()
    }

    /// Sends a frame on any interface.
    pub fn send_on(&self, interface: u32, text: &str) -> Result<(), i32> {
        let (frame, address) = (frame(text), link_layer(ETHERTYPE, interface));
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.socket);
        let (what, to) = (frame.as_ptr().cast(), address.as_ptr().cast());
        // SAFETY: frame and address live across the call and are as long as is said.
        let sent = unsafe { libc::sendto(fd, what, frame.len(), 0, to, 20) };
        if sent >= 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap()) }
    }

    /// The texts of the frames that arrive until there is a pause of so long.
    pub fn hear(&self, pause: Duration) -> Vec<String> {
        let mut heard = Vec::new();
        let mut buffer = [0; 2048];
        let mut last = Instant::now();
        while last.elapsed() < pause {
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((got, _)) => {
                    let text = buffer[14..got].split(|byte| *byte == 0).next().unwrap();
                    heard.push(String::from_utf8_lossy(text).into_owned());
                    last = Instant::now();
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        heard
    }
}

/// Waits until something holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
