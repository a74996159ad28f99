//! Watching and sending frames on an interface, for tests that ask what passes there.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::namespace::Namespace;

/// Room for frames until they are counted, in bytes; the usual is full after 278 small ones.
static ROOM: libc::c_int = 64 << 20;

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
}

impl Frames {
    /// Watches an interface of a namespace.
    #[track_caller]
    pub fn on(namespace: &Namespace, interface: &str) -> Self {
        let interface = std::ffi::CString::new(interface).unwrap();
        let socket = namespace.within(|| open(&interface)).unwrap();
        Self { socket }
    }

    /// Watches every interface of a namespace, those that are still to come included.
    #[track_caller]
    pub fn everywhere(namespace: &Namespace) -> Self {
        let socket = namespace.within(|| open(c"")).unwrap();
        Self { socket }
    }

    /// Joins a fanout group, which takes its members in turn.
    #[track_caller]
    pub fn in_fanout_group(self, id: u16) -> Self {
        const IN_TURN: u32 = 1;
        let value = u32::from(id) | IN_TURN << 16;
        let (level, option) = (libc::SOL_PACKET, libc::PACKET_FANOUT);
        let place = (&raw const value).cast();
        // SAFETY: the value is valid for the size that is passed, and the kernel only reads it.
        let done = unsafe { libc::setsockopt(self.socket.as_raw_fd(), level, option, place, 4) };
        assert_eq!(done, 0, "join a fanout group: {}", io::Error::last_os_error());
        self
    }

    /// How many of the frames that arrived until now, and `wait` from now, hold `text`.
    pub fn count(&self, text: &[u8], wait: Duration) -> usize {
        let deadline = Instant::now() + wait;
        let mut found = 0;
        let mut buffer = [0_u8; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(got) = self.receive(&mut buffer, left) else { return found };
            if buffer[..got].windows(text.len()).any(|window| window == text) {
                found += 1;
            }
        }
    }

    /// Sends a frame with a local experiment's EtherType and this text.
    #[track_caller]
    pub fn send(&self, text: &[u8]) {
        let mut frame = vec![0xff; 6];
        frame.extend_from_slice(&[2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
        frame.extend_from_slice(text);
        frame.resize(frame.len().max(60), 0);
        let place = frame.as_ptr().cast();
        // SAFETY: the buffer is valid for its length, and the kernel only reads it.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), place, frame.len(), 0) };
        assert!(sent > 0, "send a frame: {}", io::Error::last_os_error());
    }

    /// The length of the next frame, unless none comes within `limit`.
    fn receive(&self, buffer: &mut [u8], limit: Duration) -> Option<usize> {
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        let fd = self.socket.as_raw_fd();
        let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry that lives across the call.
        if unsafe { libc::poll(&raw mut entry, 1, limit) } != 1 {
            return None;
        }
        // SAFETY: the buffer is valid and writable for its length.
        let got = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(got).ok()
    }
}

fn open(interface: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes three integers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(all)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE);
    // SAFETY: the value is valid for the size that is passed, and the kernel only reads it.
    if unsafe { libc::setsockopt(fd, level, option, (&raw const ROOM).cast(), 4) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // No interface is called by the empty name, which gives 0: all of them.
    // SAFETY: the name is a C string that lives across the call.
    let index = unsafe { libc::if_nametoindex(interface.as_ptr()) };
    // SAFETY: a structure of integers, for which zero is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = index.cast_signed();
    let size = size_of_val(&address) as u32;
    // SAFETY: the address is valid for the size that is passed.
    match unsafe { libc::bind(fd, (&raw const address).cast(), size) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}
