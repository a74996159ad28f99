//! Generic netlink, one request at a time.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_packet_wireguard::{WireguardAttribute, WireguardCmd, WireguardMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use zeroize::{Zeroize, Zeroizing};

use super::message::Device;

/// How long the kernel may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest datagram that is read, in bytes; the kernel's dumps come in at most 32 KiB.
const MAX_DATAGRAM: usize = 256 << 10;

/// A generic netlink socket that knows the WireGuard family's number.
pub struct Generic {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl Generic {
    /// Connects in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // SAFETY: `socket` owns the descriptor and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        set_socket_timeout(fd, Timeout::Recv, Some(PATIENCE))?;
        let mut generic = Self { socket, family: 0, sequence: 0 };
        generic.family = generic.resolve()?;
        Ok(generic)
    }

    /// Changes a device.
    pub fn set(&mut self, mut request: WireguardMessage) -> io::Result<()> {
        let done = self.request(&mut request, NLM_F_ACK, |_: WireguardMessage| ());
        wipe(&mut request);
        done
    }

    /// Reads a device.
    pub fn get(&mut self, name: &str) -> io::Result<Device> {
        let attributes = vec![WireguardAttribute::IfName(name.to_owned())];
        let mut request = WireguardMessage { cmd: WireguardCmd::GetDevice, attributes };
        let mut device = Device::default();
        self.request(&mut request, NLM_F_DUMP, |mut part: WireguardMessage| {
            // The kernel sends the private key along.
            wipe(&mut part);
            device.add(part);
        })?;
        Ok(device)
    }

    /// The number of the WireGuard family.
    fn resolve(&mut self) -> io::Result<u16> {
        let name = GenlCtrlAttrs::FamilyName(WireguardMessage::family_name().to_owned());
        let mut request = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] };
        let mut found = None;
        self.request(&mut request, NLM_F_ACK, |answer: GenlCtrl| {
            found = answer.nlas.iter().find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(id) => Some(*id),
                _ => None,
            });
        })?;
        found.ok_or_else(|| io::Error::other("the kernel did not tell the family's number"))
    }

    /// Sends one request and goes through the answers until the last.
    fn request<F>(&mut self, request: &mut F, flags: u16, mut take: impl FnMut(F)) -> io::Result<()>
    where
        F: GenlFamily + Emitable + Clone + Debug + ParseableParametrized<[u8], GenlHeader>,
    {
        let sequence = self.send(request, flags)?;
        let mut buffer = Zeroizing::new(Vec::with_capacity(MAX_DATAGRAM));
        loop {
            buffer.clear();
            let sender = match self.socket.recv_from(&mut &mut *buffer, 0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?.1,
            };
            if sender.port_number() == 0 && read_datagram(&buffer, sequence, &mut take)? {
                return Ok(());
            }
        }
    }

    fn send<F>(&mut self, request: &F, flags: u16) -> io::Result<u32>
    where
        F: GenlFamily + Emitable + Clone + Debug,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = GenlMessage::from_payload(request.clone());
        message.set_resolved_family_id(self.family);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = Zeroizing::new(vec![0; message.buffer_len()]);
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(self.sequence)
    }
}

/// Goes through one datagram; true where it ended the answer.
fn read_datagram<F>(mut bytes: &[u8], sequence: u32, take: &mut impl FnMut(F)) -> io::Result<bool>
where
    F: GenlFamily + Debug + ParseableParametrized<[u8], GenlHeader>,
{
    while !bytes.is_empty() {
        let message = NetlinkMessage::<GenlMessage<F>>::deserialize(bytes)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
        if message.header.sequence_number != sequence {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer out of order"));
        }
        let length = (message.header.length as usize).next_multiple_of(4);
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => take(inner.into_parts().1),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            // An error without a number is an acknowledgement.
            NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(true),
            _ => {}
        }
        bytes = bytes.get(length..).unwrap_or(&[]);
    }
    Ok(false)
}

/// Wipes a private key in a message.
fn wipe(message: &mut WireguardMessage) {
    for attribute in &mut message.attributes {
        if let WireguardAttribute::PrivateKey(key) = attribute {
            key.zeroize();
        }
    }
}
