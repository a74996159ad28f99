//! What is answered to each system call: the broker's logic, with the system behind a trait.

use std::collections::BTreeMap;

use libc as l;
use rustix::io::Errno;

use super::address::{self, LinkLayer};
use super::fanout::{Fanout, Groups, is_shared};
use super::{Known, Policy, ring};
use crate::packets::diag::Live;
use crate::packets::guard::Kind;
use crate::packets::netlink::{half, word};

/// What the logic needs of the world: the caller's memory and descriptors, and new sockets.
pub(super) trait Edge {
    /// A socket, ours or a duplicate of the caller's.
    type Socket: Socket;
    /// Copies from the caller's memory.
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), Errno>;
    /// A duplicate of the caller's descriptor.
    fn duplicate(&mut self, fd: i32) -> Result<Self::Socket, Errno>;
    /// A new packet socket from the guard.
    fn create(&mut self, kind: Kind) -> Result<Self::Socket, Errno>;
    /// The packet sockets of the host's network namespace.
    fn live(&mut self) -> Result<Vec<Live>, Errno>;
}

/// What is done with a socket.
pub(super) trait Socket {
    fn domain(&self) -> Result<i32, Errno>;
    fn cookie(&self) -> Result<u64, Errno>;
    fn bind(&self, address: &[u8]) -> Result<(), Errno>;
    /// Sets an option of level SOL_PACKET.
    fn set(&self, option: i32, value: &[u8]) -> Result<(), Errno>;
    /// The id of the fanout group that it has joined.
    fn group(&self) -> Result<u16, Errno>;
    /// Makes calls on it return at once.
    fn set_nonblocking(&self) -> Result<(), Errno>;
}

/// The answer to a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<S> {
    /// The kernel goes on with it.
    Continue,
    /// It has been done, and returns 0.
    Done,
    /// It returns this socket's descriptor.
    Give { socket: S, cloexec: bool },
    /// It names a path, and is to be done as the caller would.
    AsCaller { socket: S, address: Vec<u8>, connect: bool },
}

impl Answers {
    /// The directory whose sockets it may connect to though it is read-only.
    pub(super) fn offered(&self) -> Option<(u64, u64)> {
        self.policy.offered
    }
}

/// What a broker knows of its portspace.
#[derive(Debug, Default)]
pub(super) struct Answers {
    policy: Policy,
    /// Packet sockets by cookie, with the protocol that they were made for (network order).
    sockets: BTreeMap<u64, u16>,
    groups: Groups,
    /// Strangers seen in a fanout group of ours: must stay 0.
    pub(super) violations: u64,
}

impl Answers {
    pub(super) fn new(policy: Policy, known: Known) -> Self {
        let sockets = known.sockets.into_iter().collect();
        let groups = Groups(known.groups.into_iter().collect());
        Self { policy, sockets, groups, violations: 0 }
    }

    /// What a later broker of the same portspace should be told.
    pub(super) fn known(&self) -> Known {
        Known {
            sockets: self.sockets.iter().map(|(cookie, protocol)| (*cookie, *protocol)).collect(),
            groups: self.groups.0.iter().map(|(own, host)| (*own, *host)).collect(),
        }
    }

    /// Whether a socket is of this portspace.
    pub(super) fn is_ours(&self, cookie: u64) -> bool {
        self.sockets.contains_key(&cookie)
    }

    /// Decides on one call, and does it where it is to be done here.
    pub(super) fn answer<E: Edge>(
        &mut self,
        edge: &mut E,
        call: i64,
        args: &[u64; 6],
    ) -> Result<Answer<E::Socket>, Errno> {
        match call {
            l::SYS_socket => self.socket(edge, int(args[0]), int(args[1]), int(args[2])),
            l::SYS_bind => self.bind(edge, args),
            l::SYS_connect => self.connect(edge, args),
            l::SYS_setsockopt if int(args[1]) == l::SOL_PACKET => {
                let socket = edge.duplicate(int(args[0]))?;
                self.adopt(&socket)?;
                self.option(edge, &socket, args).map(|()| Answer::Done)
            }
            _ => Err(Errno::PERM),
        }
    }

    fn socket<E: Edge>(
        &mut self,
        edge: &mut E,
        domain: i32,
        kind: i32,
        protocol: i32,
    ) -> Result<Answer<E::Socket>, Errno> {
        let (flags, kind) = (kind & !0xf, kind & 0xf);
        if domain != l::AF_PACKET || flags & !(l::SOCK_CLOEXEC | l::SOCK_NONBLOCK) != 0 {
            return Err(Errno::INVAL);
        }
        let kind = match kind {
            l::SOCK_RAW => Kind::Raw,
            l::SOCK_DGRAM => Kind::Dgram,
            _ => return Err(Errno::PERM),
        };
        if !self.policy.any && self.policy.interfaces.is_empty() {
            return Err(Errno::PERM);
        }
        self.make_room(edge)?;
        let socket = edge.create(kind)?;
        // The kernel uses the low half alone.
        let protocol = u16::try_from(protocol & 0xffff).map_err(|_| Errno::INVAL)?;
        self.sockets.insert(socket.cookie()?, protocol);
        if self.policy.any && protocol != 0 {
            // As on the host: a socket with a protocol receives from every interface at once.
            socket.bind(&LinkLayer { protocol, interface: 0 }.encode())?;
        }
        if flags & l::SOCK_NONBLOCK != 0 {
            socket.set_nonblocking()?;
        }
        Ok(Answer::Give { socket, cloexec: flags & l::SOCK_CLOEXEC != 0 })
    }

    /// Forgets sockets that are gone, when there are many.
    fn make_room<E: Edge>(&mut self, edge: &mut E) -> Result<(), Errno> {
        if self.sockets.len() < self.policy.socket_limit {
            return Ok(());
        }
        let live = edge.live()?;
        self.sockets.retain(|cookie, _| live.iter().any(|socket| socket.cookie == *cookie));
        if self.sockets.len() < self.policy.socket_limit { Ok(()) } else { Err(Errno::MFILE) }
    }

    /// Makes sure of a packet socket, and counts it as ours: a portspace has no other way to one.
    /// It may be from before this broker's time. Returns its cookie.
    fn adopt(&mut self, socket: &impl Socket) -> Result<u64, Errno> {
        if socket.domain()? != l::AF_PACKET {
            return Err(Errno::NOPROTOOPT);
        }
        let cookie = socket.cookie()?;
        self.sockets.entry(cookie).or_default();
        Ok(cookie)
    }

    fn bind<E: Edge>(&mut self, edge: &mut E, args: &[u64; 6]) -> Result<Answer<E::Socket>, Errno> {
        let mut address = vec![0; address::length(args[2])?];
        let socket = edge.duplicate(int(args[0]))?;
        edge.read(args[1], &mut address)?;
        match socket.domain()? {
            l::AF_PACKET => self.bind_packet(&socket, &address)?,
            l::AF_UNIX if address::path(&address).is_some() => {
                return Ok(Answer::AsCaller { socket, address, connect: false });
            }
            // Names that mean the same to whoever gives them to the socket.
            l::AF_UNIX | l::AF_INET | l::AF_INET6 | l::AF_NETLINK => socket.bind(&address)?,
            _ => return Err(Errno::PERM),
        }
        Ok(Answer::Done)
    }

    fn bind_packet(&mut self, socket: &impl Socket, address: &[u8]) -> Result<(), Errno> {
        let mut address = LinkLayer::decode(address)?;
        if !self.may_watch(address.interface) {
            return Err(Errno::PERM);
        }
        let cookie = self.adopt(socket)?;
        if address.protocol == 0 {
            address.protocol = self.sockets.get(&cookie).copied().unwrap_or_default();
        }
        socket.bind(&address.encode())
    }

    fn may_watch(&self, interface: u32) -> bool {
        self.policy.any || self.policy.interfaces.iter().any(|(_, index)| *index == interface)
    }

    fn connect<E: Edge>(
        &mut self,
        edge: &mut E,
        args: &[u64; 6],
    ) -> Result<Answer<E::Socket>, Errno> {
        let mut address = vec![0; address::length(args[2])?];
        let socket = edge.duplicate(int(args[0]))?;
        // Going on is safe whatever the caller changes meanwhile: the Unix guard in the kernel
        // refuses every path that does not come from here.
        if socket.domain()? != l::AF_UNIX {
            return Ok(Answer::Continue);
        }
        edge.read(args[1], &mut address)?;
        if address::family(&address) != Some(l::AF_UNIX) || address::path(&address).is_none() {
            return Ok(Answer::Continue);
        }
        Ok(Answer::AsCaller { socket, address, connect: true })
    }

    fn option<E: Edge>(
        &mut self,
        edge: &mut E,
        socket: &E::Socket,
        args: &[u64; 6],
    ) -> Result<(), Errno> {
        match int(args[2]) {
            l::PACKET_FANOUT => self.fanout(edge, socket, args[3], int(args[4])),
            l::PACKET_RX_RING => self.ring(edge, socket, args[3], args[4]),
            name @ (l::PACKET_ADD_MEMBERSHIP | l::PACKET_DROP_MEMBERSHIP) => {
                self.membership(edge, socket, name, args)
            }
            _ => Err(Errno::PERM),
        }
    }

    fn fanout<E: Edge>(
        &mut self,
        edge: &mut E,
        socket: &E::Socket,
        address: u64,
        length: i32,
    ) -> Result<(), Errno> {
        if length != 4 && length != 8 {
            return Err(Errno::INVAL);
        }
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..if length == 4 { 4 } else { 8 }];
        edge.read(address, bytes)?;
        let asked = Fanout::decode(bytes)?;
        let live = edge.live()?;
        self.bind_unbound(socket, &live)?;
        let wanted = self.groups.translate(asked, &live, |cookie| self.is_ours(cookie));
        socket.set(l::PACKET_FANOUT, &wanted.encode())?;
        let host = socket.group()?;
        self.groups.remember(asked, host);
        // The last member could have closed, and a stranger taken the id, since it was looked up.
        if is_shared(host, &edge.live()?, |cookie| self.is_ours(cookie)) {
            self.violations += 1;
        }
        Ok(())
    }

    /// On the host a socket with a protocol receives before it is bound, from everywhere, and may
    /// join a group so: Suricata tries on such a one whether the kernel has groups at all. Here it
    /// gets the first watched interface.
    fn bind_unbound(&self, socket: &impl Socket, live: &[Live]) -> Result<(), Errno> {
        let cookie = socket.cookie()?;
        let unbound = live.iter().any(|live| live.cookie == cookie && live.interface == 0);
        let protocol = self.sockets.get(&cookie).copied().unwrap_or_default();
        match self.policy.interfaces.first() {
            Some((_, interface)) if unbound && protocol != 0 && !self.policy.any => {
                socket.bind(&LinkLayer { protocol, interface: *interface }.encode())
            }
            _ => Ok(()),
        }
    }

    fn ring<E: Edge>(
        &mut self,
        edge: &mut E,
        socket: &E::Socket,
        address: u64,
        length: u64,
    ) -> Result<(), Errno> {
        let mut request = vec![0; ring::length(length)?];
        edge.read(address, &mut request)?;
        let wanted = ring::wanted(&request)?;
        if wanted > 0 {
            let (cookie, limit) = (socket.cookie()?, self.policy.ring_limit);
            if !ring::fits(wanted, cookie, limit, &edge.live()?, |cookie| self.is_ours(cookie)) {
                return Err(Errno::NOMEM);
            }
        }
        socket.set(l::PACKET_RX_RING, &request)
    }

    /// Promiscuous mode and all multicast, of watched interfaces. Anything with an address is
    /// refused: each would take kernel memory that is charged to nobody.
    fn membership<E: Edge>(
        &self,
        edge: &mut E,
        socket: &E::Socket,
        name: i32,
        args: &[u64; 6],
    ) -> Result<(), Errno> {
        // struct packet_mreq: interface, type, length of the address, address.
        let mut request = [0; 16];
        if int(args[4]) < 16 {
            return Err(Errno::INVAL);
        }
        edge.read(args[3], &mut request)?;
        let interface = word(&request, 0).ok_or(Errno::INVAL)?;
        let kind = half(&request, 4).map(i32::from).ok_or(Errno::INVAL)?;
        let allowed = matches!(kind, l::PACKET_MR_PROMISC | l::PACKET_MR_ALLMULTI);
        if !allowed || !self.may_watch(interface) {
            return Err(Errno::PERM);
        }
        request[6..].fill(0);
        socket.set(name, &request)
    }
}

/// An argument that the kernel takes as an int.
fn int(argument: u64) -> i32 {
    u32::try_from(argument & 0xffff_ffff).unwrap_or_default().cast_signed()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
