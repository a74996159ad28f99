//! The socket: batches out, answers in.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force,
    set_socket_timeout,
};

use super::attribute::{attribute, find, number, string, text};
use super::message::{NFTABLES, REQUEST, header, message};
use super::{Batch, IPV4, kind};
use crate::netns;

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;
const HEADER: usize = 16;

/// How long the kernel may take; it waits for other processors between two versions of the rules.
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest datagram that is read, in bytes.
const MAX_DATAGRAM: usize = 256 << 10;

/// A socket for nf_tables in one network namespace.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
}

impl Connection {
    /// Connects to a network namespace; the caller's own stays as it is.
    pub fn open_in(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        netns::within(namespace, Self::open)?
    }

    /// Connects to the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel's errors without a copy of the request, which may be large.
        socket.set_cap_ack(true)?;
        // SAFETY: `socket` owns the descriptor and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        set_socket_timeout(fd, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// Has the kernel do all of a batch or nothing.
    ///
    /// # Errors
    /// What the kernel said of the first step that it refused.
    pub fn commit(&mut self, batch: &Batch) -> io::Result<()> {
        let request = batch.bytes();
        self.make_room(request.len())?;
        if self.socket.send(&request, 0)? != request.len() {
            return Err(io::Error::other("the rules were sent in part"));
        }
        loop {
            let answer = self.receive()?;
            for (kind, body) in messages(&answer) {
                if kind == ERROR {
                    // Steps are answered in their order, so the first answer counts; what other
                    // failed steps say comes later, and goes with the socket.
                    return result(body);
                }
            }
        }
    }

    /// The counters of a table and how many packets each has counted.
    pub fn counters(&mut self, table: &str) -> io::Result<Vec<(String, u64)>> {
        let parts = [attribute(1, &string(table)), number(3, 1)].concat();
        let body = [header(IPV4, 0), parts].concat();
        let request = message(NFTABLES << 8 | kind::GET_OBJECT, REQUEST | DUMP, &body);
        self.socket.send(&request, 0)?;
        let mut counters = Vec::new();
        loop {
            let answer = self.receive()?;
            for (kind, body) in messages(&answer) {
                match kind {
                    DONE => return Ok(counters),
                    ERROR => result(body)?,
                    _ => counters.extend(counter(body, table)),
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(MAX_DATAGRAM);
        loop {
            match self.socket.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(|_| buffer),
            }
        }
    }

    /// Room for a request, and for as many refusals.
    fn make_room(&self, bytes: usize) -> io::Result<()> {
        // SAFETY: `self.socket` owns the descriptor and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
        set_socket_send_buffer_size_force(fd, bytes.max(64 << 10))?;
        Ok(set_socket_recv_buffer_size_force(fd, bytes.max(256 << 10))?)
    }
}

/// The messages of one datagram; stops at the first that is cut off.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// What an answer says: 0 or a negated errno.
fn result(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code @ -4095..=-1) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::other("malformed answer of nf_tables")),
    }
}

/// The name and the packets of a counter of that table.
fn counter(body: &[u8], table: &str) -> Option<(String, u64)> {
    let parts = body.get(4..)?;
    let is_its = find(parts, 1).is_some_and(|name| text(name) == table);
    let packets = find(find(parts, 4)?, 2)?;
    is_its.then_some((text(find(parts, 2)?), u64::from_be_bytes(packets.try_into().ok()?)))
}
