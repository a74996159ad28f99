//! A connection to a reader, and what the reader has not taken out of it yet.
//!
//! A reader that is killed takes with it what waits in its socket. So a message counts as taken only
//! when the kernel says that it left the socket's queue (`SIOCOUTQ`), asked while the reader lived.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::SocketKind;

/// The least memory that the kernel counts for a message that waits, besides its bytes: its buffer's
/// descriptions (`struct sk_buff`, `struct skb_shared_info`).
const OVERHEAD: u64 = 512;

/// What of a ring was sent on a link and may wait in the reader's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    /// Its position in the ring.
    position: u64,
    weight: u64,
    /// 1 for a message of the server's, 0 for a line of ours.
    messages: u64,
}

/// A connection to a reader.
#[derive(Debug)]
pub(super) struct Link {
    fd: OwnedFd,
    /// Where it is waited for. The keeper has the same socket, so closing would not end that.
    epoll: Option<Rc<OwnedFd>>,
    kind: SocketKind,
    /// How many datagrams the reader's socket holds.
    pub(super) queue: u32,
    waiting: VecDeque<Waiting>,
    weight: u64,
    /// How much memory may wait in it, by the kernel's count.
    room: u64,
    /// The position after the last record that went whole.
    pub(super) sent: u64,
    /// How much of the record there went.
    pub(super) offset: usize,
    /// The writer has closed its connection, and this one is closed when the reader has taken all.
    pub(super) ended: bool,
    /// The reader has taken something out of it.
    pub(super) is_used: bool,
}

impl Link {
    pub(super) fn new(
        fd: OwnedFd,
        kind: SocketKind,
        queue: u32,
        epoll: Option<Rc<OwnedFd>>,
    ) -> Self {
        let room = rustix::net::sockopt::socket_send_buffer_size(&fd).unwrap_or(1 << 20) as u64;
        Self {
            fd,
            epoll,
            kind,
            queue,
            waiting: VecDeque::new(),
            weight: 0,
            room,
            sent: 0,
            offset: 0,
            ended: false,
            is_used: false,
        }
    }

    /// Notes what was sent.
    pub(super) fn note(&mut self, position: u64, length: usize, messages: u64) {
        let weight = length as u64 + OVERHEAD;
        self.waiting.push_back(Waiting { position, weight, messages });
        self.weight += weight;
    }

    /// Whether something may wait in it.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How many are noted.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The position of the first that may wait.
    pub(super) fn first(&self) -> Option<u64> {
        self.waiting.front().map(|one| one.position)
    }

    /// The position of the last that may wait.
    pub(super) fn last(&self) -> Option<u64> {
        self.waiting.back().map(|one| one.position)
    }

    /// Whether the reader has closed its end when it had taken all that was in it. When something was
    /// left the kernel says ECONNRESET (`unix_release_sock`), which poll(2) shows and does not use up.
    pub(super) fn is_read_out(&self) -> bool {
        if self.kind != SocketKind::Stream || !self.is_closed() {
            return false;
        }
        // Waits, for the socket's lock, until the closing is done.
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
        let mut fds = [PollFd::new(&self.fd, PollFlags::empty())];
        let is_known = poll(&mut fds, Some(&Timespec::default())).is_ok();
        is_known && !fds[0].revents().contains(PollFlags::ERR)
    }

    /// Whether the socket's queue holds nothing of this link.
    pub(super) fn is_empty(&self) -> bool {
        let mut bytes: libc::c_int = 0;
        // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one integer, to `bytes`.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        done == 0 && bytes == 0
    }

    /// Whether the reader has closed its end; never so for datagrams, where only sending tells.
    pub(super) fn is_closed(&self) -> bool {
        let now = Timespec::default();
        let mut fds = [PollFd::new(&self.fd, PollFlags::empty())];
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// The reader took all but what can still wait: before the last one not more than the socket's
    /// buffer, and of datagrams as many as its queue holds, and one. Returns how many messages of the
    /// server's were taken.
    pub(super) fn overflow(&mut self) -> u64 {
        let mut messages = 0;
        while self.holds_too_much() {
            messages += self.pop();
        }
        messages
    }

    fn holds_too_much(&self) -> bool {
        let queue = self.queue as usize + 1;
        let last = self.waiting.back().map_or(0, |one| one.weight);
        let too_many = self.kind == SocketKind::Dgram && self.waiting.len() > queue;
        too_many || self.weight - last > self.room
    }

    /// The reader took the first `count`. Returns how many messages of the server's that were.
    pub(super) fn take(&mut self, count: usize) -> u64 {
        (0..count).map(|_| self.pop()).sum()
    }

    /// The reader took what comes no later than `position`.
    pub(super) fn take_up_to(&mut self, position: u64) -> u64 {
        let count = self.waiting.iter().take_while(|one| one.position <= position).count();
        self.take(count)
    }

    fn pop(&mut self) -> u64 {
        let Some(one) = self.waiting.pop_front() else { return 0 };
        self.weight -= one.weight;
        self.is_used = true;
        one.messages
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(epoll) = &self.epoll {
            let _ = rustix::event::epoll::delete(epoll, &self.fd);
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn a_datagram_is_taken_when_it_is_read() {
        let (a, b) = UnixDatagram::pair().unwrap();
        let mut link = Link::new(a.into(), SocketKind::Dgram, 11, None);
        assert!(link.is_empty() && !link.is_waiting());
        rustix::net::send(&link, b"x", rustix::net::SendFlags::empty()).unwrap();
        link.note(0, 1, 1);
        assert!(!link.is_empty());
        b.recv(&mut [0; 8]).unwrap();
        assert!(link.is_empty());
        assert_eq!((link.take(1), link.is_waiting()), (1, false));
    }

    #[test]
    fn only_what_can_still_wait_is_kept() {
        let (a, _b) = UnixDatagram::pair().unwrap();
        let mut link = Link::new(a.into(), SocketKind::Dgram, 11, None);
        (0..20).for_each(|position| link.note(position, 1, 1));
        assert_eq!((link.overflow(), link.first(), link.last()), (8, Some(8), Some(19)));
        assert_eq!((link.take_up_to(10), link.waiting()), (3, 9));
        link.note(20, 1 << 24, 1);
        assert_eq!((link.overflow(), link.waiting()), (0, 10));
        link.note(21, 1, 0);
        assert_eq!((link.overflow(), link.waiting()), (10, 1));
    }

    #[test]
    fn a_reader_that_closes_is_seen() {
        let (a, b) = UnixStream::pair().unwrap();
        let link = Link::new(a.into(), SocketKind::Stream, 11, None);
        assert!(!link.is_closed());
        drop(b);
        assert!(link.is_closed());
    }
}
