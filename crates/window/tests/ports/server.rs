//! The program in the server space: a closure in a child process, which asks this process to try
//! things from elsewhere.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use hyperspector_sys::netns;
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{Gid, Uid, UnshareFlags, unshare_unsafe};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use super::lab::{Cgroup, Lab};

/// How long something takes that is not refused, at most.
const SOON: Duration = Duration::from_millis(400);

/// Where something is tried from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// The other host.
    Peer,
    /// The host's base system.
    Base,
}

/// What the server asks for.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    Mapped,
    Connect(From, SocketAddr),
    FastOpen(SocketAddr),
    Flood(Vec<u16>),
    Act,
}

/// The server's line to the test.
pub struct Outside(Channel);

impl Outside {
    fn ask(&self, ask: &Ask) -> bool {
        self.0.send(ask, &[]).unwrap();
        self.0.receive::<bool>().unwrap().unwrap().0
    }

    /// Whether a TCP connection to this address comes about.
    pub fn connects(&self, from: From, to: &str, port: u16) -> bool {
        let address = SocketAddr::new(to.parse().unwrap(), port);
        self.ask(&Ask::Connect(from, address))
    }

    /// Sends data from the peer in the first packet of a connection.
    pub fn fast_open(&self, to: &str, port: u16) {
        self.ask(&Ask::FastOpen(SocketAddr::new(to.parse().unwrap(), port)));
    }

    /// Has the peer try connections to these ports for a second.
    pub fn flood(&self, ports: &[u16]) {
        self.ask(&Ask::Flood(ports.to_vec()));
    }

    /// Has the test do its part, see [`Lab::run_beside`].
    pub fn act(&self) {
        self.ask(&Ask::Act);
    }

    /// Whether the peer reaches the port by any of the host's addresses.
    pub fn reaches(&self, port: u16) -> bool {
        ["10.9.0.1", "fd09::1", "fe80::1"].iter().any(|to| self.connects(From::Peer, to, port))
    }
}

impl Lab {
    /// Runs `program` in `cgroup`, as root of a user namespace that owns nothing; it must end well.
    #[track_caller]
    pub fn run(&self, cgroup: &Cgroup, program: impl FnOnce(&Outside)) {
        self.run_beside(cgroup, || {}, program);
    }

    /// As [`Self::run`]; `act` is what [`Outside::act`] does in this process.
    #[track_caller]
    pub fn run_beside(
        &self,
        cgroup: &Cgroup,
        mut act: impl FnMut(),
        program: impl FnOnce(&Outside),
    ) {
        let (ours, theirs) = Channel::pair().unwrap();
        let procs = cgroup.0.join("cgroup.procs");
        // SAFETY: this process has one thread, so the child may do anything.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(ours);
            let server = || {
                let outside = enter(&self.host, &procs, theirs);
                program(&outside);
            };
            let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(server)).is_ok();
            // SAFETY: the child ends here, without running what belongs to its parent.
            unsafe { libc::_exit(if passed { 0 } else { 1 }) }
        }
        drop(theirs);
        while let Ok(Some((ask, _))) = ours.receive::<Ask>() {
            if matches!(ask, Ask::Act) {
                act();
            }
            let answer = self.answer(child, ask);
            if ours.send(&answer, &[]).is_err() {
                break;
            }
        }
        let (_, status) = waitpid(Pid::from_raw(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0), "the server failed");
    }

    fn answer(&self, child: i32, ask: Ask) -> bool {
        match ask {
            Ask::Mapped => {
                fs::write(format!("/proc/{child}/uid_map"), "0 200000 65536").unwrap();
                fs::write(format!("/proc/{child}/gid_map"), "0 200000 65536").unwrap();
                true
            }
            Ask::Connect(from, to) => {
                let namespace = if from == From::Peer { &self.peer } else { &self.host };
                netns::within(namespace.as_fd(), || connect(from, to)).unwrap().is_ok()
            }
            Ask::FastOpen(to) => {
                netns::within(self.peer.as_fd(), || fast_open(to)).unwrap().is_ok()
            }
            Ask::Flood(ports) => {
                netns::within(self.peer.as_fd(), || flood(&ports)).unwrap();
                true
            }
            Ask::Act => true,
        }
    }
}

/// Makes this process the server.
fn enter(host: &OwnedFd, procs: &Path, channel: Channel) -> Outside {
    // SAFETY: alarm takes an integer; the signal ends a server that hangs.
    unsafe { libc::alarm(60) };
    fs::write(procs, "0").unwrap();
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(host.as_fd(), Some(kind)).unwrap();
    // SAFETY: only the user namespace changes, and there is one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.unwrap();
    let outside = Outside(channel);
    outside.ask(&Ask::Mapped);
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
    outside
}

/// A link-local address is reached by the peer's one interface.
fn scoped(from: From, mut to: SocketAddr) -> SocketAddr {
    if let SocketAddr::V6(v6) = &mut to
        && v6.ip().is_unicast_link_local()
    {
        let name = if from == From::Peer { c"p0" } else { c"h0" };
        // SAFETY: the name is a C string that lives across the call.
        v6.set_scope_id(unsafe { libc::if_nametoindex(name.as_ptr()) });
    }
    to
}

fn connect(from: From, to: SocketAddr) -> io::Result<()> {
    let to = scoped(from, to);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.connect_timeout(&SockAddr::from(to), SOON)
}

/// Asks for a cookie first, and sends data with the next first packet.
fn fast_open(to: SocketAddr) -> io::Result<()> {
    for _ in 0..2 {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let _ = socket.send_to_with_flags(b"early", &to.into(), libc::MSG_FASTOPEN);
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Tries one connection after the other, without waiting for any, for a second.
fn flood(ports: &[u16]) {
    let (start, mut pending) = (Instant::now(), VecDeque::new());
    while start.elapsed() < Duration::from_secs(1) {
        for port in ports {
            let socket = stream(false);
            socket.set_nonblocking(true).unwrap();
            reset_at_end(&socket);
            let _ = socket.connect(&at("10.9.0.1", *port));
            pending.push_back(socket);
        }
        if pending.len() > 500 {
            pending.drain(..ports.len());
        }
    }
}

/// A socket; `true` for IPv6.
pub fn stream(six: bool) -> Socket {
    Socket::new(if six { Domain::IPV6 } else { Domain::IPV4 }, Type::STREAM, None).unwrap()
}

/// A datagram socket; `true` for IPv6.
pub fn datagram(six: bool) -> Socket {
    Socket::new(if six { Domain::IPV6 } else { Domain::IPV4 }, Type::DGRAM, None).unwrap()
}

/// An address for socket calls.
pub fn at(address: &str, port: u16) -> SockAddr {
    SocketAddr::new(address.parse().unwrap(), port).into()
}

/// The port that a socket has.
pub fn port(socket: &Socket) -> u16 {
    socket.local_addr().unwrap().as_socket().unwrap().port()
}

/// The errno of what was refused.
pub fn errno<T>(result: io::Result<T>) -> i32 {
    result.map(drop).map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0)
}

/// Sets an option that is an integer.
pub fn set(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let value = (&raw const value).cast();
    // SAFETY: the value is four bytes that live across the call.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, 4) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closing leaves nothing behind then that keeps the port busy.
pub fn reset_at_end(socket: &Socket) {
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// The index of the host's interface towards the peer.
pub fn outward() -> u32 {
    // SAFETY: the name is a C string that lives across the call.
    unsafe { libc::if_nametoindex(c"h0".as_ptr()) }
}

/// Takes away everything about where a socket is connected (connect(2), `AF_UNSPEC`).
pub fn disconnect(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let address = [0_u8; 16];
    // SAFETY: the address lives across the call and is as long as is said.
    match unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), 16) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
