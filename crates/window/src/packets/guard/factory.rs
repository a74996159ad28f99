//! Making sockets, and answering requests.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use hyperspector_sys::channel::Channel;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::egress::Egress;
use super::transmit::Program;
use super::{Kind, Reply, Request, Shared, Status, lock};
use crate::packets::{MARK, option};

/// How many connections are served at once.
const CONNECTIONS: usize = 256;

/// How long half a request may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Serves the listening socket.
#[derive(Debug)]
pub(super) struct Factory {
    listener: UnixListener,
    clients: Vec<Channel>,
    shared: Shared,
    program: Program,
    egress: Option<Egress>,
}

impl Factory {
    pub(super) fn new(
        listener: UnixListener,
        shared: Shared,
        program: Program,
        egress: Option<Egress>,
    ) -> Self {
        Self { listener, clients: Vec::new(), shared, program, egress }
    }

    /// Serves for ever.
    pub(super) fn serve(mut self) {
        loop {
            if let Err(error) = self.step() {
                eprintln!("guard: serve requests: {error}");
                std::thread::sleep(PATIENCE);
            }
        }
    }

    fn step(&mut self) -> io::Result<()> {
        let (new, ready) = self.wait()?;
        // From the end, so that removing one moves none that is still to be looked at.
        for at in ready.into_iter().rev() {
            if self.answer(&self.clients[at]).is_none() {
                self.clients.swap_remove(at);
            }
        }
        if new {
            let (stream, _) = self.listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            if self.clients.len() < CONNECTIONS {
                self.clients.push(Channel::new(stream));
            }
        }
        Ok(())
    }

    /// Whether somebody connects, and which connections have something to say.
    fn wait(&self) -> io::Result<(bool, Vec<usize>)> {
        let listener = PollFd::new(&self.listener, PollFlags::IN);
        let clients = self.clients.iter().map(|client| PollFd::new(client, PollFlags::IN));
        let mut fds: Vec<_> = std::iter::once(listener).chain(clients).collect();
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok((false, Vec::new())),
            Err(error) => return Err(error.into()),
        }
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let clients = fds[1..].iter().enumerate().filter(|(_, fd)| ready(fd)).map(|(at, _)| at);
        Ok((ready(&fds[0]), clients.collect()))
    }

    /// Answers one request; `None` ends the connection.
    fn answer(&self, client: &Channel) -> Option<()> {
        let (request, _) = client.receive::<Request>().ok()??;
        match request {
            Request::Status => client.send(&Reply::Status(self.status()), &[]).ok(),
            Request::Open { kind } => match self.open(kind) {
                Ok(socket) => client.send(&Reply::Opened, &[socket.as_fd()]).ok(),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    client.send(&Reply::Refused(errno), &[]).ok()
                }
            },
        }
    }

    fn status(&self) -> Status {
        let mut status = lock(&self.shared).clone();
        // A packet is dropped at one of the two, and counted there.
        let at_once = self.egress.as_ref().and_then(|egress| egress.dropped().ok());
        status.dropped = self.program.dropped().unwrap_or_default() + at_once.unwrap_or_default();
        status
    }

    /// Makes a packet socket that carries the mark and receives nothing until it is bound.
    fn open(&self, kind: Kind) -> io::Result<OwnedFd> {
        if !lock(&self.shared).unguarded.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ENETDOWN));
        }
        let kind = match kind {
            Kind::Raw => SocketType::RAW,
            Kind::Dgram => SocketType::DGRAM,
        };
        let socket = socket_with(AddressFamily::PACKET, kind, SocketFlags::CLOEXEC, None)?;
        option::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, &MARK.to_ne_bytes())?;
        lock(&self.shared).sockets += 1;
        Ok(socket)
    }
}
