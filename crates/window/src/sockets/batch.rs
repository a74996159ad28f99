//! Several messages with one system call, in such a way that a kill loses none: the kernel itself
//! writes down, in memory that outlives the process, how many it has received or sent.
//!
//! recvmmsg(2) and sendmmsg(2) store the length of each message beside its header when they are done
//! with it. The headers are in shared memory, and the lengths say [`NOT_YET`] before the call: so
//! whoever comes after a kill sees what had been done, and the bytes of received messages are
//! in shared memory too. A process that is killed inside such a call leaves it only after that.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::memory::{Memory, WORDS};

/// The most messages of one call. The queue of a datagram socket holds 11 by default.
pub(super) const MESSAGES: usize = 16;

/// Where the table is in its memory.
const AT: usize = WORDS * 8;

/// A message that was not received or sent.
const NOT_YET: libc::c_uint = libc::c_uint::MAX;

/// Room for the sender's ids (`SCM_CREDENTIALS`) and nothing else, so that the kernel has nowhere to
/// put descriptors that are passed, and drops them.
const CONTROL: usize = 32;

#[repr(C)]
struct Table {
    headers: [libc::mmsghdr; MESSAGES],
    parts: [libc::iovec; MESSAGES],
    control: [[u64; CONTROL / 8]; MESSAGES],
}

const _: () = assert!(AT + size_of::<Table>() <= super::memory::HEAD);
const _: () = assert!(AT.is_multiple_of(align_of::<Table>()));

/// One message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// How many bytes were received or sent.
    pub(super) length: usize,
    /// The rest of it did not fit and is gone.
    pub(super) cut: bool,
    /// Descriptors came with it, and are gone.
    pub(super) had_descriptors: bool,
    /// Who sent it.
    pub(super) sender: Option<Sender>,
}

/// Who sent a message, by the host's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sender {
    /// The process; 0 where it cannot be told.
    pub pid: u32,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Receives at most as many messages as there are `rooms` (offset and length in `memory`), without
/// waiting.
///
/// # Errors
/// As recvmmsg(2).
pub(super) fn receive(
    memory: &mut Memory,
    socket: BorrowedFd<'_>,
    rooms: &[(usize, usize)],
) -> io::Result<usize> {
    let table = prepare(memory, rooms, true);
    let (fd, count) = (socket.as_raw_fd(), rooms.len() as libc::c_uint);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the table's headers point to its own parts and control buffers and to rooms inside the
    // same mapping, all checked in `prepare`; nothing else is borrowed from it.
    let done = unsafe { libc::recvmmsg(fd, table, count, flags, std::ptr::null_mut()) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// Sends the messages at `parts` (offset and length in `memory`), without waiting; at least one, or
/// it is an error. How much, [`done`] says.
///
/// # Errors
/// As sendmmsg(2).
pub(super) fn send(
    memory: &mut Memory,
    socket: BorrowedFd<'_>,
    parts: &[(usize, usize)],
) -> io::Result<usize> {
    let table = prepare(memory, parts, false);
    let (fd, count) = (socket.as_raw_fd(), parts.len() as libc::c_uint);
    // SAFETY: as in `receive`; the kernel reads the parts and writes the lengths alone.
    let done = unsafe { libc::sendmmsg(fd, table, count, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// Says of every message that it is not done, for the time until the next call.
pub(super) fn forget(memory: &mut Memory) {
    for header in &mut table(memory).headers {
        header.msg_len = NOT_YET;
    }
}

/// What the last call has done, also one of another process that was killed.
pub(super) fn done(memory: &mut Memory, count: usize) -> Vec<Done> {
    let Table { headers, control, .. } = table(memory);
    let all = headers.iter().zip(control).take(count);
    all.take_while(|(header, _)| header.msg_len != NOT_YET)
        .map(|(header, control)| Done {
            length: header.msg_len as usize,
            cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            had_descriptors: header.msg_hdr.msg_flags & libc::MSG_CTRUNC != 0,
            sender: sender(control, header.msg_hdr.msg_controllen),
        })
        .collect()
}

/// Fills in the table: one part for each message, and room for the sender's ids where wanted.
fn prepare(memory: &mut Memory, parts: &[(usize, usize)], control: bool) -> *mut libc::mmsghdr {
    assert!(parts.len() <= MESSAGES, "more messages than a batch holds");
    forget(memory);
    for (index, (at, length)) in parts.iter().enumerate() {
        let base = memory.place(*at, *length).cast();
        let table = table(memory);
        table.parts[index] = libc::iovec { iov_base: base, iov_len: *length };
        let header = &mut table.headers[index].msg_hdr;
        header.msg_name = std::ptr::null_mut();
        header.msg_namelen = 0;
        header.msg_iov = &raw mut table.parts[index];
        header.msg_iovlen = 1;
        header.msg_control = std::ptr::null_mut();
        header.msg_controllen = 0;
        header.msg_flags = 0;
        if control {
            header.msg_control = (&raw mut table.control[index]).cast();
            header.msg_controllen = CONTROL as _;
        }
    }
    table(memory).headers.as_mut_ptr()
}

fn table(memory: &mut Memory) -> &mut Table {
    let table = memory.place(AT, size_of::<Table>()).cast::<Table>();
    // SAFETY: there is room by the check in `place`, at an address that is a multiple of 1024; any
    // bytes are valid numbers and raw pointers; and nobody else has it, since `memory` is borrowed.
    unsafe { &mut *table }
}

/// The sender's ids in a control buffer of which `used` bytes are used.
fn sender(control: &[u64; CONTROL / 8], used: usize) -> Option<Sender> {
    const WHOLE: usize = size_of::<libc::cmsghdr>() + size_of::<libc::ucred>();
    let halves = |word: u64| (word as u32, (word >> 32) as u32);
    let kind = (libc::SOL_SOCKET.cast_unsigned(), libc::SCM_CREDENTIALS.cast_unsigned());
    // A length, level and type, then the ids (unix(7)); little-endian machines alone are supported.
    if used < WHOLE || control[0] as usize != WHOLE || halves(control[1]) != kind {
        return None;
    }
    let ((pid, uid), (gid, _)) = (halves(control[2]), halves(control[3]));
    Some(Sender { pid, uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::memory::{HEAD, create};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    fn memory() -> Memory {
        Memory::map(create("test", HEAD + 4096).unwrap()).unwrap()
    }

    #[test]
    fn messages_keep_their_bounds_and_their_senders() {
        let (a, b) = UnixDatagram::pair().unwrap();
        rustix::net::sockopt::set_socket_passcred(&b, true).unwrap();
        for text in [&b"one"[..], b"", b"three"] {
            a.send(text).unwrap();
        }
        let mut memory = memory();
        let rooms = [(HEAD, 4), (HEAD + 4, 4), (HEAD + 8, 4), (HEAD + 12, 4)];
        assert_eq!(receive(&mut memory, b.as_fd(), &rooms).unwrap(), 3);
        let all = done(&mut memory, 4);
        assert_eq!(all.iter().map(|one| one.length).collect::<Vec<_>>(), [3, 0, 4]);
        assert_eq!(all.iter().map(|one| one.cut).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(memory.bytes(HEAD, 3), b"one");
        assert_eq!(memory.bytes(HEAD + 8, 4), b"thre");
        let own = Sender { pid: std::process::id(), uid: 0, gid: 0 };
        let is_root = rustix::process::getuid().is_root();
        assert!(all.iter().all(|one| one.sender.is_some_and(|sender| sender == own || !is_root)));
    }

    #[test]
    fn descriptors_never_arrive() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let (a, b) = UnixDatagram::pair().unwrap();
        rustix::net::sockopt::set_socket_passcred(&b, true).unwrap();
        let (mut pipe, passed) = io::pipe().unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [passed.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let part = [io::IoSlice::new(b"take this")];
        sendmsg(&a, &part, &mut control, SendFlags::empty()).unwrap();
        a.send(b"plain").unwrap();
        drop(passed);
        let mut memory = memory();
        receive(&mut memory, b.as_fd(), &[(HEAD, 64), (HEAD + 64, 64)]).unwrap();
        let all = done(&mut memory, 2);
        assert_eq!(all.iter().map(|one| one.had_descriptors).collect::<Vec<_>>(), [true, false]);
        assert!(all.iter().all(|one| one.sender.is_some()));
        // Nobody has it any more: the pipe ends.
        assert_eq!(io::Read::read(&mut pipe, &mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn what_was_not_sent_is_known() {
        let (a, b) = UnixDatagram::pair().unwrap();
        let mut memory = memory();
        let parts = [(HEAD, 10); MESSAGES];
        let mut sent = 0;
        while let Ok(some) = send(&mut memory, a.as_fd(), &parts) {
            assert_eq!(done(&mut memory, MESSAGES).len(), some);
            sent += some;
        }
        assert!(done(&mut memory, MESSAGES).is_empty());
        b.set_nonblocking(true).unwrap();
        let mut buffer = [0; 64];
        let received = std::iter::from_fn(|| b.recv(&mut buffer).ok()).count();
        assert_eq!(received, sent);
    }
}
