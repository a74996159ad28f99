//! The socket: requests out, answers in, nothing taken on trust (netlink(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer, NetlinkMessage, NlaBuffer,
    NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::{Cause, Error};
use crate::netns;

/// How long the kernel may take. Deleting links waits for other processors, so not too short.
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest datagram that is read, in bytes; the kernel's dumps come in at most 32 KiB.
const MAX_DATAGRAM: usize = 256 << 10;

/// The most objects in one dump; more is an error and not a partial list.
const MAX_OBJECTS: usize = 1 << 20;

/// How often a dump is repeated when things changed while it was made.
const MAX_DUMPS: u32 = 8;

/// The attribute of an extended acknowledgement that holds text (include/uapi/linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// What gets the type and the body of each message of an answer.
type Take<'a> = dyn FnMut(u16, &[u8]) -> Result<(), Cause> + 'a;

/// A routing netlink socket in one network namespace.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to the network namespace of the calling thread.
    pub fn open() -> Result<Self, Error> {
        Self::connect().map_err(|e| Error::new("open", "routing netlink", e.into()))
    }

    /// Connects to another network namespace; the caller's own stays as it is.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self, Error> {
        netns::within(namespace, Self::open)
            .map_err(|e| Error::new("enter", "network namespace", e.into()))?
    }

    fn connect() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // Without strict checks (Linux 4.20) a dump ignores the filters in its request.
        socket.set_netlink_get_strict_chk(true)?;
        // SAFETY: `socket` owns the descriptor and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        set_socket_timeout(fd, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::new() })
    }

    /// Sends a request that changes something and waits for the acknowledgement.
    pub(super) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Cause> {
        let sequence = self.send(message, NLM_F_ACK | flags)?;
        match self.receive(sequence, &mut |_, _| Err(Cause::Answer("data instead of an ack")))? {
            Progress::Finished => Ok(()),
            _ => Err(Cause::Answer("no acknowledgement")),
        }
    }

    /// Asks for one object and returns its body.
    pub(super) fn get(
        &mut self,
        message: RouteNetlinkMessage,
        wanted: u16,
    ) -> Result<Vec<u8>, Cause> {
        let sequence = self.send(message, NLM_F_ACK)?;
        let mut found = None;
        let mut take = |kind, body: &[u8]| match found.replace(body.to_vec()) {
            None if kind == wanted => Ok(()),
            _ => Err(Cause::Answer("not the one object asked for")),
        };
        while let Progress::More = self.receive(sequence, &mut take)? {}
        found.ok_or(Cause::Answer("nothing but an acknowledgement"))
    }

    /// Lists objects: what `take` makes of each body. Starts afresh when things changed meanwhile.
    pub(super) fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        wanted: u16,
        take: impl Fn(&[u8]) -> Result<Option<T>, Cause>,
    ) -> Result<Vec<T>, Cause> {
        for _ in 0..MAX_DUMPS {
            let sequence = self.send(message.clone(), NLM_F_DUMP)?;
            if let Some(objects) = self.collect(sequence, wanted, &take)? {
                return Ok(objects);
            }
        }
        Err(Cause::Answer("the list kept changing while it was read"))
    }

    /// Reads one dump to its end; `None` where it was interrupted by a change.
    fn collect<T>(
        &mut self,
        sequence: u32,
        wanted: u16,
        take: impl Fn(&[u8]) -> Result<Option<T>, Cause>,
    ) -> Result<Option<Vec<T>>, Cause> {
        let mut objects = Vec::new();
        let mut interrupted = false;
        loop {
            let mut add = |kind: u16, body: &[u8]| {
                if kind != wanted || objects.len() >= MAX_OBJECTS {
                    return Err(Cause::Answer("objects of another kind, or too many"));
                }
                objects.extend(take(body)?);
                Ok(())
            };
            match self.receive(sequence, &mut add)? {
                Progress::More => {}
                Progress::Interrupted => interrupted = true,
                Progress::Finished => return Ok((!interrupted).then_some(objects)),
                Progress::FinishedInterrupted => return Ok(None),
            }
        }
    }

    /// Sends a request; returns its sequence number.
    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<u32, Cause> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        if self.socket.send(&bytes, 0)? != bytes.len() {
            return Err(Cause::Answer("request sent in part"));
        }
        Ok(self.sequence)
    }

    /// Reads one datagram and goes through its messages.
    fn receive(&mut self, sequence: u32, take: &mut Take<'_>) -> Result<Progress, Cause> {
        self.buffer.clear();
        self.buffer.reserve(MAX_DATAGRAM);
        let (length, sender) = loop {
            match self.socket.recv_from(&mut self.buffer, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if sender.port_number() != 0 {
            return Err(Cause::Answer("not from the kernel"));
        }
        if length > self.buffer.len() {
            return Err(Cause::Answer("truncated"));
        }
        read_datagram(&self.buffer, sequence, take)
    }
}

/// How far the answer to a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// There is more to read.
    More,
    /// There is more to read, and things changed meanwhile: the list has to be read again.
    Interrupted,
    /// That was all.
    Finished,
    /// That was all, and the list has to be read again.
    FinishedInterrupted,
}

/// Goes through the messages of one datagram.
fn read_datagram(mut bytes: &[u8], sequence: u32, take: &mut Take<'_>) -> Result<Progress, Cause> {
    let mut interrupted = false;
    while !bytes.is_empty() {
        let message = NetlinkBuffer::new_checked(bytes).map_err(|_| Cause::Answer("malformed"))?;
        if message.sequence_number() != sequence {
            return Err(Cause::Answer("out of order"));
        }
        interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
        match message.message_type() {
            NLMSG_NOOP => {}
            NLMSG_OVERRUN => return Err(Cause::Answer("overrun")),
            NLMSG_ERROR | NLMSG_DONE => {
                let kind = message.message_type();
                outcome(kind, message.flags(), message.payload())?;
                let done =
                    if interrupted { Progress::FinishedInterrupted } else { Progress::Finished };
                return Ok(done);
            }
            kind => take(kind, message.payload())?,
        }
        let length = (message.length() as usize).next_multiple_of(4).min(bytes.len());
        bytes = &bytes[length..];
    }
    Ok(if interrupted { Progress::Interrupted } else { Progress::More })
}

/// What an acknowledgement, or the end of a dump, says: 0 or a negated errno.
fn outcome(kind: u16, flags: u16, payload: &[u8]) -> Result<(), Cause> {
    let code = payload.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes));
    match code {
        // An empty end of a dump is a good one.
        Some(0) => Ok(()),
        None if kind == NLMSG_DONE => Ok(()),
        Some(code @ -4095..=-1) => {
            let words = if kind == NLMSG_ERROR { error_words(flags, payload) } else { None };
            Err(Cause::Kernel { errno: Errno::from_raw_os_error(-code), words })
        }
        _ => Err(Cause::Answer("malformed acknowledgement")),
    }
}

/// The text that the kernel adds to an error: after the errno and the request's header (and the
/// request itself, unless it was cut off).
fn error_words(flags: u16, payload: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = payload.get(4..)?;
    let length = match flags & NLM_F_CAPPED {
        0 => u32::from_ne_bytes(*request.first_chunk()?) as usize,
        _ => 16,
    };
    let attributes = request.get(length.next_multiple_of(4)..)?;
    let words = NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    Some(string(&words))
}

/// A C string attribute.
pub(super) fn string(attribute: &NlaBuffer<&[u8]>) -> String {
    let bytes = attribute.value();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A 32-bit attribute in the machine's byte order.
pub(super) fn number(attribute: &NlaBuffer<&[u8]>) -> Result<u32, Cause> {
    match attribute.value().try_into() {
        Ok(bytes) => Ok(u32::from_ne_bytes(bytes)),
        Err(_) => Err(Cause::Answer("attribute of the wrong length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as the kernel would put it.
    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn read(bytes: &[u8], sequence: u32) -> Result<(Progress, Vec<u16>), Cause> {
        let mut kinds = Vec::new();
        let progress = read_datagram(bytes, sequence, &mut |kind, _| {
            kinds.push(kind);
            Ok(())
        })?;
        Ok((progress, kinds))
    }

    #[test]
    fn a_zero_error_is_an_acknowledgement() {
        let ack = message(NLMSG_ERROR, 0, 7, &[0; 20]);
        assert_eq!(read(&ack, 7).unwrap(), (Progress::Finished, vec![]));
    }

    #[test]
    fn an_answer_to_another_request_is_refused() {
        let ack = message(NLMSG_ERROR, 0, 7, &[0; 20]);
        assert!(matches!(read(&ack, 8), Err(Cause::Answer("out of order"))));
    }

    #[test]
    fn a_dump_goes_on_over_several_messages_until_done() {
        let mut bytes = message(16, 2, 1, b"odd");
        bytes.extend(message(16, 2, 1, b"even"));
        assert_eq!(read(&bytes, 1).unwrap(), (Progress::More, vec![16, 16]));
        bytes.extend(message(NLMSG_DONE, 2, 1, &[0; 4]));
        assert_eq!(read(&bytes, 1).unwrap(), (Progress::Finished, vec![16, 16]));
    }

    #[test]
    fn a_dump_that_was_interrupted_says_so() {
        let bytes = message(16, NLM_F_DUMP_INTR, 1, b"even");
        assert_eq!(read(&bytes, 1).unwrap().0, Progress::Interrupted);
        let end = message(NLMSG_DONE, NLM_F_DUMP_INTR, 1, &[0; 4]);
        assert_eq!(read(&end, 1).unwrap().0, Progress::FinishedInterrupted);
    }

    #[test]
    fn errors_carry_errno_and_words() {
        let mut body = (-17_i32).to_ne_bytes().to_vec();
        body.extend([0; 16]);
        body.extend([8, 0, 1, 0, b'N', b'o', b'!', 0]);
        let bytes = message(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, 1, &body);
        let Err(Cause::Kernel { errno, words }) = read(&bytes, 1) else { panic!("no error") };
        assert_eq!((errno, words.as_deref()), (Errno::EXIST, Some("No!")));
    }

    #[test]
    fn short_and_lying_messages_are_refused() {
        let good = message(NLMSG_ERROR, 0, 1, &[0; 20]);
        for cut in 1..16 {
            assert!(read(&good[..cut], 1).is_err(), "{cut}");
        }
        assert!(read(&good[..20], 1).is_err());
        assert!(read(&message(NLMSG_ERROR, 0, 1, &[]), 1).is_err());
        assert!(read(&message(NLMSG_ERROR, 0, 1, &5_i32.to_ne_bytes()), 1).is_err());
        assert!(read(&message(NLMSG_ERROR, 0, 1, &i32::MIN.to_ne_bytes()), 1).is_err());
        let mut zero = good;
        zero[..4].fill(0);
        assert!(read(&zero, 1).is_err());
    }
}
