//! A connection to a reader, and what the reader has not taken out of it yet.
//!
//! A reader that is killed takes with it what waits in its socket. So a message counts as taken only
//! when the kernel says that it left the socket's queue (`SIOCOUTQ`), asked while the reader lived.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::SocketKind;
use super::message::Target;

/// The least memory that the kernel counts for a message that waits, besides its bytes: its buffer's
/// descriptions (`struct sk_buff`, `struct skb_shared_info`).
const OVERHEAD: u64 = 512;

/// A reader whose socket holds so many datagrams or more has time to take some before it is sent more:
/// each one that it takes would wake us else.
const MANY: u32 = 64;

/// Where a link is waited for. The keeper has the same socket, so closing would not end that.
#[derive(Debug)]
pub(super) struct Watch {
    epoll: Rc<OwnedFd>,
    data: u64,
}

impl Watch {
    /// Waits for the link `fd`; `data` comes with what is told of it. Each change is told once, and of a
    /// datagram link none until it is asked for: a link that has no room is tried again when there is
    /// news.
    pub(super) fn begin(
        epoll: &Rc<OwnedFd>,
        fd: impl AsFd,
        kind: SocketKind,
        data: u64,
    ) -> io::Result<Self> {
        epoll::add(epoll, fd, EventData::new_u64(data), flags(kind))?;
        Ok(Self { epoll: epoll.clone(), data })
    }
}

fn flags(kind: SocketKind) -> EventFlags {
    let all = EventFlags::OUT | EventFlags::ET;
    if kind == SocketKind::Dgram { all | EventFlags::ONESHOT } else { all }
}

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
    watch: Option<Watch>,
    kind: SocketKind,
    pub(super) target: Target,
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
    /// Something was sent since it was full.
    has_moved: bool,
}

impl Link {
    pub(super) fn new(fd: OwnedFd, kind: SocketKind, target: Target, watch: Option<Watch>) -> Self {
        let room = rustix::net::sockopt::socket_send_buffer_size(&fd).unwrap_or(1 << 20) as u64;
        Self {
            fd,
            watch,
            kind,
            target,
            waiting: VecDeque::new(),
            weight: 0,
            room,
            sent: 0,
            offset: 0,
            ended: false,
            is_used: false,
            has_moved: false,
        }
    }

    /// The socket is full. Returns whether to try again soon: where the reader takes many at once, and
    /// has taken some since this was asked last. Else there will be news.
    pub(super) fn is_full(&mut self) -> bool {
        if self.kind == SocketKind::Dgram && self.target.queue >= MANY && self.has_moved {
            self.has_moved = false;
            return true;
        }
        if let Some(Watch { epoll, data }) = &self.watch
            && self.kind == SocketKind::Dgram
        {
            let _ = epoll::modify(epoll, &self.fd, EventData::new_u64(*data), flags(self.kind));
        }
        false
    }

    /// Notes what was sent.
    pub(super) fn note(&mut self, position: u64, length: usize, messages: u64) {
        let weight = length as u64 + OVERHEAD;
        self.has_moved = true;
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
        self.in_queue() == Some(0)
    }

    /// How much memory in the socket's queue is of this link, by the kernel's count.
    pub(super) fn in_queue(&self) -> Option<u64> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one integer, to `bytes`.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        (done == 0).then_some(bytes)?.try_into().ok()
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
        let queue = self.target.queue as usize + 1;
        let last = self.waiting.back().map_or(0, |one| one.weight);
        let too_many = self.kind == SocketKind::Dgram && self.waiting.len() > queue;
        too_many || self.weight - last > self.room
    }

    /// Of the first `count`, the reader took all but those that `in_queue` bytes can still hold. Returns
    /// how many messages of the server's were taken.
    pub(super) fn take_but(&mut self, count: usize, in_queue: u64) -> u64 {
        let later: u64 = self.waiting.iter().skip(count).map(|one| one.weight).sum();
        let mut messages = 0;
        while self.weight - later > in_queue {
            messages += self.pop();
        }
        messages
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
        if let Some(Watch { epoll, .. }) = &self.watch {
            let _ = epoll::delete(epoll, &self.fd);
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

    fn target(queue: u32) -> Target {
        Target { queue, ..Target::default() }
    }

    #[test]
    fn a_datagram_is_taken_when_it_is_read() {
        let (a, b) = UnixDatagram::pair().unwrap();
        let mut link = Link::new(a.into(), SocketKind::Dgram, target(11), None);
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
        let mut link = Link::new(a.into(), SocketKind::Dgram, target(11), None);
        (0..20).for_each(|position| link.note(position, 1, 1));
        assert_eq!((link.overflow(), link.first(), link.last()), (8, Some(8), Some(19)));
        assert_eq!((link.take_up_to(10), link.waiting()), (3, 9));
        link.note(20, 1 << 24, 1);
        assert_eq!((link.overflow(), link.waiting()), (0, 10));
        link.note(21, 1, 0);
        assert_eq!((link.overflow(), link.waiting()), (10, 1));
    }

    #[test]
    fn what_the_queue_cannot_hold_was_taken() {
        let (a, b) = UnixDatagram::pair().unwrap();
        let mut link = Link::new(a.into(), SocketKind::Dgram, target(11), None);
        for position in 0..10 {
            rustix::net::send(&link, &[0; 200], rustix::net::SendFlags::empty()).unwrap();
            link.note(position, 200, 1);
        }
        (0..7).for_each(|_| assert_eq!(b.recv(&mut [0; 200]).unwrap(), 200));
        let in_queue = link.in_queue().unwrap();
        assert!(in_queue >= 3 * 712, "{in_queue}");
        // Those that come later are none of them.
        link.note(10, 200, 1);
        let taken = link.take_but(10, in_queue);
        assert!((3..=7).contains(&taken), "{taken} of 7");
        assert_eq!(link.take_but(link.waiting(), 0), 11 - taken);
    }

    #[test]
    fn a_full_link_is_tried_again_while_its_reader_reads() {
        let full = |queue| {
            let mut link = Link::new(
                UnixDatagram::unbound().unwrap().into(),
                SocketKind::Dgram,
                target(queue),
                None,
            );
            let before = link.is_full();
            link.note(0, 1, 1);
            (before, link.is_full(), link.is_full())
        };
        assert_eq!(full(512), (false, true, false));
        assert_eq!(full(10), (false, false, false));
    }

    #[test]
    fn a_reader_that_closes_is_seen() {
        let (a, b) = UnixStream::pair().unwrap();
        let link = Link::new(a.into(), SocketKind::Stream, target(11), None);
        assert!(!link.is_closed());
        drop(b);
        assert!(link.is_closed());
    }
}
