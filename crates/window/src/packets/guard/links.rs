//! Which interfaces there are, and that each is guarded.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use super::transmit::{Attached, How, Program, forget};
use super::{Shared, lock};
use crate::packets::netlink::{Message, Socket, attributes, word};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
/// `RTMGRP_LINK`.
const LINK_GROUP: u32 = 1;

/// How soon an interface that could not be guarded is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The interfaces and what guards them.
#[derive(Debug)]
pub(super) struct Links {
    events: Socket,
    asking: Socket,
    program: Program,
    how: How,
    guarded: BTreeMap<u32, (String, Attached)>,
    failed: BTreeMap<u32, (String, io::Error)>,
    shared: Shared,
}

/// What the kernel told.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Here(u32, String),
    Gone(u32),
}

impl Links {
    /// Starts listening; nothing is attached yet.
    pub(super) fn open(program: Program, shared: Shared, force_clsact: bool) -> io::Result<Self> {
        let events = Socket::open(None, LINK_GROUP)?;
        // Room for bursts; rescanning takes care of what does not fit.
        let _ = sockopt::set_socket_recv_buffer_size(&events, 1 << 20);
        let asking = Socket::open(None, 0)?;
        let how = if force_clsact || !program.has_tcx()? { How::Clsact } else { How::Tcx };
        lock(&shared).how = how;
        let (guarded, failed) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { events, asking, program, how, guarded, failed, shared })
    }

    /// Guards every interface that there is, and tries those that already are: an index may stand
    /// for another interface by now.
    pub(super) fn rescan(&mut self) -> io::Result<()> {
        let mut here = BTreeMap::new();
        let request = [0; 16];
        self.asking.dump(RTM_GETLINK, &request, |message| {
            if let Some(Event::Here(index, name)) = decode(message) {
                here.insert(index, name);
            }
        })?;
        let gone: Vec<_> = self.guarded.keys().chain(self.failed.keys()).copied().collect();
        for index in gone.into_iter().filter(|index| !here.contains_key(index)) {
            self.drop_link(index);
        }
        for (index, name) in here {
            self.guard(index, name);
        }
        self.publish();
        Ok(())
    }

    /// Follows the kernel's messages for ever.
    pub(super) fn follow(&mut self) -> io::Error {
        loop {
            if let Err(error) = self.step() {
                return error;
            }
        }
    }

    fn step(&mut self) -> io::Result<()> {
        self.wait()?;
        let mut events = Vec::new();
        match self.events.arrived(|message| events.extend(decode(message))) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                lock(&self.shared).rescans += 1;
                return self.rescan();
            }
            Err(error) => return Err(error),
        }
        let mut changed = self.retry();
        for event in events {
            changed |= self.handle(event);
        }
        if changed {
            self.publish();
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let timeout = (!self.failed.is_empty()).then(|| Timespec::try_from(RETRY)).transpose();
        let timeout = timeout.map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.events, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns whether anything changed.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Here(index, name) => match self.guarded.get_mut(&index) {
                Some((known, _)) if *known == name => return false,
                Some((known, _)) => *known = name,
                None => self.guard(index, name),
            },
            // After lost messages this may be old news of an index that is in use again, so it is
            // tried before it is let go.
            Event::Gone(index) => {
                let name = self.guarded.get(&index).map_or(String::new(), |(name, _)| name.clone());
                self.guard(index, name);
            }
        }
        true
    }

    /// Attaches the program; what was attached before is let go only then.
    fn guard(&mut self, index: u32, name: String) {
        match self.program.attach(self.how, index) {
            Ok(attached) => {
                self.failed.remove(&index);
                self.guarded.insert(index, (name, attached));
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {
                self.drop_link(index);
            }
            // The kernel takes a program once for each interface: it is there.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.failed.remove(&index);
                self.guarded.entry(index).and_modify(|(known, _)| *known = name);
            }
            Err(error) => {
                eprintln!("guard: attach the transmit guard to {name}: {error}");
                self.failed.insert(index, (name, error));
            }
        }
    }

    fn drop_link(&mut self, index: u32) {
        self.guarded.remove(&index);
        self.failed.remove(&index);
        if let Err(error) = forget(index) {
            eprintln!("guard: remove the pin of interface {index}: {error}");
        }
    }

    fn retry(&mut self) -> bool {
        let failed: Vec<_> =
            self.failed.iter().map(|(index, (name, _))| (*index, name.clone())).collect();
        failed.iter().for_each(|(index, name)| self.guard(*index, name.clone()));
        !failed.is_empty()
    }

    fn publish(&self) {
        let mut shared = lock(&self.shared);
        shared.guarded = self.guarded.iter().map(|(i, (name, _))| (*i, name.clone())).collect();
        shared.unguarded =
            self.failed.iter().map(|(i, (name, error))| (*i, format!("{name}: {error}"))).collect();
    }
}

/// Reads a link message (rtnetlink(7)).
fn decode(message: &Message<'_>) -> Option<Event> {
    // Bridges tell of their ports in messages of their own family: not an interface's end.
    if *message.body.first()? != 0 {
        return None;
    }
    let index = word(message.body, 4)?;
    match message.kind {
        RTM_DELLINK => Some(Event::Gone(index)),
        RTM_NEWLINK => {
            let name = attributes(message.body.get(16..)?)
                .find(|(kind, _)| *kind == IFLA_IFNAME)
                .map(|(_, value)| value.split(|byte| *byte == 0).next().unwrap_or_default());
            let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
            Some(Event::Here(index, name))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(family: u8) -> Vec<u8> {
        let mut body = vec![family, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        body.extend_from_slice(&[9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0]);
        body
    }

    #[test]
    fn a_link_is_read_with_its_name() {
        let event = decode(&Message { kind: RTM_NEWLINK, body: &body(0) });
        assert_eq!(event, Some(Event::Here(7, "eth0".into())));
        let event = decode(&Message { kind: RTM_DELLINK, body: &body(0) });
        assert_eq!(event, Some(Event::Gone(7)));
    }

    #[test]
    fn a_port_that_leaves_a_bridge_is_not_gone() {
        assert_eq!(decode(&Message { kind: RTM_DELLINK, body: &body(7) }), None);
    }

    #[test]
    fn an_unknown_or_cut_attribute_hides_no_interface() {
        let mut cut = body(0);
        cut.truncate(20);
        let event = decode(&Message { kind: RTM_NEWLINK, body: &cut });
        assert_eq!(event, Some(Event::Here(7, String::new())));
    }
}
