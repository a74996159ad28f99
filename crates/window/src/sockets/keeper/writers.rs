//! Connections of writers: taken, connected to the server's own receiver where there is one, and given to
//! the tee.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{SocketFlags, accept_with, sockopt};

use super::onward::Onward;
use super::serve::{FIRST_FLOW, Keeper, MOST_FLOWS};
use super::state::Flow;
use crate::sockets::batch::Sender;
use crate::sockets::message::{SourceId, ToTee};
use crate::sockets::relay;

/// The most connections to a source's receiver that are being made.
const MOST_ONWARD: usize = 16;

impl Keeper {
    /// Takes connections of writers.
    pub(super) fn accept(&mut self, id: SourceId) {
        let Some(state) = self.sources.get_mut(&id) else { return };
        let Some(listener) = &state.fd else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(connection) = accept_with(listener, flags) else { return };
        let count = self.flows.values().filter(|flow| flow.source == id).count();
        let coming = self.onward.iter().filter(|onward| onward.source == id).count();
        if count + coming >= MOST_FLOWS {
            state.refused += 1;
            return;
        }
        // A byte out of band comes in its place, and holds up nothing.
        let _ = sockopt::set_socket_oobinline(&connection, true);
        let sender = sender(&connection);
        let Some(upstream) = &state.source.upstream else {
            return self.begin_flow(id, sender, vec![connection]);
        };
        // Where it fails the writer sees the end, as from a receiver that closes at once.
        let begun = Onward::begin(id, (sender, connection), upstream, state.source.kind);
        self.onward.extend(begun.ok());
    }

    /// Whether so many connections to a source's receiver are being made that others have to wait.
    pub(super) fn is_crowded(&self, id: SourceId) -> bool {
        let onward = self.onward.iter().filter(|one| one.source == id).count();
        onward + self.ending.iter().filter(|one| one.source == id).count() >= MOST_ONWARD
    }

    /// Takes in the connections to receivers that are made, or cannot be.
    pub(super) fn go_onward(&mut self) {
        self.ending.retain(|process| !process.has_ended());
        for onward in self.onward.extract_if(.., |onward| onward.is_over()).collect::<Vec<_>>() {
            let (source, sender) = (onward.source, onward.sender);
            let (made, process) = onward.end();
            self.ending.push(process);
            let fds = made.ok_or(io::ErrorKind::NotConnected.into()).and_then(with_memory);
            if let Ok(fds) = fds
                && self.sources.contains_key(&source)
            {
                self.begin_flow(source, sender, fds);
            }
        }
    }

    /// Gives up the connections to a source's receiver that are being made.
    pub(super) fn forget_onward(&mut self, id: SourceId) {
        let gone = self.onward.extract_if(.., |onward| onward.source == id);
        self.ending.extend(gone.map(|onward| onward.end().1));
    }

    /// Gives the tee a writer's connection.
    fn begin_flow(&mut self, id: SourceId, sender: Sender, fds: Vec<OwnedFd>) {
        let flow = self.free_flow();
        if let Some(tee) = &mut self.tee {
            tee.unconfirmed += 1;
        }
        let copies: io::Result<Vec<OwnedFd>> = fds.iter().map(OwnedFd::try_clone).collect();
        self.flows.insert(flow, Flow { source: id, sender, fds });
        match copies {
            Ok(copies) => {
                self.tell(&ToTee::Flow(flow, id, sender), &copies.iter().collect::<Vec<_>>());
            }
            Err(_) => self.lose_tee(),
        }
    }

    fn free_flow(&mut self) -> u32 {
        loop {
            let flow = self.next_flow;
            self.next_flow = self.next_flow.checked_add(1).unwrap_or(FIRST_FLOW);
            if !self.flows.contains_key(&flow) {
                return flow;
            }
        }
    }
}

/// What a relay takes.
fn with_memory([connection, onward]: [OwnedFd; 2]) -> io::Result<Vec<OwnedFd>> {
    Ok(vec![connection, onward, relay::create()?, relay::create()?])
}

/// Who has connected, by the kernel's word.
fn sender(connection: &OwnedFd) -> Sender {
    match sockopt::socket_peercred(connection) {
        Ok(peer) => Sender {
            pid: peer.pid.as_raw_pid().cast_unsigned(),
            uid: peer.uid.as_raw(),
            gid: peer.gid.as_raw(),
        },
        Err(_) => Sender { pid: 0, uid: u32::MAX, gid: u32::MAX },
    }
}
