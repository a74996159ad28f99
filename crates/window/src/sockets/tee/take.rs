//! Taking messages, from wherever they come, into the rings of readers.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::intake::{Count, Received};
use super::run::Tee;
use crate::sockets::SocketKind;
use crate::sockets::batch::Sender;
use crate::sockets::message::{SourceId, ToKeeper};
use crate::sockets::observe::{AGAIN, Observed, Observer, Taken};
use crate::sockets::relay::{Relay, Turn};

/// How often a connection may say that it has something and have nothing.
const EMPTY_WORDS: u32 = 1000;

/// Where messages come from.
pub(super) enum Origin {
    Socket(OwnedFd),
    Observer(Observer),
    Relay(Relay),
}

/// A socket or a connection.
pub(super) struct Flow {
    pub(super) source: SourceId,
    pub(super) kind: SocketKind,
    pub(super) from: Origin,
    /// Who writes, where that is known for all that comes.
    pub(super) sender: Option<Sender>,
    pub(super) empty_words: u32,
}

impl Tee {
    /// A flow has something. An observer that has woken us does not do so again soon.
    pub(super) fn woken(&mut self, flow: u32) {
        if matches!(self.flows.get(&flow), Some(Flow { from: Origin::Observer(_), .. })) {
            self.looking.insert(flow, Instant::now() + AGAIN);
        }
        self.take(flow);
    }

    /// Takes one batch of a flow.
    pub(super) fn take(&mut self, flow: u32) {
        self.take_batch(flow);
    }

    /// Takes one batch; returns whether there was one.
    pub(super) fn take_batch(&mut self, id: u32) -> bool {
        let Some(flow) = self.flows.get_mut(&id) else { return false };
        match flow.from {
            Origin::Observer(_) => return self.take_observed(id),
            Origin::Relay(_) => return self.take_relayed(id),
            Origin::Socket(_) => {}
        }
        let Origin::Socket(socket) = &flow.from else { return false };
        let received = match self.intake.receive(id, socket.as_fd(), flow.kind) {
            Ok(received) => received,
            Err(error) if is_passing(&error) => {
                flow.empty_words += 1;
                if flow.empty_words > EMPTY_WORDS && flow.kind != SocketKind::Dgram {
                    self.end(id);
                }
                return false;
            }
            Err(_) => {
                if flow.kind != SocketKind::Dgram {
                    self.end(id);
                }
                return false;
            }
        };
        flow.empty_words = 0;
        self.pass_on(id, &received);
        !received.is_empty()
    }

    /// Puts a batch into the rings.
    fn pass_on(&mut self, id: u32, received: &[Received]) {
        let Some(flow) = self.flows.get(&id) else { return self.intake.finish() };
        let (source, kind) = (flow.source, flow.kind);
        let mut has_ended = false;
        for message in received {
            if message.done.length == 0 && is_end(flow) {
                has_ended = true;
                break;
            }
            let sender = flow.sender.or(message.done.sender);
            let bytes = self.intake.bytes(message);
            self.intake.count(source, Count::Received, 1);
            self.intake.count(source, Count::Cut, u64::from(message.done.cut));
            let dropped = message.done.had_descriptors;
            self.intake.count(source, Count::Descriptors, u64::from(dropped));
            for reader in self.readers.values_mut().filter(|reader| reader.source == source) {
                reader.offer(message.number, id, sender, bytes);
            }
        }
        self.intake.finish();
        if has_ended && kind != SocketKind::Dgram {
            self.end(id);
        }
    }

    fn take_relayed(&mut self, id: u32) -> bool {
        let Some(Flow { source, sender, from: Origin::Relay(relay), .. }) = self.flows.get_mut(&id)
        else {
            return false;
        };
        let (source, sender) = (*source, *sender);
        let (intake, readers) = (&self.intake, &mut self.readers);
        let turn = relay.turn(|bytes| {
            intake.count(source, Count::Received, 1);
            let number = intake.number();
            for reader in readers.values_mut().filter(|reader| reader.source == source) {
                reader.offer(number, id, sender, bytes);
            }
        });
        match turn {
            Turn::Waits => false,
            Turn::GoesOn => self.going_on.insert(id),
            Turn::Ended => {
                self.end(id);
                false
            }
        }
    }

    /// Looks at the observers that need not wake us now. One that has had nothing for so long that it
    /// will wake us again is left alone.
    pub(super) fn look(&mut self) {
        for (flow, until) in self.looking.clone() {
            let is_over = until <= Instant::now();
            if !self.take_batch(flow) && is_over {
                self.looking.remove(&flow);
            }
        }
    }

    /// Takes some of what was observed; returns whether there was anything.
    fn take_observed(&mut self, id: u32) -> bool {
        let Some(Flow { source, from: Origin::Observer(observer), .. }) = self.flows.get_mut(&id)
        else {
            return false;
        };
        let (source, intake, readers) = (*source, &self.intake, &mut self.readers);
        let taken = observer.take(|observed| {
            let Observed { bytes, sender, cut, descriptors, missed } = observed;
            intake.count(source, Count::Missed, missed);
            for reader in readers.values_mut().filter(|reader| reader.source == source) {
                reader.missed(missed);
                if let Some(bytes) = bytes {
                    reader.offer(intake.number(), id, Some(sender), bytes);
                }
            }
            if bytes.is_some() {
                intake.count(source, Count::Received, 1);
                intake.count(source, Count::Cut, u64::from(cut));
                intake.count(source, Count::Descriptors, u64::from(descriptors));
            }
        });
        match taken {
            Taken::Nothing => return false,
            Taken::All => {}
            Taken::Some => drop(self.going_on.insert(id)),
        }
        self.looking.insert(id, Instant::now() + AGAIN);
        true
    }

    /// Passes on what a tee before had received and not passed on.
    pub(super) fn finish_batch(&mut self) {
        if let Some((flow, received)) = self.intake.unfinished() {
            self.pass_on(flow, &received);
        }
    }

    /// A writer has closed its connection.
    pub(super) fn end(&mut self, id: u32) {
        let Some(flow) = self.forget(id) else { return };
        for reader in self.readers.values_mut().filter(|reader| reader.source == flow.source) {
            reader.end(self.intake.number(), id);
        }
        self.answer(&ToKeeper::Ended(id));
    }

    /// Closes a flow. The keeper has the same socket, so it has to be said that it is waited for no
    /// more.
    pub(super) fn forget(&mut self, id: u32) -> Option<Flow> {
        let flow = self.flows.remove(&id)?;
        self.looking.remove(&id);
        let _ = match &flow.from {
            Origin::Socket(fd) => epoll::delete(&self.epoll, fd),
            Origin::Observer(observer) => epoll::delete(&self.epoll, observer),
            Origin::Relay(relay) => epoll::delete(&self.epoll, &relay.writer)
                .and(epoll::delete(&self.epoll, &relay.receiver)),
        };
        Some(flow)
    }
}

/// Whether nothing received means that nothing more will come. A sequence of packets may hold empty
/// ones.
fn is_end(flow: &Flow) -> bool {
    let Origin::Socket(socket) = &flow.from else { return false };
    match flow.kind {
        SocketKind::Stream => true,
        SocketKind::Dgram => false,
        SocketKind::Seqpacket => {
            let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
            poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}
