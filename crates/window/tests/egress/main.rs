//! The guard of interfaces that are up from their first moment, on a real kernel. Needs root. What is
//! needed is made in network namespaces and a mount namespace of the test's own, so that nothing can
//! be left behind.
//!
//! That the chain and not the news from the kernel guards a new interface is shown by stopping the
//! guard's process first. This program is also the guard.

#[path = "../harness/mod.rs"]
mod harness;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use hyperspector_sys::netlink::Connection;
use hyperspector_sys::{netns, worker};
use hyperspector_window::packets::MARK;
use hyperspector_window::packets::guard::{self, Choice, NewInterfaces, Status};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const TESTS: &[harness::Test] = &[
    ("an_interface_is_guarded_while_the_guard_sleeps", guarded_while_asleep),
    ("the_table_outlives_the_guard_and_keeps_its_count", outlives_the_guard),
    ("agents_in_one_namespace_have_tables_of_their_own", tables_of_their_own),
    ("nobody_flushes_the_table_of_a_living_guard", nobody_flushes),
    ("switched_off_it_takes_the_table_away", switched_off),
    ("the_host_s_nft_goes_on_working", nft_goes_on_working),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|word| word == worker::SUBCOMMAND) {
        return guard::worker_main();
    }
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    own_mounts();
    harness::status(harness::run(&args, TESTS, None))
}

/// Gives this process mounts of its own, which end with it.
fn own_mounts() {
    use rustix::mount::{MountPropagationFlags, mount_change};
    // SAFETY: only the mount namespace changes, while there is one thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

/// Whether the kernel has chains for all devices.
fn kernel_can() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 17)
}

/// An agent's guard in a namespace.
struct Guard {
    folder: TempDir,
    child: Option<Child>,
}

impl Guard {
    fn new(host: &OwnedFd, choice: Choice) -> Self {
        let folder = tempfile::Builder::new().prefix("hs-").tempdir().unwrap();
        let bpf = folder.path().join("bpf");
        fs::create_dir(&bpf).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("bpf", &bpf, "bpf", flags, None).unwrap();
        let mut guard = Self { folder, child: None };
        guard.start(host, choice);
        guard
    }

    fn pins(&self) -> PathBuf {
        self.folder.path().join("bpf/guard")
    }

    fn start(&mut self, host: &OwnedFd, choice: Choice) {
        self.kill();
        let socket = self.folder.path().join("guard.sock");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let config =
            guard::Config { pin_dir: self.pins(), uid: 65533, gid: 65533, force_clsact: false };
        let start = guard::Start { config, new_interfaces: choice };
        let spawn = || worker::spawn("guard", &start, &[listener.as_fd()], Stdio::inherit());
        let (child, channel) = netns::within(host.as_fd(), spawn).unwrap().unwrap();
        self.child = Some(child);
        match channel.receive().unwrap().unwrap().0 {
            guard::Started::Ready => {}
            guard::Started::Failed(why) => panic!("guard: {why}"),
        }
    }

    fn status(&self) -> Status {
        let channel =
            Channel::new(UnixStream::connect(self.folder.path().join("guard.sock")).unwrap());
        channel.send(&guard::Request::Status, &[]).unwrap();
        match channel.receive().unwrap().unwrap().0 {
            guard::Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id().cast_signed();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// As the agent does at the end.
    fn remove(&mut self, host: &OwnedFd) {
        self.kill();
        netns::within(host.as_fd(), || guard::remove(&self.pins())).unwrap().unwrap();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(self.folder.path().join("bpf"), flags);
    }
}

/// Runs a program in the namespace; whether it came to a good end within ten seconds.
fn run(host: &OwnedFd, words: &str) -> bool {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "10"]).args(words.split(' ')).stdout(Stdio::null());
    netns::within(host.as_fd(), || command.status().unwrap().success()).unwrap()
}

/// Makes a bridge that is up from the moment that it exists; what sending a frame on it gives, with
/// the mark and without.
fn first_moment(host: &OwnedFd, name: &str) -> (Result<(), i32>, Result<(), i32>) {
    assert!(run(host, &format!("ip link add {name} up type bridge")));
    let index = Connection::open_in(host.as_fd()).unwrap().link(name).unwrap().index;
    (send(host, index, MARK), send(host, index, 0))
}

fn send(host: &OwnedFd, index: u32, mark: u32) -> Result<(), i32> {
    let flags = SocketFlags::CLOEXEC;
    let open = || rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None);
    let socket = netns::within(host.as_fd(), open).unwrap().unwrap();
    let mark = mark.to_ne_bytes();
    let (fd, value) = (socket.as_raw_fd(), mark.as_ptr().cast());
    // SAFETY: the mark is four bytes that live across the call.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_MARK, value, 4) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    let (frame, mut address) = ([0xff_u8; 60], [0_u8; 20]);
    address[..2].copy_from_slice(&17_u16.to_ne_bytes());
    address[2..4].copy_from_slice(&0x88b5_u16.to_be_bytes());
    address[4..8].copy_from_slice(&index.to_ne_bytes());
    let (what, to) = (frame.as_ptr().cast(), address.as_ptr().cast());
    // SAFETY: frame and address live across the call and are as long as is said.
    let sent = unsafe { libc::sendto(fd, what, frame.len(), 0, to, 20) };
    if sent >= 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap()) }
}

/// A marked frame is stopped at the interface, or at the socket where BPF LSM is switched on; others
/// pass.
#[track_caller]
fn expect_guarded(host: &OwnedFd, name: &str) {
    let (marked, plain) = first_moment(host, name);
    assert!(matches!(marked, Err(libc::ENOBUFS | libc::EPERM)), "{name}: {marked:?}");
    assert_eq!(plain, Ok(()), "{name}");
}

#[track_caller]
fn expect_open(host: &OwnedFd, name: &str) {
    assert_eq!(first_moment(host, name), (Ok(()), Ok(())), "{name}");
}

/// A namespace with a guard; `None` on a kernel that cannot, after the guard has said so.
fn at_once() -> Option<(OwnedFd, Guard)> {
    let host = netns::new().unwrap();
    let guard = Guard::new(&host, Choice::Always);
    let status = guard.status();
    if kernel_can() {
        assert_eq!((status.new_interfaces, status.not_at_once), (NewInterfaces::AtOnce, None));
        return Some((host, guard));
    }
    assert_eq!(status.new_interfaces, NewInterfaces::AfterTheKernelTells);
    println!("{}", status.not_at_once.unwrap());
    None
}

fn guarded_while_asleep() {
    let Some((host, guard)) = at_once() else { return };
    guard.signal(Signal::STOP);
    for n in 0..20 {
        expect_guarded(&host, &format!("new{n}"));
    }
    guard.signal(Signal::CONT);
    let status = guard.status();
    assert_eq!(status.dropped, if status.send_denied { 0 } else { 20 });
}

fn outlives_the_guard() {
    let Some((host, mut guard)) = at_once() else { return };
    expect_guarded(&host, "new0");
    guard.kill();
    expect_guarded(&host, "new1");
    guard.start(&host, Choice::Always);
    expect_guarded(&host, "new2");
    let status = guard.status();
    assert_eq!(status.new_interfaces, NewInterfaces::AtOnce);
    assert_eq!(status.dropped, if status.send_denied { 0 } else { 3 });
    guard.kill();
    guard.remove(&host);
    expect_open(&host, "new3");
    assert!(!guard.pins().exists());
    guard.remove(&host);
}

fn tables_of_their_own() {
    let Some((host, mut one)) = at_once() else { return };
    let mut two = Guard::new(&host, Choice::Always);
    assert_eq!(two.status().new_interfaces, NewInterfaces::AtOnce);
    one.remove(&host);
    two.signal(Signal::STOP);
    expect_guarded(&host, "new0");
    two.remove(&host);
    expect_open(&host, "new1");
}

fn nobody_flushes() {
    let Some((host, mut guard)) = at_once() else { return };
    assert!(run(&host, "nft flush ruleset"));
    guard.signal(Signal::STOP);
    expect_guarded(&host, "new0");
    // Once it is dead, others can; the next guard makes it anew.
    guard.kill();
    assert!(run(&host, "nft flush ruleset"));
    guard.start(&host, Choice::Always);
    guard.signal(Signal::STOP);
    expect_guarded(&host, "new1");
}

fn switched_off() {
    let host = netns::new().unwrap();
    let mut guard = Guard::new(&host, Choice::Always);
    guard.start(&host, Choice::Never);
    let status = guard.status();
    assert_eq!(status.new_interfaces, NewInterfaces::AfterTheKernelTells);
    assert_eq!(status.not_at_once.as_deref(), Some("it is switched off"));
    if status.send_denied {
        return;
    }
    guard.signal(Signal::STOP);
    expect_open(&host, "new0");
}

fn nft_goes_on_working() {
    let host = netns::new().unwrap();
    let guard = Guard::new(&host, Choice::default());
    let status = guard.status();
    println!("{:?}: {}", status.new_interfaces, status.not_at_once.unwrap_or_default());
    assert!(run(&host, "nft list ruleset"));
    let deadline = Duration::from_secs(5);
    let start = Instant::now();
    assert!(run(&host, "ip link add new0 up type bridge"));
    while !guard.status().guarded.iter().any(|(_, name)| name == "new0") {
        assert!(start.elapsed() < deadline, "new0 is not guarded");
    }
}
