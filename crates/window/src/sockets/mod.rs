//! The socket window, the *tee*: copies of what a server's programs send to a Unix socket, for any
//! number of readers in portspaces.
//!
//! ```text
//!  writer ──► socket at the server's path ──► tee ──► ring ──► the reader's socket (its syslogd)
//!                      (kept by the keeper)       ├─► ring ──► another reader
//! ```
//!
//! There is one tee for each server, so that a flood of one takes nothing from another's. It is two
//! processes. The [`keeper`] holds every descriptor, accepts and makes connections, and reads not one
//! byte of a message; the [`tee`] reads them, and has a user of its own, no capability, an empty
//! directory for a root and a short list of system calls. When the tee dies, the keeper starts
//! another with the same descriptors and the same memory; when the keeper dies, the agent starts
//! another one, to which the tee hands over.
//!
//! # What is certain
//! - A message that the kernel took from a writer is in memory that outlives the tee before the tee
//!   knows of it (`batch`), and stays there until the reader has taken it (`link`), not merely until
//!   it was sent. A reader that dies and comes back gets the rest. Where the kernel cannot tell, the
//!   last few messages (the length of a socket's queue) come twice rather than not at all.
//! - What was sent into a socket stays there, whoever of us dies. So a tee goes on where the one before
//!   had come to (`ring`), and a keeper that takes over knows which sockets the links lead to.
//! - A writer waits for nobody but the tee, which waits for nobody: where a reader is slow, its own
//!   ring fills; what does not fit is counted and told in a line, in its place.
//! - No descriptor that a writer passes is ever received; the kernel drops it, and it is counted.
//!
//! # A server's own receiver
//! Where one listens at the path, it keeps its socket and all of its messages. A datagram socket is
//! *observed*: a BPF program on it ([`observe`]) copies each message on its way in. A socket that
//! takes connections cannot be: ours is exchanged for it, and each connection goes on to the
//! receiver's (`relay`), which has everything first.

mod batch;
pub mod keeper;
mod link;
mod memory;
mod message;
pub mod observe;
pub mod place;
mod reader;
mod relay;
mod ring;
pub mod tee;

pub use batch::Sender;
pub use message::{
    Process, Reader, ReaderStatus, Reply, Request, Seat, Source, SourceStatus, Started, Status,
    Upstream,
};
pub use ring::{LARGEST, SMALLEST};

use serde::{Deserialize, Serialize};

/// The largest message that is passed on whole, in bytes; of a larger one the rest is cut off, and
/// that is counted.
pub const LARGEST_MESSAGE: usize = 448 << 10;

/// A kind of Unix socket (unix(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketKind {
    /// `SOCK_DGRAM`
    #[default]
    Dgram,
    /// `SOCK_STREAM`
    Stream,
    /// `SOCK_SEQPACKET`
    Seqpacket,
}

impl SocketKind {
    /// The kind's number in the kernel's words.
    pub fn number(self) -> rustix::net::SocketType {
        match self {
            Self::Dgram => rustix::net::SocketType::DGRAM,
            Self::Stream => rustix::net::SocketType::STREAM,
            Self::Seqpacket => rustix::net::SocketType::SEQPACKET,
        }
    }
}
