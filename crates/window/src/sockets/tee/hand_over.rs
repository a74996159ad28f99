//! Giving everything to another keeper, when the own one has died: the same messages that a keeper
//! begins a tee with.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use hyperspector_sys::channel::Channel;

use super::run::{PATIENCE, Tee};
use super::take::Origin;
use crate::sockets::link::Link;
use crate::sockets::message::{ReaderId, SourceId, ToKeeper, ToTee};

impl Tee {
    /// Gives everything to another keeper. Returns whether it has taken it.
    pub(super) fn hand_over(&mut self) -> io::Result<bool> {
        let (stream, _) = self.successor.accept()?;
        let channel = Channel::new(stream);
        channel.stream().set_write_timeout(Some(PATIENCE))?;
        let (uid, gid) = self.ids;
        say(&channel, &ToTee::Start { uid, gid }, &[&self.memory])?;
        for (id, (source, listener)) in &self.sources {
            let flow = self.flows.get(&u32::from(*id)).map(|flow| &flow.from);
            let fd = match flow {
                Some(Origin::Socket(fd)) => Some(fd),
                Some(Origin::Observer(observer)) => Some(observer.map()),
                Some(Origin::Relay(_)) | None => listener.as_ref(),
            };
            say(&channel, &ToTee::Source(*id, source.clone()), fd.as_slice())?;
        }
        for (id, reader) in &self.readers {
            let message = ToTee::Reader(*id, reader.source, reader.setup.clone());
            say(&channel, &message, &[&reader.memory])?;
        }
        for (id, flow) in self.flows.iter().filter(|(id, _)| **id > u32::from(SourceId::MAX)) {
            let Some(sender) = flow.sender else { continue };
            let message = ToTee::Flow(*id, flow.source, sender);
            match &flow.from {
                Origin::Socket(fd) => say(&channel, &message, &[fd])?,
                Origin::Relay(relay) => say(&channel, &message, &relay.descriptors())?,
                Origin::Observer(_) => {}
            }
        }
        for (id, reader) in &self.readers {
            for (flow, link) in reader.links() {
                hand_over_link(&channel, *id, flow, link)?;
            }
        }
        say(&channel, &ToTee::Go, &[])?;
        Ok(matches!(channel.receive_within::<ToKeeper>(PATIENCE)?, Some((ToKeeper::Ready, _))))
    }
}

fn hand_over_link(channel: &Channel, reader: ReaderId, flow: u32, link: &Link) -> io::Result<()> {
    channel.send(&ToTee::Link(reader, flow, link.target), &[link.as_fd()])
}

fn say(channel: &Channel, message: &ToTee, fds: &[&OwnedFd]) -> io::Result<()> {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    channel.send(message, &fds)
}
